//! Signing secrets over the admin API: set after the target passed, never read, rotated, mended.

use crate::support::{
    api::{assert_problem, etag, self_hosted, webhook, with},
    config::Config,
    dns::Answer,
    eventually,
    gateway::{Gateway, program, write_config},
    http::{Reply, Request},
    lab::{self, Lab, METADATA, PUBLIC},
    origin::{Origin, ok},
    within,
};
use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Value, json};
use sha2::Sha256;

const ONE: &str = "the-first-signing-secret";
const TWO: &str = "the-second-signing-secret";
const THREE: &str = "the-third-signing-secret";

/// A configuration with this key, and the receiver `acme.example`.
fn scene(lab: &Lab, key: u8) -> (Config, Origin) {
    for secret in [ONE, TWO, THREE] {
        lab.secrets().lock().unwrap().push(secret.to_owned());
    }
    let (ca, tls) = lab.acme();
    let origin = Origin::start((PUBLIC, 443), tls, |_| ok(""));
    (lab.config().trusting(&ca).set("store.key", lab.store_key(key)), origin)
}

fn hook() -> Value {
    webhook("https://acme.example/hook")
}

/// Delivers, and gives the secrets that signed it, in order.
async fn signers(gateway: &Gateway, origin: &Origin, id: &str) -> Vec<&'static str> {
    let before = origin.requests().len();
    let key = format!("key-{before}");
    let path = format!("/targets/{id}");
    let reply = gateway.fetch("POST", &path, &[("Idempotency-Key", &key)], b"{}").await;
    assert_eq!(reply.status, 200, "{reply:?}");
    signed_by(&origin.requests()[before])
}

fn signed_by(request: &Request) -> Vec<&'static str> {
    let field = |name: &str| request.field(name).unwrap();
    let text = format!("{}.{}.", field("x-webriskops-timestamp"), field("x-webriskops-nonce"));
    let signature = |secret: &str| {
        let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).unwrap();
        mac.update(text.as_bytes());
        mac.update(&request.body);
        let mut text = "sha256=".to_owned();
        for byte in mac.finalize().into_bytes() {
            text.push_str(&format!("{byte:02x}"));
        }
        text
    };
    let found = field("x-webriskops-signature").split(", ");
    found
        .map(|one| [ONE, TWO, THREE].into_iter().find(|secret| signature(secret) == one).unwrap())
        .collect()
}

fn status(reply: &Reply) -> Value {
    assert_eq!(reply.status, 200, "{reply:?}");
    reply.json()["signing_secret_status"].clone()
}

async fn delete(gateway: &Gateway, query: &str) -> Reply {
    gateway.api("DELETE", &format!("/v1/targets/hook/credential{query}"), &[], None).await
}

#[test]
fn a_secret_signs_at_once_and_is_rotated_with_an_overlap() {
    lab::run(async |lab| {
        let (config, origin) = scene(&lab, 7);
        let gateway = lab.gateway(&config).await;
        gateway.put_target("hook", &hook()).await;
        let missing = (403, "generic_webhook_secret_missing", "signing_secret_missing");
        let post = async || gateway.fetch("POST", "/targets/hook", &[], b"{}").await;
        gateway.assert_refused(&post().await, missing).await;

        let set =
            |secret: &str, overlap: &str| json!({ "signing_secret": secret, "overlap": overlap });
        let reply = gateway.credential("hook", &json!({ "signing_secret": ONE })).await;
        assert_eq!(status(&reply), "present");
        assert_ne!(etag(&reply), "");
        assert_eq!(signers(&gateway, &origin, "hook").await, [ONE]);
        // The same again is no rotation.
        assert_eq!(status(&gateway.credential("hook", &set(ONE, "1h")).await), "present");
        // Both count for a while, the new one first.
        let reply = gateway.credential("hook", &set(TWO, "1h")).await;
        assert_eq!(status(&reply), "rotating");
        assert!(reply.json()["previous_expires_at"].is_string(), "{reply:?}");
        assert_eq!(gateway.target("hook").await["signing_secret_status"], "rotating");
        assert_eq!(signers(&gateway, &origin, "hook").await, [TWO, ONE]);
        // Changing the target, or sending it again with the same secret, ends no rotation.
        let labelled = with(hook(), &json!({ "labels": { "a": "b" } }));
        gateway.put_target("hook", &labelled).await;
        gateway.put_target("hook", &with(labelled.clone(), &json!({ "secret": TWO }))).await;
        assert_eq!(signers(&gateway, &origin, "hook").await, [TWO, ONE]);
        assert_eq!(status(&delete(&gateway, "?which=previous").await), "present");
        assert_eq!(signers(&gateway, &origin, "hook").await, [TWO]);
        // One that ends by itself: on time, for the status and for traffic.
        assert_eq!(status(&gateway.credential("hook", &set(THREE, "1s")).await), "rotating");
        assert_eq!(signers(&gateway, &origin, "hook").await, [THREE, TWO]);
        eventually("the rotation ends", async || {
            (signers(&gateway, &origin, "hook").await == [THREE]).then_some(())
        })
        .await;
        assert_eq!(gateway.target("hook").await["signing_secret_status"], "present");
        // At once.
        assert_eq!(status(&gateway.credential("hook", &set(ONE, "0s")).await), "present");
        assert_eq!(signers(&gateway, &origin, "hook").await, [ONE]);
        assert_eq!(status(&delete(&gateway, "").await), "missing");
        gateway.assert_refused(&post().await, missing).await;
        for (body, key) in [
            (json!({}), "signing_secret"),
            (json!({ "signing_secret": "short" }), "signing_secret"),
            (json!({ "signing_secret": 7 }), "signing_secret"),
            (json!({ "signing_secret": ONE, "overlap": "31d" }), "overlap"),
            (json!({ "signing_secret": ONE, "overlap": 7 }), "overlap"),
            (json!({ "signing_secret": ONE, "overlpa": "1h" }), "overlpa"),
        ] {
            let problem = assert_problem(
                &gateway.credential("hook", &body).await,
                400,
                "ADMIN_REQUEST_INVALID",
            );
            assert_eq!(problem["errors"][0]["name"], key, "{problem:#}");
        }
        let reply = gateway.credential("other", &json!({ "signing_secret": ONE })).await;
        assert_problem(&reply, 404, "ADMIN_TARGET_UNKNOWN");
        let reply = delete(&gateway, "?which=both").await;
        assert_problem(&reply, 400, "ADMIN_REQUEST_INVALID");
    });
}

#[test]
fn no_secret_comes_before_its_targets_safety_check_or_without_a_key() {
    lab::run(async |lab| {
        let (config, _origin) = scene(&lab, 7);
        let gateway = lab.gateway(&config).await;
        let body = json!({ "signing_secret": ONE });
        lab.dns.answer("later.example", Answer::NoSuchName);
        let later = webhook("https://later.example/hook");
        gateway.put_target("hook", &later).await;
        // It does not resolve yet; then it resolves to what nobody may reach.
        let problem = assert_problem(
            &gateway.credential("hook", &body).await,
            422,
            "WEBHOOK_ENDPOINT_UNREACHABLE",
        );
        assert_eq!(
            (&problem["cause"], problem["next_step"].is_string()),
            (&json!("dns_nxdomain"), true)
        );
        let with_secret = with(later.clone(), &body);
        assert_problem(
            &gateway.put("hook", &with_secret).await,
            422,
            "WEBHOOK_ENDPOINT_UNREACHABLE",
        );
        assert_problem(
            &gateway.put("new", &with_secret).await,
            422,
            "WEBHOOK_ENDPOINT_UNREACHABLE",
        );
        lab.dns.addresses("later.example", &[METADATA]);
        eventually("the failure is forgotten", async || {
            let reply = gateway.credential("hook", &body).await;
            (reply.json()["code"] == "generic_webhook_url_unsafe").then_some(())
        })
        .await;
        assert_eq!(gateway.target("hook").await["signing_secret_status"], "missing");
        lab.dns.addresses("later.example", &[PUBLIC]);
        eventually("it resolves to what may be reached", async || {
            (gateway.credential("hook", &body).await.status == 200).then_some(())
        })
        .await;

        let gateway = lab.gateway(&lab.config().set("state_dir", "other")).await;
        gateway.put_target("hook", &hook()).await;
        assert_problem(&gateway.credential("hook", &body).await, 409, "ADMIN_STORE_KEY_MISSING");
        let reply = gateway.put("hook", &with(hook(), &body)).await;
        assert_problem(&reply, 409, "ADMIN_STORE_KEY_MISSING");
        assert_eq!(gateway.target("hook").await["signing_secret_status"], "missing");
    });
}

#[test]
fn a_secret_is_nowhere_to_be_read() {
    lab::run(async |lab| {
        let (config, origin) = scene(&lab, 7);
        let gateway = lab.gateway(&config).await;
        let mut said = Vec::new();
        said.push(gateway.put("hook", &with(hook(), &json!({ "webhook_secret": ONE }))).await);
        said.push(gateway.credential("hook", &json!({ "signing_secret": TWO })).await);
        said.push(
            gateway.put("bad", &with(webhook("https://x@y/"), &json!({ "secret": ONE }))).await,
        );
        said.push(gateway.credential("hook", &json!({ "signing_secret": THREE, "x": ONE })).await);
        said.push(gateway.credential("hook", &json!({ "signing_secret": [THREE] })).await);
        let body =
            with(hook(), &json!({ "signing_secret": THREE, "base_url": "https://z.example/" }));
        said.push(gateway.api("POST", "/v1/targets/validate", &[], Some(&body)).await);
        assert_eq!(signers(&gateway, &origin, "hook").await, [TWO, ONE]);
        gateway.assert_recorded(1).await;
        for path in [
            "/v1/targets",
            "/v1/targets/hook",
            "/v1/targets/hook/connectivity",
            "/v1/targets/hook/checks",
            "/v1/targets/hook/deliveries",
            "/v1/decisions",
            "/metrics",
            "/readyz",
            "/openapi.json",
        ] {
            let reply = gateway.admin(path).await;
            assert_eq!(reply.status, 200, "{path}: {reply:?}");
            said.push(reply);
        }
        for reply in &said {
            let text = format!("{:?}{}", reply.fields, String::from_utf8_lossy(&reply.body));
            assert!(![ONE, TWO, THREE].iter().any(|secret| text.contains(secret)), "{text}");
        }
        let mut files = 0;
        for file in std::fs::read_dir(lab.dir().join("state")).unwrap() {
            let path = file.unwrap().path();
            if path.is_file() {
                files += 1;
                let bytes = std::fs::read(&path).unwrap();
                for secret in [ONE, TWO, THREE] {
                    let found = bytes.windows(secret.len()).any(|part| part == secret.as_bytes());
                    assert!(!found, "{} holds a secret", path.display());
                }
            }
        }
        assert!(files >= 2, "the database and its log");
        // That it is there is no accident of where was looked.
        assert_eq!(gateway.target("hook").await["signing_secret_status"], "rotating");
    });
}

#[test]
fn a_target_whose_secret_cannot_be_opened_carries_nothing_until_it_is_mended() {
    lab::run(async |lab| {
        let (config, origin) = scene(&lab, 7);
        let mut gateway = lab.gateway(&config).await;
        for id in ["hook", "other", "third"] {
            let body =
                with(webhook(&format!("https://acme.example/{id}")), &json!({ "secret": ONE }));
            gateway.put_target(id, &body).await;
        }
        // A relayed target that signs too must not go on unsigned.
        gateway
            .put_target(
                "jira",
                &with(self_hosted("https://acme.example/jira"), &json!({ "secret": ONE })),
            )
            .await;
        gateway.kill();
        let mut gateway = lab.gateway(&config.clone().set("store.key", lab.store_key(8))).await;
        let unknown = (404, "GATEWAY_TARGET_UNKNOWN", "target_unknown");
        let silent = async |gateway: &Gateway, id: &str| {
            let reply = gateway.fetch("POST", &format!("/targets/{id}"), &[], b"{}").await;
            gateway.assert_refused(&reply, unknown).await;
        };
        for id in ["hook", "jira"] {
            silent(&gateway, id).await;
            let shown = gateway.target(id).await;
            let problem = shown["problems"][0].as_str().unwrap_or_else(|| panic!("{shown:#}"));
            assert!(problem.starts_with("signing_secret: it cannot be opened"), "{problem}");
            assert_eq!(shown["state"], "stopped");
            let known = gateway.admin(&format!("/v1/targets/{id}/connectivity")).await.json();
            assert_eq!((&known["state"], &known["detail"]), (&json!("stopped"), &json!(problem)));
            let path = format!("/v1/targets/{id}/checks");
            let checked = gateway.api("POST", &path, &[], None).await;
            assert_eq!(checked.json()["state"], "stopped", "{checked:?}");
            assert_eq!(gateway.admin(&format!("/v1/targets/{id}/deliveries")).await.status, 200);
        }
        assert_eq!(gateway.all_of("/v1/targets", 2).await.len(), 4);
        // What does not touch the secret does not mend it.
        let body =
            with(self_hosted("https://acme.example/jira"), &json!({ "labels": { "a": "b" } }));
        let kept = gateway.put_target("jira", &body).await;
        assert_eq!(kept["problems"].as_array().unwrap().len(), 1, "{kept:#}");
        silent(&gateway, "jira").await;
        delete(&gateway, "?which=previous").await;
        silent(&gateway, "hook").await;
        let before = origin.requests().len();
        // A new secret does.
        assert_eq!(
            status(&gateway.credential("hook", &json!({ "signing_secret": TWO })).await),
            "present"
        );
        assert_eq!(signers(&gateway, &origin, "hook").await, [TWO]);
        assert_eq!(gateway.target("hook").await["problems"], json!([]));
        assert_eq!(origin.requests().len(), before + 1);
        // And so does the key, with a reload.
        let both = config
            .set("store.key", lab.store_key(8))
            .set("store.previous_keys", vec![lab.store_key(7)]);
        gateway.reload(&both).await;
        for (id, secret) in [("other", ONE), ("hook", TWO)] {
            assert_eq!(signers(&gateway, &origin, id).await, [secret]);
        }
        gateway.kill();
        let gateway = lab.gateway(&both).await;
        for (id, secret) in [("third", ONE), ("hook", TWO)] {
            assert_eq!(signers(&gateway, &origin, id).await, [secret]);
        }
    });
}

#[test]
fn the_key_is_rotated_while_the_gateway_serves() {
    lab::run(async |lab| {
        let (config, origin) = scene(&lab, 7);
        let mut gateway = lab.gateway(&config).await;
        gateway.put_target("hook", &with(hook(), &json!({ "secret": ONE }))).await;
        let both = config
            .clone()
            .set("store.key", lab.store_key(8))
            .set("store.previous_keys", vec![lab.store_key(7)]);
        gateway.reload(&both).await;
        let mut command = program();
        let path = write_config(lab.dir(), &both.to_toml());
        command.current_dir(lab.dir()).args(["store", "rotate-key", "--config"]).arg(path);
        let output = tokio::task::spawn_blocking(move || command.output().unwrap());
        let output = within("the command", output).await.unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && said.starts_with("1 credentials"), "{output:?}");
        assert_eq!(signers(&gateway, &origin, "hook").await, [ONE]);
        gateway.credential("hook", &json!({ "signing_secret": TWO, "overlap": "1h" })).await;
        // The former key is not needed any more.
        gateway.kill();
        let gateway = lab.gateway(&config.set("store.key", lab.store_key(8))).await;
        assert_eq!(signers(&gateway, &origin, "hook").await, [TWO, ONE]);
    });
}
