//! One client connection: which protocol it speaks, and its requests, until it ends.

use std::{pin::Pin, sync::Arc, time::Duration};

use bytes::BytesMut;
use http::{Method, Request};
use hyper::body::Incoming;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _},
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
    forward::{body::ClientBody, connect::ClientStream, linger::last_words},
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
    match tls {
        None => serve_stream(&server, stream, accepted, Vec::new()).await,
        Some(tls) => {
            let Some(stream) = Box::pin(handshake(&server, stream, &tls)).await else { return };
            let names =
                stream.get_ref().1.peer_certificates().and_then(<[_]>::first).map(peer_names);
            let served = serve_stream(&server, stream, accepted, names.unwrap_or_default());
            Box::pin(served).await;
        }
    }
}

/// Says that there is no room, and closes.
pub async fn reject(server: &Server, mut stream: TcpStream, accepted: Instant) {
    let limit = server.gateway.view.load().limits.max_connections;
    let detail = format!("{limit} connections are open");
    let refusal = Refusal::new(Cause::ConnectionLimit, detail);
    let problem = server.gateway.refuse(refusal, None, accepted);
    last_words(&mut stream, &problem.to_http1()).await;
}

async fn handshake(
    server: &Server,
    stream: TcpStream,
    tls: &ServerTls,
) -> Option<TlsStream<TcpStream>> {
    let started = Instant::now();
    let limit = server.gateway.view.load().limits.tls_timeout;
    let result = tokio::time::timeout(limit, tls.acceptor().accept(stream)).await;
    let histogram = &server.gateway.metrics.tls_handshake_duration;
    histogram.observe(started.elapsed().as_secs_f64());
    match result {
        Ok(Ok(stream)) => Some(stream),
        Ok(Err(error)) => {
            tracing::debug!(%error, "a client's TLS handshake failed");
            None
        }
        Err(_) => None,
    }
}

async fn serve_stream<S>(server: &Server, mut stream: S, accepted: Instant, names: Vec<String>)
where
    S: ClientStream + Send + 'static,
{
    let from = ClientConn { certificate_names: names, accepted };
    let mut buffer = BytesMut::new();
    let head = read_head(server, &mut stream, &mut buffer).await;
    match head {
        // Boxed, so that a tunnel's task does not carry what only others need.
        Ok(First::Http2) => Box::pin(http2::serve(server, stream, buffer.freeze(), from)).await,
        Ok(First::Http1(head, length)) if head.method == Method::CONNECT => {
            let early = buffer.split_off(length).to_vec();
            connect(server, stream, from, &head, early).await;
        }
        Ok(First::Http1(..)) => Box::pin(requests(server, stream, from, buffer)).await,
        Err(Broken::Gone) => {}
        Err(Broken::Refused(refusal)) => {
            let problem = server.gateway.refuse(refusal, None, Instant::now());
            last_words(&mut stream, &problem.to_http1()).await;
        }
    }
}

/// Requests for the relay, one after the other, until the connection ends or turns into something
/// else: a tunnel by CONNECT, or another protocol by an upgrade.
async fn requests<S>(server: &Server, stream: S, from: ClientConn, first: BytesMut)
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
    let mut stream = ended.stream;
    match ended.why {
        Stop::Closed => last_words(&mut stream, b"").await,
        Stop::Fault(refusal) => {
            let problem = server.gateway.refuse(refusal, None, Instant::now());
            last_words(&mut stream, &problem.to_http1()).await;
        }
        Stop::Connect(head) => {
            connect(server, stream, from, &head, ended.early.to_vec()).await;
        }
        Stop::Upgraded => {
            if let Some(switch) = switch.take() {
                switch.run(stream, ended.early.to_vec()).await;
            }
        }
        Stop::Broken => stream.reset(),
    }
}

/// One CONNECT over HTTP/1. `early` is what the client sent behind its head: held until the tunnel
/// stands, thrown away with a refusal, and never read as another request (CVE-2025-64763).
async fn connect<S>(server: &Server, mut stream: S, from: ClientConn, head: &Head, early: Vec<u8>)
where
    S: ClientStream,
{
    let read_at = Instant::now();
    let request = ConnectRequest { target: &head.target, headers: &head.headers, read_at };
    let mut early = early;
    let opened = {
        // Boxed, so that its memory is given back before the tunnel begins.
        let decision = Box::pin(server.gateway.connect(&from, request));
        match with_client(decision, &mut stream, &mut early).await {
            Some(decision) => decision,
            None => return,
        }
    };
    match opened {
        Ok(tunnel) => {
            if stream.write_all(ESTABLISHED).await.is_ok() && stream.flush().await.is_ok() {
                tunnel.run(stream, early).await;
            }
        }
        Err(problem) => last_words(&mut stream, &problem.to_http1()).await,
    }
}

/// What a client may send before its 200, in bytes; more stays in its own socket buffer.
const EARLY_BYTES_MAX: usize = 64 * 1024;

/// Waits for a decision, but not longer than the client does: when it goes away, the look-ups and
/// connection attempts for it end too. What it sends meanwhile is held.
async fn with_client<T>(
    mut decision: Pin<Box<impl Future<Output = T>>>,
    stream: &mut (impl AsyncRead + Unpin),
    early: &mut Vec<u8>,
) -> Option<T> {
    let mut half_closed = false;
    loop {
        let room = early.len() < EARLY_BYTES_MAX && !half_closed;
        tokio::select! {
            biased;
            decided = &mut decision => return Some(decided),
            read = stream.read_buf(early), if room => match read {
                // A client that has only shut down its sending side still waits for the answer.
                Ok(0) => half_closed = true,
                Ok(_) => {}
                Err(_) => return None,
            },
        }
    }
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
            buffer.reserve(READ_BYTES);
            match stream.read_buf(buffer).await {
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
