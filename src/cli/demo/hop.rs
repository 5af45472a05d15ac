//! The edge of the demo's private network: a hop of SOCKS5 (RFC 1928) or of HTTP CONNECT, as a
//! customer would run it. It opens connections to one address inside and to nothing else.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

/// Longest time a connection through the hop lives: longer than any scene.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(20);

/// After a connection that could not be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);

/// Largest head of a CONNECT: the gateway's have some eighty bytes.
const HEAD_BYTES_MAX: usize = 1024;

/// What a hop understands.
#[derive(Clone, Copy)]
pub(super) enum Protocol {
    /// SOCKS5, without a password.
    Socks5,
    /// HTTP CONNECT, likewise.
    Connect,
}

/// What becomes of a connection that it is asked for.
#[derive(Clone, Copy)]
enum Reply {
    Opened,
    NotAllowed,
    Failed,
}

/// A running hop; it ends, with the connections through it, when dropped.
pub(super) struct Hop {
    /// Where it listens.
    pub(super) address: SocketAddr,
    tasks: JoinSet<()>,
}

impl Hop {
    /// Starts a hop on loopback. It leads to `inside`, an address of the private network, which is
    /// really at `place`: only the hop knows that.
    pub(super) async fn start(
        protocol: Protocol,
        inside: SocketAddr,
        place: SocketAddr,
    ) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let Ok((stream, _)) = listener.accept().await else {
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                };
                let carry = carry(protocol, stream, inside, place);
                connections.spawn(tokio::time::timeout(CONNECTION_TIMEOUT, carry));
                while connections.try_join_next().is_some() {}
            }
        });
        Ok(Self { address, tasks })
    }

    /// Ends it: who dials it from now on is refused.
    pub(super) async fn stop(&mut self) {
        self.tasks.shutdown().await;
    }
}

async fn carry(
    protocol: Protocol,
    mut stream: TcpStream,
    inside: SocketAddr,
    place: SocketAddr,
) -> io::Result<()> {
    let asked = match protocol {
        Protocol::Socks5 => asked_by_socks5(&mut stream).await?,
        Protocol::Connect => asked_by_connect(&mut stream).await?,
    };
    if asked != Some(inside) {
        return stream.write_all(protocol.says(Reply::NotAllowed)).await;
    }
    let Ok(mut onward) = dial(place).await else {
        return stream.write_all(protocol.says(Reply::Failed)).await;
    };
    stream.write_all(protocol.says(Reply::Opened)).await?;
    copy_bidirectional(&mut stream, &mut onward).await.map(drop)
}

impl Protocol {
    const fn says(self, reply: Reply) -> &'static [u8] {
        match (self, reply) {
            (Self::Socks5, Reply::Opened) => &[5, 0, 0, 1, 0, 0, 0, 0, 0, 0],
            (Self::Socks5, Reply::NotAllowed) => &[5, 2, 0, 1, 0, 0, 0, 0, 0, 0],
            (Self::Socks5, Reply::Failed) => &[5, 5, 0, 1, 0, 0, 0, 0, 0, 0],
            (Self::Connect, Reply::Opened) => b"HTTP/1.1 200 OK\r\n\r\n",
            (Self::Connect, Reply::NotAllowed) => b"HTTP/1.1 403 Forbidden\r\n\r\n",
            (Self::Connect, Reply::Failed) => b"HTTP/1.1 503 Service Unavailable\r\n\r\n",
        }
    }
}

/// What it is asked for; `None`: a name. This hop looks nothing up.
async fn asked_by_socks5(stream: &mut TcpStream) -> io::Result<Option<SocketAddr>> {
    let [_version, methods] = read(stream).await?;
    stream.read_exact(&mut vec![0; methods.into()]).await?;
    stream.write_all(&[5, 0]).await?;
    let [_version, _command, _reserved, kind] = read(stream).await?;
    let ip = match kind {
        1 => IpAddr::from(read::<4>(stream).await?),
        4 => IpAddr::from(read::<16>(stream).await?),
        _ => return Ok(None),
    };
    Ok(Some(SocketAddr::new(ip, stream.read_u16().await?)))
}

/// Likewise.
async fn asked_by_connect(stream: &mut TcpStream) -> io::Result<Option<SocketAddr>> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() >= HEAD_BYTES_MAX {
            return Ok(None);
        }
        head.push(stream.read_u8().await?);
    }
    let asked = head.strip_prefix(b"CONNECT ").and_then(|rest| rest.split(|b| *b == b' ').next());
    Ok(asked.and_then(|asked| str::from_utf8(asked).ok()?.parse().ok()))
}

async fn read<const N: usize>(stream: &mut TcpStream) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    stream.read_exact(&mut bytes).await?;
    Ok(bytes)
}

#[expect(
    clippy::disallowed_methods,
    reason = "the demo's hops lead to the demo's own receiver, on loopback"
)]
pub(super) async fn dial(place: SocketAddr) -> io::Result<TcpStream> {
    TcpStream::connect(place).await
}
