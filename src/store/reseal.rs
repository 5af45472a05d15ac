//! Seals stored credentials with the current key, after a rotation of keys.

use sqlx::{Row as _, Sqlite, Transaction};

use super::{
    Store, StoreError,
    credentials::{Field, field, sealed},
};
use crate::seal::{Keys, SealError, Sealed};

/// Credentials of one transaction: a few milliseconds, so that a running gateway waits for no more.
const BATCH_ROWS: u32 = 100;

/// What was done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resealed {
    /// Credentials that were sealed anew.
    pub count: u64,
    /// Those that could not be opened. They are as they were.
    pub left: Vec<Left>,
}

/// A credential that could not be sealed anew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Left {
    /// Whose.
    pub target_id: String,
    /// Which one.
    pub field: Field,
    /// Why.
    pub error: SealError,
}

impl Store {
    /// Seals all credentials anew that are not sealed with the current key. Goes in small
    /// transactions; where it ends early, what is done is done, and the next call does the rest.
    /// `progress` is told how many of how many were looked at. Versions stay: the secrets are the
    /// same.
    ///
    /// # Errors
    /// What the database says.
    pub async fn reseal(
        &self,
        keys: &Keys,
        mut progress: impl FnMut(u64, u64),
    ) -> Result<Resealed, StoreError> {
        let statement = "SELECT COUNT(*) FROM credentials WHERE key_id <> ?1";
        let count = sqlx::query_scalar(statement).bind(keys.current.key_id());
        let total: i64 = count.fetch_one(&self.readers).await?;
        let total = u64::try_from(total).unwrap_or_default();
        let (mut resealed, mut seen) = (Resealed::default(), 0_u64);
        let mut last = (String::new(), String::new());
        loop {
            let mut transaction = self.pool.begin_with("BEGIN IMMEDIATE").await?;
            let rows = sqlx::query(
                "SELECT target_id, field, key_id, nonce, sealed FROM credentials
                 WHERE key_id <> ?1 AND (target_id, field) > (?2, ?3)
                 ORDER BY target_id, field LIMIT ?4",
            )
            .bind(keys.current.key_id())
            .bind(&last.0)
            .bind(&last.1)
            .bind(BATCH_ROWS)
            .fetch_all(&mut *transaction)
            .await?;
            let Some(row) = rows.last() else { return Ok(resealed) };
            last = (row.try_get("target_id")?, row.try_get("field")?);
            for row in &rows {
                let (target_id, field): (&str, _) = (row.try_get("target_id")?, field(row)?);
                match sealed_anew(keys, target_id, field, &sealed(row)?) {
                    Ok(sealed) => {
                        replace(&mut transaction, target_id, field, &sealed).await?;
                        resealed.count = resealed.count.saturating_add(1);
                    }
                    Err(error) => {
                        resealed.left.push(Left { target_id: target_id.to_owned(), field, error });
                    }
                }
                seen = seen.saturating_add(1);
            }
            transaction.commit().await?;
            progress(seen, total.max(seen));
        }
    }
}

fn sealed_anew(
    keys: &Keys,
    target_id: &str,
    field: Field,
    sealed: &Sealed,
) -> Result<Sealed, SealError> {
    let secret = keys.open(target_id, field.as_str(), sealed)?;
    keys.current.seal(target_id, field.as_str(), &secret)
}

async fn replace(
    transaction: &mut Transaction<'_, Sqlite>,
    target_id: &str,
    field: Field,
    sealed: &Sealed,
) -> Result<(), StoreError> {
    sqlx::query(
        "UPDATE credentials SET key_id = ?3, nonce = ?4, sealed = ?5
         WHERE target_id = ?1 AND field = ?2",
    )
    .bind(target_id)
    .bind(field.as_str())
    .bind(&sealed.key_id)
    .bind(sealed.nonce.as_slice())
    .bind(&sealed.bytes)
    .execute(&mut **transaction)
    .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{
        super::{
            Expect, NewCredentials, Which,
            tests::{Place, keys},
        },
        *,
    };
    use crate::secret::Secret;

    fn secret(id: &str) -> Secret {
        Secret::new(format!("the secret of {id}").into_bytes())
    }

    async fn save(store: &Store, keys: &Keys, id: &str) {
        store.put_target(id, "{}", None, Expect::Any, 1).await.unwrap();
        let seal = |field: Field| keys.current.seal(id, field.as_str(), &secret(id)).unwrap();
        let previous = seal(Field::SigningSecretPrevious);
        let current = seal(Field::SigningSecret);
        store
            .put_credential(
                id,
                &NewCredentials {
                    current: current.clone(),
                    previous: Some((previous.clone(), Some(9))),
                },
                Expect::Any,
                2,
            )
            .await
            .unwrap();
    }

    /// How many credentials these keys open, and how many there are.
    async fn opened(store: &Store, keys: &Keys) -> (usize, usize) {
        let (mut opened, mut all) = (0, 0);
        for target in store.targets().await.unwrap() {
            for one in target.credentials {
                all += 1;
                let result = keys.open(&target.id, one.field.as_str(), &one.sealed);
                assert!(
                    result.as_ref().is_ok_and(|found| *found == secret(&target.id))
                        || result.is_err()
                );
                opened += usize::from(result.is_ok());
            }
        }
        (opened, all)
    }

    #[tokio::test]
    async fn everything_is_sealed_anew_in_batches_and_stays_what_it_was() {
        let place = Place::new();
        let store = place.store().await;
        for index in 0..BATCH_ROWS {
            save(&store, &keys(1, &[]), &format!("target-{index}")).await;
        }
        save(&store, &keys(2, &[]), "new-already").await;
        // One credential only, so that a batch ends between the two of another target.
        save(&store, &keys(1, &[]), "a").await;
        store.delete_credential("a", Which::Previous, Expect::Any, 2).await.unwrap();
        let before = store.targets().await.unwrap();
        let all = usize::try_from(BATCH_ROWS * 2 + 3).unwrap();
        assert_eq!(opened(&store, &keys(2, &[])).await, (2, all));
        let mut told = Vec::new();
        let done = store.reseal(&keys(2, &[3, 1]), |seen, of| told.push((seen, of))).await.unwrap();
        assert_eq!(done, Resealed { count: 201, left: vec![] });
        assert_eq!(told, [(100, 201), (200, 201), (201, 201)]);
        assert_eq!(opened(&store, &keys(2, &[])).await, (all, all));
        let after = store.targets().await.unwrap();
        for (before, after) in before.iter().zip(&after) {
            assert_eq!((before.version, before.updated_at), (after.version, after.updated_at));
            for (before, after) in before.credentials.iter().zip(&after.credentials) {
                assert_eq!(
                    (before.field, before.saved_at, before.expires_at),
                    (after.field, after.saved_at, after.expires_at)
                );
            }
        }
        let again = store.reseal(&keys(2, &[1]), |_, _| panic!("nothing is left")).await.unwrap();
        assert_eq!(again, Resealed::default());
        assert_eq!(store.targets().await.unwrap(), after);
    }

    #[tokio::test]
    async fn what_cannot_be_opened_is_told_and_left_and_the_rest_is_done() {
        let place = Place::new();
        let store = place.store().await;
        save(&store, &keys(9, &[]), "b").await;
        for id in ["a", "c"] {
            save(&store, &keys(1, &[]), id).await;
        }
        let torn = "UPDATE credentials SET sealed = x'00' WHERE target_id = 'c' AND field = ?1";
        let field = Field::SigningSecret;
        sqlx::query(torn).bind(field.as_str()).execute(&store.pool).await.unwrap();
        let done = store.reseal(&keys(2, &[1]), |_, _| ()).await.unwrap();
        let unknown = SealError::UnknownKey { key_id: keys(9, &[]).current.key_id().to_owned() };
        let left = |target_id: &str, field, error: &SealError| Left {
            target_id: target_id.into(),
            field,
            error: error.clone(),
        };
        let expected = [
            left("b", Field::SigningSecret, &unknown),
            left("b", Field::SigningSecretPrevious, &unknown),
            left("c", field, &SealError::Damaged),
        ];
        assert_eq!((done.count, done.left.as_slice()), (3, expected.as_slice()));
        assert_eq!(opened(&store, &keys(2, &[])).await, (3, 6));
        // The key is found again: the rest follows.
        let done = store.reseal(&keys(2, &[1, 9]), |_, _| ()).await.unwrap();
        assert_eq!((done.count, done.left.len()), (2, 1));
    }

    #[tokio::test]
    async fn a_run_that_was_interrupted_goes_on_while_others_write() {
        let place = Place::new();
        let (store, gateway) = (place.store().await, place.store().await);
        for index in 0..BATCH_ROWS {
            save(&store, &keys(1, &[]), &format!("target-{index:03}")).await;
        }
        let both = keys(2, &[1]);
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let mut stop = Some(stop);
        let resealing = store.reseal(&both, |seen, _| {
            assert_eq!(seen, 100);
            stop.take().unwrap().send(()).unwrap();
        });
        tokio::select! {
            biased;
            _ = stopped => {}
            done = resealing => panic!("{done:?}"),
        }
        save(&gateway, &both, "target-000").await;
        let left = store.reseal(&both, |_, _| ()).await.unwrap();
        assert_eq!(left, Resealed { count: 100, left: vec![] });
        assert_eq!(opened(&gateway, &keys(2, &[])).await, (200, 200));
    }
}
