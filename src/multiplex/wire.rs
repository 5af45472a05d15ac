//! The bytes under an HTTP/2 connection: those already read come first, and a sign of life is noted.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf as _, Bytes};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Instant,
};

/// A stream whose first bytes have been read already.
#[derive(Debug)]
pub(crate) struct Wire<S> {
    prefix: Bytes,
    stream: S,
    heard: Heard,
}

/// When a byte has last arrived.
#[derive(Clone, Debug)]
pub(crate) struct Heard {
    began: Instant,
    /// Microseconds since then.
    last: Arc<AtomicU64>,
}

impl Heard {
    fn note(&self) {
        let since = u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.last.store(since, Ordering::Relaxed);
    }

    /// Not before the connection's beginning.
    pub(super) fn last(&self) -> Instant {
        let since = Duration::from_micros(self.last.load(Ordering::Relaxed));
        self.began.checked_add(since).unwrap_or(self.began)
    }
}

impl<S> Wire<S> {
    /// `prefix` is what was read from `stream` before.
    pub(crate) fn new(prefix: Bytes, stream: S) -> Self {
        let heard = Heard { began: Instant::now(), last: Arc::default() };
        Self { prefix, stream, heard }
    }

    /// When a byte has last come from the other end, also from now on.
    pub(crate) fn heard(&self) -> Heard {
        self.heard.clone()
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Wire<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.prefix.is_empty() {
            let before = buffer.filled().len();
            ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
            if buffer.filled().len() > before {
                self.heard.note();
            }
            return Poll::Ready(Ok(()));
        }
        let count = self.prefix.len().min(buffer.remaining());
        buffer.put_slice(self.prefix.get(..count).unwrap_or_default());
        self.prefix.advance(count);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Wire<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
