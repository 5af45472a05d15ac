//! The client certificate of one target, if it has one.

use std::{fmt, sync::Arc};

use rustls::{
    SignatureScheme,
    client::ResolvesClientCert,
    crypto::{CryptoProvider, aws_lc_rs},
    sign::CertifiedKey,
};
use sha2::Sha256;

use super::{
    files::{FileFault, Source, TlsFile, TlsSettingsError},
    notes,
};
use crate::target::TargetTls;

/// What the gateway shows to a target that asks for a client certificate.
pub(super) struct Credentials {
    key: Option<Arc<CertifiedKey>>,
}

impl Credentials {
    /// Reads the client certificate and its key; their content is added to `digest`.
    pub(super) fn read(tls: &TargetTls, digest: &mut Sha256) -> Result<Self, TlsSettingsError> {
        let (certificate, key) = match (&tls.client_cert_file, &tls.client_key_file) {
            (None, None) => return Ok(Self { key: None }),
            (Some(certificate), Some(key)) => (certificate, key),
            (Some(_), None) | (None, Some(_)) => {
                return Err(TlsSettingsError::HalfClientCertificate);
            }
        };
        let certificate = Source { file: TlsFile::ClientCertificate, path: certificate };
        let source = Source { file: TlsFile::ClientKey, path: key };
        let chain = certificate.read(digest)?.certificates()?;
        let key = source.read(digest)?.key()?;
        let provider: CryptoProvider = aws_lc_rs::default_provider();
        let certified = CertifiedKey::from_der(chain, key, &provider).map_err(|error| {
            if matches!(error, rustls::Error::InvalidCertificate(_)) {
                certificate.fault(FileFault::Certificate { number: 1, reason: error })
            } else {
                source.fault(FileFault::Key(error))
            }
        })?;
        Ok(Self { key: Some(Arc::new(certified)) })
    }
}

impl ResolvesClientCert for Credentials {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        notes::client_certificate_asked(self.key.is_some());
        self.key.clone()
    }

    fn has_certs(&self) -> bool {
        self.key.is_some()
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("present", &self.key.is_some()).finish_non_exhaustive()
    }
}
