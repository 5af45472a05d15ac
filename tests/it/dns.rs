//! Rule 5 and the whole-answer verdict: names that fail, change, or lead inside.

use crate::support::{
    canary::Canary,
    dns::{Answer, Dns},
    eventually,
    gateway::Gateway,
    http::{Conn, connect_head},
    lab::{self, Lab, METADATA, NAMESERVER, PRIVATE, PUBLIC, PUBLIC_2},
    receiver::Receiver,
};
use hickory_proto::rr::RecordType;
use std::net::{IpAddr, Ipv4Addr};
use tokio::time::Instant;

const FAILED: &str = "SELF_HOSTED_DNS_FAILED";
const FORBIDDEN: (u16, &str, &str) = (403, "SELF_HOSTED_BASE_URL_UNSAFE", "address_forbidden");
const REBINDING: (u16, &str, &str) = (403, "SELF_HOSTED_BASE_URL_UNSAFE", "dns_rebinding");
const PRIVATE_REFUSED: (u16, &str, &str) =
    (403, "SELF_HOSTED_PRIVATE_NETWORK_REJECTED", "address_private");
const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

async fn gateway_for(lab: &Lab, name: &str) -> Gateway {
    lab.gateway(&lab.config().self_hosted("acme", &format!("https://{name}"))).await
}

#[test]
fn each_way_a_name_can_fail_has_its_cause() {
    lab::run(async |lab| {
        let canary = Canary::everywhere(&[443]);
        let gateway = gateway_for(&lab, "acme.example").await;
        for (answer, cause) in [
            (Answer::NoSuchName, "dns_nxdomain"),
            (Answer::Failure, "dns_servfail"),
            (Answer::Refused, "dns_refused"),
            (Answer::Empty, "dns_no_address"),
            (Answer::Addresses(Vec::new(), 0), "dns_no_address"),
            (Answer::Alias("gone.example".to_owned()), "dns_nxdomain"),
        ] {
            lab.dns.answer("acme.example", answer);
            // A negative answer may be remembered for a moment.
            eventually(cause, async || {
                let reply = gateway.connect("acme.example:443").await.reply;
                let matches = reply.json()["cause"] == cause;
                gateway.assert_refused(&reply, (502, FAILED, "")).await;
                matches.then_some(())
            })
            .await;
        }
        canary.assert_silent().await;
    });
}

#[test]
fn the_problem_of_a_missing_name_reads_as_in_the_contract() {
    lab::run(async |lab| {
        let config = lab.config().self_hosted("acme-jira", "https://jira.acme.example");
        let gateway = lab.gateway(&config).await;
        let problem = gateway.connect("jira.acme.example:443").await.reply.json();
        for (field, expected) in [
            ("status", 502.into()),
            ("code", FAILED.into()),
            ("cause", "dns_nxdomain".into()),
            ("target_id", "acme-jira".into()),
            ("owner", "customer".into()),
            ("retryable", false.into()),
            ("retry_after_seconds", serde_json::Value::Null),
            ("fallback", ["portable_export", "ticket_only"].as_slice().into()),
            ("connectivity_check_id", serde_json::Value::Null),
        ] {
            assert_eq!(problem[field], expected, "{field}: {problem:#}");
        }
    });
}

#[test]
fn a_silent_server_is_given_up_within_the_limit() {
    lab::run(async |lab| {
        lab.dns.answer("acme.example", Answer::Silence);
        let config = lab.config().self_hosted("acme", "https://acme.example");
        let gateway = lab.gateway(&config.set("limits.dns_timeout", "1s")).await;
        let start = Instant::now();
        gateway.refuse("acme.example:443", (502, FAILED, "dns_timeout")).await;
        assert!(start.elapsed().as_secs() < 5, "took {:?}", start.elapsed());
    });
}

#[test]
fn a_second_server_answers_when_the_first_is_dead() {
    lab::run(async |lab| {
        let _receiver = Receiver::echo((PUBLIC, 443));
        lab.dns.addresses("acme.example", &[PUBLIC]);
        let config = lab.config().self_hosted("acme", "https://acme.example");
        let servers = format!("[\"{PUBLIC_2}:53\", \"{NAMESERVER}:53\"]");
        let gateway = lab.gateway(&config.set_toml("dns.servers", &servers)).await;
        gateway.tunnel("acme.example:443").await;
    });
}

#[test]
fn a_truncated_answer_is_asked_for_again_over_tcp() {
    lab::run(async |lab| {
        let _receiver = Receiver::echo((PUBLIC, 443));
        lab.dns.answer("acme.example", Answer::OnlyOverTcp(vec![PUBLIC]));
        let gateway = gateway_for(&lab, "acme.example").await;
        gateway.tunnel("acme.example:443").await;
    });
}

#[test]
fn an_answer_beyond_the_cap_is_refused_whole() {
    lab::run(async |lab| {
        let canary = Canary::everywhere(&[443]);
        let many = (0..=255).map(|last| IpAddr::from([93, 184, 216, last])).collect();
        lab.dns.answer("acme.example", Answer::OnlyOverTcp(many));
        let gateway = gateway_for(&lab, "acme.example").await;
        gateway.refuse("acme.example:443", (502, FAILED, "dns_answer_too_large")).await;
        canary.assert_silent().await;
    });
}

#[test]
fn a_cname_loop_ends() {
    lab::run(async |lab| {
        lab.dns.answer("acme.example", Answer::Alias("b.example".to_owned()));
        lab.dns.answer("b.example", Answer::Alias("acme.example".to_owned()));
        let gateway = gateway_for(&lab, "acme.example").await;
        gateway.refuse("acme.example:443", (502, FAILED, "")).await;
        assert!(lab.dns.asked().len() < 100, "{} questions", lab.dns.asked().len());
    });
}

#[test]
fn a_cname_is_followed_and_its_end_is_judged() {
    lab::run(async |lab| {
        let _receiver = Receiver::echo((PUBLIC, 443));
        let canary = Canary::everywhere(&[443]);
        lab.dns.answer("good.example", Answer::Alias("end.example".to_owned()));
        lab.dns.answer("bad.example", Answer::Alias("inside.example".to_owned()));
        lab.dns.answer("meta.example", Answer::Alias("metadata.google.internal".to_owned()));
        lab.dns.addresses("end.example", &[PUBLIC]);
        lab.dns.addresses("inside.example", &[LOOPBACK]);
        lab.dns.addresses("metadata.google.internal", &[METADATA]);
        let config = lab
            .config()
            .self_hosted("good", "https://good.example")
            .self_hosted("bad", "https://bad.example")
            .self_hosted("meta", "https://meta.example");
        let gateway = lab.gateway(&config).await;
        gateway.tunnel("good.example:443").await;
        gateway.refuse("bad.example:443", FORBIDDEN).await;
        gateway.refuse("meta.example:443", FORBIDDEN).await;
        canary.assert_silent().await;
    });
}

#[test]
fn one_bad_address_refuses_the_whole_answer_in_any_order() {
    lab::run(async |lab| {
        let canary = Canary::everywhere(&[443]);
        let receiver = Receiver::echo((PUBLIC, 443));
        let mapped_metadata: IpAddr = "::ffff:169.254.169.254".parse().unwrap();
        let six_loopback: IpAddr = "::1".parse().unwrap();
        let unique_local: IpAddr = "fd00::5".parse().unwrap();
        let cases = [
            (LOOPBACK, FORBIDDEN),
            (METADATA, FORBIDDEN),
            (six_loopback, FORBIDDEN),
            (mapped_metadata, FORBIDDEN),
            (PRIVATE, REBINDING),
            (unique_local, REBINDING),
        ];
        let mut config = lab.config();
        for (number, (bad, _)) in cases.iter().enumerate() {
            lab.dns.addresses(&format!("a{number}.example"), &[PUBLIC, *bad]);
            lab.dns.addresses(&format!("b{number}.example"), &[*bad, PUBLIC]);
            for letter in ["a", "b"] {
                let id = format!("{letter}{number}");
                config = config.self_hosted(&id, &format!("https://{id}.example"));
            }
        }
        let gateway = lab.gateway(&config).await;
        for (number, (_, expected)) in cases.into_iter().enumerate() {
            gateway.refuse(&format!("a{number}.example:443"), expected).await;
            gateway.refuse(&format!("b{number}.example:443"), expected).await;
        }
        receiver.assert_not_reached();
        canary.assert_silent().await;
    });
}

#[test]
fn a_global_and_a_private_address_together_are_rebinding_even_where_the_private_one_is_approved() {
    lab::run(async |lab| {
        let inside = Receiver::echo((PRIVATE, 443));
        let outside = Receiver::echo((PUBLIC, 443));
        lab.dns.addresses("acme.example", &[PRIVATE, PUBLIC]);
        let direct =
            "private_network_policy = \"direct\"\nprivate_network_allowlist = [\"10.20.0.0/24\"]";
        let config = lab.config().self_hosted_with("acme", "https://acme.example", direct);
        let gateway = lab.gateway(&config).await;
        gateway.refuse("acme.example:443", REBINDING).await;
        inside.assert_not_reached();
        outside.assert_not_reached();
        gateway
            .wait_metric("egress_policy_violations_total", &[("cause", "dns_rebinding")], |count| {
                count == 1.0
            })
            .await;
    });
}

/// Asks until the answer that DNS gives now has taken the place of a remembered one.
async fn refused_once_dns_is_asked_again(
    lab: &Lab,
    gateway: &Gateway,
    expected: (u16, &str, &str),
) {
    let before = lab.dns.queries("acme.example");
    let reply = eventually("the name is resolved anew", async || {
        let reply = gateway.connect("acme.example:443").await.reply;
        (lab.dns.queries("acme.example") > before).then_some(reply)
    })
    .await;
    gateway.assert_refused(&reply, expected).await;
}

#[test]
fn a_name_that_turns_private_is_rebinding() {
    lab::run(async |lab| {
        let inside = Receiver::echo((PRIVATE, 443));
        let _outside = Receiver::echo((PUBLIC, 443));
        let gateway = lab.gateway_with_acme().await;
        gateway.tunnel("acme.example:443").await;
        lab.dns.addresses("acme.example", &[PRIVATE]);
        refused_once_dns_is_asked_again(&lab, &gateway, REBINDING).await;
        lab.dns.addresses("acme.example", &[LOOPBACK]);
        refused_once_dns_is_asked_again(&lab, &gateway, FORBIDDEN).await;
        inside.assert_not_reached();
    });
}

#[test]
fn a_name_that_never_was_global_is_private_and_not_rebinding() {
    lab::run(async |lab| {
        let gateway = lab.gateway_with_acme().await;
        lab.dns.answer("acme.example", Answer::Failure);
        gateway.refuse("acme.example:443", (502, FAILED, "dns_servfail")).await;
        // BYPASSES 65: a failure at the first look opens nothing at the second.
        lab.dns.addresses("acme.example", &[PRIVATE]);
        refused_once_dns_is_asked_again(&lab, &gateway, PRIVATE_REFUSED).await;
    });
}

#[test]
fn rebinding_is_recognised_across_a_restart() {
    lab::run(async |lab| {
        let _outside = Receiver::echo((PUBLIC, 443));
        let mut gateway = lab.gateway_with_acme().await;
        gateway.tunnel("acme.example:443").await;
        gateway.signal("TERM");
        assert!(gateway.ended().await.success());
        let gateway = lab.gateway_with_acme().await;
        lab.dns.addresses("acme.example", &[PRIVATE]);
        gateway.refuse("acme.example:443", REBINDING).await;
    });
}

#[test]
fn rebinding_is_recognised_across_a_kill_right_after_the_first_answer() {
    lab::run(async |lab| {
        let _outside = Receiver::echo((PUBLIC, 443));
        // What is lost is lost in a race: one round proves little.
        for round in 0..10 {
            let name = format!("round{round}.example");
            let authority = format!("{name}:443");
            lab.dns.addresses(&name, &[PUBLIC]);
            let mut gateway = gateway_for(&lab, &name).await;
            gateway.tunnel(&authority).await;
            gateway.kill();
            let gateway = gateway_for(&lab, &name).await;
            lab.dns.addresses(&name, &[PRIVATE]);
            gateway.refuse(&authority, REBINDING).await;
        }
    });
}

#[test]
fn an_open_tunnel_stays_where_it_was_vetted() {
    lab::run(async |lab| {
        let inside = Receiver::echo((PRIVATE, 443));
        let _outside = Receiver::echo((PUBLIC, 443));
        let gateway = lab.gateway_with_acme().await;
        let mut tunnel = gateway.tunnel("acme.example:443").await;
        lab.dns.addresses("acme.example", &[PRIVATE]);
        tunnel.send("still").await;
        assert_eq!(tunnel.take(5).await, b"still");
        inside.assert_not_reached();
    });
}

#[test]
fn simultaneous_requests_for_one_name_share_one_question() {
    lab::run(async |lab| {
        let receiver = Receiver::echo((PUBLIC, 443));
        lab.dns.answer("acme.example", Answer::Addresses(vec![PUBLIC], 60));
        lab.dns.hold();
        let gateway = gateway_for(&lab, "acme.example").await;
        let mut waiting = Vec::new();
        for _ in 0..20 {
            let mut conn = Conn::open(gateway.proxy).await;
            conn.send(connect_head("acme.example:443", &[])).await;
            waiting.push(conn);
        }
        eventually("the name is asked for", async || {
            (lab.dns.queries("acme.example") > 0).then_some(())
        })
        .await;
        gateway.wait_metric("egress_connections", &[("kind", "client")], |open| open >= 20.0).await;
        lab.dns.release();
        for conn in &mut waiting {
            assert_eq!(conn.reply().await.status, 200);
        }
        // A connection stands before the receiver's own task has taken it in.
        eventually("everybody reaches the receiver", async || {
            (receiver.visits().len() == 20).then_some(())
        })
        .await;
        for kind in [RecordType::A, RecordType::AAAA] {
            assert!(lab.dns.queries_of("acme.example", kind) <= 1, "{:?}", lab.dns.asked());
        }
    });
}

#[test]
fn an_answer_is_remembered_for_its_time_to_live() {
    lab::run(async |lab| {
        let _receiver = Receiver::echo((PUBLIC, 443));
        lab.dns.answer("acme.example", Answer::Addresses(vec![PUBLIC], 60));
        let gateway = gateway_for(&lab, "acme.example").await;
        for _ in 0..5 {
            gateway.tunnel("acme.example:443").await;
        }
        assert_eq!(lab.dns.queries_of("acme.example", RecordType::A), 1);
    });
}

/// Puts a file over one of the system's, in this test's own mount namespace.
fn overlay(lab: &Lab, system: &str, content: &str) {
    let own = lab.file(&system.replace('/', "-"), content);
    let status = std::process::Command::new("mount")
        .args(["--bind", own.to_str().unwrap(), system])
        .status()
        .unwrap();
    assert!(status.success(), "mount --bind over {system}");
    assert_eq!(std::fs::read_to_string(system).unwrap(), content);
}

#[test]
fn the_hosts_file_is_never_used() {
    lab::run(async |lab| {
        let listed = Receiver::echo((PUBLIC_2, 443));
        let published = Receiver::echo((PUBLIC, 443));
        overlay(
            &lab,
            "/etc/hosts",
            &format!("{PUBLIC_2} only-listed.example acme.example\n127.0.0.1 localhost\n"),
        );
        lab.dns.addresses("acme.example", &[PUBLIC]);
        let config = lab
            .config()
            .self_hosted("acme", "https://acme.example")
            .self_hosted("listed", "https://only-listed.example");
        let gateway = lab.gateway(&config).await;
        gateway.refuse("only-listed.example:443", (502, FAILED, "dns_nxdomain")).await;
        gateway.tunnel("acme.example:443").await;
        published.first("a visit", |_| true).await;
        listed.assert_not_reached();
    });
}

#[test]
fn the_systems_servers_are_used_by_default_and_its_search_domains_never() {
    lab::run(async |lab| {
        let receiver = Receiver::echo((PUBLIC, 443));
        let conf = format!("nameserver {NAMESERVER}\nsearch corp.example\noptions ndots:5\n");
        overlay(&lab, "/etc/resolv.conf", &conf);
        for name in ["acme.example", "missing.example.corp.example", "single.corp.example"] {
            lab.dns.addresses(name, &[PUBLIC]);
        }
        let config = lab
            .config()
            .set_toml("dns", "{}")
            .self_hosted("acme", "https://acme.example")
            .self_hosted("missing", "https://missing.example")
            .self_hosted("single", "https://single");
        let gateway = lab.gateway(&config).await;
        gateway.tunnel("acme.example:443").await;
        gateway.refuse("missing.example:443", (502, FAILED, "dns_nxdomain")).await;
        gateway.refuse("single:443", (502, FAILED, "dns_nxdomain")).await;
        let asked = lab.dns.asked();
        assert!(asked.iter().all(|name| !name.contains("corp")), "{asked:?}");
        assert_eq!(receiver.visits().len(), 1);
    });
}

#[test]
fn proxy_variables_of_the_environment_are_never_used() {
    lab::run(async |lab| {
        let other_proxy = Receiver::echo((PRIVATE, 3128));
        let receiver = Receiver::echo((PUBLIC, 443));
        lab.dns.addresses("acme.example", &[PUBLIC]);
        let config = lab.config().self_hosted("acme", "https://acme.example");
        let gateway = Gateway::start(&lab, &config, |command| {
            for name in ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"] {
                let value = format!("http://{PRIVATE}:3128");
                command.env(name, &value).env(name.to_lowercase(), value);
            }
            command.env("NO_PROXY", "evil.example").env("no_proxy", "evil.example");
        })
        .await;
        gateway.tunnel("acme.example:443").await;
        receiver.first("a visit", |_| true).await;
        let reply = gateway.connect("evil.example:443").await.reply;
        assert_eq!(reply.status, 403, "{reply:?}");
        other_proxy.assert_not_reached();
    });
}

#[test]
fn only_the_configured_server_is_asked() {
    lab::run(async |lab| {
        let _receiver = Receiver::echo((PUBLIC, 443));
        let system = Dns::start((PUBLIC_2, 53).into()).await;
        overlay(&lab, "/etc/resolv.conf", &format!("nameserver {PUBLIC_2}\n"));
        system.addresses("acme.example", &[PUBLIC]);
        let gateway = gateway_for(&lab, "acme.example").await;
        gateway.refuse("acme.example:443", (502, FAILED, "dns_nxdomain")).await;
        assert_eq!(system.asked(), Vec::<String>::new());
    });
}
