//! What browsers are made to send, what calls itself JSON, and how much of it.

use super::*;

const FORBIDDEN: (u16, &str) = (403, "ADMIN_ORIGIN_NOT_ALLOWED");

fn told(answer: &Answer) -> (u16, String) {
    answer.problem()
}

#[tokio::test]
async fn a_page_of_another_origin_changes_nothing() {
    let admin = plain(AdminView::default()).await;
    let ask = async |line: &str, fields: &str| admin.request(line, fields).await;
    let foreign = [
        "Sec-Fetch-Site: cross-site",
        "Sec-Fetch-Site: same-site",
        "Sec-Fetch-Site: same-origin\r\nSec-Fetch-Site: cross-site",
        "Origin: https://evil.example",
        "Origin: http://localhost:3000",
        "Origin: null",
        "Origin: http://localhost.evil.example",
        "Origin: localhost",
        "Sec-Fetch-Site: none\r\nOrigin: http://evil.example",
    ];
    for field in foreign {
        let field = format!("{field}\r\n");
        for line in ["POST /v1/explain", "PUT /v1/egress", "DELETE /nothing", "PATCH /healthz"] {
            let (status, code) = told(&ask(line, &field).await);
            assert_eq!((status, code.as_str()), FORBIDDEN, "{line} {field}");
        }
        let stream = told(&ask("GET /v1/decisions/stream", &field).await);
        assert_eq!((stream.0, stream.1.as_str()), FORBIDDEN, "{field}");
        assert_eq!(ask("GET /v1/egress", &field).await.status, 200, "looking is what CORS is for");
    }
    for field in [
        "",
        "Sec-Fetch-Site: same-origin\r\n",
        "Sec-Fetch-Site: none\r\n",
        "Origin: http://localhost\r\n",
        "Origin: https://LOCALHOST\r\nSec-Fetch-Site: same-origin\r\n",
    ] {
        assert_eq!(ask("PUT /v1/egress", field).await.problem().0, 405, "{field}");
    }
}

#[tokio::test]
async fn a_body_has_to_call_itself_json() {
    let admin = plain(AdminView::default()).await;
    let ask = async |field: &str, body: &str| {
        let head = format!("Host: localhost\r\nConnection: close\r\n{field}");
        let length = format!("Content-Length: {}\r\n", body.len());
        admin.send(&format!("POST /v1/explain HTTP/1.1\r\n{head}{length}\r\n{body}")).await
    };
    let body = r#"{"authority":"203.0.113.9:443"}"#;
    for field in [
        "",
        "Content-Type: text/plain\r\n",
        "Content-Type: application/x-www-form-urlencoded\r\n",
        "Content-Type: application/jsonp\r\n",
        "Content-Type: application/json\r\nContent-Type: application/json\r\n",
    ] {
        let answer = ask(field, body).await;
        assert_eq!(answer.problem(), (415, "ADMIN_CONTENT_TYPE".into()), "{field}");
    }
    for field in
        ["Content-Type: application/json\r\n", "Content-Type: Application/JSON ; charset=utf-8\r\n"]
    {
        assert_eq!(ask(field, body).await.status, 200, "{field}");
    }
    assert_eq!(ask("", "").await.problem().0, 400, "without a body there is no kind to tell");
}

#[tokio::test]
async fn a_token_that_asks_too_often_is_told_when_to_come_back() {
    let admin = plain(with_tokens()).await;
    let names = |name: &str| ["read", "operate"].contains(&name);
    while admin.state.rate.take("operate", names, tokio::time::Instant::now()) {}
    // The bucket fills while this is sent: some of these may pass, but not all.
    let mut limited = None;
    for _ in 0..1000 {
        while admin.state.rate.take("operate", names, tokio::time::Instant::now()) {}
        let fields = "Authorization: Bearer operate-token\r\n";
        let answer = admin.request("PUT /v1/egress", fields).await;
        if answer.status == 429 {
            limited = Some(answer);
            break;
        }
    }
    let limited = limited.expect("one of them is told");
    assert_eq!(limited.problem(), (429, "ADMIN_RATE_LIMITED".into()));
    assert_eq!(limited.field("retry-after"), Some("1"));
    let look = admin.request("GET /v1/egress", "Authorization: Bearer operate-token\r\n").await;
    assert_eq!(look.status, 200);
    let other = "Authorization: Bearer read-token\r\n";
    let other = admin.post("/v1/explain", "{}", other).await;
    assert_eq!(other.problem().0, 400, "another token has a bucket of its own");
}
