//! All tunnels of a configuration, and how they follow those of the one before.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use super::{Core, Passage, Settings, Tunnel, health::Health, kind::Kind, meter::Meter, next_id};
use crate::{
    connector::gateway::Connectors,
    dial::EgressAddresses,
    resolve::Resolver,
    telemetry::metrics::Metrics,
    tls::{Roots, TlsSettingsError},
};

/// What tunnels are made with, besides their own settings.
#[derive(Clone, Debug)]
pub struct Means {
    /// Where connections to far ends leave from.
    pub egress: EgressAddresses,
    /// Resolves the names of far ends.
    pub resolver: Arc<Resolver>,
    /// What certificates of far ends are verified with, besides a tunnel's own.
    pub roots: Roots,
    /// How long it may take until a stream stands.
    pub connect_timeout: Duration,
    /// How long a TLS handshake with a far end may take.
    pub tls_timeout: Duration,
    /// Connectors that dial in, where this process lets them.
    pub connectors: Option<Arc<Connectors>>,
    /// Where health and bytes are shown.
    pub metrics: Arc<Metrics>,
}

/// The tunnels of one configuration, by name.
#[derive(Debug, Default)]
pub struct Tunnels {
    by_name: HashMap<Box<str>, Arc<Tunnel>>,
}

/// A tunnel cannot be set up.
#[derive(Debug, thiserror::Error)]
#[error("tunnels.{name}: {error}")]
pub struct TunnelsError {
    name: String,
    #[source]
    error: Box<TlsSettingsError>,
}

impl Tunnels {
    /// Makes tunnels of their settings. Those that have not changed since `previous` are taken over
    /// with their streams and with what is known of them; files count by their content. Nothing is
    /// sent yet.
    ///
    /// # Errors
    /// The first that cannot be set up, and why.
    pub fn new(
        settings: BTreeMap<String, Settings>,
        means: &Means,
        previous: Option<&Self>,
    ) -> Result<Self, TunnelsError> {
        let mut by_name = HashMap::with_capacity(settings.len());
        for (name, settings) in settings {
            let kind = match Kind::new(&settings, means) {
                Ok(kind) => kind,
                Err(error) => return Err(TunnelsError { name, error: Box::new(error) }),
            };
            let former = previous.and_then(|previous| previous.get(&name)).filter(|former| {
                let core = &former.core;
                core.settings == settings
                    && core.connect_timeout == means.connect_timeout
                    && core.kind.is_same(&kind)
            });
            let tunnel = former.map_or_else(
                || {
                    Arc::new(Tunnel::new(Core {
                        id: next_id(),
                        meter: Arc::new(Meter::new(&means.metrics, &name)),
                        name: Arc::from(name.as_str()),
                        settings,
                        kind,
                        connect_timeout: means.connect_timeout,
                        health: Health::new(),
                    }))
                },
                Arc::clone,
            );
            by_name.insert(name.into(), tunnel);
        }
        Ok(Self { by_name })
    }

    /// Puts these in force instead of the previous ones: begins to look after their far ends, and
    /// ends that for those that are gone or changed, whose open streams live on.
    pub fn enforce(&self, previous: Option<&Self>, metrics: &Metrics) {
        for former in previous.into_iter().flat_map(Self::iter) {
            let name = &**former.name();
            let now = self.get(name);
            if !now.is_some_and(|now| Arc::ptr_eq(now, former)) {
                former.retire();
            }
            if now.is_none() {
                metrics.tunnels.forget(name);
            }
        }
        for tunnel in self.iter() {
            tunnel.watch(metrics.tunnels.up.with_label_values(&[tunnel.name()]));
        }
    }

    /// The tunnel of this name.
    pub fn get(&self, name: &str) -> Option<&Arc<Tunnel>> {
        self.by_name.get(name)
    }

    /// All of them, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Tunnel>> {
        self.by_name.values()
    }

    /// The way through the tunnels of these names. `None` where one of them is not there.
    pub fn passage<'a>(&self, names: impl IntoIterator<Item = &'a str>) -> Option<Passage> {
        let tunnels: Option<Vec<_>> =
            names.into_iter().map(|name| self.get(name).map(Arc::clone)).collect();
        Passage::new(tunnels?)
    }
}
