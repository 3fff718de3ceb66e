//! Giving a controller shadow doorbells (Doorbell Buffer Config; NVMe Base 2.0, 5.8), and knowing whether its I/O
//! commands take SGLs: what depends on Identify Controller and is settled each time it is brought up.

use gangway_spec::identify::{Oacs, Sgls};
use gangway_spec::{SubmissionQueueEntry, opcode};

use super::{Controller, ControllerError};
use crate::queue::{DataPointers, SglRules, ShadowDoorbells};

impl Controller {
    /// Whether the controller looks at doorbells in memory
    /// ([`Options::shadow_doorbells`](super::Options::shadow_doorbells)).
    pub fn has_shadow_doorbells(&self) -> bool {
        self.shadow_doorbells.is_some()
    }

    /// Whether I/O commands name their memory by SGLs ([`Options::data_pointers`](super::Options::data_pointers)).
    pub fn uses_sgls(&self) -> bool {
        self.sgl.is_some()
    }

    /// Settles how I/O commands name their memory.
    ///
    /// # Errors
    /// [`ControllerError::Unsupported`] when SGLs are wanted that the controller does not take.
    pub(super) fn settle_data_pointers(&mut self) -> Result<(), ControllerError> {
        let wanted = self.options.data_pointers;
        let sgls = Sgls::from_bits_retain(self.identify.sgls.get());
        self.sgl = SglRules::of(sgls, wanted);
        if wanted == DataPointers::Sgl && self.sgl.is_none() {
            return Err(self.unsupported(&format!(
                "its I/O commands take no SGLs (SGLS is {:#010x}); use PRPs (data_pointers)",
                sgls.bits()
            )));
        }
        Ok(())
    }

    /// Gives a controller that can have them shadow doorbells, for the queue pairs it has and will have. Goes on without
    /// when it refuses.
    ///
    /// # Errors
    /// When there is no memory, or the controller does not answer.
    pub(super) fn set_up_shadow_doorbells(&mut self) -> Result<(), ControllerError> {
        let oacs = Oacs::from_bits_retain(self.identify.oacs.get());
        if !self.options.shadow_doorbells || !oacs.contains(Oacs::DOORBELL_BUFFER_CONFIG) {
            return Ok(());
        }
        let made = ShadowDoorbells::new(self.domain(), self.capabilities.dstrd(), self.io_queue_limit);
        let Some(shadow) = made.map_err(|source| self.dma_error(source))? else {
            tracing::info!(
                function = self.function_name(),
                io_queues = self.io_queue_limit,
                "no shadow doorbells: those of so many queues do not fit a page"
            );
            return Ok(());
        };
        // From the moment it has the command the controller may look at them, so they say already then what is so. Many
        // drivers leave those of the admin queue alone, and some controllers therefore too: its registers are written
        // in any case.
        self.admin.set_shadow_doorbells(&shadow, true);
        let addresses = shadow.addresses();
        // Kept before it is known whether it was taken: an answer may get lost.
        self.shadow_doorbells = Some(shadow);
        let entry = SubmissionQueueEntry::new(opcode::admin::DOORBELL_BUFFER_CONFIG);
        match self.admin_with_kept_memory(entry, addresses) {
            Err(ControllerError::Status { status, .. }) => {
                tracing::warn!(
                    function = self.function_name(),
                    %status,
                    "no shadow doorbells: the controller offers them, but refused these"
                );
                self.admin.remove_shadow_doorbells();
                self.shadow_doorbells = None;
                Ok(())
            }
            other => other,
        }
    }
}
