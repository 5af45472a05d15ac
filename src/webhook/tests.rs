//! What is signed, what a receiver accepts, and what neither may.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use proptest::prelude::*;
use sha2::{Digest as _, Sha256};

use super::{
    envelope::{Envelope, EnvelopeError, Outgoing},
    signature::{Key, KeyError, Keys, replace, sign},
    verify::{Verified, VerifyError, verify},
    *,
};
use crate::{
    secret::Secret,
    target::{Signing, SigningFormat},
};

const NOW: u64 = 1_790_000_000;
const FRESH: [u8; 16] = *b"\x00\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0c\x0d\x0e\xff";
const SECRET: &str = "0123456789abcdef";
const FORMER: &str = "fedcba9876543210";
const BOTH: [SigningFormat; 2] = [SigningFormat::WebRiskOps, SigningFormat::StandardWebhooks];

fn headers(fields: &[(&str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in fields {
        headers.append(
            HeaderName::from_bytes(name.as_bytes()).unwrap(),
            HeaderValue::from_bytes(value.as_bytes()).unwrap(),
        );
    }
    headers
}

fn hash(body: &[u8]) -> [u8; 32] {
    Sha256::digest(body).into()
}

fn read_as(
    format: SigningFormat,
    fields: &[(&str, &str)],
    body: &str,
) -> Result<Envelope, EnvelopeError> {
    let headers = headers(fields);
    let outgoing = Outgoing {
        target: "acme-hook",
        method: &Method::POST,
        url: "https://hooks.acme.example/in?x=1",
        headers: &headers,
        body: body.as_bytes(),
        payload_hash: hash(body.as_bytes()),
        format,
    };
    Envelope::read(&outgoing, NOW, FRESH)
}

fn read(fields: &[(&str, &str)], body: &str) -> Result<Envelope, EnvelopeError> {
    read_as(SigningFormat::WebRiskOps, fields, body)
}

fn secret(text: &str) -> Secret {
    Secret::new(text.as_bytes().to_vec())
}

fn keys(format: SigningFormat, current: &str, previous: Option<&str>) -> Keys {
    let previous = previous.map(secret);
    Keys::new(&Signing { secret: Some(secret(current)), previous, format }).unwrap().unwrap()
}

fn cause<T>(read: Result<T, EnvelopeError>) -> &'static str {
    read.err().map_or("", |error| error.cause().as_str())
}

/// A signed delivery, as the receiver gets it.
fn delivered(
    format: SigningFormat,
    keys: &Keys,
    fields: &[(&str, &str)],
    body: &[u8],
) -> HeaderMap {
    let mut headers = headers(fields);
    let method = Method::POST;
    let outgoing = Outgoing {
        target: "acme-hook",
        method: &method,
        url: "https://hooks.acme.example/",
        headers: &headers,
        body,
        payload_hash: hash(body),
        format,
    };
    let envelope = Envelope::read(&outgoing, NOW, FRESH).unwrap();
    let signed = sign(&envelope, body, keys);
    replace(&mut headers, signed);
    headers
}

fn check(headers: &HeaderMap, body: &[u8], with: &str) -> Result<Verified, VerifyError> {
    verify(headers, body, &[secret(with)], Duration::from_mins(5), NOW)
}

// === the envelope

#[test]
fn a_delivery_that_names_nothing_gets_defaults() {
    for body in ["", "not json", "[1]", "\"text\"", "{}", "{\"other\":{\"event\":\"x\"}}", "{"] {
        let envelope = read(&[], body).unwrap();
        assert_eq!(envelope.event(), "ticket_export.requested", "{body}");
        assert_eq!(envelope.schema(), "ticket-export.webhook.v1", "{body}");
        assert_eq!(envelope.timestamp(), NOW, "{body}");
        assert_eq!(envelope.nonce(), "000102030405060708090a0b0c0d0eff", "{body}");
    }
}

const NAMING: &str = r#"{"event":"a.b","schema_version":"s1","idempotency_key":"k1","replay_protection":{"timestamp":1790000010,"nonce":"n1","more":[{}]},"more":{"event":"no"}}"#;

#[test]
fn the_body_names_what_the_header_does_not() {
    let envelope = read(&[], NAMING).unwrap();
    assert_eq!((envelope.event(), envelope.schema()), ("a.b", "s1"));
    assert_eq!(envelope.idempotency_key(), "k1");
    assert_eq!((envelope.timestamp(), envelope.nonce()), (NOW + 10, "n1"));
    let escaped = r#" {"\u0065vent":"e","replay_protection":{"timestamp":"1790000003"}} "#;
    let envelope = read(&[], escaped).unwrap();
    assert_eq!((envelope.event(), envelope.timestamp()), ("e", NOW + 3));
}

#[test]
fn the_header_comes_before_the_body() {
    let fields = [
        ("x-webriskops-event", "h.e"),
        ("x-webriskops-schema", "h.s"),
        ("x-webriskops-idempotency-key", "k1"),
        ("x-webriskops-timestamp", "1790000010"),
        ("x-webriskops-nonce", "n1"),
    ];
    let envelope = read(&fields, NAMING).unwrap();
    assert_eq!((envelope.event(), envelope.schema()), ("h.e", "h.s"));
    let only_in_header = read(&fields, "").unwrap();
    assert_eq!(only_in_header.idempotency_key(), "k1");
    assert_eq!((only_in_header.timestamp(), only_in_header.nonce()), (NOW + 10, "n1"));
    let common = read(&[("idempotency-key", "k2")], "").unwrap();
    assert_eq!(common.idempotency_key(), "k2");
}

#[test]
fn header_and_body_at_odds_are_refused() {
    let rows: [&[(&str, &str)]; 5] = [
        &[("x-webriskops-timestamp", "1790000011")],
        &[("x-webriskops-nonce", "n2")],
        &[("x-webriskops-idempotency-key", "k2")],
        &[("idempotency-key", "k2")],
        &[("x-webriskops-idempotency-key", "k1"), ("idempotency-key", "k2")],
    ];
    for fields in rows {
        assert_eq!(cause(read(fields, NAMING)), "webhook_fields_differ", "{fields:?}");
    }
    let two = [("x-webriskops-idempotency-key", "a"), ("idempotency-key", "b")];
    assert_eq!(cause(read(&two, "")), "webhook_fields_differ");
}

#[test]
fn a_repeated_field_is_refused() {
    let names = [
        "x-webriskops-event",
        "x-webriskops-schema",
        "x-webriskops-idempotency-key",
        "idempotency-key",
        "x-webriskops-timestamp",
        "x-webriskops-nonce",
    ];
    for name in names {
        let fields = [(name, "1790000000"), (name, "1790000000")];
        let error = read(&fields, "").unwrap_err();
        assert_eq!(error.cause().as_str(), "webhook_field_repeated", "{name}");
        assert!(error.to_string().to_ascii_lowercase().contains(name), "{error}");
    }
}

#[test]
fn a_body_that_parsers_read_differently_is_refused() {
    let rows = [
        r#"{"event":"a","event":"a"}"#,
        r#"{"event":"a","\u0065vent":"b"}"#,
        r#"{"schema_version":"a","schema_version":null}"#,
        r#"{"idempotency_key":"a","x":1,"idempotency_key":"b"}"#,
        r#"{"replay_protection":{},"replay_protection":{"nonce":"n"}}"#,
        r#"{"replay_protection":{"nonce":"n","nonce":"m"}}"#,
        r#"{"replay_protection":{"timestamp":1790000000,"timestamp":1790000000}}"#,
    ];
    for body in rows {
        assert_eq!(cause(read(&[], body)), "webhook_body_ambiguous", "{body}");
    }
    assert!(read(&[], r#"{"x":1,"x":2,"event":"a","y":{"event":1}}"#).is_ok());
}

#[test]
fn a_field_of_another_form_is_refused() {
    let long_nonce = "n".repeat(129);
    let long_key = "k".repeat(256);
    let long_event = "e".repeat(129);
    let rows = [
        ("x-webriskops-nonce", ""),
        ("x-webriskops-nonce", "a.b"),
        ("x-webriskops-nonce", "a b"),
        ("x-webriskops-nonce", "ä"),
        ("x-webriskops-nonce", &long_nonce),
        ("x-webriskops-timestamp", ""),
        ("x-webriskops-timestamp", "+1790000000"),
        ("x-webriskops-timestamp", "01790000000"),
        ("x-webriskops-timestamp", "1790000000.0"),
        ("x-webriskops-timestamp", "1790000000 "),
        ("x-webriskops-timestamp", "99999999999999999999"),
        ("x-webriskops-timestamp", "2026-09-21T14:13:20Z"),
        ("x-webriskops-idempotency-key", ""),
        ("x-webriskops-idempotency-key", "a b"),
        ("x-webriskops-idempotency-key", &long_key),
        ("x-webriskops-event", ""),
        ("x-webriskops-event", "a b"),
        ("x-webriskops-schema", &long_event),
    ];
    for (name, value) in rows {
        let error = read(&[(name, value)], "").unwrap_err();
        assert_eq!(error.cause().as_str(), "webhook_field_invalid", "{name}: {value}");
        assert!(value.len() < 5 || !error.to_string().contains(value), "{error}");
    }
    let bodies = [
        r#"{"replay_protection":{"timestamp":1790000000.5}}"#,
        r#"{"replay_protection":{"timestamp":-1}}"#,
        r#"{"replay_protection":{"timestamp":"1e9"}}"#,
        r#"{"replay_protection":{"timestamp":{}}}"#,
        r#"{"replay_protection":{"nonce":7}}"#,
        r#"{"replay_protection":{"nonce":"a\nb"}}"#,
        r#"{"idempotency_key":7}"#,
        r#"{"idempotency_key":""}"#,
        r#"{"idempotency_key":"a\r\nx: y"}"#,
        r#"{"event":"a\r\nx: y"}"#,
    ];
    for body in bodies {
        assert_eq!(cause(read(&[], body)), "webhook_field_invalid", "{body}");
    }
}

#[test]
fn what_is_no_name_of_a_delivery_is_left_alone() {
    let bodies = [
        r#"{"event":{"type":"x"},"schema_version":2,"replay_protection":true}"#,
        r#"{"event":null,"idempotency_key":null,"replay_protection":{"nonce":null,"timestamp":null}}"#,
        r#"{"timestamp":1,"nonce":"x y"}"#,
    ];
    for body in bodies {
        let envelope = read(&[], body).unwrap();
        assert_eq!(envelope.event(), "ticket_export.requested", "{body}");
        assert_eq!(envelope.timestamp(), NOW, "{body}");
    }
}

#[test]
fn a_timestamp_may_be_five_minutes_off_and_no_more() {
    for (offset, fits) in [(-300_i64, true), (300, true), (-301, false), (301, false)] {
        let text = NOW.checked_add_signed(offset).unwrap().to_string();
        let in_header = read(&[("x-webriskops-timestamp", &text)], "");
        let in_body = read(&[], &format!("{{\"replay_protection\":{{\"timestamp\":{text}}}}}"));
        for result in [in_header, in_body] {
            let expected = if fits { "" } else { "webhook_timestamp_off" };
            assert_eq!(cause(result), expected, "{offset}");
        }
    }
}

#[test]
fn a_standard_id_has_no_dots() {
    let dotted = [("idempotency-key", "a.b")];
    assert_eq!(read(&dotted, "").unwrap().idempotency_key(), "a.b");
    let refused = read_as(SigningFormat::StandardWebhooks, &dotted, "");
    assert_eq!(cause(refused), "webhook_field_invalid");
    let derived = read_as(SigningFormat::StandardWebhooks, &[], "").unwrap();
    assert!(is_standard_id(derived.idempotency_key()));
}

#[test]
fn a_derived_key_is_the_same_for_a_retry_and_for_nothing_else() {
    let none = HeaderMap::new();
    let key = |target, method: &Method, url, body: &[u8], now| {
        let format = SigningFormat::WebRiskOps;
        let payload_hash = hash(body);
        let outgoing = Outgoing { target, method, url, headers: &none, body, payload_hash, format };
        Envelope::read(&outgoing, now, [7; 16]).unwrap().idempotency_key().to_owned()
    };
    let first = key("t", &Method::POST, "https://a/", b"body", NOW);
    // Computed apart from this program, with Python's hashlib: the format is a promise.
    assert_eq!(first, "derived-551b7f66e1ae42ee0b7eb9c8d33fa430e1e17ff178103b888bf8a9121062b13c");
    assert_eq!(first, key("t", &Method::POST, "https://a/", b"body", NOW + 1000));
    let others = [
        key("u", &Method::POST, "https://a/", b"body", NOW),
        key("t", &Method::PUT, "https://a/", b"body", NOW),
        key("t", &Method::POST, "https://a/b", b"body", NOW),
        key("t", &Method::POST, "https://a/", b"bodz", NOW),
        key("tP", &Method::from_bytes(b"OST").unwrap(), "https://a/", b"body", NOW),
    ];
    assert!(!others.contains(&first));
}

// === signing

#[test]
fn a_signature_is_the_hmac_of_timestamp_nonce_and_body() {
    let keys = keys(SigningFormat::WebRiskOps, SECRET, Some(FORMER));
    let body = b"{\"event\":\"x.y\"}";
    let headers = delivered(
        SigningFormat::WebRiskOps,
        &keys,
        &[
            ("x-webriskops-nonce", "abc"),
            ("X-WebRiskOps-Signature", "sha256=forged"),
            ("webhook-signature", "v1,forged"),
            ("webhook-id", "forged"),
            ("webhook-timestamp", "1"),
            ("idempotency-key", "k"),
        ],
        body,
    );
    let text = |name: &HeaderName| headers.get(name).unwrap().to_str().unwrap();
    // Computed with `openssl dgst -sha256 -hmac`.
    assert_eq!(
        text(&SIGNATURE),
        "sha256=c59620d903094172255365520169eaf144d3c5548f472e0e4881bd8fe48f0649, sha256=f8d41398809b77cdc92828c0085613922a9a25a79ef3185f6acd86b6b68f4d18"
    );
    assert_eq!(text(&EVENT), "x.y");
    assert_eq!((text(&TIMESTAMP), text(&NONCE)), ("1790000000", "abc"));
    assert_eq!((text(&IDEMPOTENCY_KEY), text(&COMMON_IDEMPOTENCY_KEY)), ("k", "k"));
    assert_eq!(headers.len(), 7, "nothing of the other format: {headers:?}");
}

/// BYPASSES H112: the specification's own vector.
#[test]
fn a_standard_webhook_is_signed_as_its_specification_says() {
    let secret = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
    let body = br#"{"email":"test@example.com","username":"test_user"}"#;
    let fields = headers(&[
        ("idempotency-key", "msg_27UH4WbU6Z5A5EzD8u03UvzRbpk"),
        ("x-webriskops-timestamp", "1649367553"),
    ]);
    let format = SigningFormat::StandardWebhooks;
    let outgoing = Outgoing {
        target: "t",
        method: &Method::POST,
        url: "https://a.example/",
        headers: &fields,
        body,
        payload_hash: hash(body),
        format,
    };
    let envelope = Envelope::read(&outgoing, 1_649_367_553, FRESH).unwrap();
    let signed = sign(&envelope, body, &keys(format, secret, Some(FORMER)));
    let mut headers = HeaderMap::new();
    replace(&mut headers, signed);
    let text = |name: &HeaderName| headers.get(name).unwrap().to_str().unwrap();
    let (first, second) = text(&STANDARD_SIGNATURE).split_once(' ').unwrap();
    assert_eq!(first, "v1,tZ1I4/hDygAJgO5TYxiSd6Sd0kDW6hPenDe+bTa3Kkw=");
    assert!(second.starts_with("v1,") && second != first);
    assert_eq!(text(&STANDARD_ID), "msg_27UH4WbU6Z5A5EzD8u03UvzRbpk");
    assert_eq!(text(&STANDARD_TIMESTAMP), "1649367553");
    assert_eq!(text(&IDEMPOTENCY_KEY), text(&STANDARD_ID));
    assert_eq!(headers.len(), 6, "nothing of the other format: {headers:?}");
    for with in [secret, FORMER] {
        let verified = verify(
            &headers,
            body,
            &[Secret::new(with.into())],
            Duration::from_mins(5),
            1_649_367_553,
        );
        assert_eq!(verified.unwrap().idempotency_key.as_deref(), Some(text(&STANDARD_ID)));
    }
}

#[test]
fn a_secret_that_cannot_keep_a_secret_is_refused() {
    let key = |text: &str, format| Key::new(&secret(text), format).map(|_| ());
    for format in BOTH {
        assert_eq!(key("", format), Err(KeyError::TooShort));
        assert_eq!(key("0123456789abcde", format), Err(KeyError::TooShort));
        assert_eq!(key(SECRET, format), Ok(()));
    }
    let standard = SigningFormat::StandardWebhooks;
    assert_eq!(key("whsec_", standard), Err(KeyError::TooShort));
    assert_eq!(key("whsec_AAAAAAAAAAAAAAAA", standard), Err(KeyError::TooShort));
    assert_eq!(key("whsec_not base64, not at all", standard), Err(KeyError::NotBase64));
    assert_eq!(key("whsec_not base64, not at all", SigningFormat::WebRiskOps), Ok(()));
    // With and without padding.
    assert_eq!(key("whsec_MDEyMzQ1Njc4OWFiY2RlZg==", standard), Ok(()));
    assert_eq!(key("whsec_MDEyMzQ1Njc4OWFiY2RlZg", standard), Ok(()));
    let printed = format!("{:?}", keys(standard, SECRET, Some(FORMER)));
    assert!(!printed.contains(SECRET) && printed.contains("[redacted]"), "{printed}");
    assert!(Keys::new(&Signing::default()).unwrap().is_none());
}

// === verifying

#[test]
fn either_secret_of_a_rotation_verifies() {
    for format in BOTH {
        let headers = delivered(format, &keys(format, SECRET, Some(FORMER)), &[], b"body");
        for with in [SECRET, FORMER] {
            assert!(check(&headers, b"body", with).is_ok());
        }
        let with = [secret("another secret 0"), secret(FORMER)];
        assert!(verify(&headers, b"body", &with, Duration::from_mins(5), NOW).is_ok());
        assert_eq!(check(&headers, b"body", "another secret 0"), Err(VerifyError::Mismatch));
        assert_eq!(
            verify(&headers, b"body", &[], Duration::from_mins(5), NOW),
            Err(VerifyError::Mismatch)
        );
    }
}

#[test]
fn a_receiver_learns_what_to_remember() {
    let format = SigningFormat::WebRiskOps;
    let headers = delivered(format, &keys(format, SECRET, None), &[], NAMING.as_bytes());
    let expected = Verified {
        format,
        timestamp: NOW + 10,
        nonce: Some("n1".into()),
        idempotency_key: Some("k1".into()),
        event: Some("a.b".into()),
        schema: Some("s1".into()),
    };
    assert_eq!(check(&headers, NAMING.as_bytes(), SECRET), Ok(expected));
}

#[test]
fn a_delivery_out_of_time_is_refused_though_genuine() {
    for format in BOTH {
        let headers = delivered(format, &keys(format, SECRET, None), &[], b"body");
        let at = |now| {
            verify(&headers, b"body", &[secret(SECRET)], Duration::from_mins(5), now)
                .map(|_| ())
                .map_err(|error| error.cause())
        };
        assert_eq!(at(NOW + 300), Ok(()));
        assert_eq!(at(NOW - 300), Ok(()));
        assert_eq!(at(NOW + 301), Err("timestamp_too_old"));
        assert_eq!(at(NOW - 301), Err("timestamp_too_new"));
        assert_eq!(at(u64::MAX), Err("timestamp_too_old"));
    }
}

/// BYPASSES H108.
#[test]
fn a_truncated_or_extended_signature_is_refused() {
    for (format, name) in BOTH.into_iter().zip([&SIGNATURE, &STANDARD_SIGNATURE]) {
        let good = delivered(format, &keys(format, SECRET, None), &[], b"body");
        let text = good.get(name).unwrap().to_str().unwrap().to_owned();
        let mut wrong: Vec<String> = (0..text.len()).map(|end| text[..end].to_owned()).collect();
        wrong.push(format!("{text}0"));
        wrong.push(format!("{text}{text}"));
        wrong.push(text.to_uppercase());
        wrong.push(text.split(['=', ',']).next_back().unwrap().to_owned());
        assert!(wrong.len() > 40);
        for text in wrong {
            let mut headers = good.clone();
            headers.insert(name.clone(), text.parse().unwrap());
            assert_eq!(check(&headers, b"body", SECRET), Err(VerifyError::Mismatch), "{text}");
        }
    }
}

#[test]
fn a_genuine_signature_among_foreign_ones_counts() {
    for (format, name, separator) in [
        (BOTH[0], &SIGNATURE, ", "),
        (BOTH[0], &SIGNATURE, ","),
        (BOTH[1], &STANDARD_SIGNATURE, " "),
    ] {
        let mut headers = delivered(format, &keys(format, SECRET, None), &[], b"body");
        let good = headers.get(name).unwrap().to_str().unwrap();
        let all = ["sha512=00", "v1a,AAAA", good, ""].join(separator);
        headers.insert(name.clone(), all.parse().unwrap());
        assert!(check(&headers, b"body", SECRET).is_ok(), "{all}");
    }
}

#[test]
fn a_missing_repeated_or_malformed_field_is_named() {
    for format in BOTH {
        let good = delivered(format, &keys(format, SECRET, None), &[], b"body");
        let needed = match format {
            SigningFormat::WebRiskOps => [&TIMESTAMP, &NONCE, &SIGNATURE],
            SigningFormat::StandardWebhooks => {
                [&STANDARD_TIMESTAMP, &STANDARD_ID, &STANDARD_SIGNATURE]
            }
        };
        for name in good.keys() {
            let mut headers = good.clone();
            headers.append(name.clone(), good.get(name).unwrap().clone());
            let error = check(&headers, b"body", SECRET).unwrap_err();
            assert_eq!(error, VerifyError::Repeated { field: written(name).into() });
        }
        for name in needed {
            let mut headers = good.clone();
            headers.remove(name);
            let error = check(&headers, b"body", SECRET).unwrap_err();
            let missing = ["field_missing", "signature_missing"].contains(&error.cause());
            assert!(missing, "{name}: {error}");
        }
        for name in needed.iter().take(2) {
            for wrong in ["", "a.b", "01", "a b"] {
                let mut headers = good.clone();
                headers.insert((*name).clone(), wrong.parse().unwrap());
                let error = check(&headers, b"body", SECRET).unwrap_err();
                // `01` is a good nonce and a good id, and not the one that was signed.
                let expected =
                    if wrong == "01" && **name != TIMESTAMP && **name != STANDARD_TIMESTAMP {
                        VerifyError::Mismatch
                    } else {
                        VerifyError::Malformed { field: written(name).into() }
                    };
                assert_eq!(error, expected, "{name}: {wrong}");
            }
        }
    }
    let mut both = delivered(BOTH[0], &keys(BOTH[0], SECRET, None), &[], b"body");
    both.extend(delivered(BOTH[1], &keys(BOTH[1], SECRET, None), &[], b"body"));
    assert_eq!(check(&both, b"body", SECRET), Err(VerifyError::TwoFormats));
}

fn format() -> impl Strategy<Value = SigningFormat> {
    proptest::sample::select(&BOTH[..])
}

proptest! {
    #[test]
    fn what_is_signed_verifies_and_any_flipped_bit_breaks_it(
        format in format(),
        body in proptest::collection::vec(any::<u8>(), 0..300),
        nonce in "[A-Za-z0-9_-]{1,128}",
        key in "[!-\\-/-~]{1,255}",
        secret_bytes in proptest::collection::vec(any::<u8>(), 16..80),
        off in -300_i64..=300,
        place in any::<proptest::sample::Index>(),
        bit in 0_u8..8,
    ) {
        prop_assume!(!secret_bytes.starts_with(b"whsec_"));
        let timestamp = NOW.checked_add_signed(off).unwrap().to_string();
        let fields = [
            ("x-webriskops-nonce", nonce.as_str()),
            ("x-webriskops-idempotency-key", &key),
            ("x-webriskops-timestamp", &timestamp),
        ];
        // The body is not JSON, or names nothing.
        prop_assume!(std::str::from_utf8(&body).is_err() || !body.starts_with(b"{"));
        let secret = Secret::new(secret_bytes.clone());
        let signing = Signing { secret: Some(secret.clone()), previous: None, format };
        let keys = Keys::new(&signing).unwrap().unwrap();
        let headers = delivered(format, &keys, &fields, &body);
        let check = |headers: &HeaderMap, body: &[u8], secret: &Secret| {
            verify(headers, body, std::slice::from_ref(secret), Duration::from_mins(10), NOW)
        };
        let verified = check(&headers, &body, &secret).unwrap();
        prop_assert_eq!(verified.timestamp.to_string(), timestamp);
        prop_assert_eq!(verified.idempotency_key.as_deref(), Some(key.as_str()));

        let flipped = |bytes: &[u8]| {
            let mut bytes = bytes.to_vec();
            let index = place.index(bytes.len());
            bytes[index] ^= 1 << bit;
            bytes
        };
        if !body.is_empty() {
            prop_assert_eq!(check(&headers, &flipped(&body), &secret), Err(VerifyError::Mismatch));
        }
        let other = Secret::new(flipped(&secret_bytes));
        prop_assert!(check(&headers, &body, &other).is_err());
        let signed = match format {
            SigningFormat::WebRiskOps => [&TIMESTAMP, &NONCE, &SIGNATURE],
            SigningFormat::StandardWebhooks => {
                [&STANDARD_TIMESTAMP, &STANDARD_ID, &STANDARD_SIGNATURE]
            }
        };
        for name in signed {
            let mut headers = headers.clone();
            let value = flipped(headers.get(name).unwrap().as_bytes());
            // What is no field value any more does not get as far as a receiver.
            if let Ok(value) = HeaderValue::from_bytes(&value) {
                headers.insert(name.clone(), value);
                prop_assert!(check(&headers, &body, &secret).is_err(), "{}", name);
            }
        }
    }

    #[test]
    fn reading_an_envelope_never_panics_and_what_it_reads_can_be_sent(
        body in "\\PC{0,60}|[{}\"a-z:,0-9\\[\\]_.\\\\ ]{0,120}",
        tail in proptest::collection::vec(any::<u8>(), 0..8),
        value in proptest::collection::vec(any::<u8>(), 0..40),
        field in 0_usize..7,
    ) {
        let mut body = body.into_bytes();
        body.extend(tail);
        let mut headers = HeaderMap::new();
        if let Ok(value) = HeaderValue::from_bytes(&value) {
            let name = [&EVENT, &SCHEMA, &IDEMPOTENCY_KEY, &TIMESTAMP, &NONCE, &SIGNATURE,
                &COMMON_IDEMPOTENCY_KEY][field];
            headers.insert(name.clone(), value);
        }
        for format in BOTH {
            let outgoing = Outgoing {
                target: "t",
                method: &Method::PUT,
                url: "",
                headers: &headers,
                body: &body,
                payload_hash: hash(&body),
                format,
            };
            if let Ok(envelope) = Envelope::read(&outgoing, NOW, FRESH) {
                let mut headers = headers.clone();
                replace(&mut headers, sign(&envelope, &body, &keys(format, SECRET, None)));
                prop_assert!(check(&headers, &body, SECRET).is_ok());
            }
        }
    }
}
