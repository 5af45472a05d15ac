//! What the benchmarks decide about: clients, targets and requests, as many as one wants.

use std::{net::IpAddr, path::PathBuf, sync::Arc};

use base64::Engine as _;
use egress_gateway::{
    check::{Board, Check, State},
    client::{ClientSettings, Clients},
    config::{self, Config},
    destination::Destination,
    policy::{self, Answered, Mode, Own, Permit, Scene, Vetted},
    reason::Refusal,
    secret::Secret,
    sightings::Sightings,
    store::{Store, StoredCheck},
    target::{Registry, Target},
    telemetry::metrics::Metrics,
    view::{Shared, View},
};
use http::{HeaderMap, HeaderValue};
use jiff::{Timestamp, ToSpan as _};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::figures;

/// Everything that a decision looks at.
pub(crate) struct World {
    pub(crate) clients: Clients,
    pub(crate) targets: Registry,
    pub(crate) scene: Scene,
}

/// A CONNECT as it comes out of its head.
pub(crate) struct Request {
    pub(crate) authority: String,
    pub(crate) headers: HeaderMap,
}

impl Request {
    /// One of the first client, for one of the targets.
    pub(crate) fn new(target: usize) -> Self {
        let authority = authority(target);
        Self { headers: connect_headers(&authority), authority }
    }
}

impl World {
    /// One client, a machine with a few addresses, and so many targets.
    pub(crate) fn new(targets: usize) -> Self {
        Self::of(registry(targets))
    }

    fn of(targets: Registry) -> Self {
        let own = Own {
            addresses: ["203.0.113.10", "10.0.0.5", "fe80::5"]
                .iter()
                .map(|ip| address(ip))
                .collect(),
            local: ["127.0.0.1", "::1"].iter().map(|ip| address(ip)).collect(),
            ..Own::default()
        };
        let deny = vec!["192.0.2.0/24".parse().unwrap()];
        let clients = Clients::new(clients(1)).unwrap();
        Self { clients, targets, scene: Scene { own, deny, allow_loopback: false } }
    }

    /// The proof for a request that is allowed.
    pub(crate) fn permit(&self, request: &Request) -> Permit {
        self.permitted(request).unwrap()
    }

    /// The whole decision, as `gateway::Gateway` takes it: who, where, whose, may it, and may it go
    /// to these addresses.
    pub(crate) fn decide(
        &self,
        request: &Request,
        addresses: &[IpAddr],
    ) -> Result<Vetted, Refusal> {
        self.vet(&self.permitted(request)?, addresses)
    }

    /// The last part of it.
    pub(crate) fn vet(&self, permit: &Permit, addresses: &[IpAddr]) -> Result<Vetted, Refusal> {
        let port = permit.destination().authority.port;
        policy::vet(permit, &self.scene, &Answered { addresses, port, last_seen: None })
    }

    fn permitted(&self, request: &Request) -> Result<Permit, Refusal> {
        let client = self.clients.authenticate(&request.headers, &[])?;
        let destination = Destination::connect(&request.authority, &request.headers)?;
        let preferred = |target: &Target| client.may_use(&target.id) && target.connect_allowed();
        let hint = destination.hint.as_ref();
        let target = self.targets.owner_of(&destination.authority, hint, preferred)?;
        policy::permit(&client, destination, target, Mode::Connect)
    }
}

/// A board with a ready check of every target.
pub(crate) struct Gate {
    pub(crate) board: Board,
    pub(crate) world: World,
}

impl Gate {
    pub(crate) fn new(targets: usize) -> Self {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let _entered = runtime.enter();
        let store = runtime.block_on(Store::open("sqlite::memory:")).unwrap();
        let metrics = Arc::new(Metrics::new().unwrap());
        let (sightings, _writer) = Sightings::new(Vec::new(), store.clone());
        let shared = Shared {
            sightings: Arc::new(sightings),
            metrics: Arc::clone(&metrics),
            needs_egress: true,
            connectors: None,
        };
        let head = "dns.servers = [\"127.0.0.1:9\"]\n";
        let config = configuration(&(head.to_owned() + &figures::targets(targets)));
        let view = View::new(config, Vec::new(), &shared, None).unwrap();
        let (board, _writer) =
            Board::new(metrics, store, TaskTracker::new(), CancellationToken::new());
        let expires_at = Timestamp::now().checked_add(1.hour()).ok();
        let ready = |target: &Arc<Target>| {
            let check = Check { expires_at, state: State::Ready, ..Check::unchecked(target, None) };
            StoredCheck {
                connectivity_check_id: target.id.to_string(),
                target_id: target.id.to_string(),
                fingerprint: target.fingerprint.to_string(),
                document: serde_json::to_string(&check).unwrap(),
                checked_at: 0,
            }
        };
        board.restore(view.targets.iter().map(ready).collect(), &view);
        Self { board, world: World::of(view.targets) }
    }

    pub(crate) fn target(&self, number: usize) -> &Arc<Target> {
        self.world.targets.get(&format!("customer-{number:05}")).unwrap()
    }
}

/// Clients with tokens, each of which may use every target.
pub(crate) fn clients(count: usize) -> Vec<ClientSettings> {
    let client = |number: usize| ClientSettings {
        name: format!("app-{number:05}"),
        token: Some(Secret::new(token(number).into_bytes())),
        certificate_names: Vec::new(),
        targets: vec!["*".into()],
    };
    (0..count).map(client).collect()
}

/// As random tokens are: 32 bytes in hexadecimal.
fn token(number: usize) -> String {
    format!("{number:064x}")
}

/// What a client's library sends with CONNECT.
pub(crate) fn connect_headers(authority: &str) -> HeaderMap {
    let basic = base64::engine::general_purpose::STANDARD.encode(format!("app-00000:{}", token(0)));
    let mut headers = HeaderMap::new();
    let mut add = |name: &'static str, value: &str| {
        headers.insert(name, HeaderValue::from_str(value).unwrap());
    };
    add("host", authority);
    add("proxy-authorization", &format!("Basic {basic}"));
    add("user-agent", "python-requests/2.32.3");
    headers
}

/// Self-hosted targets, each on a host of its own, read as those of any configuration are.
pub(crate) fn registry(count: usize) -> Registry {
    Registry::new(configuration(&figures::targets(count)).targets)
}

fn configuration(text: &str) -> Config {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("gateway.toml");
    std::fs::write(&file, text).unwrap();
    config::load(&[file]).unwrap().config
}

/// Where a target is.
pub(crate) fn authority(number: usize) -> String {
    format!("jira.customer-{number:05}.example:443")
}

/// The next target in an order that visits each of `count` once and knows no neighbours, so that no
/// target is found in a cache because the one before was.
pub(crate) fn next(turn: usize, count: usize) -> usize {
    // A prime that divides no count in use.
    turn.wrapping_add(61_813).checked_rem(count).unwrap_or_default()
}

/// So many public addresses, IPv4 and IPv6 in turn.
pub(crate) fn public_addresses(count: usize) -> Vec<IpAddr> {
    ["93.184.215.14", "2606:2800:21f:cb07:6820:80da:af6b:8b2c"]
        .iter()
        .map(|ip| address(ip))
        .cycle()
        .take(count)
        .collect()
}

/// One of the fuzzers' seeds.
pub(crate) fn seed(target: &str, name: &str) -> Vec<u8> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds");
    std::fs::read(folder.join(target).join(name)).unwrap()
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}
