//! The program under test: started, watched, stopped.

use super::{
    config::Config,
    eventually,
    http::{Conn, Reply, connect_head, request_head},
    lab::Lab,
    metrics::Metrics,
    refusal,
};
use std::{
    collections::BTreeSet,
    io::{BufRead, BufReader, Read},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
};

/// One structured log event.
#[derive(Clone, Debug)]
pub(crate) struct Event(pub(crate) serde_json::Value);

/// A running gateway; killed when dropped.
pub(crate) struct Gateway {
    child: Child,
    log: Arc<Mutex<Vec<String>>>,
    secrets: Arc<Mutex<Vec<String>>>,
    config_path: PathBuf,
    /// Where clients connect.
    pub(crate) proxy: SocketAddr,
    /// Where operators look.
    pub(crate) admin: SocketAddr,
}

/// A connection to the proxy, and its answer to a CONNECT.
pub(crate) struct Exchange {
    /// The connection: the tunnel itself after a 200.
    pub(crate) conn: Conn,
    /// The answer.
    pub(crate) reply: Reply,
}

/// Gives each configuration file of a test a name of its own.
static FILES: AtomicU32 = AtomicU32::new(0);

impl Gateway {
    /// Starts `serve`, and waits until both listeners stand. `adjust` may change the command.
    pub(crate) async fn start(
        lab: &Lab,
        config: &Config,
        adjust: impl FnOnce(&mut Command),
    ) -> Self {
        let config_path = write_config(lab.dir(), &config.to_toml());
        let mut command = serve(lab.dir(), &config_path);
        adjust(&mut command);
        let mut child = command.spawn().expect("the program starts");
        let log: Arc<Mutex<Vec<String>>> = Arc::default();
        for pipe in [
            child.stderr.take().map(|pipe| Box::new(pipe) as Box<dyn Read + Send>),
            child.stdout.take().map(|pipe| Box::new(pipe) as Box<dyn Read + Send>),
        ] {
            let (pipe, log) = (pipe.unwrap(), Arc::clone(&log));
            std::thread::spawn(move || {
                for line in BufReader::new(pipe).lines().map_while(Result::ok) {
                    log.lock().unwrap().push(line);
                }
            });
        }
        let nowhere = SocketAddr::from(([0, 0, 0, 0], 0));
        let secrets = lab.secrets();
        let mut gateway = Self { child, log, secrets, config_path, proxy: nowhere, admin: nowhere };
        gateway.proxy = gateway.listener("proxy").await;
        gateway.admin = gateway.listener("admin").await;
        gateway
    }

    /// Runs `serve` with a configuration that it must refuse; gives what it said.
    pub(crate) async fn refuses(lab: &Lab, toml: &str) -> Output {
        let config_path = write_config(lab.dir(), toml);
        let child = serve(lab.dir(), &config_path).spawn().expect("the program starts");
        let pid = child.id();
        let ended = tokio::task::spawn_blocking(move || child.wait_with_output().unwrap());
        if let Ok(output) = tokio::time::timeout(super::BOUND, ended).await {
            return output.unwrap();
        }
        signal(pid, "KILL");
        panic!("the program took a configuration that it should refuse:\n{toml}")
    }

    /// The address that the newest `listening` event of this listener names.
    pub(crate) async fn listener(&mut self, listener: &str) -> SocketAddr {
        eventually(&format!("the {listener} listener stands"), async || {
            if let Ok(Some(status)) = self.child.try_wait() {
                panic!("the program ended ({status}):\n{}", self.log_text());
            }
            self.listeners(listener).last().copied()
        })
        .await
    }

    /// Every address that this listener took since the start.
    pub(crate) fn listeners(&self, listener: &str) -> Vec<SocketAddr> {
        let events = self.events().into_iter();
        events
            .filter(|event| event.text("message") == "listening")
            .filter(|event| event.text("listener") == listener)
            .map(|event| event.text("address").parse().unwrap())
            .collect()
    }

    /// Sends a CONNECT on a fresh connection and reads the answer.
    pub(crate) async fn connect(&self, authority: &str) -> Exchange {
        self.connect_with(authority, &[]).await
    }

    /// The same with further fields.
    pub(crate) async fn connect_with(&self, authority: &str, fields: &[(&str, &str)]) -> Exchange {
        self.ask(connect_head(authority, fields)).await
    }

    /// Sends these bytes on a fresh connection and reads the answer.
    pub(crate) async fn ask(&self, bytes: impl AsRef<[u8]>) -> Exchange {
        let mut conn = Conn::open(self.proxy).await;
        conn.send(bytes).await;
        let reply = conn.reply().await;
        Exchange { conn, reply }
    }

    /// Sends a request without a body on a fresh connection, and reads the answer.
    pub(crate) async fn get(&self, url: &str) -> Reply {
        self.fetch("GET", url, &[], b"").await
    }

    /// Sends a request on a fresh connection, and reads the answer.
    pub(crate) async fn fetch(
        &self,
        method: &str,
        url: &str,
        fields: &[(&str, &str)],
        body: &[u8],
    ) -> Reply {
        self.ask([request_head(method, url, fields, body.len()).as_bytes(), body].concat())
            .await
            .reply
    }

    /// Sends a request that must be refused in exactly this way; see [`refusal::assert_refused`].
    pub(crate) async fn refuse_get(&self, url: &str, expected: (u16, &str, &str)) -> Event {
        let reply = self.get(url).await;
        self.assert_refused(&reply, expected).await
    }

    /// Opens a tunnel that must be allowed.
    pub(crate) async fn tunnel(&self, authority: &str) -> Conn {
        let exchange = self.connect(authority).await;
        assert_eq!(exchange.reply.status, 200, "{authority}: {:?}", exchange.reply);
        exchange.conn
    }

    /// Sends a CONNECT that must be refused in exactly this way; see [`refusal::assert_refused`].
    pub(crate) async fn refuse(
        &self,
        authority: &str,
        (status, code, cause): (u16, &str, &str),
    ) -> Event {
        let exchange = self.connect(authority).await;
        self.assert_refused(&exchange.reply, (status, code, cause)).await
    }

    /// See [`refusal::assert_refused`].
    pub(crate) async fn assert_refused(&self, reply: &Reply, expected: (u16, &str, &str)) -> Event {
        refusal::assert_refused(self, reply, expected).await
    }

    /// Asks the admin listener.
    pub(crate) async fn admin(&self, path: &str) -> Reply {
        self.admin_with(path, &[]).await
    }

    /// Asks the admin listener with further fields.
    pub(crate) async fn admin_with(&self, path: &str, fields: &[(&str, &str)]) -> Reply {
        let mut conn = Conn::open(self.admin).await;
        let mut head = format!("GET {path} HTTP/1.1\r\nHost: {}\r\n", self.admin);
        for (name, value) in fields {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        conn.send(head + "Connection: close\r\n\r\n").await;
        conn.reply().await
    }

    /// What a scrape gives now.
    pub(crate) async fn metrics(&self) -> Metrics {
        let reply = self.admin("/metrics").await;
        assert_eq!(reply.status, 200, "{reply:?}");
        Metrics::parse(&String::from_utf8(reply.body).unwrap())
    }

    /// Waits until a metric, summed over the series with these labels, satisfies `condition`.
    pub(crate) async fn wait_metric(
        &self,
        name: &str,
        labels: &[(&str, &str)],
        condition: impl Fn(f64) -> bool,
    ) -> f64 {
        eventually(&format!("{name}{labels:?} as expected"), async || {
            Some(self.metrics().await.sum(name, labels)).filter(|value| condition(*value))
        })
        .await
    }

    /// Every structured event so far.
    pub(crate) fn events(&self) -> Vec<Event> {
        let log = self.log.lock().unwrap();
        log.iter().filter_map(|line| serde_json::from_str(line).ok()).map(Event).collect()
    }

    /// Every canonical event so far: one a request or tunnel.
    pub(crate) fn canonical(&self) -> Vec<Event> {
        self.events().into_iter().filter(Event::is_canonical).collect()
    }

    /// Waits until this many requests and tunnels are recorded, and asserts that it is no more.
    pub(crate) async fn assert_recorded(&self, count: usize) {
        eventually(&format!("{count} canonical events"), async || {
            (self.canonical().len() >= count).then_some(())
        })
        .await;
        assert_eq!(self.canonical().len(), count, "{:?}", self.canonical());
    }

    /// Waits for an event.
    pub(crate) async fn wait_event(&self, what: &str, matches: impl Fn(&Event) -> bool) -> Event {
        eventually(&format!("event: {what}"), async || {
            self.events().into_iter().find(|event| matches(event))
        })
        .await
    }

    /// Everything that the program wrote.
    pub(crate) fn log_text(&self) -> String {
        self.log.lock().unwrap().join("\n")
    }

    /// Sends a signal by its name, such as `TERM`.
    pub(crate) fn signal(&self, name: &str) {
        signal(self.child.id(), name);
    }

    /// The descriptors that the program has open.
    pub(crate) fn files(&self) -> BTreeSet<usize> {
        std::fs::read_dir(format!("/proc/{}/fd", self.child.id()))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().to_str().unwrap().parse().unwrap())
            .collect()
    }

    /// How many ends of pipes the program has open.
    pub(crate) fn pipe_ends(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.child.id()))
            .unwrap()
            // One that has been closed meanwhile leads nowhere.
            .filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok())
            .filter(|leads| leads.to_str().is_some_and(|leads| leads.starts_with("pipe:")))
            .count()
    }

    /// Lets the program open only so many more descriptors than it has open now.
    pub(crate) fn limit_files(&self, more: usize) {
        let open = self.files();
        // The limit is one of numbers, and there may be gaps between those in use.
        let free = |limit: &usize| *limit - open.range(..limit).count() == more;
        let limit = (0..=open.last().unwrap() + 1 + more).rev().find(free).unwrap();
        let done = Command::new("prlimit")
            .args(["--pid", &self.child.id().to_string(), &format!("--nofile={limit}:")])
            .status()
            .expect("prlimit (package util-linux) starts");
        assert!(done.success());
    }

    /// Replaces the configuration file; the program notices by itself or by a signal.
    pub(crate) fn rewrite(&self, toml: &str) {
        // Written beside and renamed, as editors and orchestrators do.
        let beside = self.config_path.with_extension("new");
        std::fs::write(&beside, toml).unwrap();
        std::fs::rename(beside, &self.config_path).unwrap();
    }

    /// Replaces the configuration, and waits until the program took it.
    pub(crate) async fn reload(&self, config: &Config) {
        let before = self.reloads("success").await;
        self.rewrite(&config.to_toml());
        self.signal("HUP");
        eventually("the new configuration is taken", async || {
            (self.reloads("success").await > before).then_some(())
        })
        .await;
    }

    /// How often the configuration was read anew with this result.
    pub(crate) async fn reloads(&self, result: &str) -> f64 {
        self.metrics().await.sum("egress_config_reloads_total", &[("result", result)])
    }

    /// Waits until the program ended by itself.
    pub(crate) async fn ended(&mut self) -> ExitStatus {
        eventually("the program ends", async || self.child.try_wait().unwrap()).await
    }

    /// Whether the program still runs.
    pub(crate) fn runs(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Ends the program at once, as a power cut would.
    pub(crate) fn kill(&mut self) {
        drop(self.child.kill());
        self.child.wait().unwrap();
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.kill();
        let log = self.log_text();
        if std::thread::panicking() {
            eprintln!("--- what the program said ---\n{log}\n---");
            return;
        }
        for secret in self.secrets.lock().unwrap().iter() {
            assert!(!log.contains(secret.as_str()), "a log line holds the secret {secret}:\n{log}");
        }
    }
}

impl Event {
    /// A field's value.
    pub(crate) fn get(&self, field: &str) -> &serde_json::Value {
        match &self.0["fields"][field] {
            serde_json::Value::Null => &self.0[field],
            value => value,
        }
    }

    /// A field's text; empty when it has none.
    pub(crate) fn text(&self, field: &str) -> &str {
        self.get(field).as_str().unwrap_or_default()
    }

    /// A field's number.
    pub(crate) fn number(&self, field: &str) -> u64 {
        let value = self.get(field);
        value.as_u64().unwrap_or_else(|| panic!("{field} is no number in {self:?}"))
    }

    /// Whether this is the event of a request or tunnel at its end.
    pub(crate) fn is_canonical(&self) -> bool {
        ["decision_id", "decision", "mode"].iter().all(|field| !self.get(field).is_null())
    }
}

/// Sends a signal to a process of this test.
pub(crate) fn signal(pid: u32, name: &str) {
    let status = Command::new("sh").args(["-c", &format!("kill -{name} {pid}")]).status().unwrap();
    assert!(status.success(), "kill -{name} {pid}");
}

/// The program itself, with nothing of this environment but the path.
pub(crate) fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_egress-gateway"));
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn serve(dir: &Path, config_path: &Path) -> Command {
    let mut command = program();
    command.current_dir(dir).args(["serve", "--config"]).arg(config_path);
    command
}

/// Writes a configuration file of its own.
pub(crate) fn write_config(dir: &Path, toml: &str) -> PathBuf {
    // A directory for each, as the program watches the directory of its file.
    let own = dir.join(format!("config-{}", FILES.fetch_add(1, Ordering::Relaxed)));
    std::fs::create_dir(&own).unwrap();
    let path = own.join("gateway.toml");
    std::fs::write(&path, toml).unwrap();
    path
}
