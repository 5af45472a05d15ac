//! Reads the targets of all files, one at a time.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    path::PathBuf,
};

use figment::value::{Dict, Value};

use super::{
    document::{Document, Entry, SyntaxError},
    place::{Located, Place, nearest},
    reference::{Base, References},
};
use crate::{
    fields::{Fields, Problem, Problems, expected},
    target::{
        Ownership, Signing, Surroundings, Target, TargetTls, provider::Catalogue, read_draft,
    },
    webhook::signature::Key,
};

/// What targets may refer to.
pub(super) struct Known<'a> {
    pub(super) tunnels: &'a BTreeSet<String>,
    pub(super) resolvers: &'a BTreeSet<String>,
}

/// The targets of all files so far.
#[derive(Default)]
pub(super) struct Targets {
    read: Vec<Target>,
    /// Where each of them stands: file and line. Numbers of that size, as there are many.
    places: Vec<(u32, u32)>,
    /// How many there were, those with problems included.
    count: usize,
    problems: Vec<Located>,
}

impl Targets {
    /// Reads the targets of a file, whose number is `index`, and adds them.
    pub(super) fn add(
        &mut self,
        index: usize,
        document: &Document,
        references: &References<'_>,
        known: &Known<'_>,
    ) {
        self.read.reserve_exact(document.target_count());
        self.places.reserve_exact(document.target_count());
        let base = Base::Folder(document.folder());
        let around = Surroundings {
            catalogue: Catalogue::embedded(),
            ownership: Ownership::Confirmed,
            has_tunnel: &|name| known.tunnels.contains(name),
            has_resolver: &|name| known.resolvers.contains(name),
            secret: &|value| references.secret(base, value),
            file: &|path| references.pem(base, &Value::from(path)),
        };
        document.targets(&mut |entry| {
            let path = format!("targets[{}]", self.count);
            self.count = self.count.saturating_add(1);
            let mut problems = Problems::new();
            let target = match entry.value() {
                Value::Dict(_, dict) => {
                    let secret_key = secret_key(&dict);
                    let fields = Fields::new(path.as_str(), dict, &mut problems);
                    let target = read_draft(fields, &around);
                    problems.extend(target.iter().flat_map(|target| {
                        let wrong = cannot_sign(&target.signing, secret_key)
                            .map(|(key, message)| (key.to_owned(), message));
                        wrong
                            .chain(tls_faults(target.tls.as_deref(), references))
                            .map(|(key, message)| Problem { key: format!("{path}.{key}"), message })
                    }));
                    target
                }
                other @ (Value::String(..)
                | Value::Char(..)
                | Value::Bool(..)
                | Value::Num(..)
                | Value::Empty(..)
                | Value::Array(..)) => {
                    let message = expected("a table", &other);
                    problems.push(Problem { key: path.clone(), message });
                    None
                }
            };
            if let Some(target) = target {
                self.read.push(target);
                let number = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
                self.places.push((number(index), number(entry.line())));
            }
            if !problems.is_empty() {
                self.problems.extend(locate(document, entry, &path, problems));
            }
        });
    }

    /// All targets, or what is wrong with them. Ids are unique in all files together.
    pub(super) fn finish(mut self, documents: &[Document]) -> (Vec<Target>, Vec<Located>) {
        let mut known: HashMap<&str, (u32, u32)> = HashMap::with_capacity(self.read.len());
        for (target, place) in self.read.iter().zip(&self.places) {
            let Some(before) = known.insert(target.id.as_str(), *place) else { continue };
            let at = |(document, line): (u32, u32)| {
                let document = documents.get(usize::try_from(document).ok()?)?;
                Some((document.path().to_owned(), usize::try_from(line).ok()?))
            };
            let Some(((path, line), (other, other_line))) = at(*place).zip(at(before)) else {
                continue;
            };
            let other = other.display();
            self.problems.push(Located {
                place: Place::Line(path, line),
                key: "targets.id".into(),
                message: format!("there is another target {}, at {other}:{other_line}", target.id),
            });
        }
        drop(known);
        (self.read, self.problems)
    }
}

/// The key under which a target has its secret.
fn secret_key(dict: &Dict) -> &'static str {
    let keys = ["signing_secret", "webhook_secret", "secret"];
    keys.into_iter().find(|key| dict.contains_key(*key)).unwrap_or("signing_secret")
}

/// Secrets that are no secrets of the target's format.
fn cannot_sign(
    signing: &Signing,
    key: &'static str,
) -> impl Iterator<Item = (&'static str, String)> {
    let secrets = [(key, &signing.secret), ("signing_secret_previous", &signing.previous)];
    let wrong = secrets.map(|(key, secret)| {
        let error = Key::new(secret.as_ref()?, signing.format).err()?;
        Some((key, error.to_string()))
    });
    wrong.into_iter().flatten()
}

/// Files that no TLS can be made of.
fn tls_faults(
    tls: Option<&TargetTls>,
    references: &References<'_>,
) -> impl Iterator<Item = (String, String)> + use<> {
    let faults = tls.map(|tls| {
        let client = tls.client_cert_file.as_deref().zip(tls.client_key_file.as_deref());
        references.tls_faults(tls.ca_file.as_deref(), client)
    });
    faults.into_iter().flatten().map(|(key, message)| (format!("tls.{key}"), message))
}

fn locate<'a>(
    document: &'a Document,
    entry: &Entry<'_>,
    path: &str,
    problems: Problems,
) -> impl Iterator<Item = Located> + use<'a> {
    let lines: BTreeMap<String, usize> = entry.key_lines(path);
    problems.into_iter().map(move |problem| {
        let line = nearest(&lines, &problem.key).copied().unwrap_or(1);
        Located {
            place: Place::Line(document.path().to_owned(), line),
            key: problem.key,
            message: problem.message,
        }
    })
}

/// A syntax error of a file.
pub(super) fn syntax(path: PathBuf, error: SyntaxError) -> Located {
    Located {
        place: Place::Column(path, error.line, error.column),
        key: String::new(),
        message: error.message,
    }
}
