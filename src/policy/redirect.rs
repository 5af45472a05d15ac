//! Rule 9: may this redirect be passed on to the client.

use http::StatusCode;

use crate::{
    origin::{BaseUrl, Origin},
    reason::{Cause, Refusal},
    target::{Redirects, Target},
};

/// Judges an answer. Only a redirect that names a place is one: `201` with `Location`, `304`, and a
/// 3xx without `Location` are answers like any other.
///
/// # Errors
/// `redirect_blocked`; the detail names the place's origin at most.
pub fn redirect<'a>(
    target: &Target,
    status: StatusCode,
    locations: impl IntoIterator<Item = &'a [u8]>,
) -> Result<(), Refusal> {
    let mut locations = locations.into_iter();
    let Some(location) = locations.next().filter(|_| is_redirect(status)) else {
        return Ok(());
    };
    let refuse = |place: &str| {
        let detail = format!("target {} redirects to {place}", target.id);
        Err(Refusal::new(Cause::RedirectBlocked, detail))
    };
    // Of several, clients take the first, the last, or none.
    let only = locations.next().is_none();
    let Some(origin) = place(&target.base, location).filter(|_| only) else {
        return refuse("a place that cannot be read in exactly one way");
    };
    // A signed delivery is for one receiver: it is never sent on.
    let approved = !target.is_signed()
        && match &target.redirects {
            Redirects::Block => false,
            Redirects::SameOrigin => origin == target.base.origin,
            Redirects::Listed(listed) => origin == target.base.origin || listed.contains(&origin),
        };
    if approved { Ok(()) } else { refuse(&origin.to_string()) }
}

fn is_redirect(status: StatusCode) -> bool {
    status.is_redirection() && status != StatusCode::NOT_MODIFIED
}

/// The origin that a `Location` leads to. `None` for everything that clients read differently:
/// control characters, backslashes, userinfo, other schemes, hosts that are not canonical.
fn place(base: &BaseUrl, location: &[u8]) -> Option<Origin> {
    let text = std::str::from_utf8(location).ok()?;
    if !text.bytes().all(|byte| byte.is_ascii_graphic()) || text.contains('\\') {
        return None;
    }
    let lower = text.to_ascii_lowercase();
    if lower.starts_with("http:") || lower.starts_with("https:") {
        return origin_of(text);
    }
    if let Some(rest) = text.strip_prefix("//") {
        return origin_of(&format!("{}://{rest}", base.origin.scheme.as_str()));
    }
    // A scheme is letters before the first colon, where no slash, query or fragment comes earlier.
    let first = text.find(['/', '?', '#', ':']);
    match first.and_then(|at| text.as_bytes().get(at)) {
        Some(b':') => None,
        Some(_) | None => Some(base.origin.clone()),
    }
}

/// The origin of an absolute URL, read as strictly as a target's own. It holds the scheme, so that
/// a downgrade to http is never the same origin; listed origins are https only.
fn origin_of(text: &str) -> Option<Origin> {
    let end = text.find("://").and_then(|at| at.checked_add(3))?;
    let rest = text.get(end..)?;
    let authority = rest.find(['/', '?', '#']).map_or(rest, |at| rest.get(..at).unwrap_or(rest));
    let plain = format!("{}{authority}/", text.get(..end)?);
    BaseUrl::parse(&plain, false).ok().map(|url| url.origin)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reason::DeploymentMode;
    use crate::target::tests::target;

    fn passes(redirects: Redirects, status: u16, location: Option<&str>) -> bool {
        let mut target = target("a", "https://jira.acme.example/jira");
        target.redirects = redirects;
        let status = StatusCode::from_u16(status).unwrap();
        redirect(&target, status, location.map(str::as_bytes)).is_ok()
    }

    #[test]
    fn nothing_but_a_redirect_with_a_place_is_judged() {
        for (status, location) in [
            (200, None),
            (201, Some("https://evil.com/")),
            (304, Some("https://evil.com/")),
            (302, None),
        ] {
            assert!(passes(Redirects::Block, status, location), "{status}");
        }
        for status in [300, 301, 302, 303, 305, 307, 308, 399] {
            assert!(!passes(Redirects::Block, status, Some("/login")), "{status}");
        }
    }

    #[test]
    fn same_origin_is_scheme_host_and_port() {
        for good in [
            "/login",
            "login?x=1",
            "?a",
            "#f",
            "//jira.acme.example/x",
            "https://JIRA.acme.example:443/",
            "https://jira.acme.example",
            "./a:b",
            "/a:b",
        ] {
            assert!(passes(Redirects::SameOrigin, 302, Some(good)), "{good}");
        }
        let bad = [
            "http://jira.acme.example/",
            "https://jira.acme.example:8443/",
            "https://evil.com/",
            "//evil.com",
            "https://jira.acme.example@evil.com/",
            "https://u@jira.acme.example/",
            "https:evil.com",
            "https:/evil.com",
            "https:///evil.com",
            "\\\\evil.com",
            "/\\evil.com",
            "javascript:alert(1)",
            "data:x",
            "ftp://jira.acme.example/",
            "https://127.0.0.1/",
            "https://2130706433/",
            " https://jira.acme.example/",
            "https://jira.acme.example%2f.evil.com/",
            "https://jira.acme.example.evil.com/",
            "https://[::1/",
            "a:b",
            "h\tttps://x/",
            "https://jira.acme.example\u{0}/",
        ];
        for location in bad {
            assert!(!passes(Redirects::SameOrigin, 307, Some(location)), "{location}");
        }
    }

    #[test]
    fn listed_origins_are_approved_besides_the_own_one_and_never_for_webhooks() {
        let listed = || {
            Redirects::Listed(Box::new([BaseUrl::parse("https://sso.acme.example", false)
                .unwrap()
                .origin]))
        };
        assert!(passes(listed(), 302, Some("https://sso.acme.example/login?next=x")));
        assert!(passes(listed(), 302, Some("/x")));
        assert!(!passes(listed(), 302, Some("http://sso.acme.example/")));
        let mut hook = target("a", "https://jira.acme.example/jira");
        hook.mode = DeploymentMode::WebhookOnly;
        hook.redirects = listed();
        assert!(redirect(&hook, StatusCode::FOUND, [&b"/x"[..]]).is_err());
    }

    #[test]
    fn a_refusal_names_no_more_than_the_origin() {
        let target = target("a", "https://jira.acme.example/jira");
        let refusal =
            redirect(&target, StatusCode::FOUND, [&b"https://evil.com/?token=s3cret"[..]])
                .unwrap_err();
        assert!(refusal.detail.contains("https://evil.com") && !refusal.detail.contains("s3cret"));
    }
}
