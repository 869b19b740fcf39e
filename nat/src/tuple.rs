//! Protocols and tuples: what identifies one direction of a flow.

use std::fmt;
use std::hash::Hasher;
use std::net::IpAddr;
use std::str::FromStr;

use foldhash::SharedSeed;
use foldhash::quality::FoldHasher;

/// An IP protocol number (IANA "Assigned Internet Protocol Numbers").
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Protocol(pub u8);

impl Protocol {
    pub const ICMP: Protocol = Protocol(1);
    pub const TCP: Protocol = Protocol(6);
    pub const UDP: Protocol = Protocol(17);
    pub const ICMPV6: Protocol = Protocol(58);
    pub const SCTP: Protocol = Protocol(132);

    /// Whether its ports (or identifiers) may be exchanged for others, so that two inside hosts can
    /// use the same one. Those of SCTP are under a checksum of the whole packet (CRC32c, RFC 9260
    /// section 6.8), which knows no addresses: it stays right as long as the ports stay.
    pub(crate) const fn has_translated_ports(self) -> bool {
        matches!(
            self,
            Protocol::TCP | Protocol::UDP | Protocol::ICMP | Protocol::ICMPV6
        )
    }

    /// Whether packets of it are translated by address alone, one inside host to a peer. Not those
    /// that sum or sign the addresses that they come with, nor those that are of one link.
    pub(crate) const fn is_translated_by_address(self) -> bool {
        const DCCP: u8 = 33;
        const AUTHENTICATION_HEADER: u8 = 51;
        const MOBILITY: u8 = 135;
        const UDP_LITE: u8 = 136;
        const HIP: u8 = 139;
        const SHIM6: u8 = 140;
        // Extension headers of IPv6, which come here only where what follows is not final, and
        // "no next header".
        const HOP_BY_HOP: u8 = 0;
        const ROUTING: u8 = 43;
        const FRAGMENT: u8 = 44;
        const NONE: u8 = 59;
        const DESTINATION: u8 = 60;
        const IGMP: u8 = 2;
        const OSPF: u8 = 89;
        const PIM: u8 = 103;
        const VRRP: u8 = 112;
        !self.has_translated_ports()
            && !matches!(
                self.0,
                DCCP | AUTHENTICATION_HEADER
                    | MOBILITY
                    | UDP_LITE
                    | HIP
                    | SHIM6
                    | HOP_BY_HOP
                    | ROUTING
                    | FRAGMENT
                    | NONE
                    | DESTINATION
                    | IGMP
                    | OSPF
                    | PIM
                    | VRRP
            )
    }

    /// The usual lower-case name, if the protocol is one that this project speaks of.
    const fn name(self) -> Option<&'static str> {
        match self {
            Protocol::ICMP => Some("icmp"),
            Protocol::TCP => Some("tcp"),
            Protocol::UDP => Some("udp"),
            Protocol::ICMPV6 => Some("icmpv6"),
            Protocol::SCTP => Some("sctp"),
            _ => None,
        }
    }
}

impl fmt::Display for Protocol {
    /// `tcp`, `udp`, `icmp`, `icmpv6`, `sctp`, or the number.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.pad(name),
            None => f.pad(&self.0.to_string()),
        }
    }
}

impl fmt::Debug for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text was not the name or the number of a protocol.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownProtocol(String);

impl fmt::Display for UnknownProtocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "unknown protocol {:?}: use tcp, udp, sctp, icmp, icmpv6 or a number",
            self.0
        )
    }
}

impl std::error::Error for UnknownProtocol {}

impl FromStr for Protocol {
    type Err = UnknownProtocol;

    /// Accepts what `Display` prints, in any case.
    fn from_str(text: &str) -> Result<Protocol, UnknownProtocol> {
        match text.to_ascii_lowercase().as_str() {
            "icmp" => Ok(Protocol::ICMP),
            "tcp" => Ok(Protocol::TCP),
            "udp" => Ok(Protocol::UDP),
            "icmpv6" => Ok(Protocol::ICMPV6),
            "sctp" => Ok(Protocol::SCTP),
            number => number
                .parse()
                .map(Protocol)
                .map_err(|_| UnknownProtocol(text.to_owned())),
        }
    }
}

/// One direction of a flow. 40 bytes.
///
/// For ICMP echo the identifier stands where the asking side's port would: a request carries it as
/// `src_port` with `dst_port` 0, a reply as `dst_port` with `src_port` 0. So
/// `request.reversed() == reply`, as with ports. Both are 0 for a protocol that has neither.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tuple {
    pub src: IpAddr,
    pub dst: IpAddr,
    /// Layer 4 port, or ICMP identifier, in host byte order.
    pub src_port: u16,
    /// Layer 4 port, or ICMP identifier, in host byte order.
    pub dst_port: u16,
    pub protocol: Protocol,
}

// Two of these are most of a connection, and connections are counted in hundreds of thousands.
const _: () = assert!(size_of::<Tuple>() == 40);

impl Tuple {
    /// The tuple of an answer to this one when nobody translates between.
    pub fn reversed(&self) -> Tuple {
        Tuple {
            src: self.dst,
            dst: self.src,
            src_port: self.dst_port,
            dst_port: self.src_port,
            protocol: self.protocol,
        }
    }

    /// Whether this is an ICMP or ICMPv6 echo.
    pub fn is_icmp(&self) -> bool {
        matches!(self.protocol, Protocol::ICMP | Protocol::ICMPV6)
    }
}

impl fmt::Display for Tuple {
    /// `10.0.0.2:4242 > 1.2.3.4:80/tcp`, `[fd00::2]:4242 > [2001:db8::1]:80/udp`,
    /// `10.0.0.2 > 1.2.3.4 id 7/icmp`, `10.0.0.2 > 1.2.3.4/47`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_icmp() {
            let id = self.src_port.max(self.dst_port);
            return write!(f, "{} > {} id {}/{}", self.src, self.dst, id, self.protocol);
        }
        let has_ports = matches!(
            self.protocol,
            Protocol::TCP | Protocol::UDP | Protocol::SCTP
        );
        if !has_ports {
            return write!(f, "{} > {}/{}", self.src, self.dst, self.protocol);
        }
        let (src, dst) = ((self.src, self.src_port), (self.dst, self.dst_port));
        write!(
            f,
            "{} > {}/{}",
            std::net::SocketAddr::from(src),
            std::net::SocketAddr::from(dst),
            self.protocol
        )
    }
}

/// Keyed hashing of tuples, so that nobody outside can aim at one bucket or one shard.
#[derive(Clone)]
pub(crate) struct TupleHash {
    seed: u64,
    shared: SharedSeed,
}

impl TupleHash {
    pub(crate) fn new(seed: u64) -> TupleHash {
        TupleHash {
            seed,
            shared: SharedSeed::from_u64(seed.rotate_left(32)),
        }
    }

    /// The hash of one direction: two words for IPv4, five for IPv6.
    #[inline]
    pub(crate) fn tuple(&self, tuple: &Tuple) -> u64 {
        let mut hasher = FoldHasher::with_seed(self.seed, &self.shared);
        match (tuple.src, tuple.dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                hasher.write_u64(u64::from(src.to_bits()) << 32 | u64::from(dst.to_bits()));
            }
            (src, dst) => {
                write_address(&mut hasher, src);
                write_address(&mut hasher, dst);
            }
        }
        hasher.write_u64(
            u64::from(tuple.src_port) << 32
                | u64::from(tuple.dst_port) << 16
                | u64::from(tuple.protocol.0),
        );
        hasher.finish()
    }

    /// The hash of the far end of a flow, which decides its shard.
    #[inline]
    pub(crate) fn peer(&self, address: IpAddr, port: u16) -> u64 {
        let mut hasher = FoldHasher::with_seed(self.seed, &self.shared);
        write_address(&mut hasher, address);
        hasher.write_u64(u64::from(port));
        hasher.finish()
    }
}

#[inline]
fn write_address(hasher: &mut FoldHasher<'_>, address: IpAddr) {
    match address {
        IpAddr::V4(address) => hasher.write_u64(u64::from(address.to_bits())),
        IpAddr::V6(address) => {
            let bits = address.to_bits();
            hasher.write_u64((bits >> 64) as u64);
            hasher.write_u64(bits as u64);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tuple(src: &str, dst: &str, protocol: Protocol) -> Tuple {
        Tuple {
            src: src.parse().unwrap(),
            dst: dst.parse().unwrap(),
            src_port: 4242,
            dst_port: if protocol == Protocol::ICMP { 0 } else { 80 },
            protocol,
        }
    }

    #[test]
    fn prints_as_people_write_it() {
        let four = tuple("10.0.0.2", "1.2.3.4", Protocol::TCP);
        assert_eq!(four.to_string(), "10.0.0.2:4242 > 1.2.3.4:80/tcp");
        let six = tuple("fd00::2", "2001:db8::1", Protocol::UDP);
        assert_eq!(six.to_string(), "[fd00::2]:4242 > [2001:db8::1]:80/udp");
        let echo = tuple("10.0.0.2", "1.2.3.4", Protocol::ICMP);
        assert_eq!(echo.to_string(), "10.0.0.2 > 1.2.3.4 id 4242/icmp");
        assert_eq!(
            echo.reversed().to_string(),
            "1.2.3.4 > 10.0.0.2 id 4242/icmp"
        );
    }

    #[test]
    fn protocols_parse_what_they_print() {
        for number in 0..=255 {
            let protocol = Protocol(number);
            assert_eq!(protocol.to_string().parse(), Ok(protocol));
        }
        assert_eq!("TCP".parse(), Ok(Protocol::TCP));
        assert!(
            "tpc"
                .parse::<Protocol>()
                .unwrap_err()
                .to_string()
                .contains("\"tpc\"")
        );
        assert!("256".parse::<Protocol>().is_err());
    }

    #[test]
    fn reversing_twice_changes_nothing() {
        let there = tuple("10.0.0.2", "1.2.3.4", Protocol::TCP);
        assert_eq!(there.reversed().reversed(), there);
        assert_ne!(there.reversed(), there);
    }

    #[test]
    fn hash_depends_on_every_field_and_on_the_seed() {
        let hash = TupleHash::new(1);
        let base = tuple("10.0.0.2", "1.2.3.4", Protocol::TCP);
        let mut seen = vec![hash.tuple(&base), TupleHash::new(2).tuple(&base)];
        seen.push(hash.tuple(&base.reversed()));
        seen.push(hash.tuple(&Tuple {
            protocol: Protocol::UDP,
            ..base
        }));
        seen.push(hash.tuple(&Tuple {
            src_port: 4243,
            ..base
        }));
        seen.push(hash.tuple(&Tuple {
            dst_port: 81,
            ..base
        }));
        let mapped = "::ffff:10.0.0.2".parse().unwrap();
        seen.push(hash.tuple(&Tuple {
            src: mapped,
            ..base
        }));
        let count = seen.len();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), count);
    }
}
