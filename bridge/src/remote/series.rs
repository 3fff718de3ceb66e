//! Work that takes a series of commands: one host at a time does it.
//!
//! The drive takes all hosts for one. It would put the pieces of two into one firmware image, and give one host the answer
//! that another has asked its security for.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use gangway_spec::opcode::admin;
use gangway_spec::status::Status;

use crate::association::Association;

/// What takes a series of commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Series {
    /// Pieces of an image, up to its commit.
    Firmware,
    /// What is sent to the drive's security, and its answers.
    Security,
}

impl Series {
    /// How many there are.
    const COUNT: usize = 2;

    /// What a command belongs to.
    pub(super) fn of(opcode: u8) -> Option<Self> {
        match opcode {
            admin::FIRMWARE_IMAGE_DOWNLOAD | admin::FIRMWARE_COMMIT => Some(Self::Firmware),
            admin::SECURITY_SEND | admin::SECURITY_RECEIVE => Some(Self::Security),
            _ => None,
        }
    }

    /// What a command is the last one of. A session with the drive's security has no end that could be seen here.
    pub(super) fn ended_by(opcode: u8) -> Option<Self> {
        (opcode == admin::FIRMWARE_COMMIT).then_some(Self::Firmware)
    }

    /// How long a host may be silent before another may begin.
    const fn patience(self) -> Duration {
        match self {
            Self::Firmware => Duration::from_secs(120),
            Self::Security => Duration::from_secs(10),
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
    claim: u64,
    host: String,
    /// When it gave its last command.
    last: Instant,
}

/// The right to go on, until it is dropped.
#[derive(Debug)]
pub(crate) struct Claim {
    lock: SeriesLock,
    series: Series,
    number: u64,
}

/// What one controller does.
#[derive(Debug, Default)]
pub(super) struct Claims([Option<Arc<Claim>>; Series::COUNT]);

impl Claims {
    /// Goes on with a series, or begins it.
    ///
    /// # Errors
    /// As [`SeriesLock::claim`].
    pub(super) fn hold(
        &mut self,
        series: Series,
        lock: &SeriesLock,
        association: &Association,
    ) -> Result<(), Status> {
        let held = &mut self.0[series as usize];
        if !held.as_ref().is_some_and(|claim| claim.renew()) {
            *held = Some(Arc::new(lock.claim(series, association)?));
        }
        Ok(())
    }

    /// The claim that a command is given under.
    pub(super) fn of(&self, opcode: u8) -> Option<Arc<Claim>> {
        self.0[Series::of(opcode)? as usize].clone()
    }

    /// Ends a series.
    pub(super) fn end(&mut self, series: Series) {
        self.0[series as usize] = None;
    }
}

impl SeriesLock {
    /// For the association, while no other has it.
    ///
    /// # Errors
    /// Operation Denied, to be tried again when the other is done. The log says who it is.
    fn claim(&self, series: Series, association: &Association) -> Result<Claim, Status> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let host = association.connect.host.to_string();
        let mut owners = self.owners();
        let owner = &mut owners[series as usize];
        if let Some(other) = owner.as_ref().filter(|owner| owner.last.elapsed() < series.patience()) {
            tracing::warn!(%host, owner = %other.host, ?series, "a host is refused what another is in the midst of");
            return Err(Status::OPERATION_DENIED);
        }
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        *owner = Some(Owner { claim: number, host, last: Instant::now() });
        Ok(Claim { lock: self.clone(), series, number })
    }

    fn owners(&self) -> MutexGuard<'_, Owners> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Claim {
    /// Notes that the owner goes on. False when it took so long that another host has begun.
    fn renew(&self) -> bool {
        let own = |owner: &&mut Owner| owner.claim == self.number;
        let mut owners = self.lock.owners();
        owners[self.series as usize].as_mut().filter(own).map(|owner| owner.last = Instant::now()).is_some()
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.lock.owners()[self.series as usize].take_if(|owner| owner.claim == self.number);
    }
}
