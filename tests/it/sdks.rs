//! The SDKs of `docs/clients.md`, set up as it is printed there, by base URL: against a server
//! behind TLS that answers in the shapes of the real APIs, their absolute links included.
//!
//! What each of them does stands in `tests/clients/sdks`; `tests/run` installs them.

use crate::{
    clients::{self, installed},
    support::{
        http::Request,
        lab::{self, Lab, PUBLIC},
        origin::{Origin, answer},
        within,
    },
};
use serde_json::{Value, json};
use std::path::Path;

const GATEWAY_TOKEN: &str = "a-clients-token-5f3e9a";
const PROVIDER_TOKEN: &str = "a-providers-token-c81d07";

/// What `docs/clients.md` prints under this name.
fn printed(name: &str) -> String {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/clients.md");
    let page = std::fs::read_to_string(page).unwrap();
    let found = page.split("\n```").skip(1).step_by(2).find_map(|block| {
        let (info, code) = block.split_once('\n').unwrap();
        (info.split_once(' ')?.1 == name).then(|| format!("{code}\n"))
    });
    found.unwrap_or_else(|| panic!("docs/clients.md prints no {name}"))
}

/// Runs a setup of the page and the calls that go with it, through a gateway with these targets;
/// gives what it said and every request that came to the target's server.
async fn run(
    lab: Lab,
    setup: &str,
    targets: &[&str],
    hosts: &[&str],
    api: fn(&str, &str, &Value) -> Vec<u8>,
) -> (String, Vec<Request>) {
    let ca = lab.ca("ca");
    let tls = ca.server(hosts).server_config();
    let origin = Origin::start((PUBLIC, 443), Some(tls), move |request| {
        let (method, rest) = request.line.split_once(' ').unwrap();
        let path = rest.split(' ').next().unwrap();
        let body = serde_json::from_slice(&request.body).unwrap_or_default();
        api(method, path, &body)
    });
    for host in hosts {
        lab.dns.addresses(host, &[PUBLIC]);
    }
    let token = lab.secret("token", GATEWAY_TOKEN);
    lab.secret("provider", PROVIDER_TOKEN);
    let client =
        format!("name = \"app\"\ntoken = {{ file = \"{}\" }}\ntargets = [\"*\"]", token.display());
    let config = lab.config().trusting(&ca).client(&client);
    let config = targets.iter().fold(config, |config, target| config.target(target));
    let gateway = lab.gateway(&config).await;

    let place = |name: &str, more: &str| {
        let code = printed(name).replace("gateway.internal:3128", &gateway.proxy.to_string());
        lab.file(name, code + more)
    };
    let calls = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/sdks").join(setup);
    let script = place(setup, &std::fs::read_to_string(calls).unwrap());
    place("gateway.py", "");
    std::os::unix::fs::symlink(installed().join("node_modules"), lab.dir().join("node_modules"))
        .unwrap();
    let python = Path::new(setup).extension().is_some_and(|extension| extension == "py");
    let program = if python { clients::python() } else { "node".into() };
    let mut command = std::process::Command::new(program);
    command
        .arg(script)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap())
        .env("HOME", lab.dir())
        .env("HTTPS_PROXY", format!("http://app:{GATEWAY_TOKEN}@{}", gateway.proxy))
        .env("HTTP_PROXY", "http://192.0.2.1:9")
        .env("GATEWAY_TOKEN", GATEWAY_TOKEN)
        .current_dir(lab.dir());
    for name in ["GITHUB_TOKEN", "GITLAB_TOKEN", "JIRA_TOKEN", "BITBUCKET_TOKEN"] {
        command.env(name, PROVIDER_TOKEN);
    }
    let output = tokio::task::spawn_blocking(move || command.output().unwrap());
    let output = within("the SDK's end", output).await.unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let trouble = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {said}\n{trouble}", output.status);

    let requests = origin.requests();
    // The last one of each script is refused; nothing went another way than the relay.
    gateway.assert_recorded(requests.len() + 1).await;
    for event in gateway.canonical() {
        assert_eq!((event.text("mode"), event.text("client")), ("relay", "app"), "{event:?}");
    }
    for request in &requests {
        for name in request.names() {
            let ours = ["proxy-", "x-webriskops-", "x-forwarded-", "forwarded", "via"];
            assert!(!ours.iter().any(|prefix| name.starts_with(prefix)), "{request:?}");
        }
        assert!(!format!("{request:?}").contains(GATEWAY_TOKEN), "{request:?}");
    }
    (said, requests)
}

/// Asserts that the script said exactly this.
fn assert_said(said: &str, expected: &[&str]) {
    assert_eq!(said.lines().collect::<Vec<_>>(), expected);
}

/// Asserts that exactly these requests came, each with this field.
fn assert_came(requests: &[Request], (name, value): (&str, &str), expected: &[&str]) {
    let line = |request: &Request| {
        assert_eq!(request.field(name), Some(value), "{request:?}");
        request.line.strip_suffix(" HTTP/1.1").unwrap().to_owned()
    };
    assert_eq!(requests.iter().map(line).collect::<Vec<_>>(), expected);
}

fn reply(status: &str, fields: &[(&str, &str)], body: &Value) -> Vec<u8> {
    let json = [("Content-Type", "application/json; charset=utf-8")];
    answer(status, &[&json, fields].concat(), &body.to_string())
}

fn ok(body: &Value) -> Vec<u8> {
    reply("200 OK", &[], body)
}

fn created(body: &Value) -> Vec<u8> {
    reply("201 Created", &[], body)
}

fn basic(user: &str) -> String {
    use base64::Engine as _;
    let text = format!("{user}:{PROVIDER_TOKEN}");
    format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(text))
}

#[test]
fn octokit_works_through_its_base_url() {
    lab::run(async |lab| {
        let target = "id = \"github\"\nprovider_key = \"github_issues\"\n\
                      deployment_mode = \"cloud\"\nbase_url = \"https://api.github.com\"";
        let (said, requests) =
            run(lab, "octokit.mjs", &[target], &["api.github.com"], github).await;
        assert_said(
            &said,
            &[
                "read: 7 issue 7",
                "created: 8 Größe ✓",
                "commented: 1 seen",
                "listed: 1,2,3",
                "refused: 403 PROVIDER_BASE_URL_BLOCKED",
            ],
        );
        let token = format!("token {PROVIDER_TOKEN}");
        let expected = [
            "GET /repos/octo/hello/issues/7",
            "POST /repos/octo/hello/issues",
            "POST /repos/octo/hello/issues/8/comments",
            "GET /repos/octo/hello/issues?per_page=2",
            "GET /repositories/1300192/issues?per_page=2&page=2",
        ];
        assert_came(&requests, ("authorization", &token), &expected);
    });
}

fn github(method: &str, path: &str, body: &Value) -> Vec<u8> {
    let issue = |number: u32, title: &Value| {
        let url = format!("https://api.github.com/repos/octo/hello/issues/{number}");
        json!({
            "url": url, "comments_url": format!("{url}/comments"), "id": 1_000 + number,
            "node_id": "MDU6SXNzdWUx", "number": number, "state": "open", "title": title,
            "body": body["body"], "user": {"login": "octo", "id": 1, "type": "User"},
            "labels": [], "assignees": [], "comments": 0, "locked": false,
            "created_at": "2011-04-22T13:33:48Z", "closed_at": null,
        })
    };
    let titled = |number| issue(number, &format!("issue {number}").into());
    match (method, path) {
        ("GET", "/repos/octo/hello/issues/7") => ok(&titled(7)),
        ("POST", "/repos/octo/hello/issues") => created(&issue(8, &body["title"])),
        ("POST", "/repos/octo/hello/issues/8/comments") => {
            let url = "https://api.github.com/repos/octo/hello/issues/comments/1";
            created(&json!({"id": 1, "url": url, "body": body["body"], "user": {"login": "octo"}}))
        }
        ("GET", "/repos/octo/hello/issues?per_page=2") => {
            let page = "https://api.github.com/repositories/1300192/issues?per_page=2&page=2";
            let link = format!("<{page}>; rel=\"next\", <{page}>; rel=\"last\"");
            reply("200 OK", &[("Link", &link)], &json!([titled(1), titled(2)]))
        }
        ("GET", "/repositories/1300192/issues?per_page=2&page=2") => ok(&json!([titled(3)])),
        _ => reply("404 Not Found", &[], &json!({"message": "Not Found", "status": "404"})),
    }
}

#[test]
fn python_gitlab_works_through_its_base_url() {
    lab::run(async |lab| {
        let target = "id = \"acme-gitlab\"\nprovider_key = \"gitlab_self_managed_issues\"\n\
                      deployment_mode = \"self-hosted\"\nbase_url = \"https://acme.example/gitlab\"";
        let (said, requests) =
            run(lab, "gitlab_setup.py", &[target], &["acme.example"], gitlab).await;
        let (said, refused) = said.trim_end().rsplit_once('\n').unwrap();
        assert_said(
            said,
            &[
                "read: 42 group/sub/hello",
                "read: 7 issue 7",
                "created: 8 Größe ✓",
                "commented: 1 seen",
                "listed: 1 2 3",
                "file: hello",
            ],
        );
        assert!(refused.starts_with("refused: 403 {"), "{refused}");
        assert!(refused.contains("SELF_HOSTED_BASE_URL_UNSAFE"), "{refused}");
        // The slashes of a project's path are still encoded at the target.
        let expected = [
            "GET /gitlab/api/v4/projects/group%2Fsub%2Fhello",
            "GET /gitlab/api/v4/projects/42/issues/7",
            "POST /gitlab/api/v4/projects/42/issues",
            "POST /gitlab/api/v4/projects/42/issues/8/notes",
            "GET /gitlab/api/v4/projects/42/issues?per_page=2",
            "GET /gitlab/api/v4/projects/42/issues?id=42&page=2&per_page=2",
            "GET /gitlab/api/v4/projects/group%2Fsub%2Fhello/repository/files/docs%2Fread%20me.md\
             /raw?ref=main",
        ];
        assert_came(&requests, ("private-token", PROVIDER_TOKEN), &expected);
    });
}

fn gitlab(method: &str, path: &str, body: &Value) -> Vec<u8> {
    let api = "https://acme.example/gitlab/api/v4";
    let issue = |iid: u32, title: &Value| {
        json!({
            "id": 1_000 + iid, "iid": iid, "project_id": 42, "title": title,
            "description": body["description"], "state": "opened", "labels": [],
            "author": {"id": 1, "username": "dev"}, "created_at": "2016-01-04T15:31:46.176Z",
            "web_url": format!("https://acme.example/gitlab/group/sub/hello/-/issues/{iid}"),
            "_links": {"self": format!("{api}/projects/42/issues/{iid}")},
        })
    };
    let titled = |iid| issue(iid, &format!("issue {iid}").into());
    match (method, path.strip_prefix("/gitlab/api/v4/projects/").unwrap_or_default()) {
        ("GET", "group%2Fsub%2Fhello") => ok(&json!({
            "id": 42, "path_with_namespace": "group/sub/hello", "name": "hello",
            "_links": {"self": format!("{api}/projects/42")},
        })),
        ("GET", "42/issues/7") => ok(&titled(7)),
        ("POST", "42/issues") => created(&issue(8, &body["title"])),
        ("POST", "42/issues/8/notes") => {
            created(&json!({"id": 1, "body": body["body"], "noteable_iid": 8}))
        }
        ("GET", "42/issues?per_page=2") => {
            let page = format!("{api}/projects/42/issues?id=42&page=2&per_page=2");
            let fields = [
                ("Link", &*format!("<{page}>; rel=\"next\", <{page}>; rel=\"last\"")),
                ("X-Next-Page", "2"),
                ("X-Page", "1"),
                ("X-Per-Page", "2"),
                ("X-Total", "3"),
                ("X-Total-Pages", "2"),
            ];
            reply("200 OK", &fields, &json!([titled(1), titled(2)]))
        }
        ("GET", "42/issues?id=42&page=2&per_page=2") => ok(&json!([titled(3)])),
        ("GET", "group%2Fsub%2Fhello/repository/files/docs%2Fread%20me.md/raw?ref=main") => {
            answer("200 OK", &[("Content-Type", "text/plain")], "hello")
        }
        _ => reply("404 Not Found", &[], &json!({"message": "404 Not Found"})),
    }
}

#[test]
fn jira_for_python_works_through_its_base_url() {
    lab::run(async |lab| {
        let target = "id = \"acme-jira\"\nprovider_key = \"jira_data_center\"\n\
                      deployment_mode = \"self-hosted\"\nbase_url = \"https://jira.acme.example\"";
        let (said, requests) =
            run(lab, "jira_setup.py", &[target], &["jira.acme.example"], jira).await;
        assert_said(
            &said,
            &[
                "read: ACME-7 issue 7",
                "attached: hello",
                "created: ACME-8",
                "commented: 1 seen",
                "changed: ACME-8",
                "listed: ACME-1 ACME-2 ACME-3",
                "refused: 403 SELF_HOSTED_BASE_URL_UNSAFE",
            ],
        );
        let search = "GET /rest/api/2/search?jql=project+%3D+ACME+ORDER+BY+key";
        let more = "validateQuery=True&fields=%2Aall";
        let expected = [
            "GET /rest/api/2/issue/ACME-7",
            "GET /secure/attachment/10001/a.txt",
            "GET /rest/api/2/project/ACME",
            "POST /rest/api/2/issue",
            "GET /rest/api/2/issue/ACME-8",
            "POST /rest/api/2/issue/ACME-8/comment",
            "PUT /rest/api/2/issue/1008",
            "GET /rest/api/2/issue/1008",
            "GET /rest/api/2/field",
            &format!("{search}&startAt=0&{more}&maxResults=100"),
            &format!("{search}&startAt=2&{more}&maxResults=2"),
        ];
        let token = format!("Bearer {PROVIDER_TOKEN}");
        assert_came(&requests, ("authorization", &token), &expected);
    });
}

fn jira(method: &str, path: &str, body: &Value) -> Vec<u8> {
    let issue = |number: u32| {
        json!({
            "expand": "renderedFields,names,schema", "id": format!("{}", 1_000 + number),
            "self": format!("https://jira.acme.example/rest/api/2/issue/{}", 1_000 + number),
            "key": format!("ACME-{number}"),
            "fields": {
                "summary": format!("issue {number}"), "comment": {"comments": [], "total": 0},
                "attachment": [{
                    "self": "https://jira.acme.example/rest/api/2/attachment/10001",
                    "id": "10001", "filename": "a.txt", "size": 5,
                    "content": "https://jira.acme.example/secure/attachment/10001/a.txt",
                }],
                "issuetype": {
                    "self": "https://jira.acme.example/rest/api/2/issuetype/1", "name": "Bug",
                },
            },
        })
    };
    let (path, query) = path.split_once('?').unwrap_or((path, ""));
    match (method, path.trim_start_matches("/rest/api/2/")) {
        ("GET", "issue/ACME-7") => ok(&issue(7)),
        ("GET", "/secure/attachment/10001/a.txt") => answer("200 OK", &[], "hello"),
        ("GET", "project/ACME") => {
            let url = "https://jira.acme.example/rest/api/2/project/10000";
            ok(&json!({"self": url, "id": "10000", "key": "ACME", "name": "Acme"}))
        }
        ("POST", "issue") if body["fields"]["summary"] == "Größe ✓" => {
            let whole = issue(8);
            created(&json!({"id": whole["id"], "key": whole["key"], "self": whole["self"]}))
        }
        ("GET", "issue/ACME-8" | "issue/1008") => ok(&issue(8)),
        ("POST", "issue/ACME-8/comment") => {
            let url = "https://jira.acme.example/rest/api/2/issue/1008/comment/1";
            created(&json!({"self": url, "id": "1", "body": body["body"]}))
        }
        ("PUT", "issue/1008") if body["fields"]["summary"] == "changed" => {
            b"HTTP/1.1 204 No Content\r\n\r\n".to_vec()
        }
        ("GET", "field") => ok(&json!([{"id": "summary", "name": "Summary", "custom": false}])),
        ("GET", "search") => {
            let second = query.contains("startAt=2");
            let issues = if second { vec![issue(3)] } else { vec![issue(1), issue(2)] };
            let start_at = if second { 2 } else { 0 };
            ok(&json!({"startAt": start_at, "maxResults": 2, "total": 3, "issues": issues}))
        }
        _ => reply("404 Not Found", &[], &json!({"errorMessages": ["Not Found"], "errors": {}})),
    }
}

#[test]
fn atlassian_python_api_works_through_its_base_url() {
    lab::run(async |lab| {
        let jira = "id = \"jira-cloud\"\nprovider_key = \"jira_cloud\"\n\
                    deployment_mode = \"cloud\"\nbase_url = \"https://acme.atlassian.net\"";
        let bitbucket = "id = \"bitbucket\"\nprovider_key = \"bitbucket_cloud_issues\"\n\
                         deployment_mode = \"cloud\"\nbase_url = \"https://api.bitbucket.org\"";
        let hosts = ["acme.atlassian.net", "api.bitbucket.org"];
        let setup = "atlassian_setup.py";
        let (said, requests) = run(lab, setup, &[jira, bitbucket], &hosts, atlassian).await;
        assert_said(
            &said,
            &[
                "read: issue 7",
                "created: ACME-8",
                "commented: 1",
                "listed: ACME-1 ACME-2",
                "bitbucket: 1 2",
                "bitbucket read: issue 7",
                "bitbucket created: 8",
                "refused: 403 PROVIDER_BASE_URL_BLOCKED",
            ],
        );
        let search = "/rest/api/3/search/jql?fields=%2Aall&jql=project+%3D+ACME";
        let expected = [
            "GET /rest/api/2/issue/ACME-7?fields=*all",
            "POST /rest/api/2/issue?updateHistory=false",
            "POST /rest/api/2/issue/ACME-8/comment",
            &format!("GET {search}"),
            &format!("GET {search}&nextPageToken=CAEaAggC"),
            "GET /2.0/repositories/acme/hello",
            "GET /2.0/repositories/acme/hello/issues",
            "GET /2.0/repositories/acme/hello/issues?page=2",
            "GET /2.0/repositories/acme/hello/issues/7",
            "POST /2.0/repositories/acme/hello/issues",
        ];
        let token = basic("dev@acme.example");
        assert_came(&requests, ("authorization", &token), &expected);
    });
}

fn atlassian(method: &str, path: &str, body: &Value) -> Vec<u8> {
    let issue = |number: u32| {
        json!({
            "id": format!("{}", 1_000 + number), "key": format!("ACME-{number}"),
            "self": format!("https://acme.atlassian.net/rest/api/2/issue/{}", 1_000 + number),
            "fields": {"summary": format!("issue {number}")},
        })
    };
    let hello = "https://api.bitbucket.org/2.0/repositories/acme/hello";
    let ticket = |id: u32| {
        json!({
            "type": "issue", "id": id, "title": format!("issue {id}"), "kind": "bug",
            "state": "new", "links": {"self": {"href": format!("{hello}/issues/{id}")}},
        })
    };
    match (method, path) {
        ("GET", "/rest/api/2/issue/ACME-7?fields=*all") => ok(&issue(7)),
        ("POST", "/rest/api/2/issue?updateHistory=false")
            if body["fields"]["summary"] == "Größe ✓" =>
        {
            created(&issue(8))
        }
        ("POST", "/rest/api/2/issue/ACME-8/comment") => {
            created(&json!({"id": "1", "body": body["body"]}))
        }
        ("GET", path) if path.starts_with("/rest/api/3/search/jql?") => {
            ok(&if path.contains("nextPageToken=CAEaAggC") {
                json!({"issues": [issue(2)], "isLast": true})
            } else {
                json!({"issues": [issue(1)], "nextPageToken": "CAEaAggC", "isLast": false})
            })
        }
        ("GET", "/2.0/repositories/acme/hello") => ok(&json!({
            "type": "repository", "full_name": "acme/hello", "slug": "hello", "name": "hello",
            "links": {"self": {"href": hello}, "issues": {"href": format!("{hello}/issues")}},
        })),
        ("GET", "/2.0/repositories/acme/hello/issues") => ok(&json!({
            "values": [ticket(1)], "pagelen": 1, "size": 2, "page": 1,
            "next": format!("{hello}/issues?page=2"),
        })),
        ("GET", "/2.0/repositories/acme/hello/issues?page=2") => {
            ok(&json!({"values": [ticket(2)], "pagelen": 1, "size": 2, "page": 2}))
        }
        ("GET", "/2.0/repositories/acme/hello/issues/7") => ok(&ticket(7)),
        ("POST", "/2.0/repositories/acme/hello/issues") => created(&ticket(8)),
        _ => reply("404 Not Found", &[], &json!({"errorMessages": ["Not Found"], "errors": {}})),
    }
}
