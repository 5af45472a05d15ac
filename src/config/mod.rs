//! Configuration: files and environment, read whole or not at all.
//!
//! Files are laid over each other in their order, and environment variables over all of them: of a
//! value or a list of values the last one holds, `[[clients]]` and `[[targets]]` of all files add
//! up. Defaults are not a layer of their own: [`settings`] documents them, and each key's reader
//! fills its own in. What is read is checked as a whole; every problem is collected, with its
//! place, and a configuration with a problem is not used.

mod agree;
mod clients;
mod connectors;
mod depth;
mod document;
mod environment;
mod outside;
mod place;
mod proxy_tls;
mod read;
mod reference;
pub mod reload;
mod settings;
mod store_url;
mod targets;
#[cfg(test)]
mod tests;
mod tunnel;

use std::path::{Path, PathBuf};

use figment::{
    Figment, Profile, Provider as _,
    value::{Dict, Value},
};

pub use agree::is_exposed;
pub use connectors::Connectors;
pub use place::{Invalid, Located, Place};
pub use settings::{
    Admin, Config, Egress, ExtraRoots, Limits, Policy, Proxy, ResolverSettings, Store, Telemetry,
};
pub use store_url::StoreUrl;

use clients::ClientEntry;
use document::Document;
use environment::Environment;
use outside::{Imagined, Machine, Outside};
use place::Finder;
use reference::{Base, References};
use reload::Seen;
use targets::{Known, Targets};

use crate::fields::{Fields, Problems};
pub use crate::tunnel::{
    Credentials, HttpTunnel, Settings as Tunnel, SocksTunnel, TunnelTls, WireGuardTunnel,
};

/// Largest configuration file, in bytes: ten times what 100,000 targets take.
const FILE_BYTES_MAX: u64 = 256 << 20;

/// A configuration, and what to watch for the next one.
#[derive(Debug)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// Every file it was read from, as each was before it was read: configuration, secrets,
    /// certificates.
    pub files: Vec<Seen>,
    /// What is allowed and still worth a look.
    pub warnings: Vec<String>,
}

/// Reads configuration from files, in order, and from the process' environment.
///
/// # Errors
/// Everything that is wrong with it.
pub fn load(files: &[PathBuf]) -> Result<Loaded, Invalid> {
    load_from(files, &Machine)
}

/// What is read where no file is named: `config/gateway.toml` in the working directory, where it
/// is present.
pub fn default_files() -> Vec<PathBuf> {
    let file = Path::new("config/gateway.toml");
    if file.exists() { vec![file.to_owned()] } else { Vec::new() }
}

/// Every problem of one file's text, a line each, without a look at anything outside of it: the
/// files `secret`, `key.hex` and `key.base64`, and the variable `TOKEN`, exist in imagination only.
/// For fuzzing.
pub fn check_text(text: &str) -> Vec<String> {
    const NAME: &str = "gateway.toml";
    let file = |name: &str, content: String| (PathBuf::from(name), content.into_bytes());
    let outside = Imagined {
        files: [
            file(NAME, text.to_owned()),
            file("secret", "0123456789abcdef\n".into()),
            file("key.hex", "0f".repeat(32)),
            file("key.base64", format!("{}=", "A".repeat(43))),
        ]
        .into(),
        variables: [("TOKEN".to_owned(), "0123456789abcdef".to_owned())].into(),
        now: 0,
    };
    match load_from(&[NAME.into()], &outside) {
        Ok(_) => Vec::new(),
        Err(invalid) => invalid.problems.iter().map(ToString::to_string).collect(),
    }
}

fn load_from(files: &[PathBuf], outside: &dyn Outside) -> Result<Loaded, Invalid> {
    let mut seen: Vec<Seen> = Vec::with_capacity(files.len());
    let (mut documents, mut located) = (Vec::with_capacity(files.len()), Vec::new());
    for path in files {
        seen.push(Seen::new(path.clone(), outside.stamp(path)));
        match document(path, outside) {
            Ok(document) => documents.push(document),
            Err(problem) => located.push(problem),
        }
    }
    // What a file that cannot be read would have held is not missed one by one.
    if !located.is_empty() {
        return Err(Invalid { problems: located, files: seen });
    }
    let environment = Environment::read(outside);
    let (read, more) = assemble(&mut documents, &environment, outside);
    seen.extend(more);
    seen.sort();
    seen.dedup();
    match read {
        Ok((config, warnings)) => Ok(Loaded { config, files: seen, warnings }),
        Err(problems) => Err(Invalid { problems, files: seen }),
    }
}

fn document(path: &Path, outside: &dyn Outside) -> Result<Document, Located> {
    let unreadable = |message: String| Located {
        place: Place::File(path.to_owned()),
        key: String::new(),
        message,
    };
    let mut content = outside
        .read(path, FILE_BYTES_MAX)
        .map_err(|error| unreadable(format!("cannot be read: {error}")))?;
    let text = String::from_utf8(std::mem::take(&mut *content)).map_err(|error| {
        let valid = error.as_bytes().get(..error.utf8_error().valid_up_to()).unwrap_or_default();
        let line = valid.split(|byte| *byte == b'\n').count();
        unreadable(format!("is not UTF-8 text, from line {line} on"))
    })?;
    Document::parse(path.to_owned(), text).map_err(|error| targets::syntax(path.to_owned(), error))
}

type Read = Result<(Config, Vec<String>), Vec<Located>>;

/// Reads the settings of all sources, and the files they refer to.
fn assemble(
    documents: &mut [Document],
    environment: &Environment,
    outside: &dyn Outside,
) -> (Read, Vec<Seen>) {
    let mut figment = Figment::new();
    for document in &*documents {
        figment = figment.merge(document);
    }
    figment = figment.merge(environment);
    // Neither source fails.
    let merged = figment.data().unwrap_or_default().remove(&Profile::Default).unwrap_or_default();
    let references = References::new(outside, &figment);
    let (read, places) = read(merged.clone(), documents, &references);
    let Reading { config, mut warnings, problems, mut located } = read;
    warnings.sort();
    if !problems.is_empty() {
        let merged = Value::from(merged);
        let finder = Finder::new(documents, environment, &figment, &merged, &places);
        located.extend(problems.into_iter().map(|problem| finder.locate(problem)));
    }
    let read = if located.is_empty() {
        Ok((config, warnings))
    } else {
        let paths: Vec<_> = documents.iter().map(|one| one.path().to_owned()).collect();
        place::in_order(&paths, &mut located);
        Err(located)
    };
    (read, references.into_seen().collect())
}

/// What was read, with its problems.
struct Reading {
    config: Config,
    warnings: Vec<String>,
    problems: Problems,
    located: Vec<Located>,
}

fn read(
    merged: Dict,
    documents: &mut [Document],
    references: &References<'_>,
) -> (Reading, Vec<(usize, usize)>) {
    let (mut problems, mut warnings) = (Problems::new(), Vec::new());
    let (entries, places) = client_entries(documents);
    let has_client_ca = Value::from(merged.clone()).find_ref("proxy.tls.client_ca_file").is_some();
    let mut root = Fields::new("", merged, &mut problems);
    let state_dir = read::state_dir(&mut root);
    let entries = entries
        .into_iter()
        .zip(&places)
        .filter_map(|(value, (document, _))| {
            let base = Base::Folder(documents.get(*document)?.folder());
            Some(ClientEntry { value, base })
        })
        .collect();
    let clients = clients::clients(&mut root, entries, references, has_client_ca);
    // Those of files were taken out; what is left here is no list.
    root.tables("clients");
    root.tables("targets");
    let (tunnel_names, tunnels) = tunnel::tunnels(&mut root, references);
    let mut config = Config {
        egress: read::egress(root.table("egress")),
        proxy: proxy_tls::proxy(root.table("proxy"), &clients, references, &mut warnings),
        admin: read::admin(root.table("admin"), references),
        connectors: connectors::connectors(root.table("connectors"), references, &state_dir),
        dns_servers: read::dns(root.table("dns")),
        resolvers: read::resolvers(&mut root),
        policy: read::policy(root.table("policy")),
        limits: read::limits(root.table("limits")),
        tls: read::tls(root.table("tls"), references),
        store: read::store(root.table("store"), references, &state_dir),
        telemetry: read::telemetry(root.table("telemetry")),
        targets: Vec::new(),
        state_dir,
        clients,
        tunnels,
    };
    root.finish();
    agree::agree(&config, &tunnel_names, &mut problems);
    warn(&config, &mut warnings);
    let mut targets = Targets::default();
    let resolvers = config.resolvers.keys().cloned().collect();
    let known = Known { tunnels: &tunnel_names, resolvers: &resolvers };
    for (index, document) in documents.iter().enumerate() {
        targets.add(index, document, references, &known);
    }
    let (targets, located) = targets.finish(documents);
    config.targets = targets;
    (Reading { config, warnings, problems, located }, places)
}

/// The clients of all files in order, each with its document and its number there.
fn client_entries(documents: &mut [Document]) -> (Vec<Value>, Vec<(usize, usize)>) {
    let (mut entries, mut places) = (Vec::new(), Vec::new());
    for (index, document) in documents.iter_mut().enumerate() {
        for (local, value) in document.take_clients().into_iter().enumerate() {
            entries.push(value);
            places.push((index, local));
        }
    }
    (entries, places)
}

/// What is allowed and still worth a look.
fn warn(config: &Config, warnings: &mut Vec<String>) {
    if config.policy.allow_loopback {
        warnings.push(
            "policy.allow_loopback: loopback counts as private instead of forbidden; for \
             development and benchmarks only"
                .into(),
        );
    }
    for (name, tunnel) in &config.tunnels {
        if matches!(tunnel, Tunnel::Connector(_)) && config.connectors.listen.is_empty() {
            warnings.push(format!(
                "tunnels.{name}: no connector can dial in while connectors.listen is empty"
            ));
        }
    }
    for ip in &config.egress.ip {
        if !config.egress.ranges.iter().any(|range| range.contains(ip)) {
            warnings.push(format!(
                "egress.ranges: {ip} of egress.ip is in none of them; customers who allowlist \
                 what they are told would block it"
            ));
        }
    }
}
