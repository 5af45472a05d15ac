//! The head of an HTTP/1 request, read in exactly one way or refused.
//!
//! This reader stands before everything else on a client's connection (RFC 9112). Parsers differ in
//! what they forgive: a line that ends without CR, a folded field, a second `Content-Length`. Each
//! such difference is a place where one message for the gateway is two for the target (request
//! smuggling). So nothing is forgiven here: a head either has one reading, or none and a
//! [`HeadFault`] that says why, as early as the bytes show it.
//!
//! What the head *means* is not judged here: the request-target is a string of visible ASCII that
//! the destination's parser reads, and whether `Host` agrees with it is the caller's to ask.

mod fault;
mod field;
#[cfg(test)]
mod tests;

use std::fmt;

use http::header::{AUTHORIZATION, COOKIE, HOST, PROXY_AUTHORIZATION};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Version};

pub use fault::HeadFault;
pub use field::check_http2;

/// Most fields one head may have.
///
/// What hyper takes by default; browsers and the providers' SDKs send fewer than 40. Bounds the work
/// that a head of very short lines makes within its size limit.
pub const FIELDS_MAX: usize = 100;

/// Longest method, in bytes. The longest registered with IANA, `UPDATEREDIRECTREF`, has 17.
pub const METHOD_BYTES_MAX: usize = 32;

/// What the first bytes of a connection, or of the next request on it, are.
#[derive(Debug)]
pub enum Scan {
    /// The head is not here as a whole: read more, and scan again with everything so far.
    Incomplete,
    /// The client speaks HTTP/2 with prior knowledge (RFC 9113 §3.4): the whole preface is here,
    /// and nothing of it is consumed.
    Http2Preface,
    /// A whole head, and how many bytes it took: a leading empty line and the empty line at its end
    /// included. What follows is the body, or with CONNECT the client's early bytes.
    Head(Box<Head>, usize),
}

/// The head of one request.
pub struct Head {
    /// The method, case kept: `connect` is not CONNECT.
    pub method: Method,
    /// The request-target as it was written: not empty, visible ASCII without `#`. Its four forms
    /// (RFC 9112 §3.2) are not told apart here.
    pub target: String,
    /// HTTP/1.0 or HTTP/1.1.
    pub version: Version,
    /// The fields in their order, values without the white space around them. At most one `Host`,
    /// and one of `Content-Length` and `Transfer-Encoding`.
    pub headers: HeaderMap,
    /// How the body ends, by those two.
    pub framing: Framing,
}

/// How long the body after a head is (RFC 9112 §6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// There is none: the head named no length. Always so with CONNECT, whose `Content-Length: 0`
    /// says the same.
    Empty,
    /// This many bytes, by `Content-Length`.
    Length(u64),
    /// By `Transfer-Encoding: chunked`.
    Chunked,
}

impl Head {
    /// The value of the Host field: a host, with a port where one was given, in characters that
    /// host and port can have. `None` only in HTTP/1.0. It says where the client believes it is;
    /// nothing is ever routed by it.
    pub fn host(&self) -> Option<&str> {
        self.headers.get(HOST).and_then(|value| value.to_str().ok())
    }
}

/// Without the target and the values of fields, either of which may hold a credential.
impl fmt::Debug for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Head")
            .field("method", &self.method)
            .field("version", &self.version)
            .field("headers", &self.headers.keys().collect::<Vec<_>>())
            .field("framing", &self.framing)
            .finish_non_exhaustive()
    }
}

/// Reads a head from all the bytes of it that came so far.
///
/// `limit` is the most bytes a head may take, `limits.max_header_bytes`; bytes beyond it are not
/// looked at. Starts from the first byte each time: for a head that comes in many pieces keep a
/// [`Scanner`].
pub fn scan(bytes: &[u8], limit: usize) -> Result<Scan, HeadFault> {
    Scanner::new(limit).scan(bytes)
}

/// Reads one head that comes in pieces, each byte once, however small the pieces.
///
/// Good for one head: after [`Scan::Head`], [`Scan::Http2Preface`] or a fault, make a new one.
#[derive(Debug)]
pub struct Scanner {
    limit: usize,
    /// Where the first line begins that is not taken yet.
    line_start: usize,
    /// All bytes before this one were looked at.
    checked: usize,
    /// The head so far; `None` until its request line is taken.
    head: Option<Head>,
}

impl Scanner {
    /// For a head of at most `limit` bytes, `limits.max_header_bytes`.
    pub fn new(limit: usize) -> Self {
        Self { limit, line_start: 0, checked: 0, head: None }
    }

    /// Goes on with the head: `bytes` holds everything from its first byte on, what earlier calls
    /// saw included.
    pub fn scan(&mut self, bytes: &[u8]) -> Result<Scan, HeadFault> {
        let window = bytes.get(..self.limit).unwrap_or(bytes);
        let scan = self.scan_within_limit(window)?;
        if matches!(scan, Scan::Incomplete) && window.len() >= self.limit {
            return Err(HeadFault::TooLarge);
        }
        Ok(scan)
    }

    fn scan_within_limit(&mut self, bytes: &[u8]) -> Result<Scan, HeadFault> {
        if self.head.is_none()
            && let Some(scan) = other_protocol(bytes)?
        {
            return Ok(scan);
        }
        while let Some(line) = self.next_line(bytes)? {
            match self.head.take() {
                // a robust server ignores one empty line before the request line (RFC 9112 §2.2)
                None if line.is_empty() && self.line_start == LINE_END.len() => {}
                None if line.is_empty() => return Err(HeadFault::LeadingEmptyLines),
                None => self.head = Some(request_line(line)?),
                Some(head) if line.is_empty() => {
                    return Ok(Scan::Head(Box::new(field::finish(head)?), self.line_start));
                }
                Some(mut head) => {
                    if head.headers.len() >= FIELDS_MAX {
                        return Err(HeadFault::TooManyFields);
                    }
                    field::read(&mut head, line)?;
                    self.head = Some(head);
                }
            }
        }
        self.check_unfinished_line(bytes.get(self.line_start..).unwrap_or_default())?;
        Ok(Scan::Incomplete)
    }

    /// The next whole line, without its end. Looks at each byte once.
    fn next_line<'a>(&mut self, bytes: &'a [u8]) -> Result<Option<&'a [u8]>, HeadFault> {
        while let Some(&byte) = bytes.get(self.checked) {
            let next = self.checked.saturating_add(1);
            match byte {
                b'\r' => match bytes.get(next) {
                    None => return Ok(None),
                    Some(b'\n') => {
                        let line = bytes.get(self.line_start..self.checked);
                        self.checked = next.saturating_add(1);
                        self.line_start = self.checked;
                        return Ok(line);
                    }
                    Some(_) => return Err(HeadFault::BareCr),
                },
                b'\n' => return Err(HeadFault::BareLf),
                b'\t' if self.head.is_some() => {}
                0..=0x1f | 0x7f => return Err(HeadFault::ControlCharacter),
                0x80..=0xff if self.head.is_none() => return Err(HeadFault::RequestLineNotAscii),
                _ => {}
            }
            self.checked = next;
        }
        Ok(None)
    }

    /// What can be said of a line before its end is here.
    fn check_unfinished_line(&self, line: &[u8]) -> Result<(), HeadFault> {
        if self.head.is_none() {
            let method = line.split(|&byte| byte == b' ').next().unwrap_or_default();
            return if line.is_empty() { Ok(()) } else { check_method(method) };
        }
        match line.first() {
            Some(b' ' | b'\t') => Err(HeadFault::ObsFold),
            Some(_) | None => Ok(()),
        }
    }
}

/// Tells what is no HTTP/1 at all by its first bytes: `None` when it may be.
fn other_protocol(bytes: &[u8]) -> Result<Option<Scan>, HeadFault> {
    if bytes.first() == Some(&TLS_HANDSHAKE) {
        return Err(HeadFault::TlsOnPlainListener);
    }
    if bytes.starts_with(PROXY_V1) || bytes.starts_with(PROXY_V2) {
        return Err(HeadFault::ProxyProtocolUnexpected);
    }
    if bytes.starts_with(HTTP2_PREFACE) {
        return Ok(Some(Scan::Http2Preface));
    }
    let undecided = HTTP2_PREFACE.starts_with(bytes) || PROXY_V2.starts_with(bytes);
    Ok(undecided.then_some(Scan::Incomplete))
}

/// Reads `method SP request-target SP HTTP-version` (RFC 9112 §3), without the white space that
/// lenient parsers let stand around and between them.
fn request_line(line: &[u8]) -> Result<Head, HeadFault> {
    let mut parts = line.split(|&byte| byte == b' ');
    let method = parts.next().unwrap_or_default();
    check_method(method)?;
    let (Some(target), Some(version), None) = (parts.next(), parts.next(), parts.next()) else {
        return Err(HeadFault::RequestLine);
    };
    let method = Method::from_bytes(method).map_err(|_| HeadFault::Method)?;
    let target = str::from_utf8(target).map_err(|_| HeadFault::RequestLineNotAscii)?;
    if target.is_empty() {
        return Err(HeadFault::RequestLine);
    }
    if target.contains('#') {
        return Err(HeadFault::TargetFragment);
    }
    let version = match version {
        b"HTTP/1.1" => Version::HTTP_11,
        b"HTTP/1.0" => Version::HTTP_10,
        [b'H', b'T', b'T', b'P', b'/', major, b'.', minor]
            if major.is_ascii_digit() && minor.is_ascii_digit() =>
        {
            return Err(HeadFault::Version);
        }
        _ => return Err(HeadFault::RequestLine),
    };
    let target = target.to_owned();
    Ok(Head { method, target, version, headers: HeaderMap::new(), framing: Framing::Empty })
}

fn check_method(method: &[u8]) -> Result<(), HeadFault> {
    if method.is_empty() {
        return Err(HeadFault::RequestLine);
    }
    if method.len() > METHOD_BYTES_MAX || !method.iter().copied().all(is_token) {
        return Err(HeadFault::Method);
    }
    Ok(())
}

/// Is this a character of a token (RFC 9110 §5.6.2)?
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Keeps a credential out of what is printed of the fields further on.
fn mark_sensitive(name: &HeaderName, value: &mut HeaderValue) {
    value.set_sensitive([AUTHORIZATION, PROXY_AUTHORIZATION, COOKIE].contains(name));
}

const LINE_END: &[u8] = b"\r\n";
/// RFC 9113 §3.4.
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// How version 1 of the PROXY protocol begins; no registered method has this name.
const PROXY_V1: &[u8] = b"PROXY ";
/// The first bytes of the signature of version 2, as many as tell it from empty lines.
const PROXY_V2: &[u8] = b"\r\n\r\n\0";
/// The content type of the record that opens TLS (RFC 8446 §5.1).
const TLS_HANDSHAKE: u8 = 0x16;
