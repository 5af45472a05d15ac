//! Attempts at deliveries, and what idempotency keys stand for.

use std::time::Duration;

use sqlx::{Row as _, Sqlite, Transaction, sqlite::SqliteRow};

use super::{Store, StoreError, before};

/// How long a key is remembered (contract, section 9).
pub const KEY_AGE_MAX: Duration = Duration::from_hours(24);

/// How long an attempt is kept: long enough to look into a complaint of the month before.
pub const ATTEMPT_AGE_MAX: Duration = Duration::from_hours(30 * 24);

/// Most keys that are remembered, the newest; about 300 bytes each. Twelve deliveries a second,
/// all day.
pub const KEY_ROWS_MAX: i64 = 1_000_000;

/// Most attempts that are kept, the newest; about 500 bytes each with their indexes.
pub const ATTEMPT_ROWS_MAX: i64 = 500_000;

/// Rows that are deleted in one transaction, so that deliveries never wait long for a sweep.
const SWEEP_ROWS: i64 = 5_000;

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WebhookStatus {
    /// The receiver answered 2xx.
    Delivered,
    /// The receiver answered otherwise, or not at all.
    Failed,
    /// The gateway did not let it pass.
    Blocked,
}

impl WebhookStatus {
    /// The word of records.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::Failed => "failed",
            Self::Blocked => "blocked",
        }
    }

    fn parse(word: &str) -> Self {
        match word {
            "delivered" => Self::Delivered,
            "blocked" => Self::Blocked,
            _ => Self::Failed,
        }
    }
}

/// One attempt at a delivery (contract, section 9). Holds neither body nor secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// A ULID; the `decision_id` of the request's event.
    pub webhook_attempt_id: String,
    /// A ULID, the same for every attempt with one idempotency key.
    pub delivery_id: String,
    /// The target.
    pub target_id: String,
    /// The event, where the request came far enough to name one.
    pub event_type: Option<String>,
    /// How it ended.
    pub webhook_status: WebhookStatus,
    /// The key, where the request came far enough to have one.
    pub idempotency_key: Option<String>,
    /// SHA-256 of the body, lower-case hex.
    pub payload_hash: Option<String>,
    /// The request's method.
    pub method: String,
    /// SHA-256 of the URL, lower-case hex.
    pub url_hash: Option<String>,
    /// What the receiver answered.
    pub receiver_status_code: Option<u16>,
    /// The public code, unless it was delivered.
    pub code: Option<String>,
    /// The finer word.
    pub cause: Option<String>,
    /// From the request's head to the head of its answer, in milliseconds.
    pub duration_ms: u64,
    /// When it ended: Unix milliseconds.
    pub last_attempt_at: i64,
    /// The receiver's `Retry-After`, else the gateway's own back-off.
    pub retry_after_seconds: Option<u64>,
}

/// What an idempotency key of a target stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownKey {
    /// The delivery.
    pub delivery_id: String,
    /// SHA-256 over method, URL and body hash, lower-case hex.
    pub fingerprint: String,
    /// The receiver's 2xx; `None` when no attempt was answered with one.
    pub receiver_status: Option<u16>,
}

impl Store {
    /// Keeps attempts, and with each what its key stands for, where the receiver may have seen it:
    /// all of them or none. Durable when it returns.
    ///
    /// # Errors
    /// What the database says.
    pub async fn keep_attempts(
        &self,
        attempts: &[(Attempt, Option<KnownKey>)],
    ) -> Result<(), StoreError> {
        let mut transaction = self.pool.begin_with("BEGIN IMMEDIATE").await?;
        for (attempt, known) in attempts {
            insert_attempt(&mut transaction, attempt).await?;
            if let (Some(known), Some(key)) = (known, &attempt.idempotency_key) {
                upsert_key(&mut transaction, attempt, key, known).await?;
            }
        }
        transaction.commit().await?;
        Ok(())
    }

    /// What a key of a target stands for at `now` (Unix milliseconds), unless that is too old.
    ///
    /// # Errors
    /// What the database says.
    pub async fn known_key(
        &self,
        target_id: &str,
        key: &str,
        now: i64,
    ) -> Result<Option<KnownKey>, StoreError> {
        let row = sqlx::query(
            "SELECT delivery_id, fingerprint, receiver_status FROM idempotency
             WHERE target_id = ?1 AND idempotency_key = ?2 AND attempted_at > ?3",
        )
        .bind(target_id)
        .bind(key)
        .bind(before(now, KEY_AGE_MAX))
        .fetch_optional(&self.readers)
        .await?;
        let Some(row) = row else { return Ok(None) };
        Ok(Some(KnownKey {
            delivery_id: row.try_get("delivery_id")?,
            fingerprint: row.try_get("fingerprint")?,
            receiver_status: small(&row, "receiver_status")?,
        }))
    }

    /// The newest attempts at deliveries to a target.
    ///
    /// # Errors
    /// What the database says.
    pub async fn attempts(&self, target_id: &str, limit: u32) -> Result<Vec<Attempt>, StoreError> {
        let statement = "SELECT * FROM deliveries WHERE target_id = ?1 ORDER BY seq DESC LIMIT ?2";
        let rows = sqlx::query(statement).bind(target_id).bind(limit);
        let rows = rows.fetch_all(&self.readers).await?;
        rows.iter().map(attempt).collect()
    }

    /// The newest of the attempts before one, by its `webhook_attempt_id`. None, where that one is
    /// no longer kept: those before it went first.
    ///
    /// # Errors
    /// What the database says.
    pub async fn attempts_before(
        &self,
        target_id: &str,
        before: &str,
        limit: u32,
    ) -> Result<Vec<Attempt>, StoreError> {
        let statement = "SELECT * FROM deliveries WHERE target_id = ?1 AND seq <
             (SELECT seq FROM deliveries WHERE webhook_attempt_id = ?3)
             ORDER BY seq DESC LIMIT ?2";
        let rows = sqlx::query(statement).bind(target_id).bind(limit).bind(before);
        let rows = rows.fetch_all(&self.readers).await?;
        rows.iter().map(attempt).collect()
    }

    /// Deletes some of what is too old at `now` (Unix milliseconds) or too much. Whether there may
    /// be more of it.
    ///
    /// # Errors
    /// What the database says.
    pub async fn sweep_deliveries(&self, now: i64) -> Result<bool, StoreError> {
        self.sweep(now, KEY_ROWS_MAX, ATTEMPT_ROWS_MAX).await
    }

    async fn sweep(&self, now: i64, keys_max: i64, attempts_max: i64) -> Result<bool, StoreError> {
        let statements = [
            (
                "DELETE FROM idempotency WHERE rowid IN
                 (SELECT rowid FROM idempotency WHERE attempted_at <= ?1 LIMIT ?2)",
                before(now, KEY_AGE_MAX),
            ),
            (
                "DELETE FROM idempotency WHERE rowid IN
                 (SELECT rowid FROM idempotency ORDER BY attempted_at DESC LIMIT ?2 OFFSET ?1)",
                keys_max,
            ),
            (
                "DELETE FROM deliveries WHERE seq IN
                 (SELECT seq FROM deliveries WHERE last_attempt_at <= ?1 LIMIT ?2)",
                before(now, ATTEMPT_AGE_MAX),
            ),
            (
                "DELETE FROM deliveries WHERE seq IN
                 (SELECT seq FROM deliveries ORDER BY seq DESC LIMIT ?2 OFFSET ?1)",
                attempts_max,
            ),
        ];
        let mut more = false;
        for (statement, bound) in statements {
            let done =
                sqlx::query(statement).bind(bound).bind(SWEEP_ROWS).execute(&self.pool).await?;
            more |= i64::try_from(done.rows_affected()).is_ok_and(|rows| rows >= SWEEP_ROWS);
        }
        Ok(more)
    }
}

async fn insert_attempt(
    transaction: &mut Transaction<'_, Sqlite>,
    attempt: &Attempt,
) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO deliveries (webhook_attempt_id, delivery_id, target_id, event_type,
         webhook_status, idempotency_key, payload_hash, method, url_hash, receiver_status_code,
         code, cause, duration_ms, last_attempt_at, retry_after_seconds)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15)",
    )
    .bind(&attempt.webhook_attempt_id)
    .bind(&attempt.delivery_id)
    .bind(&attempt.target_id)
    .bind(&attempt.event_type)
    .bind(attempt.webhook_status.as_str())
    .bind(&attempt.idempotency_key)
    .bind(&attempt.payload_hash)
    .bind(&attempt.method)
    .bind(&attempt.url_hash)
    .bind(attempt.receiver_status_code)
    .bind(&attempt.code)
    .bind(&attempt.cause)
    .bind(i64::try_from(attempt.duration_ms).unwrap_or(i64::MAX))
    .bind(attempt.last_attempt_at)
    .bind(attempt.retry_after_seconds.map(|wait| i64::try_from(wait).unwrap_or(i64::MAX)))
    .execute(&mut **transaction)
    .await?;
    Ok(())
}

/// A failed attempt never takes the place of a delivery that is still remembered.
async fn upsert_key(
    transaction: &mut Transaction<'_, Sqlite>,
    attempt: &Attempt,
    key: &str,
    known: &KnownKey,
) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO idempotency (target_id, idempotency_key, delivery_id, fingerprint,
         receiver_status, attempted_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
         ON CONFLICT (target_id, idempotency_key) DO UPDATE SET delivery_id = ?3, fingerprint = ?4,
         receiver_status = ?5, attempted_at = ?6
         WHERE ?5 IS NOT NULL OR receiver_status IS NULL OR attempted_at <= ?7",
    )
    .bind(&attempt.target_id)
    .bind(key)
    .bind(&known.delivery_id)
    .bind(&known.fingerprint)
    .bind(known.receiver_status)
    .bind(attempt.last_attempt_at)
    .bind(before(attempt.last_attempt_at, KEY_AGE_MAX))
    .execute(&mut **transaction)
    .await?;
    Ok(())
}

fn attempt(row: &SqliteRow) -> Result<Attempt, StoreError> {
    let number = |column: &str| -> Result<Option<u64>, StoreError> {
        let number: Option<i64> = row.try_get(column)?;
        Ok(number.and_then(|number| u64::try_from(number).ok()))
    };
    let status: String = row.try_get("webhook_status")?;
    Ok(Attempt {
        webhook_attempt_id: row.try_get("webhook_attempt_id")?,
        delivery_id: row.try_get("delivery_id")?,
        target_id: row.try_get("target_id")?,
        event_type: row.try_get("event_type")?,
        webhook_status: WebhookStatus::parse(&status),
        idempotency_key: row.try_get("idempotency_key")?,
        payload_hash: row.try_get("payload_hash")?,
        method: row.try_get("method")?,
        url_hash: row.try_get("url_hash")?,
        receiver_status_code: small(row, "receiver_status_code")?,
        code: row.try_get("code")?,
        cause: row.try_get("cause")?,
        duration_ms: number("duration_ms")?.unwrap_or_default(),
        last_attempt_at: row.try_get("last_attempt_at")?,
        retry_after_seconds: number("retry_after_seconds")?,
    })
}

fn small(row: &SqliteRow, column: &str) -> Result<Option<u16>, StoreError> {
    let number: Option<i64> = row.try_get(column)?;
    Ok(number.and_then(|number| u16::try_from(number).ok()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: i64 = 24 * 60 * 60 * 1000;

    async fn store(folder: &tempfile::TempDir) -> Store {
        Store::open(&format!("sqlite:{}/gateway.db", folder.path().display())).await.unwrap()
    }

    fn made(id: &str, key: &str, at: i64) -> Attempt {
        Attempt {
            webhook_attempt_id: id.into(),
            delivery_id: format!("delivery of {key}"),
            target_id: "hook".into(),
            event_type: Some("e".into()),
            webhook_status: WebhookStatus::Delivered,
            idempotency_key: Some(key.into()),
            payload_hash: Some("00".into()),
            method: "POST".into(),
            url_hash: Some("11".into()),
            receiver_status_code: Some(202),
            code: None,
            cause: None,
            duration_ms: 7,
            last_attempt_at: at,
            retry_after_seconds: Some(3),
        }
    }

    fn known(key: &str, receiver_status: Option<u16>) -> KnownKey {
        KnownKey {
            delivery_id: format!("delivery of {key}"),
            fingerprint: "22".into(),
            receiver_status,
        }
    }

    #[tokio::test]
    async fn a_key_is_known_for_a_day_and_an_attempt_is_kept_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(&folder).await;
        let (attempt, entry) = (made("1", "k", 1000), known("k", Some(202)));
        store.keep_attempts(&[(attempt.clone(), Some(entry.clone()))]).await.unwrap();
        assert_eq!(store.known_key("hook", "k", 1000 + DAY - 1).await.unwrap(), Some(entry));
        assert_eq!(store.known_key("hook", "k", 1000 + DAY).await.unwrap(), None);
        assert_eq!(store.known_key("other", "k", 1000).await.unwrap(), None);
        assert_eq!(store.attempts("hook", 10).await.unwrap(), [attempt]);
        assert_eq!(store.attempts("other", 10).await.unwrap(), []);
    }

    #[tokio::test]
    async fn attempts_come_in_pages_the_newest_first() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(&folder).await;
        for id in ["3", "1", "5", "2", "4"] {
            store.keep_attempts(&[(made(id, id, 1), None)]).await.unwrap();
        }
        let ids = |page: Vec<Attempt>| {
            page.into_iter().map(|one| one.webhook_attempt_id).collect::<Vec<_>>()
        };
        let before = async |id| ids(store.attempts_before("hook", id, 2).await.unwrap());
        assert_eq!(ids(store.attempts("hook", 2).await.unwrap()), ["4", "2"]);
        assert_eq!(before("2").await, ["5", "1"]);
        assert_eq!(before("1").await, ["3"]);
        assert_eq!(before("3").await, [""; 0]);
        assert_eq!(before("unknown").await, [""; 0]);
        assert_eq!(store.attempts_before("other", "4", 9).await.unwrap(), []);
    }

    #[tokio::test]
    async fn a_failure_never_takes_the_place_of_a_delivery_that_is_remembered() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(&folder).await;
        let keep = async |id: &str, at, status| {
            let entry = Some(known("k", status));
            store.keep_attempts(&[(made(id, "k", at), entry)]).await.unwrap();
            store.known_key("hook", "k", at).await.unwrap().unwrap().receiver_status
        };
        assert_eq!(keep("1", 1, None).await, None);
        assert_eq!(keep("2", 2, Some(204)).await, Some(204));
        assert_eq!(keep("3", 3, None).await, Some(204));
        assert_eq!(keep("4", 2 + DAY, None).await, None);
    }

    #[tokio::test]
    async fn all_of_a_batch_is_kept_or_none() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(&folder).await;
        let twice = [(made("1", "a", 1), Some(known("a", Some(200)))), (made("1", "b", 1), None)];
        assert!(store.keep_attempts(&twice).await.is_err());
        assert_eq!(store.known_key("hook", "a", 1).await.unwrap(), None);
        assert_eq!(store.attempts("hook", 10).await.unwrap(), []);
    }

    #[tokio::test]
    async fn what_is_old_or_too_much_goes_and_the_newest_stays() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(&folder).await;
        let batch: Vec<_> = (0..10_u16)
            .map(|n| {
                let key = n.to_string();
                let at = i64::from(n) * DAY;
                (made(&key, &key, at), Some(known(&key, Some(200))))
            })
            .collect();
        store.keep_attempts(&batch).await.unwrap();
        // day 35: attempts of the days 0 to 5 are 30 days old, keys of all but none are a day old
        assert!(!store.sweep(35 * DAY, 100, 3).await.unwrap());
        let left = store.attempts("hook", 100).await.unwrap();
        let ids: Vec<_> = left.iter().map(|one| one.webhook_attempt_id.as_str()).collect();
        assert_eq!(ids, ["9", "8", "7"]);
        assert_eq!(store.known_key("hook", "9", 9 * DAY).await.unwrap(), None);

        store.keep_attempts(&[(made("a", "a", 35 * DAY), Some(known("a", None)))]).await.unwrap();
        store.keep_attempts(&[(made("b", "b", 36 * DAY), Some(known("b", None)))]).await.unwrap();
        store.sweep(36 * DAY - 1, 1, 100).await.unwrap();
        assert_eq!(store.known_key("hook", "a", 36 * DAY - 1).await.unwrap(), None);
        assert!(store.known_key("hook", "b", 36 * DAY).await.unwrap().is_some());
    }
}
