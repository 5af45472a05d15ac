//! Servers that shake hands, and servers that do something else instead.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use rustls::{
    RootCertStore, ServerConfig, SupportedProtocolVersion,
    crypto::aws_lc_rs,
    server::{Acceptor, WebPkiClientVerifier, danger::ClientCertVerifier},
    version::{TLS12, TLS13},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tokio_rustls::LazyConfigAcceptor;

use super::authority::{Authority, Identity};

/// A server on loopback; it ends with its value.
pub(super) struct Server {
    pub(super) address: SocketAddr,
    /// The server names that were sent, one for each handshake.
    pub(super) names: Arc<std::sync::Mutex<Vec<Option<String>>>>,
    _tasks: JoinSet<()>,
}

/// How a server shakes hands.
pub(super) struct Manner {
    /// The one version that is spoken, instead of both.
    pub(super) only: Option<&'static SupportedProtocolVersion>,
    pub(super) alpn: &'static [&'static [u8]],
    pub(super) clients: Arc<dyn ClientCertVerifier>,
}

impl Default for Manner {
    fn default() -> Self {
        Self { only: None, alpn: &[], clients: WebPkiClientVerifier::no_client_auth() }
    }
}

impl Manner {
    /// Demands client certificates from this authority.
    pub(super) fn demanding(
        only: &'static SupportedProtocolVersion,
        authority: &Authority,
    ) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add(authority.der.clone()).unwrap();
        let provider = Arc::new(aws_lc_rs::default_provider());
        let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
        Self { only: Some(only), clients: clients.build().unwrap(), ..Self::default() }
    }
}

/// What a server does that does not speak TLS as it should.
#[derive(Clone, Copy)]
pub(super) enum Instead {
    /// Closes what it has accepted.
    Close,
    /// Resets it.
    Reset,
    /// Says nothing at all.
    Stall,
    /// Answers the ClientHello with these bytes, and closes.
    Say(&'static [u8]),
}

impl Server {
    /// Shakes hands with this identity, says `ok`, and waits for the other side to close.
    pub(super) async fn start(identity: &Identity, manner: Manner) -> Self {
        let versions = manner.only.map_or_else(|| vec![&TLS13, &TLS12], |only| vec![only]);
        let provider = Arc::new(aws_lc_rs::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&versions)
            .unwrap()
            .with_client_cert_verifier(manner.clients)
            .with_single_cert(identity.chain.clone(), identity.key())
            .unwrap();
        config.alpn_protocols = manner.alpn.iter().map(|one| one.to_vec()).collect();
        let config = Arc::new(config);
        let names = Arc::<std::sync::Mutex<Vec<_>>>::default();
        let noted = Arc::clone(&names);
        let (address, tasks) = accepting(move |stream| {
            let (config, noted) = (Arc::clone(&config), Arc::clone(&noted));
            async move {
                let Ok(hello) = LazyConfigAcceptor::new(Acceptor::default(), stream).await else {
                    return;
                };
                noted.lock().unwrap().push(hello.client_hello().server_name().map(str::to_owned));
                let Ok(mut stream) = hello.into_stream(config).await else { return };
                let _gone = stream.write_all(b"ok").await;
                let _end = stream.read_to_end(&mut Vec::new()).await;
            }
        })
        .await;
        Self { address, names, _tasks: tasks }
    }

    /// Does something else instead.
    pub(super) async fn misbehaving(instead: Instead) -> Self {
        let (address, tasks) = accepting(move |mut stream| async move {
            match instead {
                Instead::Close => {
                    // what is unread would turn the close into a reset
                    let _hello = stream.read(&mut [0; 16 * 1024]).await;
                }
                Instead::Reset => {
                    let now = Some(Duration::ZERO);
                    socket2::SockRef::from(&stream).set_linger(now).unwrap();
                }
                Instead::Stall => {
                    let _end = stream.read_to_end(&mut Vec::new()).await;
                }
                Instead::Say(bytes) => {
                    let _hello = stream.read(&mut [0; 16 * 1024]).await;
                    let _gone = stream.write_all(bytes).await;
                    let _closed = stream.shutdown().await;
                    let _end = stream.read_to_end(&mut Vec::new()).await;
                }
            }
        })
        .await;
        Self { address, names: Arc::default(), _tasks: tasks }
    }
}

async fn accepting<F: Future<Output = ()> + Send + 'static>(
    serve: impl Fn(TcpStream) -> F + Send + 'static,
) -> (SocketAddr, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            connections.spawn(serve(stream));
        }
    });
    (address, tasks)
}
