//! Webhook deliveries: every attempt that is still kept.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Path, State},
};
use jiff::Timestamp;
use serde::Serialize;
use utoipa::ToSchema;

use super::{
    AdminState,
    input::QueryTable,
    openapi::TARGETS,
    page::{Page, PageQuery},
    problem::Problem,
    route::{Route, route},
    targets::ById,
};
use crate::store::deliveries::Attempt;

pub(super) fn routes() -> Vec<Route> {
    vec![route!(list)]
}

/// One attempt at a delivery (contract, section 9).
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = DeliveryAttempt)]
struct Shown {
    /// Its id; the `decision_id` of the request.
    webhook_attempt_id: String,
    /// The same for every attempt with one idempotency key.
    delivery_id: String,
    /// The target.
    target_id: String,
    /// The event, where the request came far enough to name one.
    event_type: Option<String>,
    /// `delivered`, `failed` or `blocked`.
    webhook_status: &'static str,
    /// The key, where the request came far enough to have one.
    idempotency_key: Option<String>,
    /// SHA-256 of the body, lower-case hex.
    payload_hash: Option<String>,
    /// The request's method.
    method: String,
    /// What the receiver answered.
    receiver_status_code: Option<u16>,
    /// The public code, unless it was delivered.
    code: Option<String>,
    /// The fine word.
    cause: Option<String>,
    /// From the request's head to the head of its answer, in milliseconds.
    duration_ms: u64,
    /// When it ended.
    #[schema(value_type = String, format = DateTime)]
    last_attempt_at: Timestamp,
    /// The receiver's `Retry-After`, else the gateway's own back-off.
    retry_after_seconds: Option<u64>,
}

impl From<Attempt> for Shown {
    fn from(attempt: Attempt) -> Self {
        Self {
            webhook_attempt_id: attempt.webhook_attempt_id,
            delivery_id: attempt.delivery_id,
            target_id: attempt.target_id,
            event_type: attempt.event_type,
            webhook_status: attempt.webhook_status.as_str(),
            idempotency_key: attempt.idempotency_key,
            payload_hash: attempt.payload_hash,
            method: attempt.method,
            receiver_status_code: attempt.receiver_status_code,
            code: attempt.code,
            cause: attempt.cause,
            duration_ms: attempt.duration_ms,
            last_attempt_at: Timestamp::from_millisecond(attempt.last_attempt_at)
                .unwrap_or_default(),
            retry_after_seconds: attempt.retry_after_seconds,
        }
    }
}

/// A target's deliveries
///
/// Every attempt, the newest first, for 30 days. Never a body or a secret.
#[utoipa::path(
    get,
    path = "/v1/targets/{id}/deliveries",
    operation_id = "listDeliveries",
    tag = TARGETS,
    params(ById, PageQuery),
    responses(
        (status = 200, description = "A page of them", body = Page<Shown>),
        (status = 400, description = "The query is wrong"),
        (status = 404, description = "There is no such target"),
        (status = 503, description = "The store cannot be used"),
    ),
)]
async fn list(
    State(state): State<Arc<AdminState>>,
    Path(id): Path<String>,
    query: QueryTable,
) -> Result<Json<Page<Shown>>, Problem> {
    let query = query.read(PageQuery::read)?;
    let known = state.known(&state.gateway.view.load(), &id)?;
    let id = known.id().as_str();
    let wanted = u32::try_from(query.limit.saturating_add(1)).unwrap_or(u32::MAX);
    let found = match &query.cursor {
        None => state.store.attempts(id, wanted).await,
        Some(before) => state.store.attempts_before(id, before, wanted).await,
    };
    let mut found = found.map_err(|error| Problem::store(&error))?;
    let more = found.len() > query.limit;
    found.truncate(query.limit);
    let next_cursor = found.last().filter(|_| more).map(|last| last.webhook_attempt_id.clone());
    Ok(Json(Page { items: found.into_iter().map(Shown::from).collect(), next_cursor }))
}
