//! A target as the API takes it: JSON, its secrets apart.

use std::{
    collections::BTreeSet,
    path::{Component, Path, PathBuf},
};

use figment::value::Value;
use serde_json::Map;

use crate::{
    fields::{Fields, Problem, Problems},
    origin::REDACTED_QUERY,
    reason::{About, Cause, DeploymentMode, Refusal},
    secret::Secret,
    target::{Ownership, Surroundings, Target, provider::Catalogue, read_draft},
    view::View,
    webhook::signature::Key,
};

use super::Fault;

/// JSON, as an object.
pub type Json = Map<String, serde_json::Value>;

/// Keys under which a target's secrets are taken.
const SECRETS: [&str; 4] =
    ["signing_secret", "webhook_secret", "secret", "signing_secret_previous"];

/// What answers show besides what is taken: a client may send back what it got.
const SHOWN_ONLY: [&str; 8] = [
    "source",
    "version",
    "created_at",
    "updated_at",
    "signing_secret_status",
    "state",
    "warnings",
    "problems",
];

/// Names of the URL.
const URLS: [&str; 2] = ["base_url", "webhook_url"];

/// The names that a target may refer to, and the folder of its files.
#[derive(Clone, Debug)]
pub(super) struct Around {
    tunnels: BTreeSet<Box<str>>,
    resolvers: BTreeSet<Box<str>>,
    folder: PathBuf,
    /// Whether every name and file counts as known.
    anything: bool,
}

impl Around {
    /// For looking at a target whose names have gone.
    pub(super) fn anything(around: &Self) -> Self {
        Self { anything: true, ..around.clone() }
    }

    pub(super) fn of(view: &View, folder: &Path) -> Self {
        Self {
            tunnels: view.tunnel_names().map(Into::into).collect(),
            resolvers: view.egress.resolvers.keys().map(|name| name.as_str().into()).collect(),
            folder: folder.to_owned(),
            anything: false,
        }
    }
}

/// A document without its secrets, as it is kept, and the target that it makes with them.
#[derive(Debug)]
pub(super) struct Draft {
    pub(super) document: Json,
    pub(super) target: Target,
}

/// Reads the body of a request. `former` is the target as it is known, whose URL may have been
/// shown without its query.
///
/// # Errors
/// Everything that is wrong with it; [`Fault::Unsafe`] where it is the URL.
pub(super) fn read(
    id: &str,
    mut body: Json,
    former: Option<&Target>,
    around: &Around,
) -> Result<Draft, Fault> {
    let mut problems = Problems::new();
    let mut problem = |key: &str, message: &str| {
        problems.push(Problem { key: key.to_owned(), message: message.to_owned() });
    };
    match body.remove("id") {
        None => {}
        Some(serde_json::Value::String(own)) if own == id => {}
        Some(_) => problem("id", "the id is the one of the path; leave it out, or write the same"),
    }
    body.retain(|key, value| !value.is_null() && !SHOWN_ONLY.contains(&key.as_str()));
    if let Some(key) = restore_query(&mut body, former) {
        problem(key, "its query is shown as ?[redacted], and no URL like it is kept; write it out");
        return Err(Fault::Invalid(problems));
    }
    let read = target(id, &body, around);
    let mut document = body;
    document.retain(|key, _| !SECRETS.contains(&key.as_str()));
    match read {
        Ok(target) if problems.is_empty() => Ok(Draft { document, target }),
        Ok(_) => Err(Fault::Invalid(problems)),
        Err(more) => {
            problems.extend(more);
            Err(unsafe_url(id, &document, &problems).unwrap_or(Fault::Invalid(problems)))
        }
    }
}

/// Makes a target of a document.
///
/// # Errors
/// Everything that is wrong with it.
pub(super) fn target(id: &str, document: &Json, around: &Around) -> Result<Target, Problems> {
    let one = |key: &str, message: String| vec![Problem { key: key.to_owned(), message }];
    let value = Value::serialize(document).map_err(|error| one("", error.to_string()))?;
    let Some(mut dict) = value.into_dict() else {
        return Err(one("", "expected an object".to_owned()));
    };
    dict.insert("id".to_owned(), id.into());
    let surroundings = Surroundings {
        catalogue: Catalogue::embedded(),
        has_tunnel: &|name| around.anything || around.tunnels.contains(name),
        has_resolver: &|name| around.anything || around.resolvers.contains(name),
        ownership: Ownership::Unclear,
        secret: &secret,
        file: &|name| {
            if around.anything { Ok(around.folder.join(name)) } else { file(&around.folder, name) }
        },
    };
    let mut problems = Problems::new();
    let target = read_draft(Fields::new("", dict, &mut problems), &surroundings);
    if let Some(target) = &target {
        problems.extend(cannot_sign(target));
    }
    target.filter(|_| problems.is_empty()).ok_or(problems)
}

fn secret(value: &Value) -> Result<Secret, String> {
    let text = value.as_str().ok_or("expected the secret as a string")?;
    Ok(Secret::new(text.as_bytes().to_vec()))
}

/// A file of the API's targets lies in the one folder for them: whoever may change targets must not
/// learn what else is on this machine.
fn file(folder: &Path, name: &str) -> Result<PathBuf, String> {
    let shown = folder.display();
    let mut parts = Path::new(name).components();
    let plain = matches!(parts.next(), Some(Component::Normal(part)) if part == name);
    if !plain || parts.next().is_some() {
        return Err(format!("give the name of a file in {shown}, without any folder"));
    }
    let missing = || format!("there is no readable file of this name in {shown}");
    let path = folder.join(name);
    // By where it really is: a link must not lead out.
    let real = path.canonicalize().map_err(|_| missing())?;
    let inside = folder.canonicalize().map_err(|_| missing())?;
    if real.starts_with(inside) && real.is_file() { Ok(path) } else { Err(missing()) }
}

/// Secrets that are no secrets of the target's format.
fn cannot_sign(target: &Target) -> impl Iterator<Item = Problem> {
    let signing = &target.signing;
    let secrets =
        [("signing_secret", &signing.secret), ("signing_secret_previous", &signing.previous)];
    let wrong = secrets.map(|(key, secret)| {
        let error = Key::new(secret.as_ref()?, signing.format).err()?;
        Some(Problem { key: key.to_owned(), message: error.to_string() })
    });
    wrong.into_iter().flatten()
}

/// A URL is shown without its query. One that comes back so means the one that is known; the key of
/// one that means nothing.
fn restore_query(body: &mut Json, former: Option<&Target>) -> Option<&'static str> {
    for key in URLS {
        let Some(serde_json::Value::String(text)) = body.get_mut(key) else { continue };
        if !text.ends_with(REDACTED_QUERY) {
            continue;
        }
        let base = former.map(|former| &former.base).filter(|base| *text == base.to_string());
        let Some((base, query)) = base.and_then(|base| Some((base, base.query()?))) else {
            return Some(key);
        };
        *text = format!("{}{}?{query}", base.origin, base.path());
    }
    None
}

/// The refusal of a URL that no target may have, where that is what is wrong.
fn unsafe_url(id: &str, document: &Json, problems: &Problems) -> Option<Fault> {
    if URLS.into_iter().all(|key| document.contains_key(key)) {
        return None;
    }
    // What is no text is no URL at all.
    let key = URLS
        .into_iter()
        .find(|key| document.get(*key).is_some_and(serde_json::Value::is_string))?;
    // Rules that look at several members speak of `base_url`, however it is written.
    let problem = problems.iter().find(|problem| URLS.contains(&problem.key.as_str()))?;
    let word = document.get("deployment_mode").and_then(serde_json::Value::as_str);
    let mode = DeploymentMode::ALL.into_iter().find(|mode| Some(mode.as_str()) == word);
    let about = About {
        target_id: id.into(),
        mode: mode.unwrap_or(DeploymentMode::SelfHosted),
        allowlist_lacks_egress: false,
    };
    let detail = format!("{key}: {}", problem.message);
    Some(Fault::Unsafe(Box::new(Refusal::new(Cause::UrlNotApproved, detail).about(about))))
}
