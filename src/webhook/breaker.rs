//! Whether a receiver that keeps failing is asked at all: a circuit breaker, without clock or dice. Moments are
//! durations since one that does not change.
//!
//! Closed, it lets everything through and counts failures in a row. At [`FAILURES_MAX`] it opens
//! for a back-off, which doubles with every failed probe. When that is over, one request is let
//! through as a probe: its success closes the breaker, its failure opens it again.

use std::time::Duration;

/// Failures in a row that open the breaker.
pub const FAILURES_MAX: u32 = 5;

/// The first back-off, before jitter.
pub const BACK_OFF_MIN: Duration = Duration::from_secs(1);

/// The longest back-off, jitter included.
pub const BACK_OFF_MAX: Duration = Duration::from_mins(5);

/// The longest back-off before jitter, which adds up to a half.
const BACK_OFF_MAX_PLAIN: Duration = Duration::from_secs(200);

/// What jitter is measured in.
pub const JITTER_PARTS: u32 = 1024;

/// What a request that has to wait while a probe is under way is told to wait.
const PROBE_WAIT: Duration = Duration::from_secs(1);

/// What went wrong last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// It could not be reached, or answered with 5xx or nonsense.
    Down,
    /// It did not answer in time.
    Silent,
}

/// The breaker of one receiver.
#[derive(Clone, Debug, Default)]
pub struct Breaker {
    failures: u32,
    state: State,
}

#[derive(Clone, Copy, Debug, Default)]
enum State {
    #[default]
    Closed,
    Open {
        until: Duration,
        opened: u32,
        last: Trouble,
    },
    HalfOpen {
        opened: u32,
        last: Trouble,
    },
}

/// Leave to ask the receiver. How that went has to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "the breaker waits to hear how it went"]
pub struct Ticket {
    probe: bool,
}

/// Why there is no leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wait {
    /// How long, at least.
    pub wait: Duration,
    /// What went wrong last.
    pub last: Trouble,
}

impl Breaker {
    /// May a request go out now?
    ///
    /// # Errors
    /// How long to wait.
    pub fn admit(&mut self, now: Duration) -> Result<Ticket, Wait> {
        match self.state {
            State::Closed => Ok(Ticket { probe: false }),
            State::Open { until, last, .. } if now < until => {
                Err(Wait { wait: until.saturating_sub(now), last })
            }
            State::Open { opened, last, .. } => {
                self.state = State::HalfOpen { opened, last };
                Ok(Ticket { probe: true })
            }
            State::HalfOpen { last, .. } => Err(Wait { wait: PROBE_WAIT, last }),
        }
    }

    /// The receiver answered: whoever else is waiting may ask it again.
    pub fn succeeded(&mut self) {
        *self = Self::default();
    }

    /// The receiver failed. `jitter` is random, of [`JITTER_PARTS`]. How long it is now left alone.
    pub fn failed(
        &mut self,
        ticket: Ticket,
        now: Duration,
        last: Trouble,
        jitter: u32,
    ) -> Option<Duration> {
        let opened = match self.state {
            State::HalfOpen { opened, .. } if ticket.probe => opened.saturating_add(1),
            State::Closed => {
                self.failures = self.failures.saturating_add(1);
                if self.failures < FAILURES_MAX {
                    return None;
                }
                0
            }
            // A request that went out before the breaker opened: it tells nothing new.
            State::Open { until, .. } => return Some(until.saturating_sub(now)),
            State::HalfOpen { .. } => return Some(PROBE_WAIT),
        };
        let wait = back_off(opened, jitter);
        let until = now.saturating_add(wait);
        self.state = State::Open { until, opened, last };
        Some(wait)
    }

    /// It is not known how the request went, as nobody waited for the answer or something else was
    /// in its way. A probe is then left to the next request.
    pub fn unknown(&mut self, ticket: Ticket, now: Duration) {
        if let (true, State::HalfOpen { opened, last }) = (ticket.probe, self.state) {
            self.state = State::Open { until: now, opened, last };
        }
    }

    /// Whether it is as one that has seen nothing.
    pub const fn is_fresh(&self) -> bool {
        matches!(self.state, State::Closed) && self.failures == 0
    }
}

/// 1 s, 2 s, 4 s, … 200 s, and up to a half of that again.
fn back_off(opened: u32, jitter: u32) -> Duration {
    let factor = 1_u32.checked_shl(opened).unwrap_or(u32::MAX);
    let plain = BACK_OFF_MIN.saturating_mul(factor).min(BACK_OFF_MAX_PLAIN);
    let part = plain.checked_div(JITTER_PARTS.saturating_mul(2)).unwrap_or_default();
    let half = part.saturating_mul(jitter.min(JITTER_PARTS));
    plain.saturating_add(half).min(BACK_OFF_MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn it_opens_after_five_failures_in_a_row_and_lets_one_probe_through() {
        let (mut breaker, start) = (Breaker::default(), Duration::from_secs(7));
        for _ in 1..FAILURES_MAX {
            let ticket = breaker.admit(start).unwrap();
            assert_eq!(breaker.failed(ticket, start, Trouble::Down, 0), None);
        }
        let ticket = breaker.admit(start).unwrap();
        let wait = breaker.failed(ticket, start, Trouble::Silent, 0);
        assert_eq!(wait, Some(Duration::from_secs(1)));
        let refused = breaker.admit(start + Duration::from_millis(400)).unwrap_err();
        assert_eq!(refused, Wait { wait: Duration::from_millis(600), last: Trouble::Silent });

        let later = start + Duration::from_secs(1);
        let probe = breaker.admit(later).unwrap();
        assert!(breaker.admit(later).is_err(), "one probe at a time");
        assert_eq!(breaker.failed(probe, later, Trouble::Down, 0), Some(Duration::from_secs(2)));
        let probe = breaker.admit(later + Duration::from_secs(2)).unwrap();
        assert_ne!(probe, ticket);
        breaker.succeeded();
        assert!(breaker.is_fresh());
        assert!(breaker.admit(later).is_ok());
    }

    #[test]
    fn a_success_in_between_starts_the_count_again() {
        let (mut breaker, now) = (Breaker::default(), Duration::from_secs(7));
        for _ in 0..3 * FAILURES_MAX {
            for _ in 1..FAILURES_MAX {
                let ticket = breaker.admit(now).unwrap();
                assert_eq!(breaker.failed(ticket, now, Trouble::Down, 0), None);
            }
            breaker.succeeded();
        }
    }

    #[test]
    fn a_probe_whose_end_nobody_saw_is_left_to_the_next_request() {
        let (mut breaker, start) = (Breaker::default(), Duration::from_secs(7));
        for _ in 0..FAILURES_MAX {
            let ticket = breaker.admit(start).unwrap();
            breaker.failed(ticket, start, Trouble::Down, 0);
        }
        let later = start + Duration::from_secs(1);
        let probe = breaker.admit(later).unwrap();
        breaker.unknown(probe, later);
        assert!(breaker.admit(later).is_ok());
    }

    #[derive(Clone, Copy, Debug)]
    enum Event {
        Pass(u64),
        Ask,
        Succeed,
        Fail(u32),
        Vanish,
    }

    fn events() -> impl Strategy<Value = Vec<Event>> {
        let one = prop_oneof![
            (0..400_000_u64).prop_map(Event::Pass),
            Just(Event::Ask),
            Just(Event::Ask),
            Just(Event::Succeed),
            (0..=JITTER_PARTS).prop_map(Event::Fail),
            (0..=JITTER_PARTS).prop_map(Event::Fail),
            Just(Event::Vanish),
        ];
        proptest::collection::vec(one, 0..300)
    }

    proptest! {
        #[test]
        fn whatever_happens_waits_are_bounded_and_somebody_gets_through(events in events()) {
            let (mut breaker, mut now) = (Breaker::default(), Duration::from_secs(7));
            let mut out: Vec<Ticket> = Vec::new();
            for event in events {
                match event {
                    Event::Pass(milliseconds) => now += Duration::from_millis(milliseconds),
                    Event::Ask => match breaker.admit(now) {
                        Ok(ticket) => out.push(ticket),
                        Err(refused) => prop_assert!(refused.wait <= BACK_OFF_MAX),
                    },
                    Event::Succeed => if out.pop().is_some() {
                        breaker.succeeded();
                        prop_assert!(breaker.admit(now).is_ok());
                    },
                    Event::Fail(jitter) => if let Some(ticket) = out.pop() {
                        let wait = breaker.failed(ticket, now, Trouble::Down, jitter);
                        prop_assert!(wait.is_none_or(|wait| wait <= BACK_OFF_MAX));
                    },
                    Event::Vanish => if let Some(ticket) = out.pop() {
                        breaker.unknown(ticket, now);
                    },
                }
            }
            // Nobody is out any more: after the longest back-off the next request gets through.
            for ticket in out {
                breaker.unknown(ticket, now);
            }
            prop_assert!(breaker.admit(now + BACK_OFF_MAX).is_ok());
        }

        #[test]
        fn a_back_off_lies_between_its_bounds(opened in 0..100_u32, jitter in 0..=JITTER_PARTS) {
            let wait = back_off(opened, jitter);
            prop_assert!((BACK_OFF_MIN..=BACK_OFF_MAX).contains(&wait));
            prop_assert!(wait >= back_off(opened, 0));
            prop_assert!(back_off(opened + 1, 0) >= back_off(opened, 0));
        }
    }
}
