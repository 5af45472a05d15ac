//! Notices when a file that the configuration was read from changes.
//!
//! The kernel's notices only say when to look; whether there is a change is decided by comparing
//! what is there with what was there *before the file was read*. So a change between reading and
//! watching is not missed, nor one whose notice is lost, and a notice without a change means
//! nothing. Directories are watched, not files: editors and orchestrators put a new file, or a new
//! symbolic link to a directory of files, in the place of the old one.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Component, Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::{sync::Notify, time::sleep};

/// How long a change has to rest before it is reported, so that several files that belong together
/// are read once, and a file that is being written is read whole.
const SETTLE: Duration = Duration::from_millis(300);

/// How often a change that does not come to rest is looked at before it is reported nevertheless.
const SETTLE_ROUNDS: usize = 10;

/// Shortest time between two looks, in case a neighbour in the directory is written to all the
/// time.
const PAUSE: Duration = Duration::from_millis(100);

/// How often files are looked at without any notice: for file systems that send none, such as
/// network file systems, and for notices that the kernel drops.
const POLL: Duration = Duration::from_secs(5);

/// How many symbolic links are followed, as the kernel does (`path_resolution(7)`).
const LINKS_MAX: usize = 40;

/// What identifies a file's content without reading it. The default stands for a file that is not
/// there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Stamp(Option<[i128; 5]>);

impl Stamp {
    /// What is there now, behind all symbolic links.
    pub fn of(path: &Path) -> Self {
        const NANOS: i128 = 1_000_000_000;
        let nanos = |seconds: i64, nanos: i64| {
            i128::from(seconds).saturating_mul(NANOS).saturating_add(i128::from(nanos))
        };
        Self(fs::metadata(path).ok().map(|data| {
            [
                i128::from(data.dev()),
                i128::from(data.ino()),
                i128::from(data.size()),
                nanos(data.mtime(), data.mtime_nsec()),
                nanos(data.ctime(), data.ctime_nsec()),
            ]
        }))
    }
}

/// A file as it was before it was read.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Seen {
    path: PathBuf,
    stamp: Stamp,
}

impl Seen {
    /// Takes a stamp that was made before the file was read.
    pub fn new(path: PathBuf, stamp: Stamp) -> Self {
        Self { path, stamp }
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Watches the files of a configuration.
#[derive(Debug)]
pub struct Watcher {
    files: BTreeMap<PathBuf, Stamp>,
    /// Directories watched now, and which directory each was when that began.
    directories: BTreeMap<PathBuf, Stamp>,
    /// `None` where the kernel offers no notices; then only [`POLL`] finds changes.
    notices: Option<RecommendedWatcher>,
    notified: Arc<Notify>,
    poll: Duration,
    fault: Option<String>,
}

/// Begins to watch. Never fails: where the kernel gives no notices, files are looked at every five
/// seconds, and [`Watcher::fault`] says why.
pub fn watch(files: &[Seen]) -> Watcher {
    Watcher::with_poll(files, POLL)
}

impl Watcher {
    fn with_poll(files: &[Seen], poll: Duration) -> Self {
        let notified = Arc::new(Notify::new());
        let wake = Arc::clone(&notified);
        let notices = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            // Reading a file is no change, and we read them ourselves.
            if !event.is_ok_and(|event| matches!(event.kind, EventKind::Access(_))) {
                wake.notify_one();
            }
        });
        let (notices, fault) = match notices {
            Ok(notices) => (Some(notices), None),
            Err(error) => (None, Some(error.to_string())),
        };
        let mut watcher = Self {
            files: BTreeMap::new(),
            directories: BTreeMap::new(),
            notices,
            notified,
            poll,
            fault,
        };
        watcher.rearm(files);
        watcher
    }

    /// Watches other files from now on: those of the configuration just read, refused or not.
    pub fn rearm(&mut self, files: &[Seen]) {
        self.files = files.iter().map(|seen| (seen.path.clone(), seen.stamp)).collect();
        self.arm();
    }

    /// Why changes may be noticed only after seconds, where that is so.
    pub fn fault(&self) -> Option<&str> {
        self.fault.as_deref()
    }

    /// Waits until a file differs from what was read, and has come to rest. Can be dropped at any
    /// time; nothing is lost.
    pub async fn changed(&mut self) {
        loop {
            if self.settled_change().await {
                return;
            }
            tokio::select! {
                () = self.notified.notified() => sleep(PAUSE).await,
                () = sleep(self.poll) => {}
            }
        }
    }

    async fn settled_change(&mut self) -> bool {
        self.arm();
        let mut now = self.look();
        if now == self.files {
            return false;
        }
        for _ in 0..SETTLE_ROUNDS {
            sleep(SETTLE).await;
            let next = self.look();
            if next == now {
                break;
            }
            now = next;
        }
        self.files = now;
        true
    }

    fn look(&self) -> BTreeMap<PathBuf, Stamp> {
        self.files.keys().map(|path| (path.clone(), Stamp::of(path))).collect()
    }

    /// Sees to it that exactly the right directories are watched: what is a link may point
    /// elsewhere by now, and what was not there may be.
    fn arm(&mut self) {
        let mut wanted = BTreeMap::new();
        for path in self.files.keys() {
            directories(path, &mut wanted);
        }
        if wanted == self.directories {
            return;
        }
        let Some(notices) = &mut self.notices else { return };
        for old in self.directories.keys() {
            // It may be gone, and its watch with it.
            let _gone = notices.unwatch(old);
        }
        self.fault = None;
        for directory in wanted.keys() {
            if let Err(error) = notices.watch(directory, RecursiveMode::NonRecursive) {
                self.fault = Some(format!("{}: {error}", directory.display()));
            }
        }
        self.directories = wanted;
    }
}

/// The directories in which something may happen that gives `path` another content: its own, and
/// those of every symbolic link on the way to it. Where a directory is not there, the one above in
/// which it would appear.
fn directories(path: &Path, found: &mut BTreeMap<PathBuf, Stamp>) {
    let mut links = 0_usize;
    let mut at = PathBuf::new();
    // Components still to go, the next one last.
    let mut rest: Vec<PathBuf> = components(path);
    while let Some(next) = rest.pop() {
        let step = at.join(&next);
        let is_name = matches!(next.components().next(), Some(Component::Normal(_)));
        if !is_name {
            at = step;
            continue;
        }
        let parent = if at.as_os_str().is_empty() { PathBuf::from(".") } else { at.clone() };
        let target = fs::read_link(&step).ok();
        let missing = target.is_none() && fs::symlink_metadata(&step).is_err();
        if target.is_some() || missing || rest.is_empty() {
            // Changed times are what a directory is about; which one it is, is not.
            let identity = Stamp::of(&parent).directory();
            found.insert(parent, identity);
        }
        match target {
            Some(target) if links < LINKS_MAX => {
                links = links.saturating_add(1);
                rest.extend(components(&target));
            }
            _ if missing => return,
            _ => at = step,
        }
    }
}

fn components(path: &Path) -> Vec<PathBuf> {
    path.components().rev().map(|component| PathBuf::from(component.as_os_str())).collect()
}

impl Stamp {
    /// Of a directory, only which one it is.
    fn directory(self) -> Self {
        Self(self.0.map(|[device, inode, ..]| [device, inode, 0, 0, 0]))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use tokio::time::timeout;

    use super::*;

    /// Longer than any test: what is noticed within it was not found by looking now and then.
    const NEVER: Duration = Duration::from_hours(1);
    const LONG: Duration = Duration::from_secs(20);

    fn seen(path: &Path) -> Seen {
        Seen::new(path.to_owned(), Stamp::of(path))
    }

    async fn notices(watcher: &mut Watcher, change: impl FnOnce()) {
        // Every watch is set up before the change, as a kernel's notice has to be the reason.
        assert_eq!(watcher.fault(), None);
        let waiting = timeout(LONG, watcher.changed());
        tokio::pin!(waiting);
        assert!(futures_poll(&mut waiting).await.is_none(), "noticed before the change");
        change();
        waiting.await.expect("the change was not noticed");
    }

    /// Polls once.
    async fn futures_poll<F: Future + Unpin>(future: &mut F) -> Option<F::Output> {
        std::future::poll_fn(|context| {
            std::task::Poll::Ready(match std::pin::Pin::new(&mut *future).poll(context) {
                std::task::Poll::Ready(output) => Some(output),
                std::task::Poll::Pending => None,
            })
        })
        .await
    }

    async fn is_quiet(watcher: &mut Watcher) -> bool {
        !watcher.settled_change().await
    }

    #[tokio::test]
    async fn a_file_that_is_written_or_replaced_or_removed_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("gateway.toml");
        fs::write(&path, "a").unwrap();
        let mut watcher = Watcher::with_poll(&[seen(&path)], NEVER);
        notices(&mut watcher, || fs::write(&path, "ab").unwrap()).await;
        notices(&mut watcher, || {
            let next = folder.path().join("next");
            fs::write(&next, "abc").unwrap();
            fs::rename(next, &path).unwrap();
        })
        .await;
        notices(&mut watcher, || fs::remove_file(&path).unwrap()).await;
        notices(&mut watcher, || fs::write(&path, "a").unwrap()).await;
        assert!(is_quiet(&mut watcher).await);
    }

    #[tokio::test]
    async fn neighbours_and_reading_are_no_change() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("gateway.toml");
        fs::write(&path, "a").unwrap();
        let mut watcher = Watcher::with_poll(&[seen(&path)], NEVER);
        fs::write(folder.path().join("neighbour"), "x").unwrap();
        fs::read(&path).unwrap();
        assert!(is_quiet(&mut watcher).await);
    }

    #[tokio::test]
    async fn a_volume_of_an_orchestrator_that_is_swapped_is_noticed_each_time() {
        // As Kubernetes does it: gateway.toml -> ..data/gateway.toml, ..data -> ..1.
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let version = |name: &str, text: &str| {
            fs::create_dir(at(name)).unwrap();
            fs::write(at(name).join("gateway.toml"), text).unwrap();
            symlink(name, at("..data_tmp")).unwrap();
            fs::rename(at("..data_tmp"), at("..data")).unwrap();
        };
        version("..1", "a");
        symlink("..data/gateway.toml", at("gateway.toml")).unwrap();
        let mut watcher = Watcher::with_poll(&[seen(&at("gateway.toml"))], NEVER);
        for (old, new) in [("..1", "..2"), ("..2", "..3"), ("..3", "..4")] {
            notices(&mut watcher, || {
                version(new, "b");
                fs::remove_dir_all(at(old)).unwrap();
            })
            .await;
        }
    }

    #[tokio::test]
    async fn a_link_anywhere_on_the_way_that_is_turned_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for release in ["r1", "r2"] {
            fs::create_dir_all(at(release).join("etc")).unwrap();
            fs::write(at(release).join("etc/gateway.toml"), release).unwrap();
        }
        symlink("r1", at("current")).unwrap();
        let path = at("current/etc/gateway.toml");
        let mut watcher = Watcher::with_poll(&[seen(&path)], NEVER);
        notices(&mut watcher, || {
            symlink("r2", at("next")).unwrap();
            fs::rename(at("next"), at("current")).unwrap();
        })
        .await;
        // And then what lies behind the link now.
        notices(&mut watcher, || fs::write(at("r2/etc/gateway.toml"), "new").unwrap()).await;
    }

    #[tokio::test]
    async fn a_change_between_reading_and_watching_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("gateway.toml");
        fs::write(&path, "a").unwrap();
        let before = seen(&path);
        fs::write(&path, "ab").unwrap();
        let mut watcher = Watcher::with_poll(&[before], NEVER);
        timeout(LONG, watcher.changed()).await.unwrap();
    }

    #[tokio::test]
    async fn a_file_that_did_not_exist_nor_its_directory_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secrets/deep/token");
        let mut watcher = Watcher::with_poll(&[seen(&path)], NEVER);
        notices(&mut watcher, || {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, "x").unwrap();
        })
        .await;
    }

    #[tokio::test]
    async fn other_files_are_watched_after_rearming() {
        let folder = tempfile::tempdir().unwrap();
        let (one, two) = (folder.path().join("one"), folder.path().join("two"));
        fs::write(&one, "a").unwrap();
        fs::write(&two, "a").unwrap();
        let mut watcher = Watcher::with_poll(&[seen(&one)], NEVER);
        watcher.rearm(&[seen(&two)]);
        fs::write(&one, "ab").unwrap();
        assert!(is_quiet(&mut watcher).await);
        notices(&mut watcher, || fs::write(&two, "ab").unwrap()).await;
    }

    #[tokio::test]
    async fn waiting_that_is_given_up_loses_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("gateway.toml");
        fs::write(&path, "a").unwrap();
        let mut watcher = Watcher::with_poll(&[seen(&path)], NEVER);
        fs::write(&path, "ab").unwrap();
        {
            let waiting = watcher.changed();
            tokio::pin!(waiting);
            assert!(futures_poll(&mut waiting).await.is_none(), "still settling");
        }
        timeout(LONG, watcher.changed()).await.unwrap();
        assert!(is_quiet(&mut watcher).await);
    }

    #[tokio::test]
    async fn without_notices_a_change_is_found_by_looking() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("gateway.toml");
        fs::write(&path, "a").unwrap();
        let mut watcher = Watcher::with_poll(&[seen(&path)], Duration::from_millis(20));
        watcher.notices = None;
        watcher.directories.clear();
        let waiting = timeout(LONG, watcher.changed());
        tokio::pin!(waiting);
        assert!(futures_poll(&mut waiting).await.is_none());
        fs::write(&path, "ab").unwrap();
        waiting.await.unwrap();
    }

    #[tokio::test]
    async fn several_changes_at_once_are_one() {
        let folder = tempfile::tempdir().unwrap();
        let paths = ["a", "b", "c"].map(|name| folder.path().join(name));
        for path in &paths {
            fs::write(path, "1").unwrap();
        }
        let files = paths.each_ref().map(|path| seen(path));
        let mut watcher = Watcher::with_poll(&files, NEVER);
        notices(&mut watcher, || paths.iter().for_each(|path| fs::write(path, "22").unwrap()))
            .await;
        assert!(is_quiet(&mut watcher).await);
    }
}
