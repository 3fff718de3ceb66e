//! Device numbers and device nodes.

use std::{fmt, io, path::Path, str::FromStr};

use rustix::fs::{AtFlags, CWD, FileType, StatxFlags, statx};

/// Major and minor number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct DeviceNumber {
    pub major: u32,
    pub minor: u32,
}

impl FromStr for DeviceNumber {
    type Err = ();

    /// `259:0`, as in the `dev` attributes of sysfs and in mountinfo.
    fn from_str(text: &str) -> Result<Self, ()> {
        let (major, minor) = text.split_once(':').ok_or(())?;
        Ok(Self { major: major.parse().map_err(|_| ())?, minor: minor.parse().map_err(|_| ())? })
    }
}

impl fmt::Display for DeviceNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.major, self.minor)
    }
}

/// The two kinds count their numbers separately.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum NodeKind {
    Block,
    Character,
}

/// What a device node stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct DeviceNode {
    pub kind: NodeKind,
    pub number: DeviceNumber,
}

impl DeviceNode {
    pub(crate) fn block(number: DeviceNumber) -> Self {
        Self { kind: NodeKind::Block, number }
    }

    pub(crate) fn character(number: DeviceNumber) -> Self {
        Self { kind: NodeKind::Character, number }
    }
}

/// The device that `path`, followed through symbolic links, leads to.
pub(super) fn node_at(path: &Path) -> io::Result<Option<DeviceNode>> {
    // Links below /proc/PID/fd may lead to a file on a network server that is gone. Only what is cached is
    // asked for, so that such a file cannot hang us: of a device node nothing else is needed.
    let flags = AtFlags::STATX_DONT_SYNC | AtFlags::NO_AUTOMOUNT;
    let stat = statx(CWD, path, flags, StatxFlags::TYPE)?;
    let number = DeviceNumber { major: stat.stx_rdev_major, minor: stat.stx_rdev_minor };
    Ok(match FileType::from_raw_mode(stat.stx_mode.into()) {
        FileType::BlockDevice => Some(DeviceNode::block(number)),
        FileType::CharacterDevice => Some(DeviceNode::character(number)),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_character_device_is_recognised_by_its_number() {
        let null = DeviceNode::character(DeviceNumber { major: 1, minor: 3 });
        assert_eq!(node_at(Path::new("/dev/null")).unwrap(), Some(null));
    }

    #[test]
    fn a_plain_file_is_no_device() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert_eq!(node_at(file.path()).unwrap(), None);
        assert!(node_at(&file.path().join("below")).is_err());
    }

    #[test]
    fn numbers_are_read_as_the_kernel_writes_them() {
        assert_eq!("259:17".parse(), Ok(DeviceNumber { major: 259, minor: 17 }));
        assert_eq!("259".parse::<DeviceNumber>(), Err(()));
    }
}
