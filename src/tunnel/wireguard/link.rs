//! The socket outside: datagrams to and from the peer, many of them in one call of the kernel.

use std::{
    collections::VecDeque,
    io::{self, IoSlice, IoSliceMut},
    net::SocketAddr,
    os::fd::AsRawFd as _,
};

use gotatun::packet::Packet;
use nix::{
    errno::Errno,
    sys::socket::{
        ControlMessage, ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, sendmsg,
        setsockopt, sockopt::UdpGroSegment,
    },
};
use tokio::{io::Interest, net::UdpSocket};

use crate::dial::{EgressAddresses, udp_unconnected};

/// Most bytes of one call; a UDP datagram over IPv4 has at most 65,507.
const BATCH_BYTES_MAX: usize = 65_507;

/// Most datagrams of one call (`UDP_MAX_SEGMENTS` of Linux).
const BATCH_MAX: usize = 64;

/// A socket bound to the egress address of the peer's family.
pub(super) struct Link {
    socket: UdpSocket,
    /// Whether the kernel splits what it is given (`UDP_SEGMENT`, Linux 4.18).
    splits: bool,
    buffer: Box<[u8]>,
}

impl Link {
    /// Not connected: a peer may move, and is then answered where it is now.
    pub(super) fn open(egress: &EgressAddresses, peer: SocketAddr) -> io::Result<Self> {
        if !egress.uses(peer.ip()) {
            let message = "there is no egress address of the peer's family";
            return Err(io::Error::new(io::ErrorKind::AddrNotAvailable, message));
        }
        let socket = udp_unconnected(peer, egress.source_for(peer.ip()))?;
        // Linux 5.0; without it datagrams come one by one
        let _joined = setsockopt(&socket, UdpGroSegment, &true);
        Ok(Self { socket, splits: true, buffer: vec![0; 1 << 16].into() })
    }

    pub(super) async fn readable(&self) -> io::Result<()> {
        self.socket.readable().await
    }

    pub(super) async fn writable(&self) -> io::Result<()> {
        self.socket.writable().await
    }

    /// Takes what has come, up to one call's worth. `false`: there is nothing.
    pub(super) fn receive(&mut self, mut each: impl FnMut(Packet, SocketAddr)) -> io::Result<bool> {
        let fd = self.socket.as_raw_fd();
        let buffer = &mut *self.buffer;
        let mut notes = nix::cmsg_space!(i32);
        let received = self.socket.try_io(Interest::READABLE, || {
            let mut slices = [IoSliceMut::new(buffer)];
            let flags = MsgFlags::MSG_DONTWAIT;
            let message = recvmsg::<SockaddrStorage>(fd, &mut slices, Some(&mut notes), flags)?;
            let joined = message.cmsgs()?.find_map(|note| {
                let ControlMessageOwned::UdpGroSegments(bytes) = note else { return None };
                usize::try_from(bytes).ok()
            });
            Ok((message.bytes, message.address.and_then(socket_address), joined))
        });
        let (length, from, joined) = match received {
            Ok(received) => received,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(error),
        };
        if let (Some(datagrams), Some(from)) = (self.buffer.get(..length), from) {
            for datagram in
                datagrams.chunks(joined.filter(|bytes| *bytes > 0).unwrap_or(length).max(1))
            {
                each(Packet::copy_from(datagram), from);
            }
        }
        Ok(true)
    }

    /// Sends what waits, until the socket takes no more: then `false`. What cannot be sent at all
    /// is left out, as the network would; the last reason is the error.
    pub(super) fn send(
        &mut self,
        waiting: &mut VecDeque<Packet>,
        to: SocketAddr,
    ) -> io::Result<bool> {
        let to = SockaddrStorage::from(to);
        let fd = self.socket.as_raw_fd();
        let mut fault = None;
        while let Some(first) = waiting.front() {
            let count = if self.splits { batch(waiting) } else { 1 };
            let slices: Vec<_> = waiting.iter().take(count).map(|one| IoSlice::new(one)).collect();
            let segment = u16::try_from(first.len()).unwrap_or(u16::MAX);
            let notes = [ControlMessage::UdpGsoSegments(&segment)];
            let notes = if count > 1 { notes.as_slice() } else { &[] };
            let sent = self.socket.try_io(Interest::WRITABLE, || {
                Ok(sendmsg(fd, &slices, notes, MsgFlags::MSG_DONTWAIT, Some(&to))?)
            });
            drop(slices);
            match sent {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                // A device that cannot do it, or a datagram that is larger than the way's
                // packets: one by one, the kernel cuts them into fragments.
                Err(error) if count > 1 && cannot_split(&error) => {
                    self.splits = false;
                    continue;
                }
                Err(error) => fault = Some(error),
            }
            waiting.drain(..count);
        }
        fault.map_or(Ok(true), Err)
    }

    /// Sends one datagram, or not.
    pub(super) fn send_once(&self, datagram: &Packet, to: SocketAddr) {
        let _lost = self.socket.try_send_to(datagram, to);
    }
}

/// How many datagrams from the front go in one call: all have the first one's length, but the
/// last, which may be shorter.
fn batch(waiting: &VecDeque<Packet>) -> usize {
    let length = waiting.front().map_or(0, |first| first.len());
    let mut count: usize = 0;
    let mut bytes: usize = 0;
    for datagram in waiting.iter().take(BATCH_MAX) {
        bytes = bytes.saturating_add(datagram.len());
        if datagram.len() > length || bytes > BATCH_BYTES_MAX {
            break;
        }
        count = count.saturating_add(1);
        if datagram.len() < length {
            break;
        }
    }
    count.max(1)
}

fn cannot_split(error: &io::Error) -> bool {
    error.raw_os_error().is_some_and(|code| {
        matches!(Errno::from_raw(code), Errno::EIO | Errno::EINVAL | Errno::EMSGSIZE)
    })
}

fn socket_address(address: SockaddrStorage) -> Option<SocketAddr> {
    let v4 = address.as_sockaddr_in().map(|&v4| SocketAddr::V4(v4.into()));
    v4.or_else(|| address.as_sockaddr_in6().map(|&v6| SocketAddr::V6(v6.into())))
}
