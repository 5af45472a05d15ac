//! `connector.toml`: the configuration of the customer's end.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::{
    super::keys::{Key, Pin},
    allow::Allowlist,
};
use crate::{origin::Authority, telemetry::LogFormat};

/// Everything that the customer's end is told. There is nothing secret in the file.
#[derive(Debug)]
pub struct Settings {
    /// The name that the key was enrolled under, for the log.
    pub name: String,
    /// The gateways; a connection is kept to each.
    pub gateways: Vec<Authority>,
    /// The keys that a gateway may show.
    pub pins: Vec<Pin>,
    /// Its own key.
    pub key: Key,
    /// What it opens.
    pub allow: Allowlist,
    /// Form of the log on standard error. Default `json`.
    pub log: LogFormat,
}

/// As it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    name: String,
    gateways: Vec<String>,
    pins: Vec<String>,
    key_file: PathBuf,
    allow: Vec<String>,
    #[serde(default)]
    log: LogFormat,
}

/// Why a configuration cannot be used. The message names file and key.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct SettingsError(String);

impl Settings {
    /// Reads a file; `key_file` is relative to its folder.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn load(path: &Path) -> Result<Self, SettingsError> {
        let fault =
            |message: String| SettingsError(format!("{}: {}", path.display(), message.trim_end()));
        let text = std::fs::read_to_string(path);
        let text = text.map_err(|error| fault(format!("cannot be read: {error}")))?;
        let written: Written = toml::from_str(&text).map_err(|error| fault(error.to_string()))?;
        let gateways: Result<Vec<_>, _> =
            written.gateways.iter().map(|text| Authority::parse(text)).collect();
        let gateways = gateways.map_err(|error| fault(format!("gateways: {error}")))?;
        let pins: Result<Vec<_>, _> = written.pins.iter().map(|text| Pin::parse(text)).collect();
        let pins = pins.map_err(|error| fault(format!("pins: {error}")))?;
        let allow = Allowlist::parse(written.allow.iter().map(String::as_str));
        let allow = allow.map_err(|error| fault(format!("allow: {error}")))?;
        for (key, is_empty, missing) in [
            ("gateways", gateways.is_empty(), "list at least one"),
            ("pins", pins.is_empty(), "list at least one"),
            ("allow", allow.is_empty(), "list what may be opened, such as \"10.20.0.0/16:443\""),
        ] {
            if is_empty {
                return Err(fault(format!("{key}: {missing}")));
            }
        }
        let key_file = path.with_file_name(&written.key_file);
        let key = Key::load(&key_file)
            .map_err(|error| fault(format!("key_file: {}: {error}", key_file.display())))?;
        Ok(Self { name: written.name, gateways, pins, key, allow, log: written.log })
    }
}

/// The text of a new file.
pub fn new_file(
    name: &str,
    gateways: &[Authority],
    pin: Pin,
    key_file: &str,
    allow: &[String],
) -> String {
    let list = |items: Vec<String>| toml::Value::from(items).to_string();
    let gateways = list(gateways.iter().map(ToString::to_string).collect());
    format!(
        "# The customer's end of a reverse connector. Run: egress-gateway connector --config FILE\n\
         # There is no secret in this file; the key file beside it is one.\n\
         name = {name}\n\
         gateways = {gateways}\n\
         # What a gateway has to show: SHA-256 of its public key.\n\
         pins = {pins}\n\
         key_file = {key_file}\n\
         # Addresses and ports that the gateway may have opened. Everything else is refused here,\n\
         # whatever the gateway asks for. Names are never resolved. For example:\n\
         # allow = [\"10.20.0.0/16:443\", \"10.20.0.53:53\", \"[fd00:20::/48]:8000-8099\"]\n\
         allow = {allow}\n\
         # json, pretty\n\
         log = \"json\"\n",
        name = toml::Value::from(name),
        pins = list(vec![pin.to_string()]),
        key_file = toml::Value::from(key_file),
        allow = list(allow.to_vec()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(allow: &[&str]) -> (tempfile::TempDir, PathBuf, String) {
        let folder = tempfile::tempdir().unwrap();
        let key = Key::create(&folder.path().join("c.key")).unwrap();
        let gateways = [Authority::parse("gateway.example:7443").unwrap()];
        let allow: Vec<_> = allow.iter().map(|&one| one.to_owned()).collect();
        let text = new_file("acme", &gateways, key.pin(), "c.key", &allow);
        let path = folder.path().join("connector.toml");
        (folder, path, text)
    }

    #[test]
    fn a_new_file_is_read_as_it_was_meant() {
        let (_folder, path, text) = written(&["10.20.0.0/16:443"]);
        std::fs::write(&path, text).unwrap();
        let settings = Settings::load(&path).unwrap();
        assert_eq!(settings.name, "acme");
        assert_eq!(settings.pins, [settings.key.pin()]);
        assert_eq!(settings.gateways[0].to_string(), "gateway.example:7443");
        assert!(settings.allow.holds("10.20.0.1:443".parse().unwrap()));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let (_folder, path, text) = written(&["10.20.0.0/16:443"]);
        for (from, to, expected) in [
            ("gateway.example:7443", "gateway.example", "gateways: "),
            ("[\"gateway.example:7443\"]", "[]", "gateways: list"),
            ("sha256//", "sha1//", "pins: "),
            ("c.key", "d.key", "key_file: "),
            ("10.20.0.0/16:443\"]\nallow", "", ""),
            ("allow = [\"10.20.0.0/16:443\"]", "allow = []", "allow: list"),
            ("allow = [\"10.20.0.0/16:443\"]", "allow = [\"acme.example:443\"]", "allow: "),
            ("log =", "logg =", "logg"),
            ("\"json\"\n", "\"xml\"\n", "log"),
        ] {
            let changed = text.replacen(from, to, 1);
            if changed == text {
                continue;
            }
            // the comment shows an example with the same words
            let changed = text.lines().map(|line| {
                let line =
                    if line.starts_with('#') { line.to_owned() } else { line.replace(from, to) };
                line + "\n"
            });
            let changed: String = changed.collect();
            let changed = if from.ends_with('\n') { text.replace(from, to) } else { changed };
            std::fs::write(&path, changed).unwrap();
            let error = Settings::load(&path).unwrap_err().to_string();
            assert!(error.contains("connector.toml: ") && error.contains(expected), "{error}");
        }
        assert!(Settings::load(Path::new("/none/connector.toml")).is_err());
    }
}
