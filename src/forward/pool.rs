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

/// Connections of all targets together that may wait. Without it so many would be as there are
/// targets, and the files that may be open would be theirs.
const IDLE_MAX_OF_ALL: usize = 4096;

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
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    by_target: HashMap<TargetId, Vec<Idle>>,
    count: usize,
}

impl Kept {
    /// Lets `change` take some of the target's away.
    fn of<T>(&mut self, id: &TargetId, change: impl FnOnce(&mut Vec<Idle>) -> T) -> Option<T> {
        let idle = self.by_target.get_mut(id)?;
        let before = idle.len();
        let changed = change(idle);
        self.count = self.count.saturating_sub(before.saturating_sub(idle.len()));
        Some(changed)
    }

    /// Keeps one more of the target; beyond `most` of all targets the one goes that waits longest.
    fn push(&mut self, id: &TargetId, one: Idle, most: usize) {
        if self.count >= most {
            let ends =
                self.by_target.iter().filter_map(|(id, idle)| Some((idle.first()?.since, id)));
            let oldest = ends.min_by_key(|(since, _)| *since).map(|(_, id)| id.clone());
            oldest.and_then(|id| self.of(&id, |idle| drop(idle.remove(0))));
        }
        self.by_target.entry(id.clone()).or_default().push(one);
        self.count = self.count.saturating_add(1);
    }
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
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.of(&target.id, |idle| {
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
        })?
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
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let idle = kept.by_target.entry(target.id.clone()).or_default();
        let since = Instant::now();
        if let Some(shared) = idle.iter_mut().find(|one| one.sender.is_same(&sender)) {
            shared.since = since;
        } else if idle.len() < IDLE_PER_TARGET_MAX {
            let generation = target.generation;
            let one = Idle { address, route, generation, since, sender };
            kept.push(&target.id, one, IDLE_MAX_OF_ALL);
        }
    }

    /// Drops what has waited too long, or belongs to another configuration than the one that
    /// `generation` gives for the target.
    pub fn sweep(&self, generation: impl Fn(&TargetId) -> Option<u64>) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let Kept { by_target, count } = &mut *kept;
        by_target.retain(|id, idle| {
            let generation = generation(id);
            idle.retain_mut(|one| {
                Some(one.generation) == generation
                    && one.since.elapsed() < IDLE_MAX
                    && one.sender.stands()
            });
            !idle.is_empty()
        });
        *count = by_target.values().map(Vec::len).sum();
    }
}

#[cfg(test)]
mod tests {
    use tokio::{io::AsyncReadExt as _, time::timeout};

    use super::{super::line::tests::line, *};

    const LIMIT: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn beyond_the_limit_the_one_that_waits_longest_is_closed() {
        let ids = ["one", "two", "three"].map(|id| TargetId::parse(id).unwrap());
        let mut kept = Kept::default();
        let mut ends = Vec::new();
        for id in [&ids[1], &ids[0], &ids[1], &ids[2]] {
            let (line, end, _tasks) = line().await;
            ends.push(end);
            let address = "127.0.0.1:80".parse().unwrap();
            let (route, generation, since) = (None, 0, Instant::now());
            let sender = Sender::Http1(Box::new(line));
            kept.push(id, Idle { address, route, generation, since, sender }, 2);
        }
        assert_eq!(kept.count, 2);
        let left = ids.map(|id| kept.of(&id, |idle| idle.len()).unwrap_or_default());
        assert_eq!(left, [0, 1, 1]);
        let (closed, open) = ends.split_at_mut(2);
        for end in closed {
            assert_eq!(timeout(LIMIT, end.read(&mut [0])).await.unwrap().unwrap(), 0);
        }
        for end in open {
            assert!(end.try_read(&mut [0]).is_err());
        }
        kept.of(&TargetId::parse("three").unwrap(), Vec::clear);
        assert_eq!(kept.count, 1);
    }
}
