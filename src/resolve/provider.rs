//! The sockets that questions leave by: all of them from `dial`, bound to the egress address.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use hickory_resolver::net::runtime::iocompat::AsyncIoTokioAsStd;
use hickory_resolver::net::runtime::{DnsUdpSocket, RuntimeProvider, TokioHandle, TokioTime};
use tokio::io::Interest;
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

use crate::dial::{self, EgressAddresses};

/// How long a connection to a server may take where hickory sets no limit; the limit of the whole
/// lookup holds anyway.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// What hickory opens sockets and starts tasks with. The tasks end with the last clone.
#[derive(Clone)]
pub(super) struct Provider {
    egress: EgressAddresses,
    tasks: TokioHandle,
}

impl Provider {
    pub(super) fn new(egress: EgressAddresses) -> Self {
        Self { egress, tasks: TokioHandle::default() }
    }
}

impl RuntimeProvider for Provider {
    type Handle = TokioHandle;
    type Timer = TokioTime;
    type Udp = Datagrams;
    type Tcp = AsyncIoTokioAsStd<TcpStream>;

    fn create_handle(&self) -> TokioHandle {
        self.tasks.clone()
    }

    // What hickory would bind to is an address that it was never told; ours is the egress address.
    fn connect_tcp(
        &self,
        server: SocketAddr,
        _bind: Option<SocketAddr>,
        limit: Option<Duration>,
    ) -> Pin<Box<dyn Send + Future<Output = io::Result<Self::Tcp>>>> {
        let source = self.egress.source_for(server.ip());
        Box::pin(async move {
            let limit = limit.unwrap_or(CONNECT_TIMEOUT);
            let stream = timeout(limit, dial::tcp_to(server, source)).await??;
            Ok(AsyncIoTokioAsStd(stream))
        })
    }

    // Only the port, which hickory draws anew for each question, from a wider range than the
    // kernel's, is taken from `bind` (RFC 5452, section 4.5).
    fn bind_udp(
        &self,
        bind: SocketAddr,
        server: SocketAddr,
    ) -> Pin<Box<dyn Send + Future<Output = io::Result<Datagrams>>>> {
        let source = self.egress.source_for(server.ip());
        Box::pin(std::future::ready(dial::udp_to(server, source, bind.port()).map(Datagrams)))
    }
}

/// A connected UDP socket that tells at once when nobody listens at its other end: tokio's own
/// wakes a receiver for datagrams only, not for errors (ICMP "port unreachable").
pub(super) struct Datagrams(UdpSocket);

impl Datagrams {
    async fn receive(&self, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        loop {
            let _which = self.0.ready(Interest::READABLE.add(Interest::ERROR)).await?;
            if let Some(error) = self.0.take_error()? {
                return Err(error);
            }
            match self.0.try_recv_from(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                received => return received,
            }
            // an error that somebody else has taken must not wake us again
            let nothing = || Err::<(), _>(io::ErrorKind::WouldBlock.into());
            drop(self.0.try_io(Interest::ERROR, nothing));
        }
    }
}

impl DnsUdpSocket for Datagrams {
    type Time = TokioTime;

    fn poll_recv_from(
        &self,
        context: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<(usize, SocketAddr)>> {
        DnsUdpSocket::poll_recv_from(&self.0, context, buffer)
    }

    // what `#[async_trait]` makes of an `async fn`
    fn recv_from<'socket, 'buffer, 'both>(
        &'socket self,
        buffer: &'buffer mut [u8],
    ) -> Pin<Box<dyn Future<Output = io::Result<(usize, SocketAddr)>> + Send + 'both>>
    where
        'socket: 'both,
        'buffer: 'both,
        Self: 'both,
    {
        Box::pin(self.receive(buffer))
    }

    fn poll_send_to(
        &self,
        context: &mut Context<'_>,
        datagram: &[u8],
        server: SocketAddr,
    ) -> Poll<io::Result<usize>> {
        DnsUdpSocket::poll_send_to(&self.0, context, datagram, server)
    }
}
