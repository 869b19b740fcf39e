//! Faults on request, of one direction of a port: latency, jitter, loss, duplication.
//!
//! Chance comes from a seed, so that a run can be repeated: which frame is lost depends on the seed
//! and on how many went before it, and on nothing else.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use nat::Time;

use crate::config::{Fault, MILLION};

/// See the module's description. Shared by all workers, without a lock.
#[derive(Debug)]
pub(crate) struct Misfortune {
    fault: Fault,
    chance: AtomicU64,
    /// When the last frame arrives, in nanoseconds.
    last: AtomicU64,
}

impl Misfortune {
    pub(crate) fn new(fault: &Fault) -> Misfortune {
        Misfortune {
            chance: AtomicU64::new(fault.seed),
            last: AtomicU64::new(0),
            fault: fault.clone(),
        }
    }

    pub(crate) fn loses(&self) -> bool {
        self.happens(self.fault.loss)
    }

    pub(crate) fn duplicates(&self) -> bool {
        self.happens(self.fault.duplicate)
    }

    /// When a frame arrives that leaves at this time. None overtakes another: a path that is slow
    /// for one frame is slow for those behind it, and a reordered one would be a fault of its own.
    pub(crate) fn arrival(&self, leaves: Time) -> Time {
        let Fault {
            latency, jitter, ..
        } = self.fault;
        if latency.is_zero() && jitter.is_zero() {
            return leaves;
        }
        let mut arrives = leaves + latency;
        if !jitter.is_zero() {
            // From all too early to all too late, but not before it left.
            let spread = 2 * jitter.as_nanos();
            let share = (u128::from(self.roll()) * spread) >> 64;
            let late = Duration::from_nanos(share as u64);
            arrives = leaves + (latency + late).saturating_sub(jitter);
        }
        let last = self.last.fetch_max(arrives.as_nanos(), Ordering::Relaxed);
        arrives.max(Time::from_nanos(last))
    }

    fn happens(&self, per_million: u32) -> bool {
        per_million > 0
            && (u128::from(self.roll()) * u128::from(MILLION)) >> 64 < per_million.into()
    }

    /// SplitMix64 (Steele, Lea, Flood 2014): its state is a counter, which needs no lock.
    fn roll(&self) -> u64 {
        const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
        let mut z = self
            .chance
            .fetch_add(STEP, Ordering::Relaxed)
            .wrapping_add(STEP);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn misfortune(fault: Fault) -> Misfortune {
        Misfortune::new(&fault)
    }

    #[test]
    fn loss_is_as_often_as_asked_and_repeats_with_its_seed() {
        let lost = |loss, seed| {
            let fault = misfortune(Fault {
                loss,
                seed,
                ..Fault::default()
            });
            (0..100_000).filter(|_| fault.loses()).collect::<Vec<_>>()
        };
        assert_eq!(lost(0, 1).len(), 0);
        assert_eq!(lost(MILLION, 1).len(), 100_000);
        // 1,000 expected, with a standard deviation of 31.
        let some = lost(10_000, 1);
        assert!((850..1150).contains(&some.len()), "{}", some.len());
        assert_eq!(some, lost(10_000, 1));
        assert_ne!(some, lost(10_000, 2));
    }

    #[test]
    fn jitter_keeps_within_its_bounds_and_keeps_the_order() {
        let fault = misfortune(Fault {
            latency: Duration::from_millis(20),
            jitter: Duration::from_millis(5),
            ..Fault::default()
        });
        let start = Time::ZERO + Duration::from_secs(1);
        let (mut last, mut least, mut most) = (Time::ZERO, Duration::MAX, Duration::ZERO);
        for number in 0..1000 {
            // Far enough apart for each to find its own way.
            let leaves = start + Duration::from_millis(20) * number;
            let arrives = fault.arrival(leaves);
            assert!(arrives >= last);
            last = arrives;
            least = least.min(arrives - leaves);
            most = most.max(arrives - leaves);
        }
        let millis = |n| Duration::from_millis(n);
        assert!(least >= millis(15) && least < millis(16), "{least:?}");
        assert!(most <= millis(25) && most > millis(24), "{most:?}");
        // Close together, none overtakes another.
        let mut last = Time::ZERO;
        for number in 0..1000 {
            let arrives = fault.arrival(start + Duration::from_micros(number));
            assert!(arrives >= last);
            last = arrives;
        }
    }

    #[test]
    fn jitter_larger_than_latency_sends_nothing_back_in_time() {
        let fault = misfortune(Fault {
            jitter: Duration::from_millis(5),
            ..Fault::default()
        });
        for number in 0..1000 {
            let leaves = Time::ZERO + Duration::from_secs(number);
            assert!(fault.arrival(leaves) >= leaves);
        }
    }
}
