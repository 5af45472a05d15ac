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
use utoipa::ToSchema;

use super::{
    AdminState,
    openapi::HEALTH,
    problem::Problem,
    route::{Route, route},
};
use crate::telemetry::metrics::TEXT_FORMAT;

pub(super) fn routes() -> Vec<Route> {
    vec![route!(healthz), route!(readyz), route!(metrics)]
}

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
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = ReadinessCheck)]
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = ReadinessStatus)]
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

#[derive(Serialize, ToSchema)]
struct Readiness {
    /// `ready` or `not_ready`.
    status: &'static str,
    /// What the gateway cannot work without.
    checks: Vec<Check>,
}

/// Whether the gateway can do its work right now
///
/// 200 when every check is ok, else 503, with the checks either way.
#[utoipa::path(
    get,
    path = "/readyz",
    operation_id = "readyz",
    tag = HEALTH,
    responses(
        (status = 200, description = "It can", body = Readiness),
        (status = 503, description = "It cannot", body = Readiness),
    ),
)]
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

#[derive(Serialize, ToSchema)]
pub(super) struct Liveness {
    /// `ok`.
    status: &'static str,
}

/// Whether the process answers
#[utoipa::path(
    get,
    path = "/healthz",
    operation_id = "healthz",
    tag = HEALTH,
    responses((status = 200, description = "It does", body = Liveness)),
)]
pub(super) fn healthz() -> Ready<Json<Liveness>> {
    ready(Json(Liveness { status: "ok" }))
}

/// Everything that is counted, as Prometheus text
#[utoipa::path(
    get,
    path = "/metrics",
    operation_id = "metrics",
    tag = HEALTH,
    responses(
        (status = 200, description = "Every metric", body = String,
            content_type = "text/plain; version=0.0.4; charset=utf-8"),
        (status = 500, description = "The metrics could not be rendered"),
    ),
)]
pub(super) fn metrics(State(state): State<Arc<AdminState>>) -> Ready<Response> {
    ready(match state.gateway.metrics.render() {
        Ok(text) => ([(header::CONTENT_TYPE, TEXT_FORMAT)], text).into_response(),
        Err(error) => {
            tracing::error!(%error, "the metrics could not be rendered");
            Problem::Internal.into_response()
        }
    })
}
