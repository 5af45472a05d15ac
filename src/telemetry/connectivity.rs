//! Metrics of connectivity checks.

use prometheus::{GaugeVec, IntCounterVec, IntGaugeVec, Opts};

use super::metrics::Declare;

/// What is counted of checks, and shown of the targets that they concern.
#[derive(Debug)]
pub struct Connectivity {
    /// Checks that have ended, by `state` and `code`; ready ones have no code.
    pub checks: IntCounterVec,
    /// 1 for the state that each target is in. There is no series for the others.
    pub target_state: IntGaugeVec,
    /// When each target's certificate expires: seconds since 1970.
    pub certificate_expiry: GaugeVec,
}

impl Connectivity {
    pub(super) fn new(declare: &Declare) -> Result<Self, prometheus::Error> {
        let expiry = Opts::new(
            "egress_target_certificate_expiry_timestamp_seconds",
            "When the certificate that a target presented last expires, in seconds since 1970.",
        );
        Ok(Self {
            checks: declare.counters(
                "egress_connectivity_checks_total",
                "Connectivity checks that have ended.",
                &["state", "code"],
            )?,
            target_state: declare.gauges(
                "egress_target_state",
                "1 for the state of connectivity that a target is in.",
                &["target", "state"],
            )?,
            certificate_expiry: declare.add(GaugeVec::new(expiry, &["target"])?)?,
        })
    }
}
