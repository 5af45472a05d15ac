//! What a line looks like, which lines are written, and that none is lost at the end.

use std::{
    process::{Command, Stdio},
    sync::{Arc, Mutex, mpsc},
};

use serde_json::Value;

use super::{lines::WAITING_BYTES_MAX, *};

/// Collects what is written.
#[derive(Clone, Default)]
struct Collected(Arc<Mutex<Vec<u8>>>);

impl io::Write for Collected {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Collected {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

/// What `events` leaves under a value of `RUST_LOG`.
fn written(log_format: LogFormat, colours: bool, rust_log: &str, events: impl FnOnce()) -> String {
    let lines = Collected::default();
    let subscriber = subscriber(log_format, colours, levels(rust_log).unwrap(), lines.clone());
    tracing::subscriber::with_default(subscriber, events);
    let bytes = lines.0.lock().unwrap().clone();
    String::from_utf8(bytes).unwrap()
}

fn logged(log_format: LogFormat, colours: bool, rust_log: &str, events: fn()) -> Vec<String> {
    written(log_format, colours, rust_log, events).lines().map(str::to_owned).collect()
}

/// A JSON line as [`write_json`] would write it, and what tracing makes of `traced`.
pub(crate) fn both_ways(
    time: Timestamp,
    message: &str,
    event: &impl Serialize,
    traced: impl FnOnce(),
) -> (String, String) {
    // whatever a buffer held before is gone
    let mut direct = b"before".to_vec();
    json_line(&mut direct, time, message, event).unwrap();
    (String::from_utf8(direct).unwrap(), written(LogFormat::Json, false, "", traced))
}

/// A JSON line behind its first field, the time.
pub(crate) fn without_time(line: &str) -> &str {
    let (time, rest) = line.split_once(',').unwrap();
    let time = time.strip_prefix("{\"timestamp\":\"").unwrap().strip_suffix('"').unwrap();
    let parsed: Timestamp = time.parse().unwrap();
    assert_eq!(format!("{parsed:.6}"), time);
    rest
}

fn json(log: &str, events: fn()) -> Vec<Value> {
    let lines = logged(LogFormat::Json, true, log, events);
    lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn a_json_line_holds_the_event_and_nothing_else() {
    let events = json("", || {
        let span = tracing::info_span!("request", inside = "a span");
        let _inside = span.enter();
        tracing::info!(
            target = "acme-jira",
            cause = Option::<&str>::None,
            bytes_sent = 12_u64,
            total_seconds = 0.25,
            reused = true,
            authority = %"jira.acme.example:443",
            "request"
        );
    });
    let [event] = &*events else { panic!("{events:?}") };
    let fields: Vec<_> = event.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(
        fields,
        [
            "authority",
            "bytes_sent",
            "level",
            "message",
            "reused",
            "target",
            "timestamp",
            "total_seconds"
        ]
    );
    assert_eq!(event["level"], "INFO");
    assert_eq!(event["message"], "request");
    assert_eq!(event["target"], "acme-jira");
    assert_eq!(event["bytes_sent"], 12);
    assert_eq!(event["total_seconds"], 0.25);
    assert_eq!(event["reused"], true);
}

#[test]
fn a_timestamp_is_rfc_3339_in_utc_with_microseconds() {
    let events = json("", || tracing::info!("now"));
    let text = events[0]["timestamp"].as_str().unwrap();
    let parsed: Timestamp = text.parse().unwrap();
    assert_eq!(format!("{parsed:.6}"), text);
}

#[test]
fn a_line_break_in_a_value_does_not_begin_a_line() {
    fn forge() {
        tracing::info!(method = %"GET\n{\"level\":\"INFO\"}\r", host = "a\u{1b}[2Jb", "x\ny");
    }
    for log_format in LogFormat::ALL {
        for colours in [false, true] {
            let lines = logged(log_format, colours, "", forge);
            assert_eq!(lines.len(), 1, "{lines:?}");
            assert!(!lines[0].contains("\u{1b}[2J"), "{lines:?}");
            assert!(!lines[0].contains('\r'), "{lines:?}");
        }
    }
}

#[test]
fn a_pretty_line_is_coloured_only_where_asked() {
    fn event() {
        tracing::warn!(target = "acme-jira", attempts = 3, "tunnel is down");
    }
    let plain = logged(LogFormat::Pretty, false, "", event);
    assert!(plain[0].contains(" WARN "), "{plain:?}");
    assert!(plain[0].ends_with("tunnel is down target=\"acme-jira\" attempts=3"), "{plain:?}");
    let coloured = logged(LogFormat::Pretty, true, "", event);
    assert!(coloured[0].contains('\u{1b}'), "{coloured:?}");
}

#[test]
fn dependencies_stay_at_info_unless_they_are_named() {
    fn own() {
        tracing::info!("own info");
        tracing::debug!("own debug");
        tracing::trace!("own trace");
    }
    fn events() {
        own();
        tracing::info!(target: "hyper::proto", "hyper info");
        tracing::debug!(target: "hyper::proto", "hyper debug");
        tracing::debug!(target: "hickory_proto", "hickory debug");
    }
    let messages = |log| -> Vec<String> {
        json(log, events).iter().map(|event| event["message"].as_str().unwrap().into()).collect()
    };
    assert_eq!(messages(""), ["own info", "hyper info"]);
    assert_eq!(messages("debug"), ["own info", "own debug", "hyper info"]);
    assert_eq!(messages("trace"), ["own info", "own debug", "own trace", "hyper info"]);
    assert_eq!(
        messages("debug,hyper=debug"),
        ["own info", "own debug", "hyper info", "hyper debug"]
    );
    assert_eq!(messages("hyper=debug"), ["own info", "hyper info", "hyper debug"]);
    assert_eq!(messages("egress_gateway=debug"), ["own info", "own debug", "hyper info"]);
    assert_eq!(messages("info,"), ["own info", "hyper info"]);
    assert_eq!(messages(" debug , hyper=warn"), ["own info", "own debug"]);
    assert_eq!(messages("error"), [""; 0]);
    assert_eq!(messages("off"), [""; 0]);
}

#[test]
fn a_bad_level_is_an_error_that_names_the_variable() {
    let error = levels("info,hyper=loud").unwrap_err();
    assert!(error.to_string().contains("RUST_LOG"), "{error}");
}

#[derive(Serialize)]
struct Counted {
    number: u64,
}

/// Set in the processes that the tests below start: logging is started once a process.
const CHILD: &str = "TELEMETRY_TEST_CHILD";

/// This program again, running one test of this file.
fn child(name: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "--nocapture", &format!("telemetry::tests::{name}")])
        .env(CHILD, "1")
        .env_remove("RUST_LOG")
        .stdout(Stdio::null());
    command
}

#[test]
fn every_line_is_written_before_the_end_and_a_panic_is_one_of_them() {
    if std::env::var_os(CHILD).is_some() {
        let guard = init(LogFormat::Json).unwrap();
        assert!(matches!(init(LogFormat::Json), Err(InitError::Started(_))));
        for number in 0..500 {
            tracing::info!(number, "counted");
            assert!(write_json(Timestamp::now(), "counted", &Counted { number: number + 500 }));
        }
        let worker = thread::Builder::new().name("worker".into());
        worker.spawn(|| panic!("out of\nluck")).unwrap().join().unwrap_err();
        assert_eq!(dropped_lines(), 0);
        drop(guard);
        return;
    }
    let name = "every_line_is_written_before_the_end_and_a_panic_is_one_of_them";
    let ended = child(name).output().unwrap();
    let lines = String::from_utf8(ended.stderr).unwrap();
    assert!(ended.status.success(), "{lines}");
    let events: Vec<Value> =
        lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let counted = events.iter().filter(|event| event["message"] == "counted");
    let numbers: Vec<_> = counted.map(|event| event["number"].as_u64().unwrap()).collect();
    let in_order: Vec<_> = (0..500).flat_map(|number| [number, number + 500]).collect();
    assert_eq!(numbers, in_order);
    let panics: Vec<_> = events.iter().filter(|event| event["level"] == "ERROR").collect();
    let [panic] = &*panics else { panic!("{panics:?}") };
    assert_eq!(panic["message"], "panic: out of\nluck");
    assert_eq!(panic["thread"], "worker");
    assert!(panic["place"].as_str().unwrap().contains("telemetry/tests.rs:"), "{panic}");
}

#[test]
fn a_reader_that_has_stopped_reading_costs_lines_and_nothing_else() {
    if std::env::var_os(CHILD).is_some() {
        let _guard = init(LogFormat::Json).unwrap();
        // what waits, as much in the thread's hands, and what a pipe holds
        let held = 2 * WAITING_BYTES_MAX + 1024 * 1024;
        let long = "nobody reads this ".repeat(100);
        for _ in 0..held / long.len() {
            tracing::info!("{long}");
        }
        for number in 0..100 {
            assert!(write_json(Timestamp::now(), "request", &Counted { number }));
        }
        let dropped = dropped_lines();
        assert!(dropped > 100, "{dropped}");
        let rendered = metrics::Metrics::new().unwrap().render().unwrap();
        assert!(rendered.contains(&format!("egress_log_lines_dropped_total {dropped}\n")));
        return;
    }
    let name = "a_reader_that_has_stopped_reading_costs_lines_and_nothing_else";
    let mut unread = child(name).stderr(Stdio::piped()).spawn().unwrap();
    assert!(unread.wait().unwrap().success());
}

/// A writer whose every write is told about, and waits until it may go on.
struct Gate {
    writes: mpsc::Sender<Vec<u8>>,
    go_on: mpsc::Receiver<()>,
}

impl io::Write for Gate {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.writes.send(bytes.to_vec()).unwrap();
        self.go_on.recv().map_err(|_| io::ErrorKind::BrokenPipe)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn gated() -> (Lines, mpsc::Receiver<Vec<u8>>, mpsc::Sender<()>) {
    let (tell, writes) = mpsc::channel();
    let (go, go_on) = mpsc::channel();
    (Lines::to(Gate { writes: tell, go_on }).unwrap(), writes, go)
}

#[test]
fn lines_that_come_while_others_are_written_are_one_write() {
    let (lines, writes, go) = gated();
    lines.push(b"first\n");
    assert_eq!(writes.recv().unwrap(), b"first\n");
    for _ in 0..1_000 {
        lines.push(b"next\n");
    }
    go.send(()).unwrap();
    assert_eq!(writes.recv().unwrap(), b"next\n".repeat(1_000));
    go.send(()).unwrap();
    lines.push(b"last\n");
    assert_eq!(writes.recv().unwrap(), b"last\n");
}

#[test]
fn what_cannot_be_written_is_counted_line_by_line() {
    let (lines, writes, go) = gated();
    lines.push(b"one\n");
    writes.recv().unwrap();
    lines.push(b"two\n");
    lines.push(b"three\n");
    assert_eq!(lines.dropped(), 0);
    drop(go);
    lines.end(Duration::from_secs(60));
    assert_eq!(lines.dropped(), 3);
    lines.push(b"nobody writes any more\n");
    assert_eq!(lines.dropped(), 4);
}

#[test]
fn a_line_without_room_is_dropped_whole_and_a_shorter_one_is_not() {
    let (lines, writes, go) = gated();
    lines.push(b"held\n");
    writes.recv().unwrap();
    lines.push(&vec![b'x'; WAITING_BYTES_MAX - 2]);
    lines.push(b"abc");
    assert_eq!(lines.dropped(), 1);
    lines.push(b"ab");
    assert_eq!(lines.dropped(), 1);
    go.send(()).unwrap();
    let batch = writes.recv().unwrap();
    assert_eq!(batch.len(), WAITING_BYTES_MAX);
    assert!(batch.ends_with(b"xab"));
}

#[test]
fn a_flush_waits_for_the_write_but_not_for_ever() {
    let (lines, writes, go) = gated();
    lines.push(b"slow\n");
    lines.flush(Duration::ZERO);
    assert_eq!(writes.recv().unwrap(), b"slow\n");
    lines.flush(Duration::from_millis(1));
    go.send(()).unwrap();
    // with nothing left to write it does not wait either
    for _ in 0..2 {
        lines.flush(Duration::from_secs(3_600));
    }
    drop(go);
}
