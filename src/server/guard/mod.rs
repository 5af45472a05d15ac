//! Stands between a client's socket and hyper's HTTP/1 server, and passes only what every reader of
//! HTTP frames alike.
//!
//! hyper takes more than this gateway does: bare line feeds, chunk extensions with anything in them,
//! the next request while the last is being answered. So the guard reads first, with the gateway's
//! own strict readers, and hyper gets
//!
//! - a head, once the whole of it is here and was accepted, and nothing of it otherwise;
//! - as much body as that head frames, checked where it is chunked;
//! - the next head only when the answer before it is with the socket (see [`turn`]);
//! - at the first thing that is refused, a clean end between two messages, or an error within one.
//!
//! Bytes for which it is too early wait here, within bounds; beyond them the guard stops reading and
//! the client's own buffers fill.
//!
//! **A client that goes away.** Reading ends (FIN) both when a client has closed and when it has only
//! shut down its sending side and waits for the answer; TCP tells them apart only when something is
//! sent: to a closed socket, RST comes back. So while the service works for a client that has ended
//! its sending side, a few `100 Continue` are sent, which RFC 9110 §15.2 has every HTTP/1.1 client
//! skip. Whoever waits gets the answer behind them; the work for one that has gone is dropped within
//! a second or two. Once an answer flows its own bytes ask, and HTTP/1.0 knows no interim responses:
//! its clients are taken to be waiting.
//!
//! **Interim answers.** hyper's server cannot send any but a `100 Continue` of its own. Those of a
//! target are written here, between two messages of hyper's: it flushes only with an empty write
//! buffer, and gets no answer to write while one of them waits for that (see [`turn`]).

mod stop;
mod stream;
mod turn;

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf as _, Bytes, BytesMut};
use http::{Method, Uri, Version};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};

use super::{
    chunked::{self, ChunkFault},
    head::{Framing, Head, HeadFault, Scan, Scanner},
};
use crate::{
    forward::timer::Timer,
    reason::{Cause, Refusal},
};
pub use stop::{BodyFault, Stop};
use stop::{late, malformed};
pub(super) use turn::Turn;

/// What may wait here while an answer is being made, in bytes.
const HELD_BYTES_MAX: usize = 64 * 1024;

/// Bodies of this length, in bytes, and longer ones, are refused: hyper cannot count much further.
const BODY_BYTES_MAX: u64 = u64::MAX - 2;

/// How long an idle connection stays open once the gateway is shutting down: a request that is on its
/// way already is to be told why it is not served.
const DRAIN_PATIENCE: Duration = Duration::from_secs(1);

/// Asks a client that has shut down its sending side whether it is still there.
const PROBE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// When the first is sent; each further one after twice the time. Go's client takes five.
const PROBE_AFTER: Duration = Duration::from_millis(250);
const PROBES_MAX: u32 = 4;

/// How long and how much a client may take.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// Most bytes of a head, `limits.max_header_bytes`.
    pub head_bytes: usize,
    /// From the first byte of a head to its last, `limits.header_timeout`.
    pub header_timeout: Duration,
    /// Between two requests, and without a byte taken or given within one, `limits.idle_timeout`.
    pub idle_timeout: Duration,
}

/// The stream that hyper sees.
#[derive(Debug)]
pub(super) struct Guard<S> {
    stream: S,
    turn: Arc<Turn>,
    patience: Patience,
    stage: Stage,
    /// Read, and not passed on yet.
    held: BytesMut,
    /// So many of those may go to hyper.
    passing: usize,
    /// The client sends nothing more.
    eof: bool,
    probes: Probes,
    read_timer: Timer,
    write_timer: Timer,
    stop: Option<Stop>,
}

/// What the client's next bytes are.
#[derive(Debug)]
enum Stage {
    /// A head; whether its first byte is here.
    Head { scanner: Scanner, begun: bool },
    /// A body.
    Body(Body),
    /// Another request's: this one is here as a whole, and its answer is awaited.
    Answer,
    /// Not to be passed on as it cannot be understood.
    Failed(BodyFault),
    /// Not hyper's any more.
    Stopped,
}

/// What is left of a body.
#[derive(Debug)]
enum Body {
    Length(u64),
    Chunked(chunked::Scanner),
}

/// Of the answer that is awaited.
#[derive(Debug, Default)]
struct Probes {
    /// The client knows of interim responses: it speaks HTTP/1.1.
    understood: bool,
    sent: u32,
    /// What the socket has not taken yet of probes and of a target's interim answers.
    left: Bytes,
    /// Bytes that hyper wrote: before the service has answered, nothing or a `100 Continue` of its own.
    written: usize,
}

impl Body {
    /// How many of the next bytes are its own, and whether it ends with them.
    fn take(&mut self, bytes: &[u8]) -> Result<(usize, bool), ChunkFault> {
        match self {
            Self::Length(left) => {
                let here = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                *left = left.saturating_sub(u64::try_from(here).unwrap_or(u64::MAX));
                Ok((here, *left == 0))
            }
            Self::Chunked(scanner) => {
                let progress = scanner.feed(bytes)?;
                Ok((progress.valid, progress.ended))
            }
        }
    }

    /// How much may be read for it at once, in bytes.
    fn room(&self) -> u64 {
        match self {
            Self::Length(left) => *left,
            Self::Chunked(_) => u64::MAX,
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Guard<S> {
    /// Begins with what was read of the connection already: the first head, and what followed it.
    pub(super) fn new(stream: S, first: BytesMut, patience: Patience, turn: Arc<Turn>) -> Self {
        let mut read_timer = Timer::default();
        read_timer.set(patience.header_timeout);
        Self {
            stream,
            turn,
            patience,
            stage: Stage::Head { scanner: Scanner::new(patience.head_bytes), begun: true },
            held: first,
            passing: 0,
            eof: false,
            probes: Probes::default(),
            read_timer,
            write_timer: Timer::default(),
            stop: None,
        }
    }

    /// The stream, what was read of it and belongs to nobody yet, and why this is the end. `clean`
    /// is whether hyper is done without an error, `whole` whether all it wrote is with the socket.
    pub(super) fn into_parts(mut self, clean: bool, whole: bool) -> (S, BytesMut, Stop) {
        let switched = self.turn.is_switched();
        let stop = match self.stop.take() {
            _ if !clean || !whole => Stop::Broken,
            _ if switched && matches!(self.stage, Stage::Stopped) => Stop::Upgraded,
            _ if switched => Stop::Broken,
            stop => stop.unwrap_or(Stop::Closed),
        };
        (self.stream, self.held, stop)
    }

    fn end(&mut self, stop: Stop) {
        self.stop = Some(stop);
        self.stage = Stage::Stopped;
        self.read_timer.clear();
    }

    /// Within a request's body: the service is told by the body's error, and may still answer.
    fn fail(&mut self, fault: BodyFault) -> io::Error {
        self.stage = Stage::Failed(fault);
        self.turn.last();
        fault.into()
    }

    /// Between two requests.
    fn await_head(&mut self) {
        let scanner = Scanner::new(self.patience.head_bytes);
        self.stage = Stage::Head { scanner, begun: false };
        self.read_timer.set(self.patience.idle_timeout);
        if self.held.is_empty() {
            // an idle connection keeps no memory for what it may send
            self.held = BytesMut::new();
        }
    }

    /// Reads more into `held`. `buffer` is where the bytes come in, no more.
    fn poll_more(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
        room: usize,
    ) -> Poll<io::Result<usize>> {
        let before = buffer.filled().len();
        let room = u64::try_from(room).unwrap_or(u64::MAX);
        ready!(Pin::new(&mut (&mut self.stream).take(room)).poll_read(cx, buffer))?;
        let new = buffer.filled().get(before..).unwrap_or_default();
        let count = new.len();
        self.held.extend_from_slice(new);
        buffer.set_filled(before);
        Poll::Ready(Ok(count))
    }

    /// Ready once there is a head to pass on, or none will be.
    fn poll_head(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<()> {
        loop {
            if !self.held.is_empty() && self.scan_head() {
                return Poll::Ready(());
            }
            if self.eof {
                // Also where a head was begun and not ended: nobody waits for its answer.
                self.end(Stop::Closed);
                return Poll::Ready(());
            }
            let room = self.patience.head_bytes.saturating_sub(self.held.len()).max(1);
            match self.poll_more(cx, buffer, room) {
                Poll::Ready(Ok(0) | Err(_)) => self.eof = true,
                Poll::Ready(Ok(_)) => {}
                Poll::Pending => return self.poll_patience(cx),
            }
        }
    }

    /// Says whether the head is decided.
    fn scan_head(&mut self) -> bool {
        let Stage::Head { scanner, begun } = &mut self.stage else { return true };
        match scanner.scan(&self.held) {
            Ok(Scan::Incomplete) => {
                if !*begun {
                    *begun = true;
                    self.read_timer.set(self.patience.header_timeout);
                }
                return false;
            }
            Ok(Scan::Head(head, bytes)) => self.admit(head, bytes),
            // only a connection as a whole can be HTTP/2
            Ok(Scan::Http2Preface) => self.end(Stop::Fault(malformed(HeadFault::Version))),
            Err(fault) => self.end(Stop::Fault(malformed(fault))),
        }
        true
    }

    /// While a head is awaited: how long still.
    fn poll_patience(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let begun = matches!(self.stage, Stage::Head { begun: true, .. });
        if self.turn.is_draining() && !begun {
            self.read_timer.set_at_most(DRAIN_PATIENCE);
        }
        ready!(self.read_timer.poll(cx));
        self.end(if begun {
            Stop::Fault(late(self.patience.header_timeout))
        } else {
            Stop::Closed
        });
        Poll::Ready(())
    }

    /// Lets a head of `bytes` through, and what is here of its body.
    fn admit(&mut self, head: Box<Head>, bytes: usize) {
        if head.method == Method::CONNECT {
            self.held.advance(bytes);
            return self.end(Stop::Connect(head));
        }
        if let Err(refusal) = check_representable(&head) {
            return self.end(Stop::Fault(refusal));
        }
        self.turn.asked();
        let understood = head.version == Version::HTTP_11;
        self.probes = Probes { understood, ..Probes::default() };
        self.passing = bytes;
        self.stage = match head.framing {
            Framing::Empty | Framing::Length(0) => Stage::Answer,
            Framing::Length(length) => Stage::Body(Body::Length(length)),
            Framing::Chunked => Stage::Body(Body::Chunked(chunked::Scanner::new())),
        };
        self.read_timer.clear();
        self.pass_held_body();
    }

    /// Lets through what is held of a body.
    fn pass_held_body(&mut self) {
        let Stage::Body(body) = &mut self.stage else { return };
        match body.take(self.held.get(self.passing..).unwrap_or_default()) {
            Ok((count, ended)) => {
                self.passing = self.passing.saturating_add(count);
                if ended {
                    self.stage = Stage::Answer;
                }
            }
            // passed on once the head is
            Err(fault) => drop(self.fail(fault.into())),
        }
    }

    /// Reads a body into hyper's own buffer, without a copy.
    fn poll_body(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Stage::Body(body) = &mut self.stage else { return Poll::Ready(Ok(())) };
        let before = buffer.filled().len();
        match Pin::new(&mut (&mut self.stream).take(body.room())).poll_read(cx, buffer) {
            Poll::Ready(result) => result?,
            Poll::Pending => {
                self.read_timer.set_once(self.patience.idle_timeout);
                ready!(self.read_timer.poll(cx));
                return Poll::Ready(Err(self.fail(BodyFault::Stalled)));
            }
        }
        self.read_timer.clear();
        let new = buffer.filled().get(before..).unwrap_or_default();
        let taken = if new.is_empty() {
            self.eof = true;
            Err(BodyFault::Truncated)
        } else {
            body.take(new).map_err(BodyFault::from)
        };
        let (count, ended) = match taken {
            Ok(taken) => taken,
            Err(fault) => {
                buffer.set_filled(before);
                return Poll::Ready(Err(self.fail(fault)));
            }
        };
        self.held.extend_from_slice(new.get(count..).unwrap_or_default());
        buffer.set_filled(before.saturating_add(count));
        if ended {
            self.stage = Stage::Answer;
        }
        Poll::Ready(Ok(()))
    }

    /// While an answer is awaited: takes in what comes for later, and notices when nobody waits.
    fn poll_answer(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while !self.eof && self.held.len() < HELD_BYTES_MAX {
            let room = HELD_BYTES_MAX.saturating_sub(self.held.len());
            if ready!(self.poll_more(cx, buffer, room))? == 0 {
                self.eof = true;
            }
        }
        if self.eof {
            self.poll_probes(cx)?;
        }
        Poll::Pending
    }

    /// Asks a client that has ended its sending side whether it is still there: an error when not.
    fn poll_probes(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        let between_messages = self.probes.written == 0 || self.probes.written == PROBE.len();
        if !self.probes.understood || !between_messages || !self.turn.is_unanswered() {
            return Ok(());
        }
        loop {
            if let Poll::Ready(result) = self.poll_left(cx) {
                result?;
            }
            if self.probes.sent >= PROBES_MAX || !self.probes.left.is_empty() {
                return Ok(());
            }
            let wait = PROBE_AFTER.saturating_mul(1 << self.probes.sent);
            self.read_timer.set_once(wait);
            if self.read_timer.poll(cx).is_pending() {
                return Ok(());
            }
            self.probes.sent = self.probes.sent.saturating_add(1);
            self.probes.left = Bytes::from_static(PROBE);
        }
    }

    /// Ready once the socket has what was begun, a probe or interim answers.
    fn poll_left(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.probes.left.is_empty() {
            return Poll::Ready(Ok(()));
        }
        while !self.probes.left.is_empty() {
            let written = ready!(Pin::new(&mut self.stream).poll_write(cx, &self.probes.left))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.probes.left.advance(written);
            self.write_timer.clear();
        }
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    /// Ready once the socket has everything. hyper flushes when its own last byte is written, so
    /// this is the place between two messages where interim answers go.
    fn poll_flush_all(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            ready!(self.poll_left(cx))?;
            self.probes.left = self.turn.take_interims();
            if self.probes.left.is_empty() {
                return Pin::new(&mut self.stream).poll_flush(cx);
            }
            // The answer behind them waited until they were taken.
            cx.waker().wake_by_ref();
        }
    }

    /// What a write or flush came to; one that is stuck for too long fails.
    fn in_time<T>(
        &mut self,
        cx: &mut Context<'_>,
        result: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if result.is_ready() {
            self.write_timer.clear();
            return result;
        }
        self.write_timer.set_once(self.patience.idle_timeout);
        ready!(self.write_timer.poll(cx));
        let stuck = "the client took no byte of its answer within limits.idle_timeout";
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, stuck)))
    }

    fn poll_write_with(
        &mut self,
        cx: &mut Context<'_>,
        write: impl FnOnce(Pin<&mut S>, &mut Context<'_>) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        let result = match self.poll_left(cx) {
            Poll::Ready(Ok(())) => write(Pin::new(&mut self.stream), cx),
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => Poll::Pending,
        };
        let written = ready!(self.in_time(cx, result))?;
        self.probes.written = self.probes.written.saturating_add(written);
        Poll::Ready(Ok(written))
    }
}

/// What hyper could not take, and would answer in words of its own.
fn check_representable(head: &Head) -> Result<(), Refusal> {
    if head.target.parse::<Uri>().is_err() {
        let detail = "the request target is not a URI, or longer than 65534 characters";
        return Err(Refusal::new(Cause::RequestTargetInvalid, detail));
    }
    match head.framing {
        Framing::Length(BODY_BYTES_MAX..) => Err(malformed(HeadFault::ContentLengthInvalid)),
        Framing::Length(_) | Framing::Empty | Framing::Chunked => Ok(()),
    }
}
