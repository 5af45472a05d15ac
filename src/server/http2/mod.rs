//! A client connection that speaks HTTP/2: many streams over one socket (RFC 9113).
//!
//! Built on h2 itself: hyper's upgraded streams show a reset as an end, and a tunnel has to pass
//! both on as what they are (section 8.5).

mod connection;
mod respond;
#[cfg(test)]
mod tests;

use std::{future::poll_fn, sync::Arc, time::Duration};

use bytes::Bytes;
use h2::{RecvStream, server::SendResponse};
use http::{Method, Request, Response, header::CONTENT_LENGTH};
use http_body_util::{Either, Empty};
use hyper::body::Body;
use tokio::time::Instant;

use super::{Server, connection::malformed, head::check_http2};
use crate::{
    forward::{
        body::{BodyError, ClientBody, ResponseBody},
        connect::ClientStream,
        fields,
        interim::{Interim, Interims},
    },
    gateway::{ClientConn, ConnectRequest, RelayRequest},
    multiplex::{Stream, Wire},
    reason::{Cause, Refusal},
};
use connection::{Ends, Rules};
use respond::respond;

impl ClientStream for Stream {
    fn reset(mut self) {
        Self::reset(&mut self);
    }
}

/// Serves the connection to its end. `prefix` are the bytes that showed which protocol it speaks.
pub(super) async fn serve<S>(server: &Server, stream: S, prefix: Bytes, from: ClientConn)
where
    S: ClientStream + Send + 'static,
{
    let (rules, stall) = {
        let limits = &server.gateway.view.load().limits;
        let (first, idle) = (limits.header_timeout, limits.idle_timeout);
        (Rules::new(limits.max_header_bytes, first, idle), idle)
    };
    let ends = Ends { drain: &server.drain, cut: &server.gateway.cut };
    let client = Arc::new(Client { server: server.clone(), from, stall });
    let wire = Wire::new(prefix, stream);
    connection::run(wire, &rules, ends, &server.tasks, move |request, to| {
        Arc::clone(&client).answer(request, to)
    })
    .await;
}

/// What the streams of one connection share.
struct Client {
    server: Server,
    from: ClientConn,
    /// Longest time in which an answer may stand still because the client takes nothing.
    stall: Duration,
}

impl Client {
    /// One stream, from its head to its end.
    async fn answer(self: Arc<Self>, request: Request<RecvStream>, to: SendResponse<Bytes>) {
        let read_at = Instant::now();
        if let Err(fault) = check_http2(request.headers()) {
            let (method, refusal) = (request.method(), malformed(fault));
            let problem = self.server.gateway.refuse(refusal, Some(method.as_str()), read_at);
            return self.say(to, method, problem.into_response()).await;
        }
        if request.method() == Method::CONNECT {
            self.connect(request, to, read_at).await;
        } else {
            self.other(request, to).await;
        }
    }

    async fn connect(
        &self,
        request: Request<RecvStream>,
        mut to: SendResponse<Bytes>,
        read_at: Instant,
    ) {
        let (head, receive) = request.into_parts();
        let target = match connect_target(&head) {
            Ok(target) => target,
            Err(refusal) => {
                let problem = self.server.gateway.refuse(refusal, Some("CONNECT"), read_at);
                return self.say(to, &Method::CONNECT, problem.into_response()).await;
            }
        };
        let opened = {
            let asked = ConnectRequest { target: &target, headers: &head.headers, read_at };
            // Boxed, so that its memory is given back before the tunnel begins.
            let decision = Box::pin(self.server.gateway.connect(&self.from, asked));
            match unless_reset(&mut to, decision).await {
                Some(opened) => opened,
                None => return,
            }
        };
        match opened {
            Ok(tunnel) => {
                if let Ok(send) = to.send_response(Response::new(()), false) {
                    tunnel.run(Stream::new(receive, send, ()), Vec::new()).await;
                }
            }
            Err(problem) => self.say(to, &Method::CONNECT, problem.into_response()).await,
        }
    }

    /// Every method but CONNECT: for the relay. There is no switching of protocols in HTTP/2.
    async fn other(&self, mut request: Request<RecvStream>, mut to: SendResponse<Bytes>) {
        let method = request.method().clone();
        fields::join_cookies(request.headers_mut());
        let interims = Interims::default();
        request.extensions_mut().insert(interims.clone());
        let request = RelayRequest::new(request.map(ClientBody::Http2), None);
        let response = self.answer_after_interims(request, &interims, &mut to).await;
        if let Some(response) = response {
            pass(&mut to, interims.take());
            self.say(to, &method, response).await;
        }
    }

    /// The answer, once it is there; interim ones go out meanwhile. `None` where the client is gone.
    async fn answer_after_interims(
        &self,
        request: RelayRequest<'_>,
        interims: &Interims,
        to: &mut SendResponse<Bytes>,
    ) -> Option<Response<ResponseBody>> {
        let mut answer = Box::pin(self.server.gateway.relay(&self.from, request));
        loop {
            let came_or_answer = async {
                tokio::select! {
                    biased;
                    came = interims.next() => Either::Left(came),
                    response = &mut answer => Either::Right(response),
                }
            };
            match unless_reset(to, came_or_answer).await? {
                Either::Left(came) => pass(to, came),
                Either::Right(response) => return Some(response),
            }
        }
    }

    /// Sends an answer; without its body where the method forbids one (RFC 9110, section 9.3.2).
    async fn say<B>(&self, to: SendResponse<Bytes>, method: &Method, response: Response<B>)
    where
        B: Body<Data = Bytes, Error: Into<BodyError>>,
    {
        let mut response = response.map(Either::Left);
        if method == Method::HEAD && !response.body().is_end_stream() {
            if let Some(length) = response.body().size_hint().exact() {
                response.headers_mut().insert(CONTENT_LENGTH, length.into());
            }
            *response.body_mut() = Either::Right(Empty::new());
        }
        if let Err(error) = respond(to, response, self.stall).await {
            tracing::debug!(%error, "a client did not take its answer");
        }
    }
}

/// Sends interim answers (RFC 9113, section 8.1). One that cannot be sent is none that the client
/// needs.
fn pass(to: &mut SendResponse<Bytes>, interims: Vec<Interim>) {
    for Interim { status, headers } in interims {
        let mut head = Response::new(());
        *head.status_mut() = status;
        *head.headers_mut() = headers;
        if let Err(error) = to.send_informational(head) {
            tracing::debug!(%error, "an interim answer was not sent");
        }
    }
}

/// Waits for a decision, but not longer than the client does: when it resets the stream, the
/// look-ups and connection attempts for it end too.
async fn unless_reset<T>(
    to: &mut SendResponse<Bytes>,
    decision: impl Future<Output = T>,
) -> Option<T> {
    tokio::select! {
        biased;
        _ = poll_fn(|cx| to.poll_reset(cx)) => None,
        decided = decision => Some(decided),
    }
}

/// `:authority` of a CONNECT request that has neither scheme nor path. One with `:protocol`
/// (RFC 8441) has both.
fn connect_target(head: &http::request::Parts) -> Result<String, Refusal> {
    let uri = &head.uri;
    if let (Some(authority), None, None) = (uri.authority(), uri.scheme(), uri.path_and_query()) {
        return Ok(authority.as_str().to_owned());
    }
    let detail = "CONNECT takes an authority and nothing else";
    Err(Refusal::new(Cause::AuthorityInvalid, detail))
}
