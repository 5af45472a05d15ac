//! What a start costs: 100,000 targets read from a configuration file, by `config check` and by
//! `serve`, and the time from the program's start to the first request that it carries.
//!
//! Each figure is that of the program as it is shipped, in a process of its own.

#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a benchmark may panic and print, and its own connections lead to loopback"
)]

mod figures;

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

/// Most that reading 100,000 targets may take.
const LOAD_SECONDS_MAX: f64 = 2.0;
/// Most memory that the process may ever have had by then, in MB of 1,000,000 bytes.
const LOAD_MB_MAX: f64 = 150.0;
/// Most time between the program's start and its first answer of 200.
const START_MS_MAX: f64 = 100.0;

const TARGETS: usize = 100_000;
/// How often each thing is done; the median is shown.
const LOADS: usize = 5;
const STARTS: usize = 20;
/// How often the memory of a process is looked at, and a connection tried: a small part of what is
/// measured.
const PAUSE: Duration = Duration::from_micros(500);

fn main() {
    if std::env::args().any(|argument| argument == "--list") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let scene = Scene::new(folder.path());
    let many = scene.file("many.toml", TARGETS);
    let few = scene.file("few.toml", 10);
    println!();
    let size = fs::metadata(&many).unwrap().len();
    println!(
        "{TARGETS} targets in a file of {size} bytes; medians of {LOADS} loads, {STARTS} starts"
    );
    loads("config check", || scene.check(&many));
    loads("serve, to the first request", || scene.serve(&many));
    let starts = (0..STARTS).map(|_| scene.serve(&few).seconds * 1e3).collect();
    let starts = figures::median(starts);
    figures::report("start to first accepted request, 10 targets", starts, "ms", START_MS_MAX);
}

/// What one run of the program took.
struct Cost {
    seconds: f64,
    /// The most memory it ever had, in MB.
    peak_mb: f64,
}

fn loads(what: &str, run: impl Fn() -> Cost) {
    let (mut seconds, mut peaks) = (Vec::new(), Vec::new());
    for _ in 0..LOADS {
        let Cost { seconds: took, peak_mb } = run();
        seconds.push(took);
        peaks.push(peak_mb);
    }
    let time = format!("100,000 targets, {what}: time");
    figures::report(&time, figures::median(seconds), "s", LOAD_SECONDS_MAX);
    let memory = format!("100,000 targets, {what}: peak memory (VmHWM)");
    figures::report(&memory, figures::median(peaks), "MB", LOAD_MB_MAX);
}

/// A folder of configuration, and something to connect to.
struct Scene {
    folder: PathBuf,
    /// Takes connections by itself: the kernel does, and nobody asks more of it.
    receiver: TcpListener,
    proxy: SocketAddr,
    admin: SocketAddr,
}

impl Scene {
    fn new(folder: &Path) -> Self {
        fs::write(folder.join("token"), "0123456789abcdef0123456789abcdef\n").unwrap();
        let receiver = TcpListener::bind("127.0.0.1:0").unwrap();
        Self { folder: folder.into(), receiver, proxy: free(), admin: free() }
    }

    /// A configuration with so many targets and the receiver.
    fn file(&self, name: &str, targets: usize) -> PathBuf {
        let (proxy, admin) = (self.proxy, self.admin);
        let receiver = self.receiver.local_addr().unwrap();
        let state = self.folder.join("state").display().to_string();
        let mut text = format!(
            "state_dir = {state:?}\n\
             egress.ip = [\"127.0.0.1\"]\n\
             proxy.listen = [\"{proxy}\"]\n\
             admin.listen = [\"{admin}\"]\n\
             dns.servers = [\"127.0.0.1:53\"]\n\
             policy.allow_loopback = true\n\
             policy.require_current_check = false\n\n\
             [[clients]]\nname = \"app\"\ntoken = {{ file = \"token\" }}\ntargets = [\"*\"]\n\n\
             [[targets]]\nid = \"receiver\"\nprovider_key = \"jira_data_center\"\n\
             deployment_mode = \"self-hosted\"\nbase_url = \"https://{receiver}/\"\n\
             ownership = \"confirmed\"\nprivate_network_policy = \"direct\"\n\
             private_network_allowlist = [\"127.0.0.0/8\"]\n\n"
        );
        text.push_str(&figures::targets(targets));
        let path = self.folder.join(name);
        fs::write(&path, text).unwrap();
        path
    }

    fn start(&self, command: &[&str], file: &Path) -> Child {
        Command::new(env!("CARGO_BIN_EXE_egress-gateway"))
            .args(command)
            .arg("--config")
            .arg(file)
            .env_clear()
            .current_dir(&self.folder)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap()
    }

    /// Reads and validates a configuration, and ends.
    fn check(&self, file: &Path) -> Cost {
        let mut peak = 0.0;
        let seconds = figures::seconds(|| {
            let mut child = self.start(&["config", "check"], file);
            while child.try_wait().unwrap().is_none() {
                peak = peak_mb(&child).unwrap_or(peak);
                thread::sleep(PAUSE);
            }
            assert!(child.wait().unwrap().success(), "the configuration is not valid");
        });
        Cost { seconds, peak_mb: peak }
    }

    /// Serves until a request has been accepted.
    fn serve(&self, file: &Path) -> Cost {
        let mut child = None;
        let seconds = figures::seconds(|| {
            let child = child.insert(self.start(&["serve"], file));
            while !self.is_accepted() {
                assert!(child.try_wait().unwrap().is_none(), "the gateway does not start");
                thread::sleep(PAUSE);
            }
        });
        let mut child = child.unwrap();
        let peak_mb = peak_mb(&child).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        Cost { seconds, peak_mb }
    }

    /// Whether a client with a token gets a tunnel to the receiver.
    fn is_accepted(&self) -> bool {
        let receiver = self.receiver.local_addr().unwrap();
        let Ok(mut client) = TcpStream::connect(self.proxy) else { return false };
        let request = format!(
            "CONNECT {receiver} HTTP/1.1\r\nHost: {receiver}\r\n\
             Proxy-Authorization: Bearer 0123456789abcdef0123456789abcdef\r\n\r\n"
        );
        client.write_all(request.as_bytes()).unwrap();
        let mut status = [0; 12];
        client.read_exact(&mut status).unwrap();
        assert_eq!(&status, b"HTTP/1.1 200", "{}", String::from_utf8_lossy(&status));
        true
    }
}

/// An address of this machine that nobody listens on.
fn free() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).unwrap()
}

/// The most memory that a process has had so far; `None` once it has ended.
fn peak_mb(child: &Child) -> Option<f64> {
    let status = fs::read_to_string(format!("/proc/{}/status", child.id())).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: f64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024.0 / 1e6)
}
