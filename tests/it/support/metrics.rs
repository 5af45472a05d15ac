//! The Prometheus text format, read strictly.

use std::collections::{BTreeMap, BTreeSet};

/// One sample.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    /// The series' name, such as `…_bucket`.
    pub(crate) name: String,
    /// Its labels.
    pub(crate) labels: BTreeMap<String, String>,
    /// Its value.
    pub(crate) value: f64,
}

/// One scrape.
#[derive(Clone, Debug, Default)]
pub(crate) struct Metrics {
    /// Family name → type.
    pub(crate) types: BTreeMap<String, String>,
    /// Family name → help.
    pub(crate) help: BTreeMap<String, String>,
    /// Every sample.
    pub(crate) samples: Vec<Sample>,
}

impl Metrics {
    /// Reads a scrape; panics on what a Prometheus server would refuse.
    pub(crate) fn parse(text: &str) -> Self {
        let mut metrics = Self::default();
        assert!(text.ends_with('\n'), "the last line is not ended");
        for line in text.lines().filter(|line| !line.is_empty()) {
            let former = if let Some(rest) = line.strip_prefix("# HELP ") {
                let (family, help) = rest.split_once(' ').unwrap_or_else(|| panic!("{line}"));
                metrics.help.insert(family.to_owned(), help.to_owned())
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (family, kind) = rest.split_once(' ').unwrap_or_else(|| panic!("{line}"));
                metrics.types.insert(family.to_owned(), kind.to_owned())
            } else if line.starts_with('#') {
                None
            } else {
                metrics.samples.push(sample(line));
                None
            };
            assert_eq!(former, None, "said twice: {line}");
        }
        metrics
    }

    /// The sum of all series of this name that carry these labels.
    pub(crate) fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let carries = |sample: &&Sample| {
            let has = |(key, value): &(&str, &str)| {
                sample.labels.get(*key).is_some_and(|own| own == value)
            };
            sample.name == name && labels.iter().all(has)
        };
        // An empty sum of floats would be -0.
        self.samples.iter().filter(carries).map(|sample| sample.value).sum::<f64>() + 0.0
    }

    /// The families to which the samples belong.
    pub(crate) fn families(&self) -> BTreeSet<String> {
        self.samples.iter().map(|sample| self.family(&sample.name)).collect()
    }

    fn family(&self, name: &str) -> String {
        let of_histogram = ["_bucket", "_sum", "_count"]
            .iter()
            .filter_map(|suffix| name.strip_suffix(suffix))
            .find(|base| self.types.get(*base).is_some_and(|kind| kind == "histogram"));
        of_histogram.unwrap_or(name).to_owned()
    }
}

fn sample(line: &str) -> Sample {
    let (series, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("{line}"));
    let (name, labels) = match series.split_once('{') {
        Some((name, rest)) => (name, rest.strip_suffix('}').unwrap_or_else(|| panic!("{line}"))),
        None => (series, ""),
    };
    let legal = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    assert!(!name.is_empty() && name.chars().all(legal), "{line}");
    Sample {
        name: name.to_owned(),
        labels: self::labels(labels),
        value: value.parse().unwrap_or_else(|_| panic!("no number: {line}")),
    }
}

fn labels(text: &str) -> BTreeMap<String, String> {
    let mut labels = BTreeMap::new();
    let mut rest = text;
    while !rest.is_empty() {
        let (key, after) = rest.split_once("=\"").unwrap_or_else(|| panic!("{text}"));
        let mut value = String::new();
        let mut chars = after.char_indices();
        let end = loop {
            match chars.next().unwrap_or_else(|| panic!("an open quote: {text}")) {
                (at, '"') => break at,
                (_, '\\') => value.push(chars.next().unwrap().1),
                (_, other) => value.push(other),
            }
        };
        assert_eq!(labels.insert(key.to_owned(), value), None, "a label twice: {text}");
        rest = after[end + 1..].trim_start_matches(',');
    }
    labels
}
