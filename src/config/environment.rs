//! Settings from environment variables: `EGRESS_SECTION__KEY`, and `EGRESS_STATE_DIR`.

use std::collections::BTreeMap;

use figment::{
    Metadata, Profile, Provider,
    value::{Dict, Map, Value},
};

use super::outside::Outside;

const PREFIX: &str = "EGRESS_";
const STATE_DIR: &str = "EGRESS_STATE_DIR";

/// What `__` separates are the levels of a key; single underscores belong to names.
const SEPARATOR: &str = "__";

/// Those environment variables that are settings. It cannot be printed: a value may be secret.
#[derive(Default)]
pub(super) struct Environment {
    settings: Vec<(String, Value)>,
    names: BTreeMap<String, String>,
}

impl Environment {
    /// Picks the settings out of the environment. Other names that begin with `EGRESS_`, without
    /// `__`, are not ours: orchestrators and users' own secrets have such names.
    pub(super) fn read(outside: &dyn Outside) -> Self {
        let mut environment = Self::default();
        for name in outside.variables() {
            let Some(rest) = name.strip_prefix(PREFIX) else { continue };
            if name != STATE_DIR && !rest.contains(SEPARATOR) {
                continue;
            }
            let Some(text) = outside.variable(&name) else { continue };
            let text = text.to_string_lossy();
            let path = rest.to_ascii_lowercase().replace(SEPARATOR, ".");
            // Numbers, lists in brackets and tables in braces are read as such, as figment does;
            // a path is a path, whatever it looks like.
            let value = match (name == STATE_DIR, text.parse::<Value>()) {
                (false, Ok(value)) => value,
                (true, _) | (false, Err(_)) => Value::from(&*text),
            };
            environment.names.insert(path.clone(), name);
            environment.settings.push((path, value));
        }
        environment
    }

    /// The variable of each key that is set.
    pub(super) fn names(&self) -> &BTreeMap<String, String> {
        &self.names
    }
}

impl Provider for &Environment {
    fn metadata(&self) -> Metadata {
        Metadata::from("environment", "environment")
    }

    fn data(&self) -> figment::Result<Map<Profile, Dict>> {
        let mut settings = Dict::new();
        for (path, value) in &self.settings {
            let mut keys: Vec<&str> = path.split('.').collect();
            if let Some(last) = keys.pop() {
                insert(&mut settings, &keys, last, value.clone());
            }
        }
        Ok(Map::from([(Profile::Default, settings)]))
    }
}

/// Puts a value under its keys. A value in the way of a table gives way, as later files do.
fn insert(dict: &mut Dict, tables: &[&str], last: &str, value: Value) {
    let mut dict = dict;
    for key in tables {
        let inner = dict.entry((*key).to_owned()).or_insert_with(|| Dict::new().into());
        if !matches!(inner, Value::Dict(..)) {
            *inner = Dict::new().into();
        }
        let Value::Dict(_, next) = inner else { return };
        dict = next;
    }
    dict.insert(last.to_owned(), value);
}
