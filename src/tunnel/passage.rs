//! An ordered list of tunnels that lead to the same place: the first that carries is used.

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use super::{Tunnel, TunnelError, TunnelState, TunnelStream};
use crate::{
    dial::staggered,
    policy::VettedAddr,
    resolve::{BoxFuture, Datagrams, Through},
};

/// How long one tunnel, or one address behind it, has to itself before the next is tried beside
/// it: longer than a usual round trip through a far network, and at once after a failure.
const ATTEMPT_DELAY: Duration = Duration::from_secs(1);

/// How many addresses are tried through one tunnel at most.
const ATTEMPTS_MAX: usize = 8;

/// Tunnels in the order in which they are tried; never empty.
#[derive(Clone, Debug)]
pub struct Passage {
    tunnels: Arc<[Arc<Tunnel>]>,
    ids: Arc<[u64]>,
    /// Why the last connection to a name server behind them did not come about.
    no_name_server: Arc<Mutex<Option<PassageError>>>,
}

/// A stream, and how it goes.
#[derive(Debug)]
pub struct Passed {
    /// The stream.
    pub stream: TunnelStream,
    /// The vetted address that the tunnel was asked for.
    pub address: SocketAddr,
    /// The tunnel's name.
    pub tunnel: Arc<str>,
}

/// Why no tunnel gave a stream: the most telling failure of all.
#[derive(Clone, Debug, thiserror::Error)]
#[error("tunnel {tunnel}: {error}")]
pub struct PassageError {
    /// The tunnel that failed like this.
    pub tunnel: Arc<str>,
    /// How.
    #[source]
    pub error: TunnelError,
}

impl Passage {
    /// Through these, in this order. `None` where there are none.
    pub fn new(tunnels: Vec<Arc<Tunnel>>) -> Option<Self> {
        let ids = tunnels.iter().map(|tunnel| tunnel.core.id).collect();
        let no_name_server = Arc::default();
        (!tunnels.is_empty()).then(|| Self { tunnels: tunnels.into(), ids, no_name_server })
    }

    /// What they are, without secrets.
    pub fn definitions(&self) -> Vec<String> {
        self.tunnels.iter().map(|tunnel| tunnel.definition()).collect()
    }

    /// The name of the tunnel that would be tried first now.
    ///
    /// # Errors
    /// All of them are known to be down.
    pub fn first(&self) -> Result<Arc<str>, PassageError> {
        let mut failure = None;
        for tunnel in self.by_health() {
            match tunnel.down() {
                None => return Ok(Arc::clone(tunnel.name())),
                Some(error) => worse(&mut failure, PassageError::of(&tunnel, error)),
            }
        }
        Err(failure.unwrap_or_else(PassageError::none))
    }

    /// Why no name server can be asked through them, where it is the tunnels' fault.
    pub fn no_name_server(&self) -> Option<PassageError> {
        let failure = self.no_name_server.lock().unwrap_or_else(PoisonError::into_inner).clone();
        // A name server that does not answer behind a tunnel that does is one's own fault.
        failure.filter(|failure| !matches!(failure.error, TunnelError::BeyondUnreachable(_)))
    }

    /// Opens a stream to one of the addresses, through whichever tunnel carries first, within
    /// `limits.connect_timeout`. Tunnels that are known to be down cost no time.
    ///
    /// # Errors
    /// The most telling failure of all.
    pub async fn open(&self, addresses: &[VettedAddr]) -> Result<Passed, PassageError> {
        self.open_any(addresses.iter().map(|one| one.addr()).take(ATTEMPTS_MAX).collect()).await
    }

    /// The limit is every attempt's own, so that none is dropped before it has noted what it found.
    pub(super) async fn open_any(
        &self,
        addresses: Vec<SocketAddr>,
    ) -> Result<Passed, PassageError> {
        let mut failure = None;
        let now = Instant::now();
        let by = self.tunnels.first().map_or(now, |tunnel| tunnel.core.deadline());
        let through = |tunnel: &Arc<Tunnel>| through(Arc::clone(tunnel), addresses.clone(), by);
        let order: Vec<_> = self.by_health().collect();
        let mut ended = Vec::new();
        let note = |error: PassageError| {
            ended.push(Arc::clone(&error.tunnel));
            worse(&mut failure, error);
        };
        let passed = staggered(order.iter().map(through), ATTEMPT_DELAY, note).await;
        if let Some(passed) = &passed {
            // Attempts that were under way are dropped, and nobody learns how they would have ended.
            let before = order.iter().take_while(|tunnel| *tunnel.name() != passed.tunnel);
            for slow in before.filter(|tunnel| !ended.contains(tunnel.name())) {
                slow.core.health.doubt();
            }
        }
        passed.ok_or_else(|| failure.unwrap_or_else(PassageError::none))
    }

    /// Those that are not known to be unfit first, otherwise in their order.
    fn by_health(&self) -> impl Iterator<Item = Arc<Tunnel>> + use<> {
        let unfit = |tunnel: &Arc<Tunnel>| tunnel.state() == TunnelState::Unreachable;
        let (last, first): (Vec<_>, Vec<_>) = self.tunnels.iter().cloned().partition(unfit);
        first.into_iter().chain(last)
    }
}

async fn through(
    tunnel: Arc<Tunnel>,
    addresses: Vec<SocketAddr>,
    by: Instant,
) -> Result<Passed, PassageError> {
    let mut failure = None;
    let attempts = addresses.into_iter().map(|address| {
        let core = Arc::clone(&tunnel.core);
        async move {
            let stream = core.open(address, by).await?;
            Ok(Passed { stream, address, tunnel: Arc::clone(&core.name) })
        }
    });
    let note = |error: TunnelError| worse(&mut failure, PassageError::of(&tunnel, error));
    let passed = staggered(attempts, ATTEMPT_DELAY, note).await;
    passed.ok_or_else(|| failure.unwrap_or_else(PassageError::none))
}

impl PassageError {
    fn of(tunnel: &Arc<Tunnel>, error: TunnelError) -> Self {
        Self { tunnel: Arc::clone(tunnel.name()), error }
    }

    /// No tunnel and no address: neither can be configured or vetted.
    fn none() -> Self {
        Self { tunnel: Arc::from(""), error: TunnelError::Unreachable("there is none".into()) }
    }

    /// How far the attempt came: the further, the more it tells.
    const fn rank(&self) -> u8 {
        match self.error {
            TunnelError::BeyondUnreachable(_) => 5,
            TunnelError::Denied(_) => 4,
            TunnelError::Auth(_) => 3,
            TunnelError::Protocol(_) => 2,
            TunnelError::Timeout => 1,
            TunnelError::Unreachable(_) => 0,
        }
    }
}

/// Keeps the more telling one, and of two alike the first.
fn worse(failure: &mut Option<PassageError>, error: PassageError) {
    if failure.as_ref().is_none_or(|before| before.rank() < error.rank()) {
        *failure = Some(error);
    }
}

/// Name servers behind the tunnels are addresses of the configuration; nobody else may choose one.
impl Through for Passage {
    fn connect(&self, server: SocketAddr) -> BoxFuture<io::Result<Box<dyn crate::resolve::Link>>> {
        let this = self.clone();
        Box::pin(async move {
            let passed = this.open_any(vec![server]).await;
            *this.no_name_server.lock().unwrap_or_else(PoisonError::into_inner) =
                passed.as_ref().err().cloned();
            match passed {
                Ok(mut passed) => {
                    // A question that is lost with it is asked once more, over the next one.
                    passed.stream.until_down();
                    let link: Box<dyn crate::resolve::Link> = Box::new(passed.stream);
                    Ok(link)
                }
                Err(failure) => Err(io::Error::other(failure.to_string())),
            }
        })
    }

    fn has_datagrams(&self) -> bool {
        self.tunnels.iter().all(|tunnel| tunnel.core.kind.has_datagrams())
    }

    /// Through the one that a stream would be tried through first: whoever hears nothing asks over
    /// a stream as well, which finds the one that carries.
    fn datagrams(&self, server: SocketAddr) -> io::Result<Box<dyn Datagrams>> {
        let tunnel = self.by_health().next().ok_or(io::ErrorKind::Unsupported)?;
        let socket = tunnel.core.datagrams(server);
        *self.no_name_server.lock().unwrap_or_else(PoisonError::into_inner) =
            socket.as_ref().err().map(|error| PassageError::of(&tunnel, error.clone()));
        Ok(Box::new(socket.map_err(io::Error::other)?))
    }

    fn key(&self) -> &[u64] {
        &self.ids
    }
}
