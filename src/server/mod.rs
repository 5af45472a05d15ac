//! The listeners, and the connections that clients open.

pub mod chunked;
pub mod connection;
mod guard;
pub mod head;
pub mod http1;
mod http2;
pub mod listen;
pub mod tls;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{gateway::Gateway, telemetry::metrics::Open};

/// What all proxy listeners share.
#[derive(Clone, Debug)]
pub struct Server {
    /// Decides.
    pub gateway: Arc<Gateway>,
    /// Owns every connection's task.
    pub tasks: TaskTracker,
    /// Cancelled when draining begins.
    pub drain: CancellationToken,
    /// When draining began, for telling fresh connections from old ones.
    pub drain_began: Arc<std::sync::OnceLock<Instant>>,
    /// Connections open now.
    pub open: Arc<AtomicUsize>,
}

/// A connection accepted so shortly before draining began that its first request may not have
/// arrived yet; it is served, so that a take-over refuses nobody.
const FRESH: Duration = Duration::from_millis(250);

impl Server {
    /// A server for a gateway.
    pub fn new(gateway: Arc<Gateway>, tasks: TaskTracker) -> Self {
        Self {
            gateway,
            tasks,
            drain: CancellationToken::new(),
            drain_began: Arc::default(),
            open: Arc::default(),
        }
    }

    /// Lets open connections end: new requests on them are refused from now on.
    pub fn begin_draining(&self) {
        let _first = self.drain_began.set(Instant::now());
        self.gateway.draining.store(true, Ordering::Release);
        self.drain.cancel();
    }

    fn is_fresh(&self, accepted: Instant) -> bool {
        self.drain_began
            .get()
            .is_none_or(|began| accepted.checked_add(FRESH).is_none_or(|until| *began <= until))
    }
}

/// One of the connections that count towards `limits.max_connections`.
#[derive(Debug)]
struct OpenConnection {
    open: Arc<AtomicUsize>,
    _counted: Open,
}

impl OpenConnection {
    /// `None` when `limit` connections are open.
    fn take(server: &Server, limit: usize) -> Option<Self> {
        let gauge = server.gateway.metrics.connections.with_label_values(&["client"]);
        if server.open.fetch_add(1, Ordering::AcqRel) >= limit {
            server.open.fetch_sub(1, Ordering::AcqRel);
            return None;
        }
        Some(Self { open: Arc::clone(&server.open), _counted: Open::new(gauge) })
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.open.fetch_sub(1, Ordering::AcqRel);
    }
}
