//! CONNECT's `host:port`: read in exactly one way, or refused.

use crate::support::{
    canary::Canary,
    config::Config,
    gateway::Gateway,
    h2::H2,
    http::{Conn, Reply, connect_head},
    lab::{self, Lab, PUBLIC},
    receiver::Receiver,
};
use serde::Deserialize;

/// What a client wrote, and the status that must come of it.
#[derive(Deserialize)]
struct Case {
    row: u32,
    connect: String,
    status: u16,
}

#[derive(Deserialize)]
struct Cases {
    case: Vec<Case>,
}

/// The rows of `tests/cases/authorities.toml`.
fn cases() -> Vec<Case> {
    let text = include_str!("../cases/authorities.toml");
    let cases: Cases = toml::from_str(text).unwrap();
    assert!(cases.case.len() >= 100, "only {} cases", cases.case.len());
    cases.case
}

fn config(lab: &Lab) -> Config {
    lab.dns.addresses("allowed.example", &[PUBLIC]);
    lab.config()
        .self_hosted("allowed", "https://allowed.example")
        .self_hosted("allowed-80", "https://allowed.example:80")
}

/// A refusal with this status: the code and cause follow from it.
async fn assert_refused(gateway: &Gateway, reply: &Reply, case: &Case) {
    let code = match case.status {
        400 => "GATEWAY_REQUEST_INVALID",
        _ => "SELF_HOSTED_BASE_URL_UNSAFE",
    };
    assert_eq!(reply.status, case.status, "row {}, {:?}: {reply:?}", case.row, case.connect);
    gateway.assert_refused(reply, (case.status, code, "")).await;
}

#[test]
fn an_authority_is_read_in_exactly_one_way() {
    lab::run(async |lab| {
        let canary = Canary::everywhere(&[80, 443]);
        let receiver = Receiver::echo((PUBLIC, 443));
        let gateway = lab.gateway(&config(&lab)).await;
        let mut opened = 0;
        for case in cases() {
            let asked = lab.dns.asked().len();
            let mut conn = Conn::open(gateway.proxy).await;
            conn.send(connect_head(&case.connect, &[])).await;
            let reply = conn.reply().await;
            if case.status == 200 {
                assert_eq!(reply.status, 200, "row {}, {:?}: {reply:?}", case.row, case.connect);
                opened += 1;
            } else {
                assert_refused(&gateway, &reply, &case).await;
                assert_eq!(lab.dns.asked().len(), asked, "{:?} was resolved", case.connect);
            }
        }
        assert!(opened > 1, "no case that passes");
        canary.assert_silent().await;
        crate::support::eventually(
            "every tunnel that was opened arrives, and no other",
            async || (receiver.visits().len() == opened).then_some(()),
        )
        .await;
    });
}

#[test]
fn http2_reads_an_authority_in_the_same_way() {
    lab::run(async |lab| {
        let canary = Canary::everywhere(&[80, 443]);
        let _receiver = Receiver::echo((PUBLIC, 443));
        let gateway = lab.gateway(&config(&lab)).await;
        let mut sent = 0;
        for case in cases() {
            // What this client's own parser accepts; the rest it cannot send.
            let sendable = case
                .connect
                .parse::<http::Uri>()
                .is_ok_and(|uri| uri.authority().is_some_and(|own| own.as_str() == case.connect));
            if !sendable {
                continue;
            }
            sent += 1;
            let client = H2::open(gateway.proxy).await;
            match client.connect(&case.connect, &[]).await {
                Ok(_) => assert_eq!(case.status, 200, "{:?} was let through", case.connect),
                Err(reply) => assert_refused(&gateway, &reply, &case).await,
            }
        }
        assert!(sent >= 30, "only {sent} cases were sent");
        canary.assert_silent().await;
    });
}

#[test]
fn a_name_longer_than_dns_allows_is_refused() {
    lab::run(async |lab| {
        let gateway = lab.gateway(&config(&lab)).await;
        let label = "a".repeat(63);
        for name in [[label.as_str(); 4].join("."), "a.".repeat(5000) + "a"] {
            let reply = gateway.connect(&format!("{name}:443")).await.reply;
            gateway
                .assert_refused(&reply, (400, "GATEWAY_REQUEST_INVALID", "authority_invalid"))
                .await;
        }
        assert_eq!(lab.dns.asked().len(), 0);
    });
}

#[test]
fn the_ports_that_browsers_refuse_are_refused() {
    lab::run(async |lab| {
        let canary = Canary::everywhere(&[22, 25, 6667]);
        let gateway = lab.gateway(&config(&lab)).await;
        for port in [22, 25, 6667] {
            let reply = gateway.connect(&format!("allowed.example:{port}")).await.reply;
            assert!([400, 403].contains(&reply.status), "port {port}: {reply:?}");
        }
        canary.assert_silent().await;
    });
}

#[test]
fn a_host_field_at_odds_with_the_authority_is_refused() {
    lab::run(async |lab| {
        let receiver = Receiver::echo((PUBLIC, 443));
        let gateway = lab.gateway(&config(&lab)).await;
        for host in [
            "evil.example:443",
            "evil.example",
            "allowed.example:80",
            "",
            "allowed.example:443, evil.example",
        ] {
            let head = format!("CONNECT allowed.example:443 HTTP/1.1\r\nHost: {host}\r\n\r\n");
            let reply = gateway.ask(head).await.reply;
            gateway.assert_refused(&reply, (400, "GATEWAY_REQUEST_INVALID", "")).await;
        }
        receiver.assert_not_reached();
    });
}
