//! What reservation commands do, command by command, and against a model that says the same in another way.

use gangway_spec::reservation::{
    ReservationParameters, ReservationType, cptpl, notification, racqa, rrega, rrela,
};
use gangway_spec::status::Status;
use proptest::prelude::*;

use super::state::{Command, Held, Host, MOST_REGISTRANTS, Namespace, Outcome};

const CONFLICT: Status = Status::RESERVATION_CONFLICT.with_dnr();
const INVALID: Status = Status::INVALID_FIELD.with_dnr();

const A: Host = 0xa;
const B: Host = 0xb;
const C: Host = 0xc;

fn parameters(action: u8, kind: u8) -> ReservationParameters {
    ReservationParameters { action, ignore_existing_key: false, rtype: kind, cptpl: cptpl::NO_CHANGE }
}

fn register(nrkey: u64) -> Command {
    Command::Register { parameters: parameters(rrega::REGISTER, 0), crkey: 0, nrkey }
}

fn replace(crkey: u64, nrkey: u64, ignore_existing_key: bool) -> Command {
    let parameters = ReservationParameters { ignore_existing_key, ..parameters(rrega::REPLACE, 0) };
    Command::Register { parameters, crkey, nrkey }
}

fn unregister(crkey: u64) -> Command {
    Command::Register { parameters: parameters(rrega::UNREGISTER, 0), crkey, nrkey: 0 }
}

fn acquire(crkey: u64, kind: ReservationType) -> Command {
    Command::Acquire { parameters: parameters(racqa::ACQUIRE, kind.value()), crkey, prkey: 0 }
}

fn preempt(crkey: u64, prkey: u64, kind: ReservationType) -> Command {
    Command::Acquire { parameters: parameters(racqa::PREEMPT, kind.value()), crkey, prkey }
}

fn release(crkey: u64, kind: ReservationType) -> Command {
    Command::Release { parameters: parameters(rrela::RELEASE, kind.value()), crkey }
}

fn clear(crkey: u64) -> Command {
    Command::Release { parameters: parameters(rrela::CLEAR, 0), crkey }
}

/// A namespace with these registrants, of which A has the keys of the first, and so on.
fn with(keys: &[(Host, u64)]) -> Namespace {
    let mut namespace = Namespace::default();
    for (host, key) in keys {
        namespace.execute(*host, &register(*key), false).unwrap();
    }
    namespace
}

fn run(namespace: &mut Namespace, host: Host, command: Command) -> Result<Vec<(Host, u8)>, Status> {
    namespace.execute(host, &command, true).map(|outcome| outcome.notices)
}

use ReservationType::{
    ExclusiveAccess as Ea, ExclusiveAccessAllRegistrants as EaAr, ExclusiveAccessRegistrantsOnly as EaRo,
    WriteExclusive as We, WriteExclusiveAllRegistrants as WeAr, WriteExclusiveRegistrantsOnly as WeRo,
};

#[test]
fn a_host_registers_once_and_the_same_key_again_is_no_error() {
    let mut namespace = with(&[(A, 1)]);
    assert_eq!(run(&mut namespace, A, register(1)), Ok(Vec::new()));
    assert_eq!(run(&mut namespace, A, register(2)), Err(CONFLICT));
    assert_eq!(run(&mut namespace, B, register(0)), Err(INVALID), "0 is no key");
    assert_eq!(run(&mut namespace, B, register(1)), Ok(Vec::new()), "hosts may share a key");
    assert_eq!(namespace.registrants().collect::<Vec<_>>(), [(A, 1), (B, 1)]);
}

#[test]
fn replacing_a_key_needs_the_old_one_or_ignore_existing_key() {
    let mut namespace = with(&[(A, 1)]);
    assert_eq!(run(&mut namespace, A, replace(9, 2, false)), Err(CONFLICT));
    assert_eq!(run(&mut namespace, A, replace(1, 2, false)), Ok(Vec::new()));
    assert_eq!(run(&mut namespace, A, replace(9, 3, true)), Ok(Vec::new()));
    assert_eq!(run(&mut namespace, B, replace(0, 4, false)), Err(CONFLICT));
    assert_eq!(run(&mut namespace, B, replace(0, 4, true)), Ok(Vec::new()), "it registers the host");
    assert_eq!(namespace.registrants().collect::<Vec<_>>(), [(A, 3), (B, 4)]);
}

#[test]
fn who_is_no_registrant_or_has_another_key_can_do_nothing() {
    let mut namespace = with(&[(A, 1)]);
    for command in [unregister(1), acquire(1, We), preempt(1, 1, We), release(1, We), clear(1)] {
        assert_eq!(run(&mut namespace, B, command), Err(CONFLICT), "{command:?}");
    }
    for command in [unregister(9), acquire(9, We), preempt(9, 1, We), release(9, We), clear(9)] {
        assert_eq!(run(&mut namespace, A, command), Err(CONFLICT), "{command:?}");
    }
    assert_eq!(namespace, with(&[(A, 1)]));
}

#[test]
fn values_without_a_meaning_are_refused() {
    let mut namespace = with(&[(A, 1)]);
    for kind in [0, 7, 0xff] {
        for action in [racqa::ACQUIRE, racqa::PREEMPT] {
            let command = Command::Acquire { parameters: parameters(action, kind), crkey: 1, prkey: 1 };
            assert_eq!(run(&mut namespace, A, command), Err(INVALID), "{command:?}");
        }
    }
    for action in 3..8 {
        let parameters = parameters(action, 1);
        for command in [
            Command::Register { parameters, crkey: 1, nrkey: 1 },
            Command::Acquire { parameters, crkey: 1, prkey: 1 },
            Command::Release { parameters, crkey: 1 },
        ] {
            assert_eq!(run(&mut namespace, A, command), Err(INVALID), "{command:?}");
        }
    }
    let ignoring = ReservationParameters { ignore_existing_key: true, ..parameters(0, 1) };
    for command in [
        Command::Acquire { parameters: ignoring, crkey: 1, prkey: 0 },
        Command::Release { parameters: ignoring, crkey: 1 },
    ] {
        assert_eq!(run(&mut namespace, A, command), Err(INVALID), "IEKEY is for Register alone: {command:?}");
    }
}

#[test]
fn one_host_holds_a_reservation_until_it_releases_it_with_its_type() {
    for kind in [We, Ea, WeRo, EaRo] {
        let mut namespace = with(&[(A, 1), (B, 2)]);
        assert_eq!(run(&mut namespace, A, acquire(1, kind)), Ok(Vec::new()));
        assert_eq!(run(&mut namespace, A, acquire(1, kind)), Ok(Vec::new()), "once more is no error");
        let other = if kind == We { Ea } else { We };
        assert_eq!(run(&mut namespace, A, acquire(1, other)), Err(CONFLICT));
        assert_eq!(run(&mut namespace, B, acquire(2, kind)), Err(CONFLICT));
        assert_eq!(run(&mut namespace, B, release(2, kind)), Ok(Vec::new()), "it has nothing to release");
        assert_eq!(namespace.held(), Some(Held { kind, holder: Some(A) }));
        assert_eq!(run(&mut namespace, A, release(1, other)), Err(INVALID));
        let told = if kind.is_for_registrants() {
            vec![(B, notification::RESERVATION_RELEASED)]
        } else {
            Vec::new()
        };
        assert_eq!(run(&mut namespace, A, release(1, kind)), Ok(told));
        assert_eq!(run(&mut namespace, A, release(1, kind)), Ok(Vec::new()), "there is none any more");
        assert_eq!(run(&mut namespace, B, acquire(2, kind)), Ok(Vec::new()));
    }
}

#[test]
fn all_registrants_hold_a_reservation_of_theirs_until_the_last_one_is_gone() {
    for kind in [WeAr, EaAr] {
        let mut namespace = with(&[(A, 1), (B, 2)]);
        run(&mut namespace, A, acquire(1, kind)).unwrap();
        assert!(namespace.is_holder(A) && namespace.is_holder(B) && !namespace.is_holder(C));
        assert_eq!(run(&mut namespace, B, acquire(2, kind)), Ok(Vec::new()), "it holds it already");
        assert_eq!(run(&mut namespace, A, unregister(1)), Ok(Vec::new()));
        assert_eq!(namespace.held(), Some(Held { kind, holder: None }));
        run(&mut namespace, C, register(3)).unwrap();
        assert!(namespace.is_holder(C));
        assert_eq!(
            run(&mut namespace, C, release(3, kind)),
            Ok(vec![(B, notification::RESERVATION_RELEASED)]),
            "any of them may release it"
        );
        run(&mut namespace, B, acquire(2, kind)).unwrap();
        run(&mut namespace, C, unregister(3)).unwrap();
        run(&mut namespace, B, unregister(2)).unwrap();
        assert_eq!(namespace.held(), None);
    }
}

#[test]
fn a_holder_that_unregisters_releases_its_reservation() {
    for (kind, told) in [(We, false), (Ea, false), (WeRo, true), (EaRo, true)] {
        let mut namespace = with(&[(A, 1), (B, 2)]);
        run(&mut namespace, A, acquire(1, kind)).unwrap();
        let notices = run(&mut namespace, A, unregister(1)).unwrap();
        assert_eq!(notices == [(B, notification::RESERVATION_RELEASED)], told, "{kind}");
        assert_eq!(namespace.held(), None);
    }
}

#[test]
fn preempting_the_holder_takes_its_reservation_and_its_registration() {
    let mut namespace = with(&[(A, 1), (B, 2), (C, 3)]);
    run(&mut namespace, A, acquire(1, We)).unwrap();
    let notices = run(&mut namespace, B, preempt(2, 1, EaRo)).unwrap();
    assert_eq!(
        notices,
        [(A, notification::REGISTRATION_PREEMPTED), (C, notification::RESERVATION_RELEASED)],
        "C is told because the type is another one"
    );
    assert_eq!(namespace.held(), Some(Held { kind: EaRo, holder: Some(B) }));
    assert_eq!(namespace.registrants().collect::<Vec<_>>(), [(B, 2), (C, 3)]);
    let notices = run(&mut namespace, C, preempt(3, 2, EaRo)).unwrap();
    assert_eq!(notices, [(B, notification::REGISTRATION_PREEMPTED)]);
}

#[test]
fn preempting_another_registrant_leaves_the_reservation() {
    let mut namespace = with(&[(A, 1), (B, 2), (C, 2)]);
    run(&mut namespace, A, acquire(1, We)).unwrap();
    let notices = run(&mut namespace, A, preempt(1, 2, Ea)).unwrap();
    assert_eq!(
        notices,
        [(B, notification::REGISTRATION_PREEMPTED), (C, notification::REGISTRATION_PREEMPTED)]
    );
    assert_eq!(namespace.held(), Some(Held { kind: We, holder: Some(A) }));
    assert_eq!(run(&mut namespace, A, preempt(1, 2, Ea)), Err(CONFLICT), "nobody has that key");
    assert_eq!(run(&mut namespace, A, preempt(1, 0, Ea)), Err(INVALID), "0 is for all registrants");
}

#[test]
fn a_holder_may_preempt_itself_to_change_the_type() {
    let mut namespace = with(&[(A, 1), (B, 2)]);
    run(&mut namespace, A, acquire(1, WeRo)).unwrap();
    let notices = run(&mut namespace, A, preempt(1, 1, Ea)).unwrap();
    assert_eq!(notices, [(B, notification::RESERVATION_RELEASED)]);
    assert_eq!(namespace.held(), Some(Held { kind: Ea, holder: Some(A) }));
    assert_eq!(namespace.registrants().count(), 2);
}

#[test]
fn a_reservation_of_all_registrants_is_preempted_with_key_0() {
    let mut namespace = with(&[(A, 1), (B, 2), (C, 3)]);
    run(&mut namespace, A, acquire(1, EaAr)).unwrap();
    assert_eq!(run(&mut namespace, A, preempt(1, 9, We)), Err(CONFLICT));
    assert_eq!(
        run(&mut namespace, A, preempt(1, 3, We)),
        Ok(vec![(C, notification::REGISTRATION_PREEMPTED)]),
        "with a key it takes registrations only"
    );
    assert_eq!(namespace.held(), Some(Held { kind: EaAr, holder: None }));
    assert_eq!(
        run(&mut namespace, B, preempt(2, 0, We)),
        Ok(vec![(A, notification::REGISTRATION_PREEMPTED)])
    );
    assert_eq!(namespace.held(), Some(Held { kind: We, holder: Some(B) }));
}

#[test]
fn without_a_reservation_preempting_removes_registrants_and_takes_nothing() {
    let mut namespace = with(&[(A, 1), (B, 2)]);
    assert_eq!(run(&mut namespace, A, preempt(1, 9, We)), Err(CONFLICT));
    assert_eq!(run(&mut namespace, A, preempt(1, 0, We)), Err(INVALID));
    assert_eq!(
        run(&mut namespace, A, preempt(1, 2, We)),
        Ok(vec![(B, notification::REGISTRATION_PREEMPTED)])
    );
    assert_eq!(namespace.held(), None);
    assert_eq!(run(&mut namespace, A, preempt(1, 1, We)), Ok(Vec::new()), "a host can remove itself");
    assert_eq!(namespace.registrants().count(), 0);
}

#[test]
fn preempt_and_abort_ends_the_commands_of_those_who_are_preempted_and_of_nobody_else() {
    let mut namespace = with(&[(A, 1), (B, 2), (C, 3)]);
    run(&mut namespace, A, acquire(1, WeRo)).unwrap();
    let command =
        Command::Acquire { parameters: parameters(racqa::PREEMPT_AND_ABORT, Ea.value()), crkey: 2, prkey: 1 };
    let Outcome { aborts, .. } = namespace.execute(B, &command, false).unwrap();
    assert_eq!(aborts, [A], "C stays a registrant");
    let preempt = namespace.execute(C, &preempt(3, 2, Ea), false).unwrap();
    assert!(preempt.aborts.is_empty(), "without Abort nothing is aborted");
}

#[test]
fn clearing_removes_the_reservation_and_all_registrants() {
    let mut namespace = with(&[(A, 1), (B, 2)]);
    run(&mut namespace, A, acquire(1, Ea)).unwrap();
    assert_eq!(run(&mut namespace, B, clear(2)), Ok(vec![(A, notification::RESERVATION_PREEMPTED)]));
    assert_eq!((namespace.held(), namespace.registrants().count()), (None, 0));
}

#[test]
fn the_generation_rises_with_what_changes_registrants_and_with_nothing_else() {
    let mut namespace = with(&[(A, 1), (B, 2)]);
    let mut risen = |host, command| {
        let before = namespace.generation();
        let _ = run(&mut namespace, host, command);
        namespace.generation() != before
    };
    assert!(!risen(A, acquire(1, We)));
    assert!(!risen(B, acquire(2, We)), "it failed");
    assert!(!risen(A, release(1, We)));
    assert!(risen(A, register(1)));
    assert!(risen(A, replace(1, 3, false)));
    assert!(risen(A, preempt(3, 2, We)));
    assert!(risen(A, clear(3)));
    namespace.generation = u32::MAX;
    run(&mut namespace, A, register(1)).unwrap();
    assert_eq!(namespace.generation(), 0, "it wraps");
}

#[test]
fn persistence_is_changed_by_register_and_only_where_it_is_possible() {
    let mut namespace = Namespace::default();
    let register = |cptpl| Command::Register {
        parameters: ReservationParameters { cptpl, ..parameters(rrega::REGISTER, 0) },
        crkey: 0,
        nrkey: 1,
    };
    assert_eq!(namespace.execute(A, &register(cptpl::SET), false), Err(INVALID));
    assert_eq!(namespace.execute(A, &register(1), true), Err(INVALID), "reserved");
    assert_eq!(namespace.registrants().count(), 0, "what fails changes nothing");
    for (value, persists) in [(cptpl::SET, true), (cptpl::NO_CHANGE, true), (cptpl::CLEAR, false)] {
        namespace.execute(A, &register(value), true).unwrap();
        assert_eq!(namespace.persists(), persists);
    }
}

#[test]
fn there_is_an_end_to_registrants() {
    let mut namespace = Namespace::default();
    for host in 0..MOST_REGISTRANTS as Host {
        run(&mut namespace, host, register(1)).unwrap();
    }
    assert!(run(&mut namespace, Host::MAX, register(1)).is_err());
    assert_eq!(run(&mut namespace, 0, register(1)), Ok(Vec::new()), "who is one stays one");
    assert!(run(&mut namespace, Host::MAX, replace(0, 1, true)).is_err());
}

fn commands() -> impl Strategy<Value = (Host, Command)> {
    let parameters = (0_u8..4, proptest::bool::weighted(0.2), 0_u8..8, 0_u8..4).prop_map(
        |(action, ignore_existing_key, rtype, cptpl)| ReservationParameters {
            action,
            ignore_existing_key,
            rtype,
            cptpl,
        },
    );
    // Host n has key n + 1 mostly, so that commands succeed often.
    (0..4_u128, parameters, 0_u8..3, 0_u64..6, 0_u64..6, any::<bool>()).prop_map(
        |(host, parameters, which, own, other, honest)| {
            let crkey = if honest { host as u64 + 1 } else { own };
            let command = match which {
                0 => {
                    let nrkey = if honest { host as u64 + 1 } else { other };
                    Command::Register { parameters, crkey, nrkey }
                }
                1 => Command::Acquire { parameters, crkey, prkey: other },
                _ => Command::Release { parameters, crkey },
            };
            (host, command)
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    /// What holds after every command, whatever came before.
    #[test]
    fn a_namespace_is_consistent_after_any_commands(commands in proptest::collection::vec(commands(), 1..60)) {
        let mut namespace = Namespace::default();
        for (host, command) in commands {
            let before = namespace.clone();
            let result = namespace.execute(host, &command, true);
            let Ok(Outcome { notices, aborts }) = result else {
                prop_assert_eq!(&namespace, &before, "a command that fails changes nothing");
                continue;
            };
            if let Some(held) = namespace.held() {
                prop_assert_eq!(held.holder.is_none(), held.kind.is_all_registrants());
                match held.holder {
                    Some(holder) => prop_assert!(namespace.registrants.contains_key(&holder)),
                    None => prop_assert!(!namespace.registrants.is_empty()),
                }
            }
            // Who lost its registration to another host is told so, and nobody else.
            let lost: Vec<Host> = before.registrants.keys().copied()
                .filter(|other| *other != host && !namespace.registrants.contains_key(other)).collect();
            let told: Vec<Host> = notices.iter()
                .filter(|(_, kind)| *kind != notification::RESERVATION_RELEASED).map(|(other, _)| *other).collect();
            prop_assert_eq!(&lost, &told);
            // Nobody is told of its own command, and nobody twice.
            let mut everybody: Vec<Host> = notices.iter().map(|(other, _)| *other).collect();
            everybody.sort_unstable();
            prop_assert!(!everybody.contains(&host));
            prop_assert!(everybody.windows(2).all(|pair| pair[0] != pair[1]));
            // That a reservation is released is told to those who are registrants still.
            for (other, kind) in &notices {
                let registered = namespace.registrants.contains_key(other);
                prop_assert_eq!(*kind == notification::RESERVATION_RELEASED, registered);
            }
            prop_assert!(aborts.iter().all(|other| lost.contains(other)));
            // Another host's key is never changed.
            for (other, key) in &namespace.registrants {
                prop_assert!(*other == host || before.registrants.get(other) == Some(key));
            }
            // Only Acquire makes a reservation, or gives it to another.
            if namespace.held() != before.held() && namespace.held().is_some() {
                let acquires = matches!(command, Command::Acquire { .. });
                prop_assert!(acquires);
                prop_assert!(namespace.is_holder(host));
            }
        }
    }

    /// While a reservation that excludes it is held, no command of a host that is no registrant changes anything but
    /// that host's registration.
    #[test]
    fn a_stranger_cannot_touch_a_reservation(commands in proptest::collection::vec(commands(), 1..30)) {
        let mut namespace = Namespace::default();
        for (host, command) in commands {
            let stranger = !namespace.registrants.contains_key(&host);
            let before = namespace.clone();
            if namespace.execute(host, &command, true).is_ok() && stranger {
                prop_assert_eq!(namespace.held(), before.held());
                namespace.registrants.remove(&host).expect("the host registered");
                prop_assert_eq!(&namespace.registrants, &before.registrants);
            }
        }
    }
}
