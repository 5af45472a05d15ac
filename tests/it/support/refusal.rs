//! What every refusal has in common, in one place (contract, sections 7 and 12).

use super::{
    gateway::{Event, Gateway},
    http::Reply,
};
use serde_json::Value;

/// The fields of a problem, each always present.
const PROBLEM_FIELDS: [&str; 14] = [
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

/// What a refusal's head may hold, and nothing else.
const HEAD_FIELDS: [&str; 11] = [
    "content-type",
    "content-length",
    "proxy-status",
    "x-webriskops-reason",
    "date",
    "connection",
    "retry-after",
    "proxy-authenticate",
    "cache-control",
    "proxy-connection",
    "x-content-type-options",
];

/// The error types of RFC 9209, section 2.3.
const PROXY_ERRORS: [&str; 32] = [
    "dns_timeout",
    "dns_error",
    "destination_not_found",
    "destination_unavailable",
    "destination_ip_prohibited",
    "destination_ip_unroutable",
    "connection_refused",
    "connection_terminated",
    "connection_timeout",
    "connection_read_timeout",
    "connection_write_timeout",
    "connection_limit_reached",
    "tls_protocol_error",
    "tls_certificate_error",
    "tls_alert_received",
    "http_request_error",
    "http_request_denied",
    "http_response_incomplete",
    "http_response_header_section_size",
    "http_response_header_size",
    "http_response_body_size",
    "http_response_trailer_section_size",
    "http_response_trailer_size",
    "http_response_transfer_coding",
    "http_response_content_coding",
    "http_response_timeout",
    "http_upgrade_failed",
    "http_protocol_error",
    "proxy_internal_response",
    "proxy_internal_error",
    "proxy_configuration_error",
    "proxy_loop_detected",
];

/// Asserts that `reply` is a refusal with this status, code and cause, complete in header and
/// body, and that exactly one canonical event tells the same. An empty cause is not compared.
pub(crate) async fn assert_refused(
    gateway: &Gateway,
    reply: &Reply,
    (status, code, cause): (u16, &str, &str),
) -> Event {
    let problem = assert_problem(reply);
    assert_eq!(
        (reply.status, problem["code"].as_str().unwrap()),
        (status, code),
        "expected cause {cause}: {problem:#}"
    );
    if !cause.is_empty() {
        assert_eq!(problem["cause"], cause, "{problem:#}");
    }
    let decision_id = problem["decision_id"].as_str().unwrap();
    let of_this = |event: &Event| event.is_canonical() && event.text("decision_id") == decision_id;
    let event = gateway.wait_event(&format!("canonical, decision {decision_id}"), of_this).await;
    assert_eq!(event.text("decision"), "refused", "{event:?}");
    assert_eq!(event.text("code"), code, "{event:?}");
    assert_eq!(Value::from(event.text("cause")), problem["cause"], "{event:?}");
    assert_eq!(gateway.events().iter().filter(|event| of_this(event)).count(), 1, "{event:?}");
    event
}

/// Asserts that `reply` is a complete problem, and gives it.
pub(crate) fn assert_problem(reply: &Reply) -> Value {
    assert_eq!(reply.field("content-type"), Some("application/problem+json"), "{reply:?}");
    let problem = reply.json();
    for field in PROBLEM_FIELDS {
        assert!(problem.get(field).is_some(), "no {field} in {problem:#}");
    }
    assert_eq!(problem["status"], reply.status, "{problem:#}");
    let code = problem["code"].as_str().unwrap();
    assert_eq!(reply.field("x-webriskops-reason"), Some(code), "{reply:?}");
    let kind = problem["type"].as_str().unwrap();
    assert!(kind.starts_with("https://") && kind.ends_with(&format!("#{code}")), "{kind}");
    for field in ["title", "cause", "detail", "decision_id", "owner", "next_step"] {
        assert!(problem[field].as_str().is_some_and(|text| !text.is_empty()), "{field}: {problem}");
    }
    assert!(problem["retryable"].is_boolean(), "{problem:#}");
    let retry_after = reply.field("retry-after").and_then(|text| text.parse::<u64>().ok());
    assert_eq!(problem["retry_after_seconds"].as_u64(), retry_after, "{reply:?}");
    assert!(problem["fallback"].is_array(), "{problem:#}");

    let status = reply.field("proxy-status").unwrap_or_else(|| panic!("{reply:?}"));
    let error = status.strip_prefix("egress-gateway; error=").unwrap_or_else(|| panic!("{status}"));
    let error = error.split(';').next().unwrap();
    assert!(PROXY_ERRORS.contains(&error), "RFC 9209 knows no error {error}");
    for (name, _) in &reply.fields {
        assert!(HEAD_FIELDS.contains(&name.as_str()), "unexpected field {name}: {reply:?}");
    }
    problem
}
