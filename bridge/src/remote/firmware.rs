//! One host downloads firmware at a time: the drive would put the pieces of two into one image.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use gangway_spec::status::Status;

use crate::association::Association;

/// How long a host may leave an image unfinished before another may begin its own.
const PATIENCE: Duration = Duration::from_secs(120);

/// Who downloads firmware to a drive.
#[derive(Clone, Debug, Default)]
pub(crate) struct FirmwareLock(Arc<Mutex<Option<Owner>>>);

#[derive(Debug)]
struct Owner {
    claim: u64,
    host: String,
    /// When it gave its last piece.
    last: Instant,
}

/// The right to download, until it is dropped.
#[derive(Debug)]
pub(crate) struct FirmwareClaim {
    lock: FirmwareLock,
    number: u64,
}

impl FirmwareLock {
    /// For the association, while no other has it.
    ///
    /// # Errors
    /// Operation Denied, to be tried again when the other is done. The log says who it is.
    pub(crate) fn claim(&self, association: &Association) -> Result<FirmwareClaim, Status> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let host = association.connect.host.to_string();
        let mut owner = self.owner();
        if let Some(other) = owner.as_ref().filter(|owner| owner.last.elapsed() < PATIENCE) {
            tracing::warn!(%host, owner = %other.host, "a host is refused to download firmware while another does");
            return Err(Status::OPERATION_DENIED);
        }
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        *owner = Some(Owner { claim: number, host, last: Instant::now() });
        Ok(FirmwareClaim { lock: self.clone(), number })
    }

    fn owner(&self) -> MutexGuard<'_, Option<Owner>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl FirmwareClaim {
    /// Notes that the owner goes on. False when it took so long that another host has begun.
    pub(crate) fn renew(&self) -> bool {
        let mut owner = self.lock.owner();
        let own = owner.as_mut().filter(|owner| owner.claim == self.number);
        own.map(|owner| owner.last = Instant::now()).is_some()
    }
}

impl Drop for FirmwareClaim {
    fn drop(&mut self) {
        self.lock.owner().take_if(|owner| owner.claim == self.number);
    }
}
