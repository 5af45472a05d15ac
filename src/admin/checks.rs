//! Connectivity of targets: what is known, what was found, and a check at once.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Path, State},
    http::StatusCode,
    response::{IntoResponse as _, Response},
};
use serde::Serialize;
use utoipa::ToSchema;

use super::{
    AdminState,
    input::QueryTable,
    openapi::CHECKS,
    page::{Page, PageQuery},
    problem::Problem,
    route::{Route, route},
    targets::{ById, Known},
};
use crate::{
    check::{Check, State as Connectivity},
    inventory::Entry,
    store::StoredCheck,
    view::View,
};

pub(super) fn routes() -> Vec<Route> {
    vec![route!(connectivity), route!(list, run), route!(get)]
}

/// A target's connectivity
///
/// The last check as far as it still counts: `state` says so.
#[utoipa::path(
    get,
    path = "/v1/targets/{id}/connectivity",
    operation_id = "getConnectivity",
    tag = CHECKS,
    params(ById),
    responses(
        (status = 200, description = "What is known", body = Check),
        (status = 404, description = "There is no such target"),
    ),
)]
async fn connectivity(
    State(state): State<Arc<AdminState>>,
    Path(id): Path<String>,
) -> Result<Json<Check>, Problem> {
    let view = state.gateway.view.load_full();
    Ok(Json(match state.known(&view, &id)? {
        Known::Live(target) => state.gateway.checks.connectivity(&view, &target),
        Known::Broken(entry) => broken(&view, &entry),
    }))
}

/// What is known of a target that carries no traffic: it is not checked either.
fn broken(view: &View, entry: &Entry) -> Check {
    let mut check = Check::unchecked(&entry.shown, view.egress_ips.first().copied());
    check.state = Connectivity::Stopped;
    let problems = entry.target.as_ref().err().into_iter().flatten();
    check.detail = Some(problems.map(ToString::to_string).collect::<Vec<_>>().join("; "));
    check
}

/// Whether to wait.
#[derive(Debug, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
struct Wait {
    /// Whether the answer waits for the check.
    #[param(value_type = Option<bool>, default = true)]
    wait: bool,
}

/// A check that is under way.
#[derive(Debug, Serialize, ToSchema)]
struct Begun {
    /// Where its result will be: `/v1/checks/{connectivity_check_id}`.
    #[schema(value_type = String)]
    connectivity_check_id: Arc<str>,
    /// The target.
    target_id: String,
}

/// Check a target now
///
/// Whoever asks for a check of a target that is being checked gets that one's result. A target that
/// is stopped is not checked.
#[utoipa::path(
    post,
    path = "/v1/targets/{id}/checks",
    operation_id = "runCheck",
    tag = CHECKS,
    params(ById, Wait),
    responses(
        (status = 200, description = "What it found", body = Check),
        (status = 202, description = "It is under way", body = Begun),
        (status = 400, description = "The query is wrong"),
        (status = 404, description = "There is no such target"),
        (status = 503, description = "The gateway is stopping"),
    ),
)]
async fn run(
    State(state): State<Arc<AdminState>>,
    Path(id): Path<String>,
    query: QueryTable,
) -> Result<Response, Problem> {
    let wait = query.read(|fields| {
        let wait = fields.word("wait", &[("true", true), ("false", false)]);
        Wait { wait: wait.unwrap_or(true) }
    })?;
    let view = state.gateway.view.load_full();
    let target = match state.known(&view, &id)? {
        Known::Live(target) => target,
        Known::Broken(entry) => return Ok(Json(broken(&view, &entry)).into_response()),
    };
    let checks = &state.gateway.checks;
    let current = checks.connectivity(&view, &target);
    if current.state == Connectivity::Stopped {
        return Ok(Json(current).into_response());
    }
    if !wait.wait {
        let connectivity_check_id = checks.begin_check(&view, &target);
        let begun = Begun { connectivity_check_id, target_id: id };
        return Ok((StatusCode::ACCEPTED, Json(begun)).into_response());
    }
    let check = checks.check_and_keep(&view, &target).await.ok_or(Problem::Busy)?;
    Ok(Json(Check::clone(&check)).into_response())
}

/// A target's checks
///
/// The newest first; the last fifty of each target are kept, for up to 30 days.
#[utoipa::path(
    get,
    path = "/v1/targets/{id}/checks",
    operation_id = "listChecks",
    tag = CHECKS,
    params(ById, PageQuery),
    responses(
        (status = 200, description = "A page of them", body = Page<Check>),
        (status = 400, description = "The query is wrong"),
        (status = 404, description = "There is no such target"),
        (status = 503, description = "The store cannot be used"),
    ),
)]
async fn list(
    State(state): State<Arc<AdminState>>,
    Path(id): Path<String>,
    query: QueryTable,
) -> Result<Json<Page<Check>>, Problem> {
    let query = query.read(PageQuery::read)?;
    let known = state.known(&state.gateway.view.load(), &id)?;
    let wanted = u32::try_from(query.limit.saturating_add(1)).unwrap_or(u32::MAX);
    let before = query.cursor.as_deref();
    let stored = state.store.checks_of(known.id().as_str(), before, wanted).await;
    let mut stored = stored.map_err(|error| Problem::store(&error))?;
    let more = stored.len() > query.limit;
    stored.truncate(query.limit);
    let last = stored.last().filter(|_| more);
    let next_cursor = last.map(|last| last.connectivity_check_id.clone());
    Ok(Json(Page { items: stored.iter().filter_map(restored).collect(), next_cursor }))
}

/// One check
///
/// One that is under way has no `last_checked_at` yet.
#[utoipa::path(
    get,
    path = "/v1/checks/{connectivity_check_id}",
    operation_id = "getCheck",
    tag = CHECKS,
    params(("connectivity_check_id" = String, Path, description = "Its id")),
    responses(
        (status = 200, description = "What it found", body = Check),
        (status = 404, description = "There is no such check, or it is too old"),
        (status = 503, description = "The store cannot be used"),
    ),
)]
async fn get(
    State(state): State<Arc<AdminState>>,
    Path(id): Path<String>,
) -> Result<Json<Check>, Problem> {
    let view = state.gateway.view.load_full();
    if let Some(check) = state.gateway.checks.recent(&view, &id) {
        return Ok(Json(check));
    }
    let stored = state.store.check(&id).await.map_err(|error| Problem::store(&error))?;
    stored.as_ref().and_then(restored).map(Json).ok_or(Problem::CheckUnknown)
}

/// A check as it was kept. One that an older version wrote in another form is passed over.
fn restored(stored: &StoredCheck) -> Option<Check> {
    serde_json::from_str(&stored.document).ok()
}
