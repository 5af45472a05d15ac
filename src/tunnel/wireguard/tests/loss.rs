//! What is on the way, and what of it does not arrive.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    task::{Context, Waker},
    time::Duration,
};

use gotatun::packet::Packet;

use smoltcp::{
    phy::ChecksumCapabilities,
    wire::{IpProtocol, Ipv4Packet, Ipv4Repr, TcpControl, TcpPacket, TcpRepr, TcpSeqNumber},
};

use super::{
    super::{flight::Flight, lane::Lane, routing::Routing, stack::Stack},
    ends,
};

/// What smoltcp is brought.
#[derive(Debug, PartialEq)]
enum Heard {
    News,
    Repeat,
    Loss,
}

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

fn hear(flight: &mut Flight, packet: &[u8], now: Duration) -> Heard {
    let brought = flight.hear(packet, now);
    let repeats = flight.loss();
    if !repeats.is_empty() {
        assert_eq!(repeats.len(), 3);
        return Heard::Loss;
    }
    if brought.is_none() { Heard::Repeat } else { Heard::News }
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
    assert_eq!(hear(&mut flight, &answer(2, &[]), ms(10)), Heard::News);
    // 2, 4, 5 and 8 are missing
    assert_eq!(hear(&mut flight, &answer(2, &[(3, 4)]), ms(10)), Heard::Repeat);
    assert_eq!(resent(&mut flight, ms(10)), NOTHING, "it may come late");
    assert_eq!(hear(&mut flight, &answer(2, &[(6, 8), (3, 4)]), ms(10)), Heard::Loss);
    assert_eq!(resent(&mut flight, ms(10)), [2, 4], "two have arrived, two may follow");
    assert_eq!(hear(&mut flight, &answer(2, &[(9, 12), (6, 8), (3, 4)]), ms(10)), Heard::Repeat);
    assert_eq!(resent(&mut flight, ms(10)), [5, 8], "each once");
    // a resent one is lost again: those sent after it arrive
    assert_eq!(hear(&mut flight, &answer(4, &[(12, 20), (9, 12), (5, 8)]), ms(20)), Heard::News);
    assert_eq!(resent(&mut flight, ms(20)), NOTHING);
    assert_eq!(hear(&mut flight, &answer(4, &[(5, 20)]), ms(22)), Heard::Repeat);
    assert_eq!(resent(&mut flight, ms(22)), NOTHING);
}

#[test]
fn a_resent_segment_that_is_lost_too_is_resent_once_more() {
    let mut flight = flight(9);
    hear(&mut flight, &answer(0, &[]), ms(10));
    assert_eq!(hear(&mut flight, &answer(0, &[(1, 9)]), ms(10)), Heard::Loss);
    assert_eq!(resent(&mut flight, ms(10)), [0]);
    for index in 9..12 {
        flight.note(&data(index), ms(11));
    }
    hear(&mut flight, &answer(0, &[(1, 11)]), ms(20));
    assert_eq!(resent(&mut flight, ms(20)), NOTHING);
    hear(&mut flight, &answer(0, &[(1, 12)]), ms(20));
    assert_eq!(resent(&mut flight, ms(20)), [0]);
}

#[test]
fn what_smoltcp_resends_itself_is_not_resent_here() {
    let mut flight = flight(6);
    assert_eq!(hear(&mut flight, &answer(1, &[(2, 6)]), ms(10)), Heard::Loss);
    flight.note(&data(1), ms(10));
    assert_eq!(resent(&mut flight, ms(10)), NOTHING);
}

#[test]
fn a_new_loss_is_told_when_the_first_is_made_good() {
    let mut flight = flight(6);
    assert_eq!(hear(&mut flight, &answer(0, &[(1, 4)]), ms(10)), Heard::Loss);
    assert_eq!(resent(&mut flight, ms(10)), [0]);
    for index in 6..12 {
        flight.note(&data(index), ms(12));
    }
    assert_eq!(hear(&mut flight, &answer(6, &[]), ms(20)), Heard::News);
    assert_eq!(hear(&mut flight, &answer(6, &[(7, 12)]), ms(25)), Heard::Loss);
    assert_eq!(hear(&mut flight, &answer(12, &[]), ms(30)), Heard::News);
    assert_eq!(flight.due(), None, "nothing is on the way");
}

#[test]
fn when_nothing_is_heard_the_last_segment_is_sent_again_with_growing_pauses() {
    let mut flight = flight(4);
    assert_eq!(flight.due(), None, "nobody knows how long an answer takes");
    hear(&mut flight, &answer(1, &[]), ms(20));
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
    assert_eq!(hear(&mut flight, &answer(1, &[(3, 4)]), last), Heard::Loss);
    assert_eq!(resent(&mut flight, last), [1]);
}

#[test]
fn nothing_is_believed_of_segments_that_are_damaged_or_impossible() {
    let mut flight = flight(6);
    let mut damaged = answer(0, &[(1, 6)]);
    damaged[20 + 24] ^= 1;
    assert_eq!(hear(&mut flight, &damaged, ms(10)), Heard::News);
    assert_eq!(hear(&mut flight, &answer(9, &[]), ms(10)), Heard::News);
    assert_eq!(
        hear(&mut flight, &answer(0, &[(1, 6)]), ms(10)),
        Heard::Loss,
        "nothing had arrived"
    );
}

#[test]
fn no_more_than_some_segments_are_kept() {
    let mut flight = flight(2000);
    assert_eq!(hear(&mut flight, &answer(0, &[(600, 2000)]), ms(10)), Heard::News);
    assert_eq!(hear(&mut flight, &answer(512, &[]), ms(10)), Heard::News);
    assert_eq!(flight.due(), None);
}

#[test]
fn an_acknowledgement_is_taken_out_of_a_segment_with_bytes() {
    let ranges = [Some((start(1), start(6))), None, None];
    let whole = packet(OTHER, OWN, &TcpRepr { sack_ranges: ranges, ..repr(7, start(0), b"bytes") });
    let mut flight = flight(6);
    flight.hear(&answer(0, &[(1, 2)]), ms(10));
    flight.hear(&whole, ms(10));
    let repeats = flight.loss();
    let [bare, ..] = repeats.as_slice() else { panic!("no loss was seen") };
    let ip = Ipv4Packet::new_checked(&bare[..]).unwrap();
    assert!(ip.verify_checksum());
    let segment = TcpPacket::new_checked(ip.payload()).unwrap();
    assert!(segment.verify_checksum(&OTHER.into(), &OWN.into()));
    assert_eq!(segment.payload(), b"");
    assert_eq!(segment.seq_number(), TcpSeqNumber(12));
    assert_eq!(segment.ack_number(), TcpSeqNumber(start(0).cast_signed()));
    assert_eq!(segment.window_len(), 500);
}

#[test]
fn what_is_left_of_a_segment_is_not_resent_here() {
    let mut flight = flight(3);
    hear(&mut flight, &answer(1, &[]), ms(10));
    let most = packet(OTHER, OWN, &repr(7, start(3).wrapping_sub(1), b""));
    assert_eq!(hear(&mut flight, &most, ms(10)), Heard::News);
    assert_eq!(flight.due(), None);
}

#[test]
fn smoltcp_is_brought_an_acknowledgement_for_each_segment() {
    let mut flight = flight(4);
    let brought = flight.hear(&answer(3, &[]), ms(10)).unwrap();
    let acks = brought.iter().map(|packet| {
        let segment = TcpPacket::new_checked(&packet[20..]).unwrap();
        assert!(segment.verify_checksum(&OTHER.into(), &OWN.into()));
        assert_eq!(segment.window_len(), 500);
        segment.ack_number().0.cast_unsigned()
    });
    assert_eq!(acks.collect::<Vec<_>>(), [start(1), start(2)], "before its own");
}

#[test]
fn a_stream_resends_all_that_is_missing_without_a_pause() {
    let mut stack = Stack::new(Arc::new(Routing::new(&ends().gateway)), 1420);
    let lane = Arc::new(Lane::new(OWN.into(), SocketAddr::from((OTHER, 2))));
    let sent = |stack: &mut Stack| -> Vec<(u16, u32, u32)> {
        stack.look_at(&lane);
        stack.send();
        let numbers = stack.made().map(|packet| {
            let segment = TcpPacket::new_checked(&packet[20..]).unwrap();
            let start = segment.seq_number();
            let end = start + segment.segment_len();
            (segment.src_port(), start.0.cast_unsigned(), end.0.cast_unsigned())
        });
        numbers.collect()
    };
    let syn = sent(&mut stack);
    let [(port, _, begin)] = *syn else { panic!("{syn:?}") };
    let answer = |stack: &mut Stack, answer: TcpRepr<'_>| {
        let answer = TcpRepr { src_port: 2, dst_port: port, window_len: 60_000, ..answer };
        assert!(stack.receive(Packet::copy_from(&packet(OTHER, OWN, &answer)[..])));
    };
    let synack = TcpRepr {
        control: TcpControl::Syn,
        max_seg_size: Some(1000),
        window_scale: Some(2),
        sack_permitted: true,
        ..repr(7, begin, b"")
    };
    answer(&mut stack, synack);
    let cx = Context::from_waker(Waker::noop());
    assert!(lane.lock().unwrap().poll_write(&cx, &vec![b'x'; 100_000]).is_ready());
    let mut way = sent(&mut stack);
    while way.len() < 10 {
        let (.., end) = *way.last().expect("the window grows");
        answer(&mut stack, repr(8, end, b""));
        way = sent(&mut stack);
    }
    // the first, the fourth and the sixth are lost
    let lost = [way[0], way[3], way[5]];
    let (.., end) = *way.last().unwrap();
    let ranges = [Some((way[1].1, way[2].2)), Some((way[4].1, way[4].2)), Some((way[6].1, end))];
    answer(&mut stack, TcpRepr { sack_ranges: ranges, ..repr(8, way[0].1, b"") });
    let again = sent(&mut stack);
    assert!(lost.iter().all(|one| again.contains(one)), "{lost:?} {again:?}");
    let twice = again.iter().filter(|one| way.contains(one)).count();
    assert_eq!(twice, lost.len(), "and nothing else");
}
