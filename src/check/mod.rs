//! Connectivity checks: which control stands between the gateway and a target, and whose it is
//! (contract, section 8).

mod blame;
mod probe;
mod record;
#[cfg(test)]
mod tests;
mod walk;

pub use record::{
    AllowlistStatus, Certificate, Check, DnsStatus, FirewallStatus, State, Step, StepName,
    StepStatus, TlsStatus, TunnelStatus,
};
pub use walk::walk;
