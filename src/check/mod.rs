//! Connectivity checks: which control stands between the gateway and a target, and whose it is
//! (contract, section 8).

mod blame;
mod board;
mod expiry;
mod flight;
mod history;
mod probe;
mod record;
pub mod scheduler;
mod show;
mod slot;
#[cfg(test)]
mod tests;
mod walk;

pub use board::{Board, Standing};
pub use history::Writer;
pub use record::{
    AllowlistStatus, Certificate, Check, DnsStatus, FirewallStatus, State, Step, StepName,
    StepStatus, TlsStatus, TunnelStatus,
};
pub use walk::walk;
