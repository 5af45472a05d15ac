//! Rules 1 to 3: whose a destination is, and whether it may be reached at all.

use crate::support::{
    config::Config,
    h2::H2,
    http::connect_head,
    lab::{self, Lab, PRIVATE, PUBLIC},
    receiver::Receiver,
    refusal::assert_problem,
};

const UNSAFE: &str = "SELF_HOSTED_BASE_URL_UNSAFE";
const NO_TARGET: (u16, &str, &str) = (403, UNSAFE, "no_target");

#[test]
fn a_host_that_no_target_owns_is_refused_before_it_is_resolved() {
    lab::run(async |lab| {
        let receiver = Receiver::echo((PUBLIC, 443));
        let gateway = lab.gateway_with_acme().await;
        for authority in [
            "other.example:443",
            "acme.example:80",
            "acme.example:8443",
            "jira.acme.example:443",
            "evilacme.example:443",
            "acme.example.evil.com:443",
            "93.184.215.14:443",
        ] {
            let event = gateway.refuse(authority, NO_TARGET).await;
            assert_eq!(event.text("mode"), "connect", "{event:?}");
        }
        assert_eq!(lab.dns.asked(), Vec::<String>::new());
        receiver.assert_not_reached();
    });
}

#[test]
fn a_target_owns_the_port_of_its_base_url_and_no_other() {
    lab::run(async |lab| {
        let _receiver = Receiver::echo((PUBLIC, 8443));
        lab.dns.addresses("acme.example", &[PUBLIC]);
        let gateway =
            lab.gateway(&lab.config().self_hosted("acme", "https://acme.example:8443")).await;
        gateway.tunnel("acme.example:8443").await;
        gateway.refuse("acme.example:443", NO_TARGET).await;
    });
}

#[test]
fn an_ip_literal_is_a_destination_like_any_other() {
    lab::run(async |lab| {
        let receiver = Receiver::echo((PUBLIC, 443));
        let gateway = lab.gateway(&lab.config().self_hosted("ip", "https://93.184.215.14")).await;
        let mut tunnel = gateway.tunnel("93.184.215.14:443").await;
        tunnel.send("hello").await;
        assert_eq!(tunnel.take(5).await, b"hello");
        assert_eq!(receiver.visits().len(), 1);
        assert_eq!(lab.dns.asked(), Vec::<String>::new());
    });
}

/// What a target's own fields forbid, by name.
async fn assert_field_refuses(lab: &Lab, fields: &str, expected: (u16, &str, &str)) {
    let receiver = Receiver::echo((PUBLIC, 443));
    lab.dns.addresses("acme.example", &[PUBLIC]);
    let config = lab.config().self_hosted_with("acme", "https://acme.example", fields);
    let gateway = lab.gateway(&config).await;
    let event = gateway.refuse("acme.example:443", expected).await;
    assert_eq!(event.text("target"), "acme", "{event:?}");
    let problem = assert_problem(&gateway.connect("acme.example:443").await.reply);
    assert_eq!(problem["target_id"], "acme");
    assert_eq!(lab.dns.asked(), Vec::<String>::new());
    receiver.assert_not_reached();
}

#[test]
fn a_target_of_unclear_ownership_is_never_reached() {
    lab::run(async |lab| {
        let expected = (403, UNSAFE, "ownership_unclear");
        assert_field_refuses(&lab, "ownership = \"unclear\"", expected).await;
    });
}

#[test]
fn a_disabled_target_is_never_reached() {
    lab::run(async |lab| {
        let reply = {
            lab.dns.addresses("acme.example", &[PUBLIC]);
            let config =
                lab.config().self_hosted_with("acme", "https://acme.example", "enabled = false");
            let gateway = lab.gateway(&config).await;
            let reply = gateway.connect("acme.example:443").await.reply;
            gateway.assert_refused(&reply, (403, UNSAFE, "")).await;
            reply
        };
        let cause = reply.json()["cause"].clone();
        assert!(cause == "target_disabled" || cause == "no_target", "{cause}");
        assert_eq!(lab.dns.asked(), Vec::<String>::new());
    });
}

#[test]
fn a_target_whose_provider_step_is_not_done_is_not_reached() {
    lab::run(async |lab| {
        let expected = (403, "PROVIDER_AUTH_REQUIRED", "");
        assert_field_refuses(&lab, "auth_status = \"required\"", expected).await;
    });
}

#[test]
fn a_target_that_forbids_connect_is_refused_and_the_relay_is_named() {
    lab::run(async |lab| {
        let expected = (403, UNSAFE, "connect_not_allowed");
        assert_field_refuses(&lab, "connect = \"deny\"", expected).await;
    });
}

#[test]
fn a_base_path_needs_the_relay_unless_the_target_says_otherwise() {
    lab::run(async |lab| {
        let _receiver = Receiver::echo((PUBLIC, 443));
        for name in ["path.example", "origin.example", "allow.example"] {
            lab.dns.addresses(name, &[PUBLIC]);
        }
        let config = lab
            .config()
            .self_hosted("path", "https://path.example/jira")
            .self_hosted_with("origin", "https://origin.example/jira", "scope = \"origin\"")
            .self_hosted_with("allow", "https://allow.example/jira", "connect = \"allow\"");
        let gateway = lab.gateway(&config).await;
        let expected = (403, UNSAFE, "connect_not_allowed");
        gateway.refuse("path.example:443", expected).await;
        let reply = gateway.connect("path.example:443").await.reply;
        let next_step = reply.json()["next_step"].as_str().unwrap().to_lowercase();
        assert!(next_step.contains("/targets/"), "{next_step}");
        gateway.tunnel("origin.example:443").await;
        gateway.tunnel("allow.example:443").await;
    });
}

#[test]
fn a_webhook_never_goes_through_connect() {
    lab::run(async |lab| {
        let receiver = Receiver::echo((PUBLIC, 443));
        let secret = lab.secret("hook.secret", "a-signing-secret-of-some-length");
        lab.dns.addresses("hook.example", &[PUBLIC]);
        let fields = format!("signing_secret = {{ file = \"{}\" }}", secret.display());
        let config = lab.config().webhook("hook", "https://hook.example/", &fields).webhook(
            "bare",
            "https://bare.example/",
            "",
        );
        let gateway = lab.gateway(&config).await;
        for authority in ["hook.example:443", "bare.example:443"] {
            let expected = (403, "generic_webhook_url_unsafe", "connect_not_allowed");
            gateway.refuse(authority, expected).await;
        }
        receiver.assert_not_reached();
        assert_eq!(lab.dns.asked(), Vec::<String>::new());
    });
}

#[test]
fn a_cloud_target_has_the_codes_of_its_mode() {
    lab::run(async |lab| {
        lab.dns.addresses("api.github.com", &[PUBLIC]);
        let gateway = lab.gateway(&lab.config().github_cloud("github", "")).await;
        let unreachable = "PROVIDER_BASE_URL_UNREACHABLE";
        gateway.refuse("api.github.com:443", (502, unreachable, "connect_refused")).await;
        let receiver = Receiver::echo((PUBLIC, 443));
        gateway.tunnel("api.github.com:443").await;
        receiver.first("a visit", |_| true).await;
        lab.dns.addresses("api.github.com", &["127.0.0.1".parse().unwrap()]);
        drop(gateway);
        // A fresh program, without what the first remembers of the name.
        let config = lab.config().set("state_dir", lab.dir().join("other").to_str().unwrap());
        let gateway = lab.gateway(&config.clone().github_cloud("github", "")).await;
        let blocked = "PROVIDER_BASE_URL_BLOCKED";
        gateway.refuse("api.github.com:443", (403, blocked, "address_forbidden")).await;
        let unclear = config.github_cloud("github", "ownership = \"unclear\"");
        let gateway = lab.gateway(&unclear).await;
        gateway.refuse("api.github.com:443", (403, blocked, "ownership_unclear")).await;
    });
}

/// Two targets on one origin, of which only `inside` may use a private address.
fn two_on_one_origin(lab: &Lab) -> Config {
    lab.dns.addresses("acme.example", &[PRIVATE]);
    let direct =
        "private_network_policy = \"direct\"\nprivate_network_allowlist = [\"10.20.0.0/24\"]";
    lab.config()
        .self_hosted_with("inside", "https://acme.example", direct)
        .self_hosted("outside", "https://acme.example")
}

#[test]
fn the_target_field_chooses_among_targets_of_one_origin() {
    lab::run(async |lab| {
        let receiver = Receiver::echo((PRIVATE, 443));
        let gateway = lab.gateway(&two_on_one_origin(&lab)).await;
        gateway.refuse("acme.example:443", (403, UNSAFE, "ambiguous_target")).await;

        let outside = [("X-WebRiskOps-Target", "outside")];
        let reply = gateway.connect_with("acme.example:443", &outside).await.reply;
        let rejected = (403, "SELF_HOSTED_PRIVATE_NETWORK_REJECTED", "address_private");
        let event = gateway.assert_refused(&reply, rejected).await;
        assert_eq!(event.text("target"), "outside");
        receiver.assert_not_reached();

        let inside = [("X-WebRiskOps-Target", "inside")];
        let mut allowed = gateway.connect_with("acme.example:443", &inside).await;
        assert_eq!(allowed.reply.status, 200, "{:?}", allowed.reply);
        allowed.conn.send("through").await;
        assert_eq!(allowed.conn.take(7).await, b"through");
        assert_eq!(receiver.visits()[0].bytes, b"through", "the field reached the target");

        let client = H2::open(gateway.proxy).await;
        assert!(client.connect("acme.example:443", &inside).await.is_ok());
        assert!(client.connect("acme.example:443", &outside).await.is_err());
    });
}

#[test]
fn the_target_field_opens_nothing_that_its_target_does_not_own() {
    lab::run(async |lab| {
        let receiver = Receiver::echo((PUBLIC, 443));
        lab.dns.addresses("other.example", &[PUBLIC]);
        let config = two_on_one_origin(&lab).self_hosted("other", "https://other.example");
        let gateway = lab.gateway(&config).await;
        for (authority, id) in [
            ("other.example:443", "inside"),
            ("acme.example:443", "other"),
            ("acme.example:443", "no-such-target"),
            ("evil.example:443", "inside"),
        ] {
            let fields = [("X-WebRiskOps-Target", id)];
            let reply = gateway.connect_with(authority, &fields).await.reply;
            gateway.assert_refused(&reply, (403, UNSAFE, "")).await;
        }
        for value in ["UPPER", "../inside", "", "inside, outside"] {
            let fields = [("X-WebRiskOps-Target", value)];
            let reply = gateway.connect_with("other.example:443", &fields).await.reply;
            assert!([400, 403].contains(&reply.status), "{value:?}: {reply:?}");
        }
        let twice = [("X-WebRiskOps-Target", "inside"), ("X-WebRiskOps-Target", "outside")];
        let reply = gateway.ask(connect_head("acme.example:443", &twice)).await.reply;
        gateway.assert_refused(&reply, (400, "GATEWAY_REQUEST_INVALID", "")).await;
        receiver.assert_not_reached();
    });
}

#[test]
fn an_optional_target_field_that_agrees_changes_nothing() {
    lab::run(async |lab| {
        let _receiver = Receiver::echo((PUBLIC, 443));
        let gateway = lab.gateway_with_acme().await;
        let fields = [("X-WebRiskOps-Target", "acme")];
        let reply = gateway.connect_with("acme.example:443", &fields).await.reply;
        assert_eq!(reply.status, 200, "{reply:?}");
    });
}

#[test]
fn a_request_that_is_not_connect_is_never_answered_from_the_inside() {
    lab::run(async |lab| {
        let gateway = lab.gateway_with_acme().await;
        // BYPASSES 28: nothing of the gateway's own is served to proxy clients.
        for path in ["/", "/metrics", "/healthz", "/v1/egress"] {
            let head = format!("GET {path} HTTP/1.1\r\nHost: {}\r\n\r\n", gateway.proxy);
            let reply = gateway.ask(head).await.reply;
            assert!(reply.status >= 400, "{path}: {reply:?}");
            assert_problem(&reply);
        }
    });
}
