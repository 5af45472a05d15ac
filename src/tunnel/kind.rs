//! The kinds of tunnels, and what each does to open a stream.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::io::AsyncBufRead;

use super::{
    Channel, Credentials, HttpTunnel, Means, Settings, SocksTunnel, TunnelError, TunnelTls,
    health::Seen,
    hop::{Hop, Reached},
    http,
    peer::Peer,
    socks5,
    stream::Link,
    wireguard::WireGuardDatagrams,
};
use crate::{
    connector::gateway::{ConnectorStream, Connectors},
    origin::{Authority, Host},
    secret::Secret,
    target::TargetTls,
    tls::{ClientTls, TlsSettingsError},
};

/// A tunnel's way of carrying.
#[derive(Debug)]
pub(super) enum Kind {
    Http {
        hop: Hop,
        credentials: Option<Credentials>,
    },
    Socks5 {
        hop: Hop,
        credentials: Option<(String, Secret)>,
    },
    WireGuard(Peer),
    Connector {
        name: String,
        /// Those that have dialled in; `None` where nobody can, as in a command beside the gateway.
        connectors: Option<Arc<Connectors>>,
    },
}

impl Kind {
    pub(super) fn new(settings: &Settings, means: &Means) -> Result<Self, TlsSettingsError> {
        Ok(match settings {
            Settings::Http(HttpTunnel { proxy, tls, credentials }) => Self::Http {
                hop: hop(proxy, tls.as_ref(), means)?,
                credentials: credentials.clone(),
            },
            Settings::Socks5(SocksTunnel { proxy, credentials }) => {
                Self::Socks5 { hop: hop(proxy, None, means)?, credentials: credentials.clone() }
            }
            Settings::WireGuard(tunnel) => Self::WireGuard(Peer::new(tunnel, means)),
            Settings::Connector(name) => {
                Self::Connector { name: name.clone(), connectors: means.connectors.clone() }
            }
        })
    }

    /// Whether both, of equal settings, do the same.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::WireGuard(one), Self::WireGuard(other)) => one.is_same(other),
            (Self::Connector { .. }, Self::Connector { .. }) => true,
            (one, other) => match (one.hop(), other.hop()) {
                (Some(one), Some(other)) => is_same_hop(one, other),
                (Some(_) | None, None) | (None, Some(_)) => false,
            },
        }
    }

    /// Whether there is use in trying, where that shows without trying: `None` for kinds whose far
    /// end has to be asked.
    pub(super) fn standing(&self) -> Option<Result<(), TunnelError>> {
        match self {
            Self::Http { .. } | Self::Socks5 { .. } | Self::WireGuard(_) => None,
            Self::Connector { name, connectors } => {
                Some(connected(name, connectors.as_deref()).map(drop))
            }
        }
    }

    /// Whether it was this end that refused: WireGuard's `allowed_ips` are judged before anything is
    /// sent.
    pub(super) const fn refuses(&self, error: Option<&TunnelError>) -> bool {
        matches!((self, error), (Self::WireGuard(_), Some(TunnelError::Denied(_))))
    }

    /// Whether [`Self::probe`] shows the credentials too.
    pub(super) const fn reaches_wholly(&self) -> bool {
        match self {
            Self::Http { .. } => false,
            Self::Socks5 { .. } | Self::WireGuard(_) | Self::Connector { .. } => true,
        }
    }

    /// Reaches the far end, as far as that can be done without an address to ask for.
    pub(super) async fn probe(&self, seen: &mut Seen) -> Result<(), TunnelError> {
        match self {
            Self::Http { hop, .. } => reach(hop, seen).await.map(drop),
            Self::Socks5 { hop, credentials } => {
                greet(hop, credentials.as_ref(), seen).await.map(drop)
            }
            Self::WireGuard(peer) => {
                let probed = peer.probe().await;
                let round_trip = probed.as_ref().ok().copied();
                *seen = Seen { reached: is_reached(probed.as_ref().err()), round_trip };
                probed.map(drop)
            }
            Self::Connector { name, connectors } => {
                let round_trip = connected(name, connectors.as_deref())?;
                *seen = Seen { reached: true, round_trip };
                Ok(())
            }
        }
    }

    /// A stream to the address, and its first bytes where they have come already.
    pub(super) async fn open(
        &self,
        to: SocketAddr,
        seen: &mut Seen,
    ) -> Result<(Link, Bytes), TunnelError> {
        match self {
            Self::Http { hop, credentials } => {
                let mut link = reach(hop, seen).await?;
                let early = http::connect(&mut link, to, credentials.as_ref()).await?;
                Ok((link, early))
            }
            Self::Socks5 { hop, credentials } => {
                let mut link = greet(hop, credentials.as_ref(), seen).await?;
                socks5::connect(&mut link, to).await?;
                Ok((link, Bytes::new()))
            }
            Self::WireGuard(peer) => {
                let opened = peer.open(to).await;
                seen.reached = is_reached(opened.as_ref().err());
                Ok((Link::Channel(Box::new(opened?)), Bytes::new()))
            }
            Self::Connector { name, connectors } => {
                seen.round_trip = connected(name, connectors.as_deref())?;
                let connectors = connectors.as_ref().ok_or_else(nobody_can)?;
                let opened = connectors.open(name, to).await;
                seen.reached = is_reached(opened.as_ref().err());
                Ok((Link::Channel(Box::new(opened?)), Bytes::new()))
            }
        }
    }

    /// Whether datagrams can be sent through it.
    pub(super) const fn has_datagrams(&self) -> bool {
        matches!(self, Self::WireGuard(_))
    }

    /// A socket for datagrams to an address behind it.
    ///
    /// # Errors
    /// `Denied` where the kind has no datagrams, and as for [`Self::open`].
    pub(super) fn datagrams(&self, to: SocketAddr) -> Result<WireGuardDatagrams, TunnelError> {
        match self {
            Self::WireGuard(peer) => peer.datagrams(to),
            Self::Http { .. } | Self::Socks5 { .. } | Self::Connector { .. } => {
                Err(TunnelError::Denied("it carries streams only".into()))
            }
        }
    }

    const fn hop(&self) -> Option<&Hop> {
        match self {
            Self::Http { hop, .. } | Self::Socks5 { hop, .. } => Some(hop),
            Self::WireGuard(_) | Self::Connector { .. } => None,
        }
    }
}

async fn reach(hop: &Hop, seen: &mut Seen) -> Result<Link, TunnelError> {
    let Reached { link, round_trip } = hop.reach().await?;
    *seen = Seen { reached: true, round_trip: Some(round_trip) };
    Ok(link)
}

async fn greet(
    hop: &Hop,
    credentials: Option<&(String, Secret)>,
    seen: &mut Seen,
) -> Result<Link, TunnelError> {
    let Reached { mut link, round_trip } = hop.reach().await?;
    let greeted = socks5::greet(&mut link, credentials).await;
    // Whoever answers is there, even if the answer is not the one that is wanted.
    if !matches!(greeted, Err(TunnelError::Unreachable(_))) {
        *seen = Seen { reached: true, round_trip: Some(round_trip) };
    }
    greeted.map(|()| link)
}

/// Whether an attempt that ended so has heard from the far end.
const fn is_reached(error: Option<&TunnelError>) -> bool {
    match error {
        None
        | Some(
            TunnelError::Auth(_)
            | TunnelError::Denied(_)
            | TunnelError::BeyondUnreachable(_)
            | TunnelError::Protocol(_),
        ) => true,
        Some(TunnelError::Unreachable(_) | TunnelError::Timeout) => false,
    }
}

/// Whether a connector of this name has dialled in, and its round trip.
fn connected(name: &str, connectors: Option<&Connectors>) -> Result<Option<Duration>, TunnelError> {
    let status = connectors.ok_or_else(nobody_can)?.status(name);
    if status.links == 0 {
        return Err(TunnelError::Unreachable(format!("no connector {name} is connected")));
    }
    Ok(status.round_trip)
}

fn nobody_can() -> TunnelError {
    let message = "connectors dial in to the running gateway, and to nothing else";
    TunnelError::Unreachable(message.to_owned())
}

impl Channel for ConnectorStream {
    fn reset(&mut self) {
        Self::reset(self);
    }

    fn as_lender(&mut self) -> Option<&mut (dyn AsyncBufRead + Unpin)> {
        Some(self)
    }
}

fn hop(proxy: &Authority, tls: Option<&TunnelTls>, means: &Means) -> Result<Hop, TlsSettingsError> {
    let load = |tls: &TunnelTls| {
        let (certificate, key) = tls.client.clone().unzip();
        let tls = TargetTls {
            ca_file: tls.ca_file.clone(),
            client_cert_file: certificate,
            client_key_file: key,
            ..TargetTls::default()
        };
        ClientTls::load(&means.roots, Some(&tls)).map(Arc::new)
    };
    Ok(Hop {
        proxy: proxy.clone(),
        tls: tls.map(load).transpose()?,
        tls_timeout: means.tls_timeout,
        egress: means.egress.clone(),
        resolver: Arc::clone(&means.resolver),
    })
}

fn is_same_hop(one: &Hop, other: &Hop) -> bool {
    let same_tls = match (&one.tls, &other.tls) {
        (None, None) => true,
        (Some(one), Some(other)) => one.is_same(other),
        (Some(_), None) | (None, Some(_)) => false,
    };
    let same_names = match one.proxy.host {
        Host::Ip(_) => true,
        Host::Name(_) => Arc::ptr_eq(&one.resolver, &other.resolver),
    };
    let same_way = one.egress == other.egress && one.tls_timeout == other.tls_timeout;
    same_tls && same_names && same_way
}
