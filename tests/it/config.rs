//! What `serve` and `config check` make of a configuration that is not right.

use crate::support::{
    gateway::{Gateway, program, write_config},
    lab,
};
use std::process::Output;

fn said(output: &Output) -> String {
    let streams = [output.stdout.as_slice(), &output.stderr].concat();
    String::from_utf8_lossy(&streams).into_owned()
}

/// Asserts that `serve` refuses this, soon, and that what it says holds all of these.
async fn assert_refuses(lab: &lab::Lab, toml: &str, words: &[&str]) {
    let output = Gateway::refuses(lab, toml).await;
    let said = said(&output);
    assert!(!output.status.success(), "{said}");
    for word in words {
        assert!(said.contains(word), "nothing of {word:?} in:\n{said}");
    }
    assert!(!said.contains("panicked"), "{said}");
}

#[test]
fn a_proxy_listener_beyond_loopback_needs_clients() {
    lab::run(async |lab| {
        let config = lab.config().set_toml("proxy.listen", "[\"93.184.215.14:3128\"]");
        assert_refuses(&lab, &config.to_toml(), &["proxy", "clients", "93.184.215.14"]).await;
        let config = lab.config().set_toml("proxy.listen", "[\"127.0.0.1:0\", \"0.0.0.0:3128\"]");
        assert_refuses(&lab, &config.to_toml(), &["proxy", "clients"]).await;
        let config = lab.config().set_toml("proxy.listen", "[\"[::]:3128\"]");
        assert_refuses(&lab, &config.to_toml(), &["proxy", "clients"]).await;
    });
}

#[test]
fn an_admin_listener_beyond_loopback_needs_tokens() {
    lab::run(async |lab| {
        let config = lab.config().set_toml("admin.listen", "[\"93.184.215.14:9128\"]");
        assert_refuses(&lab, &config.to_toml(), &["admin", "tokens"]).await;
    });
}

#[test]
fn an_egress_address_that_is_not_on_the_machine_is_refused() {
    lab::run(async |lab| {
        let config = lab.config().set_toml("egress.ip", "[\"203.0.114.99\"]");
        assert_refuses(&lab, &config.to_toml(), &["203.0.114.99", "egress"]).await;
    });
}

#[test]
fn a_listener_that_somebody_else_holds_is_named() {
    lab::run(async |lab| {
        let held = std::net::TcpListener::bind("127.0.0.1:3128").unwrap();
        let config = lab.config().set_toml("proxy.listen", "[\"127.0.0.1:3128\"]");
        assert_refuses(&lab, &config.to_toml(), &["127.0.0.1:3128"]).await;
        drop(held);
    });
}

#[test]
fn every_problem_is_told_in_one_run_with_file_line_key_and_hint() {
    lab::run(async |lab| {
        let toml = r#"state_dir = "state"
[egress]
ip = ["203.0.114.10"]
[limits]
idle_timout = "10m"
header_timeout = "10 parsecs"
max_header_bytes = "64 elephants"
[telemetry]
log = "xml"
[[clients]]
name = "app"
token = "a-plain-token-dahlia"
[[targets]]
id = "Not A Slug"
provider_key = "jira_data_centre"
deployment_mode = "self-hosted"
base_url = "https://user:pass@jira.example"
[[targets]]
id = "dangling"
provider_key = "jira_data_center"
deployment_mode = "self-hosted"
base_url = "https://jira.example"
private_network_policy = "tunnel"
private_network_allowlist = ["10.0.0.0/8"]
tunnel = "nowhere"
resolver = "nobody"
"#;
        let path = write_config(lab.dir(), toml);
        for command in ["serve", "check"] {
            let output = match command {
                "serve" => Gateway::refuses(&lab, toml).await,
                _ => program().args(["config", "check", "--config"]).arg(&path).output().unwrap(),
            };
            let said = said(&output);
            assert_eq!(output.status.code(), Some(2), "{said}");
            // line, key
            for (line, key) in [
                (5, "idle_timout"),
                (6, "header_timeout"),
                (7, "max_header_bytes"),
                (9, "log"),
                (12, "token"),
                (14, "id"),
                (15, "provider_key"),
                (17, "base_url"),
                (25, "tunnel"),
                (26, "resolver"),
            ] {
                let place = format!("gateway.toml:{line}");
                let told = said.lines().any(|one| one.contains(&place) && one.contains(key));
                assert!(told, "{command}: nothing of {place} {key} in:\n{said}");
            }
            assert!(said.contains("idle_timeout"), "no hint:\n{said}");
            assert!(!said.contains("dahlia"), "a secret is repeated:\n{said}");
            assert!(!said.contains("user:pass"), "a password is repeated:\n{said}");
        }
    });
}

#[test]
fn the_environment_comes_last_and_its_mistakes_are_named() {
    lab::run(async |lab| {
        let path = write_config(lab.dir(), &lab.config().to_toml());
        let check = |name: &str, value: &str| {
            let mut command = program();
            command.args(["config", "check", "--config"]).arg(&path).env(name, value);
            command.current_dir(lab.dir()).output().unwrap()
        };
        let fine = check("EGRESS_LIMITS__IDLE_TIMEOUT", "5m");
        assert_eq!(fine.status.code(), Some(0), "{}", said(&fine));
        // Without two underscores a name is not configuration.
        let other = check("EGRESS_SOMETHING_ELSE", "5m");
        assert_eq!(other.status.code(), Some(0), "{}", said(&other));
        for (name, value) in
            [("EGRESS_LIMITS__IDLE_TIMOUT", "5m"), ("EGRESS_LIMITS__IDLE_TIMEOUT", "soon")]
        {
            let bad = check(name, value);
            assert_eq!(bad.status.code(), Some(2), "{name}: {}", said(&bad));
            assert!(said(&bad).to_uppercase().contains(name), "{name}: {}", said(&bad));
        }
    });
}

#[test]
fn the_environment_moves_a_listener() {
    lab::run(async |lab| {
        let gateway = Gateway::start(&lab, &lab.config(), |command| {
            command.env("EGRESS_PROXY__LISTEN", "127.0.0.1:3333");
        })
        .await;
        assert_eq!(gateway.proxy, "127.0.0.1:3333".parse().unwrap());
    });
}

#[test]
fn a_secret_that_cannot_be_read_is_a_problem_of_its_key() {
    lab::run(async |lab| {
        for token in ["{ file = \"/nowhere/token\" }", "{ env = \"NOT_SET\" }"] {
            let client = format!("name = \"app\"\ntargets = [\"*\"]\ntoken = {token}");
            let toml = lab.config().client(&client).to_toml();
            assert_refuses(&lab, &toml, &["token"]).await;
        }
    });
}

#[test]
fn a_cloud_target_outside_its_providers_hosts_is_refused() {
    lab::run(async |lab| {
        for url in ["https://api.github.com.evil.example", "https://evilapi.github.com.example"] {
            let target = format!(
                "id = \"x\"\nprovider_key = \"github_issues\"\ndeployment_mode = \"cloud\"\n\
                 base_url = \"{url}\""
            );
            assert_refuses(&lab, &lab.config().target(&target).to_toml(), &["base_url"]).await;
        }
    });
}

/// BYPASSES, section A, as they would stand in a configuration.
#[test]
fn a_base_url_that_two_parsers_could_read_differently_is_refused() {
    lab::run(async |lab| {
        let urls = [
            "https://user@jira.example/",
            "https://jira.example@evil.example/",
            "https://jira.example\\@evil.example/",
            "https://jira.example/#fragment",
            "https://jira.example/?query",
            "https:jira.example",
            "https:/jira.example",
            "https:///jira.example",
            " https://jira.example",
            "https://jira.example ",
            "ht\ntps://jira.example",
            "https://jira\0.example/",
            "https://ex%61mple.com/",
            "https://2130706433/",
            "https://0x7f.1/",
            "https://017700000001/",
            "https://①②⑦.⓪.⓪.①/",
            "https://127。0。0。1/",
            "https://ⓛⓞⓒⓐⓛⓗⓞⓢⓣ/",
            "https://[::1%25lo]/",
            "https://xn--a/",
            "https://a℀b.example/",
            "https://jira.example:0/",
            "https://jira.example:25/",
            "https://jira.example:99999/",
            "https://jira..example/",
            "https://localhost/",
            "https://foo.localhost/",
            "ftp://jira.example/",
            "file:///etc/passwd",
            "gopher://127.0.0.1:6379/",
            "http+unix://%2fvar%2frun/",
            "https://jira.example/a%2fb",
            "https://jira.example/%2e%2e/",
            "https://jira.example/a%00",
            "http://jira.example/",
        ];
        assert!(urls.len() >= 36);
        // All in one file: every one of them must be told.
        let mut config = lab.config();
        for (number, url) in urls.iter().enumerate() {
            config = config.self_hosted(&format!("t{number}"), url);
        }
        let toml = config.to_toml();
        let output = Gateway::refuses(&lab, &toml).await;
        let said = said(&output);
        for (number, line) in toml.lines().enumerate().filter(|(_, l)| l.starts_with("base_url")) {
            let place = format!("gateway.toml:{}", number + 1);
            let told = said.lines().any(|one| {
                one.contains(&format!("{place}:")) || one.contains(&format!("{place} "))
            });
            assert!(told, "{line} was taken:\n{said}");
        }
    });
}
