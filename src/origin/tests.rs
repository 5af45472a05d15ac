//! Which texts are read as the same place, and which are refused.

use proptest::prelude::*;

use super::*;

fn authority(text: &str) -> Result<String, AuthorityFault> {
    Authority::parse(text).map(|authority| authority.to_string())
}

#[test]
fn a_plain_authority_is_brought_into_its_canonical_form() {
    let rows = [
        ("jira.acme.example:443", "jira.acme.example:443"),
        ("JIRA.Acme.Example:443", "jira.acme.example:443"),
        ("evil.com.:443", "evil.com:443"),
        ("192.0.2.7:8443", "192.0.2.7:8443"),
        ("[2001:DB8::1]:443", "[2001:db8::1]:443"),
        ("[::ffff:127.0.0.1]:80", "[::ffff:127.0.0.1]:80"),
        ("xn--bcher-kva.example:443", "xn--bcher-kva.example:443"),
        ("a_b.example:65535", "a_b.example:65535"),
    ];
    for (text, canonical) in rows {
        assert_eq!(authority(text).as_deref(), Ok(canonical), "{text}");
    }
}

#[test]
fn an_authority_that_two_parsers_could_read_differently_is_refused() {
    let rows = [
        "",
        ":443",
        "host",
        "host:",
        "host:0",
        "host:-1",
        "host:+443",
        "host:99999",
        "host:0443",
        "host:443:443",
        "host:443/",
        "/etc/passwd",
        "*",
        "http://h:443",
        "user@allowed.com:443",
        "[::1]:443@evil.com:80",
        "[example.com]:443",
        "[[example.com]]:443",
        "[::1%25lo]:80",
        "[::1]",
        "::1:443",
        "[::1:443",
        "2130706433:80",
        "0x7f.1:80",
        "0x7f000001:80",
        "127.1:80",
        "017700000001:80",
        "0177.0.0.1:80",
        "08.8.8.8:80",
        "1.2.3.09:80",
        "256.256.256.256:80",
        "1.2.3.4.5:80",
        "foo.0x4:80",
        "foo.7:80",
        "127.0.0.1.:80",
        "ex%61mple.com:80",
        "a..b:80",
        ".a:80",
        "a..:80",
        "-a.example:80",
        "xn--a:80",
        "xn--example-:80",
        "h\\x:80",
        "h x:80",
        "h\u{0}:80",
        "①②⑦.0.0.1:80",
        "b\u{fc}cher.example:80",
        "a,b:80",
        "h?x:80",
        "h#x:80",
    ];
    for text in rows {
        assert!(authority(text).is_err(), "{text:?} was read as {:?}", authority(text));
    }
    assert!(authority(&format!("{}:443", "a".repeat(64))).is_err());
    assert!(authority(&format!("{}:443", "a.".repeat(200))).is_err());
}

fn base(text: &str) -> Result<String, UrlFault> {
    BaseUrl::parse(text, false).map(|url| url.to_string())
}

#[test]
fn base_urls_are_stored_in_canonical_form() {
    let rows = [
        ("https://jira.acme.example/jira", "https://jira.acme.example/jira"),
        ("https://jira.acme.example/jira/", "https://jira.acme.example/jira"),
        ("HTTPS://Jira.Acme.Example:443/", "https://jira.acme.example"),
        ("https://jira.acme.example.", "https://jira.acme.example"),
        ("https://b\u{fc}cher.example/", "https://xn--bcher-kva.example"),
        ("http://10.20.0.5:8080", "http://10.20.0.5:8080"),
        ("https://[2001:db8::1]:8443/x", "https://[2001:db8::1]:8443/x"),
        ("https://exa\u{ad}mple.com/", "https://example.com"),
    ];
    for (text, canonical) in rows {
        assert_eq!(base(text).as_deref(), Ok(canonical), "{text}");
    }
}

#[test]
fn base_urls_with_any_ambiguity_are_refused() {
    let rows = [
        "",
        "jira.acme.example",
        "ftp://a.example/",
        "file:///etc/passwd",
        "gopher://127.0.0.1:6379/",
        "http+unix://%2fvar%2frun",
        "unix:/x",
        "http:127.0.0.1/",
        "http:/127.0.0.1/",
        "http:///127.0.0.1/",
        "http:\\\\127.0.0.1\\",
        " https://a.example/",
        "https://a.example/ ",
        "\thttps://a.example",
        "ht\ntps://a.example",
        "https://user@a.example/",
        "https://user:pw@a.example/",
        "https://a.example:80@127.0.0.1:81/",
        "https://@a.example/",
        "https://a.example\\@127.0.0.1/",
        "https://127.0.0.1\\.a.example/",
        "https://2130706433/",
        "https://0x7f000001/",
        "https://017700000001/",
        "https://0177.0.0.1/",
        "https://127.1/",
        "https://0/",
        "https://①②⑦.⓪.⓪.①/",
        "https://１２７.０.０.１/",
        "https://127。0。0。1/",
        "https://ⓛⓞⓒⓐⓛⓗⓞⓢⓣ/",
        "https://localhost/",
        "https://x.localhost./",
        "https://ex%61mple.com/",
        "https://xn--example-/",
        "https://xn--a/",
        "https://a℀b.com/",
        "https://h%00.evil.com/",
        "https://a.example/#@127.0.0.1/",
        "https://a.example/?q=1",
        "https://a.example/a/../b",
        "https://a.example/%2e%2e/b",
        "https://a.example/a%2fb",
        "https://a.example/a%5cb",
        "https://a.example/%00",
        "https://a.example/%252e",
        "https://a.example//b",
        "https://a.example/a;x/b",
        "https://a.example:0/",
        "https://a.example:99999/",
        "https://a.example:/",
        "https://a.example:25/",
        "https://[::1%25lo]/",
        "https://[a.example]/",
        "https://",
    ];
    for text in rows {
        assert!(base(text).is_err(), "{text:?} was read as {:?}", base(text));
    }
    assert!(rows.len() > 45);
}

#[test]
fn a_url_that_grows_too_long_by_encoding_is_refused() {
    let grown = format!("https://a.example/{}", "`".repeat(1000));
    assert_eq!(base(&grown), Err(UrlFault::Length));
    assert!(base(&format!("https://a.example/{}", "`".repeat(600))).is_ok());
}

#[test]
fn a_webhook_url_keeps_its_slash_as_it_is_the_exact_url() {
    let path = |text| BaseUrl::parse(text, true).unwrap().path().to_owned();
    assert_eq!(path("https://hooks.example/catch/1/"), "/catch/1/");
    assert_eq!(path("https://hooks.example/catch/1"), "/catch/1");
}

#[test]
fn a_webhook_url_may_have_a_query_and_never_shows_it() {
    let url = BaseUrl::parse("https://hooks.example/in?token=s3cret", true).unwrap();
    assert_eq!(url.to_string(), "https://hooks.example/in?[redacted]");
}

#[test]
fn bad_ports_are_in_order_so_that_they_are_found() {
    assert!(BAD_PORTS.is_sorted());
    assert!(Port::parse("25").unwrap().is_bad());
    assert!(!Port::HTTPS.is_bad() && !Port::HTTP.is_bad());
    assert_eq!((Port::HTTP.get(), Port::HTTPS.get()), (80, 443));
}

proptest! {
    #[test]
    fn what_is_accepted_is_a_fixed_point(text in "\\PC{0,40}|[a-zA-Z0-9.\\-_:\\[\\]%@]{1,40}:[0-9]{1,5}") {
        if let Ok(authority) = Authority::parse(&text) {
            let shown = authority.to_string();
            prop_assert_eq!(Authority::parse(&shown), Ok(authority.clone()));
            let url = url::Url::parse(&format!("https://{shown}/")).unwrap();
            prop_assert_eq!(url.port_or_known_default(), Some(authority.port.get()));
            let uri: http::Uri = format!("https://{shown}/").parse().unwrap();
            prop_assert_eq!(uri.host().map(str::to_owned), Some(authority.host.to_string()));
            prop_assert_eq!(url.host_str().map(str::to_owned), Some(authority.host.to_string()));
        }
    }

    #[test]
    fn an_accepted_base_url_is_a_fixed_point(text in "https?://[a-zA-Z0-9.\\-\\[\\]:@%_\\u{fc}]{1,20}(/[a-z.%;/A-F0-9]{0,10})?") {
        if let Ok(url) = BaseUrl::parse(&text, false) {
            prop_assert_eq!(BaseUrl::parse(&url.to_string(), false), Ok(url));
        }
    }
}
