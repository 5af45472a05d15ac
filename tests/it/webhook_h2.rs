//! Webhook deliveries by clients that speak HTTP/2: signed, recorded and refused as over HTTP/1.

use crate::support::{
    config::Config,
    eventually,
    gateway::Gateway,
    http::{Reply, Request},
    lab::{self, Lab, PUBLIC},
    origin::{Origin, Tls, answer, ok},
    within,
};
use ::h2::{
    Reason, SendStream,
    client::{ResponseFuture, SendRequest},
};
use bytes::Bytes;
use egress_gateway::{
    secret::Secret,
    store::{
        Store,
        deliveries::{Attempt, WebhookStatus},
    },
    webhook::verify::verify,
};
use std::{future::poll_fn, sync::Arc, time::Duration};
use tokio::{net::TcpStream, sync::Notify};

const SECRET: &str = "a-signing-secret-of-the-hook";
const BODY: &[u8] = b"{ \"event\":\"ticket.made\",\"n\":1}\n";

/// A gateway with the webhook target `hook`, whose receiver is at `acme.example`.
fn config(lab: &Lab) -> (Config, Tls) {
    let (ca, tls) = lab.acme();
    let secret = lab.secret("secret", SECRET);
    let fields = format!("signing_secret = {{ file = \"{}\" }}", secret.display());
    (lab.config().trusting(&ca).webhook("hook", "https://acme.example/hook", &fields), tls)
}

/// One connection of a client.
async fn client(gateway: &Gateway) -> SendRequest<Bytes> {
    let stream = TcpStream::connect(gateway.proxy).await.unwrap();
    let (requests, connection) = ::h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    requests
}

/// Begins a delivery; its body is still to be sent.
async fn begin(
    client: &SendRequest<Bytes>,
    fields: &[(&str, &str)],
) -> (ResponseFuture, SendStream<Bytes>) {
    let url = "http://127.0.0.1:3128/targets/hook";
    let mut request = http::Request::builder().method("POST").uri(url);
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    let mut client = client.clone().ready().await.unwrap();
    client.send_request(request.body(()).unwrap(), false).unwrap()
}

async fn reply(response: ResponseFuture) -> Reply {
    let (head, mut down) = within("the answer", response).await.unwrap().into_parts();
    let mut body = Vec::new();
    while let Some(bytes) = within("the body", down.data()).await {
        body.extend_from_slice(&bytes.unwrap());
    }
    let field = |(name, value): (&http::HeaderName, &http::HeaderValue)| {
        (name.to_string(), value.to_str().unwrap().to_owned())
    };
    Reply {
        status: head.status.as_u16(),
        reason: String::new(),
        fields: head.headers.iter().map(field).collect(),
        body,
        trailers: Vec::new(),
    }
}

/// Delivers the body in two pieces, without saying how long it is.
async fn post(client: &SendRequest<Bytes>, key: &str, body: &[u8]) -> Reply {
    let (response, mut up) = begin(client, &[("idempotency-key", key)]).await;
    let (first, second) = body.split_at(body.len() / 2);
    up.send_data(Bytes::copy_from_slice(first), false).unwrap();
    up.send_data(Bytes::copy_from_slice(second), true).unwrap();
    reply(response).await
}

/// The attempts, once there are this many; newest first.
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

fn assert_signed(request: &Request, key: &str, body: &[u8]) {
    assert_eq!((&*request.line, &*request.body), ("POST /hook HTTP/1.1", body));
    assert_eq!(request.field("content-length"), Some(&*body.len().to_string()));
    assert_eq!(request.field("transfer-encoding"), None);
    let mut headers = http::HeaderMap::new();
    for (name, value) in &request.fields {
        let name: http::HeaderName = name.parse().unwrap();
        headers.append(name, value.parse().unwrap());
    }
    let secret = [Secret::new(SECRET.into())];
    let now = u64::try_from(jiff::Timestamp::now().as_second()).unwrap();
    let verified = verify(&headers, body, &secret, Duration::from_mins(1), now).unwrap();
    assert_eq!(verified.idempotency_key.as_deref(), Some(key));
    assert!(verify(&headers, b"another", &secret, Duration::from_mins(1), now).is_err());
}

#[test]
fn deliveries_of_one_connection_are_signed_recorded_and_answered_from_the_record() {
    lab::run(async |lab| {
        let (config, tls) = config(&lab);
        let origin =
            Origin::start((PUBLIC, 443), tls, |_| answer("201 Created", &[("X-Own", "1")], "made"));
        let gateway = lab.gateway(&config).await;
        let client = client(&gateway).await;

        let first = post(&client, "k-1", BODY).await;
        assert_eq!((first.status, first.body.as_slice()), (201, &b"made"[..]));
        assert_eq!(first.field("x-own"), Some("1"));
        assert_eq!(first.field("x-webriskops-replayed"), None);
        let id = first.field("x-webriskops-delivery-id").unwrap();
        assert_signed(&origin.only(), "k-1", BODY);

        let again = post(&client, "k-1", BODY).await;
        assert_eq!((again.status, again.body.as_slice()), (201, &b""[..]));
        assert_eq!(again.field("x-webriskops-replayed"), Some("true"));
        assert_eq!(again.field("x-webriskops-delivery-id"), Some(id));
        let conflict = post(&client, "k-1", b"another body").await;
        let expected = (409, "WEBHOOK_IDEMPOTENCY_CONFLICT", "idempotency_conflict");
        gateway.assert_refused(&conflict, expected).await;
        assert_eq!(origin.requests().len(), 1);

        assert_eq!(post(&client, "k-2", b"").await.status, 201);
        assert_signed(&origin.requests()[1], "k-2", b"");

        let kept = attempts(&lab, 3).await;
        let of = |one: &Attempt| (one.webhook_status, one.receiver_status_code);
        let seen: Vec<_> = kept.iter().map(of).collect();
        let (delivered, blocked) = (WebhookStatus::Delivered, WebhookStatus::Blocked);
        assert_eq!(seen, [(delivered, Some(201)), (blocked, None), (delivered, Some(201))]);
        assert_eq!(kept[2].delivery_id, id);
    });
}

#[test]
fn a_body_that_is_too_long_is_never_sent() {
    lab::run(async |lab| {
        let (config, tls) = config(&lab);
        let origin = Origin::start((PUBLIC, 443), tls, |_| ok(""));
        let gateway = lab.gateway(&config.set("limits.max_signed_body", "1KiB")).await;
        let client = client(&gateway).await;
        let too_large = (413, "GATEWAY_BODY_TOO_LARGE", "body_too_large");
        // Refused by what it says, before any of it is sent.
        let (response, _up) = begin(&client, &[("content-length", "1025")]).await;
        gateway.assert_refused(&reply(response).await, too_large).await;
        // And by what it is.
        let refused = post(&client, "long", &[b'x'; 1025]).await;
        gateway.assert_refused(&refused, too_large).await;
        let kept = attempts(&lab, 2).await;
        assert!(kept.iter().all(|one| one.payload_hash.is_none()), "{kept:#?}");
        assert!(kept.iter().all(|one| one.webhook_status == WebhookStatus::Blocked));
        origin.assert_not_reached();
        // The connection goes on, and a body of just that length passes.
        assert_eq!(post(&client, "fits", &[b'x'; 1024]).await.status, 200);
        assert_signed(&origin.only(), "fits", &[b'x'; 1024]);
    });
}

#[test]
fn a_body_that_its_client_cuts_short_is_never_sent() {
    lab::run(async |lab| {
        let (config, tls) = config(&lab);
        let origin = Origin::start((PUBLIC, 443), tls, |_| ok(""));
        let gateway = lab.gateway(&config).await;
        let client = client(&gateway).await;
        let (_response, mut up) = begin(&client, &[("content-length", "1000000")]).await;
        // More than a stream's window holds: the gateway has read some of it by then.
        let mut sent = 0;
        while sent <= 256 * 1024 {
            up.reserve_capacity(1000);
            let room = poll_fn(|cx| up.poll_capacity(cx));
            let room = within("room for the body", room).await.unwrap().unwrap();
            up.send_data(Bytes::from(vec![b'x'; room]), false).unwrap();
            sent += room;
        }
        up.send_reset(Reason::CANCEL);
        let kept = attempts(&lab, 1).await;
        assert_eq!(kept[0].cause.as_deref(), Some("client_gone"), "{kept:#?}");
        assert_eq!(kept[0].payload_hash, None);
        origin.assert_not_reached();
    });
}

#[test]
fn a_key_under_way_on_another_stream_is_refused_and_an_interim_answer_does_not_end_it() {
    lab::run(async |lab| {
        let (config, tls) = config(&lab);
        let go = Arc::new(Notify::new());
        let may = Arc::clone(&go);
        let _origin = Origin::with((PUBLIC, 443), tls, move |mut conn| {
            let may = Arc::clone(&may);
            async move {
                while let Ok(Some(_)) = conn.request().await {
                    conn.send("HTTP/1.1 103 Early Hints\r\nX-WebRiskOps-Replayed: true\r\n\r\n")
                        .await;
                    may.notified().await;
                    conn.send(answer("202 Accepted", &[], "taken")).await;
                }
            }
        });
        let gateway = lab.gateway(&config).await;
        let client = client(&gateway).await;
        let (mut response, mut up) = begin(&client, &[("idempotency-key", "k")]).await;
        up.send_data(Bytes::from_static(BODY), true).unwrap();
        let interim = poll_fn(|cx| response.poll_informational(cx));
        let interim = within("the hints", interim).await.unwrap().unwrap();
        assert_eq!((interim.status().as_u16(), interim.headers().len()), (103, 0));
        let refused = post(&client, "k", BODY).await;
        let in_flight = (409, "WEBHOOK_DELIVERY_IN_FLIGHT", "delivery_in_flight");
        gateway.assert_refused(&refused, in_flight).await;
        go.notify_one();
        let reply = reply(response).await;
        assert_eq!((reply.status, reply.body.as_slice()), (202, &b"taken"[..]));
        let kept = attempts(&lab, 2).await;
        let delivered = kept.iter().find(|one| one.webhook_status == WebhookStatus::Delivered);
        assert_eq!(delivered.unwrap().receiver_status_code, Some(202));
    });
}
