//! How streams tell the tunnel's task that there is something to do.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{Notify, futures::Notified};

use super::{datagrams::Port, lane::Lane};

/// What the task should look at.
pub(super) enum Ring {
    /// A stream that is new, has bytes to send, has been read from, or has ended.
    Stream(Arc<Lane>),
    /// A datagram socket that is new, has something to send, or has ended.
    Datagrams(Arc<Port>),
}

/// Those that rang. Each stream and socket is in it once at most, so they bound it.
#[derive(Default)]
pub(super) struct Bell {
    rung: Mutex<Vec<Ring>>,
    heard: Notify,
}

impl Bell {
    pub(super) fn ring(&self, ring: Ring) {
        self.rung.lock().unwrap_or_else(PoisonError::into_inner).push(ring);
        self.wake();
    }

    /// Lets the task look around, for no stream's sake.
    pub(super) fn wake(&self) {
        self.heard.notify_one();
    }

    /// All that rang since the last time.
    pub(super) fn answer(&self) -> Vec<Ring> {
        std::mem::take(&mut *self.rung.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Ready when somebody rings, or has rung since the last time this was ready.
    pub(super) fn heard(&self) -> Notified<'_> {
        self.heard.notified()
    }
}
