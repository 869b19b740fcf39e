use std::net::SocketAddrV4;

use pnet_packet::Packet as _;
use pnet_packet::ip::{IpNextHeaderProtocol, IpNextHeaderProtocols};
use pnet_packet::ipv4::{self, Ipv4Packet, MutableIpv4Packet};
use pnet_packet::{tcp, udp};

use super::*;
use crate::config::Uplink;
use crate::drop::DropReason;
use crate::frame::{ETHERNET_HEADER, MacAddr};
use crate::testing::{GATEWAY, Lan, mac};

const ASKED: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(127, 0, 0, 11), 53);
const GATEWAY_ASKED: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, 254), 53);
const SERVER: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, 254), 14);
/// Of the interface of the stack that answers.
const STACK: MacAddr = MacAddr([2, 0, 0, 0, 0, 0x53]);
const STACK_PORT: usize = 3;
const UPPER: usize = ETHERNET_HEADER + 20;

/// The host, two endpoints, and a stack that answers for 10.0.0.254.
fn lan() -> Lan {
    Lan::new(3).with(|config| {
        config.endpoints.pop();
        config.names = Some(Names {
            port: PortId(STACK_PORT as u32),
            mac: STACK,
            redirected: SERVER.port(),
        });
    })
}

/// A packet with right checksums.
fn packet(
    macs: [MacAddr; 2],
    from: (Ipv4Addr, u16),
    to: (Ipv4Addr, u16),
    protocol: IpNextHeaderProtocol,
) -> Vec<u8> {
    let is_tcp = protocol == IpNextHeaderProtocols::Tcp;
    let mut bytes = [macs[1].0, macs[0].0].concat();
    bytes.extend(ethertype::IPV4.to_be_bytes());
    bytes.resize(UPPER + if is_tcp { 24 } else { 12 }, 0x55);
    let length = bytes.len() - ETHERNET_HEADER;
    let mut packet = MutableIpv4Packet::new(&mut bytes[ETHERNET_HEADER..]).unwrap();
    packet.set_version(4);
    packet.set_header_length(5);
    packet.set_total_length(length as u16);
    packet.set_fragment_offset(0);
    packet.set_flags(0);
    packet.set_ttl(64);
    packet.set_next_level_protocol(protocol);
    packet.set_source(from.0);
    packet.set_destination(to.0);
    let sum = ipv4::checksum(&packet.to_immutable());
    packet.set_checksum(sum);
    if is_tcp {
        let mut segment = tcp::MutableTcpPacket::new(&mut bytes[UPPER..]).unwrap();
        segment.set_source(from.1);
        segment.set_destination(to.1);
        segment.set_data_offset(5);
        let sum = tcp::ipv4_checksum(&segment.to_immutable(), &from.0, &to.0);
        segment.set_checksum(sum);
    } else {
        let mut datagram = udp::MutableUdpPacket::new(&mut bytes[UPPER..]).unwrap();
        datagram.set_source(from.1);
        datagram.set_destination(to.1);
        datagram.set_length(12);
        let sum = udp::ipv4_checksum(&datagram.to_immutable(), &from.0, &to.0);
        datagram.set_checksum(sum);
    }
    bytes
}

/// The ends of a packet whose checksums are right.
fn ends(frame: &[u8]) -> [(Ipv4Addr, u16); 2] {
    let packet = Ipv4Packet::new(&frame[ETHERNET_HEADER..]).unwrap();
    assert_eq!(packet.get_checksum(), ipv4::checksum(&packet));
    let (source, destination) = (packet.get_source(), packet.get_destination());
    let (from, to) = if packet.get_next_level_protocol() == IpNextHeaderProtocols::Tcp {
        let segment = tcp::TcpPacket::new(packet.payload()).unwrap();
        let sum = tcp::ipv4_checksum(&segment, &source, &destination);
        assert_eq!(segment.get_checksum(), sum);
        (segment.get_source(), segment.get_destination())
    } else {
        let datagram = udp::UdpPacket::new(packet.payload()).unwrap();
        let sum = udp::ipv4_checksum(&datagram, &source, &destination);
        assert_eq!(datagram.get_checksum(), sum);
        (datagram.get_source(), datagram.get_destination())
    };
    [(source, from), (destination, to)]
}

const PROTOCOLS: [IpNextHeaderProtocol; 2] =
    [IpNextHeaderProtocols::Udp, IpNextHeaderProtocols::Tcp];

fn client() -> (Ipv4Addr, u16) {
    (Ipv4Addr::new(10, 0, 0, 1), 4000)
}

fn end(address: SocketAddrV4) -> (Ipv4Addr, u16) {
    (*address.ip(), address.port())
}

#[test]
fn a_question_goes_to_the_stack_and_its_answer_comes_from_where_it_was_asked() {
    let mut lan = lan();
    for internal in [false, true] {
        lan = lan.with(|config| config.networks[0].internal = internal);
        for (asked, server) in [(ASKED, SERVER), (GATEWAY_ASKED, GATEWAY_ASKED)] {
            for protocol in PROTOCOLS {
                let question = packet([mac(1), GATEWAY], client(), end(asked), protocol);
                let [(STACK_PORT, heard)] = &lan.send_and_hear(1, &question)[..] else {
                    panic!("the stack alone hears it")
                };
                assert_eq!(ends(heard), [client(), end(server)]);
                assert_eq!(frame::destination(heard), Some(STACK));
                let answer = packet([STACK, STACK], end(server), client(), protocol);
                let [(1, heard)] = &lan.send_and_hear(STACK_PORT, &answer)[..] else {
                    panic!("who asked alone hears it")
                };
                assert_eq!(ends(heard), [end(asked), client()]);
                assert_eq!(frame::source(heard), Some(GATEWAY));
            }
        }
    }
}

#[test]
fn what_asks_for_no_names_does_not_reach_the_stack() {
    let mut lan = lan();
    for protocol in PROTOCOLS {
        // Other ports of the gateway are the host's, and so is port 53 of its other addresses.
        for to in [80, SERVER.port()] {
            let to = (*SERVER.ip(), to);
            let frame = packet([mac(1), GATEWAY], client(), to, protocol);
            assert_eq!(lan.send(1, &frame), [0]);
        }
        // Other loopback addresses, and other ports there.
        for to in [(Ipv4Addr::LOCALHOST, 53), (*ASKED.ip(), 80)] {
            let frame = packet([mac(1), GATEWAY], client(), to, protocol);
            assert!(lan.send(1, &frame).is_empty());
        }
        // An address that is nobody's could get no answer there.
        let stranger = (Ipv4Addr::new(10, 0, 0, 77), 4000);
        lan = lan.with(|config| config.endpoints[0].guard = false);
        let frame = packet([mac(1), GATEWAY], stranger, end(GATEWAY_ASKED), protocol);
        assert_eq!(lan.send(1, &frame), [0]);
        lan = lan.with(|config| config.endpoints[0].guard = true);
    }
    assert_eq!(lan.drops(DropReason::Martian), 4);
}

#[test]
fn the_stack_says_nothing_but_answers() {
    let mut lan = lan();
    for protocol in PROTOCOLS {
        for (from, to) in [
            ((Ipv4Addr::new(10, 0, 0, 2), 53), client()),
            ((*SERVER.ip(), 53), (Ipv4Addr::new(10, 0, 0, 77), 4000)),
            ((*SERVER.ip(), 53), (Ipv4Addr::new(8, 8, 8, 8), 53)),
            ((*SERVER.ip(), 53), (Ipv4Addr::new(224, 0, 0, 22), 53)),
        ] {
            let frame = packet([STACK, STACK], from, to, protocol);
            assert!(lan.send(STACK_PORT, &frame).is_empty(), "{from:?} {to:?}");
        }
    }
    let noise = [[0x33; 12].as_slice(), &[0x86, 0xdd], &[0; 40]].concat();
    assert!(lan.send(STACK_PORT, &noise).is_empty());
}

/// All networks have their answers from there: one that floods it with questions is held back at its
/// own port, and the others' answers are not.
#[test]
fn the_stack_is_not_held_back() {
    let lan = lan().with(|config| {
        config.uplinks.push(Uplink {
            port: PortId(9),
            newcomers: Some(PortId(2)),
            mac: mac(9),
            mtu: 1500,
            clamp_mss: false,
        });
        config.endpoints.truncate(1);
    });
    let topology = lan.datapath.topology();
    let shared: Vec<usize> = (0..4)
        .filter(|&port| topology.is_shared(PortId(port as u32)))
        .collect();
    assert_eq!(shared, [STACK_PORT], "not the host, an endpoint, newcomers");
}

#[test]
fn without_a_stack_the_gateway_is_the_host_and_the_other_address_nobody() {
    let mut plain = Lan::new(1);
    let question = packet([mac(1), GATEWAY], client(), end(ASKED), PROTOCOLS[0]);
    assert!(plain.send(1, &question).is_empty());
    assert_eq!(plain.drops(DropReason::Martian), 1);
    let question = packet(
        [mac(1), GATEWAY],
        client(),
        end(GATEWAY_ASKED),
        PROTOCOLS[0],
    );
    assert_eq!(plain.send(1, &question), [0]);
}

// Conforms: CVE-2020-8558
#[test]
fn no_neighbour_reaches_a_loopback_address() {
    let mut lan = lan().with(|config| config.endpoints[0].guard = false);
    for to in [mac(2), MacAddr([0xff; 6]), MacAddr([1, 0, 0x5e, 0, 0, 9])] {
        for address in [Ipv4Addr::LOCALHOST, *ASKED.ip()] {
            let frame = packet([mac(1), to], client(), (address, 80), PROTOCOLS[0]);
            assert!(lan.send(1, &frame).is_empty(), "{address} at {to}");
            // Behind tags, of which Linux takes off those of VLAN 0 itself.
            for tags in [&[0x81, 0, 0, 0][..], &[0x88, 0xa8, 0xe0, 0, 0x81, 0, 0, 5]] {
                for repeat in [1, 2, 9] {
                    let mut tagged = frame.clone();
                    tagged.splice(12..12, tags.repeat(repeat));
                    assert!(lan.send(1, &tagged).is_empty(), "{address}: {tags:x?}");
                }
            }
        }
        let mut frame = [to.0, mac(1).0].concat();
        frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 0, 59, 64]);
        frame.extend("fd00::1".parse::<Ipv6Addr>().unwrap().octets());
        frame.extend(Ipv6Addr::LOCALHOST.octets());
        assert!(lan.send(1, &frame).is_empty(), "::1 at {to}");
    }
    assert_eq!(lan.drops(DropReason::Martian), 33);
}
