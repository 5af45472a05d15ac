//! The edge of the demo's private network: a SOCKS5 hop (RFC 1928), as a customer would run it. It
//! opens connections to one address inside and to nothing else.

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

const NOT_ALLOWED: u8 = 2;
const REFUSED: u8 = 5;

/// A running hop; it ends, with the connections through it, when dropped.
pub(super) struct Hop {
    /// Where it listens.
    pub(super) address: SocketAddr,
    tasks: JoinSet<()>,
}

impl Hop {
    /// Starts a hop on loopback. It leads to `inside`, an address of the private network, which is
    /// really at `place`: only the hop knows that.
    pub(super) async fn start(inside: SocketAddr, place: SocketAddr) -> io::Result<Self> {
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
                let carry = carry(stream, inside, place);
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

async fn carry(mut stream: TcpStream, inside: SocketAddr, place: SocketAddr) -> io::Result<()> {
    let [_version, methods] = read(&mut stream).await?;
    stream.read_exact(&mut vec![0; methods.into()]).await?;
    stream.write_all(&[5, 0]).await?;
    let [_version, _command, _reserved, kind] = read(&mut stream).await?;
    let ip = match kind {
        1 => Some(IpAddr::from(read::<4>(&mut stream).await?)),
        4 => Some(IpAddr::from(read::<16>(&mut stream).await?)),
        // A name: this hop looks nothing up.
        _ => None,
    };
    let asked = match ip {
        Some(ip) => Some(SocketAddr::new(ip, stream.read_u16().await?)),
        None => None,
    };
    if asked != Some(inside) {
        return reply(&mut stream, NOT_ALLOWED).await;
    }
    let Ok(mut onward) = dial(place).await else { return reply(&mut stream, REFUSED).await };
    reply(&mut stream, 0).await?;
    copy_bidirectional(&mut stream, &mut onward).await.map(drop)
}

async fn read<const N: usize>(stream: &mut TcpStream) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    stream.read_exact(&mut bytes).await?;
    Ok(bytes)
}

async fn reply(stream: &mut TcpStream, code: u8) -> io::Result<()> {
    stream.write_all(&[5, code, 0, 1, 0, 0, 0, 0, 0, 0]).await
}

#[expect(
    clippy::disallowed_methods,
    reason = "the demo's hop leads to the demo's own receiver, on loopback"
)]
async fn dial(place: SocketAddr) -> io::Result<TcpStream> {
    TcpStream::connect(place).await
}
