//! The demo's client: what `curl` does with `HTTPS_PROXY`, in as few words as possible.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Context as _, anyhow, bail};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use rustls::{ClientConfig, RootCertStore, crypto::aws_lc_rs};
use rustls_pki_types::{CertificateDer, ServerName};
use serde::Deserialize;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;

/// The name that the client has at the gateway.
pub(super) const CLIENT: &str = "demo";

/// Longest time for a request, the exchange inside its tunnel included. More than the gateway's own
/// limits in the demo together.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// Most bytes of an answer that are read.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// What a client asks for.
pub(super) struct Ask {
    /// The `host:port` of CONNECT.
    pub(super) authority: String,
    /// The name in the TLS handshake; `None`: the host of `authority`.
    pub(super) server_name: Option<&'static str>,
    /// What is asked for inside the tunnel.
    pub(super) path: &'static str,
    /// Whether the client knows its token.
    pub(super) knows_token: bool,
}

impl Ask {
    /// What a client with everything right asks for.
    pub(super) fn of(authority: String) -> Self {
        Self { authority, server_name: None, path: "/", knows_token: true }
    }

    /// As a command. `HTTPS_PROXY` is set, with the token.
    pub(super) fn as_curl(&self, proxy: SocketAddr) -> String {
        let Self { authority, server_name, path, knows_token } = self;
        let credential = if *knows_token {
            String::new()
        } else {
            format!(" --proxy http://{CLIENT}:guess@{proxy}")
        };
        match server_name {
            None => format!("curl{credential} https://{authority}{path}"),
            Some(name) => {
                format!("curl{credential} --connect-to {name}:443:{authority} https://{name}{path}")
            }
        }
    }
}

/// What a client got.
pub(super) struct Answer {
    /// The answer to CONNECT.
    pub(super) status: u16,
    /// Why there is no tunnel.
    pub(super) problem: Option<Problem>,
    /// What happened in the tunnel.
    pub(super) inside: Option<Inside>,
}

/// What of a problem document the demo shows.
#[derive(Deserialize)]
pub(super) struct Problem {
    pub(super) code: String,
    pub(super) cause: String,
    pub(super) detail: String,
    pub(super) decision_id: String,
    pub(super) next_step: String,
}

/// How the exchange inside a tunnel went.
pub(super) enum Inside {
    /// The receiver's answer, and the TLS version it came over.
    Answered(String),
    /// The tunnel was cut: the error of the TLS library.
    Cut(String),
}

/// A client that trusts one receiver.
pub(super) struct Client {
    proxy: SocketAddr,
    token: String,
    tls: TlsConnector,
}

impl Client {
    /// A client of the gateway at `proxy`.
    pub(super) fn new(
        proxy: SocketAddr,
        token: String,
        trusted: &CertificateDer<'static>,
    ) -> anyhow::Result<Self> {
        let mut roots = RootCertStore::empty();
        roots.add(trusted.clone())?;
        let provider = Arc::new(aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self { proxy, token, tls: TlsConnector::from(Arc::new(config)) })
    }

    /// Asks, and reports what came of it.
    ///
    /// # Errors
    /// The gateway does not answer, or with something that is not HTTP.
    pub(super) async fn send(&self, ask: &Ask) -> anyhow::Result<Answer> {
        let answer = timeout(REQUEST_TIMEOUT, self.connect(ask)).await;
        answer.map_err(|_| anyhow!("no answer within {REQUEST_TIMEOUT:?}"))?
    }

    async fn connect(&self, ask: &Ask) -> anyhow::Result<Answer> {
        let token = if ask.knows_token { &self.token } else { "guess" };
        let credential = STANDARD.encode(format!("{CLIENT}:{token}"));
        let authority = &ask.authority;
        let mut stream = dial(self.proxy).await.context("the gateway cannot be reached")?;
        let request = format!(
            "CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\
             Proxy-Authorization: Basic {credential}\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await?;
        let (status, begun) = read_head(&mut stream).await?;
        if status != 200 {
            let body = read_rest(&mut stream, begun).await?;
            let problem = serde_json::from_slice(&body).context("no problem document")?;
            return Ok(Answer { status, problem: Some(problem), inside: None });
        }
        let inside = match self.exchange(stream, ask).await {
            Ok(answer) => Inside::Answered(answer),
            Err(error) => Inside::Cut(format!("{error:#}")),
        };
        Ok(Answer { status, problem: None, inside: Some(inside) })
    }

    /// One request over TLS, in a tunnel that stands.
    async fn exchange(&self, stream: TcpStream, ask: &Ask) -> anyhow::Result<String> {
        let host = ask.authority.rsplit_once(':').map_or(&*ask.authority, |(host, _)| host);
        let host = ask.server_name.unwrap_or(host);
        let name = ServerName::try_from(host.to_owned())?;
        let mut stream = self.tls.connect(name, stream).await?;
        let path = ask.path;
        let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let (status, begun) = read_head(&mut stream).await?;
        let body = read_rest(&mut stream, begun).await?;
        let version = stream.get_ref().1.protocol_version();
        let version = version.and_then(|version| version.as_str()).unwrap_or_default();
        let version = version.replace('_', ".");
        Ok(format!("{version}, {status}, {}", String::from_utf8_lossy(&body)))
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the demo's client opens connections to the demo's own gateway, on loopback"
)]
async fn dial(proxy: SocketAddr) -> std::io::Result<TcpStream> {
    TcpStream::connect(proxy).await
}

/// Reads the head of an answer: its status, and what came after it.
async fn read_head(stream: &mut (impl AsyncRead + Unpin)) -> anyhow::Result<(u16, Vec<u8>)> {
    let mut read = Vec::new();
    loop {
        let mut fields = [httparse::EMPTY_HEADER; 32];
        let mut head = httparse::Response::new(&mut fields);
        if let httparse::Status::Complete(length) = head.parse(&read)? {
            let status = head.code.context("an answer without a status")?;
            return Ok((status, read.split_off(length)));
        }
        if read.len() > ANSWER_BYTES_MAX || stream.read_buf(&mut read).await? == 0 {
            bail!("the connection ended before the answer did");
        }
    }
}

/// Reads to the end of a connection that will be closed.
async fn read_rest(
    stream: &mut (impl AsyncRead + Unpin),
    mut read: Vec<u8>,
) -> anyhow::Result<Vec<u8>> {
    let limit = u64::try_from(ANSWER_BYTES_MAX)?;
    stream.take(limit).read_to_end(&mut read).await?;
    Ok(read)
}
