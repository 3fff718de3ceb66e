//! Queue pairs: one submission queue, one completion queue, and the commands outstanding between them.
//!
//! A queue pair belongs to one thread at a time; there is no lock in it. Posting ([`QueuePair::submit`]) and telling
//! the device ([`QueuePair::ring`]) are two operations, so that a batch costs one doorbell.
//!
//! What a remote peer can never choose is set here for every command: the identifier, the data pointer, and the
//! metadata pointer, which is 0 but for [`QueuePair::submit_with_metadata`].

mod error;
mod event_index;
mod pointer;
mod ring;
mod shadow;
mod slots;

#[cfg(test)]
mod tests;

use std::fmt;
use std::mem;
use std::sync::Arc;
use std::time::{Duration, Instant};

use gangway_spec::opcode::admin;
use gangway_spec::{CompletionQueueEntry, SubmissionQueueEntry, feature};

pub use self::error::{QueueFault, Rejected, SubmitError};
use self::pointer::DataPointer;
pub(crate) use self::pointer::SglRules;
pub use self::pointer::{DataPointers, guarded_start};
use self::ring::{CompletionRing, PrpLists, SubmissionRing, publish};
use self::shadow::Bell;
pub(crate) use self::shadow::ShadowDoorbells;
use self::slots::{Outstanding, Slots};
use crate::controller::Stopped;
use crate::controller::epoch::{Epoch, Run};
use crate::dma::{CommandData, Direction, DmaDomain, DmaError};
use crate::function::{Interrupt, Stepper};
use crate::mmio::Doorbell;
use crate::prp;

/// The most entries that a queue has: what command identifiers leave room for.
pub const MAX_ENTRIES: u16 = slots::MAX_SLOTS as u16 + 1;

/// A submission queue and its completion queue.
///
/// It ends by [`Controller::delete_io_queue_pair`](crate::Controller::delete_io_queue_pair), or by
/// [`dismantle`](QueuePair::dismantle) after the controller was stopped. Dropping it leaks the queues and the data of
/// outstanding commands, since the device may still use them.
pub struct QueuePair {
    qid: u16,
    run: Run,
    state: State,
    entries: u16,
    max_transfer: usize,

    sq: SubmissionRing,
    /// Where the next entry goes.
    tail: u16,
    /// The tail that the device knows of.
    rung: u16,
    /// How many commands were put onto the queue.
    posted: u64,
    /// How many of them the device knows of.
    told: u64,
    /// The device has fetched the entries before it, as far as it has told.
    head: u16,
    tail_bell: Bell,

    cq: CompletionRing,
    /// The next completion to come.
    next: u16,
    /// The phase it has when it has come.
    phase: bool,
    head_bell: Bell,

    sgl: Option<SglRules>,
    slots: Slots,
    lists: PrpLists,
    /// Per slot, how many entries of its list are not poison.
    list_entries: Vec<u32>,
    stepper: Option<Box<dyn Stepper>>,
    interrupt: Option<Interrupt>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Running,
    Faulted(QueueFault),
    /// The device is known not to touch the queue any more.
    Quiet,
}

/// What a queue pair is made of.
pub(crate) struct Parts {
    pub(crate) qid: u16,
    pub(crate) run: Run,
    /// Size of each queue, in entries: 2 to [`MAX_ENTRIES`].
    pub(crate) entries: u16,
    /// Bytes that one command can transfer.
    pub(crate) max_transfer: usize,
    /// How commands use SGLs, if they do.
    pub(crate) sgl: Option<SglRules>,
    pub(crate) tail_doorbell: Doorbell,
    pub(crate) head_doorbell: Doorbell,
}

/// A command that completed, with its data back.
#[derive(Debug)]
pub struct Completion {
    /// What was given with the command.
    pub user: u64,
    /// What the controller says: status and result.
    pub entry: CompletionQueueEntry,
    /// The memory that was given with the command.
    pub data: CommandData,
}

/// A command whose deadline has passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Overdue {
    /// What was given with the command.
    pub user: u64,
    /// Its identifier on this queue, as an Abort command needs it.
    pub cid: u16,
    /// Its opcode.
    pub opcode: u8,
    /// Its namespace.
    pub nsid: u32,
    /// How long ago the deadline was.
    pub late: Duration,
}

impl fmt::Display for Overdue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cid, opcode, nsid, late, .. } = self;
        write!(
            f,
            "command {cid:#x} (opcode {opcode:#x}, NSID {nsid:#x}) is {} ms beyond its time limit",
            late.as_millis()
        )
    }
}

impl QueuePair {
    /// Makes the memory of a queue pair. The controller knows nothing of it yet.
    pub(crate) fn new(domain: &DmaDomain, parts: Parts) -> Result<Self, DmaError> {
        let Parts { qid, run, entries, max_transfer, sgl, tail_doorbell, head_doorbell } = parts;
        assert!((2..=MAX_ENTRIES).contains(&entries));
        // A queue is full with one entry free (NVMe Base 2.0, 3.3.1.5).
        let slots = usize::from(entries) - 1;
        let list_pages = prp::list_pages_for(max_transfer);
        let lists_at = SubmissionRing::bytes(entries);
        let region =
            Arc::new(domain.allocate(lists_at + PrpLists::bytes(slots, list_pages), Direction::DeviceReads)?);
        Ok(Self {
            qid,
            run,
            state: State::Running,
            entries,
            max_transfer,
            sq: SubmissionRing::new(&region, entries),
            tail: 0,
            rung: 0,
            posted: 0,
            told: 0,
            head: 0,
            tail_bell: Bell::new(tail_doorbell),
            cq: CompletionRing::new(domain, entries)?,
            next: 0,
            phase: true,
            head_bell: Bell::new(head_doorbell),
            sgl,
            slots: Slots::new(slots),
            lists: PrpLists::new(&region, lists_at, slots, list_pages, domain.poison_iova()),
            list_entries: vec![0; slots],
            stepper: None,
            interrupt: None,
        })
    }

    /// Gives the queue pair of a device that does not run by itself what makes it run.
    pub(crate) fn set_stepper(&mut self, stepper: Option<Box<dyn Stepper>>) {
        self.stepper = stepper;
    }

    /// Tells the device of tails and heads in memory from now on, and by registers where its event indexes ask for it;
    /// `always`: by registers in any case. The device must not look at its doorbells at this time.
    pub(crate) fn set_shadow_doorbells(&mut self, shadow: &ShadowDoorbells, always: bool) {
        let doorbell = 2 * usize::from(self.qid);
        self.tail_bell.set_shadow(shadow, doorbell, always);
        self.head_bell.set_shadow(shadow, doorbell + 1, always);
    }

    /// The device refused them.
    pub(crate) fn remove_shadow_doorbells(&mut self) {
        self.tail_bell.remove_shadow();
        self.head_bell.remove_shadow();
    }

    /// Says what the completion queue signals.
    pub(crate) fn set_interrupt(&mut self, interrupt: Option<Interrupt>) {
        self.interrupt = interrupt;
    }

    /// What the device signals when it has completed commands, if the queue was made so
    /// ([`Options::interrupts`](crate::controller::Options)). There may be a signal without a completion: other queues may
    /// share it, and completions that were reaped before are signalled too.
    pub fn interrupt(&self) -> Option<&Interrupt> {
        self.interrupt.as_ref()
    }

    /// I/O virtual addresses of the submission queue and of the completion queue.
    pub(crate) fn addresses(&self) -> (u64, u64) {
        (self.sq.iova(), self.cq.iova())
    }

    /// Size of each queue in entries.
    pub(crate) fn entries(&self) -> u16 {
        self.entries
    }

    pub(crate) fn epoch(&self) -> Epoch {
        self.run.epoch()
    }

    /// Queue identifier; 0 is the admin queue.
    pub fn qid(&self) -> u16 {
        self.qid
    }

    /// How many commands can be outstanding.
    pub fn capacity(&self) -> usize {
        self.slots.capacity()
    }

    /// How many commands are outstanding.
    pub fn outstanding(&self) -> usize {
        self.slots.outstanding()
    }

    /// How many bytes one command can transfer.
    pub fn max_transfer(&self) -> usize {
        self.max_transfer
    }

    /// Whether a command can be submitted now.
    #[inline]
    pub fn has_room(&self) -> bool {
        self.is_running() && self.slots.next_free().is_some() && !self.ring_is_full()
    }

    /// Puts a command onto the submission queue; the device hears of it with the next [`ring`](QueuePair::ring).
    ///
    /// The entry is copied. In the copy the identifier, PSDT, the data pointer and the metadata pointer are set and
    /// nothing else. `user` comes back with the completion. `deadline` is what [`overdue`](QueuePair::overdue) goes by.
    ///
    /// # Errors
    /// [`Rejected`], with the data, when the command cannot be submitted: [`SubmitError`] says why.
    pub fn submit(
        &mut self,
        entry: &SubmissionQueueEntry,
        data: CommandData,
        user: u64,
        deadline: Instant,
    ) -> Result<(), Rejected> {
        match self.prepare(entry, &data, data.len()) {
            Ok(pointer) => {
                self.post(entry, pointer, 0, data, user, deadline);
                Ok(())
            }
            Err(reason) => Err(Rejected { data, reason }),
        }
    }

    /// As [`submit`](QueuePair::submit), for a namespace that keeps metadata in a buffer of its own (FLBAS bit 4 is 0):
    /// the last `metadata` bytes of `data` are the metadata of the blocks before them.
    ///
    /// That there are as many as the command implies is up to the caller
    /// ([`BlockFormat::metadata_length`](gangway_spec::nvm::BlockFormat::metadata_length)): nothing else tells the
    /// device where they end.
    ///
    /// # Errors
    /// As [`submit`](QueuePair::submit); [`SubmitError::Misaligned`] also when the metadata does not begin at a multiple
    /// of 4, and [`SubmitError::NoRoomForMetadata`] when there is not as much of it.
    pub fn submit_with_metadata(
        &mut self,
        entry: &SubmissionQueueEntry,
        data: CommandData,
        metadata: usize,
        user: u64,
        deadline: Instant,
    ) -> Result<(), Rejected> {
        let pointers = (|| {
            let (Some(iova), Some(len @ 1..)) = (data.iova(), data.len().checked_sub(metadata)) else {
                return Err(SubmitError::NoRoomForMetadata { len: data.len(), metadata });
            };
            let mptr = iova + len as u64;
            if !mptr.is_multiple_of(4) {
                return Err(SubmitError::Misaligned { iova: mptr });
            }
            Ok((self.prepare(entry, &data, len)?, mptr))
        })();
        match pointers {
            Ok((pointer, mptr)) => {
                self.post(entry, pointer, mptr, data, user, deadline);
                Ok(())
            }
            Err(reason) => Err(Rejected { data, reason }),
        }
    }

    /// Submits a command that gives the controller memory to keep: a queue in its first pointer, or shadow doorbells
    /// in both.
    pub(crate) fn submit_with_kept_memory(
        &mut self,
        entry: &SubmissionQueueEntry,
        (prp1, prp2): (u64, u64),
        user: u64,
        deadline: Instant,
    ) -> Result<(), SubmitError> {
        self.check_room()?;
        self.post(entry, DataPointer::prp(prp1, prp2), 0, CommandData::None, user, deadline);
        Ok(())
    }

    /// Tells the device of the commands submitted since the last call, with one write to its doorbell.
    pub fn ring(&mut self) {
        if self.rung == self.tail || !self.is_running() {
            return;
        }
        // Entries, lists and data must be in memory before the device goes to look for them.
        publish();
        self.tail_bell.ring(self.tail);
        self.rung = self.tail;
        self.told = self.posted;
        self.step();
    }

    /// Appends all completions there are to `out` and says how many. There are [`capacity`](QueuePair::capacity) at
    /// most: with as much room in `out` nothing is allocated.
    ///
    /// # Errors
    /// [`QueueFault`] when the controller does what it must never do, in this call or an earlier one. Completions
    /// before the fault are in `out` all the same. The controller must be reset.
    pub fn reap(&mut self, out: &mut Vec<Completion>) -> Result<usize, QueueFault> {
        match self.state {
            State::Running if self.run.is_on() => {}
            // The controller was stopped: what is outstanding comes back by `dismantle`.
            State::Running => return Ok(0),
            State::Faulted(fault) => return Err(fault),
            State::Quiet => return Ok(0),
        }
        // It ran when the doorbell was rung. If that was all, its completions are here.
        if self.slots.outstanding() > 0 && self.cq.read(self.next, self.phase).is_none() {
            self.step();
        }
        let before = out.len();
        let mut result = Ok(());
        let mut sq_head = self.head;
        // No more than a round, even if a device writes faster than this reads.
        while out.len() - before < usize::from(self.entries) {
            let Some(entry) = self.cq.read(self.next, self.phase) else { break };
            match self.accept(&entry) {
                Ok((user, data)) => out.push(Completion { user, entry, data }),
                Err(fault) => {
                    result = Err(self.give_up(fault));
                    break;
                }
            }
            sq_head = entry.sq_head.get();
            self.next += 1;
            if self.next == self.entries {
                self.next = 0;
                self.phase = !self.phase;
            }
        }
        let count = out.len() - before;
        if count > 0 {
            self.head_bell.ring(self.next);
            self.fetched_up_to(sq_head);
        }
        result.map(|()| count)
    }

    #[cold]
    fn give_up(&mut self, fault: QueueFault) -> QueueFault {
        tracing::error!(%fault, "queue pair given up");
        self.state = State::Faulted(fault);
        fault
    }

    /// Takes note of the head that the last completion of several reported.
    ///
    /// Completions may be written by several engines of a device and then report heads out of order: the head only
    /// moves forward, up to what the device was told of. With nothing outstanding, all entries were fetched.
    fn fetched_up_to(&mut self, sq_head: u16) {
        if self.slots.outstanding() == 0 {
            self.head = self.tail;
        } else if self.distance(self.head, sq_head) <= self.distance(self.head, self.rung) {
            self.head = sq_head;
        }
    }

    /// The command whose deadline passed first, if any has passed. Looks at every slot: call it now and then.
    ///
    /// Deadlines are put off while the controller says that it pauses ([`Controller::health`](crate::Controller::health)).
    pub fn overdue(&self, now: Instant) -> Option<Overdue> {
        self.all_overdue(now).max_by_key(|overdue| overdue.late)
    }

    /// All commands whose deadline has passed. Looks at every slot.
    pub fn all_overdue(&self, now: Instant) -> impl Iterator<Item = Overdue> {
        self.slots.iter().filter_map(move |(cid, command)| {
            let deadline = command.deadline.max(self.run.patient_until());
            let late = now.checked_duration_since(deadline).filter(|late| !late.is_zero())?;
            let &Outstanding { user, opcode, nsid, .. } = command;
            Some(Overdue { user, cid, opcode, nsid, late })
        })
    }

    /// The identifier, as an Abort command needs it, of the outstanding command that `user` was given with. Looks at every
    /// slot.
    pub fn cid_of(&self, user: u64) -> Option<u16> {
        self.slots.iter().find(|(_, command)| command.user == user).map(|(cid, _)| cid)
    }

    /// Whether the command that goes by `cid` is outstanding.
    pub fn has(&self, cid: u16) -> bool {
        self.slots.iter().any(|(outstanding, _)| outstanding == cid)
    }

    /// Ends the queue pair of a stopped controller, and gives the data of the commands that were outstanding back,
    /// with what was given along with them.
    ///
    /// # Errors
    /// Gives the queue pair back when `proof` is of another controller, or from before the queue pair was made.
    #[expect(clippy::result_large_err, reason = "once per reset, and the error is the queue pair itself")]
    pub fn dismantle(mut self, proof: &Stopped) -> Result<Vec<(u64, CommandData)>, QueuePair> {
        self.stop(proof).ok_or(self)
    }

    /// Gives up a queue pair whose controller cannot be stopped: what was given along with the outstanding commands
    /// comes back, their memory and the rings never do.
    pub fn abandon(self) -> Vec<u64> {
        self.slots.iter().map(|(_, command)| command.user).collect()
    }

    /// Takes the outstanding commands of a stopped controller out and leaves an empty queue that accepts nothing.
    pub(crate) fn stop(&mut self, proof: &Stopped) -> Option<Vec<(u64, CommandData)>> {
        proof.covers(self.epoch()).then(|| self.make_quiet())
    }

    /// Ends a queue pair that the controller knows nothing of: it was deleted, or never created.
    pub(crate) fn discard(mut self) -> Vec<(u64, CommandData)> {
        self.make_quiet()
    }

    fn make_quiet(&mut self) -> Vec<(u64, CommandData)> {
        self.state = State::Quiet;
        self.stepper = None;
        self.slots.take_all()
    }

    #[inline]
    fn check_room(&self) -> Result<usize, SubmitError> {
        if !self.is_running() {
            return Err(SubmitError::Stopped);
        }
        match self.slots.next_free() {
            Some(slot) if !self.ring_is_full() => Ok(slot),
            _ => Err(SubmitError::Full),
        }
    }

    /// Writes a checked command to the queue.
    #[inline]
    fn post(
        &mut self,
        entry: &SubmissionQueueEntry,
        pointer: DataPointer,
        mptr: u64,
        data: CommandData,
        user: u64,
        deadline: Instant,
    ) {
        let command = Outstanding {
            user,
            data,
            deadline,
            opcode: entry.opcode,
            nsid: entry.nsid.get(),
            number: self.posted,
        };
        let cid = self.slots.occupy(command).expect("a free slot was seen when the command was checked");
        self.sq.write(self.tail, pointer.words_of(entry, cid, mptr));
        self.tail = self.after(self.tail);
        self.posted += 1;
    }

    /// Checks a completion and takes its command out: what was given with it, and its data.
    #[inline]
    fn accept(&mut self, entry: &CompletionQueueEntry) -> Result<(u64, CommandData), QueueFault> {
        let (qid, cid) = (self.qid, entry.cid.get());
        let (sq_id, sq_head) = (entry.sq_id.get(), entry.sq_head.get());
        if cid == u16::MAX && sq_id == u16::MAX && entry.status.get() == u16::MAX {
            return Err(QueueFault::Gone { qid });
        }
        if sq_id != qid {
            return Err(QueueFault::WrongQueue { qid, sq_id });
        }
        if sq_head >= self.entries {
            return Err(QueueFault::BadHead { qid, sq_head });
        }
        // Of a command that was not rung for the device cannot know. Its entry is still to be fetched, and must not
        // name memory that is in other hands by then.
        self.slots.complete(cid, self.told).ok_or(QueueFault::UnknownCommand { qid, cid })
    }

    /// Whether commands are taken and doorbells rung.
    #[inline]
    pub(crate) fn is_running(&self) -> bool {
        self.state == State::Running && self.run.is_on()
    }

    #[inline]
    fn ring_is_full(&self) -> bool {
        self.after(self.tail) == self.head
    }

    #[inline]
    fn after(&self, index: u16) -> u16 {
        if index + 1 == self.entries { 0 } else { index + 1 }
    }

    /// Entries from `from` forward to `to`.
    fn distance(&self, from: u16, to: u16) -> u16 {
        if to >= from { to - from } else { to + self.entries - from }
    }

    fn step(&mut self) {
        if let Some(stepper) = &mut self.stepper {
            stepper.step();
        }
    }
}

/// Whether an admin command leaves the controller with an address that it goes on using after the completion. The
/// memory would be back in other hands by then.
fn keeps_memory(entry: &SubmissionQueueEntry) -> bool {
    /// EHM, bit 0 of CDW11 of the Host Memory Buffer feature. Without it the controller gives its buffer back.
    const ENABLE_HOST_MEMORY: u32 = 1 << 0;
    match entry.opcode {
        admin::CREATE_IO_SQ
        | admin::CREATE_IO_CQ
        | admin::DOORBELL_BUFFER_CONFIG
        | admin::CONTROLLER_DATA_QUEUE => true,
        admin::SET_FEATURES => {
            feature::feature_id(entry) == feature::fid::HOST_MEMORY_BUFFER
                && entry.cdw11.get() & ENABLE_HOST_MEMORY != 0
        }
        _ => false,
    }
}

impl Drop for QueuePair {
    fn drop(&mut self) {
        if self.state == State::Quiet {
            return;
        }
        let outstanding = self.slots.outstanding();
        tracing::error!(
            qid = self.qid,
            outstanding,
            state = ?self.state,
            "a queue pair was dropped that its controller still knows; its memory is leaked"
        );
        mem::forget(self.slots.take_all());
        mem::forget((Arc::clone(self.sq.region()), Arc::clone(self.cq.region()), self.tail_bell.pages()));
    }
}

impl std::fmt::Debug for QueuePair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("QueuePair")
            .field("qid", &self.qid)
            .field("state", &self.state)
            .field("outstanding", &self.outstanding())
            .field("capacity", &self.capacity())
            .finish()
    }
}
