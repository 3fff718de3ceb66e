//! What Reservation Report returns.

use gangway_spec::command::SubmissionQueueEntry;
use gangway_spec::reservation::{
    ExtendedRegisteredController, ExtendedReservationStatus, report_is_extended, report_length,
};
use gangway_spec::status::Status;
use zerocopy::IntoBytes;

use super::state::{Host, Namespace};

/// The bytes that a Reservation Report asks for, as many as there are. `controllers` gives those that a host has now.
///
/// # Errors
/// When it asks for 64-bit host identifiers: those of hosts over fabrics have 128 bits (NVMe Base 2.0, 7.5).
pub(crate) fn report(
    namespace: &Namespace,
    entry: &SubmissionQueueEntry,
    controllers: impl Fn(Host) -> Vec<u16>,
) -> Result<Vec<u8>, Status> {
    if !report_is_extended(entry) {
        return Err(Status::HOST_IDENTIFIER_INCONSISTENT.with_dnr());
    }
    let mut entries = Vec::new();
    for (host, key) in namespace.registrants() {
        let mut found = controllers(host);
        if found.is_empty() {
            found.push(ExtendedRegisteredController::NO_CONTROLLER);
        }
        for cntlid in found {
            let mut controller = ExtendedRegisteredController::default();
            controller.cntlid.set(cntlid);
            controller.rcsts = u8::from(namespace.is_holder(host));
            controller.rkey.set(key);
            controller.hostid = host.to_be_bytes();
            entries.push(controller);
        }
    }
    let mut status = ExtendedReservationStatus::default();
    status.generation.set(namespace.generation());
    status.rtype = namespace.held().map_or(0, |held| held.kind.value());
    status.registered.set(u16::try_from(entries.len()).unwrap_or(u16::MAX));
    status.ptpls = u8::from(namespace.persists());
    let mut data = status.as_bytes().to_vec();
    data.extend_from_slice(entries.as_bytes());
    data.truncate(usize::try_from(report_length(entry)).unwrap_or(usize::MAX));
    Ok(data)
}

#[cfg(test)]
mod tests {
    use gangway_spec::opcode::nvm;
    use gangway_spec::reservation::ReservationType;
    use zerocopy::FromBytes;

    use super::super::state::Held;
    use super::*;

    fn command(length: u32, extended: bool) -> SubmissionQueueEntry {
        let mut entry = SubmissionQueueEntry::new(nvm::RESERVATION_REPORT);
        entry.cdw10.set(length / 4 - 1);
        entry.cdw11.set(u32::from(extended));
        entry
    }

    fn namespace(kind: ReservationType) -> Namespace {
        Namespace {
            generation: 7,
            persists: true,
            names: Default::default(),
            registrants: [(0x0102, 0xaa), (0x0103, 0xbb)].into(),
            held: Some(Held { kind, holder: (!kind.is_all_registrants()).then_some(0x0103) }),
        }
    }

    fn read(data: &[u8]) -> (ExtendedReservationStatus, Vec<ExtendedRegisteredController>) {
        let (status, rest) = ExtendedReservationStatus::read_from_prefix(data).unwrap();
        let size = size_of::<ExtendedRegisteredController>();
        let controllers =
            rest.chunks_exact(size).map(|one| ExtendedRegisteredController::read_from_bytes(one).unwrap());
        (status, controllers.collect())
    }

    #[test]
    fn a_report_names_each_controller_of_each_registrant_and_the_holder() {
        let controllers = |host| if host == 0x0102 { vec![3, 9] } else { Vec::new() };
        let namespace = namespace(ReservationType::WriteExclusive);
        let (status, found) = read(&report(&namespace, &command(4096, true), controllers).unwrap());
        assert_eq!(
            (status.generation.get(), status.rtype, status.registered.get(), status.ptpls),
            (7, 1, 3, 1)
        );
        let found: Vec<_> = found.iter().map(|one| (one.cntlid.get(), one.rcsts, one.rkey.get())).collect();
        assert_eq!(found, [(3, 0, 0xaa), (9, 0, 0xaa), (0xffff, 1, 0xbb)]);
    }

    #[test]
    fn every_registrant_holds_a_reservation_of_all_registrants() {
        let namespace = namespace(ReservationType::ExclusiveAccessAllRegistrants);
        let (_, found) = read(&report(&namespace, &command(4096, true), |_| Vec::new()).unwrap());
        assert!(found.len() == 2 && found.iter().all(|one| one.rcsts == 1));
        assert_eq!(found[1].hostid[14..], [1, 3]);
    }

    #[test]
    fn a_short_report_says_how_many_there_are_all_the_same() {
        let namespace = namespace(ReservationType::WriteExclusive);
        let data = report(&namespace, &command(64, true), |_| Vec::new()).unwrap();
        let (status, found) = read(&data);
        assert_eq!((status.registered.get(), found.len()), (2, 0));
        assert_eq!(report(&namespace, &command(8, true), |_| Vec::new()).unwrap().len(), 8);
    }

    #[test]
    fn host_identifiers_of_64_bits_are_refused() {
        let refused = report(&Namespace::default(), &command(4096, false), |_| Vec::new());
        assert_eq!(refused, Err(Status::HOST_IDENTIFIER_INCONSISTENT.with_dnr()));
    }
}
