//! Errors of the admin API as problem documents (RFC 9457).
//!
//! `type` is `about:blank` and `title` the status's own phrase (section 4.2.1), `code` the stable
//! word, `detail` a sentence that never repeats anything of the request. Bytes that are not HTTP
//! never get here: hyper answers them with a bare 400 or 431.

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;

use super::page::LIMIT_MAX;

/// What can go wrong with a request to the admin API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Problem {
    /// `ADMIN_REQUEST_INVALID`: `Host` is missing, repeated or not a host (RFC 9112, section 3.2).
    HostInvalid,
    /// `ADMIN_HOST_NOT_ALLOWED`: `Host` names somebody else (RFC 9110, section 15.5.20).
    HostNotAllowed,
    /// `ADMIN_UNAUTHENTICATED`: no token was sent.
    TokenMissing,
    /// `ADMIN_UNAUTHENTICATED`: the token is not one of `admin.tokens`.
    TokenUnknown,
    /// `ADMIN_FORBIDDEN`: the token's role is `read`, and the request would change something.
    RoleInsufficient,
    /// `ADMIN_NOT_FOUND`: there is no such path.
    NotFound,
    /// `ADMIN_METHOD_NOT_ALLOWED`: the path is there, but not for this method.
    MethodNotAllowed,
    /// `ADMIN_REQUEST_INVALID`: `limit` or `cursor` cannot be used.
    PageInvalid,
    /// `ADMIN_INTERNAL_ERROR`: the answer could not be made.
    Internal,
}

impl Problem {
    const fn status(self) -> StatusCode {
        match self {
            Self::HostInvalid | Self::PageInvalid => StatusCode::BAD_REQUEST,
            Self::HostNotAllowed => StatusCode::MISDIRECTED_REQUEST,
            Self::TokenMissing | Self::TokenUnknown => StatusCode::UNAUTHORIZED,
            Self::RoleInsufficient => StatusCode::FORBIDDEN,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    const fn code(self) -> &'static str {
        match self {
            Self::HostInvalid | Self::PageInvalid => "ADMIN_REQUEST_INVALID",
            Self::HostNotAllowed => "ADMIN_HOST_NOT_ALLOWED",
            Self::TokenMissing | Self::TokenUnknown => "ADMIN_UNAUTHENTICATED",
            Self::RoleInsufficient => "ADMIN_FORBIDDEN",
            Self::NotFound => "ADMIN_NOT_FOUND",
            Self::MethodNotAllowed => "ADMIN_METHOD_NOT_ALLOWED",
            Self::Internal => "ADMIN_INTERNAL_ERROR",
        }
    }

    fn detail(self) -> String {
        let sentence = match self {
            Self::HostInvalid => "Send one Host field with a host name or IP literal.",
            Self::HostNotAllowed => {
                "The Host field is not an IP literal, localhost or one of admin.hosts."
            }
            Self::TokenMissing => "Send Authorization: Bearer with one of admin.tokens.",
            Self::TokenUnknown => "The bearer token is not one of admin.tokens.",
            Self::RoleInsufficient => "Use a token with the role `operate` to change anything.",
            Self::NotFound => "There is nothing at this path.",
            Self::MethodNotAllowed => "The Allow field lists what this path answers.",
            Self::Internal => "The answer could not be made; the gateway's log says why.",
            Self::PageInvalid => {
                return format!(
                    "The query takes `limit`, from 1 to {LIMIT_MAX}, and `cursor`, a next_cursor \
                     of this list, each once."
                );
            }
        };
        sentence.to_owned()
    }

    /// The challenge of a 401 (RFC 6750, section 3): without an error where nothing was sent.
    const fn challenge(self) -> Option<&'static str> {
        match self {
            Self::TokenMissing => Some("Bearer realm=\"egress-gateway\""),
            Self::TokenUnknown => Some("Bearer realm=\"egress-gateway\", error=\"invalid_token\""),
            Self::HostInvalid
            | Self::HostNotAllowed
            | Self::RoleInsufficient
            | Self::NotFound
            | Self::MethodNotAllowed
            | Self::PageInvalid
            | Self::Internal => None,
        }
    }
}

#[derive(Serialize)]
struct Document {
    r#type: &'static str,
    title: &'static str,
    status: u16,
    code: &'static str,
    detail: String,
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = self.status();
        let document = Document {
            r#type: "about:blank",
            title: status.canonical_reason().unwrap_or_default(),
            status: status.as_u16(),
            code: self.code(),
            detail: self.detail(),
        };
        let mut response = (status, Json(document)).into_response();
        let fields = response.headers_mut();
        fields.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some(challenge) = self.challenge() {
            fields.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
        }
        response
    }
}
