//! Rule 6: what an address is, and who may approve it.

use crate::support::{
    canary::Canary,
    config::Config,
    gateway::Gateway,
    lab::{self, EGRESS, EGRESS_V6, Lab, PRIVATE, PRIVATE_2, PUBLIC, PUBLIC_2},
    receiver::Receiver,
};
use serde::Deserialize;
use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
};

const UNSAFE: &str = "SELF_HOSTED_BASE_URL_UNSAFE";
const FORBIDDEN: (u16, &str, &str) = (403, UNSAFE, "address_forbidden");
const NOT_APPROVED: (u16, &str, &str) =
    (403, "SELF_HOSTED_PRIVATE_NETWORK_REJECTED", "address_private");

/// The widest approval that a target can be given.
const DIRECT_TO_ALL: &str =
    "private_network_policy = \"direct\"\nprivate_network_allowlist = [\"0.0.0.0/0\", \"::/0\"]";

#[derive(Deserialize)]
struct Addresses {
    forbidden: Vec<IpAddr>,
    private: Vec<IpAddr>,
    global: Vec<IpAddr>,
}

/// The rows of `tests/cases/addresses.toml`.
fn addresses() -> Addresses {
    let addresses: Addresses = toml::from_str(include_str!("../cases/addresses.toml")).unwrap();
    let counts = [&addresses.forbidden, &addresses.private, &addresses.global].map(Vec::len);
    assert!(counts[0] >= 68 && counts[1] >= 12 && counts[2] >= 24, "only {counts:?}");
    addresses
}

/// A target for each address, reached by the name `nN.example`, with these further fields.
async fn gateway_for(lab: &Lab, addresses: &[IpAddr], fields: &str) -> Gateway {
    let mut config = both_families(lab);
    for (number, address) in addresses.iter().enumerate() {
        let name = format!("n{number}.example");
        lab.dns.addresses(&name, &[*address]);
        config = config.self_hosted_with(&format!("n{number}"), &format!("https://{name}"), fields);
    }
    lab.gateway(&config).await
}

fn both_families(lab: &Lab) -> Config {
    lab.config().set_toml("egress.ip", &format!("[\"{EGRESS}\", \"{EGRESS_V6}\"]"))
}

#[test]
fn a_name_that_leads_to_a_forbidden_address_is_refused_whatever_the_policy() {
    lab::run(async |lab| {
        let canary = Canary::everywhere(&[443]);
        let forbidden = addresses().forbidden;
        for fields in ["", DIRECT_TO_ALL] {
            let gateway = gateway_for(&lab, &forbidden, fields).await;
            for (number, address) in forbidden.iter().enumerate() {
                let reply = gateway.connect(&format!("n{number}.example:443")).await.reply;
                assert_eq!(reply.status, 403, "{address}: {reply:?}");
                let cause = reply.json()["cause"].clone();
                assert_eq!(cause, "address_forbidden", "{address}: {reply:?}");
                gateway.assert_refused(&reply, FORBIDDEN).await;
            }
        }
        canary.assert_silent().await;
    });
}

#[test]
fn a_forbidden_address_written_out_is_refused() {
    lab::run(async |lab| {
        let canary = Canary::everywhere(&[443]);
        let gateway = lab.gateway(&both_families(&lab)).await;
        for address in addresses().forbidden {
            let authority = SocketAddr::new(address, 443).to_string();
            let reply = gateway.connect(&authority).await.reply;
            gateway.assert_refused(&reply, (403, UNSAFE, "no_target")).await;
        }
        canary.assert_silent().await;
    });
}

#[test]
fn a_private_address_needs_policy_and_allowlist() {
    lab::run(async |lab| {
        let canary = Canary::everywhere(&[443]);
        let private = addresses().private;
        let elsewhere =
            "private_network_policy = \"direct\"\nprivate_network_allowlist = [\"10.99.0.0/16\"]";
        for fields in ["", elsewhere] {
            let gateway = gateway_for(&lab, &private, fields).await;
            for (number, address) in private.iter().enumerate() {
                let reply = gateway.connect(&format!("n{number}.example:443")).await.reply;
                assert_eq!(reply.status, 403, "{address}: {reply:?}");
                gateway.assert_refused(&reply, NOT_APPROVED).await;
            }
        }
        canary.assert_silent().await;
    });
}

#[test]
fn an_approved_private_address_is_reached() {
    lab::run(async |lab| {
        let _everywhere = Canary::everywhere(&[443]);
        let private = addresses().private;
        let gateway = gateway_for(&lab, &private, DIRECT_TO_ALL).await;
        for (number, address) in private.iter().enumerate() {
            let reply = gateway.connect(&format!("n{number}.example:443")).await.reply;
            assert_eq!(reply.status, 200, "{address}: {reply:?}");
        }
    });
}

#[test]
fn a_global_address_beside_a_forbidden_block_is_reached() {
    lab::run(async |lab| {
        let _everywhere = Canary::everywhere(&[443]);
        let global = addresses().global;
        let gateway = gateway_for(&lab, &global, "").await;
        for (number, address) in global.iter().enumerate() {
            let reply = gateway.connect(&format!("n{number}.example:443")).await.reply;
            assert_eq!(reply.status, 200, "{address}: {reply:?}");
        }
    });
}

/// Without this the silence of the canary would prove nothing.
#[test]
#[should_panic(expected = "a forbidden address was reached")]
fn the_canary_notices_who_comes() {
    lab::run(async |_lab| {
        let canary = Canary::everywhere(&[443]);
        let metadata: SocketAddr = "169.254.169.254:443".parse().unwrap();
        drop(tokio::net::TcpStream::connect(metadata).await.unwrap());
        canary.assert_silent().await;
    });
}

#[test]
fn approving_one_private_address_opens_no_other() {
    lab::run(async |lab| {
        let receiver = Receiver::echo((PRIVATE, 443));
        let canary = Canary::everywhere(&[443]);
        let fields =
            "private_network_policy = \"direct\"\nprivate_network_allowlist = [\"10.20.0.5/32\"]";
        let others: Vec<IpAddr> =
            ["10.20.0.4", "10.20.0.6", "192.168.7.7", "127.0.0.1", "169.254.169.254"]
                .map(|text| text.parse().unwrap())
                .into();
        lab.dns.addresses("acme.example", &[PRIVATE]);
        let mut config = lab
            .config()
            .self_hosted_with("acme", "https://acme.example", fields)
            .self_hosted("plain", "https://plain.example");
        lab.dns.addresses("plain.example", &[PRIVATE]);
        for (number, other) in others.iter().enumerate() {
            let name = format!("o{number}.example");
            lab.dns.addresses(&name, &[*other]);
            let url = format!("https://{name}");
            config = config.self_hosted_with(&format!("o{number}"), &url, fields);
        }
        let gateway = lab.gateway(&config).await;
        gateway.tunnel("acme.example:443").await;
        gateway.refuse("plain.example:443", NOT_APPROVED).await;
        for (number, other) in others.iter().enumerate() {
            let reply = gateway.connect(&format!("o{number}.example:443")).await.reply;
            assert_eq!(reply.status, 403, "{other}: {reply:?}");
        }
        assert_eq!(receiver.visits().len(), 1);
        canary.assert_silent().await;
    });
}

#[test]
fn an_answer_of_which_one_private_address_is_not_approved_is_refused() {
    lab::run(async |lab| {
        let receiver = Receiver::echo((PRIVATE, 443));
        let other = Receiver::echo((PRIVATE_2, 443));
        let fields =
            "private_network_policy = \"direct\"\nprivate_network_allowlist = [\"10.20.0.0/24\"]";
        lab.dns.addresses("acme.example", &[PRIVATE, PRIVATE_2]);
        let config = lab.config().self_hosted_with("acme", "https://acme.example", fields);
        let gateway = lab.gateway(&config).await;
        gateway.refuse("acme.example:443", NOT_APPROVED).await;
        receiver.assert_not_reached();
        other.assert_not_reached();
    });
}

#[test]
fn what_the_operator_denies_stays_denied() {
    lab::run(async |lab| {
        let private = Receiver::echo((PRIVATE, 443));
        let public = Receiver::echo((PUBLIC, 443));
        lab.dns.addresses("private.example", &[PRIVATE]);
        lab.dns.addresses("public.example", &[PUBLIC]);
        let fields =
            "private_network_policy = \"direct\"\nprivate_network_allowlist = [\"10.20.0.0/24\"]";
        let config = lab
            .config()
            .set_toml("policy.deny", "[\"10.20.0.5/32\", \"93.184.215.0/24\"]")
            .self_hosted_with("private", "https://private.example", fields)
            .self_hosted("public", "https://public.example");
        let gateway = lab.gateway(&config).await;
        gateway.refuse("private.example:443", FORBIDDEN).await;
        gateway.refuse("public.example:443", FORBIDDEN).await;
        private.assert_not_reached();
        public.assert_not_reached();
    });
}

#[test]
fn the_gateways_own_addresses_are_never_reached() {
    lab::run(async |lab| {
        lab::add_interface("198.41.1.1/24");
        lab::ip("addr add 10.30.0.1/24 dev own0");
        let token = lab.secret("token", "an-own-address-token");
        let config = lab
            .config()
            .set_toml("proxy.listen", &format!("[\"{PUBLIC_2}:3128\"]"))
            .client(&format!(
                "name = \"app\"\ntoken = {{ file = \"{}\" }}\ntargets = [\"*\"]",
                token.display()
            ));
        let mut config = config;
        let own = [EGRESS, PUBLIC_2, "198.41.1.1".parse().unwrap(), "10.30.0.1".parse().unwrap()];
        for (number, address) in own.iter().enumerate() {
            let name = format!("own{number}.example");
            lab.dns.addresses(&name, &[*address]);
            let url = format!("https://{name}:3128");
            config = config.self_hosted_with(&format!("own{number}"), &url, DIRECT_TO_ALL);
        }
        let gateway = lab.gateway(&config).await;
        for (number, address) in own.iter().enumerate() {
            let bearer = [("Proxy-Authorization", "Bearer an-own-address-token")];
            let exchange =
                gateway.connect_with(&format!("own{number}.example:3128"), &bearer).await;
            assert_eq!(exchange.reply.status, 403, "{address}: {:?}", exchange.reply);
            gateway.assert_refused(&exchange.reply, FORBIDDEN).await;
        }
    });
}

#[test]
fn loopback_is_private_in_development_and_the_own_listeners_stay_closed() {
    lab::run(async |lab| {
        let _receiver = Receiver::echo(("127.0.0.1".parse().unwrap(), 443));
        for name in ["dev.example", "unapproved.example", "admin.example", "meta.example"] {
            lab.dns.addresses(name, &["127.0.0.1".parse().unwrap()]);
        }
        lab.dns.addresses("meta.example", &["169.254.169.254".parse().unwrap()]);
        let config = lab
            .config()
            .set("policy.allow_loopback", true)
            .set_toml("admin.listen", "[\"127.0.0.1:9128\"]")
            .self_hosted_with("dev", "https://dev.example", DIRECT_TO_ALL)
            .self_hosted_with("admin", "https://admin.example:9128", DIRECT_TO_ALL)
            .self_hosted_with("meta", "https://meta.example", DIRECT_TO_ALL)
            .self_hosted("unapproved", "https://unapproved.example");
        let gateway = lab.gateway(&config).await;
        gateway.tunnel("dev.example:443").await;
        gateway.refuse("unapproved.example:443", NOT_APPROVED).await;
        gateway.refuse("admin.example:9128", FORBIDDEN).await;
        gateway.refuse("meta.example:443", FORBIDDEN).await;
        let warned = |level: &str| level.eq_ignore_ascii_case("warn");
        gateway
            .wait_event("a warning of allow_loopback", |event| {
                warned(event.text("level")) && event.0.to_string().contains("allow_loopback")
            })
            .await;
        let families: BTreeSet<String> = gateway.metrics().await.families();
        assert!(families.iter().any(|name| name.contains("loopback")), "{families:?}");
    });
}
