//! The way out: a name becomes addresses, addresses become a vetted pin, and the pin is dialled.
//!
//! Traffic and checks go through the same two functions, so that a check cannot pass where traffic
//! would fail.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use arc_swap::ArcSwap;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::Instant,
};

use crate::{
    dial::{DialError, Direct, EgressAddresses},
    origin::{Host, Scheme},
    policy::{Answered, Permit, Scene, Vetted, address::Class, vet},
    reason::{Cause, Refusal},
    resolve::{ResolveError, Resolver},
    sightings::Sightings,
    target::{PrivateNetworkPolicy, Target},
    telemetry::metrics::Metrics,
    tls::{Alpn, CertificateFacts, ClientTls, Outbound, Protocol, TlsError, TlsFacts, Watched},
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
    /// The approved private resolvers. `None` where one is reached through a tunnel.
    pub(crate) resolvers: HashMap<String, Option<Arc<Resolver>>>,
    pub(crate) sightings: Arc<Sightings>,
    pub(crate) metrics: Arc<Metrics>,
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

/// Where a permitted request goes: vetted addresses and no others.
#[derive(Debug)]
pub struct Pinned {
    vetted: Vetted,
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
    pub stream: TcpStream,
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

/// Plain or secured.
#[derive(Debug)]
pub enum Stream {
    /// Plain HTTP, where the target allows it.
    Plain(TcpStream),
    /// TLS.
    Tls(Box<tokio_rustls::client::TlsStream<Watched<TcpStream>>>),
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
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
        notes.route = Some(self.route(target)?);
        Ok(Pinned { vetted })
    }

    /// Dials the pin; the peer is compared with it before anybody sees the stream.
    ///
    /// # Errors
    /// Why no connection stands.
    pub async fn connect(&self, pinned: &Pinned, notes: &mut Notes) -> Result<Upstream, Refusal> {
        notes.pinned = pinned.first();
        let started = Instant::now();
        let result = self.direct.connect(pinned.vetted.addresses()).await;
        notes.connect = Some(started.elapsed());
        self.metrics
            .connect_duration
            .with_label_values(&["direct"])
            .observe(started.elapsed().as_secs_f64());
        let dialled = result.map_err(|error| {
            let shown = pinned.first().map_or_else(String::new, |addr| addr.to_string());
            Refusal::new(Cause::from(&error), format!("{shown}: {error}"))
        })?;
        notes.pinned = Some(dialled.address);
        Ok(Upstream { stream: dialled.stream, address: dialled.address })
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
        let answer = self.resolver_of(target)?.resolve(name).await;
        answer
            .map(|answer| answer.addresses)
            .map_err(|error| Refusal::new(Cause::from(&error), format!("{name}: {error}")))
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
    /// `tunnel_unavailable`.
    pub fn route(&self, target: &Target) -> Result<Arc<str>, Refusal> {
        match target.network.policy {
            PrivateNetworkPolicy::Deny | PrivateNetworkPolicy::Direct => {
                Ok(Arc::clone(&self.direct_route))
            }
            PrivateNetworkPolicy::Tunnel => {
                let tunnel = target.network.tunnel.as_deref().unwrap_or_default();
                let detail = format!("tunnel {tunnel} does not carry traffic");
                Err(Refusal::new(Cause::TunnelUnavailable, detail))
            }
        }
    }

    fn resolver_of(&self, target: &Target) -> Result<&Arc<Resolver>, Refusal> {
        let Some(name) = target.network.resolver.as_deref() else {
            return Ok(&self.resolver);
        };
        let unavailable = || {
            let detail =
                format!("resolver {name} is reached through a tunnel that does not carry traffic");
            Refusal::new(Cause::TunnelUnavailable, detail)
        };
        self.resolvers.get(name).and_then(Option::as_ref).ok_or_else(unavailable)
    }

    async fn remember(&self, permit: &Permit, class: Class) {
        if let Host::Name(name) = &permit.destination().authority.host {
            self.sightings.note(permit.target().id.as_str(), name, class).await;
        }
    }
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
