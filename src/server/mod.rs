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
    /// Connections beyond the limit that are being told so.
    rejected: Arc<AtomicUsize>,
}

impl Server {
    /// A server for a gateway.
    pub fn new(gateway: Arc<Gateway>, tasks: TaskTracker) -> Self {
        Self {
            gateway,
            tasks,
            drain: CancellationToken::new(),
            open: Arc::default(),
            rejected: Arc::default(),
        }
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
    _place: Place,
    _counted: Open,
}

impl OpenConnection {
    /// `None` when `limit` connections are open.
    fn take(server: &Server, limit: usize) -> Option<Self> {
        let place = Place::take(&server.open, limit)?;
        let gauge = server.gateway.metrics.connections.with_label_values(&["client"]);
        Some(Self { _place: place, _counted: Open::new(gauge) })
    }
}

/// One of a bounded number, given back when dropped.
#[derive(Debug)]
struct Place(Arc<AtomicUsize>);

impl Place {
    /// `None` when `limit` are taken.
    fn take(taken: &Arc<AtomicUsize>, limit: usize) -> Option<Self> {
        let place = Self(Arc::clone(taken));
        // Dropped again, and so given back, where it is one too many.
        (taken.fetch_add(1, Ordering::AcqRel) < limit).then_some(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}
