//! Carrying what was permitted.

pub mod client_hello;
pub mod connect;
pub mod linger;
pub mod pump;
