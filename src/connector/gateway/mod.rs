//! The gateway's end: who dialled in, and streams opened through them.

mod link;
mod listen;
mod watch;

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use rustls::ServerConfig;
use tokio::{net::TcpListener, task::AbortHandle, task::JoinSet};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    hello::{VERSIONS, shown_versions},
    keys::{Key, KeyError},
};
use crate::{multiplex::Stream, store::Store, tunnel::error::TunnelError};
pub use link::Counted;
pub(super) use link::LEAVING;
use link::{Link, NotOpened};

/// An open stream through a connector. While it lives it counts as one of its connection's.
pub type ConnectorStream = Stream<Counted>;

/// Connections of one name.
const LINKS_PER_NAME_MAX: usize = 32;

/// The connectors that have dialled in, and the listener's key.
pub struct Connectors {
    store: Store,
    tls: Arc<ServerConfig>,
    names: Mutex<HashMap<String, Name>>,
    /// Peers that have not shown yet who they are, oldest first.
    strangers: Mutex<VecDeque<AbortHandle>>,
    tasks: TaskTracker,
    /// No new streams; connectors are asked to dial somebody else.
    leave: CancellationToken,
    /// Everything ends now.
    cut: CancellationToken,
}

/// What is known of one name.
#[derive(Default)]
struct Name {
    links: Vec<Arc<Link>>,
    /// Versions of the last connector of this name that speaks none of ours.
    foreign: Option<Vec<u32>>,
}

/// How a name's connections are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Connections that take new streams.
    pub links: usize,
    /// Streams that are open, also on connections that take no new ones.
    pub streams: usize,
    /// The shortest round trip that was measured last, over all of them.
    pub round_trip: Option<Duration>,
}

impl Connectors {
    /// Nobody has dialled in yet. `key` is what the listener shows.
    ///
    /// # Errors
    /// The key cannot be used with TLS 1.3.
    pub fn new(store: Store, key: &Key) -> Result<Arc<Self>, KeyError> {
        Ok(Arc::new(Self {
            store,
            tls: key.server()?,
            names: Mutex::default(),
            strangers: Mutex::default(),
            tasks: TaskTracker::new(),
            leave: CancellationToken::new(),
            cut: CancellationToken::new(),
        }))
    }

    /// Opens a stream to an address through the connection of this name that has the fewest.
    /// Where one is lost meanwhile the next is tried; nobody connected is an error at once. Takes
    /// at most 15 seconds for each.
    ///
    /// # Errors
    /// Why there is no stream.
    pub async fn open(&self, name: &str, to: SocketAddr) -> Result<ConnectorStream, TunnelError> {
        let mut tried = Vec::new();
        let mut last = None;
        while let Some(link) = self.least_busy(name, &tried) {
            match link.open(to).await {
                Ok(stream) => return Ok(stream),
                Err(NotOpened::Final(error)) => return Err(error),
                Err(NotOpened::TryAnother(error)) => last = Some(error),
            }
            tried.push(link.id);
        }
        Err(last.unwrap_or_else(|| self.nobody(name)))
    }

    /// How the connections of a name are.
    pub fn status(&self, name: &str) -> Status {
        let names = self.names();
        let links = names.get(name).map(|name| name.links.as_slice()).unwrap_or_default();
        let open = links.iter().filter(|link| link.is_open());
        Status {
            links: open.clone().count(),
            streams: links.iter().map(|link| link.streams()).sum(),
            round_trip: open.filter_map(|link| link.round_trip()).min(),
        }
    }

    /// Ends every connection, and [`serve`].
    pub fn close(&self) {
        self.cut.cancel();
    }

    fn least_busy(&self, name: &str, tried: &[u64]) -> Option<Arc<Link>> {
        let names = self.names();
        let open = names.get(name)?.links.iter().filter(|link| link.is_open());
        let untried = open.filter(|link| !tried.contains(&link.id));
        untried.min_by_key(|link| link.streams()).map(Arc::clone)
    }

    /// Why a name has no connection.
    fn nobody(&self, name: &str) -> TunnelError {
        match self.names().get(name).and_then(|name| name.foreign.as_ref()) {
            Some(theirs) => TunnelError::Protocol(format!(
                "connector {name} speaks version {} of the protocol, this gateway version {}",
                shown_versions(theirs),
                shown_versions(VERSIONS)
            )),
            None => TunnelError::Unreachable(format!("no connector {name} is connected")),
        }
    }

    fn has_room(&self, name: &str) -> bool {
        self.names().get(name).is_none_or(|name| name.links.len() < LINKS_PER_NAME_MAX)
    }

    /// Takes a connection in, in place of an earlier one of the same process.
    fn register(&self, link: &Arc<Link>) {
        let mut names = self.names();
        let name = names.entry(link.name.clone()).or_default();
        name.foreign = None;
        name.links.retain(|other| {
            let replaced = link.replaces(other);
            if replaced {
                other.cut.cancel();
            }
            !replaced
        });
        name.links.push(Arc::clone(link));
    }

    fn unregister(&self, link: &Link) {
        let mut names = self.names();
        if let Some(name) = names.get_mut(&link.name) {
            name.links.retain(|other| other.id != link.id);
            if name.links.is_empty() && name.foreign.is_none() {
                names.remove(&link.name);
            }
        }
    }

    /// Notes that a connector of this name dialled in that speaks other versions.
    fn note_foreign(&self, name: &str, versions: &[u32]) {
        let versions = versions.iter().take(8).copied().collect();
        self.names().entry(name.to_owned()).or_default().foreign = Some(versions);
    }

    fn names(&self) -> MutexGuard<'_, HashMap<String, Name>> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Connectors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connectors").field("tasks", &self.tasks.len()).finish_non_exhaustive()
    }
}

/// Serves connectors. From `stop` on nobody new is taken in, and those who are there are asked to
/// dial somebody else, while their connections go on carrying. Ends with [`Connectors::close`];
/// however it ends, it leaves no connection open.
pub async fn serve(
    connectors: Arc<Connectors>,
    listeners: Vec<TcpListener>,
    stop: CancellationToken,
) {
    let _cut = connectors.cut.clone().drop_guard();
    let serving = async {
        let mut accepting = JoinSet::new();
        for listener in listeners {
            accepting.spawn(listen::accept(Arc::clone(&connectors), listener, stop.clone()));
        }
        accepting.join_all().await;
        stop.cancelled().await;
        connectors.leave.cancel();
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = serving => {}
        () = watch::watch(&connectors) => {}
        () = connectors.cut.cancelled() => {}
    }
    connectors.tasks.close();
    connectors.tasks.wait().await;
}
