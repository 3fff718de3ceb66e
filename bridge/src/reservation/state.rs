//! What reservation commands do to a namespace: no I/O, no threads, no time.

use std::collections::BTreeMap;

use gangway_spec::command::SubmissionQueueEntry;
use gangway_spec::fabrics::Nqn;
use gangway_spec::opcode::nvm;
use gangway_spec::reservation::{
    ReservationAcquireData, ReservationParameters, ReservationRegisterData, ReservationReleaseData,
    ReservationType, cptpl, notification, racqa, rrega, rrela,
};
use gangway_spec::status::Status;
use zerocopy::FromBytes;

/// Registrants of a namespace at most. Whoever may connect can name itself as it likes, so there must be an end to it.
pub(super) const MOST_REGISTRANTS: usize = 1024;

const CONFLICT: Status = Status::RESERVATION_CONFLICT.with_dnr();
const INVALID_FIELD: Status = Status::INVALID_FIELD.with_dnr();

/// By what hosts are told apart: their 128-bit host identifier.
pub(crate) type Host = u128;

/// A command that changes registrants or the reservation, with what it brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Command {
    Register { parameters: ReservationParameters, crkey: u64, nrkey: u64 },
    Acquire { parameters: ReservationParameters, crkey: u64, prkey: u64 },
    Release { parameters: ReservationParameters, crkey: u64 },
}

impl Command {
    /// The command in an entry, with the data that came with it; `None` for any other opcode, or with less data.
    pub(crate) fn parse(entry: &SubmissionQueueEntry, data: &[u8]) -> Option<Self> {
        let parameters = ReservationParameters::from(entry);
        Some(match entry.opcode {
            nvm::RESERVATION_REGISTER => {
                let (data, _) = ReservationRegisterData::read_from_prefix(data).ok()?;
                Command::Register { parameters, crkey: data.crkey.get(), nrkey: data.nrkey.get() }
            }
            nvm::RESERVATION_ACQUIRE => {
                let (data, _) = ReservationAcquireData::read_from_prefix(data).ok()?;
                Command::Acquire { parameters, crkey: data.crkey.get(), prkey: data.prkey.get() }
            }
            nvm::RESERVATION_RELEASE => {
                let (data, _) = ReservationReleaseData::read_from_prefix(data).ok()?;
                Command::Release { parameters, crkey: data.crkey.get() }
            }
            _ => return None,
        })
    }
}

/// A reservation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) kind: ReservationType,
    /// `None`: every registrant holds it.
    pub(crate) holder: Option<Host>,
}

impl Held {
    fn by(host: Host, kind: ReservationType) -> Self {
        Self { kind, holder: (!kind.is_all_registrants()).then_some(host) }
    }
}

/// What others are to be told of a command, and whose commands it aborts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// A notification (see [`notification`]) for each host that gets one.
    pub(crate) notices: Vec<(Host, u8)>,
    /// Hosts whose commands Preempt and Abort ends.
    pub(crate) aborts: Vec<Host>,
}

/// Registrants of a namespace and its reservation (NVMe Base 2.0, 8.19).
///
/// # Invariants
/// A holder is a registrant. A reservation of all registrants exists only while there are some.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Namespace {
    pub(super) generation: u32,
    /// Whether registrants and reservation survive a restart (PTPL).
    pub(super) persists: bool,
    /// The key of each registrant.
    pub(super) registrants: BTreeMap<Host, u64>,
    pub(super) held: Option<Held>,
    /// The names of registrants, as far as they are known: a host identifier must not become another host's.
    pub(super) names: BTreeMap<Host, Nqn>,
}

impl Namespace {
    /// Rises with each change of the registrants.
    pub(crate) fn generation(&self) -> u32 {
        self.generation
    }

    /// Whether registrants and reservation survive a restart.
    pub(crate) fn persists(&self) -> bool {
        self.persists
    }

    /// Says whether registrants and reservation survive a restart.
    pub(crate) fn set_persists(&mut self, persists: bool) {
        self.persists = persists;
    }

    /// The registrants and their keys.
    pub(crate) fn registrants(&self) -> impl Iterator<Item = (Host, u64)> + '_ {
        self.registrants.iter().map(|(host, key)| (*host, *key))
    }

    /// The reservation.
    pub(crate) fn held(&self) -> Option<Held> {
        self.held
    }

    /// Remembers the name of a host that may be a registrant now, and no others than those of registrants.
    pub(crate) fn note_name(&mut self, host: Host, name: &Nqn) {
        self.names.insert(host, name.clone());
        self.names.retain(|host, _| self.registrants.contains_key(host));
    }

    /// The name of a registrant, if it is known.
    pub(crate) fn name(&self, host: Host) -> Option<&Nqn> {
        self.names.get(&host)
    }

    /// Whether `host` is a registrant.
    pub(crate) fn is_registrant(&self, host: Host) -> bool {
        self.registrants.contains_key(&host)
    }

    /// Whether `host` holds the reservation.
    pub(crate) fn is_holder(&self, host: Host) -> bool {
        self.held.is_some_and(|held| match held.holder {
            Some(holder) => holder == host,
            None => self.is_registrant(host),
        })
    }

    /// Executes a command of `host`. `can_persist`: what is here can survive a restart.
    ///
    /// # Errors
    /// The status that the command ends with; then nothing has changed.
    pub(crate) fn execute(
        &mut self,
        host: Host,
        command: &Command,
        can_persist: bool,
    ) -> Result<Outcome, Status> {
        match *command {
            Command::Register { parameters, crkey, nrkey } => {
                self.register(host, parameters, crkey, nrkey, can_persist)
            }
            Command::Acquire { parameters, crkey, prkey } => self.acquire(host, parameters, crkey, prkey),
            Command::Release { parameters, crkey } => self.release(host, parameters, crkey),
        }
    }

    fn register(
        &mut self,
        host: Host,
        parameters: ReservationParameters,
        crkey: u64,
        nrkey: u64,
        can_persist: bool,
    ) -> Result<Outcome, Status> {
        let persists = match parameters.cptpl {
            cptpl::NO_CHANGE => self.persists,
            cptpl::CLEAR => false,
            cptpl::SET if can_persist => true,
            _ => return Err(INVALID_FIELD),
        };
        let registered = self.registrants.get(&host).copied();
        let proven = registered.is_some_and(|key| parameters.ignore_existing_key || key == crkey);
        let mut outcome = Outcome::default();
        match parameters.action {
            // 0 stands for no key in Preempt.
            rrega::REGISTER | rrega::REPLACE if nrkey == 0 => return Err(INVALID_FIELD),
            rrega::REGISTER => match registered {
                Some(key) if key != nrkey => return Err(CONFLICT),
                Some(_) => {}
                None => self.add(host, nrkey)?,
            },
            rrega::REPLACE if proven => {
                self.registrants.insert(host, nrkey);
            }
            // With IEKEY it does not matter whether the host was registered.
            rrega::REPLACE if registered.is_none() && parameters.ignore_existing_key => {
                self.add(host, nrkey)?;
            }
            rrega::UNREGISTER if proven => outcome.notices = self.unregister(host),
            rrega::REPLACE | rrega::UNREGISTER => return Err(CONFLICT),
            _ => return Err(INVALID_FIELD),
        }
        self.persists = persists;
        self.changed();
        Ok(outcome)
    }

    fn add(&mut self, host: Host, key: u64) -> Result<(), Status> {
        if self.registrants.len() >= MOST_REGISTRANTS {
            return Err(Status::INTERNAL_ERROR.with_dnr());
        }
        self.registrants.insert(host, key);
        Ok(())
    }

    fn changed(&mut self) {
        self.generation = self.generation.wrapping_add(1);
    }

    /// Removes a registrant, and the reservation if that leaves it without a holder. Gives the notifications of that.
    fn unregister(&mut self, host: Host) -> Vec<(Host, u8)> {
        let held = self.held.filter(|_| self.is_holder(host));
        self.registrants.remove(&host);
        match held {
            Some(Held { holder: None, .. }) if !self.registrants.is_empty() => Vec::new(),
            Some(Held { kind, .. }) => {
                self.held = None;
                self.tell_of_release(kind, host)
            }
            None => Vec::new(),
        }
    }

    /// The notifications of a reservation of `kind` that `host` gave up: only registrants that shared it are told.
    fn tell_of_release(&self, kind: ReservationType, host: Host) -> Vec<(Host, u8)> {
        if !kind.is_for_registrants() {
            return Vec::new();
        }
        self.tell_others(host, notification::RESERVATION_RELEASED)
    }

    fn tell_others(&self, host: Host, kind: u8) -> Vec<(Host, u8)> {
        self.registrants.keys().filter(|other| **other != host).map(|other| (*other, kind)).collect()
    }

    /// Whether `host` is a registrant with this key.
    fn prove(&self, host: Host, crkey: u64) -> Result<(), Status> {
        if self.registrants.get(&host) == Some(&crkey) { Ok(()) } else { Err(CONFLICT) }
    }

    fn acquire(
        &mut self,
        host: Host,
        parameters: ReservationParameters,
        crkey: u64,
        prkey: u64,
    ) -> Result<Outcome, Status> {
        let Some(kind) = ReservationType::from_value(parameters.rtype) else { return Err(INVALID_FIELD) };
        if parameters.ignore_existing_key || parameters.action > racqa::PREEMPT_AND_ABORT {
            return Err(INVALID_FIELD);
        }
        self.prove(host, crkey)?;
        if parameters.action == racqa::ACQUIRE {
            return match self.held {
                None => {
                    self.held = Some(Held::by(host, kind));
                    Ok(Outcome::default())
                }
                Some(held) if held.kind == kind && self.is_holder(host) => Ok(Outcome::default()),
                Some(_) => Err(CONFLICT),
            };
        }
        let mut outcome = self.preempt(host, kind, prkey)?;
        if parameters.action == racqa::PREEMPT_AND_ABORT {
            let preempted =
                |(host, what): &(Host, u8)| (*what == notification::REGISTRATION_PREEMPTED).then_some(*host);
            outcome.aborts = outcome.notices.iter().filter_map(preempted).collect();
        }
        Ok(outcome)
    }

    /// NVMe Base 2.0, 8.19.7.
    fn preempt(&mut self, host: Host, kind: ReservationType, prkey: u64) -> Result<Outcome, Status> {
        let (takes, spares_itself) = match self.held {
            Some(Held { holder: None, .. }) => (prkey == 0, prkey == 0),
            Some(Held { holder: Some(holder), .. }) => {
                let names_holder = self.registrants.get(&holder) == Some(&prkey);
                (names_holder, names_holder)
            }
            None => (false, false),
        };
        let everybody = takes && prkey == 0;
        if prkey == 0 && !everybody {
            return Err(INVALID_FIELD);
        }
        let named = |(other, key): (&Host, &u64)| {
            ((everybody || *key == prkey) && !(spares_itself && *other == host)).then_some(*other)
        };
        let removed: Vec<Host> = self.registrants.iter().filter_map(named).collect();
        if removed.is_empty() && !takes {
            return Err(CONFLICT);
        }
        let before = self.held;
        for other in &removed {
            self.registrants.remove(other);
        }
        let mut notices: Vec<_> = removed
            .iter()
            .filter(|other| **other != host)
            .map(|other| (*other, notification::REGISTRATION_PREEMPTED))
            .collect();
        if takes {
            self.held = Some(Held::by(host, kind));
            if before.is_some_and(|before| before.kind != kind) {
                notices.extend(self.tell_others(host, notification::RESERVATION_RELEASED));
            }
        } else if self.registrants.is_empty() {
            self.held = None;
        }
        self.changed();
        Ok(Outcome { notices, aborts: Vec::new() })
    }

    fn release(
        &mut self,
        host: Host,
        parameters: ReservationParameters,
        crkey: u64,
    ) -> Result<Outcome, Status> {
        if parameters.ignore_existing_key || parameters.action > rrela::CLEAR {
            return Err(INVALID_FIELD);
        }
        self.prove(host, crkey)?;
        if parameters.action == rrela::CLEAR {
            let notices = self.tell_others(host, notification::RESERVATION_PREEMPTED);
            self.registrants.clear();
            self.held = None;
            self.changed();
            return Ok(Outcome { notices, aborts: Vec::new() });
        }
        // Whoever holds nothing gives nothing up, and succeeds.
        let Some(held) = self.held.filter(|_| self.is_holder(host)) else { return Ok(Outcome::default()) };
        if held.kind.value() != parameters.rtype {
            return Err(INVALID_FIELD);
        }
        self.held = None;
        Ok(Outcome { notices: self.tell_of_release(held.kind, host), aborts: Vec::new() })
    }
}
