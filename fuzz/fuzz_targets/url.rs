//! A target's URL: no panic, one canonical form, none that the url crate or http reads otherwise.
#![no_main]

use egress_gateway::origin::{BaseUrl, UrlFault};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let webhook = BaseUrl::parse(text, true);
    let plain = BaseUrl::parse(text, false);
    let Ok(ours) = &webhook else {
        assert_eq!(webhook, plain);
        return;
    };
    let theirs = url::Url::parse(text).unwrap();
    let authority = &ours.origin.authority;
    let host = authority.host.to_string();
    assert_eq!(ours.origin.scheme.as_str(), theirs.scheme());
    assert_eq!(theirs.port_or_known_default(), Some(authority.port.get()));
    assert_eq!((theirs.username(), theirs.password(), theirs.fragment()), ("", None, None));
    let their_host = theirs.host_str().unwrap();
    assert_eq!(host, their_host.strip_suffix('.').unwrap_or(their_host));
    assert_eq!(ours.path().trim_end_matches('/'), theirs.path().trim_end_matches('/'));
    assert_path_is_plain(ours.path());

    let shown = ours.to_string();
    if theirs.query().is_some() {
        // A query may be a credential: it is never shown, nor accepted where there is none.
        assert_eq!(plain, Err(UrlFault::Query));
        assert!(shown.ends_with("?[redacted]"));
        return;
    }
    // A webhook's URL is exact, so it keeps a slash that a base URL does without.
    let plain = plain.unwrap();
    assert_eq!(plain.origin, ours.origin);
    assert_eq!(plain.path(), if plain.is_root() { "/" } else { ours.path().trim_end_matches('/') });
    assert_eq!(BaseUrl::parse(&plain.to_string(), false), Ok(plain));
    let again = BaseUrl::parse(&shown, true);
    assert_eq!(again.as_ref(), Ok(ours), "{shown}");
    assert_eq!(again.unwrap().to_string(), shown);
    assert_http_agrees(&shown, ours);
});

/// Nothing that a server behind the target may take for a separator, a parent or a parameter.
fn assert_path_is_plain(path: &str) {
    assert!(path.starts_with('/') && path.is_ascii(), "{path}");
    assert!(path == "/" || !path.contains("//"), "{path}");
    assert!(!path.split('/').any(|segment| segment == "." || segment == ".."), "{path}");
    let lower = path.to_ascii_lowercase();
    for bad in ["%2f", "%5c", "%2e", "%00", "%25", "%3b", "\\", ";", "?", "#"] {
        assert!(!lower.contains(bad), "{path} holds {bad}");
    }
}

/// What hyper will make of the canonical form.
fn assert_http_agrees(shown: &str, ours: &BaseUrl) {
    let Ok(theirs) = shown.parse::<http::Uri>() else { return };
    let authority = &ours.origin.authority;
    assert_eq!(theirs.scheme_str(), Some(ours.origin.scheme.as_str()));
    assert_eq!(theirs.host(), Some(authority.host.to_string().as_str()));
    let default = ours.origin.scheme.default_port().get();
    assert_eq!(theirs.port_u16().unwrap_or(default), authority.port.get());
    assert_eq!(theirs.path(), ours.path());
    assert_eq!(theirs.query(), None);
}
