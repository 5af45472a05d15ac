//! Sealed credentials of the targets of the admin API.

use sqlx::{Row as _, Sqlite, Transaction, sqlite::SqliteRow};

use super::{
    Expect, PutError, Store, StoreError,
    targets::{current_version, next_version},
};
use crate::seal::Sealed;

/// Expired secrets that are deleted in one transaction.
const SWEEP_ROWS: i64 = 1_000;

/// Which credential of a target. The word is what [`crate::seal`] binds the secret to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Field {
    /// The secret that deliveries are signed with.
    SigningSecret,
    /// The one before it, while receivers change over.
    SigningSecretPrevious,
}

impl Field {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::SigningSecret, Self::SigningSecretPrevious];

    /// The word in the database and in what is sealed.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::SigningSecret => "signing_secret",
            Self::SigningSecretPrevious => "signing_secret_previous",
        }
    }
}

/// A credential of a target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredCredential {
    /// Which one.
    pub field: Field,
    /// The secret.
    pub sealed: Sealed,
    /// When it was saved: Unix milliseconds. Sealing it anew does not change this.
    pub saved_at: i64,
    /// Until when a previous secret counts: Unix milliseconds.
    pub expires_at: Option<i64>,
}

/// What to delete of a target's credentials.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// All of them.
    All,
    /// The previous secret: the rotation has ended.
    Previous,
}

/// Credentials that take the place of all that a target had.
#[derive(Clone, Debug)]
pub struct NewCredentials {
    /// Sealed for [`Field::SigningSecret`].
    pub current: Sealed,
    /// Sealed for [`Field::SigningSecretPrevious`], and until when it counts (Unix milliseconds);
    /// without an end, until it is deleted.
    pub previous: Option<(Sealed, Option<i64>)>,
}

impl Store {
    /// Saves the secrets of a target in the place of those it had (`now` in Unix milliseconds).
    /// Tells the target's new version. Durable when it returns.
    ///
    /// # Errors
    /// [`PutError::Missing`], [`PutError::Changed`], or what the database says.
    pub async fn put_credential(
        &self,
        id: &str,
        credentials: &NewCredentials,
        expect: Expect,
        now: i64,
    ) -> Result<i64, PutError> {
        let mut transaction = self.pool.begin_with("BEGIN IMMEDIATE").await?;
        existing_version(&mut transaction, id, expect).await?;
        replace(&mut transaction, id, credentials, now).await?;
        let version = bump(&mut transaction, id, now).await?;
        transaction.commit().await?;
        Ok(version)
    }

    /// Deletes credentials of a target and tells its version: a new one, where there was anything
    /// to delete. Durable when it returns.
    ///
    /// # Errors
    /// [`PutError::Missing`], [`PutError::Changed`], or what the database says.
    pub async fn delete_credential(
        &self,
        id: &str,
        which: Which,
        expect: Expect,
        now: i64,
    ) -> Result<i64, PutError> {
        let mut transaction = self.pool.begin_with("BEGIN IMMEDIATE").await?;
        let version = existing_version(&mut transaction, id, expect).await?;
        let only = match which {
            Which::All => None,
            Which::Previous => Some(Field::SigningSecretPrevious.as_str()),
        };
        let statement =
            "DELETE FROM credentials WHERE target_id = ?1 AND (?2 IS NULL OR field = ?2)";
        let done = sqlx::query(statement).bind(id).bind(only).execute(&mut *transaction).await?;
        if done.rows_affected() == 0 {
            transaction.rollback().await?;
            return Ok(version);
        }
        let version = bump(&mut transaction, id, now).await?;
        transaction.commit().await?;
        Ok(version)
    }

    /// Deletes some previous secrets that count no longer at `now` (Unix milliseconds), and tells
    /// whose they were; there may be more until it tells of none. Versions stay: nobody changed
    /// anything.
    ///
    /// # Errors
    /// What the database says.
    pub async fn sweep_credentials(&self, now: i64) -> Result<Vec<String>, StoreError> {
        let statement = "DELETE FROM credentials WHERE rowid IN
             (SELECT rowid FROM credentials WHERE expires_at <= ?1 LIMIT ?2) RETURNING target_id";
        let ids = sqlx::query_scalar(statement).bind(now).bind(SWEEP_ROWS);
        Ok(ids.fetch_all(&self.pool).await?)
    }
}

/// Puts credentials in the place of all that a target has.
pub(super) async fn replace(
    transaction: &mut Transaction<'_, Sqlite>,
    id: &str,
    credentials: &NewCredentials,
    now: i64,
) -> Result<(), sqlx::Error> {
    sqlx::query("DELETE FROM credentials WHERE target_id = ?1")
        .bind(id)
        .execute(&mut **transaction)
        .await?;
    let previous = credentials.previous.as_ref();
    let rows = [
        Some((Field::SigningSecret, &credentials.current, None)),
        previous.map(|(sealed, until)| (Field::SigningSecretPrevious, sealed, *until)),
    ];
    for (field, sealed, expires_at) in rows.into_iter().flatten() {
        sqlx::query(
            "INSERT INTO credentials
             (target_id, field, key_id, nonce, sealed, saved_at, expires_at)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        )
        .bind(id)
        .bind(field.as_str())
        .bind(&sealed.key_id)
        .bind(sealed.nonce.as_slice())
        .bind(&sealed.bytes)
        .bind(now)
        .bind(expires_at)
        .execute(&mut **transaction)
        .await?;
    }
    Ok(())
}

async fn existing_version(
    transaction: &mut Transaction<'_, Sqlite>,
    id: &str,
    expect: Expect,
) -> Result<i64, PutError> {
    current_version(transaction, id, expect).await?.ok_or(PutError::Missing)
}

/// Gives a target that is there a new version.
async fn bump(
    transaction: &mut Transaction<'_, Sqlite>,
    id: &str,
    now: i64,
) -> Result<i64, PutError> {
    let version = next_version(transaction).await?;
    sqlx::query("UPDATE targets SET version = ?2, updated_at = ?3 WHERE id = ?1")
        .bind(id)
        .bind(version)
        .bind(now)
        .execute(&mut **transaction)
        .await?;
    Ok(version)
}

/// Reads a row of the table.
pub(super) fn credential(row: &SqliteRow) -> Result<StoredCredential, StoreError> {
    Ok(StoredCredential {
        field: field(row)?,
        sealed: sealed(row)?,
        saved_at: row.try_get("saved_at")?,
        expires_at: row.try_get("expires_at")?,
    })
}

/// Which credential a row is.
pub(super) fn field(row: &SqliteRow) -> Result<Field, StoreError> {
    let word: &str = row.try_get("field")?;
    let field = Field::ALL.into_iter().find(|field| field.as_str() == word);
    field.ok_or(StoreError::Value("credentials.field"))
}

/// What a row has sealed.
pub(super) fn sealed(row: &SqliteRow) -> Result<Sealed, StoreError> {
    let nonce: &[u8] = row.try_get("nonce")?;
    Ok(Sealed {
        key_id: row.try_get("key_id")?,
        nonce: nonce.try_into().map_err(|_| StoreError::Value("credentials.nonce"))?,
        bytes: row.try_get("sealed")?,
    })
}

#[cfg(test)]
mod tests {
    use super::{
        super::tests::{Place, keys},
        *,
    };
    use crate::secret::Secret;

    fn seal(field: Field, text: &str) -> Sealed {
        let secret = Secret::new(text.as_bytes().to_vec());
        keys(1, &[]).current.seal("a", field.as_str(), &secret).unwrap()
    }

    /// The former one counts until 9.
    fn new(current: &Sealed, previous: Option<&Sealed>) -> NewCredentials {
        let previous = previous.map(|sealed| (sealed.clone(), Some(9)));
        NewCredentials { current: current.clone(), previous }
    }

    async fn kept(store: &Store) -> (i64, Vec<StoredCredential>) {
        let target = store.target("a").await.unwrap().unwrap();
        assert_eq!(store.targets().await.unwrap(), std::slice::from_ref(&target));
        (target.version, target.credentials)
    }

    #[tokio::test]
    async fn credentials_are_kept_sealed_and_replaced_together() {
        let place = Place::new();
        let store = place.store().await;
        let first = seal(Field::SigningSecret, "0123456789abcdef");
        let missing = store.put_credential("a", &new(&first, None), Expect::Any, 1).await;
        assert!(matches!(missing, Err(PutError::Missing)));
        let made = store.put_target("a", "{}", None, Expect::Any, 1).await.unwrap();
        let saved = store.put_credential("a", &new(&first, None), Expect::Version(made), 2).await;
        let saved = saved.unwrap();
        let only = |field, sealed: &Sealed, saved_at, expires_at| StoredCredential {
            field,
            sealed: sealed.clone(),
            saved_at,
            expires_at,
        };
        let current = only(Field::SigningSecret, &first, 2, None);
        assert_eq!(kept(&store).await, (saved, vec![current.clone()]));

        let second = seal(Field::SigningSecret, "fedcba9876543210");
        let previous = seal(Field::SigningSecretPrevious, "0123456789abcdef");
        let stale = Expect::Version(made);
        let error = store.put_credential("a", &new(&second, None), stale, 3).await.unwrap_err();
        assert!(matches!(error, PutError::Changed { current } if current == Some(saved)));
        assert_eq!(kept(&store).await, (saved, vec![current]));
        let rotated = store
            .put_credential("a", &new(&second, Some(&previous)), Expect::Any, 3)
            .await
            .unwrap();
        let both = vec![
            only(Field::SigningSecret, &second, 3, None),
            only(Field::SigningSecretPrevious, &previous, 3, Some(9)),
        ];
        assert_eq!(kept(&store).await, (rotated, both.clone()));
        // A new document leaves them as they are.
        let put = store.put_target("a", "{1}", None, Expect::Version(rotated), 4).await.unwrap();
        assert_eq!(kept(&store).await, (put, both));
        let cut = store.put_credential("a", &new(&second, None), Expect::Any, 5).await.unwrap();
        assert_eq!(kept(&store).await, (cut, vec![only(Field::SigningSecret, &second, 5, None)]));
        for file in [place.file(), place.file().with_extension("db-wal")] {
            let bytes = std::fs::read(file).unwrap();
            assert!(!bytes.windows(16).any(|window| window == b"0123456789abcdef"));
        }
    }

    #[tokio::test]
    async fn credentials_go_when_told_and_with_their_target() {
        let place = Place::new();
        let store = place.store().await;
        let current = seal(Field::SigningSecret, "x");
        let previous = seal(Field::SigningSecretPrevious, "y");
        let delete = async |which, expect| store.delete_credential("a", which, expect, 3).await;
        assert!(matches!(delete(Which::All, Expect::Any).await, Err(PutError::Missing)));
        store.put_target("a", "{}", None, Expect::Any, 1).await.unwrap();
        let put = async || {
            store
                .put_credential("a", &new(&current, Some(&previous)), Expect::Any, 2)
                .await
                .unwrap()
        };
        let saved = put().await;
        let stale = delete(Which::All, Expect::Version(saved - 1)).await;
        assert!(matches!(stale, Err(PutError::Changed { current }) if current == Some(saved)));
        let ended = delete(Which::Previous, Expect::Version(saved)).await.unwrap();
        let (version, left) = kept(&store).await;
        assert!(version == ended && ended > saved);
        assert_eq!(left.iter().map(|one| one.field).collect::<Vec<_>>(), [Field::SigningSecret]);
        // Nothing to delete: nothing changed.
        assert_eq!(delete(Which::Previous, Expect::Any).await.unwrap(), ended);
        put().await;
        let gone = delete(Which::All, Expect::Any).await.unwrap();
        assert_eq!(kept(&store).await, (gone, vec![]));
        put().await;
        store.delete_target("a", Expect::Any).await.unwrap();
        store.put_target("a", "{}", None, Expect::Absent, 5).await.unwrap();
        assert_eq!(kept(&store).await.1, []);
    }

    #[tokio::test]
    async fn a_previous_secret_goes_when_its_time_is_over() {
        let place = Place::new();
        let store = place.store().await;
        store.put_target("a", "{}", None, Expect::Any, 1).await.unwrap();
        let current = seal(Field::SigningSecret, "x");
        let previous = seal(Field::SigningSecretPrevious, "y");
        let saved =
            store.put_credential("a", &new(&current, Some(&previous)), Expect::Any, 2).await;
        assert_eq!(store.sweep_credentials(8).await.unwrap(), [""; 0]);
        assert_eq!(kept(&store).await.1.len(), 2);
        assert_eq!(store.sweep_credentials(9).await.unwrap(), ["a"]);
        let (version, left) = kept(&store).await;
        assert_eq!((version, left.len()), (saved.unwrap(), 1));
        assert_eq!(left[0].field, Field::SigningSecret);
        assert_eq!(store.sweep_credentials(i64::MAX).await.unwrap(), [""; 0]);
    }
}
