//! Webhook deliveries: signed in-line, answered from the record, recorded, and held back from
//! receivers that keep failing.

use crate::support::{
    config::Config,
    eventually,
    gateway::Gateway,
    http::{Conn, Reply, Request},
    lab::{self, Lab, PUBLIC},
    origin::{Origin, Tls, answer, ok},
    receiver::{Deaf, Receiver},
};
use egress_gateway::{
    secret::Secret,
    store::{
        Store,
        deliveries::{Attempt, WebhookStatus},
    },
    webhook::verify::verify,
};
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use std::{
    sync::{
        Arc,
        atomic::{AtomicU16, AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::sync::Notify;

const SECRET: &str = "a-signing-secret-of-the-hook";
const FORMER: &str = "the-former-signing-secret!";
const QUERY_TOKEN: &str = "q-token-of-the-url";
const BODY: &[u8] = b"{ \"event\":\"ticket.made\",\"schema_version\" : \"s.v2\",\"n\":1}\n";

/// A gateway with the webhook target `hook`, whose receiver is at `acme.example`.
fn config(lab: &Lab, fields: &str) -> (Config, Tls) {
    let (ca, tls) = lab.acme();
    let secret = lab.secret("secret", SECRET);
    lab.secrets().lock().unwrap().push(QUERY_TOKEN.to_owned());
    let url = format!("https://acme.example/hook?t={QUERY_TOKEN}");
    let fields = format!("signing_secret = {{ file = \"{}\" }}\n{fields}", secret.display());
    (lab.config().trusting(&ca).webhook("hook", &url, &fields), tls)
}

async fn post(gateway: &Gateway, key: &str, body: &[u8]) -> Reply {
    let mut fields = vec![("Content-Type", "application/json")];
    if !key.is_empty() {
        fields.push(("Idempotency-Key", key));
    }
    gateway.fetch("POST", "/targets/hook", &fields, body).await
}

/// The newest attempts, once there are this many; newest first.
async fn attempts(lab: &Lab, count: usize) -> Vec<Attempt> {
    let url = format!("sqlite:{}", lab.dir().join("state/gateway.db").display());
    let store = Store::open(&url).await.unwrap();
    let found = eventually(&format!("{count} attempts are recorded"), async || {
        let found = store.attempts("hook", 100).await.unwrap();
        (found.len() >= count).then_some(found)
    })
    .await;
    store.close().await;
    assert_eq!(found.len(), count, "{found:#?}");
    found
}

fn header<'a>(request: &'a Request, name: &str) -> &'a str {
    request.field(name).unwrap_or_else(|| panic!("no {name}: {request:?}"))
}

fn mac(secret: &str, text: &[&[u8]]) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).unwrap();
    for part in text {
        mac.update(part);
    }
    hex(&mac.finalize().into_bytes())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

fn assert_signed(request: &Request, secret: &str, body: &[u8]) {
    assert_eq!(request.body, body);
    let (timestamp, nonce) =
        (header(request, "x-webriskops-timestamp"), header(request, "x-webriskops-nonce"));
    let expected = mac(secret, &[timestamp.as_bytes(), b".", nonce.as_bytes(), b".", body]);
    assert_eq!(header(request, "x-webriskops-signature"), format!("sha256={expected}"));
}

fn now() -> i64 {
    jiff::Timestamp::now().as_second()
}

#[test]
fn a_delivery_is_signed_and_each_field_comes_from_the_first_place_that_names_it() {
    lab::run(async |lab| {
        let (config, tls) = config(&lab, "");
        let origin = Origin::start((PUBLIC, 443), tls, |_| answer("202 Accepted", &[], "taken"));
        let gateway = lab.gateway(&config).await;

        let before = now();
        let reply = post(&gateway, "", b"plain text").await;
        assert_eq!((reply.status, reply.body.as_slice()), (202, &b"taken"[..]));
        let id = reply.field("x-webriskops-delivery-id").unwrap().to_owned();
        assert_eq!(id.len(), 26, "{id}");
        assert_eq!(reply.field("x-webriskops-reason"), None);
        let request = origin.requests().pop().unwrap();
        assert_eq!(request.line, format!("POST /hook?t={QUERY_TOKEN} HTTP/1.1"));
        assert_eq!(header(&request, "x-webriskops-event"), "ticket_export.requested");
        assert_eq!(header(&request, "x-webriskops-schema"), "ticket-export.webhook.v1");
        assert!(header(&request, "x-webriskops-idempotency-key").starts_with("derived-"));
        let timestamp: i64 = header(&request, "x-webriskops-timestamp").parse().unwrap();
        assert!((before..=now()).contains(&timestamp));
        let nonce = header(&request, "x-webriskops-nonce").to_owned();
        assert_eq!(nonce.len(), 32);
        assert_signed(&request, SECRET, b"plain text");

        let stamp = now() - 100;
        let body = format!(
            "{{\"event\":\"e.body\",\"schema_version\":\"s.body\",\"idempotency_key\":\"k-1\",\
             \"replay_protection\":{{\"timestamp\":{stamp},\"nonce\":\"n_1\"}}}}"
        );
        post(&gateway, "", body.as_bytes()).await;
        let request = origin.requests().pop().unwrap();
        for (name, value) in [
            ("x-webriskops-event", "e.body"),
            ("x-webriskops-schema", "s.body"),
            ("x-webriskops-idempotency-key", "k-1"),
            ("x-webriskops-timestamp", &stamp.to_string()),
            ("x-webriskops-nonce", "n_1"),
        ] {
            assert_eq!(header(&request, name), value, "{name}");
        }
        assert_signed(&request, SECRET, body.as_bytes());

        let own = [
            ("X-WebRiskOps-Event", "e.own"),
            ("X-WebRiskOps-Schema", "s.own"),
            ("X-WebRiskOps-Idempotency-Key", "k-2"),
            ("X-WebRiskOps-Timestamp", &stamp.to_string()),
            ("X-WebRiskOps-Nonce", "own-nonce"),
            ("X-WebRiskOps-Signature", "sha256=forged"),
            ("webhook-signature", "v1,forged"),
        ];
        let body = b"{\"event\":\"e.body\",\"schema_version\":\"s.body\"}";
        assert_eq!(gateway.fetch("POST", "/targets/hook", &own, body).await.status, 202);
        let request = origin.requests().pop().unwrap();
        for (name, value) in &own[..5] {
            assert_eq!(header(&request, &name.to_ascii_lowercase()), *value);
        }
        assert_eq!(request.field("webhook-signature"), None);
        assert_signed(&request, SECRET, body);

        // A slash at the end of the base URL means the same one URL.
        let reply = gateway.fetch("POST", "/targets/hook/", &[], b"another text").await;
        assert_eq!(reply.status, 202);
        let request = origin.requests().pop().unwrap();
        assert_eq!(request.line, format!("POST /hook?t={QUERY_TOKEN} HTTP/1.1"));
        // Every bit is random, none of it the time.
        let other = header(&request, "x-webriskops-nonce");
        assert_ne!(nonce[..8], other[..8]);
        assert_ne!(nonce[24..], other[24..]);

        let kept = attempts(&lab, 4).await;
        let first = &kept[3];
        assert_eq!(first.delivery_id, id);
        assert_eq!(first.webhook_status, WebhookStatus::Delivered);
        assert_eq!(first.receiver_status_code, Some(202));
        assert_eq!((&first.code, &first.cause), (&None, &None));
        assert_eq!(first.payload_hash.as_deref(), Some(&*hex(&Sha256::digest(b"plain text"))));
        assert_eq!(first.event_type.as_deref(), Some("ticket_export.requested"));
        assert_eq!(first.method, "POST");
        assert_eq!(kept[1].idempotency_key.as_deref(), Some("k-2"));
        gateway.wait_metric("egress_webhook_deliveries_total", &[("code", "")], |n| n == 4.0).await;
        let event = gateway
            .wait_event("of the delivery", |event| {
                event.text("decision_id") == first.webhook_attempt_id
            })
            .await;
        assert_eq!((event.text("mode"), event.text("decision")), ("webhook", "allowed"));
        gateway.wait_metric("egress_requests_total", &[("mode", "webhook")], |n| n == 4.0).await;
    });
}

/// Header fields, body, and the cause of the refusal.
type Row<'a> = (&'a [(&'a str, &'a str)], &'a [u8], &'a str);

#[test]
fn what_is_ambiguous_or_at_odds_is_refused_with_its_own_cause_and_recorded() {
    lab::run(async |lab| {
        let (config, tls) = config(&lab, "");
        let origin = Origin::start((PUBLIC, 443), tls, |_| ok(""));
        let gateway = lab.gateway(&config).await;
        let late = (now() - 301).to_string();
        let nonce = "X-WebRiskOps-Nonce";
        let rows: [Row<'_>; 5] = [
            (&[(nonce, "a"), (nonce, "a")], b"", "webhook_field_repeated"),
            (&[], b"{\"event\":\"a\",\"event\":\"b\"}", "webhook_body_ambiguous"),
            (&[(nonce, "a.b")], b"", "webhook_field_invalid"),
            (&[("Idempotency-Key", "a")], b"{\"idempotency_key\":\"b\"}", "webhook_fields_differ"),
            (&[("X-WebRiskOps-Timestamp", &late)], b"x", "webhook_timestamp_off"),
        ];
        for (fields, body, cause) in rows {
            let reply = gateway.fetch("POST", "/targets/hook", fields, body).await;
            let event =
                gateway.assert_refused(&reply, (400, "GATEWAY_REQUEST_INVALID", cause)).await;
            assert_eq!(event.text("mode"), "webhook");
        }
        let kept = attempts(&lab, rows.len()).await;
        assert!(kept.iter().all(|one| one.webhook_status == WebhookStatus::Blocked));
        let causes: Vec<_> = kept.iter().rev().map(|one| one.cause.as_deref().unwrap()).collect();
        assert_eq!(causes, rows.map(|row| row.2));
        origin.assert_not_reached();
    });
}

#[test]
fn during_a_rotation_both_secrets_sign_and_the_current_one_comes_first() {
    lab::run(async |lab| {
        let former = lab.secret("former", FORMER);
        let fields = format!("signing_secret_previous = {{ file = \"{}\" }}", former.display());
        let (config, tls) = config(&lab, &fields);
        let origin = Origin::start((PUBLIC, 443), tls, |_| ok(""));
        let gateway = lab.gateway(&config).await;
        assert_eq!(post(&gateway, "", BODY).await.status, 200);
        let request = origin.only();
        let stamp = header(&request, "x-webriskops-timestamp").as_bytes();
        let nonce = header(&request, "x-webriskops-nonce").as_bytes();
        let values = [SECRET, FORMER]
            .map(|secret| format!("sha256={}", mac(secret, &[stamp, b".", nonce, b".", BODY])));
        assert_eq!(header(&request, "x-webriskops-signature"), values.join(", "));
    });
}

#[test]
fn a_standard_webhook_verifies_as_its_specification_says() {
    lab::run(async |lab| {
        let (config, tls) = config(&lab, "signing_format = \"standard-webhooks\"");
        let origin = Origin::start((PUBLIC, 443), tls, |_| ok(""));
        let gateway = lab.gateway(&config).await;
        assert_eq!(post(&gateway, "msg_1", BODY).await.status, 200);
        let request = origin.only();
        assert_eq!(header(&request, "webhook-id"), "msg_1");
        assert_eq!(header(&request, "x-webriskops-idempotency-key"), "msg_1");
        assert_eq!(header(&request, "x-webriskops-event"), "ticket.made");
        for absent in ["x-webriskops-signature", "x-webriskops-nonce", "x-webriskops-timestamp"] {
            assert_eq!(request.field(absent), None);
        }
        let mut headers = http::HeaderMap::new();
        for (name, value) in &request.fields {
            let name: http::HeaderName = name.parse().unwrap();
            headers.append(name, value.parse().unwrap());
        }
        let secrets = |text: &str| [Secret::new(text.into())];
        let minute = Duration::from_mins(1);
        let at = u64::try_from(now()).unwrap();
        let verified = verify(&headers, BODY, &secrets(SECRET), minute, at).unwrap();
        assert_eq!(verified.idempotency_key.as_deref(), Some("msg_1"));
        assert!(verify(&headers, b"another", &secrets(SECRET), minute, at).is_err());
        assert!(verify(&headers, BODY, &secrets(FORMER), minute, at).is_err());
    });
}

#[test]
fn a_secret_that_cannot_sign_is_refused_when_it_is_loaded() {
    lab::run(async |lab| {
        for (secret, says) in
            [("whsec_not base64 at all", "base64"), ("whsec_c2hvcnQ=", "16 bytes")]
        {
            let file = lab.secret("bad", secret);
            let fields = format!(
                "signing_format = \"standard-webhooks\"\nwebhook_secret = {{ file = \"{}\" }}",
                file.display()
            );
            let config = lab.config().webhook("hook", "https://acme.example/hook", &fields);
            let output = Gateway::refuses(&lab, &config.to_toml()).await;
            let text = String::from_utf8_lossy(&output.stderr);
            assert!(text.contains("webhook_secret") && text.contains(says), "{text}");
            assert!(!text.contains(secret), "{text}");
        }
    });
}

#[test]
fn a_webhook_target_without_a_secret_sends_nothing() {
    lab::run(async |lab| {
        let (ca, tls) = lab.acme();
        let origin = Origin::start((PUBLIC, 443), tls, |_| ok(""));
        let config = lab.config().trusting(&ca).webhook("hook", "https://acme.example/hook", "");
        let gateway = lab.gateway(&config).await;
        let reply = post(&gateway, "k", BODY).await;
        let expected = (403, "generic_webhook_secret_missing", "signing_secret_missing");
        gateway.assert_refused(&reply, expected).await;
        let kept = attempts(&lab, 1).await;
        assert_eq!(kept[0].webhook_status, WebhookStatus::Blocked);
        assert_eq!(kept[0].code.as_deref(), Some("generic_webhook_secret_missing"));
        assert_eq!(kept[0].idempotency_key, None);
        origin.assert_not_reached();
    });
}

#[test]
fn a_key_that_was_delivered_is_answered_from_the_record_also_after_a_crash() {
    lab::run(async |lab| {
        let (config, tls) = config(&lab, "");
        let origin = Origin::start((PUBLIC, 443), tls, |request| {
            if request.line.starts_with("GET") {
                ok("got")
            } else {
                answer("201 Created", &[], "1")
            }
        });
        let mut gateway = lab.gateway(&config).await;
        let first = post(&gateway, "k", BODY).await;
        assert_eq!((first.status, first.body.as_slice()), (201, &b"1"[..]));
        assert_eq!(first.field("x-webriskops-replayed"), None);
        let id = first.field("x-webriskops-delivery-id").map(ToOwned::to_owned);
        for round in 0..3 {
            let reply = post(&gateway, "k", BODY).await;
            assert_eq!((reply.status, reply.body.as_slice()), (201, &b""[..]), "round {round}");
            assert_eq!(reply.field("x-webriskops-replayed"), Some("true"));
            assert_eq!(reply.field("x-webriskops-delivery-id").map(ToOwned::to_owned), id);
            if round == 1 {
                gateway.kill();
                gateway = lab.gateway(&config).await;
            }
        }
        assert_eq!(origin.requests().len(), 1);
        let conflict = (409, "WEBHOOK_IDEMPOTENCY_CONFLICT", "idempotency_conflict");
        let reply = post(&gateway, "k", b"another body").await;
        gateway.assert_refused(&reply, conflict).await;
        let key = [("Idempotency-Key", "k")];
        let reply = gateway.fetch("PUT", "/targets/hook", &key, BODY).await;
        gateway.assert_refused(&reply, conflict).await;
        assert_eq!(origin.requests().len(), 1);
        // A method that is idempotent by itself is sent each time.
        for _ in 0..2 {
            let reply = gateway.fetch("GET", "/targets/hook", &key, b"").await;
            assert_eq!((reply.status, reply.body.as_slice()), (200, &b"got"[..]));
        }
        assert_eq!(origin.requests().len(), 3);
        // Without a key of its own a retry is known by what it is.
        assert_eq!(post(&gateway, "", BODY).await.field("x-webriskops-replayed"), None);
        assert_eq!(post(&gateway, "", BODY).await.field("x-webriskops-replayed"), Some("true"));
        assert_eq!(origin.requests().len(), 4);
    });
}

#[test]
fn a_delivery_that_a_crash_interrupts_is_sent_again() {
    lab::run(async |lab| {
        let (config, tls) = config(&lab, "");
        let (here, go) = (Arc::new(Notify::new()), Arc::new(AtomicUsize::new(0)));
        let (seen, asked) = (Arc::clone(&go), Arc::clone(&here));
        let _origin = Origin::with((PUBLIC, 443), tls, move |mut conn| {
            let (seen, asked) = (Arc::clone(&seen), Arc::clone(&asked));
            async move {
                while let Ok(Some(_)) = conn.request().await {
                    asked.notify_one();
                    // The first one never gets its answer.
                    if seen.fetch_add(1, Ordering::SeqCst) == 0 {
                        std::future::pending::<()>().await;
                    }
                    drop(conn.try_send(ok("done")).await);
                }
            }
        });
        let mut gateway = lab.gateway(&config).await;
        let mut conn = Conn::open(gateway.proxy).await;
        conn.send(raw("k", BODY)).await;
        here.notified().await;
        gateway.kill();
        let gateway = lab.gateway(&config).await;
        let reply = post(&gateway, "k", BODY).await;
        assert_eq!((reply.status, reply.field("x-webriskops-replayed")), (200, None));
        assert_eq!(post(&gateway, "k", BODY).await.field("x-webriskops-replayed"), Some("true"));
        assert_eq!(go.load(Ordering::SeqCst), 2);
    });
}

fn raw(key: &str, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "POST /targets/hook HTTP/1.1\r\nHost: 127.0.0.1\r\nIdempotency-Key: {key}\r\n\
         Content-Length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

#[test]
fn a_key_under_way_on_another_connection_is_refused_until_it_ends_or_its_client_goes() {
    lab::run(async |lab| {
        let (config, tls) = config(&lab, "");
        let (here, go) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let (asked, may) = (Arc::clone(&here), Arc::clone(&go));
        let _origin = Origin::with((PUBLIC, 443), tls, move |mut conn| {
            let (asked, may) = (Arc::clone(&asked), Arc::clone(&may));
            async move {
                while let Ok(Some(_)) = conn.request().await {
                    asked.notify_one();
                    may.notified().await;
                    drop(conn.try_send(ok("done")).await);
                }
            }
        });
        let gateway = lab.gateway(&config).await;
        let mut first = Conn::open(gateway.proxy).await;
        first.send(raw("k", BODY)).await;
        here.notified().await;
        let reply = post(&gateway, "k", BODY).await;
        let in_flight = (409, "WEBHOOK_DELIVERY_IN_FLIGHT", "delivery_in_flight");
        gateway.assert_refused(&reply, in_flight).await;
        assert_eq!(reply.field("retry-after"), Some("1"));
        let reply = post(&gateway, "k", b"another").await;
        let conflict = (409, "WEBHOOK_IDEMPOTENCY_CONFLICT", "idempotency_conflict");
        gateway.assert_refused(&reply, conflict).await;
        go.notify_one();
        assert_eq!(first.reply().await.status, 200);
        assert_eq!(post(&gateway, "k", BODY).await.field("x-webriskops-replayed"), Some("true"));

        // Its client goes away: nobody knows, so it is sent again.
        let mut second = Conn::open(gateway.proxy).await;
        second.send(raw("l", BODY)).await;
        here.notified().await;
        drop(second);
        let url = format!("sqlite:{}", lab.dir().join("state/gateway.db").display());
        let store = Store::open(&url).await.unwrap();
        eventually("the attempt whose client went is recorded", async || {
            let kept = store.attempts("hook", 100).await.unwrap();
            kept.into_iter().find(|one| one.cause.as_deref() == Some("client_gone"))
        })
        .await;
        store.close().await;
        // Twice: the receiver may still wait to answer the one that went.
        go.notify_waiters();
        let mut third = Conn::open(gateway.proxy).await;
        third.send(raw("l", BODY)).await;
        here.notified().await;
        go.notify_waiters();
        go.notify_one();
        let reply = third.reply().await;
        assert_eq!((reply.status, reply.field("x-webriskops-replayed")), (200, None));
    });
}

#[test]
fn a_success_that_cannot_be_written_is_passed_on_and_not_remembered() {
    lab::run(async |lab| {
        let (config, tls) = config(&lab, "");
        let origin = Origin::start((PUBLIC, 443), tls, |_| ok("done"));
        let gateway = lab.gateway(&config).await;
        let file = lab.dir().join("state/gateway.db");
        let options = sqlx::sqlite::SqliteConnectOptions::new().filename(&file);
        let pool = sqlx::SqlitePool::connect_with(options).await.unwrap();
        sqlx::query("DROP TABLE deliveries").execute(&pool).await.unwrap();
        pool.close().await;
        for _ in 0..2 {
            let reply = post(&gateway, "k", BODY).await;
            assert_eq!((reply.status, reply.body.as_slice()), (200, &b"done"[..]));
            assert_eq!(reply.field("x-webriskops-replayed"), None);
        }
        assert_eq!(origin.requests().len(), 2);
        gateway
            .wait_event("the store failed", |event| {
                event.text("level") == "ERROR" && event.text("message").contains("sent again")
            })
            .await;
    });
}

#[test]
fn bodies_arrive_byte_for_byte_however_they_are_framed() {
    lab::run(async |lab| {
        let (config, tls) = config(&lab, "");
        let origin = Origin::start((PUBLIC, 443), tls, |_| ok(""));
        let gateway = lab.gateway(&config.set("limits.max_signed_body", "256KiB")).await;
        let body: Vec<u8> = (0..200_000_u32).map(|n| (n % 251) as u8).collect();
        assert_eq!(post(&gateway, "", &body).await.status, 200);
        let mut chunked = b"POST /targets/hook HTTP/1.1\r\nHost: 127.0.0.1\r\n\
            Content-Encoding: gzip\r\nTransfer-Encoding: chunked\r\nIdempotency-Key: c\r\n\r\n"
            .to_vec();
        for chunk in body.chunks(7001) {
            chunked.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
            chunked.extend_from_slice(chunk);
            chunked.extend_from_slice(b"\r\n");
        }
        chunked.extend_from_slice(b"0\r\n\r\n");
        assert_eq!(gateway.ask(chunked).await.reply.status, 200);
        let requests = origin.requests();
        assert_eq!(requests.len(), 2);
        for request in requests {
            assert_eq!(header(&request, "content-length"), body.len().to_string());
            assert_eq!(request.field("transfer-encoding"), None);
            assert_signed(&request, SECRET, &body);
        }
    });
}

#[test]
fn a_body_that_is_too_long_or_cut_short_is_never_sent() {
    lab::run(async |lab| {
        let (config, tls) = config(&lab, "");
        let origin = Origin::start((PUBLIC, 443), tls, |_| ok(""));
        let gateway = lab.gateway(&config.set("limits.max_signed_body", "1KiB")).await;
        let too_large = (413, "GATEWAY_BODY_TOO_LARGE", "body_too_large");
        let reply = post(&gateway, "", &[b'x'; 1025]).await;
        gateway.assert_refused(&reply, too_large).await;
        let head = "POST /targets/hook HTTP/1.1\r\nHost: 127.0.0.1\r\n";
        let long = "x".repeat(1025);
        // Clients that write all of it before they read get the answer too.
        let reply = post(&gateway, "", &vec![b'x'; 16 * 1024 * 1024]).await;
        gateway.assert_refused(&reply, too_large).await;
        let chunked = format!("{head}Transfer-Encoding: chunked\r\n\r\n401\r\n{long}\r\n0\r\n\r\n");
        let reply = gateway.ask(chunked).await.reply;
        gateway.assert_refused(&reply, too_large).await;
        for cut in [
            format!("{head}Content-Length: 10\r\n\r\nshort"),
            format!("{head}Transfer-Encoding: chunked\r\n\r\n5\r\nshort\r\n"),
        ] {
            let mut conn = Conn::open(gateway.proxy).await;
            conn.send(cut).await;
            conn.finish().await;
            conn.until_closed().await;
        }
        let kept = attempts(&lab, 5).await;
        assert!(kept.iter().all(|one| one.payload_hash.is_none()), "{kept:#?}");
        assert!(kept.iter().all(|one| one.webhook_status != WebhookStatus::Delivered));
        origin.assert_not_reached();
    });
}

#[test]
fn a_redirect_is_neither_passed_on_nor_followed() {
    lab::run(async |lab| {
        let (config, tls) = config(&lab, "");
        let place = [("Location", "https://acme.example/hook2?secret=1")];
        let origin = Origin::start((PUBLIC, 443), tls, move |_| {
            answer("307 Temporary Redirect", &place, "")
        });
        let gateway = lab.gateway(&config).await;
        let reply = post(&gateway, "k", BODY).await;
        let expected = (502, "generic_webhook_redirect_blocked", "redirect_blocked");
        gateway.assert_refused(&reply, expected).await;
        assert_eq!(reply.field("location"), None);
        assert_eq!(origin.requests().len(), 1);
        let kept = attempts(&lab, 1).await;
        assert_eq!(kept[0].webhook_status, WebhookStatus::Blocked);
        assert_eq!(kept[0].receiver_status_code, Some(307));
    });
}

#[test]
fn a_receivers_no_passes_unchanged_with_a_reason_and_is_recorded() {
    lab::run(async |lab| {
        let (config, tls) = config(&lab, "");
        let rows = [
            ("401 Unauthorized", "", "no", "WEBHOOK_SIGNATURE_INVALID", None),
            ("403 Forbidden", "", "no", "WEBHOOK_SIGNATURE_INVALID", None),
            (
                "422 X",
                "",
                "{\"code\":\"WEBHOOK_SIGNATURE_INVALID\"}",
                "WEBHOOK_SIGNATURE_INVALID",
                None,
            ),
            ("422 X", "", "{\"code\":\"OTHER\"}", "WEBHOOK_DELIVERY_FAILED", None),
            ("410 Gone", "", "gone", "WEBHOOK_DELIVERY_FAILED", None),
            ("429 Slow", "17", "slow", "WEBHOOK_DELIVERY_FAILED", Some(17)),
            ("503 Busy", "120", "busy", "WEBHOOK_DELIVERY_FAILED", Some(120)),
            ("500 Oh", "", "WEBHOOK_SIGNATURE_INVALID", "WEBHOOK_DELIVERY_FAILED", None),
        ];
        let turn = Arc::new(AtomicUsize::new(0));
        let at = Arc::clone(&turn);
        let origin = Origin::start((PUBLIC, 443), tls, move |_| {
            let (status, retry, body, ..) = rows[at.load(Ordering::SeqCst)];
            let mut fields = vec![("X-Own", "1"), ("X-WebRiskOps-Reason", "FORGED")];
            if !retry.is_empty() {
                fields.push(("Retry-After", retry));
            }
            answer(status, &fields, body)
        });
        let gateway = lab.gateway(&config).await;
        for (index, (status, retry, body, reason, wait)) in rows.into_iter().enumerate() {
            turn.store(index, Ordering::SeqCst);
            let reply = post(&gateway, &format!("k{index}"), BODY).await;
            assert_eq!(reply.status.to_string(), status[..3]);
            assert_eq!(reply.body, body.as_bytes(), "{status}");
            assert_eq!(reply.field("content-length"), Some(&*body.len().to_string()));
            assert_eq!(reply.field("x-own"), Some("1"));
            assert_eq!(reply.field("x-webriskops-reason"), Some(reason), "{status} {body}");
            assert_eq!(reply.field("retry-after"), Some(retry).filter(|text| !text.is_empty()));
            let kept = attempts(&lab, index + 1).await;
            assert_eq!(kept[0].webhook_status, WebhookStatus::Failed);
            assert_eq!(kept[0].code.as_deref(), Some(reason));
            assert_eq!(kept[0].receiver_status_code, Some(reply.status));
            assert_eq!(kept[0].retry_after_seconds, wait, "{status}");
            assert_eq!(reply.field("x-webriskops-delivery-id"), Some(kept[0].delivery_id.as_str()));
        }
        // None of them counts as delivered: the same key is sent again, as the same delivery.
        let before = origin.requests().len();
        let reply = post(&gateway, "k7", BODY).await;
        assert_eq!(reply.field("x-webriskops-replayed"), None);
        assert_eq!(origin.requests().len(), before + 1);
        let kept = attempts(&lab, rows.len() + 1).await;
        assert_eq!(kept[0].delivery_id, kept[1].delivery_id);
        assert_ne!(kept[0].webhook_attempt_id, kept[1].webhook_attempt_id);
        let code = [("code", "WEBHOOK_SIGNATURE_INVALID")];
        gateway.wait_metric("egress_webhook_deliveries_total", &code, |n| n == 3.0).await;
    });
}

#[test]
fn a_long_no_is_passed_on_whole() {
    lab::run(async |lab| {
        let (config, tls) = config(&lab, "");
        let body = "y".repeat(300_000);
        let sent = body.clone();
        let _origin =
            Origin::start((PUBLIC, 443), tls, move |_| answer("400 Bad Request", &[], &sent));
        let gateway = lab.gateway(&config).await;
        let reply = post(&gateway, "k", BODY).await;
        assert_eq!((reply.status, reply.body.len()), (400, body.len()));
        assert_eq!(reply.body, body.as_bytes());
    });
}

#[test]
fn a_receiver_that_is_silent_or_away_has_a_code_of_its_own() {
    lab::run(async |lab| {
        let (config, tls) = config(&lab, "");
        let config = config.set("limits.response_timeout", "300ms");
        let config = config.set("limits.connect_timeout", "300ms");
        let gateway = lab.gateway(&config).await;
        let reply = post(&gateway, "k", BODY).await;
        let refused = (502, "WEBHOOK_ENDPOINT_UNREACHABLE", "connect_refused");
        gateway.assert_refused(&reply, refused).await;
        // Nothing of it arrived, so that the key is free for something else.
        {
            let _silent = Origin::with((PUBLIC, 443), tls.clone(), async |mut conn| {
                drop(conn.request().await);
                std::future::pending::<()>().await;
            });
            let reply = post(&gateway, "k", b"another").await;
            let silent = (504, "WEBHOOK_RECEIVER_TIMEOUT", "response_timeout");
            gateway.assert_refused(&reply, silent).await;
            // Now the receiver may have seen it, as the record knows.
            attempts(&lab, 2).await;
            let reply = post(&gateway, "k", BODY).await;
            let conflict = (409, "WEBHOOK_IDEMPOTENCY_CONFLICT", "idempotency_conflict");
            gateway.assert_refused(&reply, conflict).await;
        }
        {
            let _deaf = Deaf::start((PUBLIC, 443)).await;
            let reply = post(&gateway, "l", BODY).await;
            let deaf = (504, "WEBHOOK_ENDPOINT_UNREACHABLE", "connect_timeout");
            gateway.assert_refused(&reply, deaf).await;
        }
        let _closing = Receiver::with((PUBLIC, 443), async |guest| guest.reset());
        let reply = post(&gateway, "m", BODY).await;
        assert_eq!(reply.status, 502, "{reply:?}");
        let kept = attempts(&lab, 5).await;
        let statuses: Vec<_> = kept.iter().rev().map(|one| one.webhook_status.as_str()).collect();
        assert_eq!(statuses, ["failed", "failed", "blocked", "failed", "failed"]);
    });
}

#[test]
fn a_receiver_that_keeps_failing_is_left_alone_and_then_tried_with_one_probe() {
    lab::run(async |lab| {
        let (config, tls) = config(&lab, "");
        let status = Arc::new(AtomicU16::new(500));
        let now = Arc::clone(&status);
        let origin = Origin::start((PUBLIC, 443), tls, move |_| {
            answer(&format!("{} X", now.load(Ordering::SeqCst)), &[], "")
        });
        let gateway = lab.gateway(&config).await;
        for round in 0..5 {
            assert_eq!(post(&gateway, &format!("k{round}"), BODY).await.status, 500);
        }
        let opened = tokio::time::Instant::now();
        let reply = post(&gateway, "k5", BODY).await;
        let backing_off = (503, "WEBHOOK_ENDPOINT_UNREACHABLE", "receiver_backing_off");
        gateway.assert_refused(&reply, backing_off).await;
        let wait: u64 = reply.field("retry-after").unwrap().parse().unwrap();
        assert!((1..=2).contains(&wait), "{wait}");
        assert_eq!(origin.requests().len(), 5, "it was asked while it is left alone");
        let kept = attempts(&lab, 6).await;
        assert_eq!(kept[0].webhook_status, WebhookStatus::Blocked);
        assert_eq!(kept[0].cause.as_deref(), Some("receiver_backing_off"));
        assert_eq!(kept[0].retry_after_seconds, Some(wait));
        assert!(kept[1].retry_after_seconds.is_some(), "the back-off of the one that opened it");
        assert_eq!(kept[2].retry_after_seconds, None);

        // The probe fails: left alone again, for longer.
        let mut probes = 0;
        eventually("a probe is let through", async || {
            probes += 1;
            let reply = post(&gateway, &format!("p{probes}"), BODY).await;
            (reply.status == 500).then_some(())
        })
        .await;
        assert!(opened.elapsed() >= Duration::from_millis(900), "{:?}", opened.elapsed());
        assert_eq!(post(&gateway, "q", BODY).await.status, 503);
        assert_eq!(origin.requests().len(), 6);

        // The next one succeeds: it is as if nothing had been.
        status.store(200, Ordering::SeqCst);
        let mut tries = 0;
        eventually("a probe succeeds", async || {
            tries += 1;
            let reply = post(&gateway, &format!("r{tries}"), BODY).await;
            (reply.status == 200).then_some(())
        })
        .await;
        assert!(opened.elapsed() >= Duration::from_millis(2900), "{:?}", opened.elapsed());
        for round in 0..3 {
            assert_eq!(post(&gateway, &format!("s{round}"), BODY).await.status, 200);
        }
    });
}

#[test]
fn secrets_bodies_and_queries_are_nowhere_but_in_the_delivery() {
    lab::run(async |lab| {
        let (config, tls) = config(&lab, "");
        let _origin = Origin::start((PUBLIC, 443), tls, |request| {
            if request.body.ends_with(b"fail") { answer("500 X", &[], "") } else { ok("") }
        });
        let mut gateway = lab.gateway(&config).await;
        let body = "confidential-word-of-the-body";
        let mut told = String::new();
        for suffix in ["", "fail"] {
            let body = format!("{body}{suffix}");
            told += &format!("{:?}", post(&gateway, "", body.as_bytes()).await);
        }
        let wrong = gateway.fetch("POST", "/targets/hook/x", &[], b"").await;
        assert_eq!(wrong.status, 403, "{wrong:?}");
        told += &format!("{wrong:?}");
        attempts(&lab, 3).await;
        told += &String::from_utf8(gateway.admin("/metrics").await.body).unwrap();
        told += &gateway.log_text();
        gateway.signal("TERM");
        assert!(gateway.ended().await.success());
        let mut files = 0;
        for entry in std::fs::read_dir(lab.dir().join("state")).unwrap() {
            told += &String::from_utf8_lossy(&std::fs::read(entry.unwrap().path()).unwrap());
            files += 1;
        }
        assert!(files > 0 && told.contains("ticket_export.requested"), "the database was not read");
        for hidden in [SECRET, QUERY_TOKEN, body] {
            assert!(!told.contains(hidden), "{hidden}");
        }
    });
}
