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
        let count = {
            let mut space = spare.limit(room);
            ready!(pin!(tcp.read_buf(&mut space)).poll(cx))?
        };
        // What is sent holds no more than twice its own size until it has gone.
        if count >= READ_BYTES / 2 {
            return Poll::Ready(Ok(std::mem::take(spare).freeze()));
        }
        let bytes = Bytes::copy_from_slice(spare);
        spare.clear();
        Poll::Ready(Ok(bytes))
    })
}

#[cfg(test)]
mod tests {
    #![expect(
        clippy::disallowed_methods,
        reason = "the streams of these tests connect to loopback"
    )]

    use std::future::poll_fn;

    use tokio::{
        io::AsyncWriteExt as _,
        net::{TcpListener, TcpSocket},
    };

    use super::*;

    /// How much memory the bytes of one read keep that finds so many in the socket.
    async fn kept_by(count: usize) -> usize {
        let socket = TcpSocket::new_v4().unwrap();
        // So that all of it can wait in there.
        socket.set_recv_buffer_size(2 * u32::try_from(READ_BYTES).unwrap()).unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let listener = socket.listen(1).unwrap();
        let mut far = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut tcp, _) = listener.accept().await.unwrap();
        far.write_all(&vec![7; count]).await.unwrap();
        let mut found = vec![0; count];
        while tcp.peek(&mut found).await.unwrap() < count {
            tokio::task::yield_now().await;
        }
        let bytes = poll_fn(|cx| poll_read(cx, &mut tcp, READ_BYTES)).await.unwrap();
        assert_eq!(bytes.len(), count.min(READ_BYTES));
        bytes.try_into_mut().unwrap().capacity()
    }

    #[tokio::test]
    async fn what_waits_for_the_gateway_keeps_at_most_twice_its_size() {
        for count in [1, 1000, READ_BYTES / 2 - 1, READ_BYTES / 2, READ_BYTES, READ_BYTES + 1] {
            let kept = kept_by(count).await;
            assert!(kept <= 2 * count.min(READ_BYTES) + 64, "{count} bytes keep {kept}");
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
