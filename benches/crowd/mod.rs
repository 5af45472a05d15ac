//! A gateway as it is shipped, the targets behind it, and clients in masses.

use std::{
    fs::{self, File},
    io::{self, Error},
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::Duration,
};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpSocket, TcpStream},
};

/// What the one client of [`head`] shows.
pub(crate) const TOKEN: &str = "0123456789abcdef0123456789abcdef";
/// Longest head of an answer, in bytes.
const HEAD_BYTES_MAX: usize = 4096;
/// How long a target takes for `/slow`.
const SLOW: Duration = Duration::from_secs(3);
/// What `/bulk` is made of, in bytes.
const BULK_BYTES: usize = 256 * 1024;

/// Lets this process and those that it starts open so many files, or as many as it may. Gives how
/// many that are.
pub(crate) fn raise_file_limit(wanted: u64) -> u64 {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    let most = wanted.max(hard);
    if setrlimit(Resource::RLIMIT_NOFILE, most, most).is_err() {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
        return hard;
    }
    most
}

/// What every configuration begins with. `keys` may set more, and stand before any table.
pub(crate) fn head(keys: &str) -> String {
    format!(
        "egress.ip = [\"127.0.0.1\"]\nadmin.listen = [\"127.0.0.1:0\"]\n\
         policy.allow_loopback = true\npolicy.require_current_check = false\n\
         limits.max_in_flight_per_target = 100000\nlimits.max_connections_per_client = 100000\n\
         {keys}\n"
    )
}

/// The client whose token is [`TOKEN`].
pub(crate) const CLIENT: &str =
    "[[clients]]\nname = \"app\"\ntoken = { file = \"token\" }\ntargets = [\"*\"]\n\n";

/// A target without TLS. `keys` may set more.
pub(crate) fn target(id: &str, authority: impl std::fmt::Display, keys: &str) -> String {
    format!(
        "[[targets]]\nid = \"{id}\"\nprovider_key = \"jira_data_center\"\n\
         deployment_mode = \"self-hosted\"\nownership = \"confirmed\"\n\
         base_url = \"http://{authority}/\"\nallow_http = true\nscope = \"origin\"\n\
         private_network_allowlist = [\"127.0.0.0/8\"]\n{keys}\n\n"
    )
}

/// The further keys of a target that is reached directly.
pub(crate) const DIRECT: &str = "private_network_policy = \"direct\"";

/// A running gateway; killed when dropped.
pub(crate) struct Gateway {
    child: Child,
    /// Where clients connect.
    pub(crate) proxy: SocketAddr,
}

impl Gateway {
    /// Starts the program in a folder of its own, with its events in a file, and waits until it
    /// listens.
    pub(crate) fn start(folder: &Path, config: &str) -> Self {
        Self::with(folder, config, "info")
    }

    /// The same with another level of the log.
    pub(crate) fn with(folder: &Path, config: &str, level: &str) -> Self {
        fs::create_dir_all(folder).unwrap();
        fs::write(folder.join("token"), TOKEN).unwrap();
        let proxy = free();
        let text = format!(
            "proxy.listen = [\"{proxy}\"]\nstate_dir = {:?}\n{config}",
            folder.join("state").display().to_string()
        );
        fs::write(folder.join("gateway.toml"), text).unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_egress-gateway"))
            .args(["serve", "--config", "gateway.toml"])
            .env_clear()
            .env("RUST_LOG", level)
            .current_dir(folder)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(folder.join("events.log")).unwrap())
            .spawn()
            .unwrap();
        while std::net::TcpStream::connect(proxy).is_err() {
            assert!(child.try_wait().unwrap().is_none(), "the gateway does not start");
            thread::sleep(Duration::from_millis(1));
        }
        Self { child, proxy }
    }

    /// Processor time so far, of all its threads.
    pub(crate) fn cpu_seconds(&self) -> f64 {
        cpu_seconds(self.child.id())
    }

    /// Its share of memory, in bytes.
    pub(crate) fn pss(&self) -> f64 {
        pss(self.child.id())
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

/// Processor time of a process so far, to the nanosecond: ticks of `stat` are 10 ms.
pub(crate) fn cpu_seconds(pid: u32) -> f64 {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let of_thread = |entry: io::Result<fs::DirEntry>| {
        let text = fs::read_to_string(entry.ok()?.path().join("schedstat")).ok()?;
        text.split(' ').next()?.parse::<f64>().ok()
    };
    threads.filter_map(of_thread).sum::<f64>() / 1e9
}

/// Proportional set size of a process, in bytes: `Pss` of `/proc/PID/smaps_rollup`.
pub(crate) fn pss(pid: u32) -> f64 {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().trim().parse::<f64>().unwrap() * 1024.0
}

/// An address of this machine that nobody listens on.
pub(crate) fn free() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").and_then(|one| one.local_addr()).unwrap()
}

/// Targets in a thread of their own. Every request is answered with `ok`; after a while where it
/// asks for `/slow`, and for `/bulk` with bytes without end.
pub(crate) struct Targets {
    /// Where each of them listens.
    pub(crate) addresses: Vec<SocketAddr>,
    /// Connections that are open to all of them.
    pub(crate) open: Arc<AtomicU32>,
}

impl Targets {
    /// So many of them.
    pub(crate) fn start(count: usize) -> Self {
        let bind = |_| std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let listeners: Vec<_> = (0..count).map(bind).collect();
        let addresses = listeners.iter().map(|one| one.local_addr().unwrap()).collect();
        let open = Arc::new(AtomicU32::new(0));
        let counted = Arc::clone(&open);
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = runtime.unwrap();
            runtime.block_on(async {
                for listener in listeners {
                    listener.set_nonblocking(true).unwrap();
                    let listener = TcpListener::from_std(listener).unwrap();
                    tokio::spawn(accept(listener, Arc::clone(&counted)));
                }
                std::future::pending::<()>().await;
            });
        });
        Self { addresses, open }
    }
}

async fn accept(listener: TcpListener, open: Arc<AtomicU32>) {
    while let Ok((stream, _)) = listener.accept().await {
        let open = Arc::clone(&open);
        tokio::spawn(async move {
            open.fetch_add(1, Ordering::Relaxed);
            let _ended = answer(stream).await;
            open.fetch_sub(1, Ordering::Relaxed);
        });
    }
}

async fn answer(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut request = Vec::new();
    while stream.read_buf(&mut request).await? > 0 {
        if !request.ends_with(b"\r\n\r\n") {
            continue;
        }
        let asks_for = |path: &[u8]| request.windows(path.len()).any(|window| window == path);
        if asks_for(b"/bulk ") {
            let bytes = vec![b'x'; BULK_BYTES];
            loop {
                stream.write_all(&bytes).await?;
            }
        }
        if asks_for(b"/slow ") {
            tokio::time::sleep(SLOW).await;
        }
        request.clear();
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await?;
    }
    Ok(())
}

/// Connects to the gateway; `number` spreads clients over addresses, each of which has its own ports.
pub(crate) async fn open(proxy: SocketAddr, number: usize) -> io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    let host = u8::try_from(number % 16).map_err(Error::other)?.saturating_add(1);
    nix::sys::socket::setsockopt(&socket, nix::sys::socket::sockopt::IpBindAddressNoPort, &true)?;
    socket.bind((Ipv4Addr::new(127, 0, 1, host), 0).into())?;
    socket.set_nodelay(true)?;
    socket.connect(proxy).await
}

/// Sends a CONNECT, and gives the status of its answer.
pub(crate) async fn connect(
    stream: &mut TcpStream,
    authority: &str,
    token: &str,
) -> io::Result<u16> {
    let request = format!(
        "CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\
         Proxy-Authorization: Bearer {token}\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await?;
    answered(stream).await
}

/// Sends a GET in absolute-form, and gives the status of its answer.
pub(crate) async fn get(
    stream: &mut TcpStream,
    authority: &str,
    path: &str,
    token: &str,
) -> io::Result<u16> {
    let request = format!(
        "GET http://{authority}{path} HTTP/1.1\r\nHost: {authority}\r\n\
         Proxy-Authorization: Bearer {token}\r\nUser-Agent: python-requests/2.32.3\r\n\
         Accept: application/json\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await?;
    answered(stream).await
}

/// One exchange inside a tunnel.
pub(crate) async fn exchange(stream: &mut TcpStream) -> io::Result<u16> {
    stream.write_all(b"GET / HTTP/1.1\r\nHost: target\r\n\r\n").await?;
    answered(stream).await
}

/// A whole tunnel: connection, CONNECT, an exchange. Gives the status of what refused it, or 200,
/// and the connection.
pub(crate) async fn tunnel(
    proxy: SocketAddr,
    authority: SocketAddr,
    number: usize,
) -> io::Result<(u16, TcpStream)> {
    let mut stream = open(proxy, number).await?;
    let mut status = connect(&mut stream, &authority.to_string(), TOKEN).await?;
    if status == 200 {
        status = exchange(&mut stream).await?;
    }
    Ok((status, stream))
}

/// Reads one answer with its body, and gives its status.
async fn answered(stream: &mut TcpStream) -> io::Result<u16> {
    let mut read = Vec::with_capacity(HEAD_BYTES_MAX);
    loop {
        if stream.read_buf(&mut read).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let Some(end) = read.windows(4).position(|window| window == b"\r\n\r\n") else { continue };
        let head = String::from_utf8_lossy(read.get(..end).unwrap_or_default());
        let status = head.get(9..12).and_then(|status| status.parse().ok());
        let status = status.ok_or(io::ErrorKind::InvalidData)?;
        let length = head.lines().find_map(|line| {
            let (name, value) = line.split_once(": ")?;
            name.eq_ignore_ascii_case("content-length").then(|| value.parse::<usize>().ok())?
        });
        let whole = end.saturating_add(4).saturating_add(length.unwrap_or(0));
        while read.len() < whole {
            if stream.read_buf(&mut read).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        return Ok(status);
    }
}

/// The figure that so many percent of them do not exceed.
pub(crate) fn percentile(figures: &mut [f64], percent: usize) -> f64 {
    figures.sort_by(f64::total_cmp);
    let place = figures.len().saturating_mul(percent) / 100;
    figures.get(place.min(figures.len().saturating_sub(1))).copied().unwrap_or(f64::NAN)
}
