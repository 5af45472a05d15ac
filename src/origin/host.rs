//! A host in its one canonical form: an A-label name in lower case, or an IP address.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

/// A host name or an IP literal.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Host {
    /// A name: lower case, A-labels, no trailing dot.
    Name(Box<str>),
    /// An IP literal.
    Ip(IpAddr),
}

/// Longest name in its text form without the trailing dot (RFC 1035, section 2.3.4: 255 octets on
/// the wire).
const NAME_BYTES_MAX: usize = 253;

/// Longest label (RFC 1035, section 2.3.4).
const LABEL_BYTES_MAX: usize = 63;

impl Host {
    /// Reads a host as it stands in an authority: an IPv6 address in brackets, a dotted quad, or a
    /// name. Upper case and one trailing dot are brought into the canonical form; everything that
    /// another parser could read as something else is refused.
    ///
    /// # Errors
    /// The first thing that is wrong with it.
    pub fn parse(text: &str) -> Result<Self, HostFault> {
        if text.is_empty() {
            return Err(HostFault::Empty);
        }
        if let Some(inner) = text.strip_prefix('[') {
            let inner = inner.strip_suffix(']').ok_or(HostFault::Brackets)?;
            return bracketed(inner);
        }
        if !text.is_ascii() {
            return Err(HostFault::NotAscii);
        }
        let lower = text.to_ascii_lowercase();
        let name = lower.strip_suffix('.').unwrap_or(&lower);
        if ends_in_number(name) {
            return dotted_quad(text).map(|v4| Self::Ip(v4.into()));
        }
        check_name(name)?;
        // A second reader has to agree: `url` also checks the A-labels (UTS 46).
        match url::Host::parse(name) {
            Ok(url::Host::Domain(same)) if same == name => Ok(Self::Name(name.into())),
            Ok(url::Host::Domain(_) | url::Host::Ipv4(_) | url::Host::Ipv6(_)) | Err(_) => {
                Err(HostFault::Label)
            }
        }
    }

    /// The IP address, where the host is a literal.
    pub fn ip(&self) -> Option<IpAddr> {
        match self {
            Self::Name(_) => None,
            Self::Ip(ip) => Some(*ip),
        }
    }

    /// Whether the name means this machine by definition (RFC 6761, section 6.3, and the names that
    /// distributions put into their hosts file).
    pub fn is_localhost(&self) -> bool {
        match self {
            Self::Ip(_) => false,
            Self::Name(name) => {
                let last = name.rsplit('.').next().unwrap_or(name);
                matches!(last, "localhost" | "localdomain" | "ip6-localhost" | "ip6-loopback")
            }
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Ip(IpAddr::V4(v4)) => v4.fmt(f),
            Self::Ip(IpAddr::V6(v6)) => write!(f, "[{v6}]"),
        }
    }
}

fn bracketed(inner: &str) -> Result<Host, HostFault> {
    if inner.contains('%') {
        return Err(HostFault::ZoneId);
    }
    inner.parse::<Ipv6Addr>().map(|v6| Host::Ip(v6.into())).map_err(|_| HostFault::Brackets)
}

/// The WHATWG rule: a host whose last label is a number, in any base, is meant as an IPv4 address.
fn ends_in_number(name: &str) -> bool {
    let last = name.rsplit('.').next().unwrap_or(name);
    let hexadecimal =
        last.strip_prefix("0x").is_some_and(|rest| rest.bytes().all(|b| b.is_ascii_hexdigit()));
    hexadecimal || !last.is_empty() && last.bytes().all(|byte| byte.is_ascii_digit())
}

/// Only the canonical dotted quad; `Ipv4Addr` itself refuses leading zeros and missing parts.
fn dotted_quad(text: &str) -> Result<Ipv4Addr, HostFault> {
    text.parse().map_err(|_| HostFault::Number)
}

fn check_name(name: &str) -> Result<(), HostFault> {
    if name.len() > NAME_BYTES_MAX {
        return Err(HostFault::TooLong);
    }
    for label in name.split('.') {
        if label.is_empty() {
            return Err(HostFault::EmptyLabel);
        }
        if label.len() > LABEL_BYTES_MAX {
            return Err(HostFault::TooLong);
        }
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_';
        if !label.bytes().all(plain) || label.starts_with('-') || label.ends_with('-') {
            return Err(HostFault::Label);
        }
    }
    Ok(())
}

/// Why a text is not a host in a form that everybody reads alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HostFault {
    /// Nothing there.
    #[error("the host is empty")]
    Empty,
    /// Not an IPv6 address between brackets.
    #[error("brackets must hold an IPv6 address and nothing else")]
    Brackets,
    /// `fe80::1%eth0`.
    #[error("zone ids are not accepted")]
    ZoneId,
    /// Raw Unicode in a request.
    #[error("the host is not ASCII; write it with its A-labels (xn--…)")]
    NotAscii,
    /// `0x7f.1`, `2130706433`, `127.1`, `017700000001`, `1.2.3.09`.
    #[error("a host that ends in a number must be a plain dotted quad such as 192.0.2.1")]
    Number,
    /// Two dots in a row, or a leading one.
    #[error("the host has an empty label")]
    EmptyLabel,
    /// A label over 63 or a name over 253 bytes.
    #[error("the host or one of its labels is too long")]
    TooLong,
    /// Characters other than letters, digits, `-`, `_`, or A-labels that do not decode.
    #[error("a label of the host is not valid")]
    Label,
}
