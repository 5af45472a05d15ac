//! The relay: a request whose path, redirects and answer the gateway sees.

use std::{sync::Arc, time::Duration};

use http::{
    HeaderMap, Method, Request, Response, StatusCode, Uri,
    header::{EXPECT, LOCATION},
};
use hyper::body::Incoming;
use prometheus::IntCounter;
use tokio::time::Instant;

use super::{ClientConn, Gateway, authenticate, refuse};
use crate::{
    client::Client,
    destination::{Asked, Destination, Resource},
    egress::Pinned,
    forward::{
        body::{Progress, RequestBody, ResponseBody, Watch},
        fields,
        pool::{Pool, Sender},
        upstream::{Answered, Errand},
    },
    path,
    policy::{self, Mode, Permit},
    reason::{Cause, Refusal},
    record::Record,
    slots::Slot,
    target::{Target, TargetId},
    view::View,
};

/// A request that is no CONNECT, in either version of HTTP.
#[derive(Debug)]
pub struct RelayRequest {
    /// The request target as it came.
    pub target: String,
    /// Method and fields.
    pub method: Method,
    /// The fields.
    pub headers: HeaderMap,
    /// The body, still to come.
    pub body: Incoming,
    /// When the head had been read.
    pub read_at: Instant,
    /// Whether this connection can be turned into another protocol.
    pub can_upgrade: bool,
}

impl Gateway {
    /// Answers one request: with the target's answer, or the problem that says why there is none.
    pub async fn relay(&self, from: &ClientConn, request: RelayRequest) -> Response<ResponseBody> {
        let mut record = Record::start(&self.metrics, request.read_at);
        record.mode = Mode::Relay.as_str();
        record.method = Some(request.method.as_str().to_owned());
        let view = self.view.load_full();
        match self.carry(&view, from, request, &mut record).await {
            Ok(carried) => carried.into_response(self, &view, record),
            Err(refusal) => refuse(&view, refusal, record).into_response().map(ResponseBody::own),
        }
    }

    /// The way of a relayed request, in the order of the contract's section 6. The first refusal
    /// wins.
    async fn carry(
        &self,
        view: &View,
        from: &ClientConn,
        request: RelayRequest,
        record: &mut Record,
    ) -> Result<Carried, Refusal> {
        let asked = Asked::parse(&request.target, &request.headers);
        self.still_open(from)?;
        let client = authenticate(view, from, &request.headers, record)?;
        let asked = asked?;
        let started = Instant::now();
        let target = owner_of(view, &client, &asked)?;
        record.target = Some(target.id.clone());
        let result = async {
            let destination = destination(target, asked);
            record.authority = Some(destination.authority.to_string());
            let permit = policy::permit(&client, destination, target, Mode::Relay)?;
            record.policy = Some(started.elapsed());
            let slots = self.take_slots(view, &client, target)?;
            let pinned = view.egress.pin(&permit, record).await?;
            let answered = self.send(view, &permit, &pinned, request, record).await?;
            let location = answered.response.headers().get(LOCATION).map(|value| value.as_bytes());
            policy::redirect(target, answered.response.status(), location)?;
            Ok(Carried { answered, target: Arc::clone(target), slots })
        };
        result.await.map_err(|refusal: Refusal| refusal.about(target.about(&view.egress_ips)))
    }

    async fn send(
        &self,
        view: &View,
        permit: &Permit,
        pinned: &Pinned,
        request: RelayRequest,
        record: &mut Record,
    ) -> Result<Answered, Refusal> {
        let progress = Progress::new();
        let mut headers = request.headers;
        let upgrade = fields::upgrade(&headers).filter(|_| request.can_upgrade);
        fields::clean_request(&mut headers);
        // hyper has answered 100 to the client by the time the body is asked for.
        headers.remove(EXPECT);
        let upgrades = upgrade.is_some();
        if let Some(protocol) = upgrade {
            fields::set_upgrade(&mut headers, protocol);
        }
        let mut outgoing = Request::new(RequestBody::streaming(request.body, &progress));
        *outgoing.method_mut() = request.method;
        *outgoing.uri_mut() = uri(permit)?;
        *outgoing.headers_mut() = headers;
        let errand = Errand {
            egress: &view.egress,
            target: permit.target(),
            pinned,
            generation: view.generation,
            upgrades,
            response_timeout: view.limits.response_timeout,
        };
        let answered = self.upstreams.send(&errand, outgoing, &progress, record).await;
        record.to_target = progress.bytes();
        record.first_byte = answered.is_ok().then(|| record.elapsed());
        answered
    }
}

/// The target of a request: by its URL, or by its id.
fn owner_of<'a>(view: &'a View, client: &Client, asked: &Asked) -> Result<&'a Arc<Target>, Refusal> {
    match asked {
        Asked::Url(url) => {
            view.targets.owner_of_url(url, |target| client.may_use(&target.id))
        }
        Asked::ById { id, .. } => view.targets.get(id.as_str()).ok_or_else(|| {
            Refusal::new(Cause::TargetUnknown, format!("there is no target {id}"))
        }),
    }
}

/// What is asked, in terms of the target: its own host and port, and the path as it is sent.
fn destination(target: &Target, asked: Asked) -> Destination {
    let authority = target.base.origin.authority.clone();
    let resource = match asked {
        Asked::Url(url) => url.resource,
        Asked::ById { rest, .. } => {
            let own_query = || target.base.query().map(ToOwned::to_owned);
            Resource {
                path: path::join(target.base.path(), &rest.path),
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

/// An answer that may be passed on.
struct Carried {
    answered: Answered,
    target: Arc<Target>,
    slots: (Slot<String>, Slot<TargetId>),
}

impl Carried {
    fn into_response(self, gateway: &Gateway, view: &View, mut record: Record) -> Response<ResponseBody> {
        let Answered { response, address, sender } = self.answered;
        let (mut head, body) = response.into_parts();
        record.allowed(head.status.as_u16());
        fields::clean_response(&mut head.headers);
        let bytes = |direction| {
            gateway.metrics.bytes.with_label_values(&[Mode::Relay.as_str(), direction])
        };
        bytes("to_target").inc_by(record.to_target);
        let watch = RelayWatch {
            record,
            to_client: bytes("to_client"),
            kept: Some((Arc::clone(gateway.upstreams.pool()), address, view.generation, sender)),
            target: self.target.id.clone(),
            _slots: self.slots,
        };
        let idle = view.limits.idle_timeout;
        Response::from_parts(head, ResponseBody::of_target(body, Box::new(watch), idle))
    }
}

/// Keeps the record of a relayed request open for as long as its answer flows.
struct RelayWatch {
    record: Record,
    to_client: IntCounter,
    kept: Option<(Arc<Pool>, std::net::SocketAddr, u64, Sender)>,
    target: TargetId,
    _slots: (Slot<String>, Slot<TargetId>),
}

impl Watch for RelayWatch {
    fn moved(&mut self, bytes: usize) {
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        self.to_client.inc_by(bytes);
        self.record.to_client = self.record.to_client.saturating_add(bytes);
    }

    fn ended(&mut self) {
        self.record.end = Some("closed");
        if let Some((pool, address, generation, sender)) = self.kept.take() {
            pool.put(&self.target, address, generation, sender);
        }
    }

    fn broke(&mut self, word: &'static str) {
        self.record.end = Some(word);
        self.kept = None;
    }
}
