//! The relay: a request whose path, redirects and answer the gateway sees.

use std::{net::SocketAddr, sync::Arc};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri,
    header::{CONTENT_LENGTH, EXPECT, LOCATION, UPGRADE},
};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use prometheus::IntCounter;
use sha2::{Digest as _, Sha256};
use tokio::time::Instant;
use ulid::Ulid;

use super::{
    ClientConn, Gateway, authenticate,
    deliver::{Delivery, Facts, Replay},
    refuse,
    switch::{Switch, SwitchSlot},
};
use crate::{
    client::Client,
    destination::{Asked, Destination, Resource, asked_by_no_page, host_field},
    egress::Pinned,
    forward::{
        ahead::Ahead,
        body::{ClientBody, Progress, RequestBody, ResponseBody, Watch},
        fields,
        interim::Interims,
        pool::{Pool, Sender},
        upstream::{Answered, Errand},
    },
    origin::Host,
    path,
    policy::{self, Mode, Permit},
    reason::{Cause, DeploymentMode, Refusal},
    record::Record,
    slots::Slot,
    target::{Target, TargetId},
    view::View,
    webhook::{
        self,
        envelope::Envelope,
        signature::{self, Keys},
    },
};

/// A request that is no CONNECT, in either version of HTTP.
#[derive(Debug)]
pub struct RelayRequest<'a> {
    target: String,
    method: Method,
    headers: HeaderMap,
    body: ClientBody,
    read_at: Instant,
    interims: Interims,
    /// Where a switch of protocols is left for the connection; `None` where there can be none.
    switch: Option<&'a SwitchSlot>,
}

impl<'a> RelayRequest<'a> {
    /// A request as its connection gives it; with [`Interims`] among its extensions where that
    /// connection passes interim answers on.
    pub fn new(request: Request<ClientBody>, switch: Option<&'a SwitchSlot>) -> Self {
        let (mut head, body) = request.into_parts();
        Self {
            target: head.uri.to_string(),
            method: head.method,
            headers: head.headers,
            body,
            read_at: Instant::now(),
            interims: head.extensions.remove().unwrap_or_default(),
            switch,
        }
    }
}

impl RelayRequest<'_> {
    fn is_http2(&self) -> bool {
        matches!(self.body, ClientBody::Http2(_))
    }
}

impl Gateway {
    /// Answers one request: with the target's answer, or the problem that says why there is none.
    pub async fn relay(
        &self,
        from: &ClientConn,
        request: RelayRequest<'_>,
    ) -> Response<ResponseBody> {
        let mut record = Record::start(&self.books, request.read_at);
        record.mode = Mode::Relay.as_str();
        record.method = Some(request.method.as_str().to_owned());
        let view = self.view.load_full();
        let switch = request.switch;
        match self.carry(&view, from, request, &mut record).await {
            Ok(Passed::Answer(carried)) => carried.into_response(self, &view, record, switch),
            Ok(Passed::Replay(replay)) => {
                record.allowed(replay.status().as_u16());
                record.end = Some("closed");
                replay.into_response()
            }
            Err(refusal) => refuse(&view, refusal, record).into_response().map(ResponseBody::own),
        }
    }

    /// The way of a relayed request, in the order of the contract's section 6. The first refusal
    /// wins.
    async fn carry(
        &self,
        view: &Arc<View>,
        from: &ClientConn,
        request: RelayRequest<'_>,
        record: &mut Record,
    ) -> Result<Passed, Refusal> {
        // Read first, so that the record of any refusal says what was asked for.
        let asked = Asked::parse(&request.target, &request.headers);
        record.authority = asked.as_ref().ok().and_then(Asked::authority);
        self.still_open(from)?;
        let client = authenticate(view, from, &request.headers, record)?;
        let (asked, gateway_name) = meant(view, asked?, &request)?;
        let started = Instant::now();
        let owner = owner_of(view, &client, &asked);
        record.policy = Some(started.elapsed());
        let target = owner?;
        record.target = Some(target.id.clone());
        let mode = if target.is_signed() { Mode::Webhook } else { Mode::Relay };
        record.mode = mode.as_str();
        let mut delivery = Delivery::begin(self, target, &request.method, record);
        let result = async {
            if !view.clients.required() {
                asked_by_no_page(&asked, gateway_name.as_ref(), &request.headers)?;
            }
            let authority = &target.base.origin.authority;
            if !asked.is_at(authority) {
                record.authority = Some(authority.to_string());
            }
            let destination = destination(target, asked);
            let permit = policy::permit(&client, destination, target, mode);
            record.policy = Some(started.elapsed());
            let permit = permit?;
            let slots = self.take_slots(view, &client, target)?;
            let mut outgoing = outgoing(view, &permit, request).await?;
            if let (Some(delivery), Some(facts)) = (&mut delivery, outgoing.facts.take())
                && let Some(replay) =
                    Box::pin(delivery.admit(outgoing.request.method(), facts)).await?
            {
                return Ok(Passed::Replay(replay));
            }
            self.checks.gate(view, target).await?;
            let pinned = view.egress.pin(&permit, &mut record.notes).await?;
            if let Some(delivery) = &mut delivery {
                delivery.sending();
            }
            let progress = Arc::clone(&outgoing.progress);
            let upgrades = outgoing.upgrades;
            let answered = self.send(view, &permit, &pinned, outgoing, record).await?;
            let (status, headers) = (answered.response.status(), answered.response.headers());
            if let Some(delivery) = &mut delivery {
                delivery.answered(status, headers);
            }
            if status == StatusCode::SWITCHING_PROTOCOLS && !upgrades {
                let detail = "the target switched protocols without being asked to";
                return Err(Refusal::new(Cause::ResponseInvalid, detail));
            }
            let locations = headers.get_all(LOCATION).iter().map(HeaderValue::as_bytes);
            policy::redirect(target, status, locations)?;
            let mut answered = answered.map(Ahead::from);
            let body = answered.response.body_mut();
            let fields = match delivery.take() {
                Some(delivery) => Box::pin(delivery.passed(status, body)).await,
                None => HeaderMap::new(),
            };
            let target = Arc::clone(target);
            let carried = Carried { answered, fields, mode, progress, target, slots };
            Ok(Passed::Answer(Box::new(carried)))
        };
        result.await.map_err(|refusal: Refusal| {
            let mut refusal = refusal.about(target.about(&view.egress_ips));
            if let Some(delivery) = delivery.take() {
                delivery.refused(&mut refusal);
            }
            refusal
        })
    }

    async fn send(
        &self,
        view: &View,
        permit: &Permit,
        pinned: &Pinned,
        outgoing: Outgoing,
        record: &mut Record,
    ) -> Result<Answered, Refusal> {
        let errand = Errand {
            egress: &view.egress,
            target: permit.target(),
            pinned,
            upgrades: outgoing.upgrades,
            interims: &outgoing.interims,
            response_timeout: view.limits.response_timeout,
        };
        let Outgoing { request, progress, .. } = outgoing;
        let answered = self.upstreams.send(&errand, request, &progress, &mut record.notes).await;
        record.to_target = progress.bytes();
        record.first_byte = answered.is_ok().then(|| record.elapsed());
        answered
    }
}

/// A request as it goes to the target.
struct Outgoing {
    request: Request<RequestBody>,
    /// Of a delivery, once it is signed.
    facts: Option<Facts>,
    progress: Arc<Progress>,
    interims: Interims,
    upgrades: bool,
}

/// Makes a client's request the gateway's own: fields of one hop go, bodies that have to be signed
/// are read whole and signed.
async fn outgoing(
    view: &View,
    permit: &Permit,
    request: RelayRequest<'_>,
) -> Result<Outgoing, Refusal> {
    let uri = uri(permit)?;
    let target = permit.target();
    let progress = Progress::new();
    let mut headers = request.headers;
    // What follows an upgrade is nobody's to sign.
    let upgradable = request.switch.is_some() && !target.is_signed();
    let upgrade = fields::upgrade(&headers, target.connect_allowed()).filter(|_| upgradable);
    fields::clean_request(&mut headers);
    // The client has had its 100 by the time the body is asked for.
    headers.remove(EXPECT);
    let mut facts = None;
    let body = match signer(target)? {
        None => RequestBody::streaming(request.body, &progress),
        Some(keys) => {
            let limit = view.limits.max_signed_body;
            let whole = Box::pin(read_whole(request.body, &headers, limit)).await?;
            let url = format!("{}{uri}", target.base.origin);
            facts = Some(sign(target, &request.method, &url, &mut headers, &whole, &keys)?);
            headers.insert(CONTENT_LENGTH, whole.len().into());
            RequestBody::whole(whole, &progress)
        }
    };
    let upgrades = upgrade.is_some();
    if let Some(protocol) = upgrade {
        fields::set_upgrade(&mut headers, protocol);
    }
    let mut request_out = Request::new(body);
    *request_out.method_mut() = request.method;
    *request_out.uri_mut() = uri;
    *request_out.headers_mut() = headers;
    let interims = request.interims;
    Ok(Outgoing { request: request_out, facts, progress, interims, upgrades })
}

/// What a request asks for, and the gateway's own name in it, where it asks the gateway.
fn meant(
    view: &View,
    asked: Asked,
    request: &RelayRequest<'_>,
) -> Result<(Asked, Option<Host>), Refusal> {
    match asked {
        // In HTTP/2 a path of the gateway's own comes with an authority, as a URL does.
        Asked::Url(url) if request.is_http2() && view.targets.owns_nothing_at(&url.wanted()) => {
            let name = url.host.clone();
            Ok((url.on_the_gateway()?, Some(name)))
        }
        asked @ Asked::Url(_) => Ok((asked, None)),
        asked @ Asked::ById { .. } => Ok((asked, host_field(&request.headers))),
    }
}

/// The keys of a target whose bodies are signed.
fn signer(target: &Target) -> Result<Option<Keys>, Refusal> {
    Keys::new(&target.signing).map_err(|error| {
        Refusal::new(Cause::SigningSecretMissing, format!("target {}: {error}", target.id))
    })
}

/// Reads a body that has to be signed. One that ends before its declared length is never sent.
async fn read_whole(body: ClientBody, headers: &HeaderMap, limit: usize) -> Result<Bytes, Refusal> {
    let too_large = || {
        let detail = format!("the body is longer than limits.max_signed_body ({limit} bytes)");
        Refusal::new(Cause::BodyTooLarge, detail)
    };
    let declared = headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok());
    let declared = declared.and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
    if usize::try_from(declared).map_or(true, |length| length > limit) {
        return Err(too_large());
    }
    match Limited::new(body, limit).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(too_large()),
        Err(_) => {
            let detail = "the body ended before it was complete; nothing was sent";
            Err(Refusal::new(Cause::RequestBodyBroken, detail))
        }
    }
}

fn sign(
    target: &Target,
    method: &Method,
    url: &str,
    headers: &mut HeaderMap,
    body: &Bytes,
    keys: &Keys,
) -> Result<Facts, Refusal> {
    let now = u64::try_from(jiff::Timestamp::now().as_second()).unwrap_or_default();
    let payload_hash = Sha256::digest(body).into();
    let asked = webhook::envelope::Outgoing {
        target: target.id.as_str(),
        method,
        url,
        headers,
        body,
        payload_hash,
        format: target.signing.format,
    };
    // An id has 80 random bits besides the time: two of them, laid over each other, give 128.
    let fresh = Ulid::new().random().rotate_left(64) ^ Ulid::new().random();
    let envelope = Envelope::read(&asked, now, fresh.to_be_bytes())
        .map_err(|error| Refusal::new(error.cause(), error.to_string()))?;
    signature::replace(headers, signature::sign(&envelope, body, keys));
    Ok(Facts::new(&envelope, method, url, payload_hash))
}

/// The target of a request: by its URL, or by its id.
///
/// # Errors
/// `no_target`, `target_mismatch`, `ambiguous_target` or `target_unknown`.
pub(crate) fn owner_of<'a>(
    view: &'a View,
    client: &Client,
    asked: &Asked,
) -> Result<&'a Arc<Target>, Refusal> {
    match asked {
        Asked::Url(url) => {
            view.targets.owner_of_url(&url.wanted(), |target| client.may_use(&target.id))
        }
        Asked::ById { id, .. } => view
            .targets
            .get(id.as_str())
            .ok_or_else(|| Refusal::new(Cause::TargetUnknown, format!("there is no target {id}"))),
    }
}

/// What is asked, in terms of the target: its own host and port, and the path as it is sent.
pub(crate) fn destination(target: &Target, asked: Asked) -> Destination {
    let authority = target.base.origin.authority.clone();
    let resource = match asked {
        Asked::Url(url) => url.resource,
        Asked::ById { rest, .. } => {
            let own_query = || target.base.query().map(ToOwned::to_owned);
            // A webhook is one URL: a client that ends its base URL with a slash means it too.
            let whole = target.mode == DeploymentMode::WebhookOnly && rest.path == "/";
            Resource {
                path: path::join(target.base.path(), if whole { "" } else { &rest.path }),
                query: rest.query.or_else(own_query),
            }
        }
    };
    Destination { authority, hint: None, resource: Some(resource) }
}

fn uri(permit: &Permit) -> Result<Uri, Refusal> {
    let invalid = || Refusal::new(Cause::RequestTargetInvalid, "the path cannot be sent as it is");
    let resource = permit.destination().resource.as_ref().ok_or_else(invalid)?;
    let text = match &resource.query {
        Some(query) => format!("{}?{query}", resource.path),
        None => resource.path.clone(),
    };
    text.parse().map_err(|_| invalid())
}

/// What a request comes to.
enum Passed {
    Answer(Box<Carried>),
    Replay(Replay),
}

/// An answer that may be passed on.
struct Carried {
    answered: Answered<Ahead>,
    /// What a delivery's answer gets.
    fields: HeaderMap,
    mode: Mode,
    progress: Arc<Progress>,
    target: Arc<Target>,
    slots: (Slot<String>, Slot<TargetId>),
}

impl Carried {
    fn into_response(
        self,
        gateway: &Gateway,
        view: &View,
        mut record: Record,
        switch: Option<&SwitchSlot>,
    ) -> Response<ResponseBody> {
        let Answered { mut response, address } = self.answered;
        if response.status() == StatusCode::SWITCHING_PROTOCOLS
            && let Some(slot) = switch
        {
            record.allowed(response.status().as_u16());
            let protocol = response.headers().get(UPGRADE).cloned();
            let upstream = hyper::upgrade::on(&mut response);
            let terms = gateway.terms(view, self.mode, None);
            slot.put(Switch { upstream, terms, record, _slots: self.slots });
            let (mut head, _) = response.into_parts();
            fields::clean_response(&mut head.headers);
            if let Some(protocol) = protocol {
                fields::set_upgrade(&mut head.headers, protocol);
            }
            return Response::from_parts(head, ResponseBody::own(Full::default()));
        }
        let (mut head, body) = response.into_parts();
        record.allowed(head.status.as_u16());
        fields::clean_response(&mut head.headers);
        head.headers.extend(self.fields);
        let bytes =
            |direction| gateway.metrics.bytes.with_label_values(&[self.mode.as_str(), direction]);
        let watch = RelayWatch {
            record,
            progress: self.progress,
            to_target: bytes("to_target"),
            to_client: bytes("to_client"),
            pool: Arc::clone(gateway.upstreams.pool()),
            address,
            target: self.target,
            _slots: self.slots,
        };
        let idle = view.limits.idle_timeout;
        Response::from_parts(head, ResponseBody::of_target(body, Box::new(watch), idle))
    }
}

/// Keeps the record of a relayed request open for as long as its answer flows.
struct RelayWatch {
    record: Record,
    /// Of the request's body, which may still flow when the answer does.
    progress: Arc<Progress>,
    to_target: IntCounter,
    to_client: IntCounter,
    pool: Arc<Pool>,
    address: SocketAddr,
    target: Arc<Target>,
    _slots: (Slot<String>, Slot<TargetId>),
}

impl Watch for RelayWatch {
    fn moved(&mut self, bytes: usize) {
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        self.to_client.inc_by(bytes);
        self.record.to_client = self.record.to_client.saturating_add(bytes);
    }

    fn ended(&mut self, sender: Option<Sender>) {
        self.record.end = Some("closed");
        if let Some(sender) = sender {
            self.pool.put(&self.target, self.address, self.record.notes.route.clone(), sender);
        }
    }

    fn broke(&mut self, word: &'static str) {
        self.record.end = Some(word);
    }
}

impl Drop for RelayWatch {
    fn drop(&mut self) {
        self.record.to_target = self.progress.bytes();
        self.to_target.inc_by(self.record.to_target);
    }
}
