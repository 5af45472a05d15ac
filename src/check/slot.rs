//! What is known of one target's connectivity, and the check of it that is under way.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwapOption;
use jiff::Timestamp;
use tokio::{sync::watch, time::Instant};

use super::{Check, State};
use crate::target::{Fingerprint, TargetId};

/// A check that has ended, and how long it counts.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) check: Arc<Check>,
    /// Of the target that was checked.
    pub(super) fingerprint: Fingerprint,
    /// Of the configuration that the target belonged to.
    pub(super) generation: u64,
    /// When it stops to count.
    pub(super) until: Instant,
    /// When the next one is due.
    pub(super) due: Instant,
    /// How many in a row did not reach the target, this one included.
    pub(super) failures: u32,
}

/// A check that is under way: everybody who wants one waits for it.
#[derive(Clone, Debug)]
pub(super) struct Flight {
    /// Of the check.
    pub(super) id: Arc<str>,
    pub(super) target: TargetId,
    pub(super) fingerprint: Fingerprint,
    pub(super) landed: watch::Receiver<Option<Arc<Check>>>,
    /// `true` once it is on the disk.
    pub(super) kept: watch::Receiver<bool>,
}

/// One target.
#[derive(Debug, Default)]
pub(super) struct Slot {
    pub(super) known: ArcSwapOption<Known>,
    flight: Mutex<Option<Flight>>,
    /// Somebody wants it checked at once, whatever is known.
    wanted: AtomicBool,
    shown: Mutex<Shown>,
    /// The expiry of the certificate that was warned of, and at how many days.
    pub(super) warned: Mutex<Option<(Timestamp, i64)>>,
}

/// What the metrics say of a target.
#[derive(Clone, Copy, Debug, Default)]
pub(super) enum Shown {
    /// Nothing yet.
    #[default]
    Not,
    /// That it is in this state.
    As(State),
    /// Nothing ever again: it is off the board, though a check of it may still be under way.
    Gone,
}

/// Why a check should begin. Lesser ones first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Urgency {
    /// Somebody changed something, and waits for what comes of it.
    Changed,
    /// Traffic goes by a check that must not run out; since when it has been due.
    Renewal(Instant),
    /// It was blocked, or never checked; since when it has been due.
    Closed(Option<Instant>),
}

impl Slot {
    pub(super) fn flight(&self) -> MutexGuard<'_, Option<Flight>> {
        self.flight.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn shown(&self) -> MutexGuard<'_, Shown> {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it has been taken off the board.
    pub(super) fn is_gone(&self) -> bool {
        matches!(*self.shown(), Shown::Gone)
    }

    /// Has it checked at the scheduler's next look.
    pub(super) fn want(&self) {
        self.wanted.store(true, Ordering::Relaxed);
    }

    /// What is wanted is under way now.
    pub(super) fn begin(&self) {
        self.wanted.store(false, Ordering::Relaxed);
    }

    /// Why a check of the target as it is now should begin; `None` where it need not, or one is
    /// under way. Those that were never checked need it where traffic is `gated`.
    pub(super) fn urgency(
        &self,
        fingerprint: Fingerprint,
        now: Instant,
        gated: bool,
    ) -> Option<Urgency> {
        let known = self.known.load();
        let urgency = match known.as_deref() {
            _ if self.wanted.load(Ordering::Relaxed) => Urgency::Changed,
            Some(known) if known.fingerprint != fingerprint => Urgency::Changed,
            Some(known) if known.due > now => return None,
            Some(known) if known.failures == 0 => Urgency::Renewal(known.due),
            Some(known) => Urgency::Closed(Some(known.due)),
            None if gated => Urgency::Closed(None),
            None => return None,
        };
        self.flight().is_none().then_some(urgency)
    }
}

/// How often a target is looked at: the rules of the schedule, without its clock.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rhythm {
    /// `policy.check_ttl`.
    pub(super) ttl: Duration,
}

/// The first wait after a check that did not reach its target.
const BACK_OFF_MIN: Duration = Duration::from_secs(30);

/// The longest one.
const BACK_OFF_MAX: Duration = Duration::from_hours(1);

/// Parts of the jitter: `roll` is one of them.
const ROLLS: u32 = 1000;

impl Rhythm {
    /// When a ready target is checked again: between 60 and 90 % of the time that its check counts,
    /// so that targets that were checked together do not stay together. `roll` is random.
    pub(super) fn renewal(self, roll: u64) -> Duration {
        let part = part(roll).saturating_mul(3).checked_div(10).unwrap_or_default();
        portion(self.ttl, part.saturating_add(600))
    }

    /// When a blocked target is checked again, after `failures` in a row: doubling up to an hour,
    /// and a fifth more or less.
    pub(super) fn back_off(self, failures: u32, roll: u64) -> Duration {
        let doubled = 1_u32.checked_shl(failures.saturating_sub(1).min(31)).unwrap_or(u32::MAX);
        let wait = BACK_OFF_MIN.min(self.ttl).saturating_mul(doubled).min(BACK_OFF_MAX);
        let part = part(roll).saturating_mul(4).checked_div(10).unwrap_or_default();
        portion(wait, part.saturating_add(800)).min(BACK_OFF_MAX)
    }
}

fn part(roll: u64) -> u32 {
    u32::try_from(roll.checked_rem(u64::from(ROLLS)).unwrap_or_default()).unwrap_or_default()
}

/// So many thousandths.
fn portion(of: Duration, thousandths: u32) -> Duration {
    of.checked_div(ROLLS).unwrap_or_default().saturating_mul(thousandths)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RHYTHM: Rhythm = Rhythm { ttl: Duration::from_mins(15) };

    #[test]
    fn ready_targets_are_renewed_well_before_their_check_runs_out_and_not_all_at_once() {
        let rolls: Vec<_> = (0..1000).map(|roll| RHYTHM.renewal(roll)).collect();
        assert_eq!(rolls.iter().min(), Some(&Duration::from_mins(9)));
        assert!(rolls.iter().all(|wait| *wait < Duration::from_secs(811)));
        let distinct: std::collections::BTreeSet<_> = rolls.iter().collect();
        assert!(distinct.len() > 250);
    }

    #[test]
    fn blocked_targets_are_asked_ever_less_often_up_to_an_hour() {
        let middle = |failures| RHYTHM.back_off(failures, 500);
        assert_eq!(middle(1), Duration::from_secs(30));
        assert_eq!(middle(2), Duration::from_mins(1));
        assert_eq!(middle(7), Duration::from_mins(32));
        assert_eq!(middle(8), BACK_OFF_MAX);
        assert_eq!(middle(u32::MAX), BACK_OFF_MAX);
        assert_eq!(RHYTHM.back_off(1, 0), Duration::from_secs(24));
        assert!(RHYTHM.back_off(1, 999) < Duration::from_secs(36));
        let brief = Rhythm { ttl: Duration::from_secs(2) };
        assert_eq!(brief.back_off(1, 500), Duration::from_secs(2));
    }
}
