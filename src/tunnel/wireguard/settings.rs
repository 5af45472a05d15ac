//! What one WireGuard tunnel is set up with.

use std::time::Duration;

use ipnet::IpNet;

use crate::secret::Secret;

/// One WireGuard peer. There is one peer a tunnel; several peers are several tunnels.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Our private key, 32 bytes.
    pub private_key: Secret,
    /// A key shared with the peer besides, 32 bytes. Default: none.
    pub preshared_key: Option<Secret>,
    /// The peer's public key.
    pub peer_public_key: [u8; 32],
    /// Our addresses inside, at least one. The first of each family is where streams come from.
    pub addresses: Vec<IpNet>,
    /// What lies behind the peer, at least one.
    pub allowed_ips: Vec<IpNet>,
    /// Time between packets that keep the way open, in whole seconds. Default: none are sent.
    pub keepalive: Option<Duration>,
    /// Largest packet inside, in bytes.
    pub mtu: u16,
}
