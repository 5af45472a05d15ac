//! A full disk: what is answered stays true, what needs no disk goes on, and all comes back with the
//! space.

use crate::support::{
    disk::Disk,
    eventually,
    gateway::Gateway,
    hook::{self, attempts, post, replayed},
    lab::{self, PUBLIC, PUBLIC_2},
    origin::{Origin, answer, ok},
    receiver::Receiver,
};
use egress_gateway::store::{
    Store,
    deliveries::{Attempt, WebhookStatus},
};

/// Room for the database and some hundred deliveries.
const DISK_BYTES: u64 = 1024 * 1024;

/// Most deliveries that the files of a full disk can have room for.
const DELIVERIES_MAX: usize = 5000;

async fn store_is(gateway: &Gateway, word: &str) {
    eventually(&format!("/readyz says that the store is {word}"), async || {
        let reply = gateway.admin("/readyz").await;
        let checks = reply.json()["checks"].clone();
        let store = checks.as_array()?.iter().find(|check| check["name"] == "store")?.clone();
        assert_eq!(reply.status == 200, store["status"] == "ok", "{reply:?}");
        (store["status"] == word).then_some(())
    })
    .await;
}

fn could_not_store(gateway: &Gateway) -> usize {
    let lost = "a delivery succeeded, but that could not be stored";
    gateway.events().iter().filter(|event| event.text("message").starts_with(lost)).count()
}

/// Delivers under a new key until this many deliveries could not be stored; gives their keys.
async fn deliver_until_lost(gateway: &Gateway, name: &str, losses: usize) -> Vec<String> {
    let (mut lost, mut number) = (Vec::new(), 0);
    while lost.len() < losses {
        number += 1;
        assert!(number < DELIVERIES_MAX, "the disk is never full");
        let (key, before) = (format!("{name}{number}"), could_not_store(gateway));
        let reply = post(gateway, &key, b"yes").await;
        assert_eq!((reply.status, replayed(&reply)), (200, false), "{reply:?}");
        if could_not_store(gateway) > before {
            lost.push(key);
        }
    }
    lost
}

#[test]
fn a_full_disk_costs_no_truth_and_no_traffic_and_heals_without_a_restart() {
    lab::run(async |lab| {
        let disk = Disk::mount(&lab.dir().join("state"), DISK_BYTES);
        let (config, tls) = hook::config(&lab);
        lab.dns.addresses("known.example", &[PUBLIC_2]);
        lab.dns.addresses("new.example", &[PUBLIC_2]);
        let config = config
            .self_hosted("relayed", "https://acme.example:8443")
            .self_hosted("known", "https://known.example")
            .self_hosted("new", "https://new.example");
        // The body of a delivery says how it is answered.
        let origin = Origin::start((PUBLIC, 443), tls.clone(), |request| {
            if request.body == b"no" { answer("500 X", &[], "") } else { ok("") }
        });
        let _relayed = Origin::start((PUBLIC, 8443), tls, |_| ok("relayed"));
        let _echo = Receiver::echo((PUBLIC_2, 443));
        let mut gateway = lab.gateway(&config).await;
        assert_eq!(post(&gateway, "before", b"yes").await.status, 200);
        assert!(replayed(&post(&gateway, "before", b"yes").await));
        let mut tunnel = gateway.tunnel("known.example:443").await;
        store_is(&gateway, "ok").await;

        disk.fill();
        // What files are there has room left for some.
        let lost = deliver_until_lost(&gateway, "full", 3).await;
        store_is(&gateway, "failed").await;
        // A success that is not on the disk is sent again, and a failure never looks like one.
        for key in &lost {
            let reply = post(&gateway, key, b"yes").await;
            assert_eq!((reply.status, replayed(&reply)), (200, false), "{key} {reply:?}");
        }
        for _ in 0..2 {
            let reply = post(&gateway, "no", b"no").await;
            assert_eq!((reply.status, replayed(&reply)), (500, false), "{reply:?}");
        }
        // What was on the disk before still counts.
        let asked = origin.requests().len();
        assert!(replayed(&post(&gateway, "before", b"yes").await));
        assert_eq!(origin.requests().len(), asked);
        // What needs no disk goes on: a tunnel that stands, new ones, also to a name that was never
        // seen, and the relay.
        tunnel.send(b"still here").await;
        assert_eq!(tunnel.take(10).await, b"still here");
        drop(gateway.tunnel("known.example:443").await);
        drop(gateway.tunnel("new.example:443").await);
        let reply = gateway.get("/targets/relayed/x").await;
        assert_eq!((reply.status, reply.body.as_slice()), (200, &b"relayed"[..]));
        store_is(&gateway, "failed").await;

        disk.free();
        store_is(&gateway, "ok").await;
        for (key, again) in [("after", false), ("after", true), (lost[0].as_str(), false)] {
            let reply = post(&gateway, key, b"yes").await;
            assert_eq!((reply.status, replayed(&reply)), (200, again), "{key} {reply:?}");
        }
        assert!(gateway.runs());
        // Nothing is recorded as delivered that the receiver was not asked for.
        let said_yes = origin.requests().iter().filter(|request| request.body == b"yes").count();
        let kept = attempts(&lab, 3).await;
        let delivered = |one: &&Attempt| one.webhook_status == WebhookStatus::Delivered;
        let delivered: Vec<_> = kept.iter().filter(delivered).collect();
        assert!(delivered.len() <= said_yes - lost.len(), "{} {said_yes}", delivered.len());
        for key in ["before", "after", &lost[0]] {
            let of_key = |one: &&&Attempt| one.idempotency_key.as_deref() == Some(key);
            assert_eq!(delivered.iter().filter(of_key).count(), 1, "{key}");
        }
        // A crash now finds the same.
        gateway.kill();
        let gateway = lab.gateway(&config).await;
        assert!(replayed(&post(&gateway, "after", b"yes").await));
        assert!(replayed(&post(&gateway, &lost[0], b"yes").await));
        assert!(!replayed(&post(&gateway, &lost[1], b"yes").await));
    });
}

#[test]
fn a_full_disk_heals_also_where_nothing_is_delivered() {
    lab::run(async |lab| {
        let disk = Disk::mount(&lab.dir().join("state"), DISK_BYTES);
        lab.dns.addresses("new.example", &[PUBLIC_2]);
        let _echo = Receiver::echo((PUBLIC_2, 443));
        let config = lab.config().self_hosted("new", "https://new.example");
        let gateway = lab.gateway(&config).await;
        store_is(&gateway, "ok").await;
        disk.fill();
        store_is(&gateway, "failed").await;
        // What the name leads to cannot be written down.
        drop(gateway.tunnel("new.example:443").await);
        store_is(&gateway, "failed").await;
        disk.free();
        store_is(&gateway, "ok").await;
        drop(gateway.tunnel("new.example:443").await);
        let store = Store::open(&format!("sqlite:{}", hook::database(&lab).display())).await;
        let store = store.unwrap();
        assert_eq!(store.sightings().await.unwrap().len(), 1);
        store.close().await;
    });
}
