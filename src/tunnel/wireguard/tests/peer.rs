//! The far end of a tunnel: a second instance of the same library, with a machine behind it.

use std::{
    collections::VecDeque,
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc,
    },
    thread::JoinHandle,
    time::Duration,
};

use gotatun::packet::Packet;
use ipnet::IpNet;
use smoltcp::{
    iface::{Config, Interface, SocketSet},
    phy::ChecksumCapabilities,
    socket::tcp::{Socket, SocketBuffer, State},
    time::Instant,
    wire::{HardwareAddress, IpProtocol, Ipv4Packet, Ipv4Repr, UdpPacket, UdpRepr},
};

use super::super::{
    Settings,
    key::PrivateKey,
    noise::{Noise, Opened},
    pipe::Pipe,
};
use crate::secret::Secret;

/// Answers with what it is sent.
pub(super) const ECHO: u16 = 7;
/// Takes everything, and answers with [`VERDICT_BYTES`] bytes once the other side has ended.
pub(super) const AFTERWARDS: u16 = 8;
/// Takes nothing, so that windows fill.
pub(super) const STALLED: u16 = 9;
/// Says something at once.
pub(super) const GREETING: u16 = 10;
pub(super) const VERDICT_BYTES: usize = 100_000;
/// The machine behind the peer.
pub(super) const MACHINE: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 20, 0, 5));
/// Packets to this one are swallowed.
pub(super) const SILENT: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 20, 0, 66));
/// Of this one the peer says that there is no way there.
pub(super) const NO_WAY: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 20, 0, 77));
/// The gateway inside.
pub(super) const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 2);

/// A pair of keys.
#[derive(Clone)]
pub(super) struct Pair {
    pub(super) private: Secret,
    pub(super) public: [u8; 32],
}

impl Pair {
    pub(super) fn new() -> Self {
        use base64::Engine as _;
        let decode = |text: &str| base64::engine::general_purpose::STANDARD.decode(text).unwrap();
        let key = PrivateKey::generate().unwrap();
        Self {
            private: Secret::new(decode(&key.to_base64())),
            public: decode(&key.public_base64()).try_into().unwrap(),
        }
    }
}

/// Settings of one end.
pub(super) fn settings(own: &Pair, other: &Pair, addresses: &[&str], allowed: &[&str]) -> Settings {
    let nets = |nets: &[&str]| nets.iter().map(|net| net.parse::<IpNet>().unwrap()).collect();
    Settings {
        private_key: own.private.clone(),
        preshared_key: None,
        peer_public_key: other.public,
        addresses: nets(addresses),
        allowed_ips: nets(allowed),
        keepalive: None,
        mtu: 1420,
    }
}

/// A running peer; stops when dropped.
pub(super) struct Peer {
    pub(super) address: SocketAddr,
    /// Packets that came out of the tunnel.
    pub(super) packets: Arc<AtomicUsize>,
    /// Resets among them.
    pub(super) resets: Arc<AtomicUsize>,
    /// Segments with `FIN` among them.
    pub(super) ends: Arc<AtomicUsize>,
    /// The largest of them.
    pub(super) largest: Arc<AtomicUsize>,
    inject: mpsc::Sender<Vec<u8>>,
    stop: Arc<AtomicBool>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Peer {
    /// A peer at any free port.
    pub(super) fn start(settings: &Settings) -> Self {
        Self::start_at((Ipv4Addr::LOCALHOST, 0).into(), settings)
    }

    /// A peer at this address.
    pub(super) fn start_at(address: SocketAddr, settings: &Settings) -> Self {
        let socket = UdpSocket::bind(address).unwrap();
        let address = socket.local_addr().unwrap();
        let (inject, injected) = mpsc::channel();
        let stop = Arc::new(AtomicBool::new(false));
        let counters: [Arc<AtomicUsize>; 4] = Default::default();
        let [packets, resets, ends, largest] = counters.clone();
        let machine = Machine {
            noise: Noise::new(settings).unwrap(),
            socket,
            gateway: None,
            pipe: Pipe::new(settings.mtu),
            counters,
            injected,
            stop: Arc::clone(&stop),
        };
        let thread = Mutex::new(Some(std::thread::spawn(|| machine.run())));
        Self { address, packets, resets, ends, largest, inject, stop, thread }
    }

    /// Sends a packet into the tunnel, whatever it is.
    pub(super) fn inject(&self, packet: Vec<u8>) {
        self.inject.send(packet).unwrap();
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        let thread = self.thread.lock().unwrap().take();
        thread.unwrap().join().expect("the peer does not panic");
    }
}

struct Machine {
    noise: Noise,
    socket: UdpSocket,
    gateway: Option<SocketAddr>,
    pipe: Pipe,
    /// Packets, resets, ends, largest.
    counters: [Arc<AtomicUsize>; 4],
    injected: mpsc::Receiver<Vec<u8>>,
    stop: Arc<AtomicBool>,
}

impl Machine {
    fn run(mut self) {
        let mut config = Config::new(HardwareAddress::Ip);
        config.random_seed = 7;
        let mut iface = Interface::new(config, &mut self.pipe, Instant::now());
        iface.update_ip_addrs(|addresses| {
            addresses.push("10.20.0.5/16".parse().unwrap()).unwrap();
            addresses.push("fd20::5/64".parse().unwrap()).unwrap();
        });
        iface.routes_mut().add_default_ipv4_route(Ipv4Addr::new(10, 20, 0, 5)).unwrap();
        iface.routes_mut().add_default_ipv6_route("fd20::5".parse().unwrap()).unwrap();
        let mut sockets = SocketSet::new(Vec::new());
        let mut served = Vec::new();
        let listeners = [(ECHO, 256), (AFTERWARDS, 4), (STALLED, 4), (GREETING, 4)];
        for (port, count) in listeners {
            for _ in 0..count {
                let buffer = || SocketBuffer::new(vec![0; 128 << 10]);
                let mut socket = Socket::new(buffer(), buffer());
                socket.listen(port).unwrap();
                served.push((sockets.add(socket), port, false));
            }
        }
        self.socket.set_nonblocking(true).unwrap();
        let mut buffer = vec![0; 65_536];
        while !self.stop.load(Ordering::Acquire) {
            let mut idle = true;
            for _ in 0..64 {
                let Ok((length, from)) = self.socket.recv_from(&mut buffer) else { break };
                idle = false;
                self.receive(&buffer[..length], from, &mut iface, &mut sockets);
            }
            while let Ok(packet) = self.injected.try_recv() {
                self.pipe.outgoing.push(Packet::copy_from(&packet[..]));
            }
            for (handle, port, said) in &mut served {
                serve(sockets.get_mut(*handle), *port, said);
            }
            iface.poll(Instant::now(), &mut self.pipe, &mut sockets);
            let due = self.noise.tick();
            self.send(due);
            let made: Vec<_> = self.pipe.outgoing.drain(..).collect();
            for packet in made {
                let sealed = self.noise.seal(packet);
                self.send(sealed);
            }
            if idle {
                std::thread::sleep(Duration::from_micros(200));
            }
        }
    }

    fn send(&self, datagram: Option<Packet>) {
        if let (Some(datagram), Some(gateway)) = (datagram, self.gateway) {
            while let Err(error) = self.socket.send_to(&datagram, gateway) {
                assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
            }
        }
    }

    fn receive(
        &mut self,
        datagram: &[u8],
        from: SocketAddr,
        iface: &mut Interface,
        sockets: &mut SocketSet<'static>,
    ) {
        let mut out = VecDeque::new();
        let opened = self.noise.open(Packet::copy_from(datagram), from, &mut out);
        if !matches!(opened, Opened::Junk | Opened::KeyMismatch) {
            self.gateway = Some(from);
        }
        for datagram in out {
            self.send(Some(datagram));
        }
        let Opened::Inside(packet) = opened else { return };
        self.count(&packet);
        if packet[0] >> 4 == 4 {
            let ip = Ipv4Packet::new_checked(&packet[..]).unwrap();
            if ip.dst_addr() == SILENT {
                return;
            }
            if ip.dst_addr() == NO_WAY {
                self.pipe.outgoing.push(Packet::copy_from(&host_unreachable(&packet)[..]));
                return;
            }
            if ip.next_header() == IpProtocol::Udp {
                let udp = UdpPacket::new_checked(ip.payload()).unwrap();
                let to = SocketAddr::new(GATEWAY.into(), udp.src_port());
                let from = (ip.dst_addr(), udp.dst_port());
                let echo = datagram_packet(from.0, from.1, to, udp.payload());
                self.pipe.outgoing.push(Packet::copy_from(&echo[..]));
                return;
            }
        }
        self.pipe.incoming = Some(packet);
        iface.poll_ingress_single(Instant::now(), &mut self.pipe, sockets);
    }

    fn count(&self, packet: &[u8]) {
        let [packets, resets, ends, largest] = &self.counters;
        packets.fetch_add(1, Ordering::AcqRel);
        largest.fetch_max(packet.len(), Ordering::AcqRel);
        let (protocol, flags) =
            if packet[0] >> 4 == 4 { (packet[9], 20 + 13) } else { (packet[6], 40 + 13) };
        if protocol == 6 {
            ends.fetch_add(usize::from(packet[flags] & 1), Ordering::AcqRel);
            resets.fetch_add(usize::from(packet[flags] >> 2 & 1), Ordering::AcqRel);
        }
    }
}

fn serve(socket: &mut Socket<'_>, port: u16, said: &mut bool) {
    match port {
        ECHO => {
            while socket.can_recv() && socket.can_send() {
                let room = socket.send_capacity() - socket.send_queue();
                let data = socket
                    .recv(|data| (data.len().min(room), data[..data.len().min(room)].to_vec()));
                socket.send_slice(&data.unwrap()).unwrap();
            }
        }
        AFTERWARDS => {
            while socket.can_recv() {
                socket.recv(|data| (data.len(), ())).unwrap();
            }
            if socket.state() == State::CloseWait && !*said {
                socket.send_slice(&vec![b'v'; VERDICT_BYTES]).unwrap();
                *said = true;
            }
        }
        GREETING if socket.can_send() && !*said => {
            socket.send_slice(b"hello").unwrap();
            *said = true;
        }
        _ => {}
    }
    if socket.state() == State::CloseWait && socket.recv_queue() == 0 {
        socket.close();
    }
    if matches!(socket.state(), State::Closed | State::TimeWait) {
        *said = false;
        socket.abort();
        socket.listen(port).unwrap();
    }
}

/// A datagram as a packet.
pub(super) fn datagram_packet(
    from: Ipv4Addr,
    port: u16,
    to: SocketAddr,
    payload: &[u8],
) -> Vec<u8> {
    let IpAddr::V4(dst_addr) = to.ip() else { panic!("IPv4 only") };
    let udp = UdpRepr { src_port: port, dst_port: to.port() };
    let ip = Ipv4Repr {
        src_addr: from,
        dst_addr,
        next_header: IpProtocol::Udp,
        payload_len: udp.header_len() + payload.len(),
        hop_limit: 64,
    };
    let mut packet = vec![0; ip.buffer_len() + ip.payload_len];
    let checksums = ChecksumCapabilities::default();
    ip.emit(&mut Ipv4Packet::new_unchecked(&mut packet), &checksums);
    udp.emit(
        &mut UdpPacket::new_unchecked(&mut packet[20..]),
        &from.into(),
        &dst_addr.into(),
        payload.len(),
        |room| room.copy_from_slice(payload),
        &checksums,
    );
    packet
}

/// What a router says of a packet that it cannot deliver (RFC 792).
pub(super) fn host_unreachable(packet: &[u8]) -> Vec<u8> {
    let about = &packet[..28];
    let ip = Ipv4Repr {
        src_addr: Ipv4Addr::new(10, 20, 0, 1),
        dst_addr: GATEWAY,
        next_header: IpProtocol::Icmp,
        payload_len: 8 + about.len(),
        hop_limit: 64,
    };
    let mut made = vec![0; 20 + ip.payload_len];
    ip.emit(&mut Ipv4Packet::new_unchecked(&mut made), &ChecksumCapabilities::default());
    made[20] = 3;
    made[21] = 1;
    made[28..].copy_from_slice(about);
    smoltcp::wire::Icmpv4Packet::new_unchecked(&mut made[20..]).fill_checksum();
    made
}
