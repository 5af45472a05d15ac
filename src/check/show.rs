//! What metrics and events tell of the board.

use std::sync::PoisonError;

use tokio::time::Instant;

use super::{
    Board, Check, State,
    board::{state_of, stopped},
    expiry,
    slot::{Known, Slot},
};
use crate::target::{Registry, Target, TargetId};

impl Board {
    /// Metrics and events of a check.
    pub(super) fn tell(&self, slot: &Slot, target: &Target, check: &Check, before: Option<&Known>) {
        let code = check.code.as_deref().unwrap_or_default();
        let metrics = &self.metrics.connectivity;
        metrics.checks.with_label_values(&[check.state.as_str(), code]).inc();
        self.show_state(slot, target, Instant::now());
        expiry::watch(slot, check, metrics);
        if before.is_none_or(|known| known.check.state != check.state) {
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

    /// Brings the metrics of all targets up to date: states also change with time alone.
    pub(super) fn show(&self, targets: &Registry) {
        let now = Instant::now();
        for target in targets.iter() {
            if let Some(slot) = self.find(&target.id) {
                self.show_state(&slot, target, now);
            }
        }
    }

    pub(super) fn show_state(&self, slot: &Slot, target: &Target, now: Instant) {
        let known = slot.known.load();
        let state = match (stopped(target), known.as_deref()) {
            (Some(_), _) => State::Stopped,
            (None, None) => State::Unchecked,
            (None, Some(known)) => state_of(known, target.fingerprint, now),
        };
        let mut shown = slot.shown.lock().unwrap_or_else(PoisonError::into_inner);
        if *shown == Some(state) {
            return;
        }
        let states = &self.metrics.connectivity.target_state;
        if let Some(former) = shown.replace(state) {
            let _absent = states.remove_label_values(&[target.id.as_str(), former.as_str()]);
        }
        states.with_label_values(&[target.id.as_str(), state.as_str()]).set(1);
    }

    pub(super) fn hide(&self, id: &TargetId, slot: &Slot) {
        let metrics = &self.metrics.connectivity;
        let shown = slot.shown.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(state) = shown {
            let _absent = metrics.target_state.remove_label_values(&[id.as_str(), state.as_str()]);
        }
        let _absent = metrics.certificate_expiry.remove_label_values(&[id.as_str()]);
    }
}
