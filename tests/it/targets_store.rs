//! Targets of the admin API and what they are kept in: writers at once, crashes, full and broken
//! disks, reloads and restarts.

use crate::support::{
    api::{assert_problem, etag, self_hosted, warnings, webhook, with},
    disk::Disk,
    eventually,
    gateway::Gateway,
    hook::database,
    http::Conn,
    lab::{self, Lab, PUBLIC, PUBLIC_2},
    receiver::Receiver,
};
use serde_json::{Value, json};
use sqlx::{
    Connection, SqliteConnection,
    sqlite::{SqliteConnectOptions, SqliteLockingMode},
};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};
use tokio::task::JoinSet;

const NO_TARGET: (u16, &str, &str) = (403, "SELF_HOSTED_BASE_URL_UNSAFE", "no_target");

/// Room for the database and some hundred targets.
const DISK_BYTES: u64 = 1024 * 1024;

/// Members by which an entry shows whether it is whole: each says the same number.
fn numbered(number: usize) -> Value {
    let text = number.to_string();
    with(
        self_hosted(&format!("https://acme.example/{number}")),
        &json!({ "labels": { "one": text, "two": text }, "limits": { "max_in_flight": number + 1 } }),
    )
}

/// The number of an entry, all of whose members have to agree.
fn number_of(shown: &Value) -> usize {
    let text = shown["labels"]["one"].as_str().unwrap();
    let number: usize = text.parse().unwrap();
    assert_eq!(shown["labels"]["two"], text, "{shown:#}");
    assert_eq!(shown["base_url"], format!("https://acme.example/{number}"), "{shown:#}");
    assert_eq!(shown["limits"]["max_in_flight"], number + 1, "{shown:#}");
    number
}

async fn acme(lab: &Lab) -> Gateway {
    lab.dns.addresses("acme.example", &[PUBLIC]);
    lab.gateway(&lab.config()).await
}

// === writers at once ===

#[test]
fn of_writers_who_have_seen_the_same_version_one_wins() {
    lab::run(async |lab| {
        let gateway = Arc::new(acme(&lab).await);
        let mut tag: Option<String> = None;
        for round in 0..10 {
            let mut writers = JoinSet::new();
            for writer in 0..8_usize {
                let (gateway, tag) = (Arc::clone(&gateway), tag.clone());
                writers.spawn(async move {
                    let body = numbered(round * 8 + writer);
                    let field = match &tag {
                        Some(tag) => ("If-Match", tag.as_str()),
                        None => ("If-None-Match", "*"),
                    };
                    (round * 8 + writer, gateway.put_if("acme", field, &body).await)
                });
            }
            let replies = writers.join_all().await;
            let won = |status: u16| matches!(status, 200 | 201);
            let winners: Vec<_> = replies.iter().filter(|(_, reply)| won(reply.status)).collect();
            assert_eq!(winners.len(), 1, "{replies:?}");
            for (_, reply) in replies.iter().filter(|(_, reply)| !won(reply.status)) {
                assert_problem(reply, 412, "ADMIN_TARGET_CHANGED");
            }
            assert_eq!(winners[0].1.status, if round == 0 { 201 } else { 200 });
            let read = gateway.admin("/v1/targets/acme").await;
            assert_eq!(number_of(&read.json()), winners[0].0);
            assert_eq!(etag(&read), etag(&winners[0].1));
            let old = tag.replace(etag(&read));
            // Who has seen an older version deletes nothing either, and sets no secret.
            let Some(old) = old else { continue };
            let secret = json!({ "signing_secret": "at least sixteen bytes" });
            for (method, path, body) in [
                ("DELETE", "/v1/targets/acme", None),
                ("PUT", "/v1/targets/acme/credential", Some(&secret)),
                ("DELETE", "/v1/targets/acme/credential", None),
            ] {
                let reply = gateway.api(method, path, &[("If-Match", &old)], body).await;
                assert_problem(&reply, 412, "ADMIN_TARGET_CHANGED");
            }
        }
        for (name, value) in [("If-Match", "v1"), ("If-None-Match", "\"v1\"")] {
            let reply = gateway.put_if("acme", (name, value), &numbered(1)).await;
            assert_problem(&reply, 400, "ADMIN_REQUEST_INVALID");
        }
        let reply = gateway.put_if("new", ("If-Match", "*"), &numbered(1)).await;
        assert_problem(&reply, 412, "ADMIN_TARGET_CHANGED");
        let (tag, delete) = (tag.unwrap(), "/v1/targets/acme");
        assert_eq!(gateway.api("DELETE", delete, &[("If-Match", &tag)], None).await.status, 204);
        // A version never comes back.
        let made = gateway.put("acme", &numbered(1)).await;
        assert_eq!(made.status, 201);
        let reply = gateway.api("PUT", delete, &[("If-Match", &tag)], Some(&numbered(2))).await;
        assert_problem(&reply, 412, "ADMIN_TARGET_CHANGED");
    });
}

// === crashes ===

/// PUTs until the gateway is gone; gives the last number that was acknowledged for each id, and the
/// one that may have been on its way.
async fn write_until_killed(gateway: &Gateway, writers: usize, kill_at: usize) -> Acked {
    let acked: Arc<Mutex<Acked>> = Arc::default();
    let mut tasks = JoinSet::new();
    for writer in 0..writers {
        let (acked, admin) = (Arc::clone(&acked), gateway.admin);
        tasks.spawn(async move {
            let Ok(mut conn) = Conn::try_open(admin).await else { return };
            for number in 0_usize.. {
                // Each id is changed a few times, by its one writer.
                let id = format!("target-{writer}-{}", number % 100);
                let before = acked.lock().unwrap().get(&id).and_then(|(acked, _)| *acked);
                acked.lock().unwrap().insert(id.clone(), (before, number));
                let path = format!("/v1/targets/{id}");
                match conn.api("PUT", &path, &[], Some(&numbered(number))).await {
                    Ok(reply) => assert!(matches!(reply.status, 200 | 201), "{reply:?}"),
                    Err(_) => return,
                }
                acked.lock().unwrap().insert(id, (Some(number), number));
            }
        });
    }
    eventually("enough is acknowledged", async || {
        let acked = acked.lock().unwrap();
        let count: usize =
            acked.values().filter_map(|(acked, _)| *acked).map(|n| n / 100 + 1).sum();
        (count >= kill_at).then_some(())
    })
    .await;
    gateway.signal("KILL");
    tasks.join_all().await;
    Arc::try_unwrap(acked).unwrap().into_inner().unwrap()
}

type Acked = BTreeMap<String, (Option<usize>, usize)>;

#[test]
fn a_crash_among_a_thousand_puts_loses_nothing_acknowledged_and_leaves_no_half() {
    lab::run(async |lab| {
        let mut gateway = acme(&lab).await;
        let mut total = 0;
        // At three moments, together beyond a thousand.
        for kill_at in [137, 411, 523] {
            let acked = write_until_killed(&gateway, 4, kill_at).await;
            gateway.kill();
            gateway = lab.gateway(&lab.config()).await;
            let shown: BTreeMap<_, _> = gateway
                .all_of("/v1/targets", 500)
                .await
                .into_iter()
                .map(|one| (one["id"].as_str().unwrap().to_owned(), number_of(&one)))
                .collect();
            for (id, (acked, tried)) in acked {
                let found = shown.get(&id).copied();
                assert!(
                    found == acked || found == Some(tried),
                    "{id}: {found:?}, {acked:?}, {tried}"
                );
                total += acked.map_or(0, |number| number / 100 + 1);
            }
            for id in shown.keys() {
                assert_eq!(
                    gateway.api("DELETE", &format!("/v1/targets/{id}"), &[], None).await.status,
                    204
                );
            }
        }
        assert!(total >= 1000, "{total}");
    });
}

// === disks ===

#[test]
fn a_full_disk_takes_no_target_and_costs_no_traffic() {
    lab::run(async |lab| {
        let disk = Disk::mount(&lab.dir().join("state"), DISK_BYTES);
        lab.dns.addresses("acme.example", &[PUBLIC]);
        lab.dns.addresses("b.example", &[PUBLIC_2]);
        let _echo = Receiver::echo((PUBLIC_2, 443));
        let config = lab.config().set("store.key", lab.store_key(7));
        let mut gateway = lab.gateway(&config).await;
        gateway.put_target("b", &self_hosted("https://b.example")).await;
        let mut tunnel = gateway.tunnel("b.example:443").await;
        disk.fill();
        // What files are there has room left for some.
        let mut kept = 0;
        let refused = loop {
            let reply = gateway.put(&format!("target-{kept}"), &numbered(kept)).await;
            if !matches!(reply.status, 200 | 201) {
                break reply;
            }
            kept += 1;
            assert!(kept < 5000, "the disk is never full");
        };
        assert_problem(&refused, 503, "ADMIN_STORE_UNAVAILABLE");
        assert!(refused.field("retry-after").is_some(), "{refused:?}");
        gateway.store_is("failed").await;
        assert_eq!(gateway.admin("/readyz").await.status, 503);
        // Nothing of what was refused is in force, and what was in force still is.
        let path = format!("/v1/targets/target-{kept}");
        assert_eq!(gateway.admin(&path).await.status, 404);
        let secret = json!({ "signing_secret": "at least sixteen bytes" });
        let changed =
            with(self_hosted("https://b.example"), &json!({ "labels": { "a": "b".repeat(250) } }));
        eventually("there is no room for anything", async || {
            let reply = gateway.put("b", &changed).await;
            (reply.status == 503).then_some(())
        })
        .await;
        assert_problem(&gateway.credential("b", &secret).await, 503, "ADMIN_STORE_UNAVAILABLE");
        assert_eq!(gateway.target("b").await["labels"], json!({}));
        assert_eq!(gateway.target("b").await["signing_secret_status"], "missing");
        tunnel.send(b"still here").await;
        assert_eq!(tunnel.take(10).await, b"still here");
        drop(gateway.tunnel("b.example:443").await);
        disk.free();
        gateway.store_is("ok").await;
        gateway.put_target("b", &changed).await;
        assert_eq!(gateway.credential("b", &secret).await.status, 200);
        gateway.kill();
        let gateway = lab.gateway(&config).await;
        let listed = gateway.all_of("/v1/targets", 500).await;
        assert_eq!(listed.len(), kept + 1);
        assert_eq!(gateway.target("b").await["signing_secret_status"], "present");
    });
}

#[test]
fn a_database_that_another_holds_takes_no_target_and_is_said_to_be_held() {
    lab::run(async |lab| {
        let gateway = acme(&lab).await;
        gateway.put_target("acme", &numbered(1)).await;
        let options = SqliteConnectOptions::new().filename(database(&lab));
        let mut lock = SqliteConnection::connect_with(&options).await.unwrap();
        sqlx::query("BEGIN IMMEDIATE").execute(&mut lock).await.unwrap();
        let problem = assert_problem(
            &gateway.put("acme", &numbered(2)).await,
            503,
            "ADMIN_STORE_UNAVAILABLE",
        );
        assert!(problem["detail"].as_str().unwrap().contains("lock"), "{problem:#}");
        assert_eq!(number_of(&gateway.target("acme").await), 1);
        sqlx::query("ROLLBACK").execute(&mut lock).await.unwrap();
        gateway.put_target("acme", &numbered(2)).await;
        assert_eq!(number_of(&gateway.target("acme").await), 2);
    });
}

#[test]
fn a_broken_or_newer_database_is_refused_at_the_start_and_left_as_it_is() {
    lab::run(async |lab| {
        let mut gateway = acme(&lab).await;
        gateway.put_target("acme", &numbered(1)).await;
        gateway.signal("TERM");
        gateway.ended().await;
        let good = std::fs::read(database(&lab)).unwrap();
        let says = async |words: &str| {
            let output = Gateway::refuses(&lab, &lab.config().to_toml()).await;
            let said =
                String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
            assert_eq!(output.status.code(), Some(1), "{said}");
            assert!(said.contains("store.url") && said.contains(words), "{said}");
        };
        let refused = async |words: &str| {
            let before = std::fs::read(database(&lab)).unwrap();
            says(words).await;
            assert_eq!(std::fs::read(database(&lab)).unwrap(), before);
        };
        std::fs::write(
            database(&lab),
            "not a database at all, but long enough to look at".repeat(100),
        )
        .unwrap();
        refused("not a database").await;
        std::fs::write(database(&lab), &good).unwrap();
        let options = SqliteConnectOptions::new().filename(database(&lab));
        let mut other = SqliteConnection::connect_with(&options).await.unwrap();
        sqlx::query("INSERT INTO _sqlx_migrations VALUES (99999999, 'newer', CURRENT_TIMESTAMP, TRUE, x'00', 1)")
            .execute(&mut other)
            .await
            .unwrap();
        other.close().await.unwrap();
        refused("newer").await;
        std::fs::write(database(&lab), &good).unwrap();
        // Held for itself alone, so that nobody may even read; not by this process either, as the
        // kernel takes the lock away from whoever closes the file a second time.
        let alone = options.locking_mode(SqliteLockingMode::Exclusive);
        let mut other = SqliteConnection::connect_with(&alone).await.unwrap();
        let write = "UPDATE probes SET writes = writes + 1";
        sqlx::query(write).execute(&mut other).await.unwrap();
        says("lock").await;
        other.close().await.unwrap();
        let gateway = lab.gateway(&lab.config()).await;
        assert_eq!(number_of(&gateway.target("acme").await), 1);
    });
}

// === reloads and restarts ===

#[test]
fn a_reload_keeps_targets_and_stops_those_whose_names_it_takes_away() {
    lab::run(async |lab| {
        for name in ["a.example", "b.example", "t.example"] {
            lab.dns.addresses(name, &[PUBLIC]);
        }
        let _echo = Receiver::echo((PUBLIC, 443));
        let bare = lab.config();
        let config = bare
            .clone()
            .set_toml("resolvers.corp.servers", "[\"198.41.0.4:53\"]")
            .set_toml("tunnels.acme", "{ url = \"socks5://10.20.0.5:1080\" }");
        let mut gateway = lab.gateway(&config).await;
        let resolved = with(self_hosted("https://a.example"), &json!({ "resolver": "corp" }));
        let tunnelled = json!({
            "private_network_policy": "tunnel", "tunnel": "acme",
            "private_network_allowlist": ["93.184.215.14"],
        });
        let made = gateway.put_target("a", &resolved).await;
        let kept =
            gateway.put_target("t", &with(self_hosted("https://t.example"), &tunnelled)).await;
        assert_eq!(warnings(&kept).len(), 1, "{kept:#}");
        gateway.put_target("b", &self_hosted("https://b.example")).await;
        for restart in [false, true] {
            drop(gateway.tunnel("a.example:443").await);
            if restart {
                gateway.kill();
                gateway = lab.gateway(&bare).await;
            } else {
                gateway.reload(&bare).await;
            }
            gateway.refuse("a.example:443", NO_TARGET).await;
            drop(gateway.tunnel("b.example:443").await);
            let shown = gateway.target("a").await;
            assert_eq!(shown["problems"], json!(["resolver: there is no [resolvers.corp]"]));
            assert_eq!((&shown["resolver"], &shown["version"]), (&json!("corp"), &made["version"]));
            let shown = gateway.target("t").await;
            assert_eq!(shown["problems"], json!(["tunnel: there is no [tunnels.acme]"]));
            assert_eq!(gateway.target("b").await["problems"], json!([]));
            let states: Vec<_> = gateway
                .all_of("/v1/targets", 1)
                .await
                .iter()
                .map(|one| one["state"].clone())
                .collect();
            assert_eq!((&states[0], &states[2]), (&json!("stopped"), &json!("stopped")));
            assert_eq!(states.len(), 3);
            // It comes back with the name.
            if restart {
                gateway.kill();
                gateway = lab.gateway(&config).await;
            } else {
                gateway.reload(&config).await;
            }
            assert_eq!(gateway.target("a").await["problems"], json!([]));
        }
        drop(gateway.tunnel("a.example:443").await);
    });
}

#[test]
fn a_configured_target_takes_an_id_over_and_gives_it_back() {
    lab::run(async |lab| {
        lab.dns.addresses("api.example", &[PUBLIC]);
        lab.dns.addresses("config.example", &[PUBLIC]);
        let _echo = Receiver::echo((PUBLIC, 443));
        let bare = lab.config().set("store.key", lab.store_key(7));
        let gateway = lab.gateway(&bare).await;
        let body = with(self_hosted("https://api.example"), &json!({ "connect": "allow" }));
        gateway.put_target("acme", &body).await;
        let secrets = [
            ("signing_secret", "the-first-signing-secret"),
            ("signing_secret", "the-second-signing-secret"),
        ];
        for (key, secret) in secrets {
            let reply = gateway.credential("acme", &json!({ key: secret, "overlap": "2s" })).await;
            assert_eq!(reply.status, 200, "{reply:?}");
        }
        gateway.reload(&bare.clone().self_hosted("acme", "https://config.example")).await;
        gateway
            .wait_event("it is said", |event| {
                event.text("message").contains("the configuration's target is in force")
            })
            .await;
        let check = async || {
            gateway.refuse("api.example:443", NO_TARGET).await;
            drop(gateway.tunnel("config.example:443").await);
            assert_eq!(gateway.target("acme").await["source"], "config");
            assert_eq!(gateway.all_of("/v1/targets", 10).await.len(), 1);
        };
        check().await;
        assert_problem(&gateway.put("acme", &body).await, 409, "ADMIN_TARGET_READ_ONLY");
        // That a rotation of the hidden one ends does not bring it back.
        let database = SqliteConnectOptions::new().filename(database(&lab));
        let mut store = SqliteConnection::connect_with(&database).await.unwrap();
        eventually("the rotation has ended", async || {
            let left: i64 = sqlx::query_scalar("SELECT count(*) FROM credentials")
                .fetch_one(&mut store)
                .await
                .unwrap();
            (left == 1).then_some(())
        })
        .await;
        check().await;
        gateway.reload(&bare).await;
        drop(gateway.tunnel("api.example:443").await);
        gateway.refuse("config.example:443", NO_TARGET).await;
        assert_eq!(gateway.target("acme").await["signing_secret_status"], "present");
    });
}

#[test]
fn a_restart_keeps_everything_that_is_shown() {
    lab::run(async |lab| {
        lab.dns.addresses("acme.example", &[PUBLIC]);
        let config = lab.config().set("store.key", lab.store_key(7));
        let mut gateway = lab.gateway(&config).await;
        let hook = with(
            webhook("https://acme.example/hook?q=1"),
            &json!({ "secret": "at least sixteen bytes" }),
        );
        gateway.put_target("hook", &hook).await;
        gateway.put_target("acme", &numbered(7)).await;
        gateway.put_target("acme", &numbered(8)).await;
        let steady = async |gateway: &Gateway| {
            let mut all = gateway.all_of("/v1/targets", 500).await;
            for one in &mut all {
                one.as_object_mut().unwrap().remove("state");
            }
            all
        };
        let before = steady(&gateway).await;
        assert_eq!(before.len(), 2);
        let tag = etag(&gateway.admin("/v1/targets/acme").await);
        gateway.kill();
        let gateway = lab.gateway(&config).await;
        assert_eq!(steady(&gateway).await, before);
        let reply = gateway.put_if("acme", ("If-Match", &tag), &numbered(9)).await;
        assert_eq!(reply.status, 200, "{reply:?}");
    });
}
