//! Reads a table of configuration or of an API body key by key, and collects every problem on the way.
//!
//! serde stops at the first error and names no line; an operator who has five keys wrong wants to
//! hear of all five. So tables are read through [`Fields`]: each key is asked for by name, what was
//! never asked for is a misspelt key, and every problem knows its path.

use std::{fmt, net::IpAddr, time::Duration};

use figment::value::{Dict, Value};
use ipnet::{IpNet, Ipv4Net};

/// One thing that is wrong, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The key's path: `limits.header_timeout`, `targets[3].base_url`.
    pub key: String,
    /// What is wrong with it and what to write instead. Never the value of a secret.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.key, self.message)
    }
}

/// Everything that is wrong with one document.
pub type Problems = Vec<Problem>;

/// A table being read.
#[derive(Debug)]
pub struct Fields<'a> {
    path: String,
    rest: Dict,
    asked: Vec<&'static str>,
    problems: &'a mut Problems,
}

impl<'a> Fields<'a> {
    /// Begins to read `dict`, which stands at `path` (empty for a whole document).
    pub fn new(path: impl Into<String>, dict: Dict, problems: &'a mut Problems) -> Self {
        Self { path: path.into(), rest: dict, asked: Vec::new(), problems }
    }

    /// The path of a key of this table.
    pub fn key(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// Notes a problem with a key of this table.
    pub fn problem(&mut self, key: &str, message: impl Into<String>) {
        let key = self.key(key);
        self.problems.push(Problem { key, message: message.into() });
    }

    /// How many problems there are so far, in the whole document.
    pub fn problem_count(&self) -> usize {
        self.problems.len()
    }

    /// Whether the key is there and has not been read yet.
    pub fn has(&self, key: &str) -> bool {
        self.rest.contains_key(key)
    }

    /// Takes a raw value.
    pub fn value(&mut self, key: &'static str) -> Option<Value> {
        self.asked.push(key);
        self.rest.remove(key)
    }

    /// Takes a value that `read` understands; its error becomes the problem.
    pub fn read<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(&Value) -> Result<T, String>,
    ) -> Option<T> {
        let value = self.value(key)?;
        read(&value).map_err(|message| self.problem(key, message)).ok()
    }

    /// A string that `parse` understands.
    pub fn parse<T, E: fmt::Display>(
        &mut self,
        key: &'static str,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<T> {
        self.read(key, |value| {
            let text = value.as_str().ok_or_else(|| expected("a string", value))?;
            parse(text).map_err(|error| error.to_string())
        })
    }

    /// A list of strings (or one string, as environment variables have it, with commas between
    /// entries), each of which `parse` understands.
    pub fn list<T, E: fmt::Display>(
        &mut self,
        key: &'static str,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> Option<Vec<T>> {
        let values = match self.value(key)? {
            Value::Array(_, values) => values,
            Value::String(tag, text) => text
                .split(',')
                .filter(|part| !part.trim().is_empty())
                .map(|part| Value::String(tag, part.trim().to_owned()))
                .collect(),
            other @ (Value::Char(..)
            | Value::Bool(..)
            | Value::Num(..)
            | Value::Empty(..)
            | Value::Dict(..)) => {
                self.problem(key, expected("a list of strings", &other));
                return None;
            }
        };
        let mut parsed = Vec::with_capacity(values.len());
        for (index, value) in values.iter().enumerate() {
            let result = value
                .as_str()
                .ok_or_else(|| expected("a string", value))
                .and_then(|text| parse(text).map_err(|error| error.to_string()));
            match result {
                Ok(value) => parsed.push(value),
                Err(message) => self.problem(&format!("{key}[{index}]"), message),
            }
        }
        Some(parsed)
    }

    /// One string under `one`, or several in their order under `many`, each of which `parse`
    /// understands; not both.
    pub fn one_or_many<T, E: fmt::Display>(
        &mut self,
        one: &'static str,
        many: &'static str,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> Vec<T> {
        if self.has(one) && self.has(many) {
            self.problem(many, format!("give {one} or {many}, not both"));
        }
        let alone: Option<T> = self.parse(one, &parse);
        alone.into_iter().chain(self.list(many, &parse).unwrap_or_default()).collect()
    }

    /// One of a few words.
    pub fn word<T: Copy>(&mut self, key: &'static str, words: &[(&str, T)]) -> Option<T> {
        self.parse(key, |text| {
            words.iter().find(|(word, _)| *word == text).map(|(_, value)| *value).ok_or_else(|| {
                let words: Vec<_> = words.iter().map(|(word, _)| *word).collect();
                format!("{text:?} is not one of {}{}", words.join(", "), hint(text, &words))
            })
        })
    }

    /// `true` or `false`.
    pub fn flag(&mut self, key: &'static str, default: bool) -> bool {
        self.read(key, |value| value.to_bool().ok_or_else(|| expected("true or false", value)))
            .unwrap_or(default)
    }

    /// A whole number from `least` up.
    pub fn number(&mut self, key: &'static str, least: u32, default: u32) -> u32 {
        self.number_or(key, least).unwrap_or(default)
    }

    /// A whole number from `least` up, where it is there.
    pub fn number_or(&mut self, key: &'static str, least: u32) -> Option<u32> {
        self.read(key, |value| {
            let number = value.to_u128().and_then(|number| u32::try_from(number).ok());
            number
                .filter(|number| *number >= least)
                .ok_or_else(|| expected(&format!("a whole number from {least} up"), value))
        })
    }

    /// A duration with its unit, such as `"10s"`; never zero.
    pub fn duration(&mut self, key: &'static str, default: Duration) -> Duration {
        self.read(key, |value| {
            let text = value.as_str().ok_or_else(|| {
                expected("a duration with its unit, such as \"10s\" or \"15m\"", value)
            })?;
            parse_duration(text)
        })
        .unwrap_or(default)
    }

    /// A size with its unit, such as `"64KiB"`, in bytes.
    pub fn size(&mut self, key: &'static str, default: usize) -> usize {
        self.read(key, |value| {
            let text = value
                .as_str()
                .ok_or_else(|| expected("a size with its unit, such as \"64KiB\"", value))?;
            parse_size(text)
        })
        .unwrap_or(default)
    }

    /// A sub-table; an empty one where it is absent.
    pub fn table(&mut self, key: &'static str) -> Fields<'_> {
        let dict = match self.value(key) {
            Some(Value::Dict(_, dict)) => dict,
            Some(other) => {
                self.problem(key, expected("a table", &other));
                Dict::new()
            }
            None => Dict::new(),
        };
        Fields::new(self.key(key), dict, self.problems)
    }

    /// A list of tables.
    pub fn tables(&mut self, key: &'static str) -> Vec<Dict> {
        let values = match self.value(key) {
            Some(Value::Array(_, values)) => values,
            Some(other) => {
                self.problem(key, expected("a list of tables", &other));
                return Vec::new();
            }
            None => return Vec::new(),
        };
        let mut tables = Vec::with_capacity(values.len());
        for (index, value) in values.into_iter().enumerate() {
            match value {
                Value::Dict(_, dict) => tables.push(dict),
                other @ (Value::String(..)
                | Value::Char(..)
                | Value::Bool(..)
                | Value::Num(..)
                | Value::Empty(..)
                | Value::Array(..)) => {
                    self.problem(&format!("{key}[{index}]"), expected("a table", &other));
                }
            }
        }
        tables
    }

    /// The entries of a table whose keys are names of the operator's choice.
    pub fn named(&mut self, key: &'static str) -> Vec<(String, Dict)> {
        let entries = match self.value(key) {
            Some(Value::Dict(_, dict)) => dict,
            Some(other) => {
                self.problem(key, expected("a table", &other));
                return Vec::new();
            }
            None => return Vec::new(),
        };
        let mut named = Vec::with_capacity(entries.len());
        for (name, value) in entries {
            if let Value::Dict(_, dict) = value {
                named.push((name, dict));
            } else {
                self.problem(&format!("{key}.{name}"), expected("a table", &value));
            }
        }
        named
    }

    /// A reader for a table that stands elsewhere in the same document.
    pub fn at(&mut self, path: impl Into<String>, dict: Dict) -> Fields<'_> {
        Fields::new(path, dict, self.problems)
    }

    /// Ends the table: every key that nobody asked for is a problem, with the nearest key as a hint.
    /// Gives the number of problems of the whole document so far.
    pub fn finish(self) -> usize {
        for key in self.rest.keys() {
            let path =
                if self.path.is_empty() { key.clone() } else { format!("{}.{key}", self.path) };
            let message = format!("unknown key{}", hint(key, &self.asked));
            self.problems.push(Problem { key: path, message });
        }
        self.problems.len()
    }
}

/// `; did you mean …?` where one of the words is near.
pub fn hint(text: &str, words: &[&str]) -> String {
    let near = words
        .iter()
        .map(|word| (strsim::damerau_levenshtein(text, word), word))
        .min_by_key(|(distance, _)| *distance)
        .filter(|(distance, word)| *distance <= 3 && *distance < word.len());
    near.map_or_else(String::new, |(_, word)| format!("; did you mean `{word}`?"))
}

/// `expected …, found …`, naming the kind of what was found and never its value.
pub fn expected(what: &str, found: &Value) -> String {
    let kind = match found {
        Value::String(..) | Value::Char(..) => "a string",
        Value::Bool(..) => "true or false",
        Value::Num(..) => "a number",
        Value::Empty(..) => "nothing",
        Value::Dict(..) => "a table",
        Value::Array(..) => "a list",
    };
    if what.contains(kind) {
        format!("expected {what}")
    } else {
        format!("expected {what}, found {kind}")
    }
}

/// Reads `"10s"`, `"1m30s"`, `"250ms"`, `"24h"`, `"1d"`.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is not a duration with its unit, such as \"10s\" or \"15m\"");
    let text = text.trim();
    if !text.starts_with(|first: char| first.is_ascii_digit()) {
        return Err(wrong());
    }
    let (days, rest) = match text.split_once('d') {
        Some((days, rest)) => (days.parse::<u32>().map_err(|_| wrong())?, rest),
        None => (0, text),
    };
    let mut total = Duration::from_hours(24).saturating_mul(days);
    if !rest.is_empty() {
        let part: jiff::SignedDuration = rest.parse().map_err(|_| wrong())?;
        total = total.saturating_add(Duration::try_from(part).map_err(|_| wrong())?);
    }
    if total.is_zero() {
        Err("a time limit of zero would refuse everything".into())
    } else {
        Ok(total)
    }
}

/// Reads `"512B"`, `"64KiB"`, `"5MiB"`, `"1GiB"`.
pub fn parse_size(text: &str) -> Result<usize, String> {
    let wrong = || format!("{text:?} is not a size with its unit: B, KiB, MiB or GiB");
    let text = text.trim();
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at_checked(digits).ok_or_else(wrong)?;
    let factor: usize = match unit.trim() {
        "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return Err(wrong()),
    };
    let number: usize = number.parse().map_err(|_| wrong())?;
    number.checked_mul(factor).filter(|size| *size > 0).ok_or_else(wrong)
}

/// Reads an address or a CIDR; a plain address stands for itself alone.
pub fn parse_net(text: &str) -> Result<IpNet, String> {
    if let Ok(ip) = text.parse::<IpAddr>() {
        return Ok(ip.to_canonical().into());
    }
    let net: IpNet = text
        .parse()
        .map_err(|_| format!("{text:?} is not an address or a CIDR such as 10.20.0.0/16"))?;
    if net.trunc() == net {
        Ok(unmapped(net))
    } else {
        Err(format!("{text:?} has bits set outside its prefix; write {}", net.trunc()))
    }
}

/// An IPv4-mapped network as the IPv4 network that it is: addresses are compared in that form, and
/// what is written in the other would hold none of them.
fn unmapped(net: IpNet) -> IpNet {
    let of_v4 = || {
        let address = match net.network() {
            IpAddr::V6(v6) => v6.to_ipv4_mapped()?,
            IpAddr::V4(_) => return None,
        };
        Ipv4Net::new(address, net.prefix_len().checked_sub(96)?).ok()
    };
    of_v4().map_or(net, IpNet::V4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_of_mapped_addresses_is_the_one_of_ipv4() {
        for (text, expected) in [
            ("::ffff:10.20.0.0/112", "10.20.0.0/16"),
            ("::ffff:a14:5", "10.20.0.5/32"),
            ("::ffff:0:0/96", "0.0.0.0/0"),
            ("::/0", "::/0"),
            ("64:ff9b::/96", "64:ff9b::/96"),
            ("10.20.0.0/16", "10.20.0.0/16"),
        ] {
            assert_eq!(parse_net(text).unwrap().to_string(), expected, "{text}");
        }
    }

    fn dict(text: &str) -> Dict {
        figment::Figment::from(figment::providers::Serialized::defaults(
            toml::from_str::<toml::Table>(text).unwrap(),
        ))
        .extract()
        .unwrap()
    }

    #[test]
    fn every_problem_of_a_table_is_reported_with_its_path() {
        let mut problems = Problems::new();
        let mut fields = Fields::new(
            "limits",
            dict("a = 10\nb = \"x\"\nheadr_timeout = \"1s\"\nn = -1"),
            &mut problems,
        );
        assert_eq!(fields.duration("a", Duration::from_secs(3)), Duration::from_secs(3));
        assert_eq!(fields.size("b", 7), 7);
        assert_eq!(fields.number("n", 1, 9), 9);
        fields.duration("header_timeout", Duration::from_secs(10));
        fields.finish();
        let shown: Vec<_> = problems.iter().map(ToString::to_string).collect();
        assert_eq!(
            shown,
            [
                "limits.a: expected a duration with its unit, such as \"10s\" or \"15m\", found a number",
                "limits.b: \"x\" is not a size with its unit: B, KiB, MiB or GiB",
                "limits.n: expected a whole number from 1 up, found a number",
                "limits.headr_timeout: unknown key; did you mean `header_timeout`?",
            ]
        );
    }

    #[test]
    fn durations_and_sizes_need_a_unit() {
        assert_eq!(parse_duration("1m30s"), Ok(Duration::from_secs(90)));
        assert_eq!(parse_duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(parse_duration("1d"), Ok(Duration::from_hours(24)));
        for wrong in ["10", "", "s", "-1s", "0s", "1 fortnight", "1y"] {
            assert!(parse_duration(wrong).is_err(), "{wrong}");
        }
        assert_eq!(parse_size("64KiB"), Ok(65_536));
        for wrong in ["64", "KiB", "0B", "64KB", "99999999999999999999B", "-1B"] {
            assert!(parse_size(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_network_with_host_bits_is_refused_with_the_right_one() {
        assert_eq!(parse_net("10.0.0.1").unwrap().to_string(), "10.0.0.1/32");
        assert!(parse_net("10.0.0.1/8").unwrap_err().contains("10.0.0.0/8"));
        assert!(parse_net("10.0.0.0/33").is_err());
    }

    #[test]
    fn a_list_may_be_one_string_with_commas() {
        let mut problems = Problems::new();
        let mut fields =
            Fields::new("", dict("a = \"10.0.0.0/8, 192.0.2.1\"\nb = [\"x\", 3]"), &mut problems);
        assert_eq!(fields.list("a", parse_net).unwrap().len(), 2);
        assert_eq!(fields.list("b", parse_net).unwrap().len(), 0);
        fields.finish();
        assert_eq!(problems.len(), 2);
    }
}
