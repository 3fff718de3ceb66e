//! Who is to hear of a completion on the admin queue: the tags of the controller's own commands.

use gangway_spec::aen::AsyncEvent;

/// Tags of commands that the controller submits itself have this bit; no others may.
const OWN: u64 = 1 << 63;
const KIND_SHIFT: u32 = 60;
/// What a kind has to itself.
const PAYLOAD: u64 = (1 << KIND_SHIFT) - 1;

const AWAITED: u64 = 0;
const EVENT_REQUEST: u64 = 1;
const EVENT_PAGE: u64 = 2;
const ABORT: u64 = 3;
const EVENT_CONFIGURATION: u64 = 4;

/// What an admin command was submitted for, as its tag says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tag {
    /// A caller's, who fetches the completion.
    Caller,
    /// A command that is waited for; they are numbered.
    Awaited(u64),
    /// An Asynchronous Event Request.
    EventRequest,
    /// Get Log Page for an event with its parameter.
    EventPage(AsyncEvent, u32),
    /// Abort of command `cid` on queue `qid`.
    Abort { qid: u16, cid: u16 },
    /// Set Features of the Asynchronous Event Configuration, with its value.
    EventConfiguration(u32),
}

impl Tag {
    /// What is given along with the command.
    pub(super) fn user(self) -> u64 {
        let (kind, payload) = match self {
            Self::Caller => return 0,
            Self::Awaited(number) => (AWAITED, number & PAYLOAD),
            Self::EventRequest => (EVENT_REQUEST, 0),
            // An event takes 24 bits.
            Self::EventPage(event, parameter) => {
                (EVENT_PAGE, u64::from(parameter) << 24 | u64::from(event.into_dw0()))
            }
            Self::Abort { qid, cid } => (ABORT, u64::from(cid) << 16 | u64::from(qid)),
            Self::EventConfiguration(value) => (EVENT_CONFIGURATION, value.into()),
        };
        OWN | kind << KIND_SHIFT | payload
    }

    /// The tag of a command that completed.
    pub(super) fn of(user: u64) -> Self {
        if user & OWN == 0 {
            return Self::Caller;
        }
        let payload = user & PAYLOAD;
        match (user & !OWN) >> KIND_SHIFT {
            EVENT_REQUEST => Self::EventRequest,
            EVENT_PAGE => Self::EventPage(AsyncEvent::from_dw0(payload as u32), (payload >> 24) as u32),
            EVENT_CONFIGURATION => Self::EventConfiguration(payload as u32),
            ABORT => Self::Abort { qid: payload as u16, cid: (payload >> 16) as u16 },
            _ => Self::Awaited(payload),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_tag_is_told_from_what_was_given_along() {
        for tag in [
            Tag::Awaited(0),
            Tag::Awaited(7),
            Tag::EventRequest,
            Tag::EventPage(AsyncEvent::from_dw0(0xffff_ffff), u32::MAX),
            Tag::EventPage(AsyncEvent::NAMESPACE_ATTRIBUTE_CHANGED, 0),
            Tag::Abort { qid: u16::MAX, cid: u16::MAX },
            Tag::Abort { qid: 0, cid: 1 },
            Tag::EventConfiguration(0),
            Tag::EventConfiguration(u32::MAX),
        ] {
            assert_eq!(Tag::of(tag.user()), tag);
        }
        assert_eq!((Tag::of(0), Tag::of(OWN - 1)), (Tag::Caller, Tag::Caller));
    }
}
