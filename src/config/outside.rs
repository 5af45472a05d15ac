//! What configuration refers to outside of itself: files, environment variables and the time.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs::File,
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use rustls_pki_types::UnixTime;
use zeroize::Zeroizing;

use super::reload::Stamp;

/// The world around a configuration. Only [`Machine`] touches the real one, so that a fuzzer can
/// run everything else, and tests never change the process' environment.
pub(super) trait Outside {
    /// The content of a file of at most `limit` bytes.
    fn read(&self, path: &Path, limit: u64) -> io::Result<Zeroizing<Vec<u8>>>;

    /// What is there of a file now, to be compared later.
    fn stamp(&self, path: &Path) -> Stamp;

    /// An environment variable.
    fn variable(&self, name: &str) -> Option<OsString>;

    /// The names of all environment variables, in order.
    fn variables(&self) -> Vec<String>;

    /// The time, to see whether a certificate is valid.
    fn now(&self) -> UnixTime;
}

/// This machine and this process.
#[derive(Debug)]
pub(super) struct Machine;

impl Outside for Machine {
    fn read(&self, path: &Path, limit: u64) -> io::Result<Zeroizing<Vec<u8>>> {
        let file = File::open(path)?;
        // Room for all of it, so that a secret leaves no copy behind where a buffer grew.
        let room = file.metadata()?.len().min(limit).saturating_add(1);
        let mut content = Zeroizing::new(Vec::with_capacity(usize::try_from(room).unwrap_or(0)));
        file.take(limit.saturating_add(1)).read_to_end(&mut content)?;
        if u64::try_from(content.len()).is_ok_and(|length| length <= limit) {
            Ok(content)
        } else {
            Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("over {limit} bytes")))
        }
    }

    fn stamp(&self, path: &Path) -> Stamp {
        Stamp::of(path)
    }

    fn variable(&self, name: &str) -> Option<OsString> {
        std::env::var_os(name)
    }

    fn variables(&self) -> Vec<String> {
        let mut names: Vec<_> =
            std::env::vars_os().filter_map(|(name, _)| name.into_string().ok()).collect();
        names.sort_unstable();
        names
    }

    fn now(&self) -> UnixTime {
        UnixTime::now()
    }
}

/// A world made of values, for tests and fuzzing.
#[derive(Debug, Default)]
pub(super) struct Imagined {
    pub(super) files: BTreeMap<PathBuf, Vec<u8>>,
    pub(super) variables: BTreeMap<String, String>,
    /// Seconds since 1970.
    pub(super) now: u64,
}

impl Outside for Imagined {
    fn read(&self, path: &Path, limit: u64) -> io::Result<Zeroizing<Vec<u8>>> {
        let content = self.files.get(path).ok_or(io::ErrorKind::NotFound)?;
        if u64::try_from(content.len()).is_ok_and(|length| length <= limit) {
            Ok(Zeroizing::new(content.clone()))
        } else {
            Err(io::ErrorKind::FileTooLarge.into())
        }
    }

    fn stamp(&self, _: &Path) -> Stamp {
        Stamp::default()
    }

    fn variable(&self, name: &str) -> Option<OsString> {
        self.variables.get(name).map(OsString::from)
    }

    fn variables(&self) -> Vec<String> {
        self.variables.keys().cloned().collect()
    }

    fn now(&self) -> UnixTime {
        UnixTime::since_unix_epoch(std::time::Duration::from_secs(self.now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_up_to_its_limit_and_not_beyond() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        std::fs::write(&path, "12345").unwrap();
        assert_eq!(&**Machine.read(&path, 5).unwrap(), b"12345");
        assert_eq!(Machine.read(&path, 4).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
        assert_eq!(
            Machine.read(&folder.path().join("other"), 4).unwrap_err().kind(),
            io::ErrorKind::NotFound
        );
    }
}
