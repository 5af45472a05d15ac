//! Why a connection could not be made, in words that tell who has to act.

use std::io;

use nix::errno::Errno;

/// Why no connection stands.
///
/// When several addresses were tried, the most telling failure is reported: first what is wrong
/// with the gateway itself (`TooManyFiles`, `SourceUnavailable`, `PeerMismatch`), then what the
/// other side said (`Refused`, `ResetAfterConnect`, `Prohibited`, `HostUnreachable`), then that it
/// said nothing (`Timeout`), and only then what may merely mean that this machine lacks a family
/// (`Other`, `NetworkUnreachable`, `FamilyUnavailable`): an IPv6 address without a route must not
/// hide that a firewall swallows IPv4.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// Nothing came back in time. Usually a firewall that drops.
    #[error("no answer to the connection attempt in time")]
    Timeout,
    /// A reset instead of an answer: the machine is there, nothing listens on the port.
    #[error("connection refused")]
    Refused,
    /// A filter says no: ICMP "administratively prohibited", or an ICMP "port unreachable", which
    /// TCP itself never sends (RFC 1122, section 3.2.2.1) but packet filters do; or a local rule.
    #[error("connection administratively prohibited")]
    Prohibited,
    /// A router on the way, or the own machine, does not find the host.
    #[error("host unreachable")]
    HostUnreachable,
    /// There is no route to the network.
    #[error("network unreachable")]
    NetworkUnreachable,
    /// No address is of a family that has an egress address (or that this machine has at all).
    #[error("no address is of a family with an egress address")]
    FamilyUnavailable,
    /// The connection stands, but not with the address that was dialled.
    #[error("connected to another address than the one dialled")]
    PeerMismatch,
    /// The connection stood and was reset before it could be looked at.
    #[error("connection reset as soon as it stood")]
    ResetAfterConnect,
    /// The egress address is not on this machine any more, or has no free port to this address.
    #[error("the egress address cannot be bound, or has no free port left")]
    SourceUnavailable,
    /// The process or the machine has no file descriptors or no memory for sockets left.
    #[error("no sockets left on this machine")]
    TooManyFiles,
    /// Anything else the kernel can say.
    #[error("connection failed")]
    Other(#[source] io::Error),
}

impl DialError {
    /// What an error of socket(2), bind(2) or connect(2), or of the attempt itself, means. `bound`
    /// tells whether the socket has an egress address: without one, "address not available" says
    /// that the machine has no address of that family, not that the egress address is gone.
    pub(super) fn from_io(error: io::Error, bound: bool) -> Self {
        let Some(errno) = error.raw_os_error().map(Errno::from_raw) else {
            return Self::Other(error);
        };
        #[expect(clippy::wildcard_enum_match_arm, reason = "errno has a hundred others")]
        match errno {
            Errno::ETIMEDOUT => Self::Timeout,
            Errno::ECONNREFUSED => Self::Refused,
            Errno::EACCES | Errno::EPERM => Self::Prohibited,
            Errno::EHOSTUNREACH | Errno::EHOSTDOWN => Self::HostUnreachable,
            Errno::EAFNOSUPPORT => Self::FamilyUnavailable,
            // ENOTCONN: after the attempt has succeeded, the peer is gone already
            Errno::ECONNRESET | Errno::ENOTCONN => Self::ResetAfterConnect,
            Errno::EADDRNOTAVAIL | Errno::EADDRINUSE if bound => Self::SourceUnavailable,
            Errno::ENETUNREACH | Errno::ENETDOWN | Errno::EADDRNOTAVAIL => Self::NetworkUnreachable,
            Errno::EMFILE | Errno::ENFILE | Errno::ENOBUFS | Errno::ENOMEM => Self::TooManyFiles,
            _ => Self::Other(error),
        }
    }

    /// Of two failures the one worth reporting, in the order given above.
    pub(super) fn more_telling(self, other: Self) -> Self {
        if other.rank() < self.rank() { other } else { self }
    }

    fn rank(&self) -> u8 {
        match self {
            Self::TooManyFiles => 0,
            Self::SourceUnavailable => 1,
            Self::PeerMismatch => 2,
            Self::Refused => 3,
            Self::ResetAfterConnect => 4,
            Self::Prohibited => 5,
            Self::HostUnreachable => 6,
            Self::Timeout => 7,
            Self::Other(_) => 8,
            Self::NetworkUnreachable => 9,
            Self::FamilyUnavailable => 10,
        }
    }
}

impl From<DialError> for io::Error {
    fn from(error: DialError) -> Self {
        let kind = match &error {
            DialError::Timeout => io::ErrorKind::TimedOut,
            DialError::Refused => io::ErrorKind::ConnectionRefused,
            DialError::Prohibited => io::ErrorKind::PermissionDenied,
            DialError::HostUnreachable => io::ErrorKind::HostUnreachable,
            DialError::NetworkUnreachable => io::ErrorKind::NetworkUnreachable,
            DialError::FamilyUnavailable => io::ErrorKind::Unsupported,
            DialError::ResetAfterConnect => io::ErrorKind::ConnectionReset,
            DialError::SourceUnavailable => io::ErrorKind::AddrNotAvailable,
            DialError::PeerMismatch | DialError::TooManyFiles | DialError::Other(_) => {
                io::ErrorKind::Other
            }
        };
        Self::new(kind, error)
    }
}
