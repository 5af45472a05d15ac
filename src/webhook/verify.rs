//! Verification of deliveries: the receiver's side, as `docs/receivers.md` teaches it.

use std::time::Duration;

use http::{HeaderMap, HeaderName};
use subtle::{Choice, ConstantTimeEq as _};

use super::signature::{Key, KeyError};
use super::{
    EVENT, IDEMPOTENCY_KEY, KEY_BYTES_MAX, LABEL_BYTES_MAX, NONCE, SCHEMA, SIGNATURE, STANDARD_ID,
    STANDARD_SIGNATURE, STANDARD_TIMESTAMP, TIMESTAMP, is_nonce, is_standard_id, is_visible,
    seconds, written,
};
use crate::{secret::Secret, target::SigningFormat};

/// What a verified delivery says. Only `timestamp`, the body and `nonce` or, in the Standard
/// Webhooks format, `idempotency_key` are signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// The format it came in.
    pub format: SigningFormat,
    /// When it was made, in Unix seconds.
    pub timestamp: u64,
    /// What a receiver remembers for the tolerance, to see a replay; in the Standard Webhooks
    /// format the idempotency key stands in for it.
    pub nonce: Option<String>,
    /// What a receiver remembers to do each thing once.
    pub idempotency_key: Option<String>,
    /// What happened.
    pub event: Option<String>,
    /// The shape of the body.
    pub schema: Option<String>,
}

/// Why a delivery is not to be trusted. Values are never repeated in it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// A secret cannot be used.
    #[error("{0}")]
    Secret(#[from] KeyError),
    /// There is no signature at all.
    #[error("there is no {} field", written(&SIGNATURE))]
    Unsigned,
    /// It is signed in both formats; receivers would differ on which one counts.
    #[error("it is signed in two formats")]
    TwoFormats,
    /// A field is missing.
    #[error("there is no {field} field")]
    Missing {
        /// Its name.
        field: String,
    },
    /// A field is there more than once.
    #[error("{field} is there more than once")]
    Repeated {
        /// Its name.
        field: String,
    },
    /// A field is not of its form, so that the signed text could be read in two ways.
    #[error("{field} is malformed")]
    Malformed {
        /// Its name.
        field: String,
    },
    /// No signature is the one that a secret gives.
    #[error("no signature matches: another secret, or body, timestamp or nonce were changed")]
    Mismatch,
    /// It is genuine, and was made too long ago.
    #[error("it was made {seconds} seconds ago, more than the tolerance")]
    TooOld {
        /// How long ago.
        seconds: u64,
    },
    /// It is genuine, and its time is yet to come.
    #[error("its timestamp is {seconds} seconds ahead, more than the tolerance")]
    TooNew {
        /// How far ahead.
        seconds: u64,
    },
}

impl VerifyError {
    /// A stable word for it.
    pub const fn cause(&self) -> &'static str {
        match self {
            Self::Secret(error) => error.cause(),
            Self::Unsigned => "signature_missing",
            Self::TwoFormats => "signature_ambiguous",
            Self::Missing { .. } => "field_missing",
            Self::Repeated { .. } => "field_repeated",
            Self::Malformed { .. } => "field_malformed",
            Self::Mismatch => "signature_mismatch",
            Self::TooOld { .. } => "timestamp_too_old",
            Self::TooNew { .. } => "timestamp_too_new",
        }
    }
}

/// Verifies a delivery, in whichever format it is signed, with any of the secrets. `now` is the
/// time in Unix seconds; `tolerance` is how far, either way, its timestamp may be off.
///
/// It takes the same time whichever signature and secret match, and however far they do.
///
/// # Errors
/// Why the delivery is not to be trusted.
pub fn verify(
    headers: &HeaderMap,
    body: &[u8],
    secrets: &[Secret],
    tolerance: Duration,
    now: u64,
) -> Result<Verified, VerifyError> {
    let format = format(headers)?;
    let label = |text: &str| is_visible(text, LABEL_BYTES_MAX);
    let event = field(headers, &EVENT, label)?;
    let schema = field(headers, &SCHEMA, label)?;
    let signed = Signed::read(headers, body, format)?;
    let mut matches = Choice::from(0);
    for secret in secrets {
        let expected = Key::new(secret, format)?.sign(signed.parts, format);
        for presented in signed.signatures.split(signed.separator) {
            // Unlike lengths are unequal: a truncated signature is none.
            matches |= expected.as_bytes().ct_eq(presented.trim_matches(' ').as_bytes());
        }
    }
    if !bool::from(matches) {
        return Err(VerifyError::Mismatch);
    }
    let timestamp = signed.timestamp;
    let seconds = timestamp.abs_diff(now);
    if seconds > tolerance.as_secs() {
        let error = if timestamp < now {
            VerifyError::TooOld { seconds }
        } else {
            VerifyError::TooNew { seconds }
        };
        return Err(error);
    }
    Ok(Verified {
        format,
        timestamp,
        nonce: signed.nonce.map(str::to_owned),
        idempotency_key: signed.idempotency_key.map(str::to_owned),
        event: event.map(str::to_owned),
        schema: schema.map(str::to_owned),
    })
}

/// The format that a delivery is signed in.
///
/// # Errors
/// When it is signed in none, or in both.
pub fn format(headers: &HeaderMap) -> Result<SigningFormat, VerifyError> {
    match (headers.contains_key(&SIGNATURE), headers.contains_key(&STANDARD_SIGNATURE)) {
        (true, false) => Ok(SigningFormat::WebRiskOps),
        (false, true) => Ok(SigningFormat::StandardWebhooks),
        (true, true) => Err(VerifyError::TwoFormats),
        (false, false) => Err(VerifyError::Unsigned),
    }
}

/// What the signatures of a delivery cover, and the signatures.
struct Signed<'a> {
    timestamp: u64,
    nonce: Option<&'a str>,
    idempotency_key: Option<&'a str>,
    parts: [&'a [u8]; 3],
    signatures: &'a str,
    separator: char,
}

impl<'a> Signed<'a> {
    fn read(
        headers: &'a HeaderMap,
        body: &'a [u8],
        format: SigningFormat,
    ) -> Result<Self, VerifyError> {
        let key = field(headers, &IDEMPOTENCY_KEY, |text| is_visible(text, KEY_BYTES_MAX))?;
        let any = |_: &str| true;
        Ok(match format {
            SigningFormat::WebRiskOps => {
                let (text, timestamp) = time(headers, &TIMESTAMP)?;
                let nonce = required(headers, &NONCE, is_nonce)?;
                Self {
                    timestamp,
                    nonce: Some(nonce),
                    idempotency_key: key,
                    parts: [text.as_bytes(), nonce.as_bytes(), body],
                    signatures: required(headers, &SIGNATURE, any)?,
                    separator: ',',
                }
            }
            SigningFormat::StandardWebhooks => {
                let (text, timestamp) = time(headers, &STANDARD_TIMESTAMP)?;
                let id = required(headers, &STANDARD_ID, is_standard_id)?;
                Self {
                    timestamp,
                    nonce: None,
                    idempotency_key: Some(id),
                    parts: [id.as_bytes(), text.as_bytes(), body],
                    signatures: required(headers, &STANDARD_SIGNATURE, any)?,
                    separator: ' ',
                }
            }
        })
    }
}

/// A timestamp, as it is signed and as a number.
fn time<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<(&'a str, u64), VerifyError> {
    let text = required(headers, name, |_| true)?;
    let timestamp = seconds(text).ok_or_else(|| malformed(name))?;
    Ok((text, timestamp))
}

fn required<'a>(
    headers: &'a HeaderMap,
    name: &HeaderName,
    fits: impl Fn(&str) -> bool,
) -> Result<&'a str, VerifyError> {
    let missing = || VerifyError::Missing { field: written(name).to_owned() };
    field(headers, name, fits)?.ok_or_else(missing)
}

/// A field that is there at most once, in its form.
fn field<'a>(
    headers: &'a HeaderMap,
    name: &HeaderName,
    fits: impl Fn(&str) -> bool,
) -> Result<Option<&'a str>, VerifyError> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(VerifyError::Repeated { field: written(name).to_owned() });
    }
    let text = value.to_str().ok().filter(|text| fits(text)).ok_or_else(|| malformed(name))?;
    Ok(Some(text))
}

fn malformed(name: &HeaderName) -> VerifyError {
    VerifyError::Malformed { field: written(name).to_owned() }
}
