//! Moves bytes between two streams, both ways, without owning a buffer while nothing moves.
//!
//! Bytes are read into a buffer that all tunnels of a thread share and written at once; only what
//! the other side does not take is kept. An idle tunnel therefore costs no buffer at all. Between
//! two TCP sockets, a direction that has carried much goes on through a pipe, without copies.

use std::{
    cell::RefCell,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::{
    io::{AsyncBufRead, AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

use super::splice::{PIPES, Piped, Pipes};

/// Size of the shared buffer: large enough that a bulk transfer is not bound by system calls, and
/// with TLS or a frame around it no more than the kernel sends as one packet, below 64 KiB.
const BUFFER_BYTES: usize = 62 * 1024;

/// How much one direction moves before it lets others have the thread, in bytes.
const TURN_BYTES: u64 = 1024 * 1024;

/// How much a direction copies before a pipe is worth its calls, in bytes.
const SPLICE_AFTER_BYTES: usize = 256 * 1024;

/// A turn that found less than this, in bytes, is no bulk transfer: small exchanges are cheaper
/// copied.
const BULK_TURN_BYTES: u64 = 4096;

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

/// The TCP socket that a stream is, where it is nothing more.
pub type AsTcp<S> = fn(&S) -> Option<&TcpStream>;

/// What a stream is to be read as that holds its bytes in memory, and need not copy them out of it.
pub type AsLender<S> = fn(&mut S) -> Option<&mut (dyn AsyncBufRead + Unpin)>;

/// One direction of a tunnel.
#[derive(Debug)]
pub struct Pump {
    /// Read, but not taken by the sink yet.
    kept: Vec<u8>,
    taken: usize,
    /// The same, inside the kernel.
    piped: Option<Piped>,
    pipes: &'static Pipes,
    /// Bytes copied since a pipe was last not worth it, or not to be had.
    copied: usize,
    state: State,
    /// Bytes that the sink has taken.
    pub bytes: u64,
    /// Bytes that went from the source into a pipe, without being read.
    pub piped_in: u64,
    /// Bytes that went from a pipe into the sink, without being written.
    pub piped_out: u64,
}

impl Default for Pump {
    fn default() -> Self {
        Self {
            kept: Vec::new(),
            taken: 0,
            piped: None,
            pipes: &PIPES,
            copied: 0,
            state: State::default(),
            bytes: 0,
            piped_in: 0,
            piped_out: 0,
        }
    }
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

    /// What is kept for the sink: all that was read, as long as nothing was written.
    pub fn kept(&self) -> &[u8] {
        self.kept.get(self.taken..).unwrap_or_default()
    }

    /// Keeps more for the sink.
    pub fn keep(&mut self, bytes: &[u8]) {
        self.kept.extend_from_slice(bytes);
    }

    /// Whether the source has ended and the sink was told.
    pub fn is_ended(&self) -> bool {
        self.state == State::Ended
    }

    /// Moves what can be moved. Ready when the source has ended and the sink was shut down.
    pub fn poll(
        &mut self,
        cx: &mut Context<'_>,
        source: Pin<&mut (impl AsyncRead + Unpin + ?Sized)>,
        sink: Pin<&mut (impl AsyncWrite + ?Sized)>,
    ) -> Poll<Result<(), (Side, io::Error)>> {
        self.poll_spliced(cx, source, sink, (|_| None, |_| None), |_| None)
    }

    /// As [`poll`](Self::poll), and through a pipe where both are TCP sockets and it pays, or out of
    /// the memory of a source that lends its bytes.
    pub fn poll_spliced<A, B>(
        &mut self,
        cx: &mut Context<'_>,
        mut source: Pin<&mut A>,
        mut sink: Pin<&mut B>,
        (source_as_tcp, source_as_lender): (AsTcp<A>, AsLender<A>),
        sink_as_tcp: AsTcp<B>,
    ) -> Poll<Result<(), (Side, io::Error)>>
    where
        A: AsyncRead + Unpin + ?Sized,
        B: AsyncWrite + ?Sized,
    {
        let turn_began_at = self.bytes;
        while self.bytes.saturating_sub(turn_began_at) < TURN_BYTES {
            if self.state == State::Ended {
                return Poll::Ready(Ok(()));
            }
            ready!(self.poll_kept(cx, sink.as_mut())).map_err(|error| (Side::Sink, error))?;
            if let (Some(source), Some(sink)) = (source_as_tcp(&source), sink_as_tcp(&sink)) {
                ready!(self.poll_piped(cx, sink)).map_err(|error| (Side::Sink, error))?;
                let filled = self.fill(cx, source, turn_began_at);
                if filled.map_err(|error| (Side::Source, error))? {
                    continue;
                }
            }
            if !self.kept.is_empty() {
                continue;
            }
            if self.state == State::Ending {
                ready!(sink.as_mut().poll_shutdown(cx)).map_err(|error| (Side::Sink, error))?;
                self.state = State::Ended;
                return Poll::Ready(Ok(()));
            }
            let moved = if let Some(lender) = source_as_lender(&mut source) {
                self.poll_lent(cx, lender, sink.as_mut())
            } else {
                BUFFER.with_borrow_mut(|buffer| {
                    self.poll_buffer(cx, source.as_mut(), sink.as_mut(), buffer)
                })
            };
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

    /// Fills the pipe if that pays. False where the copy has to look at the source instead: only
    /// reading tells whether it has ended or what holds it up (splice(2) stops at urgent data), and
    /// makes sure that it wakes us. The pipe is given back by then.
    fn fill(&mut self, cx: &mut Context<'_>, source: &TcpStream, from: u64) -> io::Result<bool> {
        let bulk = self.copied >= SPLICE_AFTER_BYTES && self.state == State::Flowing;
        if !bulk || source.poll_read_ready(cx).is_pending() {
            self.piped = None;
            return Ok(false);
        }
        if self.piped.is_none() {
            self.piped = self.pipes.take();
        }
        let had_pipe = self.piped.is_some();
        if let Some(piped) = &mut self.piped
            && piped.fill(source)?
        {
            add(&mut self.piped_in, piped.holds());
            return Ok(true);
        }
        self.piped = None;
        if !had_pipe || self.bytes.saturating_sub(from) < BULK_TURN_BYTES {
            self.copied = 0;
        }
        Ok(false)
    }

    /// Empties the pipe.
    fn poll_piped(&mut self, cx: &mut Context<'_>, sink: &TcpStream) -> Poll<io::Result<()>> {
        while let Some(piped) = self.piped.as_mut().filter(|piped| piped.holds() > 0) {
            match ready!(piped.poll_empty(cx, sink)) {
                Ok(count) => {
                    self.count(count);
                    add(&mut self.piped_out, count);
                }
                Err(error) if error.kind() == io::ErrorKind::Unsupported => {
                    let held = self.piped.take().map(Piped::into_bytes);
                    self.kept = held.transpose()?.unwrap_or_default();
                    self.copied = 0;
                }
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Writes what the source lends; what the sink does not take stays there.
    fn poll_lent(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut (dyn AsyncBufRead + Unpin),
        sink: Pin<&mut (impl AsyncWrite + ?Sized)>,
    ) -> Poll<Result<(), (Side, io::Error)>> {
        let mut source = Pin::new(source);
        let lent = ready!(source.as_mut().poll_fill_buf(cx));
        let lent = lent.map_err(|error| (Side::Source, error))?;
        if lent.is_empty() {
            self.state = State::Ending;
            return Poll::Ready(Ok(()));
        }
        let count = ready!(sink.poll_write(cx, lent)).map_err(|error| (Side::Sink, error))?;
        if count == 0 {
            return Poll::Ready(Err((Side::Sink, write_zero())));
        }
        source.consume(count);
        self.count(count);
        Poll::Ready(Ok(()))
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
        self.copied = self.copied.saturating_add(rest.len());
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
        add(&mut self.bytes, bytes);
    }
}

fn add(sum: &mut u64, bytes: usize) {
    *sum = sum.saturating_add(u64::try_from(bytes).unwrap_or(u64::MAX));
}

fn write_zero() -> io::Error {
    io::ErrorKind::WriteZero.into()
}

#[cfg(test)]
mod tests {
    #![expect(
        clippy::disallowed_methods,
        reason = "the streams of these tests connect to loopback"
    )]

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
    async fn a_source_that_lends_keeps_what_the_sink_does_not_take() {
        let sent: Vec<u8> = (0..100_000_u32).map(|i| i.to_le_bytes()[0]).collect();
        let mut source = &*sent;
        let (mut sink, mut target) = duplex(4096);
        let mut pump = Pump::default();
        let mut poll = |cx: &mut Context<'_>, source: &mut &[u8], pump: &mut Pump| {
            let (source, sink) = (Pin::new(source), Pin::new(&mut sink));
            pump.poll_spliced(cx, source, sink, (|_| None, |bytes| Some(bytes)), |_| None)
        };
        let waits = poll_fn(|cx| Poll::Ready(poll(cx, &mut source, &mut pump).is_pending())).await;
        assert!(waits);
        assert_eq!((source.len(), pump.bytes, pump.kept().len()), (95_904, 4096, 0));
        let carried = poll_fn(|cx| poll(cx, &mut source, &mut pump));
        let mut received = Vec::new();
        let (carried, read) = tokio::join!(carried, target.read_to_end(&mut received));
        carried.unwrap();
        read.unwrap();
        assert!(received == sent, "{} of {} bytes, or others", received.len(), sent.len());
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

    /// Two TCP streams and what pumps between them: `client` ═ `source` → `sink` ═ `target`.
    struct Line {
        client: TcpStream,
        source: TcpStream,
        sink: TcpStream,
        target: TcpStream,
        pump: Pump,
    }

    async fn line(pipes: &'static Pipes) -> Line {
        let ((client, source), (sink, target)) = (tcp_pair().await, tcp_pair().await);
        Line { client, source, sink, target, pump: Pump { pipes, ..Pump::default() } }
    }

    async fn tcp_pair() -> (TcpStream, TcpStream) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (one, other) = tokio::join!(TcpStream::connect(address), listener.accept());
        (one.unwrap(), other.unwrap().0)
    }

    fn poll_line(
        cx: &mut Context<'_>,
        pump: &mut Pump,
        source: &mut TcpStream,
        sink: &mut TcpStream,
    ) -> Poll<Result<(), (Side, io::Error)>> {
        let (source, sink) = (Pin::new(source), Pin::new(sink));
        pump.poll_spliced(cx, source, sink, (|tcp| Some(tcp), |_| None), |tcp| Some(tcp))
    }

    async fn carry(
        pump: &mut Pump,
        source: &mut TcpStream,
        sink: &mut TcpStream,
    ) -> Result<(), (Side, io::Error)> {
        poll_fn(|cx| poll_line(cx, pump, source, sink)).await
    }

    impl Line {
        /// Pumps until it stands still, for as long as `until` does not hold.
        async fn carry_until(&mut self, until: impl Fn(&Pump) -> bool) {
            let Self { source, sink, pump, .. } = self;
            poll_fn(|cx| {
                assert!(poll_line(cx, pump, source, sink).is_pending());
                if until(pump) { Poll::Ready(()) } else { Poll::Pending }
            })
            .await;
        }

        /// Pumps until the pipe is stuck, because nobody reads; how many bytes were written.
        async fn carry_until_stuck(&mut self) -> usize {
            let mut written = 0;
            let Self { client, source, sink, pump, .. } = self;
            poll_fn(|cx| {
                loop {
                    assert!(poll_line(cx, pump, source, sink).is_pending());
                    let block = pattern(written, 50_000);
                    match Pin::new(&mut *client).poll_write(cx, &block) {
                        Poll::Ready(count) => written += count.unwrap(),
                        Poll::Pending if holds(pump) > 0 => return Poll::Ready(()),
                        Poll::Pending => return Poll::Pending,
                    }
                }
            })
            .await;
            written
        }
    }

    fn holds(pump: &Pump) -> usize {
        pump.piped.as_ref().map_or(0, Piped::holds)
    }

    /// Bytes of a stream whose every place can be told from its neighbours.
    fn pattern(from: usize, count: usize) -> Vec<u8> {
        (from..from + count)
            .map(|at| (at.wrapping_mul(2_654_435_761) >> 13).to_le_bytes()[0])
            .collect()
    }

    /// Sends `count` bytes in odd pieces, then ends.
    async fn speak(mut stream: TcpStream, count: usize) -> TcpStream {
        let mut sent = 0;
        for round in 0.. {
            let piece = [70_001, 1, 4_097, 333_333][round % 4].min(count - sent);
            if piece == 0 {
                break;
            }
            stream.write_all(&pattern(sent, piece)).await.unwrap();
            sent += piece;
        }
        stream.shutdown().await.unwrap();
        stream
    }

    /// Reads to the end, now and then nothing for a while.
    async fn listen(mut stream: TcpStream) -> Vec<u8> {
        let mut heard = Vec::new();
        let mut chunk = vec![0; 150_001];
        for round in 0.. {
            let count = stream.read(&mut chunk).await.unwrap();
            if count == 0 {
                break;
            }
            heard.extend_from_slice(&chunk[..count]);
            for _ in 0..round % 7 {
                tokio::task::yield_now().await;
            }
        }
        heard
    }

    #[tokio::test]
    async fn bulk_goes_through_a_pipe_and_arrives_whole_and_counted() {
        static OWN: Pipes = Pipes::new(4);
        const COUNT: usize = 9_000_001;
        let Line { client, mut source, mut sink, target, mut pump } = line(&OWN).await;
        let carried = carry(&mut pump, &mut source, &mut sink);
        let (_client, result, heard) = tokio::join!(speak(client, COUNT), carried, listen(target));
        result.unwrap();
        assert!(heard == pattern(0, COUNT), "{} bytes, or others, arrived", heard.len());
        assert_eq!(pump.bytes, u64::try_from(COUNT).unwrap());
        assert!(pump.is_ended());
        assert_eq!((OWN.opened(), OWN.idle()), (1, 1), "the pipe was not used, or not given back");
    }

    #[tokio::test]
    async fn both_directions_are_spliced_at_once_and_end_on_their_own() {
        static OWN: Pipes = Pipes::new(4);
        let Line { client, mut source, mut sink, target, mut pump } = line(&OWN).await;
        let mut down = Pump { pipes: &OWN, ..Pump::default() };
        let both = poll_fn(|cx| {
            let up = poll_line(cx, &mut pump, &mut source, &mut sink);
            let down = poll_line(cx, &mut down, &mut sink, &mut source);
            assert!(!matches!(up, Poll::Ready(Err(_))) && !matches!(down, Poll::Ready(Err(_))));
            if up.is_ready() && down.is_ready() { Poll::Ready(()) } else { Poll::Pending }
        });
        let half = async |stream: TcpStream, count| {
            let (read, mut write) = stream.into_split();
            let speaks = async {
                write.write_all(&pattern(0, count)).await.unwrap();
                write.shutdown().await.unwrap();
            };
            let mut read = read;
            let mut heard = Vec::new();
            tokio::join!(speaks, async { read.read_to_end(&mut heard).await.unwrap() });
            heard
        };
        let (at_client, (), at_target) =
            tokio::join!(half(client, 5_000_003), both, half(target, 3_000_001));
        assert!(at_client == pattern(0, 3_000_001));
        assert!(at_target == pattern(0, 5_000_003));
        assert_eq!((pump.bytes, down.bytes), (5_000_003, 3_000_001));
        assert_eq!(OWN.opened(), OWN.idle());
    }

    #[tokio::test]
    async fn an_end_behind_bytes_in_the_pipe_comes_after_them() {
        static OWN: Pipes = Pipes::new(1);
        let mut line = line(&OWN).await;
        let written = line.carry_until_stuck().await;
        line.client.shutdown().await.unwrap();
        line.carry_until(|pump| holds(pump) > 0).await;
        let Line { client: _client, mut source, mut sink, mut target, mut pump } = line;
        let mut heard = Vec::new();
        let read = target.read_to_end(&mut heard);
        let (result, read) = tokio::join!(carry(&mut pump, &mut source, &mut sink), read);
        result.unwrap();
        read.unwrap();
        assert!(heard == pattern(0, written), "{} of {written} bytes", heard.len());
        assert_eq!((OWN.opened(), OWN.idle()), (1, 1));
    }

    #[tokio::test]
    async fn a_reset_while_bytes_flow_names_its_side_and_closes_a_full_pipe() {
        static OWN: Pipes = Pipes::new(1);
        let mut stuck = line(&OWN).await;
        stuck.carry_until_stuck().await;
        assert_eq!((OWN.opened(), OWN.idle()), (1, 0));
        let Line { client: _client, mut source, mut sink, target, mut pump } = stuck;
        target.set_zero_linger().unwrap();
        drop(target);
        let (side, _) = carry(&mut pump, &mut source, &mut sink).await.unwrap_err();
        assert_eq!(side, Side::Sink);
        drop(pump);
        assert_eq!((OWN.opened(), OWN.idle()), (0, 0), "a pipe that holds bytes was kept");

        let mut flowing = line(&OWN).await;
        flowing.carry_until_stuck().await;
        let Line { client, mut source, mut sink, mut target, mut pump } = flowing;
        client.set_zero_linger().unwrap();
        drop(client);
        // Only what makes room shows what is behind it.
        let reads = async {
            let mut chunk = vec![0; 100_000];
            loop {
                let _count = target.read(&mut chunk).await.unwrap();
            }
        };
        tokio::select! {
            result = carry(&mut pump, &mut source, &mut sink) => {
                assert_eq!(result.unwrap_err().0, Side::Source);
            }
            () = reads => {}
        }
    }

    #[tokio::test]
    async fn without_a_pipe_the_bytes_are_copied() {
        static NONE: Pipes = Pipes::new(0);
        let Line { client, mut source, mut sink, target, mut pump } = line(&NONE).await;
        let carried = carry(&mut pump, &mut source, &mut sink);
        let (_client, result, heard) =
            tokio::join!(speak(client, 2_000_003), carried, listen(target));
        result.unwrap();
        assert!(heard == pattern(0, 2_000_003));
        assert_eq!((pump.bytes, NONE.opened()), (2_000_003, 0));
    }

    #[tokio::test]
    async fn a_direction_that_falls_silent_gives_its_pipe_back_and_small_ones_are_copied() {
        static OWN: Pipes = Pipes::new(1);
        let mut line = line(&OWN).await;
        let written = line.carry_until_stuck().await;
        let mut heard = vec![0; written];
        let all = u64::try_from(written).unwrap();
        let Line { source, sink, target, pump, .. } = &mut line;
        let carried = poll_fn(|cx| {
            assert!(poll_line(cx, pump, source, sink).is_pending());
            if pump.bytes == all { Poll::Ready(()) } else { Poll::Pending }
        });
        let (read, ()) = tokio::join!(target.read_exact(&mut heard), carried);
        read.unwrap();
        assert_eq!((OWN.opened(), OWN.idle()), (1, 1));
        for size in [10, 20] {
            line.client.write_all(&pattern(0, size)).await.unwrap();
            let until = line.pump.bytes + u64::try_from(size).unwrap();
            line.carry_until(|pump| pump.bytes == until).await;
        }
        assert_eq!(line.pump.copied, 20, "the second exchange was spliced, as only bulk should be");
    }

    #[tokio::test]
    async fn urgent_data_does_not_hold_a_spliced_direction_up() {
        static OWN: Pipes = Pipes::new(1);
        let Line { mut client, mut source, mut sink, target, mut pump } = line(&OWN).await;
        let speaks = async {
            client.write_all(&pattern(0, 1_000_000)).await.unwrap();
            socket2::SockRef::from(&client).send_out_of_band(b"!").unwrap();
            client.write_all(&pattern(0, 100_000)).await.unwrap();
            client.shutdown().await.unwrap();
        };
        let carried = carry(&mut pump, &mut source, &mut sink);
        let ((), result, heard) = tokio::join!(speaks, carried, listen(target));
        result.unwrap();
        assert_eq!(OWN.opened(), 1);
        assert!(heard.len() >= 1_100_000, "{} bytes arrived", heard.len());
        assert!(heard.ends_with(&pattern(0, 100_000)));
    }

    #[tokio::test]
    async fn what_is_in_a_pipe_can_be_taken_out_to_be_written() {
        static OWN: Pipes = Pipes::new(1);
        let (mut client, source) = tcp_pair().await;
        client.write_all(&pattern(0, 9_999)).await.unwrap();
        source.readable().await.unwrap();
        let mut piped = OWN.take().unwrap();
        assert!(OWN.take().is_none(), "there is one more than there may be");
        assert!(piped.fill(&source).unwrap());
        let count = piped.holds();
        assert!(piped.into_bytes().unwrap() == pattern(0, count));
        assert_eq!((OWN.opened(), OWN.idle()), (1, 1));
    }
}
