//! The decision for one request, told without making it.

use std::sync::Arc;

use axum::{Json, extract::State};
use http::Method;
use serde::Deserialize;
use utoipa::ToSchema;

use super::{
    AdminState,
    input::{BodyTable, invalid},
    openapi::DECISIONS,
    problem::Problem,
    route::{Route, route},
};
use crate::{
    explain::{self, Explanation, Question, What},
    fields::Fields,
    target::TargetId,
};

pub(super) fn routes() -> Vec<Route> {
    vec![route!(explain)]
}

/// How many may be told at once: each may wait for DNS.
pub(super) const AT_ONCE_MAX: usize = 32;

/// What a client would ask for.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = Asked, examples(
    json!({"method": "GET", "url": "https://jira.acme.example/jira/rest/api/2/issue/A-1"}),
    json!({"authority": "api.github.com:443", "client": "webriskops-app"}),
))]
struct Asked {
    /// The request's method. `CONNECT` where there is an `authority`, else `GET`.
    method: Option<String>,
    /// An http or https URL, or `/targets/{id}/{path}` on the gateway itself.
    url: Option<String>,
    /// `host:port` of a CONNECT.
    authority: Option<String>,
    /// The target that the client names in `X-WebRiskOps-Target`.
    target: Option<String>,
    /// The client that asks; without it, every client's rights are assumed.
    client: Option<String>,
}

impl Asked {
    fn read(fields: &mut Fields<'_>) -> Self {
        let mut text = |key| fields.parse(key, |text| Ok::<_, String>(text.to_owned()));
        Self {
            method: text("method"),
            url: text("url"),
            authority: text("authority"),
            target: text("target"),
            client: text("client"),
        }
    }

    fn question(self) -> Result<Question, Problem> {
        let (key, what, usual) = match (self.url, self.authority) {
            (Some(url), None) => ("url", url, Method::GET),
            (None, Some(authority)) => ("authority", authority, Method::CONNECT),
            (None, None) => return Err(invalid("url", "give a `url` or an `authority`")),
            (Some(_), Some(_)) => {
                return Err(invalid("authority", "give a `url` or an `authority`, not both"));
            }
        };
        let method = match self.method {
            None => usual,
            Some(text) => text.parse().map_err(|_| invalid("method", "not a method"))?,
        };
        if key == "authority" && method != Method::CONNECT {
            return Err(invalid("method", "an `authority` is what CONNECT asks for; give a `url`"));
        }
        let target = match self.target.as_deref().map(TargetId::parse) {
            None => None,
            Some(Some(id)) => Some(id),
            Some(None) => {
                let message = "an id is 1 to 64 of a-z, 0-9, `.`, `_` and `-`";
                return Err(invalid("target", message));
            }
        };
        let what = What::parse(&method, &what, target.as_ref());
        Ok(Question { client: self.client, what, offline: false })
    }
}

/// The decision for one request
///
/// Every rule in the order in which traffic meets it, by the same functions, and every address of
/// the host. Nothing is sent but DNS, and nothing is remembered. The role `read` is enough.
#[utoipa::path(
    post,
    path = "/v1/explain",
    operation_id = "explain",
    tag = DECISIONS,
    request_body = Asked,
    responses(
        (status = 200, description = "The decision, whichever it is", body = Explanation),
        (status = 400, description = "The body is wrong"),
        (status = 503, description = "As many are being explained as may be"),
    ),
)]
async fn explain(
    State(state): State<Arc<AdminState>>,
    body: BodyTable,
) -> Result<Json<Explanation>, Problem> {
    let question = body.read(Asked::read)?.question()?;
    let _place = state.explaining.try_acquire().map_err(|_| Problem::Busy)?;
    let view = state.gateway.view.load_full();
    Ok(Json(explain::explain(&view, Some(&state.gateway.checks), question).await))
}
