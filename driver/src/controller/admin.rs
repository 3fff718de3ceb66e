//! Admin commands that are waited for, as start-up needs them.

use std::time::{Duration, Instant};

use gangway_spec::aen::AsyncEvent;
use gangway_spec::command::NSID_BROADCAST;
use gangway_spec::identify::{IDENTIFY_LENGTH, cns};
use gangway_spec::log::{GetLogPage, lid};
use gangway_spec::{
    CompletionQueueEntry, IdentifyController, IdentifyNamespace, SubmissionQueueEntry, admin_opcode_name,
    feature, opcode,
};
use zerocopy::FromBytes;

use super::options::LONGEST_TIMEOUT;
use super::registers::Poll;
use super::tag::Tag;
use super::{Controller, ControllerError, Health};
use crate::dma::{CommandData, Direction, DmaBuffer};
use crate::function::FunctionError;
use crate::queue::{Completion, guarded_start};

/// The longest sleep between looks at the admin queue while its interrupt is waited for: how long an interrupt that got
/// lost, or a controller that gave up without one, goes unnoticed.
const LONGEST_NAP: Duration = Duration::from_millis(20);

/// The head of the Sanitize Status log, up to its estimates.
const SANITIZE_STATUS_LENGTH: usize = 20;

/// Namespace identifiers in one Identify list.
const IDS_PER_LIST: usize = IDENTIFY_LENGTH / size_of::<u32>();

/// A drive that lists more active namespaces than this is not believed: the list could go on for hours.
const MOST_NAMESPACES: usize = 1 << 16;

/// What an admin command transfers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdminData<'a> {
    /// Nothing.
    None,
    /// So many bytes from the controller.
    In(usize),
    /// These bytes to the controller.
    Out(&'a [u8]),
}

impl Controller {
    /// Runs one admin command and waits for it, at most as long as [`TimeLimits::admin`](super::TimeLimits::admin) allows.
    /// Gives the completion and the bytes that were read.
    ///
    /// Completions of other admin commands that come meanwhile are kept for [`Controller::reap_admin`].
    ///
    /// # Errors
    /// [`ControllerError::Status`] when the controller refuses the command, [`ControllerError::Timeout`] when it does
    /// not answer; the command is then still outstanding, and its memory with it.
    pub fn admin(
        &mut self,
        entry: SubmissionQueueEntry,
        data: AdminData<'_>,
    ) -> Result<(CompletionQueueEntry, Vec<u8>), ControllerError> {
        let buffer = match data {
            // There is no memory of no bytes.
            AdminData::None | AdminData::In(0) | AdminData::Out([]) => CommandData::None,
            AdminData::In(len) => CommandData::Buffer(self.buffer(&entry, len, Direction::DeviceWrites)?),
            AdminData::Out(bytes) => {
                let mut buffer = self.buffer(&entry, bytes.len(), Direction::DeviceReads)?;
                buffer.copy_from_slice(bytes);
                CommandData::Buffer(buffer)
            }
        };
        let (tag, deadline) = (self.next_tag(), Instant::now() + self.limits.admin(&entry));
        if let Err(rejected) = self.admin.submit(&entry, buffer, tag.user(), deadline) {
            return Err(self.rejected(&entry, rejected.reason));
        }
        let completion = self.wait_for(&entry, tag)?;
        let read =
            if matches!(data, AdminData::In(_)) { completion.data.bytes().to_vec() } else { Vec::new() };
        Ok((completion.entry, read))
    }

    /// Runs a command that gives the controller memory to keep: a queue at the first address, shadow doorbells at both.
    pub(super) fn admin_with_kept_memory(
        &mut self,
        entry: SubmissionQueueEntry,
        addresses: (u64, u64),
    ) -> Result<(), ControllerError> {
        let (tag, deadline) = (self.next_tag(), Instant::now() + self.limits.admin(&entry));
        self.admin
            .submit_with_kept_memory(&entry, addresses, tag.user(), deadline)
            .map_err(|reason| self.rejected(&entry, reason))?;
        self.wait_for(&entry, tag).map(drop)
    }

    /// Appends the completions of admin commands that were submitted with [`Controller::admin_queue`] to `out`. To be
    /// used instead of reaping that queue: some may have come while [`Controller::admin`] waited.
    ///
    /// # Errors
    /// [`ControllerError::Queue`] when the admin queue is faulted: reset the controller.
    pub fn reap_admin(&mut self, out: &mut Vec<Completion>) -> Result<usize, ControllerError> {
        let before = out.len();
        let result = self.reap_own();
        out.append(&mut self.kept);
        result.map(|_| out.len() - before)
    }

    /// The namespace identifiers that are active, ascending (CNS 02h).
    ///
    /// # Errors
    /// As [`Controller::admin`].
    pub fn active_namespaces(&mut self) -> Result<Vec<u32>, ControllerError> {
        self.namespace_list(|this, after| this.identify_data(cns::ACTIVE_NAMESPACE_LIST, after))
    }

    /// Reads a list of namespaces: `read` gives the part of it that goes on after a namespace.
    pub(super) fn namespace_list(
        &mut self,
        mut read: impl FnMut(&mut Self, u32) -> Result<Vec<u8>, ControllerError>,
    ) -> Result<Vec<u32>, ControllerError> {
        let mut found: Vec<u32> = Vec::new();
        loop {
            let after = found.last().copied().unwrap_or(0);
            let list = read(self, after)?;
            let complete = append_ids(&mut found, &list)
                .map_err(|what| self.unsupported(&format!("its list of active namespaces {what}")))?;
            if complete {
                return Ok(found);
            }
        }
    }

    /// Identify Namespace (CNS 00h) of a namespace.
    ///
    /// # Errors
    /// As [`Controller::admin`].
    pub fn identify_namespace(&mut self, nsid: u32) -> Result<Box<IdentifyNamespace>, ControllerError> {
        let data = self.identify_data(cns::NAMESPACE, nsid)?;
        self.parse(&data)
    }

    /// Identify Controller (CNS 01h), read anew.
    ///
    /// # Errors
    /// As [`Controller::admin`].
    pub fn read_identify(&mut self) -> Result<Box<IdentifyController>, ControllerError> {
        let data = self.identify_data(cns::CONTROLLER, 0)?;
        self.parse(&data)
    }

    /// Any 4096 bytes of Identify data that take no more than CNS and a namespace.
    ///
    /// # Errors
    /// As [`Controller::admin`].
    pub fn identify_data(&mut self, cns: u8, nsid: u32) -> Result<Vec<u8>, ControllerError> {
        let mut entry = SubmissionQueueEntry::new(opcode::admin::IDENTIFY);
        entry.nsid.set(nsid);
        entry.cdw10.set(u32::from(cns));
        Ok(self.admin(entry, AdminData::In(IDENTIFY_LENGTH))?.1)
    }

    /// The longest time that the controller estimates for a block erase or a crypto erase of all its media
    /// (NVMe Base 2.0, 5.16.1.25); zero when it has no Sanitize or estimates nothing.
    pub(super) fn read_erasure_estimate(&mut self) -> Result<Duration, ControllerError> {
        if self.identify.sanicap.get() == 0 {
            return Ok(Duration::ZERO);
        }
        let entry = GetLogPage::new(lid::SANITIZE_STATUS, SANITIZE_STATUS_LENGTH as u32).into();
        match self.admin(entry, AdminData::In(SANITIZE_STATUS_LENGTH)) {
            Ok((_, page)) => Ok(erasure_estimate(&page)),
            Err(ControllerError::Status { .. }) => Ok(Duration::ZERO),
            Err(error) => Err(error),
        }
    }

    /// Asks for `wanted` I/O queue pairs and gives how many are granted (NVMe Base 2.0, 5.27.1.5).
    pub(super) fn set_number_of_queues(&mut self, wanted: u16) -> Result<u16, ControllerError> {
        // 0's based, and FFFFh is reserved.
        let count = u32::from(wanted.clamp(1, u16::MAX - 1) - 1);
        let mut entry = SubmissionQueueEntry::new(opcode::admin::SET_FEATURES);
        entry.cdw10.set(u32::from(feature::fid::NUMBER_OF_QUEUES));
        entry.cdw11.set(count << 16 | count);
        let granted = self.admin(entry, AdminData::None)?.0.dw0.get();
        let (submission, completion) = (granted & 0xffff, granted >> 16);
        // A controller may grant more than was asked for; more are not counted on.
        Ok(submission.min(completion).min(count) as u16 + 1)
    }

    /// Memory for a command. Nobody here knows how much a vendor's command moves: its memory begins where PRPs guard it.
    fn buffer(
        &self,
        entry: &SubmissionQueueEntry,
        len: usize,
        direction: Direction,
    ) -> Result<DmaBuffer, ControllerError> {
        let start = match admin_opcode_name(entry.opcode) {
            Some(_) => 0,
            None => guarded_start(len).unwrap_or(0),
        };
        let mut buffer =
            self.domain().buffer(start + len, direction).map_err(|source| self.dma_error(source))?;
        buffer.set_len(len);
        buffer.begin_at(start);
        Ok(buffer)
    }

    pub(super) fn parse<T: FromBytes>(&self, data: &[u8]) -> Result<Box<T>, ControllerError> {
        T::read_from_bytes(data)
            .map(Box::new)
            .map_err(|_| self.unsupported("Identify gave less than its 4096 bytes"))
    }

    fn next_tag(&mut self) -> Tag {
        self.last_awaited = self.last_awaited.wrapping_add(1);
        Tag::Awaited(self.last_awaited)
    }

    fn wait_for(&mut self, entry: &SubmissionQueueEntry, tag: Tag) -> Result<Completion, ControllerError> {
        self.admin.ring();
        let mut poll = Poll::new(self.limits.admin(entry));
        loop {
            // Of others that were waited for once, nobody is left who wants to know.
            let found = self.reap_own()?.into_iter().find(|awaited| awaited.user == tag.user());
            if let Some(completion) = found {
                let status = completion.entry.status();
                if status.is_success() {
                    return Ok(completion);
                }
                let (function, command) = (self.function_name().to_owned(), name(entry));
                return Err(ControllerError::Status { function, command, status });
            }
            self.wait_on(&mut poll, entry)?;
        }
    }

    /// Waits a little for the completion of a command, if there is time left and the controller still works.
    pub(super) fn wait_on(
        &mut self,
        poll: &mut Poll,
        entry: &SubmissionQueueEntry,
    ) -> Result<(), ControllerError> {
        let (function, action) = (self.function_name().to_owned(), format!("complete {}", name(entry)));
        if !poll.in_time() && Instant::now() >= self.run.patient_until() {
            return Err(ControllerError::Timeout { function, action, limit: poll.limit() });
        }
        match self.admin_interrupt() {
            Some(interrupt) => drop(interrupt.wait(LONGEST_NAP)),
            None => poll.sleep(),
        }
        // A controller that gave up does not answer either; better said at once.
        match self.health() {
            Health::Working | Health::Paused => Ok(()),
            Health::Fatal => Err(ControllerError::Fatal { function, action }),
            Health::NotReady => Err(ControllerError::NotReady { function, action }),
            Health::Gone => Err(FunctionError::Gone { function }.into()),
        }
    }

    /// Reaps the admin queue. Callers' completions are kept for them, the controller's own are acted upon, and those
    /// that are waited for are given.
    pub(super) fn reap_own(&mut self) -> Result<Vec<Completion>, ControllerError> {
        let mut reaped = Vec::new();
        let result = self.admin.reap(&mut reaped);
        let mut awaited = Vec::new();
        for completion in reaped {
            match Tag::of(completion.user) {
                Tag::Caller => self.kept.push(completion),
                Tag::Awaited(_) => awaited.push(completion),
                Tag::EventRequest => {
                    // Before its page is asked for, which a controller that stops will not give.
                    if self.events.reported(&completion) == Some(AsyncEvent::FIRMWARE_ACTIVATION_STARTING) {
                        self.expect_activation();
                    }
                }
                Tag::EventConfiguration(value) => self.events.configured(value, &completion),
                Tag::EventPage(event, parameter) => self.events.read(event, parameter, &completion),
                Tag::Abort { qid, cid } => self.aborts.completed(qid, cid, &completion),
            }
        }
        self.serve_events();
        match result {
            Ok(_) => Ok(awaited),
            Err(fault) => Err(ControllerError::Queue { function: self.function_name().to_owned(), fault }),
        }
    }

    pub(super) fn rejected(
        &self,
        entry: &SubmissionQueueEntry,
        reason: crate::queue::SubmitError,
    ) -> ControllerError {
        let (function, command) = (self.function_name().to_owned(), name(entry));
        ControllerError::Rejected { function, command, reason }
    }
}

/// Appends the identifiers of one Identify list; gives whether there are no further ones.
///
/// # Errors
/// What is wrong with the list.
fn append_ids(found: &mut Vec<u32>, list: &[u8]) -> Result<bool, &'static str> {
    let before = found.len();
    let ids = list.chunks_exact(4).map(|id| u32::from_le_bytes([id[0], id[1], id[2], id[3]]));
    for id in ids.take_while(|&id| id != 0) {
        // Ascending by specification; a list that is not would never end.
        if found.last().is_some_and(|&last| id <= last) {
            return Err("is not ascending");
        }
        // Commands would take it for all namespaces.
        if id == NSID_BROADCAST {
            return Err("holds the identifier that stands for all");
        }
        if found.len() == MOST_NAMESPACES {
            return Err("is longer than that of any drive");
        }
        found.push(id);
    }
    // FFFFFFFEh is the last identifier that a list may be asked to go on after.
    Ok(found.len() - before < IDS_PER_LIST || found.last().is_some_and(|&last| last >= 0xffff_fffd))
}

/// The longest of the estimates for block erase (bytes 15:12) and crypto erase (19:16), in seconds; FFFFFFFFh is none.
fn erasure_estimate(page: &[u8]) -> Duration {
    let words = page.get(12..20).unwrap_or_default().chunks_exact(4);
    let seconds = words.map(|word| u32::from_le_bytes([word[0], word[1], word[2], word[3]]));
    let longest = seconds.filter(|&seconds| seconds != u32::MAX).max().unwrap_or(0);
    Duration::from_secs(longest.into()).min(LONGEST_TIMEOUT)
}

fn name(entry: &SubmissionQueueEntry) -> String {
    match admin_opcode_name(entry.opcode) {
        Some(name) => name.to_owned(),
        None => format!("admin command {:#04x}", entry.opcode),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(ids: impl IntoIterator<Item = u32>) -> Vec<u8> {
        let mut list: Vec<u8> = ids.into_iter().flat_map(u32::to_le_bytes).collect();
        list.resize(IDENTIFY_LENGTH, 0);
        list
    }

    #[test]
    fn a_list_of_namespaces_goes_on_until_one_is_not_full() {
        let mut found = Vec::new();
        assert_eq!(append_ids(&mut found, &list(1..=1024)), Ok(false));
        assert_eq!(append_ids(&mut found, &list([2000, 0, 3000])), Ok(true));
        assert_eq!((found.len(), found.last()), (1025, Some(&2000)));
        assert_eq!(
            append_ids(&mut Vec::new(), &list(0xffff_fbff..=0xffff_fffe)),
            Ok(true),
            "none can follow"
        );
    }

    #[test]
    fn a_list_of_namespaces_that_makes_no_sense_is_refused() {
        for ids in [&[1, 1][..], &[2, 1], &[NSID_BROADCAST], &[7, NSID_BROADCAST]] {
            assert!(append_ids(&mut Vec::new(), &list(ids.iter().copied())).is_err(), "{ids:?}");
        }
        assert!(append_ids(&mut vec![5], &list([5])).is_err(), "the same page again");
        let mut found = Vec::new();
        let endless =
            (0..).find_map(|page| append_ids(&mut found, &list(page * 1024 + 1..=page * 1024 + 1024)).err());
        assert!(endless.is_some_and(|what| what.contains("longer")));
    }

    #[test]
    fn the_longest_estimate_for_an_erasure_counts_but_not_the_one_for_overwriting() {
        let page = |overwrite: u32, block: u32, crypto: u32| {
            let mut page = vec![0; 8];
            [overwrite, block, crypto].iter().for_each(|word| page.extend(word.to_le_bytes()));
            erasure_estimate(&page).as_secs()
        };
        assert_eq!(page(90_000, 7200, 4), 7200);
        assert_eq!(page(5, u32::MAX, 4), 4, "one is not stated");
        assert_eq!(page(u32::MAX, u32::MAX, u32::MAX), 0);
        assert_eq!(page(0, 0, 0xffff_fffe), LONGEST_TIMEOUT.as_secs());
        assert_eq!(erasure_estimate(&[0; 8]), Duration::ZERO, "a page that was cut short");
    }
}
