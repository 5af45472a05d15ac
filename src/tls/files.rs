//! The PEM files that TLS towards targets is made of.

use std::{
    fmt,
    fs::File,
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

/// Longest file that is read; the roots of a whole operating system take a quarter of it.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// What a file is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsFile {
    /// One of `tls.extra_roots`.
    ExtraRoot,
    /// `tls.ca_file` of a target.
    Ca,
    /// `tls.client_cert_file` of a target.
    ClientCertificate,
    /// `tls.client_key_file` of a target.
    ClientKey,
}

impl TlsFile {
    /// The key of configuration that names it.
    pub const fn key(self) -> &'static str {
        match self {
            Self::ExtraRoot => "extra_roots",
            Self::Ca => "ca_file",
            Self::ClientCertificate => "client_cert_file",
            Self::ClientKey => "client_key_file",
        }
    }
}

/// Why TLS settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsSettingsError {
    /// Something is wrong with a file.
    #[error("{}: {}: {fault}", .file.key(), .path.display())]
    File {
        /// What it is for.
        file: TlsFile,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        fault: FileFault,
    },
    /// A client certificate without a key, or a key without one.
    #[error("client_cert_file and client_key_file belong together")]
    HalfClientCertificate,
    /// The name to verify is not a host.
    #[error("server_name: {0} is neither a host name nor an IP address")]
    ServerName(Box<str>),
    /// Nothing is trusted: the system has no roots, and none are configured.
    #[error(
        "no roots are trusted: install the system's ca-certificates, or set extra_roots or ca_file"
    )]
    NoRoots,
    /// The cryptographic library refuses the settings.
    #[error("TLS cannot be set up: {0}")]
    Library(#[source] rustls::Error),
}

impl TlsSettingsError {
    /// The file that it is about, if it is about one.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::File { path, .. } => Some(path),
            Self::HalfClientCertificate
            | Self::ServerName(_)
            | Self::NoRoots
            | Self::Library(_) => None,
        }
    }
}

/// What is wrong with a file.
#[derive(Debug, thiserror::Error)]
pub enum FileFault {
    /// It cannot be read.
    #[error("{0}")]
    Read(#[source] io::Error),
    /// It is over 1 MiB.
    #[error("it is over 1 MiB long")]
    TooLong,
    /// There is no certificate in it.
    #[error("there is no certificate in it; expected PEM")]
    NoCertificate,
    /// It is broken.
    #[error("it cannot be read as PEM: {0}")]
    Pem(#[source] rustls_pki_types::pem::Error),
    /// One of its certificates is broken.
    #[error("certificate {number} in it cannot be used: {reason}")]
    Certificate {
        /// Which one, counted from 1.
        number: usize,
        /// The library's word.
        reason: rustls::Error,
    },
    /// There is no private key in it, or only an encrypted one.
    #[error("there is no private key in it; expected an unencrypted one in PEM")]
    NoKey,
    /// The key does not go with the certificate, or is of an unknown kind.
    #[error("the key does not go with the certificate: {0}")]
    Key(#[source] rustls::Error),
}

/// A file that is being read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Source<'a> {
    pub(super) file: TlsFile,
    pub(super) path: &'a Path,
}

impl<'a> Source<'a> {
    /// Its content, which is added to `digest`.
    pub(super) fn read(self, digest: &mut Sha256) -> Result<Pem<'a>, TlsSettingsError> {
        let content = read(self.path).map_err(|fault| self.fault(fault))?;
        digest.update(u64::try_from(content.len()).unwrap_or(u64::MAX).to_be_bytes());
        digest.update(&content);
        Ok(Pem { source: self, content })
    }

    pub(super) fn fault(self, fault: FileFault) -> TlsSettingsError {
        TlsSettingsError::File { file: self.file, path: self.path.to_owned(), fault }
    }
}

/// The content of a file.
pub(super) struct Pem<'a> {
    pub(super) source: Source<'a>,
    content: Zeroizing<Vec<u8>>,
}

impl fmt::Debug for Pem<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pem").field("source", &self.source).finish_non_exhaustive()
    }
}

impl Pem<'_> {
    /// The certificates in it, at least one.
    pub(super) fn certificates(&self) -> Result<Vec<CertificateDer<'static>>, TlsSettingsError> {
        let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&self.content).collect();
        let found = found.map_err(|error| self.source.fault(FileFault::Pem(error)))?;
        if found.is_empty() {
            return Err(self.source.fault(FileFault::NoCertificate));
        }
        Ok(found)
    }

    /// The first private key in it.
    pub(super) fn key(&self) -> Result<PrivateKeyDer<'static>, TlsSettingsError> {
        PrivateKeyDer::from_pem_slice(&self.content)
            .map_err(|_| self.source.fault(FileFault::NoKey))
    }
}

fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, FileFault> {
    let file = File::open(path).map_err(FileFault::Read)?;
    // Room for all of it, so that a key leaves no copy behind where a buffer grew.
    let length = file.metadata().map_err(FileFault::Read)?.len().min(FILE_BYTES_MAX);
    let room = usize::try_from(length.saturating_add(1)).unwrap_or_default();
    let mut content = Zeroizing::new(Vec::with_capacity(room));
    let mut limited = file.take(FILE_BYTES_MAX.saturating_add(1));
    limited.read_to_end(&mut content).map_err(FileFault::Read)?;
    match u64::try_from(content.len()) {
        Ok(length) if length <= FILE_BYTES_MAX => Ok(content),
        Ok(_) | Err(_) => Err(FileFault::TooLong),
    }
}
