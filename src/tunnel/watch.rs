//! The task that looks after one tunnel's far end while the tunnel is in force.

use std::{
    hash::{BuildHasher as _, RandomState},
    sync::{Arc, PoisonError},
    time::Duration,
};

use prometheus::IntGauge;
use tokio::time::{Instant, timeout_at};

use super::{Core, Tunnel};

/// How long after its last answer a far end is probed; traffic is an answer too.
const INTERVAL: Duration = Duration::from_secs(15);

/// How often it is looked whether a connector is connected: that is known here, and asks nobody.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// [`INTERVAL`] when there is reason to doubt that it still answers.
const DOUBTED_INTERVAL: Duration = Duration::from_secs(1);

/// How long after it went down a far end is probed for the first time. Doubles up to
/// [`INTERVAL`], so that a hop that only restarts is back at once.
const FIRST_RETRY: Duration = Duration::from_millis(250);

impl Tunnel {
    /// Begins to probe the far end, and shows in `up` what is found, until the tunnel is
    /// [retired](Self::retire) or dropped.
    pub(super) fn watch(&self, up: IntGauge) {
        let mut watcher = self.watcher.lock().unwrap_or_else(PoisonError::into_inner);
        if watcher.is_empty() {
            self.core.health.set_watched(Some(up));
            watcher.spawn(watch(Arc::clone(&self.core)));
        }
    }

    /// The tunnel is in force no longer. Its streams live on; requests that began before may still
    /// open some.
    pub(super) fn retire(&self) {
        self.watcher.lock().unwrap_or_else(PoisonError::into_inner).abort_all();
        self.core.health.set_watched(None);
    }
}

async fn watch(core: Arc<Core>) {
    let mut failures: u32 = 0;
    loop {
        // What comes of it is in `health`, with what traffic has found meanwhile.
        let _noted = core.probe().await;
        let (name, down) = (&*core.name, core.health.known().down);
        if let Some(error) = down {
            if failures == 0 {
                tracing::warn!(tunnel = name, %error, "a tunnel is down");
            }
            failures = failures.saturating_add(1);
            pause(&core, retry_after(failures).min(interval(&core))).await;
        } else {
            if failures > 0 {
                tracing::info!(tunnel = name, "a tunnel is up again");
            }
            failures = 0;
            while_it_answers(&core).await;
        }
    }
}

/// Waits, or until something else has shown that the far end is back.
async fn pause(core: &Core, time: Duration) {
    let by = after(Instant::now(), time);
    while core.health.known().down.is_some() {
        if timeout_at(by, core.health.turned()).await.is_err() {
            return;
        }
    }
}

/// Waits until the far end has been silent for a while, or is found to be down.
async fn while_it_answers(core: &Core) {
    let usual = spread(interval(core));
    loop {
        let known = core.health.known();
        let interval = if core.health.is_doubted() { usual.min(DOUBTED_INTERVAL) } else { usual };
        let due = after(known.answered.unwrap_or_else(Instant::now), interval);
        if known.down.is_some() || due <= Instant::now() {
            return;
        }
        let _early = timeout_at(due, core.health.turned()).await;
    }
}

fn interval(core: &Core) -> Duration {
    if core.kind.standing().is_some() { LOOK_INTERVAL } else { INTERVAL }
}

fn retry_after(failures: u32) -> Duration {
    let doubled = 2_u32.checked_pow(failures.saturating_sub(1)).unwrap_or(u32::MAX);
    spread(FIRST_RETRY.saturating_mul(doubled).min(INTERVAL))
}

/// A little more or less than this, so that many gateways do not ask one hop at the same time.
fn spread(time: Duration) -> Duration {
    // Every such state is seeded anew; this is no matter of security.
    let random = RandomState::new().hash_one(0_u8);
    let eighths = u32::try_from(random % 5).unwrap_or_default().saturating_add(6);
    time.saturating_mul(eighths).checked_div(8).unwrap_or(time)
}

fn after(from: Instant, time: Duration) -> Instant {
    from.checked_add(time).unwrap_or(from)
}
