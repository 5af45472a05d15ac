//! What the callbacks of a handshake notice, for the one who waits for its end.
//!
//! rustls calls verifier and credentials from within the handshake's own `poll`, and both are
//! shared by all connections of a target: a new one for each would make every session useless. So
//! what they notice is left in a task-local of that handshake.

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicU8, Ordering},
};

use rustls_pki_types::CertificateDer;

use super::{
    error::TlsError,
    facts::{CertificateFacts, ClientCertificate},
};

tokio::task_local! {
    static NOTES: Arc<Notes>;
}

/// What was noticed in one handshake.
#[derive(Debug, Default)]
pub(super) struct Notes {
    leaf: OnceLock<CertificateDer<'static>>,
    verdict: OnceLock<TlsError>,
    asked: AtomicU8,
}

impl Notes {
    /// Runs a handshake of which these are the notes.
    pub(super) async fn during<T>(self: &Arc<Self>, handshake: impl Future<Output = T>) -> T {
        NOTES.scope(Arc::clone(self), handshake).await
    }

    /// Why the presented certificate was refused, if it was.
    pub(super) fn verdict(&self) -> Option<TlsError> {
        self.verdict.get().cloned()
    }

    /// The certificate that was presented, as far as it can be read.
    pub(super) fn certificate(&self) -> Option<Box<CertificateFacts>> {
        self.leaf.get().and_then(CertificateFacts::read).map(Box::new)
    }

    pub(super) fn client_certificate(&self) -> ClientCertificate {
        match self.asked.load(Ordering::Relaxed) {
            0 => ClientCertificate::NotAsked,
            1 => ClientCertificate::Missing,
            _ => ClientCertificate::Given,
        }
    }
}

/// Notes the certificate that was presented.
pub(super) fn presented(leaf: &CertificateDer<'_>) {
    note(|notes| drop(notes.leaf.set(leaf.clone().into_owned())));
}

/// Notes why it was refused.
pub(super) fn refused(verdict: TlsError) {
    note(|notes| drop(notes.verdict.set(verdict)));
}

/// Notes that a client certificate was asked for.
pub(super) fn client_certificate_asked(given: bool) {
    note(|notes| notes.asked.store(if given { 2 } else { 1 }, Ordering::Relaxed));
}

/// Outside of a handshake there is nobody to read notes, and none are taken.
fn note(take: impl FnOnce(&Notes)) {
    if NOTES.try_with(|notes| take(notes)).is_err() {
        tracing::trace!("a TLS callback outside of a handshake");
    }
}
