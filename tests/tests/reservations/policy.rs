//! Reservations that a policy takes from hosts.

use gangway_bridge::policy::{HostPolicies, Item, Policy};
use gangway_fabric::host::client::Transfer;
use gangway_spec::feature::fid;
use gangway_spec::identify::{IdentifyController, Oncs, cns};
use gangway_spec::log::{CommandsSupportedAndEffectsLog, lid};
use gangway_spec::opcode::nvm;
use gangway_spec::reservation::ReservationType::WriteExclusive;
use gangway_spec::reservation::{cptpl, racqa, rrega, rrela};
use gangway_spec::{Status, SubmissionQueueEntry};
use gangway_tests::{Setup, TestTarget, identity};
use zerocopy::FromBytes;

use crate::host::Host;
use crate::{CONFLICT, drive};

const UNKNOWN: Status = Status::INVALID_OPCODE.with_dnr();
const INVALID: Status = Status::INVALID_FIELD.with_dnr();

fn policy(refused: &[&str]) -> Policy {
    let parse = |text: &&str| text.parse::<Item>().unwrap();
    Policy::new(["inspect"].iter().map(parse), refused.iter().map(parse))
}

/// A target whose reservations are for host 1 alone: the others may do all but what is `refused`.
fn target(refused: &[&str]) -> TestTarget {
    let mut policies = HostPolicies::all(policy(refused));
    policies.name(&identity(1).nqn, policy(&[]));
    TestTarget::with(Setup { drives: vec![drive()], policies, ..Setup::default() })
}

fn report(host: &mut Host) -> Status {
    let mut entry = SubmissionQueueEntry::new(nvm::RESERVATION_REPORT);
    entry.nsid.set(1);
    entry.cdw10.set(15);
    entry.cdw11.set(1);
    host.queue.execute(&entry, Transfer::Read(64)).unwrap().entry.status()
}

/// Whether Identify Controller, Identify Namespace, the effects log, features and log pages promise reservations.
fn promises(host: &mut Host) -> [bool; 8] {
    let data = host.admin.identify(cns::CONTROLLER, 0).unwrap();
    let oncs = Oncs::from_bits_retain(IdentifyController::read_from_bytes(&data).unwrap().oncs.get());
    let rescap = host.admin.identify_namespace(1).unwrap().rescap;
    let effects = host.admin.log_page(lid::COMMANDS_SUPPORTED_AND_EFFECTS, 0, 0, 4096, true).unwrap();
    let effects = CommandsSupportedAndEffectsLog::read_from_bytes(&effects).unwrap();
    let promised = |opcode: u8| effects.io[usize::from(opcode)].get() & 1 == 1;
    [
        oncs.contains(Oncs::RESERVATIONS),
        rescap != 0,
        promised(nvm::RESERVATION_REGISTER),
        promised(nvm::RESERVATION_REPORT),
        promised(nvm::RESERVATION_ACQUIRE),
        promised(nvm::RESERVATION_RELEASE),
        host.feature(fid::RESERVATION_NOTIFICATION_MASK, 1).is_ok(),
        host.admin.log_page(lid::RESERVATION_NOTIFICATION, 0, 0, 64, true).is_ok(),
    ]
}

#[test]
fn a_host_that_may_not_reserve_finds_a_controller_without_reservations() {
    // One of their commands is enough: with the others alone nobody could reserve.
    let all: &[&str] = &["io:0dh", "io:0eh", "io:11h", "io:15h"];
    for refused in [all, &all[..1], &all[1..2], &all[2..3], &all[3..]] {
        let target = target(refused);
        let mut holder = Host::registered(&target, 1);
        let mut other = Host::connect(&target, 2);
        assert_eq!(promises(&mut holder), [true; 8]);
        assert_eq!(promises(&mut other), [false; 8], "{refused:?}");
        assert_eq!(other.register(rrega::REGISTER, cptpl::NO_CHANGE), UNKNOWN, "{refused:?}");
        assert_eq!(other.acquire(racqa::ACQUIRE, WriteExclusive, 0), UNKNOWN, "{refused:?}");
        assert_eq!(other.release(rrela::RELEASE, WriteExclusive), UNKNOWN, "{refused:?}");
        assert_eq!(report(&mut other), UNKNOWN, "{refused:?}");
        for id in [fid::RESERVATION_NOTIFICATION_MASK, fid::RESERVATION_PERSISTENCE] {
            assert_eq!((other.feature(id, 1), other.set_feature(id, 1, 0)), (Err(INVALID), INVALID));
        }
        // It obeys those of others all the same.
        assert_eq!(holder.acquire(racqa::ACQUIRE, WriteExclusive, 0), Status::SUCCESS);
        assert_eq!((other.write(1), other.read()), (CONFLICT, Status::SUCCESS));
        assert_eq!(holder.release(rrela::RELEASE, WriteExclusive), Status::SUCCESS);
        assert_eq!(other.write(2), Status::SUCCESS);
    }
}
