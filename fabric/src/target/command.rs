//! What of a command the transport decides: its data pointer, and the fields that have no meaning over TCP.

use gangway_spec::command::PSDT_SGL;
use gangway_spec::{SglDescriptor, Status, SubmissionQueueEntry, TransferDirection, opcode};

use super::CapsuleData;

const IN_CAPSULE: u8 = SglDescriptor::IDENTIFIER_IN_CAPSULE;
const TRANSPORT: u8 = SglDescriptor::IDENTIFIER_TRANSPORT;

/// The type of a fabrics command (which stands where other commands have their NSID), if `entry` is one.
pub(super) fn fabrics_type(entry: &SubmissionQueueEntry) -> Option<u8> {
    // The NSID's lowest byte.
    (entry.opcode == opcode::admin::FABRICS).then(|| entry.nsid.to_bytes()[0])
}

/// What data `entry`, whose [`fabrics_type`] is `fabrics`, declares, in a capsule that carries `carried` bytes behind the
/// command and may carry `limit`.
///
/// # Errors
/// The status to answer. None of these errors breaks the framing of the stream.
#[inline]
pub(super) fn examine(
    entry: &SubmissionQueueEntry,
    fabrics: Option<u8>,
    carried: u32,
    limit: u32,
) -> Result<CapsuleData, Status> {
    // Fused commands need both halves to be neighbours on one hardware queue, which nobody promises here.
    if entry.fuse() != 0 || entry.psdt() != PSDT_SGL {
        return Err(Status::INVALID_FIELD.with_dnr());
    }
    let direction = TransferDirection::of_opcode(fabrics.unwrap_or(entry.opcode));
    let data = if fabrics.is_some() && direction == TransferDirection::None {
        // Property Get, Property Set and Disconnect have reserved bytes where other commands have their SGL.
        CapsuleData::None
    } else if entry.mptr.get() != 0 {
        return Err(Status::INVALID_FIELD.with_dnr());
    } else {
        let sgl = entry.sgl();
        let len = sgl.length.get();
        match sgl.identifier {
            IN_CAPSULE if len == 0 => CapsuleData::None,
            IN_CAPSULE => {
                if !matches!(
                    direction,
                    TransferDirection::HostToController | TransferDirection::Bidirectional
                ) {
                    return Err(Status::INVALID_FIELD.with_dnr());
                }
                // ICDOFF is 0: the data starts right behind the command.
                if sgl.address.get() != 0 {
                    return Err(Status::SGL_OFFSET_INVALID.with_dnr());
                }
                CapsuleData::InCapsule { len }
            }
            TRANSPORT if len == 0 => CapsuleData::None,
            TRANSPORT => CapsuleData::Transport { len },
            _ => return Err(Status::SGL_DESCRIPTOR_TYPE_INVALID.with_dnr()),
        }
    };
    let declared = if let CapsuleData::InCapsule { len } = data { len } else { 0 };
    if declared != carried || carried > limit {
        return Err(Status::DATA_SGL_LENGTH_INVALID.with_dnr());
    }
    Ok(data)
}
