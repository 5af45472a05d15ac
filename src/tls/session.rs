//! Sessions of one target, to be resumed for as long as its certificate was verified lately.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use rustls::{
    NamedGroup,
    client::{
        ClientSessionMemoryCache, ClientSessionStore, Tls12ClientSessionValue,
        Tls13ClientSessionValue,
    },
};
use rustls_pki_types::{ServerName, UnixTime};

/// How long sessions live without a certificate being verified. A resumed handshake shows no
/// certificate, and its tickets lead to the next one: without a bound, a busy target would never
/// be verified again.
const VERIFIED_FOR: Duration = Duration::from_hours(12);

/// A target has one name, or two where its redirects stay on it under another port.
const NAMES_MAX: usize = 4;

/// The sessions of one target, and of no other.
#[derive(Debug)]
pub(super) struct Sessions {
    held: Mutex<Held>,
}

#[derive(Debug)]
struct Held {
    cache: ClientSessionMemoryCache,
    /// When what is in the cache stops being of use; seconds since 1970.
    until: u64,
}

impl Sessions {
    pub(super) fn new() -> Self {
        Self {
            held: Mutex::new(Held { cache: ClientSessionMemoryCache::new(NAMES_MAX), until: 0 }),
        }
    }

    /// A certificate that is valid until `not_after`, in seconds since 1970, was verified `now`.
    pub(super) fn verified(&self, now: UnixTime, not_after: u64) {
        let until = now.as_secs().saturating_add(VERIFIED_FOR.as_secs()).min(not_after);
        self.with(now, |held| held.until = until);
    }

    /// Works on the cache, emptied where its time is over.
    fn with<T>(&self, now: UnixTime, work: impl FnOnce(&mut Held) -> T) -> T {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if held.is_over(now) && held.until != 0 {
            *held = Held { cache: ClientSessionMemoryCache::new(NAMES_MAX), until: 0 };
        }
        work(&mut held)
    }

    /// Adds a session to the cache, unless its time is over: a connection that was opened before
    /// can be given new tickets for as long as it lives.
    fn add(&self, now: UnixTime, add: impl FnOnce(&ClientSessionMemoryCache)) {
        self.with(now, |held| {
            if !held.is_over(now) {
                add(&held.cache);
            }
        });
    }
}

impl Held {
    fn is_over(&self, now: UnixTime) -> bool {
        self.until < now.as_secs()
    }
}

impl ClientSessionStore for Sessions {
    fn set_kx_hint(&self, server_name: ServerName<'static>, group: NamedGroup) {
        self.with(UnixTime::now(), |held| held.cache.set_kx_hint(server_name, group));
    }

    fn kx_hint(&self, server_name: &ServerName<'_>) -> Option<NamedGroup> {
        self.with(UnixTime::now(), |held| held.cache.kx_hint(server_name))
    }

    fn set_tls12_session(&self, server_name: ServerName<'static>, value: Tls12ClientSessionValue) {
        self.add(UnixTime::now(), |cache| cache.set_tls12_session(server_name, value));
    }

    fn tls12_session(&self, server_name: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        self.with(UnixTime::now(), |held| held.cache.tls12_session(server_name))
    }

    fn remove_tls12_session(&self, server_name: &ServerName<'static>) {
        self.with(UnixTime::now(), |held| held.cache.remove_tls12_session(server_name));
    }

    fn insert_tls13_ticket(
        &self,
        server_name: ServerName<'static>,
        value: Tls13ClientSessionValue,
    ) {
        self.add(UnixTime::now(), |cache| cache.insert_tls13_ticket(server_name, value));
    }

    fn take_tls13_ticket(
        &self,
        server_name: &ServerName<'static>,
    ) -> Option<Tls13ClientSessionValue> {
        self.with(UnixTime::now(), |held| held.cache.take_tls13_ticket(server_name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hint_after(verified: u64, not_after: u64, asked: u64) -> bool {
        let name = ServerName::try_from("a.example").unwrap();
        let at = |secs| UnixTime::since_unix_epoch(Duration::from_secs(secs));
        let sessions = Sessions::new();
        sessions.verified(at(verified), not_after);
        // a hint stands for whatever is in the cache
        sessions
            .with(at(verified), |held| held.cache.set_kx_hint(name.clone(), NamedGroup::X25519));
        sessions.with(at(asked), |held| held.cache.kx_hint(&name)).is_some()
    }

    #[test]
    fn what_was_verified_long_ago_is_not_resumed() {
        let hours = |hours: u64| hours * 3600;
        assert!(hint_after(1000, u64::MAX, 1000 + hours(12)));
        assert!(!hint_after(1000, u64::MAX, 1001 + hours(12)));
    }

    #[test]
    fn nothing_is_kept_before_a_certificate_was_verified() {
        let now = UnixTime::since_unix_epoch(Duration::from_secs(1000));
        let sessions = Sessions::new();
        sessions.add(now, |_| panic!("added"));
        sessions.verified(now, 2000);
        let mut added = false;
        sessions.add(now, |_| added = true);
        assert!(added);
    }

    #[test]
    fn what_was_verified_by_a_certificate_that_has_expired_is_not_resumed() {
        assert!(hint_after(1000, 2000, 2000));
        assert!(!hint_after(1000, 2000, 2001));
    }
}
