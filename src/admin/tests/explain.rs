//! `POST /v1/explain`.

use super::*;

const CONFIG: &str = r#"
policy.allow_loopback = true

[[clients]]
name = "app"
token = { file = "token" }
targets = ["open-*"]

[[targets]]
id = "open-origin"
provider_key = "jira_data_center"
deployment_mode = "self-hosted"
base_url = "https://127.0.0.1:8443"
private_network_policy = "direct"
private_network_allowlist = ["127.0.0.0/8"]

[[targets]]
id = "closed-origin"
provider_key = "jira_data_center"
deployment_mode = "self-hosted"
base_url = "https://10.20.0.5"

[[targets]]
id = "open-name"
provider_key = "jira_data_center"
deployment_mode = "self-hosted"
base_url = "https://jira.acme.example/jira"
"#;

async fn admin(view: AdminView) -> Admin {
    start_with(gateway(CONFIG).await, view, Switch::on(), Limits::default()).await
}

#[tokio::test]
async fn a_decision_is_told_with_everything_that_led_to_it() {
    let admin = admin(AdminView::default()).await;
    let told = admin.post("/v1/explain", r#"{"authority":"127.0.0.1:8443"}"#, "").await;
    assert_eq!(told.status, 200, "{}", told.body);
    let told = told.json();
    assert_eq!(told["decision"], "allowed");
    assert_eq!(told["code"], Value::Null);
    assert_eq!(told["cause"], Value::Null);
    assert_eq!(told["target_id"], "open-origin");
    assert_eq!(told["pinned"], "127.0.0.1:8443");
    assert_eq!(told["route"], "direct");
    let address = &told["addresses"][0];
    assert_eq!(
        (&address["address"], &address["class"], &address["verdict"]),
        (&json!("127.0.0.1"), &json!("private"), &json!("approved"))
    );
    assert!(address["source"].as_str().is_some_and(|source| !source.is_empty()));
    let rules = told["rules"].as_array().unwrap();
    assert!(rules.len() > 5);
    for rule in rules {
        assert!(rule["name"].is_string(), "{rule}");
        assert!(rule["detail"].is_null(), "{rule}");
        assert!(["passed", "not_asked"].contains(&rule["verdict"].as_str().unwrap()), "{rule}");
    }
}

#[tokio::test]
async fn each_question_gets_the_cause_that_traffic_would_get() {
    let admin = admin(AdminView::default()).await;
    let rows = [
        (json!({"url": "https://127.0.0.1:8443/x"}), Value::Null),
        (json!({"method": "CONNECT", "url": "https://127.0.0.1:8443/"}), Value::Null),
        (json!({"url": "/targets/open-origin/x"}), Value::Null),
        (json!({"authority": "127.0.0.1:8443", "client": "app", "target": null}), Value::Null),
        (json!({"authority": "127.0.0.1:8443", "client": "no"}), json!("client_unauthenticated")),
        (json!({"authority": "10.20.0.5:443", "client": "app"}), json!("client_forbidden")),
        (json!({"authority": "10.20.0.5:443"}), json!("address_private")),
        (json!({"authority": "10.20.0.6:443"}), json!("no_target")),
        (json!({"authority": "10.20.0.5:443", "target": "open-origin"}), json!("target_mismatch")),
        (json!({"url": "https://jira.acme.example/other"}), json!("outside_base_path")),
        (json!({"url": "https://0x7f.1/"}), json!("host_not_canonical")),
        (json!({"url": "nonsense"}), json!("request_target_invalid")),
        (json!({"authority": "127.0.0.1"}), json!("authority_invalid")),
    ];
    for (question, cause) in rows {
        let answer = admin.post("/v1/explain", &question.to_string(), "").await;
        assert_eq!(answer.status, 200, "{question}: {}", answer.body);
        let told = answer.json();
        assert_eq!(told["cause"], cause, "{question}: {told}");
        let decision = if cause.is_null() { "allowed" } else { "refused" };
        assert_eq!(told["decision"], decision, "{question}");
        assert_eq!(told["code"].is_null(), cause.is_null(), "{question}");
        let rules = told["rules"].as_array().unwrap().iter();
        let refused = rules.filter(|rule| rule["verdict"] == "refused").count();
        assert_eq!(refused, usize::from(!cause.is_null()), "{question}: {told}");
    }
}

#[tokio::test]
async fn dns_is_asked_and_what_it_does_not_answer_is_said() {
    // Nobody answers at the name server of this test.
    let admin = admin(AdminView::default()).await;
    let question = r#"{"url":"https://jira.acme.example/jira/x"}"#;
    let told = admin.post("/v1/explain", question, "").await.json();
    assert_eq!(told["decision"], "refused");
    assert!(told["cause"].as_str().unwrap().starts_with("dns_"), "{told}");
    assert_eq!(told["target_id"], "open-name");
}

#[tokio::test]
async fn what_cannot_be_asked_is_named() {
    let admin = admin(AdminView::default()).await;
    for (question, names) in [
        ("{}", &["url"][..]),
        (r#"{"url":"https://a.example/","authority":"a.example:443"}"#, &["authority"]),
        (r#"{"authority":"a.example:443","method":"GET"}"#, &["method"]),
        (r#"{"url":"https://a.example/","method":"a b"}"#, &["method"]),
        (r#"{"url":"https://a.example/","target":"../x"}"#, &["target"]),
        (r#"{"url":7,"clint":"app"}"#, &["url", "clint"]),
        (r#"{"url":"/targets/a","url":"/targets/b"}"#, &["body"]),
        ("[]", &["body"]),
        ("", &["body"]),
    ] {
        let answer = admin.post("/v1/explain", question, "").await;
        assert_eq!(answer.problem(), (400, "ADMIN_REQUEST_INVALID".into()), "{question}");
        let errors = answer.json()["errors"].clone();
        let named: Vec<_> =
            errors.as_array().unwrap().iter().map(|error| error["name"].clone()).collect();
        assert_eq!(named, names, "{question}: {}", answer.body);
    }
    let large = format!("{{\"url\":\"{}\"}}", "x".repeat(70_000));
    assert_eq!(admin.post("/v1/explain", &large, "").await.problem().0, 413);
}

#[tokio::test]
async fn a_body_that_does_not_come_is_not_waited_for() {
    let limits = Limits { body_timeout: Duration::from_millis(100), ..Limits::default() };
    let admin = start(AdminView::default(), Switch::on(), limits).await;
    let head = "Host: localhost\r\nContent-Type: application/json\r\nContent-Length: 100\r\n";
    let answer = admin.send(&format!("POST /v1/explain HTTP/1.1\r\n{head}\r\n{{")).await;
    assert_eq!(answer.problem(), (408, "ADMIN_BODY_SLOW".into()));
}

#[tokio::test]
async fn explaining_is_looking() {
    let admin = admin(with_tokens()).await;
    let body = r#"{"authority":"127.0.0.1:8443"}"#;
    let ask = async |token: &str| {
        let fields = format!("Authorization: Bearer {token}\r\n");
        admin.post("/v1/explain", body, &fields).await
    };
    assert_eq!(ask("read-token").await.status, 200);
    assert_eq!(ask("operate-token").await.status, 200);
    assert_eq!(ask("no-token").await.problem().0, 401);
}

#[tokio::test]
async fn only_so_many_are_explained_at_once() {
    let admin = admin(AdminView::default()).await;
    let body = r#"{"authority":"127.0.0.1:8443"}"#;
    let places = u32::try_from(super::super::explain::AT_ONCE_MAX).unwrap();
    let all = admin.state.explaining.try_acquire_many(places).unwrap();
    let busy = admin.post("/v1/explain", body, "").await;
    assert_eq!(busy.problem(), (503, "ADMIN_OVERLOADED".into()));
    assert_eq!(busy.field("retry-after"), Some("1"));
    drop(all);
    assert_eq!(admin.post("/v1/explain", body, "").await.status, 200);
}
