//! The gateway: one request, from what the client asked to the record of how it ended.

mod deliver;
pub(crate) mod relay;
mod switch;

use std::{
    net::IpAddr,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

pub use relay::RelayRequest;
pub use switch::{Switch, SwitchSlot};

use arc_swap::ArcSwap;
use http::HeaderMap;
use tokio::time::Instant;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    check::Board,
    client::Client,
    deliveries::Deliveries,
    destination::Destination,
    egress::Carrier,
    forward::{
        connect::{ClientStream, Terms, tunnel},
        upstream::Upstreams,
    },
    policy::{self, Mode},
    problem::Problem,
    reason::{Cause, Refusal},
    record::{Books, Record},
    slots::{Slot, Slots},
    target::{Target, TargetId},
    telemetry::metrics::{Metrics, Open},
    view::View,
};

/// What all requests share.
#[derive(Debug)]
pub struct Gateway {
    /// The configuration that the next request will see; swapped whole.
    pub view: Arc<ArcSwap<View>>,
    /// Counters and histograms.
    pub metrics: Arc<Metrics>,
    /// Where the record of each request ends up.
    pub books: Arc<Books>,
    /// When the process began to stop, once it has.
    drain_began: OnceLock<Instant>,
    /// Cancelled when tunnels may not go on any longer.
    pub cut: CancellationToken,
    /// What is known of every target's connectivity.
    pub checks: Arc<Board>,
    upstreams: Upstreams,
    deliveries: Arc<Deliveries>,
    by_client: Arc<Slots<String>>,
    by_target: Arc<Slots<TargetId>>,
}

/// What is known of a client's connection besides its requests.
#[derive(Debug)]
pub struct ClientConn {
    /// URI and DNS names of the verified client certificate.
    pub certificate_names: Vec<String>,
    /// When it was accepted.
    pub accepted: Instant,
    /// Whether a request of it was decided before draining began.
    pub asked: AtomicBool,
}

/// A connection accepted so shortly before draining began, or after, may not have had the time for
/// its request yet; its first one is served, so that a take-over refuses nobody.
const FRESH: Duration = Duration::from_millis(250);

/// A CONNECT request, in either version of HTTP.
#[derive(Clone, Copy, Debug)]
pub struct ConnectRequest<'a> {
    /// The request target as it came.
    pub target: &'a str,
    /// Its fields.
    pub headers: &'a HeaderMap,
    /// When its head had been read.
    pub read_at: Instant,
}

/// A tunnel that stands and waits for its client to be told.
#[derive(Debug)]
pub struct Opened {
    upstream: Carrier,
    terms: Terms,
    record: Record,
    metrics: Arc<Metrics>,
    counted: Open,
    slots: (Slot<String>, Slot<TargetId>),
}

impl Gateway {
    /// A gateway with its first configuration.
    pub fn new(
        view: Arc<ArcSwap<View>>,
        metrics: Arc<Metrics>,
        deliveries: Arc<Deliveries>,
        checks: Arc<Board>,
        tasks: &TaskTracker,
    ) -> Self {
        Self {
            view,
            books: Arc::new(Books { metrics: Arc::clone(&metrics), decisions: Arc::default() }),
            metrics,
            drain_began: OnceLock::new(),
            cut: CancellationToken::new(),
            checks,
            upstreams: Upstreams::new(tasks.clone()),
            deliveries,
            by_client: Slots::new(),
            by_target: Slots::new(),
        }
    }

    /// Answers one CONNECT: a tunnel that stands, or the problem that says why there is none.
    /// Never fails otherwise: a refusal is an answer too.
    ///
    /// # Errors
    /// The problem document to answer with; the record is closed by then.
    pub async fn connect(
        &self,
        from: &ClientConn,
        request: ConnectRequest<'_>,
    ) -> Result<Opened, Problem> {
        let mut record = Record::start(&self.books, request.read_at);
        record.mode = Mode::Connect.as_str();
        record.method = Some("CONNECT".to_owned());
        let view = self.view.load_full();
        match self.open(&view, from, request, &mut record).await {
            Ok((upstream, terms, slots)) => {
                record.allowed(200);
                let metrics = Arc::clone(&self.metrics);
                let counted = Open::new(metrics.connections.with_label_values(&["upstream"]));
                Ok(Opened { upstream, terms, record, metrics, counted, slots })
            }
            Err(refusal) => Err(refuse(&view, refusal, record)),
        }
    }

    /// The way of a CONNECT request, in the order of the contract's section 6. The first refusal
    /// wins.
    async fn open(
        &self,
        view: &Arc<View>,
        from: &ClientConn,
        request: ConnectRequest<'_>,
        record: &mut Record,
    ) -> Result<(Carrier, Terms, (Slot<String>, Slot<TargetId>)), Refusal> {
        // Read first, so that the record of an unknown client's request says what it asked for.
        let destination = Destination::connect(request.target, request.headers);
        record.authority = destination.as_ref().ok().map(|asked| asked.authority.to_string());
        self.still_open(from)?;
        let client = authenticate(view, from, request.headers, record)?;
        let destination = destination?;
        let started = Instant::now();
        let owner = owner_of(view, &client, &destination);
        record.policy = Some(started.elapsed());
        let target = owner?;
        record.target = Some(target.id.clone());
        let egress = &view.egress;
        let said_of_target = |refusal: Refusal| refusal.about(target.about(&view.egress_ips));
        let result = async {
            let permit = policy::permit(&client, destination, target, Mode::Connect);
            record.policy = Some(started.elapsed());
            let permit = permit?;
            let slots = self.take_slots(view, &client, target)?;
            self.checks.gate(view, target).await?;
            let pinned = egress.pin(&permit, &mut record.notes).await?;
            let upstream = egress.connect(&pinned, &mut record.notes).await?;
            let host = permit.destination().authority.host.clone();
            Ok((upstream.stream, self.terms(view, Mode::Connect, Some(host)), slots))
        };
        result.await.map_err(said_of_target)
    }

    /// Drops connections to targets that wait in vain, and what is known of targets that are gone.
    pub fn sweep(&self) {
        let view = self.view.load();
        self.upstreams
            .pool()
            .sweep(|id| view.targets.get(id.as_str()).map(|target| target.generation));
        self.deliveries.sweep(|id| view.targets.get(id.as_str()).is_some());
    }

    /// Answers a request that is no CONNECT, or could not be read at all.
    pub fn refuse(&self, refusal: Refusal, method: Option<&str>, read_at: Instant) -> Problem {
        let mut record = Record::start(&self.books, read_at);
        record.method = method.map(ToOwned::to_owned);
        refuse(&self.view.load(), refusal, record)
    }

    /// Refuses new requests on connections that are open already, from now on.
    pub fn begin_draining(&self) {
        let _first = self.drain_began.set(Instant::now());
    }

    /// Whether the process has begun to stop.
    pub fn is_draining(&self) -> bool {
        self.drain_began.get().is_some()
    }

    fn still_open(&self, from: &ClientConn) -> Result<(), Refusal> {
        let Some(began) = self.drain_began.get() else {
            from.asked.store(true, Ordering::Relaxed);
            return Ok(());
        };
        let fresh = from.accepted.checked_add(FRESH).is_none_or(|until| until >= *began);
        if fresh && !from.asked.load(Ordering::Relaxed) {
            Ok(())
        } else {
            Err(Refusal::new(Cause::Draining, "this process is shutting down"))
        }
    }

    fn take_slots(
        &self,
        view: &View,
        client: &Client,
        target: &Target,
    ) -> Result<(Slot<String>, Slot<TargetId>), Refusal> {
        let name = client.name().to_owned();
        let of_client = view.limits.max_connections_per_client;
        let Some(for_client) = self.by_client.take(&name, of_client) else {
            let detail = format!("client {name} has {of_client} connections open");
            return Err(Refusal::new(Cause::ClientConnectionLimit, detail));
        };
        let of_target = target.limits.max_in_flight.unwrap_or(view.limits.max_in_flight_per_target);
        let Some(for_target) = self.by_target.take(&target.id, of_target) else {
            let detail = format!("target {} has {of_target} requests in flight", target.id);
            return Err(Refusal::new(Cause::TargetInFlightLimit, detail));
        };
        Ok((for_client, for_target))
    }

    fn terms(&self, view: &View, mode: Mode, host: Option<crate::origin::Host>) -> Terms {
        let bytes = |direction| self.metrics.bytes.with_label_values(&[mode.as_str(), direction]);
        Terms {
            host,
            idle_timeout: view.limits.idle_timeout,
            hello_timeout: view.limits.header_timeout,
            cut: self.cut.clone(),
            to_target: bytes("to_target"),
            to_client: bytes("to_client"),
        }
    }
}

impl Opened {
    /// Carries the tunnel to its end; the client has been told by now.
    pub fn run<C: ClientStream>(self, client: C, early: Vec<u8>) -> impl Future<Output = ()> {
        let Self { upstream, terms, record, metrics, counted, slots } = self;
        let open = Open::new(metrics.tunnels_open.clone());
        tunnel(client, early, upstream, terms, record, (open, counted, slots))
    }
}

fn authenticate(
    view: &View,
    from: &ClientConn,
    headers: &HeaderMap,
    record: &mut Record,
) -> Result<Client, Refusal> {
    let started = Instant::now();
    let client = view.clients.authenticate(headers, &from.certificate_names)?;
    record.auth = Some(started.elapsed());
    record.client = Some(client.name().to_owned());
    Ok(client)
}

/// The target that owns the destination; among several that do not differ, one that this client may
/// use with CONNECT.
fn owner_of<'a>(
    view: &'a View,
    client: &Client,
    destination: &Destination,
) -> Result<&'a Arc<Target>, Refusal> {
    let preferred = |target: &Target| client.may_use(&target.id) && target.connect_allowed();
    view.targets.owner_of(&destination.authority, destination.hint.as_ref(), preferred)
}

/// Renders a refusal and closes its record.
fn refuse(view: &View, refusal: Refusal, mut record: Record) -> Problem {
    let problem = Problem::new(&refusal, record.decision_id(), &shown(&view.egress_ips));
    record.refused(refusal);
    problem
}

/// The egress addresses as a next step names them.
fn shown(addresses: &[IpAddr]) -> String {
    if addresses.is_empty() {
        return "the gateway's address".to_owned();
    }
    addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(" and ")
}
