//! Approved ways into private networks, as they are configured.

use std::{path::PathBuf, time::Duration};

use ipnet::IpNet;

use crate::{origin::Authority, secret::Secret};

/// An approved way into a private network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Settings {
    /// `http://` and `https://`: a proxy that understands CONNECT.
    Http(HttpTunnel),
    /// `socks5://`: a SOCKS5 proxy (RFC 1928).
    Socks5(SocksTunnel),
    /// `wireguard://`: a WireGuard peer.
    WireGuard(Box<WireGuardTunnel>),
    /// `connector:NAME`: the reverse connector of this name, which dials in.
    Connector(String),
}

/// A proxy that understands CONNECT.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpTunnel {
    /// Where it is. Default port: 80, with TLS 443.
    pub proxy: Authority,
    /// TLS towards it; `None` for `http://`.
    pub tls: Option<TunnelTls>,
    /// What is shown to it. Default: nothing.
    pub credentials: Option<Credentials>,
}

/// A SOCKS5 proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SocksTunnel {
    /// Where it is. Default port: 1080.
    pub proxy: Authority,
    /// User name and password (RFC 1929). Default: none.
    pub credentials: Option<(String, Secret)>,
}

/// What is shown to a proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Credentials {
    /// `Basic`, with user name and password.
    Basic(String, Secret),
    /// `Bearer`, with a token.
    Bearer(Secret),
}

/// TLS towards a proxy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TunnelTls {
    /// A PEM file of the authorities that may have issued its certificate. Default: the system's.
    pub ca_file: Option<PathBuf>,
    /// PEM files of the certificate chain and the key that are shown to it. Default: none.
    pub client: Option<(PathBuf, PathBuf)>,
}

/// A WireGuard peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WireGuardTunnel {
    /// Where it is. Default port: 51820.
    pub peer: Authority,
    /// Our private key, 32 bytes.
    pub private_key: Secret,
    /// A key shared with the peer besides, 32 bytes. Default: none.
    pub preshared_key: Option<Secret>,
    /// The peer's public key.
    pub peer_public_key: [u8; 32],
    /// Our addresses inside, at least one.
    pub addresses: Vec<IpNet>,
    /// What lies behind the peer, at least one.
    pub allowed_ips: Vec<IpNet>,
    /// Time between packets that keep the way open. Default: none are sent.
    pub keepalive: Option<Duration>,
    /// Largest packet inside, in bytes. Default 1420.
    pub mtu: u16,
}

impl Settings {
    /// `http`, `https`, `socks5`, `wireguard` or `connector`.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Http(HttpTunnel { tls: None, .. }) => "http",
            Self::Http(HttpTunnel { tls: Some(_), .. }) => "https",
            Self::Socks5(_) => "socks5",
            Self::WireGuard(_) => "wireguard",
            Self::Connector(_) => "connector",
        }
    }

    /// Where it is, as the configuration writes it. There are no secrets in it: none are accepted
    /// there.
    pub fn url(&self) -> String {
        let kind = self.kind();
        match self {
            Self::Http(HttpTunnel { proxy, .. }) | Self::Socks5(SocksTunnel { proxy, .. }) => {
                format!("{kind}://{proxy}")
            }
            Self::WireGuard(wireguard) => format!("{kind}://{}", wireguard.peer),
            Self::Connector(name) => format!("{kind}:{name}"),
        }
    }
}
