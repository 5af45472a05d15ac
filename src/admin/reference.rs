//! What the gateway is and what its words mean: egress address, providers, reasons.

use std::{
    collections::BTreeSet,
    future::{Ready, ready},
    net::IpAddr,
    sync::Arc,
};

use axum::{Json, extract::State};
use ipnet::IpNet;
use serde::Serialize;

use super::{
    AdminState, AdminView,
    page::{Page, PageRequest},
    problem::Problem,
};
use crate::{
    reason::{About, Cause, Code, DeploymentMode, Refusal},
    target::provider::{Catalogue, Provider},
};

#[derive(Serialize)]
pub(super) struct ListedAddresses {
    egress_ip: Option<IpAddr>,
    egress_ips: Vec<IpAddr>,
    ranges: Vec<IpNet>,
    version: &'static str,
}

/// `GET /v1/egress`: what customers allowlist.
pub(super) fn egress(State(state): State<Arc<AdminState>>) -> Ready<Json<ListedAddresses>> {
    let view = state.view.load();
    let egress_ips = view.egress_ip.clone();
    let ranges = match &*view.ranges {
        [] => egress_ips.iter().copied().map(IpNet::from).collect(),
        ranges => ranges.to_vec(),
    };
    ready(Json(ListedAddresses {
        egress_ip: egress_ips.first().copied(),
        egress_ips,
        ranges,
        version: env!("CARGO_PKG_VERSION"),
    }))
}

/// A provider, and the family names that stand for it.
#[derive(Serialize)]
pub(super) struct ListedProvider {
    #[serde(flatten)]
    provider: Arc<Provider>,
    aliases: BTreeSet<&'static str>,
}

/// `GET /v1/providers`: the catalogue.
pub(super) fn providers(
    request: PageRequest,
) -> Ready<Result<Json<Page<ListedProvider>>, Problem>> {
    let catalogue = Catalogue::embedded();
    let all = catalogue.providers().iter().map(|provider| ListedProvider {
        provider: Arc::clone(provider),
        aliases: aliases(catalogue, provider),
    });
    ready(Page::of(all.collect(), |listed| &listed.provider.key, request).map(Json))
}

fn aliases(catalogue: &'static Catalogue, provider: &Provider) -> BTreeSet<&'static str> {
    let stands_for = |name: &str, mode| {
        catalogue.find(name, mode).is_some_and(|found| found.key == provider.key)
    };
    catalogue
        .names()
        .filter(|name| **name != *provider.key)
        .filter(|name| DeploymentMode::ALL.into_iter().any(|mode| stands_for(name, mode)))
        .collect()
}

/// A code, and the causes that can lead to it.
#[derive(Serialize)]
pub(super) struct ListedCode {
    code: &'static str,
    title: &'static str,
    meaning: &'static str,
    owner: &'static str,
    next_step: String,
    statuses: BTreeSet<u16>,
    causes: Vec<ListedCause>,
}

#[derive(Serialize)]
struct ListedCause {
    cause: &'static str,
    meaning: &'static str,
    owner: &'static str,
    next_step: String,
    retryable: bool,
    status: u16,
    proxy_status_error: &'static str,
}

/// `GET /v1/reasons`: every code with meaning, owner and next step.
pub(super) fn reasons(
    State(state): State<Arc<AdminState>>,
    request: PageRequest,
) -> Ready<Result<Json<Page<ListedCode>>, Problem>> {
    let egress = egress_words(&state.view.load());
    let all = Code::ALL.iter().map(|code| listed_code(*code, &egress)).collect();
    ready(Page::of(all, |listed| listed.code, request).map(Json))
}

/// The addresses to allowlist as they stand in a sentence.
fn egress_words(view: &AdminView) -> String {
    if view.egress_ip.is_empty() {
        return "the gateway's address".to_owned();
    }
    view.egress_ip.iter().map(ToString::to_string).collect::<Vec<_>>().join(" and ")
}

fn listed_code(code: Code, egress: &str) -> ListedCode {
    let causes: Vec<_> = Cause::ALL
        .iter()
        .filter_map(|cause| refusals(*cause).find(|refusal| refusal.code() == code))
        .map(|refusal| ListedCause {
            cause: refusal.cause.as_str(),
            meaning: refusal.cause.meaning(),
            owner: refusal.owner().as_str(),
            next_step: refusal.next_step(egress),
            retryable: refusal.cause.retryable(),
            status: refusal.status(),
            proxy_status_error: refusal.cause.proxy_error(),
        })
        .collect();
    ListedCode {
        code: code.as_str(),
        title: code.title(),
        meaning: code.meaning(),
        owner: code.owner().as_str(),
        next_step: code.next_step().replace("{egress_ip}", egress),
        statuses: causes.iter().map(|cause| cause.status).collect(),
        causes,
    }
}

/// A cause as it shows for a target of each kind: the code depends on that. The refusals themselves
/// know how; nothing of it is repeated here.
fn refusals(cause: Cause) -> impl Iterator<Item = Refusal> {
    let target_id: Arc<str> = Arc::from("");
    DeploymentMode::ALL.into_iter().flat_map(move |mode| {
        let target_id = Arc::clone(&target_id);
        [false, true].into_iter().map(move |allowlist_lacks_egress| {
            let target_id = Arc::clone(&target_id);
            Refusal::new(cause, "").about(About { target_id, mode, allowlist_lacks_egress })
        })
    })
}
