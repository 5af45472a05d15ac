//! Why a target could not be changed over the API.

use crate::{fields::Problems, reason::Refusal, seal::SealError, store::StoreError};

/// Why a target could not be changed. Nothing was.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// There is no such target.
    #[error("there is no such target")]
    NotFound,
    /// The target is written in the configuration's files.
    #[error("the target belongs to the configuration; change it there")]
    ReadOnly,
    /// Somebody else changed it: its version now, `None` where it is gone or never was.
    #[error("the target was changed meanwhile")]
    Changed(Option<i64>),
    /// The document is not that of a target.
    #[error("the target has {} problems", .0.len())]
    Invalid(Problems),
    /// Its URL or addresses are not safe: what traffic would be told.
    #[error("the target's URL or addresses are not approved")]
    Unsafe(Box<Refusal>),
    /// A credential came before its target could be judged: what is missing.
    #[error("a credential is taken only for a target whose URL and addresses have passed")]
    NotJudged(Box<Refusal>),
    /// There is no key to seal credentials with.
    #[error("store.key is not set, and credentials are never kept unsealed")]
    NoKey,
    /// There are as many targets as may be.
    #[error("there are {0} targets, as many as may be")]
    TooMany(usize),
    /// The key and what it is for do not go together.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}
