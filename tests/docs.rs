//! Holds the documentation to the program: reference pages are printed from it, and every path, code,
//! cause, metric, log field and configuration key that a page names has to exist.
//!
//! `UPDATE=1 cargo test --test docs` writes the pages of `docs/generated` anew.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::arithmetic_side_effects,
    clippy::disallowed_methods,
    clippy::format_push_string,
    reason = "a test may panic, and reads UPDATE"
)]

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::{Arc, Mutex},
};

use egress_gateway::{
    config::check_text,
    policy::RULES,
    reason::{About, Cause, Code, DeploymentMode, Refusal},
    record::{Books, Record},
    telemetry::metrics::Metrics,
};

/// The first lines of every generated page.
const GENERATED: &str = "<!-- Printed from the program by tests/docs.rs; do not edit. \
                         Renew with: UPDATE=1 cargo test --test docs -->\n\n";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// README.md and every page of docs/, the generated ones apart.
fn pages() -> Vec<(String, String)> {
    let mut names = vec!["README.md".to_owned()];
    for entry in fs::read_dir(root().join("docs")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "md") {
            names.push(format!("docs/{}", path.file_name().unwrap().to_str().unwrap()));
        }
    }
    names.sort();
    assert!(names.len() >= 10, "only {names:?}");
    names.into_iter().map(|name| (name.clone(), read(&name))).collect()
}

fn is_as_printed(path: &str, printed: &str) {
    is_as_made(path, &format!("{GENERATED}{printed}"));
}

fn is_as_made(path: &str, printed: &str) {
    if std::env::var_os("UPDATE").is_some() {
        fs::write(root().join(path), printed).unwrap();
    }
    let there = fs::read_to_string(root().join(path)).unwrap_or_default();
    assert!(there == printed, "{path} is out of date; run: UPDATE=1 cargo test --test docs");
}

// === what a page says ===

/// A fenced block: the words behind its fence, and its text.
struct Fence<'a> {
    info: &'a str,
    text: String,
}

fn fences(page: &str) -> Vec<Fence<'_>> {
    let mut fences = Vec::new();
    let mut open: Option<Fence<'_>> = None;
    for line in page.lines() {
        match (line.strip_prefix("```"), open.take()) {
            (Some(info), None) => open = Some(Fence { info, text: String::new() }),
            (Some(_), Some(fence)) => fences.push(fence),
            (None, Some(mut fence)) => {
                fence.text.push_str(line);
                fence.text.push('\n');
                open = Some(fence);
            }
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "a fence is not closed");
    fences
}

/// What stands between single backticks, outside of fenced blocks.
fn quoted(page: &str) -> Vec<&str> {
    let mut inside = false;
    let prose = page.lines().filter(|line| {
        let fence = line.starts_with("```");
        inside ^= fence;
        !inside && !fence
    });
    prose.flat_map(|line| line.split('`').skip(1).step_by(2)).collect()
}

/// The lines under a heading, up to the next one of the same or a higher level.
fn section<'a>(page: &'a str, heading: &str) -> Vec<&'a str> {
    let level = heading.chars().take_while(|c| *c == '#').count();
    let mut lines = page.lines().skip_while(|line| *line != heading);
    assert!(lines.next().is_some(), "there is no {heading:?}");
    let ends = |line: &str| {
        let depth = line.chars().take_while(|c| *c == '#').count();
        depth > 0 && depth <= level
    };
    lines.take_while(|line| !ends(line)).collect()
}

/// The words in backticks in the first column of the tables among these lines.
fn first_column<'a>(lines: &[&'a str]) -> Vec<&'a str> {
    let rows = lines.iter().filter_map(|line| line.strip_prefix("| "));
    rows.filter_map(|row| row.split(" | ").next()).flat_map(quoted).collect()
}

// === generated pages ===

fn refusal(cause: Cause, mode: DeploymentMode, lacks: bool) -> Refusal {
    let about = About { target_id: "x".into(), mode, allowlist_lacks_egress: lacks };
    Refusal::new(cause, "").about(about)
}

/// A sentence as it can stand in a table or heading of Markdown.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace("{egress_ip}", "*the egress address*")
}

#[test]
fn the_page_of_reasons_is_as_the_program_has_it() {
    let mut page = String::from(
        "# Reasons\n\nEvery code and every cause: what it means, who has to act, what helps. \
         A refusal's `code` depends on the cause and on the target's deployment mode. \
         `GET /v1/reasons` on the admin listener gives the same as JSON.\n\n## Codes\n",
    );
    for code in Code::ALL {
        let causes: Vec<_> = Cause::ALL
            .iter()
            .filter(|cause| {
                DeploymentMode::ALL.iter().any(|mode| {
                    [false, true]
                        .iter()
                        .any(|lacks| refusal(**cause, *mode, *lacks).code() == *code)
                })
            })
            .map(|cause| format!("`{}`", cause.as_str()))
            .collect();
        let causes = match causes.as_slice() {
            [] => "none in this version".to_owned(),
            causes => causes.join(", "),
        };
        write!(
            page,
            "\n### {}\n\n{}. {}\n\n- owner: {}\n- next step: {}\n- causes: {causes}\n",
            code.as_str(),
            code.title(),
            cell(code.meaning()),
            code.owner().as_str(),
            cell(code.next_step()),
        )
        .unwrap();
    }
    page.push_str("\n## Causes\n\nIn the order in which a request can meet them. ");
    page.push_str("`*` behind a code: where the target's `allowlist` lacks the egress address.\n");
    for cause in Cause::ALL {
        let failure = cause.failure();
        write!(
            page,
            "\n### {}\n\n{}\n\n- status: {}\n- owner: {}{}\n- next step: {}\n\
             - another try may succeed: {}\n- `Proxy-Status` error: `{}`\n- code: {}\n",
            cause.as_str(),
            cell(cause.meaning()),
            failure.status(),
            cause.owner().as_str(),
            cloud_owner(*cause),
            cell(cause.next_step()),
            if cause.retryable() { "yes" } else { "no" },
            cause.proxy_error(),
            codes_of(*cause),
        )
        .unwrap();
    }
    is_as_printed("docs/generated/reasons.md", &page);
}

fn cloud_owner(cause: Cause) -> String {
    let owner = refusal(cause, DeploymentMode::Cloud, false).owner();
    if owner == cause.owner() {
        String::new()
    } else {
        format!("; of a cloud target: {}", owner.as_str())
    }
}

/// `CODE`, or one for each mode where they differ.
fn codes_of(cause: Cause) -> String {
    let mut modes: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for mode in DeploymentMode::ALL {
        let plain = refusal(cause, mode, false).code();
        modes.entry(format!("`{}`", plain.as_str())).or_default().push(mode.as_str());
        let lacking = refusal(cause, mode, true).code();
        if lacking != plain {
            modes.entry(format!("`{}`*", lacking.as_str())).or_default().push(mode.as_str());
        }
    }
    if modes.len() == 1 {
        return modes.into_keys().collect();
    }
    let said = modes.iter().map(|(code, modes)| format!("{code} ({})", modes.join(", ")));
    said.collect::<Vec<_>>().join("; ")
}

/// A metric as the program renders it.
#[derive(Default)]
struct Family {
    kind: String,
    help: String,
    labels: BTreeMap<String, BTreeSet<String>>,
}

fn families() -> BTreeMap<String, Family> {
    let metrics = Metrics::new().unwrap();
    // Families whose labels only the configuration knows show with the first tunnel.
    metrics.tunnels.up.with_label_values(&["acme"]);
    metrics.tunnels.streams.with_label_values(&["acme"]);
    for direction in ["to_target", "to_client"] {
        metrics.tunnels.bytes.with_label_values(&["acme", direction]);
    }
    metrics.connectivity.checks.with_label_values(&["ready", ""]);
    metrics.connectivity.target_state.with_label_values(&["acme", "ready"]);
    metrics.connectivity.certificate_expiry.with_label_values(&["acme"]);
    let text = metrics.render().unwrap();
    let mut families: BTreeMap<String, Family> = BTreeMap::new();
    for line in text.lines() {
        if let Some((name, help)) = line.strip_prefix("# HELP ").and_then(|l| l.split_once(' ')) {
            families.entry(name.to_owned()).or_default().help.push_str(help);
        } else if let Some((name, kind)) =
            line.strip_prefix("# TYPE ").and_then(|l| l.split_once(' '))
        {
            families.entry(name.to_owned()).or_default().kind.push_str(kind);
        } else if let Some((name, rest)) = line.split_once('{') {
            let labels = rest.split('}').next().unwrap();
            let family = families.get_mut(family_of(name)).unwrap();
            for label in labels.split("\",") {
                let (label, value) = label.split_once("=\"").unwrap();
                let values = family.labels.entry(label.to_owned()).or_default();
                values.insert(value.trim_end_matches('"').to_owned());
            }
        }
    }
    assert!(families.len() > 15);
    families
}

fn family_of(sample: &str) -> &str {
    let endings = ["_bucket", "_sum", "_count"];
    endings.iter().find_map(|ending| sample.strip_suffix(ending)).unwrap_or(sample)
}

#[test]
fn the_page_of_metrics_is_as_the_program_has_it() {
    let mut page = String::from(
        "# Metrics\n\nWhat `GET /metrics` gives. Units are base units: seconds and bytes. The values \
         listed are those whose series exist from the start; `code` and `cause` have no others than \
         those of [reasons.md](reasons.md).\n\n| metric | type | labels | what |\n\
         | --- | --- | --- | --- |\n",
    );
    for (name, family) in families() {
        let labels = family.labels.iter().filter(|(label, _)| *label != "le");
        let labels: Vec<_> = labels
            .map(|(label, values)| match label.as_str() {
                "version" | "code" | "cause" => format!("`{label}`"),
                _ => {
                    let values: Vec<_> = values.iter().map(String::as_str).collect();
                    format!("`{label}`: {}", values.join(", "))
                }
            })
            .collect();
        let labels = labels.join("; ");
        writeln!(page, "| `{name}` | {} | {labels} | {} |", family.kind, cell(&family.help))
            .unwrap();
    }
    is_as_printed("docs/generated/metrics.md", &page);
}

fn gateway(arguments: &[&str]) -> Output {
    let program = env!("CARGO_BIN_EXE_egress-gateway");
    // The width of the page is not that of a terminal.
    Command::new(program).args(arguments).env_remove("COLUMNS").output().unwrap()
}

#[test]
fn the_page_of_commands_is_as_the_program_has_it() {
    let mut page = String::from("# Commands\n\nWhat each command says of itself with `--help`.\n");
    let mut commands = Vec::new();
    describe(&mut Vec::new(), &mut page, &mut commands);
    for command in ["serve", "demo", "explain", "config check", "health", "openapi", "completions"]
    {
        assert!(commands.iter().any(|known| known == command), "there is no {command}");
    }
    is_as_printed("docs/generated/cli.md", &page);
}

#[test]
fn the_document_of_the_admin_api_is_as_the_program_prints_it() {
    let output = gateway(&["openapi"]);
    assert!(output.status.success(), "{output:?}");
    let printed = String::from_utf8(output.stdout).unwrap();
    assert!(printed.contains("\"/v1/decisions\""), "{printed}");
    is_as_made("docs/generated/openapi.json", &printed);
}

fn describe<'a>(path: &mut Vec<&'a str>, page: &mut String, commands: &mut Vec<String>) {
    let output = gateway(&[path.as_slice(), &["--help"]].concat());
    assert!(output.status.success(), "{path:?}: {output:?}");
    let help: &'a str = String::from_utf8(output.stdout).unwrap().leak();
    let name = [&["egress-gateway"], path.as_slice()].concat().join(" ");
    write!(page, "\n## {name}\n\n```text\n{}\n```\n", help.trim_end()).unwrap();
    commands.push(path.join(" "));
    let listed = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    for line in listed.take_while(|line| !line.is_empty()) {
        let word = line.split_whitespace().next().unwrap();
        // A description may go on over a second line, which is indented further.
        if line.starts_with("  ") && !line.starts_with("   ") && word != "help" {
            path.push(word);
            describe(path, page, commands);
            path.pop();
        }
    }
}

// === what pages name ===

const FOLDERS: &[&str] =
    &["src/", "docs/", "tests/", "config/", "systemd/", "fuzz/", "benches/", ".ci/", ".github/"];

#[test]
fn every_path_that_a_page_names_exists() {
    let mut missing = Vec::new();
    let mut count = 0;
    for (page, text) in pages() {
        for word in quoted(&text).into_iter().filter(|word| is_path(word)) {
            count += 1;
            // What follows are arguments.
            let path = word.split_whitespace().next().unwrap();
            if !root().join(path).exists() {
                missing.push(format!("{page}: {path}"));
            }
        }
    }
    assert!(count > 100, "only {count} paths");
    missing.sort();
    missing.dedup();
    assert!(missing.is_empty(), "not there:\n{}", missing.join("\n"));
}

fn is_path(word: &str) -> bool {
    FOLDERS.iter().any(|folder| word.starts_with(folder))
}

/// In the last column of a table stand files, each with the tests in it that are meant.
#[test]
fn every_defence_names_tests_that_exist() {
    let page = read("docs/defences.md");
    let mut missing = Vec::new();
    let mut count = 0;
    for row in page.lines().filter(|line| line.starts_with("| ")) {
        let tests = row.trim_end_matches(" |").rsplit(" | ").next().unwrap();
        let mut file = None;
        for word in quoted(tests) {
            if is_path(word) {
                file = Some(word);
            } else if let Some(file) = file {
                count += 1;
                let text = fs::read_to_string(root().join(file)).unwrap_or_default();
                if !text.contains(&format!("fn {word}(")) {
                    missing.push(format!("{file}: {word}"));
                }
            }
        }
    }
    assert!(count > 60, "only {count} tests");
    assert!(missing.is_empty(), "no such test:\n{}", missing.join("\n"));
}

#[test]
fn every_link_between_pages_leads_somewhere() {
    let mut count = 0;
    for (page, text) in pages() {
        let folder = root().join(&page);
        let folder = folder.parent().unwrap();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let file = link.split('#').next().unwrap();
            if file.is_empty() || link.contains("://") {
                continue;
            }
            count += 1;
            assert!(folder.join(file).exists(), "{page} links to {link}");
        }
    }
    assert!(count > 20, "only {count} links");
}

#[test]
fn every_code_that_a_page_names_exists() {
    let codes: Vec<_> = Code::ALL.iter().map(|code| code.as_str()).collect();
    let families = ["SELF_HOSTED_", "PROVIDER_", "WEBHOOK_", "GATEWAY_", "generic_webhook_"];
    let mut count = 0;
    for (page, text) in pages() {
        for word in quoted(&text) {
            let shaped = word.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
            if shaped && families.iter().any(|family| word.starts_with(family)) {
                count += 1;
                assert!(codes.contains(&word), "{page} names {word}");
            }
        }
    }
    assert!(count > 30, "only {count} codes");
}

#[test]
fn the_way_of_a_request_names_every_cause_and_every_rule() {
    let page = read("docs/request.md");
    let words: BTreeSet<_> = quoted(&page).into_iter().collect();
    for cause in Cause::ALL {
        assert!(words.contains(cause.as_str()), "docs/request.md leaves out {}", cause.as_str());
    }
    for rule in RULES {
        assert!(words.contains(rule.name), "docs/request.md leaves out {}", rule.name);
    }
}

#[test]
fn the_operators_page_names_every_metric_and_no_other() {
    let page = read("docs/operating.md");
    let families = families();
    let words = quoted(&page).into_iter();
    // Expressions of alerts count as well.
    let named: BTreeSet<_> = words
        .flat_map(|word| word.split(|c: char| !c.is_ascii_alphanumeric() && c != '_'))
        .filter(|word| word.starts_with("egress_"))
        .map(family_of)
        // Not metrics: a field of /v1/egress and a check of /readyz.
        .filter(|word| !["egress_ip", "egress_address"].contains(word))
        .collect();
    for name in &named {
        assert!(families.contains_key(*name), "docs/operating.md names {name}");
    }
    for name in families.keys().filter(|name| !name.starts_with("process_")) {
        assert!(named.contains(name.as_str()), "docs/operating.md leaves out {name}");
    }
}

#[test]
fn the_operators_page_names_every_field_of_the_log_and_no_other() {
    let page = read("docs/operating.md");
    let documented: BTreeSet<_> =
        first_column(&section(&page, "## Log")).into_iter().map(str::to_owned).collect();
    let fields = Arc::new(Mutex::new(BTreeSet::new()));
    let metrics = Arc::new(Metrics::new().unwrap());
    let books = Arc::new(Books { metrics, decisions: Arc::default() });
    tracing::subscriber::with_default(Fields(Arc::clone(&fields)), || {
        drop(Record::start(&books, tokio::time::Instant::now()));
    });
    let mut fields = fields.lock().unwrap().clone();
    assert!(fields.len() > 15, "only {fields:?}");
    // What the writer of the line adds.
    fields.extend(["timestamp", "level"].map(str::to_owned));
    assert_eq!(documented, fields);
}

/// Notes the names of the fields of every event.
struct Fields(Arc<Mutex<BTreeSet<String>>>);

impl tracing::Subscriber for Fields {
    fn enabled(&self, _metadata: &tracing::Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, _span: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _span: &tracing::span::Id, _values: &tracing::span::Record<'_>) {}

    fn record_follows_from(&self, _span: &tracing::span::Id, _follows: &tracing::span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        let names = event.metadata().fields().iter().map(|field| field.name().to_owned());
        self.0.lock().unwrap().extend(names);
    }

    fn enter(&self, _span: &tracing::span::Id) {}

    fn exit(&self, _span: &tracing::span::Id) {}
}

// === configuration ===

/// A document with nothing but this key, whose value fits no key.
fn document_with(key: &str) -> String {
    let (table, last) = key.rsplit_once('.').unwrap_or(("", key));
    let table = table.replace("NAME", "acme");
    match table.split_once("[]") {
        Some((list, "")) => format!("[[{list}]]\n{last} = 1.5\n"),
        Some((list, inner)) => format!("[[{list}]]\n[{list}{inner}]\n{last} = 1.5\n"),
        None if table.is_empty() => format!("{last} = 1.5\n"),
        None => format!("[{table}]\n{last} = 1.5\n"),
    }
}

#[test]
fn every_key_of_the_configuration_reference_is_one_that_the_program_reads() {
    let page = read("docs/operating.md");
    let keys = first_column(&section(&page, "## Configuration"));
    assert!(keys.len() > 70, "only {}", keys.len());
    for key in keys {
        let problems = check_text(&document_with(key));
        let unknown: Vec<_> = problems.iter().filter(|p| p.contains("unknown key")).collect();
        assert!(unknown.is_empty(), "{key}: {unknown:?}");
    }
    assert!(
        check_text(&document_with("targets[].tls.ca_fil")).join("").contains("unknown key"),
        "a key that is not there is not noticed"
    );
}

/// A folder that goes when the test ends, with one configuration in it.
fn configuration(text: &str) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("gateway.toml");
    fs::write(&file, text).unwrap();
    (folder, file)
}

fn config_check(file: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_egress-gateway"))
        .args(["config", "check", "--config", "gateway.toml"])
        .current_dir(file.parent().unwrap())
        .env("EGRESS_CLIENT_TOKEN", "0123456789abcdef")
        .env("EGRESS_ADMIN_TOKEN", "fedcba9876543210")
        .output()
        .unwrap()
}

/// Blocks marked `toml check` are configurations; those marked `toml refused` are followed by a
/// block with everything that `config check` says of them.
#[test]
fn every_configuration_that_a_page_shows_is_what_it_is_said_to_be() {
    let (mut valid, mut refused) = (0, 0);
    for (page, text) in pages() {
        let fences = fences(&text);
        for (index, fence) in fences.iter().enumerate() {
            if fence.info == "toml check" {
                valid += 1;
                let (_folder, file) = configuration(&fence.text);
                let output = config_check(&file);
                assert!(output.status.success(), "{page}: {output:?}\n{}", fence.text);
            }
            if fence.info == "toml refused" {
                refused += 1;
                let (_folder, file) = configuration(&fence.text);
                let output = config_check(&file);
                assert_eq!(output.status.code(), Some(2), "{page}: {output:?}");
                let said = String::from_utf8(output.stderr).unwrap();
                let shown = &fences[index + 1].text;
                let shown: String = shown
                    .lines()
                    .filter(|l| !l.starts_with("$ "))
                    .map(|l| l.to_owned() + "\n")
                    .collect();
                assert_eq!(shown, said, "{page}");
            }
        }
    }
    assert!(valid >= 3 && refused >= 1, "only {valid} and {refused}");
}

#[test]
fn the_readme_is_short_enough_to_be_read() {
    assert!(read("README.md").lines().count() <= 250);
}
