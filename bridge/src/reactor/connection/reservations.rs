//! Commands that do not go to a drive once their data is there: those about reservations, and those of hosts that
//! reservations have excluded meanwhile.

use std::sync::Arc;

use gangway_driver::dma::CommandData;
use gangway_spec::command::TransferDirection;
use gangway_spec::status::Status;

use super::{Connection, Context};
use crate::admission::Course;
use crate::reactor::command::Stage;
use crate::reactor::message::{ReservationRequest, Ticket};

impl Connection {
    /// Hands a command to the control plane, or ends it.
    #[cold]
    pub(super) fn divert(&mut self, index: usize, context: &mut Context<'_>) {
        let Some(command) = context.engine.commands.get_mut(index) else { return };
        if let Course::Nowhere(status) = command.admitted.course {
            return self.give_up(index, status, context.engine);
        }
        let brings = command.admitted.direction == TransferDirection::HostToController;
        let data = match &command.data {
            CommandData::Buffer(buffer) if brings => buffer.to_vec(),
            CommandData::Shared(bytes) => bytes.to_vec(),
            _ => Vec::new(),
        };
        command.stage = Stage::Asked;
        let ticket = Ticket { reactor: context.reactor, command: index, sequence: command.sequence };
        let request = ReservationRequest {
            ticket,
            association: Arc::clone(self.claim.association()),
            drive: command.admitted.drive,
            entry: command.entry,
            data,
        };
        if context.engine.reservations.send(request).is_err() {
            // The target is about to end.
            self.give_up(index, Status::INTERNAL_PATH_ERROR, context.engine);
        }
    }
}
