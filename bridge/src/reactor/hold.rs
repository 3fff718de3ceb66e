//! Commands to namespaces that are altered: held back, refused, or on their way again. And those that have no place at
//! their namespace any more.

use gangway_spec::status::Status;

use super::command::{Command, GivenUp, Stage};
use super::drives::SoftwareQueue;
use super::engine::Engine;
use super::message::Hold;
use crate::admission::Course;

/// What becomes of commands to a namespace of a drive, by its NSID there, or to any.
#[derive(Clone, Copy, Debug)]
pub(super) struct Held {
    drive: usize,
    nsid: Option<u32>,
    hold: Hold,
}

impl Held {
    /// Whether it is about what waits in this queue.
    fn concerns(&self, queue: &SoftwareQueue) -> bool {
        self.drive == queue.drive && self.nsid.is_none_or(|nsid| queue.nsids.contains(&nsid))
    }
}

/// What becomes of commands that wait in this queue. What is refused for one namespace is not held back for another.
fn in_force(held: &[Held], queue: &SoftwareQueue) -> Hold {
    let concerned = held.iter().filter(|held| held.concerns(queue)).map(|held| held.hold);
    let stricter = |one, other| if matches!(one, Hold::Refuse(_)) { one } else { other };
    concerned.reduce(stricter).unwrap_or(Hold::Release)
}

impl Engine {
    /// Holds nothing back any more that is for a drive.
    pub(super) fn forget_holds(&mut self, drive: usize) {
        self.held.retain(|held| held.drive != drive);
        self.queues
            .iter_mut()
            .filter(|queue| queue.drive == drive)
            .for_each(|queue| queue.hold = Hold::Release);
        self.guard();
    }

    /// Holds back, refuses or lets go on what is for a namespace of a drive, by its NSID there, or for any.
    pub(super) fn hold(&mut self, drive: usize, nsid: Option<u32>, hold: Hold, given_up: &mut Vec<GivenUp>) {
        self.held.retain(|held| (held.drive, held.nsid) != (drive, nsid));
        let held = Held { drive, nsid, hold };
        if hold != Hold::Release {
            self.held.push(held);
        }
        for number in 0..self.queues.len() {
            if held.concerns(&self.queues[number]) {
                self.settle_hold(number, given_up);
            }
        }
        self.guard();
    }

    /// Has a software queue go by all that is held back or refused now.
    pub(super) fn settle_hold(&mut self, number: usize, given_up: &mut Vec<GivenUp>) {
        let queue = &mut self.queues[number];
        queue.hold = in_force(&self.held, queue);
        // Nothing waits for a drive that is gone.
        let Some(Some(slot)) = self.drives.get_mut(queue.drive) else { return };
        slot.backlog.retain(|listed| *listed != number);
        match queue.hold {
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

    /// Ends the commands of which `verdict` says how they end: gives up those that wait here, and sees to it that those
    /// whose data is arriving never get to their drive. What drives have goes on.
    pub(super) fn end(&mut self, verdict: impl Fn(&Command) -> Option<Status>, given_up: &mut Vec<GivenUp>) {
        let before = given_up.len();
        for (index, command) in &mut self.commands {
            let Some(status) = verdict(command) else { continue };
            match command.stage {
                Stage::Memory | Stage::Held | Stage::Queued | Stage::Limited(_) => {
                    given_up.push(GivenUp { command: index, status });
                }
                Stage::Receiving => command.admitted.course = Course::Nowhere(status),
                Stage::Refused(_) | Stage::WithDrive | Stage::Asked | Stage::Owing(_) => {}
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

    /// Whether a drive has commands of before to one of its namespaces, by its NSID there, or to any. What comes later is
    /// held back, or not concerned.
    pub(super) fn has_with_drive(&self, drive: usize, nsid: Option<u32>, before: u64) -> bool {
        self.commands.iter().any(|(_, command)| {
            command.stage == Stage::WithDrive
                && command.sequence <= before
                && command.admitted.reaches(drive, nsid)
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // Tests end where something fails.
mod tests {
    use std::time::Duration;

    use gangway_driver::dma::{BufferPool, CommandData, Direction, DmaDomain};
    use gangway_spec::command::{SubmissionQueueEntry, TransferDirection};
    use gangway_spec::identify::csi;
    use gangway_spec::nvm::BlockFormat;
    use gangway_spec::opcode::nvm;

    use super::*;
    use crate::admission::{Admitted, Handling, NamespaceView, ZoneLimits};
    use crate::drive::DriveLink;
    use crate::reactor::command::Terms;
    use crate::reactor::fair::Link;

    fn engine() -> Engine {
        let domain = DmaDomain::new();
        let pool = |direction| BufferPool::new(&domain, direction, 1 << 20, 1 << 20).unwrap();
        let (reservations, _) = tokio::sync::mpsc::unbounded_channel();
        let writes = pool(Direction::DeviceReads);
        let (reads, capsules) = (pool(Direction::DeviceWrites), pool(Direction::DeviceReads));
        Engine::new(writes, reads, capsules, reservations, Duration::MAX)
    }

    /// An export of these namespaces of drive 1. The software queue of each has its number, that of commands that reach
    /// several number 0.
    fn show(engine: &mut Engine, nsids: &[u32]) {
        show_to(engine, nsids, &mut Vec::new());
    }

    fn show_to(engine: &mut Engine, nsids: &[u32], given_up: &mut Vec<GivenUp>) {
        let namespace = |&nsid: &u32| NamespaceView {
            nsid,
            drive: 1,
            drive_nsid: nsid,
            queue: nsid as usize,
            across: 0,
            csi: csi::NVM,
            format: BlockFormat::plain(512),
            blocks: 1000,
            zones: ZoneLimits::default(),
            read_only: false,
            ids: Default::default(),
        };
        engine.ensure_queues(&nsids.iter().map(namespace).collect::<Vec<_>>(), given_up);
    }

    fn holds(engine: &Engine) -> Vec<Hold> {
        engine.queues[1..].iter().map(|queue| queue.hold).collect()
    }

    #[test]
    fn a_namespace_that_is_shown_while_it_is_altered_is_held_like_the_others() {
        const BUSY: Hold = Hold::Refuse(Status::FORMAT_IN_PROGRESS);
        let mut engine = engine();
        show(&mut engine, &[1]);
        engine.hold(1, None, Hold::Back, &mut Vec::new());
        show(&mut engine, &[2]);
        assert_eq!(holds(&engine), [Hold::Back; 2]);
        engine.hold(1, None, BUSY, &mut Vec::new());
        show(&mut engine, &[3]);
        show(&mut engine, &[1]);
        assert_eq!(holds(&engine), [BUSY; 3]);
        engine.hold(1, None, Hold::Release, &mut Vec::new());
        engine.hold(1, Some(4), Hold::Back, &mut Vec::new());
        engine.hold(2, None, Hold::Back, &mut Vec::new());
        show(&mut engine, &[4]);
        show(&mut engine, &[5]);
        assert_eq!(holds(&engine), [Hold::Release, Hold::Release, Hold::Release, Hold::Back, Hold::Release]);
        engine.hold(1, Some(4), Hold::Release, &mut Vec::new());
        show(&mut engine, &[4]);
        assert_eq!(holds(&engine), [Hold::Release; 5]);
    }

    #[test]
    fn what_reaches_several_namespaces_is_held_with_each_that_its_export_shows() {
        const BUSY: Hold = Hold::Refuse(Status::FORMAT_IN_PROGRESS);
        let mut engine = engine();
        show(&mut engine, &[1, 2]);
        let mut hold = |drive, nsid, hold| {
            engine.hold(drive, nsid, hold, &mut Vec::new());
            engine.queues[0].hold
        };
        assert_eq!(hold(1, Some(3), Hold::Back), Hold::Release, "others have that");
        assert_eq!(hold(2, Some(1), Hold::Back), Hold::Release, "that is another drive");
        assert_eq!(hold(1, Some(2), Hold::Back), Hold::Back);
        assert_eq!(hold(1, Some(1), BUSY), BUSY);
        assert_eq!(hold(1, Some(1), Hold::Release), Hold::Back, "the second one is altered still");
        assert_eq!(hold(1, Some(2), Hold::Release), Hold::Release);
        assert_eq!(hold(1, None, Hold::Back), Hold::Back);
        assert_eq!(hold(1, None, Hold::Release), Hold::Release);
        show(&mut engine, &[1, 2, 3]);
        assert_eq!(engine.queues[0].hold, Hold::Back, "that one is shown now");
    }

    /// A command that reaches several namespaces of drive 1, and waits for that drive.
    fn begin(engine: &mut Engine) {
        let admitted = Admitted {
            course: Course::Drive,
            drive: 1,
            queue: 0,
            nsid: 1,
            direction: TransferDirection::None,
            length: 0,
            handling: Handling::Across,
        };
        let command = Command {
            entry: SubmissionQueueEntry::new(nvm::COPY),
            connection: None,
            slot: 0,
            tenant: engine.tenants.enter("host"),
            link: Link::default(),
            sequence: 0,
            admitted,
            data: CommandData::None,
            terms: Terms::Usual,
            counted: false,
            stage: Stage::Receiving,
        };
        let index = engine.commands.insert(command);
        engine.add_depth(1);
        engine.dispatch(index).unwrap();
    }

    #[test]
    fn what_waits_for_its_drive_is_held_when_a_namespace_is_shown_that_is_altered() {
        const BUSY: Hold = Hold::Refuse(Status::FORMAT_IN_PROGRESS);
        let mut engine = engine();
        engine.link(1, DriveLink::loose(), 0);
        show(&mut engine, &[1]);
        begin(&mut engine);
        let backlog = |engine: &mut Engine| engine.drive(1).unwrap().backlog.clone();
        engine.hold(1, Some(2), Hold::Back, &mut Vec::new());
        assert_eq!(backlog(&mut engine), [0], "it does not reach that one");
        show(&mut engine, &[1, 2]);
        assert!(backlog(&mut engine).is_empty(), "those that join it may");
        engine.hold(1, Some(2), Hold::Release, &mut Vec::new());
        show(&mut engine, &[1, 2]);
        assert_eq!(backlog(&mut engine), [0], "once");
        engine.hold(1, Some(3), BUSY, &mut Vec::new());
        let mut given_up = Vec::new();
        show_to(&mut engine, &[1, 2, 3], &mut given_up);
        assert!(matches!(given_up[..], [GivenUp { status: Status::FORMAT_IN_PROGRESS, .. }]));
        assert!(backlog(&mut engine).is_empty());
    }

    #[test]
    fn a_drive_that_is_forgotten_leaves_nothing_held_also_when_it_was_forgotten_first() {
        let mut engine = engine();
        show(&mut engine, &[1]);
        engine.hold(1, None, Hold::Back, &mut Vec::new());
        engine.unlink(1, &mut Vec::new());
        assert_eq!(holds(&engine), [Hold::Release]);
        show(&mut engine, &[2]);
        assert_eq!(holds(&engine), [Hold::Release; 2]);
        engine.hold(1, Some(2), Hold::Back, &mut Vec::new());
        engine.hold(1, Some(2), Hold::Release, &mut Vec::new());
        assert_eq!(holds(&engine), [Hold::Release; 2]);
    }
}
