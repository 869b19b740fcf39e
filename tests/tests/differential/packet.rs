//! Packets of the comparison: made by hand, taken apart again, and answered.

use std::net::IpAddr;

pub(crate) const ICMP: u8 = 1;
pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
pub(crate) const ICMPV6: u8 = 58;
const FRAGMENT: u8 = 44;

pub(crate) mod flag {
    pub(crate) const FIN: u8 = 1;
    pub(crate) const SYN: u8 = 2;
    pub(crate) const RST: u8 = 4;
    pub(crate) const PSH: u8 = 8;
    pub(crate) const ACK: u8 = 16;
}

/// An address and a port, or an echo's identifier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct End {
    pub(crate) address: IpAddr,
    pub(crate) port: u16,
}

/// What a packet says beyond its ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Body {
    Tcp {
        flags: u8,
        sequence: u32,
        acknowledgement: u32,
        payload: Vec<u8>,
    },
    Udp {
        payload: Vec<u8>,
        summed: bool,
    },
    Echo {
        reply: bool,
        payload: Vec<u8>,
    },
}

/// A packet to be sent.
#[derive(Clone, Debug)]
pub(crate) struct Sketch {
    pub(crate) src: End,
    pub(crate) dst: End,
    pub(crate) body: Body,
    pub(crate) ttl: u8,
    /// Words of no-operation options in an IPv4 header.
    pub(crate) options: usize,
    pub(crate) id: u16,
}

impl Sketch {
    pub(crate) fn build(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let port = |port: u16| port.to_be_bytes();
        let protocol = match &self.body {
            Body::Tcp {
                flags,
                sequence,
                acknowledgement,
                payload,
            } => {
                bytes.extend(port(self.src.port));
                bytes.extend(port(self.dst.port));
                bytes.extend(sequence.to_be_bytes());
                bytes.extend(acknowledgement.to_be_bytes());
                bytes.extend([5 << 4, *flags, 0x20, 0, 0, 0, 0, 0]);
                bytes.extend(payload);
                TCP
            }
            Body::Udp { payload, .. } => {
                bytes.extend(port(self.src.port));
                bytes.extend(port(self.dst.port));
                bytes.extend((8 + payload.len() as u16).to_be_bytes());
                bytes.extend([0, 0]);
                bytes.extend(payload);
                UDP
            }
            Body::Echo { reply, payload } => {
                let ipv4 = self.src.address.is_ipv4();
                let message = match (ipv4, reply) {
                    (true, false) => 8,
                    (true, true) => 0,
                    (false, reply) => 128 + u8::from(*reply),
                };
                let id = if *reply { self.dst.port } else { self.src.port };
                bytes.extend([message, 0, 0, 0]);
                bytes.extend(port(id));
                bytes.extend([0, 1]);
                bytes.extend(payload);
                if ipv4 { ICMP } else { ICMPV6 }
            }
        };
        let ends = (self.src.address, self.dst.address);
        let mut packet = wrap(ends, protocol, &bytes, self.ttl, self.options, self.id);
        complete(&mut packet);
        if let Body::Udp { summed: false, .. } = self.body {
            let at = header_len(&packet) + 6;
            packet[at..at + 2].fill(0);
        }
        packet
    }
}

/// An IP packet without checksums.
fn wrap(
    ends: (IpAddr, IpAddr),
    protocol: u8,
    body: &[u8],
    ttl: u8,
    options: usize,
    id: u16,
) -> Vec<u8> {
    match ends {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            let header = 20 + options * 4;
            let mut packet = vec![0x40 | (header / 4) as u8, 0];
            packet.extend(((header + body.len()) as u16).to_be_bytes());
            packet.extend(id.to_be_bytes());
            packet.extend([0, 0, ttl, protocol, 0, 0]);
            packet.extend(src.octets());
            packet.extend(dst.octets());
            packet.resize(header, 1);
            packet.extend(body);
            packet
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            let mut packet = vec![0x60, 0, 0, 0];
            packet.extend((body.len() as u16).to_be_bytes());
            packet.extend([protocol, ttl]);
            packet.extend(src.octets());
            packet.extend(dst.octets());
            packet.extend(body);
            packet
        }
        _ => panic!("two families"),
    }
}

/// Bytes before the transport header. The packets here have no extension headers of IPv6 but that
/// of a fragment.
pub(crate) fn header_len(packet: &[u8]) -> usize {
    if packet[0] >> 4 == 4 {
        usize::from(packet[0] & 15) * 4
    } else if packet[6] == FRAGMENT {
        48
    } else {
        40
    }
}

pub(crate) fn protocol(packet: &[u8]) -> u8 {
    match packet[0] >> 4 {
        4 => packet[9],
        _ if packet[6] == FRAGMENT => packet[40],
        _ => packet[6],
    }
}

pub(crate) fn ends(packet: &[u8]) -> (IpAddr, IpAddr) {
    let four = |at: usize| {
        let octets: [u8; 4] = packet[at..at + 4].try_into().expect("four");
        IpAddr::from(octets)
    };
    let six = |at: usize| {
        let octets: [u8; 16] = packet[at..at + 16].try_into().expect("sixteen");
        IpAddr::from(octets)
    };
    if packet[0] >> 4 == 4 {
        (four(12), four(16))
    } else {
        (six(8), six(24))
    }
}

pub(crate) fn word(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

/// The ports, or 0 and an echo's identifier on the side that asked.
pub(crate) fn ports(packet: &[u8]) -> Option<(u16, u16)> {
    let transport = packet.get(header_len(packet)..)?;
    let ports = transport.get(..8)?;
    match (protocol(packet), ports[0]) {
        (TCP | UDP, _) => Some((word(ports, 0), word(ports, 2))),
        (ICMP, 8) | (ICMPV6, 128) => Some((word(ports, 4), 0)),
        (ICMP, 0) | (ICMPV6, 129) => Some((0, word(ports, 4))),
        _ => None,
    }
}

pub(crate) fn is_icmp_error(packet: &[u8]) -> bool {
    let message = packet.get(header_len(packet)).copied();
    match protocol(packet) {
        ICMP => matches!(message, Some(3 | 11 | 12)),
        ICMPV6 => matches!(message, Some(1..=4)),
        _ => false,
    }
}

/// Whether the header's sum is right, and the transport's.
pub(crate) fn sums_are_right(packet: &[u8]) -> (bool, bool) {
    let header = header_len(packet);
    let header_right = packet[0] >> 4 == 6 || fold(sum(&packet[..header])) == 0xffff;
    let transport = &packet[header..];
    let unsummed = protocol(packet) == UDP && packet[0] >> 4 == 4 && word(transport, 6) == 0;
    let right = unsummed || fold(sum(transport) + pseudo_header(packet)) == 0xffff;
    (header_right, right)
}

/// Puts right sums into a whole packet.
pub(crate) fn complete(packet: &mut [u8]) {
    let header = header_len(packet);
    let at = header
        + match protocol(packet) {
            TCP => 16,
            UDP => 6,
            _ => 2,
        };
    packet[at..at + 2].fill(0);
    let checksum = match !fold(sum(&packet[header..]) + pseudo_header(packet)) {
        0 => 0xffff,
        other => other,
    };
    packet[at..at + 2].copy_from_slice(&checksum.to_be_bytes());
    complete_header(packet);
}

pub(crate) fn complete_header(packet: &mut [u8]) {
    if packet[0] >> 4 == 4 {
        let header = header_len(packet);
        packet[10..12].fill(0);
        let checksum = !fold(sum(&packet[..header]));
        packet[10..12].copy_from_slice(&checksum.to_be_bytes());
    }
}

fn pseudo_header(packet: &[u8]) -> u64 {
    let protocol = protocol(packet);
    if protocol == ICMP {
        return 0;
    }
    let addresses = if packet[0] >> 4 == 4 {
        &packet[12..20]
    } else {
        &packet[8..40]
    };
    sum(addresses) + u64::from(protocol) + (packet.len() - header_len(packet)) as u64
}

fn sum(bytes: &[u8]) -> u64 {
    let word = |pair: &[u8]| u64::from(pair[0]) << 8 | u64::from(pair.get(1).copied().unwrap_or(0));
    bytes.chunks(2).map(word).sum()
}

fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    sum as u16
}

/// The answer of a packet's receiver, in the packet's own numbers.
pub(crate) fn answer(packet: &[u8], flags: u8, payload: &[u8], id: u16) -> Option<Vec<u8>> {
    let (src_port, dst_port) = ports(packet)?;
    let (src, dst) = ends(packet);
    let transport = &packet[header_len(packet)..];
    let payload = payload.to_vec();
    let body = match protocol(packet) {
        TCP => {
            let long = |at: usize| {
                u32::from(word(transport, at)) << 16 | u32::from(word(transport, at + 2))
            };
            let took = (transport.len() - 20) as u32
                + u32::from(transport[13] & flag::SYN != 0)
                + u32::from(transport[13] & flag::FIN != 0);
            let acknowledged = transport[13] & flag::ACK != 0;
            Body::Tcp {
                flags,
                // A side that has not spoken yet begins somewhere.
                sequence: if acknowledged { long(8) } else { 0x0700_0000 },
                acknowledgement: if flags & flag::ACK == 0 {
                    0
                } else {
                    long(4).wrapping_add(took)
                },
                payload,
            }
        }
        UDP => Body::Udp {
            payload,
            summed: true,
        },
        _ => Body::Echo {
            reply: matches!(transport[0], 8 | 128),
            payload: transport[8..].to_vec(),
        },
    };
    let end = |address, port| End { address, port };
    let sketch = Sketch {
        src: end(dst, dst_port),
        dst: end(src, src_port),
        body,
        ttl: 64,
        options: 0,
        id,
    };
    Some(sketch.build())
}

/// An ICMP error about a packet to its sender, from its receiver or from a router.
pub(crate) fn error(
    packet: &[u8],
    from: Option<IpAddr>,
    kind: (u8, u8),
    quote: usize,
    id: u16,
) -> Vec<u8> {
    let (src, dst) = ends(packet);
    // The unused word; of Fragmentation Needed and Packet Too Big it tells the MTU.
    let mut message = vec![kind.0, kind.1, 0, 0, 0, 0, 5, 0];
    message.extend(&packet[..packet.len().min(quote)]);
    let protocol = if src.is_ipv4() { ICMP } else { ICMPV6 };
    let mut error = wrap((from.unwrap_or(dst), src), protocol, &message, 64, 0, id);
    complete(&mut error);
    error
}

/// A whole packet in fragments whose data is at most `size` bytes, a multiple of 8.
pub(crate) fn fragments(packet: &[u8], size: usize) -> Vec<Vec<u8>> {
    let header = header_len(packet);
    let body = &packet[header..];
    let pieces = body.chunks(size).enumerate();
    pieces
        .map(|(index, data)| {
            let offset = index * size;
            let more = u16::from(offset + data.len() < body.len());
            let mut piece = packet[..header].to_vec();
            if packet[0] >> 4 == 4 {
                let fields = (offset / 8) as u16 | more << 13;
                piece[2..4].copy_from_slice(&((header + data.len()) as u16).to_be_bytes());
                piece[6..8].copy_from_slice(&fields.to_be_bytes());
                complete_header(&mut piece);
            } else {
                piece[4..6].copy_from_slice(&((8 + data.len()) as u16).to_be_bytes());
                let next = std::mem::replace(&mut piece[6], FRAGMENT);
                piece.extend([next, 0]);
                piece.extend((offset as u16 | more).to_be_bytes());
                piece.extend([0, 0, 0x77, 0x77]);
            }
            piece.extend(data);
            piece
        })
        .collect()
}

/// Puts fragments together again; whole packets stay as they are. Pieces without a whole are left
/// out.
pub(crate) fn reassemble(packets: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    let (pieces, mut whole): (Vec<_>, Vec<_>) = packets
        .into_iter()
        .partition(|packet| piece(packet).is_some());
    let mut pieces: Vec<(usize, bool, Vec<u8>)> = pieces
        .into_iter()
        .filter_map(|packet| piece(&packet).map(|(offset, more)| (offset, more, packet)))
        .collect();
    pieces.sort_by_key(|(offset, _, _)| *offset);
    let mut body: Vec<u8> = Vec::new();
    for (offset, _, packet) in &pieces {
        if *offset == body.len() {
            body.extend(&packet[header_len(packet)..]);
        }
    }
    if let Some((_, false, _)) = pieces.last() {
        let (_, _, first) = &pieces[0];
        let mut packet = first[..header_len(first)].to_vec();
        if packet[0] >> 4 == 4 {
            let length = packet.len() + body.len();
            packet[2..4].copy_from_slice(&(length as u16).to_be_bytes());
            packet[6..8].fill(0);
            complete_header(&mut packet);
        } else {
            packet[6] = packet[40];
            packet.truncate(40);
            packet[4..6].copy_from_slice(&(body.len() as u16).to_be_bytes());
        }
        packet.extend(body);
        whole.push(packet);
    }
    whole
}

/// The offset of a fragment in bytes, and whether more follow. None for a whole packet.
fn piece(packet: &[u8]) -> Option<(usize, bool)> {
    if packet[0] >> 4 == 4 {
        let fields = word(packet, 6);
        let piece = (usize::from(fields & 0x1fff) * 8, fields & 0x2000 != 0);
        (fields & 0x3fff != 0).then_some(piece)
    } else {
        let fields = word(packet.get(42..44)?, 0);
        (packet[6] == FRAGMENT).then_some((usize::from(fields & 0xfff8), fields & 1 != 0))
    }
}
