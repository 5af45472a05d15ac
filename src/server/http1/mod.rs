//! A client connection that speaks HTTP/1.1 or 1.0: its requests one after the other, each answered
//! by a service, until the connection ends or is for somebody else to go on with.
//!
//! hyper parses and writes; the [`guard`](super::guard) before it decides what it gets to parse.
//! Whatever hyper would refuse with a bare 400 the guard has refused before, with a reason.

#[cfg(test)]
mod tests;

use std::{
    convert::Infallible,
    error::Error,
    fmt,
    future::poll_fn,
    pin::{Pin, pin},
    sync::Arc,
    task::{Poll, ready},
};

use bytes::BytesMut;
use http::{Request, Response, Version};
use hyper::{
    body::{Body, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;

pub use super::guard::{BodyFault, Patience, Stop};
use super::guard::{Guard, Turn};
use crate::forward::interim::Interims;

/// What hyper may hold of an answer that its client does not take, and of a body that the service
/// does not take, in bytes; a whole head in any case.
const BUFFER_BYTES: usize = 64 * 1024;

/// A connection on which no further request is served here.
pub struct Ended<S> {
    /// The socket, open still.
    pub stream: S,
    /// What was read of it and belongs to no request: early bytes of a tunnel, or of the protocol
    /// that was switched to. Of no use otherwise.
    pub early: BytesMut,
    /// Why.
    pub why: Stop,
}

/// Without the stream and its bytes.
impl<S> fmt::Debug for Ended<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ended").field("why", &self.why).finish_non_exhaustive()
    }
}

/// Serves the requests of a connection. `first` is what was read of it so far.
///
/// One request at a time is given to `service`, whose future is dropped when the client goes away.
/// The interim answers that it leaves with the [`Interims`] among the request's extensions go to the
/// client before its own; a client of HTTP/1.0 has no such extension (RFC 9110, section 15.2).
/// The request's body fails with a [`BodyFault`] where it is cut short or malformed, or with the
/// socket's error: whatever is made of the body must then fail too. A service that answers 101 gets
/// the connection back as [`Stop::Upgraded`]; hyper's own upgrades do not work here. An answer whose
/// body fails breaks the connection, as its client must not take it for whole.
///
/// Once `drain` is cancelled answers say `Connection: close`, and an idle connection ends soon.
pub async fn serve<S, F, R, B>(
    stream: S,
    first: BytesMut,
    patience: Patience,
    drain: &CancellationToken,
    service: F,
) -> Ended<S>
where
    S: AsyncRead + AsyncWrite + Unpin,
    F: Fn(Request<Incoming>) -> R,
    R: Future<Output = Response<B>>,
    B: Body + Unpin + 'static,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let turn = Arc::new(Turn::default());
    let guard = Guard::new(stream, first, patience, Arc::clone(&turn));
    let of_answers = Arc::clone(&turn);
    let answer = service_fn(move |mut request: Request<Incoming>| {
        let interims = Interims::default();
        if request.version() == Version::HTTP_11 {
            request.extensions_mut().insert(interims.clone());
        }
        // Boxed, as it is large, and would be moved several times.
        let (answer, turn) = (Box::pin(service(request)), Arc::clone(&of_answers));
        async move {
            let answer = after_interims(&turn, &interims, answer).await;
            Ok::<_, Infallible>(Turn::answer(&turn, answer))
        }
    });
    // At least what hyper takes, and a byte more than any head that the guard lets through.
    let buffer_bytes = BUFFER_BYTES.max(patience.head_bytes.saturating_add(1));
    let mut connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(None)
        .max_buf_size(buffer_bytes)
        .serve_connection(TokioIo::new(guard), answer);
    let mut drained = pin!(drain.cancelled());
    let result = poll_fn(|cx| {
        if !turn.is_draining() && drained.as_mut().poll(cx).is_ready() {
            turn.drain();
        }
        let result = ready!(Pin::new(&mut connection).poll(cx));
        // After a request that offered an upgrade hyper is done before its write buffer is empty.
        // Polled again it empties it: the upgrade is gone by then, and what is left is an ordinary
        // end, at which it flushes and then shuts down (of which the guard makes nothing).
        if result.is_ok() && !turn.is_idle() {
            return Pin::new(&mut connection).poll(cx);
        }
        Poll::Ready(result)
    })
    .await;
    if let Err(error) = &result {
        tracing::debug!(%error, "an HTTP/1 connection ended with an error");
    }
    let whole = turn.is_idle();
    let parts = connection.into_parts();
    let unread = !parts.read_buf.is_empty();
    let (stream, early, why) = parts.io.into_inner().into_parts(result.is_ok(), whole);
    // Bytes of a body that nobody read, and then an upgrade: where the new protocol begins is unclear.
    let why = if unread && matches!(why, Stop::Upgraded) { Stop::Broken } else { why };
    Ended { stream, early, why }
}

/// Waits for an answer, and for the interim ones before it to be on their way: hyper must not write
/// its head until then.
async fn after_interims<T>(turn: &Turn, interims: &Interims, answer: impl Future<Output = T>) -> T {
    let mut answer = pin!(answer);
    let answer = loop {
        tokio::select! {
            biased;
            came = interims.next() => turn.put_interims(&came),
            answer = &mut answer => break answer,
        }
    };
    turn.put_interims(&interims.take());
    // The guard takes them at the next flush, and wakes this task.
    poll_fn(|_| if turn.has_interims() { Poll::Pending } else { Poll::Ready(()) }).await;
    answer
}
