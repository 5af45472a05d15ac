//! Why a request was refused: the cause, and everything that is derived from it.
//!
//! A [`Cause`] is the fine word. Code, status, owner, next step and the `Proxy-Status` error follow
//! from it (and from the target's deployment mode) by exhaustive `match`, so that no other module
//! ever chooses one of them.

mod cause;
mod code;
mod failure;

use std::{sync::Arc, time::Duration};

pub use cause::Cause;
pub use code::Code;
pub use failure::Failure;

/// Who runs the endpoint that a target names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DeploymentMode {
    /// The provider runs it, on host names of its own.
    Cloud,
    /// The customer runs it, often behind a firewall.
    SelfHosted,
    /// A receiver of signed webhook bodies; nothing else is ever sent there.
    WebhookOnly,
}

impl DeploymentMode {
    /// All of them, in the order in which the contract names them.
    pub const ALL: [Self; 3] = [Self::Cloud, Self::SelfHosted, Self::WebhookOnly];

    /// The word of configuration and API: `cloud`, `self-hosted`, `webhook-only`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Cloud => "cloud",
            Self::SelfHosted => "self-hosted",
            Self::WebhookOnly => "webhook-only",
        }
    }
}

/// Who has to act before a refused request can pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Owner {
    /// The customer whose endpoint the target names: its DNS, firewall, certificate or allowlist.
    Customer,
    /// Whoever uses the gateway: the product that sent the request or registered the target.
    Product,
    /// Whoever runs the gateway.
    Operator,
    /// The provider of the cloud service.
    Provider,
}

impl Owner {
    /// The word of problem documents.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Customer => "customer",
            Self::Product => "product",
            Self::Operator => "operator",
            Self::Provider => "provider",
        }
    }
}

/// What a refusal says of the target it concerns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct About {
    /// The target's id.
    pub target_id: Arc<str>,
    /// Decides which family of codes is used.
    pub mode: DeploymentMode,
    /// The customer has recorded an allowlist and the egress address is not in it.
    pub allowlist_lacks_egress: bool,
}

/// The words of a next step that stand for the target's authority.
const ENDPOINT: &str = "the target's host and port";
/// The words of a next step that stand for the target's host.
const HOST: &str = "the target's host";

/// A decision not to carry on, with all that its answer needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Why.
    pub cause: Cause,
    /// One sentence for a person, about this request. Never holds a credential, body or query.
    pub detail: String,
    /// The target, where one had been found.
    pub about: Option<About>,
    /// When trying again makes sense, where that is known.
    pub retry_after: Option<Duration>,
    /// The connectivity check that found it out, where one did.
    pub check_id: Option<Arc<str>>,
    /// The row of the contract's table: the cause's own, unless said otherwise.
    failure: Failure,
    sent: bool,
}

impl Refusal {
    /// A refusal for `cause`, explained by `detail`.
    pub fn new(cause: Cause, detail: impl Into<String>) -> Self {
        let failure = cause.failure();
        let retry_after = failure.retry_after();
        Self {
            cause,
            detail: detail.into(),
            about: None,
            retry_after,
            check_id: None,
            failure,
            sent: false,
        }
    }

    /// The row of the contract's table that it belongs to.
    pub const fn failure(&self) -> Failure {
        self.failure
    }

    /// The same refusal for a receiver that is left alone because it did not answer in time.
    #[must_use]
    pub const fn of_silence(mut self) -> Self {
        self.failure = Failure::ReceiverSilent;
        self
    }

    /// The same refusal, when something of the request had left already: a tunnel that fails can
    /// do so before and after.
    #[must_use]
    pub const fn after_sending(mut self) -> Self {
        self.sent = true;
        self
    }

    /// Whether something of the request had left, though the failure is one of the way.
    pub const fn was_sent(&self) -> bool {
        self.sent
    }

    /// The same refusal, with a time for the next try.
    #[must_use]
    pub const fn retry_after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }

    /// The same refusal, said of a target.
    #[must_use]
    pub fn about(mut self, about: About) -> Self {
        self.about = Some(about);
        self
    }

    /// The stable public code (contract, section 7).
    pub fn code(&self) -> Code {
        let mode = self.about.as_ref().map_or(DeploymentMode::SelfHosted, |about| about.mode);
        let lacks = self.about.as_ref().is_some_and(|about| about.allowlist_lacks_egress);
        self.failure.code(mode, lacks)
    }

    /// The HTTP status of the answer.
    pub fn status(&self) -> u16 {
        self.failure.status()
    }

    /// Who has to act: the code's owner where the customer's own record is the reason.
    pub fn owner(&self) -> Owner {
        match self.about.as_ref().map(|about| about.mode) {
            Some(DeploymentMode::Cloud) if self.cause.owner() == Owner::Customer => {
                self.failure.cloud_owner()
            }
            Some(
                DeploymentMode::Cloud | DeploymentMode::SelfHosted | DeploymentMode::WebhookOnly,
            )
            | None => self.cause.owner(),
        }
    }

    /// What to do next, in a sentence that can be forwarded; `egress` is the address to allowlist.
    pub fn next_step(&self, egress: &str) -> String {
        // Finer than the cause: who recorded an allowlist without us, and where no redirect can be
        // approved.
        let code = self.code();
        let of_code =
            matches!(code, Code::SelfHostedAllowlistMissing | Code::GenericWebhookRedirectBlocked);
        let step = if of_code { code.next_step() } else { self.cause.next_step() };
        step.replace("{egress_ip}", egress)
    }

    /// [`next_step`](Self::next_step) for somebody who does not know the target: with its host, and
    /// with host and port (`endpoint`), in place of the words that stand for them.
    pub fn next_step_at(&self, egress: &str, host: &str, endpoint: &str) -> String {
        // The longer words first, as they begin with the shorter ones.
        self.next_step(egress).replace(ENDPOINT, endpoint).replace(HOST, host)
    }

    /// Other ways to get the work done while this one is closed.
    pub fn fallback(&self) -> &'static [&'static str] {
        if self.code().is_gateways_own() { &[] } else { &["portable_export", "ticket_only"] }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn about(mode: DeploymentMode, allowlist_lacks_egress: bool) -> About {
        About { target_id: "acme-jira".into(), mode, allowlist_lacks_egress }
    }

    #[test]
    fn an_unowned_host_is_refused_as_self_hosted() {
        let refusal = Refusal::new(Cause::NoTarget, "no enabled target owns example.com:443");
        assert_eq!(refusal.code(), Code::SelfHostedBaseUrlUnsafe);
        assert_eq!(refusal.status(), 403);
    }

    #[test]
    fn a_time_out_blames_the_allowlist_where_the_customer_recorded_one_without_us() {
        let refusal = Refusal::new(Cause::ConnectTimeout, "");
        let blamed = refusal.clone().about(about(DeploymentMode::SelfHosted, true));
        assert_eq!(blamed.code(), Code::SelfHostedAllowlistMissing);
        assert!(blamed.next_step("203.0.113.10").contains("203.0.113.10"));
        let plain = refusal.about(about(DeploymentMode::SelfHosted, false));
        assert_eq!(plain.code(), Code::SelfHostedFirewallBlocked);
        assert_eq!(plain.status(), 504);
    }

    #[test]
    fn the_next_step_of_a_webhook_that_redirects_approves_no_redirect() {
        let refusal = Refusal::new(Cause::RedirectBlocked, "");
        let step = |mode| refusal.clone().about(about(mode, false)).next_step("203.0.113.10");
        assert_eq!(step(DeploymentMode::WebhookOnly), "Register the receiver's final URL.");
        assert!(step(DeploymentMode::SelfHosted).contains("redirects"));
    }

    #[test]
    fn a_next_step_names_the_endpoint_where_it_is_known() {
        let at = |cause| {
            Refusal::new(cause, "").next_step_at("203.0.113.10", "a.example", "a.example:8443")
        };
        assert_eq!(
            at(Cause::ConnectTimeout),
            "Allow inbound TCP from 203.0.113.10 to a.example:8443."
        );
        assert_eq!(at(Cause::DnsNxdomain), "Publish a.example in DNS, or correct it in base_url.");
        for cause in Cause::ALL {
            let customers = cause.owner() == Owner::Customer;
            let of_network = matches!(
                cause.failure(),
                Failure::NameUnresolved
                    | Failure::ConnectBlocked
                    | Failure::ConnectRefused
                    | Failure::ClosedEarly
                    | Failure::AllowlistRefused
                    | Failure::TlsInvalid
            );
            if customers && of_network {
                assert!(at(*cause).contains("a.example"), "{cause:?}");
            }
        }
    }

    #[test]
    fn the_table_of_the_contract_holds() {
        use DeploymentMode::{Cloud, SelfHosted, WebhookOnly};
        let rows = [
            (Cause::OwnershipUnclear, SelfHosted, "SELF_HOSTED_BASE_URL_UNSAFE", 403),
            (Cause::OwnershipUnclear, Cloud, "PROVIDER_BASE_URL_BLOCKED", 403),
            (Cause::OwnershipUnclear, WebhookOnly, "generic_webhook_url_unsafe", 403),
            (Cause::SniMismatch, SelfHosted, "SELF_HOSTED_BASE_URL_UNSAFE", 403),
            (Cause::AddressForbidden, Cloud, "PROVIDER_BASE_URL_BLOCKED", 403),
            (Cause::DnsRebinding, WebhookOnly, "generic_webhook_url_unsafe", 403),
            (Cause::AddressPrivate, SelfHosted, "SELF_HOSTED_PRIVATE_NETWORK_REJECTED", 403),
            (Cause::AddressPrivate, Cloud, "PROVIDER_BASE_URL_BLOCKED", 403),
            (Cause::DnsNxdomain, SelfHosted, "SELF_HOSTED_DNS_FAILED", 502),
            (Cause::DnsNxdomain, Cloud, "PROVIDER_BASE_URL_UNREACHABLE", 502),
            (Cause::DnsNxdomain, WebhookOnly, "WEBHOOK_ENDPOINT_UNREACHABLE", 502),
            (Cause::ConnectProhibited, SelfHosted, "SELF_HOSTED_FIREWALL_BLOCKED", 504),
            (Cause::ConnectTimeout, Cloud, "PROVIDER_BASE_URL_UNREACHABLE", 504),
            (Cause::ConnectRefused, SelfHosted, "SELF_HOSTED_CONNECTIVITY_BLOCKED", 502),
            (Cause::FamilyUnavailable, SelfHosted, "SELF_HOSTED_CONNECTIVITY_BLOCKED", 502),
            (Cause::ResetBeforeServerHello, SelfHosted, "SELF_HOSTED_ALLOWLIST_MISSING", 502),
            (Cause::TunnelUnavailable, Cloud, "SELF_HOSTED_TUNNEL_UNREACHABLE", 502),
            (Cause::SigningSecretMissing, WebhookOnly, "generic_webhook_secret_missing", 403),
            (Cause::ProviderAuthRequired, Cloud, "PROVIDER_AUTH_REQUIRED", 403),
            (Cause::ClientUnauthenticated, SelfHosted, "GATEWAY_CLIENT_UNAUTHENTICATED", 407),
            (Cause::HeadTooLarge, SelfHosted, "GATEWAY_REQUEST_INVALID", 431),
            (Cause::HeadTimeout, SelfHosted, "GATEWAY_REQUEST_INVALID", 408),
            (Cause::Draining, SelfHosted, "GATEWAY_DRAINING", 503),
        ];
        for (cause, mode, code, status) in rows {
            let refusal = Refusal::new(cause, "").about(about(mode, false));
            assert_eq!(refusal.code().as_str(), code, "{cause:?} {mode:?}");
            assert_eq!(refusal.status(), status, "{cause:?}");
        }
    }

    #[test]
    fn every_cause_has_a_word_of_its_own_and_a_next_step() {
        let words: std::collections::BTreeSet<_> =
            Cause::ALL.iter().map(|cause| cause.as_str()).collect();
        assert_eq!(words.len(), Cause::ALL.len());
        assert!(Cause::ALL.len() > 40);
        for cause in Cause::ALL {
            assert!(cause.next_step().ends_with('.'), "{cause:?}");
            assert!(
                cause.as_str().bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'),
                "{cause:?}"
            );
        }
    }
}
