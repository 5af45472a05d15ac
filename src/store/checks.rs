//! What connectivity checks found.

use std::time::Duration;

use sqlx::{Row as _, Sqlite, Transaction, sqlite::SqliteRow};

use super::{Store, StoreError, before};

/// Most checks that are kept of a target, the newest; about 2 kB each.
pub const CHECKS_PER_TARGET_MAX: u32 = 50;

/// How long a check is kept; the newest of a target stays for as long as the target does.
pub const CHECK_AGE_MAX: Duration = Duration::from_hours(30 * 24);

/// Checks that are deleted in one transaction, so that writers never wait long for a sweep.
const SWEEP_ROWS: i64 = 1_000;

/// A check, as it was shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredCheck {
    /// A ULID: later checks have greater ones.
    pub connectivity_check_id: String,
    /// The target, of the configuration or of the API.
    pub target_id: String,
    /// Of what was checked, so that a check of a target that has changed since does not count.
    pub fingerprint: String,
    /// What was found, as JSON.
    pub document: String,
    /// When it ended: Unix milliseconds.
    pub checked_at: i64,
}

impl Store {
    /// Keeps checks, all of them or none, and deletes what is then too much for their targets.
    /// Durable when it returns.
    ///
    /// # Errors
    /// What the database says.
    pub async fn write_checks(&self, checks: &[StoredCheck]) -> Result<(), StoreError> {
        let mut transaction = self.pool.begin_with("BEGIN IMMEDIATE").await?;
        for check in checks {
            insert(&mut transaction, check).await?;
            trim(&mut transaction, &check.target_id).await?;
        }
        transaction.commit().await?;
        Ok(())
    }

    /// The newest check of each target, in the order of the targets' ids.
    ///
    /// # Errors
    /// What the database says.
    pub async fn latest_checks(&self) -> Result<Vec<StoredCheck>, StoreError> {
        let rows = sqlx::query(
            "SELECT checks.* FROM (SELECT target_id, MAX(connectivity_check_id) AS newest
             FROM checks GROUP BY target_id) AS latest
             JOIN checks ON connectivity_check_id = newest ORDER BY latest.target_id",
        )
        .try_map(|row| check(&row))
        .fetch_all(&self.readers)
        .await?;
        Ok(rows)
    }

    /// The newest checks of a target, or the newest of those before one of its checks.
    ///
    /// # Errors
    /// What the database says.
    pub async fn checks_of(
        &self,
        target_id: &str,
        before: Option<&str>,
        limit: u32,
    ) -> Result<Vec<StoredCheck>, StoreError> {
        let rows = sqlx::query(
            "SELECT * FROM checks
             WHERE target_id = ?1 AND (?2 IS NULL OR connectivity_check_id < ?2)
             ORDER BY connectivity_check_id DESC LIMIT ?3",
        )
        .bind(target_id)
        .bind(before)
        .bind(limit)
        .try_map(|row| check(&row))
        .fetch_all(&self.readers)
        .await?;
        Ok(rows)
    }

    /// One check.
    ///
    /// # Errors
    /// What the database says.
    pub async fn check(
        &self,
        connectivity_check_id: &str,
    ) -> Result<Option<StoredCheck>, StoreError> {
        let found = sqlx::query("SELECT * FROM checks WHERE connectivity_check_id = ?1")
            .bind(connectivity_check_id)
            .try_map(|row| check(&row))
            .fetch_optional(&self.readers)
            .await?;
        Ok(found)
    }

    /// Deletes some checks that are too old at `now` (Unix milliseconds). Whether there may be
    /// more of them.
    ///
    /// # Errors
    /// What the database says.
    pub async fn sweep_checks(&self, now: i64) -> Result<bool, StoreError> {
        let done = sqlx::query(
            "DELETE FROM checks WHERE connectivity_check_id IN
             (SELECT connectivity_check_id FROM checks AS old WHERE checked_at <= ?1 AND EXISTS
              (SELECT 1 FROM checks AS newer WHERE newer.target_id = old.target_id
               AND newer.connectivity_check_id > old.connectivity_check_id) LIMIT ?2)",
        )
        .bind(before(now, CHECK_AGE_MAX))
        .bind(SWEEP_ROWS)
        .execute(&self.pool)
        .await?;
        Ok(i64::try_from(done.rows_affected()).is_ok_and(|rows| rows >= SWEEP_ROWS))
    }

    /// Deletes every check of a target that is no more. Durable when it returns.
    ///
    /// # Errors
    /// What the database says.
    pub async fn forget_target(&self, target_id: &str) -> Result<(), StoreError> {
        let statement = "DELETE FROM checks WHERE target_id = ?1";
        sqlx::query(statement).bind(target_id).execute(&self.pool).await?;
        Ok(())
    }
}

async fn insert(
    transaction: &mut Transaction<'_, Sqlite>,
    check: &StoredCheck,
) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO checks (connectivity_check_id, target_id, fingerprint, document, checked_at)
         VALUES (?1, ?2, ?3, ?4, ?5)",
    )
    .bind(&check.connectivity_check_id)
    .bind(&check.target_id)
    .bind(&check.fingerprint)
    .bind(&check.document)
    .bind(check.checked_at)
    .execute(&mut **transaction)
    .await?;
    Ok(())
}

/// Here and not in the sweep: a look at fifty rows of an index, and never at those of all targets.
async fn trim(
    transaction: &mut Transaction<'_, Sqlite>,
    target_id: &str,
) -> Result<(), StoreError> {
    sqlx::query(
        "DELETE FROM checks WHERE target_id = ?1 AND connectivity_check_id <=
         (SELECT connectivity_check_id FROM checks WHERE target_id = ?1
          ORDER BY connectivity_check_id DESC LIMIT 1 OFFSET ?2)",
    )
    .bind(target_id)
    .bind(CHECKS_PER_TARGET_MAX)
    .execute(&mut **transaction)
    .await?;
    Ok(())
}

fn check(row: &SqliteRow) -> Result<StoredCheck, sqlx::Error> {
    Ok(StoredCheck {
        connectivity_check_id: row.try_get("connectivity_check_id")?,
        target_id: row.try_get("target_id")?,
        fingerprint: row.try_get("fingerprint")?,
        document: row.try_get("document")?,
        checked_at: row.try_get("checked_at")?,
    })
}

#[cfg(test)]
mod tests {
    use super::{super::tests::Place, *};

    const DAY: i64 = 24 * 60 * 60 * 1000;

    fn made(target_id: &str, id: u32, checked_at: i64) -> StoredCheck {
        StoredCheck {
            connectivity_check_id: format!("{id:04}"),
            target_id: target_id.into(),
            fingerprint: "f".into(),
            document: format!("{{\"n\":{id}}}"),
            checked_at,
        }
    }

    fn ids(checks: &[StoredCheck]) -> Vec<&str> {
        checks.iter().map(|check| check.connectivity_check_id.as_str()).collect()
    }

    #[tokio::test]
    async fn the_newest_check_of_each_target_is_there_after_opening_again() {
        let place = Place::new();
        let store = place.store().await;
        let newest = [made("a", 5, 50), made("b", 3, 30)];
        let older = [made("b", 1, 10), made("a", 2, 20), made("a", 4, 40)];
        store.write_checks(&older).await.unwrap();
        store.write_checks(&newest).await.unwrap();
        store.close().await;
        let store = place.store().await;
        assert_eq!(store.latest_checks().await.unwrap(), newest);
        assert_eq!(store.check("0004").await.unwrap(), Some(older[2].clone()));
        assert_eq!(store.check("0009").await.unwrap(), None);
    }

    #[tokio::test]
    async fn history_comes_in_pages_the_newest_first() {
        let place = Place::new();
        let store = place.store().await;
        let checks: Vec<_> = (0..6).map(|id| made("a", id, 1)).collect();
        store.write_checks(&checks).await.unwrap();
        store.write_checks(&[made("b", 9, 1)]).await.unwrap();
        let page = async |before| store.checks_of("a", before, 4).await.unwrap();
        assert_eq!(ids(&page(None).await), ["0005", "0004", "0003", "0002"]);
        assert_eq!(ids(&page(Some("0002")).await), ["0001", "0000"]);
        assert_eq!(page(Some("0000")).await, []);
        assert_eq!(store.checks_of("other", None, 4).await.unwrap(), []);
    }

    #[tokio::test]
    async fn all_of_a_batch_is_kept_or_none() {
        let place = Place::new();
        let store = place.store().await;
        let twice = [made("a", 1, 1), made("b", 1, 1)];
        assert!(store.write_checks(&twice).await.is_err());
        assert_eq!(store.latest_checks().await.unwrap(), []);
        store.write_checks(&twice[..1]).await.unwrap();
    }

    #[tokio::test]
    async fn a_target_keeps_its_newest_checks_and_no_more_than_fifty() {
        let place = Place::new();
        let store = place.store().await;
        store.write_checks(&[made("b", 0, 1)]).await.unwrap();
        for id in 1..=CHECKS_PER_TARGET_MAX + 3 {
            store.write_checks(&[made("a", id, 1)]).await.unwrap();
        }
        let kept = store.checks_of("a", None, 1000).await.unwrap();
        let expected: Vec<_> = (4..=53).rev().map(|id| format!("{id:04}")).collect();
        assert_eq!(ids(&kept), expected);
        assert_eq!(store.checks_of("b", None, 1000).await.unwrap().len(), 1);
    }

    #[tokio::test]
    async fn what_is_old_goes_and_the_newest_of_each_target_stays() {
        let place = Place::new();
        let store = place.store().await;
        let checks = [made("a", 1, DAY), made("a", 2, 2 * DAY), made("a", 3, 3 * DAY)];
        store.write_checks(&checks).await.unwrap();
        store.write_checks(&[made("b", 4, 0), made("c", 5, 0), made("c", 6, DAY)]).await.unwrap();
        assert!(!store.sweep_checks(31 * DAY - 1).await.unwrap());
        assert_eq!(store.checks_of("a", None, 9).await.unwrap().len(), 3);
        assert_eq!(ids(&store.checks_of("c", None, 9).await.unwrap()), ["0006"]);
        store.sweep_checks(31 * DAY).await.unwrap();
        assert_eq!(ids(&store.checks_of("a", None, 9).await.unwrap()), ["0003", "0002"]);
        store.sweep_checks(i64::MAX).await.unwrap();
        let latest = store.latest_checks().await.unwrap();
        assert_eq!(ids(&latest), ["0003", "0004", "0006"]);
        assert_eq!(store.checks_of("a", None, 9).await.unwrap().len(), 1);
    }

    #[tokio::test]
    async fn a_sweep_goes_in_steps() {
        let place = Place::new();
        let store = place.store().await;
        // Forty checks of each target: thirty-nine are old.
        let checks: Vec<_> = (0..2_000).map(|id| made(&(id / 40).to_string(), id, 0)).collect();
        store.write_checks(&checks).await.unwrap();
        let targets = 2_000 / 40;
        assert!(store.sweep_checks(i64::MAX).await.unwrap());
        assert!(!store.sweep_checks(i64::MAX).await.unwrap());
        assert!(!store.sweep_checks(i64::MAX).await.unwrap());
        assert_eq!(store.latest_checks().await.unwrap().len(), targets);
    }

    #[tokio::test]
    async fn a_target_that_is_forgotten_has_no_checks() {
        let place = Place::new();
        let store = place.store().await;
        store.write_checks(&[made("a", 1, 1), made("a", 2, 1), made("b", 3, 1)]).await.unwrap();
        store.forget_target("a").await.unwrap();
        assert_eq!(store.latest_checks().await.unwrap(), [made("b", 3, 1)]);
    }
}
