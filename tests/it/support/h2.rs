//! An HTTP/2 client, by prior knowledge or over any stream.

use super::{http::Reply, within};
use ::h2::{RecvStream, SendStream, client::SendRequest};
use bytes::Bytes;
use std::net::SocketAddr;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    task::JoinHandle,
};

/// One HTTP/2 connection.
pub(crate) struct H2 {
    requests: SendRequest<Bytes>,
    connection: JoinHandle<Result<(), ::h2::Error>>,
}

impl Drop for H2 {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

/// An open stream whose CONNECT was answered with a 200.
pub(crate) struct H2Tunnel {
    up: SendStream<Bytes>,
    down: RecvStream,
}

impl H2 {
    /// Connects in clear and speaks HTTP/2 at once.
    pub(crate) async fn open(address: SocketAddr) -> Self {
        Self::over(TcpStream::connect(address).await.unwrap()).await
    }

    /// Speaks HTTP/2 over this stream.
    pub(crate) async fn over(io: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> Self {
        let (requests, connection) = ::h2::client::handshake(io).await.unwrap();
        Self { requests, connection: tokio::spawn(connection) }
    }

    /// Sends a CONNECT; gives the tunnel, or the refusal.
    pub(crate) async fn connect(
        &self,
        authority: &str,
        fields: &[(&str, &str)],
    ) -> Result<H2Tunnel, Reply> {
        let (response, up) = self.send(authority, fields).await;
        let response = within("the answer's arrival", response).await.unwrap();
        let (head, mut down) = response.into_parts();
        if head.status == 200 {
            return Ok(H2Tunnel { up, down });
        }
        let mut body = Vec::new();
        while let Some(chunk) = within("the body", down.data()).await {
            let chunk = chunk.unwrap();
            down.flow_control().release_capacity(chunk.len()).unwrap();
            body.extend_from_slice(&chunk);
        }
        let fields = head.headers.iter().map(|(name, value)| {
            (name.as_str().to_owned(), String::from_utf8_lossy(value.as_bytes()).into_owned())
        });
        let fields = fields.collect();
        Err(Reply {
            status: head.status.as_u16(),
            reason: String::new(),
            fields,
            body,
            trailers: Vec::new(),
        })
    }

    /// Sends a CONNECT and does not wait for its answer.
    pub(crate) async fn send(
        &self,
        authority: &str,
        fields: &[(&str, &str)],
    ) -> (::h2::client::ResponseFuture, SendStream<Bytes>) {
        let mut request = http::Request::builder().method("CONNECT").uri(authority);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let mut requests = self.requests.clone().ready().await.unwrap();
        requests.send_request(request.body(()).unwrap(), false).unwrap()
    }

    /// Whether another stream could be opened now.
    pub(crate) async fn is_open(&self) -> bool {
        self.requests.clone().ready().await.is_ok()
    }
}

impl H2Tunnel {
    /// Sends.
    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.up.send_data(Bytes::copy_from_slice(bytes.as_ref()), false).unwrap();
    }

    /// Finishes this direction.
    pub(crate) fn finish(&mut self) {
        self.up.send_data(Bytes::new(), true).unwrap();
    }

    /// Resets the stream.
    pub(crate) fn reset(&mut self) {
        self.up.send_reset(::h2::Reason::CANCEL);
    }

    /// Reads this many bytes.
    pub(crate) async fn take(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        while bytes.len() < length {
            let chunk = within("data", self.down.data()).await.expect("an open stream").unwrap();
            self.down.flow_control().release_capacity(chunk.len()).unwrap();
            bytes.extend_from_slice(&chunk);
        }
        bytes
    }

    /// Everything until the other side ends the stream, in whichever way.
    pub(crate) async fn until_closed(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        while let Some(Ok(chunk)) = within("the stream's end", self.down.data()).await {
            self.down.flow_control().release_capacity(chunk.len()).unwrap();
            bytes.extend_from_slice(&chunk);
        }
        bytes
    }

    /// Whether the other side finished cleanly here; otherwise it reset.
    pub(crate) async fn finished(&mut self) -> bool {
        loop {
            match within("the stream's end", self.down.data()).await {
                None => return true,
                Some(Ok(nothing)) if nothing.is_empty() => {}
                Some(Ok(more)) => panic!("more data: {more:?}"),
                Some(Err(_)) => return false,
            }
        }
    }
}
