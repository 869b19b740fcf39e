//! Connections, and the shards of the table that holds them.
//!
//! A connection is two tuples: the original, as its opener's packets come in, and the reply, as
//! the answers come in. The reply is both the key under which answers are found and the whole of
//! the stored translation: a packet of one direction goes out as the other direction's tuple,
//! reversed.

pub(crate) mod tcp;

use std::net::IpAddr;
use std::time::Duration;

use hashbrown::HashTable;

use self::tcp::{Segment, Tcp, TcpState};
use crate::limits::Timeouts;
use crate::time::Time;
use crate::tuple::{Protocol, Tuple, TupleHash};

/// Slots looked at when something must give way. Bounds the time a packet can take.
const SAMPLE: usize = 256;

/// Slots that one sweep looks at, at least.
const SWEEP: usize = 256;

/// Which way a packet of a connection goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Direction {
    /// From the side that opened it.
    Original,
    Reply,
}

impl Direction {
    pub fn other(self) -> Direction {
        match self {
            Direction::Original => Direction::Reply,
            Direction::Reply => Direction::Original,
        }
    }

    /// 0 for the original direction, 1 for the reply.
    pub fn index(self) -> usize {
        self as usize
    }
}

/// What is done to a connection's packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// From inside, with an external address and port (SNAT).
    Masquerade,
    /// From inside, untranslated.
    Routed,
    /// Between outside and a published port (DNAT), by the rule of this id. Opened by the
    /// container when it sends from the published port.
    Publish(u32),
    /// From inside to a published port, by the rule of this id (DNAT and SNAT).
    Hairpin(u32),
}

/// One entry of the connection table, for people and for the API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectionInfo {
    /// The packets of the opener, as they come in.
    pub original: Tuple,
    /// The answers, as they come in.
    pub reply: Tuple,
    pub kind: Kind,
    /// `established`, `syn-sent`, … for TCP; `replied` or `unreplied` otherwise.
    pub state: &'static str,
    /// Time to live if no packet refreshes it.
    pub expires_in: Duration,
    /// Packets in the original direction and in the reply's. A super-frame counts as one.
    pub packets: [u64; 2],
    /// Bytes of IP in the original direction and in the reply's.
    pub bytes: [u64; 2],
    /// The inside address that the connection counts for.
    pub inside: IpAddr,
}

#[derive(Debug, Clone)]
pub(crate) struct Connection {
    pub(crate) original: Tuple,
    pub(crate) reply: Tuple,
    pub(crate) expires: Time,
    packets: [u64; 2],
    bytes: [u64; 2],
    tcp: Tcp,
    /// The rule's id; of no meaning without one.
    publish: u32,
    kind: KindTag,
    /// Whether its external port belongs to somebody else's mapping.
    pub(crate) shares_port: bool,
}

// With two index entries of 4 + 1 bytes at the load of a hash table, 7/16 to 7/8, a connection
// takes between 147 and 159 bytes. The mapping of a masqueraded endpoint, which all its connections
// share, takes some 45 more in `ports.rs`.
const _: () = assert!(size_of::<Option<Connection>>() == 136);

/// [`Kind`] without the id, which would not fit in the padding.
#[derive(Debug, Clone, Copy)]
enum KindTag {
    Masquerade,
    Routed,
    Publish,
    Hairpin,
}

impl Connection {
    pub(crate) fn new(original: Tuple, reply: Tuple, kind: Kind, shares_port: bool) -> Connection {
        let (kind, publish) = match kind {
            Kind::Masquerade => (KindTag::Masquerade, 0),
            Kind::Routed => (KindTag::Routed, 0),
            Kind::Publish(id) => (KindTag::Publish, id),
            Kind::Hairpin(id) => (KindTag::Hairpin, id),
        };
        Connection {
            original,
            reply,
            expires: Time::ZERO,
            packets: [0; 2],
            bytes: [0; 2],
            tcp: Tcp::default(),
            publish,
            kind,
            shares_port,
        }
    }

    pub(crate) fn kind(&self) -> Kind {
        match self.kind {
            KindTag::Masquerade => Kind::Masquerade,
            KindTag::Routed => Kind::Routed,
            KindTag::Publish => Kind::Publish(self.publish),
            KindTag::Hairpin => Kind::Hairpin(self.publish),
        }
    }

    pub(crate) fn tuple(&self, direction: Direction) -> &Tuple {
        match direction {
            Direction::Original => &self.original,
            Direction::Reply => &self.reply,
        }
    }

    /// What a packet of `direction` becomes.
    pub(crate) fn translated(&self, direction: Direction) -> Tuple {
        self.tuple(direction.other()).reversed()
    }

    /// The inside address that the connection counts for: the container's, of a hairpin the
    /// asking one's.
    pub(crate) fn inside(&self) -> IpAddr {
        match self.kind {
            KindTag::Masquerade | KindTag::Routed | KindTag::Hairpin => self.original.src,
            KindTag::Publish => self.reply.src,
        }
    }

    /// Whether an endpoint of this address is at either end.
    pub(crate) fn touches(&self, address: IpAddr) -> bool {
        match self.kind {
            KindTag::Hairpin => self.original.src == address || self.reply.src == address,
            KindTag::Masquerade | KindTag::Routed | KindTag::Publish => self.inside() == address,
        }
    }

    /// Whether it holds an external port (or shares one): `reply.dst_port` on `reply.dst`.
    pub(crate) fn has_external_port(&self) -> bool {
        matches!(self.kind, KindTag::Masquerade | KindTag::Hairpin)
    }

    pub(crate) fn is_expired(&self, now: Time) -> bool {
        self.expires <= now
    }

    /// Nothing more is to be expected of it but stragglers.
    pub(crate) fn is_over(&self) -> bool {
        self.original.protocol == Protocol::TCP
            && matches!(self.tcp.state(), TcpState::TimeWait | TcpState::Reset)
    }

    /// Not both sides have been heard, or a TCP handshake is not complete.
    pub(crate) fn is_half_open(&self) -> bool {
        if self.original.protocol == Protocol::TCP {
            matches!(
                self.tcp.state(),
                TcpState::PickedUp | TcpState::SynSent | TcpState::SynReceived
            )
        } else {
            self.packets[0] == 0 || self.packets[1] == 0
        }
    }

    /// Takes note of a packet. False when it is a RST that can't be genuine.
    pub(crate) fn handle(
        &mut self,
        now: Time,
        direction: Direction,
        segment: Option<&Segment>,
        length: usize,
        timeouts: &Timeouts,
    ) -> bool {
        self.packets[direction.index()] += 1;
        self.bytes[direction.index()] += length as u64;
        let believed = segment.is_none_or(|segment| self.tcp.handle(direction, segment));
        if believed && self.is_refreshed_by(direction) {
            self.expires = now + self.timeout(timeouts);
        }
        believed
    }

    /// RFC 4787 REQ-6: a packet from inside refreshes a mapping; one from outside need not, and
    /// if it did, a stranger could keep a mapping open for ever. What the opener sends refreshes
    /// too, which matters for published ports that only listen (a log collector). TCP is refreshed
    /// by both sides: its state says whether there is still a connection.
    fn is_refreshed_by(&self, direction: Direction) -> bool {
        direction == Direction::Original
            || self.original.protocol == Protocol::TCP
            || matches!(self.kind, KindTag::Publish | KindTag::Hairpin)
    }

    fn timeout(&self, timeouts: &Timeouts) -> Duration {
        match self.original.protocol {
            Protocol::TCP => match self.tcp.state() {
                TcpState::Established | TcpState::FinWait => timeouts.tcp_established,
                _ => timeouts.tcp_transitory,
            },
            Protocol::UDP if self.original.dst_port == 53 => timeouts.udp_dns,
            Protocol::UDP => timeouts.udp,
            _ => timeouts.icmp,
        }
    }

    /// A new connection of the same addresses and ports takes the place of one that is over.
    pub(crate) fn reopen(&mut self) {
        self.packets = [0; 2];
        self.bytes = [0; 2];
        self.tcp = Tcp::default();
    }

    pub(crate) fn info(&self, now: Time) -> ConnectionInfo {
        let state = if self.original.protocol == Protocol::TCP {
            self.tcp.state().name()
        } else if self.is_half_open() {
            "unreplied"
        } else {
            "replied"
        };
        ConnectionInfo {
            original: self.original,
            reply: self.reply,
            kind: self.kind(),
            state,
            expires_in: self.expires - now,
            packets: self.packets,
            bytes: self.bytes,
            inside: self.inside(),
        }
    }
}

/// A part of the table: connections in slots, and an index with both tuples of each.
#[derive(Default)]
pub(crate) struct Shard {
    slots: Vec<Option<Connection>>,
    /// Empty slots.
    vacant: Vec<u32>,
    /// Slot × 2 + direction.
    index: HashTable<u32>,
    /// Where the next sweep begins.
    sweep_at: usize,
    /// Where the next sample begins.
    sample_at: usize,
}

impl Shard {
    /// The slot of the connection that this tuple belongs to, and which way it goes.
    pub(crate) fn find(&self, hash: u64, tuple: &Tuple) -> Option<(u32, Direction)> {
        let entry = *self.index.find(hash, |&entry| {
            indexed(&self.slots, entry).is_some_and(|indexed| indexed == tuple)
        })?;
        Some(split(entry))
    }

    pub(crate) fn get(&self, slot: u32) -> Option<&Connection> {
        self.slots.get(slot as usize)?.as_ref()
    }

    pub(crate) fn get_mut(&mut self, slot: u32) -> Option<&mut Connection> {
        self.slots.get_mut(slot as usize)?.as_mut()
    }

    /// Adds a connection, neither of whose tuples is in the shard. None when all slot numbers are
    /// taken.
    pub(crate) fn insert(&mut self, connection: Connection, hash: &TupleHash) -> Option<u32> {
        let slot = match self.vacant.pop() {
            Some(slot) => slot,
            None => {
                // An index entry has 31 bits for the slot.
                let slot = u32::try_from(self.slots.len())
                    .ok()
                    .filter(|slot| slot >> 31 == 0)?;
                if self.slots.len() == self.slots.capacity() {
                    // By an eighth: doubling would make half of a big table air.
                    self.slots.reserve_exact((self.slots.len() / 8).max(64));
                }
                self.slots.push(None);
                slot
            }
        };
        let hashes = [
            hash.tuple(&connection.original),
            hash.tuple(&connection.reply),
        ];
        self.slots[slot as usize] = Some(connection);
        let slots = &self.slots;
        for (direction, value) in [(0, hashes[0]), (1, hashes[1])] {
            self.index
                .insert_unique(value, slot << 1 | direction, |&entry| {
                    indexed(slots, entry).map_or(0, |tuple| hash.tuple(tuple))
                });
        }
        Some(slot)
    }

    /// Takes a connection out.
    pub(crate) fn remove(&mut self, slot: u32, hash: &TupleHash) -> Option<Connection> {
        let connection = self.slots.get_mut(slot as usize)?.take()?;
        for (direction, tuple) in [(0, &connection.original), (1, &connection.reply)] {
            let wanted = slot << 1 | direction;
            if let Ok(entry) = self
                .index
                .find_entry(hash.tuple(tuple), |&entry| entry == wanted)
            {
                entry.remove();
            }
        }
        self.vacant.push(slot);
        Some(connection)
    }

    /// Of a bounded sample of connections, the one with the highest score.
    pub(crate) fn worst<S: Ord>(
        &mut self,
        score: impl Fn(&Connection) -> Option<S>,
    ) -> Option<u32> {
        let count = self.slots.len().min(SAMPLE);
        let mut worst: Option<(S, u32)> = None;
        for _ in 0..count {
            self.sample_at = (self.sample_at + 1) % self.slots.len();
            let slot = self.sample_at;
            let Some(score) = self.slots[slot].as_ref().and_then(&score) else {
                continue;
            };
            if worst.as_ref().is_none_or(|(highest, _)| score > *highest) {
                worst = Some((score, slot as u32));
            }
        }
        worst.map(|(_, slot)| slot)
    }

    /// The expired connections among the next part of the slots: a sixteenth, and at least
    /// [`SWEEP`].
    pub(crate) fn sweep(&mut self, now: Time) -> Vec<u32> {
        let count = (self.slots.len() / 16).max(SWEEP).min(self.slots.len());
        let mut expired = Vec::new();
        for _ in 0..count {
            self.sweep_at = (self.sweep_at + 1) % self.slots.len();
            let connection = self.slots[self.sweep_at].as_ref();
            if connection.is_some_and(|connection| connection.is_expired(now)) {
                expired.push(self.sweep_at as u32);
            }
        }
        expired
    }

    /// Every connection with its slot.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &Connection)> {
        (0..)
            .zip(&self.slots)
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

/// The tuple that an index entry stands for.
fn indexed(slots: &[Option<Connection>], entry: u32) -> Option<&Tuple> {
    let (slot, direction) = split(entry);
    Some(slots.get(slot as usize)?.as_ref()?.tuple(direction))
}

#[cfg(test)]
mod tests;
