//! Every wait has a limit, and nobody holds what others need.

use crate::support::{
    eventually,
    h2::H2,
    http::{Conn, connect_head},
    lab::{self, PUBLIC},
    receiver::Receiver,
    within,
};
use std::time::Duration;
use tokio::time::Instant;

const INVALID: &str = "GATEWAY_REQUEST_INVALID";
const OVERLOADED: &str = "GATEWAY_OVERLOADED";

#[test]
fn a_slow_head_is_answered_with_408() {
    lab::run(async |lab| {
        let gateway = lab.gateway(&lab.config().set("limits.header_timeout", "1s")).await;
        let start = Instant::now();
        let mut conn = Conn::open(gateway.proxy).await;
        conn.send("CONNECT acme.example:443 HTTP/1.1\r\nHost: ").await;
        let reply = conn.reply().await;
        gateway.assert_refused(&reply, (408, INVALID, "head_timeout")).await;
        assert!(start.elapsed() >= Duration::from_millis(900), "{:?}", start.elapsed());
        assert_eq!(conn.until_closed().await, b"");
    });
}

#[test]
fn a_head_that_drips_does_not_gain_time() {
    lab::run(async |lab| {
        let gateway = lab.gateway(&lab.config().set("limits.header_timeout", "1s")).await;
        let mut conn = Conn::open(gateway.proxy).await;
        let start = Instant::now();
        let mut beat = tokio::time::interval(Duration::from_millis(100));
        conn.send("CONNECT acme.example:443 HTTP/1.1\r\nX-Drip: ").await;
        // The client drips until the gateway has closed, or far beyond the limit.
        while start.elapsed() < Duration::from_secs(8) && conn.try_send("x").await.is_ok() {
            beat.tick().await;
        }
        assert!(start.elapsed() < Duration::from_secs(8), "a dripping head held its slot");
    });
}

#[test]
fn a_connection_that_says_nothing_is_closed() {
    lab::run(async |lab| {
        let config = lab.config().set("limits.header_timeout", "1s");
        let gateway = lab.gateway(&config.set("limits.idle_timeout", "2s")).await;
        let mut silent = Conn::open(gateway.proxy).await;
        // HTTP/2 that stops after its preface.
        let mut preface = Conn::open(gateway.proxy).await;
        preface.send("PRI * HTTP/2.0\r\n").await;
        silent.until_closed().await;
        preface.until_closed().await;
        gateway.wait_metric("egress_connections", &[("kind", "client")], |open| open == 0.0).await;
    });
}

#[test]
fn an_oversized_head_is_answered_with_431() {
    lab::run(async |lab| {
        let receiver = Receiver::echo((PUBLIC, 443));
        lab.dns.addresses("acme.example", &[PUBLIC]);
        let config = lab.config().self_hosted("acme", "https://acme.example");
        let gateway = lab.gateway(&config.set("limits.max_header_bytes", "8KiB")).await;
        let one = format!("X-Long: {}\r\n", "a".repeat(10_000));
        let many = "X-Short: a\r\n".repeat(1000);
        let endless = format!("X-Endless: {}", "a".repeat(10_000));
        for fields in [one, many] {
            let head = format!(
                "CONNECT acme.example:443 HTTP/1.1\r\nHost: acme.example:443\r\n{fields}\r\n"
            );
            let reply = gateway.ask(head).await.reply;
            gateway.assert_refused(&reply, (431, INVALID, "head_too_large")).await;
        }
        // Without an end, and in the request line.
        for start in [
            format!("CONNECT acme.example:443 HTTP/1.1\r\n{endless}"),
            format!("CONNECT {}:443 HTTP/1.1\r\n", "a".repeat(10_000)),
        ] {
            let reply = gateway.ask(start).await.reply;
            gateway.assert_refused(&reply, (431, INVALID, "head_too_large")).await;
        }
        receiver.assert_not_reached();
        // A large head within the limit is none of that.
        let within = [("X-Large", "a".repeat(6000))];
        let within = within.each_ref().map(|(name, value)| (*name, value.as_str()));
        let reply = gateway.connect_with("acme.example:443", &within).await.reply;
        assert_eq!(reply.status, 200, "{reply:?}");
    });
}

#[test]
fn more_connections_than_allowed_are_told_so() {
    lab::run(async |lab| {
        let _receiver = Receiver::echo((PUBLIC, 443));
        lab.dns.addresses("acme.example", &[PUBLIC]);
        let config = lab.config().self_hosted("acme", "https://acme.example");
        let gateway = lab.gateway(&config.set("limits.max_connections", 3)).await;
        let mut tunnels = Vec::new();
        for _ in 0..3 {
            tunnels.push(gateway.tunnel("acme.example:443").await);
        }
        let reply = gateway.connect("acme.example:443").await.reply;
        gateway.assert_refused(&reply, (503, OVERLOADED, "connection_limit")).await;
        assert!(reply.field("retry-after").is_some(), "{reply:?}");
        assert_eq!(reply.json()["retryable"], true);
        assert!(reply.json()["retry_after_seconds"].is_number(), "{reply:?}");
        tunnels.pop();
        eventually("a place is free again", async || {
            (gateway.connect("acme.example:443").await.reply.status == 200).then_some(())
        })
        .await;
    });
}

#[test]
fn one_client_cannot_use_up_the_connections_of_another() {
    lab::run(async |lab| {
        let _receiver = Receiver::echo((PUBLIC, 443));
        lab.dns.addresses("acme.example", &[PUBLIC]);
        let mut config = lab.config().set("limits.max_connections_per_client", 2);
        for name in ["greedy", "modest"] {
            let token = lab.secret(name, &format!("the-token-of-{name}"));
            config = config.client(&format!(
                "name = \"{name}\"\ntoken = {{ file = \"{}\" }}\ntargets = [\"*\"]",
                token.display()
            ));
        }
        let gateway = lab.gateway(&config.self_hosted("acme", "https://acme.example")).await;
        let greedy = [("Proxy-Authorization", "Bearer the-token-of-greedy")];
        let modest = [("Proxy-Authorization", "Bearer the-token-of-modest")];
        let mut held = Vec::new();
        for _ in 0..2 {
            let exchange = gateway.connect_with("acme.example:443", &greedy).await;
            assert_eq!(exchange.reply.status, 200, "{:?}", exchange.reply);
            held.push(exchange);
        }
        let reply = gateway.connect_with("acme.example:443", &greedy).await.reply;
        gateway.assert_refused(&reply, (503, OVERLOADED, "client_connection_limit")).await;
        assert!(reply.field("retry-after").is_some(), "{reply:?}");
        let reply = gateway.connect_with("acme.example:443", &modest).await.reply;
        assert_eq!(reply.status, 200, "{reply:?}");
        drop(held);
        eventually("the places are free again", async || {
            let reply = gateway.connect_with("acme.example:443", &greedy).await.reply;
            (reply.status == 200).then_some(())
        })
        .await;
    });
}

#[test]
fn one_target_cannot_use_up_the_gateway() {
    lab::run(async |lab| {
        let _receiver = Receiver::echo((PUBLIC, 443));
        for name in ["busy.example", "calm.example"] {
            lab.dns.addresses(name, &[PUBLIC]);
        }
        let config = lab
            .config()
            .set("limits.max_in_flight_per_target", 2)
            .self_hosted("busy", "https://busy.example")
            .self_hosted("calm", "https://calm.example");
        let gateway = lab.gateway(&config).await;
        let held =
            [gateway.tunnel("busy.example:443").await, gateway.tunnel("busy.example:443").await];
        let overloaded = (503, OVERLOADED, "target_in_flight_limit");
        let event = gateway.refuse("busy.example:443", overloaded).await;
        assert_eq!(event.text("target"), "busy");
        gateway.tunnel("calm.example:443").await;
        drop(held);
        eventually("the target is free again", async || {
            (gateway.connect("busy.example:443").await.reply.status == 200).then_some(())
        })
        .await;
    });
}

/// CVE-2023-44487.
#[test]
fn streams_that_are_opened_and_reset_in_masses_end_the_connection_and_nothing_else() {
    lab::run(async |lab| {
        let _receiver = Receiver::echo((PUBLIC, 443));
        let gateway = lab.gateway_with_acme().await;
        let mut conn = Conn::open(gateway.proxy).await;
        conn.send(preface()).await;
        let streams = (0..40_000_u32).map(|number| {
            let id = number * 2 + 1;
            let open = frame(1, 4, id, &connect_fields("acme.example:443"));
            [open, frame(3, 0, id, &8_u32.to_be_bytes())].concat()
        });
        assert!(is_cut(conn, streams).await, "40000 resets were taken");
        gateway.tunnel("acme.example:443").await;
        gateway.wait_metric("egress_tunnels_open", &[], |open| open == 0.0).await;
    });
}

/// CVE-2025-8671: the client provokes the gateway's own resets.
#[test]
fn streams_whose_reset_is_provoked_in_masses_end_the_connection() {
    lab::run(async |lab| {
        let _receiver = Receiver::echo((PUBLIC, 443));
        let gateway = lab.gateway_with_acme().await;
        let mut conn = Conn::open(gateway.proxy).await;
        conn.send(preface()).await;
        let streams = (0..40_000_u32).map(|number| {
            let id = number * 2 + 1;
            let open = frame(1, 4, id, &connect_fields("acme.example:443"));
            // A window update of zero is an error of the stream.
            [open, frame(8, 0, id, &[0; 4])].concat()
        });
        assert!(is_cut(conn, streams).await, "40000 provoked resets were taken");
        gateway.tunnel("acme.example:443").await;
    });
}

#[test]
fn an_endless_run_of_continuation_frames_ends_the_connection() {
    lab::run(async |lab| {
        let _receiver = Receiver::echo((PUBLIC, 443));
        let gateway = lab.gateway_with_acme().await;
        let mut conn = Conn::open(gateway.proxy).await;
        conn.send(preface()).await;
        // HEADERS without END_HEADERS, then fields without end: literal, never indexed.
        conn.send(frame(1, 0, 1, &connect_fields("acme.example:443"))).await;
        let mut field = vec![0x10, 1, b'x', 0x7f, 0x81, 0x7d];
        field.extend([b'a'; 16_000]);
        let endless = std::iter::repeat_n(frame(9, 0, 1, &field[..16_000]), 4096);
        assert!(is_cut(conn, endless).await, "64 MiB of a header were taken");
        gateway.tunnel("acme.example:443").await;
    });
}

#[test]
fn one_http2_connection_cannot_open_streams_without_end() {
    lab::run(async |lab| {
        let _receiver = Receiver::echo((PUBLIC, 443));
        lab.dns.addresses("acme.example", &[PUBLIC]);
        let config = lab.config().self_hosted("acme", "https://acme.example");
        let gateway = lab.gateway(&config.set("limits.max_in_flight_per_target", 5)).await;
        let client = H2::open(gateway.proxy).await;
        let mut tunnels = Vec::new();
        for _ in 0..5 {
            tunnels.push(client.connect("acme.example:443", &[]).await.ok().unwrap());
        }
        let refused = client.connect("acme.example:443", &[]).await.err().unwrap();
        gateway.assert_refused(&refused, (503, OVERLOADED, "target_in_flight_limit")).await;
        assert!(client.is_open().await);
    });
}

/// Whether the gateway ends the connection before it has taken all of this.
async fn is_cut(conn: Conn, pieces: impl Iterator<Item = Vec<u8>>) -> bool {
    let (mut answers, mut requests) = tokio::io::split(conn);
    // What comes back is read, so that the gateway never waits for this client.
    let reader = tokio::spawn(async move {
        drop(tokio::io::copy(&mut answers, &mut tokio::io::sink()).await);
    });
    let sending = async {
        for piece in pieces {
            tokio::io::AsyncWriteExt::write_all(&mut requests, &piece).await?;
        }
        Ok::<(), std::io::Error>(())
    };
    let cut = within("the flood's end", sending).await.is_err();
    reader.abort();
    cut
}

/// The client's side of an HTTP/2 connection's first bytes: preface and empty settings.
fn preface() -> Vec<u8> {
    [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".as_slice(), &frame(4, 0, 0, &[])].concat()
}

/// An HTTP/2 frame (RFC 9113, section 4.1).
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// `:method` CONNECT and `:authority`, as HPACK literals without indexing (RFC 7541).
fn connect_fields(authority: &str) -> Vec<u8> {
    let length = u8::try_from(authority.len()).unwrap();
    [&[0x02, 7], b"CONNECT".as_slice(), &[0x01, length], authority.as_bytes()].concat()
}

#[test]
fn a_pipelined_request_after_a_refusal_is_not_answered_twice() {
    lab::run(async |lab| {
        let gateway = lab.gateway_with_acme().await;
        let mut conn = Conn::open(gateway.proxy).await;
        conn.send(connect_head("evil.example:443", &[]).repeat(50)).await;
        assert_eq!(conn.reply().await.status, 403);
        assert_eq!(conn.until_closed().await, b"");
        gateway.assert_recorded(1).await;
    });
}
