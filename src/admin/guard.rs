//! What stands in front of every route: the `Host` field, the token and its role.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, Method, header, uri::Authority},
    middleware::Next,
    response::{IntoResponse as _, Response},
};

use super::{AdminState, AdminView, problem::Problem, token::Role};
use crate::{origin::Host, secret::Fingerprint};

/// Open to everybody who reaches the listener: probes and scrapers often cannot send a token, and
/// nothing of a target or client shows there.
const OPEN: [&str; 3] = ["/healthz", "/readyz", "/metrics"];

/// Refuses a request that was made for another name.
///
/// DNS rebinding lets a web page talk to any address its visitor can reach, under the page's own
/// name; so only names that are ours are answered, and IP literals, which cannot be rebound.
pub(super) async fn host(
    State(state): State<Arc<AdminState>>,
    request: Request,
    next: Next,
) -> Response {
    match check_host(&state.view.load(), &request) {
        Ok(()) => next.run(request).await,
        Err(problem) => problem.into_response(),
    }
}

fn check_host(view: &AdminView, request: &Request) -> Result<(), Problem> {
    let field = only(request.headers(), &header::HOST).ok_or(Problem::HostInvalid)?;
    let field = field.to_str().map_err(|_| Problem::HostInvalid)?;
    // An absolute-form target says it a second time, and would win (RFC 9112, section 3.2.2).
    let target = request.uri().authority().map(Authority::as_str);
    for authority in std::iter::once(field).chain(target) {
        let ours = match host_of(authority).ok_or(Problem::HostInvalid)? {
            Host::Ip(_) => true,
            name @ Host::Name(_) => name.is_localhost() || view.hosts.contains(&name),
        };
        if !ours {
            return Err(Problem::HostNotAllowed);
        }
    }
    Ok(())
}

/// The host of `host` or `host:port`, whatever the port.
fn host_of(authority: &str) -> Option<Host> {
    let host = match authority.rsplit_once(':') {
        // the colon is one of an IPv6 literal's own
        Some((_, rest)) if rest.ends_with(']') => authority,
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        Some(_) => return None,
        None => authority,
    };
    Host::parse(host).ok()
}

/// Refuses a request without a token whose role covers it, where there are tokens.
///
/// Whatever is not `GET` or `HEAD` needs the role `operate`, so that a route that changes something
/// cannot be forgotten.
pub(super) async fn access(
    State(state): State<Arc<AdminState>>,
    request: Request,
    next: Next,
) -> Response {
    match check_access(&state.view.load(), &request) {
        Ok(()) => next.run(request).await,
        Err(problem) => problem.into_response(),
    }
}

fn check_access(view: &AdminView, request: &Request) -> Result<(), Problem> {
    if view.tokens.is_empty() || OPEN.contains(&request.uri().path()) {
        return Ok(());
    }
    let presented = bearer_token(request.headers()).ok_or(Problem::TokenMissing)?;
    let presented = Fingerprint::of(presented);
    // All are compared, so that the time taken does not say which one came close.
    let mut matching = None;
    for access in &view.tokens {
        if access.fingerprint == presented {
            matching = Some(access);
        }
    }
    let access = matching.ok_or(Problem::TokenUnknown)?;
    if access.role < role_needed(request.method()) {
        tracing::warn!(token = &*access.name, "admin request refused: its token may only read");
        return Err(Problem::RoleInsufficient);
    }
    Ok(())
}

fn role_needed(method: &Method) -> Role {
    if matches!(*method, Method::GET | Method::HEAD) { Role::Read } else { Role::Operate }
}

/// `Authorization: Bearer TOKEN` (RFC 6750, section 2.1); the scheme in any case.
fn bearer_token(fields: &HeaderMap) -> Option<&[u8]> {
    let credentials = only(fields, &header::AUTHORIZATION)?.as_bytes();
    let (scheme, token) = credentials.split_at_checked("Bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then(|| token.trim_ascii())
}

/// The value of a field that is there exactly once.
fn only<'a>(fields: &'a HeaderMap, name: &header::HeaderName) -> Option<&'a HeaderValue> {
    let mut values = fields.get_all(name).iter();
    let value = values.next()?;
    values.next().is_none().then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_read_with_any_port_and_without_one() {
        for (text, host) in [
            ("localhost", "localhost"),
            ("LocalHost:9128", "localhost"),
            ("egress.internal.:9128", "egress.internal"),
            ("127.0.0.1:1", "127.0.0.1"),
            ("127.0.0.1:", "127.0.0.1"),
            ("[::1]", "[::1]"),
            ("[::1]:9128", "[::1]"),
        ] {
            assert_eq!(host_of(text), Host::parse(host).ok(), "{text}");
            assert!(host_of(text).is_some(), "{text}");
        }
    }

    #[test]
    fn what_is_not_one_host_is_none() {
        for text in [
            "",
            ":",
            "::1",
            "localhost:http",
            "localhost:80:80",
            "user@localhost",
            "localhost/",
            "localhost, evil.example",
            "[::1",
            "[localhost]",
            "0x7f.1",
            "2130706433",
            "local host",
        ] {
            assert_eq!(host_of(text), None, "{text}");
        }
    }
}
