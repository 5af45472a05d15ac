//! Request paths: no panic, and none accepted that leaves its base in some server's reading.
#![no_main]

use egress_gateway::path::{check, contained, join};
use libfuzzer_sys::fuzz_target;

const BASES: [&str; 3] = ["/", "/base", "/base/api"];

fuzz_target!(|input: (u8, bool, &str)| {
    let (choice, encoded_slash, rest) = input;
    let base = BASES[usize::from(choice) % BASES.len()];
    for path in [rest.to_owned(), format!("{base}{rest}"), join(base, rest)] {
        let judged = contained(base, &path, encoded_slash);
        if judged.is_ok() {
            assert!(check(&path, encoded_slash).is_ok());
            assert!(contained(base, &path, true).is_ok(), "stricter where more is allowed");
            assert_stays_below(base, &path);
        }
    }
});

fn assert_stays_below(base: &str, path: &str) {
    let base = resolved(base.as_bytes());
    let mut form = path.as_bytes().to_vec();
    for decodings in 0..=4 {
        let text = std::str::from_utf8(&form).expect("no other encoding");
        assert!(resolved(&form).starts_with(&base), "{path:?} decoded {decodings} times");
        let url = url::Url::parse(&format!("https://h.example{text}")).expect("a URL");
        assert_eq!(url.host_str(), Some("h.example"), "{path:?}");
        assert!(resolved(url.path().as_bytes()).starts_with(&base), "{path:?} as {url}");
        form = decoded(&form);
    }
}

/// As servers resolve a path: parameters away, dots away, segment by segment.
fn resolved(form: &[u8]) -> Vec<&[u8]> {
    let mut kept = Vec::new();
    for segment in form.split(|byte| b"/\\".contains(byte)) {
        match segment.split(|&byte| byte == b';').next().unwrap_or_default() {
            b"" | b"." => {}
            b".." => drop(kept.pop()),
            name => kept.push(name),
        }
    }
    kept
}

fn decoded(form: &[u8]) -> Vec<u8> {
    let hex = |byte: u8| char::from(byte).to_digit(16);
    let mut decoded = Vec::new();
    let mut rest = form;
    while let Some((&first, after)) = rest.split_first() {
        let triplet = match after {
            [high, low, ..] if first == b'%' => hex(*high).zip(hex(*low)),
            _ => None,
        };
        decoded.push(
            triplet.map_or(first, |(high, low)| u8::try_from(high * 16 + low).expect("two digits")),
        );
        rest = if triplet.is_some() { &after[2..] } else { after };
    }
    decoded
}
