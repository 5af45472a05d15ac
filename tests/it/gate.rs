//! Traffic is gated on connectivity checks: who is checked, how often, and what that does to
//! requests.

use crate::support::{
    config::Config,
    dns::Answer,
    eventually,
    gateway::Gateway,
    hook::{self, database},
    http::{Conn, Reply},
    lab::{self, Lab, PUBLIC, PUBLIC_2},
    origin::{Origin, Tls, answer, ok},
    receiver::Receiver,
    tls::Ca,
};
use egress_gateway::store::Store;
use jiff::{Timestamp, ToSpan, tz::TimeZone};
use serde_json::json;
use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{io::AsyncWriteExt, sync::watch, task::JoinSet, time::Instant};

/// What the catalogue asks a Jira server for.
const PROBE: &str = "GET /rest/api/2/serverInfo HTTP/1.1";

const CHECKS: &str = "egress_connectivity_checks_total";
const STATE: &str = "egress_target_state";
const EXPIRY: &str = "egress_target_certificate_expiry_timestamp_seconds";

const DNS_FAILED: &str = "SELF_HOSTED_DNS_FAILED";
const CONNECTIVITY: &str = "SELF_HOSTED_CONNECTIVITY_BLOCKED";
const FIREWALL: &str = "SELF_HOSTED_FIREWALL_BLOCKED";

/// The gate as it is by default.
fn gated(lab: &Lab) -> Config {
    lab.config().set("policy.require_current_check", true)
}

/// The gate in front of `acme`.
fn gated_acme(lab: &Lab, ca: &Ca) -> Config {
    gated(lab).trusting(ca).self_hosted("acme", "https://acme.example")
}

/// Answers every request at once.
fn answering(tls: &Tls) -> Origin {
    Origin::start((PUBLIC, 443), tls.clone(), |_| ok("done"))
}

fn probes(origin: &Origin) -> usize {
    origin.requests().iter().filter(|request| request.line == PROBE).count()
}

/// How many requests came that were no probe.
fn carried(origin: &Origin) -> usize {
    origin.requests().len() - probes(origin)
}

async fn wait_probes(origin: &Origin, count: usize) {
    eventually(&format!("{count} probes"), async || (probes(origin) >= count).then_some(())).await;
}

async fn wait_state(gateway: &Gateway, target: &str, state: &str) {
    let labels = [("target", target), ("state", state)];
    gateway.wait_metric(STATE, &labels, |value| value == 1.0).await;
    assert_eq!(gateway.metrics().await.sum(STATE, &[("target", target)]), 1.0, "in two states");
}

/// Targets that accept a connection and never say a word, at [`PUBLIC_2`].
fn with_mute_targets(lab: &Lab, mut config: Config, count: usize) -> Config {
    for number in 0..count {
        let host = format!("mute-{number}.example");
        lab.dns.addresses(&host, &[PUBLIC_2]);
        config = config.self_hosted(&format!("mute-{number}"), &format!("https://{host}"));
    }
    config
}

/// A refusal that a check decided: with the check's id, and when to come again.
async fn assert_gated(gateway: &Gateway, reply: &Reply, expected: (u16, &str, &str)) -> String {
    gateway.assert_refused(reply, expected).await;
    let problem = reply.json();
    assert!(problem["retry_after_seconds"].as_u64().is_some_and(|wait| wait >= 1), "{problem:#}");
    let id = problem["connectivity_check_id"].as_str();
    id.unwrap_or_else(|| panic!("no check: {problem:#}")).to_owned()
}

// === the gate ===

#[test]
fn the_first_request_of_an_unchecked_target_runs_one_check_and_goes_on() {
    lab::run(async |lab| {
        let (ca, tls) = lab.acme();
        let origin = answering(&tls);
        let mute = Receiver::silent((PUBLIC_2, 443));
        // The scheduler has its hands full, so it is the request that has the target checked.
        let config = with_mute_targets(&lab, gated(&lab).trusting(&ca), 40);
        let gateway = lab.gateway(&config).await;
        eventually("the scheduler is busy", async || (mute.visits().len() == 16).then_some(()))
            .await;
        gateway.reload(&config.self_hosted("acme", "https://acme.example")).await;
        assert_eq!(probes(&origin), 0);
        assert_eq!(gateway.get("http://acme.example/issue").await.status, 200);
        let seen = origin.requests();
        let lines: Vec<_> = seen.iter().map(|request| request.line.as_str()).collect();
        assert_eq!(lines, [PROBE, "GET /issue HTTP/1.1"]);
        assert_eq!(seen[0].names(), ["accept", "host", "user-agent"]);
        // From now on there is one.
        for _ in 0..3 {
            assert_eq!(gateway.get("http://acme.example/issue").await.status, 200);
        }
        assert_eq!((probes(&origin), carried(&origin)), (1, 4));
        assert_eq!(mute.visits().len(), 16, "the scheduler was not busy");
    });
}

#[test]
fn two_hundred_first_requests_share_one_check() {
    lab::run(async |lab| {
        let (ca, tls) = lab.acme();
        let origin = answering(&tls);
        lab.dns.hold();
        let gateway = lab.gateway(&gated_acme(&lab, &ca).set("limits.dns_timeout", "20s")).await;
        let mut requests = JoinSet::new();
        for _ in 0..200 {
            let mut conn = Conn::open(gateway.proxy).await;
            conn.send("GET http://acme.example/issue HTTP/1.1\r\nHost: acme.example\r\n\r\n").await;
            requests.spawn(async move { conn.reply().await.status });
        }
        gateway.wait_metric("egress_connections", &[("kind", "client")], |n| n == 200.0).await;
        origin.assert_not_reached();
        lab.dns.release();
        let statuses = requests.join_all().await;
        assert_eq!(statuses, [200; 200]);
        assert_eq!((probes(&origin), carried(&origin)), (1, 200));
        assert_eq!(gateway.metrics().await.sum(CHECKS, &[]), 1.0);
    });
}

#[test]
fn a_blocked_target_is_refused_as_its_check_says_without_a_packet_to_it() {
    lab::run(async |lab| {
        let ca = lab.ca("nobody-trusts");
        for host in ["refused.example", "hook.example", "untrusted.example"] {
            lab.dns.addresses(host, &[PUBLIC]);
        }
        let tls = ca.server(&["untrusted.example"]).server_config();
        let untrusted = Origin::start((PUBLIC, 8443), Some(tls), |_| ok("done"));
        let secret = lab.secret("hook-secret", "a-signing-secret-of-the-hook");
        let secret = format!("signing_secret = {{ file = \"{}\" }}", secret.display());
        let config = gated(&lab)
            .self_hosted("nowhere", "https://nowhere.example")
            .self_hosted("refused", "https://refused.example")
            .self_hosted("untrusted", "https://untrusted.example:8443")
            .webhook("hook", "https://hook.example/in", &secret);
        let gateway = lab.gateway(&config).await;
        let rows = [
            ("nowhere", "nowhere.example:443", (502, DNS_FAILED, "dns_nxdomain")),
            ("refused", "refused.example:443", (502, CONNECTIVITY, "connect_refused")),
            (
                "untrusted",
                "untrusted.example:8443",
                (502, "SELF_HOSTED_TLS_INVALID", "tls_unknown_issuer"),
            ),
            ("hook", "", (502, "WEBHOOK_ENDPOINT_UNREACHABLE", "connect_refused")),
        ];
        let mut ids = Vec::new();
        for (id, authority, expected) in rows {
            // The first one may be the one that waits for the check.
            let path = if id == "hook" { "/targets/hook" } else { &format!("/targets/{id}/x") };
            let reply = gateway.fetch("POST", path, &[], b"{}").await;
            let check = assert_gated(&gateway, &reply, expected).await;
            let told = |event: &crate::support::gateway::Event| {
                event.text("message") == "connectivity" && event.text("target_id") == id
            };
            let event = gateway.wait_event(id, told).await;
            assert_eq!(event.text("connectivity_check_id"), check);
            assert_eq!((event.text("state"), event.text("code")), ("blocked", expected.1));
            assert_eq!(event.text("cause"), expected.2);
            // Told beforehand too, with what the other rules say now.
            let url = json!({"method": "POST", "url": path});
            let told = gateway.api("POST", "/v1/explain", &[], Some(&url)).await.json();
            assert_eq!(told["decision"], "refused", "{told:#}");
            assert_eq!(
                (told["code"].as_str(), told["cause"].as_str()),
                (Some(expected.1), Some(expected.2))
            );
            let rules = told["rules"].as_array().unwrap();
            let rule = rules.iter().find(|rule| rule["name"] == "check_current").unwrap();
            assert_eq!(rule["verdict"], "refused");
            assert_eq!(told["addresses"].as_array().unwrap().is_empty(), id == "nowhere");
            assert!(told["pinned"].is_null());
            ids.push((authority, check, path.to_owned(), expected));
        }
        // Somebody listens now; nothing comes before the next check.
        let receiver = Receiver::silent((PUBLIC, 443));
        let asked = lab.dns.asked().len();
        let accepted = untrusted.accepted();
        for (authority, check, path, expected) in &ids {
            let reply = gateway.fetch("POST", path, &[], b"{}").await;
            assert_eq!(&assert_gated(&gateway, &reply, *expected).await, check);
            if !authority.is_empty() {
                let reply = gateway.connect(authority).await.reply;
                assert_eq!(&assert_gated(&gateway, &reply, *expected).await, check);
            }
        }
        receiver.assert_not_reached();
        assert_eq!(untrusted.accepted(), accepted);
        assert_eq!(lab.dns.asked().len(), asked, "{:?}", lab.dns.asked());
        assert_eq!(gateway.metrics().await.sum(CHECKS, &[("state", "blocked")]), 4.0);
    });
}

#[test]
fn a_target_whose_check_turned_bad_stops_new_requests_while_open_ones_live_on() {
    lab::run(async |lab| {
        let (ca, tls) = lab.acme();
        let (later, _) = watch::channel(false);
        let gate = later.clone();
        let origin = Origin::with((PUBLIC, 443), tls, move |mut conn| {
            let mut later = gate.subscribe();
            async move {
                while let Ok(Some(request)) = conn.request().await {
                    let head = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfirst";
                    conn.send(head).await;
                    if request.line.contains("/stream") {
                        later.wait_for(|later| *later).await.unwrap();
                    }
                    conn.send("later").await;
                }
            }
        });
        let gateway = lab.gateway(&gated_acme(&lab, &ca).set("policy.check_ttl", "3s")).await;
        let mut stream = Conn::open(gateway.proxy).await;
        stream.send("GET http://acme.example/stream HTTP/1.1\r\nHost: acme.example\r\n\r\n").await;
        assert_eq!(stream.reply_head().await.status, 200);
        assert_eq!(stream.take(5).await, b"first");
        let tunnel = gateway.tunnel("acme.example:443").await;
        let tunnel = tunnel.start_tls(ca.client_config(None, &[]), "acme.example").await.unwrap();
        let mut tunnel = BufferedTunnel(tunnel);
        assert!(tunnel.get("/before").await.ends_with("firstlater"));

        lab.dns.answer("acme.example", Answer::NoSuchName);
        wait_state(&gateway, "acme", "blocked").await;
        let refused = (502, DNS_FAILED, "dns_nxdomain");
        let accepted = origin.accepted();
        let reply = gateway.get("http://acme.example/issue").await;
        assert_gated(&gateway, &reply, refused).await;
        let reply = gateway.connect("acme.example:443").await.reply;
        assert_gated(&gateway, &reply, refused).await;
        assert_eq!(origin.accepted(), accepted);

        assert!(tunnel.get("/after").await.ends_with("firstlater"));
        later.send_replace(true);
        assert_eq!(stream.take(5).await, b"later");
    });
}

/// HTTPS through a tunnel.
struct BufferedTunnel(tokio_rustls::client::TlsStream<Conn>);

impl BufferedTunnel {
    /// Asks, and gives the whole answer.
    async fn get(&mut self, path: &str) -> String {
        use tokio::io::AsyncReadExt as _;
        let request = format!("GET {path} HTTP/1.1\r\nHost: acme.example\r\n\r\n");
        self.0.write_all(request.as_bytes()).await.unwrap();
        self.0.flush().await.unwrap();
        let mut answer = String::new();
        crate::support::within("the answer through the tunnel", async {
            while !answer.ends_with("later") {
                let mut buffer = [0; 1024];
                let read = self.0.read(&mut buffer).await.unwrap();
                assert!(read > 0, "the tunnel ended: {answer}");
                answer.push_str(std::str::from_utf8(&buffer[..read]).unwrap());
            }
        })
        .await;
        answer
    }
}

#[test]
fn a_webhook_target_is_gated_and_never_probed() {
    lab::run(async |lab| {
        let (config, tls) = hook::config(&lab);
        let config = config.set("policy.require_current_check", true).set("policy.check_ttl", "1s");
        let origin = answering(&tls);
        let gateway = lab.gateway(&config).await;
        wait_state(&gateway, "hook", "ready").await;
        assert_eq!(origin.accepted(), 1, "the walk ends at TLS");
        assert_eq!(hook::post(&gateway, "key", b"body").await.status, 200);
        gateway.wait_metric(CHECKS, &[("state", "ready")], |count| count >= 3.0).await;
        assert_eq!(origin.only().line, "POST /hook HTTP/1.1");
        // It is gated all the same.
        lab.dns.answer("acme.example", Answer::NoSuchName);
        wait_state(&gateway, "hook", "blocked").await;
        let reply = hook::post(&gateway, "another", b"body").await;
        let refused = (502, "WEBHOOK_ENDPOINT_UNREACHABLE", "dns_nxdomain");
        assert_gated(&gateway, &reply, refused).await;
        assert_eq!(origin.requests().len(), 1);
    });
}

#[test]
fn a_cloud_target_is_not_gated() {
    lab::run(async |lab| {
        let (ca, tls) = lab.acme();
        let acme = answering(&tls);
        lab.dns.addresses("api.github.com", &[PUBLIC_2]);
        let tls = ca.server(&["api.github.com"]).server_config();
        let github = Origin::start((PUBLIC_2, 443), Some(tls), |_| ok("done"));
        let gateway = lab.gateway(&gated_acme(&lab, &ca).github_cloud("github", "")).await;
        // By then the scheduler has seen both.
        wait_state(&gateway, "acme", "ready").await;
        github.assert_not_reached();
        assert_eq!(gateway.get("http://api.github.com/user").await.status, 200);
        assert_eq!(github.only().line, "GET /user HTTP/1.1");
        let metrics = gateway.metrics().await;
        assert_eq!(metrics.sum(CHECKS, &[]), 1.0);
        assert_eq!(metrics.sum(STATE, &[("target", "github")]), 0.0);
        assert_eq!(probes(&acme), 1);
    });
}

#[test]
fn the_gate_can_be_turned_off_which_is_warned_of_and_exported() {
    lab::run(async |lab| {
        let receiver = Receiver::echo((PUBLIC, 443));
        lab.dns.addresses("acme.example", &[PUBLIC]);
        let on = gated(&lab).self_hosted("acme", "https://acme.example");
        let off = on.clone().set("policy.require_current_check", false);
        let required = "egress_policy_current_check_required";
        let warned = |gateway: &Gateway| {
            let events = gateway.events();
            let of = |event: &&crate::support::gateway::Event| {
                event.text("level") == "WARN"
                    && event.text("message").starts_with("policy.require_current_check is off")
            };
            events.iter().filter(of).count()
        };
        let gateway = lab.gateway(&off).await;
        assert_eq!((gateway.metrics().await.sum(required, &[]), warned(&gateway)), (0.0, 1));
        // What listens there speaks no TLS: no check would ever be ready.
        let _open = gateway.tunnel("acme.example:443").await;
        assert_eq!(receiver.visits().len(), 1, "nobody asked for a check");
        gateway.reload(&on).await;
        assert_eq!((gateway.metrics().await.sum(required, &[]), warned(&gateway)), (1.0, 1));
        wait_state(&gateway, "acme", "blocked").await;
        let reply = gateway.connect("acme.example:443").await.reply;
        let invalid = (502, "SELF_HOSTED_TLS_INVALID", "tls_handshake");
        assert_gated(&gateway, &reply, invalid).await;
        gateway.reload(&off).await;
        assert_eq!((gateway.metrics().await.sum(required, &[]), warned(&gateway)), (0.0, 2));
        let _open = gateway.tunnel("acme.example:443").await;
    });
}

#[test]
fn a_request_whose_check_cannot_be_finished_in_time_is_told_so() {
    lab::run(async |lab| {
        let mute = Receiver::silent((PUBLIC_2, 443));
        // More targets than can be looked at within what a request waits.
        let config = gated(&lab)
            .set("limits.dns_timeout", "1s")
            .set("limits.connect_timeout", "500ms")
            .set("limits.response_timeout", "500ms")
            .set("limits.tls_timeout", "4s");
        let gateway = lab.gateway(&with_mute_targets(&lab, config, 240)).await;
        let mut requests = JoinSet::new();
        for number in 0..240 {
            let path = format!("/targets/mute-{number}/x");
            let mut conn = Conn::open(gateway.proxy).await;
            conn.send(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n")).await;
            requests.spawn(async move { conn.reply().await });
        }
        let replies = requests.join_all().await;
        let (unfinished, finished): (Vec<_>, Vec<_>) =
            replies.into_iter().partition(|reply| reply.status == 503);
        assert!(!unfinished.is_empty() && !finished.is_empty(), "{}", finished.len());
        let reply = &unfinished[0];
        gateway.assert_refused(reply, (503, CONNECTIVITY, "check_unfinished")).await;
        assert!(reply.field("retry-after").is_some(), "{reply:?}");
        assert_eq!(reply.json()["retryable"], true);
        for reply in &finished {
            assert_eq!(reply.status, 504, "{reply:?}");
            assert_eq!(reply.json()["code"], FIREWALL);
        }
        drop(mute);
    });
}

#[test]
fn a_target_that_is_disabled_or_unclear_is_never_checked() {
    lab::run(async |lab| {
        let (ca, tls) = lab.acme();
        let _origin = answering(&tls);
        let receiver = Receiver::silent((PUBLIC_2, 443));
        for host in ["off.example", "unclear.example"] {
            lab.dns.addresses(host, &[PUBLIC_2]);
        }
        let config = gated_acme(&lab, &ca)
            .set("policy.check_ttl", "1s")
            .self_hosted_with("off", "https://off.example", "enabled = false")
            .self_hosted_with("unclear", "https://unclear.example", "ownership = \"unclear\"");
        let gateway = lab.gateway(&config).await;
        for (id, cause) in [("off", "target_disabled"), ("unclear", "ownership_unclear")] {
            wait_state(&gateway, id, "stopped").await;
            let reply = gateway.connect(&format!("{id}.example:443")).await.reply;
            let refused = (403, "SELF_HOSTED_BASE_URL_UNSAFE", cause);
            gateway.assert_refused(&reply, refused).await;
            assert_eq!(reply.json()["connectivity_check_id"], serde_json::Value::Null);
        }
        // The scheduler has had its rounds.
        gateway.wait_metric(CHECKS, &[("state", "ready")], |count| count >= 3.0).await;
        assert_eq!(
            gateway.metrics().await.sum(CHECKS, &[("state", "ready")]),
            gateway.metrics().await.sum(CHECKS, &[])
        );
        receiver.assert_not_reached();
        for host in ["off.example", "unclear.example"] {
            assert_eq!(lab.dns.queries(host), 0);
        }
    });
}

// === the scheduler ===

#[test]
fn a_mended_target_recovers_by_the_scheduler_alone() {
    lab::run(async |lab| {
        let (ca, tls) = lab.acme();
        lab.dns.answer("acme.example", Answer::NoSuchName);
        let gateway = lab.gateway(&gated_acme(&lab, &ca).set("policy.check_ttl", "2s")).await;
        wait_state(&gateway, "acme", "blocked").await;
        let origin = answering(&tls);
        lab.dns.addresses("acme.example", &[PUBLIC]);
        wait_state(&gateway, "acme", "ready").await;
        assert_eq!(carried(&origin), 0);
        gateway.assert_recorded(0).await;
        assert_eq!(gateway.get("http://acme.example/issue").await.status, 200);
    });
}

#[test]
fn a_check_is_renewed_before_it_runs_out_and_traffic_does_not_wait_for_it() {
    lab::run(async |lab| {
        let (ca, tls) = lab.acme();
        let (release, _) = watch::channel(false);
        let (gate, count) = (release.clone(), Arc::new(AtomicUsize::new(0)));
        let seen = Arc::clone(&count);
        let origin = Origin::with((PUBLIC, 443), tls, move |mut conn| {
            let (mut release, seen) = (gate.subscribe(), Arc::clone(&seen));
            async move {
                while let Ok(Some(request)) = conn.request().await {
                    // The first renewal takes its time.
                    if request.line == PROBE && seen.fetch_add(1, Ordering::SeqCst) == 1 {
                        release.wait_for(|release| *release).await.unwrap();
                    }
                    conn.send(ok("done")).await;
                }
            }
        });
        let probes = || count.load(Ordering::SeqCst);
        let began = Instant::now();
        let gateway = lab.gateway(&gated_acme(&lab, &ca).set("policy.check_ttl", "6s")).await;
        wait_state(&gateway, "acme", "ready").await;
        eventually("the renewal has begun", async || (probes() == 2).then_some(())).await;
        assert!(began.elapsed() >= Duration::from_millis(3500), "{:?}", began.elapsed());
        // It was the scheduler's, before anything was lost: the one that it renews still counts.
        wait_state(&gateway, "acme", "ready").await;
        assert_eq!(gateway.get("http://acme.example/issue").await.status, 200);
        assert_eq!(probes(), 2);
        release.send_replace(true);
        gateway.wait_metric(CHECKS, &[("state", "ready")], |count| count == 2.0).await;
        eventually("and again", async || (probes() == 3).then_some(())).await;
        wait_state(&gateway, "acme", "ready").await;
        // One connection for each check, one for the request.
        assert_eq!(origin.accepted(), 4);
    });
}

#[test]
fn no_target_is_checked_twice_at_a_time() {
    lab::run(async |lab| {
        let mute = Receiver::silent((PUBLIC_2, 443));
        let config = gated(&lab).set("policy.check_ttl", "1s").set("limits.tls_timeout", "3s");
        let gateway = lab.gateway(&with_mute_targets(&lab, config, 1)).await;
        eventually("a check began", async || (mute.visits().len() == 1).then_some(())).await;
        let began = Instant::now();
        // All of them, and the scheduler, wait for that one.
        let mut requests = JoinSet::new();
        for _ in 0..20 {
            let mut conn = Conn::open(gateway.proxy).await;
            conn.send("GET /targets/mute-0/x HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
            requests.spawn(async move { conn.reply().await });
        }
        for reply in requests.join_all().await {
            assert_gated(&gateway, &reply, (504, FIREWALL, "tls_timeout")).await;
        }
        eventually("another check began", async || (mute.visits().len() == 2).then_some(())).await;
        assert!(began.elapsed() >= Duration::from_millis(2900), "{:?}", began.elapsed());
    });
}

#[test]
fn at_most_sixteen_targets_are_checked_at_a_time_by_the_scheduler() {
    lab::run(async |lab| {
        let mute = Receiver::silent((PUBLIC_2, 443));
        let config = gated(&lab).set("limits.tls_timeout", "3s");
        let _gateway = lab.gateway(&with_mute_targets(&lab, config, 40)).await;
        eventually("sixteen", async || (mute.visits().len() == 16).then_some(())).await;
        let full = Instant::now();
        // The next comes when one has given up.
        eventually("more", async || (mute.visits().len() > 16).then_some(())).await;
        assert!(full.elapsed() >= Duration::from_secs(2), "{:?}", full.elapsed());
        eventually("all of them", async || (mute.visits().len() >= 40).then_some(())).await;
        assert!(full.elapsed() >= Duration::from_secs(5), "{:?}", full.elapsed());
    });
}

#[test]
fn a_blocked_target_is_looked_at_ever_less_often() {
    lab::run(async |lab| {
        lab.dns.addresses("acme.example", &[PUBLIC]);
        let times: Arc<Mutex<Vec<Instant>>> = Arc::default();
        let noted = Arc::clone(&times);
        let _receiver = Receiver::with((PUBLIC, 443), move |guest| {
            noted.lock().unwrap().push(Instant::now());
            async move { guest.reset() }
        });
        let config = gated(&lab).set("policy.check_ttl", "1s");
        let _gateway = lab.gateway(&config.self_hosted("acme", "https://acme.example")).await;
        let times = eventually("five checks", async || {
            Some(times.lock().unwrap().clone()).filter(|times| times.len() == 5)
        })
        .await;
        // Twice as long each time, and a fifth less at the most.
        for (number, pair) in times.windows(2).enumerate() {
            let least = Duration::from_millis(780) * 2_u32.pow(number.try_into().unwrap());
            let gap = pair[1] - pair[0];
            assert!(gap >= least, "gap {number} is {gap:?}, not {least:?}: {times:?}");
        }
    });
}

// === what survives, and what does not ===

/// Waits until the store has this many checks of a target.
async fn wait_stored(lab: &Lab, target: &str, count: usize) {
    let store = Store::open(&format!("sqlite:{}", database(lab).display())).await.unwrap();
    eventually(&format!("{count} checks of {target} are stored"), async || {
        (store.checks_of(target, None, 100).await.unwrap().len() >= count).then_some(())
    })
    .await;
    store.close().await;
}

#[test]
fn a_ready_check_still_counts_after_a_restart_and_after_a_crash() {
    lab::run(async |lab| {
        let (ca, tls) = lab.acme();
        let origin = answering(&tls);
        let config = gated_acme(&lab, &ca);
        let mut gateway = lab.gateway(&config).await;
        wait_state(&gateway, "acme", "ready").await;
        let expiry = gateway.metrics().await.sum(EXPIRY, &[("target", "acme")]);
        wait_stored(&lab, "acme", 1).await;
        for (round, ends) in ["KILL", "TERM"].into_iter().enumerate() {
            gateway.signal(ends);
            gateway.ended().await;
            gateway = lab.gateway(&config).await;
            assert_eq!(gateway.get("http://acme.example/issue").await.status, 200);
            assert_eq!((probes(&origin), carried(&origin)), (1, round + 1));
            wait_state(&gateway, "acme", "ready").await;
            assert_eq!(gateway.metrics().await.sum(EXPIRY, &[("target", "acme")]), expiry);
            assert_eq!(gateway.metrics().await.sum(CHECKS, &[]), 0.0);
        }
        // Not that of a target that has been changed in between.
        gateway.signal("TERM");
        gateway.ended().await;
        lab.dns.answer("acme.example", Answer::NoSuchName);
        let changed = gated(&lab).trusting(&ca).self_hosted_with(
            "acme",
            "https://acme.example",
            "allowlist = [\"192.0.2.1\"]",
        );
        let gateway = lab.gateway(&changed).await;
        let reply = gateway.get("http://acme.example/issue").await;
        assert_gated(&gateway, &reply, (502, DNS_FAILED, "dns_nxdomain")).await;
    });
}

#[test]
fn a_blocked_target_is_looked_at_again_right_after_a_restart() {
    lab::run(async |lab| {
        let (ca, tls) = lab.acme();
        lab.dns.answer("acme.example", Answer::NoSuchName);
        let config = gated_acme(&lab, &ca);
        let mut gateway = lab.gateway(&config).await;
        wait_state(&gateway, "acme", "blocked").await;
        wait_stored(&lab, "acme", 1).await;
        gateway.kill();
        // Its back-off is half a minute; what was wrong may have been this machine.
        let _origin = answering(&tls);
        lab.dns.addresses("acme.example", &[PUBLIC]);
        let began = Instant::now();
        let gateway = lab.gateway(&config).await;
        wait_state(&gateway, "acme", "ready").await;
        assert!(began.elapsed() < Duration::from_secs(9), "{:?}", began.elapsed());
        assert_eq!(gateway.get("http://acme.example/issue").await.status, 200);
    });
}

#[test]
fn a_target_changed_by_a_reload_is_checked_anew_and_its_old_result_does_not_count() {
    lab::run(async |lab| {
        let (ca, tls) = lab.acme();
        let origin = answering(&tls);
        let gateway = lab.gateway(&gated_acme(&lab, &ca)).await;
        wait_state(&gateway, "acme", "ready").await;
        gateway.reload(&gated_acme(&lab, &ca)).await;
        assert_eq!(gateway.get("http://acme.example/issue").await.status, 200);
        assert_eq!(probes(&origin), 1, "nothing has changed");

        let fields = "allowlist = [\"203.0.114.0/24\"]";
        let base = gated(&lab).trusting(&ca);
        gateway
            .reload(&base.clone().self_hosted_with("acme", "https://acme.example", fields))
            .await;
        wait_probes(&origin, 2).await;
        wait_state(&gateway, "acme", "ready").await;

        gateway.reload(&base.self_hosted("acme", "https://moved.example")).await;
        let reply = gateway.get("http://moved.example/issue").await;
        assert_gated(&gateway, &reply, (502, DNS_FAILED, "dns_nxdomain")).await;
        assert_eq!((probes(&origin), carried(&origin)), (2, 1));
        // Of the host that it was.
        assert_eq!(gateway.metrics().await.sum(EXPIRY, &[("target", "acme")]), 0.0);
    });
}

#[test]
fn a_reload_has_blocked_targets_looked_at_again() {
    lab::run(async |lab| {
        let (ca, tls) = lab.acme();
        let _origin = answering(&tls);
        let strict = gated(&lab).self_hosted("acme", "https://acme.example");
        let gateway = lab.gateway(&strict).await;
        wait_state(&gateway, "acme", "blocked").await;
        // The target is the same; the roots are not.
        gateway.reload(&strict.trusting(&ca)).await;
        wait_state(&gateway, "acme", "ready").await;
    });
}

// === metrics and the certificate watch ===

#[test]
fn checks_and_states_are_metrics_and_go_with_their_target() {
    lab::run(async |lab| {
        let (ca, tls) = lab.acme();
        let _origin = answering(&tls);
        let base = gated(&lab).trusting(&ca);
        let config = base
            .clone()
            .self_hosted("acme", "https://acme.example")
            .self_hosted("nowhere", "https://nowhere.example");
        let gateway = lab.gateway(&config).await;
        wait_state(&gateway, "acme", "ready").await;
        wait_state(&gateway, "nowhere", "blocked").await;
        let metrics = gateway.metrics().await;
        assert_eq!(metrics.sum(CHECKS, &[("state", "ready"), ("code", "")]), 1.0);
        assert_eq!(metrics.sum(CHECKS, &[("state", "blocked"), ("code", DNS_FAILED)]), 1.0);
        // rcgen's certificates hold until the year 4096.
        assert!(metrics.sum(EXPIRY, &[("target", "acme")]) > 60_000_000_000.0);
        assert_eq!(metrics.sum(EXPIRY, &[("target", "nowhere")]), 0.0);
        gateway.reload(&base.self_hosted("nowhere", "https://nowhere.example")).await;
        let of = |metrics: &crate::support::metrics::Metrics, target: &str| {
            let carries = |labels: &std::collections::BTreeMap<String, String>| {
                labels.get("target").is_some_and(|own| own == target)
            };
            metrics.samples.iter().filter(|sample| carries(&sample.labels)).count()
        };
        let metrics = gateway.metrics().await;
        assert_eq!((of(&metrics, "acme"), of(&metrics, "nowhere")), (0, 1));
    });
}

#[test]
fn a_target_that_goes_while_it_is_checked_leaves_no_metrics() {
    lab::run(async |lab| {
        let mute = Receiver::silent((PUBLIC_2, 443));
        let config = gated(&lab).set("limits.tls_timeout", "2s");
        let gateway = lab.gateway(&with_mute_targets(&lab, config.clone(), 1)).await;
        eventually("a check began", async || (mute.visits().len() == 1).then_some(())).await;
        gateway.reload(&config).await;
        gateway.wait_metric(CHECKS, &[("state", "blocked")], |count| count == 1.0).await;
        let metrics = gateway.metrics().await;
        assert!(!metrics.samples.iter().any(|sample| sample.name == STATE), "{metrics:?}");
    });
}

#[test]
fn a_certificate_near_its_end_is_warned_of_once() {
    lab::run(async |lab| {
        let ca = lab.ca("watched");
        let mut config = gated(&lab).trusting(&ca).set("policy.check_ttl", "1s");
        let mut origins = Vec::new();
        let rows = [
            ("fine", 60, None),
            ("month", 25, Some(30)),
            ("weeks", 10, Some(14)),
            ("days", 2, Some(3)),
        ];
        let today = Timestamp::now().to_zoned(TimeZone::UTC).date();
        for (port, (id, days, _)) in (8443..).zip(rows) {
            let host = format!("{id}.example");
            lab.dns.addresses(&host, &[PUBLIC]);
            let end = today + days.days();
            let tls = ca.server_with(&[&host], |params| {
                params.not_after = rcgen::date_time_ymd(
                    end.year().into(),
                    end.month().try_into().unwrap(),
                    end.day().try_into().unwrap(),
                );
            });
            let tls = Some(tls.server_config());
            origins.push(Origin::start((PUBLIC, port), tls, |_| answer("200 OK", &[], "")));
            config = config.self_hosted(id, &format!("https://{host}:{port}"));
        }
        let gateway = lab.gateway(&config).await;
        for origin in &origins {
            wait_probes(origin, 3).await;
        }
        let metrics = gateway.metrics().await;
        for (id, days, warned) in rows {
            let expected = (today + days.days()).to_zoned(TimeZone::UTC).unwrap().timestamp();
            let expected = expected.as_duration().as_secs_f64();
            assert_eq!(metrics.sum(EXPIRY, &[("target", id)]), expected, "{id}");
            let events = gateway.events();
            let texts: Vec<_> = events
                .iter()
                .filter(|event| event.text("target_id") == id && event.text("level") == "WARN")
                .map(|event| event.text("message").to_owned())
                .collect();
            let expected: Vec<_> = warned
                .map(|at| format!("the target's certificate expires in less than {at} days"))
                .into_iter()
                .collect();
            assert_eq!(texts, expected, "{id}");
        }
        let of_days = gateway
            .wait_event("of days", |event| {
                event.text("target_id") == "days" && event.text("level") == "WARN"
            })
            .await;
        assert!(of_days.text("issuer").contains("watched"), "{of_days:?}");
        assert!(of_days.text("not_after").starts_with(&(today + 2.days()).to_string()));
    });
}
