//! Which name servers are asked: as an operator writes them, and as the system has them.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use rustls_pki_types::ServerName;

use super::SettingsError;

/// Where the system says which name servers to ask, resolv.conf(5).
const RESOLV_CONF: &str = "/etc/resolv.conf";

const PLAIN_PORT: u16 = 53;
const TLS_PORT: u16 = 853; // RFC 7858, section 3.1
const HTTPS_PORT: u16 = 443;
const HTTPS_PATH: &str = "/dns-query"; // RFC 8484 leaves it open; what everyone uses

/// A name server: always an address, as no name can be resolved without one.
///
/// Written `198.51.100.53`, `198.51.100.53:53`, `[2001:db8::53]:53` for plain DNS over UDP and
/// TCP, `tls://198.51.100.53:853#dns.example` for DNS over TLS (RFC 7858), and
/// `https://198.51.100.53/dns-query#dns.example` for DNS over HTTPS (RFC 8484). What stands after
/// `#` is the name that the server's certificate must have; without it, the address itself.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Server {
    /// UDP, and TCP for answers that are too large for it. Port 53 by default.
    Plain(SocketAddr),
    /// TLS. Port 853 by default.
    Tls {
        /// Where it listens.
        address: SocketAddr,
        /// The name or address in its certificate.
        name: String,
    },
    /// HTTP/2 over TLS. Port 443 by default.
    Https {
        /// Where it listens.
        address: SocketAddr,
        /// The name or IPv4 address in its certificate, and in the requests.
        name: String,
        /// The path in the requests; `/dns-query` by default.
        path: String,
    },
}

impl Server {
    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        match self {
            Self::Plain(address) | Self::Tls { address, .. } | Self::Https { address, .. } => {
                *address
            }
        }
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Plain(address) => write!(f, "{address}"),
            Self::Tls { address, name } => write!(f, "tls://{address}#{name}"),
            Self::Https { address, name, path } => write!(f, "https://{address}{path}#{name}"),
        }
    }
}

/// Why a text is no name server.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ServerParseError {
    /// A name where an address belongs.
    #[error(
        "`{0}` is not an address: a name server is reached without any lookup; write ADDRESS, or \
         tls://ADDRESS#NAME, https://ADDRESS/PATH#NAME with the name of its certificate"
    )]
    NotAnAddress(String),
    /// An address at which no server can be: unspecified, multicast or broadcast, or port 0.
    #[error("no name server can be at `{0}`")]
    Unusable(SocketAddr),
    /// A form other than those of [`Server`].
    #[error("`{0}` is not a way to ask a name server: there are tls:// and https://, or neither")]
    Scheme(String),
    /// The name after `#` is not one that a certificate can have.
    #[error("`{0}` is not a name that a certificate can have")]
    Name(String),
    /// Plain DNS knows no names, and only `https://` has a path.
    #[error("`{0}` has no place in this form of name server")]
    Superfluous(String),
    /// Not a path.
    #[error("`{0}` is not a path")]
    Path(String),
    /// DNS over HTTPS at an IPv6 address without the name of its certificate.
    #[error(
        "https:// with an IPv6 address needs the certificate's name: https://[ADDRESS]/PATH#NAME"
    )]
    NameNeeded,
}

impl FromStr for Server {
    type Err = ServerParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (scheme, rest) = text.split_once("://").map_or(("", text), |(s, rest)| (s, rest));
        let (place, name) = match rest.split_once('#') {
            Some((place, name)) => (place, Some(checked_name(name)?)),
            None => (rest, None),
        };
        let (host, path) = match place.find('/').and_then(|at| place.split_at_checked(at)) {
            Some((host, path)) => (host, Some(path)),
            None => (place, None),
        };
        if let (Some(path), true) = (path, scheme != "https") {
            return Err(ServerParseError::Superfluous(path.to_owned()));
        }
        match scheme {
            "" => match name {
                Some(name) => Err(ServerParseError::Superfluous(format!("#{name}"))),
                None => Ok(Self::Plain(socket_address(host, PLAIN_PORT)?)),
            },
            "tls" => {
                let address = socket_address(host, TLS_PORT)?;
                let name = name.unwrap_or_else(|| address.ip().to_string());
                Ok(Self::Tls { address, name })
            }
            "https" => {
                let address = socket_address(host, HTTPS_PORT)?;
                let name = match (name, address.ip()) {
                    (Some(name), _) => name,
                    (None, IpAddr::V4(ip)) => ip.to_string(),
                    // it would have to stand in brackets in the requests, but not for TLS
                    (None, IpAddr::V6(_)) => return Err(ServerParseError::NameNeeded),
                };
                Ok(Self::Https { address, name, path: checked_path(path.unwrap_or(HTTPS_PATH))? })
            }
            other => Err(ServerParseError::Scheme(format!("{other}://"))),
        }
    }
}

fn socket_address(host: &str, default_port: u16) -> Result<SocketAddr, ServerParseError> {
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let address = match (SocketAddr::from_str(host), IpAddr::from_str(bare)) {
        (Ok(address), _) => address,
        (Err(_), Ok(ip)) if bare == host || ip.is_ipv6() => SocketAddr::new(ip, default_port),
        (Err(_), _) => return Err(ServerParseError::NotAnAddress(host.to_owned())),
    };
    let ip = address.ip().to_canonical();
    let broadcast = ip == IpAddr::V4(std::net::Ipv4Addr::BROADCAST);
    if address.port() == 0 || ip.is_unspecified() || ip.is_multicast() || broadcast {
        return Err(ServerParseError::Unusable(address));
    }
    Ok(SocketAddr::new(ip, address.port()))
}

fn checked_name(name: &str) -> Result<String, ServerParseError> {
    match ServerName::try_from(name) {
        Ok(ServerName::DnsName(_)) if name.is_ascii() => Ok(name.to_ascii_lowercase()),
        Ok(ServerName::IpAddress(_)) if !name.contains(':') => Ok(name.to_owned()),
        Ok(_) | Err(_) => Err(ServerParseError::Name(name.to_owned())),
    }
}

fn checked_path(path: &str) -> Result<String, ServerParseError> {
    match http::uri::PathAndQuery::try_from(path) {
        Ok(parsed) if parsed.as_str() == path => Ok(path.to_owned()),
        Ok(_) | Err(_) => Err(ServerParseError::Path(path.to_owned())),
    }
}

/// The name servers of the machine: the `nameserver` lines of `/etc/resolv.conf`, at most
/// [`super::SERVERS_MAX`] of them. Search domains and options are ignored, as are servers at a
/// link-local address with a zone (`fe80::1%eth0`), which cannot be told to the resolver.
pub fn system_servers() -> Result<Vec<Server>, SettingsError> {
    let text = std::fs::read_to_string(RESOLV_CONF)
        .map_err(|source| SettingsError::Read { path: RESOLV_CONF, source })?;
    let servers = servers_in(&text);
    if servers.is_empty() { Err(SettingsError::NoSystemServers(RESOLV_CONF)) } else { Ok(servers) }
}

/// The servers that the text of a resolv.conf(5) names.
pub(super) fn servers_in(text: &str) -> Vec<Server> {
    text.lines()
        .filter_map(|line| {
            let mut words = line.split_ascii_whitespace();
            let ip: IpAddr =
                (words.next()? == "nameserver").then(|| words.next())??.parse().ok()?;
            socket_address(&ip.to_string(), PLAIN_PORT).ok().map(Server::Plain)
        })
        .take(super::SERVERS_MAX)
        .collect()
}
