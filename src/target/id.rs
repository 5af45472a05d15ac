//! The id of a target: a slug that is safe in paths, metrics and log lines.

use std::{borrow::Borrow, fmt, sync::Arc};

/// 1 to 64 of `a-z0-9._-`. Cloning shares the text.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TargetId(Arc<str>);

impl TargetId {
    /// Longest id, in bytes (contract, section 4).
    pub const BYTES_MAX: usize = 64;

    /// Reads an id; `None` for anything that is not a slug.
    pub fn parse(text: &str) -> Option<Self> {
        let plain = |byte: u8| {
            byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'.' | b'_' | b'-')
        };
        let fits = !text.is_empty() && text.len() <= Self::BYTES_MAX;
        // `.` and `..` would be swallowed by every URL parser on the way to /targets/{id}.
        (fits && text.bytes().all(plain) && text != "." && text != "..").then(|| Self(text.into()))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The text, shared.
    pub fn shared(&self) -> Arc<str> {
        Arc::clone(&self.0)
    }
}

impl Borrow<str> for TargetId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TargetId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for TargetId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_a_slug() {
        for good in ["a", "acme-jira", "a.b_c-9", &"x".repeat(64)] {
            assert!(TargetId::parse(good).is_some(), "{good}");
        }
        for bad in ["", "A", "a b", "a/b", "a\"b", "é", ".", "..", &"x".repeat(65)] {
            assert!(TargetId::parse(bad).is_none(), "{bad}");
        }
    }
}
