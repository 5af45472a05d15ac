//! The configuration as the rest of the program sees it: typed, whole, with every default filled in.

use std::{collections::BTreeMap, net::IpAddr, net::SocketAddr, path::PathBuf, time::Duration};

use ipnet::IpNet;

use super::{Tunnel, connectors::Connectors, store_url::StoreUrl};
use crate::{
    admin::token::Token, client::ClientSettings, origin::Host, resolve::Server, secret::Secret,
    server::tls::ServerTls, target::Target, telemetry::LogFormat,
};

/// Everything that is configured (contract, section 3). Printing it shows no secret.
#[derive(Debug)]
pub struct Config {
    /// Directory for what must survive a restart, relative to the working directory. Default
    /// `state`.
    pub state_dir: PathBuf,
    /// Where connections leave from.
    pub egress: Egress,
    /// Where clients come in.
    pub proxy: Proxy,
    /// Where health, metrics and the admin API are.
    pub admin: Admin,
    /// Where reverse connectors dial in.
    pub connectors: Connectors,
    /// Who may use the proxy. Default: nobody has to say who they are, which only a loopback
    /// listener allows.
    pub clients: Vec<ClientSettings>,
    /// The servers asked for public names. Default `None`: the system's.
    pub dns_servers: Option<Vec<Server>>,
    /// Approved private resolvers, by the name that targets give.
    pub resolvers: BTreeMap<String, ResolverSettings>,
    /// What may leave, beyond each target's own settings.
    pub policy: Policy,
    /// Bounds of time, number and size.
    pub limits: Limits,
    /// Certificate authorities trusted for targets besides the system's.
    pub tls: ExtraRoots,
    /// Where targets, checks and deliveries are kept.
    pub store: Store,
    /// What the gateway tells about itself.
    pub telemetry: Telemetry,
    /// Approved ways into private networks, by the name that targets give.
    pub tunnels: BTreeMap<String, Tunnel>,
    /// The targets, in the order of the files; ids are unique.
    pub targets: Vec<Target>,
}

/// Where connections leave from, and what customers are told of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Egress {
    /// Source of every outbound socket, DNS included: at most one address per family. Default
    /// empty: the system chooses.
    pub ip: Vec<IpAddr>,
    /// What customers are told to allowlist. Default: [`Self::ip`].
    pub ranges: Vec<IpNet>,
}

/// The listeners that clients use.
#[derive(Debug)]
pub struct Proxy {
    /// Addresses to listen at, at least one; port 0 lets the system choose. Default
    /// `127.0.0.1:3128`.
    pub listen: Vec<SocketAddr>,
    /// TLS on these listeners. Default: none.
    pub tls: Option<ServerTls>,
}

/// The admin listeners.
#[derive(Clone, Debug)]
pub struct Admin {
    /// Addresses to listen at, at least one; port 0 lets the system choose. Default
    /// `127.0.0.1:9128`.
    pub listen: Vec<SocketAddr>,
    /// Who may use `/v1`. Default empty: whoever reaches the listener, which is then on loopback.
    pub tokens: Vec<Token>,
    /// Names accepted in `Host` besides `localhost`, in lower case. Default: none.
    pub hosts: Vec<Host>,
}

/// An approved private resolver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResolverSettings {
    /// Its servers in order of preference, at least one.
    pub servers: Vec<Server>,
    /// The tunnels through which they are asked, in the order in which they are tried. Default:
    /// none, and they are asked directly.
    pub tunnels: Vec<String>,
}

/// What may leave, beyond each target's own settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Whether self-hosted and webhook-only targets need a current, ready check. Default `true`.
    pub require_current_check: bool,
    /// How long a check stays current. Default 15 minutes.
    pub check_ttl: Duration,
    /// Addresses never reached, besides those that can never be. Default: none.
    pub deny: Vec<IpNet>,
    /// Whether loopback is judged as a private address instead of a forbidden one: for development
    /// and benchmarks. Default `false`.
    pub allow_loopback: bool,
}

/// Bounds of time, number and size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Client connections at a time. Default 20,000.
    pub max_connections: u32,
    /// Tunnels and requests at a time of one client. Default 10,000.
    pub max_connections_per_client: u32,
    /// Requests and tunnels at a time to one target. Default 256.
    pub max_in_flight_per_target: u32,
    /// From a connection's first moment to the last byte of its request's head. Default 10 s.
    pub header_timeout: Duration,
    /// To resolve a name: all servers and repetitions together. Default 5 s.
    pub dns_timeout: Duration,
    /// To connect to a target: all vetted addresses together, without the name's resolution.
    /// Default 10 s.
    pub connect_timeout: Duration,
    /// For a TLS handshake. Default 10 s.
    pub tls_timeout: Duration,
    /// From the end of a request to the head of its answer. Default 60 s.
    pub response_timeout: Duration,
    /// A connection over which no byte went for this long is closed. Default 10 minutes.
    pub idle_timeout: Duration,
    /// What is under way at SIGTERM may finish within this. Default 30 s.
    pub drain_timeout: Duration,
    /// Size of a request or answer head, in bytes; at least 8 KiB. Default 64 KiB.
    pub max_header_bytes: usize,
    /// Size of a body that is signed, in bytes, as it has to be held whole. Default 5 MiB.
    pub max_signed_body: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_connections: 20_000,
            max_connections_per_client: 10_000,
            max_in_flight_per_target: 256,
            header_timeout: Duration::from_secs(10),
            dns_timeout: Duration::from_secs(5),
            connect_timeout: Duration::from_secs(10),
            tls_timeout: Duration::from_secs(10),
            response_timeout: Duration::from_mins(1),
            idle_timeout: Duration::from_mins(10),
            drain_timeout: Duration::from_secs(30),
            max_header_bytes: 64 << 10,
            max_signed_body: 5 << 20,
        }
    }
}

/// Certificate authorities trusted for targets besides the system's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExtraRoots {
    /// PEM files, each with at least one certificate. Default: none.
    pub extra_roots: Vec<PathBuf>,
}

/// Where targets, checks and deliveries are kept.
#[derive(Clone, Debug)]
pub struct Store {
    /// The database. Default: `gateway.db` in [`Config::state_dir`].
    pub url: StoreUrl,
    /// 32 bytes that seal credentials at rest. Default `None`: credentials are not stored.
    pub key: Option<Secret>,
    /// Former keys, 32 bytes each: they still open what was sealed with them, until
    /// `store rotate-key` has sealed it anew. Default: none.
    pub previous_keys: Vec<Secret>,
}

/// What the gateway tells about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Telemetry {
    /// Form of the log on standard error. Default [`LogFormat::Json`].
    pub log: LogFormat,
}
