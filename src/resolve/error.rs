//! Why a name gave no usable answer, and why a resolver could not be set up.

use std::io;
use std::net::SocketAddr;

/// Why a name gave no usable answer. The name is refused in every case: there is no falling back
/// to another source, and no older answer is used.
///
/// When the questions for IPv4 and IPv6 addresses fail differently, or several servers do, the
/// most telling failure is reported, in the order in which they stand here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, thiserror::Error)]
pub enum ResolveError {
    /// Not a host name: too long, an empty or over-long label, a character that host names do
    /// not have, or an address. Nothing was asked.
    #[error("not a host name")]
    InvalidName,
    /// More addresses than [`super::ADDRESSES_MAX`].
    #[error("the answer has too many addresses")]
    TooManyAddresses,
    /// Aliases that lead in a circle, or a chain of more than [`super::ALIASES_MAX`].
    #[error("the name's aliases lead in a circle or are too many")]
    CnameLoop,
    /// The name does not exist (NXDOMAIN, RFC 2308).
    #[error("the name does not exist")]
    NxDomain,
    /// The servers refuse to answer us (REFUSED, NOTAUTH).
    #[error("the name servers refuse to answer")]
    Refused,
    /// The servers cannot answer (SERVFAIL and other failures): often the zone's own servers are
    /// down, or its signatures invalid.
    #[error("the name servers failed")]
    ServFail,
    /// An answer that is not one: undecodable, to another question, or still cut short over TCP.
    #[error("the name servers' answer is malformed")]
    Malformed,
    /// No answer in time, repetitions and all servers included.
    #[error("no answer from the name servers in time")]
    Timeout,
    /// No server can be reached: closed port, no route, TLS failure.
    #[error("no name server can be reached")]
    Unreachable,
    /// Too many other names were being asked for, so that this one's turn did not come in time.
    #[error("too many names are being resolved")]
    TooManyQueries,
    /// The name exists but has neither IPv4 nor IPv6 addresses (NODATA, RFC 2308).
    #[error("the name has no addresses")]
    NoAddress,
}

/// Why a resolver cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// No server is configured.
    #[error("no name server is configured")]
    NoServers,
    /// More servers than [`super::SERVERS_MAX`].
    #[error("{0} name servers are configured, at most {max} can be", max = super::SERVERS_MAX)]
    TooManyServers(usize),
    /// A server is of a family that has no egress address, and could never be asked.
    #[error("the name server {0} is of a family that has no egress address")]
    FamilyUnavailable(SocketAddr),
    /// The system's configuration of name servers cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The system's configuration names no server that could be used.
    #[error("{0} names no name server; set dns.servers")]
    NoSystemServers(&'static str),
    /// The roots for `tls://` and `https://` servers cannot be used.
    #[error("the certificate roots for name servers cannot be used")]
    Roots(#[source] rustls::Error),
}
