//! Formats of Copy that name other namespaces: a controller takes them when it is told that its host knows them
//! (Host Behavior Support; NVMe Base 2.1, 5.1.25.1.14), anew each time it is brought up.

use gangway_spec::feature::{HostBehaviorSupport, fid};
use gangway_spec::identify::Oncs;
use gangway_spec::nvm::copy::{FORMATS, FORMATS_ACROSS};
use gangway_spec::{SubmissionQueueEntry, opcode};
use zerocopy::{FromBytes, IntoBytes};

use super::{AdminData, Controller, ControllerError};

impl Controller {
    /// The formats in which Copy can list its source ranges, as bits of OCFS, of those that are known. Those with source
    /// namespaces (2h and 3h) are among them only if the controller has enabled them.
    pub fn copy_formats(&self) -> u16 {
        self.copy_formats
    }

    /// Has the controller enable what formats it has. Goes on without those that it does not enable.
    ///
    /// # Errors
    /// When the controller does not answer.
    pub(super) fn settle_copy_formats(&mut self) -> Result<(), ControllerError> {
        let offered = self.identify.ocfs.get() & FORMATS;
        let across = offered & FORMATS_ACROSS;
        self.copy_formats = offered & !FORMATS_ACROSS;
        if across == 0 || !Oncs::from_bits_retain(self.identify.oncs.get()).contains(Oncs::COPY) {
            return Ok(());
        }
        match self.enable_copy_formats(across) {
            Ok(enabled) => self.copy_formats |= enabled,
            Err(error @ ControllerError::Status { .. }) => {
                tracing::warn!(%error, "the controller enables no Copy from other namespaces");
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Which of these formats are enabled in the end. What else the feature says stays as it is.
    fn enable_copy_formats(&mut self, formats: u16) -> Result<u16, ControllerError> {
        let mut behavior = self.host_behavior()?;
        behavior.cdfe |= formats;
        let mut set = SubmissionQueueEntry::new(opcode::admin::SET_FEATURES);
        set.cdw10.set(fid::HOST_BEHAVIOR_SUPPORT.into());
        self.admin(set, AdminData::Out(behavior.as_bytes()))?;
        Ok(self.host_behavior()?.cdfe.get() & formats)
    }

    fn host_behavior(&mut self) -> Result<HostBehaviorSupport, ControllerError> {
        let mut get = SubmissionQueueEntry::new(opcode::admin::GET_FEATURES);
        get.cdw10.set(fid::HOST_BEHAVIOR_SUPPORT.into());
        let (_, data) = self.admin(get, AdminData::In(size_of::<HostBehaviorSupport>()))?;
        HostBehaviorSupport::read_from_bytes(&data)
            .map_err(|_| self.unsupported("Host Behavior Support has less than its 512 bytes"))
    }
}
