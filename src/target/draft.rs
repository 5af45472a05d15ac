//! What an operator or an API client writes of a target, read into a [`Target`] with every problem named.

use std::path::PathBuf;

use base64::Engine as _;
use figment::value::Value;
use ipnet::IpNet;

use super::{
    AuthStatus, ConnectPolicy, Fingerprint, Network, Ownership, PrivateNetworkPolicy, Redirects,
    Scope, Signing, SigningFormat, Source, Target, TargetId, TargetLimits, TargetTls,
    provider::{AuthWord, Catalogue, EncodedSlash, Provider},
};
use crate::{
    fields::{Fields, expected, hint, parse_net},
    origin::{BaseUrl, Host, Origin, Scheme},
    reason::DeploymentMode,
    secret::Secret,
};

/// What a target may refer to, and how its secrets are read.
pub struct Surroundings<'a> {
    /// The provider catalogue.
    pub catalogue: &'a Catalogue,
    /// Whether a tunnel of this name is configured.
    pub has_tunnel: &'a dyn Fn(&str) -> bool,
    /// Whether a resolver of this name is configured.
    pub has_resolver: &'a dyn Fn(&str) -> bool,
    /// What a target that says nothing of its ownership has: `Confirmed` in the configuration, whose
    /// operator vouches for it by writing it down, `Unclear` wherever others may write targets.
    pub ownership: Ownership,
    /// Reads a secret: a reference in configuration, the value itself in an API body.
    pub secret: &'a dyn Fn(&Value) -> Result<Secret, String>,
    /// Looks at a file that a target names; an error says what is wrong with it.
    pub file: &'a dyn Fn(&str) -> Result<PathBuf, String>,
}

impl std::fmt::Debug for Surroundings<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Surroundings").finish_non_exhaustive()
    }
}

/// Shortest signing secret, in bytes (contract, section 9).
const SECRET_BYTES_MIN: usize = 16;

/// Most labels of a target, and longest key or value in bytes: they are for people.
const LABELS_MAX: usize = 32;
const LABEL_BYTES_MAX: usize = 256;

/// Most tunnels of a target: each that is down or slow costs a request time.
const TUNNELS_MAX: usize = 8;

/// Reads a target. `None` when there was any problem with it; all of them are in `fields`.
pub fn read(mut fields: Fields<'_>, around: &Surroundings<'_>) -> Option<Target> {
    let before = fields.problem_count();
    let target = read_known(&mut fields, around);
    let after = fields.finish();
    target.filter(|_| after == before)
}

fn read_known(fields: &mut Fields<'_>, around: &Surroundings<'_>) -> Option<Target> {
    let id = required(fields, "id", |fields| {
        fields.parse("id", |text| {
            TargetId::parse(text).ok_or("an id is 1 to 64 of a-z, 0-9, `.`, `_` and `-`")
        })
    });
    let mode = required(fields, "deployment_mode", |fields| {
        fields.word("deployment_mode", &DeploymentMode::ALL.map(|mode| (mode.as_str(), mode)))
    });
    let provider =
        required(fields, "provider_key", |fields| provider(fields, mode, around.catalogue));
    let base = base_url(fields, mode);
    let network = network(fields, around);
    let allow_http = fields.flag("allow_http", false);
    let connect = connect(fields);
    let redirects = redirects(fields, mode);
    let encoded_slash = fields
        .word("encoded_slash", &[("refuse", EncodedSlash::Refuse), ("allow", EncodedSlash::Allow)]);
    let signing = signing(fields, around);
    let target = Target {
        auth_method: auth_word(
            fields,
            "auth_method",
            provider.as_deref().map(|p| &*p.auth_methods),
        ),
        token_type: auth_word(fields, "token_type", provider.as_deref().map(|p| &*p.token_types)),
        ownership: fields
            .word(
                "ownership",
                &[("confirmed", Ownership::Confirmed), ("unclear", Ownership::Unclear)],
            )
            .unwrap_or(around.ownership),
        auth_status: fields
            .word(
                "auth_status",
                &[("connected", AuthStatus::Connected), ("required", AuthStatus::Required)],
            )
            .unwrap_or(AuthStatus::Connected),
        allowlist: nets(fields, "allowlist"),
        scope: fields
            .word("scope", &[("base-path", Scope::BasePath), ("origin", Scope::Origin)])
            .unwrap_or(Scope::BasePath),
        encoded_slash: encoded_slash
            .or_else(|| provider.as_deref().map(|provider| provider.encoded_slash))
            == Some(EncodedSlash::Allow),
        tls: tls(fields, around),
        enabled: fields.flag("enabled", true),
        labels: labels(fields),
        limits: limits(fields),
        source: Source::default(),
        generation: 0,
        fingerprint: Fingerprint::default(),
        id: id?,
        mode: mode?,
        base: base?,
        provider: provider?,
        network,
        redirects,
        connect,
        allow_http,
        signing,
    };
    agree(fields, &target);
    Some(Target { fingerprint: Fingerprint::of(&target, ""), ..target })
}

/// Rules that need more than one field.
fn agree(fields: &mut Fields<'_>, target: &Target) {
    let host = &target.base.origin.authority.host;
    if target.mode == DeploymentMode::Cloud && !target.provider.approves(host) {
        let hosts = target.provider.hosts.join(", ");
        let provider = &target.provider.name;
        fields.problem("base_url", format!("{host} is not a host of {provider} ({hosts})"));
    }
    let private = target.network.policy != PrivateNetworkPolicy::Deny;
    if target.allow_http && (target.mode != DeploymentMode::SelfHosted || !private) {
        let message = "only a self-hosted target with private_network_policy `direct` or `tunnel` may allow plain HTTP";
        fields.problem("allow_http", message);
    }
    if target.base.origin.scheme == Scheme::Http && !target.allow_http {
        fields.problem(
            "base_url",
            "plain http needs allow_http = true; use https if the endpoint has it",
        );
    }
    if target.connect == ConnectPolicy::Allow && target.mode == DeploymentMode::WebhookOnly {
        let message = "CONNECT never carries webhooks, whose bodies must be signed; leave it out or write deny";
        fields.problem("connect", message);
    }
}

fn required<'f, T>(
    fields: &mut Fields<'f>,
    key: &'static str,
    read: impl FnOnce(&mut Fields<'f>) -> Option<T>,
) -> Option<T> {
    let there = fields.has(key);
    let value = read(fields);
    if !there {
        fields.problem(key, "this key is required");
    }
    value
}

fn provider(
    fields: &mut Fields<'_>,
    mode: Option<DeploymentMode>,
    catalogue: &Catalogue,
) -> Option<std::sync::Arc<Provider>> {
    fields.parse("provider_key", |key| {
        // Without a mode the key is still checked, so that both problems show in one run.
        let modes = mode.map_or_else(|| DeploymentMode::ALL.to_vec(), |mode| vec![mode]);
        let found = || modes.iter().filter_map(|mode| Some((catalogue.find(key, *mode)?, *mode)));
        let fitting = found().find(|(provider, mode)| provider.has_mode(*mode));
        match fitting.or_else(|| found().next()) {
            Some((provider, mode)) if provider.has_mode(mode) => {
                Ok(std::sync::Arc::clone(provider))
            }
            Some((provider, mode)) => {
                Err(format!("{} does not come as {}", provider.name, mode.as_str()))
            }
            None if catalogue.names().any(|name| name == key) => {
                Err(format!("{key} has no provider for this deployment_mode"))
            }
            None => {
                let names: Vec<_> = catalogue.names().collect();
                let near = hint(key, &names);
                Err(format!("{key:?} is not in the provider catalogue{near}"))
            }
        }
    })
}

fn base_url(fields: &mut Fields<'_>, mode: Option<DeploymentMode>) -> Option<BaseUrl> {
    let webhook = mode == Some(DeploymentMode::WebhookOnly);
    let key = if fields.has("webhook_url") && !fields.has("base_url") {
        "webhook_url"
    } else {
        "base_url"
    };
    if fields.has("webhook_url") && fields.has("base_url") {
        fields.value("webhook_url");
        fields.problem("webhook_url", "give base_url or webhook_url, not both");
    }
    if !fields.has(key) {
        fields.problem("base_url", "this key is required");
        return None;
    }
    fields.parse(key, |text| BaseUrl::parse(text, webhook))
}

fn network(fields: &mut Fields<'_>, around: &Surroundings<'_>) -> Network {
    use PrivateNetworkPolicy::{Deny, Direct, Tunnel};
    let policy = fields
        .word("private_network_policy", &[Deny, Direct, Tunnel].map(|p| (p.as_str(), p)))
        .unwrap_or(Deny);
    let allowlist = nets(fields, "private_network_allowlist");
    let known = |there: bool, what: &str, name: &str| {
        there.then(|| name.into()).ok_or_else(|| format!("there is no [{what}.{name}]"))
    };
    let before = fields.problem_count();
    let names_tunnel = fields.has("tunnel") || fields.has("tunnels");
    let tunnels = fields
        .one_or_many("tunnel", "tunnels", |name| known((around.has_tunnel)(name), "tunnels", name));
    several_tunnels(fields, &tunnels);
    let no_tunnel = tunnels.is_empty() && fields.problem_count() == before;
    let resolver =
        fields.parse("resolver", |name| known((around.has_resolver)(name), "resolvers", name));
    match policy {
        Tunnel if no_tunnel => {
            fields.problem("tunnel", "policy `tunnel` needs the name of a tunnel");
        }
        Direct | Tunnel if allowlist.is_empty() => {
            let message = "policies `direct` and `tunnel` reach only what is listed here; list the target's addresses or CIDRs";
            fields.problem("private_network_allowlist", message);
        }
        Deny | Direct if names_tunnel => {
            fields.problem(
                "tunnel",
                "a tunnel is used only with private_network_policy = \"tunnel\"",
            );
        }
        Deny | Direct | Tunnel => {}
    }
    Network { policy, allowlist, tunnels: tunnels.into(), resolver }
}

fn several_tunnels(fields: &mut Fields<'_>, tunnels: &[Box<str>]) {
    let again = |(index, name)| tunnels.iter().take(index).any(|before| before == name);
    if tunnels.iter().enumerate().any(again) {
        fields.problem("tunnels", "name each tunnel once, in the order in which they are tried");
    }
    if tunnels.len() > TUNNELS_MAX {
        fields.problem("tunnels", format!("at most {TUNNELS_MAX} tunnels"));
    }
}

fn nets(fields: &mut Fields<'_>, key: &'static str) -> Box<[IpNet]> {
    fields.list(key, parse_net).unwrap_or_default().into()
}

fn connect(fields: &mut Fields<'_>) -> ConnectPolicy {
    use ConnectPolicy::{Allow, Auto, Deny};
    fields.word("connect", &[("auto", Auto), ("allow", Allow), ("deny", Deny)]).unwrap_or(Auto)
}

fn redirects(fields: &mut Fields<'_>, mode: Option<DeploymentMode>) -> Redirects {
    let redirects = match fields.value("redirects") {
        None => return Redirects::Block,
        Some(Value::String(_, word)) if word == "block" => Redirects::Block,
        Some(Value::String(_, word)) if word == "same-origin" => Redirects::SameOrigin,
        Some(Value::Array(_, values)) => {
            let mut origins = Vec::with_capacity(values.len());
            for (index, value) in values.iter().enumerate() {
                match redirect_origin(value) {
                    Ok(origin) => origins.push(origin),
                    Err(message) => fields.problem(&format!("redirects[{index}]"), message),
                }
            }
            Redirects::Listed(origins.into())
        }
        Some(_) => {
            fields
                .problem("redirects", "expected `block`, `same-origin` or a list of https origins");
            return Redirects::Block;
        }
    };
    if mode == Some(DeploymentMode::WebhookOnly) && redirects != Redirects::Block {
        fields.problem("redirects", "a webhook's redirects are always blocked; leave it out");
    }
    redirects
}

fn redirect_origin(value: &Value) -> Result<Origin, String> {
    let text = value.as_str().ok_or_else(|| expected("a string", value))?;
    let url = BaseUrl::parse(text, false).map_err(|fault| fault.to_string())?;
    if url.origin.scheme == Scheme::Https && url.is_root() {
        Ok(url.origin)
    } else {
        Err("an approved redirect is an https origin, without a path".into())
    }
}

fn auth_word(
    fields: &mut Fields<'_>,
    key: &'static str,
    allowed: Option<&[AuthWord]>,
) -> Option<&'static str> {
    let Some(allowed) = allowed else {
        // Without a provider nothing is known of its words; that it is missing is said elsewhere.
        fields.value(key);
        return None;
    };
    let words: Vec<_> = allowed.iter().map(|word| (word.as_str(), word.as_str())).collect();
    fields.word(key, &words)
}

fn tls(fields: &mut Fields<'_>, around: &Surroundings<'_>) -> Option<Box<TargetTls>> {
    if !fields.has("tls") {
        fields.table("tls").finish();
        return None;
    }
    let mut table = fields.table("tls");
    let tls = TargetTls {
        ca_file: table.parse("ca_file", around.file),
        client_cert_file: table.parse("client_cert_file", around.file),
        client_key_file: table.parse("client_key_file", around.file),
        pins: table.list("pins", pin).unwrap_or_default().into(),
        server_name: table
            .parse("server_name", |name| Host::parse(name).map(|host| host.to_string().into())),
    };
    if tls.client_cert_file.is_some() != tls.client_key_file.is_some() {
        table.problem("client_cert_file", "client_cert_file and client_key_file belong together");
    }
    table.finish();
    Some(Box::new(tls))
}

/// `sha256//BASE64`, as curl's `--pinnedpubkey` has it.
fn pin(text: &str) -> Result<[u8; 32], String> {
    let wrong = "a pin is sha256// and the base64 of the SHA-256 of the public key (SPKI)";
    let encoded = text.strip_prefix("sha256//").ok_or(wrong)?;
    let bytes = base64::engine::general_purpose::STANDARD.decode(encoded).map_err(|_| wrong)?;
    bytes.try_into().map_err(|_| wrong.to_owned())
}

fn signing(fields: &mut Fields<'_>, around: &Surroundings<'_>) -> Signing {
    let mut current = None;
    for key in ["signing_secret", "webhook_secret", "secret"] {
        if !fields.has(key) {
            fields.value(key);
        } else if current.is_some() {
            fields.value(key);
            fields.problem(key, "another signing secret is given already");
        } else {
            current = fields.read(key, |value| signing_secret(value, around));
        }
    }
    let previous = fields.read("signing_secret_previous", |value| signing_secret(value, around));
    if previous.is_some() && current.is_none() {
        fields.problem("signing_secret_previous", "a previous secret needs a current one");
    }
    let format = fields
        .word(
            "signing_format",
            &[
                ("webriskops", SigningFormat::WebRiskOps),
                ("standard-webhooks", SigningFormat::StandardWebhooks),
            ],
        )
        .unwrap_or_default();
    Signing { secret: current, previous, format }
}

fn signing_secret(value: &Value, around: &Surroundings<'_>) -> Result<Secret, String> {
    let secret = (around.secret)(value)?;
    if secret.len() < SECRET_BYTES_MIN {
        return Err(format!("a signing secret has at least {SECRET_BYTES_MIN} bytes"));
    }
    Ok(secret)
}

fn labels(fields: &mut Fields<'_>) -> Box<[(Box<str>, Box<str>)]> {
    let dict = match fields.value("labels") {
        None => return Box::default(),
        Some(Value::Dict(_, dict)) => dict,
        Some(other) => {
            fields.problem("labels", expected("a table of short strings", &other));
            return Box::default();
        }
    };
    let mut labels = Vec::with_capacity(dict.len());
    for (key, value) in &dict {
        match value.as_str() {
            Some(text) if !key.is_empty() && key.len().max(text.len()) <= LABEL_BYTES_MAX => {
                labels.push((key.as_str().into(), text.into()));
            }
            Some(_) | None => {
                fields.problem("labels", "labels are short strings under short names");
            }
        }
    }
    if labels.len() > LABELS_MAX {
        fields.problem("labels", format!("at most {LABELS_MAX} labels"));
    }
    labels.into()
}

fn limits(fields: &mut Fields<'_>) -> TargetLimits {
    let mut table = fields.table("limits");
    let limits = TargetLimits { max_in_flight: table.number_or("max_in_flight", 1) };
    table.finish();
    limits
}

#[cfg(test)]
pub(crate) mod tests {
    use figment::value::Dict;

    use super::*;
    use crate::fields::Problems;

    /// Surroundings in which everything referred to exists.
    pub(crate) fn around() -> Surroundings<'static> {
        Surroundings {
            catalogue: Catalogue::embedded(),
            ownership: Ownership::Unclear,
            has_tunnel: &|name| matches!(name, "acme" | "spare"),
            has_resolver: &|name| name == "acme",
            secret: &|value| {
                Ok(Secret::new(value.as_str().ok_or("expected a string")?.as_bytes().to_vec()))
            },
            file: &|path| Ok(path.into()),
        }
    }

    fn draft(text: &str) -> (Option<Target>, Vec<String>) {
        let dict: Dict = figment::Figment::from(figment::providers::Serialized::defaults(
            toml::from_str::<toml::Table>(text).unwrap(),
        ))
        .extract()
        .unwrap();
        let mut problems = Problems::new();
        let target = read(Fields::new("targets[0]", dict, &mut problems), &around());
        (target, problems.iter().map(ToString::to_string).collect())
    }

    const GOOD: &str = "id = \"acme-jira\"\nprovider_key = \"jira\"\ndeployment_mode = \"self-hosted\"\nbase_url = \"https://jira.acme.example/jira\"\n";

    #[test]
    fn a_target_is_safe_by_default() {
        let (target, problems) = draft(GOOD);
        assert_eq!(problems, [""; 0]);
        let target = target.unwrap();
        assert_eq!(&*target.provider.key, "jira_data_center");
        assert_eq!(target.ownership, Ownership::Unclear);
        assert_eq!(target.network.policy, PrivateNetworkPolicy::Deny);
        assert_eq!(target.redirects, Redirects::Block);
        assert!(!target.allow_http && !target.encoded_slash && !target.connect_allowed());
    }

    #[test]
    fn every_wrong_field_is_named_in_one_run() {
        let (target, problems) = draft(
            "id = \"Acme\"\nprovider_key = \"jyra\"\ndeployment_mode = \"selfhosted\"\nbase_url = \"https://u@x/\"\nownershp = \"confirmed\"\nconnect = \"yes\"\nprivate_network_policy = \"tunnel\"\nlabels = { a = 3 }",
        );
        assert!(target.is_none());
        let keys: Vec<_> =
            problems.iter().filter_map(|problem| problem.split(':').next()).collect();
        for key in [
            "id",
            "provider_key",
            "deployment_mode",
            "base_url",
            "ownershp",
            "connect",
            "tunnel",
            "labels",
        ] {
            assert!(keys.contains(&format!("targets[0].{key}").as_str()), "{key}: {problems:?}");
        }
    }

    #[test]
    fn a_provider_is_not_blamed_for_a_mode_that_there_is_not() {
        let (_, problems) = draft(
            &GOOD.replace("\"jira\"", "\"jira_data_center\"").replace("self-hosted", "server"),
        );
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert!(problems.concat().contains("deployment_mode"), "{problems:?}");
    }

    #[test]
    fn fields_that_do_not_go_together_are_refused() {
        let rows = [
            ("base_url = \"http://jira.acme.example/\"", "plain http"),
            ("allow_http = true", "only a self-hosted target"),
            ("tunnel = \"acme\"", "used only with"),
            ("tunnels = [\"acme\"]", "used only with"),
            ("private_network_policy = \"tunnel\"\ntunnels = []", "needs the name of a tunnel"),
            ("tunnel = \"acme\"\ntunnels = [\"spare\"]", "tunnel or tunnels, not both"),
            ("tunnels = [\"acme\", \"spare\", \"acme\"]", "name each tunnel once"),
            ("tunnels = [\"nope\"]", "tunnels[0]: there is no [tunnels.nope]"),
            ("tunnel = \"nope\"", "there is no [tunnels.nope]"),
            ("resolver = \"nope\"", "there is no [resolvers.nope]"),
            ("private_network_policy = \"direct\"", "reach only what is listed"),
            ("signing_secret = \"short\"", "at least 16 bytes"),
            ("signing_secret = \"\"", "at least 16 bytes"),
            ("signing_secret_previous = \"0123456789abcdef\"", "needs a current one"),
            ("redirects = [\"http://a.example\"]", "https origin"),
            ("redirects = [\"https://a.example/x\"]", "https origin"),
            ("tls = { pins = [\"sha256/abc\"] }", "sha256//"),
            ("tls = { client_cert_file = \"a.pem\" }", "belong together"),
            ("tls = { insecure = true }", "unknown key"),
            ("auth_method = \"webhook_signing\"", "is not one of"),
            ("webhook_url = \"https://x.example\"", "not both"),
        ];
        for (line, message) in rows {
            let text = if line.starts_with("base_url") {
                GOOD.replace("base_url = \"https://jira.acme.example/jira\"", line)
            } else {
                format!("{GOOD}{line}\n")
            };
            let (target, problems) = draft(&text);
            assert!(
                target.is_none() && problems.iter().any(|p| p.contains(message)),
                "{line}: {problems:?}"
            );
        }
    }

    #[test]
    fn a_cloud_target_has_to_be_on_a_host_of_its_provider() {
        let cloud = |url: &str| {
            draft(&format!(
                "id = \"x\"\nprovider_key = \"github_issues\"\ndeployment_mode = \"cloud\"\nbase_url = \"{url}\""
            ))
        };
        assert_eq!(cloud("https://api.github.com").1, [""; 0]);
        for url in ["https://api.github.com.evil.com", "https://evil.com", "https://140.82.112.5"] {
            assert!(cloud(url).1.iter().any(|p| p.contains("is not a host of")), "{url}");
        }
    }

    #[test]
    fn no_problem_ever_shows_a_secret() {
        let (_, problems) =
            draft(&format!("{GOOD}signing_secret = \"hunter2\"\nsecret = \"hunter2\""));
        assert!(problems.len() >= 2 && !problems.concat().contains("hunter2"));
    }
}
