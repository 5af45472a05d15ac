//! Interim answers of a target (1xx), on their way to a client that waits for the final one.

use std::{
    future::poll_fn,
    mem,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Poll, Waker},
};

use bytes::{BufMut as _, BytesMut};
use http::{HeaderMap, Request, StatusCode};

use super::fields;

/// Interim answers that a target may give to one request.
pub const INTERIMS_MAX: usize = 16;

/// Bytes of their fields, names and values, all interim answers to one request together.
pub const INTERIM_BYTES_MAX: usize = 64 * 1024;

/// An interim answer as a client may have it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interim {
    /// 102 to 199.
    pub status: StatusCode,
    /// What is left of its fields.
    pub headers: HeaderMap,
}

impl Interim {
    /// Writes it as HTTP/1.1 has it (RFC 9112, section 4).
    pub fn write_http1(&self, into: &mut BytesMut) {
        into.put_slice(b"HTTP/1.1 ");
        into.put_slice(self.status.as_str().as_bytes());
        into.put_u8(b' ');
        into.put_slice(self.status.canonical_reason().unwrap_or_default().as_bytes());
        for (name, value) in &self.headers {
            into.put_slice(b"\r\n");
            into.put_slice(name.as_str().as_bytes());
            into.put_slice(b": ");
            into.put_slice(value.as_bytes());
        }
        into.put_slice(b"\r\n\r\n");
    }
}

/// Where the interim answers to one request wait for its client. A connection that can pass them on
/// puts a clone of it among the request's extensions.
#[derive(Clone, Debug, Default)]
pub struct Interims(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    exceeded: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    waiting: Vec<Interim>,
    /// Who waits for them.
    waker: Option<Waker>,
    count: usize,
    bytes: usize,
}

impl Interims {
    /// Has the target's interim answers to this request gathered here. Of a target that speaks
    /// HTTP/2 none is seen: hyper's client throws them away.
    pub fn gather<B>(&self, request: &mut Request<B>) {
        let this = self.clone();
        hyper::ext::on_informational(request, move |interim| {
            this.add(interim.status(), interim.headers());
        });
    }

    /// Whether the target has sent more than is acceptable.
    pub fn is_exceeded(&self) -> bool {
        self.0.exceeded.load(Ordering::Relaxed)
    }

    /// Waits for the next ones. One at a time may wait.
    pub async fn next(&self) -> Vec<Interim> {
        poll_fn(|cx| {
            let mut state = self.state();
            if !state.waiting.is_empty() {
                return Poll::Ready(mem::take(&mut state.waiting));
            }
            if !state.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
                state.waker = Some(cx.waker().clone());
            }
            Poll::Pending
        })
        .await
    }

    /// Those that are here. All that came before the final answer are, once there is one.
    pub fn take(&self) -> Vec<Interim> {
        mem::take(&mut self.state().waiting)
    }

    /// Leaves one for the client. Every one of the target's counts, of whichever kind. A 100 is not
    /// passed on: the gateway says that itself, to clients that expect it, and asks no target for
    /// it.
    pub fn add(&self, status: StatusCode, headers: &HeaderMap) {
        let lengths =
            headers.iter().map(|(name, value)| name.as_str().len().saturating_add(value.len()));
        let mut state = self.state();
        state.count = state.count.saturating_add(1);
        state.bytes = lengths.fold(state.bytes, usize::saturating_add);
        if state.count > INTERIMS_MAX || state.bytes > INTERIM_BYTES_MAX {
            self.0.exceeded.store(true, Ordering::Relaxed);
        } else if status != StatusCode::CONTINUE {
            let mut headers = headers.clone();
            fields::clean_interim(&mut headers);
            state.waiting.push(Interim { status, headers });
            let waker = state.waker.take();
            drop(state);
            if let Some(waker) = waker {
                waker.wake();
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
