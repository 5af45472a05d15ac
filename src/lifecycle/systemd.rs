//! What the service manager is told (`sd_notify(3)`), and what is asked of the system at the start.

use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use sd_notify::NotifyState;
use tokio::time::{Interval, MissedTickBehavior};

/// Tells that the gateway serves.
pub(super) fn ready() {
    notify(&[NotifyState::Ready, NotifyState::Status("serving")]);
}

/// Tells that the configuration is being read again.
pub(super) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => notify(&[NotifyState::Reloading, now]),
        Err(_) => notify(&[NotifyState::Reloading]),
    }
}

/// Tells that the gateway drains.
pub(super) fn stopping() {
    notify(&[NotifyState::Stopping, NotifyState::Status("draining")]);
}

/// Tells that the main loop still turns.
pub(super) fn alive() {
    notify(&[NotifyState::Watchdog]);
}

fn notify(state: &[NotifyState<'_>]) {
    // Without a service manager there is nobody to tell, which is not an error.
    if let Err(error) = sd_notify::notify(state) {
        tracing::debug!(%error, "the service manager could not be told");
    }
}

/// When the service manager wants a sign of life.
#[derive(Debug)]
pub(super) struct Watchdog(Option<Interval>);

/// The watchdog, where `WatchdogSec=` is set: fed twice within its time.
pub(super) fn watchdog() -> Watchdog {
    let half = sd_notify::watchdog_enabled().and_then(|limit| limit.checked_div(2));
    Watchdog(half.filter(|half| *half > Duration::ZERO).map(|half| {
        let mut interval = tokio::time::interval(half);
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        interval
    }))
}

impl Watchdog {
    /// Ready when a sign of life is due; never without a watchdog.
    pub(super) async fn due(&mut self) {
        match &mut self.0 {
            Some(interval) => drop(interval.tick().await),
            None => std::future::pending().await,
        }
    }
}

/// What the program has open besides connections: listeners, the store, name servers, notices; and
/// 128 pipes, of two ends each, that bulk goes through.
const OWN_FILES: u64 = 384;

/// Raises the soft limit of open files to the hard one: a tunnel needs two. Where that is not
/// allowed the soft limit stays, and says so.
pub(super) fn raise_file_limit() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE).and_then(|(soft, hard)| {
        if soft < hard { setrlimit(Resource::RLIMIT_NOFILE, hard, hard) } else { Ok(()) }
    });
    if let Err(error) = raised {
        tracing::info!(%error, "the limit of open files stays as it is");
    }
}

/// Warns when so many connections, each with one to its target, are more than may be open: the
/// last ones would wait in the kernel, or be refused with `out_of_files`.
pub(super) fn compare_file_limit(max_connections: u32) {
    let needed = u64::from(max_connections).saturating_mul(2).saturating_add(OWN_FILES);
    let Ok((allowed, _)) = getrlimit(Resource::RLIMIT_NOFILE) else { return };
    if allowed < needed {
        tracing::warn!(
            allowed,
            needed,
            "fewer files may be open than limits.max_connections needs: raise LimitNOFILE"
        );
    }
}
