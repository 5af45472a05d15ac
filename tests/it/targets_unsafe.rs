//! Targets that the admin API must not take: what is wrong is named, and nothing is kept.

use crate::support::{
    api::{assert_problem, self_hosted, webhook, with},
    eventually,
    gateway::Gateway,
    lab::{self, METADATA, PRIVATE, PRIVATE_2, PUBLIC, PUBLIC_2},
};
use serde_json::{Value, json};

/// What traffic and the API must agree about.
const SAID: [&str; 4] = ["code", "cause", "owner", "next_step"];

/// Asserts that PUT and validate both answer like this, and that nothing is kept; gives the problem.
async fn refused(gateway: &Gateway, body: &Value, status: u16, code: &str) -> Value {
    let problem = assert_problem(&gateway.put("new", body).await, status, code);
    let reply = gateway.api("POST", "/v1/targets/validate", &[], Some(body)).await;
    let judged = assert_problem(&reply, status, code);
    for key in ["cause", "owner", "next_step"] {
        assert_eq!(judged[key], problem[key], "{key}");
    }
    assert_problem(&gateway.admin("/v1/targets/new").await, 404, "ADMIN_TARGET_UNKNOWN");
    problem
}

/// The names of what is wrong.
fn named(problem: &Value) -> Vec<&str> {
    let errors = problem["errors"].as_array().unwrap_or_else(|| panic!("{problem:#}")).iter();
    errors.map(|error| error["name"].as_str().unwrap()).collect()
}

#[test]
fn keys_that_nobody_knows_are_named_each() {
    lab::run(async |lab| {
        lab.dns.addresses("acme.example", &[PUBLIC]);
        let gateway = lab.gateway(&lab.config()).await;
        let good = self_hosted("https://acme.example");
        for (members, names) in [
            (json!({ "base_ulr": "x" }), &["base_ulr"][..]),
            (json!({ "ownership": "mine" }), &["ownership"]),
            (
                json!({ "tls": { "pins": ["sha256//x"], "verify": false } }),
                &["tls.pins[0]", "tls.verify"],
            ),
            (json!({ "tls": { "insecure": true } }), &["tls.insecure"]),
            (json!({ "limits": { "max_in_flight": 0 } }), &["limits.max_in_flight"]),
            (json!({ "private_network_policy": "direct" }), &["private_network_allowlist"]),
            (
                json!({ "private_network_policy": "tunnel", "private_network_allowlist": ["10.0.0.0/8"], "tunnel": "none" }),
                &["tunnel"],
            ),
            (json!({ "resolver": "none" }), &["resolver"]),
            (json!({ "allow_http": true }), &["allow_http"]),
            (json!({ "redirects": ["http://x.example"] }), &["redirects[0]"]),
            (json!({ "base_url": 7 }), &["base_url"]),
            (json!({ "base_url": null }), &["base_url"]),
            (
                json!({ "provider_key": null, "deployment_mode": null }),
                &["deployment_mode", "provider_key"],
            ),
            (json!({ "id": "other" }), &["id"]),
            (json!({ "signing_secret": "short" }), &["signing_secret"]),
            (
                json!({ "secret": "a-secret-of-seventeen", "webhook_secret": "a-secret-of-seventeen" }),
                &["secret"],
            ),
            (
                json!({ "signing_secret_previous": "a-secret-of-seventeen" }),
                &["signing_secret_previous"],
            ),
            (
                json!({ "signing_secret": "whsec_!!!!!!!!!!!!!!!!", "signing_format": "standard-webhooks" }),
                &["signing_secret"],
            ),
            (json!({ "labels": { "a": 7 } }), &["labels"]),
        ] {
            let body = with(good.clone(), &members);
            let problem =
                assert_problem(&gateway.put("new", &body).await, 400, "ADMIN_REQUEST_INVALID");
            let mut found = named(&problem);
            found.sort_unstable();
            assert_eq!(found, names, "{problem:#}");
            assert!(!problem.to_string().contains("a-secret-of"), "{problem:#}");
            let judged = gateway.api("POST", "/v1/targets/validate", &[], Some(&body)).await;
            if members.get("id").is_none() {
                assert_eq!(
                    assert_problem(&judged, 400, "ADMIN_REQUEST_INVALID")["errors"],
                    problem["errors"]
                );
            }
        }
        for text in
            [r#"{"base_url":"https://a.example","base_url":"https://b.example"}"#, "[]", "{", ""]
        {
            let head = format!(
                "PUT /v1/targets/new HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
                 Content-Length: {}\r\n\r\n{text}",
                text.len()
            );
            let mut conn = crate::support::http::Conn::open(gateway.admin).await;
            conn.send(head).await;
            assert_problem(&conn.reply().await, 400, "ADMIN_REQUEST_INVALID");
        }
        for id in ["Acme", "a%2fb", "a%00", &"a".repeat(65)] {
            let reply = gateway.put(id, &good).await;
            assert!(matches!(reply.status, 400 | 404), "{id}: {reply:?}");
        }
        assert_eq!(gateway.all_of("/v1/targets", 10).await, [] as [Value; 0]);
    });
}

#[test]
fn urls_that_two_readers_could_take_for_two_are_refused_as_traffic_refuses_them() {
    lab::run(async |lab| {
        let gateway = lab.gateway(&lab.config()).await;
        let urls = [
            "https://[acme.example]/",
            "https://user@acme.example/",
            "https://user:hunter2@acme.example/",
            "https://acme.example@127.0.0.1/",
            "https://acme.example:99999/",
            "https://acme.example:0/",
            "https://acme.example:22/",
            "https://:443/",
            "https://[::1%25lo]/",
            "https://2130706433/",
            "https://0x7f000001/",
            "https://017700000001/",
            "https://127.1/",
            "https://08.8.8.8/",
            "https://256.256.256.256/",
            "https://foo.0x4/",
            "https://①②⑦.⓪.⓪.①/",
            "https://127。0。0。1/",
            "https://ⓛⓞⓒⓐⓛⓗⓞⓢⓣ/",
            "https://localhost/",
            "https://a.localhost./",
            "https://ex%61mple.com/",
            "https://xn--a/",
            "https://a℀b.com/",
            "https://acme.example#@127.0.0.1/",
            "https://acme.example\\@127.0.0.1/",
            " https://acme.example/",
            "ht\ntps://acme.example/",
            "https:acme.example/",
            "https:///acme.example/",
            "gopher://acme.example/",
            "file:///etc/passwd",
            "https://h%00.example/",
            "https://acme.example/a/../b",
            "https://acme.example/%2e%2e/b",
            "https://acme.example/a%2fb",
            "https://acme.example/?q=1",
            "http://acme.example/",
            "",
        ];
        for url in urls {
            let problem =
                refused(&gateway, &self_hosted(url), 422, "SELF_HOSTED_BASE_URL_UNSAFE").await;
            assert_eq!(problem["cause"], "url_not_approved", "{url:?}: {problem:#}");
            assert_eq!(problem["owner"], "product", "{url:?}");
            assert!(problem["next_step"].as_str().is_some_and(|step| !step.is_empty()), "{url:?}");
            assert!(!problem.to_string().contains("hunter2"), "{problem:#}");
        }
        let hook = json!({ "base_url": null, "webhook_url": "http://acme.example/hook" });
        let hook = with(webhook(""), &hook);
        refused(&gateway, &hook, 422, "generic_webhook_url_unsafe").await;
        let cloud = json!({
            "provider_key": "github_issues", "deployment_mode": "cloud", "base_url": "https://evil.example",
        });
        refused(&gateway, &cloud, 422, "PROVIDER_BASE_URL_BLOCKED").await;
        assert_eq!(lab.dns.asked(), [] as [&str; 0], "what cannot be read is not resolved");
    });
}

#[test]
fn addresses_are_refused_exactly_as_traffic_refuses_them() {
    lab::run(async |lab| {
        let scenes = [
            ("metadata.example", &[METADATA][..], "address_forbidden"),
            ("loopback.example", &[[127, 0, 0, 1].into()], "address_forbidden"),
            ("private.example", &[PRIVATE], "address_private"),
            ("rebinding.example", &[PUBLIC, PRIVATE_2], "dns_rebinding"),
            ("half.example", &[PUBLIC, METADATA], "address_forbidden"),
        ];
        let mut config = lab.config();
        for (name, addresses, _) in &scenes {
            lab.dns.addresses(name, addresses);
            let id = name.replace(".example", "");
            config = config.self_hosted(&id, &format!("https://{name}")).webhook(
                &format!("{id}-hook"),
                &format!("https://{name}/hook"),
                "",
            );
        }
        let secret = lab.secret("s", "a-signing-secret-of-the-hook");
        let toml = config.to_toml().replace(
            "deployment_mode = \"webhook-only\"",
            &format!(
                "deployment_mode = \"webhook-only\"\nsigning_secret = {{ file = \"{}\" }}",
                secret.display()
            ),
        );
        let gateway = lab.gateway(&config).await;
        gateway.rewrite(&toml);
        gateway.signal("HUP");
        gateway
            .wait_metric("egress_config_reloads_total", &[("result", "success")], |n| n >= 1.0)
            .await;
        for (name, _, cause) in scenes {
            let id = name.replace(".example", "");
            let traffic = gateway.get(&format!("/targets/{id}/x")).await.json();
            let hooked =
                gateway.fetch("POST", &format!("/targets/{id}-hook"), &[], b"{}").await.json();
            let hook = webhook(&format!("https://{name}/hook"));
            for (traffic, body) in
                [(traffic, self_hosted(&format!("https://{name}"))), (hooked, hook)]
            {
                assert_eq!(traffic["cause"], cause, "{traffic:#}");
                let problem =
                    refused(&gateway, &body, 422, traffic["code"].as_str().unwrap()).await;
                for key in SAID {
                    assert_eq!(problem[key], traffic[key], "{key} of {name}");
                }
            }
        }
        // An address as it is written, and one that is approved.
        for url in ["https://169.254.169.254", "https://[::1]", "https://[::ffff:10.20.0.5]"] {
            let reply = gateway.put("new", &self_hosted(url)).await;
            assert_eq!(reply.status, 422, "{url}: {reply:?}");
        }
        let approved = json!({ "private_network_policy": "direct", "private_network_allowlist": ["10.20.0.0/16"] });
        gateway.put_target("new", &with(self_hosted("https://private.example"), &approved)).await;
        // What is unsafe about a change leaves what was there.
        let reply = gateway.put("new", &self_hosted("https://private.example")).await;
        assert_problem(&reply, 422, "SELF_HOSTED_PRIVATE_NETWORK_REJECTED");
        assert_eq!(gateway.target("new").await["private_network_policy"], "direct");
    });
}

#[test]
fn a_name_that_turned_private_since_traffic_saw_it_is_rebinding_here_too() {
    lab::run(async |lab| {
        lab.dns.addresses("acme.example", &[PUBLIC]);
        let _echo = crate::support::receiver::Receiver::echo((PUBLIC, 443));
        let gateway = lab.gateway(&lab.config()).await;
        let body = self_hosted("https://acme.example");
        gateway.put_target("acme", &body).await;
        drop(gateway.tunnel("acme.example:443").await);
        lab.dns.addresses("acme.example", &[PRIVATE]);
        let traffic = eventually("traffic sees it", async || {
            let reply = gateway.connect("acme.example:443").await.reply;
            (reply.status != 200).then(|| reply.json())
        })
        .await;
        assert_eq!(traffic["cause"], "dns_rebinding");
        let changed = with(body, &json!({ "enabled": false }));
        let problem = assert_problem(
            &gateway.put("acme", &changed).await,
            422,
            "SELF_HOSTED_BASE_URL_UNSAFE",
        );
        for key in SAID {
            assert_eq!(problem[key], traffic[key], "{key}");
        }
        assert_eq!(gateway.target("acme").await["enabled"], true);
    });
}

#[test]
fn validating_answers_as_putting_would_and_keeps_nothing() {
    lab::run(async |lab| {
        lab.dns.addresses("acme.example", &[PUBLIC]);
        lab.dns.addresses("b.example", &[PUBLIC_2]);
        let gateway = lab.gateway(&lab.config().set("store.key", lab.store_key(7))).await;
        let secret = json!({ "signing_secret": "a-secret-of-seventeen" });
        for body in [
            self_hosted("https://acme.example/x"),
            with(self_hosted("https://acme.example"), &json!({ "ownership": "unclear" })),
            self_hosted("https://nowhere.example"),
            webhook("https://acme.example/hook?q=1"),
            with(webhook("https://acme.example/hook"), &secret),
        ] {
            let reply = gateway
                .api(
                    "POST",
                    "/v1/targets/validate",
                    &[],
                    Some(&with(body.clone(), &json!({"id": "new"}))),
                )
                .await;
            assert_eq!(reply.status, 200, "{reply:?}");
            assert_problem(&gateway.admin("/v1/targets/new").await, 404, "ADMIN_TARGET_UNKNOWN");
            let mut judged = reply.json();
            let mut kept = gateway.put_target("new", &body).await;
            for one in [&mut judged, &mut kept] {
                for key in ["version", "created_at", "updated_at", "source"] {
                    one.as_object_mut().unwrap().remove(key);
                }
            }
            assert_eq!(judged["warnings"], kept["warnings"]);
            assert_eq!(judged, kept);
            assert!(!judged.to_string().contains("a-secret-of"), "{judged:#}");
            gateway.api("DELETE", "/v1/targets/new", &[], None).await;
        }
        // Of a target that is there it judges the change, and leaves it.
        gateway.put_target("b", &self_hosted("https://b.example")).await;
        let changed = with(self_hosted("https://acme.example"), &json!({ "id": "b" }));
        assert_eq!(
            gateway.api("POST", "/v1/targets/validate", &[], Some(&changed)).await.status,
            200
        );
        assert_eq!(gateway.target("b").await["base_url"], "https://b.example");
        gateway.refuse("acme.example:443", (403, "SELF_HOSTED_BASE_URL_UNSAFE", "no_target")).await;
    });
}

#[test]
fn files_of_a_targets_tls_lie_in_their_one_folder() {
    lab::run(async |lab| {
        lab.dns.addresses("acme.example", &[PUBLIC]);
        let ca = lab.ca("corp");
        let folder = lab.dir().join("state/tls");
        let gateway = lab.gateway(&lab.config()).await;
        let naming = |name: &str| {
            with(self_hosted("https://acme.example"), &json!({ "tls": { "ca_file": name } }))
        };
        std::fs::create_dir_all(folder.join("sub")).unwrap();
        for place in [folder.join("corp.pem"), folder.join("sub/corp.pem")] {
            std::fs::copy(&ca.file, place).unwrap();
        }
        std::os::unix::fs::symlink(&ca.file, folder.join("out.pem")).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", folder.join("passwd")).unwrap();
        std::os::unix::fs::symlink("/etc", folder.join("etc")).unwrap();
        std::os::unix::fs::symlink("corp.pem", folder.join("in.pem")).unwrap();
        let absolute = folder.join("corp.pem").display().to_string();
        let mut said = Vec::new();
        for name in [
            "",
            ".",
            "..",
            "../gateway.db",
            "sub/corp.pem",
            "./corp.pem",
            "corp.pem/",
            "sub",
            &absolute,
            "/etc/passwd",
            "out.pem",
            "passwd",
            "etc",
            "etc/passwd",
            "missing.pem",
            "corp.pem\u{0}",
        ] {
            let problem = assert_problem(
                &gateway.put("acme", &naming(name)).await,
                400,
                "ADMIN_REQUEST_INVALID",
            );
            assert_eq!(named(&problem), ["tls.ca_file"], "{name:?}");
            said.push(problem["errors"][0]["detail"].as_str().unwrap().to_owned());
        }
        // Whether a file is there, elsewhere on this machine, does not show.
        said.sort_unstable();
        said.dedup();
        assert_eq!(said.len(), 2, "{said:#?}");
        for name in ["corp.pem", "in.pem"] {
            let kept = gateway.put_target("acme", &naming(name)).await;
            assert_eq!(kept["tls"]["ca_file"], name);
        }
    });
}
