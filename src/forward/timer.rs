//! A timer that is moved much more often than it fires.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::{Instant, Sleep};

/// Whoever polls it is woken when it fires. Moving it costs a look at the clock; the runtime's own timer is moved only when it has to ring
/// earlier, or has rung too early.
#[derive(Debug, Default)]
pub struct Timer {
    at: Option<Instant>,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Timer {
    /// Fires `after` from now. A time that is too far away to be told never comes.
    pub fn set(&mut self, after: Duration) {
        self.at = Instant::now().checked_add(after);
    }

    /// Fires `after` from now, unless it is set already.
    pub fn set_once(&mut self, after: Duration) {
        if self.at.is_none() {
            self.set(after);
        }
    }

    /// Fires `after` from now, unless it is set to do so earlier.
    pub fn set_at_most(&mut self, after: Duration) {
        let before = self.at;
        self.set(after);
        if let (Some(before), Some(at)) = (before, self.at) {
            self.at = Some(before.min(at));
        }
    }

    /// Does not fire any more.
    pub fn clear(&mut self) {
        self.at = None;
    }

    /// Ready, and cleared, once its time has come; else the task is woken then. Pending where none
    /// is set.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(at) = self.at else { return Poll::Pending };
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(at)));
        if at < sleep.deadline() {
            sleep.as_mut().reset(at);
        }
        while sleep.as_mut().poll(cx).is_ready() {
            if Instant::now() >= at {
                self.at = None;
                return Poll::Ready(());
            }
            sleep.as_mut().reset(at);
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    #[tokio::test]
    async fn it_fires_when_it_was_set_to_last() {
        let (short, long) = (Duration::from_millis(20), Duration::from_hours(1));
        let mut timer = Timer::default();
        timer.set(short);
        let early = poll_fn(|cx| Poll::Ready(timer.poll(cx))).await;
        assert!(early.is_pending());

        // moved back while the runtime's timer is about to ring
        let began = Instant::now();
        timer.set(short * 3);
        timer.set_once(short);
        poll_fn(|cx| timer.poll(cx)).await;
        assert!(began.elapsed() >= short * 3);

        // moved to the front
        let began = Instant::now();
        timer.set(long);
        assert!(poll_fn(|cx| Poll::Ready(timer.poll(cx))).await.is_pending());
        timer.set_at_most(short);
        timer.set_at_most(long);
        poll_fn(|cx| timer.poll(cx)).await;
        assert!(began.elapsed() >= short && began.elapsed() < long);

        // and not at all
        timer.set(short);
        timer.clear();
        assert!(tokio::time::timeout(short * 3, poll_fn(|cx| timer.poll(cx))).await.is_err());
    }
}
