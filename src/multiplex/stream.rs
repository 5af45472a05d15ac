//! One HTTP/2 stream as a stream of bytes, on which a reset stays a reset (RFC 9113, section 8.5).

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf as _, Bytes};
use h2::{Reason, RecvStream, SendStream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// An open stream, at either end. `G` is held for as long as it lives.
///
/// An end is `END_STREAM` and each direction has its own; a reset is `RST_STREAM`. Flow control is
/// that of HTTP/2: the other end may send more once its bytes were read from here, and what is
/// written here waits until the other end has room for it. Dropped without its end, the stream is
/// reset.
#[derive(Debug)]
pub struct Stream<G = ()> {
    receive: RecvStream,
    send: SendStream<Bytes>,
    /// Received and not read yet; their window is given back as they are read.
    unread: Bytes,
    _held: G,
}

impl<G> Stream<G> {
    /// Both halves of a stream whose head was answered.
    pub(crate) fn new(receive: RecvStream, send: SendStream<Bytes>, held: G) -> Self {
        Self { receive, send, unread: Bytes::new(), _held: held }
    }

    /// Ends both directions in a way that the other end cannot mistake for a clean end.
    pub fn reset(&mut self) {
        self.send.send_reset(Reason::CONNECT_ERROR);
    }

    /// Waits for the next bytes; `false` at the stream's end.
    fn poll_unread(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        while self.unread.is_empty() {
            match ready!(self.receive.poll_data(cx)) {
                Some(Ok(bytes)) => self.unread = bytes,
                // An end that wants nothing more says so in this way, and that it is no error.
                Some(Err(error)) if is_clean(&error) => return Poll::Ready(Ok(false)),
                Some(Err(_)) => return Poll::Ready(Err(reset())),
                None if self.receive.is_end_stream() => return Poll::Ready(Ok(false)),
                // Only DATA may follow a CONNECT; here are trailers.
                None => return Poll::Ready(Err(io::ErrorKind::InvalidData.into())),
            }
        }
        Poll::Ready(Ok(true))
    }
}

impl<G: Unpin> AsyncRead for Stream<G> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if buffer.remaining() == 0 || !ready!(self.poll_unread(cx))? {
            return Poll::Ready(Ok(()));
        }
        let count = self.unread.len().min(buffer.remaining());
        buffer.put_slice(self.unread.get(..count).unwrap_or_default());
        self.unread.advance(count);
        // Fails when the stream has ended meanwhile: then there is no window left to open.
        let _ignored = self.receive.flow_control().release_capacity(count);
        Poll::Ready(Ok(()))
    }
}

impl<G: Unpin> AsyncWrite for Stream<G> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let room = ready!(poll_room(&mut self.send, cx, bytes.len())).map_err(|_| reset())?;
        let taken = bytes.get(..room).unwrap_or(bytes);
        self.send.send_data(Bytes::copy_from_slice(taken), false).map_err(|_| reset())?;
        Poll::Ready(Ok(taken.len()))
    }

    /// What was written goes out by itself. This is where a writer that has nothing to write, and
    /// whose reader has seen the other end's end, hears of a reset.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.send.poll_reset(cx) {
            Poll::Ready(Ok(Reason::NO_ERROR)) | Poll::Pending => Poll::Ready(Ok(())),
            Poll::Ready(_) => Poll::Ready(Err(reset())),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.send.send_data(Bytes::new(), true).is_ok() {
            return Poll::Ready(Ok(()));
        }
        match self.send.poll_reset(cx) {
            Poll::Ready(Ok(Reason::NO_ERROR)) => Poll::Ready(Ok(())),
            Poll::Ready(_) | Poll::Pending => Poll::Ready(Err(reset())),
        }
    }
}

/// Waits until the other end has room for some of `wanted` bytes, and gives how many may be sent now.
/// No more than the connection's send buffer is ever given out.
pub(crate) fn poll_room(
    send: &mut SendStream<Bytes>,
    cx: &mut Context<'_>,
    wanted: usize,
) -> Poll<Result<usize, h2::Error>> {
    send.reserve_capacity(wanted);
    let room = send.capacity();
    if room > 0 {
        return Poll::Ready(Ok(room));
    }
    match ready!(send.poll_capacity(cx)) {
        Some(room) => Poll::Ready(room),
        None => Poll::Ready(Err(match send.poll_reset(cx) {
            Poll::Ready(Ok(reason)) => reason.into(),
            Poll::Ready(Err(error)) => error,
            Poll::Pending => Reason::STREAM_CLOSED.into(),
        })),
    }
}

fn is_clean(error: &h2::Error) -> bool {
    error.is_reset() && error.is_remote() && error.reason() == Some(Reason::NO_ERROR)
}

fn reset() -> io::Error {
    io::ErrorKind::ConnectionReset.into()
}
