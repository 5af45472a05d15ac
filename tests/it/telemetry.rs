//! One event a request, and metrics that a Prometheus server takes.

use crate::support::{
    eventually,
    gateway::{Event, Gateway},
    http::{Conn, connect_head},
    lab::{self, EGRESS, PUBLIC},
    receiver::Receiver,
};
use std::collections::BTreeSet;

/// Every family of the contract's section 12 that this much of the gateway feeds, and its type.
const FAMILIES: [(&str, &str); 12] = [
    ("egress_requests_total", "counter"),
    ("egress_request_duration_seconds", "histogram"),
    ("egress_dns_duration_seconds", "histogram"),
    ("egress_connect_duration_seconds", "histogram"),
    ("egress_bytes_total", "counter"),
    ("egress_connections", "gauge"),
    ("egress_tunnels_open", "gauge"),
    ("egress_policy_violations_total", "counter"),
    ("egress_config_reloads_total", "counter"),
    ("egress_config_last_reload_success_timestamp_seconds", "gauge"),
    ("egress_build_info", "gauge"),
    ("process_start_time_seconds", "gauge"),
];

/// The label names of each family; nothing else may appear.
const LABELS: [(&str, &[&str]); 8] = [
    ("egress_requests_total", &["mode", "decision", "code"]),
    ("egress_request_duration_seconds", &["mode"]),
    ("egress_dns_duration_seconds", &[]),
    ("egress_connect_duration_seconds", &["route"]),
    ("egress_bytes_total", &["mode", "direction"]),
    ("egress_connections", &["kind"]),
    ("egress_tunnels_open", &[]),
    ("egress_policy_violations_total", &["cause"]),
];

/// One allowed tunnel, then refusals of several kinds.
async fn some_traffic(gateway: &Gateway) {
    let mut tunnel = gateway.tunnel("acme.example:443").await;
    tunnel.send("x").await;
    assert_eq!(tunnel.take(1).await, b"x");
    tunnel.finish().await;
    tunnel.until_closed().await;
    for number in 0..30 {
        gateway.connect(&format!("unknown-{number}.example:443")).await;
    }
    gateway.ask("NONSENSE\r\n\r\n").await;
}

#[test]
fn a_scrape_is_complete_and_well_formed() {
    lab::run(async |lab| {
        let _receiver = Receiver::echo((PUBLIC, 443));
        let gateway = lab.gateway_with_acme().await;
        some_traffic(&gateway).await;
        let reply = gateway.admin("/metrics").await;
        let kind = reply.field("content-type").unwrap().to_owned();
        assert!(kind.starts_with("text/plain; version=0.0.4"), "{kind}");
        let metrics = gateway.metrics().await;
        for (family, kind) in FAMILIES {
            assert_eq!(metrics.types.get(family).map(String::as_str), Some(kind), "{family}");
        }
        for family in metrics.families() {
            assert!(metrics.types.contains_key(&family), "{family} has no type");
            let help = metrics.help.get(&family).map_or("", String::as_str);
            assert!(!help.is_empty(), "{family} has no help");
            assert!(
                family.starts_with("egress_") || family.starts_with("process_"),
                "{family} has a name of its own"
            );
            let counter = metrics.types[&family] == "counter";
            assert_eq!(counter, family.ends_with("_total"), "{family}");
            for unit in ["_ms", "_milliseconds", "_minutes", "_kb", "_percent"] {
                assert!(!family.trim_end_matches("_total").ends_with(unit), "{family}");
            }
        }
        for (family, allowed) in LABELS {
            let allowed: BTreeSet<&str> = allowed.iter().copied().chain(["le"]).collect();
            let of_family = metrics.samples.iter().filter(|one| one.name.starts_with(family));
            for label in of_family.flat_map(|one| one.labels.keys()) {
                assert!(allowed.contains(label.as_str()), "{family} has a label {label}");
            }
        }
        let build = metrics.samples.iter().find(|one| one.name == "egress_build_info").unwrap();
        assert_eq!(build.labels["version"], env!("CARGO_PKG_VERSION"));
    });
}

#[test]
fn requests_are_counted_by_mode_decision_and_code_and_by_nothing_that_grows() {
    lab::run(async |lab| {
        let _receiver = Receiver::echo((PUBLIC, 443));
        let gateway = lab.gateway_with_acme().await;
        some_traffic(&gateway).await;
        let unsafe_url =
            [("mode", "connect"), ("decision", "refused"), ("code", "SELF_HOSTED_BASE_URL_UNSAFE")];
        gateway.wait_metric("egress_requests_total", &unsafe_url, |count| count == 30.0).await;
        let allowed = [("mode", "connect"), ("decision", "allowed")];
        gateway.wait_metric("egress_requests_total", &allowed, |count| count == 1.0).await;
        let invalid = [("decision", "refused"), ("code", "GATEWAY_REQUEST_INVALID")];
        gateway.wait_metric("egress_requests_total", &invalid, |count| count == 1.0).await;
        let no_target = [("cause", "no_target")];
        gateway
            .wait_metric("egress_policy_violations_total", &no_target, |count| count == 30.0)
            .await;
        let text = String::from_utf8(gateway.admin("/metrics").await.body).unwrap();
        assert!(!text.contains("unknown-") && !text.contains("acme.example"), "{text}");
    });
}

#[test]
fn the_event_of_a_tunnel_tells_its_whole_way() {
    lab::run(async |lab| {
        let _receiver = Receiver::echo((PUBLIC, 443));
        let gateway = lab.gateway_with_acme().await;
        let mut tunnel = gateway.tunnel("acme.example:443").await;
        tunnel.finish().await;
        tunnel.until_closed().await;
        let event = gateway.wait_event("the tunnel's", Event::is_canonical).await;
        assert_eq!(event.text("decision"), "allowed", "{event:?}");
        assert_eq!(event.text("mode"), "connect");
        assert_eq!(event.text("method"), "CONNECT");
        assert_eq!(event.text("target"), "acme");
        assert_eq!(event.text("authority"), "acme.example:443");
        assert_eq!(event.text("pinned"), format!("{PUBLIC}:443"));
        assert_eq!(event.text("route"), "direct");
        assert_eq!(event.number("status"), 200);
        for timing in ["auth", "policy", "dns", "connect", "total"] {
            assert!(event.get(timing).is_number(), "no {timing} in {event:?}");
        }
    });
}

#[test]
fn every_request_has_exactly_one_event_also_when_the_client_vanishes() {
    lab::run(async |lab| {
        let _receiver = Receiver::echo((PUBLIC, 443));
        let gateway = lab.gateway_with_acme().await;
        lab.dns.hold();
        // One client resets while its name is resolved, one closes.
        for reset in [true, false] {
            let mut conn = Conn::open(gateway.proxy).await;
            let asked = lab.dns.asked().len();
            conn.send(connect_head("acme.example:443", &[])).await;
            if reset {
                eventually("the name is asked for", async || {
                    (lab.dns.asked().len() > asked).then_some(())
                })
                .await;
                conn.reset();
            }
        }
        lab.dns.release();
        gateway.assert_recorded(2).await;

        // One whose tunnel stands is reset, one is closed.
        let mut tunnels =
            [gateway.tunnel("acme.example:443").await, gateway.tunnel("acme.example:443").await];
        for tunnel in &mut tunnels {
            tunnel.send("x").await;
            assert_eq!(tunnel.take(1).await, b"x");
        }
        let [first, second] = tunnels;
        first.reset();
        drop(second);
        gateway.assert_recorded(4).await;

        // A head that never ends is a request that was refused; one that never began is none.
        let mut half = Conn::open(gateway.proxy).await;
        half.send("CONNECT acme.exam").await;
        drop(half);
        drop(Conn::open(gateway.proxy).await);
        gateway.tunnel("acme.example:443").await;
        eventually("the last tunnel is recorded", async || {
            (gateway.canonical().len() >= 5).then_some(())
        })
        .await;
        let ids: BTreeSet<String> =
            gateway.canonical().iter().map(|one| one.text("decision_id").to_owned()).collect();
        assert_eq!(ids.len(), gateway.canonical().len(), "a decision was told twice");
        gateway.wait_metric("egress_tunnels_open", &[], |open| open == 0.0).await;
    });
}

#[test]
fn every_line_of_the_log_is_json() {
    lab::run(async |lab| {
        let _receiver = Receiver::echo((PUBLIC, 443));
        let mut gateway = lab.gateway_with_acme().await;
        some_traffic(&gateway).await;
        gateway.signal("TERM");
        gateway.ended().await;
        let text = gateway.log_text();
        assert!(text.lines().count() >= 30);
        for line in text.lines() {
            assert!(serde_json::from_str::<serde_json::Value>(line).is_ok(), "{line}");
        }
    });
}

#[test]
fn a_hostile_authority_cannot_forge_a_log_line_or_a_field() {
    lab::run(async |lab| {
        let gateway = lab.gateway_with_acme().await;
        let forged = "x\"},\"decision\":\"allowed\",\"decision_id\":\"forged:443";
        let reply = gateway.connect(forged).await.reply;
        assert_eq!(reply.status, 400);
        assert_eq!(
            gateway.wait_event("the refusal", Event::is_canonical).await.text("decision"),
            "refused"
        );
        assert!(gateway.events().iter().all(|event| event.text("decision_id") != "forged:443"));
        // Nor can a target's id or a field end a header early.
        let fields = [("X-WebRiskOps-Target", "a\"; error=forged; b=\"")];
        let reply = gateway.connect_with("evil.example:443", &fields).await.reply;
        assert!(!reply.field("proxy-status").unwrap().contains("forged"), "{reply:?}");
    });
}

#[test]
fn customers_can_be_told_what_to_allowlist() {
    lab::run(async |lab| {
        let config = lab.config().set_toml("egress.ranges", "[\"203.0.114.8/29\"]");
        let gateway = lab.gateway(&config).await;
        let egress = gateway.admin("/v1/egress").await.json();
        let text = egress.to_string();
        assert!(egress["egress_ip"].to_string().contains(&EGRESS.to_string()), "{text}");
        assert_eq!(egress["ranges"][0], "203.0.114.8/29", "{text}");
        assert_eq!(egress["version"], env!("CARGO_PKG_VERSION"), "{text}");
    });
}

#[test]
fn the_reference_lists_are_served() {
    lab::run(async |lab| {
        let gateway = lab.gateway(&lab.config()).await;
        let providers = gateway.admin("/v1/providers").await.json();
        let providers = providers["items"].as_array().unwrap();
        assert!(providers.len() >= 21, "{} providers", providers.len());
        let reasons = gateway.admin("/v1/reasons").await.json();
        let reasons = reasons["items"].as_array().unwrap();
        let codes: BTreeSet<&str> =
            reasons.iter().filter_map(|reason| reason["code"].as_str()).collect();
        for code in ["SELF_HOSTED_BASE_URL_UNSAFE", "GATEWAY_OVERLOADED", "PROVIDER_AUTH_REQUIRED"]
        {
            assert!(codes.contains(code), "{codes:?}");
        }
        for reason in reasons {
            for field in ["meaning", "owner", "next_step"] {
                assert!(!reason[field].is_null(), "no {field} in {reason}");
            }
        }
    });
}

#[test]
fn the_admin_listener_knows_its_own_names() {
    lab::run(async |lab| {
        let config = lab.config().set_toml("admin.hosts", "[\"egress.internal\"]");
        let gateway = lab.gateway(&config).await;
        let ask = async |host: &str| {
            let mut conn = Conn::open(gateway.admin).await;
            let head =
                format!("GET /v1/egress HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
            conn.send(head).await;
            conn.reply().await
        };
        for host in ["127.0.0.1", "[::1]:9128", "localhost", "egress.internal", "10.0.0.1:9128"] {
            assert_eq!(ask(host).await.status, 200, "{host}");
        }
        // DNS rebinding of the admin listener itself needs a name.
        for host in ["evil.example", "localhost.evil.example", "egress.internal.evil.example", ""] {
            let reply = ask(host).await;
            assert!((400..500).contains(&reply.status), "{host}: {reply:?}");
        }
    });
}

#[test]
fn the_admin_listener_asks_for_its_tokens() {
    lab::run(async |lab| {
        let token = lab.secret("admin.token", "an-admin-token-0815");
        let tokens = format!(
            "[{{ name = \"sre\", role = \"read\", token = {{ file = \"{}\" }} }}]",
            token.display()
        );
        let gateway = lab.gateway(&lab.config().set_toml("admin.tokens", &tokens)).await;
        for open in ["/healthz", "/readyz", "/metrics"] {
            assert_eq!(gateway.admin(open).await.status, 200, "{open}");
        }
        for closed in ["/v1/egress", "/v1/providers", "/v1/reasons"] {
            assert_eq!(gateway.admin(closed).await.status, 401, "{closed}");
            let wrong = [("Authorization", "Bearer wrong")];
            assert_eq!(gateway.admin_with(closed, &wrong).await.status, 401, "{closed}");
            let right = [("Authorization", "Bearer an-admin-token-0815")];
            assert_eq!(gateway.admin_with(closed, &right).await.status, 200, "{closed}");
        }
    });
}
