//! Super-frames: whether what their vnet header says of them can be, and what it leaves unsaid.
//!
//! | the header says | here |
//! |---|---|
//! | segments of another protocol or IP version than the packet's, or none that is known | `MisplacedSegmentation` |
//! | segments smaller than any path needs, or more of them than Linux makes | `TinySegments` |
//! | nothing of a checksum: GRO by list (`NETIF_F_GRO_FRAGLIST`), whose sums were verified | made partial, so that whoever cuts it sums each segment |
//! | a length of headers, a hint of what to keep in one piece | corrected |
//! | a checksum further in than the packet's own transport | a tunnel's: cut here (`segment`) |

use nat::layout::Version;
use nat::{Layout, Protocol};

use super::Settled;
use crate::drop::DropReason;
use crate::frame::{Frame, VnetHeader};
use crate::layers::{self, Layers};
use crate::segment;

/// The least payload of a TCP segment in a super-frame, in bytes. Linux sends segments of 48 bytes
/// at the least (`TCP_MIN_SND_MSS`, CVE-2019-11479), options included, of which timestamps take 12.
const LEAST_TCP_SEGMENT: u16 = 36;

/// Segments of one super-frame: 64 KiB at the smallest maximum segment size that Linux lets an
/// application choose (`TCP_MIN_MSS`), and the datagrams that Linux takes at once
/// (`UDP_MAX_SEGMENTS`). Each costs as much as a frame, to those who share the worker.
const MOST_TCP_SEGMENTS: usize = 65_535 / 88;
const MOST_DATAGRAMS: usize = 128;

const UDP_HEADER: usize = 8;

/// See the module's description.
pub(super) fn settle(frame: &mut Frame, layers: Layers) -> Result<Settled, DropReason> {
    const MISPLACED: DropReason = DropReason::MisplacedSegmentation;
    let vnet = frame.vnet();
    let (protocol, version) = match vnet.gso_kind() {
        VnetHeader::GSO_TCPV4 => (Protocol::TCP, Some(Version::Four)),
        VnetHeader::GSO_TCPV6 => (Protocol::TCP, Some(Version::Six)),
        VnetHeader::GSO_UDP_L4 | VnetHeader::GSO_UDP => (Protocol::UDP, None),
        _ => return Err(MISPLACED),
    };
    let (layout, packet) = layers::packet(frame.bytes(), layers)?.ok_or(MISPLACED)?;
    if layout.is_fragment() || vnet.gso_type != vnet.gso_kind() && protocol != Protocol::TCP {
        return Err(MISPLACED);
    }
    let start = layers.at + layout.upper.at;
    let is_outermost = !vnet.needs_csum() || usize::from(vnet.csum_start) == start;
    let (payload, headers) = if is_outermost {
        if layout.upper.protocol != protocol || version.is_some_and(|it| it != layout.version) {
            return Err(MISPLACED);
        }
        let header = header_len(protocol, &packet[layout.upper.at..layout.end]).ok_or(MISPLACED)?;
        (layout.end - layout.upper.at - header, start + header)
    } else {
        (layout.end - layout.upper.at, start)
    };
    check_size(vnet, payload)?;
    if !is_outermost {
        return Ok(Settled::ToCut);
    }
    if !vnet.needs_csum() && vnet.gso_kind() != VnetHeader::GSO_UDP {
        make_partial(frame, layers.at, &layout);
    }
    let mut vnet = frame.vnet();
    vnet.hdr_len = headers as u16;
    frame.set_vnet(vnet);
    Ok(Settled::Whole)
}

/// Bytes of a transport header; none in one that is cut off.
fn header_len(protocol: Protocol, transport: &[u8]) -> Option<usize> {
    let length = match protocol {
        Protocol::TCP => usize::from(*transport.get(12)? >> 4) * 4,
        _ => UDP_HEADER,
    };
    let least = if protocol == Protocol::TCP {
        20
    } else {
        UDP_HEADER
    };
    (least..=transport.len())
        .contains(&length)
        .then_some(length)
}

/// Refuses what would become too many packets, or such as nobody needs.
fn check_size(vnet: VnetHeader, payload: usize) -> Result<(), DropReason> {
    let (least, most) = match vnet.gso_kind() {
        VnetHeader::GSO_UDP_L4 => (1, MOST_DATAGRAMS),
        _ => (LEAST_TCP_SEGMENT, MOST_TCP_SEGMENTS),
    };
    let segments = payload.div_ceil(usize::from(vnet.gso_size).max(1));
    if vnet.gso_size < least || segments > most {
        return Err(DropReason::TinySegments);
    }
    Ok(())
}

/// Leaves the transport's checksum to whoever cuts the frame: its field gets the sum of the
/// pseudo-header.
fn make_partial(frame: &mut Frame, at: usize, layout: &Layout) {
    let start = at + layout.upper.at;
    let offset = match layout.upper.protocol {
        Protocol::TCP => 16,
        _ => 6,
    };
    let packet = &mut frame.bytes_mut()[at..at + layout.end];
    let sum = segment::fold(segment::pseudo_header(packet, layout));
    let transport = &mut packet[layout.upper.at..];
    transport[offset..offset + 2].copy_from_slice(&sum.to_be_bytes());
    if layout.upper.protocol == Protocol::UDP {
        let length = transport.len() as u16;
        transport[4..6].copy_from_slice(&length.to_be_bytes());
    }
    let vnet = frame.vnet();
    frame.set_vnet(VnetHeader {
        flags: vnet.flags | VnetHeader::NEEDS_CSUM,
        csum_start: start as u16,
        csum_offset: offset as u16,
        ..vnet
    });
}

#[cfg(test)]
mod tests;
