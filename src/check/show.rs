//! What metrics and events tell of the board.

use tokio::time::Instant;

use super::{
    Board, Check, State,
    board::{state_of, stopped},
    expiry,
    slot::{Known, Shown, Slot},
};
use crate::target::{Target, TargetId};

impl Board {
    /// Counts a check that has ended.
    pub(super) fn count(&self, check: &Check) {
        let code = check.code.as_deref().unwrap_or_default();
        self.metrics.connectivity.checks.with_label_values(&[check.state.as_str(), code]).inc();
    }

    /// Metrics and events of a check that counts now, `before` being the one that did until now.
    pub(super) fn tell(&self, slot: &Slot, target: &Target, check: &Check, before: Option<&Known>) {
        self.show_state(slot, target, Instant::now());
        if before.is_some_and(|known| known.fingerprint != target.fingerprint) {
            // Of another host, maybe.
            self.hide_expiry(&target.id);
        }
        self.tell_expiry(slot, check);
        let verdict = |check: &Check| (check.state, check.cause.clone());
        if before.is_none_or(|known| verdict(&known.check) != verdict(check)) {
            tracing::info!(
                target_id = check.target_id,
                connectivity_check_id = check.connectivity_check_id.as_deref(),
                state = check.state.as_str(),
                code = check.code,
                cause = check.cause,
                detail = check.detail,
                "connectivity"
            );
        }
    }

    /// Brings the metric of a target up to date: its state also changes with time alone.
    pub(super) fn show_state(&self, slot: &Slot, target: &Target, now: Instant) {
        let known = slot.known.load();
        let state = match (stopped(target), known.as_deref()) {
            (Some(_), _) => State::Stopped,
            (None, None) => State::Unchecked,
            (None, Some(known)) => state_of(known, target.fingerprint, now),
        };
        let mut shown = slot.shown();
        let former = match *shown {
            Shown::Gone => return,
            Shown::As(former) if former == state => return,
            Shown::As(former) => Some(former),
            Shown::Not => None,
        };
        *shown = Shown::As(state);
        let states = &self.metrics.connectivity.target_state;
        if let Some(former) = former {
            let _absent = states.remove_label_values(&[target.id.as_str(), former.as_str()]);
        }
        states.with_label_values(&[target.id.as_str(), state.as_str()]).set(1);
    }

    /// When the certificate that a check saw expires.
    pub(super) fn tell_expiry(&self, slot: &Slot, check: &Check) {
        // Held while the metric is set, so that the series of a target that is gone stays away.
        let shown = slot.shown();
        if !matches!(*shown, Shown::Gone) {
            expiry::watch(slot, check, &self.metrics.connectivity);
        }
    }

    /// Takes the metrics of a target away, for good.
    pub(super) fn hide(&self, id: &TargetId, slot: &Slot) {
        let mut shown = slot.shown();
        if let Shown::As(state) = *shown {
            let states = &self.metrics.connectivity.target_state;
            let _absent = states.remove_label_values(&[id.as_str(), state.as_str()]);
        }
        *shown = Shown::Gone;
        self.hide_expiry(id);
    }

    fn hide_expiry(&self, id: &TargetId) {
        let expiry = &self.metrics.connectivity.certificate_expiry;
        let _absent = expiry.remove_label_values(&[id.as_str()]);
    }
}
