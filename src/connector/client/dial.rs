//! From a gateway's address to the answer to our hello.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use rustls::{AlertDescription, CertificateError, ClientConfig, Error};
use rustls_pki_types::ServerName;
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{
    super::hello::{self, Answer, Hello},
    LinkError,
};
use crate::{
    dial::{staggered, tcp_to},
    origin::{Authority, Host},
};

/// From the gateway's name to its answer.
const DIAL_TIMEOUT: Duration = Duration::from_secs(20);

/// How long one address has to itself (RFC 8305, section 8), and how many are tried.
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);
const ATTEMPTS_MAX: usize = 8;

/// Connects, proves the key, says hello.
pub(super) async fn greet(
    gateway: &Authority,
    tls: &Arc<ClientConfig>,
    hello: &Hello,
) -> Result<(TlsStream<TcpStream>, Answer), LinkError> {
    let greeting = async {
        let stream = connect(gateway).await?;
        let name = match &gateway.host {
            Host::Ip(ip) => ServerName::from(*ip),
            // Sent in clear, so that a firewall of the customer's can tell where it goes.
            Host::Name(name) => ServerName::try_from(name.to_string())
                .map_err(|error| LinkError::Tls(error.to_string()))?,
        };
        let connector = TlsConnector::from(Arc::clone(tls));
        let mut tls = connector.connect(name, stream).await.map_err(|error| tls_fault(&error))?;
        let said = async {
            hello::write(&mut tls, hello).await?;
            hello::read(&mut tls).await
        };
        let answer = said.await.map_err(|error| no_answer(&error))?;
        Ok((tls, answer))
    };
    timeout(DIAL_TIMEOUT, greeting).await.unwrap_or(Err(LinkError::Timeout))
}

async fn connect(gateway: &Authority) -> Result<TcpStream, LinkError> {
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    let attempts = addresses(gateway).await?.into_iter().map(|address| tcp_to(address, None));
    let stream = staggered(attempts, ATTEMPT_DELAY, |error| last = error).await;
    stream.ok_or(LinkError::Dial(last))
}

/// The system's own names, hosts file included, as for any program that runs here.
#[expect(
    clippy::disallowed_methods,
    reason = "the customer's machine finds its gateway; no target's name is ever resolved here"
)]
async fn addresses(gateway: &Authority) -> Result<Vec<SocketAddr>, LinkError> {
    let port = gateway.port.get();
    match &gateway.host {
        Host::Ip(ip) => Ok(vec![SocketAddr::new(*ip, port)]),
        Host::Name(name) => {
            let found = tokio::net::lookup_host((&**name, port)).await.map_err(LinkError::Name)?;
            Ok(found.take(ATTEMPTS_MAX).collect())
        }
    }
}

fn tls_fault(error: &io::Error) -> LinkError {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
    let unpinned = CertificateError::ApplicationVerificationFailure;
    LinkError::Tls(match inner {
        Some(Error::InvalidCertificate(fault)) if *fault == unpinned => {
            "the gateway shows another key than the pinned one".into()
        }
        Some(Error::AlertReceived(AlertDescription::NoApplicationProtocol)) => {
            "what answers there is no connector listener".into()
        }
        _ => format!("TLS with the gateway fails: {error}"),
    })
}

fn no_answer(error: &io::Error) -> LinkError {
    if error.kind() == io::ErrorKind::InvalidData {
        LinkError::Protocol("its answer cannot be read".into())
    } else {
        LinkError::Protocol(format!("it ends the connection before it answers: {error}"))
    }
}
