//! `explain`: the decision for one request, told by the real program. Only literals and `--offline`
//! are asked for, so that nothing is sent, not even DNS.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test may panic")]

use std::{
    path::Path,
    process::{Command, Output},
};

const CONFIG: &str = r#"
[policy]
allow_loopback = true

[dns]
servers = ["127.0.0.1:9"]

[[clients]]
name = "app"
token = { file = "token" }
targets = ["open-*"]

[[targets]]
id = "open-origin"
provider_key = "jira_data_center"
deployment_mode = "self-hosted"
base_url = "https://127.0.0.1:8443"
private_network_policy = "direct"
private_network_allowlist = ["127.0.0.0/8"]

[[targets]]
id = "closed-origin"
provider_key = "jira_data_center"
deployment_mode = "self-hosted"
base_url = "https://10.20.0.5"

[[targets]]
id = "open-metadata"
provider_key = "jira_data_center"
deployment_mode = "self-hosted"
base_url = "https://169.254.169.254"
private_network_policy = "direct"
private_network_allowlist = ["169.254.0.0/16"]

[[targets]]
id = "open-path"
provider_key = "jira_data_center"
deployment_mode = "self-hosted"
base_url = "https://jira.acme.example/jira"
"#;

fn explain(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_egress-gateway"))
        .args(["explain", "--config", "gateway.toml"])
        .args(arguments)
        .current_dir(folder)
        .output()
        .unwrap()
}

/// Exit code, cause and verdicts that `--json` tells.
fn told(folder: &Path, arguments: &[&str]) -> (i32, Option<String>, serde_json::Value) {
    let output = explain(folder, &[&["--json"], arguments].concat());
    let json: serde_json::Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|_| panic!("{arguments:?}: {}", String::from_utf8_lossy(&output.stderr)));
    let cause = json.get("cause").and_then(|cause| cause.as_str()).map(ToOwned::to_owned);
    (output.status.code().unwrap(), cause, json)
}

fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("gateway.toml"), CONFIG).unwrap();
    std::fs::write(folder.path().join("token"), "a-token-of-the-test").unwrap();
    folder
}

#[test]
fn each_decision_is_told_with_its_cause_and_exit_code() {
    let folder = folder();
    let rows: &[(&[&str], i32, Option<&str>)] = &[
        (&["127.0.0.1:8443"], 0, None),
        (&["--client", "app", "127.0.0.1:8443"], 0, None),
        (&["--client", "nobody", "127.0.0.1:8443"], 1, Some("client_unauthenticated")),
        (&["--client", "app", "10.20.0.5:443"], 1, Some("client_forbidden")),
        (&["10.20.0.5:443"], 1, Some("address_private")),
        (&["169.254.169.254:443"], 1, Some("address_forbidden")),
        (&["10.20.0.6:443"], 1, Some("no_target")),
        (&["--target", "open-origin", "10.20.0.5:443"], 1, Some("target_mismatch")),
        (&["--offline", "jira.acme.example:443"], 1, Some("connect_not_allowed")),
        // A URL is asked for as such, unless CONNECT is meant.
        (&["--offline", "https://jira.acme.example/jira/x"], 0, None),
        (&["--offline", "/targets/open-path/x"], 0, None),
        (&["--offline", "https://jira.acme.example/other"], 1, Some("outside_base_path")),
        (
            &["--offline", "--method", "CONNECT", "https://jira.acme.example/jira/x"],
            1,
            Some("connect_not_allowed"),
        ),
        (&["--offline", "--method", "GET", "https://jira.acme.example/jira/x"], 0, None),
        (
            &["--offline", "--method", "GET", "https://jira.acme.example/other"],
            1,
            Some("outside_base_path"),
        ),
    ];
    for (arguments, code, cause) in rows {
        let (exit, told_cause, json) = told(folder.path(), arguments);
        assert_eq!((exit, told_cause.as_deref()), (*code, *cause), "{arguments:?}: {json}");
        let refused = json["rules"].as_array().unwrap().iter();
        let refused = refused.filter(|rule| rule["verdict"] == "refused").count();
        assert_eq!(refused, usize::from(*code == 1), "{arguments:?}: {json}");
    }
}

#[test]
fn an_address_is_told_with_its_class_its_source_and_the_pin() {
    let folder = folder();
    let (_, _, allowed) = told(folder.path(), &["127.0.0.1:8443"]);
    assert_eq!(allowed["decision"], "allowed");
    assert_eq!(allowed["target_id"], "open-origin");
    assert_eq!(
        (&allowed["pinned"], &allowed["route"]),
        (&"127.0.0.1:8443".into(), &"direct".into())
    );
    let (_, _, refused) = told(folder.path(), &["169.254.169.254:443"]);
    let address = &refused["addresses"][0];
    assert_eq!((&address["class"], &address["verdict"]), (&"forbidden".into(), &"refused".into()));
    assert!(address["source"].as_str().unwrap().contains("metadata"), "{address}");
    assert_eq!(refused["code"], "SELF_HOSTED_BASE_URL_UNSAFE");
    assert_eq!(refused["pinned"], serde_json::Value::Null);
}

#[test]
fn what_cannot_be_asked_is_wrong_usage_and_nothing_is_left_behind() {
    let folder = folder();
    for wrong in [&["user@127.0.0.1:8443"][..], &["127.0.0.1"], &["0x7f.1:443"]] {
        assert_eq!(explain(folder.path(), wrong).status.code(), Some(2), "{wrong:?}");
    }
    explain(folder.path(), &["127.0.0.1:8443"]);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2, "state was made");
}
