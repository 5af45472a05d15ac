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
use utoipa::ToSchema;

use super::{
    AdminState, AdminView,
    input::QueryTable,
    openapi::REFERENCE,
    page::{Page, PageQuery},
    problem::Problem,
    route::{Route, route},
};
use crate::{
    reason::{About, Cause, Code, DeploymentMode, Refusal},
    target::provider::{Catalogue, Provider},
};

pub(super) fn routes() -> Vec<Route> {
    vec![route!(egress), route!(providers), route!(reasons)]
}

#[derive(Serialize, ToSchema)]
#[schema(as = EgressAddresses)]
struct ListedAddresses {
    /// Where outbound connections come from; `null` where the system chooses.
    #[schema(required, value_type = Option<String>, example = "203.0.113.10")]
    egress_ip: Option<IpAddr>,
    /// All of them, where there are several.
    #[schema(value_type = Vec<String>, example = json!(["203.0.113.10"]))]
    egress_ips: Vec<IpAddr>,
    /// What customers are told to allowlist.
    #[schema(value_type = Vec<String>, example = json!(["203.0.113.8/29"]))]
    ranges: Vec<IpNet>,
    /// The gateway's.
    version: &'static str,
}

/// What customers allowlist
#[utoipa::path(
    get,
    path = "/v1/egress",
    operation_id = "egress",
    tag = REFERENCE,
    responses((status = 200, description = "The addresses", body = ListedAddresses)),
)]
fn egress(State(state): State<Arc<AdminState>>) -> Ready<Json<ListedAddresses>> {
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
#[derive(Serialize, ToSchema)]
#[schema(as = ListedProvider)]
struct ListedProvider {
    #[serde(flatten)]
    #[schema(value_type = Provider)]
    provider: Arc<Provider>,
    /// Accepted in a target's `provider_key`, depending on its deployment mode.
    #[schema(value_type = Vec<String>)]
    aliases: BTreeSet<&'static str>,
}

/// The catalogue of providers
#[utoipa::path(
    get,
    path = "/v1/providers",
    operation_id = "listProviders",
    tag = REFERENCE,
    params(PageQuery),
    responses(
        (status = 200, description = "A page of them", body = Page<ListedProvider>),
        (status = 400, description = "The query is wrong"),
    ),
)]
fn providers(query: QueryTable) -> Ready<Result<Json<Page<ListedProvider>>, Problem>> {
    let catalogue = Catalogue::embedded();
    let all = catalogue.providers().iter().map(|provider| ListedProvider {
        provider: Arc::clone(provider),
        aliases: aliases(catalogue, provider),
    });
    let query = query.read(PageQuery::read);
    let page = |query| Page::of(all.collect(), |listed| &listed.provider.key, query);
    ready(query.and_then(page).map(Json))
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
#[derive(Serialize, ToSchema)]
struct ListedCode {
    /// The public word.
    code: &'static str,
    /// The word as a title.
    title: &'static str,
    /// What it means.
    meaning: &'static str,
    /// Who has to act: `customer`, `product`, `operator` or `provider`.
    owner: &'static str,
    /// What to do.
    next_step: String,
    /// The statuses of answers with it.
    #[schema(value_type = Vec<u16>)]
    statuses: BTreeSet<u16>,
    /// Why, finely.
    causes: Vec<ListedCause>,
}

/// A cause, as it shows with its code.
#[derive(Serialize, ToSchema)]
struct ListedCause {
    /// The fine word.
    cause: &'static str,
    /// What it means.
    meaning: &'static str,
    /// Who has to act.
    owner: &'static str,
    /// What to do.
    next_step: String,
    /// Whether another try may succeed.
    retryable: bool,
    /// The status of the answer.
    status: u16,
    /// The error of `Proxy-Status` (RFC 9209).
    proxy_status_error: &'static str,
}

/// Every code with its meaning, owner and next step
#[utoipa::path(
    get,
    path = "/v1/reasons",
    operation_id = "listReasons",
    tag = REFERENCE,
    params(PageQuery),
    responses(
        (status = 200, description = "A page of them", body = Page<ListedCode>),
        (status = 400, description = "The query is wrong"),
    ),
)]
fn reasons(
    State(state): State<Arc<AdminState>>,
    query: QueryTable,
) -> Ready<Result<Json<Page<ListedCode>>, Problem>> {
    let egress = egress_words(&state.view.load());
    let all = Code::ALL.iter().map(|code| listed_code(*code, &egress)).collect();
    let query = query.read(PageQuery::read);
    ready(query.and_then(|query| Page::of(all, |listed| listed.code, query)).map(Json))
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
