//! Interim answers (1xx) of a target: passed on before the final one, cleaned and within bounds.

use crate::support::{
    eventually,
    gateway::{Event, Gateway},
    http::{Conn, Reply, Rest, request_head},
    lab::{self, Lab, PUBLIC},
    origin::{Origin, ok},
    within,
};
use ::h2::client::SendRequest;
use bytes::Bytes;
use std::{future::poll_fn, sync::Arc, time::Duration};
use tokio::{
    net::{TcpSocket, TcpStream},
    sync::{Notify, mpsc},
};

const URL: &str = "http://acme.example/";
const BROKEN: &str = "SELF_HOSTED_CONNECTIVITY_BLOCKED";

/// With everything that a client must not see of it.
const HINTS: &str = "HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\nX-Own: 1\r\n\
                     Link: </b.js>; rel=preload\r\nConnection: X-Hop\r\nX-Hop: 1\r\n\
                     Keep-Alive: timeout=5\r\nX-WebRiskOps-Reason: FORGED\r\n\
                     X-WebRiskOps-Replayed: true\r\nProxy-Status: egress-gateway\r\n\
                     Content-Length: 30\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n";

/// What it sees.
const CLEAN: [(&str, &str); 3] =
    [("link", "</a.css>; rel=preload"), ("link", "</b.js>; rel=preload"), ("x-own", "1")];

/// A gateway before `acme.example`, with a limit of one second for answers.
async fn gateway(lab: &Lab, ca: &crate::support::tls::Ca) -> Gateway {
    let config = lab.config().trusting(ca).set("limits.response_timeout", "1s");
    lab.gateway(&config.self_hosted("acme", "https://acme.example")).await
}

fn assert_clean(mut fields: Vec<(String, String)>) {
    fields.sort();
    let fields: Vec<_> = fields.iter().map(|(name, value)| (&**name, &**value)).collect();
    assert_eq!(fields, CLEAN);
}

/// The interim answers that come first, and the final one.
async fn replies(conn: &mut Conn) -> (Vec<Reply>, Reply) {
    let mut interims = Vec::new();
    loop {
        let reply = conn.reply().await;
        if reply.status >= 200 {
            return (interims, reply);
        }
        interims.push(reply);
    }
}

async fn ask(gateway: &Gateway, path: &str) -> (Vec<Reply>, Reply) {
    let mut conn = Conn::open(gateway.proxy).await;
    conn.send(request_head("GET", &format!("http://acme.example{path}"), &[], 0)).await;
    replies(&mut conn).await
}

/// Gives hints, and answers once the client is known to have them.
fn hinting(lab: &Lab, seen: &Arc<Notify>) -> (crate::support::tls::Ca, Origin) {
    let (ca, tls) = lab.acme();
    let seen = Arc::clone(seen);
    let origin = Origin::with((PUBLIC, 443), tls, move |mut conn| {
        let seen = Arc::clone(&seen);
        async move {
            while let Ok(Some(request)) = conn.request().await {
                conn.send(HINTS).await;
                seen.notified().await;
                let more = "HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n\
                            HTTP/1.1 199 Whatever\r\nX-Own: 2\r\n\r\n";
                conn.send([more.as_bytes(), &ok(&request.line)].concat()).await;
            }
        }
    });
    (ca, origin)
}

#[test]
fn a_client_of_http_1_1_gets_them_at_once_and_then_its_answer() {
    lab::run(async |lab| {
        let seen = Arc::new(Notify::new());
        let (ca, _origin) = hinting(&lab, &seen);
        let gateway = gateway(&lab, &ca).await;
        let mut conn = Conn::open(gateway.proxy).await;
        // Twice over one connection: nothing of the first is left for the second.
        for path in ["/1", "/2"] {
            conn.send(request_head("GET", &format!("http://acme.example{path}"), &[], 0)).await;
            let hints = conn.reply_head().await;
            assert_eq!((hints.status, &*hints.reason), (103, "Early Hints"));
            assert_clean(hints.fields);
            seen.notify_one();
            let (interims, reply) = replies(&mut conn).await;
            let statuses: Vec<_> = interims.iter().map(|one| one.status).collect();
            assert_eq!(statuses, [102, 199], "the 100 is the gateway's own affair");
            assert_eq!(interims[0].fields, []);
            assert_eq!(interims[1].fields, [("x-own".to_owned(), "2".to_owned())]);
            assert_eq!((reply.status, reply.body), (200, format!("GET {path} HTTP/1.1").into()));
        }
        let event = gateway.wait_event("canonical", Event::is_canonical).await;
        assert_eq!((event.number("status"), event.text("end")), (200, "closed"), "{event:?}");
    });
}

async fn http2(gateway: &Gateway) -> SendRequest<Bytes> {
    let stream = TcpStream::connect(gateway.proxy).await.unwrap();
    let (requests, connection) = ::h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    requests
}

#[test]
fn a_client_of_http_2_gets_them_at_once_and_then_its_answer() {
    lab::run(async |lab| {
        let seen = Arc::new(Notify::new());
        let (ca, _origin) = hinting(&lab, &seen);
        let gateway = gateway(&lab, &ca).await;
        let requests = http2(&gateway).await;
        for _ in 0..2 {
            let mut requests = requests.clone().ready().await.unwrap();
            let request = http::Request::builder().uri(URL).body(()).unwrap();
            let (mut response, _) = requests.send_request(request, true).unwrap();
            let mut statuses = Vec::new();
            let interims = async {
                while let Some(interim) = poll_fn(|cx| response.poll_informational(cx)).await {
                    let (head, ()) = interim.unwrap().into_parts();
                    statuses.push(head.status.as_u16());
                    if head.status == 103 {
                        let field = |(name, value): (&http::HeaderName, &http::HeaderValue)| {
                            (name.to_string(), value.to_str().unwrap().to_owned())
                        };
                        assert_clean(head.headers.iter().map(field).collect());
                        seen.notify_one();
                    }
                }
            };
            within("the interim answers", interims).await;
            assert_eq!(statuses, [103, 102, 199]);
            let response = within("the answer", response).await.unwrap();
            assert_eq!(response.status(), 200);
            let mut body = response.into_body();
            let bytes = within("the body", body.data()).await.unwrap().unwrap();
            assert_eq!(bytes, "GET / HTTP/1.1");
        }
    });
}

#[test]
fn a_client_of_http_1_0_gets_its_answer_only() {
    lab::run(async |lab| {
        let seen = Arc::new(Notify::new());
        let (ca, _origin) = hinting(&lab, &seen);
        let gateway = gateway(&lab, &ca).await;
        seen.notify_one();
        let mut conn = Conn::open(gateway.proxy).await;
        conn.send("GET http://acme.example/ HTTP/1.0\r\n\r\n").await;
        let reply = conn.reply().await;
        assert_eq!((reply.status, reply.body.as_slice()), (200, &b"GET / HTTP/1.1"[..]));
        assert_eq!(conn.rest().await, Rest::Finished(Vec::new()));
    });
}

#[test]
fn a_flood_of_them_is_no_valid_answer() {
    lab::run(async |lab| {
        let (ca, tls) = lab.acme();
        let (ended, mut ends) = mpsc::unbounded_channel();
        let _origin = Origin::with((PUBLIC, 443), tls, move |mut conn| {
            let ended = ended.clone();
            async move {
                while let Ok(Some(request)) = conn.request().await {
                    let large =
                        format!("HTTP/1.1 103 Early Hints\r\nX: {}\r\n\r\n", "x".repeat(30_000));
                    let (interim, count) = match request.line.split(' ').nth(1).unwrap() {
                        "/bytes-fit" => (large, 2),
                        "/bytes" => (large, 3),
                        "/fits" => (HINTS.to_owned(), 16),
                        "/many" => (HINTS.to_owned(), 17),
                        "/continues" => ("HTTP/1.1 100 Continue\r\n\r\n".to_owned(), 17),
                        _ => (HINTS.to_owned(), usize::MAX),
                    };
                    for _ in 0..count {
                        if conn.try_send(&interim).await.is_err() {
                            break;
                        }
                    }
                    drop(conn.try_send(ok("final")).await);
                }
                ended.send(()).unwrap();
            }
        });
        let gateway = gateway(&lab, &ca).await;
        for (path, count) in [("/fits", 16), ("/bytes-fit", 2)] {
            let (interims, reply) = ask(&gateway, path).await;
            assert_eq!((interims.len(), reply.body.as_slice()), (count, &b"final"[..]), "{path}");
        }
        for path in ["/many", "/bytes", "/continues", "/endless"] {
            let (interims, reply) = ask(&gateway, path).await;
            assert!(interims.len() <= 16, "{path}: {}", interims.len());
            gateway.assert_refused(&reply, (502, BROKEN, "response_invalid")).await;
            within("the connection to the target is closed", ends.recv()).await.unwrap();
        }
    });
}

#[test]
fn they_do_not_put_off_the_limit_for_the_answer() {
    lab::run(async |lab| {
        let (ca, tls) = lab.acme();
        let _origin = Origin::with((PUBLIC, 443), tls, async |mut conn| {
            drop(conn.request().await);
            // Slow enough for the limit to be over before there are too many.
            while conn.try_send("HTTP/1.1 102 Processing\r\n\r\n").await.is_ok() {
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        });
        let gateway = gateway(&lab, &ca).await;
        let (interims, reply) = ask(&gateway, "/").await;
        assert!(interims.iter().all(|one| one.status == 102), "{interims:?}");
        gateway.assert_refused(&reply, (504, BROKEN, "response_timeout")).await;
    });
}

/// Answers every request with interim answers that name it, and with `length` bytes.
fn naming(lab: &Lab, length: usize, hint: usize) -> (crate::support::tls::Ca, Origin) {
    let (ca, tls) = lab.acme();
    let origin = Origin::start((PUBLIC, 443), tls, move |request| {
        let path = request.line.split(' ').nth(1).unwrap();
        let long = "x".repeat(hint);
        let interim = |n| format!("HTTP/1.1 103 \r\nX-Of: {path}-{n}\r\nX-Long: {long}\r\n\r\n");
        let interims = [0, 1, 2].map(interim).concat();
        [interims.as_bytes(), &ok(&path.repeat(length))].concat()
    });
    (ca, origin)
}

fn assert_named((interims, reply): (Vec<Reply>, Reply), path: &str, length: usize) {
    let of: Vec<_> = interims.iter().map(|one| one.field("x-of").unwrap()).collect();
    assert_eq!(of, [0, 1, 2].map(|n| format!("{path}-{n}")));
    assert!(reply.body == path.repeat(length).as_bytes(), "{path}: {} bytes", reply.body.len());
}

#[test]
fn pipelined_requests_get_theirs_each_before_its_own_answer() {
    lab::run(async |lab| {
        let (ca, _origin) = naming(&lab, 1, 0);
        let gateway = gateway(&lab, &ca).await;
        let mut conn = Conn::open(gateway.proxy).await;
        let url = |n| format!("http://acme.example/{n}");
        conn.send((0..5).map(|n| request_head("GET", &url(n), &[], 0)).collect::<String>()).await;
        for n in 0..5 {
            assert_named(replies(&mut conn).await, &format!("/{n}"), 1);
        }
    });
}

#[test]
fn a_client_that_reads_slowly_gets_them_whole_and_in_order() {
    const LENGTH: usize = 4_000_000;
    lab::run(async |lab| {
        let (ca, origin) = naming(&lab, LENGTH, 20_000);
        let gateway = gateway(&lab, &ca).await;
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        let mut conn = Conn::server(socket.connect(gateway.proxy).await.unwrap());
        for path in ["/a", "/b"] {
            conn.send(request_head("GET", &format!("http://acme.example{path}"), &[], 0)).await;
        }
        // Nothing is read before the first answer fills every buffer on its way.
        eventually("the first request is at the target", async || {
            (origin.requests().len() == 1).then_some(())
        })
        .await;
        for path in ["/a", "/b"] {
            assert_named(replies(&mut conn).await, path, LENGTH);
        }
    });
}

#[test]
fn a_client_that_waits_for_100_gets_the_target_s_interim_answers_too() {
    lab::run(async |lab| {
        let (ca, tls) = lab.acme();
        let _origin = Origin::with((PUBLIC, 443), tls, async |mut conn| {
            drop(conn.request_head().await);
            conn.send("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n").await;
            let body = conn.take(4).await;
            conn.send(ok(std::str::from_utf8(&body).unwrap())).await;
        });
        let gateway = gateway(&lab, &ca).await;
        let mut conn = Conn::open(gateway.proxy).await;
        conn.send(request_head("PUT", URL, &[("Expect", "100-continue")], 4)).await;
        let mut statuses = [conn.reply_head().await.status, conn.reply_head().await.status];
        statuses.sort_unstable();
        assert_eq!(statuses, [100, 103]);
        conn.send("body").await;
        let reply = conn.reply().await;
        assert_eq!((reply.status, reply.body.as_slice()), (200, &b"body"[..]));
    });
}

#[test]
fn hints_may_come_before_another_protocol() {
    lab::run(async |lab| {
        let (ca, tls) = lab.acme();
        let _origin = Origin::with((PUBLIC, 443), tls, async |mut conn| {
            drop(conn.request().await);
            let switched = "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n\
                            HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\
                            Connection: upgrade\r\n\r\nhello";
            conn.send(switched).await;
            drop(conn.until_closed().await);
        });
        let gateway = gateway(&lab, &ca).await;
        let mut conn = Conn::open(gateway.proxy).await;
        let fields = [("Connection", "upgrade"), ("Upgrade", "x")];
        conn.send(request_head("GET", URL, &fields, 0)).await;
        assert_eq!(conn.reply_head().await.status, 103);
        assert_eq!(conn.reply_head().await.status, 101);
        assert_eq!(conn.take(5).await, b"hello");
    });
}

#[test]
fn those_of_a_target_that_speaks_http_2_are_dropped() {
    lab::run(async |lab| {
        lab.dns.addresses("acme.example", &[PUBLIC]);
        let ca = lab.ca("relay-ca");
        let tls = ca.server(&["acme.example"]).server_config_with(&["h2"]);
        let _origin = Origin::with((PUBLIC, 443), Some(tls), async |conn| {
            let mut connection = ::h2::server::handshake(conn).await.unwrap();
            while let Some(Ok((_, mut respond))) = connection.accept().await {
                let hints = http::Response::builder().status(103).header("link", "</a>");
                respond.send_informational(hints.body(()).unwrap()).unwrap();
                let mut send = respond.send_response(http::Response::new(()), false).unwrap();
                send.send_data(Bytes::from_static(b"final"), true).unwrap();
            }
        });
        let gateway = gateway(&lab, &ca).await;
        for _ in 0..2 {
            let (interims, reply) = ask(&gateway, "/").await;
            assert!(interims.is_empty(), "{interims:?}");
            assert_eq!((reply.status, reply.body.as_slice()), (200, &b"final"[..]));
        }
    });
}
