//! Lists of controllers: to its host each remote controller is one of its own, to the drive all of them are one.

use gangway_spec::identify::IDENTIFY_LENGTH;
use gangway_spec::status::Status;

/// A controller list of one controller, or of none (NVMe Base 2.0, 4.1.4).
pub(super) fn list(controller: Option<u16>) -> Vec<u8> {
    let mut data = vec![0; IDENTIFY_LENGTH];
    if let Some(controller) = controller {
        data[..2].copy_from_slice(&1_u16.to_le_bytes());
        data[2..4].copy_from_slice(&controller.to_le_bytes());
    }
    data
}

/// The controllers in a list.
fn parse(data: &[u8]) -> impl Iterator<Item = u16> {
    let mut numbers = data.chunks_exact(2).map(|bytes| u16::from_le_bytes([bytes[0], bytes[1]]));
    let count = numbers.next().unwrap_or(0);
    numbers.take(count.into())
}

/// The list of Namespace Attachment as the drive gets it. A host can name its own controller only: the drive does
/// not know others of ours apart, and what it does for one it does for all.
///
/// # Errors
/// Controller List Invalid.
pub(super) fn to_drive(data: &[u8], cntlid: u16, own: u16) -> Result<Vec<u8>, Status> {
    match (parse(data).next(), parse(data).count()) {
        (Some(named), 1) if named == cntlid => Ok(list(Some(own))),
        _ => Err(Status::CONTROLLER_LIST_INVALID.with_dnr()),
    }
}

/// The controllers that a namespace is attached to (CNS 12h), as a host sees them which asks from `first` on.
pub(super) fn to_host(data: &[u8], cntlid: u16, own: u16, first: u16) -> Vec<u8> {
    let attached = parse(data).any(|controller| controller == own);
    list((attached && cntlid >= first).then_some(cntlid))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(controllers: &[u16]) -> Vec<u8> {
        let count = controllers.len() as u16;
        let mut data: Vec<u8> =
            [count].iter().chain(controllers).flat_map(|number| number.to_le_bytes()).collect();
        data.resize(IDENTIFY_LENGTH, 0);
        data
    }

    #[test]
    fn a_host_names_its_own_controller_and_the_drive_reads_its_own() {
        assert_eq!(to_drive(&of(&[7]), 7, 0), Ok(of(&[0])));
        for controllers in [&[][..], &[0], &[8], &[7, 8], &[7, 7]] {
            let refused = to_drive(&of(controllers), 7, 0);
            assert_eq!(refused, Err(Status::CONTROLLER_LIST_INVALID.with_dnr()), "{controllers:?}");
        }
        let mut too_many = of(&[7]);
        too_many[..2].copy_from_slice(&u16::MAX.to_le_bytes());
        assert!(to_drive(&too_many, 7, 0).is_err());
        assert!(to_drive(&[], 7, 0).is_err() && to_drive(&[1], 7, 0).is_err());
    }

    #[test]
    fn what_is_attached_to_the_drives_controller_is_attached_to_every_hosts() {
        assert_eq!(to_host(&of(&[1, 3]), 7, 3, 0), of(&[7]));
        assert_eq!(to_host(&of(&[1]), 7, 3, 0), of(&[]));
        assert_eq!(to_host(&of(&[3]), 7, 3, 8), of(&[]), "the list starts behind it");
    }
}
