//! ARP (RFC 826) over Ethernet and IPv4: reading a frame's, and writing one in place.

use std::net::Ipv4Addr;

use pnet_base::MacAddr as PnetMac;
use pnet_packet::MutablePacket;
use pnet_packet::arp::{ArpHardwareTypes, ArpOperations, ArpPacket, MutableArpPacket};
use pnet_packet::ethernet::{EtherTypes, MutableEthernetPacket};

use crate::frame::{ETHERNET_HEADER, Frame, MacAddr, VnetHeader};

const ARP_LEN: usize = 28;
const FRAME_LEN: usize = ETHERNET_HEADER + ARP_LEN;

/// What an ARP frame says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arp {
    pub is_request: bool,
    pub sender_mac: MacAddr,
    pub sender: Ipv4Addr,
    pub target: Ipv4Addr,
}

/// Reads the ARP packet of an untagged frame. `None` when it is truncated or speaks of anything
/// but Ethernet and IPv4, and of a sender that is a group (RFC 1812 section 3.3.2).
pub fn parse(frame: &[u8]) -> Option<Arp> {
    parse_at(frame, ETHERNET_HEADER)
}

/// The same for a tagged frame, whose ARP packet starts at byte `at`.
pub fn parse_at(frame: &[u8], at: usize) -> Option<Arp> {
    let arp = ArpPacket::new(frame.get(at..)?)?;
    let spoken = arp.get_hardware_type() == ArpHardwareTypes::Ethernet
        && arp.get_protocol_type() == EtherTypes::Ipv4
        && arp.get_hw_addr_len() == 6
        && arp.get_proto_addr_len() == 4;
    let operation = arp.get_operation();
    let known = operation == ArpOperations::Request || operation == ArpOperations::Reply;
    let sender_mac = MacAddr(arp.get_sender_hw_addr().octets());
    (spoken && known && sender_mac.is_unicast()).then(|| Arp {
        is_request: operation == ArpOperations::Request,
        sender_mac,
        sender: arp.get_sender_proto_addr(),
        target: arp.get_target_proto_addr(),
    })
}

/// Turns the request in `frame` into the answer that `request.target` is at `mac`.
pub fn answer(frame: &mut Frame, request: Arp, mac: MacAddr) {
    let to = (request.sender_mac, request.sender);
    write(frame, ArpOperations::Reply, (mac, request.target), to);
}

/// Writes the question who has `target` into `frame`, whatever it held before.
pub fn ask(frame: &mut Frame, sender: (MacAddr, Ipv4Addr), target: Ipv4Addr) {
    write(
        frame,
        ArpOperations::Request,
        sender,
        (MacAddr::BROADCAST, target),
    );
}

fn write(
    frame: &mut Frame,
    operation: pnet_packet::arp::ArpOperation,
    sender: (MacAddr, Ipv4Addr),
    target: (MacAddr, Ipv4Addr),
) {
    frame.set_vnet(VnetHeader::default());
    frame.set_len(FRAME_LEN);
    let mut ethernet =
        MutableEthernetPacket::new(frame.bytes_mut()).expect("the frame was sized for it");
    ethernet.set_destination(pnet_mac(target.0));
    ethernet.set_source(pnet_mac(sender.0));
    ethernet.set_ethertype(EtherTypes::Arp);
    let mut arp =
        MutableArpPacket::new(ethernet.payload_mut()).expect("the frame was sized for it");
    arp.set_hardware_type(ArpHardwareTypes::Ethernet);
    arp.set_protocol_type(EtherTypes::Ipv4);
    arp.set_hw_addr_len(6);
    arp.set_proto_addr_len(4);
    arp.set_operation(operation);
    arp.set_sender_hw_addr(pnet_mac(sender.0));
    arp.set_sender_proto_addr(sender.1);
    // RFC 826: the target's hardware address of a request is what is being asked for.
    let is_request = operation == ArpOperations::Request;
    arp.set_target_hw_addr(if is_request {
        PnetMac::zero()
    } else {
        pnet_mac(target.0)
    });
    arp.set_target_proto_addr(target.1);
}

fn pnet_mac(mac: MacAddr) -> PnetMac {
    PnetMac::from(mac.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ASKER: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
    const GATEWAY: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);

    #[test]
    fn a_request_becomes_its_answer() {
        let (asker, gateway) = (Ipv4Addr::new(10, 0, 0, 2), Ipv4Addr::new(10, 0, 0, 1));
        let mut frame = Frame::new();
        ask(&mut frame, (ASKER, asker), gateway);
        let request = parse(frame.bytes()).unwrap();
        assert_eq!(
            request,
            Arp {
                is_request: true,
                sender_mac: ASKER,
                sender: asker,
                target: gateway
            }
        );
        assert_eq!(
            crate::frame::destination(frame.bytes()),
            Some(MacAddr::BROADCAST)
        );

        answer(&mut frame, request, GATEWAY);
        assert_eq!(
            parse(frame.bytes()).unwrap(),
            Arp {
                is_request: false,
                sender_mac: GATEWAY,
                sender: gateway,
                target: asker
            }
        );
        assert_eq!(crate::frame::destination(frame.bytes()), Some(ASKER));
    }

    #[test]
    fn truncated_and_foreign_packets_are_none() {
        let mut frame = Frame::new();
        ask(
            &mut frame,
            (ASKER, Ipv4Addr::LOCALHOST),
            Ipv4Addr::LOCALHOST,
        );
        for len in 0..FRAME_LEN {
            assert_eq!(parse(&frame.bytes()[..len]), None);
        }
        frame.bytes_mut()[14] = 9;
        assert_eq!(parse(frame.bytes()), None);
    }
}
