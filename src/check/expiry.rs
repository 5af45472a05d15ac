//! The certificate watch: when certificates of targets expire, as metric and as warning.

use std::sync::PoisonError;

use jiff::Timestamp;

use super::{Check, slot::Slot};
use crate::telemetry::Connectivity;

/// Days before its expiry at which a certificate is warned of, once each.
const WARNED_AT: [i64; 3] = [3, 14, 30];

const DAY_SECONDS: i64 = 24 * 60 * 60;

/// Notes the expiry of the certificate that a check saw, and warns where it is near.
pub(super) fn watch(slot: &Slot, check: &Check, metrics: &Connectivity) {
    let Some(not_after) = check.tls.as_ref().and_then(|tls| tls.not_after) else { return };
    let expiry = metrics.certificate_expiry.with_label_values(&[check.target_id.as_str()]);
    expiry.set(not_after.as_duration().as_secs_f64());
    let mut warned = slot.warned.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(days) = to_warn(not_after, Timestamp::now(), *warned) else { return };
    *warned = Some((not_after, days));
    drop(warned);
    tracing::warn!(
        target_id = check.target_id,
        issuer = check.tls.as_ref().and_then(|tls| tls.issuer.as_deref()),
        %not_after,
        "the target's certificate expires in less than {days} days"
    );
}

/// The number of days to warn with, unless that was done for this certificate.
fn to_warn(not_after: Timestamp, now: Timestamp, warned: Option<(Timestamp, i64)>) -> Option<i64> {
    let left = not_after.as_second().saturating_sub(now.as_second());
    let days = WARNED_AT.into_iter().find(|days| left < days.saturating_mul(DAY_SECONDS))?;
    let done = warned.is_some_and(|(of, at)| of == not_after && at <= days);
    (!done).then_some(days)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    #[test]
    fn a_certificate_is_warned_of_three_times_and_a_renewed_one_anew() {
        let not_after = at(100 * DAY_SECONDS);
        let asked = |day: i64, warned| to_warn(not_after, at(day * DAY_SECONDS + 1), warned);
        assert_eq!(asked(69, None), None);
        assert_eq!(asked(70, None), Some(30));
        assert_eq!(asked(71, Some((not_after, 30))), None);
        assert_eq!(asked(86, Some((not_after, 30))), Some(14));
        assert_eq!(asked(97, Some((not_after, 14))), Some(3));
        assert_eq!(asked(101, Some((not_after, 3))), None);
        assert_eq!(asked(101, None), Some(3), "expired already");
        let renewed = at(170 * DAY_SECONDS);
        assert_eq!(to_warn(renewed, at(145 * DAY_SECONDS), Some((not_after, 3))), Some(30));
    }
}
