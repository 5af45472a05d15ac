//! One name's addresses: both families asked side by side, aliases followed, bounds kept.

use std::net::IpAddr;
use std::pin::pin;
use std::time::Duration;

use hickory_proto::rr::{Name, RData, Record, RecordType};
use tokio::time::timeout;

use super::upstream::{Reply, Upstreams};
use super::{ADDRESSES_MAX, ALIASES_MAX, ResolveError};

/// How long an answer is kept: never less, so that TTL 0 still means one lookup for one decision,
/// and never more, so that a change is seen soon.
const TTL_MIN: Duration = Duration::from_secs(1);
const TTL_MAX: Duration = Duration::from_mins(5);

/// How long it is kept at most that a name does not exist or has no addresses, or that only one
/// family could be asked for.
const NEGATIVE_TTL_MAX: Duration = Duration::from_secs(5);

/// How long the second family is waited for when the first has addresses. Long enough for two
/// repetitions of a lost datagram; some servers never answer the question for IPv6 addresses.
const FAMILY_WAIT: Duration = Duration::from_secs(1);

/// The addresses of a name.
#[derive(Debug)]
pub(super) struct Found {
    /// Never empty, none twice, IPv6 first, at most [`ADDRESSES_MAX`].
    pub(super) addresses: Vec<IpAddr>,
    pub(super) ttl: Duration,
    /// Whether both families were answered for.
    pub(super) complete: bool,
}

/// Why there are none.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) error: ResolveError,
    pub(super) ttl: Duration,
}

impl From<ResolveError> for Failure {
    fn from(error: ResolveError) -> Self {
        Self { error, ttl: TTL_MIN }
    }
}

/// Looks the name up. Sets no limit to the whole.
pub(super) async fn addresses(upstreams: &Upstreams, name: &Name) -> Result<Found, Failure> {
    let mut v6 = pin!(family(upstreams, name, RecordType::AAAA));
    let mut v4 = pin!(family(upstreams, name, RecordType::A));
    let (first, other) = tokio::select! {
        first = &mut v6 => (first, v4),
        first = &mut v4 => (first, v6),
    };
    let second = if first.is_ok() {
        timeout(FAMILY_WAIT, other).await.unwrap_or_else(|_| Err(ResolveError::Timeout.into()))
    } else {
        other.await
    };
    match (first, second) {
        (Ok(one), Ok(other)) => both(one, other),
        (Ok(one), Err(failed)) | (Err(failed), Ok(one)) => only(one, &failed),
        (Err(one), Err(other)) => Err(if one.error <= other.error { one } else { other }),
    }
}

fn both(mut one: Found, mut other: Found) -> Result<Found, Failure> {
    one.addresses.append(&mut other.addresses);
    one.addresses.sort_by_key(IpAddr::is_ipv4); // stable: IPv6 first, each in the server's order
    if one.addresses.len() > ADDRESSES_MAX {
        return Err(ResolveError::TooManyAddresses.into());
    }
    Ok(Found { ttl: one.ttl.min(other.ttl), ..one })
}

/// One family has addresses. What else there may be, nobody will be sent to, as only addresses
/// of the answer can be; but an answer that was made to do harm is refused as a whole.
fn only(found: Found, failed: &Failure) -> Result<Found, Failure> {
    match failed.error {
        ResolveError::NoAddress | ResolveError::NxDomain => Ok(found),
        ResolveError::TooManyAddresses | ResolveError::CnameLoop => Err(failed.error.into()),
        ResolveError::InvalidName
        | ResolveError::Refused
        | ResolveError::ServFail
        | ResolveError::Malformed
        | ResolveError::Timeout
        | ResolveError::Unreachable
        | ResolveError::TooManyQueries => {
            Ok(Found { ttl: found.ttl.min(NEGATIVE_TTL_MAX), complete: false, ..found })
        }
    }
}

/// The addresses of one family, aliases followed. Only those that stand under the name asked for,
/// or under the end of its chain of aliases, are taken: nothing that a server adds besides.
async fn family(upstreams: &Upstreams, name: &Name, kind: RecordType) -> Result<Found, Failure> {
    let mut at = name.clone();
    let mut ttl = u32::MAX;
    let mut aliases = 0_usize;
    loop {
        let asked = aliases;
        let Reply { nonexistent, answers, negative_ttl } = upstreams.ask(&at, kind).await?;
        loop {
            if let Some(found) = collect(&answers, &at, kind, ttl)? {
                return Ok(found);
            }
            let Some((target, alias_ttl)) = alias_of(&answers, &at) else { break };
            aliases = aliases.saturating_add(1);
            if aliases > ALIASES_MAX {
                return Err(ResolveError::CnameLoop.into());
            }
            (at, ttl) = (target.clone(), ttl.min(alias_ttl));
        }
        let error = if nonexistent { ResolveError::NxDomain } else { ResolveError::NoAddress };
        // A chain that ends outside this answer, without a word about its end: ask for that.
        // Each turn takes at least one alias, so there are not more turns than aliases.
        if nonexistent || negative_ttl.is_some() || aliases == asked {
            // without a word, nothing should be remembered (RFC 2308, section 5)
            let ttl = Duration::from_secs(negative_ttl.unwrap_or(0).min(ttl).into());
            return Err(Failure { error, ttl: ttl.clamp(TTL_MIN, NEGATIVE_TTL_MAX) });
        }
    }
}

/// The addresses that stand directly under the name; `None` if there are none.
fn collect(
    answers: &[Record],
    name: &Name,
    kind: RecordType,
    mut ttl: u32,
) -> Result<Option<Found>, ResolveError> {
    let mut addresses = Vec::new();
    let fitting = |record: &&Record| record.record_type() == kind && record.name == *name;
    for record in answers.iter().filter(fitting) {
        let Some(ip) = record.data.ip_addr() else { continue };
        ttl = ttl.min(record.ttl);
        if addresses.contains(&ip) {
            continue;
        }
        if addresses.len() == ADDRESSES_MAX {
            return Err(ResolveError::TooManyAddresses);
        }
        addresses.push(ip);
    }
    let ttl = Duration::from_secs(ttl.into()).clamp(TTL_MIN, TTL_MAX);
    Ok((!addresses.is_empty()).then_some(Found { addresses, ttl, complete: true }))
}

fn alias_of<'a>(answers: &'a [Record], name: &Name) -> Option<(&'a Name, u32)> {
    answers.iter().filter(|record| record.name == *name).find_map(|record| {
        let RData::CNAME(target) = &record.data else { return None };
        Some((&target.0, record.ttl))
    })
}
