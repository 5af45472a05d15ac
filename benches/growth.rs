//! How the cost of a request grows: with the number of targets, of clients and of connections, and
//! what the log adds.
//!
//! The figure is the processor time of the program as it is shipped, in a process of its own, for a
//! relayed GET over a kept connection and for a whole CONNECT tunnel with one exchange. What is
//! compared takes turns in every round, so that it meets the same machine.

#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a benchmark may panic and print, and its own connections lead to loopback"
)]

#[expect(dead_code, reason = "memory and percentiles are for other benchmarks")]
mod crowd;
#[expect(dead_code, reason = "bars and the clock are for other benchmarks")]
mod figures;
#[expect(dead_code, reason = "this one starts its gateway otherwise")]
mod loopback;

use std::{
    fmt::Write as _,
    fs,
    net::SocketAddr,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use crowd::{CLIENT, DIRECT, Gateway, TOKEN, Targets};
use tokio::task::JoinSet;

/// How often everything is done; medians are shown.
const ROUNDS: usize = 9;
/// Requests and tunnels of a round.
const REQUESTS: usize = 8000;
const TUNNELS: usize = 2000;
/// Connections at a time, where their number is not what is compared.
const CONNECTIONS: usize = 8;

fn main() {
    if std::env::args().any(|argument| argument == "--list" || argument == "--test") {
        return;
    }
    crowd::raise_file_limit(16_384);
    let folder = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    println!("\nthe gateway's processor time, medians of {ROUNDS} rounds; ratios round by round");
    runtime.block_on(measure(folder.path()));
}

/// A gateway that is compared, and what it is asked.
struct Case {
    what: &'static str,
    gateway: Arc<Gateway>,
    target: SocketAddr,
    token: String,
    connections: usize,
    /// Microseconds a request, and a tunnel, in each round.
    costs: [Vec<f64>; 2],
}

async fn measure(folder: &Path) {
    let names = loopback::name_server().await;
    let targets = Targets::start(1);
    let target = *targets.addresses.first().unwrap();
    let gateway = |name: &str, targets, clients, level| {
        let config = config(folder, (names, target), targets, clients);
        Arc::new(Gateway::with(&folder.join(name), &config, level))
    };
    let usual = gateway("usual", 10, 1, "info");
    let targets = gateway("targets", 10_000, 1, "info");
    let clients = gateway("clients", 10, 1000, "info");
    let silent = gateway("silent", 10, 1, "warn");
    let case = |what, gateway: &Arc<Gateway>, connections| Case {
        what,
        gateway: Arc::clone(gateway),
        target,
        token: TOKEN.to_owned(),
        connections,
        costs: [const { Vec::new() }; 2],
    };
    let mut cases = [
        case("10 targets, 1 client, 8 connections, log on", &usual, CONNECTIONS),
        case("10,000 targets", &targets, CONNECTIONS),
        case("1,000 clients", &clients, CONNECTIONS),
        case("32 connections", &usual, 32),
        case("256 connections", &usual, 256),
        case("log off", &silent, CONNECTIONS),
    ];
    // The last of them, where they are looked through.
    cases.get_mut(2).unwrap().token = token(999);
    for _ in 0..=ROUNDS {
        for case in &mut cases {
            let cost = [case.requests().await, case.tunnels().await];
            case.costs.iter_mut().zip(cost).for_each(|(costs, cost)| costs.push(cost));
        }
    }
    let first = cases.first().unwrap().costs.clone();
    println!("{:<46} {:>16} {:>20}", "", "relayed GET", "CONNECT tunnel");
    for case in cases {
        let mut line = format!("{:<46}", case.what);
        for (costs, first) in case.costs.iter().zip(&first) {
            // The first round warms up.
            let ratios = costs.iter().zip(first).skip(1).map(|(cost, first)| cost / first);
            let ratio = figures::median(ratios.collect());
            let cost = figures::median(costs.iter().copied().skip(1).collect());
            write!(line, " {cost:>8.1} us {ratio:>5.2} x").unwrap();
        }
        println!("{line}");
    }
}

/// The target by its name, among so many, and so many clients.
fn config(
    folder: &Path,
    (names, target): (SocketAddr, SocketAddr),
    targets: usize,
    clients: usize,
) -> String {
    let mut text = crowd::head(&format!("dns.servers = [\"{names}\"]")) + CLIENT;
    for number in 1..clients {
        let file = folder.join(format!("token-{number}"));
        fs::write(&file, token(number)).unwrap();
        write!(
            text,
            "[[clients]]\nname = \"app-{number:05}\"\ntoken = {{ file = {:?} }}\n\
             targets = [\"*\"]\n\n",
            file.display().to_string()
        )
        .unwrap();
    }
    let authority = format!("jira.customer.example:{}", target.port());
    text.push_str(&crowd::target("jira", authority, DIRECT));
    text.push_str(&figures::targets(targets.saturating_sub(1)));
    text
}

fn token(number: usize) -> String {
    format!("{number:032x}")
}

impl Case {
    async fn requests(&self) -> f64 {
        let authority = format!("jira.customer.example:{}", self.target.port());
        let mut crowd = JoinSet::new();
        let before = self.gateway.cpu_seconds();
        let left = Arc::new(AtomicUsize::new(REQUESTS));
        for number in 0..self.connections {
            let (left, authority, token) =
                (Arc::clone(&left), authority.clone(), self.token.clone());
            let proxy = self.gateway.proxy;
            crowd.spawn(async move {
                let mut stream = crowd::open(proxy, number).await.unwrap();
                while taken(&left) {
                    let status = crowd::get(&mut stream, &authority, "/", &token).await;
                    assert_eq!(status.unwrap(), 200);
                }
            });
        }
        crowd.join_all().await;
        micros_each(self.gateway.cpu_seconds() - before, REQUESTS)
    }

    async fn tunnels(&self) -> f64 {
        let authority = format!("jira.customer.example:{}", self.target.port());
        let mut crowd = JoinSet::new();
        let before = self.gateway.cpu_seconds();
        let left = Arc::new(AtomicUsize::new(TUNNELS));
        for number in 0..self.connections {
            let (left, authority, token) =
                (Arc::clone(&left), authority.clone(), self.token.clone());
            let proxy = self.gateway.proxy;
            crowd.spawn(async move {
                while taken(&left) {
                    let mut stream = crowd::open(proxy, number).await.unwrap();
                    let status = crowd::connect(&mut stream, &authority, &token).await;
                    assert_eq!(status.unwrap(), 200);
                    assert_eq!(crowd::exchange(&mut stream).await.unwrap(), 200);
                }
            });
        }
        crowd.join_all().await;
        micros_each(self.gateway.cpu_seconds() - before, TUNNELS)
    }
}

/// Takes one of those that are left to do.
fn taken(left: &AtomicUsize) -> bool {
    let next = |left: usize| left.checked_sub(1);
    left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next).is_ok()
}

fn micros_each(seconds: f64, count: usize) -> f64 {
    seconds * 1e6 / u32::try_from(count).map_or(f64::NAN, f64::from)
}
