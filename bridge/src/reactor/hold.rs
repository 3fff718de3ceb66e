//! Commands to namespaces that are altered: held back, refused, or on their way again. And those whose namespace is no
//! longer what they were admitted for.

use super::commands::{Command, Engine, GivenUp, Stage};
use super::drives::{IS_ANOTHER, RETIRED};
use super::message::Hold;

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

    /// Gives up those of the `concerned` commands that wait for their drive, and sees to it that those which are not so
    /// far never get there.
    pub(super) fn retire_commands(
        &mut self,
        concerned: impl Fn(&Command) -> bool,
        given_up: &mut Vec<GivenUp>,
    ) {
        let found: Vec<usize> =
            self.commands.iter().filter(|(_, command)| concerned(command)).map(|(index, _)| index).collect();
        for index in found {
            let command = &mut self.commands[index];
            match command.stage {
                Stage::Queued => {
                    // An emptied queue stays in the backlog and is passed over when its turn comes.
                    let queue = command.admitted.queue;
                    self.queues[queue].pending.remove(index as u32, &mut self.commands);
                    given_up.push(GivenUp { command: index, status: IS_ANOTHER });
                }
                Stage::Memory | Stage::Held | Stage::Receiving => command.admitted.queue = RETIRED,
                Stage::Refused(_) | Stage::WithDrive => {}
            }
        }
        self.guard();
    }

    /// Notes what is over of the reasons to look at each command again before it goes to its drive.
    pub(super) fn relax(&mut self) {
        if self.drives.iter().flatten().any(|slot| slot.guarded) {
            self.guard();
        }
    }

    /// Notes for which drives commands have to be looked at again before they go there.
    pub(super) fn guard(&mut self) {
        let is_retired = |command: &Command| {
            command.admitted.queue == RETIRED && !matches!(command.stage, Stage::Refused(_))
        };
        let retired = self.commands.iter().any(|(_, command)| is_retired(command));
        let held = self.queues.iter().any(|queue| queue.hold != Hold::Release);
        for slot in self.drives.iter_mut().flatten() {
            slot.guarded = retired || held || slot.refuses.is_some();
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
