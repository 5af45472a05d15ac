//! Secrets that cannot be printed: redacted in `Debug`, zeroised on drop, compared in constant time.

use std::fmt;

use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

/// A credential. Has no `Display` and no `Serialize`; `Debug` prints `[redacted]`.
#[derive(Clone)]
pub struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    /// Takes the bytes; they are overwritten when the last owner drops them.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// The bytes, for the one place that has to use them.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// A digest under which the secret can be looked up without comparing the secret itself.
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&self.0)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.fingerprint() == other.fingerprint()
    }
}

impl Eq for Secret {}

/// SHA-256 of a secret: fixed length, so that comparing it tells nothing about the secret's length.
#[derive(Clone, Copy)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// The fingerprint of what somebody presented.
    pub fn of(presented: &[u8]) -> Self {
        Self(Sha256::digest(presented).into())
    }

    /// The digest, as a key to look a client up by.
    pub fn bytes(self) -> [u8; 32] {
        self.0
    }
}

impl PartialEq for Fingerprint {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for Fingerprint {}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_cannot_be_printed() {
        let secret = Secret::new(b"correct horse".to_vec());
        assert_eq!(format!("{secret:?} {:?}", secret.fingerprint()), "[redacted] [redacted]");
    }

    #[test]
    fn secrets_are_equal_only_when_every_byte_is() {
        let secret = Secret::new(b"correct horse".to_vec());
        assert_eq!(secret.fingerprint(), Fingerprint::of(b"correct horse"));
        assert_ne!(secret.fingerprint(), Fingerprint::of(b"correct hors"));
        assert_ne!(secret.fingerprint(), Fingerprint::of(b""));
    }
}
