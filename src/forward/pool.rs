//! Open connections to targets that wait for another request.
//!
//! A connection is found again only by the same target, at the same vetted address, by the same
//! route, under the same configuration: never by another target of the same host, and not after a
//! reload. The name is resolved and vetted, and the route chosen, for every request, so that a
//! connection to an address that is no longer vetted, or through a tunnel that another has taken
//! over from, is never found; it is dropped at the next look.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use hyper::client::conn::http2;
use tokio::time::Instant;

use super::{body::RequestBody, line::Line, noted::Seen};
use crate::{
    policy::VettedAddr,
    target::{Target, TargetId},
};

/// How long a connection may wait. Below the keep-alive of common servers (nginx 75 s, Apache 5 s
/// announce theirs by closing), so that few requests meet one that is just being closed.
const IDLE_MAX: Duration = Duration::from_secs(55);

/// Connections of one target that may wait.
const IDLE_PER_TARGET_MAX: usize = 64;

/// Something that sends requests over an open connection.
#[derive(Debug)]
pub enum Sender {
    /// One request at a time.
    Http1(Box<Line>),
    /// Many; shared by cloning. What is noted of it tells which connection it is.
    Http2(http2::SendRequest<RequestBody>, Arc<Seen>),
}

impl Sender {
    /// What is noted of its connection.
    pub(super) const fn seen(&self) -> &Arc<Seen> {
        match self {
            Self::Http1(line) => line.seen(),
            Self::Http2(_, seen) => seen,
        }
    }

    /// Whether another request can be sent now.
    pub(super) fn is_ready(&self) -> bool {
        match self {
            Self::Http1(line) => line.is_ready(),
            Self::Http2(sender, _) => sender.is_ready(),
        }
    }

    /// Waits until another request can be sent.
    pub(super) async fn ready(&mut self) -> hyper::Result<()> {
        match self {
            Self::Http1(line) => line.ready().await,
            Self::Http2(sender, _) => sender.ready().await,
        }
    }

    fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Http2(_, one), Self::Http2(_, other)) => Arc::ptr_eq(one, other),
            (Self::Http1(_), _) | (_, Self::Http1(_)) => false,
        }
    }

    /// Whether it had ended when it was last looked at.
    fn is_closed(&self) -> bool {
        match self {
            Self::Http1(line) => line.is_closed(),
            Self::Http2(sender, _) => sender.is_closed(),
        }
    }

    /// Looks whether it has not ended.
    fn stands(&mut self) -> bool {
        match self {
            Self::Http1(line) => line.stands(),
            Self::Http2(sender, _) => !sender.is_closed(),
        }
    }
}

#[derive(Debug)]
struct Idle {
    address: SocketAddr,
    /// `direct`, or a tunnel's name.
    route: Option<Arc<str>>,
    generation: u64,
    since: Instant,
    sender: Sender,
}

/// All waiting connections.
#[derive(Debug, Default)]
pub struct Pool {
    by_target: Mutex<HashMap<TargetId, Vec<Idle>>>,
}

impl Pool {
    /// A connection of the target to one of the vetted addresses by this route. Those of the target
    /// that are of no use any more are dropped on the way.
    pub fn take(
        &self,
        target: &Target,
        vetted: &[VettedAddr],
        route: Option<&str>,
    ) -> Option<(SocketAddr, Sender)> {
        loop {
            let (address, mut sender) = self.last(target, vetted, route)?;
            if sender.stands() {
                return Some((address, sender));
            }
        }
    }

    /// The one used last: the others get old and are closed, as the load allows.
    fn last(
        &self,
        target: &Target,
        vetted: &[VettedAddr],
        route: Option<&str>,
    ) -> Option<(SocketAddr, Sender)> {
        let now = Instant::now();
        let mut by_target = self.by_target.lock().unwrap_or_else(PoisonError::into_inner);
        let idle = by_target.get_mut(&target.id)?;
        idle.retain(|one| {
            one.generation == target.generation
                && one.route.as_deref() == route
                && vetted.iter().any(|vetted| vetted.addr() == one.address)
                && now.saturating_duration_since(one.since) < IDLE_MAX
                && !one.sender.is_closed()
        });
        if let Some(Idle { address, sender: Sender::Http2(shared, seen), .. }) = idle.last() {
            return Some((*address, Sender::Http2(shared.clone(), Arc::clone(seen))));
        }
        idle.pop().map(|one| (one.address, one.sender))
    }

    /// Keeps a connection, which leads to the address by the route, for the next request.
    pub fn put(
        &self,
        target: &Target,
        address: SocketAddr,
        route: Option<Arc<str>>,
        sender: Sender,
    ) {
        if sender.is_closed() {
            return;
        }
        let mut by_target = self.by_target.lock().unwrap_or_else(PoisonError::into_inner);
        let idle = by_target.entry(target.id.clone()).or_default();
        if let Some(shared) = idle.iter_mut().find(|one| one.sender.is_same(&sender)) {
            shared.since = Instant::now();
        } else if idle.len() < IDLE_PER_TARGET_MAX {
            let generation = target.generation;
            let since = Instant::now();
            idle.push(Idle { address, route, generation, since, sender });
        }
    }

    /// Drops what has waited too long, or belongs to another configuration than the one that
    /// `generation` gives for the target.
    pub fn sweep(&self, generation: impl Fn(&TargetId) -> Option<u64>) {
        let mut by_target = self.by_target.lock().unwrap_or_else(PoisonError::into_inner);
        by_target.retain(|id, idle| {
            let generation = generation(id);
            idle.retain_mut(|one| {
                Some(one.generation) == generation
                    && one.since.elapsed() < IDLE_MAX
                    && one.sender.stands()
            });
            !idle.is_empty()
        });
    }
}
