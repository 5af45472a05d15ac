//! What each target's name led to when it was last vetted: the memory behind `dns_rebinding`.
//!
//! Kept in memory for deciding and in the store for restarts. A sighting that cannot be written
//! down is not remembered in memory either, so that it is tried again with the next request.

use std::{
    collections::HashMap,
    sync::{PoisonError, RwLock},
    time::Duration,
};

use tokio::sync::{mpsc, oneshot};

use crate::{
    policy::address::Class,
    store::{Sighting, Store},
};

/// Most sightings that wait for the disk.
const QUEUE_MAX: usize = 1024;

/// Most sightings that are written in one transaction.
const BATCH_MAX: usize = 256;

/// How long a request waits for its sighting to be on the disk. It goes on without: what the store
/// cannot keep is said in the log and by `/readyz`, and must not stop traffic.
const WRITE_TIMEOUT: Duration = Duration::from_secs(2);

/// The memory. One host at a time per target: the one of its base URL.
#[derive(Debug)]
pub struct Sightings {
    seen: RwLock<HashMap<String, (String, Class)>>,
    queue: mpsc::Sender<(Sighting, oneshot::Sender<()>)>,
}

/// The end that writes. Run by a task of its own.
#[derive(Debug)]
pub struct Writer {
    queue: mpsc::Receiver<(Sighting, oneshot::Sender<()>)>,
    store: Store,
}

impl Sightings {
    /// Begins with what the store knows.
    pub fn new(known: Vec<Sighting>, store: Store) -> (Self, Writer) {
        let (sender, receiver) = mpsc::channel(QUEUE_MAX);
        let seen = known.into_iter().map(|one| (one.target_id, (one.host, one.class))).collect();
        (Self { seen: RwLock::new(seen), queue: sender }, Writer { queue: receiver, store })
    }

    /// The class of the name when it was last vetted for this target.
    pub fn last_seen(&self, target_id: &str, host: &str) -> Option<Class> {
        let seen = self.seen.read().unwrap_or_else(PoisonError::into_inner);
        seen.get(target_id).filter(|(name, _)| name == host).map(|(_, class)| *class)
    }

    /// Notes what the name leads to now. When that is news it is on the disk before anything is
    /// sent to the target, so that even a crash right after leaves it known.
    pub async fn note(&self, target_id: &str, host: &str, class: Class) {
        if self.last_seen(target_id, host) == Some(class) {
            return;
        }
        let sighting = Sighting { target_id: target_id.to_owned(), host: host.to_owned(), class };
        let (written, on_disk) = oneshot::channel();
        if self.queue.try_send((sighting, written)).is_err() {
            return;
        }
        if matches!(tokio::time::timeout(WRITE_TIMEOUT, on_disk).await, Ok(Ok(()))) {
            let mut seen = self.seen.write().unwrap_or_else(PoisonError::into_inner);
            seen.insert(target_id.to_owned(), (host.to_owned(), class));
        }
    }
}

impl Writer {
    /// Writes until the last [`Sightings`] is gone.
    pub async fn run(mut self) {
        let mut batch = Vec::new();
        while self.queue.recv_many(&mut batch, BATCH_MAX).await > 0 {
            let now = jiff::Timestamp::now().as_second();
            let (sightings, waiting): (Vec<_>, Vec<_>) = batch.drain(..).unzip();
            match self.store.remember(&sightings, now).await {
                Ok(()) => {
                    // Whoever waited may be gone; the sighting is kept all the same.
                    for one in waiting {
                        let _gone = one.send(());
                    }
                }
                Err(error) => {
                    let count = sightings.len();
                    tracing::error!(count, %error, "what names led to could not be stored");
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[expect(clippy::disallowed_methods, reason = "a test's own task")]
    #[tokio::test]
    async fn a_sighting_is_known_at_once_and_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite:{}/gateway.db", folder.path().display());
        let store = Store::open(&url).await.unwrap();
        let (sightings, writer) = Sightings::new(Vec::new(), store.clone());
        let writing = tokio::spawn(writer.run());
        sightings.note("acme", "a.example", Class::Global).await;
        assert_eq!(sightings.last_seen("acme", "a.example"), Some(Class::Global));
        assert_eq!(sightings.last_seen("acme", "b.example"), None);
        assert_eq!(store.sightings().await.unwrap().len(), 1, "on the disk when noted");
        drop(sightings);
        writing.await.unwrap();
        let (again, _writer) = Sightings::new(store.sightings().await.unwrap(), store);
        assert_eq!(again.last_seen("acme", "a.example"), Some(Class::Global));
    }
}
