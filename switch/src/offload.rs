//! What a frame leaves to do to whoever sends it out, and whether that is its sender's to ask.
//!
//! A frame whose checksum is partial says where the sum is to be written, and the kernel or the card
//! that sends it out writes it there: behind the guard, the translation and all else that has looked
//! at the frame. With `PACKET_VNET_HDR` any container says what it likes. So the place has to be the
//! checksum's own; or behind all that is looked at here, as that of a packet in a tunnel is.
//! Elsewhere it would be a MAC, an address or a port that becomes another's on the way out.
//!
//! That of SCTP is no sum but a CRC (RFC 9260 section 6.8), and no vnet header can say so. Linux
//! leaves it to a veth all the same (NETIF_F_SCTP_CRC), so it is made up for here.

mod super_frame;

use crate::drop::DropReason;
use crate::frame::{Frame, VnetHeader, ethertype};
use crate::ipv6;
use crate::layers::{self, Layers};

const ICMP: u8 = 1;
const IGMP: u8 = 2;
const TCP: u8 = 6;
const UDP: u8 = 17;
const SCTP: u8 = 132;

/// Where SCTP has its checksum, in bytes from the start of its header.
const SCTP_CHECKSUM: usize = 8;

/// What is still to be done to a frame that [`settle`] passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Settled {
    /// Nothing.
    Whole,
    /// It is to be cut (`segment`): its vnet header can't say all that it needs.
    ToCut,
}

/// Passes a frame whose checksum, if it is partial, goes where a checksum may be, and whose
/// segments, if it is a super-frame, are what its protocol has. The checksum of SCTP is then whole,
/// and that of a super-frame partial.
pub(crate) fn settle(frame: &mut Frame, layers: Layers) -> Result<Settled, DropReason> {
    if frame.vnet().is_gso() {
        let settled = super_frame::settle(frame, layers)?;
        if settled == Settled::ToCut {
            return Ok(settled);
        }
    }
    let vnet = frame.vnet();
    if !vnet.needs_csum() {
        return Ok(Settled::Whole);
    }
    let Layers { ethertype, at } = layers;
    let (start, offset) = (usize::from(vnet.csum_start), usize::from(vnet.csum_offset));
    let fits = match layers::packet(frame.bytes(), layers)? {
        // The sum would be over a piece.
        Some((packet, _)) if packet.is_fragment() => false,
        Some((packet, _)) => match (
            packet.upper.protocol.0,
            start.checked_sub(at + packet.upper.at),
        ) {
            (_, None) => false,
            (TCP, Some(behind)) => (behind, offset) == (0, 16),
            (ICMP | IGMP | ipv6::ICMPV6, Some(behind)) => (behind, offset) == (0, 2),
            (SCTP, Some(behind)) => {
                let is_its_own = (behind, offset) == (0, SCTP_CHECKSUM);
                is_its_own && complete_sctp(frame, start, at + packet.end)
            }
            (UDP, Some(0)) => offset == 6,
            // In a tunnel: behind the header of UDP, and behind whatever may have ports.
            (UDP, Some(behind)) => behind + offset >= 8,
            (_, Some(behind)) => behind + offset >= 4,
        },
        // It has none, and every byte is looked at.
        None if ethertype == ethertype::ARP => false,
        None => start >= at,
    };
    if fits {
        Ok(Settled::Whole)
    } else {
        Err(DropReason::MisplacedChecksum)
    }
}

/// Writes the CRC of the SCTP packet from `start` to `end` of the frame. False if there is no room
/// for one.
fn complete_sctp(frame: &mut Frame, start: usize, end: usize) -> bool {
    let vnet = frame.vnet();
    let field = SCTP_CHECKSUM..SCTP_CHECKSUM + 4;
    let Some(packet) = frame.bytes_mut().get_mut(start..end) else {
        return false;
    };
    if packet.len() < field.end {
        return false;
    }
    packet[field.clone()].fill(0);
    let crc = crc32c::crc32c(packet);
    // RFC 9260 appendix A: the least significant byte first.
    packet[field].copy_from_slice(&crc.to_le_bytes());
    frame.set_vnet(VnetHeader {
        flags: vnet.flags & !VnetHeader::NEEDS_CSUM,
        csum_start: 0,
        csum_offset: 0,
        ..vnet
    });
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    const ETHERNET: usize = 14;

    fn settle(frame: &mut Frame) -> Result<(), DropReason> {
        let layers = Layers::of(frame.bytes())?;
        super::settle(frame, layers).map(drop)
    }

    /// A frame of this EtherType, with a partial checksum.
    fn frame(kind: u16, packet: &[u8], start: usize, offset: usize) -> Frame {
        let mut bytes = vec![2; 12];
        bytes.extend(kind.to_be_bytes());
        bytes.extend(packet);
        bytes.extend([0; 64]);
        let mut frame = Frame::from_bytes(&bytes);
        frame.set_vnet(VnetHeader {
            flags: VnetHeader::NEEDS_CSUM,
            csum_start: start as u16,
            csum_offset: offset as u16,
            ..VnetHeader::default()
        });
        frame
    }

    fn ipv4(protocol: u8, options: usize) -> Vec<u8> {
        let mut packet = vec![0; 20 + options * 4];
        packet[0] = 0x45 + options as u8;
        packet[3] = 20 + 4 * options as u8 + 64;
        packet[9] = protocol;
        packet
    }

    /// With one extension header, of destination options.
    fn ipv6(protocol: u8) -> Vec<u8> {
        let mut packet = vec![0; 48];
        packet[0] = 0x60;
        packet[5] = 8 + 32;
        packet[6] = 60;
        packet[40] = protocol;
        packet
    }

    /// Every place where the sum may be written, as (start, offset) counted from the transport
    /// header.
    fn allowed(kind: u16, packet: &[u8]) -> Vec<(isize, usize)> {
        let header = (ETHERNET + packet.len()) as isize;
        let places = (0..100).flat_map(|start| (0..30).map(move |offset| (start, offset)));
        places
            .filter(|&(start, offset)| settle(&mut frame(kind, packet, start, offset)).is_ok())
            .map(|(start, offset)| (start as isize - header, offset))
            .collect()
    }

    // Conforms: SWITCH-guard-offload
    #[test]
    fn a_checksum_is_its_protocol_s_own_or_behind_what_is_looked_at() {
        let own = [(TCP, 16), (UDP, 6), (ICMP, 2), (IGMP, 2), (ipv6::ICMPV6, 2)];
        for (protocol, own) in own {
            for (kind, packet) in [
                (ethertype::IPV4, ipv4(protocol, 0)),
                (ethertype::IPV4, ipv4(protocol, 2)),
                (ethertype::IPV6, ipv6(protocol)),
            ] {
                let allowed = allowed(kind, &packet);
                assert!(allowed.contains(&(0, own)));
                for (start, offset) in allowed {
                    let in_a_tunnel = protocol == UDP && start > 0 && start + offset as isize >= 8;
                    let own = (start, offset) == (0, own);
                    assert!(own || in_a_tunnel, "{protocol}: {start} {offset}");
                }
            }
        }
        // VXLAN and IPv4 in IPv4, with TCP; GRE; SCTP, whose ports come first.
        assert!(allowed(ethertype::IPV4, &ipv4(UDP, 0)).contains(&(50, 16)));
        assert!(allowed(ethertype::IPV4, &ipv4(4, 0)).contains(&(20, 16)));
        assert!(allowed(ethertype::IPV4, &ipv4(47, 0)).contains(&(0, 4)));
        assert!(!allowed(ethertype::IPV4, &ipv4(SCTP, 0)).contains(&(0, 2)));
    }

    #[test]
    fn what_is_no_ip_keeps_its_ethernet_header() {
        assert_eq!(allowed(ethertype::ARP, &[]), []);
        // MPLS.
        let places = allowed(0x8847, &[]);
        assert!(places.contains(&(0, 0)) && places.iter().all(|&(start, _)| start >= 0));
    }

    #[test]
    fn tags_are_looked_behind_and_what_ends_early_is_malformed() {
        let mut tagged = vec![0, 5, 0x08, 0x00];
        tagged.extend(ipv4(TCP, 0));
        assert_eq!(settle(&mut frame(ethertype::VLAN, &tagged, 38, 16)), Ok(()));
        let beside = settle(&mut frame(ethertype::VLAN, &tagged, 34, 16));
        assert_eq!(beside, Err(DropReason::MisplacedChecksum));
        for len in 14..14 + 20 {
            let mut cut = frame(ethertype::IPV6, &ipv6(TCP), 62, 16);
            cut.set_len(len);
            assert_eq!(settle(&mut cut), Err(DropReason::Malformed));
            cut.set_vnet(VnetHeader::default());
            assert_eq!(settle(&mut cut), Ok(()));
        }
        // A header that would be none.
        let mut short = ipv4(TCP, 0);
        short[0] = 0x44;
        let short = settle(&mut frame(ethertype::IPV4, &short, 30, 16));
        assert_eq!(short, Err(DropReason::Malformed));
        // A piece that is not the first.
        let mut later = ipv6(0);
        (later[6], later[43]) = (44, 8);
        let piece = settle(&mut frame(ethertype::IPV6, &later, 62, 16));
        assert_eq!(piece, Err(DropReason::MisplacedChecksum));
    }

    // Conforms: LINUX-sctp-by-address
    #[test]
    fn the_crc_of_sctp_is_made_up_for() {
        for (kind, mut packet) in [
            (ethertype::IPV4, ipv4(SCTP, 1)),
            (ethertype::IPV6, ipv6(SCTP)),
        ] {
            let header = packet.len();
            packet.extend([0x10, 0x92, 0x0f, 0x1c, 0, 0, 0, 0]);
            let end = (header + 32) as u16;
            match kind {
                ethertype::IPV4 => packet[2..4].copy_from_slice(&end.to_be_bytes()),
                _ => packet[4..6].copy_from_slice(&(end - 40).to_be_bytes()),
            }
            let start = ETHERNET + header;
            let mut left = frame(kind, &packet, start, 8);
            // Whatever stands there counts for nothing, nor does what follows the packet.
            left.bytes_mut()[start + 8] = 0xff;
            assert_eq!(settle(&mut left), Ok(()));
            assert!(!left.vnet().needs_csum());
            let whole = &left.bytes()[start..start + 32];
            let mut plain = whole.to_vec();
            plain[8..12].fill(0);
            assert_eq!(whole[8..12], bitwise_crc32c(&plain).to_le_bytes());
            let mut cut = frame(kind, &packet, start, 8);
            cut.set_len(start + 31);
            assert!(settle(&mut cut).is_err());
        }
    }

    /// Bit by bit, as RFC 9260 appendix A has it.
    fn bitwise_crc32c(bytes: &[u8]) -> u32 {
        let mut crc = !0u32;
        for byte in bytes {
            crc ^= u32::from(*byte);
            for _ in 0..8 {
                crc = crc >> 1 ^ if crc & 1 == 1 { 0x82f6_3b78 } else { 0 };
            }
        }
        !crc
    }
}
