//! A receiver that takes deliveries and never answers is left alone, and asked again with one probe.

use crate::support::{
    eventually,
    gateway::Gateway,
    hook::{self, attempts, post},
    http::Reply,
    lab::{self, PUBLIC},
    origin::{Origin, ok},
};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{sync::Notify, time::Instant};

const SILENT: (u16, &str, &str) = (504, "WEBHOOK_RECEIVER_TIMEOUT", "response_timeout");
const LEFT_ALONE: (u16, &str, &str) = (504, "WEBHOOK_RECEIVER_TIMEOUT", "receiver_backing_off");

fn retry_after(reply: &Reply) -> Option<u64> {
    reply.field("retry-after").map(|text| text.parse().unwrap())
}

fn left_alone(reply: &Reply) -> bool {
    reply.status > 500 && reply.json()["cause"] == "receiver_backing_off"
}

/// Delivers until the receiver is asked, at most once: what came of that.
async fn probe(gateway: &Gateway, name: &str) -> Reply {
    let mut tries = 0;
    eventually("a probe is let through", async || {
        tries += 1;
        let reply = post(gateway, &format!("{name}{tries}"), b"body").await;
        (!left_alone(&reply)).then_some(reply)
    })
    .await
}

#[test]
fn a_receiver_that_never_answers_is_left_alone_until_a_probe_is_answered() {
    lab::run(async |lab| {
        let (config, tls) = hook::config(&lab);
        let config = config.set("limits.response_timeout", "200ms");
        let (silent, asked) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicUsize::new(0)));
        let (is_silent, count) = (Arc::clone(&silent), Arc::clone(&asked));
        let _origin = Origin::with((PUBLIC, 443), tls, move |mut conn| {
            let (is_silent, count) = (Arc::clone(&is_silent), Arc::clone(&count));
            async move {
                while let Ok(Some(_)) = conn.request().await {
                    count.fetch_add(1, Ordering::SeqCst);
                    if is_silent.load(Ordering::SeqCst) {
                        std::future::pending::<()>().await;
                    }
                    drop(conn.try_send(ok("heard")).await);
                }
            }
        });
        let asked = || asked.load(Ordering::SeqCst);
        let gateway = lab.gateway(&config).await;

        // The fifth silence in a row is one too many, and its answer says so.
        let mut waits = Vec::new();
        for round in 0..5 {
            let reply = post(&gateway, &format!("k{round}"), b"body").await;
            gateway.assert_refused(&reply, SILENT).await;
            waits.push(retry_after(&reply));
        }
        let opened = Instant::now();
        assert_eq!(waits, [None, None, None, None, Some(1)]);
        let reply = post(&gateway, "left-alone", b"body").await;
        gateway.assert_refused(&reply, LEFT_ALONE).await;
        assert!(retry_after(&reply).is_some_and(|wait| (1..=2).contains(&wait)), "{reply:?}");
        assert_eq!(asked(), 5, "it was asked while it is left alone");

        // After that wait one request is let through. It is a silence again: a longer wait.
        let reply = probe(&gateway, "p").await;
        assert!(opened.elapsed() >= Duration::from_millis(900), "{:?}", opened.elapsed());
        gateway.assert_refused(&reply, SILENT).await;
        assert!(retry_after(&reply).is_some_and(|wait| (2..=3).contains(&wait)), "{reply:?}");
        let opened = Instant::now();
        let reply = post(&gateway, "left-alone-again", b"body").await;
        gateway.assert_refused(&reply, LEFT_ALONE).await;
        assert_eq!(asked(), 6);

        // The next probe is heard: from then on everything is.
        silent.store(false, Ordering::SeqCst);
        let reply = probe(&gateway, "q").await;
        assert!(opened.elapsed() >= Duration::from_millis(1900), "{:?}", opened.elapsed());
        assert_eq!((reply.status, reply.body.as_slice()), (200, &b"heard"[..]));
        assert_eq!(asked(), 7, "one probe and no more");
        for key in ["left-alone", "left-alone-again", "k0"] {
            assert_eq!(post(&gateway, key, b"body").await.status, 200, "{key}");
        }
        let kept = attempts(&lab, 10).await;
        let of = |cause| kept.iter().filter(|one| one.cause.as_deref() == Some(cause)).count();
        assert_eq!(of("response_timeout"), 6);
        assert!(of("receiver_backing_off") >= 2);
    });
}

#[test]
fn while_a_probe_is_under_way_nobody_else_asks() {
    lab::run(async |lab| {
        let (config, tls) = hook::config(&lab);
        let config = config.set("limits.response_timeout", "5s");
        let (here, go) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let (is_here, may) = (Arc::clone(&here), Arc::clone(&go));
        let gateway = lab.gateway(&config).await;
        // Nobody listens.
        for round in 0..5 {
            assert_eq!(post(&gateway, &format!("k{round}"), b"body").await.status, 502);
        }
        let origin = Origin::with((PUBLIC, 443), tls, move |mut conn| {
            let (is_here, may) = (Arc::clone(&is_here), Arc::clone(&may));
            async move {
                while let Ok(Some(_)) = conn.request().await {
                    is_here.notify_one();
                    may.notified().await;
                    drop(conn.try_send(ok("heard")).await);
                }
            }
        });
        let asking = async { probe(&gateway, "p").await };
        let meanwhile = async {
            here.notified().await;
            let refused = post(&gateway, "meanwhile", b"body").await;
            go.notify_one();
            refused
        };
        let (probed, refused) = tokio::join!(asking, meanwhile);
        assert_eq!((probed.status, probed.body.as_slice()), (200, &b"heard"[..]));
        let down = (503, "WEBHOOK_ENDPOINT_UNREACHABLE", "receiver_backing_off");
        gateway.assert_refused(&refused, down).await;
        assert!(retry_after(&refused).is_some(), "{refused:?}");
        assert_eq!(origin.accepted(), 1);
    });
}
