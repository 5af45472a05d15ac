//! The gateway of the demo: this very program as `serve`, with a configuration in a folder that
//! goes with it.

use std::{
    collections::VecDeque,
    fs,
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    process::{Child, ChildStderr, Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context as _, anyhow, bail};
use serde_json::Value;
use tokio::{sync::mpsc, time::timeout};

use super::folder::Folder;
use crate::store::{Sighting, Store};

/// The variable in which the gateway finds the client's token.
pub(super) const TOKEN_VARIABLE: &str = "DEMO_CLIENT_TOKEN";

/// The one in which it finds what it signs webhooks with.
pub(super) const SECRET_VARIABLE: &str = "DEMO_SIGNING_SECRET";

/// The file with the certificates that it trusts besides the system's.
pub(super) const ROOTS_FILE: &str = "receiver.pem";

/// Longest time from the start of the program to its first accepted connection.
const START_TIMEOUT: Duration = Duration::from_secs(20);

/// Longest time from the end of a request to its log line.
const LINE_TIMEOUT: Duration = Duration::from_secs(5);

/// Log lines that may wait to be looked at.
const LINES_MAX: usize = 1024;

/// Last lines of a gateway that did not start, which say why.
const LAST_LINES: usize = 8;

/// A gateway that serves; stopped, and its folder removed, when dropped.
pub(super) struct Gateway {
    /// Where its proxy listens.
    pub(super) proxy: SocketAddr,
    process: Process,
}

/// The fields are in the order in which they have to go.
struct Process {
    child: Child,
    lines: mpsc::Receiver<String>,
    _folder: Folder,
}

/// What a gateway is started with.
pub(super) struct Setting<'a> {
    /// Its configuration file.
    pub(super) configuration: &'a str,
    /// The certificates of [`ROOTS_FILE`], PEM.
    pub(super) roots: &'a str,
    /// The client's token.
    pub(super) token: &'a str,
    /// What webhooks are signed with.
    pub(super) secret: &'a str,
    /// What an earlier run of it has seen of names, and when (Unix seconds).
    pub(super) remembered: (&'a [Sighting], i64),
}

/// The event that the gateway logs at the end of a request.
pub(super) struct Event {
    /// The line, as it was written.
    pub(super) line: String,
    fields: Value,
}

impl Event {
    /// Reads a line; `None` where it is not JSON.
    pub(super) fn parse(line: String) -> Option<Self> {
        let fields = serde_json::from_str(&line).ok()?;
        Some(Self { line, fields })
    }

    /// A field, where there is one and it is a text.
    pub(super) fn text(&self, field: &str) -> Option<&str> {
        self.fields.get(field)?.as_str()
    }
}

impl Gateway {
    /// Starts the gateway.
    ///
    /// # Errors
    /// Why it does not serve, with what it said itself.
    pub(super) async fn start(setting: &Setting<'_>) -> anyhow::Result<Self> {
        let folder = Folder::new().context("no temporary folder can be made")?;
        fs::write(folder.path().join("gateway.toml"), setting.configuration)?;
        fs::write(folder.path().join(ROOTS_FILE), setting.roots)?;
        let database = folder.path().join("state/gateway.db");
        let store = Store::open(&format!("sqlite:{}", database.display())).await;
        let store = store.with_context(|| format!("no database at {}", database.display()))?;
        let (remembered, at) = setting.remembered;
        store.remember(remembered, at).await?;
        store.close().await;
        let mut process = Process::start(folder, setting)?;
        let started = timeout(START_TIMEOUT, process.listening()).await;
        let proxy = started.map_err(|_| anyhow!("the gateway did not start in time"))??;
        Ok(Self { proxy, process })
    }

    /// The event of the request that ended last: the one with this id, where the client was told
    /// one, else the next.
    ///
    /// # Errors
    /// There was none in time.
    pub(super) async fn event(&mut self, decision_id: Option<&str>) -> anyhow::Result<Event> {
        let wanted = |event: &Event| {
            let id = event.text("decision_id");
            event.text("message") == Some("request") && (decision_id.is_none() || id == decision_id)
        };
        let found = async {
            loop {
                let line = self.process.lines.recv().await.context("the gateway has ended")?;
                let Some(event) = Event::parse(line) else { continue };
                if wanted(&event) {
                    return Ok(event);
                }
            }
        };
        let found = timeout(LINE_TIMEOUT, found).await;
        found.map_err(|_| anyhow!("the gateway logged no event for this request"))?
    }
}

impl Process {
    fn start(folder: Folder, setting: &Setting<'_>) -> anyhow::Result<Self> {
        let program = std::env::current_exe().context("this program cannot be found")?;
        let mut child = Command::new(program)
            .args(["serve", "--config", "gateway.toml"])
            .current_dir(folder.path())
            // Nothing of the surroundings may change what is shown: no EGRESS_…, no RUST_LOG, no
            // sockets or watchdog of a service manager.
            .env_clear()
            .env(TOKEN_VARIABLE, setting.token)
            .env(SECRET_VARIABLE, setting.secret)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context("the gateway cannot be started")?;
        let (sender, lines) = mpsc::channel(LINES_MAX);
        let log = child.stderr.take();
        let process = Self { child, lines, _folder: folder };
        let log = log.context("the gateway has no standard error")?;
        // Ends with the pipe, and that with the child.
        thread::Builder::new().name("gateway-log".to_owned()).spawn(move || read(log, &sender))?;
        Ok(process)
    }

    /// Waits until the gateway serves: the address of its proxy.
    async fn listening(&mut self) -> anyhow::Result<SocketAddr> {
        let mut proxy = None;
        let mut last = VecDeque::new();
        while let Some(line) = self.lines.recv().await {
            let fields: Value = serde_json::from_str(&line).unwrap_or_default();
            let text = |field| fields.get(field).and_then(Value::as_str).unwrap_or_default();
            match (text("message"), text("listener")) {
                ("listening", "proxy") => proxy = Some(text("address").parse()?),
                ("started", _) => return proxy.context("the gateway has no proxy listener"),
                (_, _) => {}
            }
            last.push_back(line);
            if last.len() > LAST_LINES {
                last.pop_front();
            }
        }
        bail!("the gateway did not start:\n{}", Vec::from(last).join("\n"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself. What it keeps survives this, and is removed next anyway.
        let _ignored = self.child.kill();
        let _ignored = self.child.wait();
    }
}

fn read(log: ChildStderr, sender: &mpsc::Sender<String>) {
    for line in BufReader::new(log).lines() {
        let Ok(line) = line else { return };
        if sender.blocking_send(line).is_err() {
            return;
        }
    }
}
