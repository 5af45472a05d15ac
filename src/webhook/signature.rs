//! Signatures of deliveries: the sender's side.

use base64::{
    Engine as _,
    alphabet::STANDARD,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use hmac::{Hmac, KeyInit as _, Mac as _};
use http::{HeaderMap, HeaderName, HeaderValue};
use sha2::Sha256;
use zeroize::Zeroizing;

use super::envelope::{Envelope, hex};
use super::{
    EVENT, FIELDS, IDEMPOTENCY_KEY, NONCE, SCHEMA, SIGNATURE, STANDARD_ID, STANDARD_SIGNATURE,
    STANDARD_TIMESTAMP, TIMESTAMP,
};
use crate::{
    secret::Secret,
    target::{Signing, SigningFormat},
};

/// Shortest key, in bytes (contract, section 9). Of a `whsec_…` secret the decoded bytes count.
pub const KEY_BYTES_MIN: usize = 16;

/// Begins a secret that the Standard Webhooks specification writes in base64.
const STANDARD_PREFIX: &[u8] = b"whsec_";

/// Begins a signature in [`SIGNATURE`]: the scheme, so that another one can follow.
const SCHEME: &str = "sha256=";

/// Begins a signature in [`STANDARD_SIGNATURE`]: version 1, HMAC-SHA256.
const STANDARD_SCHEME: &str = "v1,";

/// Standard base64; libraries differ on whether they pad a secret.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// A signing secret, ready to sign in one format.
#[derive(Clone)]
pub struct Key(Hmac<Sha256>);

/// Why a secret cannot sign.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// It is empty or too short to be kept secret.
    #[error("a signing secret has at least {KEY_BYTES_MIN} bytes")]
    TooShort,
    /// It begins as the Standard Webhooks specification has it, and then is not base64.
    #[error("what follows whsec_ in a standard-webhooks secret has to be base64")]
    NotBase64,
}

impl KeyError {
    /// A stable word for it.
    pub const fn cause(self) -> &'static str {
        match self {
            Self::TooShort => "signing_secret_too_short",
            Self::NotBase64 => "signing_secret_malformed",
        }
    }
}

impl Key {
    /// Makes a key of a secret: of its bytes, or in the Standard Webhooks format, where it begins
    /// with `whsec_`, of what it has in base64 behind that.
    ///
    /// # Errors
    /// When the secret is too short or is no base64.
    pub fn new(secret: &Secret, format: SigningFormat) -> Result<Self, KeyError> {
        let decoded;
        let bytes = match (format, secret.expose().strip_prefix(STANDARD_PREFIX)) {
            (SigningFormat::StandardWebhooks, Some(encoded)) => {
                decoded = Zeroizing::new(BASE64.decode(encoded).map_err(|_| KeyError::NotBase64)?);
                decoded.as_slice()
            }
            (SigningFormat::WebRiskOps | SigningFormat::StandardWebhooks, _) => secret.expose(),
        };
        if bytes.len() < KEY_BYTES_MIN {
            return Err(KeyError::TooShort);
        }
        Hmac::new_from_slice(bytes).map(Self).map_err(|_| KeyError::TooShort)
    }

    /// The signature of a signed text, given in parts, so that a body is never copied.
    pub(super) fn sign(&self, parts: [&[u8]; 3], format: SigningFormat) -> String {
        let mut mac = self.0.clone();
        for (index, part) in parts.into_iter().enumerate() {
            if index > 0 {
                mac.update(b".");
            }
            mac.update(part);
        }
        let digest = mac.finalize().into_bytes();
        match format {
            SigningFormat::WebRiskOps => format!("{SCHEME}{}", hex(&digest)),
            SigningFormat::StandardWebhooks => {
                format!("{STANDARD_SCHEME}{}", BASE64.encode(digest))
            }
        }
    }
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[redacted]")
    }
}

/// The keys of a target: the current one, and the former one during a rotation.
#[derive(Clone, Debug)]
pub struct Keys {
    current: Key,
    previous: Option<Key>,
    format: SigningFormat,
}

impl Keys {
    /// The keys of a target; `None` when it has no secret.
    ///
    /// # Errors
    /// When one of its secrets cannot sign.
    pub fn new(signing: &Signing) -> Result<Option<Self>, KeyError> {
        let format = signing.format;
        let key = |secret: &Option<Secret>| {
            secret.as_ref().map(|secret| Key::new(secret, format)).transpose()
        };
        let previous = key(&signing.previous)?;
        Ok(key(&signing.secret)?.map(|current| Self { current, previous, format }))
    }

    /// How they sign.
    pub const fn format(&self) -> SigningFormat {
        self.format
    }

    fn sign(&self, parts: [&[u8]; 3]) -> Vec<String> {
        let keys = std::iter::once(&self.current).chain(&self.previous);
        keys.map(|key| key.sign(parts, self.format)).collect()
    }
}

/// The header fields of a delivery, signature included. `envelope` was read for the keys' format,
/// of this very body.
pub fn sign(envelope: &Envelope, body: &[u8], keys: &Keys) -> Vec<(HeaderName, HeaderValue)> {
    debug_assert_eq!(envelope.format(), keys.format, "the envelope was read for another format");
    let timestamp = envelope.timestamp().to_string();
    let mut fields = vec![
        (&EVENT, text(envelope.event())),
        (&SCHEMA, text(envelope.schema())),
        (&IDEMPOTENCY_KEY, text(envelope.idempotency_key())),
    ];
    match keys.format {
        SigningFormat::WebRiskOps => {
            let parts = [timestamp.as_bytes(), envelope.nonce().as_bytes(), body];
            let signatures = keys.sign(parts).join(", ");
            fields.push((&TIMESTAMP, HeaderValue::from(envelope.timestamp())));
            fields.push((&NONCE, text(envelope.nonce())));
            fields.push((&SIGNATURE, text(&signatures)));
        }
        SigningFormat::StandardWebhooks => {
            let id = envelope.idempotency_key();
            let signatures = keys.sign([id.as_bytes(), timestamp.as_bytes(), body]).join(" ");
            fields.push((&STANDARD_ID, text(id)));
            fields.push((&STANDARD_TIMESTAMP, HeaderValue::from(envelope.timestamp())));
            fields.push((&STANDARD_SIGNATURE, text(&signatures)));
        }
    }
    fields.into_iter().map(|(name, value)| (name.clone(), value)).collect()
}

/// Puts the fields of a delivery into its header, in place of all that the request brought of them:
/// its own signature, fields of the other format, and names that differ by an underscore alone, as
/// receivers behind CGI or WSGI take those for the same.
pub fn replace(headers: &mut HeaderMap, signed: Vec<(HeaderName, HeaderValue)>) {
    let of_a_delivery = |name: &&HeaderName| {
        let dashed = name.as_str().replace('_', "-");
        FIELDS.iter().any(|(field, _)| field.as_str() == dashed)
    };
    let brought: Vec<HeaderName> = headers.keys().filter(of_a_delivery).cloned().collect();
    for name in brought {
        headers.remove(name);
    }
    for (name, value) in signed {
        headers.insert(name, value);
    }
}

#[expect(clippy::expect_used, reason = "an envelope and a signature hold visible ASCII alone")]
fn text(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).expect("visible ASCII")
}
