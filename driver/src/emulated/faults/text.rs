//! Faults as a person writes them: `ACTION[:CONDITION]...`.

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use gangway_spec::aen::{self, AsyncEvent};
use gangway_spec::log::lid;
use gangway_spec::{Status, opcode};
use thiserror::Error;

use super::rule::{CommandMatch, Corruption, FaultAction, FaultRule, Occurrence, QueueMatch};
use crate::emulated::config::{DisplayDuration, parse_nanoseconds};

/// What is wrong with a fault as it was written.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum FaultError {
    /// A word that is neither an action nor a condition.
    #[error(
        "\"{word}\" is neither an action (drop, lose, skip, delay, reorder, duplicate, corrupt, late-phase, flip, overrun, \
         status, cfs, remove, event, not-ready, not-disabled) nor a condition (io, admin, any, queue, op, the name of a command, nsid, \
         lba, nth, from, every, count, once, after)"
    )]
    Unknown {
        /// What was given.
        word: String,
    },
    /// A word needs a value of some form, has a wrong one, or has one that it does not take.
    #[error("\"{word}\" must be {expected}")]
    Value {
        /// What was given.
        word: String,
        /// What would be right.
        expected: &'static str,
    },
    /// No action was given.
    #[error(
        "it does not say what happens: begin with drop, delay=TIME, status=STATUS, cfs, remove or the like"
    )]
    NoAction,
    /// Two words contradict each other or say the same twice.
    #[error("\"{word}\" and \"{before}\" are one too many")]
    Twice {
        /// The later one.
        word: String,
        /// The earlier one.
        before: String,
    },
    /// A condition on commands for what happens to the controller.
    #[error("\"{word}\" is about commands, and not-ready and not-disabled are not")]
    NotAboutCommands {
        /// The condition.
        word: String,
    },
}

/// Commands that have a name here: the admin queue's, ...
const ADMIN_COMMANDS: &[(&str, u8)] = &[
    ("abort", opcode::admin::ABORT),
    ("async-event", opcode::admin::ASYNC_EVENT_REQUEST),
    ("create-cq", opcode::admin::CREATE_IO_CQ),
    ("create-sq", opcode::admin::CREATE_IO_SQ),
    ("delete-cq", opcode::admin::DELETE_IO_CQ),
    ("delete-sq", opcode::admin::DELETE_IO_SQ),
    ("format", opcode::admin::FORMAT_NVM),
    ("get-features", opcode::admin::GET_FEATURES),
    ("get-log", opcode::admin::GET_LOG_PAGE),
    ("identify", opcode::admin::IDENTIFY),
    ("sanitize", opcode::admin::SANITIZE),
    ("set-features", opcode::admin::SET_FEATURES),
];

/// ... and those of I/O queues.
const IO_COMMANDS: &[(&str, u8)] = &[
    ("compare", opcode::nvm::COMPARE),
    ("dsm", opcode::nvm::DATASET_MANAGEMENT),
    ("flush", opcode::nvm::FLUSH),
    ("read", opcode::nvm::READ),
    ("verify", opcode::nvm::VERIFY),
    ("write", opcode::nvm::WRITE),
    ("write-zeroes", opcode::nvm::WRITE_ZEROES),
];

const CORRUPTIONS: &[(&str, Corruption)] = &[
    ("cid", Corruption::CommandId),
    ("sqid", Corruption::SubmissionQueueId),
    ("sqhead", Corruption::SubmissionQueueHead),
    ("phase", Corruption::Phase),
    ("status", Corruption::Status),
    ("ones", Corruption::Ones),
];

const EVENTS: &[(&str, AsyncEvent)] = &[
    ("reliability", AsyncEvent::new(aen::TYPE_SMART, aen::SMART_RELIABILITY, lid::SMART)),
    ("temperature", AsyncEvent::new(aen::TYPE_SMART, aen::SMART_TEMPERATURE, lid::SMART)),
    ("spare", AsyncEvent::new(aen::TYPE_SMART, aen::SMART_SPARE, lid::SMART)),
    ("error", AsyncEvent::new(aen::TYPE_ERROR, aen::ERROR_TRANSIENT_INTERNAL, lid::ERROR)),
    ("namespace", AsyncEvent::NAMESPACE_ATTRIBUTE_CHANGED),
    ("telemetry", AsyncEvent::TELEMETRY_LOG_CHANGED),
    (
        "firmware",
        AsyncEvent::new(aen::TYPE_NOTICE, aen::NOTICE_FIRMWARE_ACTIVATION_STARTING, lid::FIRMWARE_SLOT),
    ),
    (
        "sanitize",
        AsyncEvent::new(
            aen::TYPE_IO_COMMAND_SET,
            aen::IO_COMMAND_SET_SANITIZE_COMPLETED,
            lid::SANITIZE_STATUS,
        ),
    ),
];

fn named<T: Copy>(table: &[(&str, T)], name: &str) -> Option<T> {
    table.iter().find(|(known, _)| *known == name).map(|(_, value)| *value)
}

fn name_of<T: PartialEq>(table: &[(&'static str, T)], value: &T) -> Option<&'static str> {
    table.iter().find(|(_, known)| known == value).map(|(name, _)| *name)
}

/// One word of a fault, `NAME` or `NAME=VALUE`.
#[derive(Clone, Copy)]
struct Word<'a> {
    text: &'a str,
    name: &'a str,
    value: Option<&'a str>,
}

impl<'a> Word<'a> {
    fn new(text: &'a str) -> Self {
        let (name, value) = text.split_once('=').map_or((text, None), |(name, value)| (name, Some(value)));
        Self { text, name, value }
    }

    fn wrong(self, expected: &'static str) -> FaultError {
        FaultError::Value { word: self.text.to_owned(), expected }
    }

    /// It takes no value.
    fn bare<T>(self, meaning: T) -> Result<T, FaultError> {
        if self.value.is_none() { Ok(meaning) } else { Err(self.wrong("written without a value")) }
    }

    fn parse<T>(
        self,
        expected: &'static str,
        parse: impl FnOnce(&'a str) -> Option<T>,
    ) -> Result<T, FaultError> {
        self.value.and_then(parse).ok_or_else(|| self.wrong(expected))
    }

    fn time(self) -> Result<Duration, FaultError> {
        self.parse("a time with its unit, such as 5ms, 100us or 1s", |value| {
            parse_nanoseconds(value).map(Duration::from_nanos)
        })
    }

    fn time_or_for_good(self) -> Result<Option<Duration>, FaultError> {
        self.value.map(|_| self.time()).transpose()
    }

    fn number<N: TryFrom<u64>>(self, expected: &'static str) -> Result<N, FaultError> {
        self.parse(expected, |value| number(value)?.try_into().ok())
    }

    fn positive<N: TryFrom<u64>>(self) -> Result<N, FaultError> {
        self.parse("a number from 1 on", |value| number(value).filter(|&n| n > 0)?.try_into().ok())
    }

    fn action(self) -> Result<Option<FaultAction>, FaultError> {
        let status =
            "a status as nvme-cli prints it, such as 0x281, with +dnr and +more if they are to be set";
        let event = "reliability, temperature, spare, error, namespace, telemetry, firmware, sanitize, or TYPE/INFO/LOG";
        Ok(Some(match self.name {
            "drop" => self.bare(FaultAction::Drop)?,
            "lose" => self.bare(FaultAction::Lose)?,
            "skip" => self.bare(FaultAction::Skip)?,
            "delay" => FaultAction::Delay(self.time()?),
            "reorder" => FaultAction::Reorder(self.positive()?),
            "duplicate" => self.bare(FaultAction::Duplicate)?,
            "corrupt" => FaultAction::Corrupt(
                self.parse("cid, sqid, sqhead, phase, status or ones", |value| named(CORRUPTIONS, value))?,
            ),
            "late-phase" => FaultAction::LatePhase(self.time()?),
            "flip" => FaultAction::Flip(if self.value.is_some() { self.number("a bit number")? } else { 0 }),
            "overrun" => FaultAction::Overrun(self.positive()?),
            "status" => FaultAction::Fail(self.parse(status, parse_status)?),
            "cfs" => self.bare(FaultAction::Fatal)?,
            "remove" => FaultAction::Remove(self.time_or_for_good()?),
            "event" => FaultAction::Event(self.parse(event, parse_event)?),
            "not-ready" => FaultAction::NotReady(self.time_or_for_good()?),
            "not-disabled" => FaultAction::NotDisabled(self.time_or_for_good()?),
            _ => return Ok(None),
        }))
    }
}

/// A number, in decimal or with 0x in hexadecimal.
fn number(text: &str) -> Option<u64> {
    let (digits, radix) = text.strip_prefix("0x").map_or((text, 10), |digits| (digits, 16));
    let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    if plain { u64::from_str_radix(digits, radix).ok() } else { None }
}

fn parse_status(text: &str) -> Option<Status> {
    let mut parts = text.split('+');
    let bits = u16::try_from(number(parts.next()?)?).ok().filter(|bits| bits & 1 << 15 == 0)?;
    let status = parts.try_fold(Status::from_bits(bits), |status, flag| match flag {
        "dnr" => Some(status.with_dnr()),
        "more" => Some(status.with_more()),
        _ => None,
    })?;
    // A failure without a failure would be a command that is skipped.
    (!status.is_success()).then_some(status)
}

fn parse_event(text: &str) -> Option<AsyncEvent> {
    named(EVENTS, text).or_else(|| {
        let mut numbers = text.split('/').map(|part| number(part).and_then(|n| u8::try_from(n).ok()));
        let (kind, info, log_page) = (numbers.next()??, numbers.next()??, numbers.next()??);
        (numbers.next().is_none() && kind < 8).then(|| AsyncEvent::new(kind, info, log_page))
    })
}

fn parse_range(text: &str) -> Option<RangeInclusive<u64>> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (number(first)?, number(last)?);
    (first <= last).then_some(first..=last)
}

/// What conditions say so far, and by which words, as each may be said once.
#[derive(Default)]
struct Conditions<'a> {
    queue: Option<(QueueMatch, &'a str)>,
    opcode: Option<((u8, Option<QueueMatch>), &'a str)>,
    nsid: Option<(u32, &'a str)>,
    lba: Option<(RangeInclusive<u64>, &'a str)>,
    first: Option<(u64, &'a str)>,
    every: Option<(u64, &'a str)>,
    count: Option<(u64, &'a str)>,
    after: Option<(Duration, &'a str)>,
}

/// Puts what a word says where nothing was said before.
fn set<'a, T>(place: &mut Option<(T, &'a str)>, value: T, word: Word<'a>) -> Result<(), FaultError> {
    match place.replace((value, word.text)) {
        None => Ok(()),
        Some((_, before)) => Err(FaultError::Twice { word: word.text.to_owned(), before: before.to_owned() }),
    }
}

impl<'a> Conditions<'a> {
    fn take(&mut self, word: Word<'a>) -> Result<(), FaultError> {
        match word.name {
            "io" => set(&mut self.queue, word.bare(QueueMatch::Io)?, word),
            "admin" => set(&mut self.queue, word.bare(QueueMatch::Admin)?, word),
            "any" => set(&mut self.queue, word.bare(QueueMatch::Any)?, word),
            "queue" => set(&mut self.queue, QueueMatch::Id(word.number("a queue identifier")?), word),
            "op" => set(&mut self.opcode, (word.number("an opcode, 0 to 0xff")?, None), word),
            "nsid" => set(&mut self.nsid, word.number("a namespace identifier")?, word),
            "lba" => {
                let range =
                    word.parse("a logical block, or the first and the last: 1000-1007", parse_range)?;
                set(&mut self.lba, range, word)
            }
            "nth" => {
                set(&mut self.first, word.positive()?, word)?;
                set(&mut self.count, 1, word)
            }
            "from" => set(&mut self.first, word.positive()?, word),
            "every" => set(&mut self.every, word.positive()?, word),
            "count" => set(&mut self.count, word.positive()?, word),
            "once" => set(&mut self.count, word.bare(1)?, word),
            "after" => set(&mut self.after, word.time()?, word),
            name => {
                let io = named(IO_COMMANDS, name).map(|opcode| (opcode, Some(QueueMatch::Io)));
                let admin = || named(ADMIN_COMMANDS, name).map(|opcode| (opcode, Some(QueueMatch::Admin)));
                match io.or_else(admin) {
                    Some(command) => set(&mut self.opcode, word.bare(command)?, word),
                    None => Err(FaultError::Unknown { word: word.text.to_owned() }),
                }
            }
        }
    }

    fn occurrence(&self) -> Occurrence {
        let usual = Occurrence::default();
        Occurrence {
            first: self.first.map_or(usual.first, |(first, _)| first),
            every: self.every.map_or(usual.every, |(every, _)| every),
            count: self.count.map(|(count, _)| count),
            after: self.after.map_or(usual.after, |(after, _)| after),
        }
    }

    fn commands(self) -> Result<CommandMatch, FaultError> {
        let (opcode, queue) = match (self.opcode, self.queue) {
            (None, queue) => (None, queue.map(|(queue, _)| queue)),
            (Some(((opcode, None), _)), queue) => (Some(opcode), queue.map(|(queue, _)| queue)),
            (Some(((opcode, own), _)), None) => (Some(opcode), own),
            (Some(((opcode, own), command)), Some((queue, word))) => {
                let agree = match queue {
                    QueueMatch::Any => false,
                    QueueMatch::Id(0) => own == Some(QueueMatch::Admin),
                    QueueMatch::Id(_) => own == Some(QueueMatch::Io),
                    queue => own == Some(queue),
                };
                if !agree {
                    return Err(FaultError::Twice { word: word.to_owned(), before: command.to_owned() });
                }
                (Some(opcode), Some(queue))
            }
        };
        Ok(CommandMatch {
            queue: queue.unwrap_or_default(),
            opcode,
            nsid: self.nsid.map(|(nsid, _)| nsid),
            lba: self.lba.map(|(lba, _)| lba),
        })
    }

    /// The word of a condition on commands, if there is one.
    fn about_commands(&self) -> Option<&'a str> {
        let queue = self.queue.as_ref().map(|(_, word)| *word);
        let opcode = self.opcode.as_ref().map(|(_, word)| *word);
        let nsid = self.nsid.as_ref().map(|(_, word)| *word);
        queue.or(opcode).or(nsid).or(self.lba.as_ref().map(|(_, word)| *word))
    }
}

impl FromStr for FaultRule {
    type Err = FaultError;

    fn from_str(text: &str) -> Result<Self, FaultError> {
        let mut action = None;
        let mut conditions = Conditions::default();
        for word in text.split(':').map(Word::new) {
            match word.action()? {
                Some(found) => set(&mut action, found, word)?,
                None => conditions.take(word)?,
            }
        }
        let (action, _) = action.ok_or(FaultError::NoAction)?;
        if action.is_of_controller()
            && let Some(word) = conditions.about_commands()
        {
            return Err(FaultError::NotAboutCommands { word: word.to_owned() });
        }
        let occurrence = conditions.occurrence();
        Ok(Self { action, commands: conditions.commands()?, occurrence })
    }
}

impl fmt::Display for FaultRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = |time: &Duration| DisplayDuration(*time).to_string();
        match &self.action {
            FaultAction::Drop => f.write_str("drop"),
            FaultAction::Lose => f.write_str("lose"),
            FaultAction::Skip => f.write_str("skip"),
            FaultAction::Delay(delay) => write!(f, "delay={}", time(delay)),
            FaultAction::Reorder(others) => write!(f, "reorder={others}"),
            FaultAction::Duplicate => f.write_str("duplicate"),
            FaultAction::Corrupt(field) => {
                write!(f, "corrupt={}", name_of(CORRUPTIONS, field).unwrap_or_default())
            }
            FaultAction::LatePhase(late) => write!(f, "late-phase={}", time(late)),
            FaultAction::Flip(0) => f.write_str("flip"),
            FaultAction::Flip(bit) => write!(f, "flip={bit}"),
            FaultAction::Overrun(more) => write!(f, "overrun={more}"),
            FaultAction::Fail(status) => {
                // Retry delay stays in the number; the other two read better as words.
                let code =
                    u16::from(status.crd()) << 11 | u16::from(status.sct()) << 8 | u16::from(status.sc());
                write!(f, "status={code:#x}")?;
                f.write_str(if status.dnr() { "+dnr" } else { "" })?;
                f.write_str(if status.more() { "+more" } else { "" })
            }
            FaultAction::Fatal => f.write_str("cfs"),
            FaultAction::Event(event) => match name_of(EVENTS, event) {
                Some(name) => write!(f, "event={name}"),
                None => write!(f, "event={}/{}/{}", event.kind, event.info, event.log_page),
            },
            FaultAction::Remove(None) => f.write_str("remove"),
            FaultAction::Remove(Some(gone)) => write!(f, "remove={}", time(gone)),
            FaultAction::NotReady(None) => f.write_str("not-ready"),
            FaultAction::NotReady(Some(late)) => write!(f, "not-ready={}", time(late)),
            FaultAction::NotDisabled(None) => f.write_str("not-disabled"),
            FaultAction::NotDisabled(Some(late)) => write!(f, "not-disabled={}", time(late)),
        }?;
        self.commands.fmt_words(f)?;
        let Occurrence { first, every, count, after } = self.occurrence;
        match (first, count) {
            (1, None) => Ok(()),
            (1, Some(1)) => f.write_str(":once"),
            (first, Some(1)) => write!(f, ":nth={first}"),
            (1, Some(count)) => write!(f, ":count={count}"),
            (first, None) => write!(f, ":from={first}"),
            (first, Some(count)) => write!(f, ":from={first}:count={count}"),
        }?;
        if every != 1 {
            write!(f, ":every={every}")?;
        }
        if !after.is_zero() {
            write!(f, ":after={}", time(&after))?;
        }
        Ok(())
    }
}

impl CommandMatch {
    /// The conditions, each with a colon before it.
    fn fmt_words(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.opcode.and_then(|opcode| match self.queue {
            QueueMatch::Io => name_of(IO_COMMANDS, &opcode),
            QueueMatch::Admin => name_of(ADMIN_COMMANDS, &opcode),
            QueueMatch::Any | QueueMatch::Id(_) => None,
        });
        match (self.queue, name) {
            (QueueMatch::Io, _) | (_, Some(_)) => Ok(()),
            (QueueMatch::Admin, _) => f.write_str(":admin"),
            (QueueMatch::Any, _) => f.write_str(":any"),
            (QueueMatch::Id(id), _) => write!(f, ":queue={id}"),
        }?;
        match (name, self.opcode) {
            (Some(name), _) => write!(f, ":{name}"),
            (None, Some(opcode)) => write!(f, ":op={opcode:#04x}"),
            (None, None) => Ok(()),
        }?;
        if let Some(nsid) = self.nsid {
            write!(f, ":nsid={nsid}")?;
        }
        match &self.lba {
            Some(lba) if lba.start() == lba.end() => write!(f, ":lba={}", lba.start()),
            Some(lba) => write!(f, ":lba={}-{}", lba.start(), lba.end()),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(text: &str) -> FaultRule {
        text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn every_word_is_understood_and_printed_again() {
        for text in [
            "drop:read:nth=3",
            "lose:write:once",
            "skip:flush",
            "delay=5ms",
            "delay=2s:identify:once",
            "reorder=3:op=0xc1",
            "duplicate:every=10",
            "corrupt=cid:nth=7",
            "corrupt=sqhead:admin",
            "late-phase=250us:queue=3",
            "flip:read:nth=2",
            "flip=4095:identify",
            "overrun=8192:write",
            "status=0x281:read:lba=1000-1007",
            "status=0x2+dnr:admin:op=0xc0:count=2",
            "status=0x1983+dnr+more:nsid=2:lba=7",
            "cfs:write:from=5:count=2:every=3",
            "remove:any:after=30s",
            "remove=5s:write:nth=1000",
            "event=temperature:nth=100",
            "event=2/239/191:once",
            "not-ready",
            "not-ready=1s:nth=2",
            "not-disabled:once",
            "not-disabled=300ms",
        ] {
            assert_eq!(rule(text).to_string(), text);
        }
    }

    #[test]
    fn words_may_come_in_any_order_and_more_than_needed() {
        for (text, printed) in [
            ("nth=3:read:drop", "drop:read:nth=3"),
            ("drop:io:read", "drop:read"),
            ("drop:admin:identify", "drop:identify"),
            ("drop:queue=2:read", "drop:queue=2:op=0x02"),
            ("drop:op=2", "drop:read"),
            ("drop:admin:op=0x06", "drop:identify"),
            ("status=0x4281", "status=0x281+dnr"),
            ("status=641:count=1", "status=0x281:once"),
            ("event=1/1/2", "event=temperature"),
        ] {
            assert_eq!(rule(text).to_string(), printed, "{text}");
            assert_eq!(rule(text), rule(printed), "{text}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_what_would() {
        for (text, part) in [
            ("", "neither an action"),
            ("read", "does not say what happens"),
            ("drop:reed", "\"reed\" is neither"),
            ("drop=1", "without a value"),
            ("drop:delay=1s", "\"delay=1s\" and \"drop\""),
            ("drop:read:write", "one too many"),
            ("drop:nth=3:once", "one too many"),
            ("drop:admin:read", "one too many"),
            ("drop:any:read", "one too many"),
            ("drop:queue=0:read", "one too many"),
            ("drop:nth=0", "from 1 on"),
            ("drop:nth=-1", "from 1 on"),
            ("drop:op=256", "0 to 0xff"),
            ("drop:op=0x", "0 to 0xff"),
            ("drop:queue=70000", "queue identifier"),
            ("drop:lba=9-8", "the first and the last"),
            ("delay", "5ms"),
            ("delay=5", "5ms"),
            ("corrupt=all", "sqhead"),
            ("status=0", "as nvme-cli"),
            ("status=0x8001", "as nvme-cli"),
            ("status=0x281+dnt", "+dnr"),
            ("event=8/0/0", "TYPE/INFO/LOG"),
            ("event=1/1", "TYPE/INFO/LOG"),
            ("not-ready:read", "about commands"),
            ("not-disabled:admin", "about commands"),
        ] {
            let error = text.parse::<FaultRule>().expect_err(text).to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
