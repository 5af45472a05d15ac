//! The customer's end: dials out to gateways, and opens for them what its own allowlist holds.

pub mod allow;
pub mod enrol;
pub mod settings;

mod back_off;
mod carry;
mod dial;
mod feed;
mod link;
mod network;

use std::{sync::Arc, time::Duration};

use rustls::ClientConfig;
use tokio::{task::JoinSet, time::sleep};
use tokio_util::sync::CancellationToken;

use super::{
    hello::{VERSIONS, Why, shown_versions},
    keys::KeyError,
};
use crate::origin::Authority;
use back_off::BackOff;
use link::{Ended, Link};
use settings::Settings;

/// How long streams may take to end once the connector was told to stop.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(30);

/// Why there is no connection to a gateway, or none any more.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// Its name leads nowhere.
    #[error("the gateway's name does not resolve: {0}")]
    Name(std::io::Error),
    /// It cannot be dialled.
    #[error("the gateway cannot be reached: {0}")]
    Dial(std::io::Error),
    /// TLS, or the pin.
    #[error("{0}")]
    Tls(String),
    /// It does not answer as a gateway does.
    #[error("the gateway does not speak the connector's protocol: {0}")]
    Protocol(String),
    /// It says no. The versions are the gateway's.
    #[error("the gateway refuses this connector: {}", refused(*.0, .1))]
    Refused(Why, Vec<u32>),
    /// No answer in time.
    #[error("the gateway did not answer in time")]
    Timeout,
    /// The connection stood, and does no more.
    #[error("the connection was lost: {0}")]
    Lost(&'static str),
    /// The key.
    #[error(transparent)]
    Key(#[from] KeyError),
}

fn refused(why: Why, theirs: &[u32]) -> String {
    if why == Why::Version {
        let (theirs, ours) = (shown_versions(theirs), shown_versions(VERSIONS));
        format!("it speaks version {theirs} of the protocol, this connector version {ours}")
    } else {
        why.to_string()
    }
}

/// Keeps a connection to each gateway until `stop`, then lets open streams end for
/// [`DRAIN_TIMEOUT`].
///
/// # Errors
/// The key cannot be used with TLS 1.3.
pub async fn run(settings: Settings, stop: CancellationToken) -> Result<(), KeyError> {
    let settings = Arc::new(settings);
    let tls = settings.key.client(settings.pins.clone())?;
    let mut gateways = JoinSet::new();
    for gateway in settings.gateways.clone() {
        let tended = Tended {
            gateway,
            settings: Arc::clone(&settings),
            tls: Arc::clone(&tls),
            stop: stop.clone(),
            instance: ulid::Ulid::new().to_string(),
            links: JoinSet::new(),
        };
        gateways.spawn(tended.run());
    }
    gateways.join_all().await;
    Ok(())
}

/// One gateway, to which a connection is kept.
struct Tended {
    gateway: Authority,
    settings: Arc<Settings>,
    tls: Arc<ClientConfig>,
    stop: CancellationToken,
    /// Tells the gateway that a connection replaces the one before it.
    instance: String,
    /// The connection, and those that the gateway left, whose streams have yet to end.
    links: JoinSet<Ended>,
}

impl Tended {
    async fn run(mut self) {
        let mut back_off = BackOff::default();
        while !self.stop.is_cancelled() {
            let stood = match self.connect().await {
                Some(Ended::Stopped) => break,
                Some(Ended::Failed { error, stood }) => {
                    tracing::warn!(gateway = %self.gateway, %error, "not connected");
                    stood
                }
                None => {
                    tracing::info!(gateway = %self.gateway, "the gateway leaves");
                    None
                }
            };
            tokio::select! {
                () = sleep(back_off.after(stood, jitter())) => {}
                () = network::changed() => {}
                () = self.stop.cancelled() => {}
            }
        }
        self.links.join_all().await;
    }

    /// Connects, and waits until the connection has ended, or until the gateway asks to be dialled
    /// anew (`None`).
    async fn connect(&mut self) -> Option<Ended> {
        let leaving = CancellationToken::new();
        let link = Link {
            gateway: self.gateway.clone(),
            settings: Arc::clone(&self.settings),
            tls: Arc::clone(&self.tls),
            instance: self.instance.clone(),
            stop: self.stop.clone(),
            leaving: leaving.clone(),
        };
        let own = self.links.spawn(link.run()).id();
        loop {
            let ended = tokio::select! {
                ended = self.links.join_next_with_id() => ended,
                () = leaving.cancelled() => return None,
            };
            match ended {
                Some(Ok((id, ended))) if id == own => return Some(ended),
                // One that the gateway left before.
                Some(Ok(_)) => {}
                // A task that broke is no connection either.
                Some(Err(_)) | None => return None,
            }
        }
    }
}

/// Random, from 0 to 1023.
fn jitter() -> u32 {
    let random = ulid::Ulid::new().random().checked_rem(u128::from(back_off::JITTER_PARTS));
    random.and_then(|part| u32::try_from(part).ok()).unwrap_or_default()
}
