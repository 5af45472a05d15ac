//! The rules that need no address, as a table in the order in which they are asked.

use super::{Case, Mode};
use crate::{
    path::{self, PathFault},
    reason::{Cause, DeploymentMode, Refusal},
    target::{AuthStatus, Ownership, Scope},
};

/// One question that the policy asks.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    /// Its name in `explain` and in the documentation.
    pub name: &'static str,
    pub(super) judge: fn(&Case<'_>) -> Result<(), Refusal>,
}

/// In the order of the contract's section 6. The first refusal wins.
pub const RULES: &[Rule] = &[
    Rule { name: "client_may_use_target", judge: client_may_use_target },
    Rule { name: "target_enabled", judge: target_enabled },
    Rule { name: "ownership_confirmed", judge: ownership_confirmed },
    Rule { name: "connect_allowed", judge: connect_allowed },
    Rule { name: "path_approved", judge: path_approved },
    Rule { name: "provider_auth_done", judge: provider_auth_done },
    Rule { name: "webhook_has_secret", judge: webhook_has_secret },
];

fn client_may_use_target(case: &Case<'_>) -> Result<(), Refusal> {
    pass_if(case.client.may_use(&case.target.id), Cause::ClientForbidden, || {
        format!("client {} may not use target {}", case.client.name(), case.target.id)
    })
}

fn target_enabled(case: &Case<'_>) -> Result<(), Refusal> {
    pass_if(case.target.enabled, Cause::TargetDisabled, || {
        format!("target {} is disabled", case.target.id)
    })
}

fn ownership_confirmed(case: &Case<'_>) -> Result<(), Refusal> {
    let confirmed = case.target.ownership == Ownership::Confirmed;
    pass_if(confirmed, Cause::OwnershipUnclear, || {
        format!("the ownership of target {} is not confirmed", case.target.id)
    })
}

fn connect_allowed(case: &Case<'_>) -> Result<(), Refusal> {
    let allowed = match case.mode {
        Mode::Connect => case.target.connect_allowed(),
        Mode::Relay | Mode::Webhook | Mode::Check => true,
    };
    pass_if(allowed, Cause::ConnectNotAllowed, || {
        let id = &case.target.id;
        if case.target.mode == DeploymentMode::WebhookOnly {
            format!("target {id} takes webhooks only, whose bodies the gateway has to sign")
        } else {
            format!("target {id} has a base path, which CONNECT would hide from the gateway")
        }
    })
}

/// The path lies within the base path, or is exactly the webhook's. In a tunnel there is none.
fn path_approved(case: &Case<'_>) -> Result<(), Refusal> {
    let Some(resource) = &case.destination.resource else {
        return Ok(());
    };
    let target = case.target;
    if target.mode == DeploymentMode::WebhookOnly {
        let exact = target.base.is_exactly(&resource.path, resource.query.as_deref());
        return pass_if(exact, Cause::OutsideBasePath, || {
            format!("the URL is not exactly the one that webhook target {} approves", target.id)
        });
    }
    let within = match target.scope {
        Scope::BasePath => {
            path::contained(target.base.path(), &resource.path, target.encoded_slash)
        }
        Scope::Origin => path::check(&resource.path, target.encoded_slash),
    };
    within.map_err(|fault| {
        let cause = if fault == PathFault::OutsideBase {
            Cause::OutsideBasePath
        } else {
            Cause::PathAmbiguous
        };
        Refusal::new(cause, format!("target {}: {fault}", target.id))
    })
}

fn provider_auth_done(case: &Case<'_>) -> Result<(), Refusal> {
    let done = case.target.auth_status == AuthStatus::Connected;
    pass_if(done || case.mode == Mode::Check, Cause::ProviderAuthRequired, || {
        format!(
            "target {} waits for {}'s own authorisation step",
            case.target.id, case.target.provider.name
        )
    })
}

fn webhook_has_secret(case: &Case<'_>) -> Result<(), Refusal> {
    let webhook = case.target.mode == DeploymentMode::WebhookOnly && case.mode != Mode::Check;
    let signed = case.target.signing.secret.is_some();
    pass_if(!webhook || signed, Cause::SigningSecretMissing, || {
        format!("webhook target {} has no signing secret", case.target.id)
    })
}

fn pass_if(passed: bool, cause: Cause, detail: impl FnOnce() -> String) -> Result<(), Refusal> {
    if passed { Ok(()) } else { Err(Refusal::new(cause, detail())) }
}

/// What a rule said, for `explain`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// The rule's name.
    pub name: &'static str,
    /// What it said.
    pub verdict: Result<Verdict, Refusal>,
}

impl Step {
    /// A step of an explanation.
    pub fn new(name: &'static str, verdict: Result<Verdict, Refusal>) -> Self {
        Self { name, verdict }
    }

    /// `passed`, `refused` or `not_asked`.
    pub fn word(&self) -> &'static str {
        match self.verdict {
            Ok(Verdict::Passed) => "passed",
            Ok(Verdict::NotAsked) => "not_asked",
            Err(_) => "refused",
        }
    }
}

/// What a rule said when it did not refuse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It has nothing against the request.
    Passed,
    /// An earlier rule had refused, or it could not be asked.
    NotAsked,
}
