//! The immutable snapshot that a request works with: one configuration, made ready for use.

use std::{
    collections::{HashMap, HashSet},
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwap;
use rustls_pki_types::{
    CertificateDer,
    pem::{self, PemObject as _},
};

use crate::{
    client::Clients,
    config::{Config, Limits},
    connector::gateway::Connectors,
    dial::{Direct, EgressAddresses, interface_addresses},
    egress::{Egress, PrivateResolver},
    policy::{Own, Scene},
    resolve::{self, Resolver, Server, Way, system_servers},
    sightings::Sightings,
    target::{Registry, Target},
    telemetry::metrics::Metrics,
    tls::{Outbound, Roots, TlsSettingsError},
    tunnel::{Means, Tunnels, TunnelsError},
};

/// One configuration, ready for requests. Swapped whole, so that no request sees half of a change.
#[derive(Clone, Debug)]
pub struct View {
    /// Who may use the proxy.
    pub clients: Arc<Clients>,
    /// What may be reached.
    pub targets: Registry,
    /// The way out.
    pub egress: Arc<Egress>,
    /// The addresses that customers allowlist, for next steps.
    pub egress_ips: Vec<IpAddr>,
    /// Limits of time, number and size.
    pub limits: Limits,
    /// How long a connectivity check counts.
    pub check_ttl: Duration,
    /// Whether self-hosted and webhook-only targets need a current, ready check.
    pub require_current_check: bool,
    /// How often the configuration has been replaced; its targets are of this generation.
    pub generation: u64,
    deny: Vec<ipnet::IpNet>,
    allow_loopback: bool,
    listeners: Vec<SocketAddr>,
}

/// What a view shares with the one before it.
#[derive(Clone, Debug)]
pub struct Shared {
    /// What names led to.
    pub sightings: Arc<Sightings>,
    /// Counters and histograms.
    pub metrics: Arc<Metrics>,
    /// Whether an egress address that is not on this machine is an error. It is for everything that
    /// sends; `explain --offline` may run anywhere.
    pub needs_egress: bool,
    /// Connectors that dial in, where this process lets them.
    pub connectors: Option<Arc<Connectors>>,
}

/// Why a configuration that is valid by itself cannot be used here.
#[derive(Debug, thiserror::Error)]
pub enum ViewError {
    /// An egress address is not on this machine.
    #[error(
        "egress.ip: {0:?} is not an address of this machine; add it to an interface, or correct egress.ip"
    )]
    EgressMissing(Vec<IpAddr>),
    /// The machine's addresses cannot be listed.
    #[error(
        "the machine's own addresses cannot be read, and nothing leaves before they are known: {0}"
    )]
    Interfaces(#[source] std::io::Error),
    /// A file of `tls.extra_roots`, which was there when the configuration was read.
    #[error("tls.extra_roots: {path}: {message}")]
    Roots {
        /// The file.
        path: String,
        /// What is wrong with it.
        message: String,
    },
    /// Roots for targets.
    #[error("tls.extra_roots: {0}")]
    Tls(#[source] TlsSettingsError),
    /// Certificates, keys or roots of targets.
    #[error("{0}")]
    TargetTls(String),
    /// Certificates, keys or roots of a tunnel.
    #[error("{0}")]
    Tunnels(#[from] TunnelsError),
    /// A resolver cannot be set up.
    #[error("dns: {0}")]
    Resolver(#[from] resolve::SettingsError),
    /// A client's glob.
    #[error("clients: {0}")]
    Clients(#[from] globset::Error),
}

impl View {
    /// Makes a configuration ready. Resolvers whose settings have not changed are taken over from
    /// `previous` with their caches. `listeners` are the addresses that are really bound.
    ///
    /// # Errors
    /// What stands in the way; the previous view is untouched.
    pub fn new(
        config: Config,
        listeners: Vec<SocketAddr>,
        shared: &Shared,
        previous: Option<&Self>,
    ) -> Result<Self, ViewError> {
        let addresses = egress_addresses(&config.egress.ip);
        let missing = addresses.missing().map_err(ViewError::Interfaces)?;
        if !missing.is_empty() && shared.needs_egress {
            return Err(ViewError::EgressMissing(missing));
        }
        // The resolver has the public roots built in; extra ones are not.
        let roots = name_server_roots(&config.tls.extra_roots)?;
        let tls = outbound(&config, previous)?;
        let settings = |servers: Vec<Server>| {
            let timeout = config.limits.dns_timeout;
            let settings = resolve::Settings::new(servers, timeout, addresses.clone());
            resolve::Settings { roots: roots.clone(), ..settings }
        };
        let servers = if let Some(servers) = config.dns_servers {
            servers
        } else {
            // The system may list servers of a family that has no egress address.
            let usable = |server: &Server| addresses.uses(server.address().ip());
            system_servers()?.into_iter().filter(usable).collect()
        };
        let default_resolver = resolver(settings(servers), previous)?;
        let tunnels = Tunnels::new(
            config.tunnels,
            &Means {
                egress: addresses.clone(),
                resolver: Arc::clone(&default_resolver),
                roots: tls.roots().clone(),
                connect_timeout: config.limits.connect_timeout,
                tls_timeout: config.limits.tls_timeout,
                connectors: shared.connectors.clone(),
                metrics: Arc::clone(&shared.metrics),
            },
            previous.map(|view| &view.egress.tunnels),
        )?;
        let mut resolvers = HashMap::new();
        for (name, one) in config.resolvers {
            // One behind a tunnel is not asked directly, whatever happens.
            let passage = tunnels.passage(one.tunnels.iter().map(String::as_str));
            let through = passage.clone().map(Way::new);
            let settings = resolve::Settings { through, ..settings(one.servers) };
            let resolver = resolver(settings, previous)?;
            resolvers.insert(name, PrivateResolver { resolver, passage });
        }
        let generation = previous.map_or(0, |view| view.generation.saturating_add(1));
        let egress = Egress {
            tls,
            tls_timeout: config.limits.tls_timeout,
            direct: Direct::new(addresses.clone(), config.limits.connect_timeout),
            direct_route: Arc::from("direct"),
            addresses,
            scene: ArcSwap::from_pointee(Scene::default()),
            resolver: default_resolver,
            resolvers,
            tunnels,
            sightings: Arc::clone(&shared.sightings),
            metrics: Arc::clone(&shared.metrics),
        };
        let of_this = |target: Target| target.adopted(generation, |way| egress.definition(way));
        let view = Self {
            clients: Arc::new(Clients::new(config.clients)?),
            targets: Registry::new(config.targets.into_iter().map(of_this)),
            egress: Arc::new(egress),
            egress_ips: config.egress.ip,
            limits: config.limits,
            check_ttl: config.policy.check_ttl,
            require_current_check: config.policy.require_current_check,
            generation,
            deny: config.policy.deny,
            allow_loopback: config.policy.allow_loopback,
            listeners,
        };
        view.look_around().map_err(ViewError::Interfaces)?;
        Ok(view)
    }

    /// A target as one of this configuration.
    pub fn adopt(&self, target: Target) -> Arc<Target> {
        Arc::new(target.adopted(self.generation, |way| self.egress.definition(way)))
    }

    /// The names of all tunnels.
    pub fn tunnel_names(&self) -> impl Iterator<Item = &str> {
        self.egress.tunnels.iter().map(|tunnel| &**tunnel.name())
    }

    /// Reads the machine's own addresses again: interfaces come and go while the gateway runs.
    ///
    /// # Errors
    /// What the kernel says; the addresses known before stay in force.
    pub fn look_around(&self) -> std::io::Result<()> {
        let own = own_addresses(&self.listeners, &self.egress_ips)?;
        let scene = Scene { own, deny: self.deny.clone(), allow_loopback: self.allow_loopback };
        if **self.egress.scene.load() != scene {
            self.egress.scene.store(Arc::new(scene));
        }
        Ok(())
    }
}

/// What must not be reached because it is the gateway itself. Addresses on the loopback interface
/// are judged by their class, as services are put there on purpose; only listeners are taken out.
fn own_addresses(listeners: &[SocketAddr], egress: &[IpAddr]) -> std::io::Result<Own> {
    let mut own = Own::default();
    for interface in interface_addresses()? {
        let set = if interface.loopback { &mut own.local } else { &mut own.addresses };
        set.insert(interface.address);
    }
    let not_loopback = |ip: &&IpAddr| !ip.is_loopback();
    own.addresses.extend(egress.iter().filter(not_loopback));
    for listener in listeners {
        if listener.ip().is_unspecified() {
            own.wildcard_ports.insert(listener.port());
        } else {
            own.listeners.insert(*listener);
        }
    }
    let bound: HashSet<IpAddr> = listeners.iter().map(SocketAddr::ip).collect();
    own.addresses.extend(bound.iter().filter(not_loopback).filter(|ip| !ip.is_unspecified()));
    Ok(own)
}

/// The first address of each family; configuration has made sure that there is at most one.
fn egress_addresses(ips: &[IpAddr]) -> EgressAddresses {
    let mut addresses = EgressAddresses::default();
    for ip in ips {
        match ip {
            IpAddr::V4(v4) => addresses.v4 = Some(*v4),
            IpAddr::V6(v6) => addresses.v6 = Some(*v6),
        }
    }
    addresses
}

fn resolver(
    settings: resolve::Settings,
    previous: Option<&View>,
) -> Result<Arc<Resolver>, resolve::SettingsError> {
    let known = previous.into_iter().flat_map(|view| {
        std::iter::once(&view.egress.resolver)
            .chain(view.egress.resolvers.values().map(|one| &one.resolver))
    });
    match known.into_iter().find(|resolver| *resolver.settings() == settings) {
        Some(resolver) => Ok(Arc::clone(resolver)),
        None => Resolver::new(settings).map(Arc::new),
    }
}

/// TLS towards targets. What has not changed is taken over from `previous` with its sessions.
fn outbound(config: &Config, previous: Option<&View>) -> Result<Outbound, ViewError> {
    let roots = Roots::load(&config.tls.extra_roots).map_err(ViewError::Tls)?;
    let fresh;
    let former = if let Some(view) = previous {
        &view.egress.tls
    } else {
        for fault in roots.faults() {
            tracing::warn!(fault, "the system's roots");
        }
        fresh = Outbound::new(roots.clone());
        &fresh
    };
    let targets = config.targets.iter().map(|target| (&target.id, target.tls.as_deref()));
    former.renewed(roots, targets).map_err(|wrong| {
        let all: Vec<_> = wrong.iter().map(|(id, error)| format!("target {id}: {error}")).collect();
        ViewError::TargetTls(all.join("; "))
    })
}

/// What certificates of `tls://` and `https://` name servers must lead to: the system's roots and
/// the extra ones. Without extra ones none, which stands for the resolver's built-in roots.
fn name_server_roots(extra: &[PathBuf]) -> Result<Vec<CertificateDer<'static>>, ViewError> {
    if extra.is_empty() {
        return Ok(Vec::new());
    }
    // Certificates of the system that cannot be read are left out, as everywhere else.
    let mut roots = rustls_native_certs::load_native_certs().certs;
    for path in extra {
        let failed = |error: pem::Error| ViewError::Roots {
            path: path.display().to_string(),
            message: error.to_string(),
        };
        for certificate in CertificateDer::pem_file_iter(path).map_err(failed)? {
            roots.push(certificate.map_err(failed)?);
        }
    }
    Ok(roots)
}
