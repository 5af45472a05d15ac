//! A check for people: a line for each step, and a table with a row for each control.

use std::{fmt::Write as _, net::IpAddr};

use crate::check::{
    AllowlistStatus, Check, FirewallStatus, State, Step, StepName, StepStatus, TlsStatus,
};

/// What stands between the gateway and a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Control {
    Policy,
    Dns,
    Tunnel,
    Firewall,
    Tls,
    Allowlist,
    Http,
}

/// A row of the table: control, status, evidence.
type Row = (Control, &'static str, String);

/// A step in one line.
pub(super) fn line(step: &Step) -> String {
    let Step { name, status, detail, duration_ms } = step;
    let taken =
        if *status == StepStatus::Skipped { String::new() } else { format!("{duration_ms} ms") };
    let detail = detail.as_deref().unwrap_or_default();
    let line = format!("{:<8} {:<15} {taken:>9}  {detail}", status.as_str(), name.as_str());
    line.trim_end().to_owned()
}

/// The table, and the verdict below it.
pub(super) fn render(check: &Check) -> String {
    let blocker = blocker(check);
    let rows: Vec<[String; 5]> = rows(check)
        .into_iter()
        .map(|(control, status, evidence)| {
            let blamed = blocker == Some(control);
            let said = |text: &Option<String>| text.clone().filter(|_| blamed).unwrap_or_default();
            [
                control.word().to_owned(),
                status.to_owned(),
                evidence,
                said(&check.owner),
                said(&check.next_step),
            ]
        })
        .collect();
    let heading = ["control", "status", "evidence", "owner", "next step"].map(ToOwned::to_owned);
    let mut text = String::new();
    let widths: [usize; 4] = std::array::from_fn(|column| {
        let cells = std::iter::once(&heading).chain(&rows).filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    });
    for row in std::iter::once(&heading).chain(&rows) {
        let [control, status, evidence, owner, next] = row;
        let [first, second, third, fourth] = widths;
        let line = format!(
            "{control:<first$}  {status:<second$}  {evidence:<third$}  {owner:<fourth$}  {next}"
        );
        // Writing to a text never fails.
        let _ = writeln!(text, "{}", line.trim_end());
    }
    let _ = write!(text, "\n{}", verdict(check));
    text
}

impl Control {
    const fn word(self) -> &'static str {
        match self {
            Self::Policy => "policy",
            Self::Dns => "dns",
            Self::Tunnel => "tunnel",
            Self::Firewall => "firewall",
            Self::Tls => "tls",
            Self::Allowlist => "allowlist",
            Self::Http => "http",
        }
    }
}

fn rows(check: &Check) -> Vec<Row> {
    vec![
        policy(check),
        (Control::Dns, check.dns_status.as_str(), evidence(check, StepName::Dns)),
        (
            Control::Tunnel,
            check.tunnel_status.as_str(),
            check.tunnel_url.clone().unwrap_or_else(|| evidence(check, StepName::Tunnel)),
        ),
        firewall(check),
        (Control::Tls, check.tls_status.as_str(), tls(check)),
        (Control::Allowlist, check.allowlist_status.as_str(), allowlist(check)),
        (Control::Http, http(check), evidence(check, StepName::Http)),
    ]
}

/// The base URL's rules and those of the addresses.
fn policy(check: &Check) -> Row {
    for name in [StepName::BaseUrl, StepName::AddressPolicy] {
        if status(check, name) == Some(StepStatus::Failed) {
            return (Control::Policy, "refused", evidence(check, name));
        }
    }
    let asked = status(check, StepName::BaseUrl) == Some(StepStatus::Ok);
    let word = if asked { "approved" } else { "skipped" };
    (Control::Policy, word, evidence(check, StepName::BaseUrl))
}

fn firewall(check: &Check) -> Row {
    let failed = evidence_of_failure(check, StepName::Tcp);
    let from = check.egress_ip.map(|ip| format!(" from {ip}")).unwrap_or_default();
    let shown = match (failed, check.pinned) {
        (Some(detail), _) => format!("{detail}{from}"),
        (None, Some(pinned)) => format!("{pinned}{from}"),
        (None, None) => String::new(),
    };
    (Control::Firewall, check.firewall_status.as_str(), shown)
}

/// What TLS said, or what is known of a certificate that was refused.
fn tls(check: &Check) -> String {
    let said = evidence(check, StepName::Tls);
    match &check.tls {
        Some(certificate) if check.tls_status == TlsStatus::Invalid => {
            let issuer = certificate.issuer.as_deref().unwrap_or("an unknown issuer");
            let until = certificate.not_after.map(|end| format!(", valid until {end}"));
            format!("{said} (certificate by {issuer}{})", until.unwrap_or_default())
        }
        _ => said,
    }
}

fn allowlist(check: &Check) -> String {
    match check.allowlist_status {
        AllowlistStatus::Missing => check.detail.clone().unwrap_or_default(),
        AllowlistStatus::Allowlist => {
            let egress = check.egress_ip.as_ref().map(IpAddr::to_string).unwrap_or_default();
            format!("the target's recorded allowlist holds {egress}")
        }
        AllowlistStatus::Direct
        | AllowlistStatus::Tunnel
        | AllowlistStatus::Unreachable
        | AllowlistStatus::Unknown => String::new(),
    }
}

fn http(check: &Check) -> &'static str {
    match status(check, StepName::Http) {
        Some(StepStatus::Ok) => "answered",
        Some(StepStatus::Failed) if check.http_status.is_some() => "answered",
        Some(StepStatus::Failed) => "failed",
        Some(StepStatus::Skipped) | None => "skipped",
    }
}

/// The control that stopped the check. A firewall that blocks is an allowlist's matter where the
/// customer's own record lacks the egress address: the code says so.
fn blocker(check: &Check) -> Option<Control> {
    let code = check.code.as_deref()?;
    if code == "SELF_HOSTED_ALLOWLIST_MISSING" || check.allowlist_status == AllowlistStatus::Missing
    {
        return Some(Control::Allowlist);
    }
    let failed = check.steps.iter().find(|step| step.status == StepStatus::Failed)?.name;
    Some(match failed {
        StepName::BaseUrl | StepName::AddressPolicy => Control::Policy,
        StepName::Dns => Control::Dns,
        StepName::Tunnel => Control::Tunnel,
        StepName::Tcp => Control::Firewall,
        StepName::Tls | StepName::Http if check.firewall_status == FirewallStatus::Blocked => {
            Control::Firewall
        }
        StepName::Tls => Control::Tls,
        StepName::Http if check.tls_status == TlsStatus::Invalid => Control::Tls,
        StepName::Http => Control::Http,
    })
}

fn verdict(check: &Check) -> String {
    let id = &check.target_id;
    let word = check.state.as_str();
    match (check.state, &check.code, &check.cause) {
        (State::Ready, ..) => format!("{word}: {id} can be reached ({} ms)\n", check.duration_ms),
        (_, Some(code), Some(cause)) => {
            let next = check.next_step.as_deref().unwrap_or_default();
            format!("{word}: {id}: {code} ({cause})\nnext step: {next}\n")
        }
        _ => format!("{word}: {id}\n"),
    }
}

fn step(check: &Check, name: StepName) -> Option<&Step> {
    check.steps.iter().find(|step| step.name == name)
}

fn status(check: &Check, name: StepName) -> Option<StepStatus> {
    step(check, name).map(|step| step.status)
}

fn evidence(check: &Check, name: StepName) -> String {
    step(check, name).and_then(|step| step.detail.clone()).unwrap_or_default()
}

fn evidence_of_failure(check: &Check, name: StepName) -> Option<String> {
    let failed = step(check, name).filter(|step| step.status == StepStatus::Failed)?;
    failed.detail.clone()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target::tests::target;

    fn step(name: StepName, status: StepStatus, detail: &str) -> Step {
        Step { name, status, detail: Some(detail.to_owned()), duration_ms: 12 }
    }

    fn blocked() -> Check {
        Check {
            state: State::Blocked,
            code: Some("SELF_HOSTED_FIREWALL_BLOCKED".into()),
            cause: Some("connect_timeout".into()),
            owner: Some("customer".into()),
            next_step: Some("Allow inbound TCP from 203.0.113.10 to a.example:443.".into()),
            firewall_status: FirewallStatus::Blocked,
            allowlist_status: AllowlistStatus::Unreachable,
            steps: vec![
                step(StepName::BaseUrl, StepStatus::Ok, "https://a.example"),
                step(StepName::Dns, StepStatus::Ok, "198.51.100.7"),
                step(StepName::Tcp, StepStatus::Failed, "198.51.100.7:443: no answer"),
            ],
            ..Check::unchecked(&target("acme", "https://a.example"), "203.0.113.10".parse().ok())
        }
    }

    #[test]
    fn the_control_that_blocks_has_owner_and_next_step_and_no_other_has() {
        let text = render(&blocked());
        let table: Vec<_> = text.lines().take_while(|line| !line.is_empty()).collect();
        assert_eq!(table.len(), 8, "{text}");
        let blamed: Vec<_> = table.iter().filter(|line| line.contains("customer")).collect();
        assert_eq!(blamed.len(), 1, "{text}");
        assert!(blamed[0].starts_with("firewall   blocked"), "{text}");
        assert!(
            blamed[0].ends_with("Allow inbound TCP from 203.0.113.10 to a.example:443."),
            "{text}"
        );
        assert!(
            text.contains("\nblocked: acme: SELF_HOSTED_FIREWALL_BLOCKED (connect_timeout)\n"),
            "{text}"
        );
    }

    #[test]
    fn the_blocker_is_told_by_step_status_and_code() {
        let of = |change: fn(&mut Check)| {
            let mut check = blocked();
            change(&mut check);
            blocker(&check)
        };
        let fail = |check: &mut Check, name| check.steps[2].name = name;
        assert_eq!(of(|_| {}), Some(Control::Firewall));
        assert_eq!(of(|check| check.code = None), None);
        let missing = |check: &mut Check| check.code = Some("SELF_HOSTED_ALLOWLIST_MISSING".into());
        assert_eq!(of(missing), Some(Control::Allowlist));
        for (name, control) in [
            (StepName::BaseUrl, Control::Policy),
            (StepName::Dns, Control::Dns),
            (StepName::AddressPolicy, Control::Policy),
            (StepName::Tunnel, Control::Tunnel),
        ] {
            let mut check = blocked();
            check.firewall_status = FirewallStatus::Skipped;
            fail(&mut check, name);
            assert_eq!(blocker(&check), Some(control));
        }
        let stalled = |check: &mut Check| check.steps[2].name = StepName::Tls;
        assert_eq!(of(stalled), Some(Control::Firewall));
        let refused = |check: &mut Check| {
            check.firewall_status = FirewallStatus::Open;
            check.tls_status = TlsStatus::Invalid;
            check.steps[2].name = StepName::Http;
        };
        assert_eq!(of(refused), Some(Control::Tls));
    }

    #[test]
    fn a_step_is_one_line_with_its_time() {
        let done = step(StepName::Tcp, StepStatus::Ok, "198.51.100.7:443");
        assert_eq!(line(&done), "ok       tcp                 12 ms  198.51.100.7:443");
        let skipped = Step { detail: None, ..step(StepName::Http, StepStatus::Skipped, "") };
        assert_eq!(line(&skipped), "skipped  http");
    }
}
