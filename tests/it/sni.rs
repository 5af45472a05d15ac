//! The server name inside a tunnel must be the host that was asked for.

use crate::support::{
    gateway::{Event, Gateway},
    h2::H2,
    http::{Conn, Rest, connect_head},
    lab::{self, Lab, PUBLIC},
    receiver::Receiver,
    tls::Ca,
};
use std::sync::Arc;

const MISMATCH: &str = "sni_mismatch";

/// A ClientHello as rustls writes it: one record; without a server name if there is none.
fn client_hello(ca: &Ca, name: Option<&str>) -> Vec<u8> {
    let mut config = (*ca.client_config(None, &["http/1.1"])).clone();
    config.enable_sni = name.is_some();
    let name = name.unwrap_or("unsent.example").to_owned().try_into().unwrap();
    let mut client = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
    let mut hello = Vec::new();
    client.write_tls(&mut hello).unwrap();
    assert_eq!(hello[0], 0x16, "a handshake record");
    assert_eq!(hello.len(), 5 + usize::from(u16::from_be_bytes([hello[3], hello[4]])));
    hello
}

/// The same handshake message, cut into records of at most this many bytes.
fn in_records(hello: &[u8], length: usize) -> Vec<u8> {
    let record = |piece: &[u8]| {
        let size = u16::try_from(piece.len()).unwrap().to_be_bytes();
        [&hello[..3], &size, piece].concat()
    };
    hello[5..].chunks(length).flat_map(record).collect()
}

/// The gateway may tell a TLS client why, in the one way that its library shows; nothing else comes.
fn assert_only_an_alert(bytes: &[u8]) {
    let fatal_unrecognized_name = [0x15, 3, 1, 0, 2, 2, 112];
    assert!(bytes.is_empty() || bytes == fatal_unrecognized_name, "bytes came back: {bytes:?}");
}

/// Waits for the one event of the one tunnel, which must be a cut for this cause.
async fn assert_cut(gateway: &Gateway, cause: &str) {
    let event = gateway.wait_event("the cut tunnel's", Event::is_canonical).await;
    assert_eq!(event.text("decision"), "refused", "{event:?}");
    assert_eq!(event.text("cause"), cause, "{event:?}");
    assert_eq!(event.text("code"), "SELF_HOSTED_BASE_URL_UNSAFE", "{event:?}");
    assert_eq!(event.text("mode"), "connect", "{event:?}");
    gateway.assert_recorded(1).await;
    gateway
        .wait_metric("egress_policy_violations_total", &[("cause", cause)], |count| count == 1.0)
        .await;
    gateway.wait_metric("egress_tunnels_open", &[], |open| open == 0.0).await;
}

/// Sends these pieces into a fresh tunnel; it must be cut before the target got a byte.
async fn assert_cut_after(lab: &Lab, pieces: &[&[u8]], cause: &str) {
    let receiver = Receiver::silent((PUBLIC, 443));
    let gateway = lab.gateway_with_acme().await;
    let mut tunnel = gateway.tunnel("acme.example:443").await;
    for piece in pieces {
        // It may be cut before the last piece.
        if tunnel.try_send(piece).await.is_err() {
            break;
        }
    }
    assert_only_an_alert(&tunnel.until_closed().await);
    assert_cut(&gateway, cause).await;
    receiver.assert_no_byte();
}

/// Sends these pieces into a fresh tunnel; the target must get them all, unchanged.
async fn assert_passes(lab: &Lab, pieces: &[&[u8]]) {
    let receiver = Receiver::silent((PUBLIC, 443));
    let gateway = lab.gateway_with_acme().await;
    let mut tunnel = gateway.tunnel("acme.example:443").await;
    for piece in pieces {
        tunnel.send(piece).await;
    }
    let sent = pieces.concat();
    let visit = receiver.first("all bytes", |visit| visit.bytes.len() >= sent.len()).await;
    assert!(visit.bytes == sent, "the bytes arrived changed");
}

#[test]
fn tls_with_the_right_name_works_end_to_end() {
    lab::run(async |lab| {
        let ca = lab.ca("ca");
        let tls = ca.server(&["acme.example"]).server_config();
        let _receiver = Receiver::https((PUBLIC, 443), tls, |path| {
            (path == "/rest/api").then(|| b"an issue".to_vec())
        });
        let gateway = lab.gateway_with_acme().await;
        let tunnel = gateway.tunnel("acme.example:443").await;
        let client = ca.client_config(None, &["http/1.1"]);
        let inside = tunnel.start_tls(client, "acme.example").await.unwrap();
        let (mut read, mut write) = tokio::io::split(inside);
        let request = b"GET /rest/api HTTP/1.1\r\nHost: acme.example\r\n\r\n";
        tokio::io::AsyncWriteExt::write_all(&mut write, request).await.unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"an issue") {
            let mut buffer = [0; 1024];
            let length = tokio::io::AsyncReadExt::read(&mut read, &mut buffer).await.unwrap();
            assert!(length > 0, "cut: {}", String::from_utf8_lossy(&answer));
            answer.extend_from_slice(&buffer[..length]);
        }
        assert!(answer.starts_with(b"HTTP/1.1 200 OK"));
    });
}

#[test]
fn another_server_name_cuts_the_tunnel_before_a_byte_leaves() {
    lab::run(async |lab| {
        let hello = client_hello(&lab.ca("ca"), Some("fronted.example"));
        assert_cut_after(&lab, &[&hello], MISMATCH).await;
    });
}

#[test]
fn another_server_name_is_found_when_the_hello_comes_with_the_connect() {
    lab::run(async |lab| {
        let receiver = Receiver::silent((PUBLIC, 443));
        let gateway = lab.gateway_with_acme().await;
        let hello = client_hello(&lab.ca("ca"), Some("fronted.example"));
        let mut conn = Conn::open(gateway.proxy).await;
        let head = connect_head("acme.example:443", &[]);
        conn.send([head.as_bytes(), &hello].concat()).await;
        assert_eq!(conn.reply().await.status, 200);
        assert_only_an_alert(&conn.until_closed().await);
        assert_cut(&gateway, MISMATCH).await;
        receiver.assert_no_byte();
    });
}

#[test]
fn another_server_name_is_found_in_pieces_and_in_several_records() {
    lab::run(async |lab| {
        let hello = client_hello(&lab.ca("ca"), Some("fronted.example"));
        let pieces: Vec<&[u8]> = hello.chunks(7).collect();
        assert_cut_after(&lab, &pieces, MISMATCH).await;
    });
}

#[test]
fn another_server_name_is_found_in_a_hello_of_several_records() {
    lab::run(async |lab| {
        let hello = in_records(&client_hello(&lab.ca("ca"), Some("fronted.example")), 20);
        assert_cut_after(&lab, &[&hello], MISMATCH).await;
    });
}

#[test]
fn a_subdomain_or_a_parent_is_another_server_name() {
    lab::run(async |lab| {
        let hello = client_hello(&lab.ca("ca"), Some("sub.acme.example"));
        assert_cut_after(&lab, &[&hello], MISMATCH).await;
    });
}

#[test]
fn a_hello_without_a_server_name_is_cut_when_a_name_was_asked_for() {
    lab::run(async |lab| {
        let hello = client_hello(&lab.ca("ca"), None);
        assert_cut_after(&lab, &[&hello], MISMATCH).await;
    });
}

#[test]
fn the_right_server_name_passes_in_pieces() {
    lab::run(async |lab| {
        let hello = client_hello(&lab.ca("ca"), Some("acme.example"));
        let pieces: Vec<&[u8]> = hello.chunks(7).collect();
        assert_passes(&lab, &pieces).await;
    });
}

#[test]
fn the_right_server_name_passes_in_several_records() {
    lab::run(async |lab| {
        let hello = in_records(&client_hello(&lab.ca("ca"), Some("acme.example")), 20);
        assert_passes(&lab, &[&hello]).await;
    });
}

#[test]
fn the_right_server_name_passes_in_upper_case() {
    lab::run(async |lab| {
        let mut hello = client_hello(&lab.ca("ca"), Some("acme.example"));
        let at = hello.windows(12).position(|bytes| bytes == b"acme.example").unwrap();
        hello[at..at + 4].copy_from_slice(b"ACME");
        assert_passes(&lab, &[&hello]).await;
    });
}

#[test]
fn an_address_needs_no_server_name_and_takes_none() {
    lab::run(async |lab| {
        let receiver = Receiver::silent((PUBLIC, 443));
        let gateway = lab.gateway(&lab.config().self_hosted("ip", "https://93.184.215.14")).await;
        let ca = lab.ca("ca");
        let mut tunnel = gateway.tunnel("93.184.215.14:443").await;
        let hello = client_hello(&ca, None);
        tunnel.send(&hello).await;
        receiver.first("the hello", |visit| visit.bytes == hello).await;

        let mut tunnel = gateway.tunnel("93.184.215.14:443").await;
        tunnel.send(client_hello(&ca, Some("fronted.example"))).await;
        assert_only_an_alert(&tunnel.until_closed().await);
        assert!(receiver.visits()[1].bytes.is_empty(), "a byte reached the target");
    });
}

#[test]
fn bytes_that_are_not_tls_pass() {
    lab::run(async |lab| {
        assert_passes(&lab, &[b"SSH-2.0-client\r\n", b"more"]).await;
    });
}

#[test]
fn a_single_byte_that_is_not_tls_passes_at_once() {
    lab::run(async |lab| {
        assert_passes(&lab, &[b"S"]).await;
    });
}

#[test]
fn bytes_that_begin_like_tls_and_are_not_are_cut() {
    lab::run(async |lab| {
        let not_a_hello = b"\x16\x03\x01\x00\x09\x02\x00\x00\x05hello";
        assert_cut_after(&lab, &[not_a_hello], "client_hello_invalid").await;
    });
}

#[test]
fn an_endless_hello_is_cut() {
    lab::run(async |lab| {
        // A handshake message that claims 16 MiB, in full records.
        let mut record = vec![0x16, 3, 1, 0x40, 0, 1, 0xff, 0xff, 0xff, 3, 3];
        record.resize(5 + 0x4000, 0);
        let mut next = vec![0x16, 3, 1, 0x40, 0];
        next.resize(5 + 0x4000, 0);
        let mut pieces: Vec<&[u8]> = vec![&record];
        pieces.extend(std::iter::repeat_n(next.as_slice(), 64));
        assert_cut_after(&lab, &pieces, "client_hello_invalid").await;
    });
}

#[test]
fn half_a_hello_is_not_waited_for_for_ever() {
    lab::run(async |lab| {
        let receiver = Receiver::silent((PUBLIC, 443));
        lab.dns.addresses("acme.example", &[PUBLIC]);
        let config = lab.config().self_hosted("acme", "https://acme.example");
        let limits = config.set("limits.tls_timeout", "1s").set("limits.header_timeout", "1s");
        let gateway = lab.gateway(&limits).await;
        let hello = client_hello(&lab.ca("ca"), Some("acme.example"));
        let mut tunnel = gateway.tunnel("acme.example:443").await;
        tunnel.send(&hello[..hello.len() / 2]).await;
        assert_only_an_alert(&tunnel.until_closed().await);
        let event = gateway.wait_event("the tunnel's", Event::is_canonical).await;
        assert_eq!(event.text("decision"), "refused", "{event:?}");
        receiver.assert_no_byte();
    });
}

#[test]
fn a_target_may_speak_first() {
    lab::run(async |lab| {
        let _receiver = Receiver::greeting((PUBLIC, 443), b"220 ready\r\n");
        let gateway = lab.gateway_with_acme().await;
        let mut tunnel = gateway.tunnel("acme.example:443").await;
        assert_eq!(tunnel.take(11).await, b"220 ready\r\n");
        tunnel.send("EHLO").await;
        assert_eq!(tunnel.take(4).await, b"EHLO");
        tunnel.finish().await;
        assert_eq!(tunnel.rest().await, Rest::Finished(Vec::new()));
    });
}

#[test]
fn a_greeting_does_not_open_the_way_for_another_server_name() {
    lab::run(async |lab| {
        let receiver = Receiver::greeting((PUBLIC, 443), b"220 ready\r\n");
        let gateway = lab.gateway_with_acme().await;
        let mut tunnel = gateway.tunnel("acme.example:443").await;
        assert_eq!(tunnel.take(11).await, b"220 ready\r\n");
        tunnel.send(client_hello(&lab.ca("ca"), Some("fronted.example"))).await;
        assert_only_an_alert(&tunnel.until_closed().await);
        receiver.assert_no_byte();
    });
}

#[test]
fn another_server_name_ends_an_http2_stream_and_no_other() {
    lab::run(async |lab| {
        let receiver = Receiver::silent((PUBLIC, 443));
        let gateway = lab.gateway_with_acme().await;
        let client = H2::open(gateway.proxy).await;
        let mut tunnel = client.connect("acme.example:443", &[]).await.ok().unwrap();
        tunnel.send(client_hello(&lab.ca("ca"), Some("fronted.example")));
        assert_only_an_alert(&tunnel.until_closed().await);
        receiver.assert_no_byte();
        assert!(client.connect("acme.example:443", &[]).await.is_ok(), "the connection lives on");
    });
}
