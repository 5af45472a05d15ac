//! One configuration file: its TOML, and on which line each key of it stands.
//!
//! A parsed TOML tree takes twenty times the memory of its text, and a file of targets can have a
//! hundred thousand of them. So the text is cut into pieces before it is parsed: each `[[targets]]`
//! entry is parsed alone, turned into a target at once and forgotten, and only what remains is
//! parsed as one document. TOML makes that sound: entries are independent of each other, and
//! sub-tables follow their entry. Whatever does not look like that (a multi-line string in which a
//! header could hide, another way to write the header, any error) is parsed whole instead, so that
//! both ways accept, reject and count lines alike; tests hold them to it.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    ops::Range,
    path::{Path, PathBuf},
};

use figment::{
    Metadata, Profile, Provider,
    value::{Dict, Map, Value},
};
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::depth::too_deep;

/// A syntax error, and where: line and column from 1, in characters.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct SyntaxError {
    pub(super) line: usize,
    pub(super) column: usize,
    pub(super) message: String,
}

/// A file that is TOML. It cannot be printed, as it may hold the password of a database.
pub(super) struct Document {
    path: PathBuf,
    text: String,
    /// Where each target stands; `None` when the text has to be parsed whole.
    pieces: Option<Vec<Piece>>,
    settings: Dict,
    clients: Vec<Value>,
}

/// A `[[targets]]` entry with what belongs to it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Piece {
    bytes: Range<usize>,
    /// The line of its header, from 1.
    line: usize,
}

/// One target as it is written.
pub(super) struct Entry<'a> {
    value: &'a Spanned<DeValue<'a>>,
    lines: &'a Lines,
}

impl Entry<'_> {
    /// Its keys and values.
    pub(super) fn value(&self) -> Value {
        value(self.value.get_ref())
    }

    /// The line of its `id`, else the one on which it begins.
    pub(super) fn line(&self) -> usize {
        let id = self.value.get_ref().as_table().and_then(|table| table.get_key_value("id"));
        self.lines.at(id.map_or_else(|| self.value.span().start, |(key, _)| key.span().start))
    }

    /// The line of each key in it, by the key's path.
    pub(super) fn key_lines(&self, path: &str) -> BTreeMap<String, usize> {
        let mut found = BTreeMap::new();
        find_keys(self.value, path.to_owned(), self.lines, &mut found);
        found
    }
}

impl Piece {
    /// Whether it is one entry by itself, and nothing else.
    fn stands_alone(&self, text: &str) -> bool {
        let parsed = text.get(self.bytes.clone()).map(DeTable::parse);
        let Some(Ok(table)) = parsed else { return false };
        let entries = table.get_ref().get("targets").and_then(|value| value.get_ref().as_array());
        table.get_ref().len() == 1 && entries.is_some_and(|entries| entries.len() == 1)
    }
}

impl Document {
    /// Parses a text.
    ///
    /// # Errors
    /// The first syntax error.
    pub(super) fn parse(path: PathBuf, text: String) -> Result<Self, SyntaxError> {
        if let Some(at) = too_deep(&text) {
            let message = "tables and lists lie too deep in each other here".to_owned();
            return Err(SyntaxError::at(&text, at, message));
        }
        // Parsed twice, here and when they are turned into targets: a syntax error in a target is
        // to be known before anything is made of the rest.
        let pieces = pieces(&text)
            .filter(|pieces| pieces.iter().all(|piece| piece.stands_alone(&text)))
            .filter(|pieces| !pieces.is_empty());
        let rest = without(&text, pieces.as_deref().unwrap_or_default());
        let parsed = DeTable::parse(&rest)
            .ok()
            .filter(|table| pieces.is_none() || !table.get_ref().contains_key("targets"));
        let (pieces, table) = match parsed {
            Some(table) => (pieces, table),
            None => (None, DeTable::parse(&text).map_err(|error| syntax(&text, &error))?),
        };
        let (mut settings, mut clients) = (dict(table.get_ref()), Vec::new());
        if let Some(Value::Array(..)) = settings.get("targets") {
            settings.remove("targets");
        }
        if let Some(Value::Array(..)) = settings.get("clients") {
            let taken = settings.remove("clients").and_then(Value::into_array);
            clients = taken.unwrap_or_default();
        }
        drop(table);
        drop(rest);
        Ok(Self { path, text, pieces, settings, clients })
    }

    /// The file's path, as it was given.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// What relative paths in the file are relative to.
    pub(super) fn folder(&self) -> &Path {
        self.path.parent().unwrap_or_else(|| Path::new(""))
    }

    /// The `[[clients]]` of this file, which are added to those of other files.
    pub(super) fn take_clients(&mut self) -> Vec<Value> {
        std::mem::take(&mut self.clients)
    }

    /// How many targets there are, where that is known beforehand.
    pub(super) fn target_count(&self) -> usize {
        self.pieces.as_ref().map_or(0, Vec::len)
    }

    /// Shows every target to `each`, in the order of the file.
    pub(super) fn targets(&self, each: &mut dyn FnMut(&Entry<'_>)) {
        let Some(pieces) = &self.pieces else {
            let lines = Lines::new(&self.text, 1);
            return show_targets(&self.text, &lines, each);
        };
        for piece in pieces {
            let text = self.text.get(piece.bytes.clone()).unwrap_or_default();
            show_targets(text, &Lines::new(text, piece.line), each);
        }
    }

    /// The line of each key outside of the targets, by the key's path.
    pub(super) fn key_lines(&self) -> BTreeMap<String, usize> {
        let mut found = BTreeMap::new();
        let text = without(&self.text, self.pieces.as_deref().unwrap_or_default());
        if let Ok(table) = DeTable::parse(&text) {
            let lines = Lines::new(&text, 1);
            // Targets know their own lines, and may be many.
            let is_targets = |key: &str, value: &DeValue<'_>| key == "targets" && value.is_array();
            for (key, value) in table.get_ref() {
                if is_targets(key.get_ref(), value.get_ref()) {
                    continue;
                }
                let path = key.get_ref().to_string();
                found.insert(path.clone(), lines.at(key.span().start));
                find_keys(value, path, &lines, &mut found);
            }
        }
        found
    }
}

/// What figment lays over other sources: everything but clients and targets, which add up.
impl Provider for &Document {
    fn metadata(&self) -> Metadata {
        Metadata::from("file", self.path.as_path())
    }

    fn data(&self) -> figment::Result<Map<Profile, Dict>> {
        Ok(Map::from([(Profile::Default, self.settings.clone())]))
    }
}

fn show_targets(text: &str, lines: &Lines, each: &mut dyn FnMut(&Entry<'_>)) {
    let Ok(table) = DeTable::parse(text) else { return };
    let entries = table.get_ref().get("targets").and_then(|value| value.get_ref().as_array());
    for value in entries.into_iter().flat_map(|entries| entries.iter()) {
        each(&Entry { value, lines });
    }
}

/// Where the entries of `[[targets]]` stand. `None` where a multi-line string might hide a line
/// that looks like a header.
fn pieces(text: &str) -> Option<Vec<Piece>> {
    if text.contains("\"\"\"") || text.contains("'''") {
        return None;
    }
    let mut pieces: Vec<Piece> = Vec::new();
    let (mut offset, mut inside) = (0_usize, false);
    for (index, line) in text.split_inclusive('\n').enumerate() {
        let begins = offset;
        offset = offset.saturating_add(line.len());
        let header = line.trim_start_matches([' ', '\t']);
        if header.starts_with("[[targets]]") {
            inside = true;
            pieces.push(Piece { bytes: begins..offset, line: index.saturating_add(1) });
            continue;
        }
        inside &= !header.starts_with('[')
            || header.starts_with("[targets.")
            || header.starts_with("[[targets.");
        if let Some(piece) = pieces.last_mut().filter(|_| inside) {
            piece.bytes.end = offset;
        }
    }
    Some(pieces)
}

/// The text with nothing but the line ends of the pieces, so that lines keep their numbers.
fn without<'a>(text: &'a str, pieces: &[Piece]) -> Cow<'a, str> {
    if pieces.is_empty() {
        return Cow::Borrowed(text);
    }
    let mut rest = String::new();
    let mut done = 0;
    for piece in pieces {
        rest.push_str(text.get(done..piece.bytes.start).unwrap_or_default());
        let inside = text.get(piece.bytes.clone()).unwrap_or_default();
        rest.extend(inside.bytes().filter(|byte| *byte == b'\n').map(char::from));
        done = piece.bytes.end;
    }
    rest.push_str(text.get(done..).unwrap_or_default());
    Cow::Owned(rest)
}

/// Where lines begin.
#[derive(Debug)]
struct Lines {
    starts: Vec<usize>,
    first: usize,
}

impl Lines {
    fn new(text: &str, first: usize) -> Self {
        let ends = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n');
        Self { starts: ends.map(|(at, _)| at.saturating_add(1)).collect(), first }
    }

    /// The line of a byte, counted from the first line's number.
    fn at(&self, offset: usize) -> usize {
        let before = self.starts.partition_point(|start| *start <= offset);
        self.first.saturating_add(before)
    }
}

impl SyntaxError {
    fn at(text: &str, at: usize, message: String) -> Self {
        let before = text.get(..at).unwrap_or(text);
        let line_start = before.rfind('\n').map_or(0, |at| at.saturating_add(1));
        let column = before.get(line_start..).unwrap_or_default().chars().count();
        Self { line: Lines::new(text, 1).at(at), column: column.saturating_add(1), message }
    }
}

/// The message alone: what the parser prints shows the line, and a secret may stand in it.
fn syntax(text: &str, error: &toml::de::Error) -> SyntaxError {
    SyntaxError::at(text, error.span().map_or(0, |span| span.start), error.message().to_owned())
}

/// The line of every key and list entry in a value. A key stands where its name does.
fn find_keys(
    value: &Spanned<DeValue<'_>>,
    path: String,
    lines: &Lines,
    found: &mut BTreeMap<String, usize>,
) {
    match value.get_ref() {
        DeValue::Table(table) => {
            for (key, value) in table {
                let path = format!("{path}.{}", key.get_ref());
                found.insert(path.clone(), lines.at(key.span().start));
                find_keys(value, path, lines, found);
            }
        }
        DeValue::Array(array) => {
            for (index, value) in array.iter().enumerate() {
                find_keys(value, format!("{path}[{index}]"), lines, found);
            }
        }
        DeValue::String(_)
        | DeValue::Integer(_)
        | DeValue::Float(_)
        | DeValue::Boolean(_)
        | DeValue::Datetime(_) => {}
    }
    found.entry(path).or_insert_with(|| lines.at(value.span().start));
}

fn dict(table: &DeTable<'_>) -> Dict {
    table.iter().map(|(key, item)| (key.get_ref().to_string(), value(item.get_ref()))).collect()
}

/// figment's form of a value.
fn value(value: &DeValue<'_>) -> Value {
    match value {
        DeValue::String(text) => Value::from(text.as_ref()),
        DeValue::Integer(number) => integer(number.as_str(), number.radix()),
        DeValue::Float(number) => Value::from(number.as_str().parse().unwrap_or(f64::NAN)),
        DeValue::Boolean(flag) => Value::from(*flag),
        DeValue::Datetime(time) => Value::from(time.to_string()),
        DeValue::Array(array) => {
            Value::from(array.iter().map(|item| self::value(item.get_ref())).collect::<Vec<_>>())
        }
        DeValue::Table(table) => Value::from(dict(table)),
    }
}

/// Unsigned where that is possible, as figment does not convert. TOML has 64 bits; a number of more
/// is none that any key accepts.
fn integer(digits: &str, radix: u32) -> Value {
    match u64::from_str_radix(digits, radix) {
        Ok(number) => Value::from(number),
        Err(_) => {
            i64::from_str_radix(digits, radix).map_or_else(|_| Value::from(f64::NAN), Value::from)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_entry_is_a_piece_with_its_sub_tables_and_the_rest_keeps_its_lines() {
        let text = "a = 1\n[[targets]] # one\nid = 1\n\n[targets.tls]\nx = 1\n [proxy]\nb = 2\n\
                    \t[[targets]]\nid = 2\n[[targets.x]]\ny = 1\n[[targets]]";
        let pieces = pieces(text).unwrap();
        let shown: Vec<_> = pieces.iter().map(|p| (p.line, &text[p.bytes.clone()])).collect();
        assert_eq!(
            shown,
            [
                (2, "[[targets]] # one\nid = 1\n\n[targets.tls]\nx = 1\n"),
                (9, "\t[[targets]]\nid = 2\n[[targets.x]]\ny = 1\n"),
                (13, "[[targets]]"),
            ]
        );
        assert_eq!(without(text, &pieces), "a = 1\n\n\n\n\n\n [proxy]\nb = 2\n\n\n\n\n");
        let document = Document::parse("x".into(), text.to_owned()).unwrap();
        assert_eq!(document.target_count(), 3);
    }

    #[test]
    fn where_a_multi_line_string_could_hide_a_header_nothing_is_cut() {
        for quotes in ["\"\"\"", "'''"] {
            let text = format!("a = {quotes}\n[[targets]]\n{quotes}\n");
            assert_eq!(pieces(&text), None);
            let document = Document::parse("x".into(), text).unwrap();
            document.targets(&mut |_| panic!("there is no target"));
        }
    }
}
