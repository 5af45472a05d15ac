//! What each target's name led to when it was last vetted: the memory behind `dns_rebinding`.
//!
//! Kept in memory for deciding and in the store for restarts. A sighting that cannot be written
//! down is not remembered in memory either, so that it is tried again with the next request.

use std::{
    collections::HashMap,
    sync::{PoisonError, RwLock},
};

use tokio::sync::mpsc;

use crate::{
    policy::address::Class,
    store::{Sighting, Store},
};

/// Most sightings that wait for the disk; each is written within milliseconds.
const QUEUE_MAX: usize = 1024;

/// The memory. One host at a time per target: the one of its base URL.
#[derive(Debug)]
pub struct Sightings {
    seen: RwLock<HashMap<String, (String, Class)>>,
    queue: mpsc::Sender<Sighting>,
}

/// The end that writes. Run by a task of its own.
#[derive(Debug)]
pub struct Writer {
    queue: mpsc::Receiver<Sighting>,
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

    /// Notes what the name leads to now, when that is news.
    pub fn note(&self, target_id: &str, host: &str, class: Class) {
        if self.last_seen(target_id, host) == Some(class) {
            return;
        }
        let sighting = Sighting { target_id: target_id.to_owned(), host: host.to_owned(), class };
        if self.queue.try_send(sighting).is_ok() {
            let mut seen = self.seen.write().unwrap_or_else(PoisonError::into_inner);
            seen.insert(target_id.to_owned(), (host.to_owned(), class));
        }
    }
}

impl Writer {
    /// Writes until the last [`Sightings`] is gone.
    pub async fn run(mut self) {
        while let Some(sighting) = self.queue.recv().await {
            let now = jiff::Timestamp::now().as_second();
            if let Err(error) = self.store.remember(&sighting, now).await {
                tracing::error!(target_id = sighting.target_id, %error, "a sighting was not stored");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_sighting_is_known_at_once_and_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite:{}/gateway.db", folder.path().display());
        let store = Store::open(&url).await.unwrap();
        let (sightings, writer) = Sightings::new(Vec::new(), store.clone());
        sightings.note("acme", "a.example", Class::Global);
        assert_eq!(sightings.last_seen("acme", "a.example"), Some(Class::Global));
        assert_eq!(sightings.last_seen("acme", "b.example"), None);
        drop(sightings);
        writer.run().await;
        let (again, _writer) = Sightings::new(store.sightings().await.unwrap(), store);
        assert_eq!(again.last_seen("acme", "a.example"), Some(Class::Global));
    }
}
