//! Connectivity checks: which control stands between the gateway and a target, and whose it is
//! (contract, section 8).

mod record;

pub use record::{
    AllowlistStatus, Certificate, Check, DnsStatus, FirewallStatus, State, Step, StepName,
    StepStatus, TlsStatus, TunnelStatus,
};
