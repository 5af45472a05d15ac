//! What is permitted and vetted, row by row and for all inputs.

use std::net::{IpAddr, SocketAddr};

use proptest::prelude::*;

use super::{address::Class, *};
use crate::{
    client::{ClientSettings, Clients},
    origin::{Authority, Port},
    reason::{Cause, DeploymentMode},
    target::{AuthStatus, ConnectPolicy, Ownership, PrivateNetworkPolicy, Scope, tests::target},
};

type Change = fn(&mut Target);
type Row<'a> = (&'a Permit, &'a [&'a str], Option<Class>, Result<usize, Cause>);

fn destination() -> Destination {
    Destination {
        authority: Authority::parse("jira.acme.example:443").unwrap(),
        hint: None,
        resource: None,
    }
}

fn permitted(target: Target) -> Result<Permit, Refusal> {
    let clients = Clients::new(Vec::new()).unwrap();
    permit(clients.named("x").unwrap(), destination(), &Arc::new(target), Mode::Connect)
}

fn acme() -> Target {
    target("acme-jira", "https://jira.acme.example/")
}

#[test]
fn each_rule_refuses_what_it_is_for() {
    assert!(permitted(acme()).is_ok());
    let rows: [(Change, Cause); 6] = [
        (|t| t.enabled = false, Cause::TargetDisabled),
        (|t| t.ownership = Ownership::Unclear, Cause::OwnershipUnclear),
        (|t| t.connect = ConnectPolicy::Deny, Cause::ConnectNotAllowed),
        (|t| t.mode = DeploymentMode::WebhookOnly, Cause::ConnectNotAllowed),
        (|t| t.auth_status = AuthStatus::Required, Cause::ProviderAuthRequired),
        (
            |t| t.base = crate::origin::BaseUrl::parse("https://a.example/b", false).unwrap(),
            Cause::ConnectNotAllowed,
        ),
    ];
    for (change, cause) in rows {
        let mut changed = acme();
        change(&mut changed);
        assert_eq!(permitted(changed).unwrap_err().cause, cause);
    }
}

#[test]
fn a_base_path_takes_connect_only_where_the_origin_is_in_scope() {
    let mut target = target("x", "https://jira.acme.example/jira");
    assert!(permitted(target.clone()).is_err());
    target.scope = Scope::Origin;
    assert!(permitted(target.clone()).is_ok());
    target.connect = ConnectPolicy::Deny;
    assert!(permitted(target).is_err());
}

#[test]
fn a_client_reaches_only_targets_that_its_globs_match() {
    let settings = ClientSettings {
        name: "ci".into(),
        token: None,
        certificate_names: vec!["ci.example".into()],
        targets: vec!["other-*".into()],
    };
    let clients = Clients::new(vec![settings]).unwrap();
    let client = clients.named("ci").unwrap();
    let refusal = permit(client, destination(), &Arc::new(acme()), Mode::Connect).unwrap_err();
    assert_eq!(refusal.cause, Cause::ClientForbidden);
}

#[test]
fn permit_is_the_first_refusal_of_explain() {
    let clients = Clients::new(Vec::new()).unwrap();
    let mut target = acme();
    target.enabled = false;
    target.ownership = Ownership::Unclear;
    let destination = destination();
    let client = clients.named("x").unwrap();
    let case = Case { client, destination: &destination, target: &target, mode: Mode::Connect };
    let steps = explain(&case);
    let first = steps.iter().find_map(|step| step.verdict.clone().err());
    assert_eq!(first, permitted(target).err());
    let words: Vec<_> = steps.iter().map(Step::word).collect();
    assert_eq!(words[..2], ["passed", "refused"]);
    assert!(words[2..].iter().all(|word| *word == "not_asked"), "{words:?}");
}

// --- rule 6 ---

fn private(policy: PrivateNetworkPolicy, allowlist: &[&str]) -> Permit {
    let mut target = acme();
    target.network.policy = policy;
    target.network.allowlist = allowlist.iter().map(|net| net.parse().unwrap()).collect();
    permitted(target).unwrap()
}

fn vetted(
    permit: &Permit,
    addresses: &[&str],
    last_seen: Option<Class>,
) -> Result<Vec<String>, Cause> {
    let addresses: Vec<IpAddr> = addresses.iter().map(|ip| ip.parse().unwrap()).collect();
    let answered = Answered { addresses: &addresses, port: Port::HTTPS, last_seen };
    vet(permit, &Scene::default(), &answered)
        .map(|vetted| vetted.addresses().iter().map(|one| one.addr().to_string()).collect())
        .map_err(|refusal| refusal.cause)
}

#[test]
fn one_bad_address_refuses_the_whole_answer() {
    use PrivateNetworkPolicy::{Deny, Direct, Tunnel};
    let plain = private(Deny, &[]);
    let direct = private(Direct, &["10.20.0.0/16"]);
    let tunnel = private(Tunnel, &["10.20.0.0/16", "8.8.8.8/32"]);
    let rows: &[Row<'_>] = &[
        (&plain, &["8.8.8.8"], None, Ok(1)),
        (&plain, &["8.8.8.8", "2001:4860:4860::8888"], None, Ok(2)),
        (&plain, &[], None, Err(Cause::DnsNoAddress)),
        (&plain, &["8.8.8.8", "127.0.0.1"], None, Err(Cause::AddressForbidden)),
        (&plain, &["127.0.0.1", "8.8.8.8"], None, Err(Cause::AddressForbidden)),
        (&plain, &["8.8.8.8", "::1"], None, Err(Cause::AddressForbidden)),
        (&plain, &["10.0.0.1"], None, Err(Cause::AddressPrivate)),
        (&plain, &["10.0.0.1"], Some(Class::Private), Err(Cause::AddressPrivate)),
        (&plain, &["10.0.0.1"], Some(Class::Global), Err(Cause::DnsRebinding)),
        (&plain, &["8.8.8.8", "10.0.0.1"], None, Err(Cause::DnsRebinding)),
        (&direct, &["10.20.0.5"], None, Ok(1)),
        (&direct, &["10.20.0.5"], Some(Class::Global), Ok(1)),
        (&direct, &["::ffff:10.20.0.5"], None, Ok(1)),
        (&direct, &["10.21.0.5"], None, Err(Cause::AddressPrivate)),
        (&direct, &["10.20.0.5", "10.21.0.5"], None, Err(Cause::AddressPrivate)),
        (&direct, &["10.20.0.5", "8.8.8.8"], None, Err(Cause::DnsRebinding)),
        (&direct, &["8.8.8.8"], None, Ok(1)),
        (&direct, &["169.254.169.254"], None, Err(Cause::AddressForbidden)),
        (&tunnel, &["10.20.0.5"], None, Ok(1)),
        (&tunnel, &["8.8.8.8"], None, Ok(1)),
        (&tunnel, &["8.8.4.4"], None, Err(Cause::AddressNotAllowlisted)),
        (&tunnel, &["10.20.0.5", "8.8.8.8"], None, Err(Cause::DnsRebinding)),
    ];
    for (permit, addresses, last_seen, expected) in rows {
        let found = vetted(permit, addresses, *last_seen).map(|dialled| dialled.len());
        assert_eq!(found, *expected, "{addresses:?} {:?}", permit.target().network.policy);
    }
}

#[test]
fn a_mapped_address_is_dialled_as_ipv4() {
    let direct = private(PrivateNetworkPolicy::Direct, &["10.20.0.0/16"]);
    assert_eq!(vetted(&direct, &["::ffff:10.20.0.5"], None), Ok(vec!["10.20.0.5:443".into()]));
}

#[test]
fn no_allowlist_lifts_metadata_own_or_denied_addresses() {
    let all = private(PrivateNetworkPolicy::Direct, &["0.0.0.0/0", "::/0"]);
    for address in
        ["169.254.169.254", "100.100.100.200", "fd00:ec2::254", "168.63.129.16", "0.0.0.0", "::"]
    {
        assert_eq!(vetted(&all, &[address], None), Err(Cause::AddressForbidden), "{address}");
    }
    let scene = Scene {
        own: Own {
            addresses: ["10.9.0.1".parse().unwrap()].into(),
            local: ["10.9.0.2".parse().unwrap()].into(),
            listeners: ["10.9.0.3:443".parse().unwrap()].into(),
            wildcard_ports: [443].into(),
        },
        deny: vec!["10.8.0.0/16".parse().unwrap()],
        allow_loopback: false,
    };
    let refused = |ip: &str, port: u16| {
        let addresses = [ip.parse::<IpAddr>().unwrap()];
        let answered =
            Answered { addresses: &addresses, port: Port::new(port).unwrap(), last_seen: None };
        vet(&all, &scene, &answered).map_err(|refusal| refusal.cause)
            == Err(Cause::AddressForbidden)
    };
    for ip in [
        "10.9.0.1",
        "::ffff:10.9.0.1",
        "10.9.0.2",
        "10.9.0.3",
        "10.8.0.1",
        "::ffff:10.8.0.1",
        "64:ff9b::10.8.0.1",
    ] {
        assert!(refused(ip, 443), "{ip}");
    }
    assert!(!refused("10.9.0.2", 8443) && !refused("10.9.0.3", 8443) && refused("10.9.0.1", 8443));
}

#[test]
fn loopback_counts_as_private_only_where_development_asks_for_it() {
    let direct = private(PrivateNetworkPolicy::Direct, &["127.0.0.0/8"]);
    assert_eq!(vetted(&direct, &["127.0.0.1"], None), Err(Cause::AddressForbidden));
    let mut scene = Scene { allow_loopback: true, ..Scene::default() };
    let addresses = ["127.0.0.1".parse::<IpAddr>().unwrap()];
    let answered = Answered { addresses: &addresses, port: Port::HTTPS, last_seen: None };
    assert!(vet(&direct, &scene, &answered).is_ok());
    scene.own.wildcard_ports = [443].into();
    assert!(vet(&direct, &scene, &answered).is_err(), "its own listener");
}

proptest! {
    #[test]
    fn whatever_the_policy_no_forbidden_address_is_ever_vetted(
        addresses in prop::collection::vec(any::<IpAddr>(), 1..6),
        policy in prop::sample::select(vec![PrivateNetworkPolicy::Deny, PrivateNetworkPolicy::Direct, PrivateNetworkPolicy::Tunnel]),
        last_seen in prop::sample::select(vec![None, Some(Class::Global), Some(Class::Private)]),
    ) {
        let permit = private(policy, &["0.0.0.0/0", "::/0"]);
        let answered = Answered { addresses: &addresses, port: Port::HTTPS, last_seen };
        if let Ok(vetted) = vet(&permit, &Scene::default(), &answered) {
            prop_assert_eq!(vetted.addresses().len(), addresses.len());
            for one in vetted.addresses() {
                let class = address::classify(one.addr().ip(), false).class;
                prop_assert_ne!(class, Class::Forbidden);
                prop_assert_eq!(class, vetted.class());
            }
        }
    }

    #[test]
    fn an_answer_is_refused_where_a_part_of_it_is(
        one in prop::collection::vec(any::<std::net::Ipv4Addr>(), 1..4),
        other in prop::collection::vec(any::<std::net::Ipv4Addr>(), 1..4),
    ) {
        let permit = private(PrivateNetworkPolicy::Direct, &["10.0.0.0/8"]);
        let passes = |ips: &[std::net::Ipv4Addr]| {
            let ips: Vec<IpAddr> = ips.iter().copied().map(IpAddr::V4).collect();
            vet(&permit, &Scene::default(), &Answered { addresses: &ips, port: Port::HTTPS, last_seen: None }).is_ok()
        };
        let whole = [one.clone(), other.clone()].concat();
        prop_assert!(!passes(&whole) || passes(&one) && passes(&other));
    }
}

#[test]
fn a_vetted_address_keeps_the_port_that_was_asked_for() {
    let permit = private(PrivateNetworkPolicy::Deny, &[]);
    let addresses = ["8.8.8.8".parse::<IpAddr>().unwrap()];
    let answered =
        Answered { addresses: &addresses, port: Port::new(8443).unwrap(), last_seen: None };
    let vetted = vet(&permit, &Scene::default(), &answered).unwrap();
    assert_eq!(vetted.addresses()[0].addr(), SocketAddr::from(([8, 8, 8, 8], 8443)));
}
