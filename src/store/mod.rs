//! What survives a restart, in SQLite.

mod checks;
pub mod connectors;
mod credentials;
pub mod deliveries;
mod error;
mod reseal;
mod targets;

use std::{path::Path, time::Duration};

use sqlx::{
    Connection as _, Row as _, SqlitePool,
    migrate::{MigrateError, Migrator},
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};

use crate::policy::address::Class;

pub use checks::{CHECK_AGE_MAX, CHECKS_PER_TARGET_MAX, StoredCheck};
pub use credentials::{Field, NewCredentials, StoredCredential, Which};
pub use error::StoreError;
pub use reseal::{Left, Resealed};
pub use targets::{Expect, PutError, StoredTarget};

/// How long a statement waits for another process that holds the database's lock.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Connections that only read.
const READERS_MAX: u32 = 4;

/// SQLite's name for no file.
const IN_MEMORY: &str = ":memory:";

/// An open database, with the schema of this version.
#[derive(Clone, Debug)]
pub struct Store {
    pool: SqlitePool,
    /// For reading while the other one waits for the disk.
    readers: SqlitePool,
}

/// What a name led to when it was last vetted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sighting {
    /// The target.
    pub target_id: String,
    /// The canonical host.
    pub host: String,
    /// `Global` or `Private`.
    pub class: Class,
}

impl Store {
    /// Opens the database, makes it where it is missing, and brings its schema forward.
    ///
    /// # Errors
    /// What stands in the way; a schema of a newer version is left alone and refused.
    pub async fn open(url: &str) -> Result<Self, StoreError> {
        let path = file_of(url).ok_or(StoreError::Url)?;
        if let Some(folder) = path.parent() {
            let failed = |source| StoreError::Folder { path: folder.to_owned(), source };
            std::fs::create_dir_all(folder).map_err(failed)?;
        }
        Self::connect(path).await
    }

    /// Opens a database that has to be there, and brings its schema forward.
    ///
    /// # Errors
    /// [`StoreError::Missing`], and as for [`Self::open`].
    pub async fn open_existing(url: &str) -> Result<Self, StoreError> {
        let path = file_of(url).ok_or(StoreError::Url)?;
        match path.try_exists() {
            Ok(true) => Self::connect(path).await,
            Ok(false) => Err(StoreError::Missing(path.to_owned())),
            Err(error) => Err(StoreError::Access(error.into())),
        }
    }

    async fn connect(path: &Path) -> Result<Self, StoreError> {
        // By file name, not by URL: a folder may well have a `%` or `?` in its name.
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            // Acknowledged means durable, also when the machine loses power.
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(BUSY_TIMEOUT)
            .foreign_keys(true);
        let pool = SqlitePoolOptions::new()
            .max_connections(1)
            .acquire_timeout(BUSY_TIMEOUT)
            // On a full disk SQLite may end a transaction by itself. sqlx does not notice, and
            // would never again begin one on that connection.
            .before_acquire(|connection, _| {
                let usable = !connection.is_in_transaction();
                Box::pin(std::future::ready(Ok(usable)))
            })
            .connect_with(options.clone())
            .await?;
        let migrator = sqlx::migrate!("src/store/migrations");
        migrator.run(&pool).await.map_err(|error| unmigrated(&migrator, error))?;
        // A database in memory is its connection's own.
        let readers = if path == Path::new(IN_MEMORY) {
            pool.clone()
        } else {
            SqlitePoolOptions::new()
                .max_connections(READERS_MAX)
                .acquire_timeout(BUSY_TIMEOUT)
                .connect_lazy_with(options.read_only(true))
        };
        Ok(Self { pool, readers })
    }

    /// Whether there is a database already.
    pub fn exists(url: &str) -> bool {
        file_of(url).is_some_and(Path::exists)
    }

    /// Everything that was seen, to begin with.
    ///
    /// # Errors
    /// What the database says.
    pub async fn sightings(&self) -> Result<Vec<Sighting>, StoreError> {
        let rows = sqlx::query("SELECT target_id, host, class FROM sightings")
            .fetch_all(&self.pool)
            .await?;
        let mut sightings = Vec::with_capacity(rows.len());
        for row in rows {
            let class: String = row.try_get("class")?;
            sightings.push(Sighting {
                target_id: row.try_get("target_id")?,
                host: row.try_get("host")?,
                class: if class == "global" { Class::Global } else { Class::Private },
            });
        }
        Ok(sightings)
    }

    /// Keeps what names lead to now (`seen_at` in Unix seconds): all of them or none. Durable when
    /// it returns.
    ///
    /// # Errors
    /// What the database says.
    pub async fn remember(&self, sightings: &[Sighting], seen_at: i64) -> Result<(), StoreError> {
        let mut transaction = self.pool.begin_with("BEGIN IMMEDIATE").await?;
        for sighting in sightings {
            sqlx::query(
                "INSERT INTO sightings (target_id, host, class, seen_at) VALUES (?1, ?2, ?3, ?4)
                 ON CONFLICT (target_id, host) DO UPDATE SET class = ?3, seen_at = ?4",
            )
            .bind(&sighting.target_id)
            .bind(&sighting.host)
            .bind(sighting.class.to_string())
            .bind(seen_at)
            .execute(&mut *transaction)
            .await?;
        }
        transaction.commit().await?;
        Ok(())
    }

    /// Whether the database takes a write, for readiness: a full disk shows in no other way.
    ///
    /// # Errors
    /// What the database says.
    pub async fn probe(&self) -> Result<(), StoreError> {
        sqlx::query("UPDATE probes SET writes = writes + 1 WHERE one = 1")
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    /// Ends all use and folds the write-ahead log into the database.
    pub async fn close(&self) {
        self.readers.close().await;
        self.pool.close().await;
    }
}

/// Why the schema could not be brought forward.
fn unmigrated(migrator: &Migrator, error: MigrateError) -> StoreError {
    if let MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) = error {
        return error.into();
    }
    if let MigrateError::VersionMissing(found) = error {
        let known = migrator.iter().map(|migration| migration.version).max();
        return StoreError::Newer { found, known: known.unwrap_or_default() };
    }
    StoreError::Schema(error)
}

/// The last time (Unix milliseconds) that is too old at `now`.
fn before(now: i64, age: Duration) -> i64 {
    now.saturating_sub(i64::try_from(age.as_millis()).unwrap_or(i64::MAX))
}

/// The file of a SQLite URL.
fn file_of(url: &str) -> Option<&Path> {
    let path = url.strip_prefix("sqlite:")?;
    Some(Path::new(path.strip_prefix("//").unwrap_or(path)))
}

#[cfg(test)]
mod tests;
