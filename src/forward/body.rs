//! Bodies on their way: counted, timed, and never ended cleanly when they broke.

use std::{
    error::Error,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf as _, Bytes};
use h2::RecvStream;
use http_body_util::Full;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::time::Instant;

use super::{ahead::Ahead, fields, pool::Sender, timer::Timer};

/// What a body fails with. The text goes to the log at most.
pub type BodyError = Box<dyn Error + Send + Sync>;

/// How much of a request's body has gone out, and when it last moved.
#[derive(Debug)]
pub struct Progress {
    began: Instant,
    bytes: AtomicU64,
    last_ms: AtomicU64,
    /// More of the body is wanted, and the client has not sent it.
    starved: AtomicBool,
    /// The connection to the target has all of it.
    sent: AtomicBool,
}

impl Progress {
    /// Nothing has gone out yet.
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            began: Instant::now(),
            bytes: AtomicU64::new(0),
            last_ms: AtomicU64::new(0),
            starved: AtomicBool::new(false),
            sent: AtomicBool::new(false),
        })
    }

    /// Bytes so far.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// The request begins to go out now: what came before is no time of the target's.
    pub fn begin(&self) {
        self.moved(0);
    }

    /// Time for which the target owes something: since the last byte went out, or since the
    /// beginning. While the client owes more of the body it is none.
    pub fn quiet_for(&self) -> Duration {
        if self.starved.load(Ordering::Relaxed) {
            return Duration::ZERO;
        }
        let last = Duration::from_millis(self.last_ms.load(Ordering::Relaxed));
        self.began.elapsed().saturating_sub(last)
    }

    /// Whether the connection to the target has all of it, or wants no more.
    pub(super) fn is_sent(&self) -> bool {
        self.sent.load(Ordering::Relaxed)
    }

    fn moved(&self, bytes: usize) {
        self.bytes.fetch_add(u64::try_from(bytes).unwrap_or(u64::MAX), Ordering::Relaxed);
        let elapsed = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last_ms.store(elapsed, Ordering::Relaxed);
    }
}

/// A body as a client sends it.
#[derive(Debug)]
pub enum ClientBody {
    /// Over HTTP/1.
    Http1(Incoming),
    /// Over HTTP/2.
    Http2(RecvStream),
}

impl Body for ClientBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let stream = match self.get_mut() {
            Self::Http1(body) => return Pin::new(body).poll_frame(cx).map_err(BodyError::from),
            Self::Http2(stream) => stream,
        };
        if let Some(data) = ready!(stream.poll_data(cx)).transpose()? {
            // Whoever polls takes it, so there is room for as much again.
            stream.flow_control().release_capacity(data.len())?;
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        let Some(trailers) = ready!(stream.poll_trailers(cx))? else { return Poll::Ready(None) };
        if trailers.keys().any(fields::trailer_forbidden) {
            let fault = "a trailer field that may only stand in the head of a request";
            return Poll::Ready(Some(Err(fault.into())));
        }
        Poll::Ready(Some(Ok(Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Http1(body) => body.is_end_stream(),
            Self::Http2(stream) => stream.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Http1(body) => body.size_hint(),
            Self::Http2(_) => SizeHint::default(),
        }
    }
}

/// A request's body: as it streams in from the client, or whole where it had to be signed.
#[derive(Debug)]
pub struct RequestBody {
    kind: Kind,
    progress: Arc<Progress>,
}

#[derive(Debug)]
enum Kind {
    Streaming(ClientBody),
    Whole(Full<Bytes>),
}

impl RequestBody {
    /// A body that is passed on as it comes.
    pub fn streaming(body: ClientBody, progress: &Arc<Progress>) -> Self {
        Self { kind: Kind::Streaming(body), progress: Arc::clone(progress) }
    }

    /// A body that has been read whole.
    pub fn whole(body: Bytes, progress: &Arc<Progress>) -> Self {
        Self { kind: Kind::Whole(Full::new(body)), progress: Arc::clone(progress) }
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        self.progress.sent.store(true, Ordering::Relaxed);
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let polled = match &mut self.kind {
            Kind::Streaming(body) => Pin::new(body).poll_frame(cx),
            Kind::Whole(body) => Pin::new(body).poll_frame(cx).map_err(BodyError::from),
        };
        if let Poll::Ready(frame) = &polled {
            let data = frame.as_ref().and_then(|frame| frame.as_ref().ok()?.data_ref());
            self.progress.moved(data.map_or(0, Bytes::remaining));
        }
        self.progress.starved.store(polled.is_pending(), Ordering::Relaxed);
        polled
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Streaming(body) => body.is_end_stream(),
            Kind::Whole(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Streaming(body) => body.size_hint(),
            Kind::Whole(body) => body.size_hint(),
        }
    }
}

/// A target's body as it comes in, and the connection that brings it.
#[derive(Debug)]
pub struct AnswerBody {
    body: Incoming,
    sender: Option<Sender>,
}

impl AnswerBody {
    /// What `sender`'s connection brings.
    pub(super) fn new(body: Incoming, sender: Sender) -> Self {
        Self { body, sender: Some(sender) }
    }

    /// The connection, to be kept for the next request: only once the body has ended.
    pub(super) fn release(&mut self) -> Option<Sender> {
        self.sender.take()
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<hyper::Result<Frame<Bytes>>>> {
        let Self { body, sender } = self.get_mut();
        let mut polled = match sender {
            Some(Sender::Http1(line)) => line.poll_body(body, cx),
            Some(Sender::Http2(..)) | None => Pin::new(body).poll_frame(cx),
        };
        if let Poll::Ready(Some(Ok(frame))) = &mut polled
            && let Some(trailers) = frame.trailers_mut()
        {
            fields::clean_trailers(trailers);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// What is told of an answer's body as it flows.
pub trait Watch: Send + Unpin + 'static {
    /// Bytes went to the client.
    fn moved(&mut self, bytes: usize);
    /// The body came to its end, and its connection is free for the next request; given once.
    fn ended(&mut self, sender: Option<Sender>);
    /// The target broke off, or fell silent.
    fn broke(&mut self, word: &'static str);
}

/// An answer's body: the target's, watched, or one of the gateway's own.
pub struct ResponseBody {
    kind: Answer,
}

enum Answer {
    Own(Full<Bytes>),
    Targets { body: Ahead, watch: Box<dyn Watch>, idle: Duration, timer: Timer },
}

impl std::fmt::Debug for ResponseBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ResponseBody").finish_non_exhaustive()
    }
}

impl ResponseBody {
    /// A body of the gateway's own.
    pub fn own(body: Full<Bytes>) -> Self {
        Self { kind: Answer::Own(body) }
    }

    /// The target's body; it may fall silent for `idle`.
    pub fn of_target(mut body: Ahead, mut watch: Box<dyn Watch>, idle: Duration) -> Self {
        if body.is_end_stream() {
            watch.ended(body.release());
        }
        Self { kind: Answer::Targets { body, watch, idle, timer: Timer::default() } }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let (body, watch, idle, timer) = match &mut self.kind {
            Answer::Own(body) => return Pin::new(body).poll_frame(cx).map_err(BodyError::from),
            Answer::Targets { body, watch, idle, timer } => (body, watch, *idle, timer),
        };
        match Pin::new(&mut *body).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                timer.clear();
                watch.moved(frame.data_ref().map_or(0, Bytes::remaining));
                if body.is_end_stream() {
                    watch.ended(body.release());
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => {
                watch.broke("response_incomplete");
                Poll::Ready(Some(Err(error.into())))
            }
            Poll::Ready(None) => {
                watch.ended(body.release());
                Poll::Ready(None)
            }
            Poll::Pending => {
                timer.set_once(idle);
                ready!(timer.poll(cx));
                watch.broke("idle_timeout");
                Poll::Ready(Some(Err("the target fell silent".into())))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Answer::Own(body) => body.is_end_stream(),
            Answer::Targets { body, .. } => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Answer::Own(body) => body.size_hint(),
            Answer::Targets { body, .. } => body.size_hint(),
        }
    }
}
