//! A connection as it is stored for the next process: 128 bytes, little-endian, of which the first
//! eight are a checksum of the others. A record of zeros is an empty place.
//!
//! ```text
//!   0  checksum      24  source          72  four ports     84  TCP marks, scales
//!   8  owner         40  destination     80  protocol       88  TCP ends of both sides
//!  16  expiry        56  other address   81  kind, flags    96  packets, bytes of both directions
//! ```
//!
//! What TCP has acknowledged and which windows were open is not stored: a record may be many
//! seconds old, and a window that has moved on since would mark all that comes. So the first
//! segment of each side after a restart is believed, as of a connection that is picked up in
//! mid-stream; but what has been seen of SYN, FIN and the scales of windows stays.

use super::tcp::Tcp;
use super::{Connection, Count, Kind, KindTag, Octets};
use crate::limits::Timeouts;
use crate::time::Time;
use crate::tuple::{Protocol, Tuple};

/// Bytes of a record.
pub const RECORD: usize = 128;

/// A stored connection. Who stores it need not know what is in it.
pub type Record = [u8; RECORD];

/// An empty place.
pub(crate) const VACANT: Record = [0; RECORD];

const IPV4: u8 = 1;
const SHARES_PORT: u8 = 2;

/// What a record holds.
#[derive(Debug, Clone)]
pub(crate) struct Stored {
    pub(crate) connection: Connection,
    /// Of the original and the reply: what [`Connection`] makes of its addresses.
    pub(crate) tuples: [Tuple; 2],
    pub(crate) owner: u64,
}

/// FNV-1a, 64 bits: it tells a torn write from a whole one, and keeps nobody from forging, who
/// could write to the daemon's own directory.
pub(crate) fn checksum_of(record: &Record) -> u64 {
    record[8..]
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |sum, &byte| {
            (sum ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        })
}

/// Writes fields one after the other.
struct Writer<'a>(&'a mut [u8], usize);

impl Writer<'_> {
    fn put<const N: usize>(&mut self, bytes: [u8; N]) {
        let end = self.1 + N;
        self.0[self.1..end].copy_from_slice(&bytes);
        self.1 = end;
    }
}

/// Reads fields one after the other.
struct Reader<'a>(&'a Record, usize);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let mut field = [0; N];
        let end = self.1 + N;
        field.copy_from_slice(&self.0[self.1..end]);
        self.1 = end;
        field
    }

    fn number(&mut self) -> u64 {
        u64::from_le_bytes(self.take())
    }
}

impl Connection {
    /// Whether it is worth storing: alive at both ends. Who is opening a connection asks again, and
    /// of one that is over nothing more is to be expected.
    pub(crate) fn is_storable(&self, now: Time) -> bool {
        !self.is_expired(now) && !self.is_half_open() && !self.is_over()
    }

    pub(crate) fn store(&self, owner: u64, epoch: u64) -> Record {
        let mut record = VACANT;
        let mut to = Writer(&mut record, 8);
        to.put(owner.to_le_bytes());
        let expires = self.expires.as_nanos().saturating_add(epoch);
        to.put(expires.to_le_bytes());
        to.put(self.src);
        to.put(self.dst);
        to.put(self.other);
        let ports = [self.src_port, self.dst_port];
        for port in ports
            .into_iter()
            .chain([self.reply_src_port, self.reply_dst_port])
        {
            to.put(port.to_le_bytes());
        }
        let kind = match self.kind {
            KindTag::Masquerade => 1,
            KindTag::Routed => 2,
            KindTag::Publish => 3,
            KindTag::Hairpin => 4,
            KindTag::HairpinMapped => 5,
        };
        let mut flags = 0;
        if self.is_ipv4 {
            flags |= IPV4;
        }
        if self.shares_port {
            flags |= SHARES_PORT;
        }
        to.put([self.protocol.0, kind, flags, 0]);
        to.put(self.tcp.store());
        for count in self.packets.map(Count::get).into_iter().chain(self.bytes) {
            to.put(count.to_le_bytes());
        }
        let sum = checksum_of(&record);
        record[..8].copy_from_slice(&sum.to_le_bytes());
        record
    }

    /// None of a record that is empty or was not written whole. The publish rule's id is not
    /// stored: the rules of another process have other ones.
    pub(crate) fn restore(record: &Record, epoch: u64) -> Option<Stored> {
        let mut from = Reader(record, 0);
        if from.number() != checksum_of(record) {
            return None;
        }
        let owner = from.number();
        let expires = Time::from_nanos(from.number().saturating_sub(epoch));
        let [src, dst, other]: [Octets; 3] = [from.take(), from.take(), from.take()];
        let [src_port, dst_port, reply_src_port, reply_dst_port] =
            std::array::from_fn(|_| u16::from_le_bytes(from.take()));
        let [protocol, kind, flags, _] = from.take();
        let kind = match kind {
            1 => KindTag::Masquerade,
            2 => KindTag::Routed,
            3 => KindTag::Publish,
            4 => KindTag::Hairpin,
            5 => KindTag::HairpinMapped,
            _ => return None,
        };
        let tcp = Tcp::restore(from.take());
        let packets = [from.number(), from.number()].map(Count::new);
        let connection = Connection {
            src,
            dst,
            other,
            src_port,
            dst_port,
            reply_src_port,
            reply_dst_port,
            protocol: Protocol(protocol),
            kind,
            is_ipv4: flags & IPV4 != 0,
            shares_port: flags & SHARES_PORT != 0,
            publish: 0,
            expires,
            bytes: [from.number(), from.number()],
            tcp,
            packets,
        };
        let tuples = [connection.original(), connection.reply()];
        Some(Stored {
            connection,
            tuples,
            owner,
        })
    }

    /// Gives a restored connection no more time than a packet would.
    pub(crate) fn limit_life(&mut self, now: Time, timeouts: &Timeouts) {
        self.expires = self.expires.min(now + self.timeout(timeouts));
    }

    /// Gives a restored connection the id of the rule that it belongs to now.
    pub(crate) fn set_rule(&mut self, kind: Kind) {
        if let Kind::Publish(id) | Kind::Hairpin(id) = kind {
            self.publish = id;
        }
    }
}

impl Count {
    fn new(count: u64) -> Count {
        Count([count as u16, (count >> 16) as u16, (count >> 32) as u16])
    }
}
