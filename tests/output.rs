//! Every command's output, where nobody reads it and where it cannot be written.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::{
    fs::File,
    path::Path,
    process::{Command, Output, Stdio},
};

/// A command, its words, and its exit code.
const COMMANDS: &[(&[&str], i32)] = &[
    (&["openapi"], 0),
    (&["completions", "bash"], 0),
    (&["config", "check", "--config", "gateway.toml"], 0),
    (&["config", "check", "--config", "wrong.toml"], 2),
    (&["explain", "--offline", "--config", "gateway.toml", "jira.acme.example:443"], 0),
    (&["explain", "--offline", "--json", "--config", "gateway.toml", "other.example:443"], 1),
    (&["check", "--config", "gateway.toml", "acme"], 1),
    (&["check", "--json", "--config", "gateway.toml", "acme"], 1),
    (&["sign", "--secret-file", "secret", "body.json"], 0),
    (&["sign", "--json", "--secret-file", "secret", "body.json"], 0),
    // The body's own timestamp is meant, however old it is.
    (&["sign", "--secret-file", "secret", "old.json"], 0),
    (&["connector", "token", "acme", "--config", "gateway.toml"], 0),
    (&["connector", "list", "--json", "--config", "gateway.toml"], 0),
    (&["connector", "revoke", "acme", "--config", "gateway.toml"], 1),
    (&["wireguard", "pubkey", "--private-key-file", "wireguard.key"], 0),
    (&["store", "rotate-key", "--config", "gateway.toml"], 0),
    (&["health", "--url", "http://127.0.0.1:9/readyz"], 1),
];

/// A folder with what the commands read.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let files = [
        (
            "gateway.toml",
            "[dns]\nservers = [\"127.0.0.1:9\"]\n[policy]\nallow_loopback = true\n\
             [connectors]\nlisten = [\"127.0.0.1:7443\"]\n\
             [tunnels.acme]\nurl = \"connector:acme\"\n\
             [store]\nkey = { file = \"store.key\" }\n\
             [[targets]]\nid = \"acme\"\nprovider_key = \"jira_data_center\"\n\
             deployment_mode = \"self-hosted\"\nbase_url = \"https://jira.acme.example\"\n\
             ownership = \"confirmed\"\n",
        ),
        ("wrong.toml", "nonsense = 1\n"),
        ("secret", "an-old-secret-of-forty-characters-or-so"),
        ("body.json", "{}"),
        ("old.json", "{\"replay_protection\": {\"timestamp\": 1790000000}}"),
        ("wireguard.key", "dwdtCnMYpX08FsFyUbJmRd9ML4frwJkqsXf7pR25LCo=\n"),
        ("store.key", "0101010101010101010101010101010101010101010101010101010101010101"),
    ];
    for (name, content) in files {
        std::fs::write(folder.path().join(name), content).unwrap();
    }
    // the store that some of them look into
    let token = ["connector", "token", "acme", "--config", "gateway.toml"];
    assert!(run(folder.path(), &token, Stdio::null(), Stdio::null()).status.success());
    folder
}

fn run(folder: &Path, words: &[&str], stdout: Stdio, stderr: Stdio) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_egress-gateway"));
    command.args(words).current_dir(folder).env_remove("RUST_BACKTRACE").stdin(Stdio::null());
    command.stdout(stdout).stderr(stderr).output().unwrap()
}

/// The end of a pipe from which nobody reads.
fn closed() -> Stdio {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    writer.into()
}

#[test]
fn a_command_whose_reader_has_left_ends_as_it_would_have() {
    let folder = folder();
    for (words, code) in COMMANDS {
        let read = run(folder.path(), words, Stdio::piped(), Stdio::piped());
        assert_eq!(read.status.code(), Some(*code), "{words:?}: {read:?}");
        for stderr in [Stdio::piped(), closed()] {
            let output = run(folder.path(), words, closed(), stderr);
            assert_eq!(output.status.code(), Some(*code), "{words:?}: {output:?}");
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(!said.contains("panicked") && !said.contains("pipe"), "{words:?}: {said}");
        }
    }
}

#[test]
fn a_result_that_cannot_be_written_is_a_failure() {
    let folder = folder();
    let mut seen = 0;
    for (words, _) in COMMANDS.iter().filter(|(_, code)| *code == 0) {
        let full = File::options().write(true).open("/dev/full").unwrap();
        let output = run(folder.path(), words, full.into(), Stdio::piped());
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{words:?}: {said}");
        assert!(said.contains("standard output"), "{words:?}: {said}");
        seen += 1;
    }
    assert_eq!(seen, 11);
}
