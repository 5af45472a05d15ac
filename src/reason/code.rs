//! The public codes: stable words that clients switch on, each with its meaning and owner.

use super::Owner;

macro_rules! codes {
    ($($variant:ident = $word:literal, $owner:ident, $title:literal, $meaning:literal, $next:literal;)*) => {
        /// The public word of a refusal or failure. Names are part of the contract and never change.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[expect(clippy::doc_markdown, reason = "the sentences are shown to people as they are")]
        pub enum Code {
            $(#[doc = $meaning] $variant,)*
        }

        impl Code {
            /// Every code, in the order of the reference page.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The word itself, as in the `X-WebRiskOps-Reason` field.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)* }
            }

            /// A short title: the same for every occurrence (RFC 9457, section 3.1.3).
            pub const fn title(self) -> &'static str {
                match self { $(Self::$variant => $title,)* }
            }

            /// What it means, in a sentence.
            pub const fn meaning(self) -> &'static str {
                match self { $(Self::$variant => $meaning,)* }
            }

            /// Who usually has to act.
            pub const fn owner(self) -> Owner {
                match self { $(Self::$variant => Owner::$owner,)* }
            }

            /// What usually helps; `{egress_ip}` stands for the address to allowlist.
            pub const fn next_step(self) -> &'static str {
                match self { $(Self::$variant => $next,)* }
            }
        }
    };
}

codes! {
    SelfHostedBaseUrlUnsafe = "SELF_HOSTED_BASE_URL_UNSAFE", Product,
        "The URL is not approved",
        "No enabled, confirmed target owns this URL, or the address behind it must never be reached.",
        "Register the endpoint as a target with confirmed ownership, or correct the URL.";
    SelfHostedPrivateNetworkRejected = "SELF_HOSTED_PRIVATE_NETWORK_REJECTED", Customer,
        "The private address is not approved",
        "The name leads to a private address that the target's policy or allowlist does not approve.",
        "Approve the address in the target's private_network_allowlist, with policy `direct` or `tunnel`, or publish a public address.";
    SelfHostedDnsFailed = "SELF_HOSTED_DNS_FAILED", Customer,
        "The host name does not resolve",
        "DNS gave no usable address for the target's host.",
        "Publish an A or AAAA record for the host, or name an approved private resolver for the target.";
    SelfHostedFirewallBlocked = "SELF_HOSTED_FIREWALL_BLOCKED", Customer,
        "A firewall blocks the connection",
        "The connection timed out or was administratively refused before it stood.",
        "Allow inbound TCP from {egress_ip} to the target's host and port.";
    SelfHostedAllowlistMissing = "SELF_HOSTED_ALLOWLIST_MISSING", Customer,
        "The egress address is not on the allowlist",
        "The far side shows that it does not accept connections from the egress address.",
        "Add {egress_ip} to the allowlist of the firewall, load balancer or application in front of the target's host and port.";
    SelfHostedConnectivityBlocked = "SELF_HOSTED_CONNECTIVITY_BLOCKED", Customer,
        "The endpoint cannot be reached",
        "The endpoint refused the connection, answered badly or not in time, or no check could be finished.",
        "Make sure that the service listens on the target's host and port and accepts connections from {egress_ip}.";
    SelfHostedTlsInvalid = "SELF_HOSTED_TLS_INVALID", Customer,
        "The certificate or TLS is not valid",
        "The endpoint's certificate or TLS settings could not be verified.",
        "Install a valid certificate with its full chain for the target's host, or give the issuing CA in the target's tls.ca_file.";
    SelfHostedTunnelUnreachable = "SELF_HOSTED_TUNNEL_UNREACHABLE", Operator,
        "The tunnel is down",
        "The target is reached only through a tunnel, and that tunnel does not carry traffic.",
        "Restore the tunnel; nothing is ever sent around it.";
    ProviderBaseUrlBlocked = "PROVIDER_BASE_URL_BLOCKED", Product,
        "The provider URL is not approved",
        "The URL is not one of the provider's, or the address behind it must never be reached.",
        "Correct the target's base URL to one of the provider's own hosts.";
    ProviderBaseUrlUnreachable = "PROVIDER_BASE_URL_UNREACHABLE", Provider,
        "The provider cannot be reached",
        "The provider's host does not resolve, accept connections, prove its identity or answer in time.",
        "Look at the provider's status page and try again later.";
    ProviderAuthRequired = "PROVIDER_AUTH_REQUIRED", Product,
        "The provider's authorisation step is not done",
        "The target waits for the provider's own OAuth, app, API-token or PAT step; nothing is sent before.",
        "Finish the provider's authorisation for this target, then set auth_status to connected.";
    GenericWebhookUrlUnsafe = "generic_webhook_url_unsafe", Product,
        "The webhook URL is not approved",
        "The webhook URL is not the approved one, or the address behind it must never be reached.",
        "Register the receiver's exact URL as a webhook target with confirmed ownership.";
    GenericWebhookRedirectBlocked = "generic_webhook_redirect_blocked", Customer,
        "The webhook receiver redirects",
        "A receiver answered with a redirect, which a signed delivery never follows.",
        "Register the receiver's final URL.";
    GenericWebhookSecretMissing = "generic_webhook_secret_missing", Product,
        "The webhook target has no signing secret",
        "A webhook body is sent only signed, and the target has no secret to sign with.",
        "Give the target a signing secret of at least 16 bytes.";
    WebhookEndpointUnreachable = "WEBHOOK_ENDPOINT_UNREACHABLE", Customer,
        "The webhook receiver cannot be reached",
        "The receiver's host does not resolve or does not accept connections.",
        "Make sure that the receiver's host resolves and accepts connections from {egress_ip}.";
    WebhookDeliveryFailed = "WEBHOOK_DELIVERY_FAILED", Customer,
        "The webhook delivery failed",
        "The receiver answered, but not with success, or its answer or certificate was not valid.",
        "Read the receiver's log for this delivery, mend it, and send the delivery again.";
    WebhookReceiverTimeout = "WEBHOOK_RECEIVER_TIMEOUT", Customer,
        "The webhook receiver did not answer in time",
        "The receiver accepted the delivery but gave no answer within the time limit.",
        "Answer with 2xx first and work on the event afterwards.";
    WebhookSignatureInvalid = "WEBHOOK_SIGNATURE_INVALID", Customer,
        "The receiver did not accept the signature",
        "The receiver says that the delivery's signature does not verify.",
        "Compare the signing secret on both sides and verify over the raw body.";
    WebhookIdempotencyConflict = "WEBHOOK_IDEMPOTENCY_CONFLICT", Product,
        "The idempotency key was used for another delivery",
        "The same key was seen with another method, URL or body.",
        "Use a new idempotency key for a new delivery.";
    WebhookDeliveryInFlight = "WEBHOOK_DELIVERY_IN_FLIGHT", Product,
        "The same delivery is under way",
        "A delivery with this idempotency key has not ended yet.",
        "Wait for the first delivery to end, then ask again with the same key.";
    GatewayClientUnauthenticated = "GATEWAY_CLIENT_UNAUTHENTICATED", Product,
        "The client is not authenticated",
        "The request carries no valid proxy credential or client certificate.",
        "Send Proxy-Authorization (Basic name:token, or Bearer token), or present a client certificate the gateway knows.";
    GatewayClientForbidden = "GATEWAY_CLIENT_FORBIDDEN", Operator,
        "The client may not use this target",
        "The client is known, but its `targets` patterns do not cover the target.",
        "Extend the client's `targets` in the gateway's configuration, if it is meant to reach this target.";
    GatewayRequestInvalid = "GATEWAY_REQUEST_INVALID", Product,
        "The request is not valid",
        "The request cannot be read in exactly one way, is too large or came too slowly.",
        "Correct the request as the detail says.";
    GatewayOverloaded = "GATEWAY_OVERLOADED", Operator,
        "The gateway is at a limit",
        "A limit of the gateway is reached; nothing was sent.",
        "Try again after the time in Retry-After; if it lasts, raise the limit that the cause names.";
    GatewayDraining = "GATEWAY_DRAINING", Operator,
        "The gateway is shutting down",
        "This process finishes what it has begun and takes no new requests.",
        "Open a new connection; another process or a restart answers there.";
    GatewayBodyTooLarge = "GATEWAY_BODY_TOO_LARGE", Product,
        "The body is too large to sign",
        "A body that has to be signed is longer than limits.max_signed_body.",
        "Send a smaller body, or raise limits.max_signed_body.";
    GatewayTargetUnknown = "GATEWAY_TARGET_UNKNOWN", Product,
        "There is no such target",
        "The path /targets/{id} names a target that does not exist.",
        "Use the id of a registered target.";
}

impl Code {
    /// Whether the gateway itself is the subject, rather than a target.
    pub fn is_gateways_own(self) -> bool {
        self.as_str().starts_with("GATEWAY_")
    }
}
