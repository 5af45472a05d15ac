//! Ways into private networks: each takes a vetted address and gives a stream, or says why not.
//!
//! Nothing here falls back to a direct connection, and no name is ever handed to a tunnel: a
//! [`Tunnel`] of traffic takes nothing but a [`VettedAddr`]. The one other thing that is asked for
//! is a name server of the configuration, by [`Passage`] and for `resolve` alone.

mod all;
mod datagrams;
pub mod error;
mod health;
mod hop;
mod http;
mod kind;
mod line;
mod meter;
mod passage;
mod peer;
mod settings;
mod socks5;
mod stream;
#[cfg(test)]
mod tests;
mod watch;
mod wire;
pub mod wireguard;

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use jiff::Timestamp;
use serde::Serialize;
use tokio::{
    task::JoinSet,
    time::{Instant, timeout_at},
};
use utoipa::ToSchema;

pub use all::{Means, Tunnels, TunnelsError};
pub use error::TunnelError;
pub use health::TunnelState;
pub use passage::{Passage, PassageError, Passed};
pub use settings::{Credentials, HttpTunnel, Settings, SocksTunnel, TunnelTls, WireGuardTunnel};
pub use stream::{Channel, TunnelStream};

use crate::policy::VettedAddr;
use datagrams::TunnelDatagrams;
use health::{Health, Outcome, Seen};
use kind::Kind;
use line::{Lifeline, Until};
use meter::Meter;

/// One configured tunnel, shared by all that goes through it. Its streams outlive it.
#[derive(Debug)]
pub struct Tunnel {
    core: Arc<Core>,
    /// The task that probes the far end, while the tunnel is in force.
    watcher: Mutex<JoinSet<()>>,
}

/// What the watching task shares with the tunnel.
#[derive(Debug)]
struct Core {
    name: Arc<str>,
    /// Which tunnel of this process it is: a changed one is another.
    id: u64,
    settings: Settings,
    kind: Kind,
    connect_timeout: Duration,
    health: Health,
    meter: Arc<Meter>,
}

/// What is known of a tunnel, for the admin API and for checks.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
#[schema(as = Tunnel)]
pub struct TunnelStatus {
    /// Its name in the configuration.
    pub name: String,
    /// `http`, `https`, `socks5`, `wireguard` or `connector`.
    pub kind: &'static str,
    /// Where it is, without secrets.
    pub tunnel_url: String,
    /// Whether it carries traffic.
    pub tunnel_status: TunnelState,
    /// When it was last seen to.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub last_healthy_at: Option<Timestamp>,
    /// The last round trip to its far end that was seen, in milliseconds, to the microsecond.
    pub round_trip_ms: Option<f64>,
    /// Streams that are open through it.
    pub open_streams: u64,
    /// Bytes carried towards targets, since the process began.
    pub bytes_to_target: u64,
    /// Bytes carried towards clients, since the process began.
    pub bytes_to_client: u64,
    /// What last went wrong.
    pub last_error: Option<String>,
}

impl Tunnel {
    fn new(core: Core) -> Self {
        Self { core: Arc::new(core), watcher: Mutex::default() }
    }

    /// Its name in the configuration, which is also the route in events.
    pub fn name(&self) -> &Arc<str> {
        &self.core.name
    }

    /// Opens a stream to an address that was vetted for the target, within
    /// `limits.connect_timeout`. Fails at once while the tunnel is known to be down.
    ///
    /// # Errors
    /// Why there is no stream.
    pub async fn open(&self, to: VettedAddr) -> Result<TunnelStream, TunnelError> {
        self.core.open(to.addr(), self.core.deadline()).await
    }

    /// Looks whether the far end can be reached, now. What is found is what [`Self::status`] and
    /// traffic go by.
    ///
    /// # Errors
    /// Why it cannot.
    pub async fn probe(&self) -> Result<(), TunnelError> {
        self.core.probe().await
    }

    /// Why there is no use in trying: the far end is down, and watched for its return.
    pub fn down(&self) -> Option<TunnelError> {
        self.core.down()
    }

    /// Whether it carries traffic, as far as is known.
    pub fn state(&self) -> TunnelState {
        self.core.health.known().state()
    }

    /// Where its far end is, without secrets.
    pub fn url(&self) -> String {
        self.core.settings.url()
    }

    /// What it is, without secrets: equal texts stand for the same way, restarts included.
    pub fn definition(&self) -> String {
        format!("{:?}", self.core.settings)
    }

    /// What is known of it.
    pub fn status(&self) -> TunnelStatus {
        let Core { name, settings, health, meter, .. } = &*self.core;
        let known = health.known();
        TunnelStatus {
            name: name.to_string(),
            kind: settings.kind(),
            tunnel_url: settings.url(),
            tunnel_status: known.state(),
            last_healthy_at: known.last_healthy_at,
            round_trip_ms: known.round_trip.map(milliseconds),
            open_streams: meter.open_streams(),
            bytes_to_target: meter.bytes_to_target(),
            bytes_to_client: meter.bytes_to_client(),
            last_error: known.last_error,
        }
    }
}

impl Core {
    /// By when an attempt that begins now has to end.
    fn deadline(&self) -> Instant {
        let now = Instant::now();
        now.checked_add(self.connect_timeout).unwrap_or(now)
    }

    fn down(&self) -> Option<TunnelError> {
        match self.kind.standing() {
            Some(standing) => standing.err(),
            None => self.health.down(),
        }
    }

    async fn open(&self, to: SocketAddr, by: Instant) -> Result<TunnelStream, TunnelError> {
        if let Some(error) = self.down() {
            return Err(error);
        }
        let (started, mut seen) = (Instant::now(), Seen::default());
        let opened = timeout_at(by, self.kind.open(to, &mut seen)).await;
        let opened = opened.unwrap_or(Err(TunnelError::Timeout));
        let error = opened.as_ref().err();
        // What this end refuses says nothing of the far one.
        if !self.kind.refuses(error) {
            self.health.note(&Outcome { started, seen, whole: true, error });
        }
        let (link, early) = opened?;
        // A connector's streams end with its connection, which is watched by its own means, and live
        // on where it only takes no new ones.
        let lifeline = self
            .kind
            .standing()
            .is_none()
            .then(|| Lifeline { tunnel: Arc::clone(&self.name), line: self.health.line() });
        Ok(TunnelStream::new(link, early, self.meter.open(), lifeline))
    }

    /// A socket for datagrams to a name server behind it, which ends as [`Until::Down`] says.
    fn datagrams(&self, to: SocketAddr) -> Result<TunnelDatagrams, TunnelError> {
        if let Some(error) = self.down() {
            return Err(error);
        }
        let lifeline = Lifeline { tunnel: Arc::clone(&self.name), line: self.health.line() };
        let bond = lifeline.bond(Until::Down);
        Ok(TunnelDatagrams::new(self.kind.datagrams(to)?, self.meter.open(), bond))
    }

    async fn probe(&self) -> Result<(), TunnelError> {
        let (started, mut seen) = (Instant::now(), Seen::default());
        let found = timeout_at(self.deadline(), self.kind.probe(&mut seen)).await;
        let found = found.unwrap_or(Err(TunnelError::Timeout));
        let whole = self.kind.reaches_wholly();
        let error = found.as_ref().err();
        self.health.note(&Outcome { started, seen, whole, error });
        found
    }
}

/// A number for a tunnel that no other of this process has.
fn next_id() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}
