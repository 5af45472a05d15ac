//! What traffic would be told, as part of an answer of this API.

use std::net::IpAddr;

use serde::Serialize;
use utoipa::ToSchema;

use crate::{reason::Refusal, view::View};

/// A refusal that traffic would get.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub(super) struct Warning {
    /// The public code.
    pub(super) code: &'static str,
    /// The fine word.
    pub(super) cause: &'static str,
    /// What it is about, in a sentence.
    pub(super) detail: String,
    /// Who has to act: `customer`, `product`, `operator` or `provider`.
    pub(super) owner: &'static str,
    /// What to do, in a sentence that can be forwarded.
    pub(super) next_step: String,
}

impl Warning {
    /// Of one refusal; `egress` is the address to allowlist.
    pub(super) fn of(refusal: &Refusal, egress: Option<IpAddr>) -> Self {
        let unset = || "the gateway's address".to_owned();
        Self {
            code: refusal.code().as_str(),
            cause: refusal.cause.as_str(),
            detail: refusal.detail.clone(),
            owner: refusal.owner().as_str(),
            next_step: refusal.next_step(&egress.map_or_else(unset, |ip| ip.to_string())),
        }
    }

    pub(super) fn all(refusals: &[Refusal], view: &View) -> Vec<Self> {
        let egress = view.egress_ips.first().copied();
        refusals.iter().map(|refusal| Self::of(refusal, egress)).collect()
    }
}
