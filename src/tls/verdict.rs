//! Why a certificate chain was refused: what the verifier said, made plain by the chain itself.
//!
//! Nothing here decides whether a chain is good. It was refused before.

use rustls::{CertificateError, RootCertStore, pki_types::ServerName};
use rustls_pki_types::CertificateDer;
use x509_parser::{
    extensions::{GeneralName, ParsedExtension},
    oid_registry::OID_PKIX_ACCESS_DESCRIPTOR_CA_ISSUERS,
    prelude::{FromDer as _, X509Certificate, X509Name, X509Version},
};

use super::{
    error::{CertificateFault, TlsError, Untrusted, Usage},
    facts::{CertificateFacts, name_text, timestamp},
};

/// A chain that was refused, and what it was to be compared with.
#[derive(Debug)]
pub(super) struct Refused<'a> {
    chain: Vec<X509Certificate<'a>>,
    name: &'a ServerName<'a>,
    roots: &'a [&'a RootCertStore],
}

impl<'a> Refused<'a> {
    pub(super) fn new(
        leaf: &'a CertificateDer<'a>,
        others: &'a [CertificateDer<'a>],
        name: &'a ServerName<'a>,
        roots: &'a [&'a RootCertStore],
    ) -> Self {
        // Where the first cannot be read, the others tell nothing.
        let readable = std::iter::once(leaf).chain(others);
        let chain = readable
            .map_while(|one| X509Certificate::from_der(one).ok().map(|(_, one)| one))
            .collect();
        Self { chain, name, roots }
    }

    /// What `error`, the verifier's word, means for this chain.
    pub(super) fn verdict(&self, error: &rustls::Error) -> TlsError {
        let rustls::Error::InvalidCertificate(error) = error else {
            return TlsError::Protocol(error.clone());
        };
        #[expect(clippy::wildcard_enum_match_arm, reason = "revocation lists are not used")]
        match error {
            CertificateError::ExpiredContext { not_after, .. } => self.expired(not_after.as_secs()),
            CertificateError::NotValidYetContext { not_before, .. } => {
                self.not_yet_valid(not_before.as_secs())
            }
            CertificateError::Expired => CertificateFault::Validity.into(),
            CertificateError::UnknownIssuer => self.unknown_issuer(),
            CertificateError::BadSignature => self.bad_signature(),
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                self.hostname_mismatch()
            }
            CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
                TlsError::WrongUsage(Usage::Server)
            }
            CertificateError::BadEncoding => CertificateFault::Encoding.into(),
            CertificateError::UnsupportedSignatureAlgorithmContext { .. }
            | CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => {
                CertificateFault::Algorithm.into()
            }
            CertificateError::Other(other) => match other.0.downcast_ref() {
                Some(error) => self.webpki(error),
                None => CertificateFault::Other.into(),
            },
            _ => CertificateFault::Other.into(),
        }
    }

    /// What rustls has no words for.
    fn webpki(&self, error: &webpki::Error) -> TlsError {
        use webpki::Error;
        #[expect(clippy::wildcard_enum_match_arm, reason = "revocation lists are not used")]
        match error {
            Error::CaUsedAsEndEntity | Error::EndEntityUsedAsCa if self.is_untrusted_itself() => {
                self.unknown_issuer()
            }
            Error::CaUsedAsEndEntity => TlsError::WrongUsage(Usage::CaAsServer),
            Error::EndEntityUsedAsCa => TlsError::WrongUsage(Usage::ServerAsCa),
            Error::EmptyEkuExtension => TlsError::WrongUsage(Usage::Server),
            // Subject alternative names came with version 3: before, there was the common name only.
            Error::UnsupportedCertVersion if self.leaf_is_of_version_one() => {
                self.hostname_mismatch()
            }
            Error::NameConstraintViolation
            | Error::MalformedNameConstraint
            | Error::InvalidNetworkMaskConstraint => CertificateFault::NameConstraint.into(),
            Error::PathLenConstraintViolated => CertificateFault::PathLength.into(),
            Error::UnsupportedCriticalExtension => CertificateFault::CriticalExtension.into(),
            Error::MaximumNameConstraintComparisonsExceeded
            | Error::MaximumPathBuildCallsExceeded
            | Error::MaximumPathDepthExceeded
            | Error::MaximumSignatureChecksExceeded => CertificateFault::TooComplex.into(),
            Error::SignatureAlgorithmMismatch
            | Error::ExtensionValueInvalid
            | Error::InvalidSerialNumber
            | Error::MalformedDnsIdentifier
            | Error::MalformedExtensions
            | Error::UnsupportedCertVersion => CertificateFault::Encoding.into(),
            _ => CertificateFault::Other.into(),
        }
    }

    fn expired(&self, not_after: u64) -> TlsError {
        let of = self.whose(|one| one.validity().not_after.timestamp(), not_after);
        of.map_or_else(unreadable, |one| TlsError::Expired {
            subject: subject_text(one),
            not_after: timestamp(one.validity().not_after),
        })
    }

    fn not_yet_valid(&self, not_before: u64) -> TlsError {
        let of = self.whose(|one| one.validity().not_before.timestamp(), not_before);
        of.map_or_else(unreadable, |one| TlsError::NotYetValid {
            subject: subject_text(one),
            not_before: timestamp(one.validity().not_before),
        })
    }

    /// The certificate that the verifier's time is of: it names only the time.
    fn whose(
        &self,
        time: impl Fn(&X509Certificate<'_>) -> i64,
        wanted: u64,
    ) -> Option<&X509Certificate<'a>> {
        let wanted = i64::try_from(wanted).ok();
        self.chain.iter().find(|one| Some(time(one)) == wanted).or_else(|| self.chain.first())
    }

    fn hostname_mismatch(&self) -> TlsError {
        let names = self.chain.first().map(|leaf| CertificateFacts::of(leaf).names);
        TlsError::HostnameMismatch {
            name: self.name.to_str().into_owned(),
            names: names.unwrap_or_default(),
        }
    }

    fn unknown_issuer(&self) -> TlsError {
        let Some(leaf) = self.chain.first() else { return unreadable() };
        if is_self_issued(leaf) {
            return unknown(leaf.subject(), Untrusted::SelfSigned);
        }
        let last = self.last_of(leaf);
        let issuer = last.issuer();
        if self.is_root(issuer) {
            unknown(issuer, Untrusted::Namesake)
        } else if is_self_issued(last) {
            unknown(issuer, Untrusted::RootSent)
        } else if std::ptr::eq(last, leaf) && tells_where_its_issuer_is(leaf) {
            TlsError::IncompleteChain { issuer: name_text(issuer) }
        } else {
            unknown(issuer, Untrusted::NotSent)
        }
    }

    /// A signature in the chain is wrong. Where it would have been a root's, another authority bears
    /// that root's name; a link between other certificates is a fault of the chain itself.
    fn bad_signature(&self) -> TlsError {
        let Some(leaf) = self.chain.first() else { return unreadable() };
        let last = self.last_of(leaf);
        let namesake = if is_self_issued(last) {
            self.is_root(last.subject()) && !self.is_key_of_a_root(last)
        } else {
            std::ptr::eq(last, leaf) && self.is_root(leaf.issuer())
        };
        if namesake { self.unknown_issuer() } else { CertificateFault::Signature.into() }
    }

    /// Where one gets from `leaf`, issuer by issuer, with the certificates that were sent.
    fn last_of<'b>(&'b self, leaf: &'b X509Certificate<'a>) -> &'b X509Certificate<'a> {
        let mut last = leaf;
        // Two authorities can certify each other: no more steps than there are certificates.
        for _ in &self.chain {
            let issuer = |one: &&X509Certificate<'a>| {
                one.subject().as_raw() == last.issuer().as_raw() && !is_self_issued(last)
            };
            match self.chain.iter().skip(1).find(issuer) {
                Some(next) => last = next,
                None => break,
            }
        }
        last
    }

    fn is_root(&self, name: &X509Name<'_>) -> bool {
        let roots = self.roots.iter().flat_map(|store| store.subjects());
        roots.into_iter().any(|root| root.as_ref() == name.as_raw())
    }

    fn is_key_of_a_root(&self, certificate: &X509Certificate<'_>) -> bool {
        let mut roots = self.roots.iter().flat_map(|store| &store.roots);
        // A trust anchor holds the key without the outermost tag and length.
        roots.any(|root| certificate.public_key().raw.ends_with(&root.subject_public_key_info))
    }

    fn is_untrusted_itself(&self) -> bool {
        self.chain.first().is_some_and(|leaf| is_self_issued(leaf) && !self.is_root(leaf.subject()))
    }

    fn leaf_is_of_version_one(&self) -> bool {
        self.chain.first().is_some_and(|leaf| leaf.version() == X509Version::V1)
    }
}

impl From<CertificateFault> for TlsError {
    fn from(fault: CertificateFault) -> Self {
        Self::CertificateInvalid(fault)
    }
}

fn unreadable() -> TlsError {
    CertificateFault::Encoding.into()
}

fn unknown(issuer: &X509Name<'_>, untrusted: Untrusted) -> TlsError {
    TlsError::UnknownIssuer { issuer: name_text(issuer), untrusted }
}

fn is_self_issued(certificate: &X509Certificate<'_>) -> bool {
    certificate.subject().as_raw() == certificate.issuer().as_raw()
}

/// Public authorities write into what their intermediates sign where those can be fetched (RFC
/// 5280, section 4.2.2.1), so that a server that forgets to send them works in some browsers.
fn tells_where_its_issuer_is(certificate: &X509Certificate<'_>) -> bool {
    let access = certificate.extensions().iter().filter_map(|extension| {
        let ParsedExtension::AuthorityInfoAccess(access) = extension.parsed_extension() else {
            return None;
        };
        Some(&access.accessdescs)
    });
    access.flatten().any(|one| {
        one.access_method == OID_PKIX_ACCESS_DESCRIPTOR_CA_ISSUERS
            && matches!(&one.access_location, GeneralName::URI(uri) if uri.starts_with("http"))
    })
}

/// A subject for a sentence. Many certificates have an empty one, and names instead.
fn subject_text(certificate: &X509Certificate<'_>) -> String {
    let subject = name_text(certificate.subject());
    if !subject.is_empty() {
        return subject;
    }
    CertificateFacts::of(certificate).names.into_iter().next().unwrap_or_default()
}
