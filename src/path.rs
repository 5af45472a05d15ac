//! Where a request's path may go: below its target's base path, however often somebody decodes it.
//!
//! Servers differ in what they make of a path: Tomcat takes `..;x` for `..`, IIS `%5c` for a
//! separator, some decode twice. A path is let through only when all of these readings are one, and
//! none of them leaves the base path (contract, section 6.2).

use std::borrow::Cow;

/// How many times a path is decoded before it is refused for having something left to decode.
const DECODINGS_MAX: u32 = 4;

/// Characters that some servers turn into `.`, `/`, `\` or `%`: by compatibility normalisation
/// (NFKC) or by Windows' best-fit mapping to a code page.
const LOOKALIKES: &[char] = &[
    '\u{2024}', '\u{2025}', '\u{fe52}', '\u{ff0e}', // dots
    '\u{2044}', '\u{2215}', '\u{29f8}', '\u{ff0f}', // slashes
    '\u{2216}', '\u{29f5}', '\u{fe68}', '\u{ff3c}', // backslashes
    '\u{fe6a}', '\u{ff05}', // percent signs
    '\u{fe54}', '\u{ff1b}', // semicolons
];

/// Why a path is refused. Nothing of the path is in the message: it may hold a credential.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathFault {
    /// Does not begin with `/`.
    #[error("the path does not begin with a slash")]
    NotAbsolute,
    /// White space, a control character, or anything that is not ASCII, unencoded.
    #[error("the path holds a character that has to be percent-encoded")]
    Character,
    /// `?` or `#`: they end a path.
    #[error("the path holds a ? or # that is not percent-encoded")]
    Delimiter,
    /// `\`, `%5c`: a separator for some servers.
    #[error("the path holds a backslash")]
    Backslash,
    /// `%00` to `%1f`, `%7f`, and their kin beyond ASCII.
    #[error("the path holds an encoded control character")]
    EncodedControl,
    /// `%` without two hexadecimal digits.
    #[error("the path holds a percent sign without two hexadecimal digits")]
    Percent,
    /// Bytes that are not UTF-8 once decoded: overlong forms of `/` and `.` among them.
    #[error("the path is not UTF-8 once decoded")]
    NotUtf8,
    /// A character that some servers take for a separator or a dot.
    #[error("the path holds a character that some servers take for a separator or a dot")]
    Lookalike,
    /// `//`, also with path parameters between (`/;x/`).
    #[error("the path holds an empty segment")]
    EmptySegment,
    /// `.`, `..` and what servers take for them: `%2e`, `..;x`, `...`, `.. `.
    #[error("the path holds a dot segment")]
    DotSegment,
    /// `%2f` where the target does not allow it.
    #[error("the path holds an encoded slash, which the target's encoded_slash does not allow")]
    EncodedSlash,
    /// Something that is refused, encoded twice or more often.
    #[error("the path is percent-encoded more than once")]
    DoubleEncoding,
    /// Not the base path and not below it.
    #[error("the path is not below the target's base path")]
    OutsideBase,
}

impl PathFault {
    /// The stable word for it in events.
    pub const fn word(self) -> &'static str {
        match self {
            Self::NotAbsolute => "path_not_absolute",
            Self::Character => "path_character",
            Self::Delimiter => "path_delimiter",
            Self::Backslash => "path_backslash",
            Self::EncodedControl => "path_encoded_control",
            Self::Percent => "path_percent_malformed",
            Self::NotUtf8 => "path_not_utf8",
            Self::Lookalike => "path_lookalike",
            Self::EmptySegment => "path_empty_segment",
            Self::DotSegment => "path_dot_segment",
            Self::EncodedSlash => "path_encoded_slash",
            Self::DoubleEncoding => "path_double_encoding",
            Self::OutsideBase => "path_outside_base",
        }
    }
}

/// Refuses a path that two servers could read differently. `path` is a request's, as it came, without
/// its query; `encoded_slash` is the target's leave to have `%2f` inside a segment (RFC 3986 §2.2
/// keeps it apart from `/`; many servers do not).
///
/// # Errors
/// The first fault found; those of the path as written come before those of its decoded forms.
pub fn check(path: &str, encoded_slash: bool) -> Result<(), PathFault> {
    for_each_form(path, encoded_slash, |_| Ok(()))
}

/// [`check`], and the path is `base` or lies below it, segment by segment, as written and decoded.
/// Case counts. `base` is a target's base path: `/`, or without a slash at its end.
///
/// # Errors
/// As [`check`]; [`PathFault::OutsideBase`] where it leaves the base path.
pub fn contained(base: &str, path: &str, encoded_slash: bool) -> Result<(), PathFault> {
    let mut base = Cow::Borrowed(base.as_bytes());
    for_each_form(path, encoded_slash, |form| {
        if !is_within(&base, form) {
            return Err(PathFault::OutsideBase);
        }
        if let Some(decoded) = decode(&base) {
            base = Cow::Owned(decoded.text);
        }
        Ok(())
    })
}

/// Appends the path behind `/targets/{id}` to a target's base path: `rest` is empty or begins with
/// `/`. Says nothing of where the result leads; [`contained`] does.
pub fn join(base: &str, rest: &str) -> String {
    if rest.is_empty() {
        return base.to_owned();
    }
    let base = base.strip_suffix('/').unwrap_or(base);
    let slash = if rest.starts_with('/') { "" } else { "/" };
    [base, slash, rest].concat()
}

/// Judges the path as written, then as it is after each decoding, until nothing is left to decode.
fn for_each_form(
    path: &str,
    encoded_slash: bool,
    mut visit: impl FnMut(&[u8]) -> Result<(), PathFault>,
) -> Result<(), PathFault> {
    check_written(path)?;
    let mut form = Cow::Borrowed(path.as_bytes());
    for depth in 0..=DECODINGS_MAX {
        // what only shows in the second decoding was hidden from whoever decodes once
        let at_depth = |fault| if depth > 1 { PathFault::DoubleEncoding } else { fault };
        if depth > 0 {
            check_characters(&form).map_err(at_depth)?;
        }
        check_segments(&form).map_err(at_depth)?;
        visit(&form)?;
        let Some(decoded) = decode(&form) else { return Ok(()) };
        if decoded.slash && depth > 0 {
            return Err(PathFault::DoubleEncoding);
        }
        if decoded.slash && !encoded_slash {
            return Err(PathFault::EncodedSlash);
        }
        form = Cow::Owned(decoded.text);
    }
    Err(PathFault::DoubleEncoding)
}

fn check_written(path: &str) -> Result<(), PathFault> {
    if !path.starts_with('/') {
        return Err(PathFault::NotAbsolute);
    }
    for byte in path.bytes() {
        match byte {
            b'\\' => return Err(PathFault::Backslash),
            b'?' | b'#' => return Err(PathFault::Delimiter),
            0x21..=0x7e => {}
            0..=0x20 | 0x7f..=0xff => return Err(PathFault::Character),
        }
    }
    let digits_follow = |after: &str| {
        let mut digits = after.bytes().take(2).filter(u8::is_ascii_hexdigit);
        digits.next().is_some() && digits.next().is_some()
    };
    if path.split('%').skip(1).all(digits_follow) { Ok(()) } else { Err(PathFault::Percent) }
}

/// Of a decoded form.
fn check_characters(form: &[u8]) -> Result<(), PathFault> {
    let text = str::from_utf8(form).map_err(|_| PathFault::NotUtf8)?;
    for character in text.chars() {
        match character {
            '\\' => return Err(PathFault::Backslash),
            // line and paragraph separator, byte order mark: control characters but in name
            '\u{2028}' | '\u{2029}' | '\u{feff}' => return Err(PathFault::EncodedControl),
            control if control.is_control() => return Err(PathFault::EncodedControl),
            lookalike if LOOKALIKES.contains(&lookalike) => return Err(PathFault::Lookalike),
            _ => {}
        }
    }
    Ok(())
}

fn check_segments(form: &[u8]) -> Result<(), PathFault> {
    let mut segments = form.split(|&byte| byte == b'/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        if segment.is_empty() && segments.peek().is_none() {
            return Ok(());
        }
        // Tomcat, Jetty and their kin take what follows a semicolon away before they resolve dots.
        let name = segment.split(|&byte| byte == b';').next().unwrap_or_default();
        if name.is_empty() {
            return Err(PathFault::EmptySegment);
        }
        // Who decodes first and parses then ends the path at `?` or `#`. Windows takes dots and
        // spaces from the end of a name: `.. ` and `...` may climb there.
        let name = name.split(|byte| b"?#".contains(byte)).next().unwrap_or_default();
        if !name.is_empty() && name.iter().all(|byte| b". ".contains(byte)) {
            return Err(PathFault::DotSegment);
        }
    }
    Ok(())
}

fn is_within(base: &[u8], path: &[u8]) -> bool {
    base == b"/"
        || path
            .strip_prefix(base)
            .is_some_and(|rest| rest.first().is_none_or(|&separator| separator == b'/'))
}

/// A text decoded once.
struct Decoded {
    text: Vec<u8>,
    /// One of the triplets was a slash.
    slash: bool,
}

/// Decodes each triplet once; a `%` without two digits stays. `None` when there is none to decode.
fn decode(text: &[u8]) -> Option<Decoded> {
    if !text.contains(&b'%') {
        return None;
    }
    let mut decoded = Decoded { text: Vec::with_capacity(text.len()), slash: false };
    let mut rest = text;
    while let [first, after @ ..] = rest {
        if let [b'%', high, low, after @ ..] = rest
            && let Some(byte) = from_hex(*high, *low)
        {
            decoded.slash |= byte == b'/';
            decoded.text.push(byte);
            rest = after;
        } else {
            decoded.text.push(*first);
            rest = after;
        }
    }
    (decoded.text.len() < text.len()).then_some(decoded)
}

fn from_hex(high: u8, low: u8) -> Option<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    Some(digit(high)? << 4 | digit(low)?)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn paths_that_every_server_reads_alike_pass() {
        for path in [
            "/",
            "/base",
            "/base/",
            "/rest/api/3/issue/ABC-1",
            "/a.b/.hidden/..x/x..",
            "/a;v=1/b",
            "/100%25",
            "/100%25%20sure",
            "/50%25off",
            "/caf%C3%A9/%E6%97%A5%E6%9C%AC",
            "/why%3f/%23tag/a%3Bb/a%20b",
            "/file%2etxt",
            "/matrix:1,2@x!$&'()*+=~",
            "/compare/main...dev",
        ] {
            assert_eq!(check(path, false), Ok(()), "{path}");
        }
    }

    #[test]
    fn ambiguous_paths_are_refused() {
        use PathFault as F;
        for (path, fault) in [
            ("", F::NotAbsolute),
            ("base", F::NotAbsolute),
            ("*", F::NotAbsolute),
            ("https://jira.example.com/", F::NotAbsolute),
            ("/a b", F::Character),
            ("/a\tb", F::Character),
            ("/a\u{e9}", F::Character),
            ("/a\x7f", F::Character),
            ("/a?b", F::Delimiter),
            ("/a#b", F::Delimiter),
            // BYPASSES 33 and 34
            ("/base/../admin", F::DotSegment),
            ("/base/%2e%2e/admin", F::DotSegment),
            ("/base/.%2e/admin", F::DotSegment),
            ("/base/%2E./admin", F::DotSegment),
            ("/base/..\\admin", F::Backslash),
            ("/base/..%2fadmin", F::EncodedSlash),
            ("/base/%5c..%5cadmin", F::Backslash),
            ("/base/..;/admin", F::DotSegment),
            ("/base//admin", F::EmptySegment),
            ("/base/%252e%252e/", F::DoubleEncoding),
            // their kin
            ("//evil", F::EmptySegment),
            ("/base//", F::EmptySegment),
            ("/base/;x/admin", F::EmptySegment),
            ("/base/%3bx/admin", F::EmptySegment),
            ("/base/.", F::DotSegment),
            ("/base/..", F::DotSegment),
            ("/base/..;jsessionid=1", F::DotSegment),
            ("/base/.;/x", F::DotSegment),
            ("/base/..%3b/x", F::DotSegment),
            ("/base/%2e%2e%3bx/x", F::DotSegment),
            ("/base/.../x", F::DotSegment),
            ("/base/..%20/x", F::DotSegment),
            ("/base/%20/x", F::DotSegment),
            ("/base/..%3f", F::DotSegment),
            ("/base/..%23/x", F::DotSegment),
            ("/a%00", F::EncodedControl),
            ("/a%0d%0aX", F::EncodedControl),
            ("/a%1f", F::EncodedControl),
            ("/a%7F", F::EncodedControl),
            ("/a%c2%85", F::EncodedControl),
            ("/a%e2%80%a8", F::EncodedControl),
            ("/a%", F::Percent),
            ("/a%2", F::Percent),
            ("/a%zz", F::Percent),
            ("/a%u002f", F::Percent),
            ("/a%+1", F::Percent),
            ("/a%%32%66", F::Percent),
            ("/base/%c0%ae%c0%ae/admin", F::NotUtf8),
            ("/base/..%c0%af", F::NotUtf8),
            ("/base/%e9", F::NotUtf8),
            ("/base/%ef%bc%8e%ef%bc%8e/admin", F::Lookalike),
            ("/base/..%ef%bc%8fadmin", F::Lookalike),
            ("/base/%252f", F::DoubleEncoding),
            ("/base/%25252e%25252e/", F::DoubleEncoding),
            ("/base/%2500", F::DoubleEncoding),
            ("/base/%255cadmin", F::DoubleEncoding),
            ("/base/..%252fadmin", F::DoubleEncoding),
            ("/base/%25c0%25ae", F::DoubleEncoding),
            ("/base/%2525252541", F::DoubleEncoding),
        ] {
            assert_eq!(check(path, false), Err(fault), "{path}");
        }
    }

    #[test]
    fn an_encoded_slash_passes_only_where_it_is_allowed_and_hides_nothing() {
        assert_eq!(check("/api/v4/projects/a%2Fb", true), Ok(()));
        assert_eq!(check("/api/v4/projects/a%2Fb", false), Err(PathFault::EncodedSlash));
        assert_eq!(check("/api/a%2f..%2fb", true), Err(PathFault::DotSegment));
        assert_eq!(check("/api/a%2f%2fb", true), Err(PathFault::EmptySegment));
        assert_eq!(check("/api/%2fb", true), Err(PathFault::EmptySegment));
        assert_eq!(check("/api%2f", true), Ok(()));
        assert_eq!(check("/api/a%252fb", true), Err(PathFault::DoubleEncoding));
        assert_eq!(check("/api/a%5cb", true), Err(PathFault::Backslash));
    }

    #[test]
    fn a_path_is_below_its_base_by_whole_segments() {
        let contained = |path| contained("/jira", path, true);
        for path in ["/jira", "/jira/", "/jira/rest", "/jira/a%2fb"] {
            assert_eq!(contained(path), Ok(()), "{path}");
        }
        // BYPASSES 35, and its kin: the path as written has to be below it too
        for path in [
            "/jira-evil",
            "/jirax",
            "/jir",
            "/",
            "/Jira/x",
            "/jira;x/y",
            "/jira%2fx",
            "/j%69ra/x",
            "/jira%3f/x",
            "/x%2f/jira",
        ] {
            let refused = contained(path);
            assert!(
                matches!(refused, Err(PathFault::OutsideBase | PathFault::EmptySegment)),
                "{path}: {refused:?}"
            );
        }
        assert_eq!(super::contained("/", "/anything", false), Ok(()));
    }

    #[test]
    fn a_base_with_encoded_characters_holds_in_the_decoded_form_too() {
        assert_eq!(contained("/caf%C3%A9", "/caf%C3%A9/x%20y", false), Ok(()));
        assert_eq!(contained("/a%20b", "/a%20b", false), Ok(()));
        assert_eq!(contained("/caf%C3%A9", "/caf%c3%a9/x", false), Err(PathFault::OutsideBase));
    }

    #[test]
    fn what_is_appended_cannot_leave_the_base() {
        assert_eq!(join("/", ""), "/");
        assert_eq!(join("/", "/x"), "/x");
        assert_eq!(join("/jira", ""), "/jira");
        assert_eq!(join("/jira", "/"), "/jira/");
        assert_eq!(join("/jira", "/rest/x"), "/jira/rest/x");
        // BYPASSES 36 and 37
        let hostile =
            ["//evil", "/\\evil", "\\\\evil", "\t//evil", "https://jira.example.com@evil.com/"];
        for rest in hostile {
            for base in ["/", "/jira"] {
                assert!(contained(base, &join(base, rest), true).is_err(), "{base} {rest}");
            }
        }
        let harmless = join("/jira", "http:rest");
        assert_eq!(contained("/jira", &harmless, false), Ok(()));
        let url = url::Url::parse(&format!("https://jira.example.com{harmless}")).unwrap();
        assert_eq!(url.host_str(), Some("jira.example.com"));
    }

    #[test]
    fn every_fault_has_a_word_of_its_own() {
        use PathFault as F;
        let faults = [
            F::NotAbsolute,
            F::Character,
            F::Delimiter,
            F::Backslash,
            F::EncodedControl,
            F::Percent,
            F::NotUtf8,
            F::Lookalike,
            F::EmptySegment,
            F::DotSegment,
            F::EncodedSlash,
            F::DoubleEncoding,
            F::OutsideBase,
        ];
        let words: std::collections::BTreeSet<_> = faults.iter().map(|f| f.word()).collect();
        assert_eq!(words.len(), faults.len());
    }

    /// As servers resolve a path: parameters away, dots away, segment by segment.
    fn resolved(form: &[u8]) -> Vec<Vec<u8>> {
        let mut kept: Vec<Vec<u8>> = Vec::new();
        for segment in form.split(|byte| b"/\\".contains(byte)) {
            match segment.split(|&byte| byte == b';').next().unwrap() {
                b"" | b"." => {}
                b".." => drop(kept.pop()),
                name => kept.push(name.to_vec()),
            }
        }
        kept
    }

    fn assert_stays_below(base: &str, path: &str) {
        let base_segments = resolved(base.as_bytes());
        let mut form = path.as_bytes().to_vec();
        for decodings in 0..=4 {
            let text = String::from_utf8(form.clone()).unwrap();
            assert!(
                resolved(&form).starts_with(&base_segments),
                "{path} decoded {decodings} times"
            );
            let url = url::Url::parse(&format!("https://h.example{text}")).unwrap();
            assert_eq!(url.host_str(), Some("h.example"), "{path}");
            let normalised = resolved(url.path().as_bytes());
            assert!(normalised.starts_with(&base_segments), "{path} normalised to {url}");
            form = decode(&form).map_or(form, |decoded| decoded.text);
        }
    }

    #[test]
    fn the_fuzzers_seeds_stay_below_their_base_where_accepted() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/seeds/path");
        let mut accepted = 0;
        for file in std::fs::read_dir(folder).unwrap() {
            let seed = std::fs::read(file.unwrap().path()).unwrap();
            let path = join("/base", str::from_utf8(&seed[2..]).unwrap());
            if contained("/base", &path, true).is_ok() {
                assert_stays_below("/base", &path);
                accepted += 1;
            }
        }
        assert!(accepted >= 4, "only {accepted} accepted");
    }

    /// Paths made of what such attacks are made of.
    fn hostile_path() -> impl Strategy<Value = String> {
        let piece = prop::sample::select(vec![
            "/",
            "/",
            "/",
            ".",
            "..",
            "%2e",
            "%2E",
            "%2f",
            "%2F",
            "%5c",
            "\\",
            ";",
            "%3b",
            ";x=1",
            "%25",
            "25",
            "2e",
            "2f",
            "5c",
            "%",
            "%00",
            "%20",
            "%c0%ae",
            "%ef%bc%8f",
            "a",
            "b",
            "base",
            "api",
            "%3f",
            "%23",
            "...",
            "~",
            "%C3%A9",
            "%09",
            ":",
        ]);
        prop::collection::vec(piece, 0..10).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4096))]

        #[test]
        fn an_accepted_path_stays_below_its_base_in_every_reading(
            base in prop::sample::select(vec!["/", "/base", "/base/api"]),
            rest in hostile_path(),
            separate in any::<bool>(),
            encoded_slash in any::<bool>(),
        ) {
            let path =
                if separate { join(base, &format!("/{rest}")) } else { format!("{base}{rest}") };
            if contained(base, &path, encoded_slash).is_ok() {
                assert_stays_below(base, &path);
            }
        }

        #[test]
        fn what_passes_alone_passes_below_a_base(rest in hostile_path(), encoded_slash in any::<bool>()) {
            let rest = format!("/{rest}");
            let alone = check(&rest, encoded_slash);
            for base in ["/", "/base", "/a/b"] {
                prop_assert_eq!(contained(base, &join(base, &rest), encoded_slash), alone);
            }
        }

        #[test]
        fn any_text_is_judged_without_panic(path in any::<String>(), base in "/[a-z]{0,3}") {
            if contained(&base, &path, true).is_ok() {
                prop_assert!(check(&path, true).is_ok());
            }
        }
    }
}
