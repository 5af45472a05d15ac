//! What a check found, as the API shows it and the store keeps it.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    reason::{Cause, Refusal},
    target::Target,
};

macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $word:tt,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
        pub enum $name {
            $($(#[$variant_doc])* #[serde(rename = $word)] $variant,)*
        }

        impl $name {
            /// The word of the API and of metrics.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)* }
            }
        }
    };
}

words! {
    /// Whether a target can be reached, as far as is known.
    State {
        /// The last check reached it, and is current.
        Ready = "ready",
        /// The last check did not reach it; `code` says why.
        Blocked = "blocked",
        /// The last check is too old, or the target has been changed since.
        Stale = "stale",
        /// Not checked and not retried: ownership unclear, disabled, or no path authorised.
        Stopped = "stopped",
        /// Never checked.
        Unchecked = "unchecked",
    }
}

impl State {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::Ready, Self::Blocked, Self::Stale, Self::Stopped, Self::Unchecked];
}

words! {
    /// What the name led to.
    DnsStatus {
        /// Addresses that are approved.
        Ok = "ok",
        /// No address.
        Failed = "failed",
        /// Addresses that are not approved.
        Unsafe = "unsafe",
        /// Not asked.
        Skipped = "skipped",
    }
}

words! {
    /// What the TLS handshake showed.
    TlsStatus {
        /// A verified peer.
        Valid = "valid",
        /// A certificate or handshake that is not acceptable.
        Invalid = "invalid",
        /// Not spoken: not reached, or plain HTTP.
        Skipped = "skipped",
    }
}

words! {
    /// What the TCP connection showed.
    FirewallStatus {
        /// It stands.
        Open = "open",
        /// Time-out, or an ICMP answer that it is prohibited or unreachable.
        Blocked = "blocked",
        /// Nothing listens there.
        Refused = "refused",
        /// Not tried.
        Skipped = "skipped",
    }
}

words! {
    /// Which way the far side lets the gateway in.
    AllowlistStatus {
        /// Reached, with no allowlist recorded that holds the egress address.
        Direct = "direct",
        /// Reached, and the egress address is in the target's recorded allowlist.
        Allowlist = "allowlist",
        /// Reached through the tunnel.
        Tunnel = "tunnel",
        /// The far side shows that it refuses the egress address.
        Missing = "missing",
        /// Not reached, for whatever other reason.
        Unreachable = "unreachable",
        /// No check was made.
        Unknown = "unknown",
    }
}

words! {
    /// The target's tunnel.
    TunnelStatus {
        /// It carries traffic.
        Healthy = "healthy",
        /// It does not.
        Unreachable = "unreachable",
        /// The target has none.
        NotUsed = "not_used",
    }
}

words! {
    /// A step of a check, in the order in which they are walked.
    StepName {
        /// Base URL, ownership and the other rules that need no address.
        BaseUrl = "base_url",
        /// The name's addresses.
        Dns = "dns",
        /// The judgement of every address.
        AddressPolicy = "address_policy",
        /// The tunnel, where one is used.
        Tunnel = "tunnel",
        /// The TCP connection.
        Tcp = "tcp",
        /// The TLS handshake.
        Tls = "tls",
        /// One request without credentials.
        Http = "http",
    }
}

impl StepName {
    /// All of them, in the order in which they are walked.
    pub const ALL: [Self; 7] = [
        Self::BaseUrl,
        Self::Dns,
        Self::AddressPolicy,
        Self::Tunnel,
        Self::Tcp,
        Self::Tls,
        Self::Http,
    ];
}

words! {
    /// How a step ended.
    StepStatus {
        /// Passed.
        Ok = "ok",
        /// The blocker.
        Failed = "failed",
        /// Not walked: an earlier step failed, or it does not apply.
        Skipped = "skipped",
    }
}

/// One step of a check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Step {
    /// Which one.
    pub name: StepName,
    /// How it ended.
    pub status: StepStatus,
    /// What was found, for a person.
    pub detail: Option<String>,
    /// How long it took, in milliseconds.
    pub duration_ms: u64,
}

/// The certificate that the target presented, and what TLS agreed on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Certificate {
    /// `TLSv1.2` or `TLSv1.3`; absent where the handshake failed.
    pub version: Option<String>,
    /// Who issued it.
    pub issuer: Option<String>,
    /// When it expires.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub not_after: Option<Timestamp>,
    /// Its subject alternative names.
    pub names: Vec<String>,
}

/// What a check found, or that there was none yet (contract, section 8).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Check {
    /// Its id; absent where the target was never checked.
    #[schema(value_type = Option<String>)]
    pub connectivity_check_id: Option<Arc<str>>,
    /// The target.
    pub target_id: String,
    /// The target's provider.
    pub provider_key: String,
    /// `cloud`, `self-hosted` or `webhook-only`.
    pub deployment_mode: String,
    /// What was checked; a query, which may hold a credential, is not shown.
    pub base_url: String,
    /// `deny`, `direct` or `tunnel`.
    pub private_network_policy: String,
    /// When it ended.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub last_checked_at: Option<Timestamp>,
    /// Until when it counts.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub expires_at: Option<Timestamp>,
    /// The address that the connection came from, or would have.
    #[schema(value_type = Option<String>)]
    pub egress_ip: Option<IpAddr>,
    /// The verdict.
    pub state: State,
    /// The public code of the blocker.
    pub code: Option<String>,
    /// The fine word for the blocker.
    pub cause: Option<String>,
    /// The blocker, in a sentence about this target.
    pub detail: Option<String>,
    /// Who has to act: `customer`, `product`, `operator` or `provider`.
    pub owner: Option<String>,
    /// What to do, in a sentence that can be forwarded.
    pub next_step: Option<String>,
    /// What DNS said.
    pub dns_status: DnsStatus,
    /// Every address of the host.
    #[schema(value_type = Vec<String>)]
    pub addresses: Vec<IpAddr>,
    /// The address that was connected to, or tried first.
    #[schema(value_type = Option<String>)]
    pub pinned: Option<SocketAddr>,
    /// What TLS said.
    pub tls_status: TlsStatus,
    /// The certificate and what was agreed on.
    pub tls: Option<Certificate>,
    /// What TCP said.
    pub firewall_status: FirewallStatus,
    /// Which way the far side lets the gateway in.
    pub allowlist_status: AllowlistStatus,
    /// The tunnel.
    pub tunnel_status: TunnelStatus,
    /// Where the tunnel is, without secrets.
    pub tunnel_url: Option<String>,
    /// The status of the answer to the probe.
    pub http_status: Option<u16>,
    /// How long the whole check took, in milliseconds.
    pub duration_ms: u64,
    /// The steps.
    pub steps: Vec<Step>,
}

impl Check {
    /// What is known of a target that was never checked.
    pub fn unchecked(target: &Target, egress_ip: Option<IpAddr>) -> Self {
        Self {
            connectivity_check_id: None,
            target_id: target.id.to_string(),
            provider_key: target.provider.key.to_string(),
            deployment_mode: target.mode.as_str().to_owned(),
            base_url: target.base.to_string(),
            private_network_policy: target.network.policy.as_str().to_owned(),
            last_checked_at: None,
            expires_at: None,
            egress_ip,
            state: State::Unchecked,
            code: None,
            cause: None,
            detail: None,
            owner: None,
            next_step: None,
            dns_status: DnsStatus::Skipped,
            addresses: Vec::new(),
            pinned: None,
            tls_status: TlsStatus::Skipped,
            tls: None,
            firewall_status: FirewallStatus::Skipped,
            allowlist_status: AllowlistStatus::Unknown,
            tunnel_status: TunnelStatus::NotUsed,
            tunnel_url: None,
            http_status: None,
            duration_ms: 0,
            steps: Vec::new(),
        }
    }

    /// Notes what blocks the target, as a refusal says it.
    pub fn refused(&mut self, state: State, refusal: &Refusal, target: &Target) {
        let unset = || "the gateway's address".to_owned();
        let egress = self.egress_ip.map_or_else(unset, |ip| ip.to_string());
        let authority = &target.base.origin.authority;
        let next_step =
            refusal.next_step_at(&egress, &authority.host.to_string(), &authority.to_string());
        self.state = state;
        self.code = Some(refusal.code().as_str().to_owned());
        self.cause = Some(refusal.cause.as_str().to_owned());
        self.detail = Some(refusal.detail.clone());
        self.owner = Some(refusal.owner().as_str().to_owned());
        self.next_step = Some(next_step);
    }

    /// What traffic is told while this check blocks it, or `None` where it does not; `target` is
    /// the one that was checked. Works for checks that come from the store, too.
    pub fn refusal(&self, target: &Target, egress_ips: &[IpAddr]) -> Option<Refusal> {
        let word = self.cause.as_deref()?;
        let cause = Cause::ALL.iter().find(|cause| cause.as_str() == word).copied();
        // A word of another version: that it is blocked still holds.
        let cause = cause.unwrap_or(Cause::CheckUnfinished);
        let detail = match &self.detail {
            Some(detail) => format!("the last connectivity check found: {detail}"),
            None => "the last connectivity check did not reach the target".to_owned(),
        };
        let mut refusal = Refusal::new(cause, detail).about(target.about(egress_ips));
        refusal.check_id.clone_from(&self.connectivity_check_id);
        Some(refusal)
    }
}
