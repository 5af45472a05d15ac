//! The laboratory: every test runs in a network namespace of its own.
//!
//! A test calls [`run`]. The test binary then starts itself again inside `unshare`, for that one
//! test only; there `lo` is brought up with addresses of every kind, and the test's body runs.
//! This works as root and as an ordinary user (through a user namespace). Where neither is
//! possible the test fails and says what to enable.

use super::{config::Config, dns::Dns, gateway::Gateway, tls::Ca};
use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Arc, Mutex, OnceLock},
    time::Duration,
};

/// Where the gateway's outbound sockets are bound in every test.
pub(crate) const EGRESS: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 114, 10));
/// The same for IPv6, where a test configures it.
pub(crate) const EGRESS_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2a0e, 0x97c0, 0, 0, 0, 0, 0, 0x10));
/// A public address on which receivers listen.
pub(crate) const PUBLIC: IpAddr = IpAddr::V4(Ipv4Addr::new(93, 184, 215, 14));
/// A second public address.
pub(crate) const PUBLIC_2: IpAddr = IpAddr::V4(Ipv4Addr::new(93, 184, 215, 15));
/// A public IPv6 address.
pub(crate) const PUBLIC_V6: IpAddr =
    IpAddr::V6(Ipv6Addr::new(0x2606, 0x2800, 0x21f, 0xcb07, 0, 0, 0, 1));
/// An address in a customer's private network.
pub(crate) const PRIVATE: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 20, 0, 5));
/// Another private address, in a network that no test approves.
pub(crate) const PRIVATE_2: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 168, 7, 7));
/// Where cloud metadata services answer.
pub(crate) const METADATA: IpAddr = IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254));
/// Where the test's DNS server answers.
pub(crate) const NAMESERVER: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 41, 0, 4));

/// Set, to the test's name, in the process inside the namespace.
const INSIDE: &str = "EGRESS_LAB_INSIDE";
/// The file that the process inside the namespace writes when the test's body came to its end.
const DONE: &str = "EGRESS_LAB_DONE";
/// How long one test may take.
const LIMIT: Duration = Duration::from_secs(90);

/// What a test works with inside its namespace.
pub(crate) struct Lab {
    /// The DNS server at [`NAMESERVER`].
    pub(crate) dns: Dns,
    dir: tempfile::TempDir,
    secrets: Arc<Mutex<Vec<String>>>,
}

/// Runs `test` in a fresh network namespace.
pub(crate) fn run<F: AsyncFnOnce(Lab)>(test: F) {
    let name = name_of::<F>();
    if std::env::var(INSIDE).as_deref() == Ok(name) { inside(test) } else { outside(name) }
}

/// `it::connect::some_behaviour::{{closure}}` → `connect::some_behaviour`, as libtest names it.
fn name_of<F>() -> &'static str {
    let path = std::any::type_name::<F>();
    path.split_once("::")
        .and_then(|(_, rest)| rest.strip_suffix("::{{closure}}"))
        .unwrap_or_else(|| panic!("lab::run takes a closure written in the test itself: {path}"))
}

/// Starts this binary again, for this one test, in a namespace.
fn outside(name: &str) {
    let dir = tempfile::tempdir().unwrap();
    let done = dir.path().join("done");
    let output = Command::new("unshare")
        .args(unshare_flags())
        .arg("--")
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env(INSIDE, name)
        .env("RUST_BACKTRACE", "0")
        .env(DONE, &done)
        .stdin(Stdio::null())
        .output()
        .expect("unshare (package util-linux) starts");
    let finished = output.status.success() && done.exists();
    assert!(
        finished,
        "{name} failed in its namespace ({}):\n{}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

/// The way into a namespace that this machine allows; looked for once.
fn unshare_flags() -> &'static [&'static str] {
    const WAYS: [&[&str]; 2] = [
        &["--user", "--map-root-user", "--net", "--mount", "--fork", "--kill-child"],
        &["--net", "--mount", "--fork", "--kill-child"],
    ];
    static FOUND: OnceLock<Option<&[&str]>> = OnceLock::new();
    let works = |flags: &&[&str]| {
        Command::new("unshare")
            .args(*flags)
            .args(["--", "ip", "link", "set", "lo", "up"])
            .output()
            .is_ok_and(|output| output.status.success())
    };
    FOUND.get_or_init(|| WAYS.into_iter().find(works)).expect(
        "no network namespace can be made: install util-linux and iproute2, and run as root, or \
         allow user namespaces (sysctl kernel.unprivileged_userns_clone=1, \
         kernel.apparmor_restrict_unprivileged_userns=0; in Docker --cap-add SYS_ADMIN \
         --security-opt seccomp=unconfined)",
    )
}

/// The test's body, in the namespace.
fn inside<F: AsyncFnOnce(Lab)>(test: F) {
    std::thread::spawn(|| {
        // The runtime's own limit cannot interrupt a blocked thread; this one can.
        std::thread::sleep(LIMIT + Duration::from_secs(10));
        eprintln!("the test did not end within {LIMIT:?}, and blocks a thread");
        std::process::exit(101);
    });
    network();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let lab = Lab {
            dns: Dns::start((NAMESERVER, 53).into()).await,
            dir: tempfile::tempdir().unwrap(),
            secrets: Arc::default(),
        };
        assert!(
            tokio::time::timeout(LIMIT, test(lab)).await.is_ok(),
            "the test did not end within {LIMIT:?}"
        );
    });
    std::fs::write(std::env::var(DONE).unwrap(), "done").unwrap();
}

/// Brings `lo` up, with addresses of every kind.
fn network() {
    ip("link set lo up");
    for address in [EGRESS, PUBLIC, PUBLIC_2, PRIVATE, PRIVATE_2, METADATA, NAMESERVER] {
        ip(&format!("addr add {address}/32 dev lo"));
    }
    for address in ["100.100.100.200", "168.63.129.16"] {
        ip(&format!("addr add {address}/32 dev lo"));
    }
    for address in [EGRESS_V6, PUBLIC_V6] {
        ip(&format!("addr add {address}/128 dev lo nodad"));
    }
}

/// Runs `ip` with these words in the namespace.
pub(crate) fn ip(words: &str) {
    assert!(try_ip(words), "`ip {words}` failed");
}

fn try_ip(words: &str) -> bool {
    let output = Command::new("ip").args(words.split(' ')).output().expect("ip (iproute2) starts");
    if !output.status.success() {
        eprintln!("ip {words}: {}", String::from_utf8_lossy(&output.stderr));
    }
    output.status.success()
}

/// Runs `nft` with these words in the namespace.
pub(crate) fn nft(words: &str) {
    let output = Command::new("nft").arg(words).output().expect("nft (nftables) starts");
    assert!(output.status.success(), "nft {words}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Makes every address in the world answer on this machine, so that a connection to any of them
/// would be seen by a canary.
pub(crate) fn own_the_world() {
    ip("route add local default dev lo");
    ip("-6 route add local default dev lo");
}

/// Gives this machine an interface besides `lo`, with this address.
pub(crate) fn add_interface(address: &str) {
    let made = ["dummy", "veth", "bridge"]
        .into_iter()
        .any(|kind| try_ip(&format!("link add own0 type {kind}")));
    assert!(made, "the kernel offers none of the interfaces dummy, veth, bridge");
    ip(&format!("addr add {address} dev own0"));
    ip("link set own0 up");
}

impl Lab {
    /// A directory of this test alone, removed at its end.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Writes a file into the test's directory.
    pub(crate) fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.dir().join(name);
        std::fs::write(&path, content).unwrap();
        path
    }

    /// Writes a secret into a file. No log of the gateway may ever hold it; this is asserted when
    /// the gateway is dropped.
    pub(crate) fn secret(&self, name: &str, value: &str) -> PathBuf {
        self.secrets.lock().unwrap().push(value.to_owned());
        self.file(name, value)
    }

    /// Values that no log may hold.
    pub(crate) fn secrets(&self) -> Arc<Mutex<Vec<String>>> {
        Arc::clone(&self.secrets)
    }

    /// A certificate authority of this test.
    pub(crate) fn ca(&self, name: &str) -> Ca {
        Ca::new(self.dir(), name)
    }

    /// The configuration that most tests start from: loopback listeners on free ports, the egress
    /// address, the test's DNS server, short limits, no target.
    pub(crate) fn config(&self) -> Config {
        Config::new(self.dir())
    }

    /// Starts the program and waits until it listens.
    pub(crate) async fn gateway(&self, config: &Config) -> Gateway {
        Gateway::start(self, config, |_| {}).await
    }

    /// The usual scene: `acme.example` is a self-hosted target, its name leads to [`PUBLIC`].
    pub(crate) async fn gateway_with_acme(&self) -> Gateway {
        self.dns.addresses("acme.example", &[PUBLIC]);
        self.gateway(&self.config().self_hosted("acme", "https://acme.example")).await
    }
}
