//! What a declared fault consists of: what happens, to which commands, and how often.

use std::ops::RangeInclusive;
use std::time::Duration;

use gangway_spec::aen::AsyncEvent;
use gangway_spec::{CompletionQueueEntry, Status, SubmissionQueueEntry, nvm};

/// A fault that an emulated drive is to have.
///
/// As text: what happens, then to what and when, separated by colons, in any order. `drop:read:nth=3` never completes the
/// third Read, `delay=2s:admin:op=0x06:once` lets the next Identify take two seconds,
/// `status=0x281:read:lba=1000-1007` is a bad place on the media, `remove=5s:write:nth=1000` takes the drive away at
/// the thousandth Write and puts it back after five seconds.
///
/// | what happens | meaning |
/// |---|---|
/// | `drop` | the command is taken, and neither executed nor completed; Abort and Delete SQ end it |
/// | `lose` | it is executed, and its completion is never written |
/// | `skip` | it succeeds without having been executed; an Abort says that nothing was aborted |
/// | `delay=TIME` | it is executed and completed that much later; Abort and Delete SQ end it before |
/// | `reorder=N` | it waits until N others of its queue have completed, or 100 ms |
/// | `duplicate` | its completion is written twice |
/// | `corrupt=FIELD` | its completion is wrong in `cid`, `sqid`, `sqhead`, `phase`, `status`, or reads as `ones` |
/// | `late-phase=TIME` | its completion is written with the wrong phase, which is put right that much later |
/// | `flip`, `flip=N` | a bit of the data it returns is turned over: bit 0 of the first byte, or the N-th from there on |
/// | `overrun=BYTES` | it moves so many bytes more than asked for, along its PRPs, until the IOMMU stops it |
/// | `status=STATUS` | it is not executed and fails; SCT and SC as nvme-cli prints them, with `+dnr` and `+more` |
/// | `cfs` | CSTS.CFS is set when it is taken, and the controller stops until it is reset |
/// | `remove`, `remove=TIME` | when it is taken all registers read as ones and nothing completes any more, for good or for that time |
/// | `event=EVENT` | when it is taken an event is reported: `reliability`, `temperature`, `spare`, `error`, `namespace`, `telemetry` (the drive collects it as well), `firmware`, `sanitize`, or `TYPE/INFO/LOG` as numbers |
/// | `not-ready`, `not-ready=TIME` | CSTS.RDY does not follow when CC.EN is set, for good or for that time |
/// | `not-disabled`, `not-disabled=TIME` | CSTS.RDY does not follow when CC.EN is cleared, for good or for that time; the controller works on meanwhile |
///
/// | to what, and when | meaning | else |
/// |---|---|---|
/// | `io`, `admin`, `any`, `queue=N` | commands of these queues | `io`, or the queues of the command named |
/// | `op=N`, or a name such as `read`, `write`, `flush`, `identify`, `abort`, `delete-sq` | commands with this opcode | all |
/// | `nsid=N` | commands for this namespace | all |
/// | `lba=N`, `lba=N-M` | I/O commands that touch one of these logical blocks | all |
/// | `nth=N` | the N-th match, once | |
/// | `from=N` | the N-th match and those after it | the first |
/// | `every=N` | of those every N-th | each |
/// | `count=N`, `once` | so often at most | always |
/// | `after=TIME` | only once the drive exists for that long | at once |
///
/// `not-ready` and `not-disabled` concern the controller, not a command: of them `nth` and the like count how often
/// CC.EN was set or cleared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FaultRule {
    /// What happens.
    pub action: FaultAction,
    /// To which commands.
    pub commands: CommandMatch,
    /// How often.
    pub occurrence: Occurrence,
}

impl FaultRule {
    /// What happens to every I/O command; the fields say otherwise.
    pub fn new(action: FaultAction) -> Self {
        Self { action, commands: CommandMatch::default(), occurrence: Occurrence::default() }
    }
}

/// What happens. The text of each is in the table of [`FaultRule`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FaultAction {
    /// The command is taken, and neither executed nor completed. Abort and the deletion of its queue end it.
    Drop,
    /// The command is executed, and its completion is never written. The drive knows nothing of it any more.
    Lose,
    /// The command succeeds without having been executed. Abort says that nothing was aborted.
    Skip,
    /// The command is executed and completed that much later.
    Delay(Duration),
    /// The command waits until so many others of its queue have completed, and [`REORDER_LIMIT`] at most.
    Reorder(u32),
    /// The completion is written twice.
    Duplicate,
    /// The completion is wrong.
    Corrupt(Corruption),
    /// The completion is written with the wrong phase, which is put right that much later.
    LatePhase(Duration),
    /// A bit of the data that the command returns is turned over, counted from the beginning.
    Flip(u32),
    /// So many bytes more are moved than the command asks for, along its PRPs, until the IOMMU stops it: then it fails
    /// with Data Transfer Error. An SGL says itself where it ends: the command fails with Data SGL Length Invalid.
    Overrun(u32),
    /// The command is not executed and fails. The error log has an entry, whatever More says.
    Fail(Status),
    /// CSTS.CFS is set and the controller stops.
    Fatal,
    /// The drive is taken away, for good or for a time.
    Remove(Option<Duration>),
    /// An event is reported.
    Event(AsyncEvent),
    /// CSTS.RDY does not follow when CC.EN is set: for good, or for a time.
    NotReady(Option<Duration>),
    /// CSTS.RDY does not follow when CC.EN is cleared: for good, or for a time. The controller works on meanwhile.
    NotDisabled(Option<Duration>),
}

/// The longest that [`FaultAction::Reorder`] lets a command wait for others that may never come.
pub const REORDER_LIMIT: Duration = Duration::from_millis(100);

/// What is wrong with a completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Corruption {
    /// The command identifier, with all bits turned over.
    CommandId,
    /// The submission queue identifier: the next one.
    SubmissionQueueId,
    /// The submission queue head: the number of entries, which is beyond the end.
    SubmissionQueueHead,
    /// The phase, for good: the host cannot see this completion, nor those behind it.
    Phase,
    /// The status: all bits set, reserved ones too.
    Status,
    /// Every bit is set.
    Ones,
}

impl Corruption {
    /// Makes a completion wrong, all but its phase. The submission queue has `entries`.
    pub(in crate::emulated) fn apply(self, completion: &mut CompletionQueueEntry, entries: u32) {
        match self {
            Self::CommandId => completion.cid.set(!completion.cid.get()),
            Self::SubmissionQueueId => completion.sq_id.set(completion.sq_id.get().wrapping_add(1)),
            Self::SubmissionQueueHead => completion.sq_head.set(entries as u16),
            Self::Phase => {}
            Self::Status => completion.set_status(Status::from_bits(u16::MAX)),
            Self::Ones => *completion = zerocopy::transmute!([0xffu8; 16]),
        }
    }
}

/// Which commands a fault concerns.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CommandMatch {
    /// On which queues.
    pub queue: QueueMatch,
    /// With this opcode.
    pub opcode: Option<u8>,
    /// With this namespace identifier.
    pub nsid: Option<u32>,
    /// I/O commands that touch one of these logical blocks.
    pub lba: Option<RangeInclusive<u64>>,
}

impl CommandMatch {
    /// Whether it holds for a command on a submission queue.
    pub(super) fn holds(&self, sq_id: u16, entry: &SubmissionQueueEntry) -> bool {
        let queue = match self.queue {
            QueueMatch::Io => sq_id != 0,
            QueueMatch::Admin => sq_id == 0,
            QueueMatch::Any => true,
            QueueMatch::Id(id) => sq_id == id,
        };
        queue
            && self.opcode.is_none_or(|opcode| opcode == entry.opcode)
            && self.nsid.is_none_or(|nsid| nsid == entry.nsid.get())
            && self.lba.as_ref().is_none_or(|lba| {
                let first = nvm::slba(entry);
                let last = first.saturating_add(u64::from(nvm::nlb(entry)) - 1);
                sq_id != 0 && has_blocks(entry.opcode) && first <= *lba.end() && last >= *lba.start()
            })
    }
}

/// Whether an I/O command of the NVM Command Set names blocks by SLBA and NLB.
fn has_blocks(opcode: u8) -> bool {
    use gangway_spec::opcode::nvm;
    matches!(
        opcode,
        nvm::READ | nvm::WRITE | nvm::COMPARE | nvm::WRITE_ZEROES | nvm::WRITE_UNCORRECTABLE | nvm::VERIFY
    )
}

/// Which submission queues a fault concerns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum QueueMatch {
    /// All I/O queues.
    #[default]
    Io,
    /// The admin queue.
    Admin,
    /// All queues.
    Any,
    /// The queue with this identifier.
    Id(u16),
}

/// At which of its matches a fault happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Occurrence {
    /// At this match first; they count from 1.
    pub first: u64,
    /// From then on at every so many-th; 1 is at each.
    pub every: u64,
    /// So often at most; `None` is always.
    pub count: Option<u64>,
    /// Matches count once the drive exists for that long.
    pub after: Duration,
}

impl Default for Occurrence {
    fn default() -> Self {
        Self { first: 1, every: 1, count: None, after: Duration::ZERO }
    }
}

impl Occurrence {
    /// At the `n`-th match, once.
    pub fn nth(n: u64) -> Self {
        Self { first: n, count: Some(1), ..Self::default() }
    }

    /// Whether it happens at match number `matched`, having happened `fired` times.
    pub(super) fn holds(&self, matched: u64, fired: u64) -> bool {
        self.count.is_none_or(|count| fired < count)
            && matched.checked_sub(self.first).is_some_and(|since| since.is_multiple_of(self.every.max(1)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gangway_spec::opcode;

    #[test]
    fn an_occurrence_begins_repeats_and_ends_as_it_says() {
        let happens = |occurrence: Occurrence| -> Vec<u64> {
            let mut fired = 0;
            (1..=12)
                .filter(|&matched| {
                    let holds = occurrence.holds(matched, fired);
                    fired += u64::from(holds);
                    holds
                })
                .collect()
        };
        assert_eq!(happens(Occurrence::nth(3)), [3]);
        assert_eq!(happens(Occurrence { first: 11, ..Occurrence::default() }), [11, 12]);
        assert_eq!(happens(Occurrence { first: 2, every: 4, ..Occurrence::default() }), [2, 6, 10]);
        assert_eq!(happens(Occurrence { every: 5, count: Some(2), ..Occurrence::default() }), [1, 6]);
        assert_eq!(happens(Occurrence { every: 0, count: Some(2), ..Occurrence::default() }), [1, 2]);
    }

    #[test]
    fn a_command_matches_by_queue_opcode_namespace_and_blocks() {
        let mut read = SubmissionQueueEntry::new(opcode::nvm::READ);
        read.nsid.set(2);
        nvm::set_slba(&mut read, 100);
        nvm::set_nlb(&mut read, 8);
        let io = CommandMatch::default();
        assert!(io.holds(1, &read) && io.holds(7, &read) && !io.holds(0, &read));
        let queue = |queue| CommandMatch { queue, ..CommandMatch::default() };
        assert!(queue(QueueMatch::Admin).holds(0, &read) && !queue(QueueMatch::Admin).holds(1, &read));
        assert!(queue(QueueMatch::Any).holds(0, &read) && queue(QueueMatch::Any).holds(1, &read));
        assert!(queue(QueueMatch::Id(3)).holds(3, &read) && !queue(QueueMatch::Id(3)).holds(2, &read));
        let opcode = |opcode| CommandMatch { opcode: Some(opcode), ..CommandMatch::default() };
        assert!(opcode(opcode::nvm::READ).holds(1, &read) && !opcode(opcode::nvm::WRITE).holds(1, &read));
        let nsid = |nsid| CommandMatch { nsid: Some(nsid), ..CommandMatch::default() };
        assert!(nsid(2).holds(1, &read) && !nsid(1).holds(1, &read));
        let lba = |lba| CommandMatch { lba: Some(lba), ..CommandMatch::default() };
        assert!(lba(107..=107).holds(1, &read) && lba(0..=100).holds(1, &read));
        assert!(!lba(108..=200).holds(1, &read) && !lba(0..=99).holds(1, &read));
        let flush = SubmissionQueueEntry::new(opcode::nvm::FLUSH);
        assert!(!lba(0..=0).holds(1, &flush), "it names no blocks");
    }
}
