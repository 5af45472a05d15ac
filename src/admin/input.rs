//! What a request says besides its path: the query and the JSON body, each read as one table.
//!
//! Both become the same kind of table that configuration is read from, so that every problem is
//! named with its key, and a key that nobody knows is one.

use std::fmt;

use axum::{
    body::to_bytes,
    extract::{FromRequest, FromRequestParts, Request},
    http::request::Parts,
};
use figment::value::{Dict, Empty, Tag, Value};
use serde::{
    Deserialize, Deserializer,
    de::{self, MapAccess, SeqAccess, Visitor},
};

use super::{problem::Problem, serve::Here};
use crate::fields::{self, Fields};

/// Largest request body, in bytes: a target with a few certificates and allowlists, many times over.
pub(super) const BODY_BYTES_MAX: usize = 64 * 1024;

/// Longest key that is repeated to whoever sent it, in bytes.
const KEY_BYTES_MAX: usize = 64;

/// The query of a request: each parameter once.
#[derive(Debug)]
pub(super) struct QueryTable(Dict);

/// The body of a request: one JSON object, in which no key is there twice. `null` says the same as
/// leaving a key out.
#[derive(Debug)]
pub(super) struct BodyTable(Dict);

impl QueryTable {
    /// Reads the parameters.
    ///
    /// # Errors
    /// Everything that is wrong with them, unknown ones included.
    pub(super) fn read<T>(self, read: impl FnOnce(&mut Fields<'_>) -> T) -> Result<T, Problem> {
        read_table(self.0, read)
    }
}

impl BodyTable {
    /// All members as they are, for who reads them elsewhere.
    pub(super) fn into_json(self) -> serde_json::Map<String, serde_json::Value> {
        let members = self.0.into_iter().map(|(key, value)| {
            // Numbers that JSON does not have cannot have come as JSON.
            let value = serde_json::to_value(&value).unwrap_or_default();
            (key, value)
        });
        members.collect()
    }

    /// Reads the members.
    ///
    /// # Errors
    /// Everything that is wrong with them, unknown ones included.
    pub(super) fn read<T>(self, read: impl FnOnce(&mut Fields<'_>) -> T) -> Result<T, Problem> {
        read_table(self.0, read)
    }
}

fn read_table<T>(dict: Dict, read: impl FnOnce(&mut Fields<'_>) -> T) -> Result<T, Problem> {
    let mut problems = Vec::new();
    let mut fields = Fields::new("", dict, &mut problems);
    let value = read(&mut fields);
    fields.finish();
    if problems.is_empty() { Ok(value) } else { Err(Problem::Invalid(problems)) }
}

/// A problem with one parameter or member.
pub(super) fn invalid(key: &str, message: impl Into<String>) -> Problem {
    Problem::Invalid(vec![fields::Problem { key: key.to_owned(), message: message.into() }])
}

/// A key as it may be repeated.
fn shown(key: &str) -> &str {
    key.get(..key.floor_char_boundary(KEY_BYTES_MAX)).unwrap_or_default()
}

impl<S: Sync> FromRequestParts<S> for QueryTable {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Problem> {
        let query = parts.uri.query().unwrap_or_default();
        let mut dict = Dict::new();
        for (key, value) in url::form_urlencoded::parse(query.as_bytes()) {
            let key = shown(&key);
            if dict.insert(key.to_owned(), Value::from(&*value)).is_some() {
                return Err(invalid(key, "given more than once"));
            }
        }
        Ok(Self(dict))
    }
}

impl<S: Sync> FromRequest<S> for BodyTable {
    type Rejection = Problem;

    async fn from_request(request: Request, _state: &S) -> Result<Self, Problem> {
        let here = request.extensions().get::<Here>().cloned().unwrap_or_default();
        let body = to_bytes(request.into_body(), BODY_BYTES_MAX);
        let bytes = match tokio::time::timeout(here.limits.body_timeout, body).await {
            Ok(Ok(bytes)) => bytes,
            // Beyond the limit; or the connection broke, and nobody hears this.
            Ok(Err(_)) => return Err(Problem::BodyTooLarge),
            Err(_) => return Err(Problem::BodySlow),
        };
        match serde_json::from_slice(&bytes) {
            Ok(Strict(Value::Dict(_, dict))) => Ok(Self(dict)),
            Ok(Strict(other)) => Err(invalid("body", fields::expected("a JSON object", &other))),
            // What the parser says of syntax and of keys that are there twice; never a value.
            Err(error) => Err(invalid("body", error.to_string())),
        }
    }
}

/// A JSON value in which no object has a key twice: parsers differ on which of them counts.
struct Strict(Value);

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(StrictVisitor).map(Self)
    }
}

struct StrictVisitor;

impl<'de> Visitor<'de> for StrictVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Empty(Tag::Default, Empty::None))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(Strict(value)) = list.next_element()? {
            values.push(value);
        }
        Ok(Value::Array(Tag::Default, values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut dict = Dict::new();
        while let Some(key) = map.next_key::<String>()? {
            let Strict(value) = map.next_value()?;
            let key = shown(&key);
            if dict.insert(key.to_owned(), value).is_some() {
                return Err(de::Error::custom(format!("`{key}` is there more than once")));
            }
        }
        dict.retain(|_, value| !matches!(value, Value::Empty(..)));
        Ok(Value::Dict(Tag::Default, dict))
    }
}

#[cfg(test)]
mod tests {
    use axum::{body::Body, http};

    use super::*;

    async fn body(text: impl Into<Body>) -> Result<Dict, Problem> {
        let request = http::Request::new(text.into());
        BodyTable::from_request(request, &()).await.map(|table| table.0)
    }

    fn said(problem: Problem) -> Vec<String> {
        let Problem::Invalid(problems) = problem else { panic!("{problem:?}") };
        problems.iter().map(ToString::to_string).collect()
    }

    #[tokio::test]
    async fn a_body_is_one_object_in_which_null_is_nothing() {
        let dict = body(r#"{"a":"x","b":null,"c":{"d":null,"e":[1,-1,1.5,true,null]}}"#).await;
        let dict = dict.unwrap();
        assert_eq!(dict.keys().collect::<Vec<_>>(), ["a", "c"]);
        let inner = dict["c"].as_dict().unwrap();
        assert_eq!(inner.keys().collect::<Vec<_>>(), ["e"]);
        assert_eq!(inner["e"].as_array().unwrap().len(), 5);
    }

    #[tokio::test]
    async fn a_body_that_two_parsers_could_read_differently_is_refused() {
        for (text, expected) in [
            (r#"{"a":1,"a":1}"#, "body: `a` is there more than once at line 1 column 13"),
            (r#"[{"a":1}]"#, "body: expected a JSON object, found a list"),
            (r#""hunter2""#, "body: expected a JSON object, found a string"),
            ("", "body: EOF while parsing a value at line 1 column 0"),
            (r#"{"a":1} {}"#, "body: trailing characters at line 1 column 9"),
        ] {
            assert_eq!(said(body(text).await.unwrap_err()), [expected], "{text}");
        }
        for text in [r#"{"a":{"b":[{"c":1,"c":2}]}}"#, "{'a':1}", "{\"a\":\"\n\"}", "{\"a\":\"\\"] {
            assert!(body(text).await.is_err(), "{text}");
        }
        assert!(body(vec![b'{', b'"', 0xff, b'"', b':', b'1', b'}']).await.is_err());
        let deep = format!("{{\"a\":{}1{}}}", "[".repeat(200), "]".repeat(200));
        assert!(body(deep).await.is_err());
    }

    #[tokio::test]
    async fn a_body_has_a_limit() {
        let padded = |bytes: usize| format!("{{{}}}", " ".repeat(bytes.checked_sub(2).unwrap()));
        assert!(body(padded(BODY_BYTES_MAX)).await.is_ok());
        let refused = body(padded(BODY_BYTES_MAX + 1)).await;
        assert!(matches!(refused, Err(Problem::BodyTooLarge)));
    }

    async fn query(text: &str) -> Result<u32, Problem> {
        let request = http::Request::builder().uri(format!("/?{text}")).body(()).unwrap();
        let (mut parts, ()) = request.into_parts();
        let table = QueryTable::from_request_parts(&mut parts, &()).await?;
        table.read(|fields| fields.parse("limit", str::parse).unwrap_or(7))
    }

    #[tokio::test]
    async fn a_query_has_each_parameter_once_and_no_other() {
        assert!(matches!(query("").await, Ok(7)));
        assert!(matches!(query("limit=%32").await, Ok(2)));
        for (text, expected) in [
            ("limt=1", "limt: unknown key; did you mean `limit`?"),
            ("limit=1&limit=1", "limit: given more than once"),
            ("limit=x", "limit: invalid digit found in string"),
            ("limit", "limit: cannot parse integer from empty string"),
        ] {
            assert_eq!(said(query(text).await.unwrap_err()), [expected]);
        }
        let long = said(query(&"ä".repeat(100)).await.unwrap_err());
        assert_eq!(long, [format!("{}: unknown key", "ä".repeat(32))]);
    }
}
