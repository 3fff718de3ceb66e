//! Lists of places that come as the data of a command: they are looked at when they have arrived, in memory that the host
//! cannot change any more.

use gangway_spec::command::SubmissionQueueEntry;
use gangway_spec::nvm::{self, CopyRange, DatasetManagementRange, copy, dsm};
use gangway_spec::opcode;
use gangway_spec::status::Status;
use zerocopy::FromBytes;

use super::{ExportView, ListedBy, NO_NAMESPACE, NamespaceView, is_within};
use crate::reservation::{CONFLICT, Group};

/// The longest list of ranges of Dataset Management: 256 of 16 bytes.
pub(super) const DSM_LONGEST: u64 = dsm::MAX_RANGES as u64 * size_of::<DatasetManagementRange>() as u64;

const OUT_OF_RANGE: Status = Status::LBA_OUT_OF_RANGE.with_dnr();
const MALFORMED: Status = Status::INVALID_FIELD.with_dnr();

/// Checks the list of a command to `namespace`.
///
/// # Errors
/// LBA Out of Range when a range leaves the namespace.
pub(super) fn check(
    entry: &SubmissionQueueEntry,
    namespace: &NamespaceView,
    list: &[u8],
) -> Result<(), Status> {
    match entry.opcode {
        opcode::nvm::DATASET_MANAGEMENT => {
            let ranges = dsm::range_count(entry) as usize;
            for range in list.chunks_exact(size_of::<DatasetManagementRange>()).take(ranges) {
                let range = DatasetManagementRange::ref_from_bytes(range).map_err(|_| MALFORMED)?;
                within(namespace, range.slba.get(), range.length.get().into())?;
            }
            Ok(())
        }
        opcode::nvm::COPY => {
            let mut blocks = 0;
            for range in list.chunks_exact(range_length(entry)?) {
                // What both formats begin with is all that says where the blocks are.
                let (range, _) = CopyRange::ref_from_prefix(range).map_err(|_| MALFORMED)?;
                within(namespace, range.slba.get(), range.blocks().into())?;
                blocks += u64::from(range.blocks());
            }
            within(namespace, nvm::slba(entry), blocks)
        }
        _ => Err(MALFORMED),
    }
}

/// Checks the list of a Copy to `namespace` from any namespaces of its drive, and names these as the drive does.
///
/// # Errors
/// Invalid Field when not both host and drives have enabled the format. Of a source: Invalid Namespace or Format when the
/// export does not show it, Incompatible Namespace or Format when it is of another drive or has blocks of another size,
/// Reservation Conflict when the host may not read it, LBA Out of Range when a range leaves it, and when all together leave
/// the namespace that they are copied to.
#[cold]
pub(super) fn check_across(
    view: &ExportView,
    entry: &SubmissionQueueEntry,
    namespace: &NamespaceView,
    by: ListedBy,
    list: &mut [u8],
) -> Result<(), Status> {
    if view.copy_formats & by.copy_formats & copy::format_bit(entry) == 0 {
        return Err(MALFORMED);
    }
    let mut blocks = 0;
    for range in list.chunks_exact_mut(range_length(entry)?) {
        let (range, _) = CopyRange::mut_from_prefix(range).map_err(|_| MALFORMED)?;
        let source = view.namespace(range.snsid.get()).ok_or(NO_NAMESPACE)?;
        // Blocks of another size would be another length at the destination.
        if source.drive != namespace.drive || source.format.block_size != namespace.format.block_size {
            return Err(Status::INCOMPATIBLE_NAMESPACE_OR_FORMAT.with_dnr());
        }
        if !view.group_is_permitted(by.host, source.nsid, Group::Read) {
            return Err(CONFLICT);
        }
        within(source, range.slba.get(), range.blocks().into())?;
        blocks += u64::from(range.blocks());
        range.snsid.set(source.drive_nsid);
    }
    within(namespace, nvm::slba(entry), blocks)
}

/// Bytes of a source range of a Copy.
fn range_length(entry: &SubmissionQueueEntry) -> Result<usize, Status> {
    copy::descriptor_length(copy::descriptor_format(entry)).map(|length| length as usize).ok_or(MALFORMED)
}

fn within(namespace: &NamespaceView, first: u64, blocks: u64) -> Result<(), Status> {
    if is_within(namespace.blocks, first, blocks) { Ok(()) } else { Err(OUT_OF_RANGE) }
}
