//! Tests of the store as a whole: what it says when it cannot do as it should.

use sqlx::Executor as _;

use super::*;
use crate::{
    seal::{KEY_BYTES, Keys},
    secret::Secret,
};

pub(super) struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    pub(super) fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    pub(super) fn file(&self) -> std::path::PathBuf {
        self.folder.path().join("gateway.db")
    }

    pub(super) fn url(&self) -> String {
        format!("sqlite:{}", self.file().display())
    }

    pub(super) async fn store(&self) -> Store {
        Store::open(&self.url()).await.unwrap()
    }
}

pub(super) fn keys(current: u8, previous: &[u8]) -> Keys {
    let key = |byte: u8| Secret::new(vec![byte; KEY_BYTES]);
    Keys::new(&key(current), &previous.iter().map(|byte| key(*byte)).collect::<Vec<_>>()).unwrap()
}

/// That the error says all of this.
fn says(error: &impl std::fmt::Display, words: &[&str]) {
    let said = error.to_string();
    assert!(words.iter().all(|word| said.contains(word)), "{said}");
}

fn store_error(error: PutError) -> StoreError {
    match error {
        PutError::Store(error) => error,
        other @ (PutError::Changed { .. } | PutError::Missing) => panic!("{other}"),
    }
}

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
async fn another_kind_of_url_is_refused() {
    assert!(matches!(Store::open("postgres://x/y").await, Err(StoreError::Url)));
}

#[tokio::test]
async fn a_full_disk_is_told_and_the_store_goes_on_when_there_is_space() {
    let place = Place::new();
    let store = place.store().await;
    store.put_target("before", "{}", None, Expect::Any, 1).await.unwrap();
    let limit = async |pages: u32| {
        let pragma = format!("PRAGMA max_page_count = {pages}");
        store.pool.execute(sqlx::AssertSqlSafe(pragma)).await.unwrap();
    };
    let large = "x".repeat(100_000);
    for _ in 0..3 {
        limit(1).await;
        let error = store.put_target("full", &large, None, Expect::Any, 2).await.unwrap_err();
        let error = store_error(error);
        assert!(matches!(error, StoreError::Full(_)), "{error}");
        says(&error, &["no space left", "free some"]);
    }
    let ids: Vec<_> = store.targets().await.unwrap().into_iter().map(|one| one.id).collect();
    assert_eq!(ids, ["before"]);
    limit(1_000_000).await;
    store.put_target("after", &large, None, Expect::Absent, 3).await.unwrap();
    store.probe().await.unwrap();
}

#[tokio::test]
async fn a_locked_database_is_told() {
    let place = Place::new();
    let (store, other) = (place.store().await, place.store().await);
    store.pool.execute("PRAGMA busy_timeout = 1").await.unwrap();
    let held = other.pool.begin_with("BEGIN IMMEDIATE").await.unwrap();
    let error = store_error(store.put_target("a", "{}", None, Expect::Any, 1).await.unwrap_err());
    assert!(matches!(error, StoreError::Locked(_)), "{error}");
    says(&error, &["locked", "fuser"]);
    assert!(matches!(store.probe().await, Err(StoreError::Locked(_))));
    // Reading goes on meanwhile.
    assert_eq!(store.targets().await.unwrap(), []);
    held.rollback().await.unwrap();
    store.put_target("a", "{}", None, Expect::Absent, 1).await.unwrap();
}

#[tokio::test]
async fn a_folder_that_cannot_be_made_is_named() {
    let place = Place::new();
    std::fs::write(place.file(), "").unwrap();
    let url = format!("{}/deeper/gateway.db", place.url());
    let error = Store::open(&url).await.unwrap_err();
    assert!(matches!(error, StoreError::Folder { .. }), "{error}");
    says(&error, &["gateway.db/deeper", "Not a directory"]);
}

#[tokio::test]
async fn a_database_that_has_to_be_there_is_not_made() {
    let place = Place::new();
    let error = Store::open_existing(&place.url()).await.unwrap_err();
    assert!(matches!(error, StoreError::Missing(_)), "{error}");
    says(&error, &["no database at", "gateway.db", "store.url"]);
    assert!(!place.file().exists());
    place.store().await.close().await;
    Store::open_existing(&place.url()).await.unwrap();
}

#[tokio::test]
async fn a_file_that_cannot_be_opened_is_told() {
    let place = Place::new();
    std::fs::create_dir(place.file()).unwrap();
    let error = Store::open(&place.url()).await.unwrap_err();
    assert!(matches!(error, StoreError::Access(_)), "{error}");
    says(&error, &["cannot be opened for writing", "belong"]);
}

#[tokio::test]
async fn a_database_that_may_only_be_read_is_told() {
    let place = Place::new();
    let store = place.store().await;
    store.pool.execute("PRAGMA query_only = 1").await.unwrap();
    let error = store.probe().await.unwrap_err();
    assert!(matches!(error, StoreError::Access(_)), "{error}");
}

#[tokio::test]
async fn a_file_that_is_no_database_is_refused_and_left_alone() {
    let place = Place::new();
    std::fs::write(place.file(), vec![7; 4096]).unwrap();
    let error = Store::open(&place.url()).await.unwrap_err();
    assert!(matches!(error, StoreError::Damaged(_)), "{error}");
    says(&error, &["damaged", "backup"]);
    assert_eq!(std::fs::read(place.file()).unwrap(), vec![7; 4096]);
}

#[tokio::test]
async fn a_database_with_a_broken_page_is_told() {
    let place = Place::new();
    let store = place.store().await;
    for id in 0..200 {
        store.put_target(&format!("{id}"), &"x".repeat(500), None, Expect::Any, 1).await.unwrap();
    }
    store.close().await;
    let mut bytes = std::fs::read(place.file()).unwrap();
    let length = bytes.len();
    bytes[length - 8 * 4096..].fill(0xff);
    std::fs::write(place.file(), bytes).unwrap();
    let error = place.store().await.targets().await.unwrap_err();
    assert!(matches!(error, StoreError::Damaged(_)), "{error}");
}

#[tokio::test]
async fn a_newer_schema_is_refused_and_the_database_left_alone() {
    let place = Place::new();
    let store = place.store().await;
    let newer = "INSERT INTO _sqlx_migrations VALUES (9999, 'newer', 0, 1, x'00', 0)";
    store.pool.execute(newer).await.unwrap();
    store.close().await;
    let before = std::fs::read(place.file()).unwrap();
    let error = Store::open(&place.url()).await.unwrap_err();
    assert!(matches!(error, StoreError::Newer { found: 9999, .. }), "{error}");
    says(&error, &["newer version", "9999", "backup"]);
    assert_eq!(std::fs::read(place.file()).unwrap(), before);
}

#[tokio::test]
async fn a_schema_that_is_not_ours_is_refused() {
    let place = Place::new();
    let store = place.store().await;
    store.pool.execute("UPDATE _sqlx_migrations SET checksum = x'00'").await.unwrap();
    store.close().await;
    let error = Store::open(&place.url()).await.unwrap_err();
    assert!(matches!(error, StoreError::Schema(_)), "{error}");
}
