//! A target as the API shows it and takes it. Never a secret.

use std::{collections::BTreeMap, path::Path};

use base64::Engine as _;
use jiff::Timestamp;
use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    check::State,
    inventory::{Entry, SecretStatus},
    target::{
        AuthStatus, ConnectPolicy, Ownership, Redirects, Scope, SigningFormat, Source, Target,
        TargetTls,
    },
};

/// A target.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Target)]
pub(super) struct Shown {
    /// Its name.
    pub(super) id: String,
    /// `config`: in the configuration's files, read-only here. `api`: kept by this API.
    source: &'static str,
    /// Grows with every change; absent for one of the configuration.
    pub(super) version: Option<i64>,
    /// The provider, of the catalogue.
    provider_key: String,
    /// `cloud`, `self-hosted` or `webhook-only`.
    deployment_mode: &'static str,
    /// What is approved; a query is shown as `?[redacted]`.
    base_url: String,
    /// `confirmed` or `unclear`.
    ownership: &'static str,
    /// How the product authenticates there.
    auth_method: Option<&'static str>,
    /// With which kind of token.
    token_type: Option<&'static str>,
    /// `connected` or `required`.
    auth_status: &'static str,
    /// `deny`, `direct` or `tunnel`.
    private_network_policy: &'static str,
    /// Where private addresses may lie.
    private_network_allowlist: Vec<String>,
    /// The tunnel, where there is one.
    tunnel: Option<String>,
    /// The tunnels in the order in which they are tried, where there are several.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tunnels: Vec<String>,
    /// The approved private resolver.
    resolver: Option<String>,
    /// What the customer has put on its own allowlist.
    allowlist: Vec<String>,
    /// `block`, `same-origin`, or a list of origins.
    redirects: RedirectsShown,
    /// `base-path` or `origin`.
    scope: &'static str,
    /// `auto`, `allow` or `deny`.
    connect: &'static str,
    /// `refuse` or `allow`.
    encoded_slash: &'static str,
    /// Whether plain HTTP is approved.
    allow_http: bool,
    /// TLS that the gateway originates.
    tls: Option<TlsShown>,
    /// `webriskops` or `standard-webhooks`.
    signing_format: &'static str,
    /// Whether it has a signing secret.
    signing_secret_status: SecretStatus,
    /// Whether it may be reached at all.
    enabled: bool,
    /// Words of its owner.
    labels: BTreeMap<String, String>,
    /// Limits of its own.
    limits: LimitsShown,
    /// Whether it can be reached, as far as is known.
    state: State,
    /// When it was made; absent for one of the configuration.
    #[schema(value_type = Option<String>, format = DateTime)]
    created_at: Option<Timestamp>,
    /// When it was last changed; absent for one of the configuration.
    #[schema(value_type = Option<String>, format = DateTime)]
    updated_at: Option<Timestamp>,
    /// Why it carries no traffic, where the gateway's configuration no longer fits it.
    problems: Vec<String>,
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
#[schema(as = Redirects)]
enum RedirectsShown {
    /// `block` or `same-origin`.
    Word(&'static str),
    /// Further approved origins.
    Origins(Vec<String>),
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = TargetTls)]
struct TlsShown {
    /// Its authorities.
    ca_file: Option<String>,
    /// The client certificate.
    client_cert_file: Option<String>,
    /// The client certificate's key.
    client_key_file: Option<String>,
    /// `sha256//BASE64` of public keys, as curl writes it.
    pins: Vec<String>,
    /// The name to verify instead of the host.
    server_name: Option<String>,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = TargetLimits)]
struct LimitsShown {
    /// Requests and tunnels at once.
    max_in_flight: Option<u32>,
}

impl Shown {
    /// A target, and what is kept of it where it is the API's.
    pub(super) fn new(target: &Target, entry: Option<&Entry>, state: State) -> Self {
        let network = &target.network;
        // As they are written: one of the two keys.
        let (alone, several) = match &*network.tunnels {
            [one] => (Some(one), [].as_slice()),
            all => (None, all),
        };
        let nets = |nets: &[ipnet::IpNet]| nets.iter().map(ToString::to_string).collect();
        let problems = entry.and_then(|entry| entry.target.as_ref().err());
        Self {
            id: target.id.to_string(),
            source: target.source.as_str(),
            version: entry.map(|entry| entry.version),
            provider_key: target.provider.key.to_string(),
            deployment_mode: target.mode.as_str(),
            base_url: target.base.to_string(),
            ownership: match target.ownership {
                Ownership::Confirmed => "confirmed",
                Ownership::Unclear => "unclear",
            },
            auth_method: target.auth_method,
            token_type: target.token_type,
            auth_status: match target.auth_status {
                AuthStatus::Connected => "connected",
                AuthStatus::Required => "required",
            },
            private_network_policy: network.policy.as_str(),
            private_network_allowlist: nets(&network.allowlist),
            tunnel: alone.map(ToString::to_string),
            tunnels: several.iter().map(ToString::to_string).collect(),
            resolver: network.resolver.as_deref().map(ToOwned::to_owned),
            allowlist: nets(&target.allowlist),
            redirects: match &target.redirects {
                Redirects::Block => RedirectsShown::Word("block"),
                Redirects::SameOrigin => RedirectsShown::Word("same-origin"),
                Redirects::Listed(origins) => {
                    RedirectsShown::Origins(origins.iter().map(ToString::to_string).collect())
                }
            },
            scope: match target.scope {
                Scope::BasePath => "base-path",
                Scope::Origin => "origin",
            },
            connect: match target.connect {
                ConnectPolicy::Auto => "auto",
                ConnectPolicy::Allow => "allow",
                ConnectPolicy::Deny => "deny",
            },
            encoded_slash: if target.encoded_slash { "allow" } else { "refuse" },
            allow_http: target.allow_http,
            tls: target.tls.as_deref().map(|tls| TlsShown::new(tls, target.source)),
            signing_format: match target.signing.format {
                SigningFormat::WebRiskOps => "webriskops",
                SigningFormat::StandardWebhooks => "standard-webhooks",
            },
            signing_secret_status: SecretStatus::of(&target.signing),
            enabled: target.enabled,
            labels: target
                .labels
                .iter()
                .map(|(key, value)| (key.to_string(), value.to_string()))
                .collect(),
            limits: LimitsShown { max_in_flight: target.limits.max_in_flight },
            state,
            created_at: entry.map(|entry| entry.created_at),
            updated_at: entry.map(|entry| entry.updated_at),
            problems: problems.into_iter().flatten().map(ToString::to_string).collect(),
        }
    }
}

impl TlsShown {
    fn new(tls: &TargetTls, source: Source) -> Self {
        // Files of the API's targets lie in one folder, and are named without it.
        let name = |path: &Path| match source {
            Source::Config => path.display().to_string(),
            Source::Api => path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        };
        let pin = |pin: &[u8; 32]| {
            format!("sha256//{}", base64::engine::general_purpose::STANDARD.encode(pin))
        };
        Self {
            ca_file: tls.ca_file.as_deref().map(name),
            client_cert_file: tls.client_cert_file.as_deref().map(name),
            client_key_file: tls.client_key_file.as_deref().map(name),
            pins: tls.pins.iter().map(pin).collect(),
            server_name: tls.server_name.as_deref().map(ToOwned::to_owned),
        }
    }
}

/// What is taken of a target; what answers show besides is ignored.
#[derive(ToSchema)]
#[schema(as = TargetInput, example = json!({
    "provider_key": "jira_data_center",
    "deployment_mode": "self-hosted",
    "base_url": "https://jira.acme.example/jira",
    "ownership": "confirmed",
}))]
#[expect(dead_code, reason = "for the document; bodies are read key by key")]
pub(super) struct TargetBody {
    /// The id of the path, or nothing.
    id: Option<String>,
    /// A key or family name of the catalogue.
    provider_key: String,
    /// `cloud`, `self-hosted` or `webhook-only`.
    deployment_mode: String,
    /// What is approved. This or `webhook_url`.
    base_url: Option<String>,
    /// Another name for `base_url`.
    webhook_url: Option<String>,
    /// `confirmed` or `unclear`. Default: `unclear`, which is never reached.
    ownership: Option<String>,
    /// One of the provider's.
    auth_method: Option<String>,
    /// One of the provider's.
    token_type: Option<String>,
    /// `connected` or `required`. Default: `connected`.
    auth_status: Option<String>,
    /// `deny`, `direct` or `tunnel`. Default: `deny`.
    private_network_policy: Option<String>,
    /// Addresses and CIDRs.
    private_network_allowlist: Option<Vec<String>>,
    /// The name of a tunnel.
    tunnel: Option<String>,
    /// The names of several instead, in the order in which they are tried.
    tunnels: Option<Vec<String>>,
    /// The name of an approved private resolver.
    resolver: Option<String>,
    /// Addresses and CIDRs that the customer has put on its own allowlist.
    allowlist: Option<Vec<String>>,
    /// `block`, `same-origin`, or a list of https origins. Default: `block`.
    #[schema(value_type = Option<serde_json::Value>)]
    redirects: Option<()>,
    /// `base-path` or `origin`. Default: `base-path`.
    scope: Option<String>,
    /// `auto`, `allow` or `deny`. Default: `auto`.
    connect: Option<String>,
    /// `refuse` or `allow`. Default: the provider's.
    encoded_slash: Option<String>,
    /// Only for self-hosted targets with policy `direct` or `tunnel`. Default: false.
    allow_http: Option<bool>,
    /// TLS that the gateway originates. Files are named as they are in the folder `tls` of the
    /// gateway's `state_dir`.
    tls: Option<TlsShown>,
    /// A credential: write-only.
    #[schema(write_only)]
    signing_secret: Option<String>,
    /// The credential before, while receivers change over: write-only.
    #[schema(write_only)]
    signing_secret_previous: Option<String>,
    /// `webriskops` or `standard-webhooks`. Default: `webriskops`.
    signing_format: Option<String>,
    /// Default: true.
    enabled: Option<bool>,
    /// At most 32 words of its owner.
    labels: Option<BTreeMap<String, String>>,
    /// Limits of its own.
    limits: Option<LimitsShown>,
}
