//! What a decision costs: each step of the policy by itself, and all of them together.
//!
//! Nothing here waits or does I/O. The last line is the figure to keep: the whole decision over
//! 100,000 targets, each time for another one of them.

#![expect(clippy::unwrap_used, reason = "a benchmark may panic")]

mod figures;
mod world;

use std::{hint::black_box, net::IpAddr};

use divan::{Bencher, bench};
use egress_gateway::{
    check::Standing,
    client::Clients,
    destination::{Asked, Destination},
    forward::client_hello,
    origin::{Authority, BaseUrl},
    path,
    policy::{self, Answered, Mode, address::classify},
    problem::Problem,
    reason::{Cause, Refusal},
    secret::Secret,
    server::head,
    slots::Slots,
    target::{Signing, SigningFormat, Target},
    webhook::{
        envelope::{Envelope, Outgoing},
        signature::{self, Keys},
    },
};
use http::{HeaderMap, Method};
use sha2::{Digest as _, Sha256};
use world::{Request, World};

/// Most that the whole decision may take on one core, in microseconds.
const DECISION_US_MAX: f64 = 2.0;

/// Most that the question whether a target is known to be reachable may add to it, in nanoseconds.
const GATE_NS_MAX: f64 = 200.0;

fn main() {
    divan::main();
    // Filters and options are divan's; `cargo test` only wants to see that it runs.
    if !std::env::args().any(|argument| argument == "--test" || argument == "--list") {
        let us = whole_decision_us();
        figures::report(
            "whole decision, 100,000 targets, every one in turn",
            us,
            "µs",
            DECISION_US_MAX,
        );
        let what = "gate: what it adds, 10,000 targets, every one in turn";
        figures::report(what, gate_ns(), "ns", GATE_NS_MAX);
    }
}

#[bench(args = [1, 1_000])]
fn authenticate_basic(bencher: Bencher<'_, '_>, clients: usize) {
    let clients = Clients::new(world::clients(clients)).unwrap();
    let headers = world::connect_headers("jira.customer-00000.example:443");
    bencher.bench(|| clients.authenticate(black_box(&headers), &[]).unwrap());
}

#[bench]
fn authenticate_wrong_token(bencher: Bencher<'_, '_>) {
    let clients = Clients::new(world::clients(1_000)).unwrap();
    let mut headers = HeaderMap::new();
    headers.insert("proxy-authorization", "Bearer nobody-has-this-one".parse().unwrap());
    bencher.bench(|| clients.authenticate(black_box(&headers), &[]).unwrap_err());
}

#[bench(args = ["jira.customer-00000.example:443", "198.51.100.7:8443", "[2001:db8::7]:443", "0x7f.1:443"])]
fn authority_parse(text: &str) -> bool {
    Authority::parse(black_box(text)).is_ok()
}

#[bench(args = ["https://jira.customer-00000.example/jira", "https://bücher.example/", "https://203.0.113.7:8443/"])]
fn base_url_parse(text: &str) -> bool {
    BaseUrl::parse(black_box(text), false).is_ok()
}

#[bench]
fn destination_connect(bencher: Bencher<'_, '_>) {
    let authority = "jira.customer-00000.example:443";
    let headers = world::connect_headers(authority);
    bencher.bench(|| Destination::connect(black_box(authority), black_box(&headers)).unwrap());
}

/// A relayed request's target, in both of its forms, with `Host`.
#[bench(args = ["http://jira.customer-00000.example/rest/api/2/issue/SEC-1?fields=summary", "/targets/customer-00000/rest/api/2/issue/SEC-1?fields=summary"])]
fn request_target_parse(bencher: Bencher<'_, '_>, target: &str) {
    let headers = world::connect_headers("jira.customer-00000.example");
    bencher.bench(|| Asked::parse(black_box(target), black_box(&headers)).unwrap());
}

#[bench(args = ["/jira/rest/api/2/issue/SEC-1", "/jira/rest/api/2/%7Ebob/b%C3%BCro", "/jira/%252e%252e/admin"])]
fn path_contained(path: &str) -> bool {
    path::contained(black_box("/jira"), black_box(path), false).is_ok()
}

#[bench(args = [1, 1_000, 100_000])]
fn owner_of(bencher: Bencher<'_, '_>, targets: usize) {
    let registry = world::registry(targets);
    let mut turn = 0;
    bencher
        .with_inputs(|| {
            turn = world::next(turn, targets);
            Authority::parse(&world::authority(turn)).unwrap()
        })
        .bench_local_refs(|authority| registry.owner_of(authority, None, preferred).is_ok());
}

#[bench]
fn owner_of_nobody_among_100_000(bencher: Bencher<'_, '_>) {
    let registry = world::registry(100_000);
    let authority = Authority::parse("evil.example:443").unwrap();
    bencher.bench(|| registry.owner_of(black_box(&authority), None, preferred).is_ok());
}

#[bench]
fn permit(bencher: Bencher<'_, '_>) {
    let world = World::new(1);
    let request = Request::new(0);
    let client = world.clients.authenticate(&request.headers, &[]).unwrap();
    let destination = Destination::connect(&request.authority, &request.headers).unwrap();
    let target = world.targets.get("customer-00000").unwrap();
    bencher.with_inputs(|| destination.clone()).bench_values(|destination| {
        policy::permit(black_box(&client), destination, target, Mode::Connect).unwrap()
    });
}

/// May traffic pass, by what the last check found?
#[bench(args = [1, 1_000, 10_000])]
fn gate(bencher: Bencher<'_, '_>, targets: usize) {
    let gate = world::Gate::new(targets);
    let mut turn = 0;
    bencher
        .with_inputs(|| {
            turn = world::next(turn, targets);
            gate.target(turn)
        })
        .bench_local_values(|target| matches!(gate.board.standing(target), Standing::Ready));
}

#[bench(args = [1, 2, 8])]
fn vet(bencher: Bencher<'_, '_>, addresses: usize) {
    let world = World::new(1);
    let permit = world.permit(&Request::new(0));
    let addresses = world::public_addresses(addresses);
    let port = permit.destination().authority.port;
    let answered = Answered { addresses: &addresses, port, last_seen: None };
    bencher.bench(|| policy::vet(&permit, &world.scene, black_box(&answered)).unwrap());
}

#[bench(args = ["93.184.215.14", "10.20.0.7", "169.254.169.254", "2606:2800:21f:cb07::1", "64:ff9b::a9fe:a9fe"])]
fn address_classify(bencher: Bencher<'_, '_>, address: &str) {
    let address: IpAddr = address.parse().unwrap();
    bencher.bench(|| classify(black_box(address), false));
}

#[bench]
fn slots_take_and_give_back(bencher: Bencher<'_, '_>) {
    let slots = Slots::new();
    let name = "app-00000".to_owned();
    bencher.bench(|| slots.take(black_box(&name), 10_000));
}

#[bench]
fn problem_render(bencher: Bencher<'_, '_>) {
    let world = World::new(1);
    let target = world.targets.get("customer-00000").unwrap();
    let refusal = Refusal::new(Cause::DnsNxdomain, "jira.customer-00000.example does not exist")
        .about(target.about(&[IpAddr::from([203, 0, 113, 10])]));
    bencher.bench(|| {
        let id = "01JABCDEFGHJKMNPQRSTVWXYZ0";
        Problem::new(black_box(&refusal), id, "203.0.113.10").to_http1()
    });
}

/// Everything that signs a body of so many bytes: key, hash, look for fields, signature, fields.
#[bench(args = [256, 4_096, 65_536])]
fn delivery_signed(bencher: Bencher<'_, '_>, bytes: usize) {
    let secret = Some(Secret::new(vec![7; 32]));
    let signing = Signing { secret, ..Signing::default() };
    let mut body = br#"{"event":"ticket_export.requested","tickets":[]}"#.to_vec();
    body.resize(bytes, b' ');
    let mut headers = HeaderMap::new();
    headers.insert("content-type", "application/json".parse().unwrap());
    bencher.bench(|| {
        let body = black_box(&body);
        let keys = Keys::new(&signing).unwrap().unwrap();
        let outgoing = Outgoing {
            target: "hook",
            method: &Method::POST,
            url: "https://hook.customer.example/hook",
            headers: &headers,
            body,
            payload_hash: Sha256::digest(body).into(),
            format: SigningFormat::WebRiskOps,
        };
        let envelope = Envelope::read(&outgoing, 1_700_000_000, [7; 16]).unwrap();
        let mut signed = headers.clone();
        signature::replace(&mut signed, signature::sign(&envelope, body, &keys));
        signed
    });
}

#[bench(args = ["rustls_default", "rustls_post_quantum", "records_of_31"])]
fn client_hello_read(bencher: Bencher<'_, '_>, seed: &str) {
    let bytes = world::seed("client_hello", seed);
    bencher.bench(|| client_hello::read(black_box(&bytes)));
}

#[bench(args = ["connect", "by_target_id"])]
fn head_scan(bencher: Bencher<'_, '_>, seed: &str) {
    let bytes = world::seed("head", seed);
    bencher.bench(|| head::scan(black_box(&bytes), 65_536).unwrap());
}

/// Everything that the gateway decides about a CONNECT between reading its head and dialling, with
/// an answer of two addresses in place of DNS.
#[bench(args = [1, 1_000, 100_000])]
fn whole_decision(bencher: Bencher<'_, '_>, targets: usize) {
    let world = World::new(targets);
    let addresses = world::public_addresses(2);
    let mut turn = 0;
    bencher
        .with_inputs(|| {
            turn = world::next(turn, targets);
            Request::new(turn)
        })
        .bench_local_refs(|request| world.decide(request, &addresses).unwrap());
}

/// The same in runs long enough for the clock, and short enough that most of them are not
/// interrupted. Gives the median run's microseconds for one.
fn whole_decision_us() -> f64 {
    const RUNS: usize = 2_001;
    const IN_A_RUN: u32 = 100;
    let world = World::new(100_000);
    let addresses = world::public_addresses(2);
    let mut turn = 0;
    let mut run = || {
        let requests: Vec<_> = (0..IN_A_RUN)
            .map(|_| {
                turn = world::next(turn, 100_000);
                Request::new(turn)
            })
            .collect();
        let took = figures::seconds(|| {
            for request in &requests {
                black_box(world.decide(black_box(request), &addresses).unwrap());
            }
        });
        took * 1e6 / f64::from(IN_A_RUN)
    };
    figures::median((0..RUNS).map(|_| run()).collect())
}

/// How much longer the same takes with the gate, among 10,000 targets. Gives the difference of the
/// median runs, in nanoseconds for one.
fn gate_ns() -> f64 {
    const RUNS: usize = 2_001;
    const IN_A_RUN: u32 = 100;
    let gate = world::Gate::new(10_000);
    let addresses = world::public_addresses(2);
    let mut turn = 0;
    let mut run = |gated: bool| {
        let requests: Vec<_> = (0..IN_A_RUN)
            .map(|_| {
                turn = world::next(turn, 10_000);
                Request::new(turn)
            })
            .collect();
        let took = figures::seconds(|| {
            for request in &requests {
                let permit = gate.world.permit(black_box(request));
                if gated {
                    let standing = gate.board.standing(permit.target());
                    assert!(matches!(standing, Standing::Ready), "no check counts");
                }
                black_box(gate.world.vet(&permit, &addresses).unwrap());
            }
        });
        took * 1e9 / f64::from(IN_A_RUN)
    };
    let runs: Vec<_> = (0..RUNS).map(|_| (run(false), run(true))).collect();
    let (without, with) = runs.into_iter().unzip();
    figures::median(with) - figures::median(without)
}

fn preferred(target: &Target) -> bool {
    target.connect_allowed()
}
