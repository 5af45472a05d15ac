//! Reads the sections of a configuration, each key with its default.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use figment::value::Value;

use super::{
    reference::{Base, References, key_base64, key_hex},
    settings::{Admin, Egress, ExtraRoots, Limits, Policy, ResolverSettings, Store, Telemetry},
    store_url::StoreUrl,
};
use crate::{
    admin::token::{Role, Token},
    fields::{Fields, expected, parse_net},
    origin::Host,
    resolve::{SERVERS_MAX, Server},
    secret::Secret,
    telemetry::LogFormat,
};

/// Longest time that can be set: beyond a month, a limit is none, and clocks run out of range.
const DURATION_MAX: Duration = Duration::from_hours(30 * 24);

/// Smallest head that HTTP implementations can be held to, in bytes: what hyper reads at least.
const HEADER_BYTES_MIN: usize = 8 << 10;

/// Longest name of anything that operators name, in bytes.
const NAME_BYTES_MAX: usize = 64;

/// The directory for what must survive a restart.
pub(super) fn state_dir(root: &mut Fields<'_>) -> PathBuf {
    root.parse("state_dir", |text| {
        if text.is_empty() { Err("this path is empty") } else { Ok(PathBuf::from(text)) }
    })
    .unwrap_or_else(|| PathBuf::from("state"))
}

pub(super) fn egress(mut fields: Fields<'_>) -> Egress {
    let ip = fields.list("ip", |text| {
        let ip: IpAddr = text.parse().map_err(|_| format!("{text:?} is not an IP address"))?;
        if ip.is_unspecified() || ip.is_multicast() || ip.to_canonical() != ip {
            Err(format!("nothing can leave from {ip}"))
        } else {
            Ok(ip)
        }
    });
    let ip = ip.unwrap_or_default();
    for (family, is_ipv4) in [("IPv4", true), ("IPv6", false)] {
        if ip.iter().filter(|ip| ip.is_ipv4() == is_ipv4).count() > 1 {
            fields.problem("ip", format!("there is more than one {family} address; list one"));
        }
    }
    let ranges = fields.list("ranges", parse_net).unwrap_or_default();
    fields.finish();
    let ranges =
        if ranges.is_empty() { ip.iter().map(|ip| (*ip).into()).collect() } else { ranges };
    Egress { ip, ranges }
}

/// The addresses of a listener.
pub(super) fn listen(fields: &mut Fields<'_>, default: SocketAddr) -> Vec<SocketAddr> {
    let before = fields.problem_count();
    let listen = fields.list("listen", |text| {
        text.parse::<SocketAddr>()
            .map_err(|_| format!("{text:?} is not an address and port, such as {default}"))
    });
    let Some(listen) = listen else { return vec![default] };
    if listen.is_empty() && fields.problem_count() == before {
        fields.problem("listen", format!("list at least one address and port, such as {default}"));
    }
    listen
}

pub(super) fn admin(mut fields: Fields<'_>, references: &References<'_>) -> Admin {
    let listen = listen(&mut fields, SocketAddr::from(([127, 0, 0, 1], 9128)));
    let hosts = fields.list("hosts", Host::parse);
    let mut tokens: Vec<Token> = Vec::new();
    for (index, dict) in fields.tables("tokens").into_iter().enumerate() {
        let path = format!("{}[{index}]", fields.key("tokens"));
        let mut one = fields.at(path, dict);
        let name = required(&mut one, "name", |one| one.parse("name", person_or_program));
        let role = required(&mut one, "role", |one| {
            one.word("role", &Role::ALL.map(|role| (role.as_str(), role)))
        });
        let secret = required(&mut one, "token", |one| {
            one.read("token", |value| token(references, Base::Tagged, value))
        });
        if name.as_ref().is_some_and(|name| tokens.iter().any(|other| *other.name == **name)) {
            one.problem("name", "another token has this name");
        }
        if secret.as_ref().is_some_and(|token| tokens.iter().any(|other| other.secret == *token)) {
            one.problem("token", "another entry has the same token; each needs its own");
        }
        one.finish();
        if let (Some(name), Some(role), Some(secret)) = (name, role, secret) {
            tokens.push(Token { name: name.into(), role, secret });
        }
    }
    fields.finish();
    Admin { listen, tokens, hosts: hosts.unwrap_or_default() }
}

pub(super) fn dns(mut fields: Fields<'_>) -> Option<Vec<Server>> {
    let servers = servers(&mut fields);
    fields.finish();
    servers.filter(|servers| !servers.is_empty())
}

fn servers(fields: &mut Fields<'_>) -> Option<Vec<Server>> {
    let servers = fields.list("servers", str::parse::<Server>)?;
    if servers.len() > SERVERS_MAX {
        fields.problem("servers", format!("at most {SERVERS_MAX} servers"));
    }
    Some(servers)
}

pub(super) fn resolvers(root: &mut Fields<'_>) -> BTreeMap<String, ResolverSettings> {
    let mut resolvers = BTreeMap::new();
    for (name, dict) in root.named("resolvers") {
        if let Err(message) = slug(&name) {
            root.problem(&format!("resolvers.{name}"), message);
        }
        let mut one = root.at(format!("resolvers.{name}"), dict);
        let listed = one.has("servers");
        let servers = servers(&mut one).unwrap_or_default();
        if servers.is_empty() && !listed {
            one.problem("servers", "this key is required");
        } else if servers.is_empty() {
            one.problem("servers", "list at least one server");
        }
        let tunnels = one.one_or_many("tunnel", "tunnels", |text| Ok::<_, String>(text.to_owned()));
        one.finish();
        resolvers.insert(name, ResolverSettings { servers, tunnels });
    }
    resolvers
}

pub(super) fn policy(mut fields: Fields<'_>) -> Policy {
    let policy = Policy {
        require_current_check: fields.flag("require_current_check", true),
        check_ttl: duration(&mut fields, "check_ttl", Duration::from_mins(15)),
        deny: fields.list("deny", parse_net).unwrap_or_default(),
        allow_loopback: fields.flag("allow_loopback", false),
    };
    fields.finish();
    policy
}

pub(super) fn limits(mut fields: Fields<'_>) -> Limits {
    let default = Limits::default();
    let mut time = |key, default| duration(&mut fields, key, default);
    let limits = Limits {
        header_timeout: time("header_timeout", default.header_timeout),
        dns_timeout: time("dns_timeout", default.dns_timeout),
        connect_timeout: time("connect_timeout", default.connect_timeout),
        tls_timeout: time("tls_timeout", default.tls_timeout),
        response_timeout: time("response_timeout", default.response_timeout),
        idle_timeout: time("idle_timeout", default.idle_timeout),
        drain_timeout: time("drain_timeout", default.drain_timeout),
        max_connections: fields.number("max_connections", 1, default.max_connections),
        max_connections_per_client: fields.number(
            "max_connections_per_client",
            1,
            default.max_connections_per_client,
        ),
        max_in_flight_per_target: fields.number(
            "max_in_flight_per_target",
            1,
            default.max_in_flight_per_target,
        ),
        max_header_bytes: fields.size("max_header_bytes", default.max_header_bytes),
        max_signed_body: fields.size("max_signed_body", default.max_signed_body),
    };
    if limits.max_header_bytes < HEADER_BYTES_MIN {
        fields.problem("max_header_bytes", "at least 8KiB: ordinary requests need that much");
    }
    fields.finish();
    limits
}

pub(super) fn tls(mut fields: Fields<'_>, references: &References<'_>) -> ExtraRoots {
    let values = match fields.value("extra_roots") {
        None => Vec::new(),
        Some(Value::Array(_, values)) => values,
        // As environment variables have it.
        Some(Value::String(tag, text)) => {
            let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
            parts.map(|part| Value::String(tag, part.to_owned())).collect()
        }
        Some(other) => {
            fields.problem("extra_roots", expected("a list of paths", &other));
            Vec::new()
        }
    };
    let mut extra_roots = Vec::with_capacity(values.len());
    for (index, value) in values.iter().enumerate() {
        match references.roots(Base::Tagged, value) {
            Ok(path) => extra_roots.push(path),
            Err(message) => fields.problem(&format!("extra_roots[{index}]"), message),
        }
    }
    fields.finish();
    ExtraRoots { extra_roots }
}

pub(super) fn store(
    mut fields: Fields<'_>,
    references: &References<'_>,
    state_dir: &std::path::Path,
) -> Store {
    let url = fields.parse("url", StoreUrl::parse);
    let has_key = fields.has("key");
    let key = fields.read("key", |value| store_key(references, value));
    let mut previous_keys = Vec::new();
    match fields.value("previous_keys") {
        None => {}
        Some(Value::Array(_, values)) => {
            for (index, value) in values.iter().enumerate() {
                match store_key(references, value) {
                    Ok(key) => previous_keys.push(key),
                    Err(message) => fields.problem(&format!("previous_keys[{index}]"), message),
                }
            }
        }
        Some(other) => fields.problem("previous_keys", expected("a list of secrets", &other)),
    }
    if !has_key && !previous_keys.is_empty() {
        fields.problem("previous_keys", "former keys need one that takes their place: store.key");
    }
    fields.finish();
    Store { url: url.unwrap_or_else(|| StoreUrl::in_state(state_dir)), key, previous_keys }
}

fn store_key(references: &References<'_>, value: &Value) -> Result<Secret, String> {
    let secret = references.secret(Base::Tagged, value)?;
    let text = secret.expose().trim_ascii();
    let key = key_hex(text).or_else(|| key_base64(text));
    let key = key.ok_or("a store key is 32 bytes, in hex or base64")?;
    Ok(Secret::new(key.to_vec()))
}

pub(super) fn telemetry(mut fields: Fields<'_>) -> Telemetry {
    let log = fields.word("log", &LogFormat::ALL.map(|form| (form.as_str(), form)));
    fields.finish();
    Telemetry { log: log.unwrap_or_default() }
}

/// A duration that is neither nothing nor for ever.
pub(super) fn duration(fields: &mut Fields<'_>, key: &'static str, default: Duration) -> Duration {
    let duration = fields.duration(key, default);
    if duration > DURATION_MAX {
        fields.problem(key, "at most 30d");
    }
    duration
}

/// A key without which the table means nothing.
pub(super) fn required<'f, T>(
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

/// A token, as it goes into a header field.
pub(super) fn token(
    references: &References<'_>,
    base: Base<'_>,
    value: &Value,
) -> Result<Secret, String> {
    let secret = references.secret(base, value)?;
    let bytes = secret.expose();
    if bytes.iter().any(u8::is_ascii_control) || bytes.trim_ascii() != bytes {
        let message =
            "a token holds no control characters, nor spaces at its ends: no header carries them";
        return Err(message.into());
    }
    Ok(secret)
}

/// The name of somebody, for log lines and Basic credentials (RFC 7617 has no colon in it).
pub(super) fn person_or_program(text: &str) -> Result<String, String> {
    let fits = !text.is_empty() && text.len() <= NAME_BYTES_MAX && text.trim() == text;
    if fits && !text.contains(|c: char| c == ':' || c.is_control()) {
        Ok(text.to_owned())
    } else {
        let limit = NAME_BYTES_MAX;
        Err(format!(
            "a name is 1 to {limit} bytes without colons, control characters and spaces at its ends"
        ))
    }
}

/// The name of a tunnel, resolver or connector, for other keys, metrics and paths.
pub(super) fn slug(text: &str) -> Result<(), String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    if !text.is_empty() && text.len() <= NAME_BYTES_MAX && text.bytes().all(plain) {
        Ok(())
    } else {
        Err(format!("a name is 1 to {NAME_BYTES_MAX} of letters, digits, `_` and `-`"))
    }
}
