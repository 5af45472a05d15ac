//! A gateway configuration, built up in a test.

use super::{
    lab::{EGRESS, NAMESERVER},
    tls::Ca,
};
use std::path::Path;

/// A configuration in the making; every step gives a new one.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    table: toml::Table,
}

impl Config {
    /// Loopback listeners on free ports, the lab's egress address and DNS server, no target.
    pub(crate) fn new(dir: &Path) -> Self {
        let state = dir.join("state");
        let text = format!(
            r#"
            state_dir = "{state}"
            [egress]
            ip = ["{EGRESS}"]
            [proxy]
            listen = ["127.0.0.1:0"]
            [admin]
            listen = ["127.0.0.1:0"]
            [dns]
            servers = ["{NAMESERVER}:53"]
            [policy]
            require_current_check = false
            [limits]
            dns_timeout = "2s"
            connect_timeout = "2s"
            drain_timeout = "10s"
            [telemetry]
            log = "json"
            "#,
            state = state.display()
        );
        Self { table: text.parse().unwrap() }
    }

    /// Sets `section.key` (or a top-level key).
    pub(crate) fn set(mut self, path: &str, value: impl Into<toml::Value>) -> Self {
        let mut table = &mut self.table;
        let (sections, key) = path.rsplit_once('.').unwrap_or(("", path));
        for section in sections.split('.').filter(|section| !section.is_empty()) {
            table = table
                .entry(section)
                .or_insert_with(|| toml::Table::new().into())
                .as_table_mut()
                .expect("a table");
        }
        table.insert(key.to_owned(), value.into());
        self
    }

    /// Sets `section.key` to what this piece of TOML says.
    pub(crate) fn set_toml(self, path: &str, value: &str) -> Self {
        let mut table: toml::Table = format!("value = {value}").parse().unwrap();
        self.set(path, table.remove("value").unwrap())
    }

    /// Adds a `[[targets]]` entry; the text is what stands under that line.
    pub(crate) fn target(self, text: &str) -> Self {
        self.entry("targets", text)
    }

    /// Adds a `[[clients]]` entry.
    pub(crate) fn client(self, text: &str) -> Self {
        self.entry("clients", text)
    }

    /// Adds a self-hosted target.
    pub(crate) fn self_hosted(self, id: &str, base_url: &str) -> Self {
        self.self_hosted_with(id, base_url, "")
    }

    /// Adds a self-hosted target with further fields.
    pub(crate) fn self_hosted_with(self, id: &str, base_url: &str, fields: &str) -> Self {
        let base_url = toml::Value::from(base_url);
        self.target(&format!(
            "id = \"{id}\"\nprovider_key = \"jira_data_center\"\n\
             deployment_mode = \"self-hosted\"\nbase_url = {base_url}\n{fields}"
        ))
    }

    /// Trusts this authority's certificates besides the system's.
    pub(crate) fn trusting(self, ca: &Ca) -> Self {
        let files = toml::Value::Array(vec![ca.file.display().to_string().into()]);
        self.set("tls.extra_roots", files)
    }

    /// Adds GitHub's cloud, `https://api.github.com`, as a target.
    pub(crate) fn github_cloud(self, id: &str, fields: &str) -> Self {
        self.target(&format!(
            "id = \"{id}\"\nprovider_key = \"github_issues\"\ndeployment_mode = \"cloud\"\n\
             base_url = \"https://api.github.com\"\n{fields}"
        ))
    }

    /// Adds a webhook receiver.
    pub(crate) fn webhook(self, id: &str, base_url: &str, fields: &str) -> Self {
        self.target(&format!(
            "id = \"{id}\"\nprovider_key = \"generic_webhook\"\n\
             deployment_mode = \"webhook-only\"\nbase_url = \"{base_url}\"\n{fields}"
        ))
    }

    fn entry(mut self, list: &str, text: &str) -> Self {
        let mut entry: toml::Table = text.parse().unwrap_or_else(|error| panic!("{text}: {error}"));
        if list == "targets" {
            // Nothing is reached before somebody said so; most tests are about what comes after.
            entry.entry("ownership").or_insert_with(|| "confirmed".into());
        }
        self.table
            .entry(list)
            .or_insert_with(|| toml::Value::Array(Vec::new()))
            .as_array_mut()
            .unwrap()
            .push(entry.into());
        self
    }

    /// As the program reads it.
    pub(crate) fn to_toml(&self) -> String {
        toml::to_string(&self.table).unwrap()
    }
}
