//! Why the store cannot be used, and what to do about it.

use std::path::PathBuf;

use sqlx::migrate::MigrateError;

/// Why the store cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Not a URL of a store that this version has.
    #[error("this version keeps its state in SQLite; write a URL such as sqlite:state/gateway.db")]
    Url,
    /// The folder of the database cannot be made.
    #[error("cannot make the folder {path} of the database: {source}", path = .path.display())]
    Folder {
        /// That folder.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// There is no database, and none is to be made.
    #[error("there is no database at {path}; see store.url and the working directory", path = .0.display())]
    Missing(PathBuf),
    /// The file or its folder cannot be opened, or not for writing.
    #[error(
        "the database cannot be opened for writing; its folder has to exist, and folder and files \
         have to belong to the gateway's user: {0}"
    )]
    Access(#[source] sqlx::Error),
    /// The disk is full.
    #[error(
        "there is no space left for the database; free some, and the gateway goes on by itself: {0}"
    )]
    Full(#[source] sqlx::Error),
    /// Somebody else holds the lock.
    #[error(
        "the database is locked for too long; find what else uses it (`fuser gateway.db`), or why \
         the disk is slow: {0}"
    )]
    Locked(#[source] sqlx::Error),
    /// Not a database, or a broken one.
    #[error(
        "the database is damaged; stop the gateway, keep the file, and put a backup in its place: \
         {0}"
    )]
    Damaged(#[source] sqlx::Error),
    /// A sealed credential or another value is not what this program writes.
    #[error(
        "the database is damaged: {0} is not as this program writes it; put a backup in its place"
    )]
    Value(&'static str),
    /// Written by a newer version.
    #[error(
        "the database was written by a newer version (schema {found}, this program knows \
         {known}); run that version, or put the backup from before its start in place"
    )]
    Newer {
        /// The schema's version.
        found: i64,
        /// The newest that this program knows.
        known: i64,
    },
    /// The schema is not what this program made of it.
    #[error(
        "the database does not fit this version; put a backup of this gateway in its place: {0}"
    )]
    Schema(#[source] MigrateError),
    /// Anything else that the database says.
    #[error("the database cannot be used: {0}")]
    Database(#[source] sqlx::Error),
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        if matches!(error, sqlx::Error::PoolTimedOut) {
            return Self::Locked(error);
        }
        let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code);
        // SQLite's extended codes have the plain one in their last byte.
        let code = code.and_then(|code| code.parse::<u32>().ok()).map(|code| code & 0xff);
        match code {
            // BUSY, LOCKED, PROTOCOL
            Some(5 | 6 | 15) => Self::Locked(error),
            Some(13) => Self::Full(error),
            // CORRUPT, NOTADB
            Some(11 | 26) => Self::Damaged(error),
            // PERM, READONLY, CANTOPEN, AUTH
            Some(3 | 8 | 14 | 23) => Self::Access(error),
            _ => Self::Database(error),
        }
    }
}
