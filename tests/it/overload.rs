//! More than the gateway can take, and others who are slow or dead: whoever was let in is served,
//! the rest is told at once, and what is free again is used again.

use crate::support::{
    config::Config,
    eventually,
    gateway::{Event, Gateway},
    h2::H2,
    http::{Conn, Reply, connect_head, request_head},
    lab::{self, Lab, PRIVATE, PRIVATE_2, PUBLIC},
    receiver::{Deaf, Receiver},
    within,
};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use std::time::Duration;
use tokio::{net::TcpStream, task::JoinSet, time::Instant};

const OVERLOADED: &str = "GATEWAY_OVERLOADED";
const NOT_ACCEPTED: &str = "a connection could not be accepted";
/// Requests that wait for a target that never answers.
const WAITING: usize = 1000;
/// Those that there is no room for.
const REFUSED: usize = 20;
/// What one of a thousand may take on a loaded machine, and far less than what the thousand wait.
const GENEROUS: Duration = Duration::from_secs(10);

/// `acme` at [`PRIVATE`], and `dead` at [`PRIVATE_2`], which may have a thousand requests waiting for
/// much longer than the test takes.
fn scene(lab: &Lab) -> Config {
    // The test holds both ends of what the gateway holds.
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, most, most).unwrap();
    lab.dns.addresses("acme.example", &[PRIVATE]);
    lab.dns.addresses("dead.example", &[PRIVATE_2]);
    let fields = |network| {
        format!(
            "allow_http = true\nscope = \"origin\"\nlimits = {{ max_in_flight = {WAITING} }}\n\
             private_network_policy = \"direct\"\nprivate_network_allowlist = [\"{network}\"]"
        )
    };
    lab.config()
        .set("limits.connect_timeout", "80s")
        .set("limits.response_timeout", "80s")
        .self_hosted_with("acme", "http://acme.example:8080", &fields("10.20.0.0/24"))
        .self_hosted_with("dead", "http://dead.example:8080", &fields("192.168.7.0/24"))
}

/// Sends this and waits for the answer, in a task of its own. With the task goes the client, by a
/// reset: one that only finishes might still wait for its answer.
fn ask(waiting: &mut JoinSet<Option<Reply>>, gateway: &Gateway, request: String) {
    let proxy = gateway.proxy;
    waiting.spawn(async move {
        let stream = TcpStream::connect(proxy).await.unwrap();
        stream.set_zero_linger().unwrap();
        let mut conn = Conn::server(stream);
        conn.send(request).await;
        conn.try_reply().await.ok()
    });
}

/// Sends `dead` this request more often than it may have requests waiting, and shows that those
/// beyond are refused, that `acme` is served as if there were none, and that the others wait on.
async fn assert_others_are_served(gateway: &Gateway, request: &str) {
    let mut waiting = JoinSet::new();
    for _ in 0..WAITING + REFUSED {
        ask(&mut waiting, gateway, request.to_owned());
    }
    for _ in 0..REFUSED {
        let reply = within("a refusal", waiting.join_next()).await.unwrap().unwrap().unwrap();
        let full = (503, OVERLOADED, "target_in_flight_limit");
        let event = gateway.assert_refused(&reply, full).await;
        assert_eq!(event.text("target"), "dead");
        assert!(reply.field("retry-after").is_some(), "{reply:?}");
    }
    for round in 0..20 {
        let served = async {
            let mut tunnel = gateway.tunnel("acme.example:8080").await;
            tunnel.send("ping").await;
            assert_eq!(tunnel.take(4).await, b"ping");
        };
        let served = tokio::time::timeout(GENEROUS, served).await;
        assert!(served.is_ok(), "round {round}: the healthy target is not served");
    }
    assert!(waiting.try_join_next().is_none(), "one of those that wait was answered");
    waiting.shutdown().await;
    gateway.wait_metric("egress_connections", &[("kind", "client")], |open| open == 0.0).await;
    let mut again = Conn::open(gateway.proxy).await;
    again.send(request).await;
    let refused = tokio::time::timeout(Duration::from_millis(300), again.try_reply()).await;
    assert!(refused.is_err(), "the places of clients that have gone are not free: {refused:?}");
}

#[test]
fn whoever_was_let_in_is_served_and_the_rest_is_refused() {
    lab::run(async |lab| {
        let _receiver = Receiver::echo((PUBLIC, 443));
        lab.dns.addresses("acme.example", &[PUBLIC]);
        let config = lab.config().self_hosted("acme", "https://acme.example");
        let gateway = lab.gateway(&config.set("limits.max_connections", 4)).await;
        let mut tunnels = Vec::new();
        for _ in 0..4 {
            tunnels.push(gateway.tunnel("acme.example:443").await);
        }
        for round in 0..3 {
            let mut refused = JoinSet::new();
            for _ in 0..16 {
                ask(&mut refused, &gateway, connect_head("acme.example:443", &[]));
            }
            let refused = within("sixteen refusals", refused.join_all()).await;
            for reply in refused {
                let reply = reply.expect("a refusal that can be read");
                gateway.assert_refused(&reply, (503, OVERLOADED, "connection_limit")).await;
                assert!(reply.field("retry-after").is_some(), "{reply:?}");
            }
            for tunnel in &mut tunnels {
                tunnel.send("ping").await;
                assert_eq!(tunnel.take(4).await, b"ping", "round {round}");
            }
            tunnels.pop();
            let again = eventually("a place that is free is used again", async || {
                let exchange = gateway.connect("acme.example:443").await;
                (exchange.reply.status == 200).then_some(exchange.conn)
            });
            tunnels.push(again.await);
        }
    });
}

/// What waits to be told is counted by itself: streams and kept upstreams take none of its places.
#[test]
fn a_full_gateway_says_so_however_many_streams_it_carries() {
    lab::run(async |lab| {
        let _receiver = Receiver::echo((PUBLIC, 443));
        lab.dns.addresses("acme.example", &[PUBLIC]);
        let config = lab
            .config()
            .set("limits.max_connections", 4)
            .set("limits.max_in_flight_per_target", 1000)
            .self_hosted("acme", "https://acme.example");
        let gateway = lab.gateway(&config).await;
        let mut clients = Vec::new();
        let mut streams = Vec::new();
        for _ in 0..4 {
            let client = H2::open(gateway.proxy).await;
            for _ in 0..90 {
                streams.push(client.connect("acme.example:443", &[]).await.ok().unwrap());
            }
            clients.push(client);
        }
        let reply = gateway.connect("acme.example:443").await.reply;
        gateway.assert_refused(&reply, (503, OVERLOADED, "connection_limit")).await;
    });
}

#[test]
fn a_target_that_takes_no_connection_slows_no_other() {
    lab::run(async |lab| {
        let _receiver = Receiver::echo((PRIVATE, 8080));
        let _dead = Deaf::start((PRIVATE_2, 8080)).await;
        let gateway = lab.gateway(&scene(&lab)).await;
        assert_others_are_served(&gateway, &connect_head("dead.example:8080", &[])).await;
    });
}

#[test]
fn a_target_that_never_answers_slows_no_other() {
    lab::run(async |lab| {
        let _receiver = Receiver::echo((PRIVATE, 8080));
        let _dead = Receiver::silent((PRIVATE_2, 8080));
        let gateway = lab.gateway(&scene(&lab)).await;
        let request = request_head("GET", "http://dead.example:8080/", &[], 0);
        assert_others_are_served(&gateway, &request).await;
    });
}

#[test]
fn clients_that_stop_reading_slow_no_other() {
    lab::run(async |lab| {
        let _receiver = Receiver::echo((PRIVATE, 8080));
        let _endless = Receiver::with((PRIVATE_2, 8080), async |mut guest| {
            while guest.write(&vec![b'x'; 64 * 1024]).await.is_ok() {}
        });
        let gateway = lab.gateway(&scene(&lab)).await;
        let mut stalled = Vec::new();
        for _ in 0..100 {
            stalled.push(gateway.tunnel("dead.example:8080").await);
        }
        let carried = async || {
            gateway.metrics().await.sum("egress_bytes_total", &[("direction", "to_client")])
        };
        let mut before = -1.0;
        eventually("the hundred stall", async || {
            let now = carried().await;
            let stands = now > 0.0 && now == before;
            before = now;
            tokio::time::sleep(Duration::from_millis(200)).await;
            stands.then_some(())
        })
        .await;
        let tunnel = gateway.tunnel("acme.example:8080").await;
        let sent = vec![7; 4 << 20];
        let mut back = vec![0; sent.len()];
        let (mut answers, mut requests) = tokio::io::split(tunnel);
        let send = tokio::io::AsyncWriteExt::write_all(&mut requests, &sent);
        let read = tokio::io::AsyncReadExt::read_exact(&mut answers, &mut back);
        let both = async { tokio::try_join!(send, read) };
        within("four megabytes there and back", both).await.unwrap();
        assert!(back == sent);
        drop(stalled);
    });
}

#[test]
fn a_gateway_without_descriptors_refuses_waits_and_recovers() {
    lab::run(async |lab| {
        let _receiver = Receiver::echo((PUBLIC, 443));
        // By address: a look-up would need a descriptor of its own.
        let authority = format!("{PUBLIC}:443");
        let config = lab.config().self_hosted("acme", &format!("https://{PUBLIC}"));
        let gateway = lab.gateway(&config).await;
        // Enough of them to fill every gap between the numbers in use.
        let mut held = Vec::new();
        for _ in 0..16 {
            held.push(gateway.tunnel(&authority).await);
        }
        let open = gateway.files().len();

        // One for the client's connection, none for the target's.
        gateway.limit_files(1);
        gateway.refuse(&authority, (503, OVERLOADED, "out_of_files")).await;
        eventually("it is closed", async || (gateway.files().len() == open).then_some(())).await;

        // None: who connects now waits in the kernel.
        gateway.limit_files(0);
        let start = Instant::now();
        let mut waiting = Conn::open(gateway.proxy).await;
        waiting.send(connect_head(&authority, &[])).await;
        let refused = |event: &Event| event.text("message") == NOT_ACCEPTED;
        let tries = async || gateway.events().iter().filter(|event| refused(event)).count();
        eventually("accepting fails for a while", async || (tries().await > 3).then_some(())).await;
        let pauses = start.elapsed().as_millis() / 50;
        assert!((tries().await as u128) < pauses + 3, "it accepts in a busy loop");
        held[0].send("ping").await;
        assert_eq!(held[0].take(4).await, b"ping");

        drop(held);
        assert_eq!(waiting.reply().await.status, 200);
        waiting.send("ping").await;
        assert_eq!(waiting.take(4).await, b"ping");
    });
}

#[test]
fn connections_that_there_are_no_descriptors_for_are_warned_of() {
    lab::run(async |lab| {
        let few = lab.config().set("limits.max_connections", 10);
        let gateway = lab.gateway(&few).await;
        let warned = |event: &Event| event.text("message").contains("limits.max_connections");
        gateway.reload(&few).await;
        assert!(!gateway.events().iter().any(warned));
        gateway.reload(&few.set("limits.max_connections", i64::from(u32::MAX))).await;
        let event = gateway.wait_event("a warning", warned).await;
        assert_eq!(event.number("needed"), u64::from(u32::MAX) * 2 + 384);
        assert!(event.number("allowed") < event.number("needed"), "{event:?}");
    });
}
