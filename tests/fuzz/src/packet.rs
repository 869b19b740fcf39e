//! Packets drawn from an input: mostly such as hosts send, for bytes alone seldom get past the
//! first check, and each may be damaged at will.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use arbitrary::Arbitrary;

use crate::sums;

const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const FRAGMENT: u8 = 44;
const ICMPV6: u8 = 58;

/// Addresses of IPv4, and of IPv6 in the same order: two containers of one network, one of another,
/// both gateways, the host, two peers, a far one, and such as no router forwards.
const ADDRESSES: [(Ipv4Addr, Ipv6Addr); 16] = [
    (Ipv4Addr::new(10, 0, 0, 2), v6(0xfd00, 2)),
    (Ipv4Addr::new(10, 0, 0, 3), v6(0xfd00, 3)),
    (Ipv4Addr::new(10, 1, 0, 2), v6(0xfd01, 2)),
    (Ipv4Addr::new(10, 0, 0, 1), v6(0xfd00, 1)),
    (Ipv4Addr::new(10, 1, 0, 1), v6(0xfd01, 1)),
    (HOST4, HOST6),
    (Ipv4Addr::new(192, 0, 2, 9), v6(0x2001, 9)),
    (Ipv4Addr::new(192, 0, 2, 10), v6(0x2001, 10)),
    (Ipv4Addr::new(198, 51, 100, 7), v6(0x2002, 7)),
    (Ipv4Addr::new(10, 0, 0, 77), v6(0xfd00, 77)),
    (Ipv4Addr::new(172, 16, 0, 5), v6(0xfd09, 5)),
    (Ipv4Addr::LOCALHOST, Ipv6Addr::LOCALHOST),
    (Ipv4Addr::UNSPECIFIED, Ipv6Addr::UNSPECIFIED),
    (Ipv4Addr::BROADCAST, v6(0xff02, 1)),
    (Ipv4Addr::new(224, 0, 0, 1), v6(0xff02, 2)),
    (Ipv4Addr::new(10, 0, 0, 255), v6(0xfe80, 2)),
];

const PORTS: [u16; 12] = [
    80, 443, 53, 4242, 4243, 8000, 8001, 8010, 8019, 61000, 61001, 61015,
];

pub(crate) const HOST4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
pub(crate) const HOST6: Ipv6Addr = v6(0x2001, 1);

pub(crate) const fn v6(first: u16, last: u16) -> Ipv6Addr {
    Ipv6Addr::new(first, 0, 0, 0, 0, 0, 0, last)
}

/// One of the addresses.
pub(crate) fn address(index: u8, ipv6: bool) -> IpAddr {
    let (four, six) = ADDRESSES[usize::from(index) % ADDRESSES.len()];
    if ipv6 { six.into() } else { four.into() }
}

fn port(index: u8) -> u16 {
    PORTS[usize::from(index) % PORTS.len()]
}

/// A packet as an input describes it.
#[derive(Arbitrary, Clone, Debug)]
pub(crate) struct Shape<'a> {
    pub(crate) ipv6: bool,
    pub(crate) src: u8,
    pub(crate) dst: u8,
    ttl: Ttl,
    content: Content,
    /// Bytes of payload; up to 4095 most of the time.
    payload: u16,
    /// IPv4: words of options. IPv6: how many extension headers of destination options.
    options: u8,
    /// The fields of a fragment, of what is otherwise a whole packet.
    fragment: Option<(u16, u8)>,
    pub(crate) damage: Damage<'a>,
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Ttl {
    Many,
    Two,
    One,
    Zero,
}

#[derive(Arbitrary, Clone, Debug)]
enum Content {
    Tcp {
        ports: (u8, u8),
        flags: u8,
        sequence: u8,
        acknowledgement: u8,
        /// Words of options.
        options: u8,
    },
    Udp {
        ports: (u8, u8),
        summed: bool,
    },
    Echo {
        reply: bool,
        id: u8,
    },
    /// About a packet that left earlier, or about any.
    Error {
        message: u8,
        code: u8,
        about: u8,
        quoted: u16,
        damage: u8,
    },
    Other {
        protocol: u8,
    },
}

/// What happens to bytes after their sums were right.
#[derive(Arbitrary, Clone, Debug)]
pub(crate) struct Damage<'a> {
    bytes: &'a [u8],
    /// 0: `bytes` are (position, value) pairs; 1: the packet is also cut; 2: padding follows.
    kind: u8,
}

impl Damage<'_> {
    pub(crate) fn inflict(&self, packet: &mut Vec<u8>) {
        let mut bytes = self.bytes;
        if let (1 | 2, Some((&amount, rest))) = (self.kind % 8, bytes.split_first()) {
            bytes = rest;
            if self.kind % 8 == 1 {
                packet.truncate(packet.len().saturating_sub(usize::from(amount) + 1));
            } else {
                packet.resize(packet.len() + usize::from(amount), 0xa5);
            }
        }
        for pair in bytes.chunks_exact(2).take(16) {
            // Headers are what is read.
            let reach = packet.len().min(256);
            if reach > 0 {
                packet[usize::from(pair[0]) % reach] = pair[1];
            }
        }
    }
}

impl Shape<'_> {
    /// The packet's bytes. `seen` are packets that an ICMP error may be about.
    pub(crate) fn build(&self, seen: &[Vec<u8>]) -> Vec<u8> {
        let (mut src, mut dst) = (address(self.src, self.ipv6), address(self.dst, self.ipv6));
        let payload = usize::from(self.payload);
        // Super-frames are possible, and rare.
        let payload = if payload < 65_000 {
            payload % 4096
        } else {
            60_000
        };
        let (protocol, transport) = match &self.content {
            Content::Tcp {
                ports,
                flags,
                sequence,
                acknowledgement,
                options,
            } => {
                let options = usize::from(options % 11);
                let mut segment = vec![0; 20 + options * 4 + payload];
                segment[..2].copy_from_slice(&port(ports.0).to_be_bytes());
                segment[2..4].copy_from_slice(&port(ports.1).to_be_bytes());
                segment[4..8].copy_from_slice(&(u32::from(*sequence) << 8).to_be_bytes());
                segment[8..12].copy_from_slice(&(u32::from(*acknowledgement) << 8).to_be_bytes());
                segment[12] = ((5 + options) << 4) as u8;
                segment[13] = *flags;
                if options > 0 {
                    segment[20..24].copy_from_slice(&[2, 4, 0x05, 0xb4]);
                }
                (TCP, segment)
            }
            Content::Udp { ports, .. } => {
                let mut datagram = vec![0; 8 + payload];
                datagram[..2].copy_from_slice(&port(ports.0).to_be_bytes());
                datagram[2..4].copy_from_slice(&port(ports.1).to_be_bytes());
                datagram[4..6].copy_from_slice(&((8 + payload) as u16).to_be_bytes());
                (UDP, datagram)
            }
            Content::Echo { reply, id } => {
                let mut message = vec![0; 8 + payload];
                message[0] = match (self.ipv6, reply) {
                    (false, false) => 8,
                    (false, true) => 0,
                    (true, reply) => 128 + u8::from(*reply),
                };
                message[5] = *id;
                (if self.ipv6 { ICMPV6 } else { ICMP }, message)
            }
            Content::Error {
                message,
                code,
                about,
                quoted,
                damage,
            } => {
                let mut error = vec![*message, *code, 0, 0, 0, 0, 5, 0xdc];
                if let Some(packet) = seen.get(usize::from(*about) % seen.len().max(1)) {
                    let quoted = usize::from(*quoted) % 2048;
                    error.extend(&packet[..packet.len().min(quoted)]);
                    // The error goes to the sender, from a router or from the receiver.
                    if let Some(parts) = sums::parts(packet) {
                        dst = parts.src;
                        if self.src.is_multiple_of(2) || src.is_ipv4() != dst.is_ipv4() {
                            src = parts.dst;
                        }
                    }
                    if *damage < 64 && error.len() > 8 {
                        let at = 8 + usize::from(*damage) % (error.len() - 8);
                        error[at] ^= 0x11;
                    }
                }
                (if dst.is_ipv4() { ICMP } else { ICMPV6 }, error)
            }
            Content::Other { protocol } => (*protocol, vec![0x2a; payload % 128]),
        };
        let mut packet = match (src, dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => self.ipv4(src, dst, protocol, &transport),
            (IpAddr::V6(src), IpAddr::V6(dst)) => self.ipv6(src, dst, protocol, &transport),
            _ => Vec::new(),
        };
        sums::complete(&mut packet);
        if let Content::Udp { summed: false, .. } = self.content
            && !self.ipv6
        {
            let transport = usize::from(packet[0] & 15) * 4;
            packet[transport + 6..transport + 8].fill(0);
        }
        self.mark_fragment(&mut packet);
        self.damage.inflict(&mut packet);
        packet
    }

    /// The packet without damage, as one piece, about nothing that came before.
    pub(crate) fn whole(&self) -> Vec<u8> {
        let whole = Shape {
            fragment: None,
            damage: Damage {
                bytes: &[],
                kind: 0,
            },
            ..self.clone()
        };
        whole.build(&[])
    }

    fn ttl(&self) -> u8 {
        match self.ttl {
            Ttl::Many => 64,
            Ttl::Two => 2,
            Ttl::One => 1,
            Ttl::Zero => 0,
        }
    }

    fn ipv4(&self, src: Ipv4Addr, dst: Ipv4Addr, protocol: u8, transport: &[u8]) -> Vec<u8> {
        let options = usize::from(self.options % 11);
        let header = 20 + options * 4;
        let mut packet = vec![1; header];
        packet[0] = 0x40 | (header / 4) as u8;
        packet[1] = 0;
        packet[2..4].copy_from_slice(&((header + transport.len()) as u16).to_be_bytes());
        packet[4..8].copy_from_slice(&[0x12, 0x34, 0, 0]);
        packet[8] = self.ttl();
        packet[9] = protocol;
        packet[12..16].copy_from_slice(&src.octets());
        packet[16..20].copy_from_slice(&dst.octets());
        packet.extend(transport);
        packet
    }

    fn ipv6(&self, src: Ipv6Addr, dst: Ipv6Addr, protocol: u8, transport: &[u8]) -> Vec<u8> {
        const DESTINATION: u8 = 60;
        let extensions = usize::from(self.options % 5);
        let mut headers = Vec::new();
        for index in 0..extensions {
            let next = if index + 1 < extensions {
                DESTINATION
            } else {
                protocol
            };
            headers.extend([next, 0, 1, 4, 0, 0, 0, 0]);
        }
        if self.fragment.is_some() {
            // Marked as a fragment later, when the sums are there.
            let first = if headers.is_empty() {
                protocol
            } else {
                DESTINATION
            };
            headers.splice(..0, [first, 0, 0, 0, 0, 0, 0x12, 0x34]);
        }
        let first = match (self.fragment, headers.is_empty()) {
            (Some(_), _) => FRAGMENT,
            (None, false) => DESTINATION,
            (None, true) => protocol,
        };
        let mut packet = vec![0x60, 0, 0, 0];
        packet.extend(((headers.len() + transport.len()) as u16).to_be_bytes());
        packet.extend([first, self.ttl()]);
        packet.extend(src.octets());
        packet.extend(dst.octets());
        packet.extend(headers);
        packet.extend(transport);
        packet
    }

    fn mark_fragment(&self, packet: &mut [u8]) {
        let Some((fields, id)) = self.fragment else {
            return;
        };
        match packet.first().map(|byte| byte >> 4) {
            Some(4) => {
                packet[4..6].copy_from_slice(&u16::from(id).to_be_bytes());
                // More fragments and an offset, or don't fragment, or nothing.
                let fields = if fields & 0x8000 == 0 {
                    fields & 0x2007
                } else {
                    0x4000
                };
                packet[6..8].copy_from_slice(&fields.to_be_bytes());
                let header = usize::from(packet[0] & 15) * 4;
                packet[10..12].fill(0);
                let whole = sums::header_checksum(&packet[..header]);
                packet[10..12].copy_from_slice(&whole.to_be_bytes());
            }
            Some(6) if packet.len() >= 48 => {
                packet[42..44].copy_from_slice(&(fields & 0x00f9).to_be_bytes());
                packet[47] = id;
            }
            _ => {}
        }
    }
}

/// The answer to a whole packet: addresses and ports exchanged, with an ACK if it is TCP. None for
/// what has no ports and no echo identifier.
pub(crate) fn answer(packet: &[u8], flags: u8) -> Option<Vec<u8>> {
    let parts = sums::parts(packet).filter(|parts| !parts.fragment)?;
    let transport = &parts.bytes[parts.transport..];
    let mut reply = match parts.protocol {
        TCP if transport.len() >= 20 => {
            let mut segment = vec![0; 20];
            segment[4..8].copy_from_slice(&transport[8..12]);
            segment[8..12].copy_from_slice(&transport[4..8]);
            segment[12] = 5 << 4;
            segment[13] = flags;
            segment
        }
        UDP if transport.len() >= 8 => vec![0, 0, 0, 0, 0, 8, 0, 0],
        ICMP | ICMPV6 if transport.len() >= 8 => {
            let mut message = vec![0; 8];
            message[0] = match (parts.protocol, transport[0]) {
                (ICMP, 8) => 0,
                (ICMP, 0) => 8,
                (ICMPV6, 128) => 129,
                (ICMPV6, 129) => 128,
                _ => return None,
            };
            message[4..8].copy_from_slice(&transport[4..8]);
            message
        }
        _ => return None,
    };
    if matches!(parts.protocol, TCP | UDP) {
        reply[..2].copy_from_slice(&transport[2..4]);
        reply[2..4].copy_from_slice(&transport[..2]);
    }
    let mut bytes = match (parts.dst, parts.src) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            let mut header = vec![0x45, 0, 0, 20 + reply.len() as u8, 0, 1, 0, 0];
            header.extend([64, parts.protocol, 0, 0]);
            header.extend(src.octets());
            header.extend(dst.octets());
            header
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            let mut header = vec![0x60, 0, 0, 0, 0, reply.len() as u8, parts.protocol, 64];
            header.extend(src.octets());
            header.extend(dst.octets());
            header
        }
        _ => return None,
    };
    bytes.extend(reply);
    sums::complete(&mut bytes);
    Some(bytes)
}
