//! Half-open connections of strangers to published TCP ports.
//!
//! Anybody on the wire can open them, from forged sources too. Each shard bounds them for each
//! publish rule. Beyond the bound a few are still let in, in place of the oldest, so that a client
//! gets through with one of its SYNs; the others are refused before anything is done for them.

use std::collections::VecDeque;
use std::time::Duration;

use crate::time::Time;

/// Half-open connections of one rule in one shard: 4096 in all, as many as Linux lets wait for a
/// listener (`net.core.somaxconn`).
const MOST: usize = 256;

/// Those let in beyond, in a [`WINDOW`].
const BEYOND: u32 = 8;
const WINDOW: Duration = Duration::from_millis(10);

/// How often the list is rid of those that are not half-open any more, while it is full.
const TIDY: Duration = Duration::from_millis(50);

/// Of one rule, in one shard.
#[derive(Default)]
pub(crate) struct Strangers {
    /// Slots, the oldest first. Some are not half-open any more, or another connection's.
    slots: VecDeque<u32>,
    /// When the list was last tidied while it was full.
    tidied: Option<Time>,
    /// Beginning of the window, and those let in.
    window: Time,
    beyond: u32,
}

/// Whether one more may be opened.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    Free,
    /// The one in this slot gives way.
    InPlaceOf(u32),
    Refused,
}

impl Strangers {
    /// Asks for one more. `is_half_open` says whether a slot has a half-open connection of the
    /// rule.
    pub(super) fn admit(&mut self, now: Time, is_half_open: impl Fn(u32) -> bool) -> Admission {
        if self.slots.len() < MOST {
            return Admission::Free;
        }
        // One busy client's connections complete in the order they were opened: none of them may
        // keep the next one out.
        while let Some(&oldest) = self.slots.front() {
            if is_half_open(oldest) {
                break;
            }
            self.slots.pop_front();
        }
        if self.slots.len() < MOST {
            return Admission::Free;
        }
        if self.tidied.is_none_or(|tidied| now - tidied >= TIDY) {
            self.tidied = Some(now);
            self.slots.retain(|&slot| is_half_open(slot));
            if self.slots.len() < MOST {
                return Admission::Free;
            }
        }
        if now - self.window >= WINDOW {
            (self.window, self.beyond) = (now, 0);
        }
        if self.beyond >= BEYOND {
            return Admission::Refused;
        }
        self.beyond += 1;
        match self.slots.pop_front() {
            Some(oldest) if is_half_open(oldest) => Admission::InPlaceOf(oldest),
            _ => Admission::Free,
        }
    }

    /// One was opened.
    pub(super) fn add(&mut self, slot: u32) {
        self.slots.push_back(slot);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(milliseconds: u64) -> Time {
        Time::ZERO + Duration::from_millis(milliseconds)
    }

    #[test]
    fn the_oldest_gives_way_to_a_few_and_the_others_are_refused() {
        let mut strangers = Strangers::default();
        for slot in 0..MOST as u32 {
            assert_eq!(strangers.admit(at(1000), |_| true), Admission::Free);
            strangers.add(slot);
        }
        for slot in 0..BEYOND {
            let admitted = strangers.admit(at(1000), |_| true);
            assert_eq!(admitted, Admission::InPlaceOf(slot));
            strangers.add(1000 + slot);
        }
        assert_eq!(strangers.admit(at(1009), |_| true), Admission::Refused);
        assert_eq!(
            strangers.admit(at(1010), |_| true),
            Admission::InPlaceOf(BEYOND)
        );
        strangers.add(2000);
        // Those that have been completed make room.
        assert_eq!(
            strangers.admit(at(1050), |slot| slot % 2 == 0),
            Admission::Free
        );
        assert!(strangers.slots.len() < MOST);
    }

    #[test]
    fn no_rate_of_connections_that_complete_is_too_high() {
        let mut strangers = Strangers::default();
        for slot in 0..100_000 {
            // Sixteen are half-open at any moment, which all fall into one millisecond.
            let half_open = |other: u32| slot - other <= 16;
            assert_eq!(strangers.admit(at(1000), half_open), Admission::Free);
            strangers.add(slot);
        }
    }
}
