//! What stands in front of every route: `Host`, where the request comes from, the token and its
//! role, the kind of body, the rate.

use std::{iter, sync::Arc};

use axum::{
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, Method, header, uri::Authority},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use hyper::body::Body as _;
use tokio::time::Instant;

use super::{AdminState, AdminView, problem::Problem, token::Role};
use crate::{origin::Host, secret::Fingerprint};

/// Open to everybody who reaches the listener: probes and scrapers often cannot send a token, and
/// nothing of a target or client shows there.
pub(super) const OPEN: [&str; 3] = ["/healthz", "/readyz", "/metrics"];

/// What only looks although it is a POST: its question does not fit into a query, or must not be
/// logged with one.
pub(super) const READING_POSTS: [&str; 2] = ["/v1/explain", "/v1/targets/validate"];

/// What a page of another origin may not even look at: it would hold a place of few.
pub(super) const SCARCE: [&str; 1] = ["/v1/decisions/stream"];

/// The token that a request came with, for what is noted of it; empty where there are no tokens.
#[derive(Clone, Debug)]
pub(super) struct Caller(pub(super) Box<str>);

/// Asks everything there is to ask before a route is.
pub(super) async fn guard(
    State(state): State<Arc<AdminState>>,
    mut request: Request,
    next: Next,
) -> Response {
    match check(&state, &request) {
        Ok(caller) => {
            request.extensions_mut().insert(caller);
            next.run(request).await
        }
        Err(problem) => problem.into_response(),
    }
}

fn check(state: &AdminState, request: &Request) -> Result<Caller, Problem> {
    let view = state.view.load();
    check_host(&view, request)?;
    check_origin(request)?;
    let caller = check_access(&view, request)?;
    if !looks(request.method()) {
        let known = |name: &str| view.tokens.iter().any(|access| &*access.name == name);
        if !state.rate.take(&caller.0, known, Instant::now()) {
            return Err(Problem::RateLimited);
        }
        check_body(request)?;
    }
    Ok(caller)
}

/// Whether the method is one that only looks.
fn looks(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD)
}

/// Refuses a request that was made for another name.
///
/// DNS rebinding lets a web page talk to any address its visitor can reach, under the page's own
/// name; so only names that are ours are answered, and IP literals, which cannot be rebound.
fn check_host(view: &AdminView, request: &Request) -> Result<(), Problem> {
    let field = only(request.headers(), &header::HOST).ok_or(Problem::HostInvalid)?;
    let field = field.to_str().map_err(|_| Problem::HostInvalid)?;
    // An absolute-form target says it a second time, and would win (RFC 9112, section 3.2.2).
    let target = request.uri().authority().map(Authority::as_str);
    for authority in iter::once(field).chain(target) {
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

/// Refuses what a page of another origin makes a browser send.
///
/// Without tokens everybody on this machine may do everything, and that includes the browser of
/// whoever works on it. Browsers say where a request comes from: `Sec-Fetch-Site` (Fetch Metadata),
/// and before that `Origin` (RFC 6454, section 7). Other clients send neither.
fn check_origin(request: &Request) -> Result<(), Problem> {
    if looks(request.method()) && !SCARCE.contains(&request.uri().path()) {
        return Ok(());
    }
    let fields = request.headers();
    let sites = fields.get_all("sec-fetch-site").iter();
    let mut own_site = sites.map(|site| matches!(site.as_bytes(), b"same-origin" | b"none"));
    let own = |origin: &HeaderValue| {
        let authority = origin.as_bytes().split(|byte| *byte == b'/').nth(2);
        authority
            .zip(only(fields, &header::HOST))
            .is_some_and(|(authority, host)| authority.eq_ignore_ascii_case(host.as_bytes()))
    };
    if own_site.all(|own| own) && fields.get_all(header::ORIGIN).iter().all(own) {
        Ok(())
    } else {
        Err(Problem::OriginNotAllowed)
    }
}

/// Refuses a request without a token whose role covers it, where there are tokens.
///
/// Whatever is not `GET` or `HEAD` needs the role `operate`, so that a route that changes something
/// cannot be forgotten; [`READING_POSTS`] are named one by one.
fn check_access(view: &AdminView, request: &Request) -> Result<Caller, Problem> {
    let path = request.uri().path();
    if view.tokens.is_empty() || OPEN.contains(&path) {
        return Ok(Caller(Box::default()));
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
    if access.role < role_needed(request.method(), path) {
        tracing::warn!(token = &*access.name, "admin request refused: its token may only read");
        return Err(Problem::RoleInsufficient);
    }
    Ok(Caller(access.name.clone()))
}

fn role_needed(method: &Method, path: &str) -> Role {
    let reads = looks(method) || (*method == Method::POST && READING_POSTS.contains(&path));
    if reads { Role::Read } else { Role::Operate }
}

/// Refuses a body that does not call itself JSON: browsers send other kinds across origins without
/// asking first.
fn check_body(request: &Request) -> Result<(), Problem> {
    if request.body().is_end_stream() {
        return Ok(());
    }
    let kind =
        only(request.headers(), &header::CONTENT_TYPE).map_or(&[][..], HeaderValue::as_bytes);
    let kind = kind.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
    if kind.eq_ignore_ascii_case(b"application/json") { Ok(()) } else { Err(Problem::NotJson) }
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
