//! What memory is spent on: an idle tunnel, an idle client, a pooled upstream, a target; and
//! whether 20,000 idle tunnels slow anybody.
//!
//! Each figure is what the proportional set size of the program as it is shipped grows by, divided
//! by what it holds. The kernel's socket buffers are not in it. An argument says how many tunnels
//! are held.

#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::print_stdout,
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    reason = "a benchmark may panic and print, and its own connections lead to loopback"
)]

#[expect(dead_code, reason = "processor time is for other benchmarks")]
mod crowd;
#[expect(dead_code, reason = "the clock is for other benchmarks")]
mod figures;
#[expect(dead_code, reason = "this one starts its gateway otherwise")]
mod loopback;

use std::{
    net::SocketAddr,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use crowd::{CLIENT, DIRECT, Gateway, TOKEN, Targets, percentile};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tokio_rustls::TlsAcceptor;

/// Most that an idle tunnel may cost, in KiB.
const TUNNEL_KIB_MAX: f64 = 4.0;
/// Most that the program may have at rest, in MiB.
const REST_MIB_MAX: f64 = 15.0;

/// Idle tunnels, where nothing else is said and as many files may be open.
const TUNNELS: usize = 20_000;
/// Idle clients of each kind.
const CLIENTS: usize = 2000;
/// Targets whose pools are filled, with as many connections as each may keep.
const POOLS: usize = 16;
const POOLED: usize = 64;
/// Tunnels that are timed before and while others are held.
const TIMED: usize = 2000;
/// How many open at the same time.
const AT_ONCE: usize = 64;
/// After a change, how long until memory is looked at.
const SETTLE: Duration = Duration::from_secs(2);
/// How long an allocator may take to give memory back.
const RETURN: Duration = Duration::from_secs(15);

fn main() {
    if std::env::args().any(|argument| argument == "--list" || argument == "--test") {
        return;
    }
    let wanted = std::env::args().find_map(|argument| argument.parse().ok()).unwrap_or(TUNNELS);
    // Both ends of what the gateway holds are here.
    let files = crowd::raise_file_limit(u64::try_from(wanted).unwrap().saturating_mul(2) + 2048);
    let tunnels = wanted.min(usize::try_from(files.saturating_sub(2048) / 2).unwrap());
    if tunnels < wanted {
        println!("{files} files may be open: {tunnels} tunnels are held and not {wanted}");
    }
    let folder = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    println!();
    runtime.block_on(async {
        idle_tunnels(&folder.path().join("tunnels"), tunnels).await;
        let client = idle_clients(&folder.path().join("clients")).await;
        idle_http2_clients(&folder.path().join("http2")).await;
        pooled(&folder.path().join("plain"), client, false).await;
        pooled(&folder.path().join("tls"), client, true).await;
        targets(folder.path()).await;
    });
}

fn kib(what: &str, bytes: f64) {
    println!("{what:<64} {:>9.2} KiB", bytes / 1024.0);
}

fn count(number: usize) -> f64 {
    u32::try_from(number).map_or(f64::NAN, f64::from)
}

async fn idle_tunnels(folder: &Path, tunnels: usize) {
    let targets = Targets::start(8);
    let mut config = crowd::head("limits.max_connections = 100000") + CLIENT;
    for (number, address) in targets.addresses.iter().enumerate() {
        config.push_str(&crowd::target(&format!("target-{number}"), address, DIRECT));
    }
    let gateway = Gateway::start(folder, &config);
    let rest = settled(&gateway).await;
    figures::report("at rest, 8 targets", rest / 1_048_576.0, "MiB", REST_MIB_MAX);
    let first = *targets.addresses.first().unwrap();
    let mut before = timed(&gateway, first).await;
    let warm = settled(&gateway).await;

    let mut held = Vec::with_capacity(tunnels);
    let started = Instant::now();
    while held.len() < tunnels {
        let mut opening = JoinSet::new();
        for number in held.len()..tunnels.min(held.len() + AT_ONCE) {
            let address = targets.addresses[number % 8];
            opening.spawn(crowd::tunnel(gateway.proxy, address, number));
        }
        for opened in opening.join_all().await {
            let (status, stream) = opened.unwrap();
            assert_eq!(status, 200);
            held.push(stream);
        }
    }
    let rate = count(tunnels) / started.elapsed().as_secs_f64();
    let with = settled(&gateway).await;
    let each = (with - warm) / count(tunnels);
    let what = format!("an idle tunnel, {tunnels} of them, opened at {rate:.0} a second");
    figures::report(&what, each / 1024.0, "KiB", TUNNEL_KIB_MAX);
    let mut during = timed(&gateway, first).await;
    for (what, took) in [("without them", &mut before), ("with them", &mut during)] {
        let (p50, p99) = (percentile(took, 50), percentile(took, 99));
        println!("  a new tunnel {what:<12}    p50 {p50:>6.0} us, p99 {p99:>6.0} us");
    }
    for (number, stream) in held.iter_mut().enumerate().step_by(97) {
        assert_eq!(crowd::exchange(stream).await.unwrap(), 200, "tunnel {number}");
    }
    drop(held);
    while targets.open.load(Ordering::Relaxed) > 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let after = settled(&gateway).await;
    tokio::time::sleep(RETURN).await;
    let mib = [warm, with, after, gateway.pss()].map(|bytes| format!("{:.1}", bytes / 1_048_576.0));
    println!("  memory before, with, {SETTLE:?} and {RETURN:?} after them: {} MiB", mib.join(", "));
}

/// The time of each of some tunnels, in microseconds, one after the other.
async fn timed(gateway: &Gateway, target: SocketAddr) -> Vec<f64> {
    let mut took = Vec::with_capacity(TIMED);
    for number in 0..TIMED {
        let started = Instant::now();
        let (status, _stream) = crowd::tunnel(gateway.proxy, target, number).await.unwrap();
        took.push(started.elapsed().as_secs_f64() * 1e6);
        assert_eq!(status, 200);
    }
    took
}

/// What a client costs that keeps its connection after a request.
async fn idle_clients(folder: &Path) -> f64 {
    let targets = Targets::start(1);
    let authority = targets.addresses.first().unwrap().to_string();
    let config = crowd::head("") + CLIENT + &crowd::target("target", &authority, DIRECT);
    let gateway = Gateway::start(folder, &config);
    let mut first = crowd::open(gateway.proxy, 0).await.unwrap();
    for _ in 0..TIMED {
        assert_eq!(crowd::get(&mut first, &authority, "/", TOKEN).await.unwrap(), 200);
    }
    let before = settled(&gateway).await;
    let mut held = Vec::new();
    for number in 0..CLIENTS {
        let mut stream = crowd::open(gateway.proxy, number).await.unwrap();
        assert_eq!(crowd::get(&mut stream, &authority, "/", TOKEN).await.unwrap(), 200);
        held.push(stream);
    }
    assert_eq!(targets.open.load(Ordering::Relaxed), 1, "upstreams are part of the figure");
    let each = (settled(&gateway).await - before) / count(CLIENTS);
    kib("an idle client, HTTP/1.1, after a request", each);
    each
}

async fn idle_http2_clients(folder: &Path) {
    let targets = Targets::start(1);
    let authority = targets.addresses.first().unwrap().to_string();
    let config = crowd::head("") + CLIENT + &crowd::target("target", &authority, DIRECT);
    let gateway = Gateway::start(folder, &config);
    drop(http2_client(gateway.proxy, &authority, 0).await);
    let before = settled(&gateway).await;
    let mut held = Vec::new();
    for number in 0..CLIENTS {
        held.push(http2_client(gateway.proxy, &authority, number).await);
    }
    kib(
        "an idle client, HTTP/2, after a request",
        (settled(&gateway).await - before) / count(CLIENTS),
    );
    drop(held);
}

/// A client that has made one request over HTTP/2; with the set its connection ends.
async fn http2_client(proxy: SocketAddr, authority: &str, number: usize) -> impl Sized + use<> {
    let stream = crowd::open(proxy, number).await.unwrap();
    let (client, connection) = h2::client::handshake(stream).await.unwrap();
    let mut driven = JoinSet::new();
    driven.spawn(connection);
    let mut client = client.ready().await.unwrap();
    let request = http::Request::get(format!("http://{authority}/"))
        .header("proxy-authorization", format!("Bearer {TOKEN}"))
        .body(())
        .unwrap();
    let (response, _) = client.send_request(request, true).unwrap();
    let mut response = response.await.unwrap();
    assert_eq!(response.status(), 200);
    while let Some(bytes) = response.body_mut().data().await {
        let length = bytes.unwrap().len();
        response.body_mut().flow_control().release_capacity(length).unwrap();
    }
    (client, driven)
}

/// What connections cost that wait for another request to their target. `client` is what each of
/// the clients costs that had them opened.
async fn pooled(folder: &Path, client: f64, tls: bool) {
    std::fs::create_dir(folder).unwrap();
    let plain = Targets::start(POOLS);
    let (mut addresses, mut open) = (plain.addresses, plain.open);
    if tls {
        (addresses, open) = in_front(folder, &addresses).await;
    }
    let mut config = crowd::head(if tls { "tls.extra_roots = [\"ca.pem\"]" } else { "" }) + CLIENT;
    for (number, address) in addresses.iter().enumerate() {
        let mut target = crowd::target(&format!("target-{number}"), address, DIRECT);
        if tls {
            target = target.replace("http://", "https://");
            target.push_str("tls.server_name = \"target.example\"\n\n");
        }
        config.push_str(&target);
    }
    let gateway = Gateway::start(folder, &config);
    // Every target has been asked once, so that what is shared by its connections is there.
    for address in &addresses {
        let mut stream = crowd::open(gateway.proxy, 0).await.unwrap();
        let status = crowd::get(&mut stream, &address.to_string(), "/", TOKEN).await.unwrap();
        assert_eq!(status, 200);
    }
    let before = settled(&gateway).await;
    let first = count(addresses.len());
    // All at the same time, and each slow, so that none finds another's connection.
    let mut asking = JoinSet::new();
    for number in 0..POOLS * POOLED {
        let authority = addresses[number % POOLS].to_string();
        let proxy = gateway.proxy;
        asking.spawn(async move {
            let mut stream = crowd::open(proxy, number).await.unwrap();
            let status = crowd::get(&mut stream, &authority, "/slow", TOKEN).await.unwrap();
            assert_eq!(status, 200);
            stream
        });
    }
    let held = asking.join_all().await;
    let with = settled(&gateway).await;
    let upstreams = f64::from(open.load(Ordering::Relaxed)) - first;
    let each = (with - before - client * count(held.len())) / upstreams;
    let what = if tls { "with TLS 1.3" } else { "without TLS" };
    kib(&format!("a pooled upstream, {what}, {upstreams:.0} of them"), each);
}

/// TLS in front of targets.
async fn in_front(folder: &Path, plain: &[SocketAddr]) -> (Vec<SocketAddr>, Arc<AtomicU32>) {
    let tls = loopback::certificate(folder, "target.example");
    let acceptor = TlsAcceptor::from(Arc::new(tls));
    let open = Arc::new(AtomicU32::new(0));
    let mut addresses = Vec::new();
    for to in plain.iter().copied() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        addresses.push(listener.local_addr().unwrap());
        let (acceptor, open) = (acceptor.clone(), Arc::clone(&open));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, open) = (acceptor.clone(), Arc::clone(&open));
                tokio::spawn(async move {
                    let mut stream = acceptor.accept(stream).await.unwrap();
                    open.fetch_add(1, Ordering::Relaxed);
                    let mut onward = TcpStream::connect(to).await.unwrap();
                    let _ended = tokio::io::copy_bidirectional(&mut stream, &mut onward).await;
                    open.fetch_sub(1, Ordering::Relaxed);
                });
            }
        });
    }
    (addresses, open)
}

/// What a target costs that nothing has been asked of.
async fn targets(folder: &Path) {
    const MANY: usize = 10_000;
    let config = |targets| crowd::head("") + CLIENT + &figures::targets(targets);
    let few = Gateway::start(&folder.join("few"), &config(10));
    let many = Gateway::start(&folder.join("many"), &config(MANY));
    let (few, many) = (settled(&few).await, settled(&many).await);
    kib("a target, among 10,000", (many - few) / count(MANY - 10));
}

/// Memory once nothing moves any more.
async fn settled(gateway: &Gateway) -> f64 {
    tokio::time::sleep(SETTLE).await;
    gateway.pss()
}
