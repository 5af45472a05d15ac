//! What stands around the scenes: the targets, what DNS says of them, a receiver, a gateway.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use anyhow::anyhow;
use jiff::{SignedDuration, Timestamp};
use rustls::crypto::aws_lc_rs;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::{
    client::{CLIENT, Client},
    gateway::{CONFIGURATION, Gateway, Setting},
    inside::{self, Inside},
    name_server::{NameServer, Zone},
    receiver::{DELIVERIES, Receiver, Validity, Visits},
};
use crate::{policy::address::Class, store::Sighting};

/// An address of a cloud's metadata service, which hands out credentials to whoever asks.
const METADATA: IpAddr = IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254));

/// A private address that no target approves.
const PRIVATE: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 20, 0, 7));

/// A global address. The gateway refuses before it dials; besides, it is one of those that drop
/// what they get (AS112, RFC 7535), and the demo's gateway can send from loopback only.
const GLOBAL: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 31, 196, 7));

/// The file in which the gateway finds the client's token.
const TOKEN_FILE: &str = "client.token";

/// The one in which it finds what it signs webhooks with.
const SECRET_FILE: &str = "signing.secret";

/// The one with the certificates that it trusts besides the system's.
const ROOTS_FILE: &str = "receiver.pem";

/// The receiver's address, which the targets that use it approve.
const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// Hosts of the demo. `.example` is set aside for examples (RFC 2606).
pub(super) mod host {
    /// The one that is reached.
    pub(crate) const JIRA: &str = "jira.acme.example";
    /// The one that webhooks are delivered to.
    pub(crate) const HOOKS: &str = "hooks.acme.example";
    /// A target whose certificate has expired.
    pub(crate) const OLD: &str = "old.acme.example";
    /// A target behind whose port nothing listens.
    pub(crate) const STOPPED: &str = "stopped.acme.example";
    /// A target with a base path.
    pub(crate) const SHARED: &str = "shared.acme.example";
    /// A target whose name leads to a private address.
    pub(crate) const GITLAB: &str = "gitlab.acme.example";
    /// A target whose name leads to a metadata address.
    pub(crate) const METADATA: &str = "metadata.acme.example";
    /// A target whose name leads to a global and a private address at once.
    pub(crate) const MIXED: &str = "mixed.acme.example";
    /// A target whose name was global when last seen.
    pub(crate) const MOVED: &str = "moved.acme.example";
    /// A target whose name does not exist.
    pub(crate) const GONE: &str = "gone.acme.example";
    /// A private host behind a SOCKS5 hop.
    pub(crate) const WIKI: &str = "wiki.acme.example";
    /// One behind an HTTP CONNECT hop.
    pub(crate) const DOCS: &str = "docs.acme.example";
    /// One behind WireGuard.
    pub(crate) const BUILDS: &str = "builds.acme.example";
    /// One behind a reverse connector.
    pub(crate) const DESK: &str = "desk.acme.example";
    /// A target of somebody else.
    pub(crate) const OTHER: &str = "jira.other.example";
    /// A host of no target.
    pub(crate) const UNKNOWN: &str = "files.unknown.example";
}

/// The name under which [`host::MOVED`] is a target.
const MOVED_TARGET: &str = "acme-moved";

/// How long ago the gateway has seen it global.
const SEEN_AGO: SignedDuration = SignedDuration::from_hours(24);

/// Everything that a scene needs.
pub(super) struct Stage {
    /// The gateway.
    pub(super) gateway: Gateway,
    /// A client of it.
    pub(super) client: Client,
    /// What listens at the addresses that are reached.
    receiver: Receiver,
    /// What has let its certificate expire.
    old: Receiver,
    /// The private network.
    pub(super) inside: Inside,
    /// A port of loopback on which nothing listens.
    pub(super) closed: SocketAddr,
    _closed: Socket,
    _names: NameServer,
}

impl Stage {
    /// Starts everything.
    ///
    /// # Errors
    /// What does not start, and why.
    pub(super) async fn set() -> anyhow::Result<Self> {
        let (token, secret) = (random_token()?, random_token()?);
        let place = format!("https://{}/files?user=7", host::UNKNOWN);
        let names = [host::JIRA, host::HOOKS];
        let current = Validity::Current;
        let receiver = Receiver::start(LOOPBACK, &names, current, &secret, place.clone()).await?;
        let expired = Validity::Expired;
        let old = Receiver::start(LOOPBACK, &[host::OLD], expired, &secret, place).await?;
        let mut inside = Inside::start().await?;
        let names = NameServer::start(zone()).await?;
        let (reserved, closed) = closed_port()?;
        let (receiver_at, old_at) = (receiver.address, old.address);
        let ports = Ports { receiver: receiver_at, old: old_at, closed };
        let seen = Sighting {
            target_id: MOVED_TARGET.to_owned(),
            host: host::MOVED.to_owned(),
            class: Class::Global,
        };
        let yesterday = Timestamp::now().saturating_sub(SEEN_AGO)?.as_second();
        let mut gateway = Gateway::start(&Setting {
            files: &[
                (CONFIGURATION, &configuration(names.address, &ports, &inside)),
                (ROOTS_FILE, &[&*receiver.certificate.pem, &*old.certificate.pem].concat()),
                (TOKEN_FILE, &token),
                (SECRET_FILE, &secret),
                (inside::KEY_FILE, &inside.key),
            ],
            remembered: (&[seen], yesterday),
        })
        .await?;
        inside.connect(&mut gateway).await?;
        let trusted = [&receiver.certificate.der, &inside.receiver.certificate.der];
        let client = Client::new(gateway.proxy, token, &trusted)?;
        Ok(Self {
            gateway,
            client,
            receiver,
            old,
            inside,
            closed,
            _closed: reserved,
            _names: names,
        })
    }

    /// What has reached the receivers so far.
    pub(super) fn visits(&self) -> Visits {
        self.receiver.visits().and(self.old.visits()).and(self.inside.receiver.visits())
    }

    /// `host:port` of a private host.
    pub(super) fn private(&self, host: &str) -> String {
        format!("{host}:{}", self.inside.receiver.address.port())
    }

    /// `host:port` of what has let its certificate expire.
    pub(super) fn expired(&self) -> String {
        format!("{}:{}", host::OLD, self.old.address.port())
    }

    /// `host:port` of what stands on the receiver's port.
    pub(super) fn authority(&self, host: &str) -> String {
        format!("{host}:{}", self.receiver.address.port())
    }
}

fn zone() -> Zone {
    Zone::from([
        (host::JIRA, vec![LOOPBACK]),
        (host::HOOKS, vec![LOOPBACK]),
        (host::OLD, vec![LOOPBACK]),
        (host::STOPPED, vec![LOOPBACK]),
        (host::SHARED, vec![LOOPBACK]),
        (host::OTHER, vec![LOOPBACK]),
        (host::UNKNOWN, vec![LOOPBACK]),
        (host::WIKI, vec![inside::ADDRESS]),
        (host::DOCS, vec![inside::ADDRESS]),
        (host::BUILDS, vec![inside::ADDRESS]),
        (host::DESK, vec![inside::LOOPBACK]),
        (host::GITLAB, vec![PRIVATE]),
        (host::MOVED, vec![PRIVATE]),
        (host::METADATA, vec![METADATA]),
        (host::MIXED, vec![GLOBAL, LOOPBACK]),
    ])
}

/// Where everything listens, or does not.
struct Ports {
    receiver: SocketAddr,
    old: SocketAddr,
    closed: SocketAddr,
}

/// The gateway's configuration, as an operator would write it but for `allow_loopback`.
fn configuration(names: SocketAddr, ports: &Ports, inside: &Inside) -> String {
    let Ports { receiver, old, closed } = *ports;
    let private = inside.receiver.address;
    let approved = |network: &str| {
        format!(
            "private_network_policy = \"direct\"\nprivate_network_allowlist = [\"{network}\"]\n"
        )
    };
    let jira = |id: &str, host: &str, at: SocketAddr, path: &str, network: &str| {
        format!(
            "\n[[targets]]\nid = \"{id}\"\nprovider_key = \"jira_data_center\"\n\
             deployment_mode = \"self-hosted\"\nbase_url = \"https://{host}:{}{path}\"\n\
             ownership = \"confirmed\"\n{network}",
            at.port()
        )
    };
    let loopback = approved("127.0.0.0/8");
    let tunnel = |name: &str, address: IpAddr| {
        format!(
            "private_network_policy = \"tunnel\"\nprivate_network_allowlist = [\"{address}/32\"]\n\
             tunnel = \"{name}\"\n"
        )
    };
    let metadata = approved("169.254.0.0/16");
    let hook = format!(
        "\n[[targets]]\nid = \"acme-hook\"\nprovider_key = \"generic_webhook\"\n\
         deployment_mode = \"webhook-only\"\n\
         base_url = \"https://{}:{}{DELIVERIES}\"\n\
         signing_secret = {{ file = \"{SECRET_FILE}\" }}\n\
         ownership = \"confirmed\"\n{loopback}",
        host::HOOKS,
        receiver.port()
    );
    let targets = [
        jira("acme-jira", host::JIRA, receiver, "", &loopback),
        jira("acme-old", host::OLD, old, "", &loopback),
        jira("acme-stopped", host::STOPPED, closed, "", &loopback),
        jira("acme-shared", host::SHARED, receiver, "/jira", &loopback),
        jira("acme-gitlab", host::GITLAB, receiver, "", ""),
        jira("acme-metadata", host::METADATA, receiver, "", &metadata),
        jira("acme-mixed", host::MIXED, receiver, "", &loopback),
        jira(MOVED_TARGET, host::MOVED, receiver, "", ""),
        jira("acme-wiki", host::WIKI, private, "", &tunnel("acme-socks5", inside::ADDRESS)),
        jira("acme-docs", host::DOCS, private, "", &tunnel("acme-proxy", inside::ADDRESS)),
        jira("acme-builds", host::BUILDS, private, "", &tunnel("acme-wireguard", inside::ADDRESS)),
        jira("acme-desk", host::DESK, private, "", &tunnel("acme-connector", inside::LOOPBACK)),
        jira("acme-gone", host::GONE, receiver, "", ""),
        jira("other-jira", host::OTHER, receiver, "", &loopback),
    ];
    format!(
        "[egress]\nip = [\"127.0.0.1\"]\n\
         [proxy]\nlisten = [\"127.0.0.1:0\"]\n\
         [admin]\nlisten = [\"127.0.0.1:0\"]\n\
         [[clients]]\nname = \"{CLIENT}\"\ntoken = {{ file = \"{TOKEN_FILE}\" }}\n\
         targets = [\"acme-*\"]\n\
         [dns]\nservers = [\"{names}\"]\n\
         [tls]\nextra_roots = [\"{ROOTS_FILE}\"]\n\
         [policy]\nrequire_current_check = false\nallow_loopback = true\n\
         {}{}{hook}",
        inside.tunnels(),
        targets.concat()
    )
}

/// A port of loopback at which connections are refused: it is taken, so that nobody else begins to
/// listen there, and not listened on.
fn closed_port() -> anyhow::Result<(Socket, SocketAddr)> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
    socket.bind(&SockAddr::from(SocketAddr::new(LOOPBACK, 0)))?;
    let address = socket.local_addr()?.as_socket().ok_or_else(|| anyhow!("not an address"))?;
    Ok((socket, address))
}

/// 128 random bits, new for each demo.
fn random_token() -> anyhow::Result<String> {
    let mut bytes = [0; 16];
    let random = aws_lc_rs::default_provider().secure_random;
    random.fill(&mut bytes).map_err(|_| anyhow!("no random bytes"))?;
    Ok(format!("{:032x}", u128::from_be_bytes(bytes)))
}
