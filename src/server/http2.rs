//! A client connection that speaks HTTP/2: many CONNECT streams over one socket (RFC 9113, section 8.5).

use std::{
    convert::Infallible,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf as _, Bytes};
use http::{Method, Request, Response};
use http_body_util::Full;
use hyper::{body::Incoming, service::service_fn, upgrade::Upgraded};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep},
};
use tokio_util::task::TaskTracker;

use super::Server;
use crate::{
    forward::connect::ClientStream,
    gateway::{ClientConn, ConnectRequest},
    reason::{Cause, Refusal},
};

/// Streams that a client may have open at once on one connection.
const STREAMS_MAX: u32 = 256;

/// Streams that a client may have reset before they were looked at (CVE-2023-44487, rapid reset).
const RESETS_MAX: usize = 32;

/// Streams that we may have reset because the client broke the rules (CVE-2025-8671).
const LOCAL_RESETS_MAX: usize = 64;

/// Bytes of one stream that a client may send before the target has taken any.
const STREAM_WINDOW_BYTES: u32 = 256 * 1024;

/// Bytes of all streams together.
const CONNECTION_WINDOW_BYTES: u32 = 1024 * 1024;

/// How often a silent client is asked whether it is still there, and how long it may take to say so.
const PING_INTERVAL: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(20);

/// Serves the connection to its end. `prefix` are the bytes that showed which protocol it speaks.
pub(super) async fn serve<S>(server: &Server, stream: S, prefix: Bytes, from: ClientConn)
where
    S: ClientStream + Send + 'static,
{
    let (header_bytes, first_limit, idle_limit) = {
        let limits = &server.gateway.view.load().limits;
        (limits.max_header_bytes, limits.header_timeout, limits.idle_timeout)
    };
    let activity = Arc::new(Activity::default());
    let answer = {
        let (server, activity) = (server.clone(), Arc::clone(&activity));
        service_fn(move |request| {
            let busy = Busy::begin(&activity);
            let (server, from) = (server.clone(), from.clone());
            async move { Ok::<_, Infallible>(answer(&server, &from, request, busy).await) }
        })
    };
    let connection = hyper::server::conn::http2::Builder::new(Spawn(server.tasks.clone()))
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(u32::try_from(header_bytes).unwrap_or(u32::MAX))
        .max_pending_accept_reset_streams(RESETS_MAX)
        .max_local_error_reset_streams(LOCAL_RESETS_MAX)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT)
        .serve_connection(TokioIo::new(Prefixed { prefix, stream }), answer);
    let mut connection = std::pin::pin!(connection);
    let mut ending = false;
    loop {
        let limit = if activity.was_used() { idle_limit } else { first_limit };
        tokio::select! {
            result = connection.as_mut() => {
                if let Err(error) = result {
                    tracing::debug!(%error, "an HTTP/2 connection ended with an error");
                }
                return;
            }
            () = server.drain.cancelled(), if !ending => {
                ending = true;
                connection.as_mut().graceful_shutdown();
            }
            () = activity.idle_for(limit) => {
                if ending {
                    return;
                }
                ending = true;
                connection.as_mut().graceful_shutdown();
            }
        }
    }
}

async fn answer(
    server: &Server,
    from: &ClientConn,
    mut request: Request<Incoming>,
    busy: Busy,
) -> Response<Full<Bytes>> {
    let read_at = Instant::now();
    let target = match connect_target(&request) {
        Ok(target) => target,
        Err(refusal) => {
            let method = request.method().as_str();
            return server.gateway.refuse(refusal, Some(method), read_at).into_response();
        }
    };
    let headers = std::mem::take(request.headers_mut());
    let asked = ConnectRequest { target: &target, headers: &headers, read_at };
    match server.gateway.connect(from, asked).await {
        Ok(tunnel) => {
            server.tasks.spawn(async move {
                if let Ok(stream) = hyper::upgrade::on(request).await {
                    tunnel.run(TunnelStream::new(stream), Vec::new()).await;
                }
                drop(busy);
            });
            Response::new(Full::default())
        }
        Err(problem) => problem.into_response(),
    }
}

/// `:authority` of a CONNECT request that has neither scheme nor path.
fn connect_target(request: &Request<Incoming>) -> Result<String, Refusal> {
    if request.method() != Method::CONNECT {
        let detail = format!("{} is not served here; only CONNECT host:port is", request.method());
        return Err(Refusal::new(Cause::RequestTargetInvalid, detail));
    }
    let uri = request.uri();
    if let (Some(authority), None, None) = (uri.authority(), uri.scheme(), uri.path_and_query()) {
        return Ok(authority.as_str().to_owned());
    }
    let detail = "CONNECT takes an authority and nothing else";
    Err(Refusal::new(Cause::AuthorityInvalid, detail))
}

/// A client's stream in a tunnel, on which a reset can be told from an end.
///
/// hyper reads `RST_STREAM(CANCEL)` as the end of the stream, and shows only to a writer that it
/// was a reset. A tunnel has to pass a reset on as one (RFC 9113, section 8.5), so an end is
/// believed only once hyper's writing side, a task of its own, has had time to hear otherwise.
struct TunnelStream {
    io: TokioIo<Upgraded>,
    end: End,
}

enum End {
    NotYet,
    Doubted(Pin<Box<Sleep>>),
    Clean,
}

/// How long an end is doubted: time for another task to be polled, even on a busy machine.
const DOUBT: Duration = Duration::from_millis(5);

impl TunnelStream {
    fn new(stream: Upgraded) -> Self {
        Self { io: TokioIo::new(stream), end: End::NotYet }
    }
}

impl AsyncRead for TunnelStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        if matches!(self.end, End::NotYet) {
            let before = buffer.filled().len();
            ready!(Pin::new(&mut self.io).poll_read(cx, buffer))?;
            if buffer.filled().len() > before || buffer.remaining() == 0 {
                return Poll::Ready(Ok(()));
            }
            self.end = End::Doubted(Box::pin(tokio::time::sleep(DOUBT)));
        }
        if let End::Doubted(timer) = &mut self.end {
            ready!(timer.as_mut().poll(cx));
            self.end = End::Clean;
            if let Poll::Ready(Err(_)) = Pin::new(&mut self.io).poll_flush(cx) {
                return Poll::Ready(Err(std::io::ErrorKind::ConnectionReset.into()));
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for TunnelStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

impl ClientStream for TunnelStream {
    fn reset(self) {
        // Dropping a stream that was not ended resets it.
        drop(self);
    }
}

/// How busy a connection is.
#[derive(Debug, Default)]
struct Activity {
    streams: AtomicUsize,
    last: Mutex<Option<Instant>>,
}

impl Activity {
    fn was_used(&self) -> bool {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    fn touch(&self) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// Ready once no stream has been open for `limit`.
    async fn idle_for(&self, limit: Duration) {
        let began = Instant::now();
        loop {
            let last = *self.last.lock().unwrap_or_else(PoisonError::into_inner);
            let quiet = last.unwrap_or(began).elapsed();
            let busy = self.streams.load(Ordering::Acquire) > 0;
            if !busy && quiet >= limit {
                return;
            }
            let rest = if busy { limit } else { limit.saturating_sub(quiet) };
            tokio::time::sleep(rest.max(Duration::from_millis(10))).await;
        }
    }
}

/// A stream that is under way.
struct Busy(Arc<Activity>);

impl Busy {
    fn begin(activity: &Arc<Activity>) -> Self {
        activity.streams.fetch_add(1, Ordering::AcqRel);
        activity.touch();
        Self(Arc::clone(activity))
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.touch();
        self.0.streams.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Runs hyper's own tasks under the server's tracker.
#[derive(Clone)]
struct Spawn(TaskTracker);

impl<F> hyper::rt::Executor<F> for Spawn
where
    F: Future<Output: Send> + Send + 'static,
{
    fn execute(&self, future: F) {
        self.0.spawn(future);
    }
}

/// A stream whose first bytes have been read already.
struct Prefixed<S> {
    prefix: Bytes,
    stream: S,
}

impl<S: AsyncRead + Unpin> AsyncRead for Prefixed<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        if self.prefix.is_empty() {
            return Pin::new(&mut self.stream).poll_read(cx, buffer);
        }
        let count = self.prefix.len().min(buffer.remaining());
        buffer.put_slice(self.prefix.get(..count).unwrap_or_default());
        self.prefix.advance(count);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Prefixed<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
