//! The customer's end: dials out to gateways, and opens for them what its own allowlist holds.

pub mod allow;
pub mod enrol;
pub mod settings;

mod back_off;
mod carry;
mod dial;
mod link;
mod network;

use std::{sync::Arc, time::Duration};

use rustls::ClientConfig;
use tokio::{task::JoinSet, time::sleep};
use tokio_util::sync::CancellationToken;

use super::{
    hello::{VERSIONS, Why, shown_versions},
    keys::{KeyError, PinFault},
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
    Name(#[source] std::io::Error),
    /// It cannot be dialled.
    #[error("the gateway cannot be reached: {0}")]
    Dial(#[source] std::io::Error),
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
    #[error("the connector's key: {0}")]
    Key(#[from] KeyError),
    /// The pin.
    #[error(transparent)]
    Pin(#[from] PinFault),
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
        let (settings, tls, stop) = (Arc::clone(&settings), Arc::clone(&tls), stop.clone());
        gateways.spawn(tend(gateway, settings, tls, stop));
    }
    gateways.join_all().await;
    Ok(())
}

/// Keeps a connection to one gateway.
async fn tend(
    gateway: Authority,
    settings: Arc<Settings>,
    tls: Arc<ClientConfig>,
    stop: CancellationToken,
) {
    let instance = ulid::Ulid::new().to_string();
    let mut back_off = BackOff::default();
    let mut links = JoinSet::new();
    while !stop.is_cancelled() {
        let leaving = CancellationToken::new();
        let link = Link {
            gateway: gateway.clone(),
            settings: Arc::clone(&settings),
            tls: Arc::clone(&tls),
            instance: instance.clone(),
            stop: stop.clone(),
            leaving: leaving.clone(),
        };
        let own = links.spawn(link.run()).id();
        let ended = loop {
            tokio::select! {
                Some(ended) = links.join_next_with_id() => match ended {
                    Ok((id, ended)) if id == own => break Some(ended),
                    // One that the gateway left, or a task that broke.
                    Ok(_) => {}
                    Err(error) if error.id() == own => break None,
                    Err(_) => {}
                },
                // Its streams end by themselves while the next connection is made.
                () = leaving.cancelled() => break None,
            }
        };
        let wait = match ended {
            Some(Ended::Stopped) => break,
            Some(Ended::Failed { error, stood }) => {
                let wait = back_off.after(stood, jitter());
                tracing::warn!(
                    gateway = %gateway, %error, retry_in_ms = wait.as_millis(), "not connected"
                );
                wait
            }
            None => {
                tracing::info!(gateway = %gateway, "the gateway leaves; dialling it anew");
                back_off.after(None, jitter())
            }
        };
        tokio::select! {
            () = sleep(wait) => {}
            () = network::changed() => tracing::info!("the network has changed; dialling again"),
            () = stop.cancelled() => {}
        }
    }
    links.join_all().await;
}

/// Random, from 0 to 1023.
fn jitter() -> u32 {
    let random = ulid::Ulid::new().random().checked_rem(u128::from(back_off::JITTER_PARTS));
    random.and_then(|part| u32::try_from(part).ok()).unwrap_or_default()
}
