//! Seals credentials for the store: who reads the database learns none of them.

use std::fmt;

use chacha20poly1305::{
    XChaCha20Poly1305, XNonce,
    aead::{Aead as _, Generate as _, KeyInit as _, Payload},
};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use crate::secret::Secret;

/// Length of a key, in bytes.
pub const KEY_BYTES: usize = 32;

/// Length of a nonce, in bytes: long enough that random ones never meet.
pub const NONCE_BYTES: usize = 24;

/// Bytes of the digest that name a key.
const KEY_ID_BYTES: usize = 8;

/// What a key's name is a digest over, besides the key. Another use of the key has another digest.
const KEY_ID_LABEL: &[u8] = b"egress-gateway store key id v1";

/// What every seal is bound to. Another format has another label, and opens nothing of this one.
const SEAL_LABEL: &[u8] = b"egress-gateway credential v1";

/// A credential as the store keeps it. Says nothing about the secret but its length.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sealed {
    /// Names the key, see [`SealingKey::key_id`].
    pub key_id: String,
    /// Random, used once.
    pub nonce: [u8; NONCE_BYTES],
    /// The encrypted secret and its tag.
    pub bytes: Vec<u8>,
}

/// Why a secret cannot be sealed or opened. Holds nothing of it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// Not a key.
    #[error("a store key is {KEY_BYTES} bytes")]
    KeyLength,
    /// Sealed with a key that is not configured.
    #[error(
        "it is sealed with the key {key_id}, which is neither store.key nor in \
         store.previous_keys; add that key to store.previous_keys, or save the credential again"
    )]
    UnknownKey {
        /// That key's name.
        key_id: String,
    },
    /// Not what was sealed for this target and field.
    #[error("it is damaged, or was sealed for another target or field; save the credential again")]
    Damaged,
    /// The operating system gives no random bits, or the secret is longer than the cipher takes.
    #[error("the credential cannot be sealed; the system gives no random bits")]
    Unsealable,
}

/// A key that seals. Overwritten when it is dropped.
#[derive(Clone)]
pub struct SealingKey {
    key: Zeroizing<[u8; KEY_BYTES]>,
    key_id: String,
}

impl SealingKey {
    /// Makes a key of [`KEY_BYTES`] bytes.
    ///
    /// # Errors
    /// [`SealError::KeyLength`].
    pub fn new(key: &Secret) -> Result<Self, SealError> {
        let key: [u8; KEY_BYTES] = key.expose().try_into().map_err(|_| SealError::KeyLength)?;
        let key = Zeroizing::new(key);
        let digest = Sha256::new().chain_update(KEY_ID_LABEL).chain_update(*key).finalize();
        let first = digest.iter().take(KEY_ID_BYTES);
        let id = first.fold(0_u64, |id, byte| (id << 8) | u64::from(*byte));
        let key_id = format!("{id:016x}");
        Ok(Self { key, key_id })
    }

    /// The key's name, which tells nothing about it: 16 hex digits of a digest.
    pub fn key_id(&self) -> &str {
        &self.key_id
    }

    /// Seals a secret, for one field of one target.
    ///
    /// # Errors
    /// [`SealError::Unsealable`].
    pub fn seal(&self, target_id: &str, field: &str, secret: &Secret) -> Result<Sealed, SealError> {
        let nonce = <[u8; NONCE_BYTES]>::try_generate().map_err(|_| SealError::Unsealable)?;
        let aad = bound_to(target_id, field);
        let payload = Payload { msg: secret.expose(), aad: &aad };
        let bytes = self.cipher().encrypt(&XNonce::from(nonce), payload);
        let bytes = bytes.map_err(|_| SealError::Unsealable)?;
        Ok(Sealed { key_id: self.key_id.clone(), nonce, bytes })
    }

    fn open(&self, target_id: &str, field: &str, sealed: &Sealed) -> Result<Secret, SealError> {
        let aad = bound_to(target_id, field);
        let payload = Payload { msg: &sealed.bytes, aad: &aad };
        let secret = self.cipher().decrypt(&XNonce::from(sealed.nonce), payload);
        secret.map(Secret::new).map_err(|_| SealError::Damaged)
    }

    fn cipher(&self) -> XChaCha20Poly1305 {
        XChaCha20Poly1305::new((&*self.key).into())
    }
}

impl fmt::Debug for SealingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SealingKey({})", self.key_id)
    }
}

/// The key that seals, and former ones that still open.
#[derive(Clone, Debug)]
pub struct Keys {
    /// Seals everything from now on, and opens.
    pub current: SealingKey,
    /// Open what was sealed before the last rotations.
    pub previous: Vec<SealingKey>,
}

impl Keys {
    /// Makes keys of `store.key` and `store.previous_keys`.
    ///
    /// # Errors
    /// [`SealError::KeyLength`].
    pub fn new(current: &Secret, previous: &[Secret]) -> Result<Self, SealError> {
        Ok(Self {
            current: SealingKey::new(current)?,
            previous: previous.iter().map(SealingKey::new).collect::<Result<_, _>>()?,
        })
    }

    /// Opens what was sealed for this field of this target, with the key that it names.
    ///
    /// # Errors
    /// [`SealError::UnknownKey`], [`SealError::Damaged`].
    pub fn open(&self, target_id: &str, field: &str, sealed: &Sealed) -> Result<Secret, SealError> {
        let mut keys = std::iter::once(&self.current).chain(&self.previous);
        match keys.find(|key| key.key_id == sealed.key_id) {
            Some(key) => key.open(target_id, field, sealed),
            None => Err(SealError::UnknownKey { key_id: sealed.key_id.clone() }),
        }
    }
}

/// Associated data. Lengths stand before the texts, so that no two pairs are written the same way.
fn bound_to(target_id: &str, field: &str) -> Vec<u8> {
    let mut bound = SEAL_LABEL.to_vec();
    for text in [target_id, field] {
        // No platform has a wider `usize`.
        bound.extend(u64::try_from(text.len()).unwrap_or(u64::MAX).to_be_bytes());
        bound.extend(text.as_bytes());
    }
    bound
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn secret(bytes: &[u8]) -> Secret {
        Secret::new(bytes.to_vec())
    }

    fn keys(current: u8, previous: &[u8]) -> Keys {
        let previous: Vec<_> = previous.iter().map(|byte| secret(&[*byte; KEY_BYTES])).collect();
        Keys::new(&secret(&[current; KEY_BYTES]), &previous).unwrap()
    }

    proptest! {
        #[test]
        fn what_was_sealed_opens_for_its_target_and_field_only(
            bytes in prop::collection::vec(any::<u8>(), 0..200),
            target in "[a-z0-9._-]{1,64}",
            field in "[a-z_]{0,20}",
            other in "[a-z0-9._-]{1,64}",
            other_field in "[a-z_]{0,20}",
        ) {
            let keys = keys(1, &[]);
            let sealed = keys.current.seal(&target, &field, &secret(&bytes)).unwrap();
            prop_assert_eq!(keys.open(&target, &field, &sealed).unwrap(), secret(&bytes));
            if other != target {
                prop_assert_eq!(keys.open(&other, &field, &sealed), Err(SealError::Damaged));
            }
            if other_field != field {
                prop_assert_eq!(keys.open(&target, &other_field, &sealed), Err(SealError::Damaged));
            }
        }

        #[test]
        fn any_flipped_bit_is_noticed(
            bytes in prop::collection::vec(any::<u8>(), 0..60),
            at in any::<prop::sample::Index>(),
            bit in 0..8_u8,
        ) {
            let keys = keys(1, &[]);
            let whole = keys.current.seal("t", "f", &secret(&bytes)).unwrap();
            let mut sealed = whole.clone();
            let length = NONCE_BYTES + sealed.bytes.len();
            let at = at.index(length);
            if at < NONCE_BYTES {
                sealed.nonce[at] ^= 1 << bit;
            } else {
                sealed.bytes[at - NONCE_BYTES] ^= 1 << bit;
            }
            prop_assert_eq!(keys.open("t", "f", &sealed), Err(SealError::Damaged));
            let mut cut = whole;
            cut.bytes.truncate(at.min(cut.bytes.len() - 1));
            prop_assert_eq!(keys.open("t", "f", &cut), Err(SealError::Damaged));
        }

        #[test]
        fn no_two_pairs_are_bound_alike(a in "[a-b]{0,3}", b in "[a-b]{0,3}", c in "[a-b]{0,3}", d in "[a-b]{0,3}") {
            prop_assert_eq!(bound_to(&a, &b) == bound_to(&c, &d), (a, b) == (c, d));
        }
    }

    #[test]
    fn two_seals_of_one_secret_differ_and_none_shows_it() {
        let key = SealingKey::new(&secret(&[7; KEY_BYTES])).unwrap();
        let one = key.seal("t", "f", &secret(b"correct horse")).unwrap();
        let two = key.seal("t", "f", &secret(b"correct horse")).unwrap();
        assert_ne!(one.nonce, two.nonce);
        assert_ne!(one.bytes, two.bytes);
        assert!(!one.bytes.windows(7).any(|window| window == b"correct"));
    }

    #[test]
    fn former_keys_open_and_the_current_one_seals() {
        let before = keys(1, &[]).current.seal("t", "f", &secret(b"s")).unwrap();
        let rotating = keys(2, &[3, 1]);
        assert_eq!(rotating.open("t", "f", &before).unwrap(), secret(b"s"));
        let after = rotating.current.seal("t", "f", &secret(b"s")).unwrap();
        assert_eq!(after.key_id, keys(2, &[]).current.key_id());
        assert_eq!(keys(2, &[]).open("t", "f", &after).unwrap(), secret(b"s"));
    }

    #[test]
    fn a_key_that_is_not_configured_is_named() {
        let sealed = keys(1, &[]).current.seal("t", "f", &secret(b"s")).unwrap();
        let error = keys(2, &[3]).open("t", "f", &sealed).unwrap_err();
        assert_eq!(error, SealError::UnknownKey { key_id: sealed.key_id.clone() });
        let said = error.to_string();
        assert!(said.contains(&sealed.key_id) && said.contains("store.previous_keys"), "{said}");
    }

    #[test]
    fn a_seal_that_names_another_key_is_damaged() {
        let mut sealed = keys(1, &[]).current.seal("t", "f", &secret(b"s")).unwrap();
        sealed.key_id = keys(2, &[]).current.key_id;
        assert_eq!(keys(2, &[1]).open("t", "f", &sealed), Err(SealError::Damaged));
    }

    /// What databases hold must still open, whatever happens to this file.
    #[test]
    fn a_seal_of_the_first_version_opens() {
        let keys = keys(0x0f, &[]);
        assert_eq!(keys.current.key_id(), "491d1c0b712f672d");
        let sealed = Sealed {
            key_id: keys.current.key_id.clone(),
            nonce: std::array::from_fn(|index| u8::try_from(index).unwrap()),
            bytes: hex("5d6937c021cfa0c6db98df08757974cf00e792c5fffac522337e88bc4f"),
        };
        assert_eq!(keys.open("acme", "signing_secret", &sealed).unwrap(), secret(b"correct horse"));
    }

    fn hex(text: &str) -> Vec<u8> {
        let digits: Vec<u32> = text.chars().map(|digit| digit.to_digit(16).unwrap()).collect();
        digits.chunks(2).map(|pair| u8::try_from(pair[0] * 16 + pair[1]).unwrap()).collect()
    }

    #[test]
    fn a_key_has_32_bytes_and_cannot_be_printed() {
        for length in [0, 31, 33] {
            let key = SealingKey::new(&secret(&vec![1; length]));
            assert_eq!(key.unwrap_err(), SealError::KeyLength);
        }
        let keys = keys(0xab, &[0xcd]);
        let shown = format!("{keys:?}").to_lowercase();
        assert!(!shown.contains("abab") && !shown.contains("171"), "{shown}");
        assert!(shown.contains(keys.current.key_id()), "{shown}");
    }
}
