//! What the gateway tells: log events and metrics.
//!
//! Events go to standard error, one line each, written by a thread of their own: a request pays
//! for formatting its line and for handing it over, never for the write. The queue in between is
//! bounded, and a line that finds it full is dropped and counted ([`dropped_lines`]), so that a
//! reader that has stopped reading cannot stop the gateway.
//!
//! Events are tracing's. The one that every request writes goes past it where lines are JSON
//! ([`write_json`]), which is cheaper than tracing's visitor.

mod connectivity;
mod lines;
pub mod metrics;
#[cfg(test)]
pub(crate) mod tests;
mod tunnels;

pub use connectivity::Connectivity;
pub use tunnels::TunnelMetrics;

use std::{
    cell::RefCell,
    fmt::{self, Write as _},
    io::{self, IsTerminal as _},
    panic::{self, PanicHookInfo},
    sync::OnceLock,
    thread,
    time::Duration,
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize, Serializer};
use tracing::{Subscriber, level_filters::LevelFilter};
use tracing_subscriber::{
    Layer as _,
    field::MakeExt as _,
    filter::Targets,
    fmt::{MakeWriter, format},
    layer::SubscriberExt as _,
    registry,
};

use lines::Lines;

/// How log events are written: `telemetry.log`. Default `json`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// One JSON object a line: `timestamp` (RFC 3339, UTC, microseconds), `level`, `message`, and
    /// the event's own fields beside them.
    #[default]
    Json,
    /// One line for people, coloured when standard error is a terminal and `NO_COLOR` is not set.
    Pretty,
}

impl LogFormat {
    /// Both, in the order in which the contract names them.
    pub const ALL: [Self; 2] = [Self::Json, Self::Pretty];

    /// The word of configuration: `json`, `pretty`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Json => "json",
            Self::Pretty => "pretty",
        }
    }
}

/// Why logging could not be started.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// `RUST_LOG` does not parse.
    #[error("RUST_LOG is not a list of levels such as `info` or `info,hyper=debug`")]
    Filter(#[source] tracing_subscriber::filter::ParseError),
    /// `RUST_LOG` holds bytes that are not text.
    #[error("RUST_LOG is not valid UTF-8")]
    FilterNotText,
    /// [`init`] has been called before in this process.
    #[error("logging has been started before")]
    Started(#[source] tracing::subscriber::SetGlobalDefaultError),
    /// The thread that writes could not be started.
    #[error("the log's thread cannot be started")]
    Thread(#[source] io::Error),
}

/// Keeps logging alive. When it is dropped, the lines still in the queue are written (waiting at
/// most a second for a slow reader), and panics are printed as Rust does by default.
#[must_use = "logging ends when the guard is dropped"]
#[derive(Debug)]
pub struct Guard {
    lines: Lines,
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.lines.end(END_TIMEOUT);
        // Changing the hook is not allowed while panicking, and then the process ends anyway.
        if !thread::panicking() {
            drop(panic::take_hook());
        }
    }
}

/// Starts logging to standard error, and makes every panic an error event.
///
/// `RUST_LOG` sets the level, default `info`: a bare level holds for the gateway's own events, and
/// `module=level` for a dependency's. Dependencies stay at `info` unless they are named, because
/// at `debug` they write what they carry: header fields, names, key material.
///
/// # Errors
/// `RUST_LOG` does not parse, or logging has been started before.
pub fn init(log_format: LogFormat) -> Result<Guard, InitError> {
    let levels = levels(variable("RUST_LOG")?.as_deref().unwrap_or_default())?;
    // no-color.org: what counts is that it is there and not empty, whatever it says
    let no_color = !matches!(variable("NO_COLOR"), Ok(None));
    let colours = io::stderr().is_terminal() && !no_color;

    let lines = Lines::to(io::stderr()).map_err(InitError::Thread)?;
    let subscriber = subscriber(log_format, colours, levels, lines.clone());
    tracing::subscriber::set_global_default(subscriber).map_err(InitError::Started)?;
    // It cannot be set yet: only the one call that set the subscriber gets here.
    LOG.get_or_init(|| Log { lines: lines.clone(), log_format });
    panic::set_hook(Box::new(log_panic));
    Ok(Guard { lines })
}

/// Log lines dropped since the start: the queue was full, or standard error could not be written.
pub fn dropped_lines() -> u64 {
    LOG.get().map_or(0, |log| log.lines.dropped())
}

/// Writes an event as tracing would write it with the fields of `event` at level `INFO`, and
/// `false` where lines are not JSON. Whether that level is wanted is for the caller to ask.
pub fn write_json(time: Timestamp, message: &str, event: &impl Serialize) -> bool {
    let Some(Log { lines, log_format: LogFormat::Json }) = LOG.get() else { return false };
    // A thread that is ending has no buffer any more.
    let written = LINE.try_with(|line| {
        let mut line = line.try_borrow_mut().ok()?;
        json_line(&mut line, time, message, event).ok()?;
        lines.push(&line);
        Some(())
    });
    matches!(written, Ok(Some(())))
}

fn json_line(
    line: &mut Vec<u8>,
    time: Timestamp,
    message: &str,
    event: &impl Serialize,
) -> serde_json::Result<()> {
    line.clear();
    serde_json::to_writer(
        &mut *line,
        &JsonLine { timestamp: time, level: "INFO", message, event },
    )?;
    line.push(b'\n');
    Ok(())
}

/// The fields of a line in the order in which tracing writes them.
#[derive(Serialize)]
struct JsonLine<'a, E> {
    #[serde(serialize_with = "microseconds")]
    timestamp: Timestamp,
    level: &'static str,
    message: &'a str,
    #[serde(flatten)]
    event: &'a E,
}

fn microseconds<S: Serializer>(time: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("{time:.6}"))
}

thread_local! {
    /// What a thread formats its lines in.
    static LINE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Set once by [`init`]: there is one log a process.
static LOG: OnceLock<Log> = OnceLock::new();

struct Log {
    lines: Lines,
    log_format: LogFormat,
}

/// How long the end of the program waits for a slow reader of its lines.
const END_TIMEOUT: Duration = Duration::from_secs(1);

/// How long a panic waits for its line to be written: it may be the program's last.
const PANIC_TIMEOUT: Duration = Duration::from_millis(100);

/// A variable of the environment; an empty one counts as not set.
#[expect(
    clippy::disallowed_methods,
    reason = "RUST_LOG and NO_COLOR are conventions of their own, not the gateway's configuration"
)]
fn variable(name: &str) -> Result<Option<String>, InitError> {
    match std::env::var(name) {
        Ok(value) => Ok(Some(value).filter(|value| !value.is_empty())),
        Err(std::env::VarError::NotPresent) => Ok(None),
        Err(std::env::VarError::NotUnicode(_)) => Err(InitError::FilterNotText),
    }
}

/// Which events are written. The bare level of `rust_log` is the gateway's own; what is not named
/// is capped at `info`.
fn levels(rust_log: &str) -> Result<Targets, InitError> {
    // an empty item would be read as `error`
    let items: Vec<_> =
        rust_log.split(',').map(str::trim).filter(|item| !item.is_empty()).collect();
    let asked = match &*items {
        [] => Targets::new(),
        items => items.join(",").parse().map_err(InitError::Filter)?,
    };
    // `hyper=debug` alone names no bare level, and does not silence the gateway
    let own = asked.default_level().unwrap_or(LevelFilter::INFO);
    let others = own.min(LevelFilter::INFO);
    Ok(Targets::new().with_default(others).with_target(OWN_EVENTS, own).with_targets(asked.iter()))
}

/// The prefix of this crate's own event targets.
const OWN_EVENTS: &str = "egress_gateway";

fn subscriber<W>(
    log_format: LogFormat,
    colours: bool,
    levels: Targets,
    writer: W,
) -> impl Subscriber + Send + Sync
where
    W: for<'writer> MakeWriter<'writer> + Send + Sync + 'static,
{
    // `target` is a field of the canonical event; tracing's own of that name would be a second one
    let lines = tracing_subscriber::fmt::layer().with_writer(writer).with_target(false);
    let lines = match log_format {
        LogFormat::Json => lines
            .json()
            .flatten_event(true)
            .with_current_span(false)
            .with_span_list(false)
            .with_ansi(false)
            .boxed(),
        LogFormat::Pretty => lines
            .with_ansi(colours)
            .fmt_fields(format::debug_fn(write_field).delimited(" "))
            .boxed(),
    };
    registry().with(levels).with(lines)
}

/// One field of a line for people. Control characters are escaped, so that a value that came from
/// the network can neither begin a line of its own nor move the cursor.
fn write_field(
    writer: &mut format::Writer<'_>,
    field: &tracing::field::Field,
    value: &dyn fmt::Debug,
) -> fmt::Result {
    if field.name() == "message" {
        return write!(Visible(writer), "{value:?}");
    }
    let (dim, plain) = if writer.has_ansi_escapes() { ("\x1b[2m", "\x1b[0m") } else { ("", "") };
    write!(writer, "{dim}{field}={plain}")?;
    write!(Visible(writer), "{value:?}")
}

/// Writes control characters as Rust would write them in a string.
struct Visible<'a, W>(&'a mut W);

impl<W: fmt::Write> fmt::Write for Visible<'_, W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        text.chars().try_for_each(|character| {
            if character.is_control() {
                write!(self.0, "{}", character.escape_default())
            } else {
                self.0.write_char(character)
            }
        })
    }
}

fn log_panic(info: &PanicHookInfo<'_>) {
    let message = info.payload_as_str().unwrap_or("(no message)");
    let current = thread::current();
    let place = info.location().map(tracing::field::display);
    tracing::error!(thread = current.name(), place, "panic: {message}");
    if let Some(log) = LOG.get() {
        log.lines.flush(PANIC_TIMEOUT);
    }
}
