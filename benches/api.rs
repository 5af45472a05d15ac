//! What the admin API costs: targets made a second, each on the disk before it is answered, and the
//! start with 10,000 of them.
//!
//! Each figure is that of the program as it is shipped, in a process of its own.

#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::as_conversions,
    clippy::cast_precision_loss,
    reason = "a benchmark may panic and print, and its own connections lead to loopback"
)]

#[expect(dead_code, reason = "tables of targets are for other benchmarks")]
mod figures;

use std::{
    fs::{self, File},
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::unix::fs::FileExt as _,
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use egress_gateway::store::Store;
use sqlx::{Connection as _, SqliteConnection};

/// Fewest targets a second that are made, unless the disk itself does not sync as often.
const PUTS_MIN: f64 = 300.0;
/// Most that the start may take with [`KEPT`] targets.
const READY_SECONDS_MAX: f64 = 1.0;

/// Targets that are made for a figure: few enough that no limit of rate is met.
const PUTS: usize = 1500;
/// Targets in the store at the start.
const KEPT: usize = 10_000;
const STARTS: usize = 5;
const SYNCS: usize = 500;
const PAUSE: Duration = Duration::from_micros(500);

fn main() {
    if std::env::args().any(|argument| argument == "--list") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    println!();
    let syncs = SYNCS as f64 / figures::seconds(|| sync(folder.path()));
    println!("the disk itself: {syncs:.0} writes of 4 KiB a second, each synchronised");
    let bar = PUTS_MIN.min(syncs);
    for (ownership, what) in
        [("unclear", "as they are by default"), ("confirmed", "each checked and its check kept")]
    {
        for writers in [1, 16] {
            let gateway = Gateway::new(&folder.path().join(format!("{ownership}-{writers}")));
            let mut running = gateway.start();
            gateway.until_ready(&mut running);
            let seconds = figures::seconds(|| gateway.put_all(writers, ownership));
            running.kill().unwrap();
            running.wait().unwrap();
            let rate = PUTS as f64 / seconds;
            let verdict = if rate >= bar { "ok" } else { "MISSED" };
            println!(
                "targets made, {what}, {writers:>2} connections: {rate:>6.0} a second (at least {bar:.0}: {verdict})"
            );
        }
    }
    let gateway = Gateway::new(&folder.path().join("kept"));
    gateway.keep();
    let starts = (0..STARTS).map(|_| {
        let mut running = None;
        let seconds = figures::seconds(|| {
            gateway.until_ready(running.insert(gateway.start()));
        });
        let mut running = running.unwrap();
        assert!(gateway.has_last(), "the last target is not in force");
        running.kill().unwrap();
        running.wait().unwrap();
        seconds
    });
    let starts = figures::median(starts.collect());
    figures::report("10,000 targets of the API: start to ready", starts, "s", READY_SECONDS_MAX);
}

/// What the disk can do: as much as a small transaction writes, over and over.
fn sync(folder: &Path) {
    let file = File::create(folder.join("synchronised")).unwrap();
    for _ in 0..SYNCS {
        file.write_all_at(&[7; 4096], 0).unwrap();
        file.sync_data().unwrap();
    }
}

/// A gateway's folder and addresses.
struct Gateway {
    folder: std::path::PathBuf,
    admin: SocketAddr,
}

impl Gateway {
    fn new(folder: &Path) -> Self {
        fs::create_dir(folder).unwrap();
        let admin = free();
        let text = format!(
            "egress.ip = [\"127.0.0.1\"]\nproxy.listen = [\"{}\"]\nadmin.listen = [\"{admin}\"]\n\
             dns.servers = [\"{}\"]\npolicy.allow_loopback = true\n",
            free(),
            name_server(),
        );
        fs::write(folder.join("gateway.toml"), text).unwrap();
        Self { folder: folder.into(), admin }
    }

    fn start(&self) -> Child {
        Command::new(env!("CARGO_BIN_EXE_egress-gateway"))
            .args(["serve", "--config", "gateway.toml"])
            .env_clear()
            .current_dir(&self.folder)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap()
    }

    fn until_ready(&self, running: &mut Child) {
        while self.ask("GET", "/readyz", "") != Some(200) {
            assert!(running.try_wait().unwrap().is_none(), "the gateway does not start");
            thread::sleep(PAUSE);
        }
    }

    fn has_last(&self) -> bool {
        self.ask("GET", &format!("/v1/targets/{}", id(KEPT - 1)), "") == Some(200)
    }

    /// One request on a connection of its own.
    fn ask(&self, method: &str, path: &str, body: &str) -> Option<u16> {
        let stream = TcpStream::connect(self.admin).ok()?;
        ask(&mut BufReader::new(stream), method, path, body)
    }

    fn put_all(&self, writers: usize, ownership: &str) {
        thread::scope(|scope| {
            for writer in 0..writers {
                scope.spawn(move || {
                    let stream = TcpStream::connect(self.admin).unwrap();
                    stream.set_nodelay(true).unwrap();
                    let mut stream = BufReader::new(stream);
                    for number in (writer..PUTS).step_by(writers) {
                        let path = format!("/v1/targets/{}", id(number));
                        let status = ask(&mut stream, "PUT", &path, &target(number, ownership));
                        assert_eq!(status, Some(201));
                    }
                });
            }
        });
    }

    /// Fills the store, without the API's synchronisation of each.
    fn keep(&self) {
        let state = self.folder.join("state");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let path = state.join("gateway.db").display().to_string();
            Store::open(&format!("sqlite:{path}")).await.unwrap().close().await;
            let mut store = SqliteConnection::connect(&format!("sqlite:{path}")).await.unwrap();
            let mut all = store.begin().await.unwrap();
            for number in 0..KEPT {
                let version = i64::try_from(number).unwrap() + 1;
                sqlx::query("INSERT INTO targets VALUES (?1, ?2, ?3, 1, 1)")
                    .bind(id(number))
                    .bind(version)
                    .bind(target(number, "confirmed"))
                    .execute(&mut *all)
                    .await
                    .unwrap();
            }
            all.commit().await.unwrap();
            store.close().await.unwrap();
        });
    }
}

fn id(number: usize) -> String {
    format!("customer-{number:05}")
}

/// A target on this machine, where nobody listens.
fn target(number: usize, ownership: &str) -> String {
    format!(
        "{{\"provider_key\":\"jira_data_center\",\"deployment_mode\":\"self-hosted\",\
         \"base_url\":\"https://127.0.0.1:1024/{number}\",\"ownership\":\"{ownership}\",\
         \"private_network_policy\":\"direct\",\"private_network_allowlist\":[\"127.0.0.0/8\"]}}"
    )
}

/// One request and the status of its answer, which is read whole.
fn ask(stream: &mut BufReader<TcpStream>, method: &str, path: &str, body: &str) -> Option<u16> {
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.get_mut().write_all(request.as_bytes()).ok()?;
    let (mut status, mut length, mut line) = (None, 0, String::new());
    loop {
        line.clear();
        stream.read_line(&mut line).ok()?;
        let text = line.trim_end();
        if text.is_empty() {
            break;
        }
        if let Some(rest) = text.strip_prefix("HTTP/1.1 ") {
            status = rest.get(..3)?.parse().ok();
        } else if let Some(value) = text.strip_prefix("content-length: ") {
            length = value.parse().ok()?;
        }
    }
    stream.read_exact(&mut vec![0; length]).ok()?;
    status
}

/// A name server that knows no name, which is an answer.
fn name_server() -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    thread::spawn(move || {
        let mut message = [0; 512];
        while let Ok((length, peer)) = socket.recv_from(&mut message) {
            // A response (RFC 1035, section 4.1.1), of no such name.
            (message[2], message[3]) = (message[2] | 0x80, 0x83);
            drop(socket.send_to(&message[..length], peer));
        }
    });
    address
}

/// An address of this machine that nobody listens on.
fn free() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).unwrap()
}
