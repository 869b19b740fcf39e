//! Packets for tests, and the verdict on their checksums: whole computations by `pnet_packet`,
//! which share nothing with this crate's incremental ones.

use std::net::{IpAddr, SocketAddr};

use pnet_packet::Packet as _;
use pnet_packet::icmp::IcmpPacket;
use pnet_packet::icmpv6::Icmpv6Packet;
use pnet_packet::ip::IpNextHeaderProtocol;
use pnet_packet::ipv4::{self, Ipv4Packet, MutableIpv4Packet};
use pnet_packet::ipv6::{Ipv6Packet, MutableIpv6Packet};
use pnet_packet::tcp::{self, MutableTcpPacket, TcpPacket};
use pnet_packet::udp::{self, MutableUdpPacket, UdpPacket};

use crate::checksum::{Checksum, fold, pseudo_header};
use crate::packet::Packet;
use crate::tuple::Protocol;

pub(crate) use pnet_packet::tcp::TcpFlags::{ACK, FIN, RST, SYN};

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub(crate) fn socket(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// A small generator, so that every failure can be repeated.
pub(crate) struct Prng(pub(crate) u64);

impl Prng {
    /// SplitMix64.
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    pub(crate) fn fill(&mut self, bytes: &mut [u8]) {
        for byte in bytes {
            *byte = self.next() as u8;
        }
    }
}

/// Wraps a transport header and payload in an IP header; the checksums are right.
pub(crate) fn wrap(src: IpAddr, dst: IpAddr, protocol: Protocol, transport: &[u8]) -> Vec<u8> {
    let mut bytes = match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            let mut bytes = vec![0; 20 + transport.len()];
            let mut header = MutableIpv4Packet::new(&mut bytes).unwrap();
            header.set_version(4);
            header.set_header_length(5);
            header.set_total_length(20 + transport.len() as u16);
            header.set_identification(0x1234);
            header.set_flags(2);
            header.set_ttl(64);
            header.set_next_level_protocol(IpNextHeaderProtocol(protocol.0));
            header.set_source(src);
            header.set_destination(dst);
            header.set_checksum(ipv4::checksum(&header.to_immutable()));
            bytes[20..].copy_from_slice(transport);
            bytes
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            let mut bytes = vec![0; 40 + transport.len()];
            let mut header = MutableIpv6Packet::new(&mut bytes).unwrap();
            header.set_version(6);
            header.set_payload_length(transport.len() as u16);
            header.set_hop_limit(64);
            header.set_next_header(IpNextHeaderProtocol(protocol.0));
            header.set_source(src);
            header.set_destination(dst);
            bytes[40..].copy_from_slice(transport);
            bytes
        }
        _ => panic!("two families: {src}, {dst}"),
    };
    complete(&mut bytes);
    bytes
}

/// A segment whose numbers fit any other of these: both sides begin at 1000.
pub(crate) fn tcp(src: &str, dst: &str, flags: u8, payload: &[u8]) -> Vec<u8> {
    let sequence = if flags & SYN != 0 { 1000 } else { 1001 };
    tcp_numbered(src, dst, flags, sequence, 1001, payload)
}

pub(crate) fn tcp_numbered(
    src: &str,
    dst: &str,
    flags: u8,
    sequence: u32,
    acknowledgement: u32,
    payload: &[u8],
) -> Vec<u8> {
    let (src, dst) = (socket(src), socket(dst));
    let mut bytes = vec![0; 20 + payload.len()];
    let mut header = MutableTcpPacket::new(&mut bytes).unwrap();
    header.set_source(src.port());
    header.set_destination(dst.port());
    header.set_sequence(sequence);
    header.set_acknowledgement(acknowledgement);
    header.set_data_offset(5);
    header.set_flags(flags);
    header.set_window(0x2000);
    header.set_payload(payload);
    wrap(src.ip(), dst.ip(), Protocol::TCP, &bytes)
}

pub(crate) fn udp(src: &str, dst: &str, payload: &[u8]) -> Vec<u8> {
    let (src, dst) = (socket(src), socket(dst));
    let mut bytes = vec![0; 8 + payload.len()];
    let mut header = MutableUdpPacket::new(&mut bytes).unwrap();
    header.set_source(src.port());
    header.set_destination(dst.port());
    header.set_length(8 + payload.len() as u16);
    header.set_payload(payload);
    wrap(src.ip(), dst.ip(), Protocol::UDP, &bytes)
}

/// An SCTP packet with some chunk; its checksum (RFC 9260 section 6.8) is a number that must stay.
pub(crate) fn sctp(src: &str, dst: &str) -> Vec<u8> {
    let (src, dst) = (socket(src), socket(dst));
    let mut bytes = src.port().to_be_bytes().to_vec();
    bytes.extend(dst.port().to_be_bytes());
    bytes.extend([1, 2, 3, 4, 0xca, 0xfe, 0xba, 0xbe, 11, 0, 0, 4]);
    wrap(src.ip(), dst.ip(), Protocol::SCTP, &bytes)
}

/// An echo request, or the reply.
pub(crate) fn echo(src: &str, dst: &str, request: bool, id: u16) -> Vec<u8> {
    let (src, dst) = (ip(src), ip(dst));
    let (protocol, message) = match (src.is_ipv4(), request) {
        (true, true) => (Protocol::ICMP, 8),
        (true, false) => (Protocol::ICMP, 0),
        (false, true) => (Protocol::ICMPV6, 128),
        (false, false) => (Protocol::ICMPV6, 129),
    };
    let mut bytes = vec![message, 0, 0, 0, 0, 0, 0, 1];
    bytes[4..6].copy_from_slice(&id.to_be_bytes());
    bytes.extend_from_slice(b"abcdefg");
    wrap(src, dst, protocol, &bytes)
}

/// A port-unreachable error that quotes the first `quote` bytes of a packet.
pub(crate) fn unreachable(src: &str, dst: &str, quoted: &[u8], quote: usize) -> Vec<u8> {
    let (src, dst) = (ip(src), ip(dst));
    let (protocol, head) = if src.is_ipv4() {
        (Protocol::ICMP, [3, 3, 0, 0, 0, 0, 0, 0])
    } else {
        (Protocol::ICMPV6, [1, 4, 0, 0, 0, 0, 0, 0])
    };
    let mut bytes = head.to_vec();
    bytes.extend_from_slice(&quoted[..quote.min(quoted.len())]);
    wrap(src, dst, protocol, &bytes)
}

/// What the transport checksum should be, by whole computation; with the offset of its field.
pub(crate) fn transport_checksum(bytes: &[u8]) -> Option<(usize, u16)> {
    if bytes[0] >> 4 == 4 {
        let header = Ipv4Packet::new(bytes).unwrap();
        let (src, dst) = (header.get_source(), header.get_destination());
        let at = usize::from(header.get_header_length()) * 4;
        let transport = &bytes[at..];
        match Protocol(header.get_next_level_protocol().0) {
            Protocol::TCP => {
                let header = TcpPacket::new(transport).unwrap();
                Some((at + 16, tcp::ipv4_checksum(&header, &src, &dst)))
            }
            Protocol::UDP => {
                let header = UdpPacket::new(transport).unwrap();
                Some((at + 6, udp::ipv4_checksum(&header, &src, &dst)))
            }
            Protocol::ICMP => {
                let message = IcmpPacket::new(transport).unwrap();
                Some((at + 2, pnet_packet::icmp::checksum(&message)))
            }
            _ => None,
        }
    } else {
        let header = Ipv6Packet::new(bytes).unwrap();
        let (src, dst) = (header.get_source(), header.get_destination());
        let transport = header.payload();
        match Protocol(header.get_next_header().0) {
            Protocol::TCP => {
                let header = TcpPacket::new(transport).unwrap();
                Some((56, tcp::ipv6_checksum(&header, &src, &dst)))
            }
            Protocol::UDP => {
                let header = UdpPacket::new(transport).unwrap();
                Some((46, udp::ipv6_checksum(&header, &src, &dst)))
            }
            Protocol::ICMPV6 => {
                let message = Icmpv6Packet::new(transport).unwrap();
                Some((42, pnet_packet::icmpv6::checksum(&message, &src, &dst)))
            }
            _ => None,
        }
    }
}

/// Writes the right transport checksum.
pub(crate) fn complete(bytes: &mut [u8]) {
    if let Some((at, checksum)) = transport_checksum(bytes) {
        let is_udp = at % 20 == 6;
        let checksum = if is_udp && checksum == 0 {
            0xffff
        } else {
            checksum
        };
        bytes[at..at + 2].copy_from_slice(&checksum.to_be_bytes());
    }
}

/// The folded sum of the pseudo-header, as a kernel leaves it for offloading.
fn partial_sum(bytes: &[u8]) -> Option<(usize, u16)> {
    let (at, _) = transport_checksum(bytes)?;
    let mut copy = bytes.to_vec();
    let packet = Packet::parse(&mut copy, Checksum::Partial).unwrap();
    let length = packet.len() - packet.header_len();
    let sum = pseudo_header(packet.src(), packet.dst(), packet.protocol(), length);
    Some((at, fold(sum)))
}

/// Turns a complete checksum into a partial one.
pub(crate) fn make_partial(bytes: &mut [u8]) {
    let (at, sum) = partial_sum(bytes).unwrap();
    bytes[at..at + 2].copy_from_slice(&sum.to_be_bytes());
}

/// Panics unless the header checksum and the transport checksum are right.
#[track_caller]
pub(crate) fn assert_valid(bytes: &[u8], checksum: Checksum) {
    if bytes[0] >> 4 == 4 {
        let header = Ipv4Packet::new(bytes).unwrap();
        assert_eq!(
            header.get_checksum(),
            ipv4::checksum(&header),
            "IPv4 header checksum"
        );
    }
    let expected = match checksum {
        Checksum::Complete => transport_checksum(bytes),
        Checksum::Partial => partial_sum(bytes),
    };
    if let Some((at, expected)) = expected {
        let field = u16::from_be_bytes([bytes[at], bytes[at + 1]]);
        // 0 and 0xffff are the same number; UDP writes the latter.
        assert!(
            field == expected || (expected == 0 && field == 0xffff),
            "transport checksum {field:#06x}, expected {expected:#06x}"
        );
    }
}

/// Cuts a packet into fragments behind its first `kept` bytes, which all of them have, at these
/// offsets of the rest: multiples of 8, in order. Of IPv6, `kept` is 40 and the extension headers
/// that come before the fragment header.
pub(crate) fn cut(
    bytes: &[u8],
    kept: usize,
    identification: u32,
    offsets: &[usize],
) -> Vec<Vec<u8>> {
    let data = &bytes[kept..];
    let mut ends = offsets.to_vec();
    ends.push(data.len());
    let starts = std::iter::once(0).chain(offsets.iter().copied());
    let pieces = starts.zip(ends);
    pieces
        .map(|(start, end)| piece(bytes, kept, identification, start..end, end < data.len()))
        .collect()
}

/// One fragment of a packet, as [`cut`] makes them, its data being of this range.
pub(crate) fn piece(
    bytes: &[u8],
    kept: usize,
    identification: u32,
    range: std::ops::Range<usize>,
    more: bool,
) -> Vec<u8> {
    let mut piece = bytes[..kept].to_vec();
    if bytes[0] >> 4 == 4 {
        piece.extend_from_slice(&bytes[kept..][range.clone()]);
        let length = piece.len() as u16;
        let mut header = MutableIpv4Packet::new(&mut piece).unwrap();
        header.set_total_length(length);
        header.set_identification(identification as u16);
        header.set_flags(u8::from(more));
        header.set_fragment_offset((range.start / 8) as u16);
        header.set_checksum(ipv4::checksum(&header.to_immutable()));
        return piece;
    }
    // The type of what follows, where the last of the headers kept says so.
    let (mut at, mut end) = (6, 40);
    while end < kept {
        at = end;
        end += (usize::from(bytes[end + 1]) + 1) * 8;
    }
    let next = std::mem::replace(&mut piece[at], 44);
    let field = range.start as u16 | u16::from(more);
    piece.extend_from_slice(&[next, 0]);
    piece.extend_from_slice(&field.to_be_bytes());
    piece.extend_from_slice(&identification.to_be_bytes());
    piece.extend_from_slice(&bytes[kept..][range]);
    let length = (piece.len() - 40) as u16;
    piece[4..6].copy_from_slice(&length.to_be_bytes());
    piece
}

/// Puts extension headers of 8 bytes, given as their types, between an IPv6 header and the rest.
pub(crate) fn extended(bytes: &[u8], extensions: &[u8]) -> Vec<u8> {
    let mut out = bytes[..40].to_vec();
    let mut at = 6;
    for &extension in extensions {
        let next = std::mem::replace(&mut out[at], extension);
        at = out.len();
        out.extend_from_slice(&[next, 0, 1, 4, 0, 0, 0, 0]);
    }
    out.extend_from_slice(&bytes[40..]);
    let length = (out.len() - 40) as u16;
    out[4..6].copy_from_slice(&length.to_be_bytes());
    out
}

/// Puts fragments together again, naively. None while one is missing. Panics when two do not
/// belong together, or disagree.
pub(crate) fn reassemble(pieces: &[Vec<u8>], kept: usize) -> Option<Vec<u8>> {
    let first = pieces.first()?;
    let v4 = first[0] >> 4 == 4;
    let (mut data, mut end) = (vec![None; 65_536], None);
    let mut identification = None;
    for piece in pieces {
        let (id, field, more, body) = if v4 {
            let header = Ipv4Packet::new(piece).unwrap();
            assert_eq!(header.get_checksum(), ipv4::checksum(&header));
            let offset = usize::from(header.get_fragment_offset()) * 8;
            let id = u32::from(header.get_identification());
            (id, offset, header.get_flags() & 1 != 0, &piece[kept..])
        } else {
            let header = &piece[kept..kept + 8];
            let field = usize::from(u16::from_be_bytes([header[2], header[3]]));
            let id = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
            (id, field & !7, field & 1 != 0, &piece[kept + 8..])
        };
        assert_eq!(*identification.get_or_insert(id), id, "two datagrams");
        let addresses = if v4 { 12..20 } else { 8..40 };
        assert_eq!(piece[addresses.clone()], first[addresses], "two datagrams");
        for (at, &byte) in (field..).zip(body) {
            assert_eq!(data[at].replace(byte), None, "an overlap got through");
        }
        if !more {
            end = Some(field + body.len());
        }
    }
    let data: Option<Vec<u8>> = data[..end?].iter().copied().collect();
    let mut whole = first[..kept].to_vec();
    whole.extend(data?);
    if v4 {
        let length = whole.len() as u16;
        let mut header = MutableIpv4Packet::new(&mut whole).unwrap();
        header.set_total_length(length);
        header.set_flags(0);
        header.set_checksum(ipv4::checksum(&header.to_immutable()));
    } else {
        let (mut at, mut next) = (6, 40);
        while next < kept {
            at = next;
            next += (usize::from(first[next + 1]) + 1) * 8;
        }
        whole[at] = first[kept];
        let length = (whole.len() - 40) as u16;
        whole[4..6].copy_from_slice(&length.to_be_bytes());
    }
    Some(whole)
}
