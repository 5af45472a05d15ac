//! Is a target safe to keep: the rules of traffic, asked before there is any.

use std::sync::Arc;

use super::Fault;
use crate::{
    client::Clients,
    destination::{Destination, Resource},
    policy::{self, Answered, Mode, vet},
    reason::{Cause, DeploymentMode, Refusal},
    target::{AuthStatus, Ownership, Target},
    view::View,
};

/// What is not finished about a target that is safe to keep: each blocks traffic until it is.
pub type Warnings = Vec<Refusal>;

/// Rules 2, 5 and 6 for a target that is about to be kept: its URL and every address of its host.
/// Nothing is sent but DNS, and nothing is remembered. `credential`: it comes with one.
///
/// # Errors
/// [`Fault::Unsafe`]; [`Fault::NotJudged`] where a credential comes before its addresses.
pub(super) async fn judge(
    view: &View,
    target: &Target,
    credential: bool,
) -> Result<Warnings, Fault> {
    let about = target.about(&view.egress_ips);
    let said = |refusal: Refusal| refusal.about(about.clone());
    let mut warnings = unfinished(target);
    match addresses(view, target).await {
        Ok(()) => warnings.extend(view.egress.route(target).err()),
        Err(Judgement::Unsafe(refusal)) => return Err(Fault::Unsafe(said(refusal).into())),
        Err(Judgement::Unknown(refusal)) if credential => {
            return Err(Fault::NotJudged(said(refusal).into()));
        }
        Err(Judgement::Unknown(refusal)) => warnings.push(refusal),
    }
    Ok(warnings.into_iter().map(said).collect())
}

/// Why addresses have not passed.
pub(super) enum Judgement {
    /// They must not be reached.
    Unsafe(Refusal),
    /// There are none to judge, for now.
    Unknown(Refusal),
}

/// Judges the URL and every address of the host.
pub(super) async fn addresses(view: &View, target: &Target) -> Result<(), Judgement> {
    let base = &target.base;
    let authority = base.origin.authority.clone();
    let (host, port) = (authority.host.clone(), authority.port);
    let resource =
        Resource { path: base.path().to_owned(), query: base.query().map(ToOwned::to_owned) };
    let destination = Destination { authority, hint: None, resource: Some(resource) };
    // Whose it is, and whether it is switched on, is not what is asked here.
    let candidate =
        Arc::new(Target { enabled: true, ownership: Ownership::Confirmed, ..target.clone() });
    let client = Clients::unnamed();
    let permit =
        policy::permit(&client, destination, &candidate, Mode::Check).map_err(Judgement::Unsafe)?;
    let addresses = view.egress.resolve(target, &host).await.map_err(Judgement::Unknown)?;
    let last_seen = view.egress.last_seen(target, &host);
    let answered = Answered { addresses: &addresses, port, last_seen };
    vet(&permit, &view.egress.scene.load(), &answered).map_err(Judgement::Unsafe)?;
    Ok(())
}

/// What somebody still has to do, as far as it shows without looking anywhere.
fn unfinished(target: &Target) -> Warnings {
    let id = &target.id;
    let webhook = target.mode == DeploymentMode::WebhookOnly;
    let found = [
        (
            target.ownership == Ownership::Unclear,
            Cause::OwnershipUnclear,
            format!("the ownership of target {id} is not confirmed"),
        ),
        (!target.enabled, Cause::TargetDisabled, format!("target {id} is disabled")),
        (
            webhook && target.signing.secret.is_none(),
            Cause::SigningSecretMissing,
            format!("webhook target {id} has no signing secret"),
        ),
        (
            target.auth_status == AuthStatus::Required,
            Cause::ProviderAuthRequired,
            format!("target {id} waits for {}'s own authorisation step", target.provider.name),
        ),
    ];
    let unfinished = found.into_iter().filter(|(found, ..)| *found);
    unfinished.map(|(_, cause, detail)| Refusal::new(cause, detail)).collect()
}
