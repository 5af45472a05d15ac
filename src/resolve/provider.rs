//! What questions leave by: sockets from `dial`, bound to the egress address, or connections through
//! a tunnel.

use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hickory_resolver::net::runtime::iocompat::AsyncIoTokioAsStd;
use hickory_resolver::net::runtime::{DnsUdpSocket, RuntimeProvider, TokioHandle, TokioTime};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

use super::through::{Datagrams, Link, Way};
use crate::dial::{self, EgressAddresses};

/// How long a connection to a server may take where hickory sets no limit; the limit of the whole
/// lookup holds anyway.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// What hickory opens sockets and starts tasks with. The tasks end with the last clone.
#[derive(Clone)]
pub(super) struct Provider {
    egress: EgressAddresses,
    through: Option<Way>,
    tasks: TokioHandle,
}

impl Provider {
    pub(super) fn new(egress: EgressAddresses, through: Option<Way>) -> Self {
        Self { egress, through, tasks: TokioHandle::default() }
    }
}

impl RuntimeProvider for Provider {
    type Handle = TokioHandle;
    type Timer = TokioTime;
    type Udp = Socket;
    type Tcp = AsyncIoTokioAsStd<Connection>;

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
        let limit = limit.unwrap_or(CONNECT_TIMEOUT);
        if let Some(way) = &self.through {
            let connecting = way.connect(server);
            return Box::pin(async move {
                let link = timeout(limit, connecting).await??;
                Ok(AsyncIoTokioAsStd(Connection::Through(link)))
            });
        }
        let source = self.egress.source_for(server.ip());
        Box::pin(async move {
            let stream = timeout(limit, dial::tcp_to(server, source)).await??;
            Ok(AsyncIoTokioAsStd(Connection::Direct(stream)))
        })
    }

    // Only the port, which hickory draws anew for each question, from a wider range than the
    // kernel's, is taken from `bind` (RFC 5452, section 4.5).
    fn bind_udp(
        &self,
        bind: SocketAddr,
        server: SocketAddr,
    ) -> Pin<Box<dyn Send + Future<Output = io::Result<Socket>>>> {
        let socket = match &self.through {
            Some(way) => way.datagrams(server).map(|datagrams| Socket::Through(datagrams, server)),
            None => dial::udp_to(server, self.egress.source_for(server.ip()), bind.port())
                .map(|socket| Socket::Direct(Direct(socket))),
        };
        Box::pin(std::future::ready(socket))
    }
}

/// A connection to a name server.
pub(super) enum Connection {
    Direct(TcpStream),
    Through(Box<dyn Link>),
}

impl AsyncRead for Connection {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Direct(stream) => Pin::new(stream).poll_read(context, buffer),
            Self::Through(link) => Pin::new(link).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Direct(stream) => Pin::new(stream).poll_write(context, bytes),
            Self::Through(link) => Pin::new(link).poll_write(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Direct(stream) => Pin::new(stream).poll_flush(context),
            Self::Through(link) => Pin::new(link).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Direct(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Through(link) => Pin::new(link).poll_shutdown(context),
        }
    }
}

/// Datagrams to a name server.
pub(super) enum Socket {
    Direct(Direct),
    Through(Box<dyn Datagrams>, SocketAddr),
}

/// A connected UDP socket that tells at once when nobody listens at its other end: tokio's own
/// wakes a receiver for datagrams only, not for errors (ICMP "port unreachable").
pub(super) struct Direct(UdpSocket);

impl Direct {
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

impl Socket {
    async fn receive(&self, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        match self {
            Self::Direct(socket) => socket.receive(buffer).await,
            Self::Through(..) => poll_fn(|context| self.poll_recv_from(context, buffer)).await,
        }
    }
}

impl DnsUdpSocket for Socket {
    type Time = TokioTime;

    fn poll_recv_from(
        &self,
        context: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<(usize, SocketAddr)>> {
        match self {
            Self::Direct(Direct(socket)) => DnsUdpSocket::poll_recv_from(socket, context, buffer),
            Self::Through(datagrams, server) => {
                let length = ready!(datagrams.poll_receive(context, buffer))?;
                Poll::Ready(Ok((length, *server)))
            }
        }
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
        match self {
            Self::Direct(Direct(socket)) => {
                DnsUdpSocket::poll_send_to(socket, context, datagram, server)
            }
            Self::Through(datagrams, _) => {
                Poll::Ready(datagrams.send(datagram).map(|()| datagram.len()))
            }
        }
    }
}
