//! The one request of a check: without credentials, and never one that changes anything.

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Method, Request, StatusCode, Uri,
    header::{ACCEPT, USER_AGENT},
};
use http_body_util::BodyExt as _;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::{Instant, timeout, timeout_at},
};
use tokio_util::task::TaskTracker;

use crate::{
    egress::{Pinned, Ready},
    forward::{
        body::{AnswerBody, Progress, RequestBody},
        interim::Interims,
        upstream::{Errand, Upstreams},
    },
    path,
    reason::{Cause, DeploymentMode, Refusal},
    target::{Target, provider::AllowlistRefusal},
    tls::{ClientCertificate, TlsError},
    view::View,
};

/// Some providers answer 403 without one.
const AGENT: &str = concat!("egress-gateway/", env!("CARGO_PKG_VERSION"), " connectivity-check");

/// How much of an answer is read, in bytes, to find out what it is.
const BODY_BYTES_MAX: usize = 16 * 1024;

/// How long the end of a connection is waited for.
const CLOSING_TIMEOUT: Duration = Duration::from_secs(1);

/// A request of the catalogue's, or `HEAD` of the base URL.
#[derive(Debug)]
pub(super) struct Probe {
    method: Method,
    pub(super) path: String,
}

/// What came back.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    /// Where it refuses the egress address, how it says so.
    pub(super) refusal: Option<String>,
}

impl Probe {
    /// The probe of a target; none for webhook receivers, as a hook may fire on any request.
    pub(super) fn of(target: &Target) -> Option<Self> {
        if target.mode == DeploymentMode::WebhookOnly {
            return None;
        }
        let base = target.base.path();
        Some(match &target.provider.probe {
            Some(probe) => Self {
                // The catalogue knows no other; a test sees to it.
                method: if &*probe.method == "GET" { Method::GET } else { Method::HEAD },
                path: path::join(base, &probe.path),
            },
            None => Self { method: Method::HEAD, path: base.to_owned() },
        })
    }

    /// Sends it, and reads as much of the answer as tells what it is.
    pub(super) async fn send(
        &self,
        view: &View,
        target: &Target,
        pinned: &Pinned,
        connection: (SocketAddr, Ready),
    ) -> Result<Answer, Refusal> {
        let limit = view.limits.response_timeout;
        let interims = Interims::default();
        let errand = Errand {
            egress: &view.egress,
            target,
            pinned,
            interims: &interims,
            upgrades: false,
            response_timeout: limit,
        };
        let tasks = TaskTracker::new();
        let address = connection.0;
        let answer = self.ask(&Upstreams::new(tasks.clone()), &errand, connection).await;
        tasks.close();
        if timeout(CLOSING_TIMEOUT, tasks.wait()).await.is_err() {
            tracing::debug!(%address, "a check's connection is slow to close");
        }
        answer
    }

    async fn ask(
        &self,
        upstreams: &Upstreams,
        errand: &Errand<'_>,
        connection: (SocketAddr, Ready),
    ) -> Result<Answer, Refusal> {
        let address = connection.0;
        let limit = errand.response_timeout;
        let deadline = Instant::now().checked_add(limit).unwrap_or_else(Instant::now);
        let progress = Progress::new();
        let mut request = self.request(&progress)?;
        errand.interims.gather(&mut request);
        let sent = upstreams.send_over(connection, errand, request, &progress);
        let answered = timeout_at(deadline, sent).await.unwrap_or_else(|_| {
            let detail = format!("{address} gave no answer within {limit:?}");
            Err(Refusal::new(Cause::ResponseTimeout, detail))
        })?;
        let (head, body) = answered.response.into_parts();
        let status = head.status;
        let rows = || errand.target.provider.refusals();
        let body = if rows().any(|row| row.reads_body(status)) {
            beginning(body, deadline).await
        } else {
            Vec::new()
        };
        let refusal = refusal(rows(), status, &head.headers, &body);
        Ok(Answer { status, refusal: refusal.map(|how| format!("{address} answered {how}")) })
    }

    fn request(
        &self,
        progress: &std::sync::Arc<Progress>,
    ) -> Result<Request<RequestBody>, Refusal> {
        let uri: Uri = self.path.parse().map_err(|_| {
            let detail = "the base URL's path cannot be sent as it is";
            Refusal::new(Cause::RequestTargetInvalid, detail)
        })?;
        let mut request = Request::new(RequestBody::whole(Bytes::new(), progress));
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = uri;
        let headers = request.headers_mut();
        headers.insert(USER_AGENT, HeaderValue::from_static(AGENT));
        headers.insert(ACCEPT, HeaderValue::from_static("*/*"));
        Ok(request)
    }
}

/// How an answer shows that the far side refuses the address it came from. A 403 to a request that
/// asks for nothing in particular does, whoever says it.
fn refusal<'a>(
    mut rows: impl Iterator<Item = &'a AllowlistRefusal>,
    status: StatusCode,
    headers: &HeaderMap,
    body: &[u8],
) -> Option<String> {
    let code = status.as_u16();
    match rows.find(|row| row.is(status, headers, body)) {
        Some(row) => Some(format!("{code}: {}", row.meaning)),
        None if status == StatusCode::FORBIDDEN => {
            Some(format!("{code} to a request without credentials, in no words that are known"))
        }
        None => None,
    }
}

/// The beginning of a body, as far as it comes in time.
async fn beginning(mut body: AnswerBody, deadline: Instant) -> Vec<u8> {
    let mut read = Vec::new();
    while read.len() < BODY_BYTES_MAX {
        let Ok(Some(Ok(frame))) = timeout_at(deadline, body.frame()).await else { break };
        if let Ok(data) = frame.into_data() {
            let room = BODY_BYTES_MAX.saturating_sub(read.len());
            read.extend_from_slice(data.get(..room).unwrap_or(&data));
        }
    }
    read
}

/// Takes leave of a target to which nothing is said. Where it asked for a client certificate, waits
/// for what it thinks of it: in TLS 1.3 that comes when the client believes itself ready.
pub(super) async fn leave(
    address: SocketAddr,
    ready: Ready,
    patience: Duration,
) -> Result<(), Refusal> {
    let Ready { mut stream, facts } = ready;
    let Some(facts) = facts else { return Ok(()) };
    let asked = facts.client_certificate;
    if asked != ClientCertificate::NotAsked
        && let Ok(Err(error)) = timeout(patience, stream.read_u8()).await
        && let Some(fault) = TlsError::after_handshake(&error, &facts).or_else(|| {
            // Where the target resets the connection, its alert may be lost.
            let missing = asked == ClientCertificate::Missing;
            missing.then_some(TlsError::ClientCertificate { given: false })
        })
    {
        return Err(Refusal::new(Cause::from(&fault), format!("{address}: {fault}")));
    }
    if !matches!(timeout(CLOSING_TIMEOUT, stream.shutdown()).await, Ok(Ok(()))) {
        tracing::debug!(%address, "a check's connection did not close cleanly");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target::provider::Catalogue;

    fn said(
        key: &str,
        status: u16,
        headers: &[(&'static str, &'static str)],
        body: &str,
    ) -> Option<String> {
        let providers = Catalogue::embedded().providers();
        let provider = providers.iter().find(|provider| &*provider.key == key).unwrap();
        let headers = headers
            .iter()
            .map(|(name, value)| ((*name).try_into().unwrap(), HeaderValue::from_static(value)))
            .collect();
        let status = StatusCode::from_u16(status).unwrap();
        refusal(provider.refusals(), status, &headers, body.as_bytes())
    }

    type Fields = &'static [(&'static str, &'static str)];

    #[test]
    fn the_answers_by_which_providers_refuse_an_address_are_known() {
        let github = "{\"errors\":[{\"message\":\"Although you appear to have the correct \
                      authorization credentials, the `acme` organization has an IP allow list \
                      enabled, and your IP address is not permitted to access this resource.\"}]}";
        let atlassian = "The IP address has been rejected because it is not on the allowed list. \
                         Please contact your administrator for assistance.";
        let rows: &[(&str, u16, Fields, &str, &str)] = &[
            ("github_issues", 200, &[], github, "GitHub IP allow list"),
            ("github_enterprise_issues", 403, &[], github, "GitHub IP allow list"),
            ("jira_cloud", 403, &[], atlassian, "Atlassian IP allowlist"),
            ("azure_devops", 401, &[], "VS403463: The conditional access policy", "VS403463"),
            ("gitlab_self_managed_issues", 403, &[], "error code: 1020", "Cloudflare 1020"),
            ("jira_data_center", 403, &[("server", "awselb/2.0")], "", "AWS WAF"),
            ("jira_data_center", 403, &[("x-ms-forbidden-ip", "203.0.113.10")], "", "Azure"),
            ("jira_data_center", 403, &[], "Forbidden", "in no words that are known"),
        ];
        for (key, status, headers, body, meaning) in rows {
            let said = said(key, *status, headers, body);
            assert!(said.as_ref().is_some_and(|said| said.contains(meaning)), "{key}: {said:?}");
        }
    }

    #[test]
    fn any_other_answer_is_none() {
        for (key, status, body) in [
            (
                "jira_data_center",
                200,
                "has an IP allow list enabled, and your IP address is not permitted",
            ),
            ("github_issues", 200, "{}"),
            ("azure_devops", 401, "TF400813: not authorized"),
            ("jira_cloud", 401, ""),
            ("jira_cloud", 404, "Forbidden"),
            ("jira_cloud", 500, "error code: 1020"),
        ] {
            assert_eq!(
                said(key, status, &[("server", "awselb/2.0")], body),
                None,
                "{key} {status}"
            );
        }
    }

    #[test]
    fn every_probe_of_the_catalogue_is_one_that_changes_nothing() {
        for provider in Catalogue::embedded().providers() {
            let webhook = provider.has_mode(DeploymentMode::WebhookOnly);
            assert_eq!(provider.probe.is_none(), webhook, "{}", provider.key);
            if let Some(probe) = &provider.probe {
                assert!(["GET", "HEAD"].contains(&&*probe.method), "{}", provider.key);
                assert!(probe.path.starts_with('/'), "{}", provider.key);
            }
        }
    }
}
