//! Rule 1: who asks.

use crate::support::{
    config::Config,
    gateway::{Event, Gateway},
    h2::H2,
    http::{Conn, connect_head},
    lab::{self, Lab, PUBLIC},
    receiver::Receiver,
};
use base64::{Engine as _, prelude::BASE64_STANDARD};

const TOKEN: &str = "app-token-7d9f1c3e5a";
const OTHER_TOKEN: &str = "other-token-1b2d4f6a8c";
const UNKNOWN: (u16, &str, &str) =
    (407, "GATEWAY_CLIENT_UNAUTHENTICATED", "client_unauthenticated");

/// Two clients: `app` may use everything, `other` only targets called `other-…`.
fn with_clients(lab: &Lab) -> Config {
    let app = lab.secret("app.token", TOKEN);
    let other = lab.secret("other.token", OTHER_TOKEN);
    for name in ["acme.example", "other.example"] {
        lab.dns.addresses(name, &[PUBLIC]);
    }
    lab.config()
        .client(&format!(
            "name = \"app\"\ntoken = {{ file = \"{}\" }}\ntargets = [\"*\"]",
            app.display()
        ))
        .client(&format!(
            "name = \"other\"\ntoken = {{ file = \"{}\" }}\ntargets = [\"other-*\"]",
            other.display()
        ))
        .self_hosted("acme", "https://acme.example")
        .self_hosted("other-one", "https://other.example")
}

fn basic(name: &str, token: &str) -> String {
    format!("Basic {}", BASE64_STANDARD.encode(format!("{name}:{token}")))
}

async fn status(gateway: &Gateway, authority: &str, authorization: &str) -> u16 {
    let fields = [("Proxy-Authorization", authorization)];
    gateway.connect_with(authority, &fields).await.reply.status
}

#[test]
fn the_right_token_opens_the_way_in_both_schemes() {
    lab::run(async |lab| {
        let _receiver = Receiver::echo((PUBLIC, 443));
        let gateway = lab.gateway(&with_clients(&lab)).await;
        for authorization in [
            basic("app", TOKEN),
            basic("app", TOKEN).replace("Basic", "basic"),
            format!("Bearer {TOKEN}"),
            format!("bearer {TOKEN}"),
        ] {
            assert_eq!(status(&gateway, "acme.example:443", &authorization).await, 200);
        }
        let event = gateway.wait_event("a tunnel's", Event::is_canonical).await;
        assert_eq!(event.text("client"), "app", "{event:?}");
    });
}

#[test]
fn no_or_wrong_credentials_are_answered_with_a_challenge() {
    lab::run(async |lab| {
        let receiver = Receiver::echo((PUBLIC, 443));
        let gateway = lab.gateway(&with_clients(&lab)).await;
        let wrong = [
            basic("app", "wrong-token-of-somebody"),
            basic("app", ""),
            basic("app", &TOKEN[..TOKEN.len() - 1]),
            basic("app", &format!("{TOKEN}x")),
            basic("app", &TOKEN.to_uppercase()),
            basic("other", TOKEN),
            basic("nobody", TOKEN),
            basic("", TOKEN),
            format!("Basic {}", BASE64_STANDARD.encode(TOKEN)),
            "Basic".to_owned(),
            "Basic !!!".to_owned(),
            "Bearer".to_owned(),
            "Bearer wrong-token-of-somebody".to_owned(),
            format!("Bearer {TOKEN} {TOKEN}"),
            format!("Digest {TOKEN}"),
            TOKEN.to_owned(),
            String::new(),
        ];
        let bare = gateway.connect("acme.example:443").await.reply;
        let mut replies = vec![bare];
        for authorization in &wrong {
            let fields = [("Proxy-Authorization", authorization.as_str())];
            replies.push(gateway.connect_with("acme.example:443", &fields).await.reply);
        }
        // The field of the target's own credentials identifies nobody here.
        let fields = [("Authorization", basic("app", TOKEN))];
        let fields = fields.each_ref().map(|(name, value)| (*name, value.as_str()));
        replies.push(gateway.connect_with("acme.example:443", &fields).await.reply);
        assert_eq!(replies.len(), wrong.len() + 2);
        for reply in &replies {
            gateway.assert_refused(reply, UNKNOWN).await;
            let challenges: Vec<&str> = reply
                .fields
                .iter()
                .filter(|(name, _)| name == "proxy-authenticate")
                .map(|(_, value)| value.as_str())
                .collect();
            let all = challenges.join(", ");
            assert!(all.contains("Basic realm=\"") && all.contains("Bearer"), "{all}");
        }
        receiver.assert_not_reached();
        assert_eq!(lab.dns.asked(), Vec::<String>::new());
        assert!(!gateway.log_text().contains("wrong-token-of-somebody"));
        assert!(!gateway.log_text().contains(&basic("app", TOKEN)[6..]));
    });
}

#[test]
fn two_credentials_at_once_are_none() {
    lab::run(async |lab| {
        let receiver = Receiver::echo((PUBLIC, 443));
        let gateway = lab.gateway(&with_clients(&lab)).await;
        let (app, other) = (basic("app", TOKEN), basic("other", OTHER_TOKEN));
        for fields in [
            [("Proxy-Authorization", app.as_str()), ("Proxy-Authorization", other.as_str())],
            [("Proxy-Authorization", other.as_str()), ("Proxy-Authorization", app.as_str())],
        ] {
            let reply = gateway.connect_with("acme.example:443", &fields).await.reply;
            assert!([400, 407].contains(&reply.status), "{reply:?}");
        }
        receiver.assert_not_reached();
    });
}

#[test]
fn who_asks_is_settled_before_what_is_asked() {
    lab::run(async |lab| {
        let gateway = lab.gateway(&with_clients(&lab)).await;
        gateway.refuse("nobody.example:443", UNKNOWN).await;
        let fields = [("Proxy-Authorization", basic("app", TOKEN))];
        let fields = fields.each_ref().map(|(name, value)| (*name, value.as_str()));
        let reply = gateway.connect_with("nobody.example:443", &fields).await.reply;
        let no_target = (403, "SELF_HOSTED_BASE_URL_UNSAFE", "no_target");
        gateway.assert_refused(&reply, no_target).await;
    });
}

#[test]
fn a_client_reaches_its_own_targets_only() {
    lab::run(async |lab| {
        let receiver = Receiver::echo((PUBLIC, 443));
        let gateway = lab.gateway(&with_clients(&lab)).await;
        let other = basic("other", OTHER_TOKEN);
        let fields = [("Proxy-Authorization", other.as_str())];
        let reply = gateway.connect_with("acme.example:443", &fields).await.reply;
        let forbidden = (403, "GATEWAY_CLIENT_FORBIDDEN", "client_forbidden");
        let event = gateway.assert_refused(&reply, forbidden).await;
        assert_eq!(event.text("client"), "other", "{event:?}");
        assert_eq!(reply.field("proxy-authenticate"), None, "a challenge for a policy denial");
        receiver.assert_not_reached();
        assert_eq!(status(&gateway, "other.example:443", &other).await, 200);
    });
}

#[test]
fn http2_asks_for_credentials_stream_by_stream() {
    lab::run(async |lab| {
        let _receiver = Receiver::echo((PUBLIC, 443));
        let gateway = lab.gateway(&with_clients(&lab)).await;
        let client = H2::open(gateway.proxy).await;
        let bearer = format!("Bearer {TOKEN}");
        let fields = [("proxy-authorization", bearer.as_str())];
        assert!(client.connect("acme.example:443", &fields).await.is_ok());
        let refused = client.connect("acme.example:443", &[]).await.err().unwrap();
        gateway.assert_refused(&refused, UNKNOWN).await;
    });
}

#[test]
fn a_token_can_come_from_the_environment() {
    lab::run(async |lab| {
        let _receiver = Receiver::echo((PUBLIC, 443));
        lab.secret("unused", "an-environment-token-9a8b");
        lab.dns.addresses("acme.example", &[PUBLIC]);
        let config = lab
            .config()
            .client("name = \"app\"\ntoken = { env = \"EGRESS_CLIENT_TOKEN\" }\ntargets = [\"*\"]")
            .self_hosted("acme", "https://acme.example");
        let gateway = Gateway::start(&lab, &config, |command| {
            command.env("EGRESS_CLIENT_TOKEN", "an-environment-token-9a8b");
        })
        .await;
        let bearer = "Bearer an-environment-token-9a8b";
        assert_eq!(status(&gateway, "acme.example:443", bearer).await, 200);
        assert_eq!(status(&gateway, "acme.example:443", "Bearer EGRESS_CLIENT_TOKEN").await, 407);
    });
}

#[test]
fn a_certificates_name_identifies_a_client_when_it_is_the_whole_name() {
    lab::run(async |lab| {
        let _receiver = Receiver::echo((PUBLIC, 443));
        lab.dns.addresses("acme.example", &[PUBLIC]);
        let ca = lab.ca("proxy-ca");
        let server = ca.server(&["proxy.internal"]);
        let tls = format!(
            "{{ cert_file = \"{}\", key_file = \"{}\", client_ca_file = \"{}\" }}",
            server.cert_file.display(),
            server.key_file.display(),
            ca.file.display()
        );
        let config = lab
            .config()
            .set_toml("proxy.tls", &tls)
            .client(
                "name = \"app\"\ncertificate_names = [\"spiffe://webriskops/app\"]\n\
                 targets = [\"*\"]",
            )
            .self_hosted("acme", "https://acme.example");
        let gateway = lab.gateway(&config).await;

        let own = ca.client("spiffe://webriskops/app");
        for alpn in ["http/1.1", "h2"] {
            let tls = ca.client_config(Some(&own), &[alpn]);
            let mut conn = Conn::open_tls(gateway.proxy, tls, "proxy.internal").await.unwrap();
            if alpn == "h2" {
                let client = H2::over(conn).await;
                assert!(client.connect("acme.example:443", &[]).await.is_ok());
            } else {
                conn.send(connect_head("acme.example:443", &[])).await;
                assert_eq!(conn.reply().await.status, 200);
            }
        }
        let event = gateway.wait_event("a tunnel's", Event::is_canonical).await;
        assert_eq!(event.text("client"), "app", "{event:?}");

        for uri in ["spiffe://webriskops/app2", "spiffe://webriskops/ap", "spiffe://evil/app"] {
            let other = ca.client(uri);
            let tls = ca.client_config(Some(&other), &["http/1.1"]);
            let mut conn = Conn::open_tls(gateway.proxy, tls, "proxy.internal").await.unwrap();
            conn.send(connect_head("acme.example:443", &[])).await;
            let reply = conn.reply().await;
            gateway.assert_refused(&reply, UNKNOWN).await;
        }

        // The right name, said by an authority that nobody trusts.
        let stranger = lab.ca("stranger").client("spiffe://webriskops/app");
        for identity in [Some(&stranger), None] {
            let tls = ca.client_config(identity, &["http/1.1"]);
            let answer = async {
                let mut conn = Conn::open_tls(gateway.proxy, tls, "proxy.internal").await?;
                conn.try_send(connect_head("acme.example:443", &[])).await?;
                conn.try_reply().await
            };
            // Refused in the handshake, or answered with 407: both keep strangers out.
            if let Ok(reply) = answer.await {
                assert_eq!(reply.status, 407, "{reply:?}");
            }
        }
    });
}

#[test]
fn without_clients_everybody_on_loopback_may_ask() {
    lab::run(async |lab| {
        let _receiver = Receiver::echo((PUBLIC, 443));
        let gateway = lab.gateway_with_acme().await;
        gateway.tunnel("acme.example:443").await;
        // Credentials that nobody asked for do no harm.
        assert_eq!(status(&gateway, "acme.example:443", &basic("any", "thing")).await, 200);
    });
}
