//! How often something may happen: a clock that each event puts forward by its share of a second,
//! and that may run ahead of the real one by a second's worth. One word, no timer.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use nat::Time;

/// See the module's description. Shared by all workers.
#[derive(Debug, Default)]
pub(crate) struct RateLimit {
    ahead: AtomicU64,
}

impl RateLimit {
    /// Whether one more may happen now, of so many a second and as many at once.
    pub(crate) fn admit(&self, now: Time, per_second: u32) -> bool {
        const SECOND: Duration = Duration::from_secs(1);
        let Some(share) = (SECOND.as_nanos() as u64).checked_div(u64::from(per_second)) else {
            return false;
        };
        let limit = (now + SECOND).as_nanos();
        let took = self
            .ahead
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |ahead| {
                let next = ahead.max(now.as_nanos()) + share;
                (next <= limit).then_some(next)
            });
        took.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_limited_and_recovers() {
        let limit = RateLimit::default();
        let start = Time::ZERO + Duration::from_secs(9);
        let burst = (0..5000).filter(|_| limit.admit(start, 1000)).count();
        assert_eq!(burst, 1000);
        let later = start + Duration::from_millis(100);
        let more = (0..5000).filter(|_| limit.admit(later, 1000)).count();
        assert_eq!(more, 100);
        assert!(!RateLimit::default().admit(start, 0));
    }
}
