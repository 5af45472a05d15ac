//! Keys of reverse connectors, and the tokens that enrol them.

use sqlx::{Row as _, sqlite::SqliteRow};

use super::{Store, StoreError};

/// How long a token that is of no more use is remembered, in seconds, so that whoever shows it is
/// told why it is refused.
const TOKEN_MEMORY_SECONDS: i64 = 30 * 24 * 3600;

/// A key that was enrolled. All times are Unix seconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connector {
    /// SHA-256 of its public key, `sha256//BASE64`.
    pub spki: String,
    /// The name that tunnels give.
    pub name: String,
    /// When it was enrolled.
    pub enrolled_at: i64,
    /// When it was revoked; from then on it opens nothing.
    pub revoked_at: Option<i64>,
    /// When it was last connected.
    pub last_seen: Option<i64>,
}

/// What became of a token that was shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Enrolled {
    /// The key is enrolled under this name.
    As(String),
    /// There is no such token.
    Unknown,
    /// It was used, or taken back.
    Used,
    /// It was not used in time.
    Expired,
    /// The key was enrolled before, perhaps revoked since: each enrolment needs a new key.
    KeyKnown,
}

impl Store {
    /// Keeps a token's hash until `expires_at`; forgets those of long ago. `now` in Unix seconds,
    /// as everywhere here.
    ///
    /// # Errors
    /// What the database says.
    pub async fn add_connector_token(
        &self,
        hash: &str,
        name: &str,
        expires_at: i64,
        now: i64,
    ) -> Result<(), StoreError> {
        let mut transaction = self.pool.begin_with("BEGIN IMMEDIATE").await?;
        sqlx::query("DELETE FROM connector_tokens WHERE expires_at < ?1")
            .bind(now.saturating_sub(TOKEN_MEMORY_SECONDS))
            .execute(&mut *transaction)
            .await?;
        sqlx::query("INSERT INTO connector_tokens (hash, name, expires_at) VALUES (?1, ?2, ?3)")
            .bind(hash)
            .bind(name)
            .bind(expires_at)
            .execute(&mut *transaction)
            .await?;
        transaction.commit().await?;
        Ok(())
    }

    /// Enrols a key against a token: both or neither, and once.
    ///
    /// # Errors
    /// What the database says.
    pub async fn enrol_connector(
        &self,
        hash: &str,
        spki: &str,
        now: i64,
    ) -> Result<Enrolled, StoreError> {
        // Garbage is answered without a look at the writer.
        let known = sqlx::query("SELECT 1 FROM connector_tokens WHERE hash = ?1");
        if known.bind(hash).fetch_optional(&self.readers).await?.is_none() {
            return Ok(Enrolled::Unknown);
        }
        let mut transaction = self.pool.begin_with("BEGIN IMMEDIATE").await?;
        let token =
            sqlx::query("SELECT name, expires_at, used_at FROM connector_tokens WHERE hash = ?1")
                .bind(hash)
                .fetch_optional(&mut *transaction)
                .await?;
        let Some(token) = token else { return Ok(Enrolled::Unknown) };
        let name: String = token.try_get("name")?;
        if token.try_get::<Option<i64>, _>("used_at")?.is_some() {
            return Ok(Enrolled::Used);
        }
        if token.try_get::<i64, _>("expires_at")? <= now {
            return Ok(Enrolled::Expired);
        }
        let inserted = sqlx::query(
            "INSERT INTO connectors (spki, name, enrolled_at) VALUES (?1, ?2, ?3)
             ON CONFLICT (spki) DO NOTHING",
        )
        .bind(spki)
        .bind(&name)
        .bind(now)
        .execute(&mut *transaction)
        .await?;
        if inserted.rows_affected() == 0 {
            return Ok(Enrolled::KeyKnown);
        }
        sqlx::query("UPDATE connector_tokens SET used_at = ?2 WHERE hash = ?1")
            .bind(hash)
            .bind(now)
            .execute(&mut *transaction)
            .await?;
        transaction.commit().await?;
        Ok(Enrolled::As(name))
    }

    /// The connector with this key.
    ///
    /// # Errors
    /// What the database says.
    pub async fn connector(&self, spki: &str) -> Result<Option<Connector>, StoreError> {
        let row = sqlx::query("SELECT * FROM connectors WHERE spki = ?1")
            .bind(spki)
            .try_map(|row| connector(&row))
            .fetch_optional(&self.readers)
            .await?;
        Ok(row)
    }

    /// All of them, by name and age.
    ///
    /// # Errors
    /// What the database says.
    pub async fn connectors(&self) -> Result<Vec<Connector>, StoreError> {
        let rows = sqlx::query("SELECT * FROM connectors ORDER BY name, enrolled_at, spki")
            .try_map(|row| connector(&row))
            .fetch_all(&self.readers)
            .await?;
        Ok(rows)
    }

    /// Revokes a name's keys, or one of them, and with all of them also its unused tokens. Gives
    /// how many keys were revoked now.
    ///
    /// # Errors
    /// What the database says.
    pub async fn revoke_connectors(
        &self,
        name: &str,
        spki: Option<&str>,
        now: i64,
    ) -> Result<u64, StoreError> {
        let mut transaction = self.pool.begin_with("BEGIN IMMEDIATE").await?;
        let revoked = sqlx::query(
            "UPDATE connectors SET revoked_at = ?3
             WHERE name = ?1 AND revoked_at IS NULL AND (?2 IS NULL OR spki = ?2)",
        )
        .bind(name)
        .bind(spki)
        .bind(now)
        .execute(&mut *transaction)
        .await?;
        if spki.is_none() {
            let tokens = "UPDATE connector_tokens SET used_at = ?2
                          WHERE name = ?1 AND used_at IS NULL";
            sqlx::query(tokens).bind(name).bind(now).execute(&mut *transaction).await?;
        }
        transaction.commit().await?;
        Ok(revoked.rows_affected())
    }

    /// Notes that these keys are connected now.
    ///
    /// # Errors
    /// What the database says.
    pub async fn saw_connectors(&self, spkis: &[String], now: i64) -> Result<(), StoreError> {
        let mut transaction = self.pool.begin_with("BEGIN IMMEDIATE").await?;
        for spki in spkis {
            sqlx::query("UPDATE connectors SET last_seen = ?2 WHERE spki = ?1")
                .bind(spki)
                .bind(now)
                .execute(&mut *transaction)
                .await?;
        }
        transaction.commit().await?;
        Ok(())
    }
}

fn connector(row: &SqliteRow) -> Result<Connector, sqlx::Error> {
    Ok(Connector {
        spki: row.try_get("spki")?,
        name: row.try_get("name")?,
        enrolled_at: row.try_get("enrolled_at")?,
        revoked_at: row.try_get("revoked_at")?,
        last_seen: row.try_get("last_seen")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn store() -> (tempfile::TempDir, Store) {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite:{}/gateway.db", folder.path().display());
        (folder, Store::open(&url).await.unwrap())
    }

    #[tokio::test]
    async fn a_token_enrols_one_key_once_and_in_time() {
        let (_folder, store) = store().await;
        store.add_connector_token("h1", "acme", 100, 10).await.unwrap();
        store.add_connector_token("h2", "acme", 100, 10).await.unwrap();
        assert_eq!(store.enrol_connector("other", "k1", 20).await.unwrap(), Enrolled::Unknown);
        assert_eq!(store.enrol_connector("h1", "k1", 100).await.unwrap(), Enrolled::Expired);
        assert_eq!(store.connector("k1").await.unwrap(), None);
        assert_eq!(
            store.enrol_connector("h1", "k1", 99).await.unwrap(),
            Enrolled::As("acme".into())
        );
        assert_eq!(store.enrol_connector("h1", "k2", 20).await.unwrap(), Enrolled::Used);
        assert_eq!(store.enrol_connector("h2", "k1", 20).await.unwrap(), Enrolled::KeyKnown);
        assert_eq!(store.connectors().await.unwrap().len(), 1);
        assert_eq!(
            store.enrol_connector("h2", "k2", 20).await.unwrap(),
            Enrolled::As("acme".into())
        );
    }

    #[tokio::test]
    async fn a_revoked_name_is_revoked_with_all_its_keys_and_tokens() {
        let (_folder, store) = store().await;
        for (hash, name) in [("h1", "acme"), ("h2", "acme"), ("h3", "other"), ("h4", "acme")] {
            store.add_connector_token(hash, name, 100, 10).await.unwrap();
        }
        for (hash, key) in [("h1", "k1"), ("h2", "k2"), ("h3", "k3")] {
            store.enrol_connector(hash, key, 20).await.unwrap();
        }
        assert_eq!(store.revoke_connectors("acme", Some("k3"), 30).await.unwrap(), 0);
        assert_eq!(store.revoke_connectors("acme", Some("k1"), 30).await.unwrap(), 1);
        assert_eq!(store.revoke_connectors("acme", None, 40).await.unwrap(), 1);
        assert_eq!(store.enrol_connector("h4", "k4", 50).await.unwrap(), Enrolled::Used);
        store.saw_connectors(&["k3".into(), "none".into()], 60).await.unwrap();
        let rows = store.connectors().await.unwrap();
        let shown: Vec<_> =
            rows.iter().map(|row| (row.spki.as_str(), row.revoked_at, row.last_seen)).collect();
        assert_eq!(shown, [("k1", Some(30), None), ("k2", Some(40), None), ("k3", None, Some(60))]);
    }
}
