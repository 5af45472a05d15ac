//! What the relay costs: the gateway's processor time for a request over TLS to a target, and for
//! the same body signed; and how fast bodies are signed, beside `openssl speed -evp sha256`.
//!
//! Requests go through the program as it is shipped, in a process of its own, to a target with TLS
//! on loopback, and every connection is kept. Signing is measured in this process too, as the
//! relay does it, so that it can be told from the record that each delivery leaves on the disk.

#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a benchmark may panic and print, and its own connections lead to loopback"
)]

#[expect(dead_code, reason = "many targets and times of the clock are for other benchmarks")]
mod figures;
mod loopback;

use std::{
    fmt::Write as _,
    fs,
    hint::black_box,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command},
    sync::Arc,
    thread,
    time::Duration,
};

use egress_gateway::{
    secret::Secret,
    target::{Signing, SigningFormat},
    webhook::{
        envelope::{Envelope, Outgoing},
        signature::{self, Keys},
    },
};
use http::{HeaderMap, Method};
use nix::sys::resource::{UsageWho, getrusage};
use sha2::{Digest as _, Sha256};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};
use tokio_rustls::TlsAcceptor;

/// Most processor time of the gateway that a request may take.
const RELAY_US_MAX: f64 = 60.0;
/// Most that signing 4 KiB may add to relaying them.
const SIGNING_US_MAX: f64 = 15.0;
/// Least part of the speed of OpenSSL's SHA-256 at which 1 MiB is signed.
const OF_OPENSSL_MIN: f64 = 80.0;

/// How often each thing is done; the median is shown.
const ROUNDS: usize = 5;
/// Requests of a round, over all its connections.
const REQUESTS: u32 = 2000;
const SMALL: usize = 4 * 1024;
const LARGE: usize = 1024 * 1024;
const TOKEN: &str = "0123456789abcdef0123456789abcdef";
/// Ends the body of each answer, and is nowhere else in it.
const END: &[u8] = b"ok\n";
/// Bytes of the body of an answer.
const ANSWER: usize = 1024;

fn main() {
    if std::env::args().any(|argument| argument == "--list" || argument == "--test") {
        return;
    }
    let only = |part: &str| std::env::args().skip(1).all(|word| word == "--bench" || word == part);
    if only("signing") {
        signing();
    }
    if only("relay") {
        relay();
    }
}

/// Signing alone, in this process.
fn signing() {
    let signing =
        Signing { secret: Some(Secret::new(TOKEN.as_bytes().to_vec())), ..Signing::default() };
    let (small, large) = (body(SMALL), body(LARGE));
    let took = median_of(|| seconds_each(2000, || sign(&signing, &small)));
    println!("\nmedians of {ROUNDS} rounds");
    figures::report("signing 4 KiB in memory", took * 1e6, "us", SIGNING_US_MAX);
    let keys = Keys::new(&signing).unwrap().unwrap();
    let envelope = envelope(&large, [0; 32]);
    // Each round has all of them, so that they meet the same machine.
    let mut parts = [const { Vec::new() }; 5];
    for _ in 0..ROUNDS {
        let figures = [
            openssl().unwrap_or(f64::NAN),
            speed(|| signature::sign(&envelope, black_box(&large), &keys)),
            speed(|| Sha256::digest(black_box(&large))),
            speed(|| self::envelope(black_box(&large), [0; 32])),
            speed(|| sign(&signing, &large)),
        ];
        parts.iter_mut().zip(figures).for_each(|(part, figure)| part.push(figure));
    }
    let [openssl, hmac, hash, look, all] = parts.map(figures::median);
    println!("1 MiB of JSON, MB/s:");
    println!("  openssl speed -evp sha256          {openssl:>8.0}");
    println!("  signature (signature::sign)        {hmac:>8.0}");
    println!("  hash of the body, for the record   {hash:>8.0}");
    println!("  look for fields (Envelope::read)   {look:>8.0}");
    println!("  all three, as the relay does them  {all:>8.0}");
    at_least("signature of 1 MiB, of OpenSSL's SHA-256", hmac / openssl * 100.0);
    at_least("the same with hash and look", all / openssl * 100.0);
}

/// Everything the relay does to sign a body, but for the record.
fn sign(signing: &Signing, body: &[u8]) -> HeaderMap {
    let keys = Keys::new(signing).unwrap().unwrap();
    let envelope = envelope(black_box(body), Sha256::digest(body).into());
    let mut headers = HeaderMap::new();
    signature::replace(&mut headers, signature::sign(&envelope, body, &keys));
    headers
}

fn envelope(body: &[u8], payload_hash: [u8; 32]) -> Envelope {
    let outgoing = Outgoing {
        target: "hook",
        method: &Method::POST,
        url: "https://hook.customer.example/hook",
        headers: &HeaderMap::new(),
        body,
        payload_hash,
        format: SigningFormat::WebRiskOps,
    };
    Envelope::read(&outgoing, 1_700_000_000, [7; 16]).unwrap()
}

/// An export of tickets as JSON, of so many bytes.
fn body(bytes: usize) -> Vec<u8> {
    let mut text = "{\"event\":\"ticket_export.requested\",\"tickets\":[".to_owned();
    for number in 0_u32.. {
        let ticket = format!(
            "{{\"key\":\"SEC-{number}\",\"severity\":\"high\",\"open\":true,\"score\":7.5,\
             \"summary\":\"Login form answers \\\"unknown user\\\" – names can be tried\"}},"
        );
        if text.len().saturating_add(ticket.len()).saturating_add(4) > bytes {
            break;
        }
        text.push_str(&ticket);
    }
    text.push_str("{}]}");
    let mut body = text.into_bytes();
    body.resize(bytes, b' ');
    body
}

/// Processor time of this thread.
fn thread_seconds() -> f64 {
    let usage = getrusage(UsageWho::RUSAGE_THREAD).unwrap();
    let seconds = |time: nix::sys::time::TimeVal| {
        Duration::from_micros(u64::try_from(time.tv_usec()).unwrap()).as_secs_f64()
            + Duration::from_secs(u64::try_from(time.tv_sec()).unwrap()).as_secs_f64()
    };
    seconds(usage.user_time()) + seconds(usage.system_time())
}

fn seconds_each<T>(times: u32, mut run: impl FnMut() -> T) -> f64 {
    let before = thread_seconds();
    for _ in 0..times {
        black_box(run());
    }
    (thread_seconds() - before) / f64::from(times)
}

/// MB/s of something that takes 1 MiB.
fn speed<T>(run: impl FnMut() -> T) -> f64 {
    1.048_576 / seconds_each(100, run)
}

fn median_of(figure: impl FnMut() -> f64) -> f64 {
    figures::median(std::iter::repeat_with(figure).take(ROUNDS).collect())
}

/// MB/s of OpenSSL's SHA-256, where there is an `openssl`.
fn openssl() -> Option<f64> {
    let arguments = "speed -evp sha256 -bytes 1048576 -seconds 1";
    let output = Command::new("openssl").args(arguments.split(' ')).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let line = text.lines().last()?;
    let kilobytes: f64 = line.split_whitespace().last()?.strip_suffix('k')?.parse().ok()?;
    Some(kilobytes / 1e3)
}

fn at_least(what: &str, figure: f64) {
    let verdict = if figure >= OF_OPENSSL_MIN { "ok" } else { "MISSED" };
    println!("{what:<64} {figure:>9.2} %   (at least {OF_OPENSSL_MIN} %: {verdict})");
}

/// One kind of load.
struct Load {
    what: &'static str,
    connections: u32,
    /// The request of a number, which nothing else of this run has.
    request: fn(&Scene, u32) -> Vec<u8>,
    /// Processor time of the gateway for each, in microseconds, of each round.
    costs: Vec<f64>,
}

/// Requests through the real program.
fn relay() {
    let folder = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (target, name_server) = runtime.block_on(async {
        let tls = loopback::certificate(folder.path(), "*.customer.example");
        (receiver(TlsAcceptor::from(Arc::new(tls))).await, loopback::name_server().await)
    });
    let scene = Scene::new(folder.path(), target, name_server);
    let mut child = scene.serve();
    let load = |what, connections, request| Load { what, connections, request, costs: Vec::new() };
    let mut loads = [
        load("GET /targets/{id}/..., 1 connection", 1, by_id),
        load("GET /targets/{id}/..., 8 connections", 8, by_id),
        load("GET http://host/... (absolute-form), 1 connection", 1, absolute),
        load("POST of 4 KiB, relayed, 1 connection", 1, relayed),
        load("DELETE with 4 KiB, signed, no key to remember", 1, signed_delete),
        load("POST of 4 KiB, signed, key on the disk first", 1, signed),
    ];
    let mut number = 0_u32;
    for round in 0..=ROUNDS {
        for load in &mut loads {
            let before = loopback::cpu_seconds(&child);
            scene.send(load, number);
            let cost = (loopback::cpu_seconds(&child) - before) / f64::from(REQUESTS) * 1e6;
            number = number.wrapping_add(REQUESTS);
            // The first round opens connections, and warms what can be warmed.
            if round > 0 {
                load.costs.push(cost);
            }
        }
    }
    child.kill().unwrap();
    child.wait().unwrap();
    println!("\nthe gateway's processor time for a request, medians of {ROUNDS} x {REQUESTS}");
    let [by_id, eight, absolute, relayed, deleted, signed] = loads.each_ref().map(|load| {
        let cost = figures::median(load.costs.clone());
        (load.what, cost)
    });
    for (what, cost) in [by_id, eight, absolute] {
        figures::report(what, cost, "us", RELAY_US_MAX);
    }
    for (what, cost) in [relayed, deleted, signed] {
        println!("{what:<64} {cost:>9.2} us  (adds {:.2} us)", cost - relayed.1);
    }
}

/// A gateway, and how it is asked.
struct Scene {
    folder: PathBuf,
    proxy: SocketAddr,
    port: u16,
    payload: String,
}

impl Scene {
    fn new(folder: &Path, target: SocketAddr, name_server: SocketAddr) -> Self {
        fs::write(folder.join("token"), TOKEN).unwrap();
        let proxy = free();
        let port = target.port();
        let state = folder.join("state").display().to_string();
        let shared = "ownership = \"confirmed\"\nprivate_network_policy = \"direct\"\n\
                      private_network_allowlist = [\"127.0.0.0/8\"]\n";
        let text = format!(
            "state_dir = {state:?}\negress.ip = [\"127.0.0.1\"]\nproxy.listen = [\"{proxy}\"]\n\
             admin.listen = [\"127.0.0.1:0\"]\ndns.servers = [\"{name_server}\"]\n\
             policy.allow_loopback = true\npolicy.require_current_check = false\n\
             tls.extra_roots = [\"ca.pem\"]\n\n\
             [[clients]]\nname = \"app\"\ntoken = {{ file = \"token\" }}\ntargets = [\"*\"]\n\n\
             [[targets]]\nid = \"jira\"\nprovider_key = \"jira_data_center\"\n\
             deployment_mode = \"self-hosted\"\n\
             base_url = \"https://jira.customer.example:{port}/\"\n{shared}\n\
             [[targets]]\nid = \"hook\"\nprovider_key = \"generic_webhook\"\n\
             deployment_mode = \"webhook-only\"\nsigning_secret = {{ file = \"token\" }}\n\
             base_url = \"https://hook.customer.example:{port}/hook\"\n{shared}"
        );
        fs::write(folder.join("gateway.toml"), text).unwrap();
        let payload = String::from_utf8(body(SMALL)).unwrap();
        Self { folder: folder.into(), proxy, port, payload }
    }

    /// Starts the gateway, and waits until it listens.
    fn serve(&self) -> Child {
        let mut child = loopback::serve(&self.folder, &self.folder.join("gateway.toml"));
        while TcpStream::connect(self.proxy).is_err() {
            assert!(child.try_wait().unwrap().is_none(), "the gateway does not start");
            thread::sleep(Duration::from_millis(1));
        }
        child
    }

    fn request(&self, method: &str, target: &str, fields: &str, body: &str) -> Vec<u8> {
        let mut text = format!(
            "{method} {target} HTTP/1.1\r\nHost: {}\r\nProxy-Authorization: Bearer {TOKEN}\r\n\
             User-Agent: python-requests/2.32.3\r\nAccept: application/json\r\n{fields}",
            self.proxy
        );
        if !body.is_empty() {
            let length = body.len();
            write!(text, "Content-Type: application/json\r\nContent-Length: {length}\r\n").unwrap();
        }
        text.push_str("\r\n");
        text.push_str(body);
        text.into_bytes()
    }

    /// Sends a round of a load, from `number` on.
    fn send(&self, load: &Load, number: u32) {
        let each = REQUESTS.checked_div(load.connections).unwrap();
        thread::scope(|scope| {
            for connection in 0..load.connections {
                scope.spawn(move || {
                    let mut client = TcpStream::connect(self.proxy).unwrap();
                    client.set_nodelay(true).unwrap();
                    for turn in 0..each {
                        let number = number.wrapping_add(connection.wrapping_mul(each));
                        let request = (load.request)(self, number.wrapping_add(turn));
                        client.write_all(&request).unwrap();
                        read_answer(&mut client);
                    }
                });
            }
        });
    }
}

fn by_id(scene: &Scene, number: u32) -> Vec<u8> {
    let target = format!("/targets/jira/rest/api/2/issue/SEC-{number}?fields=summary");
    scene.request("GET", &target, "", "")
}

fn absolute(scene: &Scene, number: u32) -> Vec<u8> {
    let host = format!("jira.customer.example:{}", scene.port);
    let target = format!("http://{host}/rest/api/2/issue/SEC-{number}?fields=summary");
    let request = String::from_utf8(scene.request("GET", &target, "", "")).unwrap();
    request.replace(&format!("Host: {}", scene.proxy), &format!("Host: {host}")).into_bytes()
}

fn relayed(scene: &Scene, _: u32) -> Vec<u8> {
    scene.request("POST", "/targets/jira/rest/api/2/issue", "", &scene.payload)
}

fn signed_delete(scene: &Scene, number: u32) -> Vec<u8> {
    deliver(scene, "DELETE", number)
}

fn signed(scene: &Scene, number: u32) -> Vec<u8> {
    deliver(scene, "POST", number)
}

fn deliver(scene: &Scene, method: &str, number: u32) -> Vec<u8> {
    let key = format!("Idempotency-Key: export-{number}\r\n");
    scene.request(method, "/targets/hook", &key, &scene.payload)
}

fn read_answer(client: &mut TcpStream) {
    let mut answer = [0; 4096];
    let mut read = 0;
    loop {
        let more = client.read(answer.get_mut(read..).unwrap()).unwrap();
        read = read.wrapping_add(more);
        let seen = answer.get(..read).unwrap();
        let text = || String::from_utf8_lossy(seen);
        assert!(seen.starts_with(b"HTTP/1.1 200 ") && more > 0, "{}", text());
        if seen.ends_with(END) {
            return;
        }
    }
}

/// An address of this machine that nobody listens on.
fn free() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).unwrap()
}

/// Speaks TLS and keep-alive, and answers each request once it is there with its body.
async fn receiver(acceptor: TlsAcceptor) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut answer = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {ANSWER}\r\n\
         Date: Fri, 21 Nov 2025 10:00:00 GMT\r\nCache-Control: no-store\r\n\r\n"
    );
    answer.extend(std::iter::repeat_n(' ', ANSWER.saturating_sub(END.len())));
    let answer: Arc<[u8]> = [answer.as_bytes(), END].concat().into();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, answer) = (acceptor.clone(), Arc::clone(&answer));
            tokio::spawn(async move {
                let Ok(mut stream) = acceptor.accept(stream).await else { return };
                let mut request = Vec::new();
                while matches!(stream.read_buf(&mut request).await, Ok(read) if read > 0) {
                    if is_whole(&request) {
                        request.clear();
                        if stream.write_all(&answer).await.is_err() {
                            return;
                        }
                    }
                }
            });
        }
    });
    address
}

/// Whether a request is there with all of its body.
fn is_whole(request: &[u8]) -> bool {
    let Some(end) = request.windows(4).position(|window| window == b"\r\n\r\n") else {
        return false;
    };
    let (head, body) = request.split_at(end.wrapping_add(4));
    let head = String::from_utf8_lossy(head).to_ascii_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    length.map_or(0, |length| length.parse().unwrap()) <= body.len()
}
