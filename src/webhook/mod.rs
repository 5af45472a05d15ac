//! Webhook deliveries: what a delivery is called, how it is signed, and how a receiver verifies it.
//!
//! [`envelope::Envelope`] gathers what the header fields of a delivery say (contract, section 9),
//! [`signature::sign`] turns it into those fields, and [`verify::verify`] is the receiver's side.
//! All three are pure: the time and the random bits are arguments.

mod body;
pub mod breaker;
pub mod envelope;
mod retry;
pub mod signature;
pub mod verify;

#[cfg(test)]
mod tests;

use http::HeaderName;

pub(crate) use envelope::hex;
pub use retry::retry_after;

/// What happened: `ticket_export.requested`.
pub static EVENT: HeaderName = HeaderName::from_static("x-webriskops-event");
/// The shape of the body: `ticket-export.webhook.v1`.
pub static SCHEMA: HeaderName = HeaderName::from_static("x-webriskops-schema");
/// The same for every attempt at one delivery.
pub static IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("x-webriskops-idempotency-key");
/// When the delivery was made, in Unix seconds.
pub static TIMESTAMP: HeaderName = HeaderName::from_static("x-webriskops-timestamp");
/// Makes the signed text of this delivery unlike any other.
pub static NONCE: HeaderName = HeaderName::from_static("x-webriskops-nonce");
/// The signatures, the current secret's first.
pub static SIGNATURE: HeaderName = HeaderName::from_static("x-webriskops-signature");
/// The Standard Webhooks specification's name of the idempotency key.
pub static STANDARD_ID: HeaderName = HeaderName::from_static("webhook-id");
/// The Standard Webhooks specification's name of the timestamp, in Unix seconds.
pub static STANDARD_TIMESTAMP: HeaderName = HeaderName::from_static("webhook-timestamp");
/// The Standard Webhooks specification's name of the signatures.
pub static STANDARD_SIGNATURE: HeaderName = HeaderName::from_static("webhook-signature");
/// What clients in general call the idempotency key; read where [`IDEMPOTENCY_KEY`] is absent.
pub static COMMON_IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// The fields that only the gateway sets, with their names as documents write them. What a request
/// brings of them is read, and then replaced.
pub static FIELDS: [(&HeaderName, &str); 9] = [
    (&EVENT, "X-WebRiskOps-Event"),
    (&SCHEMA, "X-WebRiskOps-Schema"),
    (&IDEMPOTENCY_KEY, "X-WebRiskOps-Idempotency-Key"),
    (&TIMESTAMP, "X-WebRiskOps-Timestamp"),
    (&NONCE, "X-WebRiskOps-Nonce"),
    (&SIGNATURE, "X-WebRiskOps-Signature"),
    (&STANDARD_ID, "webhook-id"),
    (&STANDARD_TIMESTAMP, "webhook-timestamp"),
    (&STANDARD_SIGNATURE, "webhook-signature"),
];

/// The name as documents write it, for people to read; on the wire its case is free.
pub fn written(name: &HeaderName) -> &str {
    FIELDS
        .iter()
        .chain([&(&COMMON_IDEMPOTENCY_KEY, "Idempotency-Key")])
        .find(|(field, _)| *field == name)
        .map_or_else(|| name.as_str(), |(_, written)| written)
}

/// Longest nonce, in bytes (contract, section 9).
const NONCE_BYTES_MAX: usize = 128;

/// Longest idempotency key, in bytes: what receivers' databases index without thinking.
const KEY_BYTES_MAX: usize = 255;

/// Longest event or schema, in bytes.
const LABEL_BYTES_MAX: usize = 128;

/// A text of a header field that is read in one way only: visible ASCII, no spaces.
fn is_visible(text: &str, bytes_max: usize) -> bool {
    !text.is_empty() && text.len() <= bytes_max && text.bytes().all(|byte| byte.is_ascii_graphic())
}

/// A nonce: nothing that could move the dots of the signed text.
fn is_nonce(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    !text.is_empty() && text.len() <= NONCE_BYTES_MAX && text.bytes().all(plain)
}

/// An id of the Standard Webhooks specification: without dots, as they separate it from the rest.
fn is_standard_id(text: &str) -> bool {
    is_visible(text, KEY_BYTES_MAX) && !text.contains('.')
}

/// Unix seconds in their one canonical form: digits, no sign, no leading zero.
fn seconds(text: &str) -> Option<u64> {
    let canonical =
        text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    canonical.then(|| text.parse().ok()).flatten()
}
