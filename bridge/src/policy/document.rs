//! The tables as a document, and whether the document in the repository is still true.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use gangway_spec::command::SubmissionQueueEntry;
use gangway_spec::opcode::admin as opcode;
use gangway_spec::status::Status;
use gangway_spec::{admin_opcode_name, feature, log};

use super::table::{self, Class, Place};
use super::{Item, Policy};
use crate::remote::decide::decide;

const HEAD: &str = "\
# What hosts may do

`gangway serve` lets a host do I/O and look at the drive. Whatever else an admin command may do is in one of these classes, and is
refused until the class is opened, or that one command, feature or log page:

    gangway serve --device pci:0000:01:00.0 --allow tune,admin:c1h --refuse feature:06h
    gangway serve --device pci:0000:01:00.0 --allow-for nqn.2014-08.org.example:admin=tune,firmware

What a host may not do is not promised to it either: Identify Controller (OACS, ONCS, LPA, SANICAP, FRMW, ...), the Commands Supported and
Effects log, the Supported Log Pages and the capabilities of features are computed from the drive's own and the policy. A command that
a policy could allow is refused with Operation Denied, a feature with Feature Not Changeable; what no policy allows, with the status of a controller that has no
such thing. Each command that changes the state of a drive is written to the log, with the target `audit`: the host, the command, how it ended.

A command that is about the whole drive (Sanitize, Security, firmware, every vendor command, and what changes it without naming one namespace) is refused when the
export does not show all namespaces of the drive. One host at a time downloads firmware; one that is silent for two minutes has lost its turn. A host is known by its NQN, which is no proof.

This file is written by a test, from the tables that the program decides by.
";

/// The whole document.
fn document() -> String {
    let mut text = HEAD.to_owned();
    section(&mut text, "Admin commands", table::admin, |id| admin_opcode_name(id).map(str::to_owned));
    section(&mut text, "Set Features", table::set_feature, |id| feature::feature_name(id).map(str::to_owned));
    text.push_str("\nGet Features is allowed for whatever `tune` and `manage` could set.\n");
    section(&mut text, "Get Log Page", table::log_page, |id| log::lid::name(id).map(str::to_owned));
    text
}

/// A table of all bytes. Neighbours without a name that are in the same place share a line.
fn section(text: &mut String, title: &str, place: fn(u8) -> Place, name: impl Fn(u8) -> Option<String>) {
    let _ = writeln!(text, "\n## {title}\n\n| | | |\n|---|---|---|");
    let mut next = 0_u16;
    while let Ok(first) = u8::try_from(next) {
        let mut last = first;
        if name(first).is_none() {
            while last < 255 && name(last + 1).is_none() && place(last + 1) == place(first) {
                last += 1;
            }
        }
        let range =
            if last == first { format!("{first:02x}h") } else { format!("{first:02x}h to {last:02x}h") };
        let what = match place(first) {
            Place::Here(reason) => format!("answered by the target: {reason}"),
            Place::Never(reason) => format!("refused: {reason}"),
            Place::Class(class) => format!("**{class}**"),
        };
        let _ = writeln!(text, "| {range} | {} | {what} |", name(first).unwrap_or_default());
        next = u16::from(last) + 1;
    }
}

#[test]
fn the_document_says_what_the_tables_say() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/policy.md");
    if std::env::var_os("GANGWAY_WRITE_DOCS").is_some() {
        fs::write(&path, document()).unwrap();
    }
    let found = fs::read_to_string(&path).unwrap();
    assert!(
        found == document(),
        "docs/policy.md is not what the tables say: write it with GANGWAY_WRITE_DOCS=1 cargo test -p gangway-bridge document"
    );
}

/// Every set of classes with [`Class::Inspect`] in it.
fn policies() -> Vec<(Vec<Class>, Policy)> {
    let others = [Class::Tune, Class::Manage, Class::Firmware, Class::Vendor];
    (0..1 << others.len())
        .map(|bits: u32| {
            let chosen = others.iter().enumerate().filter(|(index, _)| bits >> index & 1 == 1);
            let classes: Vec<Class> = chosen.map(|(_, class)| *class).chain([Class::Inspect]).collect();
            let policy = Policy::new(classes.iter().copied().map(Item::Class), []);
            (classes, policy)
        })
        .collect()
}

/// What decides on a command, under a policy of these classes.
fn expected(place: Place, classes: &[Class], unknown: Status, denied: Status) -> Result<(), Status> {
    match place {
        Place::Class(class) if classes.contains(&class) => Ok(()),
        Place::Class(_) => Err(denied.with_dnr()),
        Place::Here(_) | Place::Never(_) => Err(unknown.with_dnr()),
    }
}

#[test]
fn every_admin_opcode_is_decided_as_its_place_says_under_every_policy() {
    for (classes, policy) in policies() {
        for byte in 0..=255_u8 {
            let mut entry = SubmissionQueueEntry::new(byte);
            // Valid for those that look at it: Identify Controller, SMART, Arbitration.
            entry.cdw10 = if byte == opcode::GET_LOG_PAGE { 2 } else { 1 }.into();
            let place = match byte {
                opcode::SET_FEATURES => continue,
                // Both ways at once: refused whatever the policy says.
                0xc0.. if byte & 3 == 3 && classes.contains(&Class::Vendor) => {
                    assert_eq!(decide(&policy, &entry, 0).unwrap_err(), Status::INVALID_FIELD.with_dnr());
                    continue;
                }
                _ => table::admin(byte),
            };
            let decided = decide(&policy, &entry, 0).map(drop);
            let expected = expected(place, &classes, Status::INVALID_OPCODE, Status::OPERATION_DENIED);
            assert_eq!(decided, expected, "opcode {byte:02x}h with {classes:?}");
        }
    }
}

#[test]
fn every_feature_is_decided_as_its_place_says_under_every_policy() {
    for (classes, policy) in policies() {
        for byte in 0..=255_u8 {
            let command = |opcode| {
                let mut entry = SubmissionQueueEntry::new(opcode);
                entry.cdw10 = u32::from(byte).into();
                decide(&policy, &entry, 0).map(drop)
            };
            let set = expected(
                table::set_feature(byte),
                &classes,
                Status::INVALID_FIELD,
                Status::FEATURE_NOT_CHANGEABLE,
            );
            assert_eq!(command(opcode::SET_FEATURES), set, "Set Features {byte:02x}h with {classes:?}");
            let get =
                expected(table::get_feature(byte), &classes, Status::INVALID_FIELD, Status::OPERATION_DENIED);
            assert_eq!(command(opcode::GET_FEATURES), get, "Get Features {byte:02x}h with {classes:?}");
        }
    }
}

#[test]
fn every_log_page_is_decided_as_its_place_says_under_every_policy() {
    for (classes, policy) in policies() {
        for byte in 0..=255_u8 {
            let mut entry = SubmissionQueueEntry::new(opcode::GET_LOG_PAGE);
            entry.cdw10 = u32::from(byte).into();
            let decided = decide(&policy, &entry, 4).map(drop);
            let expected =
                expected(table::log_page(byte), &classes, Status::INVALID_LOG_PAGE, Status::OPERATION_DENIED);
            assert_eq!(decided, expected, "log page {byte:02x}h with {classes:?}");
        }
    }
}
