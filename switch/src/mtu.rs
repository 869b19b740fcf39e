//! What becomes of a packet that is larger than the next link carries: fragments, smaller segments,
//! or a complaint to its sender.
//!
//! A super-frame counts by the packets that it is cut into, not by its own length.

use nat::{Packet, Protocol};
use pnet_packet::ipv4::{self, Ipv4Packet};

use crate::frame::{ETHERNET_HEADER, Frame, VnetHeader};

/// Bytes of an IPv4 header without options, and of a UDP header.
const IPV4_HEADER: usize = 20;
const UDP_HEADER: usize = 8;

/// The flag of an IPv4 header that more fragments follow, in the word with the offset.
const MORE_FRAGMENTS: u16 = 0x2000;
const OFFSET: u16 = 0x1fff;

/// How a packet gets over a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fit {
    AsItIs,
    /// By [`divide`].
    Divided,
    /// Not at all: it may not be fragmented.
    Never,
}

/// How a packet, from a frame with this vnet header, gets over a link of so many bytes.
pub(crate) fn fit(packet: &Packet, vnet: VnetHeader, mtu: u32) -> Fit {
    if packet.len() <= mtu as usize {
        return Fit::AsItIs;
    }
    let largest = match segment_headers(packet, vnet) {
        Some(headers) => headers + usize::from(vnet.gso_size),
        None => packet.len(),
    };
    if largest <= mtu as usize {
        Fit::AsItIs
    } else if packet.dont_fragment() || vnet.gso_kind() == VnetHeader::GSO_UDP_L4 {
        // The datagrams in a super-frame of UDP can't be made smaller without being there.
        Fit::Never
    } else {
        Fit::Divided
    }
}

/// Bytes of headers in front of each packet that a super-frame is cut into; None for a packet that
/// is none.
fn segment_headers(packet: &Packet, vnet: VnetHeader) -> Option<usize> {
    let transport = match (vnet.gso_kind(), packet.protocol()) {
        (VnetHeader::GSO_TCPV4 | VnetHeader::GSO_TCPV6, Protocol::TCP) => {
            usize::from(packet.as_bytes().get(packet.header_len() + 12)? >> 4) * 4
        }
        (VnetHeader::GSO_UDP_L4, Protocol::UDP) => UDP_HEADER,
        // Cut at the IP layer: only the first fragment has a UDP header, and it counts as payload.
        (VnetHeader::GSO_UDP, Protocol::UDP) => 0,
        _ => return None,
    };
    Some(packet.header_len() + transport)
}

/// Makes the IPv4 packet in a frame fit a link of so many bytes (RFC 1812 4.2.2.7): a super-frame
/// gets smaller segments; another packet is cut into fragments, of which the first stays in the
/// frame and the others are returned. A whole packet gets this identification; one that is a
/// fragment keeps its own.
///
/// The frame is as [`fit`] was asked about it. It stays as it is if not even 8 bytes of payload fit.
pub(crate) fn divide(
    frame: &mut Frame,
    mtu: u32,
    identification: impl FnOnce() -> u16,
) -> Vec<Frame> {
    let mtu = mtu as usize;
    let mut vnet = frame.vnet();
    if vnet.is_gso() {
        let bytes = &mut frame.bytes_mut()[ETHERNET_HEADER..];
        let headers = Packet::parse(bytes, nat::Checksum::Complete)
            .ok()
            .and_then(|packet| segment_headers(&packet, vnet));
        let size = headers.map_or(0, |headers| mtu.saturating_sub(headers)) as u16;
        if size >= 8 {
            vnet.gso_size = if vnet.gso_kind() == VnetHeader::GSO_UDP {
                size & !7
            } else {
                size
            };
            frame.set_vnet(vnet);
        }
        return Vec::new();
    }
    complete_checksum(frame);
    let Some(cut) = Cut::new(&frame.bytes()[ETHERNET_HEADER..], mtu) else {
        return Vec::new();
    };
    if cut.offset & (OFFSET | MORE_FRAGMENTS) == 0 {
        let field = &mut frame.bytes_mut()[ETHERNET_HEADER + 4..][..2];
        field.copy_from_slice(&identification().to_be_bytes());
    }
    let mut pieces = Vec::with_capacity(cut.payload / cut.step);
    let mut start = cut.step;
    while start < cut.payload {
        let length = cut.step.min(cut.payload - start);
        pieces.push(cut.piece(frame, start, length));
        start += length;
    }
    frame.set_len(ETHERNET_HEADER + cut.header + cut.step);
    let first = cut.offset | MORE_FRAGMENTS;
    finish(&mut frame.bytes_mut()[ETHERNET_HEADER..], first);
    pieces
}

/// Where an IPv4 packet is cut.
struct Cut {
    /// Bytes of its header, and behind it.
    header: usize,
    payload: usize,
    /// Payload bytes of a fragment, a multiple of 8.
    step: usize,
    /// Its word of flags and offset.
    offset: u16,
}

impl Cut {
    fn new(bytes: &[u8], mtu: usize) -> Option<Cut> {
        let packet = Ipv4Packet::new(bytes)?;
        let header = usize::from(packet.get_header_length()) * 4;
        let length = usize::from(packet.get_total_length()).min(bytes.len());
        let step = mtu.checked_sub(header)? & !7;
        let payload = length.checked_sub(header)?;
        let offset = u16::from_be_bytes([bytes[6], bytes[7]]);
        (step > 0 && payload > step).then_some(Cut {
            header,
            payload,
            step,
            offset,
        })
    }

    /// The fragment with `length` bytes of payload from `start` on, which is not the first.
    fn piece(&self, whole: &Frame, start: usize, length: usize) -> Frame {
        let bytes = whole.bytes();
        let (ethernet, packet) = bytes.split_at(ETHERNET_HEADER);
        let mut piece = [ethernet, &packet[..IPV4_HEADER]].concat();
        copy_options(&packet[IPV4_HEADER..self.header], &mut piece);
        let header = piece.len() - ETHERNET_HEADER;
        piece[ETHERNET_HEADER] = 0x40 | (header / 4) as u8;
        piece.extend_from_slice(&packet[self.header + start..][..length]);
        let more = if start + length < self.payload {
            MORE_FRAGMENTS
        } else {
            0
        };
        finish(
            &mut piece[ETHERNET_HEADER..],
            (self.offset | more) + (start / 8) as u16,
        );
        Frame::from_bytes(&piece)
    }
}

/// Appends the options that every fragment carries, those with the copied flag, padded to whole
/// words (RFC 791 section 3.1).
fn copy_options(options: &[u8], to: &mut Vec<u8>) {
    const END: u8 = 0;
    const NO_OPERATION: u8 = 1;
    const COPIED: u8 = 0x80;
    let start = to.len();
    let mut at = 0;
    while let Some(&kind) = options.get(at) {
        let length = match kind {
            END => break,
            NO_OPERATION => 1,
            _ => match options.get(at + 1) {
                Some(&length) if length >= 2 => usize::from(length),
                _ => break,
            },
        };
        let Some(option) = options.get(at..at + length) else {
            break;
        };
        if kind & COPIED != 0 {
            to.extend_from_slice(option);
        }
        at += length;
    }
    let padded = (to.len() - start).next_multiple_of(4);
    to.resize(start + padded, END);
}

/// Writes the length, the flags and offset, and the checksum of the IPv4 packet that `bytes` is.
fn finish(bytes: &mut [u8], offset: u16) {
    let length = bytes.len() as u16;
    bytes[2..4].copy_from_slice(&length.to_be_bytes());
    bytes[6..8].copy_from_slice(&offset.to_be_bytes());
    if let Some(checksum) = Ipv4Packet::new(bytes).map(|packet| ipv4::checksum(&packet)) {
        bytes[10..12].copy_from_slice(&checksum.to_be_bytes());
    }
}

/// Adds up a checksum that was left to the device, which would sum over one fragment only.
fn complete_checksum(frame: &mut Frame) {
    let vnet = frame.vnet();
    if !vnet.needs_csum() {
        return;
    }
    let start = usize::from(vnet.csum_start);
    let field = start + usize::from(vnet.csum_offset);
    let bytes = frame.bytes_mut();
    let end = Ipv4Packet::new(bytes.get(ETHERNET_HEADER..).unwrap_or_default())
        .map_or(0, |packet| usize::from(packet.get_total_length()));
    let end = (ETHERNET_HEADER + end).min(bytes.len());
    if start < end && field + 2 <= end {
        // The sum of 32,767 words at the most fits 32 bits.
        let mut sum: u32 = bytes[start..end]
            .chunks(2)
            .map(|word| u32::from(word[0]) << 8 | u32::from(word.get(1).copied().unwrap_or(0)))
            .sum();
        while sum > 0xffff {
            sum = (sum >> 16) + (sum & 0xffff);
        }
        // Zero means that there is none (RFC 768); TCP takes either form.
        let checksum = match !(sum as u16) {
            0 => 0xffff,
            checksum => checksum,
        };
        bytes[field..field + 2].copy_from_slice(&checksum.to_be_bytes());
    }
    frame.set_vnet(VnetHeader {
        flags: vnet.flags & !VnetHeader::NEEDS_CSUM,
        csum_start: 0,
        csum_offset: 0,
        ..vnet
    });
}

#[cfg(test)]
mod tests;
