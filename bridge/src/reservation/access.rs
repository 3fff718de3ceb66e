//! Who may do what while a namespace is reserved: the table of NVMe Base 2.0, 8.19.8, and of the command sets.

use std::sync::Arc;

use gangway_spec::command::NSID_BROADCAST;
use gangway_spec::opcode::{FIRST_VENDOR_ADMIN, admin, nvm, zns};
use gangway_spec::reservation::ReservationType;
use gangway_spec::status::Status;

use super::registry::Key;
use super::state::{Host, Namespace};

/// What a command ends with that a reservation forbids.
pub(crate) const CONFLICT: Status = Status::RESERVATION_CONFLICT.with_dnr();
/// What a command ends with whose host was preempted by Preempt and Abort.
const ABORTED: Status = Status::ABORTED_PREEMPT_AND_ABORT.with_dnr();

/// What a command does to a namespace, as far as reservations are concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Group {
    /// It looks at what the namespace holds.
    Read,
    /// It changes what the namespace holds.
    Write,
    /// Reservations do not keep anybody from it.
    Free,
}

/// Whether an I/O command is about reservations: those are executed here.
pub(crate) const fn is_reservation(opcode: u8) -> bool {
    matches!(
        opcode,
        nvm::RESERVATION_REGISTER
            | nvm::RESERVATION_REPORT
            | nvm::RESERVATION_ACQUIRE
            | nvm::RESERVATION_RELEASE
    )
}

impl Group {
    /// The group of an I/O command. What is not known here counts as writing.
    pub(crate) const fn of_io(opcode: u8) -> Self {
        match opcode {
            nvm::READ | nvm::COMPARE | nvm::VERIFY | zns::ZONE_MANAGEMENT_RECEIVE => Group::Read,
            // They check for themselves who may use them.
            opcode if is_reservation(opcode) => Group::Free,
            nvm::IO_MANAGEMENT_RECEIVE | nvm::CANCEL => Group::Free,
            _ => Group::Write,
        }
    }

    /// The group of an admin command. What a vendor's does is not known, so it counts as writing.
    pub(crate) const fn of_admin(opcode: u8) -> Self {
        match opcode {
            admin::SECURITY_RECEIVE => Group::Read,
            admin::FORMAT_NVM
            | admin::NAMESPACE_MANAGEMENT
            | admin::NAMESPACE_ATTACHMENT
            | admin::SANITIZE
            | admin::SECURITY_SEND
            | FIRST_VENDOR_ADMIN.. => Group::Write,
            _ => Group::Free,
        }
    }
}

/// What a reservation means for those who do I/O: an immutable piece of an export's view.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Guard {
    kind: ReservationType,
    /// The holder, and the registrants if they may do what it may. In order.
    admitted: Box<[Host]>,
}

impl Guard {
    /// What keeps hosts from a namespace; `None` when it is not reserved.
    pub(super) fn of(namespace: &Namespace) -> Option<Self> {
        let held = namespace.held()?;
        let admitted = if held.kind.is_for_registrants() {
            namespace.registrants().map(|(host, _)| host).collect()
        } else {
            held.holder.into_iter().collect()
        };
        Some(Self { kind: held.kind, admitted })
    }

    /// That of an Exclusive Access reservation.
    #[cfg(test)]
    pub(crate) fn exclusive(holder: Host) -> Self {
        Self { kind: ReservationType::ExclusiveAccess, admitted: [holder].into() }
    }

    /// Whether `host` may give a command of `group` to the namespace.
    pub(crate) fn permits(&self, host: Host, group: Group) -> bool {
        match group {
            Group::Free => true,
            Group::Read if !self.kind.excludes_reads() => true,
            Group::Read | Group::Write => self.admitted.binary_search(&host).is_ok(),
        }
    }
}

/// Whose commands to a namespace have no place there any more.
#[derive(Clone, Debug)]
pub(crate) struct Eviction {
    /// The namespace.
    pub(crate) key: Key,
    /// Who may give which commands from now on.
    pub(crate) guard: Option<Arc<Guard>>,
    /// Hosts of which all commands are aborted.
    pub(crate) aborts: Vec<Host>,
}

impl Eviction {
    /// What a command of `group` ends with that `host` gave to namespace `nsid` of a drive before, or to all of them
    /// (`FFFFFFFFh`); `None` when it may go on.
    pub(crate) fn verdict(&self, host: Host, drive: usize, nsid: u32, group: Group) -> Option<Status> {
        if drive != self.key.0 || nsid != self.key.1 && nsid != NSID_BROADCAST {
            return None;
        }
        if group == Group::Free {
            None
        } else if self.aborts.contains(&host) {
            Some(ABORTED)
        } else {
            let forbids = self.guard.as_ref().is_some_and(|guard| !guard.permits(host, group));
            forbids.then_some(CONFLICT)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::state::Held;
    use super::*;

    const HOLDER: Host = 1;
    const REGISTRANT: Host = 2;
    const STRANGER: Host = 3;

    fn reserved(kind: ReservationType) -> Guard {
        let holder = (!kind.is_all_registrants()).then_some(HOLDER);
        let namespace = Namespace {
            registrants: [(HOLDER, 10), (REGISTRANT, 20)].into(),
            held: Some(Held { kind, holder }),
            ..Namespace::default()
        };
        Guard::of(&namespace).unwrap()
    }

    #[test]
    fn each_type_lets_do_what_the_table_of_the_specification_says() {
        use ReservationType as Type;
        // What a registrant that is no holder may, and what others may: reading, writing.
        let table = [
            (Type::WriteExclusive, (true, false), (true, false)),
            (Type::ExclusiveAccess, (false, false), (false, false)),
            (Type::WriteExclusiveRegistrantsOnly, (true, true), (true, false)),
            (Type::ExclusiveAccessRegistrantsOnly, (true, true), (false, false)),
            (Type::WriteExclusiveAllRegistrants, (true, true), (true, false)),
            (Type::ExclusiveAccessAllRegistrants, (true, true), (false, false)),
        ];
        for (kind, registrant, stranger) in table {
            let guard = reserved(kind);
            let may = |host| (guard.permits(host, Group::Read), guard.permits(host, Group::Write));
            assert_eq!(may(HOLDER), (true, true), "{kind}: the holder");
            assert_eq!(may(REGISTRANT), registrant, "{kind}: a registrant");
            assert_eq!(may(STRANGER), stranger, "{kind}: a stranger");
            assert!(guard.permits(STRANGER, Group::Free));
        }
        assert_eq!(Guard::of(&Namespace::default()), None);
    }

    #[test]
    fn an_eviction_concerns_the_hosts_that_are_aborted_or_forbidden_at_that_namespace_alone() {
        let guard = Some(Arc::new(reserved(ReservationType::WriteExclusive)));
        let eviction = Eviction { key: (3, 7), guard, aborts: vec![REGISTRANT] };
        let verdict = |host, opcode| eviction.verdict(host, 3, 7, Group::of_io(opcode));
        assert_eq!(verdict(HOLDER, nvm::WRITE), None);
        assert_eq!(verdict(STRANGER, nvm::WRITE), Some(CONFLICT));
        assert_eq!(verdict(STRANGER, nvm::READ), None);
        assert_eq!(verdict(REGISTRANT, nvm::READ), Some(ABORTED), "whatever it may do later");
        assert_eq!(verdict(REGISTRANT, nvm::RESERVATION_REGISTER), None);
        assert_eq!(eviction.verdict(STRANGER, 3, NSID_BROADCAST, Group::Write), Some(CONFLICT));
        assert_eq!(eviction.verdict(REGISTRANT, 3, 8, Group::Write), None, "another namespace");
        assert_eq!(eviction.verdict(REGISTRANT, 2, 7, Group::Write), None, "another drive");
    }

    #[test]
    fn commands_stand_in_the_groups_of_the_specification() {
        let of =
            |group, of: fn(u8) -> Group| (0..=255).filter(|opcode| of(*opcode) == group).collect::<Vec<u8>>();
        assert_eq!(of(Group::Read, Group::of_io), [0x02, 0x05, 0x0c, 0x7a]);
        assert_eq!(of(Group::Free, Group::of_io), [0x0d, 0x0e, 0x11, 0x12, 0x15, 0x18]);
        for opcode in [0x00, 0x01, 0x04, 0x08, 0x09, 0x19, 0x1d, 0x79, 0x7d, 0x80, 0xff] {
            assert_eq!(Group::of_io(opcode), Group::Write, "{opcode:#x}");
        }
        assert_eq!(of(Group::Read, Group::of_admin), [0x82]);
        let writing: Vec<u8> = [0x0d, 0x15, 0x80, 0x81, 0x84].into_iter().chain(0xc0..=0xff).collect();
        assert_eq!(of(Group::Write, Group::of_admin), writing);
    }
}
