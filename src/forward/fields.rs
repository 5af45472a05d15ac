//! Header fields that belong to one hop, to the gateway, or to somebody who might forge them.

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{
        AUTHORIZATION, CONNECTION, CONTENT_LENGTH, COOKIE, HOST, TE, TRAILER, TRANSFER_ENCODING,
        UPGRADE,
    },
};
use smallvec::SmallVec;

use crate::destination::TARGET_FIELD;

/// Fields of one hop, whether `Connection` names them or not (RFC 9110, section 7.6.1).
const HOP_BY_HOP: [HeaderName; 6] = [
    HeaderName::from_static("http2-settings"),
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    TE,
    TRANSFER_ENCODING,
    UPGRADE,
];

/// Fields that a `Connection` field cannot take away: without them the message would mean something
/// else to the next hop.
const NOT_NAMED: [HeaderName; 5] = [HOST, CONTENT_LENGTH, TRAILER, AUTHORIZATION, COOKIE];

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

/// How the fields begin that only the gateway sets in an answer.
const OF_THE_GATEWAY: &str = "x-webriskops-";

/// Fields that some frameworks take for the path in place of the request's own: with them a request
/// below the base path would be one for any other.
const OTHER_PATHS: [&str; 2] = ["x-original-url", "x-rewrite-url"];

/// The protocol that a request may turn into wherever it goes.
const WEBSOCKET: &[u8] = b"websocket";

/// How protocols begin that would turn one request into a connection for any request whatever (h2c
/// smuggling), whose paths, redirects and bodies nobody sees.
const CARRY_REQUESTS: [&[u8]; 3] = [b"h2", b"http", b"tls"];

/// Makes the fields of a client's request those of the gateway's own towards the target.
/// `Authorization` passes untouched, nothing is added.
pub fn clean_request(headers: &mut HeaderMap) {
    clean(headers, |name| {
        *name == HOST
            || is_like(name, TARGET_FIELD)
            || OTHER_PATHS.iter().any(|other| is_like(name, other))
    });
}

/// Whether a field has this name for everybody: CGI and its kin take `_` and `-` for one character.
fn is_like(name: &HeaderName, other: &str) -> bool {
    name.as_str().len() == other.len() && begins_like(name, other)
}

fn begins_like(name: &HeaderName, beginning: &str) -> bool {
    let dashed = name.as_str().bytes().map(|byte| if byte == b'_' { b'-' } else { byte });
    dashed.take(beginning.len()).eq(beginning.bytes())
}

/// Makes the fields of a target's answer those of the gateway's own towards the client. What only
/// the gateway may say is dropped, so that it cannot be forged, and of the body's length no more is
/// told than holds.
pub fn clean_response(headers: &mut HeaderMap) {
    one_length(headers);
    clean(headers, |name| begins_like(name, OF_THE_GATEWAY));
}

/// The same for what comes behind the body of an answer.
pub fn clean_trailers(trailers: &mut HeaderMap) {
    clean_response(trailers);
    let forbidden: Vec<_> =
        trailers.keys().filter(|name| trailer_forbidden(name)).cloned().collect();
    for name in forbidden {
        trailers.remove(name);
    }
}

/// A length beside a transfer coding does not count (RFC 9112, section 6.3): passed on, it would cut
/// the body short where the client cannot see it. One that is there twice, which the reader has
/// found to be the same, is told once (RFC 9110, section 8.6).
fn one_length(headers: &mut HeaderMap) {
    let Some(length) = headers.get(CONTENT_LENGTH) else { return };
    if headers.contains_key(TRANSFER_ENCODING) {
        headers.remove(CONTENT_LENGTH);
    } else if let Some((first, _)) = length.to_str().ok().and_then(|text| text.split_once(','))
        && let Ok(first) = HeaderValue::from_str(first.trim())
    {
        headers.insert(CONTENT_LENGTH, first);
    }
}

/// The same for an interim answer, which has no body whose length it could tell (RFC 9110, section
/// 8.6): a client that believed it would take the final answer for that body.
pub fn clean_interim(headers: &mut HeaderMap) {
    clean_response(headers);
    headers.remove(CONTENT_LENGTH);
    headers.remove(TRAILER);
}

/// Puts the crumbs of a cookie together, which HTTP/2 may send in fields of their own and HTTP/1 must
/// not (RFC 9113, section 8.2.3).
pub fn join_cookies(headers: &mut HeaderMap) {
    let crumbs: Vec<&[u8]> = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if crumbs.len() < 2 {
        return;
    }
    let whole = crumbs.join(&b"; "[..]);
    if let Ok(mut whole) = HeaderValue::from_maybe_shared(Bytes::from(whole)) {
        whole.set_sensitive(true);
        headers.insert(COOKIE, whole);
    }
}

/// Whether a field must not come behind a request's body, over either version of HTTP.
pub fn trailer_forbidden(name: &HeaderName) -> bool {
    let name = name.as_str();
    FORBIDDEN_TRAILERS.contains(&name)
        || FORBIDDEN_TRAILER_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

/// The protocol that a request upgrades to, where it may: `WebSocket`, and where the gateway need not
/// see what is said (`opaque`) every other one that carries no requests of its own. Any other offer
/// is ignored, as a server may (RFC 9110, section 7.8).
pub fn upgrade(headers: &HeaderMap, opaque: bool) -> Option<HeaderValue> {
    let asked = connection_names(headers).any(|name| name == UPGRADE);
    let offered = headers.get(UPGRADE).filter(|_| asked)?;
    let name = offered.as_bytes().trim_ascii().to_ascii_lowercase();
    let one = !name.contains(&b',') && headers.get_all(UPGRADE).iter().count() == 1;
    let carries_requests = CARRY_REQUESTS.iter().any(|beginning| name.starts_with(beginning));
    let passes = name == WEBSOCKET || opaque && !name.is_empty() && !carries_requests;
    (one && passes).then(|| offered.clone())
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
            ("x_webriskops_reason", "X"),
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
    fn no_length_is_told_that_may_not_be_the_bodys() {
        let length = |lines: &[(&str, &str)]| {
            let mut headers = fields(lines);
            clean_response(&mut headers);
            let all: Vec<_> = headers.get_all("content-length").iter().cloned().collect();
            all
        };
        assert_eq!(length(&[("content-length", "3"), ("transfer-encoding", "chunked")]).len(), 0);
        assert_eq!(length(&[("content-length", "3, 3")]), ["3"]);
        assert_eq!(length(&[("content-length", "3")]), ["3"]);
    }

    #[test]
    fn trailers_of_a_target_cannot_speak_for_the_gateway_either() {
        let mut trailers = fields(&[
            ("x-webriskops-reason", "X"),
            ("proxy-status", "egress-gateway"),
            ("content-length", "3"),
            ("x-sum", "1"),
            ("grpc-status", "0"),
        ]);
        clean_trailers(&mut trailers);
        assert_eq!(names(&trailers), ["grpc-status", "x-sum"]);
    }

    fn upgrades(lines: &[(&str, &str)], opaque: bool) -> bool {
        upgrade(&fields(lines), opaque).is_some()
    }

    #[test]
    fn an_upgrade_is_one_only_when_connection_says_so() {
        let both = [("upgrade", "WebSocket"), ("connection", "keep-alive, Upgrade")];
        assert!(upgrades(&both, false));
        assert!(!upgrades(&both[..1], true));
        assert!(!upgrades(&both[1..], true));
    }

    #[test]
    fn crumbs_of_a_cookie_are_put_together_in_their_order() {
        let mut headers = fields(&[("cookie", "a=1"), ("x-a", "1"), ("cookie", "b=2; c=3")]);
        join_cookies(&mut headers);
        assert_eq!(headers.get_all("cookie").iter().collect::<Vec<_>>(), ["a=1; b=2; c=3"]);
        assert!(headers["cookie"].is_sensitive() && headers.len() == 2);
        let mut none = fields(&[("x-a", "1")]);
        join_cookies(&mut none);
        assert_eq!(names(&none), ["x-a"]);
    }

    #[test]
    fn no_upgrade_leads_to_a_protocol_that_carries_requests() {
        for protocol in
            ["h2c", "H2C", "h2c, websocket", "websocket, h2c", "TLS/1.0", "HTTP/2.0", "", " "]
        {
            let lines = [("upgrade", protocol), ("connection", "upgrade")];
            assert!(!upgrades(&lines, false) && !upgrades(&lines, true), "{protocol}");
        }
        for two in [["h2c", "websocket"], ["websocket", "h2c"]] {
            let [one, other] = two.map(|protocol| ("upgrade", protocol));
            assert!(!upgrades(&[one, other, ("connection", "upgrade")], true));
        }
    }

    #[test]
    fn where_the_gateway_has_to_see_requests_only_websocket_is_an_upgrade() {
        let lines = [("upgrade", "echo"), ("connection", "upgrade")];
        assert!(upgrades(&lines, true) && !upgrades(&lines, false));
    }

    #[test]
    fn a_path_in_a_field_of_its_own_does_not_reach_the_target() {
        let mut headers = fields(&[
            ("x-original-url", "/admin"),
            ("x_original_url", "/admin"),
            ("x-rewrite-url", "/admin"),
            ("x_webriskops_target", "a"),
            ("x-original", "1"),
            ("x_other", "1"),
        ]);
        clean_request(&mut headers);
        assert_eq!(names(&headers), ["x-original", "x_other"]);
    }
}
