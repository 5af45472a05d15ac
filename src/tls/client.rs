//! TLS towards one target, ready for handshakes.

use std::{fmt, sync::Arc, time::Duration};

use rustls::{
    ClientConfig,
    client::Resumption,
    crypto::{
        CryptoProvider,
        aws_lc_rs::{self, kx_group},
    },
    version::{TLS12, TLS13},
};
use rustls_pki_types::{DnsName, ServerName};
use sha2::{Digest as _, Sha256};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{
    ALPN_HTTP1, ALPN_HTTP2,
    credentials::Credentials,
    error::{HandshakeError, TlsError},
    facts::TlsFacts,
    files::{Source, TlsFile, TlsSettingsError},
    notes::Notes,
    roots::{Roots, Trusted},
    session::Sessions,
    verifier::Verifier,
    watched::Watched,
};
use crate::{origin::Host, target::TargetTls};

/// What is offered inside TLS (RFC 7301).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Alpn {
    /// Nothing.
    None,
    /// `http/1.1`.
    Http1,
    /// `h2`, else `http/1.1`.
    Http2,
}

impl Alpn {
    fn protocols(self) -> Vec<Vec<u8>> {
        match self {
            Self::None => Vec::new(),
            Self::Http1 => vec![ALPN_HTTP1.to_vec()],
            Self::Http2 => vec![ALPN_HTTP2.to_vec(), ALPN_HTTP1.to_vec()],
        }
    }
}

/// A stream over which TLS stands, with a peer that was verified.
#[derive(Debug)]
pub struct Secured<S> {
    /// The stream for what is said inside.
    pub stream: TlsStream<Watched<S>>,
    /// What was agreed on, and with whom.
    pub facts: TlsFacts,
}

/// TLS towards one target: roots, pins, client certificate, and the sessions to resume.
///
/// TLS 1.2 and 1.3, key exchange with X25519MLKEM768 preferred, no early data, no renegotiation,
/// no key log. There is no way to switch verification off.
pub struct ClientTls {
    config: Arc<ClientConfig>,
    /// The name to verify and to send instead of the host.
    name: Option<ServerName<'static>>,
    /// Of the content of all files that it was made of.
    digest: [u8; 32],
}

impl ClientTls {
    /// Reads the files that `tls` names, and makes TLS of them and of `roots`. Blocks: at most
    /// three small files.
    ///
    /// # Errors
    /// What is wrong, and with which file.
    pub fn load(roots: &Roots, tls: Option<&TargetTls>) -> Result<Self, TlsSettingsError> {
        let none = TargetTls::default();
        let tls = tls.unwrap_or(&none);
        let mut digest = Sha256::new();
        let own = match &tls.ca_file {
            Some(path) => Trusted::read(Source { file: TlsFile::Ca, path }, &mut digest)?,
            None => None,
        };
        let credentials = Credentials::read(tls, &mut digest)?;
        let mut trusted = own.into_iter().chain(roots.trusted().cloned());
        let first = trusted.next().ok_or(TlsSettingsError::NoRoots)?;
        let sessions = Arc::new(Sessions::new());
        let verifier =
            Verifier::new(first, trusted.next(), tls.pins.clone(), Arc::clone(&sessions));
        let mut config = ClientConfig::builder_with_provider(Arc::new(provider()))
            .with_protocol_versions(&[&TLS13, &TLS12])
            .map_err(TlsSettingsError::Library)?
            // Not less than rustls' own: it asks that one, and then compares pins.
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_client_cert_resolver(Arc::new(credentials));
        config.resumption = Resumption::store(sessions);
        let name = tls.server_name.as_deref().map(configured_name).transpose()?;
        Ok(Self { config: Arc::new(config), name, digest: digest.finalize().into() })
    }

    /// Originates TLS over `stream` towards `host`, within `limit`. The target's `tls.server_name`,
    /// where it is set, takes the place of the host, in verification and in SNI; an IP address is
    /// verified as such, and sends no SNI (RFC 6066, section 3).
    ///
    /// # Errors
    /// Why TLS does not stand, and the certificate that was presented by then.
    pub async fn handshake<S>(
        &self,
        stream: S,
        host: &Host,
        alpn: Alpn,
        limit: Duration,
    ) -> Result<Secured<S>, HandshakeError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let notes = Arc::new(Notes::default());
        let failed = |cause| HandshakeError {
            cause,
            certificate: notes.certificate(),
            client_certificate: notes.client_certificate(),
        };
        let name = match &self.name {
            Some(name) => name.clone(),
            None => server_name(host).map_err(failed)?,
        };
        let connector = TlsConnector::from(Arc::clone(&self.config));
        let connector = connector.with_alpn(alpn.protocols());
        let handshake = connector.connect(name, Watched::new(stream)).into_fallible();
        match timeout(limit, notes.during(handshake)).await {
            Ok(Ok(stream)) => {
                let facts = TlsFacts::of(stream.get_ref().1, notes.client_certificate());
                Ok(Secured { stream, facts })
            }
            Ok(Err((error, watched))) => Err(failed(notes.verdict().unwrap_or_else(|| {
                TlsError::of(&error, watched.head(), notes.client_certificate())
            }))),
            Err(_) => Err(failed(TlsError::Timeout)),
        }
    }

    /// The same without sessions: every handshake shows a certificate, which is verified now.
    #[must_use]
    pub fn without_sessions(&self) -> Self {
        let mut config = ClientConfig::clone(&self.config);
        config.resumption = Resumption::disabled();
        Self { config: Arc::new(config), name: self.name.clone(), digest: self.digest }
    }

    /// Whether both were made of the same content of files.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.digest == other.digest
    }
}

impl fmt::Debug for ClientTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientTls").field("name", &self.name).finish_non_exhaustive()
    }
}

/// aws-lc-rs, given here and not taken from the process, whose default any library may set. The
/// post-quantum hybrid comes first (draft-ietf-tls-ecdhe-mlkem); its share holds one for X25519
/// too, so that a target without it needs no second round trip.
fn provider() -> CryptoProvider {
    CryptoProvider {
        kx_groups: vec![
            kx_group::X25519MLKEM768,
            kx_group::X25519,
            kx_group::SECP256R1,
            kx_group::SECP384R1,
        ],
        ..aws_lc_rs::default_provider()
    }
}

fn server_name(host: &Host) -> Result<ServerName<'static>, TlsError> {
    match host {
        Host::Ip(ip) => Ok(ServerName::IpAddress((*ip).into())),
        // A host is a DNS name in every form that is accepted; no certificate is for another.
        Host::Name(name) => DnsName::try_from(name.to_string())
            .map(ServerName::DnsName)
            .map_err(|_| TlsError::HostnameMismatch { name: name.to_string(), names: Vec::new() }),
    }
}

fn configured_name(text: &str) -> Result<ServerName<'static>, TlsSettingsError> {
    let wrong = || TlsSettingsError::ServerName(text.into());
    let host = Host::parse(text).map_err(|_| wrong())?;
    server_name(&host).map_err(|_| wrong())
}
