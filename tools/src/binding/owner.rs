//! Who may open the nodes of a bound drive.

use std::{fmt, fs};

use serde::{Deserialize, Serialize};

use crate::sysfs::Roots;

/// A user, a group, or both, that the nodes of a drive are given to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Owner {
    /// As it was written.
    name: String,
    user: Option<u32>,
    group: Option<u32>,
}

/// Who owns a file, and its permission bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ownership {
    pub user: u32,
    pub group: u32,
    pub mode: u32,
}

/// The text names nobody.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum OwnerError {
    #[error("'{0}' is not an owner: write USER, USER:GROUP or :GROUP, by name or number")]
    Form(String),
    #[error(
        "there is no {kind} '{name}' in {file}; give its number (`{command}`) when it comes from elsewhere"
    )]
    Unknown { kind: &'static str, name: String, file: String, command: String },
}

impl Owner {
    /// Takes `USER`, `USER:GROUP` and `:GROUP`, each by name or number.
    pub(crate) fn find(roots: &Roots, text: &str) -> Result<Self, OwnerError> {
        let (user, group) = match text.split_once(':') {
            Some((user, group)) => (user, Some(group)),
            None => (text, None),
        };
        let user = (!user.is_empty()).then_some(user);
        if group.is_some_and(str::is_empty) || (user.is_none() && group.is_none()) {
            return Err(OwnerError::Form(text.to_owned()));
        }
        Ok(Self {
            name: text.to_owned(),
            user: user.map(|name| number(roots, "user", name)).transpose()?,
            group: group.map(|name| number(roots, "group", name)).transpose()?,
        })
    }

    /// What the nodes have afterwards, when they have `now`.
    pub(super) fn applied_to(&self, now: Ownership) -> Ownership {
        Ownership {
            user: self.user.unwrap_or(now.user),
            group: self.group.unwrap_or(now.group),
            // A group that is not named gets nothing, as the kernel makes these nodes.
            mode: if self.group.is_some() { 0o660 } else { 0o600 },
        }
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

/// The number of a user or group. Only the local files are read: names from a directory service are not there
/// yet when drives are bound at boot, numbers are.
fn number(roots: &Roots, kind: &'static str, name: &str) -> Result<u32, OwnerError> {
    if let Ok(number) = name.parse() {
        return Ok(number);
    }
    let (file, command) = match kind {
        "user" => (roots.etc.join("passwd"), format!("id -u {name}")),
        _ => (roots.etc.join("group"), format!("getent group {name}")),
    };
    let lines = fs::read(&file).unwrap_or_default();
    let lines = String::from_utf8_lossy(&lines);
    let found = lines.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(name)).then(|| fields.nth(1)?.parse().ok()).flatten()
    });
    found.ok_or_else(|| OwnerError::Unknown {
        kind,
        name: name.to_owned(),
        file: file.display().to_string(),
        command,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::Fake;

    const ROOT: Ownership = Ownership { user: 0, group: 0, mode: 0o600 };

    fn fake() -> Fake {
        let fake = Fake::new();
        fake.write("etc/passwd", "root:x:0:0::/root:/bin/sh\nalice:x:1001:100::/home/alice:/bin/sh\n");
        fake.write("etc/group", "root:x:0:\nstorage:x:55:alice\n");
        fake
    }

    fn applied(text: &str) -> (u32, u32, u32) {
        let Ownership { user, group, mode } = Owner::find(&fake().roots, text).unwrap().applied_to(ROOT);
        (user, group, mode)
    }

    #[test]
    fn owners_are_taken_by_name_and_by_number() {
        assert_eq!(applied("alice"), (1001, 0, 0o600));
        assert_eq!(applied("alice:storage"), (1001, 55, 0o660));
        assert_eq!(applied(":storage"), (0, 55, 0o660));
        assert_eq!(applied("77:88"), (77, 88, 0o660));
    }

    #[test]
    fn what_names_nobody_is_refused_with_what_to_write() {
        let complaint = |text| Owner::find(&fake().roots, text).unwrap_err().to_string();
        for text in ["", ":", "alice:"] {
            assert!(complaint(text).contains("USER:GROUP"), "{text}");
        }
        assert!(complaint("bob").contains("no user 'bob'") && complaint("bob").contains("id -u bob"));
        assert!(complaint("alice:nobody").contains("no group 'nobody'"));
    }
}
