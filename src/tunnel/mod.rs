//! Ways into private networks: each takes a vetted address and gives a stream, or says why not.

pub mod error;

pub use error::TunnelError;
