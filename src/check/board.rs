//! What is known of every target's connectivity: asked by traffic, kept fresh by the scheduler.

use std::{
    collections::HashMap,
    hash::{BuildHasherDefault, Hasher, RandomState},
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
    time::Duration,
};

use jiff::Timestamp;
use tokio::{
    sync::{Notify, Semaphore},
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    Check, State,
    history::{History, Writer},
    slot::{Known, Slot},
};
use crate::{
    reason::{Cause, DeploymentMode, Refusal},
    store::{Store, StoredCheck},
    target::{Fingerprint, Ownership, Target, TargetId},
    telemetry::metrics::Metrics,
    view::View,
};

/// Scheduled checks under way at once.
const SCHEDULED_MAX: usize = 16;

/// Checks under way at once that somebody waits for.
const ASKED_MAX: usize = 64;

/// What traffic to a target may do.
#[derive(Debug)]
pub enum Standing {
    /// Its check is ready and current.
    Ready,
    /// Its check is current and did not reach it; the time until the next one.
    Blocked(Arc<Check>, Duration),
    /// It has no current check.
    Unknown,
}

/// All targets' places.
#[derive(Debug, Default)]
struct Places {
    slots: HashMap<TargetId, Arc<Slot>>,
    /// Until when the checks that are ready count. Nearly all that traffic asks, in a table of its
    /// own: among thousands of targets what takes time is to wait for memory, so there is as little
    /// of it as can be, and nothing that a target does not have at hand.
    ready: HashMap<Fingerprint, Instant, BuildHasherDefault<Digested>>,
}

impl Places {
    /// Whether this is still the slot of a target.
    fn holds(&self, id: &TargetId, slot: &Arc<Slot>) -> bool {
        self.slots.get(id).is_some_and(|own| Arc::ptr_eq(own, slot))
    }
}

/// The hash of a fingerprint, which is a digest already.
#[derive(Debug, Default)]
struct Digested(u64);

impl Hasher for Digested {
    fn write(&mut self, bytes: &[u8]) {
        self.0 = bytes.first_chunk().map_or(0, |bytes| u64::from_ne_bytes(*bytes));
    }

    /// The length, which is always the same.
    fn write_usize(&mut self, _: usize) {}

    fn finish(&self) -> u64 {
        self.0
    }
}

/// All targets. Cheap to ask; every check runs in a task of its own, whoever asked for it.
#[derive(Debug)]
pub struct Board {
    places: RwLock<Places>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) history: History,
    pub(super) tasks: TaskTracker,
    pub(super) stop: CancellationToken,
    pub(super) scheduled: Arc<Semaphore>,
    pub(super) asked: Arc<Semaphore>,
    /// Rung when the targets have changed, so that the scheduler looks at once.
    pub(super) bell: Notify,
    pub(super) random: RandomState,
}

impl Board {
    /// An empty board whose checks are tasks of `tasks`, and end with `stop`.
    pub fn new(
        metrics: Arc<Metrics>,
        store: Store,
        tasks: TaskTracker,
        stop: CancellationToken,
    ) -> (Self, Writer) {
        let (history, writer) = History::new(store);
        let board = Self {
            places: RwLock::default(),
            metrics,
            history,
            tasks,
            stop,
            scheduled: Arc::new(Semaphore::new(SCHEDULED_MAX)),
            asked: Arc::new(Semaphore::new(ASKED_MAX)),
            bell: Notify::new(),
            random: RandomState::new(),
        };
        (board, writer)
    }

    /// Takes over the newest checks of an earlier run: those that still count do so again.
    pub fn restore(&self, stored: Vec<StoredCheck>, view: &View) {
        let (now, wall) = (Instant::now(), Timestamp::now());
        for one in stored {
            let Some(target) = view.targets.get(&one.target_id) else { continue };
            let Ok(check) = serde_json::from_str::<Check>(&one.document) else { continue };
            let left = check.expires_at.map(|at| at.duration_since(wall)).unwrap_or_default();
            // Never longer than a check of now, whatever the clock did in between.
            let left = Duration::try_from(left).unwrap_or_default().min(view.check_ttl);
            let counts = matches!(check.state, State::Ready | State::Blocked) && !left.is_zero();
            if !counts || one.fingerprint != target.fingerprint.to_string() {
                continue;
            }
            let known = Known {
                failures: u32::from(check.state == State::Blocked),
                check: Arc::new(check),
                fingerprint: target.fingerprint,
                generation: target.generation,
                until: now.checked_add(left).unwrap_or(now),
                due: now.checked_add(left.mul_f64(0.5)).unwrap_or(now),
            };
            let slot = self.slot(&target.id);
            self.tell_expiry(&slot, &known.check);
            self.settle(&target.id, &slot, known);
        }
    }

    /// Follows a new configuration: targets that are gone are forgotten, new and changed ones are
    /// checked at once, and so are those whose last check another configuration may have decided.
    pub fn follow(&self, view: &View) {
        self.forget(|id| view.targets.get(id.as_str()).is_none());
        let now = Instant::now();
        for target in view.targets.iter() {
            let Some(slot) = self.slot_of(target) else { continue };
            if slot.known.load().as_deref().is_some_and(|known| is_doubtful(known, view, now)) {
                slot.want();
            }
            self.show_state(&slot, target, now);
        }
        self.bell.notify_one();
    }

    /// Follows the change of one target; `None` when it is gone.
    pub fn changed(&self, id: &TargetId, target: Option<&Target>) {
        match target {
            None => self.forget(|one| one == id),
            Some(target) => {
                if let Some(slot) = self.slot_of(target) {
                    slot.want();
                    self.show_state(&slot, target, Instant::now());
                }
            }
        }
    }

    /// What traffic to a target may do.
    pub fn standing(&self, target: &Target) -> Standing {
        let now = Instant::now();
        if self.read().ready.get(&target.fingerprint).is_some_and(|until| now < *until) {
            return Standing::Ready;
        }
        let known = self.find(&target.id).and_then(|slot| slot.known.load_full());
        let Some(known) = known else { return Standing::Unknown };
        if known.fingerprint != target.fingerprint || known.until <= now {
            return Standing::Unknown;
        }
        if known.check.state == State::Ready {
            Standing::Ready
        } else {
            Standing::Blocked(Arc::clone(&known.check), known.until.saturating_duration_since(now))
        }
    }

    /// Rule 4: the check that a gated target needs. Where there is no current one, one is run and
    /// waited for, together with everybody else who wants it.
    ///
    /// # Errors
    /// The check's own refusal, or `check_unfinished`.
    pub async fn gate(
        self: &Arc<Self>,
        view: &Arc<View>,
        target: &Arc<Target>,
    ) -> Result<(), Refusal> {
        if let Some(verdict) = self.verdict(view, target) {
            return verdict;
        }
        let check = tokio::time::timeout(patience(view), self.landed(view, target)).await;
        let (check, _) = check.ok().flatten().ok_or_else(|| unfinished(target))?;
        match self.standing(target) {
            Standing::Blocked(check, wait) => Err(refusal(view, target, &check, wait)),
            Standing::Ready => Ok(()),
            // Changed meanwhile, or a time to live shorter than the check.
            Standing::Unknown if check.state == State::Ready => Ok(()),
            Standing::Unknown => Err(refusal(view, target, &check, Duration::ZERO)),
        }
    }

    /// What the gate would say now. `None` where it would have the target checked first.
    pub fn verdict(&self, view: &View, target: &Target) -> Option<Result<(), Refusal>> {
        if !view.require_current_check || !is_gated(target) {
            return Some(Ok(()));
        }
        match self.standing(target) {
            Standing::Ready => Some(Ok(())),
            Standing::Blocked(check, wait) => Some(Err(refusal(view, target, &check, wait))),
            Standing::Unknown => None,
        }
    }

    /// What is known of a target's connectivity.
    pub fn connectivity(&self, view: &View, target: &Target) -> Check {
        let egress_ip = view.egress_ips.first().copied();
        if let Some(refusal) = stopped(target) {
            let mut check = Check::unchecked(target, egress_ip);
            let refusal = refusal.about(target.about(&view.egress_ips));
            check.refused(State::Stopped, &refusal, target);
            return check;
        }
        let slot = self.find(&target.id);
        let known = slot.as_ref().and_then(|slot| slot.known.load_full());
        let Some(known) = known else { return Check::unchecked(target, egress_ip) };
        let mut check = Check::clone(&known.check);
        check.state = state_of(&known, target.fingerprint, Instant::now());
        check
    }

    /// A check that is under way or has just ended, by its id: it may not be on the disk yet.
    pub fn recent(&self, view: &View, id: &str) -> Option<Check> {
        let places = self.places.read().unwrap_or_else(PoisonError::into_inner);
        for slot in places.slots.values() {
            let known = slot.known.load();
            if let Some(known) = known.as_deref()
                && known.check.connectivity_check_id.as_deref() == Some(id)
            {
                return Some(Check::clone(&known.check));
            }
            let flight = slot.flight().clone().filter(|flight| *flight.id == *id);
            if let Some(flight) = flight {
                let target = view.targets.get(flight.target.as_str())?;
                let mut check = Check::unchecked(target, view.egress_ips.first().copied());
                check.connectivity_check_id = Some(flight.id);
                return Some(check);
            }
        }
        None
    }

    pub(super) fn find(&self, id: &TargetId) -> Option<Arc<Slot>> {
        self.read().slots.get(id).cloned()
    }

    pub(super) fn slot(&self, id: &TargetId) -> Arc<Slot> {
        if let Some(slot) = self.find(id) {
            return slot;
        }
        Arc::clone(self.write().slots.entry(id.clone()).or_default())
    }

    /// Makes what a check found what counts.
    pub(super) fn settle(&self, id: &TargetId, slot: &Arc<Slot>, known: Known) {
        let ready = known.check.state == State::Ready;
        let (of, until) = (known.fingerprint, known.until);
        let mut places = self.write();
        let former = slot.known.swap(Some(Arc::new(known)));
        // One that is off the board is nobody's; its target may be back, with a slot of its own.
        if places.holds(id, slot) {
            if let Some(former) = former {
                places.ready.remove(&former.fingerprint);
            }
            if ready {
                places.ready.insert(of, until);
            }
        }
    }

    /// The slot of a target that needs one, or has one because somebody had it checked.
    pub(super) fn slot_of(&self, target: &Target) -> Option<Arc<Slot>> {
        if is_gated(target) { Some(self.slot(&target.id)) } else { self.find(&target.id) }
    }

    pub(super) fn len(&self) -> usize {
        self.read().slots.len()
    }

    /// Takes targets off the board, with their metrics.
    pub(super) fn forget(&self, mut is_gone: impl FnMut(&TargetId) -> bool) {
        let Places { slots, ready } = &mut *self.write();
        slots.retain(|id, slot| {
            let gone = is_gone(id);
            if gone {
                self.hide(id, slot);
                if let Some(known) = slot.known.load().as_deref() {
                    ready.remove(&known.fingerprint);
                }
            }
            !gone
        });
    }

    fn read(&self) -> RwLockReadGuard<'_, Places> {
        self.places.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Places> {
        self.places.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether traffic to a target needs a current check.
pub(super) fn is_gated(target: &Target) -> bool {
    match target.mode {
        DeploymentMode::SelfHosted | DeploymentMode::WebhookOnly => true,
        DeploymentMode::Cloud => false,
    }
}

/// Why a target is not checked at all.
pub(super) fn stopped(target: &Target) -> Option<Refusal> {
    if !target.enabled {
        let detail = format!("target {} is disabled", target.id);
        return Some(Refusal::new(Cause::TargetDisabled, detail));
    }
    let detail = || format!("the ownership of target {} is unclear", target.id);
    (target.ownership == Ownership::Unclear)
        .then(|| Refusal::new(Cause::OwnershipUnclear, detail()))
}

/// Whether another configuration may have decided a check: it did not reach its target, went out
/// from an address that is no longer used, or counts for longer than checks do now.
fn is_doubtful(known: &Known, view: &View, now: Instant) -> bool {
    let from = known.check.egress_ip;
    let moved = from.map_or(!view.egress_ips.is_empty(), |ip| !view.egress_ips.contains(&ip));
    known.failures > 0 || moved || known.until.saturating_duration_since(now) > view.check_ttl
}

pub(super) fn state_of(known: &Known, fingerprint: Fingerprint, now: Instant) -> State {
    if known.fingerprint == fingerprint && now < known.until {
        known.check.state
    } else {
        State::Stale
    }
}

/// What traffic is told, with the time until the next check in whole seconds.
fn refusal(view: &View, target: &Target, check: &Check, wait: Duration) -> Refusal {
    let next = Duration::from_secs(wait.as_secs().saturating_add(1));
    let refusal = check.refusal(target, &view.egress_ips);
    // A check that reached nothing and says no cause is none that traffic may go by.
    refusal.unwrap_or_else(|| unfinished(target)).retry_after(next)
}

fn unfinished(target: &Target) -> Refusal {
    let detail = format!("no connectivity check of target {} could be finished", target.id);
    Refusal::new(Cause::CheckUnfinished, detail)
}

/// How long a request waits for a check: what its steps may take, one after the other.
fn patience(view: &View) -> Duration {
    let limits = &view.limits;
    [limits.dns_timeout, limits.connect_timeout, limits.tls_timeout, limits.response_timeout]
        .iter()
        .fold(Duration::from_secs(1), |sum, one| sum.saturating_add(*one))
        .min(Duration::from_mins(1))
}

#[cfg(test)]
#[path = "board_tests.rs"]
mod tests;
