//! TLS on the proxy's listeners, and the names in client certificates.

use std::{fmt, sync::Arc};

use rustls::{
    RootCertStore, ServerConfig,
    crypto::{CryptoProvider, aws_lc_rs},
    server::{WebPkiClientVerifier, danger::ClientCertVerifier},
    version::{TLS12, TLS13},
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime, pem::PemObject as _};
use tokio_rustls::TlsAcceptor;
use x509_parser::{
    extensions::GeneralName,
    prelude::{FromDer as _, X509Certificate},
};

/// What the listeners speak inside TLS, preferred first (RFC 7301).
const ALPN: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// Whether clients have to show a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientCertificates {
    /// Without one there is no connection: no client could identify itself in another way.
    Required,
    /// One that is shown has to be valid; clients without one can show a token.
    WhenOffered,
}

/// TLS 1.2 and 1.3 on a listener, ready for use. Cloning shares it.
#[derive(Clone)]
pub struct ServerTls {
    config: Arc<ServerConfig>,
    not_before: i64,
    not_after: i64,
}

/// One of the files that TLS is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PemFile {
    /// The listener's certificate and its chain.
    Certificate,
    /// The certificate's key.
    Key,
    /// The authorities of client certificates.
    ClientCa,
}

impl PemFile {
    /// The key of configuration that names it.
    pub const fn key(self) -> &'static str {
        match self {
            Self::Certificate => "cert_file",
            Self::Key => "key_file",
            Self::ClientCa => "client_ca_file",
        }
    }
}

/// Why files cannot be used for TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsFault {
    /// There is no certificate in the file.
    #[error("there is no certificate in it; expected PEM")]
    NoCertificate(PemFile),
    /// What stands there is no certificate.
    #[error("it cannot be read as PEM: {1}")]
    Pem(PemFile, #[source] rustls_pki_types::pem::Error),
    /// A certificate in it is broken.
    #[error("a certificate in it cannot be used: {1}")]
    Certificate(PemFile, String),
    /// There is no private key in the file, or only an encrypted one.
    #[error("there is no private key in it; expected an unencrypted one in PEM")]
    NoKey,
    /// The key is not the certificate's, or of an unknown kind.
    #[error("it does not go with the certificate: {0}")]
    Key(#[source] rustls::Error),
}

impl TlsFault {
    /// Which file it is about.
    pub const fn file(&self) -> PemFile {
        match self {
            Self::NoCertificate(file) | Self::Pem(file, _) | Self::Certificate(file, _) => *file,
            Self::NoKey | Self::Key(_) => PemFile::Key,
        }
    }
}

impl ServerTls {
    /// Makes TLS of PEM texts: the certificate with its chain, its key, and, where clients may
    /// identify themselves by certificate, the authorities that issue those.
    ///
    /// # Errors
    /// What is wrong, and with which of them.
    pub fn new(
        certificate: &[u8],
        key: &[u8],
        client_ca: Option<(&[u8], ClientCertificates)>,
    ) -> Result<Self, TlsFault> {
        let chain = certificates(PemFile::Certificate, certificate)?;
        let leaf = chain.first().ok_or(TlsFault::NoCertificate(PemFile::Certificate))?;
        let (not_before, not_after) = validity(leaf)?;
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| TlsFault::NoKey)?;
        // Given here and not taken from the process, whose default any library may set.
        let provider = Arc::new(aws_lc_rs::default_provider());
        let verifier = match client_ca {
            None => WebPkiClientVerifier::no_client_auth(),
            Some((roots, demanded)) => verifier(roots, demanded, &provider)?,
        };
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13, &TLS12])
            .map_err(TlsFault::Key)?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain, key)
            .map_err(|error| match error {
                rustls::Error::InvalidCertificate(_) => {
                    TlsFault::Certificate(PemFile::Certificate, error.to_string())
                }
                error => TlsFault::Key(error),
            })?;
        config.alpn_protocols = ALPN.map(<[u8]>::to_vec).to_vec();
        Ok(Self { config: Arc::new(config), not_before, not_after })
    }

    /// Accepts connections with it.
    pub fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(Arc::clone(&self.config))
    }

    /// What clients will find wrong with the certificate's validity, where that is so: `has
    /// expired`, or `is not valid yet`.
    pub fn validity_problem(&self, now: UnixTime) -> Option<&'static str> {
        let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        if now > self.not_after {
            Some("has expired")
        } else if now < self.not_before {
            Some("is not valid yet")
        } else {
            None
        }
    }
}

impl fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerTls")
            .field("not_before", &self.not_before)
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}

/// The URI and DNS names among the subject alternative names (RFC 5280, section 4.2.1.6) of a
/// certificate that was verified, whole and as they stand there. The subject's common name is not
/// one of them (RFC 9525, section 2).
pub fn peer_names(certificate: &CertificateDer<'_>) -> Vec<String> {
    let Ok((_, certificate)) = X509Certificate::from_der(certificate) else { return Vec::new() };
    let Ok(Some(names)) = certificate.subject_alternative_name() else { return Vec::new() };
    let names = names.value.general_names.iter();
    names
        .filter_map(|name| match name {
            GeneralName::URI(name) | GeneralName::DNSName(name) => Some((*name).to_owned()),
            GeneralName::OtherName(..)
            | GeneralName::RFC822Name(_)
            | GeneralName::X400Address(_)
            | GeneralName::DirectoryName(_)
            | GeneralName::EDIPartyName(_)
            | GeneralName::IPAddress(_)
            | GeneralName::RegisteredID(_)
            | GeneralName::Invalid(..) => None,
        })
        .collect()
}

fn verifier(
    roots: &[u8],
    demanded: ClientCertificates,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, TlsFault> {
    let broken =
        |error: &dyn fmt::Display| TlsFault::Certificate(PemFile::ClientCa, error.to_string());
    let mut store = RootCertStore::empty();
    for root in certificates(PemFile::ClientCa, roots)? {
        store.add(root).map_err(|error| broken(&error))?;
    }
    let builder =
        WebPkiClientVerifier::builder_with_provider(Arc::new(store), Arc::clone(provider));
    let builder = match demanded {
        ClientCertificates::Required => builder,
        ClientCertificates::WhenOffered => builder.allow_unauthenticated(),
    };
    builder.build().map_err(|error| broken(&error))
}

fn certificates(file: PemFile, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsFault> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let found = found.map_err(|error| TlsFault::Pem(file, error))?;
    if found.is_empty() { Err(TlsFault::NoCertificate(file)) } else { Ok(found) }
}

/// From when to when a certificate is valid, in seconds since 1970.
fn validity(certificate: &CertificateDer<'_>) -> Result<(i64, i64), TlsFault> {
    let (_, parsed) = X509Certificate::from_der(certificate)
        .map_err(|error| TlsFault::Certificate(PemFile::Certificate, error.to_string()))?;
    let validity = parsed.validity();
    Ok((validity.not_before.timestamp(), validity.not_after.timestamp()))
}
