//! The receiver's `Retry-After`.

use jiff::Timestamp;

/// Longest wait that is believed, in seconds: a year.
const SECONDS_MAX: u64 = 365 * 24 * 60 * 60;

/// How many seconds from `now` a `Retry-After` field names: delay seconds or an HTTP date (RFC 9110,
/// section 10.2.3). `None` for anything else.
pub fn retry_after(text: &str, now: Timestamp) -> Option<u64> {
    let text = text.trim();
    let seconds = if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        text.parse().unwrap_or(u64::MAX)
    } else {
        let at = jiff::fmt::rfc2822::parse(text).ok()?.timestamp();
        u64::try_from(at.as_second().saturating_sub(now.as_second())).unwrap_or(0)
    };
    Some(seconds.min(SECONDS_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_and_dates_are_read_and_nothing_else_is() {
        // 1994-11-06 08:49:37 UTC
        let now = Timestamp::from_second(784_111_777).unwrap();
        let rows = [
            ("120", Some(120)),
            (" 0 ", Some(0)),
            ("99999999999999999999999", Some(SECONDS_MAX)),
            ("Sun, 06 Nov 1994 08:50:07 GMT", Some(30)),
            ("Sun, 06 Nov 1994 08:49:07 GMT", Some(0)),
            ("", None),
            ("-1", None),
            ("+1", None),
            ("1.5", None),
            ("soon", None),
        ];
        for (text, seconds) in rows {
            assert_eq!(retry_after(text, now), seconds, "{text:?}");
        }
    }
}
