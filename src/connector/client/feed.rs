//! From the target into its stream: bytes are sent in the memory that they were read into.

use std::{
    cell::RefCell,
    io,
    pin::{Pin, pin},
    task::{Context, Poll, ready},
};

use bytes::{BufMut as _, Bytes, BytesMut};
use tokio::{
    io::{AsyncReadExt as _, AsyncWrite as _},
    net::TcpStream,
};

use super::super::{FRAME_BYTES_MAX, as_usize};
use crate::{forward::pump::Side, multiplex::Stream};

/// Most that is read at once: a frame.
const READ_BYTES: usize = as_usize(FRAME_BYTES_MAX);

/// How much is moved before others may have the thread, in bytes.
const TURN_BYTES: usize = 1 << 20;

thread_local! {
    /// What the next read of this thread goes into; always empty.
    static SPARE: RefCell<BytesMut> = RefCell::default();
}

/// That direction of a stream.
#[derive(Debug, Default)]
pub(super) struct Feed {
    ended: bool,
    /// Bytes that the stream has taken.
    pub(super) bytes: u64,
}

impl Feed {
    /// Whether the target has ended and the gateway was told.
    pub(super) fn is_ended(&self) -> bool {
        self.ended
    }

    /// Moves what can be moved. Ready when the target has ended and the stream was told.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        tcp: &mut TcpStream,
        stream: &mut Stream,
    ) -> Poll<Result<(), (Side, io::Error)>> {
        let mut moved = 0_usize;
        while !self.ended && moved < TURN_BYTES {
            if tcp.poll_read_ready(cx).map_err(|error| (Side::Source, error))?.is_pending() {
                // While nothing is to be sent, this is what tells of a reset.
                let flushed = Pin::new(&mut *stream).poll_flush(cx);
                return match flushed {
                    Poll::Ready(Err(error)) => Poll::Ready(Err((Side::Sink, error))),
                    Poll::Ready(Ok(())) | Poll::Pending => Poll::Pending,
                };
            }
            let room = ready!(stream.poll_room(cx, READ_BYTES));
            let room = room.map_err(|error| (Side::Sink, error))?;
            let Poll::Ready(read) = poll_read(cx, tcp, room) else {
                stream.leave_room();
                continue;
            };
            let bytes = read.map_err(|error| (Side::Source, error))?;
            let count = bytes.len();
            if count == 0 {
                let told = Pin::new(&mut *stream).poll_shutdown(cx);
                ready!(told).map_err(|error| (Side::Sink, error))?;
                self.ended = true;
            } else {
                stream.send(bytes).map_err(|error| (Side::Sink, error))?;
            }
            moved = moved.saturating_add(count);
            self.bytes = self.bytes.saturating_add(u64::try_from(count).unwrap_or(u64::MAX));
        }
        if self.ended {
            return Poll::Ready(Ok(()));
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

/// Reads no more than `room`; nothing at the end.
fn poll_read(cx: &mut Context<'_>, tcp: &mut TcpStream, room: usize) -> Poll<io::Result<Bytes>> {
    SPARE.with_borrow_mut(|spare| {
        spare.reserve(READ_BYTES);
        let mut space = spare.limit(room);
        ready!(pin!(tcp.read_buf(&mut space)).poll(cx))?;
        Poll::Ready(Ok(take(spare)))
    })
}

/// What was read, in no more than twice its own size of memory: it may wait for long.
fn take(spare: &mut BytesMut) -> Bytes {
    if spare.len() >= READ_BYTES / 2 {
        return std::mem::take(spare).freeze();
    }
    let bytes = Bytes::copy_from_slice(spare);
    spare.clear();
    bytes
}

#[cfg(test)]
mod tests {
    #![expect(
        clippy::disallowed_methods,
        reason = "the streams of these tests connect to loopback"
    )]

    use std::future::poll_fn;

    use tokio::{io::AsyncWriteExt as _, net::TcpListener};

    use super::*;

    #[test]
    fn what_waits_for_the_gateway_keeps_at_most_twice_its_size() {
        for count in [0, 1, 1000, READ_BYTES / 2 - 1, READ_BYTES / 2, READ_BYTES] {
            let mut spare = BytesMut::with_capacity(READ_BYTES);
            spare.resize(count, 7);
            let bytes = take(&mut spare);
            assert!(spare.is_empty());
            assert!(bytes == vec![7; count]);
            let kept = bytes.try_into_mut().map_or(0, |bytes| bytes.capacity());
            assert!(kept <= 2 * count + 2, "{count} bytes keep {kept}");
        }
    }

    #[tokio::test]
    async fn no_more_is_read_than_there_is_room_for() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut far = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut tcp, _) = listener.accept().await.unwrap();
        far.write_all(b"hello").await.unwrap();
        far.shutdown().await.unwrap();
        let mut heard = Vec::new();
        loop {
            let bytes = poll_fn(|cx| poll_read(cx, &mut tcp, 2)).await.unwrap();
            if bytes.is_empty() {
                break;
            }
            assert!(bytes.len() <= 2);
            heard.extend_from_slice(&bytes);
        }
        assert_eq!(heard, b"hello");
    }
}
