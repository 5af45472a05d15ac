//! Bytes from one TCP socket to another through a pipe: the kernel moves its pages and copies
//! nothing (splice(2)).
//!
//! A pipe belongs to a direction only while bytes flow or are stuck in it, and there are not many
//! of them. Where none is to be had, and wherever splice(2) cannot serve, the bytes are copied.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
};

use nix::{
    errno::Errno,
    fcntl::{FcntlArg, OFlag, SpliceFFlags, fcntl, splice},
    unistd::{pipe2, read},
};
use tokio::{io::Interest, net::TcpStream};

/// How much a pipe holds, in bytes. From 128 to 512 KiB a byte costs the same; with 1 MiB a little
/// less, but of those the kernel lets a user have only 64 (`fs.pipe-user-pages-soft`).
const PIPE_BYTES: i32 = 256 * 1024;

/// Pipes smaller than this are not worth their calls: what the kernel gives to a user who has too
/// many (`fs.pipe-user-pages-soft`).
const PIPE_BYTES_MIN: i32 = 64 * 1024;

/// Most pipes of the process. With [`PIPE_BYTES`] each that is half of what the kernel lets a user
/// have by default.
const PIPES_MAX: usize = 128;

/// Most pipes that wait, empty, for another direction.
const IDLE_MAX: usize = 32;

/// The pipes of the process.
pub(super) static PIPES: Pipes = Pipes::new(PIPES_MAX);

/// A bounded number of pipes, and those of them that nobody uses.
#[derive(Debug)]
pub(super) struct Pipes {
    idle: Mutex<Vec<Pipe>>,
    open: AtomicUsize,
    most: usize,
}

#[derive(Debug)]
struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
    of: &'static Pipes,
}

impl Pipes {
    /// None yet, and never more than `most`.
    pub(super) const fn new(most: usize) -> Self {
        Self { idle: Mutex::new(Vec::new()), open: AtomicUsize::new(0), most }
    }

    /// An empty pipe, unless there are too many or the kernel gives none.
    pub(super) fn take(&'static self) -> Option<Piped> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let pipe = idle.or_else(|| self.open())?;
        Some(Piped { pipe: Some(pipe), holds: 0 })
    }

    /// How many there are.
    #[cfg(test)]
    pub(super) fn opened(&self) -> usize {
        self.open.load(Ordering::Acquire)
    }

    /// How many of them wait.
    #[cfg(test)]
    pub(super) fn idle(&self) -> usize {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    fn open(&'static self) -> Option<Pipe> {
        if self.open.fetch_add(1, Ordering::AcqRel) < self.most
            && let Some((read, write)) = open()
        {
            return Some(Pipe { read, write, of: self });
        }
        self.open.fetch_sub(1, Ordering::AcqRel);
        None
    }

    fn give_back(&self, pipe: Pipe) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < IDLE_MAX {
            idle.push(pipe);
        }
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        self.of.open.fetch_sub(1, Ordering::AcqRel);
    }
}

fn open() -> Option<(OwnedFd, OwnedFd)> {
    let (read, write) = pipe2(OFlag::O_NONBLOCK | OFlag::O_CLOEXEC).ok()?;
    let enough = match fcntl(&write, FcntlArg::F_SETPIPE_SZ(PIPE_BYTES)) {
        Ok(_) => true,
        Err(_) => fcntl(&write, FcntlArg::F_GETPIPE_SZ).is_ok_and(|bytes| bytes >= PIPE_BYTES_MIN),
    };
    enough.then_some((read, write))
}

/// A pipe in use, and how much is in it. Dropped, it waits for another direction, or is closed with
/// what is in it.
#[derive(Debug)]
pub(super) struct Piped {
    /// There until it is dropped.
    pipe: Option<Pipe>,
    holds: usize,
}

impl Drop for Piped {
    fn drop(&mut self) {
        if let Some(pipe) = self.pipe.take().filter(|_| self.holds == 0) {
            pipe.of.give_back(pipe);
        }
    }
}

impl Piped {
    /// Bytes in the pipe.
    pub(super) fn holds(&self) -> usize {
        self.holds
    }

    /// Moves what the source has into the pipe, which is empty. False where there is nothing to
    /// move for now, where the source has ended, and where splice(2) does not work: reading tells.
    ///
    /// # Errors
    /// What the source says.
    pub(super) fn fill(&mut self, source: &TcpStream) -> io::Result<bool> {
        let Some(pipe) = &self.pipe else { return Ok(false) };
        match moved(source, &pipe.write, usize::try_from(PIPE_BYTES).unwrap_or_default()) {
            Ok(count) => {
                self.holds = count;
                Ok(count > 0)
            }
            Err(Errno::EAGAIN | Errno::EINTR) => Ok(false),
            Err(errno) if is_unfit(errno) => Ok(false),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Moves bytes out of the pipe, which holds some. Ready with how many the sink took.
    ///
    /// # Errors
    /// What the sink says; `Unsupported` where splice(2) does not work.
    pub(super) fn poll_empty(
        &mut self,
        cx: &mut Context<'_>,
        sink: &TcpStream,
    ) -> Poll<io::Result<usize>> {
        let Some(pipe) = &self.pipe else { return Poll::Ready(Ok(0)) };
        loop {
            ready!(sink.poll_write_ready(cx))?;
            let once = || moved(&pipe.read, sink, self.holds).map_err(io::Error::from);
            match sink.try_io(Interest::WRITABLE, once) {
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Ok(count) => {
                    self.holds = self.holds.saturating_sub(count);
                    return Poll::Ready(Ok(count));
                }
                // The pipe holds something, so it is the sink that is full.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    let unfit = error.raw_os_error().map(Errno::from_raw).is_some_and(is_unfit);
                    let unsupported = || io::ErrorKind::Unsupported.into();
                    return Poll::Ready(Err(if unfit { unsupported() } else { error }));
                }
            }
        }
    }

    /// Takes the bytes out, to be written.
    ///
    /// # Errors
    /// What the kernel says.
    pub(super) fn into_bytes(mut self) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; self.holds];
        let mut rest = bytes.as_mut_slice();
        while let (Some(pipe), false) = (&self.pipe, rest.is_empty()) {
            let count = read(&pipe.read, rest)?;
            self.holds = self.holds.saturating_sub(count);
            rest = rest.get_mut(count..).filter(|_| count > 0).unwrap_or_default();
        }
        Ok(bytes)
    }
}

/// splice(2), without waiting.
fn moved(from: impl AsFd, to: impl AsFd, most: usize) -> nix::Result<usize> {
    let flags = SpliceFFlags::SPLICE_F_MOVE | SpliceFFlags::SPLICE_F_NONBLOCK;
    splice(from, None, to, None, most, flags)
}

/// Whether this says that the call does not work here, and nothing about the connection: a sandbox
/// that forbids it, a kernel without it, no memory.
fn is_unfit(errno: Errno) -> bool {
    let says = [Errno::EINVAL, Errno::ENOSYS, Errno::EOPNOTSUPP, Errno::EPERM, Errno::ENOMEM];
    says.contains(&errno)
}
