//! Reads who may use the proxy.

use std::collections::{HashMap, HashSet};

use figment::value::Value;

use super::{
    read::{person_or_program, required, token},
    reference::{Base, References},
};
use crate::{
    client::ClientSettings,
    fields::{Fields, expected},
    secret::Fingerprint,
};

/// A `[[clients]]` entry, and the folder of its file.
pub(super) struct ClientEntry<'a> {
    pub(super) value: Value,
    pub(super) base: Base<'a>,
}

/// Reads all clients. One with a problem is left out.
pub(super) fn clients(
    root: &mut Fields<'_>,
    entries: Vec<ClientEntry<'_>>,
    references: &References<'_>,
    has_client_ca: bool,
) -> Vec<ClientSettings> {
    let mut taken = Taken { has_client_ca, ..Taken::default() };
    let mut clients = Vec::with_capacity(entries.len());
    for (index, entry) in entries.into_iter().enumerate() {
        let path = format!("clients[{index}]");
        let Value::Dict(_, dict) = entry.value else {
            root.problem(&path, expected("a table", &entry.value));
            continue;
        };
        let mut fields = root.at(path, dict);
        clients.extend(client(&mut fields, entry.base, references, &mut taken));
        fields.finish();
    }
    clients
}

/// What clients before this one have, as everything that identifies one has to be its own; and
/// whether certificates are asked for.
#[derive(Default)]
struct Taken {
    names: HashSet<String>,
    tokens: HashMap<[u8; 32], String>,
    certificate_names: HashMap<String, String>,
    has_client_ca: bool,
}

fn client(
    fields: &mut Fields<'_>,
    base: Base<'_>,
    references: &References<'_>,
    taken: &mut Taken,
) -> Option<ClientSettings> {
    let name = required(fields, "name", |fields| fields.parse("name", person_or_program));
    let shown = name.clone().unwrap_or_else(|| "without a name".into());
    if name.clone().is_some_and(|name| !taken.names.insert(name)) {
        fields.problem("name", format!("there is another client {shown}"));
    }
    let has_token = fields.has("token");
    let secret = fields.read("token", |value| token(references, base, value));
    let fingerprint = secret.as_ref().map(|token| Fingerprint::bytes(token.fingerprint()));
    if let Some(other) = fingerprint.and_then(|own| taken.tokens.insert(own, shown.clone())) {
        fields.problem("token", format!("client {other} has the same token; each needs its own"));
    }
    let certificate_names = certificate_names(fields, &shown, taken);
    if !has_token && certificate_names.is_empty() {
        let message = "a client needs a token or certificate_names; nobody could be this one";
        fields.problem("token", message);
    }
    let targets = targets(fields);
    Some(ClientSettings { name: name?, token: secret, certificate_names, targets: targets? })
}

fn certificate_names(fields: &mut Fields<'_>, client: &str, taken: &mut Taken) -> Vec<String> {
    let names = fields.list("certificate_names", |text| {
        if text.is_empty() || text.contains(char::is_control) {
            Err("expected a URI or DNS name, as it stands in the certificate")
        } else {
            Ok(text.to_owned())
        }
    });
    let names = names.unwrap_or_default();
    if !names.is_empty() && !taken.has_client_ca {
        let message = "certificates are asked for only with proxy.tls.client_ca_file; set it";
        fields.problem("certificate_names", message);
    }
    for name in &names {
        if let Some(other) = taken.certificate_names.insert(name.clone(), client.to_owned()) {
            let message = if other == client {
                format!("{name} is listed twice")
            } else {
                format!("client {other} has {name} too; a certificate stands for one client")
            };
            fields.problem("certificate_names", message);
        }
    }
    names
}

fn targets(fields: &mut Fields<'_>) -> Option<Vec<String>> {
    let there = fields.has("targets");
    let before = fields.problem_count();
    let globs = fields.list("targets", |text| {
        globset::Glob::new(text).map(|_| text.to_owned()).map_err(|error| error.to_string())
    });
    if !there {
        let message = "this key is required: globs on target ids; [\"*\"] allows every target";
        fields.problem("targets", message);
    } else if globs.as_ref().is_some_and(Vec::is_empty) && fields.problem_count() == before {
        fields.problem(
            "targets",
            "list at least one glob on target ids; [\"*\"] allows every target",
        );
    }
    globs
}
