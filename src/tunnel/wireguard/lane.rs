//! What a stream and the tunnel's task share: one TCP socket of smoltcp, behind a lock.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::{
        Mutex, MutexGuard, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use smoltcp::{
    iface::{SocketHandle, SocketSet},
    socket::tcp::{CongestionControl, RecvError, Socket, SocketBuffer, State},
};
use tokio::time::Instant;

use super::stack::Key;

/// What a stream may hold in each direction, in bytes: the window that is offered to the other
/// side. Pages that were never written to take no memory.
const BUFFER_BYTES: usize = 256 << 10;

/// Room that wakes a writer, and bytes read that are worth telling the other side about: not
/// every segment's worth.
const WORTH_BYTES: usize = BUFFER_BYTES / 4;

/// How often a silent stream asks whether the other side is still there, as the gateway's other
/// connections do.
const KEEPALIVE_IDLE: Duration = Duration::from_mins(1);

/// How long the other side may leave something unanswered before the stream ends.
const SILENCE_TIMEOUT: Duration = Duration::from_mins(2);

/// Why a stream did not come to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// The address refuses connections.
    Refused,
    /// Somebody on the way says that there is none.
    NoWay,
    /// The tunnel's task ended, or no port is left.
    Lost,
}

/// One stream, seen from both sides.
pub(super) struct Lane {
    pub(super) from: IpAddr,
    pub(super) to: SocketAddr,
    /// Where the task finds it; set when it begins to connect.
    pub(super) key: OnceLock<Key>,
    /// Whether the task has been told to look at it and has not yet.
    pub(super) rung: AtomicBool,
    inner: Mutex<Inner>,
}

/// The half that needs the lock.
pub(super) struct Inner {
    pub(super) sockets: SocketSet<'static>,
    handle: SocketHandle,
    pub(super) phase: Phase,
    /// The stream was dropped: nobody reads any more.
    pub(super) orphaned: bool,
    /// The stream was reset by its owner.
    pub(super) reset: bool,
    /// Bytes read since the task last looked.
    unannounced: usize,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

/// How far a stream is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Not yet answered.
    Opening(Instant),
    /// It stands, or stood. What it took to come here.
    Open(Duration),
    /// It never will.
    Failed(Failure),
    /// Nothing more comes or goes, whatever the socket says.
    Cut,
}

impl Lane {
    pub(super) fn new(from: IpAddr, to: SocketAddr) -> Self {
        let buffer = || SocketBuffer::new(vec![0; BUFFER_BYTES]);
        let mut socket = Socket::new(buffer(), buffer());
        socket.set_nagle_enabled(false);
        socket.set_congestion_control(CongestionControl::Cubic);
        socket.set_keep_alive(Some(KEEPALIVE_IDLE.into()));
        socket.set_timeout(Some(SILENCE_TIMEOUT.into()));
        let mut sockets = SocketSet::new(Vec::with_capacity(1));
        let handle = sockets.add(socket);
        Self {
            from,
            to,
            key: OnceLock::new(),
            rung: AtomicBool::new(false),
            inner: Mutex::new(Inner {
                sockets,
                handle,
                phase: Phase::Opening(Instant::now()),
                orphaned: false,
                reset: false,
                unannounced: 0,
                reader: None,
                writer: None,
            }),
        }
    }

    /// `None` when somebody panicked with the lock: what is behind it means nothing then.
    pub(super) fn lock(&self) -> Option<MutexGuard<'_, Inner>> {
        self.inner.lock().ok()
    }

    /// Ends it for whoever waits, without a word to the other side.
    pub(super) fn cut(&self) {
        let mut inner = self.inner.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        inner.phase = match inner.phase {
            Phase::Opening(_) => Phase::Failed(Failure::Lost),
            Phase::Open(_) | Phase::Cut => Phase::Cut,
            Phase::Failed(failure) => Phase::Failed(failure),
        };
        inner.wake_all();
    }

    /// Whether the task has yet to be told.
    pub(super) fn ring(&self) -> bool {
        !self.rung.swap(true, Ordering::AcqRel)
    }
}

impl Inner {
    pub(super) fn socket(&mut self) -> &mut Socket<'static> {
        self.sockets.get_mut(self.handle)
    }

    /// Whoever waits for what has come about is woken.
    pub(super) fn wake(&mut self) {
        let socket = self.sockets.get::<Socket<'_>>(self.handle);
        let room = socket.send_capacity().saturating_sub(socket.send_queue());
        let readable = socket.can_recv() || !socket.may_recv();
        let writable = room >= WORTH_BYTES || !socket.may_send();
        if readable && let Some(reader) = self.reader.take() {
            reader.wake();
        }
        if writable && let Some(writer) = self.writer.take() {
            writer.wake();
        }
    }

    pub(super) fn wake_all(&mut self) {
        for waker in [self.reader.take(), self.writer.take()].into_iter().flatten() {
            waker.wake();
        }
    }

    pub(super) fn poll_opened(&mut self, cx: &Context<'_>) -> Poll<Result<Duration, Failure>> {
        match self.phase {
            Phase::Opening(_) => {
                self.writer = Some(cx.waker().clone());
                Poll::Pending
            }
            Phase::Open(took) => Poll::Ready(Ok(took)),
            Phase::Failed(failure) => Poll::Ready(Err(failure)),
            Phase::Cut => Poll::Ready(Err(Failure::Lost)),
        }
    }

    /// Reads what is there: the bytes, and whether the task should know that there is room again.
    pub(super) fn poll_read(
        &mut self,
        cx: &Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<(usize, bool)>> {
        if self.phase == Phase::Cut {
            return Poll::Ready(Err(lost()));
        }
        match self.socket().recv_slice(buffer) {
            Ok(0) if !buffer.is_empty() => {
                self.reader = Some(cx.waker().clone());
                Poll::Pending
            }
            Ok(count) => {
                self.unannounced = self.unannounced.saturating_add(count);
                let worth = self.unannounced >= WORTH_BYTES;
                if worth {
                    self.unannounced = 0;
                }
                Poll::Ready(Ok((count, worth)))
            }
            Err(RecvError::Finished) => Poll::Ready(Ok((0, false))),
            Err(RecvError::InvalidState) => Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
        }
    }

    /// Takes as many bytes as there is room for.
    pub(super) fn poll_write(&mut self, cx: &Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.phase == Phase::Cut {
            return Poll::Ready(Err(lost()));
        }
        let socket = self.socket();
        match socket.send_slice(bytes) {
            Ok(0) if !bytes.is_empty() => {
                self.writer = Some(cx.waker().clone());
                Poll::Pending
            }
            Ok(count) => Poll::Ready(Ok(count)),
            Err(_) if socket.state() == State::Closed => {
                Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()))
            }
            Err(_) => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
        }
    }
}

fn lost() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionAborted, "the tunnel was stopped")
}
