//! A check under way: one a target, in a task of its own, for everybody who wants it.

use std::{hash::BuildHasher as _, sync::Arc, time::Duration};

use tokio::{
    sync::{OwnedSemaphorePermit, watch},
    time::Instant,
};
use ulid::Ulid;

use super::{
    Board, Check, State,
    board::{is_gated, stopped},
    history::Written,
    slot::{Flight, Known, Rhythm, Slot},
    walk,
};
use crate::{target::Target, view::View};

impl Board {
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

    /// A check of the target as it is here, not as it had been when another one began.
    pub(super) async fn landed(
        self: &Arc<Self>,
        view: &Arc<View>,
        target: &Arc<Target>,
    ) -> Option<(Arc<Check>, Flight)> {
        loop {
            let (mut flight, joined) = self.begin(view, target, None);
            let landed = flight.landed.wait_for(Option::is_some).await;
            let check = landed.ok().and_then(|landed| landed.clone());
            if joined && flight.fingerprint != target.fingerprint && !self.stop.is_cancelled() {
                continue;
            }
            return Some((check?, flight));
        }
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
            let ending = Ending::of(&slot, sender);
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
        let written = if ending.slot.is_gone() {
            Written::nowhere()
        } else {
            self.history.keep(&check, target.fingerprint)
        };
        ending.land(check);
        written
    }

    /// Makes a check the one that counts.
    pub(super) fn publish(
        &self,
        slot: &Arc<Slot>,
        view: &View,
        target: &Target,
        mut check: Check,
    ) -> Arc<Check> {
        let before = slot.known.load_full();
        let before = before.as_deref();
        let same = before.filter(|known| known.fingerprint == target.fingerprint);
        // It went by a configuration that has been replaced since, and so has its target.
        let outdated =
            same.is_none() && before.is_some_and(|known| known.generation > target.generation);
        if outdated || check.state == State::Stopped {
            let check = Arc::new(check);
            self.count(&check);
            return check;
        }
        let rhythm = Rhythm { ttl: view.check_ttl };
        let roll = self.random.hash_one((&target.id, Ulid::new().random()));
        let (failures, counts, next) = if check.state == State::Ready {
            (0, rhythm.ttl, rhythm.renewal(roll))
        } else {
            let failures = same.map_or(0, |known| known.failures).saturating_add(1);
            let wait = rhythm.back_off(failures, roll);
            (failures, wait, wait)
        };
        check.expires_at = check.last_checked_at.and_then(|at| at.checked_add(counts).ok());
        let now = Instant::now();
        let after = |wait: Duration| now.checked_add(wait).unwrap_or(now);
        let check = Arc::new(check);
        let known = Known {
            check: Arc::clone(&check),
            fingerprint: target.fingerprint,
            generation: target.generation,
            until: after(counts),
            due: after(next),
            failures,
        };
        self.settle(&target.id, slot, known);
        self.count(&check);
        self.tell(slot, target, &check, before);
        check
    }
}

/// Ends a flight however its task ends; who waits sees the channel closed.
pub(super) struct Ending {
    slot: Arc<Slot>,
    sender: Option<watch::Sender<Option<Arc<Check>>>>,
}

impl Ending {
    pub(super) fn of(slot: &Arc<Slot>, sender: watch::Sender<Option<Arc<Check>>>) -> Self {
        Self { slot: Arc::clone(slot), sender: Some(sender) }
    }

    pub(super) fn land(mut self, check: Arc<Check>) {
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
