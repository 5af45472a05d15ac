//! Targets of the admin API.

use std::collections::BTreeMap;

use sqlx::{Row as _, Sqlite, SqliteConnection, Transaction, sqlite::SqliteRow};

use super::{
    Store, StoreError,
    credentials::{NewCredentials, StoredCredential, credential, replace},
};

/// A target as the API took it, with its credentials.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredTarget {
    /// Its id.
    pub id: String,
    /// Grows with every change of the target or its credentials, and never comes back for an id.
    pub version: i64,
    /// The target as JSON, without secrets.
    pub document: String,
    /// When it was made: Unix milliseconds.
    pub created_at: i64,
    /// When it or a credential was last changed: Unix milliseconds.
    pub updated_at: i64,
    /// Its credentials, sealed; at most one of each field.
    pub credentials: Vec<StoredCredential>,
}

/// What a writer expects to find, so that two of them do not overwrite each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// Whatever there is.
    Any,
    /// No target of this id.
    Absent,
    /// The target in this version.
    Version(i64),
}

/// Why a change was not made. Nothing is changed then.
#[derive(Debug, thiserror::Error)]
pub enum PutError {
    /// The expectation does not hold: somebody else was quicker.
    #[error("the target has been changed by somebody else; read it again")]
    Changed {
        /// The target's version now, where there is one.
        current: Option<i64>,
    },
    /// There is no such target.
    #[error("there is no such target")]
    Missing,
    /// The store cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<sqlx::Error> for PutError {
    fn from(error: sqlx::Error) -> Self {
        Self::Store(error.into())
    }
}

impl Store {
    /// All targets in the order of their ids, as they were at one moment.
    ///
    /// # Errors
    /// What the database says.
    pub async fn targets(&self) -> Result<Vec<StoredTarget>, StoreError> {
        let mut snapshot = self.readers.begin().await?;
        let mut credentials: BTreeMap<String, Vec<StoredCredential>> = BTreeMap::new();
        let rows = sqlx::query("SELECT * FROM credentials ORDER BY target_id, field")
            .try_map(|row: SqliteRow| Ok((row.try_get("target_id")?, credential(&row))))
            .fetch_all(&mut *snapshot)
            .await?;
        for (target_id, credential) in rows {
            credentials.entry(target_id).or_default().push(credential?);
        }
        let mut targets = sqlx::query("SELECT * FROM targets ORDER BY id")
            .try_map(|row| target(&row))
            .fetch_all(&mut *snapshot)
            .await?;
        snapshot.rollback().await?;
        for target in &mut targets {
            target.credentials = credentials.remove(&target.id).unwrap_or_default();
        }
        Ok(targets)
    }

    /// One target.
    ///
    /// # Errors
    /// What the database says.
    pub async fn target(&self, id: &str) -> Result<Option<StoredTarget>, StoreError> {
        let mut snapshot = self.readers.begin().await?;
        let found = sqlx::query("SELECT * FROM targets WHERE id = ?1")
            .bind(id)
            .try_map(|row| target(&row))
            .fetch_optional(&mut *snapshot)
            .await?;
        let Some(mut found) = found else { return Ok(None) };
        let rows = sqlx::query("SELECT * FROM credentials WHERE target_id = ?1 ORDER BY field")
            .bind(id)
            .fetch_all(&mut *snapshot)
            .await?;
        snapshot.rollback().await?;
        found.credentials = rows.iter().map(credential).collect::<Result<_, _>>()?;
        Ok(Some(found))
    }

    /// Makes or replaces a target (`now` in Unix milliseconds) and tells its new version. Its
    /// credentials stay, unless there are new ones. Durable when it returns.
    ///
    /// # Errors
    /// [`PutError::Changed`], or what the database says.
    pub async fn put_target(
        &self,
        id: &str,
        document: &str,
        credentials: Option<&NewCredentials>,
        expect: Expect,
        now: i64,
    ) -> Result<i64, PutError> {
        let mut transaction = self.pool.begin_with("BEGIN IMMEDIATE").await?;
        current_version(&mut transaction, id, expect).await?;
        let version = next_version(&mut transaction).await?;
        sqlx::query(
            "INSERT INTO targets (id, version, document, created_at, updated_at)
             VALUES (?1, ?2, ?3, ?4, ?4)
             ON CONFLICT (id) DO UPDATE SET version = ?2, document = ?3, updated_at = ?4",
        )
        .bind(id)
        .bind(version)
        .bind(document)
        .bind(now)
        .execute(&mut *transaction)
        .await?;
        if let Some(credentials) = credentials {
            replace(&mut transaction, id, credentials, now).await?;
        }
        transaction.commit().await?;
        Ok(version)
    }

    /// Deletes a target and its credentials. Whether there was one. Durable when it returns.
    ///
    /// # Errors
    /// [`PutError::Changed`], or what the database says.
    pub async fn delete_target(&self, id: &str, expect: Expect) -> Result<bool, PutError> {
        let mut transaction = self.pool.begin_with("BEGIN IMMEDIATE").await?;
        let there = current_version(&mut transaction, id, expect).await?.is_some();
        sqlx::query("DELETE FROM targets WHERE id = ?1")
            .bind(id)
            .execute(&mut *transaction)
            .await?;
        transaction.commit().await?;
        Ok(there)
    }
}

/// The version that a target has now, if that is what the writer expects.
pub(super) async fn current_version(
    transaction: &mut Transaction<'_, Sqlite>,
    id: &str,
    expect: Expect,
) -> Result<Option<i64>, PutError> {
    let current: Option<i64> = sqlx::query_scalar("SELECT version FROM targets WHERE id = ?1")
        .bind(id)
        .fetch_optional(&mut **transaction)
        .await?;
    let holds = match expect {
        Expect::Any => true,
        Expect::Absent => current.is_none(),
        Expect::Version(version) => current == Some(version),
    };
    if holds { Ok(current) } else { Err(PutError::Changed { current }) }
}

/// A version that no target ever had.
pub(super) async fn next_version(connection: &mut SqliteConnection) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar("UPDATE target_versions SET last = last + 1 WHERE one = 1 RETURNING last")
        .fetch_one(connection)
        .await
}

fn target(row: &SqliteRow) -> Result<StoredTarget, sqlx::Error> {
    Ok(StoredTarget {
        id: row.try_get("id")?,
        version: row.try_get("version")?,
        document: row.try_get("document")?,
        created_at: row.try_get("created_at")?,
        updated_at: row.try_get("updated_at")?,
        credentials: Vec::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::{super::tests::Place, *};

    fn changed(result: Result<i64, PutError>) -> Option<i64> {
        match result {
            Err(PutError::Changed { current }) => current,
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn a_target_is_there_as_it_was_put_after_opening_again() {
        let place = Place::new();
        let store = place.store().await;
        let first = store.put_target("acme", "{\"a\":1}", None, Expect::Absent, 5).await.unwrap();
        let second =
            store.put_target("acme", "{\"a\":2}", None, Expect::Version(first), 7).await.unwrap();
        assert!(second > first);
        store.put_target("aaa", "{}", None, Expect::Any, 8).await.unwrap();
        store.close().await;
        let store = place.store().await;
        let expected = StoredTarget {
            id: "acme".into(),
            version: second,
            document: "{\"a\":2}".into(),
            created_at: 5,
            updated_at: 7,
            credentials: Vec::new(),
        };
        assert_eq!(store.target("acme").await.unwrap(), Some(expected.clone()));
        assert_eq!(store.target("other").await.unwrap(), None);
        let all = store.targets().await.unwrap();
        assert_eq!(all.len(), 2);
        assert_eq!((all[0].id.as_str(), &all[1]), ("aaa", &expected));
    }

    #[tokio::test]
    async fn a_change_that_expects_something_else_changes_nothing() {
        let place = Place::new();
        let store = place.store().await;
        let absent = store.put_target("a", "{}", None, Expect::Version(1), 1).await;
        assert_eq!(changed(absent), None);
        let version = store.put_target("a", "1", None, Expect::Absent, 1).await.unwrap();
        for expect in [Expect::Absent, Expect::Version(version + 1), Expect::Version(0)] {
            assert_eq!(changed(store.put_target("a", "2", None, expect, 2).await), Some(version));
            let deleted = store.delete_target("a", expect).await;
            assert!(
                matches!(deleted, Err(PutError::Changed { current }) if current == Some(version))
            );
        }
        let there = store.target("a").await.unwrap().unwrap();
        assert_eq!((there.version, there.document.as_str(), there.updated_at), (version, "1", 1));
    }

    #[tokio::test]
    async fn of_two_writers_with_one_version_one_is_told() {
        let place = Place::new();
        let (one, other) = (place.store().await, place.store().await);
        let version = one.put_target("a", "0", None, Expect::Absent, 1).await.unwrap();
        let expect = Expect::Version(version);
        let results = tokio::join!(
            one.put_target("a", "1", None, expect, 2),
            other.put_target("a", "2", None, expect, 2)
        );
        let (won, document, lost) = match results {
            (Ok(won), lost) => (won, "1", lost),
            (lost, Ok(won)) => (won, "2", lost),
            other => panic!("{other:?}"),
        };
        assert_eq!(changed(lost), Some(won));
        assert_eq!(one.target("a").await.unwrap().unwrap().document, document);
    }

    #[tokio::test]
    async fn a_version_never_comes_back() {
        let place = Place::new();
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..3 {
            let store = place.store().await;
            for _ in 0..3 {
                assert!(
                    seen.insert(store.put_target("a", "{}", None, Expect::Any, 1).await.unwrap())
                );
            }
            assert!(store.delete_target("a", Expect::Any).await.unwrap());
            assert!(!store.delete_target("a", Expect::Any).await.unwrap());
            assert_eq!(store.target("a").await.unwrap(), None);
            store.close().await;
        }
    }
}
