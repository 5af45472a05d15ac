//! The name servers: one question to them, and the first conclusive reply.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hickory_proto::op::{DnsRequestOptions, DnsResponse, Query, ResponseCode};
use hickory_proto::rr::{Name, Record, RecordType};
use hickory_resolver::config::{
    ConnectionConfig, NameServerConfig, ProtocolConfig, ResolverOpts, ServerOrderingStrategy,
};
use hickory_resolver::net::xfer::{DnsHandle, FirstAnswer};
use hickory_resolver::net::{DnsError, NetError, NoRecords};
use hickory_resolver::{NameServerPool, PoolContext, TlsConfig};
use rustls::{ClientConfig, RootCertStore};

use super::provider::Provider;
use super::through::Way;
use super::{QUERIES_MAX, ResolveError, SERVERS_MAX, Server, Settings, SettingsError};
use crate::dial::staggered;

/// How long one server has to itself before the next is asked beside it; less when the whole
/// time limit is short. Within it, a question over UDP has been repeated twice or three times.
const SERVER_DELAY: Duration = Duration::from_secs(1);

/// The same for the readiness probe, which asks after any server, not the best one.
const PROBE_DELAY: Duration = Duration::from_millis(100);

/// The part of the time limit that the answer to one question over a kept connection may take. Where
/// none comes the connection is opened anew for the next one, and hickory has to see that before all
/// of the lookup is dropped at its end.
const ANSWER_SHARE: f64 = 0.9;

/// How often a question is asked again whose connection through a tunnel broke: with a tunnel all
/// connections through it break, and hickory may keep several, as questions came side by side.
const ASKED_AGAIN_MAX: u8 = 3;

/// All configured servers, each as often as there are ways to ask it.
pub(super) struct Upstreams {
    servers: Vec<Upstream>,
    /// The one that gave the last conclusive reply: it is asked first.
    preferred: AtomicUsize,
    delay: Duration,
}

struct Upstream {
    server: Server,
    /// hickory's pool of one: it repeats lost datagrams, turns to TCP for a cut-short answer, and
    /// keeps connections open. Failing over is done here instead, as a pool of several takes
    /// the SERVFAIL of one for the answer of all.
    pool: NameServerPool<Provider>,
    /// How often a question is asked again whose connection broke; hickory asks once more itself.
    again: u8,
}

/// What a server says about a name that it could look up.
pub(super) struct Reply {
    /// Whether the name does not exist (or, after a chain of aliases, its end does not).
    pub(super) nonexistent: bool,
    /// The answer section.
    pub(super) answers: Vec<Record>,
    /// How long it may be remembered that the name, or the chain's end, has no such records;
    /// `None` when the server did not say that it has none.
    pub(super) negative_ttl: Option<u32>,
}

impl Upstreams {
    pub(super) fn new(settings: &Settings) -> Result<Self, SettingsError> {
        let Settings { servers, timeout, egress, roots, through } = settings;
        if servers.is_empty() {
            return Err(SettingsError::NoServers);
        }
        if servers.len() > SERVERS_MAX {
            return Err(SettingsError::TooManyServers(servers.len()));
        }
        let unusable = |server: &&Server| through.is_none() && !egress.uses(server.address().ip());
        if let Some(server) = servers.iter().find(unusable) {
            return Err(SettingsError::FamilyUnavailable(server.address()));
        }
        let tls = tls_config(roots).map_err(SettingsError::Roots)?;
        let context = |limit: Duration| {
            Arc::new(PoolContext::new(options(limit), TlsConfig { config: tls.clone() }))
        };
        let (by_datagram, kept) = (context(*timeout), context(timeout.mul_f64(ANSWER_SHARE)));
        let provider = Provider::new(egress.clone(), through.clone());
        let pool_of = |(server, datagrams): (&Server, bool)| Upstream {
            server: server.clone(),
            pool: NameServerPool::from_config(
                [name_server(server, datagrams)],
                Arc::clone(if datagrams { &by_datagram } else { &kept }),
                provider.clone(),
            ),
            again: if through.is_none() { 0 } else { ASKED_AGAIN_MAX },
        };
        let ways = |server| ways(server, through.as_ref()).iter().map(move |way| (server, *way));
        let servers: Vec<_> = servers.iter().flat_map(ways).map(pool_of).collect();
        let share = u32::try_from(servers.len()).unwrap_or(u32::MAX);
        let delay = timeout.checked_div(share).unwrap_or(SERVER_DELAY).min(SERVER_DELAY);
        Ok(Self { servers, preferred: AtomicUsize::new(0), delay })
    }

    /// Asks one question. A server that fails or is slow is joined by the next; the first
    /// conclusive reply wins (there are such records, there are none, the name does not exist).
    ///
    /// Sets no limit to the whole.
    pub(super) async fn ask(&self, name: &Name, kind: RecordType) -> Result<Reply, ResolveError> {
        let count = self.servers.len();
        let first = self.preferred.load(Ordering::Relaxed);
        let attempts = (first..count).chain(0..first).map(|place| self.ask_one(place, name, kind));
        let mut failure = None;
        let note = |error: ResolveError| {
            failure = Some(failure.map_or(error, |before: ResolveError| before.min(error)));
        };
        let Some((reply, place)) = staggered(attempts, self.delay, note).await else {
            return Err(failure.unwrap_or(ResolveError::Unreachable));
        };
        if place != first {
            self.preferred.store(place, Ordering::Relaxed);
        }
        Ok(reply)
    }

    async fn ask_one(
        &self,
        place: usize,
        name: &Name,
        kind: RecordType,
    ) -> Result<(Reply, usize), ResolveError> {
        let upstream = self.servers.get(place).ok_or(ResolveError::Unreachable)?;
        Ok((upstream.ask(name, kind).await?, place))
    }

    /// Whether any server answers a question for the root's name servers, no matter what.
    pub(super) async fn any_response(&self) -> bool {
        let attempts = self.servers.iter().map(Upstream::responds);
        staggered(attempts, PROBE_DELAY, |_: NetError| {}).await.is_some()
    }
}

impl Upstream {
    async fn send(&self, query: Query) -> Result<DnsResponse, NetError> {
        let mut again = self.again;
        loop {
            let asked = self.pool.lookup(query.clone(), DnsRequestOptions::default());
            match asked.first_answer().await {
                Err(error) if again > 0 && is_broken(&error) => {
                    again = again.saturating_sub(1);
                }
                answer => return answer,
            }
        }
    }

    async fn responds(&self) -> Result<(), NetError> {
        match self.send(Query::query(Name::root(), RecordType::NS)).await {
            Ok(_) | Err(NetError::Dns(_) | NetError::Truncated) => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn ask(&self, name: &Name, kind: RecordType) -> Result<Reply, ResolveError> {
        let query = Query::query(name.clone(), kind);
        let result = match self.send(query.clone()).await {
            Ok(response) => reply(&query, response),
            Err(NetError::Dns(DnsError::NoRecordsFound(none))) => no_records(&query, &none),
            Err(error) => {
                tracing::debug!(server = %self.server, %name, %kind, %error, "name server failed");
                Err(cause(&error))
            }
        };
        if let Err(cause) = result {
            tracing::debug!(server = %self.server, %name, %kind, %cause, "no reply to go by");
        }
        result
    }
}

/// Whether the connection broke under a question. hickory has words and no kind for one that waited
/// to be written when that happened.
fn is_broken(error: &NetError) -> bool {
    error.is_connection_closed() || matches!(error, NetError::Message(_) | NetError::Msg(_))
}

fn reply(query: &Query, response: DnsResponse) -> Result<Reply, ResolveError> {
    // over UDP hickory has compared it, over a connection it compares the identifier only
    if !matches!(response.queries.as_slice(), [asked] if asked == query) {
        return Err(ResolveError::Malformed);
    }
    // NXDOMAIN with answers: the aliases on the way to a name that does not exist
    let nonexistent = response.response_code == ResponseCode::NXDomain;
    if !nonexistent && response.response_code != ResponseCode::NoError {
        return Err(ResolveError::ServFail);
    }
    let negative_ttl = response.negative_ttl();
    Ok(Reply { nonexistent, answers: response.into_message().answers, negative_ttl })
}

/// NXDOMAIN or NODATA, for which hickory has an error.
fn no_records(query: &Query, none: &NoRecords) -> Result<Reply, ResolveError> {
    if *none.query != *query {
        return Err(ResolveError::Malformed);
    }
    if none.ns.is_some() && none.soa.is_none() {
        return Err(ResolveError::ServFail); // a referral: this server does not look names up
    }
    Ok(Reply {
        nonexistent: none.response_code == ResponseCode::NXDomain,
        answers: Vec::new(),
        negative_ttl: none.negative_ttl,
    })
}

#[expect(clippy::wildcard_enum_match_arm, reason = "NetError grows with hickory's features")]
fn cause(error: &NetError) -> ResolveError {
    match error {
        NetError::Timeout => ResolveError::Timeout,
        NetError::Busy => ResolveError::TooManyQueries,
        NetError::Dns(DnsError::ResponseCode(ResponseCode::Refused | ResponseCode::NotAuth)) => {
            ResolveError::Refused
        }
        NetError::Dns(_) => ResolveError::ServFail,
        NetError::Truncated
        | NetError::Proto(_)
        | NetError::QueryCaseMismatch
        | NetError::ForeignClassRecord { .. } => ResolveError::Malformed,
        // sockets, TLS, HTTP
        _ => ResolveError::Unreachable,
    }
}

/// How a server is asked, in order: over UDP (and TCP, for answers that it cuts short), over
/// connections only. Behind a tunnel it may well answer one of them alone, and nobody can mend that
/// from here.
fn ways(server: &Server, through: Option<&Way>) -> &'static [bool] {
    match (server, through) {
        (Server::Plain(_), None) => &[true],
        (Server::Plain(_), Some(way)) if way.has_datagrams() => &[true, false],
        (Server::Plain(_) | Server::Tls { .. } | Server::Https { .. }, _) => &[false],
    }
}

fn name_server(server: &Server, datagrams: bool) -> NameServerConfig {
    let protocols = match server {
        Server::Plain(_) if datagrams => vec![ProtocolConfig::Udp, ProtocolConfig::Tcp],
        Server::Plain(_) => vec![ProtocolConfig::Tcp],
        Server::Tls { name, .. } => {
            vec![ProtocolConfig::Tls { server_name: Arc::from(name.as_str()) }]
        }
        Server::Https { name, path, .. } => vec![ProtocolConfig::Https {
            server_name: Arc::from(name.as_str()),
            path: Arc::from(path.as_str()),
        }],
    };
    let connections = protocols.into_iter().map(|protocol| {
        let mut connection = ConnectionConfig::new(protocol);
        connection.port = server.address().port();
        connection
    });
    NameServerConfig::new(server.address().ip(), true, connections.collect())
}

/// What of hickory's resolver applies to a pool. Its cache, hosts file, search list and retries
/// belong to a layer above that is not used here.
fn options(timeout: Duration) -> ResolverOpts {
    let mut options = ResolverOpts::default();
    options.timeout = timeout;
    options.edns0 = true;
    options.num_concurrent_reqs = 1;
    options.server_ordering_strategy = ServerOrderingStrategy::UserProvidedOrder;
    // each name asks two questions over the one connection
    options.max_active_requests = QUERIES_MAX.saturating_mul(2);
    // a forger must also guess the case of the letters; a server that does not keep it is asked
    // over TCP
    options.case_randomization = true;
    options
}

/// The client side of `tls://` and `https://`. The provider is named here: nothing depends on
/// what the process has installed.
fn tls_config(
    roots: &[rustls_pki_types::CertificateDer<'static>],
) -> Result<ClientConfig, rustls::Error> {
    if roots.is_empty() {
        return hickory_resolver::net::tls::client_config();
    }
    let mut store = RootCertStore::empty();
    for root in roots {
        store.add(root.clone())?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider);
    let builder = builder.with_safe_default_protocol_versions()?;
    Ok(builder.with_root_certificates(store).with_no_client_auth())
}
