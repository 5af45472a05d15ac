//! Redirects: passed on where the target's rules approve the place, and never followed.

use crate::support::{
    config::Config,
    gateway::Gateway,
    http::Request,
    lab::{self, Lab, PUBLIC},
    origin::{Origin, answer},
};

const BLOCKED: (u16, &str, &str) = (502, "SELF_HOSTED_BASE_URL_UNSAFE", "redirect_blocked");

/// Answers with the status and the `Location` that the request asks for.
fn redirecting(request: &Request) -> Vec<u8> {
    let status = request.field("x-status").unwrap_or("302");
    let location = request.fields.iter().find(|(name, _)| name == "x-location");
    let fields = location.map(|(_, value)| ("Location", value.as_str()));
    answer(&format!("{status} Elsewhere"), fields.as_slice(), "see s3cret there")
}

async fn scene(lab: &Lab, add: impl FnOnce(Config) -> Config) -> (Origin, Gateway) {
    let (ca, tls) = lab.acme();
    let origin = Origin::start((PUBLIC, 443), tls, redirecting);
    let gateway = lab.gateway(&add(lab.config().trusting(&ca))).await;
    (origin, gateway)
}

async fn ask(gateway: &Gateway, status: &str, location: &str) -> crate::support::http::Reply {
    let fields = [("X-Status", status), ("X-Location", location)];
    gateway.fetch("GET", "http://acme.example/", &fields, b"").await
}

#[test]
fn a_redirect_is_blocked_unless_the_target_says_otherwise() {
    lab::run(async |lab| {
        let (origin, gateway) =
            scene(&lab, |config| config.self_hosted("acme", "https://acme.example")).await;
        for status in ["300", "301", "302", "303", "307", "308"] {
            for location in ["https://acme.example/login", "/login", "https://evil.example/", ""] {
                let reply = ask(&gateway, status, location).await;
                let event = gateway.assert_refused(&reply, BLOCKED).await;
                assert_eq!(event.text("target"), "acme");
            }
        }
        // Not redirects: a created resource, an unchanged one, and a 3xx that names no place.
        for (status, location) in
            [("201", "https://evil.example/"), ("304", "https://evil.example/")]
        {
            let reply = ask(&gateway, status, location).await;
            assert_eq!(reply.status.to_string(), status);
            assert_eq!(reply.field("location"), Some(location));
        }
        let reply = gateway.fetch("GET", "http://acme.example/", &[], b"").await;
        assert_eq!(reply.status, 302, "{reply:?}");
        assert_eq!(origin.requests().len(), 27, "a redirect was followed");
    });
}

#[test]
fn a_blocked_redirect_names_the_place_s_origin_and_drops_the_rest() {
    lab::run(async |lab| {
        let (_origin, gateway) =
            scene(&lab, |config| config.self_hosted("acme", "https://acme.example")).await;
        let location = "https://evil.example:8443/path-s3cret?token=s3cret#s3cret";
        let reply = ask(&gateway, "302", location).await;
        gateway.assert_refused(&reply, BLOCKED).await;
        let said = String::from_utf8_lossy(&reply.body).into_owned();
        assert!(said.contains("https://evil.example:8443"), "{said}");
        let all = format!("{reply:?}{said}{}", gateway.log_text());
        assert!(!all.contains("s3cret"), "{all}");
        assert_eq!(reply.field("location"), None);
    });
}

#[test]
fn a_redirect_within_the_origin_is_passed_on_where_the_target_allows_it() {
    lab::run(async |lab| {
        let (origin, gateway) = scene(&lab, |config| {
            let same = "redirects = \"same-origin\"";
            config.self_hosted_with("acme", "https://acme.example/", same)
        })
        .await;
        let good = [
            "/login?next=%2F",
            "login",
            "?page=2",
            "//acme.example/x",
            "https://acme.example/x",
            "https://ACME.example:443/x",
        ];
        for location in good {
            let reply = ask(&gateway, "307", location).await;
            assert_eq!((reply.status, reply.field("location")), (307, Some(location)));
            assert_eq!(reply.body, b"see s3cret there");
        }
        let bad = [
            "http://acme.example/x",
            "https://acme.example:8443/x",
            "https://evil.example/",
            "//evil.example/",
            "///evil.example/",
            "https://acme.example@evil.example/",
            "https://user@acme.example/",
            "https://acme.example.evil.example/",
            "https:evil.example",
            "https:/evil.example",
            "\\\\evil.example",
            "/\\evil.example",
            "javascript:alert(1)",
            "https://127.0.0.1/",
            "https://2130706433/",
            "https://[::1/",
        ];
        for location in bad {
            eprintln!("{location}");
            let reply = ask(&gateway, "302", location).await;
            gateway.assert_refused(&reply, BLOCKED).await;
        }
        assert_eq!(origin.requests().len(), good.len() + bad.len());
    });
}

#[test]
fn further_origins_are_approved_by_name() {
    lab::run(async |lab| {
        let (_origin, gateway) = scene(&lab, |config| {
            let listed = "redirects = [\"https://sso.example\"]";
            config.self_hosted_with("acme", "https://acme.example/", listed)
        })
        .await;
        for location in ["https://sso.example/login?x", "/here"] {
            let reply = ask(&gateway, "302", location).await;
            assert_eq!((reply.status, reply.field("location")), (302, Some(location)));
        }
        for location in
            ["http://sso.example/", "https://sso.example:8443/", "https://x.sso.example/"]
        {
            let reply = ask(&gateway, "302", location).await;
            gateway.assert_refused(&reply, BLOCKED).await;
        }
    });
}

#[test]
fn a_webhook_s_redirect_is_never_passed_on() {
    lab::run(async |lab| {
        let secret = lab.secret("hook.secret", "a-signing-secret-of-some-length");
        let (origin, gateway) = scene(&lab, |config| {
            let fields = format!("signing_secret = {{ file = \"{}\" }}", secret.display());
            config.webhook("hook", "https://acme.example/", &fields)
        })
        .await;
        let fields = [("X-Status", "307"), ("X-Location", "/")];
        let reply = gateway.fetch("POST", "http://acme.example/", &fields, b"{}").await;
        let expected = (502, "generic_webhook_redirect_blocked", "redirect_blocked");
        gateway.assert_refused(&reply, expected).await;
        assert_eq!(origin.requests().len(), 1);
    });
}

#[test]
fn two_locations_are_refused() {
    lab::run(async |lab| {
        let (ca, tls) = lab.acme();
        let _origin = Origin::start((PUBLIC, 443), tls, |_| {
            let fields = [("Location", "/here"), ("Location", "https://evil.example/")];
            answer("302 Found", &fields, "")
        });
        let same = "redirects = \"same-origin\"";
        let config = lab.config().trusting(&ca);
        let gateway =
            lab.gateway(&config.self_hosted_with("acme", "https://acme.example", same)).await;
        gateway.refuse_get("http://acme.example/", BLOCKED).await;
    });
}
