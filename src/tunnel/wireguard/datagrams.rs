//! UDP inside the tunnel, to one address: for questions to name servers behind the peer.

use std::{
    collections::VecDeque,
    fmt,
    future::poll_fn,
    io,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Waker},
};

use bytes::BytesMut;
use smoltcp::{
    phy::ChecksumCapabilities,
    wire::{IpProtocol, Ipv4Packet, Ipv4Repr, Ipv6Packet, Ipv6Repr, UdpPacket, UdpRepr},
};

use super::{Alive, Shared, bell::Ring};

/// Datagrams that wait in each direction; more are lost, as UDP may lose them.
const WAITING_MAX: usize = 16;

const HOP_LIMIT: u8 = 64;

/// A connected datagram socket inside the tunnel: what comes from elsewhere is not seen.
pub struct WireGuardDatagrams {
    port: Arc<Port>,
    shared: Arc<Shared>,
    _alive: Arc<Alive>,
}

impl fmt::Debug for WireGuardDatagrams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WireGuardDatagrams").field("to", &self.port.to).finish_non_exhaustive()
    }
}

/// What a socket and the tunnel's task share.
pub(super) struct Port {
    pub(super) from: IpAddr,
    pub(super) to: SocketAddr,
    /// Our port, drawn by the task.
    pub(super) number: OnceLock<u16>,
    pub(super) rung: AtomicBool,
    payload_bytes_max: usize,
    queues: Mutex<Queues>,
}

#[derive(Default)]
pub(super) struct Queues {
    outgoing: VecDeque<Vec<u8>>,
    incoming: VecDeque<Vec<u8>>,
    reader: Option<Waker>,
    /// The socket was dropped.
    pub(super) closed: bool,
    /// The task has ended.
    cut: bool,
}

impl WireGuardDatagrams {
    pub(super) fn begin(
        (from, to): (IpAddr, SocketAddr),
        mtu: u16,
        shared: &Arc<Shared>,
        alive: &Arc<Alive>,
    ) -> Self {
        shared.open_streams.fetch_add(1, Ordering::AcqRel);
        let headers: usize = if to.is_ipv4() { 28 } else { 48 };
        let port = Port {
            from,
            to,
            number: OnceLock::new(),
            rung: AtomicBool::new(false),
            payload_bytes_max: usize::from(mtu).saturating_sub(headers),
            queues: Mutex::default(),
        };
        Self { port: Arc::new(port), shared: Arc::clone(shared), _alive: Arc::clone(alive) }
    }

    /// Sends one datagram, which may be lost on its way.
    ///
    /// # Errors
    /// When it is larger than what the tunnel's `mtu` leaves room for: it is not cut into
    /// fragments.
    pub fn send(&self, payload: &[u8]) -> io::Result<()> {
        if payload.len() > self.port.payload_bytes_max {
            let message = "the datagram is larger than the tunnel's mtu allows";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        let mut queues = self.port.lock();
        if queues.outgoing.len() < WAITING_MAX {
            queues.outgoing.push_back(payload.to_vec());
        }
        drop(queues);
        self.ring();
        Ok(())
    }

    /// Waits for a datagram and writes it to the front of `buffer`, cut where that ends. Gives its
    /// length there.
    ///
    /// # Errors
    /// When the tunnel was stopped.
    pub fn poll_receive(&self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut queues = self.port.lock();
        if let Some(payload) = queues.incoming.pop_front() {
            let length = payload.len().min(buffer.len());
            if let (Some(to), Some(from)) = (buffer.get_mut(..length), payload.get(..length)) {
                to.copy_from_slice(from);
            }
            return Poll::Ready(Ok(length));
        }
        if queues.cut {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        queues.reader = Some(cx.waker().clone());
        Poll::Pending
    }

    /// [`Self::poll_receive`], as a future.
    ///
    /// # Errors
    /// When the tunnel was stopped.
    pub async fn receive(&self, buffer: &mut [u8]) -> io::Result<usize> {
        poll_fn(|cx| self.poll_receive(cx, buffer)).await
    }

    fn ring(&self) {
        if !self.port.rung.swap(true, Ordering::AcqRel) {
            self.shared.bell.ring(Ring::Datagrams(Arc::clone(&self.port)));
        }
    }
}

impl Drop for WireGuardDatagrams {
    fn drop(&mut self) {
        self.port.lock().closed = true;
        self.ring();
        self.shared.open_streams.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Port {
    pub(super) fn lock(&self) -> MutexGuard<'_, Queues> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A datagram came in.
    pub(super) fn deliver(&self, payload: &[u8]) {
        let mut queues = self.lock();
        if queues.incoming.len() < WAITING_MAX {
            queues.incoming.push_back(payload.to_vec());
        }
        if let Some(reader) = queues.reader.take() {
            reader.wake();
        }
    }

    /// Ends it for whoever waits.
    pub(super) fn cut(&self) {
        let mut queues = self.lock();
        queues.cut = true;
        if let Some(reader) = queues.reader.take() {
            reader.wake();
        }
    }

    /// The packets that wait to be sent.
    pub(super) fn packets(&self) -> Vec<BytesMut> {
        let Some(&number) = self.number.get() else { return Vec::new() };
        let waiting = std::mem::take(&mut self.lock().outgoing);
        waiting.iter().filter_map(|payload| self.packet(number, payload)).collect()
    }

    fn packet(&self, number: u16, payload: &[u8]) -> Option<BytesMut> {
        let udp = UdpRepr { src_port: number, dst_port: self.to.port() };
        let udp_bytes = udp.header_len().checked_add(payload.len())?;
        let checksums = ChecksumCapabilities::default();
        let next_header = IpProtocol::Udp;
        let (mut packet, header_bytes) = match (self.from, self.to.ip()) {
            (IpAddr::V4(src_addr), IpAddr::V4(dst_addr)) => {
                let ip = Ipv4Repr {
                    src_addr,
                    dst_addr,
                    next_header,
                    payload_len: udp_bytes,
                    hop_limit: HOP_LIMIT,
                };
                let mut packet = BytesMut::zeroed(ip.buffer_len().checked_add(udp_bytes)?);
                ip.emit(&mut Ipv4Packet::new_unchecked(&mut packet[..]), &checksums);
                (packet, ip.buffer_len())
            }
            (IpAddr::V6(src_addr), IpAddr::V6(dst_addr)) => {
                let ip = Ipv6Repr {
                    src_addr,
                    dst_addr,
                    next_header,
                    payload_len: udp_bytes,
                    hop_limit: HOP_LIMIT,
                };
                let mut packet = BytesMut::zeroed(ip.buffer_len().checked_add(udp_bytes)?);
                ip.emit(&mut Ipv6Packet::new_unchecked(&mut packet[..]));
                (packet, ip.buffer_len())
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => return None,
        };
        let (from, to) = (self.from.into(), self.to.ip().into());
        udp.emit(
            &mut UdpPacket::new_unchecked(packet.get_mut(header_bytes..)?),
            &from,
            &to,
            payload.len(),
            |room| room.copy_from_slice(payload),
            &checksums,
        );
        Some(packet)
    }
}

#[cfg(test)]
impl WireGuardDatagrams {
    pub(super) fn port(&self) -> &Port {
        &self.port
    }
}
