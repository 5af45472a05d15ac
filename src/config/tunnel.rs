//! Reads the approved ways into private networks.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use figment::value::Value;
use ipnet::IpNet;

use super::{
    read::{duration, required, slug},
    reference::{Base, References, key_base64},
};
use crate::{
    fields::{Fields, parse_net},
    origin::Authority,
    secret::Secret,
    tunnel::{
        Credentials, HttpTunnel, Settings as Tunnel, SocksTunnel, TunnelTls, WireGuardTunnel,
    },
};

/// Smallest packet every IPv4 host takes (RFC 791), and the largest there is.
const MTU: std::ops::RangeInclusive<u32> = 576..=65_535;
const MTU_DEFAULT: u16 = 1420;

/// What WireGuard's own documentation recommends behind address translation.
const KEEPALIVE: Duration = Duration::from_secs(25);

/// Longest user name and password of SOCKS5, in bytes (RFC 1929).
const SOCKS_BYTES_MAX: usize = 255;

/// The keys of a tunnel and the kinds that have them.
const KEYS: &[(&str, &[Kind])] = &[
    ("username", &[Kind::Http, Kind::Https, Kind::Socks5]),
    ("password", &[Kind::Http, Kind::Https, Kind::Socks5]),
    ("token", &[Kind::Http, Kind::Https]),
    ("tls", &[Kind::Https]),
    ("private_key", &[Kind::WireGuard]),
    ("preshared_key", &[Kind::WireGuard]),
    ("peer_public_key", &[Kind::WireGuard]),
    ("addresses", &[Kind::WireGuard]),
    ("allowed_ips", &[Kind::WireGuard]),
    ("keepalive", &[Kind::WireGuard]),
    ("mtu", &[Kind::WireGuard]),
];

/// What stands before `://`.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Http,
    Https,
    Socks5,
    WireGuard,
}

impl Kind {
    const fn scheme(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
            Self::Socks5 => "socks5",
            Self::WireGuard => "wireguard",
        }
    }
}

/// What a tunnel's `url` says.
enum Url {
    At(Kind, Authority),
    Connector(String),
}

/// Reads all tunnels. One with a problem is left out; its name still counts as configured.
pub(super) fn tunnels(
    root: &mut Fields<'_>,
    references: &References<'_>,
) -> (BTreeSet<String>, BTreeMap<String, Tunnel>) {
    let (mut names, mut tunnels) = (BTreeSet::new(), BTreeMap::new());
    for (name, dict) in root.named("tunnels") {
        if let Err(message) = slug(&name) {
            root.problem(&format!("tunnels.{name}"), message);
        }
        let mut fields = root.at(format!("tunnels.{name}"), dict);
        let url = required(&mut fields, "url", |fields| fields.parse("url", url));
        let tunnel = if let Some(url) = url {
            tunnel(&mut fields, url, references)
        } else {
            // What the other keys should be depends on it; they are known all the same.
            for (key, _) in KEYS {
                fields.value(key);
            }
            None
        };
        fields.finish();
        names.insert(name.clone());
        if let Some(tunnel) = tunnel {
            tunnels.insert(name, tunnel);
        }
    }
    (names, tunnels)
}

fn tunnel(fields: &mut Fields<'_>, url: Url, references: &References<'_>) -> Option<Tunnel> {
    let (kind, shown) = match &url {
        Url::At(kind, _) => (Some(*kind), kind.scheme()),
        Url::Connector(_) => (None, "connector"),
    };
    for (key, kinds) in KEYS {
        if fields.has(key) && !kind.is_some_and(|kind| kinds.contains(&kind)) {
            fields.value(key);
            fields.problem(key, format!("{shown} tunnels have no such key"));
        }
    }
    match url {
        Url::At(kind @ (Kind::Http | Kind::Https), proxy) => {
            let credentials = credentials(fields, references);
            let tls = (kind == Kind::Https).then(|| tls(fields.table("tls"), references));
            Some(Tunnel::Http(HttpTunnel { proxy, tls, credentials }))
        }
        Url::At(Kind::Socks5, proxy) => {
            let credentials = basic(fields, references);
            for (key, length) in credentials.iter().flat_map(|(name, password)| {
                [("username", name.len()), ("password", password.len())]
            }) {
                if length > SOCKS_BYTES_MAX {
                    let message = format!("SOCKS5 has at most {SOCKS_BYTES_MAX} bytes here");
                    fields.problem(key, message);
                }
            }
            Some(Tunnel::Socks5(SocksTunnel { proxy, credentials }))
        }
        Url::At(Kind::WireGuard, peer) => wireguard(fields, peer, references),
        Url::Connector(name) => Some(Tunnel::Connector(name)),
    }
}

/// Reads `url`. No problem shows any of it: it may hold a password where none belongs.
fn url(text: &str) -> Result<Url, String> {
    const FORMS: &str =
        "expected http://, https://, socks5:// or wireguard:// with HOST:PORT, or connector:NAME";
    if let Some(name) = text.strip_prefix("connector:") {
        slug(name)?;
        return Ok(Url::Connector(name.to_owned()));
    }
    let (scheme, rest) = text.split_once("://").ok_or(FORMS)?;
    let (kind, port) = match scheme {
        "http" => (Kind::Http, 80),
        "https" => (Kind::Https, 443),
        "socks5" => (Kind::Socks5, 1080),
        "wireguard" => (Kind::WireGuard, 51_820),
        _ => return Err(FORMS.into()),
    };
    if rest.contains('@') {
        return Err("no user name or password belongs here; write username = \"…\" and password = { file = \"…\" }".into());
    }
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    if rest.contains(['/', '?', '#']) {
        return Err("nothing belongs behind the host and port".into());
    }
    let bracketed = rest.ends_with(']');
    let has_port = !bracketed && rest.contains(':');
    let authority =
        if has_port { Authority::parse(rest) } else { Authority::parse(&format!("{rest}:{port}")) };
    Ok(Url::At(kind, authority.map_err(|fault| fault.to_string())?))
}

fn credentials(fields: &mut Fields<'_>, references: &References<'_>) -> Option<Credentials> {
    if fields.has("token") && fields.has("password") {
        fields.problem("token", "give username and password, or token, not both");
    }
    let token = fields.read("token", |value| {
        super::read::token(references, Base::Tagged, value).map(Credentials::Bearer)
    });
    let basic = basic(fields, references);
    if basic.as_ref().is_some_and(|(name, _)| name.contains(':')) {
        fields.problem("username", "a user name has no colon (RFC 7617)");
    }
    token.or_else(|| basic.map(|(name, password)| Credentials::Basic(name, password)))
}

fn basic(fields: &mut Fields<'_>, references: &References<'_>) -> Option<(String, Secret)> {
    if fields.has("username") != fields.has("password") {
        fields.problem("username", "username and password belong together");
    }
    let name = fields.parse("username", |text| {
        if text.is_empty() || text.contains(char::is_control) {
            Err("a user name is not empty and has no control characters")
        } else {
            Ok(text.to_owned())
        }
    });
    let password = fields.read("password", |value| references.secret(Base::Tagged, value));
    name.zip(password)
}

fn tls(mut fields: Fields<'_>, references: &References<'_>) -> TunnelTls {
    let both = fields.has("client_cert_file") == fields.has("client_key_file");
    if !both {
        fields.problem("client_cert_file", "client_cert_file and client_key_file belong together");
    }
    let ca_file = fields.read("ca_file", |value| references.roots(Base::Tagged, value));
    let pem = |value: &Value| references.pem(Base::Tagged, value);
    let client = fields.read("client_cert_file", pem).zip(fields.read("client_key_file", pem));
    if let Some((certificate, key)) = &client {
        for (key, message) in references.tls_faults(None, Some((certificate, key))) {
            fields.problem(key, message);
        }
    }
    fields.finish();
    TunnelTls { ca_file, client }
}

fn wireguard(
    fields: &mut Fields<'_>,
    peer: Authority,
    references: &References<'_>,
) -> Option<Tunnel> {
    const KEY: &str = "a WireGuard key is 32 bytes in base64";
    let secret_key = |value: &Value| {
        let secret = references.secret(Base::Tagged, value)?;
        let key = key_base64(secret.expose().trim_ascii()).ok_or(KEY)?;
        Ok(Secret::new(key.to_vec()))
    };
    let private_key =
        required(fields, "private_key", |fields| fields.read("private_key", secret_key));
    let preshared_key = fields.read("preshared_key", secret_key);
    let peer_public_key = required(fields, "peer_public_key", |fields| {
        fields.parse("peer_public_key", |text| {
            let key = key_base64(text.as_bytes()).and_then(|key| <[u8; 32]>::try_from(&**key).ok());
            key.ok_or(KEY)
        })
    });
    let addresses = nets(fields, "addresses", interface_address);
    let allowed_ips = nets(fields, "allowed_ips", parse_net);
    let keepalive = fields.has("keepalive").then(|| duration(fields, "keepalive", KEEPALIVE));
    let mtu = fields.read("mtu", |value| {
        let number = value.to_u128().and_then(|number| u32::try_from(number).ok());
        number
            .filter(|number| MTU.contains(number))
            .and_then(|number| u16::try_from(number).ok())
            .ok_or_else(|| format!("expected a number from {} to {}", MTU.start(), MTU.end()))
    });
    Some(Tunnel::WireGuard(Box::new(WireGuardTunnel {
        peer,
        private_key: private_key?,
        preshared_key,
        peer_public_key: peer_public_key?,
        addresses,
        allowed_ips,
        keepalive,
        mtu: mtu.unwrap_or(MTU_DEFAULT),
    })))
}

/// An address with the size of its network, or alone: `10.9.0.2/24`, as `ip address add` has it.
fn interface_address(text: &str) -> Result<IpNet, String> {
    text.parse::<IpNet>().or_else(|_| parse_net(text))
}

fn nets(
    fields: &mut Fields<'_>,
    key: &'static str,
    parse: impl Fn(&str) -> Result<IpNet, String>,
) -> Vec<IpNet> {
    let before = fields.problem_count();
    let there = fields.has(key);
    let nets = fields.list(key, parse).unwrap_or_default();
    if !there {
        fields.problem(key, "this key is required");
    } else if nets.is_empty() && fields.problem_count() == before {
        fields.problem(key, "list at least one");
    }
    nets
}
