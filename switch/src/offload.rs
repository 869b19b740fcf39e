//! What a frame leaves to do to whoever sends it out, and whether that is its sender's to ask.
//!
//! A frame whose checksum is partial says where the sum is to be written, and the kernel or the card
//! that sends it out writes it there: behind the guard, the translation and all else that has looked
//! at the frame. With `PACKET_VNET_HDR` any container says what it likes. So the place has to be the
//! checksum's own; or behind all that is looked at here, as that of a packet in a tunnel is.
//! Elsewhere it would be a MAC, an address or a port that becomes another's on the way out.

use pnet_packet::ipv4::Ipv4Packet;

use crate::drop::DropReason;
use crate::frame::{self, Frame, ethertype};
use crate::ipv6::{self, Payload};

const ICMP: u8 = 1;
const IGMP: u8 = 2;
const TCP: u8 = 6;
const UDP: u8 = 17;

/// Passes a frame whose checksum, if it is partial, goes where a checksum may be.
pub(crate) fn check(frame: &Frame) -> Result<(), DropReason> {
    let vnet = frame.vnet();
    if !vnet.needs_csum() {
        return Ok(());
    }
    let bytes = frame.bytes();
    let (ethertype, at) = frame::ethertype_behind_tags(bytes).ok_or(DropReason::Malformed)?;
    let (start, offset) = (usize::from(vnet.csum_start), usize::from(vnet.csum_offset));
    let fits = match transport(ethertype, &bytes[at..])? {
        Some((protocol, header)) => match (protocol, start.checked_sub(at + header)) {
            (_, None) => false,
            (TCP, Some(behind)) => (behind, offset) == (0, 16),
            (ICMP | IGMP | ipv6::ICMPV6, Some(behind)) => (behind, offset) == (0, 2),
            (UDP, Some(0)) => offset == 6,
            // In a tunnel: behind the header of UDP, and behind whatever has ports.
            (UDP, Some(behind)) => behind + offset >= 8,
            (_, Some(behind)) => behind + offset >= 4,
        },
        // It has none, and every byte is looked at.
        None if ethertype == ethertype::ARP => false,
        None => start >= at,
    };
    if fits {
        Ok(())
    } else {
        Err(DropReason::MisplacedChecksum)
    }
}

/// The protocol that an IP packet carries, and where its header begins; none in what is no IP.
fn transport(ethertype: u16, packet: &[u8]) -> Result<Option<(u8, usize)>, DropReason> {
    match ethertype {
        ethertype::IPV4 => {
            let packet = Ipv4Packet::new(packet).ok_or(DropReason::Malformed)?;
            let header = usize::from(packet.get_header_length()) * 4;
            if header < Ipv4Packet::minimum_packet_size() {
                return Err(DropReason::Malformed);
            }
            Ok(Some((packet.get_next_level_protocol().0, header)))
        }
        ethertype::IPV6 => match ipv6::payload(packet).ok_or(DropReason::Malformed)? {
            Payload::Upper { protocol, at, .. } => Ok(Some((protocol, at))),
            // The sum would be over a piece.
            Payload::LaterFragment => Err(DropReason::MisplacedChecksum),
        },
        _ => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::VnetHeader;

    const ETHERNET: usize = 14;

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
            .filter(|&(start, offset)| check(&frame(kind, packet, start, offset)).is_ok())
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
        assert!(!allowed(ethertype::IPV4, &ipv4(132, 0)).contains(&(0, 2)));
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
        assert_eq!(check(&frame(ethertype::VLAN, &tagged, 38, 16)), Ok(()));
        let beside = check(&frame(ethertype::VLAN, &tagged, 34, 16));
        assert_eq!(beside, Err(DropReason::MisplacedChecksum));
        for len in 0..14 + 20 {
            let mut cut = frame(ethertype::IPV6, &ipv6(TCP), 62, 16);
            cut.set_len(len);
            assert_eq!(check(&cut), Err(DropReason::Malformed));
            cut.set_vnet(VnetHeader::default());
            assert_eq!(check(&cut), Ok(()));
        }
        // A header that would be none.
        let mut short = ipv4(TCP, 0);
        short[0] = 0x44;
        let short = check(&frame(ethertype::IPV4, &short, 30, 16));
        assert_eq!(short, Err(DropReason::Malformed));
        // A piece that is not the first.
        let mut later = ipv6(0);
        (later[6], later[43]) = (44, 8);
        let piece = check(&frame(ethertype::IPV6, &later, 62, 16));
        assert_eq!(piece, Err(DropReason::MisplacedChecksum));
    }
}
