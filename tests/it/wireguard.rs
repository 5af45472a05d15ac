//! WireGuard towards an independent implementation: wireguard-go, behind which the kernel's own TCP
//! answers, set up with the configuration that docs/tunnels/wireguard.md gives to customers.

use std::{
    future::ready,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::Arc,
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use egress_gateway::{
    dial::EgressAddresses,
    secret::Secret,
    tunnel::{
        TunnelError,
        wireguard::{Settings, WireGuard},
    },
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, UdpSocket},
    task::JoinSet,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::support::{
    eventually,
    lab::{self, EGRESS, Lab, PRIVATE, PUBLIC},
    within,
};

/// Where the customer's peer is.
const PEER: SocketAddr = SocketAddr::new(PUBLIC, 51820);
/// The private network over IPv6.
const PRIVATE_V6: &str = "fd20::5";

/// A customer's machine: wireguard-go, with the private network behind it.
struct Customer {
    process: Child,
    dir: PathBuf,
    gateway_public: String,
}

impl Customer {
    /// Keys of both sides, and a running interface `gateway`.
    async fn start(lab: &Lab) -> Self {
        // the control socket is this test's alone
        shell("mount -t tmpfs tmpfs /run");
        lab::ip("addr add fd20::5/128 dev lo nodad");
        let dir = lab.dir().to_owned();
        shell(&format!(
            "umask 077; cd {}; wg genkey > gateway.key; wg genpsk > gateway.psk",
            dir.display()
        ));
        let made = keygen(&dir.join("acme-wireguard.key"));
        assert!(made.status.success(), "{made:?}");
        let gateway_public = String::from_utf8(made.stdout).unwrap().trim().to_owned();
        let process = go();
        let customer = Self { process, dir, gateway_public };
        customer.configure().await;
        customer
    }

    /// What `wg-quick` does with the page's file.
    async fn configure(&self) {
        let socket = Path::new("/run/wireguard/gateway.sock");
        eventually("wireguard-go listens", async || socket.exists().then_some(())).await;
        let page = std::fs::read_to_string(
            Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/tunnels/wireguard.md"),
        )
        .unwrap();
        let (_, rest) = page.split_once("```ini\n").expect("the page has the file");
        let (text, _) = rest.split_once("```").unwrap();
        let text = text
            .replace("GATEWAY_PUBLIC_KEY", &self.gateway_public)
            .replace("/etc/wireguard/", &format!("{}/", self.dir.display()))
            .replace("10.9.0.2/32", "10.9.0.2/32, fd09::2/128");
        let file = self.dir.join("gateway.conf");
        std::fs::write(&file, &text).unwrap();
        let stripped = output("wg-quick", &["strip", file.to_str().unwrap()]);
        std::fs::write(self.dir.join("stripped.conf"), stripped.stdout).unwrap();
        shell(&format!("wg setconf gateway {}/stripped.conf", self.dir.display()));
        for line in text.lines() {
            if let Some(command) = line.strip_prefix("PostUp = ") {
                shell(&command.replace("%i", "gateway"));
            } else if let Some(address) = line.strip_prefix("Address = ") {
                lab::ip(&format!("addr add {address} dev gateway"));
            } else if let Some(mtu) = line.strip_prefix("MTU = ") {
                lab::ip(&format!("link set gateway up mtu {mtu}"));
            }
        }
        for net in ["10.9.0.2/32", "fd09::2/128"] {
            lab::ip(&format!("route add {net} dev gateway"));
        }
    }

    /// Ends it as a crash would, and starts it again.
    async fn restart(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
        let _gone = std::fs::remove_file("/run/wireguard/gateway.sock");
        self.process = go();
        self.configure().await;
    }

    /// What the gateway is configured with.
    fn settings(&self) -> Settings {
        let key = |text: &str| STANDARD.decode(text.trim()).unwrap();
        let file = |name: &str| std::fs::read_to_string(self.dir.join(name)).unwrap();
        let public = shell(&format!("wg pubkey < {}/gateway.key", self.dir.display()));
        let public = String::from_utf8(public.stdout).unwrap();
        let nets = |nets: &[&str]| nets.iter().map(|net| net.parse().unwrap()).collect();
        Settings {
            private_key: Secret::new(key(&file("acme-wireguard.key"))),
            preshared_key: Some(Secret::new(key(&file("gateway.psk")))),
            peer_public_key: key(&public).try_into().unwrap(),
            addresses: nets(&["10.9.0.2/32", "fd09::2/128"]),
            allowed_ips: nets(&["10.20.0.0/16", "fd20::/64"]),
            keepalive: None,
            mtu: 1420,
        }
    }
}

impl Drop for Customer {
    fn drop(&mut self) {
        let _ended = self.process.kill();
        let _ended = self.process.wait();
    }
}

fn go() -> Child {
    Command::new("wireguard-go")
        .args(["--foreground", "gateway"])
        .env("WG_I_PREFER_BUGGY_USERSPACE_TO_POLISHED_KMOD", "1")
        .env("LOG_LEVEL", "error")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::inherit())
        .spawn()
        .expect("wireguard-go (package wireguard-go) starts, and /dev/net/tun is there")
}

fn shell(command: &str) -> Output {
    output("bash", &["-euc", command])
}

fn output(program: &str, words: &[&str]) -> Output {
    let output = Command::new(program).args(words).output().expect("the program starts");
    assert!(output.status.success(), "{program} {words:?}: {output:?}");
    output
}

/// `egress-gateway wireguard keygen --out FILE`.
fn keygen(out: &Path) -> Output {
    egress_gateway(&["keygen", "--out", out.to_str().unwrap()])
}

fn egress_gateway(words: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_egress-gateway"))
        .arg("wireguard")
        .args(words)
        .output()
        .unwrap()
}

fn start(settings: &Settings, limit: Duration) -> Arc<WireGuard> {
    let IpAddr::V4(v4) = EGRESS else { panic!("the egress address is of IPv4") };
    let egress = EgressAddresses { v4: Some(v4), v6: None };
    let peer: egress_gateway::tunnel::wireguard::PeerAddress =
        Arc::new(|| Box::pin(ready(Ok(PEER))));
    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
    WireGuard::start(settings, egress, peer, limit, &tasks, &stop).unwrap()
}

/// Answers with what it is sent, at any port of the private machine.
async fn echo(tasks: &mut JoinSet<()>, ip: IpAddr) -> SocketAddr {
    let listener = TcpListener::bind((ip, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tasks.spawn(async move {
        let mut streams = JoinSet::new();
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            streams.spawn(async move {
                let (mut from, mut to) = stream.split();
                let _ended = tokio::io::copy(&mut from, &mut to).await;
            });
        }
    });
    address
}

/// Bytes that differ from place to place.
fn pattern(length: usize, seed: usize) -> Vec<u8> {
    (0..length).map(|index| ((index.wrapping_mul(31) ^ (index >> 8) ^ seed) & 0xff) as u8).collect()
}

/// Sends everything, ends its direction, and reads everything back at the same time.
async fn echoed(tunnel: &WireGuard, to: SocketAddr, data: &[u8]) {
    let mut stream = tunnel.open(to).await.unwrap();
    let (mut reader, mut writer) = tokio::io::split(&mut stream);
    let send = async {
        writer.write_all(data).await.unwrap();
        writer.shutdown().await.unwrap();
    };
    let mut back = Vec::new();
    let ((), read) = tokio::join!(send, reader.read_to_end(&mut back));
    assert_eq!(read.unwrap(), data.len());
    assert!(back == data, "the bytes came back changed");
}

#[test]
fn wireguard_go_carries_streams_of_both_families_whole() {
    lab::run(async |lab| {
        let customer = Customer::start(&lab).await;
        let mut tasks = JoinSet::new();
        let v4 = echo(&mut tasks, PRIVATE).await;
        let v6 = echo(&mut tasks, PRIVATE_V6.parse().unwrap()).await;
        let tunnel = start(&customer.settings(), Duration::from_secs(10));
        within("small bytes", echoed(&tunnel, v4, b"hello")).await;
        within("small bytes over IPv6", echoed(&tunnel, v6, b"hello")).await;
        echoed(&tunnel, v4, &pattern(64 << 20, 0)).await;

        let mut narrow = customer.settings();
        narrow.mtu = 1280;
        let narrow = start(&narrow, Duration::from_secs(10));
        within("bytes within 1280", echoed(&narrow, v4, &pattern(4 << 20, 1))).await;

        let shown = String::from_utf8(output("wg", &["show", "gateway"]).stdout).unwrap();
        assert!(shown.contains("latest handshake"), "{shown}");
        assert!(shown.contains(&EGRESS.to_string()), "it comes from the egress address: {shown}");
        assert!(tunnel.status().connected);
    });
}

#[test]
fn wireguard_go_carries_two_hundred_streams_at_once() {
    lab::run(async |lab| {
        let customer = Customer::start(&lab).await;
        let mut tasks = JoinSet::new();
        let to = echo(&mut tasks, PRIVATE).await;
        let tunnel = start(&customer.settings(), Duration::from_secs(20));
        let mut streams = JoinSet::new();
        for seed in 0..200 {
            let tunnel = Arc::clone(&tunnel);
            streams.spawn(async move { echoed(&tunnel, to, &pattern(100_000, seed)).await });
        }
        let mut done = 0;
        while let Some(ended) = streams.join_next().await {
            ended.unwrap();
            done += 1;
        }
        assert_eq!(done, 200);
    });
}

#[test]
fn each_direction_through_wireguard_go_ends_on_its_own() {
    lab::run(async |lab| {
        let customer = Customer::start(&lab).await;
        let listener = TcpListener::bind((PRIVATE, 0)).await.unwrap();
        let to = listener.local_addr().unwrap();
        let tunnel = start(&customer.settings(), Duration::from_secs(10));
        let (stream, accepted) = tokio::join!(tunnel.open(to), listener.accept());
        let (mut stream, (mut server, from)) = (stream.unwrap(), accepted.unwrap());
        assert_eq!(from.ip(), IpAddr::V4(Ipv4Addr::new(10, 9, 0, 2)));
        stream.write_all(b"question").await.unwrap();
        stream.shutdown().await.unwrap();
        let mut text = String::new();
        within("the end", server.read_to_string(&mut text)).await.unwrap();
        assert_eq!(text, "question");
        let mut answer = Vec::new();
        let send = async {
            server.write_all(&pattern(1 << 20, 0)).await.unwrap();
            drop(server);
        };
        let receive = stream.read_to_end(&mut answer);
        let ((), count) = within("the answer", async { tokio::join!(send, receive) }).await;
        assert_eq!(count.unwrap(), 1 << 20);
        assert!(answer == pattern(1 << 20, 0));

        // dropped with bytes that nobody will read: the server is told
        let (stream, accepted) = tokio::join!(tunnel.open(to), listener.accept());
        let (mut stream, (mut server, _)) = (stream.unwrap(), accepted.unwrap());
        server.write_all(b"unread").await.unwrap();
        within("the first byte", stream.read_exact(&mut [0; 1])).await.unwrap();
        drop(stream);
        let told = within("a reset", server.read(&mut [0; 1])).await;
        assert_eq!(told.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    });
}

#[test]
fn faults_behind_and_of_wireguard_go_are_told_apart() {
    lab::run(async |lab| {
        let customer = Customer::start(&lab).await;
        let settings = customer.settings();
        let tunnel = start(&settings, Duration::from_secs(4));
        let open = async |tunnel: &WireGuard, to: &str| {
            tunnel.open(to.parse().unwrap()).await.map(drop).unwrap_err()
        };
        let refused = open(&tunnel, "10.20.0.5:9").await;
        assert_eq!(
            refused,
            TunnelError::BeyondUnreachable("10.20.0.5:9 refuses connections".into())
        );
        // nobody has this address, and the peer's kernel has no way to it
        let nowhere = open(&tunnel, "10.20.0.99:9").await;
        assert!(matches!(nowhere, TunnelError::BeyondUnreachable(_)), "{nowhere:?}");
        let outside = open(&tunnel, "10.9.0.1:9").await;
        assert!(matches!(outside, TunnelError::Denied(_)), "{outside:?}");

        let mut other_psk = settings.clone();
        other_psk.preshared_key = Some(Secret::new(vec![7; 32]));
        let refused = open(&start(&other_psk, Duration::from_secs(1)), "10.20.0.5:9").await;
        assert!(matches!(refused, TunnelError::Auth(_)), "{refused:?}");
        let mut other_key = settings.clone();
        other_key.private_key = Secret::new(vec![7; 32]);
        let refused = open(&start(&other_key, Duration::from_secs(1)), "10.20.0.5:9").await;
        assert!(matches!(refused, TunnelError::Unreachable(_)), "{refused:?}");
    });
}

#[test]
fn a_wireguard_go_that_restarts_is_met_again_by_the_next_stream() {
    lab::run(async |lab| {
        let mut customer = Customer::start(&lab).await;
        let mut tasks = JoinSet::new();
        let to = echo(&mut tasks, PRIVATE).await;
        let tunnel = start(&customer.settings(), Duration::from_secs(10));
        within("before", echoed(&tunnel, to, b"before")).await;
        customer.restart().await;
        within("after", echoed(&tunnel, to, b"after")).await;
        assert!(tunnel.probe(Duration::from_secs(5)).await.is_ok());
    });
}

#[test]
fn datagrams_reach_a_name_server_behind_wireguard_go() {
    lab::run(async |lab| {
        let customer = Customer::start(&lab).await;
        let server = UdpSocket::bind((PRIVATE, 0)).await.unwrap();
        let to = server.local_addr().unwrap();
        let tunnel = start(&customer.settings(), Duration::from_secs(10));
        let socket = tunnel.datagrams(to).unwrap();
        socket.send(b"question").unwrap();
        let mut buffer = [0; 2000];
        let (count, from) = within("a question", server.recv_from(&mut buffer)).await.unwrap();
        assert_eq!(&buffer[..count], b"question");
        server.send_to(&pattern(1232, 0), from).await.unwrap();
        let count = within("an answer", socket.receive(&mut buffer)).await.unwrap();
        assert!(buffer[..count] == pattern(1232, 0)[..]);
        assert!(socket.send(&[0; 1393]).is_err(), "more than one packet of 1420 bytes holds");
        socket.send(&[0; 1392]).unwrap();
        let (count, _) = within("a question", server.recv_from(&mut buffer)).await.unwrap();
        assert_eq!(count, 1392);
    });
}

#[test]
fn keygen_prints_the_public_key_and_keeps_the_private_one() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("wireguard.key");
    let made = keygen(&file);
    assert!(made.status.success() && made.stderr.is_empty(), "{made:?}");
    let mode = std::fs::metadata(&file).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let private = std::fs::read_to_string(&file).unwrap();
    let public = String::from_utf8(made.stdout).unwrap();
    let of_wg = shell(&format!("wg pubkey < {}", file.display()));
    assert_eq!(String::from_utf8(of_wg.stdout).unwrap(), public);
    assert!(!public.contains(private.trim()));
    let again = egress_gateway(&["pubkey", "--private-key-file", file.to_str().unwrap()]);
    assert_eq!(String::from_utf8(again.stdout).unwrap(), public);

    let refused = keygen(&file);
    assert_eq!((refused.status.code(), refused.stdout.len()), (Some(1), 0));
    assert_eq!(std::fs::read_to_string(&file).unwrap(), private, "it is left as it is");
    let not_a_key = dir.path().join("not-a-key");
    std::fs::write(&not_a_key, "c2VjcmV0").unwrap();
    let refused = egress_gateway(&["pubkey", "--private-key-file", not_a_key.to_str().unwrap()]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(!String::from_utf8_lossy(&refused.stderr).contains("c2VjcmV0"));
}
