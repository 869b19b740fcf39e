//! What a NAT made of a packet, in words that are the same for both: ports that it chose freely get
//! names, after the step in which they are first seen.

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;

use crate::net::{Side, is_host, is_published};
use crate::packet::{
    ICMP, TCP, UDP, ends, flag, header_len, is_icmp_error, ports, protocol, sums_are_right, word,
};

/// A packet that came out.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) side: Side,
    pub(crate) ttl: u8,
    pub(crate) what: What,
    /// The IP identification; none for IPv6, and for what was in fragments or of the router's own.
    pub(crate) id: Option<u16>,
    /// Words of options.
    pub(crate) options: usize,
    /// Of the IP header, of the transport.
    pub(crate) sums: (bool, bool),
}

impl Seen {
    pub(crate) fn has_chosen_source(&self) -> bool {
        matches!(self.what.src.1, Port::Chosen(_))
    }

    pub(crate) fn is_reset(&self) -> bool {
        // Past the ports, the sequence number, the acknowledgement and the offset.
        matches!(&self.what.body, Body::Bytes(bytes)
            if self.what.protocol == TCP && bytes[9] & flag::RST != 0)
    }
}

#[derive(Clone, PartialEq, Eq)]
pub(crate) struct What {
    pub(crate) src: (IpAddr, Port),
    pub(crate) dst: (IpAddr, Port),
    pub(crate) protocol: u8,
    pub(crate) body: Body,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Port {
    Fixed(u16),
    /// By its name.
    Chosen(usize),
}

#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Body {
    /// What follows the ports, without checksum.
    Bytes(Vec<u8>),
    /// An error with the packet that it quotes.
    Error {
        kind: (u8, u8),
        word: u32,
        quoted: Option<Box<What>>,
    },
}

/// The names of chosen ports. A port has one name towards one peer: the step in which it was seen
/// first.
#[derive(Default)]
pub(crate) struct Names {
    known: HashMap<(u8, u16, IpAddr, u16), usize>,
    pub(crate) step: usize,
}

impl Names {
    pub(crate) fn see(&mut self, side: Side, packet: &[u8], keeps_id: bool) -> Seen {
        let ipv4 = packet[0] >> 4 == 4;
        Seen {
            side,
            ttl: packet[if ipv4 { 8 } else { 7 }],
            what: self.what(packet),
            id: (ipv4 && keeps_id && !is_of_router(packet)).then(|| word(packet, 4)),
            options: if ipv4 { header_len(packet) / 4 - 5 } else { 0 },
            sums: sums_are_right(packet),
        }
    }

    fn what(&mut self, packet: &[u8]) -> What {
        let (src, dst) = ends(packet);
        let protocol = protocol(packet);
        let transport = &packet[header_len(packet)..];
        if is_icmp_error(packet) {
            let quoted = transport.get(8..).filter(|quoted| quoted.len() >= 28);
            let mut quoted = quoted.map(|quoted| Box::new(self.what(quoted)));
            if let Some(quoted) = &mut quoted
                && let Body::Bytes(bytes) = &mut quoted.body
            {
                // How much is quoted is for each to choose, from 8 bytes on (RFC 792), and what
                // a checksum in it is worth nobody says (RFC 5508 section 4.2).
                bytes.truncate(0);
            }
            return What {
                src: (src, Port::Fixed(0)),
                dst: (dst, Port::Fixed(0)),
                protocol,
                body: Body::Error {
                    kind: (transport[0], transport[1]),
                    word: u32::from(word(transport, 4)) << 16 | u32::from(word(transport, 6)),
                    quoted,
                },
            };
        }
        let (src_port, dst_port) = ports(packet).unwrap_or((0, 0));
        let skip = |without: std::ops::Range<usize>| {
            let bytes = transport.iter().enumerate();
            let kept = bytes.filter(|(at, _)| *at >= 4 && !without.contains(at));
            kept.map(|(_, byte)| *byte).collect()
        };
        let mut bytes: Vec<u8> = match protocol {
            TCP => skip(16..18),
            UDP => skip(6..8),
            _ => skip(4..6),
        };
        if protocol != TCP && protocol != UDP {
            bytes.insert(0, transport[0]);
        }
        What {
            src: (src, self.name(protocol, (src, src_port), (dst, dst_port))),
            dst: (dst, self.name(protocol, (dst, dst_port), (src, src_port))),
            protocol,
            body: Body::Bytes(bytes),
        }
    }

    /// A port of the host's that nobody published was chosen.
    fn name(&mut self, protocol: u8, own: (IpAddr, u16), peer: (IpAddr, u16)) -> Port {
        if !is_host(own.0) || own.1 == 0 || is_published(protocol, own.1) {
            return Port::Fixed(own.1);
        }
        let key = (protocol, own.1, peer.0, peer.1);
        Port::Chosen(*self.known.entry(key).or_insert(self.step))
    }
}

/// An ICMP error that the router wrote itself has an identification of the router's own.
fn is_of_router(packet: &[u8]) -> bool {
    is_icmp_error(packet) && crate::net::is_router(ends(packet).0)
}

impl fmt::Debug for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {:?} ttl {}", self.side, self.what, self.ttl)?;
        if let Some(id) = self.id {
            write!(f, " id {id}")?;
        }
        if self.options > 0 {
            write!(f, " options {}", self.options)?;
        }
        if self.sums != (true, true) {
            write!(f, " sums {:?}", self.sums)?;
        }
        Ok(())
    }
}

impl fmt::Debug for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = |(address, port): (IpAddr, Port)| match port {
            Port::Fixed(0) => address.to_string(),
            Port::Fixed(port) => format!("{address}.{port}"),
            Port::Chosen(name) => format!("{address}.#{name}"),
        };
        let protocol = match self.protocol {
            TCP => "tcp",
            UDP => "udp",
            ICMP => "icmp",
            _ => "icmpv6",
        };
        write!(f, "{protocol} {} > {}", end(self.src), end(self.dst))?;
        match &self.body {
            Body::Bytes(bytes) if self.protocol == TCP && bytes.len() >= 14 => {
                write!(f, " flags {:02x}, {} bytes", bytes[9], bytes.len() - 14)
            }
            Body::Bytes(bytes) => write!(f, " {} bytes", bytes.len()),
            Body::Error { kind, word, quoted } => {
                write!(f, " error {kind:?} {word:#x}")?;
                match quoted {
                    Some(quoted) => write!(f, " about [{quoted:?}]"),
                    None => Ok(()),
                }
            }
        }
    }
}
