//! Resolving against a real name server on loopback.
#![expect(clippy::wildcard_enum_match_arm, reason = "of record types, two are asked for")]
#![expect(clippy::match_same_arms, reason = "scripts of name servers are lists")]

mod encrypted;
mod name_server;
mod servers;

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::{Name, Record, RecordType};
use tokio::task::JoinSet;

use super::*;
use name_server::{NameServer, Over, Question, Say, address, alias, usual};

const LONG: Duration = Duration::from_secs(20);
const SHORT: Duration = Duration::from_millis(400);

fn resolver_with(servers: &[SocketAddr], timeout: Duration) -> Resolver {
    let servers = servers.iter().copied().map(Server::Plain).collect();
    Resolver::new(Settings::new(servers, timeout, EgressAddresses::default())).unwrap()
}

fn resolver(server: &NameServer) -> Resolver {
    resolver_with(&[server.address], LONG)
}

/// Where nobody listens; on an address that no other test binds to.
fn closed_port() -> SocketAddr {
    std::net::UdpSocket::bind("127.0.0.99:0").unwrap().local_addr().unwrap()
}

fn ips(list: &[&str]) -> Vec<IpAddr> {
    list.iter().map(|ip| ip.parse().unwrap()).collect()
}

fn v4_only(question: &Question, records: Vec<Record>) -> Say {
    match question.kind {
        RecordType::A => Say::Answers(records),
        _ => Say::None(ResponseCode::NoError, Some(60)),
    }
}

#[tokio::test]
async fn both_families_are_asked_for_under_the_full_name_only() {
    let server = NameServer::start(usual).await;
    let answer = resolver(&server).resolve("jira").await.unwrap();
    assert_eq!(*answer.addresses, *ips(&["2001:db8::1", "192.0.2.1"]));
    assert!(answer.complete && !answer.cached);
    let mut asked: Vec<_> = server.asked().into_iter().map(|q| (q.name, q.kind, q.over)).collect();
    asked.sort_by_key(|(_, kind, _)| u16::from(*kind));
    let name = "jira.".to_owned();
    assert_eq!(
        asked,
        [(name.clone(), RecordType::A, Over::Udp), (name, RecordType::AAAA, Over::Udp)]
    );
}

#[tokio::test]
async fn a_missing_name_is_not_looked_for_anywhere_else() {
    let server = NameServer::start(|_| Say::None(ResponseCode::NXDomain, Some(60))).await;
    // these stand in the hosts file of about every machine, or get a search domain
    for name in ["ip6-localhost", "ip6-allnodes", "jira", "www.example"] {
        assert_eq!(resolver(&server).resolve(name).await, Err(ResolveError::NxDomain), "{name}");
    }
    let asked = server.asked();
    assert_eq!(asked.len(), 8);
    let names = ["ip6-localhost.", "ip6-allnodes.", "jira.", "www.example."];
    assert!(asked.iter().all(|q| names.contains(&q.name.as_str())), "{asked:?}");
}

#[tokio::test]
async fn failures_are_told_apart() {
    let server = NameServer::start(|question| match question.name.as_str() {
        "nxdomain.example." => Say::None(ResponseCode::NXDomain, Some(60)),
        "servfail.example." => Say::None(ResponseCode::ServFail, None),
        "formerr.example." => Say::None(ResponseCode::FormErr, None),
        "refused.example." => Say::None(ResponseCode::Refused, None),
        "nodata.example." => Say::None(ResponseCode::NoError, Some(60)),
        "bare.example." => Say::None(ResponseCode::NoError, None),
        "short.example." => Say::CutShort,
        other => panic!("{other}"),
    })
    .await;
    let resolver = resolver(&server);
    for (name, error, word) in [
        ("nxdomain.example", ResolveError::NxDomain, "dns_nxdomain"),
        ("servfail.example", ResolveError::ServFail, "dns_servfail"),
        ("formerr.example", ResolveError::ServFail, "dns_servfail"),
        ("refused.example", ResolveError::Refused, "dns_refused"),
        ("nodata.example", ResolveError::NoAddress, "dns_no_address"),
        ("bare.example", ResolveError::NoAddress, "dns_no_address"),
        ("short.example", ResolveError::Malformed, "dns_malformed"),
    ] {
        let found = resolver.resolve(name).await;
        assert_eq!(found, Err(error), "{name}");
        assert_eq!(error.cause_word(), word);
    }
}

#[tokio::test]
async fn of_two_failures_the_more_telling_one_is_reported() {
    let server = NameServer::start(|question| match (question.name.as_str(), question.kind) {
        ("a.example.", RecordType::A) => Say::None(ResponseCode::ServFail, None),
        ("a.example.", _) => Say::None(ResponseCode::NoError, Some(60)),
        ("b.example.", RecordType::A) => Say::None(ResponseCode::NXDomain, Some(60)),
        ("b.example.", _) => Say::None(ResponseCode::ServFail, None),
        ("c.example.", RecordType::A) => Say::None(ResponseCode::NoError, Some(60)),
        ("c.example.", _) => Say::Nothing,
        other => panic!("{other:?}"),
    })
    .await;
    let resolver = resolver_with(&[server.address], SHORT);
    assert_eq!(resolver.resolve("a.example").await, Err(ResolveError::ServFail));
    assert_eq!(resolver.resolve("b.example").await, Err(ResolveError::NxDomain));
    assert_eq!(resolver.resolve("c.example").await, Err(ResolveError::Timeout));
}

#[tokio::test]
async fn silence_ends_with_the_time_limit() {
    let server = NameServer::start(|_| Say::Nothing).await;
    let started = Instant::now();
    let found = resolver_with(&[server.address], SHORT).resolve("www.example").await;
    assert_eq!(found, Err(ResolveError::Timeout));
    assert!((SHORT..SHORT * 4).contains(&started.elapsed()), "{:?}", started.elapsed());
    assert_eq!(ResolveError::Timeout.cause_word(), "dns_timeout");
}

#[tokio::test]
async fn a_lost_question_is_repeated() {
    let lost = AtomicUsize::new(0);
    let server = NameServer::start(move |question| {
        if lost.fetch_add(1, Ordering::SeqCst) < 2 {
            return Say::Nothing;
        }
        usual(question)
    })
    .await;
    assert!(resolver(&server).resolve("www.example").await.unwrap().complete);
}

#[tokio::test]
async fn a_closed_port_is_told_at_once() {
    let gone = closed_port();
    let found = resolver_with(&[gone], LONG).resolve("www.example").await;
    assert_eq!(found, Err(ResolveError::Unreachable));
    assert_eq!(ResolveError::Unreachable.cause_word(), "dns_unreachable");
}

#[tokio::test]
async fn an_answer_cut_short_is_asked_for_over_tcp() {
    let server = NameServer::start(|question| match question.over {
        Over::Udp => Say::CutShort,
        Over::Tcp => usual(question),
    })
    .await;
    let resolver = resolver(&server);
    for name in ["www.example", "other.example"] {
        let answer = resolver.resolve(name).await.unwrap();
        assert_eq!(*answer.addresses, *ips(&["2001:db8::1", "192.0.2.1"]));
    }
    assert_eq!(server.asked().iter().filter(|q| q.over == Over::Tcp).count(), 4);
}

#[tokio::test]
async fn one_failing_family_does_not_withhold_the_other() {
    let server = NameServer::start(|question| match (question.name.as_str(), question.kind) {
        ("silent.example.", RecordType::AAAA) => Say::Nothing,
        (_, RecordType::AAAA) => Say::None(ResponseCode::ServFail, None),
        _ => Say::Answers(vec![address(&question.name, "192.0.2.1", 300)]),
    })
    .await;
    let resolver = resolver(&server);
    for (name, at_most) in [("failing.example", SHORT), ("silent.example", LONG / 4)] {
        let started = Instant::now();
        let answer = resolver.resolve(name).await.unwrap();
        assert!(started.elapsed() < at_most, "{name}: {:?}", started.elapsed());
        assert_eq!(*answer.addresses, *ips(&["192.0.2.1"]));
        assert!(!answer.complete);
        assert!(answer.expires <= Instant::now() + Duration::from_secs(5), "{name}");
    }
}

#[tokio::test]
async fn a_family_without_records_leaves_the_answer_complete() {
    let server = NameServer::start(|question| {
        v4_only(question, vec![address(&question.name, "192.0.2.1", 300)])
    })
    .await;
    let answer = resolver(&server).resolve("www.example").await.unwrap();
    assert!(answer.complete);
    assert!(answer.expires > Instant::now() + Duration::from_secs(200));
}

#[tokio::test]
async fn aliases_are_followed_within_an_answer_in_any_order() {
    let server = NameServer::start(|question| {
        v4_only(
            question,
            vec![
                address("end.example.", "192.0.2.7", 100),
                alias("middle.example.", "END.example.", 70),
                alias("www.example.", "middle.example.", 90),
                address("end.example.", "192.0.2.8", 100),
            ],
        )
    })
    .await;
    let answer = resolver(&server).resolve("www.example").await.unwrap();
    assert_eq!(*answer.addresses, *ips(&["192.0.2.7", "192.0.2.8"]));
    // the shortest time of the chain counts
    let (least, most) = (Duration::from_secs(65), Duration::from_secs(70));
    assert!(answer.expires > Instant::now() + least && answer.expires <= Instant::now() + most);
    assert_eq!(server.asked().len(), 2, "{:?}", server.asked());
}

#[tokio::test]
async fn an_alias_whose_end_is_missing_from_the_answer_is_asked_for() {
    let server = NameServer::start(|question| {
        v4_only(
            question,
            match question.name.as_str() {
                "www.example." => vec![alias("www.example.", "end.example.", 60)],
                "end.example." => vec![address("end.example.", "192.0.2.7", 60)],
                other => panic!("{other}"),
            },
        )
    })
    .await;
    let answer = resolver(&server).resolve("www.example").await.unwrap();
    assert_eq!(*answer.addresses, *ips(&["192.0.2.7"]));
}

#[tokio::test]
async fn an_alias_to_nothing_is_nxdomain_or_no_address() {
    let server = NameServer::start(|question| {
        let to = |code: ResponseCode| -> Say {
            let records = vec![alias(&question.name, "end.example.", 60)];
            if code == ResponseCode::NXDomain {
                Say::Altered(records, vec![|m| m.metadata.response_code = ResponseCode::NXDomain])
            } else {
                Say::Answers(records)
            }
        };
        match question.name.as_str() {
            "dangling.example." => to(ResponseCode::NXDomain),
            "empty.example." => to(ResponseCode::NoError),
            "end.example." => Say::None(ResponseCode::NoError, Some(60)),
            other => panic!("{other}"),
        }
    })
    .await;
    let resolver = resolver(&server);
    assert_eq!(resolver.resolve("dangling.example").await, Err(ResolveError::NxDomain));
    assert_eq!(resolver.resolve("empty.example").await, Err(ResolveError::NoAddress));
}

#[tokio::test]
async fn aliases_in_a_circle_are_refused() {
    let server = NameServer::start(|question| match question.name.as_str() {
        // in one answer
        "one.example." => Say::Answers(vec![
            alias("one.example.", "two.example.", 60),
            alias("two.example.", "one.example.", 60),
        ]),
        "self.example." => Say::Answers(vec![alias("self.example.", "self.example.", 60)]),
        // over several answers
        "ping.example." => Say::Answers(vec![alias("ping.example.", "pong.example.", 60)]),
        "pong.example." => Say::Answers(vec![alias("pong.example.", "ping.example.", 60)]),
        // a good answer for one family does not make up for it
        "half.example." if question.kind == RecordType::A => usual(question),
        "half.example." => Say::Answers(vec![alias("half.example.", "half.example.", 60)]),
        other => panic!("{other}"),
    })
    .await;
    let resolver = resolver(&server);
    for name in ["one.example", "self.example", "ping.example", "half.example"] {
        assert_eq!(resolver.resolve(name).await, Err(ResolveError::CnameLoop), "{name}");
    }
    assert_eq!(ResolveError::CnameLoop.cause_word(), "dns_cname_loop");
    // bounded: 1 + 1 + 13 + 1 questions a family at most
    assert!(server.asked().len() <= 32, "{}", server.asked().len());
}

#[tokio::test]
async fn a_chain_of_twelve_aliases_is_followed_and_of_thirteen_is_not() {
    let server = NameServer::start(|question| {
        let length: usize =
            question.name.trim_end_matches(".example.").parse::<usize>().unwrap_or(0);
        let name = |at: usize| {
            if at == 0 { question.name.clone() } else { format!("link{at}.example.") }
        };
        let mut records: Vec<_> =
            (0..length).map(|at| alias(&name(at), &name(at + 1), 60)).collect();
        records.push(address(&name(length), "192.0.2.1", 60));
        v4_only(question, records)
    })
    .await;
    // the script takes the length from the first label
    let twelve = "12.example";
    assert_eq!(resolver(&server).resolve(twelve).await.unwrap().addresses.len(), 1);
    let found = resolver(&server).resolve("13.example").await;
    assert_eq!(found, Err(ResolveError::CnameLoop));
}

#[tokio::test]
async fn addresses_under_another_name_are_not_taken() {
    let server = NameServer::start(|question| {
        let other = address("other.example.", "192.0.2.66", 60);
        let stray = address(&question.name, "192.0.2.67", 60);
        match (question.name.as_str(), question.kind) {
            ("mixed.example.", RecordType::A) => Say::More(
                vec![other.clone(), address("mixed.example.", "192.0.2.1", 60)],
                vec![other, stray],
            ),
            // an IPv4 address in the answer to a question for IPv6 addresses
            ("mixed.example.", _) => Say::Answers(vec![stray]),
            ("foreign.example.", _) => Say::Answers(vec![other]),
            (other, _) => panic!("{other}"),
        }
    })
    .await;
    let resolver = resolver(&server);
    let answer = resolver.resolve("mixed.example").await.unwrap();
    assert_eq!(*answer.addresses, *ips(&["192.0.2.1"]));
    assert_eq!(resolver.resolve("foreign.example").await, Err(ResolveError::NoAddress));
}

#[tokio::test]
async fn forged_answers_are_passed_over() {
    let server = NameServer::start(|question| {
        let records = vec![address(&question.name, "192.0.2.1", 60)];
        if question.kind != RecordType::A {
            return Say::None(ResponseCode::NoError, Some(60));
        }
        Say::Altered(
            records,
            vec![
                |m| {
                    m.metadata.id ^= 1;
                    m.answers = vec![address("www.example.", "192.0.2.66", 60)];
                },
                |m| {
                    m.queries[0].name = Name::from_ascii("other.example.").unwrap();
                    m.answers = vec![address("www.example.", "192.0.2.67", 60)];
                },
                |_| {},
            ],
        )
    })
    .await;
    let answer = resolver(&server).resolve("www.example").await.unwrap();
    assert_eq!(*answer.addresses, *ips(&["192.0.2.1"]));
}

#[tokio::test]
async fn an_answer_to_another_question_is_not_taken_over_tcp_either() {
    let server = NameServer::start(|question| match question.over {
        Over::Udp => Say::CutShort,
        Over::Tcp => Say::Altered(
            vec![address(&question.name, "192.0.2.66", 60)],
            vec![|m| m.queries[0].name = Name::from_ascii("other.example.").unwrap()],
        ),
    })
    .await;
    let found = resolver(&server).resolve("www.example").await;
    assert_eq!(found, Err(ResolveError::Malformed));
}

#[tokio::test]
async fn a_server_that_does_not_keep_the_case_of_letters_is_asked_over_tcp() {
    let server = NameServer::start(|question| {
        let records = vec![address(&question.name, "192.0.2.1", 60)];
        match (question.kind, question.over) {
            (RecordType::A, Over::Udp) => Say::Altered(
                records,
                vec![|m| m.queries[0].name = m.queries[0].name.to_lowercase()],
            ),
            (RecordType::A, Over::Tcp) => Say::Answers(records),
            _ => Say::None(ResponseCode::NoError, Some(60)),
        }
    })
    .await;
    // of forty letters one at least is a capital
    let name = "abcdefghijklmnopqrst.abcdefghijklmnopqrst.example";
    let answer = resolver(&server).resolve(name).await.unwrap();
    assert_eq!(*answer.addresses, *ips(&["192.0.2.1"]));
    assert!(server.asked().iter().any(|q| q.over == Over::Tcp));
}

#[tokio::test]
async fn more_than_64_addresses_are_refused() {
    let server = NameServer::start(|question| {
        let many = |kind, count: u8| -> Vec<_> {
            let ip = |last| match kind {
                RecordType::A => format!("192.0.2.{last}"),
                _ => format!("2001:db8::{last}"),
            };
            (0..count).map(|last| address(&question.name, &ip(last), 60)).collect()
        };
        match (question.name.as_str(), question.kind) {
            ("hundred.example.", RecordType::A) => Say::Answers(many(RecordType::A, 100)),
            ("hundred.example.", _) => usual(question),
            ("halves.example.", kind) => Say::Answers(many(kind, 33)),
            ("most.example.", kind) => Say::Answers(many(kind, 32)),
            ("doubles.example.", RecordType::A) => {
                Say::Answers([many(RecordType::A, 3), many(RecordType::A, 3)].concat())
            }
            _ => Say::None(ResponseCode::NoError, Some(60)),
        }
    })
    .await;
    let resolver = resolver(&server);
    for name in ["hundred.example", "halves.example"] {
        assert_eq!(resolver.resolve(name).await, Err(ResolveError::TooManyAddresses), "{name}");
    }
    assert_eq!(ResolveError::TooManyAddresses.cause_word(), "dns_answer_too_large");
    assert_eq!(resolver.resolve("most.example").await.unwrap().addresses.len(), 64);
    let doubles = resolver.resolve("doubles.example").await.unwrap();
    assert_eq!(*doubles.addresses, *ips(&["192.0.2.0", "192.0.2.1", "192.0.2.2"]));
}

#[tokio::test]
async fn an_answer_is_remembered_for_as_long_as_it_says_within_bounds() {
    let server = NameServer::start(|question| {
        let ttl = match question.name.as_str() {
            "zero.example." => 0,
            "hour.example." => 3600,
            _ => 100,
        };
        v4_only(question, vec![address(&question.name, "192.0.2.1", ttl)])
    })
    .await;
    let resolver = resolver(&server);
    for (name, seconds) in [("zero.example", 1), ("minutes.example", 100), ("hour.example", 300)] {
        let before = Instant::now();
        let first = resolver.resolve(name).await.unwrap();
        let (ttl, after) = (Duration::from_secs(seconds), Instant::now());
        assert!(first.expires >= before + ttl && first.expires <= after + ttl, "{name}");
        let again = resolver.resolve(name).await.unwrap();
        assert_eq!(again, Answer { cached: true, ..first }, "{name}");
        // whatever the spelling
        assert!(resolver.resolve(&name.to_uppercase()).await.unwrap().cached, "{name}");
    }
    assert_eq!(server.asked().len(), 6);
}

#[tokio::test]
async fn what_is_remembered_is_there_at_the_first_poll() {
    let server = NameServer::start(|question| match question.name.as_str() {
        "missing.example." => Say::None(ResponseCode::NXDomain, Some(3600)),
        _ => v4_only(question, vec![address(&question.name, "192.0.2.1", 3600)]),
    })
    .await;
    let resolver = resolver(&server);
    resolver.resolve("missing.example").await.unwrap_err();
    assert_eq!(at_once(resolver.resolve("missing.example")), Err(ResolveError::NxDomain));
    assert!(!resolver.resolve("www.example").await.unwrap().cached);
    // often enough for the cache to clean up in between
    for _ in 0..1_000 {
        assert!(at_once(resolver.resolve("www.example")).unwrap().cached);
    }
    assert_eq!(server.asked().len(), 4, "{:?}", server.asked());
}

/// What a future gives that is ready when it is first asked.
fn at_once<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("it waits"),
    }
}

#[tokio::test]
async fn a_remembered_answer_is_forgotten_and_asked_for_anew() {
    let server = NameServer::start(|question| {
        v4_only(question, vec![address(&question.name, "192.0.2.1", 0)])
    })
    .await;
    let resolver = resolver(&server);
    let first = resolver.resolve("www.example").await.unwrap();
    tokio::time::sleep_until(first.expires).await;
    let second = resolver.resolve("www.example").await.unwrap();
    assert!(!second.cached && second.expires > first.expires);
    assert_eq!(server.asked().len(), 4);
}

#[tokio::test]
async fn failures_are_remembered_for_a_moment() {
    let server = NameServer::start(|question| match question.name.as_str() {
        "servfail.example." => Say::None(ResponseCode::ServFail, None),
        _ => Say::None(ResponseCode::NXDomain, Some(3600)),
    })
    .await;
    let resolver = resolver(&server);
    for (name, longest) in [("servfail.example", 1), ("missing.example", 5)] {
        let before = server.asked().len();
        let first = resolver.resolve(name).await;
        let started = Instant::now();
        let asked = server.asked().len();
        assert_eq!(resolver.resolve(name).await, first);
        assert_eq!(server.asked().len(), asked, "{name}");
        assert_eq!(asked, before + 2);
        while server.asked().len() == asked {
            assert!(started.elapsed() < Duration::from_secs(longest + 2), "{name}");
            tokio::time::sleep(Duration::from_millis(50)).await;
            let _again = resolver.resolve(name).await;
        }
        assert!(started.elapsed() + SHORT > Duration::from_secs(longest), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_hundred_that_ask_at_once_ask_once() {
    let server = NameServer::start(usual).await;
    let resolver = Arc::new(resolver(&server));
    let mut asking = JoinSet::new();
    for _ in 0..500 {
        let resolver = Arc::clone(&resolver);
        asking.spawn(async move { resolver.resolve("www.example").await.unwrap().addresses });
    }
    let answers = asking.join_all().await;
    assert_eq!(answers.len(), 500);
    assert!(answers.iter().all(|addresses| **addresses == *ips(&["2001:db8::1", "192.0.2.1"])));
    assert_eq!(server.asked().len(), 2, "{:?}", server.asked());
}

/// Says nothing until the switch is set.
fn once_set(set: &Arc<AtomicBool>) -> impl Fn(&Question) -> Say + Send + Sync + use<> {
    let set = Arc::clone(set);
    move |question| if set.load(Ordering::SeqCst) { usual(question) } else { Say::Nothing }
}

#[tokio::test]
async fn one_lookup_serves_all_who_wait() {
    let set = Arc::default();
    let server = NameServer::start(once_set(&set)).await;
    let resolver = Arc::new(resolver(&server));
    let mut asking = JoinSet::new();
    for _ in 0..500 {
        let resolver = Arc::clone(&resolver);
        asking.spawn(async move { resolver.resolve("www.example").await.unwrap() });
    }
    server.has_been_asked(2).await;
    assert_eq!(resolver.flights.running_count(), 1);
    set.store(true, Ordering::SeqCst);
    assert_eq!(asking.join_all().await.len(), 500);
}

#[tokio::test]
async fn whoever_leaves_does_not_end_the_lookup_for_the_others() {
    let set = Arc::default();
    let server = NameServer::start(once_set(&set)).await;
    let resolver = resolver(&server);
    let leaves = resolver.resolve("www.example");
    tokio::select! {
        biased;
        found = leaves => panic!("{found:?}"),
        () = server.has_been_asked(2) => {}
    }
    set.store(true, Ordering::SeqCst);
    let lookups = resolver.flights.running_count();
    assert_eq!(lookups, 1, "still running, with nobody waiting");
    assert_eq!(resolver.resolve("www.example").await.unwrap().addresses.len(), 2);
    assert_eq!(resolver.flights.running_count(), 0);
}

#[tokio::test]
async fn only_so_many_names_are_looked_up_at_once() {
    let server = NameServer::start(|_| Say::Nothing).await;
    let settings =
        Settings::new(vec![Server::Plain(server.address)], SHORT, EgressAddresses::default());
    let upstreams = Arc::new(Upstreams::new(&settings).unwrap());
    let flights = Flights::new(upstreams, SHORT, 2);
    let started = Instant::now();
    let (one, two, three) = tokio::join!(
        flights.resolve("one.example"),
        flights.resolve("two.example"),
        flights.resolve("three.example")
    );
    // whose turn did not come waits no longer than the others
    assert!(started.elapsed() < SHORT * 4, "{:?}", started.elapsed());
    for found in [one, two, three] {
        assert_eq!(found.unwrap_err().cause_word(), "dns_timeout");
    }
    let mut names: Vec<_> = server.asked().into_iter().map(|q| q.name).collect();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), 2, "{names:?}");
}

#[tokio::test]
async fn whose_turn_does_not_come_is_told_so_and_the_queue_has_an_end() {
    let server = NameServer::start(usual).await;
    let settings =
        Settings::new(vec![Server::Plain(server.address)], SHORT, EgressAddresses::default());
    let upstreams = Arc::new(Upstreams::new(&settings).unwrap());
    let flights = Flights::new(Arc::clone(&upstreams), SHORT, 0);
    assert_eq!(flights.resolve("www.example").await, Err(ResolveError::TooManyQueries));
    assert!(server.asked().is_empty());
    let flights = Flights::new(upstreams, LONG, 0);
    let waiting: Vec<_> =
        (0..10_000).map(|at| flights.join(&format!("{at}.example")).unwrap()).collect();
    assert_eq!(flights.join("www.example").unwrap_err(), ResolveError::TooManyQueries);
    assert!(flights.join("7.example").is_ok(), "joins one that is there");
    assert_eq!(waiting.len(), flights.running_count());
}

#[tokio::test]
async fn what_is_no_host_name_is_not_asked_for() {
    let server = NameServer::start(usual).await;
    let resolver = resolver(&server);
    let label = "a".repeat(64);
    let long = format!("{}example", "aaaaaaaaa.".repeat(25));
    let longest = long.get(4..).unwrap();
    let kilobyte = "abc.".repeat(300) + "example";
    for name in [
        "127.0.0.1",
        "::1",
        "[::1]",
        "2130706433",
        "0x7f.1",
        "0x7F000001",
        "0x",
        "017700000001",
        "1.2.3.4.5",
        "256.256.256.256",
        "foo.0X4",
        "foo.09",
        "",
        ".",
        "www.example.",
        ".example",
        "www..example",
        "www.exam ple",
        "*.example",
        "www/example",
        "www\\.example",
        "user@example",
        "www.example:443",
        "b\u{fc}cher.example",
        "\u{ff11}.example",
        "www\0.example",
        &label,
        &long,
        &kilobyte,
    ] {
        assert_eq!(resolver.resolve(name).await, Err(ResolveError::InvalidName), "{name:?}");
    }
    assert!(server.asked().is_empty(), "{:?}", server.asked());
    assert_eq!(ResolveError::InvalidName.cause_word(), "dns_invalid_name");
    for name in ["a", "_dmarc.x-y.example", "1.example", "xn--bcher-kva.example", "0xg", longest] {
        assert!(resolver.resolve(name).await.is_ok(), "{name}");
    }
}

#[tokio::test]
async fn special_names_are_not_asked_for() {
    let server = NameServer::start(usual).await;
    let resolver = resolver(&server);
    for name in ["localhost", "LocalHost", "www.localhost"] {
        let answer = resolver.resolve(name).await.unwrap();
        assert_eq!(*answer.addresses, *ips(&["::1", "127.0.0.1"]), "{name}");
    }
    for name in ["invalid", "www.invalid", "example.onion"] {
        assert_eq!(resolver.resolve(name).await, Err(ResolveError::NxDomain), "{name}");
    }
    assert!(server.asked().is_empty(), "{:?}", server.asked());
}

#[tokio::test]
async fn any_response_counts_as_answering_and_silence_does_not() {
    let refusing = NameServer::start(|_| Say::None(ResponseCode::Refused, None)).await;
    let silent = NameServer::start(|_| Say::Nothing).await;
    let both = resolver_with(&[silent.address, refusing.address], LONG);
    assert!(both.answering(LONG).await);
    // remembered for a second, so that nobody can make us ask at will
    assert!(both.answering(LONG).await);
    let asked = refusing.asked();
    assert_eq!(asked.len(), 1);
    assert_eq!((asked[0].name.as_str(), asked[0].kind), (".", RecordType::NS));
    let started = Instant::now();
    assert!(!resolver_with(&[silent.address], LONG).answering(SHORT).await);
    assert!(started.elapsed() < SHORT * 4, "{:?}", started.elapsed());
    let gone = closed_port();
    assert!(!resolver_with(&[gone], LONG).answering(LONG).await);
}

#[tokio::test]
async fn questions_leave_from_the_egress_address() {
    let server = NameServer::start(|question| match question.over {
        Over::Udp => Say::CutShort,
        Over::Tcp => usual(question),
    })
    .await;
    let egress = EgressAddresses { v4: Some(Ipv4Addr::new(127, 0, 0, 3)), v6: None };
    let settings = Settings::new(vec![Server::Plain(server.address)], LONG, egress);
    Resolver::new(settings).unwrap().resolve("www.example").await.unwrap();
    let asked = server.asked();
    assert!(asked.iter().any(|q| q.over == Over::Udp) && asked.iter().any(|q| q.over == Over::Tcp));
    assert!(asked.iter().all(|q| q.from == IpAddr::from([127, 0, 0, 3])), "{asked:?}");
}

#[tokio::test]
async fn an_egress_address_that_is_gone_leaves_no_way_to_ask() {
    let server = NameServer::start(usual).await;
    let egress = EgressAddresses { v4: Some(Ipv4Addr::new(203, 0, 113, 99)), v6: None };
    let settings = Settings::new(vec![Server::Plain(server.address)], SHORT, egress);
    let found = Resolver::new(settings).unwrap().resolve("www.example").await;
    assert_eq!(found, Err(ResolveError::Unreachable));
    assert!(server.asked().is_empty());
}

#[tokio::test]
async fn a_resolver_that_is_dropped_ends_its_lookups() {
    let server = NameServer::start(|_| Say::Nothing).await;
    let resolver = resolver(&server);
    tokio::select! {
        biased;
        found = resolver.resolve("www.example") => panic!("{found:?}"),
        () = server.has_been_asked(2) => {}
    }
    let mut outcome = resolver.flights.join("www.example").unwrap();
    drop(resolver);
    let ended = timeout(LONG / 4, outcome.changed()).await;
    assert!(ended.expect("ended with its resolver").is_err(), "without an outcome");
}

#[test]
fn a_lookup_that_begins_as_the_program_ends_stops_nothing() {
    let resolver = resolver_with(&[closed_port()], LONG);
    let runtime = tokio::runtime::Builder::new_multi_thread().build().unwrap();
    let handle = runtime.handle().clone();
    drop(runtime);
    // a runtime that has ended drops what is spawned on it, there and then
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let _inside = handle.enter();
        let outcome = resolver.flights.join("www.example").unwrap();
        tell.send((outcome.has_changed().is_err(), resolver.flights.running_count())).unwrap();
    });
    assert_eq!(told.recv_timeout(LONG / 4), Ok((true, 0)));
}

/// The word of the refusal that an error leads to.
trait CauseWord {
    fn cause_word(&self) -> &'static str;
}

impl CauseWord for ResolveError {
    fn cause_word(&self) -> &'static str {
        crate::reason::Cause::from(self).as_str()
    }
}
