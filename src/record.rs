//! Everything noted of one request or tunnel, and the one event that is written at its end.

use std::{mem, net::SocketAddr, sync::Arc, time::Duration};

use jiff::Timestamp;
use serde::Serialize;
use tokio::time::Instant;
use tracing::Level;
use ulid::Ulid;

use crate::{
    decisions::{Decision, Decisions, Timings, cut, milliseconds},
    egress::Notes,
    reason::Refusal,
    target::TargetId,
    telemetry::{self, metrics::Metrics},
};

/// Where records end up besides the log.
#[derive(Clone, Debug)]
pub struct Books {
    /// Counters and histograms.
    pub metrics: Arc<Metrics>,
    /// The most recent decisions.
    pub decisions: Arc<Decisions>,
}

/// How the record ends.
#[derive(Debug)]
enum Outcome {
    /// Nobody decided: the client went away first.
    Aborted,
    /// It was permitted and carried.
    Allowed,
    /// It was refused.
    Refused(Refusal),
}

/// Notes of one request. Dropping it writes the canonical event, counts it and notes the decision:
/// always, once, and only there, so that a client that vanishes leaves a line too.
#[derive(Debug)]
pub struct Record {
    books: Arc<Books>,
    decision_id: String,
    started: Instant,
    outcome: Outcome,
    /// `connect`, or `unknown` while the request could not be read.
    pub mode: &'static str,
    /// The method, as soon as it is known to be a token.
    pub method: Option<String>,
    /// The client's name.
    pub client: Option<String>,
    /// The target's id.
    pub target: Option<TargetId>,
    /// The canonical `host:port`; never what could not be parsed, which may hold a credential.
    pub authority: Option<String>,
    /// Where it went, and how long each step of the way took.
    pub notes: Notes,
    /// Time to authenticate.
    pub auth: Option<Duration>,
    /// Time to find the target and ask the rules.
    pub policy: Option<Duration>,
    /// Time from the request to the first byte of the target.
    pub first_byte: Option<Duration>,
    /// Bytes carried to the target.
    pub to_target: u64,
    /// Bytes carried to the client.
    pub to_client: u64,
    /// The status of the answer.
    pub status: Option<u16>,
    /// Why a permitted tunnel ended: `closed`, `idle_timeout`, `client_reset`, `target_reset`,
    /// `drain_timeout`.
    pub end: Option<&'static str>,
}

impl Record {
    /// Begins the record of a request that has just been read.
    pub fn start(books: &Arc<Books>, started: Instant) -> Self {
        Self {
            books: Arc::clone(books),
            decision_id: Ulid::new().to_string(),
            started,
            outcome: Outcome::Aborted,
            mode: "unknown",
            method: None,
            client: None,
            target: None,
            authority: None,
            notes: Notes::default(),
            auth: None,
            policy: None,
            first_byte: None,
            to_target: 0,
            to_client: 0,
            status: None,
            end: None,
        }
    }

    /// The id that the problem document and the event share.
    pub fn decision_id(&self) -> &str {
        &self.decision_id
    }

    /// Time since the request was read.
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Notes that the request may pass.
    pub fn allowed(&mut self, status: u16) {
        self.outcome = Outcome::Allowed;
        self.status = Some(status);
    }

    /// Notes that it may not.
    pub fn refused(&mut self, refusal: Refusal) {
        // In a tunnel the client has had its 200 before its first bytes were refused.
        self.status.get_or_insert_with(|| refusal.status());
        self.outcome = Outcome::Refused(refusal);
    }

    fn count(&self, decision: &str, code: &str) {
        let metrics = &self.books.metrics;
        metrics.requests.with_label_values(&[self.mode, decision, code]).inc();
        let duration = metrics.request_duration.with_label_values(&[self.mode]);
        duration.observe(self.elapsed().as_secs_f64());
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let (decision, code, cause, detail) =
            match mem::replace(&mut self.outcome, Outcome::Allowed) {
                Outcome::Aborted => ("aborted", None, Some("client_gone"), None),
                Outcome::Allowed => ("allowed", None, None, None),
                Outcome::Refused(refusal) => {
                    self.books.metrics.refused(refusal.cause);
                    let code = refusal.code().as_str();
                    ("refused", Some(code), Some(refusal.cause.as_str()), Some(refusal.detail))
                }
            };
        self.count(decision, code.unwrap_or_default());
        // A tunnel that was permitted and never began: its client went away before the 200.
        let unbegun = (decision == "allowed").then_some("client_gone");
        let in_ms = |duration: Option<Duration>| duration.map(milliseconds);
        let timings = Timings {
            auth: in_ms(self.auth),
            policy: in_ms(self.policy),
            dns: in_ms(self.notes.dns),
            connect: in_ms(self.notes.connect),
            tls: in_ms(self.notes.tls),
            first_byte: in_ms(self.first_byte),
            total: milliseconds(self.elapsed()),
        };
        let decision = Decision {
            decision_id: mem::take(&mut self.decision_id),
            time: Timestamp::now(),
            client: self.client.take(),
            target: self.target.as_ref().map(TargetId::shared),
            mode: self.mode,
            method: self.method.take(),
            authority: self.authority.take(),
            decision,
            code,
            cause,
            detail,
            pinned: self.notes.pinned,
            route: self.notes.route.take(),
            timings,
            bytes_to_target: self.to_target,
            bytes_to_client: self.to_client,
            status: self.status,
            end: self.end.or(unbegun),
        };
        write(&decision);
        let method = decision.method.map(cut);
        let detail = decision.detail.map(cut);
        self.books.decisions.note(Decision { method, detail, ..decision });
    }
}

/// The canonical event.
fn write(decision: &Decision) {
    if !tracing::enabled!(Level::INFO) {
        return;
    }
    let event = Event::of(decision);
    if !telemetry::write_json(decision.time, MESSAGE, &event) {
        event.trace();
    }
}

const MESSAGE: &str = "request";

/// The fields of the canonical event; what has no value is left out.
#[derive(Serialize)]
struct Event<'a> {
    decision_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    client: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<&'a str>,
    mode: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    method: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    authority: Option<&'a str>,
    decision: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cause: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pinned: Option<SocketAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    route: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    auth: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    policy: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dns: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    connect: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tls: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    first_byte: Option<f64>,
    total: f64,
    bytes_to_target: u64,
    bytes_to_client: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    end: Option<&'static str>,
}

impl<'a> Event<'a> {
    fn of(decision: &'a Decision) -> Self {
        let Timings { auth, policy, dns, connect, tls, first_byte, total } = decision.timings;
        Self {
            decision_id: &decision.decision_id,
            client: decision.client.as_deref(),
            target: decision.target.as_deref(),
            mode: decision.mode,
            method: decision.method.as_deref(),
            authority: decision.authority.as_deref(),
            decision: decision.decision,
            code: decision.code,
            cause: decision.cause,
            detail: decision.detail.as_deref(),
            pinned: decision.pinned,
            route: decision.route.as_deref(),
            auth,
            policy,
            dns,
            connect,
            tls,
            first_byte,
            total,
            bytes_to_target: decision.bytes_to_target,
            bytes_to_client: decision.bytes_to_client,
            status: decision.status,
            end: decision.end,
        }
    }

    fn trace(&self) {
        tracing::info!(
            decision_id = self.decision_id,
            client = self.client,
            target = self.target,
            mode = self.mode,
            method = self.method,
            authority = self.authority,
            decision = self.decision,
            code = self.code,
            cause = self.cause,
            detail = self.detail,
            pinned = self.pinned.map(tracing::field::display),
            route = self.route,
            auth = self.auth,
            policy = self.policy,
            dns = self.dns,
            connect = self.connect,
            tls = self.tls,
            first_byte = self.first_byte,
            total = self.total,
            bytes_to_target = self.bytes_to_target,
            bytes_to_client = self.bytes_to_client,
            status = self.status,
            end = self.end,
            "{MESSAGE}"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::tests::{both_ways, without_time};

    fn decision() -> Decision {
        Decision {
            decision_id: "01K9Q6M3V5T8W2X4Y6Z8A0B2C4".into(),
            time: Timestamp::now(),
            client: None,
            target: None,
            mode: "unknown",
            method: None,
            authority: None,
            decision: "aborted",
            code: None,
            cause: None,
            detail: None,
            pinned: None,
            route: None,
            timings: Timings { total: 0.1, ..Timings::default() },
            bytes_to_target: 0,
            bytes_to_client: 0,
            status: None,
            end: None,
        }
    }

    fn full() -> Decision {
        let timings = Timings {
            auth: Some(0.012),
            policy: Some(1e-3),
            dns: Some(0.0),
            connect: Some(123_456.789),
            tls: Some(14.0),
            first_byte: Some(1e16),
            total: 3.25,
        };
        Decision {
            client: Some("app \"one\"\\".into()),
            target: Some("acme-jira".into()),
            mode: "relay",
            method: Some("GET\u{7f}\u{1}\n".into()),
            authority: Some("jira.acme.example:443".into()),
            decision: "refused",
            code: Some("SELF_HOSTED_DNS_FAILED"),
            cause: Some("dns_nxdomain"),
            detail: Some("näme/\u{2028}\u{1b}[2J does not exist".into()),
            pinned: Some("[2001:db8::1]:443".parse().unwrap()),
            route: Some("direct".into()),
            timings,
            bytes_to_target: u64::MAX,
            bytes_to_client: 7,
            status: Some(502),
            end: Some("closed"),
            ..decision()
        }
    }

    #[test]
    fn an_event_has_the_same_bytes_past_tracing_as_through_it() {
        for decision in [decision(), full()] {
            let event = Event::of(&decision);
            let (direct, traced) = both_ways(decision.time, MESSAGE, &event, || event.trace());
            assert_eq!(without_time(&direct), without_time(&traced));
            assert_eq!(direct.len(), traced.len(), "{direct}{traced}");
            assert!(direct.ends_with("}\n"), "{direct}");
        }
    }

    #[test]
    fn an_event_with_everything_has_every_field_of_a_decision() {
        let decision = full();
        let event = serde_json::to_value(Event::of(&decision)).unwrap();
        let mut held = serde_json::to_value(&decision).unwrap();
        let held = held.as_object_mut().unwrap();
        assert!(held.remove("time").is_some());
        let serde_json::Value::Object(timings) = held.remove("timings").unwrap() else { panic!() };
        held.extend(timings);
        assert_eq!(event.as_object().unwrap(), held);
    }
}
