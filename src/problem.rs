//! A refusal as an answer: problem document (RFC 9457), `Proxy-Status` (RFC 9209) and reason field.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use http_body_util::Full;
use serde::Serialize;

use crate::reason::{Cause, Refusal};

/// Where the reference page of the codes is published; `#CODE` is appended.
const TYPE_BASE: &str = "https://webriskops.com/docs/egress-gateway/reasons#";

/// The name under which this gateway speaks in `Proxy-Status`.
const PROXY_NAME: &str = "egress-gateway";

/// The field that carries the public code.
pub const REASON_FIELD: HeaderName = HeaderName::from_static("x-webriskops-reason");

/// The field of RFC 9209.
const PROXY_STATUS: HeaderName = HeaderName::from_static("proxy-status");

/// The body of a refusal (contract, section 7). Field names are part of the contract.
#[derive(Debug, Serialize)]
struct Document<'a> {
    r#type: String,
    title: &'static str,
    status: u16,
    code: &'static str,
    cause: &'static str,
    detail: &'a str,
    target_id: Option<&'a str>,
    decision_id: &'a str,
    owner: &'static str,
    next_step: String,
    retryable: bool,
    retry_after_seconds: Option<u64>,
    fallback: &'static [&'static str],
    connectivity_check_id: Option<&'a str>,
}

/// An answer that refuses, ready to be sent in either version of HTTP.
#[derive(Clone, Debug)]
pub struct Problem {
    status: StatusCode,
    code: &'static str,
    headers: HeaderMap,
    body: Bytes,
}

impl Problem {
    /// Renders a refusal; `egress` is the address that a next step tells people to allowlist.
    pub fn new(refusal: &Refusal, decision_id: &str, egress: &str) -> Self {
        let code = refusal.code();
        let retry_after = refusal.retry_after.map(|wait| wait.as_secs().max(1));
        let document = Document {
            r#type: format!("{TYPE_BASE}{}", code.as_str()),
            title: code.title(),
            status: refusal.status(),
            code: code.as_str(),
            cause: refusal.cause.as_str(),
            detail: &refusal.detail,
            target_id: refusal.about.as_ref().map(|about| &*about.target_id),
            decision_id,
            owner: refusal.owner().as_str(),
            next_step: refusal.next_step(egress),
            retryable: refusal.cause.retryable(),
            retry_after_seconds: retry_after,
            fallback: refusal.fallback(),
            connectivity_check_id: refusal.check_id.as_deref(),
        };
        let body = serde_json::to_vec(&document).unwrap_or_default().into();
        let headers = headers(refusal.cause, code.as_str(), retry_after);
        let status = StatusCode::from_u16(refusal.status()).unwrap_or(StatusCode::FORBIDDEN);
        Self { status, code: code.as_str(), headers, body }
    }

    /// As a message of hyper.
    pub fn into_response(self) -> Response<Full<Bytes>> {
        let mut response = Response::new(Full::new(self.body));
        *response.status_mut() = self.status;
        *response.headers_mut() = self.headers;
        response
    }

    /// As the bytes of an HTTP/1.1 message after which the connection is closed. The code stands in
    /// the reason phrase, where a person with `curl -v` sees it first.
    pub fn to_http1(&self) -> Vec<u8> {
        let mut message =
            format!("HTTP/1.1 {} {}\r\n", self.status.as_str(), self.code).into_bytes();
        for (name, value) in &self.headers {
            message.extend_from_slice(name.as_str().as_bytes());
            message.extend_from_slice(b": ");
            message.extend_from_slice(value.as_bytes());
            message.extend_from_slice(b"\r\n");
        }
        let length = self.body.len();
        let end = format!("content-length: {length}\r\nconnection: close\r\n\r\n");
        message.extend_from_slice(end.as_bytes());
        message.extend_from_slice(&self.body);
        message
    }
}

fn headers(cause: Cause, code: &'static str, retry_after: Option<u64>) -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(6);
    let json = HeaderValue::from_static("application/problem+json");
    headers.insert(header::CONTENT_TYPE, json);
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(REASON_FIELD, HeaderValue::from_static(code));
    let status = proxy_status(cause);
    if let Ok(value) = HeaderValue::from_str(&status) {
        headers.insert(PROXY_STATUS, value);
    }
    if let Some(seconds) = retry_after {
        headers.insert(header::RETRY_AFTER, seconds.into());
    }
    if cause == Cause::ClientUnauthenticated {
        let basic = HeaderValue::from_static("Basic realm=\"egress-gateway\", charset=\"UTF-8\"");
        headers.append(header::PROXY_AUTHENTICATE, basic);
        let bearer = HeaderValue::from_static("Bearer realm=\"egress-gateway\"");
        headers.append(header::PROXY_AUTHENTICATE, bearer);
    }
    headers
}

/// `egress-gateway; error=…; details="…"`, with the DNS response code where there is one (RFC 9209,
/// section 2.3.2).
fn proxy_status(cause: Cause) -> String {
    let (error, word) = (cause.proxy_error(), cause.as_str());
    let rcode = match word {
        "dns_nxdomain" => "; rcode=\"NXDOMAIN\"",
        "dns_servfail" => "; rcode=\"SERVFAIL\"",
        "dns_refused" => "; rcode=\"REFUSED\"",
        _ => "",
    };
    format!("{PROXY_NAME}; error={error}{rcode}; details=\"{word}\"")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reason::{About, DeploymentMode};

    #[test]
    fn a_refusal_is_a_problem_document_with_every_field_of_the_contract() {
        let about = About {
            target_id: "acme-jira".into(),
            mode: DeploymentMode::SelfHosted,
            allowlist_lacks_egress: false,
        };
        let refusal =
            Refusal::new(Cause::DnsNxdomain, "jira.acme.example does not exist").about(about);
        let problem = Problem::new(&refusal, "01JTEST", "203.0.113.10");
        let message = String::from_utf8(problem.to_http1()).unwrap();
        assert!(message.starts_with("HTTP/1.1 502 SELF_HOSTED_DNS_FAILED\r\n"), "{message}");
        assert!(message.contains("\r\nx-webriskops-reason: SELF_HOSTED_DNS_FAILED\r\n"));
        assert!(message.contains(
            "\r\nproxy-status: egress-gateway; error=dns_error; rcode=\"NXDOMAIN\"; details=\"dns_nxdomain\"\r\n"
        ));
        let body: serde_json::Value = serde_json::from_slice(&problem.body).unwrap();
        let keys: Vec<_> = body.as_object().unwrap().keys().map(String::as_str).collect();
        let mut expected = vec![
            "type",
            "title",
            "status",
            "code",
            "cause",
            "detail",
            "target_id",
            "decision_id",
            "owner",
            "next_step",
            "retryable",
            "retry_after_seconds",
            "fallback",
            "connectivity_check_id",
        ];
        expected.sort_unstable();
        assert_eq!(keys, expected);
        assert_eq!(body["target_id"], "acme-jira");
        assert_eq!(body["fallback"], serde_json::json!(["portable_export", "ticket_only"]));
    }

    #[test]
    fn a_407_carries_a_challenge_for_each_scheme() {
        let problem = Problem::new(&Refusal::new(Cause::ClientUnauthenticated, ""), "01J", "");
        let response = problem.into_response();
        assert_eq!(response.status(), 407);
        assert_eq!(response.headers().get_all(header::PROXY_AUTHENTICATE).iter().count(), 2);
    }

    #[test]
    fn a_limit_says_when_to_come_back() {
        let problem = Problem::new(&Refusal::new(Cause::ConnectionLimit, ""), "01J", "");
        assert!(problem.into_response().headers().contains_key(header::RETRY_AFTER));
    }
}
