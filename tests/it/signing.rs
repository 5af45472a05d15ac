//! Bodies that are signed on the way: whole, unchanged, or not sent at all.

use crate::support::{
    gateway::{Gateway, program},
    http::{Conn, Request, request_head},
    lab::{self, Lab, PUBLIC},
    origin::{Origin, ok},
};
use std::path::Path;

const SECRET: &str = "a-signing-secret-of-some-length";

async fn scene(lab: &Lab, fields: &str) -> (Origin, Gateway) {
    let (ca, tls) = lab.acme();
    let origin = Origin::start((PUBLIC, 443), tls, |_| ok("thanks"));
    let secret = lab.secret("hook.secret", SECRET);
    let fields = format!("signing_secret = {{ file = \"{}\" }}\n{fields}", secret.display());
    let config = lab.config().trusting(&ca).set("limits.max_signed_body", "64KiB");
    let gateway =
        lab.gateway(&config.webhook("hook", "https://acme.example/in?k=v", &fields)).await;
    (origin, gateway)
}

/// Whether the program's own `verify` takes this delivery.
async fn verifies(dir: &Path, request: &Request) -> bool {
    let body = dir.join("body");
    std::fs::write(&body, &request.body).unwrap();
    let mut command = program();
    command.arg("verify").arg("--secret-file").arg(dir.join("hook.secret"));
    for (name, value) in &request.fields {
        command.arg("--header").arg(format!("{name}: {value}"));
    }
    command.arg(&body);
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    output.status.success()
}

#[test]
fn a_delivery_is_signed_and_its_bytes_stay_as_they_are() {
    lab::run(async |lab| {
        let (origin, gateway) = scene(&lab, "").await;
        let binary: Vec<u8> = (0..=255).chain([0x1f, 0x8b, 0, b'\r', b'\n']).collect();
        let bodies: [&[u8]; 4] =
            [b"{\"b\" : 1,\r\n \"a\":2 }", b"", &binary, b"\xff\xfe not UTF-8"];
        for (n, body) in bodies.into_iter().enumerate() {
            let n = n.to_string();
            let fields = [
                ("Content-Encoding", "gzip"),
                ("X-WebRiskOps-Signature", "sha256=forged"),
                ("X_WebRiskOps_Signature", "sha256=forged"),
                ("webhook_signature", "v1,forged"),
                ("X-WebRiskOps-Idempotency-Key", n.as_str()),
                ("Connection", "X-WebRiskOps-Signature"),
            ];
            let reply = gateway.fetch("POST", "/targets/hook", &fields, body).await;
            assert_eq!((reply.status, reply.body.as_slice()), (200, &b"thanks"[..]));
            let request = origin.requests().pop().unwrap();
            assert_eq!(request.body, body);
            assert_eq!(request.line, "POST /in?k=v HTTP/1.1");
            assert!(!request.names().iter().any(|name| name.contains('_')), "{request:?}");
            assert_eq!(
                request.names().iter().filter(|name| **name == "x-webriskops-signature").count(),
                1
            );
            assert!(verifies(lab.dir(), &request).await, "{request:?}");
            let mut other = request.clone();
            other.body.push(b'x');
            assert!(!verifies(lab.dir(), &other).await, "a changed body verifies");
        }
    });
}

#[test]
fn a_body_of_unknown_length_is_signed_whole() {
    lab::run(async |lab| {
        let (origin, gateway) = scene(&lab, "").await;
        let head = request_head("POST", "/targets/hook", &[("Transfer-Encoding", "chunked")], 0);
        let reply = gateway.ask(head + "3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n").await.reply;
        assert_eq!(reply.status, 200, "{reply:?}");
        let request = origin.only();
        assert_eq!(
            (request.body.as_slice(), request.field("content-length")),
            (&b"abcde"[..], Some("5"))
        );
        assert_eq!(request.field("transfer-encoding"), None);
        assert!(verifies(lab.dir(), &request).await, "{request:?}");
    });
}

#[test]
fn a_body_above_the_limit_is_refused_before_anything_is_dialled() {
    lab::run(async |lab| {
        let (origin, gateway) = scene(&lab, "").await;
        let expected = (413, "GATEWAY_BODY_TOO_LARGE", "body_too_large");
        // By its declared length, without waiting for it: no 100 is given either.
        let expects = [("Expect", "100-continue")];
        let reply =
            gateway.ask(request_head("POST", "/targets/hook", &expects, 64 * 1024 + 1)).await;
        gateway.assert_refused(&reply.reply, expected).await;
        let mut conn = Conn::open(gateway.proxy).await;
        conn.send(request_head("POST", "/targets/hook", &[("Transfer-Encoding", "chunked")], 0))
            .await;
        let chunk = format!("{:x}\r\n{}\r\n", 60_000, "a".repeat(60_000));
        drop(conn.try_send(chunk.repeat(2)).await);
        gateway.assert_refused(&conn.reply().await, expected).await;
        assert_eq!(lab.dns.asked(), Vec::<String>::new());
        origin.assert_not_reached();
        // At the limit it goes.
        let body = vec![b'a'; 64 * 1024];
        assert_eq!(gateway.fetch("POST", "/targets/hook", &[], &body).await.status, 200);
    });
}

#[test]
fn a_body_that_ends_early_is_never_sent() {
    lab::run(async |lab| {
        let (origin, gateway) = scene(&lab, "").await;
        let chunked = [("Transfer-Encoding", "chunked")];
        for cut in [
            request_head("POST", "/targets/hook", &[], 10) + "12345",
            request_head("POST", "/targets/hook", &chunked, 0) + "5\r\n12345\r\n",
            request_head("POST", "/targets/hook", &chunked, 0) + "5\r\n12345\r\nzz\r\n",
        ] {
            let mut conn = Conn::open(gateway.proxy).await;
            conn.send(cut).await;
            conn.finish().await;
            let expected = (400, "GATEWAY_REQUEST_INVALID", "request_body_broken");
            gateway.assert_refused(&conn.reply().await, expected).await;
        }
        assert_eq!(lab.dns.asked(), Vec::<String>::new());
        origin.assert_not_reached();
    });
}

/// Header fields, body, and the cause of the refusal.
type Row<'a> = (&'a [(&'a str, &'a str)], &'a [u8], &'a str);

#[test]
fn a_delivery_that_says_two_things_is_refused() {
    lab::run(async |lab| {
        let (origin, gateway) = scene(&lab, "").await;
        let wrong: [Row<'_>; 4] = [
            (&[("X-WebRiskOps-Timestamp", "1000000000")], b"{}", "webhook_timestamp_off"),
            (&[("X-WebRiskOps-Nonce", "a.b")], b"{}", "webhook_field_invalid"),
            (
                &[("X-WebRiskOps-Idempotency-Key", "a")],
                b"{\"idempotency_key\":\"b\"}",
                "webhook_fields_differ",
            ),
            (
                &[("X-WebRiskOps-Nonce", "a"), ("X-WebRiskOps-Nonce", "b")],
                b"{}",
                "webhook_field_repeated",
            ),
        ];
        for (fields, body, cause) in wrong {
            let reply = gateway.fetch("POST", "/targets/hook", fields, body).await;
            let expected = (400, "GATEWAY_REQUEST_INVALID", cause);
            gateway.assert_refused(&reply, expected).await;
        }
        origin.assert_not_reached();
    });
}

#[test]
fn a_webhook_without_a_secret_is_refused_before_its_name_is_resolved() {
    lab::run(async |lab| {
        let (ca, _) = lab.acme();
        let config = lab.config().trusting(&ca).webhook("hook", "https://acme.example/in", "");
        let gateway = lab.gateway(&config).await;
        let reply = gateway.fetch("POST", "/targets/hook", &[], b"{}").await;
        let expected = (403, "generic_webhook_secret_missing", "signing_secret_missing");
        gateway.assert_refused(&reply, expected).await;
        assert_eq!(lab.dns.asked(), Vec::<String>::new());
    });
}
