//! One check, step by step: the very way that traffic takes, with nobody's credentials.
//!
//! Same rules, resolver, vetting, sightings, egress address, dialler, TLS and HTTP. The resolver's
//! cache is used as it is: whoever asks past it could pass where traffic still fails, or the other
//! way round, and what it remembers of a failure it forgets within five seconds. Two things differ:
//! rules about credentials are not asked, as connectivity is what is checked; and TLS is never
//! resumed, so that a certificate that has expired since is seen.

use std::{net::IpAddr, sync::Arc, time::Duration};

use jiff::{SignedDuration, Timestamp};
use tokio::time::{Instant, timeout};

use super::{
    blame::{blame, stops},
    probe::{Probe, leave},
    record::{
        AllowlistStatus, Certificate, Check, DnsStatus, FirewallStatus, State, Step, StepName,
        StepStatus, TlsStatus, TunnelStatus,
    },
};
use crate::{
    client::Clients,
    destination::{Destination, Resource},
    egress::{Notes, Pinned, Ready, Upstream},
    policy::{self, Mode, Permit},
    reason::{Cause, Failure, Refusal},
    target::{PrivateNetworkPolicy, Target},
    tls::{Alpn, CertificateFacts, TlsFacts},
    tunnel::TunnelState,
    view::View,
};

/// What a check may take beyond the limits of its steps: to remember a sighting, to close.
const SLACK: Duration = Duration::from_secs(5);

/// How long a target at least has to object to a client certificate.
const OBJECTION_TIMEOUT_MIN: Duration = Duration::from_millis(200);

/// Checks whether `target` can be reached under `view`, and which control is in the way if not.
/// `id` becomes the check's (a ULID); `told` hears of each step when it ends, skipped ones included.
///
/// Never fails and always ends: within the sum of `limits.dns_timeout`, `connect_timeout`,
/// `tls_timeout` and `response_timeout`, and five seconds. A check that is ready expires after
/// `policy.check_ttl`; others carry no `expires_at`.
pub async fn walk(
    view: &View,
    target: &Arc<Target>,
    id: Arc<str>,
    told: &mut (dyn FnMut(&Step) + Send),
) -> Check {
    let began = Instant::now();
    let mut check = Check::unchecked(target, view.egress_ips.first().copied());
    check.connectivity_check_id = Some(id);
    let mut walk =
        Walk { view, target, check, told, notes: Notes::default(), began, step_began: began };
    let limits = &view.limits;
    let limit = [limits.connect_timeout, limits.tls_timeout, limits.response_timeout, SLACK]
        .into_iter()
        .fold(limits.dns_timeout, Duration::saturating_add);
    let outcome = timeout(limit, Box::pin(walk.all())).await.unwrap_or_else(|_| {
        Err(Refusal::new(Cause::CheckUnfinished, format!("the check did not end within {limit:?}")))
    });
    match outcome {
        Ok(()) => walk.is_ready(),
        Err(refusal) => walk.is_blocked(refusal),
    }
    walk.end()
}

struct Walk<'a> {
    view: &'a View,
    target: &'a Arc<Target>,
    check: Check,
    told: &'a mut (dyn FnMut(&Step) + Send),
    notes: Notes,
    began: Instant,
    step_began: Instant,
}

impl Walk<'_> {
    async fn all(&mut self) -> Result<(), Refusal> {
        let probe = Probe::of(self.target);
        let permit = permit(self.target, probe.as_ref())?;
        self.passed(StepName::BaseUrl, self.target.base.to_string());
        let pinned = self.find(&permit).await?;
        let upstream = self.connect(&pinned).await?;
        let address = upstream.address;
        let ready = self.secure(upstream, probe.is_some()).await?;
        match (probe, ready) {
            (Some(probe), Some(ready)) => {
                let answer = probe.send(self.view, self.target, &pinned, (address, ready)).await?;
                self.check.http_status = Some(answer.status.as_u16());
                if let Some(refusal) = answer.refusal {
                    return Err(Refusal::new(Cause::AllowlistRefused, refusal));
                }
                self.passed(StepName::Http, format!("answered {}", answer.status.as_u16()));
            }
            _ => self.skipped(StepName::Http, Some("nothing is sent to a webhook receiver")),
        }
        Ok(())
    }

    /// Rules 5 to 8.
    async fn find(&mut self, permit: &Permit) -> Result<Pinned, Refusal> {
        let egress = &self.view.egress;
        if self.uses_tunnel() {
            let mut tunnels = self.target.network.tunnels.iter();
            let first = tunnels.find_map(|name| egress.tunnels.get(name));
            self.check.tunnel_url = first.map(|tunnel| tunnel.url());
        }
        let addresses = egress.addresses_of(permit, &mut self.notes).await?;
        self.check.addresses = addresses.to_vec();
        let is_name = self.target.base.origin.authority.host.ip().is_none();
        if is_name {
            let shown: Vec<_> = addresses.iter().map(IpAddr::to_string).collect();
            self.passed(StepName::Dns, shown.join(", "));
        } else {
            self.skipped(StepName::Dns, Some("the base URL holds an address"));
        }
        let pinned = egress.approve(permit, &addresses, &mut self.notes).await;
        let no_tunnel = |refusal: &Refusal| refusal.failure() == Failure::TunnelDown;
        if pinned.as_ref().err().is_none_or(no_tunnel) {
            self.check.dns_status = if is_name { DnsStatus::Ok } else { DnsStatus::Skipped };
            self.passed(StepName::AddressPolicy, "every address is approved".to_owned());
        }
        let pinned = pinned?;
        if self.uses_tunnel() {
            let name = self.tunnel().await?;
            self.check.tunnel_status = TunnelStatus::Healthy;
            self.passed(StepName::Tunnel, name);
        } else {
            self.skipped(StepName::Tunnel, None);
        }
        Ok(pinned)
    }

    async fn connect(&mut self, pinned: &Pinned) -> Result<Upstream, Refusal> {
        let connected = self.view.egress.connect(pinned, &mut self.notes).await;
        self.check.pinned = self.notes.pinned;
        let stood = match &connected {
            Ok(upstream) => Some(upstream.address.to_string()),
            Err(refusal) if refusal.cause == Cause::ResetBeforeServerHello => {
                Some("it stood, and was reset at once".to_owned())
            }
            Err(_) => None,
        };
        if let Some(detail) = stood {
            self.check.firewall_status = FirewallStatus::Open;
            self.passed(StepName::Tcp, detail);
        }
        connected
    }

    /// Speaks TLS where the target does. Where nothing `follows`, takes leave.
    async fn secure(
        &mut self,
        upstream: Upstream,
        follows: bool,
    ) -> Result<Option<Ready>, Refusal> {
        let address = upstream.address;
        let secured =
            self.view.egress.secure_anew(upstream, self.target, Alpn::Http2, &mut self.notes).await;
        let shown = self.notes.certificate.as_deref();
        self.check.tls = shown.map(|certificate| facts(None, Some(certificate)));
        let ready = secured?;
        let Some(agreed) = &ready.facts else {
            self.skipped(StepName::Tls, Some("plain HTTP, which the target allows"));
            return Ok(Some(ready));
        };
        let certificate = facts(Some(agreed), agreed.certificate.as_deref());
        let detail = described(&certificate);
        self.check.tls = Some(certificate);
        let ready = if follows {
            Some(ready)
        } else {
            let round_trip = self.notes.connect.unwrap_or_default();
            let patience = round_trip.saturating_mul(4).max(OBJECTION_TIMEOUT_MIN);
            leave(address, ready, patience.min(self.view.limits.tls_timeout)).await?;
            None
        };
        self.check.tls_status = TlsStatus::Valid;
        self.passed(StepName::Tls, detail);
        Ok(ready)
    }

    /// The first tunnel whose far end answers, so that it is told apart from what lies behind it.
    async fn tunnel(&mut self) -> Result<String, Refusal> {
        let mut failure = None;
        for name in &self.target.network.tunnels {
            let Some(tunnel) = self.view.egress.tunnels.get(name) else { continue };
            // One that carries is not asked again: WireGuard peers ignore handshakes in a row.
            let answers = match tunnel.state() {
                TunnelState::Healthy => Ok(()),
                TunnelState::Unknown | TunnelState::Unreachable => tunnel.probe().await,
            };
            match answers {
                Ok(()) => {
                    self.check.tunnel_url = Some(tunnel.url());
                    return Ok(name.to_string());
                }
                Err(error) => {
                    let detail = format!("tunnel {name}: {error}");
                    failure.get_or_insert_with(|| Refusal::new(Cause::from(&error), detail));
                }
            }
        }
        let none = || Refusal::new(Cause::TunnelUnavailable, "the target's tunnel is not there");
        Err(failure.unwrap_or_else(none))
    }

    fn uses_tunnel(&self) -> bool {
        self.target.network.policy == PrivateNetworkPolicy::Tunnel
    }

    fn passed(&mut self, name: StepName, detail: String) {
        self.step(name, StepStatus::Ok, Some(detail));
    }

    fn skipped(&mut self, name: StepName, why: Option<&str>) {
        self.step(name, StepStatus::Skipped, why.map(ToOwned::to_owned));
    }

    fn step(&mut self, name: StepName, status: StepStatus, detail: Option<String>) {
        let now = Instant::now();
        let duration_ms = millis(now.saturating_duration_since(self.step_began));
        self.step_began = now;
        let step = Step { name, status, detail, duration_ms };
        (self.told)(&step);
        self.check.steps.push(step);
    }

    fn is_ready(&mut self) {
        let egress_ip = self.egress_ip();
        let listed = |ip| self.target.allowlist.iter().any(|net| net.contains(&ip));
        self.check.state = State::Ready;
        self.check.allowlist_status = if self.uses_tunnel() {
            AllowlistStatus::Tunnel
        } else if egress_ip.is_some_and(listed) {
            AllowlistStatus::Allowlist
        } else {
            AllowlistStatus::Direct
        };
    }

    fn is_blocked(&mut self, refusal: Refusal) {
        let plain = self.target.base.origin.scheme == crate::origin::Scheme::Http;
        if self.next_step() == Some(StepName::Tls) && plain {
            self.skipped(StepName::Tls, None);
        }
        if let Some(at) = self.next_step() {
            self.step(at, StepStatus::Failed, Some(refusal.detail.clone()));
            blame(&mut self.check, at, refusal.cause);
        }
        while let Some(rest) = self.next_step() {
            self.skipped(rest, None);
        }
        let refusal = refusal.about(self.target.about(&self.view.egress_ips));
        let state = if stops(refusal.cause) { State::Stopped } else { State::Blocked };
        self.check.egress_ip = self.egress_ip();
        self.check.refused(state, &refusal, self.target);
    }

    /// The step under way: the first that has not ended.
    fn next_step(&self) -> Option<StepName> {
        StepName::ALL.get(self.check.steps.len()).copied()
    }

    /// Of the family that was dialled.
    fn egress_ip(&self) -> Option<IpAddr> {
        let dialled = self.check.pinned.map(|pinned| pinned.ip());
        dialled.and_then(|ip| self.view.egress.addresses.source_for(ip)).or(self.check.egress_ip)
    }

    fn end(self) -> Check {
        let egress_ip = self.egress_ip();
        let mut check = self.check;
        let now = Timestamp::now();
        check.egress_ip = egress_ip;
        check.last_checked_at = Some(now);
        if check.state == State::Ready {
            let ttl = SignedDuration::try_from(self.view.check_ttl).unwrap_or(SignedDuration::MAX);
            check.expires_at = Some(now.saturating_add(ttl).unwrap_or(Timestamp::MAX));
        }
        check.duration_ms = millis(self.began.elapsed());
        check
    }
}

/// Rules 1 to 3 for nobody in particular: may the probe be sent, or the webhook's own URL be asked
/// for.
fn permit(target: &Arc<Target>, probe: Option<&Probe>) -> Result<Permit, Refusal> {
    let base = &target.base;
    let resource = match probe {
        Some(probe) => Resource { path: probe.path.clone(), query: None },
        None => {
            Resource { path: base.path().to_owned(), query: base.query().map(ToOwned::to_owned) }
        }
    };
    let authority = base.origin.authority.clone();
    let destination = Destination { authority, hint: None, resource: Some(resource) };
    policy::permit(&Clients::unnamed(), destination, target, Mode::Check)
}

fn facts(agreed: Option<&TlsFacts>, certificate: Option<&CertificateFacts>) -> Certificate {
    Certificate {
        version: agreed.map(|facts| facts.version.as_str().to_owned()),
        issuer: certificate.map(|certificate| certificate.issuer.clone()),
        not_after: certificate.map(|certificate| certificate.not_after),
        names: certificate.map(|certificate| certificate.names.clone()).unwrap_or_default(),
    }
}

fn described(certificate: &Certificate) -> String {
    let version = certificate.version.as_deref().unwrap_or_default();
    match (&certificate.issuer, certificate.not_after) {
        (Some(issuer), Some(not_after)) => {
            format!("{version}, certificate by {issuer}, valid until {not_after}")
        }
        _ => version.to_owned(),
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
