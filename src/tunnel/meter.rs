//! What goes through one tunnel: its open streams and their bytes.

use std::sync::Arc;

use prometheus::{IntCounter, IntGauge};

use crate::telemetry::metrics::Metrics;

/// What goes through the tunnel of one name, reloads included.
#[derive(Debug)]
pub(super) struct Meter {
    streams: IntGauge,
    to_target: IntCounter,
    to_client: IntCounter,
}

impl Meter {
    pub(super) fn new(metrics: &Metrics, tunnel: &str) -> Self {
        let bytes = |direction| metrics.tunnels.bytes.with_label_values(&[tunnel, direction]);
        Self {
            streams: metrics.tunnels.streams.with_label_values(&[tunnel]),
            to_target: bytes("to_target"),
            to_client: bytes("to_client"),
        }
    }

    /// Counts a stream until it is dropped.
    pub(super) fn open(self: &Arc<Self>) -> Open {
        self.streams.inc();
        Open(Arc::clone(self))
    }

    pub(super) fn open_streams(&self) -> u64 {
        u64::try_from(self.streams.get()).unwrap_or_default()
    }

    pub(super) fn bytes_to_target(&self) -> u64 {
        self.to_target.get()
    }

    pub(super) fn bytes_to_client(&self) -> u64 {
        self.to_client.get()
    }
}

/// One open stream.
#[derive(Debug)]
pub(super) struct Open(Arc<Meter>);

impl Open {
    pub(super) fn sent(&self, bytes: usize) {
        self.0.to_target.inc_by(u64::try_from(bytes).unwrap_or(u64::MAX));
    }

    pub(super) fn received(&self, bytes: usize) {
        self.0.to_client.inc_by(u64::try_from(bytes).unwrap_or(u64::MAX));
    }

    /// Both at once, of what was neither read nor written here.
    pub(super) fn passed(&self, received: u64, sent: u64) {
        self.0.to_client.inc_by(received);
        self.0.to_target.inc_by(sent);
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.streams.dec();
    }
}
