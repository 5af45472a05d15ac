//! Origin servers behind targets: HTTP/1.1 and HTTP/2, in clear or with TLS, whose every answer is
//! the test's.

use super::{
    http::{Conn, Request},
    lab::{Lab, PUBLIC},
    receiver::Receiver,
    tls::Ca,
};
use bytes::Bytes;
use std::{
    net::IpAddr,
    sync::{Arc, Mutex},
};
use tokio_rustls::TlsAcceptor;

/// A server behind a target; it stops when dropped.
pub(crate) struct Origin {
    receiver: Receiver,
    requests: Arc<Mutex<Vec<Request>>>,
}

/// With which TLS a server is met; in clear without.
pub(crate) type Tls = Option<Arc<rustls::ServerConfig>>;

impl Origin {
    /// Answers every request with the bytes that `answer` gives, and keeps the connection. After
    /// no bytes at all it closes.
    pub(crate) fn start(
        address: (IpAddr, u16),
        tls: Tls,
        answer: impl Fn(&Request) -> Vec<u8> + Send + Sync + 'static,
    ) -> Self {
        let requests: Arc<Mutex<Vec<Request>>> = Arc::default();
        let (seen, answer) = (Arc::clone(&requests), Arc::new(answer));
        let receiver = serve(address, tls, move |mut conn| {
            let (seen, answer) = (Arc::clone(&seen), Arc::clone(&answer));
            async move {
                while let Ok(Some(request)) = conn.request().await {
                    seen.lock().unwrap().push(request.clone());
                    let bytes = answer(&request);
                    if bytes.is_empty() || conn.try_send(bytes).await.is_err() {
                        return;
                    }
                }
            }
        });
        Self { receiver, requests }
    }

    /// Handles every connection with `handler`, once TLS stands.
    pub(crate) fn with<F, Fut>(address: (IpAddr, u16), tls: Tls, handler: F) -> Self
    where
        F: Fn(Conn) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        Self { receiver: serve(address, tls, handler), requests: Arc::default() }
    }

    /// Answers every request over HTTP/2 with this status and body.
    pub(crate) fn http2(address: (IpAddr, u16), tls: Arc<rustls::ServerConfig>) -> Self {
        let requests: Arc<Mutex<Vec<Request>>> = Arc::default();
        let seen = Arc::clone(&requests);
        let receiver = serve(address, Some(tls), move |conn| {
            let seen = Arc::clone(&seen);
            async move {
                let Ok(mut connection) = ::h2::server::handshake(conn).await else { return };
                while let Some(Ok((request, mut respond))) = connection.accept().await {
                    let (head, mut body) = request.into_parts();
                    let field = |(name, value): (&http::HeaderName, &http::HeaderValue)| {
                        (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned())
                    };
                    let fields = head.headers.iter().map(field).collect();
                    let line = format!("{} {} {:?}", head.method, head.uri, head.version);
                    let seen = Arc::clone(&seen);
                    tokio::spawn(async move {
                        let mut request = Request { line, fields, ..Request::default() };
                        while let Some(Ok(bytes)) = body.data().await {
                            body.flow_control().release_capacity(bytes.len()).unwrap();
                            request.body.extend_from_slice(&bytes);
                        }
                        seen.lock().unwrap().push(request);
                        let mut send = respond.send_response(http::Response::new(()), false)?;
                        send.send_data(Bytes::from_static(b"over h2"), true)
                    });
                }
            }
        });
        Self { receiver, requests }
    }

    /// Every request so far.
    pub(crate) fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }

    /// The only request.
    pub(crate) fn only(&self) -> Request {
        let mut requests = self.requests();
        assert_eq!(requests.len(), 1, "{requests:?}");
        requests.remove(0)
    }

    /// How many connections came.
    pub(crate) fn accepted(&self) -> usize {
        self.receiver.visits().len()
    }

    /// Panics if any connection came.
    pub(crate) fn assert_not_reached(&self) {
        self.receiver.assert_not_reached();
    }
}

fn serve<F, Fut>(address: (IpAddr, u16), tls: Tls, handler: F) -> Receiver
where
    F: Fn(Conn) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    let acceptor = tls.map(TlsAcceptor::from);
    let handler = Arc::new(handler);
    Receiver::with(address, move |guest| {
        let (acceptor, handler) = (acceptor.clone(), Arc::clone(&handler));
        async move {
            let stream = guest.into_stream();
            let conn = match acceptor {
                None => Conn::server(stream),
                Some(acceptor) => match acceptor.accept(stream).await {
                    Ok(stream) => Conn::server(stream),
                    Err(_) => return,
                },
            };
            handler(conn).await;
        }
    })
}

/// An answer with this body and a length.
pub(crate) fn ok(body: &str) -> Vec<u8> {
    answer("200 OK", &[], body)
}

/// An answer with further fields.
pub(crate) fn answer(status: &str, fields: &[(&str, &str)], body: &str) -> Vec<u8> {
    let mut head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n", body.len());
    for (name, value) in fields {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    (head + "\r\n" + body).into_bytes()
}

impl Lab {
    /// `acme.example` on [`PUBLIC`], with a certificate of a fresh authority.
    pub(crate) fn acme(&self) -> (Ca, Tls) {
        self.dns.addresses("acme.example", &[PUBLIC]);
        let ca = self.ca("relay-ca");
        let tls = ca.server(&["acme.example"]).server_config();
        (ca, Some(tls))
    }
}
