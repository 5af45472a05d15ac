//! A CONNECT tunnel after its 200: the first bytes are looked at, then both directions flow.

use std::{
    future::poll_fn,
    pin::{Pin, pin},
    task::{Context, Poll},
    time::Duration,
};

use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use prometheus::IntCounter;
use tokio::{
    io::{AsyncBufRead, AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Instant, Sleep},
};
use tokio_util::sync::{CancellationToken, WaitForCancellationFuture};

use super::{
    client_hello::{self, Hello},
    linger::last_words,
    pump::{Pump, Side},
};
use crate::{
    egress::Carrier,
    origin::Host,
    reason::{Cause, Refusal},
    record::Record,
};

/// A client's side of a tunnel.
pub trait ClientStream: AsyncRead + AsyncWrite + Unpin {
    /// Ends the stream in a way that the client cannot mistake for a clean end.
    fn reset(self);

    /// The TCP socket that the stream is, where it is nothing more.
    fn as_tcp(&self) -> Option<&TcpStream> {
        None
    }

    /// What to read the stream as where it holds its bytes in memory.
    fn as_lender(&mut self) -> Option<&mut (dyn AsyncBufRead + Unpin)> {
        None
    }

    /// Counts bytes that were taken out of that socket, and put into it, past the stream.
    fn passed(&self, _taken: u64, _put: u64) {}
}

impl ClientStream for TcpStream {
    fn reset(self) {
        // Without lingering, closing sends RST. Where the option fails the close is still one.
        let _ignored = self.set_zero_linger();
    }

    fn as_tcp(&self) -> Option<&TcpStream> {
        Some(self)
    }
}

impl ClientStream for Carrier {
    fn reset(self) {
        Self::reset(self);
    }

    fn as_tcp(&self) -> Option<&TcpStream> {
        match self {
            Self::Direct(stream) => Some(stream),
            Self::Tunnel(stream) => stream.as_tcp(),
        }
    }

    fn as_lender(&mut self) -> Option<&mut (dyn AsyncBufRead + Unpin)> {
        match self {
            Self::Direct(_) => None,
            Self::Tunnel(stream) => stream.as_lender(),
        }
    }

    fn passed(&self, taken: u64, put: u64) {
        match self {
            Self::Direct(_) => {}
            Self::Tunnel(stream) => stream.passed(taken, put),
        }
    }
}

impl ClientStream for Box<tokio_rustls::server::TlsStream<TcpStream>> {
    fn reset(self) {
        self.into_inner().0.reset();
    }
}

impl ClientStream for TokioIo<Upgraded> {
    fn reset(self) {
        // What is below cannot be reached; closing without an end has to do.
        drop(self);
    }
}

/// Everything a tunnel is bound to.
#[derive(Debug)]
pub struct Terms {
    /// The host that the client asked for; TLS inside has to name it. Without one nothing is looked
    /// at: the request was seen.
    pub host: Option<Host>,
    /// Longest time without a byte in either direction.
    pub idle_timeout: Duration,
    /// Longest time from the first byte of a ClientHello to its last.
    pub hello_timeout: Duration,
    /// Cancelled when draining has taken too long.
    pub cut: CancellationToken,
    /// `egress_bytes_total` towards the target.
    pub to_target: IntCounter,
    /// `egress_bytes_total` towards the client.
    pub to_client: IntCounter,
}

/// An open tunnel.
struct Tunnel<C, T> {
    client: C,
    target: T,
    terms: Terms,
    record: Record,
    up: Pump,
    down: Pump,
    last_moved: Instant,
    /// While the first bytes are those of a ClientHello: when it has to be complete.
    hello_by: Option<Instant>,
}

/// What ends a tunnel besides its two sides.
struct Limits<'p, 'c> {
    timer: Pin<&'p mut Sleep>,
    cut: Pin<&'p mut WaitForCancellationFuture<'c>>,
}

/// Why a tunnel ended.
enum End {
    Closed,
    Idle,
    Cut,
    ClientReset,
    TargetReset,
    Refused(Refusal),
}

/// Carries a tunnel to its end and notes how it ended. `early` are bytes that the client sent
/// before the 200; they have been held back until now. `counted` is dropped at the end, before the
/// record is.
///
/// Not an `async fn`, which would keep its arguments beside the tunnel that they become: this is
/// what an idle tunnel costs.
pub fn tunnel<C: ClientStream, T: ClientStream, X>(
    client: C,
    early: Vec<u8>,
    target: T,
    terms: Terms,
    record: Record,
    counted: X,
) -> impl Future<Output = ()> {
    let cut = terms.cut.clone();
    let mut tunnel = Tunnel {
        client,
        target,
        terms,
        record,
        up: Pump::beginning_with(early),
        down: Pump::default(),
        last_moved: Instant::now(),
        hello_by: None,
    };
    async move {
        let timer = pin!(tokio::time::sleep(tunnel.terms.idle_timeout));
        let cut = pin!(cut.cancelled());
        let end = tunnel.carry(Limits { timer, cut }).await;
        if matches!(end, End::Refused(_)) && tunnel.down.bytes == 0 {
            // Boxed, so that no other tunnel keeps room for it.
            Box::pin(tunnel.alert()).await;
        }
        let record = tunnel.end(end);
        drop(counted);
        drop(record);
    }
}

impl<C: ClientStream, T: ClientStream> Tunnel<C, T> {
    async fn carry(&mut self, mut limits: Limits<'_, '_>) -> End {
        if let Err(end) = self.first_bytes(&mut limits).await {
            return end;
        }
        self.hello_by = None;
        self.last_moved = Instant::now();
        limits.timer.as_mut().reset(far(self.last_moved, self.terms.idle_timeout));
        poll_fn(|cx| self.poll_flow(cx, &mut limits)).await
    }

    /// Holds the client's first bytes until they show what they are. The target's bytes flow
    /// meanwhile: some protocols let the server speak first.
    async fn first_bytes(&mut self, limits: &mut Limits<'_, '_>) -> Result<(), End> {
        if self.terms.host.is_none() {
            return Ok(());
        }
        loop {
            match client_hello::read(self.up.kept()) {
                Hello::NotTls => return Ok(()),
                Hello::Hello { server_name } => return self.judge_name(server_name.as_deref()),
                Hello::Malformed(what) => return Err(End::Refused(bad_hello(what))),
                Hello::Incomplete => {}
            }
            if !self.up.kept().is_empty() && self.hello_by.is_none() {
                let by = far(Instant::now(), self.terms.hello_timeout);
                self.hello_by = Some(by);
                limits.timer.as_mut().reset(by);
            }
            let ended = poll_fn(|cx| self.poll_hello(cx, limits)).await?;
            if ended && self.up.kept().is_empty() {
                return Ok(());
            }
            if ended {
                return Err(End::Refused(bad_hello("it ends before it is complete")));
            }
        }
    }

    /// Reads more of the first bytes while the other direction flows. Ready with whether the client
    /// has ended its direction.
    fn poll_hello(
        &mut self,
        cx: &mut Context<'_>,
        limits: &mut Limits<'_, '_>,
    ) -> Poll<Result<bool, End>> {
        if let Poll::Ready(end) = self.poll_down(cx) {
            return Poll::Ready(Err(end));
        }
        let mut chunk = [0; 2048];
        let mut read = ReadBuf::new(&mut chunk);
        match Pin::new(&mut self.client).poll_read(cx, &mut read) {
            Poll::Ready(Ok(())) => {
                self.up.keep(read.filled());
                return Poll::Ready(Ok(read.filled().is_empty()));
            }
            Poll::Ready(Err(_)) => return Poll::Ready(Err(End::ClientReset)),
            Poll::Pending => {}
        }
        match self.poll_limits(cx, limits) {
            Poll::Ready(End::Idle) if self.hello_by.is_some() => {
                Poll::Ready(Err(End::Refused(bad_hello("it did not arrive in time"))))
            }
            Poll::Ready(end) => Poll::Ready(Err(end)),
            Poll::Pending => Poll::Pending,
        }
    }

    /// The name inside has to be the host outside (domain fronting); without a name, the server
    /// would choose a certificate and a virtual host that nobody approved.
    fn judge_name(&self, inside: Option<&str>) -> Result<(), End> {
        let Some(outside) = &self.terms.host else { return Ok(()) };
        let same = match (outside, inside) {
            (Host::Name(name), Some(inside)) => **name == *inside,
            (Host::Ip(_), None) => true,
            (Host::Name(_), None) | (Host::Ip(_), Some(_)) => false,
        };
        if same {
            return Ok(());
        }
        let detail = match inside {
            Some(_) => format!("the TLS server name is not {outside}"),
            None => format!("the TLS handshake names no server, and {outside} is a name"),
        };
        Err(End::Refused(Refusal::new(Cause::SniMismatch, detail)))
    }

    /// Both directions, until both have ended.
    fn poll_flow(&mut self, cx: &mut Context<'_>, limits: &mut Limits<'_, '_>) -> Poll<End> {
        let (before, put_before) = (self.up.bytes, self.up.piped_out);
        let (source, sink) = (Pin::new(&mut self.client), Pin::new(&mut self.target));
        let up = self.up.poll_spliced(cx, source, sink, (C::as_tcp, C::as_lender), T::as_tcp);
        self.target.passed(0, self.up.piped_out.saturating_sub(put_before));
        if moved(before, self.up.bytes, &self.terms.to_target) {
            self.last_moved = Instant::now();
        }
        match up {
            Poll::Ready(Err((Side::Source, _))) => return Poll::Ready(End::ClientReset),
            Poll::Ready(Err((Side::Sink, _))) => return Poll::Ready(End::TargetReset),
            Poll::Ready(Ok(())) | Poll::Pending => {}
        }
        if let Poll::Ready(end) = self.poll_down(cx) {
            return Poll::Ready(end);
        }
        if self.up.is_ended() && self.down.is_ended() {
            return Poll::Ready(End::Closed);
        }
        self.poll_limits(cx, limits)
    }

    /// The direction towards the client. Ready only when something broke.
    fn poll_down(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        if self.down.is_ended() {
            return Poll::Pending;
        }
        let (before, taken_before) = (self.down.bytes, self.down.piped_in);
        let (source, sink) = (Pin::new(&mut self.target), Pin::new(&mut self.client));
        let down = self.down.poll_spliced(cx, source, sink, (T::as_tcp, T::as_lender), C::as_tcp);
        self.target.passed(self.down.piped_in.saturating_sub(taken_before), 0);
        if before == 0 && self.down.bytes > 0 {
            self.record.first_byte = Some(self.record.elapsed());
        }
        if moved(before, self.down.bytes, &self.terms.to_client) {
            self.last_moved = Instant::now();
        }
        match down {
            Poll::Ready(Err((Side::Source, _))) => Poll::Ready(End::TargetReset),
            Poll::Ready(Err((Side::Sink, _))) => Poll::Ready(End::ClientReset),
            Poll::Ready(Ok(())) | Poll::Pending => Poll::Pending,
        }
    }

    /// The idle timer is not reset with every byte: when it fires it looks how long ago that was.
    fn poll_limits(&self, cx: &mut Context<'_>, limits: &mut Limits<'_, '_>) -> Poll<End> {
        if limits.cut.as_mut().poll(cx).is_ready() {
            return Poll::Ready(End::Cut);
        }
        while limits.timer.as_mut().poll(cx).is_ready() {
            let idle = far(self.last_moved, self.terms.idle_timeout);
            let due = self.hello_by.map_or(idle, |by| by.min(idle));
            if due <= Instant::now() {
                return Poll::Ready(End::Idle);
            }
            limits.timer.as_mut().reset(due);
        }
        Poll::Pending
    }

    /// Ends both streams as fits how the tunnel ended, and notes it.
    fn end(mut self, end: End) -> Record {
        self.record.to_target = self.up.bytes;
        self.record.to_client = self.down.bytes;
        let (word, both) = match end {
            End::Closed => {
                self.record.end = Some("closed");
                return self.record;
            }
            End::Refused(refusal) => {
                self.record.refused(refusal);
                ("cut", false)
            }
            End::Idle => ("idle_timeout", true),
            End::Cut => ("drain_timeout", true),
            End::ClientReset => ("client_reset", true),
            End::TargetReset => ("target_reset", true),
        };
        self.record.end = Some(word);
        self.target.reset();
        if both {
            self.client.reset();
        }
        self.record
    }

    /// Tells a TLS client why: a fatal `unrecognized_name` alert (RFC 6066, section 3) is what its
    /// library turns into an error message.
    async fn alert(&mut self) {
        const UNRECOGNIZED_NAME: [u8; 7] = [21, 3, 1, 0, 2, 2, 112];
        last_words(&mut self.client, &UNRECOGNIZED_NAME).await;
    }
}

/// Counts the bytes of a turn; whether there were any.
fn moved(before: u64, after: u64, counter: &IntCounter) -> bool {
    let bytes = after.saturating_sub(before);
    if bytes > 0 {
        counter.inc_by(bytes);
    }
    bytes > 0
}

fn bad_hello(what: &str) -> Refusal {
    Refusal::new(Cause::ClientHelloInvalid, format!("the first bytes are no ClientHello: {what}"))
}

/// `from + by`, or a day later where the clock would overflow.
fn far(from: Instant, by: Duration) -> Instant {
    from.checked_add(by).or_else(|| from.checked_add(Duration::from_hours(24))).unwrap_or(from)
}
