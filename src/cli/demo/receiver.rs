//! A receiver on loopback, as a customer would run it: HTTPS, with a certificate made for the demo,
//! and a place for webhooks that verifies their signatures.

use std::{
    convert::Infallible,
    fmt, io,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{
    Request, Response, StatusCode,
    header::{HOST, LOCATION},
    request::Parts,
};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use rcgen::{CertificateParams, DnType, KeyPair, date_time_ymd};
use rustls::{ServerConfig, crypto::aws_lc_rs};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tokio_rustls::TlsAcceptor;

use crate::{secret::Secret, webhook::verify::verify};

/// Where webhooks are delivered.
pub(super) const DELIVERIES: &str = "/deliveries";

/// What has moved to another site.
pub(super) const MOVED: &str = "/moved";

/// Largest delivery that is read, in bytes: more than those of the demo.
const DELIVERY_BYTES_MAX: usize = 64 * 1024;

/// How far the time of a delivery may be off, as `docs/receivers.md` advises.
const TOLERANCE: Duration = Duration::from_mins(5);

/// Longest time a connection to the receiver lives: longer than any scene.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(20);

/// After a connection that could not be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);

/// A running receiver; it ends, with its connections, when dropped.
pub(super) struct Receiver {
    /// Where it listens.
    pub(super) address: SocketAddr,
    /// Its certificate, which is its own issuer.
    pub(super) certificate: Certificate,
    site: Arc<Site>,
    _tasks: JoinSet<()>,
}

/// A certificate in both of its forms.
pub(super) struct Certificate {
    pub(super) der: CertificateDer<'static>,
    pub(super) pem: String,
}

/// What reached a receiver.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Visits {
    /// Connections on which a byte has come. That one was opened does not count: the gateway opens
    /// it before it knows what a client will say in a tunnel.
    pub(super) connections: u64,
    /// Requests.
    pub(super) requests: u64,
}

impl Visits {
    /// Both together.
    pub(super) const fn and(self, other: Self) -> Self {
        Self {
            connections: self.connections.saturating_add(other.connections),
            requests: self.requests.saturating_add(other.requests),
        }
    }

    /// What has come since.
    pub(super) const fn since(self, before: Self) -> Self {
        Self {
            connections: self.connections.saturating_sub(before.connections),
            requests: self.requests.saturating_sub(before.requests),
        }
    }
}

impl fmt::Display for Visits {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} connections, {} requests", self.connections, self.requests)
    }
}

/// What a receiver serves.
struct Site {
    secret: Secret,
    /// Where what has moved is now.
    moved_to: String,
    connections: AtomicU64,
    requests: AtomicU64,
}

/// Whether a certificate is of use.
#[derive(Clone, Copy)]
pub(super) enum Validity {
    /// It is valid.
    Current,
    /// It was, years ago.
    Expired,
}

impl Receiver {
    /// Starts a receiver on an address of loopback, whose certificate is for `names`. `secret` is
    /// what it verifies webhooks with, and `moved_to` where it redirects.
    pub(super) async fn start(
        at: IpAddr,
        names: &[&'static str],
        validity: Validity,
        secret: &str,
        moved_to: String,
    ) -> anyhow::Result<Self> {
        let (certificate, key) = certificate(names, validity)?;
        let provider = Arc::new(aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der.clone()], key)?;
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind((at, 0)).await?;
        let address = listener.local_addr()?;
        let site = Arc::new(Site {
            secret: Secret::new(secret.as_bytes().to_vec()),
            moved_to,
            connections: AtomicU64::new(0),
            requests: AtomicU64::new(0),
        });
        let serving = Arc::clone(&site);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let Ok((stream, _)) = listener.accept().await else {
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                };
                let serve = serve(Arc::clone(&serving), stream, acceptor.clone());
                connections.spawn(tokio::time::timeout(CONNECTION_TIMEOUT, serve));
                while connections.try_join_next().is_some() {}
            }
        });
        Ok(Self { address, certificate, site, _tasks: tasks })
    }

    /// What has come so far.
    pub(super) fn visits(&self) -> Visits {
        Visits {
            connections: self.site.connections.load(Ordering::Relaxed),
            requests: self.site.requests.load(Ordering::Relaxed),
        }
    }
}

/// A certificate that vouches for itself.
fn certificate(
    names: &[&str],
    validity: Validity,
) -> anyhow::Result<(Certificate, PrivateKeyDer<'static>)> {
    let owned: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(owned)?;
    let subject = names.first().copied().unwrap_or_default();
    params.distinguished_name.push(DnType::CommonName, subject);
    if matches!(validity, Validity::Expired) {
        params.not_before = date_time_ymd(2019, 1, 1);
        params.not_after = date_time_ymd(2020, 1, 1);
    }
    let key = KeyPair::generate()?;
    let certificate = params.self_signed(&key)?;
    let key = PrivateKeyDer::try_from(key.serialize_der()).map_err(io::Error::other)?;
    Ok((Certificate { der: certificate.der().clone(), pem: certificate.pem() }, key))
}

/// Serves one connection. How it ends is the client's side to tell.
async fn serve(site: Arc<Site>, stream: TcpStream, acceptor: TlsAcceptor) {
    if !matches!(stream.peek(&mut [0]).await, Ok(1..)) {
        return;
    }
    site.connections.fetch_add(1, Ordering::Relaxed);
    let Ok(stream) = acceptor.accept(stream).await else { return };
    let answer = service_fn(async |request: Request<Incoming>| {
        site.requests.fetch_add(1, Ordering::Relaxed);
        Ok::<_, Infallible>(site.answer(request).await)
    });
    let _ended = http1::Builder::new().serve_connection(TokioIo::new(stream), answer).await;
}

impl Site {
    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let (head, body) = request.into_parts();
        let (status, text) = match head.uri.path() {
            DELIVERIES => self.delivery(&head, body).await,
            MOVED => (StatusCode::FOUND, format!("it is at {}", self.moved_to)),
            _ => {
                let asked = head.headers.get(HOST).and_then(|host| host.to_str().ok());
                let host = asked.unwrap_or_default();
                let text = format!("{host} received {} {}", head.method, head.uri);
                (StatusCode::OK, text)
            }
        };
        let mut response = Response::new(Full::from(text));
        *response.status_mut() = status;
        if status == StatusCode::FOUND
            && let Ok(place) = self.moved_to.parse()
        {
            response.headers_mut().insert(LOCATION, place);
        }
        response
    }

    /// Takes a delivery only when its signature verifies.
    async fn delivery(&self, head: &Parts, body: Incoming) -> (StatusCode, String) {
        let Ok(body) = Limited::new(body, DELIVERY_BYTES_MAX).collect().await else {
            return (StatusCode::BAD_REQUEST, "the body did not come whole".to_owned());
        };
        let now = u64::try_from(Timestamp::now().as_second()).unwrap_or_default();
        let secrets = std::slice::from_ref(&self.secret);
        match verify(&head.headers, &body.to_bytes(), secrets, TOLERANCE, now) {
            Ok(verified) => {
                let event = verified.event.unwrap_or_default();
                (StatusCode::OK, format!("the signature verifies; {event} is taken"))
            }
            Err(error) => (StatusCode::UNAUTHORIZED, error.to_string()),
        }
    }
}
