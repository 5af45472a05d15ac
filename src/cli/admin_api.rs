//! Asks a running gateway's admin listener.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;

/// How long the connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Most bytes of an answer that are read.
const ANSWER_BYTES_MAX: usize = 1024 * 1024;

/// Address and path of a URL of this machine or of an address: `http`, with an IP literal or
/// `localhost`. Names are not resolved here.
pub(super) fn parse(text: &str) -> Option<(SocketAddr, String)> {
    let url = url::Url::parse(text).ok().filter(|url| url.scheme() == "http")?;
    let ip = match url.host()? {
        url::Host::Ipv4(v4) => IpAddr::V4(v4),
        url::Host::Ipv6(v6) => IpAddr::V6(v6),
        url::Host::Domain("localhost") => IpAddr::V4(Ipv4Addr::LOCALHOST),
        url::Host::Domain(_) => return None,
    };
    Some((SocketAddr::new(ip, url.port_or_known_default()?), url.path().to_owned()))
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum AskError {
    /// Nobody takes the connection.
    #[error("{0} does not answer: {1}")]
    Connect(SocketAddr, std::io::Error),
    /// What comes is not HTTP, or no answer in time.
    #[error("{0} does not answer as a gateway does: {1}")]
    Answer(SocketAddr, Box<dyn std::error::Error + Send + Sync>),
}

/// Sends one request on a connection of its own, and reads the answer; `limit` bounds all of it.
///
/// # Errors
/// Why there is no answer.
#[expect(
    clippy::disallowed_methods,
    reason = "asks the operator's own gateway, in a process of its own; nothing leaves for a target here"
)]
pub(super) async fn ask(
    address: SocketAddr,
    request: Request<Full<Bytes>>,
    limit: Duration,
) -> Result<(StatusCode, Bytes), AskError> {
    let connected =
        tokio::time::timeout(CONNECT_TIMEOUT.min(limit), tokio::net::TcpStream::connect(address));
    let late = |_| Err(std::io::ErrorKind::TimedOut.into());
    let stream = connected.await.unwrap_or_else(late);
    let stream = stream.map_err(|error| AskError::Connect(address, error))?;
    let answered = tokio::time::timeout(limit, exchange(stream, request)).await;
    let answered = answered.unwrap_or_else(|late| Err(late.into()));
    answered.map_err(|error| AskError::Answer(address, error))
}

async fn exchange(
    stream: tokio::net::TcpStream,
    mut request: Request<Full<Bytes>>,
) -> Result<(StatusCode, Bytes), Box<dyn std::error::Error + Send + Sync>> {
    let host = stream.peer_addr()?.to_string().parse()?;
    request.headers_mut().insert(header::HOST, host);
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let answer = async {
        let (head, body) = sender.send_request(request).await?.into_parts();
        let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await?;
        Ok((head.status, body.to_bytes()))
    };
    tokio::pin!(answer, connection);
    tokio::select! {
        answer = &mut answer => return answer,
        ended = &mut connection => ended?,
    }
    // The connection has ended well: what is left of the answer is there already.
    answer.await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_urls_of_this_machine_or_an_address_are_asked() {
        let (address, path) = parse("http://localhost:9128/readyz").unwrap();
        assert_eq!((address.to_string().as_str(), path.as_str()), ("127.0.0.1:9128", "/readyz"));
        assert!(parse("http://[::1]:9128/readyz").is_some());
        for wrong in ["https://127.0.0.1/readyz", "http://example.com/readyz", "127.0.0.1:9128", ""]
        {
            assert!(parse(wrong).is_none(), "{wrong}");
        }
    }
}
