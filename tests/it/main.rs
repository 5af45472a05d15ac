//! Black-box tests: the real program, real sockets, in a network namespace of its own.
//!
//! Each test starts `egress-gateway serve` with its own configuration, its own DNS server and its
//! own receivers, all inside a fresh network namespace with realistic addresses on `lo`
//! (`support::lab`). Nothing leaves the machine.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::print_stderr,
    clippy::exit,
    clippy::wildcard_enum_match_arm,
    clippy::too_many_lines,
    clippy::large_futures,
    clippy::float_cmp,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::format_push_string,
    clippy::match_wild_err_arm,
    clippy::cognitive_complexity,
    reason = "a test may panic, opens its own sockets and reads the real clock"
)]

mod support;

mod addresses;
mod api_page;
mod auth;
mod authority;
mod checks;
mod checks_api;
mod clients;
mod config;
mod connect;
mod connector;
mod crash;
mod credentials_api;
mod decisions;
mod disk;
mod dns;
mod gate;
mod interim;
mod lifecycle;
mod limits;
mod openapi;
mod overload;
mod parsers;
mod paths;
mod policy;
mod redirect;
mod relay;
mod sdks;
mod signing;
mod silence;
mod smuggling;
mod sni;
mod targets_api;
mod targets_store;
mod targets_unsafe;
mod telemetry;
mod tls_targets;
mod tunnels;
mod tunnels_e2e;
mod tunnels_silent;
mod upgrade;
mod webhook;
mod webhook_h2;
mod wireguard;
