//! One request over one connection to a target: found in the pool, or made.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll, ready},
    time::Duration,
};

use http::{
    HeaderValue, Request, Response, Uri,
    header::{CONTENT_LENGTH, HOST, TRANSFER_ENCODING},
};
use hyper::{
    body::{Body as _, Incoming},
    client::conn::{TrySendError, http1, http2},
    rt::Executor,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::task::TaskTracker;

use super::{
    body::{Progress, RequestBody},
    interim::{INTERIM_BYTES_MAX, INTERIMS_MAX, Interims},
    pool::{Pool, Sender},
};
use crate::{
    egress::{Egress, Notes, Pinned, Ready, Stream, tunnel_lost},
    origin::Origin,
    reason::{Cause, Failure, Refusal},
    target::Target,
    tls::{Alpn, ClientCertificate, TlsError, TlsFacts},
};

/// Connections to targets, and the tasks that drive them.
#[derive(Clone, Debug)]
pub struct Upstreams {
    pool: Arc<Pool>,
    tasks: TaskTracker,
}

/// A request for a target, and everything that is decided about its way.
#[derive(Debug)]
pub struct Errand<'a> {
    /// The way out.
    pub egress: &'a Egress,
    /// Whose it is.
    pub target: &'a Target,
    /// Where it goes.
    pub pinned: &'a Pinned,
    /// Whether the request asks for another protocol: then only HTTP/1.1 on a connection of its own.
    pub upgrades: bool,
    /// Where its interim answers go.
    pub interims: &'a Interims,
    /// `limits.response_timeout`.
    pub response_timeout: Duration,
}

/// The head of an answer, and the connection it came over.
#[derive(Debug)]
pub struct Answered<B = Incoming> {
    /// The answer; its body is still to come.
    pub response: Response<B>,
    /// Where it came from.
    pub address: SocketAddr,
    /// To be kept for the next request once the body has ended.
    pub sender: Sender,
}

impl<B> Answered<B> {
    /// The same answer with another body.
    pub fn map<C>(self, change: impl FnOnce(B) -> C) -> Answered<C> {
        let Self { response, address, sender } = self;
        Answered { response: response.map(change), address, sender }
    }
}

/// Longest head of an answer, in bytes.
const HEAD_BYTES_MAX: usize = 256 * 1024;

/// Bytes of a stream that a target may send before the client has taken any.
const WINDOW_BYTES: u32 = 1024 * 1024;

impl Upstreams {
    /// No connections yet.
    pub fn new(tasks: TaskTracker) -> Self {
        Self { pool: Arc::default(), tasks }
    }

    /// The pool, to give a connection back to.
    pub fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }

    /// Sends a request and waits for the head of the answer.
    ///
    /// A connection out of the pool may be closed by the target in the very moment it is used. Only
    /// where nothing of the request had left is it sent again, on a new connection.
    ///
    /// # Errors
    /// Why there is no answer.
    pub async fn send(
        &self,
        errand: &Errand<'_>,
        mut request: Request<RequestBody>,
        progress: &Progress,
        notes: &mut Notes,
    ) -> Result<Answered, Refusal> {
        errand.interims.gather(&mut request);
        let target = errand.target;
        if !errand.upgrades {
            let vetted = errand.pinned.vetted().addresses();
            let route = notes.route.clone();
            while let Some((address, sender)) = self.pool.take(target, vetted, route.as_deref()) {
                notes.pinned = Some(address);
                let kept = Connection { address, sender, fresh: false };
                match attempt(errand, kept, request, progress).await {
                    Ok(answered) => return Ok(answered),
                    Err(Failed::Unsent(unsent)) => request = unsent,
                    Err(Failed::Refused(refusal)) => return Err(refusal),
                }
            }
        }
        let opened = self.open(errand, notes).await?;
        let address = opened.address;
        attempt(errand, opened, request, progress).await.map_err(|failed| failed.refusal(address))
    }

    /// Sends one request over a connection that was opened for it, and waits for the head of the
    /// answer.
    ///
    /// # Errors
    /// Why there is no answer.
    pub async fn send_over(
        &self,
        (address, ready): (SocketAddr, Ready),
        errand: &Errand<'_>,
        request: Request<RequestBody>,
        progress: &Progress,
    ) -> Result<Answered, Refusal> {
        let opened = self.begin(address, ready).await?;
        attempt(errand, opened, request, progress).await.map_err(|failed| failed.refusal(address))
    }

    async fn open(&self, errand: &Errand<'_>, notes: &mut Notes) -> Result<Connection, Refusal> {
        let upstream = errand.egress.connect(errand.pinned, notes).await?;
        let address = upstream.address;
        let alpn = if errand.upgrades { Alpn::Http1 } else { Alpn::Http2 };
        let mut ready = errand.egress.secure(upstream, errand.target, alpn, notes).await?;
        if !errand.upgrades {
            // A request waits for its answer, and can be told. What an upgrade begins is a tunnel of
            // the client's, which may outlast a silence.
            ready.stream.until_lost();
        }
        self.begin(address, ready).await
    }

    /// Begins to speak HTTP over a connection.
    async fn begin(&self, address: SocketAddr, ready: Ready) -> Result<Connection, Refusal> {
        let failed = |error: hyper::Error| {
            Refusal::new(Cause::ResponseInvalid, format!("{address}: {error}"))
        };
        let http2 = ready.http2();
        let stream = Noted {
            stream: ready.stream,
            address,
            facts: ready.facts,
            answered: false,
            fault: Fault::default(),
        };
        let sender = if http2 {
            self.open_http2(stream).await.map_err(failed)?
        } else {
            self.open_http1(stream).await.map_err(failed)?
        };
        Ok(Connection { address, sender, fresh: true })
    }

    async fn open_http1(&self, stream: Noted) -> hyper::Result<Sender> {
        let fault = Arc::clone(&stream.fault);
        let (sender, connection) = http1::Builder::new()
            .max_buf_size(HEAD_BYTES_MAX)
            .handshake(TokioIo::new(stream))
            .await?;
        self.tasks.spawn(async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%error, "a connection to a target ended with an error");
            }
        });
        Ok(Sender::Http1(sender, fault))
    }

    async fn open_http2(&self, stream: Noted) -> hyper::Result<Sender> {
        let fault = Arc::clone(&stream.fault);
        let (sender, connection) = http2::Builder::new(Spawn(self.tasks.clone()))
            .timer(TokioTimer::new())
            .initial_stream_window_size(WINDOW_BYTES)
            .initial_connection_window_size(WINDOW_BYTES.saturating_mul(4))
            .keep_alive_interval(Duration::from_secs(30))
            .keep_alive_timeout(Duration::from_secs(20))
            .handshake(TokioIo::new(stream))
            .await?;
        self.tasks.spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "an HTTP/2 connection to a target ended with an error");
            }
        });
        Ok(Sender::Http2(sender, fault))
    }
}

/// Runs hyper's own tasks under the tracker.
#[derive(Clone)]
struct Spawn(TaskTracker);

impl<F> Executor<F> for Spawn
where
    F: Future<Output: Send> + Send + 'static,
{
    fn execute(&self, future: F) {
        self.0.spawn(future);
    }
}

/// A connection on which one request is tried.
struct Connection {
    address: SocketAddr,
    sender: Sender,
    /// Not out of the pool.
    fresh: bool,
}

/// Why a connection ended, where that is known better than from hyper.
pub type Fault = Arc<OnceLock<Broken>>;

/// What ended a connection.
#[derive(Debug)]
pub enum Broken {
    /// What the target said of TLS once it stood: in TLS 1.3 it looks at the client's certificate,
    /// and refuses it, when the client believes itself ready.
    Tls(TlsError),
    /// The tunnel it went through leads nowhere any more.
    Tunnel(Refusal),
}

/// A stream that notes such a fault when it is read. hyper's errors are not a way to learn of it: it
/// may meet the fault while there is no request, and in HTTP/2 only a text is left of it.
struct Noted {
    stream: Stream,
    address: SocketAddr,
    facts: Option<TlsFacts>,
    /// Whether the target has said anything.
    answered: bool,
    fault: Fault,
}

impl Noted {
    fn note(&self, error: &io::Error) {
        if let Some(lost) = tunnel_lost(error, self.address) {
            drop(self.fault.set(Broken::Tunnel(lost)));
            return;
        }
        let Some(facts) = &self.facts else { return };
        // Where the target resets the connection, its alert may be lost.
        let missing = facts.client_certificate == ClientCertificate::Missing && !self.answered;
        let fault = TlsError::after_handshake(error, facts)
            .or_else(|| missing.then_some(TlsError::ClientCertificate { given: false }));
        if let Some(fault) = fault {
            // Only the first one counts.
            drop(self.fault.set(Broken::Tls(fault)));
        }
    }
}

impl AsyncRead for Noted {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        let read = ready!(Pin::new(&mut this.stream).poll_read(cx, buffer));
        this.answered |= buffer.filled().len() > before;
        Poll::Ready(read.inspect_err(|error| this.note(error)))
    }
}

impl AsyncWrite for Noted {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = ready!(Pin::new(&mut this.stream).poll_write(cx, bytes));
        Poll::Ready(written.inspect_err(|error| this.note(error)))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let flushed = ready!(Pin::new(&mut this.stream).poll_flush(cx));
        Poll::Ready(flushed.inspect_err(|error| this.note(error)))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

enum Failed {
    /// Nothing of it had left.
    Unsent(Request<RequestBody>),
    Refused(Refusal),
}

impl Failed {
    /// On a connection that was new, so that there is no other to try.
    fn refusal(self, address: SocketAddr) -> Refusal {
        match self {
            Self::Refused(refusal) => refusal,
            Self::Unsent(_) => {
                let detail = format!("{address} closed the connection before the request was sent");
                Refusal::new(Cause::ResponseIncomplete, detail)
            }
        }
    }
}

/// How long a connection out of the pool may take to say that it is ready; a new one has as long as
/// an answer.
const READY_TIMEOUT: Duration = Duration::from_millis(20);

async fn attempt(
    errand: &Errand<'_>,
    connection: Connection,
    mut request: Request<RequestBody>,
    progress: &Progress,
) -> Result<Answered, Failed> {
    let Connection { address, mut sender, fresh } = connection;
    let fault = Arc::clone(sender.fault());
    let told = || told(address, fault.get()?, fresh);
    let limit = if fresh { errand.response_timeout } else { READY_TIMEOUT };
    if !matches!(tokio::time::timeout(limit, sender.ready()).await, Ok(Ok(()))) {
        // Another connection may do better where this one has waited, and will say so if not.
        let told = told().filter(|_| fresh);
        return Err(told.map_or(Failed::Unsent(request), Failed::Refused));
    }
    progress.begin();
    let origin = &errand.target.base.origin;
    let sent = match &mut sender {
        Sender::Http1(http1, _) => {
            address_http1(&mut request, origin);
            let sent = in_time(errand, progress, http1.try_send_request(request));
            tokio::select! {
                biased;
                () = errand.interims.exceeded() => {
                    return Err(Failed::Refused(flooded(address)));
                }
                sent = sent => sent,
            }
        }
        Sender::Http2(http2, _) => {
            address_http2(&mut request, origin);
            in_time(errand, progress, http2.try_send_request(request)).await
        }
    };
    match sent {
        Some(Ok(response)) => Ok(Answered { response, address, sender }),
        Some(Err(mut error)) => Err(match (told(), error.take_message()) {
            (told, Some(unsent)) if told.is_none() || !fresh => Failed::Unsent(unsent),
            (Some(told), Some(_)) => Failed::Refused(told),
            (Some(told), None) => Failed::Refused(after_sending(told)),
            (None, _) => Failed::Refused(refusal(address, error.error())),
        }),
        None => {
            let limit = errand.response_timeout;
            let detail = format!("{address} gave no answer within {limit:?}");
            Err(Failed::Refused(Refusal::new(Cause::ResponseTimeout, detail)))
        }
    }
}

/// Waits for the head of the answer, but not longer than the limit after the last byte that went
/// out: a long upload is no slow answer. `None` when the time is up.
async fn in_time(
    errand: &Errand<'_>,
    progress: &Progress,
    sent: impl Future<Output = Result<Response<Incoming>, TrySendError<Request<RequestBody>>>>,
) -> Option<Result<Response<Incoming>, TrySendError<Request<RequestBody>>>> {
    let mut sent = std::pin::pin!(sent);
    loop {
        let rest = errand.response_timeout.saturating_sub(progress.quiet_for());
        if rest.is_zero() {
            return None;
        }
        if let Ok(answer) = tokio::time::timeout(rest, &mut sent).await {
            return Some(answer);
        }
    }
}

/// Origin-form, with the target's own `Host` (RFC 9112, section 3.2.1).
fn address_http1(request: &mut Request<RequestBody>, origin: &Origin) {
    *request.version_mut() = http::Version::HTTP_11;
    // Absolute where it was meant for HTTP/2 at first.
    let path = request.uri().path_and_query().cloned();
    *request.uri_mut() = path.map_or_else(Uri::default, Uri::from);
    let headers = request.headers();
    if !request.body().is_end_stream() && !headers.contains_key(CONTENT_LENGTH) {
        // Said here, as hyper sends GET and HEAD without their body otherwise.
        request.headers_mut().insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
    if let Ok(host) = HeaderValue::from_str(&authority(origin)) {
        request.headers_mut().insert(HOST, host);
    }
}

/// `:scheme`, `:authority` and `:path` (RFC 9113, section 8.3.1).
fn address_http2(request: &mut Request<RequestBody>, origin: &Origin) {
    *request.version_mut() = http::Version::HTTP_2;
    request.headers_mut().remove(HOST);
    request.headers_mut().remove(TRANSFER_ENCODING);
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
    let uri = format!("{}://{}{path}", origin.scheme.as_str(), authority(origin));
    if let Ok(uri) = uri.parse::<Uri>() {
        *request.uri_mut() = uri;
    }
}

fn authority(origin: &Origin) -> String {
    let authority = &origin.authority;
    if authority.port == origin.scheme.default_port() {
        authority.host.to_string()
    } else {
        authority.to_string()
    }
}

/// A target that refuses the client's certificate has not looked at the request.
fn after_sending(told: Refusal) -> Refusal {
    if told.failure() == Failure::TunnelDown { told.after_sending() } else { told }
}

/// What there is to say of a connection that has ended. One that waited has passed TLS.
fn told(address: SocketAddr, broken: &Broken, fresh: bool) -> Option<Refusal> {
    match broken {
        Broken::Tls(tls) => {
            fresh.then(|| Refusal::new(Cause::from(tls), format!("{address}: {tls}")))
        }
        Broken::Tunnel(lost) => Some(lost.clone()),
    }
}

fn flooded(address: SocketAddr) -> Refusal {
    let detail = format!(
        "{address} sent more than {INTERIMS_MAX} interim answers, or {INTERIM_BYTES_MAX} bytes of \
         them"
    );
    Refusal::new(Cause::ResponseInvalid, detail)
}

fn refusal(address: SocketAddr, error: &hyper::Error) -> Refusal {
    let cause = if error.is_user() {
        Cause::RequestBodyBroken
    } else if error.is_parse() || error.is_parse_too_large() {
        Cause::ResponseInvalid
    } else {
        Cause::ResponseIncomplete
    };
    Refusal::new(cause, format!("{address}: {error}"))
}
