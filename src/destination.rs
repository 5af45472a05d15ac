//! What is asked: the request target, read in exactly one way.

use http::{HeaderMap, HeaderValue, header::HOST};

use crate::{
    origin::{Authority, Host, HostFault, Port, Scheme},
    reason::{Cause, Refusal},
    target::{TargetId, registry::Wanted},
};

/// The field by which a client picks one of several targets.
pub const TARGET_FIELD: &str = "x-webriskops-target";

/// Where a request wants to go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destination {
    /// Host and port.
    pub authority: Authority,
    /// The target that the client names.
    pub hint: Option<TargetId>,
    /// What is asked for there; nothing in a tunnel, whose inside is not seen.
    pub resource: Option<Resource>,
}

/// Path and query, as they are sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resource {
    /// The path, beginning with `/`.
    pub path: String,
    /// The query, which may hold credentials: sent, never shown.
    pub query: Option<String>,
}

impl Destination {
    /// Reads the target and the fields of a CONNECT request.
    ///
    /// # Errors
    /// `authority_invalid`, `host_mismatch` or `target_header_invalid`.
    pub fn connect(target: &str, headers: &HeaderMap) -> Result<Self, Refusal> {
        let authority = Authority::parse(target)
            .map_err(|fault| Refusal::new(Cause::AuthorityInvalid, fault.to_string()))?;
        host_agrees(target, &authority.host, authority.port, headers)?;
        Ok(Self { authority, hint: hint(headers)?, resource: None })
    }
}

/// What a request that is no CONNECT asks for, before it is known whose it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    /// Absolute-form: `http://host/path` or `https://host/path`.
    Url(AskedUrl),
    /// `/targets/{id}/{path}` on the gateway itself.
    ById {
        /// The target.
        id: TargetId,
        /// What is appended to its base URL.
        rest: Resource,
    },
}

/// An absolute URL as a request target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AskedUrl {
    /// As written; `http` also stands for https towards a target that has it, as clients cannot
    /// write https in absolute-form.
    pub scheme: Scheme,
    /// The canonical host.
    pub host: Host,
    /// The port, where it was written.
    pub port: Option<Port>,
    /// Path and query.
    pub resource: Resource,
    /// The target that the client names.
    pub hint: Option<TargetId>,
}

impl AskedUrl {
    /// What its owner is looked for by.
    pub fn wanted(&self) -> Wanted<'_> {
        Wanted {
            scheme: self.scheme,
            host: &self.host,
            port: self.port,
            path: &self.resource.path,
            query: self.resource.query.as_deref(),
            hint: self.hint.as_ref(),
        }
    }

    /// What the URL means where it names the gateway itself: `/targets/{id}/{path}`. Any other URL
    /// stays what it is.
    ///
    /// # Errors
    /// `target_unknown` or `target_mismatch`.
    pub fn on_the_gateway(self) -> Result<Asked, Refusal> {
        match self.resource.path.strip_prefix("/targets/") {
            None => Ok(Asked::Url(self)),
            Some(rest) => {
                let query = self.resource.query.map(|query| format!("?{query}"));
                by_id(&format!("{rest}{}", query.unwrap_or_default()), self.hint)
            }
        }
    }
}

impl Asked {
    /// Host and port, where the request itself tells them: for its record.
    pub fn authority(&self) -> Option<String> {
        match self {
            Self::Url(url) => {
                let port = url.port.unwrap_or_else(|| url.scheme.default_port());
                Some(Authority { host: url.host.clone(), port }.to_string())
            }
            Self::ById { .. } => None,
        }
    }

    /// Whether [`authority`](Self::authority) is this one.
    pub fn is_at(&self, authority: &Authority) -> bool {
        match self {
            Self::Url(url) => {
                let port = url.port.unwrap_or_else(|| url.scheme.default_port());
                url.host == authority.host && port == authority.port
            }
            Self::ById { .. } => false,
        }
    }

    /// Reads the target and the fields of a request that is no CONNECT.
    ///
    /// # Errors
    /// `request_target_invalid`, `authority_invalid`, `host_not_canonical`, `host_mismatch` or
    /// `target_header_invalid`.
    pub fn parse(target: &str, headers: &HeaderMap) -> Result<Self, Refusal> {
        if target.contains('#') || !target.bytes().all(|byte| byte.is_ascii_graphic()) {
            let detail = "the request target holds characters that none may have";
            return Err(Refusal::new(Cause::RequestTargetInvalid, detail));
        }
        if let Some(rest) = target.strip_prefix("/targets/") {
            return by_id(rest, hint(headers)?);
        }
        let lower = target.get(..8).unwrap_or(target).to_ascii_lowercase();
        let (scheme, length) = if lower.starts_with("https://") {
            (Scheme::Https, 8)
        } else if lower.starts_with("http://") {
            (Scheme::Http, 7)
        } else {
            let detail = "the request target is neither a URL nor /targets/{id}/…";
            return Err(Refusal::new(Cause::RequestTargetInvalid, detail));
        };
        let rest = target.get(length..).unwrap_or_default();
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, tail) = rest.split_at_checked(end).unwrap_or((rest, ""));
        let (host, port) = authority_of(authority)?;
        host_agrees(authority, &host, port.unwrap_or_else(|| scheme.default_port()), headers)?;
        Ok(Self::Url(AskedUrl {
            scheme,
            host,
            port,
            resource: resource(tail),
            hint: hint(headers)?,
        }))
    }
}

/// `{id}/{path}?{query}`, behind `/targets/`.
fn by_id(rest: &str, hint: Option<TargetId>) -> Result<Asked, Refusal> {
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (id, tail) = rest.split_at_checked(end).unwrap_or((rest, ""));
    let Some(id) = TargetId::parse(id) else {
        let detail = "there is no target of that id: ids are 1 to 64 of a-z, 0-9, `.`, `_`, `-`";
        return Err(Refusal::new(Cause::TargetUnknown, detail));
    };
    if let Some(other) = hint.filter(|other| *other != id) {
        let detail = format!("the path names target {id}, X-WebRiskOps-Target {other}");
        return Err(Refusal::new(Cause::TargetMismatch, detail));
    }
    let (path, query) = split_query(tail);
    Ok(Asked::ById { id, rest: Resource { path: path.to_owned(), query } })
}

fn resource(tail: &str) -> Resource {
    let (path, query) = split_query(tail);
    Resource { path: if path.is_empty() { "/".to_owned() } else { path.to_owned() }, query }
}

fn split_query(tail: &str) -> (&str, Option<String>) {
    match tail.split_once('?') {
        Some((path, query)) => (path, Some(query.to_owned())),
        None => (tail, None),
    }
}

/// Host and optional port of an absolute URL. A host that only some parsers read as an address is
/// refused as not approved: it parses, but never as what an operator would have registered.
fn authority_of(text: &str) -> Result<(Host, Option<Port>), Refusal> {
    let refuse = |detail: &str| Err(Refusal::new(Cause::AuthorityInvalid, detail));
    if text.contains('@') {
        return refuse("userinfo before the host is not accepted");
    }
    if text.contains(['%', '\\']) {
        return refuse("the host must not be percent-encoded");
    }
    let after_brackets = text.rfind(']').map_or(0, |at| at.saturating_add(1));
    let tail = text.get(after_brackets..).unwrap_or_default();
    let (host, port) = match tail.rfind(':') {
        None => (text, None),
        Some(colon) => {
            let at = after_brackets.saturating_add(colon);
            let digits = text.get(at.saturating_add(1)..).unwrap_or_default();
            let Some(port) = Port::parse(digits) else {
                return refuse("the port is not a number from 1 to 65535");
            };
            (text.get(..at).unwrap_or_default(), Some(port))
        }
    };
    match Host::parse(host) {
        Ok(host) => Ok((host, port)),
        Err(fault @ HostFault::Number) => {
            Err(Refusal::new(Cause::HostNotCanonical, fault.to_string()))
        }
        Err(fault) => refuse(&fault.to_string()),
    }
}

/// RFC 9112, section 3.2: a Host field that names another authority than the request target is how
/// caches and virtual hosts are confused. The port may be left out of it.
fn host_agrees(
    written: &str,
    asked: &Host,
    asked_port: Port,
    headers: &HeaderMap,
) -> Result<(), Refusal> {
    let refuse = |detail: &str| Err(Refusal::new(Cause::HostMismatch, detail));
    let mut fields = headers.get_all(HOST).iter();
    let Some(field) = fields.next() else {
        return Ok(());
    };
    if fields.next().is_some() {
        return refuse("Host is repeated");
    }
    // Nearly every client repeats what it wrote, which has been read already.
    if field == written {
        return Ok(());
    }
    let Ok(text) = field.to_str() else {
        return refuse("Host holds characters outside visible ASCII");
    };
    let after_brackets = text.rfind(']').map_or(0, |at| at.saturating_add(1));
    let colon = text.get(after_brackets..).and_then(|rest| rest.find(':'));
    let (host, port) = match colon.map(|at| after_brackets.saturating_add(at)) {
        Some(at) => (text.get(..at), text.get(at.saturating_add(1)..).map(Port::parse)),
        None => (Some(text), None),
    };
    let same_host = host.and_then(|host| Host::parse(host).ok()).as_ref() == Some(asked);
    let same_port = port.is_none_or(|port| port == Some(asked_port));
    if same_host && same_port {
        Ok(())
    } else {
        refuse("Host names another authority than the request target")
    }
}

/// The host of a `Host` field, without its port. HTTP/1.0 needs none, and no browser sends that.
pub fn host_field(headers: &HeaderMap) -> Option<Host> {
    let host = headers.get(HOST).map_or(Some("localhost"), |host| host.to_str().ok())?;
    let end = host.rfind(']').map_or(0, |at| at.saturating_add(1));
    let colon = host.get(end..)?.find(':');
    let name = host.get(..colon.map_or(host.len(), |at| end.saturating_add(at)))?;
    Host::parse(name).ok()
}

/// Where no clients are configured, whoever reaches the listener may use it, and a web page could: by
/// a name of its own that leads here, or as it is, with requests whose answers it never sees. So
/// `/targets/…` is then served under an address only, and not to what a browser says is a page's.
///
/// # Errors
/// `gateway_host_invalid`.
pub fn asked_by_no_page(
    asked: &Asked,
    name: Option<&Host>,
    headers: &HeaderMap,
) -> Result<(), Refusal> {
    let Asked::ById { .. } = asked else { return Ok(()) };
    let harmless = name.is_some_and(|host| host.ip().is_some() || host.is_localhost());
    let of_a_page = |site: &HeaderValue| site != "none" && site != "same-origin";
    let detail = if !harmless {
        "the Host field is neither an address nor localhost"
    } else if headers.get("sec-fetch-site").is_some_and(of_a_page) {
        "a browser says that a web page of another site asks (Sec-Fetch-Site)"
    } else {
        return Ok(());
    };
    Err(Refusal::new(Cause::GatewayHostInvalid, detail))
}

fn hint(headers: &HeaderMap) -> Result<Option<TargetId>, Refusal> {
    let refuse = |detail: &str| Err(Refusal::new(Cause::TargetHeaderInvalid, detail));
    let mut fields = headers.get_all(TARGET_FIELD).iter();
    let Some(field) = fields.next() else {
        return Ok(None);
    };
    if fields.next().is_some() {
        return refuse("X-WebRiskOps-Target is repeated");
    }
    match field.to_str().ok().and_then(TargetId::parse) {
        Some(id) => Ok(Some(id)),
        None => {
            refuse("X-WebRiskOps-Target is not a target id (1 to 64 of a-z, 0-9, `.`, `_`, `-`)")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connect(target: &str, fields: &[(&str, &str)]) -> Result<String, Cause> {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(
                name.parse::<http::HeaderName>().unwrap(),
                HeaderValue::from_bytes(value.as_bytes()).unwrap(),
            );
        }
        Destination::connect(target, &headers)
            .map(|destination| destination.authority.to_string())
            .map_err(|refusal| refusal.cause)
    }

    #[test]
    fn the_host_field_has_to_agree_with_the_target() {
        for host in ["a.example:443", "A.example.", "a.example"] {
            assert!(connect("a.example:443", &[("host", host)]).is_ok(), "{host}");
        }
        for host in
            ["b.example:443", "a.example:80", "a.example:", "a.example, b", "", "[::1]", "é"]
        {
            let refused = connect("a.example:443", &[("host", host)]);
            assert_eq!(refused, Err(Cause::HostMismatch), "{host}");
        }
        assert!(connect("[2001:db8::1]:443", &[("host", "[2001:db8::1]")]).is_ok());
        let twice = connect("a.example:443", &[("host", "a.example"), ("host", "a.example")]);
        assert_eq!(twice, Err(Cause::HostMismatch));
    }

    #[test]
    fn the_hint_is_one_target_id() {
        assert!(connect("a.example:443", &[(TARGET_FIELD, "acme-jira")]).is_ok());
        for wrong in ["", "A", "a b", "a,b"] {
            let refused = connect("a.example:443", &[(TARGET_FIELD, wrong)]);
            assert_eq!(refused, Err(Cause::TargetHeaderInvalid), "{wrong}");
        }
        let twice = connect("a.example:443", &[(TARGET_FIELD, "a"), (TARGET_FIELD, "a")]);
        assert_eq!(twice, Err(Cause::TargetHeaderInvalid));
    }

    #[test]
    fn a_target_that_is_not_an_authority_is_refused() {
        for target in ["/etc/passwd", "*", "http://h:443", "h", "u@h:443"] {
            assert_eq!(connect(target, &[]), Err(Cause::AuthorityInvalid), "{target}");
        }
    }
}
