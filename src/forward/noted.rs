//! The stream to a target, which notes what ends it where that is known better than from hyper, and
//! whether the target takes what is sent.

use std::{
    io::{self, IoSlice},
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::{
    egress::{Ready, Stream, tunnel_lost},
    reason::Refusal,
    tls::{ClientCertificate, TlsError, TlsFacts},
};

/// What ended a connection.
#[derive(Debug)]
pub(super) enum Broken {
    /// What the target said of TLS once it stood: in TLS 1.3 it looks at the client's certificate,
    /// and refuses it, when the client believes itself ready.
    Tls(TlsError),
    /// The tunnel it went through leads nowhere any more.
    Tunnel(Refusal),
}

/// What was noted of a stream.
#[derive(Debug, Default)]
pub struct Seen {
    fault: OnceLock<Broken>,
    stuck: AtomicBool,
}

impl Seen {
    /// Why the connection ended, where that is known better than from hyper.
    pub(super) fn fault(&self) -> Option<&Broken> {
        self.fault.get()
    }

    /// Whether there is something to be sent that the target has not taken.
    pub(super) fn is_stuck(&self) -> bool {
        self.stuck.load(Ordering::Relaxed)
    }
}

/// A stream that notes such a fault when it is read. hyper's errors are not a way to learn of it: it
/// may meet the fault while there is no request, and in HTTP/2 only a text is left of it.
pub(super) struct Noted {
    stream: Stream,
    address: SocketAddr,
    facts: Option<TlsFacts>,
    /// Whether the target has said anything.
    answered: bool,
    seen: Arc<Seen>,
}

impl Noted {
    /// The stream; nothing is noted yet.
    pub(super) fn new(address: SocketAddr, ready: Ready) -> Self {
        let Ready { stream, facts } = ready;
        Self { stream, address, facts, answered: false, seen: Arc::default() }
    }

    /// Where things are noted.
    pub(super) fn seen(&self) -> Arc<Seen> {
        Arc::clone(&self.seen)
    }

    fn note(&self, error: &io::Error) {
        if let Some(lost) = tunnel_lost(error, self.address) {
            drop(self.seen.fault.set(Broken::Tunnel(lost)));
            return;
        }
        let Some(facts) = &self.facts else { return };
        // Where the target resets the connection, its alert may be lost.
        let missing = facts.client_certificate == ClientCertificate::Missing && !self.answered;
        let fault = TlsError::after_handshake(error, facts)
            .or_else(|| missing.then_some(TlsError::ClientCertificate { given: false }));
        if let Some(fault) = fault {
            // Only the first one counts.
            drop(self.seen.fault.set(Broken::Tls(fault)));
        }
    }

    /// What a write or flush came to.
    fn sent<T>(&self, result: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        self.seen.stuck.store(result.is_pending(), Ordering::Relaxed);
        Poll::Ready(ready!(result).inspect_err(|error| self.note(error)))
    }
}

impl AsyncRead for Noted {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        let read = ready!(Pin::new(&mut this.stream).poll_read(cx, buffer));
        this.answered |= buffer.filled().len() > before;
        Poll::Ready(read.inspect_err(|error| this.note(error)))
    }
}

impl AsyncWrite for Noted {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write(cx, bytes);
        this.sent(written)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        // A head without a body: the plain call is the cheaper one.
        if let [alone] = slices {
            return self.poll_write(cx, alone);
        }
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write_vectored(cx, slices);
        this.sent(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let flushed = Pin::new(&mut this.stream).poll_flush(cx);
        this.sent(flushed)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}
