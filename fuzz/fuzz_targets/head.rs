//! Request heads: no panic, the same reading in pieces, none that httparse reads otherwise.
#![no_main]

use egress_gateway::server::head::{FIELDS_MAX, Head, Scan, Scanner, scan};
use http::Version;
use libfuzzer_sys::fuzz_target;

const LIMIT: usize = 2048;

fuzz_target!(|bytes: &[u8]| {
    let whole = scan(bytes, LIMIT);
    let mut scanner = Scanner::new(LIMIT);
    let in_pieces = match scanner.scan(&bytes[..bytes.len() / 2]) {
        Ok(Scan::Incomplete) => scanner.scan(bytes),
        decided => decided,
    };
    match (&whole, &in_pieces) {
        (Ok(Scan::Head(head, end)), Ok(Scan::Head(again, end_again))) => {
            assert!(end == end_again && *end <= LIMIT);
            assert_eq!(head.target, again.target);
            assert_eq!(head.headers, again.headers);
            assert_eq!(head.framing, again.framing);
            assert_httparse_agrees(bytes, head, *end);
        }
        (Ok(Scan::Http2Preface), Ok(Scan::Http2Preface))
        | (Ok(Scan::Incomplete), Ok(Scan::Incomplete)) => {}
        // a head with two faults may be refused for either
        (Err(_), Err(_)) => {}
        _ => panic!("{whole:?} as a whole, {in_pieces:?} in pieces"),
    }
});

fn assert_httparse_agrees(bytes: &[u8], head: &Head, end: usize) {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let mut request = httparse::Request::new(&mut fields);
    assert_eq!(request.parse(bytes), Ok(httparse::Status::Complete(end)));
    assert_eq!(request.method, Some(head.method.as_str()));
    assert_eq!(request.path, Some(head.target.as_str()));
    assert_eq!(request.version, Some(u8::from(head.version == Version::HTTP_11)));
    assert_eq!(request.headers.len(), head.headers.len());
    for field in request.headers {
        let values = head.headers.get_all(field.name);
        assert!(values.iter().any(|value| value == field.value), "{}", field.name);
    }
}
