//! The most recent decisions, held in memory for whoever asks why something was refused just now.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use jiff::Timestamp;
use serde::Serialize;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use utoipa::ToSchema;

/// How many decisions are held: a few megabytes, and minutes of ordinary traffic.
const HELD_MAX: usize = 4096;

/// How many may follow at once. Each of them is woken by every decision.
pub const FOLLOWERS_MAX: usize = 32;

/// How many are handed out under one lock, so that readers hold up no traffic.
const CHUNK: usize = 256;

/// Longest text of a decision that the wire has a say in, in bytes: what is held has a bound.
const TEXT_BYTES_MAX: usize = 512;

/// What was decided about one request or tunnel, and how it went: the facts of its canonical event,
/// noted at its end. No query, credential or body.
#[derive(Debug, Serialize, ToSchema)]
#[schema(examples(json!({
    "decision_id": "01K9Q6M3V5T8W2X4Y6Z8A0B2C4",
    "time": "2026-03-04T05:06:07.890123Z",
    "client": "webriskops-app",
    "target": "acme-jira",
    "mode": "relay",
    "method": "GET",
    "authority": "jira.acme.example:443",
    "decision": "refused",
    "code": "SELF_HOSTED_DNS_FAILED",
    "cause": "dns_nxdomain",
    "detail": "jira.acme.example does not exist",
    "pinned": null,
    "route": null,
    "timings": {
        "auth": 0.012, "policy": 0.008, "dns": 14.2, "connect": null, "tls": null,
        "first_byte": null, "total": 14.301
    },
    "bytes_to_target": 0,
    "bytes_to_client": 0,
    "status": 502,
    "end": null
})))]
pub struct Decision {
    /// Unique; sorts by the time at which the request came.
    pub decision_id: String,
    /// When the request or tunnel ended.
    #[schema(value_type = String, format = DateTime)]
    pub time: Timestamp,
    /// The client's name.
    #[schema(required)]
    pub client: Option<String>,
    /// The target's id.
    #[schema(required, value_type = Option<String>)]
    pub target: Option<Arc<str>>,
    /// `connect`, `relay`, `webhook`, or `unknown` while the request could not be read.
    pub mode: &'static str,
    /// The method, as soon as it is known to be a token.
    #[schema(required)]
    pub method: Option<String>,
    /// The canonical `host:port`.
    #[schema(required)]
    pub authority: Option<String>,
    /// `allowed`, `refused`, or `aborted` where the client went away first.
    pub decision: &'static str,
    /// The public code, where it was refused.
    #[schema(required)]
    pub code: Option<&'static str>,
    /// The fine word, where it was not allowed.
    #[schema(required)]
    pub cause: Option<&'static str>,
    /// What was found, where it was refused.
    #[schema(required)]
    pub detail: Option<String>,
    /// The address that was dialled.
    #[schema(required, value_type = Option<String>)]
    pub pinned: Option<SocketAddr>,
    /// `direct`, or the tunnel's name.
    #[schema(required, value_type = Option<String>)]
    pub route: Option<Arc<str>>,
    /// How long each step took.
    pub timings: Timings,
    /// Bytes carried to the target.
    pub bytes_to_target: u64,
    /// Bytes carried to the client.
    pub bytes_to_client: u64,
    /// The status of the answer.
    #[schema(required)]
    pub status: Option<u16>,
    /// How what was permitted ended.
    #[schema(required)]
    pub end: Option<&'static str>,
}

/// How long each step of the way took, in milliseconds. `null` where there was no such step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, ToSchema)]
pub struct Timings {
    /// To authenticate.
    #[schema(required)]
    pub auth: Option<f64>,
    /// To find the target and ask the rules.
    #[schema(required)]
    pub policy: Option<f64>,
    /// To resolve the name.
    #[schema(required)]
    pub dns: Option<f64>,
    /// To connect.
    #[schema(required)]
    pub connect: Option<f64>,
    /// For the TLS handshake with the target.
    #[schema(required)]
    pub tls: Option<f64>,
    /// From the request to the first byte of the target.
    #[schema(required)]
    pub first_byte: Option<f64>,
    /// From the request to its end.
    pub total: f64,
}

/// Milliseconds with microsecond resolution: what a person reads off a log line.
pub fn milliseconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

/// Shortens a text that came over the wire to what a decision may hold.
pub(crate) fn cut(mut text: String) -> String {
    if text.len() > TEXT_BYTES_MAX {
        text.truncate(text.floor_char_boundary(TEXT_BYTES_MAX));
        text.shrink_to_fit();
    }
    text
}

/// The most recent decisions: a ring that writers never wait for and readers may fall behind of.
///
/// Each decision has a place, counted from 0 in the order in which requests ended.
#[derive(Debug)]
pub struct Decisions {
    ring: Mutex<Ring>,
    news: Notify,
    followers: Arc<Semaphore>,
}

#[derive(Debug)]
struct Ring {
    /// The place of the oldest one held.
    first: u64,
    held: VecDeque<Arc<Decision>>,
}

impl Default for Decisions {
    fn default() -> Self {
        Self {
            ring: Mutex::new(Ring { first: 0, held: VecDeque::with_capacity(HELD_MAX) }),
            news: Notify::new(),
            followers: Arc::new(Semaphore::new(FOLLOWERS_MAX)),
        }
    }
}

/// What a reader that went forwards found.
#[derive(Debug, Default)]
pub struct Chunk {
    /// How many it missed: they were overwritten before it came.
    pub missed: u64,
    /// The place to go on from.
    pub next: u64,
    /// What is there, the oldest first.
    pub decisions: Vec<Arc<Decision>>,
}

impl Decisions {
    /// Notes a decision; the oldest one makes room.
    pub fn note(&self, decision: Decision) {
        let decision = Arc::new(decision);
        let mut ring = self.ring();
        let oldest = if ring.held.len() < HELD_MAX { None } else { ring.held.pop_front() };
        if oldest.is_some() {
            ring.first = ring.first.saturating_add(1);
        }
        ring.held.push_back(decision);
        drop(ring);
        // The last reference to it may be this one: memory is given back outside of the lock.
        drop(oldest);
        if self.followers.available_permits() < FOLLOWERS_MAX {
            self.news.notify_waiters();
        }
    }

    /// The place of the oldest decision that is held.
    pub fn first(&self) -> u64 {
        self.ring().first
    }

    /// The place that the next decision will have.
    pub fn end(&self) -> u64 {
        self.ring().end()
    }

    /// A few decisions before `place`, the newest first, each with its own place. None when nothing
    /// before it is held any more.
    pub fn before(&self, place: u64) -> Vec<(u64, Arc<Decision>)> {
        let ring = self.ring();
        let count = ring.index(place).min(ring.held.len());
        let places = (ring.first..place.min(ring.end())).rev();
        let held = ring.held.iter().rev().skip(ring.held.len().saturating_sub(count));
        places.zip(held.cloned()).take(CHUNK).collect()
    }

    /// A few decisions from `place` on, the oldest first.
    pub fn since(&self, place: u64) -> Chunk {
        let ring = self.ring();
        let missed = ring.first.saturating_sub(place);
        let decisions: Vec<_> =
            ring.held.iter().skip(ring.index(place)).take(CHUNK).cloned().collect();
        let found = u64::try_from(decisions.len()).unwrap_or(u64::MAX);
        let next = place.saturating_add(missed).saturating_add(found);
        Chunk { missed, next, decisions }
    }

    /// The place of a decision that is still held.
    pub fn place_of(&self, decision_id: &str) -> Option<u64> {
        let mut end = self.end();
        loop {
            let chunk = self.before(end);
            if let Some((place, _)) = chunk.iter().find(|(_, one)| one.decision_id == decision_id) {
                return Some(*place);
            }
            end = chunk.last()?.0;
        }
    }

    /// Follows what is noted from `place` on. `None` when too many follow already.
    pub fn follow(self: &Arc<Self>, place: u64) -> Option<Follower> {
        let permit = Arc::clone(&self.followers).try_acquire_owned().ok()?;
        Some(Follower { decisions: Arc::clone(self), place, _permit: permit })
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ring {
    /// The place behind the newest one.
    fn end(&self) -> u64 {
        self.first.saturating_add(u64::try_from(self.held.len()).unwrap_or(u64::MAX))
    }

    /// Where in `held` a place is, or would be.
    fn index(&self, place: u64) -> usize {
        usize::try_from(place.saturating_sub(self.first)).unwrap_or(usize::MAX)
    }
}

/// Goes along with the decisions as they are made.
#[derive(Debug)]
pub struct Follower {
    decisions: Arc<Decisions>,
    place: u64,
    _permit: OwnedSemaphorePermit,
}

impl Follower {
    /// Waits until there is something new. Nothing is lost when this is cancelled.
    pub async fn next(&mut self) -> Chunk {
        let decisions = Arc::clone(&self.decisions);
        let mut news = pin!(decisions.news.notified());
        loop {
            // Before looking: what is noted from here on is heard.
            news.as_mut().enable();
            let chunk = decisions.since(self.place);
            if chunk.missed > 0 || !chunk.decisions.is_empty() {
                self.place = chunk.next;
                return chunk;
            }
            news.as_mut().await;
            news.set(decisions.news.notified());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::iter::successors;

    use super::*;

    fn decision(number: usize) -> Decision {
        Decision {
            decision_id: format!("{number:026}"),
            time: Timestamp::UNIX_EPOCH,
            client: None,
            target: None,
            mode: "connect",
            method: None,
            authority: None,
            decision: "allowed",
            code: None,
            cause: None,
            detail: None,
            pinned: None,
            route: None,
            timings: Timings::default(),
            bytes_to_target: 0,
            bytes_to_client: 0,
            status: Some(200),
            end: None,
        }
    }

    fn with(count: usize) -> Arc<Decisions> {
        let decisions = Arc::new(Decisions::default());
        (0..count).for_each(|number| decisions.note(decision(number)));
        decisions
    }

    fn number(decision: &Decision) -> usize {
        decision.decision_id.parse().unwrap()
    }

    fn all_before(decisions: &Decisions, place: u64) -> Vec<usize> {
        let first = decisions.before(place);
        let chunks = successors(Some(first), |chunk| Some(decisions.before(chunk.last()?.0)));
        chunks
            .flatten()
            .map(|(place, one)| {
                assert_eq!(usize::try_from(place).unwrap(), number(&one));
                number(&one)
            })
            .collect()
    }

    fn all_since(decisions: &Decisions, place: u64) -> (u64, Vec<usize>) {
        let mut chunk = decisions.since(place);
        let missed = chunk.missed;
        let mut numbers = Vec::new();
        while !chunk.decisions.is_empty() {
            numbers.extend(chunk.decisions.iter().map(|one| number(one)));
            chunk = decisions.since(chunk.next);
            assert_eq!(chunk.missed, 0);
        }
        (missed, numbers)
    }

    #[test]
    fn the_oldest_make_room_and_readers_are_told_how_many_they_missed() {
        for count in [0, 1, CHUNK, CHUNK + 1, HELD_MAX - 1, HELD_MAX, HELD_MAX + 1, 3 * HELD_MAX] {
            let decisions = with(count);
            let first = count.saturating_sub(HELD_MAX);
            assert_eq!(decisions.ring().held.len(), count - first);
            assert_eq!(decisions.end(), count as u64);
            let expected: Vec<_> = (first..count).collect();
            assert_eq!(all_since(&decisions, 0), (first as u64, expected.clone()), "{count}");
            let backwards: Vec<_> = expected.into_iter().rev().collect();
            assert_eq!(all_before(&decisions, u64::MAX), backwards, "{count}");
        }
    }

    #[test]
    fn a_reader_may_begin_anywhere() {
        let decisions = with(HELD_MAX + 100);
        assert_eq!(all_before(&decisions, 103), [102, 101, 100]);
        assert!(all_before(&decisions, 100).is_empty());
        assert!(all_before(&decisions, 3).is_empty());
        let end = (HELD_MAX + 100) as u64;
        assert_eq!(all_since(&decisions, end - 1), (0, vec![HELD_MAX + 99]));
        assert_eq!(all_since(&decisions, end), (0, vec![]));
        assert_eq!(decisions.since(end + 7).next, end + 7);
        assert_eq!(decisions.place_of(&decision(100).decision_id), Some(100));
        assert_eq!(decisions.place_of(&decision(99).decision_id), None);
        assert_eq!(with(0).place_of("x"), None);
    }

    #[tokio::test]
    async fn a_follower_gets_everything_once_and_hears_of_what_it_missed() {
        let decisions = with(5);
        let mut follower = decisions.follow(decisions.end()).unwrap();
        decisions.note(decision(5));
        let chunk = follower.next().await;
        assert_eq!((chunk.missed, chunk.decisions.len()), (0, 1));

        let writer = Arc::clone(&decisions);
        let (written, next) = tokio::join!(async { writer.note(decision(6)) }, follower.next());
        let () = written;
        assert_eq!(number(&next.decisions[0]), 6);

        (7..=7 + HELD_MAX + 2).for_each(|number| decisions.note(decision(number)));
        let chunk = follower.next().await;
        assert_eq!((chunk.missed, number(&chunk.decisions[0])), (3, 10));
    }

    #[tokio::test]
    async fn a_follower_that_waits_is_woken() {
        let decisions = with(0);
        let mut follower = decisions.follow(0).unwrap();
        let waiting = follower.next();
        let mut waiting = pin!(waiting);
        let soon = tokio::time::timeout(Duration::from_millis(1), waiting.as_mut());
        assert!(soon.await.is_err(), "there was nothing");
        decisions.note(decision(0));
        let patience = Duration::from_secs(20);
        let chunk = tokio::time::timeout(patience, waiting).await.expect("it is woken");
        assert_eq!(chunk.decisions.len(), 1);
    }

    #[test]
    fn followers_have_a_bound_and_give_their_place_back() {
        let decisions = with(0);
        let mut followers: Vec<_> =
            (0..FOLLOWERS_MAX).map(|_| decisions.follow(0).unwrap()).collect();
        assert!(decisions.follow(0).is_none());
        followers.pop();
        assert!(decisions.follow(0).is_some());
    }

    #[test]
    fn long_texts_are_cut_between_characters() {
        assert_eq!(cut("ä".repeat(256)), "ä".repeat(256));
        assert_eq!(cut(format!("x{}", "ä".repeat(256))), format!("x{}", "ä".repeat(255)));
    }
}
