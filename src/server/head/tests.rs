//! Which request heads are read, and which are refused as what.

use proptest::prelude::*;
use proptest::sample::Index;

use super::*;

const LIMIT: usize = 64 * 1024;

fn head_of(bytes: impl AsRef<[u8]>) -> Head {
    match scan(bytes.as_ref(), LIMIT) {
        Ok(Scan::Head(head, _)) => *head,
        other => panic!("{other:?}"),
    }
}

fn fault_of(bytes: impl AsRef<[u8]>) -> HeadFault {
    match scan(bytes.as_ref(), LIMIT) {
        Err(fault) => fault,
        Ok(scan) => panic!("{scan:?} of {:?}", String::from_utf8_lossy(bytes.as_ref())),
    }
}

/// A request with these field lines, each without its end, after a Host.
fn with_fields(lines: &[&str]) -> String {
    let start = ["POST http://a.example/ HTTP/1.1", "Host: a.example"];
    [&start, lines, &["", ""]].concat().join("\r\n")
}

fn framing_of(lines: &[&str]) -> Result<Framing, HeadFault> {
    match scan(with_fields(lines).as_bytes(), LIMIT)? {
        Scan::Head(head, _) => Ok(head.framing),
        other @ (Scan::Incomplete | Scan::Http2Preface) => panic!("{other:?}"),
    }
}

fn with_host(value: &str) -> String {
    format!("GET http://a.example/ HTTP/1.1\r\nHost: {value}\r\n\r\n")
}

// === what is read ===

#[test]
fn a_connect_request_is_read_and_its_early_bytes_are_left() {
    let head = "CONNECT jira.acme.example:443 HTTP/1.1\r\nHost: jira.acme.example:443\r\n\
                Proxy-Authorization: Bearer token\r\n\r\n";
    // what looks like a second request after a CONNECT is not one (CVE-2025-64763)
    let bytes = format!("{head}GET / HTTP/1.1\r\nHost: internal\n\n");
    let Ok(Scan::Head(read, consumed)) = scan(bytes.as_bytes(), LIMIT) else { panic!("no head") };
    assert_eq!(consumed, head.len());
    assert_eq!(read.method, Method::CONNECT);
    assert_eq!(read.target, "jira.acme.example:443");
    assert_eq!(read.version, Version::HTTP_11);
    assert_eq!(read.host(), Some("jira.acme.example:443"));
    assert_eq!(read.headers[PROXY_AUTHORIZATION], "Bearer token");
    assert_eq!(read.headers.len(), 2);
    assert_eq!(read.framing, Framing::Empty);
}

#[test]
fn an_http_1_0_request_needs_no_host() {
    let head = head_of("GET http://a.example/ HTTP/1.0\r\n\r\n");
    assert_eq!((head.version, head.host()), (Version::HTTP_10, None));
}

#[test]
fn values_lose_the_white_space_around_them_and_nothing_else() {
    let head = head_of(with_fields(&["X-A: \t b \t c\t ", "X-Empty:", "X-Blank: \t", "X-A:d"]));
    let values: Vec<_> = head.headers.get_all("x-a").iter().collect();
    assert_eq!(values, ["b \t c", "d"]);
    assert_eq!(head.headers["x-empty"], "");
    assert_eq!(head.headers["x-blank"], "");
}

#[test]
fn bytes_above_ascii_are_kept_in_values() {
    let bytes = b"GET http://a.example/ HTTP/1.0\r\nX-A: caf\xe9\r\n\r\n";
    assert_eq!(head_of(bytes).headers["x-a"].as_bytes(), b"caf\xe9");
}

#[test]
fn the_target_is_kept_as_it_was_written() {
    for target in ["/a?b=%2f&c", "*", "http://a.example:80/..//%2e%2e/;x", "a:1", "\\\\a", "[[x"] {
        assert_eq!(head_of(format!("GET {target} HTTP/1.0\r\n\r\n")).target, target);
    }
}

#[test]
fn any_token_is_a_method_and_its_case_counts() {
    let method = |method: &str| head_of(format!("{method} / HTTP/1.0\r\n\r\n")).method;
    assert_eq!(method("PROPFIND").as_str(), "PROPFIND");
    assert_eq!(method("!#$%&'*+-.^_`|~1a").as_str(), "!#$%&'*+-.^_`|~1a");
    assert_ne!(method("connect"), Method::CONNECT);
    assert_eq!(method(&"M".repeat(METHOD_BYTES_MAX)).as_str().len(), METHOD_BYTES_MAX);
}

#[test]
fn one_leading_empty_line_is_ignored_and_counted_as_consumed() {
    let bytes = b"\r\nGET / HTTP/1.0\r\n\r\nbody";
    assert!(matches!(scan(bytes, LIMIT), Ok(Scan::Head(_, 20))));
}

#[test]
fn an_http2_preface_is_told_from_a_request() {
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    for end in 0..preface.len() {
        assert!(matches!(scan(&preface[..end], LIMIT), Ok(Scan::Incomplete)), "{end}");
    }
    assert!(matches!(scan(preface, LIMIT), Ok(Scan::Http2Preface)));
    assert!(matches!(
        scan(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04", LIMIT),
        Ok(Scan::Http2Preface)
    ));
    assert_eq!(fault_of(b"PRI * HTTP/2.0\r\n\r\nSX"), HeadFault::Version);
    assert_eq!(fault_of(b"PRI * HTTP/2.0\r\nHost: a\r\n\r\n"), HeadFault::Version);
}

#[test]
fn credentials_do_not_show_in_debug_output() {
    let head = head_of(
        "GET http://u:hunter2@a/?k=hunter2 HTTP/1.0\r\nProxy-Authorization: Basic hunter2\r\n\
         X-Api-Key: hunter2\r\nAuthorization: hunter2\r\nCookie: hunter2\r\n\r\n",
    );
    let shown = format!("{head:?}");
    assert!(shown.contains("x-api-key") && !shown.contains("hunter2"), "{shown}");
    for name in ["proxy-authorization", "authorization", "cookie"] {
        assert!(head.headers[name].is_sensitive(), "{name}");
    }
}

// === lines ===

#[test]
fn every_line_ends_with_cr_lf() {
    let good = "GET / HTTP/1.1\r\nHost: a\r\nX-A: b\r\n\r\n";
    head_of(good);
    for (at, _) in good.match_indices("\r\n") {
        let (before, after) = good.split_at(at);
        let after = after.strip_prefix("\r\n").unwrap();
        assert_eq!(fault_of(format!("{before}\n{after}")), HeadFault::BareLf, "LF at {at}");
        assert_eq!(fault_of(format!("{before}\r{after}x")), HeadFault::BareCr, "CR at {at}");
        assert_eq!(fault_of(format!("{before}\r\r\n{after}")), HeadFault::BareCr, "CRCRLF at {at}");
    }
    for at in 0..good.len() {
        let (before, after) = good.split_at(at);
        assert_eq!(fault_of(format!("{before}\r{after}")), HeadFault::BareCr, "CR at {at}");
    }
}

#[test]
fn a_fault_shows_before_the_head_is_whole() {
    for (bytes, fault) in [
        (&b"\n"[..], HeadFault::BareLf),
        (b"GET /\n", HeadFault::BareLf),
        (b"GET / HTTP/1.1\r\nHost: a\n", HeadFault::BareLf),
        (b"GET /\rx", HeadFault::BareCr),
        (b"GET / HTTP/1.1\r\nX: \0", HeadFault::ControlCharacter),
        (b"GET / HTTP/1.1\r\n ", HeadFault::ObsFold),
        (b"GET / HTTP/1.1\r\nX: a\r\n\t", HeadFault::ObsFold),
        (b"GET / HTTP/3.0\r\n", HeadFault::Version),
        (b"GET(", HeadFault::Method),
        (b" ", HeadFault::RequestLine),
        (b"GET / HTTP/1.1\r\nContent-Length: +5\r\n", HeadFault::ContentLengthInvalid),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n", HeadFault::HostRepeated),
        (&[b'M'; METHOD_BYTES_MAX + 1], HeadFault::Method),
    ] {
        assert_eq!(fault_of(bytes), fault, "{:?}", String::from_utf8_lossy(bytes));
    }
}

#[test]
fn control_characters_are_refused_everywhere() {
    for byte in (0..0x20).chain([0x7f]).filter(|byte| !b"\r\n".contains(byte)) {
        let control = char::from(byte);
        let expected = HeadFault::ControlCharacter;
        // at the very start this one byte is how TLS begins
        if byte != 0x16 {
            assert_eq!(fault_of(format!("{control}GET / HTTP/1.0\r\n\r\n")), expected, "{byte:#x}");
        }
        assert_eq!(fault_of(format!("GET /{control} HTTP/1.0\r\n\r\n")), expected, "{byte:#x}");
        assert_eq!(fault_of(format!("GET {control} / HTTP/1.0\r\n\r\n")), expected, "{byte:#x}");
        assert_eq!(fault_of(format!("GET / HTTP/1.0{control}\r\n\r\n")), expected, "{byte:#x}");
        if byte != b'\t' {
            assert_eq!(
                fault_of(with_fields(&[&format!("X-A: b{control}c")])),
                expected,
                "{byte:#x}"
            );
            assert_eq!(
                fault_of(with_fields(&[&format!("X-A{control}: b")])),
                expected,
                "{byte:#x}"
            );
        }
    }
}

#[test]
fn folded_fields_are_refused() {
    assert_eq!(fault_of(with_fields(&["X-A: b", " c"])), HeadFault::ObsFold);
    assert_eq!(fault_of(with_fields(&["X-A: b", "\tc: d"])), HeadFault::ObsFold);
    assert_eq!(fault_of(with_fields(&["X-A: b", " "])), HeadFault::ObsFold);
    assert_eq!(fault_of("GET / HTTP/1.1\r\n Host: a\r\n\r\n"), HeadFault::ObsFold);
    assert_eq!(
        framing_of(&["Transfer-Encoding:", " chunked"]),
        Err(HeadFault::TransferEncodingUnsupported)
    );
}

#[test]
fn more_than_one_leading_empty_line_is_refused() {
    assert_eq!(fault_of("\r\n\r\nGET / HTTP/1.0\r\n\r\n"), HeadFault::LeadingEmptyLines);
    assert_eq!(fault_of("\r\n\r\n\r\n"), HeadFault::LeadingEmptyLines);
}

// === the request line ===

#[test]
fn the_request_line_is_three_words_one_space_apart() {
    for line in [
        "GET",
        "GET /",
        "GET / ",
        "GET  / HTTP/1.1",
        "GET /  HTTP/1.1",
        " GET / HTTP/1.1",
        "GET / HTTP/1.1 ",
        "GET /a b HTTP/1.1",
        "GET / HTTP/1.1 HTTP/1.1",
        "GET / http/1.1",
        "GET / HTTP/1.1x",
        "GET / HTTP/01.1",
        "GET / HTTP/1",
        "GET / HTTP/1.10",
        "GET / ICY/1.1",
        "GET / HTTP/a.b",
    ] {
        assert_eq!(
            fault_of(format!("{line}\r\nHost: a\r\n\r\n")),
            HeadFault::RequestLine,
            "{line}"
        );
    }
}

#[test]
fn methods_that_are_no_tokens_are_refused() {
    for method in ["GET/", "G(T", "GET:", "\"GET\"", "G@T", "{}", &"M".repeat(METHOD_BYTES_MAX + 1)]
    {
        assert_eq!(fault_of(format!("{method} / HTTP/1.1\r\n")), HeadFault::Method, "{method}");
    }
}

#[test]
fn request_lines_that_are_not_ascii_are_refused() {
    for line in ["GET http://１２７.０.０.１/ HTTP/1.1", "GET /é HTTP/1.1", "GÉT / HTTP/1.1"]
    {
        assert_eq!(fault_of(format!("{line}\r\n\r\n")), HeadFault::RequestLineNotAscii, "{line}");
    }
}

#[test]
fn targets_with_a_fragment_are_refused() {
    for target in ["http://allowed.com#@127.0.0.1/", "http://127.0.0.1#@allowed.com/", "#", "/#"] {
        assert_eq!(fault_of(format!("GET {target} HTTP/1.1\r\n")), HeadFault::TargetFragment);
    }
}

#[test]
fn targets_with_raw_line_ends_or_nul_are_refused() {
    // A22 and A25: header injection by the host of a URL
    assert_eq!(fault_of("GET http://h\0.evil.com/ HTTP/1.1\r\n"), HeadFault::ControlCharacter);
    assert_eq!(fault_of("GET ht\ntp://a/ HTTP/1.1\r\n"), HeadFault::BareLf);
    assert_eq!(fault_of("GET ht\rtp://a/ HTTP/1.1\r\n"), HeadFault::BareCr);
    assert_eq!(fault_of("GET \thttp://a/ HTTP/1.1\r\n"), HeadFault::ControlCharacter);
    assert_eq!(fault_of("GET http://a/\r\nX: y HTTP/1.1\r\n"), HeadFault::RequestLine);
}

#[test]
fn versions_other_than_1_0_and_1_1_are_refused() {
    for version in ["HTTP/0.9", "HTTP/1.2", "HTTP/2.0", "HTTP/3.0", "HTTP/9.9"] {
        assert_eq!(fault_of(format!("GET / {version}\r\n")), HeadFault::Version, "{version}");
    }
}

#[test]
fn other_protocols_are_named() {
    assert_eq!(fault_of([0x16]), HeadFault::TlsOnPlainListener);
    assert_eq!(fault_of([0x16, 3, 1, 2, 0, 1]), HeadFault::TlsOnPlainListener);
    assert_eq!(
        fault_of("PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n"),
        HeadFault::ProxyProtocolUnexpected
    );
    assert_eq!(fault_of("PROXY UNKNOWN\r\n"), HeadFault::ProxyProtocolUnexpected);
    let version_2 = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c";
    for end in 0..5 {
        assert!(matches!(scan(&version_2[..end], LIMIT), Ok(Scan::Incomplete)), "{end}");
    }
    assert_eq!(fault_of(version_2), HeadFault::ProxyProtocolUnexpected);
    // an SSLv2-compatible ClientHello, SOCKS5 and SSH
    assert_eq!(fault_of([0x80, 0x2e, 1, 3, 1]), HeadFault::RequestLineNotAscii);
    assert_eq!(fault_of([5, 1, 0]), HeadFault::ControlCharacter);
    assert_eq!(fault_of("SSH-2.0-OpenSSH_9.9\r\n"), HeadFault::RequestLine);
}

// === fields ===

#[test]
fn field_names_are_tokens_right_before_their_colon() {
    for (line, fault) in [
        ("X-A", HeadFault::FieldWithoutColon),
        (": b", HeadFault::FieldNameEmpty),
        (":", HeadFault::FieldNameEmpty),
        ("X-A : b", HeadFault::SpaceBeforeColon),
        ("X-A\t: b", HeadFault::SpaceBeforeColon),
        ("X A: b", HeadFault::FieldNameInvalid),
        ("X(A): b", HeadFault::FieldNameInvalid),
        ("X/A: b", HeadFault::FieldNameInvalid),
        ("\"X\": b", HeadFault::FieldNameInvalid),
        ("É: b", HeadFault::FieldNameInvalid),
        ("Content-Length : 5", HeadFault::SpaceBeforeColon),
        ("Transfer-Encoding : chunked", HeadFault::SpaceBeforeColon),
        ("Content_Length: 5", HeadFault::FieldNameLookalike),
        ("TRANSFER_ENCODING: chunked", HeadFault::FieldNameLookalike),
    ] {
        assert_eq!(fault_of(with_fields(&[line])), fault, "{line}");
    }
}

#[test]
fn fields_of_http2_are_held_to_the_same() {
    let check = |lines: &[(&'static str, &'static str)]| {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, HeaderValue::from_static(value));
        }
        check_http2(&headers)
    };
    let length = "content-length";
    let good: [&[_]; 4] =
        [&[], &[(length, "0")], &[(length, "10"), ("host", "a.example:443")], &[("x-a", "a, b")]];
    for lines in good {
        assert_eq!(check(lines), Ok(()), "{lines:?}");
    }
    let bad: [(&[_], _); 8] = [
        (&[(length, "010")], HeadFault::ContentLengthInvalid),
        (&[(length, "5 ")], HeadFault::ContentLengthInvalid),
        (&[(length, "5, 5")], HeadFault::ContentLengthInvalid),
        (&[(length, "5"), (length, "5")], HeadFault::ContentLengthRepeated),
        (&[("content_length", "5")], HeadFault::FieldNameLookalike),
        (&[("transfer_encoding", "chunked")], HeadFault::FieldNameLookalike),
        (&[("host", "a.example, b.example")], HeadFault::HostInvalid),
        (&[("host", "a.example"), ("host", "a.example")], HeadFault::HostRepeated),
    ];
    for (lines, fault) in bad {
        assert_eq!(check(lines), Err(fault), "{lines:?}");
    }
}

#[test]
fn a_head_has_at_most_100_fields() {
    let lines: Vec<_> = (1..=FIELDS_MAX).map(|field| format!("X-{field}: a")).collect();
    let lines: Vec<_> = lines.iter().map(String::as_str).collect();
    // the Host is one of them
    assert_eq!(head_of(with_fields(&lines[1..])).headers.len(), FIELDS_MAX);
    assert_eq!(fault_of(with_fields(&lines)), HeadFault::TooManyFields);
    assert_eq!(fault_of(with_fields(&["X-A: b"; FIELDS_MAX])), HeadFault::TooManyFields);
}

#[test]
fn a_head_may_fill_the_limit_and_not_pass_it() {
    let head = with_fields(&["X-A: b"]);
    let bytes = [head.as_bytes(), b"and a body, which counts for nothing"].concat();
    assert!(matches!(scan(&bytes, head.len()), Ok(Scan::Head(_, end)) if end == head.len()));
    for limit in 0..head.len() {
        assert_eq!(scan(&bytes, limit).unwrap_err(), HeadFault::TooLarge, "{limit}");
        assert_eq!(scan(&bytes[..limit], limit).unwrap_err(), HeadFault::TooLarge, "{limit}");
        assert!(matches!(scan(&bytes[..limit], limit + 1), Ok(Scan::Incomplete)), "{limit}");
    }
    assert_eq!(scan(b"PRI * HTTP/2.0\r\n\r\n", 18).unwrap_err(), HeadFault::TooLarge);
}

// === framing: BYPASSES row 87 ===

#[test]
fn a_body_is_framed_by_one_length_or_by_chunks() {
    assert_eq!(framing_of(&[]), Ok(Framing::Empty));
    assert_eq!(framing_of(&["Content-Length: 0"]), Ok(Framing::Length(0)));
    assert_eq!(framing_of(&["content-length:\t5 "]), Ok(Framing::Length(5)));
    assert_eq!(
        framing_of(&["Content-Length: 18446744073709551615"]),
        Ok(Framing::Length(u64::MAX))
    );
    assert_eq!(framing_of(&["Transfer-Encoding: chunked"]), Ok(Framing::Chunked));
    assert_eq!(framing_of(&["TRANSFER-encoding: \tChUnKeD \t"]), Ok(Framing::Chunked));
}

#[test]
fn lengths_that_are_not_one_number_are_refused() {
    for value in [
        "",
        "+5",
        "-5",
        "-0",
        "5, 5",
        "5,5",
        "5 5",
        "5;",
        "0x5",
        "5.0",
        "5e1",
        "\"5\"",
        "５",
        "05",
        "00",
        "18446744073709551616",
        "99999999999999999999999",
        "5\u{a0}",
        "chunked",
    ] {
        let line = format!("Content-Length: {value}");
        assert_eq!(framing_of(&[&line]), Err(HeadFault::ContentLengthInvalid), "{value}");
    }
}

#[test]
fn two_lengths_are_refused_even_when_equal() {
    for second in ["Content-Length: 5", "content-length: 5", "Content-Length: 6"] {
        assert_eq!(
            framing_of(&["Content-Length: 5", "X-A: b", second]),
            Err(HeadFault::ContentLengthRepeated)
        );
    }
}

#[test]
fn codings_other_than_chunked_are_refused() {
    for value in [
        "",
        "identity",
        "gzip, chunked",
        "chunked, identity",
        "chunked,",
        ",chunked",
        "xchunked",
        "chunked;a=b",
        "chunked chunked",
        "\"chunked\"",
        "chunke",
        "chunked\u{a0}",
        "cow",
        "ｃhunked",
    ] {
        let line = format!("Transfer-Encoding: {value}");
        assert_eq!(framing_of(&[&line]), Err(HeadFault::TransferEncodingUnsupported), "{value}");
    }
    for value in ["chunked\x0b", "\x0bchunked", "chunked\x0c", "\0chunked"] {
        let line = format!("Transfer-Encoding: {value}");
        assert_eq!(framing_of(&[&line]), Err(HeadFault::ControlCharacter), "{value:?}");
    }
}

#[test]
fn two_transfer_encodings_are_refused() {
    assert_eq!(
        framing_of(&["Transfer-Encoding: chunked", "Transfer-Encoding: chunked"]),
        Err(HeadFault::TransferEncodingRepeated)
    );
}

#[test]
fn a_length_together_with_an_encoding_is_refused_in_either_order() {
    for lines in [
        ["Content-Length: 5", "Transfer-Encoding: chunked"],
        ["Transfer-Encoding: chunked", "Content-Length: 5"],
        ["Content-Length: 0", "Transfer-Encoding: chunked"],
        ["Content-Length: 5", "Transfer-Encoding: identity"],
    ] {
        assert_eq!(framing_of(&lines), Err(HeadFault::LengthAndEncoding), "{lines:?}");
    }
}

#[test]
fn http_1_0_has_no_transfer_encoding() {
    for value in ["chunked", "identity", ""] {
        let bytes = format!("POST /a HTTP/1.0\r\nTransfer-Encoding: {value}\r\n\r\n");
        assert_eq!(fault_of(bytes), HeadFault::TransferEncodingInHttp10);
    }
}

#[test]
fn connect_has_no_body() {
    let connect = |line: &str| format!("CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n{line}\r\n\r\n");
    assert_eq!(head_of(connect("Content-Length: 0")).framing, Framing::Empty);
    assert_eq!(fault_of(connect("Content-Length: 1")), HeadFault::ConnectWithBody);
    assert_eq!(fault_of(connect("Transfer-Encoding: chunked")), HeadFault::ConnectWithBody);
}

// === Host: BYPASSES rows 26 to 28 ===

#[test]
fn hosts_and_ports_are_accepted_in_host() {
    for host in [
        "a.example",
        "A.Example.",
        "a.example:443",
        "127.0.0.1:3128",
        "[::1]",
        "[2001:db8::1]:443",
        "my_host-1",
        "a:0",
        "a:65535",
        "[::ffff:192.0.2.1]:1",
    ] {
        assert_eq!(head_of(with_host(host)).host(), Some(host));
    }
    assert_eq!(head_of(with_host(" \ta.example\t ")).host(), Some("a.example"));
}

#[test]
fn what_is_no_host_is_refused_in_host() {
    for host in [
        "",
        "a,b",
        "a.example, b.example",
        "user@a",
        "u:p@a",
        "a/",
        "/",
        "a\\b",
        "a b",
        "a\tb",
        "a%62",
        "%61",
        "a#",
        "a?",
        "a:",
        "a:x",
        "a:+1",
        "a:-1",
        "a:65536",
        "a:99999",
        "a:1:2",
        ":443",
        "::1",
        "[::1",
        "::1]",
        "[::1]x",
        "[::1]:",
        "[a.example]",
        "[[::1]]",
        "[::1%25lo]",
        "[]",
        "http://a",
        "a;b",
        "a=b",
        "*",
        "<a>",
        "a\"",
        "é.example",
        "１２７.0.0.1",
    ] {
        assert_eq!(fault_of(with_host(host)), HeadFault::HostInvalid, "{host}");
    }
}

#[test]
fn http_1_1_needs_one_host() {
    assert_eq!(fault_of("GET http://a/ HTTP/1.1\r\n\r\n"), HeadFault::HostMissing);
    assert_eq!(fault_of("GET http://a/ HTTP/1.1\r\nX-Host: a\r\n\r\n"), HeadFault::HostMissing);
    assert_eq!(fault_of(with_fields(&["Host: a.example"])), HeadFault::HostRepeated);
    assert_eq!(fault_of(with_fields(&["hOST: b.example"])), HeadFault::HostRepeated);
    assert_eq!(
        fault_of("GET http://a/ HTTP/1.0\r\nHost: a\r\nHost: a\r\n\r\n"),
        HeadFault::HostRepeated
    );
}

// === faults ===

#[test]
fn faults_have_a_word_a_status_and_a_sentence() {
    assert_eq!(HeadFault::BareLf.cause(), "bare_lf");
    assert_eq!(HeadFault::BareLf.status(), 400);
    assert_eq!(HeadFault::TooLarge.status(), 431);
    assert_eq!(HeadFault::TooManyFields.status(), 431);
    assert_eq!(HeadFault::HostMissing.detail(), "no host field");
    // the number stands in the sentence too
    assert!(HeadFault::TooManyFields.detail().contains(&FIELDS_MAX.to_string()));
    assert!(HeadFault::Method.detail().contains(&METHOD_BYTES_MAX.to_string()));
}

// === properties ===

/// The inputs the fuzzer starts from.
fn seeds() -> Vec<Vec<u8>> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/seeds/head");
    let files = std::fs::read_dir(folder).unwrap();
    let seeds: Vec<_> = files.map(|file| std::fs::read(file.unwrap().path()).unwrap()).collect();
    assert!(seeds.len() >= 15, "only {} seeds", seeds.len());
    seeds
}

/// What a head is, in a form that can be compared.
fn summary(scan: &Result<Scan, HeadFault>) -> String {
    match scan {
        Ok(Scan::Head(head, end)) => format!("{head:?} {} {:?} {end}", head.target, head.headers),
        other => format!("{other:?}"),
    }
}

/// What is accepted, httparse reads as we did.
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

#[test]
fn every_seed_is_read_the_same_in_pieces_of_any_size() {
    let mut heads = 0;
    for seed in seeds() {
        let whole = scan(&seed, LIMIT);
        if let Ok(Scan::Head(head, end)) = &whole {
            assert_httparse_agrees(&seed, head, *end);
            heads += 1;
        }
        for step in 1..8 {
            let mut scanner = Scanner::new(LIMIT);
            let pieces = (0..seed.len()).step_by(step).chain([seed.len()]);
            let ends = pieces.map(|end| scanner.scan(&seed[..end]));
            let decided = ends.into_iter().find(|scan| !matches!(scan, Ok(Scan::Incomplete)));
            assert_eq!(decided.as_ref().map(summary), Some(summary(&whole)), "{step}");
        }
    }
    assert!(heads >= 7, "only {heads} heads");
}

#[derive(Clone, Debug)]
enum Damage {
    Flip(Index, u8),
    Insert(Index, Vec<u8>),
    Remove(Index, usize),
    Truncate(Index),
    Repeat(Index, Index),
}

fn damage() -> impl Strategy<Value = Damage> {
    let telling = prop::sample::select(&b"\r\n\t :,;#%@/\0\x0b\xff0159aHTP"[..]);
    let bytes = prop::collection::vec(prop_oneof![3 => telling, 1 => any::<u8>()], 1..6);
    prop_oneof![
        (any::<Index>(), 1..=255_u8).prop_map(|(at, bits)| Damage::Flip(at, bits)),
        (any::<Index>(), bytes).prop_map(|(at, bytes)| Damage::Insert(at, bytes)),
        (any::<Index>(), 1..8_usize).prop_map(|(at, count)| Damage::Remove(at, count)),
        any::<Index>().prop_map(Damage::Truncate),
        (any::<Index>(), any::<Index>()).prop_map(|(line, to)| Damage::Repeat(line, to)),
    ]
}

fn damaged(mut bytes: Vec<u8>, damages: &[Damage]) -> Vec<u8> {
    for damage in damages {
        let length = bytes.len();
        match damage {
            _ if length == 0 => {}
            Damage::Flip(at, bits) => bytes[at.index(length)] ^= bits,
            Damage::Insert(at, more) => {
                let at = at.index(length);
                drop(bytes.splice(at..at, more.iter().copied()));
            }
            Damage::Remove(at, count) => {
                let at = at.index(length);
                drop(bytes.drain(at..length.min(at + count)));
            }
            Damage::Truncate(at) => bytes.truncate(at.index(length)),
            Damage::Repeat(line, to) => {
                let mut lines: Vec<_> = bytes.split_inclusive(|&byte| byte == b'\n').collect();
                let line = *line.get(&lines);
                lines.insert(to.index(lines.len()), line);
                bytes = lines.concat();
            }
        }
    }
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 10_000, failure_persistence: None, ..ProptestConfig::default() })]

    /// Never a panic, never another reading in pieces, never a head that httparse reads otherwise.
    #[test]
    fn damaged_heads_have_one_reading_or_none(
        which: Index,
        damages in prop::collection::vec(damage(), 0..4),
        split: Index,
        limit in prop_oneof![Just(LIMIT), 0..200_usize],
    ) {
        let bytes = damaged(which.get(&seeds()).clone(), &damages);
        let whole = scan(&bytes, limit);
        let mut scanner = Scanner::new(limit);
        let early = scanner.scan(&bytes[..split.index(bytes.len() + 1)]);
        let in_pieces = match early {
            Ok(Scan::Incomplete) => scanner.scan(&bytes),
            decided => decided,
        };
        // a head with two faults may be refused for either
        if whole.is_ok() || in_pieces.is_ok() {
            prop_assert_eq!(summary(&whole), summary(&in_pieces));
        }
        if let Ok(Scan::Head(head, end)) = &whole {
            prop_assert!(*end <= limit);
            assert_httparse_agrees(&bytes, head, *end);
        }
    }
}
