//! The listener: strangers cost little, and few of them are looked at at a time.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_util::sync::CancellationToken;

use super::{
    super::{
        hello::{self, Answer, Ask, Hello, VERSIONS, Why},
        keys::Pin,
    },
    Connectors,
    link::{self, Introduced},
};
use crate::store::connectors::Enrolled;

/// From a connection's first moment until it is known who it is.
const INTRODUCTION_TIMEOUT: Duration = Duration::from_secs(5);

/// Peers that are not known yet, at a time. When there is one more, the oldest of them goes: those
/// who dawdle make room for those who do not.
const STRANGERS_MAX: usize = 256;

/// After a failure to accept that says "out of something", how long to leave the rest their share.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Longest text that tells one process of a connector from another.
const INSTANCE_CHARS_MAX: usize = 64;

/// Accepts until `stop`.
pub(super) async fn accept(
    connectors: Arc<Connectors>,
    listener: TcpListener,
    stop: CancellationToken,
) {
    loop {
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => connectors.admit(stream, peer),
            Err(error) => {
                tracing::debug!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

impl Connectors {
    /// Looks at a stranger, in a task of its own.
    fn admit(self: &Arc<Self>, stream: TcpStream, peer: SocketAddr) {
        let own = Arc::clone(self);
        let task = self.tasks.spawn(async move {
            let introducing = timeout(INTRODUCTION_TIMEOUT, own.introduce(stream, peer));
            let introduced = tokio::select! {
                introduced = introducing => introduced,
                () = own.cut.cancelled() => return,
            };
            match introduced {
                Ok(Ok(Some(introduced))) => {
                    // Another task, so that making room for strangers does not end it.
                    own.tasks.spawn(link::hold(Arc::clone(&own), introduced));
                }
                Ok(Ok(None)) => {}
                Ok(Err(error)) => tracing::debug!(%peer, %error, "no connector"),
                Err(_) => tracing::debug!(%peer, "no connector: too slow"),
            }
        });
        let mut strangers =
            self.strangers.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if strangers.len() >= STRANGERS_MAX {
            strangers.retain(|stranger| !stranger.is_finished());
        }
        if strangers.len() >= STRANGERS_MAX
            && let Some(oldest) = strangers.pop_front()
        {
            oldest.abort();
        }
        strangers.push_back(task.abort_handle());
    }

    /// TLS, the hello, and the answer to it. `None` when that was all.
    async fn introduce(
        &self,
        stream: TcpStream,
        peer: SocketAddr,
    ) -> io::Result<Option<Introduced>> {
        let _best_effort = stream.set_nodelay(true);
        let mut tls = TlsAcceptor::from(Arc::clone(&self.tls)).accept(stream).await?;
        let pin = Pin::of_peer(tls.get_ref().1).ok_or(io::ErrorKind::InvalidData)?;
        let said: Hello = hello::read(&mut tls).await?;
        let program = hello::shown(&said.program);
        let outcome = match said.ask {
            Ask::Enrol => self.enrol(&said, pin, peer).await.map(|name| Answer::Enrolled { name }),
            Ask::Carry => self.welcome(&said, pin).await,
        };
        let answer = outcome.unwrap_or_else(|why| {
            tracing::warn!(%peer, key = %pin, program, reason = %why, "a connector is refused");
            Answer::Refused { why, versions: VERSIONS.to_vec() }
        });
        hello::write(&mut tls, &answer).await?;
        match answer {
            Answer::Welcome { name, .. } => {
                let instance = said.instance.chars().take(INSTANCE_CHARS_MAX).collect();
                let spki = pin.to_string();
                Ok(Some(Introduced { name, spki, instance, program, peer, stream: tls }))
            }
            Answer::Enrolled { .. } | Answer::Refused { .. } => {
                part(tls).await;
                Ok(None)
            }
        }
    }

    /// Whether the key is known and a version in common.
    async fn welcome(&self, said: &Hello, pin: Pin) -> Result<Answer, Why> {
        if self.leave.is_cancelled() {
            return Err(Why::Leaving);
        }
        let known = self.store.connector(&pin.to_string()).await.map_err(|error| {
            tracing::error!(%error, "a connector's key cannot be looked up");
            Why::Unavailable
        })?;
        let known = known.ok_or(Why::UnknownKey)?;
        if known.revoked_at.is_some() {
            return Err(Why::Revoked);
        }
        let Some(version) = hello::common(&said.versions) else {
            self.note_foreign(&known.name, &said.versions);
            return Err(Why::Version);
        };
        if !self.has_room(&known.name) {
            return Err(Why::Busy);
        }
        Ok(Answer::Welcome { version, name: known.name })
    }

    /// Enrols the key that the handshake proved, against the token.
    async fn enrol(&self, said: &Hello, pin: Pin, peer: SocketAddr) -> Result<String, Why> {
        hello::common(&said.versions).ok_or(Why::Version)?;
        let secret = said.token.as_ref().ok_or(Why::TokenUnknown)?;
        let now = jiff::Timestamp::now().as_second();
        let enrolled = self.store.enrol_connector(&secret.hash(), &pin.to_string(), now).await;
        match enrolled {
            Ok(Enrolled::As(name)) => {
                tracing::info!(%peer, key = %pin, connector = name, "a connector is enrolled");
                Ok(name)
            }
            Ok(Enrolled::Unknown) => Err(Why::TokenUnknown),
            Ok(Enrolled::Used | Enrolled::KeyKnown) => Err(Why::TokenUsed),
            Ok(Enrolled::Expired) => Err(Why::TokenExpired),
            Err(error) => {
                tracing::error!(%error, "a connector cannot be enrolled");
                Err(Why::Unavailable)
            }
        }
    }
}

/// Ends a connection so that its last line is read: closing with bytes unread would reset it.
async fn part(mut tls: TlsStream<TcpStream>) {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    if tls.shutdown().await.is_ok() {
        let _ended = tls.read_u8().await;
    }
}
