//! What survives a restart, in SQLite.

pub mod connectors;
pub mod deliveries;

use std::{path::Path, time::Duration};

use sqlx::{
    Row as _, SqlitePool,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};

use crate::policy::address::Class;

/// How long a statement waits for another process that holds the database's lock.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Connections that only read.
const READERS_MAX: u32 = 4;

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

/// Why the store cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Not a URL of a store that this version has.
    #[error("this version keeps its state in SQLite; write a URL such as sqlite:state/gateway.db")]
    Url,
    /// The folder of the database cannot be made.
    #[error("cannot make the folder of the database: {0}")]
    Folder(#[source] std::io::Error),
    /// The database was written by a newer version, or is damaged.
    #[error("the database does not fit this version: {0}")]
    Schema(#[from] sqlx::migrate::MigrateError),
    /// Anything else that the database says.
    #[error("the database cannot be used: {0}")]
    Database(#[from] sqlx::Error),
}

impl Store {
    /// Opens the database, makes it where it is missing, and brings its schema forward.
    ///
    /// # Errors
    /// What stands in the way; a schema of a newer version is left alone and refused.
    pub async fn open(url: &str) -> Result<Self, StoreError> {
        let path = file_of(url).ok_or(StoreError::Url)?;
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(StoreError::Folder)?;
        }
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
            .connect_with(options.clone())
            .await?;
        sqlx::migrate!("src/store/migrations").run(&pool).await?;
        let readers = SqlitePoolOptions::new()
            .max_connections(READERS_MAX)
            .acquire_timeout(BUSY_TIMEOUT)
            .connect_lazy_with(options.read_only(true));
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

    /// Whether the database answers and can be written, for readiness.
    ///
    /// # Errors
    /// What the database says.
    pub async fn probe(&self) -> Result<(), StoreError> {
        let mut transaction = self.pool.begin_with("BEGIN IMMEDIATE").await?;
        sqlx::query("SELECT 1 FROM sightings LIMIT 1").execute(&mut *transaction).await?;
        transaction.rollback().await?;
        Ok(())
    }

    /// Ends all use and folds the write-ahead log into the database.
    pub async fn close(&self) {
        self.readers.close().await;
        self.pool.close().await;
    }
}

/// The file of a SQLite URL.
fn file_of(url: &str) -> Option<&Path> {
    let path = url.strip_prefix("sqlite:")?;
    Some(Path::new(path.strip_prefix("//").unwrap_or(path)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sighting(class: Class) -> Sighting {
        Sighting { target_id: "acme".into(), host: "jira.acme.example".into(), class }
    }

    #[tokio::test]
    async fn what_was_seen_is_there_after_opening_again() {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite:{}/deep/gateway.db", folder.path().display());
        let store = Store::open(&url).await.unwrap();
        store.remember(&[sighting(Class::Private)], 1).await.unwrap();
        store.remember(&[sighting(Class::Global)], 2).await.unwrap();
        store.probe().await.unwrap();
        store.close().await;
        let again = Store::open(&url).await.unwrap();
        assert_eq!(again.sightings().await.unwrap(), [sighting(Class::Global)]);
    }

    #[tokio::test]
    async fn a_folder_may_have_any_name() {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite:{}/100% odd?mode=ro/gateway.db", folder.path().display());
        assert!(!Store::exists(&url));
        Store::open(&url).await.unwrap().close().await;
        assert!(Store::exists(&url));
        assert!(folder.path().join("100% odd?mode=ro/gateway.db").exists());
    }

    #[tokio::test]
    async fn a_file_that_is_no_database_is_refused_and_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("gateway.db");
        std::fs::write(&path, vec![7; 4096]).unwrap();
        let url = format!("sqlite:{}", path.display());
        assert!(Store::open(&url).await.is_err());
        assert_eq!(std::fs::read(&path).unwrap(), vec![7; 4096]);
    }

    #[tokio::test]
    async fn a_newer_schema_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite:{}/gateway.db", folder.path().display());
        let store = Store::open(&url).await.unwrap();
        sqlx::query("INSERT INTO _sqlx_migrations VALUES (9999, 'newer', 0, 1, x'00', 0)")
            .execute(&store.pool)
            .await
            .unwrap();
        store.close().await;
        assert!(matches!(Store::open(&url).await, Err(StoreError::Schema(_))));
    }

    #[tokio::test]
    async fn another_kind_of_url_is_refused() {
        assert!(matches!(Store::open("postgres://x/y").await, Err(StoreError::Url)));
    }
}
