//! Signing secrets of the API's targets: set, rotated, ended.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use super::{
    Entry, Fault, Inventory,
    entry::{Rotation, now},
    judge::{Judgement, addresses},
    writable,
};
use crate::{
    fields::Problem,
    secret::Secret,
    store::{Expect, Field, Which},
    target::TargetId,
    webhook::signature::Key,
};

/// How long a former secret counts where nothing else is said: receivers get a day to change over.
pub const OVERLAP_DEFAULT: Duration = Duration::from_hours(24);

/// How long it may count at most.
pub const OVERLAP_MAX: Duration = Duration::from_hours(30 * 24);

/// Shortest signing secret, in bytes (contract, section 9).
const SECRET_BYTES_MIN: usize = 16;

/// How long after a failure to end a rotation on the disk it is tried again.
const RETRY_INTERVAL: Duration = Duration::from_secs(30);

impl Inventory {
    /// Sets the secret of a target whose URL and addresses have passed, now. The former one counts
    /// for `overlap` more. On the disk and in force when it returns.
    ///
    /// # Errors
    /// Why nothing was changed.
    pub async fn set_secret(
        &self,
        id: &TargetId,
        secret: Secret,
        overlap: Duration,
        expect: Expect,
    ) -> Result<Arc<Entry>, Fault> {
        let view = self.view.load_full();
        writable(&view, id)?;
        let entry = self.get(id).ok_or(Fault::NotFound)?;
        let target = entry.readable(&self.around(&view)).map_err(Fault::Invalid)?;
        let invalid = |message: String| {
            Fault::Invalid(vec![Problem { key: "signing_secret".to_owned(), message }])
        };
        if secret.len() < SECRET_BYTES_MIN {
            let message = format!("a signing secret has at least {SECRET_BYTES_MIN} bytes");
            return Err(invalid(message));
        }
        Key::new(&secret, target.signing.format).map_err(|error| invalid(error.to_string()))?;
        let about = |refusal: crate::reason::Refusal| {
            Box::new(refusal.about(target.about(&view.egress_ips)))
        };
        addresses(&view, &target).await.map_err(|judgement| match judgement {
            Judgement::Unsafe(refusal) => Fault::Unsafe(about(refusal)),
            Judgement::Unknown(refusal) => Fault::NotJudged(about(refusal)),
        })?;
        let _writer = self.writer.lock().await;
        writable(&self.view.load(), id)?;
        // As it is by now; what was judged must be what is there.
        let judged = entry;
        let entry = self.get(id).ok_or(Fault::NotFound)?;
        if entry.document != judged.document {
            return Err(Fault::Changed(Some(entry.version)));
        }
        let now = now();
        let until = now.checked_add(overlap.min(OVERLAP_MAX)).ok();
        let former = entry.secrets.at(now);
        let previous = match former.current {
            // The same again, as after a lost answer, does not end the rotation.
            Some(current) if current == secret => former.previous,
            Some(current) if !overlap.is_zero() => Some((current, until)),
            Some(_) | None => None,
        };
        let secrets = Rotation { current: Some(secret), previous };
        let sealed = self.seal(id, &secrets)?;
        let at = now.as_millisecond();
        let version = self.store.put_credential(id.as_str(), &sealed, expect, at).await?;
        Ok(self.replace_secrets(&entry, secrets, (version, now), &Field::ALL))
    }

    /// Ends a rotation, or takes all secrets away.
    ///
    /// # Errors
    /// Why nothing was changed.
    pub async fn delete_secret(
        &self,
        id: &TargetId,
        which: Which,
        expect: Expect,
    ) -> Result<Arc<Entry>, Fault> {
        let _writer = self.writer.lock().await;
        writable(&self.view.load(), id)?;
        let entry = self.get(id).ok_or(Fault::NotFound)?;
        let now = now();
        let at = now.as_millisecond();
        let version = self.store.delete_credential(id.as_str(), which, expect, at).await?;
        let (secrets, renewed) = match which {
            Which::All => (Rotation::default(), &Field::ALL[..]),
            Which::Previous => {
                let secrets = Rotation { previous: None, ..entry.secrets.clone() };
                (secrets, &[Field::SigningSecretPrevious][..])
            }
        };
        Ok(self.replace_secrets(&entry, secrets, (version, now), renewed))
    }

    fn replace_secrets(
        &self,
        entry: &Entry,
        secrets: Rotation,
        (version, updated_at): (i64, Timestamp),
        renewed: &[Field],
    ) -> Arc<Entry> {
        let changed = Entry { version, updated_at, secrets, ..entry.copy() };
        // What was wrong with a secret that is replaced is over.
        let changed = changed.read_again(&self.around(&self.view.load()), renewed);
        self.install(changed)
    }

    /// Ends rotations whose time has come, until `stop`.
    pub async fn end_rotations(self: Arc<Self>, stop: CancellationToken) {
        loop {
            let now = now();
            let wait = match self.next_expiry() {
                Some(at) if at <= now => {
                    if self.expire(now).await {
                        Duration::ZERO
                    } else {
                        RETRY_INTERVAL
                    }
                }
                Some(at) => Duration::try_from(at.duration_since(now)).unwrap_or_default(),
                None => OVERLAP_MAX,
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.rotation.notified() => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    fn next_expiry(&self) -> Option<Timestamp> {
        self.list(None, usize::MAX).iter().filter_map(|entry| entry.secrets.expiry()).min()
    }

    /// Takes secrets whose time is over out of force, then off the disk. Whether that was done.
    async fn expire(&self, now: Timestamp) -> bool {
        let _writer = self.writer.lock().await;
        for entry in self.list(None, usize::MAX) {
            if entry.secrets.expiry().is_some_and(|at| at <= now) {
                let secrets = entry.secrets.at(now);
                let changed = Entry { secrets, ..entry.copy() };
                self.install(changed.read_again(&self.around(&self.view.load()), &[]));
            }
        }
        loop {
            match self.store.sweep_credentials(now.as_millisecond()).await {
                Ok(swept) if swept.is_empty() => return true,
                Ok(_) => {}
                Err(error) => {
                    tracing::error!(%error, "expired secrets could not be deleted");
                    return false;
                }
            }
        }
    }
}
