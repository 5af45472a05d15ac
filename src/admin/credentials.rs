//! Signing secrets: set, rotated, taken away; never read.

use std::{sync::Arc, time::Duration};

use axum::{
    Json,
    extract::{Path, State},
    http::HeaderMap,
    response::{IntoResponse as _, Response},
};
use serde::Serialize;
use utoipa::ToSchema;

use super::{
    AdminState,
    input::{BodyTable, QueryTable, invalid},
    openapi::TARGETS,
    problem::Problem,
    route::{Route, route},
    targets::{expect, known_id, with_etag},
};
use crate::{
    fields::{Fields, expected, parse_duration},
    inventory::{Entry, OVERLAP_DEFAULT, OVERLAP_MAX, SecretStatus},
    secret::Secret,
    store::Which,
};

pub(super) fn routes() -> Vec<Route> {
    vec![route!(put, delete)]
}

/// A new secret.
#[derive(ToSchema)]
#[schema(as = Credential, example = json!({"signing_secret": "at least sixteen bytes", "overlap": "24h"}))]
#[expect(dead_code, reason = "for the document; bodies are read key by key")]
struct Body {
    /// At least 16 bytes; `whsec_…` for the format `standard-webhooks`.
    #[schema(write_only, min_length = 16)]
    signing_secret: String,
    /// How long the former secret counts: `0s` to `30d`. Default: `24h`.
    overlap: Option<String>,
}

/// What is known of a target's secrets.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = CredentialStatus)]
struct Answer {
    /// The target.
    target_id: String,
    /// Whether it has a secret.
    signing_secret_status: SecretStatus,
    /// Until when the former one counts; absent where none does, or without an end.
    #[schema(value_type = Option<String>, format = DateTime)]
    previous_expires_at: Option<jiff::Timestamp>,
}

/// Set a target's signing secret
///
/// Refused until the target's URL and addresses have passed. The former secret counts on for
/// `overlap`. In force when this is answered.
#[utoipa::path(
    put,
    path = "/v1/targets/{id}/credential",
    operation_id = "putCredential",
    tag = TARGETS,
    params(
        ("id" = String, Path, description = "The target's id", example = "acme-hook"),
        ("If-Match" = Option<String>, Header, description = "The ETag of the target"),
    ),
    request_body = Body,
    responses(
        (status = 200, description = "Set", body = Answer,
            headers(("ETag" = String, description = "The target's version"))),
        (status = 400, description = "A member is wrong"),
        (status = 404, description = "There is no such target"),
        (status = 409, description = "The target belongs to the configuration, or there is no key \
            to seal credentials with"),
        (status = 412, description = "Somebody else has changed the target"),
        (status = 422, description = "The target's URL or addresses have not passed"),
        (status = 503, description = "The store cannot be used"),
    ),
)]
async fn put(
    State(state): State<Arc<AdminState>>,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: BodyTable,
) -> Result<Response, Problem> {
    let id = known_id(&id)?;
    let (secret, overlap) = body.read(read)?;
    let secret = secret.ok_or_else(|| invalid("signing_secret", "this key is required"))?;
    if overlap > OVERLAP_MAX {
        return Err(invalid("overlap", "at most 30d"));
    }
    let expect = expect(&state, &id, &headers)?;
    let set = state.inventory.set_secret(&id, secret, overlap, expect).await;
    set.map(|entry| answer(&entry)).map_err(|fault| state.fault(fault))
}

fn read(fields: &mut Fields<'_>) -> (Option<Secret>, Duration) {
    let secret = fields.read("signing_secret", |value| {
        let text = value.as_str().ok_or("expected the secret as a string")?;
        Ok(Secret::new(text.as_bytes().to_vec()))
    });
    let overlap = fields.read("overlap", |value| match value.as_str() {
        // Not a time limit: the former one ends at once.
        Some("0" | "0s") => Ok(Duration::ZERO),
        Some(text) => parse_duration(text),
        None => Err(expected("a duration with its unit, such as \"24h\"", value)),
    });
    (secret, overlap.unwrap_or(OVERLAP_DEFAULT))
}

/// Take a target's signing secret away
#[utoipa::path(
    delete,
    path = "/v1/targets/{id}/credential",
    operation_id = "deleteCredential",
    tag = TARGETS,
    params(
        ("id" = String, Path, description = "The target's id", example = "acme-hook"),
        ("If-Match" = Option<String>, Header, description = "The ETag of the target"),
        ("which" = Option<String>, Query, description = "`previous` ends a rotation; `all`, the default, takes both secrets"),
    ),
    responses(
        (status = 200, description = "Taken away", body = Answer,
            headers(("ETag" = String, description = "The target's version"))),
        (status = 400, description = "The query is wrong"),
        (status = 404, description = "There is no such target"),
        (status = 409, description = "The target belongs to the configuration"),
        (status = 412, description = "Somebody else has changed the target"),
        (status = 503, description = "The store cannot be used"),
    ),
)]
async fn delete(
    State(state): State<Arc<AdminState>>,
    Path(id): Path<String>,
    query: QueryTable,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let id = known_id(&id)?;
    let which = query.read(|fields| {
        fields.word("which", &[("previous", Which::Previous), ("all", Which::All)])
    })?;
    let expect = expect(&state, &id, &headers)?;
    let done = state.inventory.delete_secret(&id, which.unwrap_or(Which::All), expect).await;
    done.map(|entry| answer(&entry)).map_err(|fault| state.fault(fault))
}

fn answer(entry: &Entry) -> Response {
    let answer = Answer {
        target_id: entry.id.to_string(),
        signing_secret_status: entry.secret_status(),
        previous_expires_at: entry.previous_expires_at(),
    };
    with_etag(Json(answer).into_response(), Some(entry.version))
}
