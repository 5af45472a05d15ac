//! Connectivity checks: each blocker is induced, and every status says which control it is, whose,
//! and what to do.

use crate::support::{
    canary::Canary,
    config::Config,
    dns::Answer,
    gateway::{program, write_config},
    http::Request,
    lab::{self, EGRESS, Lab, METADATA, PRIVATE, PRIVATE_2, PUBLIC, PUBLIC_2, PUBLIC_V6},
    origin::{Origin, Tls, answer, ok},
    receiver::{Deaf, Receiver},
    tls::{Ca, Identity},
    within,
};
use rcgen::{ExtendedKeyUsagePurpose, date_time_ymd};
use serde_json::Value;
use std::{net::IpAddr, process::Output};

const UNSAFE: &str = "SELF_HOSTED_BASE_URL_UNSAFE";
const DNS_FAILED: &str = "SELF_HOSTED_DNS_FAILED";
const BLOCKED: &str = "SELF_HOSTED_FIREWALL_BLOCKED";
const MISSING: &str = "SELF_HOSTED_ALLOWLIST_MISSING";
const CONNECTIVITY: &str = "SELF_HOSTED_CONNECTIVITY_BLOCKED";
const TLS_INVALID: &str = "SELF_HOSTED_TLS_INVALID";

/// An address that is not on this machine; routes and packet filters decide what becomes of it.
const ELSEWHERE: &str = "93.184.215.77";

/// What the command printed, and how it ended.
struct Told {
    exit: i32,
    check: Value,
}

/// Runs the command with `--json`.
async fn check(lab: &Lab, config: &Config, what: &str) -> Told {
    let output = command(lab, config, &["--json", what]).await;
    let check = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|_| panic!("{what}: {}", String::from_utf8_lossy(&output.stderr)));
    Told { exit: output.status.code().unwrap(), check }
}

async fn command(lab: &Lab, config: &Config, arguments: &[&str]) -> Output {
    let path = write_config(lab.dir(), &config.to_toml());
    let mut command = program();
    command.current_dir(lab.dir()).arg("check").arg("--config").arg(path).args(arguments);
    let ran = tokio::task::spawn_blocking(move || command.output().unwrap());
    within("the command", ran).await.unwrap()
}

impl Told {
    /// State, code, cause and owner; then the statuses of DNS, TLS, firewall and allowlist.
    #[track_caller]
    fn assert(&self, said: [&str; 4], statuses: [&str; 4]) {
        let fields = ["state", "code", "cause", "owner"];
        let found = fields.map(|field| self.text(field));
        assert_eq!(found, said, "{:#}", self.check);
        let fields = ["dns_status", "tls_status", "firewall_status", "allowlist_status"];
        let found = fields.map(|field| self.text(field));
        assert_eq!(found, statuses, "{:#}", self.check);
        assert_eq!(self.exit, i32::from(said[0] != "ready"));
        let failed = self.steps("failed");
        assert_eq!(failed.len(), usize::from(said[0] != "ready"), "{:#}", self.check);
        let next_step = self.text("next_step");
        assert_eq!(next_step.is_empty(), said[0] == "ready", "{:#}", self.check);
        assert!(!next_step.contains('{'), "{next_step}");
        let names: Vec<_> =
            self.check["steps"].as_array().unwrap().iter().map(|step| &step["name"]).collect();
        assert_eq!(names, ["base_url", "dns", "address_policy", "tunnel", "tcp", "tls", "http"]);
    }

    /// A field's text; empty for null.
    fn text(&self, field: &str) -> &str {
        self.check[field].as_str().unwrap_or_default()
    }

    /// The steps that ended like this.
    fn steps(&self, status: &str) -> Vec<&str> {
        let steps = self.check["steps"].as_array().unwrap().iter();
        steps
            .filter(|step| step["status"] == status)
            .map(|step| step["name"].as_str().unwrap())
            .collect()
    }
}

/// `acme` at `https://acme.example/jira`, with short limits.
fn acme(lab: &Lab, fields: &str) -> Config {
    let config = lab
        .config()
        .set("limits.dns_timeout", "1s")
        .set("limits.connect_timeout", "1s")
        .set("limits.tls_timeout", "1s")
        .set("limits.response_timeout", "2s");
    config.self_hosted_with("acme", "https://acme.example/jira", fields)
}

/// A target that answers every request like this.
fn answering(tls: &Tls, answer: Vec<u8>) -> Origin {
    Origin::start((PUBLIC, 443), tls.clone(), move |_| answer.clone())
}

fn line_and_names(request: &Request) -> (&str, Vec<&str>) {
    (&request.line, request.names())
}

// === reached ===

#[test]
fn a_target_that_answers_is_ready_and_all_that_was_found_is_told() {
    lab::run(async |lab| {
        let (ca, tls) = lab.acme();
        let origin = answering(&tls, answer("401 Unauthorized", &[], "{}"));
        let told = check(&lab, &acme(&lab, "").trusting(&ca), "acme").await;
        told.assert(["ready", "", "", ""], ["ok", "valid", "open", "direct"]);
        for (field, expected) in [
            ("target_id", Value::from("acme")),
            ("provider_key", "jira_data_center".into()),
            ("deployment_mode", "self-hosted".into()),
            ("base_url", "https://acme.example/jira".into()),
            ("private_network_policy", "deny".into()),
            ("egress_ip", EGRESS.to_string().into()),
            ("addresses", vec![PUBLIC.to_string()].into()),
            ("pinned", format!("{PUBLIC}:443").into()),
            ("tunnel_status", "not_used".into()),
            ("tunnel_url", Value::Null),
            ("http_status", 401.into()),
        ] {
            assert_eq!(told.check[field], expected, "{field}: {:#}", told.check);
        }
        let certificate = &told.check["tls"];
        assert_eq!(certificate["version"], "TLSv1.3");
        assert!(certificate["issuer"].to_string().contains("relay-ca"), "{certificate}");
        assert_eq!(certificate["names"], Value::from(vec!["acme.example"]));
        assert!(certificate["not_after"].is_string(), "{certificate}");
        let time = |field| told.text(field).parse::<jiff::Timestamp>().unwrap();
        assert_eq!((time("expires_at") - time("last_checked_at")).get_minutes(), 0);
        let lasts = time("expires_at").duration_since(time("last_checked_at"));
        assert_eq!(lasts.as_mins(), 15);
        assert_eq!(told.text("connectivity_check_id").len(), 26);
        assert_eq!(told.steps("skipped"), ["tunnel"]);
        // Nothing but what is needed, and no credential.
        let request = origin.only();
        let (line, names) = line_and_names(&request);
        assert_eq!(line, "GET /jira/rest/api/2/serverInfo HTTP/1.1");
        assert_eq!(names, ["accept", "host", "user-agent"]);
        assert_eq!(request.field("host"), Some("acme.example"));
        let agent = format!("egress-gateway/{} connectivity-check", env!("CARGO_PKG_VERSION"));
        assert_eq!(request.field("user-agent"), Some(&*agent));
        assert_eq!(request.body, b"");
    });
}

#[test]
fn the_recorded_allowlist_is_told_apart_from_being_open_to_all() {
    lab::run(async |lab| {
        let (ca, tls) = lab.acme();
        let _origin = answering(&tls, ok(""));
        for (allowlist, expected) in
            [("\"203.0.114.0/24\"", "allowlist"), ("\"198.51.100.7\"", "direct")]
        {
            let config = acme(&lab, &format!("allowlist = [{allowlist}]")).trusting(&ca);
            let told = check(&lab, &config, "acme").await;
            told.assert(["ready", "", "", ""], ["ok", "valid", "open", expected]);
        }
    });
}

#[test]
fn every_answer_but_a_refusal_counts_as_reached() {
    lab::run(async |lab| {
        let (ca, tls) = lab.acme();
        let config = acme(&lab, "").trusting(&ca);
        for status in ["200 OK", "302 Found", "404 Not Found", "500 Oops", "503 Later"] {
            let login = [("Location", "https://login.example/")];
            let _origin = answering(&tls, answer(status, &login, "error code: 1020"));
            let told = check(&lab, &config, "acme").await;
            told.assert(["ready", "", "", ""], ["ok", "valid", "open", "direct"]);
            assert_eq!(told.check["http_status"].to_string(), status[..3]);
        }
    });
}

#[test]
fn a_target_that_speaks_only_http2_is_reached() {
    lab::run(async |lab| {
        let ca = lab.ca("ca");
        lab.dns.addresses("acme.example", &[PUBLIC]);
        let tls = ca.server(&["acme.example"]).server_config_with(&["h2"]);
        let origin = Origin::http2((PUBLIC, 443), tls);
        let told = check(&lab, &acme(&lab, "").trusting(&ca), "acme").await;
        told.assert(["ready", "", "", ""], ["ok", "valid", "open", "direct"]);
        let request = origin.only();
        let (line, names) = line_and_names(&request);
        let expected = "GET https://acme.example/jira/rest/api/2/serverInfo HTTP/2.0";
        assert_eq!((line, names), (expected, vec!["accept", "user-agent"]));
    });
}

#[test]
fn a_target_of_plain_http_is_checked_without_tls() {
    lab::run(async |lab| {
        lab.dns.addresses("acme.example", &[PRIVATE]);
        let _origin = Origin::start((PRIVATE, 8080), None, |_| ok(""));
        let fields = "allow_http = true\nprivate_network_policy = \"direct\"\n\
                      private_network_allowlist = [\"10.20.0.0/24\"]";
        let config = lab.config().self_hosted_with("acme", "http://acme.example:8080", fields);
        let told = check(&lab, &config, "acme").await;
        told.assert(["ready", "", "", ""], ["ok", "skipped", "open", "direct"]);
        assert_eq!(told.check["private_network_policy"], "direct");
        assert_eq!(told.check["tls"], Value::Null);
        let _none = Receiver::with((PRIVATE, 8081), async |guest| guest.reset());
        let config = lab.config().self_hosted_with("acme", "http://acme.example:8081", fields);
        let told = check(&lab, &config, "acme").await;
        assert_eq!((told.exit, told.text("tls_status")), (1, "skipped"), "{:#}", told.check);
        assert_eq!(told.steps("failed"), ["http"]);
    });
}

// === not asked ===

#[test]
fn what_may_not_be_reached_is_not_checked() {
    lab::run(async |lab| {
        lab.dns.addresses("acme.example", &[PUBLIC]);
        let receiver = Receiver::silent((PUBLIC, 443));
        for (fields, cause, owner) in [
            ("ownership = \"unclear\"", "ownership_unclear", "product"),
            ("enabled = false", "target_disabled", "operator"),
        ] {
            let told = check(&lab, &acme(&lab, fields), "acme").await;
            let nothing = ["skipped", "skipped", "skipped", "unknown"];
            told.assert(["stopped", UNSAFE, cause, owner], nothing);
            assert_eq!(told.check["tunnel_status"], "not_used");
            assert_eq!(told.steps("failed"), ["base_url"]);
        }
        receiver.assert_not_reached();
        assert_eq!(lab.dns.queries("acme.example"), 0);
    });
}

#[test]
fn a_credential_that_is_not_there_yet_is_no_obstacle() {
    lab::run(async |lab| {
        let (ca, tls) = lab.acme();
        let _origin = answering(&tls, ok(""));
        let config = acme(&lab, "auth_status = \"required\"").trusting(&ca);
        let told = check(&lab, &config, "acme").await;
        told.assert(["ready", "", "", ""], ["ok", "valid", "open", "direct"]);
    });
}

#[test]
fn nothing_is_said_to_a_webhook_receiver() {
    lab::run(async |lab| {
        let (ca, tls) = lab.acme();
        let origin = answering(&tls, ok(""));
        let url = "https://acme.example/hook?key=hidden";
        let config = lab.config().trusting(&ca).webhook("hook", url, "");
        let told = check(&lab, &config, "hook").await;
        told.assert(["ready", "", "", ""], ["ok", "valid", "open", "direct"]);
        assert_eq!(told.check["http_status"], Value::Null);
        assert_eq!(told.steps("skipped"), ["tunnel", "http"]);
        assert_eq!(origin.accepted(), 1);
        assert!(origin.requests().is_empty(), "{:?}", origin.requests());
        assert!(!told.check.to_string().contains("hidden"), "{:#}", told.check);
    });
}

// === names and addresses ===

#[test]
fn names_that_do_not_resolve() {
    lab::run(async |lab| {
        for (said, cause, owner) in [
            (Answer::NoSuchName, "dns_nxdomain", "customer"),
            (Answer::Failure, "dns_servfail", "customer"),
            (Answer::Empty, "dns_no_address", "customer"),
            (Answer::Refused, "dns_refused", "operator"),
            (Answer::Silence, "dns_timeout", "operator"),
        ] {
            lab.dns.answer("acme.example", said);
            let told = check(&lab, &acme(&lab, ""), "acme").await;
            let statuses = ["failed", "skipped", "skipped", "unreachable"];
            told.assert(["blocked", DNS_FAILED, cause, owner], statuses);
            assert_eq!(told.check["addresses"], Value::Array(Vec::new()));
            assert_eq!(told.check["expires_at"], Value::Null);
        }
        // A server that is not there at all.
        let config = acme(&lab, "").set_toml("dns.servers", &format!("[\"{PUBLIC_2}:53\"]"));
        let told = check(&lab, &config, "acme").await;
        let statuses = ["failed", "skipped", "skipped", "unreachable"];
        told.assert(["blocked", DNS_FAILED, "dns_unreachable", "operator"], statuses);
        let next = told.text("next_step");
        assert!(next.contains(&EGRESS.to_string()), "{next}");
    });
}

#[test]
fn addresses_that_are_not_approved() {
    lab::run(async |lab| {
        let canary = Canary::everywhere(&[443]);
        let direct = "private_network_policy = \"direct\"\n\
                      private_network_allowlist = [\"10.20.0.0/24\"]";
        let private = "SELF_HOSTED_PRIVATE_NETWORK_REJECTED";
        let rows: [(&[IpAddr], &str, &str, &str); 5] = [
            (&[PRIVATE], "", private, "address_private"),
            (&[PRIVATE_2], direct, private, "address_private"),
            (&[METADATA], direct, UNSAFE, "address_forbidden"),
            (&[PUBLIC, PRIVATE], direct, UNSAFE, "dns_rebinding"),
            (&[PUBLIC, METADATA], "", UNSAFE, "address_forbidden"),
        ];
        for (addresses, fields, code, cause) in rows {
            lab.dns.addresses("acme.example", addresses);
            let told = check(&lab, &acme(&lab, fields), "acme").await;
            let statuses = ["unsafe", "skipped", "skipped", "unreachable"];
            told.assert(["blocked", code, cause, "customer"], statuses);
            assert_eq!(told.steps("failed"), ["address_policy"]);
            assert_eq!(told.check["addresses"].as_array().unwrap().len(), addresses.len());
        }
        canary.assert_silent().await;
    });
}

#[test]
fn a_name_that_turns_private_after_traffic_saw_it_is_rebinding() {
    lab::run(async |lab| {
        let (ca, tls) = lab.acme();
        let _origin = answering(&tls, ok(""));
        let inside = Receiver::silent((PRIVATE, 443));
        let config = acme(&lab, "").trusting(&ca);
        let gateway = lab.gateway(&config).await;
        assert_eq!(gateway.get("http://acme.example/jira/x").await.status, 200);
        drop(gateway);
        lab.dns.addresses("acme.example", &[PRIVATE]);
        let told = check(&lab, &config, "acme").await;
        let statuses = ["unsafe", "skipped", "skipped", "unreachable"];
        told.assert(["blocked", UNSAFE, "dns_rebinding", "customer"], statuses);
        inside.assert_not_reached();
    });
}

// === the way there ===

#[test]
fn a_port_on_which_nothing_listens() {
    lab::run(async |lab| {
        lab.dns.addresses("acme.example", &[PUBLIC]);
        let told = check(&lab, &acme(&lab, ""), "acme").await;
        let statuses = ["ok", "skipped", "refused", "unreachable"];
        told.assert(["blocked", CONNECTIVITY, "connect_refused", "customer"], statuses);
        assert_eq!(told.steps("failed"), ["tcp"]);
        assert!(told.text("next_step").contains("acme.example:443"), "{:#}", told.check);
        assert_eq!(told.text("pinned"), format!("{PUBLIC}:443"));
    });
}

#[test]
fn a_host_that_does_not_answer() {
    lab::run(async |lab| {
        let _deaf = Deaf::start((PUBLIC, 443)).await;
        lab.dns.addresses("acme.example", &[PUBLIC]);
        let statuses = ["ok", "skipped", "blocked", "unreachable"];
        let told = check(&lab, &acme(&lab, ""), "acme").await;
        told.assert(["blocked", BLOCKED, "connect_timeout", "customer"], statuses);
        let step = format!("Allow inbound TCP from {EGRESS} to acme.example:443.");
        assert_eq!(told.text("next_step"), step);
        // The customer's own record says why.
        let told = check(&lab, &acme(&lab, "allowlist = [\"198.51.100.7\"]"), "acme").await;
        told.assert(["blocked", MISSING, "connect_timeout", "customer"], statuses);
        let next = told.text("next_step");
        assert!(next.contains(&format!("Add {EGRESS} to the allowlist")), "{next}");
        assert!(next.contains("acme.example:443"), "{next}");
    });
}

#[test]
fn routes_that_lead_nowhere() {
    lab::run(async |lab| {
        lab.dns.addresses("acme.example", &[ELSEWHERE.parse().unwrap()]);
        for (route, cause, owner) in [
            ("blackhole", "network_unreachable", "operator"),
            ("prohibit", "connect_prohibited", "customer"),
            ("unreachable", "host_unreachable", "customer"),
        ] {
            lab::ip(&format!("route add {route} {ELSEWHERE}"));
            let told = check(&lab, &acme(&lab, ""), "acme").await;
            let statuses = ["ok", "skipped", "blocked", "unreachable"];
            told.assert(["blocked", BLOCKED, cause, owner], statuses);
            let next = told.text("next_step");
            assert!(next.contains(&EGRESS.to_string()), "{next}");
            assert!(next.contains("acme.example:443"), "{next}");
            lab::ip(&format!("route del {route} {ELSEWHERE}"));
        }
    });
}

#[test]
fn a_host_of_a_family_that_has_no_egress_address() {
    lab::run(async |lab| {
        lab.dns.addresses("acme.example", &[PUBLIC_V6]);
        let told = check(&lab, &acme(&lab, ""), "acme").await;
        // No firewall was asked: nothing left.
        let statuses = ["ok", "skipped", "skipped", "unreachable"];
        told.assert(["blocked", CONNECTIVITY, "family_unavailable", "operator"], statuses);
        assert_eq!(told.text("egress_ip"), EGRESS.to_string());
    });
}

#[test]
fn packet_filters_that_drop_or_reject() {
    lab::run(async |lab| {
        let (ca, tls) = lab.acme();
        let origin = answering(&tls, ok(""));
        let config = acme(&lab, "").trusting(&ca);
        let refused = (CONNECTIVITY, "refused");
        for (verdict, cause, (code, firewall)) in [
            ("drop", "connect_timeout", (BLOCKED, "blocked")),
            ("reject with icmp type admin-prohibited", "connect_prohibited", (BLOCKED, "blocked")),
            ("reject with icmp type host-unreachable", "host_unreachable", (BLOCKED, "blocked")),
            ("reject with icmp type net-unreachable", "network_unreachable", (BLOCKED, "blocked")),
            ("reject with icmp type port-unreachable", "connect_prohibited", (BLOCKED, "blocked")),
            ("reject with tcp reset", "connect_refused", refused),
        ] {
            lab::nft("add table inet lab");
            lab::nft("add chain inet lab in { type filter hook input priority 0 ; }");
            lab::nft(&format!("add rule inet lab in ip daddr {PUBLIC} tcp dport 443 {verdict}"));
            let told = check(&lab, &config, "acme").await;
            let owner = if cause == "network_unreachable" { "operator" } else { "customer" };
            let statuses = ["ok", "skipped", firewall, "unreachable"];
            told.assert(["blocked", code, cause, owner], statuses);
            lab::nft("delete table inet lab");
        }
        assert_eq!(origin.accepted(), 0);
        let told = check(&lab, &config, "acme").await;
        told.assert(["ready", "", "", ""], ["ok", "valid", "open", "direct"]);
    });
}

#[test]
fn a_tunnel_that_does_not_carry_traffic() {
    lab::run(async |lab| {
        let canary = Canary::everywhere(&[443]);
        lab.dns.addresses("acme.example", &[PRIVATE]);
        let fields = "private_network_policy = \"tunnel\"\ntunnel = \"acme\"\n\
                      private_network_allowlist = [\"10.20.0.0/24\"]";
        let config = acme(&lab, fields).set("tunnels.acme.url", "socks5://10.9.0.2:1080");
        let told = check(&lab, &config, "acme").await;
        let code = "SELF_HOSTED_TUNNEL_UNREACHABLE";
        let statuses = ["ok", "skipped", "skipped", "unreachable"];
        told.assert(["blocked", code, "tunnel_unreachable", "operator"], statuses);
        assert_eq!(told.check["tunnel_status"], "unreachable");
        assert_eq!(told.steps("failed"), ["tunnel"]);
        canary.assert_silent().await;
    });
}

// === TLS ===

#[test]
fn a_connection_that_is_accepted_and_dropped_shows_a_missing_allowlist() {
    lab::run(async |lab| {
        lab.dns.addresses("acme.example", &[PUBLIC]);
        for way in ["at once", "reset", "close"] {
            let _receiver = Receiver::with((PUBLIC, 443), move |mut guest| async move {
                if way != "at once" {
                    drop(guest.read().await);
                }
                if way != "close" {
                    guest.reset();
                }
            });
            let told = check(&lab, &acme(&lab, ""), "acme").await;
            let cause = "reset_before_server_hello";
            told.assert(
                ["blocked", MISSING, cause, "customer"],
                ["ok", "skipped", "open", "missing"],
            );
            assert_eq!(told.steps("failed"), ["tls"]);
            let next = told.text("next_step");
            assert!(next.contains(&format!("Add {EGRESS} to the allowlist")), "{next}");
        }
    });
}

#[test]
fn a_handshake_that_stalls_is_a_firewall_s_doing() {
    lab::run(async |lab| {
        lab.dns.addresses("acme.example", &[PUBLIC]);
        let _receiver = Receiver::silent((PUBLIC, 443));
        let told = check(&lab, &acme(&lab, ""), "acme").await;
        let statuses = ["ok", "skipped", "blocked", "unreachable"];
        told.assert(["blocked", BLOCKED, "tls_timeout", "customer"], statuses);
        assert_eq!(told.steps("failed"), ["tls"]);
    });
}

/// Checks a target with this certificate, which must not be accepted.
async fn assert_fault(lab: &Lab, ca: &Ca, identity: &Identity, cause: &str) -> Told {
    let origin = answering(&Some(identity.server_config()), ok(""));
    let told = check(lab, &acme(lab, "").trusting(ca), "acme").await;
    let statuses = ["ok", "invalid", "open", "unreachable"];
    told.assert(["blocked", TLS_INVALID, cause, "customer"], statuses);
    assert_eq!(told.steps("failed"), ["tls"]);
    assert_eq!(told.check["tls"]["version"], Value::Null);
    assert!(told.check["tls"]["not_after"].is_string(), "{:#}", told.check);
    assert!(origin.requests().is_empty());
    told
}

#[test]
fn certificates_that_are_not_valid_are_told_with_what_they_say() {
    lab::run(async |lab| {
        lab.dns.addresses("acme.example", &[PUBLIC]);
        let ca = lab.ca("ca");
        let names = ["acme.example"];
        let years = |from, to| {
            ca.server_with(&names, |params| {
                params.not_before = date_time_ymd(from, 1, 1);
                params.not_after = date_time_ymd(to, 1, 1);
            })
        };
        let told = assert_fault(&lab, &ca, &years(2019, 2020), "tls_expired").await;
        assert_eq!(told.check["tls"]["not_after"], "2020-01-01T00:00:00Z");
        assert_fault(&lab, &ca, &years(2090, 2091), "tls_not_yet_valid").await;
        let other = ca.server(&["other.example"]);
        let told = assert_fault(&lab, &ca, &other, "tls_hostname_mismatch").await;
        assert_eq!(told.check["tls"]["names"], Value::from(vec!["other.example"]));
        let stranger = lab.ca("Stranger Root").server(&names);
        let told = assert_fault(&lab, &ca, &stranger, "tls_unknown_issuer").await;
        assert!(told.check["tls"]["issuer"].to_string().contains("Stranger Root"));
        let client = ca.server_with(&names, |params| {
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        });
        assert_fault(&lab, &ca, &client, "tls_wrong_usage").await;
    });
}

#[test]
fn a_port_without_tls_or_with_an_old_one() {
    lab::run(async |lab| {
        lab.dns.addresses("acme.example", &[PUBLIC]);
        let rows: [(&[u8], &str); 2] = [
            (b"HTTP/1.1 400 Bad Request\r\n\r\n", "tls_handshake"),
            (b"\x15\x03\x02\x00\x02\x02\x46", "tls_version"),
        ];
        for (said, cause) in rows {
            let _receiver = Receiver::with((PUBLIC, 443), async move |mut guest| {
                drop(guest.read().await);
                drop(guest.write(said).await);
                guest.finish().await;
                while guest.read().await.is_some() {}
            });
            let told = check(&lab, &acme(&lab, ""), "acme").await;
            let statuses = ["ok", "invalid", "open", "unreachable"];
            told.assert(["blocked", TLS_INVALID, cause, "customer"], statuses);
        }
    });
}

#[test]
fn a_target_that_wants_a_client_certificate_says_so_even_where_no_request_follows() {
    lab::run(async |lab| {
        lab.dns.addresses("acme.example", &[PUBLIC]);
        let (ca, clients) = (lab.ca("ca"), lab.ca("clients"));
        let server = ca.server(&["acme.example"]);
        let tls = Some(server.server_config_for(&clients, &["http/1.1"]));
        let origin = answering(&tls, ok(""));
        let own = clients.client("spiffe://gateway");
        let given = format!(
            "tls = {{ client_cert_file = \"{}\", client_key_file = \"{}\" }}",
            own.cert_file.display(),
            own.key_file.display()
        );
        let cause = "tls_client_certificate";
        let statuses = ["ok", "invalid", "open", "unreachable"];
        for (fields, passes) in [("", false), (given.as_str(), true)] {
            let config = acme(&lab, fields).trusting(&ca);
            let config = config.webhook("hook", "https://acme.example/hook", fields);
            for (target, code) in [("acme", TLS_INVALID), ("hook", "WEBHOOK_DELIVERY_FAILED")] {
                let told = check(&lab, &config, target).await;
                if passes {
                    told.assert(["ready", "", "", ""], ["ok", "valid", "open", "direct"]);
                } else {
                    told.assert(["blocked", code, cause, "product"], statuses);
                }
            }
        }
        assert_eq!(origin.requests().len(), 1);
    });
}

// === the answer ===

#[test]
fn answers_that_refuse_the_egress_address() {
    lab::run(async |lab| {
        let ca = lab.ca("ca");
        let names = ["acme.example", "api.github.com", "acme.atlassian.net"];
        for name in names {
            lab.dns.addresses(name, &[PUBLIC]);
        }
        let tls: Tls = Some(ca.server(&names).server_config());
        let jira = "id = \"jira\"\nprovider_key = \"jira_cloud\"\ndeployment_mode = \"cloud\"\n\
                    base_url = \"https://acme.atlassian.net\"";
        let config = acme(&lab, "").trusting(&ca).github_cloud("github", "").target(jira);
        let github = "Although you appear to have the correct authorization credentials, the \
                      `acme` organization has an IP allow list enabled, and your IP address is \
                      not permitted to access this resource.";
        let atlassian = "The IP address has been rejected because it is not on the allowed list.";
        let cloud = ("PROVIDER_BASE_URL_UNREACHABLE", "provider");
        let own = (MISSING, "customer");
        let elb = [("Server", "awselb/2.0")];
        let rows = [
            ("acme", answer("403 Forbidden", &[], ""), own, "403 to a request"),
            ("acme", answer("403 Forbidden", &elb, "<html>"), own, "AWS WAF"),
            ("acme", answer("403 Forbidden", &[], "error code: 1020"), own, "Cloudflare 1020"),
            ("github", answer("403 Forbidden", &[], github), cloud, "GitHub IP allow list"),
            // As GraphQL has it.
            ("github", answer("200 OK", &[], github), cloud, "GitHub IP allow list"),
            ("jira", answer("403 Forbidden", &[], atlassian), cloud, "Atlassian IP allowlist"),
            // A body that never comes.
            ("acme", b"HTTP/1.1 403 No\r\nContent-Length: 9\r\n\r\n".to_vec(), own, "403 to a"),
        ];
        for (target, answer, (code, owner), evidence) in rows {
            let _origin = answering(&tls, answer.clone());
            let told = check(&lab, &config, target).await;
            let statuses = ["ok", "valid", "open", "missing"];
            told.assert(["blocked", code, "allowlist_refused", owner], statuses);
            let detail = told.text("detail");
            assert!(detail.contains(evidence), "{detail}");
            let next = told.text("next_step");
            assert!(next.contains(&format!("Add {EGRESS} to the")), "{next}");
            assert_eq!(
                told.check["http_status"].to_string(),
                answer[9..12].escape_ascii().to_string()
            );
            assert_eq!(told.steps("failed"), ["http"]);
        }
    });
}

#[test]
fn answers_that_do_not_come_or_are_none() {
    lab::run(async |lab| {
        let (ca, tls) = lab.acme();
        let config = acme(&lab, "").trusting(&ca);
        let statuses = ["ok", "valid", "open", "unreachable"];
        for (said, cause) in [
            (None, "response_timeout"),
            (Some("SSH-2.0-OpenSSH_9.6\r\n\r\n"), "response_invalid"),
            (Some(""), "response_incomplete"),
        ] {
            let _origin = Origin::with((PUBLIC, 443), tls.clone(), move |mut conn| async move {
                drop(conn.request().await);
                match said {
                    Some(text) => drop(conn.try_send(text).await),
                    None => std::future::pending().await,
                }
            });
            let told = check(&lab, &config, "acme").await;
            told.assert(["blocked", CONNECTIVITY, cause, "customer"], statuses);
            assert_eq!(told.check["http_status"], Value::Null);
        }
    });
}

// === the command ===

#[test]
fn people_get_a_line_a_step_and_a_row_a_control() {
    lab::run(async |lab| {
        let _deaf = Deaf::start((PUBLIC, 443)).await;
        lab.dns.addresses("acme.example", &[PUBLIC]);
        let config = acme(&lab, "");
        for what in ["acme", "https://acme.example/jira/browse/A-1"] {
            let output = command(&lab, &config, &[what]).await;
            assert_eq!(output.status.code(), Some(1));
            assert_eq!(output.stderr, b"", "{}", String::from_utf8_lossy(&output.stderr));
            let text = String::from_utf8(output.stdout).unwrap();
            assert!(!text.contains('\x1b') && !text.contains('\r'), "{text}");
            let steps: Vec<_> = text.lines().take_while(|line| !line.is_empty()).collect();
            assert_eq!(steps.len(), 7, "{text}");
            assert!(steps[4].starts_with("failed   tcp") && steps[4].contains(" ms "), "{text}");
            let step = format!("Allow inbound TCP from {EGRESS} to acme.example:443.");
            let row = text.lines().find(|line| line.starts_with("firewall ")).unwrap();
            assert!(row.contains("blocked") && row.contains("customer"), "{text}");
            assert!(row.ends_with(&step), "{text}");
            assert!(text.contains(&format!("{BLOCKED} (connect_timeout)")), "{text}");
        }
    });
}

#[test]
fn what_cannot_be_checked_is_wrong_usage() {
    lab::run(async |lab| {
        let config = acme(&lab, "");
        for wrong in ["nobody", "https://other.example/", "https://acme.example:444/", "ftp://x/"] {
            let output = command(&lab, &config, &["--json", wrong]).await;
            assert_eq!(output.status.code(), Some(2), "{wrong}");
            assert_eq!(output.stdout, b"", "{wrong}");
            assert!(output.stderr.starts_with(b"egress-gateway: "), "{wrong}");
        }
        assert_eq!(lab.dns.asked(), Vec::<String>::new());
        // Nothing is written down.
        assert!(!lab.dir().join("state").exists());
    });
}
