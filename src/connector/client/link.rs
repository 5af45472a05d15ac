//! One connection to a gateway, which opens streams over it.

use std::{future::pending, pin::pin, sync::Arc, time::Duration};

use bytes::Bytes;
use h2::{
    RecvStream,
    server::{Builder, Connection, SendResponse},
};
use http::{Method, Request, Response, StatusCode};
use rustls::ClientConfig;
use tokio::{
    net::TcpStream,
    task::JoinSet,
    time::{Instant, sleep},
};
use tokio_rustls::client::TlsStream;
use tokio_util::sync::CancellationToken;

use super::{
    super::{
        CONNECTION_WINDOW_BYTES, FRAME_BYTES_MAX, HEAD_BYTES_MAX, PATIENCE, SEND_BUFFER_BYTES,
        STREAM_WINDOW_BYTES, STREAMS_MAX, TLS_BUFFER_BYTES,
        gateway::LEAVING,
        hello::{Answer, Ask, Hello, VERSIONS},
        reply::Refused,
    },
    DRAIN_TIMEOUT, LinkError, carry, dial, network,
    settings::Settings,
};
use crate::{
    multiplex::{Heard, Wire, until_silent},
    origin::Authority,
};

/// What a connection is made with.
pub(super) struct Link {
    pub(super) gateway: Authority,
    pub(super) settings: Arc<Settings>,
    pub(super) tls: Arc<ClientConfig>,
    pub(super) instance: String,
    /// Told to stop.
    pub(super) stop: CancellationToken,
    /// The gateway asks to be dialled anew: set here.
    pub(super) leaving: CancellationToken,
}

/// How a connection ended.
pub(super) enum Ended {
    /// We were told to stop.
    Stopped,
    /// Otherwise; `stood` is for how long it was a connection.
    Failed { error: LinkError, stood: Option<Duration> },
}

type Wired = Connection<Wire<TlsStream<TcpStream>>, Bytes>;

impl Link {
    /// Connects, and carries until the end.
    pub(super) async fn run(self) -> Ended {
        let stopped = self.stop.clone();
        let greeted = tokio::select! {
            greeted = self.greet() => greeted,
            () = stopped.cancelled() => return Ended::Stopped,
        };
        let mut stream = match greeted {
            Ok(stream) => stream,
            Err(error) => return Ended::Failed { error, stood: None },
        };
        let local = stream.get_ref().0.local_addr().ok();
        stream.get_mut().1.set_buffer_limit(Some(TLS_BUFFER_BYTES));
        let wire = Wire::new(Bytes::new(), stream);
        let heard = wire.heard();
        let error = match builder().handshake(wire).await {
            Err(error) => LinkError::Protocol(error.to_string()),
            Ok(connection) => {
                tracing::info!(
                    connector = self.settings.name, gateway = %self.gateway, "connected"
                );
                let began = Instant::now();
                let gone = async {
                    loop {
                        network::changed().await;
                        if local.is_some_and(|local| !network::has(local.ip())) {
                            return;
                        }
                    }
                };
                let lost = tokio::select! {
                    lost = self.carry(connection, &heard) => lost,
                    () = gone => Some("this machine's address has changed"),
                };
                let Some(lost) = lost else { return Ended::Stopped };
                let error = LinkError::Lost(lost);
                return Ended::Failed { error, stood: Some(began.elapsed()) };
            }
        };
        Ended::Failed { error, stood: None }
    }

    async fn greet(&self) -> Result<TlsStream<TcpStream>, LinkError> {
        let hello = Hello::new(Ask::Carry, &self.instance, None);
        let (stream, answer) = dial::greet(&self.gateway, &self.tls, &hello).await?;
        match answer {
            Answer::Welcome { version, .. } if VERSIONS.contains(&version) => Ok(stream),
            Answer::Refused { why, versions } => Err(LinkError::Refused(why, versions)),
            Answer::Welcome { .. } | Answer::Enrolled { .. } => {
                Err(LinkError::Protocol("it answers another question".into()))
            }
        }
    }

    /// Serves streams; why the connection was lost, or nothing when we were told to stop.
    async fn carry(&self, mut connection: Wired, heard: &Heard) -> Option<&'static str> {
        let mut pings = connection.ping_pong();
        let mut silent = pin!(async {
            match &mut pings {
                Some(pings) => {
                    let nudge = network::changed;
                    until_silent(pings, heard, PATIENCE, nudge, |_| ()).await;
                }
                None => pending().await,
            }
        });
        // Dropped with the connection: a stream that is under way then is reset on both sides.
        let mut streams = JoinSet::new();
        let mut draining = false;
        let drained = CancellationToken::new();
        let mut late = pin!(async {
            drained.cancelled().await;
            sleep(DRAIN_TIMEOUT).await;
        });
        loop {
            tokio::select! {
                accepted = connection.accept() => match accepted {
                    Some(Ok((request, answer))) => self.begin(request, answer, &mut streams),
                    Some(Err(_)) if !draining => return Some("broken off"),
                    None if !draining => return Some("closed by the gateway"),
                    Some(Err(_)) | None => return None,
                },
                Some(_ended) = streams.join_next() => {}
                () = &mut silent => return Some("the gateway is silent"),
                () = self.stop.cancelled(), if !draining => {
                    draining = true;
                    drained.cancel();
                    connection.graceful_shutdown();
                }
                () = &mut late => return None,
            }
        }
    }

    fn begin(
        &self,
        request: Request<RecvStream>,
        mut answer: SendResponse<Bytes>,
        streams: &mut JoinSet<()>,
    ) {
        let mut say = |response: Response<()>| {
            // Fails when the gateway has given the stream up: then nobody waits for it.
            let _ignored = answer.send_response(response, true);
        };
        if request.method() == Method::CONNECT {
            if streams.len() >= usize::from(STREAMS_MAX) {
                return say(Refused::Busy.response());
            }
            let (settings, gateway) = (Arc::clone(&self.settings), self.gateway.to_string());
            streams.spawn(carry::carry(request, answer, settings, gateway));
            return;
        }
        let mut response = Response::new(());
        if request.method() == Method::POST && request.uri() == LEAVING {
            self.leaving.cancel();
            *response.status_mut() = StatusCode::NO_CONTENT;
        } else {
            *response.status_mut() = StatusCode::NOT_FOUND;
        }
        say(response);
    }
}

fn builder() -> Builder {
    let mut builder = Builder::new();
    builder
        .max_concurrent_streams(STREAMS_MAX.into())
        .initial_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_frame_size(FRAME_BYTES_MAX)
        .max_header_list_size(HEAD_BYTES_MAX)
        .max_send_buffer_size(SEND_BUFFER_BYTES);
    builder
}
