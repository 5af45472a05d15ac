//! How many requests that change something, or cost something, a token may send: a bucket for each
//! token, which fills as time passes.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use tokio::time::Instant;

/// Requests a second that go on for ever.
const PER_SECOND: f64 = 1000.0;

/// Requests at once, after a pause.
const BURST: f64 = 2000.0;

/// The buckets, by the names of tokens.
#[derive(Debug, Default)]
pub(super) struct Rate {
    buckets: Mutex<HashMap<Box<str>, Bucket>>,
}

#[derive(Debug)]
struct Bucket {
    left: f64,
    filled: Instant,
}

impl Rate {
    /// Takes one request out of the bucket of `name`; `false` when it is empty. A bucket whose token
    /// is not `known` any more goes, so that there are no more of them than tokens.
    pub(super) fn take(&self, name: &str, known: impl Fn(&str) -> bool, now: Instant) -> bool {
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if !buckets.contains_key(name) {
            buckets.retain(|name, _| known(name));
        }
        let full = || Bucket { left: BURST, filled: now };
        let bucket = buckets.entry(name.into()).or_insert_with(full);
        let passed = now.saturating_duration_since(bucket.filled).as_secs_f64();
        bucket.left = (bucket.left + passed * PER_SECOND).min(BURST);
        bucket.filled = now;
        let enough = bucket.left >= 1.0;
        if enough {
            bucket.left -= 1.0;
        }
        enough
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_bucket_fills_with_time_and_belongs_to_one_token() {
        let (rate, began) = (Rate::default(), Instant::now());
        let take = |name: &str, now| rate.take(name, |_| true, now);
        assert_eq!((0..3000).filter(|_| take("a", began)).count(), 2000);
        assert!(take("b", began));
        let later = began + Duration::from_millis(250);
        assert_eq!((0..3000).filter(|_| take("a", later)).count(), 250);
        let much_later = began + Duration::from_hours(1);
        assert_eq!((0..3000).filter(|_| take("a", much_later)).count(), 2000);
        assert!(!take("a", began), "a clock that goes back fills nothing");
    }

    #[test]
    fn the_bucket_of_a_token_that_is_gone_goes_too() {
        let (rate, now) = (Rate::default(), Instant::now());
        rate.take("old", |name| name == "old", now);
        rate.take("new", |name| name == "new", now);
        assert_eq!(rate.buckets.lock().unwrap().len(), 1);
    }
}
