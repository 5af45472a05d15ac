//! One connection of a connector, from its introduction to its end.

use std::{
    future::poll_fn,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    task::Poll,
    time::Duration,
};

use bytes::Bytes;
use h2::{
    PingPong,
    client::{Builder, Connection, SendRequest},
};
use http::{Method, Request, StatusCode, Uri};
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

use super::{
    super::{
        CONNECTION_WINDOW_BYTES, FRAME_BYTES_MAX, HEAD_BYTES_MAX, PATIENCE, SEND_BUFFER_BYTES,
        STREAM_WINDOW_BYTES, STREAMS_MAX, TLS_BUFFER_BYTES, reply::Refused,
    },
    ConnectorStream, Connectors,
};
use crate::{
    multiplex::{Heard, Stream, Wire, ask, until_silent},
    tunnel::error::TunnelError,
};

/// How long a stream may take to open: longer than the customer's end takes to give up.
const OPEN_TIMEOUT: Duration = Duration::from_secs(15);

/// What a gateway that stops asks for, so that its connectors dial its successor.
pub(in super::super) const LEAVING: &str = "https://connector/leaving";

/// How long a connector may take to answer that.
const LEAVING_TIMEOUT: Duration = Duration::from_secs(2);

/// A peer that is known and was welcomed.
pub(super) struct Introduced {
    pub(super) name: String,
    pub(super) spki: String,
    pub(super) instance: String,
    pub(super) program: String,
    pub(super) peer: SocketAddr,
    pub(super) stream: TlsStream<TcpStream>,
}

/// A connection that takes streams.
pub(super) struct Link {
    pub(super) id: u64,
    pub(super) name: String,
    pub(super) spki: String,
    instance: String,
    requests: SendRequest<Bytes>,
    streams: Arc<AtomicUsize>,
    /// Microseconds; 0 while none was measured.
    round_trip: AtomicU64,
    /// The connector goes away: what is open ends, and nothing new begins.
    closing: AtomicBool,
    /// Ends it at once.
    pub(super) cut: CancellationToken,
}

type Wired = Connection<Wire<TlsStream<TcpStream>>, Bytes>;

/// One stream, counted for as long as it lives.
#[derive(Debug)]
pub struct Counted(Arc<AtomicUsize>);

/// Why a connection gave no stream.
pub(super) enum NotOpened {
    /// The connection is lost or full; nothing was sent to the address.
    TryAnother(TunnelError),
    /// Another one would say the same.
    Final(TunnelError),
}

static LINKS: AtomicU64 = AtomicU64::new(0);

impl Counted {
    fn begin(streams: &Arc<AtomicUsize>) -> Self {
        streams.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(streams))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Link {
    /// Streams that are open or being opened.
    pub(super) fn streams(&self) -> usize {
        self.streams.load(Ordering::Relaxed)
    }

    /// The round trip that was measured last.
    pub(super) fn round_trip(&self) -> Option<Duration> {
        let micros = self.round_trip.load(Ordering::Relaxed);
        (micros > 0).then(|| Duration::from_micros(micros))
    }

    /// Whether it takes new streams.
    pub(super) fn is_open(&self) -> bool {
        !self.closing.load(Ordering::Relaxed)
    }

    /// Moves the connection on, and looks each time whether the connector goes away (GOAWAY): h2
    /// says so only to who asks.
    async fn drive(&self, connection: &mut Wired) -> Result<(), h2::Error> {
        let mut requests = self.requests.clone();
        poll_fn(|cx| {
            let ended = Pin::new(&mut *connection).poll(cx);
            if let Poll::Ready(Err(_)) = requests.poll_ready(cx) {
                self.closing.store(true, Ordering::Relaxed);
            }
            ended
        })
        .await
    }

    fn note_round_trip(&self, round_trip: Duration) {
        let micros = u64::try_from(round_trip.as_micros()).unwrap_or(u64::MAX);
        self.round_trip.store(micros.max(1), Ordering::Relaxed);
    }

    /// Whether it comes from the same process, which then holds the other one for lost.
    pub(super) fn replaces(&self, other: &Self) -> bool {
        !self.instance.is_empty() && (&self.spki, &self.instance) == (&other.spki, &other.instance)
    }

    /// Opens a stream.
    pub(super) async fn open(&self, to: SocketAddr) -> Result<ConnectorStream, NotOpened> {
        let counted = Counted::begin(&self.streams);
        if self.streams() > usize::from(STREAMS_MAX) {
            return Err(NotOpened::TryAnother(Refused::Busy.into()));
        }
        let opened = tokio::select! {
            () = self.cut.cancelled() => return Err(lost()),
            opened = timeout(OPEN_TIMEOUT, self.ask(to)) => opened,
        };
        let (response, send) = match opened {
            Ok(Ok(opened)) => opened,
            Ok(Err(error)) => return Err(not_answered(&error)),
            Err(_) => return Err(NotOpened::Final(TunnelError::Timeout)),
        };
        if response.status() == StatusCode::OK {
            return Ok(Stream::new(response.into_body(), send, counted));
        }
        Err(match Refused::read(&response) {
            Some(Refused::Busy) => NotOpened::TryAnother(Refused::Busy.into()),
            Some(refused) => NotOpened::Final(refused.into()),
            None => NotOpened::Final(TunnelError::Protocol(format!(
                "the connector answers a stream with status {}",
                response.status().as_u16()
            ))),
        })
    }

    async fn ask(
        &self,
        to: SocketAddr,
    ) -> Result<(http::Response<h2::RecvStream>, h2::SendStream<Bytes>), h2::Error> {
        let mut requests = self.requests.clone().ready().await?;
        let mut request = Request::new(());
        *request.method_mut() = Method::CONNECT;
        // An address and a port are always an authority.
        *request.uri_mut() = to.to_string().parse::<Uri>().unwrap_or_default();
        let (answer, send) = requests.send_request(request, false)?;
        Ok((answer.await?, send))
    }
}

fn lost() -> NotOpened {
    NotOpened::TryAnother(TunnelError::Unreachable("the connector's connection was lost".into()))
}

/// What it means that a stream has no answer. Where nothing was sent, or nothing was looked at,
/// another connection may do.
fn not_answered(error: &h2::Error) -> NotOpened {
    if error.is_reset() && error.is_remote() && error.reason() != Some(h2::Reason::REFUSED_STREAM) {
        let text = "the connector resets a stream that it has not answered";
        return NotOpened::Final(TunnelError::Protocol(text.into()));
    }
    lost()
}

/// Speaks HTTP/2 over the connection until it ends or is cut.
pub(super) async fn hold(connectors: Arc<Connectors>, introduced: Introduced) {
    let (name, peer) = (introduced.name.clone(), introduced.peer);
    let program = introduced.program.clone();
    let Some(mut standing) = stand(&connectors, introduced).await else { return };
    connectors.register(&standing.link);
    let spki = standing.link.spki.clone();
    connectors.saw(vec![spki.clone()]).await;
    tracing::info!(connector = name, %peer, program, "a connector is connected");
    let why = keep(&connectors, &mut standing).await;
    connectors.unregister(&standing.link);
    tracing::info!(connector = name, %peer, reason = why, "a connector is gone");
    // Streams hear of the end before the store does.
    drop(standing);
    connectors.saw(vec![spki]).await;
}

/// A connection whose other end has shown that it speaks HTTP/2.
struct Standing {
    link: Arc<Link>,
    connection: Wired,
    pings: PingPong,
    heard: Heard,
}

async fn stand(connectors: &Connectors, mut introduced: Introduced) -> Option<Standing> {
    introduced.stream.get_mut().1.set_buffer_limit(Some(TLS_BUFFER_BYTES));
    let wire = Wire::new(Bytes::new(), introduced.stream);
    let heard = wire.heard();
    let (requests, mut connection) = builder().handshake(wire).await.ok()?;
    let mut pings = connection.ping_pong()?;
    // The first round trip also brings the connector's settings.
    let round_trip = tokio::select! {
        _ = &mut connection => None,
        () = connectors.cut.cancelled() => None,
        round_trip = ask(&mut pings, &heard, PATIENCE) => round_trip,
    };
    let link = Link {
        id: LINKS.fetch_add(1, Ordering::Relaxed),
        name: introduced.name,
        spki: introduced.spki,
        instance: introduced.instance,
        requests,
        streams: Arc::default(),
        round_trip: AtomicU64::new(0),
        closing: AtomicBool::new(false),
        cut: connectors.cut.child_token(),
    };
    let Some(round_trip) = round_trip else {
        tracing::warn!(connector = link.name, "a connector does not speak HTTP/2");
        return None;
    };
    link.note_round_trip(round_trip);
    Some(Standing { link: Arc::new(link), connection, pings, heard })
}

/// Keeps it moving; why it ended.
async fn keep(connectors: &Connectors, standing: &mut Standing) -> &'static str {
    let Standing { link, connection, pings, heard } = standing;
    let note = |round_trip| link.note_round_trip(round_trip);
    let silent = until_silent(pings, heard, PATIENCE, std::future::pending, note);
    let mut silent = std::pin::pin!(silent);
    let ended = |result: Result<(), h2::Error>| if result.is_ok() { "closed" } else { "lost" };
    let mut asked = std::pin::pin!(async {
        connectors.leave.cancelled().await;
        ask_to_leave(link.requests.clone()).await;
    });
    let mut has_asked = false;
    let mut driven = std::pin::pin!(link.drive(connection));
    loop {
        tokio::select! {
            result = &mut driven => return ended(result),
            () = &mut silent => return "silent",
            () = link.cut.cancelled() => return "cut",
            // It goes on carrying what is under way while the connector dials the successor.
            () = &mut asked, if !has_asked => has_asked = true,
        }
    }
}

async fn ask_to_leave(requests: SendRequest<Bytes>) {
    let asked = async {
        let mut requests = requests.ready().await?;
        let mut request = Request::new(());
        *request.method_mut() = Method::POST;
        *request.uri_mut() = Uri::from_static(LEAVING);
        requests.send_request(request, true)?.0.await
    };
    if !matches!(timeout(LEAVING_TIMEOUT, asked).await, Ok(Ok(_))) {
        tracing::debug!("a connector was not told that we leave");
    }
}

fn builder() -> Builder {
    let mut builder = Builder::new();
    builder
        .enable_push(false)
        .initial_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_frame_size(FRAME_BYTES_MAX)
        .max_header_list_size(HEAD_BYTES_MAX)
        .max_send_buffer_size(SEND_BUFFER_BYTES);
    builder
}
