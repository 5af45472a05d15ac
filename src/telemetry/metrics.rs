//! Every metric: its name, help, labels and unit, in one place.
//!
//! Units are base units (seconds, bytes). Every label has a closed set of values: `code` and
//! `cause` are those of [`crate::reason`], the others are listed here; `target` is the id of a
//! registered target. What a client sends, a host name or an address never is one.

use prometheus::{
    Gauge, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry, TextEncoder,
    core::{Collector, Desc},
    process_collector::ProcessCollector,
    proto::MetricFamily,
};

use super::{connectivity::Connectivity, tunnels::TunnelMetrics};
use crate::reason::{Cause, Failure};

/// The media type of [`Metrics::render`].
pub const TEXT_FORMAT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The metrics of one gateway, on a registry of their own.
#[derive(Debug)]
pub struct Metrics {
    /// Requests and tunnels that have ended. `mode`: `connect`, `relay`, `webhook`; `decision`:
    /// `allowed`, `refused`; `code`: of [`crate::reason::Code`], empty where there is none.
    pub requests: IntCounterVec,
    /// From the first byte of a request to the end of its answer, or of its tunnel, by `mode`.
    pub request_duration: HistogramVec,
    /// Name resolution, answers out of the cache included.
    pub dns_duration: Histogram,
    /// TCP connect to a target, by `route`: `direct`, `tunnel`.
    pub connect_duration: HistogramVec,
    /// TLS handshakes, with targets and with clients on the proxy listeners.
    pub tls_handshake_duration: Histogram,
    /// Bytes carried, by `mode` and `direction`: `to_target`, `to_client`.
    pub bytes: IntCounterVec,
    /// Open connections by `kind`: `client`, `admin`, `upstream`. Count with [`Open`].
    pub connections: IntGaugeVec,
    /// Open CONNECT tunnels. Count with [`Open`].
    pub tunnels_open: IntGauge,
    /// Attempts at webhook deliveries, by `code`; empty where the receiver answered 2xx.
    pub webhook_deliveries: IntCounterVec,
    /// Requests that policy refused, by `cause`. Counted by [`Metrics::refused`].
    pub policy_violations: IntCounterVec,
    /// Reloads of the configuration, by `result`: `success`, `failure`.
    pub config_reloads: IntCounterVec,
    /// When the configuration in use was loaded: seconds since 1970.
    pub config_last_reload_success: Gauge,
    /// 1 while `policy.allow_loopback` is on.
    pub loopback_allowed: IntGauge,
    /// 1 while `policy.require_current_check` is on.
    pub checks_required: IntGauge,
    /// Of connectivity checks.
    pub connectivity: Connectivity,
    /// Of configured tunnels.
    pub tunnels: TunnelMetrics,
    registry: Registry,
}

/// From an answer out of memory to a tunnel that is open all day.
const REQUEST_SECONDS: &[f64] =
    &[0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 600.0, 3600.0];

/// From an answer on the same machine to twice the default time limit of one step (10 s).
const STEP_SECONDS: &[f64] =
    &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0];

impl Metrics {
    /// Declares everything, and creates the series whose labels are known, so that they show as 0
    /// and a rate sees their first step.
    ///
    /// # Errors
    /// Two metrics of one name: a mistake in this file, which its tests would show.
    pub fn new() -> Result<Self, prometheus::Error> {
        let declare = Declare(Registry::new());
        declare.build_info()?;
        declare.0.register(Box::new(DroppedLines::new()?))?;
        declare.0.register(Box::new(ProcessCollector::for_self()))?;
        let metrics = Self {
            requests: declare.counters(
                "egress_requests_total",
                "Requests and tunnels that have ended.",
                &["mode", "decision", "code"],
            )?,
            request_duration: declare.histograms(
                "egress_request_duration_seconds",
                "Time from the first byte of a request to the end of its answer or tunnel.",
                &["mode"],
                REQUEST_SECONDS,
            )?,
            dns_duration: declare.histogram(
                "egress_dns_duration_seconds",
                "Time to resolve a target's name, answers out of the cache included.",
            )?,
            connect_duration: declare.histograms(
                "egress_connect_duration_seconds",
                "Time to connect to a vetted address of a target.",
                &["route"],
                STEP_SECONDS,
            )?,
            tls_handshake_duration: declare.histogram(
                "egress_tls_handshake_duration_seconds",
                "Time for TLS handshakes, with targets and with clients on the proxy listeners.",
            )?,
            bytes: declare.counters(
                "egress_bytes_total",
                "Bytes carried between clients and targets.",
                &["mode", "direction"],
            )?,
            connections: declare.gauges("egress_connections", "Open connections.", &["kind"])?,
            tunnels_open: declare.gauge("egress_tunnels_open", "Open CONNECT tunnels.")?,
            webhook_deliveries: declare.counters(
                "egress_webhook_deliveries_total",
                "Attempts at webhook deliveries; without a code they were delivered.",
                &["code"],
            )?,
            policy_violations: declare.counters(
                "egress_policy_violations_total",
                "Requests that policy refused.",
                &["cause"],
            )?,
            config_reloads: declare.counters(
                "egress_config_reloads_total",
                "Reloads of the configuration, refused ones included.",
                &["result"],
            )?,
            config_last_reload_success: declare.add(Gauge::new(
                "egress_config_last_reload_success_timestamp_seconds",
                "When the configuration in use was loaded, in seconds since 1970.",
            )?)?,
            loopback_allowed: declare.gauge(
                "egress_policy_loopback_allowed",
                "1 while policy.allow_loopback is on, which is meant for development only.",
            )?,
            checks_required: declare.gauge(
                "egress_policy_current_check_required",
                "1 while policy.require_current_check is on.",
            )?,
            connectivity: Connectivity::new(&declare)?,
            tunnels: TunnelMetrics::new(&declare)?,
            registry: declare.0,
        };
        metrics.start_at_zero();
        Ok(metrics)
    }

    /// The text exposition format 0.0.4, of media type [`TEXT_FORMAT`].
    ///
    /// # Errors
    /// A collector gave a family that cannot be written.
    pub fn render(&self) -> Result<String, prometheus::Error> {
        TextEncoder::new().encode_to_string(&self.registry.gather())
    }

    /// Counts a refusal, where it is policy that refused.
    pub fn refused(&self, cause: Cause) {
        if is_violation(cause) {
            self.policy_violations.with_label_values(&[cause.as_str()]).inc();
        }
    }

    fn start_at_zero(&self) {
        for mode in ["connect", "relay", "webhook"] {
            self.requests.with_label_values(&[mode, "allowed", ""]);
            self.request_duration.with_label_values(&[mode]);
            for direction in ["to_target", "to_client"] {
                self.bytes.with_label_values(&[mode, direction]);
            }
        }
        self.webhook_deliveries.with_label_values(&[""]);
        for route in ["direct", "tunnel"] {
            self.connect_duration.with_label_values(&[route]);
        }
        for kind in ["client", "admin", "upstream"] {
            self.connections.with_label_values(&[kind]);
        }
        for result in ["success", "failure"] {
            self.config_reloads.with_label_values(&[result]);
        }
        for cause in Cause::ALL.iter().filter(|cause| is_violation(**cause)) {
            self.policy_violations.with_label_values(&[cause.as_str()]);
        }
    }
}

/// Whether a request asked for what policy forbids, as opposed to one that was malformed, met a
/// limit, or failed on the way. Missing credentials do not count: a 407 is also how a client is
/// asked for them.
const fn is_violation(cause: Cause) -> bool {
    match cause.failure() {
        Failure::NotApproved
        | Failure::ForbiddenAddress
        | Failure::PrivateAddress
        | Failure::SecretMissing
        | Failure::ProviderAuth
        | Failure::RedirectBlocked
        | Failure::ClientForbidden => true,
        Failure::NameUnresolved
        | Failure::ConnectBlocked
        | Failure::ConnectRefused
        | Failure::FamilyUnavailable
        | Failure::ClosedEarly
        | Failure::AnswerInvalid
        | Failure::NoAnswer
        | Failure::BodyTooLarge
        | Failure::TargetUnknown
        | Failure::TlsInvalid
        | Failure::TunnelDown
        | Failure::AllowlistRefused
        | Failure::CheckUnfinished
        | Failure::ReceiverDown
        | Failure::ReceiverSilent
        | Failure::IdempotencyConflict
        | Failure::DeliveryInFlight
        | Failure::Unauthenticated
        | Failure::RequestInvalid
        | Failure::HeadTooLarge
        | Failure::HeadTimeout
        | Failure::Overloaded
        | Failure::Draining => false,
    }
}

/// Something open, counted in a gauge for as long as it lives, however it ends.
#[derive(Debug)]
#[must_use = "it counts as closed once this is dropped"]
pub struct Open(IntGauge);

impl Open {
    /// Counts one more.
    pub fn new(gauge: IntGauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// A registry that hands back what it registers.
pub(super) struct Declare(Registry);

impl Declare {
    pub(super) fn add<C: Collector + Clone + 'static>(
        &self,
        collector: C,
    ) -> Result<C, prometheus::Error> {
        self.0.register(Box::new(collector.clone()))?;
        Ok(collector)
    }

    pub(super) fn counters(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
    ) -> Result<IntCounterVec, prometheus::Error> {
        self.add(IntCounterVec::new(Opts::new(name, help), labels)?)
    }

    pub(super) fn gauges(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
    ) -> Result<IntGaugeVec, prometheus::Error> {
        self.add(IntGaugeVec::new(Opts::new(name, help), labels)?)
    }

    fn gauge(&self, name: &str, help: &str) -> Result<IntGauge, prometheus::Error> {
        self.add(IntGauge::new(name, help)?)
    }

    fn histograms(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
        seconds: &[f64],
    ) -> Result<HistogramVec, prometheus::Error> {
        let options = HistogramOpts::new(name, help).buckets(seconds.to_vec());
        self.add(HistogramVec::new(options, labels)?)
    }

    fn histogram(&self, name: &str, help: &str) -> Result<Histogram, prometheus::Error> {
        let options = HistogramOpts::new(name, help).buckets(STEP_SECONDS.to_vec());
        self.add(Histogram::with_opts(options)?)
    }

    fn build_info(&self) -> Result<(), prometheus::Error> {
        let help = "1, labelled with what this program was built from.";
        let options =
            Opts::new("egress_build_info", help).const_label("version", env!("CARGO_PKG_VERSION"));
        self.add(IntGauge::with_opts(options)?)?.set(1);
        Ok(())
    }
}

/// Reads the log's own count whenever the metrics are rendered.
struct DroppedLines(IntCounter);

impl DroppedLines {
    fn new() -> Result<Self, prometheus::Error> {
        let help = "Log lines dropped because standard error was not read fast enough.";
        IntCounter::new("egress_log_lines_dropped_total", help).map(Self)
    }
}

impl Collector for DroppedLines {
    fn desc(&self) -> Vec<&Desc> {
        self.0.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        // a fresh counter each time: two scrapes at once would add the same lines twice
        let Ok(Self(counter)) = Self::new() else {
            return Vec::new();
        };
        counter.inc_by(super::dropped_lines());
        counter.collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    /// The families of the contract, section 12, that can be there by now.
    const OF_THE_CONTRACT: &[(&str, &str)] = &[
        ("egress_requests_total", "counter"),
        ("egress_request_duration_seconds", "histogram"),
        ("egress_dns_duration_seconds", "histogram"),
        ("egress_connect_duration_seconds", "histogram"),
        ("egress_tls_handshake_duration_seconds", "histogram"),
        ("egress_bytes_total", "counter"),
        ("egress_connections", "gauge"),
        ("egress_tunnels_open", "gauge"),
        ("egress_webhook_deliveries_total", "counter"),
        ("egress_policy_violations_total", "counter"),
        ("egress_config_reloads_total", "counter"),
        ("egress_config_last_reload_success_timestamp_seconds", "gauge"),
        ("egress_build_info", "gauge"),
    ];

    /// Families of our own that the contract does not name.
    const BESIDES: &[(&str, &str)] = &[
        ("egress_policy_loopback_allowed", "gauge"),
        ("egress_policy_current_check_required", "gauge"),
        ("egress_log_lines_dropped_total", "counter"),
    ];

    /// Labels with a closed set of values.
    const LABELS: &[&str] = &[
        "mode",
        "decision",
        "code",
        "route",
        "direction",
        "kind",
        "cause",
        "result",
        "version",
        "le",
    ];

    fn rendered() -> String {
        Metrics::new().unwrap().render().unwrap()
    }

    /// Name and rest of the lines that begin with `prefix`.
    fn comments(text: &str, prefix: &str) -> BTreeMap<String, String> {
        let lines: Vec<_> = text
            .lines()
            .filter_map(|line| line.strip_prefix(prefix)?.split_once(' '))
            .map(|(name, rest)| (name.to_owned(), rest.to_owned()))
            .collect();
        let map: BTreeMap<_, _> = lines.iter().cloned().collect();
        assert_eq!(map.len(), lines.len(), "a family is declared twice");
        map
    }

    #[test]
    fn the_families_are_those_of_the_contract_and_the_process() {
        let types = comments(&rendered(), "# TYPE ");
        let own: BTreeMap<_, _> = types
            .iter()
            .map(|(name, kind)| (name.as_str(), kind.as_str()))
            .filter(|(name, _)| !name.starts_with("process_"))
            .collect();
        assert_eq!(own, OF_THE_CONTRACT.iter().chain(BESIDES).copied().collect());
        assert!(types.contains_key("process_open_fds"));
        assert!(types.contains_key("process_cpu_seconds_total"));
    }

    #[test]
    fn the_text_follows_the_rules_that_promtool_checks() {
        let text = rendered();
        assert!(text.ends_with('\n'));
        let types = comments(&text, "# TYPE ");
        let helps = comments(&text, "# HELP ");
        assert!(types.len() > 15);
        assert_eq!(types.keys().collect::<Vec<_>>(), helps.keys().collect::<Vec<_>>());
        for (name, kind) in &types {
            assert!(helps[name].ends_with('.'), "{name}: {}", helps[name]);
            assert_eq!(name.ends_with("_total"), kind == "counter", "{name} is a {kind}");
            assert_eq!(
                name.ends_with("_seconds"),
                kind == "histogram" || timestamp(name),
                "{name}"
            );
            for reserved in ["_count", "_sum", "_bucket"] {
                assert!(!name.ends_with(reserved), "{name}");
            }
            for word in name.split('_') {
                let banned = ["counter", "gauge", "histogram", "ms", "milliseconds", "kb", "mb"];
                assert!(!banned.contains(&word), "{name}");
            }
        }
    }

    fn timestamp(name: &str) -> bool {
        name.ends_with("_timestamp_seconds") || name == "process_start_time_seconds"
    }

    #[test]
    fn every_label_has_a_closed_set_of_values() {
        let metrics = Metrics::new().unwrap();
        let mut seen = BTreeSet::new();
        for family in metrics.registry.gather() {
            for metric in family.get_metric() {
                for label in metric.get_label() {
                    assert!(LABELS.contains(&label.name()), "{}", label.name());
                    seen.insert(label.name().to_owned());
                }
            }
        }
        assert!(seen.len() > 7, "{seen:?}");
    }

    #[test]
    fn series_whose_labels_are_known_show_as_zero() {
        let text = rendered();
        for line in [
            "egress_config_reloads_total{result=\"failure\"} 0",
            "egress_config_reloads_total{result=\"success\"} 0",
            "egress_connections{kind=\"admin\"} 0",
            "egress_connections{kind=\"client\"} 0",
            "egress_connections{kind=\"upstream\"} 0",
            "egress_bytes_total{direction=\"to_target\",mode=\"connect\"} 0",
            "egress_bytes_total{direction=\"to_client\",mode=\"webhook\"} 0",
            "egress_requests_total{code=\"\",decision=\"allowed\",mode=\"relay\"} 0",
            "egress_request_duration_seconds_count{mode=\"webhook\"} 0",
            "egress_connect_duration_seconds_count{route=\"tunnel\"} 0",
            "egress_policy_violations_total{cause=\"address_forbidden\"} 0",
            "egress_policy_violations_total{cause=\"sni_mismatch\"} 0",
            "egress_log_lines_dropped_total 0",
            "egress_tunnels_open 0",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
        assert!(text.contains("egress_build_info{version=\""), "{text}");
    }

    #[test]
    fn only_what_policy_refused_is_a_violation() {
        let metrics = Metrics::new().unwrap();
        metrics.refused(Cause::DnsRebinding);
        metrics.refused(Cause::DnsTimeout);
        metrics.refused(Cause::HeadTimeout);
        let text = metrics.render().unwrap();
        assert!(text.contains("egress_policy_violations_total{cause=\"dns_rebinding\"} 1\n"));
        assert!(!text.contains("dns_timeout"));
        assert!(!text.contains("head_timeout"));
    }

    #[test]
    fn what_is_open_is_counted_until_it_is_dropped() {
        let metrics = Metrics::new().unwrap();
        let first = Open::new(metrics.tunnels_open.clone());
        let second = Open::new(metrics.tunnels_open.clone());
        assert_eq!(metrics.tunnels_open.get(), 2);
        drop((first, second));
        assert_eq!(metrics.tunnels_open.get(), 0);
    }
}
