//! ICReq, the states of a connection, and term requests.

use super::*;
use crate::pdu::{IcResp, MAX_HEADER};

#[test]
fn icresp_has_cpda_0_no_digests_and_a_maxh2cdata_that_hosts_accept() {
    for (max_h2c_data, answered) in [(0, 4096), (4097, 4096), (8191, 8188), (u32::MAX, u32::MAX - 3)] {
        let mut harness = Harness::with_config(Config { max_h2c_data, ..CONFIG });
        assert_eq!(harness.feed(&icreq(3)), Ok(vec![Event::Initialized]));
        let response = IcResp::read_from_bytes(&harness.out).unwrap();
        assert_eq!(response.as_bytes()[..8], [1, 0, 128, 0, 128, 0, 0, 0]);
        assert_eq!((response.pfv.get(), response.cpda, response.dgst), (0, 0, 0));
        assert_eq!(response.maxh2cdata.get(), answered);
        assert_eq!(response.reserved, [0; 112]);
        assert!(harness.connection.is_initialized());
        assert!(!harness.connection.is_established());
    }
}

#[test]
fn icreq_with_a_field_out_of_range_is_answered_with_the_offset_of_that_field() {
    for (byte, value, answer) in [
        (2, 24, (1, 2)),   // HLEN
        (4, 129, (1, 4)),  // PLEN
        (7, 1, (1, 4)),    // PLEN
        (8, 1, (1, 8)),    // PFV
        (9, 1, (1, 8)),    // PFV
        (10, 32, (1, 10)), // HPDA
        (10, 255, (1, 10)),
    ] {
        let mut bytes = icreq(0);
        bytes[byte] = value;
        assert_eq!(Harness::new().fatal(&bytes), answer, "byte {byte}");
    }
}

#[test]
fn icreq_asks_for_any_alignment_up_to_128_bytes() {
    for hpda in 0..=31 {
        assert_eq!(Harness::new().feed(&icreq(hpda)), Ok(vec![Event::Initialized]));
    }
}

#[test]
fn a_second_icreq_and_anything_before_the_first_is_a_sequence_error() {
    assert_eq!(Harness::initialized(0).fatal(&icreq(0)), (2, 0));
    assert_eq!(Harness::connected(1, true).fatal(&icreq(0)), (2, 0));
    assert_eq!(Harness::new().fatal(&capsule(connect_entry(), &[0; 1024])), (2, 0));
    assert_eq!(Harness::new().fatal(&h2c_data(0, 0, 0, &[0; 8], true)), (2, 0));
}

#[test]
fn a_pdu_type_that_hosts_do_not_send_is_an_invalid_field_in_every_state() {
    for state in [Harness::new, || Harness::initialized(0), || Harness::connected(0, true)] {
        for pdu_type in 0..=255 {
            if !matches!(pdu_type, 0x00 | 0x02 | 0x04 | 0x06) {
                let mut bytes = [0; MAX_HEADER];
                bytes[..8].copy_from_slice(&[pdu_type, 0, 24, 0, 24, 0, 0, 0]);
                assert_eq!(state().fatal(&bytes), (1, 0), "type {pdu_type:02x}");
            }
        }
    }
}

#[test]
fn hlen_is_that_of_the_type_in_every_pdu() {
    for hlen in (0..=255).filter(|hlen| *hlen != 72) {
        let mut bytes = capsule(connect_entry(), &[0; 1024]);
        bytes[2] = hlen;
        assert_eq!(Harness::initialized(0).fatal(&bytes), (1, 2));
    }
    for hlen in (0..=255).filter(|hlen| *hlen != 24) {
        let mut bytes = h2c_data(0, 0, 0, &[0; 8], true);
        bytes[2] = hlen;
        assert_eq!(Harness::initialized(0).fatal(&bytes), (1, 2));
    }
}

#[test]
fn the_term_request_names_the_pdu_that_the_host_sent() {
    let mut harness = Harness::initialized(0);
    let mut bytes = h2c_data(9, 3, 0, &[0; 8], true);
    bytes[16] = 7;
    harness.fatal(&bytes);
    assert_eq!(harness.out[24..], bytes[..24]);
}

#[test]
fn a_term_request_of_the_host_ends_the_connection_in_any_state() {
    let header = capsule(connect_entry(), &[]);
    let mut term = Vec::new();
    Fatal::field(10, &header).write(PduType::H2C_TERM, &mut term);
    for mut harness in [Harness::new(), Harness::initialized(0), Harness::connected(1, false)] {
        harness.out.clear();
        let events = harness.feed(&term).unwrap();
        let fes = FatalErrorStatus::INVALID_PDU_HEADER_FIELD;
        assert_eq!(events, [Event::HostTerminated { fes, fei: 10 }]);
        assert_eq!(harness.connection.want(), Want::Nothing);
        assert!(harness.out.is_empty());
    }
}

#[test]
fn a_term_request_of_the_host_is_checked_too() {
    let mut term = Vec::new();
    Fatal::sequence(&[0; 24]).write(PduType::H2C_TERM, &mut term);
    for (byte, value, answer) in [(2, 128, (1, 2)), (4, 23, (1, 4)), (4, 153, (1, 4)), (6, 1, (1, 4))] {
        let mut bytes = term.clone();
        bytes[byte] = value;
        assert_eq!(Harness::new().fatal(&bytes), answer, "byte {byte}");
    }
}

#[test]
fn a_header_split_at_any_byte_is_put_together() {
    // ICReq as the Linux host sends it: everything 0 but the lengths.
    let mut linux = [0; 128];
    linux[2] = 128;
    linux[4] = 128;
    for split in 1..128 {
        let mut harness = Harness::new();
        assert_eq!(harness.feed(&linux[..split]), Ok(vec![]));
        let at_least = if split < 8 { 8 - split } else { 128 - split };
        assert_eq!(harness.connection.want(), Want::Header { at_most: 128 - split, at_least });
        assert_eq!(harness.feed(&linux[split..]), Ok(vec![Event::Initialized]));
    }
}
