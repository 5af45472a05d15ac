//! Targets: the customer-owned endpoints that may be reached, and under which rules.

mod draft;
mod id;
pub mod provider;
pub mod registry;
mod shards;

use std::{fmt, path::PathBuf, sync::Arc};

use ipnet::IpNet;
use sha2::{Digest as _, Sha256};

pub use draft::{Surroundings, read as read_draft};
pub use id::TargetId;
pub use registry::Registry;

use crate::{
    origin::{BaseUrl, Origin},
    reason::{About, DeploymentMode},
    secret::Secret,
};
use provider::Provider;

/// One customer-owned endpoint (contract, section 4). Nothing leaves for a host that no target owns.
#[derive(Clone, Debug)]
pub struct Target {
    /// Its name in requests, events and metrics.
    pub id: TargetId,
    /// The row of the provider catalogue that it follows.
    pub provider: Arc<Provider>,
    /// Who runs the endpoint.
    pub mode: DeploymentMode,
    /// What is approved: an origin and a base path, or a webhook's exact URL.
    pub base: BaseUrl,
    /// Whether somebody confirmed that the customer owns the endpoint.
    pub ownership: Ownership,
    /// Which of the provider's ways to authenticate is used; metadata.
    pub auth_method: Option<&'static str>,
    /// Which kind of token is used; metadata.
    pub token_type: Option<&'static str>,
    /// Whether the provider's own authorisation step is done.
    pub auth_status: AuthStatus,
    /// How addresses of this target are judged and reached.
    pub network: Network,
    /// What the customer says it has put on its own allowlist.
    pub allowlist: Box<[IpNet]>,
    /// Which redirects the relay passes on.
    pub redirects: Redirects,
    /// Whether the base path bounds the relay, or the whole origin is approved.
    pub scope: Scope,
    /// Whether CONNECT may be used.
    pub connect: ConnectPolicy,
    /// Whether `%2f` inside a path segment is passed on.
    pub encoded_slash: bool,
    /// Whether plain HTTP towards the target is approved.
    pub allow_http: bool,
    /// Roots, client certificate, pins and name for TLS that the gateway originates.
    pub tls: Option<Box<TargetTls>>,
    /// Secrets for signing, and the format of signatures.
    pub signing: Signing,
    /// A target that is not enabled is never reached.
    pub enabled: bool,
    /// The operator's own words, at most 32, in the order of their names. A slice, as a map would
    /// take several hundred bytes for a single label.
    pub labels: Box<[(Box<str>, Box<str>)]>,
    /// Limits of this target that differ from the gateway's.
    pub limits: TargetLimits,
    /// Where it is written down.
    pub source: Source,
    /// Which state of the configuration it belongs to: connections opened under another are not
    /// used again.
    pub generation: u64,
    /// Changes with everything that a connectivity check depends on.
    pub fingerprint: Fingerprint,
}

/// Stands for one target and everything of it that a connectivity check depends on, restarts
/// included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Fingerprint([u8; 16]);

impl Fingerprint {
    fn of(target: &Target, way: &str) -> Self {
        let Target { id, mode, provider, base, network, allowlist, tls, .. } = target;
        // The text of `Debug` shows every field of theirs, and is never shown itself.
        let text = format!("{:?}", (id, mode, &provider.key, base, network, allowlist, tls));
        let digest: [u8; 32] = Sha256::new().chain_update(text).chain_update(way).finalize().into();
        Self(digest.first_chunk().copied().unwrap_or_default())
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Where a target is written down (contract, section 4).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Source {
    /// In configuration files: read-only over the API.
    #[default]
    Config,
    /// In the store, by the admin API.
    Api,
}

impl Source {
    /// The word of the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Config => "config",
            Self::Api => "api",
        }
    }
}

impl Target {
    /// The same target as one of a configuration of this generation. `way` says what the tunnels and
    /// the resolver that it names are there, for targets that name any.
    #[must_use]
    pub fn adopted(self, generation: u64, way: impl FnOnce(&Network) -> String) -> Self {
        let Network { tunnels, resolver, .. } = &self.network;
        let fingerprint = if tunnels.is_empty() && resolver.is_none() {
            self.fingerprint
        } else {
            Fingerprint::of(&self, &way(&self.network))
        };
        Self { generation, fingerprint, ..self }
    }

    /// Whether CONNECT may be used: never where bodies must be signed, else as `connect` says; by
    /// default only where no base path would have to be watched over.
    pub fn connect_allowed(&self) -> bool {
        match (self.mode, self.connect) {
            (DeploymentMode::WebhookOnly, _) | (_, ConnectPolicy::Deny) => false,
            (DeploymentMode::Cloud | DeploymentMode::SelfHosted, ConnectPolicy::Allow) => true,
            (DeploymentMode::Cloud | DeploymentMode::SelfHosted, ConnectPolicy::Auto) => {
                self.base.is_root() || self.scope == Scope::Origin
            }
        }
    }

    /// Whether requests to it are deliveries, signed on the way (contract, section 9).
    pub fn is_signed(&self) -> bool {
        self.mode == DeploymentMode::WebhookOnly || self.signing.secret.is_some()
    }

    /// Whether a path is one that this target approves: within its base path, or for a webhook
    /// exactly its URL.
    pub fn holds(&self, path: &str, query: Option<&str>) -> bool {
        match (self.mode, self.scope) {
            (DeploymentMode::WebhookOnly, _) => self.base.is_exactly(path, query),
            (DeploymentMode::Cloud | DeploymentMode::SelfHosted, Scope::Origin) => true,
            (DeploymentMode::Cloud | DeploymentMode::SelfHosted, Scope::BasePath) => {
                crate::path::contained(self.base.path(), path, self.encoded_slash).is_ok()
            }
        }
    }

    /// What a refusal says of this target; `egress` are the addresses calls leave from.
    pub fn about(&self, egress: &[std::net::IpAddr]) -> About {
        let listed = |ip: &std::net::IpAddr| self.allowlist.iter().any(|net| net.contains(ip));
        About {
            target_id: self.id.shared(),
            mode: self.mode,
            allowlist_lacks_egress: !self.allowlist.is_empty()
                && !egress.is_empty()
                && !egress.iter().any(listed),
        }
    }
}

/// Whether the customer's ownership of the endpoint was confirmed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ownership {
    /// Somebody confirmed it.
    Confirmed,
    /// Nobody did yet: never reached.
    Unclear,
}

/// Whether the provider's own OAuth, app, API-token or PAT step is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthStatus {
    /// It is, or none is needed.
    Connected,
    /// It is not: nothing is sent.
    Required,
}

/// Whether the gateway may carry a target's connections blindly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectPolicy {
    /// Only where the base path is `/` or the scope is the origin.
    Auto,
    /// Also where a base path is set, which CONNECT cannot enforce.
    Allow,
    /// Never.
    Deny,
}

/// What of the origin is approved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// The base path and what lies below it.
    BasePath,
    /// The whole origin.
    Origin,
}

/// Which redirects of a target are passed on to the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Redirects {
    /// None.
    Block,
    /// Those that stay on the target's own origin.
    SameOrigin,
    /// Those, and those to these origins.
    Listed(Box<[Origin]>),
}

/// How a target's addresses are judged and reached. Targets of one origin that differ in this have
/// to be told apart by the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Network {
    /// Whether private addresses may be reached, and which way.
    pub policy: PrivateNetworkPolicy,
    /// Where private addresses may lie; under a tunnel, all addresses.
    pub allowlist: Box<[IpNet]>,
    /// The names of the tunnels in the order in which they are tried; at least one under policy
    /// `tunnel`, and none under another.
    pub tunnels: Box<[Box<str>]>,
    /// The approved private resolver, where the target needs one.
    pub resolver: Option<Box<str>>,
}

/// Whether and how private addresses of a target are reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PrivateNetworkPolicy {
    /// Private addresses are refused.
    Deny,
    /// Allowlisted private addresses are dialled directly.
    Direct,
    /// Allowlisted addresses are reached through the tunnel, and only through it.
    Tunnel,
}

impl PrivateNetworkPolicy {
    /// The word of configuration and API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Deny => "deny",
            Self::Direct => "direct",
            Self::Tunnel => "tunnel",
        }
    }
}

/// TLS settings of one target, for connections on which the gateway originates TLS.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TargetTls {
    /// A PEM file of roots, added to the gateway's.
    pub ca_file: Option<PathBuf>,
    /// A PEM file of the client certificate and its chain.
    pub client_cert_file: Option<PathBuf>,
    /// A PEM file of the client certificate's key.
    pub client_key_file: Option<PathBuf>,
    /// SHA-256 of accepted public keys (SPKI), as in curl's `sha256//BASE64`.
    pub pins: Box<[[u8; 32]]>,
    /// The name to verify instead of the host.
    pub server_name: Option<Box<str>>,
}

/// Secrets and format of webhook signatures.
#[derive(Clone, Debug, Default)]
pub struct Signing {
    /// The current secret, at least 16 bytes.
    pub secret: Option<Secret>,
    /// The former secret, while receivers are moved to the current one.
    pub previous: Option<Secret>,
    /// How the signature is written.
    pub format: SigningFormat,
}

/// How a signature is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SigningFormat {
    /// `X-WebRiskOps-Signature`.
    #[default]
    WebRiskOps,
    /// `webhook-signature`, by the Standard Webhooks specification.
    StandardWebhooks,
}

/// Limits of one target. `None`: the gateway's own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TargetLimits {
    /// Requests and tunnels at once.
    pub max_in_flight: Option<u32>,
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A confirmed, enabled, self-hosted target for tests of what uses targets.
    pub(crate) fn target(id: &str, base_url: &str) -> Target {
        let mut problems = Vec::new();
        let dict = figment::value::Dict::from([
            ("id".to_owned(), id.into()),
            ("provider_key".to_owned(), "jira_data_center".into()),
            ("deployment_mode".to_owned(), "self-hosted".into()),
            ("ownership".to_owned(), "confirmed".into()),
            ("base_url".to_owned(), base_url.into()),
        ]);
        let fields = crate::fields::Fields::new("targets[0]", dict, &mut problems);
        let target = read_draft(fields, &draft::tests::around());
        assert_eq!(problems, []);
        target.unwrap()
    }
}
