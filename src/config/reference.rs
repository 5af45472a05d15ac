//! Secrets and files that configuration refers to.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    io,
    path::{Path, PathBuf},
};

use base64::Engine as _;
use figment::{
    Figment,
    value::{Tag, Value},
};
use rustls_pki_types::{CertificateDer, UnixTime, pem::PemObject as _};
use zeroize::Zeroizing;

use super::{
    outside::Outside,
    reload::{Seen, Stamp},
};
use crate::{
    secret::Secret,
    server::tls::{PemFile, ServerTls},
};

/// Largest secret, in bytes. A device file given by mistake must not fill the memory.
const SECRET_BYTES_MAX: u64 = 64 << 10;
/// Largest file of certificates or keys, in bytes. All of the web's roots take a quarter of one.
const PEM_BYTES_MAX: u64 = 16 << 20;

/// What is said in place of a secret that was written down.
const NOT_PLAIN: &str =
    "write { file = \"…\" } or { env = \"…\" }; a secret is never a plain value";

/// Reads what the configuration refers to, and notes which files it was.
pub(super) struct References<'a> {
    outside: &'a dyn Outside,
    figment: &'a Figment,
    /// As they were before they were read, so that no change is missed.
    seen: RefCell<BTreeMap<PathBuf, Stamp>>,
    /// Files that were looked into already: many targets share one.
    checked: RefCell<BTreeSet<PathBuf>>,
}

/// What relative paths are relative to.
#[derive(Clone, Copy, Debug)]
pub(super) enum Base<'a> {
    /// The folder of the file that a value came from, by the value's tag.
    Tagged,
    /// This folder.
    Folder(&'a Path),
}

impl<'a> References<'a> {
    pub(super) fn new(outside: &'a dyn Outside, figment: &'a Figment) -> Self {
        Self { outside, figment, seen: RefCell::default(), checked: RefCell::default() }
    }

    /// The files that were referred to.
    pub(super) fn into_seen(self) -> impl Iterator<Item = Seen> {
        self.seen.into_inner().into_iter().map(|(path, stamp)| Seen::new(path, stamp))
    }

    /// The time, to see whether a certificate is valid.
    pub(super) fn now(&self) -> UnixTime {
        self.outside.now()
    }

    /// Reads a secret: `{ file = "…" }`, without the line end behind it, or `{ env = "…" }`.
    ///
    /// # Errors
    /// What is wrong, with the path or the variable's name, never with any of the content.
    pub(super) fn secret(&self, base: Base<'_>, value: &Value) -> Result<Secret, String> {
        let Value::Dict(_, dict) = value else { return Err(NOT_PLAIN.into()) };
        if dict.is_empty() || !dict.keys().all(|key| key == "file" || key == "env") {
            return Err(NOT_PLAIN.into());
        }
        let (file, env) = (dict.get("file"), dict.get("env"));
        // A later source that refers to the other kind replaces the earlier one, as any value does.
        let (file, env) = match (file, env) {
            (Some(file), Some(env)) if file.tag() > env.tag() => (Some(file), None),
            (Some(file), Some(env)) if file.tag() < env.tag() => (None, Some(env)),
            both => both,
        };
        match (file.map(Value::as_str), env.map(Value::as_str)) {
            (Some(Some(file)), None) => {
                let tag = dict.get("file").map_or_else(Tag::default, Value::tag);
                self.secret_file(&self.resolve(base, tag, file))
            }
            (None, Some(Some(name))) => self.secret_variable(name),
            (Some(Some(_)), Some(Some(_))) => Err("give file or env, not both".into()),
            _ => Err("the path or the variable's name has to be a string".into()),
        }
    }

    fn secret_file(&self, path: &Path) -> Result<Secret, String> {
        let mut content = self.read(path, SECRET_BYTES_MAX)?;
        if content.last() == Some(&b'\n') {
            content.pop();
            if content.last() == Some(&b'\r') {
                content.pop();
            }
        }
        if content.is_empty() {
            return Err(format!("{} is empty", path.display()));
        }
        // Taken out, not copied, and zeroised where it goes.
        Ok(Secret::new(std::mem::take(&mut *content)))
    }

    fn secret_variable(&self, name: &str) -> Result<Secret, String> {
        // A variable's name cannot hold `=`; what does is a secret in the wrong place.
        if name.is_empty() || name.contains(['=', '\0']) {
            return Err("this is not the name of an environment variable".into());
        }
        let value = self.outside.variable(name);
        let value = value.ok_or_else(|| format!("environment variable {name} is not set"))?;
        if value.is_empty() {
            return Err(format!("environment variable {name} is empty"));
        }
        Ok(Secret::new(value.into_encoded_bytes()))
    }

    /// A file of certificates or a key: its path, and that there is something of that kind in it.
    ///
    /// # Errors
    /// What is wrong, with the path.
    pub(super) fn pem(&self, base: Base<'_>, value: &Value) -> Result<PathBuf, String> {
        let text = value.as_str().ok_or("expected the path of a PEM file")?;
        let path = self.resolve(base, value.tag(), text);
        if self.checked.borrow().contains(&path) {
            return Ok(path);
        }
        let content = self.read(&path, PEM_BYTES_MAX)?;
        if !content.windows(BEGIN.len()).any(|window| window == BEGIN) {
            return Err(format!("{} is not a PEM file", path.display()));
        }
        self.checked.borrow_mut().insert(path.clone());
        Ok(path)
    }

    /// A file of certificate authorities.
    ///
    /// # Errors
    /// What is wrong, with the path.
    pub(super) fn roots(&self, base: Base<'_>, value: &Value) -> Result<PathBuf, String> {
        let path = self.pem(base, value)?;
        self.root_certificates(&path)?;
        Ok(path)
    }

    fn root_certificates(&self, path: &Path) -> Result<(), String> {
        let content = self.read(path, PEM_BYTES_MAX)?;
        let shown = path.display();
        let mut roots = rustls::RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(&content) {
            let certificate = certificate.map_err(|error| format!("{shown}: {error}"))?;
            roots.add(certificate).map_err(|error| format!("{shown}: {error}"))?;
        }
        if roots.is_empty() { Err(format!("there is no certificate in {shown}")) } else { Ok(()) }
    }

    /// The content of a PEM file, and its path.
    ///
    /// # Errors
    /// What is wrong, with the path.
    pub(super) fn pem_content(
        &self,
        base: Base<'_>,
        value: &Value,
    ) -> Result<(PathBuf, Zeroizing<Vec<u8>>), String> {
        let text = value.as_str().ok_or("expected the path of a PEM file")?;
        let path = self.resolve(base, value.tag(), text);
        let content = self.read(&path, PEM_BYTES_MAX)?;
        Ok((path, content))
    }

    /// What is wrong with files that are resolved already and go into TLS of our own making, each
    /// with the key that names it: authorities, and a client certificate with its key.
    pub(super) fn tls_faults(
        &self,
        ca: Option<&Path>,
        client: Option<(&Path, &Path)>,
    ) -> Vec<(&'static str, String)> {
        let ca = ca.and_then(|path| self.root_certificates(path).err());
        let mut faults: Vec<_> = ca.map(|message| ("ca_file", message)).into_iter().collect();
        let Some((certificate, key)) = client else { return faults };
        let read = |key, path| self.read(path, PEM_BYTES_MAX).map_err(|message| (key, message));
        let contents = read("client_cert_file", certificate)
            .and_then(|content| Ok((content, read("client_key_file", key)?)));
        faults.extend(match contents {
            // A certificate and its key are the same to either end of TLS.
            Ok((chain, private)) => ServerTls::new(&chain, &private, None).err().map(|fault| {
                let (name, path) = match fault.file() {
                    PemFile::Certificate | PemFile::ClientCa => ("client_cert_file", certificate),
                    PemFile::Key => ("client_key_file", key),
                };
                (name, format!("{}: {fault}", path.display()))
            }),
            Err(unreadable) => Some(unreadable),
        });
        faults
    }

    fn resolve(&self, base: Base<'_>, tag: Tag, path: &str) -> PathBuf {
        match base {
            Base::Folder(folder) => folder.join(path),
            Base::Tagged => {
                let source = self.figment.get_metadata(tag).and_then(|from| from.source.as_ref());
                let folder = source.and_then(|source| source.file_path()?.parent());
                // What the environment names is relative to the working directory.
                folder.map_or_else(|| PathBuf::from(path), |folder| folder.join(path))
            }
        }
    }

    fn read(&self, path: &Path, limit: u64) -> Result<Zeroizing<Vec<u8>>, String> {
        self.seen.borrow_mut().entry(path.to_owned()).or_insert_with(|| self.outside.stamp(path));
        self.outside.read(path, limit).map_err(|error| unreadable(path, &error))
    }
}

/// How a PEM section begins (RFC 7468).
const BEGIN: &[u8] = b"-----BEGIN ";

/// `cannot read PATH: why`.
pub(super) fn unreadable(path: &Path, error: &io::Error) -> String {
    format!("cannot read {}: {error}", path.display())
}

/// 32 bytes in base64: a WireGuard key.
pub(super) fn key_base64(text: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let bytes = base64::engine::general_purpose::STANDARD.decode(text).ok()?;
    Some(Zeroizing::new(bytes)).filter(|bytes| bytes.len() == 32)
}

/// 32 bytes in hex.
pub(super) fn key_hex(text: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    if text.len() != 64 {
        return None;
    }
    let mut bytes = Zeroizing::new(Vec::with_capacity(32));
    let (pairs, _) = text.as_chunks::<2>();
    for [high, low] in pairs {
        let digit = |digit: u8| char::from(digit).to_digit(16);
        let byte = digit(*high)?.checked_mul(16)?.checked_add(digit(*low)?)?;
        bytes.push(u8::try_from(byte).ok()?);
    }
    Some(bytes)
}
