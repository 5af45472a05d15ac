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

use hyper::client::conn::{http1, http2};
use tokio::time::Instant;

use super::{body::RequestBody, upstream::Fault};
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
/// What it says of its end, if anything, is beside it, and tells which connection it is.
#[derive(Debug)]
pub enum Sender {
    /// One request at a time.
    Http1(http1::SendRequest<RequestBody>, Fault),
    /// Many; shared by cloning.
    Http2(http2::SendRequest<RequestBody>, Fault),
}

impl Sender {
    /// Waits until another request can be sent.
    pub(super) async fn ready(&mut self) -> hyper::Result<()> {
        match self {
            Self::Http1(sender, _) => sender.ready().await,
            Self::Http2(sender, _) => sender.ready().await,
        }
    }

    pub(super) const fn fault(&self) -> &Fault {
        match self {
            Self::Http1(_, fault) | Self::Http2(_, fault) => fault,
        }
    }

    fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Http2(_, one), Self::Http2(_, other)) => Arc::ptr_eq(one, other),
            (Self::Http1(..), _) | (_, Self::Http1(..)) => false,
        }
    }

    fn is_closed(&self) -> bool {
        match self {
            Self::Http1(sender, _) => sender.is_closed(),
            Self::Http2(sender, _) => sender.is_closed(),
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
        let mut by_target = self.by_target.lock().unwrap_or_else(PoisonError::into_inner);
        let idle = by_target.get_mut(&target.id)?;
        idle.retain(|one| {
            one.generation == target.generation
                && one.route.as_deref() == route
                && vetted.iter().any(|vetted| vetted.addr() == one.address)
                && one.since.elapsed() < IDLE_MAX
                && !one.sender.is_closed()
        });
        // The one used last: the others get old and are closed, as the load allows.
        let found = match idle.last().map(|one| &one.sender) {
            None => None,
            Some(Sender::Http2(shared, fault)) => {
                let shared = Sender::Http2(shared.clone(), Arc::clone(fault));
                idle.last().map(|one| (one.address, shared))
            }
            Some(Sender::Http1(..)) => idle.pop().map(|one| (one.address, one.sender)),
        };
        if idle.is_empty() {
            by_target.remove(&target.id);
        }
        found
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
            idle.retain(|one| {
                Some(one.generation) == generation
                    && one.since.elapsed() < IDLE_MAX
                    && !one.sender.is_closed()
            });
            !idle.is_empty()
        });
    }
}
