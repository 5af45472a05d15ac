//! For machines that watch the gateway: does it live, can it work, what does it count.

use std::{
    future::{Ready, ready},
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use axum::{
    Json,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse as _, Response},
};
use serde::Serialize;

use super::{AdminState, problem::Problem};
use crate::telemetry::metrics::TEXT_FORMAT;

/// A future behind a pointer, as a trait object's method gives it.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// What is asked before the gateway calls itself ready.
pub trait Probe: Send + Sync + 'static {
    /// One check each for what the gateway cannot work without: `egress_address`, `resolver`,
    /// `store`, `draining`. Must answer within 2 s, or the gateway is not ready.
    ///
    /// Anybody who reaches the listener may ask, as often as they like: keep what is costly to
    /// find out for a moment.
    fn checks(&self) -> BoxFuture<'_, Vec<Check>>;
}

/// One line of `/readyz`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What was checked.
    pub name: &'static str,
    /// How it went.
    pub status: CheckStatus,
    /// What was found, in a sentence without secrets.
    pub detail: String,
}

impl Check {
    /// A check that went well.
    pub fn ok(name: &'static str, detail: impl Into<String>) -> Self {
        Self { name, status: CheckStatus::Ok, detail: detail.into() }
    }

    /// A check that says that the gateway is not ready.
    pub fn failed(name: &'static str, detail: impl Into<String>) -> Self {
        Self { name, status: CheckStatus::Failed, detail: detail.into() }
    }
}

/// How a check went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum CheckStatus {
    /// Nothing stands in the way.
    Ok,
    /// The gateway is not ready.
    Failed,
}

/// Time for all checks of one `/readyz` together: less than the shortest time limit that probes
/// are usually given.
const PROBE_LIMIT: Duration = Duration::from_secs(2);

#[derive(Serialize)]
struct Readiness {
    status: &'static str,
    checks: Vec<Check>,
}

/// `GET /readyz`: 200 when every check is ok, else 503, with the checks either way.
pub(super) async fn readyz(State(state): State<Arc<AdminState>>) -> Response {
    let checks = match tokio::time::timeout(PROBE_LIMIT, state.probe.checks()).await {
        Ok(checks) => checks,
        Err(_) => vec![Check::failed("probe", format!("no answer within {PROBE_LIMIT:?}"))],
    };
    let ready = checks.iter().all(|check| check.status == CheckStatus::Ok);
    let (status, word) = if ready {
        (StatusCode::OK, "ready")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "not_ready")
    };
    (status, Json(Readiness { status: word, checks })).into_response()
}

#[derive(Serialize)]
pub(super) struct Liveness {
    status: &'static str,
}

/// `GET /healthz`: the process answers.
pub(super) fn healthz() -> Ready<Json<Liveness>> {
    ready(Json(Liveness { status: "ok" }))
}

/// `GET /metrics`: Prometheus text.
pub(super) fn metrics(State(state): State<Arc<AdminState>>) -> Ready<Response> {
    ready(match state.gateway.metrics.render() {
        Ok(text) => ([(header::CONTENT_TYPE, TEXT_FORMAT)], text).into_response(),
        Err(error) => {
            tracing::error!(%error, "the metrics could not be rendered");
            Problem::Internal.into_response()
        }
    })
}
