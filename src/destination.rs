//! What is asked: the request target, read in exactly one way.

use http::{HeaderMap, header::HOST};

use crate::{
    origin::{Authority, Host, Port},
    reason::{Cause, Refusal},
    target::TargetId,
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
}

impl Destination {
    /// Reads the target and the fields of a CONNECT request.
    ///
    /// # Errors
    /// `authority_invalid`, `host_mismatch` or `target_header_invalid`.
    pub fn connect(target: &str, headers: &HeaderMap) -> Result<Self, Refusal> {
        let authority = Authority::parse(target)
            .map_err(|fault| Refusal::new(Cause::AuthorityInvalid, fault.to_string()))?;
        host_agrees(target, &authority, headers)?;
        Ok(Self { authority, hint: hint(headers)? })
    }
}

/// RFC 9112, section 3.2: a Host field that names another authority than the request target is how
/// caches and virtual hosts are confused. The port may be left out of it.
fn host_agrees(target: &str, authority: &Authority, headers: &HeaderMap) -> Result<(), Refusal> {
    let refuse = |detail: &str| Err(Refusal::new(Cause::HostMismatch, detail));
    let mut fields = headers.get_all(HOST).iter();
    let Some(field) = fields.next() else {
        return Ok(());
    };
    if fields.next().is_some() {
        return refuse("Host is repeated");
    }
    // Nearly every client repeats the request target, which has been read already.
    if field == target {
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
    let same_host = host.and_then(|host| Host::parse(host).ok()).as_ref() == Some(&authority.host);
    let same_port = port.is_none_or(|port| port == Some(authority.port));
    if same_host && same_port {
        Ok(())
    } else {
        refuse("Host names another authority than the request target")
    }
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
                http::HeaderValue::from_bytes(value.as_bytes()).unwrap(),
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
