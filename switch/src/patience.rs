//! How long a thread looks for the next frame awake before it sleeps.
//!
//! Waking an idle CPU costs some 30 µs, so while frames keep coming soon after each other it pays
//! to look for the next one awake. The spell grows to its limit when a frame comes within it, and
//! shrinks to nothing when none does, so that an idle switch takes no CPU.
//!
//! On a machine without an idle CPU there is nothing to gain: whoever polls spends its share of the
//! CPU, and is then kept off it when frames come, while a sleeper would be woken at once. So a
//! thread that lost its CPU to others while it polled leaves polling be for a while.

use std::time::Duration;

use nat::Time;

/// A look takes a microsecond. One that took this long waited for a process that had the CPU for a
/// whole slice of the scheduler (3 ms); peers of a conversation block sooner.
const LOST_CPU: Duration = Duration::from_millis(2);
/// How long polling is left be after that, at first; twice as long each time it happens soon again.
const SHORTEST_REST: Duration = Duration::from_millis(20);
const LONGEST_REST: Duration = Duration::from_secs(2);

/// See the module's description.
#[derive(Debug)]
pub(crate) struct Patience {
    limit: Duration,
    spell: Duration,
    /// When the last frame came; the spell is counted from here.
    last: Time,
    awake: bool,
    /// When it looked last.
    looked: Time,
    /// No polling before this time.
    resting_until: Time,
    rest: Duration,
}

impl Patience {
    /// Patience that is never longer than `limit`; zero for a thread that always sleeps.
    pub(crate) fn new(limit: Duration) -> Patience {
        Patience {
            limit,
            spell: Duration::ZERO,
            last: Time::ZERO,
            awake: false,
            looked: Time::ZERO,
            resting_until: Time::ZERO,
            rest: SHORTEST_REST,
        }
    }

    /// Whether to look again at once. If not, sleep until frames come.
    pub(crate) fn is_awake(&self) -> bool {
        self.awake
    }

    /// Frames came.
    pub(crate) fn saw_frames(&mut self, now: Time) {
        // Would some more patience have caught these, if it was asleep?
        if self.awake || now - self.last < 2 * self.limit {
            self.spell = self.limit;
        }
        self.awake = !self.spell.is_zero() && now >= self.resting_until;
        self.last = now;
        self.looked = now;
    }

    /// A look found only what can wait: no reason to stay awake, and none to sleep at once.
    pub(crate) fn was_busy(&mut self, now: Time) {
        self.looked = now;
    }

    /// A look found nothing.
    pub(crate) fn saw_nothing(&mut self, now: Time) {
        if self.awake && now - self.looked >= LOST_CPU {
            let soon = now - self.resting_until < 4 * self.rest;
            self.rest = if soon {
                LONGEST_REST.min(2 * self.rest)
            } else {
                SHORTEST_REST
            };
            self.resting_until = now + self.rest;
        }
        self.looked = now;
        if self.awake && now - self.last >= self.spell {
            self.spell /= 2;
            self.awake = false;
            // The sleep begins here.
            self.last = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_micros(50);

    fn at(micros: u64) -> Time {
        Time::from_nanos(micros * 1000)
    }

    #[test]
    fn frames_close_together_keep_it_awake() {
        let mut patience = Patience::new(LIMIT);
        patience.saw_frames(at(1_000));
        assert!(!patience.is_awake(), "one frame alone is no reason to wait");
        patience.saw_frames(at(1_090));
        assert!(patience.is_awake());
        patience.saw_nothing(at(1_139));
        assert!(patience.is_awake());
        patience.saw_frames(at(1_139));
        patience.saw_nothing(at(1_188));
        assert!(patience.is_awake());
        patience.saw_nothing(at(1_189));
        assert!(!patience.is_awake());
        patience.saw_frames(at(1_280));
        assert!(patience.is_awake(), "it slept too early");
    }

    #[test]
    fn frames_far_apart_let_it_sleep() {
        let mut patience = Patience::new(LIMIT);
        patience.saw_frames(at(1_000));
        patience.saw_frames(at(1_001));
        let mut now = 1_001;
        let mut spent = 0;
        for _ in 0..100 {
            // It watches in vain, sleeps, and is woken a millisecond later.
            while patience.is_awake() {
                now += 1;
                spent += 1;
                patience.saw_nothing(at(now));
            }
            now += 1_000;
            patience.saw_frames(at(now));
        }
        assert!(spent <= 150, "{spent} µs awake for 100 frames");
    }

    #[test]
    fn without_a_limit_it_always_sleeps() {
        let mut patience = Patience::new(Duration::ZERO);
        for micros in 1_000..1_010 {
            patience.saw_frames(at(micros));
            assert!(!patience.is_awake());
        }
    }

    /// Polls from one time, with the CPU lost for `lost` at a look, until it sleeps.
    fn poll_and_lose(patience: &mut Patience, from: u64, lost: u64) {
        patience.saw_frames(at(from));
        patience.saw_frames(at(from + 10));
        patience.saw_nothing(at(from + 11));
        patience.saw_nothing(at(from + 12 + lost));
        assert!(!patience.is_awake());
    }

    fn polls(patience: &mut Patience, from: u64) -> bool {
        patience.saw_frames(at(from));
        patience.saw_frames(at(from + 10));
        patience.is_awake()
    }

    #[test]
    fn whoever_loses_the_cpu_while_polling_sleeps_for_a_while() {
        let mut patience = Patience::new(LIMIT);
        poll_and_lose(&mut patience, 1_000_000, 1_900);
        assert!(polls(&mut patience, 1_002_000), "a peer took its turn");
        poll_and_lose(&mut patience, 1_100_000, 3_000);
        assert!(!polls(&mut patience, 1_122_000));
        assert!(polls(&mut patience, 1_124_000));
        // Soon again: twice as long.
        poll_and_lose(&mut patience, 1_130_000, 3_000);
        assert!(!polls(&mut patience, 1_172_000));
        assert!(polls(&mut patience, 1_174_000));
        // Much later it starts anew.
        poll_and_lose(&mut patience, 9_000_000, 3_000);
        assert!(polls(&mut patience, 9_024_000));
    }
}
