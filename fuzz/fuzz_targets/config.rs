//! Configuration files: no panic, each problem one plain line, and none that shows a secret.
#![no_main]

use egress_gateway::config::check_text;
use libfuzzer_sys::fuzz_target;

/// What stands in the files and the variable that a text may refer to, or parts of it.
const REFERRED: [&str; 3] = ["0123456789abcdef", "0f0f0f0f", "AAAAAAAAAAAA"];

/// What an operator wrote in clear by mistake; with it, no text is valid.
const WRITTEN: &str = "hunter2hunter2hunter2";
const MISTAKES: &str = r#"
[[clients]]
name = "in-clear"
token = "hunter2hunter2hunter2"

[[targets]]
id = "in-clear"
provider_key = "jira_data_center"
deployment_mode = "self-hosted"
base_url = "https://user:hunter2hunter2hunter2@jira.acme.example/?token=hunter2hunter2hunter2"
signing_secret = "hunter2hunter2hunter2"
"#;

fuzz_target!(|text: &str| {
    if text.contains(WRITTEN) {
        return;
    }
    let problems = check_text(text);
    assert_plain(&problems);
    for secret in REFERRED.iter().filter(|secret| !text.contains(**secret)) {
        assert!(problems.iter().all(|problem| !problem.contains(secret)), "{problems:?}");
    }

    let problems = check_text(&format!("{text}{MISTAKES}"));
    assert!(!problems.is_empty());
    assert_plain(&problems);
    assert!(problems.iter().all(|problem| !problem.contains(WRITTEN)), "{problems:?}");
});

fn assert_plain(problems: &[String]) {
    for problem in problems {
        assert!(problem.contains(": "), "{problem:?} has neither place nor key");
        assert!(!problem.contains(char::is_control), "{problem:?} is not one plain line");
    }
}
