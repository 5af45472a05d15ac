//! Tunnels whose far end falls silent: no reset, no refusal, nothing. What waits behind one is told,
//! and what need not wait goes another way.

use crate::{
    support::{
        config::Config,
        eventually,
        far::{HOP, HOP_2, INSIDE_2},
        gateway::Gateway,
        hook,
        hop::Hop,
        http::{Conn, request_head},
        lab::{self, Lab},
        origin::{Origin, ok},
        receiver::Receiver,
        within,
    },
    tunnels::{DOWN, NAME, Scene, URL, assert_reached, behind, up},
};
use std::{net::IpAddr, time::Duration};
use tokio::{sync::mpsc, time::Instant};

/// A second name inside, which nobody has asked for before it is used.
const WIKI: &str = "http://wiki.acme.internal:8080/";
/// Long enough to tell what waits for it from what does not, on a loaded machine too.
const TIMEOUT: &str = "1m";
/// What is told of a loss takes no longer than this: two attempts, and a quarter of a second.
const TOLD: Duration = Duration::from_secs(15);
/// What is asked of a second host inside, which is known by its address.
const REQUEST: &str = "GET / HTTP/1.1\r\nHost: 10.30.0.6:8080\r\n\r\n";
const ADDRESS: &str = "10.30.0.6:8080";
const LITERAL: &str = "http://10.30.0.6:8080/";
const MUTE: &str = "http://10.30.0.6:8082/";

fn through(tunnels: &str, fields: &str) -> String {
    format!(
        "private_network_policy = \"tunnel\"\n{tunnels}\n\
         private_network_allowlist = [\"10.30.0.0/28\"]\n{fields}"
    )
}

/// Fields of a target that is asked over plain HTTP.
const PLAIN: &str = "allow_http = true\nscope = \"origin\"\n";

fn hop(config: Config, tunnel: &str, at: IpAddr) -> Config {
    config.set(&format!("tunnels.{tunnel}.url"), format!("socks5://{at}:1080"))
}

async fn socks(scene: &Scene, at: IpAddr) -> Hop {
    scene.far.run(async move || Hop::socks((at, 1080), None)).await
}

/// Sends a request, whose answer is still to come.
async fn asked(gateway: &Gateway, url: &str) -> Conn {
    let mut conn = Conn::open(gateway.proxy).await;
    conn.send(request_head("GET", url, &[], 0)).await;
    conn
}

/// `literal` has a tunnel of its own, known to be down after half a second.
fn single(lab: &Lab) -> Config {
    let config = lab
        .config()
        .set("limits.connect_timeout", "500ms")
        .set("limits.response_timeout", TIMEOUT)
        .self_hosted_with("literal", LITERAL, &through("tunnel = \"acme\"", PLAIN))
        .self_hosted_with("mute", MUTE, &through("tunnel = \"acme\"", PLAIN));
    hop(config, "acme", HOP)
}

#[test]
fn a_resolver_leaves_a_tunnel_that_has_fallen_silent() {
    lab::run(async |lab| {
        let scene = Scene::new().await;
        scene.dns.addresses("wiki.acme.internal", &["10.30.0.5".parse().unwrap()]);
        let (first, second) = (socks(&scene, HOP_2).await, socks(&scene, HOP).await);
        let both = "tunnels = [\"first\", \"second\"]";
        let config = behind(lab.config(), both)
            .set("limits.connect_timeout", "3s")
            .set("limits.dns_timeout", TIMEOUT)
            .set_toml("resolvers.acme.tunnels", "[\"first\", \"second\"]")
            .self_hosted_with("wiki", WIKI, &through(both, &format!("{PLAIN}resolver = \"acme\"")))
            .self_hosted_with("literal", LITERAL, &through(both, PLAIN));
        let gateway = lab.gateway(&hop(hop(config, "first", HOP_2), "second", HOP)).await;
        let _inside = scene.far.run(async || Receiver::silent((INSIDE_2, 8080))).await;
        assert_reached(&gateway, "first").await;
        assert!(first.asked_once().contains(&"10.30.0.53:53".to_owned()));
        assert!(second.asked().is_empty());

        scene.far.silence(HOP_2).await;
        let begun = Instant::now();
        // Goes over the connection that there is.
        let mut wiki = asked(&gateway, WIKI).await;
        // The second is quicker, which is reason enough to look at the first.
        gateway.tunnel(ADDRESS).await;
        up(&gateway, "first", 0.0).await;
        let reply = within("the question is asked once more", wiki.reply()).await;
        assert_eq!((reply.status, &*reply.body), (200, &b"inside"[..]), "{reply:?}");
        assert!(begun.elapsed() < TOLD, "{:?}", begun.elapsed());
        assert!(second.asked_once().contains(&"10.30.0.53:53".to_owned()));
        let before = scene.dns.queries(NAME);
        eventually("a name is asked for again", async || {
            let begun = Instant::now();
            assert_eq!(gateway.get(URL).await.status, 200);
            assert!(begun.elapsed() < TOLD, "{:?}", begun.elapsed());
            (scene.dns.queries(NAME) > before).then_some(())
        })
        .await;
        scene.assert_nothing_direct(&lab).await;
    });
}

#[test]
fn requests_that_wait_behind_a_silent_tunnel_are_told_and_open_tunnels_outlast_it() {
    lab::run(async |lab| {
        let scene = Scene::new().await;
        let _hop = socks(&scene, HOP).await;
        let host = scene.far.run(async || Origin::start((INSIDE_2, 8080), None, |_| ok("x"))).await;
        let mute = scene.far.run(async || Receiver::silent((INSIDE_2, 8082))).await;
        let gateway = lab.gateway(&single(&lab)).await;
        let mut open = gateway.tunnel(ADDRESS).await;
        let mut waits = asked(&gateway, MUTE).await;
        mute.first("the request has come", |visit| !visit.bytes.is_empty()).await;
        assert_eq!(gateway.get(LITERAL).await.status, 200);
        streams(&gateway, 3.0).await;

        scene.far.silence(HOP).await;
        let begun = Instant::now();
        let first = gateway.connect(ADDRESS).await.reply;
        assert_eq!((first.status, &first.json()["code"]), (502, &DOWN.into()), "{first:?}");
        let reply = within("the request that waits is told", waits.reply()).await;
        gateway.assert_refused(&reply, (502, DOWN, "tunnel_timeout")).await;
        assert!(begun.elapsed() < TOLD, "{:?}", begun.elapsed());
        // The one that waited for its next request went too; the client's own tunnel did not.
        streams(&gateway, 1.0).await;

        scene.far.restore(HOP).await;
        up(&gateway, "acme", 1.0).await;
        open.send(REQUEST).await;
        assert_eq!(open.reply().await.status, 200);
        let before = host.accepted();
        assert_eq!(gateway.get(LITERAL).await.status, 200);
        assert_eq!(host.accepted(), before + 1, "over a new connection");
    });
}

/// Waits until so many streams are open through `acme`.
async fn streams(gateway: &Gateway, count: f64) {
    let acme = [("tunnel", "acme")];
    gateway.wait_metric("egress_tunnel_streams", &acme, |value| value == count).await;
}

#[test]
fn a_body_that_waits_behind_a_silent_tunnel_is_broken_off() {
    lab::run(async |lab| {
        let scene = Scene::new().await;
        let _hop = socks(&scene, HOP).await;
        let half = |mut conn: Conn| async move {
            if let Ok(Some(_)) = conn.request().await {
                drop(conn.try_send("HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nhalf").await);
                std::future::pending::<()>().await;
            }
        };
        let _host = scene.far.run(async move || Origin::with((INSIDE_2, 8080), None, half)).await;
        let gateway = lab.gateway(&single(&lab)).await;
        let mut waits = asked(&gateway, LITERAL).await;
        assert_eq!(waits.reply_head().await.status, 200);
        assert_eq!(waits.take(4).await, b"half");
        scene.far.silence(HOP).await;
        let begun = Instant::now();
        assert_eq!(gateway.connect(ADDRESS).await.reply.status, 502);
        assert_eq!(waits.until_closed().await, b"");
        assert!(begun.elapsed() < TOLD, "{:?}", begun.elapsed());
        let of_get = |event: &crate::support::gateway::Event| event.text("method") == "GET";
        let event = gateway.wait_event("the request's event", of_get).await;
        assert_eq!(event.text("end"), "response_incomplete");
    });
}

#[test]
fn a_delivery_that_is_lost_with_its_tunnel_may_have_been_read() {
    lab::run(async |lab| {
        let scene = Scene::new().await;
        let _hop = socks(&scene, HOP).await;
        let (config, tls) = hook::config_with(&lab, &through("tunnel = \"acme\"", ""));
        lab.dns.addresses("acme.example", &[INSIDE_2]);
        let (tell, mut come) = mpsc::unbounded_channel();
        let mute = move |mut conn: Conn| {
            let tell = tell.clone();
            async move {
                tell.send(conn.request().await.is_ok()).unwrap();
                std::future::pending::<()>().await;
            }
        };
        let _host = scene.far.run(async move || Origin::with((INSIDE_2, 443), tls, mute)).await;
        let config = hop(config, "acme", HOP)
            .set("limits.connect_timeout", "500ms")
            .set("limits.response_timeout", TIMEOUT);
        let gateway = lab.gateway(&config).await;
        let mut waits = Conn::open(gateway.proxy).await;
        waits.send(hook::raw("sent", b"one")).await;
        assert_eq!(within("the delivery has come", come.recv()).await, Some(true));
        scene.far.silence(HOP).await;
        eventually("the tunnel is known to be down", async || {
            let reply = hook::post(&gateway, "unsent", b"one").await;
            (reply.json()["cause"] == "tunnel_timeout").then_some(())
        })
        .await;
        let reply = within("the delivery is told", waits.reply()).await;
        assert_eq!(reply.json()["cause"], "tunnel_timeout", "{reply:?}");
        // What the one key stands for is kept; the other's never left.
        let cause = async |key| hook::post(&gateway, key, b"two").await.json()["cause"].clone();
        eventually("the key stands for what was sent", async || {
            (cause("sent").await == "idempotency_conflict").then_some(())
        })
        .await;
        assert_eq!(cause("unsent").await, "tunnel_timeout");
    });
}

#[test]
fn a_target_whose_tunnel_is_defined_anew_is_checked_anew() {
    lab::run(async |lab| {
        let scene = Scene::new().await;
        let hops = [socks(&scene, HOP).await, socks(&scene, HOP_2).await];
        let host = scene.far.run(async || Origin::start((INSIDE_2, 8080), None, |_| ok("x"))).await;
        let config = |at| {
            let gated = lab.config().set("policy.require_current_check", true);
            let gated =
                gated.self_hosted_with("literal", LITERAL, &through("tunnel = \"acme\"", PLAIN));
            hop(gated, "acme", at)
        };
        let checks = || {
            let probe = "/rest/api/2/serverInfo";
            host.requests().iter().filter(|request| request.line.contains(probe)).count()
        };
        let ready = async |gateway: &Gateway| {
            let labels = [("target", "literal"), ("state", "ready")];
            gateway.wait_metric("egress_target_state", &labels, |value| value == 1.0).await;
        };
        let gateway = lab.gateway(&config(HOP)).await;
        ready(&gateway).await;
        // The same again, with another tunnel beside it, is nothing new.
        gateway.reload(&hop(config(HOP), "other", HOP_2)).await;
        assert_eq!(gateway.get(LITERAL).await.status, 200);
        assert_eq!(checks(), 1);
        // By itself, before anybody asks.
        gateway.reload(&config(HOP_2)).await;
        eventually("the target is checked", async || (checks() == 2).then_some(())).await;
        ready(&gateway).await;
        assert_eq!(hops[1].asked_once(), [ADDRESS]);
        // What was found by the former way opens no gate for this one.
        let nobody = config(HOP).set("tunnels.acme.url", format!("socks5://{HOP}:9"));
        gateway.reload(&nobody).await;
        let reply = gateway.get(LITERAL).await;
        gateway.assert_refused(&reply, (502, DOWN, "tunnel_unreachable")).await;
        let problem = reply.json();
        assert!(problem["connectivity_check_id"].is_string(), "no check decided: {problem:#}");
    });
}
