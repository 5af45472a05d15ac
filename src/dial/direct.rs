//! Direct connections: happy eyeballs over vetted addresses, from the egress address.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use super::{DialError, EgressAddresses, socket, staggered};
use crate::policy::VettedAddr;

/// How long one address has to itself before the next is tried beside it (RFC 8305, section 8,
/// "Connection Attempt Delay").
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);

/// How many addresses are tried at most: an answer may hold many more.
const ATTEMPTS_MAX: usize = 8;

/// A connection that stands, with the peer that was asked for.
#[derive(Debug)]
pub struct Dialled {
    /// The connection.
    pub stream: TcpStream,
    /// The vetted address that it leads to.
    pub address: SocketAddr,
    /// How long it took, attempts at other addresses included.
    pub elapsed: Duration,
}

/// The direct way out, from the egress addresses.
#[derive(Clone, Debug)]
pub struct Direct {
    egress: EgressAddresses,
    limit: Duration,
}

impl Direct {
    /// A dialler that binds to `egress` and gives up after `connect_timeout`, all addresses
    /// together.
    pub fn new(egress: EgressAddresses, connect_timeout: Duration) -> Self {
        Self { egress, limit: connect_timeout }
    }

    /// Connects to one of the addresses, whichever answers first, by happy eyeballs (RFC 8305):
    /// families take turns, IPv6 first; the next address is tried 250 ms after the last, or at
    /// once when one fails; at most eight are tried. Those of a family without an egress address,
    /// while the other has one, are left out.
    ///
    /// The stream's peer has been compared with the address. Attempts that lost are closed.
    pub async fn connect(&self, addresses: &[VettedAddr]) -> Result<Dialled, DialError> {
        self.connect_any(addresses.iter().map(|vetted| vetted.addr())).await
    }

    async fn connect_any(
        &self,
        addresses: impl Iterator<Item = SocketAddr>,
    ) -> Result<Dialled, DialError> {
        let started = Instant::now();
        let usable = addresses.filter(|address| self.egress.uses(address.ip()));
        let attempts = in_turns(usable).into_iter().map(|address| async move {
            let stream = socket::connect(address, self.egress.source_for(address.ip())).await?;
            Ok((stream, address))
        });
        let mut failure = None;
        let note = |error: DialError| {
            failure = Some(match failure.take() {
                Some(before) => error.more_telling(before),
                None => error,
            });
        };
        match timeout(self.limit, staggered(attempts, ATTEMPT_DELAY, note)).await {
            Ok(Some((stream, address))) => {
                Ok(Dialled { stream, address, elapsed: started.elapsed() })
            }
            Ok(None) => Err(failure.unwrap_or(DialError::FamilyUnavailable)),
            // those still running had no answer
            Err(_) => Err(DialError::Timeout.more_telling(failure.unwrap_or(DialError::Timeout))),
        }
    }

    /// [`Self::connect`] for tests of this module, which have no policy to vet addresses.
    #[cfg(test)]
    pub(super) async fn connect_unvetted(
        &self,
        addresses: &[SocketAddr],
    ) -> Result<Dialled, DialError> {
        self.connect_any(addresses.iter().copied()).await
    }
}

/// The order of the attempts (RFC 8305, section 4): families by turns, IPv6 first, each in the
/// order given; the first eight, each once.
fn in_turns(addresses: impl Iterator<Item = SocketAddr>) -> Vec<SocketAddr> {
    let (mut turn, mut next_turn): (VecDeque<_>, VecDeque<_>) =
        addresses.partition(|address| address.ip().to_canonical().is_ipv6());
    let mut order = Vec::new();
    while order.len() < ATTEMPTS_MAX {
        if let Some(address) = turn.pop_front() {
            if !order.contains(&address) {
                order.push(address);
            }
        } else if next_turn.is_empty() {
            break;
        }
        std::mem::swap(&mut turn, &mut next_turn);
    }
    order
}
