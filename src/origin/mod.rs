//! Scheme, host and port: what two parties mean by "the same place" (RFC 6454), in one canonical form.
//!
//! Every text that two parsers could read differently is refused here, before anything else looks
//! at it: the caller never sees a host that is not in its canonical form.

mod base_url;
mod host;

use std::{fmt, num::NonZeroU16};

pub use base_url::{BaseUrl, REDACTED_QUERY, UrlFault};
pub use host::{Host, HostFault};

/// `http` or `https`; nothing else leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scheme {
    /// Plain HTTP; only where a target allows it.
    Http,
    /// HTTP over TLS.
    Https,
}

impl Scheme {
    /// The scheme as it is written in a URL.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }

    /// 80 or 443.
    pub const fn default_port(self) -> Port {
        match self {
            Self::Http => Port::HTTP,
            Self::Https => Port::HTTPS,
        }
    }
}

/// A TCP port, 1 to 65535.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Port(NonZeroU16);

impl Port {
    /// 80.
    pub const HTTP: Self = Self(NonZeroU16::MIN.saturating_add(79));
    /// 443.
    pub const HTTPS: Self = Self(NonZeroU16::MIN.saturating_add(442));

    /// Reads decimal digits without sign or leading zero. `None` for everything else, 0 included.
    pub fn parse(text: &str) -> Option<Self> {
        let digits =
            !text.is_empty() && text.len() <= 5 && text.bytes().all(|b| b.is_ascii_digit());
        if !digits || text.starts_with('0') {
            return None;
        }
        text.parse().ok().map(Self)
    }

    /// The port of a number; `None` for 0.
    pub fn new(number: u16) -> Option<Self> {
        NonZeroU16::new(number).map(Self)
    }

    /// The number.
    pub const fn get(self) -> u16 {
        self.0.get()
    }

    /// Whether browsers refuse it, as services there can be talked into reading HTTP as their own
    /// protocol. Source: Fetch standard, "port blocking".
    pub fn is_bad(self) -> bool {
        BAD_PORTS.binary_search(&self.get()).is_ok()
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The Fetch standard's bad ports (<https://fetch.spec.whatwg.org/#port-blocking>), in order.
const BAD_PORTS: &[u16] = &[
    1, 7, 9, 11, 13, 15, 17, 19, 20, 21, 22, 23, 25, 37, 42, 43, 53, 69, 77, 79, 87, 95, 101, 102,
    103, 104, 109, 110, 111, 113, 115, 117, 119, 123, 135, 137, 139, 143, 161, 179, 389, 427, 465,
    512, 513, 514, 515, 526, 530, 531, 532, 540, 548, 554, 556, 563, 587, 601, 636, 989, 990, 993,
    995, 1719, 1720, 1723, 2049, 3659, 4045, 4190, 5060, 5061, 6000, 6566, 6665, 6666, 6667, 6668,
    6669, 6679, 6697, 10080,
];

/// Host and port: what CONNECT names (authority-form, RFC 9112, section 3.2.3).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Authority {
    /// The canonical host.
    pub host: Host,
    /// The port; CONNECT has no default.
    pub port: Port,
}

impl Authority {
    /// Reads `host:port` strictly: no userinfo, no default port, nothing after the port.
    ///
    /// # Errors
    /// What is wrong with it; the text itself is not part of the error.
    pub fn parse(text: &str) -> Result<Self, AuthorityFault> {
        if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(AuthorityFault::Characters);
        }
        if text.contains('@') {
            return Err(AuthorityFault::Userinfo);
        }
        if text.contains(['/', '\\', '?', '#', '%']) {
            return Err(AuthorityFault::NotAuthorityForm);
        }
        let (host, port) = text.rsplit_once(':').ok_or(AuthorityFault::NoPort)?;
        if port.is_empty() || host.ends_with(':') && !host.ends_with("]:") && !host.contains('[') {
            return Err(AuthorityFault::NoPort);
        }
        if port.ends_with(']') {
            return Err(AuthorityFault::NoPort);
        }
        let port = Port::parse(port).ok_or(AuthorityFault::BadPort)?;
        let host = Host::parse(host)?;
        Ok(Self { host, port })
    }
}

impl fmt::Display for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// Why a text is not `host:port`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthorityFault {
    /// Control characters, spaces or bytes outside ASCII.
    #[error("the authority holds characters outside visible ASCII")]
    Characters,
    /// `user@host`.
    #[error("userinfo before the host is not accepted")]
    Userinfo,
    /// A path, a URL, `*`, a zone id or a percent-encoded host.
    #[error("the target must be host:port, without scheme, path, query or percent-encoding")]
    NotAuthorityForm,
    /// No port.
    #[error("the port is missing")]
    NoPort,
    /// Not 1 to 65535 in plain digits.
    #[error("the port is not a number from 1 to 65535")]
    BadPort,
    /// The host is not canonical.
    #[error(transparent)]
    Host(#[from] HostFault),
}

/// Scheme, host and port (RFC 6454).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Origin {
    /// `http` or `https`.
    pub scheme: Scheme,
    /// Host and port.
    pub authority: Authority,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.authority.port == self.scheme.default_port() {
            write!(f, "{}://{}", self.scheme.as_str(), self.authority.host)
        } else {
            write!(f, "{}://{}", self.scheme.as_str(), self.authority)
        }
    }
}

#[cfg(test)]
mod tests;
