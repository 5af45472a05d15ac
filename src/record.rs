//! Everything noted of one request or tunnel, and the one event that is written at its end.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;
use ulid::Ulid;

use crate::{egress::Notes, reason::Refusal, target::TargetId, telemetry::metrics::Metrics};

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

/// Notes of one request. Dropping it writes the canonical event and counts it: always, once, and
/// only there, so that a client that vanishes leaves a line too.
#[derive(Debug)]
pub struct Record {
    metrics: Arc<Metrics>,
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
    pub fn start(metrics: &Arc<Metrics>, started: Instant) -> Self {
        Self {
            metrics: Arc::clone(metrics),
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
        self.metrics.requests.with_label_values(&[self.mode, decision, code]).inc();
        let duration = self.metrics.request_duration.with_label_values(&[self.mode]);
        duration.observe(self.elapsed().as_secs_f64());
        if let Outcome::Refused(refusal) = &self.outcome {
            self.metrics.refused(refusal.cause);
        }
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let (decision, code, cause, detail) = match &self.outcome {
            Outcome::Aborted => ("aborted", "", Some("client_gone"), None),
            Outcome::Allowed => ("allowed", "", None, None),
            Outcome::Refused(refusal) => (
                "refused",
                refusal.code().as_str(),
                Some(refusal.cause.as_str()),
                Some(refusal.detail.as_str()),
            ),
        };
        self.count(decision, code);
        // A tunnel that was permitted and never began: its client went away before the 200.
        let unbegun = (decision == "allowed").then_some("client_gone");
        tracing::info!(
            decision_id = self.decision_id,
            client = self.client,
            target = self.target.as_ref().map(TargetId::as_str),
            mode = self.mode,
            method = self.method,
            authority = self.authority,
            decision,
            code = Some(code).filter(|code| !code.is_empty()),
            cause,
            detail,
            pinned = self.notes.pinned.map(tracing::field::display),
            route = self.notes.route.as_deref(),
            auth = milliseconds(self.auth),
            policy = milliseconds(self.policy),
            dns = milliseconds(self.notes.dns),
            connect = milliseconds(self.notes.connect),
            tls = milliseconds(self.notes.tls),
            first_byte = milliseconds(self.first_byte),
            total = milliseconds(Some(self.elapsed())),
            bytes_to_target = self.to_target,
            bytes_to_client = self.to_client,
            status = self.status,
            end = self.end.or(unbegun),
            "request"
        );
    }
}

/// Milliseconds with microsecond resolution: what a person reads off a log line.
fn milliseconds(duration: Option<Duration>) -> Option<f64> {
    duration.map(|duration| (duration.as_secs_f64() * 1e6).round() / 1e3)
}
