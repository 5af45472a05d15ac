//! A WireGuard peer: set up when it is first needed, so that reading a configuration sends nothing.

use std::{
    net::SocketAddr,
    sync::{Arc, OnceLock},
    time::Duration,
};

use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    Channel, Means, TunnelError, WireGuardTunnel,
    wireguard::{PeerAddress, Resolving, Settings, WireGuard, WireGuardDatagrams, WireGuardStream},
};
use crate::{
    dial::EgressAddresses,
    origin::{Authority, Host},
    resolve::Resolver,
};

/// Where a peer is, and the tunnel to it once it was needed.
#[derive(Debug)]
pub(super) struct Peer {
    at: Authority,
    settings: Settings,
    egress: EgressAddresses,
    resolver: Arc<Resolver>,
    /// A little less than the limit around it, so that its own reason is heard.
    limit: Duration,
    running: OnceLock<Result<Arc<WireGuard>, TunnelError>>,
}

impl Peer {
    pub(super) fn new(tunnel: &WireGuardTunnel, means: &Means) -> Self {
        let WireGuardTunnel {
            peer,
            private_key,
            preshared_key,
            peer_public_key,
            addresses,
            allowed_ips,
            keepalive,
            mtu,
        } = tunnel.clone();
        let settings = Settings {
            private_key,
            preshared_key,
            peer_public_key,
            addresses,
            allowed_ips,
            keepalive,
            mtu,
        };
        Self {
            at: peer,
            settings,
            egress: means.egress.clone(),
            resolver: Arc::clone(&means.resolver),
            limit: means.connect_timeout.mul_f64(0.9),
            running: OnceLock::new(),
        }
    }

    /// Whether both, of equal settings, find their peer in the same way.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        let same_names = match self.at.host {
            Host::Ip(_) => true,
            Host::Name(_) => Arc::ptr_eq(&self.resolver, &other.resolver),
        };
        same_names && self.egress == other.egress
    }

    /// Shows that the peer is there and that the keys match, and the time that took.
    pub(super) async fn probe(&self) -> Result<Duration, TunnelError> {
        self.running()?.probe(self.limit).await
    }

    pub(super) async fn open(&self, to: SocketAddr) -> Result<WireGuardStream, TunnelError> {
        self.running()?.open(to).await
    }

    pub(super) fn datagrams(&self, to: SocketAddr) -> Result<WireGuardDatagrams, TunnelError> {
        self.running()?.datagrams(to)
    }

    fn running(&self) -> Result<&WireGuard, TunnelError> {
        let running = self.running.get_or_init(|| {
            // Its task ends with the tunnel and the last of its streams.
            let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
            let egress = self.egress.clone();
            WireGuard::start(&self.settings, egress, self.address(), self.limit, &tasks, &stop)
        });
        running.as_deref().map_err(Clone::clone)
    }

    /// Asks where the peer is, each time anew.
    fn address(&self) -> PeerAddress {
        let (at, egress) = (self.at.clone(), self.egress.clone());
        let resolver = Arc::clone(&self.resolver);
        Arc::new(move || -> Resolving {
            let (at, egress, resolver) = (at.clone(), egress.clone(), Arc::clone(&resolver));
            Box::pin(async move {
                let name = match &at.host {
                    Host::Ip(ip) => return Ok(SocketAddr::new(*ip, at.port.get())),
                    Host::Name(name) => name,
                };
                let answer = resolver.resolve(name).await;
                let answer = answer.map_err(|error| format!("{name}: {error}"))?;
                let usable = answer.addresses.iter().find(|ip| egress.uses(**ip));
                usable
                    .map(|ip| SocketAddr::new(*ip, at.port.get()))
                    .ok_or_else(|| format!("{name} has no address of a usable family"))
            })
        })
    }
}

impl Channel for WireGuardStream {
    fn reset(&mut self) {
        Self::reset(self);
    }
}
