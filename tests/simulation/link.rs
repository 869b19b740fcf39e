//! The wire between a host and the switch, and what it does to frames.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;
use std::time::Duration;

use crate::wire::Noise;

/// What happens to frames on a link, the same both ways. By default nothing does, in no time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// One frame in this many is lost; 0 for none, here and below.
    pub loss: usize,
    /// One in this many arrives twice.
    pub duplication: usize,
    /// One in this many arrives at the switch with one bit flipped. Only there: of two flips in one
    /// packet the second may put right the checksum that the first made wrong.
    pub corruption: usize,
    /// How long every frame takes.
    pub delay: Duration,
    /// Up to how much longer one frame in four takes, so that others overtake it.
    pub jitter: Duration,
}

#[derive(Default)]
pub(super) struct Link {
    pub(super) faults: Faults,
    /// Nothing passes.
    pub(super) down: bool,
    pub(super) to_host: Lane,
    pub(super) to_switch: Lane,
}

/// One way of a link: frames on their way.
#[derive(Default)]
pub(super) struct Lane {
    flights: BinaryHeap<Reverse<Flight>>,
    sent: u64,
}

struct Flight {
    at: Duration,
    /// What was sent first goes first.
    order: u64,
    frame: Vec<u8>,
}

impl Link {
    pub(super) fn send_to_host(&mut self, now: Duration, frame: &[u8], noise: &mut Noise) {
        if !self.down {
            let faults = Faults {
                corruption: 0,
                ..self.faults
            };
            self.to_host.send(now, &faults, frame, noise);
        }
    }

    pub(super) fn send_to_switch(&mut self, now: Duration, frame: &[u8], noise: &mut Noise) {
        if !self.down {
            self.to_switch.send(now, &self.faults, frame, noise);
        }
    }

    /// When the next frame arrives at either end.
    pub(super) fn next(&self) -> Option<Duration> {
        let lanes = [&self.to_host, &self.to_switch];
        let first = lanes.into_iter().filter_map(|lane| lane.flights.peek());
        first.map(|Reverse(flight)| flight.at).min()
    }
}

impl Lane {
    fn send(&mut self, now: Duration, faults: &Faults, frame: &[u8], noise: &mut Noise) {
        if noise.one_in(faults.loss) {
            return;
        }
        let copies = if noise.one_in(faults.duplication) {
            2
        } else {
            1
        };
        for _ in 0..copies {
            let mut frame = frame.to_vec();
            if noise.one_in(faults.corruption) {
                let bit = noise.below(frame.len() * 8);
                frame[bit / 8] ^= 1 << (bit % 8);
            }
            let mut at = now + faults.delay;
            if !faults.jitter.is_zero() && noise.one_in(4) {
                at += faults.jitter.mul_f64(noise.below(1000) as f64 / 1000.0);
            }
            self.sent += 1;
            let order = self.sent;
            self.flights.push(Reverse(Flight { at, order, frame }));
        }
    }

    /// The next frame that is there by now.
    pub(super) fn arrived(&mut self, now: Duration) -> Option<Vec<u8>> {
        self.flights.peek().filter(|first| first.0.at <= now)?;
        self.flights.pop().map(|Reverse(flight)| flight.frame)
    }
}

impl Flight {
    fn key(&self) -> (Duration, u64) {
        (self.at, self.order)
    }
}

impl Ord for Flight {
    fn cmp(&self, other: &Flight) -> Ordering {
        self.key().cmp(&other.key())
    }
}

impl PartialOrd for Flight {
    fn partial_cmp(&self, other: &Flight) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Flight {
    fn eq(&self, other: &Flight) -> bool {
        self.key() == other.key()
    }
}

impl Eq for Flight {}
