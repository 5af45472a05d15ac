//! Targets behind hops: reached through their tunnel by address, and in no other way, whatever
//! happens to the tunnel.

use crate::support::{
    canary::Canary,
    config::Config,
    dns::Dns,
    eventually,
    far::{Far, HOP, INSIDE, INSIDE_2, INSIDE_DNS},
    gateway::Gateway,
    hop::Hop,
    http::Conn,
    lab::{self, EGRESS, Lab, PUBLIC},
    origin::{Origin, answer, ok},
    receiver::Receiver,
};
use std::{
    io,
    net::{IpAddr, UdpSocket},
    sync::Arc,
    time::Duration,
};
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;

pub(crate) const DOWN: &str = "SELF_HOSTED_TUNNEL_UNREACHABLE";
pub(crate) const NAME: &str = "jira.acme.internal";
pub(crate) const URL: &str = "http://jira.acme.internal:8080/";
/// All that a hop is ever asked for in these tests.
const ASKED: [&str; 2] = ["10.30.0.53:53", "10.30.0.5:8080"];

/// A customer's network, and canaries on every address that the gateway could try instead.
pub(crate) struct Scene {
    pub(crate) far: Far,
    pub(crate) dns: Dns,
    pub(crate) host: Origin,
    canary: Canary,
    /// Where a question to the private name server would come out if it left directly.
    stray: (UdpSocket, Receiver),
}

impl Scene {
    pub(crate) async fn new() -> Self {
        let far = Far::new().await;
        let dns = far.run(async || Dns::start((INSIDE_DNS, 53).into()).await).await;
        dns.addresses(NAME, &[INSIDE]);
        let host = far.run(async || Origin::start((INSIDE, 8080), None, |_| ok("inside"))).await;
        let canary = Canary::everywhere(&[1080, 3128, 8080]);
        let stray = UdpSocket::bind((INSIDE_DNS, 53)).unwrap();
        stray.set_nonblocking(true).unwrap();
        let stray = (stray, Receiver::silent((INSIDE_DNS, 53)));
        Self { far, dns, host, canary, stray }
    }

    pub(crate) async fn socks(&self) -> Hop {
        self.far.run(async || Hop::socks((HOP, 1080), None)).await
    }

    /// Nothing left but to the hop; the public name servers were not asked for anything inside.
    pub(crate) async fn assert_nothing_direct(&self, lab: &Lab) {
        self.canary.assert_silent().await;
        self.stray.1.assert_not_reached();
        let datagram = self.stray.0.recv(&mut [0; 512]).map_err(|error| error.kind());
        assert_eq!(datagram, Err(io::ErrorKind::WouldBlock), "a datagram left directly");
        assert_eq!(lab.dns.queries(NAME), 0, "the default resolver was asked");
    }
}

/// A target behind the tunnel `acme`, with the name server there; fields may be added.
pub(crate) fn behind(config: Config, fields: &str) -> Config {
    let config = config.set_toml("limits.connect_timeout", "\"5s\"");
    let fields = format!(
        "allow_http = true\nscope = \"origin\"\nprivate_network_policy = \"tunnel\"\n\
         private_network_allowlist = [\"10.30.0.0/28\"]\nresolver = \"acme\"\n{fields}"
    );
    config.set_toml("resolvers.acme.servers", &format!("[\"{INSIDE_DNS}:53\"]")).self_hosted_with(
        "acme-jira",
        "http://jira.acme.internal:8080",
        &fields,
    )
}

fn acme(lab: &Lab) -> Config {
    behind(lab.config(), "tunnel = \"acme\"")
        .set("resolvers.acme.tunnel", "acme")
        .set("tunnels.acme.url", format!("socks5://{HOP}:1080"))
}

pub(crate) async fn up(gateway: &Gateway, tunnel: &str, value: f64) {
    gateway.wait_metric("egress_tunnel_up", &[("tunnel", tunnel)], |up| up == value).await;
}

/// Both ways through the proxy lead inside, by this route.
pub(crate) async fn assert_reached(gateway: &Gateway, route: &str) {
    let reply = gateway.get(URL).await;
    assert_eq!((reply.status, &*reply.body), (200, &b"inside"[..]), "{reply:?}");
    let mut tunnel = gateway.tunnel("jira.acme.internal:8080").await;
    tunnel.send("GET / HTTP/1.1\r\nHost: jira.acme.internal:8080\r\n\r\n").await;
    assert_eq!(tunnel.reply().await.status, 200);
    tunnel.finish().await;
    tunnel.rest().await;
    let of_tunnel = |event: &crate::support::gateway::Event| {
        event.is_canonical() && event.text("mode") == "connect" && event.text("route") == route
    };
    let event = gateway.wait_event("the tunnel's event", of_tunnel).await;
    assert_eq!(event.text("pinned"), "10.30.0.5:8080");
}

#[test]
fn a_private_host_is_reached_through_its_socks5_hop_and_in_no_other_way() {
    lab::run(async |lab| {
        let scene = Scene::new().await;
        let user = Some(("gateway", "correct horse battery"));
        let hop = scene.far.run(async move || Hop::socks((HOP, 1080), user)).await;
        let password = lab.secret("password", "correct horse battery");
        let config = acme(&lab)
            .set("tunnels.acme.username", "gateway")
            .set_toml("tunnels.acme.password", &format!("{{ file = {password:?} }}"));
        let gateway = lab.gateway(&config).await;
        assert_reached(&gateway, "acme").await;
        assert_eq!(hop.asked_once(), sorted(ASKED));
        assert!(hop.peers().iter().all(|peer| *peer == EGRESS), "{:?}", hop.peers());
        assert!(scene.dns.queries(NAME) > 0 && scene.host.accepted() > 0);
        scene.assert_nothing_direct(&lab).await;
        up(&gateway, "acme", 1.0).await;
        let metrics = gateway.metrics().await;
        let carried = [("tunnel", "acme"), ("direction", "to_client")];
        assert!(metrics.sum("egress_tunnel_bytes_total", &carried) > 0.0);
        let route = [("route", "tunnel")];
        assert!(metrics.sum("egress_connect_duration_seconds_count", &route) > 0.0);
        assert_eq!(
            metrics.sum("egress_connect_duration_seconds_count", &[("route", "direct")]),
            0.0
        );
    });
}

fn sorted<const N: usize>(mut words: [&'static str; N]) -> Vec<&'static str> {
    words.sort_unstable();
    words.to_vec()
}

#[test]
fn a_private_host_is_reached_through_its_http_hop() {
    lab::run(async |lab| {
        let scene = Scene::new().await;
        let hop = scene.far.run(async || Hop::http((HOP, 3128), None)).await;
        let token = lab.secret("token", "t0k3n-of-the-hop");
        let config = acme(&lab)
            .set("tunnels.acme.url", format!("http://{HOP}:3128"))
            .set_toml("tunnels.acme.token", &format!("{{ file = {token:?} }}"));
        let gateway = lab.gateway(&config).await;
        assert_reached(&gateway, "acme").await;
        assert_eq!(hop.asked_once(), sorted(ASKED));
        for head in hop.heads() {
            let lines: Vec<_> = head.lines().collect();
            let [line, host, credentials, ""] = lines[..] else { panic!("{head}") };
            let asked = host.strip_prefix("Host: ").unwrap();
            assert_eq!(line, format!("CONNECT {asked} HTTP/1.1"));
            assert_eq!(credentials, "Proxy-Authorization: Bearer t0k3n-of-the-hop");
        }
        scene.assert_nothing_direct(&lab).await;
    });
}

#[test]
fn an_https_hop_is_verified_and_gets_the_client_certificate() {
    lab::run(async |lab| {
        let scene = Scene::new().await;
        let (ca, strangers) = (lab.ca("hop-ca"), lab.ca("strangers"));
        lab.dns.addresses("hop.acme.example", &[HOP]);
        let own = ca.client("spiffe://webriskops/egress");
        let tls = ca.server(&["hop.acme.example"]).server_config_for(&ca, &[]);
        let hop =
            scene.far.run(async || Hop::http((HOP, 3128), Some(TlsAcceptor::from(tls)))).await;
        let tls = |ca: &std::path::Path, with: bool| {
            let client = format!(
                ", client_cert_file = {:?}, client_key_file = {:?}",
                own.cert_file, own.key_file
            );
            format!("{{ ca_file = {ca:?}{} }}", if with { &*client } else { "" })
        };
        let config = |url: &str, settings: String| {
            acme(&lab).set("tunnels.acme.url", url).set_toml("tunnels.acme.tls", &settings)
        };
        let good = config("https://hop.acme.example:3128", tls(&ca.file, true));
        let gateway = lab.gateway(&good).await;
        assert_reached(&gateway, "acme").await;
        assert_eq!(hop.asked_once(), sorted(ASKED));
        for (bad, fault) in [
            (config("https://hop.acme.example:3128", tls(&strangers.file, true)), "issuer"),
            (config(&format!("https://{HOP}:3128"), tls(&ca.file, true)), "not for"),
            (config("https://hop.acme.example:3128", tls(&ca.file, false)), "certificate"),
        ] {
            gateway.reload(&bad).await;
            let asked = hop.asked().len();
            let reply = gateway.get(URL).await;
            gateway.assert_refused(&reply, (502, DOWN, "")).await;
            let detail = reply.json()["detail"].to_string();
            assert!(detail.contains("acme"), "{fault}: {detail}");
            assert_eq!(hop.asked().len(), asked, "{fault}");
        }
        gateway.reload(&good).await;
        eventually("the hop is trusted again", async || {
            (gateway.get(URL).await.status == 200).then_some(())
        })
        .await;
        scene.assert_nothing_direct(&lab).await;
    });
}

#[test]
fn while_the_tunnel_is_down_everything_fails_at_once_and_nothing_goes_around_it() {
    lab::run(async |lab| {
        let scene = Scene::new().await;
        let _hop = scene.socks().await;
        // Behind the same tunnel, and known by its address: no name server has to be asked.
        let config = acme(&lab).set("limits.response_timeout", "1s").self_hosted_with(
            "literal",
            &format!("http://{INSIDE_2}:8080"),
            "allow_http = true\nprivate_network_policy = \"tunnel\"\ntunnel = \"acme\"\n\
             private_network_allowlist = [\"10.30.0.6/32\"]\nscope = \"origin\"",
        );
        let gateway = lab.gateway(&config).await;
        assert_reached(&gateway, "acme").await;
        scene.far.pull().await;
        // The first to notice waits, at most as long as a connection may take.
        eventually("the tunnel is found down", async || {
            let reply = gateway.get(URL).await;
            assert_ne!(reply.status, 200);
            (gateway.metrics().await.sum("egress_tunnel_up", &[("tunnel", "acme")]) == 0.0)
                .then_some(())
        })
        .await;
        let begun = Instant::now();
        for _ in 0..20 {
            gateway.refuse_get(URL, (502, DOWN, "")).await;
            gateway.refuse("jira.acme.internal:8080", (502, DOWN, "")).await;
            gateway.refuse_get(&format!("http://{INSIDE_2}:8080/"), (502, DOWN, "")).await;
        }
        let took = begun.elapsed();
        assert!(took < Duration::from_secs(4), "60 refusals took {took:?}");
        scene.assert_nothing_direct(&lab).await;
        scene.far.plug_in().await;
        up(&gateway, "acme", 1.0).await;
        assert_reached(&gateway, "acme").await;
        scene.assert_nothing_direct(&lab).await;
    });
}

#[test]
fn a_hop_that_is_killed_under_load_is_back_without_a_restart() {
    lab::run(async |lab| {
        let scene = Scene::new().await;
        let mut hop = scene.socks().await;
        let gateway = Arc::new(lab.gateway(&acme(&lab)).await);
        assert_reached(&gateway, "acme").await;
        let (stop, stopped) = tokio::sync::watch::channel(false);
        let mut clients = tokio::task::JoinSet::new();
        for _ in 0..8 {
            let (gateway, stopped) = (Arc::clone(&gateway), stopped.clone());
            clients.spawn(async move {
                let (mut good, mut bad) = (0_u32, 0_u32);
                while !*stopped.borrow() {
                    let reply = gateway.get(URL).await;
                    match reply.status {
                        200 => good += 1,
                        // Down, or cut while the answer was under way.
                        502 => bad += 1,
                        _ => panic!("{reply:?}"),
                    }
                }
                (good, bad)
            });
        }
        for _ in 0..3 {
            drop(hop);
            up(&gateway, "acme", 0.0).await;
            hop = scene.socks().await;
            up(&gateway, "acme", 1.0).await;
            eventually("traffic goes on", async || {
                (gateway.get(URL).await.status == 200).then_some(())
            })
            .await;
        }
        stop.send_replace(true);
        let results = clients.join_all().await;
        assert!(results.iter().all(|(good, _)| *good > 0), "{results:?}");
        assert!(results.iter().any(|(_, bad)| *bad > 0), "{results:?}");
        assert!(hop.asked_once().iter().all(|asked| ASKED.contains(&asked.as_str())));
        scene.assert_nothing_direct(&lab).await;
    });
}

#[test]
fn the_second_tunnel_takes_over_from_the_first_and_gives_back() {
    lab::run(async |lab| {
        let scene = Scene::new().await;
        let first = scene.far.run(async || Hop::http((HOP, 3128), None)).await;
        let second = scene.socks().await;
        let config = behind(lab.config(), "tunnels = [\"first\", \"second\"]")
            .set_toml("resolvers.acme.tunnels", "[\"first\", \"second\"]")
            .set("tunnels.first.url", format!("http://{HOP}:3128"))
            .set("tunnels.second.url", format!("socks5://{HOP}:1080"));
        let gateway = lab.gateway(&config).await;
        assert_reached(&gateway, "first").await;
        assert!(second.asked().is_empty());
        drop(first);
        // One that was sent over a kept connection just as that broke is lost, as nobody may resend it.
        eventually("the next one goes another way", async || {
            (gateway.get(URL).await.status == 200).then_some(())
        })
        .await;
        assert_reached(&gateway, "second").await;
        up(&gateway, "first", 0.0).await;
        let begun = Instant::now();
        assert_reached(&gateway, "second").await;
        assert!(begun.elapsed() < Duration::from_secs(2));
        let first = scene.far.run(async || Hop::http((HOP, 3128), None)).await;
        up(&gateway, "first", 1.0).await;
        drop(second);
        up(&gateway, "second", 0.0).await;
        assert_reached(&gateway, "first").await;
        drop(first);
        eventually("both are down", async || (gateway.get(URL).await.status != 200).then_some(()))
            .await;
        scene.assert_nothing_direct(&lab).await;
    });
}

#[test]
fn what_the_private_name_server_says_is_vetted_like_any_other_answer() {
    lab::run(async |lab| {
        let scene = Scene::new().await;
        let hop = scene.socks().await;
        // The check that begins with the gateway must not find the way either.
        scene.dns.addresses(NAME, &[IpAddr::from([127, 0, 0, 1])]);
        let gateway = lab.gateway(&acme(&lab)).await;
        let unsafe_ = (403, "SELF_HOSTED_BASE_URL_UNSAFE", "address_forbidden");
        let private = "SELF_HOSTED_PRIVATE_NETWORK_REJECTED";
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        for (addresses, expected) in [
            (vec!["127.0.0.1"], unsafe_),
            (vec!["169.254.169.254"], unsafe_),
            (vec!["10.30.0.5", "169.254.169.254"], unsafe_),
            (vec!["::ffff:127.0.0.1"], unsafe_),
            (vec!["203.0.114.10"], unsafe_),
            (vec!["45.76.10.1"], unsafe_),
            (vec!["10.30.0.5", "93.184.215.14"], (403, unsafe_.1, "dns_rebinding")),
            (vec!["10.30.0.77"], (403, private, "address_private")),
            (vec!["10.30.0.5", "10.31.0.5"], (403, private, "address_private")),
            (vec!["93.184.215.14"], (403, private, "address_not_allowlisted")),
        ] {
            scene.dns.addresses(NAME, &addresses.iter().map(|one| ip(one)).collect::<Vec<_>>());
            // The answer before may be remembered for a second.
            eventually(expected.2, async || {
                let reply = gateway.get(URL).await;
                let matches = reply.status == expected.0 && reply.json()["cause"] == expected.2;
                matches.then_some(())
            })
            .await;
            gateway.refuse_get(URL, expected).await;
            gateway.refuse("jira.acme.internal:8080", expected).await;
        }
        assert_eq!(hop.asked_once(), ["10.30.0.53:53"]);
        scene.host.assert_not_reached();
        scene.assert_nothing_direct(&lab).await;
    });
}

#[test]
fn a_private_hosts_redirect_leads_nowhere_else() {
    lab::run(async |lab| {
        let scene = Scene::new().await;
        let hop = scene.socks().await;
        let _other = scene
            .far
            .run(async || {
                let redirect =
                    |_: &_| answer("302 Found", &[("Location", "http://10.30.0.53:53/")], "");
                Origin::start((INSIDE_2, 8080), None, redirect)
            })
            .await;
        scene.dns.addresses(NAME, &[INSIDE_2]);
        let gateway = lab.gateway(&acme(&lab)).await;
        gateway.refuse_get(URL, (502, "SELF_HOSTED_BASE_URL_UNSAFE", "redirect_blocked")).await;
        assert_eq!(hop.asked_once(), sorted(["10.30.0.53:53", "10.30.0.6:8080"]));
    });
}

#[test]
fn each_fault_of_a_hop_has_its_cause() {
    lab::run(async |lab| {
        let scene = Scene::new().await;
        let config = lab
            .config()
            .set("limits.connect_timeout", "1s")
            .set("tunnels.acme.url", format!("http://{HOP}:3128"))
            .self_hosted_with(
                "literal",
                &format!("http://{INSIDE}:8080"),
                "allow_http = true\nprivate_network_policy = \"tunnel\"\ntunnel = \"acme\"\n\
                 private_network_allowlist = [\"10.30.0.0/28\"]\nscope = \"origin\"",
            );
        let rows: [(&'static [u8], u16, &str, &str); 9] = [
            (b"HTTP/1.1 407 no\r\n\r\n", 502, DOWN, "tunnel_auth"),
            (b"HTTP/1.1 403 no\r\n\r\n", 502, DOWN, "tunnel_denied"),
            (b"HTTP/1.1 502 no\r\n\r\n", 502, DOWN, "tunnel_unreachable"),
            (b"HTTP/1.1 2000 OK\r\n\r\n", 502, DOWN, "tunnel_protocol"),
            (b"SSH-2.0-OpenSSH_9.9\r\n", 502, DOWN, "tunnel_protocol"),
            (b"", 502, DOWN, "tunnel_timeout"),
            (b"HTTP/1.1 200 OK\r\n", 502, DOWN, "tunnel_timeout"),
            (
                b"HTTP/1.1 503 no\r\n\r\n",
                502,
                "SELF_HOSTED_CONNECTIVITY_BLOCKED",
                "tunnel_target_unreachable",
            ),
            (
                b"HTTP/1.1 504 no\r\n\r\n",
                502,
                "SELF_HOSTED_CONNECTIVITY_BLOCKED",
                "tunnel_target_unreachable",
            ),
        ];
        let gateway = lab.gateway(&config).await;
        for (said, status, code, cause) in rows {
            let hop = scene.far.run(async move || Hop::answering((HOP, 3128), said)).await;
            up_or_reached(&gateway).await;
            gateway.refuse(&format!("{INSIDE}:8080"), (status, code, cause)).await;
            assert_eq!(hop.asked_once(), ["10.30.0.5:8080"]);
        }
        scene.canary.assert_silent().await;
    });
}

/// Waits until the new hop has been noticed, whatever is thought of it.
async fn up_or_reached(gateway: &Gateway) {
    eventually("the hop is reached", async || {
        let reply = gateway.connect(&format!("{INSIDE}:8080")).await.reply;
        (!reply.json()["detail"].to_string().contains("refused")).then_some(())
    })
    .await;
}

#[test]
fn a_reload_moves_the_target_and_open_streams_live_on() {
    lab::run(async |lab| {
        let scene = Scene::new().await;
        let former = scene.socks().await;
        let latter = scene.far.run(async || Hop::http((HOP, 3128), None)).await;
        let gateway = lab.gateway(&acme(&lab)).await;
        let mut open = gateway.tunnel("jira.acme.internal:8080").await;
        // A connection that waits for its next request.
        let mut kept = Conn::open(gateway.proxy).await;
        let request = "GET http://jira.acme.internal:8080/ HTTP/1.1\r\n\
                       Host: jira.acme.internal:8080\r\n\r\n";
        kept.send(request).await;
        assert_eq!(kept.reply().await.status, 200);
        gateway.reload(&acme(&lab).set("tunnels.acme.url", format!("http://{HOP}:3128"))).await;
        kept.send(request).await;
        assert_eq!(kept.reply().await.status, 200);
        assert_eq!(latter.asked_once(), sorted(ASKED), "the name server is asked anew, too");
        open.send("GET / HTTP/1.1\r\nHost: jira.acme.internal:8080\r\n\r\n").await;
        assert_eq!(open.reply().await.status, 200);
        // Without the tunnel's policy the target would be one of a private address: refused, and
        // the default resolver knows nothing of it.
        gateway.reload(&lab.config().self_hosted("acme-jira", "https://acme.example")).await;
        assert_eq!(gateway.metrics().await.sum("egress_tunnel_up", &[]), 0.0);
        open.send("GET / HTTP/1.1\r\nHost: jira.acme.internal:8080\r\n\r\n").await;
        assert_eq!(open.reply().await.status, 200);
        assert_eq!(former.asked_once(), sorted(ASKED));
        scene.assert_nothing_direct(&lab).await;
    });
}

#[test]
fn a_global_address_goes_through_the_tunnel_where_the_policy_says_so() {
    lab::run(async |lab| {
        let scene = Scene::new().await;
        let hop = scene.socks().await;
        lab.dns.addresses("acme.example", &[PUBLIC]);
        let config =
            lab.config().set("tunnels.acme.url", format!("socks5://{HOP}:1080")).self_hosted_with(
                "acme",
                "http://acme.example:8080",
                &format!(
                    "allow_http = true\nprivate_network_policy = \"tunnel\"\ntunnel = \"acme\"\n\
                     private_network_allowlist = [\"{PUBLIC}/32\"]\nscope = \"origin\""
                ),
            );
        let gateway = lab.gateway(&config).await;
        // Nobody answers to it behind the hop; that it was asked is what counts.
        gateway.get("http://acme.example:8080/").await;
        assert_eq!(hop.asked_once(), [format!("{PUBLIC}:8080")]);
        scene.canary.assert_silent().await;
    });
}
