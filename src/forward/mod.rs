//! Carrying what was permitted.

pub mod ahead;
pub mod body;
pub mod client_hello;
pub mod connect;
pub mod fields;
pub mod interim;
pub mod line;
pub mod linger;
pub mod noted;
pub mod pool;
pub mod pump;
mod splice;
pub mod timer;
pub mod upstream;
