//! Connections. The shards of the table that holds them are in `shard`, TCP's states in `tcp`.
//!
//! A connection is two tuples: the original, as its opener's packets come in, and the reply, as
//! the answers come in. The reply is both the key under which answers are found and the whole of
//! the stored translation: a packet of one direction goes out as the other direction's tuple,
//! reversed.

mod index;
mod record;
mod shard;
mod strangers;
pub(crate) mod tcp;

use std::net::{IpAddr, Ipv6Addr};
use std::ops::AddAssign;
use std::time::Duration;

#[cfg(test)]
pub(crate) use self::record::checksum_of as record_checksum;
pub use self::record::{RECORD, Record};
pub(crate) use self::record::{Stored, VACANT};
pub(crate) use self::shard::Shard;
pub(crate) use self::strangers::Admission;
use self::tcp::{Heard, Segment, Tcp, TcpState};
use crate::limits::Timeouts;
use crate::ports::Unquiet;
use crate::time::Time;
use crate::tuple::{Protocol, Tuple};

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
    /// From inside to the external port of another endpoint inside: its opener's half of the flow,
    /// the other side having one of its own.
    HairpinMapped,
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
    /// A TCP segment was seen that was in no window of its receiver's: forged, of an earlier
    /// connection, or very late. It was passed on, and changed nothing.
    pub out_of_window: bool,
    /// Time to live if no packet refreshes it.
    pub expires_in: Duration,
    /// Packets in the original direction and in the reply's. A super-frame counts as one.
    pub packets: [u64; 2],
    /// Bytes of IP in the original direction and in the reply's.
    pub bytes: [u64; 2],
    /// The inside address that the connection counts for.
    pub inside: IpAddr,
}

/// What the connections of one publish rule have carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Traffic {
    /// So far, those that are there now included.
    pub connections: u64,
    /// Those that are there now.
    pub active: u64,
    /// From the side that dialled the port and to it. A super-frame counts as one.
    pub packets: [u64; 2],
    /// Of IP, likewise.
    pub bytes: [u64; 2],
}

impl Traffic {
    fn add(&mut self, connection: &Connection) {
        self.connections += 1;
        for direction in [0, 1] {
            self.packets[direction] += connection.packets[direction].get();
            self.bytes[direction] += connection.bytes[direction];
        }
    }
}

impl AddAssign for Traffic {
    fn add_assign(&mut self, other: Traffic) {
        self.connections += other.connections;
        self.active += other.active;
        for direction in [0, 1] {
            self.packets[direction] += other.packets[direction];
            self.bytes[direction] += other.bytes[direction];
        }
    }
}

/// An address of either family; one of IPv4 in the first four bytes.
type Octets = [u8; 16];

fn octets(address: IpAddr) -> Octets {
    match address {
        IpAddr::V4(address) => {
            let mut octets = [0; 16];
            octets[..4].copy_from_slice(&address.octets());
            octets
        }
        IpAddr::V6(address) => address.octets(),
    }
}

/// A tuple as connections store it, for comparison.
struct Key {
    src: Octets,
    dst: Octets,
    src_port: u16,
    dst_port: u16,
    protocol: Protocol,
    is_ipv4: bool,
}

impl Key {
    fn new(tuple: &Tuple) -> Key {
        Key {
            src: octets(tuple.src),
            dst: octets(tuple.dst),
            src_port: tuple.src_port,
            dst_port: tuple.dst_port,
            protocol: tuple.protocol,
            is_ipv4: tuple.src.is_ipv4(),
        }
    }
}

/// Packets of one direction: 48 bits, which last for eight years at a million a second.
#[derive(Debug, Clone, Copy, Default)]
struct Count([u16; 3]);

impl Count {
    fn get(self) -> u64 {
        let [low, middle, high] = self.0.map(u64::from);
        high << 32 | middle << 16 | low
    }

    fn increment(&mut self) {
        let next = self.get() + 1;
        self.0 = [next as u16, (next >> 16) as u16, (next >> 32) as u16];
    }
}

/// A connection: two cache lines, the first of which has all that finding it and rewriting a packet
/// take.
///
/// The two tuples have three addresses between them, for what is translated is one of the
/// original's; `kind` says which.
#[derive(Debug, Clone)]
#[repr(C, align(64))]
pub(crate) struct Connection {
    /// Of the original tuple.
    src: Octets,
    dst: Octets,
    /// The address that only the reply has.
    other: Octets,
    src_port: u16,
    dst_port: u16,
    reply_src_port: u16,
    reply_dst_port: u16,
    protocol: Protocol,
    kind: KindTag,
    is_ipv4: bool,
    /// Whether its external port belongs to somebody else's mapping.
    pub(crate) shares_port: bool,
    /// The rule's id; of no meaning without one.
    publish: u32,
    pub(crate) expires: Time,
    bytes: [u64; 2],
    tcp: Tcp,
    packets: [Count; 2],
}

// With two index entries of 64 / 12 bytes in a table that is two to four fifths full, a connection
// takes between 141 and 155 bytes. The mappings of masqueraded endpoints (`ports.rs`), which
// connections share, are bounded by the external ports there are.
const _: () = assert!(size_of::<Option<Connection>>() == 128);

/// [`Kind`] without the id.
#[derive(Debug, Clone, Copy)]
enum KindTag {
    Masquerade,
    Routed,
    Publish,
    Hairpin,
    HairpinMapped,
}

impl Connection {
    pub(crate) fn new(original: Tuple, reply: Tuple, kind: Kind, shares_port: bool) -> Connection {
        let (tag, publish) = match kind {
            Kind::Masquerade => (KindTag::Masquerade, 0),
            Kind::Routed => (KindTag::Routed, 0),
            Kind::Publish(id) => (KindTag::Publish, id),
            Kind::Hairpin(id) => (KindTag::Hairpin, id),
            Kind::HairpinMapped => (KindTag::HairpinMapped, 0),
        };
        let other = match tag {
            KindTag::Masquerade | KindTag::Routed | KindTag::HairpinMapped => reply.dst,
            KindTag::Publish | KindTag::Hairpin => reply.src,
        };
        let connection = Connection {
            src: octets(original.src),
            dst: octets(original.dst),
            other: octets(other),
            src_port: original.src_port,
            dst_port: original.dst_port,
            reply_src_port: reply.src_port,
            reply_dst_port: reply.dst_port,
            protocol: original.protocol,
            kind: tag,
            is_ipv4: original.src.is_ipv4(),
            shares_port,
            publish,
            expires: Time::ZERO,
            bytes: [0; 2],
            tcp: Tcp::default(),
            packets: [Count::default(); 2],
        };
        debug_assert_eq!(connection.reply(), reply, "a reply of another kind");
        connection
    }

    pub(crate) fn kind(&self) -> Kind {
        match self.kind {
            KindTag::Masquerade => Kind::Masquerade,
            KindTag::Routed => Kind::Routed,
            KindTag::Publish => Kind::Publish(self.publish),
            KindTag::Hairpin => Kind::Hairpin(self.publish),
            KindTag::HairpinMapped => Kind::HairpinMapped,
        }
    }

    pub(crate) fn is_masqueraded(&self) -> bool {
        matches!(self.kind, KindTag::Masquerade)
    }

    /// Source and destination of the reply tuple.
    fn reply_addresses(&self) -> (&Octets, &Octets) {
        match self.kind {
            KindTag::Masquerade | KindTag::Routed | KindTag::HairpinMapped => {
                (&self.dst, &self.other)
            }
            KindTag::Publish => (&self.other, &self.src),
            KindTag::Hairpin => (&self.other, &self.dst),
        }
    }

    fn address(&self, octets: &Octets) -> IpAddr {
        if self.is_ipv4 {
            IpAddr::from([octets[0], octets[1], octets[2], octets[3]])
        } else {
            IpAddr::V6(Ipv6Addr::from(*octets))
        }
    }

    pub(crate) fn original(&self) -> Tuple {
        Tuple {
            src: self.address(&self.src),
            dst: self.address(&self.dst),
            src_port: self.src_port,
            dst_port: self.dst_port,
            protocol: self.protocol,
        }
    }

    pub(crate) fn reply(&self) -> Tuple {
        let (src, dst) = self.reply_addresses();
        Tuple {
            src: self.address(src),
            dst: self.address(dst),
            src_port: self.reply_src_port,
            dst_port: self.reply_dst_port,
            protocol: self.protocol,
        }
    }

    pub(crate) fn tuple(&self, direction: Direction) -> Tuple {
        match direction {
            Direction::Original => self.original(),
            Direction::Reply => self.reply(),
        }
    }

    /// Whether its tuple of this direction is this one.
    fn has(&self, direction: Direction, key: &Key) -> bool {
        let (ports, (src, dst)) = match direction {
            Direction::Original => ((self.src_port, self.dst_port), (&self.src, &self.dst)),
            Direction::Reply => (
                (self.reply_src_port, self.reply_dst_port),
                self.reply_addresses(),
            ),
        };
        ports == (key.src_port, key.dst_port)
            && (self.protocol, self.is_ipv4) == (key.protocol, key.is_ipv4)
            && *src == key.src
            && *dst == key.dst
    }

    /// What a packet of `direction` becomes.
    pub(crate) fn translated(&self, direction: Direction) -> Tuple {
        self.tuple(direction.other()).reversed()
    }

    /// The inside address that the connection counts for: the container's, of a hairpin the
    /// asking one's.
    pub(crate) fn inside(&self) -> IpAddr {
        self.address(match self.kind {
            KindTag::Publish => &self.other,
            _ => &self.src,
        })
    }

    /// Whether an endpoint of this address is at either end.
    pub(crate) fn touches(&self, address: IpAddr) -> bool {
        let asked = matches!(self.kind, KindTag::Hairpin) && self.address(&self.other) == address;
        asked || self.inside() == address
    }

    /// Whether it holds an external port (or shares one): `reply.dst_port` on `reply.dst`.
    pub(crate) fn has_external_port(&self) -> bool {
        let translated = matches!(
            self.kind,
            KindTag::Masquerade | KindTag::Hairpin | KindTag::HairpinMapped
        );
        translated && self.protocol.has_translated_ports()
    }

    pub(crate) fn is_expired(&self, now: Time) -> bool {
        self.expires <= now
    }

    /// Nothing more is to be expected of it but stragglers.
    pub(crate) fn is_over(&self) -> bool {
        self.protocol == Protocol::TCP
            && matches!(self.tcp.state(), TcpState::TimeWait | TcpState::Reset)
    }

    /// How long no packet has refreshed it.
    pub(crate) fn idle(&self, now: Time, timeouts: &Timeouts) -> Duration {
        self.timeout(timeouts).saturating_sub(self.expires - now)
    }

    /// Until when packets to its external port may come in, if it ends now, and for whom nothing
    /// comes amiss. None when nothing more is to come: its time is up, or both sides have closed.
    pub(crate) fn unquiet(&self, now: Time, timeouts: &Timeouts) -> Option<Unquiet> {
        if self.is_expired(now) {
            return None;
        }
        let quiet_since = |wait: Duration| now + wait.saturating_sub(self.idle(now, timeouts));
        let (until, except_port) = match self.tcp.state() {
            TcpState::TimeWait if self.protocol == Protocol::TCP => return None,
            // What the peer sent before it got the RST. TCP itself tells that from a later
            // connection of the same container, which is how a busy client reuses its ports.
            TcpState::Reset if self.protocol == Protocol::TCP => {
                (quiet_since(timeouts.port_reset), None)
            }
            _ if self.is_half_open() => {
                (quiet_since(timeouts.port_quarantine), Some(self.src_port))
            }
            // The peer may send by itself.
            _ => (now + timeouts.port_quarantine, Some(self.src_port)),
        };
        (until > now).then_some(Unquiet {
            until,
            except: Some(self.inside()),
            except_port,
        })
    }

    /// Of a published port, and only the container has been heard: if several ports lead to it,
    /// by which of them its peer comes is presumed.
    pub(crate) fn is_presumed(&self) -> bool {
        matches!(self.kind, KindTag::Publish)
            && self.packets[Direction::Original.index()].get() == 0
    }

    /// Not both sides have been heard, or a TCP handshake is not complete.
    pub(crate) fn is_half_open(&self) -> bool {
        if self.protocol == Protocol::TCP {
            matches!(
                self.tcp.state(),
                TcpState::PickedUp | TcpState::SynSent | TcpState::SynReceived
            )
        } else {
            self.packets.iter().any(|count| count.get() == 0)
        }
    }

    /// Takes note of a packet. What TCP does not believe neither changes nor refreshes anything.
    pub(crate) fn handle(
        &mut self,
        now: Time,
        direction: Direction,
        segment: Option<&Segment>,
        length: usize,
        timeouts: &Timeouts,
    ) -> Heard {
        self.packets[direction.index()].increment();
        self.bytes[direction.index()] += length as u64;
        let heard = segment.map_or(Heard::Believed, |segment| {
            self.tcp.handle(direction, segment)
        });
        if heard == Heard::Believed && self.is_refreshed_by(direction) {
            self.expires = now + self.timeout(timeouts);
        }
        heard
    }

    /// RFC 4787 REQ-6: a packet from inside refreshes a mapping; one from outside need not, and
    /// if it did, a stranger could keep a mapping open for ever. What the opener sends refreshes
    /// too, which matters for published ports that only listen (a log collector). TCP is refreshed
    /// by both sides: its state says whether there is still a connection.
    fn is_refreshed_by(&self, direction: Direction) -> bool {
        direction == Direction::Original
            || self.protocol == Protocol::TCP
            || matches!(self.kind, KindTag::Publish | KindTag::Hairpin)
    }

    fn timeout(&self, timeouts: &Timeouts) -> Duration {
        match self.protocol {
            Protocol::TCP => match self.tcp.state() {
                TcpState::Established | TcpState::FinWait => timeouts.tcp_established,
                _ => timeouts.tcp_transitory,
            },
            Protocol::UDP if self.dst_port == 53 => timeouts.udp_dns,
            Protocol::UDP => timeouts.udp,
            Protocol::ICMP | Protocol::ICMPV6 => timeouts.icmp,
            _ => timeouts.other,
        }
    }

    /// A new connection of the same addresses and ports takes the place of one that is over.
    fn reopen(&mut self) {
        self.packets = [Count::default(); 2];
        self.bytes = [0; 2];
        self.tcp = Tcp::default();
    }

    pub(crate) fn info(&self, now: Time) -> ConnectionInfo {
        let state = if self.protocol == Protocol::TCP {
            self.tcp.state().name()
        } else if self.is_half_open() {
            "unreplied"
        } else {
            "replied"
        };
        ConnectionInfo {
            original: self.original(),
            reply: self.reply(),
            kind: self.kind(),
            state,
            out_of_window: self.tcp.has_been_out_of_window(),
            expires_in: self.expires - now,
            packets: self.packets.map(Count::get),
            bytes: self.bytes,
            inside: self.inside(),
        }
    }
}

#[cfg(test)]
mod tests;
