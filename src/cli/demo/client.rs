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

/// Says that an answer comes out of the record.
const REPLAYED: &str = "x-webriskops-replayed";

/// What a client asks for.
pub(super) struct Ask {
    /// The `host:port`.
    pub(super) authority: String,
    /// How it is asked for.
    pub(super) way: Way,
    /// What is asked for there.
    pub(super) path: &'static str,
    /// Whether the client knows its token.
    pub(super) knows_token: bool,
}

/// How a client asks.
#[derive(Clone, Copy)]
pub(super) enum Way {
    /// CONNECT, and TLS through the tunnel.
    Tunnel {
        /// The name in the TLS handshake; `None`: the host of the authority.
        server_name: Option<&'static str>,
    },
    /// A plain GET of a URL, which the gateway relays over its own TLS.
    Relay,
    /// A delivery, relayed and signed on its way.
    Delivery {
        /// Its idempotency key.
        key: &'static str,
        /// Its body, JSON without quotation marks of a shell.
        body: &'static str,
    },
}

impl Ask {
    /// What a client with everything right asks for.
    pub(super) fn of(authority: String) -> Self {
        let way = Way::Tunnel { server_name: None };
        Self { authority, way, path: "/", knows_token: true }
    }

    /// As a command. The proxy's variables are set, with the token.
    pub(super) fn as_curl(&self, proxy: SocketAddr) -> String {
        let Self { authority, way, path, knows_token } = self;
        let credential = if *knows_token {
            String::new()
        } else {
            format!(" --proxy http://{CLIENT}:guess@{proxy}")
        };
        match way {
            Way::Tunnel { server_name: None } => {
                format!("curl{credential} https://{authority}{path}")
            }
            Way::Tunnel { server_name: Some(name) } => {
                format!("curl{credential} --connect-to {name}:443:{authority} https://{name}{path}")
            }
            Way::Relay => format!("curl{credential} http://{authority}{path}"),
            Way::Delivery { key, body } => format!(
                "curl{credential} -H 'Idempotency-Key: {key}' --json '{body}' \\\n       \
                 http://{authority}{path}"
            ),
        }
    }
}

/// What a client got.
pub(super) struct Answer {
    /// The gateway's answer.
    pub(super) status: u16,
    /// What there is besides.
    pub(super) outcome: Outcome,
}

/// What an answer brings.
pub(super) enum Outcome {
    /// The gateway's own no.
    Refused(Problem),
    /// The receiver's answer through a tunnel, and the TLS version it came over.
    Answered(String),
    /// The tunnel was cut: the error of the TLS library.
    Cut(String),
    /// The receiver's answer, relayed.
    Relayed(String),
    /// An answer out of the record: it was delivered before.
    Replayed,
}

/// What of a problem document the demo shows.
#[derive(Deserialize)]
pub(super) struct Problem {
    pub(super) code: String,
    pub(super) cause: String,
    pub(super) detail: String,
    pub(super) decision_id: String,
    pub(super) owner: String,
    pub(super) next_step: String,
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
        trusted: &[&CertificateDer<'static>],
    ) -> anyhow::Result<Self> {
        let mut roots = RootCertStore::empty();
        for certificate in trusted {
            roots.add((*certificate).clone())?;
        }
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
        let answer = async {
            match ask.way {
                Way::Tunnel { server_name } => self.connect(ask, server_name).await,
                Way::Relay => self.relay(ask, "GET", "", "").await,
                Way::Delivery { key, body } => {
                    let length = body.len();
                    let fields = format!(
                        "Idempotency-Key: {key}\r\nContent-Type: application/json\r\n\
                         Content-Length: {length}\r\n"
                    );
                    self.relay(ask, "POST", &fields, body).await
                }
            }
        };
        let answer = timeout(REQUEST_TIMEOUT, answer).await;
        answer.map_err(|_| anyhow!("no answer within {REQUEST_TIMEOUT:?}"))?
    }

    /// Opens a tunnel, and sends one request through it.
    async fn connect(
        &self,
        ask: &Ask,
        server_name: Option<&'static str>,
    ) -> anyhow::Result<Answer> {
        let authority = &ask.authority;
        let head = format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n");
        let (mut stream, Head { status, begun, .. }) = self.ask(ask, &head, "").await?;
        if status != 200 {
            let body = read_rest(&mut stream, begun).await?;
            return Ok(Answer { status, outcome: Outcome::Refused(problem(&body)?) });
        }
        let outcome = match self.exchange(stream, ask, server_name).await {
            Ok(answer) => Outcome::Answered(answer),
            Err(error) => Outcome::Cut(format!("{error:#}")),
        };
        Ok(Answer { status, outcome })
    }

    /// Has the gateway carry one request.
    async fn relay(
        &self,
        ask: &Ask,
        method: &str,
        fields: &str,
        body: &str,
    ) -> anyhow::Result<Answer> {
        let Ask { authority, path, .. } = ask;
        let head = format!(
            "{method} http://{authority}{path} HTTP/1.1\r\nHost: {authority}\r\n{fields}\
             Connection: close\r\n"
        );
        let (mut stream, Head { status, fields, begun }) = self.ask(ask, &head, body).await?;
        let body = read_rest(&mut stream, begun).await?;
        let outcome = if fields.iter().any(|field| field.eq_ignore_ascii_case(REPLAYED)) {
            Outcome::Replayed
        } else if let Ok(problem) = problem(&body) {
            Outcome::Refused(problem)
        } else {
            Outcome::Relayed(String::from_utf8_lossy(&body).into_owned())
        };
        Ok(Answer { status, outcome })
    }

    /// Sends a request to the gateway, and reads the head of what it says.
    async fn ask(&self, ask: &Ask, head: &str, body: &str) -> anyhow::Result<(TcpStream, Head)> {
        let token = if ask.knows_token { &self.token } else { "guess" };
        let credential = STANDARD.encode(format!("{CLIENT}:{token}"));
        let mut stream = dial(self.proxy).await.context("the gateway cannot be reached")?;
        let request = format!("{head}Proxy-Authorization: Basic {credential}\r\n\r\n{body}");
        stream.write_all(request.as_bytes()).await?;
        let head = read_head(&mut stream).await?;
        Ok((stream, head))
    }

    /// One request over TLS, in a tunnel that stands.
    async fn exchange(
        &self,
        stream: TcpStream,
        ask: &Ask,
        server_name: Option<&'static str>,
    ) -> anyhow::Result<String> {
        let host = ask.authority.rsplit_once(':').map_or(&*ask.authority, |(host, _)| host);
        let host = server_name.unwrap_or(host);
        let name = ServerName::try_from(host.to_owned())?;
        let mut stream = self.tls.connect(name, stream).await?;
        let path = ask.path;
        let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let Head { status, begun, .. } = read_head(&mut stream).await?;
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

/// The head of an answer.
struct Head {
    status: u16,
    /// The names of its fields.
    fields: Vec<String>,
    /// What came after it.
    begun: Vec<u8>,
}

fn problem(body: &[u8]) -> anyhow::Result<Problem> {
    serde_json::from_slice(body).context("no problem document")
}

async fn read_head(stream: &mut (impl AsyncRead + Unpin)) -> anyhow::Result<Head> {
    let mut read = Vec::new();
    loop {
        let mut fields = [httparse::EMPTY_HEADER; 32];
        let mut head = httparse::Response::new(&mut fields);
        if let httparse::Status::Complete(length) = head.parse(&read)? {
            let status = head.code.context("an answer without a status")?;
            let fields = head.headers.iter().map(|field| field.name.to_owned()).collect();
            return Ok(Head { status, fields, begun: read.split_off(length) });
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
