//! Recent decisions: the list and the stream.

use jiff::Timestamp;
use ulid::Ulid;

use super::*;
use crate::decisions::{Decision, FOLLOWERS_MAX, Timings};

/// The decision of this number: a request that came, and ended, so many seconds after 1970.
fn decision(number: u64) -> Decision {
    let refused = number % 2 == 1;
    Decision {
        decision_id: id(number),
        time: Timestamp::from_second(i64::try_from(number).unwrap()).unwrap(),
        client: Some("app".into()),
        target: Some(if number.is_multiple_of(3) { "three" } else { "other" }.into()),
        mode: "connect",
        method: Some("CONNECT".into()),
        authority: Some("a.example:443".into()),
        decision: if refused { "refused" } else { "allowed" },
        code: refused.then_some("SELF_HOSTED_DNS_FAILED"),
        cause: refused.then_some("dns_nxdomain"),
        detail: None,
        pinned: None,
        route: None,
        timings: Timings { total: 1.5, ..Timings::default() },
        bytes_to_target: number,
        bytes_to_client: 0,
        status: Some(200),
        end: None,
    }
}

fn id(number: u64) -> String {
    Ulid::from_parts(number * 1000, 7).to_string()
}

async fn with(count: u64) -> Admin {
    let admin = plain(AdminView::default()).await;
    note(&admin, 0..count);
    admin
}

fn note(admin: &Admin, numbers: std::ops::Range<u64>) {
    let decisions = &admin.state.gateway.books.decisions;
    numbers.for_each(|number| decisions.note(decision(number)));
}

/// The numbers on a page, and its cursor.
async fn page(admin: &Admin, query: &str) -> (Vec<u64>, Value) {
    let answer = admin.get(&format!("/v1/decisions?{query}")).await;
    assert_eq!(answer.status, 200, "{query}: {}", answer.body);
    let page = answer.json();
    let items = page["items"].as_array().unwrap();
    let numbers = items.iter().map(|item| item["bytes_to_target"].as_u64().unwrap());
    (numbers.collect(), page["next_cursor"].clone())
}

#[tokio::test]
async fn decisions_are_listed_the_newest_first_with_their_facts() {
    let admin = with(3).await;
    assert_eq!(page(&admin, "").await, (vec![2, 1, 0], Value::Null));
    let one =
        admin.get("/v1/decisions?code=SELF_HOSTED_DNS_FAILED").await.json()["items"][0].clone();
    assert_eq!(
        one,
        json!({
            "decision_id": id(1), "time": "1970-01-01T00:00:01Z", "client": "app",
            "target": "other", "mode": "connect", "method": "CONNECT",
            "authority": "a.example:443", "decision": "refused",
            "code": "SELF_HOSTED_DNS_FAILED", "cause": "dns_nxdomain", "detail": null,
            "pinned": null, "route": null,
            "timings": {"auth": null, "policy": null, "dns": null, "connect": null, "tls": null,
                "first_byte": null, "total": 1.5},
            "bytes_to_target": 1, "bytes_to_client": 0, "status": 200, "end": null,
        })
    );
}

#[tokio::test]
async fn each_filter_leaves_what_it_says() {
    let admin = with(10).await;
    let rows = [
        ("target=three", vec![9, 6, 3, 0]),
        ("target=nobody", vec![]),
        ("code=SELF_HOSTED_DNS_FAILED&target=three", vec![9, 3]),
        ("decision=allowed", vec![8, 6, 4, 2, 0]),
        ("decision=aborted", vec![]),
        ("since=1970-01-01T00:00:07Z", vec![9, 8, 7]),
        ("since=1970-01-01T01:00:07%2B01:00", vec![9, 8, 7]),
        ("since=2026-01-01T00:00:00Z", vec![]),
        (&*format!("since={}", id(7)), vec![9, 8]),
        (&*format!("since={}&decision=refused", id(7)), vec![9]),
        // of a decision that is not held, the time of its id counts
        (&*format!("since={}", Ulid::from_parts(6500, 1)), vec![9, 8, 7]),
    ];
    for (query, expected) in rows {
        assert_eq!(page(&admin, query).await, (expected, Value::Null), "{query}");
    }
}

#[tokio::test]
async fn pages_together_are_the_list_while_it_grows() {
    let admin = with(700).await;
    let (first, cursor) = page(&admin, "limit=300&target=three").await;
    assert_eq!(first, (0..700).rev().filter(|n| n % 3 == 0).take(300).collect::<Vec<_>>());
    assert_eq!(cursor, Value::Null, "there are 234 of them");

    let (first, cursor) = page(&admin, "limit=200&target=three").await;
    note(&admin, 700..710);
    let cursor = cursor.as_str().unwrap();
    let (second, end) = page(&admin, &format!("limit=200&target=three&cursor={cursor}")).await;
    assert_eq!((first.len(), second.len(), end), (200, 34, Value::Null));
    let together: Vec<_> = [first, second].concat();
    assert_eq!(together, (0..700).rev().filter(|n| n % 3 == 0).collect::<Vec<_>>());

    note(&admin, 710..10_000);
    let gone = page(&admin, &format!("cursor={cursor}")).await;
    assert_eq!(gone, (vec![], Value::Null), "what followed has made room");
}

#[tokio::test]
async fn a_wrong_query_is_refused_by_its_name() {
    let admin = with(1).await;
    for (query, name) in [
        ("limit=0", "limit"),
        ("limit=501", "limit"),
        ("cursor=x", "cursor"),
        ("cursor=-1", "cursor"),
        ("target=../x", "target"),
        ("code=hunter2", "code"),
        ("decision=maybe", "decision"),
        ("since=yesterday", "since"),
        ("since=2026-01-01T00:00:00", "since"),
        ("tarket=x", "tarket"),
        ("target=a&target=a", "target"),
    ] {
        let answer = admin.get(&format!("/v1/decisions?{query}")).await;
        assert_eq!(answer.problem(), (400, "ADMIN_REQUEST_INVALID".into()), "{query}");
        assert_eq!(answer.json()["errors"][0]["name"], name, "{}", answer.body);
        assert!(!answer.body.contains("hunter2"), "{}", answer.body);
    }
    for query in ["limit=1", "cursor=1"] {
        let answer = admin.get(&format!("/v1/decisions/stream?{query}")).await;
        assert_eq!(answer.problem().0, 400, "a stream has no pages: {query}");
    }
    let answer = admin.request("GET /v1/decisions/stream", "Last-Event-ID: 7\r\n").await;
    assert_eq!(answer.json()["errors"][0]["name"], "Last-Event-ID");
}

/// An open stream of events.
struct Stream {
    stream: TcpStream,
    text: String,
}

impl Stream {
    async fn open(admin: &Admin, query: &str, fields: &str) -> Self {
        let mut stream = TcpStream::connect(admin.address).await.unwrap();
        let line = format!("GET /v1/decisions/stream?{query} HTTP/1.1\r\nHost: localhost\r\n");
        stream.write_all(format!("{line}{fields}\r\n").as_bytes()).await.unwrap();
        let mut opened = Self { stream, text: String::new() };
        let head = opened.until("\r\n\r\n").await;
        assert!(head.starts_with("HTTP/1.1 200 OK"), "{head}");
        assert!(head.contains("content-type: text/event-stream\r\n"), "{head}");
        assert!(head.contains("cache-control: no-store\r\n"), "{head}");
        opened
    }

    async fn until(&mut self, mark: &str) -> String {
        loop {
            if let Some((before, after)) = self.text.split_once(mark) {
                let before = before.to_owned();
                self.text = after.to_owned();
                return before;
            }
            let mut bytes = [0; 4096];
            let read = timeout(PATIENCE, self.stream.read(&mut bytes)).await.expect("it goes on");
            let read = read.unwrap();
            assert_ne!(read, 0, "the stream ended: {:?}", self.text);
            self.text.push_str(std::str::from_utf8(&bytes[..read]).unwrap());
        }
    }

    /// The next event: its name and data.
    async fn event(&mut self) -> (String, Value) {
        let text = self.until("\n\n").await;
        // A line of its own tells the length of each chunk.
        let lines: Vec<_> = text.split(['\n', '\r']).collect();
        let field = |name: &str| lines.iter().find_map(|line| line.strip_prefix(name));
        let event = field("event: ").unwrap_or_else(|| panic!("{text:?}")).to_owned();
        let data: Value = serde_json::from_str(field("data: ").unwrap()).unwrap();
        if event == "decision" {
            assert_eq!(field("id: "), data["decision_id"].as_str());
        }
        (event, data)
    }

    async fn number(&mut self) -> u64 {
        let (event, data) = self.event().await;
        assert_eq!(event, "decision", "{data}");
        data["bytes_to_target"].as_u64().unwrap()
    }
}

#[tokio::test]
async fn a_stream_tells_what_is_decided_from_now_on() {
    let admin = with(5).await;
    let mut all = Stream::open(&admin, "", "").await;
    let mut some = Stream::open(&admin, "target=three&decision=refused", "").await;
    note(&admin, 5..12);
    for number in 5..12 {
        assert_eq!(all.number().await, number);
    }
    assert_eq!(some.number().await, 9);
    note(&admin, 12..20);
    assert_eq!(some.number().await, 15);
}

#[tokio::test]
async fn a_stream_goes_on_where_it_broke_off() {
    let admin = with(8).await;
    let last = format!("Last-Event-ID: {}\r\n", id(5));
    let mut resumed = Stream::open(&admin, &format!("since={}", id(1)), &last).await;
    assert_eq!(resumed.number().await, 6, "the field wins");
    assert_eq!(resumed.number().await, 7);
    note(&admin, 8..9);
    assert_eq!(resumed.number().await, 8);

    let mut since = Stream::open(&admin, "since=1970-01-01T00:00:07Z", "").await;
    assert_eq!(since.number().await, 7);

    note(&admin, 9..9 + 5000);
    let mut late = Stream::open(&admin, "", &last).await;
    assert_eq!(late.event().await, ("lagged".into(), json!({"missed": null})));
    assert_eq!(late.number().await, 5009 - 4096);
}

#[tokio::test]
async fn a_slow_reader_loses_the_oldest_and_holds_nobody_up() {
    let admin = with(0).await;
    let mut slow = Stream::open(&admin, "", "").await;
    // More than the sockets in between and the ring can hold.
    let mut written = 0;
    for _ in 0..20 {
        note(&admin, written..written + 5000);
        written += 5000;
        tokio::task::yield_now().await;
    }
    let (mut seen, mut missed, mut next) = (0, 0, 0);
    while next < written {
        let (event, data) = slow.event().await;
        if event == "lagged" {
            let gap = data["missed"].as_u64().unwrap();
            missed += gap;
            next += gap;
        } else {
            assert_eq!(data["bytes_to_target"], next, "in order, none twice");
            seen += 1;
            next += 1;
        }
    }
    assert!(missed > 0);
    assert_eq!(seen + missed, written);
}

#[tokio::test]
async fn streams_have_a_bound_and_give_their_place_back() {
    let admin = with(0).await;
    let mut streams = Vec::new();
    for _ in 0..FOLLOWERS_MAX {
        streams.push(Stream::open(&admin, "", "").await);
    }
    let more = admin.get("/v1/decisions/stream").await;
    assert_eq!(more.problem(), (503, "ADMIN_OVERLOADED".into()));
    assert_eq!(more.field("retry-after"), Some("1"));
    streams.pop();
    let freed = timeout(PATIENCE, async {
        while admin.request("HEAD /v1/decisions/stream", "").await.status != 200 {
            // A stream whose reader is gone is noticed by what is sent to it.
            note(&admin, 0..1);
        }
    });
    freed.await.expect("the place is free again");
}

#[tokio::test]
async fn a_silent_stream_says_that_it_lives() {
    let keep_alive = Duration::from_millis(50);
    let limits = Limits { keep_alive, ..Limits::default() };
    let admin = start(AdminView::default(), Switch::on(), limits).await;
    let mut stream = Stream::open(&admin, "", "").await;
    let began = tokio::time::Instant::now();
    stream.until(":\n\n").await;
    stream.until(":\n\n").await;
    assert!(began.elapsed() >= keep_alive);
}

#[tokio::test]
async fn a_stream_ends_when_the_listener_is_told_to_stop() {
    let limits = Limits { drain_timeout: 10 * PATIENCE, ..Limits::default() };
    let admin = start(AdminView::default(), Switch::on(), limits).await;
    let stream = Stream::open(&admin, "", "").await;
    admin.stop.cancel();
    timeout(PATIENCE, admin.serving).await.unwrap().unwrap();
    let rest = rest_of(stream.stream).await;
    assert!(rest.ends_with(b"0\r\n\r\n"), "it ends as a whole: {rest:?}");
}

#[tokio::test]
async fn a_stream_asks_for_a_token() {
    let admin = plain(with_tokens()).await;
    assert_eq!(admin.get("/v1/decisions/stream").await.problem().0, 401);
    Stream::open(&admin, "", "Authorization: Bearer read-token\r\n").await;
}
