//! Heads that two parsers could read differently (BYPASSES, section F).

use crate::support::{
    http::{Conn, connect_head},
    lab::{self, PUBLIC},
    receiver::Receiver,
};
use serde::Deserialize;

#[derive(Deserialize)]
struct Case {
    name: String,
    row: u32,
    head: String,
}

#[derive(Deserialize)]
struct Cases {
    case: Vec<Case>,
}

#[test]
fn a_head_that_two_parsers_could_read_differently_is_answered_with_400() {
    lab::run(async |lab| {
        let cases: Cases = toml::from_str(include_str!("../cases/heads.toml")).unwrap();
        assert!(cases.case.len() >= 37, "only {} cases", cases.case.len());
        let receiver = Receiver::echo((PUBLIC, 443));
        lab.dns.addresses("allowed.example", &[PUBLIC]);
        let gateway =
            lab.gateway(&lab.config().self_hosted("allowed", "https://allowed.example")).await;
        for Case { name, row, head } in cases.case {
            let mut conn = Conn::open(gateway.proxy).await;
            // What follows must not be read as a request, whatever the head was taken for.
            conn.send(head + &connect_head("allowed.example:443", &[])).await;
            let reply = conn.reply().await;
            assert_eq!(reply.status, 400, "row {row}, {name}: {reply:?}");
            gateway.assert_refused(&reply, (400, "GATEWAY_REQUEST_INVALID", "")).await;
            assert_eq!(conn.until_closed().await, b"", "row {row}, {name}: a second answer");
        }
        receiver.assert_not_reached();
        assert_eq!(lab.dns.asked(), Vec::<String>::new());
    });
}

#[test]
fn fields_of_other_proxies_change_nothing() {
    lab::run(async |lab| {
        let receiver = Receiver::echo((PUBLIC, 443));
        let gateway = lab.gateway_with_acme().await;
        // BYPASSES 75, 85, 89: none of these chooses a way, a client or an address here.
        let fields = [
            ("X-Upstream-Https-Proxy", "http://10.20.0.5:3128"),
            ("X-Forwarded-For", "127.0.0.1"),
            ("X-Forwarded-Host", "evil.example"),
            ("Forwarded", "for=127.0.0.1;host=evil.example"),
            ("X-Real-IP", "127.0.0.1"),
            ("Connection", "X-WebRiskOps-Target, Host"),
            ("Proxy-Connection", "keep-alive"),
            ("Upgrade", "websocket"),
        ];
        let mut exchange = gateway.connect_with("acme.example:443", &fields).await;
        assert_eq!(exchange.reply.status, 200, "{:?}", exchange.reply);
        exchange.conn.send("bytes").await;
        assert_eq!(exchange.conn.take(5).await, b"bytes");
        assert_eq!(receiver.visits()[0].bytes, b"bytes", "a field reached the target");
    });
}

#[test]
fn a_200_to_connect_promises_no_body() {
    lab::run(async |lab| {
        let _receiver = Receiver::echo((PUBLIC, 443));
        let gateway = lab.gateway_with_acme().await;
        let reply = gateway.connect("acme.example:443").await.reply;
        // RFC 9110, section 9.3.6.
        assert_eq!(reply.status, 200);
        assert_eq!(reply.field("content-length"), None, "{reply:?}");
        assert_eq!(reply.field("transfer-encoding"), None, "{reply:?}");
    });
}

#[test]
fn a_refusal_never_repeats_what_the_client_sent() {
    lab::run(async |lab| {
        let gateway = lab.gateway_with_acme().await;
        // BYPASSES 99: Squid's CVE-2025-62168 echoed Authorization into its error page.
        let fields = [
            ("Authorization", "Bearer customer-token-dahlia"),
            ("Cookie", "session=customer-session-dahlia"),
            ("Proxy-Authorization", "Bearer client-token-dahlia"),
        ];
        let reply = gateway.connect_with("evil.example:443", &fields).await.reply;
        assert_eq!(reply.status, 403);
        let whole =
            format!("{reply:?}{}{}", String::from_utf8_lossy(&reply.body), gateway.log_text());
        assert!(!whole.contains("dahlia"), "{whole}");
    });
}
