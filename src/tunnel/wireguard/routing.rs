//! Cryptokey routing: which addresses may be reached through a peer, and from which ones it may
//! send; and what a packet that came out of the tunnel says.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::IpNet;
use smoltcp::wire::{
    Icmpv4Message, Icmpv4Packet, Icmpv6Message, Icmpv6Packet, IpProtocol, Ipv4Packet, Ipv6Packet,
    TcpPacket, UdpPacket,
};

use super::Settings;

/// Which addresses lie inside, and which of them are ours.
#[derive(Clone, Debug)]
pub(super) struct Routing {
    allowed: Vec<IpNet>,
    own: Vec<IpAddr>,
}

impl Routing {
    pub(super) fn new(settings: &Settings) -> Self {
        Self {
            allowed: settings.allowed_ips.clone(),
            own: settings.addresses.iter().map(IpNet::addr).collect(),
        }
    }

    /// Whether the peer is the way to this address, and may send from it.
    pub(super) fn allows(&self, ip: IpAddr) -> bool {
        self.allowed.iter().any(|net| net.contains(&ip))
    }

    /// Our address for talking to this one.
    pub(super) fn source_for(&self, ip: IpAddr) -> Option<IpAddr> {
        self.own.iter().copied().find(|own| own.is_ipv4() == ip.is_ipv4())
    }

    /// Our address of each family, as far as there is one.
    pub(super) fn sources(&self) -> impl Iterator<Item = IpAddr> {
        [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)]
            .into_iter()
            .filter_map(|family| self.source_for(family))
    }

    /// What a packet from the peer says, if its source lies inside, its destination is ours, and
    /// there is anything here that it could be meant for.
    pub(super) fn admit<'a>(&self, packet: &'a [u8]) -> Option<Inside<'a>> {
        let (source, destination, protocol, payload) = split(packet)?;
        if !self.allows(source) || !self.own.contains(&destination) {
            return None;
        }
        if protocol == IpProtocol::Tcp {
            // its checksum is smoltcp's business
            let segment = TcpPacket::new_checked(payload).ok()?;
            let from = SocketAddr::new(source, segment.src_port());
            return Some(Inside::Tcp { from, port: segment.dst_port() });
        }
        if protocol == IpProtocol::Udp {
            let datagram = UdpPacket::new_checked(payload).ok()?;
            let from = SocketAddr::new(source, datagram.src_port());
            let sound = datagram.verify_checksum(&source.into(), &destination.into());
            let (port, payload) = (datagram.dst_port(), datagram.payload());
            return sound.then_some(Inside::Udp { from, port, payload });
        }
        let icmp = if source.is_ipv4() { IpProtocol::Icmp } else { IpProtocol::Icmpv6 };
        if protocol == icmp { unreachable_of(payload, source, destination) } else { None }
    }
}

/// What a packet that was let in is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Inside<'a> {
    /// A segment to a port of ours.
    Tcp { from: SocketAddr, port: u16 },
    /// A datagram to a port of ours.
    Udp { from: SocketAddr, port: u16, payload: &'a [u8] },
    /// Somebody on the way to `to` says that there is no way; `port` is ours.
    Unreachable { to: SocketAddr, port: u16 },
}

/// Source, destination, protocol and payload. Fragments are nothing that can be used, and neither
/// are IPv6 extension headers.
pub(super) fn split(packet: &[u8]) -> Option<(IpAddr, IpAddr, IpProtocol, &[u8])> {
    match packet.first()? >> 4 {
        4 => {
            let packet = Ipv4Packet::new_checked(packet).ok()?;
            let whole = !packet.more_frags() && packet.frag_offset() == 0;
            (whole && packet.verify_checksum()).then(|| {
                let (source, destination) = (packet.src_addr(), packet.dst_addr());
                (source.into(), destination.into(), packet.next_header(), packet.payload())
            })
        }
        6 => {
            let packet = Ipv6Packet::new_checked(packet).ok()?;
            let (source, destination) = (packet.src_addr(), packet.dst_addr());
            Some((source.into(), destination.into(), packet.next_header(), packet.payload()))
        }
        _ => None,
    }
}

/// Destination unreachable (RFC 792, RFC 4443 section 3.1), with the segment of ours it is about.
fn unreachable_of<'a>(payload: &[u8], source: IpAddr, destination: IpAddr) -> Option<Inside<'a>> {
    /// Over the ICMP header to the packet that it is about.
    const HEADER_BYTES: usize = 8;
    match (source, destination) {
        (IpAddr::V4(_), IpAddr::V4(_)) => {
            let message = Icmpv4Packet::new_checked(payload).ok()?;
            // code 4 is about the packet's size, and no reason to give up
            let meant =
                message.msg_type() == Icmpv4Message::DstUnreachable && message.msg_code() != 4;
            if !meant || !message.verify_checksum() {
                return None;
            }
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let message = Icmpv6Packet::new_checked(payload).ok()?;
            let meant = message.msg_type() == Icmpv6Message::DstUnreachable;
            if !meant || !message.verify_checksum(&source, &destination) {
                return None;
            }
        }
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => return None,
    }
    quoted(payload.get(HEADER_BYTES..)?, destination)
}

/// The beginning of a segment that `own` sent. Only its first eight bytes are sure to be there.
fn quoted<'a>(packet: &[u8], own: IpAddr) -> Option<Inside<'a>> {
    let at = |start: usize, length: usize| packet.get(start..start.checked_add(length)?);
    let first = *packet.first()?;
    let (protocol, source, destination, header): (u8, IpAddr, IpAddr, usize) = match first >> 4 {
        4 => (
            *packet.get(9)?,
            <[u8; 4]>::try_from(at(12, 4)?).ok()?.into(),
            <[u8; 4]>::try_from(at(16, 4)?).ok()?.into(),
            usize::from(first & 0x0f).checked_mul(4)?,
        ),
        6 => (
            *packet.get(6)?,
            <[u8; 16]>::try_from(at(8, 16)?).ok()?.into(),
            <[u8; 16]>::try_from(at(24, 16)?).ok()?.into(),
            40,
        ),
        _ => return None,
    };
    if source != own || protocol != u8::from(IpProtocol::Tcp) {
        return None;
    }
    let port = u16::from_be_bytes(at(header, 2)?.try_into().ok()?);
    let to = u16::from_be_bytes(at(header.checked_add(2)?, 2)?.try_into().ok()?);
    Some(Inside::Unreachable { to: SocketAddr::new(destination, to), port })
}
