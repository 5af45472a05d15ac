//! Private networks behind WireGuard and behind the reverse connector, through the running gateway:
//! an independent peer (wireguard-go) and the real `egress-gateway connector` in the customer's
//! network, which has no other way in.

use crate::{
    support::{
        config::Config,
        dns::{Answer, Transport},
        eventually,
        far::{Far, HOP, INSIDE, INSIDE_2},
        gateway::{Gateway, program, write_config},
        http::{Conn, Reply, request_head},
        lab::{self, EGRESS, Lab},
        origin::{Origin, ok},
        receiver::Receiver,
        within,
    },
    tunnels::{DOWN, NAME, Scene, URL, assert_reached, behind, up},
};
use serde_json::Value;
use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::Duration,
};
use tokio::time::Instant;

/// How long it takes to find out that nobody answers, again and again in these tests.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// What a refusal may take that waits for nobody, on a loaded machine.
const AT_ONCE: Duration = Duration::from_secs(1);
const REQUEST: &str = "GET / HTTP/1.1\r\nHost: jira.acme.internal:8080\r\n\r\n";
/// A second host inside, known by its address.
const BULK: &str = "http://10.30.0.6:8080/";
const LITERAL_FIELDS: &str = "allow_http = true\nprivate_network_policy = \"tunnel\"\n\
     private_network_allowlist = [\"10.30.0.0/28\"]\nscope = \"origin\"\n";

// === the two far ends ===

fn shell(command: &str) -> String {
    let output = Command::new("bash").args(["-euc", command]).output().unwrap();
    assert!(output.status.success(), "{command}: {output:?}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// wireguard-go in the customer's network; killed when dropped.
struct Peer {
    process: Child,
    dir: PathBuf,
    gateway_public: String,
    public: String,
}

impl Peer {
    async fn start(lab: &Lab, far: &Far) -> Self {
        // The control socket is this test's alone.
        shell("mount -t tmpfs tmpfs /run");
        let private = shell("wg genkey");
        lab.secret("gateway.key", &private);
        let dir = lab.dir().to_owned();
        let at = dir.display();
        let gateway_public = shell(&format!("wg pubkey < {at}/gateway.key"));
        shell(&format!("umask 077; wg genkey > {at}/peer.key"));
        let public = shell(&format!("wg pubkey < {at}/peer.key"));
        let process = Self::spawn(far, &dir, &gateway_public).await;
        Self { process, dir, gateway_public, public }
    }

    async fn spawn(far: &Far, dir: &Path, gateway_public: &str) -> Child {
        let process = far
            .run(async || {
                Command::new("wireguard-go")
                    .args(["--foreground", "gateway"])
                    .env("WG_I_PREFER_BUGGY_USERSPACE_TO_POLISHED_KMOD", "1")
                    .env("LOG_LEVEL", "error")
                    .stdin(Stdio::null())
                    .stdout(Stdio::null())
                    .stderr(Stdio::inherit())
                    .spawn()
                    .expect("wireguard-go (package wireguard-go) starts")
            })
            .await;
        let socket = Path::new("/run/wireguard/gateway.sock");
        eventually("wireguard-go listens", async || socket.exists().then_some(())).await;
        let set = format!(
            "wg set gateway listen-port 51820 private-key {}/peer.key peer {gateway_public} \
             allowed-ips 10.9.0.2/32
             ip addr add 10.9.0.1/32 dev gateway
             ip link set gateway up mtu 1420
             ip route add 10.9.0.2/32 dev gateway",
            dir.display()
        );
        far.run(async move || shell(&set)).await;
        process
    }

    /// Ends it as a crash would.
    fn kill(&mut self) {
        let _ended = self.process.kill();
        self.process.wait().unwrap();
        let _gone = std::fs::remove_file("/run/wireguard/gateway.sock");
    }

    async fn restart(&mut self, far: &Far) {
        self.process = Self::spawn(far, &self.dir, &self.gateway_public).await;
    }

    /// The tunnel `name`, towards this peer.
    fn tunnel(&self, config: Config, name: &str) -> Config {
        let key = self.dir.join("gateway.key");
        config
            .set(&format!("tunnels.{name}.url"), format!("wireguard://{HOP}:51820"))
            .set_toml(
                &format!("tunnels.{name}.private_key"),
                &format!("{{ file = \"{}\" }}", key.display()),
            )
            .set(&format!("tunnels.{name}.peer_public_key"), self.public.as_str())
            .set_toml(&format!("tunnels.{name}.addresses"), "[\"10.9.0.2/32\"]")
            .set_toml(
                &format!("tunnels.{name}.allowed_ips"),
                "[\"10.30.0.0/28\", \"10.30.0.53/32\"]",
            )
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ended = self.process.kill();
        let _ended = self.process.wait();
    }
}

/// `egress-gateway connector` in the customer's network; killed when dropped.
struct Connector(Child);

impl Connector {
    async fn start(far: &Far, config: &Path) -> Self {
        let mut command = program();
        command.args(["connector", "--config"]).arg(config);
        command.stdout(Stdio::null()).stderr(Stdio::inherit());
        Self(far.run(async move || command.spawn().unwrap()).await)
    }
}

impl Drop for Connector {
    fn drop(&mut self) {
        let _ended = self.0.kill();
        let _ended = self.0.wait();
    }
}

/// The tunnel `name` through connectors of the name `acme`.
fn connector_tunnel(config: Config, name: &str) -> Config {
    config
        .set_toml("connectors.listen", &format!("[\"{EGRESS}:7443\"]"))
        .set(&format!("tunnels.{name}.url"), "connector:acme")
}

/// Runs `connector …` beside the gateway.
async fn beside(lab: &Lab, config: &Config, words: &[&str]) -> Output {
    let path = write_config(lab.dir(), &config.to_toml());
    let mut command = program();
    command.current_dir(lab.dir()).arg("connector").args(words).arg("--config").arg(path);
    let ran = tokio::task::spawn_blocking(move || command.output().unwrap());
    let output = within("the command", ran).await.unwrap();
    assert!(output.status.success(), "{words:?}: {output:?}");
    output
}

/// Enrols a connector from the customer's network, as documented. Its configuration.
async fn enrolled(lab: &Lab, far: &Far, config: &Config, file: &str) -> PathBuf {
    let token = beside(lab, config, &["token", "acme"]).await.stdout;
    let token = lab.secret(&format!("{file}.token"), String::from_utf8(token).unwrap().trim());
    let out = lab.dir().join(format!("{file}.toml"));
    let mut command = program();
    command.arg("connector").arg("enrol").arg("--token-file").arg(token).arg("--out").arg(&out);
    command.args(["--allow", "10.30.0.0/28:8080-8081", "--allow", "10.30.0.53:53"]);
    let output = far.run(async move || command.output().unwrap()).await;
    assert!(output.status.success(), "{output:?}");
    out
}

// === what is asked ===

/// `acme-jira`, a name that only the private name server knows, behind `acme`; and two more targets
/// that are known by their addresses: one with much to say, and one where nobody listens.
fn targets(lab: &Lab) -> Config {
    let literal = format!("{LITERAL_FIELDS}tunnel = \"acme\"");
    behind(lab.config(), "tunnel = \"acme\"")
        .set("limits.connect_timeout", "2s")
        .set("resolvers.acme.tunnel", "acme")
        .self_hosted_with("bulk", &format!("http://{INSIDE_2}:8080"), &literal)
        .self_hosted_with("closed", &format!("http://{INSIDE_2}:8081"), &literal)
}

/// Bytes that differ from place to place.
fn pattern() -> Vec<u8> {
    (0..1_u32 << 18).flat_map(|index| index.wrapping_mul(2_654_435_761).to_le_bytes()).collect()
}

async fn bulk(far: &Far) -> Origin {
    far.run(async || {
        let body = pattern();
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
        let answer = [head.as_bytes(), &body].concat();
        Origin::start((INSIDE_2, 8080), None, move |_| answer.clone())
    })
    .await
}

async fn json(gateway: &Gateway, path: &str) -> Value {
    let reply = gateway.admin(path).await;
    assert_eq!(reply.status, 200, "{path}: {reply:?}");
    reply.json()
}

/// Has a target checked now, over the admin API.
async fn checked(gateway: &Gateway, target: &str) -> Value {
    let mut conn = Conn::open(gateway.admin).await;
    conn.send(format!(
        "POST /v1/targets/{target}/checks HTTP/1.1\r\nHost: {}\r\nContent-Length: 0\r\n\
         Connection: close\r\n\r\n",
        gateway.admin
    ))
    .await;
    let reply: Reply = conn.reply().await;
    assert_eq!(reply.status, 200, "{target}: {reply:?}");
    reply.json()
}

const STATUSES: [&str; 7] = [
    "state",
    "code",
    "cause",
    "tunnel_status",
    "dns_status",
    "firewall_status",
    "allowlist_status",
];

fn assert_check(check: &Value, url: &str, expected: [&str; 7]) {
    let found = STATUSES.map(|field| check[field].as_str().unwrap_or_default());
    assert_eq!(found, expected, "{check:#}");
    assert_eq!(check["tunnel_url"], url, "{check:#}");
    let next_step = check["next_step"].as_str().unwrap_or_default();
    assert_eq!(next_step.is_empty(), expected[0] == "ready", "{check:#}");
}

/// Streams and requests go through `acme`, small and large; checks agree, and the tunnel is shown.
async fn assert_carries(gateway: &Gateway, kind: &str, url: &str) {
    assert_reached(gateway, "acme").await;
    let reply = gateway.get(BULK).await;
    assert_eq!(reply.status, 200);
    assert!(reply.body == pattern(), "{} bytes came, or others", reply.body.len());
    let ready = ["ready", "", "", "healthy", "ok", "open", "tunnel"];
    assert_check(&checked(gateway, "acme-jira").await, url, ready);
    // What the far side refuses is not the tunnel's fault.
    gateway
        .refuse(
            &format!("{INSIDE_2}:8081"),
            (502, "SELF_HOSTED_CONNECTIVITY_BLOCKED", "tunnel_target_unreachable"),
        )
        .await;
    let refused = [
        "blocked",
        "SELF_HOSTED_CONNECTIVITY_BLOCKED",
        "tunnel_target_unreachable",
        "healthy",
        "skipped",
        "refused",
        "unreachable",
    ];
    assert_check(&checked(gateway, "closed").await, url, refused);
    up(gateway, "acme", 1.0).await;

    let shown = json(gateway, "/v1/tunnels/acme").await;
    let expected = [("name", "acme"), ("kind", kind), ("tunnel_status", "healthy")];
    for (field, value) in expected.into_iter().chain([("tunnel_url", url)]) {
        assert_eq!(shown[field], value, "{shown:#}");
    }
    let healthy_at: jiff::Timestamp = shown["last_healthy_at"].as_str().unwrap().parse().unwrap();
    assert!(jiff::Timestamp::now().duration_since(healthy_at).as_secs() < 60, "{shown:#}");
    assert!(shown["round_trip_ms"].as_f64().is_some_and(|time| time > 0.0), "{shown:#}");
    assert!(shown["bytes_to_client"].as_u64().unwrap() > 1 << 20, "{shown:#}");
    let all = json(gateway, "/v1/tunnels").await;
    assert_eq!(all["items"].as_array().unwrap().len(), 1, "{all:#}");
    assert_eq!(gateway.admin("/v1/tunnels/nobody").await.status, 404);
}

/// Whoever asks while the far end is gone is refused, and after the first nobody waits; checks and
/// the API say why.
async fn assert_down(gateway: &Gateway, url: &str) {
    eventually("the loss is noticed", async || {
        let begun = Instant::now();
        let reply = gateway.connect(&format!("{INSIDE_2}:8080")).await.reply;
        assert!(begun.elapsed() < 2 * CONNECT_TIMEOUT, "{:?}", begun.elapsed());
        (reply.status == 502 && reply.json()["code"] == DOWN).then_some(())
    })
    .await;
    up(gateway, "acme", 0.0).await;
    let begun = Instant::now();
    for _ in 0..5 {
        gateway.refuse_get(URL, (502, DOWN, "")).await;
        gateway.refuse("jira.acme.internal:8080", (502, DOWN, "")).await;
        gateway.refuse_get(BULK, (502, DOWN, "")).await;
    }
    assert!(begun.elapsed() < 2 * AT_ONCE, "15 refusals took {:?}", begun.elapsed());
    let check = checked(gateway, "bulk").await;
    let cause = check["cause"].as_str().unwrap_or_default();
    let down = ["blocked", DOWN, cause, "unreachable", "skipped", "skipped", "unreachable"];
    assert_check(&check, url, down);
    assert_check(
        &checked(gateway, "acme-jira").await,
        url,
        ["blocked", DOWN, cause, "unreachable", "failed", "skipped", "unreachable"],
    );
    let shown = json(gateway, "/v1/tunnels/acme").await;
    assert_eq!(shown["tunnel_status"], "unreachable", "{shown:#}");
    assert!(shown["last_error"].is_string() && shown["last_healthy_at"].is_string(), "{shown:#}");
}

/// A stream through `acme` that has answered once.
async fn open_stream(gateway: &Gateway) -> Conn {
    let mut open = gateway.tunnel("jira.acme.internal:8080").await;
    open.send(REQUEST).await;
    assert_eq!(open.reply().await.status, 200);
    open
}

async fn assert_answers(open: &mut Conn) {
    open.send(REQUEST).await;
    assert_eq!(open.reply().await.status, 200);
}

/// Waits until so many connectors have been linked since the start.
async fn linked(gateway: &Gateway, count: usize) {
    eventually(&format!("{count} connectors came"), async || {
        let events = gateway.events().into_iter();
        let came =
            events.filter(|event| event.text("message") == "a connector is connected").count();
        (came >= count).then_some(())
    })
    .await;
}

// === WireGuard ===

const WG_URL: &str = "wireguard://45.76.10.2:51820";

#[test]
fn a_private_host_is_reached_through_wireguard_and_in_no_other_way() {
    lab::run(async |lab| {
        let scene = Scene::new().await;
        let _bulk = bulk(&scene.far).await;
        let peer = Peer::start(&lab, &scene.far).await;
        let gateway = lab.gateway(&peer.tunnel(targets(&lab), "acme")).await;
        assert_carries(&gateway, "wireguard", WG_URL).await;
        assert!(scene.dns.queries(NAME) > 0 && scene.host.accepted() > 0);
        let private = std::fs::read_to_string(lab.dir().join("gateway.key")).unwrap();
        for path in ["/v1/tunnels", "/v1/tunnels/acme", "/metrics"] {
            let body = String::from_utf8(gateway.admin(path).await.body).unwrap();
            assert!(!body.contains(&private), "{path} tells the private key");
        }
        scene.assert_nothing_direct(&lab).await;
    });
}

#[test]
fn a_name_server_behind_wireguard_is_asked_over_udp_and_over_tcp() {
    lab::run(async |lab| {
        let scene = Scene::new().await;
        let peer = Peer::start(&lab, &scene.far).await;
        let gateway = lab.gateway(&peer.tunnel(targets(&lab), "acme")).await;
        for heard in [Transport::Udp, Transport::Tcp] {
            scene.dns.answer(NAME, Answer::Heard(heard, vec![INSIDE]));
            let reply = gateway.get(URL).await;
            assert_eq!((reply.status, &*reply.body), (200, &b"inside"[..]), "{heard:?} {reply:?}");
        }
        scene.dns.answer(NAME, Answer::OnlyOverTcp(vec![INSIDE]));
        assert_reached(&gateway, "acme").await;
        scene.assert_nothing_direct(&lab).await;
        let shown = json(&gateway, "/v1/tunnels/acme").await;
        assert!(shown["bytes_to_client"].as_u64().is_some_and(|bytes| bytes > 0), "{shown:#}");
    });
}

#[test]
fn a_wireguard_peer_that_is_killed_is_refused_fast_and_back_without_a_restart() {
    lab::run(async |lab| {
        let scene = Scene::new().await;
        let _bulk = bulk(&scene.far).await;
        let mut peer = Peer::start(&lab, &scene.far).await;
        let mute = scene.far.run(async || Receiver::silent((INSIDE_2, 8082))).await;
        let fields = format!("{LITERAL_FIELDS}tunnel = \"acme\"");
        let config = targets(&lab).set("limits.response_timeout", "1m").self_hosted_with(
            "mute",
            &format!("http://{INSIDE_2}:8082"),
            &fields,
        );
        let gateway = lab.gateway(&peer.tunnel(config, "acme")).await;
        assert_reached(&gateway, "acme").await;
        let mut waits = Conn::open(gateway.proxy).await;
        waits.send(request_head("GET", &format!("http://{INSIDE_2}:8082/"), &[], 0)).await;
        mute.first("the request has come", |visit| !visit.bytes.is_empty()).await;
        peer.kill();
        assert_down(&gateway, WG_URL).await;
        let reply = within("the request that waits is told", waits.reply()).await;
        gateway.assert_refused(&reply, (502, DOWN, "")).await;
        scene.assert_nothing_direct(&lab).await;
        peer.restart(&scene.far).await;
        up(&gateway, "acme", 1.0).await;
        assert_carries(&gateway, "wireguard", WG_URL).await;
        scene.assert_nothing_direct(&lab).await;
    });
}

#[test]
fn a_reload_without_the_wireguard_tunnel_drains_its_streams() {
    lab::run(async |lab| {
        let scene = Scene::new().await;
        let peer = Peer::start(&lab, &scene.far).await;
        let gateway = lab.gateway(&peer.tunnel(targets(&lab), "acme")).await;
        assert_drained_by_reload(&lab, &gateway).await;
        scene.assert_nothing_direct(&lab).await;
    });
}

/// Takes the tunnel and its targets out.
async fn assert_drained_by_reload(lab: &Lab, gateway: &Gateway) {
    let mut open = open_stream(gateway).await;
    gateway.reload(&lab.config().self_hosted("other", "https://acme.example")).await;
    assert_answers(&mut open).await;
    gateway
        .refuse("jira.acme.internal:8080", (403, "SELF_HOSTED_BASE_URL_UNSAFE", "no_target"))
        .await;
    assert_eq!(json(gateway, "/v1/tunnels").await["items"], Value::Array(Vec::new()));
    assert_eq!(gateway.admin("/v1/tunnels/acme").await.status, 404);
    let metrics = gateway.metrics().await;
    assert_eq!(metrics.sum("egress_tunnel_up", &[]), 0.0);
    assert_answers(&mut open).await;
    open.finish().await;
    open.until_closed().await;
}

// === the reverse connector ===

const CONNECTOR_URL: &str = "connector:acme";

#[test]
fn a_private_host_is_reached_through_its_connector_and_in_no_other_way() {
    lab::run(async |lab| {
        let scene = Scene::new().await;
        let _bulk = bulk(&scene.far).await;
        let host = scene.far.run(async || Origin::start((INSIDE_2, 8082), None, |_| ok("x"))).await;
        let unlisted = format!("{LITERAL_FIELDS}tunnel = \"acme\"");
        let config = connector_tunnel(targets(&lab), "acme").self_hosted_with(
            "unlisted",
            &format!("http://{INSIDE_2}:8082"),
            &unlisted,
        );
        let gateway = lab.gateway(&config).await;
        // Nobody has dialled in: known without waiting.
        let begun = Instant::now();
        gateway.refuse_get(BULK, (502, DOWN, "tunnel_unreachable")).await;
        assert!(begun.elapsed() < AT_ONCE, "{:?}", begun.elapsed());
        let file = enrolled(&lab, &scene.far, &config, "c").await;
        let _connector = Connector::start(&scene.far, &file).await;
        up(&gateway, "acme", 1.0).await;
        assert_carries(&gateway, "connector", CONNECTOR_URL).await;
        assert!(scene.dns.queries(NAME) > 0 && scene.host.accepted() > 0);
        // What the target's list holds, and the customer's own does not.
        let before = host.accepted();
        gateway.refuse(&format!("{INSIDE_2}:8082"), (502, DOWN, "tunnel_denied")).await;
        assert_eq!(host.accepted(), before);
        scene.assert_nothing_direct(&lab).await;
    });
}

#[test]
fn a_connector_that_is_killed_is_refused_fast_and_back_without_a_restart() {
    lab::run(async |lab| {
        let scene = Scene::new().await;
        let _bulk = bulk(&scene.far).await;
        let config = connector_tunnel(targets(&lab), "acme");
        let gateway = lab.gateway(&config).await;
        let file = enrolled(&lab, &scene.far, &config, "c").await;
        let connector = Connector::start(&scene.far, &file).await;
        up(&gateway, "acme", 1.0).await;
        assert_reached(&gateway, "acme").await;
        let mut open = open_stream(&gateway).await;
        let lost = Instant::now();
        drop(connector);
        open.until_closed().await;
        assert!(lost.elapsed() < AT_ONCE, "streams ended after {:?}", lost.elapsed());
        gateway.refuse_get(BULK, (502, DOWN, "tunnel_unreachable")).await;
        assert!(lost.elapsed() < 2 * AT_ONCE, "refused after {:?}", lost.elapsed());
        assert_down(&gateway, CONNECTOR_URL).await;
        scene.assert_nothing_direct(&lab).await;
        let _connector = Connector::start(&scene.far, &file).await;
        up(&gateway, "acme", 1.0).await;
        assert_carries(&gateway, "connector", CONNECTOR_URL).await;
        scene.assert_nothing_direct(&lab).await;
    });
}

#[test]
fn a_revoked_connector_is_cut_within_about_a_second_and_refused_after() {
    lab::run(async |lab| {
        let scene = Scene::new().await;
        let config = connector_tunnel(targets(&lab), "acme");
        let gateway = lab.gateway(&config).await;
        let file = enrolled(&lab, &scene.far, &config, "c").await;
        let _connector = Connector::start(&scene.far, &file).await;
        up(&gateway, "acme", 1.0).await;
        let mut open = open_stream(&gateway).await;
        beside(&lab, &config, &["revoke", "acme"]).await;
        let revoked = Instant::now();
        open.until_closed().await;
        assert!(revoked.elapsed() < Duration::from_millis(1500), "{:?}", revoked.elapsed());
        up(&gateway, "acme", 0.0).await;
        for _ in 0..20 {
            gateway.refuse_get(BULK, (502, DOWN, "tunnel_unreachable")).await;
        }
        // A fresh token brings the customer back.
        let file = enrolled(&lab, &scene.far, &config, "d").await;
        let _connector = Connector::start(&scene.far, &file).await;
        up(&gateway, "acme", 1.0).await;
        assert_reached(&gateway, "acme").await;
        scene.assert_nothing_direct(&lab).await;
    });
}

#[test]
fn the_loss_of_one_of_two_connectors_is_the_loss_of_its_streams_only() {
    lab::run(async |lab| {
        let scene = Scene::new().await;
        let config = connector_tunnel(targets(&lab), "acme");
        let gateway = lab.gateway(&config).await;
        let mut both = Vec::new();
        for (count, name) in [(1, "c"), (2, "d")] {
            let file = enrolled(&lab, &scene.far, &config, name).await;
            both.push(Connector::start(&scene.far, &file).await);
            linked(&gateway, count).await;
        }
        up(&gateway, "acme", 1.0).await;
        let mut streams = [open_stream(&gateway).await, open_stream(&gateway).await];
        drop(both.pop());
        assert_reached(&gateway, "acme").await;
        let mut alive = 0;
        for open in &mut streams {
            let sent = open.try_send(REQUEST).await;
            let reply = match sent {
                Ok(()) => within("an answer or the end", open.try_reply()).await,
                Err(error) => Err(error),
            };
            alive += usize::from(reply.is_ok_and(|reply| reply.status == 200));
        }
        assert_eq!(alive, 1, "each connector carried one of the streams");
        up(&gateway, "acme", 1.0).await;
        drop(both.pop());
        up(&gateway, "acme", 0.0).await;
        scene.assert_nothing_direct(&lab).await;
    });
}

#[test]
fn a_reload_without_the_connectors_tunnel_drains_its_streams() {
    lab::run(async |lab| {
        let scene = Scene::new().await;
        let config = connector_tunnel(targets(&lab), "acme");
        let gateway = lab.gateway(&config).await;
        let file = enrolled(&lab, &scene.far, &config, "c").await;
        let _connector = Connector::start(&scene.far, &file).await;
        up(&gateway, "acme", 1.0).await;
        assert_drained_by_reload(&lab, &gateway).await;
        scene.assert_nothing_direct(&lab).await;
    });
}

// === both ===

/// A request goes by this route.
async fn assert_goes_by(gateway: &Gateway, route: &str) {
    let before = gateway.canonical().len();
    assert_eq!(gateway.get(BULK).await.status, 200, "by {route}");
    eventually(&format!("a request by {route}"), async || {
        let events = gateway.canonical();
        events.iter().skip(before).any(|event| event.text("route") == route).then_some(())
    })
    .await;
}

#[test]
fn tunnels_of_different_kinds_take_over_from_each_other() {
    lab::run(async |lab| {
        let scene = Scene::new().await;
        let _bulk = bulk(&scene.far).await;
        let mut peer = Peer::start(&lab, &scene.far).await;
        let fields = format!("{LITERAL_FIELDS}tunnels = [\"wg\", \"dial-in\"]");
        // Longer than the second has to wait for its turn.
        let config = lab.config().set("limits.connect_timeout", "3s").self_hosted_with(
            "bulk",
            &format!("http://{INSIDE_2}:8080"),
            &fields,
        );
        let config = connector_tunnel(peer.tunnel(config, "wg"), "dial-in");
        let gateway = lab.gateway(&config).await;
        let file = enrolled(&lab, &scene.far, &config, "c").await;
        let connector = Connector::start(&scene.far, &file).await;
        up(&gateway, "dial-in", 1.0).await;
        up(&gateway, "wg", 1.0).await;
        assert_goes_by(&gateway, "wg").await;
        peer.kill();
        // Also before the loss is known: the second is asked a second later, within the limit of the
        // whole.
        gateway.tunnel(&format!("{INSIDE_2}:8080")).await;
        // That was reason enough to look at the first, whose kept connection is used no more.
        up(&gateway, "wg", 0.0).await;
        let begun = Instant::now();
        assert_goes_by(&gateway, "dial-in").await;
        assert!(begun.elapsed() < 2 * AT_ONCE, "{:?}", begun.elapsed());
        peer.restart(&scene.far).await;
        up(&gateway, "wg", 1.0).await;
        drop(connector);
        up(&gateway, "dial-in", 0.0).await;
        assert_goes_by(&gateway, "wg").await;
        peer.kill();
        eventually("both are down", async || {
            let reply = gateway.connect(&format!("{INSIDE_2}:8080")).await.reply;
            (reply.status == 502 && reply.json()["code"] == DOWN).then_some(())
        })
        .await;
        scene.assert_nothing_direct(&lab).await;
    });
}

// === hops ===

#[test]
fn bulk_through_a_hop_arrives_whole_both_ways_and_is_counted_to_the_byte() {
    lab::run(async |lab| {
        let scene = Scene::new().await;
        let _hop = scene.socks().await;
        let _echo = scene.far.run(async || Receiver::echo((INSIDE_2, 8080))).await;
        let config = targets(&lab).set("tunnels.acme.url", format!("socks5://{HOP}:1080"));
        let gateway = lab.gateway(&config).await;
        let expected = pattern().repeat(8);
        let sent = expected.clone();
        let (mut down, mut up) = tokio::io::split(gateway.tunnel("10.30.0.6:8080").await);
        let writer = tokio::spawn(async move {
            tokio::io::AsyncWriteExt::write_all(&mut up, &sent).await.unwrap();
            tokio::io::AsyncWriteExt::shutdown(&mut up).await.unwrap();
        });
        let mut received = Vec::new();
        let whole = tokio::io::AsyncReadExt::read_to_end(&mut down, &mut received);
        within("all of it comes back", whole).await.unwrap();
        writer.await.unwrap();
        assert!(received == expected, "{} bytes came back, changed or cut", received.len());
        for direction in ["to_target", "to_client"] {
            let labels = [("tunnel", "acme"), ("direction", direction)];
            let all = f64::from(u32::try_from(expected.len()).unwrap());
            gateway.wait_metric("egress_tunnel_bytes_total", &labels, |value| value == all).await;
        }
    });
}
