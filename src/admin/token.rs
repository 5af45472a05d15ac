//! The tokens of the admin listener: what the configuration reads, and what the listener compares.

use serde::{Deserialize, Serialize};

use crate::secret::{Fingerprint, Secret};

/// What a token may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Look: `GET` and `HEAD`.
    Read,
    /// Look and change.
    Operate,
}

impl Role {
    /// Both, the lesser first.
    pub const ALL: [Self; 2] = [Self::Read, Self::Operate];

    /// The word of configuration: `read`, `operate`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Operate => "operate",
        }
    }
}

/// A token as the configuration has it: `admin.tokens`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// Whose it is, for the log.
    pub name: Box<str>,
    /// What it may do.
    pub role: Role,
    /// What is sent as `Authorization: Bearer …`.
    pub secret: Secret,
}

/// A token as the listener compares it: without the secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    /// Whose it is, for the log.
    pub name: Box<str>,
    /// What it may do.
    pub role: Role,
    /// Of the token's secret.
    pub fingerprint: Fingerprint,
}

impl From<&Token> for Access {
    fn from(token: &Token) -> Self {
        Self { name: token.name.clone(), role: token.role, fingerprint: token.secret.fingerprint() }
    }
}
