//! This very program as a child with other arguments, in a folder that goes with it.

use std::{
    collections::VecDeque,
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Child, ChildStderr, Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context as _, anyhow, bail, ensure};
use serde_json::Value;
use tokio::{sync::mpsc, task::spawn_blocking, time::timeout};

use super::folder::Folder;

/// Log lines that may wait to be looked at.
const LINES_MAX: usize = 1024;

/// Last lines of a child that has ended too early, which say why.
const LAST_LINES: usize = 8;

/// A line of the log.
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

/// A running child; killed, and its folder removed, when dropped. The fields are in the order in
/// which they have to go.
pub(super) struct Process {
    child: Child,
    lines: mpsc::Receiver<String>,
    last: VecDeque<String>,
    folder: Folder,
}

impl Process {
    /// Starts it.
    ///
    /// # Errors
    /// It cannot be started.
    pub(super) fn start(folder: Folder, arguments: &[&str]) -> anyhow::Result<Self> {
        let mut command = program(folder.path(), arguments)?;
        let mut child = command.stdout(Stdio::null()).spawn().context("no child can be started")?;
        let (sender, lines) = mpsc::channel(LINES_MAX);
        let log = child.stderr.take();
        let process = Self { child, lines, last: VecDeque::new(), folder };
        let log = log.context("the child has no standard error")?;
        // Ends with the pipe, and that with the child.
        thread::Builder::new().name("log".to_owned()).spawn(move || read(log, &sender))?;
        Ok(process)
    }

    /// Where it works.
    pub(super) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The next line of its log that is wanted, for which the others are left out.
    ///
    /// # Errors
    /// There was none in time, or it has ended; with what it said last.
    pub(super) async fn event(
        &mut self,
        limit: Duration,
        wanted: impl Fn(&Event) -> bool,
    ) -> anyhow::Result<Event> {
        let found = async {
            while let Some(line) = self.lines.recv().await {
                self.last.push_back(line.clone());
                if self.last.len() > LAST_LINES {
                    self.last.pop_front();
                }
                if let Some(event) = Event::parse(line).filter(|event| wanted(event)) {
                    return Ok(event);
                }
            }
            bail!("it has ended")
        };
        let found = timeout(limit, found).await;
        found.unwrap_or_else(|_| Err(anyhow!("it did not come in {limit:?}"))).with_context(|| {
            let last: Vec<_> = self.last.iter().map(String::as_str).collect();
            format!("the log of a child lacks a line; it ends with\n{}\n", last.join("\n"))
        })
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself. What it keeps survives this, and is removed next anyway.
        let _ignored = self.child.kill();
        let _ignored = self.child.wait();
    }
}

/// Runs it to its end, in a folder; what it prints. Its own limits end it.
///
/// # Errors
/// It failed, with what it said.
pub(super) async fn output(folder: &Path, arguments: &[&str]) -> anyhow::Result<String> {
    let mut command = program(folder, arguments)?;
    let output = spawn_blocking(move || command.output()).await??;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{} failed: {said}", arguments.join(" "));
    Ok(String::from_utf8(output.stdout)?)
}

fn program(folder: &Path, arguments: &[&str]) -> anyhow::Result<Command> {
    let program = std::env::current_exe().context("this program cannot be found")?;
    let mut command = Command::new(program);
    // Nothing of the surroundings may change what is shown: no EGRESS_…, no RUST_LOG, no sockets or
    // watchdog of a service manager.
    command.args(arguments).current_dir(folder).env_clear();
    command.stdin(Stdio::null()).stderr(Stdio::piped());
    Ok(command)
}

fn read(log: ChildStderr, sender: &mpsc::Sender<String>) {
    for line in BufReader::new(log).lines() {
        let Ok(line) = line else { return };
        if sender.blocking_send(line).is_err() {
            return;
        }
    }
}
