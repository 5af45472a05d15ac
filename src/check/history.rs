//! Checks on their way to the store: a bounded queue and the task that empties it.

use std::{sync::Arc, time::Duration};

use tokio::sync::{mpsc, oneshot};

use super::Check;
use crate::{
    store::{Store, StoredCheck},
    target::Fingerprint,
};

/// Most checks that wait for the disk.
const QUEUE_MAX: usize = 4096;

/// Most checks that are written in one transaction.
const BATCH_MAX: usize = 256;

/// How long somebody who asked for a check waits for it to be on the disk.
const DISK_TIMEOUT: Duration = Duration::from_secs(5);

/// How often old checks are deleted.
const SWEEP_INTERVAL: Duration = Duration::from_mins(10);

type Job = (StoredCheck, oneshot::Sender<()>);

/// The end that is written to.
#[derive(Clone, Debug)]
pub(super) struct History {
    queue: mpsc::Sender<Job>,
}

/// The end that writes. Run by a task of its own.
#[derive(Debug)]
pub struct Writer {
    queue: mpsc::Receiver<Job>,
    store: Store,
}

/// A check that may be on the disk soon.
#[derive(Debug)]
pub(super) struct Written(Option<oneshot::Receiver<()>>);

impl History {
    pub(super) fn new(store: Store) -> (Self, Writer) {
        let (sender, queue) = mpsc::channel(QUEUE_MAX);
        (Self { queue: sender }, Writer { queue, store })
    }

    /// Hands a check over. Where the disk is too slow for all of them, this one is not kept:
    /// traffic goes by what is in memory.
    pub(super) fn keep(&self, check: &Arc<Check>, fingerprint: Fingerprint) -> Written {
        let (written, on_disk) = oneshot::channel();
        let queued = stored(check, fingerprint)
            .is_some_and(|stored| self.queue.try_send((stored, written)).is_ok());
        if !queued {
            tracing::warn!(target_id = check.target_id, "a connectivity check could not be kept");
        }
        Written(queued.then_some(on_disk))
    }
}

impl Written {
    /// A check that is not kept.
    pub(super) const fn nowhere() -> Self {
        Self(None)
    }

    /// Whether it is on the disk, after a bounded wait.
    pub(super) async fn on_disk(self) -> bool {
        match self.0 {
            Some(on_disk) => {
                matches!(tokio::time::timeout(DISK_TIMEOUT, on_disk).await, Ok(Ok(())))
            }
            None => false,
        }
    }
}

fn stored(check: &Check, fingerprint: Fingerprint) -> Option<StoredCheck> {
    Some(StoredCheck {
        connectivity_check_id: check.connectivity_check_id.as_deref()?.to_owned(),
        target_id: check.target_id.clone(),
        fingerprint: fingerprint.to_string(),
        document: serde_json::to_string(check).ok()?,
        checked_at: check.last_checked_at?.as_millisecond(),
    })
}

impl Writer {
    /// Writes until the last [`super::Board`] is gone.
    pub async fn run(mut self) {
        let mut batch = Vec::new();
        let mut sweep = tokio::time::interval(SWEEP_INTERVAL);
        loop {
            tokio::select! {
                biased;
                received = self.queue.recv_many(&mut batch, BATCH_MAX) => {
                    if received == 0 {
                        return;
                    }
                    self.write(&mut batch).await;
                }
                _ = sweep.tick() => self.sweep().await,
            }
        }
    }

    async fn write(&self, batch: &mut Vec<Job>) {
        let (checks, waiting): (Vec<_>, Vec<_>) = batch.drain(..).unzip();
        match self.store.write_checks(&checks).await {
            Ok(()) => {
                for one in waiting {
                    // Whoever waited may be gone; the check is kept all the same.
                    let _gone = one.send(());
                }
            }
            Err(error) => {
                let count = checks.len();
                tracing::error!(count, %error, "connectivity checks could not be stored");
            }
        }
    }

    async fn sweep(&self) {
        if let Err(error) = self.store.sweep_checks(jiff::Timestamp::now().as_millisecond()).await {
            tracing::error!(%error, "old connectivity checks could not be deleted");
        }
    }
}
