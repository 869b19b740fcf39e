//! Frames that go on later: held back by a limit, or late by a fault.
//!
//! Each worker holds its own, so that a flow's frames stay in their order and no lock is taken. How
//! much may be held is bounded for each port and direction (`treatment`), not here.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::collections::binary_heap::PeekMut;
use std::sync::Arc;

use nat::Time;

use crate::drop::DropReason;
use crate::frame::Frame;
use crate::port::Port;
use crate::treatment::Way;

/// Buffers kept for the next frames, so that holding one seldom allocates.
const SPARE: usize = 64;

/// See the module's description.
#[derive(Default)]
pub(crate) struct Delayed {
    queue: BinaryHeap<Held>,
    spare: Vec<Vec<u8>>,
    /// Frames held so far.
    count: u64,
}

/// Which way a frame goes through its port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// It came in by the port and is about to be forwarded.
    From,
    /// It is about to leave by it.
    To,
}

/// Where held frames go on from. The port itself: its number may be another one's by then.
#[derive(Clone)]
pub(crate) struct Place {
    pub(crate) port: Arc<Port>,
    pub(crate) side: Side,
}

struct Held {
    due: Time,
    /// Of those due at the same time, the one that came first goes first.
    number: u64,
    place: Place,
    way: Arc<Way>,
    /// As [`Frame::raw`] gave it.
    raw: Vec<u8>,
}

impl Delayed {
    /// When the first one is due.
    pub(crate) fn due(&self) -> Option<Time> {
        self.queue.peek().map(|held| held.due)
    }

    /// Treats a frame as its way says; true if it goes on at once.
    pub(crate) fn treat(
        &mut self,
        now: Time,
        way: &Arc<Way>,
        (port, side): (&Arc<Port>, Side),
        frame: &Frame,
    ) -> Result<bool, DropReason> {
        let fate = way.decide(now, frame)?;
        let goes = fate.at <= now;
        for copy in usize::from(goes)..1 + usize::from(fate.twice) {
            match way.hold(frame) {
                Ok(()) => {}
                Err(reason) if copy == 0 => return Err(reason),
                // It has gone on, or will: only its double is lost.
                Err(_) => break,
            }
            let mut raw = self.spare.pop().unwrap_or_default();
            raw.clear();
            raw.extend_from_slice(frame.raw());
            self.count += 1;
            self.queue.push(Held {
                due: fate.at,
                number: self.count,
                place: Place {
                    port: Arc::clone(port),
                    side,
                },
                way: Arc::clone(way),
                raw,
            });
        }
        Ok(goes)
    }

    /// Takes out frames that are due and go on from the same place, as many as there is room for:
    /// the time of the first, their place, and their number.
    pub(crate) fn take(&mut self, now: Time, frames: &mut [Frame]) -> Option<(Time, Place, usize)> {
        let first = self.queue.peek().filter(|held| held.due <= now)?;
        let (due, place) = (first.due, first.place.clone());
        let mut taken = 0;
        for frame in frames {
            let Some(next) = self.queue.peek_mut() else {
                break;
            };
            if next.due > now
                || next.place.side != place.side
                || !Arc::ptr_eq(&next.place.port, &place.port)
            {
                break;
            }
            let held = PeekMut::pop(next);
            frame.set_raw(&held.raw);
            held.way.release(frame);
            if self.spare.len() < SPARE {
                self.spare.push(held.raw);
            }
            taken += 1;
        }
        Some((due, place, taken))
    }
}

impl Ord for Held {
    /// The heap's top is its greatest: the one that is due first.
    fn cmp(&self, other: &Held) -> Ordering {
        (other.due, other.number).cmp(&(self.due, self.number))
    }
}

impl PartialOrd for Held {
    fn partial_cmp(&self, other: &Held) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Held {
    fn eq(&self, other: &Held) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Held {}
