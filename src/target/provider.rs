//! The provider catalogue: which hosts, modes and credentials belong to which provider.
//!
//! Data, not code: `config/providers.toml`, embedded in the binary.

use std::{collections::BTreeMap, sync::Arc, sync::LazyLock};

use http::{HeaderMap, StatusCode};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{origin::Host, reason::DeploymentMode};

/// One provider of the catalogue (contract, section 10).
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Provider {
    /// Its key, as in a target's `provider_key`.
    pub key: Box<str>,
    /// Its name for people.
    pub name: Box<str>,
    /// Which deployment modes it comes in.
    #[schema(value_type = Vec<String>)]
    deployment_modes: Vec<Mode>,
    /// Approved host patterns for cloud targets: a name, or `*.` and a name for one or more labels
    /// in front of it.
    #[serde(default)]
    pub hosts: Vec<Box<str>>,
    /// Ways to authenticate.
    #[serde(default)]
    pub auth_methods: Vec<AuthWord>,
    /// Kinds of token.
    #[serde(default)]
    pub token_types: Vec<AuthWord>,
    /// Whether its API needs `%2f` inside a path segment.
    #[serde(default)]
    pub encoded_slash: EncodedSlash,
    /// The vendor's page about hosts and allowlists.
    #[serde(default)]
    pub documentation: Option<Box<str>>,
    /// The credential-free request that shows that the product answers.
    #[serde(default)]
    pub probe: Option<Probe>,
    /// Answers by which the provider refuses an address that is not on its allowlist.
    #[serde(default)]
    pub allowlist_refusals: Vec<AllowlistRefusal>,
}

impl Provider {
    /// Whether the provider comes in this deployment mode.
    pub fn has_mode(&self, mode: DeploymentMode) -> bool {
        self.deployment_modes.iter().any(|word| word.0 == mode)
    }

    /// Answers by which the far side refuses the egress address: the provider's own, then those of
    /// what may stand in front of anybody.
    pub fn refusals(&self) -> impl Iterator<Item = &AllowlistRefusal> {
        self.allowlist_refusals.iter().chain(&Catalogue::embedded().allowlist_refusals)
    }

    /// Whether a cloud target on `host` is this provider's.
    pub fn approves(&self, host: &Host) -> bool {
        match host {
            Host::Name(name) => self.hosts.iter().any(|pattern| matches(pattern, name)),
            Host::Ip(_) => false,
        }
    }
}

/// `*.example.com` matches `a.example.com` and `a.b.example.com`, never `example.com` itself or
/// `evilexample.com`.
fn matches(pattern: &str, name: &str) -> bool {
    match pattern.strip_prefix('*') {
        Some(suffix) => {
            name.len() > suffix.len() && name.ends_with(suffix) && !name.starts_with('.')
        }
        None => pattern == name,
    }
}

/// A deployment mode as a word of the catalogue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Mode(DeploymentMode);

impl<'de> Deserialize<'de> for Mode {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let word = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        DeploymentMode::ALL
            .into_iter()
            .find(|mode| mode.as_str() == word)
            .map(Mode)
            .ok_or_else(|| serde::de::Error::custom("expected cloud, self-hosted or webhook-only"))
    }
}

impl Serialize for Mode {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.0.as_str())
    }
}

/// A word of `auth_method` and `token_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum AuthWord {
    /// OAuth 2.0.
    Oauth,
    /// An installed app.
    App,
    /// An API token.
    ApiToken,
    /// A personal access token.
    Pat,
    /// A shared secret that signs webhook bodies.
    WebhookSigning,
    /// None.
    None,
}

impl AuthWord {
    /// The word itself.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Oauth => "oauth",
            Self::App => "app",
            Self::ApiToken => "api_token",
            Self::Pat => "pat",
            Self::WebhookSigning => "webhook_signing",
            Self::None => "none",
        }
    }
}

/// Whether `%2f` inside a path segment is passed on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum EncodedSlash {
    /// Refused: many servers decode it into a separator.
    #[default]
    Refuse,
    /// Passed on, as GitLab's API needs.
    Allow,
}

/// A request without credentials that shows whether the product answers.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Probe {
    /// `GET` or `HEAD`.
    pub method: Box<str>,
    /// Appended to the base URL's path.
    pub path: Box<str>,
    /// What a success shows.
    pub proves: Box<str>,
}

/// An answer that shows that the far side refuses the egress address.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AllowlistRefusal {
    /// The status of the answer.
    pub status: u16,
    /// A header field whose value has to contain the text, in place of the body.
    #[serde(default)]
    pub header: Option<Box<str>>,
    /// Text in the body, or in the header field.
    #[serde(default)]
    pub contains: Option<Box<str>>,
    /// What it is, for the check's report.
    pub meaning: Box<str>,
}

impl AllowlistRefusal {
    /// Whether the body has to be read to tell, for an answer of this status.
    pub fn reads_body(&self, status: StatusCode) -> bool {
        self.status == status.as_u16() && self.header.is_none() && self.contains.is_some()
    }

    /// Whether an answer is this one; `body` is how it begins.
    pub fn is(&self, status: StatusCode, headers: &HeaderMap, body: &[u8]) -> bool {
        let text = self.contains.as_deref().unwrap_or_default();
        let found = match &self.header {
            Some(name) => {
                headers.get_all(&**name).iter().any(|value| holds(value.as_bytes(), text))
            }
            None => holds(body, text),
        };
        self.status == status.as_u16() && found
    }
}

fn holds(bytes: &[u8], text: &str) -> bool {
    text.is_empty() || bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

/// All providers, and the family names that stand for one by deployment mode.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Catalogue {
    #[serde(default)]
    aliases: BTreeMap<Box<str>, BTreeMap<Mode, Box<str>>>,
    providers: Vec<Arc<Provider>>,
    /// Refusals that stand for no provider: content delivery networks and application firewalls.
    #[serde(default)]
    pub allowlist_refusals: Vec<AllowlistRefusal>,
}

impl Catalogue {
    /// The catalogue that is built into the binary.
    pub fn embedded() -> &'static Self {
        #[expect(clippy::expect_used, reason = "constant data, parsed by a test")]
        static CATALOGUE: LazyLock<Catalogue> = LazyLock::new(|| {
            toml::from_str(include_str!("../../config/providers.toml"))
                .expect("config/providers.toml is valid")
        });
        &CATALOGUE
    }

    /// The provider of a key or family name, for a deployment mode.
    pub fn find(&self, key: &str, mode: DeploymentMode) -> Option<&Arc<Provider>> {
        let alias = self.aliases.get(key).and_then(|by_mode| by_mode.get(&Mode(mode)));
        let key = alias.map_or(key, |alias| alias);
        self.providers.iter().find(|provider| &*provider.key == key)
    }

    /// Every key and family name.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.providers
            .iter()
            .map(|provider| &*provider.key)
            .chain(self.aliases.keys().map(|k| &**k))
    }

    /// Every provider.
    pub fn providers(&self) -> &[Arc<Provider>] {
        &self.providers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The keys of contract, section 10.
    const KEYS: &[&str] = &[
        "jira_cloud",
        "jira_data_center",
        "github_issues",
        "github_enterprise_issues",
        "gitlab_issues",
        "gitlab_self_managed_issues",
        "bitbucket_cloud_issues",
        "bitbucket_data_center_issues",
        "azure_devops",
        "azure_devops_server",
        "youtrack_cloud",
        "youtrack_server",
        "trello",
        "linear",
        "asana",
        "clickup",
        "generic_webhook",
        "webhook",
        "zapier_webhook",
        "make_webhook",
        "n8n_webhook",
    ];

    #[test]
    fn the_catalogue_holds_every_provider_of_the_contract() {
        let catalogue = Catalogue::embedded();
        let found: Vec<_> = catalogue.providers().iter().map(|p| &*p.key).collect();
        for key in KEYS {
            assert!(found.contains(key), "{key}");
        }
        assert_eq!(found.len(), KEYS.len());
    }

    #[test]
    fn family_names_stand_for_a_provider_by_deployment_mode() {
        let catalogue = Catalogue::embedded();
        let key = |name, mode| catalogue.find(name, mode).map(|provider| &*provider.key);
        assert_eq!(key("jira", DeploymentMode::Cloud), Some("jira_cloud"));
        assert_eq!(key("jira", DeploymentMode::SelfHosted), Some("jira_data_center"));
        assert_eq!(key("azure-devops", DeploymentMode::SelfHosted), Some("azure_devops_server"));
        assert_eq!(key("jira", DeploymentMode::WebhookOnly), None);
        assert_eq!(key("jyra", DeploymentMode::Cloud), None);
    }

    #[test]
    fn a_host_pattern_matches_labels_not_letters() {
        assert!(matches("*.example.com", "a.example.com"));
        assert!(matches("*.example.com", "a.b.example.com"));
        for other in ["example.com", "evilexample.com", "a.example.com.evil.com", ".example.com"] {
            assert!(!matches("*.example.com", other), "{other}");
        }
        assert!(matches("api.github.com", "api.github.com"));
        assert!(!matches("api.github.com", "xapi.github.com"));
    }

    #[test]
    fn every_cloud_provider_has_hosts_and_every_pattern_is_a_name() {
        let mut seen = 0;
        for provider in Catalogue::embedded().providers() {
            assert!(
                !provider.has_mode(DeploymentMode::Cloud) || !provider.hosts.is_empty(),
                "{}",
                provider.key
            );
            for pattern in &provider.hosts {
                let name = pattern.strip_prefix("*.").unwrap_or(pattern);
                assert_eq!(Host::parse(name), Ok(Host::Name(name.into())), "{pattern}");
                seen += 1;
            }
        }
        assert!(seen > 15);
    }
}
