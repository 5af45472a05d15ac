//! The listeners, and the connections that clients open.

pub mod chunked;
pub mod connection;
mod guard;
pub mod head;
pub mod http1;
mod http2;
pub mod listen;
pub mod tls;

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

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
    /// Connections open now.
    pub open: Arc<AtomicUsize>,
}

impl Server {
    /// A server for a gateway.
    pub fn new(gateway: Arc<Gateway>, tasks: TaskTracker) -> Self {
        Self { gateway, tasks, drain: CancellationToken::new(), open: Arc::default() }
    }

    /// Lets open connections end: new requests on them are refused from now on.
    pub fn begin_draining(&self) {
        self.gateway.begin_draining();
        self.drain.cancel();
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
