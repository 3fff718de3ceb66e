//! Random and damaged input: whatever arrives, nothing panics, nothing grows, and pieces do not matter.

use proptest::prelude::*;

use super::*;
use crate::digest::oracle::with_digests;

/// What a controller would do with `event`, at once.
fn react(harness: &mut Harness, event: &Event) {
    match *event {
        Event::Command { slot, entry, data } => match data {
            CapsuleData::Transport { .. } if entry.opcode & 1 == 1 => {
                harness.connection.request_data(slot, &mut harness.out);
            }
            CapsuleData::Transport { len } => {
                // What a peer asks for must not cost memory.
                let payload = &[5; 1 << 16][..(len as usize).min(1 << 16)];
                let end = harness.connection.data_header(slot, payload, &Reply::SUCCESS, &mut harness.out);
                harness.connection.data_end(end, &mut harness.out);
            }
            CapsuleData::None => harness.connection.respond(slot, &Reply::SUCCESS, &mut harness.out),
            CapsuleData::InCapsule { .. } => {}
        },
        Event::Refused { slot, status, .. } => {
            harness.connection.respond(slot, &Reply::status(status), &mut harness.out);
        }
        Event::DataComplete { slot, .. } => {
            if !harness.connection.is_established() {
                harness.connection.establish(1, QUEUE_SIZE, false);
            }
            harness.connection.respond(slot, &Reply::SUCCESS, &mut harness.out);
        }
        Event::Initialized | Event::HostTerminated { .. } => {}
    }
}

/// Everything that can be seen of a session.
#[derive(Debug, PartialEq)]
struct Trace {
    events: Vec<Event>,
    payload: Vec<(Slot, u32, u8)>,
    discarded: usize,
    out: Vec<u8>,
    fatal: Option<Fatal>,
    consumed: usize,
    outstanding: usize,
}

/// Runs a session over `bytes` in pieces of the given sizes, in turn.
fn run(bytes: &[u8], sizes: &[usize]) -> Trace {
    let mut harness = Harness::new();
    let mut trace = Trace {
        events: Vec::new(),
        payload: Vec::new(),
        discarded: 0,
        out: Vec::new(),
        fatal: None,
        consumed: 0,
        outstanding: 0,
    };
    let mut sizes = sizes.iter().cycle();
    let mut rest = bytes;
    'session: while !rest.is_empty() {
        let (mut piece, behind) = rest.split_at((*sizes.next().unwrap()).clamp(1, rest.len()));
        rest = behind;
        while !piece.is_empty() {
            let (taken, event) = match harness.connection.want() {
                Want::Header { at_most, .. } => match harness.connection.receive(piece, &mut harness.out) {
                    Ok((taken, event)) => {
                        assert!((1..=at_most.min(piece.len())).contains(&taken));
                        (taken, event)
                    }
                    Err(fatal) => {
                        harness.connection.terminate(&fatal, &mut harness.out);
                        trace.fatal = Some(fatal);
                        break 'session;
                    }
                },
                Want::Payload { slot, offset, remaining } => {
                    let n = piece.len().min(remaining as usize);
                    trace.payload.extend((offset..).zip(&piece[..n]).map(|(at, byte)| (slot, at, *byte)));
                    let (behind, event) = harness.connection.placed_before(&piece[..n], &piece[n..]);
                    (n + behind, event)
                }
                Want::Discard { remaining } => {
                    let n = piece.len().min(remaining as usize);
                    trace.discarded += n;
                    (n, harness.connection.discarded(n as u32))
                }
                Want::Nothing => break 'session,
            };
            trace.consumed += taken;
            piece = &piece[taken..];
            if let Some(event) = event {
                react(&mut harness, &event);
                trace.events.push(event);
            }
            assert!(harness.connection.commands_outstanding() <= usize::from(QUEUE_SIZE));
        }
    }
    if trace.fatal.is_some() {
        // What was collected of the header in error is not counted: how much depends on the pieces.
        assert_eq!(harness.connection.want(), Want::Nothing);
        trace.consumed = 0;
    }
    trace.out = harness.out;
    trace.outstanding = harness.connection.commands_outstanding();
    trace
}

/// A good session: every PDU that a host sends, with and without data.
fn session_with(digests: DigestFlags) -> Vec<u8> {
    let keyed = SglDescriptor { identifier: 0x40, ..SglDescriptor::transport(64) };
    let pdus = [
        capsule(connect_entry(), &pattern(1024)),
        capsule(entry(opcode::nvm::WRITE, 1, SglDescriptor::in_capsule(512)), &pattern(512)),
        capsule(entry(opcode::nvm::READ, 2, SglDescriptor::transport(4096)), &[]),
        capsule(entry(opcode::nvm::WRITE, 3, SglDescriptor::transport(600)), &[]),
        h2c_data(3, 0, 0, &pattern(300), false),
        capsule(entry(opcode::nvm::FLUSH, 4, SglDescriptor::transport(0)), &[]),
        h2c_data(3, 0, 300, &pattern(300), true),
        capsule(entry(opcode::nvm::WRITE, 5, keyed), &pattern(64)),
        capsule(entry(opcode::nvm::FLUSH, 6, SglDescriptor::transport(0)), &[]),
    ];
    let mut bytes = IcReq::new(0, digests, 0).as_bytes().to_vec();
    bytes.extend(pdus.iter().flat_map(|plain| with_digests(plain, digests, 4)));
    bytes
}

fn any_digests() -> impl Strategy<Value = DigestFlags> {
    (0..4_u8).prop_map(DigestFlags::from_bits_retain)
}

#[test]
fn a_good_session_is_the_same_byte_by_byte_and_as_a_whole() {
    for digests in (0..4).map(DigestFlags::from_bits_retain) {
        let bytes = session_with(digests);
        let whole = run(&bytes, &[bytes.len()]);
        assert_eq!((&whole.fatal, whole.consumed, whole.outstanding), (&None, bytes.len(), 0));
        // ICReq, Connect and its data, write and its data, read, write, flush, its data, refused, flush.
        assert_eq!(whole.events.len(), 11);
        assert!(!whole.events.iter().any(|event| matches!(event, Event::DataComplete { intact: false, .. })));
        assert_eq!((whole.payload.len(), whole.discarded), (1024 + 512 + 600, 64));
        assert_eq!(run(&bytes, &[1]), whole);
    }
}

#[test]
fn a_session_cut_at_any_byte_waits_for_the_rest() {
    let bytes = session_with(DigestFlags::all());
    let whole = run(&bytes, &[bytes.len()]);
    for cut in 0..bytes.len() {
        let trace = run(&bytes[..cut], &[cut.max(1)]);
        assert_eq!((trace.fatal, trace.consumed), (None, cut));
        assert!(whole.events.starts_with(&trace.events));
        assert!(whole.out.starts_with(&trace.out));
        assert!(trace.outstanding <= 2);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_good_session_is_the_same_in_pieces_of_any_size(
        digests in any_digests(),
        sizes in prop::collection::vec(1..300_usize, 1..50),
    ) {
        let bytes = session_with(digests);
        prop_assert_eq!(run(&bytes, &sizes), run(&bytes, &[bytes.len()]));
    }

    #[test]
    fn random_bytes_never_panic_and_end_the_same_in_pieces_of_any_size(
        bytes in prop::collection::vec(any::<u8>(), 0..600),
        behind_icreq in any::<bool>(),
        sizes in prop::collection::vec(1..100_usize, 1..20),
    ) {
        let mut input = if behind_icreq { icreq(0) } else { Vec::new() };
        input.extend(bytes);
        prop_assert_eq!(run(&input, &sizes), run(&input, &[input.len().max(1)]));
    }

    #[test]
    fn a_damaged_session_never_panics_and_ends_the_same_in_pieces_of_any_size(
        digests in any_digests(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        sizes in prop::collection::vec(1..300_usize, 1..20),
    ) {
        let mut bytes = session_with(digests);
        for (index, value) in damage {
            let index = index.index(bytes.len());
            bytes[index] = value;
        }
        prop_assert_eq!(run(&bytes, &sizes), run(&bytes, &[bytes.len()]));
    }

    #[test]
    fn random_headers_of_known_types_never_panic_and_end_the_same_in_pieces_of_any_size(
        digests in any_digests(),
        headers in prop::collection::vec(
            (
                prop::sample::select(vec![0_u8, 2, 4, 6]),
                0..8_u8,
                prop::sample::select(vec![0_u8, 24, 28, 72, 76, 128]),
                0..600_u32,
                prop::collection::vec(prop_oneof![Just(0_u8), Just(1), Just(0x40), Just(0x5a), any::<u8>()], 64),
            ),
            1..10,
        ),
        sizes in prop::collection::vec(1..200_usize, 1..10),
    ) {
        let mut bytes = session_with(digests);
        for (pdu_type, flags, pdo, extra, fields) in headers {
            let hlen = PduType(pdu_type).header_length().unwrap();
            let mut header = vec![pdu_type, flags, hlen, pdo];
            header.extend((u32::from(hlen) + extra).to_le_bytes());
            header.extend(fields.iter().cycle().take(usize::from(hlen) - 8));
            // A right one, so that what else is wrong is looked at.
            let digest = match PduType(pdu_type) {
                PduType::CAPSULE_CMD | PduType::H2C_DATA if digests.contains(DigestFlags::HEADER) => {
                    crc32c::crc32c(&header).to_le_bytes().to_vec()
                }
                _ => Vec::new(),
            };
            bytes.extend(header);
            bytes.extend(&digest);
            bytes.extend(fields.iter().cycle().take((extra as usize).saturating_sub(digest.len())));
        }
        prop_assert_eq!(run(&bytes, &sizes), run(&bytes, &[bytes.len()]));
    }
}
