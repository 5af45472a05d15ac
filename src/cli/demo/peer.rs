//! A customer's WireGuard in user space: the session and the device that the gateway's own tunnels
//! are made of, with one host behind it in place of the kernel's interface.

use std::{
    future::pending,
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use anyhow::{Context as _, bail};
use gotatun::packet::Packet;
use smoltcp::{
    iface::{Config, Interface, SocketHandle, SocketSet},
    socket::tcp::{Socket, SocketBuffer, State},
    time::Instant,
    wire::{HardwareAddress, IpCidr},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpStream, UdpSocket},
    task::JoinSet,
};

use super::hop::dial;
use crate::tunnel::wireguard::{Noise, Opened, Pipe, Settings};

/// How often timers are looked at.
const TICK: Duration = Duration::from_millis(10);

/// Largest datagram.
const DATAGRAM_BYTES_MAX: usize = 1 << 16;

/// Bytes in each direction that wait inside.
const BUFFER_BYTES: usize = 64 << 10;

/// A running peer; it ends when dropped.
pub(super) struct Peer {
    /// Where it listens, over UDP.
    pub(super) address: SocketAddr,
    _task: JoinSet<()>,
}

impl Peer {
    /// Starts a peer on loopback. Behind it is `inside`, an address of the private network, which is
    /// really at `place`: only the peer knows that. It takes one connection at a time.
    pub(super) async fn start(
        settings: &Settings,
        inside: SocketAddr,
        place: SocketAddr,
    ) -> anyhow::Result<Self> {
        let IpAddr::V4(v4) = inside.ip() else { bail!("the private network has IPv4 only") };
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = socket.local_addr()?;
        let mut pipe = Pipe::new(settings.mtu);
        let mut iface = Interface::new(Config::new(HardwareAddress::Ip), &mut pipe, Instant::now());
        iface.update_ip_addrs(|own| {
            // There is room for one.
            let _full = own.push(IpCidr::new(v4.into(), 32));
        });
        iface.routes_mut().add_default_ipv4_route(v4)?;
        let buffer = || SocketBuffer::new(vec![0; BUFFER_BYTES]);
        let mut sockets = SocketSet::new(Vec::new());
        let handle = sockets.add(Socket::new(buffer(), buffer()));
        let noise = Noise::new(settings).context("a key of WireGuard is 32 bytes")?;
        let host = Host { iface, pipe, sockets, handle, inside, place, onward: None };
        let mut task = JoinSet::new();
        task.spawn(Machine { socket, noise, gateway: None, host }.run());
        Ok(Self { address, _task: task })
    }
}

/// The session, and what is behind it.
struct Machine {
    socket: UdpSocket,
    noise: Noise,
    gateway: Option<SocketAddr>,
    host: Host,
}

/// The host inside: one port, from which a connection leads onward.
struct Host {
    iface: Interface,
    pipe: Pipe,
    sockets: SocketSet<'static>,
    handle: SocketHandle,
    inside: SocketAddr,
    place: SocketAddr,
    onward: Option<TcpStream>,
}

impl Machine {
    async fn run(mut self) {
        let mut datagram = vec![0; DATAGRAM_BYTES_MAX];
        loop {
            tokio::select! {
                // An error belongs to one datagram that was sent before.
                Ok((length, from)) = self.socket.recv_from(&mut datagram) => {
                    self.receive(datagram.get(..length).unwrap_or_default(), from).await;
                }
                () = self.host.answered() => {}
                () = tokio::time::sleep(TICK) => {}
            }
            if self.host.serve().await.is_err() {
                self.host.tcp().abort();
            }
            self.host.poll();
            let due = self.noise.tick();
            self.send(due).await;
            for packet in std::mem::take(&mut self.host.pipe.outgoing) {
                let sealed = self.noise.seal(packet);
                self.send(sealed).await;
            }
        }
    }

    async fn receive(&mut self, datagram: &[u8], from: SocketAddr) {
        let mut out = Vec::new();
        let opened = self.noise.open(Packet::copy_from(datagram), from, &mut out);
        match opened {
            Opened::Junk | Opened::KeyMismatch | Opened::Cookie(_) => return,
            Opened::Authentic | Opened::Session => {}
            Opened::Inside(packet) => self.host.pipe.incoming = Some(packet),
        }
        self.gateway = Some(from);
        for datagram in out {
            self.send(Some(datagram)).await;
        }
    }

    /// Sends a datagram, or not, as the network would.
    async fn send(&self, datagram: Option<Packet>) {
        if let (Some(datagram), Some(gateway)) = (datagram, self.gateway) {
            let _lost = self.socket.send_to(&datagram, gateway).await;
        }
    }
}

impl Host {
    fn tcp(&mut self) -> &mut Socket<'static> {
        self.sockets.get_mut(self.handle)
    }

    fn poll(&mut self) {
        self.iface.poll(Instant::now(), &mut self.pipe, &mut self.sockets);
    }

    /// Takes what came from onward. Waits where there is none, or no room for it.
    async fn answered(&mut self) {
        let tcp = self.sockets.get_mut::<Socket<'static>>(self.handle);
        let (Some(onward), true) = (&mut self.onward, tcp.can_send()) else {
            return pending().await;
        };
        let room = tcp.send_capacity().saturating_sub(tcp.send_queue());
        let mut bytes = vec![0; room];
        match onward.read(&mut bytes).await {
            Ok(0) | Err(_) => tcp.close(),
            Ok(count) => {
                // There is room for all of it.
                let _sent = tcp.send_slice(bytes.get(..count).unwrap_or_default());
            }
        }
    }

    /// Sees what has become of the connection inside, and passes on what came over it.
    async fn serve(&mut self) -> io::Result<()> {
        self.poll();
        if matches!(self.tcp().state(), State::Closed | State::TimeWait) {
            self.onward = None;
            let port = self.inside.port();
            self.tcp().abort();
            self.tcp().listen(port).map_err(io::Error::other)?;
        }
        if self.onward.is_none() && self.tcp().may_recv() {
            self.onward = Some(dial(self.place).await?);
        }
        let Some(mut onward) = self.onward.take() else { return Ok(()) };
        while self.tcp().can_recv() {
            let bytes = self.tcp().recv(|bytes| (bytes.len(), bytes.to_vec()));
            onward.write_all(&bytes.map_err(io::Error::other)?).await?;
        }
        if self.tcp().state() == State::CloseWait {
            // Done already, perhaps, or the other side has gone: that shows when it is read from.
            let _ended = onward.shutdown().await;
        }
        self.onward = Some(onward);
        Ok(())
    }
}
