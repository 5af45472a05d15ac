//! The webhook target `hook`: its configuration, deliveries to it, and what the store keeps of them.

use super::{
    config::Config,
    eventually,
    gateway::Gateway,
    http::{Reply, request_head},
    lab::Lab,
    origin::Tls,
};
use egress_gateway::store::{Store, deliveries::Attempt};
use std::path::PathBuf;

/// The secret that deliveries are signed with.
const SECRET: &str = "a-signing-secret-of-the-hook";

/// A gateway with the webhook target `hook`, whose receiver is at `acme.example`, and the receiver's
/// TLS.
pub(crate) fn config(lab: &Lab) -> (Config, Tls) {
    config_with(lab, "")
}

/// The same with further fields of the target.
pub(crate) fn config_with(lab: &Lab, fields: &str) -> (Config, Tls) {
    let (ca, tls) = lab.acme();
    let secret = lab.secret("hook-secret", SECRET);
    let fields = format!("signing_secret = {{ file = \"{}\" }}\n{fields}", secret.display());
    (lab.config().trusting(&ca).webhook("hook", "https://acme.example/hook", &fields), tls)
}

/// Delivers, and reads the answer.
pub(crate) async fn post(gateway: &Gateway, key: &str, body: &[u8]) -> Reply {
    gateway.fetch("POST", "/targets/hook", &[("Idempotency-Key", key)], body).await
}

/// The bytes of a delivery.
pub(crate) fn raw(key: &str, body: &[u8]) -> Vec<u8> {
    let head = request_head("POST", "/targets/hook", &[("Idempotency-Key", key)], body.len());
    [head.as_bytes(), body].concat()
}

/// Whether an answer comes out of the record.
pub(crate) fn replayed(reply: &Reply) -> bool {
    reply.field("x-webriskops-replayed").is_some()
}

/// The database file of the gateway.
pub(crate) fn database(lab: &Lab) -> PathBuf {
    lab.dir().join("state/gateway.db")
}

/// Every attempt that the store has, once there are at least this many; newest first.
pub(crate) async fn attempts(lab: &Lab, count: usize) -> Vec<Attempt> {
    let store = Store::open(&format!("sqlite:{}", database(lab).display())).await.unwrap();
    let found = eventually(&format!("{count} attempts are recorded"), async || {
        let found = store.attempts("hook", 10_000).await.unwrap();
        (found.len() >= count).then_some(found)
    })
    .await;
    store.close().await;
    found
}
