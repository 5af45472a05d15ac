//! A small disk that a test can fill: a file system in memory, in the test's own mount namespace.

use std::{
    fs::{self, File},
    io::{ErrorKind, Write},
    path::{Path, PathBuf},
    process::Command,
};

/// A file system with a size of its own; unmounted when dropped.
pub(crate) struct Disk {
    path: PathBuf,
}

impl Disk {
    /// Mounts an empty one of this many bytes on a new directory.
    pub(crate) fn mount(path: &Path, size: u64) -> Self {
        fs::create_dir(path).unwrap();
        let options = format!("size={size}");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(path);
        assert!(mount.status().expect("mount (util-linux) starts").success(), "no tmpfs");
        Self { path: path.to_owned() }
    }

    /// Takes every byte that is left.
    pub(crate) fn fill(&self) {
        let mut ballast = File::options().create(true).append(true).open(self.ballast()).unwrap();
        let mut portion = vec![0_u8; 64 * 1024];
        while !portion.is_empty() {
            match ballast.write(&portion) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::StorageFull => {
                    portion.truncate(portion.len() / 2);
                }
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// Gives back what [`Self::fill`] took.
    pub(crate) fn free(&self) {
        fs::remove_file(self.ballast()).unwrap();
    }

    fn ballast(&self) -> PathBuf {
        self.path.join("ballast")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily: a program that is just being killed may still have files open.
        let status = Command::new("umount").arg("-l").arg(&self.path).status();
        assert!(
            std::thread::panicking() || status.is_ok_and(|status| status.success()),
            "the small disk stays mounted"
        );
    }
}
