//! What is known of every target's connectivity: asked by traffic, kept fresh by the scheduler.

use std::{
    collections::HashMap,
    hash::{BuildHasher as _, RandomState},
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use jiff::Timestamp;
use tokio::{
    sync::{Notify, OwnedSemaphorePermit, Semaphore, watch},
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use ulid::Ulid;

use super::{
    Check, State,
    history::{History, Writer, Written},
    slot::{Flight, Known, Rhythm, Slot},
    walk,
};
use crate::{
    reason::{Cause, DeploymentMode, Refusal},
    store::{Store, StoredCheck},
    target::{Fingerprint, Ownership, Registry, Target, TargetId},
    telemetry::metrics::Metrics,
    view::View,
};

/// Scheduled checks under way at once.
pub(super) const SCHEDULED_MAX: usize = 16;

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

/// All targets. Cheap to ask; every check runs in a task of its own, whoever asked for it.
#[derive(Debug)]
pub struct Board {
    slots: RwLock<HashMap<TargetId, Arc<Slot>>>,
    pub(super) metrics: Arc<Metrics>,
    history: History,
    tasks: TaskTracker,
    stop: CancellationToken,
    pub(super) scheduled: Arc<Semaphore>,
    asked: Arc<Semaphore>,
    /// Rung when something is wanted before the scheduler's next look.
    pub(super) bell: Notify,
    random: RandomState,
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
            slots: RwLock::default(),
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
            let left = Duration::try_from(left).unwrap_or_default().min(view.check_ttl);
            if one.fingerprint != target.fingerprint.to_string() || left.is_zero() {
                continue;
            }
            let Some(until) = now.checked_add(left) else { continue };
            let due = now.checked_add(left.mul_f64(0.5)).unwrap_or(now);
            let failures = u32::from(check.state == State::Blocked);
            let known = Known {
                check: Arc::new(check),
                fingerprint: target.fingerprint,
                until,
                due: if failures == 0 { due } else { until },
                failures,
            };
            self.slot(&target.id).known.store(Some(Arc::new(known)));
        }
    }

    /// Follows a change of the targets: those that are gone are forgotten, new ones and changed
    /// ones are checked soon, and so are blocked ones where `mended` says that the reason may have
    /// been the gateway's own configuration.
    pub fn follow(&self, targets: &Registry, mended: bool) {
        let mut slots = self.slots.write().unwrap_or_else(PoisonError::into_inner);
        slots.retain(|id, slot| {
            let there = targets.get(id.as_str()).is_some();
            if !there {
                self.hide(id, slot);
            }
            there
        });
        for target in targets.iter() {
            if is_gated(target) {
                let slot = slots.entry(target.id.clone()).or_default();
                if mended && slot.known.load().as_deref().is_some_and(|known| known.failures > 0) {
                    slot.want();
                }
            }
        }
        drop(slots);
        self.show(targets);
        self.bell.notify_one();
    }

    /// Follows the change of one target; `None` when it is gone.
    pub fn changed(&self, id: &TargetId, target: Option<&Target>) {
        match target {
            None => {
                let mut slots = self.slots.write().unwrap_or_else(PoisonError::into_inner);
                if let Some(slot) = slots.remove(id) {
                    self.hide(id, &slot);
                }
            }
            Some(target) => {
                let slot = is_gated(target).then(|| self.slot(id)).or_else(|| self.find(id));
                if let Some(slot) = slot {
                    slot.want();
                    self.show_state(&slot, target, Instant::now());
                }
            }
        }
        self.bell.notify_one();
    }

    /// What traffic to a target may do.
    pub fn standing(&self, target: &Target) -> Standing {
        let Some(slot) = self.find(&target.id) else { return Standing::Unknown };
        let known = slot.known.load();
        let Some(known) = known.as_ref() else { return Standing::Unknown };
        let now = Instant::now();
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
        if !view.require_current_check || !is_gated(target) {
            return Ok(());
        }
        match self.standing(target) {
            Standing::Ready => return Ok(()),
            Standing::Blocked(check, wait) => return refuse(view, target, &check, wait),
            Standing::Unknown => {}
        }
        let unfinished = || {
            let detail = format!("no connectivity check of target {} could be finished", target.id);
            Refusal::new(Cause::CheckUnfinished, detail)
        };
        let check = tokio::time::timeout(patience(view), self.landed(view, target)).await;
        let (check, _) = check.ok().flatten().ok_or_else(unfinished)?;
        match self.standing(target) {
            Standing::Blocked(check, wait) => refuse(view, target, &check, wait),
            Standing::Ready => Ok(()),
            // Changed meanwhile, or a time to live shorter than the check.
            Standing::Unknown if check.state == State::Ready => Ok(()),
            Standing::Unknown => refuse(view, target, &check, Duration::ZERO),
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

    /// Runs a check, or joins the one that is under way, waits until it has ended and, for a
    /// bounded time, until it is on the disk. `None` when the process stops.
    pub async fn check_and_keep(
        self: &Arc<Self>,
        view: &Arc<View>,
        target: &Arc<Target>,
    ) -> Option<Arc<Check>> {
        let (check, mut flight) = self.landed(view, target).await?;
        // Where the disk fails it is in memory all the same, and the log says so.
        let _kept = flight.kept.wait_for(|kept| *kept).await;
        Some(check)
    }

    async fn landed(
        self: &Arc<Self>,
        view: &Arc<View>,
        target: &Arc<Target>,
    ) -> Option<(Arc<Check>, Flight)> {
        loop {
            let (mut flight, joined) = self.begin(view, target, None);
            let landed = flight.landed.wait_for(Option::is_some).await;
            let check = landed.ok().and_then(|landed| landed.clone());
            if joined && flight.fingerprint != target.fingerprint && !self.stop.is_cancelled() {
                // That one was of the target as it had been.
                continue;
            }
            return Some((check?, flight));
        }
    }

    /// A check that is under way or has just ended, by its id: it may not be on the disk yet.
    pub fn recent(&self, view: &View, id: &str) -> Option<Check> {
        let slots = self.slots.read().unwrap_or_else(PoisonError::into_inner);
        for slot in slots.values() {
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

    /// Begins a check in the background, unless one is under way; the id of that one.
    pub fn begin_check(self: &Arc<Self>, view: &Arc<View>, target: &Arc<Target>) -> Arc<str> {
        self.begin(view, target, None).0.id
    }

    /// Has a target checked at once where traffic to it needs that.
    pub fn renew(self: &Arc<Self>, view: &Arc<View>, target: &Arc<Target>) {
        if is_gated(target) && stopped(target).is_none() {
            self.begin(view, target, None);
        }
    }

    /// The check of a target that is under way, and whether it was so already.
    pub(super) fn begin(
        self: &Arc<Self>,
        view: &Arc<View>,
        target: &Arc<Target>,
        permit: Option<OwnedSemaphorePermit>,
    ) -> (Flight, bool) {
        let slot = self.slot(&target.id);
        let mut current = slot.flight();
        if let Some(flight) = &*current {
            return (flight.clone(), true);
        }
        let (sender, landed) = watch::channel(None);
        let (kept_sender, kept) = watch::channel(false);
        let id: Arc<str> = Ulid::new().to_string().into();
        let flight = Flight {
            id: Arc::clone(&id),
            target: target.id.clone(),
            fingerprint: target.fingerprint,
            landed,
            kept,
        };
        *current = Some(flight.clone());
        slot.begin();
        drop(current);
        let (board, view, target) = (Arc::clone(self), Arc::clone(view), Arc::clone(target));
        self.tasks.spawn(async move {
            // Ends the flight also where the walk panics or is stopped.
            let ending = Ending { slot, sender: Some(sender) };
            let stop = board.stop.clone();
            tokio::select! {
                () = stop.cancelled() => {}
                written = board.run(id, &view, &target, permit, ending) => {
                    kept_sender.send_replace(written.on_disk().await);
                }
            }
        });
        (flight, false)
    }

    async fn run(
        &self,
        id: Arc<str>,
        view: &View,
        target: &Arc<Target>,
        permit: Option<OwnedSemaphorePermit>,
        ending: Ending,
    ) -> Written {
        let permit = match permit {
            Some(permit) => Some(permit),
            None => Arc::clone(&self.asked).acquire_owned().await.ok(),
        };
        let check = walk(view, target, id, &mut |_| {}).await;
        drop(permit);
        let check = self.publish(&ending.slot, view, target, check);
        let written = self.history.keep(&check, target.fingerprint);
        ending.land(check);
        written
    }

    /// Makes a check the one that counts.
    fn publish(&self, slot: &Slot, view: &View, target: &Target, mut check: Check) -> Arc<Check> {
        let now = Instant::now();
        let rhythm = Rhythm { ttl: view.check_ttl };
        let roll = self.random.hash_one((&target.id, Ulid::new().random()));
        let before = slot.known.load();
        let failures = match (check.state, before.as_deref()) {
            (State::Ready, _) => 0,
            (_, Some(known)) if known.fingerprint == target.fingerprint => {
                known.failures.saturating_add(1)
            }
            (_, _) => 1,
        };
        let (counts, next) = if failures == 0 {
            (rhythm.ttl, rhythm.renewal(roll))
        } else {
            let wait = rhythm.back_off(failures, roll);
            (wait, wait)
        };
        check.expires_at = check.last_checked_at.and_then(|at| at.checked_add(counts).ok());
        let after = |wait| now.checked_add(wait).unwrap_or(now);
        let check = Arc::new(check);
        let known = Known {
            check: Arc::clone(&check),
            fingerprint: target.fingerprint,
            until: after(counts),
            due: after(next),
            failures,
        };
        slot.known.store(Some(Arc::new(known)));
        self.tell(slot, target, &check, before.as_deref());
        check
    }

    pub(super) fn find(&self, id: &TargetId) -> Option<Arc<Slot>> {
        self.slots.read().unwrap_or_else(PoisonError::into_inner).get(id).cloned()
    }

    fn slot(&self, id: &TargetId) -> Arc<Slot> {
        if let Some(slot) = self.find(id) {
            return slot;
        }
        let mut slots = self.slots.write().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(slots.entry(id.clone()).or_default())
    }
}

/// Ends a flight however its task ends; who waits sees the channel closed.
struct Ending {
    slot: Arc<Slot>,
    sender: Option<watch::Sender<Option<Arc<Check>>>>,
}

impl Ending {
    fn land(mut self, check: Arc<Check>) {
        if let Some(sender) = self.sender.take() {
            // First, so that whoever has waited can begin another one.
            *self.slot.flight() = None;
            sender.send_replace(Some(check));
        }
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        if self.sender.is_some() {
            *self.slot.flight() = None;
        }
    }
}

/// Whether traffic to a target needs a current check.
fn is_gated(target: &Target) -> bool {
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

pub(super) fn state_of(known: &Known, fingerprint: Fingerprint, now: Instant) -> State {
    if known.fingerprint == fingerprint && now < known.until {
        known.check.state
    } else {
        State::Stale
    }
}

fn refuse(view: &View, target: &Target, check: &Check, wait: Duration) -> Result<(), Refusal> {
    check
        .refusal(target, &view.egress_ips)
        .map_or(Ok(()), |refusal| Err(refusal.retry_after(wait.max(Duration::from_secs(1)))))
}

/// How long a request waits for a check: what its steps may take, one after the other.
fn patience(view: &View) -> Duration {
    let limits = &view.limits;
    [limits.dns_timeout, limits.connect_timeout, limits.tls_timeout, limits.response_timeout]
        .iter()
        .fold(Duration::from_secs(1), |sum, one| sum.saturating_add(*one))
        .min(Duration::from_mins(1))
}
