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

/// How many symbolic links are followed, as the kernel does (path_resolution(7)).
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
