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

#[expect(dead_code, reason = "many targets and medians are for other benchmarks")]
mod figures;
mod loopback;

use std::{
    fmt::Write as _,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Child,
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
use jiff::{SignedDuration, Timestamp};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};
use tokio_rustls::TlsAcceptor;

/// Most of one core that it may take.
const CPU_PERCENT_MAX: f64 = 5.0;

const TARGETS: usize = 10_000;
/// How many checks that is in a second, at three quarters of `policy.check_ttl` each.
const CHECKS_A_SECOND: f64 = 10_000.0 / (15.0 * 60.0 * 0.75);
/// What is measured begins when the start has been paid for.
const WARM_UP: Duration = Duration::from_secs(5);

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
    let file = scene(folder.path(), receiver, loopback::name_server().await);
    remember(folder.path(), &file).await;
    let mut child = loopback::serve(folder.path(), &file);
    tokio::time::sleep(WARM_UP).await;
    let (before, cpu) = (checks.load(Ordering::Relaxed), loopback::cpu_seconds(&child));
    tokio::time::sleep(window).await;
    let done = f64::from(checks.load(Ordering::Relaxed).wrapping_sub(before));
    let cpu = loopback::cpu_seconds(&child) - cpu;
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
    figures::report("keeping 10,000 targets checked, of one core", percent, "%", CPU_PERCENT_MAX);
    // Restored checks are renewed in half of the time they have left, which is more often.
    let long_run = percent * (CHECKS_A_SECOND / rate).min(1.0);
    figures::report("the same, at the rate of a long run", long_run, "%", CPU_PERCENT_MAX);
}

/// Speaks TLS for every name below `customer.example`, and answers each request.
async fn receiver(folder: &Path, checks: Arc<AtomicU32>) -> SocketAddr {
    let tls = loopback::certificate(folder, "*.customer.example");
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
        write!(
            text,
            "[[targets]]\nid = \"customer-{number:05}\"\nprovider_key = \"jira_data_center\"\n\
             deployment_mode = \"self-hosted\"\nownership = \"confirmed\"\n\
             base_url = \"https://jira-{number:05}.customer.example:{port}/\"\n\
             private_network_policy = \"direct\"\nprivate_network_allowlist = [\"127.0.0.0/8\"]\n\n"
        )
        .unwrap();
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
        let left = SignedDuration::from_millis(number.saturating_mul(90));
        let egress_ip = Some([127, 0, 0, 1].into());
        let check = Check {
            connectivity_check_id: Some(target.id.to_string().into()),
            last_checked_at: Some(now),
            expires_at: Some(now.checked_add(left).unwrap()),
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

fn resident_mb(child: &Child) -> f64 {
    let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().trim().parse::<f64>().unwrap() * 1024.0 / 1e6
}
