//! One HTTP/2 stream as a stream of bytes, on which a reset stays a reset (RFC 9113, section 8.5).

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf as _, Bytes};
use h2::{Reason, RecvStream, SendStream};
use tokio::io::{AsyncBufRead, AsyncRead, AsyncWrite, ReadBuf};

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

    /// Waits until there is room for some of `wanted` bytes, and gives for how many there is now.
    /// What is not sent after that has to be [left](Self::leave_room) to other streams.
    pub(crate) fn poll_room(
        &mut self,
        cx: &mut Context<'_>,
        wanted: usize,
    ) -> Poll<io::Result<usize>> {
        poll_room(&mut self.send, cx, wanted).map_err(|_| reset())
    }

    /// Sends bytes that there is room for, and leaves what room there is besides.
    pub(crate) fn send(&mut self, bytes: Bytes) -> io::Result<()> {
        self.send.send_data(bytes, false).map_err(|_| reset())?;
        self.leave_room();
        Ok(())
    }

    /// Leaves what room there is to other streams.
    pub(crate) fn leave_room(&mut self) {
        self.send.reserve_capacity(0);
    }

    /// Waits for the next bytes; there are none at the stream's end.
    fn poll_unread(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.unread.is_empty() {
            match ready!(self.receive.poll_data(cx)) {
                Some(Ok(bytes)) => self.unread = bytes,
                // An end that wants nothing more says so in this way, and that it is no error.
                Some(Err(error)) if is_clean(&error) => return Poll::Ready(Ok(())),
                Some(Err(_)) => return Poll::Ready(Err(reset())),
                None if self.receive.is_end_stream() => return Poll::Ready(Ok(())),
                // Only DATA may follow a CONNECT; here are trailers.
                None => return Poll::Ready(Err(io::ErrorKind::InvalidData.into())),
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<G: Unpin> AsyncRead for Stream<G> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if buffer.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        let unread = ready!(self.as_mut().poll_fill_buf(cx))?;
        let taken = unread.get(..buffer.remaining()).unwrap_or(unread);
        buffer.put_slice(taken);
        let count = taken.len();
        self.consume(count);
        Poll::Ready(Ok(()))
    }
}

/// Lends a whole frame at a time, so that it need not be copied.
impl<G: Unpin> AsyncBufRead for Stream<G> {
    fn poll_fill_buf(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
        let this = self.get_mut();
        ready!(this.poll_unread(cx))?;
        Poll::Ready(Ok(&this.unread))
    }

    fn consume(mut self: Pin<&mut Self>, count: usize) {
        let count = count.min(self.unread.len());
        self.unread.advance(count);
        // Fails when the stream has ended meanwhile: then there is no window left to open.
        let _ignored = self.receive.flow_control().release_capacity(count);
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
        let room = ready!(self.poll_room(cx, bytes.len()))?;
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
