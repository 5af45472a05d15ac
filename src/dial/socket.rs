//! One socket, from its opening to the moment its connection stands.
#![expect(clippy::disallowed_methods, reason = "this is the one place that opens sockets")]

use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd;
use std::time::Duration;

use nix::libc;
use nix::sys::socket::sockopt::{IpBindAddressNoPort, Ipv4RecvErr, Ipv6RecvErr};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg, setsockopt};
use socket2::{Domain, Protocol, SockAddr, Socket, TcpKeepalive, Type};
use tokio::net::{TcpStream, UdpSocket};

use super::DialError;

/// How long a connection may be silent before the kernel asks whether the peer is still there:
/// less than the idle limits of most firewalls and load balancers on the way.
const KEEPALIVE_IDLE: Duration = Duration::from_mins(1);

/// The pause between two such questions. After the kernel's number of them (9) the peer is gone.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);

/// How much of a tunnel's datagrams the kernel may hold in each direction, in bytes: the windows
/// of many streams come at once, through one socket.
const DATAGRAMS_BYTES: usize = 4 << 20;

/// Connects to one address and compares the peer with it. No time limit of its own.
pub(super) async fn connect(
    address: SocketAddr,
    source: Option<IpAddr>,
) -> Result<TcpStream, DialError> {
    // an IPv4-mapped address is dialled as what it is, from the IPv4 egress address
    let address = canonical(address);
    let bound = source.is_some();
    let stream = begin(address, source).map_err(|error| DialError::from_io(error, bound))?;
    match finish(&stream).await {
        Ok(()) => {}
        Err(_) if prohibited(&stream) => return Err(DialError::Prohibited),
        Err(error) => return Err(DialError::from_io(error, bound)),
    }
    // From here on an ICMP error is a hint about one packet, perhaps forged, and no reason to end
    // the connection (RFC 5927, section 6); with the option on, Linux would end it. This also
    // clears the queue. It cannot fail where switching it on did not, and if it did, the
    // connection would still do.
    let _switched_off = set_recverr(&stream, address, false);
    let peer = stream.peer_addr().map_err(|error| DialError::from_io(error, bound))?;
    if (peer.ip(), peer.port()) == (address.ip(), address.port()) {
        Ok(stream)
    } else {
        Err(DialError::PeerMismatch)
    }
}

/// A TCP connection to what the configuration names, bound to the egress address. No time limit of
/// its own.
///
/// For name servers and for the far ends of tunnels alone, which the operator chose: the address is
/// not vetted.
pub(crate) async fn tcp_to(server: SocketAddr, source: Option<IpAddr>) -> io::Result<TcpStream> {
    connect(server, source).await.map_err(io::Error::from)
}

/// A UDP socket to a name server, bound to the egress address and `port` (0: any).
///
/// It is connected, so that the kernel drops datagrams from anyone else and reports a closed port
/// at once. For name servers alone, as above.
pub(crate) fn udp_to(
    server: SocketAddr,
    source: Option<IpAddr>,
    port: u16,
) -> io::Result<UdpSocket> {
    let server = canonical(server);
    let any: IpAddr = match server {
        SocketAddr::V4(_) => std::net::Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = std::net::UdpSocket::bind(SocketAddr::new(source.unwrap_or(any), port))?;
    socket.set_nonblocking(true)?;
    socket.connect(server)?;
    UdpSocket::from_std(socket)
}

/// A UDP socket for a tunnel's datagrams to `peer` and back, bound to the egress address.
///
/// It is not connected: whoever is at the other end may move (WireGuard's roaming), and is known
/// by its key. For tunnels alone, whose peers the operator chose.
pub(crate) fn udp_unconnected(peer: SocketAddr, source: Option<IpAddr>) -> io::Result<UdpSocket> {
    let any: IpAddr = match peer {
        SocketAddr::V4(_) => std::net::Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = Socket::new(Domain::for_address(peer), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    if peer.is_ipv6() {
        socket.set_only_v6(true)?; // never IPv4 in disguise from the IPv6 socket
    }
    // The kernel gives as much of it as net.core.rmem_max and wmem_max allow.
    let _as_much = (
        socket.set_recv_buffer_size(DATAGRAMS_BYTES),
        socket.set_send_buffer_size(DATAGRAMS_BYTES),
    );
    socket.bind(&SocketAddr::new(source.unwrap_or(any), 0).into())?;
    UdpSocket::from_std(socket.into())
}

/// Sends the first packet.
fn begin(address: SocketAddr, source: Option<IpAddr>) -> io::Result<TcpStream> {
    let kind = Type::STREAM.nonblocking();
    let socket = Socket::new(Domain::for_address(address), kind, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?; // never IPv4 in disguise from the IPv6 socket
    }
    if let Some(source) = source {
        // The port is chosen at connect(2), when the whole four-tuple is known: without this,
        // all connections together could have no more than one ephemeral port range. A kernel
        // without it (before 4.2) chooses earlier, and still works.
        let _kernel_knows = setsockopt(&socket, IpBindAddressNoPort, &true);
        socket.bind(&SocketAddr::new(source, 0).into())?;
    }
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(
        &TcpKeepalive::new().with_time(KEEPALIVE_IDLE).with_interval(KEEPALIVE_INTERVAL),
    )?;
    // Only for telling causes apart: an ICMP error during the handshake ends the attempt with or
    // without it (tcp_v4_err in Linux), but with it says which one it was.
    let _causes_told_apart = set_recverr(&socket, address, true);
    match socket.connect(&SockAddr::from(address)) {
        Ok(()) => {}
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {}
        Err(error) => return Err(error),
    }
    TcpStream::from_std(socket.into())
}

/// Waits until the attempt has ended, either way.
async fn finish(stream: &TcpStream) -> io::Result<()> {
    stream.writable().await?;
    stream.take_error()?.map_or(Ok(()), Err)
}

/// Whether a packet filter ended the attempt, by what the socket's error queue holds.
///
/// The errors alone do not tell: Linux gives the same EHOSTUNREACH for "host unreachable" (ICMP
/// code 1) as for "administratively prohibited" (9, 10, 13), and the same ECONNREFUSED for a reset
/// as for "port unreachable" (3), which is what `REJECT` of iptables sends by default, while a
/// machine without a listener sends a reset.
fn prohibited(stream: &TcpStream) -> bool {
    let mut space = nix::cmsg_space!(libc::sock_extended_err, libc::sockaddr_in6);
    let mut packet = [0_u8; 128];
    let mut slices = [IoSliceMut::new(&mut packet)];
    let flags = MsgFlags::MSG_ERRQUEUE | MsgFlags::MSG_DONTWAIT;
    let Ok(message) = recvmsg::<()>(stream.as_raw_fd(), &mut slices, Some(&mut space), flags)
    else {
        return false; // nothing queued: a reset, or an error of this machine
    };
    let Ok(mut notes) = message.cmsgs() else { return false };
    notes.any(|note| {
        let (ControlMessageOwned::Ipv4RecvErr(error, _)
        | ControlMessageOwned::Ipv6RecvErr(error, _)) = note
        else {
            return false;
        };
        match (error.ee_origin, error.ee_type) {
            // destination unreachable (RFC 792, RFC 1812 section 5.2.7.1): port, network
            // prohibited, host prohibited, communication prohibited
            (libc::SO_EE_ORIGIN_ICMP, 3) => matches!(error.ee_code, 3 | 9 | 10 | 13),
            // destination unreachable (RFC 4443, section 3.1): prohibited, port, failed policy,
            // reject route
            (libc::SO_EE_ORIGIN_ICMP6, 1) => matches!(error.ee_code, 1 | 4 | 5 | 6),
            _ => false,
        }
    })
}

fn set_recverr(socket: &impl std::os::fd::AsFd, address: SocketAddr, on: bool) -> nix::Result<()> {
    match address {
        SocketAddr::V4(_) => setsockopt(socket, Ipv4RecvErr, &on),
        SocketAddr::V6(_) => setsockopt(socket, Ipv6RecvErr, &on),
    }
}

fn canonical(address: SocketAddr) -> SocketAddr {
    match address.ip().to_canonical() {
        ip if ip == address.ip() => address, // an IPv6 scope is kept
        ip => SocketAddr::new(ip, address.port()),
    }
}
