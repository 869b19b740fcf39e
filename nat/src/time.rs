//! The engine's clock reading: a parameter everywhere, so that a whole network can run under a
//! simulated clock. Nothing in this crate asks the machine for the time.

use std::fmt;
use std::ops::{Add, AddAssign, Sub};
use std::time::Duration;

/// A point in time: nanoseconds since the engine's epoch, which the caller chooses (say, the start
/// of the process). 64 bits last for 584 years; arithmetic saturates at both ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Time(u64);

impl Time {
    /// The engine's epoch.
    pub const ZERO: Time = Time(0);

    /// The time `nanos` nanoseconds after the epoch.
    pub const fn from_nanos(nanos: u64) -> Time {
        Time(nanos)
    }

    /// Nanoseconds since the epoch.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }
}

impl Add<Duration> for Time {
    type Output = Time;

    fn add(self, rhs: Duration) -> Time {
        let nanos = u64::try_from(rhs.as_nanos()).unwrap_or(u64::MAX);
        Time(self.0.saturating_add(nanos))
    }
}

impl AddAssign<Duration> for Time {
    fn add_assign(&mut self, rhs: Duration) {
        *self = *self + rhs;
    }
}

impl Sub for Time {
    type Output = Duration;

    /// How long after `rhs` this is; zero when it is not after it.
    fn sub(self, rhs: Time) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(rhs.0))
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}.{:06} s",
            self.0 / 1_000_000_000,
            self.0 % 1_000_000_000 / 1_000
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arithmetic_saturates() {
        let late = Time::from_nanos(u64::MAX - 1);
        assert_eq!(late + Duration::MAX, Time::from_nanos(u64::MAX));
        assert_eq!(Time::ZERO - late, Duration::ZERO);
        assert_eq!(
            (Time::ZERO + Duration::from_secs(3)) - (Time::ZERO + Duration::from_secs(1)),
            Duration::from_secs(2)
        );
        assert_eq!(
            (Time::ZERO + Duration::from_micros(1_500_000)).to_string(),
            "1.500000 s"
        );
    }
}
