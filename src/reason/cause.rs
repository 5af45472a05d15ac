//! The causes: one row each, with the failure (a row of the contract's table) that each belongs to.

use super::{Failure, Owner};

impl Cause {
    /// Whether the same request may succeed later without anybody changing anything. A name that
    /// does not exist, or that says what it should not, is somebody's to mend; a server that fails
    /// to answer may recover.
    pub fn retryable(self) -> bool {
        self.failure().retryable()
            && !matches!(
                self,
                Self::DnsNxdomain
                    | Self::DnsNoAddress
                    | Self::DnsInvalidName
                    | Self::DnsAnswerTooLarge
                    | Self::DnsCnameLoop
            )
    }
}

macro_rules! causes {
    ($($variant:ident = $word:literal, $failure:ident, $owner:ident, $error:literal, $meaning:literal, $next:literal;)*) => {
        /// Why, finely. The words are stable; everything else about a refusal is derived from them.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[expect(clippy::doc_markdown, reason = "the sentences are shown to people as they are")]
        pub enum Cause {
            $(#[doc = $meaning] $variant,)*
        }

        impl Cause {
            /// Every cause, in the order in which a request can meet them.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The `cause` word of problem documents, events and metrics.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)* }
            }

            /// The row of the contract's table that it belongs to.
            pub const fn failure(self) -> Failure {
                match self { $(Self::$variant => Failure::$failure,)* }
            }

            /// Who has to act, for a target that the customer runs.
            pub const fn owner(self) -> Owner {
                match self { $(Self::$variant => Owner::$owner,)* }
            }

            /// The `error` parameter of `Proxy-Status` (RFC 9209, section 2.3; IANA's registry).
            pub const fn proxy_error(self) -> &'static str {
                match self { $(Self::$variant => $error,)* }
            }

            /// What happened, in a sentence, for the reference pages.
            pub const fn meaning(self) -> &'static str {
                match self { $(Self::$variant => $meaning,)* }
            }

            /// What to do; `{egress_ip}` stands for the address to allowlist.
            pub const fn next_step(self) -> &'static str {
                match self { $(Self::$variant => $next,)* }
            }
        }
    };
}

causes! {
    // the gateway itself
    ConnectionLimit = "connection_limit", Overloaded, Operator, "connection_limit_reached",
        "limits.max_connections is reached.",
        "Try again after Retry-After; if it lasts, raise limits.max_connections or add a gateway.";
    ClientConnectionLimit = "client_connection_limit", Overloaded, Operator, "connection_limit_reached",
        "limits.max_connections_per_client is reached.",
        "Try again after Retry-After; close idle connections, or raise limits.max_connections_per_client.";
    TargetInFlightLimit = "target_in_flight_limit", Overloaded, Operator, "connection_limit_reached",
        "limits.max_in_flight_per_target is reached.",
        "Try again after Retry-After; if it lasts, raise limits.max_in_flight_per_target.";
    OutOfFiles = "out_of_files", Overloaded, Operator, "proxy_internal_error",
        "The process has no file descriptors or socket buffers left.",
        "Raise the file descriptor limit of the service (LimitNOFILE).";
    Draining = "draining", Draining, Operator, "proxy_internal_response",
        "The gateway is shutting down.",
        "Open a new connection; another process or a restart answers there.";
    // the request
    HeadMalformed = "head_malformed", RequestInvalid, Product, "http_request_error",
        "The request head is not valid HTTP/1, or could be read in two ways.",
        "Send a request head that follows RFC 9112, as the detail says.";
    HeadTooLarge = "head_too_large", HeadTooLarge, Product, "http_request_error",
        "The request head is longer than limits.max_header_bytes.",
        "Send fewer or shorter header fields.";
    HeadTimeout = "head_timeout", HeadTimeout, Product, "http_request_error",
        "The request head did not arrive within limits.header_timeout.",
        "Send the whole request head at once after connecting.";
    AuthorityInvalid = "authority_invalid", RequestInvalid, Product, "http_request_error",
        "The host and port that are asked for are not in their one canonical form.",
        "Send a plain host name or IP literal without userinfo, and with CONNECT a port.";
    RequestTargetInvalid = "request_target_invalid", RequestInvalid, Product, "http_request_error",
        "The request target has a form that this listener does not take.",
        "Ask for a URL in absolute-form, for /targets/{id}/…, or for host:port with CONNECT.";
    HostMismatch = "host_mismatch", RequestInvalid, Product, "http_request_error",
        "The Host field names another authority than the request target.",
        "Send the same host and port in Host and in the request target.";
    TargetUnknown = "target_unknown", TargetUnknown, Product, "http_request_error",
        "The path /targets/{id} names a target that does not exist.",
        "Use the id of a registered target.";
    GatewayHostInvalid = "gateway_host_invalid", RequestInvalid, Product, "http_request_error",
        "Without clients configured, /targets/{id} is served under an IP literal or localhost only, and to no web page of another site.",
        "Address the gateway as 127.0.0.1 or localhost, or configure clients.";
    TargetHeaderInvalid = "target_header_invalid", RequestInvalid, Product, "http_request_error",
        "X-WebRiskOps-Target is repeated or is not a target id.",
        "Send X-WebRiskOps-Target once, with the id of a target.";
    // rule 1: the client
    ClientUnauthenticated = "client_unauthenticated", Unauthenticated, Product, "http_request_denied",
        "No or wrong proxy credentials.",
        "Send Proxy-Authorization (Basic name:token, or Bearer token), or present a client certificate the gateway knows.";
    ClientForbidden = "client_forbidden", ClientForbidden, Operator, "http_request_denied",
        "The client's `targets` do not cover the target.",
        "Extend the client's `targets` in the gateway's configuration, if it is meant to reach this target.";
    // rule 2: the target
    NoTarget = "no_target", NotApproved, Product, "http_request_denied",
        "No target owns this scheme, host and port.",
        "Register the endpoint as a target, or correct the host and port.";
    TargetMismatch = "target_mismatch", NotApproved, Product, "http_request_denied",
        "The target that the request names does not own this host and port.",
        "Name the target that owns the host, or leave X-WebRiskOps-Target out.";
    AmbiguousTarget = "ambiguous_target", NotApproved, Product, "http_request_denied",
        "Several targets with different network rules own this origin.",
        "Name one of them in the X-WebRiskOps-Target field.";
    TargetDisabled = "target_disabled", NotApproved, Operator, "http_request_denied",
        "The target is disabled.",
        "Enable the target, if it is meant to be reached.";
    OwnershipUnclear = "ownership_unclear", NotApproved, Product, "http_request_denied",
        "Nobody has confirmed that the customer owns the endpoint.",
        "Confirm the ownership of the endpoint, then set the target's ownership to confirmed.";
    ConnectNotAllowed = "connect_not_allowed", NotApproved, Product, "http_request_denied",
        "The target may not be reached with CONNECT, in which the gateway sees no paths or bodies.",
        "Send the request through the relay: absolute-form, or /targets/{id}/… on the proxy listener.";
    ProviderAuthRequired = "provider_auth_required", ProviderAuth, Product, "http_request_denied",
        "The provider's own authorisation step is not done.",
        "Finish the provider's authorisation for this target, then set auth_status to connected.";
    UrlNotApproved = "url_not_approved", NotApproved, Product, "http_request_denied",
        "The URL is not one that a target may have: two parsers could read it differently, it is not https, or not on a host of its provider.",
        "Correct the target's base_url, as the detail says.";
    OutsideBasePath = "outside_base_path", NotApproved, Product, "http_request_denied",
        "The path is not within the target's base path, or not exactly the webhook's URL.",
        "Ask for a path below the target's base_url, or register the path as a target of its own.";
    PathAmbiguous = "path_ambiguous", NotApproved, Product, "http_request_denied",
        "The path holds dot segments, encoded separators or the like, which servers read differently.",
        "Send the path in its plain form, as the detail says.";
    HostNotCanonical = "host_not_canonical", NotApproved, Product, "http_request_denied",
        "The host is a number that only some parsers read as an IPv4 address.",
        "Write the address as a plain dotted quad, and register it as a target.";
    // rule 3: the credential
    SigningSecretMissing = "signing_secret_missing", SecretMissing, Product, "http_request_denied",
        "A webhook target has no signing secret.",
        "Give the target a signing secret of at least 16 bytes.";
    // rule 5: the name
    DnsNxdomain = "dns_nxdomain", NameUnresolved, Customer, "dns_error",
        "The name does not exist.",
        "Publish the target's host in DNS, or correct it in base_url.";
    DnsServfail = "dns_servfail", NameUnresolved, Customer, "dns_error",
        "The name's servers fail to answer for it (SERVFAIL).",
        "Mend the authoritative servers of the target's host, or its DNSSEC signatures.";
    DnsRefused = "dns_refused", NameUnresolved, Operator, "dns_error",
        "The DNS server refuses to answer the gateway.",
        "Let the DNS server answer queries from {egress_ip}, or configure another in dns.servers.";
    DnsTimeout = "dns_timeout", NameUnresolved, Operator, "dns_timeout",
        "No DNS server answered within limits.dns_timeout.",
        "See that the servers in dns.servers can be reached from {egress_ip}.";
    DnsNoAddress = "dns_no_address", NameUnresolved, Customer, "dns_error",
        "The name exists but has no A or AAAA record.",
        "Publish an A or AAAA record for the target's host.";
    DnsAnswerTooLarge = "dns_answer_too_large", NameUnresolved, Customer, "dns_error",
        "The answer holds more addresses than the gateway is willing to judge.",
        "Publish fewer addresses for the target's host.";
    DnsCnameLoop = "dns_cname_loop", NameUnresolved, Customer, "dns_error",
        "The name's CNAME records form a loop or too long a chain.",
        "Mend the CNAME records of the target's host.";
    DnsUnreachable = "dns_unreachable", NameUnresolved, Operator, "dns_error",
        "No DNS server can be reached.",
        "See that the servers in dns.servers can be reached from {egress_ip}.";
    DnsMalformed = "dns_malformed", NameUnresolved, Customer, "dns_error",
        "The DNS answer is not valid.",
        "Mend the authoritative servers of the target's host.";
    DnsInvalidName = "dns_invalid_name", NameUnresolved, Product, "dns_error",
        "The host is not a name that DNS can be asked for.",
        "Correct the host in the target's base_url.";
    // rule 6: the addresses
    AddressForbidden = "address_forbidden", ForbiddenAddress, Customer, "destination_ip_prohibited",
        "An address of the host must never be reached: loopback, link-local, metadata, reserved or the gateway's own.",
        "Publish only addresses for the target's host that can be reached from outside; forbidden ones cannot be allowlisted.";
    DnsRebinding = "dns_rebinding", ForbiddenAddress, Customer, "destination_ip_prohibited",
        "A name that leads to global addresses also, or suddenly, leads to private ones.",
        "Publish either global or private addresses for the target's host, not both; for a private one approve it in the target.";
    AddressPrivate = "address_private", PrivateAddress, Customer, "destination_ip_prohibited",
        "An address of the host is private, and the target's policy or allowlist does not approve it.",
        "Approve the address in the target's private_network_allowlist, with policy `direct` or `tunnel`, or publish a public address for the target's host.";
    AddressNotAllowlisted = "address_not_allowlisted", PrivateAddress, Customer, "destination_ip_prohibited",
        "The target is reached through a tunnel, and an address of the host is not in its allowlist.",
        "Add the address to the target's private_network_allowlist, or correct the name's records.";
    // rule 8: the way out
    TunnelUnavailable = "tunnel_unavailable", TunnelDown, Operator, "destination_unavailable",
        "The target's tunnel does not carry traffic; nothing is sent around it.",
        "Restore the tunnel, or use the fallback until it stands.";
    TunnelUnreachable = "tunnel_unreachable", TunnelDown, Operator, "destination_unavailable",
        "The far end of the target's tunnel cannot be reached.",
        "See that the tunnel's far end runs and can be reached from {egress_ip}; nothing is sent around it.";
    TunnelAuth = "tunnel_auth", TunnelDown, Operator, "proxy_configuration_error",
        "The far end of the target's tunnel does not accept the gateway's credentials.",
        "Correct the credentials or keys of the tunnel that the detail names, on one of its two ends.";
    TunnelDenied = "tunnel_denied", TunnelDown, Customer, "destination_ip_prohibited",
        "The far end of the target's tunnel refuses the target's address.",
        "Allow the address and port at the customer's end of the tunnel; both ends have to agree.";
    TunnelTargetUnreachable = "tunnel_target_unreachable", ConnectRefused, Customer, "destination_unavailable",
        "The tunnel stands, but the target does not answer behind it.",
        "See that the target's host and port answers, and that the customer's end of the tunnel may reach it.";
    TunnelProtocol = "tunnel_protocol", TunnelDown, Operator, "proxy_configuration_error",
        "What answers at the far end of the target's tunnel does not speak the tunnel's protocol.",
        "Correct the tunnel's url, or what listens there.";
    TunnelTimeout = "tunnel_timeout", TunnelDown, Operator, "connection_timeout",
        "The far end of the target's tunnel did not answer within limits.connect_timeout.",
        "See that the tunnel's far end is not overloaded and can be reached from {egress_ip}.";
    FamilyUnavailable = "family_unavailable", FamilyUnavailable, Operator, "destination_ip_unroutable",
        "The host has only addresses of a family that has no egress address.",
        "Publish an address of the family of {egress_ip}, or give the gateway an egress address of the other family.";
    SourceUnavailable = "source_unavailable", FamilyUnavailable, Operator, "proxy_configuration_error",
        "The egress address cannot be used as a source: it is gone from the machine, or out of ports.",
        "Put {egress_ip} back on the gateway's machine; see /readyz.";
    ConnectTimeout = "connect_timeout", ConnectBlocked, Customer, "connection_timeout",
        "No address of the host answered within limits.connect_timeout.",
        "Allow inbound TCP from {egress_ip} to the target's host and port.";
    ConnectProhibited = "connect_prohibited", ConnectBlocked, Customer, "destination_ip_unroutable",
        "A router or firewall answered that the connection is administratively prohibited.",
        "Allow inbound TCP from {egress_ip} to the target's host and port.";
    HostUnreachable = "host_unreachable", ConnectBlocked, Customer, "destination_ip_unroutable",
        "A router answered that the host cannot be reached.",
        "Route packets from {egress_ip} to the target's host and port, and see that the host is up.";
    NetworkUnreachable = "network_unreachable", ConnectBlocked, Operator, "destination_ip_unroutable",
        "There is no route to the host's network.",
        "See that the gateway's machine has a route from {egress_ip} to the target's host and port.";
    ConnectRefused = "connect_refused", ConnectRefused, Customer, "connection_refused",
        "The host refused the connection: nothing listens on that port.",
        "Start the service on the target's host and port, or correct the port in base_url.";
    PeerMismatch = "peer_mismatch", ForbiddenAddress, Operator, "destination_ip_prohibited",
        "The connected peer is not the pinned address: something redirects connections on the way.",
        "Remove the redirection (a NAT rule or transparent proxy) between the gateway and the target.";
    ResetBeforeServerHello = "reset_before_server_hello", ClosedEarly, Customer, "connection_terminated",
        "The far side accepted the connection and closed it at once.",
        "Add {egress_ip} to the allowlist of the firewall, load balancer or application in front of the target's host and port.";
    // TLS that the gateway originates
    TlsTimeout = "tls_timeout", ConnectBlocked, Customer, "connection_timeout",
        "The TLS handshake did not finish within limits.tls_timeout.",
        "See that nothing between {egress_ip} and the target's host and port holds TLS back, such as a firewall that inspects it, and that the service answers.";
    TlsExpired = "tls_expired", TlsInvalid, Customer, "tls_certificate_error",
        "The target's certificate, or one of its chain, has expired.",
        "Renew the certificate on the target's host and port, and reload its server.";
    TlsNotYetValid = "tls_not_yet_valid", TlsInvalid, Customer, "tls_certificate_error",
        "The target's certificate, or one of its chain, is not valid yet.",
        "Install a certificate that is valid now on the target's host and port; see that the clocks of issuer and gateway are right.";
    TlsUnknownIssuer = "tls_unknown_issuer", TlsInvalid, Customer, "tls_certificate_error",
        "The target's certificate chain does not end in a trusted root.",
        "Use a certificate of a public authority on the target's host and port, or set the target's tls.ca_file to the root of the issuer that the detail names.";
    TlsIncompleteChain = "tls_incomplete_chain", TlsInvalid, Customer, "tls_certificate_error",
        "The target sends its own certificate without that of the intermediate authority that issued it.",
        "Configure the server on the target's host and port to send the full chain: its certificate, then the intermediate that the detail names.";
    TlsHostnameMismatch = "tls_hostname_mismatch", TlsInvalid, Customer, "tls_certificate_error",
        "The target's certificate is not for this host; only subject alternative names count.",
        "Install a certificate on the target's host and port whose subject alternative names hold the host, or correct base_url or tls.server_name.";
    TlsWrongUsage = "tls_wrong_usage", TlsInvalid, Customer, "tls_certificate_error",
        "The target's certificate, or one of its chain, may not be used for TLS servers.",
        "Install a certificate issued for server authentication on the target's host and port; an authority's own or a client's certificate cannot be used.";
    TlsCertificateInvalid = "tls_certificate_invalid", TlsInvalid, Customer, "tls_certificate_error",
        "The target's certificate chain breaks a rule, such as a name constraint, or is damaged.",
        "Have the certificate of the target's host issued anew; the detail says which rule it breaks.";
    TlsPinMismatch = "tls_pin_mismatch", TlsInvalid, Product, "tls_certificate_error",
        "The target's certificate is valid, but its public key is not among the target's pins.",
        "Ask the customer whether the key was changed on purpose; if so, add the new pin from the detail to tls.pins.";
    TlsVersion = "tls_version", TlsInvalid, Customer, "tls_protocol_error",
        "The target has no TLS version, cipher suite or key exchange in common with the gateway.",
        "Enable TLS 1.2 or 1.3 with an ECDHE key exchange and AES-GCM or ChaCha20 on the target's host and port; older ones are never used.";
    TlsClientCertificate = "tls_client_certificate", TlsInvalid, Product, "tls_alert_received",
        "The target wants a client certificate, and got none or one that it does not accept.",
        "Set the target's tls.client_cert_file and client_key_file to a certificate that the customer's server accepts.";
    TlsHandshake = "tls_handshake", TlsInvalid, Customer, "tls_protocol_error",
        "The TLS handshake failed: no TLS on that port, an alert, or a connection lost midway.",
        "See that HTTPS is served on the target's host and port, and look for connections from {egress_ip} in its TLS log.";
    TlsSettings = "tls_settings", TlsInvalid, Operator, "proxy_configuration_error",
        "The target's TLS files cannot be used.",
        "Mend the files that the target's tls section names; config check says what is wrong.";
    // the relay
    ResponseTimeout = "response_timeout", NoAnswer, Customer, "http_response_timeout",
        "The target gave no answer within limits.response_timeout.",
        "See why the service on the target's host and port is slow; the request may have been carried out.";
    ResponseInvalid = "response_invalid", AnswerInvalid, Customer, "http_protocol_error",
        "The target's answer is not valid HTTP.",
        "Look at what listens on the target's host and port.";
    ResponseIncomplete = "response_incomplete", AnswerInvalid, Customer, "http_response_incomplete",
        "The target closed the connection before its answer was complete.",
        "Read the target's log for this request; it may have been carried out.";
    RequestBodyBroken = "request_body_broken", RequestInvalid, Product, "http_request_error",
        "The request's body ended early or was not framed as it should be.",
        "Send the whole body, as its framing announces.";
    BodyTooLarge = "body_too_large", BodyTooLarge, Product, "http_request_error",
        "A body that has to be signed is longer than limits.max_signed_body.",
        "Send a smaller body, or raise limits.max_signed_body.";
    WebhookFieldRepeated = "webhook_field_repeated", RequestInvalid, Product, "http_request_error",
        "A header field of the delivery is there more than once.",
        "Send the field that the detail names once, or leave it out for the gateway to set.";
    WebhookBodyAmbiguous = "webhook_body_ambiguous", RequestInvalid, Product, "http_request_error",
        "The JSON body has a field of the delivery more than once, which receivers read differently.",
        "Write the field that the detail names once.";
    WebhookFieldInvalid = "webhook_field_invalid", RequestInvalid, Product, "http_request_error",
        "A field of the delivery, in header or body, is not of its form.",
        "Correct the field that the detail names, or leave it out for the gateway to set.";
    WebhookFieldsDiffer = "webhook_fields_differ", RequestInvalid, Product, "http_request_error",
        "Header and body of the delivery name different keys, timestamps or nonces.",
        "Name the same value in both places that the detail names, or leave one out.";
    WebhookTimestampOff = "webhook_timestamp_off", RequestInvalid, Product, "http_request_error",
        "The delivery's own timestamp is more than five minutes off the gateway's clock.",
        "See that the sender's clock is right, and make the timestamp anew for each attempt.";
    IdempotencyConflict = "idempotency_conflict", IdempotencyConflict, Product, "http_request_denied",
        "The idempotency key was used within 24 hours with another method, URL or body.",
        "Use a new idempotency key for a new delivery.";
    DeliveryInFlight = "delivery_in_flight", DeliveryInFlight, Product, "http_request_denied",
        "The same delivery is under way on another connection.",
        "Wait for it to end, then ask again with the same key.";
    ReceiverBackingOff = "receiver_backing_off", ReceiverDown, Customer, "destination_unavailable",
        "The receiver kept failing and is left alone for a while; nothing was sent.",
        "Mend the receiver; the gateway tries it again after Retry-After.";
    RedirectBlocked = "redirect_blocked", RedirectBlocked, Customer, "http_request_denied",
        "The target redirects to a place that is not approved.",
        "Correct the target's base_url; unless it is a webhook, the place may be approved in its redirects instead.";
    // rule 4: connectivity checks
    AllowlistRefused = "allowlist_refused", AllowlistRefused, Customer, "destination_unavailable",
        "The target answers that it does not serve the gateway's address.",
        "Add {egress_ip} to the IP allowlist of the service, firewall or load balancer on the target's host and port.";
    CheckUnfinished = "check_unfinished", CheckUnfinished, Operator, "proxy_internal_response",
        "The target needs a current connectivity check, and none could be finished in time.",
        "Try again after Retry-After; if it lasts, see the target's connectivity on the admin listener.";
    // inside a CONNECT tunnel
    SniMismatch = "sni_mismatch", NotApproved, Product, "http_request_denied",
        "The TLS server name inside the tunnel is not the host that was asked for.",
        "Use the same host in CONNECT and in the TLS handshake.";
    ClientHelloInvalid = "client_hello_invalid", NotApproved, Product, "tls_protocol_error",
        "The first bytes in the tunnel begin like TLS but are not a ClientHello.",
        "Send a TLS 1.2 or 1.3 ClientHello first.";
}
