//! Routes, each listed once, with what it says of itself.
//!
//! Serving needs paths and handlers only. The document is large and seldom asked for: it is put
//! together when it is, and not at every start.

use std::sync::Arc;

use axum::routing::MethodRouter;
use utoipa_axum::router::UtoipaMethodRouter;

use super::AdminState;

/// One path: what serves it and what documents it.
pub(super) struct Route {
    /// As axum and the document write it, such as `/v1/targets/{id}`.
    pub(super) path: String,
    pub(super) serves: MethodRouter<Arc<AdminState>>,
    pub(super) says: fn() -> UtoipaMethodRouter<Arc<AdminState>>,
}

/// The [`Route`] of handlers that share a path. Each has `#[utoipa::path]`.
macro_rules! route {
    ($first:ident $(, $other:ident)*) => {
        $crate::admin::route::Route {
            path: <utoipa_axum::paste!([<__path_ $first>]) as utoipa::Path>::path(),
            serves: {
                let router = $crate::admin::route::route!(@on axum::routing::MethodRouter::new(), $first);
                $(let router = $crate::admin::route::route!(@on router, $other);)*
                router
            },
            says: || utoipa_axum::routes!($first $(, $other)*),
        }
    };
    (@on $router:expr, $handler:ident) => {
        <utoipa_axum::paste!([<__path_ $handler>]) as utoipa::Path>::methods()
            .iter()
            .fold($router, |router, method| {
                router.on(utoipa_axum::PathItemExt::to_method_filter(method), $handler)
            })
    };
}
pub(super) use route;
