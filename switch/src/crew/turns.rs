//! Whose turn it is: the time of a lane's worker, shared out among the ports that it serves.
//!
//! Frames differ in cost by a factor of thousands: a datagram of a known flow takes 2 µs, one that
//! opens a flow 10, one that goes to a hundred ports 150, and one whose receiver runs long socket
//! filters inside the worker's own write(2) a millisecond. So what is shared out is time, as it was
//! measured, and it is charged to the port that the frames came in by:
//!
//! - A turn is so many frames as have taken [`TURN`] lately. What a turn takes longer is a debt, for
//!   which later turns are skipped (deficit round robin).
//! - A port is *hungry* when turn after turn leaves it with frames that wait, and *dear* when its
//!   frames cost more than frames of their size do. All others are *light*: they are served at
//!   each look, before they have waited for more than a turn.
//! - While light ports carry something of their own, a hungry or dear port is held back: its turns
//!   are [`SHORT_TURN`], and after each it is not read for a multiple of that time. Meanwhile it
//!   gets the time that a thread would spend looking for frames in vain. Its own queue overflows,
//!   at the cost of its own kernel. The rest is shorter for large frames ([`Account::rest_factor`]):
//!   a bulk transfer is as hungry as a flood.
//!
//! Ports of a conversation with a hungry port do not hold it back: the acknowledgements of a bulk
//! transfer are as light as anything.
//!
//! All of it is arithmetic on times that are handed in.

use std::sync::Arc;
use std::time::Duration;

use nat::Time;
use parking_lot::Mutex;

use crate::config::PortId;
use crate::worker::VECTOR;

/// How long a turn is to take.
const TURN: u64 = 100_000;
/// The same of a port that is held back: about the time that a round trip between two containers
/// leaves the worker without frames.
const SHORT_TURN: u64 = 5_000;
/// How many times as long as its turn a port with small frames then rests: it gets a sixteenth of
/// the time. A port with full frames gets a quarter, and one with super-frames half: as many bytes
/// are carried in so few turns that a conversation beside them waits for few.
const REST: u64 = 15;
const REST_OF_FULL: u64 = 3;
const REST_OF_SUPER: u64 = 1;
/// Bytes of a frame that is full, and of one that is larger than any MTU without jumbo frames.
const FULL: u64 = 1000;
const SUPER: u64 = 4000;
const LONGEST_REST: u64 = 50_000_000;
/// A port is hungry when it was served for so long without being empty once.
const HUNGRY_AFTER: u64 = 300_000;
/// A frame is dear that takes longer than this, and so much longer for each byte: a super-frame of
/// 64 KiB takes up to 80 µs, most of it spent on copying it twice.
const DEAR: u64 = 60_000;
const DEAR_BYTE: u64 = 2;
/// How long after its last frames a light port still holds hungry ones back: longer than a client
/// takes to open its next connection.
const MEMORY: Duration = Duration::from_millis(2);
/// How often it is noted that a port had frames.
const NOTE: Duration = Duration::from_micros(400);
/// Light ports remembered at a time. Two make a conversation.
const LIGHT: usize = 8;

/// What a port got and asked for lately. Times are in nanoseconds.
#[derive(Clone, Debug, Default)]
struct Account {
    /// What a frame takes, a moving average, and how many bytes it has.
    cost: u64,
    bytes: u64,
    /// The same in time of the CPU, while [`Turns::is_suspect`].
    cpu_cost: u64,
    /// What past turns took too long.
    debt: u64,
    /// Time taken since nothing waited.
    taken: u64,
    hungry: bool,
    /// The look of its last turn.
    look: u32,
    rest: Option<Time>,
    /// When it was last noted as light, and with which peer.
    noted: Option<(Time, PortId)>,
}

/// The light ports that had frames lately, of all lanes: a thread that serves several has one CPU
/// for them all.
#[derive(Debug, Default)]
pub(super) struct Light {
    seen: Mutex<Vec<Sighting>>,
}

/// A light port that had frames, and one it sent some to.
#[derive(Clone, Copy, Debug)]
struct Sighting {
    port: PortId,
    peer: PortId,
    at: Time,
}

/// See the module's description.
#[derive(Debug, Default)]
pub(super) struct Turns {
    light: Arc<Light>,
    look: u32,
    accounts: Vec<Account>,
    /// Ports that are not read until a time.
    resting: Vec<PortId>,
}

/// What a turn came to.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Turn<'a> {
    pub(super) asked: usize,
    pub(super) frames: usize,
    pub(super) bytes: usize,
    pub(super) took: Duration,
    /// Time of the CPU, if it was measured.
    pub(super) cpu: Option<Duration>,
    /// The ports that frames left by.
    pub(super) peers: &'a [PortId],
    /// A port that many share, such as an uplink, is never held back.
    pub(super) shared: bool,
}

impl Turns {
    pub(super) fn new(light: Arc<Light>) -> Turns {
        Turns {
            light,
            ..Turns::default()
        }
    }

    /// Begins a look at all ports.
    pub(super) fn look(&mut self) {
        self.look = self.look.wrapping_add(1);
    }

    /// How many frames `port` may have read now, of so many wanted; none if it is not its turn.
    /// `alone`: no other port has frames.
    pub(super) fn grant(&mut self, now: Time, port: PortId, wanted: usize, alone: bool) -> usize {
        let held_back = self.is_held_back(now, port);
        let account = self.account(port);
        if account.rest.is_some_and(|until| now < until) {
            return 0;
        }
        if account.debt > 0 && !alone {
            account.debt = account.debt.saturating_sub(TURN);
            return 0;
        }
        account.debt = 0;
        let turn = if held_back { SHORT_TURN } else { TURN };
        // One frame of one says nothing about whether more wait.
        let probe = account.hungry && account.cost <= 2 * TURN;
        let least = if probe { 2 } else { 1 };
        account.frames_in(turn).min(wanted).max(least)
    }

    /// Whether the time that a turn of `port` takes is to be measured by the CPU's clock as well:
    /// a thread that lost its CPU to others in the middle of a turn seems to have had dear frames.
    pub(super) fn is_suspect(&self, port: PortId) -> bool {
        let account = self.accounts.get(port.0 as usize);
        account.is_some_and(|account| account.is_dear(account.cost))
    }

    /// Charges a turn. Returns until when the port is not to be read, if it is held back.
    pub(super) fn charge(&mut self, now: Time, port: PortId, turn: &Turn<'_>) -> Option<Time> {
        let look = self.look;
        let account = self.account(port);
        if look.wrapping_sub(account.look) > 1 && !account.hungry {
            // Nothing waited at the look in between.
            account.taken = 0;
        }
        account.look = look;
        let took = account.measure(turn);
        account.debt = took.saturating_sub(TURN);
        if turn.frames < turn.asked {
            account.taken = 0;
            account.hungry = false;
        } else {
            account.taken += took;
            let hungry = account.taken >= HUNGRY_AFTER && !turn.shared;
            if hungry && !account.hungry {
                account.hungry = true;
                account.noted = None;
                self.light.forget(port);
            }
        }
        let account = self.account(port);
        let dear = account.dear();
        let heavy = account.hungry || dear;
        if !heavy && turn.frames > 0 {
            self.sight(now, port, turn.peers);
            return None;
        }
        // As it was before the turn: a long one is no reason to forget the others.
        let before = now.as_nanos().saturating_sub(turn.took.as_nanos() as u64);
        let others = || self.light.is_with_others(Time::from_nanos(before), port);
        if !heavy || turn.shared || turn.frames == 0 || !others() {
            return None;
        }
        let rest = took * self.account(port).rest_factor();
        let until = now + Duration::from_nanos(rest.min(LONGEST_REST));
        Some(self.rest(port, until))
    }

    /// Does not read a port until a time, or as long as it rests already.
    pub(super) fn rest(&mut self, port: PortId, until: Time) -> Time {
        let account = self.account(port);
        let new = account.rest.is_none();
        let until = account.rest.map_or(until, |before| before.max(until));
        account.rest = Some(until);
        if new {
            self.resting.push(port);
        }
        until
    }

    /// When the first rest ends.
    pub(super) fn due(&self) -> Option<Time> {
        let rests = self.resting.iter();
        rests
            .filter_map(|port| self.accounts[port.0 as usize].rest)
            .min()
    }

    /// A port whose rest is over by now, or all of whose are if nothing holds it back any more.
    pub(super) fn rested(&mut self, now: Time) -> Option<PortId> {
        let over = |port: &PortId| {
            let rest = self.accounts[port.0 as usize].rest;
            rest.is_none_or(|until| until <= now)
        };
        let place = self.resting.iter().position(over)?;
        let port = self.resting.swap_remove(place);
        self.accounts[port.0 as usize].rest = None;
        Some(port)
    }

    /// A hungry port that may have a short turn in the middle of its rest, since the thread has
    /// nothing else to do, and how many frames that is.
    pub(super) fn meanwhile(&self) -> Option<(PortId, usize)> {
        let hungry = self.resting.iter().copied().filter_map(|port| {
            let account = &self.accounts[port.0 as usize];
            // Of super-frames one at a time: a conversation waits for no more than that.
            let bulk = account.bytes >= SUPER && account.cost <= TURN && !account.dear();
            let fits = account.hungry && (account.cost <= SHORT_TURN || bulk);
            fits.then(|| (port, account.frames_in(SHORT_TURN)))
        });
        // Each in its turn.
        let count = hungry.clone().count();
        hungry
            .clone()
            .nth((self.look as usize).checked_rem(count).unwrap_or(0))
    }

    /// Charges a turn in the middle of a rest, which goes on unless nothing waits any more.
    pub(super) fn charge_meanwhile(&mut self, port: PortId, turn: &Turn<'_>) {
        let account = self.account(port);
        account.measure(turn);
        if turn.frames < turn.asked {
            account.taken = 0;
            account.hungry = false;
            account.rest = None;
        }
    }

    fn is_held_back(&self, now: Time, port: PortId) -> bool {
        let account = self.accounts.get(port.0 as usize);
        account.is_some_and(|account| account.hungry || account.dear())
            && self.light.is_with_others(now, port)
    }

    /// Notes that a light port had frames, unless all were for hungry ones.
    fn sight(&mut self, now: Time, port: PortId, peers: &[PortId]) {
        let hungry = |peer: &&PortId| {
            let account = self.accounts.get(peer.0 as usize);
            account.is_some_and(|account| account.hungry)
        };
        let Some(&peer) = peers.iter().find(|peer| !hungry(peer)) else {
            return;
        };
        let account = self.account(port);
        let known = account.noted;
        if known.is_none_or(|(at, with)| with != peer || now - at >= NOTE) {
            account.noted = Some((now, peer));
            self.light.note(Sighting {
                port,
                peer,
                at: now,
            });
        }
    }

    fn account(&mut self, port: PortId) -> &mut Account {
        let place = port.0 as usize;
        if self.accounts.len() <= place {
            self.accounts.resize(place + 1, Account::default());
        }
        &mut self.accounts[place]
    }
}

impl Light {
    /// Whether light ports have frames of their own, none of which are for `port`.
    fn is_with_others(&self, now: Time, port: PortId) -> bool {
        let other =
            |seen: &Sighting| now - seen.at < MEMORY && seen.port != port && seen.peer != port;
        self.seen.lock().iter().any(other)
    }

    fn note(&self, sighting: Sighting) {
        let mut seen = self.seen.lock();
        let known = seen.iter().position(|known| known.port == sighting.port);
        if known.is_none() && seen.len() < LIGHT {
            seen.push(sighting);
            return;
        }
        let oldest = || (0..seen.len()).min_by_key(|&place| seen[place].at);
        if let Some(place) = known.or_else(oldest) {
            seen[place] = sighting;
        }
    }

    /// A port is light no more, and neither is what others have to say to it.
    fn forget(&self, port: PortId) {
        self.seen
            .lock()
            .retain(|seen| seen.port != port && seen.peer != port);
    }
}

impl Account {
    /// How many frames fit into a time; one at least.
    fn frames_in(&self, time: u64) -> usize {
        let frames = time.checked_div(self.cost).unwrap_or(VECTOR as u64);
        frames.clamp(1, VECTOR as u64) as usize
    }

    /// Takes note of what a turn took, and returns it, without the time for which others had the
    /// CPU as far as is known.
    fn measure(&mut self, turn: &Turn<'_>) -> u64 {
        let nanoseconds = |time: Duration| time.as_nanos() as u64;
        let took = nanoseconds(turn.took);
        let frames = turn.frames as u64;
        if frames == 0 {
            return took;
        }
        // One turn that takes a multiple of those before says little.
        let clamp = |sample: u64, known: u64| sample.min(4 * known + TURN / 8);
        let average = |known: u64, sample: u64| (7 * known + clamp(sample, known)) / 8;
        let usual = frames * clamp(took / frames, self.cost);
        self.cost = average(self.cost, took / frames);
        self.bytes = (7 * self.bytes + turn.bytes as u64 / frames) / 8;
        if let Some(cpu) = turn.cpu {
            self.cpu_cost = average(self.cpu_cost, nanoseconds(cpu) / frames);
            return took.min(nanoseconds(cpu));
        }
        if !self.is_dear(self.cost) {
            self.cpu_cost = 0;
        }
        took.min(usual)
    }

    /// How many times as long as its turn it rests when it is held back.
    fn rest_factor(&self) -> u64 {
        match self.bytes {
            _ if self.dear() => REST,
            0..FULL => REST,
            FULL..SUPER => REST_OF_FULL,
            SUPER.. => REST_OF_SUPER,
        }
    }

    fn is_dear(&self, cost: u64) -> bool {
        cost > DEAR + DEAR_BYTE * self.bytes
    }

    /// Whether its frames cost more than those of their size do, by either clock.
    fn dear(&self) -> bool {
        self.is_dear(self.cost) && self.is_dear(self.cpu_cost)
    }
}

#[cfg(test)]
mod tests;
