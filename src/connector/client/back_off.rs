//! How long to wait before a gateway is dialled again.

use std::time::Duration;

/// The first wait that is one, and the longest; jitter takes up to a half off.
const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_mins(1);

/// A connection that stood for this long was a good one: losing it says nothing of the next.
const GOOD: Duration = Duration::from_secs(10);

/// What jitter is measured in.
pub(super) const JITTER_PARTS: u32 = 1024;

/// Counts failures.
#[derive(Debug, Default)]
pub(super) struct BackOff {
    failures: u32,
}

impl BackOff {
    /// After an attempt that failed, or a connection that stood for this long. The first failure
    /// is followed by an attempt at once. `jitter` is random, of [`JITTER_PARTS`].
    pub(super) fn after(&mut self, stood: Option<Duration>, jitter: u32) -> Duration {
        if stood.is_some_and(|stood| stood >= GOOD) {
            self.failures = 0;
        }
        let failures = self.failures;
        self.failures = failures.saturating_add(1);
        let Some(doublings) = failures.checked_sub(1) else { return Duration::ZERO };
        let whole = FIRST.saturating_mul(2_u32.saturating_pow(doublings.min(16))).min(LONGEST);
        let part = whole.checked_div(JITTER_PARTS.saturating_mul(2)).unwrap_or_default();
        whole.saturating_sub(part.saturating_mul(jitter.min(JITTER_PARTS)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_attempt_is_at_once_and_waits_grow_to_a_minute() {
        let mut back_off = BackOff::default();
        let waits: Vec<_> = (0..9).map(|_| back_off.after(None, 0).as_secs()).collect();
        assert_eq!(waits, [0, 1, 2, 4, 8, 16, 32, 60, 60]);
        for _ in 0..100 {
            assert!(back_off.after(None, 0) <= LONGEST);
        }
    }

    #[test]
    fn a_connection_that_was_good_begins_anew_and_a_short_one_does_not() {
        let mut back_off = BackOff::default();
        back_off.after(None, 0);
        back_off.after(None, 0);
        assert_eq!(back_off.after(Some(Duration::from_secs(9)), 0).as_secs(), 2);
        assert_eq!(back_off.after(Some(Duration::from_secs(10)), 0).as_secs(), 0);
        assert_eq!(back_off.after(None, 0).as_secs(), 1);
    }

    #[test]
    fn jitter_takes_at_most_a_half_off() {
        for jitter in [0, 1, 512, 1024, u32::MAX] {
            let mut back_off = BackOff::default();
            back_off.after(None, jitter);
            let wait = back_off.after(None, jitter);
            assert!((FIRST / 2..=FIRST).contains(&wait), "{wait:?}");
        }
    }
}
