//! The verifier of one target: webpki's verification, then the target's pins.
//!
//! It decides nothing that webpki has refused. It asks it, notes why it refused, and compares pins
//! of what it has accepted.

use std::sync::Arc;

use rustls::{
    CertificateError, DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    server::ParsedCertificate,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::{
    error::TlsError, facts::pin_text, notes, roots::Trusted, session::Sessions, verdict::Refused,
};

/// Verifies the certificates of one target.
#[derive(Debug)]
pub(super) struct Verifier {
    /// The target's own roots, if it has any, and the gateway's. A chain has to end in one of
    /// either; two stores, so that a thousand targets do not copy the system's.
    first: Trusted,
    second: Option<Trusted>,
    /// Accepted keys; none: any.
    pins: Box<[[u8; 32]]>,
    /// Told of every success.
    sessions: Arc<Sessions>,
}

impl Verifier {
    pub(super) fn new(
        first: Trusted,
        second: Option<Trusted>,
        pins: Box<[[u8; 32]]>,
        sessions: Arc<Sessions>,
    ) -> Self {
        Self { first, second, pins, sessions }
    }

    fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let unknown = rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer);
        match (self.first.verify(leaf, others, name, now), &self.second) {
            (Err(error), Some(second)) => {
                let other = second.verify(leaf, others, name, now);
                // Of two refusals the one that says more.
                other.map_err(|other| if error == unknown { other } else { error })
            }
            (result, _) => result,
        }
    }

    /// Compares the key of a certificate that is good in every other respect.
    fn compare_pins(&self, leaf: &CertificateDer<'_>) -> Result<(), TlsError> {
        if self.pins.is_empty() {
            return Ok(());
        }
        let key = ParsedCertificate::try_from(leaf).map_err(TlsError::Protocol)?;
        let presented: [u8; 32] = Sha256::digest(key.subject_public_key_info()).into();
        if self.pins.iter().any(|pin| pin.ct_eq(&presented).into()) {
            Ok(())
        } else {
            Err(TlsError::PinMismatch { presented: pin_text(&presented) })
        }
    }

    fn verdict(
        &self,
        error: &rustls::Error,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        name: &ServerName<'_>,
    ) -> TlsError {
        let trusted = std::iter::once(&self.first).chain(&self.second);
        let roots: Vec<_> = trusted.map(Trusted::store).collect();
        Refused::new(leaf, others, name, &roots).verdict(error)
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        notes::presented(leaf);
        let verified = self.verify(leaf, others, name, now).inspect_err(|error| {
            notes::refused(self.verdict(error, leaf, others, name));
        })?;
        self.compare_pins(leaf).map_err(|mismatch| {
            notes::refused(mismatch);
            CertificateError::ApplicationVerificationFailure
        })?;
        self.sessions.verified(now, not_after(leaf));
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.first.signatures().verify_tls12_signature(message, leaf, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.first.signatures().verify_tls13_signature(message, leaf, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.first.signatures().supported_verify_schemes()
    }
}

/// Until when a certificate is valid, in seconds since 1970; unreadable: it is over.
fn not_after(certificate: &CertificateDer<'_>) -> u64 {
    X509Certificate::from_der(certificate)
        .ok()
        .and_then(|(_, parsed)| u64::try_from(parsed.validity().not_after.timestamp()).ok())
        .unwrap_or(0)
}
