//! Work that takes a series of commands: one host at a time does it.
//!
//! The drive takes all hosts for one. It would put the pieces of two into one firmware image, and give one host the answer
//! that another has asked its security for.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use gangway_spec::fabrics::Nqn;
use gangway_spec::opcode::admin;
use gangway_spec::status::Status;

use crate::association::Association;

/// What takes a series of commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Series {
    /// Pieces of an image, up to its commit.
    Firmware,
    /// What is sent to the drive's security, and its answers.
    Security,
}

impl Series {
    /// How many there are.
    const COUNT: usize = 2;

    /// What a command belongs to.
    fn of(opcode: u8) -> Option<Self> {
        match opcode {
            admin::FIRMWARE_IMAGE_DOWNLOAD | admin::FIRMWARE_COMMIT => Some(Self::Firmware),
            admin::SECURITY_SEND | admin::SECURITY_RECEIVE => Some(Self::Security),
            _ => None,
        }
    }

    /// How long a host may be silent before another may begin.
    const fn patience(self) -> Duration {
        match self {
            Self::Firmware => Duration::from_secs(120),
            Self::Security => Duration::from_secs(10),
        }
    }

    /// How long all of it may take while others want to begin.
    const fn limit(self) -> Duration {
        match self {
            Self::Firmware => Duration::from_secs(3600),
            Self::Security => Duration::from_secs(300),
        }
    }
}

/// Who does what at a drive.
#[derive(Clone, Debug, Default)]
pub(crate) struct SeriesLock(Arc<Mutex<Owners>>);

/// Those who do, by [`Series`].
type Owners = [Option<Owner>; Series::COUNT];

#[derive(Debug)]
struct Owner {
    host: Nqn,
    /// The association that its last command came by.
    association: u64,
    began: Instant,
    /// Commands that have not ended.
    running: usize,
    /// When it was last heard of: a command came or ended.
    last: Instant,
    /// Nothing more comes: it ends with the last command.
    over: bool,
}

/// A command of a series, until it is dropped because it has ended.
#[derive(Debug)]
pub(crate) struct Claim {
    lock: SeriesLock,
    series: Series,
    /// Nothing comes after it. A session with the drive's security has no such command.
    last: bool,
}

/// What one controller leaves behind: an image of which no further piece comes by it.
#[derive(Debug)]
pub(super) struct Leaving {
    lock: SeriesLock,
    association: u64,
}

impl SeriesLock {
    /// Goes on with the series that a command belongs to, or begins it. `None`: it belongs to none.
    ///
    /// # Errors
    /// Operation Denied while another host is in the midst of one, to be tried again later. The log says who it is.
    pub(super) fn claim(&self, opcode: u8, association: &Association) -> Result<Option<Claim>, Status> {
        let by = (&association.connect.host, association.id);
        Series::of(opcode).map(|series| self.claim_at(series, opcode, by, Instant::now())).transpose()
    }

    fn claim_at(
        &self,
        series: Series,
        opcode: u8,
        (host, association): (&Nqn, u64),
        now: Instant,
    ) -> Result<Claim, Status> {
        let mut owners = self.owners();
        let owner = &mut owners[series as usize];
        if let Some(other) =
            owner.as_ref().filter(|owner| owner.host != *host && owner.keeps_others_out(series, now))
        {
            tracing::warn!(%host, owner = %other.host, ?series, "a host is refused what another is in the midst of");
            return Err(Status::OPERATION_DENIED);
        }
        owner.take_if(|owner| owner.host != *host || !owner.goes_on(series, now));
        let owner = owner.get_or_insert_with(|| Owner {
            host: host.clone(),
            association,
            began: now,
            running: 0,
            last: now,
            over: false,
        });
        owner.running += 1;
        (owner.association, owner.last, owner.over) = (association, now, false);
        Ok(Claim { lock: self.clone(), series, last: opcode == admin::FIRMWARE_COMMIT })
    }

    /// For a controller that has given a command of a series.
    pub(super) fn leaving(&self, association: &Association) -> Leaving {
        Leaving { lock: self.clone(), association: association.id }
    }

    fn owners(&self) -> MutexGuard<'_, Owners> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Owner {
    fn goes_on(&self, series: Series, now: Instant) -> bool {
        self.running > 0 || now.saturating_duration_since(self.last) < series.patience()
    }

    fn keeps_others_out(&self, series: Series, now: Instant) -> bool {
        let in_time = now.saturating_duration_since(self.began) < series.limit();
        self.running > 0 || in_time && self.goes_on(series, now)
    }
}

impl Claim {
    fn end(&self, now: Instant) {
        let mut owners = self.lock.owners();
        let place = &mut owners[self.series as usize];
        // It is this one's: while a command has not ended, nobody else begins.
        let Some(owner) = place else { return };
        owner.running -= 1;
        owner.last = now;
        owner.over |= self.last;
        place.take_if(|owner| owner.over && owner.running == 0);
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.end(Instant::now());
    }
}

impl Drop for Leaving {
    /// Of what was sent to the drive's security an answer may be left, which is for no other host: that runs out.
    fn drop(&mut self) {
        let mut owners = self.lock.owners();
        let place = &mut owners[Series::Firmware as usize];
        let Some(owner) = place.as_mut().filter(|owner| owner.association == self.association) else {
            return;
        };
        owner.over = true;
        place.take_if(|owner| owner.running == 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn host(number: u64) -> Nqn {
        format!("nqn.2014-08.org.example:host{number}").parse().unwrap()
    }

    /// A command of a host, by an association of its own.
    fn claim(lock: &SeriesLock, opcode: u8, number: u64, now: Instant) -> Option<Claim> {
        let series = Series::of(opcode).unwrap();
        lock.claim_at(series, opcode, (&host(number), number), now).ok()
    }

    #[test]
    fn silence_begins_when_the_last_command_has_ended() {
        let (lock, began) = (SeriesLock::default(), Instant::now());
        let of = |number, after| claim(&lock, admin::SECURITY_SEND, number, began + after);
        let send = of(1, Duration::ZERO).unwrap();
        assert!(of(2, SECOND * 600).is_none(), "the drive has it still");
        send.end(began + SECOND * 200);
        std::mem::forget(send);
        assert!(of(2, SECOND * 209).is_none(), "its answer is yet to be fetched");
        assert!(of(2, SECOND * 210).is_some());
    }

    #[test]
    fn a_host_that_never_stops_gives_way_after_a_while() {
        let (lock, began) = (SeriesLock::default(), Instant::now());
        let of = |number, after| claim(&lock, admin::SECURITY_SEND, number, began + SECOND * after);
        for after in (0..=300).step_by(5) {
            let command = of(1, after).unwrap();
            command.end(began + SECOND * after);
            std::mem::forget(command);
            assert_eq!(of(2, after).is_none(), after < 300, "after {after} s");
        }
    }

    #[test]
    fn a_host_goes_on_by_another_association_and_ends_an_image_with_the_one_it_used() {
        let (lock, now) = (SeriesLock::default(), Instant::now());
        let piece = |number, by| {
            let host = host(number);
            lock.claim_at(Series::Firmware, admin::FIRMWARE_IMAGE_DOWNLOAD, (&host, by), now).is_ok()
        };
        let leave = |association| drop(Leaving { lock: lock.clone(), association });
        assert!(piece(1, 10) && piece(1, 11) && !piece(2, 20));
        leave(10);
        assert!(!piece(2, 20), "it goes on by the other");
        leave(11);
        assert!(piece(2, 20) && !piece(1, 10));
    }

    #[test]
    fn what_was_sent_to_security_outlives_the_host_that_leaves() {
        let (lock, now) = (SeriesLock::default(), Instant::now());
        drop(claim(&lock, admin::SECURITY_SEND, 1, now).unwrap());
        drop(Leaving { lock: lock.clone(), association: 1 });
        assert!(claim(&lock, admin::SECURITY_RECEIVE, 2, now).is_none());
    }

    #[test]
    fn an_image_ends_with_its_commit_and_not_before_the_last_piece() {
        let (lock, now) = (SeriesLock::default(), Instant::now());
        let piece = claim(&lock, admin::FIRMWARE_IMAGE_DOWNLOAD, 1, now).unwrap();
        drop(claim(&lock, admin::FIRMWARE_COMMIT, 1, now).unwrap());
        assert!(claim(&lock, admin::FIRMWARE_IMAGE_DOWNLOAD, 2, now).is_none());
        drop(piece);
        assert!(claim(&lock, admin::FIRMWARE_IMAGE_DOWNLOAD, 2, now).is_some());
    }
}
