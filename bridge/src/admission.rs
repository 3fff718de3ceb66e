//! The admission step: what an I/O command may do, decided before it can reach a drive.
//!
//! The drive gets data pointers that are ours and a transfer length that the command itself implies, so the length
//! that the command implies is computed here and compared with what the host's SGL declares. What cannot be
//! computed is refused.

use gangway_spec::command::{SubmissionQueueEntry, TransferDirection};
use gangway_spec::nvm::BlockFormat;
use gangway_spec::opcode::nvm;
use gangway_spec::status::Status;

/// The format of a namespace if NVMe/TCP can carry it: metadata in a buffer of its own has no place in a capsule (NVMe
/// over Fabrics has no metadata pointer).
pub(crate) fn carried(format: BlockFormat) -> Option<BlockFormat> {
    (format.metadata_size == 0 || format.interleaved).then_some(format)
}

/// One namespace as an export shows it. Two that are equal are one and the same: what was admitted for it is right for it
/// still.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamespaceView {
    /// The NSID that hosts use.
    pub nsid: u32,
    /// Index of the drive in the process.
    pub drive: usize,
    /// The NSID on the drive.
    pub drive_nsid: u32,
    /// Index of the software queue that its commands wait in, unique in the process.
    pub queue: usize,
    /// The I/O command set that it belongs to.
    pub csi: u8,
    /// Its block format.
    pub format: BlockFormat,
    /// What tells it from another that has its NSID later.
    pub ids: NamespaceIds,
    /// Whether commands that change data are refused.
    pub read_only: bool,
}

/// Identifiers that a namespace keeps as long as it lives; zero where the drive gives none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NamespaceIds {
    /// NGUID.
    pub nguid: [u8; 16],
    /// EUI64.
    pub eui64: [u8; 8],
}

/// What an export shows to the reactors: an immutable snapshot, replaced as a whole.
#[derive(Clone, Debug, Default)]
pub struct ExportView {
    /// Rises with every published change.
    pub version: u64,
    /// Ordered by `nsid`.
    pub namespaces: Vec<NamespaceView>,
    /// Whether it shows all namespaces of one drive, and of no other.
    pub whole: bool,
    /// NN: the largest NSID that can occur.
    pub nn: u32,
    /// Whether Flush may name all namespaces (NSID FFFFFFFFh).
    pub broadcast_flush: bool,
    /// Bytes that one command may transfer at most.
    pub max_transfer: u32,
}

/// A command that may go to the drive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Admitted {
    /// Index of the drive.
    pub drive: usize,
    /// Software queue that the command waits in.
    pub queue: usize,
    /// The NSID to put into the entry.
    pub nsid: u32,
    /// Which way its data goes.
    pub direction: TransferDirection,
    /// Bytes of data.
    pub length: u32,
}

const BROADCAST: u32 = u32::MAX;

impl ExportView {
    /// The namespace that hosts know as `nsid`.
    #[inline]
    pub fn namespace(&self, nsid: u32) -> Option<&NamespaceView> {
        self.namespaces
            .binary_search_by_key(&nsid, |namespace| namespace.nsid)
            .ok()
            .map(|at| &self.namespaces[at])
    }

    /// Whether it shows one drive as it is: all namespaces, under the numbers that they have there.
    pub fn is_plain(&self) -> bool {
        self.whole && self.namespaces.iter().all(|namespace| namespace.nsid == namespace.drive_nsid)
    }

    /// What hosts know namespace `drive_nsid` of a drive as; `None` when it is not shown.
    pub fn remote_nsid(&self, drive: usize, drive_nsid: u32) -> Option<u32> {
        let shown = |one: &&NamespaceView| (one.drive, one.drive_nsid) == (drive, drive_nsid);
        self.namespaces.iter().find(shown).map(|namespace| namespace.nsid)
    }

    /// Decides on an I/O command whose capsule declares `declared` bytes of data.
    ///
    /// # Errors
    /// The status to answer with; `DNR` is set where the same command can never succeed.
    pub fn admit(&self, entry: &SubmissionQueueEntry, declared: u32) -> Result<Admitted, Status> {
        let opcode = entry.opcode;
        let nsid = entry.nsid.get();
        if nsid == BROADCAST && opcode == nvm::FLUSH && self.broadcast_flush {
            let first = self.namespaces.first().ok_or(Status::INVALID_NAMESPACE_OR_FORMAT.with_dnr())?;
            if declared != 0 {
                return Err(Status::DATA_SGL_LENGTH_INVALID.with_dnr());
            }
            return Ok(Admitted {
                drive: first.drive,
                queue: first.queue,
                nsid: BROADCAST,
                direction: TransferDirection::None,
                length: 0,
            });
        }
        let namespace = self.namespace(nsid).ok_or(Status::INVALID_NAMESPACE_OR_FORMAT.with_dnr())?;
        let (direction, length) = transfer(entry, &namespace.format)?;
        if namespace.read_only && changes_data(opcode) {
            return Err(Status::NAMESPACE_IS_WRITE_PROTECTED.with_dnr());
        }
        if !length.fits(declared) {
            return Err(Status::DATA_SGL_LENGTH_INVALID.with_dnr());
        }
        if declared > self.max_transfer {
            return Err(Status::INVALID_FIELD.with_dnr());
        }
        Ok(Admitted {
            drive: namespace.drive,
            queue: namespace.queue,
            nsid: namespace.drive_nsid,
            direction,
            length: declared,
        })
    }
}

/// The length of the data that a command implies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Length {
    /// So many bytes.
    Exactly(u64),
    /// A list of so many bytes, in a buffer that may be longer, up to the longest list there can be. The drive gets all
    /// of the buffer.
    List(u64),
}

/// The longest list of ranges of Dataset Management: 256 of 16 bytes.
const LONGEST_LIST: u64 = 4096;

impl Length {
    fn fits(self, declared: u32) -> bool {
        let declared = u64::from(declared);
        match self {
            Length::Exactly(length) => declared == length,
            Length::List(length) => (length..=LONGEST_LIST).contains(&declared),
        }
    }
}

/// Direction and length of the data that an NVM command moves.
fn transfer(
    entry: &SubmissionQueueEntry,
    format: &BlockFormat,
) -> Result<(TransferDirection, Length), Status> {
    use TransferDirection::{ControllerToHost, HostToController, None};
    let ranges = u64::from(entry.cdw10.get() & 0xff) + 1;
    Ok(match entry.opcode {
        nvm::FLUSH | nvm::WRITE_UNCORRECTABLE | nvm::WRITE_ZEROES | nvm::VERIFY => (None, Length::Exactly(0)),
        nvm::READ => (ControllerToHost, Length::Exactly(format.transfer_length(entry))),
        nvm::WRITE | nvm::COMPARE => (HostToController, Length::Exactly(format.transfer_length(entry))),
        // Linux sends room for 256 ranges however many there are, because some drives read that much anyway.
        nvm::DATASET_MANAGEMENT => (HostToController, Length::List(ranges * 16)),
        nvm::COPY => {
            let ranges = u64::from(entry.cdw12.get() & 0xff) + 1;
            (HostToController, Length::Exactly(ranges * copy_range_size(entry)?))
        }
        _ => return Err(Status::INVALID_OPCODE.with_dnr()),
    })
}

/// Size of a source range of Copy. Formats 2h and 3h name source namespaces, which an export may not show.
fn copy_range_size(entry: &SubmissionQueueEntry) -> Result<u64, Status> {
    match (entry.cdw12.get() >> 8) & 0xf {
        0 => Ok(32),
        1 => Ok(40),
        _ => Err(Status::INVALID_FIELD.with_dnr()),
    }
}

fn changes_data(opcode: u8) -> bool {
    matches!(
        opcode,
        nvm::WRITE | nvm::WRITE_UNCORRECTABLE | nvm::WRITE_ZEROES | nvm::DATASET_MANAGEMENT | nvm::COPY
    )
}

#[cfg(test)]
mod tests {
    use gangway_spec::nvm::Protection;

    use super::*;

    fn view() -> ExportView {
        let format = BlockFormat::plain(512);
        let namespace = NamespaceView {
            nsid: 3,
            drive: 1,
            drive_nsid: 7,
            queue: 5,
            csi: gangway_spec::identify::csi::NVM,
            format,
            ids: NamespaceIds::default(),
            read_only: false,
        };
        let locked = NamespaceView { nsid: 4, read_only: true, ..namespace.clone() };
        ExportView { namespaces: vec![namespace, locked], max_transfer: 128 * 1024, ..ExportView::default() }
    }

    fn command(opcode: u8, nsid: u32, cdw12: u32) -> SubmissionQueueEntry {
        let mut entry = SubmissionQueueEntry::new(opcode);
        entry.nsid = nsid.into();
        entry.cdw12 = cdw12.into();
        entry
    }

    #[test]
    fn a_read_is_admitted_with_the_length_that_it_implies_and_the_nsid_of_the_drive() {
        let admitted = view().admit(&command(nvm::READ, 3, 7), 4096).unwrap();
        assert_eq!(
            admitted,
            Admitted {
                drive: 1,
                queue: 5,
                nsid: 7,
                direction: TransferDirection::ControllerToHost,
                length: 4096
            }
        );
    }

    #[test]
    fn an_sgl_longer_or_shorter_than_the_command_implies_is_refused() {
        for declared in [0, 512, 4095, 4097, 8192] {
            let refused = view().admit(&command(nvm::WRITE, 3, 7), declared).unwrap_err();
            assert_eq!(refused, Status::DATA_SGL_LENGTH_INVALID.with_dnr(), "{declared} bytes");
        }
    }

    #[test]
    fn a_list_of_ranges_may_come_in_a_larger_buffer_but_not_in_a_smaller_one() {
        let mut trim = command(nvm::DATASET_MANAGEMENT, 3, 0);
        trim.cdw10 = 1.into();
        for declared in [32, 4096] {
            assert_eq!(view().admit(&trim, declared).unwrap().length, declared);
        }
        for declared in [0, 16, 4112] {
            let refused = view().admit(&trim, declared).unwrap_err();
            assert_eq!(refused, Status::DATA_SGL_LENGTH_INVALID.with_dnr(), "{declared} bytes");
        }
    }

    #[test]
    fn control_bits_above_nlb_do_not_change_the_length() {
        let fua = 1 << 30;
        assert_eq!(view().admit(&command(nvm::WRITE, 3, 7 | fua), 4096).unwrap().length, 4096);
    }

    #[test]
    fn transfers_beyond_the_limit_are_refused() {
        let refused = view().admit(&command(nvm::READ, 3, 256), 257 * 512).unwrap_err();
        assert_eq!(refused, Status::INVALID_FIELD.with_dnr());
    }

    #[test]
    fn namespaces_outside_the_export_do_not_exist() {
        for nsid in [0, 1, 7, BROADCAST] {
            let refused = view().admit(&command(nvm::FLUSH, nsid, 0), 0).unwrap_err();
            assert_eq!(refused, Status::INVALID_NAMESPACE_OR_FORMAT.with_dnr(), "NSID {nsid:#x}");
        }
    }

    #[test]
    fn a_read_only_namespace_refuses_everything_that_changes_data_and_nothing_else() {
        let view = view();
        let mut refused = Vec::new();
        for opcode in 0..=255_u8 {
            let mut entry = command(opcode, 4, 0);
            entry.cdw10 = 0.into();
            for declared in [0, 16, 32, 512] {
                if view.admit(&entry, declared) == Err(Status::NAMESPACE_IS_WRITE_PROTECTED.with_dnr()) {
                    refused.push(opcode);
                    break;
                }
            }
        }
        let mut expected =
            [nvm::WRITE, nvm::WRITE_UNCORRECTABLE, nvm::WRITE_ZEROES, nvm::DATASET_MANAGEMENT, nvm::COPY];
        expected.sort_unstable();
        assert_eq!(refused, expected);
        assert!(view.admit(&command(nvm::READ, 4, 0), 512).is_ok());
    }

    #[test]
    fn opcodes_that_are_not_listed_are_refused() {
        for opcode in [0x0d, 0x11, 0x18, 0x79, 0x7d, 0x80, 0xff] {
            let refused = view().admit(&command(opcode, 3, 0), 0).unwrap_err();
            assert_eq!(refused, Status::INVALID_OPCODE.with_dnr(), "opcode {opcode:#x}");
        }
    }

    #[test]
    fn interleaved_metadata_counts_unless_the_drive_inserts_it_itself() {
        const PRACT: u32 = 1 << 29;
        let protection = |size| Some(Protection { kind: 1, size, first: false });
        // Bytes of metadata, of protection information in it, and what two blocks take without and with PRACT.
        for (metadata_size, protection, plain, action) in [
            (8, None, 2 * 4104, 2 * 4104),
            (8, protection(8), 2 * 4104, 2 * 4096),
            (16, protection(8), 2 * 4112, 2 * 4112),
            (16, protection(16), 2 * 4112, 2 * 4096),
            (64, protection(16), 2 * 4160, 2 * 4160),
        ] {
            let mut view = view();
            view.namespaces[0].format =
                BlockFormat { block_size: 4096, metadata_size, interleaved: true, protection };
            for opcode in [nvm::READ, nvm::WRITE, nvm::COMPARE] {
                for (control, length) in [(0, plain), (PRACT, action)] {
                    for declared in [2 * 4096, 2 * 4104, 2 * 4112, 2 * 4160] {
                        let admitted = view.admit(&command(opcode, 3, 1 | control), declared);
                        let what = format!("{metadata_size} bytes, {protection:?}, {control:#x}, {declared}");
                        assert_eq!(admitted.is_ok(), declared == length, "{what}");
                    }
                }
            }
        }
    }

    #[test]
    fn metadata_in_a_buffer_of_its_own_is_not_carried() {
        let format = |metadata_size, interleaved| BlockFormat {
            metadata_size,
            interleaved,
            ..BlockFormat::plain(4096)
        };
        assert_eq!(carried(format(8, false)), None);
        assert_eq!(carried(format(8, true)), Some(format(8, true)));
        assert_eq!(carried(format(0, false)), Some(format(0, false)));
    }

    #[test]
    fn copy_is_refused_when_its_ranges_name_other_namespaces() {
        assert!(view().admit(&command(nvm::COPY, 3, 0), 32).is_ok());
        for format in 2..16 {
            let refused = view().admit(&command(nvm::COPY, 3, format << 8), 32).unwrap_err();
            assert_eq!(refused, Status::INVALID_FIELD.with_dnr());
        }
    }
}
