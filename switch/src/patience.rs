//! How long a thread looks for the next frame awake before it sleeps.
//!
//! Waking an idle CPU costs some 30 µs, so while frames keep coming soon after each other it pays
//! to look for the next one awake. The spell grows to its limit when a frame comes within it, and
//! shrinks to nothing when none does, so that an idle switch takes no CPU.

use std::time::Duration;

use nat::Time;

/// See the module's description.
#[derive(Debug)]
pub(crate) struct Patience {
    limit: Duration,
    spell: Duration,
    /// When the last frame came; the spell is counted from here.
    last: Time,
    awake: bool,
}

impl Patience {
    /// Patience that is never longer than `limit`; zero for a thread that always sleeps.
    pub(crate) fn new(limit: Duration) -> Patience {
        Patience {
            limit,
            spell: Duration::ZERO,
            last: Time::ZERO,
            awake: false,
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
        self.awake = !self.spell.is_zero();
        self.last = now;
    }

    /// A look found nothing.
    pub(crate) fn saw_nothing(&mut self, now: Time) {
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
}
