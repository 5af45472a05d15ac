//! What is on the way, and what of it does not arrive.

use std::{net::Ipv4Addr, time::Duration};

use smoltcp::{
    phy::ChecksumCapabilities,
    wire::{IpProtocol, Ipv4Packet, Ipv4Repr, TcpControl, TcpPacket, TcpRepr, TcpSeqNumber},
};

use super::super::flight::{Flight, Heard, bare};

const OWN: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 2);
const OTHER: Ipv4Addr = Ipv4Addr::new(10, 20, 0, 5);
/// Bytes of each segment.
const SIZE: u32 = 1000;
const NOTHING: [u32; 0] = [];
/// The first number: the numbers begin anew among the segments.
const FIRST: u32 = 0u32.wrapping_sub(3 * SIZE);

fn packet(from: Ipv4Addr, to: Ipv4Addr, segment: &TcpRepr<'_>) -> Vec<u8> {
    let ip = Ipv4Repr {
        src_addr: from,
        dst_addr: to,
        next_header: IpProtocol::Tcp,
        payload_len: segment.buffer_len(),
        hop_limit: 64,
    };
    let mut packet = vec![0; 20 + segment.buffer_len()];
    let checksums = ChecksumCapabilities::default();
    ip.emit(&mut Ipv4Packet::new_unchecked(&mut packet), &checksums);
    let mut inside = TcpPacket::new_unchecked(&mut packet[20..]);
    segment.emit(&mut inside, &from.into(), &to.into(), &checksums);
    packet
}

fn repr(start: u32, ack: u32, payload: &[u8]) -> TcpRepr<'_> {
    TcpRepr {
        src_port: 1,
        dst_port: 2,
        control: TcpControl::None,
        seq_number: TcpSeqNumber(start.cast_signed()),
        ack_number: Some(TcpSeqNumber(ack.cast_signed())),
        window_len: 500,
        window_scale: None,
        max_seg_size: None,
        sack_permitted: false,
        sack_ranges: [None; 3],
        timestamp: None,
        payload,
    }
}

/// Where the segment with this number begins.
fn start(index: u32) -> u32 {
    FIRST.wrapping_add(index * SIZE)
}

fn data(index: u32) -> Vec<u8> {
    packet(OWN, OTHER, &repr(start(index), 7, &[b'x'; SIZE as usize]))
}

/// The other side has everything before one segment, and these beyond.
fn answer(before: u32, beyond: &[(u32, u32)]) -> Vec<u8> {
    let mut ranges = [None; 3];
    for (range, (left, right)) in ranges.iter_mut().zip(beyond) {
        *range = Some((start(*left), start(*right)));
    }
    packet(OTHER, OWN, &TcpRepr { sack_ranges: ranges, ..repr(7, start(before), b"") })
}

fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

/// Segments that were sent at once.
fn flight(count: u32) -> Flight {
    let mut flight = Flight::default();
    for index in 0..count {
        flight.note(&data(index), ms(0));
    }
    flight
}

/// Which segments are resent now.
fn resent(flight: &mut Flight, now: Duration) -> Vec<u32> {
    std::iter::from_fn(|| flight.resend(now))
        .map(|packet| {
            let segment = TcpPacket::new_checked(&packet[20..]).unwrap();
            assert!(segment.verify_checksum(&OWN.into(), &OTHER.into()));
            assert_eq!(segment.payload().len(), SIZE as usize);
            segment.seq_number().0.cast_unsigned().wrapping_sub(FIRST) / SIZE
        })
        .collect()
}

#[test]
fn what_was_overtaken_is_resent_as_fast_as_the_rest_arrives() {
    let mut flight = flight(20);
    assert_eq!(flight.hear(&answer(2, &[]), ms(10)), Heard::News);
    // 2, 4, 5 and 8 are missing
    assert_eq!(flight.hear(&answer(2, &[(3, 4)]), ms(10)), Heard::Repeat);
    assert_eq!(resent(&mut flight, ms(10)), NOTHING, "it may come late");
    assert_eq!(flight.hear(&answer(2, &[(6, 8), (3, 4)]), ms(10)), Heard::Loss);
    assert_eq!(resent(&mut flight, ms(10)), [2, 4], "two have arrived, two may follow");
    assert_eq!(flight.hear(&answer(2, &[(9, 12), (6, 8), (3, 4)]), ms(10)), Heard::Repeat);
    assert_eq!(resent(&mut flight, ms(10)), [5, 8], "each once");
    // a resent one is lost again: those sent after it arrive
    assert_eq!(flight.hear(&answer(4, &[(12, 20), (9, 12), (5, 8)]), ms(20)), Heard::News);
    assert_eq!(resent(&mut flight, ms(20)), NOTHING);
    assert_eq!(flight.hear(&answer(4, &[(5, 20)]), ms(22)), Heard::Repeat);
    assert_eq!(resent(&mut flight, ms(22)), NOTHING);
}

#[test]
fn a_resent_segment_that_is_lost_too_is_resent_once_more() {
    let mut flight = flight(9);
    flight.hear(&answer(0, &[]), ms(10));
    assert_eq!(flight.hear(&answer(0, &[(1, 9)]), ms(10)), Heard::Loss);
    assert_eq!(resent(&mut flight, ms(10)), [0]);
    for index in 9..12 {
        flight.note(&data(index), ms(11));
    }
    flight.hear(&answer(0, &[(1, 11)]), ms(20));
    assert_eq!(resent(&mut flight, ms(20)), NOTHING);
    flight.hear(&answer(0, &[(1, 12)]), ms(20));
    assert_eq!(resent(&mut flight, ms(20)), [0]);
}

#[test]
fn what_smoltcp_resends_itself_is_not_resent_here() {
    let mut flight = flight(6);
    assert_eq!(flight.hear(&answer(1, &[(2, 6)]), ms(10)), Heard::Loss);
    flight.note(&data(1), ms(10));
    assert_eq!(resent(&mut flight, ms(10)), NOTHING);
}

#[test]
fn a_new_loss_is_told_when_the_first_is_made_good() {
    let mut flight = flight(6);
    assert_eq!(flight.hear(&answer(0, &[(1, 4)]), ms(10)), Heard::Loss);
    assert_eq!(resent(&mut flight, ms(10)), [0]);
    for index in 6..12 {
        flight.note(&data(index), ms(12));
    }
    assert_eq!(flight.hear(&answer(6, &[]), ms(20)), Heard::News);
    assert_eq!(flight.hear(&answer(6, &[(7, 12)]), ms(25)), Heard::Loss);
    assert_eq!(flight.hear(&answer(12, &[]), ms(30)), Heard::News);
    assert_eq!(flight.due(), None, "nothing is on the way");
}

#[test]
fn when_nothing_is_heard_the_last_segment_is_sent_again_with_growing_pauses() {
    let mut flight = flight(4);
    assert_eq!(flight.due(), None, "nobody knows how long an answer takes");
    flight.hear(&answer(1, &[]), ms(20));
    let mut last = ms(20);
    for pause in [40, 80, 160, 320, 640] {
        let due = flight.due().unwrap();
        assert_eq!(due, last + ms(pause));
        assert_eq!(resent(&mut flight, last + ms(pause - 1)), NOTHING);
        assert_eq!(resent(&mut flight, due), [3]);
        last = due;
    }
    assert_eq!(flight.due(), None, "it is smoltcp's turn");
    // the answer tells what is missing
    assert_eq!(flight.hear(&answer(1, &[(3, 4)]), last), Heard::Loss);
    assert_eq!(resent(&mut flight, last), [1]);
}

#[test]
fn nothing_is_believed_of_segments_that_are_damaged_or_impossible() {
    let mut flight = flight(6);
    let mut damaged = answer(0, &[(1, 6)]);
    damaged[20 + 24] ^= 1;
    assert_eq!(flight.hear(&damaged, ms(10)), Heard::News);
    assert_eq!(flight.hear(&answer(9, &[]), ms(10)), Heard::News);
    assert_eq!(flight.hear(&answer(0, &[(1, 6)]), ms(10)), Heard::Loss, "nothing had arrived");
}

#[test]
fn no_more_than_some_segments_are_kept() {
    let mut flight = flight(2000);
    assert_eq!(flight.hear(&answer(0, &[(600, 2000)]), ms(10)), Heard::News);
    assert_eq!(flight.hear(&answer(512, &[]), ms(10)), Heard::News);
    assert_eq!(flight.due(), None);
}

#[test]
fn an_acknowledgement_is_taken_out_of_a_segment_with_bytes() {
    let ranges = [Some((start(1), start(2))), None, None];
    let whole = packet(OTHER, OWN, &TcpRepr { sack_ranges: ranges, ..repr(7, start(0), b"bytes") });
    let bare = bare(&whole).unwrap();
    let ip = Ipv4Packet::new_checked(&bare[..]).unwrap();
    assert!(ip.verify_checksum());
    let segment = TcpPacket::new_checked(ip.payload()).unwrap();
    assert!(segment.verify_checksum(&OTHER.into(), &OWN.into()));
    assert_eq!(segment.payload(), b"");
    assert_eq!(segment.seq_number(), TcpSeqNumber(12));
    assert_eq!(segment.ack_number(), TcpSeqNumber(start(0).cast_signed()));
    assert_eq!(segment.window_len(), 500);
}
