//! `store rotate-key`, told by the real program.
#![expect(clippy::unwrap_used, clippy::arithmetic_side_effects, reason = "a test may panic")]

use std::{
    path::Path,
    process::{Command, Output},
};

use egress_gateway::{
    seal::{KEY_BYTES, Keys},
    secret::Secret,
    store::{Expect, Field, NewCredentials, Store, StoredTarget},
};

/// A folder with a configuration of this `[store]`, and three keys.
fn folder(store: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let text = format!("[dns]\nservers = [\"127.0.0.1:9\"]\n[store]\n{store}");
    std::fs::write(folder.path().join("gateway.toml"), text).unwrap();
    for (name, byte) in [("one.key", "01"), ("two.key", "02"), ("three.key", "03")] {
        std::fs::write(folder.path().join(name), byte.repeat(KEY_BYTES)).unwrap();
    }
    folder
}

fn keys(current: u8) -> Keys {
    Keys::new(&Secret::new(vec![current; KEY_BYTES]), &[]).unwrap()
}

async fn store(folder: &Path) -> Store {
    Store::open(&format!("sqlite:{}/state/gateway.db", folder.display())).await.unwrap()
}

async fn save(store: &Store, keys: &Keys, id: &str) {
    let secret = Secret::new(b"correct horse battery".to_vec());
    let current = keys.current.seal(id, Field::SigningSecret.as_str(), &secret).unwrap();
    let credentials = NewCredentials { current, previous: None };
    store.put_target(id, "{}", None, Expect::Any, 1).await.unwrap();
    store.put_credential(id, &credentials, Expect::Any, 1).await.unwrap();
}

/// How many credentials a key opens.
fn opened(targets: &[StoredTarget], keys: &Keys) -> usize {
    let all =
        targets.iter().flat_map(|target| target.credentials.iter().map(|one| (&target.id, one)));
    let opens = all.filter(|(id, one)| {
        let secret = keys.open(id, one.field.as_str(), &one.sealed);
        secret.is_ok_and(|secret| secret.expose() == b"correct horse battery")
    });
    opens.count()
}

fn rotate(folder: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_egress-gateway"))
        .args(["store", "rotate-key", "--config", "gateway.toml"])
        .current_dir(folder)
        .env_remove("RUST_BACKTRACE")
        .output()
        .unwrap()
}

/// Exit code, standard output and standard error.
fn told(output: Output) -> (i32, String, String) {
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

const ROTATING: &str = "key = { file = \"two.key\" }\nprevious_keys = [{ file = \"one.key\" }]\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_is_rotated_while_others_write() {
    let folder = folder(ROTATING);
    let store = store(folder.path()).await;
    for id in 0..250 {
        save(&store, &keys(1), &format!("target-{id}")).await;
    }
    let path = folder.path().to_owned();
    let mut rotating = tokio::task::spawn_blocking(move || rotate(&path));
    let (new, mut written) = (keys(2), 0);
    let output = loop {
        let id = format!("new-{written}");
        tokio::select! {
            biased;
            output = &mut rotating => break output.unwrap(),
            () = save(&store, &new, &id) => written += 1,
        }
    };
    let said = format!("250 credentials sealed anew with key {}\n", keys(2).current.key_id());
    assert_eq!(told(output), (0, said, String::new()));
    let targets = store.targets().await.unwrap();
    assert!(written > 0 && targets.len() >= 250 + written, "{written}");
    assert_eq!(opened(&targets, &keys(1)), 0);
    assert!(opened(&targets, &keys(2)) >= 250 + written);
    let (code, said, _) = told(rotate(folder.path()));
    assert_eq!(code, 0);
    assert!(said.starts_with("0 credentials sealed anew"), "{said}");
}

#[tokio::test]
async fn what_no_key_opens_is_named_and_the_exit_code_is_1() {
    let folder = folder(ROTATING);
    let store = store(folder.path()).await;
    save(&store, &keys(1), "known").await;
    save(&store, &keys(3), "unknown").await;
    let (code, out, error) = told(rotate(folder.path()));
    assert_eq!(code, 1);
    assert!(out.starts_with("1 credentials sealed anew"), "{out}");
    assert!(error.contains("signing_secret of target unknown: it is sealed with the key"));
    assert!(error.contains(keys(3).current.key_id()), "{error}");
    assert!(error.contains("store.previous_keys"), "{error}");
    assert!(error.ends_with("1 credentials are left as they were\n"), "{error}");
    assert_eq!(opened(&store.targets().await.unwrap(), &keys(2)), 1);
}

#[test]
fn no_database_is_made_and_a_missing_key_is_wrong_usage() {
    let without_database = folder(ROTATING);
    let (code, _, error) = told(rotate(without_database.path()));
    assert_eq!(code, 1);
    assert!(error.contains("there is no database at state/gateway.db"), "{error}");
    assert!(!without_database.path().join("state").exists());
    for (store, words) in [
        ("", "store.key is not set"),
        ("key = { file = \"four.key\" }\n", "cannot read four.key"),
        ("key = \"0f\"\n", "never a plain value"),
    ] {
        let folder = folder(store);
        let (code, out, error) = told(rotate(folder.path()));
        assert_eq!((code, out.as_str()), (2, ""), "{store}");
        assert!(error.contains(words), "{error}");
    }
}
