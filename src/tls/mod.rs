//! TLS that the gateway originates towards targets, for traffic and for checks alike.
//!
//! [`Roots`] are read once, [`Outbound`] holds one [`ClientTls`] a target, and its
//! [`handshake`](ClientTls::handshake) gives a verified stream, or says why there is none. What is
//! verified is webpki's matter alone; this module tells what it said, and adds pins.

mod client;
mod credentials;
mod error;
mod facts;
mod files;
mod notes;
mod roots;
mod session;
#[cfg(test)]
mod tests;
mod verdict;
mod verifier;
mod watched;

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

pub use client::{Alpn, ClientTls, Secured};
pub use error::{CertificateFault, HandshakeError, TlsError, Untrusted, Usage};
pub use facts::{CertificateFacts, ClientCertificate, Protocol, TlsFacts, TlsVersion};
pub use files::{FileFault, TlsFile, TlsSettingsError};
pub use roots::Roots;
pub use watched::Watched;

use crate::target::{TargetId, TargetTls};

const ALPN_HTTP1: &[u8] = b"http/1.1";
const ALPN_HTTP2: &[u8] = b"h2";

/// TLS towards all targets. Each has its own, and with it its own sessions: what one target was
/// given to resume with is never shown to another, though it be the same host.
pub struct Outbound {
    roots: Roots,
    made: Mutex<HashMap<TargetId, Made>>,
}

#[derive(Clone)]
struct Made {
    of: Option<TargetTls>,
    tls: Arc<ClientTls>,
}

impl Outbound {
    /// TLS with these roots, towards no target yet.
    pub fn new(roots: Roots) -> Self {
        Self { roots, made: Mutex::default() }
    }

    /// TLS with these roots, towards these targets: for a reload. Where neither roots nor settings
    /// nor the content of files have changed, what there was is taken over with its sessions. Blocks.
    ///
    /// # Errors
    /// All targets whose settings cannot be used, and why. What there was is untouched.
    pub fn renewed<'a>(
        &self,
        roots: Roots,
        targets: impl IntoIterator<Item = (&'a TargetId, Option<&'a TargetTls>)>,
    ) -> Result<Self, Vec<(TargetId, TlsSettingsError)>> {
        let same_roots = roots.is_same(&self.roots);
        let roots = if same_roots { self.roots.clone() } else { roots };
        let mut made = HashMap::new();
        let mut wrong = Vec::new();
        for (id, of) in targets {
            let former =
                self.made().get(id).filter(|made| same_roots && made.of.as_ref() == of).cloned();
            let renewed = match (former, of) {
                // No files, nothing to renew, and nothing that could be wrong before it is used.
                (former, None) => former,
                (former, Some(tls)) => match ClientTls::load(&roots, Some(tls)) {
                    Ok(new) => Some(match former {
                        Some(former) if former.tls.is_same(&new) => former,
                        Some(_) | None => Made { of: of.cloned(), tls: Arc::new(new) },
                    }),
                    Err(error) => {
                        wrong.push((id.clone(), error));
                        None
                    }
                },
            };
            made.extend(renewed.map(|renewed| (id.clone(), renewed)));
        }
        if wrong.is_empty() { Ok(Self { roots, made: Mutex::new(made) }) } else { Err(wrong) }
    }

    /// TLS towards a target: the same each time, until its settings change. Files are read when it
    /// is made, which blocks for a moment, and not again before the next [`renewed`](Self::renewed).
    ///
    /// # Errors
    /// What is wrong with the settings, and with which file.
    pub fn config_for(
        &self,
        id: &TargetId,
        tls: Option<&TargetTls>,
    ) -> Result<Arc<ClientTls>, TlsSettingsError> {
        if let Some(made) = self.made().get(id).filter(|made| made.of.as_ref() == tls) {
            return Ok(Arc::clone(&made.tls));
        }
        let new = Made { of: tls.cloned(), tls: Arc::new(ClientTls::load(&self.roots, tls)?) };
        let mut made = self.made();
        match made.get(id).filter(|made| made.of.as_ref() == tls) {
            // Another connection was faster.
            Some(first) => Ok(Arc::clone(&first.tls)),
            None => Ok(Arc::clone(&made.entry(id.clone()).insert_entry(new).get().tls)),
        }
    }

    /// Drops what was made for a target that is gone, and its sessions.
    pub fn forget(&self, id: &TargetId) {
        self.made().remove(id);
    }

    /// The roots that all targets are verified with, besides their own.
    pub fn roots(&self) -> &Roots {
        &self.roots
    }

    fn made(&self) -> MutexGuard<'_, HashMap<TargetId, Made>> {
        self.made.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Outbound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outbound").field("roots", &self.roots).finish_non_exhaustive()
    }
}
