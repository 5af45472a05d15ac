//! What goes through one tunnel: its open streams and their bytes.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

/// What went through one tunnel since it was set up.
#[derive(Debug, Default)]
pub(super) struct Meter {
    open: AtomicU64,
    to_target: AtomicU64,
    to_gateway: AtomicU64,
}

impl Meter {
    /// Counts a stream until it is dropped.
    pub(super) fn open(self: &Arc<Self>) -> Open {
        self.open.fetch_add(1, Ordering::Relaxed);
        Open(Arc::clone(self))
    }

    pub(super) fn open_streams(&self) -> u64 {
        self.open.load(Ordering::Relaxed)
    }

    pub(super) fn bytes_to_target(&self) -> u64 {
        self.to_target.load(Ordering::Relaxed)
    }

    pub(super) fn bytes_to_gateway(&self) -> u64 {
        self.to_gateway.load(Ordering::Relaxed)
    }
}

/// One open stream.
#[derive(Debug)]
pub(super) struct Open(Arc<Meter>);

impl Open {
    pub(super) fn sent(&self, bytes: usize) {
        add(&self.0.to_target, bytes);
    }

    pub(super) fn received(&self, bytes: usize) {
        add(&self.0.to_gateway, bytes);
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

fn add(counter: &AtomicU64, bytes: usize) {
    counter.fetch_add(u64::try_from(bytes).unwrap_or(u64::MAX), Ordering::Relaxed);
}
