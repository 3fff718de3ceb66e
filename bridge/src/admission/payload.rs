//! Lists of places that come as the data of a command: they are looked at when they have arrived, in memory that the host
//! cannot change any more.

use gangway_spec::command::SubmissionQueueEntry;
use gangway_spec::nvm::{self, CopyRange, DatasetManagementRange, copy, dsm};
use gangway_spec::opcode;
use gangway_spec::status::Status;
use zerocopy::FromBytes;

use super::{NamespaceView, is_within};

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
            let length = copy::descriptor_length(copy::descriptor_format(entry)).ok_or(MALFORMED)?;
            let mut blocks = 0;
            for range in list.chunks_exact(length as usize) {
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

fn within(namespace: &NamespaceView, first: u64, blocks: u64) -> Result<(), Status> {
    if is_within(namespace.blocks, first, blocks) { Ok(()) } else { Err(OUT_OF_RANGE) }
}
