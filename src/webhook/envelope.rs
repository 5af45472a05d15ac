//! The envelope of a delivery: event, schema, idempotency key, timestamp, nonce, each from the
//! first place that names it.

use http::{HeaderMap, HeaderName, Method};
use sha2::{Digest as _, Sha256};

use super::body::{self, BodyFields, Value};
use super::{
    COMMON_IDEMPOTENCY_KEY, EVENT, IDEMPOTENCY_KEY, KEY_BYTES_MAX, LABEL_BYTES_MAX, NONCE, SCHEMA,
    TIMESTAMP, is_nonce, is_standard_id, is_visible, seconds, written,
};
use crate::{reason::Cause, target::SigningFormat};

/// Furthest a timestamp that a request names may be off the gateway's clock, in seconds.
pub const TIMESTAMP_OFF_MAX: u64 = 300;

/// The event of a delivery that names none.
pub const DEFAULT_EVENT: &str = "ticket_export.requested";

/// The schema of a delivery that names none.
pub const DEFAULT_SCHEMA: &str = "ticket-export.webhook.v1";

/// Begins every idempotency key that was derived from the delivery itself.
pub const DERIVED_PREFIX: &str = "derived-";

/// A request that is about to be delivered.
#[derive(Clone, Copy, Debug)]
pub struct Outgoing<'a> {
    /// The target's id.
    pub target: &'a str,
    /// The request's method.
    pub method: &'a Method,
    /// The exact URL that it is delivered to.
    pub url: &'a str,
    /// The request's own fields.
    pub headers: &'a HeaderMap,
    /// The whole body.
    pub body: &'a [u8],
    /// SHA-256 of the body, which can be had while the body is being read.
    pub payload_hash: [u8; 32],
    /// The target's signature format: it narrows what an idempotency key may be.
    pub format: SigningFormat,
}

/// What the header of a delivery says, complete and in one reading (contract, section 9).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    event: String,
    schema: String,
    idempotency_key: String,
    timestamp: u64,
    nonce: String,
    format: SigningFormat,
}

/// Why a request cannot be delivered as it is (400). Values are never repeated in it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EnvelopeError {
    /// A field of the header is there more than once.
    #[error("{field} is there more than once")]
    FieldRepeated {
        /// Its name.
        field: String,
    },
    /// A field of the JSON body is there more than once, which parsers read differently.
    #[error("the body has {field} more than once")]
    BodyFieldRepeated {
        /// Its path.
        field: &'static str,
    },
    /// A field of header or body is not of its form.
    #[error("{field} is not {form}")]
    Invalid {
        /// Its name in the header, or its path in the body.
        field: String,
        /// What it should be.
        form: &'static str,
    },
    /// Header and body, or two fields of the header, name different values.
    #[error("{one} and {other} name different values")]
    Differ {
        /// The one that would have counted.
        one: String,
        /// The one at odds with it.
        other: String,
    },
    /// The timestamp is too far from the gateway's clock.
    #[error(
        "the timestamp that the request names is {seconds_off} seconds off the gateway's clock; \
         at most {TIMESTAMP_OFF_MAX} are accepted"
    )]
    TimestampOff {
        /// How far, either way.
        seconds_off: u64,
    },
}

impl EnvelopeError {
    /// The cause of the refusal.
    pub const fn cause(&self) -> Cause {
        match self {
            Self::FieldRepeated { .. } => Cause::WebhookFieldRepeated,
            Self::BodyFieldRepeated { .. } => Cause::WebhookBodyAmbiguous,
            Self::Invalid { .. } => Cause::WebhookFieldInvalid,
            Self::Differ { .. } => Cause::WebhookFieldsDiffer,
            Self::TimestampOff { .. } => Cause::WebhookTimestampOff,
        }
    }
}

impl Envelope {
    /// Gathers the envelope of a request. `now` is the time in Unix seconds, `fresh` are random
    /// bits for the nonce of a request that names none.
    ///
    /// Header fields come before fields of the body. Event and schema are the first that is there;
    /// idempotency key, timestamp and nonce have to agree wherever they are named. A body that is
    /// not one JSON object names nothing.
    ///
    /// # Errors
    /// What is ambiguous, ill-formed, at odds or out of time.
    pub fn read(outgoing: &Outgoing<'_>, now: u64, fresh: [u8; 16]) -> Result<Self, EnvelopeError> {
        let body = BodyFields::read(outgoing.body);
        if let Some(field) = body.repeated {
            return Err(EnvelopeError::BodyFieldRepeated { field });
        }
        let headers = outgoing.headers;
        Ok(Self {
            event: label(headers, &EVENT, (body::EVENT, body.event), DEFAULT_EVENT)?,
            schema: label(headers, &SCHEMA, (body::SCHEMA, body.schema), DEFAULT_SCHEMA)?,
            idempotency_key: match named_key(headers, body.key, outgoing.format)? {
                Some(key) => key,
                None => derived_key(outgoing),
            },
            timestamp: timestamp(headers, body.replay.timestamp, now)?,
            nonce: nonce(headers, body.replay.nonce)?.unwrap_or_else(|| hex(&fresh)),
            format: outgoing.format,
        })
    }

    /// What happened.
    pub fn event(&self) -> &str {
        &self.event
    }

    /// The shape of the body.
    pub fn schema(&self) -> &str {
        &self.schema
    }

    /// The same for every attempt at one delivery.
    pub fn idempotency_key(&self) -> &str {
        &self.idempotency_key
    }

    /// When the delivery was made, in Unix seconds.
    pub const fn timestamp(&self) -> u64 {
        self.timestamp
    }

    /// Makes the signed text unlike any other.
    pub fn nonce(&self) -> &str {
        &self.nonce
    }

    /// The format that it is signed in.
    pub const fn format(&self) -> SigningFormat {
        self.format
    }
}

/// Event or schema: the header's, else the body's string, else the default.
fn label(
    headers: &HeaderMap,
    name: &HeaderName,
    (path, in_body): (&'static str, Value),
    default: &str,
) -> Result<String, EnvelopeError> {
    let (place, text) = match (in_header(headers, name)?, in_body) {
        (Some(text), _) => (written(name), text),
        (None, Value::Text(text)) => (path, text),
        // Something else by the same name says nothing of the delivery.
        (None, Value::Absent | Value::Number(_) | Value::Object(_) | Value::Other) => {
            return Ok(default.to_owned());
        }
    };
    if is_visible(&text, LABEL_BYTES_MAX) {
        Ok(text)
    } else {
        Err(invalid(place, "1 to 128 visible ASCII characters without spaces"))
    }
}

/// The idempotency key that the request names.
fn named_key(
    headers: &HeaderMap,
    in_body: Value,
    format: SigningFormat,
) -> Result<Option<String>, EnvelopeError> {
    let named = agreed([
        (written(&IDEMPOTENCY_KEY), in_header(headers, &IDEMPOTENCY_KEY)?),
        (written(&COMMON_IDEMPOTENCY_KEY), in_header(headers, &COMMON_IDEMPOTENCY_KEY)?),
        (body::KEY, text(body::KEY, in_body)?),
    ])?;
    let Some((place, key)) = named else { return Ok(None) };
    let (fits, form) = match format {
        SigningFormat::WebRiskOps => {
            (is_visible(&key, KEY_BYTES_MAX), "1 to 255 visible ASCII characters without spaces")
        }
        SigningFormat::StandardWebhooks => {
            (is_standard_id(&key), "1 to 255 visible ASCII characters without spaces and dots")
        }
    };
    if fits { Ok(Some(key)) } else { Err(invalid(place, form)) }
}

/// A key that a retry of the same request has again: [`DERIVED_PREFIX`] and the lower-case hex of
/// SHA-256 over target id, method, URL and the SHA-256 of the body, each behind its length in bytes
/// as eight bytes, big end first.
fn derived_key(outgoing: &Outgoing<'_>) -> String {
    let parts = [
        outgoing.target.as_bytes(),
        outgoing.method.as_str().as_bytes(),
        outgoing.url.as_bytes(),
        &outgoing.payload_hash,
    ];
    let mut digest = Sha256::new();
    for part in parts {
        digest.update(u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
        digest.update(part);
    }
    format!("{DERIVED_PREFIX}{}", hex(&digest.finalize()))
}

/// The timestamp that a body names, where it names a valid one: for those who sign outside of the
/// gateway's own time.
pub fn named_timestamp(body: &[u8]) -> Option<u64> {
    match BodyFields::read(body).replay.timestamp {
        Value::Number(number) => Some(number),
        Value::Text(text) => seconds(&text),
        Value::Absent | Value::Object(_) | Value::Other => None,
    }
}

/// The timestamp that the request names, else `now`.
fn timestamp(headers: &HeaderMap, in_body: Value, now: u64) -> Result<u64, EnvelopeError> {
    let parse = |place: &str, text: &str| {
        seconds(text).ok_or_else(|| invalid(place, "Unix time in whole seconds"))
    };
    let name = written(&TIMESTAMP);
    let in_header = in_header(headers, &TIMESTAMP)?.map(|text| parse(name, &text)).transpose()?;
    let in_body = match in_body {
        Value::Absent => None,
        Value::Number(number) => Some(number),
        Value::Text(text) => Some(parse(body::TIMESTAMP, &text)?),
        Value::Object(_) | Value::Other => Some(parse(body::TIMESTAMP, "")?),
    };
    let Some((_, timestamp)) = agreed([(name, in_header), (body::TIMESTAMP, in_body)])? else {
        return Ok(now);
    };
    match timestamp.abs_diff(now) {
        0..=TIMESTAMP_OFF_MAX => Ok(timestamp),
        seconds_off => Err(EnvelopeError::TimestampOff { seconds_off }),
    }
}

/// The nonce that the request names.
fn nonce(headers: &HeaderMap, in_body: Value) -> Result<Option<String>, EnvelopeError> {
    let named = agreed([
        (written(&NONCE), in_header(headers, &NONCE)?),
        (body::NONCE, text(body::NONCE, in_body)?),
    ])?;
    match named {
        Some((_, nonce)) if is_nonce(&nonce) => Ok(Some(nonce)),
        Some((place, _)) => Err(invalid(place, "1 to 128 of A-Z a-z 0-9 _ -")),
        None => Ok(None),
    }
}

/// The first of the places that names a value, when all that name one name the same.
fn agreed<T: PartialEq, const N: usize>(
    places: [(&str, Option<T>); N],
) -> Result<Option<(&str, T)>, EnvelopeError> {
    let mut first: Option<(&str, T)> = None;
    for (place, value) in places {
        match (&first, value) {
            (None, Some(value)) => first = Some((place, value)),
            (Some((one, known)), Some(value)) if *known != value => {
                return Err(EnvelopeError::Differ { one: (*one).into(), other: place.into() });
            }
            (_, _) => {}
        }
    }
    Ok(first)
}

/// A field of the header, when it is there once.
fn in_header(headers: &HeaderMap, name: &HeaderName) -> Result<Option<String>, EnvelopeError> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(EnvelopeError::FieldRepeated { field: written(name).to_owned() });
    }
    let text = value.to_str().map_err(|_| invalid(written(name), "visible ASCII"))?;
    Ok(Some(text.to_owned()))
}

/// A string of the body.
fn text(place: &'static str, value: Value) -> Result<Option<String>, EnvelopeError> {
    match value {
        Value::Absent => Ok(None),
        Value::Text(text) => Ok(Some(text)),
        Value::Number(_) | Value::Object(_) | Value::Other => Err(invalid(place, "a string")),
    }
}

fn invalid(field: &str, form: &'static str) -> EnvelopeError {
    EnvelopeError::Invalid { field: field.to_owned(), form }
}

/// Lower-case hex.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len().saturating_mul(2)), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
