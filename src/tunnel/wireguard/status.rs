//! What the tunnel's task tells the rest of the program.

use std::{
    net::SocketAddr,
    sync::{Mutex, MutexGuard, PoisonError, atomic::AtomicBool, atomic::AtomicUsize},
    time::Duration,
};

use tokio::{sync::watch, time::Instant};

use super::bell::Bell;

/// How a tunnel fares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// Whether there is a session that is not older than WireGuard lets it become.
    pub connected: bool,
    /// Time since the last handshake with the peer. `None`: there was none.
    pub last_handshake: Option<Duration>,
    /// What the last handshake, or the last connection inside, took.
    pub round_trip: Option<Duration>,
    /// Where the peer is: where its name led, or where it was last heard from.
    pub peer: Option<SocketAddr>,
    /// Bytes of datagrams to the peer.
    pub bytes_sent: u64,
    /// Bytes of datagrams from the peer, as far as they were its own.
    pub bytes_received: u64,
    /// Streams and datagram sockets that are open or being opened.
    pub open_streams: usize,
    /// What stands in the way, as far as it is known on this side.
    pub fault: Option<String>,
}

/// The same, as the task keeps it.
#[derive(Debug, Default)]
pub(super) struct Facts {
    /// Whether the task runs.
    pub(super) running: bool,
    pub(super) peer: Option<SocketAddr>,
    pub(super) handshake: Option<Instant>,
    /// When the peer was last heard.
    pub(super) received: Option<Instant>,
    /// When the peer last answered with something our keys do not open.
    pub(super) mismatch: Option<Instant>,
    pub(super) round_trip: Option<Duration>,
    pub(super) bytes_sent: u64,
    pub(super) bytes_received: u64,
    pub(super) fault: Option<String>,
}

/// What everybody who uses the tunnel shares with its task.
pub(super) struct Shared {
    pub(super) bell: Bell,
    pub(super) open_streams: AtomicUsize,
    /// Somebody wants a handshake now.
    pub(super) probed: AtomicBool,
    /// Counts handshakes that we began and the peer answered.
    pub(super) answers: watch::Sender<u64>,
    facts: Mutex<Facts>,
}

impl Shared {
    pub(super) fn new() -> Self {
        Self {
            bell: Bell::default(),
            open_streams: AtomicUsize::new(0),
            probed: AtomicBool::new(false),
            answers: watch::Sender::new(0),
            facts: Mutex::default(),
        }
    }

    pub(super) fn facts(&self) -> MutexGuard<'_, Facts> {
        self.facts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
