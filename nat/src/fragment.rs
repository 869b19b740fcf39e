//! Fragments of IP packets: what is known of the datagrams whose pieces are passing by.
//!
//! Only the first fragment has ports, so it decides for its datagram. Nothing is put together here:
//! the first one is translated as a packet of its flow, and leaves in a [`Datagram`] what the others
//! need, which is two addresses and an identification. What comes before the first one is held, as
//! a copy, and handed back behind it (RFC 4787 REQ-14: in any order).
//!
//! Attacks on reassembly live on overlaps, so ranges are tracked. A fragment that overlaps another
//! ends its datagram: what is held and what comes later is dropped, and as the receiver misses
//! pieces it never completes what went ahead (RFC 5722 section 4). One that brings nothing new is
//! dropped alone, for networks do duplicate packets (RFC 8200 section 4.5 allows it, Linux does it).
//!
//! All is bounded: datagrams, bytes held, bytes held of one source, ranges of one datagram, time.
//! A table that is full forgets the oldest, which is the one least likely to be completed.

use std::collections::VecDeque;
use std::net::IpAddr;

use hashbrown::HashMap;

use crate::limits::Limits;
use crate::nat::{Path, Translated};
use crate::packet::{Packet, Piece};
use crate::refused::Refused;
use crate::time::Time;
use crate::tuple::{Protocol, Tuple};

/// What a held fragment is counted with beyond its bytes, so that many small ones are not free.
const HELD_OVERHEAD: usize = 64;

/// Separate ranges of one datagram. The 119 fragments that a whole datagram is at an MTU of 576
/// make 60 when every other one comes first.
const MAX_RANGES: usize = 64;

/// What makes fragments pieces of one datagram (RFC 791 section 3.2, RFC 8200 section 4.5), as they
/// are before translation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    way: Way,
    src: IpAddr,
    dst: IpAddr,
    identification: u32,
    /// Of IPv4 only: fragments of IPv6 may differ in it, and only the first one's counts.
    protocol: Option<Protocol>,
}

impl Key {
    pub(crate) fn new(path: Path, packet: &Packet<'_>, piece: &Piece) -> Key {
        Key {
            way: match path {
                Path::Outbound { .. } => Way::Outbound,
                Path::Inbound => Way::Inbound,
                Path::Hairpin => Way::Hairpin,
            },
            src: packet.src(),
            dst: packet.dst(),
            identification: piece.identification,
            protocol: packet.is_ipv4().then_some(packet.protocol()),
        }
    }
}

/// The path, without what may change between two fragments.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Way {
    Outbound,
    Inbound,
    Hairpin,
}

/// What the first fragment was turned into, for the others to follow.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Lead {
    /// Its tuple as it came, if it has one.
    pub(crate) tuple: Option<Tuple>,
    pub(crate) translated: Translated,
    pub(crate) src: IpAddr,
    pub(crate) dst: IpAddr,
    /// None when the addresses did not change either.
    pub(crate) identification: Option<u32>,
}

impl Lead {
    /// Gives a fragment the addresses and the identification of the first one.
    pub(crate) fn apply(&self, packet: &mut Packet<'_>) -> Translated {
        packet.set_addresses(self.src, self.dst);
        if let Some(identification) = self.identification {
            packet.set_identification(identification);
        }
        Translated {
            new: false,
            ..self.translated
        }
    }
}

/// What to do with a fragment that fits.
#[derive(Debug)]
pub(crate) enum Place {
    /// It is the first one: decide, and say so by [`Fragments::decide`].
    First,
    /// It came before the first one, and a copy of it is held.
    Held,
    /// The first one has been translated.
    Behind(Lead),
}

#[derive(Debug)]
struct Datagram {
    started: Time,
    /// What became of the first fragment.
    decided: Option<Result<Lead, Refused>>,
    ranges: Ranges,
    /// Where the datagram ends, once its last fragment was seen.
    end: Option<u32>,
    held: Vec<Box<[u8]>>,
}

impl Datagram {
    fn new(started: Time) -> Datagram {
        Datagram {
            started,
            decided: None,
            ranges: Ranges::default(),
            end: None,
            held: Vec::new(),
        }
    }

    /// Takes note of a piece.
    fn place(&mut self, piece: &Piece) -> Result<(), Refused> {
        let end = piece.offset + piece.length;
        let fits_end = match (self.end, piece.more) {
            (Some(known), true) => end < known,
            (Some(known), false) => end == known,
            (None, true) => true,
            (None, false) => self.ranges.end() <= end,
        };
        if !fits_end {
            return Err(Refused::FragmentOverlap);
        }
        self.ranges.insert(piece.offset, end)?;
        if !piece.more {
            self.end = Some(end);
        }
        Ok(())
    }

    fn is_complete(&self) -> bool {
        self.end
            .is_some_and(|end| self.ranges.0.as_slice() == [(0, end)])
    }
}

/// Ranges of bytes, in order and apart: neighbours that touch are one.
#[derive(Debug, Default)]
struct Ranges(Vec<(u32, u32)>);

impl Ranges {
    fn end(&self) -> u32 {
        self.0.last().map_or(0, |&(_, end)| end)
    }

    fn insert(&mut self, start: u32, end: u32) -> Result<(), Refused> {
        let at = self.0.partition_point(|&(_, other)| other <= start);
        let follows = at > 0 && self.0[at - 1].1 == start;
        let next = self.0.get(at).copied();
        if let Some((other_start, other_end)) = next
            && other_start < end
        {
            return Err(if other_start <= start && end <= other_end {
                Refused::FragmentDuplicate
            } else {
                Refused::FragmentOverlap
            });
        }
        let precedes = next.is_some_and(|(other_start, _)| other_start == end);
        match (follows, precedes) {
            (true, true) => {
                self.0[at - 1].1 = self.0[at].1;
                self.0.remove(at);
            }
            (true, false) => self.0[at - 1].1 = end,
            (false, true) => self.0[at].0 = start,
            (false, false) if self.0.len() >= MAX_RANGES => return Err(Refused::FragmentLimit),
            (false, false) => self.0.insert(at, (start, end)),
        }
        Ok(())
    }
}

/// See the module's description.
pub(crate) struct Fragments {
    datagrams: HashMap<Key, Datagram>,
    /// The datagrams by age, with some that are complete and gone.
    by_age: VecDeque<(Time, Key)>,
    /// Bytes held in all, and of each source.
    held: usize,
    held_of: HashMap<IpAddr, usize>,
    /// Held fragments that were dropped since this was last asked for.
    lost: usize,
    identifications: Identifications,
}

impl Fragments {
    pub(crate) fn new(seed: u64) -> Fragments {
        Fragments {
            datagrams: HashMap::new(),
            by_age: VecDeque::new(),
            held: 0,
            held_of: HashMap::new(),
            lost: 0,
            identifications: Identifications {
                secret: seed,
                count: 0,
            },
        }
    }

    /// Takes note of a fragment, and holds a copy if its datagram's first one has not come yet.
    pub(crate) fn place(
        &mut self,
        now: Time,
        limits: &Limits,
        key: Key,
        piece: &Piece,
        packet: &Packet<'_>,
    ) -> Result<Place, Refused> {
        if !piece.is_valid() {
            return Err(Refused::FragmentInvalid);
        }
        if limits.max_fragmented == 0 {
            return Err(Refused::Fragment);
        }
        self.expire(now, limits);
        let bytes = packet.as_bytes();
        let known = self.datagrams.get(&key);
        let is_known = known.is_some();
        let is_first = piece.offset == 0;
        let holds = !is_first && known.is_none_or(|datagram| datagram.decided.is_none());
        let cost = if holds {
            bytes.len() + HELD_OVERHEAD
        } else {
            0
        };
        if holds {
            let held = self.held_of.get(&key.src).copied().unwrap_or(0);
            if held + cost > limits.max_fragment_bytes_per_source {
                return Err(Refused::FragmentLimit);
            }
        }
        if holds || !is_known {
            self.make_room(limits, !is_known, cost);
        }
        let by_age = &mut self.by_age;
        let datagram = self.datagrams.entry(key).or_insert_with(|| {
            by_age.push_back((now, key));
            Datagram::new(now)
        });
        if let Some(Err(Refused::FragmentOverlap)) = datagram.decided {
            return Err(Refused::FragmentOverlap);
        }
        match datagram.place(piece) {
            Ok(()) => {}
            Err(Refused::FragmentOverlap) => {
                datagram.decided = Some(Err(Refused::FragmentOverlap));
                self.lost += self.take_held(&key).len();
                return Err(Refused::FragmentOverlap);
            }
            Err(refused) => return Err(refused),
        }
        if is_first {
            return Ok(Place::First);
        }
        let Some(decided) = datagram.decided else {
            datagram.held.push(bytes.into());
            self.held += cost;
            *self.held_of.entry(key.src).or_insert(0) += cost;
            return Ok(Place::Held);
        };
        // Its identification may be used again at once, and by a fast sender is.
        if datagram.is_complete() {
            self.datagrams.remove(&key);
        }
        decided.map(Place::Behind)
    }

    /// The tuple of a datagram's first fragment, once that was translated.
    pub(crate) fn tuple(&self, key: &Key) -> Option<Tuple> {
        match self.datagrams.get(key)?.decided {
            Some(Ok(lead)) => lead.tuple,
            _ => None,
        }
    }

    /// Says what became of the first fragment of a datagram, and returns the fragments that were
    /// held for it, oldest first. They are as if they had not come yet.
    pub(crate) fn decide(
        &mut self,
        key: Key,
        first: &Piece,
        decided: Result<Lead, Refused>,
    ) -> Vec<Box<[u8]>> {
        if let Some(datagram) = self.datagrams.get_mut(&key) {
            datagram.decided = Some(decided);
            datagram.ranges = Ranges(vec![(0, first.length)]);
        }
        self.take_held(&key)
    }

    /// An identification that no other datagram has had for long.
    pub(crate) fn fresh_identification(&mut self, is_ipv4: bool) -> u32 {
        self.identifications.next(if is_ipv4 { 16 } else { 32 })
    }

    /// Forgets datagrams whose time has passed.
    pub(crate) fn expire(&mut self, now: Time, limits: &Limits) {
        while let Some(&(started, key)) = self.by_age.front() {
            if now - started < limits.timeouts.fragment {
                break;
            }
            self.by_age.pop_front();
            self.forget(started, &key);
        }
        if self.by_age.len() > 2 * self.datagrams.len() + MAX_RANGES {
            let datagrams = &self.datagrams;
            self.by_age.retain(|(started, key)| {
                datagrams
                    .get(key)
                    .is_some_and(|datagram| datagram.started == *started)
            });
        }
    }

    /// Forgets datagrams from and to an address.
    pub(crate) fn forget_address(&mut self, address: IpAddr) {
        let touches = |key: &Key, datagram: &Datagram| {
            key.src == address
                || key.dst == address
                || matches!(datagram.decided, Some(Ok(lead)) if lead.dst == address)
        };
        let gone: Vec<(Time, Key)> = self
            .datagrams
            .iter()
            .filter(|(key, datagram)| touches(key, datagram))
            .map(|(key, datagram)| (datagram.started, *key))
            .collect();
        for (started, key) in gone {
            self.forget(started, &key);
        }
    }

    /// How many held fragments were dropped since the last call, because their first one did not
    /// come, because of an overlap, or for want of room.
    pub(crate) fn take_lost(&mut self) -> usize {
        std::mem::take(&mut self.lost)
    }

    /// Forgets the oldest datagrams until `cost` more bytes can be held, and one more datagram if
    /// `another`.
    fn make_room(&mut self, limits: &Limits, another: bool, cost: usize) {
        while (another && self.datagrams.len() >= limits.max_fragmented)
            || (cost > 0 && self.held + cost > limits.max_fragment_bytes)
        {
            let Some((started, key)) = self.by_age.pop_front() else {
                return;
            };
            self.forget(started, &key);
        }
    }

    /// Forgets the datagram of this age, unless it is gone and another has its key.
    fn forget(&mut self, started: Time, key: &Key) {
        let is_it = self
            .datagrams
            .get(key)
            .is_some_and(|datagram| datagram.started == started);
        if is_it {
            self.lost += self.take_held(key).len();
            self.datagrams.remove(key);
        }
    }

    fn take_held(&mut self, key: &Key) -> Vec<Box<[u8]>> {
        let Some(datagram) = self.datagrams.get_mut(key) else {
            return Vec::new();
        };
        let held = std::mem::take(&mut datagram.held);
        let cost: usize = held.iter().map(|bytes| bytes.len() + HELD_OVERHEAD).sum();
        self.held -= cost;
        if let Some(of_source) = self.held_of.get_mut(&key.src) {
            *of_source -= cost;
            if *of_source == 0 {
                self.held_of.remove(&key.src);
            }
        }
        held
    }
}

/// Identifications for translated datagrams: inside hosts that chose the same one become one source
/// (RFC 4787 section 11, RFC 6864). A counter under a keyed permutation repeats none before all have
/// been used, and tells an observer neither the next one nor how many there were (RFC 7739). The
/// host's own datagrams to the same peer are numbered by its kernel, of which nothing is known here.
struct Identifications {
    secret: u64,
    count: u32,
}

impl Identifications {
    /// The next one of `bits`, 16 or 32.
    fn next(&mut self, bits: u32) -> u32 {
        self.count = self.count.wrapping_add(1);
        self.permute(self.count, bits)
    }

    /// A Feistel network of four rounds: a permutation, whatever its round function is.
    fn permute(&self, value: u32, bits: u32) -> u32 {
        let half = bits / 2;
        let mask = (1 << half) - 1;
        let (mut left, mut right) = (value >> half & mask, value & mask);
        for round in 0..4 {
            let mut mixed = self.secret ^ u64::from(right) << 8 ^ round;
            mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
            (left, right) = (right, left ^ (mixed >> 32) as u32 & mask);
        }
        left << half | right
    }
}

#[cfg(test)]
mod tests;
