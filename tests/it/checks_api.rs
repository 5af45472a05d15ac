//! Connectivity and deliveries over the admin API, and `check` against a running gateway.

use crate::support::{
    api::{assert_problem, self_hosted, webhook, with},
    config::Config,
    dns::Answer,
    eventually,
    gateway::{Gateway, program, write_config},
    http::Reply,
    lab::{self, Lab, PUBLIC, PUBLIC_2},
    origin::{Origin, answer, ok},
    within,
};
use serde_json::{Value, json};
use std::{net::SocketAddr, process::Output};

const TOKEN: &str = "an-operators-token-7d1c";
const READER: &str = "a-readers-token-33";

/// Fields of a check (contract, section 8).
const FIELDS: [&str; 27] = [
    "connectivity_check_id",
    "target_id",
    "provider_key",
    "deployment_mode",
    "base_url",
    "private_network_policy",
    "last_checked_at",
    "expires_at",
    "egress_ip",
    "state",
    "code",
    "cause",
    "owner",
    "detail",
    "next_step",
    "dns_status",
    "addresses",
    "pinned",
    "tls_status",
    "tls",
    "firewall_status",
    "allowlist_status",
    "tunnel_status",
    "tunnel_url",
    "http_status",
    "duration_ms",
    "steps",
];

async fn run(gateway: &Gateway, id: &str, query: &str) -> Reply {
    gateway.api("POST", &format!("/v1/targets/{id}/checks{query}"), &[], None).await
}

async fn connectivity(gateway: &Gateway, id: &str) -> Value {
    let reply = gateway.admin(&format!("/v1/targets/{id}/connectivity")).await;
    assert_eq!(reply.status, 200, "{reply:?}");
    reply.json()
}

fn cloud() -> Value {
    json!({
        "provider_key": "github_issues", "deployment_mode": "cloud",
        "base_url": "https://api.github.com", "ownership": "confirmed",
    })
}

#[test]
fn a_check_is_run_kept_listed_and_found_again() {
    lab::run(async |lab| {
        let ca = lab.ca("relay-ca");
        let tls = ca.server(&["api.github.com"]).server_config();
        lab.dns.addresses("api.github.com", &[PUBLIC]);
        let _origin = Origin::start((PUBLIC, 443), Some(tls), |_| answer("401 X", &[], ""));
        let config = lab.config().trusting(&ca);
        let mut gateway = lab.gateway(&config).await;
        // Nothing checks a cloud target before somebody asks.
        gateway.put_target("hub", &cloud()).await;
        let unchecked = connectivity(&gateway, "hub").await;
        assert_eq!(
            (&unchecked["state"], &unchecked["last_checked_at"]),
            (&json!("unchecked"), &json!(null))
        );
        assert_eq!(gateway.all_of("/v1/targets/hub/checks", 10).await, [] as [Value; 0]);

        let mut ids = Vec::new();
        for _ in 0..5 {
            let reply = run(&gateway, "hub", "").await;
            assert_eq!(reply.status, 200, "{reply:?}");
            let check = reply.json();
            for field in FIELDS {
                assert!(check.get(field).is_some(), "no {field}: {check:#}");
            }
            assert_eq!((&check["state"], &check["http_status"]), (&json!("ready"), &json!(401)));
            let id = check["connectivity_check_id"].as_str().unwrap().to_owned();
            let found = gateway.admin(&format!("/v1/checks/{id}")).await;
            assert_eq!(found.json(), check);
            assert_eq!(connectivity(&gateway, "hub").await, check);
            ids.insert(0, id);
        }
        // On the disk when it was answered; the newest first, whatever the size of a page.
        gateway.kill();
        let gateway = lab.gateway(&config).await;
        for limit in [1, 2, 5, 100] {
            let listed = gateway.all_of("/v1/targets/hub/checks", limit).await;
            let found: Vec<_> = listed
                .iter()
                .map(|check| check["connectivity_check_id"].as_str().unwrap())
                .collect();
            assert_eq!(found, ids);
        }
        let known = connectivity(&gateway, "hub").await;
        assert_eq!(
            (&known["state"], known["connectivity_check_id"].as_str().unwrap()),
            (&json!("ready"), ids[0].as_str())
        );

        let begun = run(&gateway, "hub", "?wait=false").await;
        assert_eq!(begun.status, 202, "{begun:?}");
        assert_eq!(begun.json()["target_id"], "hub");
        let id = begun.json()["connectivity_check_id"].as_str().unwrap().to_owned();
        let check = eventually("the check has ended", async || {
            let reply = gateway.admin(&format!("/v1/checks/{id}")).await;
            assert_eq!(reply.status, 200, "{reply:?}");
            Some(reply.json()).filter(|check| !check["last_checked_at"].is_null())
        })
        .await;
        assert_eq!(
            (&check["state"], check["connectivity_check_id"].as_str().unwrap()),
            (&json!("ready"), id.as_str())
        );

        // Changed, it has to be checked again; gone, its checks are gone too.
        gateway.put_target("hub", &with(cloud(), &json!({ "allowlist": ["203.0.114.10"] }))).await;
        assert_eq!(connectivity(&gateway, "hub").await["state"], "stale");
        assert_eq!(run(&gateway, "hub", "").await.json()["allowlist_status"], "allowlist");
        gateway.api("DELETE", "/v1/targets/hub", &[], None).await;
        for path in
            ["/v1/targets/hub/connectivity", "/v1/targets/hub/checks", "/v1/targets/hub/deliveries"]
        {
            assert_problem(&gateway.admin(path).await, 404, "ADMIN_TARGET_UNKNOWN");
        }
        assert_problem(&run(&gateway, "hub", "").await, 404, "ADMIN_TARGET_UNKNOWN");
        for id in [ids[0].as_str(), "01ARZ3NDEKTSV4RRFFQ69G5FAV", "x"] {
            let reply = gateway.admin(&format!("/v1/checks/{id}")).await;
            assert_problem(&reply, 404, "ADMIN_CHECK_UNKNOWN");
        }
    });
}

#[test]
fn a_blocked_and_a_stopped_target_say_why() {
    lab::run(async |lab| {
        lab.dns.addresses("acme.example", &[PUBLIC]);
        let gateway = lab.gateway(&lab.config()).await;
        let body = self_hosted("https://acme.example");
        gateway.put_target("acme", &body).await;
        let check = run(&gateway, "acme", "").await.json();
        let said = ["state", "code", "cause", "owner", "firewall_status"]
            .map(|key| check[key].as_str().unwrap());
        assert_eq!(
            said,
            [
                "blocked",
                "SELF_HOSTED_CONNECTIVITY_BLOCKED",
                "connect_refused",
                "customer",
                "refused"
            ]
        );
        assert_eq!(gateway.target("acme").await["state"], "blocked");
        gateway.put_target("acme", &with(body, &json!({ "ownership": "unclear" }))).await;
        let count = gateway.all_of("/v1/targets/acme/checks", 10).await.len();
        for query in ["", "?wait=false"] {
            let reply = run(&gateway, "acme", query).await;
            assert_eq!(reply.status, 200, "{reply:?}");
            let check = reply.json();
            assert_eq!(
                (&check["state"], &check["cause"]),
                (&json!("stopped"), &json!("ownership_unclear"))
            );
        }
        assert_eq!(gateway.all_of("/v1/targets/acme/checks", 10).await.len(), count);
        for query in ["?wait=maybe", "?wiat=false", "?wait=true&wait=true"] {
            assert_problem(&run(&gateway, "acme", query).await, 400, "ADMIN_REQUEST_INVALID");
        }
    });
}

#[test]
fn deliveries_are_listed_with_what_became_of_them() {
    lab::run(async |lab| {
        let (ca, tls) = lab.acme();
        let _origin = Origin::start((PUBLIC, 443), tls, |request| {
            if request.body == b"no" {
                answer("503 X", &[("Retry-After", "7")], "")
            } else {
                ok("")
            }
        });
        let config = lab.config().trusting(&ca).set("store.key", lab.store_key(7));
        let gateway = lab.gateway(&config).await;
        gateway.put_target("hook", &webhook("https://acme.example/hook")).await;
        let post = async |key: &str, body: &[u8]| {
            gateway.fetch("POST", "/targets/hook", &[("Idempotency-Key", key)], body).await
        };
        assert_eq!(post("a", b"yes").await.status, 403);
        let secret = json!({ "signing_secret": "a-signing-secret-of-the-hook" });
        assert_eq!(gateway.credential("hook", &secret).await.status, 200);
        assert_eq!(post("b", b"yes").await.status, 200);
        assert_eq!(post("c", b"no").await.status, 503);
        let listed = eventually("three attempts", async || {
            Some(gateway.all_of("/v1/targets/hook/deliveries", 2).await)
                .filter(|all| all.len() == 3)
        })
        .await;
        let said: Vec<_> = listed
            .iter()
            .map(|one| {
                [
                    "webhook_status",
                    "idempotency_key",
                    "receiver_status_code",
                    "code",
                    "cause",
                    "retry_after_seconds",
                ]
                .map(|key| one[key].clone())
            })
            .collect();
        assert_eq!(
            json!(said),
            json!([
                ["failed", "c", 503, "WEBHOOK_DELIVERY_FAILED", said[0][4], 7],
                ["delivered", "b", 200, null, null, null],
                [
                    "blocked",
                    said[2][1],
                    null,
                    "generic_webhook_secret_missing",
                    "signing_secret_missing",
                    said[2][5]
                ],
            ])
        );
        for one in &listed {
            assert_eq!((&one["target_id"], &one["method"]), (&json!("hook"), &json!("POST")));
            for key in ["webhook_attempt_id", "delivery_id", "last_attempt_at"] {
                assert!(one[key].as_str().is_some_and(|text| !text.is_empty()), "{key}: {one:#}");
            }
            assert!(one["duration_ms"].is_u64(), "{one:#}");
            for key in ["event_type", "payload_hash"] {
                assert!(one.get(key).is_some(), "{key}: {one:#}");
            }
        }
        assert_eq!(
            listed[1]["payload_hash"],
            "8a798890fe93817163b10b5f7bd2ca4d25d84c52739a645a889c173eee7d9d3d"
        );
        assert_eq!(listed[1]["event_type"], "ticket_export.requested");
    });
}

// === the command ===

async fn command(lab: &Lab, address: SocketAddr, arguments: &[&str], token: &str) -> Output {
    let mut command = program();
    command
        .current_dir(lab.dir())
        .args(["check", "--url", &format!("http://{address}")])
        .args(arguments);
    if !token.is_empty() {
        command.env("EGRESS_ADMIN_TOKEN", token);
    }
    let ran = tokio::task::spawn_blocking(move || command.output().unwrap());
    within("the command", ran).await.unwrap()
}

/// Exit code, standard output, standard error.
fn told(output: &Output) -> (i32, String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
}

fn with_tokens(lab: &Lab, config: Config) -> Config {
    let tokens = [("operate", TOKEN), ("read", READER)].map(|(role, token)| {
        let file = lab.secret(role, token);
        format!(
            "{{ name = \"{role}\", role = \"{role}\", token = {{ file = \"{}\" }} }}",
            file.display()
        )
    });
    config.set_toml("admin.tokens", &format!("[{}]", tokens.join(",")))
}

#[test]
fn the_command_has_the_running_gateway_check_and_shows_what_it_found() {
    lab::run(async |lab| {
        let (ca, tls) = lab.acme();
        lab.dns.addresses("blocked.example", &[PUBLIC_2]);
        let _origin = Origin::start((PUBLIC, 443), tls, |_| ok(""));
        let config = lab
            .config()
            .trusting(&ca)
            .self_hosted("acme", "https://acme.example/jira")
            .self_hosted_with("unclear", "https://blocked.example:8443", "ownership = \"unclear\"");
        let config = with_tokens(&lab, config.self_hosted("blocked", "https://blocked.example"));
        let gateway = lab.gateway(&config).await;
        let admin = gateway.admin;
        for what in ["acme", "https://acme.example/jira", "https://acme.example/jira/browse/A-1"] {
            let (code, out, error) = told(&command(&lab, admin, &[what], TOKEN).await);
            assert_eq!((code, error.as_str()), (0, ""), "{out}");
            assert!(out.contains("\nready: acme can be reached ("), "{out}");
            assert!(out.contains("\ncontrol    status"), "{out}");
            assert!(out.starts_with("ok       base_url"), "{out}");
        }
        // The same words as a check that goes alone.
        let path = write_config(lab.dir(), &config.to_toml());
        let mut alone = program();
        alone.current_dir(lab.dir()).args(["check", "--config"]).arg(path).arg("acme");
        let alone = tokio::task::spawn_blocking(move || alone.output().unwrap()).await.unwrap();
        let timeless = |out: &str| -> Vec<String> {
            let words = |line: &str| {
                line.split(' ')
                    .filter(|word| {
                        !word.is_empty() && word.parse::<u64>().is_err() && !word.starts_with('(')
                    })
                    .collect::<Vec<_>>()
                    .join(" ")
            };
            out.lines().map(words).collect()
        };
        let (_, here, _) = told(&command(&lab, admin, &["acme"], TOKEN).await);
        assert_eq!(timeless(&here), timeless(&told(&alone).1));

        let (code, out, _) = told(&command(&lab, admin, &["blocked"], TOKEN).await);
        assert_eq!(code, 1, "{out}");
        assert!(
            out.contains(
                "\nblocked: blocked: SELF_HOSTED_CONNECTIVITY_BLOCKED (connect_refused)\n"
            ),
            "{out}"
        );
        let (code, out, error) = told(&command(&lab, admin, &["--json", "blocked"], TOKEN).await);
        assert_eq!((code, error.as_str()), (1, ""));
        let check: Value = serde_json::from_str(&out).unwrap();
        assert_eq!((&check["state"], &check["target_id"]), (&json!("blocked"), &json!("blocked")));
        let (code, out, _) = told(&command(&lab, admin, &["unclear"], TOKEN).await);
        assert!(code == 1 && out.contains("\nstopped: unclear: "), "{out}");
        // What it found is the gateway's own knowledge now.
        let known = gateway
            .admin_with(
                "/v1/targets/blocked/connectivity",
                &[("Authorization", &format!("Bearer {TOKEN}"))],
            )
            .await;
        assert_eq!(known.json()["state"], "blocked");
    });
}

#[test]
fn the_command_says_why_nothing_can_be_checked() {
    lab::run(async |lab| {
        lab.dns.answer("acme.example", Answer::NoSuchName);
        let config = with_tokens(&lab, lab.config().self_hosted("acme", "https://acme.example"));
        let gateway = lab.gateway(&config).await;
        let admin = gateway.admin;
        let file = lab.file("token", format!("{TOKEN}\n"));
        let by_file = ["--token-file", file.to_str().unwrap(), "acme"];
        assert_eq!(told(&command(&lab, admin, &by_file, "").await).0, 1);
        let refused = (PUBLIC, 1).into();
        for (address, arguments, token, words) in [
            (admin, &["acme"][..], "", "--token-file or in EGRESS_ADMIN_TOKEN"),
            (admin, &["acme"], "wrong", "ADMIN_UNAUTHENTICATED"),
            (admin, &["acme"], READER, "ADMIN_FORBIDDEN"),
            (admin, &["nobody"], TOKEN, "ADMIN_TARGET_UNKNOWN"),
            (admin, &["Not An Id"], TOKEN, "neither the id of a target nor a URL"),
            (admin, &["https://nobody.example/"], TOKEN, "no target owns nobody.example:443"),
            (admin, &["--token-file", "/no/such/file", "acme"], "", "/no/such/file cannot be read"),
            (
                refused,
                &["acme"],
                TOKEN,
                "name the admin listener of a running gateway with --url, or go alone with --config",
            ),
            (gateway.proxy, &["acme"], TOKEN, "answers 400"),
        ] {
            let (code, out, error) = told(&command(&lab, address, arguments, token).await);
            assert_eq!((code, out.as_str()), (2, ""), "{arguments:?}: {error}");
            assert!(error.contains(words), "{arguments:?}: {error}");
            assert!(!error.contains(TOKEN) && !error.contains("panicked"), "{error}");
        }
        for url in ["https://127.0.0.1:1", "http://acme.example:1", "http://127.0.0.1:1/x", "x"] {
            let mut command = program();
            command.args(["check", "--url", url, "acme"]);
            let output =
                tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
            let (code, _, error) = told(&output);
            assert!(code == 2 && error.contains("--url must be"), "{url}: {error}");
        }
    });
}
