//! Ways into private networks: each takes a vetted address and gives a stream, or says why not.

mod error;
pub mod wireguard;

pub use error::TunnelError;
