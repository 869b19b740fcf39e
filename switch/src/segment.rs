//! Cuts super-frames whose vnet header says less than they contain.
//!
//! The header names one protocol, one segment size and one place for a checksum. A super-frame of a
//! tunnel (VXLAN, Geneve, GRE, IPIP, one in another) has lengths and checksums at several places,
//! and AF_PACKET hands it over all the same, as if it were TCP from its innermost header on. No
//! kernel would cut it right again, so it is cut here, into whole packets with whole checksums.

use nat::layout::Version;
use nat::{Layout, Protocol};

use crate::frame::{Frame, VnetHeader};
use crate::layers::Layers;

const IPIP: Protocol = Protocol(4);
const IPV6: Protocol = Protocol(41);
const GRE: Protocol = Protocol(47);
const UDP_HEADER: usize = 8;
/// TCP's flags, in the byte behind the data offset (RFC 9293 section 3.1, RFC 3168 section 6.1).
const FIN: u8 = 0x01;
const PUSH: u8 = 0x08;
const CONGESTION_WINDOW_REDUCED: u8 = 0x80;

/// An IP header, and where it is in the frame.
#[derive(Clone, Copy, Debug)]
struct Level {
    at: usize,
    layout: Layout,
}

impl Level {
    /// Where what it carries begins in the frame.
    fn payload(&self) -> usize {
        self.at + self.layout.upper.at
    }

    fn protocol(&self) -> Protocol {
        self.layout.upper.protocol
    }
}

/// The IP headers of a frame, from the outermost to the one whose payload, of the protocol
/// `innermost`, begins at `start`. None when there is no such chain.
///
/// Tunnels are not known by name: a header counts when it is whole, reaches to the end of the
/// frame, and has the right checksum if it is one of IPv4.
fn levels(bytes: &[u8], at: usize, start: usize, innermost: Protocol) -> Option<Vec<Level>> {
    let layout = Layout::of(&bytes[at..]).ok()?;
    let end = at + layout.end;
    let mut levels = vec![Level { at, layout }];
    loop {
        let last = *levels.last()?;
        if last.layout.is_fragment() || last.payload() > start {
            return None;
        }
        if last.payload() == start {
            return (last.protocol() == innermost).then_some(levels);
        }
        let inner = (last.payload()..start).find_map(|at| {
            let layout = Layout::of(bytes.get(at..end)?).ok()?;
            let level = Level { at, layout };
            let carries = match level.payload() == start {
                true => level.protocol() == innermost,
                false => matches!(level.protocol(), Protocol::UDP | IPIP | IPV6 | GRE),
            };
            let is_whole = layout.version == Version::Six
                || fold(sum(&bytes[at..][..layout.upper.at])) == 0xffff;
            (at + layout.end == end && level.payload() <= start && carries && is_whole)
                .then_some(level)
        });
        levels.push(inner?);
    }
}

/// Cuts a super-frame of a tunnel into the frames it stands for. None when it is none: it
/// contradicts itself, or is of a kind that is not known.
pub(crate) fn cut(frame: &Frame, layers: Layers) -> Option<impl Iterator<Item = Frame>> {
    let vnet = frame.vnet();
    let bytes = frame.bytes();
    let protocol = match vnet.gso_kind() {
        VnetHeader::GSO_TCPV4 | VnetHeader::GSO_TCPV6 => Protocol::TCP,
        VnetHeader::GSO_UDP_L4 => Protocol::UDP,
        _ => return None,
    };
    let start = usize::from(vnet.csum_start);
    let levels = levels(bytes, layers.at, start, protocol)?;
    let end = layers.at + levels[0].layout.end;
    let header = match protocol {
        Protocol::TCP => usize::from(*bytes.get(start + 12)? >> 4) * 4,
        _ => UDP_HEADER,
    };
    let headers = bytes.get(..start + header)?;
    if protocol == Protocol::TCP && header < 20 {
        return None;
    }
    let chunks = bytes.get(headers.len()..end)?;
    let chunks = chunks.chunks(usize::from(vnet.gso_size).max(1));
    let count = chunks.len();
    Some(chunks.enumerate().map(move |(index, chunk)| {
        let mut segment = [headers, chunk].concat();
        if protocol == Protocol::TCP {
            let sequence = (index * usize::from(vnet.gso_size)) as u32;
            mark_segment(
                &mut segment[start..],
                sequence,
                index == 0,
                index + 1 == count,
            );
        }
        // What is further out sums over what is further in.
        for level in levels.iter().rev() {
            finish(&mut segment, level, index as u16, level.payload() == start);
        }
        Frame::small(&segment)
    }))
}

/// Makes the TCP header of a super-frame one of a segment that begins `offset` bytes into it.
pub(crate) fn mark_segment(header: &mut [u8], offset: u32, is_first: bool, is_last: bool) {
    let sequence = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
    header[4..8].copy_from_slice(&sequence.wrapping_add(offset).to_be_bytes());
    if !is_last {
        header[13] &= !(FIN | PUSH);
    }
    if !is_first {
        header[13] &= !CONGESTION_WINDOW_REDUCED;
    }
}

/// Writes the lengths and checksums of an IP header, and of what it carries, to the end of
/// `segment`, the `index`th of its super-frame.
fn finish(segment: &mut [u8], level: &Level, index: u16, is_innermost: bool) {
    let packet = &mut segment[level.at..];
    let upper = level.layout.upper.at;
    set_length(packet, &level.layout, index);
    let pseudo = pseudo_header(packet, &level.layout);
    let payload = &mut packet[upper..];
    match level.protocol() {
        Protocol::TCP => checksum(payload, 16, pseudo),
        Protocol::UDP if payload.len() >= UDP_HEADER => {
            put(payload, 4, payload.len() as u16);
            // A tunnel's is zero where there is to be none (RFC 7348 section 5).
            if is_innermost || payload[6..8] != [0, 0] {
                checksum(payload, 6, pseudo);
            }
        }
        // RFC 2784 section 2.1: the C bit.
        GRE if payload.len() >= 8 && payload[0] & 0x80 != 0 => checksum(payload, 4, 0),
        _ => {}
    }
}

/// Makes the IP header of a super-frame that of a packet that ends with `packet`, behind `index`
/// others.
pub(crate) fn set_length(packet: &mut [u8], layout: &Layout, index: u16) {
    let length = packet.len() as u16;
    match layout.version {
        Version::Four => {
            let identification = u16::from_be_bytes([packet[4], packet[5]]).wrapping_add(index);
            put(packet, 2, length);
            put(packet, 4, identification);
            put(packet, 10, 0);
            let checksum = !fold(sum(&packet[..layout.upper.at]));
            put(packet, 10, checksum);
        }
        Version::Six => put(packet, 4, length - 40),
    }
}

/// Writes a whole checksum at `at`.
fn checksum(bytes: &mut [u8], at: usize, pseudo: u64) {
    put(bytes, at, 0);
    // Zero would mean that there is none (RFC 768).
    let checksum = match !fold(sum(bytes) + pseudo) {
        0 => 0xffff,
        checksum => checksum,
    };
    put(bytes, at, checksum);
}

/// The sum of the pseudo-header of what an IP packet carries, all of which is there (RFC 9293
/// section
/// 3.1, RFC 8200 section 8.1).
pub(crate) fn pseudo_header(packet: &[u8], layout: &Layout) -> u64 {
    let addresses = match layout.version {
        Version::Four => &packet[12..20],
        Version::Six => &packet[8..40],
    };
    let length = packet.len() - layout.upper.at;
    sum(addresses) + u64::from(layout.upper.protocol.0) + length as u64
}

fn put(bytes: &mut [u8], at: usize, word: u16) {
    bytes[at..at + 2].copy_from_slice(&word.to_be_bytes());
}

fn sum(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<2>();
    let words = words
        .iter()
        .map(|word| u64::from(u16::from_be_bytes(*word)));
    words.sum::<u64>() + rest.first().map_or(0, |byte| u64::from(*byte) << 8)
}

/// The 16-bit one's complement sum of a sum of words.
pub(crate) fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    sum as u16
}

#[cfg(test)]
mod tests;
