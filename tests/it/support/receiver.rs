//! Real receivers: what stands at a target's address.

use super::{eventually, http::Conn};
use socket2::{Domain, Protocol, Socket, Type};
use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tokio_rustls::TlsAcceptor;

/// How a connection ended, as the receiver saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The other side finished its stream.
    Finished,
    /// The other side reset the connection.
    Reset,
}

/// What one connection brought.
#[derive(Clone, Debug)]
pub(crate) struct Visit {
    /// Who connected.
    pub(crate) peer: SocketAddr,
    /// Every byte received so far.
    pub(crate) bytes: Vec<u8>,
    /// Set once the other side is through.
    pub(crate) end: Option<End>,
}

/// A listening receiver; it stops when dropped.
pub(crate) struct Receiver {
    visits: Visits,
    _tasks: JoinSet<()>,
}

type Visits = Arc<Mutex<Vec<Visit>>>;

/// One connection at a receiver; what it reads is noted.
pub(crate) struct Guest {
    stream: TcpStream,
    visits: Visits,
    index: usize,
}

impl Receiver {
    /// Handles every connection to `address` with `handler`.
    pub(crate) fn with<F, Fut>(address: (IpAddr, u16), handler: F) -> Self
    where
        F: Fn(Guest) -> Fut + Send + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let listener = listen(address.into());
        let visits = Visits::default();
        let seen = Arc::clone(&visits);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut guests = JoinSet::new();
            while let Ok((stream, peer)) = listener.accept().await {
                let index = {
                    let mut visits = seen.lock().unwrap();
                    visits.push(Visit { peer, bytes: Vec::new(), end: None });
                    visits.len() - 1
                };
                guests.spawn(handler(Guest { stream, visits: Arc::clone(&seen), index }));
            }
        });
        Self { visits, _tasks: tasks }
    }

    /// Sends back what it receives; finishes when the other side does.
    pub(crate) fn echo(address: (IpAddr, u16)) -> Self {
        Self::with(address, async |mut guest| {
            while let Some(bytes) = guest.read().await {
                if guest.write(&bytes).await.is_err() {
                    return;
                }
            }
            guest.finish().await;
        })
    }

    /// Reads everything and says nothing.
    pub(crate) fn silent(address: (IpAddr, u16)) -> Self {
        Self::with(address, async |mut guest| while guest.read().await.is_some() {})
    }

    /// Speaks first, then behaves like [`Self::echo`].
    pub(crate) fn greeting(address: (IpAddr, u16), greeting: &'static [u8]) -> Self {
        Self::with(address, async move |mut guest| {
            drop(guest.write(greeting).await);
            while let Some(bytes) = guest.read().await {
                drop(guest.write(&bytes).await);
            }
            guest.finish().await;
        })
    }

    /// Serves `body` for every request over HTTPS.
    pub(crate) fn https(
        address: (IpAddr, u16),
        tls: Arc<rustls::ServerConfig>,
        answer: impl Fn(&str) -> Option<Vec<u8>> + Send + Sync + 'static,
    ) -> Self {
        let acceptor = TlsAcceptor::from(tls);
        let answer = Arc::new(answer);
        Self::with(address, move |guest| {
            let (acceptor, answer) = (acceptor.clone(), Arc::clone(&answer));
            async move {
                let Ok(stream) = acceptor.accept(guest.stream).await else { return };
                let mut conn = Conn::server(stream);
                while let Ok(Some(request)) = conn.request_line().await {
                    let path = request.split(' ').nth(1).unwrap_or_default();
                    let (status, body) = match answer(path) {
                        Some(body) => ("200 OK", body),
                        None => ("404 Not Found", Vec::new()),
                    };
                    let head =
                        format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n", body.len());
                    if conn.try_send([head.as_bytes(), &body].concat()).await.is_err() {
                        return;
                    }
                }
            }
        })
    }

    /// What came so far.
    pub(crate) fn visits(&self) -> Vec<Visit> {
        self.visits.lock().unwrap().clone()
    }

    /// Waits until the first connection satisfies `condition`.
    pub(crate) async fn first(&self, what: &str, condition: impl Fn(&Visit) -> bool) -> Visit {
        eventually(what, async || {
            self.visits.lock().unwrap().first().filter(|visit| condition(visit)).cloned()
        })
        .await
    }

    /// Panics if a connection came, or brought a byte.
    pub(crate) fn assert_no_byte(&self) {
        for visit in self.visits() {
            assert!(visit.bytes.is_empty(), "a byte reached the target: {visit:?}");
        }
    }

    /// Panics if any connection came.
    pub(crate) fn assert_not_reached(&self) {
        assert!(self.visits().is_empty(), "the target was reached: {:?}", self.visits());
    }
}

impl Guest {
    /// The connection itself; what is read from now on is not noted.
    pub(crate) fn into_stream(self) -> TcpStream {
        self.stream
    }

    /// The next bytes; nothing once the other side is through.
    pub(crate) async fn read(&mut self) -> Option<Vec<u8>> {
        let mut buffer = vec![0; 64 * 1024];
        let read = self.stream.read(&mut buffer).await;
        let mut visits = self.visits.lock().unwrap();
        let visit = &mut visits[self.index];
        match read {
            Ok(0) => visit.end = Some(End::Finished),
            Ok(length) => {
                buffer.truncate(length);
                visit.bytes.extend_from_slice(&buffer);
                return Some(buffer);
            }
            Err(_) => visit.end = Some(End::Reset),
        }
        None
    }

    /// Writes.
    pub(crate) async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).await
    }

    /// Finishes this direction; the other stays open.
    pub(crate) async fn finish(&mut self) {
        drop(self.stream.shutdown().await);
    }

    /// Resets the connection.
    pub(crate) fn reset(self) {
        self.stream.set_zero_linger().unwrap();
    }
}

/// An address that answers no connection attempt: its queue is full, the kernel drops what comes.
pub(crate) struct Deaf {
    _listener: Socket,
    _queue: Vec<TcpStream>,
}

impl Deaf {
    /// Takes the address, once whoever listened there before is gone.
    pub(crate) async fn start(address: (IpAddr, u16)) -> Self {
        eventually("nobody listens on the address", async || {
            let refused = |error: io::Error| error.kind() == io::ErrorKind::ConnectionRefused;
            TcpStream::connect(address).await.is_err_and(refused).then_some(())
        })
        .await;
        let listener = bound(address.into());
        listener.listen(0).unwrap();
        // With a backlog of 0 one connection waits in the queue; it is never accepted.
        let queue = vec![TcpStream::connect(address).await.unwrap()];
        Self { _listener: listener, _queue: queue }
    }
}

/// Listens on an address that a wildcard listener may share.
pub(crate) fn listen(address: SocketAddr) -> TcpListener {
    let socket = bound(address);
    socket.listen(1024).unwrap();
    TcpListener::from_std(socket.into()).unwrap()
}

fn bound(address: SocketAddr) -> Socket {
    let socket =
        Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP)).unwrap();
    if address.is_ipv6() {
        socket.set_only_v6(true).unwrap();
    }
    socket.set_reuse_address(true).unwrap();
    socket.set_reuse_port(true).unwrap();
    socket.set_nonblocking(true).unwrap();
    socket.bind(&address.into()).unwrap_or_else(|error| panic!("bind {address}: {error}"));
    socket
}
