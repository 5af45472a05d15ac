//! Base paths: what lies below them reaches the target, as written, and nothing else does.

use crate::support::{
    lab::{self, Lab, PUBLIC},
    origin::{Origin, ok},
};
use serde::Deserialize;

#[derive(Deserialize)]
struct Case {
    target: String,
    path: String,
    cause: Option<String>,
}

#[derive(Deserialize)]
struct Cases {
    case: Vec<Case>,
}

fn cases() -> Vec<Case> {
    let cases: Cases = toml::from_str(include_str!("../cases/paths.toml")).unwrap();
    assert!(cases.case.len() >= 50, "only {} cases", cases.case.len());
    cases.case
}

/// The targets of the cases, each on a host of its own.
async fn scene(lab: &Lab) -> (Origin, crate::support::gateway::Gateway) {
    const NAMES: [&str; 5] =
        ["jira.example", "origin.example", "gitlab.example", "root.example", "hook.example"];
    let ca = lab.ca("relay-ca");
    for name in NAMES {
        lab.dns.addresses(name, &[PUBLIC]);
    }
    let origin = Origin::start((PUBLIC, 443), Some(ca.server(&NAMES).server_config()), |_| ok(""));
    let secret = lab.secret("hook.secret", "a-signing-secret-of-some-length");
    let secret = format!("signing_secret = {{ file = \"{}\" }}", secret.display());
    let config = lab
        .config()
        .trusting(&ca)
        .self_hosted("jira", "https://jira.example/jira")
        .self_hosted_with("origin", "https://origin.example/jira", "scope = \"origin\"")
        .self_hosted("root", "https://root.example")
        .target(
            "id = \"gitlab\"\nprovider_key = \"gitlab_self_managed_issues\"\n\
             deployment_mode = \"self-hosted\"\nbase_url = \"https://gitlab.example/gitlab\"",
        )
        .webhook("hook", "https://hook.example/hooks/a?token=b", &secret);
    let gateway = lab.gateway(&config).await;
    (origin, gateway)
}

fn code(target: &str) -> &'static str {
    if target == "hook" { "generic_webhook_url_unsafe" } else { "SELF_HOSTED_BASE_URL_UNSAFE" }
}

#[test]
fn a_path_reaches_its_target_only_where_it_can_be_read_in_one_way_below_the_base() {
    lab::run(async |lab| {
        let (origin, gateway) = scene(&lab).await;
        let mut reached = 0;
        for Case { target, path, cause } in cases() {
            let head = format!(
                "GET http://{target}.example{path} HTTP/1.1\r\nHost: {target}.example\r\n\r\n"
            );
            let reply = gateway.ask(head).await.reply;
            match cause {
                None => {
                    assert_eq!(reply.status, 200, "{target} {path}: {reply:?}");
                    reached += 1;
                    let line = origin.requests().pop().unwrap().line;
                    assert_eq!(line, format!("GET {path} HTTP/1.1"), "{target}");
                }
                Some(cause) => {
                    eprintln!("{target} {path}");
                    gateway.assert_refused(&reply, (403, code(&target), &cause)).await;
                }
            }
            assert_eq!(origin.requests().len(), reached, "{target} {path}");
        }
    });
}

#[test]
fn a_path_behind_a_target_s_id_is_judged_like_any_other() {
    lab::run(async |lab| {
        let (origin, gateway) = scene(&lab).await;
        let mut reached = 0;
        for Case { target, path, cause } in cases() {
            let base = ["/jira", "/gitlab", "/hooks/a"].into_iter().find(|base| {
                path.strip_prefix(base)
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', '?']))
            });
            let same_base = match target.as_str() {
                "jira" | "origin" => base == Some("/jira"),
                "gitlab" => base == Some("/gitlab"),
                "hook" => base == Some("/hooks/a"),
                _ => true,
            };
            if !same_base {
                continue;
            }
            let rest =
                base.filter(|_| target != "root").map_or(path.as_str(), |base| &path[base.len()..]);
            let reply = gateway.get(&format!("/targets/{target}{rest}")).await;
            if target == "hook" && ["", "/?token=b"].contains(&rest) {
                // Without a query of its own, the webhook's is used; it is one URL, so that a slash
                // adds nothing.
                assert_eq!(reply.status, 200, "{reply:?}");
                reached += 1;
                continue;
            }
            match cause {
                None => {
                    assert_eq!(reply.status, 200, "{target} {rest}: {reply:?}");
                    reached += 1;
                    assert_eq!(
                        origin.requests().pop().unwrap().line,
                        format!("GET {path} HTTP/1.1")
                    );
                }
                Some(cause) => {
                    eprintln!("{target} {rest}");
                    gateway.assert_refused(&reply, (403, code(&target), &cause)).await;
                }
            }
        }
        assert!(reached >= 8, "only {reached} reached their target");
        assert_eq!(origin.requests().len(), reached);
    });
}

#[test]
fn of_targets_that_share_an_origin_the_one_with_the_longest_base_path_serves() {
    lab::run(async |lab| {
        let (ca, tls) = lab.acme();
        let _origin = Origin::start((PUBLIC, 443), tls, |_| ok(""));
        let config = lab
            .config()
            .trusting(&ca)
            .self_hosted("outer", "https://acme.example/a")
            .self_hosted("inner", "https://acme.example/a/b");
        let gateway = lab.gateway(&config).await;
        for (path, expected) in [("/a/x", "outer"), ("/a/b/x", "inner"), ("/a/bx", "outer")] {
            assert_eq!(gateway.get(&format!("http://acme.example{path}")).await.status, 200);
            let events = crate::support::eventually("the event", async || {
                let events = gateway.canonical();
                events.last().filter(|event| event.text("target") == expected).cloned()
            });
            events.await;
        }
        let unsafe_url = (403, "SELF_HOSTED_BASE_URL_UNSAFE", "outside_base_path");
        gateway.refuse_get("http://acme.example/c", unsafe_url).await;
    });
}
