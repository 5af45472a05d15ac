//! The sockets that questions leave by: all of them from `dial`, bound to the egress address.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::time::Duration;

use hickory_resolver::net::runtime::iocompat::AsyncIoTokioAsStd;
use hickory_resolver::net::runtime::{RuntimeProvider, TokioHandle, TokioTime};
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
    type Udp = UdpSocket;
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
    ) -> Pin<Box<dyn Send + Future<Output = io::Result<UdpSocket>>>> {
        let source = self.egress.source_for(server.ip());
        Box::pin(std::future::ready(dial::udp_to(server, source, bind.port())))
    }
}
