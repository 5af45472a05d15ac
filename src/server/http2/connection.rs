//! One HTTP/2 connection: its settings, its streams' number, and when it ends.

use std::{
    future::{pending, poll_fn},
    pin::pin,
    sync::Arc,
    task::Poll,
    time::Duration,
};

use bytes::Bytes;
use h2::{
    RecvStream,
    server::{Builder, Connection, SendResponse},
};
use http::Request;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::watch,
    time::{Instant, sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::multiplex::{Patience, Wire, until_silent};

/// Streams that a client may have open at once on one connection, and tasks that serve them.
const STREAMS_MAX: u16 = 256;

/// Streams that a client may have reset before they were looked at (CVE-2023-44487, rapid reset).
const RESETS_MAX: usize = 32;

/// Streams that we may have reset because the client broke the rules (CVE-2025-8671).
const LOCAL_RESETS_MAX: usize = 64;

/// What a client has sent before it hears of our reset is no fault of its own: so many reset
/// streams are remembered for so long, and late frames for them are ignored.
const REMEMBERED_RESETS_MAX: usize = 256;
const REMEMBERED_RESETS_DURATION: Duration = Duration::from_secs(10);

/// Bytes of one stream that a client may send before the target has taken any.
const STREAM_WINDOW_BYTES: u32 = 256 * 1024;

/// Bytes of all streams together.
const CONNECTION_WINDOW_BYTES: u32 = 1024 * 1024;

/// Bytes of one stream that wait for the client's socket. What is behind them waits at its source.
const SEND_BUFFER_BYTES: usize = 64 * 1024;

/// How long a client may be silent before it is asked whether it is still there, and then.
const PATIENCE: Patience =
    Patience { unasked: Duration::from_secs(30), asked: Duration::from_secs(20) };

/// After this time a client is asked to open another connection, so that none outlives a change of
/// the listener's certificate or of a balancer in front for long. Open streams finish.
const LIFETIME_MAX: Duration = Duration::from_hours(1);

/// How long a client may take to acknowledge that we go away, once no stream is open.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(5);

/// How long cut streams may take to tell the client so: less than a cut process waits.
const CUT_TIMEOUT: Duration = Duration::from_millis(500);

/// The time limits of a connection.
#[derive(Clone, Debug)]
pub(super) struct Rules {
    /// Bytes of one head.
    header_bytes: usize,
    /// From the connection's beginning to its first request.
    pub(super) first: Duration,
    /// Without an open stream, later on.
    pub(super) idle: Duration,
    pub(super) patience: Patience,
    pub(super) lifetime: Duration,
    leave: Duration,
}

impl Rules {
    /// The configurable limits, beside those that are the same everywhere.
    pub(super) fn new(header_bytes: usize, first: Duration, idle: Duration) -> Self {
        Self {
            header_bytes,
            first,
            idle,
            patience: PATIENCE,
            lifetime: LIFETIME_MAX,
            leave: LEAVE_TIMEOUT,
        }
    }
}

/// What ends a connection from outside.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ends<'a> {
    /// The client is asked to go away; its streams finish.
    pub(super) drain: &'a CancellationToken,
    /// Everything ends now.
    pub(super) cut: &'a CancellationToken,
}

/// Runs a connection to its end; `serve` gets each stream, in a task of its own. When this returns
/// the streams that are left hear that their connection is gone.
pub(super) async fn run<S, F, T>(
    wire: Wire<S>,
    rules: &Rules,
    ends: Ends<'_>,
    tasks: &TaskTracker,
    serve: F,
) where
    S: AsyncRead + AsyncWrite + Unpin,
    F: Fn(Request<RecvStream>, SendResponse<Bytes>) -> T,
    T: Future<Output = ()> + Send + 'static,
{
    let heard = wire.heard();
    let handshake = builder(rules).handshake(wire);
    let result = match timeout(rules.first, handshake).await {
        Ok(Ok(mut connection)) => {
            let mut pings = connection.ping_pong();
            let silent = async {
                match &mut pings {
                    Some(pings) => {
                        until_silent(pings, &heard, rules.patience, pending, |_| ()).await;
                    }
                    None => pending().await,
                }
            };
            hold(connection, silent, rules, ends, |request, to, open| {
                let serving = serve(request, to);
                tasks.spawn(async move {
                    serving.await;
                    drop(open);
                });
            })
            .await
        }
        Ok(Err(error)) => Err(error),
        Err(_) => return,
    };
    if let Err(error) = result {
        tracing::debug!(%error, "an HTTP/2 connection ended with an error");
    }
}

/// Keeps a connection moving until it ends by itself or for one of the reasons to end it.
async fn hold<S>(
    mut connection: Connection<Wire<S>, Bytes>,
    silent: impl Future<Output = ()>,
    rules: &Rules,
    ends: Ends<'_>,
    serve: impl Fn(Request<RecvStream>, SendResponse<Bytes>, Open),
) -> Result<(), h2::Error>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let streams = Streams::new();
    let mut silent = pin!(silent);
    let mut old = pin!(sleep(rules.lifetime));
    let mut leaving = false;
    loop {
        let limit = match (leaving, streams.was_used()) {
            // What its finished streams have left to send may take as long as a tunnel may stall.
            (true, _) if connection.has_streams() => rules.idle,
            (true, _) => rules.leave,
            (false, false) => rules.first,
            (false, true) => rules.idle,
        };
        tokio::select! {
            accepted = accept(&mut connection, &streams) => {
                let Some(accepted) = accepted else { return Ok(()) };
                let (request, to, open) = accepted?;
                serve(request, to, open);
                continue;
            }
            () = &mut silent => return Ok(()),
            () = ends.cut.cancelled() => return flush(&mut connection, &streams).await,
            () = streams.quiet_for(limit) => if leaving {
                return Ok(());
            },
            () = ends.drain.cancelled(), if !leaving => {}
            () = &mut old, if !leaving => {}
        }
        leaving = true;
        streams.touch();
        connection.graceful_shutdown();
    }
}

fn builder(rules: &Rules) -> Builder {
    let mut builder = Builder::new();
    builder
        .max_concurrent_streams(STREAMS_MAX.into())
        .max_header_list_size(u32::try_from(rules.header_bytes).unwrap_or(u32::MAX))
        .max_pending_accept_reset_streams(RESETS_MAX)
        .max_local_error_reset_streams(Some(LOCAL_RESETS_MAX))
        .max_concurrent_reset_streams(REMEMBERED_RESETS_MAX)
        .reset_stream_duration(REMEMBERED_RESETS_DURATION)
        .initial_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_send_buffer_size(SEND_BUFFER_BYTES);
    builder
}

/// A stream that begins.
type Accepted = (Request<RecvStream>, SendResponse<Bytes>, Open);

/// Moves the connection on until a stream begins; `None` at the connection's end.
///
/// A stream that the client resets no longer counts for HTTP/2, while its task may still run. As
/// long as there are too many tasks none is accepted: the client's resets then pile up where
/// `RESETS_MAX` ends them.
async fn accept<S>(
    connection: &mut Connection<Wire<S>, Bytes>,
    streams: &Arc<Streams>,
) -> Option<Result<Accepted, h2::Error>>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    tokio::select! {
        biased;
        () = streams.at_most(usize::from(STREAMS_MAX).saturating_sub(1)) => {}
        closed = poll_fn(|cx| connection.poll_closed(cx)) => return closed.err().map(Err),
    }
    let accepted = connection.accept().await?;
    Some(accepted.map(|(request, to)| (request, to, Open::begin(streams))))
}

/// Lets cut streams tell the client that they were.
async fn flush<S>(
    connection: &mut Connection<Wire<S>, Bytes>,
    streams: &Streams,
) -> Result<(), h2::Error>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut ended = pin!(streams.at_most(0));
    let flushed = poll_fn(|cx| {
        // In this order: what the last stream had to say is on its way when this is ready.
        let ended = ended.as_mut().poll(cx);
        match connection.poll_closed(cx) {
            Poll::Ready(closed) => Poll::Ready(closed),
            Poll::Pending => ended.map(Ok),
        }
    });
    timeout(CUT_TIMEOUT, flushed).await.unwrap_or(Ok(()))
}

/// How busy a connection is.
#[derive(Debug)]
struct Streams(watch::Sender<Busy>);

#[derive(Clone, Copy, Debug)]
struct Busy {
    open: usize,
    used: bool,
    /// When a stream last began or ended.
    changed: Instant,
}

impl Streams {
    fn new() -> Arc<Self> {
        let busy = Busy { open: 0, used: false, changed: Instant::now() };
        Arc::new(Self(watch::Sender::new(busy)))
    }

    fn was_used(&self) -> bool {
        self.0.borrow().used
    }

    /// Begins the quiet time anew.
    fn touch(&self) {
        self.0.send_modify(|busy| busy.changed = Instant::now());
    }

    /// Ready while no more than `count` streams are open.
    async fn at_most(&self, count: usize) {
        // The sender lives as long as `self`.
        let mut busy = self.0.subscribe();
        let _busy = busy.wait_for(|busy| busy.open <= count).await;
    }

    /// Ready once no stream has been open for `limit`.
    async fn quiet_for(&self, limit: Duration) {
        loop {
            self.at_most(0).await;
            let rest = limit.saturating_sub(self.0.borrow().changed.elapsed());
            if rest.is_zero() {
                return;
            }
            sleep(rest).await;
        }
    }
}

/// A stream that is under way.
#[derive(Debug)]
struct Open(Arc<Streams>);

impl Open {
    fn begin(streams: &Arc<Streams>) -> Self {
        streams.0.send_modify(|busy| {
            busy.open = busy.open.saturating_add(1);
            busy.used = true;
            busy.changed = Instant::now();
        });
        Self(Arc::clone(streams))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.0.send_modify(|busy| {
            busy.open = busy.open.saturating_sub(1);
            busy.changed = Instant::now();
        });
    }
}
