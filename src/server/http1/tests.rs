//! A client's requests over one connection, through the guard and hyper, with real sockets.

#![expect(
    clippy::disallowed_methods,
    reason = "the client of these tests connects to loopback, and their tasks are their own"
)]

use std::{
    future::{pending, ready},
    io,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode, Version, header};
use http_body_util::{BodyExt as _, Full, combinators::UnsyncBoxBody};
use hyper::body::Frame;
use proptest::prelude::*;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream},
    net::{TcpListener, TcpStream},
    sync::{Notify, mpsc, oneshot},
    task::JoinHandle,
};

use super::*;
use crate::reason::Cause;

type AnyBody = UnsyncBoxBody<Bytes, io::Error>;

const PATIENCE: Patience = Patience {
    head_bytes: 4096,
    header_timeout: Duration::from_secs(20),
    idle_timeout: Duration::from_secs(20),
};

/// No test takes so long unless it fails.
const LIMIT: Duration = Duration::from_secs(15);

fn full(text: impl Into<Bytes>) -> AnyBody {
    Full::new(text.into()).map_err(|never| match never {}).boxed_unsync()
}

/// A body that the test feeds.
struct Fed(mpsc::UnboundedReceiver<io::Result<Frame<Bytes>>>);

impl Body for Fed {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        self.0.poll_recv(cx)
    }
}

/// Names the method, path and body of a request.
async fn echo(request: Request<Incoming>) -> Response<AnyBody> {
    let line = format!("{} {}", request.method(), request.uri());
    let wants_trailers = request.headers().contains_key(header::TE);
    let collected = match request.into_body().collect().await {
        Ok(collected) => collected,
        Err(error) => {
            let word = BodyFault::of(&error).map_or("gone", BodyFault::word);
            let mut response = Response::new(full(word));
            *response.status_mut() = StatusCode::BAD_REQUEST;
            return response;
        }
    };
    let trailers = collected.trailers().cloned();
    let body = collected.to_bytes();
    let text = format!("{line} [{}]", String::from_utf8_lossy(&body));
    let Some(trailers) = trailers else { return Response::new(full(text)) };
    let names: Vec<_> = trailers.keys().map(ToString::to_string).collect();
    let mut response = Response::new(with_trailers(text, trailers));
    if wants_trailers {
        let names = HeaderValue::from_str(&names.join(", ")).unwrap();
        response.headers_mut().insert(header::TRAILER, names);
    }
    response
}

/// A body of unknown length, and trailers.
fn with_trailers(text: String, trailers: HeaderMap) -> AnyBody {
    let (sender, receiver) = mpsc::unbounded_channel();
    sender.send(Ok(Frame::data(text.into()))).unwrap();
    sender.send(Ok(Frame::trailers(trailers))).unwrap();
    Fed(receiver).boxed_unsync()
}

/// A client's socket, and the connection that it opened being served.
struct Case {
    client: TcpStream,
    serving: JoinHandle<Ended<TcpStream>>,
    drain: CancellationToken,
}

async fn serving<F, R>(patience: Patience, service: F) -> Case
where
    F: Fn(Request<Incoming>) -> R + Send + 'static,
    R: Future<Output = Response<AnyBody>> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (client, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
    let drain = CancellationToken::new();
    let (stream, token) = (accepted.unwrap().0, drain.clone());
    let serving =
        tokio::spawn(
            async move { serve(stream, BytesMut::new(), patience, &token, service).await },
        );
    Case { client: client.unwrap(), serving, drain }
}

impl Case {
    async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.client.write_all(bytes.as_ref()).await.unwrap();
    }

    /// Reads until `end` came, and gives everything up to there.
    async fn read_to(&mut self, end: &str) -> String {
        read_to(&mut self.client, end).await
    }

    async fn ended(self) -> Ended<TcpStream> {
        tokio::time::timeout(LIMIT, self.serving).await.unwrap().unwrap()
    }
}

async fn read_to<S: AsyncRead + Unpin>(stream: &mut S, end: &str) -> String {
    let mut read = Vec::new();
    let reading = async {
        while !read.ends_with(end.as_bytes()) {
            let mut byte = [0];
            if stream.read(&mut byte).await.unwrap() == 0 {
                return false;
            }
            read.extend(byte);
        }
        true
    };
    let complete = tokio::time::timeout(LIMIT, reading).await;
    let text = String::from_utf8_lossy(&read).into_owned();
    assert!(matches!(complete, Ok(true)), "{complete:?}: {text:?} does not end with {end:?}");
    text
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: a.example\r\n\r\n")
}

fn is_closed(why: &Stop) -> bool {
    matches!(why, Stop::Closed)
}

/// Set when it is dropped.
struct DropFlag(Arc<Notify>);

impl Drop for DropFlag {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

// === messages ===

#[tokio::test]
async fn a_connection_is_kept_alive_and_ends_with_the_client() {
    let mut case = serving(PATIENCE, echo).await;
    for path in ["/1", "/2", "/3"] {
        case.send(get(path)).await;
        let answer = case.read_to("[]").await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        assert!(answer.ends_with(&format!("\r\n\r\nGET {path} []")), "{answer}");
    }
    case.client.shutdown().await.unwrap();
    assert!(is_closed(&case.ended().await.why));
}

#[tokio::test]
async fn a_head_that_was_read_before_is_the_first_request() {
    let (mut client, server) = tokio::io::duplex(1024);
    let first = BytesMut::from(format!("{}{}", get("/1"), get("/2")).as_str());
    let drain = CancellationToken::new();
    let serving = serve(server, first, PATIENCE, &drain, echo);
    let talking = async {
        read_to(&mut client, "GET /1 []").await;
        read_to(&mut client, "GET /2 []").await;
        drop(client);
    };
    let (ended, ()) = tokio::join!(serving, talking);
    assert!(is_closed(&ended.why));
}

#[tokio::test]
async fn ten_pipelined_requests_are_answered_in_order_one_at_a_time() {
    let running = Arc::new(AtomicUsize::new(0));
    let most = Arc::new(AtomicUsize::new(0));
    let counts = (Arc::clone(&running), Arc::clone(&most));
    let service = move |request: Request<Incoming>| {
        let (running, most) = (Arc::clone(&counts.0), Arc::clone(&counts.1));
        async move {
            most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            tokio::task::yield_now().await;
            let answer = echo(request).await;
            running.fetch_sub(1, Ordering::SeqCst);
            answer
        }
    };
    let mut case = serving(PATIENCE, service).await;
    let mut all = String::new();
    for index in 0..10 {
        let head = format!("POST /{index} HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n");
        all += &(head + &format!("{index:03}"));
    }
    case.send(all).await;
    for index in 0..10 {
        let answer = case.read_to("]").await;
        assert!(answer.ends_with(&format!("POST /{index} [{index:03}]")), "{answer}");
    }
    assert_eq!(most.load(Ordering::SeqCst), 1);
    drop(case.client);
    assert!(is_closed(&case.serving.await.unwrap().why));
}

#[tokio::test]
async fn pipelined_requests_before_the_clients_end_are_all_answered() {
    let mut case = serving(PATIENCE, echo).await;
    case.send(get("/1") + &get("/2") + &get("/3")).await;
    case.client.shutdown().await.unwrap();
    for path in ["/1", "/2", "/3"] {
        case.read_to(&format!("GET {path} []")).await;
    }
    assert!(is_closed(&case.ended().await.why));
}

#[tokio::test]
async fn more_than_is_held_waits_in_the_clients_own_buffer() {
    let (release, released) = oneshot::channel::<()>();
    let released = Mutex::new(Some(released));
    let service = move |request| {
        let released = released.lock().unwrap().take();
        async move {
            if let Some(released) = released {
                released.await.unwrap();
            }
            echo(request).await
        }
    };
    // a duplex holds no more than it is told to, so what was taken is what the guard holds
    let (mut client, server) = tokio::io::duplex(1);
    let drain = CancellationToken::new();
    let talking = async {
        client.write_all(get("/").as_bytes()).await.unwrap();
        let request = get(&format!("/{}", "x".repeat(1000)));
        let flood = request.repeat(100);
        let mut taken = 0;
        while let Ok(written) = tokio::time::timeout(
            Duration::from_millis(300),
            client.write(&flood.as_bytes()[taken..]),
        )
        .await
        {
            taken += written.unwrap();
        }
        assert!((64 * 1024..64 * 1024 + 2).contains(&taken), "{taken}");
        release.send(()).unwrap();
        read_to(&mut client, "GET / []").await;
        let (mut reader, mut writer) = tokio::io::split(client);
        let reading = async {
            for _ in 0..100 {
                read_to(&mut reader, "x []").await;
            }
        };
        let writing = async { writer.write_all(&flood.as_bytes()[taken..]).await.unwrap() };
        tokio::join!(reading, writing);
    };
    let serving = serve(server, BytesMut::new(), PATIENCE, &drain, service);
    let (ended, ()) = tokio::join!(serving, talking);
    assert!(is_closed(&ended.why));
}

#[tokio::test]
async fn a_body_that_waits_for_100_continue_is_asked_for() {
    let mut case = serving(PATIENCE, echo).await;
    let head = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n";
    case.send(head).await;
    assert_eq!(case.read_to("\r\n\r\n").await, "HTTP/1.1 100 Continue\r\n\r\n");
    case.send("hello").await;
    case.read_to("POST / [hello]").await;
    case.send(get("/next")).await;
    case.read_to("GET /next []").await;
}

fn hint(text: &str) -> HeaderMap {
    HeaderMap::from_iter([(header::LINK, HeaderValue::from_str(text).unwrap())])
}

#[tokio::test]
async fn interim_answers_come_whole_and_before_the_answer_however_slow_the_client() {
    let service = |mut request: Request<Incoming>| async move {
        let interims: Interims = request.extensions_mut().remove().unwrap();
        let mut body = request.into_body();
        // asks hyper for a 100, which it begins to write
        let polled = poll_fn(|cx| Poll::Ready(Pin::new(&mut body).poll_frame(cx))).await;
        assert!(polled.is_pending());
        tokio::task::yield_now().await;
        interims.add(StatusCode::EARLY_HINTS, &hint("1"));
        let body = body.collect().await.unwrap().to_bytes();
        interims.add(StatusCode::PROCESSING, &hint("2"));
        interims.add(StatusCode::from_u16(199).unwrap(), &HeaderMap::new());
        Response::new(full(body))
    };
    let head = "PUT / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n";
    for room in [1, 2, 10, 30, 1000] {
        let (mut client, server) = tokio::io::duplex(room);
        let drain = CancellationToken::new();
        let serving = serve(server, BytesMut::from(head), PATIENCE, &drain, service);
        let talking = async {
            for next in [head, ""] {
                let interims = read_to(&mut client, "link: 1\r\n\r\n").await;
                let hundred = "HTTP/1.1 100 Continue\r\n\r\n";
                assert_eq!(
                    interims,
                    format!("{hundred}HTTP/1.1 103 Early Hints\r\nlink: 1\r\n\r\n")
                );
                let (mut reader, mut writer) = tokio::io::split(&mut client);
                let next = format!("end{next}");
                let (rest, sent) = tokio::join!(
                    read_to(&mut reader, "\r\n\r\nend"),
                    writer.write_all(next.as_bytes()),
                );
                sent.unwrap();
                let interims = "HTTP/1.1 102 Processing\r\nlink: 2\r\n\r\nHTTP/1.1 199 \r\n\r\n";
                assert!(rest.starts_with(&format!("{interims}HTTP/1.1 200 OK\r\n")), "{rest}");
            }
            drop(client);
        };
        tokio::time::timeout(LIMIT, async { tokio::join!(serving, talking) }).await.unwrap();
    }
}

#[tokio::test]
async fn a_client_of_http_1_0_has_no_place_for_interim_answers() {
    let service = |request: Request<Incoming>| async move {
        let there = request.extensions().get::<Interims>().is_some();
        Response::new(full(format!("{there}")))
    };
    let mut case = serving(PATIENCE, service).await;
    case.send(get("/")).await;
    case.read_to("true").await;
    case.send("GET / HTTP/1.0\r\n\r\n").await;
    case.read_to("false").await;
}

#[tokio::test]
async fn a_client_that_does_not_read_interim_answers_is_given_up() {
    let patience = Patience { idle_timeout: Duration::from_millis(50), ..PATIENCE };
    let (mut client, server) = tokio::io::duplex(100);
    let drain = CancellationToken::new();
    let service = |request: Request<Incoming>| async move {
        let interims: &Interims = request.extensions().get().unwrap();
        interims.add(StatusCode::EARLY_HINTS, &hint(&"x".repeat(1000)));
        pending::<Response<AnyBody>>().await
    };
    client.write_all(get("/").as_bytes()).await.unwrap();
    let serving = serve(server, BytesMut::new(), patience, &drain, service);
    let ended = tokio::time::timeout(LIMIT, serving).await.unwrap();
    assert!(matches!(ended.why, Stop::Broken));
    drop(client);
}

#[tokio::test]
async fn chunked_bodies_and_trailers_pass_both_ways() {
    let mut case = serving(PATIENCE, echo).await;
    let head = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTE: trailers\r\n\r\n";
    case.send(head).await;
    for piece in ["5;x=y\r", "\nhel", "lo\r\n7\r\n, world\r\n0\r", "\nX-Sum: 12\r\n"] {
        case.send(piece).await;
        tokio::task::yield_now().await;
    }
    case.send("\r\n").await;
    let answer = case.read_to("x-sum: 12\r\n\r\n").await;
    assert!(answer.contains("\r\ntrailer: x-sum\r\n"), "{answer}");
    assert!(answer.contains("POST / [hello, world]\r\n0\r\n"), "{answer}");
    case.send(get("/next")).await;
    case.read_to("GET /next []").await;
}

#[tokio::test]
async fn trailers_that_nobody_asked_for_do_not_spoil_the_connection() {
    let service = |request: Request<Incoming>| async move {
        let mut trailers = HeaderMap::new();
        trailers.insert("x-sum", HeaderValue::from_static("1"));
        Response::new(with_trailers(request.uri().to_string(), trailers))
    };
    let mut case = serving(PATIENCE, service).await;
    case.send(get("/1") + &get("/2") + "bad\n").await;
    let answers = case.read_to("2\r\n/2\r\n0\r\n\r\n").await;
    assert!(answers.contains("2\r\n/1\r\n0\r\n\r\nHTTP/1.1 200 OK\r\n"), "{answers}");
    assert!(matches!(case.ended().await.why, Stop::Fault(_)));
}

#[tokio::test]
async fn http_1_0_is_closed_after_its_answer_unless_it_asks_otherwise() {
    let mut case = serving(PATIENCE, echo).await;
    case.send("GET /1 HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").await;
    let answer = case.read_to("GET /1 []").await;
    assert!(answer.starts_with("HTTP/1.0 200 OK\r\n"), "{answer}");
    assert!(answer.contains("\r\nconnection: keep-alive\r\n"), "{answer}");
    case.send("GET /2 HTTP/1.0\r\n\r\n").await;
    case.read_to("GET /2 []").await;
    assert!(is_closed(&case.ended().await.why));
}

#[tokio::test]
async fn a_client_that_asks_for_a_close_gets_it_after_the_answer() {
    let mut case = serving(PATIENCE, echo).await;
    case.send(String::from("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n") + &get("/2"))
        .await;
    case.read_to("GET / []").await;
    let ended = case.ended().await;
    assert!(is_closed(&ended.why));
}

#[tokio::test]
async fn answers_to_head_have_no_body_and_the_next_one_follows() {
    let mut case = serving(PATIENCE, echo).await;
    case.send("HEAD /1 HTTP/1.1\r\nHost: a\r\n\r\n".to_owned() + &get("/2")).await;
    let head = case.read_to("\r\n\r\n").await;
    assert!(head.contains("\r\ncontent-length: 10\r\n"), "{head}");
    case.read_to("GET /2 []").await;
}

#[tokio::test]
async fn an_answer_may_come_before_the_end_of_the_request() {
    let (done, answered) = (Arc::new(Notify::new()), Arc::new(Mutex::new(Vec::new())));
    let service = {
        let (done, bodies) = (Arc::clone(&done), Arc::clone(&answered));
        move |request: Request<Incoming>| {
            let (done, bodies) = (Arc::clone(&done), Arc::clone(&bodies));
            tokio::spawn(async move {
                let body = request.into_body().collect().await.unwrap().to_bytes();
                bodies.lock().unwrap().push(body);
                done.notify_one();
            });
            ready(Response::new(full("early")))
        }
    };
    let mut case = serving(PATIENCE, service).await;
    case.send("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhello").await;
    case.read_to("early").await;
    case.send("world".to_owned() + &get("/2")).await;
    done.notified().await;
    case.read_to("early").await;
    done.notified().await;
    assert_eq!(*answered.lock().unwrap(), [Bytes::from("helloworld"), Bytes::new()]);
}

#[tokio::test]
async fn a_body_that_the_service_does_not_want_ends_the_connection_with_a_whole_answer() {
    let service = |_| ready(Response::new(full("no")));
    let mut case = serving(PATIENCE, service).await;
    case.send("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\nhello").await;
    let answer = case.read_to("no").await;
    assert!(answer.contains("\r\nconnection: close\r\n"), "{answer}");
    assert!(is_closed(&case.ended().await.why));
}

// === a client that goes away ===

/// A service that tells when it runs and when it is dropped, and never answers.
async fn never_answering() -> (Case, Arc<Notify>, Arc<Notify>) {
    let (began, dropped) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let flags = (Arc::clone(&began), Arc::clone(&dropped));
    let service = move |_| {
        let flag = DropFlag(Arc::clone(&flags.1));
        flags.0.notify_one();
        async move {
            let _flag = flag;
            pending().await
        }
    };
    (serving(PATIENCE, service).await, began, dropped)
}

#[tokio::test]
async fn a_client_that_closes_cancels_what_is_done_for_it() {
    let (mut case, began, dropped) = never_answering().await;
    case.send(get("/")).await;
    began.notified().await;
    drop(case.client);
    tokio::time::timeout(LIMIT, dropped.notified()).await.unwrap();
    assert!(matches!(case.serving.await.unwrap().why, Stop::Broken));
}

#[tokio::test]
async fn a_client_that_resets_cancels_what_is_done_for_it_at_once() {
    let (mut case, began, dropped) = never_answering().await;
    case.send(get("/")).await;
    began.notified().await;
    case.client.set_zero_linger().unwrap();
    drop(case.client);
    tokio::time::timeout(LIMIT, dropped.notified()).await.unwrap();
    assert!(matches!(case.serving.await.unwrap().why, Stop::Broken));
}

#[tokio::test]
async fn a_client_that_has_ended_its_sending_side_still_gets_its_answer() {
    let (release, released) = oneshot::channel();
    let released = Mutex::new(Some(released));
    let service = move |request| {
        let released = released.lock().unwrap().take();
        async move {
            released.unwrap().await.unwrap();
            echo(request).await
        }
    };
    let mut case = serving(PATIENCE, service).await;
    case.send(get("/")).await;
    case.client.shutdown().await.unwrap();
    // asked twice whether it is there, which it skips; a closed socket would have been noticed
    let probes = case.read_to("100 Continue\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n").await;
    assert!(probes.starts_with("HTTP/1.1 100 Continue\r\n\r\n"));
    release.send(()).unwrap();
    let answer = case.read_to("GET / []").await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(is_closed(&case.ended().await.why));
}

#[tokio::test]
async fn a_body_that_is_cut_short_is_an_error_and_no_end() {
    for head in ["Content-Length: 10", "Transfer-Encoding: chunked"] {
        let mut case = serving(PATIENCE, echo).await;
        case.send(format!("POST / HTTP/1.1\r\nHost: a\r\n{head}\r\n\r\n5\r\nhel")).await;
        case.client.shutdown().await.unwrap();
        let answer = case.read_to("body_truncated").await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
        assert!(answer.contains("\r\nconnection: close\r\n"), "{answer}");
        assert!(is_closed(&case.ended().await.why));
    }
}

#[tokio::test]
async fn a_fault_within_a_body_is_an_error_with_its_reason_and_nothing_follows() {
    let asked = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&asked);
    let service = move |request| {
        counter.fetch_add(1, Ordering::SeqCst);
        echo(request)
    };
    let mut case = serving(PATIENCE, service).await;
    let head = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    case.send(format!("{head}2;\nxx\r\n0\r\n\r\n{}", get("/smuggled"))).await;
    let answer = case.read_to("chunk_bare_lf").await;
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    assert!(is_closed(&case.ended().await.why));
    assert_eq!(asked.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn an_answer_whose_body_fails_breaks_the_connection() {
    let (sender, receiver) = mpsc::unbounded_channel();
    let body = Mutex::new(Some(Fed(receiver).boxed_unsync()));
    let service = move |_| ready(Response::new(body.lock().unwrap().take().unwrap()));
    let mut case = serving(PATIENCE, service).await;
    case.send(get("/")).await;
    sender.send(Ok(Frame::data(Bytes::from("part")))).unwrap();
    let answer = case.read_to("part\r\n").await;
    assert!(answer.contains("transfer-encoding: chunked"), "{answer}");
    sender.send(Err(io::Error::other("upstream truncated"))).unwrap();
    assert!(matches!(case.ended().await.why, Stop::Broken));
}

// === what is refused, and what is for others ===

async fn stop_after(bytes: impl AsRef<[u8]>) -> Stop {
    let mut case = serving(PATIENCE, echo).await;
    case.send(get("/first")).await;
    case.send(bytes).await;
    case.read_to("GET /first []").await;
    case.ended().await.why
}

fn cause(stop: &Stop) -> Cause {
    match stop {
        Stop::Fault(refusal) => refusal.cause,
        Stop::Closed | Stop::Connect(_) | Stop::Upgraded | Stop::Broken => panic!("{stop:?}"),
    }
}

#[tokio::test]
async fn a_fault_in_a_later_head_comes_after_the_whole_answer_before_it() {
    let long = format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(PATIENCE.head_bytes));
    let fields = "a: b\r\n".repeat(101);
    for (bytes, expected) in [
        ("GET / HTTP/1.1\nHost: a\n\n".to_owned(), Cause::HeadMalformed),
        ("GET / HTTP/1.1\r\n\r\n".to_owned(), Cause::HeadMalformed),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(), Cause::HeadMalformed),
        ("\x16\x03\x01\x02".to_owned(), Cause::HeadMalformed),
        (long, Cause::HeadTooLarge),
        (format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n"), Cause::HeadTooLarge),
        ("GET http:// HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), Cause::RequestTargetInvalid),
        ("GET /<x> HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), Cause::RequestTargetInvalid),
        (
            format!("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", u64::MAX),
            Cause::HeadMalformed,
        ),
    ] {
        assert_eq!(cause(&stop_after(&bytes).await), expected, "{bytes:?}");
    }
}

#[tokio::test]
async fn a_connect_is_handed_back_with_what_came_behind_it() {
    let mut case = serving(PATIENCE, echo).await;
    let connect = "CONNECT b.example:443 HTTP/1.1\r\nHost: b.example:443\r\n\r\n";
    case.send(get("/first") + connect + &get("/early")).await;
    case.read_to("GET /first []").await;
    let ended = case.ended().await;
    let Stop::Connect(head) = ended.why else { panic!("{:?}", ended.why) };
    assert_eq!(head.target, "b.example:443");
    assert_eq!(ended.early, get("/early"));
}

#[tokio::test]
async fn a_head_that_does_not_end_in_time_is_refused_and_idleness_ends_quietly() {
    let patience = Patience { header_timeout: Duration::from_millis(50), ..PATIENCE };
    let mut case = serving(patience, echo).await;
    case.send(get("/1")).await;
    case.read_to("GET /1 []").await;
    case.send("GET /2 HTTP/1.1\r\nHo").await;
    assert_eq!(cause(&case.ended().await.why), Cause::HeadTimeout);

    let patience = Patience { idle_timeout: Duration::from_millis(50), ..PATIENCE };
    let mut case = serving(patience, echo).await;
    case.send(get("/1")).await;
    case.read_to("GET /1 []").await;
    assert!(is_closed(&case.ended().await.why));
}

#[tokio::test]
async fn a_body_that_stalls_is_an_error() {
    let patience = Patience { idle_timeout: Duration::from_millis(50), ..PATIENCE };
    let mut case = serving(patience, echo).await;
    case.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhello").await;
    let answer = case.read_to("body_stalled").await;
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
}

#[tokio::test]
async fn a_client_that_does_not_read_its_answer_is_given_up() {
    let patience = Patience { idle_timeout: Duration::from_millis(50), ..PATIENCE };
    let (mut client, server) = tokio::io::duplex(100);
    let drain = CancellationToken::new();
    let service = |_| ready(Response::new(full("x".repeat(10_000))));
    client.write_all(get("/").as_bytes()).await.unwrap();
    let serving = serve(server, BytesMut::new(), patience, &drain, service);
    let ended = tokio::time::timeout(LIMIT, serving).await.unwrap();
    assert!(matches!(ended.why, Stop::Broken));
    drop(client);
}

#[tokio::test]
async fn an_upgrade_gives_the_socket_with_what_came_behind_the_request() {
    let service = |request: Request<Incoming>| async move {
        let mut response = Response::new(full(""));
        if request.uri() == "/socket" {
            *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
            let names = [(header::CONNECTION, "upgrade"), (header::UPGRADE, "websocket")];
            response.headers_mut().extend(names.map(|(n, v)| (n, HeaderValue::from_static(v))));
            response
        } else {
            echo(request).await
        }
    };
    let upgrade = |path| {
        let fields = "Host: a\r\nConnection: Upgrade\r\nUpgrade: websocket";
        format!("GET {path} HTTP/1.1\r\n{fields}\r\n\r\n")
    };
    let mut case = serving(PATIENCE, service).await;
    // refused by the service: what follows is the next request
    case.send(upgrade("/other") + &get("/2") + &upgrade("/socket") + "\x01\x05frame").await;
    case.read_to("GET /other []").await;
    case.read_to("GET /2 []").await;
    let answer = case.read_to("\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 101 Switching Protocols\r\n"), "{answer}");
    assert!(answer.contains("upgrade: websocket\r\n"), "{answer}");
    let mut client = case.client;
    let mut ended = case.serving.await.unwrap();
    assert!(matches!(ended.why, Stop::Upgraded), "{:?}", ended.why);
    assert_eq!(ended.early, "\x01\x05frame".as_bytes());
    ended.stream.write_all(b"hello").await.unwrap();
    read_to(&mut client, "hello").await;
}

/// Behind a client so slow that hyper cannot write everything at once, and with an offer to upgrade,
/// after which hyper says that it is done too early.
#[tokio::test]
async fn a_last_answer_is_written_to_its_end_however_slow_the_client() {
    for offer in ["", "Connection: Upgrade\r\nUpgrade: h2c\r\n"] {
        let (mut client, server): (DuplexStream, _) = tokio::io::duplex(64);
        let service = |_| ready(Response::new(full("y".repeat(20_000) + "end")));
        let drain = CancellationToken::new();
        let head = format!("PUT / HTTP/1.1\r\nHost: a\r\n{offer}Content-Length: 1000\r\n\r\nhello");
        let first = BytesMut::from(head.as_str());
        let serving = serve(server, first, PATIENCE, &drain, service);
        let (ended, answer) = tokio::join!(serving, read_to(&mut client, "end"));
        assert!(is_closed(&ended.why), "{offer} {:?}", ended.why);
        assert!(answer.contains("connection: close"), "{answer}");
    }
}

#[tokio::test]
async fn draining_closes_after_the_answer_and_soon_where_nothing_is_asked() {
    let case = serving(PATIENCE, echo).await;
    let mut idle = case;
    idle.send(get("/1")).await;
    idle.read_to("GET /1 []").await;
    idle.drain.cancel();
    // a request that comes now is still answered
    idle.send(get("/2")).await;
    let answer = idle.read_to("GET /2 []").await;
    assert!(answer.contains("\r\nconnection: close\r\n"), "{answer}");
    assert!(is_closed(&idle.ended().await.why));

    let mut idle = serving(PATIENCE, echo).await;
    idle.send(get("/1")).await;
    idle.read_to("GET /1 []").await;
    idle.drain.cancel();
    assert!(is_closed(&idle.ended().await.why));
}

// === what the guard lets through, hyper takes ===

/// What the service saw: method, target, version, fields and body.
type Seen = Vec<(Method, String, Version, usize, Bytes)>;

/// Serves `bytes` from a closed client, and gives what the service saw and what was answered.
async fn exchange(bytes: &[u8]) -> (Seen, String, Stop) {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let failed = Arc::new(AtomicBool::new(false));
    let service = {
        let seen = Arc::clone(&seen);
        move |request: Request<Incoming>| {
            let (seen, failed) = (Arc::clone(&seen), Arc::clone(&failed));
            async move {
                let (head, body) = request.into_parts();
                if let Ok(body) = body.collect().await {
                    let row = (
                        head.method,
                        head.uri.to_string(),
                        head.version,
                        head.headers.len(),
                        body.to_bytes(),
                    );
                    seen.lock().unwrap().push(row);
                } else {
                    failed.store(true, Ordering::SeqCst);
                }
                Response::builder().status(299).body(full("")).unwrap()
            }
        }
    };
    let (mut client, server) = tokio::io::duplex(64 * 1024);
    client.write_all(bytes).await.unwrap();
    client.shutdown().await.unwrap();
    let drain = CancellationToken::new();
    let ended = serve(server, BytesMut::new(), PATIENCE, &drain, service).await;
    drop(ended.stream);
    let mut answers = String::new();
    client.read_to_string(&mut answers).await.unwrap();
    let seen = std::mem::take(&mut *seen.lock().unwrap());
    (seen, answers, ended.why)
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.unwrap().block_on(future)
}

/// Requests and what resembles them, of the pieces on which parsers disagree.
fn wire() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop::sample::select(vec![
        "GET / HTTP/1.1\r\n",
        "POST /a HTTP/1.1\r\n",
        "PUT http://a.example/x?y HTTP/1.1\r\n",
        "OPTIONS * HTTP/1.1\r\n",
        "GET / HTTP/1.0\r\n",
        "GET a.example:80 HTTP/1.1\r\n",
        "PURGE /\"{}|^` HTTP/1.1\r\n",
        "Host: a.example\r\n",
        "Host: a.example\r\n",
        "Host: a.example\r\n",
        "Content-Length: 5\r\n",
        "Content-Length: 0\r\n",
        "Transfer-Encoding: chunked\r\n",
        "Transfer-Encoding: Chunked\r\n",
        "Connection: close\r\n",
        "Connection: keep-alive\r\n",
        "Connection: Upgrade\r\nUpgrade: h2c\r\n",
        "Expect: 100-continue\r\n",
        "TE: trailers\r\n",
        "X: caf\u{e9}\t \"y\"\r\n",
        "X:\r\n",
        "\r\n",
        "\r\n",
        "\r\n",
        "hello",
        "5\r\nhello\r\n",
        "5;a=b\r\nhello\r\n",
        "0\r\n\r\n",
        "0\r\nX-Sum: 1\r\n\r\n",
        "\n",
        " ",
    ]);
    prop::collection::vec(piece, 1..24).prop_map(|pieces| pieces.concat().into_bytes())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn nothing_is_answered_but_by_the_service(bytes in wire()) {
        let (seen, answers, _) = block_on(exchange(&bytes));
        let statuses: Vec<_> = answers.lines().filter(|line| line.starts_with("HTTP/")).collect();
        let ours = |line: &&&str| line.ends_with(" 299 <none>") || line.ends_with(" 100 Continue");
        prop_assert_eq!(statuses.iter().filter(ours).count(), statuses.len(), "{:?}", statuses);
        prop_assert!(statuses.len() >= seen.len());
    }

    #[test]
    fn whole_requests_come_through_as_they_were_sent(
        requests in prop::collection::vec(
            ("/[!$-;=?-Z_a-z~]{0,20}", prop::collection::vec(any::<u8>(), 0..40), any::<bool>()),
            1..5,
        ),
    ) {
        let mut bytes = Vec::new();
        for (target, body, chunked) in &requests {
            bytes.extend_from_slice(format!("PUT {target} HTTP/1.1\r\nHost: a\r\n").as_bytes());
            if *chunked {
                bytes.extend_from_slice(b"Transfer-Encoding: chunked\r\n\r\n");
                for piece in body.chunks(7) {
                    bytes.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
                    bytes.extend_from_slice(&[piece, b"\r\n"].concat());
                }
                bytes.extend_from_slice(b"0\r\n\r\n");
            } else {
                bytes.extend_from_slice(format!("Content-Length: {}\r\n\r\n", body.len()).as_bytes());
                bytes.extend_from_slice(body);
            }
        }
        let (seen, _, why) = block_on(exchange(&bytes));
        prop_assert!(is_closed(&why), "{:?}", why);
        let seen: Vec<_> = seen.iter().map(|row| (row.1.as_str(), row.4.to_vec())).collect();
        let sent: Vec<_> =
            requests.iter().map(|(target, body, _)| (target.as_str(), body.clone())).collect();
        prop_assert_eq!(seen, sent);
    }
}
