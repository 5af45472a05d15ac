//! The reverse connector: the real program as the customer's end, enrolled and run as documented.
//!
//! The gateway's end is the library's, on the store and the key that `connector token` uses.

use crate::support::{
    config::Config,
    eventually,
    gateway::{Event, program, signal, write_config},
    lab::{self, Lab, PRIVATE, PRIVATE_2},
    receiver::Receiver,
    within,
};
use egress_gateway::{
    connector::{
        gateway::{self, Connectors},
        keys::Key,
    },
    store::Store,
    tunnel::TunnelError,
};
use std::{
    io::{BufRead as _, BufReader},
    net::{IpAddr, SocketAddr},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Output},
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    task::{JoinHandle, JoinSet},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

const LISTENER: &str = "127.0.0.1:7443";

/// The gateway's end, and its configuration for the commands.
struct Gateway {
    connectors: Arc<Connectors>,
    serving: JoinHandle<()>,
    config: PathBuf,
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

fn config(lab: &Lab) -> Config {
    lab.config()
        .set_toml("connectors.listen", &format!("[\"{LISTENER}\"]"))
        .set("tunnels.acme.url", "connector:acme")
}

impl Gateway {
    async fn start(lab: &Lab) -> Self {
        let config = write_config(lab.dir(), &config(lab).to_toml());
        let state = lab.dir().join("state");
        let store = Store::open(&format!("sqlite:{}/gateway.db", state.display())).await.unwrap();
        let key = Key::load_or_create(&state.join("connector.key")).unwrap();
        let connectors = Connectors::new(store, &key).unwrap();
        let listener = eventually("the listener's address is free", async || {
            TcpListener::bind(LISTENER).await.ok()
        })
        .await;
        let own = Arc::clone(&connectors);
        let serving = tokio::spawn(gateway::serve(own, vec![listener], CancellationToken::new()));
        Self { connectors, serving, config }
    }

    /// Runs `connector …` on the gateway's side.
    async fn command(&self, arguments: &[&str]) -> Output {
        let config = self.config.to_str().unwrap();
        command(self.config.parent().unwrap(), &[arguments, &["--config", config]].concat()).await
    }

    async fn token(&self, lab: &Lab, name: &str, ttl: &str) -> PathBuf {
        let output = self.command(&["token", "acme", "--ttl", ttl]).await;
        assert!(output.status.success(), "{output:?}");
        let token = String::from_utf8(output.stdout).unwrap();
        lab.secret(name, token.trim())
    }

    /// A connector that is enrolled, with its configuration.
    async fn enrolled(&self, lab: &Lab, name: &str, allow: &str) -> PathBuf {
        let token = self.token(lab, &format!("{name}.token"), "1h").await;
        let out = lab.dir().join(format!("{name}.toml"));
        let output = enrol(&token, &out, allow).await;
        assert!(output.status.success(), "{output:?}");
        out
    }

    async fn linked(&self, count: usize) {
        eventually(&format!("{count} connected"), async || {
            (self.connectors.status("acme").links == count).then_some(())
        })
        .await;
    }
}

async fn command(dir: &Path, arguments: &[&str]) -> Output {
    let mut command = program();
    command.current_dir(dir).arg("connector").args(arguments);
    let output = tokio::task::spawn_blocking(move || command.output().unwrap());
    within("the command ends", output).await.unwrap()
}

async fn enrol(token: &Path, out: &Path, allow: &str) -> Output {
    let (token, out) = (token.to_str().unwrap(), out.to_str().unwrap());
    let arguments = ["enrol", "--token-file", token, "--out", out, "--allow", allow];
    command(Path::new("/"), &arguments).await
}

/// The customer's end, as a process of its own; killed when dropped.
struct Connector {
    child: Child,
    log: Arc<Mutex<Vec<String>>>,
}

impl Connector {
    fn start(config: &Path) -> Self {
        let mut command = program();
        command.args(["connector", "--config"]).arg(config);
        let mut child = command.spawn().unwrap();
        let log: Arc<Mutex<Vec<String>>> = Arc::default();
        let (pipe, lines) = (child.stderr.take().unwrap(), Arc::clone(&log));
        std::thread::spawn(move || {
            for line in BufReader::new(pipe).lines().map_while(Result::ok) {
                lines.lock().unwrap().push(line);
            }
        });
        Self { child, log }
    }

    async fn event(&self, message: &str) -> Event {
        self.events(message, 1).await
    }

    /// Waits until it has said this so many times; the last.
    async fn events(&self, message: &str, count: usize) -> Event {
        eventually(&format!("the connector says {message} {count} times"), async || {
            let log = self.log.lock().unwrap();
            let events = log.iter().filter_map(|line| serde_json::from_str(line).ok());
            events.map(Event).filter(|event| event.text("message") == message).nth(count - 1)
        })
        .await
    }
}

impl Drop for Connector {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
        if std::thread::panicking() {
            eprintln!("--- the connector ---\n{}\n---", self.log.lock().unwrap().join("\n"));
        }
    }
}

fn at(port: u16) -> SocketAddr {
    (PRIVATE, port).into()
}

#[test]
fn enrolled_as_documented_it_carries_bulk_and_many_streams_and_logs_each() {
    lab::run(async |lab| {
        let _echo = Receiver::echo((PRIVATE, 443));
        let gateway = Gateway::start(&lab).await;
        let config = gateway.enrolled(&lab, "c", "10.20.0.0/16:443").await;
        let key = std::fs::metadata(lab.dir().join("c.key")).unwrap();
        assert_eq!(key.permissions().mode() & 0o777, 0o600);
        let mut connector = Connector::start(&config);
        gateway.linked(1).await;

        let mut stream = gateway.connectors.open("acme", at(443)).await.unwrap();
        let chunk: Vec<u8> = (0..1_u32 << 18).flat_map(u32::to_le_bytes).collect();
        let (mut read, mut write) = tokio::io::split(&mut stream);
        let sending = async {
            for _ in 0..64 {
                write.write_all(&chunk).await.unwrap();
            }
            write.shutdown().await.unwrap();
        };
        let receiving = async {
            let mut got = vec![0; chunk.len()];
            for _ in 0..64 {
                read.read_exact(&mut got).await.unwrap();
                assert!(got == chunk, "bytes were changed");
            }
            assert_eq!(read.read(&mut got).await.unwrap(), 0);
        };
        within("64 MiB and back", async { tokio::join!(sending, receiving) }).await;
        drop(stream);
        let event = connector.event("stream").await;
        assert_eq!((event.text("outcome"), event.text("to")), ("ended", "10.20.0.5:443"));
        assert_eq!((event.number("bytes_in"), event.number("bytes_out")), (64 << 20, 64 << 20));

        let mut open = Vec::new();
        for _ in 0..500 {
            open.push(gateway.connectors.open("acme", at(443)).await.unwrap());
        }
        let mut streams = JoinSet::new();
        for (number, mut stream) in (0_u64..).zip(open) {
            streams.spawn(async move {
                stream.write_all(&number.to_be_bytes()).await.unwrap();
                assert_eq!(stream.read_u64().await.unwrap(), number);
            });
        }
        assert_eq!(within("500 streams", streams.join_all()).await.len(), 500);

        signal(connector.child.id(), "TERM");
        let ended = eventually("it ends", async || connector.child.try_wait().unwrap()).await;
        assert!(ended.success(), "{ended}");
        connector.event("stopped").await;
    });
}

#[test]
fn a_token_is_good_once_and_for_its_time() {
    lab::run(async |lab| {
        let gateway = Gateway::start(&lab).await;
        let token = gateway.token(&lab, "t", "1h").await;
        let out = lab.dir().join("c.toml");
        assert!(enrol(&token, &out, "10.20.0.5:443").await.status.success());
        let again = lab.dir().join("again.toml");
        let short = gateway.token(&lab, "short", "1ms").await;
        for (token, expected) in [(&token, "used already"), (&short, "expired")] {
            let refused = enrol(token, &again, "10.20.0.5:443").await;
            assert_eq!(refused.status.code(), Some(1), "{refused:?}");
            assert!(String::from_utf8_lossy(&refused.stderr).contains(expected), "{refused:?}");
            assert!(!again.exists() && !again.with_extension("key").exists());
        }
        // what is there already is left alone
        let before = std::fs::read(out.with_extension("key")).unwrap();
        let fresh = gateway.token(&lab, "fresh", "1h").await;
        assert_eq!(enrol(&fresh, &out, "10.20.0.5:443").await.status.code(), Some(1));
        assert_eq!(std::fs::read(out.with_extension("key")).unwrap(), before);
        let listed = gateway.command(&["list", "--json"]).await;
        let listed: serde_json::Value = serde_json::from_slice(&listed.stdout).unwrap();
        assert_eq!(listed["items"].as_array().unwrap().len(), 1, "{listed}");
        assert_eq!(listed["items"][0]["name"], "acme");
    });
}

#[test]
fn wrong_usage_is_told_from_failure() {
    lab::run(async |lab| {
        let gateway = Gateway::start(&lab).await;
        let (broken, token) = (lab.file("x.toml", "name = 1"), lab.file("t", "not a token"));
        let text = |path: &Path| path.to_str().unwrap().to_owned();
        let (broken, token, out) = (text(&broken), text(&token), text(&lab.dir().join("c.toml")));
        for arguments in [
            &[][..],
            &["--config", "/none/connector.toml"],
            &["--config", &broken],
            &["enrol", "--token-file", &token, "--out", &out],
            &["enrol", "--token-file", "/none", "--out", &out],
        ] {
            let output = command(lab.dir(), arguments).await;
            assert_eq!(output.status.code(), Some(2), "{arguments:?}: {output:?}");
        }
        for (arguments, code) in [
            (&["token", "nobody"][..], 2),
            (&["token", "acme", "--ttl", "31d"], 2),
            (&["revoke", "acme", "--spki", "x"], 2),
            (&["revoke", "nobody"], 1),
        ] {
            let output = gateway.command(arguments).await;
            assert_eq!(output.status.code(), Some(code), "{arguments:?}: {output:?}");
        }
    });
}

#[test]
fn its_own_allowlist_is_the_last_word() {
    lab::run(async |lab| {
        let _echo = Receiver::echo((PRIVATE, 443));
        let other = TcpListener::bind((PRIVATE_2, 443)).await.unwrap();
        let metadata = TcpListener::bind("169.254.169.254:443").await.unwrap();
        let gateway = Gateway::start(&lab).await;
        let config = gateway.enrolled(&lab, "c", "10.20.0.0/16:443").await;
        let text = std::fs::read_to_string(&config).unwrap();
        let wide = text.replace("allow = [\"", "allow = [\"169.254.0.0/16:443\", \"");
        assert_ne!(wide, text);
        std::fs::write(&config, wide).unwrap();
        let connector = Connector::start(&config);
        gateway.linked(1).await;
        for to in [SocketAddr::from((PRIVATE_2, 443)), "169.254.169.254:443".parse().unwrap()] {
            let refused = gateway.connectors.open("acme", to).await.unwrap_err();
            assert!(matches!(refused, TunnelError::Denied(_)), "{to}: {refused:?}");
        }
        let event = connector.event("stream").await;
        assert_eq!((event.text("outcome"), event.text("to")), ("not_allowed", "192.168.7.7:443"));
        for canary in [other, metadata] {
            let dialled = tokio::time::timeout(Duration::from_millis(50), canary.accept()).await;
            assert!(dialled.is_err(), "it was dialled");
        }
        gateway.connectors.open("acme", at(443)).await.unwrap();
    });
}

#[test]
fn revoked_it_is_cut_within_a_second_and_told_why() {
    lab::run(async |lab| {
        let _echo = Receiver::echo((PRIVATE, 443));
        let gateway = Gateway::start(&lab).await;
        let config = gateway.enrolled(&lab, "c", "10.20.0.0/16:443").await;
        let connector = Connector::start(&config);
        gateway.linked(1).await;
        let mut stream = gateway.connectors.open("acme", at(443)).await.unwrap();
        let revoked = gateway.command(&["revoke", "acme"]).await;
        let revoked_at = Instant::now();
        assert!(revoked.status.success(), "{revoked:?}");
        assert!(within("the stream is cut", stream.read_u8()).await.is_err());
        assert!(revoked_at.elapsed() < Duration::from_secs(1), "{:?}", revoked_at.elapsed());
        eventually("it is told why", async || {
            let log = connector.log.lock().unwrap().join("\n");
            log.contains("has revoked this connector's key").then_some(())
        })
        .await;
        let listed = gateway.command(&["list"]).await;
        assert!(String::from_utf8_lossy(&listed.stdout).contains("revoked"), "{listed:?}");
    });
}

#[test]
fn a_gateway_with_another_key_gets_nothing() {
    lab::run(async |lab| {
        let gateway = Gateway::start(&lab).await;
        let config = gateway.enrolled(&lab, "c", "10.20.0.0/16:443").await;
        drop(gateway);
        std::fs::remove_file(lab.dir().join("state/connector.key")).unwrap();
        let gateway = Gateway::start(&lab).await;
        let connector = Connector::start(&config);
        let event = connector.event("not connected").await;
        assert!(event.text("error").contains("another key than the pinned one"), "{event:?}");
        assert_eq!(gateway.connectors.status("acme").links, 0);
    });
}

/// Makes connections to the listener come from this address.
fn dial_from(address: IpAddr) {
    lab::ip(&format!("route replace local 127.0.0.1 dev lo table local src {address}"));
}

#[test]
fn a_link_whose_address_is_gone_is_dialled_anew_at_once() {
    lab::run(async |lab| {
        let _echo = Receiver::echo((PRIVATE, 443));
        let gateway = Gateway::start(&lab).await;
        let config = gateway.enrolled(&lab, "c", "10.20.0.0/16:443").await;
        dial_from(PRIVATE_2);
        let connector = Connector::start(&config);
        gateway.linked(1).await;
        let mut stream = gateway.connectors.open("acme", at(443)).await.unwrap();
        lab::ip(&format!("addr del {PRIVATE_2}/32 dev lo"));
        let gone = Instant::now();
        dial_from(PRIVATE);
        let event = connector.event("not connected").await;
        assert!(event.text("error").contains("this machine's address has changed"), "{event:?}");
        connector.events("connected", 2).await;
        // a link that is only silent takes 25 seconds, and what asks because of a change 15
        assert!(gone.elapsed() < Duration::from_secs(10), "{:?}", gone.elapsed());
        // the gateway has the new link in place of the one before, whose streams end
        assert!(within("the stream ends", stream.read_u8()).await.is_err());
        gateway.linked(1).await;
        gateway.connectors.open("acme", at(443)).await.unwrap();
    });
}

#[test]
fn another_network_is_a_reason_to_dial_before_the_back_off_has_passed() {
    lab::run(async |lab| {
        let gateway = Gateway::start(&lab).await;
        let config = gateway.enrolled(&lab, "c", "10.20.0.0/16:443").await;
        drop(gateway);
        let connector = Connector::start(&config);
        // what follows is a pause of four seconds at least
        connector.events("not connected", 5).await;
        let failed = Instant::now();
        let gateway = Gateway::start(&lab).await;
        lab::add_interface("10.30.0.2/24");
        gateway.linked(1).await;
        assert!(failed.elapsed() < Duration::from_millis(3500), "{:?}", failed.elapsed());
    });
}

#[test]
fn a_link_that_falls_silent_is_noticed_by_both_ends_within_25_seconds() {
    lab::run(async |lab| {
        let gateway = Gateway::start(&lab).await;
        let config = gateway.enrolled(&lab, "c", "10.20.0.0/16:443").await;
        let connector = Connector::start(&config);
        gateway.linked(1).await;
        lab::nft("add table inet lab");
        lab::nft("add chain inet lab in { type filter hook input priority 0 ; }");
        for way in ["tcp dport 7443", "tcp sport 7443"] {
            lab::nft(&format!("add rule inet lab in {way} drop"));
        }
        let silenced = Instant::now();
        // longer than what is waited for elsewhere
        let noticed = async {
            while gateway.connectors.status("acme").links > 0
                || !connector.log.lock().unwrap().join("\n").contains("the gateway is silent")
            {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        let noticed = tokio::time::timeout(Duration::from_secs(27), noticed).await;
        assert!(noticed.is_ok(), "both ends notice in time");
        assert!(silenced.elapsed() > Duration::from_secs(14), "{:?}", silenced.elapsed());
        lab::nft("delete table inet lab");
        gateway.linked(1).await;
    });
}

#[test]
fn killed_and_restarted_either_end_comes_back() {
    lab::run(async |lab| {
        let _echo = Receiver::echo((PRIVATE, 443));
        let gateway = Gateway::start(&lab).await;
        let config = gateway.enrolled(&lab, "c", "10.20.0.0/16:443").await;
        let second = gateway.enrolled(&lab, "d", "10.20.0.0/16:443").await;
        let first = Connector::start(&config);
        let _second = Connector::start(&second);
        gateway.linked(2).await;
        drop(first);
        // the other one serves, also before the loss is noticed
        gateway.connectors.open("acme", at(443)).await.unwrap();
        gateway.linked(1).await;
        let _first = Connector::start(&config);
        gateway.linked(2).await;

        drop(gateway);
        let gateway = Gateway::start(&lab).await;
        gateway.linked(2).await;
        gateway.connectors.open("acme", at(443)).await.unwrap();
    });
}
