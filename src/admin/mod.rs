//! The admin listener: health, metrics and what customers need to know of the gateway.
//!
//! Each group of routes has a file of its own: [`health`] for machines that watch the gateway,
//! [`mod@reference`] for what it is and what its words mean. In front of all of them stand the checks
//! of [`guard`]: the `Host` field, the token, its role. Errors are problem documents ([`problem`])
//! and never repeat anything of the request.

mod guard;
mod health;
mod page;
mod problem;
mod reference;
mod serve;
#[cfg(test)]
mod tests;
pub mod token;

use std::{fmt, future::ready, net::IpAddr, sync::Arc};

use arc_swap::ArcSwap;
use axum::{
    Router,
    extract::DefaultBodyLimit,
    http::{HeaderValue, header},
    middleware::{from_fn_with_state, map_response},
    response::Response,
    routing::get,
};
use ipnet::IpNet;

pub use health::{BoxFuture, Check, CheckStatus, Probe};
pub use serve::{Limits, serve};

use crate::{gateway::Gateway, origin::Host};
use problem::Problem;
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
    /// Asked by `/readyz`.
    pub probe: Arc<dyn Probe>,
    /// Stored anew by a reload; a request that is under way may see the one before.
    pub view: ArcSwap<AdminView>,
}

impl AdminState {
    /// State for a listener that is about to open.
    pub fn new(gateway: Arc<Gateway>, probe: Arc<dyn Probe>, view: AdminView) -> Self {
        Self { gateway, probe, view: ArcSwap::from_pointee(view) }
    }
}

impl fmt::Debug for AdminState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AdminState").field("view", &self.view).finish_non_exhaustive()
    }
}

/// Largest request body, in bytes: a target with a few certificates and allowlists, many times over.
const BODY_BYTES_MAX: usize = 64 * 1024;

/// Every route of the admin listener (contract, section 11), behind its checks.
pub fn router(state: Arc<AdminState>) -> Router {
    Router::new()
        .route("/healthz", get(health::healthz))
        .route("/readyz", get(health::readyz))
        .route("/metrics", get(health::metrics))
        .route("/v1/egress", get(reference::egress))
        .route("/v1/providers", get(reference::providers))
        .route("/v1/reasons", get(reference::reasons))
        .fallback(|| ready(Problem::NotFound))
        .method_not_allowed_fallback(|| ready(Problem::MethodNotAllowed))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        // the last one added is the first one asked
        .layer(from_fn_with_state(Arc::clone(&state), guard::access))
        .layer(from_fn_with_state(Arc::clone(&state), guard::host))
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
