//! The gateway of the demo: this very program as `serve`, with a configuration of the demo's.

use std::{fs, net::SocketAddr, path::Path, time::Duration};

use anyhow::Context as _;

use super::{
    folder::Folder,
    process::{Event, Process},
};
use crate::store::{Sighting, Store};

/// Its configuration, in its folder.
pub(super) const CONFIGURATION: &str = "gateway.toml";

/// Longest time from the start of a program to what it does first.
const START_TIMEOUT: Duration = Duration::from_secs(20);

/// Longest time from the end of a request to its log line.
const LINE_TIMEOUT: Duration = Duration::from_secs(5);

/// A gateway that serves; stopped, and its folder removed, when dropped.
pub(super) struct Gateway {
    /// Where its proxy listens.
    pub(super) proxy: SocketAddr,
    /// Where connectors dial in.
    pub(super) connectors: SocketAddr,
    process: Process,
}

/// What a gateway is started with.
pub(super) struct Setting<'a> {
    /// The files of its folder: [`CONFIGURATION`] and what that names.
    pub(super) files: &'a [(&'a str, &'a str)],
    /// What an earlier run of it has seen of names, and when (Unix seconds).
    pub(super) remembered: (&'a [Sighting], i64),
}

impl Gateway {
    /// Starts the gateway.
    ///
    /// # Errors
    /// Why it does not serve, with what it said itself.
    pub(super) async fn start(setting: &Setting<'_>) -> anyhow::Result<Self> {
        let folder = Folder::new().context("no temporary folder can be made")?;
        for (name, content) in setting.files {
            fs::write(folder.path().join(name), content)?;
        }
        let database = folder.path().join("state/gateway.db");
        let store = Store::open(&format!("sqlite:{}", database.display())).await;
        let store = store.with_context(|| format!("no database at {}", database.display()))?;
        let (remembered, at) = setting.remembered;
        store.remember(remembered, at).await?;
        store.close().await;
        let mut process = Process::start(folder, &["serve", "--config", CONFIGURATION])?;
        let connectors = listening(&mut process, "connectors").await?;
        let proxy = listening(&mut process, "proxy").await?;
        let started = |event: &Event| event.text("message") == Some("started");
        process.event(START_TIMEOUT, started).await.context("the gateway did not start")?;
        Ok(Self { proxy, connectors, process })
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
        let found = self.process.event(LINE_TIMEOUT, wanted).await;
        found.context("the gateway logged no event for this request")
    }

    /// Waits until it has said this.
    ///
    /// # Errors
    /// It did not in time.
    pub(super) async fn says(&mut self, message: &str) -> anyhow::Result<()> {
        let said = |event: &Event| event.text("message") == Some(message);
        self.process.event(START_TIMEOUT, said).await.map(drop)
    }

    /// Where its commands are run.
    pub(super) fn folder(&self) -> &Path {
        self.process.folder()
    }
}

/// Waits until a listener is there: its address.
async fn listening(process: &mut Process, listener: &str) -> anyhow::Result<SocketAddr> {
    let named = |event: &Event| {
        event.text("message") == Some("listening") && event.text("listener") == Some(listener)
    };
    let event = process.event(START_TIMEOUT, named).await;
    let event = event.with_context(|| format!("the gateway has no listener {listener}"))?;
    Ok(event.text("address").context("a listener without an address")?.parse()?)
}
