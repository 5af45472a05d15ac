//! TLS that the gateway originates: every fault has its word, and nothing is said over it.

use crate::support::{
    config::Config,
    gateway::Gateway,
    lab::{self, Lab, PUBLIC},
    origin::{Origin, Tls, ok},
    receiver::Receiver,
    tls::{Ca, Identity},
};
use rcgen::{CustomExtension, ExtendedKeyUsagePurpose, date_time_ymd};

const INVALID: &str = "SELF_HOSTED_TLS_INVALID";
const UNREACHABLE: &str = "PROVIDER_BASE_URL_UNREACHABLE";

/// A self-hosted and a cloud target behind one address, and a gateway that trusts `ca`.
async fn both(lab: &Lab, ca: &Ca, change: impl FnOnce(Config) -> Config) -> Gateway {
    for name in ["acme.example", "api.github.com"] {
        lab.dns.addresses(name, &[PUBLIC]);
    }
    let config = lab.config().trusting(ca).set("limits.tls_timeout", "1s");
    let config = config.self_hosted("acme", "https://acme.example").github_cloud("github", "");
    lab.gateway(&change(config)).await
}

/// That both targets are refused with this cause, and that no request reaches them.
async fn assert_fault(lab: &Lab, ca: &Ca, identity: &Identity, cause: &str) {
    let gateway = both(lab, ca, |config| config).await;
    let origin = Origin::start((PUBLIC, 443), Some(identity.server_config()), |_| ok(""));
    let event = gateway.refuse_get("http://acme.example/", (502, INVALID, cause)).await;
    assert!(event.get("tls").is_number(), "{event:?}");
    gateway.refuse_get("http://api.github.com/", (502, UNREACHABLE, cause)).await;
    assert!(origin.requests().is_empty());
}

const NAMES: [&str; 2] = ["acme.example", "api.github.com"];

#[test]
fn an_expired_certificate() {
    lab::run(async |lab| {
        let ca = lab.ca("ca");
        let identity = ca.server_with(&NAMES, |params| {
            params.not_before = date_time_ymd(2019, 1, 1);
            params.not_after = date_time_ymd(2020, 1, 1);
        });
        assert_fault(&lab, &ca, &identity, "tls_expired").await;
    });
}

#[test]
fn a_certificate_that_is_not_valid_yet() {
    lab::run(async |lab| {
        let ca = lab.ca("ca");
        let identity = ca.server_with(&NAMES, |params| {
            params.not_before = date_time_ymd(2090, 1, 1);
            params.not_after = date_time_ymd(2091, 1, 1);
        });
        assert_fault(&lab, &ca, &identity, "tls_not_yet_valid").await;
    });
}

#[test]
fn a_certificate_for_another_host() {
    lab::run(async |lab| {
        let ca = lab.ca("ca");
        let identity = ca.server(&["other.example", "*.acme.example", "*.api.github.com"]);
        assert_fault(&lab, &ca, &identity, "tls_hostname_mismatch").await;
    });
}

#[test]
fn an_issuer_that_nobody_knows_is_named() {
    lab::run(async |lab| {
        let ca = lab.ca("ca");
        let stranger = lab.ca("Stranger Root");
        assert_fault(&lab, &ca, &stranger.server(&NAMES), "tls_unknown_issuer").await;
        let gateway = both(&lab, &ca, |config| config).await;
        let tls = stranger.server(&NAMES).server_config();
        let _origin = Origin::start((PUBLIC, 443), Some(tls), |_| ok(""));
        let detail = gateway.get("http://acme.example/").await.json()["detail"].to_string();
        assert!(detail.contains("Stranger Root"), "{detail}");
    });
}

#[test]
fn an_intermediate_that_the_target_forgot() {
    lab::run(async |lab| {
        let ca = lab.ca("ca");
        // As public authorities write it: caIssuers at http://i.example/i (RFC 5280, 4.2.2.1).
        let uri = b"http://i.example/i";
        let length = |more: usize| u8::try_from(uri.len() + more).unwrap();
        let mut access = vec![0x30, length(14), 0x30, length(12), 0x06, 8];
        access.extend([0x2b, 6, 1, 5, 5, 7, 0x30, 2, 0x86, length(0)]);
        access.extend(uri);
        let identity = ca.below("Issuing Authority").server_with(&NAMES, |params| {
            let extension = CustomExtension::from_oid_content(&[1, 3, 6, 1, 5, 5, 7, 1, 1], access);
            params.custom_extensions = vec![extension];
        });
        assert_fault(&lab, &ca, &identity, "tls_incomplete_chain").await;
    });
}

#[test]
fn a_certificate_that_is_not_for_servers() {
    lab::run(async |lab| {
        let ca = lab.ca("ca");
        let identity = ca.server_with(&NAMES, |params| {
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        });
        assert_fault(&lab, &ca, &identity, "tls_wrong_usage").await;
    });
}

#[test]
fn a_key_that_is_not_pinned() {
    lab::run(async |lab| {
        let ca = lab.ca("ca");
        let origin =
            Origin::start((PUBLIC, 443), Some(ca.server(&NAMES).server_config()), |_| ok(""));
        let pins = "tls = { pins = [\"sha256//AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\"] }";
        lab.dns.addresses("acme.example", &[PUBLIC]);
        let config = lab.config().trusting(&ca);
        let config = config.self_hosted_with("acme", "https://acme.example", pins);
        let gateway = lab.gateway(&config).await;
        let event =
            gateway.refuse_get("http://acme.example/", (502, INVALID, "tls_pin_mismatch")).await;
        // The detail is the pin that would be right.
        let detail = event.text("detail");
        let right = detail.split_whitespace().find(|word| word.starts_with("sha256//")).unwrap();
        assert!(origin.requests().is_empty());
        let pins = format!("tls = {{ pins = [\"{right}\"] }}");
        let config = lab.config().trusting(&ca);
        let config = config.self_hosted_with("acme", "https://acme.example", &pins);
        gateway.reload(&config).await;
        assert_eq!(gateway.get("http://acme.example/").await.status, 200);
    });
}

#[test]
fn a_client_certificate_is_wanted_and_then_given() {
    lab::run(async |lab| {
        let ca = lab.ca("ca");
        let clients = lab.ca("clients");
        for alpn in [&["http/1.1"][..], &["h2"][..]] {
            let server = ca.server(&NAMES);
            let tls = server.server_config_for(&clients, alpn);
            let origin: Origin = if alpn == ["h2"] {
                Origin::http2((PUBLIC, 443), tls)
            } else {
                Origin::start((PUBLIC, 443), Some(tls), |_| ok(""))
            };
            let gateway = both(&lab, &ca, |config| config).await;
            let wanted = "tls_client_certificate";
            eprintln!("{alpn:?}");
            for _ in 0..3 {
                gateway.refuse_get("http://acme.example/", (502, INVALID, wanted)).await;
                gateway.refuse_get("http://api.github.com/", (502, UNREACHABLE, wanted)).await;
            }
            assert!(origin.requests().is_empty());
            let own = clients.client("spiffe://gateway");
            let fields = format!(
                "tls = {{ client_cert_file = \"{}\", client_key_file = \"{}\" }}",
                own.cert_file.display(),
                own.key_file.display()
            );
            let config = lab.config().trusting(&ca);
            let config = config.self_hosted_with("acme", "https://acme.example", &fields);
            gateway.reload(&config).await;
            assert_eq!(gateway.get("http://acme.example/").await.status, 200, "{alpn:?}");
        }
    });
}

/// A server that answers the first bytes of TLS with these, and closes.
fn instead_of_tls(said: &'static [u8]) -> Receiver {
    Receiver::with((PUBLIC, 443), async move |mut guest| {
        drop(guest.read().await);
        drop(guest.write(said).await);
        guest.finish().await;
        while guest.read().await.is_some() {}
    })
}

#[test]
fn a_target_that_knows_only_old_tls() {
    lab::run(async |lab| {
        let ca = lab.ca("ca");
        let gateway = both(&lab, &ca, |config| config).await;
        // A fatal alert, protocol_version, in a record of TLS 1.1.
        let _receiver = instead_of_tls(b"\x15\x03\x02\x00\x02\x02\x46");
        gateway.refuse_get("http://acme.example/", (502, INVALID, "tls_version")).await;
        gateway.refuse_get("http://api.github.com/", (502, UNREACHABLE, "tls_version")).await;
    });
}

#[test]
fn a_target_that_does_not_speak_tls() {
    lab::run(async |lab| {
        let ca = lab.ca("ca");
        let gateway = both(&lab, &ca, |config| config).await;
        let _receiver = instead_of_tls(b"HTTP/1.1 400 Bad Request\r\n\r\n");
        gateway.refuse_get("http://acme.example/", (502, INVALID, "tls_handshake")).await;
        gateway.refuse_get("http://api.github.com/", (502, UNREACHABLE, "tls_handshake")).await;
    });
}

#[test]
fn a_target_that_closes_before_it_answers_in_tls_shows_a_missing_allowlist() {
    lab::run(async |lab| {
        let ca = lab.ca("ca");
        let gateway = both(&lab, &ca, |config| config).await;
        let missing = "SELF_HOSTED_ALLOWLIST_MISSING";
        let word = "reset_before_server_hello";
        for reset in [true, false] {
            let _receiver = Receiver::with((PUBLIC, 443), move |mut guest| async move {
                drop(guest.read().await);
                if reset {
                    guest.reset();
                }
            });
            gateway.refuse_get("http://acme.example/", (502, missing, word)).await;
            gateway.refuse_get("http://api.github.com/", (502, UNREACHABLE, word)).await;
        }
    });
}

#[test]
fn a_handshake_that_stalls_is_a_firewall_s_doing() {
    lab::run(async |lab| {
        let ca = lab.ca("ca");
        let gateway = both(&lab, &ca, |config| config).await;
        let _receiver = Receiver::silent((PUBLIC, 443));
        let blocked = (504, "SELF_HOSTED_FIREWALL_BLOCKED", "tls_timeout");
        gateway.refuse_get("http://acme.example/", blocked).await;
        let unreachable = (504, UNREACHABLE, "tls_timeout");
        gateway.refuse_get("http://api.github.com/", unreachable).await;
    });
}

#[test]
fn a_target_s_own_roots_are_trusted_for_it_alone() {
    lab::run(async |lab| {
        let own = lab.ca("own");
        let identity = own.server(&["acme.example", "other.example"]);
        let tls: Tls = Some(identity.server_config());
        let _origin = Origin::start((PUBLIC, 443), tls, |_| ok("trusted"));
        for name in ["acme.example", "other.example"] {
            lab.dns.addresses(name, &[PUBLIC]);
        }
        let fields = format!("tls = {{ ca_file = \"{}\" }}", own.file.display());
        let config = lab
            .config()
            .self_hosted_with("acme", "https://acme.example", &fields)
            .self_hosted("other", "https://other.example");
        let gateway = lab.gateway(&config).await;
        assert_eq!(gateway.get("http://acme.example/").await.body, b"trusted");
        let unknown = (502, INVALID, "tls_unknown_issuer");
        gateway.refuse_get("http://other.example/", unknown).await;
    });
}

#[test]
fn another_name_is_verified_where_the_target_says_so() {
    lab::run(async |lab| {
        let ca = lab.ca("ca");
        let tls = Some(ca.server(&["inner.example"]).server_config());
        let origin = Origin::start((PUBLIC, 443), tls, |_| ok(""));
        lab.dns.addresses("acme.example", &[PUBLIC]);
        let named = "tls = { server_name = \"inner.example\" }";
        let config = lab.config().trusting(&ca);
        let gateway =
            lab.gateway(&config.self_hosted_with("acme", "https://acme.example", named)).await;
        assert_eq!(gateway.get("http://acme.example/").await.status, 200);
        assert_eq!(origin.only().field("host"), Some("acme.example"));
    });
}
