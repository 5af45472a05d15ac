//! What was decided: the most recent ones as a list, and all of them as they are made.

use std::{
    convert::Infallible,
    fmt::Write as _,
    future::{Ready, ready},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready as ready_or_return},
    time::{Duration, SystemTime},
};

use axum::{
    Extension, Json,
    body::Body,
    extract::{FromRequestParts, State},
    http::{header, request::Parts},
    response::{IntoResponse as _, Response},
};
use bytes::Bytes;
use hyper::body::Frame;
use jiff::Timestamp;
use tokio::{
    select,
    task::consume_budget,
    time::{Instant, sleep_until},
};
use ulid::Ulid;

use super::{
    AdminState,
    input::{QueryTable, invalid},
    openapi::DECISIONS,
    page::{Page, PageQuery, cursor_unknown},
    problem::Problem,
    route::{Route, route},
    serve::Here,
};
use crate::{
    decisions::{Chunk, Decision, Decisions, Follower},
    fields::Fields,
    reason::Code,
    target::TargetId,
};

pub(super) fn routes() -> Vec<Route> {
    vec![route!(list), route!(stream)]
}

/// Which decisions.
#[derive(Debug, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
struct Filter {
    /// Of this target.
    #[param(value_type = Option<String>, example = "acme-jira")]
    target: Option<TargetId>,
    /// With this code.
    #[param(value_type = Option<String>, example = "SELF_HOSTED_DNS_FAILED")]
    code: Option<&'static str>,
    /// With this outcome.
    #[param(inline, value_type = Option<Outcome>)]
    decision: Option<&'static str>,
    /// Noted from this time on (RFC 3339), or after the decision of this id.
    #[param(value_type = Option<String>, example = "2026-03-04T05:06:07Z")]
    since: Option<Since>,
}

/// The words of `decision`, for the document.
#[derive(utoipa::ToSchema)]
#[schema(rename_all = "lowercase")]
#[expect(dead_code, reason = "the words are what counts")]
enum Outcome {
    Allowed,
    Refused,
    Aborted,
}

#[derive(Clone, Copy, Debug)]
enum Since {
    Time(Timestamp),
    Decision(Ulid),
}

impl Filter {
    fn read(fields: &mut Fields<'_>) -> Self {
        let target = fields.parse("target", |text| {
            TargetId::parse(text).ok_or("an id is 1 to 64 of a-z, 0-9, `.`, `_` and `-`")
        });
        let code = fields.parse("code", |text| {
            let code = Code::ALL.iter().map(|code| code.as_str()).find(|code| *code == text);
            code.ok_or("not a code; GET /v1/reasons lists them")
        });
        let decision = fields.parse("decision", |text| {
            let words = ["allowed", "refused", "aborted"];
            words.into_iter().find(|word| *word == text).ok_or("allowed, refused or aborted")
        });
        let since = fields.parse("since", |text| {
            let id = Ulid::from_string(text).ok().map(Since::Decision);
            id.or_else(|| text.parse().ok().map(Since::Time))
                .ok_or("a time as RFC 3339 has it, with its offset, or a decision_id")
        });
        Self { target, code, decision, since }
    }

    fn lets(&self, decision: &Decision) -> bool {
        self.target.as_ref().is_none_or(|id| decision.target.as_deref() == Some(id.as_str()))
            && self.code.is_none_or(|code| decision.code == Some(code))
            && self.decision.is_none_or(|word| decision.decision == word)
    }
}

/// Where a reader begins.
#[derive(Debug)]
struct Start {
    /// Nothing before this place.
    place: u64,
    /// Nothing before this time.
    time: Timestamp,
    /// Whether something in between may be gone.
    gap: bool,
}

impl Start {
    fn of(decisions: &Decisions, since: Option<Since>) -> Self {
        let (place, time, gap) = match since {
            None => (0, Timestamp::MIN, false),
            Some(Since::Time(time)) => (0, time, false),
            Some(Since::Decision(id)) => match decisions.place_of(&id.to_string()) {
                Some(place) => (place.saturating_add(1), Timestamp::MIN, false),
                // Its id says when its request came; it ended later, and so did what followed it.
                None => (0, time_of(id), true),
            },
        };
        Self { place, time, gap }
    }
}

fn time_of(id: Ulid) -> Timestamp {
    let time = SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(id.timestamp_ms()));
    time.and_then(|time| Timestamp::try_from(time).ok()).unwrap_or(Timestamp::MAX)
}

/// Recent decisions
///
/// The newest first. A few thousand are held, in memory: none from before the gateway started.
#[utoipa::path(
    get,
    path = "/v1/decisions",
    operation_id = "listDecisions",
    tag = DECISIONS,
    params(Filter, PageQuery),
    responses(
        (status = 200, description = "A page of them", body = Page<Decision>),
        (status = 400, description = "The query is wrong"),
    ),
)]
fn list(
    State(state): State<Arc<AdminState>>,
    query: QueryTable,
) -> Ready<Result<Json<Page<Arc<Decision>>>, Problem>> {
    let read = query.read(|fields| (Filter::read(fields), PageQuery::read(fields)));
    ready(read.and_then(|(filter, query)| {
        page(&state.gateway.books.decisions, &filter, &query).map(Json)
    }))
}

/// The cursor is the place of the last item of the page before: it stays good when that item has
/// made room for others.
fn page(
    decisions: &Decisions,
    filter: &Filter,
    query: &PageQuery,
) -> Result<Page<Arc<Decision>>, Problem> {
    let mut end = match &query.cursor {
        None => u64::MAX,
        Some(cursor) => cursor.parse().map_err(|_| cursor_unknown())?,
    };
    let start = Start::of(decisions, filter.since);
    let mut items: Vec<Arc<Decision>> = Vec::new();
    let mut last = 0;
    loop {
        let chunk = decisions.before(end);
        let Some((oldest, _)) = chunk.last() else {
            return Ok(Page { items, next_cursor: None });
        };
        end = *oldest;
        for (place, decision) in chunk {
            if place < start.place {
                return Ok(Page { items, next_cursor: None });
            }
            if decision.time < start.time || !filter.lets(&decision) {
                continue;
            }
            if items.len() == query.limit {
                return Ok(Page { items, next_cursor: Some(last.to_string()) });
            }
            last = place;
            items.push(decision);
        }
    }
}

/// Decisions as they are made
///
/// Server-sent events. `decision`: its `id` is the decision's, its `data` the decision as in the
/// list. `lagged`: this reader was too slow, or was away too long, and missed as many as `data`
/// says: `{"missed": 17}`, or `{"missed": null}` where nobody knows. A comment comes every 15
/// seconds. `Last-Event-ID` goes on where a stream broke off; it wins over `since`. The token is
/// asked for at the beginning only.
#[utoipa::path(
    get,
    path = "/v1/decisions/stream",
    operation_id = "streamDecisions",
    tag = DECISIONS,
    params(
        Filter,
        ("Last-Event-ID" = Option<String>, Header, description = "The last `decision_id` that came"),
    ),
    responses(
        (status = 200, description = "Events, until either side ends it", body = String,
            content_type = "text/event-stream",
            example = "id: 01K9Q6M3V5T8W2X4Y6Z8A0B2C4\nevent: decision\ndata: {}\n\n"),
        (status = 400, description = "The query or `Last-Event-ID` is wrong"),
        (status = 503, description = "As many streams are open as may be"),
    ),
)]
fn stream(
    State(state): State<Arc<AdminState>>,
    Extension(here): Extension<Here>,
    LastEvent(last): LastEvent,
    query: QueryTable,
) -> Ready<Result<Response, Problem>> {
    let decisions = &state.gateway.books.decisions;
    ready(query.read(Filter::read).and_then(|filter| {
        let since = last.map(Since::Decision).or(filter.since);
        let mut start = Start::of(decisions, since);
        if since.is_none() {
            start.place = decisions.end();
        }
        // What made room before the stream began is not what it missed.
        let place = start.place.max(decisions.first());
        let follower = decisions.follow(place).ok_or(Problem::Busy)?;
        let gap = start.gap.then(|| lagged(None));
        let reader = Reader { follower, filter, time: start.time, here, said: gap };
        let body = Body::new(Events(Box::pin(reader.turn())));
        Ok(([(header::CONTENT_TYPE, "text/event-stream")], body).into_response())
    }))
}

/// The id of the last event that a reader got before its stream broke off: `Last-Event-ID`.
struct LastEvent(Option<Ulid>);

impl<S: Sync> FromRequestParts<S> for LastEvent {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Problem> {
        let Some(value) = parts.headers.get("last-event-id") else {
            return Ok(Self(None));
        };
        let id = value.to_str().ok().and_then(|text| Ulid::from_string(text).ok());
        let id = id.ok_or_else(|| invalid("Last-Event-ID", "not a decision_id"))?;
        Ok(Self(Some(id)))
    }
}

fn lagged(missed: Option<u64>) -> String {
    let missed = missed.map_or_else(|| "null".to_owned(), |missed| missed.to_string());
    format!("event: lagged\ndata: {{\"missed\":{missed}}}\n\n")
}

/// The reader of one stream.
struct Reader {
    follower: Follower,
    filter: Filter,
    time: Timestamp,
    here: Here,
    /// What is to be said before anything else.
    said: Option<String>,
}

/// The next bytes of a stream, and who goes on from there. `None` when it is over.
type Turn = Pin<Box<dyn Future<Output = Option<(String, Reader)>> + Send>>;

impl Reader {
    async fn turn(mut self) -> Option<(String, Self)> {
        if let Some(said) = self.said.take() {
            return Some((said, self));
        }
        let silent_until = Instant::now().checked_add(self.here.limits.keep_alive)?;
        loop {
            let chunk = select! {
                biased;
                () = self.here.stopping.cancelled() => return None,
                chunk = self.follower.next() => chunk,
                () = sleep_until(silent_until) => return Some((":\n\n".to_owned(), self)),
            };
            let text = self.text(&chunk);
            if !text.is_empty() {
                return Some((text, self));
            }
            // With much going on and nothing of it for this reader, others get their turn.
            consume_budget().await;
        }
    }

    fn text(&self, chunk: &Chunk) -> String {
        let mut text = if chunk.missed == 0 { String::new() } else { lagged(Some(chunk.missed)) };
        for decision in &chunk.decisions {
            if decision.time >= self.time
                && self.filter.lets(decision)
                && let Ok(data) = serde_json::to_string(&**decision)
            {
                let id = &decision.decision_id;
                let _infallible = write!(text, "id: {id}\nevent: decision\ndata: {data}\n\n");
            }
        }
        text
    }
}

/// The body of a stream. It is asked for more only when what it gave has left, so that a slow
/// reader keeps no more than one chunk.
struct Events(Turn);

impl hyper::body::Body for Events {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(ready_or_return!(self.0.as_mut().poll(context)).map(|(text, reader)| {
            self.0 = Box::pin(reader.turn());
            Ok(Frame::data(text.into()))
        }))
    }
}
