//! Metrics of configured tunnels.

use prometheus::{IntCounterVec, IntGaugeVec};

use super::metrics::Declare;

/// What is shown of each configured tunnel, by `tunnel`.
#[derive(Debug)]
pub struct TunnelMetrics {
    /// 1 while it carries traffic.
    pub up: IntGaugeVec,
    /// Streams that are open through it.
    pub streams: IntGaugeVec,
    /// Bytes carried through it, also by `direction`: `to_target`, `to_client`.
    pub bytes: IntCounterVec,
}

impl TunnelMetrics {
    pub(super) fn new(declare: &Declare) -> Result<Self, prometheus::Error> {
        Ok(Self {
            up: declare.gauges(
                "egress_tunnel_up",
                "1 while the configured tunnel carries traffic.",
                &["tunnel"],
            )?,
            streams: declare.gauges(
                "egress_tunnel_streams",
                "Streams that are open through the configured tunnel.",
                &["tunnel"],
            )?,
            bytes: declare.counters(
                "egress_tunnel_bytes_total",
                "Bytes carried through the configured tunnel.",
                &["tunnel", "direction"],
            )?,
        })
    }

    /// Takes out what there is of a tunnel that is configured no longer.
    pub fn forget(&self, tunnel: &str) {
        // What is not there need not be removed.
        let _absent = self.up.remove_label_values(&[tunnel]);
        let _absent = self.streams.remove_label_values(&[tunnel]);
        for direction in ["to_target", "to_client"] {
            let _absent = self.bytes.remove_label_values(&[tunnel, direction]);
        }
    }
}
