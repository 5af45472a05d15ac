//! `If-Match` and `If-None-Match` (RFC 9110, section 13.1): two writers do not overwrite each other.

use axum::http::{HeaderMap, HeaderName, header};

use super::{input::invalid, problem::Problem};
use crate::store::Expect;

/// The entity tag of a target's version: a strong one.
pub(super) fn etag(version: i64) -> String {
    format!("\"v{version}\"")
}

/// What a writer expects; `current` is the target's version, where it is one of the API's.
pub(super) fn expect(
    headers: &HeaderMap,
    current: impl Fn() -> Option<i64>,
) -> Result<Expect, Problem> {
    let matching = list(headers, &header::IF_MATCH)?;
    let none = list(headers, &header::IF_NONE_MATCH)?;
    match (matching, none) {
        (None, None) => Ok(Expect::Any),
        (None, Some(Tags::Any)) => Ok(Expect::Absent),
        (Some(tags), None) => {
            // The store compares once more when it writes: it may have changed by then.
            let current = current().ok_or(Problem::Changed)?;
            let matches = match tags {
                Tags::Any => true,
                Tags::Listed(tags) => tags.contains(&etag(current)),
            };
            if matches { Ok(Expect::Version(current)) } else { Err(Problem::Changed) }
        }
        (None, Some(Tags::Listed(_))) => {
            Err(invalid("If-None-Match", "only `*` means anything here"))
        }
        (Some(_), Some(_)) => {
            Err(invalid("If-None-Match", "give If-Match or If-None-Match, not both"))
        }
    }
}

enum Tags {
    Any,
    Listed(Vec<String>),
}

fn list(headers: &HeaderMap, name: &HeaderName) -> Result<Option<Tags>, Problem> {
    let mut tags = Vec::new();
    for value in headers.get_all(name) {
        let text =
            value.to_str().map_err(|_| invalid(name.as_str(), "not a list of entity tags"))?;
        if text.trim() == "*" {
            return Ok(Some(Tags::Any));
        }
        for tag in text.split(',').map(str::trim) {
            let opaque = tag.strip_prefix("W/").unwrap_or(tag);
            let quoted = opaque.len() > 1 && opaque.starts_with('"') && opaque.ends_with('"');
            if !quoted {
                return Err(invalid(name.as_str(), "an entity tag stands in quotation marks"));
            }
            // A weak tag stays as it is written, and matches none (section 8.8.3.2).
            tags.push(tag.to_owned());
        }
    }
    Ok((!tags.is_empty()).then_some(Tags::Listed(tags)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(
        name: &'static str,
        value: &'static str,
        current: Option<i64>,
    ) -> Result<Expect, Problem> {
        let headers = HeaderMap::from_iter([(
            HeaderName::from_static(name),
            http::HeaderValue::from_static(value),
        )]);
        expect(&headers, || current)
    }

    #[test]
    fn a_writer_says_which_version_it_has_seen() {
        assert_eq!(expect(&HeaderMap::new(), || None), Ok(Expect::Any));
        assert_eq!(asked("if-none-match", "*", None), Ok(Expect::Absent));
        assert_eq!(asked("if-match", "\"v7\"", Some(7)), Ok(Expect::Version(7)));
        assert_eq!(asked("if-match", "\"v1\" , \"v7\"", Some(7)), Ok(Expect::Version(7)));
        assert_eq!(asked("if-match", "*", Some(7)), Ok(Expect::Version(7)));
    }

    #[test]
    fn a_version_that_is_not_the_current_one_is_refused_and_so_is_a_weak_tag() {
        for value in ["\"v6\"", "W/\"v7\"", "\"7\""] {
            assert_eq!(asked("if-match", value, Some(7)), Err(Problem::Changed), "{value}");
        }
        assert_eq!(asked("if-match", "*", None), Err(Problem::Changed));
    }

    #[test]
    fn what_is_no_entity_tag_is_said_so() {
        for (name, value) in
            [("if-match", "v7"), ("if-match", ""), ("if-match", "\""), ("if-none-match", "\"v7\"")]
        {
            assert!(matches!(asked(name, value, Some(7)), Err(Problem::Invalid(_))), "{value}");
        }
    }
}
