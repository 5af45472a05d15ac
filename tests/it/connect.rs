//! CONNECT: what is allowed passes, and passes whole.

use crate::support::{
    eventually,
    gateway::Event,
    h2::H2,
    http::{Conn, Rest, connect_head},
    lab::{self, EGRESS, EGRESS_V6, PUBLIC, PUBLIC_2, PUBLIC_V6},
    receiver::{Deaf, End, Receiver},
};
use std::{collections::BTreeSet, time::Duration};

const REFUSED: (u16, &str, &str) = (502, "SELF_HOSTED_CONNECTIVITY_BLOCKED", "connect_refused");
const NO_TARGET: (u16, &str, &str) = (403, "SELF_HOSTED_BASE_URL_UNSAFE", "no_target");

#[test]
fn an_allowed_tunnel_carries_bytes_both_ways() {
    lab::run(async |lab| {
        let receiver = Receiver::echo((PUBLIC, 443));
        let gateway = lab.gateway_with_acme().await;
        let mut tunnel = gateway.tunnel("acme.example:443").await;
        tunnel.send("ping").await;
        assert_eq!(tunnel.take(4).await, b"ping");
        tunnel.send("and again").await;
        assert_eq!(tunnel.take(9).await, b"and again");
        tunnel.finish().await;
        assert_eq!(tunnel.rest().await, Rest::Finished(Vec::new()));
        assert_eq!(receiver.visits()[0].bytes, b"pingand again");
    });
}

#[test]
fn a_large_stream_arrives_whole_in_both_directions() {
    lab::run(async |lab| {
        let _receiver = Receiver::echo((PUBLIC, 443));
        let gateway = lab.gateway_with_acme().await;
        let tunnel = gateway.tunnel("acme.example:443").await;
        let sent: Vec<u8> = (0..8 * 1024 * 1024_u32)
            .map(|n| ((n.wrapping_mul(2_654_435_761)) >> 24) as u8)
            .collect();
        let expected = sent.clone();
        let (mut down, mut up) = tokio::io::split(tunnel);
        let writer = tokio::spawn(async move {
            tokio::io::AsyncWriteExt::write_all(&mut up, &sent).await.unwrap();
            tokio::io::AsyncWriteExt::shutdown(&mut up).await.unwrap();
        });
        let mut received = Vec::new();
        tokio::io::AsyncReadExt::read_to_end(&mut down, &mut received).await.unwrap();
        writer.await.unwrap();
        assert!(received == expected, "{} bytes came back, changed or cut", received.len());
    });
}

/// A client that does not read holds its target back, and nothing piles up in between.
#[test]
fn a_client_that_does_not_read_costs_no_memory() {
    const SENT: usize = 128 * 1024 * 1024;
    lab::run(async |lab| {
        let _receiver = Receiver::with((PUBLIC, 443), async |mut guest| {
            for _ in 0..SENT / 65_536 {
                guest.write(&vec![7; 65_536]).await.unwrap();
            }
            guest.finish().await;
        });
        let gateway = lab.gateway_with_acme().await;
        let before = gateway.metrics().await.sum("process_resident_memory_bytes", &[]);
        let tunnel = gateway.tunnel("acme.example:443").await;
        let direction = [("mode", "connect"), ("direction", "to_client")];
        let mut carried = 0.0;
        eventually("the stream stalls", async || {
            let former = carried;
            carried = gateway.metrics().await.sum("egress_bytes_total", &direction);
            (carried > 0.0 && carried == former).then_some(())
        })
        .await;
        assert!((carried as usize) < SENT, "everything was taken in: {carried}");
        let after = gateway.metrics().await.sum("process_resident_memory_bytes", &[]);
        assert!(after - before < 16e6, "{before} became {after} with {carried} carried");
        let mut whole = 0;
        let mut tunnel = tokio::io::BufReader::with_capacity(1 << 20, tunnel);
        loop {
            let length = tokio::io::AsyncBufReadExt::fill_buf(&mut tunnel).await.unwrap().len();
            if length == 0 {
                break;
            }
            whole += length;
            tokio::io::AsyncBufReadExt::consume(&mut tunnel, length);
        }
        assert_eq!(whole, SENT);
    });
}

/// What a client does not take of a bulk transfer may wait in a pipe, which goes with the tunnel. An
/// empty one is kept for the next tunnel.
#[test]
fn bulk_that_stalls_leaves_no_pipe_behind_when_its_tunnel_closes() {
    lab::run(async |lab| {
        let _receiver =
            Receiver::with(
                (PUBLIC, 443),
                async |mut guest| {
                    while guest.write(&vec![7; 65_536]).await.is_ok() {}
                },
            );
        let gateway = lab.gateway_with_acme().await;
        let before = gateway.pipe_ends();
        for _ in 0..8 {
            let mut one = gateway.tunnel("acme.example:443").await;
            let mut two = gateway.tunnel("acme.example:443").await;
            one.take(1 << 20).await;
            two.take(1 << 20).await;
            drop((one, two));
            gateway.wait_metric("egress_tunnels_open", &[], |open| open == 0.0).await;
        }
        eventually(
            "none but those of two rounds, of which one begins while the other ends",
            async || (gateway.pipe_ends() <= before + 8).then_some(()),
        )
        .await;
    });
}

#[test]
fn the_target_sees_the_egress_address() {
    lab::run(async |lab| {
        let receiver = Receiver::echo((PUBLIC, 443));
        let gateway = lab.gateway_with_acme().await;
        let _tunnel = gateway.tunnel("acme.example:443").await;
        assert_eq!(receiver.first("a visit", |_| true).await.peer.ip(), EGRESS);
        assert_eq!(lab.dns.askers().into_iter().collect::<BTreeSet<_>>(), [EGRESS].into());
    });
}

#[test]
fn an_ipv6_target_sees_the_ipv6_egress_address() {
    lab::run(async |lab| {
        let receiver = Receiver::echo((PUBLIC_V6, 443));
        lab.dns.addresses("six.example", &[PUBLIC_V6]);
        let config = lab.config().self_hosted("six", "https://six.example");
        let both = format!("[\"{EGRESS}\", \"{EGRESS_V6}\"]");
        let gateway = lab.gateway(&config.set_toml("egress.ip", &both)).await;
        let mut tunnel = gateway.tunnel("six.example:443").await;
        tunnel.send("six").await;
        assert_eq!(tunnel.take(3).await, b"six");
        assert_eq!(receiver.visits()[0].peer.ip(), EGRESS_V6);
    });
}

#[test]
fn a_family_without_an_egress_address_is_not_used() {
    lab::run(async |lab| {
        let six = Receiver::echo((PUBLIC_V6, 443));
        let four = Receiver::echo((PUBLIC, 443));
        lab.dns.addresses("six.example", &[PUBLIC_V6]);
        lab.dns.addresses("both.example", &[PUBLIC_V6, PUBLIC]);
        let config = lab.config().self_hosted("six", "https://six.example");
        let gateway = lab.gateway(&config.self_hosted("both", "https://both.example")).await;
        let expected = (502, "SELF_HOSTED_CONNECTIVITY_BLOCKED", "");
        gateway.refuse("six.example:443", expected).await;
        let _tunnel = gateway.tunnel("both.example:443").await;
        four.first("a visit over IPv4", |visit| visit.peer.ip() == EGRESS).await;
        six.assert_not_reached();
    });
}

#[test]
fn another_address_is_tried_when_the_first_refuses() {
    lab::run(async |lab| {
        let receiver = Receiver::echo((PUBLIC_2, 443));
        let gateway = lab.gateway_with_acme().await;
        for addresses in [[PUBLIC, PUBLIC_2], [PUBLIC_2, PUBLIC]] {
            lab.dns.addresses("acme.example", &addresses);
            let mut tunnel = gateway.tunnel("acme.example:443").await;
            tunnel.send("here").await;
            assert_eq!(tunnel.take(4).await, b"here");
        }
        assert_eq!(receiver.visits().len(), 2);
    });
}

#[test]
fn a_deaf_first_address_does_not_use_up_the_whole_connect_timeout() {
    lab::run(async |lab| {
        let _deaf = Deaf::start((PUBLIC, 443)).await;
        let receiver = Receiver::echo((PUBLIC_2, 443));
        lab.dns.addresses("acme.example", &[PUBLIC, PUBLIC_2]);
        let config = lab.config().self_hosted("acme", "https://acme.example");
        let gateway = lab.gateway(&config.set("limits.connect_timeout", "30s")).await;
        let _tunnel = gateway.tunnel("acme.example:443").await;
        receiver.first("a visit", |_| true).await;
    });
}

#[test]
fn no_200_is_given_for_a_connection_that_does_not_stand() {
    lab::run(async |lab| {
        let gateway = lab.gateway_with_acme().await;
        gateway.refuse("acme.example:443", REFUSED).await;
        let _deaf = Deaf::start((PUBLIC, 443)).await;
        let expected = (504, "SELF_HOSTED_FIREWALL_BLOCKED", "connect_timeout");
        gateway.refuse("acme.example:443", expected).await;
    });
}

#[test]
fn the_reason_phrase_shows_the_code_to_clients_that_show_nothing_else() {
    lab::run(async |lab| {
        let gateway = lab.gateway(&lab.config()).await;
        let reply = gateway.connect("evil.example:443").await.reply;
        assert!(reply.reason.contains("SELF_HOSTED_BASE_URL_UNSAFE"), "{reply:?}");
    });
}

#[test]
fn a_timeout_names_the_customers_allowlist_when_it_lacks_the_egress_address() {
    lab::run(async |lab| {
        let _deaf = Deaf::start((PUBLIC, 443)).await;
        for name in ["without.example", "within.example"] {
            lab.dns.addresses(name, &[PUBLIC]);
        }
        let without = "allowlist = [\"198.51.100.7\"]";
        let within = "allowlist = [\"203.0.114.0/24\"]";
        let config = lab
            .config()
            .self_hosted_with("without", "https://without.example", without)
            .self_hosted_with("within", "https://within.example", within);
        let gateway = lab.gateway(&config).await;
        let missing = (504, "SELF_HOSTED_ALLOWLIST_MISSING", "connect_timeout");
        let blocked = (504, "SELF_HOSTED_FIREWALL_BLOCKED", "connect_timeout");
        gateway.refuse("without.example:443", missing).await;
        gateway.refuse("within.example:443", blocked).await;
    });
}

#[test]
fn an_administrative_refusal_and_a_missing_route_are_told_apart() {
    lab::run(async |lab| {
        lab::ip("route add prohibit 93.184.215.77");
        lab.dns.addresses("prohibited.example", &["93.184.215.77".parse().unwrap()]);
        lab.dns.addresses("nowhere.example", &["93.184.215.78".parse().unwrap()]);
        let config = lab
            .config()
            .self_hosted("prohibited", "https://prohibited.example")
            .self_hosted("nowhere", "https://nowhere.example");
        let gateway = lab.gateway(&config).await;
        let expected = (504, "SELF_HOSTED_FIREWALL_BLOCKED", "connect_prohibited");
        gateway.refuse("prohibited.example:443", expected).await;
        let reply = gateway.connect("nowhere.example:443").await.reply;
        assert_eq!(reply.json()["cause"], "network_unreachable", "{reply:?}");
    });
}

#[test]
fn bytes_sent_before_the_200_are_held_and_delivered() {
    lab::run(async |lab| {
        let receiver = Receiver::echo((PUBLIC, 443));
        let gateway = lab.gateway_with_acme().await;
        lab.dns.hold();
        let mut conn = Conn::open(gateway.proxy).await;
        conn.send(connect_head("acme.example:443", &[]) + "first, ").await;
        eventually("the name is asked for", async || {
            (lab.dns.queries("acme.example") > 0).then_some(())
        })
        .await;
        conn.send("second").await;
        receiver.assert_not_reached();
        lab.dns.release();
        assert_eq!(conn.reply().await.status, 200);
        assert_eq!(conn.take(13).await, b"first, second");
    });
}

/// Envoy, CVE-2025-64763: what followed a refused CONNECT was read as the next request.
#[test]
fn bytes_sent_before_a_refusal_are_dropped_and_never_read_as_a_request() {
    lab::run(async |lab| {
        let receiver = Receiver::echo((PUBLIC, 443));
        let gateway = lab.gateway_with_acme().await;
        let early = connect_head("acme.example:443", &[]);
        for split in [false, true] {
            let mut conn = Conn::open(gateway.proxy).await;
            let refused = connect_head("evil.example:443", &[]);
            if split {
                conn.send(refused).await;
                // The refusal may already have closed the connection.
                drop(conn.try_send(&early).await);
            } else {
                conn.send(refused + &early).await;
            }
            let reply = conn.reply().await;
            gateway.assert_refused(&reply, NO_TARGET).await;
            assert_eq!(conn.until_closed().await, b"", "a second answer");
        }
        receiver.assert_not_reached();
        assert_eq!(lab.dns.queries("acme.example"), 0);
        gateway.assert_recorded(2).await;
    });
}

#[test]
fn the_client_can_finish_while_the_target_still_speaks() {
    lab::run(async |lab| {
        let _receiver = Receiver::with((PUBLIC, 443), async |mut guest| {
            while guest.read().await.is_some() {}
            guest.write(b"late answer").await.unwrap();
            guest.finish().await;
        });
        let gateway = lab.gateway_with_acme().await;
        let mut tunnel = gateway.tunnel("acme.example:443").await;
        tunnel.send("question").await;
        tunnel.finish().await;
        assert_eq!(tunnel.rest().await, Rest::Finished(b"late answer".to_vec()));
    });
}

#[test]
fn the_target_can_finish_while_the_client_still_speaks() {
    lab::run(async |lab| {
        let receiver = Receiver::with((PUBLIC, 443), async |mut guest| {
            guest.write(b"bye").await.unwrap();
            guest.finish().await;
            while guest.read().await.is_some() {}
        });
        let gateway = lab.gateway_with_acme().await;
        let mut tunnel = gateway.tunnel("acme.example:443").await;
        assert_eq!(tunnel.rest().await, Rest::Finished(b"bye".to_vec()));
        tunnel.send("one more thing").await;
        tunnel.finish().await;
        let visit = receiver.first("the end", |visit| visit.end.is_some()).await;
        assert_eq!(visit.bytes, b"one more thing");
        assert_eq!(visit.end, Some(End::Finished));
    });
}

#[test]
fn a_reset_by_the_target_reaches_the_client_as_a_reset() {
    lab::run(async |lab| {
        let _receiver = Receiver::with((PUBLIC, 443), async |mut guest| {
            guest.read().await;
            guest.reset();
        });
        let gateway = lab.gateway_with_acme().await;
        let mut tunnel = gateway.tunnel("acme.example:443").await;
        tunnel.send("x").await;
        assert_eq!(tunnel.rest().await, Rest::Reset(Vec::new()));
    });
}

#[test]
fn a_reset_by_the_client_reaches_the_target_as_a_reset() {
    lab::run(async |lab| {
        let receiver = Receiver::echo((PUBLIC, 443));
        let gateway = lab.gateway_with_acme().await;
        let mut tunnel = gateway.tunnel("acme.example:443").await;
        tunnel.send("x").await;
        assert_eq!(tunnel.take(1).await, b"x");
        tunnel.reset();
        let visit = receiver.first("the end", |visit| visit.end.is_some()).await;
        assert_eq!(visit.end, Some(End::Reset));
    });
}

#[test]
fn an_idle_tunnel_is_closed_and_a_busy_one_is_not() {
    lab::run(async |lab| {
        let receiver = Receiver::silent((PUBLIC, 443));
        lab.dns.addresses("acme.example", &[PUBLIC]);
        let config = lab.config().self_hosted("acme", "https://acme.example");
        let gateway = lab.gateway(&config.set("limits.idle_timeout", "1s")).await;
        let mut idle = gateway.tunnel("acme.example:443").await;
        let mut busy = gateway.tunnel("acme.example:443").await;
        // Bytes one way only, over twice the limit.
        let mut beat = tokio::time::interval(Duration::from_millis(200));
        for _ in 0..12 {
            beat.tick().await;
            busy.send("x").await;
        }
        assert_eq!(idle.until_closed().await, b"");
        busy.finish().await;
        eventually("all twelve bytes arrive", async || {
            receiver.visits().iter().find(|visit| visit.bytes.len() == 12).map(|_| ())
        })
        .await;
        gateway.assert_recorded(2).await;
        gateway.wait_metric("egress_tunnels_open", &[], |open| open == 0.0).await;
    });
}

#[test]
fn bytes_are_counted_each_way() {
    lab::run(async |lab| {
        let _receiver = Receiver::with((PUBLIC, 443), async |mut guest| {
            while guest.read().await.is_some() {}
            guest.write(&[7; 11]).await.unwrap();
            guest.finish().await;
        });
        let gateway = lab.gateway_with_acme().await;
        let mut tunnel = gateway.tunnel("acme.example:443").await;
        tunnel.send(vec![1; 70_001]).await;
        tunnel.finish().await;
        assert_eq!(tunnel.rest().await, Rest::Finished(vec![7; 11]));
        let event = gateway.wait_event("the tunnel's", Event::is_canonical).await;
        assert_eq!(event.number("bytes_to_target"), 70_001, "{event:?}");
        assert_eq!(event.number("bytes_to_client"), 11, "{event:?}");
        let metrics = gateway.metrics().await;
        let series = metrics.samples.iter().filter(|sample| sample.name == "egress_bytes_total");
        let series = series.filter(|sample| sample.labels["mode"] == "connect");
        let counted: BTreeSet<u64> =
            series.map(|sample| sample.value as u64).filter(|bytes| *bytes > 0).collect();
        assert_eq!(counted, [11, 70_001].into());
    });
}

#[test]
fn many_tunnels_stand_at_once() {
    lab::run(async |lab| {
        let receiver = Receiver::echo((PUBLIC, 443));
        let gateway = lab.gateway_with_acme().await;
        let mut tunnels = Vec::new();
        for _ in 0..100 {
            tunnels.push(gateway.tunnel("acme.example:443").await);
        }
        gateway.wait_metric("egress_tunnels_open", &[], |open| open == 100.0).await;
        for (number, tunnel) in tunnels.iter_mut().enumerate() {
            tunnel.send(format!("{number:08}")).await;
        }
        for (number, tunnel) in tunnels.iter_mut().enumerate() {
            assert_eq!(tunnel.take(8).await, format!("{number:08}").as_bytes());
        }
        assert_eq!(receiver.visits().len(), 100);
        drop(tunnels);
        gateway.wait_metric("egress_tunnels_open", &[], |open| open == 0.0).await;
    });
}

#[test]
fn http2_by_prior_knowledge_carries_tunnels_beside_refusals() {
    lab::run(async |lab| {
        let receiver = Receiver::echo((PUBLIC, 443));
        let gateway = lab.gateway_with_acme().await;
        let client = H2::open(gateway.proxy).await;
        let mut first = client.connect("acme.example:443", &[]).await.ok().unwrap();
        let refused = client.connect("evil.example:443", &[]).await.err().unwrap();
        gateway.assert_refused(&refused, NO_TARGET).await;
        let mut second = client.connect("acme.example:443", &[]).await.ok().unwrap();
        first.send(b"first");
        second.send(b"second");
        assert_eq!(second.take(6).await, b"second");
        assert_eq!(first.take(5).await, b"first");
        first.finish();
        assert!(first.finished().await, "the echo's end was not passed on");
        second.send(b"still here");
        assert_eq!(second.take(10).await, b"still here");
        assert_eq!(receiver.visits().len(), 2);
    });
}

#[test]
fn an_http2_stream_and_its_target_share_their_resets() {
    lab::run(async |lab| {
        let receiver = Receiver::with((PUBLIC, 443), async |mut guest| {
            if guest.read().await.is_some_and(|bytes| bytes == b"reset") {
                return guest.reset();
            }
            while guest.read().await.is_some() {}
        });
        let gateway = lab.gateway_with_acme().await;
        let client = H2::open(gateway.proxy).await;
        let mut tunnel = client.connect("acme.example:443", &[]).await.ok().unwrap();
        tunnel.send(b"stay");
        receiver.first("the bytes", |visit| visit.bytes == b"stay").await;
        tunnel.reset();
        let visit = receiver.first("the end", |visit| visit.end.is_some()).await;
        assert_eq!(visit.end, Some(End::Reset));

        let mut tunnel = client.connect("acme.example:443", &[]).await.ok().unwrap();
        tunnel.send(b"reset");
        assert!(!tunnel.finished().await, "a reset became a clean end");
    });
}

#[test]
fn a_proxy_listener_with_tls_offers_both_protocols() {
    lab::run(async |lab| {
        let _receiver = Receiver::echo((PUBLIC, 443));
        lab.dns.addresses("acme.example", &[PUBLIC]);
        let ca = lab.ca("proxy-ca");
        let server = ca.server(&["proxy.internal"]);
        let tls = format!(
            "{{ cert_file = \"{}\", key_file = \"{}\" }}",
            server.cert_file.display(),
            server.key_file.display()
        );
        let config = lab.config().self_hosted("acme", "https://acme.example");
        let gateway = lab.gateway(&config.set_toml("proxy.tls", &tls)).await;

        let plain = ca.client_config(None, &["http/1.1"]);
        let mut conn = Conn::open_tls(gateway.proxy, plain, "proxy.internal").await.unwrap();
        conn.send(connect_head("acme.example:443", &[]) + "early").await;
        assert_eq!(conn.reply().await.status, 200);
        assert_eq!(conn.take(5).await, b"early");
        conn.finish().await;
        assert_eq!(conn.rest().await, Rest::Finished(Vec::new()));

        let two = ca.client_config(None, &["h2"]);
        let conn = Conn::open_tls(gateway.proxy, two, "proxy.internal").await.unwrap();
        let client = H2::over(conn).await;
        let mut tunnel = client.connect("acme.example:443", &[]).await.ok().unwrap();
        tunnel.send(b"over two");
        assert_eq!(tunnel.take(8).await, b"over two");
    });
}
