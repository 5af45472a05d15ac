//! The fields of a head, and what three of them say of its framing and host.

use std::net::Ipv6Addr;

use http::header::{CONTENT_LENGTH, HOST, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Version};

use super::{Framing, Head, HeadFault, is_token, mark_sensitive};

/// Takes one field line into the head. Control characters other than tab are ruled out already.
pub(super) fn read(head: &mut Head, line: &[u8]) -> Result<(), HeadFault> {
    if line.starts_with(b" ") || line.starts_with(b"\t") {
        return Err(HeadFault::ObsFold);
    }
    let colon = line.iter().position(|&byte| byte == b':').ok_or(HeadFault::FieldWithoutColon)?;
    let (name, value) = line.split_at_checked(colon).ok_or(HeadFault::FieldWithoutColon)?;
    let name = field_name(name)?;
    let value = trim(value.get(1..).unwrap_or_default());
    if name == CONTENT_LENGTH {
        content_length(head, value)?;
    } else if name == TRANSFER_ENCODING {
        transfer_encoding(head, value)?;
    } else if name == HOST {
        if head.headers.contains_key(HOST) {
            return Err(HeadFault::HostRepeated);
        }
        check_host(value)?;
    }
    let mut value = HeaderValue::from_bytes(value).map_err(|_| HeadFault::ControlCharacter)?;
    mark_sensitive(&name, &mut value);
    head.headers.try_append(name, value).map_err(|_| HeadFault::TooManyFields)?;
    Ok(())
}

/// What can only be said once all fields are read.
pub(super) fn finish(mut head: Head) -> Result<Head, HeadFault> {
    if head.version == Version::HTTP_11 && !head.headers.contains_key(HOST) {
        return Err(HeadFault::HostMissing);
    }
    if head.method == Method::CONNECT {
        match head.framing {
            Framing::Empty | Framing::Length(0) => head.framing = Framing::Empty,
            Framing::Length(_) | Framing::Chunked => return Err(HeadFault::ConnectWithBody),
        }
    }
    Ok(head)
}

/// Judges fields that came over HTTP/2 by what is asked of HTTP/1's, as they go out over either:
/// HTTP/2 itself only has the length agree with the data, however it is written.
pub fn check_http2(headers: &HeaderMap) -> Result<(), HeadFault> {
    headers.keys().try_for_each(check_name)?;
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    lengths.next().map_or(Ok(0), |value| length(value.as_bytes()))?;
    if lengths.next().is_some() {
        return Err(HeadFault::ContentLengthRepeated);
    }
    let mut hosts = headers.get_all(HOST).iter();
    hosts.next().map_or(Ok(()), |value| check_host(value.as_bytes()))?;
    if hosts.next().is_some() {
        return Err(HeadFault::HostRepeated);
    }
    Ok(())
}

fn field_name(name: &[u8]) -> Result<HeaderName, HeadFault> {
    if name.is_empty() {
        return Err(HeadFault::FieldNameEmpty);
    }
    if name.ends_with(b" ") || name.ends_with(b"\t") {
        return Err(HeadFault::SpaceBeforeColon);
    }
    if !name.iter().copied().all(is_token) {
        return Err(HeadFault::FieldNameInvalid);
    }
    let name = HeaderName::from_bytes(name).map_err(|_| HeadFault::FieldNameInvalid)?;
    check_name(&name)?;
    Ok(name)
}

fn check_name(name: &HeaderName) -> Result<(), HeadFault> {
    if LOOKALIKES.contains(&name.as_str()) {
        return Err(HeadFault::FieldNameLookalike);
    }
    Ok(())
}

/// RFC 9110 §8.6, less its leave to take equal values for one, and less leading zeros, which some
/// parsers read as octal.
fn content_length(head: &mut Head, value: &[u8]) -> Result<(), HeadFault> {
    match head.framing {
        Framing::Empty => {}
        Framing::Length(_) => return Err(HeadFault::ContentLengthRepeated),
        Framing::Chunked => return Err(HeadFault::LengthAndEncoding),
    }
    head.framing = Framing::Length(length(value)?);
    Ok(())
}

fn length(value: &[u8]) -> Result<u64, HeadFault> {
    str::from_utf8(value)
        .ok()
        .filter(|value| value.bytes().all(|byte| byte.is_ascii_digit()))
        .filter(|value| *value == "0" || !value.starts_with('0'))
        .and_then(|digits| digits.parse().ok())
        .ok_or(HeadFault::ContentLengthInvalid)
}

/// RFC 9112 §6.1, with `chunked` as the only coding.
fn transfer_encoding(head: &mut Head, value: &[u8]) -> Result<(), HeadFault> {
    if head.version == Version::HTTP_10 {
        return Err(HeadFault::TransferEncodingInHttp10);
    }
    match head.framing {
        Framing::Empty => {}
        Framing::Length(_) => return Err(HeadFault::LengthAndEncoding),
        Framing::Chunked => return Err(HeadFault::TransferEncodingRepeated),
    }
    if !value.eq_ignore_ascii_case(b"chunked") {
        return Err(HeadFault::TransferEncodingUnsupported);
    }
    head.framing = Framing::Chunked;
    Ok(())
}

/// A host and perhaps a port, in the characters these have: whether the host is a valid name is for
/// the destination's parser to say. No userinfo, path, percent-encoding, comma, or sub-delimiter.
fn check_host(value: &[u8]) -> Result<(), HeadFault> {
    let value = str::from_utf8(value).map_err(|_| HeadFault::HostInvalid)?;
    let (valid, after) = if let Some(rest) = value.strip_prefix('[') {
        let (literal, after) = rest.split_once(']').ok_or(HeadFault::HostInvalid)?;
        (literal.parse::<Ipv6Addr>().is_ok(), after)
    } else {
        let (name, after) = value.split_at(value.find(':').unwrap_or(value.len()));
        let in_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
        (!name.is_empty() && name.bytes().all(in_name), after)
    };
    let port_valid = match after.strip_prefix(':') {
        Some(port) => port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok(),
        None => after.is_empty(),
    };
    if valid && port_valid { Ok(()) } else { Err(HeadFault::HostInvalid) }
}

/// Without optional white space (RFC 9110 §5.6.3): spaces and tabs, not what Rust calls white space.
fn trim(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

/// Names that a server with an environment of variables, as in CGI, takes for the ones with a hyphen.
const LOOKALIKES: [&str; 2] = ["content_length", "transfer_encoding"];
