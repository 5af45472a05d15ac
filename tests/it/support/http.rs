//! HTTP/1.1 by hand: what is sent is exactly what the test wrote.

use std::{io, net::SocketAddr, sync::Arc};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client, server};

/// The largest head that a test reads.
const HEAD_BYTES_MAX: usize = 256 * 1024;

/// A byte stream over TCP, in clear or not.
pub(crate) trait Io: AsyncRead + AsyncWrite + Send + Unpin {
    /// The connection below.
    fn tcp(&self) -> &TcpStream;
}

impl Io for TcpStream {
    fn tcp(&self) -> &TcpStream {
        self
    }
}

impl Io for client::TlsStream<TcpStream> {
    fn tcp(&self) -> &TcpStream {
        self.get_ref().0
    }
}

impl Io for server::TlsStream<TcpStream> {
    fn tcp(&self) -> &TcpStream {
        self.get_ref().0
    }
}

/// One connection, with what was read ahead.
pub(crate) struct Conn {
    io: Box<dyn Io>,
    ahead: Vec<u8>,
}

/// How the other side ended a connection, and what it sent until then.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Rest {
    /// It finished its stream after these bytes.
    Finished(Vec<u8>),
    /// It reset the connection after these bytes.
    Reset(Vec<u8>),
}

/// An answer.
#[derive(Clone, Debug)]
pub(crate) struct Reply {
    /// The status code.
    pub(crate) status: u16,
    /// The reason phrase.
    pub(crate) reason: String,
    /// Field names in lower case, values as they came.
    pub(crate) fields: Vec<(String, String)>,
    /// The body; empty for a 2xx to CONNECT.
    pub(crate) body: Vec<u8>,
    /// What followed a chunked body, names in lower case.
    pub(crate) trailers: Vec<(String, String)>,
}

/// A request, as it came to a receiver.
#[derive(Clone, Debug, Default)]
pub(crate) struct Request {
    /// `GET /path HTTP/1.1`.
    pub(crate) line: String,
    /// Field names in lower case, values as they came.
    pub(crate) fields: Vec<(String, String)>,
    /// The body.
    pub(crate) body: Vec<u8>,
    /// What followed a chunked body, names in lower case.
    pub(crate) trailers: Vec<(String, String)>,
}

impl Request {
    /// The value of a field, by its lower-case name.
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(one, _)| one == name).map(|(_, value)| value.as_str())
    }

    /// All field names, sorted.
    pub(crate) fn names(&self) -> Vec<&str> {
        let mut names: Vec<_> = self.fields.iter().map(|(name, _)| name.as_str()).collect();
        names.sort_unstable();
        names
    }
}

impl Conn {
    /// Connects in clear.
    pub(crate) async fn open(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self { io: Box::new(stream), ahead: Vec::new() }
    }

    /// Connects in clear, or says why not.
    pub(crate) async fn try_open(address: SocketAddr) -> io::Result<Self> {
        Ok(Self { io: Box::new(TcpStream::connect(address).await?), ahead: Vec::new() })
    }

    /// Connects with TLS.
    pub(crate) async fn open_tls(
        address: SocketAddr,
        tls: Arc<rustls::ClientConfig>,
        name: &str,
    ) -> io::Result<Self> {
        let name = name.to_owned().try_into().unwrap();
        let stream = TcpStream::connect(address).await?;
        let stream = TlsConnector::from(tls).connect(name, stream).await?;
        Ok(Self { io: Box::new(stream), ahead: Vec::new() })
    }

    /// Goes on with TLS on a connection that was opened in clear: through a CONNECT tunnel.
    pub(crate) async fn start_tls(
        self,
        tls: Arc<rustls::ClientConfig>,
        name: &str,
    ) -> io::Result<client::TlsStream<Self>> {
        let name = name.to_owned().try_into().unwrap();
        TlsConnector::from(tls).connect(name, self).await
    }

    /// A receiver's end.
    pub(crate) fn server(io: impl Io + 'static) -> Self {
        Self { io: Box::new(io), ahead: Vec::new() }
    }

    /// Sends, and expects that to work.
    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_send(bytes).await.unwrap();
    }

    /// Sends.
    pub(crate) async fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.io.write_all(bytes.as_ref()).await?;
        self.io.flush().await
    }

    /// Finishes this direction; the other stays open.
    pub(crate) async fn finish(&mut self) {
        self.io.shutdown().await.unwrap();
    }

    /// Resets the connection.
    pub(crate) fn reset(self) {
        self.io.tcp().set_zero_linger().unwrap();
    }

    /// Reads one answer.
    pub(crate) async fn reply(&mut self) -> Reply {
        super::within("the answer's arrival", self.try_reply()).await.unwrap()
    }

    /// Reads one answer, or says why there is none.
    pub(crate) async fn try_reply(&mut self) -> io::Result<Reply> {
        let mut reply = self.try_reply_head().await?;
        let bodiless = matches!(reply.status, 101 | 204 | 304);
        if bodiless {
            return Ok(reply);
        }
        if reply.field("transfer-encoding").is_some() {
            (reply.body, reply.trailers) = self.chunks().await?;
        } else if let Some(length) = reply.field("content-length") {
            reply.body = self.try_take(length.parse().unwrap()).await?;
        }
        Ok(reply)
    }

    /// Reads the head of an answer: one to HEAD has no more, whatever it says.
    pub(crate) async fn reply_head(&mut self) -> Reply {
        super::within("the answer's arrival", self.try_reply_head()).await.unwrap()
    }

    async fn try_reply_head(&mut self) -> io::Result<Reply> {
        let head = self.head().await?.ok_or(io::ErrorKind::UnexpectedEof)?;
        let mut fields = [httparse::EMPTY_HEADER; 64];
        let mut parsed = httparse::Response::new(&mut fields);
        parsed.parse(&head).map_err(io::Error::other)?;
        let fields = parsed.headers.iter().map(|field| {
            let value = String::from_utf8_lossy(field.value).into_owned();
            (field.name.to_ascii_lowercase(), value)
        });
        Ok(Reply {
            status: parsed.code.unwrap(),
            reason: parsed.reason.unwrap_or_default().to_owned(),
            fields: fields.collect(),
            body: Vec::new(),
            trailers: Vec::new(),
        })
    }

    /// Reads exactly this many bytes.
    pub(crate) async fn take(&mut self, length: usize) -> Vec<u8> {
        super::within("the bytes' arrival", self.try_take(length)).await.unwrap()
    }

    /// Reads until the other side ends the connection.
    pub(crate) async fn rest(&mut self) -> Rest {
        super::within("the connection's end", async {
            loop {
                match self.fill().await {
                    Ok(0) => return Rest::Finished(std::mem::take(&mut self.ahead)),
                    Ok(_) => {}
                    Err(_) => return Rest::Reset(std::mem::take(&mut self.ahead)),
                }
            }
        })
        .await
    }

    /// Reads until the other side ends the connection, in whichever way.
    pub(crate) async fn until_closed(&mut self) -> Vec<u8> {
        match self.rest().await {
            Rest::Finished(bytes) | Rest::Reset(bytes) => bytes,
        }
    }

    /// At a receiver: the next request's first line; a request with a body is not understood.
    pub(crate) async fn request_line(&mut self) -> io::Result<Option<String>> {
        let Some(head) = self.head().await? else { return Ok(None) };
        let line = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
        Ok(Some(String::from_utf8_lossy(line).into_owned()))
    }

    /// At a receiver: the next request, with its body; nothing when the connection ended before it.
    pub(crate) async fn request(&mut self) -> io::Result<Option<Request>> {
        let Some(mut request) = self.request_head().await? else { return Ok(None) };
        if request.field("transfer-encoding").is_some() {
            (request.body, request.trailers) = self.chunks().await?;
        } else if let Some(length) = request.field("content-length") {
            request.body = self.try_take(length.parse().unwrap()).await?;
        }
        Ok(Some(request))
    }

    /// At a receiver: the next request without its body, which is still to be read.
    pub(crate) async fn request_head(&mut self) -> io::Result<Option<Request>> {
        let Some(head) = self.head().await? else { return Ok(None) };
        let head = String::from_utf8_lossy(&head);
        let mut lines = head.split("\r\n").filter(|line| !line.is_empty());
        let line = lines.next().unwrap_or_default().to_owned();
        Ok(Some(Request { line, fields: lines.map(field).collect(), ..Request::default() }))
    }

    /// Reads exactly this many bytes, or says why there are not as many.
    pub(crate) async fn try_take(&mut self, length: usize) -> io::Result<Vec<u8>> {
        while self.ahead.len() < length {
            if self.fill().await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(self.ahead.drain(..length).collect())
    }

    /// The next head, its empty line included; nothing when the connection ended before it.
    async fn head(&mut self) -> io::Result<Option<Vec<u8>>> {
        loop {
            if let Some(at) = find(&self.ahead, b"\r\n\r\n") {
                return Ok(Some(self.ahead.drain(..at + 4).collect()));
            }
            assert!(self.ahead.len() < HEAD_BYTES_MAX, "an endless head");
            if self.fill().await? == 0 {
                return if self.ahead.is_empty() {
                    Ok(None)
                } else {
                    Err(io::ErrorKind::UnexpectedEof.into())
                };
            }
        }
    }

    async fn chunks(&mut self) -> io::Result<(Vec<u8>, Vec<(String, String)>)> {
        let (mut body, mut trailers) = (Vec::new(), Vec::new());
        loop {
            let size = self.line().await?;
            let size = usize::from_str_radix(size.trim(), 16).map_err(io::Error::other)?;
            if size == 0 {
                break;
            }
            let chunk = self.try_take(size + 2).await?;
            body.extend_from_slice(&chunk[..size]);
        }
        loop {
            let line = self.line().await?;
            if line.is_empty() {
                return Ok((body, trailers));
            }
            trailers.push(field(&line));
        }
    }

    async fn line(&mut self) -> io::Result<String> {
        loop {
            if let Some(at) = find(&self.ahead, b"\r\n") {
                let line = self.try_take(at + 2).await?;
                return Ok(String::from_utf8_lossy(&line[..at]).into_owned());
            }
            if self.fill().await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    async fn fill(&mut self) -> io::Result<usize> {
        let mut buffer = vec![0; 64 * 1024];
        let length = self.io.read(&mut buffer).await?;
        self.ahead.extend_from_slice(&buffer[..length]);
        Ok(length)
    }
}

impl Reply {
    /// The value of a field, by its lower-case name.
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(one, _)| one == name).map(|(_, value)| value.as_str())
    }

    /// The body as JSON.
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

impl AsyncRead for Conn {
    fn poll_read(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
        buffer: &mut tokio::io::ReadBuf<'_>,
    ) -> std::task::Poll<io::Result<()>> {
        if self.ahead.is_empty() {
            return std::pin::Pin::new(&mut *self.io).poll_read(context, buffer);
        }
        let length = buffer.remaining().min(self.ahead.len());
        buffer.put_slice(&self.ahead.drain(..length).collect::<Vec<_>>());
        std::task::Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Conn {
    fn poll_write(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
        bytes: &[u8],
    ) -> std::task::Poll<io::Result<usize>> {
        std::pin::Pin::new(&mut *self.io).poll_write(context, bytes)
    }

    fn poll_flush(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<io::Result<()>> {
        std::pin::Pin::new(&mut *self.io).poll_flush(context)
    }

    fn poll_shutdown(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<io::Result<()>> {
        std::pin::Pin::new(&mut *self.io).poll_shutdown(context)
    }
}

/// A CONNECT head with these further fields.
pub(crate) fn connect_head(authority: &str, fields: &[(&str, &str)]) -> String {
    let mut head = format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n");
    for (name, value) in fields {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head + "\r\n"
}

/// The head of a request for the relay: `Host` as the URL has it, or the loopback address, and a
/// length where there is a body or the method wants one.
pub(crate) fn request_head(
    method: &str,
    url: &str,
    fields: &[(&str, &str)],
    length: usize,
) -> String {
    let host = url
        .split_once("://")
        .map_or("127.0.0.1", |(_, rest)| rest.split(['/', '?']).next().unwrap_or_default());
    let mut head = format!("{method} {url} HTTP/1.1\r\nHost: {host}\r\n");
    for (name, value) in fields {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    if length > 0 {
        head.push_str(&format!("Content-Length: {length}\r\n"));
    }
    head + "\r\n"
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

fn field(line: &str) -> (String, String) {
    let (name, value) = line.split_once(':').unwrap_or((line, ""));
    (name.to_ascii_lowercase(), value.trim().to_owned())
}
