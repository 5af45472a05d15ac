//! What clients wait for when there is more than the gateway can take: with another target that a
//! thousand requests wait for in vain, and with twice as many clients as there are places.
//!
//! The gateway is the program as it is shipped, in a process of its own, with a token, policy and
//! an event for each request. Everything is timed by the clients, with which it shares the machine.

#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::print_stdout,
    reason = "a benchmark may panic and print, and its own connections lead to loopback"
)]

#[expect(dead_code, reason = "memory and processor time are for other benchmarks")]
mod crowd;
#[expect(dead_code, reason = "many targets and bars are for other benchmarks")]
mod figures;

use std::{
    net::{SocketAddr, TcpListener},
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use crowd::{CLIENT, DIRECT, Gateway, Targets, percentile};
use tokio::{net::TcpStream, task::JoinSet};

/// How often everything is done; medians are shown.
const ROUNDS: usize = 5;
/// Requests that wait for the dead target.
const WAITING: usize = 1000;
/// Tunnels to the healthy target in a round, one after the other.
const TUNNELS: usize = 2000;
/// Connections that the gateway may have.
const PLACES: usize = 64;
/// How long a tunnel is held, and how long a client waits that was refused, where places are what
/// there is too little of.
const HELD: Duration = Duration::from_millis(50);
/// How long a round of clients lasts.
const ROUND: Duration = Duration::from_secs(2);

fn main() {
    if std::env::args().any(|argument| argument == "--list" || argument == "--test") {
        return;
    }
    crowd::raise_file_limit(16_384);
    let folder = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        dead_target(&folder.path().join("dead")).await;
        let held = "held for 50 ms; who is refused asks again after as long";
        crowded(&folder.path().join("held"), HELD, held).await;
        let churn = "closed at once; who is refused asks again at once";
        crowded(&folder.path().join("churn"), Duration::ZERO, churn).await;
    });
}

/// A healthy target beside one that takes no connection.
async fn dead_target(folder: &Path) {
    let healthy = *Targets::start(1).addresses.first().unwrap();
    let dead = TcpListener::bind("127.0.0.1:0").unwrap();
    let socket = socket2::SockRef::from(&dead);
    socket.listen(0).unwrap();
    let dead = dead.local_addr().unwrap();
    // The one that its queue has room for.
    let _queued = TcpStream::connect(dead).await.unwrap();
    let config = crowd::head("limits.connect_timeout = \"10m\"")
        + CLIENT
        + &crowd::target("healthy", healthy, DIRECT)
        + &crowd::target("dead", dead, DIRECT);
    let gateway = Gateway::start(folder, &config);
    let mut rounds = [const { Vec::new() }; 4];
    for _ in 0..=ROUNDS {
        let mut alone = one_by_one(&gateway, healthy).await;
        let mut waiting = JoinSet::new();
        for number in 0..WAITING {
            let mut stream = crowd::open(gateway.proxy, number).await.unwrap();
            let dead = dead.to_string();
            waiting.spawn(async move { crowd::connect(&mut stream, &dead, crowd::TOKEN).await });
        }
        let mut beside = one_by_one(&gateway, healthy).await;
        assert!(waiting.try_join_next().is_none(), "the dead target was not waited for");
        waiting.shutdown().await;
        let figures = [
            percentile(&mut alone, 50),
            percentile(&mut alone, 99),
            percentile(&mut beside, 50),
            percentile(&mut beside, 99),
        ];
        rounds.iter_mut().zip(figures).for_each(|(round, figure)| round.push(figure));
    }
    // The first one warms up.
    let [p50, p99, with_p50, with_p99] =
        rounds.map(|round| figures::median(round.into_iter().skip(1).collect()));
    println!("\none client's tunnels to a healthy target, medians of {ROUNDS} x {TUNNELS}");
    println!("alone                                 p50 {p50:>7.0} us, p99 {p99:>7.0} us");
    println!(
        "{WAITING} requests wait for a dead one    p50 {with_p50:>7.0} us, p99 {with_p99:>7.0} us"
    );
    println!(
        "                                      {:.2} and {:.2} times",
        with_p50 / p50,
        with_p99 / p99
    );
}

/// The time of each tunnel, in microseconds.
async fn one_by_one(gateway: &Gateway, target: SocketAddr) -> Vec<f64> {
    let mut took = Vec::with_capacity(TUNNELS);
    for number in 0..TUNNELS {
        let started = Instant::now();
        let (status, stream) = crowd::tunnel(gateway.proxy, target, number).await.unwrap();
        took.push(started.elapsed().as_secs_f64() * 1e6);
        assert_eq!(status, 200);
        drop(stream);
    }
    took
}

/// What the clients of a round met.
#[derive(Default)]
struct Met {
    /// Times to the first answer through a tunnel, in milliseconds.
    served: Vec<f64>,
    /// Times to a refusal, in milliseconds.
    refused: Vec<f64>,
    /// Connections that ended without an answer.
    cut: u32,
}

/// As many clients as there are places, then twice as many, then the first ones again.
async fn crowded(folder: &Path, held: Duration, what: &str) {
    let targets = Targets::start(1);
    let target = *targets.addresses.first().unwrap();
    let config = crowd::head(&format!("limits.max_connections = {PLACES}"))
        + CLIENT
        + &crowd::target("target", target, DIRECT);
    let gateway = Gateway::start(folder, &config);
    println!("\n{PLACES} places, tunnels {what}; medians of {ROUNDS} x {ROUND:?}");
    let mut rounds = [const { Vec::new() }; 3];
    let mut recovered = Vec::new();
    for _ in 0..=ROUNDS {
        for (round, clients) in rounds.iter_mut().zip([PLACES / 2, PLACES, PLACES * 2]) {
            round.push(clients_for_a_round(gateway.proxy, target, clients, held).await);
        }
        let started = Instant::now();
        while !crowd::tunnel(gateway.proxy, target, 0).await.is_ok_and(|(status, _)| status == 200)
        {
        }
        recovered.push(started.elapsed().as_secs_f64() * 1e3);
    }
    for (round, clients) in rounds.into_iter().zip([PLACES / 2, PLACES, PLACES * 2]) {
        show(round, clients);
    }
    let longest = recovered.into_iter().fold(0.0, f64::max);
    println!("a tunnel after the crowd has gone: {longest:.1} ms at the longest");
}

fn show(round: Vec<Met>, clients: usize) {
    let figure = |of: fn(&mut Met) -> f64, round: &mut [Met]| {
        figures::median(round.iter_mut().map(of).collect())
    };
    let mut round: Vec<_> = round.into_iter().skip(1).collect();
    let count = |figures: &[f64]| u32::try_from(figures.len()).map_or(f64::NAN, f64::from);
    let seconds = ROUND.as_secs_f64();
    let served = figures::median(round.iter().map(|met| count(&met.served) / seconds).collect());
    let refused = figures::median(round.iter().map(|met| count(&met.refused) / seconds).collect());
    let cut: u32 = round.iter().map(|met| met.cut).sum();
    println!(
        "{clients:>4} clients: served {served:>6.0} a second, p50 {:>6.2} p99 {:>6.2} ms; \
         refused {refused:>6.0} a second, p50 {:>6.2} p99 {:>6.2} ms; without an answer {cut}",
        figure(|met| percentile(&mut met.served, 50), &mut round),
        figure(|met| percentile(&mut met.served, 99), &mut round),
        figure(|met| percentile(&mut met.refused, 50), &mut round),
        figure(|met| percentile(&mut met.refused, 99), &mut round),
    );
}

/// Clients that ask again at once, whatever they were told.
async fn clients_for_a_round(
    proxy: SocketAddr,
    target: SocketAddr,
    clients: usize,
    held: Duration,
) -> Met {
    let met = Arc::new(Mutex::new(Met::default()));
    let stop = Arc::new(AtomicBool::new(false));
    let mut crowd = JoinSet::new();
    for number in 0..clients {
        let (met, stop) = (Arc::clone(&met), Arc::clone(&stop));
        crowd.spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                let started = Instant::now();
                let outcome = crowd::tunnel(proxy, target, number).await;
                let took = started.elapsed().as_secs_f64() * 1e3;
                match &outcome {
                    Ok((200, _)) => met.lock().unwrap().served.push(took),
                    Ok((503, _)) => met.lock().unwrap().refused.push(took),
                    Ok((status, _)) => assert_eq!(*status, 200, "another answer"),
                    Err(_) => {
                        let mut met = met.lock().unwrap();
                        met.cut = met.cut.saturating_add(1);
                    }
                }
                if !held.is_zero() {
                    tokio::time::sleep(held).await;
                }
                drop(outcome);
            }
        });
    }
    tokio::time::sleep(ROUND).await;
    stop.store(true, Ordering::Relaxed);
    crowd.join_all().await;
    std::mem::take(&mut *met.lock().unwrap())
}
