//! One host downloads firmware at a time: the drive would put the pieces of two into one image.

use std::sync::{Arc, Mutex, PoisonError};

use gangway_spec::status::Status;

use crate::association::Association;

/// Who downloads firmware to a drive.
#[derive(Clone, Debug, Default)]
pub(crate) struct FirmwareLock(Arc<Mutex<Option<String>>>);

/// The right to download, until it is dropped.
#[derive(Debug)]
pub(crate) struct FirmwareClaim(FirmwareLock);

impl FirmwareLock {
    /// For the association, while no other has it.
    ///
    /// # Errors
    /// Operation Denied, to be tried again when the other is done. The log says who it is.
    pub(crate) fn claim(&self, association: &Association) -> Result<FirmwareClaim, Status> {
        let host = association.connect.host.to_string();
        let mut owner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(owner) = &*owner {
            tracing::warn!(%host, %owner, "a host is refused to download firmware while another does");
            return Err(Status::OPERATION_DENIED);
        }
        *owner = Some(host);
        Ok(FirmwareClaim(self.clone()))
    }
}

impl Drop for FirmwareClaim {
    fn drop(&mut self) {
        *self.0.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}
