//! A checked view of an IP packet. Lengths are verified once, in [`Packet::parse`]; after that
//! every access is within bounds by construction.

use std::net::IpAddr;

use pnet_packet::Packet as _;
use pnet_packet::ipv4::MutableIpv4Packet;
use pnet_packet::ipv6::MutableIpv6Packet;
use pnet_packet::tcp::{TcpFlags, TcpPacket};

use crate::checksum::{Checksum, Delta};
use crate::conntrack::tcp::Segment;
use crate::icmp::{self, IcmpKind, Quote};
use crate::layout::{FRAGMENT_HEADER, Layout, Malformed, Version};
use crate::rewrite::rewrite;
use crate::tuple::{Protocol, Tuple};

/// Bytes of a fixed header.
const IPV6_HEADER: usize = 40;
const TCP_HEADER: usize = 20;
const UDP_HEADER: usize = 8;
const ICMP_HEADER: usize = 8;
const SCTP_HEADER: usize = 12;

/// A checked, mutable view of one IPv4 or IPv6 packet, up to a GSO super-frame of 64 KiB.
pub struct Packet<'a> {
    /// The packet from its IP header to the end its length field gives: link padding is cut off.
    bytes: &'a mut [u8],
    version: Version,
    /// Offset of the transport header; of the data after the fragment header in a fragment.
    transport: usize,
    protocol: Protocol,
    fragment: bool,
    source_routed: bool,
    checksum: Checksum,
}

/// What a packet is to a NAT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Content {
    /// TCP, UDP, SCTP or ICMP echo, or a protocol that is translated by address.
    Flow(Tuple),
    /// An ICMP error, about the packet that it quotes.
    IcmpError,
    /// A piece of a packet, which may lack the transport header.
    Fragment,
    /// A protocol or an ICMP message that can't be translated.
    Other,
}

/// Where a fragment belongs in its datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Piece {
    /// 16 bits of IPv4, 32 of IPv6.
    pub(crate) identification: u32,
    /// Of its data from the start of the datagram's, and its length, in bytes.
    pub(crate) offset: u32,
    pub(crate) length: u32,
    /// It is not the last one.
    pub(crate) more: bool,
    /// Bytes of headers that the length field of the whole datagram counts.
    overhead: u32,
}

impl Piece {
    /// Whether such a piece can exist: it has data, ends on a multiple of 8 bytes unless it is the
    /// last one, and the whole has a length that a header can say (RFC 791 section 3.2, RFC 8200
    /// section 4.5).
    pub(crate) fn is_valid(&self) -> bool {
        let whole = self.overhead + self.offset + self.length;
        self.length > 0
            && (!self.more || self.length.is_multiple_of(8))
            && whole <= u32::from(u16::MAX)
    }
}

impl<'a> Packet<'a> {
    /// Checks the lengths of an IP packet. `bytes` begins at the IP header and may end with link
    /// padding. `checksum` says what the layer 4 checksum field holds.
    ///
    /// The IPv4 header checksum and the transport checksum are not verified: every change is
    /// incremental, so a packet that came in damaged goes out damaged, and its receiver sees it.
    ///
    /// # Errors
    /// [`Malformed`] names the first length that does not fit.
    pub fn parse(bytes: &'a mut [u8], checksum: Checksum) -> Result<Packet<'a>, Malformed> {
        let layout = Layout::of(bytes)?;
        let bytes = &mut bytes[..layout.end];
        let packet = Packet::new(bytes, &layout, checksum);
        if !packet.fragment {
            check_transport(packet.protocol, packet.transport())?;
        }
        Ok(packet)
    }

    fn new(bytes: &'a mut [u8], layout: &Layout, checksum: Checksum) -> Packet<'a> {
        let header = layout.binding.unwrap_or(layout.upper);
        Packet {
            bytes,
            version: layout.version,
            transport: header.at,
            protocol: header.protocol,
            fragment: layout.is_fragment() && layout.binding.is_none(),
            source_routed: layout.source_routed,
            checksum,
        }
    }

    /// Says anew what the layer 4 checksum field holds, once [`header_len`](Self::header_len) has
    /// told where layer 4 starts.
    pub fn set_checksum(&mut self, checksum: Checksum) {
        self.checksum = checksum;
    }

    /// The whole packet, without link padding.
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes
    }

    /// Length of the packet in bytes, from the IP header to the end, without link padding.
    #[expect(clippy::len_without_is_empty, reason = "a packet is never empty")]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Bytes before the transport header: the IP header with its options or extension headers.
    pub fn header_len(&self) -> usize {
        self.transport
    }

    pub fn is_ipv4(&self) -> bool {
        self.version == Version::Four
    }

    pub fn src(&self) -> IpAddr {
        match self.version {
            Version::Four => address4(&self.bytes[12..16]),
            Version::Six => address6(&self.bytes[8..24]),
        }
    }

    pub fn dst(&self) -> IpAddr {
        match self.version {
            Version::Four => address4(&self.bytes[16..20]),
            Version::Six => address6(&self.bytes[24..40]),
        }
    }

    /// The upper-layer protocol, after any IPv6 extension headers.
    pub fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// Time to live, or hop limit.
    pub fn ttl(&self) -> u8 {
        match self.version {
            Version::Four => self.bytes[8],
            Version::Six => self.bytes[7],
        }
    }

    /// Takes one from the TTL or hop limit (0 stays 0), with the IPv4 header checksum following,
    /// and returns what is left. A router that is left with 0 discards the packet (RFC 1812
    /// section 5.3.1), so ask [`ttl`](Packet::ttl) first.
    pub fn decrement_ttl(&mut self) -> u8 {
        let left = self.ttl().saturating_sub(1);
        match self.version {
            Version::Four => {
                let mut delta = Delta::default();
                // TTL shares its checksum word with the protocol number.
                let old = self.word(8);
                self.bytes[8] = left;
                delta.word(old, self.word(8));
                let checksum = delta.apply(self.word(10));
                self.set_word(10, checksum);
            }
            Version::Six => self.bytes[7] = left,
        }
        left
    }

    /// Whether this is a piece of a larger packet. An "atomic" IPv6 fragment, which is a whole
    /// packet with a fragment header, is not one (RFC 6946).
    pub fn is_fragment(&self) -> bool {
        self.fragment
    }

    /// Where in its datagram a fragment's data begin, in bytes; None for a whole packet.
    pub fn fragment_offset(&self) -> Option<u32> {
        self.piece().map(|piece| piece.offset)
    }

    /// Whether its sender chose its route (RFC 7126 section 4.3, RFC 5095): no router should go
    /// along.
    pub fn is_source_routed(&self) -> bool {
        self.source_routed
    }

    /// Which piece of its datagram a fragment is; None for a whole packet.
    pub(crate) fn piece(&self) -> Option<Piece> {
        if !self.fragment {
            return None;
        }
        let length = (self.bytes.len() - self.transport) as u32;
        let (identification, field, overhead) = match self.version {
            Version::Four => (
                u32::from(self.word(4)),
                // The offset counts units of 8 bytes, in the lower 13 bits; the M flag is above it.
                (u32::from(self.word(6) & 0x1fff) * 8, self.word(6) & 0x2000),
                self.transport,
            ),
            Version::Six => {
                let header = self.fragment_header();
                let field = self.word(header + 2);
                (
                    u32::from(self.word(header + 4)) << 16 | u32::from(self.word(header + 6)),
                    (u32::from(field & 0xfff8), field & 1),
                    header - IPV6_HEADER,
                )
            }
        };
        Some(Piece {
            identification,
            offset: field.0,
            length,
            more: field.1 != 0,
            overhead: overhead as u32,
        })
    }

    /// The first fragment of a datagram, seen as if it were whole: with its transport header.
    ///
    /// # Errors
    /// The headers do not all lie in this fragment (RFC 1858, RFC 7112).
    pub(crate) fn head(&mut self) -> Result<Packet<'_>, Malformed> {
        let layout = Layout::of(self.bytes)?.head(self.bytes)?;
        let head = Packet {
            fragment: false,
            ..Packet::new(&mut *self.bytes, &layout, self.checksum)
        };
        check_transport(head.protocol, head.transport())?;
        Ok(head)
    }

    /// Sets the identification of a fragment, with the IPv4 header checksum following.
    pub(crate) fn set_identification(&mut self, identification: u32) {
        match self.version {
            Version::Four => {
                let mut delta = Delta::default();
                delta.word(self.word(4), identification as u16);
                self.set_word(4, identification as u16);
                let checksum = delta.apply(self.word(10));
                self.set_word(10, checksum);
            }
            Version::Six if self.fragment => {
                let at = self.fragment_header() + 4;
                self.bytes[at..at + 4].copy_from_slice(&identification.to_be_bytes());
            }
            Version::Six => {}
        }
    }

    /// Offset of the IPv6 fragment header, right before the data of a fragment.
    fn fragment_header(&self) -> usize {
        self.transport - FRAGMENT_HEADER
    }

    /// Whether routers may not fragment it: the DF flag, and always for IPv6.
    pub fn dont_fragment(&self) -> bool {
        self.version == Version::Six || self.bytes[6] & 0x40 != 0
    }

    pub fn checksum(&self) -> Checksum {
        self.checksum
    }

    /// The flow this packet belongs to. None for fragments, for ICMP other than echo, and for
    /// protocols that can't be translated.
    #[inline]
    pub fn tuple(&self) -> Option<Tuple> {
        match self.content() {
            Content::Flow(tuple) => Some(tuple),
            Content::IcmpError | Content::Fragment | Content::Other => None,
        }
    }

    /// Of an ICMP error: the flow of the packet that it quotes, in the direction of the error.
    pub fn quoted_flow(&self) -> Option<Tuple> {
        match self.content() {
            Content::IcmpError => Some(Quote::parse(self)?.tuple.reversed()),
            Content::Flow(_) | Content::Fragment | Content::Other => None,
        }
    }

    #[inline]
    pub(crate) fn content(&self) -> Content {
        if self.fragment {
            return Content::Fragment;
        }
        let (src_port, dst_port) = match self.protocol {
            Protocol::TCP | Protocol::UDP | Protocol::SCTP => {
                (self.word(self.transport), self.word(self.transport + 2))
            }
            Protocol::ICMP | Protocol::ICMPV6 if self.icmp_fits_version() => {
                match icmp::kind(self.protocol, self.bytes[self.transport]) {
                    IcmpKind::EchoRequest => (self.word(self.transport + 4), 0),
                    IcmpKind::EchoReply => (0, self.word(self.transport + 4)),
                    IcmpKind::Error => return Content::IcmpError,
                    IcmpKind::Other => return Content::Other,
                }
            }
            protocol if protocol.is_translated_by_address() => (0, 0),
            _ => return Content::Other,
        };
        let protocol = self.protocol;
        Content::Flow(Tuple {
            src: self.src(),
            dst: self.dst(),
            src_port,
            dst_port,
            protocol,
        })
    }

    /// Gives the packet the addresses and ports of `to`, which is of its protocol and family, its
    /// checksums following. One that has no [`tuple`](Packet::tuple) stays as it is.
    pub fn readdress(&mut self, to: &Tuple) {
        if let Some(own) = self.tuple() {
            rewrite(self, &own, to);
        }
    }

    /// What connection tracking needs of a TCP segment; None for other protocols and fragments.
    #[inline]
    pub(crate) fn segment(&self) -> Option<Segment> {
        if self.protocol != Protocol::TCP || self.fragment {
            return None;
        }
        let tcp = TcpPacket::new(&self.bytes[self.transport..])?;
        let header = usize::from(tcp.get_data_offset()) * 4;
        let payload = tcp.packet().len().saturating_sub(header);
        let flags = tcp.get_flags();
        let scale = if flags & TcpFlags::SYN != 0 {
            window_scale(tcp.packet().get(TCP_HEADER..header)?)
        } else {
            None
        };
        Some(Segment {
            flags,
            window: tcp.get_window(),
            scale,
            sequence: tcp.get_sequence(),
            acknowledgement: tcp.get_acknowledgement(),
            // At most 64 KiB, the length field of IP.
            payload: payload as u32,
        })
    }

    /// Whether this is a whole ICMP or ICMPv6 echo reply.
    pub(crate) fn is_echo_reply(&self) -> bool {
        matches!(self.protocol, Protocol::ICMP | Protocol::ICMPV6)
            && !self.fragment
            && icmp::kind(self.protocol, self.bytes[self.transport]) == IcmpKind::EchoReply
    }

    /// ICMP is of IPv4 and ICMPv6 of IPv6; the other way round is noise, which no checksum rule
    /// covers.
    fn icmp_fits_version(&self) -> bool {
        (self.protocol == Protocol::ICMP) == (self.version == Version::Four)
    }

    /// The transport header and what follows it.
    pub(crate) fn transport(&self) -> &[u8] {
        &self.bytes[self.transport..]
    }

    pub(crate) fn transport_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.transport..]
    }

    /// Sets both addresses, with the IPv4 header checksum following. The transport checksum is the
    /// caller's. Addresses of the other family change nothing.
    pub(crate) fn set_addresses(&mut self, src: IpAddr, dst: IpAddr) {
        set_addresses(self.bytes, src, dst);
    }

    fn word(&self, at: usize) -> u16 {
        word(self.bytes, at)
    }

    fn set_word(&mut self, at: usize, value: u16) {
        set_word(self.bytes, at, value);
    }
}

/// Sets both addresses of the IP header that `bytes` begins with, whose checked length and family
/// are the caller's promise: with another family, or too few bytes, nothing changes.
pub(crate) fn set_addresses(bytes: &mut [u8], src: IpAddr, dst: IpAddr) {
    match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            let Some(mut header) = MutableIpv4Packet::new(bytes) else {
                return;
            };
            let mut delta = Delta::default();
            delta.address(header.get_source().into(), src.into());
            delta.address(header.get_destination().into(), dst.into());
            header.set_source(src);
            header.set_destination(dst);
            header.set_checksum(delta.apply(header.get_checksum()));
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            let Some(mut header) = MutableIpv6Packet::new(bytes) else {
                return;
            };
            header.set_source(src);
            header.set_destination(dst);
        }
        _ => debug_assert!(false, "addresses of two families: {src}, {dst}"),
    }
}

pub(crate) fn word(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

pub(crate) fn set_word(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

fn address4(bytes: &[u8]) -> IpAddr {
    IpAddr::from([bytes[0], bytes[1], bytes[2], bytes[3]])
}

fn address6(bytes: &[u8]) -> IpAddr {
    let mut octets = [0; 16];
    octets.copy_from_slice(bytes);
    IpAddr::from(octets)
}

/// The window scale among TCP options (RFC 7323 section 2.2): by how many bits the windows are
/// shifted.
fn window_scale(mut options: &[u8]) -> Option<u8> {
    const END: u8 = 0;
    const PADDING: u8 = 1;
    const WINDOW_SCALE: u8 = 3;
    loop {
        options = match options {
            [] | [END, ..] => return None,
            [PADDING, rest @ ..] => rest,
            [WINDOW_SCALE, 3, shift, ..] => return Some(*shift),
            // Kind and length count; less would go on for ever.
            [_, length, ..] => options.get(usize::from(*length).max(2)..)?,
            [_] => return None,
        };
    }
}

/// Checks that the fixed transport header is there, for the protocols that get translated.
fn check_transport(protocol: Protocol, bytes: &[u8]) -> Result<(), Malformed> {
    let least = match protocol {
        Protocol::TCP => TCP_HEADER,
        Protocol::UDP => UDP_HEADER,
        Protocol::SCTP => SCTP_HEADER,
        Protocol::ICMP | Protocol::ICMPV6 => ICMP_HEADER,
        _ => return Ok(()),
    };
    if bytes.len() < least {
        return Err(Malformed::TransportTruncated);
    }
    if protocol == Protocol::TCP {
        let header = usize::from(bytes[12] >> 4) * 4;
        if header < TCP_HEADER || header > bytes.len() {
            return Err(Malformed::TcpHeaderLength);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
