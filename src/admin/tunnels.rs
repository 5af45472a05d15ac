//! Tunnels: whether each carries traffic, and how it fares.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Path, State},
};

use super::{
    AdminState,
    input::QueryTable,
    openapi::TUNNELS,
    page::{Page, PageQuery},
    problem::Problem,
    route::{Route, route},
};
use crate::tunnel::TunnelStatus;

pub(super) fn routes() -> Vec<Route> {
    vec![route!(list), route!(get)]
}

/// All tunnels
///
/// In the order of their names. Never a secret.
#[utoipa::path(
    get,
    path = "/v1/tunnels",
    operation_id = "listTunnels",
    tag = TUNNELS,
    params(PageQuery),
    responses(
        (status = 200, description = "A page of them", body = Page<TunnelStatus>),
        (status = 400, description = "The query is wrong"),
    ),
)]
async fn list(
    State(state): State<Arc<AdminState>>,
    query: QueryTable,
) -> Result<Json<Page<TunnelStatus>>, Problem> {
    let query = query.read(PageQuery::read)?;
    let view = state.gateway.view.load_full();
    let mut all: Vec<_> = view.egress.tunnels.iter().map(|tunnel| tunnel.status()).collect();
    all.sort_by(|a, b| a.name.cmp(&b.name));
    Page::of(all, |tunnel| &tunnel.name, query).map(Json)
}

/// One tunnel
#[utoipa::path(
    get,
    path = "/v1/tunnels/{name}",
    operation_id = "getTunnel",
    tag = TUNNELS,
    params(("name" = String, Path, description = "Its name in the configuration", example = "acme")),
    responses(
        (status = 200, description = "The tunnel", body = TunnelStatus),
        (status = 404, description = "There is no such tunnel"),
    ),
)]
async fn get(
    State(state): State<Arc<AdminState>>,
    Path(name): Path<String>,
) -> Result<Json<TunnelStatus>, Problem> {
    let view = state.gateway.view.load_full();
    let tunnel = view.egress.tunnels.get(&name).ok_or(Problem::TunnelUnknown)?;
    Ok(Json(tunnel.status()))
}
