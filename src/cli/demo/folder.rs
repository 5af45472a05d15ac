//! A folder of the demo's own among the temporary ones, which goes with it.

use std::{
    fs::{self, DirBuilder},
    io,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
};

use ulid::Ulid;

/// A folder that only this user may look into; removed with all that is in it when dropped.
pub(super) struct Folder(PathBuf);

impl Folder {
    /// Makes one under a name that nobody could foresee.
    pub(super) fn new() -> io::Result<Self> {
        let name = format!("egress-gateway-demo-{}", Ulid::new());
        let path = std::path::absolute(std::env::temp_dir().join(name))?;
        // Fails where something of that name is there already, a symbolic link too.
        DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Self(path))
    }

    /// Where it is: an absolute path.
    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // Whoever runs the demo cannot do anything about a failure here.
        let _ignored = fs::remove_dir_all(&self.0);
    }
}
