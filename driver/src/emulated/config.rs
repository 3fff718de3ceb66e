//! What an emulated drive is to be like, and how a person writes that down.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use thiserror::Error;

use super::capabilities::Capabilities;
use super::faults::{FaultError, FaultRule};
use super::options::{NamespaceIds, ZoneConfig};

/// Largest MDTS that an emulated drive may have: 2^12 pages of 4 KiB, 16 MiB.
pub const MDTS_MAX: u8 = 12;
/// Most namespaces that an emulated drive may have.
pub const NAMESPACES_MAX: u32 = 1024;
/// Most I/O queues that an emulated drive may have.
pub const QUEUES_MAX: u16 = 1024;
/// Most entries that a queue of an emulated drive may have.
pub const DEPTH_MAX: u32 = 65_536;

/// What keeps the data of an emulated drive.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Backing {
    /// Memory of this process, taken as it is written. The data is gone when the drive is.
    #[default]
    Memory,
    /// A file, created sparse when there is none; all namespaces lie in it one behind the other.
    File(PathBuf),
    /// Nothing: reads and writes succeed and move no data. For measurements.
    Null,
}

/// The properties of an emulated drive.
///
/// As text: options separated by commas, `NAME=VALUE`, or `null` alone. Options that are not given keep their default;
/// [`Display`](fmt::Display) prints those which differ from it.
///
/// | option | meaning | default |
/// |---|---|---|
/// | `size` | bytes of each namespace, with KiB, MiB, GiB or TiB (or K, M, G, T) | `1GiB` |
/// | `block` | bytes of a logical block, 512 or 4096 | `4096` |
/// | `namespaces` | how many | `1` |
/// | `file` | path of the file that keeps the data | memory |
/// | `null` | keep no data, move no data | |
/// | `mdts` | largest transfer: 2^n pages of 4 KiB | `8` (1 MiB) |
/// | `queues` | I/O queue pairs | `64` |
/// | `depth` | entries of a queue, at most | `1024` |
/// | `stride` | CAP.DSTRD, distance of doorbells: 2^(2+n) bytes | `0` |
/// | `latency` | time that each I/O command takes, with ns, us, ms or s | none |
/// | `sgl` | I/O commands may name their memory by SGLs | |
/// | `shadow-doorbells` | Doorbell Buffer Config is supported | |
/// | `vendor` | there are commands of a vendor: C1h stores data in the drive, C2h gives it back, C6h gives more than it was asked for (`driver/src/emulated/vendor.rs`) | |
/// | `page` | CAP.MPSMIN, the smallest memory page size in bytes; with more than 4096 a driver has to refuse the drive | `4096` |
/// | `ready-timeout` | CAP.TO, how long CSTS.RDY may take to follow CC.EN, in steps of 500 ms | `10s` |
/// | `crto` | CRTO.CRWMT, the same for drives that state it there | none |
/// | `fault` | what the drive does wrong, and when: see [`FaultRule`]. May be given several times | none |
/// | `serial` | serial number | derived from the path of the file, or random |
/// | `model` | model number | `Gangway Emulated NVMe Drive` |
/// | `ms` | bytes of metadata of a block: 0, 8, 16 or 64 | `0` |
/// | `pi` | end-to-end protection: type 1, 2 or 3 | `0`, none |
/// | `pi-first` | protection information is in the first 8 bytes of the metadata | in the last |
/// | `extended` | metadata is part of each block on its way | in a buffer of its own |
/// | `capacity` | bytes of the drive; what namespaces leave is free for Namespace Management | their sum |
/// | `max-namespaces` | largest namespace identifier | `namespaces` |
/// | `ids` | identifiers that namespaces have: `all`, `uuid` alone, or `none` | `all` |
/// | `operation` | time that Format NVM, Sanitize and self-tests take | none |
/// | `zoned` | the namespaces are zoned | |
/// | `zone-size` | bytes from one zone to the next | `16MiB` |
/// | `zone-capacity` | bytes of a zone that can be written | `zone-size` |
/// | `max-open`, `max-active` | most zones that may be open, and active, at once | no limit |
/// | `zone-extension` | bytes of a zone descriptor extension, a multiple of 64 | `0` |
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EmulatedConfig {
    /// Bytes of each namespace; a multiple of the block size.
    pub size: u64,
    /// Bytes of a logical block: 512 or 4096.
    pub block: u32,
    /// How many namespaces there are; their identifiers count from 1.
    pub namespaces: u32,
    /// What keeps the data.
    pub backing: Backing,
    /// Maximum Data Transfer Size: 2^mdts pages of 4 KiB.
    pub mdts: u8,
    /// How many I/O queue pairs the controller has.
    pub queues: u16,
    /// Entries of a queue, at most (CAP.MQES + 1).
    pub depth: u32,
    /// CAP.DSTRD: doorbells are 2^(2 + stride) bytes apart.
    pub stride: u8,
    /// How long each I/O command takes. `None`: it is done when the doorbell is seen.
    pub latency: Option<Duration>,
    /// What the controller can do, beyond what every one can.
    pub capabilities: Capabilities,
    /// What the drive does wrong.
    pub faults: Vec<FaultRule>,
    /// Serial number, at most 20 printable ASCII characters. The identifiers of subsystem and namespaces are derived
    /// from it. `None`: from the path of the file, or random when there is no file, as then each drive is a new one.
    pub serial: Option<String>,
    /// Model number, at most 40 printable ASCII characters.
    pub model: String,
    /// Bytes of metadata of a block: 0, 8, 16 or 64.
    pub metadata: u16,
    /// Type of end-to-end protection, 1 to 3; 0 is none.
    pub protection: u8,
    /// Protection information is in the first 8 bytes of the metadata, not in the last.
    pub protection_first: bool,
    /// Metadata is part of each block on its way, not in a buffer of its own.
    pub extended: bool,
    /// Bytes of the drive. `None`: those of its namespaces.
    pub capacity: Option<u64>,
    /// Largest namespace identifier. `None`: that of the last namespace at the start.
    pub max_namespaces: Option<u32>,
    /// Which globally unique identifiers namespaces have.
    pub ids: NamespaceIds,
    /// How long Format NVM, Sanitize and self-tests take. `None`: they are done at once.
    pub operation: Option<Duration>,
    /// The namespaces are zoned, and their zones like this.
    pub zones: Option<ZoneConfig>,
}

impl Default for EmulatedConfig {
    fn default() -> Self {
        Self {
            size: 1 << 30,
            block: 4096,
            namespaces: 1,
            backing: Backing::Memory,
            mdts: 8,
            queues: 64,
            depth: 1024,
            stride: 0,
            latency: None,
            capabilities: Capabilities::default(),
            faults: Vec::new(),
            serial: None,
            model: "Gangway Emulated NVMe Drive".to_owned(),
            metadata: 0,
            protection: 0,
            protection_first: false,
            extended: false,
            capacity: None,
            max_namespaces: None,
            ids: NamespaceIds::All,
            operation: None,
            zones: None,
        }
    }
}

/// What is wrong with the properties of an emulated drive.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum ConfigError {
    /// No such option.
    #[error(
        "there is no option \"{option}\"; there are size, block, namespaces, file, null, mdts, queues, depth, stride, \
         latency, sgl, shadow-doorbells, vendor, page, ready-timeout, crto, fault, serial, model, ms, pi, pi-first, extended, \
         capacity, max-namespaces, ids, operation, zoned, zone-size, zone-capacity, max-open, max-active and \
         zone-extension"
    )]
    UnknownOption {
        /// What was given.
        option: String,
    },
    /// The option needs a value and has none, or the other way round.
    #[error("option \"{option}\" is written {form}")]
    Form {
        /// Name of the option.
        option: &'static str,
        /// How it is written.
        form: &'static str,
    },
    /// The value does not fit the option.
    #[error("{option}={value}: it must be {expected}")]
    Value {
        /// Name of the option.
        option: &'static str,
        /// What was given.
        value: String,
        /// What would be right.
        expected: String,
    },
    /// A fault makes no sense.
    #[error("fault={text}: {error}")]
    Fault {
        /// What was given.
        text: String,
        /// What is wrong with it.
        error: FaultError,
    },
    /// Two options contradict each other.
    #[error("\"file\" and \"null\" exclude each other: a drive has one backing")]
    TwoBackings,
    /// An option was given twice.
    #[error("option \"{option}\" is given twice")]
    Twice {
        /// Name of the option.
        option: String,
    },
}

pub(super) fn wrong(
    option: &'static str,
    value: impl fmt::Display,
    expected: impl Into<String>,
) -> ConfigError {
    ConfigError::Value { option, value: value.to_string(), expected: expected.into() }
}

impl EmulatedConfig {
    /// Checks that such a drive can exist.
    ///
    /// # Errors
    /// The first property that is out of its range.
    pub fn validate(&self) -> Result<(), ConfigError> {
        if !matches!(self.block, 512 | 4096) {
            return Err(wrong("block", self.block, "512 or 4096"));
        }
        if !(1..=NAMESPACES_MAX).contains(&self.namespaces) {
            return Err(wrong("namespaces", self.namespaces, format!("1 to {NAMESPACES_MAX}")));
        }
        if self.size == 0 || !self.size.is_multiple_of(u64::from(self.block)) {
            let expected = format!("a multiple of the block size of {} bytes, and not 0", self.block);
            return Err(wrong("size", self.size, expected));
        }
        // The data lies in one file or mapping, whose offsets are signed 64-bit numbers.
        let total = self.size.checked_mul(u64::from(self.namespaces));
        if total.is_none_or(|total| total > i64::MAX as u64) {
            return Err(wrong("size", self.size, "less than 8 EiB over all namespaces"));
        }
        if !(1..=MDTS_MAX).contains(&self.mdts) {
            return Err(wrong("mdts", self.mdts, format!("1 to {MDTS_MAX} (2^n pages of 4 KiB)")));
        }
        if !(1..=QUEUES_MAX).contains(&self.queues) {
            return Err(wrong("queues", self.queues, format!("1 to {QUEUES_MAX}")));
        }
        if !(2..=DEPTH_MAX).contains(&self.depth) {
            return Err(wrong("depth", self.depth, format!("2 to {DEPTH_MAX}")));
        }
        if self.stride > 10 {
            return Err(wrong("stride", self.stride, "0 to 10"));
        }
        if self.latency.is_some_and(|latency| latency > Duration::from_secs(3600)) {
            let latency = DisplayDuration(self.latency.unwrap_or_default());
            return Err(wrong("latency", latency, "at most 3600s"));
        }
        self.validate_capabilities()?;
        for (option, value, most) in [("serial", self.serial.as_ref(), 20), ("model", Some(&self.model), 40)]
        {
            let Some(value) = value else { continue };
            let printable = value.bytes().all(|byte| (0x20..0x7f).contains(&byte) && byte != b',');
            if value.is_empty() || value.len() > most || !printable {
                let expected = format!("1 to {most} printable ASCII characters without a comma");
                return Err(wrong(option, value, expected));
            }
        }
        self.validate_namespaces()
    }

    /// Whether what is written can be read again.
    pub(super) fn keeps_data(&self) -> bool {
        self.backing != Backing::Null
    }
}

impl FromStr for EmulatedConfig {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        let mut config = Self::default();
        let mut seen: Vec<&str> = Vec::new();
        for option in text.split(',').filter(|option| !option.is_empty()) {
            let (name, value) =
                option.split_once('=').map_or((option, None), |(name, value)| (name, Some(value)));
            if name != "fault" && seen.contains(&name) {
                return Err(ConfigError::Twice { option: name.to_owned() });
            }
            seen.push(name);
            config.apply(name, value)?;
        }
        if seen.contains(&"file") && seen.contains(&"null") {
            return Err(ConfigError::TwoBackings);
        }
        config.validate()?;
        Ok(config)
    }
}

impl EmulatedConfig {
    fn apply(&mut self, name: &str, value: Option<&str>) -> Result<(), ConfigError> {
        let needed =
            |option, form| value.filter(|value| !value.is_empty()).ok_or(ConfigError::Form { option, form });
        match name {
            "size" => self.size = parse_size("size", needed("size", "size=1GiB")?)?,
            "block" => self.block = parse_number("block", needed("block", "block=4096")?)?,
            "namespaces" => {
                self.namespaces = parse_number("namespaces", needed("namespaces", "namespaces=2")?)?
            }
            "mdts" => self.mdts = parse_number("mdts", needed("mdts", "mdts=8")?)?,
            "queues" => self.queues = parse_number("queues", needed("queues", "queues=64")?)?,
            "depth" => self.depth = parse_number("depth", needed("depth", "depth=1024")?)?,
            "stride" => self.stride = parse_number("stride", needed("stride", "stride=0")?)?,
            "latency" => self.latency = parse_duration("latency", needed("latency", "latency=5ms")?)?,
            "fault" => {
                let text = needed("fault", "fault=ACTION:CONDITION:..., such as fault=drop:read:nth=3")?;
                let wrong = |error| ConfigError::Fault { text: text.to_owned(), error };
                self.faults.push(text.parse().map_err(wrong)?);
            }
            "serial" => self.serial = Some(needed("serial", "serial=TEXT")?.to_owned()),
            "model" => self.model = needed("model", "model=TEXT")?.to_owned(),
            "file" => self.backing = Backing::File(needed("file", "file=PATH")?.into()),
            "null" if value.is_none() => self.backing = Backing::Null,
            "null" => return Err(ConfigError::Form { option: "null", form: "null, without a value" }),
            _ if self.capabilities.apply(name, value)? => {}
            _ if self.apply_namespaces(name, value)? => {}
            _ => return Err(ConfigError::UnknownOption { option: name.to_owned() }),
        }
        Ok(())
    }
}

impl fmt::Display for EmulatedConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let usual = Self::default();
        let mut options: Vec<String> = Vec::new();
        match &self.backing {
            Backing::Null => options.push("null".to_owned()),
            Backing::File(path) => options.push(format!("file={}", path.display())),
            Backing::Memory => {}
        }
        let mut option = |differs: bool, name: &str, value: &dyn fmt::Display| {
            if differs {
                options.push(format!("{name}={value}"));
            }
        };
        option(self.size != usual.size, "size", &DisplaySize(self.size));
        option(self.block != usual.block, "block", &self.block);
        option(self.namespaces != usual.namespaces, "namespaces", &self.namespaces);
        option(self.mdts != usual.mdts, "mdts", &self.mdts);
        option(self.queues != usual.queues, "queues", &self.queues);
        option(self.depth != usual.depth, "depth", &self.depth);
        option(self.stride != usual.stride, "stride", &self.stride);
        if let Some(latency) = self.latency {
            option(true, "latency", &DisplayDuration(latency));
        }
        self.capabilities.show(&mut options);
        options.extend(self.faults.iter().map(|fault| format!("fault={fault}")));
        let mut option = |differs: bool, name: &str, value: &dyn fmt::Display| {
            if differs {
                options.push(format!("{name}={value}"));
            }
        };
        if let Some(serial) = &self.serial {
            option(true, "serial", serial);
        }
        option(self.model != usual.model, "model", &self.model);
        self.show_namespaces(&mut options);
        f.write_str(&options.join(","))
    }
}

pub(super) fn parse_number<N: FromStr>(option: &'static str, value: &str) -> Result<N, ConfigError> {
    value.parse().map_err(|_| wrong(option, value, "a number that is not too large"))
}

/// Binary units, largest first.
const SIZES: [(&str, u64); 4] = [("T", 1 << 40), ("G", 1 << 30), ("M", 1 << 20), ("K", 1 << 10)];

pub(super) fn parse_size(option: &'static str, value: &str) -> Result<u64, ConfigError> {
    let digits = value.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = value.split_at(digits);
    let unit = unit.strip_suffix("iB").unwrap_or(unit).to_ascii_uppercase();
    let factor = match unit.as_str() {
        "" if !value.ends_with("iB") => Some(1),
        unit => SIZES.iter().find(|(name, _)| *name == unit).map(|(_, factor)| *factor),
    };
    factor
        .and_then(|factor| number.parse::<u64>().ok()?.checked_mul(factor))
        .ok_or_else(|| wrong(option, value, "a number of bytes, such as 1GiB, 512MiB, 64k or 1048576"))
}

pub(super) struct DisplaySize(pub(super) u64);

impl fmt::Display for DisplaySize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match SIZES.iter().find(|(_, factor)| self.0 > 0 && self.0.is_multiple_of(*factor)) {
            Some((unit, factor)) => write!(f, "{}{unit}iB", self.0 / factor),
            None => write!(f, "{}", self.0),
        }
    }
}

const DURATIONS: [(&str, u128); 4] = [("s", 1_000_000_000), ("ms", 1_000_000), ("us", 1_000), ("ns", 1)];

pub(super) fn parse_duration(option: &'static str, value: &str) -> Result<Option<Duration>, ConfigError> {
    let nanos = parse_nanoseconds(value)
        .ok_or_else(|| wrong(option, value, "a time with its unit, such as 5ms, 100us or 1s"))?;
    Ok((nanos > 0).then(|| Duration::from_nanos(nanos)))
}

/// A time with its unit, in nanoseconds.
pub(super) fn parse_nanoseconds(value: &str) -> Option<u64> {
    let digits = value.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = value.split_at(digits);
    let (_, factor) = DURATIONS.iter().find(|(name, _)| *name == unit)?;
    let nanos = u128::from(number.parse::<u64>().ok()?).checked_mul(*factor)?;
    u64::try_from(nanos).ok()
}

/// Prints a time as [`parse_nanoseconds`] reads it.
pub(super) struct DisplayDuration(pub(super) Duration);

impl fmt::Display for DisplayDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanos = self.0.as_nanos();
        let (unit, factor) =
            DURATIONS.iter().find(|(_, factor)| nanos.is_multiple_of(*factor)).unwrap_or(&("ns", 1));
        write!(f, "{}{unit}", nanos / factor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> String {
        text.parse::<EmulatedConfig>().unwrap_err().to_string()
    }

    #[test]
    fn no_options_give_a_memory_drive_of_one_gibibyte() {
        let config: EmulatedConfig = "".parse().unwrap();
        assert_eq!(config, EmulatedConfig::default());
        assert_eq!((config.size, config.block, config.backing.clone()), (1 << 30, 4096, Backing::Memory));
        assert_eq!(config.to_string(), "");
    }

    #[test]
    fn every_option_is_understood_and_printed_again() {
        let text = "file=/tmp/a b.img,size=3MiB,block=512,namespaces=2,mdts=5,queues=4,depth=64,stride=2,\
                    latency=1500us,sgl,shadow-doorbells,page=8192,\
                    ready-timeout=1s,crto=2s,fault=drop:read:nth=3,fault=not-ready:once,serial=S1,model=A Drive";
        let config: EmulatedConfig = text.parse().unwrap();
        assert_eq!(config.backing, Backing::File("/tmp/a b.img".into()));
        assert_eq!(config.latency, Some(Duration::from_micros(1500)));
        assert_eq!((config.size, config.block, config.namespaces), (3 << 20, 512, 2));
        assert_eq!(config.to_string(), text);
        assert_eq!(config.to_string().parse(), Ok(config));
    }

    #[test]
    fn sizes_take_binary_units() {
        for (text, size) in [
            ("8192", 8192),
            ("64k", 65536),
            ("64K", 65536),
            ("64KiB", 65536),
            ("2M", 2 << 20),
            ("1GiB", 1 << 30),
            ("1g", 1 << 30),
            ("2TiB", 2 << 40),
        ] {
            let config: EmulatedConfig = format!("size={text}").parse().unwrap();
            assert_eq!(config.size, size, "{text}");
        }
        for text in ["iB", "GiB", "1GB", "-1", "1.5G", "99999999999T", "1XiB", "1 G"] {
            assert!(error(&format!("size={text}")).contains("number of bytes"), "{text}");
        }
    }

    #[test]
    fn impossible_drives_are_refused_with_what_would_do() {
        for (text, part) in [
            ("block=520", "512 or 4096"),
            ("size=4097", "multiple of the block size"),
            ("size=0", "not 0"),
            ("size=8388607T,namespaces=2", "8 EiB"),
            ("namespaces=0", "1 to 1024"),
            ("mdts=0", "1 to 12"),
            ("mdts=13", "1 to 12"),
            ("mdts=300", "a number"),
            ("queues=0", "1 to 1024"),
            ("depth=1", "2 to 65536"),
            ("stride=11", "0 to 10"),
            ("latency=5", "5ms"),
            ("latency=2h", "5ms"),
            ("latency=7200s", "3600s"),
            ("serial=123456789012345678901", "20 printable"),
            ("serial=", "serial=TEXT"),
            ("file", "file=PATH"),
            ("null=1", "without a value"),
            ("null,file=a", "exclude"),
            ("size=1G,size=2G", "twice"),
            ("sgl=1", "without a value"),
            ("page=4097", "a power of two"),
            ("page=268435456", "134217728"),
            ("ready-timeout=600ms", "multiple of 500ms"),
            ("ready-timeout=128s", "127500ms at most"),
            ("crto=1", "500ms or 2s"),
            ("shadow-doorbells,queues=512", "fit 4096"),
            ("fault=drop:reed", "\"reed\" is neither"),
            ("fault", "fault=drop:read:nth=3"),
            ("sise=1G", "size, block, namespaces"),
        ] {
            assert!(error(text).contains(part), "{text}: {}", error(text));
        }
    }

    #[test]
    fn a_latency_of_nothing_is_no_latency() {
        assert_eq!("latency=0ms".parse::<EmulatedConfig>().unwrap().latency, None);
    }
}
