//! What a handshake showed: the protocol that was agreed on, and the certificate.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use jiff::Timestamp;
use rustls::{CipherSuite, ClientConnection, HandshakeKind, ProtocolVersion};
use rustls_pki_types::CertificateDer;
use sha2::{Digest as _, Sha256};
use x509_parser::{
    extensions::GeneralName,
    prelude::{ASN1Time, FromDer as _, X509Certificate, X509Name},
};

use super::ALPN_HTTP2;

/// Most names of a certificate that are kept; some carry thousands.
const NAMES_MAX: usize = 100;

/// Longest text that is taken over from a certificate, in characters.
const TEXT_CHARS_MAX: usize = 256;

/// What was agreed on in a handshake that succeeded, and with whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFacts {
    /// The protocol's version.
    pub version: TlsVersion,
    /// The cipher suite, by its name in IANA's registry.
    pub cipher_suite: &'static str,
    /// The group of the key exchange, by its name in IANA's registry; `None` where a TLS 1.2
    /// session was resumed, which exchanges no keys.
    pub key_exchange: Option<&'static str>,
    /// What the target chose of what was offered (RFC 7301); `None` where it chose nothing, which
    /// means HTTP/1.1.
    pub alpn: Option<Protocol>,
    /// Whether an earlier session was resumed. The certificate is then the one of that session.
    pub resumed: bool,
    /// Whether the target asked for a client certificate. A resumed session does not tell.
    pub client_certificate: ClientCertificate,
    /// The target's certificate, where it can be read.
    pub certificate: Option<Box<CertificateFacts>>,
}

impl TlsFacts {
    pub(super) fn of(connection: &ClientConnection, asked: ClientCertificate) -> Self {
        // Only these two are offered.
        let is_13 = connection.protocol_version() == Some(ProtocolVersion::TLSv1_3);
        let suite = connection.negotiated_cipher_suite().map(|suite| suite_name(suite.suite()));
        let group = connection.negotiated_key_exchange_group();
        let leaf = connection.peer_certificates().and_then(<[_]>::first);
        Self {
            version: if is_13 { TlsVersion::Tls13 } else { TlsVersion::Tls12 },
            cipher_suite: suite.unwrap_or("unknown"),
            key_exchange: group.and_then(|group| group.name().as_str()),
            alpn: connection.alpn_protocol().map(Protocol::of),
            resumed: connection.handshake_kind() == Some(HandshakeKind::Resumed),
            client_certificate: asked,
            certificate: leaf.and_then(CertificateFacts::read).map(Box::new),
        }
    }
}

/// A version of TLS that the gateway speaks. Older ones are never offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum TlsVersion {
    /// RFC 5246.
    Tls12,
    /// RFC 8446.
    Tls13,
}

impl TlsVersion {
    /// The word of checks and events.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tls12 => "TLSv1.2",
            Self::Tls13 => "TLSv1.3",
        }
    }
}

/// A version of HTTP, as a target chooses it inside TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// `http/1.1`.
    Http1,
    /// `h2`.
    Http2,
}

impl Protocol {
    /// rustls sees to it that it is one of those that were offered.
    fn of(chosen: &[u8]) -> Self {
        if chosen == ALPN_HTTP2 { Self::Http2 } else { Self::Http1 }
    }
}

/// Whether a target asked for a client certificate, and what it got.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ClientCertificate {
    /// It did not ask.
    #[default]
    NotAsked,
    /// It asked, and none is set for the target; it may do without.
    Missing,
    /// It asked, and got the one that is set for the target.
    Given,
}

/// What stands in a certificate. Everything in it is the other side's word: it may have failed
/// verification. Control characters are replaced, and long texts cut.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFacts {
    /// The distinguished name of the subject; often empty.
    pub subject: String,
    /// The distinguished name of the issuer.
    pub issuer: String,
    /// From when on it is valid.
    pub not_before: Timestamp,
    /// Until when it is valid.
    pub not_after: Timestamp,
    /// The DNS names and IP addresses among the subject alternative names (RFC 5280, section
    /// 4.2.1.6), at most 100. Only they are compared with the host, never the common name.
    pub names: Vec<String>,
    /// The public key's pin, `sha256//BASE64`, as `tls.pins` of a target takes it.
    pub pin: String,
}

impl CertificateFacts {
    /// Reads a certificate; `None` where it is not one.
    pub fn read(certificate: &CertificateDer<'_>) -> Option<Self> {
        X509Certificate::from_der(certificate).ok().map(|(_, parsed)| Self::of(&parsed))
    }

    pub(super) fn of(parsed: &X509Certificate<'_>) -> Self {
        Self {
            subject: name_text(parsed.subject()),
            issuer: name_text(parsed.issuer()),
            not_before: timestamp(parsed.validity().not_before),
            not_after: timestamp(parsed.validity().not_after),
            names: names(parsed),
            pin: pin_text(&Sha256::digest(parsed.public_key().raw).into()),
        }
    }
}

/// A cipher suite by its name in IANA's registry; rustls has its own for those of TLS 1.3.
fn suite_name(suite: CipherSuite) -> &'static str {
    #[expect(clippy::wildcard_enum_match_arm, reason = "the registry has three hundred others")]
    match suite {
        CipherSuite::TLS13_AES_128_GCM_SHA256 => "TLS_AES_128_GCM_SHA256",
        CipherSuite::TLS13_AES_256_GCM_SHA384 => "TLS_AES_256_GCM_SHA384",
        CipherSuite::TLS13_CHACHA20_POLY1305_SHA256 => "TLS_CHACHA20_POLY1305_SHA256",
        other => other.as_str().unwrap_or("unknown"),
    }
}

/// A pin as curl writes it.
pub(super) fn pin_text(pin: &[u8; 32]) -> String {
    format!("sha256//{}", BASE64_STANDARD.encode(pin))
}

/// A distinguished name for people.
pub(super) fn name_text(name: &X509Name<'_>) -> String {
    printable(name)
}

/// A certificate's time. One beyond what can be counted, such as RFC 5280's "no expiration" of
/// 9999-12-31, becomes the last that can.
pub(super) fn timestamp(time: ASN1Time) -> Timestamp {
    let seconds = time.timestamp();
    let bound = if seconds < 0 { Timestamp::MIN } else { Timestamp::MAX };
    Timestamp::from_second(seconds).unwrap_or(bound)
}

/// Text from the other side, made safe for logs, header fields and terminals.
fn printable(text: &impl fmt::Display) -> String {
    let text = text.to_string();
    let safe = |c: char| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c };
    text.chars().take(TEXT_CHARS_MAX).map(safe).collect()
}

fn names(certificate: &X509Certificate<'_>) -> Vec<String> {
    let Ok(Some(names)) = certificate.subject_alternative_name() else { return Vec::new() };
    let readable = names.value.general_names.iter().filter_map(|name| match name {
        GeneralName::DNSName(name) => Some(printable(name)),
        GeneralName::IPAddress(octets) => ip(octets).map(|ip| ip.to_string()),
        GeneralName::URI(_)
        | GeneralName::OtherName(..)
        | GeneralName::RFC822Name(_)
        | GeneralName::X400Address(_)
        | GeneralName::DirectoryName(_)
        | GeneralName::EDIPartyName(_)
        | GeneralName::RegisteredID(_)
        | GeneralName::Invalid(..) => None,
    });
    readable.take(NAMES_MAX).collect()
}

fn ip(octets: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(octets).map(|four| Ipv4Addr::from(four).into());
    v4.or_else(|_| <[u8; 16]>::try_from(octets).map(|sixteen| Ipv6Addr::from(sixteen).into())).ok()
}
