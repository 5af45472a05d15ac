//! The targets of the admin API: kept in the store, and part of every view.
//!
//! One writer at a time: what it changes is on the disk before it is in the view, and in the view
//! before it is acknowledged. A reload takes the same lock, so that neither loses the other's work.

mod credential;
mod document;
mod entry;
mod fault;
mod judge;

use std::{
    collections::BTreeMap,
    ops::Bound,
    path::PathBuf,
    sync::{Arc, PoisonError, RwLock},
};

use arc_swap::ArcSwap;
use jiff::Timestamp;
use tokio::sync::{Mutex, MutexGuard, Notify};

pub use credential::{OVERLAP_DEFAULT, OVERLAP_MAX};
pub use document::Json;
pub use entry::{Entry, SecretStatus};
pub use fault::Fault;
pub use judge::Warnings;

use crate::{
    check::Board,
    fields::Problems,
    seal::{Keys, Sealed},
    secret::Secret,
    store::{Expect, Field, NewCredentials, PutError, Store, StoreError},
    target::{Source, Target, TargetId},
    view::View,
};
use document::{Around, Draft};
use entry::Rotation;
use judge::judge;

/// Targets of the API at most.
pub const TARGETS_MAX: usize = 100_000;

/// The targets of the API, and the one place that changes them.
#[derive(Debug)]
pub struct Inventory {
    store: Store,
    /// What traffic sees.
    view: Arc<ArcSwap<View>>,
    checks: Arc<Board>,
    /// Where files that the API's targets name lie.
    folder: PathBuf,
    keys: ArcSwap<Option<Keys>>,
    entries: RwLock<BTreeMap<TargetId, Arc<Entry>>>,
    writer: Mutex<()>,
    /// Rung when a secret expires earlier than was known.
    rotation: Notify,
}

/// While it is there no target changes.
#[derive(Debug)]
pub struct Still<'a>(#[expect(dead_code, reason = "held, not read")] MutexGuard<'a, ()>);

/// A target that was kept.
#[derive(Debug)]
pub struct Kept {
    /// As it is now.
    pub entry: Arc<Entry>,
    /// Whether there was none of this id before.
    pub created: bool,
    /// What blocks its traffic until somebody acts.
    pub warnings: Warnings,
}

impl Inventory {
    /// Reads everything that is kept, and adds it to the view that `view` holds. What cannot be
    /// read carries no traffic, and is said. `folder` is where files that the API's targets name
    /// lie.
    ///
    /// # Errors
    /// What the store says.
    pub async fn open(
        store: Store,
        view: Arc<ArcSwap<View>>,
        checks: Arc<Board>,
        folder: PathBuf,
        keys: Option<Keys>,
    ) -> Result<Self, StoreError> {
        let mut whole = View::clone(&view.load());
        let around = Around::of(&whole, &folder);
        let mut entries = BTreeMap::new();
        for stored in store.targets().await? {
            let Some(id) = TargetId::parse(&stored.id) else { continue };
            let entry = Entry::restored(id.clone(), &stored, keys.as_ref(), &around);
            entries.extend(entry.map(|entry| (id, Arc::new(entry))));
        }
        add(&mut whole, entries.values());
        view.store(Arc::new(whole));
        Ok(Self {
            store,
            view,
            checks,
            folder,
            keys: ArcSwap::from_pointee(keys),
            entries: RwLock::new(entries),
            writer: Mutex::new(()),
            rotation: Notify::new(),
        })
    }

    /// Keeps all targets as they are while somebody replaces the view.
    pub async fn still(&self) -> Still<'_> {
        Still(self.writer.lock().await)
    }

    /// Opens with new keys what the former ones could not.
    pub async fn reopen(&self, _still: &Still<'_>, keys: Option<&Keys>) {
        let around = self.around(&self.view.load());
        for entry in self.list(None, usize::MAX).into_iter().filter(|entry| entry.is_sealed()) {
            let id = entry.id.clone();
            match self.store.target(id.as_str()).await {
                Ok(stored) => {
                    let entry = stored
                        .and_then(|stored| Entry::restored(id.clone(), &stored, keys, &around));
                    let mut entries = self.entries.write().unwrap_or_else(PoisonError::into_inner);
                    entries.extend(entry.map(|entry| (id, Arc::new(entry))));
                }
                Err(error) => tracing::error!(%error, "secrets could not be read again"),
            }
        }
    }

    /// Adds the targets of the API to a new configuration's view, read among its names; `keys` open
    /// and seal from now on.
    pub fn join(&self, _still: &Still<'_>, view: &mut View, keys: Option<Keys>) {
        let around = Around::of(view, &self.folder);
        let mut entries = self.entries.write().unwrap_or_else(PoisonError::into_inner);
        for entry in entries.values_mut() {
            *entry = Arc::new(entry.read_again(&around, &[]));
        }
        add(view, entries.values());
        self.keys.store(Arc::new(keys));
    }

    /// A target of the API.
    pub fn get(&self, id: &TargetId) -> Option<Arc<Entry>> {
        self.entries.read().unwrap_or_else(PoisonError::into_inner).get(id).cloned()
    }

    /// At most `limit` targets of the API behind `after`, in the order of their ids.
    pub fn list(&self, after: Option<&TargetId>, limit: usize) -> Vec<Arc<Entry>> {
        let entries = self.entries.read().unwrap_or_else(PoisonError::into_inner);
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        entries
            .range::<TargetId, _>((from, Bound::Unbounded))
            .map(|(_, entry)| Arc::clone(entry))
            .take(limit)
            .collect()
    }

    /// Whether a target could be kept, and what would block its traffic until somebody acts.
    /// Nothing is kept.
    ///
    /// # Errors
    /// Why it could not.
    pub async fn validate(&self, id: &TargetId, body: Json) -> Result<(Target, Warnings), Fault> {
        let view = self.view.load_full();
        let former = self.former(&view, id);
        let draft = document::read(id.as_str(), body, former.as_deref(), &self.around(&view))?;
        let credential = draft.target.signing.secret.is_some();
        let target = self.completed(id, draft.target);
        let warnings = judge(&view, &target, credential).await?;
        Ok((target, warnings))
    }

    /// Makes or replaces a target. A signing secret in the body takes the place of the one there
    /// was; without one, that stays. On the disk and in force when it returns.
    ///
    /// # Errors
    /// Why nothing was changed.
    pub async fn put(&self, id: &TargetId, body: Json, expect: Expect) -> Result<Kept, Fault> {
        let view = self.view.load_full();
        let former = self.former(&view, id);
        writable(&view, id)?;
        let Draft { document, target } =
            document::read(id.as_str(), body, former.as_deref(), &self.around(&view))?;
        let given = target.signing.secret.clone().map(|current| Rotation {
            current: Some(current),
            previous: target.signing.previous.clone().map(|secret| (secret, None)),
        });
        let target = self.completed(id, target);
        // DNS may take its time: nobody else waits for it.
        let warnings = judge(&view, &target, given.is_some()).await?;
        let _writer = self.writer.lock().await;
        let before = self.get(id);
        writable(&self.view.load(), id)?;
        if before.is_none() && self.len() >= TARGETS_MAX {
            return Err(Fault::TooMany(TARGETS_MAX));
        }
        // The same secret again, as after a lost answer, does not end a rotation.
        let known = before.as_ref().and_then(|before| before.secrets.current.as_ref());
        let given =
            given.filter(|given| given.previous.is_some() || given.current.as_ref() != known);
        if let Some(before) = before.as_ref().filter(|before| {
            before.document == document && given.is_none() && before.target.is_ok()
        }) {
            // The same again: nothing to write, as long as it is what the writer expects.
            holds(expect, Some(before.version))?;
            return Ok(Kept { entry: Arc::clone(before), created: false, warnings });
        }
        let sealed = given.as_ref().map(|given| self.seal(id, given)).transpose()?;
        let now = entry::now();
        let text = serde_json::Value::Object(document.clone()).to_string();
        let version = self
            .store
            .put_target(id.as_str(), &text, sealed.as_ref(), expect, now.as_millisecond())
            .await?;
        let renewed = if given.is_some() { &Field::ALL[..] } else { &[] };
        let former = before.as_deref();
        let mut entry = Entry {
            id: id.clone(),
            version,
            document,
            created_at: former.map_or(now, |former| former.created_at),
            updated_at: now,
            secrets: given
                .or_else(|| former.map(|former| former.secrets.clone()))
                .unwrap_or_default(),
            target: former.map_or_else(|| Err(Problems::new()), |former| former.target.clone()),
            shown: Arc::new(target),
        };
        entry.shown = Arc::new(entry.with_secrets(Target::clone(&entry.shown)));
        // Names may have gone meanwhile; secrets that cannot be opened still cannot.
        let entry = entry.read_again(&self.around(&self.view.load()), renewed);
        Ok(Kept { entry: self.install(entry), created: before.is_none(), warnings })
    }

    /// Deletes a target with its credentials and what is known of its connectivity.
    ///
    /// # Errors
    /// Why it is still there.
    pub async fn delete(&self, id: &TargetId, expect: Expect) -> Result<(), Fault> {
        let _writer = self.writer.lock().await;
        writable(&self.view.load(), id)?;
        if !self.store.delete_target(id.as_str(), expect).await? {
            return Err(Fault::NotFound);
        }
        self.entries.write().unwrap_or_else(PoisonError::into_inner).remove(id);
        let mut view = View::clone(&self.view.load());
        view.generation = view.generation.saturating_add(1);
        view.targets.remove(id);
        view.egress.tls.forget(id);
        self.view.store(Arc::new(view));
        self.checks.changed(id, None);
        tracing::info!(target_id = id.as_str(), "target deleted");
        if let Err(error) = self.store.forget_target(id.as_str()).await {
            tracing::error!(target_id = id.as_str(), %error, "its checks could not be deleted");
        }
        Ok(())
    }

    /// How many targets of the API there are.
    pub fn len(&self) -> usize {
        self.entries.read().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn around(&self, view: &View) -> Around {
        Around::of(view, &self.folder)
    }

    /// The target of this id as it is shown, whoever wrote it.
    fn former(&self, view: &View, id: &TargetId) -> Option<Arc<Target>> {
        let kept = self.get(id).map(|entry| Arc::clone(&entry.shown));
        kept.or_else(|| view.targets.get(id.as_str()).cloned())
    }

    /// A draft with the secrets that it would have.
    fn completed(&self, id: &TargetId, draft: Target) -> Target {
        match (self.get(id), &draft.signing.secret) {
            (Some(entry), None) => entry.with_secrets(draft),
            (_, Some(_)) | (None, None) => Target { source: Source::Api, ..draft },
        }
    }

    fn seal(&self, id: &TargetId, secrets: &Rotation) -> Result<NewCredentials, Fault> {
        let keys = self.keys.load();
        let keys = keys.as_ref().as_ref().ok_or(Fault::NoKey)?;
        let seal = |field: Field, secret: &Secret| -> Result<Sealed, Fault> {
            Ok(keys.current.seal(id.as_str(), field.as_str(), secret)?)
        };
        let current = secrets.current.as_ref().ok_or(Fault::NotFound)?;
        let previous = secrets.previous.as_ref();
        Ok(NewCredentials {
            current: seal(Field::SigningSecret, current)?,
            previous: previous
                .map(|(secret, until)| {
                    let sealed = seal(Field::SigningSecretPrevious, secret)?;
                    Ok::<_, Fault>((sealed, until.map(Timestamp::as_millisecond)))
                })
                .transpose()?,
        })
    }

    /// Makes an entry the one in force, unless the configuration has a target of its id. The caller
    /// is the one writer.
    fn install(&self, mut entry: Entry) -> Arc<Entry> {
        let mut view = View::clone(&self.view.load());
        view.generation = view.generation.saturating_add(1);
        let id = entry.id.clone();
        let in_force = writable(&view, &id).is_ok();
        if let Ok(target) = &entry.target {
            let target = view.adopt(Target::clone(target));
            if in_force {
                view.targets.set(Arc::clone(&target));
            }
            entry.target = Ok(target);
        } else if in_force {
            view.targets.remove(&id);
        }
        let entry = Arc::new(entry);
        let mut entries = self.entries.write().unwrap_or_else(PoisonError::into_inner);
        entries.insert(id.clone(), Arc::clone(&entry));
        drop(entries);
        self.rotation.notify_one();
        if !in_force {
            return entry;
        }
        let view = Arc::new(view);
        self.view.store(Arc::clone(&view));
        let target = view.targets.get(id.as_str());
        self.checks.changed(&id, target.map(|target| &**target));
        if let Some(target) = target {
            self.checks.renew(&view, target);
        }
        tracing::info!(target_id = id.as_str(), version = entry.version, "target changed");
        entry
    }
}

/// Adds targets of the API to a view. Of two with one id the configuration's holds.
fn add<'a>(view: &mut View, entries: impl Iterator<Item = &'a Arc<Entry>>) {
    for entry in entries {
        let id = entry.id.as_str();
        match &entry.target {
            Ok(_) if view.targets.get(id).is_some() => {
                tracing::warn!(
                    target_id = id,
                    "the configuration's target is in force, not the API's"
                );
            }
            Ok(target) => {
                let target = view.adopt(Target::clone(target));
                view.targets.set(target);
            }
            Err(problems) => {
                for problem in problems {
                    tracing::error!(target_id = id, %problem, "the target carries no traffic");
                }
            }
        }
    }
}

/// Targets of the configuration are read-only here.
fn writable(view: &View, id: &TargetId) -> Result<(), Fault> {
    match view.targets.get(id.as_str()).map(|target| target.source) {
        Some(Source::Config) => Err(Fault::ReadOnly),
        Some(Source::Api) | None => Ok(()),
    }
}

fn holds(expect: Expect, version: Option<i64>) -> Result<(), Fault> {
    let holds = match expect {
        Expect::Any => true,
        Expect::Absent => version.is_none(),
        Expect::Version(expected) => version == Some(expected),
    };
    if holds { Ok(()) } else { Err(Fault::Changed(version)) }
}

impl From<PutError> for Fault {
    fn from(error: PutError) -> Self {
        match error {
            PutError::Changed { current } => Self::Changed(current),
            PutError::Missing => Self::NotFound,
            PutError::Store(error) => Self::Store(error),
        }
    }
}
