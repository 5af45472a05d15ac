//! What the tests stand on: the namespace, the program, names, receivers, clients.

pub(crate) mod api;
pub(crate) mod canary;
pub(crate) mod config;
pub(crate) mod disk;
pub(crate) mod dns;
pub(crate) mod far;
pub(crate) mod gateway;
pub(crate) mod h2;
pub(crate) mod hook;
pub(crate) mod hop;
pub(crate) mod http;
pub(crate) mod lab;
pub(crate) mod metrics;
pub(crate) mod origin;
pub(crate) mod receiver;
pub(crate) mod refusal;
pub(crate) mod tls;

use std::time::Duration;
use tokio::time::Instant;

/// How long a condition may take to come true. Long, as a loaded machine must not fail a test.
pub(crate) const BOUND: Duration = Duration::from_secs(20);

/// How often a condition is looked at.
const PACE: Duration = Duration::from_millis(5);

/// Waits until `probe` gives a value, at most [`BOUND`]; panics with `what` when it never does.
pub(crate) async fn eventually<T>(what: &str, mut probe: impl AsyncFnMut() -> Option<T>) -> T {
    let end = Instant::now() + BOUND;
    loop {
        if let Some(value) = probe().await {
            return value;
        }
        assert!(Instant::now() < end, "did not happen within {BOUND:?}: {what}");
        tokio::time::sleep(PACE).await;
    }
}

/// Awaits `future`, at most [`BOUND`]; panics with `what` when it does not end.
pub(crate) async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(BOUND, future).await {
        Ok(value) => value,
        Err(_) => panic!("did not end within {BOUND:?}: {what}"),
    }
}
