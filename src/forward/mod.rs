//! Carrying what was permitted.

pub mod client_hello;
