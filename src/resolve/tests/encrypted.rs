//! DNS over TLS and over HTTPS, with certificates right and wrong.

use std::convert::Infallible;

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::ServerConfig;
use rustls_pki_types::PrivateKeyDer;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::name_server::Desk;
use super::*;

/// A server for both, at one port, and its certificate. `alpn` empty is DNS over TLS.
struct Encrypted {
    address: SocketAddr,
    certificate: CertificateDer<'static>,
    _task: JoinSet<()>,
}

impl Encrypted {
    async fn start(name: &str, alpn: &[&[u8]]) -> Self {
        let CertifiedKey { cert, signing_key } =
            generate_simple_self_signed([name.to_owned()]).unwrap();
        let key = PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![cert.der().clone()], key)
            .unwrap();
        config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, https) = (listener.local_addr().unwrap(), !alpn.is_empty());
        let mut task = JoinSet::new();
        task.spawn(async move {
            let desk = Desk::new(usual);
            let mut connections = JoinSet::new();
            while let Ok((stream, from)) = listener.accept().await {
                let (acceptor, desk) = (acceptor.clone(), desk.clone());
                connections.spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    if !https {
                        return desk.serve_stream(stream, from.ip()).await;
                    }
                    let answer = service_fn(move |request| in_http(desk.clone(), request));
                    let _ended = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                        .serve_connection(TokioIo::new(stream), answer)
                        .await;
                });
            }
        });
        Self { address, certificate: cert.der().clone(), _task: task }
    }

    async fn ask(&self, server: Server, trusted: bool) -> Result<Answer, ResolveError> {
        let mut settings = Settings::new(vec![server], LONG, EgressAddresses::default());
        if trusted {
            settings.roots = vec![self.certificate.clone()];
        }
        Resolver::new(settings).unwrap().resolve("www.example").await
    }
}

/// RFC 8484, section 4.1, for requests by POST.
async fn in_http(
    desk: Desk,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    assert_eq!(request.uri().path(), "/dns");
    assert_eq!(request.headers()["content-type"], "application/dns-message");
    let question = request.into_body().collect().await.unwrap().to_bytes();
    let answer = desk.answer(&question, Over::Tcp, Ipv4Addr::LOCALHOST.into()).remove(0);
    let response = Response::builder().header("content-type", "application/dns-message");
    Ok(response.body(Full::from(answer)).unwrap())
}

#[tokio::test]
async fn a_name_is_resolved_over_tls_and_the_certificate_matters() {
    let server = Encrypted::start("dns.example", &[]).await;
    let at = |name: &str| Server::Tls { address: server.address, name: name.to_owned() };
    let answer = server.ask(at("dns.example"), true).await.unwrap();
    assert_eq!(*answer.addresses, *ips(&["2001:db8::1", "192.0.2.1"]));
    for (name, trusted) in [("other.example", true), ("127.0.0.1", true), ("dns.example", false)] {
        let found = server.ask(at(name), trusted).await;
        assert_eq!(found, Err(ResolveError::Unreachable), "{name} {trusted}");
    }
}

#[tokio::test]
async fn without_a_name_the_certificate_must_be_for_the_address() {
    let server = Encrypted::start("127.0.0.1", &[]).await;
    let at: Server = format!("tls://{}", server.address).parse().unwrap();
    assert!(server.ask(at, true).await.is_ok());
}

#[tokio::test]
async fn a_name_is_resolved_over_https_and_the_certificate_matters() {
    let server = Encrypted::start("dns.example", &[b"h2"]).await;
    let at = |name: &str| format!("https://{}/dns#{name}", server.address).parse().unwrap();
    let answer = server.ask(at("dns.example"), true).await.unwrap();
    assert_eq!(*answer.addresses, *ips(&["2001:db8::1", "192.0.2.1"]));
    for (name, trusted) in [("other.example", true), ("dns.example", false)] {
        let found = server.ask(at(name), trusted).await;
        assert_eq!(found, Err(ResolveError::Unreachable), "{name} {trusted}");
    }
}

#[tokio::test]
async fn a_server_without_tls_is_not_asked_in_the_clear() {
    let plain = NameServer::start(usual).await;
    let server = Server::Tls { address: plain.address, name: "dns.example".to_owned() };
    let settings = Settings::new(vec![server], SHORT, EgressAddresses::default());
    let found = Resolver::new(settings).unwrap().resolve("www.example").await;
    assert!(matches!(found, Err(ResolveError::Unreachable | ResolveError::Timeout)), "{found:?}");
    assert!(plain.asked().is_empty());
}
