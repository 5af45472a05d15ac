//! The kinds of tunnels, and what each does to open a stream.

use std::{net::SocketAddr, sync::Arc};

use bytes::Bytes;

use super::{
    Credentials, HttpTunnel, Means, Settings, SocksTunnel, TunnelError, TunnelTls,
    health::Seen,
    hop::{Hop, Reached},
    http, socks5,
    stream::Link,
};
use crate::{
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
    /// A kind that this build does not have.
    Missing(&'static str),
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
            Settings::WireGuard(_) | Settings::Connector(_) => Self::Missing(settings.kind()),
        })
    }

    /// Whether both, of equal settings, do the same.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        match (self.hop(), other.hop()) {
            (Some(one), Some(other)) => is_same_hop(one, other),
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        }
    }

    /// Whether [`Self::reach`] shows the credentials too.
    pub(super) const fn reaches_wholly(&self) -> bool {
        match self {
            Self::Http { .. } => false,
            Self::Socks5 { .. } | Self::Missing(_) => true,
        }
    }

    /// Reaches the far end, as far as that can be done without an address to ask for.
    pub(super) async fn reach(&self, seen: &mut Seen) -> Result<Link, TunnelError> {
        match self {
            Self::Http { hop, .. } => {
                let Reached { link, round_trip } = hop.reach().await?;
                *seen = Seen { reached: true, round_trip: Some(round_trip) };
                Ok(link)
            }
            Self::Socks5 { hop, credentials } => {
                let Reached { mut link, round_trip } = hop.reach().await?;
                let greeted = socks5::greet(&mut link, credentials.as_ref()).await;
                // Whoever answers is there, even if the answer is not the one that is wanted.
                if !matches!(greeted, Err(TunnelError::Unreachable(_))) {
                    *seen = Seen { reached: true, round_trip: Some(round_trip) };
                }
                greeted.map(|()| link)
            }
            Self::Missing(kind) => {
                let what = format!("{kind} tunnels are not part of this build");
                Err(TunnelError::Unreachable(what))
            }
        }
    }

    /// A stream to the address, and its first bytes where they have come already.
    pub(super) async fn open(
        &self,
        to: SocketAddr,
        seen: &mut Seen,
    ) -> Result<(Link, Bytes), TunnelError> {
        let mut link = self.reach(seen).await?;
        let early = match self {
            Self::Http { credentials, .. } => {
                http::connect(&mut link, to, credentials.as_ref()).await?
            }
            Self::Socks5 { .. } => {
                socks5::connect(&mut link, to).await?;
                Bytes::new()
            }
            Self::Missing(_) => Bytes::new(),
        };
        Ok((link, early))
    }

    const fn hop(&self) -> Option<&Hop> {
        match self {
            Self::Http { hop, .. } | Self::Socks5 { hop, .. } => Some(hop),
            Self::Missing(_) => None,
        }
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
