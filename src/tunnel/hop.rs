//! The way to a hop: its address, TCP from the egress address, and TLS where it is spoken.
//!
//! A hop is where the operator's configuration says; nothing that a target or a client says has
//! part in it. Only its own name, if it has one, is resolved, by the default resolver.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{net::TcpStream, time::Instant};

use super::{TunnelError, stream::Link};
use crate::{
    dial::{self, EgressAddresses, staggered},
    origin::{Authority, Host},
    resolve::Resolver,
    tls::{Alpn, ClientTls, TlsError},
};

/// How long one address of the hop has to itself before the next is tried beside it, as towards
/// targets (RFC 8305, section 8).
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);

/// How many addresses of the hop are tried at most.
const ATTEMPTS_MAX: usize = 8;

/// Where a hop is and how it is reached.
#[derive(Debug)]
pub(super) struct Hop {
    pub(super) proxy: Authority,
    pub(super) tls: Option<Arc<ClientTls>>,
    pub(super) tls_timeout: Duration,
    pub(super) egress: EgressAddresses,
    pub(super) resolver: Arc<Resolver>,
}

/// A connection to a hop.
#[derive(Debug)]
pub(super) struct Reached {
    pub(super) link: Link,
    /// How long TCP took: one round trip.
    pub(super) round_trip: Duration,
}

impl Hop {
    /// Connects to the hop. Sets no limit to the whole.
    pub(super) async fn reach(&self) -> Result<Reached, TunnelError> {
        let (stream, round_trip) = self.dial().await?;
        let link = match &self.tls {
            None => Link::Tcp(stream),
            Some(tls) => {
                let host = &self.proxy.host;
                let secured = tls.handshake(stream, host, Alpn::None, self.tls_timeout).await;
                let secured = secured.map_err(|error| {
                    let what = format!("{}: TLS: {error}", self.proxy);
                    if matches!(error.cause, TlsError::ClientCertificate { .. }) {
                        TunnelError::Auth(what)
                    } else {
                        TunnelError::Unreachable(what)
                    }
                })?;
                Link::Tls(Box::new(secured.stream))
            }
        };
        Ok(Reached { link, round_trip })
    }

    async fn dial(&self) -> Result<(TcpStream, Duration), TunnelError> {
        let unreachable = |why: &dyn std::fmt::Display| {
            TunnelError::Unreachable(format!("{}: {why}", self.proxy))
        };
        let addresses = self.addresses().await.map_err(|why| unreachable(&why))?;
        let usable = addresses.into_iter().filter(|address| self.egress.uses(address.ip()));
        let attempts = usable.take(ATTEMPTS_MAX).map(|address| {
            let source = self.egress.source_for(address.ip());
            async move {
                let started = Instant::now();
                dial::tcp_to(address, source).await.map(|stream| (stream, started.elapsed()))
            }
        });
        let mut failure: Option<io::Error> = None;
        let note = |error| failure = failure.take().or(Some(error));
        staggered(attempts, ATTEMPT_DELAY, note).await.ok_or_else(|| match failure {
            Some(error) => unreachable(&error),
            None => unreachable(&"no address is of a family with an egress address"),
        })
    }

    async fn addresses(&self) -> Result<Vec<SocketAddr>, String> {
        let port = self.proxy.port.get();
        let name = match &self.proxy.host {
            Host::Ip(ip) => return Ok(vec![SocketAddr::new(*ip, port)]),
            Host::Name(name) => name,
        };
        let answer = self.resolver.resolve(name).await.map_err(|error| error.to_string())?;
        Ok(answer.addresses.iter().map(|ip| SocketAddr::new(*ip, port)).collect())
    }
}
