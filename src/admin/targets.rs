//! Targets: what may be reached.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Path, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse as _, Response},
};
use serde::Serialize;
use utoipa::ToSchema;

use super::{
    AdminState,
    input::{BodyTable, QueryTable, invalid},
    openapi::TARGETS,
    page::{Page, PageQuery, cursor_unknown},
    precondition::{self, etag},
    problem::Problem,
    refused::Warning,
    route::{Route, route},
    shown::{Shown, TargetBody},
};
use crate::{
    check::State as Connectivity,
    inventory::{Entry, Fault, Kept},
    store::Expect,
    target::{Source, Target, TargetId},
    view::View,
};

pub(super) fn routes() -> Vec<Route> {
    vec![route!(list), route!(get, put, delete), route!(validate)]
}

/// A target that was kept, or could be.
#[derive(Debug, Serialize, ToSchema)]
struct Answer {
    #[serde(flatten)]
    target: Shown,
    /// What blocks its traffic until somebody acts.
    warnings: Vec<Warning>,
}

/// The target of a path, for the document.
#[derive(utoipa::IntoParams)]
#[into_params(parameter_in = Path)]
#[expect(dead_code, reason = "for the document")]
pub(super) struct ById {
    /// The target's id.
    #[param(example = "acme-jira")]
    id: String,
}

/// The id of a path that has to lead to something.
pub(super) fn known_id(text: &str) -> Result<TargetId, Problem> {
    TargetId::parse(text).ok_or(Problem::TargetUnknown)
}

/// The target of a path.
pub(super) enum Known {
    /// One that traffic sees.
    Live(Arc<Target>),
    /// One that carries no traffic, as something is wrong with it.
    Broken(Arc<Entry>),
}

impl Known {
    pub(super) fn id(&self) -> &TargetId {
        match self {
            Self::Live(target) => &target.id,
            Self::Broken(entry) => &entry.id,
        }
    }
}

impl AdminState {
    /// The target of a path.
    pub(super) fn known(&self, view: &View, id: &str) -> Result<Known, Problem> {
        let id = known_id(id)?;
        let live = view.targets.get(id.as_str()).cloned().map(Known::Live);
        let known = live.or_else(|| self.inventory.get(&id).map(Known::Broken));
        known.ok_or(Problem::TargetUnknown)
    }

    /// A target as it is shown, wherever it is written down.
    fn shown(&self, view: &View, target: &Target) -> Shown {
        let entry = match target.source {
            Source::Config => None,
            Source::Api => self.inventory.get(&target.id),
        };
        let state = self.gateway.checks.connectivity(view, target).state;
        Shown::new(target, entry.as_deref(), state)
    }

    fn shown_entry(&self, view: &View, entry: &Entry) -> Shown {
        match &entry.target {
            Ok(target) => {
                let state = self.gateway.checks.connectivity(view, target).state;
                Shown::new(target, Some(entry), state)
            }
            Err(_) => Shown::new(&entry.shown, Some(entry), Connectivity::Stopped),
        }
    }

    pub(super) fn fault(&self, fault: Fault) -> Problem {
        Problem::of(fault, self.gateway.view.load().egress_ips.first().copied())
    }

    fn answer(&self, kept: &Kept) -> Answer {
        let view = self.gateway.view.load();
        Answer {
            target: self.shown_entry(&view, &kept.entry),
            warnings: Warning::all(&kept.warnings, &view),
        }
    }
}

/// All targets
///
/// Those of the configuration and those of this API, in the order of their ids.
#[utoipa::path(
    get,
    path = "/v1/targets",
    operation_id = "listTargets",
    tag = TARGETS,
    params(PageQuery),
    responses(
        (status = 200, description = "A page of them", body = Page<Shown>),
        (status = 400, description = "The query is wrong"),
    ),
)]
async fn list(
    State(state): State<Arc<AdminState>>,
    query: QueryTable,
) -> Result<Json<Page<Shown>>, Problem> {
    let query = query.read(PageQuery::read)?;
    let after = match query.cursor.as_deref().map(TargetId::parse) {
        None => None,
        Some(Some(id)) => Some(id),
        Some(None) => return Err(cursor_unknown()),
    };
    let view = state.gateway.view.load_full();
    let behind = |target: &&Arc<Target>| after.as_ref().is_none_or(|after| target.id > *after);
    let wanted = query.limit.saturating_add(1);
    let mut found: Vec<_> =
        view.targets.iter().filter(behind).map(|one| (one.id.clone(), None)).collect();
    let broken =
        |entry: &Arc<Entry>| entry.target.is_err() && view.targets.get(entry.id.as_str()).is_none();
    let entries = state.inventory.list(after.as_ref(), usize::MAX).into_iter().filter(broken);
    found.extend(entries.map(|entry| (entry.id.clone(), Some(entry))));
    if found.len() > wanted {
        found.select_nth_unstable_by(wanted, |(a, _), (b, _)| a.cmp(b));
        found.truncate(wanted);
    }
    found.sort_by(|(a, _), (b, _)| a.cmp(b));
    let more = found.len() > query.limit;
    found.truncate(query.limit);
    let shown = |(id, entry): (TargetId, Option<Arc<Entry>>)| match entry {
        Some(entry) => Some(state.shown_entry(&view, &entry)),
        None => view.targets.get(id.as_str()).map(|target| state.shown(&view, target)),
    };
    let items: Vec<_> = found.into_iter().filter_map(shown).collect();
    let next_cursor = items.last().filter(|_| more).map(|item: &Shown| item.id.clone());
    Ok(Json(Page { items, next_cursor }))
}

/// One target
#[utoipa::path(
    get,
    path = "/v1/targets/{id}",
    operation_id = "getTarget",
    tag = TARGETS,
    params(("id" = String, Path, description = "Its id", example = "acme-jira")),
    responses(
        (status = 200, description = "The target", body = Shown,
            headers(("ETag" = Option<String>, description = "Its version, for If-Match"))),
        (status = 404, description = "There is no such target"),
    ),
)]
async fn get(
    State(state): State<Arc<AdminState>>,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    let view = state.gateway.view.load_full();
    let shown = match state.known(&view, &id)? {
        Known::Live(target) => state.shown(&view, &target),
        Known::Broken(entry) => state.shown_entry(&view, &entry),
    };
    let version = shown.version;
    Ok(with_etag(Json(shown).into_response(), version))
}

/// Make or replace a target
///
/// The URL and every address of its host are judged by the rules of traffic first. What is unsafe
/// is refused with the code that traffic would get, and nothing is kept; what is only unfinished is
/// kept, told in `warnings`, and blocks traffic until it is finished. A credential in the body is
/// never shown again. In force when this is answered.
#[utoipa::path(
    put,
    path = "/v1/targets/{id}",
    operation_id = "putTarget",
    tag = TARGETS,
    params(
        ("id" = String, Path, description = "Its id", example = "acme-jira"),
        ("If-Match" = Option<String>, Header, description = "The ETag of the version to replace"),
        ("If-None-Match" = Option<String>, Header, description = "`*`: only where there is none"),
    ),
    request_body = TargetBody,
    responses(
        (status = 200, description = "Replaced", body = Answer,
            headers(("ETag" = String, description = "Its version"))),
        (status = 201, description = "Made", body = Answer,
            headers(("ETag" = String, description = "Its version"))),
        (status = 400, description = "A member is wrong"),
        (status = 409, description = "The target belongs to the configuration, there is no key to \
            seal credentials with, or there are too many targets"),
        (status = 412, description = "Somebody else has changed it"),
        (status = 422, description = "Its URL or addresses are not safe"),
        (status = 503, description = "The store cannot be used"),
    ),
)]
async fn put(
    State(state): State<Arc<AdminState>>,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: BodyTable,
) -> Result<Response, Problem> {
    let id = new_id(&id)?;
    let expect = expect(&state, &id, &headers)?;
    let kept = state.inventory.put(&id, body.into_json(), expect).await;
    let kept = kept.map_err(|fault| state.fault(fault))?;
    let status = if kept.created { StatusCode::CREATED } else { StatusCode::OK };
    let answer = (status, Json(state.answer(&kept))).into_response();
    Ok(with_etag(answer, Some(kept.entry.version)))
}

/// Delete a target
///
/// With its credentials and what is known of its connectivity. Requests under way go on.
#[utoipa::path(
    delete,
    path = "/v1/targets/{id}",
    operation_id = "deleteTarget",
    tag = TARGETS,
    params(
        ("id" = String, Path, description = "Its id", example = "acme-jira"),
        ("If-Match" = Option<String>, Header, description = "The ETag of the version to delete"),
    ),
    responses(
        (status = 204, description = "Deleted"),
        (status = 400, description = "The precondition is malformed"),
        (status = 404, description = "There is no such target"),
        (status = 409, description = "The target belongs to the configuration"),
        (status = 412, description = "Somebody else has changed it"),
        (status = 503, description = "The store cannot be used"),
    ),
)]
async fn delete(
    State(state): State<Arc<AdminState>>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<StatusCode, Problem> {
    let id = known_id(&id)?;
    let expect = expect(&state, &id, &headers)?;
    state.inventory.delete(&id, expect).await.map_err(|fault| state.fault(fault))?;
    Ok(StatusCode::NO_CONTENT)
}

/// Judge a target without keeping it
///
/// As PUT would; the role `read` is enough.
#[utoipa::path(
    post,
    path = "/v1/targets/validate",
    operation_id = "validateTarget",
    tag = TARGETS,
    request_body = TargetBody,
    responses(
        (status = 200, description = "It could be kept", body = Answer),
        (status = 400, description = "A member is wrong"),
        (status = 422, description = "Its URL or addresses are not safe"),
        (status = 503, description = "As many are being judged as may be"),
    ),
)]
async fn validate(
    State(state): State<Arc<AdminState>>,
    body: BodyTable,
) -> Result<Json<Answer>, Problem> {
    let body = body.into_json();
    let id = match body.get("id") {
        None => "unnamed",
        Some(id) => id.as_str().unwrap_or_default(),
    };
    let id = new_id(id)?;
    let _place = state.explaining.try_acquire().map_err(|_| Problem::Busy)?;
    let judged = state.inventory.validate(&id, body).await;
    let (target, warnings) = judged.map_err(|fault| state.fault(fault))?;
    let view = state.gateway.view.load();
    let connectivity = state.gateway.checks.connectivity(&view, &target).state;
    Ok(Json(Answer {
        target: Shown::new(&target, None, connectivity),
        warnings: Warning::all(&warnings, &view),
    }))
}

fn new_id(text: &str) -> Result<TargetId, Problem> {
    let message = "an id is 1 to 64 of a-z, 0-9, `.`, `_` and `-`";
    TargetId::parse(text).ok_or_else(|| invalid("id", message))
}

/// What the request's preconditions expect of a target.
pub(super) fn expect(
    state: &AdminState,
    id: &TargetId,
    headers: &HeaderMap,
) -> Result<Expect, Problem> {
    let version = || state.inventory.get(id).map(|entry| entry.version);
    precondition::expect(headers, version)
}

/// Adds the version of a target, where it has one.
pub(super) fn with_etag(mut response: Response, version: Option<i64>) -> Response {
    if let Some(value) = version.and_then(|version| HeaderValue::from_str(&etag(version)).ok()) {
        response.headers_mut().insert(header::ETAG, value);
    }
    response
}
