//! Webhook deliveries in the relay: idempotency, records, and receivers that keep failing.
//!
//! A [`Delivery`] goes along with each relayed request of a signed target: it is told what the
//! request turned out to be, whether it may go out, and how it ended. However that is, one attempt
//! is recorded, also when nobody is there any more to hear of it.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, header::RETRY_AFTER};
use http_body_util::Full;
use sha2::{Digest as _, Sha256};
use tokio::time::Instant;

use super::Gateway;
use crate::{
    deliveries::{Busy, Marker, Went, now_ms},
    forward::{ahead::Ahead, body::ResponseBody},
    problem::REASON_FIELD,
    reason::{Cause, Code, Failure, Refusal},
    record::Record,
    store::deliveries::{Attempt, KnownKey, WebhookStatus},
    target::Target,
    webhook::{
        breaker::{Ticket, Trouble, Wait},
        envelope::Envelope,
        hex, retry_after,
    },
};

/// The id of the delivery, on every answer of a receiver.
static DELIVERY_ID: HeaderName = HeaderName::from_static("x-webriskops-delivery-id");

/// Says that an answer comes out of the record.
static REPLAYED: HeaderName = HeaderName::from_static("x-webriskops-replayed");

/// How much of an answer is searched for what the receiver thinks of the signature.
const LOOK_BYTES_MAX: usize = 64 * 1024;

/// How long that may take.
const LOOK_TIMEOUT: Duration = Duration::from_secs(5);

/// Longest method that is recorded whole, in bytes: those of the registry are shorter.
const METHOD_BYTES_MAX: usize = 32;

/// What a delivery says of itself, once its body has been read and signed.
#[derive(Debug)]
pub(super) struct Facts {
    event: String,
    key: String,
    payload_hash: String,
    url_hash: String,
    /// Of method, URL and body: what an idempotency key stands for.
    fingerprint: String,
}

impl Facts {
    pub(super) fn new(
        envelope: &Envelope,
        method: &Method,
        url: &str,
        payload_hash: [u8; 32],
    ) -> Self {
        let url_hash = Sha256::digest(url);
        let mut digest = Sha256::new();
        // The method alone has no fixed length, and no NUL.
        digest.update(method.as_str());
        digest.update([0]);
        digest.update(url_hash);
        digest.update(payload_hash);
        Self {
            event: envelope.event().to_owned(),
            key: envelope.idempotency_key().to_owned(),
            payload_hash: hex(&payload_hash),
            url_hash: hex(&url_hash),
            fingerprint: hex(&digest.finalize()),
        }
    }
}

/// A delivery that was made before.
#[derive(Debug)]
pub(super) struct Replay {
    status: StatusCode,
    delivery_id: String,
}

impl Replay {
    pub(super) const fn status(&self) -> StatusCode {
        self.status
    }

    pub(super) fn into_response(self) -> Response<ResponseBody> {
        let mut response = Response::new(ResponseBody::own(Full::default()));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(&REPLAYED, HeaderValue::from_static("true"));
        set_id(headers, &self.delivery_id);
        response
    }
}

/// One attempt, from the moment its target is known.
#[derive(Debug)]
pub(super) struct Delivery<'a> {
    gateway: &'a Gateway,
    target: &'a Target,
    attempt: Attempt,
    started: Instant,
    /// What the key stands for, where there is idempotency.
    fingerprint: Option<String>,
    marker: Option<Marker>,
    ticket: Option<Ticket>,
    /// Whether the receiver may have seen the request.
    seen: bool,
    /// Whether the end has been told.
    over: bool,
}

/// How an attempt ended.
struct End {
    status: WebhookStatus,
    code: Option<Code>,
    cause: Option<&'static str>,
    went: Went,
}

impl<'a> Delivery<'a> {
    /// Begins an attempt, where the target's requests are deliveries.
    pub(super) fn begin(
        gateway: &'a Gateway,
        target: &'a Target,
        method: &Method,
        record: &Record,
    ) -> Option<Self> {
        if !target.is_signed() {
            return None;
        }
        let attempt = Attempt {
            webhook_attempt_id: record.decision_id().to_owned(),
            delivery_id: ulid::Ulid::new().to_string(),
            target_id: target.id.as_str().to_owned(),
            event_type: None,
            webhook_status: WebhookStatus::Failed,
            idempotency_key: None,
            payload_hash: None,
            method: method.as_str().chars().take(METHOD_BYTES_MAX).collect(),
            url_hash: None,
            receiver_status_code: None,
            code: None,
            cause: None,
            duration_ms: 0,
            last_attempt_at: 0,
            retry_after_seconds: None,
        };
        Some(Self {
            gateway,
            target,
            attempt,
            started: Instant::now(),
            fingerprint: None,
            marker: None,
            ticket: None,
            seen: false,
            over: false,
        })
    }

    /// May it be sent? Not when it was delivered before, is under way, or its key stands for
    /// something else, and not while the receiver is left alone.
    ///
    /// # Errors
    /// `idempotency_conflict`, `delivery_in_flight`, `receiver_backing_off`.
    pub(super) async fn admit(
        &mut self,
        method: &Method,
        facts: Facts,
    ) -> Result<Option<Replay>, Refusal> {
        let idempotent = [Method::POST, Method::PUT, Method::PATCH].contains(method);
        self.attempt.event_type = Some(facts.event);
        self.attempt.payload_hash = Some(facts.payload_hash);
        self.attempt.url_hash = Some(facts.url_hash);
        self.attempt.idempotency_key = Some(facts.key.clone());
        if idempotent && let Some(replay) = self.by_key(facts.key, facts.fingerprint).await? {
            self.over = true;
            return Ok(Some(replay));
        }
        let deliveries = &self.gateway.deliveries;
        let ticket = deliveries.admit(self.target, Instant::now()).map_err(backing_off)?;
        self.ticket = Some(ticket);
        Ok(None)
    }

    async fn by_key(
        &mut self,
        key: String,
        fingerprint: String,
    ) -> Result<Option<Replay>, Refusal> {
        let deliveries = &self.gateway.deliveries;
        let id = &self.target.id;
        // Marked before the store is asked: between the two another one could have ended.
        let marker = deliveries.begin(id, &key, &fingerprint).map_err(|busy| match busy {
            Busy { same: true } => {
                let detail = "a delivery with this idempotency key is under way";
                Refusal::new(Cause::DeliveryInFlight, detail)
            }
            Busy { same: false } => conflict(),
        })?;
        if let Some(known) = deliveries.known(id, &key, now_ms()).await {
            if known.fingerprint != fingerprint {
                return Err(conflict());
            }
            self.attempt.delivery_id.clone_from(&known.delivery_id);
            if let Some(status) = known.receiver_status {
                let status = StatusCode::from_u16(status).unwrap_or(StatusCode::OK);
                return Ok(Some(Replay { status, delivery_id: known.delivery_id }));
            }
        }
        self.fingerprint = Some(fingerprint);
        self.marker = Some(marker);
        Ok(None)
    }

    /// It is about to be sent.
    pub(super) const fn sending(&mut self) {
        self.seen = true;
    }

    /// The receiver answered. Whether the answer may be passed on is not decided yet.
    pub(super) fn answered(&mut self, status: StatusCode, headers: &HeaderMap) {
        self.attempt.receiver_status_code = Some(status.as_u16());
        let text = headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok());
        self.attempt.retry_after_seconds = text
            .filter(|_| !status.is_success())
            .and_then(|text| retry_after(text, jiff::Timestamp::now()));
    }

    /// The answer is passed on. Gives the fields that it gets.
    pub(super) async fn passed(mut self, status: StatusCode, body: &mut Ahead) -> HeaderMap {
        let mut fields = HeaderMap::new();
        set_id(&mut fields, &self.attempt.delivery_id);
        if status.is_success() || status == StatusCode::SWITCHING_PROTOCOLS {
            self.conclude(&End {
                status: WebhookStatus::Delivered,
                code: None,
                cause: None,
                went: Went::Well,
            });
            let known = self.known(Some(status).filter(StatusCode::is_success));
            let (attempt, marker) = (self.attempt.clone(), self.marker.take());
            self.gateway.deliveries.note_delivered(attempt, known, marker).await;
            return fields;
        }
        let code = if signature_refused(status, body).await {
            Code::WebhookSignatureInvalid
        } else {
            Code::WebhookDeliveryFailed
        };
        fields.insert(REASON_FIELD, HeaderValue::from_static(code.as_str()));
        self.note(&End {
            status: WebhookStatus::Failed,
            code: Some(code),
            cause: Some("receiver_status"),
            went: went(status),
        });
        fields
    }

    /// It was refused, by the gateway or by what lies between it and the receiver.
    pub(super) fn refused(mut self, refusal: &mut Refusal) {
        let failure = refusal.failure();
        let answered = self.attempt.receiver_status_code.and_then(|code| {
            let status = StatusCode::from_u16(code).ok()?;
            Some(went(status))
        });
        self.seen &= refusal.was_sent() || may_have_been_seen(failure);
        if let Some(wait) = refusal.retry_after {
            // Said by whoever refused.
            let _seconds = self.attempt.retry_after_seconds.get_or_insert(wait.as_secs());
        }
        // What a check found was not found by sending.
        let checked = refusal.check_id.is_some();
        let back_off = self.note(&End {
            status: if checked { WebhookStatus::Blocked } else { status_of(failure) },
            code: Some(refusal.code()),
            cause: Some(refusal.cause.as_str()),
            went: answered
                .unwrap_or_else(|| if checked { Went::Unknown } else { went_by(failure) }),
        });
        if back_off.is_some() {
            refusal.retry_after = back_off;
        }
    }

    /// Ends the attempt and has it recorded soon. How long the receiver is now left alone.
    fn note(&mut self, end: &End) -> Option<Duration> {
        let back_off = self.conclude(end);
        let known = self.seen.then(|| self.known(None)).flatten();
        self.gateway.deliveries.note(self.attempt.clone(), known);
        self.marker = None;
        back_off
    }

    fn conclude(&mut self, end: &End) -> Option<Duration> {
        self.over = true;
        let now = Instant::now();
        let deliveries = &self.gateway.deliveries;
        let back_off = self
            .ticket
            .take()
            .and_then(|ticket| deliveries.settle(self.target, ticket, now, end.went));
        let attempt = &mut self.attempt;
        attempt.webhook_status = end.status;
        attempt.code = end.code.map(|code| code.as_str().to_owned());
        attempt.cause = end.cause.map(ToOwned::to_owned);
        let took = now.saturating_duration_since(self.started).as_millis();
        attempt.duration_ms = u64::try_from(took).unwrap_or(u64::MAX);
        attempt.last_attempt_at = now_ms();
        let own = back_off.map(|wait| wait.as_secs().max(1));
        attempt.retry_after_seconds = attempt.retry_after_seconds.or(own);
        let code = end.code.map_or("", Code::as_str);
        self.gateway.metrics.webhook_deliveries.with_label_values(&[code]).inc();
        back_off
    }

    /// What the key stands for from now on.
    fn known(&self, delivered: Option<StatusCode>) -> Option<KnownKey> {
        Some(KnownKey {
            delivery_id: self.attempt.delivery_id.clone(),
            fingerprint: self.fingerprint.clone()?,
            receiver_status: delivered.map(|status| status.as_u16()),
        })
    }
}

impl Drop for Delivery<'_> {
    /// The client went away: what became of its delivery is not known.
    fn drop(&mut self) {
        if !self.over {
            self.note(&End {
                status: WebhookStatus::Failed,
                code: Some(Code::WebhookDeliveryFailed),
                cause: Some("client_gone"),
                went: Went::Unknown,
            });
        }
    }
}

fn set_id(headers: &mut HeaderMap, id: &str) {
    if let Ok(id) = HeaderValue::from_str(id) {
        headers.insert(&DELIVERY_ID, id);
    }
}

fn conflict() -> Refusal {
    let detail = "the idempotency key stands for another method, URL or body";
    Refusal::new(Cause::IdempotencyConflict, detail)
}

fn backing_off(refused: Wait) -> Refusal {
    // Rounded up, so that who comes back then is not too early.
    let wait = Duration::from_secs(refused.wait.as_secs().saturating_add(1));
    let what = match refused.last {
        Trouble::Down => "failed",
        Trouble::Silent => "gave no answer in time",
    };
    let detail = format!(
        "the receiver {what} several times in a row; it is tried again in {} s",
        wait.as_secs()
    );
    let refusal = Refusal::new(Cause::ReceiverBackingOff, detail).retry_after(wait);
    match refused.last {
        Trouble::Down => refusal,
        Trouble::Silent => refusal.of_silence(),
    }
}

/// Whether the receiver says that the signature does not verify.
async fn signature_refused(status: StatusCode, body: &mut Ahead) -> bool {
    if [StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN].contains(&status) {
        return true;
    }
    if !status.is_client_error() {
        return false;
    }
    let word = Code::WebhookSignatureInvalid.as_str().as_bytes();
    let seen = body.look(LOOK_BYTES_MAX, LOOK_TIMEOUT).await;
    seen.windows(word.len()).any(|window| window == word)
}

/// A receiver that answers anything but 5xx is there.
fn went(status: StatusCode) -> Went {
    if status.is_server_error() { Went::Badly(Trouble::Down) } else { Went::Well }
}

/// What a refusal says of the receiver.
const fn went_by(failure: Failure) -> Went {
    match failure {
        Failure::ConnectBlocked
        | Failure::ConnectRefused
        | Failure::ClosedEarly
        | Failure::AnswerInvalid
        | Failure::TunnelDown => Went::Badly(Trouble::Down),
        Failure::NoAnswer => Went::Badly(Trouble::Silent),
        // Its name, its certificate, or not its doing: these are said as they are each time.
        Failure::NameUnresolved
        | Failure::TlsInvalid
        | Failure::FamilyUnavailable
        | Failure::NotApproved
        | Failure::ForbiddenAddress
        | Failure::PrivateAddress
        | Failure::RedirectBlocked
        | Failure::BodyTooLarge
        | Failure::TargetUnknown
        | Failure::AllowlistRefused
        | Failure::CheckUnfinished
        | Failure::ReceiverDown
        | Failure::ReceiverSilent
        | Failure::IdempotencyConflict
        | Failure::DeliveryInFlight
        | Failure::SecretMissing
        | Failure::ProviderAuth
        | Failure::Unauthenticated
        | Failure::ClientForbidden
        | Failure::RequestInvalid
        | Failure::HeadTooLarge
        | Failure::HeadTimeout
        | Failure::Overloaded
        | Failure::Draining => Went::Unknown,
    }
}

/// Whether a request that ended so may have been read by the receiver.
const fn may_have_been_seen(failure: Failure) -> bool {
    matches!(
        failure,
        Failure::AnswerInvalid
            | Failure::NoAnswer
            | Failure::RedirectBlocked
            | Failure::RequestInvalid
    )
}

/// Whether it was the way that failed, or the gateway that refused.
const fn status_of(failure: Failure) -> WebhookStatus {
    match failure {
        Failure::NameUnresolved
        | Failure::ConnectBlocked
        | Failure::ConnectRefused
        | Failure::FamilyUnavailable
        | Failure::ClosedEarly
        | Failure::AnswerInvalid
        | Failure::NoAnswer
        | Failure::TlsInvalid
        | Failure::TunnelDown => WebhookStatus::Failed,
        Failure::NotApproved
        | Failure::ForbiddenAddress
        | Failure::PrivateAddress
        | Failure::RedirectBlocked
        | Failure::BodyTooLarge
        | Failure::TargetUnknown
        | Failure::AllowlistRefused
        | Failure::CheckUnfinished
        | Failure::ReceiverDown
        | Failure::ReceiverSilent
        | Failure::IdempotencyConflict
        | Failure::DeliveryInFlight
        | Failure::SecretMissing
        | Failure::ProviderAuth
        | Failure::Unauthenticated
        | Failure::ClientForbidden
        | Failure::RequestInvalid
        | Failure::HeadTooLarge
        | Failure::HeadTimeout
        | Failure::Overloaded
        | Failure::Draining => WebhookStatus::Blocked,
    }
}
