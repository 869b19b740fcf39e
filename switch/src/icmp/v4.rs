//! The errors of ICMP (RFC 792, RFC 1812 4.3).

use std::net::{IpAddr, Ipv4Addr};

use pnet_packet::icmp::{self, IcmpCode, IcmpPacket, IcmpType, IcmpTypes, MutableIcmpPacket};
use pnet_packet::ip::IpNextHeaderProtocols;
use pnet_packet::ipv4::{self, Ipv4Packet, MutableIpv4Packet};
use pnet_packet::{MutablePacket, Packet};

use super::{Complaint, Header, put_before};
use crate::frame::{ETHERNET_HEADER, Frame};

const IPV4_HEADER: usize = MutableIpv4Packet::minimum_packet_size();
const ICMP_HEADER: usize = 8;
/// RFC 1812 4.3.2.3: as much of the packet as fits into an error of 576 bytes.
const LARGEST: usize = 576;

/// RFC 792 and RFC 1812 5.2.7.1.
fn header(complaint: Complaint) -> Header {
    const UNREACHABLE: u8 = 3;
    match complaint {
        Complaint::TimeExceeded => (11, 0, 0),
        Complaint::NoRoute => (UNREACHABLE, 0, 0),
        Complaint::Unreachable | Complaint::AddressUnreachable => (UNREACHABLE, 1, 0),
        // RFC 1191 section 4: the MTU is in the lower half of the four bytes.
        Complaint::TooBig(mtu) => (UNREACHABLE, 4, mtu.min(0xffff)),
        Complaint::Prohibited | Complaint::BeyondScope => (UNREACHABLE, 13, 0),
    }
}

/// See [`turn_into_error`](super::turn_into_error); leaves the MACs to it. The error comes from the
/// first IPv4 address of `router`.
pub(super) fn write(frame: &mut Frame, complaint: Complaint, router: &[IpAddr]) -> bool {
    let Some(packet) = Ipv4Packet::new(&frame.bytes()[ETHERNET_HEADER..]) else {
        return false;
    };
    let router = router.iter().find_map(|address| match address {
        IpAddr::V4(address) => Some(*address),
        IpAddr::V6(_) => None,
    });
    let Some(router) = router.filter(|_| deserves_an_error(&packet)) else {
        return false;
    };
    let sender = packet.get_source();
    let whole = usize::from(packet.get_total_length()).min(packet.packet().len());
    let quoted = whole.min(LARGEST - IPV4_HEADER - ICMP_HEADER);

    let bytes = put_before(frame, IPV4_HEADER + ICMP_HEADER, quoted);
    let length = bytes.len();
    let (message, code, rest) = header(complaint);
    bytes[IPV4_HEADER + 4..][..4].copy_from_slice(&rest.to_be_bytes());
    let mut packet = MutableIpv4Packet::new(bytes).expect("the frame was sized for it");
    packet.set_version(4);
    packet.set_header_length((IPV4_HEADER / 4) as u8);
    // RFC 1812 4.3.2.5: internetwork control.
    packet.set_dscp(0b110_000);
    packet.set_total_length(length as u16);
    packet.set_ttl(64);
    packet.set_next_level_protocol(IpNextHeaderProtocols::Icmp);
    packet.set_source(router);
    packet.set_destination(sender);
    packet.set_checksum(ipv4::checksum(&packet.to_immutable()));
    let mut error =
        MutableIcmpPacket::new(packet.payload_mut()).expect("the frame was sized for it");
    error.set_icmp_type(IcmpType(message));
    error.set_icmp_code(IcmpCode(code));
    error.set_checksum(icmp::checksum(&error.to_immutable()));
    true
}

/// RFC 1812 4.3.2.7 wants silence about the rest.
fn deserves_an_error(packet: &Ipv4Packet) -> bool {
    let first = packet.get_fragment_offset() == 0;
    let answerable = |address: Ipv4Addr| {
        !(address.is_multicast() || address.is_broadcast() || address.is_unspecified())
    };
    let is_error = packet.get_next_level_protocol() == IpNextHeaderProtocols::Icmp
        && IcmpPacket::new(packet.payload()).is_none_or(|message| {
            let kind = message.get_icmp_type();
            kind != IcmpTypes::EchoRequest && kind != IcmpTypes::EchoReply
        });
    first && !is_error && answerable(packet.get_source()) && answerable(packet.get_destination())
}

#[cfg(test)]
mod tests {
    use super::super::turn_into_error;
    use super::*;
    use crate::frame::{self, MacAddr};

    const CONTAINER: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
    const GATEWAY_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);
    const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);

    fn packet(protocol: u8, payload: &[u8]) -> Frame {
        let mut bytes = Vec::new();
        bytes.extend(GATEWAY_MAC.0);
        bytes.extend(CONTAINER.0);
        bytes.extend([0x08, 0x00, 0x45, 0]);
        bytes.extend((20 + payload.len() as u16).to_be_bytes());
        bytes.extend([0, 0, 0, 0, 1, protocol, 0, 0, 10, 0, 0, 2, 198, 51, 100, 7]);
        bytes.extend(payload);
        Frame::from_bytes(&bytes)
    }

    fn tell(frame: &mut Frame, complaint: Complaint) -> bool {
        let addresses = ["fd00::1".parse().unwrap(), GATEWAY.into()];
        turn_into_error(frame, complaint, (GATEWAY_MAC, &addresses))
    }

    #[test]
    fn quotes_the_packet_and_sums_right() {
        let mut frame = packet(17, &[7; 2000]);
        let before = frame.bytes().to_vec();
        assert!(tell(&mut frame, Complaint::TimeExceeded));
        assert_eq!(frame.len(), ETHERNET_HEADER + LARGEST);
        assert_eq!(frame::destination(frame.bytes()), Some(CONTAINER));
        assert_eq!(frame::source(frame.bytes()), Some(GATEWAY_MAC));
        let ip = Ipv4Packet::new(&frame.bytes()[ETHERNET_HEADER..]).unwrap();
        assert_eq!(ip.get_source(), GATEWAY);
        assert_eq!(ip.get_destination(), Ipv4Addr::new(10, 0, 0, 2));
        assert_eq!(ip.get_checksum(), ipv4::checksum(&ip));
        let message = IcmpPacket::new(ip.payload()).unwrap();
        assert_eq!(message.get_icmp_type(), IcmpTypes::TimeExceeded);
        assert_eq!(message.get_checksum(), icmp::checksum(&message));
        let quotation = &ip.payload()[ICMP_HEADER..];
        assert_eq!(quotation, &before[ETHERNET_HEADER..][..quotation.len()]);
    }

    #[test]
    fn a_short_packet_is_quoted_whole_and_without_padding() {
        let mut frame = packet(17, &[7; 4]);
        frame.set_len(60);
        assert!(tell(&mut frame, Complaint::NoRoute));
        assert_eq!(
            frame.len(),
            ETHERNET_HEADER + IPV4_HEADER + ICMP_HEADER + 24
        );
    }

    #[test]
    fn never_about_errors_fragments_or_groups() {
        let silent = |mut frame: Frame| {
            let before = frame.bytes().to_vec();
            let sent = tell(&mut frame, Complaint::TimeExceeded);
            !sent && frame.bytes() == before
        };
        assert!(silent(packet(1, &[3, 1, 0, 0, 0, 0, 0, 0])));
        assert!(!silent(packet(1, &[8, 0, 0, 0, 0, 0, 0, 0])));
        let mut fragment = packet(17, &[0; 8]);
        fragment.bytes_mut()[ETHERNET_HEADER + 7] = 9;
        assert!(silent(fragment));
        let mut group = packet(17, &[0; 8]);
        group.bytes_mut()[ETHERNET_HEADER + 16] = 224;
        assert!(silent(group));
        let mut flooded = packet(17, &[0; 8]);
        flooded.bytes_mut()[..6].fill(0xff);
        assert!(silent(flooded));
    }
}
