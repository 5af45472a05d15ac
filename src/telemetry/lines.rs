//! Lines on their way to standard error: gathered for a few milliseconds, written by one thread.
//!
//! A request hands its line over and goes on. The thread is woken by the first line after a pause
//! and by no other, and writes what has come together in a single call: under load that is 200
//! wake-ups and writes a second, however many requests there are.

use std::{
    io::{self, Write},
    mem,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use tracing_subscriber::fmt::MakeWriter;

/// How long lines are gathered before they are written: what a process that is killed may lose.
const GATHER: Duration = Duration::from_millis(5);

/// Bytes that may wait for the thread. A canonical event is about 700 bytes, so that this is 12,000
/// of them. As many again may be in the thread's hands.
pub(super) const WAITING_BYTES_MAX: usize = 8 * 1024 * 1024;

/// What a buffer keeps of its memory after a burst.
const KEPT_BYTES: usize = 64 * 1024;

/// The queue's near end. Its clones lead to the same queue.
#[derive(Clone, Debug)]
pub(super) struct Lines(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    queue: Mutex<Queue>,
    /// Wakes the thread.
    work: Condvar,
    /// Wakes those who wait for [`Lines::flush`].
    done: Condvar,
    dropped: AtomicU64,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: Vec<u8>,
    /// Lines ever taken in.
    taken: u64,
    /// Lines ever written, or lost as they could not be.
    written: u64,
    /// The thread sleeps until it is woken.
    idle: bool,
    /// Somebody waits for what is there.
    hurried: bool,
    /// Nothing is taken in any more.
    ended: bool,
}

impl Lines {
    /// Starts the thread, which writes to `out` until [`end`](Self::end).
    ///
    /// # Errors
    /// The system has no thread left.
    pub(super) fn to(out: impl Write + Send + 'static) -> io::Result<Self> {
        let lines = Self(Arc::default());
        let shared = Arc::clone(&lines.0);
        // Not joined: a reader that has stopped reading would hold up the end.
        drop(thread::Builder::new().name("log".into()).spawn(move || shared.write_to(out))?);
        Ok(lines)
    }

    /// Hands over a whole line, its end included. Never waits for the write; a line for which
    /// there is no room is dropped and counted.
    pub(super) fn push(&self, line: &[u8]) {
        let mut queue = self.0.queue();
        let room = WAITING_BYTES_MAX.saturating_sub(queue.waiting.len());
        if queue.ended || line.len() > room {
            drop(queue);
            self.0.lose(1);
            return;
        }
        queue.waiting.extend_from_slice(line);
        queue.taken = queue.taken.saturating_add(1);
        let wake = mem::take(&mut queue.idle);
        drop(queue);
        if wake {
            self.0.work.notify_one();
        }
    }

    /// Has everything written that was handed over so far; waits no longer than `limit`.
    pub(super) fn flush(&self, limit: Duration) {
        let mut queue = self.0.queue();
        let taken = queue.taken;
        queue.hurried = !queue.waiting.is_empty();
        self.0.work.notify_one();
        let pending = |queue: &mut Queue| queue.written < taken;
        drop(self.0.done.wait_timeout_while(queue, limit, pending));
    }

    /// Ends the thread when it has written everything; waits for that no longer than `limit`.
    pub(super) fn end(&self, limit: Duration) {
        self.0.queue().ended = true;
        self.flush(limit);
    }

    /// Lines dropped so far.
    pub(super) fn dropped(&self) -> u64 {
        self.0.dropped.load(Ordering::Relaxed)
    }
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lose(&self, lines: u64) {
        self.dropped.fetch_add(lines, Ordering::Relaxed);
    }

    fn write_to(&self, mut out: impl Write) {
        let mut batch = Vec::new();
        while let Some(lines) = self.gather(&mut batch) {
            if out.write_all(&batch).and_then(|()| out.flush()).is_err() {
                self.lose(lines);
            }
            batch.clear();
            batch.shrink_to(KEPT_BYTES);
            let mut queue = self.queue();
            queue.written = queue.written.saturating_add(lines);
            self.done.notify_all();
        }
    }

    /// Waits for lines and moves them into the empty `batch`. How many there are; `None` at the end.
    fn gather(&self, batch: &mut Vec<u8>) -> Option<u64> {
        let mut queue = self.queue();
        queue.idle = true;
        let nothing = |queue: &mut Queue| queue.waiting.is_empty() && !queue.ended;
        queue = self.work.wait_while(queue, nothing).unwrap_or_else(PoisonError::into_inner);
        queue.idle = false;
        if queue.waiting.is_empty() {
            return None;
        }
        let unhurried = |queue: &mut Queue| !queue.hurried && !queue.ended;
        let gathered = self.work.wait_timeout_while(queue, GATHER, unhurried);
        queue = gathered.unwrap_or_else(PoisonError::into_inner).0;
        queue.hurried = false;
        mem::swap(&mut queue.waiting, batch);
        Some(queue.taken.saturating_sub(queue.written))
    }
}

impl Write for &Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.push(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = &'a Self;

    fn make_writer(&'a self) -> Self::Writer {
        self
    }
}
