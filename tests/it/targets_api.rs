//! Targets over the admin API: made, changed and deleted while traffic flows.

use crate::support::{
    api::{assert_problem, etag, self_hosted, warnings, webhook, with},
    gateway::Gateway,
    lab::{self, Lab, PUBLIC, PUBLIC_2},
    origin::{Origin, ok},
    receiver::Receiver,
};
use serde_json::{Value, json};

const NO_TARGET: (u16, &str, &str) = (403, "SELF_HOSTED_BASE_URL_UNSAFE", "no_target");

/// A gateway without targets, and `acme.example` behind TLS that it trusts.
async fn scene(lab: &Lab) -> (Gateway, Origin) {
    let (ca, tls) = lab.acme();
    let origin = Origin::start((PUBLIC, 443), tls, |request| ok(&request.line));
    (lab.gateway(&lab.config().trusting(&ca)).await, origin)
}

/// How many requests of clients came; checks send theirs besides.
fn relayed(origin: &Origin) -> usize {
    origin.requests().iter().filter(|request| request.line.ends_with("/x HTTP/1.1")).count()
}

// === made, changed, deleted ===

#[test]
fn a_new_target_carries_the_very_next_request_and_a_deleted_one_none() {
    lab::run(async |lab| {
        let (gateway, origin) = scene(&lab).await;
        gateway.refuse("acme.example:443", NO_TARGET).await;
        for round in 0..20 {
            let reply = gateway.put("acme", &self_hosted("https://acme.example")).await;
            assert_eq!(reply.status, 201, "{reply:?}");
            assert_eq!(reply.json()["warnings"], json!([]));
            assert_eq!(reply.json()["source"], "api");
            assert!(etag(&reply).starts_with("\"v"), "{reply:?}");
            assert_eq!(gateway.get("/targets/acme/x").await.status, 200, "{round}");
            drop(gateway.tunnel("acme.example:443").await);
            let reply = gateway.api("DELETE", "/v1/targets/acme", &[], None).await;
            assert_eq!((reply.status, reply.body.len()), (204, 0));
            gateway.refuse("acme.example:443", NO_TARGET).await;
            let unknown = (404, "GATEWAY_TARGET_UNKNOWN", "target_unknown");
            gateway.refuse_get("/targets/acme/x", unknown).await;
            let gone = gateway.admin("/v1/targets/acme").await;
            assert_problem(&gone, 404, "ADMIN_TARGET_UNKNOWN");
            let again = gateway.api("DELETE", "/v1/targets/acme", &[], None).await;
            assert_problem(&again, 404, "ADMIN_TARGET_UNKNOWN");
        }
        assert_eq!(relayed(&origin), 20);
    });
}

#[test]
fn a_deleted_targets_open_tunnel_lives_on() {
    lab::run(async |lab| {
        lab.dns.addresses("acme.example", &[PUBLIC]);
        let _echo = Receiver::echo((PUBLIC, 443));
        let gateway = lab.gateway(&lab.config()).await;
        gateway.put_target("acme", &self_hosted("https://acme.example")).await;
        let mut tunnel = gateway.tunnel("acme.example:443").await;
        assert_eq!(gateway.api("DELETE", "/v1/targets/acme", &[], None).await.status, 204);
        gateway.refuse("acme.example:443", NO_TARGET).await;
        tunnel.send(b"still here").await;
        assert_eq!(tunnel.take(10).await, b"still here");
    });
}

#[test]
fn a_change_is_seen_by_the_very_next_request_and_no_request_sees_half_of_it() {
    lab::run(async |lab| {
        let (gateway, origin) = scene(&lab).await;
        // Base path and label belong together: a request below the wrong one is refused.
        let bases = ["/one", "/two"];
        for round in 0..50 {
            let base = bases[round % 2];
            let url = format!("https://acme.example{base}");
            let kept = gateway.put_target("acme", &self_hosted(&url)).await;
            assert_eq!(kept["base_url"], url);
            let reply = gateway.get("/targets/acme/x").await;
            assert_eq!(reply.body, format!("GET {base}/x HTTP/1.1").as_bytes());
            let other = bases[(round + 1) % 2];
            let reply = gateway.get(&format!("https://acme.example{other}/x")).await;
            assert_eq!(reply.status, 403, "{reply:?}");
        }
        assert_eq!(relayed(&origin), 50);
    });
}

#[test]
fn the_same_again_changes_nothing_and_has_the_same_etag() {
    lab::run(async |lab| {
        let (gateway, _origin) = scene(&lab).await;
        let body = self_hosted("https://acme.example");
        let made = gateway.put("acme", &body).await;
        let tag = etag(&made);
        for body in [&body, &with(body.clone(), &json!({ "id": "acme", "tunnel": null }))] {
            let again = gateway.put("acme", body).await;
            assert_eq!((again.status, etag(&again)), (200, tag.clone()), "{again:?}");
        }
        let read = gateway.admin("/v1/targets/acme").await;
        assert_eq!(etag(&read), tag);
        let changed = gateway.put("acme", &with(body, &json!({ "enabled": false }))).await;
        assert_eq!(changed.status, 200);
        assert_ne!(etag(&changed), tag);
        let (read, made) = (gateway.target("acme").await, made.json());
        assert_eq!(read["created_at"], made["created_at"]);
        assert_ne!(read["updated_at"], made["updated_at"]);
    });
}

// === shown ===

#[test]
fn a_target_is_shown_whole_and_may_be_sent_back_as_it_came() {
    lab::run(async |lab| {
        lab.dns.addresses("acme.example", &[PUBLIC]);
        let ca = lab.ca("corp");
        let gateway = lab
            .gateway(&lab.config().set_toml("resolvers.corp.servers", "[\"198.41.0.4:53\"]"))
            .await;
        let folder = lab.dir().join("state/tls");
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::copy(&ca.file, folder.join("corp.pem")).unwrap();
        let pin = "sha256//AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
        let body = json!({
            "provider_key": "jira_data_center",
            "deployment_mode": "self-hosted",
            "base_url": "https://acme.example/jira",
            "ownership": "confirmed",
            "auth_method": "pat",
            "token_type": "pat",
            "auth_status": "required",
            "private_network_policy": "direct",
            "private_network_allowlist": ["10.20.0.0/16"],
            "resolver": "corp",
            "allowlist": ["203.0.114.10/32"],
            "redirects": ["https://login.acme.example"],
            "scope": "origin",
            "connect": "deny",
            "encoded_slash": "allow",
            "allow_http": true,
            "tls": { "ca_file": "corp.pem", "pins": [pin], "server_name": "inner.example" },
            "signing_format": "standard-webhooks",
            "enabled": false,
            "labels": { "team": "blue" },
            "limits": { "max_in_flight": 7 },
        });
        let made = gateway.put_target("acme", &body).await;
        let shown = gateway.target("acme").await;
        for (key, value) in body.as_object().unwrap() {
            let value = match key.as_str() {
                "tls" => &json!({
                    "ca_file": "corp.pem", "client_cert_file": null, "client_key_file": null,
                    "pins": [pin], "server_name": "inner.example",
                }),
                _ => value,
            };
            assert_eq!(&shown[key], value, "{key}");
        }
        let others = json!({
            "id": "acme", "source": "api", "tunnel": null, "signing_secret_status": "missing",
            "state": "stopped", "problems": [],
        });
        for (key, value) in others.as_object().unwrap() {
            assert_eq!(&shown[key], value, "{key}");
        }
        for time in ["created_at", "updated_at"] {
            assert!(shown[time].as_str().unwrap().ends_with('Z'), "{shown:#}");
        }
        assert!(shown["version"].is_u64());
        assert_eq!(shown.as_object().unwrap().len(), 30, "{shown:#}");
        assert_eq!(
            warnings(&made),
            [
                ("SELF_HOSTED_BASE_URL_UNSAFE", "target_disabled"),
                ("PROVIDER_AUTH_REQUIRED", "provider_auth_required")
            ]
        );
        // As it came, and as PUT had answered it.
        for back in [&shown, &made] {
            assert_eq!(gateway.put("acme", back).await.status, 200);
            let again = gateway.target("acme").await;
            for (key, value) in shown.as_object().unwrap() {
                if !["version", "updated_at"].contains(&key.as_str()) {
                    assert_eq!(&again[key], value, "{key}");
                }
            }
        }
    });
}

#[test]
fn a_webhooks_query_is_never_shown_and_survives_being_sent_back() {
    lab::run(async |lab| {
        const TOKEN: &str = "q-token-of-the-url";
        lab.secrets().lock().unwrap().push(TOKEN.to_owned());
        let (ca, tls) = lab.acme();
        let origin = Origin::start((PUBLIC, 443), tls, |_| ok(""));
        let config = lab.config().trusting(&ca).set("store.key", lab.store_key(7));
        let gateway = lab.gateway(&config).await;
        let url = format!("https://acme.example/hook?t={TOKEN}");
        let secret = json!({ "webhook_secret": "a-signing-secret-of-the-hook" });
        let made = gateway.put_target("hook", &with(webhook(&url), &secret)).await;
        let shown = gateway.target("hook").await;
        let listed = gateway.all_of("/v1/targets", 10).await;
        for one in [&made, &shown, &listed[0]] {
            assert_eq!(one["base_url"], "https://acme.example/hook?[redacted]");
            assert!(!one.to_string().contains(TOKEN), "{one:#}");
        }
        let labelled = with(shown.clone(), &json!({ "labels": { "a": "b" } }));
        gateway.put_target("hook", &labelled).await;
        assert_eq!(gateway.fetch("POST", "/targets/hook", &[], b"{}").await.status, 200);
        let line = origin.only().line;
        assert_eq!(line, format!("POST /hook?t={TOKEN} HTTP/1.1"));
        // What stands for a query that nobody knows is none.
        let elsewhere = "https://acme.example/other?[redacted]";
        for (id, url) in [("hook", elsewhere), ("new", "https://acme.example/hook?[redacted]")] {
            let body = with(shown.clone(), &json!({ "base_url": url, "id": null }));
            let problem =
                assert_problem(&gateway.put(id, &body).await, 400, "ADMIN_REQUEST_INVALID");
            assert_eq!(problem["errors"][0]["name"], "base_url", "{problem:#}");
        }
        // A target that is not in force any more keeps its query too.
        gateway.reload(&config.set("store.key", lab.store_key(8))).await;
        gateway.put_target("hook", &labelled).await;
        gateway.fetch("POST", "/targets/hook", &[], b"{\"n\":2}").await;
        assert_eq!(origin.requests()[1].line, line);
    });
}

#[test]
fn targets_of_the_configuration_are_listed_with_the_others_and_read_only() {
    lab::run(async |lab| {
        lab.dns.addresses("acme.example", &[PUBLIC]);
        lab.dns.addresses("b.example", &[PUBLIC_2]);
        let config = lab
            .config()
            .self_hosted("b", "https://b.example")
            .self_hosted("d", "https://d.example");
        let gateway = lab.gateway(&config).await;
        let ids = ["a", "c", "e"];
        for id in ids {
            gateway.put_target(id, &self_hosted(&format!("https://acme.example/{id}"))).await;
        }
        for limit in [1, 2, 3, 100] {
            let listed = gateway.all_of("/v1/targets", limit).await;
            let found: Vec<_> = listed
                .iter()
                .map(|one| (one["id"].as_str().unwrap(), one["source"].as_str().unwrap()))
                .collect();
            let expected =
                [("a", "api"), ("b", "config"), ("c", "api"), ("d", "config"), ("e", "api")];
            assert_eq!(found, expected);
        }
        let reply = gateway.admin("/v1/targets/b").await;
        assert_eq!((reply.status, reply.field("etag")), (200, None));
        let body = self_hosted("https://b.example");
        let secret = json!({ "signing_secret": "at least sixteen bytes" });
        for (method, path, body) in [
            ("PUT", "/v1/targets/b", Some(&body)),
            ("DELETE", "/v1/targets/b", None),
            ("PUT", "/v1/targets/b/credential", Some(&secret)),
            ("DELETE", "/v1/targets/b/credential", None),
        ] {
            let reply = gateway.api(method, path, &[], body).await;
            assert_problem(&reply, 409, "ADMIN_TARGET_READ_ONLY");
        }
        for bad in ["/v1/targets?cursor=%00", "/v1/targets?limit=0", "/v1/targets?limit=501"] {
            assert_problem(&gateway.admin(bad).await, 400, "ADMIN_REQUEST_INVALID");
        }
    });
}

// === unfinished ===

#[test]
fn what_is_unfinished_is_kept_with_a_warning_and_carries_nothing() {
    lab::run(async |lab| {
        let (gateway, origin) = scene(&lab).await;
        let body = self_hosted("https://acme.example");
        let without = |key: &str| {
            let mut body = body.clone();
            body.as_object_mut().unwrap().remove(key);
            body
        };
        let unsafe_code = "SELF_HOSTED_BASE_URL_UNSAFE";
        let hook = webhook("https://acme.example");
        for (body, status, code, cause) in [
            (without("ownership"), 403, unsafe_code, "ownership_unclear"),
            (
                with(body.clone(), &json!({"ownership": "unclear"})),
                403,
                unsafe_code,
                "ownership_unclear",
            ),
            (with(body.clone(), &json!({"enabled": false})), 403, unsafe_code, "target_disabled"),
            (
                with(body.clone(), &json!({"auth_status": "required"})),
                403,
                "PROVIDER_AUTH_REQUIRED",
                "provider_auth_required",
            ),
            (hook, 403, "generic_webhook_secret_missing", "signing_secret_missing"),
            (self_hosted("https://nowhere.example"), 502, "SELF_HOSTED_DNS_FAILED", "dns_nxdomain"),
        ] {
            let kept = gateway.put_target("acme", &body).await;
            assert_eq!(warnings(&kept), [(code, cause)], "{kept:#}");
            let warning = &kept["warnings"][0];
            let method = if body["deployment_mode"] == "webhook-only" { "POST" } else { "GET" };
            let path = if method == "POST" { "/targets/acme" } else { "/targets/acme/x" };
            let reply = gateway.fetch(method, path, &[], b"").await;
            gateway.assert_refused(&reply, (status, code, cause)).await;
            let refusal = reply.json();
            for key in ["owner", "next_step", "detail"] {
                assert_eq!(warning[key], refusal[key], "{key} of {cause}");
            }
        }
        assert_eq!(gateway.target("acme").await["base_url"], "https://nowhere.example");
        // Several at once.
        let kept = gateway
            .put_target("acme", &with(without("ownership"), &json!({ "enabled": false })))
            .await;
        assert_eq!(warnings(&kept).len(), 2, "{kept:#}");
        assert_eq!(relayed(&origin), 0);
        assert_eq!(gateway.put_target("acme", &body).await["warnings"], json!([]));
        assert_eq!(gateway.get("/targets/acme/x").await.status, 200);
    });
}

#[test]
fn names_of_the_url_and_of_provider_families_are_taken_as_they_are_known() {
    lab::run(async |lab| {
        let (gateway, _origin) = scene(&lab).await;
        let hook = json!({
            "provider_key": "generic_webhook", "deployment_mode": "webhook-only",
            "webhook_url": "https://acme.example/hook", "ownership": "confirmed",
        });
        let kept = gateway.put_target("hook", &hook).await;
        assert_eq!(kept["base_url"], "https://acme.example/hook");
        let family = |mode: &str, url: &str| json!({ "provider_key": "jira", "deployment_mode": mode, "base_url": url });
        lab.dns.addresses("acme.atlassian.net", &[PUBLIC]);
        for (mode, url, key) in [
            ("self-hosted", "https://acme.example/jira", "jira_data_center"),
            ("cloud", "https://acme.atlassian.net", "jira_cloud"),
        ] {
            let kept = gateway.put_target("jira", &family(mode, url)).await;
            assert_eq!(kept["provider_key"], key);
        }
        let both = with(hook, &json!({ "base_url": "https://acme.example/hook" }));
        let problem =
            assert_problem(&gateway.put("hook", &both).await, 400, "ADMIN_REQUEST_INVALID");
        assert_eq!(problem["errors"][0]["name"], "webhook_url");
    });
}

// === roles ===

#[test]
fn a_read_token_looks_and_judges_and_changes_nothing() {
    lab::run(async |lab| {
        lab.dns.addresses("acme.example", &[PUBLIC]);
        let tokens = ["read", "operate"].map(|role| {
            let file = lab.secret(role, &format!("the-token-to-{role}"));
            format!(
                "{{ name = \"{role}\", role = \"{role}\", token = {{ file = \"{}\" }} }}",
                file.display()
            )
        });
        let config = lab
            .config()
            .self_hosted("known", "https://acme.example")
            .set_toml("admin.tokens", &format!("[{}]", tokens.join(",")))
            .set("store.key", lab.store_key(7));
        let gateway = lab.gateway(&config).await;
        let body = self_hosted("https://acme.example/x");
        let secret = json!({ "signing_secret": "at least sixteen bytes" });
        let question = json!({ "url": "https://acme.example/" });
        let writes: [(&str, &str, Option<&Value>); 5] = [
            ("PUT", "/v1/targets/acme", Some(&body)),
            ("PUT", "/v1/targets/acme/credential", Some(&secret)),
            ("POST", "/v1/targets/acme/checks?wait=false", None),
            ("DELETE", "/v1/targets/acme/credential", None),
            ("DELETE", "/v1/targets/acme", None),
        ];
        let looks: [(&str, &str, Option<&Value>); 7] = [
            ("POST", "/v1/targets/validate", Some(&body)),
            ("POST", "/v1/explain", Some(&question)),
            ("GET", "/v1/targets", None),
            ("GET", "/v1/targets/known", None),
            ("GET", "/v1/targets/known/connectivity", None),
            ("GET", "/v1/targets/known/checks", None),
            ("GET", "/v1/targets/known/deliveries", None),
        ];
        let as_role = |role: &str| format!("Bearer the-token-to-{role}");
        for (method, path, body) in writes {
            let reply = gateway.api(method, path, &[], body).await;
            assert_problem(&reply, 401, "ADMIN_UNAUTHENTICATED");
            let reply =
                gateway.api(method, path, &[("Authorization", &as_role("read"))], body).await;
            assert_problem(&reply, 403, "ADMIN_FORBIDDEN");
        }
        for (method, path, body) in looks {
            let reply = gateway.api(method, path, &[], body).await;
            assert_problem(&reply, 401, "ADMIN_UNAUTHENTICATED");
            let reply =
                gateway.api(method, path, &[("Authorization", &as_role("read"))], body).await;
            assert_eq!(reply.status, 200, "{method} {path}: {reply:?}");
        }
        // Nothing was kept meanwhile.
        let operate = as_role("operate");
        let list = gateway.admin_with("/v1/targets", &[("Authorization", &operate)]).await.json();
        assert_eq!(list["items"].as_array().unwrap().len(), 1, "{list:#}");
        for (method, path, body) in writes {
            let fields = [("Authorization", operate.as_str())];
            let page = [fields[0], ("Host", "evil.example")];
            let reply = gateway.api(method, path, &page, body).await;
            assert_problem(&reply, 421, "ADMIN_HOST_NOT_ALLOWED");
            for page in [("Origin", "https://evil.example"), ("Sec-Fetch-Site", "cross-site")] {
                let reply = gateway.api(method, path, &[fields[0], page], body).await;
                assert_problem(&reply, 403, "ADMIN_ORIGIN_NOT_ALLOWED");
            }
            let reply = gateway.api(method, path, &fields, body).await;
            assert!((200..300).contains(&reply.status), "{method} {path}: {reply:?}");
        }
    });
}
