//! The chunked transfer coding of a request's body, checked byte by byte as it passes.
//!
//! Parsers differ in where a chunked body ends: some take a bare LF for a line's end, some skip what
//! stands in a chunk extension up to the next LF of any kind, some read `0x5` (CVE-2025-55315,
//! CVE-2025-58056). Each difference is a place where a second request hides. So this scanner
//! (RFC 9112 §7.1) lets nothing pass that is not read alike by all.

use http::HeaderName;

use crate::forward::fields;

/// Digits of a chunk's size: as many as 64 bits need.
const SIZE_DIGITS_MAX: u32 = 16;

/// Bytes of a line with a chunk's size and its extensions.
const SIZE_LINE_BYTES_MAX: usize = 256;

/// Bytes of extensions in one body. What hyper allows, which counts each from its semicolon on.
const EXTENSION_BYTES_MAX: usize = 16 * 1024 - 1;

/// Bytes of the trailer section, its empty line included, and fields in it. What hyper allows.
const TRAILER_BYTES_MAX: usize = 16 * 1024 - 1;
const TRAILER_FIELDS_MAX: usize = 100;

/// Why a chunked body is refused. The messages hold nothing that the client sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChunkFault {
    /// No hexadecimal digit where a chunk's size has to stand, or something else behind it.
    #[error("the size of a chunk is not a hexadecimal number")]
    Size,
    /// More than 16 digits.
    #[error("the size of a chunk has more than 16 digits")]
    SizeTooLong,
    /// A line of size and extensions beyond 256 bytes, or more than 16 KiB of extensions in all.
    #[error("the extensions of a chunk are too long")]
    ExtensionsTooLong,
    /// A control character, something that is not ASCII, or a quote that its line does not end.
    #[error("an extension of a chunk is malformed")]
    Extension,
    /// A CR that no LF follows.
    #[error("a carriage return that no line feed follows, in the framing of a chunked body")]
    BareCr,
    /// An LF that follows no CR.
    #[error("a line feed that follows no carriage return, in the framing of a chunked body")]
    BareLf,
    /// The data of a chunk goes on where its size says that it ends.
    #[error("a chunk is longer than its size")]
    DataEnd,
    /// A trailer field that is no field line, or folded.
    #[error("a trailer field is malformed")]
    Trailer,
    /// A trailer field that has to stand in the head.
    #[error("a trailer field that may only stand in the head of a request")]
    TrailerForbidden,
    /// More than 16 KiB, or more than 100 fields.
    #[error("the trailer section is too large")]
    TrailersTooLarge,
}

impl ChunkFault {
    /// The stable word for it in events.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Size => "chunk_size_invalid",
            Self::SizeTooLong => "chunk_size_too_long",
            Self::ExtensionsTooLong => "chunk_extensions_too_long",
            Self::Extension => "chunk_extension_malformed",
            Self::BareCr => "chunk_bare_cr",
            Self::BareLf => "chunk_bare_lf",
            Self::DataEnd => "chunk_longer_than_size",
            Self::Trailer => "trailer_malformed",
            Self::TrailerForbidden => "trailer_forbidden",
            Self::TrailersTooLarge => "trailers_too_large",
        }
    }
}

/// How far a body has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// This many of the bytes just given belong to the body, and may pass. Fewer than were given
    /// only where the body ended: what follows is the next request's.
    pub valid: usize,
    /// The body has ended, trailers included.
    pub ended: bool,
}

/// Follows one chunked body. After a fault or the end, make a new one.
#[derive(Debug, Default)]
pub struct Scanner {
    state: State,
    /// Of the size line that is being read.
    line_bytes: usize,
    extension_bytes: usize,
    trailer_bytes: usize,
    trailer_fields: usize,
    /// The trailer line that is being read.
    line: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Size { value: u64, digits: u32 },
    Extension { size: u64, quote: Quote },
    SizeLf { size: u64 },
    Data { left: u64 },
    DataCr,
    DataLf,
    Trailer,
    TrailerLf,
    Ended,
}

impl Default for State {
    fn default() -> Self {
        Self::Size { value: 0, digits: 0 }
    }
}

/// Where in a quoted string an extension is (RFC 9110 §5.6.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Quote {
    Outside,
    Inside,
    Escaped,
}

impl Scanner {
    /// For the body behind one head.
    pub fn new() -> Self {
        Self::default()
    }

    /// Goes on with the next bytes behind those given before.
    ///
    /// # Errors
    /// The fault; none of these bytes may pass then, and none after them.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<Progress, ChunkFault> {
        let mut rest = bytes;
        while self.state != State::Ended
            && let [byte, after @ ..] = rest
        {
            rest = if let State::Data { left } = self.state {
                self.data(left, rest)
            } else {
                self.state = self.step(*byte)?;
                after
            };
        }
        let valid = bytes.len().saturating_sub(rest.len());
        Ok(Progress { valid, ended: self.state == State::Ended })
    }

    /// Takes as much of a chunk's data as is here, and gives back what follows.
    fn data<'a>(&mut self, left: u64, bytes: &'a [u8]) -> &'a [u8] {
        let here = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
        let left = left.saturating_sub(u64::try_from(here).unwrap_or(u64::MAX));
        self.state = if left == 0 { State::DataCr } else { State::Data { left } };
        bytes.get(here..).unwrap_or_default()
    }

    fn step(&mut self, byte: u8) -> Result<State, ChunkFault> {
        match self.state {
            State::Size { value, digits } => self.size(value, digits, byte),
            State::Extension { size, quote } => self.extension(size, quote, byte),
            State::SizeLf { size } if byte == b'\n' => {
                self.line_bytes = 0;
                Ok(if size == 0 { State::Trailer } else { State::Data { left: size } })
            }
            State::DataCr if byte == b'\r' => Ok(State::DataLf),
            State::DataCr if byte == b'\n' => Err(ChunkFault::BareLf),
            State::DataCr => Err(ChunkFault::DataEnd),
            State::DataLf if byte == b'\n' => Ok(State::default()),
            State::Trailer => self.trailer(byte),
            State::TrailerLf if byte == b'\n' => self.trailer_end(),
            State::SizeLf { .. } | State::DataLf | State::TrailerLf => Err(ChunkFault::BareCr),
            // taken elsewhere
            State::Data { .. } | State::Ended => Ok(self.state),
        }
    }

    fn size(&mut self, value: u64, digits: u32, byte: u8) -> Result<State, ChunkFault> {
        self.line_bytes = self.line_bytes.saturating_add(1);
        if let Some(digit) = char::from(byte).to_digit(16) {
            if digits >= SIZE_DIGITS_MAX {
                return Err(ChunkFault::SizeTooLong);
            }
            let value = value << 4 | u64::from(digit);
            return Ok(State::Size { value, digits: digits.saturating_add(1) });
        }
        match byte {
            b'\n' => Err(ChunkFault::BareLf),
            _ if digits == 0 => Err(ChunkFault::Size),
            b'\r' => Ok(State::SizeLf { size: value }),
            b';' => Ok(State::Extension { size: value, quote: Quote::Outside }),
            _ => Err(ChunkFault::Size),
        }
    }

    fn extension(&mut self, size: u64, quote: Quote, byte: u8) -> Result<State, ChunkFault> {
        self.line_bytes = self.line_bytes.saturating_add(1);
        self.extension_bytes = self.extension_bytes.saturating_add(1);
        if self.line_bytes > SIZE_LINE_BYTES_MAX || self.extension_bytes > EXTENSION_BYTES_MAX {
            return Err(ChunkFault::ExtensionsTooLong);
        }
        let quote = match (byte, quote) {
            (b'\n', _) => return Err(ChunkFault::BareLf),
            (b'\r', Quote::Outside) => return Ok(State::SizeLf { size }),
            (0..=0x1f | 0x7f..=0xff, _) => return Err(ChunkFault::Extension),
            (b'"', Quote::Outside) | (_, Quote::Escaped) => Quote::Inside,
            (b'"', Quote::Inside) | (_, Quote::Outside) => Quote::Outside,
            (b'\\', Quote::Inside) => Quote::Escaped,
            (_, Quote::Inside) => Quote::Inside,
        };
        Ok(State::Extension { size, quote })
    }

    fn trailer(&mut self, byte: u8) -> Result<State, ChunkFault> {
        self.trailer_bytes = self.trailer_bytes.saturating_add(1);
        // room for the LF that has to follow
        if self.trailer_bytes >= TRAILER_BYTES_MAX {
            return Err(ChunkFault::TrailersTooLarge);
        }
        match byte {
            b'\r' => return Ok(State::TrailerLf),
            b'\n' => return Err(ChunkFault::BareLf),
            b' ' | b'\t' if self.line.is_empty() => return Err(ChunkFault::Trailer),
            b'\t' => {}
            0..=0x1f | 0x7f => return Err(ChunkFault::Trailer),
            _ => {}
        }
        self.line.push(byte);
        Ok(State::Trailer)
    }

    /// At the LF of a trailer line: a field's, or the empty one at the end of the body.
    fn trailer_end(&mut self) -> Result<State, ChunkFault> {
        self.trailer_bytes = self.trailer_bytes.saturating_add(1);
        if self.line.is_empty() {
            return Ok(State::Ended);
        }
        self.trailer_fields = self.trailer_fields.saturating_add(1);
        if self.trailer_fields > TRAILER_FIELDS_MAX {
            return Err(ChunkFault::TrailersTooLarge);
        }
        check_field(&self.line)?;
        self.line.clear();
        Ok(State::Trailer)
    }
}

fn check_field(line: &[u8]) -> Result<(), ChunkFault> {
    let colon = line.iter().position(|&byte| byte == b':').ok_or(ChunkFault::Trailer)?;
    let name = HeaderName::from_bytes(line.get(..colon).unwrap_or_default());
    let name = name.map_err(|_| ChunkFault::Trailer)?;
    if fields::trailer_forbidden(&name) { Err(ChunkFault::TrailerForbidden) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn whole(bytes: &[u8]) -> Result<Progress, ChunkFault> {
        Scanner::new().feed(bytes)
    }

    /// In pieces of `size` bytes.
    fn in_pieces(bytes: &[u8], size: usize) -> Result<Progress, ChunkFault> {
        let mut scanner = Scanner::new();
        let mut all = Progress { valid: 0, ended: false };
        for piece in bytes.chunks(size) {
            let progress = scanner.feed(piece)?;
            all = Progress { valid: all.valid + progress.valid, ended: progress.ended };
        }
        Ok(all)
    }

    fn ended(valid: usize) -> Progress {
        Progress { valid, ended: true }
    }

    #[test]
    fn a_body_passes_and_what_follows_it_does_not() {
        let body = b"5\r\nhello\r\n00a\r\n, world!\r\n\r\n0\r\n\r\n";
        let bytes = [body.as_slice(), b"GET / HTTP/1.1\r\n"].concat();
        assert_eq!(whole(&bytes), Ok(ended(body.len())));
        assert_eq!(in_pieces(&bytes, 1), Ok(ended(body.len())));
        assert_eq!(whole(&body[..20]), Ok(Progress { valid: 20, ended: false }));
    }

    #[test]
    fn extensions_and_trailers_pass() {
        for body in [
            "5;a=b\r\nhello\r\n0\r\n\r\n",
            "5;chunk-signature=0123456789abcdef\r\nhello\r\n0;x\r\n\r\n",
            "5;a=\"b;c\\\"d\"\r\nhello\r\n0\r\n\r\n",
            "FFFFFFFFFFFFFFFF\r\n",
            "0000000000000005\r\nhello\r\n0000\r\n\r\n",
            "0\r\nX-Sum: 1\r\nx-empty:\r\nx-text: caf\u{e9}\twell\r\n\r\n",
            "0\r\nDigest: sha-256=x\r\n\r\n",
        ] {
            let at_end = body.ends_with("\r\n\r\n");
            let expected = Ok(Progress { valid: body.len(), ended: at_end });
            assert_eq!(whole(body.as_bytes()), expected, "{body:?}");
        }
    }

    #[test]
    fn framing_that_parsers_read_differently_is_refused() {
        use ChunkFault as F;
        for (body, fault) in [
            ("\r\n", F::Size),
            ("+5\r\n", F::Size),
            ("-0\r\n", F::Size),
            ("0x5\r\n", F::Size),
            ("1_0\r\n", F::Size),
            (" 5\r\n", F::Size),
            ("5 \r\n", F::Size),
            ("5 ;a\r\n", F::Size),
            ("5\t\r\n", F::Size),
            ("g\r\n", F::Size),
            (";a=b\r\n", F::Size),
            ("5,5\r\n", F::Size),
            ("5\x0b\r\n", F::Size),
            ("5\0\r\n", F::Size),
            ("\u{ff15}\r\n", F::Size),
            ("00000000000000005\r\n", F::SizeTooLong),
            ("10000000000000000\r\n", F::SizeTooLong),
            ("5\nhello\r\n", F::BareLf),
            ("5\rhello\r\n", F::BareCr),
            ("5\r\r\nhello", F::BareCr),
            // CVE-2025-55315 (Kestrel) and CVE-2025-58056 (Netty): a line feed or carriage return
            // within an extension
            ("2;\nxx\r\n45\r\n0\r\n\r\nGET /admin HTTP/1.1\r\n", F::BareLf),
            ("2;\rxx\r\n", F::BareCr),
            ("2;a\nxx\r\n", F::BareLf),
            ("2;a=\"\r\nxx\r\n", F::Extension),
            ("2;a=\"\nxx\r\n", F::BareLf),
            ("2;a\tb\r\n", F::Extension),
            ("2;a\0b\r\n", F::Extension),
            ("2;a\x7f\r\n", F::Extension),
            ("2;caf\u{e9}\r\n", F::Extension),
            ("5\r\nhello0\r\n\r\n", F::DataEnd),
            ("5\r\nhello!\r\n", F::DataEnd),
            ("5\r\nhello\n0\r\n\r\n", F::BareLf),
            ("5\r\nhello\r0\r\n\r\n", F::BareCr),
            ("5\r\nhello\r\n\r\n0\r\n\r\n", F::Size),
            ("0\r\n\n", F::BareLf),
            ("0\r\n\r\r\n", F::BareCr),
            ("0\r\nx\r\n\r\n", F::Trailer),
            ("0\r\n: x\r\n\r\n", F::Trailer),
            ("0\r\nx : y\r\n\r\n", F::Trailer),
            ("0\r\nx y: z\r\n\r\n", F::Trailer),
            ("0\r\nx: y\r\n folded\r\n\r\n", F::Trailer),
            ("0\r\n x: y\r\n\r\n", F::Trailer),
            ("0\r\nx: a\0b\r\n\r\n", F::Trailer),
            ("0\r\nx: y\n\r\n", F::BareLf),
            ("0\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", F::Trailer),
            ("0\r\nTransfer-Encoding: chunked\r\n\r\n", F::TrailerForbidden),
            ("0\r\nContent-Length: 5\r\n\r\n", F::TrailerForbidden),
            ("0\r\nhost: internal\r\n\r\n", F::TrailerForbidden),
            ("0\r\nAuthorization: x\r\n\r\n", F::TrailerForbidden),
            ("0\r\nproxy-authorization: x\r\n\r\n", F::TrailerForbidden),
            ("0\r\nX-WebRiskOps-Signature: x\r\n\r\n", F::TrailerForbidden),
            ("0\r\nX-Forwarded-For: x\r\n\r\n", F::TrailerForbidden),
            ("0\r\ntransfer_encoding: x\r\n\r\n", F::TrailerForbidden),
        ] {
            assert_eq!(whole(body.as_bytes()), Err(fault), "{body:?}");
            assert_eq!(in_pieces(body.as_bytes(), 1), Err(fault), "{body:?}, byte by byte");
        }
    }

    #[test]
    fn nothing_grows_without_bound() {
        let line = format!("5;{}", "a".repeat(SIZE_LINE_BYTES_MAX));
        assert_eq!(whole(line.as_bytes()), Err(ChunkFault::ExtensionsTooLong));
        let many = format!("1;{}\r\nx\r\n", "a".repeat(199)).repeat(100);
        assert_eq!(whole(many.as_bytes()), Err(ChunkFault::ExtensionsTooLong));
        let long = format!("0\r\nx: {}\r\n\r\n", "a".repeat(TRAILER_BYTES_MAX));
        assert_eq!(whole(long.as_bytes()), Err(ChunkFault::TrailersTooLarge));
        let endless = format!("0\r\n{}", "a".repeat(TRAILER_BYTES_MAX));
        assert_eq!(whole(endless.as_bytes()), Err(ChunkFault::TrailersTooLarge));
        let fields = format!("0\r\n{}\r\n", "x:\r\n".repeat(TRAILER_FIELDS_MAX + 1));
        assert_eq!(whole(fields.as_bytes()), Err(ChunkFault::TrailersTooLarge));
    }

    #[test]
    fn every_fault_has_a_word_of_its_own() {
        use ChunkFault as F;
        let faults = [
            F::Size,
            F::SizeTooLong,
            F::ExtensionsTooLong,
            F::Extension,
            F::BareCr,
            F::BareLf,
            F::DataEnd,
            F::Trailer,
            F::TrailerForbidden,
            F::TrailersTooLarge,
        ];
        let words: std::collections::BTreeSet<_> = faults.iter().map(|f| f.word()).collect();
        assert_eq!(words.len(), faults.len());
    }

    /// What httparse, a reader of another hand, makes of a whole body: its length.
    fn read_by_httparse(body: &[u8]) -> Option<usize> {
        let mut at = 0;
        loop {
            let rest = body.get(at..)?;
            let Ok(httparse::Status::Complete((line, size))) = httparse::parse_chunk_size(rest)
            else {
                return None;
            };
            at += line;
            if size == 0 {
                let mut fields = [httparse::EMPTY_HEADER; TRAILER_FIELDS_MAX];
                let rest = body.get(at..)?;
                let Ok(httparse::Status::Complete((length, _))) =
                    httparse::parse_headers(rest, &mut fields)
                else {
                    return None;
                };
                return Some(at + length);
            }
            at = at.checked_add(usize::try_from(size).ok()?)?;
            if body.get(at..at.checked_add(2)?)? != b"\r\n" {
                return None;
            }
            at += 2;
        }
    }

    #[test]
    fn the_fuzzers_seeds_are_read_the_same_in_pieces_and_by_another_reader() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/seeds/chunked");
        let mut accepted = 0;
        for file in std::fs::read_dir(folder).unwrap() {
            let seed = std::fs::read(file.unwrap().path()).unwrap();
            let (size, body) = seed.split_first().unwrap();
            assert_eq!(whole(body), in_pieces(body, usize::from(*size)));
            if let Ok(Progress { valid, ended: true }) = whole(body) {
                assert_eq!(read_by_httparse(body), Some(valid));
                accepted += 1;
            }
        }
        assert!(accepted >= 4, "only {accepted} accepted");
    }

    fn bodies() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop::sample::select(vec![
            "1",
            "0",
            "a",
            "0\r\n",
            "1\r\nx\r\n",
            "2\r\nxy\r\n",
            "\r\n",
            "\r\n",
            "\n",
            "\r",
            ";",
            "=",
            "\"",
            "\\",
            " ",
            "\t",
            "x: y\r\n",
            "x",
            ":",
            "0\r\n\r\n",
            "\u{b}",
            "+",
            "f",
        ]);
        prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat().into_bytes())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4096))]

        #[test]
        fn bodies_are_read_the_same_in_pieces(body in bodies(), size in 1_usize..5) {
            prop_assert_eq!(whole(&body), in_pieces(&body, size));
        }

        #[test]
        fn an_accepted_body_ends_where_another_reader_ends_it(body in bodies()) {
            if let Ok(Progress { valid, ended: true }) = whole(&body) {
                prop_assert_eq!(read_by_httparse(&body), Some(valid));
            }
        }

        #[test]
        fn what_is_chunked_well_is_accepted(
            chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..40), 0..6),
            size in 1_usize..50,
        ) {
            let mut body = Vec::new();
            for chunk in &chunks {
                body.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                body.extend_from_slice(chunk);
                body.extend_from_slice(b"\r\n");
            }
            body.extend_from_slice(b"0\r\n\r\n");
            prop_assert_eq!(in_pieces(&body, size), Ok(ended(body.len())));
        }
    }
}
