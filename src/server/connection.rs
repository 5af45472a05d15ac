//! One client connection: which protocol it speaks, and its requests, until it ends.

use std::{
    future::poll_fn,
    io,
    mem::MaybeUninit,
    pin::{Pin, pin},
    sync::{Arc, atomic::AtomicBool},
    task::{Poll, ready},
    time::Duration,
};

use bytes::{BufMut, BytesMut};
use http::{Method, Request};
use hyper::body::Incoming;
use tokio::{
    io::{AsyncRead, AsyncWriteExt as _, ReadBuf},
    net::TcpStream,
    time::Instant,
};
use tokio_rustls::server::TlsStream;

use super::{
    Server,
    head::{Head, HeadFault, Scan, Scanner},
    http1::{self, Patience, Stop},
    http2,
    tls::{ServerTls, peer_names},
};
use crate::{
    forward::{body::ClientBody, connect::ClientStream, linger},
    gateway::{ClientConn, ConnectRequest, RelayRequest, SwitchSlot},
    reason::{Cause, Refusal},
};

/// How much is read at once while a head is awaited: nearly every head fits.
const READ_BYTES: usize = 4096;

/// The answer to a CONNECT that may flow.
const ESTABLISHED: &[u8] = b"HTTP/1.1 200 Connection Established\r\n\r\n";

/// Serves a connection to its end.
pub async fn serve(
    server: Server,
    stream: TcpStream,
    accepted: Instant,
    tls: Option<Arc<ServerTls>>,
) {
    let from = ClientConn { certificate_names: Vec::new(), accepted, asked: AtomicBool::default() };
    match tls {
        None => serve_stream(&server, stream, from).await,
        Some(tls) => {
            let Some((stream, names)) = Box::pin(handshake(&server, stream, &tls)).await else {
                return;
            };
            serve_stream(&server, stream, ClientConn { certificate_names: names, ..from }).await;
        }
    }
}

/// What a connection turns into when it is no longer one of requests, carried to its end.
type Tunnel = Pin<Box<dyn Future<Output = ()> + Send>>;

async fn serve_stream<S>(server: &Server, stream: S, from: ClientConn)
where
    S: ClientStream + Send + 'static,
{
    // Each in a box of its own: the memory for requests is given back before a tunnel begins, which
    // may stand idle for days.
    if let Some(tunnel) = Box::pin(serve_requests(server, stream, from)).await {
        tunnel.await;
    }
}

/// Says that there is no room, and closes.
pub async fn reject(server: &Server, mut stream: TcpStream, accepted: Instant) {
    let limit = server.gateway.view.load().limits.max_connections;
    let detail = format!("{limit} connections are open");
    let refusal = Refusal::new(Cause::ConnectionLimit, detail);
    let problem = server.gateway.refuse(refusal, None, accepted);
    linger::last_words(&mut stream, &problem.to_http1()).await;
}

async fn handshake(
    server: &Server,
    stream: TcpStream,
    tls: &ServerTls,
) -> Option<(Box<TlsStream<TcpStream>>, Vec<String>)> {
    let started = Instant::now();
    let limit = server.gateway.view.load().limits.tls_timeout;
    let result = tokio::time::timeout(limit, tls.acceptor().accept(stream)).await;
    let histogram = &server.gateway.metrics.tls_handshake_duration;
    histogram.observe(started.elapsed().as_secs_f64());
    match result {
        Ok(Ok(stream)) => {
            let names =
                stream.get_ref().1.peer_certificates().and_then(<[_]>::first).map(peer_names);
            Some((Box::new(stream), names.unwrap_or_default()))
        }
        Ok(Err(error)) => {
            tracing::debug!(%error, "a client's TLS handshake failed");
            None
        }
        Err(_) => None,
    }
}

/// Serves requests, until the connection ends or turns into a tunnel.
async fn serve_requests<S>(server: &Server, mut stream: S, from: ClientConn) -> Option<Tunnel>
where
    S: ClientStream + Send + 'static,
{
    let mut buffer = BytesMut::new();
    match read_head(server, &mut stream, &mut buffer).await {
        Ok(First::Http2) => {
            Box::pin(http2::serve(server, stream, buffer.freeze(), from)).await;
            None
        }
        Ok(First::Http1(head, length)) if head.method == Method::CONNECT => {
            let early = buffer.split_off(length).to_vec();
            connect(server, stream, from, &head, early).await
        }
        Ok(First::Http1(..)) => Box::pin(relay(server, stream, from, buffer)).await,
        Err(Broken::Gone) => None,
        Err(Broken::Refused(refusal)) => {
            let problem = server.gateway.refuse(refusal, None, Instant::now());
            linger::last_words(&mut stream, &problem.to_http1()).await;
            None
        }
    }
}

/// Requests for the relay, one after the other, until the connection ends or turns into something
/// else: a tunnel by CONNECT, or another protocol by an upgrade.
async fn relay<S>(server: &Server, stream: S, from: ClientConn, first: BytesMut) -> Option<Tunnel>
where
    S: ClientStream + Send + 'static,
{
    let patience = {
        let limits = &server.gateway.view.load().limits;
        Patience {
            head_bytes: limits.max_header_bytes,
            header_timeout: limits.header_timeout,
            idle_timeout: limits.idle_timeout,
        }
    };
    let switch = SwitchSlot::default();
    let relay = |request: Request<Incoming>| {
        let request = RelayRequest::new(request.map(ClientBody::Http1), Some(&switch));
        server.gateway.relay(&from, request)
    };
    let ended = http1::serve(stream, first, patience, &server.drain, relay).await;
    let (mut stream, early) = (ended.stream, ended.early.to_vec());
    match ended.why {
        Stop::Closed => linger::after_answer(&mut stream).await,
        Stop::Fault(refusal) => {
            let problem = server.gateway.refuse(refusal, None, Instant::now());
            linger::last_words(&mut stream, &problem.to_http1()).await;
        }
        Stop::Connect(head) => return connect(server, stream, from, &head, early).await,
        Stop::Upgraded => {
            return Some(Box::pin(switch.take()?.run(stream, early)));
        }
        Stop::Broken => stream.reset(),
    }
    None
}

/// One CONNECT over HTTP/1. `early` is what the client sent behind its head: held until the tunnel
/// stands, thrown away with a refusal, and never read as another request (CVE-2025-64763).
async fn connect<S>(
    server: &Server,
    mut stream: S,
    from: ClientConn,
    head: &Head,
    mut early: Vec<u8>,
) -> Option<Tunnel>
where
    S: ClientStream + Send + 'static,
{
    let read_at = Instant::now();
    let request = ConnectRequest { target: &head.target, headers: &head.headers, read_at };
    let decision = pin!(server.gateway.connect(&from, request));
    match with_client(decision, &mut stream, &mut early).await? {
        Ok(tunnel) => {
            stream.write_all(ESTABLISHED).await.ok()?;
            stream.flush().await.ok()?;
            Some(Box::pin(tunnel.run(stream, early)))
        }
        Err(problem) => {
            linger::last_words(&mut stream, &problem.to_http1()).await;
            None
        }
    }
}

/// What a client may send before its 200, in bytes; more stays in its own socket buffer.
const EARLY_BYTES_MAX: usize = 64 * 1024;

/// Waits for a decision, but not longer than the client does: when it goes away, the look-ups and
/// connection attempts for it end too. What it sends meanwhile is held.
async fn with_client<T>(
    mut decision: Pin<&mut impl Future<Output = T>>,
    stream: &mut (impl AsyncRead + Unpin),
    early: &mut Vec<u8>,
) -> Option<T> {
    let mut half_closed = false;
    loop {
        let room = early.len() < EARLY_BYTES_MAX && !half_closed;
        tokio::select! {
            biased;
            decided = &mut decision => return Some(decided),
            read = read_more(stream, early), if room => match read {
                // A client that has only shut down its sending side still waits for the answer.
                Ok(0) => half_closed = true,
                Ok(_) => {}
                Err(_) => return None,
            },
        }
    }
}

/// Reads once, and takes memory only for what came.
async fn read_more(
    stream: &mut (impl AsyncRead + Unpin),
    to: &mut impl BufMut,
) -> io::Result<usize> {
    poll_fn(|cx| {
        let mut space = [MaybeUninit::uninit(); READ_BYTES];
        let mut read = ReadBuf::uninit(&mut space);
        ready!(Pin::new(&mut *stream).poll_read(cx, &mut read))?;
        to.put_slice(read.filled());
        Poll::Ready(Ok(read.filled().len()))
    })
    .await
}

/// What a connection begins with.
enum First {
    /// A head, and its length in the buffer.
    Http1(Box<Head>, usize),
    Http2,
}

/// Why it does not begin.
enum Broken {
    Gone,
    Refused(Refusal),
}

/// Reads the first head, within `limits.header_timeout` and `limits.max_header_bytes`. All that
/// was read stays in `buffer`.
async fn read_head<S>(
    server: &Server,
    stream: &mut S,
    buffer: &mut BytesMut,
) -> Result<First, Broken>
where
    S: AsyncRead + Unpin,
{
    let (limit, timeout) = {
        let limits = &server.gateway.view.load().limits;
        (limits.max_header_bytes, limits.header_timeout)
    };
    let reading = async {
        let mut scanner = Scanner::new(limit);
        loop {
            match read_more(stream, buffer).await {
                Ok(0) | Err(_) => return Err(Broken::Gone),
                Ok(_) => {}
            }
            match scanner.scan(buffer) {
                Ok(Scan::Incomplete) => {}
                Ok(Scan::Http2Preface) => return Ok(First::Http2),
                Ok(Scan::Head(head, length)) => return Ok(First::Http1(head, length)),
                Err(fault) => return Err(Broken::Refused(malformed(fault))),
            }
        }
    };
    match tokio::time::timeout(timeout, reading).await {
        Ok(first) => first,
        Err(_) if buffer.is_empty() => Err(Broken::Gone),
        Err(_) => Err(Broken::Refused(late(timeout))),
    }
}

fn late(timeout: Duration) -> Refusal {
    let detail = format!("the request head did not arrive within {timeout:?}");
    Refusal::new(Cause::HeadTimeout, detail)
}

/// The refusal of a head.
pub(super) fn malformed(fault: HeadFault) -> Refusal {
    let cause = if fault.status() == http::StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE {
        Cause::HeadTooLarge
    } else {
        Cause::HeadMalformed
    };
    // The fault's own word first: stable, and finer than the cause.
    Refusal::new(cause, format!("{}: {}", fault.cause(), fault.detail()))
}
