//! Whether the other end is still there: any byte is a sign of life, and silence is asked about.

use std::{
    io::{self, IoSlice},
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use h2::{Ping, PingPong};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, sleep, timeout},
};

/// How long the other end may be silent before it is asked.
const PING_INTERVAL: Duration = Duration::from_secs(10);

/// How long it may then take to say anything. With the interval: a dead connection is noticed
/// within 25 seconds.
const PING_TIMEOUT: Duration = Duration::from_secs(15);

/// A stream that notes when bytes arrive.
#[derive(Debug)]
pub(super) struct Wire<S> {
    stream: S,
    heard: Heard,
}

/// Whether bytes have arrived since it was last asked.
#[derive(Clone, Debug, Default)]
pub(super) struct Heard(Arc<AtomicBool>);

impl Heard {
    fn take(&self) -> bool {
        self.0.swap(false, Ordering::Relaxed)
    }
}

impl<S> Wire<S> {
    pub(super) fn new(stream: S) -> (Self, Heard) {
        let heard = Heard::default();
        (Self { stream, heard: heard.clone() }, heard)
    }
}

/// Asks once, and gives the round trip; `None` when the connection is gone. Somebody else has to
/// keep the connection moving meanwhile.
pub(super) async fn ask(pings: &mut PingPong, heard: &Heard) -> Option<Duration> {
    let asked = Instant::now();
    let mut pong = pin!(pings.ping(Ping::opaque()));
    loop {
        match timeout(PING_TIMEOUT, &mut pong).await {
            Ok(Ok(_)) => return Some(asked.elapsed()),
            // The answer may wait behind much else on a slow line: any sign of life will do.
            Err(_) if heard.take() => {}
            Ok(Err(_)) | Err(_) => return None,
        }
    }
}

/// Ready when the other end was silent, was asked, and stayed silent. `nudge` makes it be asked
/// at once; each round trip is shown to `note`.
pub(super) async fn until_silent(
    pings: &mut PingPong,
    heard: &Heard,
    mut nudge: impl AsyncFnMut(),
    note: impl Fn(Duration),
) {
    loop {
        let nudged = tokio::select! {
            () = sleep(PING_INTERVAL) => false,
            () = nudge() => true,
        };
        if heard.take() && !nudged {
            continue;
        }
        match ask(pings, heard).await {
            Some(round_trip) => note(round_trip),
            None => return,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Wire<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
        if buffer.filled().len() > before {
            self.heard.0.store(true, Ordering::Relaxed);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Wire<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
