//! The scenes, in the order in which they are shown.

use super::{
    client::{Ask, Way},
    receiver::{DELIVERIES, MOVED},
    scene::{Expect, Scene},
    stage::{Stage, host},
};

const UNSAFE: &str = "SELF_HOSTED_BASE_URL_UNSAFE";

/// All of them: one that passes, then what is refused, from the request to the connection; then
/// what the gateway relays itself.
pub(super) fn scenes(stage: &Stage) -> Vec<Scene> {
    let at = |host| Ask::of(stage.authority(host));
    let mut scenes = vec![Scene {
        title: "an approved target",
        story: "acme-jira owns this host and port, and its address is on the target's allowlist.",
        ask: Ask { path: "/rest/api/2/serverInfo", ..at(host::JIRA) },
        expect: Expect::Allowed,
    }];
    scenes.extend(about_the_request(stage));
    scenes.extend(about_names(stage));
    scenes.extend(about_addresses(stage));
    scenes.extend(about_connections(stage));
    scenes.extend(about_deliveries(stage));
    scenes.extend(about_answers(stage));
    scenes.extend(behind_tunnels(stage));
    scenes
}

/// Hosts that are reached through their customer's tunnel only, one for each kind.
fn behind_tunnels(stage: &Stage) -> [Scene; 4] {
    let at = |host, path| Ask { path, ..Ask::of(stage.private(host)) };
    [
        Scene {
            title: "a private host behind a SOCKS5 hop",
            story: "Its address, 10.20.0.9, is on no network of this machine. The customer's hop is \
                    asked for that\n   vetted address, and leads there and nowhere else.",
            ask: at(host::WIKI, "/wiki"),
            expect: Expect::Allowed,
        },
        Scene {
            title: "a private host behind an HTTP CONNECT hop",
            story: "The same address behind the customer's proxy, which is asked for it and never for \
                    a name.",
            ask: at(host::DOCS, "/docs"),
            expect: Expect::Allowed,
        },
        Scene {
            title: "a private host behind WireGuard",
            story: "The same address again. Gateway and customer speak WireGuard in user space: no \
                    root, no interface.",
            ask: at(host::BUILDS, "/builds"),
            expect: Expect::Allowed,
        },
        Scene {
            title: "a private host behind a reverse connector",
            story: "This customer lets nobody in. Its connector dialled in, enrolled by a token that \
                    is good once, and\n   opens 127.0.0.9 and this port, as its own list says.",
            ask: at(host::DESK, "/desk"),
            expect: Expect::Allowed,
        },
    ]
}

/// Two of them once their far ends are gone.
pub(super) fn without_their_tunnels(stage: &Stage) -> [Scene; 2] {
    let unreachable = || Expect::Refused {
        status: 502,
        code: "SELF_HOSTED_TUNNEL_UNREACHABLE",
        cause: "tunnel_unreachable",
    };
    let [socks5, _proxy, _wireguard, connector] = behind_tunnels(stage);
    [
        Scene {
            title: "the SOCKS5 hop stopped",
            story: "Nothing is sent around it, directly least of all.",
            expect: unreachable(),
            ..socks5
        },
        Scene {
            title: "the connector stopped",
            story: "It was killed just now. Here the private address could even be dialled from the \
                    gateway, and is not.",
            expect: unreachable(),
            ..connector
        },
    ]
}

/// Refused before anything is resolved.
fn about_the_request(stage: &Stage) -> [Scene; 4] {
    let at = |host| Ask::of(stage.authority(host));
    [
        Scene {
            title: "a wrong proxy password",
            story: "Who asks comes first: without a valid token nothing is looked at.",
            ask: Ask { knows_token: false, ..at(host::JIRA) },
            expect: Expect::Refused {
                status: 407,
                code: "GATEWAY_CLIENT_UNAUTHENTICATED",
                cause: "client_unauthenticated",
            },
        },
        Scene {
            title: "a host that nobody registered",
            story: "It resolves and would answer. Nothing leaves for a host that no target owns.",
            ask: at(host::UNKNOWN),
            expect: Expect::Refused { status: 403, code: UNSAFE, cause: "no_target" },
        },
        Scene {
            title: "somebody else's target",
            story: "other-jira is a target, but this client may use acme-* only.",
            ask: at(host::OTHER),
            expect: Expect::Refused {
                status: 403,
                code: "GATEWAY_CLIENT_FORBIDDEN",
                cause: "client_forbidden",
            },
        },
        Scene {
            title: "CONNECT where only a path is approved",
            story: "acme-shared is /jira on a shared host, and in a tunnel the gateway sees no paths.",
            ask: Ask { path: "/jira/", ..at(host::SHARED) },
            expect: Expect::Refused { status: 403, code: UNSAFE, cause: "connect_not_allowed" },
        },
    ]
}

/// Refused for what DNS says, or does not say.
fn about_names(stage: &Stage) -> [Scene; 3] {
    let at = |host| Ask::of(stage.authority(host));
    [
        Scene {
            title: "a name that does not exist",
            story: "The name server answers NXDOMAIN; the gateway looks nowhere else.",
            ask: at(host::GONE),
            expect: Expect::Refused {
                status: 502,
                code: "SELF_HOSTED_DNS_FAILED",
                cause: "dns_nxdomain",
            },
        },
        Scene {
            title: "rebinding: two kinds of address at once",
            story: "The name leads to a global address and to an approved private one. Either alone \
                    would pass.",
            ask: at(host::MIXED),
            expect: Expect::Refused { status: 403, code: UNSAFE, cause: "dns_rebinding" },
        },
        Scene {
            title: "rebinding: global yesterday, private today",
            story: "The gateway keeps what a name led to, restarts included. This one has moved \
                    inside.",
            ask: at(host::MOVED),
            expect: Expect::Refused { status: 403, code: UNSAFE, cause: "dns_rebinding" },
        },
    ]
}

/// Refused for where the name leads.
fn about_addresses(stage: &Stage) -> [Scene; 2] {
    let at = |host| Ask::of(stage.authority(host));
    [
        Scene {
            title: "a private address that nobody approved",
            story: "The name leads to 10.20.0.7, and the target's policy for private addresses is \
                    deny.",
            ask: at(host::GITLAB),
            expect: Expect::Refused {
                status: 403,
                code: "SELF_HOSTED_PRIVATE_NETWORK_REJECTED",
                cause: "address_private",
            },
        },
        Scene {
            title: "a cloud's metadata address",
            story: "The name leads to 169.254.169.254. The target's allowlist holds 169.254.0.0/16, \
                    which is no help.",
            ask: at(host::METADATA),
            expect: Expect::Refused { status: 403, code: UNSAFE, cause: "address_forbidden" },
        },
    ]
}

/// Failed or cut on the way.
fn about_connections(stage: &Stage) -> [Scene; 2] {
    [
        Scene {
            title: "a port on which nothing listens",
            story: "Everything is approved, and the far side refuses the connection.",
            ask: Ask::of(format!("{}:{}", host::STOPPED, stage.closed.port())),
            expect: Expect::Refused {
                status: 502,
                code: "SELF_HOSTED_CONNECTIVITY_BLOCKED",
                cause: "connect_refused",
            },
        },
        Scene {
            title: "another name inside the tunnel",
            story: "The tunnel is for jira.acme.example, and TLS inside it asks for another site \
                    there.",
            ask: Ask {
                way: Way::Tunnel { server_name: Some("intranet.acme.example") },
                ..Ask::of(stage.authority(host::JIRA))
            },
            expect: Expect::Cut { code: UNSAFE, cause: "sni_mismatch" },
        },
    ]
}

/// Signed, and carried out once.
fn about_deliveries(stage: &Stage) -> [Scene; 2] {
    const KEY: &str = "ticket-4711";
    const BODY: &str = r#"{"event":"ticket.created","ticket":4711}"#;
    let delivery = || Ask {
        way: Way::Delivery { key: KEY, body: BODY },
        path: DELIVERIES,
        ..Ask::of(stage.authority(host::HOOKS))
    };
    [
        Scene {
            title: "a webhook, signed on its way",
            story: "The client knows no secret. The gateway signs what it relays over its own TLS, \
                    and the\n   receiver verifies that.",
            ask: delivery(),
            expect: Expect::Delivered,
        },
        Scene {
            title: "the same webhook again",
            story: "The idempotency key has been delivered: the answer is repeated, the delivery is \
                    not.",
            ask: delivery(),
            expect: Expect::Replayed,
        },
    ]
}

/// Refused for what the receiver does.
fn about_answers(stage: &Stage) -> [Scene; 2] {
    [
        Scene {
            title: "a redirect to a place that nobody approved",
            story: "acme-jira answers with a redirect elsewhere. The client is not sent there, and \
                    is told that\n   place's origin only.",
            ask: Ask { way: Way::Relay, path: MOVED, ..Ask::of(stage.authority(host::JIRA)) },
            expect: Expect::Withheld { status: 502, code: UNSAFE, cause: "redirect_blocked" },
        },
        Scene {
            title: "a certificate that has expired",
            story: "The gateway trusts its issuer, and its time is over. There is no switch to go on \
                    anyway.",
            ask: Ask { way: Way::Relay, ..Ask::of(stage.expired()) },
            expect: Expect::Distrusted {
                status: 502,
                code: "SELF_HOSTED_TLS_INVALID",
                cause: "tls_expired",
            },
        },
    ]
}
