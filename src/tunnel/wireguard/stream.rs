//! A TCP stream inside the tunnel.

use std::{
    fmt, io,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{
    Alive, Shared,
    bell::Ring,
    lane::{Failure, Inner, Lane},
};

/// An open stream to an address behind the peer. Each direction ends on its own: shutting it down
/// ends ours. Dropped while the other side may still send, it is closed, and reset as soon as there
/// is something that nobody will read.
pub struct WireGuardStream {
    lane: Arc<Lane>,
    shared: Arc<Shared>,
    /// The tunnel runs as long as it has streams.
    _alive: Arc<Alive>,
}

impl fmt::Debug for WireGuardStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WireGuardStream").field("to", &self.lane.to).finish_non_exhaustive()
    }
}

impl WireGuardStream {
    /// Asks the tunnel's task for a connection; see [`Self::poll_opened`].
    pub(super) fn begin(lane: Lane, shared: &Arc<Shared>, alive: &Arc<Alive>) -> Self {
        shared.open_streams.fetch_add(1, Ordering::AcqRel);
        let stream =
            Self { lane: Arc::new(lane), shared: Arc::clone(shared), _alive: Arc::clone(alive) };
        stream.ring();
        stream
    }

    /// Ready when it stands, with the time that took, or when it cannot.
    pub(super) fn poll_opened(&self, cx: &Context<'_>) -> Poll<Result<Duration, Failure>> {
        self.lane.lock().map_or(Poll::Ready(Err(Failure::Lost)), |mut inner| inner.poll_opened(cx))
    }

    /// The address behind the peer.
    pub fn peer_addr(&self) -> SocketAddr {
        self.lane.to
    }

    /// Makes the drop that follows one that the other side cannot mistake for a clean end.
    pub fn reset(&mut self) {
        if let Some(mut inner) = self.lane.lock() {
            inner.reset = true;
        }
        self.ring();
    }

    fn ring(&self) {
        if self.lane.ring() {
            self.shared.bell.ring(Ring::Stream(Arc::clone(&self.lane)));
        }
    }

    fn with<T>(&self, poll: impl FnOnce(&mut Inner) -> Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        match self.lane.lock() {
            Some(mut inner) => poll(&mut inner),
            None => Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into())),
        }
    }
}

impl AsyncRead for WireGuardStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let free = buffer.initialize_unfilled();
        let (count, room) = ready!(self.with(|inner| inner.poll_read(cx, free)))?;
        buffer.advance(count);
        if room {
            self.ring();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for WireGuardStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let count = ready!(self.with(|inner| inner.poll_write(cx, bytes)))?;
        self.ring();
        Poll::Ready(Ok(count))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(())) // nothing waits for more, as with a socket of the kernel
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.with(|inner| {
            inner.socket().close();
            Poll::Ready(Ok(()))
        }))?;
        self.ring();
        Poll::Ready(Ok(()))
    }
}

impl Drop for WireGuardStream {
    fn drop(&mut self) {
        if let Some(mut inner) = self.lane.lock() {
            inner.orphaned = true;
        }
        self.ring();
        self.shared.open_streams.fetch_sub(1, Ordering::AcqRel);
    }
}
