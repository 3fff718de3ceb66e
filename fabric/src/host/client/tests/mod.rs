//! The host against a small target, over loopback.

mod server;

use std::io::Read;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use gangway_spec::aen::AsyncEvent;
use gangway_spec::discovery::{SUBTYPE_CURRENT_DISCOVERY, SUBTYPE_NVM};
use gangway_spec::fabrics::{ConnectInvalidParameter, DISCOVERY_NQN, HostId};
use gangway_spec::identify::cns;
use gangway_spec::registers;
use gangway_spec::{Status, SubmissionQueueEntry, nvm, opcode};

use self::server::{BLOCK, BLOCKS, Server, Setup, subsystem};
use super::{AdminQueue, Completed, HostError, HostIdentity, IoQueue, Options, Transfer};
use crate::discovery::{Listing, Subtype};
use crate::host::{ConnectionError, discovery};
use crate::pdu::{DigestFlags, IcResp};
use crate::target::Config;
use crate::term::FatalErrorStatus;

const LONG: Duration = Duration::from_secs(60);

fn identity() -> HostIdentity {
    HostIdentity { nqn: "nqn.2014-08.org.example:host".parse().unwrap(), id: HostId([1; 16]) }
}

fn connect(address: SocketAddr, options: &Options) -> AdminQueue {
    let mut admin = AdminQueue::connect(address, &subsystem(), &identity(), options).unwrap();
    admin.enable().unwrap();
    admin
}

/// Bytes that tell where they belong and in which round they were written.
fn pattern(slba: u64, blocks: u32, round: u32) -> Vec<u8> {
    (0..u64::from(blocks * BLOCK) / 8)
        .flat_map(|index| ((slba * u64::from(BLOCK) / 8 + index) ^ u64::from(round) << 40).to_le_bytes())
        .collect()
}

fn io_command(opcode: u8, slba: u64, blocks: u32) -> SubmissionQueueEntry {
    let mut entry = SubmissionQueueEntry::new(opcode);
    entry.nsid.set(1);
    nvm::set_slba(&mut entry, slba);
    nvm::set_nlb(&mut entry, blocks);
    entry
}

#[test]
fn an_association_is_made_used_and_shut_down() {
    let server = Server::start(2, Setup::default());
    let mut admin = connect(server.address, &Options::default());
    assert_eq!(admin.cntlid(), 1);
    assert_eq!(admin.property_get(registers::VS).unwrap(), 0x2_0000);
    assert_eq!(admin.property_get(registers::CSTS).unwrap() & 1, 1);

    let controller = admin.identify_controller().unwrap();
    assert_eq!((controller.cntlid.get(), &*controller.model()), (1, "memory"));
    assert_eq!(admin.active_namespaces().unwrap(), (1..=1500).collect::<Vec<u32>>());
    assert_eq!(admin.identify_namespace(1).unwrap().nsze.get(), BLOCKS);
    assert_eq!(admin.set_number_of_queues(64).unwrap(), 4);
    assert_eq!(admin.set_number_of_queues(2).unwrap(), 2);
    admin.keep_alive().unwrap();

    let mut io = admin.connect_io(1).unwrap();
    let data = pattern(7, 3, 0);
    io.write_blocks(1, 7, BLOCK, &data).unwrap();
    assert_eq!(io.read_blocks(1, 7, 3, BLOCK).unwrap(), data);
    io.flush_namespace(1).unwrap();
    assert_eq!(io.in_flight(), 0);
    admin.shutdown().unwrap();
    drop(io);
    server.join();
}

#[test]
fn a_command_that_fails_says_which_and_why() {
    let server = Server::start(2, Setup::default());
    let mut admin = connect(server.address, &Options::default());
    let error = admin.identify(cns::UUID_LIST, 0).unwrap_err();
    assert!(error.to_string().starts_with("Identify (opcode 06h)"), "{error}");
    assert!(error.to_string().contains("Invalid Field in Command"), "{error}");
    let (entry, data) = admin.command(&SubmissionQueueEntry::new(0xc2), Transfer::Read(4096)).unwrap();
    assert!(entry.status().is(Status::INVALID_OPCODE));
    assert!(data.is_empty());

    let mut io = admin.connect_io(1).unwrap();
    let Err(HostError::Command { status, .. }) = io.read_blocks(1, BLOCKS, 1, BLOCK) else {
        panic!("read beyond the end");
    };
    assert!(status.is(Status::LBA_OUT_OF_RANGE) && status.dnr());
    io.read_blocks(1, BLOCKS - 1, 1, BLOCK).unwrap();
    drop((admin, io));
    server.join();
}

/// Writes and reads back areas of many sizes, many at a time, and checks every byte.
fn exercise(io: &mut IoQueue, depth: usize) {
    const SIZES: [u32; 9] = [1, 2, 7, 8, 9, 16, 255, 256, 2048];
    let mut slba = 0;
    let areas: Vec<(u64, u32)> = (0..90)
        .map(|index| {
            let blocks = SIZES[index % SIZES.len()];
            slba += u64::from(blocks);
            (slba - u64::from(blocks), blocks)
        })
        .collect();
    assert!(slba <= BLOCKS);

    for round in 0..3 {
        let check = |io: &mut IoQueue, opcode| {
            let mut by_tag = vec![None; 1024];
            let mut left = areas.len();
            let mut next = areas.iter();
            while left > 0 {
                while io.in_flight() < depth
                    && let Some(&(slba, blocks)) = next.next()
                {
                    let transfer = match opcode {
                        opcode::nvm::WRITE => Transfer::Write(pattern(slba, blocks, round).into()),
                        _ if blocks % 2 == 0 => Transfer::Read(blocks * BLOCK),
                        _ => Transfer::ReadInto(vec![0xee; (blocks * BLOCK) as usize]),
                    };
                    let tag = io.submit(&io_command(opcode, slba, blocks), transfer).unwrap();
                    assert_eq!(by_tag[tag.index()].replace((slba, blocks)), None, "tag used twice");
                }
                let Completed { tag, entry, data } = io.wait(LONG).unwrap().expect("a completion in time");
                assert!(entry.status().is_success(), "{entry}");
                let (slba, blocks) = by_tag[tag.index()].take().expect("a completion of a command in flight");
                if opcode == opcode::nvm::READ {
                    assert!(data == pattern(slba, blocks, round), "{blocks} blocks at {slba}, round {round}");
                }
                left -= 1;
            }
            assert_eq!(io.in_flight(), 0);
        };
        check(io, opcode::nvm::WRITE);
        check(io, opcode::nvm::READ);
    }
}

#[test]
fn data_of_every_size_survives_with_and_without_flow_control_capsule_data_padding_and_digests() {
    for (flow_control, in_capsule, hpda, header_digest, data_digest) in [
        (true, true, 0, false, false),
        (false, true, 0, true, false),
        (true, false, 3, false, true),
        (false, false, 31, false, false),
        (true, true, 0, true, true),
        (false, false, 31, true, true),
    ] {
        let target = Config { in_capsule_data: 8192, max_h2c_data: 32 * 1024 };
        let server = Server::start(2, Setup { target, ..Setup::default() });
        let digests = Options { header_digest, data_digest, ..Options::default() };
        let options = Options { flow_control, in_capsule, hpda, queue_size: 33, ..digests };
        let mut admin = connect(server.address, &options);
        let mut io = admin.connect_io(1).unwrap();
        exercise(&mut io, 32);
        drop((admin, io));
        server.join();
    }
}

#[test]
fn several_queues_work_at_the_same_time() {
    let server = Server::start(5, Setup::default());
    let mut admin = connect(server.address, &Options::default());
    let queues: Vec<IoQueue> = (1..=4).map(|qid| admin.connect_io(qid).unwrap()).collect();
    std::thread::scope(|scope| {
        for mut io in queues {
            // Each has blocks of its own.
            let base = u64::from(io.qid()) * 4096;
            scope.spawn(move || {
                for index in 0..100 {
                    let slba = base + index * 8;
                    io.write_blocks(1, slba, BLOCK, &pattern(slba, 8, 1)).unwrap();
                }
                for index in 0..100 {
                    let slba = base + index * 8;
                    assert_eq!(io.read_blocks(1, slba, 8, BLOCK).unwrap(), pattern(slba, 8, 1));
                }
            });
        }
    });
    drop(admin);
    server.join();
}

#[test]
fn large_transfers_both_ways_do_not_block_each_other() {
    // Many times what socket buffers hold, in both directions at once, against a target that does not read while it
    // cannot write.
    let server = Server::start(2, Setup::default());
    let mut admin = connect(server.address, &Options { queue_size: 65, ..Options::default() });
    let mut io = admin.connect_io(1).unwrap();
    let shared: Arc<[u8]> = pattern(0, 2048, 5).into();
    for index in 0..64 {
        let (opcode, transfer) = match index % 2 {
            0 => (opcode::nvm::WRITE, Transfer::Write(Arc::clone(&shared))),
            _ => (opcode::nvm::READ, Transfer::Read(2048 * BLOCK)),
        };
        io.submit(&io_command(opcode, 2048 * (index % 2), 2048), transfer).unwrap();
    }
    for _ in 0..64 {
        let completed = io.wait(LONG).unwrap().expect("a completion in time");
        assert!(completed.entry.status().is_success());
    }
    assert!(io.wait(Duration::ZERO).unwrap().is_none());
    assert!(io.read_blocks(1, 0, 2048, BLOCK).unwrap() == shared[..]);
    drop((admin, io));
    server.join();
}

#[test]
fn a_full_queue_is_refused_and_nothing_is_lost() {
    let server = Server::start(2, Setup::default());
    let mut admin = connect(server.address, &Options { queue_size: 4, ..Options::default() });
    let mut io = admin.connect_io(1).unwrap();
    for slba in 0..3 {
        io.submit(&io_command(opcode::nvm::READ, slba, 1), Transfer::Read(BLOCK)).unwrap();
    }
    assert!(io.is_full());
    let full = io.submit(&io_command(opcode::nvm::READ, 3, 1), Transfer::Read(BLOCK));
    assert!(matches!(full, Err(HostError::QueueFull(_))));
    for _ in 0..3 {
        assert_eq!(io.wait(LONG).unwrap().unwrap().data.len(), BLOCK as usize);
    }
    drop((admin, io));
    server.join();
}

#[test]
fn an_asynchronous_event_arrives_between_other_commands() {
    let event = AsyncEvent::NAMESPACE_ATTRIBUTE_CHANGED;
    let server = Server::start(1, Setup { event: Some(event), ..Setup::default() });
    let mut admin = connect(server.address, &Options::default());
    let request = SubmissionQueueEntry::new(opcode::admin::ASYNC_EVENT_REQUEST);
    let tag = admin.queue().submit(&request, Transfer::None).unwrap();
    admin.identify_controller().unwrap();
    assert!(admin.queue().wait(Duration::ZERO).unwrap().is_none());
    admin.keep_alive().unwrap();
    admin.identify_controller().unwrap();
    let completed = admin.queue().wait(LONG).unwrap().unwrap();
    assert_eq!(completed.tag, tag);
    assert_eq!(AsyncEvent::from_dw0(completed.entry.dw0.get()), event);
    drop(admin);
    server.join();
}

#[test]
fn a_refused_connect_names_the_status_and_the_parameter() {
    let other = "nqn.2014-08.org.example:other".parse().unwrap();
    let server = Server::start(2, Setup { allowed_host: Some(other), ..Setup::default() });
    let options = Options::default();
    let error = AdminQueue::connect(server.address, &subsystem(), &identity(), &options).err().unwrap();
    assert!(matches!(&error, HostError::Refused { status, parameter: None, .. }
        if status.is(Status::CONNECT_INVALID_HOST) && status.dnr()));

    let unknown = "nqn.2014-08.org.example:unknown".parse().unwrap();
    let error = AdminQueue::connect(server.address, &unknown, &identity(), &options).err().unwrap();
    assert!(matches!(&error, HostError::Refused { parameter: Some(ConnectInvalidParameter::SUBNQN), .. }));
    assert!(error.to_string().contains("SUBNQN"), "{error}");
    server.join();
}

#[test]
fn a_discovery_service_lists_itself_and_the_subsystem_at_the_address_the_host_reached() {
    let any = "0.0.0.0:4420".parse().unwrap();
    let mut listings = vec![Listing::current_discovery(any, 1)];
    // More than are read with one command.
    for index in 0..40 {
        let subsystem = format!("nqn.2014-08.org.example:drive{index}").parse().unwrap();
        listings.push(Listing { subsystem, subtype: Subtype::Nvm, address: any, port_id: 1 });
    }
    let server = Server::start(1, Setup { listings, ..Setup::default() });
    let entries = discovery::fetch(server.address, &identity(), &Options::default()).unwrap();
    assert_eq!(entries.len(), 41);
    assert_eq!(entries[0].subtype, SUBTYPE_CURRENT_DISCOVERY);
    assert_eq!(entries[0].subnqn().unwrap(), DISCOVERY_NQN);
    for (index, entry) in entries[1..].iter().enumerate() {
        assert_eq!(entry.subtype, SUBTYPE_NVM);
        assert_eq!(entry.subnqn().unwrap(), format!("nqn.2014-08.org.example:drive{index}").as_str());
        assert_eq!((entry.traddr(), entry.trsvcid()), ("127.0.0.1".into(), "4420".into()));
    }
    server.join();
}

#[test]
fn a_discovery_log_page_that_never_stays_the_same_is_given_up() {
    let server = Server::start(1, Setup { unstable: true, ..Setup::default() });
    let error = discovery::fetch(server.address, &identity(), &Options::default()).unwrap_err();
    assert!(matches!(error, HostError::DiscoveryUnstable { .. }), "{error}");
    server.join();
}

#[test]
fn a_target_that_cannot_be_reached_is_named() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let error = AdminQueue::connect(address, &subsystem(), &identity(), &Options::default()).err().unwrap();
    assert!(matches!(error, HostError::Unreachable { .. }));
    assert!(error.to_string().contains(&address.to_string()), "{error}");
}

#[test]
fn a_target_that_says_nothing_runs_into_the_timeout() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let options = Options { connect_timeout: Duration::from_millis(50), ..Options::default() };
    let address = listener.local_addr().unwrap();
    let error = AdminQueue::connect(address, &subsystem(), &identity(), &options).err().unwrap();
    assert!(matches!(error, HostError::Timeout { .. }), "{error}");
}

/// What a host says to a target that sends `bytes` and closes, and what the target got after ICReq.
fn against(bytes: Vec<u8>) -> (HostError, Vec<u8>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let target = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = [0; 128];
        stream.read_exact(&mut request).unwrap();
        std::io::Write::write_all(&mut stream, &bytes).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).unwrap();
        rest
    });
    let error = AdminQueue::connect(address, &subsystem(), &identity(), &Options::default()).err().unwrap();
    (error, target.join().unwrap())
}

#[test]
fn a_target_that_breaks_the_protocol_is_told_so() {
    let mut response = IcResp::new(0, DigestFlags::empty(), 8192);
    response.pfv.set(1);
    let bytes = zerocopy::IntoBytes::as_bytes(&response).to_vec();
    let (error, rest) = against(bytes.clone());
    assert!(matches!(error, HostError::Protocol { source: ConnectionError::Protocol(_), .. }), "{error}");
    assert_eq!(rest[..14], [2, 0, 24, 0, 152, 0, 0, 0, 1, 0, 8, 0, 0, 0]);
    assert_eq!(rest[24..], bytes);
}

#[test]
fn a_target_that_ends_the_connection_is_quoted() {
    let mut bytes = Vec::new();
    crate::term::Fatal::field(10, &[0; 128]).write(crate::pdu::PduType::C2H_TERM, &mut bytes);
    let (error, rest) = against(bytes);
    let HostError::Protocol { source: ConnectionError::Terminated { fes, fei }, .. } = error else {
        panic!("{error}");
    };
    assert_eq!((fes, fei), (FatalErrorStatus::INVALID_PDU_HEADER_FIELD, 10));
    assert!(rest.is_empty());
}

#[test]
fn a_target_that_closes_the_connection_or_stops_in_the_middle_of_a_pdu_is_noticed() {
    let response = IcResp::new(0, DigestFlags::empty(), 8192);
    let bytes = zerocopy::IntoBytes::as_bytes(&response);
    for length in [0, 1, 127, 128] {
        let (error, _) = against(bytes[..length].to_vec());
        assert!(matches!(error, HostError::Closed { .. }), "{error}");
    }
}
