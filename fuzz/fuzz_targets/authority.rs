//! Authorities: no panic, one canonical form, none that the url crate or http reads otherwise.
//!
//! The first line is the request target, the second the Host field, the third the target's hint.
#![no_main]

use std::net::{IpAddr, SocketAddr};

use egress_gateway::{
    destination::{Destination, TARGET_FIELD},
    origin::{Authority, Host},
};
use http::{HeaderMap, HeaderValue, header::HOST};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let mut lines = text.split('\n');
    let target = lines.next().unwrap_or_default();
    let parsed = Authority::parse(target);
    if let Ok(authority) = &parsed {
        assert_eq!(Authority::parse(&authority.to_string()).as_ref(), Ok(authority));
        assert_url_agrees(target, authority);
        assert_http_agrees(target, authority);
    }
    if let Ok(address) = target.parse::<SocketAddr>()
        && address.port() != 0
        && !target.contains('%')
        && let Ok(authority) = &parsed
    {
        assert_eq!(authority.host, Host::Ip(address.ip()));
    }

    let (host, hint) = (lines.next(), lines.next());
    let mut headers = HeaderMap::new();
    for (name, value) in [(HOST.as_str(), host), (TARGET_FIELD, hint)] {
        if let Some(Ok(value)) = value.map(HeaderValue::from_str) {
            headers.append(name, value);
        }
    }
    let Ok(destination) = Destination::connect(target, &headers) else { return };
    assert_eq!(Ok(&destination.authority), parsed.as_ref());
    if let Some(host) = headers.get(HOST) {
        let theirs: http::uri::Authority = host.to_str().unwrap().parse().unwrap();
        assert_same_host(&destination.authority.host, theirs.host());
        assert!(theirs.port_u16().is_none_or(|port| port == destination.authority.port.get()));
    }
    let hinted = headers.get(TARGET_FIELD).map(|hint| hint.to_str().unwrap());
    assert_eq!(destination.hint.as_ref().map(|id| id.as_str()), hinted);
});

/// What a client that goes to the same place by a URL would reach.
fn assert_url_agrees(text: &str, ours: &Authority) {
    let theirs = url::Url::parse(&format!("https://{text}/")).unwrap();
    assert_eq!(theirs.port_or_known_default(), Some(ours.port.get()));
    assert_eq!((theirs.username(), theirs.password(), theirs.path()), ("", None, "/"));
    match (&ours.host, theirs.host().unwrap()) {
        (Host::Name(ours), url::Host::Domain(theirs)) => {
            assert_eq!(&**ours, theirs.strip_suffix('.').unwrap_or(theirs));
        }
        (Host::Ip(IpAddr::V4(ours)), url::Host::Ipv4(theirs)) => assert_eq!(*ours, theirs),
        (Host::Ip(IpAddr::V6(ours)), url::Host::Ipv6(theirs)) => assert_eq!(*ours, theirs),
        (ours, theirs) => panic!("{ours:?}, but the url crate reads {theirs:?}"),
    }
}

/// What hyper would have made of the request line.
fn assert_http_agrees(text: &str, ours: &Authority) {
    let theirs: http::uri::Authority = text.parse().unwrap();
    assert_eq!(theirs.port_u16(), Some(ours.port.get()));
    assert_same_host(&ours.host, theirs.host());
}

fn assert_same_host(ours: &Host, theirs: &str) {
    let address = theirs.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    match (ours, address) {
        (Host::Ip(ours), Ok(theirs)) => assert_eq!(*ours, theirs),
        (Host::Name(ours), Err(_)) => {
            let theirs = theirs.to_ascii_lowercase();
            assert_eq!(&**ours, theirs.strip_suffix('.').unwrap_or(&theirs));
        }
        (ours, theirs) => panic!("{ours:?}, but http reads {theirs:?}"),
    }
}
