//! The document and the routes are one.

use super::*;

#[tokio::test]
async fn every_route_of_the_document_is_answered_and_the_document_is_served() {
    let admin = plain(AdminView::default()).await;
    let served = admin.get("/openapi.json").await;
    assert_eq!(served.field("content-type"), Some("application/json"));
    let served = served.json();
    assert_eq!(served, serde_json::to_value(document()).unwrap());
    assert_eq!(served["openapi"], "3.1.0");
    let paths = served["paths"].as_object().unwrap();
    assert!(paths.len() >= 10);
    let mut ids = std::collections::BTreeSet::new();
    for (path, item) in paths {
        for (method, operation) in item.as_object().unwrap() {
            // HEAD, so that a stream ends; an empty body elsewhere.
            let method = if method == "get" && !path.contains('{') { "HEAD" } else { method };
            let answer = admin.request(&format!("{} {path}", method.to_uppercase()), "").await;
            // There is nothing of the name `{id}`, and that is what is said.
            let unknown = answer.status == 404 && answer.json()["code"] == "ADMIN_NOT_FOUND";
            assert!(answer.status != 405 && !unknown, "{method} {path}: {}", answer.head);
            let id = operation["operationId"].as_str().unwrap();
            assert!(ids.insert(id.to_owned()), "{id} is there twice");
            assert!(operation["tags"].as_array().is_some_and(|tags| tags.len() == 1), "{id}");
            assert!(!operation["summary"].as_str().unwrap().is_empty(), "{id}");
        }
    }
}

#[test]
fn every_error_of_the_document_is_a_problem() {
    let document = serde_json::to_value(document()).unwrap();
    let mut seen = 0;
    for (path, item) in document["paths"].as_object().unwrap() {
        for operation in item.as_object().unwrap().values() {
            for (status, response) in operation["responses"].as_object().unwrap() {
                if status.starts_with(['4', '5']) && (path != "/readyz" || status != "503") {
                    let reference = "/content/application~1problem+json/schema/$ref";
                    let schema = response.pointer(reference).and_then(Value::as_str);
                    assert_eq!(schema, Some("#/components/schemas/Problem"), "{path} {status}");
                    seen += 1;
                }
            }
        }
    }
    assert!(seen > 20, "only {seen}");
}

#[test]
fn what_may_only_be_read_is_a_post_of_the_document() {
    let document = serde_json::to_value(document()).unwrap();
    for path in guard::READING_POSTS {
        assert!(document["paths"][path]["post"].is_object(), "{path}");
    }
    for path in guard::OPEN.into_iter().chain(guard::SCARCE) {
        assert!(document["paths"][path]["get"].is_object(), "{path}");
    }
}

#[test]
fn no_two_shapes_of_the_document_share_a_name() {
    let mut seen = std::collections::BTreeMap::new();
    for (name, schema) in routes().flat_map(|route| (route.says)().0) {
        let schema = serde_json::to_value(schema).unwrap();
        let former = seen.entry(name.clone()).or_insert_with(|| schema.clone());
        assert_eq!(*former, schema, "{name}");
    }
    assert!(seen.len() > 20);
}
