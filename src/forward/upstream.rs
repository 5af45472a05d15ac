//! One request over one connection to a target: found in the pool, or made.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use http::{
    HeaderValue, Request, Response, Uri,
    header::{CONTENT_LENGTH, HOST, TRANSFER_ENCODING},
};
use hyper::{body::Body as _, client::conn::http2, rt::Executor};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio_util::task::TaskTracker;

use super::{
    body::{AnswerBody, Progress, RequestBody},
    interim::{INTERIM_BYTES_MAX, INTERIMS_MAX, Interims},
    line::{GivenUp, Line, Sent},
    noted::{Broken, Noted},
    pool::{Pool, Sender},
};
use crate::{
    egress::{Egress, Notes, Pinned, Ready},
    origin::Origin,
    reason::{Cause, Failure, Refusal},
    target::Target,
    tls::Alpn,
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
pub struct Answered<B = AnswerBody> {
    /// The answer; its body is still to come.
    pub response: Response<B>,
    /// Where it came from.
    pub address: SocketAddr,
}

impl<B> Answered<B> {
    /// The same answer with another body.
    pub fn map<C>(self, change: impl FnOnce(B) -> C) -> Answered<C> {
        let Self { response, address } = self;
        Answered { response: response.map(change), address }
    }
}

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
        // Boxed, as most requests have no use for the room that it takes.
        let opened = Box::pin(self.open(errand, notes)).await?;
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
        let opened = self.begin(errand.target, address, ready).await?;
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
        self.begin(errand.target, address, ready).await
    }

    /// Begins to speak HTTP over a connection.
    async fn begin(
        &self,
        target: &Target,
        address: SocketAddr,
        ready: Ready,
    ) -> Result<Connection, Refusal> {
        let failed = |error: hyper::Error| {
            Refusal::new(Cause::ResponseInvalid, format!("{address}: {error}"))
        };
        let http2 = ready.http2();
        let stream = Noted::new(address, ready);
        let sender = if http2 {
            self.open_http2(stream).await.map_err(failed)?
        } else {
            let host = authority(&target.base.origin);
            let line = Line::open(stream, &host, &self.tasks).await.map_err(failed)?;
            Sender::Http1(Box::new(line))
        };
        Ok(Connection { address, sender, fresh: true })
    }

    async fn open_http2(&self, stream: Noted) -> hyper::Result<Sender> {
        let seen = stream.seen();
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
        Ok(Sender::Http2(sender, seen))
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
    let seen = Arc::clone(sender.seen());
    let told = || told(address, seen.fault()?, fresh);
    let limit = if fresh { errand.response_timeout } else { READY_TIMEOUT };
    if !sender.is_ready()
        && !matches!(tokio::time::timeout(limit, sender.ready()).await, Ok(Ok(())))
    {
        // Another connection may do better where this one has waited, and will say so if not.
        let told = told().filter(|_| fresh);
        return Err(told.map_or(Failed::Unsent(request), Failed::Refused));
    }
    progress.begin();
    let limit = errand.response_timeout;
    let sent = match &mut sender {
        Sender::Http1(line) => {
            address_http1(&mut request, line.host());
            line.send(request, progress, errand.interims, limit).await
        }
        Sender::Http2(http2, _) => {
            address_http2(&mut request, &errand.target.base.origin);
            in_time(limit, progress, http2.try_send_request(request)).await
        }
    };
    match sent {
        Ok(Ok(response)) => {
            let response = response.map(|body| AnswerBody::new(body, sender));
            Ok(Answered { response, address })
        }
        Ok(Err(mut error)) => Err(match (told(), error.take_message()) {
            (told, Some(unsent)) if told.is_none() || !fresh => Failed::Unsent(unsent),
            (Some(told), Some(_)) => Failed::Refused(told),
            (Some(told), None) => Failed::Refused(after_sending(told)),
            (None, _) => Failed::Refused(refusal(address, error.error())),
        }),
        Err(GivenUp::Flooded) => Err(Failed::Refused(flooded(address))),
        Err(GivenUp::Silent) => {
            let detail = format!("{address} gave no answer within {limit:?}");
            Err(Failed::Refused(Refusal::new(Cause::ResponseTimeout, detail)))
        }
    }
}

/// As [`Line::send`], over HTTP/2.
async fn in_time(
    limit: Duration,
    progress: &Progress,
    sent: impl Future<Output = Sent>,
) -> Result<Sent, GivenUp> {
    let mut sent = std::pin::pin!(sent);
    loop {
        let rest = limit.saturating_sub(progress.quiet_for());
        if rest.is_zero() {
            return Err(GivenUp::Silent);
        }
        if let Ok(answer) = tokio::time::timeout(rest, &mut sent).await {
            return Ok(answer);
        }
    }
}

/// Origin-form, with the target's own `Host` (RFC 9112, section 3.2.1).
fn address_http1(request: &mut Request<RequestBody>, host: Option<&HeaderValue>) {
    *request.version_mut() = http::Version::HTTP_11;
    // Absolute where it was meant for HTTP/2 at first.
    let path = request.uri().path_and_query().cloned();
    *request.uri_mut() = path.map_or_else(Uri::default, Uri::from);
    let headers = request.headers();
    if !request.body().is_end_stream() && !headers.contains_key(CONTENT_LENGTH) {
        // Said here, as hyper sends GET and HEAD without their body otherwise.
        request.headers_mut().insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
    if let Some(host) = host {
        request.headers_mut().insert(HOST, host.clone());
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
