//! The loop that accepts admin connections and serves each of them, within limits.

use std::{io, pin::pin, sync::Arc, time::Duration};

use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    select,
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{AdminState, router};
use crate::telemetry::metrics::Open;

/// What one admin listener grants.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Time for a request head, counted from the connection or from the end of the answer before;
    /// the connection is closed when it runs out. Default 10 s.
    pub header_timeout: Duration,
    /// Open connections; more wait in the kernel's queue. Default 512.
    pub max_connections: usize,
    /// Time for the body of a request. Default 10 s.
    pub body_timeout: Duration,
    /// How long a stream of events may be silent. Default 15 s: less than what sits between usually
    /// waits.
    pub keep_alive: Duration,
    /// How long a peer may leave sent bytes unread before its connection is closed. Default 30 s.
    pub write_timeout: Duration,
    /// Time for requests that are under way when the listener is told to stop. Default 5 s.
    pub drain_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            header_timeout: Duration::from_secs(10),
            max_connections: 512,
            body_timeout: Duration::from_secs(10),
            keep_alive: Duration::from_secs(15),
            write_timeout: Duration::from_secs(30),
            drain_timeout: Duration::from_secs(5),
        }
    }
}

/// The listener that a request came to.
#[derive(Clone, Debug, Default)]
pub(super) struct Here {
    pub(super) limits: Limits,
    /// Told when it stops: a stream of events ends by nothing else.
    pub(super) stopping: CancellationToken,
}

/// Longest request head, in bytes. hyper answers a longer one with 431.
const HEAD_BYTES_MAX: usize = 32 * 1024;

/// What hyper keeps of one connection, in bytes, each way.
const BUFFER_BYTES_MAX: usize = 64 * 1024;

/// Pause after a failed accept: the reason (no descriptors left) does not go away at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves the admin API (HTTP/1.1) on `listener` until `shutdown`; then accepts no more, lets the
/// requests that are under way end, and returns when they have, within `limits.drain_timeout`.
///
/// Dropping the future closes all its connections.
pub async fn serve(
    listener: TcpListener,
    state: Arc<AdminState>,
    limits: Limits,
    shutdown: CancellationToken,
) {
    let here = Extension(Here { limits, stopping: shutdown.clone() });
    let service = TowerToHyperService::new(router(Arc::clone(&state)).layer(here));
    let gauge = state.gateway.metrics.connections.with_label_values(&["admin"]);
    let mut connections = JoinSet::new();
    loop {
        let accepted = select! {
            biased;
            () = shutdown.cancelled() => break,
            // a panic in it has been logged by the hook
            Some(_ended) = connections.join_next() => continue,
            accepted = listener.accept(), if connections.len() < limits.max_connections => accepted,
        };
        match accepted {
            Ok((stream, _peer)) => {
                let open = Open::new(gauge.clone());
                let (service, shutdown) = (service.clone(), shutdown.clone());
                connections.spawn(async move {
                    if let Err(error) = connection(stream, service, limits, shutdown).await {
                        tracing::debug!(%error, "an admin connection ended early");
                    }
                    drop(open);
                });
            }
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                tracing::warn!(%error, "an admin connection could not be accepted");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

/// Why a connection ended otherwise than by itself.
#[derive(Debug, thiserror::Error)]
enum ConnectionError {
    #[error("its socket could not be set up")]
    Socket(#[from] io::Error),
    #[error("it broke off, or what it sent is not HTTP")]
    Http(#[from] hyper::Error),
    #[error("it was cut because the listener stops")]
    Drain(#[from] tokio::time::error::Elapsed),
}

async fn connection(
    stream: TcpStream,
    service: TowerToHyperService<Router>,
    limits: Limits,
    shutdown: CancellationToken,
) -> Result<(), ConnectionError> {
    stream.set_nodelay(true)?;
    // tcp(7): the kernel closes a connection whose peer acknowledges nothing, or reads nothing
    socket2::SockRef::from(&stream).set_tcp_user_timeout(Some(limits.write_timeout))?;
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_timeout)
        .max_header_size(HEAD_BYTES_MAX)
        .max_buf_size(BUFFER_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    select! {
        ended = connection.as_mut() => return Ok(ended?),
        () = shutdown.cancelled() => connection.as_mut().graceful_shutdown(),
    }
    Ok(timeout(limits.drain_timeout, connection).await??)
}
