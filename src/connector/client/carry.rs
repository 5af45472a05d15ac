//! One stream: judged by the own allowlist, dialled, and carried to its end.

use std::{
    future::poll_fn,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use h2::{RecvStream, server::SendResponse};
use http::{Request, Response};
use tokio::{
    net::TcpStream,
    time::{Instant, timeout},
};

use super::{super::reply::Refused, feed::Feed, settings::Settings};
use crate::{
    dial::tcp_to,
    forward::pump::{Pump, Side},
    multiplex::Stream,
};

/// How long an address may take to answer.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Serves one CONNECT, and writes its line to the log at its end.
pub(super) async fn carry(
    request: Request<RecvStream>,
    mut answer: SendResponse<Bytes>,
    settings: Arc<Settings>,
    gateway: String,
) {
    let started = Instant::now();
    let (head, receive) = request.into_parts();
    let to = address(&head.uri);
    let dialled = tokio::select! {
        biased;
        // The gateway's client is gone: the attempt ends too.
        _ = poll_fn(|cx| answer.poll_reset(cx)) => return,
        dialled = open(to, &settings) => dialled,
    };
    let (outcome, up, down) = match dialled {
        Ok(tcp) => match answer.send_response(Response::new(()), false) {
            Ok(send) => both_ways(Stream::new(receive, send, ()), tcp).await,
            Err(_) => ("reset_by_gateway", 0, 0),
        },
        Err(refused) => {
            // Fails when the gateway has given the stream up: then nobody waits for it.
            let _ignored = answer.send_response(refused.response(), true);
            (refused.as_str(), 0, 0)
        }
    };
    tracing::info!(
        connector = settings.name,
        gateway,
        // What is no address is not repeated.
        to = to.map(|to| to.to_string()),
        outcome,
        bytes_in = up,
        bytes_out = down,
        duration_ms = started.elapsed().as_millis(),
        "stream"
    );
}

/// An address and a port, and nothing else: names are never resolved here.
fn address(uri: &http::Uri) -> Option<SocketAddr> {
    let alone = uri.scheme().is_none() && uri.path_and_query().is_none();
    uri.authority().filter(|_| alone)?.as_str().parse().ok()
}

async fn open(to: Option<SocketAddr>, settings: &Settings) -> Result<TcpStream, Refused> {
    let to = to.filter(|to| to.port() != 0).ok_or(Refused::NotAnAddress)?;
    if !settings.allow.holds(to) {
        return Err(Refused::NotAllowed);
    }
    let connected = timeout(CONNECT_TIMEOUT, tcp_to(to, None)).await;
    connected.map_err(|_| Refused::NoAnswer)?.map_err(|error| {
        #[expect(clippy::wildcard_enum_match_arm, reason = "std has dozens of others")]
        match error.kind() {
            io::ErrorKind::ConnectionRefused => Refused::NothingListens,
            io::ErrorKind::TimedOut => Refused::NoAnswer,
            io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkUnreachable
            | io::ErrorKind::Unsupported => Refused::NoRoute,
            _ => Refused::Failed,
        }
    })
}

/// Moves bytes until both directions have ended, or one breaks; what breaks on one side is reset
/// on the other. How it ended, and the bytes from and to the gateway.
async fn both_ways(mut stream: Stream, tcp: TcpStream) -> (&'static str, u64, u64) {
    let mut target = Target { tcp, ended: false };
    let (mut up, mut down) = (Pump::default(), Feed::default());
    let both = poll_fn(|cx| poll_both(cx, &mut stream, &mut target.tcp, &mut up, &mut down));
    let outcome = match both.await {
        Ok(()) => {
            target.ended = true;
            "ended"
        }
        Err(End::Gateway) => "reset_by_gateway",
        Err(End::Target) => {
            stream.reset();
            "reset_by_target"
        }
    };
    (outcome, up.bytes, down.bytes)
}

/// The connection to the target: dropped before both directions have ended, as when the connection
/// to the gateway is lost, it is reset.
struct Target {
    tcp: TcpStream,
    ended: bool,
}

impl Drop for Target {
    fn drop(&mut self) {
        if !self.ended {
            // Without lingering, closing sends RST. Where the option fails the close is still one.
            let _ignored = self.tcp.set_zero_linger();
        }
    }
}

/// Which side broke.
enum End {
    Gateway,
    Target,
}

fn poll_both(
    cx: &mut Context<'_>,
    stream: &mut Stream,
    tcp: &mut TcpStream,
    up: &mut Pump,
    down: &mut Feed,
) -> Poll<Result<(), End>> {
    let (source, sink) = (Pin::new(&mut *stream), Pin::new(&mut *tcp));
    let upward = up.poll_spliced(cx, source, sink, (|_| None, |stream| Some(stream)), |_| None);
    if let Poll::Ready(Err((side, _))) = upward {
        return Poll::Ready(Err(match side {
            Side::Source => End::Gateway,
            Side::Sink => End::Target,
        }));
    }
    let downward = down.poll(cx, tcp, stream);
    if let Poll::Ready(Err((side, _))) = downward {
        return Poll::Ready(Err(match side {
            Side::Source => End::Target,
            Side::Sink => End::Gateway,
        }));
    }
    if up.is_ended() && down.is_ended() { Poll::Ready(Ok(())) } else { Poll::Pending }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_address_and_port_is_one() {
        let read = |text: &str| address(&text.parse::<http::Uri>().unwrap());
        assert_eq!(read("10.20.0.5:443"), Some("10.20.0.5:443".parse().unwrap()));
        assert_eq!(read("[fd00::1]:443"), Some("[fd00::1]:443".parse().unwrap()));
        for wrong in [
            "acme.example:443",
            "localhost:80",
            "10.20.0.5",
            "http://10.20.0.5:443/",
            "user@10.20.0.5:443",
            "0x7f.1:443",
            "2130706433:443",
            "/",
        ] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }
}
