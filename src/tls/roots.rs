//! The roots that certificates of targets are verified with.

use std::{fmt, path::PathBuf, sync::Arc};

use rustls::{
    RootCertStore,
    client::{
        WebPkiServerVerifier,
        danger::{ServerCertVerified, ServerCertVerifier as _},
    },
    crypto::aws_lc_rs,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use sha2::{Digest as _, Sha256};

use super::files::{FileFault, Source, TlsFile, TlsSettingsError};

/// The system's roots and those of `tls.extra_roots`, read once. Cloning shares them.
///
/// The system's are those of the platform's store. As with OpenSSL and everything that is built on
/// it, `SSL_CERT_FILE` and `SSL_CERT_DIR` in the environment say where that store lies, instead of
/// the distribution's own place: containers and some distributions have it elsewhere. They are
/// the only variables that have a say in TLS; `SSLKEYLOGFILE` has none.
#[derive(Clone)]
pub struct Roots {
    trusted: Option<Trusted>,
    digest: [u8; 32],
    system: usize,
    extra: usize,
    faults: Arc<[String]>,
}

impl Roots {
    /// Reads the system's roots, and PEM files of further ones. Blocks: a few hundred small reads.
    ///
    /// A system without roots is no error here, as targets may bring their own.
    ///
    /// # Errors
    /// The first of `extra` that cannot be read or that holds something unusable.
    pub fn load(extra: &[PathBuf]) -> Result<Self, TlsSettingsError> {
        let found = rustls_native_certs::load_native_certs();
        let faults = found.errors.iter().map(ToString::to_string).collect();
        Self::of(found.certs, faults, extra)
    }

    /// The roots in these PEM files, and no others.
    ///
    /// # Errors
    /// The first of them that cannot be read or that holds something unusable.
    pub fn only(files: &[PathBuf]) -> Result<Self, TlsSettingsError> {
        Self::of(Vec::new(), Vec::new(), files)
    }

    fn of(
        mut system: Vec<CertificateDer<'static>>,
        mut faults: Vec<String>,
        extra: &[PathBuf],
    ) -> Result<Self, TlsSettingsError> {
        let mut digest = Sha256::new();
        // Directories are listed in any order.
        system.sort_unstable_by(|one, other| one.as_ref().cmp(other.as_ref()));
        system.dedup();
        let mut store = RootCertStore::empty();
        for root in system {
            digest.update(&root);
            // The system's store is not ours to mend: what is unusable there is left out.
            if let Err(error) = store.add(root) {
                faults.push(format!("a root of the system's is left out: {error}"));
            }
        }
        let system = store.len();
        for path in extra {
            add(&mut store, Source { file: TlsFile::ExtraRoot, path }, &mut digest)?;
        }
        let extra = store.len().saturating_sub(system);
        let trusted = Trusted::new(store)?;
        Ok(Self { trusted, digest: digest.finalize().into(), system, extra, faults: faults.into() })
    }

    /// How many roots the system has.
    pub fn system_count(&self) -> usize {
        self.system
    }

    /// How many the files of `tls.extra_roots` have.
    pub fn extra_count(&self) -> usize {
        self.extra
    }

    /// What of the system's roots could not be used, for the log.
    pub fn faults(&self) -> &[String] {
        &self.faults
    }

    pub(super) fn trusted(&self) -> Option<&Trusted> {
        self.trusted.as_ref()
    }

    /// Whether both hold the same roots.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        self.digest == other.digest
    }
}

impl fmt::Debug for Roots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Roots")
            .field("system", &self.system)
            .field("extra", &self.extra)
            .finish_non_exhaustive()
    }
}

/// Some roots, and the verifier that trusts them. Cloning shares them.
#[derive(Clone, Debug)]
pub(super) struct Trusted {
    store: Arc<RootCertStore>,
    verifier: Arc<WebPkiServerVerifier>,
}

impl Trusted {
    /// The roots in a PEM file; its content is added to `digest`.
    pub(super) fn read(
        source: Source<'_>,
        digest: &mut Sha256,
    ) -> Result<Option<Self>, TlsSettingsError> {
        let mut store = RootCertStore::empty();
        add(&mut store, source, digest)?;
        Self::new(store)
    }

    /// webpki's verification, with these roots. It does not look at OCSP responses.
    pub(super) fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.verifier.verify_server_cert(leaf, others, name, &[], now)
    }

    /// webpki's verification of signatures, which is the same whatever the roots are.
    pub(super) fn signatures(&self) -> &WebPkiServerVerifier {
        &self.verifier
    }

    pub(super) fn store(&self) -> &RootCertStore {
        &self.store
    }

    /// `None` where there are no roots at all.
    fn new(store: RootCertStore) -> Result<Option<Self>, TlsSettingsError> {
        if store.is_empty() {
            return Ok(None);
        }
        let store = Arc::new(store);
        // Given here and not taken from the process, whose default any library may set.
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = WebPkiServerVerifier::builder_with_provider(Arc::clone(&store), provider);
        let verifier = builder.build().map_err(|_| TlsSettingsError::NoRoots)?;
        Ok(Some(Self { store, verifier }))
    }
}

fn add(
    store: &mut RootCertStore,
    source: Source<'_>,
    digest: &mut Sha256,
) -> Result<(), TlsSettingsError> {
    for (index, root) in source.read(digest)?.certificates()?.into_iter().enumerate() {
        store.add(root).map_err(|reason| {
            source.fault(FileFault::Certificate { number: index.saturating_add(1), reason })
        })?;
    }
    Ok(())
}
