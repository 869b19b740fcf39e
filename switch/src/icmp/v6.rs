//! The errors of ICMPv6 (RFC 4443).

use std::net::{IpAddr, Ipv6Addr};

use pnet_packet::icmpv6::{self, Icmpv6Code, Icmpv6Type, MutableIcmpv6Packet};
use pnet_packet::ip::IpNextHeaderProtocols;
use pnet_packet::ipv6::{Ipv6Packet, MutableIpv6Packet};
use pnet_packet::{MutablePacket, Packet};

use super::{Complaint, Header, put_before};
use crate::frame::{ETHERNET_HEADER, Frame, MacAddr};
use crate::ipv6::{self, Payload};

const ICMPV6_HEADER: usize = 8;
/// RFC 4443 2.4 c: as much of the packet as fits into the minimum MTU.
const LARGEST: usize = 1280;

/// RFC 4443 section 3.
fn header(complaint: Complaint) -> Header {
    const UNREACHABLE: u8 = 1;
    match complaint {
        Complaint::TimeExceeded => (3, 0, 0),
        Complaint::NoRoute | Complaint::Unreachable => (UNREACHABLE, 0, 0),
        Complaint::TooBig(mtu) => (2, 0, mtu),
        Complaint::Prohibited => (UNREACHABLE, 1, 0),
        Complaint::BeyondScope => (UNREACHABLE, 2, 0),
        Complaint::AddressUnreachable => (UNREACHABLE, 3, 0),
    }
}

/// See [`turn_into_error`](super::turn_into_error); leaves the MACs to it. The error comes from the
/// first IPv6 address of `router`, or from the link-local one that follows from its MAC when that is
/// all it has, or all that the sender has.
pub(super) fn write(frame: &mut Frame, complaint: Complaint, router: (MacAddr, &[IpAddr])) -> bool {
    let Some(packet) = Ipv6Packet::new(&frame.bytes()[ETHERNET_HEADER..]) else {
        return false;
    };
    if !deserves_an_error(&packet) {
        return false;
    }
    let sender = packet.get_source();
    let address = router.1.iter().find_map(|address| match address {
        IpAddr::V6(address) if !sender.is_unicast_link_local() => Some(*address),
        _ => None,
    });
    let router = address.unwrap_or_else(|| ipv6::link_local(router.0));
    let whole = ipv6::HEADER + usize::from(packet.get_payload_length());
    let quoted = whole
        .min(packet.packet().len())
        .min(LARGEST - ipv6::HEADER - ICMPV6_HEADER);

    let bytes = put_before(frame, ipv6::HEADER + ICMPV6_HEADER, quoted);
    let (message, code, rest) = header(complaint);
    bytes[ipv6::HEADER + 4..][..4].copy_from_slice(&rest.to_be_bytes());
    let mut packet = MutableIpv6Packet::new(bytes).expect("the frame was sized for it");
    packet.set_version(6);
    packet.set_payload_length((ICMPV6_HEADER + quoted) as u16);
    packet.set_next_header(IpNextHeaderProtocols::Icmpv6);
    packet.set_hop_limit(64);
    packet.set_source(router);
    packet.set_destination(sender);
    let mut error =
        MutableIcmpv6Packet::new(packet.payload_mut()).expect("the frame was sized for it");
    error.set_icmpv6_type(Icmpv6Type(message));
    error.set_icmpv6_code(Icmpv6Code(code));
    error.set_checksum(icmpv6::checksum(&error.to_immutable(), &router, &sender));
    true
}

/// RFC 4443 2.4 e wants silence about the rest. What cannot be told to be no error counts as one.
fn deserves_an_error(packet: &Ipv6Packet) -> bool {
    let answerable = |address: Ipv6Addr| !(address.is_multicast() || address.is_unspecified());
    let is_error = match ipv6::payload(packet.packet()) {
        // Messages from 128 on inform; of these a redirect counts as an error too.
        Some(Payload::Upper {
            protocol: ipv6::ICMPV6,
            bytes,
            ..
        }) => bytes.first().is_none_or(|&kind| kind < 128 || kind == 137),
        Some(Payload::Upper { .. }) => false,
        Some(Payload::LaterFragment) | None => true,
    };
    !is_error && answerable(packet.get_source()) && answerable(packet.get_destination())
}

#[cfg(test)]
mod tests {
    use pnet_packet::icmpv6::Icmpv6Packet;

    use super::super::turn_into_error;
    use super::*;
    use crate::frame;

    const CONTAINER: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
    const GATEWAY_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);

    fn address(text: &str) -> Ipv6Addr {
        text.parse().unwrap()
    }

    fn packet(source: &str, destination: &str, next_header: u8, payload: &[u8]) -> Frame {
        let mut bytes = Vec::new();
        bytes.extend(GATEWAY_MAC.0);
        bytes.extend(CONTAINER.0);
        bytes.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
        bytes.extend((payload.len() as u16).to_be_bytes());
        bytes.extend([next_header, 1]);
        bytes.extend(address(source).octets());
        bytes.extend(address(destination).octets());
        bytes.extend(payload);
        Frame::from_bytes(&bytes)
    }

    fn tell(frame: &mut Frame, complaint: Complaint) -> bool {
        let addresses = [IpAddr::from([10, 0, 0, 1]), address("fd00::1").into()];
        turn_into_error(frame, complaint, (GATEWAY_MAC, &addresses))
    }

    /// Source, destination, type, code and quotation of a right error.
    fn read(frame: &Frame) -> (Ipv6Addr, Ipv6Addr, u8, u8, Vec<u8>) {
        let ip = Ipv6Packet::new(&frame.bytes()[ETHERNET_HEADER..]).unwrap();
        assert_eq!(ip.payload().len(), usize::from(ip.get_payload_length()));
        let message = Icmpv6Packet::new(ip.payload()).unwrap();
        let (source, destination) = (ip.get_source(), ip.get_destination());
        let sum = icmpv6::checksum(&message, &source, &destination);
        assert_eq!(message.get_checksum(), sum);
        let (kind, code) = (message.get_icmpv6_type().0, message.get_icmpv6_code().0);
        let quotation = ip.payload()[ICMPV6_HEADER..].to_vec();
        (source, destination, kind, code, quotation)
    }

    // Conforms: IPV6-icmp-errors
    #[test]
    fn quotes_as_much_as_the_minimum_mtu_holds() {
        let mut frame = packet("fd00::2", "2001:db8::9", 17, &[7; 2000]);
        let before = frame.bytes().to_vec();
        assert!(tell(&mut frame, Complaint::TimeExceeded));
        assert_eq!(frame.len(), ETHERNET_HEADER + LARGEST);
        assert_eq!(frame::destination(frame.bytes()), Some(CONTAINER));
        assert_eq!(frame::source(frame.bytes()), Some(GATEWAY_MAC));
        let (source, destination, kind, code, quotation) = read(&frame);
        assert_eq!(
            (source, destination),
            (address("fd00::1"), address("fd00::2"))
        );
        assert_eq!((kind, code), (3, 0));
        assert_eq!(quotation, before[ETHERNET_HEADER..][..quotation.len()]);

        let mut short = packet("fd00::2", "2001:db8::9", 17, &[7; 8]);
        short.set_len(90);
        assert!(tell(&mut short, Complaint::NoRoute));
        assert_eq!(read(&short).4.len(), ipv6::HEADER + 8);
    }

    // Conforms: IPV6-icmp-errors IPV6-link-local-scope
    #[test]
    fn a_link_local_sender_hears_from_a_link_local_router() {
        let mut frame = packet("fe80::2", "2001:db8::9", 17, &[7; 8]);
        assert!(tell(&mut frame, Complaint::BeyondScope));
        let (source, destination, kind, code, _) = read(&frame);
        assert_eq!(source, ipv6::link_local(GATEWAY_MAC));
        assert_eq!(destination, address("fe80::2"));
        assert_eq!((kind, code), (1, 2));
        // So does everyone in a network without IPv6 addresses.
        let mut frame = packet("fd00::2", "2001:db8::9", 17, &[7; 8]);
        let router = (GATEWAY_MAC, [IpAddr::from([10, 0, 0, 1])]);
        assert!(turn_into_error(
            &mut frame,
            Complaint::NoRoute,
            (router.0, &router.1)
        ));
        assert_eq!(read(&frame).0, ipv6::link_local(GATEWAY_MAC));
    }

    // Conforms: IPV6-icmp-errors
    #[test]
    fn never_about_errors_later_fragments_or_groups() {
        let silent = |mut frame: Frame| {
            let before = frame.bytes().to_vec();
            let sent = tell(&mut frame, Complaint::TimeExceeded);
            !sent && frame.bytes() == before
        };
        let to = |destination, next_header, payload: &[u8]| {
            packet("fd00::2", destination, next_header, payload)
        };
        for (message, expected) in [(1, true), (4, true), (127, true), (128, false), (137, true)] {
            let message = [message, 0, 0, 0, 0, 0, 0, 0];
            assert_eq!(silent(to("2001:db8::9", 58, &message)), expected);
            // Extension headers hide nothing.
            let hidden = [[58, 0, 0, 0, 0, 0, 0, 0], message].concat();
            assert_eq!(silent(to("2001:db8::9", 60, &hidden)), expected);
        }
        assert!(silent(to("2001:db8::9", 44, &[17, 0, 0, 8, 0, 0, 0, 1])));
        assert!(!silent(to("2001:db8::9", 44, &[17, 0, 0, 1, 0, 0, 0, 1])));
        assert!(silent(to("ff02::1", 17, &[0; 8])));
        assert!(silent(packet("::", "2001:db8::9", 17, &[0; 8])));
        assert!(silent(to("2001:db8::9", 58, &[])));
    }
}
