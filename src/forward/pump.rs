//! Moves bytes between two streams, both ways, without owning a buffer while nothing moves.
//!
//! Bytes are read into a buffer that all tunnels of a thread share and written at once; only what
//! the other side does not take is kept. An idle tunnel therefore costs no buffer at all.

use std::{
    cell::RefCell,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Size of the shared buffer: large enough that a bulk transfer is not bound by system calls.
const BUFFER_BYTES: usize = 64 * 1024;

/// How many buffers one direction moves before it lets others have the thread.
const BUFFERS_PER_TURN: usize = 16;

thread_local! {
    static BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; BUFFER_BYTES].into());
}

/// Which of the two streams an error came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The one that is read.
    Source,
    /// The one that is written.
    Sink,
}

/// One direction of a tunnel.
#[derive(Debug, Default)]
pub struct Pump {
    /// Read, but not taken by the sink yet.
    kept: Vec<u8>,
    taken: usize,
    state: State,
    /// Bytes that the sink has taken.
    pub bytes: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Flowing,
    /// The source has ended; the sink is told once everything is written.
    Ending,
    Ended,
}

impl Pump {
    /// A direction that begins with bytes that were read before.
    pub fn beginning_with(bytes: Vec<u8>) -> Self {
        Self { kept: bytes, ..Self::default() }
    }

    /// Whether the source has ended and the sink was told.
    pub fn is_ended(&self) -> bool {
        self.state == State::Ended
    }

    /// Moves what can be moved. Ready when the source has ended and the sink was shut down.
    pub fn poll(
        &mut self,
        cx: &mut Context<'_>,
        mut source: Pin<&mut (impl AsyncRead + ?Sized)>,
        mut sink: Pin<&mut (impl AsyncWrite + ?Sized)>,
    ) -> Poll<Result<(), (Side, io::Error)>> {
        for _ in 0..BUFFERS_PER_TURN {
            if self.state == State::Ended {
                return Poll::Ready(Ok(()));
            }
            ready!(self.poll_kept(cx, sink.as_mut())).map_err(|error| (Side::Sink, error))?;
            if self.state == State::Ending {
                ready!(sink.as_mut().poll_shutdown(cx)).map_err(|error| (Side::Sink, error))?;
                self.state = State::Ended;
                return Poll::Ready(Ok(()));
            }
            let moved = BUFFER.with_borrow_mut(|buffer| {
                self.poll_buffer(cx, source.as_mut(), sink.as_mut(), buffer)
            });
            match moved {
                Poll::Ready(result) => result?,
                Poll::Pending => {
                    // A sink with a buffer of its own (TLS) must not sit on the last bytes.
                    if let Poll::Ready(Err(error)) = sink.as_mut().poll_flush(cx) {
                        return Poll::Ready(Err((Side::Sink, error)));
                    }
                    return Poll::Pending;
                }
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Reads one buffer and writes it; what the sink does not take is kept.
    fn poll_buffer(
        &mut self,
        cx: &mut Context<'_>,
        source: Pin<&mut (impl AsyncRead + ?Sized)>,
        mut sink: Pin<&mut (impl AsyncWrite + ?Sized)>,
        buffer: &mut [u8],
    ) -> Poll<Result<(), (Side, io::Error)>> {
        let mut read = ReadBuf::new(buffer);
        ready!(source.poll_read(cx, &mut read)).map_err(|error| (Side::Source, error))?;
        let mut rest = read.filled();
        if rest.is_empty() {
            self.state = State::Ending;
        }
        while !rest.is_empty() {
            match sink.as_mut().poll_write(cx, rest) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err((Side::Sink, write_zero()))),
                Poll::Ready(Ok(count)) => {
                    self.count(count);
                    rest = rest.get(count..).unwrap_or_default();
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err((Side::Sink, error))),
                Poll::Pending => {
                    self.kept.extend_from_slice(rest);
                    break;
                }
            }
        }
        Poll::Ready(Ok(()))
    }

    fn poll_kept(
        &mut self,
        cx: &mut Context<'_>,
        mut sink: Pin<&mut (impl AsyncWrite + ?Sized)>,
    ) -> Poll<io::Result<()>> {
        while let Some(rest) = self.kept.get(self.taken..).filter(|rest| !rest.is_empty()) {
            let count = ready!(sink.as_mut().poll_write(cx, rest))?;
            if count == 0 {
                return Poll::Ready(Err(write_zero()));
            }
            self.taken = self.taken.saturating_add(count);
            self.count(count);
        }
        // Given back, not cleared: a tunnel that was slow once does not stay large.
        self.kept = Vec::new();
        self.taken = 0;
        Poll::Ready(Ok(()))
    }

    fn count(&mut self, bytes: usize) {
        self.bytes = self.bytes.saturating_add(u64::try_from(bytes).unwrap_or(u64::MAX));
    }
}

fn write_zero() -> io::Error {
    io::ErrorKind::WriteZero.into()
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    use super::*;

    #[tokio::test]
    async fn every_byte_arrives_in_order_through_a_sink_that_takes_little() {
        let sent: Vec<u8> =
            (0..1_000_000_u32).map(|i| i.to_le_bytes()[0] ^ i.to_le_bytes()[1]).collect();
        let (mut client, mut source) = duplex(300_000);
        let (mut sink, mut target) = duplex(7);
        let expected = sent.clone();
        let write = async move {
            client.write_all(&sent).await.unwrap();
            client.shutdown().await.unwrap();
        };
        let pump = async {
            let mut pump = Pump::beginning_with(b"first".to_vec());
            poll_fn(|cx| pump.poll(cx, Pin::new(&mut source), Pin::new(&mut sink))).await.unwrap();
            pump.bytes
        };
        let read = async {
            let mut received = Vec::new();
            target.read_to_end(&mut received).await.unwrap();
            received
        };
        let ((), count, received) = tokio::join!(write, pump, read);
        assert_eq!(count, 1_000_005);
        assert_eq!(received.split_off_first(5), (b"first".to_vec(), expected));
    }

    trait SplitOffFirst {
        fn split_off_first(self, at: usize) -> (Vec<u8>, Vec<u8>);
    }

    impl SplitOffFirst for Vec<u8> {
        fn split_off_first(mut self, at: usize) -> (Vec<u8>, Vec<u8>) {
            let rest = self.split_off(at);
            (self, rest)
        }
    }

    #[tokio::test]
    async fn an_error_names_its_side() {
        let (mut source, client) = duplex(8);
        let (mut sink, target) = duplex(8);
        drop(target);
        let mut client = client;
        client.write_all(b"x").await.unwrap();
        let mut pump = Pump::default();
        let result = poll_fn(|cx| pump.poll(cx, Pin::new(&mut source), Pin::new(&mut sink))).await;
        assert_eq!(result.unwrap_err().0, Side::Sink);
    }
}
