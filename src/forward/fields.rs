//! Header fields that belong to one hop, to the gateway, or to somebody who might forge them.

use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{CONNECTION, CONTENT_LENGTH, HOST, TE, TRAILER, TRANSFER_ENCODING, UPGRADE},
};
use smallvec::SmallVec;

use crate::destination::TARGET_FIELD;

/// Fields of one hop, whether `Connection` names them or not (RFC 9110, section 7.6.1).
const HOP_BY_HOP: [HeaderName; 5] = [
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    TE,
    TRANSFER_ENCODING,
    UPGRADE,
];

/// Fields that a `Connection` field cannot take away: without them the message would mean something
/// else to the next hop.
const NOT_NAMED: [HeaderName; 5] =
    [HOST, CONTENT_LENGTH, TRAILER, http::header::AUTHORIZATION, http::header::COOKIE];

/// Fields that must not come behind a body (RFC 9110 §6.5.1): those that frame, route, authenticate,
/// modify the request, or say how the body is to be read, and those of one hop only.
const FORBIDDEN_TRAILERS: &[&str] = &[
    "accept",
    "accept-charset",
    "accept-encoding",
    "accept-language",
    "authorization",
    "cache-control",
    "connection",
    "content-encoding",
    "content-length",
    "content-range",
    "content-type",
    "content_length",
    "cookie",
    "expect",
    "forwarded",
    "host",
    "idempotency-key",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "keep-alive",
    "max-forwards",
    "origin",
    "pragma",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "range",
    "referer",
    "set-cookie",
    "te",
    "trailer",
    "transfer-encoding",
    "transfer_encoding",
    "upgrade",
    "via",
    "www-authenticate",
];

/// Beginnings of further ones: who forwarded the request, and what this gateway itself sets.
const FORBIDDEN_TRAILER_PREFIXES: &[&str] = &["x-forwarded-", "x-webriskops-", "webhook-"];

/// Makes the fields of a client's request those of the gateway's own towards the target.
/// `Authorization` passes untouched, nothing is added.
pub fn clean_request(headers: &mut HeaderMap) {
    clean(headers, |name| *name == HOST || name == TARGET_FIELD);
}

/// Makes the fields of a target's answer those of the gateway's own towards the client. What only
/// the gateway may say is dropped, so that it cannot be forged.
pub fn clean_response(headers: &mut HeaderMap) {
    clean(headers, |name| name.as_str().starts_with("x-webriskops-"));
}

/// The same for an interim answer, which has no body whose length it could tell (RFC 9110, section
/// 8.6): a client that believed it would take the final answer for that body.
pub fn clean_interim(headers: &mut HeaderMap) {
    clean_response(headers);
    headers.remove(CONTENT_LENGTH);
    headers.remove(TRAILER);
}

/// Whether a field must not come behind a request's body, over either version of HTTP.
pub fn trailer_forbidden(name: &HeaderName) -> bool {
    let name = name.as_str();
    FORBIDDEN_TRAILERS.contains(&name)
        || FORBIDDEN_TRAILER_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

/// The protocol that a request, or the answer to it, upgrades to.
pub fn upgrade(headers: &HeaderMap) -> Option<HeaderValue> {
    let asked = connection_names(headers).any(|name| name == UPGRADE);
    headers.get(UPGRADE).filter(|_| asked).cloned()
}

/// Puts back what an upgrade needs on this hop.
pub fn set_upgrade(headers: &mut HeaderMap, protocol: HeaderValue) {
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, protocol);
}

/// Removes what belongs to this hop or to the proxy, what `Connection` names, and what `also` says.
fn clean(headers: &mut HeaderMap, also: impl Fn(&HeaderName) -> bool) {
    let mut gone: SmallVec<[HeaderName; 8]> =
        connection_names(headers).filter(|name| !NOT_NAMED.contains(name)).collect();
    let unasked = headers.keys().filter(|name| {
        **name == CONNECTION
            || HOP_BY_HOP.contains(name)
            || name.as_str().starts_with("proxy-")
            || also(name)
    });
    gone.extend(unasked.cloned());
    for name in gone {
        headers.remove(name);
    }
}

fn connection_names(headers: &HeaderMap) -> impl Iterator<Item = HeaderName> {
    let values = headers.get_all(CONNECTION).iter();
    values
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(lines: &[(&str, &str)]) -> HeaderMap {
        let parse = |(name, value): &(&str, &str)| {
            (name.parse::<HeaderName>().unwrap(), value.parse().unwrap())
        };
        let mut headers = HeaderMap::new();
        for (name, value) in lines.iter().map(parse) {
            headers.append(name, value);
        }
        headers
    }

    fn names(headers: &HeaderMap) -> Vec<&str> {
        let mut names: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        names
    }

    #[test]
    fn what_belongs_to_one_hop_or_to_the_proxy_does_not_reach_the_target() {
        let mut headers = fields(&[
            ("connection", "close, X-Secret ,keep-alive"),
            ("connection", "x-other"),
            ("x-secret", "1"),
            ("x-other", "1"),
            ("keep-alive", "5"),
            ("te", "trailers"),
            ("upgrade", "h2c"),
            ("transfer-encoding", "chunked"),
            ("proxy-authorization", "Basic x"),
            ("proxy-connection", "keep-alive"),
            ("proxy-foo", "1"),
            ("x-webriskops-target", "a"),
            ("host", "evil"),
            ("authorization", "Bearer t"),
            ("accept", "*/*"),
            ("x-webriskops-event", "e"),
            ("cookie", "a=b"),
            ("trailer", "x-sum"),
        ]);
        clean_request(&mut headers);
        assert_eq!(
            names(&headers),
            ["accept", "authorization", "cookie", "trailer", "x-webriskops-event"]
        );
    }

    #[test]
    fn connection_cannot_nominate_what_gives_the_message_its_meaning() {
        let mut headers = fields(&[
            ("connection", "authorization, cookie, content-length, host"),
            ("authorization", "x"),
            ("cookie", "c"),
            ("content-length", "3"),
        ]);
        clean_request(&mut headers);
        assert_eq!(names(&headers), ["authorization", "content-length", "cookie"]);
    }

    #[test]
    fn a_target_cannot_speak_for_the_gateway() {
        let mut headers = fields(&[
            ("x-webriskops-reason", "X"),
            ("x-webriskops-replayed", "true"),
            ("proxy-status", "egress-gateway"),
            ("proxy-authenticate", "Basic"),
            ("connection", "x-a"),
            ("x-a", "1"),
            ("server", "nginx"),
            ("location", "/x"),
        ]);
        clean_response(&mut headers);
        assert_eq!(names(&headers), ["location", "server"]);
    }

    #[test]
    fn an_upgrade_is_one_only_when_connection_says_so() {
        assert!(
            upgrade(&fields(&[("upgrade", "websocket"), ("connection", "keep-alive, Upgrade")]))
                .is_some()
        );
        assert!(upgrade(&fields(&[("upgrade", "websocket")])).is_none());
        assert!(upgrade(&fields(&[("connection", "upgrade")])).is_none());
    }
}
