//! Whose turn it is on a connection: what the guard at the socket has to know of the answer that
//! hyper is writing.
//!
//! The guard lets the next head through only when the answer before it is out. It sees the answer's
//! bytes, but not where they end; the [`Tracked`] body around each answer tells that. Why this is
//! right, by hyper 1.12's `proto/h1/dispatch.rs`:
//!
//! - hyper drops an answer's body only after it has put the last bytes of the message into its write
//!   buffer: `write_head`, `write_body_and_end` and `end_body` each come before the drop, in the same
//!   poll. The one exception is trailers that the request did not ask for (`TE`): there the body is
//!   dropped first and the final chunk is buffered next, but nothing is flushed between, as a buffer
//!   that had room for the trailers still has it.
//! - hyper calls the stream's `poll_flush` only with an empty write buffer. So the first flush that
//!   succeeds after the drop means that the whole answer is with the socket.
//! - One task does all of this, and there is one answer at a time, as the guard lets no second head
//!   through before: a drop cannot be taken for that of another answer.

use std::{
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU8, Ordering::Relaxed},
    },
    task::{Context, Poll},
};

use bytes::{Bytes, BytesMut};
use http::{HeaderValue, Response, StatusCode, header};
use hyper::body::{Body, Frame, SizeHint};

use crate::forward::interim::Interim;

/// No request is under way.
const IDLE: u8 = 0;
/// A request's head went to hyper, and the service has not answered yet.
const ASKED: u8 = 1;
/// The service has answered; hyper writes it.
const ANSWERING: u8 = 2;
/// hyper has the last of the answer, but the socket may not.
const BUFFERED: u8 = 3;

/// Shared by the guard, the service and the bodies of its answers, all in one task: atomics and a
/// lock only so that the task may move between threads.
#[derive(Debug, Default)]
pub(in crate::server) struct Turn {
    phase: AtomicU8,
    switched: AtomicBool,
    draining: AtomicBool,
    last: AtomicBool,
    /// Heads of interim answers that the guard has not taken.
    interims: Mutex<BytesMut>,
}

impl Turn {
    /// Whether no request is under way: the last answer is with the socket as a whole.
    pub(in crate::server) fn is_idle(&self) -> bool {
        self.phase.load(Relaxed) == IDLE
    }

    /// Whether the service is still to answer: nothing of the answer can have been written.
    pub(super) fn is_unanswered(&self) -> bool {
        self.phase.load(Relaxed) == ASKED
    }

    /// Whether the service has agreed to another protocol (101).
    pub(super) fn is_switched(&self) -> bool {
        self.switched.load(Relaxed)
    }

    /// Whether the gateway is shutting down.
    pub(in crate::server) fn is_draining(&self) -> bool {
        self.draining.load(Relaxed)
    }

    /// The gateway is shutting down.
    pub(in crate::server) fn drain(&self) {
        self.draining.store(true, Relaxed);
    }

    /// A head goes to hyper.
    pub(super) fn asked(&self) {
        self.phase.store(ASKED, Relaxed);
    }

    /// Nothing comes after the request that is under way.
    pub(super) fn last(&self) {
        self.last.store(true, Relaxed);
    }

    /// Has the guard write interim answers, before anything else that hyper writes from now on.
    /// Only while the service is still to answer.
    pub(in crate::server) fn put_interims(&self, interims: &[Interim]) {
        let mut into = self.interims();
        for interim in interims {
            interim.write_http1(&mut into);
        }
    }

    /// Whether the guard has not taken some yet.
    pub(in crate::server) fn has_interims(&self) -> bool {
        !self.interims().is_empty()
    }

    /// What is to be written before the next byte of hyper's; only where its last byte was the end
    /// of a message.
    pub(super) fn take_interims(&self) -> Bytes {
        self.interims().split().freeze()
    }

    fn interims(&self) -> MutexGuard<'_, BytesMut> {
        self.interims.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The socket has everything that hyper had to write. Says whether that ends the answer.
    pub(super) fn flushed(&self) -> bool {
        self.phase.compare_exchange(BUFFERED, IDLE, Relaxed, Relaxed).is_ok()
    }

    /// The service's answer, made to tell when it is written.
    pub(in crate::server) fn answer<B>(
        turn: &Arc<Self>,
        mut response: Response<B>,
    ) -> Response<Tracked<B>> {
        turn.phase.store(ANSWERING, Relaxed);
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            turn.switched.store(true, Relaxed);
        } else if turn.is_draining() || turn.last.load(Relaxed) {
            let close = HeaderValue::from_static("close");
            response.headers_mut().insert(header::CONNECTION, close);
        }
        response.map(|body| Tracked { body, turn: Arc::clone(turn) })
    }
}

/// An answer's body that says when hyper is done with it.
#[derive(Debug)]
pub(in crate::server) struct Tracked<B> {
    body: B,
    turn: Arc<Turn>,
}

impl<B> Drop for Tracked<B> {
    fn drop(&mut self) {
        self.turn.phase.store(BUFFERED, Relaxed);
    }
}

impl<B: Body + Unpin> Body for Tracked<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        Pin::new(&mut self.get_mut().body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
