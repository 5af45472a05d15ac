//! WireGuard in user space: a tunnel to one peer, without root and without the kernel's module.
//!
//! One task owns everything (`engine`): the UDP socket outside (`link`), the session (`noise`,
//! gotatun), and TCP inside (`stack`, smoltcp, with `flight` for what was lost). A stream (`stream`)
//! shares one socket of smoltcp with it (`lane`), and rings when there is something to do (`bell`).
//! Nothing on this machine can reach the network inside but through [`WireGuard::open`], and nothing
//! inside can reach this machine: it listens to nobody.
//!
//! A tunnel has one peer. Several peers are several tunnels.

mod bell;
mod datagrams;
mod engine;
mod flight;
mod key;
mod lane;
mod link;
mod noise;
mod pipe;
mod routing;
mod settings;
mod stack;
mod status;
mod stream;
#[cfg(test)]
mod tests;

use std::{
    future::poll_fn,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::{
    task::JoinSet,
    time::{Instant, sleep, timeout},
};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

pub use datagrams::WireGuardDatagrams;
pub use key::PrivateKey;
pub(crate) use noise::{Noise, Opened};
pub(crate) use pipe::Pipe;
pub use settings::Settings;
pub use status::Status;
pub use stream::WireGuardStream;

use super::TunnelError;
use crate::dial::EgressAddresses;
use engine::{Engine, Plan, SESSION_MAX};
use lane::{Failure, Lane};
use routing::Routing;
use status::Shared;

/// Streams and datagram sockets of one tunnel at a time: each may come to hold 0.8 MiB,
/// of what it sends, of what it receives, and of what it may have to send again.
const STREAMS_MAX: usize = 4096;

/// How long a connection may go unanswered before a handshake is asked for, when nothing at all
/// comes back: a peer that started anew does not know the session that it is sent packets of, and
/// does not say so. WireGuard by itself waits 15 seconds.
const NUDGE_AFTER: Duration = Duration::from_millis(1500);

/// The pauses before the task starts again after a panic.
const RESTART_PAUSE: Duration = Duration::from_secs(1);
const RESTART_PAUSE_MAX: Duration = Duration::from_secs(30);

/// A question for the peer's address under way. Its error is for the operator to read.
pub type Resolving = Pin<Box<dyn Future<Output = Result<SocketAddr, String>> + Send>>;

/// Asks where the peer is: at the start, and again when no handshake has come about for three
/// minutes while something wants out.
pub type PeerAddress = Arc<dyn Fn() -> Resolving + Send + Sync>;

/// A tunnel to one peer. It ends when nobody holds it or a stream of it any more, or when it is
/// told to stop.
pub struct WireGuard {
    routing: Arc<Routing>,
    shared: Arc<Shared>,
    alive: Arc<Alive>,
    limit: Duration,
    mtu: u16,
}

impl std::fmt::Debug for WireGuard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WireGuard").field("status", &self.status()).finish_non_exhaustive()
    }
}

/// Held by everybody who uses the tunnel; with the last one its task ends.
struct Alive {
    _stop: DropGuard,
}

impl WireGuard {
    /// Sets a tunnel up. Nothing is sent before somebody opens a stream, unless it is to be kept
    /// open (`keepalive`); `peer` is asked at once. [`Self::open`] gives up after `limit`.
    ///
    /// # Errors
    /// [`TunnelError::Auth`] when a key is not 32 bytes.
    pub fn start(
        settings: &Settings,
        egress: EgressAddresses,
        peer: PeerAddress,
        limit: Duration,
        tasks: &TaskTracker,
        stop: &CancellationToken,
    ) -> Result<Arc<Self>, TunnelError> {
        let routing = Arc::new(Routing::new(settings));
        let shared = Arc::new(Shared::new());
        let stop = stop.child_token();
        let plan = Plan { settings: settings.clone(), routing: Arc::clone(&routing), egress, peer };
        let first = Engine::new(plan.clone(), Arc::clone(&shared))
            .ok_or_else(|| TunnelError::Auth("a WireGuard key is 32 bytes".into()))?;
        shared.facts().running = true;
        let alive = Arc::new(Alive { _stop: stop.clone().drop_guard() });
        tasks.spawn(keep_running(first, plan, Arc::clone(&shared), stop));
        Ok(Arc::new(Self { routing, shared, alive, limit, mtu: settings.mtu }))
    }

    /// Opens a TCP stream to an address behind the peer.
    ///
    /// # Errors
    /// `Denied` when the address lies outside `allowed_ips`, or is of a family that we have no
    /// address of: nothing is sent then. `Unreachable` without a session with the peer, `Auth` when
    /// the peer answers and a key does not match, `BeyondUnreachable` when the address refuses or
    /// nobody answers there while the peer does, `Timeout` when nothing tells which of both.
    pub async fn open(&self, to: SocketAddr) -> Result<WireGuardStream, TunnelError> {
        let to = SocketAddr::new(to.ip().to_canonical(), to.port());
        let from = self.way_to(to)?;
        let began = Instant::now();
        let stream = WireGuardStream::begin(Lane::new(from, to), &self.shared, &self.alive);
        let opened = async {
            let early = timeout(NUDGE_AFTER, poll_fn(|cx| stream.poll_opened(cx))).await;
            if early.is_err() && !self.heard_since(began) {
                self.ask_for_handshake();
            }
            poll_fn(|cx| stream.poll_opened(cx)).await
        };
        match timeout(self.limit, opened).await {
            Ok(Ok(took)) => {
                self.shared.facts().round_trip = Some(took);
                Ok(stream)
            }
            Ok(Err(Failure::Refused)) => {
                Err(TunnelError::BeyondUnreachable(format!("{to} refuses connections")))
            }
            Ok(Err(Failure::NoWay)) => Err(TunnelError::BeyondUnreachable(format!(
                "a machine on the way says that {to} cannot be reached"
            ))),
            Ok(Err(Failure::Lost)) => Err(stopped()),
            Err(_) => Err(self.silence(to, began)),
        }
    }

    /// A datagram socket to an address behind the peer, for a name server there.
    ///
    /// # Errors
    /// `Denied` as for [`Self::open`].
    pub fn datagrams(&self, to: SocketAddr) -> Result<WireGuardDatagrams, TunnelError> {
        let to = SocketAddr::new(to.ip().to_canonical(), to.port());
        let from = self.way_to(to)?;
        Ok(WireGuardDatagrams::begin((from, to), self.mtu, &self.shared, &self.alive))
    }

    /// Makes a handshake with the peer, which shows that it is there and that the keys match, and
    /// gives the time that took. Streams go on.
    ///
    /// # Errors
    /// `Unreachable` or `Auth` when the peer does not answer as it should within `limit`.
    pub async fn probe(&self, limit: Duration) -> Result<Duration, TunnelError> {
        if !self.shared.facts().running {
            return Err(stopped());
        }
        let began = Instant::now();
        let mut answers = self.shared.answers.subscribe();
        self.ask_for_handshake();
        match timeout(limit, answers.changed()).await {
            Ok(Ok(())) => Ok(began.elapsed()),
            Ok(Err(_)) => Err(stopped()),
            Err(_) => Err(self.no_handshake(Some(began))),
        }
    }

    /// How the tunnel fares.
    pub fn status(&self) -> Status {
        let facts = self.shared.facts();
        let last_handshake = facts.handshake.map(|at| at.elapsed());
        Status {
            connected: facts.running && last_handshake.is_some_and(|age| age <= SESSION_MAX),
            last_handshake,
            round_trip: facts.round_trip,
            peer: facts.peer,
            bytes_sent: facts.bytes_sent,
            bytes_received: facts.bytes_received,
            open_streams: self.shared.open_streams.load(Ordering::Acquire),
            fault: facts.fault.clone(),
        }
    }

    fn ask_for_handshake(&self) {
        self.shared.probed.store(true, Ordering::Release);
        self.shared.bell.wake();
    }

    fn heard_since(&self, then: Instant) -> bool {
        self.shared.facts().received.is_some_and(|at| at >= then)
    }

    /// Our address for talking to `to`, if the peer is the way there.
    fn way_to(&self, to: SocketAddr) -> Result<std::net::IpAddr, TunnelError> {
        if !self.routing.allows(to.ip()) || to.port() == 0 {
            let message = format!("{to} lies outside the tunnel's allowed_ips");
            return Err(TunnelError::Denied(message));
        }
        let from = self.routing.source_for(to.ip()).ok_or_else(|| {
            let message = format!("the tunnel has no address inside of the family of {to}");
            TunnelError::Denied(message)
        })?;
        if !self.shared.facts().running {
            return Err(stopped());
        }
        if self.shared.open_streams.load(Ordering::Acquire) >= STREAMS_MAX {
            let message = format!("{STREAMS_MAX} streams are open, and there may be no more");
            return Err(TunnelError::Unreachable(message));
        }
        Ok(from)
    }

    /// Why a connection that began then was not answered.
    fn silence(&self, to: SocketAddr, began: Instant) -> TunnelError {
        let handshake = self.shared.facts().handshake;
        let session = handshake.is_some_and(|at| at.elapsed() <= SESSION_MAX);
        match (session, self.heard_since(began)) {
            (false, _) => self.no_handshake(None),
            (true, true) => TunnelError::BeyondUnreachable(format!("{to} does not answer")),
            (true, false) => TunnelError::Timeout,
        }
    }

    /// Why there is no session; since `began`, where that is given.
    fn no_handshake(&self, began: Option<Instant>) -> TunnelError {
        let facts = self.shared.facts();
        let peer = facts.peer.map_or_else(|| "the peer".to_owned(), |peer| format!("peer {peer}"));
        let mismatch = facts.mismatch.filter(|at| began.is_none_or(|began| *at >= began));
        if mismatch.is_some() {
            return TunnelError::Auth(format!(
                "{peer} answers, but a key does not match: compare the preshared keys"
            ));
        }
        let fault = facts.fault.as_ref().map_or_else(
            || "it is not there, or does not know our public key".to_owned(),
            Clone::clone,
        );
        TunnelError::Unreachable(format!("no handshake with {peer}: {fault}"))
    }
}

fn stopped() -> TunnelError {
    TunnelError::Unreachable("the tunnel was stopped, or is starting again".into())
}

/// Runs the task, and starts it again when it panics: a fault in a library takes one tunnel's
/// streams, and not the process.
async fn keep_running(first: Engine, plan: Plan, shared: Arc<Shared>, stop: CancellationToken) {
    let mut pause = RESTART_PAUSE;
    let mut next = Some(first);
    while let Some(engine) = next.take() {
        let began = Instant::now();
        let mut task = JoinSet::new();
        task.spawn(engine.run(stop.clone()));
        let ended = task.join_next().await;
        shared.facts().running = false;
        if stop.is_cancelled() || matches!(ended, None | Some(Ok(()))) {
            break;
        }
        if began.elapsed() > RESTART_PAUSE_MAX.saturating_mul(2) {
            pause = RESTART_PAUSE;
        }
        tracing::error!(?pause, "a WireGuard tunnel's task panicked and starts again");
        shared.facts().fault = Some("the tunnel's task failed and starts again".into());
        tokio::select! {
            () = stop.cancelled() => break,
            () = sleep(pause) => {}
        }
        pause = pause.saturating_mul(2).min(RESTART_PAUSE_MAX);
        next = Engine::new(plan.clone(), Arc::clone(&shared));
    }
    // whoever rang meanwhile rang for nobody
    for ring in shared.bell.answer() {
        match ring {
            bell::Ring::Stream(lane) => lane.cut(),
            bell::Ring::Datagrams(port) => port.cut(),
        }
    }
}
