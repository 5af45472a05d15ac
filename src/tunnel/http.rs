//! CONNECT towards a hop (RFC 9110, section 9.3.6), with a reader of answers that has one reading
//! of them or none.

use std::{net::SocketAddr, str};

use base64::Engine as _;
use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite};
use zeroize::Zeroizing;

use super::{
    Credentials, TunnelError,
    wire::{closed, lost, nothing_yet, send},
};

/// Longest head of an answer, in bytes.
const HEAD_BYTES_MAX: usize = 16 * 1024;

/// How many interim answers (1xx) may come before the final one.
const INTERIM_MAX: usize = 8;

/// How much is read at a time, in bytes: a usual head, and little of what follows it.
const READ_BYTES: usize = 2048;

/// Asks for the address. What the target has sent by the end of the answer's head comes back: it
/// is the beginning of the stream, whatever the head says of a body (RFC 9110, section 9.3.6).
pub(super) async fn connect<S: AsyncRead + AsyncWrite + Unpin>(
    link: &mut S,
    to: SocketAddr,
    credentials: Option<&Credentials>,
) -> Result<Bytes, TunnelError> {
    nothing_yet(link).await?;
    send(link, &request(to, credentials)).await?;
    let mut read = BytesMut::with_capacity(READ_BYTES);
    for _ in 0..=INTERIM_MAX {
        match answer(link, &mut read).await? {
            101 => return Err(garbage("it switches protocols")),
            100..=199 => {}
            status => return verdict(status).map(|()| read.freeze()),
        }
    }
    Err(garbage("its interim answers do not end"))
}

/// The address and never a name: the hop would look it up again, and go where nobody vetted.
fn request(to: SocketAddr, credentials: Option<&Credentials>) -> Zeroizing<Vec<u8>> {
    let mut request = Zeroizing::new(Vec::with_capacity(1024));
    request.extend(format!("CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n").as_bytes());
    match credentials {
        None => {}
        Some(Credentials::Basic(name, password)) => {
            let mut pair = Zeroizing::new(Vec::with_capacity(1024));
            pair.extend_from_slice(name.as_bytes());
            pair.push(b':');
            pair.extend_from_slice(password.expose());
            let encoded = base64::engine::general_purpose::STANDARD.encode(&*pair);
            let encoded = Zeroizing::new(encoded);
            request.extend_from_slice(b"Proxy-Authorization: Basic ");
            request.extend_from_slice(encoded.as_bytes());
            request.extend_from_slice(b"\r\n");
        }
        Some(Credentials::Bearer(token)) => {
            request.extend_from_slice(b"Proxy-Authorization: Bearer ");
            request.extend_from_slice(token.expose());
            request.extend_from_slice(b"\r\n");
        }
    }
    request.extend_from_slice(b"\r\n");
    request
}

/// Reads one head to its end, and gives its status; what follows it stays in `read`.
async fn answer<S: AsyncRead + Unpin>(
    link: &mut S,
    read: &mut BytesMut,
) -> Result<u16, TunnelError> {
    let mut looked_at: usize = 0;
    loop {
        if let Some(end) = end_of_head(read, looked_at)? {
            return head(&read.split_to(end)).ok_or_else(|| garbage("its answer is not HTTP/1"));
        }
        looked_at = read.len();
        if looked_at >= HEAD_BYTES_MAX {
            return Err(garbage("the head of its answer does not end"));
        }
        read.reserve(READ_BYTES);
        match link.read_buf(read).await {
            Ok(0) if looked_at == 0 => return Err(closed()),
            Ok(0) => return Err(garbage("it closed the connection within its answer")),
            Ok(_) => {}
            Err(error) => return Err(lost(&error)),
        }
    }
}

/// Where the head ends, if it does. `looked_at` bytes have been looked at before. What cannot
/// become a head is refused as soon as that shows.
fn end_of_head(read: &[u8], looked_at: usize) -> Result<Option<usize>, TunnelError> {
    const BEGINNING: &[u8] = b"HTTP/1.";
    const END: &[u8] = b"\r\n\r\n";
    if !read.iter().zip(BEGINNING).all(|(byte, expected)| byte == expected) {
        return Err(garbage("its answer is not HTTP/1"));
    }
    let from = looked_at.saturating_sub(END.len());
    let mut windows = read.get(from..).unwrap_or_default().windows(END.len());
    let end = windows.position(|window| window == END).map(|at| {
        let length = END.len();
        from.saturating_add(at).saturating_add(length)
    });
    Ok(end.filter(|end| *end <= HEAD_BYTES_MAX))
}

/// The status of a whole head; `None` unless every line is what RFC 9112 says: ended by CRLF, a
/// status line first, then fields, none of them folded.
fn head(head: &[u8]) -> Option<u16> {
    let lines = head.strip_suffix(b"\r\n")?.split_inclusive(|byte| *byte == b'\n');
    let mut lines = lines.map(|line| {
        let clean = |line: &&[u8]| !line.iter().any(|byte| matches!(byte, b'\r' | b'\n' | 0));
        line.strip_suffix(b"\r\n").filter(clean)
    });
    let status = status_line(lines.next()??)?;
    lines.all(|line| line.is_some_and(is_field)).then_some(status)
}

/// `HTTP/1.1 200 OK`; the words may be missing, and the space before them too.
fn status_line(line: &[u8]) -> Option<u16> {
    let rest = line.strip_prefix(b"HTTP/1.1 ").or_else(|| line.strip_prefix(b"HTTP/1.0 "))?;
    let (digits, words) = rest.split_at_checked(3)?;
    let ended = words.is_empty() || words.starts_with(b" ");
    let code: u16 = str::from_utf8(digits).ok()?.parse().ok()?;
    (ended && digits.iter().all(u8::is_ascii_digit) && (100..600).contains(&code)).then_some(code)
}

fn is_field(line: &[u8]) -> bool {
    let is_token = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    let name = line.split(|byte| *byte == b':').next().unwrap_or_default();
    name.len() < line.len() && !name.is_empty() && name.iter().all(is_token)
}

/// What a final status means.
///
/// Proxies do not agree on how they say that the target does not answer: Squid has 503, tinyproxy
/// 500, others 504. A 502 says that what lies behind the hop is broken, its own way onward perhaps.
fn verdict(status: u16) -> Result<(), TunnelError> {
    let answers = format!("it answers {status}");
    match status {
        200..=299 => Ok(()),
        401 | 407 => Err(TunnelError::Auth(answers)),
        // A server that is no proxy, or does not read the request as one.
        300..=399 | 400 | 405 | 411 | 414 | 417 | 421 | 426 | 431 | 501 | 505 => {
            Err(TunnelError::Protocol(answers))
        }
        400..=499 => Err(TunnelError::Denied(answers)),
        502 => Err(TunnelError::Unreachable(answers)),
        _ => Err(TunnelError::BeyondUnreachable(answers)),
    }
}

fn garbage(what: &str) -> TunnelError {
    TunnelError::Protocol(what.to_owned())
}
