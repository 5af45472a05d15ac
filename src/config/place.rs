//! Where a problem stands: file and line, or environment variable.

use std::{
    collections::BTreeMap,
    fmt::{self, Write as _},
    path::{Path, PathBuf},
};

use figment::value::{Tag, Value};

use super::{document::Document, environment::Environment, reload::Seen};
use crate::fields::Problem;

/// One thing that is wrong with the configuration, and where it is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Located {
    /// Where it is written.
    pub place: Place,
    /// The key's path, such as `targets[3].base_url`; empty where the file as a whole is meant.
    pub key: String,
    /// What is wrong and what to write instead. Never a secret.
    pub message: String,
}

/// A place in the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A file that could not be read.
    File(PathBuf),
    /// A line of a file, from 1.
    Line(PathBuf, usize),
    /// A line and column of a file, both from 1.
    Column(PathBuf, usize, usize),
    /// An environment variable.
    Variable(String),
    /// Nothing that was written: something is missing.
    Nowhere,
}

impl fmt::Display for Located {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::File(path) => write!(f, "{}: ", path.display())?,
            Place::Line(path, line) => write!(f, "{}:{line}: ", path.display())?,
            Place::Column(path, line, column) => {
                write!(f, "{}:{line}:{column}: ", path.display())?;
            }
            // The variable's name says which key it is.
            Place::Variable(name) => {
                write!(f, "environment {name}: ")?;
                return write_plain(&self.message, f);
            }
            Place::Nowhere => {}
        }
        if !self.key.is_empty() {
            write_plain(&self.key, f)?;
            f.write_str(": ")?;
        }
        write_plain(&self.message, f)
    }
}

/// Keys and messages quote what somebody wrote: it must neither break a line nor steer a terminal.
fn write_plain(text: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    text.chars().try_for_each(|c| {
        if c.is_control() { write!(f, "{}", c.escape_default()) } else { f.write_char(c) }
    })
}

/// A configuration that is refused, with everything that is wrong with it.
#[derive(Debug)]
pub struct Invalid {
    /// What is wrong, in the order of files and lines; never empty.
    pub problems: Vec<Located>,
    /// The files that were looked at: when one of them changes, the configuration may have become
    /// valid.
    pub files: Vec<Seen>,
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Invalid {}

/// Finds where keys are written. Made only when there is a problem: it parses everything again.
pub(super) struct Finder<'a> {
    documents: &'a [Document],
    lines: Vec<BTreeMap<String, usize>>,
    environment: &'a Environment,
    /// Which source gave each key of the settings as laid over each other.
    tags: BTreeMap<String, Tag>,
    figment: &'a figment::Figment,
    /// The document of each client, and its place in that document.
    clients: &'a [(usize, usize)],
}

impl<'a> Finder<'a> {
    pub(super) fn new(
        documents: &'a [Document],
        environment: &'a Environment,
        figment: &'a figment::Figment,
        settings: &Value,
        clients: &'a [(usize, usize)],
    ) -> Self {
        let lines = documents.iter().map(Document::key_lines).collect();
        let mut tags = BTreeMap::new();
        find_tags(settings, String::new(), &mut tags);
        Self { documents, lines, environment, tags, figment, clients }
    }

    /// Says where a problem stands.
    pub(super) fn locate(&self, problem: Problem) -> Located {
        let place = self.client(&problem.key).or_else(|| self.setting(&problem.key));
        Located {
            place: place.unwrap_or(Place::Nowhere),
            key: problem.key,
            message: problem.message,
        }
    }

    /// Clients are numbered through all files; in its file, one has another number.
    fn client(&self, key: &str) -> Option<Place> {
        let (number, rest) = key.strip_prefix("clients[")?.split_once(']')?;
        let (document, local) = *self.clients.get(number.parse::<usize>().ok()?)?;
        self.line(document, &format!("clients[{local}]{rest}"))
    }

    fn setting(&self, key: &str) -> Option<Place> {
        let tag = nearest(&self.tags, key)?;
        let source = self.figment.get_metadata(*tag)?.source.as_ref()?;
        if let Some(path) = source.file_path() {
            let document = self.documents.iter().rposition(|one| one.path() == path)?;
            return self.line(document, key);
        }
        let names = self.environment.names();
        // A table may be made of variables for its parts.
        let below = || names.range(format!("{key}.")..).next().map(|(_, name)| name);
        nearest(names, key).or_else(below).map(|name| Place::Variable(name.clone()))
    }

    fn line(&self, document: usize, key: &str) -> Option<Place> {
        let path = self.documents.get(document)?.path().to_owned();
        let line = nearest(self.lines.get(document)?, key).copied().unwrap_or(1);
        Some(Place::Line(path, line))
    }
}

/// The entry of a key, else of the nearest table or list around it.
pub(super) fn nearest<'m, T>(map: &'m BTreeMap<String, T>, key: &str) -> Option<&'m T> {
    let mut key = key;
    loop {
        if let Some(found) = map.get(key) {
            return Some(found);
        }
        key = key.get(..key.rfind(['.', '['])?)?;
    }
}

fn find_tags(value: &Value, path: String, found: &mut BTreeMap<String, Tag>) {
    match value {
        Value::Dict(_, dict) => {
            for (key, value) in dict {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                find_tags(value, path, found);
            }
        }
        Value::Array(_, values) => {
            for (index, value) in values.iter().enumerate() {
                find_tags(value, format!("{path}[{index}]"), found);
            }
        }
        Value::String(..)
        | Value::Char(..)
        | Value::Bool(..)
        | Value::Num(..)
        | Value::Empty(..) => {}
    }
    found.insert(path, value.tag());
}

/// Puts problems into the order in which a reader goes through the files.
pub(super) fn in_order(documents: &[PathBuf], problems: &mut [Located]) {
    let rank = |path: &Path| documents.iter().position(|one| one == path).unwrap_or(usize::MAX);
    problems.sort_by_cached_key(|problem| {
        let (file, line) = match &problem.place {
            Place::File(path) => (rank(path), 0),
            Place::Line(path, line) | Place::Column(path, line, _) => (rank(path), *line),
            Place::Variable(_) | Place::Nowhere => (usize::MAX, 0),
        };
        let variable = match &problem.place {
            Place::Variable(name) => name.clone(),
            Place::File(_) | Place::Line(..) | Place::Column(..) | Place::Nowhere => String::new(),
        };
        (file, line, variable, problem.key.clone(), problem.message.clone())
    });
}
