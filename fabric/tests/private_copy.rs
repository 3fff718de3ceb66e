//! A command is copied once: what is checked is what is executed, whatever happens to the memory it came from.

#![allow(clippy::unwrap_used)] // Tests end where something fails.

use gangway_fabric::pdu::{DigestFlags, IcReq};
use gangway_fabric::target::{Config, Connection, Event, Reply};
use gangway_spec::SubmissionQueueEntry;
use gangway_spec::fabrics::{ConnectCommand, fctype};
use gangway_spec::opcode::nvm;
use zerocopy::IntoBytes;

/// A capsule without data around `entry`.
fn capsule(mut entry: SubmissionQueueEntry) -> Vec<u8> {
    entry.set_psdt(1);
    entry.set_sgl(gangway_spec::SglDescriptor::transport(4096));
    let mut bytes = vec![4, 0, 72, 0, 72, 0, 0, 0];
    bytes.extend_from_slice(entry.as_bytes());
    bytes
}

fn receive(connection: &mut Connection, bytes: &[u8]) -> Option<Event> {
    let mut out = Vec::new();
    let (taken, event) = connection.receive(bytes, &mut out).unwrap();
    assert_eq!(taken, bytes.len());
    event
}

#[test]
fn a_command_changed_in_memory_after_it_was_checked_is_executed_as_it_was_checked() {
    let mut connection = Connection::new(Config { in_capsule_data: 8192, max_h2c_data: 1 << 20 });
    assert_eq!(
        receive(&mut connection, IcReq::new(0, DigestFlags::empty(), 0).as_bytes()),
        Some(Event::Initialized)
    );
    let mut connect = SubmissionQueueEntry::from(ConnectCommand::new(1, 32));
    assert_eq!(connect.fctype(), fctype::CONNECT);
    connect.cid.set(1);
    let Some(Event::Command { slot, .. }) = receive(&mut connection, &capsule(connect)) else {
        panic!("Connect arrives");
    };
    connection.establish(1, 32, true);
    connection.respond(slot, &Reply::SUCCESS, &mut Vec::new());

    let mut read = SubmissionQueueEntry::new(nvm::READ);
    read.nsid.set(1);
    read.cdw12.set(7);
    let mut memory = capsule(read);
    let Some(Event::Command { entry, .. }) = receive(&mut connection, &memory) else {
        panic!("the command arrives");
    };
    let checked = entry;
    // Whoever can write the memory turns the read of eight blocks into a write of 65536 to another namespace.
    memory[8] = nvm::WRITE;
    memory[8 + 4] = 9;
    memory[8 + 48..8 + 50].fill(0xff);
    assert_eq!(entry, checked);
    assert_eq!((entry.opcode, entry.nsid.get(), entry.cdw12.get()), (nvm::READ, 1, 7));
}
