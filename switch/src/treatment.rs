//! What a port is held to, at work: whether a frame goes on at once, later, twice or not at all.
//!
//! ```text
//!  from the container ─► cut off? ─► limit ─► lost? ─► latency ─► datapath ─► parted? ─┐
//!  to the container   ◄───────────── latency ◄─ lost? ◄─ limit ◄─ cut off? ◄───────────┘
//! ```
//!
//! A port without a [`config::Treatment`] has none here either, and then the way past all this is
//! one look for a whole vector of frames.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use nat::Time;

use crate::config::{self, Conduct, PortId};
use crate::drop::DropReason;
use crate::fault::Misfortune;
use crate::frame::Frame;
use crate::limit::Limiter;

/// Bytes that may be held of one direction of one port, for whatever reason; see [`HOLDING`].
const MAX_HELD: usize = 16 << 20;
/// What holding a frame takes besides its own bytes.
const HOLDING: usize = 128;

/// See the module's description.
#[derive(Debug)]
pub(crate) struct Treatment {
    config: config::Treatment,
    /// What comes in by the port.
    pub(crate) from: Arc<Way>,
    /// What leaves by it.
    pub(crate) to: Arc<Way>,
}

/// One direction of a port.
#[derive(Debug)]
pub(crate) struct Way {
    cut_off: bool,
    limiter: Limiter,
    misfortune: Misfortune,
    /// Bytes that are held, those of every worker.
    held: AtomicUsize,
}

/// When a frame goes on, and how often.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fate {
    pub(crate) at: Time,
    pub(crate) twice: bool,
}

impl Treatment {
    /// What `config` says. What was there `before` goes on if it said the same: its clocks, and its
    /// luck.
    pub(crate) fn new(
        config: config::Treatment,
        before: Option<&Arc<Treatment>>,
    ) -> Arc<Treatment> {
        if let Some(before) = before.filter(|before| before.config == config) {
            return Arc::clone(before);
        }
        let way = |conduct: &Conduct| {
            Arc::new(Way {
                cut_off: config.cut_off,
                limiter: Limiter::new(&conduct.limit),
                misfortune: Misfortune::new(&conduct.fault),
                held: AtomicUsize::new(0),
            })
        };
        Arc::new(Treatment {
            from: way(&config.from),
            to: way(&config.to),
            config,
        })
    }

    /// The ports that nothing goes to from here.
    pub(crate) fn parted_from(&self) -> &[PortId] {
        &self.config.parted_from
    }
}

impl Way {
    pub(crate) fn decide(&self, now: Time, frame: &Frame) -> Result<Fate, DropReason> {
        if self.cut_off {
            return Err(DropReason::Partitioned);
        }
        let leaves = self.limiter.admit(now, frame);
        let leaves = leaves.ok_or(DropReason::RateLimited)?;
        if self.misfortune.loses() {
            return Err(DropReason::FaultLoss);
        }
        Ok(Fate {
            at: self.misfortune.arrival(leaves),
            twice: self.misfortune.duplicates(),
        })
    }

    /// Until when every frame is refused by the limit; none if it has room now.
    pub(crate) fn closed_until(&self, now: Time) -> Option<Time> {
        self.limiter.closed_until(now)
    }

    /// Counts a frame that is to be held, if there is room for it.
    pub(crate) fn hold(&self, frame: &Frame) -> Result<(), DropReason> {
        let more = frame.len() + HOLDING;
        if self.held.fetch_add(more, Ordering::Relaxed) + more > MAX_HELD {
            self.held.fetch_sub(more, Ordering::Relaxed);
            return Err(DropReason::DelayFull);
        }
        Ok(())
    }

    /// The same frame is held no longer.
    pub(crate) fn release(&self, frame: &Frame) {
        self.held
            .fetch_sub(frame.len() + HOLDING, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests;
