//! `docs/api.md`: every example, run as it is written, answers what the page shows.

use crate::support::{
    lab::{self, PUBLIC, PUBLIC_2},
    origin::{Origin, ok},
    within,
};
use serde_json::Value;
use std::{path::Path, process::Command};

const TOKEN: &str = "an-operators-token-7d1c";

/// The page's fenced blocks: their kind and text.
fn blocks() -> Vec<(String, String)> {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/api.md");
    let page = std::fs::read_to_string(page).unwrap();
    let mut blocks = Vec::new();
    for (number, part) in page.split("```").enumerate() {
        if number % 2 == 1 {
            let (kind, text) = part.split_once('\n').unwrap();
            blocks.push((kind.to_owned(), text.to_owned()));
        }
    }
    blocks
}

/// Whether an answer has everything that is shown.
fn shows(answer: &Value, shown: &Value) -> bool {
    match (answer, shown) {
        (Value::Object(answer), Value::Object(shown)) => shown
            .iter()
            .all(|(key, value)| answer.get(key).is_some_and(|found| shows(found, value))),
        (Value::Array(answer), Value::Array(shown)) => {
            answer.len() == shown.len()
                && answer.iter().zip(shown).all(|(one, other)| shows(one, other))
        }
        _ => answer == shown,
    }
}

#[test]
fn every_example_of_the_page_answers_what_it_shows() {
    lab::run(async |lab| {
        let ca = lab.ca("page-ca");
        let names = ["jira.acme.example", "hooks.acme.example"];
        for (name, address) in names.into_iter().zip([PUBLIC, PUBLIC_2]) {
            lab.dns.addresses(name, &[address]);
        }
        let tls = ca.server(&names).server_config();
        let _jira = Origin::start((PUBLIC, 443), Some(std::sync::Arc::clone(&tls)), |_| ok("{}"));
        let _hooks = Origin::start((PUBLIC_2, 443), Some(tls), |_| ok("{}"));
        let token = lab.secret("token", TOKEN);
        let tokens = format!(
            "[{{ name = \"sre\", role = \"operate\", token = {{ file = \"{}\" }} }}]",
            token.display()
        );
        let config = lab
            .config()
            .trusting(&ca)
            // The page is about the defaults; this network is the test's own.
            .set_toml("admin.listen", "[\"127.0.0.1:9128\"]")
            .set_toml("admin.tokens", &tokens)
            .set("store.key", lab.store_key(7));
        let _gateway = lab.gateway(&config).await;
        let program = Path::new(env!("CARGO_BIN_EXE_egress-gateway")).parent().unwrap();
        let path = format!("{}:{}", program.display(), std::env::var("PATH").unwrap());
        let blocks = blocks();
        let (kind, setup) = &blocks[0];
        assert_eq!(kind, "sh");
        let (mut ran, mut compared, mut said) = (0, 0, String::new());
        for (kind, text) in &blocks[1..] {
            if kind == "json" {
                // The last line is the last command's answer.
                let last = said.lines().last().unwrap_or_default();
                let last = last.rfind("}{").map_or(last, |at| &last[at + 1..]);
                let answer = serde_json::from_str(last).unwrap_or_else(|_| panic!("{said}"));
                let shown = serde_json::from_str(text).unwrap();
                assert!(shows(&answer, &shown), "{answer:#} is not {shown:#}");
                compared += 1;
                continue;
            }
            let mut command = Command::new("bash");
            command
                .args(["-euo", "pipefail", "-c", &format!("{setup}{text}")])
                .current_dir(lab.dir())
                .env_clear()
                .env("PATH", &path)
                .env("EGRESS_ADMIN_TOKEN", TOKEN);
            let output = tokio::task::spawn_blocking(move || command.output().unwrap());
            let output = within("the example", output).await.unwrap();
            said = String::from_utf8(output.stdout).unwrap();
            let error = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{text}\n{said}\n{error}");
            ran += 1;
        }
        assert_eq!((ran, compared), (11, 9));
    });
}
