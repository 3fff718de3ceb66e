//! The tables as a document, and whether the document in the repository is still true.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use gangway_spec::command::SubmissionQueueEntry;
use gangway_spec::identify::csi;
use gangway_spec::nvm::BlockFormat;
use gangway_spec::opcode::{admin as opcode, nvm, zns};
use gangway_spec::status::Status;
use gangway_spec::{admin_opcode_name, feature, log, nvm_opcode_name};

use super::table::{self, Class, Place};
use super::{Item, Policy};
use crate::admission::{ExportView, NamespaceIds, NamespaceView, ZoneLimits};
use crate::remote::decide::decide;

const HEAD: &str = "\
# What hosts may do

`gangway serve` lets a host do I/O and look at the drive (`io` and `inspect`). Whatever else a command may do is in one of these classes, and is
refused until the class is opened, or that one command, feature or log page:

    gangway serve --device pci:0000:01:00.0 --allow tune,admin:c1h,io:c1h --refuse feature:06h,io:09h
    gangway serve --device pci:0000:01:00.0 --allow-for nqn.2014-08.org.example:admin=tune,firmware
    gangway serve --device pci:0000:01:00.0 --export nqn=nqn.2014-08.org.example:db,drive=1,allow=manage,refuse=io:09h

What a host may not do is not promised to it either: Identify Controller (OACS, ONCS, LPA, SANICAP, FRMW, ...), the Commands Supported and
Effects log, the Supported Log Pages and the capabilities of features are computed from the drive's own and the policy. A command that
a policy could allow is refused with Operation Denied, a feature with Feature Not Changeable; what no policy allows, with the status of a controller that has no
such thing. Reservations are kept by the target, whatever the drive can do; a host that may not use one of their commands
(`--refuse io:0dh,io:0eh,io:11h,io:15h`) may use none, as nothing could be done with a part of them: they are not in ONCS and RESCAP, there are no features 82h and 83h, no log page 80h, and the
commands themselves are unknown (Invalid Command Opcode). Each command that changes the state of a drive is written to the log, with the target `audit`: the host, the command, how it ended.

A command that is about the whole drive (Sanitize, Security, firmware, every vendor command, feature and log, telemetry, features that are not of one namespace,
and what changes it without naming one namespace) is refused when the
export is not of all of the drive. The length of each transfer, and each block that it names, is computed from the command and compared before the drive
has it; of a vendor's commands the length is what the host says, and their memory is placed so that a drive which moves more finds nothing behind it. The drive takes all hosts for one, so one host at a time downloads firmware, or talks to the drive's security: others are refused with Operation Denied, to be tried again,
until it commits or leaves (firmware), has nothing under way and is silent for two minutes (firmware) or ten seconds (security), or takes longer than an hour or five minutes for all of it. Commands of different hosts that are about a whole drive (vendor admin commands, security, firmware,
formats, namespaces, Sanitize) follow each other: one that has waited for 8 seconds ends with Command Interrupted, to be tried again. A host is known by its NQN, which is no proof.

This file is written by a test, from the tables that the program decides by.
";

/// The whole document.
fn document() -> String {
    let mut text = HEAD.to_owned();
    section(&mut text, "Admin commands", table::admin, |id| admin_opcode_name(id).map(str::to_owned));
    section(&mut text, "I/O commands", table::io, |id| nvm_opcode_name(id).map(str::to_owned));
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
fn every_io_opcode_is_decided_as_its_place_says_under_every_policy() {
    for (mut classes, policy) in policies() {
        classes.push(Class::Io);
        for csi in [csi::NVM, csi::ZONED_NAMESPACE] {
            let view = export(csi);
            for byte in 0..=255_u8 {
                let mut entry = SubmissionQueueEntry::new(byte);
                entry.nsid = 1.into();
                // One block, one range, or a report of zones of one block; zones are closed.
                entry.cdw12 = if byte == zns::ZONE_MANAGEMENT_RECEIVE { 127 } else { 0 }.into();
                entry.cdw13 = u32::from(byte == zns::ZONE_MANAGEMENT_SEND).into();
                let declared = match byte {
                    nvm::READ
                    | nvm::WRITE
                    | nvm::COMPARE
                    | zns::ZONE_APPEND
                    | zns::ZONE_MANAGEMENT_RECEIVE => 512,
                    nvm::RESERVATION_REPORT => 4,
                    nvm::RESERVATION_RELEASE => 8,
                    nvm::DATASET_MANAGEMENT | nvm::RESERVATION_REGISTER | nvm::RESERVATION_ACQUIRE => 16,
                    nvm::COPY => 32,
                    0x80.. if byte & 3 != 0 => 512,
                    _ => 0,
                };
                let decided = view.admit(&entry, declared, &policy).map(drop);
                let expected = match byte {
                    0x80.. if byte & 3 == 3 => Err(Status::INVALID_FIELD.with_dnr()),
                    zns::ZONE_MANAGEMENT_SEND | zns::ZONE_MANAGEMENT_RECEIVE | zns::ZONE_APPEND
                        if csi == csi::NVM =>
                    {
                        Err(Status::INVALID_OPCODE.with_dnr())
                    }
                    _ if matches!(table::io(byte), Place::Here(_)) => Ok(()),
                    _ => {
                        expected(table::io(byte), &classes, Status::INVALID_OPCODE, Status::OPERATION_DENIED)
                    }
                };
                assert_eq!(decided, expected, "opcode {byte:02x}h of command set {csi} with {classes:?}");
            }
        }
    }
}

/// An export of one namespace of this command set.
fn export(csi: u8) -> ExportView {
    let namespace = NamespaceView {
        nsid: 1,
        drive: 0,
        drive_nsid: 1,
        queue: 0,
        across: 0,
        csi,
        format: BlockFormat::plain(512),
        blocks: 8,
        zones: ZoneLimits { append: 4096, extension: 0 },
        read_only: false,
        ids: NamespaceIds::default(),
    };
    ExportView { namespaces: vec![namespace], whole: true, max_transfer: 4096, ..ExportView::default() }
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
