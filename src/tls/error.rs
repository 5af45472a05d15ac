//! Why TLS with a target does not stand, in words that tell who has to act.

use std::{error::Error as StdError, fmt, io};

use jiff::Timestamp;
use rustls::{AlertDescription, PeerIncompatible};

use super::{
    facts::{CertificateFacts, ClientCertificate, TlsFacts},
    watched::Head,
};

/// A handshake that failed: why, and what had been seen by then.
#[derive(Clone, Debug, PartialEq)]
pub struct HandshakeError {
    /// Why.
    pub cause: TlsError,
    /// The certificate that the target had presented by then, whether or not it was the reason.
    pub certificate: Option<Box<CertificateFacts>>,
    /// Whether the target had asked for a client certificate by then.
    pub client_certificate: ClientCertificate,
}

impl fmt::Display for HandshakeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.cause.fmt(f)
    }
}

impl StdError for HandshakeError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.cause.source()
    }
}

/// Why TLS with a target does not stand. Names in the texts are the target's word, made printable.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum TlsError {
    /// A certificate of the chain is out of date.
    #[error("the certificate of {subject} expired on {not_after}")]
    Expired {
        /// Whose it is: the target's own, or one of its issuers'.
        subject: String,
        /// Until when it was valid.
        not_after: Timestamp,
    },
    /// A certificate of the chain is not valid yet.
    #[error("the certificate of {subject} is not valid before {not_before}")]
    NotYetValid {
        /// Whose it is: the target's own, or one of its issuers'.
        subject: String,
        /// From when on it will be valid.
        not_before: Timestamp,
    },
    /// The chain does not end in a root that is trusted for this target.
    #[error("{}", untrusted.sentence(issuer))]
    UnknownIssuer {
        /// The issuer at which the chain ends.
        issuer: String,
        /// Why it is not trusted.
        untrusted: Untrusted,
    },
    /// The target sent its own certificate only, and the issuer's is not among the roots although
    /// the certificate tells where to fetch it, as one from an intermediate authority does.
    #[error("the target did not send the certificate of the intermediate authority {issuer}")]
    IncompleteChain {
        /// The authority whose certificate is missing.
        issuer: String,
    },
    /// The certificate is for other names.
    #[error("{}", mismatch(name, names))]
    HostnameMismatch {
        /// What it was compared with: the host, or the target's `tls.server_name`.
        name: String,
        /// The names that it is for.
        names: Vec<String>,
    },
    /// The certificate, or one of the chain, may not be used for what it is used for.
    #[error("{}", .0.sentence())]
    WrongUsage(Usage),
    /// None of the target's pins is the certificate's key.
    #[error("the public key {presented} is not among the pins of the target")]
    PinMismatch {
        /// The key that was presented, in the form of a pin.
        presented: String,
    },
    /// Something else is wrong with a certificate of the chain.
    #[error("{}", .0.sentence())]
    CertificateInvalid(CertificateFault),
    /// The target speaks neither TLS 1.2 nor 1.3, or shares no cipher suite or key exchange.
    #[error(
        "the target has no TLS version, cipher suite or key exchange in common with the gateway"
    )]
    Version,
    /// The target did not accept the handshake without a client certificate, or with this one.
    #[error("{}", if *given { "the target did not accept the client certificate" }
        else { "the target asks for a client certificate" })]
    ClientCertificate {
        /// Whether one was sent.
        given: bool,
    },
    /// Closed or reset before the first byte of an answer.
    #[error("the target closed the connection before it answered in TLS")]
    ClosedEarly,
    /// The handshake did not finish in time.
    #[error("the TLS handshake did not finish in time")]
    Timeout,
    /// The target does not speak TLS on this port.
    #[error("{}", if *http { "the target answers in plain HTTP on this port" }
        else { "what the target answers on this port is not TLS" })]
    NotTls {
        /// Whether it answered in plain HTTP.
        http: bool,
    },
    /// The target ended the handshake with an alert that says no more than its name.
    #[error("the target ended the handshake with alert {}", alert_word(*.0))]
    Alert(AlertDescription),
    /// The connection was lost in the middle of the handshake.
    #[error("the connection was lost during the TLS handshake")]
    Cut(io::ErrorKind),
    /// The target does not follow the protocol.
    #[error("the target's handshake does not follow TLS: {0}")]
    Protocol(#[source] rustls::Error),
}

impl TlsError {
    /// The `cause` word of problem documents, events and checks.
    pub const fn cause_word(&self) -> &'static str {
        match self {
            Self::Expired { .. } => "tls_expired",
            Self::NotYetValid { .. } => "tls_not_yet_valid",
            Self::UnknownIssuer { .. } => "tls_unknown_issuer",
            Self::IncompleteChain { .. } => "tls_incomplete_chain",
            Self::HostnameMismatch { .. } => "tls_hostname_mismatch",
            Self::WrongUsage(_) => "tls_wrong_usage",
            Self::PinMismatch { .. } => "tls_pin_mismatch",
            Self::CertificateInvalid(_) => "tls_certificate_invalid",
            Self::Version => "tls_version",
            Self::ClientCertificate { .. } => "tls_client_certificate",
            Self::ClosedEarly => "reset_before_server_hello",
            Self::Timeout => "tls_timeout",
            Self::NotTls { .. } | Self::Alert(_) | Self::Cut(_) | Self::Protocol(_) => {
                "tls_handshake"
            }
        }
    }

    /// What a failed handshake means. `head` is what the target sent first, `asked` whether it had
    /// asked for a client certificate.
    pub(super) fn of(error: &io::Error, head: &Head, asked: ClientCertificate) -> Self {
        match rustls_error(error) {
            Some(error) => Self::of_rustls(error, head, asked),
            None => Self::of_io(error.kind(), head, asked),
        }
    }

    /// What an error on a connection whose handshake had succeeded says about TLS, if anything.
    ///
    /// In TLS 1.3 the client is ready before the target has looked at the client certificate, so
    /// that its refusal arrives with the first bytes that are read.
    pub fn after_handshake(error: &(dyn StdError + 'static), facts: &TlsFacts) -> Option<Self> {
        let mut next = Some(error);
        while let Some(error) = next {
            let tls = error
                .downcast_ref::<io::Error>()
                .map_or_else(|| error.downcast_ref::<rustls::Error>(), rustls_error);
            if let Some(rustls::Error::AlertReceived(alert)) = tls {
                return Some(Self::of_alert(*alert, false, facts.client_certificate));
            }
            next = error.source();
        }
        None
    }

    fn of_rustls(error: &rustls::Error, head: &Head, asked: ClientCertificate) -> Self {
        #[expect(clippy::wildcard_enum_match_arm, reason = "rustls has fifty others")]
        match error {
            rustls::Error::AlertReceived(alert) => {
                Self::of_alert(*alert, head.begins_with_alert(), asked)
            }
            rustls::Error::PeerIncompatible(
                PeerIncompatible::ServerDoesNotSupportTls12Or13
                | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig
                | PeerIncompatible::NoCipherSuitesInCommon
                | PeerIncompatible::NoKxGroupsInCommon,
            ) => Self::Version,
            _ if !head.begins_like_tls() => Self::NotTls { http: head.is_http() },
            other => Self::Protocol(other.clone()),
        }
    }

    fn of_alert(alert: AlertDescription, first: bool, asked: ClientCertificate) -> Self {
        #[expect(clippy::wildcard_enum_match_arm, reason = "the registry has thirty others")]
        match alert {
            AlertDescription::ProtocolVersion => Self::Version,
            // Instead of a ServerHello: the target found nothing in the ClientHello to agree on.
            AlertDescription::HandshakeFailure | AlertDescription::InsufficientSecurity
                if first =>
            {
                Self::Version
            }
            AlertDescription::CertificateRequired => {
                Self::ClientCertificate { given: asked == ClientCertificate::Given }
            }
            // What libraries send for a client certificate that is missing or not wanted.
            AlertDescription::HandshakeFailure
            | AlertDescription::NoCertificate
            | AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnknownCA
            | AlertDescription::AccessDenied
                if asked != ClientCertificate::NotAsked =>
            {
                Self::ClientCertificate { given: asked == ClientCertificate::Given }
            }
            other => Self::Alert(other),
        }
    }

    fn of_io(kind: io::ErrorKind, head: &Head, asked: ClientCertificate) -> Self {
        let gone = matches!(
            kind,
            io::ErrorKind::UnexpectedEof
                | io::ErrorKind::ConnectionReset
                | io::ErrorKind::ConnectionAborted
                | io::ErrorKind::BrokenPipe
                | io::ErrorKind::NotConnected
        );
        match asked {
            _ if kind == io::ErrorKind::TimedOut => Self::Timeout,
            _ if gone && head.is_empty() => Self::ClosedEarly,
            // Some servers say that they want a client certificate in no other way.
            ClientCertificate::Missing if gone => Self::ClientCertificate { given: false },
            ClientCertificate::NotAsked | ClientCertificate::Missing | ClientCertificate::Given => {
                Self::Cut(kind)
            }
        }
    }
}

/// Why the issuer at which a chain ends is not trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Untrusted {
    /// The target's certificate is signed by itself.
    SelfSigned,
    /// The target sent the root, and it is not among the trusted ones.
    RootSent,
    /// The target sent no certificate for it, and it is not among the trusted ones.
    NotSent,
    /// A root of this name is trusted, but another key signed.
    Namesake,
}

impl Untrusted {
    fn sentence(self, issuer: &str) -> String {
        match self {
            Self::SelfSigned => {
                format!("the certificate of {issuer} is signed by itself, and is not trusted")
            }
            Self::RootSent => format!("the chain ends in {issuer}, which is not trusted"),
            Self::NotSent => format!("the issuer {issuer} is not trusted, and was not sent"),
            Self::Namesake => {
                format!("{issuer} is trusted, but with another key than the one that signed")
            }
        }
    }
}

/// What a certificate may not be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Usage {
    /// Its extended key usage does not name servers (RFC 5280, section 4.2.1.12).
    Server,
    /// It is an authority's certificate, and used as a server's.
    CaAsServer,
    /// It is not an authority's, and used to issue others.
    ServerAsCa,
}

impl Usage {
    const fn sentence(self) -> &'static str {
        match self {
            Self::Server => "the certificate's extended key usage does not allow TLS servers",
            Self::CaAsServer => "a certificate authority's own certificate is used for the server",
            Self::ServerAsCa => "the certificate is issued by one that is no authority's",
        }
    }
}

/// What else can be wrong with a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CertificateFault {
    /// An authority of the chain may not issue for this name (RFC 5280, section 4.2.1.10).
    NameConstraint,
    /// A signature in the chain is not the issuer's.
    Signature,
    /// It is signed in a way that is not accepted any more, or not known.
    Algorithm,
    /// More authorities stand between it and the root than one of them allows.
    PathLength,
    /// It ends before it begins.
    Validity,
    /// It has a critical extension that is not known.
    CriticalExtension,
    /// Verifying it would take too long.
    TooComplex,
    /// It is not encoded as RFC 5280 has it.
    Encoding,
    /// Something that has no word here.
    Other,
}

impl CertificateFault {
    const fn sentence(self) -> &'static str {
        match self {
            Self::NameConstraint => "an authority of the chain may not issue for this name",
            Self::Signature => "a signature in the certificate chain is wrong",
            Self::Algorithm => {
                "a certificate of the chain is signed with an algorithm that is not accepted"
            }
            Self::PathLength => "an authority of the chain may not have authorities below it",
            Self::Validity => "a certificate of the chain ends before it begins",
            Self::CriticalExtension => {
                "a certificate of the chain has a critical extension that is not known"
            }
            Self::TooComplex => "the certificate chain is too complex to be verified",
            Self::Encoding => "a certificate of the chain is not encoded as RFC 5280 has it",
            Self::Other => "a certificate of the chain cannot be used",
        }
    }
}

fn mismatch(name: &str, names: &[String]) -> String {
    // Certificates for hundreds of names exist; a sentence names a few.
    let listed = names.iter().take(NAMES_TOLD_MAX).map(String::as_str).collect::<Vec<_>>();
    let more = match names.len().checked_sub(NAMES_TOLD_MAX) {
        None | Some(0) => String::new(),
        Some(more) => format!(" and {more} more"),
    };
    match names {
        [] => format!(
            "the certificate is not for {name}: it has no subject alternative name that could be \
             a host (the common name does not count)"
        ),
        _ => format!("the certificate is not for {name}, but for {}{more}", listed.join(", ")),
    }
}

const NAMES_TOLD_MAX: usize = 5;

/// The number first, by which IANA's registry is searched.
fn alert_word(alert: AlertDescription) -> String {
    let number = u8::from(alert);
    match alert.as_str() {
        Some(name) => format!("{number} ({name})"),
        None => number.to_string(),
    }
}

/// What rustls said, inside of the error of a stream.
fn rustls_error(error: &io::Error) -> Option<&rustls::Error> {
    // `io::Error::source` would pass over the error that it wraps.
    error.get_ref()?.downcast_ref()
}
