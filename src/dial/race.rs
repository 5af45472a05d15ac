//! Attempts that start one after another and run side by side; the first success wins.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use tokio::time::timeout;

/// Starts the attempts in order, the next one when `delay` has passed or at once when one has
/// failed (RFC 8305, section 5). Gives the first success and drops the attempts still running;
/// `None` when all have failed. Every failure is shown to `failed`, in the order of time.
///
/// Sets no limit of its own to the whole: wrap it in a time-out. The attempts run in the
/// caller's task, so dropping the future drops them too.
pub(crate) async fn staggered<F, T, E>(
    attempts: impl IntoIterator<Item = F>,
    delay: Duration,
    mut failed: impl FnMut(E),
) -> Option<T>
where
    F: Future<Output = Result<T, E>>,
{
    let mut waiting = attempts.into_iter().peekable();
    let mut running = Vec::new();
    loop {
        running.extend(waiting.next().map(Box::pin));
        if running.is_empty() {
            return None;
        }
        let finished = if waiting.peek().is_some() {
            timeout(delay, first(&mut running)).await.ok()
        } else {
            Some(first(&mut running).await)
        };
        match finished {
            Some(Ok(value)) => return Some(value),
            Some(Err(error)) => failed(error),
            None => {} // too slow: the next one joins in
        }
    }
}

/// The outcome of whichever finishes first, which is then taken off the list.
async fn first<F: Future>(running: &mut Vec<Pin<Box<F>>>) -> F::Output {
    poll_fn(|context| {
        let mut done = None;
        for (index, attempt) in running.iter_mut().enumerate() {
            if let Poll::Ready(output) = attempt.as_mut().poll(context) {
                done = Some((index, output));
                break;
            }
        }
        match done {
            Some((index, output)) => {
                drop(running.swap_remove(index));
                Poll::Ready(output)
            }
            None => Poll::Pending,
        }
    })
    .await
}
