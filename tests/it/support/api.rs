//! Requests to the admin API that change something, and targets as they are written there.

use super::{
    eventually,
    gateway::Gateway,
    http::{Conn, Reply},
    lab::Lab,
};
use serde_json::{Value, json};
use std::io;

impl Gateway {
    /// Sends a request to the admin API on a fresh connection; a body is JSON.
    pub(crate) async fn api(
        &self,
        method: &str,
        path: &str,
        fields: &[(&str, &str)],
        body: Option<&Value>,
    ) -> Reply {
        let mut conn = Conn::open(self.admin).await;
        conn.api(method, path, fields, body).await.unwrap()
    }

    /// Puts a target.
    pub(crate) async fn put(&self, id: &str, body: &Value) -> Reply {
        self.api("PUT", &format!("/v1/targets/{id}"), &[], Some(body)).await
    }

    /// Puts a target under a precondition.
    pub(crate) async fn put_if(&self, id: &str, field: (&str, &str), body: &Value) -> Reply {
        self.api("PUT", &format!("/v1/targets/{id}"), &[field], Some(body)).await
    }

    /// Puts a target that must be taken, as a new one or not.
    pub(crate) async fn put_target(&self, id: &str, body: &Value) -> Value {
        let reply = self.put(id, body).await;
        assert!(matches!(reply.status, 200 | 201), "{id}: {reply:?}");
        reply.json()
    }

    /// Sets a target's signing secret.
    pub(crate) async fn credential(&self, id: &str, body: &Value) -> Reply {
        self.api("PUT", &format!("/v1/targets/{id}/credential"), &[], Some(body)).await
    }

    /// Reads a target that must be there.
    pub(crate) async fn target(&self, id: &str) -> Value {
        let reply = self.admin(&format!("/v1/targets/{id}")).await;
        assert_eq!(reply.status, 200, "{id}: {reply:?}");
        reply.json()
    }

    /// Every item of a list, page by page, of at most `limit` items each.
    pub(crate) async fn all_of(&self, path: &str, limit: usize) -> Vec<Value> {
        let (mut all, mut cursor) = (Vec::new(), String::new());
        loop {
            let reply = self.admin(&format!("{path}?limit={limit}{cursor}")).await;
            assert_eq!(reply.status, 200, "{path}: {reply:?}");
            let page = reply.json();
            let items = page["items"].as_array().unwrap();
            assert!(items.len() <= limit, "{page:#}");
            all.extend(items.iter().cloned());
            match page["next_cursor"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => return all,
            }
        }
    }

    /// Waits until `/readyz` says this of the store.
    pub(crate) async fn store_is(&self, word: &str) {
        eventually(&format!("/readyz says that the store is {word}"), async || {
            let reply = self.admin("/readyz").await;
            let checks = reply.json()["checks"].clone();
            let store = checks.as_array()?.iter().find(|check| check["name"] == "store")?.clone();
            (store["status"] == word).then_some(())
        })
        .await;
    }
}

impl Conn {
    /// Sends a request to the admin API and reads the answer; the connection stays.
    pub(crate) async fn api(
        &mut self,
        method: &str,
        path: &str,
        fields: &[(&str, &str)],
        body: Option<&Value>,
    ) -> io::Result<Reply> {
        let mut head = format!("{method} {path} HTTP/1.1\r\n");
        if !fields.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
            head.push_str("Host: localhost\r\n");
        }
        for (name, value) in fields {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        let body = body.map(Value::to_string).unwrap_or_default();
        if !body.is_empty() {
            let length = body.len();
            head.push_str(&format!(
                "Content-Type: application/json\r\nContent-Length: {length}\r\n"
            ));
        }
        self.try_send(format!("{head}\r\n{body}")).await?;
        super::within("the admin API's answer", self.try_reply()).await
    }
}

impl Lab {
    /// A key of 32 times this byte, in hex, in a file.
    pub(crate) fn store_key(&self, byte: u8) -> toml::Value {
        let file = self.secret(&format!("key-{byte:02x}"), &format!("{byte:02x}").repeat(32));
        toml::Table::from_iter([("file".to_owned(), file.display().to_string().into())]).into()
    }
}

/// A self-hosted target whose ownership is confirmed.
pub(crate) fn self_hosted(base_url: &str) -> Value {
    json!({
        "provider_key": "jira_data_center",
        "deployment_mode": "self-hosted",
        "base_url": base_url,
        "ownership": "confirmed",
    })
}

/// A webhook receiver whose ownership is confirmed.
pub(crate) fn webhook(base_url: &str) -> Value {
    json!({
        "provider_key": "generic_webhook",
        "deployment_mode": "webhook-only",
        "base_url": base_url,
        "ownership": "confirmed",
    })
}

/// This with further members.
pub(crate) fn with(mut body: Value, members: &Value) -> Value {
    let members = members.as_object().unwrap().clone();
    body.as_object_mut().unwrap().extend(members);
    body
}

/// The entity tag of an answer.
pub(crate) fn etag(reply: &Reply) -> String {
    reply.field("etag").unwrap_or_else(|| panic!("no ETag: {reply:?}")).to_owned()
}

/// The codes of an answer's warnings, and their causes.
pub(crate) fn warnings(answer: &Value) -> Vec<(&str, &str)> {
    let warnings = answer["warnings"].as_array().unwrap_or_else(|| panic!("{answer:#}")).iter();
    warnings.map(|one| (one["code"].as_str().unwrap(), one["cause"].as_str().unwrap())).collect()
}

/// Asserts that an answer is a problem of the admin API with this status and code, and gives it.
#[track_caller]
pub(crate) fn assert_problem(reply: &Reply, status: u16, code: &str) -> Value {
    assert_eq!(reply.field("content-type"), Some("application/problem+json"), "{reply:?}");
    let problem = reply.json();
    assert_eq!((reply.status, problem["code"].as_str()), (status, Some(code)), "{problem:#}");
    assert_eq!(problem["status"], status, "{problem:#}");
    assert!(problem["detail"].as_str().is_some_and(|text| !text.is_empty()), "{problem:#}");
    problem
}
