//! Commands to namespaces that are altered: held back, refused, or on their way again. And those that have no place at
//! their namespace any more.

use gangway_spec::status::Status;

use super::commands::{Command, Engine, GivenUp, Stage};
use super::message::Hold;
use crate::admission::Course;

impl Engine {
    /// Holds back, refuses or lets go on what is for a namespace of a drive, by its NSID there, or for any.
    pub(super) fn hold(&mut self, drive: usize, nsid: Option<u32>, hold: Hold, given_up: &mut Vec<GivenUp>) {
        let Some(Some(slot)) = self.drives.get_mut(drive) else { return };
        let concerned = |of: (usize, u32)| of.0 == drive && nsid.is_none_or(|nsid| nsid == of.1);
        for (number, queue) in self.queues.iter_mut().enumerate().filter(|(_, queue)| concerned(queue.of)) {
            queue.hold = hold;
            slot.backlog.retain(|listed| *listed != number);
            match hold {
                Hold::Back => {}
                Hold::Release if queue.pending.is_empty() => {}
                Hold::Release => slot.backlog.push_back(number),
                Hold::Refuse(status) => {
                    while let Some(item) = queue.pending.next(&self.commands, |_| true) {
                        queue.pending.take(item, &mut self.commands);
                        given_up.push(GivenUp { command: item as usize, status });
                    }
                }
            }
        }
        self.guard();
    }

    /// Ends the commands of which `verdict` says how they end: gives up those that wait for their drive, and sees to it
    /// that those which are not so far never get there. What drives have goes on.
    pub(super) fn end(&mut self, verdict: impl Fn(&Command) -> Option<Status>, given_up: &mut Vec<GivenUp>) {
        let before = given_up.len();
        for (index, command) in &mut self.commands {
            let Some(status) = verdict(command) else { continue };
            match command.stage {
                Stage::Queued => given_up.push(GivenUp { command: index, status }),
                Stage::Memory | Stage::Held | Stage::Receiving => {
                    command.admitted.course = Course::Nowhere(status);
                }
                Stage::Refused(_) | Stage::WithDrive | Stage::Asked => {}
            }
        }
        for GivenUp { command, .. } in &given_up[before..] {
            self.unlist(*command);
        }
    }

    /// Notes for which drives commands have to be looked at again before they go there.
    pub(super) fn guard(&mut self) {
        let held = self.queues.iter().any(|queue| queue.hold != Hold::Release);
        for slot in self.drives.iter_mut().flatten() {
            slot.guarded = held || slot.refuses.is_some();
        }
    }

    /// Whether a drive has commands to one of its namespaces, by its NSID there, or to any.
    pub(super) fn has_with_drive(&self, drive: usize, nsid: Option<u32>) -> bool {
        self.commands.iter().any(|(_, command)| {
            let admitted = &command.admitted;
            command.stage == Stage::WithDrive
                && admitted.drive == drive
                && nsid.is_none_or(|nsid| nsid == admitted.nsid || admitted.nsid == u32::MAX)
        })
    }
}
