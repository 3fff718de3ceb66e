//! `--export`: which namespaces of which drives hosts see under one name.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use anyhow::bail;
use gangway_bridge::policy::Item;
use gangway_bridge::{Mapping, Selection};
use gangway_driver::address::{DeviceAddress, PciAddress};
use gangway_spec::fabrics::Nqn;

const FORM: &str =
    "write nqn=NQN,drive=DRIVE for a whole drive, or nqn=NQN,ns=NSID=DRIVE/NSID,... for namespaces";

/// An export as it is written: `nqn=NQN,ns=1=pci:0000:01:00.0/2,ns=2=2/1,host=NQN,read-only`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ExportArg {
    pub(super) nqn: Nqn,
    shown: Shown,
    /// Who may connect, when it is not whom --allow-host names.
    pub(super) hosts: BTreeSet<String>,
    pub(super) read_only: bool,
    pub(super) derive_ids: bool,
    /// What its hosts may do, when it is not what --allow says.
    pub(super) allow: Vec<Item>,
    /// What its hosts may not do, besides what --refuse says.
    pub(super) refuse: Vec<Item>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Shown {
    Drive(DriveName),
    Namespaces(Vec<NamespaceArg>),
}

/// `NSID=DRIVE/NSID`, or `DRIVE/NSID` for one that keeps its number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NamespaceArg {
    nsid: u32,
    drive: DriveName,
    drive_nsid: u32,
}

/// How a drive is named: by its place on the command line, from 1, by its PCI address, by its serial number, or as `status`
/// shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct DriveName(String);

/// A drive that can be named.
#[derive(Clone, Debug)]
pub(super) struct Named {
    /// Index of the drive in the process.
    pub(super) index: usize,
    pub(super) device: DeviceAddress,
    /// What is known of it once it is started.
    pub(super) known: Option<Known>,
    /// Its place on the command line, from 1, if it stands there.
    pub(super) place: Option<usize>,
}

/// What is known of a drive that was started.
#[derive(Clone, Debug)]
pub(super) struct Known {
    /// As the driver calls it, and `status`.
    pub(super) name: String,
    pub(super) serial: String,
}

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.known {
            Some(Known { name, serial }) => write!(f, "{name} (serial {serial})")?,
            None => write!(f, "{}", self.device)?,
        }
        match self.place {
            Some(place) => write!(f, ", which is {place} here"),
            None => Ok(()),
        }
    }
}

/// Whether `name` is the PCI address, the serial number or the name of a drive.
pub(super) fn is_named(drive: &Named, name: &str) -> bool {
    let address: Option<PciAddress> = name.strip_prefix("pci:").unwrap_or(name).parse().ok();
    matches!(drive.device, DeviceAddress::Pci(own) if Some(own) == address)
        || drive.known.as_ref().is_some_and(|known| known.serial == name || known.name == name)
}

impl DriveName {
    /// The drive among `drives`; `None` when it may be the serial number of one whose number is not known.
    fn find<'a>(&self, drives: &'a [Named]) -> anyhow::Result<Option<&'a Named>> {
        let Self(name) = self;
        let place = name.parse::<usize>().ok();
        if let Some(drive) = drives.iter().find(|drive| place.is_some() && drive.place == place) {
            return Ok(Some(drive));
        }
        let found: Vec<&Named> = drives.iter().filter(|drive| is_named(drive, name)).collect();
        match found[..] {
            [drive] => Ok(Some(drive)),
            [] if drives.iter().any(|drive| drive.known.is_none()) => Ok(None),
            [] => bail!("there is no drive \"{name}\"; there are: {}", list(drives)),
            _ => bail!("there are several drives \"{name}\"; there are: {}", list(drives)),
        }
    }
}

/// Drives, for an error.
pub(super) fn list(drives: &[Named]) -> String {
    if drives.is_empty() {
        return "none".to_owned();
    }
    drives.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

impl FromStr for ExportArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (mut nqn, mut drive, mut namespaces) = (None, None, Vec::new());
        let (mut hosts, mut read_only, mut derive_ids) = (BTreeSet::new(), false, false);
        let (mut allow, mut refuse) = (Vec::new(), Vec::new());
        for part in text.split(',') {
            let name = |value: &str| value.parse::<Nqn>().map_err(|error| error.to_string());
            let item = |value: &str| value.parse::<Item>().map_err(|error| error.to_string());
            match part.split_once('=') {
                Some(("nqn", value)) if nqn.is_none() => nqn = Some(name(value)?),
                Some(("drive", value)) if drive.is_none() && !value.is_empty() => {
                    drive = Some(DriveName(value.to_owned()));
                }
                Some(("ns", value)) => namespaces.push(value.parse()?),
                Some(("host", value)) => drop(hosts.insert(name(value)?.to_string())),
                Some(("allow", value)) => allow.push(item(value)?),
                Some(("refuse", value)) => refuse.push(item(value)?),
                None if part == "read-only" => read_only = true,
                None if part == "derive-ids" => derive_ids = true,
                _ => return Err(format!("\"{part}\" has no place here; {FORM}")),
            }
        }
        let nqn: Nqn = nqn.ok_or_else(|| format!("the name is missing; {FORM}"))?;
        if nqn.is_discovery() {
            return Err(format!(
                "{nqn} is the name of the discovery subsystem, which every target has; choose another"
            ));
        }
        let shown = match (drive, namespaces.is_empty()) {
            (Some(drive), true) => Shown::Drive(drive),
            (None, false) => Shown::Namespaces(namespaces),
            (None, true) => return Err(format!("it shows nothing; {FORM}")),
            (Some(_), false) => {
                return Err(format!("it shows a whole drive, or namespaces, but not both; {FORM}"));
            }
        };
        Ok(Self { nqn, shown, hosts, read_only, derive_ids, allow, refuse })
    }
}

impl fmt::Display for ExportArg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "nqn={}", self.nqn)?;
        match &self.shown {
            Shown::Drive(DriveName(drive)) => write!(f, ",drive={drive}")?,
            Shown::Namespaces(all) => all.iter().try_for_each(|one| write!(f, ",ns={one}"))?,
        }
        self.hosts.iter().try_for_each(|host| write!(f, ",host={host}"))?;
        for (items, name) in [(&self.allow, "allow"), (&self.refuse, "refuse")] {
            items.iter().try_for_each(|item| write!(f, ",{name}={item}"))?;
        }
        for (flag, name) in [(self.read_only, ",read-only"), (self.derive_ids, ",derive-ids")] {
            if flag {
                f.write_str(name)?;
            }
        }
        Ok(())
    }
}

impl FromStr for NamespaceArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let form = || format!("\"{text}\" does not name a namespace: write NSID=DRIVE/NSID, or DRIVE/NSID");
        let (nsid, place) = match text.split_once('=') {
            Some((nsid, place)) => (Some(nsid.parse::<u32>().map_err(|_| form())?), place),
            None => (None, text),
        };
        let (drive, drive_nsid) = place.rsplit_once('/').ok_or_else(form)?;
        let drive_nsid: u32 = drive_nsid.parse().map_err(|_| form())?;
        if drive.is_empty() {
            return Err(form());
        }
        let nsid = nsid.unwrap_or(drive_nsid);
        Ok(Self { nsid, drive: DriveName(drive.to_owned()), drive_nsid })
    }
}

impl fmt::Display for NamespaceArg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}/{}", self.nsid, self.drive.0, self.drive_nsid)
    }
}

impl NamespaceArg {
    /// The index of the drive that it names; `None` as long as that is not known.
    ///
    /// # Errors
    /// When there is no such drive.
    pub(super) fn drive(&self, drives: &[Named]) -> anyhow::Result<Option<usize>> {
        Ok(self.drive.find(drives)?.map(|drive| drive.index))
    }

    /// What it shows, of drives that are known.
    ///
    /// # Errors
    /// When there is no such drive.
    pub(super) fn mapping(&self, drives: &[Named]) -> anyhow::Result<Mapping> {
        Ok(Mapping { nsid: self.nsid, drive: self.drive.index(drives)?, drive_nsid: self.drive_nsid })
    }
}

impl DriveName {
    /// The index of one of `drives`, which are known.
    fn index(&self, drives: &[Named]) -> anyhow::Result<usize> {
        let found = self.find(drives)?.map(|drive| drive.index);
        found.ok_or_else(|| anyhow::anyhow!("the drive \"{}\" is not started", self.0))
    }
}

impl ExportArg {
    /// Indices of the drives that it names, as far as they are known.
    ///
    /// # Errors
    /// When there is no such drive.
    pub(super) fn drives(&self, drives: &[Named]) -> anyhow::Result<Vec<Option<usize>>> {
        match &self.shown {
            Shown::Drive(drive) => Ok(vec![drive.find(drives)?.map(|drive| drive.index)]),
            Shown::Namespaces(all) => all.iter().map(|one| one.drive(drives)).collect(),
        }
    }

    /// What it shows, of drives that are known.
    ///
    /// # Errors
    /// When it names a drive that there is not.
    pub(super) fn selection(&self, drives: &[Named]) -> anyhow::Result<Selection> {
        Ok(match &self.shown {
            Shown::Drive(drive) => Selection::Drive(drive.index(drives)?),
            Shown::Namespaces(all) => {
                let mappings = all.iter().map(|one| one.mapping(drives));
                Selection::Namespaces(mappings.collect::<Result<_, _>>()?)
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NQN: &str = "nqn.2014-08.org.example:a";

    fn parse(rest: &str) -> Result<ExportArg, String> {
        format!("nqn={NQN},{rest}").parse()
    }

    #[test]
    fn namespaces_of_drives_are_named_by_place_address_or_serial_number() {
        let devices: [DeviceAddress; 4] =
            ["pci:0000:01:00.0", "pci:0000:02:00.0", "emulated:serial=X1", "emulated"]
                .map(|text| text.parse().unwrap());
        // The last one was there before.
        let known = |names: [&str; 4], serials: [&str; 4]| -> Vec<Named> {
            let all = devices.iter().cloned().zip(names.into_iter().zip(serials)).enumerate();
            let named = |(index, (device, (name, serial))): (usize, (_, (&str, &str)))| Named {
                index: index + 10,
                device,
                known: Some(Known { name: name.to_owned(), serial: serial.to_owned() }),
                place: (index < 3).then_some(index + 1),
            };
            all.map(named).collect()
        };
        let names = ["pci:0000:01:00.0", "pci:0000:02:00.0", "emulated:2", "emulated:0"];
        let all = known(names, ["S0", "S1", "X1", "4"]);
        let export =
            parse("ns=1=2/7,ns=5=pci:0000:01:00.0/1,ns=02:00.0/3,ns=9=X1/4,ns=8=4/1,ns=7=emulated:0/2");
        let mapping = |nsid, drive, drive_nsid| Mapping { nsid, drive, drive_nsid };
        assert_eq!(
            export.unwrap().selection(&all).unwrap(),
            Selection::Namespaces(vec![
                mapping(1, 11, 7),
                mapping(5, 10, 1),
                mapping(3, 11, 3),
                mapping(9, 12, 4),
                mapping(8, 13, 1),
                mapping(7, 13, 2)
            ])
        );
        assert_eq!(parse("drive=X1").unwrap().selection(&all).unwrap(), Selection::Drive(12));
        let refused = parse("drive=5").unwrap().selection(&all).unwrap_err().to_string();
        assert!(refused.contains("\"5\"") && refused.contains("pci:0000:02:00.0 (serial S1)"), "{refused}");
        let alike = known(names, ["S0", "S0", "X1", "X2"]);
        let refused = parse("drive=S0").unwrap().selection(&alike).unwrap_err().to_string();
        assert!(refused.contains("several"), "{refused}");
        // Before the drives are started, what may be a serial number is not refused.
        let unknown: Vec<Named> = all.into_iter().map(|drive| Named { known: None, ..drive }).collect();
        let export = parse("ns=1=2/7,ns=5=pci:0000:01:00.0/1,ns=9=X1/4").unwrap();
        assert_eq!(export.drives(&unknown).unwrap(), [Some(11), Some(10), None]);
    }

    #[test]
    fn an_export_survives_being_printed() {
        for rest in [
            "drive=1",
            "ns=1=1/3,ns=2=pci:0000:01:00.0/1,read-only",
            "drive=1,allow=manage,allow=admin:c1h,refuse=feature:06h,derive-ids",
            "drive=S1,host=nqn.2014-08.org.example:h,host=nqn.2014-08.org.example:i,read-only,derive-ids",
        ] {
            let export = parse(rest).unwrap();
            assert_eq!(export.to_string(), format!("nqn={NQN},{rest}"));
            assert_eq!(export.to_string().parse(), Ok(export));
        }
    }

    #[test]
    fn hosts_and_access_are_those_of_the_export() {
        let export = parse(
            "drive=1,host=nqn.2014-08.org.example:h,host=nqn.2014-08.org.example:i,read-only,derive-ids",
        )
        .unwrap();
        assert!(export.read_only && export.derive_ids && export.hosts.len() == 2);
        let export = parse("drive=1").unwrap();
        assert!(!export.read_only && !export.derive_ids && export.hosts.is_empty());
    }

    #[test]
    fn what_is_not_an_export_is_refused_with_the_form() {
        for rest in
            ["", "ns=1", "ns=1=2", "ns=x=1/1", "ns=1=/1", "ns=1=1/x", "drive=", "drive=1,ns=1/1", "disk=1"]
        {
            let refused = parse(rest).unwrap_err();
            assert!(refused.contains("write "), "{rest}: {refused}");
        }
        assert!("drive=1".parse::<ExportArg>().unwrap_err().contains("name is missing"));
        assert!("nqn=nqn.2014-08.org.nvmexpress.discovery,drive=1".parse::<ExportArg>().is_err());
    }
}
