//! Another protocol that a target has agreed to (101), between the relay and the connection.

use std::sync::{Mutex, PoisonError};

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;

use crate::{
    forward::connect::{ClientStream, Terms, tunnel},
    record::Record,
    slots::Slot,
    target::TargetId,
};

/// Where a request leaves the other protocol that its target has agreed to, for the connection to
/// go on with once the client has its 101.
#[derive(Debug, Default)]
pub struct SwitchSlot(Mutex<Option<Switch>>);

impl SwitchSlot {
    /// What was agreed on.
    pub fn take(&self) -> Option<Switch> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    pub(super) fn put(&self, switch: Switch) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(switch);
    }
}

/// Another protocol that a target has agreed to.
#[derive(Debug)]
pub struct Switch {
    pub(super) upstream: OnUpgrade,
    pub(super) terms: Terms,
    pub(super) record: Record,
    pub(super) _slots: (Slot<String>, Slot<TargetId>),
}

impl Switch {
    /// Carries the other protocol to its end, byte for byte.
    pub async fn run(self, client: impl ClientStream, early: Vec<u8>) {
        let Self { upstream, terms, mut record, _slots: slots } = self;
        match upstream.await {
            Ok(upstream) => {
                let upstream = TokioIo::new(upstream);
                Box::pin(tunnel(client, early, upstream, terms, record, slots)).await;
            }
            Err(_) => record.end = Some("target_reset"),
        }
    }
}
