//! Renews checks before they run out, and looks at blocked targets again.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::board::{Board, stopped};
use crate::{target::Target, view::View};

/// How often the board is looked at; a change rings before that.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Runs until `stop`: no two checks of a target at once, at most sixteen in all, those first that
/// have been due longest. `view` gives the configuration of the moment.
pub async fn run(board: Arc<Board>, view: impl Fn() -> Arc<View>, stop: CancellationToken) {
    loop {
        let looked = look(&board, &view);
        tokio::select! {
            () = stop.cancelled() => return,
            () = looked => {}
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = board.bell.notified() => {}
            () = tokio::time::sleep(LOOK_INTERVAL) => {}
        }
    }
}

async fn look(board: &Arc<Board>, view: &impl Fn() -> Arc<View>) {
    let now = Instant::now();
    let mut due = due(board, &view(), now);
    due.sort_by_key(|(since, _)| *since);
    for (_, target) in due {
        // Waits while as many as may be are under way; the board may have changed by then.
        let Ok(permit) = Arc::clone(&board.scheduled).acquire_owned().await else { return };
        let view = view();
        let Some(target) = view.targets.get(target.id.as_str()) else { continue };
        let slot = board.find(&target.id);
        let still = slot.is_some_and(|slot| slot.is_due(target.fingerprint, Instant::now()));
        if still && stopped(target).is_none() {
            board.begin(&view, target, Some(permit));
        }
    }
}

/// What should be checked now, and since when.
fn due(board: &Board, view: &View, now: Instant) -> Vec<(Option<Instant>, Arc<Target>)> {
    let mut due = Vec::new();
    board.show(&view.targets);
    for target in view.targets.iter() {
        let Some(slot) = board.find(&target.id) else { continue };
        if stopped(target).is_none() && slot.is_due(target.fingerprint, now) {
            due.push((slot.due(), Arc::clone(target)));
        }
    }
    due
}
