//! What a line looks like, which lines are written, and that none is lost at the end.

use std::{
    process::{Command, Stdio},
    sync::{Arc, Mutex},
};

use serde_json::Value;

use super::*;

/// Collects what is written.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

/// The lines that `events` leaves under a value of `RUST_LOG`.
fn logged(log_format: LogFormat, colours: bool, rust_log: &str, events: fn()) -> Vec<String> {
    let lines = Lines::default();
    let subscriber = subscriber(log_format, colours, levels(rust_log).unwrap(), lines.clone());
    tracing::subscriber::with_default(subscriber, events);
    let bytes = lines.0.lock().unwrap().clone();
    String::from_utf8(bytes).unwrap().lines().map(str::to_owned).collect()
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
    let parsed: jiff::Timestamp = text.parse().unwrap();
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
        for number in 0..1_000 {
            tracing::info!(number, "counted");
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
    assert_eq!(events.iter().filter(|event| event["message"] == "counted").count(), 1_000);
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
        for number in 0..2 * LINES_MAX {
            tracing::info!(number, "nobody reads this");
        }
        let dropped = dropped_lines();
        assert!(dropped > 0);
        let rendered = metrics::Metrics::new().unwrap().render().unwrap();
        assert!(rendered.contains(&format!("egress_log_lines_dropped_total {dropped}\n")));
        return;
    }
    let name = "a_reader_that_has_stopped_reading_costs_lines_and_nothing_else";
    let mut unread = child(name).stderr(Stdio::piped()).spawn().unwrap();
    assert!(unread.wait().unwrap().success());
}
