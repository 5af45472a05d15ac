//! What it means for each control that a walk ended at a step.

use super::record::{
    AllowlistStatus, Check, DnsStatus, FirewallStatus, StepName, TlsStatus, TunnelStatus,
};
use crate::reason::{Cause, Failure};

/// Sets the statuses of the control that stopped the walk `at` this step, and of the allowlist.
/// Those of the steps before are set by then; those of the steps after stay `skipped`.
pub(super) fn blame(check: &mut Check, at: StepName, cause: Cause) {
    check.allowlist_status = allowlist(cause);
    match at {
        StepName::BaseUrl => {}
        StepName::Dns => {
            check.dns_status = DnsStatus::Failed;
            if cause.failure() == Failure::TunnelDown {
                // Its resolver is reached through one.
                check.tunnel_status = TunnelStatus::Unreachable;
            }
        }
        StepName::AddressPolicy => check.dns_status = DnsStatus::Unsafe,
        StepName::Tunnel => check.tunnel_status = TunnelStatus::Unreachable,
        StepName::Tcp if cause.failure() == Failure::TunnelDown => {
            check.tunnel_status = TunnelStatus::Unreachable;
        }
        StepName::Tcp => check.firewall_status = firewall(cause),
        StepName::Tls | StepName::Http => {
            // A handshake that stalls is a firewall's doing, which let the connection stand only
            // to look into it. One that is cut off before the ServerHello says nothing about TLS,
            // which stays `skipped`.
            if cause.failure() == Failure::ConnectBlocked {
                check.firewall_status = FirewallStatus::Blocked;
            } else if cause.failure() == Failure::TlsInvalid {
                check.tls_status = TlsStatus::Invalid;
            }
        }
    }
}

/// `missing` only where the far side shows that it refuses the egress address.
fn allowlist(cause: Cause) -> AllowlistStatus {
    if stops(cause) {
        AllowlistStatus::Unknown
    } else if matches!(cause, Cause::ResetBeforeServerHello | Cause::AllowlistRefused) {
        AllowlistStatus::Missing
    } else {
        AllowlistStatus::Unreachable
    }
}

/// Whether nothing was checked, and trying again changes nothing, before somebody decides.
pub(super) const fn stops(cause: Cause) -> bool {
    matches!(cause, Cause::OwnershipUnclear | Cause::TargetDisabled)
}

/// Of a connection that does not stand.
fn firewall(cause: Cause) -> FirewallStatus {
    let failure = cause.failure();
    if failure == Failure::ConnectRefused {
        FirewallStatus::Refused
    } else if failure == Failure::ConnectBlocked || cause == Cause::PeerMismatch {
        // The latter: something on the way takes the connection for itself.
        FirewallStatus::Blocked
    } else {
        // Nothing left: no address of the family, or no sockets.
        FirewallStatus::Skipped
    }
}
