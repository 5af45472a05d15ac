//! The only place that opens sockets: dials vetted addresses from the egress address.
//!
//! Traffic goes through [`Direct::connect`], which takes nothing but vetted addresses. Of the
//! functions that take any address, [`tcp_to`] and [`udp_to`] are for name servers and for the far
//! ends of tunnels alone, and [`udp_unconnected`] for those of WireGuard.

mod direct;
mod error;
mod race;
mod socket;
#[cfg(test)]
mod tests;

pub use direct::{Dialled, Direct};
pub use error::DialError;
pub(crate) use race::staggered;
pub(crate) use socket::{tcp_to, udp_to, udp_unconnected};

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

/// Where outbound sockets are bound: one address at most per family.
///
/// Empty, the default, lets the kernel choose the source, and both families are used. With an
/// address for one family only, the other family is not used at all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EgressAddresses {
    /// The source of IPv4 connections.
    pub v4: Option<Ipv4Addr>,
    /// The source of IPv6 connections.
    pub v6: Option<Ipv6Addr>,
}

impl EgressAddresses {
    /// Whether the kernel chooses the source address.
    pub fn is_unset(&self) -> bool {
        self.v4.is_none() && self.v6.is_none()
    }

    /// Whether sockets to this address are opened at all: its family has an egress address, or
    /// none has. An IPv4-mapped address counts as the IPv4 address inside.
    pub fn uses(&self, ip: IpAddr) -> bool {
        self.is_unset() || self.source_for(ip).is_some()
    }

    /// The address that a socket to `ip` is bound to; `None` where the kernel chooses, or where
    /// the family is not used (see [`Self::uses`]).
    pub fn source_for(&self, ip: IpAddr) -> Option<IpAddr> {
        match ip.to_canonical() {
            IpAddr::V4(_) => self.v4.map(IpAddr::V4),
            IpAddr::V6(_) => self.v6.map(IpAddr::V6),
        }
    }

    /// Those that are not on this machine now, found by binding a socket to each. An IPv6
    /// address that is still tentative (RFC 4862) counts as missing: nothing can leave from it.
    ///
    /// Fails when a socket cannot be opened for another reason, as with no descriptors left.
    pub fn missing(&self) -> io::Result<Vec<IpAddr>> {
        let mut missing = Vec::new();
        for ip in self.v4.map(IpAddr::V4).into_iter().chain(self.v6.map(IpAddr::V6)) {
            match UdpSocket::bind(SocketAddr::new(ip, 0)) {
                Ok(_socket) => {}
                Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => missing.push(ip),
                Err(error) => return Err(error),
            }
        }
        Ok(missing)
    }
}

/// An address of one of this machine's network interfaces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// The interface's name, such as `eth0`.
    pub name: String,
    /// One of its addresses; an interface with several is listed once for each.
    pub address: IpAddr,
    /// Whether it is the loopback interface.
    pub loopback: bool,
}

/// Every address of every interface, up or down: the gateway's own addresses, never reached
/// through it. From getifaddrs(3).
pub fn interface_addresses() -> io::Result<Vec<Interface>> {
    let found = nix::ifaddrs::getifaddrs()?.filter_map(|interface| {
        let address = interface.address?;
        let ip = match (address.as_sockaddr_in(), address.as_sockaddr_in6()) {
            (Some(v4), _) => IpAddr::V4(v4.ip()),
            (None, Some(v6)) => IpAddr::V6(v6.ip()),
            (None, None) => return None,
        };
        let loopback = interface.flags.contains(nix::net::if_::InterfaceFlags::IFF_LOOPBACK);
        Some(Interface { name: interface.interface_name, address: ip, loopback })
    });
    Ok(found.collect())
}
