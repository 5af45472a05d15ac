//! A receiver on loopback, as a customer would run it: HTTPS, with a certificate made for the demo.

use std::{
    convert::Infallible,
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::{ServerConfig, crypto::aws_lc_rs};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tokio_rustls::TlsAcceptor;

/// Longest time a connection to the receiver lives: longer than any scene.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(20);

/// After a connection that could not be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);

/// A running receiver; it ends, with its connections, when dropped.
pub(super) struct Receiver {
    /// Where it listens.
    pub(super) address: SocketAddr,
    /// Its certificate, which is its own issuer.
    pub(super) certificate: CertificateDer<'static>,
    reached: Arc<AtomicU64>,
    _tasks: JoinSet<()>,
}

impl Receiver {
    /// Starts a receiver whose certificate is for `name`.
    pub(super) async fn start(name: &'static str) -> anyhow::Result<Self> {
        let CertifiedKey { cert, signing_key } = generate_simple_self_signed([name.to_owned()])?;
        let certificate = cert.der().clone();
        let key = PrivateKeyDer::try_from(signing_key.serialize_der()).map_err(io::Error::other)?;
        let provider = Arc::new(aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![certificate.clone()], key)?;
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let reached = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&reached);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let Ok((stream, _)) = listener.accept().await else {
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                };
                let serve = serve(name, stream, acceptor.clone(), Arc::clone(&counter));
                connections.spawn(tokio::time::timeout(CONNECTION_TIMEOUT, serve));
                while connections.try_join_next().is_some() {}
            }
        });
        Ok(Self { address, certificate, reached, _tasks: tasks })
    }

    /// On how many connections a byte has come. That one was opened does not count: the gateway
    /// opens it before it knows what a client will say in a tunnel.
    pub(super) fn reached(&self) -> u64 {
        self.reached.load(Ordering::Relaxed)
    }
}

/// Serves one connection. How it ends is the client's side to tell.
async fn serve(
    name: &'static str,
    stream: TcpStream,
    acceptor: TlsAcceptor,
    reached: Arc<AtomicU64>,
) {
    if !matches!(stream.peek(&mut [0]).await, Ok(1..)) {
        return;
    }
    reached.fetch_add(1, Ordering::Relaxed);
    let Ok(stream) = acceptor.accept(stream).await else { return };
    let answer =
        service_fn(|request| std::future::ready(Ok::<_, Infallible>(echo(name, &request))));
    let _ended = http1::Builder::new().serve_connection(TokioIo::new(stream), answer).await;
}

fn echo(name: &str, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    let text = format!("{name} received {} {}", request.method(), request.uri());
    Response::new(Full::from(text))
}
