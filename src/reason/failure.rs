//! The failures: the rows of the contract's table, each with its code and status.

use std::time::Duration;

use super::{Code, DeploymentMode, Owner};

/// A row of the table in section 7 of the contract: decides code and status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Failure {
    /// URL, scheme, host or path not approved; no target; ownership unclear; SNI mismatch.
    NotApproved,
    /// Forbidden address, or rebinding.
    ForbiddenAddress,
    /// Private address that policy or allowlist does not approve.
    PrivateAddress,
    /// The name does not resolve.
    NameUnresolved,
    /// Connect times out, or is administratively refused.
    ConnectBlocked,
    /// Connection refused.
    ConnectRefused,
    /// Only addresses of a family that has no egress address.
    FamilyUnavailable,
    /// Closed or reset between accept and ServerHello.
    ClosedEarly,
    /// A redirect that is not approved.
    RedirectBlocked,
    /// The answer is invalid or was cut short.
    AnswerInvalid,
    /// No answer in time.
    NoAnswer,
    /// A body that has to be signed is too long.
    BodyTooLarge,
    /// The path names no target.
    TargetUnknown,
    /// The certificate or TLS is not valid.
    TlsInvalid,
    /// The tunnel is down.
    TunnelDown,
    /// The target's own answer shows that it refuses the egress address.
    AllowlistRefused,
    /// No connectivity check could be finished.
    CheckUnfinished,
    /// The receiver was down and is left alone for a while.
    ReceiverDown,
    /// The receiver did not answer in time and is left alone for a while.
    ReceiverSilent,
    /// The idempotency key stands for another delivery.
    IdempotencyConflict,
    /// The same delivery is under way.
    DeliveryInFlight,
    /// A webhook target has no signing secret.
    SecretMissing,
    /// The provider needs a credential step first.
    ProviderAuth,
    /// The client is not known.
    Unauthenticated,
    /// The client may not use the target.
    ClientForbidden,
    /// The request is malformed.
    RequestInvalid,
    /// The request head is too large.
    HeadTooLarge,
    /// The request head did not arrive in time.
    HeadTimeout,
    /// A limit of the gateway is reached.
    Overloaded,
    /// The gateway is shutting down.
    Draining,
}

impl Failure {
    /// The code for a target of this deployment mode.
    #[expect(clippy::too_many_lines, reason = "the contract's table, row by row")]
    pub(super) const fn code(self, mode: DeploymentMode, allowlist_lacks_egress: bool) -> Code {
        use DeploymentMode::{Cloud, SelfHosted, WebhookOnly};
        match (self, mode) {
            (Self::NotApproved | Self::ForbiddenAddress, SelfHosted) => {
                Code::SelfHostedBaseUrlUnsafe
            }
            (Self::NotApproved | Self::ForbiddenAddress | Self::PrivateAddress, Cloud) => {
                Code::ProviderBaseUrlBlocked
            }
            (Self::NotApproved | Self::ForbiddenAddress | Self::PrivateAddress, WebhookOnly) => {
                Code::GenericWebhookUrlUnsafe
            }
            (Self::PrivateAddress, SelfHosted) => Code::SelfHostedPrivateNetworkRejected,
            (Self::NameUnresolved, SelfHosted) => Code::SelfHostedDnsFailed,
            (Self::ConnectBlocked, SelfHosted) if allowlist_lacks_egress => {
                Code::SelfHostedAllowlistMissing
            }
            (Self::ConnectBlocked, SelfHosted) => Code::SelfHostedFirewallBlocked,
            (
                Self::ConnectRefused
                | Self::FamilyUnavailable
                | Self::AnswerInvalid
                | Self::NoAnswer
                | Self::CheckUnfinished
                | Self::ReceiverDown
                | Self::ReceiverSilent,
                SelfHosted,
            ) => Code::SelfHostedConnectivityBlocked,
            (Self::ClosedEarly | Self::AllowlistRefused, SelfHosted) => {
                Code::SelfHostedAllowlistMissing
            }
            (
                Self::NameUnresolved
                | Self::ConnectBlocked
                | Self::ConnectRefused
                | Self::FamilyUnavailable
                | Self::ClosedEarly
                | Self::AllowlistRefused
                | Self::CheckUnfinished
                | Self::ReceiverDown
                | Self::ReceiverSilent,
                Cloud,
            ) => Code::ProviderBaseUrlUnreachable,
            (
                Self::NameUnresolved
                | Self::ConnectBlocked
                | Self::ConnectRefused
                | Self::FamilyUnavailable
                | Self::ClosedEarly
                | Self::AllowlistRefused
                | Self::CheckUnfinished
                | Self::ReceiverDown,
                WebhookOnly,
            ) => Code::WebhookEndpointUnreachable,
            (Self::RedirectBlocked, SelfHosted) => Code::SelfHostedBaseUrlUnsafe,
            (Self::RedirectBlocked, Cloud) => Code::ProviderBaseUrlBlocked,
            (Self::RedirectBlocked, WebhookOnly) => Code::GenericWebhookRedirectBlocked,
            (Self::TlsInvalid, SelfHosted) => Code::SelfHostedTlsInvalid,
            (Self::AnswerInvalid | Self::NoAnswer | Self::TlsInvalid, Cloud) => {
                Code::ProviderBaseUrlUnreachable
            }
            (Self::AnswerInvalid | Self::TlsInvalid, WebhookOnly) => Code::WebhookDeliveryFailed,
            (Self::NoAnswer | Self::ReceiverSilent, WebhookOnly) => Code::WebhookReceiverTimeout,
            (Self::BodyTooLarge, _) => Code::GatewayBodyTooLarge,
            (Self::TargetUnknown, _) => Code::GatewayTargetUnknown,
            (Self::TunnelDown, _) => Code::SelfHostedTunnelUnreachable,
            (Self::SecretMissing, _) => Code::GenericWebhookSecretMissing,
            (Self::IdempotencyConflict, _) => Code::WebhookIdempotencyConflict,
            (Self::DeliveryInFlight, _) => Code::WebhookDeliveryInFlight,
            (Self::ProviderAuth, _) => Code::ProviderAuthRequired,
            (Self::Unauthenticated, _) => Code::GatewayClientUnauthenticated,
            (Self::ClientForbidden, _) => Code::GatewayClientForbidden,
            (Self::RequestInvalid | Self::HeadTooLarge | Self::HeadTimeout, _) => {
                Code::GatewayRequestInvalid
            }
            (Self::Overloaded, _) => Code::GatewayOverloaded,
            (Self::Draining, _) => Code::GatewayDraining,
        }
    }

    /// The HTTP status of the answer.
    pub const fn status(self) -> u16 {
        match self {
            Self::NotApproved
            | Self::ForbiddenAddress
            | Self::PrivateAddress
            | Self::SecretMissing
            | Self::ProviderAuth
            | Self::ClientForbidden => 403,
            Self::Unauthenticated => 407,
            Self::RequestInvalid => 400,
            Self::TargetUnknown => 404,
            Self::IdempotencyConflict | Self::DeliveryInFlight => 409,
            Self::BodyTooLarge => 413,
            Self::HeadTimeout => 408,
            Self::HeadTooLarge => 431,
            Self::NameUnresolved
            | Self::ConnectRefused
            | Self::FamilyUnavailable
            | Self::ClosedEarly
            | Self::AllowlistRefused
            | Self::RedirectBlocked
            | Self::AnswerInvalid
            | Self::TlsInvalid
            | Self::TunnelDown => 502,
            Self::ConnectBlocked | Self::NoAnswer | Self::ReceiverSilent => 504,
            Self::Overloaded | Self::Draining | Self::CheckUnfinished | Self::ReceiverDown => 503,
        }
    }

    /// Whether failures of this row may pass by themselves; see [`super::Cause::retryable`].
    pub(super) const fn retryable(self) -> bool {
        match self {
            Self::NameUnresolved
            | Self::ConnectBlocked
            | Self::ConnectRefused
            | Self::ClosedEarly
            | Self::AllowlistRefused
            | Self::AnswerInvalid
            | Self::NoAnswer
            | Self::TunnelDown
            | Self::CheckUnfinished
            | Self::ReceiverDown
            | Self::ReceiverSilent
            | Self::DeliveryInFlight
            | Self::HeadTimeout
            | Self::Overloaded
            | Self::Draining => true,
            Self::NotApproved
            | Self::ForbiddenAddress
            | Self::PrivateAddress
            | Self::FamilyUnavailable
            | Self::RedirectBlocked
            | Self::BodyTooLarge
            | Self::TargetUnknown
            | Self::TlsInvalid
            | Self::SecretMissing
            | Self::IdempotencyConflict
            | Self::ProviderAuth
            | Self::Unauthenticated
            | Self::ClientForbidden
            | Self::RequestInvalid
            | Self::HeadTooLarge => false,
        }
    }

    /// The default `Retry-After`, in whole seconds, where one belongs to the answer.
    pub const fn retry_after(self) -> Option<Duration> {
        match self {
            Self::Overloaded | Self::Draining | Self::DeliveryInFlight | Self::CheckUnfinished => {
                Some(Duration::from_secs(1))
            }
            Self::NotApproved
            | Self::ForbiddenAddress
            | Self::PrivateAddress
            | Self::NameUnresolved
            | Self::ConnectBlocked
            | Self::ConnectRefused
            | Self::FamilyUnavailable
            | Self::ClosedEarly
            | Self::AllowlistRefused
            | Self::RedirectBlocked
            | Self::AnswerInvalid
            | Self::NoAnswer
            | Self::BodyTooLarge
            | Self::TargetUnknown
            | Self::TlsInvalid
            | Self::TunnelDown
            | Self::SecretMissing
            | Self::ReceiverDown
            | Self::ReceiverSilent
            | Self::IdempotencyConflict
            | Self::ProviderAuth
            | Self::Unauthenticated
            | Self::ClientForbidden
            | Self::RequestInvalid
            | Self::HeadTooLarge
            | Self::HeadTimeout => None,
        }
    }

    /// Who has to act for a cloud target where a customer would for a self-hosted one.
    pub(super) const fn cloud_owner(self) -> Owner {
        match self {
            Self::NameUnresolved
            | Self::ConnectBlocked
            | Self::ConnectRefused
            | Self::FamilyUnavailable
            | Self::ClosedEarly
            | Self::AllowlistRefused
            | Self::AnswerInvalid
            | Self::NoAnswer
            | Self::TlsInvalid
            | Self::ReceiverDown
            | Self::ReceiverSilent
            | Self::ForbiddenAddress
            | Self::PrivateAddress => Owner::Provider,
            Self::NotApproved
            | Self::RedirectBlocked
            | Self::BodyTooLarge
            | Self::TargetUnknown
            | Self::TunnelDown
            | Self::CheckUnfinished
            | Self::SecretMissing
            | Self::IdempotencyConflict
            | Self::DeliveryInFlight
            | Self::ProviderAuth
            | Self::Unauthenticated
            | Self::ClientForbidden
            | Self::RequestInvalid
            | Self::HeadTooLarge
            | Self::HeadTimeout
            | Self::Overloaded
            | Self::Draining => Owner::Product,
        }
    }
}
