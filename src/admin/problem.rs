//! Errors of the admin API as problem documents (RFC 9457).
//!
//! `type` is `about:blank` and `title` the status's own phrase (section 4.2.1), `code` the stable
//! word, `detail` a sentence. Nothing of the request is repeated but the names of parameters and
//! members. Bytes that are not HTTP never get here: hyper answers them with a bare 400 or 431.

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use utoipa::ToSchema;

use super::input::BODY_BYTES_MAX;
use crate::fields::Problems;

/// Media type of problem documents (RFC 9457, section 6.1).
pub(super) const PROBLEM: &str = "application/problem+json";

/// What can go wrong with a request to the admin API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Problem {
    /// `ADMIN_REQUEST_INVALID`: `Host` is missing, repeated or not a host (RFC 9112, section 3.2).
    HostInvalid,
    /// `ADMIN_HOST_NOT_ALLOWED`: `Host` names somebody else (RFC 9110, section 15.5.20).
    HostNotAllowed,
    /// `ADMIN_ORIGIN_NOT_ALLOWED`: a page of another origin made a browser send this.
    OriginNotAllowed,
    /// `ADMIN_UNAUTHENTICATED`: no token was sent.
    TokenMissing,
    /// `ADMIN_UNAUTHENTICATED`: the token is not one of `admin.tokens`.
    TokenUnknown,
    /// `ADMIN_FORBIDDEN`: the token's role is `read`, and the request would change something.
    RoleInsufficient,
    /// `ADMIN_RATE_LIMITED`: more requests a second than one token may send.
    RateLimited,
    /// `ADMIN_NOT_FOUND`: there is no such path.
    NotFound,
    /// `ADMIN_METHOD_NOT_ALLOWED`: the path is there, but not for this method.
    MethodNotAllowed,
    /// `ADMIN_REQUEST_INVALID`: parameters of the query, or members of the body, each by its name.
    Invalid(Problems),
    /// `ADMIN_CONTENT_TYPE`: a body that does not say that it is JSON.
    NotJson,
    /// `ADMIN_BODY_TOO_LARGE`: a body beyond the limit.
    BodyTooLarge,
    /// `ADMIN_BODY_SLOW`: a body that did not come in time.
    BodySlow,
    /// `ADMIN_OVERLOADED`: as many do this as may at once.
    Busy,
    /// `ADMIN_INTERNAL_ERROR`: the answer could not be made.
    Internal,
}

impl Problem {
    const fn status(&self) -> StatusCode {
        match self {
            Self::HostInvalid | Self::Invalid(_) => StatusCode::BAD_REQUEST,
            Self::HostNotAllowed => StatusCode::MISDIRECTED_REQUEST,
            Self::OriginNotAllowed | Self::RoleInsufficient => StatusCode::FORBIDDEN,
            Self::TokenMissing | Self::TokenUnknown => StatusCode::UNAUTHORIZED,
            Self::RateLimited => StatusCode::TOO_MANY_REQUESTS,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::NotJson => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::BodySlow => StatusCode::REQUEST_TIMEOUT,
            Self::Busy => StatusCode::SERVICE_UNAVAILABLE,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    const fn code(&self) -> &'static str {
        match self {
            Self::HostInvalid | Self::Invalid(_) => "ADMIN_REQUEST_INVALID",
            Self::HostNotAllowed => "ADMIN_HOST_NOT_ALLOWED",
            Self::OriginNotAllowed => "ADMIN_ORIGIN_NOT_ALLOWED",
            Self::TokenMissing | Self::TokenUnknown => "ADMIN_UNAUTHENTICATED",
            Self::RoleInsufficient => "ADMIN_FORBIDDEN",
            Self::RateLimited => "ADMIN_RATE_LIMITED",
            Self::NotFound => "ADMIN_NOT_FOUND",
            Self::MethodNotAllowed => "ADMIN_METHOD_NOT_ALLOWED",
            Self::NotJson => "ADMIN_CONTENT_TYPE",
            Self::BodyTooLarge => "ADMIN_BODY_TOO_LARGE",
            Self::BodySlow => "ADMIN_BODY_SLOW",
            Self::Busy => "ADMIN_OVERLOADED",
            Self::Internal => "ADMIN_INTERNAL_ERROR",
        }
    }

    fn detail(&self) -> String {
        let sentence = match self {
            Self::HostInvalid => "Send one Host field with a host name or IP literal.",
            Self::HostNotAllowed => {
                "The Host field is not an IP literal, localhost or one of admin.hosts."
            }
            Self::OriginNotAllowed => "Pages of other origins have no business here.",
            Self::TokenMissing => "Send Authorization: Bearer with one of admin.tokens.",
            Self::TokenUnknown => "The bearer token is not one of admin.tokens.",
            Self::RoleInsufficient => "Use a token with the role `operate` to change anything.",
            Self::RateLimited => "Send fewer requests a second with this token.",
            Self::NotFound => "There is nothing at this path.",
            Self::MethodNotAllowed => "The Allow field lists what this path answers.",
            Self::NotJson => "Send the body as JSON, with Content-Type: application/json.",
            Self::BodySlow => "The body did not come in time.",
            Self::Busy => "As many requests of this kind are under way as may be; try again soon.",
            Self::Internal => "The answer could not be made; the gateway's log says why.",
            Self::BodyTooLarge => return format!("A body has up to {BODY_BYTES_MAX} bytes."),
            Self::Invalid(problems) => {
                return problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
            }
        };
        sentence.to_owned()
    }

    /// The challenge of a 401 (RFC 6750, section 3), without an error where nothing was sent; when
    /// to try again.
    fn field(&self) -> Option<(header::HeaderName, &'static str)> {
        match self {
            Self::TokenMissing => {
                Some((header::WWW_AUTHENTICATE, "Bearer realm=\"egress-gateway\""))
            }
            Self::TokenUnknown => Some((
                header::WWW_AUTHENTICATE,
                "Bearer realm=\"egress-gateway\", error=\"invalid_token\"",
            )),
            Self::RateLimited | Self::Busy => Some((header::RETRY_AFTER, "1")),
            Self::HostInvalid
            | Self::HostNotAllowed
            | Self::OriginNotAllowed
            | Self::RoleInsufficient
            | Self::NotFound
            | Self::MethodNotAllowed
            | Self::Invalid(_)
            | Self::NotJson
            | Self::BodyTooLarge
            | Self::BodySlow
            | Self::Internal => None,
        }
    }
}

/// Why a request to the admin API was not answered with what it asked for (RFC 9457).
#[derive(Serialize, ToSchema)]
#[schema(as = Problem)]
pub(super) struct Document {
    /// `about:blank`: `code` tells the problems apart.
    r#type: &'static str,
    /// The status in words.
    title: &'static str,
    /// The status.
    status: u16,
    /// The stable word.
    code: &'static str,
    /// What to do instead.
    detail: String,
    /// Everything that is wrong with the query or the body.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    errors: Vec<Fault>,
}

/// One thing that is wrong with the query or the body.
#[derive(Serialize, ToSchema)]
struct Fault {
    /// The parameter's or member's name, with its path: `limit`, `tls.pins[1]`.
    name: String,
    /// What is wrong with it.
    detail: String,
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let (status, code, detail, field) =
            (self.status(), self.code(), self.detail(), self.field());
        let errors = if let Self::Invalid(problems) = self { problems } else { Vec::new() };
        let document = Document {
            r#type: "about:blank",
            title: status.canonical_reason().unwrap_or_default(),
            status: status.as_u16(),
            code,
            detail,
            errors: errors
                .into_iter()
                .map(|one| Fault { name: one.key, detail: one.message })
                .collect(),
        };
        let mut response = (status, Json(document)).into_response();
        let fields = response.headers_mut();
        fields.insert(header::CONTENT_TYPE, HeaderValue::from_static(PROBLEM));
        if let Some((name, value)) = field {
            fields.insert(name, HeaderValue::from_static(value));
        }
        response
    }
}
