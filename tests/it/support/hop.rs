//! Hops: proxies at the edge of a customer's network, which note what they are asked for.

use super::receiver;
use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
};
use tokio_rustls::TlsAcceptor;

/// A hop; with it end the connections through it.
pub(crate) struct Hop {
    noted: Arc<Noted>,
    _tasks: JoinSet<()>,
}

/// What a hop has seen.
#[derive(Default)]
pub(crate) struct Noted {
    /// Who connected.
    peers: Mutex<Vec<IpAddr>>,
    /// What was asked for: an address and port, or whatever else it was.
    asked: Mutex<Vec<String>>,
    /// The heads of CONNECT requests, and SOCKS5's user names and passwords.
    heads: Mutex<Vec<String>>,
}

impl Hop {
    /// A SOCKS5 hop. With `user`, it wants this user name and password.
    pub(crate) fn socks(
        address: (IpAddr, u16),
        user: Option<(&'static str, &'static str)>,
    ) -> Self {
        Self::with(address, move |mut stream, noted| async move {
            stream.read_exact(&mut [0; 1]).await?;
            let methods = counted(&mut stream).await?;
            let method = if user.is_some() { 2 } else { 0 };
            if !methods.contains(&method) {
                return stream.write_all(&[5, 0xff]).await;
            }
            stream.write_all(&[5, method]).await?;
            if let Some((name, password)) = user {
                stream.read_exact(&mut [0; 1]).await?;
                let shown = (counted(&mut stream).await?, counted(&mut stream).await?);
                let right = shown == (name.as_bytes().to_vec(), password.as_bytes().to_vec());
                stream.write_all(&[1, u8::from(!right)]).await?;
            }
            let mut request = [0; 4];
            stream.read_exact(&mut request).await?;
            let host = match request[3] {
                1 => IpAddr::from(read::<4>(&mut stream).await?).to_string(),
                4 => IpAddr::from(read::<16>(&mut stream).await?).to_string(),
                _ => String::from_utf8(counted(&mut stream).await?).unwrap(),
            };
            let port = u16::from_be_bytes(read(&mut stream).await?);
            match noted.reach(&format!("{host}:{port}")).await {
                Ok(onward) => {
                    stream.write_all(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0]).await?;
                    carry(stream, onward).await
                }
                Err(_) => stream.write_all(&[5, 5, 0, 1, 0, 0, 0, 0, 0, 0]).await,
            }
        })
    }

    /// A hop that understands CONNECT, over TLS where there is an acceptor.
    pub(crate) fn http(address: (IpAddr, u16), tls: Option<TlsAcceptor>) -> Self {
        Self::with(address, move |stream, noted| {
            let tls = tls.clone();
            async move {
                match tls {
                    None => connect(stream, &noted).await,
                    Some(tls) => connect(tls.accept(stream).await?, &noted).await,
                }
            }
        })
    }

    /// A hop that reads a CONNECT and answers every one with these bytes.
    pub(crate) fn answering(address: (IpAddr, u16), answer: &'static [u8]) -> Self {
        Self::with(address, move |mut stream, noted| async move {
            let (asked, _head) = request(&mut stream).await?;
            noted.asked.lock().unwrap().push(asked);
            stream.write_all(answer).await?;
            tokio::io::copy(&mut stream, &mut tokio::io::sink()).await.map(drop)
        })
    }

    fn with<F, R>(address: (IpAddr, u16), serve: F) -> Self
    where
        F: Fn(TcpStream, Arc<Noted>) -> R + Send + 'static,
        R: Future<Output = io::Result<()>> + Send + 'static,
    {
        let listener = receiver::listen(address.into());
        let noted: Arc<Noted> = Arc::default();
        let seen = Arc::clone(&noted);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, peer)) = listener.accept().await {
                seen.peers.lock().unwrap().push(peer.ip());
                let connection = serve(stream, Arc::clone(&seen));
                connections.spawn(async move { drop(connection.await) });
            }
        });
        Self { noted, _tasks: tasks }
    }

    /// What it was asked for so far.
    pub(crate) fn asked(&self) -> Vec<String> {
        self.noted.asked.lock().unwrap().clone()
    }

    /// What it was asked for so far, each once.
    pub(crate) fn asked_once(&self) -> Vec<String> {
        let mut asked = self.asked();
        asked.sort();
        asked.dedup();
        asked
    }

    /// The heads of CONNECT requests.
    pub(crate) fn heads(&self) -> Vec<String> {
        self.noted.heads.lock().unwrap().clone()
    }

    /// From where it was reached.
    pub(crate) fn peers(&self) -> Vec<IpAddr> {
        self.noted.peers.lock().unwrap().clone()
    }
}

impl Noted {
    /// Names are noted and then refused: no test has a use for a hop that looks them up.
    async fn reach(&self, asked: &str) -> io::Result<TcpStream> {
        self.asked.lock().unwrap().push(asked.to_owned());
        let address: SocketAddr = asked.parse().map_err(io::Error::other)?;
        TcpStream::connect(address).await
    }
}

async fn connect<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    noted: &Noted,
) -> io::Result<()> {
    let (asked, head) = request(&mut stream).await?;
    noted.heads.lock().unwrap().push(head);
    match noted.reach(&asked).await {
        Ok(onward) => {
            stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await?;
            carry(stream, onward).await
        }
        Err(_) => stream.write_all(b"HTTP/1.1 503 Service Unavailable\r\n\r\n").await,
    }
}

/// Reads a CONNECT: what it asks for, and its head.
async fn request<S: AsyncRead + Unpin>(stream: &mut S) -> io::Result<(String, String)> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    let head = String::from_utf8(head).unwrap();
    let asked = head.strip_prefix("CONNECT ").and_then(|rest| rest.split(' ').next());
    Ok((asked.unwrap_or(&head).to_owned(), head))
}

async fn carry<S: AsyncRead + AsyncWrite + Unpin>(
    mut near: S,
    mut onward: TcpStream,
) -> io::Result<()> {
    tokio::io::copy_bidirectional(&mut near, &mut onward).await.map(drop)
}

async fn read<const N: usize>(stream: &mut TcpStream) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    stream.read_exact(&mut bytes).await.map(|_| bytes)
}

async fn counted(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; usize::from(stream.read_u8().await?)];
    stream.read_exact(&mut bytes).await.map(|_| bytes)
}
