//! Which commands an export lets a host give to the drive, besides I/O.
//!
//! Every admin command, feature and log page has its place in a [table]: answered by the target itself, never
//! forwarded, or of a [`Class`]. A [`Policy`] opens classes, or single commands, features and log pages of them. What is
//! in no class cannot be opened: the length of its transfer, or what it does to other hosts, is not known here.
//!
//! What a policy refuses, the target does not promise: Identify Controller, the Commands Supported and Effects log and
//! the capabilities of features say what is left.

#[cfg(test)]
mod document;
mod hosts;
pub mod table;

use std::fmt;
use std::str::FromStr;

use gangway_spec::opcode::{admin as opcode, nvm};
use thiserror::Error;

pub use self::hosts::HostPolicies;
use self::table::{Class, Place};

/// A class, or one command, feature or log page. Written `tune`, `admin:14h`, `feature:06h`, `log:0dh`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Item {
    /// All that belongs to a class.
    Class(Class),
    /// An admin opcode.
    Admin(u8),
    /// An I/O opcode.
    Io(u8),
    /// Set Features of a feature.
    Feature(u8),
    /// Get Log Page of a log page.
    Log(u8),
}

/// Why a text does not name what a policy can open.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum ItemError {
    /// It is written in no way that there is.
    #[error(
        "\"{text}\" cannot be opened: write a class (io, tune, manage, firmware, vendor), or admin:OPCODE, io:OPCODE, feature:ID \
         or log:ID with a number as in 14h, 0x14 or 20"
    )]
    Form {
        /// What was given.
        text: String,
    },
    /// It is not for a policy to decide.
    #[error("{item} cannot be opened: {reason}")]
    Fixed {
        /// What was given.
        item: Item,
        /// Why not.
        reason: &'static str,
    },
}

impl FromStr for Item {
    type Err = ItemError;

    fn from_str(text: &str) -> Result<Self, ItemError> {
        let form = || ItemError::Form { text: text.to_owned() };
        let item = match text.split_once(':') {
            None => return Class::named(text).map(Item::Class).ok_or_else(form),
            Some((kind, number)) => {
                let number = byte(number).ok_or_else(form)?;
                match kind {
                    "admin" => Item::Admin(number),
                    "io" => Item::Io(number),
                    "feature" => Item::Feature(number),
                    "log" => Item::Log(number),
                    _ => return Err(form()),
                }
            }
        };
        match item.place() {
            Some(Place::Class(_)) | None => Ok(item),
            Some(Place::Here(reason) | Place::Never(reason)) => Err(ItemError::Fixed { item, reason }),
        }
    }
}

impl fmt::Display for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Item::Class(class) => class.fmt(f),
            Item::Admin(number) => write!(f, "admin:{number:02x}h"),
            Item::Io(number) => write!(f, "io:{number:02x}h"),
            Item::Feature(number) => write!(f, "feature:{number:02x}h"),
            Item::Log(number) => write!(f, "log:{number:02x}h"),
        }
    }
}

impl Item {
    /// Where it stands in the table; `None` for a class.
    fn place(self) -> Option<Place> {
        match self {
            Item::Class(_) => None,
            Item::Admin(opcode) => Some(table::admin(opcode)),
            Item::Io(opcode) => Some(table::io(opcode)),
            Item::Feature(id) => Some(table::set_feature(id)),
            Item::Log(id) => Some(table::log_page(id)),
        }
    }
}

/// A byte as `14h`, `0x14` or `20`.
fn byte(text: &str) -> Option<u8> {
    let (digits, radix) = if let Some(digits) = text.strip_suffix(['h', 'H']) {
        (digits, 16)
    } else if let Some(digits) = text.strip_prefix("0x") {
        (digits, 16)
    } else {
        (text, 10)
    };
    // `from_str_radix` takes a sign.
    digits
        .bytes()
        .all(|byte| byte.is_ascii_hexdigit())
        .then(|| u8::from_str_radix(digits, radix).ok())
        .flatten()
}

/// What one host may do through one export.
#[derive(Clone, PartialEq, Eq)]
pub struct Policy {
    admin: Set,
    io: Set,
    features: Set,
    logs: Set,
}

/// The commands that reservations consist of.
const RESERVATIONS: [u8; 4] =
    [nvm::RESERVATION_REGISTER, nvm::RESERVATION_REPORT, nvm::RESERVATION_ACQUIRE, nvm::RESERVATION_RELEASE];

/// A set of bytes.
type Set = [bool; 256];

impl Default for Policy {
    /// Looking at the drive, and nothing that changes it.
    fn default() -> Self {
        Self::new([Item::Class(Class::Inspect)], [])
    }
}

impl fmt::Debug for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |set: &Set| (0..=255_u8).filter(|byte| set[usize::from(*byte)]).collect::<Vec<_>>();
        f.debug_struct("Policy")
            .field("admin", &list(&self.admin))
            .field("io", &list(&self.io))
            .field("features", &list(&self.features))
            .field("logs", &list(&self.logs))
            .finish()
    }
}

impl Policy {
    /// What is allowed and not refused, and I/O unless that is refused. Whoever is to see a drive needs
    /// [`Class::Inspect`]. Reservations need all of their commands: without one there is none of them.
    pub fn new(allow: impl IntoIterator<Item = Item>, refuse: impl IntoIterator<Item = Item>) -> Self {
        let none = [false; 256];
        let mut policy = Self { admin: none, io: none, features: none, logs: none };
        policy.set(Item::Class(Class::Io), true);
        allow.into_iter().for_each(|item| policy.set(item, true));
        refuse.into_iter().for_each(|item| policy.set(item, false));
        if !policy.reserves() {
            // Nobody can do with a part of them, and none is promised.
            RESERVATIONS.into_iter().for_each(|opcode| policy.set(Item::Io(opcode), false));
        }
        policy
    }

    fn set(&mut self, item: Item, open: bool) {
        let of_class = |place| matches!((item, place), (Item::Class(class), Place::Class(of)) if of == class);
        for byte in 0..=255_u8 {
            let index = usize::from(byte);
            if item == Item::Admin(byte) || of_class(table::admin(byte)) {
                self.admin[index] = open;
            }
            if item == Item::Io(byte) || of_class(table::io(byte)) {
                self.io[index] = open;
            }
            if item == Item::Feature(byte) || of_class(table::set_feature(byte)) {
                self.features[index] = open;
            }
            if item == Item::Log(byte) || of_class(table::log_page(byte)) {
                self.logs[index] = open;
            }
        }
    }

    /// Whether an admin command goes to the drive, as far as its opcode decides.
    pub fn admin(&self, opcode: u8) -> bool {
        self.admin[usize::from(opcode)]
    }

    /// Whether an I/O command goes to the drive, or is executed here, as far as its opcode decides.
    #[inline]
    pub fn io(&self, opcode: u8) -> bool {
        self.io[usize::from(opcode)]
    }

    /// Whether there are reservations.
    pub fn reserves(&self) -> bool {
        RESERVATIONS.iter().all(|opcode| self.io(*opcode))
    }

    /// Whether Set Features of a feature goes to the drive.
    pub fn sets_feature(&self, id: u8) -> bool {
        self.admin(opcode::SET_FEATURES) && self.features[usize::from(id)]
    }

    /// Whether Get Log Page of a log page goes to the drive.
    pub fn log_page(&self, id: u8) -> bool {
        self.admin(opcode::GET_LOG_PAGE) && self.logs[usize::from(id)]
    }

    /// Whether any feature of the drive can be set.
    pub fn sets_any_feature(&self) -> bool {
        (0..=255_u8).any(|id| self.sets_feature(id))
    }

    /// Whether something is open that changes data or could.
    pub fn changes_data(&self) -> bool {
        let opens =
            |place, open: bool| open && matches!(place, Place::Class(class) if class.may_change_data());
        (0..=255_u8).any(|byte| {
            opens(table::admin(byte), self.admin(byte))
                || opens(table::io(byte), self.io(byte))
                || opens(table::set_feature(byte), self.sets_feature(byte))
                || opens(table::log_page(byte), self.log_page(byte)) && byte < 0xc0
        })
    }
}

#[cfg(test)]
mod tests {
    use gangway_spec::feature::fid;
    use gangway_spec::log::lid;
    use gangway_spec::opcode::admin;

    use super::*;

    fn items(text: &str) -> Vec<Item> {
        text.split(',').filter(|text| !text.is_empty()).map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn what_is_named_is_open_and_what_is_refused_is_not() {
        let policy = Policy::new(items("inspect,tune,admin:0xc1,log:c0h"), items("feature:06h,admin:20"));
        assert!(policy.admin(admin::IDENTIFY) && policy.admin(0xc1) && policy.log_page(0xc0));
        assert!(!policy.admin(0xc0) && !policy.log_page(0xc1));
        assert!(policy.sets_feature(fid::TIMESTAMP) && !policy.sets_feature(fid::VOLATILE_WRITE_CACHE));
        assert!(!policy.admin(admin::DEVICE_SELF_TEST), "opcode 20 is 14h");
        assert!(policy.log_page(lid::PERSISTENT_EVENT), "reading it makes a context on the drive: tune");
    }

    #[test]
    fn there_are_reservations_when_all_of_their_commands_are_open() {
        assert!(Policy::default().reserves());
        for refused in ["io", "io:0dh", "io:0eh", "io:11h", "io:15h"] {
            let policy = Policy::new(items("inspect"), items(refused));
            assert!(!policy.reserves(), "without {refused}");
            assert_eq!(RESERVATIONS.map(|opcode| policy.io(opcode)), [false; 4], "without {refused}");
        }
        assert!(Policy::new(items("inspect"), items("io:09h,vendor")).reserves());
    }

    #[test]
    fn items_survive_being_printed() {
        for item in items(
            "io,inspect,tune,manage,firmware,vendor,admin:c0h,io:09h,io:81h,admin:14h,feature:06h,log:0dh,log:255",
        ) {
            assert_eq!(item.to_string().parse(), Ok(item));
        }
    }

    #[test]
    fn what_no_policy_decides_is_refused_with_the_reason() {
        for text in [
            "admin:01h",
            "admin:05h",
            "admin:0ch",
            "admin:7ch",
            "feature:0bh",
            "feature:07h",
            "admin:33h",
            "io:18h",
            "io:7fh",
            "log:04h",
        ] {
            let error = text.parse::<Item>().unwrap_err();
            assert!(
                matches!(&error, ItemError::Fixed { reason, .. } if !reason.is_empty()),
                "{text}: {error}"
            );
        }
        for text in
            ["", "tun", "io:", "admin", "admin:", "admin:100h", "admin:+1", "admin:1g", "log:-1", "admin:0x"]
        {
            assert!(matches!(text.parse::<Item>(), Err(ItemError::Form { .. })), "{text}");
        }
    }

    #[test]
    fn the_default_changes_nothing() {
        let policy = Policy::default();
        assert!(!policy.sets_any_feature() && !policy.changes_data());
        assert!(policy.admin(admin::IDENTIFY) && policy.log_page(lid::SMART));
        for open in ["manage", "vendor", "admin:c7h", "admin:84h", "io:c1h"] {
            assert!(Policy::new(items(open), []).changes_data(), "{open}");
        }
        for open in ["tune", "firmware", "feature:06h", "log:c0h"] {
            assert!(!Policy::new(items(open), []).changes_data(), "{open}");
        }
    }
}
