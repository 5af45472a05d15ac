//! What is remembered, and who waits for what is not yet known: one lookup at a time for a name.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hickory_proto::rr::Name;
use moka::Expiry;
use moka::sync::Cache;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use super::upstream::Upstreams;
use super::{Answer, ResolveError, lookup};

/// How many names are remembered. A name and its addresses take some 200 bytes, mostly.
const CACHE_NAMES_MAX: u64 = 10_000;

/// How many names can be waited for; one more is refused at once.
const FLIGHTS_MAX: usize = 10_000;

type Outcome = Result<Answer, ResolveError>;

/// Lookups, running and remembered. The running ones end when this is dropped.
pub(super) struct Flights {
    shared: Arc<Shared>,
    tasks: Mutex<JoinSet<()>>,
}

struct Shared {
    upstreams: Arc<Upstreams>,
    limit: Duration,
    turns: Semaphore,
    cache: Cache<Arc<str>, Remembered>,
    /// By name, where the outcome will appear; it is in the cache before it leaves this map.
    running: Mutex<HashMap<Arc<str>, watch::Receiver<Option<Outcome>>>>,
}

#[derive(Clone)]
struct Remembered {
    outcome: Outcome,
    expires: Instant,
}

impl Flights {
    /// Nothing running, nothing remembered. A lookup takes at most `limit`, waiting for one of
    /// the `turns` included.
    pub(super) fn new(upstreams: Arc<Upstreams>, limit: Duration, turns: usize) -> Self {
        let cache = Cache::builder().max_capacity(CACHE_NAMES_MAX).expire_after(UntilExpiry);
        let shared = Shared {
            upstreams,
            limit,
            turns: Semaphore::new(turns),
            cache: cache.build(),
            running: Mutex::new(HashMap::new()),
        };
        Self { shared: Arc::new(shared), tasks: Mutex::new(JoinSet::new()) }
    }

    /// What is remembered of the name, or what its one lookup finds.
    pub(super) async fn resolve(&self, name: &str) -> Outcome {
        // without a wait: what is remembered costs its request no task switch
        if let Some(remembered) = self.shared.remembered(name) {
            return remembered;
        }
        let mut outcome = self.join(name)?;
        // the lookup limits itself; it goes away without an outcome only with its runtime
        let found = outcome.wait_for(Option::is_some).await.map_err(|_| ResolveError::Unreachable);
        found?.clone().unwrap_or(Err(ResolveError::Unreachable))
    }

    /// The running lookup of the name; starts it if there is none.
    ///
    /// It runs in a task of its own, so that it does not end with whoever began it. (A cache
    /// that runs it in the first caller's task, and in the next one's when that one leaves, as
    /// moka's `get_with`, would let callers who keep leaving delay all others for ever.)
    pub(super) fn join(
        &self,
        name: &str,
    ) -> Result<watch::Receiver<Option<Outcome>>, ResolveError> {
        let (tell, outcome) = watch::channel(None);
        let name: Arc<str> = {
            let mut running = self.shared.running();
            if let Some(outcome) = running.get(name) {
                return Ok(outcome.clone());
            }
            if running.len() >= FLIGHTS_MAX {
                return Err(ResolveError::TooManyQueries);
            }
            let name = Arc::from(name);
            running.insert(Arc::clone(&name), outcome.clone());
            name
        };
        // With the list unlocked: a runtime that is shutting down drops what it is given at once,
        // and the dropping locks the list.
        let landing = Landing { shared: Arc::clone(&self.shared), name, tell };
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        while tasks.try_join_next().is_some() {} // forget those that are done
        tasks.spawn(landing.fly());
        Ok(outcome)
    }

    /// How many lookups have not ended.
    #[cfg(test)]
    pub(super) fn running_count(&self) -> usize {
        let mut tasks = self.tasks.lock().unwrap();
        while tasks.try_join_next().is_some() {}
        tasks.len()
    }
}

impl Shared {
    fn running(&self) -> MutexGuard<'_, HashMap<Arc<str>, watch::Receiver<Option<Outcome>>>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn remembered(&self, name: &str) -> Option<Outcome> {
        let remembered = self.cache.get(name)?;
        // also by our own clock, which tests can stop
        let fresh = Instant::now() < remembered.expires;
        fresh.then(|| remembered.outcome.map(|answer| Answer { cached: true, ..answer }))
    }

    async fn look_up(&self, name: &str) -> Remembered {
        let deadline = Instant::now().checked_add(self.limit).unwrap_or_else(Instant::now);
        let found = match timeout_at(deadline, self.turns.acquire()).await {
            Err(_) | Ok(Err(_)) => Err(ResolveError::TooManyQueries.into()),
            Ok(Ok(_turn)) => match Name::from_ascii(format!("{name}.")) {
                Err(_) => Err(ResolveError::InvalidName.into()),
                Ok(name) => timeout_at(deadline, lookup::addresses(&self.upstreams, &name))
                    .await
                    .unwrap_or_else(|_| Err(ResolveError::Timeout.into())),
            },
        };
        let until = |ttl| Instant::now().checked_add(ttl).unwrap_or_else(Instant::now);
        match found {
            Ok(found) => {
                let expires = until(found.ttl);
                let addresses = Arc::from(found.addresses);
                let complete = found.complete;
                let answer = Answer { addresses, cached: false, complete, expires };
                Remembered { outcome: Ok(answer), expires }
            }
            Err(failure) => Remembered { outcome: Err(failure.error), expires: until(failure.ttl) },
        }
    }
}

/// A running lookup. However it ends, its name leaves the list of those that run.
struct Landing {
    shared: Arc<Shared>,
    name: Arc<str>,
    tell: watch::Sender<Option<Outcome>>,
}

impl Landing {
    async fn fly(self) {
        // whoever began this had looked before the last lookup ended, perhaps
        let outcome = if let Some(outcome) = self.shared.remembered(&self.name) {
            outcome
        } else {
            let found = self.shared.look_up(&self.name).await;
            let outcome = found.outcome.clone();
            self.shared.cache.insert(Arc::clone(&self.name), found);
            outcome
        };
        drop(self.tell.send_replace(Some(outcome)));
    }
}

impl Drop for Landing {
    fn drop(&mut self) {
        drop(self.shared.running().remove(&self.name));
    }
}

/// Entries go when they expire, not only when there are too many.
struct UntilExpiry;

#[expect(clippy::disallowed_types, reason = "moka has its own clock")]
impl Expiry<Arc<str>, Remembered> for UntilExpiry {
    fn expire_after_create(
        &self,
        _name: &Arc<str>,
        remembered: &Remembered,
        _now: std::time::Instant,
    ) -> Option<Duration> {
        Some(remembered.expires.saturating_duration_since(Instant::now()))
    }

    fn expire_after_update(
        &self,
        name: &Arc<str>,
        remembered: &Remembered,
        now: std::time::Instant,
        _left: Option<Duration>,
    ) -> Option<Duration> {
        self.expire_after_create(name, remembered, now)
    }
}
