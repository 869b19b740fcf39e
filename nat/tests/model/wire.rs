//! Packets as descriptions. Their bytes are always made from nothing, every checksum a whole
//! computation: what the engine rewrites incrementally must come out the same to the byte.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use nat::{Protocol, Tuple};

pub(crate) const FIN: u8 = 1;
pub(crate) const SYN: u8 = 2;
pub(crate) const RST: u8 = 4;
pub(crate) const ACK: u8 = 16;

/// What of a TCP segment is no address and no port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Segment {
    pub(crate) flags: u8,
    pub(crate) sequence: u32,
    pub(crate) acknowledgement: u32,
    /// Bytes of payload.
    pub(crate) payload: u8,
    pub(crate) window: u16,
    /// The option of a SYN.
    pub(crate) scale: Option<u8>,
}

/// How much of the packet an ICMP error quotes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Keep {
    All,
    /// The IP header and eight bytes (RFC 792).
    Head,
    /// Less than that, which says too little.
    Less,
}

/// What is wrong with an ICMP error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Damage {
    None,
    /// The checksum of the ICMP message.
    Message,
    /// The header checksum of the quoted packet, where there is one.
    Quote,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Body {
    Tcp {
        src_port: u16,
        dst_port: u16,
        segment: Segment,
    },
    Udp {
        src_port: u16,
        dst_port: u16,
        payload: u8,
        /// Without a checksum, which only IPv4 allows (RFC 768).
        unsummed: bool,
    },
    Echo {
        request: bool,
        id: u16,
    },
    Error {
        /// Unreachable, time exceeded, parameter problem.
        which: usize,
        quoted: Box<Wire>,
        keep: Keep,
        damage: Damage,
    },
    Sctp {
        src_port: u16,
        dst_port: u16,
    },
    /// A tunnel, which has no ports.
    Gre,
    /// An authentication header, which is not translated.
    Other,
    /// A later fragment of a UDP datagram.
    Fragment,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wire {
    pub(crate) src: IpAddr,
    pub(crate) dst: IpAddr,
    pub(crate) body: Body,
}

impl Wire {
    pub(crate) fn protocol(&self) -> Protocol {
        match self.body {
            Body::Tcp { .. } => Protocol::TCP,
            Body::Udp { .. } | Body::Fragment => Protocol::UDP,
            Body::Echo { .. } | Body::Error { .. } if self.src.is_ipv4() => Protocol::ICMP,
            Body::Echo { .. } | Body::Error { .. } => Protocol::ICMPV6,
            Body::Sctp { .. } => Protocol::SCTP,
            Body::Gre => Protocol(47),
            Body::Other => Protocol(51),
        }
    }

    pub(crate) fn segment(&self) -> Option<Segment> {
        match self.body {
            Body::Tcp { segment, .. } => Some(segment),
            _ => None,
        }
    }

    /// The flow it is of.
    pub(crate) fn tuple(&self) -> Option<Tuple> {
        let (src_port, dst_port) = match self.body {
            Body::Tcp {
                src_port, dst_port, ..
            }
            | Body::Udp {
                src_port, dst_port, ..
            }
            | Body::Sctp { src_port, dst_port } => (src_port, dst_port),
            Body::Gre => (0, 0),
            Body::Echo { request: true, id } => (id, 0),
            Body::Echo { request: false, id } => (0, id),
            Body::Error { .. } | Body::Other | Body::Fragment => return None,
        };
        Some(Tuple {
            src: self.src,
            dst: self.dst,
            src_port,
            dst_port,
            protocol: self.protocol(),
        })
    }

    /// The same packet, but of the flow `tuple`.
    pub(crate) fn of(&self, tuple: &Tuple) -> Wire {
        let mut body = self.body.clone();
        match &mut body {
            Body::Tcp {
                src_port, dst_port, ..
            }
            | Body::Udp {
                src_port, dst_port, ..
            }
            | Body::Sctp { src_port, dst_port } => {
                (*src_port, *dst_port) = (tuple.src_port, tuple.dst_port);
            }
            Body::Echo { request: true, id } => *id = tuple.src_port,
            Body::Echo { request: false, id } => *id = tuple.dst_port,
            Body::Error { .. } | Body::Gre | Body::Other | Body::Fragment => (),
        }
        Wire {
            src: tuple.src,
            dst: tuple.dst,
            body,
        }
    }

    /// An answer to it: `segment` if it is TCP, of the same kind otherwise.
    pub(crate) fn answer(&self, segment: Segment) -> Option<Wire> {
        let mut answer = self.of(&self.tuple()?);
        if let Body::Echo { request, .. } = &mut answer.body {
            *request = !*request;
        }
        Some(answer.of(&self.tuple()?.reversed()).with(segment))
    }

    /// The same packet with other TCP fields, if it is TCP.
    pub(crate) fn with(mut self, new: Segment) -> Wire {
        if let Body::Tcp { segment, .. } = &mut self.body {
            *segment = new;
        }
        self
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut transport = Vec::new();
        let mut fragment = None;
        match &self.body {
            Body::Tcp {
                src_port,
                dst_port,
                segment,
            } => {
                transport.extend(src_port.to_be_bytes());
                transport.extend(dst_port.to_be_bytes());
                transport.extend(segment.sequence.to_be_bytes());
                transport.extend(segment.acknowledgement.to_be_bytes());
                let options = match segment.scale {
                    Some(shift) => vec![1, 3, 3, shift],
                    None => vec![],
                };
                transport.extend([0x50 + 4 * options.len() as u8, segment.flags]);
                transport.extend(segment.window.to_be_bytes());
                transport.extend([0, 0, 0, 0]);
                transport.extend(options);
                transport.extend((0..segment.payload).map(|byte| byte.wrapping_mul(37)));
                self.seal(&mut transport, 16);
            }
            Body::Udp {
                src_port,
                dst_port,
                payload,
                unsummed,
            } => {
                transport.extend(src_port.to_be_bytes());
                transport.extend(dst_port.to_be_bytes());
                transport.extend((8 + u16::from(*payload)).to_be_bytes());
                transport.extend([0, 0]);
                transport.extend((0..*payload).map(|byte| byte.wrapping_mul(91)));
                if !(*unsummed && self.src.is_ipv4()) {
                    self.seal(&mut transport, 6);
                    if transport[6..8] == [0, 0] {
                        transport[6..8].fill(0xff);
                    }
                }
            }
            Body::Echo { request, id } => {
                transport.push(match (self.src.is_ipv4(), request) {
                    (true, true) => 8,
                    (true, false) => 0,
                    (false, true) => 128,
                    (false, false) => 129,
                });
                transport.extend([0, 0, 0]);
                transport.extend(id.to_be_bytes());
                transport.extend([0, 1, b'a', b'b', b'c']);
                self.seal(&mut transport, 2);
            }
            Body::Error {
                which,
                quoted,
                keep,
                damage,
            } => {
                let types = if self.src.is_ipv4() {
                    [3, 11, 12]
                } else {
                    [1, 3, 4]
                };
                transport.extend([types[which % 3], 0, 0, 0, 0, 0, 0, 0]);
                let mut quote = quoted.bytes();
                let header = if quoted.src.is_ipv4() { 20 } else { 40 };
                match keep {
                    Keep::All => (),
                    Keep::Head => quote.truncate(header + 8),
                    Keep::Less => quote.truncate(header + 4),
                }
                if *damage == Damage::Quote && quoted.src.is_ipv4() {
                    quote[10] ^= 0x55;
                }
                transport.extend(quote);
                self.seal(&mut transport, 2);
                if *damage == Damage::Message {
                    transport[2] ^= 0x55;
                }
            }
            Body::Sctp { src_port, dst_port } => {
                transport.extend(src_port.to_be_bytes());
                transport.extend(dst_port.to_be_bytes());
                // A verification tag, and a checksum that knows no addresses.
                transport.extend([1, 2, 3, 4, 5, 6, 7, 8]);
            }
            Body::Gre => transport.extend(*b"something"),
            // An authentication header of 12 bytes with no next header behind it.
            Body::Other => transport.extend([59, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1]),
            Body::Fragment => {
                transport.extend(*b"the rest");
                fragment = Some(185);
            }
        }
        self.wrap(&transport, fragment)
    }

    /// Puts the IP header before it. `fragment` is an offset in units of eight bytes.
    fn wrap(&self, transport: &[u8], fragment: Option<u16>) -> Vec<u8> {
        let protocol = self.protocol().0;
        let mut bytes = Vec::new();
        match (self.src, self.dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                bytes.extend([0x45, 0]);
                bytes.extend((20 + transport.len() as u16).to_be_bytes());
                bytes.extend([0x12, 0x34]);
                bytes.extend(fragment.unwrap_or(0x4000).to_be_bytes());
                bytes.extend([64, protocol, 0, 0]);
                bytes.extend(src.octets());
                bytes.extend(dst.octets());
                let checksum = checksum(&bytes);
                bytes[10..12].copy_from_slice(&checksum.to_be_bytes());
            }
            (src, dst) => {
                let extension = if fragment.is_some() { 8 } else { 0 };
                bytes.extend([0x60, 0, 0, 0]);
                bytes.extend((extension + transport.len() as u16).to_be_bytes());
                bytes.extend([if fragment.is_some() { 44 } else { protocol }, 64]);
                bytes.extend(octets(src));
                bytes.extend(octets(dst));
                if let Some(offset) = fragment {
                    bytes.extend([protocol, 0]);
                    bytes.extend((offset << 3).to_be_bytes());
                    bytes.extend([0, 0, 0, 9]);
                }
            }
        }
        bytes.extend(transport);
        bytes
    }

    /// Writes the checksum at `at`, whose bytes are zero.
    fn seal(&self, transport: &mut [u8], at: usize) {
        let mut all = Vec::new();
        if self.protocol() != Protocol::ICMP {
            all.extend(octets(self.src));
            all.extend(octets(self.dst));
            all.extend((transport.len() as u32).to_be_bytes());
            all.extend([0, 0, 0, self.protocol().0]);
        }
        all.extend(&*transport);
        transport[at..at + 2].copy_from_slice(&checksum(&all).to_be_bytes());
    }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// RFC 1071, as it is written there.
fn checksum(bytes: &[u8]) -> u16 {
    let mut sum = 0u32;
    for pair in bytes.chunks(2) {
        let low = pair.get(1).copied().unwrap_or(0);
        sum += u32::from(pair[0]) << 8 | u32::from(low);
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

impl fmt::Display for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Wire { src, dst, body } = self;
        match body {
            Body::Tcp {
                src_port,
                dst_port,
                segment,
            } => write!(
                f,
                "tcp {} > {} {segment}",
                SocketAddr::from((*src, *src_port)),
                SocketAddr::from((*dst, *dst_port))
            ),
            Body::Udp {
                src_port, dst_port, ..
            } => write!(
                f,
                "udp {} > {}",
                SocketAddr::from((*src, *src_port)),
                SocketAddr::from((*dst, *dst_port))
            ),
            Body::Echo { request, id } => {
                let what = if *request { "echo" } else { "echo reply" };
                write!(f, "{what} {src} > {dst} id {id}")
            }
            Body::Error {
                quoted,
                keep,
                damage,
                ..
            } => {
                write!(f, "error {src} > {dst} about [{quoted}]")?;
                if *keep != Keep::All {
                    write!(f, " quoting {keep:?}")?;
                }
                if *damage != Damage::None {
                    write!(f, " damaged: {damage:?}")?;
                }
                Ok(())
            }
            Body::Sctp { src_port, dst_port } => {
                write!(f, "sctp {src}:{src_port} > {dst}:{dst_port}")
            }
            Body::Gre => write!(f, "gre {src} > {dst}"),
            Body::Other => write!(f, "ah {src} > {dst}"),
            Body::Fragment => write!(f, "udp fragment {src} > {dst}"),
        }
    }
}

impl fmt::Display for Segment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = [(SYN, 'S'), (FIN, 'F'), (RST, 'R'), (ACK, 'A')];
        for (_, name) in names.iter().filter(|(flag, _)| self.flags & flag != 0) {
            write!(f, "{name}")?;
        }
        write!(
            f,
            " {}:{}+{} win {}",
            self.sequence, self.acknowledgement, self.payload, self.window
        )?;
        match self.scale {
            Some(shift) => write!(f, "<<{shift}"),
            None => Ok(()),
        }
    }
}
