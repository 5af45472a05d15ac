//! Egress gateway: a forward proxy that decides, for each connection, whether it may leave.
#![cfg_attr(
    test,
    allow(
        clippy::unwrap_used,
        clippy::arithmetic_side_effects,
        clippy::as_conversions,
        reason = "tests may panic"
    )
)]

// the judgement: no I/O, no clock
pub mod policy;

// the way out
pub mod dial;
pub mod resolve;

// the way in
pub mod forward;
pub mod server;
