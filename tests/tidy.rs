//! The shape of the house, kept by a test: who may import whom, what may do neither I/O nor async,
//! how long a file may be, that every file says in its first line what it is for, and that every
//! path the documentation names is there.

#![cfg(test)]
#![expect(clippy::arithmetic_side_effects, clippy::string_slice, reason = "a test may panic")]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// Longest file, its tests not counted.
const FILE_LINES_MAX: usize = 500;

/// Each module and the modules it may import. A module imports only from rows above its own, so
/// the list cannot hold a cycle. A submodule with a row of its own is judged by that row; importing
/// it is not importing its parent.
const LAYERS: &[(&str, &str)] = &[
    // the judgement
    ("fields", ""),
    ("origin", ""),
    ("path", ""),
    ("reason", ""),
    ("secret", ""),
    ("seal", "secret"),
    ("slots", ""),
    ("target", "fields origin path reason secret"),
    ("client", "reason secret target"),
    ("destination", "origin reason target"),
    ("policy", "client destination origin path reason target"),
    ("problem", "reason"),
    ("webhook", "reason secret target"),
    // what it tells and keeps
    ("telemetry", "reason"),
    ("store", "policy seal"),
    ("sightings", "policy store"),
    ("deliveries", "origin store target webhook"),
    // the way out
    ("dial", "policy"),
    ("resolve", "dial"),
    ("tls", "origin target"),
    ("tunnel::error", "reason"),
    ("forward::splice", ""),
    ("forward::pump", "forward::splice"),
    ("multiplex", ""),
    ("connector", "dial forward::pump multiplex origin policy store telemetry tunnel::error"),
    (
        "tunnel",
        "connector dial origin policy reason resolve secret target telemetry tls tunnel::error",
    ),
    ("carrier", "tls tunnel"),
    ("egress", "carrier dial origin policy reason resolve sightings target telemetry tls tunnel"),
    ("decisions", ""),
    ("record", "decisions egress reason target telemetry"),
    // configuration, and what a request sees of it
    ("server::tls", ""),
    ("admin::token", "secret"),
    (
        "config",
        "admin::token client fields origin resolve secret server::tls target telemetry tunnel \
         webhook",
    ),
    (
        "view",
        "client config connector dial egress policy resolve sightings target telemetry tls tunnel",
    ),
    // the way in, and the one function from top to bottom
    ("forward::client_hello", ""),
    ("forward", "destination egress origin policy reason record target tls"),
    ("check::record", "reason target"),
    (
        "check",
        "client destination egress forward origin path policy reason store target telemetry tls tunnel \
         view",
    ),
    (
        "gateway",
        "check client deliveries destination egress forward origin path policy problem reason record \
         slots store target telemetry view webhook",
    ),
    (
        "inventory",
        "check client destination fields origin policy reason seal secret store target view webhook",
    ),
    ("explain", "check client destination gateway origin policy reason target view"),
    ("server::head", ""),
    ("server", "forward gateway multiplex problem reason telemetry"),
    // the program
    (
        "admin",
        "admin::token check decisions deliveries explain fields gateway inventory origin reason \
         secret store target telemetry tunnel view",
    ),
    (
        "lifecycle",
        "admin admin::token check config connector deliveries gateway inventory origin seal server \
         server::tls sightings store telemetry view",
    ),
    (
        "cli",
        "admin check client config connector destination explain fields gateway lifecycle origin policy seal \
         secret sightings store target telemetry tunnel view webhook",
    ),
];

/// The modules that a row's module may import.
fn allowed(imports: &'static str) -> impl Iterator<Item = &'static str> {
    imports.split_whitespace()
}

/// Modules that judge or read bytes and do nothing else, so that every answer of theirs can be had
/// in a test, a fuzzer or a benchmark without a machine around it.
const PURE: &[&str] = &[
    "client",
    "destination",
    "fields",
    "forward::client_hello",
    "origin",
    "path",
    "policy",
    "problem",
    "reason",
    "seal",
    "secret",
    "server::head",
    "slots",
    "target",
    "webhook",
];

/// What would show that a module does I/O, waits, or asks the clock.
const IMPURE_WORDS: &[&str] = &[
    "async ",
    ".await",
    "tokio::",
    "hyper::",
    "hickory_",
    "socket2::",
    "sqlx::",
    "nix::",
    "std::env",
    "std::fs",
    "fs::",
    "std::io",
    "std::process",
    "std::thread",
    "Instant",
    "SystemTime",
    "TcpStream",
    "TcpListener",
    "UdpSocket",
    "println!",
];

/// Where the paths begin that documentation names in backticks.
const FOLDERS: &[&str] = &["benches/", "config/", "docs/", "fuzz/", "src/", "systemd/", "tests/"];

#[test]
fn layers_are_in_an_order_without_cycles() {
    let mut errors = Vec::new();
    for (index, (module, imports)) in LAYERS.iter().enumerate() {
        for import in allowed(imports) {
            if !LAYERS[..index].iter().any(|(above, _)| *above == import) {
                errors.push(format!("{module} imports {import}, which is not above it"));
            }
        }
        let path = root().join("src").join(module.replace("::", "/"));
        if !path.is_dir() && !path.with_extension("rs").is_file() {
            errors.push(format!("there is no module {module}"));
        }
    }
    assert!(PURE.iter().all(|module| is_row(module)), "a pure module has no row");
    assert_none(&errors);
}

#[test]
fn modules_import_only_what_their_layer_may() {
    let mut errors = Vec::new();
    let mut seen = 0;
    for file in sources() {
        let Some(module) = row_of(&file.module) else {
            if !matches!(file.module.as_str(), "lib" | "main") {
                errors.push(format!("{}: module `{}` has no row", file.shown, file.module));
            }
            continue;
        };
        let imports = LAYERS.iter().find(|(row, _)| *row == module).unwrap().1;
        for path in imported(&without_comments(before_tests(&file.text))) {
            seen += 1;
            // What lies in the module itself, or in one of its own submodules, is its own.
            let own = |import: &str| import == module || import.starts_with(&format!("{module}::"));
            match row_of(&path) {
                Some(import) if own(import) || allowed(imports).any(|one| one == import) => {}
                Some(import) => {
                    errors.push(format!("{}: `{module}` may not import `{import}`", file.shown));
                }
                None => errors.push(format!("{}: `crate::{path}` has no row", file.shown)),
            }
        }
    }
    assert!(seen > 100, "only {seen} imports were found");
    assert_none(&errors);
}

#[test]
fn the_judgement_does_no_io_and_never_waits() {
    let mut errors = Vec::new();
    let mut seen = BTreeSet::new();
    for file in sources() {
        let Some(module) = row_of(&file.module).filter(|module| PURE.contains(module)) else {
            continue;
        };
        seen.insert(module);
        let code = without_comments(before_tests(&file.text));
        for word in IMPURE_WORDS.iter().filter(|word| code.contains(**word)) {
            errors.push(format!("{}: `{module}` is pure, yet says `{word}`", file.shown));
        }
    }
    assert_eq!(seen.len(), PURE.len());
    assert_none(&errors);
}

#[test]
fn every_file_is_short_and_says_what_it_is_for() {
    let mut errors = Vec::new();
    let files: Vec<_> =
        ["src", "tests", "benches", "fuzz/fuzz_targets"].into_iter().flat_map(rust_files).collect();
    for path in &files {
        let text = fs::read_to_string(path).unwrap();
        let shown = path.strip_prefix(root()).unwrap().display();
        if !text.starts_with("//! ") {
            errors.push(format!("{shown}: the first line does not say what the file is for"));
        }
        let lines = if is_test_file(path) { 0 } else { before_tests(&text).lines().count() };
        if lines > FILE_LINES_MAX {
            errors.push(format!("{shown}: {lines} lines, at most {FILE_LINES_MAX}"));
        }
    }
    assert!(files.len() > 60, "only {} files were found", files.len());
    assert_none(&errors);
}

#[test]
fn every_path_that_the_documentation_names_is_there() {
    let mut errors = Vec::new();
    let mut seen = 0;
    let pages = fs::read_dir(root().join("docs")).unwrap().map(|entry| entry.unwrap().path());
    for page in pages.filter(|page| page.extension().is_some_and(|extension| extension == "md")) {
        let text = fs::read_to_string(&page).unwrap();
        let shown = page.strip_prefix(root()).unwrap().display();
        for path in named_paths(&text) {
            seen += 1;
            if !root().join(path).exists() {
                errors.push(format!("{shown}: there is no {path}"));
            }
        }
    }
    assert!(seen > 5, "only {seen} paths were found");
    assert_none(&errors);
}

#[test]
fn imports_are_read_as_rust_reads_them() {
    let code = "use crate::{\n    a::{self, b::C, D},\n    e as f,\n    g::*,\n};\nuse crate::h::I;\nlet x = crate::j::k();";
    let found: Vec<_> = imported(code).into_iter().collect();
    assert_eq!(found, ["a::D", "a::b::C", "a::self", "e", "g::", "h::I", "j::k"]);
    assert_eq!(row_of("server::tls::ServerTls"), Some("server::tls"));
    assert_eq!(row_of("server::Listener"), Some("server"));
    assert_eq!(row_of("serverless"), None);
    let text = "see `src/lib.rs`, `fuzz/run SECONDS`, `src/policy/*.rs` and src/none.rs";
    assert_eq!(named_paths(text).collect::<Vec<_>>(), ["src/lib.rs", "fuzz/run"]);
}

/// A file of `src/`.
struct Source {
    /// Its path below `src/`.
    shown: String,
    /// Its module, as `a::b`.
    module: String,
    text: String,
}

/// All files of `src/` that are not tests as a whole.
fn sources() -> Vec<Source> {
    let src = root().join("src");
    let read = |path: PathBuf| {
        let shown = path.strip_prefix(&src).unwrap().to_str().unwrap().to_owned();
        let module = shown.trim_end_matches(".rs").trim_end_matches("/mod").replace('/', "::");
        Source { text: fs::read_to_string(&path).unwrap(), shown, module }
    };
    rust_files("src").into_iter().filter(|path| !is_test_file(path)).map(read).collect()
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn rust_files(folder: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

fn is_test_file(path: &Path) -> bool {
    let path = path.strip_prefix(root()).unwrap();
    let is_test = |part: &str| part == "tests" || part.ends_with("tests.rs");
    path.components().any(|part| part.as_os_str().to_str().is_some_and(is_test))
}

fn before_tests(text: &str) -> &str {
    let end = ["\nmod tests {", "\npub(crate) mod tests {"]
        .iter()
        .filter_map(|module| text.find(&format!("#[cfg(test)]{module}")))
        .min();
    &text[..end.unwrap_or(text.len())]
}

fn without_comments(code: &str) -> String {
    code.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

/// The row that a path within the crate belongs to: the longest that is a prefix of it.
fn row_of(path: &str) -> Option<&'static str> {
    let is_in = |row: &str| {
        path.strip_prefix(row).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
    };
    LAYERS.iter().map(|(row, _)| *row).filter(|row| is_in(row)).max_by_key(|row| row.len())
}

fn is_row(module: &str) -> bool {
    LAYERS.iter().any(|(row, _)| *row == module)
}

/// Every path that follows `crate::`, with groups spelt out.
fn imported(code: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (at, start) in code.match_indices("crate::") {
        spell_out(&code[at + start.len()..], "", &mut found);
    }
    found
}

/// Reads one path or group of paths below `prefix`; what is left of the text comes back.
fn spell_out<'a>(text: &'a str, prefix: &str, found: &mut BTreeSet<String>) -> &'a str {
    let text = text.trim_start();
    if let Some(mut rest) = text.strip_prefix('{') {
        loop {
            rest = rest.trim_start();
            if let Some(after) = rest.strip_prefix('}') {
                return after;
            }
            rest = spell_out(rest, prefix, found);
            // Over `as name`, to what ends this entry.
            rest = &rest[rest.find([',', '}']).expect("a group ends")..];
            rest = rest.strip_prefix(',').unwrap_or(rest);
        }
    }
    let end = text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
    let (word, rest) = text.split_at(end);
    let path = if prefix.is_empty() { word.to_owned() } else { format!("{prefix}::{word}") };
    if let Some(rest) = rest.strip_prefix("::") {
        return spell_out(rest, &path, found);
    }
    found.insert(path);
    rest
}

/// Paths in backticks, without what follows them in a command. Patterns are not paths.
fn named_paths(text: &str) -> impl Iterator<Item = &str> {
    text.split('`')
        .skip(1)
        .step_by(2)
        .filter(|code| FOLDERS.iter().any(|folder| code.starts_with(folder)))
        .filter_map(|code| code.split_whitespace().next())
        .filter(|path| !path.contains(['*', '<', '{', '…']))
        .map(|path| path.split([':', '#']).next().unwrap_or(path))
}

fn assert_none(errors: &[String]) {
    assert!(errors.is_empty(), "\n{}\n", errors.join("\n"));
}
