//! What each I/O command transfers and touches, by the specifications of the NVM and the Zoned Namespace Command Set.
//!
//! What is not listed here is refused: nobody knows what it would move.

use gangway_spec::command::{SubmissionQueueEntry, TransferDirection};
use gangway_spec::identify::csi;
use gangway_spec::nvm::{self as block, copy};
use gangway_spec::opcode::{FIRST_VENDOR_IO, nvm, zns};
use gangway_spec::reservation::report_length;
use gangway_spec::status::Status;
use gangway_spec::zns::{self as zone, receive, send};

use super::payload::DSM_LONGEST;
use super::{Course, NamespaceView};

const INVALID_FIELD: Status = Status::INVALID_FIELD.with_dnr();
const INVALID_OPCODE: Status = Status::INVALID_OPCODE.with_dnr();

/// What a command does, as far as it concerns others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) direction: TransferDirection,
    pub(super) length: Length,
    /// The first block that it names, and how many; 0 when it names none.
    pub(super) blocks: (u64, u64),
    /// Whether it changes what the namespace holds.
    pub(super) changes: bool,
    pub(super) handling: Handling,
    /// Who has it.
    pub(super) course: Course,
}

/// The length of the data that a command implies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Length {
    /// So many bytes.
    Exactly(u64),
    /// A list of so many bytes, in a buffer that may be longer, up to the longest list there can be. The drive gets all
    /// of the buffer.
    List(u64),
    /// So many bytes, and not more than this.
    AtMost(u64, u32),
    /// What the SGL says: only the vendor knows.
    Declared,
}

impl Length {
    /// Whether an SGL of `declared` bytes is right for it.
    ///
    /// # Errors
    /// What is wrong with it.
    #[inline]
    pub(super) fn check(self, declared: u32) -> Result<(), Status> {
        let given = u64::from(declared);
        let fits = match self {
            Length::Exactly(length) => given == length,
            Length::List(length) => (length..=DSM_LONGEST).contains(&given),
            Length::AtMost(length, limit) if given == length && declared > limit => {
                return Err(INVALID_FIELD);
            }
            Length::AtMost(length, _) => given == length,
            Length::Declared => true,
        };
        if fits { Ok(()) } else { Err(Status::DATA_SGL_LENGTH_INVALID.with_dnr()) }
    }
}

/// What has to be done with the memory of a command on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handling {
    /// Nothing.
    Plain,
    /// Its data is a list of places, which are looked at before the drive has it.
    List,
    /// As [`Handling::List`], with places in any namespaces of its drive. It counts as a command to all of them.
    Across,
    /// Less may be written than it has room for, so the memory is cleared before: it held the data of others.
    Cleared,
    /// The drive may move more or less than it should: the memory is cleared, and placed so that PRPs guard it.
    Guarded,
}

/// What a command to `namespace` does.
///
/// # Errors
/// The status to refuse it with: its command set has no such command, or the command makes no sense.
#[inline]
pub(super) fn rule(entry: &SubmissionQueueEntry, namespace: &NamespaceView) -> Result<Rule, Status> {
    use TransferDirection::{ControllerToHost, HostToController, None};
    let blocks = || (block::slba(entry), u64::from(block::nlb(entry)));
    let plain = |direction, length, changes| Rule {
        direction,
        length,
        blocks: blocks(),
        changes,
        handling: Handling::Plain,
        course: Course::Drive,
    };
    let data = || Length::Exactly(namespace.format.transfer_length(entry));
    Ok(match entry.opcode {
        nvm::READ => plain(ControllerToHost, data(), false),
        nvm::WRITE => plain(HostToController, data(), true),
        nvm::COMPARE => plain(HostToController, data(), false),
        nvm::VERIFY => plain(None, Length::Exactly(0), false),
        nvm::WRITE_ZEROES | nvm::WRITE_UNCORRECTABLE => plain(None, Length::Exactly(0), true),
        nvm::FLUSH => Rule { blocks: (0, 0), ..plain(None, Length::Exactly(0), false) },
        // Linux sends room for 256 ranges however many there are, because some drives read that much anyway.
        nvm::DATASET_MANAGEMENT => Rule {
            direction: HostToController,
            length: Length::List(u64::from(block::dsm::range_count(entry)) * 16),
            blocks: (0, 0),
            changes: true,
            handling: Handling::List,
            course: Course::Drive,
        },
        nvm::COPY => {
            let format = copy::descriptor_format(entry);
            let range = copy::descriptor_length(format).ok_or(INVALID_FIELD)?;
            let length = u64::from(copy::range_count(entry)) * u64::from(range);
            let across = copy::format_bit(entry) & copy::FORMATS_ACROSS != 0;
            Rule {
                direction: HostToController,
                length: Length::Exactly(length),
                blocks: (0, 0),
                changes: true,
                handling: if across { Handling::Across } else { Handling::List },
                course: Course::Drive,
            }
        }
        nvm::RESERVATION_REGISTER | nvm::RESERVATION_ACQUIRE => reservation(HostToController, 16),
        nvm::RESERVATION_RELEASE => reservation(HostToController, 8),
        nvm::RESERVATION_REPORT => reservation(ControllerToHost, report_length(entry)),
        FIRST_VENDOR_IO.. => vendor(entry.opcode)?,
        opcode if namespace.csi == csi::ZONED_NAMESPACE => zoned(opcode, entry, namespace)?,
        _ => return Err(INVALID_OPCODE),
    })
}

/// A command about reservations (NVMe Base 2.0, 7.2 to 7.5): these are executed here. What a report does not fill is clear.
fn reservation(direction: TransferDirection, length: u64) -> Rule {
    let reports = direction == TransferDirection::ControllerToHost;
    Rule {
        direction,
        length: Length::Exactly(length),
        blocks: (0, 0),
        changes: false,
        handling: if reports { Handling::Cleared } else { Handling::Plain },
        course: Course::Reservations,
    }
}

/// What the Zoned Namespace Command Set adds (ZNS Command Set 1.1, 3.4).
fn zoned(opcode: u8, entry: &SubmissionQueueEntry, namespace: &NamespaceView) -> Result<Rule, Status> {
    use TransferDirection::{ControllerToHost, HostToController, None};
    let first = block::slba(entry);
    match opcode {
        zns::ZONE_APPEND => Ok(Rule {
            direction: HostToController,
            length: Length::AtMost(namespace.format.transfer_length(entry), namespace.zones.append),
            blocks: (first, block::nlb(entry).into()),
            changes: true,
            handling: Handling::Plain,
            course: Course::Drive,
        }),
        zns::ZONE_MANAGEMENT_RECEIVE => match zone::receive_action(entry) {
            receive::REPORT | receive::EXTENDED_REPORT => Ok(Rule {
                direction: ControllerToHost,
                length: Length::Exactly(zone::receive_length(entry)),
                blocks: (first, 1),
                changes: false,
                handling: Handling::Cleared,
                course: Course::Drive,
            }),
            _ => Err(INVALID_FIELD),
        },
        zns::ZONE_MANAGEMENT_SEND => {
            let length = match zone::send_action(entry) {
                send::CLOSE | send::FINISH | send::OPEN | send::RESET | send::OFFLINE | send::FLUSH_ZRWA => 0,
                send::SET_DESCRIPTOR_EXTENSION if namespace.zones.extension > 0 => namespace.zones.extension,
                _ => return Err(INVALID_FIELD),
            };
            let all = entry.cdw13.get() & send::SELECT_ALL != 0;
            Ok(Rule {
                direction: if length > 0 { HostToController } else { None },
                length: Length::Exactly(length.into()),
                blocks: if all { (0, 0) } else { (first, 1) },
                changes: true,
                handling: Handling::Plain,
                course: Course::Drive,
            })
        }
        _ => Err(INVALID_OPCODE),
    }
}

/// A vendor's command: where its data goes is in its opcode, how long it is only the host knows.
fn vendor(opcode: u8) -> Result<Rule, Status> {
    let direction = TransferDirection::of_opcode(opcode);
    let length = match direction {
        TransferDirection::Bidirectional => return Err(INVALID_FIELD),
        TransferDirection::None => Length::Exactly(0),
        _ => Length::Declared,
    };
    Ok(Rule {
        direction,
        length,
        blocks: (0, 0),
        changes: true,
        handling: Handling::Guarded,
        course: Course::Drive,
    })
}

/// Whether a command set has an I/O command that is admitted, a vendor's aside.
pub(crate) const fn is_known(csi: u8, opcode: u8) -> bool {
    match opcode {
        nvm::FLUSH
        | nvm::WRITE
        | nvm::READ
        | nvm::WRITE_UNCORRECTABLE
        | nvm::COMPARE
        | nvm::WRITE_ZEROES
        | nvm::DATASET_MANAGEMENT
        | nvm::VERIFY
        | nvm::COPY
        | nvm::RESERVATION_REGISTER
        | nvm::RESERVATION_REPORT
        | nvm::RESERVATION_ACQUIRE
        | nvm::RESERVATION_RELEASE => true,
        zns::ZONE_MANAGEMENT_SEND | zns::ZONE_MANAGEMENT_RECEIVE | zns::ZONE_APPEND => {
            csi == csi::ZONED_NAMESPACE
        }
        _ => false,
    }
}
