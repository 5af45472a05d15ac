//! What a way into a private network leaves of the throughput: bulk through hops and through the
//! reverse connector, beside the same bulk relayed directly; and what an idle connector needs.
//!
//! The gateway and the connector are the program as it is shipped, each in a process of its own.
//! Hops copy in threads of this process. On one machine that copying takes from everybody else, as
//! it would not where the hop has a machine of its own. So ratios are to a direct target that
//! stands behind the very same copying: what is left is the tunnel. `WireGuard` is left out, as its
//! other end would need root.

#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::print_stdout,
    reason = "a benchmark may panic and print, and its own connections lead to loopback"
)]

#[expect(dead_code, reason = "masses of clients are for other benchmarks")]
mod crowd;
#[expect(dead_code, reason = "many targets and the clock are for other benchmarks")]
mod figures;

use std::{
    fmt::Write as _,
    fs,
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use crowd::{CLIENT, DIRECT, Gateway, TOKEN};

/// Least part of the direct relay's throughput through a hop, and through a connector.
const HOP_MIN: f64 = 0.9;
const CONNECTOR_MIN: f64 = 0.6;
/// Most memory of an idle connector, in MB of 1,000,000 bytes.
const CONNECTOR_MB_MAX: f64 = 10.0;

/// How often each way is measured; medians are shown.
const ROUNDS: usize = 7;
/// How long bytes flow each time, after what is thrown away.
const WINDOW: Duration = Duration::from_secs(1);
const WARM_UP: Duration = Duration::from_millis(200);
/// Streams at a time.
const STREAMS: usize = 4;
/// Largest piece that is read, written or copied at once, in bytes.
const PIECE: usize = 256 * 1024;

fn main() {
    if std::env::args().any(|argument| argument == "--list" || argument == "--test") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let ways = [
        Way::new("direct", "", None),
        Way::new("direct, the target behind a copy", "", None),
        Way::new("socks5 hop", "socks", Some(HOP_MIN)),
        Way::new("http CONNECT hop", "http", Some(HOP_MIN)),
        Way::new("connector", "connector", Some(CONNECTOR_MIN)),
    ];
    let mut scene = Scene::new(&folder.path().join("gateway"), ways);
    println!("\nbulk through CONNECT, {STREAMS} streams, medians of {ROUNDS} x {WINDOW:?}");
    figures::report("an idle connector (PSS)", scene.connector_mb, "MB", CONNECTOR_MB_MAX);
    for _ in 0..=ROUNDS {
        for number in 0..scene.ways.len() {
            scene.measure(number);
        }
    }
    scene.show();
}

/// One way to the bytes.
struct Way {
    what: &'static str,
    tunnel: &'static str,
    /// Least part of the throughput of the direct way to a target behind a copy.
    least: Option<f64>,
    target: SocketAddr,
    /// GiB a second, and the gateway's processor seconds for one, in each round.
    rates: Vec<f64>,
    costs: Vec<f64>,
}

impl Way {
    /// Every way has a target of its own, as a target has one way.
    fn new(what: &'static str, tunnel: &'static str, least: Option<f64>) -> Self {
        let target = listen(source);
        Self { what, tunnel, least, target, rates: Vec::new(), costs: Vec::new() }
    }
}

/// A gateway with every way, and the connector; both end with it.
struct Scene {
    gateway: Gateway,
    connector: Child,
    connector_mb: f64,
    ways: [Way; 5],
}

impl Drop for Scene {
    fn drop(&mut self) {
        self.connector.kill().unwrap();
        self.connector.wait().unwrap();
    }
}

impl Scene {
    fn new(folder: &Path, mut ways: [Way; 5]) -> Self {
        let copied = ways.get_mut(1).unwrap();
        let behind = copied.target;
        copied.target = listen(move |stream| carry(&stream, &TcpStream::connect(behind)?));
        let (socks, http, dialled) = (listen(socks_hop), listen(http_hop), crowd::free());
        let mut config = crowd::head(&format!("connectors.listen = [\"{dialled}\"]"));
        for (name, url) in [
            ("socks", format!("socks5://{socks}")),
            ("http", format!("http://{http}")),
            ("connector", "connector:bench".to_owned()),
        ] {
            write!(config, "[tunnels.{name}]\nurl = \"{url}\"\n\n").unwrap();
        }
        config.push_str(CLIENT);
        for (number, way) in ways.iter().enumerate() {
            let through =
                format!("private_network_policy = \"tunnel\"\ntunnel = \"{}\"", way.tunnel);
            let through = if way.tunnel.is_empty() { DIRECT } else { &through };
            config.push_str(&crowd::target(&format!("target-{number}"), way.target, through));
        }
        let gateway = Gateway::start(folder, &config);
        let allowed = ways.last().unwrap().target;
        let connector = connector(folder, allowed);
        thread::sleep(Duration::from_secs(2));
        let connector_mb = crowd::pss(connector.id()) / 1e6;
        Self { gateway, connector, connector_mb, ways }
    }

    /// Lets bytes flow one way for a while.
    fn measure(&mut self, number: usize) {
        let way = self.ways.get_mut(number).unwrap();
        let streams: Vec<_> =
            (0..STREAMS).map(|_| tunnel(self.gateway.proxy, way.target)).collect();
        let gateway = &self.gateway;
        let (bytes, cpu, seconds) = thread::scope(|scope| {
            let counts: Vec<_> =
                streams.iter().map(|stream| scope.spawn(move || count(stream))).collect();
            thread::sleep(WARM_UP);
            let (started, before) = (Instant::now(), gateway.cpu_seconds());
            thread::sleep(WINDOW);
            let (seconds, cpu) = (started.elapsed().as_secs_f64(), gateway.cpu_seconds() - before);
            for stream in &streams {
                stream.shutdown(Shutdown::Both).unwrap();
            }
            (counts.into_iter().map(|count| count.join().unwrap()).sum::<f64>(), cpu, seconds)
        });
        let gib = bytes / 1_073_741_824.0;
        way.rates.push(gib / seconds);
        way.costs.push(cpu / gib);
    }

    fn show(&self) {
        let direct = &self.ways.get(1).unwrap().rates;
        for way in &self.ways {
            // The first round warms up.
            let median =
                |figures: &[f64]| figures::median(figures.iter().copied().skip(1).collect());
            let ratios = way.rates.iter().zip(direct).skip(1).map(|(rate, direct)| rate / direct);
            let ratio = figures::median(ratios.collect());
            let (rate, cost) = (median(&way.rates), median(&way.costs));
            print!(
                "{:<34} {rate:>6.2} GiB/s, {cost:>5.2} s of CPU a GiB, {ratio:>5.2} x copied",
                way.what
            );
            match way.least {
                Some(least) if ratio >= least => println!(" (at least {least}: ok)"),
                Some(least) => println!(" (at least {least}: MISSED)"),
                None => println!(),
            }
        }
    }
}

/// Enrols a connector as documented, and starts it.
fn connector(folder: &Path, allowed: SocketAddr) -> Child {
    let program = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_egress-gateway"));
        command.env_clear().current_dir(folder).arg("connector");
        command
    };
    let token = program().args(["token", "bench", "--config", "gateway.toml"]).output().unwrap();
    assert!(token.status.success(), "{token:?}");
    fs::write(folder.join("enrol.token"), token.stdout).unwrap();
    let enrolled = program()
        .args(["enrol", "--token-file", "enrol.token", "--out", "connector.toml"])
        .args(["--allow", &allowed.to_string()])
        .output()
        .unwrap();
    assert!(enrolled.status.success(), "{enrolled:?}");
    let mut child = program()
        .args(["--config", "connector.toml"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    lines.find(|line| line.as_ref().unwrap().contains("\"connected\"")).unwrap().unwrap();
    // Read on, so that its log never waits.
    thread::spawn(move || lines.for_each(drop));
    child
}

/// Handles each connection to an address of its own, in a thread of its own.
fn listen(
    handler: impl Fn(TcpStream) -> io::Result<()> + Send + Sync + Clone + 'static,
) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (stream, handler) = (stream.unwrap(), handler.clone());
            thread::spawn(move || {
                // It ends when the client has had enough.
                let _ended = stream.set_nodelay(true).and_then(|()| handler(stream));
            });
        }
    });
    address
}

/// Sends bytes without end once it has been asked for them.
fn source(mut stream: TcpStream) -> io::Result<()> {
    let bytes = vec![b'x'; PIECE];
    stream.read_exact(&mut [0; 1])?;
    loop {
        stream.write_all(&bytes)?;
    }
}

fn socks_hop(mut stream: TcpStream) -> io::Result<()> {
    stream.read_exact(&mut [0; 3])?; // version 5, one method: none
    stream.write_all(&[5, 0])?;
    let mut request = [0; 10]; // version 5, connect, 0, IPv4, address, port
    stream.read_exact(&mut request)?;
    let [5, 1, 0, 1, a, b, c, d, high, low] = request else { return Ok(()) };
    let onward =
        TcpStream::connect(SocketAddr::from(([a, b, c, d], u16::from_be_bytes([high, low]))))?;
    stream.write_all(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0])?;
    carry(&stream, &onward)
}

fn http_hop(mut stream: TcpStream) -> io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0; 1];
        stream.read_exact(&mut byte)?;
        head.extend(byte);
    }
    let head = String::from_utf8_lossy(&head);
    let authority = head.split(' ').nth(1).unwrap_or_default().to_owned();
    let onward = TcpStream::connect(authority)?;
    stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n")?;
    carry(&stream, &onward)
}

/// Copies both ways until either ends.
fn carry(one: &TcpStream, other: &TcpStream) -> io::Result<()> {
    other.set_nodelay(true)?;
    let back = (other.try_clone()?, one.try_clone()?);
    thread::spawn(move || copy(&back.0, &back.1));
    copy(one, other);
    Ok(())
}

fn copy(mut from: &TcpStream, mut to: &TcpStream) {
    let mut buffer = vec![0; PIECE];
    while let Ok(read) = from.read(&mut buffer) {
        let bytes = buffer.get(..read).unwrap_or_default();
        if read == 0 || to.write_all(bytes).is_err() {
            break;
        }
    }
    let _gone = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
}

/// A tunnel through which bytes come.
fn tunnel(proxy: SocketAddr, target: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(proxy).unwrap();
    let request = format!(
        "CONNECT {target} HTTP/1.1\r\nHost: {target}\r\nProxy-Authorization: Bearer {TOKEN}\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0; 1];
        stream.read_exact(&mut byte).unwrap();
        head.extend(byte);
    }
    assert!(head.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&head));
    stream.write_all(b"g").unwrap();
    stream
}

/// Reads what comes until the end, and gives how many bytes came after the warm-up.
fn count(mut stream: &TcpStream) -> f64 {
    let mut buffer = vec![0; PIECE];
    let started = Instant::now();
    let mut bytes = 0_u64;
    while let Ok(read) = stream.read(&mut buffer) {
        if read == 0 {
            break;
        }
        if started.elapsed() > WARM_UP {
            bytes = bytes.saturating_add(u64::try_from(read).unwrap());
        }
    }
    u32::try_from(bytes / 1024).map_or(f64::NAN, f64::from) * 1024.0
}
