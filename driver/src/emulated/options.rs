//! The options that say what the namespaces of an emulated drive are like.

use std::fmt;
use std::time::Duration;

use super::config::{ConfigError, DisplayDuration, DisplaySize, EmulatedConfig, NAMESPACES_MAX, wrong};
use super::config::{parse_duration, parse_number, parse_size};
use super::namespace::format::Format;
use super::namespace::zones::Shape;

/// How the zones of an emulated drive with zoned namespaces are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ZoneConfig {
    /// Bytes from one zone to the next.
    pub size: u64,
    /// Bytes of a zone that can be written. `None`: all.
    pub capacity: Option<u64>,
    /// Most zones that may be open at once; 0 is no limit.
    pub max_open: u32,
    /// Most zones that may be active at once; 0 is no limit.
    pub max_active: u32,
    /// Bytes of a zone descriptor extension: a multiple of 64.
    pub extension: u32,
}

impl Default for ZoneConfig {
    fn default() -> Self {
        Self { size: 16 << 20, capacity: None, max_open: 0, max_active: 0, extension: 0 }
    }
}

impl ZoneConfig {
    pub(super) fn shape(&self) -> Shape {
        Shape {
            size: self.size,
            capacity: self.capacity.unwrap_or(self.size),
            max_open: self.max_open,
            max_active: self.max_active,
            extension: self.extension as usize,
        }
    }
}

/// Which globally unique identifiers the namespaces of an emulated drive have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NamespaceIds {
    /// NGUID, EUI-64 and UUID.
    #[default]
    All,
    /// A UUID alone.
    Uuid,
    /// None, as drives have that are older than 1.1.
    None,
}

impl NamespaceIds {
    const NAMES: [(&str, Self); 3] = [("all", Self::All), ("uuid", Self::Uuid), ("none", Self::None)];
}

impl fmt::Display for NamespaceIds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let found = Self::NAMES.iter().find(|(_, ids)| ids == self);
        f.write_str(found.map_or("", |(name, _)| *name))
    }
}

impl EmulatedConfig {
    /// The format of the namespaces that a new drive has.
    pub(super) fn format(&self) -> Format {
        let dps = self.protection | u8::from(self.protection_first) << 3;
        let index = Format::index_of(self.block, self.metadata).unwrap_or_default();
        Format::new(index, self.extended, dps, self.keeps_data()).unwrap_or_else(|_| {
            debug_assert!(false, "the configuration was checked");
            Format { index: 0, shift: 9, metadata: 0, extended: false, protection: None }
        })
    }

    /// Bytes of the drive, whether a namespace has them or not.
    pub(super) fn capacity(&self) -> u64 {
        self.capacity.unwrap_or(0).max(self.size * u64::from(self.namespaces))
    }

    /// The largest identifier that a namespace can have.
    pub(super) fn max_namespaces(&self) -> u32 {
        self.max_namespaces.unwrap_or(0).max(self.namespaces)
    }

    pub(super) fn validate_namespaces(&self) -> Result<(), ConfigError> {
        if Format::index_of(self.block, self.metadata).is_none() {
            return Err(wrong("ms", self.metadata, "0, 8, 16 or 64"));
        }
        if self.protection > 3 || self.protection > 0 && self.metadata == 0 {
            return Err(wrong("pi", self.protection, "1 to 3, with metadata (ms=8, 16 or 64), or 0"));
        }
        if self.metadata > 0 && !self.keeps_data() {
            return Err(wrong("ms", self.metadata, "0 on a drive that keeps no data"));
        }
        if let Some(capacity) = self.capacity {
            let least = self.size.saturating_mul(self.namespaces.into());
            if capacity < least || capacity > i64::MAX as u64 {
                let expected = format!("at least the {least} bytes of the namespaces, and below 8 EiB");
                return Err(wrong("capacity", capacity, expected));
            }
        }
        if let Some(most) = self.max_namespaces
            && !(self.namespaces..=NAMESPACES_MAX).contains(&most)
        {
            let expected = format!("{} (the namespaces that there are) to {NAMESPACES_MAX}", self.namespaces);
            return Err(wrong("max-namespaces", most, expected));
        }
        if self.operation.is_some_and(|time| time > Duration::from_secs(3600)) {
            let time = DisplayDuration(self.operation.unwrap_or_default());
            return Err(wrong("operation", time, "at most 3600s"));
        }
        self.zones.map_or(Ok(()), |zones| self.validate_zones(zones))
    }

    fn validate_zones(&self, zones: ZoneConfig) -> Result<(), ConfigError> {
        let block = u64::from(self.block);
        if zones.size == 0 || !zones.size.is_multiple_of(block) || zones.size > self.size {
            let expected =
                format!("a multiple of the block size, and at most the namespace's size of {}", self.size);
            return Err(wrong("zone-size", zones.size, expected));
        }
        if let Some(capacity) = zones.capacity
            && (capacity == 0 || !capacity.is_multiple_of(block) || capacity > zones.size)
        {
            return Err(wrong(
                "zone-capacity",
                capacity,
                "a multiple of the block size, and at most the zone size",
            ));
        }
        if !zones.extension.is_multiple_of(64) || zones.extension > 255 * 64 {
            return Err(wrong("zone-extension", zones.extension, "a multiple of 64 up to 16320, or 0"));
        }
        if zones.max_active > 0 && (zones.max_open == 0 || zones.max_open > zones.max_active) {
            return Err(wrong("max-open", zones.max_open, "1 to max-active, as open zones are active ones"));
        }
        if !self.keeps_data() {
            return Err(ConfigError::Form {
                option: "zoned",
                form: "without null: zones keep what they are written",
            });
        }
        Ok(())
    }

    /// Takes an option that is about namespaces. `false` when it is none.
    pub(super) fn apply_namespaces(&mut self, name: &str, value: Option<&str>) -> Result<bool, ConfigError> {
        let needed =
            |option, form| value.filter(|value| !value.is_empty()).ok_or(ConfigError::Form { option, form });
        let bare =
            |option, form| if value.is_none() { Ok(true) } else { Err(ConfigError::Form { option, form }) };
        let zones = self.zones.unwrap_or_default();
        match name {
            "ms" => self.metadata = parse_number("ms", needed("ms", "ms=8")?)?,
            "pi" => self.protection = parse_number("pi", needed("pi", "pi=1")?)?,
            "pi-first" => self.protection_first = bare("pi-first", "pi-first, without a value")?,
            "extended" => self.extended = bare("extended", "extended, without a value")?,
            "capacity" => self.capacity = Some(parse_size("capacity", needed("capacity", "capacity=4GiB")?)?),
            "max-namespaces" => {
                let most = parse_number("max-namespaces", needed("max-namespaces", "max-namespaces=16")?)?;
                self.max_namespaces = Some(most);
            }
            "ids" => {
                let value = needed("ids", "ids=uuid")?;
                let found = NamespaceIds::NAMES.iter().find(|(name, _)| *name == value);
                self.ids =
                    found.map(|(_, ids)| *ids).ok_or_else(|| wrong("ids", value, "all, uuid or none"))?;
            }
            "operation" => {
                self.operation = parse_duration("operation", needed("operation", "operation=2s")?)?
            }
            "zoned" => {
                bare("zoned", "zoned, without a value")?;
                self.zones = Some(zones);
            }
            "zone-size" => {
                let size = parse_size("zone-size", needed("zone-size", "zone-size=16MiB")?)?;
                self.zones = Some(ZoneConfig { size, ..zones });
            }
            "zone-capacity" => {
                let capacity =
                    Some(parse_size("zone-capacity", needed("zone-capacity", "zone-capacity=12MiB")?)?);
                self.zones = Some(ZoneConfig { capacity, ..zones });
            }
            "max-open" => {
                let max_open = parse_number("max-open", needed("max-open", "max-open=8")?)?;
                self.zones = Some(ZoneConfig { max_open, ..zones });
            }
            "max-active" => {
                let max_active = parse_number("max-active", needed("max-active", "max-active=16")?)?;
                self.zones = Some(ZoneConfig { max_active, ..zones });
            }
            "zone-extension" => {
                let extension =
                    parse_number("zone-extension", needed("zone-extension", "zone-extension=64")?)?;
                self.zones = Some(ZoneConfig { extension, ..zones });
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// The options about namespaces that differ from the usual.
    pub(super) fn show_namespaces(&self, options: &mut Vec<String>) {
        let mut option = |differs: bool, name: &str, value: &dyn fmt::Display| {
            if differs {
                options.push(format!("{name}={value}"));
            }
        };
        option(self.metadata > 0, "ms", &self.metadata);
        option(self.protection > 0, "pi", &self.protection);
        if let Some(capacity) = self.capacity {
            option(true, "capacity", &DisplaySize(capacity));
        }
        if let Some(most) = self.max_namespaces {
            option(true, "max-namespaces", &most);
        }
        option(self.ids != NamespaceIds::All, "ids", &self.ids);
        if let Some(time) = self.operation {
            option(true, "operation", &DisplayDuration(time));
        }
        if let Some(zones) = self.zones {
            let usual = ZoneConfig::default();
            option(zones.size != usual.size, "zone-size", &DisplaySize(zones.size));
            if let Some(capacity) = zones.capacity {
                option(true, "zone-capacity", &DisplaySize(capacity));
            }
            option(zones.max_open > 0, "max-open", &zones.max_open);
            option(zones.max_active > 0, "max-active", &zones.max_active);
            option(zones.extension > 0, "zone-extension", &zones.extension);
        }
        let bare = [
            (self.protection_first, "pi-first"),
            (self.extended, "extended"),
            (self.zones.is_some(), "zoned"),
        ];
        options.extend(bare.into_iter().filter(|(set, _)| *set).map(|(_, name)| name.to_owned()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_option_about_namespaces_is_understood_and_printed_again() {
        let text = "ms=16,pi=2,capacity=3GiB,max-namespaces=9,ids=uuid,operation=2s,zone-size=8MiB,zone-capacity=6MiB,\
                    max-open=3,max-active=4,zone-extension=128,pi-first,extended,zoned";
        let config: EmulatedConfig = text.parse().unwrap();
        assert_eq!((config.metadata, config.protection, config.capacity()), (16, 2, 3 << 30));
        assert_eq!(config.to_string(), text);
        assert_eq!((config.format().dps(), config.format().flbas()), (0b1010, 0x16));
    }

    #[test]
    fn impossible_namespaces_are_refused_with_what_would_do() {
        for (text, part) in [
            ("ms=4", "0, 8, 16 or 64"),
            ("pi=1", "with metadata"),
            ("ms=8,pi=4", "1 to 3"),
            ("null,ms=8", "keeps no data"),
            ("null,zoned", "zones keep"),
            ("capacity=1MiB", "at least"),
            ("namespaces=3,max-namespaces=2", "3 (the namespaces"),
            ("ids=eui64", "all, uuid or none"),
            ("zone-size=2GiB", "at most the namespace"),
            ("zone-size=1000", "multiple of the block size"),
            ("zone-capacity=32MiB", "at most the zone size"),
            ("zone-extension=65", "multiple of 64"),
            ("max-active=4", "1 to max-active"),
            ("extended=1", "without a value"),
        ] {
            let error = text.parse::<EmulatedConfig>().unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
