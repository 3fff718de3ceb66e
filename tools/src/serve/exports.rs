//! `--export`: which namespaces of which drives hosts see under one name.

use std::collections::BTreeSet;
use std::str::FromStr;

use anyhow::bail;
use gangway_bridge::{Mapping, Selection};
use gangway_driver::address::{DeviceAddress, PciAddress};
use gangway_spec::fabrics::Nqn;

const FORM: &str =
    "write nqn=NQN,drive=DRIVE for a whole drive, or nqn=NQN,ns=NSID=DRIVE/NSID,... for namespaces";

/// An export as it is written: `nqn=NQN,ns=1=pci:0000:01:00.0/2,ns=2=2/1,host=NQN,read-only`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ExportArg {
    pub(super) nqn: Nqn,
    shown: Shown,
    /// Who may connect, when it is not whom --allow-host names.
    pub(super) hosts: BTreeSet<String>,
    pub(super) read_only: bool,
    pub(super) derive_ids: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Shown {
    Drive(DriveName),
    Namespaces(Vec<Namespace>),
}

/// `NSID=DRIVE/NSID`, or `DRIVE/NSID` for one that keeps its number.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Namespace {
    nsid: u32,
    drive: DriveName,
    drive_nsid: u32,
}

/// How a drive is named in an export: by its place among the --device options, from 1, by its PCI address, or by its
/// serial number.
#[derive(Clone, Debug, PartialEq, Eq)]
struct DriveName(String);

/// A drive that exports can name.
pub(super) struct Named<'a> {
    pub(super) device: &'a DeviceAddress,
    /// `None` when it is not known yet.
    pub(super) serial: Option<String>,
}

impl DriveName {
    /// The index of the drive among `drives`; `None` when it may be the serial number of one whose number is not known.
    fn find(&self, drives: &[Named<'_>]) -> anyhow::Result<Option<usize>> {
        let Self(name) = self;
        let address: Option<PciAddress> = name.strip_prefix("pci:").unwrap_or(name).parse().ok();
        let has_address =
            |drive: &Named<'_>| matches!(drive.device, DeviceAddress::Pci(own) if Some(*own) == address);
        let has_serial = |drive: &Named<'_>| drive.serial.as_deref() == Some(name);
        let place = name.parse().ok().filter(|place| (1..=drives.len()).contains(place));
        let found = place.map(|place| place - 1);
        let found = found.or_else(|| drives.iter().position(has_address));
        let found = found.or_else(|| drives.iter().position(has_serial));
        if found.is_none() && drives.iter().all(|drive| drive.serial.is_some()) {
            let known = drives.iter().enumerate().map(|(index, drive)| {
                format!(
                    "{} ({}, serial {})",
                    index + 1,
                    drive.device,
                    drive.serial.as_deref().unwrap_or("unknown")
                )
            });
            bail!("there is no drive \"{name}\"; there are: {}", known.collect::<Vec<_>>().join(", "));
        }
        Ok(found)
    }
}

impl FromStr for ExportArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (mut nqn, mut drive, mut namespaces) = (None, None, Vec::new());
        let (mut hosts, mut read_only, mut derive_ids) = (BTreeSet::new(), false, false);
        for part in text.split(',') {
            let name = |value: &str| value.parse::<Nqn>().map_err(|error| error.to_string());
            match part.split_once('=') {
                Some(("nqn", value)) if nqn.is_none() => nqn = Some(name(value)?),
                Some(("drive", value)) if drive.is_none() && !value.is_empty() => {
                    drive = Some(DriveName(value.to_owned()));
                }
                Some(("ns", value)) => namespaces.push(namespace(value)?),
                Some(("host", value)) => drop(hosts.insert(name(value)?.to_string())),
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
        Ok(Self { nqn, shown, hosts, read_only, derive_ids })
    }
}

fn namespace(text: &str) -> Result<Namespace, String> {
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
    Ok(Namespace { nsid, drive: DriveName(drive.to_owned()), drive_nsid })
}

impl ExportArg {
    /// The drives that it names, as far as they are known.
    ///
    /// # Errors
    /// When there is no such drive.
    pub(super) fn drives(&self, drives: &[Named<'_>]) -> anyhow::Result<Vec<Option<usize>>> {
        match &self.shown {
            Shown::Drive(drive) => Ok(vec![drive.find(drives)?]),
            Shown::Namespaces(all) => all.iter().map(|one| one.drive.find(drives)).collect(),
        }
    }

    /// What it shows, of drives whose serial numbers are known.
    ///
    /// # Errors
    /// When it names a drive that there is not.
    pub(super) fn selection(&self, drives: &[Named<'_>]) -> anyhow::Result<Selection> {
        let find = |name: &DriveName| {
            let found = name.find(drives)?;
            found.ok_or_else(|| anyhow::anyhow!("the drive \"{}\" has no serial number", name.0))
        };
        Ok(match &self.shown {
            Shown::Drive(drive) => Selection::Drive(find(drive)?),
            Shown::Namespaces(all) => {
                let mapping = |one: &Namespace| {
                    anyhow::Ok(Mapping {
                        nsid: one.nsid,
                        drive: find(&one.drive)?,
                        drive_nsid: one.drive_nsid,
                    })
                };
                Selection::Namespaces(all.iter().map(mapping).collect::<Result<_, _>>()?)
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
        let devices: [DeviceAddress; 3] =
            ["pci:0000:01:00.0", "pci:0000:02:00.0", "emulated:serial=X1"].map(|text| text.parse().unwrap());
        let known: Vec<Named<'_>> = devices
            .iter()
            .zip(["S0", "S1", "X1"])
            .map(|(device, serial)| Named { device, serial: Some(serial.to_owned()) })
            .collect();
        let export = parse("ns=1=2/7,ns=5=pci:0000:01:00.0/1,ns=02:00.0/3,ns=9=X1/4").unwrap();
        let mapping = |nsid, drive, drive_nsid| Mapping { nsid, drive, drive_nsid };
        assert_eq!(
            export.selection(&known).unwrap(),
            Selection::Namespaces(vec![
                mapping(1, 1, 7),
                mapping(5, 0, 1),
                mapping(3, 1, 3),
                mapping(9, 2, 4)
            ])
        );
        assert_eq!(parse("drive=X1").unwrap().selection(&known).unwrap(), Selection::Drive(2));
        let refused = parse("drive=4").unwrap().selection(&known).unwrap_err().to_string();
        assert!(refused.contains("\"4\"") && refused.contains("pci:0000:02:00.0, serial S1"), "{refused}");
        // Before the drives are started, what may be a serial number is not refused.
        let unknown: Vec<Named<'_>> = devices.iter().map(|device| Named { device, serial: None }).collect();
        assert_eq!(export.drives(&unknown).unwrap(), [Some(1), Some(0), Some(1), None]);
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
