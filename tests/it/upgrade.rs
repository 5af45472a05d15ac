//! Upgrades: a request that turns into another protocol, in both directions to both ends.

use crate::support::{
    gateway::Event,
    hook,
    http::{Conn, Rest, request_head},
    lab::{self, PUBLIC},
    origin::{Origin, ok},
};

const SWITCHED: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\
                        Connection: Upgrade\r\nSec-WebSocket-Accept: x\r\n\
                        X-WebRiskOps-Reason: FORGED\r\n\r\n";
const FIELDS: [(&str, &str); 4] = [
    ("Connection", "keep-alive, Upgrade"),
    ("Upgrade", "websocket"),
    ("Sec-WebSocket-Key", "key"),
    ("Sec-WebSocket-Version", "13"),
];

#[test]
fn a_websocket_carries_bytes_both_ways_and_ends_on_each_side_alone() {
    lab::run(async |lab| {
        let (ca, tls) = lab.acme();
        let _origin = Origin::with((PUBLIC, 443), tls, async |mut conn| {
            let request = conn.request().await.unwrap().unwrap();
            assert_eq!(request.field("upgrade"), Some("websocket"));
            assert_eq!(request.field("connection").map(str::to_lowercase), Some("upgrade".into()));
            assert_eq!(request.field("sec-websocket-key"), Some("key"));
            // The first bytes of the other protocol come at once.
            conn.send([SWITCHED.as_bytes(), b"hello"].concat()).await;
            while let Ok(bytes) = conn.try_take(4).await {
                conn.send([b"<", bytes.as_slice(), b">"].concat()).await;
            }
            conn.send("goodbye").await;
            conn.finish().await;
        });
        let config = lab.config().trusting(&ca).self_hosted("acme", "https://acme.example");
        let gateway = lab.gateway(&config).await;
        let mut conn = Conn::open(gateway.proxy).await;
        conn.send(request_head("GET", "http://acme.example/socket", &FIELDS, 0)).await;
        let reply = conn.reply_head().await;
        assert_eq!((reply.status, reply.field("upgrade")), (101, Some("websocket")));
        assert_eq!(reply.field("sec-websocket-accept"), Some("x"));
        assert_eq!(reply.field("x-webriskops-reason"), None);
        assert_eq!(conn.take(5).await, b"hello");
        for _ in 0..3 {
            conn.send("ping").await;
            assert_eq!(conn.take(6).await, b"<ping>");
        }
        conn.finish().await;
        assert_eq!(conn.rest().await, Rest::Finished(b"goodbye".to_vec()));
        let event = gateway.wait_event("canonical", Event::is_canonical).await;
        assert_eq!((event.text("mode"), event.text("end")), ("relay", "closed"), "{event:?}");
        assert_eq!(event.number("status"), 101);
        assert_eq!((event.number("bytes_to_target"), event.number("bytes_to_client")), (12, 30));
        gateway.assert_recorded(1).await;
    });
}

#[test]
fn bytes_sent_ahead_of_the_101_are_the_other_protocol_s() {
    lab::run(async |lab| {
        let (ca, tls) = lab.acme();
        let _origin = Origin::with((PUBLIC, 443), tls, async |mut conn| {
            drop(conn.request().await);
            conn.send(SWITCHED).await;
            let early = conn.take(8).await;
            conn.send(early).await;
        });
        let config = lab.config().trusting(&ca).self_hosted("acme", "https://acme.example");
        let gateway = lab.gateway(&config).await;
        let mut conn = Conn::open(gateway.proxy).await;
        conn.send(request_head("GET", "http://acme.example/", &FIELDS, 0) + "too-soon").await;
        assert_eq!(conn.reply_head().await.status, 101);
        assert_eq!(conn.take(8).await, b"too-soon");
    });
}

#[test]
fn a_target_that_does_not_upgrade_answers_like_any_other() {
    lab::run(async |lab| {
        let (ca, tls) = lab.acme();
        let origin = Origin::start((PUBLIC, 443), tls, |_| ok("no sockets here"));
        let config = lab.config().trusting(&ca).self_hosted("acme", "https://acme.example");
        let gateway = lab.gateway(&config).await;
        let mut conn = Conn::open(gateway.proxy).await;
        for _ in 0..3 {
            conn.send(request_head("GET", "http://acme.example/", &FIELDS, 0)).await;
            let reply = conn.reply().await;
            assert_eq!((reply.status, reply.body.as_slice()), (200, &b"no sockets here"[..]));
        }
        assert_eq!(origin.requests().len(), 3);
    });
}

#[test]
fn an_upgrade_that_connection_does_not_name_is_none() {
    lab::run(async |lab| {
        let (ca, tls) = lab.acme();
        let origin = Origin::start((PUBLIC, 443), tls, |_| ok(""));
        let config = lab.config().trusting(&ca).self_hosted("acme", "https://acme.example");
        let gateway = lab.gateway(&config).await;
        let fields = [("Upgrade", "h2c"), ("HTTP2-Settings", "AAMAAABkAAQAAP__")];
        assert_eq!(gateway.fetch("GET", "http://acme.example/", &fields, b"").await.status, 200);
        assert_eq!(origin.only().field("upgrade"), None);
    });
}

#[test]
fn no_request_turns_into_a_connection_for_others_of_any_path() {
    lab::run(async |lab| {
        let (ca, tls) = lab.acme();
        let origin = Origin::start((PUBLIC, 443), tls, |request| {
            if request.field("upgrade").is_some() { SWITCHED.into() } else { ok("") }
        });
        let config = lab.config().trusting(&ca).self_hosted("acme", "https://acme.example/jira");
        let gateway = lab.gateway(&config).await;
        for protocol in ["h2c", "TLS/1.0", "websocket, h2c", "HTTP/2.0"] {
            let fields = [
                ("Connection", "Upgrade"),
                ("Upgrade", protocol),
                ("HTTP2-Settings", "AAMAAABkAAQAAP__"),
            ];
            let reply = gateway.fetch("GET", "http://acme.example/jira/x", &fields, b"").await;
            assert_eq!(reply.status, 200, "{protocol}");
        }
        for request in origin.requests() {
            for field in ["upgrade", "connection", "http2-settings"] {
                assert_eq!(request.field(field), None, "{request:?}");
            }
        }
        assert_eq!(origin.requests().len(), 4);
    });
}

#[test]
fn a_delivery_turns_into_no_other_protocol_that_nobody_could_sign() {
    lab::run(async |lab| {
        let (config, tls) = hook::config(&lab);
        let origin = Origin::start((PUBLIC, 443), tls, |request| {
            if request.field("upgrade").is_some() { SWITCHED.into() } else { ok("") }
        });
        let gateway = lab.gateway(&config).await;
        let reply = gateway.fetch("POST", "/targets/hook", &FIELDS, b"{}").await;
        assert_eq!(reply.status, 200);
        assert_eq!(origin.only().field("upgrade"), None);
    });
}

#[test]
fn an_upgrade_that_breaks_off_is_no_clean_end() {
    lab::run(async |lab| {
        let (ca, tls) = lab.acme();
        let _origin = Origin::with((PUBLIC, 443), tls, async |mut conn| {
            drop(conn.request().await);
            conn.send(SWITCHED).await;
            drop(conn.take(4).await);
            conn.reset();
        });
        let config = lab.config().trusting(&ca).self_hosted("acme", "https://acme.example");
        let gateway = lab.gateway(&config).await;
        let mut conn = Conn::open(gateway.proxy).await;
        conn.send(request_head("GET", "http://acme.example/", &FIELDS, 0)).await;
        assert_eq!(conn.reply_head().await.status, 101);
        conn.send("ping").await;
        assert_eq!(conn.rest().await, Rest::Reset(Vec::new()));
    });
}
