//! Nothing is allocated per command, with digests or without.

#![allow(unsafe_code)] // An allocator is unsafe by nature; this one only counts what the system's does.
#![allow(clippy::unwrap_used)] // Tests end where something fails.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use gangway_fabric::host::{self, Data};
use gangway_fabric::pdu::DigestFlags;
use gangway_fabric::target::{self, CapsuleData, Reply, Slot};
use gangway_spec::{SubmissionQueueEntry, TransferDirection, opcode};

thread_local! {
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: every call goes to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller keeps the contract, which is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract, which is the same.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const SIZE: usize = 8192;

/// Both ends, and the streams between them.
struct Session {
    host: host::Connection,
    target: target::Connection,
    to_target: Vec<u8>,
    to_host: Vec<u8>,
    data: Vec<u8>,
    read: Vec<u8>,
    arriving: Vec<u8>,
    responses: usize,
}

impl Session {
    fn new(digests: DigestFlags, hpda: u8) -> Session {
        let config = host::Config {
            hpda,
            digests,
            queue_size: 8,
            in_capsule: 4096,
            fabrics_in_capsule: host::ADMIN_IN_CAPSULE,
        };
        let target = target::Config { in_capsule_data: 4096, max_h2c_data: 4096 };
        let mut session = Session {
            host: host::Connection::new(config),
            target: target::Connection::new(target),
            to_target: Vec::with_capacity(1 << 16),
            to_host: Vec::with_capacity(1 << 16),
            data: (0..SIZE).map(|i| (i * 7 / 3) as u8).collect(),
            read: vec![0; SIZE],
            arriving: vec![0; SIZE],
            responses: 0,
        };
        session.host.start(&mut session.to_target);
        session.exchange();
        let mut connect = SubmissionQueueEntry::new(opcode::admin::FABRICS);
        connect.nsid.set(u32::from(gangway_spec::fabrics::fctype::CONNECT));
        session.run(&connect, Data::Send(1024));
        session
    }

    fn run(&mut self, entry: &SubmissionQueueEntry, data: Data) {
        let submitted = self.host.submit(entry, data, &mut self.to_target).unwrap();
        if submitted.in_capsule {
            let data = &self.data[..data.length() as usize];
            self.to_target.extend_from_slice(data);
            self.host.data_end(data, &mut self.to_target);
        }
        let before = self.responses;
        while self.responses == before {
            self.exchange();
        }
    }

    fn exchange(&mut self) {
        let mut at = 0;
        while at < self.to_target.len() {
            let bytes = &self.to_target[at..];
            let (taken, event) = match self.target.want() {
                target::Want::Payload { offset, remaining, .. } => {
                    let count = bytes.len().min(remaining as usize);
                    self.arriving[offset as usize..][..count].copy_from_slice(&bytes[..count]);
                    (count, self.target.placed(&bytes[..count]))
                }
                _ => self.target.receive(bytes, &mut self.to_host).unwrap(),
            };
            at += taken;
            match event {
                Some(target::Event::Command { slot, entry, data }) => self.command(slot, &entry, data),
                Some(target::Event::DataComplete { slot, intact: true }) => self.answer(slot),
                None | Some(target::Event::Initialized) => {}
                other => panic!("{other:?}"),
            }
        }
        self.to_target.clear();
        let mut at = 0;
        while at < self.to_host.len() {
            let bytes = &self.to_host[at..];
            let (taken, event) = match self.host.want() {
                host::Want::Payload { offset, remaining, .. } => {
                    let count = bytes.len().min(remaining as usize);
                    self.read[offset as usize..][..count].copy_from_slice(&bytes[..count]);
                    (count, self.host.placed(&bytes[..count]))
                }
                _ => self.host.receive(bytes, &mut self.to_target).unwrap(),
            };
            at += taken;
            match event {
                Some(host::Event::Response { tag, entry, .. }) => {
                    assert!(entry.status().is_success());
                    self.host.release(tag);
                    self.responses += 1;
                }
                Some(host::Event::DataRequested(mut transfer)) => {
                    while transfer.remaining() > 0 {
                        let range = self.host.data_header(&mut transfer, &mut self.to_target);
                        let data = &self.data[range];
                        self.to_target.extend_from_slice(data);
                        self.host.data_end(data, &mut self.to_target);
                    }
                }
                None | Some(host::Event::Initialized { .. }) => {}
            }
        }
        self.to_host.clear();
    }

    fn command(&mut self, slot: Slot, entry: &SubmissionQueueEntry, data: CapsuleData) {
        match data {
            CapsuleData::InCapsule { .. } => {}
            CapsuleData::Transport { .. }
                if entry.transfer_direction() == TransferDirection::HostToController =>
            {
                self.target.request_data(slot, &mut self.to_host);
            }
            CapsuleData::Transport { len } => {
                let data = &self.data[..len as usize];
                let end = self.target.data_header(slot, data, &Reply::SUCCESS, &mut self.to_host);
                self.to_host.extend_from_slice(data);
                self.target.data_end(end, &mut self.to_host);
            }
            CapsuleData::None => self.answer(slot),
        }
    }

    fn answer(&mut self, slot: Slot) {
        if !self.target.is_established() {
            self.target.establish(1, 8, true);
        }
        self.target.respond(slot, &Reply::SUCCESS, &mut self.to_host);
    }
}

#[test]
fn no_command_allocates() {
    for digests in (0..4).map(DigestFlags::from_bits_retain) {
        for hpda in [0, 31] {
            let mut session = Session::new(digests, hpda);
            let before = ALLOCATIONS.with(Cell::get);
            for _ in 0..100 {
                let write = SubmissionQueueEntry::new(opcode::nvm::WRITE);
                session.run(&write, Data::Send(4096));
                session.run(&write, Data::Send(SIZE as u32));
                session.run(&SubmissionQueueEntry::new(opcode::nvm::READ), Data::Receive(SIZE as u32));
                session.run(&SubmissionQueueEntry::new(opcode::nvm::FLUSH), Data::None);
            }
            assert_eq!(ALLOCATIONS.with(Cell::get) - before, 0, "{digests:?}");
            assert!(session.arriving == session.data && session.read == session.data);
        }
    }
    assert!(ALLOCATIONS.with(Cell::get) > 0, "the allocator counts");
}
