//! A stream that keeps the first bytes that were read, to tell what the other side speaks.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The stream under TLS. It passes everything through, and knows how the other side began.
#[derive(Debug)]
pub struct Watched<S> {
    stream: S,
    head: Head,
}

impl<S> Watched<S> {
    pub(super) fn new(stream: S) -> Self {
        Self { stream, head: Head::default() }
    }

    /// The stream inside.
    pub fn get_ref(&self) -> &S {
        &self.stream
    }

    /// The stream inside.
    pub fn get_mut(&mut self) -> &mut S {
        &mut self.stream
    }

    /// The stream inside, alone.
    pub fn into_inner(self) -> S {
        self.stream
    }

    pub(super) fn head(&self) -> &Head {
        &self.head
    }
}

/// The first bytes that were read, as many as `HTTP/` has.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Head {
    bytes: [u8; Self::BYTES],
    length: usize,
}

impl Head {
    const BYTES: usize = 5;

    /// Whether nothing at all was read.
    pub(super) const fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Whether the other side began with an alert record (RFC 8446, section 5.1).
    pub(super) fn begins_with_alert(&self) -> bool {
        self.bytes().first() == Some(&21)
    }

    /// Whether what was read can be the start of a handshake: a record with an alert or with a
    /// handshake message, and version 3.
    pub(super) fn begins_like_tls(&self) -> bool {
        matches!(self.bytes(), [] | [21 | 22] | [21 | 22, 3, ..])
    }

    pub(super) fn is_http(&self) -> bool {
        self.bytes() == b"HTTP/"
    }

    fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or(&self.bytes)
    }

    fn add(&mut self, read: &[u8]) {
        let room = self.bytes.iter_mut().skip(self.length);
        let taken = room.zip(read).map(|(room, byte)| *room = *byte).count();
        self.length = self.length.saturating_add(taken);
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        let result = ready!(Pin::new(&mut this.stream).poll_read(cx, buf));
        if this.head.length < Head::BYTES {
            this.head.add(buf.filled().get(before..).unwrap_or_default());
        }
        Poll::Ready(result)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
