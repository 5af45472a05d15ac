//! The `OpenAPI` document: what routes say of themselves, and what the guard in front of them adds.

use std::{
    collections::BTreeSet,
    future::{Ready, ready},
    sync::LazyLock,
};

use axum::{
    http::header,
    response::{IntoResponse as _, Response},
};
use utoipa::{
    OpenApi as _,
    openapi::{
        Components, Content, OpenApi, Ref, RefOr, ResponseBuilder, Schema,
        path::{HttpMethod, Operation, PathItem},
        security::{Http, HttpAuthScheme, SecurityRequirement, SecurityScheme},
    },
};

use super::{
    guard,
    problem::{Document, PROBLEM},
    route::{Route, route},
};

/// The groups of routes.
pub(super) const HEALTH: &str = "health";
pub(super) const REFERENCE: &str = "reference";
pub(super) const DECISIONS: &str = "decisions";
pub(super) const TARGETS: &str = "targets";
pub(super) const CHECKS: &str = "checks";
pub(super) const TUNNELS: &str = "tunnels";

/// Name of the security scheme.
const BEARER: &str = "bearer";

#[derive(utoipa::OpenApi)]
#[openapi(
    info(
        title = "Egress gateway: admin API",
        description = "What the gateway is, what it decided and why, and what it may reach.\n\n\
            Every error is a problem document (RFC 9457) with a stable `code`. Where tokens are \
            configured, all but health and metrics need one: the role `read` looks, `operate` \
            changes things too. `Host` has to be an IP literal, `localhost` or one of \
            `admin.hosts`. A token may send 1,000 changing requests a second, and 2,000 at once \
            after a pause.",
    ),
    tags(
        (name = HEALTH, description = "For machines that watch the gateway; open to everybody"),
        (name = REFERENCE, description = "What the gateway is and what its words mean"),
        (name = TARGETS, description = "What may be reached, its credentials and its deliveries"),
        (name = CHECKS, description = "Whether targets can be reached, and who must act where not"),
        (name = TUNNELS, description = "The ways into private networks"),
        (name = DECISIONS, description = "What was decided, and what would be"),
    ),
    components(schemas(Document)),
)]
struct Head;

/// What every route's document begins with.
pub(super) fn head() -> OpenApi {
    Head::openapi()
}

pub(super) fn routes() -> Vec<Route> {
    vec![route!(openapi)]
}

/// This document
#[utoipa::path(
    get,
    path = "/openapi.json",
    operation_id = "openapi",
    tag = REFERENCE,
    responses((status = 200, description = "OpenAPI 3.1", body = serde_json::Value)),
)]
fn openapi() -> Ready<Response> {
    static RENDERED: LazyLock<String> =
        LazyLock::new(|| super::document().to_json().unwrap_or_default());
    ready(([(header::CONTENT_TYPE, "application/json")], RENDERED.as_str()).into_response())
}

/// Adds what every route answers because of [`guard`], and the shape of problems, which no route
/// has to repeat.
pub(super) fn complete(mut document: OpenApi) -> OpenApi {
    let mut asked = BTreeSet::new();
    for (path, item) in &mut document.paths.paths {
        for (method, operation) in operations(item) {
            asked.extend(asked_schema(operation));
            let guarded = guard_answers(path, &method, operation.request_body.is_some());
            for (status, description) in guarded {
                let answer = operation.responses.responses.entry(status.to_owned());
                answer.or_insert_with(|| ResponseBuilder::new().description(description).into());
            }
            operation.responses.responses.iter_mut().for_each(with_problem);
            if !guard::OPEN.contains(&path.as_str()) {
                let bearer = SecurityRequirement::new(BEARER, Vec::<String>::new());
                operation.security = Some(vec![bearer]);
            }
        }
    }
    let components = document.components.get_or_insert_with(Components::new);
    let scheme = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
    components.add_security_scheme(BEARER, scheme);
    // What is asked is read strictly. What is answered may gain members, and one schema may be part
    // of another.
    components
        .schemas
        .iter_mut()
        .filter(|(name, _)| !asked.contains(*name))
        .for_each(|(_, schema)| with_any_member(schema));
    document
}

/// The schema of a request's body.
fn asked_schema(operation: &Operation) -> Option<String> {
    let Some(RefOr::T(body)) = &operation.request_body else { return None };
    let Some(RefOr::T(content)) = body.content.values().next() else { return None };
    let Some(RefOr::Ref(reference)) = &content.schema else { return None };
    reference.ref_location.rsplit('/').next().map(ToOwned::to_owned)
}

fn with_any_member(schema: &mut RefOr<Schema>) {
    if let RefOr::T(Schema::Object(object)) = schema {
        object.additional_properties = None;
    }
}

fn operations(item: &mut PathItem) -> impl Iterator<Item = (HttpMethod, &mut Operation)> {
    let PathItem { get, put, post, delete, .. } = item;
    let by_method = [
        (HttpMethod::Get, get),
        (HttpMethod::Put, put),
        (HttpMethod::Post, post),
        (HttpMethod::Delete, delete),
    ];
    by_method.into_iter().filter_map(|(method, operation)| Some((method, operation.as_mut()?)))
}

/// What the guard answers for such a route, and why.
fn guard_answers(
    path: &str,
    method: &HttpMethod,
    has_body: bool,
) -> Vec<(&'static str, &'static str)> {
    let mut answers = vec![
        ("400", "`Host` is missing, repeated or not a host"),
        ("421", "`Host` names somebody else"),
    ];
    if !guard::OPEN.contains(&path) {
        answers.push(("401", "No token, or one that is not known"));
    }
    if *method != HttpMethod::Get || guard::SCARCE.contains(&path) {
        answers.push(("403", "The token may only read, or a page of another origin asks"));
    }
    if *method != HttpMethod::Get {
        answers.push(("415", "A body that is not JSON"));
        answers.push(("429", "Too many requests a second"));
    }
    if has_body {
        answers.push(("408", "The body did not come in time"));
        answers.push(("413", "The body is too large"));
    }
    answers
}

/// An error without a body of its own is a problem.
fn with_problem((status, response): (&String, &mut RefOr<utoipa::openapi::Response>)) {
    if let RefOr::T(response) = response
        && response.content.is_empty()
        && status.starts_with(['4', '5'])
    {
        let content = Content::new(Some(Ref::from_schema_name("Problem")));
        response.content.insert(PROBLEM.to_owned(), content.into());
    }
}
