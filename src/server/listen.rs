//! Listening sockets: bound for take-over, accepting within limits, closed without losing anybody.

use std::{
    io,
    net::{SocketAddr, TcpListener as StdListener},
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwapOption;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    net::{TcpListener, TcpStream},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::{OpenConnection, Place, Server, connection, tls::ServerTls};

/// Connections that the kernel keeps for us while we are busy.
const BACKLOG: i32 = 4096;

/// After a failure to accept that says "out of something", how long to leave the rest their share.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How long handshakes that had begun may take to end once a listener stops taking new ones.
const HANDSHAKES_TIMEOUT: Duration = Duration::from_millis(500);

/// Tasks that do nothing but say that there is no room; past this, connections are just closed.
const REJECTIONS_MAX: usize = 256;

/// A listening socket.
#[derive(Debug)]
pub struct Listener {
    socket: TcpListener,
    /// Handed down by the service manager, who goes on listening on it after us.
    inherited: bool,
}

impl Listener {
    /// Binds `address` so that a successor can bind it too (`SO_REUSEPORT`).
    ///
    /// # Errors
    /// What the kernel says.
    pub fn bind(address: SocketAddr) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        if address.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        Ok(Self { socket: TcpListener::from_std(socket.into())?, inherited: false })
    }

    /// Takes a socket that the service manager listens on.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn inherited(socket: StdListener) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        Ok(Self { socket: TcpListener::from_std(socket)?, inherited: true })
    }

    /// The address it is bound to.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// Takes the socket out, for a server that accepts by itself.
    pub fn into_tokio(self) -> TcpListener {
        self.socket
    }

    /// Accepts until `stop`, then takes in what is queued and closes.
    pub async fn serve(
        self,
        server: Server,
        tls: Arc<ArcSwapOption<ServerTls>>,
        stop: CancellationToken,
    ) {
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                accepted = self.socket.accept() => take_in(accepted, &server, &tls).await,
            }
        }
        self.refuse_new_handshakes();
        let queued = async {
            loop {
                take_in(self.socket.accept().await, &server, &tls).await;
            }
        };
        let until = if self.inherited { Duration::ZERO } else { HANDSHAKES_TIMEOUT };
        let _ended = tokio::time::timeout(until, queued).await;
    }

    /// Makes the kernel ignore further connection attempts on this socket. The client's kernel
    /// repeats them within a second, by when this socket is closed and a successor's, if there is
    /// one, gets them. Closing at once would instead reset the handshakes that are half done.
    ///
    /// The filter (classic BPF) drops segments that have SYN but not ACK, and nothing else.
    fn refuse_new_handshakes(&self) {
        const FLAGS_OFFSET: u32 = 13; // of the TCP header (RFC 9293, section 3.1)
        const SYN: u32 = 0x02;
        const SYN_ACK: u32 = 0x12;
        if self.inherited {
            // The socket is the service manager's; its queue waits for whoever is started next.
            return;
        }
        let statement = socket2::SockFilter::new;
        let filter = [
            statement(0x30, 0, 0, FLAGS_OFFSET), // A = flags
            statement(0x54, 0, 0, SYN_ACK),      // A &= SYN|ACK
            statement(0x15, 0, 1, SYN),          // SYN alone?
            statement(0x06, 0, 0, 0),            // drop
            statement(0x06, 0, 0, u32::MAX),     // keep
        ];
        if let Err(error) = socket2::SockRef::from(&self.socket).attach_filter(&filter) {
            tracing::warn!(%error, "new handshakes cannot be held back while the listener closes");
        }
    }
}

async fn take_in(
    accepted: io::Result<(TcpStream, SocketAddr)>,
    server: &Server,
    tls: &Arc<ArcSwapOption<ServerTls>>,
) {
    let stream = match accepted {
        Ok((stream, _)) => stream,
        Err(error) => {
            // Errors of one connection (it was reset while queued) concern nobody else.
            if !is_of_connection(&error) {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
            return;
        }
    };
    let accepted = Instant::now();
    let _best_effort = stream.set_nodelay(true);
    let limit = usize::try_from(server.gateway.view.load().limits.max_connections);
    let tls = tls.load_full();
    if let Some(open) = OpenConnection::take(server, limit.unwrap_or(usize::MAX)) {
        let own = server.clone();
        server.tasks.spawn(async move {
            connection::serve(own, stream, accepted, tls).await;
            drop(open);
        });
    } else if tls.is_none()
        && let Some(told) = Place::take(&server.rejected, REJECTIONS_MAX)
    {
        let own = server.clone();
        server.tasks.spawn(async move {
            connection::reject(&own, stream, accepted).await;
            drop(told);
        });
    }
}

fn is_of_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
    )
}
