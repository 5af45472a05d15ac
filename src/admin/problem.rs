//! Errors of the admin API as problem documents (RFC 9457).
//!
//! `type` is `about:blank` and `title` the status's own phrase (section 4.2.1), `code` the stable
//! word, `detail` a sentence. Nothing of the request is repeated but the names of parameters and
//! members. Bytes that are not HTTP never get here: hyper answers them with a bare 400 or 431.

use std::net::IpAddr;

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use utoipa::ToSchema;

use super::{input::BODY_BYTES_MAX, refused::Warning};
use crate::{fields::Problems, inventory::Fault, store::StoreError};

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
    /// `ADMIN_TARGET_UNKNOWN`: there is no such target.
    TargetUnknown,
    /// `ADMIN_CHECK_UNKNOWN`: there is no such check, or it is no longer kept.
    CheckUnknown,
    /// `ADMIN_TUNNEL_UNKNOWN`: there is no such tunnel.
    TunnelUnknown,
    /// `ADMIN_TARGET_READ_ONLY`: the target is one of the configuration.
    ReadOnly,
    /// `ADMIN_TARGET_CHANGED`: a precondition does not hold (RFC 9110, section 13.1).
    Changed,
    /// `ADMIN_TARGETS_FULL`: there are as many targets as may be.
    TargetsFull(usize),
    /// `ADMIN_STORE_KEY_MISSING`: a credential, and nothing to seal it with.
    StoreKeyMissing,
    /// What traffic would be told: its own code.
    Refused(Box<Warning>),
    /// `ADMIN_STORE_UNAVAILABLE`: the store cannot be used; the log says more.
    Store(String),
    /// `ADMIN_INTERNAL_ERROR`: the answer could not be made.
    Internal,
}

impl Problem {
    /// Why a target could not be changed; `egress` is the address to allowlist.
    pub(super) fn of(fault: Fault, egress: Option<IpAddr>) -> Self {
        match fault {
            Fault::NotFound => Self::TargetUnknown,
            Fault::ReadOnly => Self::ReadOnly,
            Fault::Changed(_) => Self::Changed,
            Fault::Invalid(problems) => Self::Invalid(problems),
            Fault::Unsafe(refusal) | Fault::NotJudged(refusal) => {
                Self::Refused(Box::new(Warning::of(&refusal, egress)))
            }
            Fault::NoKey => Self::StoreKeyMissing,
            Fault::TooMany(number) => Self::TargetsFull(number),
            Fault::Store(error) => Self::store(&error),
            Fault::Seal(error) => {
                tracing::error!(%error, "a credential could not be sealed");
                Self::Internal
            }
        }
    }

    /// The store cannot be used.
    pub(super) fn store(error: &StoreError) -> Self {
        tracing::error!(%error, "the store cannot be used");
        Self::Store(error.to_string())
    }

    const fn status(&self) -> StatusCode {
        match self {
            Self::HostInvalid | Self::Invalid(_) => StatusCode::BAD_REQUEST,
            Self::HostNotAllowed => StatusCode::MISDIRECTED_REQUEST,
            Self::OriginNotAllowed | Self::RoleInsufficient => StatusCode::FORBIDDEN,
            Self::TokenMissing | Self::TokenUnknown => StatusCode::UNAUTHORIZED,
            Self::RateLimited => StatusCode::TOO_MANY_REQUESTS,
            Self::NotFound | Self::TargetUnknown | Self::TunnelUnknown | Self::CheckUnknown => {
                StatusCode::NOT_FOUND
            }
            Self::ReadOnly | Self::TargetsFull(_) | Self::StoreKeyMissing => StatusCode::CONFLICT,
            Self::Changed => StatusCode::PRECONDITION_FAILED,
            Self::Refused(_) => StatusCode::UNPROCESSABLE_ENTITY,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::NotJson => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::BodySlow => StatusCode::REQUEST_TIMEOUT,
            Self::Busy | Self::Store(_) => StatusCode::SERVICE_UNAVAILABLE,
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
            Self::TargetUnknown => "ADMIN_TARGET_UNKNOWN",
            Self::CheckUnknown => "ADMIN_CHECK_UNKNOWN",
            Self::TunnelUnknown => "ADMIN_TUNNEL_UNKNOWN",
            Self::ReadOnly => "ADMIN_TARGET_READ_ONLY",
            Self::Changed => "ADMIN_TARGET_CHANGED",
            Self::TargetsFull(_) => "ADMIN_TARGETS_FULL",
            Self::StoreKeyMissing => "ADMIN_STORE_KEY_MISSING",
            Self::Refused(refusal) => refusal.code,
            Self::Store(_) => "ADMIN_STORE_UNAVAILABLE",
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
            Self::TargetUnknown => "There is no target of this id.",
            Self::TunnelUnknown => "There is no tunnel of this name.",
            Self::CheckUnknown => "There is no check of this id, or it is too old to be kept.",
            Self::ReadOnly => "The target is one of the configuration; change it there.",
            Self::Changed => "Somebody else has changed the target; read it again.",
            Self::StoreKeyMissing => {
                "Set store.key in the configuration: credentials are kept sealed or not at all."
            }
            Self::TargetsFull(number) => return format!("There are {number} targets already."),
            Self::Refused(refusal) => return refusal.detail.clone(),
            Self::Store(error) => return error.clone(),
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
            Self::RateLimited | Self::Busy | Self::Store(_) => Some((header::RETRY_AFTER, "1")),
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
            | Self::TargetUnknown
            | Self::CheckUnknown
            | Self::TunnelUnknown
            | Self::ReadOnly
            | Self::Changed
            | Self::TargetsFull(_)
            | Self::StoreKeyMissing
            | Self::Refused(_)
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
    /// The fine word, where traffic would be refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    cause: Option<&'static str>,
    /// Who has to act, where traffic would be refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    owner: Option<&'static str>,
    /// What to do, in a sentence that can be forwarded, where traffic would be refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    next_step: Option<String>,
    /// Everything that is wrong with the query or the body.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    errors: Vec<Wrong>,
}

/// One thing that is wrong with the query or the body.
#[derive(Serialize, ToSchema)]
#[schema(as = Fault)]
struct Wrong {
    /// The parameter's or member's name, with its path: `limit`, `tls.pins[1]`.
    name: String,
    /// What is wrong with it.
    detail: String,
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let (status, code, detail, field) =
            (self.status(), self.code(), self.detail(), self.field());
        let refusal = if let Self::Refused(refusal) = &self { Some(refusal.clone()) } else { None };
        let errors = if let Self::Invalid(problems) = self { problems } else { Vec::new() };
        let document = Document {
            r#type: "about:blank",
            title: status.canonical_reason().unwrap_or_default(),
            status: status.as_u16(),
            code,
            detail,
            cause: refusal.as_ref().map(|refusal| refusal.cause),
            owner: refusal.as_ref().map(|refusal| refusal.owner),
            next_step: refusal.map(|refusal| refusal.next_step),
            errors: errors
                .into_iter()
                .map(|one| Wrong { name: one.key, detail: one.message })
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
