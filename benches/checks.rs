//! What it costs to keep 10,000 targets checked: the processor time of the program as it is
//! shipped, with `policy.check_ttl` at its 15 minutes, in front of a receiver and a name server on
//! loopback.
//!
//! The store holds a check of every target from an earlier run, spread over the time that checks
//! count, so that what is measured is what goes on all day long and not the first minute. An
//! argument says how many seconds are measured: 20 without one.

#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a benchmark may panic and print, and its own connections lead to loopback"
)]

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use egress_gateway::{
    check::{Check, State},
    config,
    store::{Store, StoredCheck},
};
use hickory_proto::{
    op::Message,
    rr::{RData, Record, RecordType, rdata::A},
};
use jiff::{SignedDuration, Timestamp};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::ServerConfig;
use rustls_pki_types::PrivateKeyDer;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, UdpSocket},
};
use tokio_rustls::TlsAcceptor;

/// Most of one core that it may take.
const CPU_PERCENT_MAX: f64 = 5.0;

const TARGETS: usize = 10_000;
/// How many checks that is in a second, at three quarters of `policy.check_ttl` each.
const CHECKS_A_SECOND: f64 = 10_000.0 / (15.0 * 60.0 * 0.75);
/// What is measured begins when the start has been paid for.
const WARM_UP: Duration = Duration::from_secs(5);
/// Clock ticks of `/proc/PID/stat` in a second, as on every Linux.
const TICKS: f64 = 100.0;

fn main() {
    if std::env::args().any(|argument| argument == "--list" || argument == "--test") {
        return;
    }
    let seconds = std::env::args().find_map(|argument| argument.parse().ok()).unwrap_or(20);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(measure(Duration::from_secs(seconds)));
}

async fn measure(window: Duration) {
    let folder = tempfile::tempdir().unwrap();
    let checks = Arc::new(AtomicU32::new(0));
    let receiver = receiver(folder.path(), Arc::clone(&checks)).await;
    let file = scene(folder.path(), receiver, name_server().await);
    remember(folder.path(), &file).await;
    let mut child = serve(folder.path(), &file);
    tokio::time::sleep(WARM_UP).await;
    let (before, ticks) = (checks.load(Ordering::Relaxed), ticks(&child));
    tokio::time::sleep(window).await;
    let done = f64::from(checks.load(Ordering::Relaxed).wrapping_sub(before));
    let cpu = (self::ticks(&child) - ticks) / TICKS;
    assert!(child.try_wait().unwrap().is_none(), "the gateway does not run");
    let resident = resident_mb(&child);
    child.kill().unwrap();
    child.wait().unwrap();
    let rate = done / window.as_secs_f64();
    println!(
        "\n{TARGETS} targets, {window:?}: {rate:.1} checks a second, {resident:.0} MB resident"
    );
    println!("{:.2} ms of processor time for each, all else included", cpu * 1e3 / done);
    let percent = cpu / window.as_secs_f64() * 100.0;
    // Restored checks are renewed in half of the time they have left, which is more often.
    let long_run = percent * (CHECKS_A_SECOND / rate).min(1.0);
    let verdict = if percent <= CPU_PERCENT_MAX { "ok" } else { "MISSED" };
    println!("of one core: {percent:.2} % (at most {CPU_PERCENT_MAX} %: {verdict})");
    println!("the same, at the rate of a long run: {long_run:.2} %");
}

/// Speaks TLS for every name below `customer.example`, and answers each request.
async fn receiver(folder: &Path, checks: Arc<AtomicU32>) -> SocketAddr {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    fs::write(folder.join("ca.pem"), params.self_signed(&key).unwrap().pem()).unwrap();
    let issuer = Issuer::new(params, key);
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["*.customer.example".to_owned()]).unwrap();
    let certificate = params.signed_by(&key, &issuer).unwrap();
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let tls = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(tls));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, checks) = (acceptor.clone(), Arc::clone(&checks));
            tokio::spawn(async move {
                let Ok(mut stream) = acceptor.accept(stream).await else { return };
                let mut head = [0; 4096];
                while matches!(stream.read(&mut head).await, Ok(read) if read > 0) {
                    checks.fetch_add(1, Ordering::Relaxed);
                    let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
                    if stream.write_all(answer).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}

/// Says that every name is 127.0.0.1.
async fn name_server() -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut buffer = [0; 4096];
        while let Ok((length, peer)) = socket.recv_from(&mut buffer).await {
            let asked = Message::from_vec(buffer.get(..length).unwrap()).unwrap();
            let query = asked.queries.first().unwrap().clone();
            let mut reply = Message::response(asked.metadata.id, asked.metadata.op_code);
            reply.metadata.recursion_available = true;
            if query.query_type() == RecordType::A {
                let data = RData::A(A([127, 0, 0, 1].into()));
                reply.add_answer(Record::from_rdata(query.name().clone(), 60, data));
            }
            reply.add_query(query);
            socket.send_to(&reply.to_vec().unwrap(), peer).await.unwrap();
        }
    });
    address
}

/// The configuration.
fn scene(folder: &Path, receiver: SocketAddr, name_server: SocketAddr) -> PathBuf {
    let port = receiver.port();
    let mut text = format!(
        "state_dir = {:?}\negress.ip = [\"127.0.0.1\"]\nproxy.listen = [\"127.0.0.1:0\"]\n\
         admin.listen = [\"127.0.0.1:0\"]\ndns.servers = [\"{name_server}\"]\n\
         policy.allow_loopback = true\ntls.extra_roots = [\"ca.pem\"]\n\n",
        folder.join("state").display().to_string()
    );
    for number in 0..TARGETS {
        text.push_str(&format!(
            "[[targets]]\nid = \"customer-{number:05}\"\nprovider_key = \"jira_data_center\"\n\
             deployment_mode = \"self-hosted\"\nownership = \"confirmed\"\n\
             base_url = \"https://jira-{number:05}.customer.example:{port}/\"\n\
             private_network_policy = \"direct\"\nprivate_network_allowlist = [\"127.0.0.0/8\"]\n\n"
        ));
    }
    let file = folder.join("gateway.toml");
    fs::write(&file, text).unwrap();
    file
}

/// What an earlier run would have left: each target ready, for some part of its 15 minutes yet.
async fn remember(folder: &Path, file: &Path) {
    let config = config::load(&[file.to_owned()]).unwrap().config;
    fs::create_dir(folder.join("state")).unwrap();
    let url = format!("sqlite:{}", folder.join("state/gateway.db").display());
    let store = Store::open(&url).await.unwrap();
    let now = Timestamp::now();
    let mut stored = Vec::new();
    for (number, target) in (0_i64..).zip(config.targets) {
        let left = SignedDuration::from_millis(number * 900_000 / 10_000);
        let egress_ip = Some([127, 0, 0, 1].into());
        let check = Check {
            connectivity_check_id: Some(target.id.to_string().into()),
            last_checked_at: Some(now),
            expires_at: Some(now + left),
            state: State::Ready,
            ..Check::unchecked(&target, egress_ip)
        };
        stored.push(StoredCheck {
            connectivity_check_id: target.id.to_string(),
            target_id: target.id.to_string(),
            fingerprint: target.fingerprint.to_string(),
            document: serde_json::to_string(&check).unwrap(),
            checked_at: now.as_millisecond(),
        });
    }
    store.write_checks(&stored).await.unwrap();
    store.close().await;
}

fn serve(folder: &Path, file: &Path) -> Child {
    Command::new(env!("CARGO_BIN_EXE_egress-gateway"))
        .args(["serve", "--config"])
        .arg(file)
        .env_clear()
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// Processor time of a process, its own and the kernel's for it.
fn ticks(child: &Child) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap();
    // Behind the name, which may hold anything: utime and stime are the 12th and the 13th.
    let (_, rest) = stat.rsplit_once(") ").unwrap();
    rest.split(' ').skip(11).take(2).map(|field| field.parse::<f64>().unwrap()).sum()
}

fn resident_mb(child: &Child) -> f64 {
    let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().trim().parse::<f64>().unwrap() * 1024.0 / 1e6
}
