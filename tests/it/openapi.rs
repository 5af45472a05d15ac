//! The admin API keeps to its own document: schemathesis makes up requests from it and judges the
//! answers of the real program.

use crate::support::{lab, within};
use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
    time::Duration,
};

const TOKEN: &str = "an-operators-token-7d1c";

/// The stream of decisions ends only with the gateway; its own tests read it.
const ENDLESS: &str = "/v1/decisions/stream";

/// What is judged: nothing breaks, and status, media type and form are as documented.
const CHECKS: [&str; 4] = [
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
];

/// Requests made up for each route; more find nothing that these do not.
const EXAMPLES: &str = "20";

/// How long it may take on a loaded machine; a few seconds on an idle one.
const BOUND: Duration = Duration::from_secs(50);

/// Where `tests/run` puts it.
fn schemathesis() -> PathBuf {
    let place =
        Path::new(env!("CARGO_TARGET_TMPDIR")).join("clients/schemathesis/bin/schemathesis");
    assert!(place.exists(), "{} is missing: tests/run installs it", place.display());
    place
}

async fn run(mut command: Command) -> Output {
    let output = tokio::task::spawn_blocking(move || command.output().unwrap());
    tokio::time::timeout(BOUND, output).await.expect("schemathesis ends").unwrap()
}

#[test]
fn every_answer_is_one_that_the_document_knows() {
    lab::run(async |lab| {
        lab.dns.addresses("acme.example", &[lab::PUBLIC]);
        let token = lab.secret("admin-token", TOKEN);
        let tokens = format!(
            "[{{ name = \"sre\", role = \"operate\", token = {{ file = \"{}\" }} }}]",
            token.display()
        );
        let config = lab
            .config()
            .set_toml("admin.tokens", &tokens)
            .self_hosted("acme", "https://acme.example");
        let gateway = lab.gateway(&config).await;
        for authority in ["acme.example:443", "evil.example:443"] {
            gateway.connect(authority).await;
        }
        let mut command = Command::new(schemathesis());
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap())
            .env("HOME", lab.dir())
            .current_dir(lab.dir())
            .args(["run", &format!("http://{}/openapi.json", gateway.admin)])
            .args(["--header", &format!("Authorization: Bearer {TOKEN}")])
            .args(["--checks", &CHECKS.join(",")])
            .args(["--exclude-path", ENDLESS])
            .args(["--max-examples", EXAMPLES])
            .args(["--seed", "1"])
            .args(["--request-timeout", "10"]);
        let output = run(command).await;
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
        let document = within(
            "the document",
            gateway.admin_with("/openapi.json", &[("Authorization", &format!("Bearer {TOKEN}"))]),
        )
        .await
        .json();
        let paths = document["paths"].as_object().unwrap();
        let operations: usize = paths.values().map(|item| item.as_object().unwrap().len()).sum();
        // All but the endless one, and the document itself, which is where it was loaded from.
        let tested = format!("Tested: {}", operations - 2);
        assert!(said.contains(&tested), "not {tested}: {said}");
    });
}
