//! Which sockets are listened on, by configured address, so that a reload changes only what changed.

use std::{collections::HashMap, io, net::SocketAddr, net::TcpListener as StdListener, sync::Arc};

use arc_swap::ArcSwapOption;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    admin::{self, AdminState},
    config::Config,
    server::{Server, listen::Listener, tls::ServerTls},
};

/// Which API a socket serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Kind {
    Proxy,
    Admin,
}

impl Kind {
    const BOTH: [Self; 2] = [Self::Proxy, Self::Admin];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Proxy => "proxy",
            Self::Admin => "admin",
        }
    }
}

/// What the configuration asks for: port 0 stays 0 here.
type Key = (Kind, SocketAddr);

/// Why a socket cannot be listened on.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// A configured address.
    #[error("{kind}.listen: cannot listen on {address}: {source}")]
    Bind {
        /// `proxy` or `admin`.
        kind: &'static str,
        /// The address.
        address: SocketAddr,
        /// What the kernel says.
        source: io::Error,
    },
    /// A socket handed down by the service manager.
    #[error("a socket that was handed down for {kind} cannot be used: {source}")]
    Inherited {
        /// `proxy` or `admin`.
        kind: &'static str,
        /// What the kernel says.
        source: io::Error,
    },
}

/// A socket that is bound and not served yet.
pub(super) struct Bound {
    key: Key,
    address: SocketAddr,
    listener: Listener,
    inherited: bool,
}

/// The sockets being served.
#[derive(Debug, Default)]
pub(super) struct Listeners {
    open: HashMap<Key, Open>,
    tls: Arc<ArcSwapOption<ServerTls>>,
    proxies: TaskTracker,
    admins: TaskTracker,
}

#[derive(Debug)]
struct Open {
    address: SocketAddr,
    inherited: bool,
    stop: CancellationToken,
}

impl Listeners {
    /// Binds what the configuration asks for and is not open yet. Inherited sockets take the place
    /// of all configured addresses of their kind.
    pub(super) fn bind(
        &self,
        config: &Config,
        inherited: &mut Inherited,
    ) -> Result<Vec<Bound>, ListenError> {
        let mut bound = Vec::new();
        for kind in Kind::BOTH {
            let handed_down = inherited.take(kind);
            if handed_down.is_empty() {
                let missing = |key: &Key| !self.open.contains_key(key);
                for key in self.wanted_of(config, kind).into_iter().filter(missing) {
                    bound.push(bind(key)?);
                }
            }
            for socket in handed_down {
                bound.push(take_over(kind, socket)?);
            }
        }
        Ok(bound)
    }

    /// Everything that a configuration wants open.
    pub(super) fn wanted(&self, config: &Config) -> Vec<Key> {
        Kind::BOTH.into_iter().flat_map(|kind| self.wanted_of(config, kind)).collect()
    }

    /// A kind whose sockets were inherited keeps them: they are the service manager's to change.
    fn wanted_of(&self, config: &Config, kind: Kind) -> Vec<Key> {
        let inherited: Vec<Key> = self
            .open
            .iter()
            .filter(|((of, _), open)| *of == kind && open.inherited)
            .map(|(key, _)| *key)
            .collect();
        if !inherited.is_empty() {
            return inherited;
        }
        let listen = match kind {
            Kind::Proxy => &config.proxy.listen,
            Kind::Admin => &config.admin.listen,
        };
        listen.iter().map(|address| (kind, *address)).collect()
    }

    /// The addresses that will be open once `bound` are served and only `wanted` are kept.
    pub(super) fn addresses(&self, bound: &[Bound], wanted: &[Key]) -> Vec<SocketAddr> {
        let kept = self.open.iter().filter(|(key, _)| wanted.contains(key));
        kept.map(|(_, open)| open.address).chain(bound.iter().map(|one| one.address)).collect()
    }

    /// TLS for proxy connections that are accepted from now on.
    pub(super) fn set_tls(&self, tls: Option<ServerTls>) {
        self.tls.store(tls.map(Arc::new));
    }

    /// Begins to serve.
    pub(super) fn start(&mut self, bound: Vec<Bound>, server: &Server, state: &Arc<AdminState>) {
        for one in bound {
            let stop = CancellationToken::new();
            let (kind, _) = one.key;
            tracing::info!(listener = kind.as_str(), address = %one.address, "listening");
            match kind {
                Kind::Proxy => {
                    let serve =
                        one.listener.serve(server.clone(), Arc::clone(&self.tls), stop.clone());
                    self.proxies.spawn(serve);
                }
                Kind::Admin => {
                    let limits = admin::Limits::default();
                    let socket = one.listener.into_tokio();
                    let serve = admin::serve(socket, Arc::clone(state), limits, stop.clone());
                    self.admins.spawn(serve);
                }
            }
            let open = Open { address: one.address, inherited: one.inherited, stop };
            self.open.insert(one.key, open);
        }
    }

    /// Closes every socket that is not wanted any more; connections that are open live on.
    pub(super) fn retain(&mut self, wanted: &[Key]) {
        self.open.retain(|key, open| {
            let keep = wanted.contains(key);
            if !keep {
                tracing::info!(listener = key.0.as_str(), address = %open.address, "closing");
                open.stop.cancel();
            }
            keep
        });
    }

    /// Stops accepting on the proxy's sockets.
    pub(super) fn stop_proxies(&self) {
        for open in self.open.iter().filter(|((kind, _), _)| *kind == Kind::Proxy) {
            open.1.stop.cancel();
        }
        self.proxies.close();
    }

    /// Ready once everything that was queued on them has been taken in.
    pub(super) async fn proxies_closed(&self) {
        self.proxies.wait().await;
    }

    /// Ends the admin listeners.
    pub(super) async fn stop_admin(&self) {
        for open in self.open.values() {
            open.stop.cancel();
        }
        self.admins.close();
        self.admins.wait().await;
    }
}

fn bind(key: Key) -> Result<Bound, ListenError> {
    let (kind, wanted) = key;
    let error = |source| ListenError::Bind { kind: kind.as_str(), address: wanted, source };
    let listener = Listener::bind(wanted).map_err(error)?;
    let address = listener.address().map_err(error)?;
    Ok(Bound { key, address, listener, inherited: false })
}

fn take_over(kind: Kind, socket: StdListener) -> Result<Bound, ListenError> {
    let error = |source| ListenError::Inherited { kind: kind.as_str(), source };
    let listener = Listener::inherited(socket).map_err(error)?;
    let address = listener.address().map_err(error)?;
    Ok(Bound { key: (kind, address), address, listener, inherited: true })
}

/// Sockets handed down by the service manager (`LISTEN_FDS`, `sd_listen_fds(3)`).
#[derive(Debug, Default)]
pub(super) struct Inherited(Vec<(Kind, StdListener)>);

impl Inherited {
    /// Takes what was handed down: sockets named `admin` (`FileDescriptorName=`) serve the admin
    /// API, all others the proxy.
    pub(super) fn from_environment() -> Self {
        #[expect(
            clippy::disallowed_methods,
            reason = "sd_listen_fds(3): names come by environment"
        )]
        let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
        let names: Vec<_> = names.split(':').collect();
        let mut handed_down = listenfd::ListenFd::from_env();
        let mut sockets = Vec::new();
        for index in 0..handed_down.len() {
            let kind = if names.get(index) == Some(&"admin") { Kind::Admin } else { Kind::Proxy };
            match handed_down.take_tcp_listener(index) {
                Ok(Some(socket)) => sockets.push((kind, socket)),
                Ok(None) => {}
                Err(error) => tracing::error!(index, %error, "a handed-down socket is not TCP"),
            }
        }
        Self(sockets)
    }

    /// Nothing: a reload cannot inherit.
    pub(super) fn none() -> Self {
        Self::default()
    }

    fn take(&mut self, kind: Kind) -> Vec<StdListener> {
        let (wanted, rest) =
            std::mem::take(&mut self.0).into_iter().partition(|(of, _)| *of == kind);
        self.0 = rest;
        let wanted: Vec<(Kind, StdListener)> = wanted;
        wanted.into_iter().map(|(_, socket)| socket).collect()
    }
}
