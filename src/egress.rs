//! The way out: a name becomes addresses, addresses become a vetted pin, and the pin is dialled.
//!
//! Traffic and checks go through the same two functions, so that a check cannot pass where traffic
//! would fail.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwap;
use tokio::time::Instant;

pub use crate::carrier::{Carrier, Stream};
use crate::{
    dial::{DialError, Direct, EgressAddresses},
    origin::{Host, Scheme},
    policy::{Answered, Permit, Scene, Vetted, address::Class, vet},
    reason::{Cause, Refusal},
    resolve::{ResolveError, Resolver},
    sightings::Sightings,
    target::{Network, PrivateNetworkPolicy, Target},
    telemetry::metrics::Metrics,
    tls::{Alpn, CertificateFacts, ClientTls, Outbound, Protocol, TlsError, TlsFacts},
    tunnel::{Passage, PassageError, Tunnels},
};

/// Everything that leads out, for one configuration.
#[derive(Debug)]
pub struct Egress {
    /// The addresses that connections leave from.
    pub addresses: EgressAddresses,
    /// What addresses are judged against; replaced when the machine's own addresses change.
    pub scene: ArcSwap<Scene>,
    pub(crate) direct: Direct,
    /// `direct`, as events name the route.
    pub(crate) direct_route: Arc<str>,
    pub(crate) tls: Outbound,
    pub(crate) tls_timeout: Duration,
    /// The resolver for targets without one of their own.
    pub(crate) resolver: Arc<Resolver>,
    /// The approved private resolvers.
    pub(crate) resolvers: HashMap<String, PrivateResolver>,
    /// The approved ways into private networks.
    pub tunnels: Tunnels,
    pub(crate) sightings: Arc<Sightings>,
    pub(crate) metrics: Arc<Metrics>,
}

/// An approved private resolver.
#[derive(Debug)]
pub(crate) struct PrivateResolver {
    pub(crate) resolver: Arc<Resolver>,
    /// The only way to its servers, where it is not the direct one.
    pub(crate) passage: Option<Passage>,
}

/// What is noted on the way out, for the record of a request and for checks.
#[derive(Debug, Default)]
pub struct Notes {
    /// The address that was dialled.
    pub pinned: Option<SocketAddr>,
    /// `direct`, or a tunnel's name.
    pub route: Option<Arc<str>>,
    /// Time to resolve the name.
    pub dns: Option<Duration>,
    /// Time to connect.
    pub connect: Option<Duration>,
    /// Time for the TLS handshake with the target.
    pub tls: Option<Duration>,
    /// The certificate that was presented where the handshake failed.
    pub certificate: Option<Box<CertificateFacts>>,
}

/// Where a permitted request goes: vetted addresses and no others, and no other way than this.
#[derive(Debug)]
pub struct Pinned {
    vetted: Vetted,
    route: Route,
}

/// Which way out.
#[derive(Clone, Debug)]
enum Route {
    Direct,
    Tunnel(Passage),
}

impl Pinned {
    /// The address that is tried first.
    pub fn first(&self) -> Option<SocketAddr> {
        self.vetted.addresses().first().map(|one| one.addr())
    }

    /// All of them.
    pub fn vetted(&self) -> &Vetted {
        &self.vetted
    }
}

/// An open stream whose peer is the pinned address.
#[derive(Debug)]
pub struct Upstream {
    /// The stream.
    pub stream: Carrier,
    /// The pinned address.
    pub address: SocketAddr,
}

/// A stream on which requests are sent.
#[derive(Debug)]
pub struct Ready {
    /// The stream: plain only where the target allows it.
    pub stream: Stream,
    /// What TLS agreed on, where it is TLS.
    pub facts: Option<TlsFacts>,
}

impl Ready {
    /// Whether HTTP/2 was agreed on.
    pub fn http2(&self) -> bool {
        self.facts.as_ref().is_some_and(|facts| facts.alpn == Some(Protocol::Http2))
    }
}

impl Egress {
    /// Rules 5 to 8: resolve, vet, remember, route.
    ///
    /// # Errors
    /// The refusal of the first rule that does not pass.
    pub async fn pin(&self, permit: &Permit, notes: &mut Notes) -> Result<Pinned, Refusal> {
        let addresses = self.addresses_of(permit, notes).await?;
        self.approve(permit, &addresses, notes).await
    }

    /// Rules 6 to 8 for the addresses of an answer: vet all of them, remember, route.
    ///
    /// # Errors
    /// The refusal of the first rule that does not pass.
    pub async fn approve(
        &self,
        permit: &Permit,
        addresses: &[IpAddr],
        notes: &mut Notes,
    ) -> Result<Pinned, Refusal> {
        let authority = &permit.destination().authority;
        let target = permit.target();
        let last_seen = self.last_seen(target, &authority.host);
        let answered = Answered { addresses, port: authority.port, last_seen };
        let vetted = vet(permit, &self.scene.load(), &answered)?;
        self.remember(permit, vetted.class()).await;
        let (route, name) = self.way(target)?;
        notes.route = Some(name);
        Ok(Pinned { vetted, route })
    }

    /// Dials the pin, or has its tunnel do so. On the direct way the peer is compared with the pin
    /// before anybody sees the stream.
    ///
    /// # Errors
    /// Why no connection stands.
    pub async fn connect(&self, pinned: &Pinned, notes: &mut Notes) -> Result<Upstream, Refusal> {
        notes.pinned = pinned.first();
        let started = Instant::now();
        let shown = || pinned.first().map_or_else(String::new, |addr| addr.to_string());
        let (route, result) = match &pinned.route {
            Route::Direct => {
                let dialled = self.direct.connect(pinned.vetted.addresses()).await;
                let upstream = dialled.map(|dialled| {
                    let stream = Carrier::Direct(dialled.stream);
                    Upstream { stream, address: dialled.address }
                });
                let refused = |error: DialError| {
                    Refusal::new(Cause::from(&error), format!("{}: {error}", shown()))
                };
                ("direct", upstream.map_err(refused))
            }
            Route::Tunnel(passage) => {
                // Boxed: larger by far than all that the direct way needs.
                let passed = Box::pin(passage.open(pinned.vetted.addresses())).await;
                let upstream = passed.map(|passed| {
                    notes.route = Some(passed.tunnel);
                    Upstream { stream: Carrier::Tunnel(passed.stream), address: passed.address }
                });
                let refused = |failure: PassageError| {
                    notes.route = Some(Arc::clone(&failure.tunnel));
                    refusal(&failure, &shown())
                };
                ("tunnel", upstream.map_err(refused))
            }
        };
        notes.connect = Some(started.elapsed());
        let duration = self.metrics.connect_duration.with_label_values(&[route]);
        duration.observe(started.elapsed().as_secs_f64());
        let upstream = result?;
        notes.pinned = Some(upstream.address);
        Ok(upstream)
    }

    /// Speaks TLS to the target, unless it is one of plain HTTP.
    ///
    /// # Errors
    /// What is wrong with the certificate or the handshake.
    pub async fn secure(
        &self,
        upstream: Upstream,
        target: &Target,
        alpn: Alpn,
        notes: &mut Notes,
    ) -> Result<Ready, Refusal> {
        self.handshake(upstream, target, alpn, Arc::clone, notes).await
    }

    /// As [`secure`](Self::secure), but never by an earlier session: the target has to show a
    /// certificate that is valid now.
    ///
    /// # Errors
    /// What is wrong with the certificate or the handshake.
    pub async fn secure_anew(
        &self,
        upstream: Upstream,
        target: &Target,
        alpn: Alpn,
        notes: &mut Notes,
    ) -> Result<Ready, Refusal> {
        let anew = |tls: &Arc<ClientTls>| Arc::new(tls.without_sessions());
        self.handshake(upstream, target, alpn, anew, notes).await
    }

    async fn handshake(
        &self,
        upstream: Upstream,
        target: &Target,
        alpn: Alpn,
        choose: impl Fn(&Arc<ClientTls>) -> Arc<ClientTls>,
        notes: &mut Notes,
    ) -> Result<Ready, Refusal> {
        let Upstream { stream, address } = upstream;
        if target.base.origin.scheme == Scheme::Http {
            return Ok(Ready { stream: Stream::Plain(stream), facts: None });
        }
        let tls = self.tls.config_for(&target.id, target.tls.as_deref()).map_err(|error| {
            Refusal::new(Cause::TlsSettings, format!("target {}: {error}", target.id))
        })?;
        let host = &target.base.origin.authority.host;
        let tls = choose(&tls);
        let started = Instant::now();
        let result = tls.handshake(stream, host, alpn, self.tls_timeout).await;
        notes.tls = Some(started.elapsed());
        self.metrics.tls_handshake_duration.observe(started.elapsed().as_secs_f64());
        let secured = result.map_err(|error| {
            let refusal = Refusal::new(Cause::from(&error.cause), format!("{address}: {error}"));
            notes.certificate = error.certificate;
            refusal
        })?;
        Ok(Ready { stream: Stream::Tls(Box::new(secured.stream)), facts: Some(secured.facts) })
    }

    /// Rule 5: all addresses of the destination.
    ///
    /// # Errors
    /// Why there is none.
    pub async fn addresses_of(
        &self,
        permit: &Permit,
        notes: &mut Notes,
    ) -> Result<Arc<[IpAddr]>, Refusal> {
        let host = &permit.destination().authority.host;
        if let Host::Ip(ip) = host {
            return Ok(Arc::from([*ip]));
        }
        let started = Instant::now();
        let result = self.resolve(permit.target(), host).await;
        notes.dns = Some(started.elapsed());
        self.metrics.dns_duration.observe(started.elapsed().as_secs_f64());
        result
    }

    /// Rule 5: all addresses of a host, by the target's resolver or the default one.
    ///
    /// # Errors
    /// Why there is no address.
    pub async fn resolve(&self, target: &Target, host: &Host) -> Result<Arc<[IpAddr]>, Refusal> {
        let name = match host {
            Host::Ip(ip) => return Ok(Arc::from([*ip])),
            Host::Name(name) => name,
        };
        let unresolved =
            |error: ResolveError| Refusal::new(Cause::from(&error), format!("{name}: {error}"));
        let Some(private) = self.private_resolver_of(target)? else {
            let answer = self.resolver.resolve(name).await.map_err(unresolved)?;
            return Ok(answer.addresses);
        };
        // Where the way to the name servers is down, that is what there is to say of the name.
        let passage = private.passage.as_ref();
        if let Some(passage) = passage {
            passage.first().map_err(|down| refusal(&down, name))?;
        }
        match private.resolver.resolve(name).await {
            Ok(answer) => Ok(answer.addresses),
            Err(error @ (ResolveError::Unreachable | ResolveError::Timeout)) => {
                match passage.and_then(Passage::no_name_server) {
                    Some(failure) => Err(refusal(&failure, name)),
                    None => Err(unresolved(error)),
                }
            }
            Err(error) => Err(unresolved(error)),
        }
    }

    /// What the tunnels and the resolver that a target names are, without secrets: what a check has
    /// found by one way says nothing of another of the same name.
    pub fn definition(&self, network: &Network) -> String {
        let tunnels: Vec<_> =
            network.tunnels.iter().map(|name| Some(self.tunnels.get(name)?.definition())).collect();
        let resolver = network.resolver.as_deref().and_then(|name| self.resolvers.get(name));
        let resolver = resolver.map(|private| {
            let PrivateResolver { resolver, passage } = private;
            (&resolver.settings().servers, passage.as_ref().map(Passage::definitions))
        });
        format!("{:?}", (tunnels, resolver))
    }

    /// The class of the target's name when it was last vetted.
    pub fn last_seen(&self, target: &Target, host: &Host) -> Option<Class> {
        match host {
            Host::Name(name) => self.sightings.last_seen(target.id.as_str(), name),
            Host::Ip(_) => None,
        }
    }

    /// Rule 8: which way out. Under policy `tunnel` never the direct one, whatever happens.
    ///
    /// # Errors
    /// Why the tunnel carries nothing.
    pub fn route(&self, target: &Target) -> Result<Arc<str>, Refusal> {
        self.way(target).map(|(_, name)| name)
    }

    fn way(&self, target: &Target) -> Result<(Route, Arc<str>), Refusal> {
        match target.network.policy {
            PrivateNetworkPolicy::Deny | PrivateNetworkPolicy::Direct => {
                Ok((Route::Direct, Arc::clone(&self.direct_route)))
            }
            PrivateNetworkPolicy::Tunnel => {
                let names = || target.network.tunnels.iter().map(|name| &**name);
                let passage = self.tunnels.passage(names()).ok_or_else(|| {
                    let names = names().collect::<Vec<_>>().join(", ");
                    let detail = format!("there is no such tunnel: {names}");
                    Refusal::new(Cause::TunnelUnavailable, detail)
                })?;
                let shown = &target.base.origin.authority;
                let name = passage.first().map_err(|down| refusal(&down, &shown.to_string()))?;
                Ok((Route::Tunnel(passage), name))
            }
        }
    }

    fn private_resolver_of(&self, target: &Target) -> Result<Option<&PrivateResolver>, Refusal> {
        let Some(name) = target.network.resolver.as_deref() else { return Ok(None) };
        let unavailable = || {
            let detail = format!("there is no such resolver: {name}");
            Refusal::new(Cause::TunnelUnavailable, detail)
        };
        self.resolvers.get(name).map(Some).ok_or_else(unavailable)
    }

    async fn remember(&self, permit: &Permit, class: Class) {
        if let Host::Name(name) = &permit.destination().authority.host {
            self.sightings.note(permit.target().id.as_str(), name, class).await;
        }
    }
}

fn refusal(failure: &PassageError, what: &str) -> Refusal {
    Refusal::new(Cause::from(&failure.error), format!("{what}: {failure}"))
}

/// Why a stream that should not outlive its tunnel was ended, where that was the reason.
pub fn tunnel_lost(error: &io::Error, address: SocketAddr) -> Option<Refusal> {
    PassageError::of_stream(error).map(|failure| refusal(failure, &address.to_string()))
}

impl From<&ResolveError> for Cause {
    fn from(error: &ResolveError) -> Self {
        match error {
            ResolveError::InvalidName => Self::DnsInvalidName,
            ResolveError::TooManyAddresses => Self::DnsAnswerTooLarge,
            ResolveError::CnameLoop => Self::DnsCnameLoop,
            ResolveError::NxDomain => Self::DnsNxdomain,
            ResolveError::Refused => Self::DnsRefused,
            ResolveError::ServFail => Self::DnsServfail,
            ResolveError::Malformed => Self::DnsMalformed,
            ResolveError::Timeout | ResolveError::TooManyQueries => Self::DnsTimeout,
            ResolveError::Unreachable => Self::DnsUnreachable,
            ResolveError::NoAddress => Self::DnsNoAddress,
        }
    }
}

impl From<&TlsError> for Cause {
    fn from(error: &TlsError) -> Self {
        match error {
            TlsError::Expired { .. } => Self::TlsExpired,
            TlsError::NotYetValid { .. } => Self::TlsNotYetValid,
            TlsError::UnknownIssuer { .. } => Self::TlsUnknownIssuer,
            TlsError::IncompleteChain { .. } => Self::TlsIncompleteChain,
            TlsError::HostnameMismatch { .. } => Self::TlsHostnameMismatch,
            TlsError::WrongUsage(_) => Self::TlsWrongUsage,
            TlsError::PinMismatch { .. } => Self::TlsPinMismatch,
            TlsError::CertificateInvalid(_) => Self::TlsCertificateInvalid,
            TlsError::Version => Self::TlsVersion,
            TlsError::ClientCertificate { .. } => Self::TlsClientCertificate,
            TlsError::ClosedEarly => Self::ResetBeforeServerHello,
            TlsError::Timeout => Self::TlsTimeout,
            TlsError::NotTls { .. }
            | TlsError::Alert(_)
            | TlsError::Cut(_)
            | TlsError::Protocol(_) => Self::TlsHandshake,
        }
    }
}

impl From<&DialError> for Cause {
    fn from(error: &DialError) -> Self {
        match error {
            DialError::Timeout => Self::ConnectTimeout,
            DialError::Refused => Self::ConnectRefused,
            DialError::Prohibited => Self::ConnectProhibited,
            DialError::HostUnreachable => Self::HostUnreachable,
            // `Other` is what a blackhole route and the like give: nothing came back from a network.
            DialError::NetworkUnreachable | DialError::Other(_) => Self::NetworkUnreachable,
            DialError::FamilyUnavailable => Self::FamilyUnavailable,
            DialError::PeerMismatch => Self::PeerMismatch,
            DialError::ResetAfterConnect => Self::ResetBeforeServerHello,
            DialError::SourceUnavailable => Self::SourceUnavailable,
            DialError::TooManyFiles => Self::OutOfFiles,
        }
    }
}
