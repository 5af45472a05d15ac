//! One target of the API: what is kept of it, and what it makes.

use std::sync::Arc;

use jiff::Timestamp;
use serde::Serialize;
use utoipa::ToSchema;

use super::document::{self, Around, Json};
use crate::{
    fields::{Problem, Problems},
    seal::Keys,
    secret::Secret,
    store::{Field, StoredTarget},
    target::{Signing, Source, Target, TargetId},
};

/// Whether a target has a signing secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum SecretStatus {
    /// It has none.
    Missing,
    /// It has one.
    Present,
    /// It has one, and the one before still counts.
    Rotating,
}

impl SecretStatus {
    /// Of a target of the configuration, or one as traffic sees it.
    pub fn of(signing: &Signing) -> Self {
        match (&signing.secret, &signing.previous) {
            (None, _) => Self::Missing,
            (Some(_), None) => Self::Present,
            (Some(_), Some(_)) => Self::Rotating,
        }
    }
}

/// Secrets of a target, opened.
#[derive(Clone, Debug, Default)]
pub(super) struct Rotation {
    /// The secret that deliveries are signed with.
    pub(super) current: Option<Secret>,
    /// The one before, and until when it counts; without an end, until somebody ends it.
    pub(super) previous: Option<(Secret, Option<Timestamp>)>,
}

impl Rotation {
    /// Without what has expired.
    pub(super) fn at(&self, now: Timestamp) -> Self {
        let live = |until: &Option<Timestamp>| until.is_none_or(|until| now < until);
        let previous = self.previous.clone().filter(|(_, until)| live(until));
        Self { current: self.current.clone(), previous }
    }

    /// When the previous secret expires.
    pub(super) fn expiry(&self) -> Option<Timestamp> {
        self.previous.as_ref().and_then(|(_, until)| *until)
    }
}

/// A target of the API as it is kept.
#[derive(Debug)]
pub struct Entry {
    /// Its id.
    pub id: TargetId,
    /// Grows with every change, and never comes back for an id.
    pub version: i64,
    /// What the API took, without secrets.
    pub document: Json,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was last changed.
    pub updated_at: Timestamp,
    pub(super) secrets: Rotation,
    /// The target as traffic sees it, or why it carries none: what it refers to is gone from the
    /// configuration, or its secret cannot be opened.
    pub target: Result<Arc<Target>, Problems>,
    /// The target as it is shown, whatever it refers to.
    pub shown: Arc<Target>,
}

impl Entry {
    /// Reads what the store has of a target.
    pub(super) fn restored(
        id: TargetId,
        stored: &StoredTarget,
        keys: Option<&Keys>,
        around: &Around,
    ) -> Option<Self> {
        let mut problems = Problems::new();
        let document = serde_json::from_str(&stored.document).unwrap_or_else(|error| {
            problems.push(problem("", format!("what is stored is not JSON: {error}")));
            Json::new()
        });
        let mut secrets = Rotation::default();
        for credential in &stored.credentials {
            let field = credential.field.as_str();
            let opened = match keys {
                Some(keys) => {
                    keys.open(id.as_str(), field, &credential.sealed).map_err(|e| e.to_string())
                }
                None => Err("store.key is not set".to_owned()),
            };
            match (opened, credential.field) {
                (Ok(secret), Field::SigningSecret) => secrets.current = Some(secret),
                (Ok(secret), Field::SigningSecretPrevious) => {
                    let until = credential.expires_at.map(millisecond);
                    secrets.previous = Some((secret, until));
                }
                (Err(error), _) => {
                    problems.push(problem(field, format!("it cannot be opened: {error}")));
                }
            }
        }
        let shown = document::target(id.as_str(), &document, &Around::anything(around));
        let shown = shown
            .map_err(|problems| {
                for problem in problems {
                    tracing::error!(target_id = id.as_str(), %problem, "a stored target is unknown");
                }
            })
            .ok()?;
        let entry = Self {
            id,
            version: stored.version,
            document,
            created_at: millisecond(stored.created_at),
            updated_at: millisecond(stored.updated_at),
            secrets,
            target: Err(problems),
            shown: Arc::new(Target { source: Source::Api, ..shown }),
        };
        Some(entry.read_again(around, &[]))
    }

    /// Whether it has a signing secret, now.
    pub fn secret_status(&self) -> SecretStatus {
        let secrets = self.secrets.at(Timestamp::now());
        match (secrets.current, secrets.previous) {
            (None, _) => SecretStatus::Missing,
            (Some(_), None) => SecretStatus::Present,
            (Some(_), Some(_)) => SecretStatus::Rotating,
        }
    }

    /// Until when the previous secret counts, where there is one with an end.
    pub fn previous_expires_at(&self) -> Option<Timestamp> {
        self.secrets.at(Timestamp::now()).expiry()
    }

    /// Whether a secret of it could not be opened.
    pub(super) fn is_sealed(&self) -> bool {
        let of_secrets =
            |problem: &Problem| Field::ALL.iter().any(|one| one.as_str() == problem.key);
        self.target.as_ref().is_err_and(|problems| problems.iter().any(of_secrets))
    }

    /// The same, with its target read among other names. What was wrong with its secrets still is,
    /// but for those that are `renewed`.
    pub(super) fn read_again(&self, around: &Around, renewed: &[Field]) -> Self {
        let of_secrets = |problem: &&Problem| {
            let field = Field::ALL.iter().find(|field| field.as_str() == problem.key);
            field.is_some_and(|field| !renewed.contains(field))
        };
        let kept: Problems = match &self.target {
            Ok(_) => Problems::new(),
            Err(problems) => problems.iter().filter(of_secrets).cloned().collect(),
        };
        let target = match document::target(self.id.as_str(), &self.document, around) {
            Ok(target) if kept.is_empty() => Ok(Arc::new(self.with_secrets(target))),
            Ok(_) => Err(kept),
            Err(more) => Err(more.into_iter().chain(kept).collect()),
        };
        Self { target, ..self.copy() }
    }

    /// The target, whatever is wrong with its secrets.
    pub(super) fn readable(&self, around: &Around) -> Result<Target, Problems> {
        document::target(self.id.as_str(), &self.document, around)
            .map(|target| self.with_secrets(target))
    }

    /// A target as traffic is to see it now.
    pub(super) fn with_secrets(&self, target: Target) -> Target {
        let secrets = self.secrets.at(Timestamp::now());
        let signing = Signing {
            secret: secrets.current,
            previous: secrets.previous.map(|(secret, _)| secret),
            format: target.signing.format,
        };
        Target { signing, source: Source::Api, ..target }
    }

    pub(super) fn copy(&self) -> Self {
        Self {
            id: self.id.clone(),
            version: self.version,
            document: self.document.clone(),
            created_at: self.created_at,
            updated_at: self.updated_at,
            secrets: self.secrets.clone(),
            target: self.target.clone(),
            shown: Arc::clone(&self.shown),
        }
    }
}

fn problem(key: &str, message: String) -> Problem {
    Problem { key: key.to_owned(), message }
}

/// The time, as exactly as the store keeps it.
pub(super) fn now() -> Timestamp {
    millisecond(Timestamp::now().as_millisecond())
}

fn millisecond(at: i64) -> Timestamp {
    Timestamp::from_millisecond(at).unwrap_or_default()
}
