//! Packets that nobody in their right mind sends: from inside, behind a peer that is who it says.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    task::{Context, Waker},
};

use gotatun::packet::Packet;
use proptest::{collection::vec, prelude::*};
use smoltcp::{
    phy::ChecksumCapabilities,
    wire::{IpProtocol, Ipv4Packet, Ipv4Repr, TcpPacket, TcpSeqNumber},
};

use super::{
    super::{
        lane::{Lane, Phase},
        routing::Routing,
        stack::Stack,
    },
    ends,
    peer::{GATEWAY, datagram_packet, host_unreachable},
};

const SERVER: Ipv4Addr = Ipv4Addr::new(10, 20, 0, 5);
const SERVER_PORT: u16 = 443;

/// What happens to a stream, from either side.
#[derive(Clone, Debug)]
enum Event {
    /// A segment: flags, distance of its number from what is expected, distance of what it
    /// acknowledges from what was sent, window, options and payload.
    Segment(u8, i32, i32, u16, Vec<u8>, usize),
    Write(usize),
    Read(usize),
    Close,
    Unreachable,
}

fn event() -> impl Strategy<Value = Event> {
    let near = prop_oneof![4 => Just(0), 4 => -3000..3000_i32, 1 => any::<i32>()];
    // mostly ACK
    let flags = prop_oneof![3 => Just(0x10_u8), 1 => Just(0x11), 1 => Just(0x12), 2 => 0..64_u8];
    let options = prop_oneof![
        3 => Just(Vec::new()),
        1 => vec(any::<u8>(), 0..40),
        1 => Just(vec![2, 4, 0, 0]), // the smallest segment size there is
        1 => (any::<u32>(), any::<u32>()).prop_map(|(left, right)| {
            [&[1, 1, 5, 10][..], &left.to_be_bytes(), &right.to_be_bytes()].concat()
        }),
    ];
    let segment = (flags, near.clone(), near, any::<u16>(), options, 0..1460_usize);
    prop_oneof![
        8 => segment.prop_map(|(flags, number, ack, window, options, length)| {
            Event::Segment(flags, number, ack, window, options, length)
        }),
        2 => (1..100_000_usize).prop_map(Event::Write),
        2 => (1..100_000_usize).prop_map(Event::Read),
        1 => Just(Event::Close),
        1 => Just(Event::Unreachable),
    ]
}

/// A stream that is being opened, or stands, and what the other side knows of it.
struct Scene {
    stack: Stack,
    lane: Arc<Lane>,
    port: u16,
    /// Our next number, as far as the other side saw.
    sent: u32,
    /// The other side's next number.
    expected: u32,
}

impl Scene {
    fn new() -> Self {
        let mut stack = Stack::new(Arc::new(Routing::new(&ends().gateway)), 1420);
        let lane = Arc::new(Lane::new(GATEWAY.into(), SocketAddr::from((SERVER, SERVER_PORT))));
        stack.look_at(&lane);
        stack.send();
        let made: Vec<_> = stack.made().collect();
        let [syn] = made.as_slice() else { panic!("{} packets", made.len()) };
        let segment = TcpPacket::new_checked(&syn[20..]).unwrap();
        assert!(segment.syn());
        let (port, sent) = (segment.src_port(), segment.seq_number().0.cast_unsigned());
        Self { stack, lane, port, sent: sent.wrapping_add(1), expected: 7 }
    }

    fn segment(&self, event: &Event) -> Option<Vec<u8>> {
        let Event::Segment(flags, number, ack, window, options, length) = event else {
            return None;
        };
        let written = &options[..options.len().min(40)];
        let header = 20 + written.len().next_multiple_of(4);
        let ip = Ipv4Repr {
            src_addr: SERVER,
            dst_addr: GATEWAY,
            next_header: IpProtocol::Tcp,
            payload_len: header + length,
            hop_limit: 64,
        };
        let mut packet = vec![0; 20 + header + length];
        ip.emit(&mut Ipv4Packet::new_unchecked(&mut packet), &ChecksumCapabilities::default());
        packet[40..40 + written.len()].copy_from_slice(written);
        let mut segment = TcpPacket::new_unchecked(&mut packet[20..]);
        let at = |from: u32, distance: i32| TcpSeqNumber(from.cast_signed().wrapping_add(distance));
        segment.set_src_port(SERVER_PORT);
        segment.set_dst_port(self.port);
        segment.set_seq_number(at(self.expected, *number));
        segment.set_ack_number(at(self.sent, *ack));
        segment.set_window_len(*window);
        segment.set_header_len(u8::try_from(header).unwrap());
        packet[20 + 13] = *flags;
        TcpPacket::new_unchecked(&mut packet[20..]).fill_checksum(&SERVER.into(), &GATEWAY.into());
        Some(packet)
    }

    /// Takes in what happens, and sends what there is to send.
    fn take(&mut self, event: &Event) {
        let cx = Context::from_waker(Waker::noop());
        if let Some(segment) = self.segment(event) {
            self.stack.receive(Packet::copy_from(&segment[..]));
        }
        match event {
            Event::Segment(..) => {}
            Event::Write(length) => {
                let _full = self.lane.lock().unwrap().poll_write(&cx, &vec![1; *length]);
            }
            Event::Read(length) => {
                let _empty = self.lane.lock().unwrap().poll_read(&cx, &mut vec![0; *length]);
            }
            Event::Close => self.lane.lock().unwrap().socket().close(),
            Event::Unreachable => {
                let mut sent = datagram_packet(
                    GATEWAY,
                    self.port,
                    SocketAddr::new(IpAddr::V4(SERVER), SERVER_PORT),
                    b"",
                );
                sent[9] = 6;
                self.stack.receive(Packet::copy_from(&host_unreachable(&sent)[..]));
            }
        }
        self.stack.look_at(&self.lane);
        self.stack.send();
        for packet in self.stack.made() {
            let segment = TcpPacket::new_checked(&packet[20..]).unwrap();
            let end = segment.seq_number() + segment.segment_len();
            self.sent = end.0.cast_unsigned();
        }
    }
}

proptest! {
    #[test]
    fn no_segment_from_inside_panics(opened in any::<bool>(), events in vec(event(), 1..60)) {
        let mut scene = Scene::new();
        if opened {
            scene.take(&Event::Segment(0x12, 0, 0, 60_000, vec![2, 4, 5, 100, 3, 3, 7, 0], 0));
            scene.expected = scene.expected.wrapping_add(1);
            prop_assert!(matches!(scene.lane.lock().unwrap().phase, Phase::Open(_)));
        }
        for event in &events {
            scene.take(event);
        }
    }

    #[test]
    fn whatever_comes_out_of_the_tunnel_is_admitted_only_from_inside(
        bytes in vec(any::<u8>(), 0..120),
        version in prop_oneof![Just(4_u8), Just(6), 0..16_u8],
        flips in vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
    ) {
        let routing = Routing::new(&ends().gateway);
        let mut wild = bytes;
        if let Some(first) = wild.first_mut() {
            *first = *first & 0x0f | version << 4;
        }
        let gateway = SocketAddr::new(GATEWAY.into(), 40_000);
        let good = datagram_packet(SERVER, 53, gateway, b"an answer");
        let quoted = datagram_packet(GATEWAY, 40_000, SocketAddr::from((SERVER, 443)), b"");
        for mut packet in [wild, good, host_unreachable(&quoted)] {
            for (at, flip) in &flips {
                if !packet.is_empty() {
                    let at = at.index(packet.len());
                    packet[at] ^= flip;
                }
            }
            let admitted = routing.admit(&packet).is_some();
            let inside = packet.get(12..14) == Some(&[10, 20])
                || packet.get(8..16) == Some(&[0xfd, 0x20, 0, 0, 0, 0, 0, 0]);
            prop_assert!(inside || !admitted);
        }
    }
}
