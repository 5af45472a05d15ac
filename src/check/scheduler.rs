//! Renews checks before they run out, and looks at blocked targets again.

use std::{future::pending, sync::Arc, time::Duration};

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{
    board::{Board, stopped},
    slot::Urgency,
};
use crate::{target::Target, view::View};

/// How often the board is looked at; a new configuration rings before that.
const PACE_MAX: Duration = Duration::from_secs(1);

/// The same where checks count for a few seconds only.
const PACE_MIN: Duration = Duration::from_millis(50);

/// Runs until `stop`: no two checks of a target at once, at most sixteen in all, the most urgent
/// ones first. `view` gives the configuration of the moment.
///
/// While `policy.require_current_check` is off nobody needs a check, so none is begun that nobody
/// asked for; those that were asked for are renewed all the same.
pub async fn run(board: Arc<Board>, view: impl Fn() -> Arc<View>, stop: CancellationToken) {
    loop {
        let pace = pace(view().check_ttl);
        // What is not begun by then is judged anew, as something else may be more urgent.
        let look = async {
            look(&board, &view).await;
            pending::<()>().await;
        };
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = look => {}
            () = board.bell.notified() => {}
            () = tokio::time::sleep(pace) => {}
        }
    }
}

/// A small part of the time that a check counts, so that no renewal comes late for being seen late.
fn pace(check_ttl: Duration) -> Duration {
    check_ttl.checked_div(20).unwrap_or_default().clamp(PACE_MIN, PACE_MAX)
}

async fn look(board: &Arc<Board>, view: &impl Fn() -> Arc<View>) {
    for (_, target) in due(board, view) {
        // Waits while as many as may be are under way; the board may have changed by then.
        let Ok(permit) = Arc::clone(&board.scheduled).acquire_owned().await else { return };
        let view = view();
        let Some(target) = view.targets.get(target.id.as_str()) else { continue };
        if urgency(board, &view, target, Instant::now()).is_some() {
            board.begin(&view, target, Some(permit));
        }
    }
}

/// What should be checked now, the most urgent first. Brings the board and its metrics up to date.
fn due(board: &Board, view: &impl Fn() -> Arc<View>) -> Vec<(Urgency, Arc<Target>)> {
    let (here, now) = (view(), Instant::now());
    let (mut due, mut seen) = (Vec::new(), 0_usize);
    for target in here.targets.iter() {
        let Some(slot) = board.slot_of(target) else { continue };
        seen = seen.saturating_add(1);
        board.show_state(&slot, target, now);
        if let Some(urgency) = urgency(board, &here, target, now) {
            due.push((urgency, Arc::clone(target)));
        }
    }
    if board.len() > seen {
        // Requests that began under an older configuration asked for targets that are gone. The
        // configuration is read when the board cannot change: a target that has just come stays.
        let mut current = None;
        board.forget(|id| {
            let current = current.get_or_insert_with(view);
            current.targets.get(id.as_str()).is_none()
        });
    }
    due.sort_unstable_by_key(|(urgency, _)| *urgency);
    due
}

fn urgency(board: &Board, view: &View, target: &Target, now: Instant) -> Option<Urgency> {
    if stopped(target).is_some() {
        return None;
    }
    board.find(&target.id)?.urgency(target.fingerprint, now, view.require_current_check)
}
