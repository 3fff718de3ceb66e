//! Which namespaces an export shows, and under which NSIDs.

use std::collections::BTreeSet;

use gangway_spec::command::NSID_BROADCAST;

use crate::association::ONE_IDENTIFIER_ONE_NAME;

/// A namespace of a drive, as an export is to show it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// The NSID that hosts use.
    pub nsid: u32,
    /// Index of the drive in the process.
    pub drive: usize,
    /// The NSID on the drive.
    pub drive_nsid: u32,
}

/// Which namespaces an export shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selection {
    /// Every namespace of the drive with this index, under its own NSID, also those that are made later.
    Drive(usize),
    /// These, as long as they are there. The drive of the first one is the primary: it answers what is about the
    /// controller.
    Namespaces(Vec<Mapping>),
}

/// Why an export cannot be made.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum ExportError {
    /// Two exports have one name.
    #[error("{nqn}: there is an export of this name already; each needs a name of its own")]
    SameName {
        /// The name.
        nqn: String,
    },
    /// It shows nothing.
    #[error("{nqn} names no namespace; name at least one, or a whole drive")]
    Empty {
        /// The export.
        nqn: String,
    },
    /// There is no such drive.
    #[error("{nqn} names drive {drive}, and there is no drive of this number")]
    NoSuchDrive {
        /// The export.
        nqn: String,
        /// Index of the drive.
        drive: usize,
    },
    /// A number that no namespace can have.
    #[error("{nqn}: a namespace cannot have the NSID {nsid:#x}; use 1 and up")]
    InvalidNsid {
        /// The export.
        nqn: String,
        /// The number.
        nsid: u32,
    },
    /// Two namespaces have one number.
    #[error("{nqn}: NSID {nsid} is given to two namespaces")]
    SameNsid {
        /// The export.
        nqn: String,
        /// The number.
        nsid: u32,
    },
    /// One namespace has two numbers. Hosts would take it for two.
    #[error("{nqn}: namespace {drive_nsid} of {drive} is shown twice")]
    Twice {
        /// The export.
        nqn: String,
        /// Name of the drive.
        drive: String,
        /// The NSID on the drive.
        drive_nsid: u32,
    },
    /// The drive has no such namespace.
    #[error("{nqn}: {drive} has no namespace {drive_nsid}; it has {}", list(found))]
    NoSuchNamespace {
        /// The export.
        nqn: String,
        /// Name of the drive.
        drive: String,
        /// The NSID on the drive.
        drive_nsid: u32,
        /// Those that there are.
        found: Vec<u32>,
    },
    /// It is in a format that NVMe/TCP cannot carry.
    #[error(
        "{nqn}: namespace {drive_nsid} of {drive} cannot be exported: its command set is unknown here, or its metadata is \
         in a buffer of its own"
    )]
    NotCarried {
        /// The export.
        nqn: String,
        /// Name of the drive.
        drive: String,
        /// The NSID on the drive.
        drive_nsid: u32,
    },
}

/// Why a drive or an export cannot be taken back.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum RemoveError {
    /// There is no export of this name.
    #[error("there is no export {nqn}")]
    NoSuchExport {
        /// The name.
        nqn: String,
    },
    /// There is no drive of this number.
    #[error("there is no drive {index}")]
    NoSuchDrive {
        /// Index of the drive.
        index: usize,
    },
    /// An export shows something of the drive.
    #[error("{drive} is in use by {nqn}; take that export back first")]
    InUse {
        /// Name of the drive.
        drive: String,
        /// The export.
        nqn: String,
    },
}

/// Why the namespaces of an export cannot be changed.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum ChangeError {
    /// There is no export of this name.
    #[error("there is no export {nqn}")]
    NoSuchExport {
        /// The name.
        nqn: String,
    },
    /// It shows whatever its drive has.
    #[error(
        "{nqn} shows all of a drive, whatever namespaces that has; only of an export that lists namespaces can they be \
         added and taken away"
    )]
    WholeDrive {
        /// The export.
        nqn: String,
    },
    /// What is to be shown cannot be.
    #[error(transparent)]
    Export(#[from] ExportError),
    /// Hosts that are connected were told more than a drive keeps.
    #[error(
        "{drive} cannot do all that hosts of {nqn} were promised (length of transfers, commands, atomic writes); take that \
         export back and add it anew with this drive"
    )]
    PromisesLess {
        /// The export.
        nqn: String,
        /// Name of the drive.
        drive: String,
    },
    /// It has no such namespace.
    #[error("{nqn} has no namespace {nsid}; it has {}", list(found))]
    NotShown {
        /// The export.
        nqn: String,
        /// The NSID that hosts would know.
        nsid: u32,
        /// Those that there are.
        found: Vec<u32>,
    },
    /// The drive that answers what is about the controller would have none left.
    #[error(
        "{drive} answers what is about the controllers of {nqn}, so one of its namespaces has to stay there; take the export \
         back instead"
    )]
    LastOfPrimary {
        /// The export.
        nqn: String,
        /// Name of the drive.
        drive: String,
    },
    /// A host would have the reservations of another.
    #[error(
        "{host}, which is connected to {nqn}, has the host identifier that {other} is registered with for reservations: \
         {ONE_IDENTIFIER_ONE_NAME}"
    )]
    SameHostIdentifier {
        /// The export.
        nqn: String,
        /// The host that is connected.
        host: String,
        /// The one that is registered.
        other: String,
    },
    /// It is too late to change anything.
    #[error("the target is ending")]
    Ended,
}

fn list(found: &[u32]) -> String {
    if found.is_empty() {
        return "none".to_owned();
    }
    found.iter().map(u32::to_string).collect::<Vec<_>>().join(", ")
}

impl Selection {
    /// Indices of the drives that it is about; the first is the primary.
    pub(crate) fn drives(&self) -> Vec<usize> {
        match self {
            Selection::Drive(drive) => vec![*drive],
            Selection::Namespaces(mappings) => {
                let mut seen = BTreeSet::new();
                mappings.iter().map(|one| one.drive).filter(|drive| seen.insert(*drive)).collect()
            }
        }
    }

    /// Checks what can be checked without the drives. `name`: of a drive, by its index.
    ///
    /// # Errors
    /// [`ExportError`].
    pub(super) fn check(&self, nqn: &str, name: impl Fn(usize) -> String) -> Result<(), ExportError> {
        let nqn = || nqn.to_owned();
        let Selection::Namespaces(mappings) = self else { return Ok(()) };
        if mappings.is_empty() {
            return Err(ExportError::Empty { nqn: nqn() });
        }
        let (mut remote, mut own) = (BTreeSet::new(), BTreeSet::new());
        for Mapping { nsid, drive, drive_nsid } in mappings {
            for nsid in [*nsid, *drive_nsid] {
                if nsid == 0 || nsid == NSID_BROADCAST {
                    return Err(ExportError::InvalidNsid { nqn: nqn(), nsid });
                }
            }
            if !remote.insert(nsid) {
                return Err(ExportError::SameNsid { nqn: nqn(), nsid: *nsid });
            }
            if !own.insert((drive, drive_nsid)) {
                let drive = name(*drive);
                return Err(ExportError::Twice { nqn: nqn(), drive, drive_nsid: *drive_nsid });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(mappings: &[(u32, usize, u32)]) -> Result<(), ExportError> {
        let mappings =
            mappings.iter().map(|&(nsid, drive, drive_nsid)| Mapping { nsid, drive, drive_nsid }).collect();
        Selection::Namespaces(mappings).check("nqn", |drive| format!("drive {drive}"))
    }

    #[test]
    fn numbers_are_given_once_and_namespaces_shown_once() {
        assert_eq!(check(&[(1, 0, 2), (2, 0, 1), (3, 1, 1)]), Ok(()));
        assert!(matches!(check(&[]), Err(ExportError::Empty { .. })));
        assert!(matches!(check(&[(1, 0, 1), (1, 0, 2)]), Err(ExportError::SameNsid { nsid: 1, .. })));
        assert!(matches!(check(&[(1, 0, 1), (2, 0, 1)]), Err(ExportError::Twice { drive_nsid: 1, .. })));
        for (nsid, drive_nsid) in [(0, 1), (1, 0), (u32::MAX, 1), (1, u32::MAX)] {
            assert!(matches!(check(&[(nsid, 0, drive_nsid)]), Err(ExportError::InvalidNsid { .. })));
        }
    }

    #[test]
    fn the_drive_of_the_first_namespace_is_the_primary() {
        let mapping = |nsid, drive| Mapping { nsid, drive, drive_nsid: nsid };
        let selection =
            Selection::Namespaces(vec![mapping(5, 3), mapping(1, 0), mapping(2, 3), mapping(7, 1)]);
        assert_eq!(selection.drives(), [3, 0, 1]);
        assert_eq!(Selection::Drive(2).drives(), [2]);
    }

    #[test]
    fn who_gives_two_names_under_one_identifier_is_told_of_both_files() {
        let [nqn, host, other] = ["nqn", "one", "two"].map(String::from);
        let message = ChangeError::SameHostIdentifier { nqn, host, other }.to_string();
        for file in ["/etc/nvme/hostid", "/etc/nvme/hostnqn"] {
            assert!(message.contains(file), "{message}");
        }
    }
}
