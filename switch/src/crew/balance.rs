//! How many threads a crew needs: measured now and then by whoever is awake.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use nat::Time;

use super::Crew;

/// How long the load is measured before the lanes may be dealt anew. Some slices of the scheduler
/// (3 ms): a thread that waits for a CPU while it serves looks busy, but that is not yet load.
pub(super) const WINDOW: Duration = Duration::from_millis(50);
/// How long fewer threads must have been enough before one goes to rest.
const CALM: Duration = Duration::from_millis(200);
/// Parts of the time that a thread is busy: more may be saturated.
const SATURATED: f64 = 0.85;
/// It is not if more than this part of its looks find nothing. Time alone does not tell: a thread
/// whose writing wakes others makes place for them in the middle of it.
const SELDOM: f64 = 0.1;
/// What a thread may be left with when another one goes to rest.
const COMFORTABLE: f64 = 0.75;
/// A lane with less than this is nothing to hand over.
const WORTH_MOVING: f64 = 0.05;

/// The counters at the last look, and what they came to since the look before.
pub(super) struct Balance {
    at: Time,
    /// When all threads were last needed.
    needed: Time,
    /// A row a lane, whose thread has its number.
    busy: Vec<u64>,
    rounds: Vec<u64>,
    in_vain: Vec<u64>,
    load: Load,
}

/// How much a crew had to do.
pub(super) struct Load {
    /// The part of the time that went to each lane.
    pub(super) lanes: Vec<f64>,
    /// The part of each thread's rounds that found nothing.
    pub(super) idle: Vec<f64>,
}

impl Balance {
    /// Of a crew with so many lanes, and as many threads.
    pub(super) fn new(lanes: usize) -> Balance {
        Balance {
            at: Time::ZERO,
            needed: Time::ZERO,
            busy: vec![0; lanes],
            rounds: vec![0; lanes],
            in_vain: vec![0; lanes],
            load: Load {
                lanes: vec![0.0; lanes],
                idle: vec![0.0; lanes],
            },
        }
    }

    /// How many threads of `crew` should work from now on, of which so many do.
    pub(super) fn threads(&mut self, now: Time, crew: &Crew, active: usize) -> usize {
        self.measure(now, crew);
        let wanted = self.load.threads(active);
        if wanted >= active {
            self.needed = now;
        } else if now - self.needed < CALM {
            return active;
        }
        wanted
    }

    fn measure(&mut self, now: Time, crew: &Crew) {
        let since = |counter: &AtomicU64, before: &mut u64| {
            let count = counter.load(Ordering::Relaxed);
            (count - std::mem::replace(before, count)) as f64
        };
        let window = (now - self.at).as_nanos().max(1) as f64;
        self.at = now;
        for (number, (lane, thread)) in crew.lanes.iter().zip(&crew.threads).enumerate() {
            let rounds = since(&thread.rounds, &mut self.rounds[number]);
            let in_vain = since(&thread.in_vain, &mut self.in_vain[number]);
            self.load.lanes[number] = since(&lane.busy, &mut self.busy[number]) / window;
            self.load.idle[number] = in_vain / rounds.max(1.0);
        }
    }
}

impl Load {
    /// How many threads should work when so many do: one more if one is saturated and could give
    /// some of it away, fewer if they would be comfortable.
    pub(super) fn threads(&self, active: usize) -> usize {
        let dealt = |threads: usize, thread: usize| self.lanes.iter().skip(thread).step_by(threads);
        let could_share = |thread: usize| {
            let load: f64 = dealt(active, thread).sum();
            let lanes = dealt(active, thread).filter(|&&load| load >= WORTH_MOVING);
            load >= SATURATED && self.idle[thread] <= SELDOM && lanes.count() > 1
        };
        if active < self.lanes.len() && (0..active).any(could_share) {
            return active + 1;
        }
        let comfortable = |&threads: &usize| {
            (0..threads).all(|thread| dealt(threads, thread).sum::<f64>() < COMFORTABLE)
        };
        (1..active).find(comfortable).unwrap_or(active)
    }
}
