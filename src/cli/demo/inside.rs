//! The demo's private network, and the ways into it that its customer runs, one of each kind.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use anyhow::Context as _;
use base64::{Engine as _, engine::general_purpose::STANDARD};

use super::{
    connector::{self, Connector},
    gateway::Gateway,
    hop::{Hop, Protocol},
    peer::Peer,
    receiver::{Receiver, Validity},
    stage::host,
};
use crate::{
    secret::Secret,
    tunnel::wireguard::{PrivateKey, Settings},
};

/// The private host's address, which is on no network of this machine.
pub(super) const ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 20, 0, 9));

/// Where the private host really is. A connector is the real one, which opens what it is asked for,
/// so the gateway asks it for this.
pub(super) const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 9));

/// The file with the gateway's key for WireGuard.
pub(super) const KEY_FILE: &str = "wireguard.key";

/// The gateway's address in WireGuard's network.
const GATEWAY_INSIDE: &str = "10.9.0.2/32";

/// The network's host, and the ways there.
pub(super) struct Inside {
    /// The private host.
    pub(super) receiver: Receiver,
    /// The gateway's private key, as its file has it.
    pub(super) key: String,
    socks5: Hop,
    proxy: Hop,
    peer: Peer,
    peer_key: String,
    connector: Option<Connector>,
}

impl Inside {
    /// Starts the host and the ways there, but for the connector, which dials in to the gateway.
    pub(super) async fn start() -> anyhow::Result<Self> {
        let names = [host::WIKI, host::DOCS, host::BUILDS, host::DESK];
        let current = Validity::Current;
        let receiver = Receiver::start(LOOPBACK, &names, current, "", String::new()).await?;
        let place = receiver.address;
        let inside = SocketAddr::new(ADDRESS, place.port());
        let socks5 = Hop::start(Protocol::Socks5, inside, place).await?;
        let proxy = Hop::start(Protocol::Connect, inside, place).await?;
        let (own, gateway) = (new_key()?, new_key()?);
        let settings = Settings {
            private_key: Secret::new(STANDARD.decode(&*own.to_base64())?),
            preshared_key: None,
            peer_public_key: STANDARD
                .decode(gateway.public_base64())?
                .try_into()
                .ok()
                .context("a public key has 32 bytes")?,
            addresses: vec![ADDRESS.into()],
            allowed_ips: vec![GATEWAY_INSIDE.parse()?],
            keepalive: None,
            mtu: 1420,
        };
        let peer = Peer::start(&settings, inside, place).await?;
        let (key, peer_key) = (gateway.to_base64().to_string(), own.public_base64());
        Ok(Self { receiver, key, socks5, proxy, peer, peer_key, connector: None })
    }

    /// The tunnels, as an operator would write them.
    pub(super) fn tunnels(&self) -> String {
        let (socks5, proxy) = (self.socks5.address, self.proxy.address);
        let (peer, peer_key) = (self.peer.address, &self.peer_key);
        let name = connector::NAME;
        format!(
            "[tunnels.acme-socks5]\nurl = \"socks5://{socks5}\"\n\
             [tunnels.acme-proxy]\nurl = \"http://{proxy}\"\n\
             [tunnels.acme-wireguard]\nurl = \"wireguard://{peer}\"\n\
             private_key = {{ file = \"{KEY_FILE}\" }}\npeer_public_key = \"{peer_key}\"\n\
             addresses = [\"{GATEWAY_INSIDE}\"]\nallowed_ips = [\"{ADDRESS}/32\"]\n\
             [tunnels.acme-connector]\nurl = \"connector:{name}\"\n\
             [connectors]\nlisten = [\"127.0.0.1:0\"]\n"
        )
    }

    /// Has the connector dial in.
    pub(super) async fn connect(&mut self, gateway: &mut Gateway) -> anyhow::Result<()> {
        self.connector = Some(Connector::start(gateway, self.receiver.address).await?);
        Ok(())
    }

    /// Ends the SOCKS5 hop.
    pub(super) async fn stop_hop(&mut self) {
        self.socks5.stop().await;
    }

    /// Kills the connector, and waits until the gateway has noticed.
    pub(super) async fn stop_connector(&mut self, gateway: &mut Gateway) -> anyhow::Result<()> {
        self.connector = None;
        gateway.says("a connector is gone").await
    }
}

fn new_key() -> anyhow::Result<PrivateKey> {
    PrivateKey::generate().ok().context("no random bytes")
}
