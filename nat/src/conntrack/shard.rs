//! A part of the connection table.

use hashbrown::HashMap;

use super::index::Index;
use super::strangers::{Admission, Strangers};
use super::{Connection, Direction, Key, Kind, Traffic};
use crate::nat::Origin;
use crate::time::Time;
use crate::tuple::{Protocol, Tuple, TupleHash};

/// Slots that one sweep looks at, at least.
pub(super) const SWEEP: usize = 256;

/// Slots of one piece of memory, a power of two: 64 KiB.
const PIECE: usize = 512;

/// Connections in slots, which do not move, and an index with both tuples of each.
#[derive(Default)]
pub(crate) struct Shard {
    /// In pieces, all full but the last: one growing vector would be moved as it grows, and would
    /// hold memory for what may never come.
    slots: Vec<Vec<Option<Connection>>>,
    /// Empty slots.
    vacant: Vec<u32>,
    /// Slot × 2 + direction.
    index: Index,
    /// By the id of a publish rule, what those of its connections carried that have ended.
    ended: HashMap<u32, Traffic>,
    /// By slot, of those few that have one.
    origins: HashMap<u32, Origin>,
    /// By the id of a publish rule, who is opening a TCP connection to it from outside.
    strangers: HashMap<u32, Strangers>,
    /// Where the next sweep begins.
    sweep_at: usize,
    /// Where the next sample begins.
    sample_at: usize,
    journal: Journal,
}

/// Slots whose changes are noted for [`Shard::store`], at most; those beyond are found by its
/// round.
const NOTED: usize = 1024;

/// Which connections have been stored, and which have to be looked at for it.
#[derive(Default)]
struct Journal {
    /// Nobody stores what is noted before the first call.
    active: bool,
    /// Opened or ended since the last call.
    touched: Vec<u32>,
    /// Half open at the last call.
    opening: Vec<u32>,
    /// By slot, whether there is a record of it: 64 a word.
    stored: Vec<u64>,
    /// Where the next part of the round begins.
    at: usize,
}

impl Journal {
    fn touch(&mut self, slot: u32) {
        if self.active && self.touched.len() < NOTED {
            self.touched.push(slot);
        }
    }

    /// Notes whether there is a record of a slot, and returns whether there was one.
    fn set_stored(&mut self, slot: u32, stored: bool) -> bool {
        let (word, bit) = (slot as usize / 64, 1 << (slot % 64));
        if word >= self.stored.len() {
            self.stored.resize(word + 1, 0);
        }
        let before = self.stored[word] & bit != 0;
        if stored {
            self.stored[word] |= bit;
        } else {
            self.stored[word] &= !bit;
        }
        before
    }
}

impl Shard {
    /// The slot of the connection that this tuple belongs to, and which way it goes.
    pub(crate) fn find(&self, hash: u64, tuple: &Tuple) -> Option<(u32, Direction)> {
        let key = Key::new(tuple);
        let entry = self.index.find(hash, |entry| {
            let (slot, direction) = split(entry);
            slot_of(&self.slots, slot).is_some_and(|connection| connection.has(direction, &key))
        })?;
        Some(split(entry))
    }

    /// The first step of a lookup ahead of its time: reads where it begins.
    #[inline]
    pub(crate) fn touch(&self, hash: u64) -> u32 {
        self.index.touch(hash)
    }

    /// The second step: reads both cache lines of the connection that is likely meant.
    #[inline]
    pub(crate) fn touch_connection(&self, hash: u64) -> Option<(Protocol, u64)> {
        let (slot, _) = split(self.index.first(hash)?);
        let connection = slot_of(&self.slots, slot)?;
        Some((connection.protocol, connection.bytes[0]))
    }

    pub(crate) fn get(&self, slot: u32) -> Option<&Connection> {
        slot_of(&self.slots, slot)
    }

    pub(crate) fn get_mut(&mut self, slot: u32) -> Option<&mut Connection> {
        self.slot_mut(slot)?.as_mut()
    }

    fn slot_mut(&mut self, slot: u32) -> Option<&mut Option<Connection>> {
        let slot = slot as usize;
        self.slots.get_mut(slot / PIECE)?.get_mut(slot % PIECE)
    }

    /// Slots, empty ones included.
    pub(super) fn capacity(&self) -> usize {
        let full = self.slots.len().saturating_sub(1) * PIECE;
        full + self.slots.last().map_or(0, Vec::len)
    }

    /// Adds a connection, neither of whose tuples is in the shard. None when all slot numbers are
    /// taken.
    pub(crate) fn insert(&mut self, connection: Connection, hash: &TupleHash) -> Option<u32> {
        let slot = match self.vacant.pop() {
            Some(slot) => slot,
            None => {
                // An index entry has 31 bits for the slot.
                let slot = u32::try_from(self.capacity())
                    .ok()
                    .filter(|slot| slot >> 31 == 0)?;
                match self.slots.last_mut().filter(|piece| piece.len() < PIECE) {
                    Some(piece) => piece.push(None),
                    None => {
                        let mut piece = Vec::with_capacity(PIECE);
                        piece.push(None);
                        self.slots.push(piece);
                    }
                }
                slot
            }
        };
        let hashes = [
            hash.tuple(&connection.original()),
            hash.tuple(&connection.reply()),
        ];
        *self.slot_mut(slot)? = Some(connection);
        self.journal.touch(slot);
        let slots = &self.slots;
        for (direction, value) in [(0, hashes[0]), (1, hashes[1])] {
            self.index.insert(value, slot << 1 | direction, |entry| {
                let (slot, direction) = split(entry);
                slot_of(slots, slot)
                    .map_or(0, |connection| hash.tuple(&connection.tuple(direction)))
            });
        }
        Some(slot)
    }

    /// Takes a connection out.
    pub(crate) fn remove(&mut self, slot: u32, hash: &TupleHash) -> Option<Connection> {
        let connection = self.slot_mut(slot)?.take()?;
        for (direction, tuple) in [(0, connection.original()), (1, connection.reply())] {
            self.index.remove(hash.tuple(&tuple), slot << 1 | direction);
        }
        self.vacant.push(slot);
        self.set_origin(slot, None);
        self.journal.touch(slot);
        self.remember(&connection);
        Some(connection)
    }

    /// A new connection of the same addresses and ports takes the place of one that is over.
    pub(crate) fn reopen(&mut self, slot: u32) {
        let Some(Some(connection)) = self.slot_mut(slot) else {
            return;
        };
        let over = connection.clone();
        connection.reopen();
        self.remember(&over);
    }

    pub(crate) fn origin(&self, slot: u32) -> Option<Origin> {
        self.origins.get(&slot).copied()
    }

    pub(crate) fn set_origin(&mut self, slot: u32, origin: Option<Origin>) {
        match origin {
            Some(origin) => {
                self.origins.insert(slot, origin);
            }
            None if self.origins.is_empty() => {}
            None => {
                self.origins.remove(&slot);
            }
        }
    }

    fn remember(&mut self, over: &Connection) {
        if let Kind::Publish(id) | Kind::Hairpin(id) = over.kind() {
            self.ended.entry(id).or_default().add(over);
        }
    }

    /// Adds what the connections of publish rules have carried so far, by the rule's id.
    pub(crate) fn add_traffic(&self, now: Time, traffic: &mut HashMap<u32, Traffic>) {
        for (id, ended) in &self.ended {
            *traffic.entry(*id).or_default() += *ended;
        }
        for (_, connection) in self.iter() {
            if let Kind::Publish(id) | Kind::Hairpin(id) = connection.kind() {
                let traffic = traffic.entry(id).or_default();
                traffic.add(connection);
                traffic.active += u64::from(!connection.is_expired(now));
            }
        }
    }

    /// Forgets what was carried by rules that are no more.
    pub(crate) fn retain_traffic(&mut self, keep: impl Fn(u32) -> bool) {
        self.ended.retain(|id, _| keep(*id));
        self.strangers.retain(|id, _| keep(*id));
    }

    /// Whether one more stranger may open a TCP connection by a publish rule.
    pub(crate) fn admit_stranger(&mut self, now: Time, id: u32) -> Admission {
        let slots = &self.slots;
        let is_half_open = |slot| {
            slot_of(slots, slot).is_some_and(|connection| {
                connection.kind() == Kind::Publish(id) && connection.is_half_open()
            })
        };
        let strangers = self.strangers.entry(id).or_default();
        strangers.admit(now, is_half_open)
    }

    /// One has opened the connection in this slot.
    pub(crate) fn add_stranger(&mut self, id: u32, slot: u32) {
        self.strangers.entry(id).or_default().add(slot);
    }

    /// Of the next `sample` slots, the connection with the highest score.
    pub(crate) fn worst<S: Ord>(
        &mut self,
        sample: usize,
        score: impl Fn(&Connection) -> Option<S>,
    ) -> Option<(S, u32)> {
        let capacity = self.capacity();
        let mut worst: Option<(S, u32)> = None;
        for _ in 0..sample.min(capacity) {
            self.sample_at = (self.sample_at + 1) % capacity;
            let slot = self.sample_at as u32;
            let Some(score) = self.get(slot).and_then(&score) else {
                continue;
            };
            if worst.as_ref().is_none_or(|(highest, _)| score > *highest) {
                worst = Some((score, slot));
            }
        }
        worst
    }

    /// The expired connections among the next part of the slots: a sixteenth, and at least
    /// [`SWEEP`].
    pub(crate) fn sweep(&mut self, now: Time) -> Vec<u32> {
        let capacity = self.capacity();
        let mut expired = Vec::new();
        for _ in 0..(capacity / 16).max(SWEEP).min(capacity) {
            self.sweep_at = (self.sweep_at + 1) % capacity;
            let slot = self.sweep_at as u32;
            let connection = self.get(slot);
            if connection.is_some_and(|connection| connection.is_expired(now)) {
                expired.push(slot);
            }
        }
        expired
    }

    /// Tells `put` of the slots whose record has to change: of those noted since the last call, and
    /// of the next part of all, a `part`th of them. None is an empty place. A connection is stored
    /// once it is established, so its opening costs nothing but a note, and its packets nothing at
    /// all.
    pub(crate) fn store(
        &mut self,
        now: Time,
        part: usize,
        mut put: impl FnMut(u32, Option<&Connection>),
    ) {
        let capacity = self.capacity();
        let Shard { slots, journal, .. } = self;
        journal.active = true;
        let mut look = |journal: &mut Journal, slot: u32| {
            let connection = slot_of(slots, slot);
            let storable = connection.filter(|connection| connection.is_storable(now));
            let had = journal.set_stored(slot, storable.is_some());
            if had || storable.is_some() {
                put(slot, storable);
            }
            connection.is_some_and(|it| it.is_half_open() && !it.is_expired(now))
        };
        for slot in std::mem::take(&mut journal.opening) {
            look(journal, slot);
        }
        let mut touched = std::mem::take(&mut journal.touched);
        touched.retain(|&slot| look(journal, slot));
        journal.opening = touched;
        for _ in 0..capacity.div_ceil(part.max(1)) {
            journal.at = (journal.at + 1) % capacity;
            let slot = journal.at as u32;
            look(journal, slot);
        }
    }

    /// Every connection with its slot.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &Connection)> {
        (0..)
            .zip(self.slots.iter().flatten())
            .filter_map(|(slot, connection)| Some((slot, connection.as_ref()?)))
    }
}

fn split(entry: u32) -> (u32, Direction) {
    let direction = if entry & 1 == 0 {
        Direction::Original
    } else {
        Direction::Reply
    };
    (entry >> 1, direction)
}

fn slot_of(slots: &[Vec<Option<Connection>>], slot: u32) -> Option<&Connection> {
    let slot = slot as usize;
    slots.get(slot / PIECE)?.get(slot % PIECE)?.as_ref()
}
