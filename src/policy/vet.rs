//! Rule 6: every address of an answer is judged before one of them may be dialled.

use std::{
    collections::HashSet,
    net::{IpAddr, SocketAddr},
};

use ipnet::IpNet;
use smallvec::SmallVec;

use super::{
    Permit,
    address::{Block, Class, classify, judged_form},
};
use crate::{
    origin::Port,
    reason::{Cause, Refusal},
    target::{Network, PrivateNetworkPolicy},
};

/// Proof that rule 6 passed: an address that was judged and found reachable for one target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct VettedAddr(SocketAddr);

impl VettedAddr {
    /// The address itself, to dial, to show and to compare.
    pub fn addr(self) -> SocketAddr {
        self.0
    }
}

/// The gateway's own addresses, which nothing may reach through it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Own {
    /// Addresses of interfaces other than loopback, and the egress addresses: whole.
    pub addresses: HashSet<IpAddr>,
    /// Addresses of the loopback interface, on which only the listeners' ports are the gateway's.
    pub local: HashSet<IpAddr>,
    /// Listeners on one address.
    pub listeners: HashSet<SocketAddr>,
    /// Ports of listeners on every address.
    pub wildcard_ports: HashSet<u16>,
}

impl Own {
    /// Whether a connection there would come back to the gateway or its machine.
    fn is_own(&self, ip: IpAddr, port: Port) -> bool {
        let port = port.get();
        let here = self.local.contains(&ip) || ip.is_loopback();
        self.addresses.contains(&ip)
            || self.listeners.contains(&SocketAddr::new(ip, port))
            || here && self.wildcard_ports.contains(&port)
    }
}

/// What addresses are judged against, besides the target's own rules.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scene {
    /// The gateway's own addresses.
    pub own: Own,
    /// `policy.deny`.
    pub deny: Vec<IpNet>,
    /// `policy.allow_loopback`.
    pub allow_loopback: bool,
}

/// What the name, or the literal, led to.
#[derive(Clone, Copy, Debug)]
pub struct Answered<'a> {
    /// All addresses.
    pub addresses: &'a [IpAddr],
    /// The port to dial.
    pub port: Port,
    /// The class of the name when it was last vetted; `None` for a literal or an unknown name.
    pub last_seen: Option<Class>,
}

/// Addresses that may be dialled, and their common class.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vetted {
    addresses: SmallVec<[VettedAddr; 4]>,
    class: Class,
}

impl Vetted {
    /// At least one address, in the order of the answer.
    pub fn addresses(&self) -> &[VettedAddr] {
        &self.addresses
    }

    /// `Global` or `Private`: to be remembered with the name.
    pub fn class(&self) -> Class {
        self.class
    }
}

/// What is said of one address, for `explain`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// The address as DNS gave it.
    pub address: IpAddr,
    /// What it is.
    pub class: Class,
    /// The block that decides, or what else makes it forbidden.
    pub name: &'static str,
    /// Where that block is defined.
    pub source: &'static str,
    /// Whether this target's own rules approve it: forbidden never, global always but under a tunnel.
    pub approved: bool,
}

const OWN: &str = "the gateway's own address";
const DENIED: &str = "policy.deny";

/// Judges one address by itself.
pub fn judge(scene: &Scene, network: &Network, address: IpAddr, port: Port) -> Judgement {
    let verdict = classify(address, scene.allow_loopback);
    let Block { name, source, .. } = *verdict.block;
    let forbid = |name: &'static str| Judgement {
        address,
        class: Class::Forbidden,
        name,
        source: "configuration",
        approved: false,
    };
    let embedded = (verdict.judged != address).then_some(verdict.judged);
    let forms = || std::iter::once(address).chain(embedded);
    if forms().any(|ip| scene.own.is_own(ip, port)) {
        return forbid(OWN);
    }
    if scene.deny.iter().any(|net| forms().any(|ip| net.contains(&ip))) {
        return forbid(DENIED);
    }
    let listed = network.allowlist.iter().any(|net| net.contains(&verdict.judged));
    let approved = match (verdict.class, network.policy) {
        (Class::Forbidden, _) | (Class::Private, PrivateNetworkPolicy::Deny) => false,
        (Class::Private, PrivateNetworkPolicy::Direct | PrivateNetworkPolicy::Tunnel)
        | (Class::Global, PrivateNetworkPolicy::Tunnel) => listed,
        (Class::Global, PrivateNetworkPolicy::Deny | PrivateNetworkPolicy::Direct) => true,
    };
    Judgement { address, class: verdict.class, name, source, approved }
}

/// Judges the whole answer: one bad address refuses all of it.
///
/// # Errors
/// `address_forbidden`, `dns_rebinding`, `address_private`, `address_not_allowlisted`, in this
/// order; `dns_no_address` for an empty answer.
pub fn vet(permit: &Permit, scene: &Scene, answered: &Answered<'_>) -> Result<Vetted, Refusal> {
    let host = &permit.destination().authority.host;
    let network = &permit.target().network;
    let judged: SmallVec<[Judgement; 4]> =
        answered.addresses.iter().map(|ip| judge(scene, network, *ip, answered.port)).collect();
    let Some(first) = judged.first() else {
        return Err(Refusal::new(Cause::DnsNoAddress, format!("{host} has no address")));
    };
    if let Some(bad) = judged.iter().find(|one| one.class == Class::Forbidden) {
        let detail = format!("{host} leads to {}, which is forbidden: {}", bad.address, bad.name);
        return Err(Refusal::new(Cause::AddressForbidden, detail));
    }
    if judged.iter().any(|one| one.class != first.class) {
        let detail = format!("{host} leads to global and private addresses at once");
        return Err(Refusal::new(Cause::DnsRebinding, detail));
    }
    if let Some(bad) = judged.iter().find(|one| !one.approved) {
        return Err(unapproved(host, bad, answered.last_seen));
    }
    let pin = |one: &Judgement| {
        VettedAddr(SocketAddr::new(dialled_form(one.address), answered.port.get()))
    };
    Ok(Vetted { addresses: judged.iter().map(pin).collect(), class: first.class })
}

fn unapproved(host: &crate::origin::Host, bad: &Judgement, last_seen: Option<Class>) -> Refusal {
    let address = bad.address;
    if bad.class == Class::Global {
        let detail = format!("{host} leads to {address}, which the tunnel's target does not list");
        return Refusal::new(Cause::AddressNotAllowlisted, detail);
    }
    if last_seen == Some(Class::Global) {
        let detail =
            format!("{host} was global when last seen and now leads to {address} ({})", bad.name);
        return Refusal::new(Cause::DnsRebinding, detail);
    }
    let detail =
        format!("{host} leads to {address} ({}), which the target does not approve", bad.name);
    Refusal::new(Cause::AddressPrivate, detail)
}

/// An IPv4-mapped address goes out as IPv4, so that the peer address can be compared with it.
fn dialled_form(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => judged_form(address),
        IpAddr::V4(_) | IpAddr::V6(_) => address,
    }
}
