//! What an address is: forbidden, private or global, from the special-purpose registries.
//!
//! An address is judged in three steps: an IPv4 address inside an IPv6 one is taken out
//! ([`judged_form`]), ISATAP is looked for in what is left of IPv6, and then the first row of the
//! table ([`special_purpose`]) that holds the address decides. What no row holds is global in IPv4
//! and forbidden in IPv6, so that what IANA has yet to give out in IPv6 is never reached.
//!
//! No I/O, no state: the gateway's own addresses and `policy.deny` are known elsewhere.

mod table;
#[cfg(test)]
mod tests;

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::LazyLock;

use ipnet::IpNet;

pub use table::{EMBEDDING, REGISTRY_DATE, special_purpose};

use table::{ISATAP, LIFTED_LOOPBACK_V4, LIFTED_LOOPBACK_V6, LOOPBACK, ORDINARY_IPV4, OTHER_IPV6};

/// What an address is to the policy (docs/contract.md §6, rule 6). Ordered from worst to best.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// Never reachable, whatever a target's policy or allowlist says.
    Forbidden,
    /// Reachable only where a target's policy and allowlist say so.
    Private,
    /// Reachable directly.
    Global,
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Forbidden => "forbidden",
            Self::Private => "private",
            Self::Global => "global",
        })
    }
}

/// A range of addresses set aside for a purpose: one row of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    /// The addresses the row is about, unless a longer prefix has a row of its own.
    pub net: IpNet,
    /// What those addresses are.
    pub class: Class,
    /// What the block is for, in lower case: `loopback`, `cloud metadata`.
    pub name: &'static str,
    /// The RFC that set the block aside, or the vendor's page that names the address.
    pub source: &'static str,
}

/// What was found about one address, and by which row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// What the address is; always the class of `block`.
    pub class: Class,
    /// The row that decided; for an ordinary address one named `global unicast`.
    pub block: &'static Block,
    /// The address that was judged: the IPv4 address inside an IPv4-mapped or NAT64 one, else the
    /// address itself. Allowlists are compared with this one.
    pub judged: IpAddr,
}

/// Judges one address.
///
/// With `allow_loopback` (`policy.allow_loopback`, for development) 127.0.0.0/8 and `::1` are
/// private instead of forbidden; nothing else changes. 0.0.0.0 and `::`, which Linux also connects
/// to a loopback listener, stay forbidden.
pub fn classify(address: IpAddr, allow_loopback: bool) -> Verdict {
    let judged = judged_form(address);
    let found = match judged {
        IpAddr::V6(address) if is_isatap(address) => &ISATAP,
        IpAddr::V4(_) | IpAddr::V6(_) => row_of(judged),
    };
    let block = match judged {
        IpAddr::V4(_) if allow_loopback && found.name == LOOPBACK => &LIFTED_LOOPBACK_V4,
        IpAddr::V6(_) if allow_loopback && found.name == LOOPBACK => &LIFTED_LOOPBACK_V6,
        IpAddr::V4(_) | IpAddr::V6(_) => found,
    };
    Verdict { class: block.class, block, judged }
}

/// The address that the policy judges in place of `address`.
///
/// For the prefixes of [`EMBEDDING`] (IPv4-mapped and NAT64) this is the IPv4 address in the last
/// 32 bits, as that is where a connection ends; for every other address the address itself. Other
/// embeddings (6to4, Teredo, ISATAP, IPv4-compatible, IPv4-translated, local-use NAT64) are not
/// taken apart: they are forbidden whole.
pub fn judged_form(address: IpAddr) -> IpAddr {
    let IpAddr::V6(outer) = address else { return address };
    if EMBEDDING.iter().any(|(prefix, _)| prefix.contains(&outer)) {
        let [.., a, b, c, d] = outer.octets();
        return IpAddr::from([a, b, c, d]);
    }
    address
}

/// The row that decides about an address as it stands.
fn row_of(address: IpAddr) -> &'static Block {
    let after = SPANS.partition_point(|(start, _)| *start <= address);
    let span = after.checked_sub(1).and_then(|at| SPANS.get(at));
    span.map_or_else(|| seek_row_of(address), |(_, row)| row)
}

/// The same, read from the table: the first row that holds the address, which is the one with the
/// longest prefix.
fn seek_row_of(address: IpAddr) -> &'static Block {
    let otherwise = if address.is_ipv4() { &ORDINARY_IPV4 } else { &OTHER_IPV6 };
    special_purpose().iter().find(|row| row.net.contains(&address)).unwrap_or(otherwise)
}

/// The table cut where its answer may change: each address with the row that decides about it and
/// all up to the next one. A search here takes seven steps where the table may take seventy, and
/// every address of every answer is judged. IPv4 sorts before IPv6.
static SPANS: LazyLock<Vec<(IpAddr, &'static Block)>> = LazyLock::new(|| {
    let lowest = [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)];
    let edges = special_purpose().iter().flat_map(|row| {
        [Some(row.net.network()), successor(row.net.broadcast())].into_iter().flatten()
    });
    let mut starts: Vec<_> = lowest.into_iter().chain(edges).collect();
    starts.sort_unstable();
    starts.dedup();
    starts.into_iter().map(|start| (start, seek_row_of(start))).collect()
});

/// The next address of the same family.
fn successor(address: IpAddr) -> Option<IpAddr> {
    match address {
        IpAddr::V4(v4) => v4.to_bits().checked_add(1).map(|bits| Ipv4Addr::from_bits(bits).into()),
        IpAddr::V6(v6) => v6.to_bits().checked_add(1).map(|bits| Ipv6Addr::from_bits(bits).into()),
    }
}

/// Whether the interface identifier is ISATAP's `0000:5efe:a.b.c.d` or `0200:5efe:a.b.c.d`.
///
/// It may stand behind any prefix, so it is a rule and not a row. The second form has the
/// universal/local bit set, for a globally unique IPv4 address (RFC 5214 §6.1).
fn is_isatap(address: Ipv6Addr) -> bool {
    let [_, _, _, _, upper, lower, _, _] = address.segments();
    matches!(upper, 0x0000 | 0x0200) && lower == 0x5efe
}
