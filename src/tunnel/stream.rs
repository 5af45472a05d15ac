//! A stream through a tunnel, whatever carries it.

use std::{
    fmt::Debug,
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll},
};

use bytes::{Buf as _, Bytes};
use tokio::{
    io::{AsyncBufRead, AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::client::TlsStream;

use super::{
    line::{Bond, Lifeline, Until},
    meter::Open,
};
use crate::tls::Watched;

/// What a tunnel of a kind with streams of its own carries bytes with: WireGuard, the connector.
pub trait Channel: AsyncRead + AsyncWrite + Unpin + Send + Sync + Debug + 'static {
    /// Makes the drop that follows one that the far side cannot mistake for a clean end.
    fn reset(&mut self);

    /// What to read it as where it holds its bytes in memory.
    fn as_lender(&mut self) -> Option<&mut (dyn AsyncBufRead + Unpin)> {
        None
    }
}

/// An open stream through a tunnel to the address that the tunnel was asked for. While it lives it
/// counts as one of the tunnel's open streams, and its bytes as the tunnel's.
#[derive(Debug)]
pub struct TunnelStream {
    link: Link,
    /// What the far side sent together with the end of the hop's answer.
    early: Bytes,
    open: Open,
    lifeline: Option<Lifeline>,
    bond: Option<Bond>,
}

/// What the bytes go over.
#[derive(Debug)]
pub(super) enum Link {
    /// TCP to the hop.
    Tcp(TcpStream),
    /// TLS to the hop.
    Tls(Box<TlsStream<Watched<TcpStream>>>),
    /// A stream of the tunnel's own.
    Channel(Box<dyn Channel>),
}

impl TunnelStream {
    pub(super) fn new(link: Link, early: Bytes, open: Open, lifeline: Option<Lifeline>) -> Self {
        Self { link, early, open, lifeline, bond: None }
    }

    /// From now on it ends with an error, a [`PassageError`](super::PassageError), when two attempts
    /// in a row did not reach the tunnel's far end. Without this it lives for as long as what
    /// carries it, which may notice nothing for a quarter of an hour.
    pub fn until_lost(&mut self) {
        self.bind(Until::Lost);
    }

    /// The same after a single attempt.
    pub(super) fn until_down(&mut self) {
        self.bind(Until::Down);
    }

    fn bind(&mut self, until: Until) {
        if let Some(lifeline) = self.lifeline.take() {
            self.bond = Some(lifeline.bond(until));
        }
    }

    /// While nothing moves: whether that is because the tunnel is gone.
    fn wait<T>(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        wait(&mut self.bond, cx)
    }

    /// The TCP socket that its bytes go over as they are, from now on: none where something lies
    /// between, is still to be read, or has to be told of the tunnel's loss. What passes the stream
    /// by is for [`passed`](Self::passed) to count.
    pub fn as_tcp(&self) -> Option<&TcpStream> {
        match &self.link {
            Link::Tcp(stream) if self.early.is_empty() && self.bond.is_none() => Some(stream),
            Link::Tcp(_) | Link::Tls(_) | Link::Channel(_) => None,
        }
    }

    /// What to read it as where its bytes are in memory.
    pub fn as_lender(&mut self) -> Option<&mut (dyn AsyncBufRead + Unpin)> {
        let lends = self.early.is_empty() && self.link.as_lender().is_some();
        lends.then_some(self)
    }

    /// Counts bytes that were taken out of the socket, and put into it, past the stream.
    pub fn passed(&self, taken: u64, put: u64) {
        self.open.passed(taken, put);
    }

    /// Ends the stream in a way that the far side cannot mistake for a clean end.
    pub fn reset(self) {
        // Without lingering, closing sends RST. Where the option fails the close is still one.
        let _ignored = match self.link {
            Link::Tcp(stream) => stream.set_zero_linger(),
            Link::Tls(stream) => stream.get_ref().0.get_ref().set_zero_linger(),
            Link::Channel(mut stream) => {
                stream.reset();
                Ok(())
            }
        };
    }
}

impl Link {
    fn as_lender(&mut self) -> Option<&mut (dyn AsyncBufRead + Unpin)> {
        match self {
            Self::Tcp(_) | Self::Tls(_) => None,
            Self::Channel(stream) => stream.as_lender(),
        }
    }
}

fn wait<T>(bond: &mut Option<Bond>, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
    bond.as_mut().map_or(Poll::Pending, |bond| bond.poll(cx))
}

impl AsyncRead for Link {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Channel(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Link {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Channel(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            Self::Channel(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Tcp(stream) => stream.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
            Self::Channel(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
            Self::Channel(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Channel(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

impl AsyncRead for TunnelStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        if this.early.is_empty() {
            match Pin::new(&mut this.link).poll_read(cx, buffer) {
                Poll::Ready(read) => read?,
                Poll::Pending => return this.wait(cx),
            }
        } else {
            let early = this.early.split_to(this.early.len().min(buffer.remaining()));
            buffer.put_slice(early.chunk());
        }
        this.open.received(buffer.filled().len().saturating_sub(before));
        Poll::Ready(Ok(()))
    }
}

/// Only where it [lends](TunnelStream::as_lender).
impl AsyncBufRead for TunnelStream {
    fn poll_fill_buf(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
        let this = self.get_mut();
        let Some(lender) = this.link.as_lender() else {
            return Poll::Ready(Err(io::ErrorKind::Unsupported.into()));
        };
        match Pin::new(lender).poll_fill_buf(cx) {
            Poll::Ready(lent) => Poll::Ready(lent),
            Poll::Pending => wait(&mut this.bond, cx),
        }
    }

    fn consume(self: Pin<&mut Self>, count: usize) {
        let this = self.get_mut();
        if let Some(lender) = this.link.as_lender() {
            Pin::new(lender).consume(count);
            this.open.received(count);
        }
    }
}

impl AsyncWrite for TunnelStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        match Pin::new(&mut this.link).poll_write(cx, bytes) {
            Poll::Ready(written) => Poll::Ready(written.inspect(|count| this.open.sent(*count))),
            Poll::Pending => this.wait(cx),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        match Pin::new(&mut this.link).poll_write_vectored(cx, slices) {
            Poll::Ready(written) => Poll::Ready(written.inspect(|count| this.open.sent(*count))),
            Poll::Pending => this.wait(cx),
        }
    }

    fn is_write_vectored(&self) -> bool {
        self.link.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        match Pin::new(&mut this.link).poll_flush(cx) {
            Poll::Ready(flushed) => Poll::Ready(flushed),
            Poll::Pending => this.wait(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().link).poll_shutdown(cx)
    }
}
