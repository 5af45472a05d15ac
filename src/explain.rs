//! The decision for one request, rule by rule, with nothing sent but DNS.

use std::sync::Arc;

use http::{HeaderMap, HeaderValue, Method};
use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    check::Board,
    client::{Client, Clients},
    destination::{Asked, Destination, TARGET_FIELD},
    gateway::relay,
    origin::BaseUrl,
    policy::{self, Answered, Case, Mode, Permit, Step, Verdict, address::Class, judge, vet},
    reason::{Cause, Refusal},
    target::{Target, TargetId},
    view::View,
};

/// What would happen, and why (contract, section 11, `POST /v1/explain`).
#[derive(Debug, Serialize, ToSchema)]
pub struct Explanation {
    /// `allowed` or `refused`.
    pub decision: &'static str,
    /// The public code, where it is refused.
    #[schema(required)]
    pub code: Option<&'static str>,
    /// The fine word, where it is refused.
    #[schema(required)]
    pub cause: Option<&'static str>,
    /// What to do next, where it is refused.
    #[schema(required)]
    pub next_step: Option<String>,
    /// The target that owns the destination.
    #[schema(required)]
    pub target_id: Option<String>,
    /// Every rule in the order in which it is asked.
    pub rules: Vec<RuleSaid>,
    /// Every address of the host, and what it is.
    pub addresses: Vec<AddressSaid>,
    /// The address that would be tried first.
    #[schema(required)]
    pub pinned: Option<String>,
    /// `direct`, or the tunnel's name.
    #[schema(required, value_type = Option<String>)]
    pub route: Option<Arc<str>>,
}

/// What one rule said.
#[derive(Debug, Serialize, ToSchema)]
pub struct RuleSaid {
    /// The rule.
    pub name: &'static str,
    /// `passed`, `refused` or `not_asked`.
    pub verdict: &'static str,
    /// Why, where it refused.
    #[schema(required)]
    pub detail: Option<String>,
}

/// What one address is.
#[derive(Debug, Serialize, ToSchema)]
pub struct AddressSaid {
    /// The address.
    pub address: String,
    /// `forbidden`, `private` or `global`.
    pub class: String,
    /// The block that it belongs to, and where that block is defined.
    pub source: String,
    /// `approved` or `refused`.
    pub verdict: &'static str,
}

/// Who asks, where to, and whether DNS may be asked.
#[derive(Debug)]
pub struct Question {
    /// The client's name. Without one, every client's rights are assumed.
    pub client: Option<String>,
    /// What is asked, or why that cannot be read.
    pub what: Result<What, Refusal>,
    /// Not even DNS is asked.
    pub offline: bool,
}

/// A tunnel, or a request that is relayed.
#[derive(Debug)]
pub enum What {
    /// CONNECT.
    Connect(Destination),
    /// Anything else.
    Relay(Asked),
}

impl What {
    /// Reads what a client asks for with this method: of CONNECT `host:port`, or an https URL as
    /// clients are given it; of all others a URL, or `/targets/{id}/{path}`. `hint` is the target
    /// that it names.
    ///
    /// # Errors
    /// The refusal with which traffic would be answered.
    pub fn parse(method: &Method, text: &str, hint: Option<&TargetId>) -> Result<Self, Refusal> {
        let mut headers = HeaderMap::new();
        if let Some(value) = hint.and_then(|id| HeaderValue::from_str(id.as_str()).ok()) {
            headers.insert(TARGET_FIELD, value);
        }
        if *method != Method::CONNECT {
            return Asked::parse(text, &headers).map(Self::Relay);
        }
        if !text.contains("://") {
            return Destination::connect(text, &headers).map(Self::Connect);
        }
        let url = BaseUrl::parse(text, true)
            .map_err(|fault| Refusal::new(Cause::AuthorityInvalid, fault.to_string()))?;
        Destination::connect(&url.origin.authority.to_string(), &headers).map(Self::Connect)
    }

    fn owner<'a>(&self, view: &'a View, client: &Client) -> Result<&'a Arc<Target>, Refusal> {
        match self {
            Self::Connect(destination) => {
                let preferred =
                    |target: &Target| client.may_use(&target.id) && target.connect_allowed();
                let hint = destination.hint.as_ref();
                view.targets.owner_of(&destination.authority, hint, preferred)
            }
            Self::Relay(asked) => relay::owner_of(view, client, asked),
        }
    }

    fn of(self, target: &Target) -> (Destination, Mode) {
        match self {
            Self::Connect(destination) => (destination, Mode::Connect),
            Self::Relay(asked) => (relay::destination(target, asked), Mode::Relay),
        }
    }
}

/// Asks every rule in order and tells what each says. Nothing is remembered of it. `checks` is what
/// is known of targets' connectivity, where there is a gateway that knows.
pub async fn explain(view: &View, checks: Option<&Board>, question: Question) -> Explanation {
    let mut story = Story::default();
    let outcome = tell(view, checks, question, &mut story).await;
    let target = story.target;
    let refusal = outcome.err().map(|refusal| match &target {
        Some(target) => refusal.about(target.about(&view.egress_ips)),
        None => refusal,
    });
    let egress =
        view.egress_ips.first().map_or_else(|| "the gateway's address".into(), ToString::to_string);
    Explanation {
        decision: if refusal.is_some() { "refused" } else { "allowed" },
        code: refusal.as_ref().map(|refusal| refusal.code().as_str()),
        cause: refusal.as_ref().map(|refusal| refusal.cause.as_str()),
        next_step: refusal.as_ref().map(|refusal| refusal.next_step(&egress)),
        target_id: target.map(|target| target.id.to_string()),
        rules: story.rules.into_iter().map(RuleSaid::from).collect(),
        addresses: story.addresses,
        pinned: story.pinned,
        route: story.route,
    }
}

#[derive(Default)]
struct Story {
    target: Option<Arc<Target>>,
    rules: Vec<Step>,
    addresses: Vec<AddressSaid>,
    pinned: Option<String>,
    route: Option<Arc<str>>,
}

impl Story {
    /// Notes what a rule said and passes its value on.
    fn said<T>(&mut self, name: &'static str, said: Result<T, Refusal>) -> Result<T, Refusal> {
        let verdict = said.as_ref().map(|_| Verdict::Passed).map_err(Clone::clone);
        self.rules.push(Step::new(name, verdict));
        said
    }

    fn not_asked(&mut self, names: &[&'static str]) {
        self.rules.extend(names.iter().map(|name| Step::new(name, Ok(Verdict::NotAsked))));
    }
}

/// Rule 4. Not asked where the first request would have the target checked.
const READY: &str = "check_current";
/// Rules 5, 6 and 8, which need addresses.
const RESOLVE: &str = "name_resolves";
const VET: &str = "addresses_approved";
const ROUTE: &str = "route_available";

async fn tell(
    view: &View,
    checks: Option<&Board>,
    question: Question,
    story: &mut Story,
) -> Result<(), Refusal> {
    let client = match question.client.as_deref() {
        None => Clients::unnamed(),
        Some(name) => {
            let known = view.clients.named(name).cloned();
            let unknown = || {
                let detail = format!("no client is named {name}");
                Refusal::new(Cause::ClientUnauthenticated, detail)
            };
            story.said("client_known", known.ok_or_else(unknown))?
        }
    };
    let what = story.said("request_readable", question.what)?;
    let owner = what.owner(view, &client).cloned();
    let target = story.said("target_owns_destination", owner)?;
    story.target = Some(Arc::clone(&target));
    let (destination, mode) = what.of(&target);
    let case = Case { client: &client, destination: &destination, target: &target, mode };
    story.rules.extend(policy::explain(&case));
    let permitted = policy::permit(&client, destination, &target, mode);
    let permit = permitted.inspect_err(|_| story.not_asked(&[READY, RESOLVE, VET, ROUTE]))?;
    let ready = if let Some(verdict) = checks.and_then(|checks| checks.verdict(view, &target)) {
        story.said(READY, verdict)
    } else {
        story.not_asked(&[READY]);
        Ok(())
    };
    // Asked behind a check that refuses too: what the addresses are now helps whoever mends it.
    let way = tell_way(view, &permit, question.offline, story).await;
    if ready.is_err() {
        (story.pinned, story.route) = (None, None);
    }
    ready.and(way)
}

/// Rules 5, 6 and 8.
async fn tell_way(
    view: &View,
    permit: &Permit,
    offline: bool,
    story: &mut Story,
) -> Result<(), Refusal> {
    let target = permit.target();
    let host = &permit.destination().authority.host;
    let port = permit.destination().authority.port;
    if offline && host.ip().is_none() {
        story.not_asked(&[RESOLVE, VET]);
        story.route = Some(story_route(view, target, story)?);
        return Ok(());
    }
    let resolved = view.egress.resolve(target, host).await;
    let addresses =
        story.said(RESOLVE, resolved).inspect_err(|_| story.not_asked(&[VET, ROUTE]))?;
    let scene = view.egress.scene.load();
    story.addresses = addresses
        .iter()
        .map(|ip| AddressSaid::from(judge(&scene, &target.network, *ip, port)))
        .collect();
    let last_seen = view.egress.last_seen(target, host);
    let vetted = vet(permit, &scene, &Answered { addresses: &addresses, port, last_seen });
    let vetted = story.said(VET, vetted).inspect_err(|_| story.not_asked(&[ROUTE]))?;
    story.route = Some(story_route(view, target, story)?);
    story.pinned = vetted.addresses().first().map(|one| one.addr().to_string());
    Ok(())
}

fn story_route(view: &View, target: &Target, story: &mut Story) -> Result<Arc<str>, Refusal> {
    story.said(ROUTE, view.egress.route(target))
}

impl From<Step> for RuleSaid {
    fn from(step: Step) -> Self {
        let verdict = step.word();
        Self { name: step.name, verdict, detail: step.verdict.err().map(|refusal| refusal.detail) }
    }
}

impl From<policy::Judgement> for AddressSaid {
    fn from(judgement: policy::Judgement) -> Self {
        let approved = judgement.approved && judgement.class != Class::Forbidden;
        Self {
            address: judgement.address.to_string(),
            class: judgement.class.to_string(),
            source: format!("{} ({})", judgement.name, judgement.source),
            verdict: if approved { "approved" } else { "refused" },
        }
    }
}
