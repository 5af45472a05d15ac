//! The admin listener over real sockets.
#![expect(clippy::disallowed_methods, reason = "the client of these tests connects to loopback")]

mod decisions;
mod document;
mod explain;
mod origins;

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::Notify,
    task::JoinHandle,
    time::timeout,
};
use tokio_util::{
    sync::CancellationToken,
    task::{AbortOnDropHandle, TaskTracker},
};

use super::{
    token::{Role, Token},
    *,
};
use crate::{
    check::Board,
    config,
    deliveries::Deliveries,
    reason::{Cause, Code},
    secret::Secret,
    sightings::Sightings,
    store::Store,
    target::provider::Catalogue,
    telemetry::metrics::Metrics,
    view::{Shared, View},
};

/// Long enough for any machine; only a failing test waits for it.
const PATIENCE: Duration = Duration::from_secs(20);

/// A probe whose one check can be turned.
#[derive(Clone)]
struct Switch(Arc<AtomicBool>);

impl Switch {
    fn on() -> Self {
        Self(Arc::new(AtomicBool::new(true)))
    }
}

impl Probe for Switch {
    fn checks(&self) -> BoxFuture<'_, Vec<Check>> {
        let bound = self.0.load(Ordering::SeqCst);
        let check = if bound {
            Check::ok("egress_address", "203.0.113.10 is bound")
        } else {
            Check::failed("egress_address", "203.0.113.10 is not on this machine")
        };
        Box::pin(ready(vec![check, Check::ok("draining", "no")]))
    }
}

/// A probe that tells when it is asked, and answers when it is let.
#[derive(Clone, Default)]
struct Gate {
    asked: Arc<Notify>,
    open: Arc<Notify>,
}

impl Probe for Gate {
    fn checks(&self) -> BoxFuture<'_, Vec<Check>> {
        Box::pin(async {
            self.asked.notify_one();
            self.open.notified().await;
            vec![Check::ok("resolver", "answers")]
        })
    }
}

/// A listener on a port of its own, and the ways to steer it.
struct Admin {
    address: SocketAddr,
    state: Arc<AdminState>,
    stop: CancellationToken,
    serving: AbortOnDropHandle<()>,
}

/// `tokio::spawn` is for owners of tasks; here the handle is one.
fn spawn(future: impl Future<Output = ()> + Send + 'static) -> AbortOnDropHandle<()> {
    let handle: JoinHandle<()> = tokio::runtime::Handle::current().spawn(future);
    AbortOnDropHandle::new(handle)
}

/// A gateway of this configuration, which asks no DNS but that of loopback, where nobody answers.
async fn gateway(config: &str) -> Arc<Gateway> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("gateway.toml");
    std::fs::write(folder.path().join("token"), "a-token-of-the-test").unwrap();
    std::fs::write(&file, format!("dns.servers = [\"127.0.0.1:9\"]\n{config}")).unwrap();
    let config = config::load(&[file]).unwrap().config;
    let store = Store::open("sqlite::memory:").await.unwrap();
    let (sightings, _writer) = Sightings::new(Vec::new(), store.clone());
    let (deliveries, _writer) = Deliveries::new(store.clone());
    let metrics = Arc::new(Metrics::new().unwrap());
    let shared = Shared {
        sightings: Arc::new(sightings),
        metrics: Arc::clone(&metrics),
        needs_egress: false,
        connectors: None,
    };
    let view = View::new(config, Vec::new(), &shared, None).unwrap();
    let view = Arc::new(ArcSwap::from_pointee(view));
    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
    let (checks, _writer) = Board::new(Arc::clone(&metrics), store, tasks.clone(), stop);
    Arc::new(Gateway::new(view, metrics, Arc::new(deliveries), Arc::new(checks), &tasks))
}

/// What a listener works with, on a store of its own.
async fn state(gateway: Arc<Gateway>, probe: Arc<dyn Probe>, view: AdminView) -> AdminState {
    let store = Store::open("sqlite::memory:").await.unwrap();
    let (snapshot, checks) = (Arc::clone(&gateway.view), Arc::clone(&gateway.checks));
    let inventory = Inventory::open(store.clone(), snapshot, checks, "tls".into(), None).await;
    AdminState::new(gateway, Arc::new(inventory.unwrap()), store, probe, view)
}

async fn start(view: AdminView, probe: impl Probe, limits: Limits) -> Admin {
    start_with(gateway("").await, view, probe, limits).await
}

async fn start_with(
    gateway: Arc<Gateway>,
    view: AdminView,
    probe: impl Probe,
    limits: Limits,
) -> Admin {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let state = Arc::new(state(gateway, Arc::new(probe), view).await);
    let stop = CancellationToken::new();
    let serving = spawn(serve(listener, Arc::clone(&state), limits, stop.clone()));
    Admin { address, state, stop, serving }
}

async fn plain(view: AdminView) -> Admin {
    start(view, Switch::on(), Limits::default()).await
}

/// With a token of each role: `Bearer read-token` and `Bearer operate-token`.
fn with_tokens() -> AdminView {
    let token = |role: Role| Token {
        name: role.as_str().into(),
        role,
        secret: Secret::new(format!("{}-token", role.as_str()).into_bytes()),
    };
    AdminView {
        tokens: Role::ALL.iter().map(|role| Access::from(&token(*role))).collect(),
        ..AdminView::default()
    }
}

fn with_egress() -> AdminView {
    AdminView {
        egress_ip: vec!["203.0.113.10".parse().unwrap(), "2001:db8::10".parse().unwrap()],
        ..AdminView::default()
    }
}

struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn field(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (found, value) = line.split_once(": ")?;
            found.eq_ignore_ascii_case(name).then_some(value)
        })
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("{}", self.body))
    }

    /// Asserts that this is a problem document, and gives status and code.
    fn problem(&self) -> (u16, String) {
        assert_eq!(self.field("content-type"), Some("application/problem+json"), "{}", self.head);
        let document = self.json();
        assert_eq!(document["status"], self.status);
        assert_eq!(document["type"], "about:blank");
        for member in ["title", "detail"] {
            assert!(!document[member].as_str().unwrap().is_empty(), "{document}");
        }
        (self.status, document["code"].as_str().unwrap().to_owned())
    }
}

impl Admin {
    /// Sends bytes and reads until the far side closes.
    async fn send(&self, bytes: &str) -> Answer {
        let text = timeout(PATIENCE, async {
            let mut stream = TcpStream::connect(self.address).await.unwrap();
            stream.write_all(bytes.as_bytes()).await.unwrap();
            let mut text = String::new();
            stream.read_to_string(&mut text).await.unwrap();
            text
        });
        let text = text.await.unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{text:?}"));
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let answer = Answer { status, head: head.to_owned(), body: body.to_owned() };
        if answer.field("content-type").is_some() {
            assert_eq!(answer.field("x-content-type-options"), Some("nosniff"), "{head}");
            assert_eq!(answer.field("cache-control"), Some("no-store"), "{head}");
        }
        assert_eq!(answer.field("access-control-allow-origin"), None, "{head}");
        answer
    }

    /// One request with further fields, each ended by CRLF.
    async fn request(&self, line: &str, fields: &str) -> Answer {
        let host = "Host: localhost\r\n";
        self.send(&format!("{line} HTTP/1.1\r\n{host}{fields}Connection: close\r\n\r\n")).await
    }

    async fn get(&self, path: &str) -> Answer {
        self.request(&format!("GET {path}"), "").await
    }

    /// A POST of JSON.
    async fn post(&self, path: &str, body: &str, fields: &str) -> Answer {
        let length = body.len();
        let kind = "Content-Type: application/json\r\n";
        let head = format!("{kind}{fields}Content-Length: {length}\r\nConnection: close\r\n");
        self.send(&format!("POST {path} HTTP/1.1\r\nHost: localhost\r\n{head}\r\n{body}")).await
    }

    async fn get_from_host(&self, path: &str, hosts: &[&str]) -> Answer {
        let mut request = format!("GET {path} HTTP/1.1\r\nConnection: close\r\n");
        for host in hosts {
            request.extend(["Host: ", host, "\r\n"]);
        }
        request.push_str("\r\n");
        self.send(&request).await
    }
}

// === who is answered ===

#[tokio::test]
async fn only_names_of_our_own_and_ip_literals_are_answered() {
    let hosts = vec![Host::parse("egress.internal").unwrap()];
    let admin = plain(AdminView { hosts, ..AdminView::default() }).await;
    for host in ["localhost", "LOCALHOST:9128", "127.0.0.1", "[::1]:9128", "[::1]", "192.0.2.7:80"]
    {
        assert_eq!(admin.get_from_host("/healthz", &[host]).await.status, 200, "{host}");
    }
    assert_eq!(admin.get_from_host("/healthz", &["egress.internal:9128"]).await.status, 200);
    for path in ["/healthz", "/readyz", "/metrics", "/v1/egress", "/nothing"] {
        for host in ["rebound.evil.example", "x.egress.internal", "localhost.evil.example:9128"] {
            let answer = admin.get_from_host(path, &[host]).await;
            assert_eq!(answer.problem(), (421, "ADMIN_HOST_NOT_ALLOWED".into()), "{path} {host}");
            assert!(!answer.body.contains("example"), "{}", answer.body);
        }
    }
}

#[tokio::test]
async fn a_request_says_its_host_exactly_once() {
    let admin = plain(AdminView::default()).await;
    let invalid = (400, "ADMIN_REQUEST_INVALID".to_owned());
    for hosts in [&[][..], &["localhost", "localhost"], &[""], &["::1"], &["a@localhost"]] {
        assert_eq!(admin.get_from_host("/healthz", hosts).await.problem(), invalid, "{hosts:?}");
    }
    let old = admin.send("GET /healthz HTTP/1.0\r\n\r\n").await;
    assert_eq!(old.problem(), invalid);
}

#[tokio::test]
async fn a_name_in_the_request_target_counts_as_well() {
    let admin = plain(AdminView::default()).await;
    let ours = admin.request("GET http://localhost/healthz", "").await;
    assert_eq!(ours.status, 200);
    let theirs = admin.request("GET http://rebound.evil.example/healthz", "").await;
    assert_eq!(theirs.problem(), (421, "ADMIN_HOST_NOT_ALLOWED".into()));
    let tunnel = admin.request("CONNECT rebound.evil.example:443", "").await;
    assert_eq!(tunnel.problem(), (421, "ADMIN_HOST_NOT_ALLOWED".into()));
    assert_eq!(admin.request("CONNECT 127.0.0.1:443", "").await.problem().0, 404);
    assert_eq!(admin.request("OPTIONS *", "").await.problem().0, 404);
}

#[tokio::test]
async fn with_tokens_only_the_three_open_routes_need_none() {
    let admin = plain(with_tokens()).await;
    for path in ["/healthz", "/readyz", "/metrics"] {
        assert_eq!(admin.get(path).await.status, 200, "{path}");
    }
    let closed =
        ["/v1/egress", "/v1/providers", "/v1/reasons", "/nothing", "/healthz/", "//metrics"];
    for path in closed {
        let answer = admin.get(path).await;
        assert_eq!(answer.problem(), (401, "ADMIN_UNAUTHENTICATED".into()), "{path}");
        let challenge = answer.field("www-authenticate");
        assert_eq!(challenge, Some("Bearer realm=\"egress-gateway\""));
    }
}

#[tokio::test]
async fn a_token_is_compared_whole_and_sent_once() {
    let admin = plain(with_tokens()).await;
    for right in ["Bearer read-token", "bearer   operate-token"] {
        let answer = admin.request("GET /v1/egress", &format!("Authorization: {right}\r\n")).await;
        assert_eq!(answer.status, 200, "{right}");
    }
    let twice = "Bearer read-token\r\nAuthorization: Bearer read-token";
    for wrong in
        ["Bearer read-toke", "Bearer read-tokens", "Bearer ", "Basic read-token", "Bearer", twice]
    {
        let answer = admin.request("GET /v1/egress", &format!("Authorization: {wrong}\r\n")).await;
        assert_eq!(answer.problem(), (401, "ADMIN_UNAUTHENTICATED".into()), "{wrong}");
        assert!(answer.field("www-authenticate").is_some());
    }
}

#[tokio::test]
async fn only_the_role_operate_may_do_more_than_look() {
    let admin = plain(with_tokens()).await;
    let ask = async |method: &str, token: &str| {
        let fields = format!("Authorization: Bearer {token}\r\n");
        admin.request(&format!("{method} /v1/egress"), &fields).await
    };
    assert_eq!(ask("HEAD", "read-token").await.status, 200);
    for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "ANYTHING"] {
        assert_eq!(
            ask(method, "read-token").await.problem(),
            (403, "ADMIN_FORBIDDEN".into()),
            "{method}"
        );
        assert_eq!(ask(method, "operate-token").await.problem().0, 405, "{method}");
    }
}

#[tokio::test]
async fn a_reload_changes_who_is_answered() {
    let admin = plain(AdminView::default()).await;
    assert_eq!(admin.get("/v1/egress").await.status, 200);
    admin.state.view.store(Arc::new(with_tokens()));
    assert_eq!(admin.get("/v1/egress").await.status, 401);
}

// === health ===

#[tokio::test]
async fn readiness_turns_when_a_check_fails_and_back() {
    let bound = Switch::on();
    let admin = start(AdminView::default(), bound.clone(), Limits::default()).await;
    let ready = admin.get("/readyz").await;
    assert_eq!(ready.status, 200);
    assert_eq!(
        ready.json(),
        json!({"status": "ready", "checks": [
            {"name": "egress_address", "status": "ok", "detail": "203.0.113.10 is bound"},
            {"name": "draining", "status": "ok", "detail": "no"},
        ]})
    );

    bound.0.store(false, Ordering::SeqCst);
    let unready = admin.get("/readyz").await;
    assert_eq!(unready.status, 503);
    assert_eq!(unready.json()["status"], "not_ready");
    assert_eq!(unready.json()["checks"][0]["status"], "failed");
    assert_eq!(admin.get("/healthz").await.status, 200);

    bound.0.store(true, Ordering::SeqCst);
    assert_eq!(admin.get("/readyz").await.status, 200);
}

#[tokio::test]
async fn a_probe_that_hangs_is_not_ready_within_its_limit() {
    let gateway = gateway("").await;
    let state = state(gateway, Arc::new(Gate::default()), AdminView::default()).await;
    let state = Arc::new(state);
    let begun = tokio::time::Instant::now();
    let answer = timeout(PATIENCE, health::readyz(axum::extract::State(state))).await.unwrap();
    assert_eq!(answer.status(), 503);
    assert!(begun.elapsed() >= Duration::from_secs(2));
}

#[tokio::test]
async fn metrics_are_prometheus_text_and_count_this_connection() {
    let admin = plain(AdminView::default()).await;
    let answer = admin.get("/metrics").await;
    assert_eq!(answer.status, 200);
    let media_type = "text/plain; version=0.0.4; charset=utf-8";
    assert_eq!(answer.field("content-type"), Some(media_type));
    assert!(answer.body.contains("egress_connections{kind=\"admin\"} 1\n"), "{}", answer.body);
    assert!(answer.body.contains("# TYPE egress_build_info gauge\n"), "{}", answer.body);
}

#[tokio::test]
async fn head_is_get_without_the_body() {
    let admin = plain(AdminView::default()).await;
    for path in ["/healthz", "/readyz", "/v1/egress", "/v1/reasons"] {
        let get = admin.get(path).await;
        let head = admin.request(&format!("HEAD {path}"), "").await;
        assert_eq!((head.status, head.body.as_str()), (200, ""), "{path}");
        assert_eq!(head.field("content-type"), get.field("content-type"), "{path}");
        assert_eq!(head.field("content-length"), get.field("content-length"), "{path}");
    }
}

#[tokio::test]
async fn unknown_paths_and_methods_are_problems_that_repeat_nothing() {
    let admin = plain(AdminView::default()).await;
    for path in ["/", "/v1", "/v1/nothing?token=hunter2", "/%68ealthz", "/../metrics"] {
        let answer = admin.get(path).await;
        assert_eq!(answer.problem(), (404, "ADMIN_NOT_FOUND".into()), "{path}");
        assert!(!answer.body.contains("hunter2"), "{}", answer.body);
    }
    for path in ["/healthz", "/metrics", "/v1/egress"] {
        let answer = admin.request(&format!("POST {path}?token=hunter2"), "").await;
        assert_eq!(answer.problem(), (405, "ADMIN_METHOD_NOT_ALLOWED".into()), "{path}");
        assert_eq!(answer.field("allow"), Some("GET,HEAD"), "{}", answer.head);
        assert!(!answer.body.contains("hunter2"), "{}", answer.body);
    }
}

// === reference ===

#[tokio::test]
async fn the_egress_address_is_what_customers_allowlist() {
    let admin = plain(with_egress()).await;
    let told = admin.get("/v1/egress").await.json();
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(
        told,
        json!({
            "egress_ip": "203.0.113.10",
            "egress_ips": ["203.0.113.10", "2001:db8::10"],
            "ranges": ["203.0.113.10/32", "2001:db8::10/128"],
            "version": version,
        })
    );

    let ranges = vec!["203.0.113.8/29".parse().unwrap()];
    admin.state.view.store(Arc::new(AdminView { ranges, ..with_egress() }));
    assert_eq!(admin.get("/v1/egress").await.json()["ranges"], json!(["203.0.113.8/29"]));

    admin.state.view.store(Arc::default());
    assert_eq!(
        admin.get("/v1/egress").await.json(),
        json!({"egress_ip": null, "egress_ips": [], "ranges": [], "version": version})
    );
}

#[tokio::test]
async fn the_catalogue_is_listed_with_its_family_names() {
    let admin = plain(AdminView::default()).await;
    let listed = admin.get("/v1/providers").await.json();
    let items = listed["items"].as_array().unwrap();
    assert_eq!(items.len(), Catalogue::embedded().providers().len());
    assert!(items.len() > 15);
    assert_eq!(listed["next_cursor"], Value::Null);
    let jira = items.iter().find(|item| item["key"] == "jira_cloud").unwrap();
    assert_eq!(jira["aliases"], json!(["jira"]));
    assert_eq!(jira["deployment_modes"], json!(["cloud"]));
    let linear = items.iter().find(|item| item["key"] == "linear").unwrap();
    assert_eq!(linear["aliases"], json!([]));
}

#[tokio::test]
async fn a_list_comes_in_pages_and_refuses_what_it_does_not_know() {
    let admin = plain(AdminView::default()).await;
    let all = admin.get("/v1/providers").await.json();
    let first = admin.get("/v1/providers?limit=2").await.json();
    assert_eq!(first["items"].as_array().unwrap().len(), 2);
    let cursor = first["next_cursor"].as_str().unwrap();
    let second = admin.get(&format!("/v1/providers?limit=2&cursor={cursor}")).await.json();
    assert_eq!(second["items"][0], all["items"][2]);
    for query in [
        "limit=0",
        "limit=501",
        "limit=-1",
        "limit=x",
        "limt=2",
        "limit=1&limit=2",
        "cursor=hunter2",
    ] {
        let answer = admin.get(&format!("/v1/reasons?{query}")).await;
        assert_eq!(answer.problem(), (400, "ADMIN_REQUEST_INVALID".into()), "{query}");
        assert!(!answer.body.contains("hunter2"), "{}", answer.body);
    }
}

#[tokio::test]
async fn every_code_is_explained_with_the_address_to_allowlist() {
    let admin = plain(with_egress()).await;
    let answer = admin.get("/v1/reasons").await;
    assert!(!answer.body.contains("{egress_ip}"), "{}", answer.body);
    let listed = answer.json();
    let items = listed["items"].as_array().unwrap();
    let codes: Vec<_> = items.iter().map(|item| item["code"].as_str().unwrap()).collect();
    assert_eq!(codes, Code::ALL.iter().map(|code| code.as_str()).collect::<Vec<_>>());

    let item = |code: &str| items.iter().find(|item| item["code"] == code).unwrap();
    let cause = |code: &str, cause: &str| -> Value {
        let causes = item(code)["causes"].as_array().unwrap();
        causes.iter().find(|listed| listed["cause"] == cause).cloned().unwrap_or_default()
    };
    let missing = item("SELF_HOSTED_ALLOWLIST_MISSING");
    assert_eq!(missing["statuses"], json!([502, 504]));
    assert_eq!(missing["owner"], "customer");
    for step in [
        missing["next_step"].clone(),
        cause("SELF_HOSTED_ALLOWLIST_MISSING", "connect_timeout")["next_step"].clone(),
    ] {
        assert!(
            step.as_str()
                .unwrap()
                .starts_with("Add 203.0.113.10 and 2001:db8::10 to the allowlist"),
            "{step}"
        );
    }
    assert_eq!(
        cause("SELF_HOSTED_DNS_FAILED", "dns_nxdomain"),
        json!({
            "cause": "dns_nxdomain",
            "meaning": Cause::DnsNxdomain.meaning(),
            "owner": "customer",
            "next_step": Cause::DnsNxdomain.next_step(),
            "retryable": false,
            "status": 502,
            "proxy_status_error": "dns_error",
        })
    );
    assert_eq!(cause("PROVIDER_BASE_URL_UNREACHABLE", "dns_nxdomain")["owner"], "provider");
    assert_eq!(cause("SELF_HOSTED_DNS_FAILED", "connect_timeout"), Value::Null);
    assert_eq!(item("GATEWAY_REQUEST_INVALID")["statuses"], json!([400, 408, 431]));
    for known in Cause::ALL {
        let found = codes.iter().any(|code| cause(code, known.as_str()) != Value::Null);
        assert!(found, "{known:?} belongs to no code");
    }
}

// === limits ===

/// Reads what is left, and asserts that the far side ends it.
async fn rest_of(mut stream: TcpStream) -> Vec<u8> {
    let mut rest = Vec::new();
    // a reset is an end, too
    timeout(PATIENCE, stream.read_to_end(&mut rest)).await.expect("the listener cuts it").ok();
    rest
}

#[tokio::test]
async fn a_slow_head_is_cut_and_so_is_an_idle_connection() {
    let limits = Limits { header_timeout: Duration::from_millis(100), ..Limits::default() };
    let admin = start(AdminView::default(), Switch::on(), limits).await;
    let silent = TcpStream::connect(admin.address).await.unwrap();
    let mut slow = TcpStream::connect(admin.address).await.unwrap();
    slow.write_all(b"GET /healthz HTTP/1.1\r\nHost: loc").await.unwrap();
    let mut idle = TcpStream::connect(admin.address).await.unwrap();
    idle.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    assert_eq!(rest_of(silent).await, b"");
    assert!(!rest_of(slow).await.starts_with(b"HTTP/1.1 200"));
    assert!(rest_of(idle).await.starts_with(b"HTTP/1.1 200"));
}

#[tokio::test]
async fn a_connection_beyond_the_limit_waits_for_a_place() {
    let header_timeout = Duration::from_millis(200);
    let limits = Limits { max_connections: 1, header_timeout, ..Limits::default() };
    let admin = start(AdminView::default(), Switch::on(), limits).await;
    let mut first = TcpStream::connect(admin.address).await.unwrap();
    first.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    first.read_exact(&mut [0; 1]).await.unwrap();
    // answered when the first, idle by now, has lost its place: at no time are there two
    let second = admin.get("/metrics").await;
    assert!(second.body.contains("egress_connections{kind=\"admin\"} 1\n"), "{}", second.body);
}

#[tokio::test]
async fn a_peer_that_reads_nothing_is_cut() {
    let limits = Limits { write_timeout: Duration::from_millis(500), ..Limits::default() };
    let admin = start(AdminView::default(), Switch::on(), limits).await;
    let gauge = admin.state.gateway.metrics.connections.with_label_values(&["admin"]);
    let mut deaf = TcpStream::connect(admin.address).await.unwrap();
    let request = b"GET /v1/reasons HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(400);
    let asked = timeout(PATIENCE, async {
        // ends with an error when the listener has had enough
        while deaf.write_all(&request).await.is_ok() {}
    });
    asked.await.expect("the listener cuts it");
    let counted = timeout(PATIENCE, async {
        while gauge.get() != 0 {
            tokio::task::yield_now().await;
        }
    });
    counted.await.expect("it counts as closed");
}

#[tokio::test]
async fn a_head_beyond_the_limit_is_refused() {
    let admin = plain(AdminView::default()).await;
    let answer = admin.request("GET /healthz", &format!("X: {}\r\n", "x".repeat(40_000))).await;
    assert_eq!(answer.status, 431);
}

#[tokio::test]
async fn told_to_stop_it_closes_idle_connections_and_ends() {
    let limits = Limits { drain_timeout: 10 * PATIENCE, ..Limits::default() };
    let limits = Limits { header_timeout: 10 * PATIENCE, ..limits };
    let admin = start(AdminView::default(), Switch::on(), limits).await;
    let mut idle = TcpStream::connect(admin.address).await.unwrap();
    idle.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    let mut head = [0; 15];
    idle.read_exact(&mut head).await.unwrap();
    assert_eq!(&head, b"HTTP/1.1 200 OK");
    admin.stop.cancel();
    timeout(PATIENCE, admin.serving).await.unwrap().unwrap();
    rest_of(idle).await;
    assert!(TcpStream::connect(admin.address).await.is_err());
}

/// A listener that is told to stop while it works on a request for `/readyz`, and the asker.
async fn stopped_while_asked(gate: &Gate, drain_timeout: Duration) -> (Admin, TcpStream) {
    let limits = Limits { drain_timeout, ..Limits::default() };
    let admin = start(AdminView::default(), gate.clone(), limits).await;
    let mut asking = TcpStream::connect(admin.address).await.unwrap();
    asking.write_all(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    timeout(PATIENCE, gate.asked.notified()).await.unwrap();
    admin.stop.cancel();
    let closed = async { while TcpStream::connect(admin.address).await.is_ok() {} };
    timeout(PATIENCE, closed).await.expect("it accepts no more");
    (admin, asking)
}

#[tokio::test]
async fn told_to_stop_it_lets_a_request_end() {
    let gate = Gate::default();
    let (admin, asking) = stopped_while_asked(&gate, 10 * PATIENCE).await;
    gate.open.notify_one();
    let answer = String::from_utf8(rest_of(asking).await).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    timeout(PATIENCE, admin.serving).await.unwrap().unwrap();
}

#[tokio::test]
async fn told_to_stop_it_cuts_a_request_that_does_not_end_within_the_limit() {
    let (admin, asking) = stopped_while_asked(&Gate::default(), Duration::from_millis(50)).await;
    assert_eq!(rest_of(asking).await, b"");
    timeout(PATIENCE, admin.serving).await.unwrap().unwrap();
}
