//! The admin listener: health, metrics, what the gateway is, what it decided and why.
//!
//! Each group of routes has a file of its own, and all of them one form:
//!
//! - `pub(super) fn routes() -> Vec<Route>` lists its handlers with `route!`; [`routes`] takes them
//!   all. There is no other way to add a route, so none is missing in the document.
//! - Each handler has `#[utoipa::path]` with path, `operation_id`, the group's tag of [`openapi`],
//!   `params`, `request_body`, and a line for each status that the handler itself answers: what
//!   [`guard`] answers, and the form of problems, [`openapi::complete`] adds. The first line of its
//!   comment is the summary. Nothing is `required` of what may be `null` unless it says so.
//! - It reads its query with [`input::QueryTable`], its body with [`input::BodyTable`]: every
//!   problem is then named with its key. Lists are [`page::Page`]s. Errors are [`problem::Problem`].
//! - [`guard`] asks `Host`, origin, token, role, rate and kind of body before any handler is called.
//!   What is not `GET` needs the role `operate`, unless [`guard::READING_POSTS`] has it.
//! - `UPDATE=1 cargo test --test docs` writes `docs/generated/openapi.json`.

mod checks;
mod credentials;
mod decisions;
mod deliveries;
mod explain;
mod guard;
mod health;
mod input;
mod openapi;
mod page;
mod precondition;
mod problem;
mod rate;
mod reference;
mod refused;
mod route;
mod serve;
mod shown;
mod targets;
#[cfg(test)]
mod tests;
pub mod token;
mod tunnels;

use std::{fmt, future::ready, net::IpAddr, sync::Arc};

use arc_swap::ArcSwap;
use axum::{
    Router,
    http::{HeaderValue, header},
    middleware::{from_fn_with_state, map_response},
    response::Response,
};
use ipnet::IpNet;
use tokio::sync::Semaphore;
use utoipa::openapi::OpenApi;
use utoipa_axum::router::OpenApiRouter;

pub use health::{BoxFuture, Check, CheckStatus, Probe};
pub use serve::{Limits, serve};

use crate::{gateway::Gateway, inventory::Inventory, origin::Host, store::Store};
use problem::Problem;
use rate::Rate;
use route::Route;
use token::Access;

/// What the listener knows of the configuration: swapped whole on a reload.
#[derive(Clone, Debug, Default)]
pub struct AdminView {
    /// `egress.ip`: where outbound connections come from. The first is the one that is named where
    /// there is room for one.
    pub egress_ip: Vec<IpAddr>,
    /// `egress.ranges`: what customers are told to allowlist. Default: `egress_ip`.
    pub ranges: Vec<IpNet>,
    /// `admin.tokens`. Without any, everybody who reaches the listener may do everything; the
    /// configuration allows that on loopback only.
    pub tokens: Vec<Access>,
    /// `admin.hosts`: names accepted in `Host` besides `localhost`.
    pub hosts: Vec<Host>,
}

/// What the routes of the admin listener work with.
pub struct AdminState {
    /// What traffic goes through: its configuration, its metrics.
    pub gateway: Arc<Gateway>,
    /// The targets that this API keeps.
    pub inventory: Arc<Inventory>,
    /// Checks and deliveries of the past.
    pub store: Store,
    /// Asked by `/readyz`.
    pub probe: Arc<dyn Probe>,
    /// Stored anew by a reload; a request that is under way may see the one before.
    pub view: ArcSwap<AdminView>,
    /// A place for each explanation or judgement under way.
    explaining: Semaphore,
    rate: Rate,
}

impl AdminState {
    /// State for a listener that is about to open.
    pub fn new(
        gateway: Arc<Gateway>,
        inventory: Arc<Inventory>,
        store: Store,
        probe: Arc<dyn Probe>,
        view: AdminView,
    ) -> Self {
        Self {
            gateway,
            inventory,
            store,
            probe,
            view: ArcSwap::from_pointee(view),
            explaining: Semaphore::new(explain::AT_ONCE_MAX),
            rate: Rate::default(),
        }
    }
}

impl fmt::Debug for AdminState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AdminState").field("view", &self.view).finish_non_exhaustive()
    }
}

/// Every route of the admin listener (contract, section 11).
fn routes() -> impl Iterator<Item = Route> {
    let groups = [
        health::routes(),
        reference::routes(),
        targets::routes(),
        credentials::routes(),
        checks::routes(),
        deliveries::routes(),
        tunnels::routes(),
        decisions::routes(),
        explain::routes(),
        openapi::routes(),
    ];
    groups.into_iter().flatten()
}

/// The `OpenAPI` 3.1 document of the admin API: what every route says of itself.
pub fn document() -> OpenApi {
    let head = OpenApiRouter::with_openapi(openapi::head());
    let all = routes().fold(head, |all, route| all.routes((route.says)()));
    openapi::complete(all.into_openapi())
}

/// Every route, behind its checks.
pub fn router(state: Arc<AdminState>) -> Router {
    routes()
        .fold(Router::new(), |all, route| all.route(&route.path, route.serves))
        .fallback(|| ready(Problem::NotFound))
        .method_not_allowed_fallback(|| ready(Problem::MethodNotAllowed))
        // the last one added is the first one asked
        .layer(from_fn_with_state(Arc::clone(&state), guard::guard))
        .layer(map_response(|response| ready(with_security_fields(response))))
        .with_state(state)
}

/// Nothing here is for a cache, or for a browser to guess at. There are no CORS fields: no page of
/// another origin has business here.
fn with_security_fields(mut response: Response) -> Response {
    let fields = response.headers_mut();
    fields.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    fields.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
