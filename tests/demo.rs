//! `demo`: shows every decision, checks itself, and leaves nothing behind.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::{
    fs,
    io::Read as _,
    path::Path,
    process::{Command, Output, Stdio},
};

const PROGRAM: &str = env!("CARGO_BIN_EXE_egress-gateway");

/// What each scene has to show, in order.
const OUTCOMES: &[(&str, &str)] = &[
    ("200", "allowed"),
    ("GATEWAY_CLIENT_UNAUTHENTICATED", "client_unauthenticated"),
    ("SELF_HOSTED_BASE_URL_UNSAFE", "no_target"),
    ("GATEWAY_CLIENT_FORBIDDEN", "client_forbidden"),
    ("SELF_HOSTED_BASE_URL_UNSAFE", "connect_not_allowed"),
    ("SELF_HOSTED_DNS_FAILED", "dns_nxdomain"),
    ("SELF_HOSTED_BASE_URL_UNSAFE", "dns_rebinding"),
    ("SELF_HOSTED_BASE_URL_UNSAFE", "dns_rebinding"),
    ("SELF_HOSTED_PRIVATE_NETWORK_REJECTED", "address_private"),
    ("SELF_HOSTED_BASE_URL_UNSAFE", "address_forbidden"),
    ("SELF_HOSTED_CONNECTIVITY_BLOCKED", "connect_refused"),
    ("SELF_HOSTED_BASE_URL_UNSAFE", "sni_mismatch"),
    ("200", "delivered"),
    ("200", "replayed"),
    ("SELF_HOSTED_BASE_URL_UNSAFE", "redirect_blocked"),
    ("SELF_HOSTED_TLS_INVALID", "tls_expired"),
    ("200", "wiki"),
    ("200", "docs"),
    ("200", "builds"),
    ("200", "desk"),
    ("SELF_HOSTED_TUNNEL_UNREACHABLE", "tunnel_unreachable"),
    ("SELF_HOSTED_TUNNEL_UNREACHABLE", "tunnel_unreachable"),
];

/// The private hosts, the tunnel that each is behind, and the address that this is asked for.
const TUNNELS: &[(&str, &str, &str)] = &[
    ("wiki", "acme-socks5", "10.20.0.9"),
    ("docs", "acme-proxy", "10.20.0.9"),
    ("builds", "acme-wireguard", "10.20.0.9"),
    ("desk", "acme-connector", "127.0.0.9"),
];

/// The demo in a folder of its own, with another one for temporary files.
struct Place {
    work: tempfile::TempDir,
    temporary: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let folder = || tempfile::tempdir().unwrap();
        Self { work: folder(), temporary: folder() }
    }

    fn demo(&self) -> Command {
        self.command(PROGRAM, &["demo"])
    }

    fn command(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.args(arguments).current_dir(self.work.path()).env("TMPDIR", self.temporary.path());
        command
    }

    /// No file is left in either folder, and no process works in one.
    fn assert_left_clean(&self) {
        for folder in [self.work.path(), self.temporary.path()] {
            let left: Vec<_> =
                fs::read_dir(folder).unwrap().map(|one| one.unwrap().path()).collect();
            assert!(left.is_empty(), "{left:?}");
        }
        for process in fs::read_dir("/proc").unwrap() {
            let folder = fs::read_link(process.unwrap().path().join("cwd")).unwrap_or_default();
            assert!(!folder.starts_with(self.temporary.path()), "{}", folder.display());
        }
    }
}

fn text(output: &Output) -> String {
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// The part of the output that belongs to a scene, from 1.
fn scene(text: &str, number: usize) -> &str {
    let (_, from) = text.split_once(&format!("\n{number}. ")).unwrap();
    from.split_once("\n\n").unwrap().0
}

#[test]
fn every_decision_is_shown_as_announced_with_the_gateways_own_log_line() {
    let place = Place::new();
    let output = place.demo().output().unwrap();
    let text = text(&output);
    assert_eq!(output.status.code(), Some(0), "{text}");
    for (number, (code, cause)) in (1..).zip(OUTCOMES) {
        let scene = scene(&text, number);
        let log = scene.lines().find_map(|line| line.trim().strip_prefix("log ")).unwrap();
        let log: serde_json::Value = serde_json::from_str(log).unwrap();
        let shows = match *cause {
            "allowed" => ["TLSv1.3, 200, jira.acme.example received GET", "was reached"],
            "delivered" => ["the signature verifies; ticket.created is taken", "was asked once"],
            "replayed" => ["200, with X-WebRiskOps-Replayed: true", "was not asked again"],
            "redirect_blocked" => ["to https://files.unknown.example\n", "went no further"],
            "tls_expired" => ["old.acme.example expired on 2020", "no request reached"],
            "wiki" | "docs" | "builds" | "desk" => ["TLSv1.3, 200, ", "was reached"],
            _ => ["", "not a byte reached the receiver"],
        };
        for text in shows {
            assert!(scene.contains(text), "{text}: {scene}");
        }
        if *code == "200" {
            assert_eq!(log["decision"], "allowed", "{scene}");
            let (pinned, _) = log["pinned"].as_str().unwrap_or_default().rsplit_once(':').unzip();
            let tunnel = TUNNELS.iter().find(|(host, ..)| host == cause);
            let Some((host, route, address)) = tunnel else {
                assert!(log["route"] == "direct" || *cause == "replayed", "{scene}");
                continue;
            };
            assert_eq!((log["route"].as_str(), pinned), (Some(*route), Some(*address)), "{scene}");
            assert!(
                scene.contains(&format!("{host}.acme.example received GET /{host}")),
                "{scene}"
            );
            continue;
        }
        assert_eq!((&log["code"], &log["cause"]), (&(*code).into(), &(*cause).into()));
        // In a tunnel that is cut only the log can say why.
        if *cause != "sni_mismatch" {
            for text in [&format!("{code} ({cause})"), "owner: ", "next step: "] {
                assert!(scene.contains(text), "{text}: {scene}");
            }
        }
    }
    let count = OUTCOMES.len();
    assert!(text.contains(&format!("\nAll {count} as announced, in ")), "{text}");
    place.assert_left_clean();
}

#[test]
fn neither_a_token_nor_colours_are_printed_into_a_pipe() {
    let place = Place::new();
    let text = text(&place.demo().output().unwrap());
    assert!(text.contains("$TOKEN"));
    assert!(!text.contains('\x1b'));
    // The token is 32 hexadecimal digits; in a Basic credential it stands behind "demo:".
    let runs = text.split(|character: char| !character.is_ascii_hexdigit());
    assert_eq!(runs.filter(|run| run.len() >= 32).count(), 0, "{text}");
    assert!(!text.contains("ZGVtbzp") && !text.contains("ZGVtbzo"), "{text}");
}

#[test]
fn nothing_of_the_surroundings_changes_it() {
    let place = Place::new();
    fs::create_dir(place.work.path().join("config")).unwrap();
    fs::write(place.work.path().join("config/gateway.toml"), "this is no configuration").unwrap();
    let mut demo = place.demo();
    for (name, value) in [
        ("EGRESS_PROXY__LISTEN", "nonsense"),
        ("EGRESS_STATE_DIR", "/nowhere"),
        ("RUST_LOG", "off"),
        ("HTTPS_PROXY", "http://127.0.0.1:1"),
        ("LISTEN_FDS", "1"),
        ("NOTIFY_SOCKET", "/nowhere"),
    ] {
        demo.env(name, value);
    }
    let output = demo.output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
}

#[test]
fn a_reader_may_leave_early() {
    let place = Place::new();
    let mut child = place.demo().stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let mut errors = String::new();
    child.stderr.take().unwrap().read_to_string(&mut errors).unwrap();
    assert_eq!(errors, "");
    assert_eq!(child.wait().unwrap().code(), Some(0));
    place.assert_left_clean();
}

#[test]
fn output_that_cannot_be_written_is_a_failure() {
    let place = Place::new();
    let full = fs::File::options().write(true).open(Path::new("/dev/full")).unwrap();
    let output = place.demo().stdout(full).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("standard output"), "{output:?}");
}

#[test]
fn a_signal_ends_it_with_everything_that_it_started() {
    // The shell waits for the demo's folder, and for the gateway that works in it: it is there long
    // before it serves.
    const SCRIPT: &str = r#"
        "$1" demo >/dev/null & demo=$!
        until set -- "$TMPDIR"/*; [ -e "$1" ]; do :; done
        until for process in /proc/[0-9]*; do
            [ "$process/cwd" -ef "$1" ] && break
        done; do :; done
        kill -s "$SIGNAL" "$demo"
        wait "$demo""#;
    for (signal, code) in [("INT", 130), ("TERM", 143), ("HUP", 129)] {
        let place = Place::new();
        let mut shell = place.command("sh", &["-c", SCRIPT, "sh", PROGRAM]);
        let output = shell.env("SIGNAL", signal).output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{signal} {output:?}");
        place.assert_left_clean();
    }
}
