//! Webhook deliveries: which are under way, which receivers are left alone for a while, and the
//! queue that leads to the store.
//!
//! What is under way is known in memory only: after a crash nothing is, and an interrupted delivery
//! is sent again. That a delivery succeeded is on the disk before its client hears of it.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};

use crate::{
    origin::BaseUrl,
    store::{
        Store,
        deliveries::{Attempt, KnownKey},
    },
    target::{Target, TargetId},
    webhook::breaker::{Breaker, JITTER_PARTS, Ticket, Trouble, Wait},
};

/// Most attempts that wait for the disk.
const QUEUE_MAX: usize = 4096;

/// Most attempts that are written in one transaction.
const BATCH_MAX: usize = 256;

/// How long an answer waits for its delivery to be on the disk, and a request for what the disk
/// knows of its key. Both go on without: a disk that fails must not stop deliveries.
const DISK_TIMEOUT: Duration = Duration::from_secs(2);

/// How often the store is swept.
const SWEEP_INTERVAL: Duration = Duration::from_mins(10);

/// Attempts after which it is swept earlier, so that many in a short time are bounded too.
const SWEEP_ATTEMPTS: usize = 50_000;

/// Keys that are under way: each with what it stands for.
type InFlight = Arc<Mutex<HashMap<(TargetId, String), String>>>;

/// What is known of deliveries.
#[derive(Debug)]
pub struct Deliveries {
    in_flight: InFlight,
    breakers: Mutex<HashMap<TargetId, (BaseUrl, Breaker)>>,
    queue: mpsc::Sender<Job>,
    store: Store,
    /// What the breakers count from.
    started: Instant,
}

/// The end that writes. Run by a task of its own.
#[derive(Debug)]
pub struct Writer {
    queue: mpsc::Receiver<Job>,
    store: Store,
}

/// An attempt on its way to the disk.
#[derive(Debug)]
struct Job {
    attempt: Attempt,
    known: Option<KnownKey>,
    written: Option<oneshot::Sender<()>>,
    marker: Option<Marker>,
}

/// A key that is under way, until this is dropped.
#[derive(Debug)]
pub struct Marker {
    in_flight: InFlight,
    key: (TargetId, String),
}

impl Drop for Marker {
    fn drop(&mut self) {
        self.in_flight.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
    }
}

/// The key is under way already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Busy {
    /// Whether for the very same delivery.
    pub same: bool,
}

/// How asking a receiver went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Went {
    /// It answered.
    Well,
    /// It failed.
    Badly(Trouble),
    /// Nobody knows, or it was not the receiver's doing.
    Unknown,
}

impl Deliveries {
    /// Nothing under way.
    pub fn new(store: Store) -> (Self, Writer) {
        let (sender, receiver) = mpsc::channel(QUEUE_MAX);
        let deliveries = Self {
            in_flight: Arc::default(),
            breakers: Mutex::default(),
            queue: sender,
            store: store.clone(),
            started: Instant::now(),
        };
        (deliveries, Writer { queue: receiver, store })
    }

    /// Marks a key as under way.
    ///
    /// # Errors
    /// It is already.
    pub fn begin(&self, target: &TargetId, key: &str, fingerprint: &str) -> Result<Marker, Busy> {
        let key = (target.clone(), key.to_owned());
        let mut in_flight = self.in_flight.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(other) = in_flight.get(&key) {
            return Err(Busy { same: other == fingerprint });
        }
        in_flight.insert(key.clone(), fingerprint.to_owned());
        drop(in_flight);
        Ok(Marker { in_flight: Arc::clone(&self.in_flight), key })
    }

    /// What a key stands for. Where the store cannot say, nothing: the delivery is then sent, maybe
    /// once more than needed.
    pub async fn known(&self, target: &TargetId, key: &str, now: i64) -> Option<KnownKey> {
        let asked = self.store.known_key(target.as_str(), key, now);
        match tokio::time::timeout(DISK_TIMEOUT, asked).await {
            Ok(Ok(known)) => known,
            Ok(Err(error)) => {
                tracing::error!(%target, %error, "it is not known whether this was delivered before");
                None
            }
            Err(_) => {
                tracing::error!(
                    %target,
                    "the store does not say in time whether this was delivered before"
                );
                None
            }
        }
    }

    /// May the receiver be asked now?
    ///
    /// # Errors
    /// It is left alone for a while, as it kept failing.
    pub fn admit(&self, target: &Target, now: Instant) -> Result<Ticket, Wait> {
        let now = now.saturating_duration_since(self.started);
        self.breaker(target, |breaker| breaker.admit(now))
    }

    /// Tells how it went. How long the receiver is now left alone, if it is.
    pub fn settle(
        &self,
        target: &Target,
        ticket: Ticket,
        now: Instant,
        went: Went,
    ) -> Option<Duration> {
        let now = now.saturating_duration_since(self.started);
        self.breaker(target, |breaker| match went {
            Went::Well => {
                breaker.succeeded();
                None
            }
            Went::Badly(trouble) => breaker.failed(ticket, now, trouble, jitter()),
            Went::Unknown => {
                breaker.unknown(ticket, now);
                None
            }
        })
    }

    /// A receiver at another URL begins anew. One that works takes no memory.
    fn breaker<T>(&self, target: &Target, act: impl FnOnce(&mut Breaker) -> T) -> T {
        let mut breakers = self.breakers.lock().unwrap_or_else(PoisonError::into_inner);
        let former = breakers.remove(&target.id).filter(|(base, _)| *base == target.base);
        let mut breaker = former.map(|(_, breaker)| breaker).unwrap_or_default();
        let result = act(&mut breaker);
        if !breaker.is_fresh() {
            breakers.insert(target.id.clone(), (target.base.clone(), breaker));
        }
        result
    }

    /// Forgets receivers that are no targets any more.
    pub fn sweep(&self, is_target: impl Fn(&TargetId) -> bool) {
        let mut breakers = self.breakers.lock().unwrap_or_else(PoisonError::into_inner);
        breakers.retain(|id, _| is_target(id));
    }

    /// Has an attempt written some time soon. Nobody has to wait for it: until then its key is only
    /// not known to stand for anything.
    pub fn note(&self, attempt: Attempt, known: Option<KnownKey>) {
        let job = Job { attempt, known, written: None, marker: None };
        if let Err(error) = self.queue.try_send(job) {
            tracing::error!(%error, "an attempt at a delivery is not recorded");
        }
    }

    /// Has a success written, and waits until it is on the disk. Its key is under way until then,
    /// even when nobody waits any longer.
    pub async fn note_delivered(
        &self,
        attempt: Attempt,
        known: Option<KnownKey>,
        marker: Option<Marker>,
    ) {
        let (written, on_disk) = oneshot::channel();
        let target = attempt.target_id.clone();
        let job = Job { attempt, known, written: Some(written), marker };
        let wait = async {
            let sent = self.queue.send(job).await.is_ok();
            sent && on_disk.await.is_ok()
        };
        if !matches!(tokio::time::timeout(DISK_TIMEOUT, wait).await, Ok(true)) {
            tracing::error!(
                target_id = target,
                "a delivery succeeded, but that could not be stored: with the same key it is sent again"
            );
        }
    }
}

impl Writer {
    /// Writes, and sweeps, until the last [`Deliveries`] is gone.
    pub async fn run(mut self) {
        let mut batch = Vec::new();
        let mut sweep = tokio::time::interval(SWEEP_INTERVAL);
        let mut since_sweep = 0_usize;
        loop {
            tokio::select! {
                biased;
                received = self.queue.recv_many(&mut batch, BATCH_MAX) => {
                    if received == 0 {
                        return;
                    }
                    since_sweep = since_sweep.saturating_add(received);
                    self.write(&mut batch).await;
                }
                _ = sweep.tick() => since_sweep = SWEEP_ATTEMPTS,
            }
            if since_sweep >= SWEEP_ATTEMPTS && self.sweep().await {
                since_sweep = 0;
            }
        }
    }

    async fn write(&self, batch: &mut Vec<Job>) {
        let (mut rows, mut waiting) = (Vec::new(), Vec::new());
        for job in batch.drain(..) {
            rows.push((job.attempt, job.known));
            waiting.push((job.written, job.marker));
        }
        match self.store.keep_attempts(&rows).await {
            Ok(()) => {
                for (written, marker) in waiting {
                    drop(marker);
                    // Whoever waited may be gone; the delivery is known all the same.
                    let _gone = written.map(|written| written.send(()));
                }
            }
            Err(error) => {
                let count = rows.len();
                tracing::error!(count, %error, "attempts at deliveries could not be stored");
            }
        }
    }

    /// Deletes one portion of what is too old. Whether that was all.
    async fn sweep(&self) -> bool {
        match self.store.sweep_deliveries(now_ms()).await {
            Ok(more) => !more,
            Err(error) => {
                tracing::error!(%error, "old attempts at deliveries could not be deleted");
                true
            }
        }
    }
}

/// Unix milliseconds.
pub fn now_ms() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}

fn jitter() -> u32 {
    let random = ulid::Ulid::new().random().checked_rem(u128::from(JITTER_PARTS));
    random.and_then(|part| u32::try_from(part).ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{store::deliveries::WebhookStatus, target::tests::target};

    fn id(text: &str) -> TargetId {
        TargetId::parse(text).unwrap()
    }

    async fn deliveries(folder: &tempfile::TempDir) -> (Deliveries, Writer, Store) {
        let url = format!("sqlite:{}/gateway.db", folder.path().display());
        let store = Store::open(&url).await.unwrap();
        let (deliveries, writer) = Deliveries::new(store.clone());
        (deliveries, writer, store)
    }

    fn attempt(key: &str) -> Attempt {
        Attempt {
            webhook_attempt_id: ulid::Ulid::new().to_string(),
            delivery_id: "d".into(),
            target_id: "hook".into(),
            event_type: None,
            webhook_status: WebhookStatus::Delivered,
            idempotency_key: Some(key.into()),
            payload_hash: None,
            method: "POST".into(),
            url_hash: None,
            receiver_status_code: Some(200),
            code: None,
            cause: None,
            duration_ms: 1,
            last_attempt_at: now_ms(),
            retry_after_seconds: None,
        }
    }

    fn known() -> KnownKey {
        KnownKey { delivery_id: "d".into(), fingerprint: "f".into(), receiver_status: Some(200) }
    }

    #[tokio::test]
    async fn a_key_is_under_way_once_per_target_until_its_marker_goes() {
        let folder = tempfile::tempdir().unwrap();
        let (deliveries, _writer, _) = deliveries(&folder).await;
        let marker = deliveries.begin(&id("a"), "k", "f").unwrap();
        assert_eq!(deliveries.begin(&id("a"), "k", "f").unwrap_err(), Busy { same: true });
        assert_eq!(deliveries.begin(&id("a"), "k", "g").unwrap_err(), Busy { same: false });
        let other = deliveries.begin(&id("b"), "k", "g").unwrap();
        drop(marker);
        drop(deliveries.begin(&id("a"), "k", "g").unwrap());
        drop(other);
        assert!(deliveries.in_flight.lock().unwrap().is_empty());
    }

    #[expect(clippy::disallowed_methods, reason = "a test's own task")]
    #[tokio::test]
    async fn a_success_is_on_the_disk_when_it_is_noted_and_its_key_is_free() {
        let folder = tempfile::tempdir().unwrap();
        let (deliveries, writer, store) = deliveries(&folder).await;
        let writing = tokio::spawn(writer.run());
        let marker = deliveries.begin(&id("hook"), "k", "f").unwrap();
        deliveries.note_delivered(attempt("k"), Some(known()), Some(marker)).await;
        assert_eq!(store.known_key("hook", "k", now_ms()).await.unwrap(), Some(known()));
        assert_eq!(deliveries.known(&id("hook"), "k", now_ms()).await, Some(known()));
        drop(deliveries.begin(&id("hook"), "k", "f").unwrap());
        drop(deliveries);
        writing.await.unwrap();
    }

    #[tokio::test]
    async fn a_key_stays_under_way_while_its_success_waits_for_the_disk() {
        let folder = tempfile::tempdir().unwrap();
        let (deliveries, _writer_that_never_runs, _) = deliveries(&folder).await;
        let marker = deliveries.begin(&id("hook"), "k", "f").unwrap();
        {
            let gives_up = deliveries.note_delivered(attempt("k"), Some(known()), Some(marker));
            let mut gives_up = std::pin::pin!(gives_up);
            assert!(futures_poll_once(gives_up.as_mut()).await.is_none());
        }
        assert!(deliveries.begin(&id("hook"), "k", "f").is_err());
    }

    /// Polls once; `None` where it has to wait.
    async fn futures_poll_once<F: Future>(mut future: std::pin::Pin<&mut F>) -> Option<F::Output> {
        std::future::poll_fn(|cx| {
            std::task::Poll::Ready(match future.as_mut().poll(cx) {
                std::task::Poll::Ready(output) => Some(output),
                std::task::Poll::Pending => None,
            })
        })
        .await
    }

    #[tokio::test]
    async fn a_receiver_that_moved_begins_anew_and_one_that_is_gone_is_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let (deliveries, _writer, _) = deliveries(&folder).await;
        let (now, here) = (Instant::now(), target("a", "https://a.example/hook"));
        for _ in 0..5 {
            let ticket = deliveries.admit(&here, now).unwrap();
            deliveries.settle(&here, ticket, now, Went::Badly(Trouble::Down));
        }
        assert!(deliveries.admit(&here, now).is_err());
        deliveries.sweep(|id| id.as_str() == "a");
        assert!(deliveries.admit(&here, now).is_err());
        assert!(deliveries.admit(&target("a", "https://b.example/hook"), now).is_ok());
        assert!(deliveries.breakers.lock().unwrap().is_empty(), "nothing to remember of it");
        let ticket = deliveries.admit(&here, now).unwrap();
        deliveries.settle(&here, ticket, now, Went::Badly(Trouble::Down));
        deliveries.sweep(|_| false);
        assert!(deliveries.breakers.lock().unwrap().is_empty());
    }
}
