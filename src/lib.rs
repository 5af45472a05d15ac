//! Egress gateway: a forward proxy that decides, for each connection, whether it may leave.
#![cfg_attr(
    test,
    allow(
        clippy::arithmetic_side_effects,
        clippy::as_conversions,
        clippy::string_slice,
        reason = "a test may panic"
    )
)]

// the judgement: no I/O, no clock
pub mod client;
pub mod destination;
pub mod fields;
pub mod origin;
pub mod path;
pub mod policy;
pub mod reason;
pub mod seal;
pub mod secret;
pub mod target;
pub mod webhook;

// the way out
pub mod carrier;
pub mod connector;
pub mod dial;
pub mod egress;
pub mod multiplex;
pub mod resolve;
pub mod tls;
pub mod tunnel;

// the way in, and the one function from top to bottom
pub mod forward;
pub mod gateway;
pub mod problem;
pub mod record;
pub mod server;

// beside the way
pub mod admin;
pub mod check;
pub mod config;
pub mod decisions;
pub mod deliveries;
pub mod explain;
pub mod inventory;
pub mod sightings;
pub mod slots;
pub mod store;
pub mod telemetry;
pub mod view;

// the program
pub mod cli;
pub mod lifecycle;
