//! What a thread remembers of a lane, so as to look where frames are likely.

use crate::config::PortId;
use crate::worker::VECTOR;

/// Looks in vain after which a lane is looked at only now and then.
const QUIET: u32 = 64;
/// How seldom that is; and how seldom a lane's poller is asked while frames come where they did.
pub(super) const NOW_AND_THEN: usize = 8;

/// Ports that are read without asking whether they have anything: both ends of a conversation. The
/// question costs half a microsecond, which is nothing among many frames, and much in a
/// conversation of one frame at a time: whoever waits for the answer meanwhile falls asleep.
const EXPECTED: usize = 2;

/// See the module's description.
#[derive(Clone, Default)]
pub(super) struct Watch {
    /// Looks so far.
    looks: u32,
    /// The look at which each port had frames last.
    seen: Vec<u32>,
    /// Looks since frames last came.
    in_vain: u32,
    /// Whether the last look found more than a conversation has under way.
    many: bool,
    /// Tokens of the ports where frames are expected, those found last first.
    expected: Vec<u64>,
}

impl Watch {
    /// Begins a look.
    pub(super) fn look(&mut self) {
        self.looks = self.looks.wrapping_add(1);
    }

    /// Whether frames have not come for long.
    pub(super) fn is_quiet(&self) -> bool {
        self.in_vain >= QUIET
    }

    /// Replaces `ready` by where frames are expected, if it is known and not time to ask again.
    pub(super) fn guess(&self, ready: &mut Vec<u64>) -> bool {
        let guesses = !self.expected.is_empty()
            && !self.many
            && !self.looks.is_multiple_of(NOW_AND_THEN as u32);
        if guesses {
            ready.clone_from(&self.expected);
        }
        guesses
    }

    /// Takes note of what was found ready by asking.
    pub(super) fn learn(&mut self, ready: &[u64]) {
        if ready.len() > EXPECTED {
            self.expected.clear();
            return;
        }
        for &token in ready {
            self.expected.retain(|&known| known != token);
            self.expected.insert(0, token);
        }
        self.expected.truncate(EXPECTED);
    }

    /// How many frames to read of a port. A read in vain costs as much as two questions, and of a
    /// conversation one frame comes at a time: so one, unless the port had some at the look before
    /// too.
    pub(super) fn appetite(&self, port: PortId) -> usize {
        let seen = self.seen.get(port.0 as usize);
        match seen.is_some_and(|&seen| self.looks.wrapping_sub(seen) == 1) {
            true => VECTOR,
            false => 1,
        }
    }

    /// A port had frames.
    pub(super) fn saw(&mut self, port: PortId) {
        let port = port.0 as usize;
        if self.seen.len() <= port {
            self.seen.resize(port + 1, self.looks.wrapping_sub(2));
        }
        self.seen[port] = self.looks;
    }

    /// Ends a look, which found so many frames.
    pub(super) fn found(&mut self, frames: usize) {
        self.many = frames > EXPECTED;
        if frames > 0 {
            self.in_vain = 0;
            return;
        }
        self.in_vain = self.in_vain.saturating_add(1);
        if self.is_quiet() {
            self.expected.clear();
        }
    }
}
