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
    demands_certificates: bool,
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
    /// The key is another certificate's.
    #[error("it is not the key of the certificate")]
    OtherKey,
    /// The key is of a kind or size that cannot be used.
    #[error("it cannot be used: {0}")]
    Key(#[source] rustls::Error),
}

impl TlsFault {
    /// Which file it is about.
    pub const fn file(&self) -> PemFile {
        match self {
            Self::NoCertificate(file) | Self::Pem(file, _) | Self::Certificate(file, _) => *file,
            Self::NoKey | Self::OtherKey | Self::Key(_) => PemFile::Key,
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
            .map_err(unusable)?;
        config.alpn_protocols = ALPN.map(<[u8]>::to_vec).to_vec();
        let demands_certificates =
            client_ca.is_some_and(|(_, demanded)| demanded == ClientCertificates::Required);
        Ok(Self { config: Arc::new(config), not_before, not_after, demands_certificates })
    }

    /// Whether nobody without a certificate of the configured authorities gets in.
    pub fn demands_certificates(&self) -> bool {
        self.demands_certificates
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

fn unusable(error: rustls::Error) -> TlsFault {
    if matches!(error, rustls::Error::InconsistentKeys(_)) {
        TlsFault::OtherKey
    } else if matches!(error, rustls::Error::InvalidCertificate(_)) {
        TlsFault::Certificate(PemFile::Certificate, error.to_string())
    } else {
        TlsFault::Key(error)
    }
}

/// From when to when a certificate is valid, in seconds since 1970.
fn validity(certificate: &CertificateDer<'_>) -> Result<(i64, i64), TlsFault> {
    let (_, parsed) = X509Certificate::from_der(certificate)
        .map_err(|error| TlsFault::Certificate(PemFile::Certificate, error.to_string()))?;
    let validity = parsed.validity();
    Ok((validity.not_before.timestamp(), validity.not_after.timestamp()))
}

#[cfg(test)]
mod tests {
    use rustls::pki_types::ServerName;
    use tokio_rustls::{TlsConnector, server::TlsStream};

    use super::*;

    struct Issued {
        certificate: String,
        key: String,
    }

    fn params(names: &[&str]) -> rcgen::CertificateParams {
        let names: Vec<_> = names.iter().map(|&name| name.to_owned()).collect();
        let mut params = rcgen::CertificateParams::new(names).unwrap();
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(2090, 1, 1);
        params
    }

    fn self_signed(names: &[&str]) -> Issued {
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = params(names).self_signed(&key).unwrap();
        Issued { certificate: certificate.pem(), key: key.serialize_pem() }
    }

    /// An authority, and a client certificate that it issued.
    fn authority_and_client() -> (String, Issued) {
        let mut ca = params(&[]);
        ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let ca_key = rcgen::KeyPair::generate().unwrap();
        let ca_pem = ca.self_signed(&ca_key).unwrap().pem();
        let issuer = rcgen::Issuer::new(ca, ca_key);
        let mut client = params(&["client.example"]);
        client.subject_alt_names.push(rcgen::SanType::URI("spiffe://test/app".try_into().unwrap()));
        client.subject_alt_names.push(rcgen::SanType::IpAddress([192, 0, 2, 1].into()));
        client
            .subject_alt_names
            .push(rcgen::SanType::Rfc822Name("a@b.example".try_into().unwrap()));
        client.distinguished_name.push(rcgen::DnType::CommonName, "common.example");
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = client.signed_by(&key, &issuer).unwrap().pem();
        (ca_pem, Issued { certificate, key: key.serialize_pem() })
    }

    /// Shakes hands with a client that trusts `server`'s certificate; what the server has of it.
    async fn handshake(
        tls: &ServerTls,
        server: &Issued,
        client: Option<&Issued>,
        version: &'static rustls::SupportedProtocolVersion,
    ) -> std::io::Result<TlsStream<tokio::io::DuplexStream>> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(server.certificate.as_bytes()).unwrap()).unwrap();
        let builder =
            rustls::ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
                .with_protocol_versions(&[version])
                .unwrap()
                .with_root_certificates(roots);
        let mut config = match client {
            None => builder.with_no_client_auth(),
            Some(client) => builder
                .with_client_auth_cert(
                    certificates(PemFile::Certificate, client.certificate.as_bytes()).unwrap(),
                    PrivateKeyDer::from_pem_slice(client.key.as_bytes()).unwrap(),
                )
                .unwrap(),
        };
        config.alpn_protocols = vec![b"http/1.1".to_vec(), b"h2".to_vec()];
        let connector = TlsConnector::from(Arc::new(config));
        let (near, far) = tokio::io::duplex(64 << 10);
        let name = ServerName::try_from("proxy.example").unwrap();
        let (accepted, connected) =
            tokio::join!(tls.acceptor().accept(near), connector.connect(name, far));
        // Under TLS 1.3 a client learns only later that it was refused; the server decides.
        let accepted = accepted?;
        connected.map(|_| accepted)
    }

    #[tokio::test]
    async fn http2_is_preferred_in_both_versions() {
        let server = self_signed(&["proxy.example"]);
        let tls = ServerTls::new(server.certificate.as_bytes(), server.key.as_bytes(), None);
        let tls = tls.unwrap();
        for version in [&TLS12, &TLS13] {
            let stream = handshake(&tls, &server, None, version).await.unwrap();
            assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
            assert_eq!(stream.get_ref().1.peer_certificates(), None);
        }
    }

    #[tokio::test]
    async fn a_client_certificate_is_verified_and_demanded_only_where_it_has_to_be() {
        let server = self_signed(&["proxy.example"]);
        let (ca, client) = authority_and_client();
        let stranger = self_signed(&["client.example"]);
        for (demanded, without) in
            [(ClientCertificates::Required, false), (ClientCertificates::WhenOffered, true)]
        {
            let tls = ServerTls::new(
                server.certificate.as_bytes(),
                server.key.as_bytes(),
                Some((ca.as_bytes(), demanded)),
            )
            .unwrap();
            for version in [&TLS12, &TLS13] {
                let known = handshake(&tls, &server, Some(&client), version).await.unwrap();
                let peer = known.get_ref().1.peer_certificates().unwrap();
                assert_eq!(peer_names(&peer[0]), ["client.example", "spiffe://test/app"]);
                let anonymous = handshake(&tls, &server, None, version).await;
                assert_eq!(anonymous.is_ok(), without, "{demanded:?}");
                assert!(handshake(&tls, &server, Some(&stranger), version).await.is_err());
            }
        }
    }

    #[test]
    fn names_of_what_is_no_certificate_are_none() {
        assert_eq!(peer_names(&CertificateDer::from(vec![0x30, 0x03, 1, 2, 3])), [""; 0]);
        assert_eq!(peer_names(&CertificateDer::from(Vec::new())), [""; 0]);
        let server = self_signed(&[]);
        let none = CertificateDer::from_pem_slice(server.certificate.as_bytes()).unwrap();
        assert_eq!(peer_names(&none), [""; 0]);
    }

    #[test]
    fn each_fault_names_its_file() {
        type Row<'a> = (&'a [u8], &'a [u8], Option<&'a [u8]>, PemFile);
        let (one, other) = (self_signed(&["a.example"]), self_signed(&["b.example"]));
        let broken = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        let cut = b"-----BEGIN CERTIFICATE-----\nAAAA\n";
        let (cert, key) = (one.certificate.as_bytes(), one.key.as_bytes());
        let required = ClientCertificates::Required;
        let rows: [Row<'_>; 9] = [
            (b"", key, None, PemFile::Certificate),
            (key, key, None, PemFile::Certificate),
            (broken, key, None, PemFile::Certificate),
            (cut, key, None, PemFile::Certificate),
            (cert, b"", None, PemFile::Key),
            (cert, cert, None, PemFile::Key),
            (cert, other.key.as_bytes(), None, PemFile::Key),
            (cert, key, Some(b""), PemFile::ClientCa),
            (cert, key, Some(broken), PemFile::ClientCa),
        ];
        for (cert, key, ca, file) in rows {
            let result = ServerTls::new(cert, key, ca.map(|ca| (ca, required)));
            assert_eq!(result.unwrap_err().file(), file);
        }
        assert!(ServerTls::new(cert, key, Some((cert, required))).is_ok());
    }

    #[test]
    fn validity_is_judged_by_the_given_time() {
        let server = self_signed(&["proxy.example"]);
        let tls = ServerTls::new(server.certificate.as_bytes(), server.key.as_bytes(), None);
        let tls = tls.unwrap();
        let at = |seconds: u64| UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds));
        assert_eq!(tls.validity_problem(at(1_500_000_000)), Some("is not valid yet"));
        assert_eq!(tls.validity_problem(at(1_900_000_000)), None);
        assert_eq!(tls.validity_problem(at(3_900_000_000)), Some("has expired"));
    }
}
