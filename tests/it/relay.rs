//! The relay: a request whose path the gateway sees reaches its target, and its answer the client.

use crate::support::{
    eventually,
    gateway::{Event, Gateway},
    h2::H2,
    http::{Conn, Rest, request_head},
    lab::{self, Lab, PUBLIC, PUBLIC_2},
    origin::{Origin, answer, ok},
};

const NO_TARGET: (u16, &str, &str) = (403, "SELF_HOSTED_BASE_URL_UNSAFE", "no_target");
const BROKEN: &str = "SELF_HOSTED_CONNECTIVITY_BLOCKED";

/// Fields that a client adds by itself, and what a request must hold at its target.
fn fields_at(origin: &Origin) -> Vec<(String, String)> {
    let mut fields = origin.only().fields;
    fields.sort();
    fields
}

#[test]
fn http_in_absolute_form_is_upgraded_to_tls_for_an_https_target() {
    lab::run(async |lab| {
        let (ca, tls) = lab.acme();
        let origin = Origin::start((PUBLIC, 443), tls.clone(), |_| ok("secure"));
        let other = Origin::start((PUBLIC, 8443), tls, |_| ok("other port"));
        let clear = Origin::start((PUBLIC, 80), None, |_| ok("in clear"));
        let config = lab
            .config()
            .trusting(&ca)
            .self_hosted("acme", "https://acme.example")
            .self_hosted("port", "https://acme.example:8443");
        let gateway = lab.gateway(&config).await;
        // No port is the target's default one; a port is that port.
        for (url, expected) in [
            ("http://acme.example/a?b=c", "secure"),
            ("http://acme.example:443/a?b=c", "secure"),
            ("https://acme.example/a?b=c", "secure"),
            ("https://acme.example:443/a?b=c", "secure"),
            ("http://acme.example:8443/a?b=c", "other port"),
            ("https://acme.example:8443/a?b=c", "other port"),
        ] {
            let reply = gateway.get(url).await;
            assert_eq!((reply.status, reply.body), (200, expected.into()), "{url}");
        }
        gateway.refuse_get("http://acme.example:80/", NO_TARGET).await;
        gateway.refuse_get("https://acme.example:80/", NO_TARGET).await;
        clear.assert_not_reached();
        for (server, host) in [(&origin, "acme.example"), (&other, "acme.example:8443")] {
            for request in server.requests() {
                assert_eq!(request.line, "GET /a?b=c HTTP/1.1");
                assert_eq!(request.field("host"), Some(host));
            }
        }
    });
}

#[test]
fn plain_http_goes_to_a_target_only_where_it_is_allowed() {
    lab::run(async |lab| {
        let origin = Origin::start((PUBLIC, 80), None, |_| ok("in clear"));
        lab.dns.addresses("plain.example", &[PUBLIC]);
        let config = lab.config().self_hosted_with(
            "plain",
            "http://plain.example",
            "allow_http = true\nprivate_network_policy = \"direct\"\n\
             private_network_allowlist = [\"10.20.0.0/24\"]",
        );
        let gateway = lab.gateway(&config).await;
        assert_eq!(gateway.get("http://plain.example/x").await.body, b"in clear");
        assert_eq!(gateway.get("/targets/plain/x").await.body, b"in clear");
        gateway.refuse_get("https://plain.example/x", NO_TARGET).await;
        assert_eq!(origin.requests()[0].line, "GET /x HTTP/1.1");
    });
}

#[test]
fn a_target_is_reached_by_its_id() {
    lab::run(async |lab| {
        let (ca, tls) = lab.acme();
        let origin = Origin::start((PUBLIC, 443), tls, |_| ok("by id"));
        let config = lab.config().trusting(&ca).self_hosted("acme", "https://acme.example/jira");
        let gateway = lab.gateway(&config).await;
        for (path, expected) in [
            ("/targets/acme/rest/api?x=1&y=%2F", "GET /jira/rest/api?x=1&y=%2F HTTP/1.1"),
            ("/targets/acme/", "GET /jira/ HTTP/1.1"),
            ("/targets/acme", "GET /jira HTTP/1.1"),
            ("/targets/acme?q", "GET /jira?q HTTP/1.1"),
        ] {
            assert_eq!(gateway.get(path).await.status, 200, "{path}");
            assert_eq!(origin.requests().pop().unwrap().line, expected);
        }
        assert_eq!(origin.requests()[0].field("host"), Some("acme.example"));
        for path in ["/targets/other/x", "/targets/ACME/x", "/targets//x", "/targets/%61cme/x"] {
            gateway.refuse_get(path, (404, "GATEWAY_TARGET_UNKNOWN", "target_unknown")).await;
        }
        for path in ["/", "/x", "/targets", "/metrics", "/healthz"] {
            let expected = (400, "GATEWAY_REQUEST_INVALID", "request_target_invalid");
            gateway.refuse_get(path, expected).await;
        }
        assert_eq!(origin.requests().len(), 4);
    });
}

#[test]
fn a_target_field_that_names_another_target_than_the_path_is_refused() {
    lab::run(async |lab| {
        let (ca, tls) = lab.acme();
        let origin = Origin::start((PUBLIC, 443), tls, |_| ok(""));
        let config = lab
            .config()
            .trusting(&ca)
            .self_hosted("acme", "https://acme.example")
            .self_hosted("other", "https://acme.example");
        let gateway = lab.gateway(&config).await;
        let field = |id| [("X-WebRiskOps-Target", id)];
        let reply = gateway.fetch("GET", "/targets/acme/x", &field("other"), b"").await;
        let mismatch = (403, "SELF_HOSTED_BASE_URL_UNSAFE", "target_mismatch");
        gateway.assert_refused(&reply, mismatch).await;
        origin.assert_not_reached();
        let reply = gateway.fetch("GET", "/targets/acme/x", &field("acme"), b"").await;
        assert_eq!(reply.status, 200, "{reply:?}");
    });
}

#[test]
fn without_clients_a_target_is_reached_by_id_only_under_an_address_or_localhost() {
    lab::run(async |lab| {
        let (ca, tls) = lab.acme();
        let origin = Origin::start((PUBLIC, 443), tls, |_| ok(""));
        let token = lab.secret("token", "a-client-token-of-some-length");
        let config = lab.config().trusting(&ca).self_hosted("acme", "https://acme.example");
        let gateway = lab.gateway(&config).await;
        let ask = |host: &str| format!("GET /targets/acme/x HTTP/1.1\r\nHost: {host}\r\n\r\n");
        for host in ["rebinding.example", "rebinding.example:3128", "localhost.evil.example"] {
            let reply = gateway.ask(ask(host)).await.reply;
            let expected = (400, "GATEWAY_REQUEST_INVALID", "gateway_host_invalid");
            gateway.assert_refused(&reply, expected).await;
        }
        for site in ["cross-site", "same-site"] {
            let of_a_page = format!("127.0.0.1\r\nSec-Fetch-Site: {site}");
            let reply = gateway.ask(ask(&of_a_page)).await.reply;
            let expected = (400, "GATEWAY_REQUEST_INVALID", "gateway_host_invalid");
            gateway.assert_refused(&reply, expected).await;
        }
        origin.assert_not_reached();
        assert_eq!(gateway.ask(ask("[::1]\r\nSec-Fetch-Site: none")).await.reply.status, 200);
        for host in ["127.0.0.1:3128", "localhost", "localhost:3128", "[::1]:3128", "10.0.0.1"] {
            assert_eq!(gateway.ask(ask(host)).await.reply.status, 200, "{host}");
        }
        let client = format!(
            "name = \"app\"\ntargets = [\"*\"]\ntoken = {{ file = \"{}\" }}",
            token.display()
        );
        let gateway = lab.gateway(&config.client(&client)).await;
        let ask = "GET /targets/acme/x HTTP/1.1\r\nHost: egress.internal\r\n\
                   Proxy-Authorization: Bearer a-client-token-of-some-length\r\n\r\n";
        assert_eq!(gateway.ask(ask).await.reply.status, 200);
        let expected = (407, "GATEWAY_CLIENT_UNAUTHENTICATED", "client_unauthenticated");
        gateway.refuse_get("/targets/acme/x", expected).await;
    });
}

#[test]
fn a_client_that_speaks_http_2_is_relayed_by_the_same_rules() {
    lab::run(async |lab| {
        let (ca, tls) = lab.acme();
        let origin = Origin::start((PUBLIC, 443), tls, |request| ok(&request.line));
        let config = lab.config().trusting(&ca).self_hosted("acme", "https://acme.example/base");
        let gateway = lab.gateway(&config).await;
        let client = H2::open(gateway.proxy).await;
        for url in ["http://acme.example/base/x?y", "http://127.0.0.1:3128/targets/acme/x?y"] {
            let reply = client.get(url).await;
            assert_eq!(reply.body, b"GET /base/x?y HTTP/1.1", "{url}: {reply:?}");
        }
        let refused = [
            ("http://acme.example/elsewhere", 403, "outside_base_path"),
            ("http://127.0.0.1:3128/targets/acme/../x", 403, "path_ambiguous"),
            ("http://rebinding.example/targets/acme/x", 400, "gateway_host_invalid"),
        ];
        for (url, status, cause) in refused {
            let reply = client.get(url).await;
            let code = reply.field("x-webriskops-reason").unwrap_or_default().to_owned();
            gateway.assert_refused(&reply, (status, &code, cause)).await;
        }
        assert_eq!(origin.requests().len(), 2);
    });
}

#[test]
fn only_what_is_meant_for_the_target_reaches_it() {
    lab::run(async |lab| {
        let (ca, tls) = lab.acme();
        let origin = Origin::start((PUBLIC, 443), tls, |_| ok(""));
        let config = lab.config().trusting(&ca).self_hosted("acme", "https://acme.example");
        let gateway = lab.gateway(&config).await;
        let fields = [
            ("Connection", "keep-alive, X-Hop"),
            ("X-Hop", "1"),
            ("Keep-Alive", "timeout=5"),
            ("TE", "trailers"),
            ("Proxy-Connection", "keep-alive"),
            ("Proxy-Foo", "1"),
            ("X-WebRiskOps-Target", "acme"),
            ("Authorization", "Basic dXNlcjpwYXNz"),
            ("Cookie", "a=b"),
            ("X-Twice", "1"),
            ("X-Twice", "2"),
            ("Accept-Encoding", "gzip"),
        ];
        let reply = gateway.fetch("POST", "http://acme.example/x", &fields, b"body").await;
        assert_eq!(reply.status, 200, "{reply:?}");
        let expected = [
            ("accept-encoding", "gzip"),
            ("authorization", "Basic dXNlcjpwYXNz"),
            ("content-length", "4"),
            ("cookie", "a=b"),
            ("host", "acme.example"),
            ("x-twice", "1"),
            ("x-twice", "2"),
        ];
        let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(fields_at(&origin), expected);
        assert_eq!(origin.only().body, b"body");
    });
}

#[test]
fn a_target_cannot_speak_for_the_gateway() {
    lab::run(async |lab| {
        let (ca, tls) = lab.acme();
        let _origin = Origin::start((PUBLIC, 443), tls, |_| {
            let fields = [
                ("X-WebRiskOps-Reason", "FORGED"),
                ("X-WebRiskOps-Replayed", "true"),
                ("Proxy-Status", "egress-gateway; error=dns_error"),
                ("Proxy-Authenticate", "Basic"),
                ("Connection", "X-Hop"),
                ("X-Hop", "1"),
                ("Keep-Alive", "timeout=5"),
                ("Server", "nginx"),
                ("Content-Location", "/y"),
                ("Refresh", "0; url=/z"),
                ("Date", "Sun, 06 Nov 1994 08:49:37 GMT"),
                ("Content-Encoding", "gzip"),
            ];
            answer("403 No Way", &fields, "not gzip at all")
        });
        let config = lab.config().trusting(&ca).self_hosted("acme", "https://acme.example");
        let gateway = lab.gateway(&config).await;
        let reply = gateway.get("http://acme.example/x").await;
        let mut fields = reply.fields.clone();
        fields.sort();
        let expected = [
            ("content-encoding", "gzip"),
            ("content-length", "15"),
            ("content-location", "/y"),
            ("date", "Sun, 06 Nov 1994 08:49:37 GMT"),
            ("refresh", "0; url=/z"),
            ("server", "nginx"),
        ];
        let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(fields, expected);
        assert_eq!((reply.status, &*reply.body), (403, &b"not gzip at all"[..]));
    });
}

#[test]
fn a_target_cannot_speak_for_the_gateway_behind_its_body() {
    lab::run(async |lab| {
        let (ca, tls) = lab.acme();
        let _origin = Origin::start((PUBLIC, 443), tls, |_| {
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\
              Trailer: X-WebRiskOps-Reason, Proxy-Status, X-Sum\r\n\r\n\
              1\r\na\r\n0\r\nX-WebRiskOps-Reason: FORGED\r\nProxy-Status: x\r\nX-Sum: 1\r\n\r\n"
                .to_vec()
        });
        let config = lab.config().trusting(&ca).self_hosted("acme", "https://acme.example");
        let gateway = lab.gateway(&config).await;
        let mut conn = Conn::open(gateway.proxy).await;
        conn.send(
            "GET http://acme.example/ HTTP/1.1\r\nHost: acme.example\r\nTE: trailers\r\n\
             Connection: TE\r\n\r\n",
        )
        .await;
        assert_eq!(conn.reply().await.trailers, [("x-sum".to_owned(), "1".to_owned())]);
    });
}

#[test]
fn an_answer_with_a_length_beside_its_chunks_is_passed_on_whole() {
    lab::run(async |lab| {
        let (ca, tls) = lab.acme();
        let _origin = Origin::start((PUBLIC, 443), tls, |_| {
            b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n\
              5\r\nwhole\r\n0\r\n\r\n"
                .to_vec()
        });
        let config = lab.config().trusting(&ca).self_hosted("acme", "https://acme.example");
        let gateway = lab.gateway(&config).await;
        let reply = gateway.get("http://acme.example/").await;
        assert_eq!((reply.field("content-length"), &*reply.body), (None, &b"whole"[..]));
    });
}

#[test]
fn a_host_field_at_odds_with_the_url_is_refused() {
    lab::run(async |lab| {
        let (ca, tls) = lab.acme();
        let origin = Origin::start((PUBLIC, 443), tls, |_| ok(""));
        let config = lab.config().trusting(&ca).self_hosted("acme", "https://acme.example");
        let gateway = lab.gateway(&config).await;
        for host in ["internal", "acme.example.", "acme.example:8080"] {
            let head = format!("GET http://acme.example/ HTTP/1.1\r\nHost: {host}\r\n\r\n");
            let reply = gateway.ask(head).await.reply;
            if host == "acme.example." {
                assert_eq!(reply.status, 200, "the same host, written otherwise: {reply:?}");
                continue;
            }
            let expected = (400, "GATEWAY_REQUEST_INVALID", "host_mismatch");
            gateway.assert_refused(&reply, expected).await;
        }
        assert_eq!(origin.only().field("host"), Some("acme.example"));
    });
}

#[test]
fn trailers_pass_in_both_directions() {
    lab::run(async |lab| {
        let (ca, tls) = lab.acme();
        let origin = Origin::start((PUBLIC, 443), tls, |_| {
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n\
              3\r\nabc\r\n0\r\nX-Sum: down\r\n\r\n"
                .to_vec()
        });
        let config = lab.config().trusting(&ca).self_hosted("acme", "https://acme.example");
        let gateway = lab.gateway(&config).await;
        let request = "POST http://acme.example/ HTTP/1.1\r\nHost: acme.example\r\n\
                       TE: trailers\r\nConnection: TE\r\nTransfer-Encoding: chunked\r\n\
                       Trailer: X-Sum\r\n\r\n2\r\nup\r\n0\r\nX-Sum: up\r\n\r\n";
        let reply = gateway.ask(request).await.reply;
        assert_eq!(reply.body, b"abc");
        assert_eq!(reply.trailers, [("x-sum".to_owned(), "down".to_owned())]);
        let request = origin.only();
        assert_eq!(request.body, b"up");
        assert_eq!(request.trailers, [("x-sum".to_owned(), "up".to_owned())]);
    });
}

#[test]
fn a_body_of_unknown_length_reaches_the_target_whatever_the_method() {
    lab::run(async |lab| {
        let (ca, tls) = lab.acme();
        let origin = Origin::start((PUBLIC, 443), tls, |_| ok(""));
        let config = lab.config().trusting(&ca).self_hosted("acme", "https://acme.example");
        let gateway = lab.gateway(&config).await;
        for method in ["GET", "DELETE", "POST", "PROPFIND"] {
            let chunked = [("Transfer-Encoding", "chunked")];
            let head = request_head(method, "http://acme.example/", &chunked, 0);
            let reply = gateway.ask(head + "5\r\nquery\r\n0\r\n\r\n").await.reply;
            assert_eq!(reply.status, 200, "{method}: {reply:?}");
            let request = origin.requests().pop().unwrap();
            assert_eq!(
                (request.line, request.body),
                (format!("{method} / HTTP/1.1"), "query".into())
            );
        }
    });
}

#[test]
fn a_client_that_waits_for_100_gets_it_once_the_target_stands() {
    lab::run(async |lab| {
        let (ca, tls) = lab.acme();
        let config = lab.config().trusting(&ca).self_hosted("acme", "https://acme.example");
        let gateway = lab.gateway(&config).await;
        let head = request_head("PUT", "http://acme.example/", &[("Expect", "100-continue")], 4);
        // Nobody there: the answer comes at once, and the body need not be sent.
        let reply = gateway.ask(&head).await.reply;
        gateway.assert_refused(&reply, (502, BROKEN, "connect_refused")).await;

        let origin = Origin::start((PUBLIC, 443), tls, |_| ok("done"));
        let mut conn = Conn::open(gateway.proxy).await;
        conn.send(&head).await;
        assert_eq!(conn.reply_head().await.status, 100);
        conn.send("body").await;
        assert_eq!(conn.reply().await.body, b"done");
        let request = origin.only();
        assert_eq!((request.body.as_slice(), request.field("expect")), (&b"body"[..], None));
    });
}

#[test]
fn answers_without_a_body_have_none() {
    lab::run(async |lab| {
        let (ca, tls) = lab.acme();
        let _origin = Origin::start((PUBLIC, 443), tls, |request| {
            match request.line.split(' ').nth(1).unwrap() {
                "/204" => b"HTTP/1.1 204 No Content\r\n\r\n".to_vec(),
                "/304" => b"HTTP/1.1 304 Not Modified\r\nETag: \"a\"\r\n\r\n".to_vec(),
                "/head" => b"HTTP/1.1 200 OK\r\nContent-Length: 1234\r\n\r\n".to_vec(),
                _ => ok("after"),
            }
        });
        let config = lab.config().trusting(&ca).self_hosted("acme", "https://acme.example");
        let gateway = lab.gateway(&config).await;
        let mut conn = Conn::open(gateway.proxy).await;
        for (method, path, status) in
            [("GET", "/204", 204), ("GET", "/304", 304), ("HEAD", "/head", 200)]
        {
            conn.send(request_head(method, &format!("http://acme.example{path}"), &[], 0)).await;
            let reply = conn.reply_head().await;
            assert_eq!(reply.status, status, "{path}");
            let length = (path == "/head").then_some("1234");
            assert_eq!(reply.field("content-length"), length, "{path}");
            // What comes next on the connection is the next answer.
            conn.send(request_head("GET", "http://acme.example/", &[], 0)).await;
            assert_eq!(conn.reply().await.body, b"after", "{path}");
        }
    });
}

#[test]
fn an_http_1_0_client_gets_an_answer_that_it_understands() {
    lab::run(async |lab| {
        let (ca, tls) = lab.acme();
        let _origin = Origin::start((PUBLIC, 443), tls, |_| {
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n".to_vec()
        });
        let config = lab.config().trusting(&ca).self_hosted("acme", "https://acme.example");
        let gateway = lab.gateway(&config).await;
        let mut conn = Conn::open(gateway.proxy).await;
        conn.send("GET http://acme.example/ HTTP/1.0\r\n\r\n").await;
        let reply = conn.reply_head().await;
        assert_eq!((reply.status, reply.field("transfer-encoding")), (200, None));
        assert_eq!(conn.rest().await, Rest::Finished(b"abc".to_vec()));
    });
}

#[test]
fn pipelined_requests_are_answered_in_their_order() {
    lab::run(async |lab| {
        let (ca, tls) = lab.acme();
        let origin = Origin::start((PUBLIC, 443), tls, |request| ok(&request.line));
        let config = lab.config().trusting(&ca).self_hosted("acme", "https://acme.example");
        let gateway = lab.gateway(&config).await;
        let mut conn = Conn::open(gateway.proxy).await;
        let all: String = (0..5)
            .map(|n| request_head("GET", &format!("http://acme.example/{n}"), &[], 0))
            .collect();
        conn.send(all).await;
        for n in 0..5 {
            assert_eq!(conn.reply().await.body, format!("GET /{n} HTTP/1.1").into_bytes());
        }
        assert_eq!((origin.requests().len(), origin.accepted()), (5, 1));
    });
}

#[test]
fn an_answer_may_come_while_the_body_still_flows() {
    lab::run(async |lab| {
        let (ca, tls) = lab.acme();
        let origin = Origin::with((PUBLIC, 443), tls, async |mut conn| {
            drop(conn.request_head().await);
            conn.send("HTTP/1.1 413 Too Large\r\nContent-Length: 5\r\nConnection: close\r\n\r\n")
                .await;
            conn.send("stop!").await;
            drop(conn.until_closed().await);
        });
        let config = lab.config().trusting(&ca).self_hosted("acme", "https://acme.example");
        let gateway = lab.gateway(&config).await;
        let mut conn = Conn::open(gateway.proxy).await;
        conn.send(request_head("PUT", "http://acme.example/", &[], 1 << 30)).await;
        conn.send(vec![7; 100_000]).await;
        let reply = conn.reply().await;
        assert_eq!((reply.status, reply.body.as_slice()), (413, &b"stop!"[..]));
        assert_eq!(origin.accepted(), 1);
    });
}

#[test]
fn a_client_that_goes_away_cancels_what_is_asked_of_the_target() {
    lab::run(async |lab| {
        let (ca, tls) = lab.acme();
        let (ended, mut gone) = tokio::sync::mpsc::unbounded_channel();
        let (comes, mut came) = tokio::sync::mpsc::unbounded_channel();
        let _origin = Origin::with((PUBLIC, 443), tls, move |mut conn| {
            let (ended, comes) = (ended.clone(), comes.clone());
            async move {
                let request = conn.request().await.unwrap().unwrap();
                if request.line.contains("/half") {
                    conn.send("HTTP/1.1 200 OK\r\nContent-Length: 9999999\r\n\r\nhalf").await;
                } else {
                    comes.send(()).unwrap();
                }
                drop(conn.until_closed().await);
                ended.send(request.line).unwrap();
            }
        });
        let config = lab.config().trusting(&ca).self_hosted("acme", "https://acme.example");
        let gateway = lab.gateway(&config).await;
        for (path, aborted) in [("/half", false), ("/nothing", true)] {
            let mut conn = Conn::open(gateway.proxy).await;
            conn.send(request_head("GET", &format!("http://acme.example{path}"), &[], 0)).await;
            if path == "/half" {
                assert_eq!(conn.reply_head().await.status, 200);
            } else {
                let came = crate::support::within("the request's arrival", came.recv());
                assert!(came.await.is_some());
            }
            conn.reset();
            let line = crate::support::within("the target notices", gone.recv()).await.unwrap();
            assert!(line.contains(path), "{line}");
            let event = gateway
                .wait_event(path, |event| {
                    event.is_canonical() && (event.text("decision") == "aborted") == aborted
                })
                .await;
            let said = if aborted { event.text("cause") } else { event.text("end") };
            assert_eq!(said, "client_gone", "{event:?}");
        }
    });
}

#[test]
fn an_answer_that_is_cut_short_never_looks_whole() {
    lab::run(async |lab| {
        let (ca, tls) = lab.acme();
        let _origin = Origin::with((PUBLIC, 443), tls, async |mut conn| {
            let request = conn.request().await.unwrap().unwrap();
            let head: &[u8] = match request.line.split(' ').nth(1).unwrap() {
                "/length" => b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\npart of it",
                "/chunked" => {
                    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\na\r\npart of it\r\n"
                }
                "/broken-chunk" => {
                    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\na\r\npart of it\r\nzz\r\n"
                }
                // Ends with the connection, which ends without TLS' own end.
                _ => b"HTTP/1.1 200 OK\r\n\r\npart of it",
            };
            conn.send(head).await;
        });
        let config = lab.config().trusting(&ca).self_hosted("acme", "https://acme.example");
        let gateway = lab.gateway(&config).await;
        for path in ["/length", "/chunked", "/broken-chunk", "/until-close"] {
            for version in ["1.1", "1.0"] {
                let mut conn = Conn::open(gateway.proxy).await;
                let url = format!("http://acme.example{path}");
                conn.send(format!("GET {url} HTTP/{version}\r\nHost: acme.example\r\n\r\n")).await;
                match conn.rest().await {
                    Rest::Reset(_) => {}
                    Rest::Finished(bytes) => {
                        panic!("{path}, HTTP/{version}: {}", String::from_utf8_lossy(&bytes))
                    }
                }
            }
        }
        gateway.assert_recorded(8).await;
        let cut = gateway.canonical().into_iter();
        let ends: Vec<_> = cut.map(|event| event.text("end").to_owned()).collect();
        assert_eq!(ends, vec!["response_incomplete"; 8]);
    });
}

#[test]
fn a_target_that_fails_before_its_answer_is_told_apart() {
    lab::run(async |lab| {
        let (ca, tls) = lab.acme();
        let config = lab.config().trusting(&ca).self_hosted("acme", "https://acme.example");
        let config = config.set("limits.response_timeout", "1s");
        let gateway = lab.gateway(&config).await;
        gateway.refuse_get("http://acme.example/", (502, BROKEN, "connect_refused")).await;
        let _origin = Origin::with((PUBLIC, 443), tls, async |mut conn| {
            let request = conn.request().await.unwrap().unwrap();
            match request.line.split(' ').nth(1).unwrap() {
                "/closed" => {}
                "/reset" => conn.reset(),
                "/garbage" => conn.send("SSH-2.0-OpenSSH_9.9\r\n\r\n").await,
                "/two-lengths" => {
                    conn.send(
                        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
                    )
                    .await;
                }
                "/switched" => {
                    conn.send(
                        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\
                               Connection: upgrade\r\n\r\n",
                    )
                    .await;
                    drop(conn.until_closed().await);
                }
                "/endless" => {
                    let line = format!("X-A: {}\r\n", "a".repeat(8000));
                    drop(conn.try_send("HTTP/1.1 200 OK\r\n").await);
                    while conn.try_send(&line).await.is_ok() {}
                }
                _ => drop(conn.until_closed().await),
            }
        });
        for (path, expected) in [
            ("/closed", (502, BROKEN, "response_incomplete")),
            ("/reset", (502, BROKEN, "response_incomplete")),
            ("/garbage", (502, BROKEN, "response_invalid")),
            ("/two-lengths", (502, BROKEN, "response_invalid")),
            ("/switched", (502, BROKEN, "response_invalid")),
            ("/endless", (502, BROKEN, "response_invalid")),
            ("/silent", (504, BROKEN, "response_timeout")),
        ] {
            let event = gateway.refuse_get(&format!("http://acme.example{path}"), expected).await;
            assert_eq!(event.text("mode"), "relay", "{event:?}");
            assert_eq!(event.text("target"), "acme", "{event:?}");
        }
    });
}

#[test]
fn a_client_that_sends_its_body_slowly_is_no_slow_target() {
    lab::run(async |lab| {
        let (ca, tls) = lab.acme();
        let _origin =
            Origin::start((PUBLIC, 443), tls, |request| ok(&request.body.len().to_string()));
        let config = lab.config().trusting(&ca).self_hosted("acme", "https://acme.example");
        let gateway = lab.gateway(&config.set("limits.response_timeout", "300ms")).await;
        let mut conn = Conn::open(gateway.proxy).await;
        conn.send(request_head("POST", "http://acme.example/", &[], 6)).await;
        conn.send("abc").await;
        // Longer than the limit; what is awaited here is that nothing happens.
        let early = tokio::time::timeout(std::time::Duration::from_secs(1), conn.reply_head());
        assert!(early.await.is_err(), "an answer before the body was there");
        conn.send("def").await;
        assert_eq!(conn.reply().await.body, b"6");
    });
}

#[test]
fn what_is_carried_is_recorded_once_with_bytes_and_timings() {
    lab::run(async |lab| {
        let (ca, tls) = lab.acme();
        let _origin = Origin::start((PUBLIC, 443), tls, |_| ok("twelve bytes"));
        let config = lab.config().trusting(&ca).self_hosted("acme", "https://acme.example");
        let gateway = lab.gateway(&config).await;
        let url = "http://acme.example/secret-path?token=dahlia";
        let reply = gateway.fetch("POST", url, &[], b"four").await;
        assert_eq!(reply.body, b"twelve bytes");
        let event = gateway.wait_event("canonical", Event::is_canonical).await;
        for (field, expected) in [
            ("mode", "relay"),
            ("method", "POST"),
            ("authority", "acme.example:443"),
            ("decision", "allowed"),
            ("target", "acme"),
            ("pinned", "93.184.215.14:443"),
            ("route", "direct"),
            ("end", "closed"),
        ] {
            assert_eq!(event.text(field), expected, "{event:?}");
        }
        for (field, expected) in [("bytes_to_target", 4), ("bytes_to_client", 12), ("status", 200)]
        {
            assert_eq!(event.number(field), expected, "{event:?}");
        }
        for timing in ["auth", "policy", "dns", "connect", "tls", "first_byte", "total"] {
            assert!(
                event.get(timing).as_f64().is_some_and(|time| time > 0.0),
                "{timing}: {event:?}"
            );
        }
        gateway.assert_recorded(1).await;
        assert!(!gateway.log_text().contains("dahlia"), "{}", gateway.log_text());
        let relay = |direction| [("mode", "relay"), ("direction", direction)];
        let metrics = gateway.metrics().await;
        assert!((metrics.sum("egress_bytes_total", &relay("to_target")) - 4.0).abs() < 0.1);
        assert!((metrics.sum("egress_bytes_total", &relay("to_client")) - 12.0).abs() < 0.1);
        assert!(metrics.sum("egress_tls_handshake_duration_seconds_count", &[]) > 0.0);
    });
}

#[test]
fn a_target_takes_no_more_at_once_than_its_limit() {
    lab::run(async |lab| {
        let (ca, tls) = lab.acme();
        let _origin = Origin::with((PUBLIC, 443), tls, async |mut conn| {
            drop(conn.request().await);
            conn.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nha").await;
            drop(conn.until_closed().await);
        });
        let config = lab.config().trusting(&ca).set("limits.max_in_flight_per_target", 1);
        let gateway = lab.gateway(&config.self_hosted("acme", "https://acme.example")).await;
        let mut first = Conn::open(gateway.proxy).await;
        first.send(request_head("GET", "http://acme.example/", &[], 0)).await;
        assert_eq!(first.reply_head().await.status, 200);
        let expected = (503, "GATEWAY_OVERLOADED", "target_in_flight_limit");
        gateway.refuse_get("http://acme.example/", expected).await;
        first.reset();
        eventually("there is room again", async || {
            let mut conn = Conn::open(gateway.proxy).await;
            conn.send(request_head("GET", "http://acme.example/", &[], 0)).await;
            (conn.reply_head().await.status == 200).then_some(())
        })
        .await;
    });
}

const STREAMED: usize = 256 * 1024 * 1024;

#[test]
fn a_large_answer_streams_through_without_being_held() {
    lab::run(async |lab| {
        let (ca, tls) = lab.acme();
        let _origin = Origin::with((PUBLIC, 443), tls, async |mut conn| {
            while let Ok(Some(request)) = conn.request().await {
                if request.line.contains("/small") {
                    conn.send(ok("small")).await;
                    continue;
                }
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {STREAMED}\r\n\r\n");
                conn.send(head).await;
                let chunk = vec![7; 1 << 18];
                for _ in 0..STREAMED >> 18 {
                    if conn.try_send(&chunk).await.is_err() {
                        return;
                    }
                }
            }
        });
        let config = lab.config().trusting(&ca).self_hosted("acme", "https://acme.example");
        let gateway = lab.gateway(&config).await;
        assert_eq!(gateway.get("http://acme.example/small").await.body, b"small");
        let before = resident(&gateway).await;
        let mut conn = Conn::open(gateway.proxy).await;
        conn.send(request_head("GET", "http://acme.example/large", &[], 0)).await;
        assert_eq!(conn.reply_head().await.status, 200);
        // At first the client does not read at all: nothing may pile up meanwhile.
        stalled(&gateway, "to_client").await;
        let waiting = resident(&gateway).await;
        assert!(waiting - before < 16e6, "{before} became {waiting}");
        let mut left = STREAMED;
        let mut buffer = vec![0; 1 << 18];
        while left > 0 {
            let length = tokio::io::AsyncReadExt::read(&mut conn, &mut buffer).await.unwrap();
            assert!(length > 0, "{left} bytes are missing");
            left -= length;
        }
        let after = resident(&gateway).await;
        assert!(after - before < 16e6, "{before} became {after}");
    });
}

#[test]
fn a_large_request_streams_through_without_being_held() {
    lab::run(async |lab| {
        let (ca, tls) = lab.acme();
        let (go, started) = tokio::sync::watch::channel(false);
        let _origin = Origin::with((PUBLIC, 443), tls, move |mut conn| {
            let mut started = started.clone();
            async move {
                drop(conn.request_head().await);
                started.wait_for(|go| *go).await.unwrap();
                let mut left = STREAMED;
                let mut buffer = vec![0; 1 << 18];
                while left > 0 {
                    let length =
                        tokio::io::AsyncReadExt::read(&mut conn, &mut buffer).await.unwrap();
                    assert!(length > 0);
                    left -= length;
                }
                conn.send(ok("all here")).await;
            }
        });
        let config = lab.config().trusting(&ca).self_hosted("acme", "https://acme.example");
        let gateway = lab.gateway(&config).await;
        let before = resident(&gateway).await;
        let mut conn = Conn::open(gateway.proxy).await;
        conn.send(request_head("POST", "http://acme.example/", &[], STREAMED)).await;
        let (mut down, mut up) = tokio::io::split(conn);
        let writer = tokio::spawn(async move {
            let chunk = vec![7; 1 << 18];
            for _ in 0..STREAMED >> 18 {
                tokio::io::AsyncWriteExt::write_all(&mut up, &chunk).await.unwrap();
            }
            up
        });
        // The target does not read: nothing may pile up meanwhile.
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
        let waiting = resident(&gateway).await;
        assert!(waiting - before < 16e6, "{before} became {waiting}");
        assert!(!writer.is_finished(), "everything was taken in");
        go.send(true).unwrap();
        let mut said = vec![0; 12];
        tokio::io::AsyncReadExt::read_exact(&mut down, &mut said).await.unwrap();
        assert_eq!(said, b"HTTP/1.1 200");
        writer.await.unwrap();
        let after = resident(&gateway).await;
        assert!(after - before < 16e6, "{before} became {after}");
    });
}

async fn resident(gateway: &Gateway) -> f64 {
    gateway.metrics().await.sum("process_resident_memory_bytes", &[])
}

/// Waits until no more bytes move in this direction.
async fn stalled(gateway: &Gateway, direction: &str) {
    let direction = [("mode", "relay"), ("direction", direction)];
    let mut carried = 0.0;
    eventually("the stream stalls", async || {
        let former = carried;
        carried = gateway.metrics().await.sum("egress_bytes_total", &direction);
        (carried > 1e5 && (carried - former).abs() < 0.1).then_some(())
    })
    .await;
}

/// Where [`Lab::acme`] keeps the certificate of its authority.
fn roots(lab: &Lab) -> toml::Value {
    toml::Value::Array(vec![lab.dir().join("relay-ca.pem").display().to_string().into()])
}

/// Two requests, one after the other; gives how many connections they took.
async fn connections_of_two(lab: &Lab, between: impl AsyncFnOnce(&Origin, &Gateway)) -> usize {
    let (ca, tls) = lab.acme();
    let origin = Origin::start((PUBLIC, 443), tls, |_| ok("hello"));
    let config = lab.config().trusting(&ca).self_hosted("acme", "https://acme.example");
    let gateway = lab.gateway(&config).await;
    assert_eq!(gateway.get("http://acme.example/").await.body, b"hello");
    between(&origin, &gateway).await;
    assert_eq!(gateway.get("http://acme.example/").await.body, b"hello");
    origin.accepted()
}

#[test]
fn a_connection_to_a_target_is_used_again_by_other_clients_connections() {
    lab::run(async |lab| {
        assert_eq!(connections_of_two(&lab, async |_, _| ()).await, 1);
    });
}

#[test]
fn a_connection_to_a_target_is_not_used_again_after_a_reload() {
    lab::run(async |lab| {
        let reload = async |_: &Origin, gateway: &Gateway| {
            let config = lab.config().set("tls.extra_roots", roots(&lab));
            let config = config.self_hosted("acme", "https://acme.example");
            gateway.reload(&config.set("limits.idle_timeout", "5m")).await;
        };
        assert_eq!(connections_of_two(&lab, reload).await, 2);
    });
}

#[test]
fn roots_that_are_taken_away_end_what_they_had_vouched_for() {
    lab::run(async |lab| {
        let (ca, tls) = lab.acme();
        let origin = Origin::start((PUBLIC, 443), tls, |_| ok("hello"));
        let config = lab.config().self_hosted("acme", "https://acme.example");
        let gateway = lab.gateway(&config.clone().trusting(&ca)).await;
        assert_eq!(gateway.get("http://acme.example/").await.body, b"hello");
        gateway.reload(&config).await;
        let expected = (502, "SELF_HOSTED_TLS_INVALID", "tls_unknown_issuer");
        gateway.refuse_get("http://acme.example/", expected).await;
        assert_eq!(origin.requests().len(), 1);
    });
}

#[test]
fn a_connection_is_not_used_again_when_the_name_leads_elsewhere() {
    lab::run(async |lab| {
        let (ca, tls) = lab.acme();
        let first = Origin::start((PUBLIC, 443), tls.clone(), |_| ok("first"));
        let second = Origin::start((PUBLIC_2, 443), tls, |_| ok("second"));
        let config = lab.config().trusting(&ca).self_hosted("acme", "https://acme.example");
        let gateway = lab.gateway(&config).await;
        assert_eq!(gateway.get("http://acme.example/").await.body, b"first");
        lab.dns.addresses("acme.example", &[PUBLIC_2]);
        // An answer of DNS is used for a second at least.
        eventually("the new address is asked", async || {
            (gateway.get("http://acme.example/").await.body == b"second").then_some(())
        })
        .await;
        lab.dns.addresses("acme.example", &["127.0.0.1".parse().unwrap()]);
        let refused = eventually("the forbidden address is seen", async || {
            Some(gateway.get("http://acme.example/").await).filter(|reply| reply.status != 200)
        })
        .await;
        let expected = (403, "SELF_HOSTED_BASE_URL_UNSAFE", "address_forbidden");
        gateway.assert_refused(&refused, expected).await;
        assert_eq!((first.accepted(), second.accepted()), (1, 1));
    });
}

#[test]
fn a_connection_that_the_target_closed_meanwhile_is_replaced() {
    lab::run(async |lab| {
        let (ca, tls) = lab.acme();
        let origin = Origin::with((PUBLIC, 443), tls, async |mut conn| {
            drop(conn.request().await);
            // Promises to stay, and closes.
            conn.send(ok("hello")).await;
            conn.finish().await;
        });
        let config = lab.config().trusting(&ca).self_hosted("acme", "https://acme.example");
        let gateway = lab.gateway(&config).await;
        for _ in 0..20 {
            let reply = gateway.fetch("POST", "http://acme.example/", &[], b"x").await;
            // Either it was seen in time, or the request was on its way: then nobody knows
            // whether it was carried out, and it is not sent twice.
            assert!(reply.body == b"hello" || reply.status == 502, "{reply:?}");
        }
        assert!(origin.accepted() > 10, "{}", origin.accepted());
    });
}

#[test]
fn a_request_that_may_have_been_carried_out_is_not_sent_again() {
    lab::run(async |lab| {
        let (ca, tls) = lab.acme();
        let origin = Origin::start((PUBLIC, 443), tls, |request| {
            if request.line.contains("/close") { Vec::new() } else { ok("hello") }
        });
        let config = lab.config().trusting(&ca).self_hosted("acme", "https://acme.example");
        let gateway = lab.gateway(&config).await;
        assert_eq!(gateway.get("http://acme.example/").await.body, b"hello");
        // Read by the target on the kept connection, and then closed.
        let expected = (502, BROKEN, "response_incomplete");
        gateway.refuse_get("http://acme.example/close", expected).await;
        let lines: Vec<_> = origin.requests().into_iter().map(|request| request.line).collect();
        assert_eq!(lines, ["GET / HTTP/1.1", "GET /close HTTP/1.1"]);
        assert_eq!(origin.accepted(), 1);
    });
}

#[test]
fn http_2_is_spoken_where_the_target_offers_it_over_one_connection() {
    lab::run(async |lab| {
        let ca = lab.ca("relay-ca");
        let identity = ca.server(&["acme.example"]);
        lab.dns.addresses("acme.example", &[PUBLIC]);
        let tls = identity.server_config_with(&["h2", "http/1.1"]);
        let origin = Origin::http2((PUBLIC, 443), tls);
        let config = lab.config().trusting(&ca).self_hosted("acme", "https://acme.example");
        let gateway = lab.gateway(&config).await;
        for _ in 0..5 {
            let fields = [("Connection", "keep-alive"), ("X-A", "1"), ("TE", "trailers")];
            let reply = gateway.fetch("POST", "http://acme.example/x?y", &fields, b"body").await;
            assert_eq!((reply.status, reply.body.as_slice()), (200, &b"over h2"[..]));
        }
        let chunked =
            request_head("POST", "http://acme.example/x?y", &[("Transfer-Encoding", "chunked")], 0);
        let reply = gateway.ask(chunked + "4\r\nbody\r\n0\r\n\r\n").await.reply;
        assert_eq!(reply.body, b"over h2");
        assert_eq!((origin.accepted(), origin.requests().len()), (1, 6));
        for request in origin.requests() {
            assert_eq!(request.line, "POST https://acme.example/x?y HTTP/2.0");
            assert_eq!(request.body, b"body");
            for hop in ["host", "connection", "te", "transfer-encoding"] {
                assert_eq!(request.field(hop), None, "{request:?}");
            }
        }
    });
}

#[test]
fn nothing_else_is_reached_while_requests_are_relayed() {
    lab::run(async |lab| {
        let canary = crate::support::canary::Canary::everywhere(&[80, 443, 8080]);
        let (ca, tls) = lab.acme();
        let _origin = Origin::start((PUBLIC, 443), tls, |_| ok(""));
        let mut config = lab.config().trusting(&ca).self_hosted("acme", "https://acme.example");
        let forbidden = ["127.0.0.1", "169.254.169.254", "10.20.0.5", "::1", "0.0.0.0"];
        for (n, address) in forbidden.iter().enumerate() {
            lab.dns.addresses(&format!("bad{n}.example"), &[address.parse().unwrap()]);
            config = config.self_hosted(&format!("bad{n}"), &format!("https://bad{n}.example"));
        }
        let gateway = lab.gateway(&config).await;
        for url in [
            "http://acme.example/",
            "http://127.0.0.1/",
            "http://169.254.169.254/latest/meta-data/",
            "http://[::1]/",
            "http://acme.example@127.0.0.1/",
            "http://2130706433/",
            "http://0x7f.1/",
            "http://acme.example:8080/",
            "ftp://acme.example/",
            "gopher://127.0.0.1:80/",
            "http:///etc/passwd",
            "http:127.0.0.1/",
            "/targets/127.0.0.1/",
        ] {
            let head = format!("GET {url} HTTP/1.1\r\nHost: acme.example\r\n\r\n");
            let status = gateway.ask(head).await.reply.status;
            assert_eq!(status == 200, url == "http://acme.example/", "{url}: {status}");
        }
        for (n, address) in forbidden.iter().enumerate() {
            for url in [format!("http://bad{n}.example/"), format!("/targets/bad{n}/")] {
                assert_eq!(gateway.get(&url).await.status, 403, "{address}");
            }
        }
        canary.assert_silent().await;
    });
}

#[test]
fn a_refused_request_is_recorded_with_the_host_that_it_asked_for() {
    lab::run(async |lab| {
        let gateway = lab.gateway_with_acme().await;
        let event = gateway.refuse_get("http://nobody.example/x?token=1", NO_TARGET).await;
        assert_eq!(event.text("authority"), "nobody.example:80");
    });
}
