//! `kill -9` around the moment at which a delivery is written down: what a receiver got may come
//! again, and what it did not get never counts as delivered.

use crate::support::{
    hook::{self, attempts, database, post, raw, replayed},
    http::Conn,
    lab::{self, PUBLIC},
    origin::{Origin, ok},
};
use egress_gateway::store::deliveries::WebhookStatus;
use sqlx::{Connection, SqliteConnection, sqlite::SqliteConnectOptions};
use std::time::Duration;
use tokio::time::Instant;

/// How long the gateway keeps an answer back for its record. What a client has read until then says
/// that the delivery is on the disk.
const RECORD_TIMEOUT: Duration = Duration::from_secs(2);

const METRIC: &str = "egress_webhook_deliveries_total";

#[test]
fn a_crash_between_the_receivers_answer_and_its_record_leaves_nothing_delivered() {
    lab::run(async |lab| {
        let (config, tls) = hook::config(&lab);
        let origin = Origin::start((PUBLIC, 443), tls, |_| ok("done"));
        let mut gateway = lab.gateway(&config).await;
        // What the name leads to is written down too, the first time.
        assert_eq!(post(&gateway, "earlier", b"body").await.status, 200);
        // Whoever holds the lock decides when the record is written: never, here.
        let options = SqliteConnectOptions::new().filename(database(&lab));
        let mut lock = SqliteConnection::connect_with(&options).await.unwrap();
        sqlx::query("BEGIN IMMEDIATE").execute(&mut lock).await.unwrap();

        let began = Instant::now();
        let mut conn = Conn::open(gateway.proxy).await;
        conn.send(raw("k", b"body")).await;
        // The receiver's answer is there, and judged.
        gateway.wait_metric(METRIC, &[("code", "")], |count| count == 2.0).await;
        // Its key is under way until the record is written.
        let reply = post(&gateway, "k", b"body").await;
        let in_flight = (409, "WEBHOOK_DELIVERY_IN_FLIGHT", "delivery_in_flight");
        gateway.assert_refused(&reply, in_flight).await;
        gateway.kill();
        let heard = conn.until_closed().await;
        if began.elapsed() < RECORD_TIMEOUT {
            assert_eq!(String::from_utf8_lossy(&heard), "", "told before it was on the disk");
        }
        assert_eq!(origin.requests().len(), 2);
        sqlx::query("ROLLBACK").execute(&mut lock).await.unwrap();
        lock.close().await.unwrap();

        let gateway = lab.gateway(&config).await;
        let kept = attempts(&lab, 1).await;
        assert_eq!(kept.len(), 1, "the crash left a record: {kept:#?}");
        assert_eq!(kept[0].idempotency_key.as_deref(), Some("earlier"));
        let reply = post(&gateway, "k", b"body").await;
        assert_eq!((reply.status, replayed(&reply)), (200, false), "{reply:?}");
        assert_eq!(reply.body, b"done");
        assert_eq!(origin.requests().len(), 3);
        // Only what was written down counts, once.
        assert!(replayed(&post(&gateway, "k", b"body").await));
        assert_eq!(origin.requests().len(), 3);
        let kept = attempts(&lab, 2).await;
        assert_eq!(kept.len(), 2, "{kept:#?}");
        assert_eq!(kept[0].webhook_status, WebhookStatus::Delivered);
        assert_eq!(Some(kept[0].delivery_id.as_str()), reply.field("x-webriskops-delivery-id"));
    });
}

#[test]
fn a_crash_between_the_record_and_the_clients_answer_keeps_the_delivery() {
    lab::run(async |lab| {
        let (config, tls) = hook::config(&lab);
        let origin = Origin::start((PUBLIC, 443), tls, |_| ok("done"));
        let mut gateway = lab.gateway(&config).await;
        let mut conn = Conn::open(gateway.proxy).await;
        conn.send(raw("k", b"body")).await;
        let kept = attempts(&lab, 1).await;
        gateway.kill();
        // Whether its answer was on the way already: the client asks again.
        drop(conn);
        let gateway = lab.gateway(&config).await;
        let reply = post(&gateway, "k", b"body").await;
        assert_eq!((reply.status, replayed(&reply)), (200, true), "{reply:?}");
        assert_eq!(reply.field("x-webriskops-delivery-id"), Some(kept[0].delivery_id.as_str()));
        assert_eq!(origin.requests().len(), 1);
    });
}
