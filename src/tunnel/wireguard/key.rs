//! Keys of WireGuard: made, read and written as `wg` has them.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use gotatun::x25519::{PublicKey, StaticSecret};
use rustls::crypto::{GetRandomFailed, aws_lc_rs};
use zeroize::Zeroizing;

/// A private key: 32 bytes.
pub struct PrivateKey(Zeroizing<[u8; 32]>);

impl std::fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[redacted]")
    }
}

impl PrivateKey {
    /// A new one, from the system's random bits.
    ///
    /// # Errors
    /// When there are none.
    pub fn generate() -> Result<Self, GetRandomFailed> {
        let mut key = Zeroizing::new([0; 32]);
        aws_lc_rs::default_provider().secure_random.fill(&mut *key)?;
        // as `wg genkey` does it (RFC 7748, section 5)
        let [first, .., last] = &mut *key;
        *first &= 0b1111_1000;
        *last = (*last & 0b0111_1111) | 0b0100_0000;
        Ok(Self(key))
    }

    /// Reads one in base64, with or without white space around it.
    pub fn from_base64(text: &[u8]) -> Option<Self> {
        let bytes = Zeroizing::new(STANDARD.decode(text.trim_ascii()).ok()?);
        <[u8; 32]>::try_from(bytes.as_slice()).ok().map(|key| Self(Zeroizing::new(key)))
    }

    /// In base64, for the file that holds it.
    pub fn to_base64(&self) -> Zeroizing<String> {
        Zeroizing::new(STANDARD.encode(*self.0))
    }

    /// The public key that belongs to it, in base64: what the peer is given.
    pub fn public_base64(&self) -> String {
        STANDARD.encode(PublicKey::from(&StaticSecret::from(*self.0)).as_bytes())
    }
}
