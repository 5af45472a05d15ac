//! Behaviours of a tunnel, over sockets on loopback, towards a second instance of the library.

mod damage;
mod loss;
mod peer;

use std::{
    future::ready,
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use nix::sys::socket::{setsockopt, sockopt::UdpGsoSegment};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    PeerAddress, PrivateKey, Settings, WireGuard,
    routing::{Inside, Routing},
};
use crate::{dial::EgressAddresses, secret::Secret, tunnel::TunnelError};
use peer::{
    AFTERWARDS, ECHO, GATEWAY, GREETING, MACHINE, NO_WAY, Pair, Peer, SILENT, STALLED,
    VERDICT_BYTES, datagram_packet, host_unreachable, settings,
};

/// How long a test waits for what has to come.
const PATIENCE: Duration = Duration::from_secs(20);

/// Keys and settings of both ends, before anything runs.
struct Ends {
    gateway: Settings,
    peer: Settings,
}

fn ends() -> Ends {
    let (own, other) = (Pair::new(), Pair::new());
    Ends {
        gateway: settings(
            &own,
            &other,
            &["10.9.0.2/24", "fd09::2/64"],
            &["10.20.0.0/16", "fd20::/64"],
        ),
        peer: settings(&other, &own, &["10.9.0.1/24"], &["10.9.0.2/32", "fd09::2/128"]),
    }
}

fn egress() -> EgressAddresses {
    EgressAddresses { v4: Some(Ipv4Addr::LOCALHOST), v6: None }
}

fn at(address: SocketAddr) -> PeerAddress {
    Arc::new(move || Box::pin(ready(Ok(address))))
}

struct Run {
    tunnel: Arc<WireGuard>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

fn run(settings: &Settings, peer: PeerAddress, limit: Duration) -> Run {
    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
    let tunnel = WireGuard::start(settings, egress(), peer, limit, &tasks, &stop).unwrap();
    Run { tunnel, tasks, stop }
}

/// Both ends, running.
fn both(ends: &Ends) -> (Peer, Run) {
    let peer = Peer::start(&ends.peer);
    let run = run(&ends.gateway, at(peer.address), PATIENCE);
    (peer, run)
}

fn machine(port: u16) -> SocketAddr {
    SocketAddr::new(MACHINE, port)
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let wait = async {
        while !condition() {
            sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(timeout(PATIENCE, wait).await.is_ok(), "{what} did not come about");
}

/// Bytes that differ from place to place.
fn pattern(length: usize, seed: usize) -> Vec<u8> {
    let byte = |index: usize| u8::try_from((index.wrapping_mul(31) ^ (index >> 8) ^ seed) & 0xff);
    (0..length).map(|index| byte(index).unwrap()).collect()
}

/// Sends and reads back at the same time.
async fn echoed(tunnel: &WireGuard, to: SocketAddr, data: &[u8]) {
    let mut stream = timeout(PATIENCE, tunnel.open(to)).await.unwrap().unwrap();
    let (mut reader, mut writer) = tokio::io::split(&mut stream);
    let send = async {
        writer.write_all(data).await.unwrap();
        writer.shutdown().await.unwrap();
    };
    let mut back = Vec::new();
    let receive = reader.read_to_end(&mut back);
    let ((), count) = timeout(Duration::from_mins(2), async { tokio::join!(send, receive) })
        .await
        .expect("the bytes come back in time");
    assert_eq!(count.unwrap(), data.len());
    assert!(back == data, "the bytes came back changed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_come_back_whole_over_both_families() {
    let (peer, run) = both(&ends());
    let data = pattern(4 << 20, 0);
    echoed(&run.tunnel, machine(ECHO), &data).await;
    echoed(&run.tunnel, "[fd20::5]:7".parse().unwrap(), &data).await;
    let largest = peer.largest.load(Ordering::Acquire);
    assert!((1400..=1420).contains(&largest), "the largest packet has {largest} bytes");

    let status = run.tunnel.status();
    assert!(status.connected);
    assert_eq!(status.peer, Some(peer.address));
    assert!(status.last_handshake.is_some_and(|age| age < PATIENCE));
    assert!(status.round_trip.is_some_and(|took| took < PATIENCE));
    assert!(status.bytes_sent > 8 << 20 && status.bytes_received > 8 << 20, "{status:?}");
    assert_eq!((status.open_streams, status.fault), (0, None));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn packets_are_no_larger_than_the_mtu() {
    let mut ends = ends();
    ends.gateway.mtu = 1280;
    let (peer, run) = both(&ends);
    echoed(&run.tunnel, machine(ECHO), &pattern(1 << 20, 1)).await;
    let largest = peer.largest.load(Ordering::Acquire);
    assert!((1260..=1280).contains(&largest), "the largest packet has {largest} bytes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_streams_at_once_keep_their_bytes_apart() {
    let (_peer, run) = both(&ends());
    let mut streams = tokio::task::JoinSet::new();
    for seed in 0..200 {
        let tunnel = Arc::clone(&run.tunnel);
        streams.spawn(async move {
            echoed(&tunnel, machine(ECHO), &pattern(64 << 10, seed)).await;
        });
    }
    let mut done = 0;
    while let Some(ended) = streams.join_next().await {
        ended.unwrap();
        done += 1;
    }
    assert_eq!(done, 200);
    assert_eq!(run.tunnel.status().open_streams, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_direction_ends_on_its_own() {
    let (_peer, run) = both(&ends());
    let mut stream = run.tunnel.open(machine(AFTERWARDS)).await.unwrap();
    stream.write_all(&pattern(300_000, 2)).await.unwrap();
    stream.shutdown().await.unwrap();
    assert!(stream.write_all(b"more").await.is_err(), "our direction has ended");
    let mut verdict = Vec::new();
    timeout(PATIENCE, stream.read_to_end(&mut verdict)).await.unwrap().unwrap();
    assert!(verdict == vec![b'v'; VERDICT_BYTES], "{} bytes", verdict.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_came_before_the_end_is_read_however_late() {
    let (_peer, run) = both(&ends());
    let mut stream = run.tunnel.open(machine(AFTERWARDS)).await.unwrap();
    stream.shutdown().await.unwrap();
    // longer than smoltcp keeps what came, ten seconds after both directions have ended
    sleep(Duration::from_secs(12)).await;
    let mut verdict = Vec::new();
    timeout(PATIENCE, stream.read_to_end(&mut verdict)).await.unwrap().unwrap();
    assert_eq!(verdict.len(), VERDICT_BYTES);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_nobody_reads_holds_the_writer_back() {
    let (_peer, run) = both(&ends());
    let mut stream = run.tunnel.open(machine(STALLED)).await.unwrap();
    let chunk = vec![0; 64 << 10];
    let mut taken = 0;
    while let Ok(count) = timeout(Duration::from_millis(500), stream.write(&chunk)).await {
        taken += count.unwrap();
        assert!(taken < 2 << 20, "the windows of both sides bound it");
    }
    assert!(taken >= 256 << 10, "our window alone holds that much, not {taken}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_stream_ends_cleanly_and_one_with_unread_bytes_by_a_reset() {
    let (peer, run) = both(&ends());
    let mut clean = run.tunnel.open(machine(ECHO)).await.unwrap();
    clean.write_all(b"ping").await.unwrap();
    clean.read_exact(&mut [0; 4]).await.unwrap();
    drop(clean);
    until("a clean end", || peer.ends.load(Ordering::Acquire) > 0).await;
    assert_eq!(peer.resets.load(Ordering::Acquire), 0);

    let mut unread = run.tunnel.open(machine(GREETING)).await.unwrap();
    unread.read_exact(&mut [0; 2]).await.unwrap();
    drop(unread);
    until("a reset", || peer.resets.load(Ordering::Acquire) > 0).await;

    let mut reset = run.tunnel.open(machine(ECHO)).await.unwrap();
    let before = (peer.ends.load(Ordering::Acquire), peer.resets.load(Ordering::Acquire));
    reset.reset();
    drop(reset);
    until("a reset", || peer.resets.load(Ordering::Acquire) > before.1).await;
    assert_eq!(peer.ends.load(Ordering::Acquire), before.0, "no clean end");
    assert_eq!(run.tunnel.status().open_streams, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn addresses_outside_allowed_ips_are_denied_before_anything_is_sent() {
    let (peer, run) = both(&ends());
    for to in ["10.21.0.5:7", "10.9.0.2:7", "127.0.0.1:7", "[fd21::5]:7", "[::ffff:10.21.0.5]:7"] {
        let refused = run.tunnel.open(to.parse().unwrap()).await;
        assert!(matches!(refused, Err(TunnelError::Denied(_))), "{to}: {refused:?}");
        let refused = run.tunnel.datagrams(to.parse().unwrap());
        assert!(matches!(refused, Err(TunnelError::Denied(_))), "{to}: {refused:?}");
    }
    assert!(run.tunnel.open("[::ffff:10.20.0.5]:7".parse().unwrap()).await.is_ok());
    let mut ends = ends();
    ends.gateway.addresses.truncate(1);
    let v4_only = self::run(&ends.gateway, at(peer.address), PATIENCE);
    let refused = v4_only.tunnel.open("[fd20::5]:7".parse().unwrap()).await;
    assert!(matches!(refused, Err(TunnelError::Denied(_))), "{refused:?}");
    assert_eq!(v4_only.tunnel.status().bytes_sent, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refusals_and_silence_behind_the_peer_are_told_apart() {
    let ends = ends();
    let peer = Peer::start(&ends.peer);
    let run = run(&ends.gateway, at(peer.address), Duration::from_secs(2));
    let open = async |to| run.tunnel.open(to).await.map(drop).unwrap_err();
    let refused = open(machine(99)).await;
    assert_eq!(refused, TunnelError::BeyondUnreachable("10.20.0.5:99 refuses connections".into()));
    let began = tokio::time::Instant::now();
    let no_way = open(SocketAddr::new(NO_WAY, 7)).await;
    assert!(
        matches!(&no_way, TunnelError::BeyondUnreachable(why) if why.contains("10.20.0.77:7")),
        "{no_way:?}"
    );
    assert!(began.elapsed() < Duration::from_secs(1), "that is known at once");
    // the peer is asked whether it is there, and it is
    let silent = open(SocketAddr::new(SILENT, 7)).await;
    assert_eq!(silent, TunnelError::BeyondUnreachable("10.20.0.66:7 does not answer".into()));
    // it is not any more, and the session that stands says nothing of that
    drop(peer);
    assert_eq!(open(machine(ECHO)).await, TunnelError::Timeout);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_is_silent_or_does_not_know_us_is_unreachable() {
    let ends = ends();
    let short = Duration::from_millis(700);
    let silent = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = silent.local_addr().unwrap();
    let to_silent = run(&ends.gateway, at(address), short);
    let refused = to_silent.tunnel.open(machine(ECHO)).await.unwrap_err();
    let TunnelError::Unreachable(why) = &refused else { panic!("{refused:?}") };
    assert!(why.contains(&address.to_string()), "{why}");
    assert!(!to_silent.tunnel.status().connected);
    let probed = to_silent.tunnel.probe(short).await.unwrap_err();
    assert!(matches!(probed, TunnelError::Unreachable(_)), "{probed:?}");

    // our key is another than the one the peer knows
    let peer = Peer::start(&ends.peer);
    let mut stranger = ends.gateway.clone();
    stranger.private_key = Pair::new().private;
    let strange = run(&stranger, at(peer.address), short);
    let refused = strange.tunnel.open(machine(ECHO)).await.unwrap_err();
    assert!(matches!(refused, TunnelError::Unreachable(_)), "{refused:?}");

    // the peer's key is another than the one we know
    let mut mistaken = ends.gateway.clone();
    mistaken.peer_public_key = Pair::new().public;
    let mistaken = run(&mistaken, at(peer.address), short);
    let refused = mistaken.tunnel.open(machine(ECHO)).await.unwrap_err();
    assert!(matches!(refused, TunnelError::Unreachable(_)), "{refused:?}");
    assert_eq!(peer.packets.load(Ordering::Acquire), 0);

    // and there is nothing wrong with that peer
    let right = run(&ends.gateway, at(peer.address), PATIENCE);
    assert!(right.tunnel.probe(PATIENCE).await.is_ok());
    assert!(right.tunnel.status().connected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_preshared_key_that_does_not_match_is_told_as_that() {
    let mut ends = ends();
    ends.peer.preshared_key = Some(Secret::new(vec![1; 32]));
    for preshared in [None, Some(Secret::new(vec![2; 32]))] {
        let peer = Peer::start(&ends.peer);
        ends.gateway.preshared_key = preshared;
        let run = run(&ends.gateway, at(peer.address), Duration::from_secs(1));
        let refused = run.tunnel.open(machine(ECHO)).await.unwrap_err();
        assert!(matches!(refused, TunnelError::Auth(_)), "{refused:?}");
        let probed = run.tunnel.probe(Duration::from_secs(1)).await.unwrap_err();
        assert!(matches!(probed, TunnelError::Auth(_)), "{probed:?}");
    }
    ends.gateway.preshared_key = Some(Secret::new(vec![1; 32]));
    let (_peer, run) = both(&ends);
    echoed(&run.tunnel, machine(ECHO), b"the same key on both sides").await;
}

#[test]
fn a_key_of_another_length_is_refused_at_the_start() {
    let mut ends = ends();
    ends.gateway.private_key = Secret::new(vec![1; 31]);
    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
    let nowhere = at(machine(1));
    let refused =
        WireGuard::start(&ends.gateway, egress(), nowhere, PATIENCE, &tasks, &stop).unwrap_err();
    assert!(matches!(refused, TunnelError::Auth(_)), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_starts_anew_is_met_again() {
    let mut ends = ends();
    let (peer, run) = both(&ends);
    echoed(&run.tunnel, machine(ECHO), b"before").await;
    let address = peer.address;
    drop(peer);
    // it has forgotten the session, and where we are: who opens a stream finds out
    let peer = Peer::start_at(address, &ends.peer);
    echoed(&run.tunnel, machine(ECHO), b"after").await;
    drop(peer);

    // a stream that is open when it happens fails, and others do not
    let peer = Peer::start_at(address, &ends.peer);
    run.tunnel.probe(PATIENCE).await.unwrap();
    let mut stream = run.tunnel.open(machine(ECHO)).await.unwrap();
    drop(peer);
    ends.peer.keepalive = Some(Duration::from_secs(1));
    let _peer = Peer::start_at(address, &ends.peer);
    run.tunnel.probe(PATIENCE).await.unwrap();
    stream.write_all(b"of a stream that it does not know").await.unwrap();
    let ended = timeout(PATIENCE, stream.read(&mut [0; 1])).await.unwrap();
    assert_eq!(ended.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    echoed(&run.tunnel, machine(ECHO), b"after").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_moves_is_followed() {
    let ends = ends();
    let peer = Peer::start(&ends.peer);
    let bind = async || tokio::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let (old, new, behind) = (bind().await, bind().await, bind().await);
    let run = run(&ends.gateway, at(old.local_addr().unwrap()), PATIENCE);
    // somebody in the middle, whose answers begin to come from another address
    let (to_peer, moved) = (peer.address, new.local_addr().unwrap());
    let relay = async {
        let (mut from_gateway, mut later, mut from_peer) = ([0; 2000], [0; 2000], [0; 2000]);
        let mut gateway = None;
        let mut forwarded = 0;
        loop {
            let by_new = forwarded >= 20;
            tokio::select! {
                // the old address is dead once the new one is in use
                Ok((count, from)) = old.recv_from(&mut from_gateway), if forwarded < 40 => {
                    gateway = Some(from);
                    behind.send_to(&from_gateway[..count], to_peer).await.unwrap();
                }
                Ok((count, _)) = new.recv_from(&mut later) => {
                    behind.send_to(&later[..count], to_peer).await.unwrap();
                }
                Ok((count, _)) = behind.recv_from(&mut from_peer) => {
                    forwarded += 1;
                    let out = if by_new { &new } else { &old };
                    out.send_to(&from_peer[..count], gateway.unwrap()).await.unwrap();
                }
            }
        }
    };
    let data = pattern(1 << 20, 3);
    tokio::select! {
        () = relay => unreachable!("it never ends"),
        () = echoed(&run.tunnel, machine(ECHO), &data) => {}
    }
    assert_eq!(run.tunnel.status().peer, Some(moved));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn packets_from_other_addresses_than_allowed_are_dropped() {
    let (peer, run) = both(&ends());
    let to = SocketAddr::new(MACHINE, 53);
    let socket = run.tunnel.datagrams(to).unwrap();
    socket.send(b"where are you?").unwrap();
    let mut buffer = [0; 64];
    let count = timeout(PATIENCE, socket.receive(&mut buffer)).await.unwrap().unwrap();
    assert_eq!(&buffer[..count], b"where are you?");

    // the port of that socket: the echo told the peer, which sent to it
    let port = socket_port(&socket);
    let gateway = SocketAddr::new(GATEWAY.into(), port);
    let elsewhere = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 9, 0, 3)), port);
    let inside = Ipv4Addr::new(10, 20, 0, 5);
    peer.inject(datagram_packet(Ipv4Addr::new(10, 66, 0, 5), 53, gateway, b"outside"));
    peer.inject(datagram_packet(Ipv4Addr::LOCALHOST, 53, gateway, b"loopback"));
    peer.inject(datagram_packet(inside, 54, gateway, b"another port"));
    peer.inject(datagram_packet(Ipv4Addr::new(10, 20, 0, 6), 53, gateway, b"another machine"));
    peer.inject(datagram_packet(inside, 53, elsewhere, b"not ours"));
    peer.inject(datagram_packet(inside, 53, gateway, b"the one"));
    let count = timeout(PATIENCE, socket.receive(&mut buffer)).await.unwrap().unwrap();
    assert_eq!(std::str::from_utf8(&buffer[..count]), Ok("the one"));
}

fn socket_port(socket: &super::WireGuardDatagrams) -> u16 {
    *socket.port().number.get().unwrap()
}

#[test]
fn only_what_the_peer_may_send_and_we_can_use_is_admitted() {
    let routing = Routing::new(&ends().gateway);
    let gateway = SocketAddr::new(GATEWAY.into(), 40_000);
    let inside = Ipv4Addr::new(10, 20, 0, 5);
    let good = datagram_packet(inside, 53, gateway, b"good");
    let from = SocketAddr::new(inside.into(), 53);
    assert_eq!(routing.admit(&good), Some(Inside::Udp { from, port: 40_000, payload: b"good" }));
    let outside = datagram_packet(Ipv4Addr::new(10, 21, 0, 5), 53, gateway, b"good");
    assert_eq!(routing.admit(&outside), None);
    for (at, what) in [(3, "length"), (6, "fragment"), (10, "checksum"), (27, "UDP checksum")] {
        let mut bad = good.clone();
        bad[at] ^= 0x20;
        assert_eq!(routing.admit(&bad), None, "{what}");
    }
    for length in 0..good.len() {
        assert_eq!(routing.admit(&good[..length]), None, "cut to {length}");
    }

    let mut sent = datagram_packet(GATEWAY, 40_000, SocketAddr::new(NO_WAY, 443), b"");
    sent[9] = 6; // a segment, for all that is quoted of it
    let said = host_unreachable(&sent);
    let to = SocketAddr::new(NO_WAY, 443);
    assert_eq!(routing.admit(&said), Some(Inside::Unreachable { to, port: 40_000 }));
    for length in 0..said.len() {
        assert_eq!(routing.admit(&said[..length]), None, "cut to {length}");
    }
    sent[12] = 11; // not from us
    assert_eq!(routing.admit(&host_unreachable(&sent)), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_peers_address_is_asked_for_again_and_faults_are_told() {
    let ends = ends();
    let peer = Peer::start(&ends.peer);
    let address = peer.address;
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let answers: PeerAddress = Arc::new(move || {
        let first = count.fetch_add(1, Ordering::AcqRel) == 0;
        Box::pin(ready(if first { Err("its name does not exist".into()) } else { Ok(address) }))
    });
    let run = run(&ends.gateway, answers, Duration::from_secs(1));
    let refused = run.tunnel.open(machine(ECHO)).await.unwrap_err();
    let TunnelError::Unreachable(why) = &refused else { panic!("{refused:?}") };
    assert!(why.contains("its name does not exist"), "{why}");
    until("a second question", || asked.load(Ordering::Acquire) > 1).await;
    run.tunnel.probe(PATIENCE).await.unwrap();
    echoed(&run.tunnel, machine(ECHO), b"found").await;
    assert_eq!(asked.load(Ordering::Acquire), 2, "as long as the peer answers, never again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_of_a_family_without_egress_address_is_unreachable() {
    let run = run(&ends().gateway, at("[::1]:51820".parse().unwrap()), Duration::from_millis(500));
    let refused = run.tunnel.open(machine(ECHO)).await.unwrap_err();
    let TunnelError::Unreachable(why) = &refused else { panic!("{refused:?}") };
    assert!(why.contains("egress address"), "{why}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_takes_the_streams_and_the_tunnel_starts_again() {
    let ends = ends();
    let peer = Peer::start(&ends.peer);
    let address = peer.address;
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let panics: PeerAddress = Arc::new(move || {
        assert!(count.fetch_add(1, Ordering::AcqRel) > 0, "a panic that the test asked for");
        Box::pin(ready(Ok(address)))
    });
    let run = run(&ends.gateway, panics, PATIENCE);
    let tunnel = &run.tunnel;
    until("the end", || tunnel.status().fault.is_some()).await;
    let refused = tunnel.open(machine(ECHO)).await.unwrap_err();
    assert!(matches!(refused, TunnelError::Unreachable(_)), "{refused:?}");
    until("a new start", || asked.load(Ordering::Acquire) == 2).await;
    echoed(tunnel, machine(ECHO), b"again").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn datagrams_of_any_size_alone_or_joined_neither_panic_nor_cut_a_stream() {
    let ends = ends();
    let peer = Peer::start(&ends.peer);
    // somebody in the middle, who learns where the gateway's socket is
    let middle = Arc::new(tokio::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap());
    let behind = tokio::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let to_peer = peer.address;
    let (found, gateway) = tokio::sync::watch::channel(None);
    let own = Arc::clone(&middle);
    let relay = async move {
        let (mut out, mut back) = (vec![0; 1 << 16], vec![0; 1 << 16]);
        loop {
            tokio::select! {
                Ok((count, from)) = own.recv_from(&mut out) => {
                    found.send_replace(Some(from));
                    behind.send_to(&out[..count], to_peer).await.unwrap();
                }
                Ok((count, _)) = behind.recv_from(&mut back) => {
                    let to = found.borrow().unwrap();
                    own.send_to(&back[..count], to).await.unwrap();
                }
            }
        }
    };
    let asked = Arc::new(AtomicUsize::new(0));
    let (count, address) = (Arc::clone(&asked), middle.local_addr().unwrap());
    let answers: PeerAddress = Arc::new(move || {
        count.fetch_add(1, Ordering::AcqRel);
        Box::pin(ready(Ok(address)))
    });
    let run = run(&ends.gateway, answers, PATIENCE);
    let attack = async {
        let mut stream = run.tunnel.open(machine(ECHO)).await.unwrap();
        let to = gateway.borrow().unwrap();
        let stranger = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        for length in [0, 1, 3, 4, 15, 16, 31, 32, 64, 92, 148, 1500, 9000, 65_507] {
            // every kind of message that there is, and one that there is not (WireGuard's paper, 5.4)
            for kind in 0..=5 {
                let mut datagram = vec![0xff; length];
                for (place, byte) in datagram.iter_mut().zip([kind, 0, 0, 0]) {
                    *place = byte;
                }
                stranger.send_to(&datagram, to).unwrap();
                // and from where the peer's come from
                middle.send_to(&datagram, to).await.unwrap();
            }
        }
        // joined by the kernel: of all lengths, with a shorter one at the end
        for (length, segment) in [(64, 1), (1000, 32), (6001, 148), (60_000, 1472)] {
            setsockopt(&stranger, UdpGsoSegment, &segment).unwrap();
            stranger.send_to(&pattern(length, 4), to).unwrap();
        }
        // from the peer itself, with far more inside than the MTU allows
        let inside = Ipv4Addr::new(10, 20, 0, 5);
        let at = SocketAddr::new(GATEWAY.into(), 40_000);
        let before = run.tunnel.status().bytes_received;
        peer.inject(datagram_packet(inside, 53, at, &vec![0; 60_000]));
        until("it has come", || run.tunnel.status().bytes_received > before + 60_000).await;
        stream.write_all(b"still here").await.unwrap();
        timeout(PATIENCE, stream.read_exact(&mut [0; 10])).await.unwrap().unwrap();
        echoed(&run.tunnel, machine(ECHO), &pattern(1 << 20, 5)).await;
    };
    tokio::select! {
        () = relay => unreachable!("it never ends"),
        () = attack => {}
    }
    assert_eq!(run.tunnel.status().fault, None);
    assert_eq!(asked.load(Ordering::Acquire), 1, "the tunnel has not started anew");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_tunnel_ends_its_streams_and_leaves_no_task() {
    let (peer, run) = both(&ends());
    let mut stream = run.tunnel.open(machine(ECHO)).await.unwrap();
    run.stop.cancel();
    let ended = timeout(PATIENCE, stream.read(&mut [0; 1])).await.unwrap();
    assert!(ended.is_err(), "{ended:?}");
    assert!(stream.write_all(b"more").await.is_err());
    run.tasks.close();
    timeout(PATIENCE, run.tasks.wait()).await.unwrap();
    until("a reset", || peer.resets.load(Ordering::Acquire) > 0).await;
    let refused = run.tunnel.open(machine(ECHO)).await.unwrap_err();
    assert!(matches!(refused, TunnelError::Unreachable(_)), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tunnel_that_nobody_holds_ends_with_its_last_stream() {
    let (_peer, run) = both(&ends());
    let mut stream = run.tunnel.open(machine(ECHO)).await.unwrap();
    drop(run.tunnel);
    stream.write_all(b"still here").await.unwrap();
    timeout(PATIENCE, stream.read_exact(&mut [0; 10])).await.unwrap().unwrap();
    drop(stream);
    run.tasks.close();
    timeout(PATIENCE, run.tasks.wait()).await.unwrap();
}

#[test]
fn keys_are_written_as_wg_writes_them() {
    // the example of RFC 7748, section 6.1
    let private =
        PrivateKey::from_base64(b" dwdtCnMYpX08FsFyUbJmRd9ML4frwJkqsXf7pR25LCo=\n").unwrap();
    assert_eq!(private.public_base64(), "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=");
    assert_eq!(format!("{private:?}"), "[redacted]");
    assert!(PrivateKey::from_base64(b"dwdtCnMYpX08FsFyUbJmRd9ML4frwJkqsXf7pR25LA==").is_none());
    let (one, other) = (PrivateKey::generate().unwrap(), PrivateKey::generate().unwrap());
    assert_ne!(*one.to_base64(), *other.to_base64());
    let again = PrivateKey::from_base64(one.to_base64().as_bytes()).unwrap();
    assert_eq!(again.public_base64(), one.public_base64());
}
