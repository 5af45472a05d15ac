//! From start to stop: bind, serve, reload, drain, hand over.

mod dial_in;
mod listeners;
mod memory;
mod readiness;
mod systemd;

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::task::TaskTracker;

use crate::{
    admin::{AdminState, AdminView, token::Access},
    config::{self, Config, Loaded, reload::Watcher},
    connector::keys::KeyError,
    gateway::Gateway,
    inventory::Inventory,
    seal::{Keys, SealError},
    server::Server,
    store::StoreError,
    telemetry::metrics::Metrics,
    view::{Shared, View, ViewError},
};
use dial_in::DialIn;
pub use listeners::ListenError;
use listeners::{Inherited, Listeners};
use memory::Memory;
use readiness::Readiness;

/// Why the gateway does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration cannot be used on this machine.
    #[error(transparent)]
    View(#[from] ViewError),
    /// The database.
    #[error("store.url: {0}")]
    Store(#[from] StoreError),
    /// The key that credentials are sealed with.
    #[error("store.key: {0}")]
    Key(#[from] SealError),
    /// The key that the connectors' listener shows.
    #[error("connectors.key_file: {0}")]
    ConnectorKey(#[from] KeyError),
    /// A listener.
    #[error("{0}")]
    Listen(#[from] ListenError),
    /// The metrics contradict each other: a mistake in the program.
    #[error("metrics: {0}")]
    Metrics(#[from] prometheus::Error),
    /// Signal handlers or the like.
    #[error("the system: {0}")]
    System(#[from] std::io::Error),
}

/// How often the machine's own addresses are read again.
const LOOK_AROUND_INTERVAL: Duration = Duration::from_secs(30);

/// How often connections to targets that wait for a request are looked at: nobody drives them, so
/// that one whose target or tunnel has gone is held for as long as this.
const SWEEP_INTERVAL: Duration = Duration::from_secs(5);

/// After `limits.drain_timeout`, how long cut tunnels may take to close.
const CUT_TIMEOUT: Duration = Duration::from_secs(2);

/// A running gateway.
#[derive(Debug)]
struct Running {
    files: Vec<PathBuf>,
    gateway: Arc<Gateway>,
    inventory: Arc<Inventory>,
    server: Server,
    listeners: Listeners,
    dial_in: DialIn,
    admin: Arc<AdminState>,
    shared: Shared,
    fixed: Fixed,
    memory: Memory,
}

/// Settings that take effect with a restart only.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Fixed {
    state_dir: PathBuf,
    connectors: Vec<SocketAddr>,
    store_url: String,
    log: &'static str,
}

impl Fixed {
    fn of(config: &Config) -> Self {
        Self {
            state_dir: config.state_dir.clone(),
            connectors: config.connectors.listen.clone(),
            store_url: config.store.url.expose().to_owned(),
            log: config.telemetry.log.as_str(),
        }
    }
}

/// Runs the gateway until it is told to stop. `files` are read again by a reload.
///
/// # Errors
/// Why it does not start. Once it serves, it ends with `Ok`.
pub async fn run(files: Vec<PathBuf>, loaded: Loaded) -> Result<(), StartError> {
    // Before anything else: a signal that comes while starting must not be lost.
    let mut signals = Signals::new()?;
    systemd::raise_file_limit();
    systemd::compare_file_limit(loaded.config.limits.max_connections);
    let mut watcher = config::reload::watch(&loaded.files);
    if let Some(fault) = watcher.fault() {
        tracing::warn!(fault, "changes of configuration files are noticed late");
    }
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    let mut running = Running::start(files, loaded.config).await?;
    running.announce();
    let mut watchdog = systemd::watchdog();
    systemd::ready();
    running.until_told_to_stop(&mut signals, &mut watcher, &mut watchdog).await;
    running.stop(&mut signals, &mut watchdog).await;
    Ok(())
}

impl Running {
    async fn start(files: Vec<PathBuf>, config: Config) -> Result<Self, StartError> {
        let metrics = Arc::new(Metrics::new()?);
        let fixed = Fixed::of(&config);
        let memory = Memory::open(&fixed.store_url, &metrics).await?;
        let mut listeners = Listeners::default();
        let bound = listeners.bind(&config, &mut Inherited::from_environment())?;
        let dial_in = DialIn::open(&config, &memory.store, &memory.background)?;
        let shared = Shared {
            sightings: Arc::clone(&memory.sightings),
            metrics: Arc::clone(&metrics),
            needs_egress: true,
            connectors: dial_in.connectors.clone(),
        };
        let admin_view = admin_view(&config);
        PolicyNote::of(&config).note(&metrics);
        listeners.set_tls(config.proxy.tls.clone());
        let mut addresses = listeners.addresses(&bound, &[]);
        addresses.extend(&dial_in.addresses);
        let keys = keys(&config)?;
        let view = Arc::new(ArcSwap::from_pointee(View::new(config, addresses, &shared, None)?));
        let inventory = memory.inventory(&view, &fixed.state_dir, keys).await?;
        view.load().egress.tunnels.enforce(None, &metrics);
        let tasks = TaskTracker::new();
        let Memory { deliveries, checks, .. } = &memory;
        let (deliveries, checks) = (Arc::clone(deliveries), Arc::clone(checks));
        let gateway = Gateway::new(view, Arc::clone(&metrics), deliveries, checks, &tasks);
        let gateway = Arc::new(gateway);
        let readiness = Readiness::new(Arc::clone(&gateway), memory.store.clone());
        let admin = Arc::new(AdminState::new(
            Arc::clone(&gateway),
            Arc::clone(&inventory),
            memory.store.clone(),
            Arc::new(readiness),
            admin_view,
        ));
        let server = Server::new(Arc::clone(&gateway), tasks);
        listeners.start(bound, &server, &admin);
        metrics.config_last_reload_success.set(now_seconds());
        Ok(Self {
            files,
            gateway,
            inventory,
            server,
            listeners,
            dial_in,
            admin,
            shared,
            fixed,
            memory,
        })
    }

    async fn until_told_to_stop(
        &mut self,
        signals: &mut Signals,
        watcher: &mut Watcher,
        watchdog: &mut systemd::Watchdog,
    ) {
        let mut look_around = tokio::time::interval(LOOK_AROUND_INTERVAL);
        let mut sweep = tokio::time::interval(SWEEP_INTERVAL);
        loop {
            tokio::select! {
                _ = signals.hangup.recv() => self.reload(watcher, "signal").await,
                () = watcher.changed() => self.reload(watcher, "file").await,
                _ = signals.terminate.recv() => return,
                _ = signals.interrupt.recv() => return,
                () = watchdog.due() => systemd::alive(),
                _ = look_around.tick() => self.look_around(),
                _ = sweep.tick() => self.gateway.sweep(),
            }
        }
    }

    /// What an operator should know of the way this gateway runs.
    fn announce(&self) {
        let view = self.gateway.view.load();
        if !view.clients.required() {
            tracing::warn!(
                "no clients are configured: whoever reaches the proxy may use every target"
            );
        }
        tracing::info!(
            version = env!("CARGO_PKG_VERSION"),
            targets = view.targets.len(),
            egress_ip =
                view.egress_ips.iter().map(ToString::to_string).collect::<Vec<_>>().join(","),
            "started"
        );
    }

    fn look_around(&self) {
        if let Err(error) = self.gateway.view.load().look_around() {
            tracing::error!(%error, "the machine's own addresses cannot be read");
        }
    }

    /// Reads the configuration again, whole or not at all.
    async fn reload(&mut self, watcher: &mut Watcher, trigger: &'static str) {
        systemd::reloading();
        let files = self.files.clone();
        // Reading many targets takes a while; the data path must not wait for it.
        let loaded = tokio::task::spawn_blocking(move || config::load(&files)).await;
        let metrics = Arc::clone(&self.shared.metrics);
        let watched = match loaded {
            Ok(Ok(loaded)) => {
                let watched = loaded.files.clone();
                match self.apply(loaded).await {
                    Ok(()) => {
                        metrics.config_reloads.with_label_values(&["success"]).inc();
                        metrics.config_last_reload_success.set(now_seconds());
                        let targets = self.gateway.view.load().targets.len();
                        tracing::info!(trigger, targets, "configuration reloaded");
                    }
                    Err(error) => refused(&metrics, trigger, &[error.to_string()]),
                }
                watched
            }
            Ok(Err(invalid)) => {
                let problems: Vec<_> = invalid.problems.iter().map(ToString::to_string).collect();
                refused(&metrics, trigger, &problems);
                invalid.files
            }
            Err(error) => {
                refused(&metrics, trigger, &[error.to_string()]);
                Vec::new()
            }
        };
        if !watched.is_empty() {
            watcher.rearm(&watched);
        }
        systemd::ready();
    }

    /// Makes a valid configuration the one in force. Everything that can fail comes first.
    async fn apply(&mut self, loaded: Loaded) -> Result<(), StartError> {
        let config = loaded.config;
        for warning in &loaded.warnings {
            tracing::warn!("{warning}");
        }
        let fixed = Fixed::of(&config);
        if fixed != self.fixed {
            tracing::warn!(
                "store.url, state_dir, connectors.listen and telemetry.log take effect with a restart"
            );
        }
        let bound = self.listeners.bind(&config, &mut Inherited::none())?;
        let admin_view = admin_view(&config);
        let tls = config.proxy.tls.clone();
        let wanted = self.listeners.wanted(&config);
        let policy = PolicyNote::of(&config);
        systemd::compare_file_limit(config.limits.max_connections);
        let mut addresses = self.listeners.addresses(&bound, &wanted);
        addresses.extend(&self.dial_in.addresses);
        // From here to the swap nobody changes a target.
        let still = self.inventory.still().await;
        let previous = self.gateway.view.load_full();
        let keys = keys(&config)?;
        let mut view = View::new(config, addresses, &self.shared, Some(&previous))?;
        view.egress.tunnels.enforce(Some(&previous.egress.tunnels), &self.shared.metrics);
        policy.note(&self.shared.metrics);
        self.inventory.reopen(&still, keys.as_ref()).await;
        self.inventory.join(&still, &mut view, keys);
        let view = Arc::new(view);
        self.gateway.view.store(Arc::clone(&view));
        self.gateway.checks.follow(&view);
        self.listeners.set_tls(tls);
        self.admin.view.store(Arc::new(admin_view));
        self.listeners.start(bound, &self.server, &self.admin);
        self.listeners.retain(&wanted);
        Ok(())
    }

    /// Drains: queued connections are taken in, open tunnels get `limits.drain_timeout`. A second
    /// signal ends the wait.
    async fn stop(self, signals: &mut Signals, watchdog: &mut systemd::Watchdog) {
        systemd::stopping();
        let drain_timeout = self.gateway.view.load().limits.drain_timeout;
        tracing::info!(?drain_timeout, "draining");
        self.server.begin_draining();
        self.listeners.stop_proxies();
        self.dial_in.begin_draining();
        let in_time = self.drained_within(drain_timeout, signals, watchdog).await;
        if !in_time {
            tracing::warn!(open = self.server.tasks.len(), "connections are cut");
            self.gateway.cut.cancel();
            self.server.tasks.close();
            let _cut = tokio::time::timeout(CUT_TIMEOUT, self.server.tasks.wait()).await;
        }
        self.finish().await;
    }

    /// Whether everything ended before the time limit and before a second signal.
    async fn drained_within(
        &self,
        limit: Duration,
        signals: &mut Signals,
        watchdog: &mut systemd::Watchdog,
    ) -> bool {
        let drained = async {
            self.listeners.proxies_closed().await;
            self.server.tasks.close();
            self.server.tasks.wait().await;
        };
        let mut drained = std::pin::pin!(tokio::time::timeout(limit, drained));
        loop {
            tokio::select! {
                result = &mut drained => return result.is_ok(),
                _ = signals.terminate.recv() => return false,
                _ = signals.interrupt.recv() => return false,
                () = watchdog.due() => systemd::alive(),
            }
        }
    }

    async fn finish(self) {
        let Self { gateway, inventory, server, listeners, dial_in, admin, shared, memory, .. } =
            self;
        let Memory { store, sightings, deliveries, checks, background, stop } = memory;
        dial_in.close();
        stop.cancel();
        listeners.stop_admin().await;
        // The last ends of the writers' queues go with these; they then empty them and end.
        drop((gateway, inventory, server, admin, shared, sightings, deliveries, checks));
        background.close();
        let _written = tokio::time::timeout(CUT_TIMEOUT, background.wait()).await;
        store.close().await;
        tracing::info!("stopped");
    }
}

fn refused(metrics: &Metrics, trigger: &'static str, problems: &[String]) {
    metrics.config_reloads.with_label_values(&["failure"]).inc();
    for problem in problems {
        tracing::error!(trigger, problem, "configuration refused; the old one stays in force");
    }
}

/// What opens and seals credentials of the API's targets.
fn keys(config: &Config) -> Result<Option<Keys>, SealError> {
    let store = &config.store;
    store.key.as_ref().map(|key| Keys::new(key, &store.previous_keys)).transpose()
}

/// What metrics say of the policy, so that an alert can watch it.
struct PolicyNote {
    allow_loopback: bool,
    require_current_check: bool,
}

impl PolicyNote {
    fn of(config: &Config) -> Self {
        let policy = &config.policy;
        Self {
            allow_loopback: policy.allow_loopback,
            require_current_check: policy.require_current_check,
        }
    }

    fn note(&self, metrics: &Metrics) {
        metrics.loopback_allowed.set(i64::from(self.allow_loopback));
        metrics.checks_required.set(i64::from(self.require_current_check));
        if !self.require_current_check {
            tracing::warn!(
                "policy.require_current_check is off: targets carry traffic without a current check"
            );
        }
        if self.allow_loopback {
            tracing::warn!(
                "policy.allow_loopback is on: loopback counts as private; for development only"
            );
        }
    }
}

fn admin_view(config: &Config) -> AdminView {
    AdminView {
        egress_ip: config.egress.ip.clone(),
        ranges: config.egress.ranges.clone(),
        tokens: config.admin.tokens.iter().map(Access::from).collect(),
        hosts: config.admin.hosts.clone(),
    }
}

fn now_seconds() -> f64 {
    jiff::Timestamp::now().as_duration().as_secs_f64()
}

struct Signals {
    hangup: Signal,
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            hangup: signal(SignalKind::hangup())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }
}
