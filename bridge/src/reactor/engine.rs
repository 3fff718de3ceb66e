//! The way of commands between connections and drives: the software queues in which they wait, and the memory they use.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use gangway_driver::dma::{BufferPool, CommandData, DmaBuffer};
use gangway_driver::queue::{Completion, QueuePair};
use gangway_spec::status::Status;
use slab::Slab;
use tokio::sync::mpsc::UnboundedSender;

use super::accounts::{AccountId, Accounts};
use super::batch::{BatchPool, SendBatch};
use super::command::{Command, Ended, GivenUp, NO_DRIVE, Origin, Orphan, Stage};
use super::drives::{DriveSlot, Passage, SoftwareQueue, Way, passage};
use super::hold::Held;
use super::message::ReservationRequest;
use super::pace::Outstanding;
use super::placement;
use super::tenants::Tenants;
use crate::admission::{Admitted, Course, NamespaceView};
use crate::drive::{DriveLink, Verdict};
use crate::status::DriveCondition;

/// Commands for which there is room in any case.
const LEAST_ROOM: usize = 1024;
/// What part of a drive's share of the memory for data of writes may be taken by data that waits for a limit.
const ASIDE: usize = 8;

/// Bytes of memory that data takes: pools give whole pages.
fn room_of(data: &CommandData) -> usize {
    match data {
        CommandData::Buffer(buffer) => buffer.capacity(),
        data => data.len(),
    }
}

/// Takes from a command what it has of its drive's share and queue, and the buffer that it has in hand.
#[inline]
fn detach(drives: &mut [Option<DriveSlot>], command: &mut Command) -> CommandData {
    let Admitted { drive, direction, length, .. } = command.admitted;
    if let Some(Some(slot)) = drives.get_mut(drive) {
        if command.counted {
            slot.taken[Way::of(direction) as usize] -= length as usize;
        }
        if command.stage == Stage::WithDrive {
            slot.with_drive[command.tenant.index()] -= 1;
        }
    }
    std::mem::take(&mut command.data)
}

/// Everything of a reactor that is not a connection.
pub(super) struct Engine {
    pub(super) commands: Slab<Command>,
    /// Commands whose connections are gone, while drives have them.
    pub(super) orphans: Vec<Orphan>,
    pub(super) drives: Vec<Option<DriveSlot>>,
    /// Bytes of memory that commands to one drive may have while others have none, for each [`Way`]. Otherwise a drive
    /// that is stuck would end up with all of it, and stop every other one.
    share: [usize; 2],
    /// When commands that are submitted in this turn count as stuck.
    deadline: Instant,
    pub(super) queues: Vec<SoftwareQueue>,
    /// What is held back or refused, also where there is no software queue yet.
    pub(super) held: Vec<Held>,
    /// The hosts that have connections.
    pub(super) tenants: Tenants,
    /// What hosts and namespaces may have.
    pub(super) accounts: Accounts,
    /// Memory that drives read: data of writes.
    to_drive: BufferPool,
    /// Memory that drives write: data of reads.
    from_drive: BufferPool,
    /// Memory for in-capsule data when there is none in `to_drive`. What `to_drive` lent for data that is still to
    /// come may come behind such a capsule, so the capsule must never wait for it.
    capsules: BufferPool,
    /// Commands that all connections can have at a time.
    depth: usize,
    /// Commands that drives were not told of yet.
    submitted: usize,
    pub(super) completions: Vec<Completion>,
    /// What connections fill with answers.
    pub(super) batches: BatchPool,
    /// What the protocol answers by itself: nothing, on queues that are connected.
    pub(super) answers: Vec<u8>,
    /// Where reservation commands are executed.
    pub(super) reservations: UnboundedSender<ReservationRequest>,
    io_timeout: Duration,
    sequence: u64,
}

impl Engine {
    pub(super) fn new(
        to_drive: BufferPool,
        from_drive: BufferPool,
        capsules: BufferPool,
        reservations: UnboundedSender<ReservationRequest>,
        io_timeout: Duration,
    ) -> Self {
        Self {
            commands: Slab::new(),
            orphans: Vec::new(),
            drives: Vec::new(),
            share: [usize::MAX; 2],
            deadline: Instant::now(),
            queues: Vec::new(),
            held: Vec::new(),
            tenants: Tenants::default(),
            accounts: Accounts::new(),
            to_drive,
            from_drive,
            capsules,
            depth: 0,
            submitted: 0,
            completions: Vec::with_capacity(1024),
            batches: BatchPool::default(),
            answers: Vec::new(),
            reservations,
            io_timeout,
            sequence: 0,
        }
    }

    /// Makes room for the commands of one more connection, so that none allocates on its way.
    pub(super) fn add_depth(&mut self, depth: usize) {
        self.depth += depth;
        self.batches.admit(depth);
        self.commands.reserve(self.depth.saturating_sub(self.commands.len()));
        let tenants = self.tenants.numbers();
        self.drives.iter_mut().flatten().for_each(|slot| slot.make_room(tenants));
        self.queues.iter_mut().for_each(|queue| queue.pending.make_room(tenants));
    }

    /// A connection is gone.
    pub(super) fn remove_depth(&mut self, depth: usize) {
        self.depth -= depth;
        self.batches.dismiss();
        // What many connections needed is not kept for few.
        if self.commands.capacity() > 4 * self.depth.max(LEAST_ROOM) {
            self.commands.shrink_to_fit();
            self.commands.reserve(self.depth.saturating_sub(self.commands.len()));
        }
    }

    /// Makes the software queues of what an export shows exist: of each namespace its own, and of each drive the one of
    /// commands that reach several.
    pub(super) fn ensure_queues(&mut self, shown: &[NamespaceView], given_up: &mut Vec<GivenUp>) {
        let mut several: BTreeMap<usize, (usize, Vec<u32>)> = BTreeMap::new();
        for NamespaceView { queue, across, drive, drive_nsid, .. } in shown {
            self.ensure_queue(*queue, *drive, [*drive_nsid].into(), given_up);
            several.entry(*across).or_insert((*drive, Vec::new())).1.push(*drive_nsid);
        }
        for (across, (drive, nsids)) in several {
            self.ensure_queue(across, drive, nsids.into(), given_up);
        }
        self.guard();
    }

    fn ensure_queue(&mut self, number: usize, drive: usize, nsids: Box<[u32]>, given_up: &mut Vec<GivenUp>) {
        while self.queues.len() <= number {
            let mut software = SoftwareQueue::default();
            software.pending.make_room(self.tenants.numbers());
            self.queues.push(software);
        }
        let queue = &mut self.queues[number];
        (queue.drive, queue.nsids) = (drive, nsids);
        // What it may reach now may be held.
        self.settle_hold(number, given_up);
    }

    pub(super) fn link(&mut self, drive: usize, link: DriveLink, place: usize) {
        while self.drives.len() <= drive {
            self.drives.push(None);
        }
        let mut slot = DriveSlot::new(link, place);
        slot.make_room(self.tenants.numbers());
        self.drives[drive] = Some(slot);
        self.share_memory();
    }

    /// Forgets a drive. It has nothing any more: its manager has ended, and no export shows it. Commands to it that wait
    /// are given up. Those that end later, when their data has come or the control plane answers, have nothing to do with
    /// the next drive of this number.
    pub(super) fn unlink(&mut self, drive: usize, given_up: &mut Vec<GivenUp>) {
        let to_it = |command: &Command| {
            let status = match command.admitted.course {
                Course::Nowhere(status) => status,
                _ => Status::INTERNAL_PATH_ERROR,
            };
            (command.admitted.drive == drive).then_some(status)
        };
        self.end(to_it, given_up);
        for (_, command) in &mut self.commands {
            if command.admitted.drive == drive {
                command.admitted.drive = NO_DRIVE;
                command.counted = false;
            }
        }
        if let Some(slot) = self.drives.get_mut(drive) {
            *slot = None;
        }
        self.forget_holds(drive);
        self.share_memory();
    }

    fn share_memory(&mut self) {
        let drives = self.drives.iter().flatten().count();
        self.share = match drives {
            0 | 1 => [usize::MAX; 2],
            _ => [self.to_drive.capacity() / drives, self.from_drive.capacity() / drives],
        };
    }

    /// A turn begins.
    pub(super) fn begin_turn(&mut self, now: Instant) {
        self.deadline = now + self.io_timeout;
        self.accounts.begin_turn(now);
    }

    pub(super) fn drive(&mut self, drive: usize) -> Option<&mut DriveSlot> {
        self.drives.get_mut(drive)?.as_mut()
    }

    /// One reap finds no more than all drives can have, and shall not allocate.
    pub(super) fn make_room_for_completions(&mut self) {
        let pairs = self.drives.iter().flatten().filter_map(|slot| slot.pair.as_ref());
        let most = pairs.map(QueuePair::capacity).sum::<usize>();
        self.completions.reserve(most.saturating_sub(self.completions.len()));
    }

    /// The last one that was given.
    pub(super) fn sequence(&self) -> u64 {
        self.sequence
    }

    pub(super) fn next_sequence(&mut self) -> u64 {
        self.sequence += 1;
        self.sequence
    }

    /// How drives are, and how many commands they have.
    pub(super) fn conditions(&self) -> impl Iterator<Item = (usize, DriveCondition, usize)> {
        self.drives.iter().enumerate().filter_map(|(index, slot)| {
            let slot = slot.as_ref()?;
            let condition = match (slot.refuses, &slot.pair) {
                (Some(status), _) => DriveCondition::Refuses(status),
                (None, Some(_)) => DriveCondition::Works,
                (None, None) => DriveCondition::Away,
            };
            Some((index, condition, slot.pair.as_ref().map_or(0, QueuePair::outstanding)))
        })
    }

    /// What drives have of this reactor, and whether they will say so when it is done.
    pub(super) fn with_drives(&self) -> Outstanding {
        let busy = |slot: &&DriveSlot| slot.pair.as_ref().is_some_and(|pair| pair.outstanding() > 0);
        let mut slots = self.drives.iter().flatten().filter(busy).peekable();
        if slots.peek().is_none() {
            Outstanding::Nothing
        } else if slots.all(|slot| slot.interrupts) {
            Outstanding::Announced
        } else {
            Outstanding::Silent
        }
    }

    /// Whether a command may have `length` bytes of memory now: there is some, and its drive has not had its share.
    fn may_have(&mut self, drive: usize, way: Way, length: usize) -> bool {
        let within = self
            .drives
            .get(drive)
            .and_then(Option::as_ref)
            .is_none_or(|slot| slot.is_within(&self.share, way, length));
        let pool = match way {
            Way::ToDrive => &mut self.to_drive,
            Way::FromDrive => &mut self.from_drive,
        };
        within && pool.has(length)
    }

    /// Gives a command its buffer, if it is its turn and there is one; puts it into the list of those that wait
    /// otherwise, and returns false. `first`: it is the first of these.
    #[inline]
    pub(super) fn provide(&mut self, index: usize, first: bool) -> bool {
        let taken = self.take(index, first);
        if !taken {
            self.wait_for_memory(index);
        }
        taken
    }

    #[cold]
    fn wait_for_memory(&mut self, index: usize) {
        let Some(command) = self.commands.get_mut(index) else { return };
        command.stage = Stage::Memory;
        let Admitted { drive, direction, .. } = command.admitted;
        let way = Way::of(direction) as usize;
        if let Some(Some(slot)) = self.drives.get_mut(drive) {
            slot.waiting[way].push(index as u32, &mut self.commands);
        }
    }

    /// Gives a command its buffer, unless there is none, or others wait for one and it is not `first` among them.
    #[inline(always)]
    fn take(&mut self, index: usize, first: bool) -> bool {
        let Some(command) = self.commands.get_mut(index) else { return false };
        let Admitted { drive, direction, length, .. } = command.admitted;
        let (way, length) = (Way::of(direction), length as usize);
        let mut slot = self.drives.get_mut(drive).and_then(Option::as_mut);
        if let Some(slot) = &slot {
            let others_first = !first && !slot.waiting[way as usize].is_empty();
            if others_first || !slot.is_within(&self.share, way, length) {
                return false;
            }
        }
        let pool = match way {
            Way::ToDrive => &mut self.to_drive,
            Way::FromDrive => &mut self.from_drive,
        };
        let Some(buffer) = placement::take(pool, &command.admitted) else { return false };
        if let Some(slot) = &mut slot {
            slot.taken[way as usize] += length;
            command.counted = true;
        }
        command.data = CommandData::Buffer(buffer);
        true
    }

    /// Gives a command a buffer for its in-capsule data. False when there is none.
    pub(super) fn provide_for_capsule(&mut self, index: usize) -> bool {
        if self.take(index, false) {
            return true;
        }
        let Some(command) = self.commands.get_mut(index) else { return false };
        let Some(buffer) = placement::take(&mut self.capsules, &command.admitted) else { return false };
        command.data = CommandData::Buffer(buffer);
        true
    }

    /// The next command that waits for memory and can have it now.
    pub(super) fn next_fed(&mut self, way: Way) -> Option<usize> {
        for drive in 0..self.drives.len() {
            let Some(slot) = self.drives[drive].as_mut() else { continue };
            let Some(item) = slot.waiting[way as usize].next(&self.commands, |_| true) else { continue };
            let index = item as usize;
            if self.may_have(drive, way, placement::room(&self.commands[index].admitted)) {
                if let Some(slot) = self.drives[drive].as_mut() {
                    slot.waiting[way as usize].take(item, &mut self.commands);
                }
                return Some(index);
            }
        }
        None
    }

    /// Whether commands wait for memory, for data of the given way.
    pub(super) fn is_short_of_memory(&self, way: Way) -> bool {
        self.drives.iter().flatten().any(|slot| !slot.waiting[way as usize].is_empty())
    }

    pub(super) fn release_buffer(&mut self, buffer: DmaBuffer) {
        if buffer.direction().device_writes() {
            self.from_drive.put(buffer);
        } else {
            // One of `capsules` finds its way home from here.
            self.to_drive.put(buffer);
        }
    }

    /// Takes back a batch that has left, or never will, with its buffers.
    pub(super) fn retire(&mut self, mut batch: Box<SendBatch>) {
        batch.recycle(|buffer| self.release_buffer(buffer));
        self.batches.put(batch);
    }

    pub(super) fn release(&mut self, data: CommandData) {
        if let CommandData::Buffer(buffer) = data {
            self.release_buffer(buffer);
        }
    }

    /// Takes a command off the books, and gives back the buffer that it has in hand. Its memory no longer counts
    /// against its drive's share.
    #[inline(always)]
    pub(super) fn remove(&mut self, index: usize) -> Option<Ended> {
        let command = self.commands.get_mut(index)?;
        let Admitted { direction, length, .. } = command.admitted;
        let ended = Ended { connection: command.connection(), slot: command.slot, direction, length };
        let data = detach(&mut self.drives, command);
        self.commands.remove(index);
        self.release(data);
        if ended.connection.is_none() {
            self.orphans.retain(|orphan| orphan.command != index);
        }
        Some(ended)
    }

    /// Takes from a command that its drive has completed what it had of that, and keeps it on the books.
    pub(super) fn retain(&mut self, index: usize, data: CommandData) {
        self.release(data);
        if let Some(command) = self.commands.get_mut(index) {
            let data = detach(&mut self.drives, command);
            command.counted = false;
            command.stage = Stage::Receiving;
            self.release(data);
        }
    }

    /// Lets the data of a command that came in its capsule stay until the command can be paid for. False when such data
    /// has as much memory as it may.
    pub(super) fn set_aside(&mut self, index: usize) -> bool {
        let most = self.share[Way::ToDrive as usize].min(self.to_drive.capacity()) / ASIDE;
        let Some(command) = self.commands.get_mut(index) else { return false };
        let drive = command.admitted.drive;
        let aside = self.drives.get(drive).and_then(Option::as_ref).map_or(usize::MAX, |slot| slot.aside);
        if aside.saturating_add(command.data.len()) > most {
            return false;
        }
        if !command.counted {
            // What is received into, and what capsules fall back on, cannot be missed for so long.
            let data = std::mem::take(&mut command.data);
            let taken = self.take(index, false);
            match (&mut self.commands[index].data, &data) {
                (CommandData::Buffer(buffer), CommandData::Buffer(from)) if taken => {
                    buffer.copy_from_slice(from);
                }
                (CommandData::Buffer(buffer), CommandData::Shared(from)) if taken => {
                    buffer.copy_from_slice(from);
                }
                (place, _) => {
                    *place = data;
                    return false;
                }
            }
            self.release(data);
        }
        let room = room_of(&self.commands[index].data);
        let Some(Some(slot)) = self.drives.get_mut(drive) else { return false };
        // A page at least, however little it is.
        if slot.aside + room > most {
            return false;
        }
        slot.aside += room;
        // It counts by itself: a large write may be all of the share, and must not wait for this.
        slot.taken[Way::ToDrive as usize] -= self.commands[index].admitted.length as usize;
        self.commands[index].counted = false;
        true
    }

    /// A command no longer waits for a limit: its data, if there is some, no longer is set aside.
    pub(super) fn pick_up(&mut self, index: usize) {
        let Some(command) = self.commands.get_mut(index) else { return };
        let slot = self.drives.get_mut(command.admitted.drive).and_then(Option::as_mut);
        if let Some(slot) = slot.filter(|_| !command.data.is_empty()) {
            slot.aside -= room_of(&command.data);
            slot.taken[Way::ToDrive as usize] += command.admitted.length as usize;
            command.counted = true;
        }
    }

    /// Puts a command into the queue of those that wait for an account. `stage` names it.
    pub(super) fn limit(&mut self, index: usize, stage: Stage, account: AccountId) {
        self.commands[index].stage = stage;
        self.accounts.wait(account, index as u32, &mut self.commands);
    }

    /// A command's connection is gone; its drive still has it.
    pub(super) fn orphan(&mut self, index: usize, origin: Origin) {
        if let Some(command) = self.commands.get_mut(index) {
            command.connection = None;
            self.orphans.push(Orphan { command: index, sequence: command.sequence, origin });
        }
    }

    /// Sends a command to its drive now, or puts it into its software queue.
    ///
    /// # Errors
    /// The status to answer it with.
    #[inline]
    pub(super) fn dispatch(&mut self, index: usize) -> Result<(), Status> {
        let command = &mut self.commands[index];
        let Admitted { drive, queue, .. } = command.admitted;
        let Some(Some(slot)) = self.drives.get_mut(drive) else { return Err(Status::INTERNAL_PATH_ERROR) };
        if !slot.guarded
            && slot.backlog.is_empty()
            && slot.may_have_more(command.tenant, self.tenants.count())
            && slot.submit(index, command, self.deadline)?
        {
            self.submitted += 1;
            return Ok(());
        }
        self.queue(index, drive, queue)
    }

    fn queue(&mut self, index: usize, drive: usize, queue: usize) -> Result<(), Status> {
        let Some(Some(slot)) = self.drives.get_mut(drive) else { return Err(Status::INTERNAL_PATH_ERROR) };
        let passage = if slot.guarded { passage(slot, &self.queues[queue]) } else { Passage::MayGo };
        if let Passage::Refused(status) = passage {
            return Err(status);
        }
        self.commands[index].stage = Stage::Queued;
        let pending = &mut self.queues[queue].pending;
        if pending.is_empty() && passage == Passage::MayGo {
            slot.backlog.push_back(queue);
        }
        pending.push(index as u32, &mut self.commands);
        Ok(())
    }

    /// Moves commands from software queues to hardware queues as far as there is room: each namespace in turn, and of
    /// each its hosts in turn.
    pub(super) fn pump(&mut self, given_up: &mut Vec<GivenUp>) {
        let hosts = self.tenants.count();
        for drive in 0..self.drives.len() {
            // Software queues in a row of which no host may have more.
            let mut passed_over = 0;
            while let Some(slot) = self.drives[drive].as_mut() {
                if passed_over >= slot.backlog.len() || slot.refuses.is_none() && !slot.has_room() {
                    break;
                }
                let refuses = slot.refuses;
                let Some(queue) = slot.backlog.pop_front() else { break };
                let pending = &mut self.queues[queue].pending;
                let may = |tenant| refuses.is_some() || slot.may_have_more(tenant, hosts);
                let next = pending.next(&self.commands, may);
                passed_over = if next.is_some() { 0 } else { passed_over + 1 };
                if let Some(item) = next {
                    let index = item as usize;
                    let submitted = match refuses {
                        None => slot.submit(index, &mut self.commands[index], self.deadline),
                        Some(status) => Err(status),
                    };
                    match submitted {
                        Ok(true) => self.submitted += 1,
                        Ok(false) => {
                            // Its controller was stopped at this very moment.
                            slot.backlog.push_front(queue);
                            break;
                        }
                        Err(status) => given_up.push(GivenUp { command: index, status }),
                    }
                    pending.take(item, &mut self.commands);
                }
                if !pending.is_empty() {
                    slot.backlog.push_back(queue);
                }
            }
        }
    }

    /// Commands that drives were not told of yet.
    pub(super) fn submitted(&self) -> usize {
        self.submitted
    }

    /// Rings each drive's doorbell once for all that was submitted.
    pub(super) fn ring(&mut self) {
        self.submitted = 0;
        for slot in self.drives.iter_mut().flatten() {
            if let Some(pair) = slot.pair.as_mut() {
                pair.ring();
            }
        }
    }

    /// Collects what drives have completed. A drive whose queue went wrong is reported to its manager.
    pub(super) fn reap(&mut self) -> usize {
        let before = self.completions.len();
        for slot in self.drives.iter_mut().flatten() {
            let Some(pair) = slot.pair.as_mut() else { continue };
            if pair.outstanding() == 0 || slot.faulted {
                continue;
            }
            if let Err(fault) = pair.reap(&mut self.completions) {
                slot.faulted = true;
                slot.link.report_fault(slot.place, slot.issue, fault.to_string());
            }
        }
        self.completions.len() - before
    }

    /// Reports commands whose time limits have passed, each once.
    pub(super) fn check_deadlines(&mut self, now: Instant) {
        for slot in self.drives.iter_mut().flatten() {
            let DriveSlot { pair: Some(pair), late, link, place, issue, faulted: false, .. } = slot else {
                continue;
            };
            // Identifiers come again.
            late.retain(|cid| pair.all_overdue(now).any(|overdue| overdue.cid == *cid));
            for overdue in pair.all_overdue(now) {
                if !late.contains(&overdue.cid) {
                    late.push(overdue.cid);
                    link.report_overdue(*place, *issue, pair.qid(), overdue);
                }
            }
        }
    }

    /// Takes a command that is not with a drive off the books.
    pub(super) fn withdraw(&mut self, index: usize) {
        self.unlist(index);
        self.remove(index);
    }

    /// Takes a command that is not with a drive out of whatever list of the engine it waits in.
    pub(super) fn unlist(&mut self, index: usize) {
        let Some(command) = self.commands.get(index) else { return };
        match command.stage {
            Stage::Queued => {
                let queue = command.admitted.queue;
                // An emptied queue stays in the backlog and is passed over when its turn comes.
                self.queues[queue].pending.remove(index as u32, &mut self.commands);
                if self.queues[queue].pending.is_empty() {
                    for slot in self.drives.iter_mut().flatten() {
                        slot.backlog.retain(|listed| *listed != queue);
                    }
                }
            }
            Stage::Memory => {
                let Admitted { drive, direction, .. } = command.admitted;
                if let Some(Some(slot)) = self.drives.get_mut(drive) {
                    slot.waiting[Way::of(direction) as usize].remove(index as u32, &mut self.commands);
                }
            }
            Stage::Limited(account) => {
                self.accounts.forget(account, index as u32, &mut self.commands);
                self.pick_up(index);
            }
            Stage::Owing(account) => self.accounts.forget(account, index as u32, &mut self.commands),
            Stage::Refused(_) | Stage::Held | Stage::Receiving | Stage::WithDrive | Stage::Asked => {}
        }
    }

    /// Asks for a command that its drive has to be aborted.
    pub(super) fn abort(&mut self, index: usize, verdict: Verdict) {
        let Some(command) = self.commands.get(index) else { return };
        let slot = self.drives.get(command.admitted.drive).and_then(Option::as_ref);
        let Some((slot, pair)) = slot.and_then(|slot| Some((slot, slot.pair.as_ref()?))) else { return };
        if let Some(cid) = pair.cid_of(index as u64) {
            slot.link.abort(slot.place, slot.issue, (pair.qid(), cid), verdict);
        }
    }
}
