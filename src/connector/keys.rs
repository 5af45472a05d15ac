//! Keys of both ends, their pins, and the TLS that rests on them alone.
//!
//! There are no certificates: raw public keys (RFC 7250) do not expire, need no authority, and
//! leave nothing to parse of what a stranger sends.

use std::{
    fmt,
    fs::{File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
    sync::Arc,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use rustls::{
    CertificateError, ClientConfig, CommonState, DigitallySignedStruct, DistinguishedName, Error,
    PeerIncompatible, ServerConfig, SignatureScheme,
    client::{
        AlwaysResolvesClientRawPublicKeys, Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{
        CryptoProvider, WebPkiSupportedAlgorithms, aws_lc_rs, verify_tls13_signature_with_raw_key,
    },
    server::{
        AlwaysResolvesServerRawPublicKeys, NoServerSessionStorage,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
    sign::CertifiedKey,
    version::TLS13,
};
use rustls_pki_types::{
    CertificateDer, PrivateKeyDer, ServerName, SubjectPublicKeyInfoDer, UnixTime,
    pem::PemObject as _,
};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

/// What is spoken inside TLS, whatever its version: that is negotiated once both ends are known.
const ALPN: &[u8] = b"egress-connector";

/// Largest key file, in bytes.
const KEY_BYTES_MAX: u64 = 64 << 10;

/// SHA-256 of a public key (SPKI), written as curl's `--pinnedpubkey` has it: `sha256//BASE64`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Pin([u8; 32]);

/// What is not a pin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a pin is sha256// and the base64 of the SHA-256 of the public key")]
pub struct PinFault;

/// A private key, ready for TLS. Cloning shares it.
#[derive(Clone)]
pub struct Key {
    certified: Arc<CertifiedKey>,
    pin: Pin,
}

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file.
    #[error("{0}")]
    File(#[from] io::Error),
    /// There is no private key in the file, or only an encrypted one.
    #[error("there is no private key in it; expected an unencrypted one in PEM")]
    NoKey,
    /// The key is of a kind or size that cannot be used.
    #[error("it cannot be used: {0}")]
    Unusable(String),
}

impl Pin {
    fn of(spki: &[u8]) -> Self {
        Self(Sha256::digest(spki).into())
    }

    /// Reads `sha256//BASE64`.
    ///
    /// # Errors
    /// Anything else.
    pub fn parse(text: &str) -> Result<Self, PinFault> {
        let encoded = text.strip_prefix("sha256//").ok_or(PinFault)?;
        let bytes = STANDARD.decode(encoded).map_err(|_| PinFault)?;
        bytes.try_into().map(Self).map_err(|_| PinFault)
    }

    /// The pin of the key that the peer of a finished handshake showed.
    pub fn of_peer(tls: &CommonState) -> Option<Self> {
        Some(Self::of(tls.peer_certificates()?.first()?))
    }
}

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256//{}", STANDARD.encode(self.0))
    }
}

impl Key {
    /// Reads an unencrypted private key in PEM.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn from_pem(pem: &[u8]) -> Result<Self, KeyError> {
        let key = PrivateKeyDer::from_pem_slice(pem).map_err(|_| KeyError::NoKey)?;
        let unusable = |error: Error| KeyError::Unusable(error.to_string());
        let key = aws_lc_rs::default_provider().key_provider.load_private_key(key);
        let key = key.map_err(unusable)?;
        let spki = key.public_key().ok_or(KeyError::NoKey)?;
        let pin = Pin::of(&spki);
        // Where rustls says certificate, a raw key stands in its place (RFC 7250, section 3).
        let chain = vec![CertificateDer::from(spki.to_vec())];
        Ok(Self { certified: Arc::new(CertifiedKey::new(chain, key)), pin })
    }

    /// Reads a key file.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn load(path: &Path) -> Result<Self, KeyError> {
        let mut pem = Zeroizing::new(Vec::new());
        File::open(path)?.take(KEY_BYTES_MAX).read_to_end(&mut pem)?;
        Self::from_pem(&pem)
    }

    /// Makes a key (ECDSA, P-256) and keeps it in a new file that only its owner may read.
    ///
    /// # Errors
    /// What the system says; a file that is there already is left alone.
    pub fn create(path: &Path) -> Result<Self, KeyError> {
        let made = rcgen::KeyPair::generate();
        let made = made.map_err(|error| KeyError::Unusable(error.to_string()))?;
        let pem = Zeroizing::new(made.serialize_pem());
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        file.write_all(pem.as_bytes())?;
        file.sync_all()?;
        Self::from_pem(pem.as_bytes())
    }

    /// Reads a key file, and makes it where there is none. Two processes may do so at once.
    ///
    /// # Errors
    /// What is wrong with it, or with its folder.
    pub fn load_or_create(path: &Path) -> Result<Self, KeyError> {
        match Self::load(path) {
            Err(KeyError::File(error)) if error.kind() == io::ErrorKind::NotFound => {}
            loaded => return loaded,
        }
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        // Written whole beside it first: whoever finds the file finds a key in it.
        let beside = path.with_extension(format!("new-{}", std::process::id()));
        let made = Self::create(&beside);
        let linked = std::fs::hard_link(&beside, path);
        let _best_effort = std::fs::remove_file(&beside);
        made?;
        match linked {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error.into()),
            _ => Self::load(path),
        }
    }

    /// The pin of its public key.
    pub const fn pin(&self) -> Pin {
        self.pin
    }

    /// TLS of a listener that shows this key and takes any key, whose owner has to be asked for
    /// afterwards: TLS 1.3 alone, and no resumption, so that each connection proves its key anew.
    ///
    /// # Errors
    /// The key cannot be used with TLS 1.3.
    pub fn server(&self) -> Result<Arc<ServerConfig>, KeyError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let verifier = Arc::new(AnyKey(provider.signature_verification_algorithms));
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])
            .map_err(|error| KeyError::Unusable(error.to_string()))?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(Arc::new(AlwaysResolvesServerRawPublicKeys::new(Arc::clone(
                &self.certified,
            ))));
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Arc::new(config))
    }

    /// TLS towards a listener that has to show one of these keys, and is shown this one.
    ///
    /// # Errors
    /// The key cannot be used with TLS 1.3.
    pub fn client(&self, pins: Vec<Pin>) -> Result<Arc<ClientConfig>, KeyError> {
        let provider: Arc<CryptoProvider> = Arc::new(aws_lc_rs::default_provider());
        let algorithms = provider.signature_verification_algorithms;
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])
            .map_err(|error| KeyError::Unusable(error.to_string()))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(PinnedKey { pins, algorithms }))
            .with_client_cert_resolver(Arc::new(AlwaysResolvesClientRawPublicKeys::new(
                Arc::clone(&self.certified),
            )));
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.resumption = Resumption::disabled();
        Ok(Arc::new(config))
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key").field("pin", &self.pin).finish_non_exhaustive()
    }
}

/// Takes any key whose owner proves that it is its own.
#[derive(Debug)]
struct AnyKey(WebPkiSupportedAlgorithms);

impl ClientCertVerifier for AnyKey {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(PeerIncompatible::Tls12NotOffered.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        key: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let key = SubjectPublicKeyInfoDer::from(key.as_ref());
        verify_tls13_signature_with_raw_key(message, &key, signed, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

/// Takes a pinned key alone.
#[derive(Debug)]
struct PinnedKey {
    pins: Vec<Pin>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for PinnedKey {
    fn verify_server_cert(
        &self,
        key: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if self.pins.contains(&Pin::of(key)) {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(CertificateError::ApplicationVerificationFailure.into())
        }
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(PeerIncompatible::Tls12NotOffered.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        key: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let key = SubjectPublicKeyInfoDer::from(key.as_ref());
        verify_tls13_signature_with_raw_key(message, &key, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_key_is_made_once_for_its_owner_alone_and_found_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/connector.key");
        let made = Key::load_or_create(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(Key::load_or_create(&path).unwrap().pin(), made.pin());
        assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
        assert!(matches!(Key::create(&path), Err(KeyError::File(_))));
        assert_ne!(Key::create(&folder.path().join("other")).unwrap().pin(), made.pin());
    }

    #[test]
    fn what_is_no_key_is_refused() {
        assert!(matches!(Key::from_pem(b"garbage"), Err(KeyError::NoKey)));
        let folder = tempfile::tempdir().unwrap();
        assert!(matches!(Key::load(&folder.path().join("none")), Err(KeyError::File(_))));
    }

    #[test]
    fn a_pin_is_read_as_it_is_written() {
        let pin = Pin::of(b"key");
        assert_eq!(Pin::parse(&pin.to_string()), Ok(pin));
        for wrong in ["", "sha256//", "sha256//AAAA", "sha256/x", &pin.to_string()[..50]] {
            assert_eq!(Pin::parse(wrong), Err(PinFault), "{wrong}");
        }
    }
}
