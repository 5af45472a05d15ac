//! Names to addresses, asked from the egress address, or through a tunnel, and nowhere else.
//!
//! Only fully-qualified names are asked for. Search domains, the hosts file and the environment
//! are never looked at; what hickory has of them lies in a layer that is not used.

mod error;
mod flight;
mod lookup;
mod provider;
mod server;
#[cfg(test)]
mod tests;
mod through;
mod upstream;

pub use error::{ResolveError, SettingsError};
pub use server::{Server, ServerParseError, system_servers};
pub use through::{BoxFuture, Datagrams, Link, Through, Way};

use std::borrow::Cow;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use rustls_pki_types::CertificateDer;
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};

use crate::dial::EgressAddresses;
use flight::Flights;
use upstream::Upstreams;

/// How many addresses a name may have: an answer with more is refused whole, as every address has
/// to be vetted. No service that anyone could name has so many.
pub const ADDRESSES_MAX: usize = 64;

/// How many aliases (CNAME) may lead from a name to its addresses. Content networks use up to
/// five or so.
pub const ALIASES_MAX: usize = 12;

/// How many name servers can be configured.
pub const SERVERS_MAX: usize = 8;

/// How many names are looked up at the same time; further ones wait for their turn, within the
/// same time limit. Each takes two sockets for a moment.
pub const QUERIES_MAX: usize = 512;

/// How long the outcome of [`Resolver::answering`] stands, so that its callers cannot make more
/// questions out of it.
const PROBE_INTERVAL: Duration = Duration::from_secs(1);

/// Which servers are asked, and how. Two that are equal make resolvers that behave alike, so that
/// a reload can keep the one it has, with what it remembers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The servers in order of preference: at least one, at most [`SERVERS_MAX`], none of a
    /// family without egress address unless they are reached `through` something else.
    pub servers: Vec<Server>,
    /// Time to resolve a name: all servers, repetitions, aliases and waiting together.
    pub timeout: Duration,
    /// Where questions leave from.
    pub egress: EgressAddresses,
    /// What the certificates of `tls://` and `https://` servers must lead to. Empty, the default:
    /// the roots of Mozilla's programme, as built in.
    pub roots: Vec<CertificateDer<'static>>,
    /// The only way to the servers. Default: directly, from the egress address.
    pub through: Option<Way>,
}

impl Settings {
    /// Settings with the built-in roots, for servers that are asked directly.
    pub fn new(servers: Vec<Server>, timeout: Duration, egress: EgressAddresses) -> Self {
        Self { servers, timeout, egress, roots: Vec::new(), through: None }
    }
}

/// The addresses of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// All of them, IPv6 first: at least one, at most [`ADDRESSES_MAX`], none twice. None of them
    /// is vetted.
    pub addresses: Arc<[IpAddr]>,
    /// Whether it was remembered, so that nothing was asked for it.
    pub cached: bool,
    /// Whether both families were answered for. If not, the question for the other one failed,
    /// or had no answer within a second of this one.
    pub complete: bool,
    /// Until when it is remembered: for the time that its records allow, but at least one second
    /// and at most five minutes; five seconds if it is not complete.
    pub expires: Instant,
}

/// Looks names up, and remembers what it found: at most 10,000 names. Failures are remembered for
/// a second, and that a name does not exist or has no addresses for at most five.
pub struct Resolver {
    settings: Settings,
    flights: Flights,
    upstreams: Arc<Upstreams>,
    probe: Mutex<Option<(Instant, bool)>>,
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resolver").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl Resolver {
    /// A resolver with nothing remembered. Sends nothing.
    pub fn new(settings: Settings) -> Result<Self, SettingsError> {
        let upstreams = Arc::new(Upstreams::new(&settings)?);
        let flights = Flights::new(Arc::clone(&upstreams), settings.timeout, QUERIES_MAX);
        Ok(Self { settings, flights, upstreams, probe: Mutex::new(None) })
    }

    /// What it was set up with.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The addresses of a host name, given in ASCII (A-labels, RFC 5890) without a trailing dot.
    ///
    /// IPv4 and IPv6 addresses are both asked for, always. However many ask for one name at the
    /// same time, it is looked up once, and goes on being looked up when they go away. Takes no
    /// longer than [`Settings::timeout`].
    ///
    /// `localhost` and names under it are the loopback addresses, and `invalid` and `onion` do
    /// not exist, without a question to anyone (RFC 6761, RFC 7686).
    pub async fn resolve(&self, name: &str) -> Result<Answer, ResolveError> {
        let name = host_name(name)?;
        match name.rsplit('.').next() {
            Some("localhost") => Ok(loopback()),
            Some("invalid" | "onion") => Err(ResolveError::NxDomain),
            Some(_) | None => self.flights.resolve(&name).await,
        }
    }

    /// Whether any server answers at all within `limit`: any response to a question for the
    /// root's name servers will do, a refusal too. For readiness. Asks once a second at most.
    pub async fn answering(&self, limit: Duration) -> bool {
        let probe = async {
            let mut last = self.probe.lock().await;
            match *last {
                Some((at, answered)) if at.elapsed() < PROBE_INTERVAL => answered,
                Some(_) | None => {
                    let answered = self.upstreams.any_response().await;
                    *last = Some((Instant::now(), answered));
                    answered
                }
            }
        };
        timeout(limit, probe).await.unwrap_or(false)
    }
}

/// The name in lower case, if it is a host name: letters, digits, hyphens and underscores in
/// labels of 1 to 63 (RFC 1123, and the underscore for what is out there), 253 in all. Names that
/// a URL parser takes for an address, as their last label is a number, are none (WHATWG URL,
/// "ends in a number").
fn host_name(name: &str) -> Result<Cow<'_, str>, ResolveError> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    let is_label = |label: &str| (1..=63).contains(&label.len()) && label.bytes().all(allowed);
    let numeric = |label: &str| {
        label.bytes().all(|byte| byte.is_ascii_digit())
            || label
                .strip_prefix("0x")
                .or_else(|| label.strip_prefix("0X"))
                .is_some_and(|rest| rest.bytes().all(|byte| byte.is_ascii_hexdigit()))
    };
    let fits = name.len() <= 253 && name.split('.').all(is_label);
    if !fits || name.rsplit('.').next().is_none_or(numeric) {
        return Err(ResolveError::InvalidName);
    }
    if name.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return Ok(Cow::Owned(name.to_ascii_lowercase()));
    }
    Ok(Cow::Borrowed(name))
}

/// What RFC 6761, section 6.3, wants for `localhost`; the policy has a word to say to it.
fn loopback() -> Answer {
    Answer {
        addresses: Arc::from([Ipv6Addr::LOCALHOST.into(), Ipv4Addr::LOCALHOST.into()]),
        cached: true,
        complete: true,
        expires: Instant::now(),
    }
}
