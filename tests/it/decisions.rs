//! What was decided, as the admin API tells it: the facts of the event, live and afterwards.

use crate::support::{
    eventually,
    gateway::Gateway,
    http::Conn,
    lab::{self, PUBLIC},
    receiver::Receiver,
    within,
};
use serde_json::Value;

/// Every field of a decision, as the event has it too; the timings apart.
const FIELDS: [&str; 14] = [
    "client",
    "target",
    "mode",
    "method",
    "authority",
    "decision",
    "code",
    "cause",
    "detail",
    "pinned",
    "route",
    "bytes_to_target",
    "bytes_to_client",
    "status",
];

async fn listed(gateway: &Gateway, query: &str) -> Vec<Value> {
    let page = gateway.admin(&format!("/v1/decisions?{query}")).await.json();
    page["items"].as_array().unwrap_or_else(|| panic!("{page}")).clone()
}

/// Opens the stream, and reads the head of its answer.
async fn stream(gateway: &Gateway) -> Conn {
    let mut conn = Conn::open(gateway.admin).await;
    conn.send(format!("GET /v1/decisions/stream HTTP/1.1\r\nHost: {}\r\n\r\n", gateway.admin))
        .await;
    let head = conn.reply_head().await;
    assert_eq!(head.status, 200, "{head:?}");
    conn
}

/// The next bytes, up to and with this mark.
async fn until(conn: &mut Conn, mark: &str) -> String {
    let mut text = String::new();
    while !text.ends_with(mark) {
        text.push(char::from(within("an event", conn.take(1)).await[0]));
    }
    text
}

#[test]
fn each_decision_is_listed_with_the_facts_of_its_event() {
    lab::run(async |lab| {
        let _receiver = Receiver::echo((PUBLIC, 443));
        let gateway = lab.gateway_with_acme().await;
        let mut tunnel = gateway.tunnel("acme.example:443").await;
        tunnel.send("x").await;
        assert_eq!(tunnel.take(1).await, b"x");
        tunnel.finish().await;
        tunnel.until_closed().await;
        gateway.connect("evil.example:443").await;
        gateway.get("http://evil.example/secret-path?token=hunter2").await;
        gateway.ask("NONSENSE\r\n\r\n").await;
        gateway.assert_recorded(4).await;
        let decisions = eventually("four decisions", async || {
            Some(listed(&gateway, "").await).filter(|listed| listed.len() == 4)
        })
        .await;
        let events = gateway.canonical();
        for decision in &decisions {
            let id = decision["decision_id"].as_str().unwrap();
            let event = events.iter().find(|event| event.text("decision_id") == id).unwrap();
            for field in FIELDS {
                assert_eq!(&decision[field], event.get(field), "{field} of {decision}");
            }
            assert_eq!(&decision["end"], event.get("end"));
            let timings = decision["timings"].as_object().unwrap();
            assert_eq!(timings.len(), 7);
            for (name, value) in timings {
                assert_eq!(value, event.get(name), "{name} of {decision}");
            }
        }
        let text = Value::from(decisions.clone()).to_string();
        assert!(!text.contains("hunter2") && !text.contains("secret-path"), "{text}");

        assert_eq!(listed(&gateway, "decision=allowed").await.len(), 1);
        assert_eq!(listed(&gateway, "target=acme").await.len(), 1);
        assert_eq!(listed(&gateway, "code=SELF_HOSTED_BASE_URL_UNSAFE").await.len(), 2);
        let oldest = decisions.last().unwrap()["decision_id"].as_str().unwrap();
        assert_eq!(listed(&gateway, &format!("since={oldest}")).await.len(), 3);
    });
}

#[test]
fn decisions_are_told_as_they_are_made() {
    lab::run(async |lab| {
        let gateway = lab.gateway_with_acme().await;
        let mut stream = stream(&gateway).await;
        for number in 0..3 {
            let authority = format!("evil-{number}.example:443");
            gateway.connect(&authority).await;
            let event = until(&mut stream, "\n\n").await;
            assert!(event.contains("event: decision\n"), "{event}");
            let data = event.lines().find_map(|line| line.strip_prefix("data: ")).unwrap();
            let data: Value = serde_json::from_str(data).unwrap();
            assert_eq!(data["authority"], authority);
            assert!(event.contains(&format!("id: {}\n", data["decision_id"].as_str().unwrap())));
        }
    });
}

#[test]
fn the_program_stops_at_once_although_streams_are_open() {
    lab::run(async |lab| {
        let mut gateway = lab.gateway_with_acme().await;
        let mut streams = Vec::new();
        for _ in 0..3 {
            streams.push(stream(&gateway).await);
        }
        let began = tokio::time::Instant::now();
        gateway.signal("TERM");
        assert!(gateway.ended().await.success());
        // Less than the five seconds that the admin listener gives to what is under way.
        assert!(began.elapsed().as_secs() < 5, "{:?}", began.elapsed());
        for mut stream in streams {
            let rest = String::from_utf8(stream.until_closed().await).unwrap();
            assert!(rest.ends_with("0\r\n\r\n"), "a stream was cut: {rest:?}");
        }
    });
}
