//! The URL that a target approves: parsed as WHATWG does, minus everything that is ambiguous.

use std::fmt;

use super::{Authority, Host, HostFault, Origin, Port, Scheme};

/// What is shown in place of a query, which may hold a credential.
pub const REDACTED_QUERY: &str = "?[redacted]";

/// Longest URL that is read, in bytes: longer ones are not what an operator types.
const URL_BYTES_MAX: usize = 2048;

/// A target's `base_url` (or exact webhook URL) in canonical form.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct BaseUrl {
    /// Scheme, host and port.
    pub origin: Origin,
    /// The path, beginning with `/`; without a trailing slash unless it is `/` itself.
    path: Box<str>,
    /// The query, for webhook URLs that need one. May be a credential: never shown.
    query: Option<Box<str>>,
}

impl BaseUrl {
    /// Reads a URL. A query is accepted only where `query_allowed` (webhook URLs).
    ///
    /// # Errors
    /// The first thing that is wrong with it, with what to do.
    pub fn parse(text: &str, query_allowed: bool) -> Result<Self, UrlFault> {
        check_characters(text)?;
        let (scheme, rest) = split_scheme(text)?;
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, tail) = rest.split_at_checked(end).ok_or(UrlFault::Characters)?;
        let url = url::Url::parse(text).map_err(|_| UrlFault::NotAUrl)?;
        // Percent-encoding makes it longer; what is kept has to be readable again.
        if url.as_str().len() > URL_BYTES_MAX {
            return Err(UrlFault::Length);
        }
        let authority = read_authority(scheme, authority, &url)?;
        let (path, query) = read_tail(tail, &url, query_allowed)?;
        if query.is_some() && !query_allowed {
            return Err(UrlFault::Query);
        }
        Ok(Self { origin: Origin { scheme, authority }, path, query })
    }

    /// The path, beginning with `/`.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Whether a path and query are exactly these: for webhooks.
    pub fn is_exactly(&self, path: &str, query: Option<&str>) -> bool {
        &*self.path == path && self.query.as_deref() == query
    }

    /// The query, for the one place that sends it.
    pub fn query(&self) -> Option<&str> {
        self.query.as_deref()
    }

    /// Whether the whole origin is meant.
    pub fn is_root(&self) -> bool {
        &*self.path == "/" && self.query.is_none()
    }
}

impl fmt::Display for BaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.origin, if self.is_root() { "" } else { &self.path })?;
        if self.query.is_some() { f.write_str(REDACTED_QUERY) } else { Ok(()) }
    }
}

fn check_characters(text: &str) -> Result<(), UrlFault> {
    if text.is_empty() || text.len() > URL_BYTES_MAX {
        return Err(UrlFault::Length);
    }
    // `url` strips these silently, so they have to go before it sees them.
    if text.chars().any(|c| c.is_control() || c.is_whitespace() || c == '\\' || c == '\u{feff}') {
        return Err(UrlFault::Characters);
    }
    Ok(())
}

fn split_scheme(text: &str) -> Result<(Scheme, &str), UrlFault> {
    let lower = text.get(..8).unwrap_or(text).to_ascii_lowercase();
    let (scheme, length) = if lower.starts_with("https://") {
        (Scheme::Https, "https://".len())
    } else if lower.starts_with("http://") {
        (Scheme::Http, "http://".len())
    } else {
        return Err(UrlFault::Scheme);
    };
    let rest = text.get(length..).ok_or(UrlFault::Scheme)?;
    if rest.starts_with('/') {
        return Err(UrlFault::NotAUrl);
    }
    Ok((scheme, rest))
}

fn read_authority(scheme: Scheme, text: &str, url: &url::Url) -> Result<Authority, UrlFault> {
    if text.contains('@') || !url.username().is_empty() || url.password().is_some() {
        return Err(UrlFault::Userinfo);
    }
    if text.contains('%') {
        return Err(UrlFault::EncodedHost);
    }
    let after_host = text.rfind(']').map_or(0, |at| at.saturating_add(1));
    let tail = text.get(after_host..).unwrap_or_default();
    let (host, port) = match tail.rfind(':') {
        Some(colon) => {
            let at = after_host.saturating_add(colon);
            let digits = text.get(at.saturating_add(1)..).unwrap_or_default();
            (text.get(..at).unwrap_or_default(), Port::parse(digits).ok_or(UrlFault::Port)?)
        }
        None => (text, scheme.default_port()),
    };
    if port.is_bad() {
        return Err(UrlFault::BadPort);
    }
    let host = read_host(host, url)?;
    if host.is_localhost() {
        return Err(UrlFault::Localhost);
    }
    // The second reader has to agree on every part.
    let agreed = url.host_str() == Some(host.to_string().as_str())
        || url.host_str().and_then(|h| h.strip_suffix('.')) == Some(host.to_string().as_str());
    if !agreed || url.port_or_known_default() != Some(port.get()) {
        return Err(UrlFault::NotAUrl);
    }
    Ok(Authority { host, port })
}

/// A host as written, or, where it was written in Unicode, the A-labels that `url` made of it. An
/// IP address must be written as one: `①②⑦.0.0.1` is refused although `url` would read it.
fn read_host(text: &str, url: &url::Url) -> Result<Host, UrlFault> {
    if text.is_ascii() {
        return Ok(Host::parse(text)?);
    }
    match url.host() {
        Some(url::Host::Domain(name)) => Ok(Host::parse(name)?),
        Some(url::Host::Ipv4(_) | url::Host::Ipv6(_)) | None => Err(HostFault::Number.into()),
    }
}

fn read_tail(
    tail: &str,
    url: &url::Url,
    exact: bool,
) -> Result<(Box<str>, Option<Box<str>>), UrlFault> {
    if tail.contains('#') {
        return Err(UrlFault::Fragment);
    }
    let path = tail.split('?').next().unwrap_or_default();
    let lower = path.to_ascii_lowercase();
    if ["%2f", "%5c", "%2e", "%00", "%25", "%3b"].iter().any(|bad| lower.contains(bad)) {
        return Err(UrlFault::EncodedPath);
    }
    if path.contains("//") || path.contains(';') {
        return Err(UrlFault::AmbiguousPath);
    }
    if path.split('/').any(|segment| segment == "." || segment == "..") {
        return Err(UrlFault::DotSegment);
    }
    let canonical = url.path();
    let trimmed = match canonical.strip_suffix('/') {
        Some("") | None => canonical,
        // For a base path `/jira/` and `/jira` own the same requests; for an exact webhook URL the
        // slash is part of the name.
        Some(_) if exact => canonical,
        Some(without) => without,
    };
    Ok((trimmed.into(), url.query().map(Into::into)))
}

/// Why a text is not accepted as a target's URL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UrlFault {
    /// Empty, or longer than anybody writes.
    #[error("the URL is empty or longer than 2048 bytes")]
    Length,
    /// Control characters, white space or backslashes.
    #[error("the URL holds white space, control characters or backslashes")]
    Characters,
    /// Not `http://` or `https://`.
    #[error("the URL must begin with https:// (or http:// where allow_http is set)")]
    Scheme,
    /// Does not parse, or not alike to two parsers.
    #[error("the URL cannot be read in exactly one way")]
    NotAUrl,
    /// `user:password@`.
    #[error("the URL must not hold userinfo; credentials are never part of a URL")]
    Userinfo,
    /// `ex%61mple.com`.
    #[error("the host must not be percent-encoded")]
    EncodedHost,
    /// Port 0, over 65535, signed, or empty.
    #[error("the port is not a number from 1 to 65535")]
    Port,
    /// One of the Fetch standard's bad ports.
    #[error("the port is one that browsers refuse (the Fetch standard's bad ports)")]
    BadPort,
    /// `localhost` and the like.
    #[error("the host means this machine; write a real name, or 127.0.0.1 for development")]
    Localhost,
    /// `#fragment`.
    #[error("the URL must not have a fragment")]
    Fragment,
    /// `?query` where none may be.
    #[error("the URL must not have a query")]
    Query,
    /// `%2f`, `%5c`, `%2e`, `%00`, `%25`, `%3b` in the path.
    #[error("the path must not hold percent-encoded separators, dots or percent signs")]
    EncodedPath,
    /// `//` or `;` in the path.
    #[error("the path must not hold empty segments or path parameters")]
    AmbiguousPath,
    /// `.` or `..` in the path.
    #[error("the path must not hold dot segments")]
    DotSegment,
    /// The host is not canonical.
    #[error(transparent)]
    Host(#[from] HostFault),
}
