//! A real HTTP/2 client against the server side, over pipes in memory.

use std::{
    convert::Infallible,
    future::{pending, poll_fn},
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use h2::{
    Ping, PingPong, Reason, RecvStream, SendStream,
    client::{ResponseFuture, SendRequest},
    server::SendResponse,
};
use http::{HeaderMap, Request, Response};
use http_body_util::Full;
use hyper::body::{Body, Frame};
use tokio::{
    io::{AsyncReadExt as _, AsyncWrite as _, AsyncWriteExt as _, DuplexStream, duplex},
    sync::mpsc,
    task::JoinHandle,
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    connection::{Ends, Rules, run},
    respond::{Unsent, respond},
};
use crate::{
    forward::connect::ClientStream as _,
    multiplex::{Patience, Stream, Wire},
};

const LONG: Duration = Duration::from_secs(30);

/// A server whose streams a test serves, and a client of it.
struct Lab {
    requests: SendRequest<Bytes>,
    pings: PingPong,
    drain: CancellationToken,
    cut: CancellationToken,
    /// Ends when the server is through with the connection.
    server: JoinHandle<()>,
}

impl Lab {
    async fn new<T>(
        serve: impl Fn(Request<RecvStream>, SendResponse<Bytes>) -> T + Send + Sync + 'static,
    ) -> Self
    where
        T: Future<Output = ()> + Send + 'static,
    {
        Self::with(&rules(), &h2::client::Builder::new(), serve).await
    }

    async fn with<T>(
        rules: &Rules,
        client: &h2::client::Builder,
        serve: impl Fn(Request<RecvStream>, SendResponse<Bytes>) -> T + Send + Sync + 'static,
    ) -> Self
    where
        T: Future<Output = ()> + Send + 'static,
    {
        let (near, far) = duplex(64 * 1024);
        let (drain, cut) = (CancellationToken::new(), CancellationToken::new());
        let server = serving(far, rules, (&drain, &cut), serve);
        let (requests, mut connection) = client.handshake(near).await.unwrap();
        let pings = connection.ping_pong().unwrap();
        TaskTracker::new().spawn(connection);
        Self { requests, pings, drain, cut, server }
    }

    /// A server that hands each CONNECT's stream to `carry`.
    async fn tunnels<T>(carry: impl Fn(Stream) -> T + Clone + Send + Sync + 'static) -> Self
    where
        T: Future<Output = ()> + Send + 'static,
    {
        Self::new(move |request, to| tunnel(carry.clone(), request, to)).await
    }

    async fn send(&self) -> (ResponseFuture, SendStream<Bytes>) {
        let request =
            Request::builder().method("CONNECT").uri("acme.example:443").body(()).unwrap();
        let mut requests = self.requests.clone().ready().await.unwrap();
        requests.send_request(request, false).unwrap()
    }

    async fn open(&self) -> (SendStream<Bytes>, RecvStream) {
        let (response, up) = self.send().await;
        (up, within(response).await.unwrap().into_body())
    }

    /// Returns once the server has read all that was sent before, and its answers have arrived.
    async fn round_trip(&mut self) {
        within(self.pings.ping(Ping::opaque())).await.unwrap();
    }

    async fn ended(self) {
        within(self.server).await.unwrap();
    }
}

fn rules() -> Rules {
    Rules::new(16 * 1024, LONG, LONG)
}

fn serving<T>(
    socket: DuplexStream,
    rules: &Rules,
    (drain, cut): (&CancellationToken, &CancellationToken),
    serve: impl Fn(Request<RecvStream>, SendResponse<Bytes>) -> T + Send + Sync + 'static,
) -> JoinHandle<()>
where
    T: Future<Output = ()> + Send + 'static,
{
    let (rules, drain, cut) = (rules.clone(), drain.clone(), cut.clone());
    TaskTracker::new().spawn(async move {
        let ends = Ends { drain: &drain, cut: &cut };
        run(Wire::new(Bytes::new(), socket), &rules, ends, &TaskTracker::new(), serve).await;
    })
}

async fn tunnel<T: Future<Output = ()>>(
    carry: impl Fn(Stream) -> T,
    request: Request<RecvStream>,
    mut to: SendResponse<Bytes>,
) {
    let send = to.send_response(Response::new(()), false).unwrap();
    drop(to);
    carry(Stream::new(request.into_body(), send, ())).await;
}

async fn echo(stream: Stream) {
    let (mut read, mut write) = tokio::io::split(stream);
    tokio::io::copy(&mut read, &mut write).await.unwrap();
    write.shutdown().await.unwrap();
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    timeout(LONG, future).await.expect("it takes for ever")
}

/// Everything until the end, or the reason of the reset.
async fn take(down: &mut RecvStream) -> Result<Vec<u8>, Option<Reason>> {
    let mut all = Vec::new();
    while let Some(bytes) = within(down.data()).await {
        let bytes = bytes.map_err(|error| error.reason())?;
        down.flow_control().release_capacity(bytes.len()).unwrap();
        all.extend_from_slice(&bytes);
    }
    Ok(all)
}

/// Sends as the windows allow.
async fn send_all(up: &mut SendStream<Bytes>, mut bytes: Bytes) {
    while !bytes.is_empty() {
        up.reserve_capacity(bytes.len());
        let room = within(poll_fn(|cx| up.poll_capacity(cx))).await.unwrap().unwrap();
        up.send_data(bytes.split_to(room.min(bytes.len())), false).unwrap();
    }
}

fn noise(length: usize) -> Bytes {
    (0..length).map(|i| (i ^ (i >> 8) ^ (i >> 16)).to_le_bytes()[0]).collect::<Vec<_>>().into()
}

// the stream

#[tokio::test]
async fn a_reset_by_the_client_is_no_end_unless_it_says_that_all_is_well() {
    let (reads, mut read) = mpsc::unbounded_channel();
    let lab = Lab::tunnels(move |mut stream: Stream| {
        let reads = reads.clone();
        async move {
            let mut bytes = vec![0; 4];
            stream.read_exact(&mut bytes).await.unwrap();
            reads.send(Ok(4)).unwrap();
            let rest = stream.read_to_end(&mut bytes).await;
            reads.send(rest.map_err(|error| error.kind())).unwrap();
        }
    })
    .await;
    for (reason, expected) in [
        (Reason::CANCEL, Err(io::ErrorKind::ConnectionReset)),
        (Reason::INTERNAL_ERROR, Err(io::ErrorKind::ConnectionReset)),
        (Reason::CONNECT_ERROR, Err(io::ErrorKind::ConnectionReset)),
        (Reason::NO_ERROR, Ok(0)),
    ] {
        let (mut up, _down) = lab.open().await;
        up.send_data(Bytes::from_static(b"some"), false).unwrap();
        assert_eq!(within(read.recv()).await, Some(Ok(4)));
        up.send_reset(reason);
        assert_eq!(within(read.recv()).await, Some(expected), "{reason}");
    }
}

#[tokio::test]
async fn a_connection_that_breaks_is_a_reset_of_its_streams() {
    let (reads, mut read) = mpsc::unbounded_channel();
    let (near, far) = duplex(64 * 1024);
    let token = CancellationToken::new();
    let carry = move |mut stream: Stream| {
        let reads = reads.clone();
        async move {
            let rest = stream.read_to_end(&mut Vec::new()).await;
            reads.send(rest.map_err(|error| error.kind())).unwrap();
        }
    };
    let server = serving(far, &rules(), (&token, &token.clone()), move |request, to| {
        tunnel(carry.clone(), request, to)
    });
    let (requests, connection) = h2::client::handshake(near).await.unwrap();
    let connection = TaskTracker::new().spawn(connection);
    let request = Request::builder().method("CONNECT").uri("acme.example:443").body(()).unwrap();
    let mut requests = requests.ready().await.unwrap();
    let (response, _up) = requests.send_request(request, false).unwrap();
    within(response).await.unwrap();
    connection.abort();
    assert_eq!(within(read.recv()).await, Some(Err(io::ErrorKind::ConnectionReset)));
    within(server).await.unwrap();
}

#[tokio::test]
async fn a_reset_towards_the_client_says_connect_error() {
    let lab = Lab::tunnels(async |mut stream: Stream| {
        stream.read_u8().await.unwrap();
        stream.reset();
    })
    .await;
    let (mut up, mut down) = lab.open().await;
    up.send_data(Bytes::from_static(b"x"), false).unwrap();
    assert_eq!(take(&mut down).await, Err(Some(Reason::CONNECT_ERROR)));
}

#[tokio::test]
async fn a_stream_that_is_dropped_has_not_ended() {
    let lab =
        Lab::tunnels(async |mut stream: Stream| stream.write_all(b"half").await.unwrap()).await;
    let (_up, mut down) = lab.open().await;
    assert_eq!(take(&mut down).await, Err(Some(Reason::CANCEL)));
}

#[tokio::test]
async fn either_side_may_end_first_and_the_other_goes_on() {
    let (hears, mut heard) = mpsc::unbounded_channel();
    let lab = Lab::tunnels(move |mut stream: Stream| {
        let hears = hears.clone();
        async move {
            let mut rest = Vec::new();
            let client_first = stream.read_u8().await.unwrap() == b'c';
            if client_first {
                stream.read_to_end(&mut rest).await.unwrap();
            }
            stream.write_all(b"from the server").await.unwrap();
            stream.shutdown().await.unwrap();
            if !client_first {
                stream.read_to_end(&mut rest).await.unwrap();
            }
            hears.send(rest).unwrap();
        }
    })
    .await;
    let (mut up, mut down) = lab.open().await;
    up.send_data(Bytes::from_static(b"client first"), true).unwrap();
    assert_eq!(take(&mut down).await.unwrap(), b"from the server");
    assert_eq!(within(heard.recv()).await.unwrap(), b"lient first");

    let (mut up, mut down) = lab.open().await;
    up.send_data(Bytes::from_static(b"server first"), false).unwrap();
    assert_eq!(take(&mut down).await.unwrap(), b"from the server");
    up.send_data(Bytes::from_static(b", still here"), true).unwrap();
    assert_eq!(within(heard.recv()).await.unwrap(), b"erver first, still here");
}

#[tokio::test]
async fn a_writer_whose_reader_has_ended_still_hears_of_a_reset() {
    let (heard, mut hears) = mpsc::unbounded_channel();
    let lab = Lab::tunnels(move |mut stream: Stream| {
        let heard = heard.clone();
        async move {
            stream.read_to_end(&mut Vec::new()).await.unwrap();
            heard.send(None).unwrap();
            let error = poll_fn(|cx| match Pin::new(&mut stream).poll_flush(cx) {
                Poll::Ready(Err(error)) => Poll::Ready(error.kind()),
                Poll::Ready(Ok(())) | Poll::Pending => Poll::Pending,
            });
            heard.send(Some(error.await)).unwrap();
        }
    })
    .await;
    let (mut up, _down) = lab.open().await;
    up.send_data(Bytes::new(), true).unwrap();
    assert_eq!(within(hears.recv()).await, Some(None));
    up.send_reset(Reason::CANCEL);
    assert_eq!(within(hears.recv()).await, Some(Some(io::ErrorKind::ConnectionReset)));
}

#[tokio::test]
async fn trailers_in_a_tunnel_are_an_error() {
    let (reads, mut read) = mpsc::unbounded_channel();
    let lab = Lab::tunnels(move |mut stream: Stream| {
        let reads = reads.clone();
        async move {
            let rest = stream.read_to_end(&mut Vec::new()).await;
            reads.send(rest.map_err(|error| error.kind())).unwrap();
        }
    })
    .await;
    let (mut up, _down) = lab.open().await;
    up.send_trailers(HeaderMap::new()).unwrap();
    assert_eq!(within(read.recv()).await, Some(Err(io::ErrorKind::InvalidData)));
}

#[tokio::test]
async fn a_writer_waits_for_a_client_that_does_not_read() {
    let (stalls, mut stalled) = mpsc::unbounded_channel();
    let carry = move |mut stream: Stream| {
        let stalls = stalls.clone();
        async move {
            let bytes = noise(100_000);
            let mut at = 0;
            while at < bytes.len() {
                at += poll_fn(|cx| {
                    let written = Pin::new(&mut stream).poll_write(cx, &bytes[at..]);
                    if written.is_pending() {
                        stalls.send(at).unwrap();
                    }
                    written
                })
                .await
                .unwrap();
            }
            stream.shutdown().await.unwrap();
        }
    };
    let mut client = h2::client::Builder::new();
    client.initial_window_size(1000);
    let lab =
        Lab::with(&rules(), &client, move |request, to| tunnel(carry.clone(), request, to)).await;
    let (_up, mut down) = lab.open().await;
    assert_eq!(within(stalled.recv()).await, Some(1000));
    assert_eq!(take(&mut down).await.unwrap(), noise(100_000));
}

#[tokio::test]
async fn a_client_waits_for_a_reader_that_does_not_read() {
    const WINDOW: usize = 256 * 1024;
    let (go, gone) = (CancellationToken::new(), CancellationToken::new());
    let (told, done) = (go.clone(), gone.clone());
    let mut lab = Lab::tunnels(move |mut stream: Stream| {
        let (told, done) = (told.clone(), done.clone());
        async move {
            told.cancelled().await;
            let mut all = Vec::new();
            stream.read_to_end(&mut all).await.unwrap();
            assert_eq!(all, noise(WINDOW + 1000));
            done.cancel();
        }
    })
    .await;
    let (mut up, _down) = lab.open().await;
    let bytes = noise(WINDOW + 1000);
    send_all(&mut up, bytes.slice(..WINDOW)).await;
    lab.round_trip().await;
    lab.round_trip().await;
    up.reserve_capacity(1);
    poll_fn(|cx| {
        assert!(up.poll_capacity(cx).is_pending(), "more than the window was let in");
        Poll::Ready(())
    })
    .await;
    go.cancel();
    send_all(&mut up, bytes.slice(WINDOW..)).await;
    up.send_data(Bytes::new(), true).unwrap();
    within(gone.cancelled()).await;
}

#[tokio::test]
async fn much_flows_both_ways_at_once_and_arrives_whole() {
    let lab = Lab::tunnels(echo).await;
    let sent = noise(8 << 20);
    let streams = (0..3).map(|_| async {
        let (mut up, mut down) = lab.open().await;
        let send = async {
            send_all(&mut up, sent.clone()).await;
            up.send_data(Bytes::new(), true).unwrap();
        };
        let ((), received) = tokio::join!(send, take(&mut down));
        assert!(received.unwrap() == sent, "the bytes came back changed");
    });
    let mut streams = streams.map(Box::pin).collect::<Vec<_>>().into_iter();
    let (one, two, three) =
        (streams.next().unwrap(), streams.next().unwrap(), streams.next().unwrap());
    tokio::join!(one, two, three);
}

// the answer

async fn answered<B>(
    lab: &Lab,
    reports: &mut mpsc::UnboundedReceiver<B>,
) -> (Response<RecvStream>, SendStream<Bytes>, B) {
    let (response, up) = lab.send().await;
    let response = within(response).await.unwrap();
    let report = within(reports.recv()).await.unwrap();
    (response, up, report)
}

/// A server that answers with what `make` gives, and reports how that went.
async fn answering<B>(
    client: &h2::client::Builder,
    stall: Duration,
    make: impl Fn() -> Response<B> + Send + Sync + 'static,
) -> (Lab, mpsc::UnboundedReceiver<Result<(), Unsent<B::Error>>>)
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Send + 'static,
{
    let (reports, reported) = mpsc::unbounded_channel();
    let lab = Lab::with(&rules(), client, move |request, to| {
        let (answer, reports) = (make(), reports.clone());
        async move {
            let sent = respond(to, answer, stall).await;
            drop(reports.send(sent));
            drop(request);
        }
    })
    .await;
    (lab, reported)
}

fn frames(
    list: Vec<Result<Frame<Bytes>, io::Error>>,
) -> impl Body<Data = Bytes, Error = io::Error> {
    Listed(list.into_iter())
}

struct Listed(std::vec::IntoIter<Result<Frame<Bytes>, io::Error>>);

impl Body for Listed {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        Poll::Ready(self.0.next())
    }
}

#[tokio::test]
async fn an_answer_comes_with_its_length_and_its_end() {
    let client = h2::client::Builder::new();
    let (lab, mut reports) =
        answering(&client, LONG, || Response::new(Full::new(Bytes::from_static(b"whole")))).await;
    let (mut response, _up, report) = answered(&lab, &mut reports).await;
    report.unwrap();
    assert_eq!(response.headers()["content-length"], "5");
    assert_eq!(take(response.body_mut()).await.unwrap(), b"whole");

    let (lab, mut reports) =
        answering(&client, LONG, || Response::new(Full::new(Bytes::new()))).await;
    let (response, _up, report) = answered(&lab, &mut reports).await;
    report.unwrap();
    assert!(response.headers().is_empty());
    assert!(response.body().is_end_stream());
}

#[tokio::test]
async fn trailers_follow_the_body() {
    let (lab, mut reports) = answering(&h2::client::Builder::new(), LONG, || {
        let trailers = HeaderMap::from_iter([(http::header::ETAG, "late".parse().unwrap())]);
        let data = Frame::data(Bytes::from_static(b"data"));
        Response::new(frames(vec![Ok(data), Ok(Frame::trailers(trailers))]))
    })
    .await;
    let (mut response, _up, report) = answered(&lab, &mut reports).await;
    report.unwrap();
    assert_eq!(take(response.body_mut()).await.unwrap(), b"data");
    let trailers = within(response.body_mut().trailers()).await.unwrap().unwrap();
    assert_eq!(trailers["etag"], "late");
}

#[tokio::test]
async fn a_body_that_fails_is_never_taken_for_the_whole() {
    let (lab, mut reports) = answering(&h2::client::Builder::new(), LONG, || {
        let data = Frame::data(Bytes::from_static(b"data"));
        Response::new(frames(vec![Ok(data), Err(io::ErrorKind::TimedOut.into())]))
    })
    .await;
    let (response, _up) = lab.send().await;
    let report = within(reports.recv()).await.unwrap();
    assert!(matches!(report, Err(Unsent::Body(error)) if error.kind() == io::ErrorKind::TimedOut));
    let reason = match within(response).await {
        Ok(mut response) => take(response.body_mut()).await.unwrap_err(),
        Err(error) => error.reason(),
    };
    assert_eq!(reason, Some(Reason::INTERNAL_ERROR));
}

#[tokio::test]
async fn a_head_that_http2_forbids_is_a_reset() {
    let (lab, mut reports) = answering(&h2::client::Builder::new(), LONG, || {
        Response::builder().header("connection", "close").body(Full::new(Bytes::new())).unwrap()
    })
    .await;
    let (response, _up) = lab.send().await;
    let error = within(response).await.unwrap_err();
    assert_eq!(error.reason(), Some(Reason::INTERNAL_ERROR));
    assert!(matches!(within(reports.recv()).await, Some(Err(Unsent::Stream(_)))));
}

#[tokio::test]
async fn an_answer_stops_when_its_client_resets() {
    struct Never;
    impl Body for Never {
        type Data = Bytes;
        type Error = Infallible;
        fn poll_frame(
            self: Pin<&mut Self>,
            _cx: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            Poll::Pending
        }
    }
    let (lab, mut reports) =
        answering(&h2::client::Builder::new(), LONG, || Response::new(Never)).await;
    let (response, mut up) = lab.send().await;
    let _response = within(response).await.unwrap();
    up.send_reset(Reason::CANCEL);
    let report = within(reports.recv()).await.unwrap();
    assert!(
        matches!(&report, Err(Unsent::Stream(error)) if error.reason() == Some(Reason::CANCEL)),
        "{report:?}"
    );
}

#[tokio::test]
async fn an_answer_that_nobody_takes_is_given_up() {
    let mut client = h2::client::Builder::new();
    client.initial_window_size(0);
    let stall = Duration::from_millis(20);
    let (lab, mut reports) =
        answering(&client, stall, || Response::new(Full::new(Bytes::from_static(b"whole")))).await;
    let (mut response, _up, report) = answered(&lab, &mut reports).await;
    assert!(matches!(report, Err(Unsent::Stalled)), "{report:?}");
    assert_eq!(take(response.body_mut()).await, Err(Some(Reason::CANCEL)));
}

/// A body of one GiB that knows how much of it was taken.
struct Gigabyte {
    piece: Bytes,
    made: Arc<AtomicU64>,
}

const GIGABYTE: u64 = 1 << 30;

impl Body for Gigabyte {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.made.load(Ordering::Acquire) == GIGABYTE {
            return Poll::Ready(None);
        }
        self.made.fetch_add(u64::try_from(self.piece.len()).unwrap(), Ordering::AcqRel);
        Poll::Ready(Some(Ok(Frame::data(self.piece.clone()))))
    }
}

#[tokio::test]
async fn a_gigabyte_passes_without_being_held() {
    const PIECE: u64 = 256 * 1024;
    let made = Arc::new(AtomicU64::new(0));
    let shared = Arc::clone(&made);
    let (lab, mut reports) = answering(&h2::client::Builder::new(), LONG, move || {
        let piece = noise(usize::try_from(PIECE).unwrap());
        Response::new(Gigabyte { piece, made: Arc::clone(&shared) })
    })
    .await;
    let (response, _up) = lab.send().await;
    let mut down = within(response).await.unwrap().into_body();
    let (mut got, mut ahead_max) = (0, 0);
    while let Some(bytes) = within(down.data()).await {
        let bytes = bytes.unwrap();
        got += u64::try_from(bytes.len()).unwrap();
        ahead_max = ahead_max.max(made.load(Ordering::Acquire).saturating_sub(got));
        down.flow_control().release_capacity(bytes.len()).unwrap();
    }
    assert_eq!(got, GIGABYTE);
    within(reports.recv()).await.unwrap().unwrap();
    // One piece, the send buffer, the client's window and the pipe.
    assert!(ahead_max <= PIECE + 3 * 64 * 1024, "{ahead_max} bytes were held");
}

// the connection

#[tokio::test]
async fn a_connection_that_asks_for_nothing_ends() {
    let mut rules = rules();
    rules.first = Duration::from_millis(20);
    let lab = Lab::with(&rules, &h2::client::Builder::new(), async |_, _| ()).await;
    lab.ended().await;
    // Not even a preface.
    let (_near, far) = duplex(1024);
    let token = CancellationToken::new();
    within(serving(far, &rules, (&token, &token.clone()), async |_, _| ())).await.unwrap();
}

#[tokio::test]
async fn a_connection_without_streams_ends_and_one_with_a_stream_does_not() {
    let rules = Rules::new(16 * 1024, LONG, Duration::from_millis(20));
    let carry = |request, to| tunnel(echo, request, to);
    let mut lab = Lab::with(&rules, &h2::client::Builder::new(), carry).await;
    let (mut up, mut down) = lab.open().await;
    // Twice the limit, by the server's own clock or a slower one.
    assert!(timeout(rules.idle * 2, &mut lab.server).await.is_err());
    up.send_data(Bytes::from_static(b"here"), true).unwrap();
    assert_eq!(take(&mut down).await.unwrap(), b"here");
    lab.ended().await;
}

/// The client hears that it has to go elsewhere, and what is open finishes.
async fn assert_leaves(lab: Lab, (mut up, mut down): (SendStream<Bytes>, RecvStream)) {
    let mut requests = lab.requests.clone();
    let refused = poll_fn(|cx| match requests.poll_ready(cx) {
        Poll::Ready(Err(error)) => Poll::Ready(error),
        Poll::Ready(Ok(())) => {
            // Nothing wakes a client that is ready.
            cx.waker().wake_by_ref();
            Poll::Pending
        }
        Poll::Pending => Poll::Pending,
    });
    assert_eq!(within(refused).await.reason(), Some(Reason::NO_ERROR));
    up.send_data(Bytes::from_static(b"last"), true).unwrap();
    assert_eq!(take(&mut down).await.unwrap(), b"last");
    lab.ended().await;
}

#[tokio::test]
async fn a_drain_lets_streams_finish() {
    let lab = Lab::tunnels(echo).await;
    let stream = lab.open().await;
    lab.drain.cancel();
    assert_leaves(lab, stream).await;
}

#[tokio::test]
async fn an_old_connection_is_asked_to_go_away() {
    let mut rules = rules();
    rules.lifetime = Duration::from_millis(50);
    let carry = |request, to| tunnel(echo, request, to);
    let lab = Lab::with(&rules, &h2::client::Builder::new(), carry).await;
    let stream = lab.open().await;
    assert_leaves(lab, stream).await;
}

#[tokio::test]
async fn a_cut_stream_says_so_before_its_connection_ends() {
    let cut = CancellationToken::new();
    let seen = cut.clone();
    let mut lab = Lab::tunnels(move |stream: Stream| {
        let seen = seen.clone();
        async move {
            seen.cancelled().await;
            stream.reset();
        }
    })
    .await;
    let (_up, mut down) = lab.open().await;
    lab.round_trip().await;
    lab.cut.cancel();
    cut.cancel();
    assert_eq!(take(&mut down).await, Err(Some(Reason::CONNECT_ERROR)));
    lab.ended().await;
}

#[tokio::test]
async fn a_cut_connection_does_not_wait_for_its_streams() {
    let lab = Lab::tunnels(async |_stream| pending().await).await;
    let (_up, mut down) = lab.open().await;
    lab.cut.cancel();
    assert!(take(&mut down).await.is_err());
    lab.ended().await;
}

#[tokio::test]
async fn a_client_that_is_silent_is_asked_and_left() {
    let mut rules = rules();
    let (unasked, asked) = (Duration::from_millis(1), Duration::from_millis(300));
    rules.patience = Patience { unasked, asked };
    let (mut near, far) = duplex(64 * 1024);
    let token = CancellationToken::new();
    let server = serving(far, &rules, (&token, &token.clone()), async |_, _| ());
    near.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
    // SETTINGS, empty.
    near.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
    let mut answered = 0;
    while answered < 5 {
        let mut head = [0; 9];
        within(near.read_exact(&mut head)).await.unwrap();
        let length = usize::from(head[1]) << 8 | usize::from(head[2]);
        let mut payload = vec![0; length];
        within(near.read_exact(&mut payload)).await.unwrap();
        if head[3] == 6 {
            // PING: answered with ACK.
            head[4] = 1;
            near.write_all(&head).await.unwrap();
            near.write_all(&payload).await.unwrap();
            answered += 1;
        }
    }
    assert!(!server.is_finished());
    within(server).await.unwrap();
}

/// CVE-2023-44487, by a client that waits for each stream to begin.
#[tokio::test]
async fn tasks_that_outlive_their_streams_are_bounded_too() {
    let begun = Arc::new(AtomicUsize::new(0));
    let mut seen = 0;
    let counter = Arc::clone(&begun);
    let mut lab = Lab::new(move |request, to| {
        let counter = Arc::clone(&counter);
        async move {
            counter.fetch_add(1, Ordering::AcqRel);
            let _held = (request, to);
            pending::<()>().await;
        }
    })
    .await;
    for _ in 0..400 {
        let request =
            Request::builder().method("CONNECT").uri("acme.example:443").body(()).unwrap();
        let Ok(mut requests) = lab.requests.clone().ready().await else { break };
        let Ok((_response, mut up)) = requests.send_request(request, false) else { break };
        up.send_reset(Reason::CANCEL);
        if within(lab.pings.ping(Ping::opaque())).await.is_err() {
            break;
        }
        seen += 1;
    }
    let begun = begun.load(Ordering::Acquire);
    assert!(begun <= 256, "{begun} tasks at once");
    assert!((256..300).contains(&seen), "the connection ended after {seen} resets");
}
