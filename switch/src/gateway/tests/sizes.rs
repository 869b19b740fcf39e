//! Fragments and sizes through the gateway, frame by frame. Ports: 0 the host, 1 and 2 containers
//! 10.0.0.1 and 10.0.0.2, 3 the uplink.

use std::net::Ipv4Addr;

use nat::Protocol;
use pnet_packet::ip::IpNextHeaderProtocol;
use pnet_packet::ipv4::{self, Ipv4Packet, MutableIpv4Packet};
use pnet_packet::udp::{self, MutableUdpPacket, UdpPacket};
use pnet_packet::{Packet as _, tcp};

use super::super::*;
use crate::config::Route;
use crate::frame::MacAddr;
use crate::testing::{GATEWAY, Lan, mac};

const UPLINK: MacAddr = MacAddr([2, 0, 0, 0, 1, 1]);
const ROUTER: MacAddr = MacAddr([2, 0, 0, 0, 1, 9]);
const HOST: &str = "192.0.2.1";
const FAR: &str = "198.51.100.7";
const IP: usize = ETHERNET_HEADER;
const DF: u16 = 0x4000;
const MF: u16 = 0x2000;

fn ip(text: &str) -> Ipv4Addr {
    text.parse().unwrap()
}

/// Masqueraded containers; UDP port 8080 of the host is port 80 of the first.
fn lan(uplink_mtu: u32, network_mtu: u32) -> Lan {
    let lan = Lan::new(3).with(|config| {
        config.endpoints.pop();
        config.networks[0].mtu = network_mtu;
        config.host_addresses.push(ip(HOST).into());
        config.uplinks.push(Uplink {
            port: PortId(3),
            newcomers: None,
            mac: UPLINK,
            mtu: uplink_mtu,
            clamp_mss: true,
        });
        config.routes.push(Route::by(
            "0.0.0.0/0".parse().unwrap(),
            PortId(3),
            Some(ip("192.0.2.9").into()),
            ip(HOST).into(),
        ));
        let router = (PortId(3), ip("192.0.2.9").into(), ROUTER);
        config.neighbors.push(router);
        config.nat = nat::Rules {
            masquerade: vec![nat::Masquerade {
                source: "10.0.0.0/24".parse().unwrap(),
                to: None,
            }],
            publish: vec![nat::Publish {
                id: 1,
                protocol: Protocol::UDP,
                host: None,
                ports: 8080..=8080,
                to: ip("10.0.0.1").into(),
                to_port: 80,
                allow: nat::Sources::default(),
            }],
            local: config.host_addresses.clone(),
            ..nat::Rules::default()
        };
    });
    for protocol in [Protocol::UDP, Protocol::TCP] {
        lan.datapath
            .nat()
            .add_external_ports(protocol, 61_000..=61_007);
    }
    lan
}

/// A frame of IPv4 with a right header.
fn packet(
    macs: [MacAddr; 2],
    addresses: [&str; 2],
    flags: u16,
    protocol: u8,
    payload: &[u8],
) -> Vec<u8> {
    let mut frame = [macs[1].0, macs[0].0].concat();
    frame.extend(ethertype::IPV4.to_be_bytes());
    frame.resize(IP + 20, 0);
    frame.extend(payload);
    let mut packet = MutableIpv4Packet::new(&mut frame[IP..]).unwrap();
    packet.set_version(4);
    packet.set_header_length(5);
    packet.set_total_length(20 + payload.len() as u16);
    packet.set_identification(0x1234);
    packet.set_flags((flags >> 13) as u8);
    packet.set_fragment_offset(flags & 0x1fff);
    packet.set_ttl(64);
    packet.set_next_level_protocol(IpNextHeaderProtocol(protocol));
    packet.set_source(ip(addresses[0]));
    packet.set_destination(ip(addresses[1]));
    packet.set_checksum(ipv4::checksum(&packet.to_immutable()));
    frame
}

/// A datagram of UDP of so many bytes, with a right checksum.
fn datagram(addresses: [&str; 2], ports: (u16, u16), length: usize) -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..length).map(|at| (at % 251) as u8).collect();
    let mut datagram = MutableUdpPacket::new(&mut bytes).unwrap();
    datagram.set_source(ports.0);
    datagram.set_destination(ports.1);
    datagram.set_length(length as u16);
    datagram.set_checksum(0);
    let [source, destination] = addresses.map(ip);
    let sum = udp::ipv4_checksum(&datagram.to_immutable(), &source, &destination);
    datagram.set_checksum(sum);
    bytes
}

/// A datagram in fragments of so many bytes of payload.
fn fragments(
    macs: [MacAddr; 2],
    addresses: [&str; 2],
    payload: &[u8],
    step: usize,
) -> Vec<Vec<u8>> {
    let last = (payload.len() - 1) / step;
    let pieces = payload.chunks(step).enumerate();
    pieces
        .map(|(at, piece)| {
            let more = if at < last { MF } else { 0 };
            packet(macs, addresses, more | (at * step / 8) as u16, 17, piece)
        })
        .collect()
}

/// Addresses and payload of a datagram in fragments, whose headers and checksum are right.
fn together(frames: &[Vec<u8>]) -> (Ipv4Addr, Ipv4Addr, Vec<u8>) {
    let mut data = Vec::new();
    let mut ends = None;
    for frame in frames {
        let packet = Ipv4Packet::new(&frame[IP..]).unwrap();
        assert_eq!(packet.get_checksum(), ipv4::checksum(&packet));
        let (offset, piece) = (
            usize::from(packet.get_fragment_offset()) * 8,
            packet.payload(),
        );
        ends.get_or_insert((packet.get_source(), packet.get_destination()));
        assert_eq!(ends, Some((packet.get_source(), packet.get_destination())));
        data.resize(data.len().max(offset + piece.len()), 0);
        data[offset..offset + piece.len()].copy_from_slice(piece);
    }
    let (source, destination) = ends.unwrap();
    let datagram = UdpPacket::new(&data).unwrap();
    let sum = udp::ipv4_checksum(&datagram, &source, &destination);
    assert_eq!(datagram.get_checksum(), sum);
    (source, destination, data)
}

fn from_wire(payload: &[u8], step: usize) -> Vec<Vec<u8>> {
    fragments([ROUTER, UPLINK], [FAR, HOST], payload, step)
}

// Conforms: RFC4787-14 OVS-frag-out-of-order
#[test]
fn fragments_leave_behind_their_first_one_in_both_directions() {
    let mut lan = lan(1500, 1500);
    let payload = datagram(["10.0.0.2", FAR], (4242, 53), 4000);
    let mut pieces = fragments([mac(2), GATEWAY], ["10.0.0.2", FAR], &payload, 1480);
    pieces.reverse();
    assert!(lan.send(2, &pieces[0]).is_empty());
    assert!(lan.send(2, &pieces[1]).is_empty());
    let left = lan.send_and_hear(2, &pieces[2]);
    assert_eq!(
        left.iter().map(|(port, _)| *port).collect::<Vec<_>>(),
        [3; 3]
    );
    let left: Vec<Vec<u8>> = left.into_iter().map(|(_, frame)| frame).collect();
    for frame in &left {
        let macs = (frame::source(frame), frame::destination(frame));
        assert_eq!(macs, (Some(UPLINK), Some(ROUTER)));
        assert_eq!(frame[IP + 8], 63);
    }
    let (source, destination, data) = together(&left);
    assert_eq!((source, destination), (ip(HOST), ip(FAR)));
    assert_eq!(data[8..], payload[8..]);
    let external = u16::from_be_bytes([data[0], data[1]]);

    let payload = datagram([FAR, HOST], (53, external), 4000);
    let pieces = from_wire(&payload, 1480);
    assert!(lan.send(3, &pieces[2]).is_empty());
    let first = lan.send_and_hear(3, &pieces[0]);
    let second = lan.send_and_hear(3, &pieces[1]);
    let left: Vec<Vec<u8>> = [first, second]
        .concat()
        .into_iter()
        .map(|(port, frame)| {
            assert_eq!(port, 2);
            assert_eq!(frame::destination(&frame), Some(mac(2)));
            assert_eq!(frame::source(&frame), Some(GATEWAY));
            frame
        })
        .collect();
    let (_, destination, data) = together(&left);
    assert_eq!((left.len(), destination), (3, ip("10.0.0.2")));
    assert_eq!(data[8..], payload[8..]);
}

#[test]
fn fragments_for_the_host_reach_it_as_they_were() {
    let mut lan = lan(1500, 1500);
    let payload = datagram(["10.0.0.2", HOST], (4242, 99), 3000);
    let pieces = fragments([mac(2), GATEWAY], ["10.0.0.2", HOST], &payload, 1480);
    assert!(lan.send(2, &pieces[2]).is_empty());
    let heard = lan.send_and_hear(2, &pieces[0]);
    assert_eq!(heard, [(0, pieces[0].clone()), (0, pieces[2].clone())]);
    assert_eq!(lan.send_and_hear(2, &pieces[1]), [(0, pieces[1].clone())]);
}

// Conforms: OVS-frag-expiry OVS-frag-incomplete
#[test]
fn fragments_without_a_first_one_are_counted_when_their_time_is_over() {
    let mut lan = lan(1500, 1500);
    let payload = datagram([FAR, HOST], (53, 8080), 3000);
    assert!(lan.send(3, &from_wire(&payload, 1480)[1]).is_empty());
    assert!(lan.send(3, &from_wire(&payload, 1480)[2]).is_empty());
    lan.pass(29);
    assert_eq!(lan.drops(DropReason::Nat(Refused::FragmentUnfinished)), 0);
    lan.pass(2);
    assert_eq!(lan.drops(DropReason::Nat(Refused::FragmentUnfinished)), 2);
}

/// The error in a frame, whose checksum is right: source, destination, MTU, quoted packet.
fn frag_needed(frame: &[u8]) -> (Ipv4Addr, Ipv4Addr, u16, Vec<u8>) {
    let packet = Ipv4Packet::new(&frame[IP..]).unwrap();
    assert_eq!(packet.get_checksum(), ipv4::checksum(&packet));
    let message = packet.payload();
    assert_eq!(message[..2], [3, 4]);
    let icmp = pnet_packet::icmp::IcmpPacket::new(message).unwrap();
    assert_eq!(icmp.get_checksum(), pnet_packet::icmp::checksum(&icmp));
    let mtu = u16::from_be_bytes([message[6], message[7]]);
    (
        packet.get_source(),
        packet.get_destination(),
        mtu,
        message[8..].to_vec(),
    )
}

// Conforms: RFC4787-13
#[test]
fn a_container_hears_from_its_gateway_what_the_uplink_carries() {
    let mut lan = lan(1400, 1500);
    let payload = datagram(["10.0.0.2", FAR], (4242, 53), 1400);
    let sent = packet([mac(2), GATEWAY], ["10.0.0.2", FAR], DF, 17, &payload);
    let heard = lan.send_and_hear(2, &sent);
    assert_eq!((heard.len(), heard[0].0), (1, 2));
    let (source, destination, mtu, quote) = frag_needed(&heard[0].1);
    assert_eq!(
        (source, destination, mtu),
        (ip("10.0.0.254"), ip("10.0.0.2"), 1400)
    );
    assert_eq!(quote, sent[IP..][..quote.len()]);
    assert_eq!(lan.drops(DropReason::MtuExceeded), 1);
    assert!(
        lan.datapath.nat().is_empty(),
        "and no connection was opened"
    );
}

// Conforms: RFC4787-13 RFC5508-4
#[test]
fn a_peer_hears_from_the_host_what_the_container_takes() {
    let mut lan = lan(1500, 1400);
    let payload = datagram([FAR, HOST], (53, 8080), 1400);
    let sent = packet([ROUTER, UPLINK], [FAR, HOST], DF, 17, &payload);
    let heard = lan.send_and_hear(3, &sent);
    assert_eq!((heard.len(), heard[0].0), (1, 3));
    assert_eq!(frame::destination(&heard[0].1), Some(ROUTER));
    let (source, destination, mtu, quote) = frag_needed(&heard[0].1);
    assert_eq!((source, destination, mtu), (ip(HOST), ip(FAR), 1400));
    // The packet as the peer sent it, but for the hop it has made.
    let mut expected = sent[IP..][..quote.len()].to_vec();
    expected[8] = quote[8];
    expected[10..12].copy_from_slice(&quote[10..12]);
    assert_eq!(quote, expected);
    assert_eq!(lan.drops(DropReason::MtuExceeded), 1);

    // And a container that came by way of the host's address, from that address.
    let payload = datagram(["10.0.0.2", HOST], (99, 8080), 1400);
    let sent = packet([mac(2), GATEWAY], ["10.0.0.2", HOST], DF, 17, &payload);
    let heard = lan.send_and_hear(2, &sent);
    assert_eq!((heard.len(), heard[0].0), (1, 2));
    let (source, destination, mtu, quote) = frag_needed(&heard[0].1);
    assert_eq!((source, destination, mtu), (ip(HOST), ip("10.0.0.2"), 1400));
    assert_eq!(quote[12..24], sent[IP + 12..][..12]);
}

// Conforms: SWITCH-mtu-fragments
#[test]
fn what_may_be_fragmented_is_in_both_directions() {
    let mut lan = lan(1000, 1400);
    let payload = datagram(["10.0.0.2", FAR], (4242, 53), 1300);
    let sent = packet([mac(2), GATEWAY], ["10.0.0.2", FAR], 0, 17, &payload);
    let left: Vec<Vec<u8>> = lan
        .send_and_hear(2, &sent)
        .into_iter()
        .map(|(_, it)| it)
        .collect();
    assert_eq!(
        left.iter().map(Vec::len).collect::<Vec<_>>(),
        [14 + 996, 14 + 344]
    );
    let (source, _, data) = together(&left);
    assert_eq!((source, &data[8..]), (ip(HOST), &payload[8..]));

    let payload = datagram([FAR, HOST], (53, 8080), 1480);
    let sent = packet([ROUTER, UPLINK], [FAR, HOST], 0, 17, &payload);
    let left: Vec<Vec<u8>> = lan
        .send_and_hear(3, &sent)
        .into_iter()
        .map(|(_, it)| it)
        .collect();
    assert_eq!(left.len(), 2);
    assert!(
        left.iter()
            .all(|frame| frame::destination(frame) == Some(mac(1)))
    );
    let (_, destination, data) = together(&left);
    assert_eq!((destination, &data[8..]), (ip("10.0.0.1"), &payload[8..]));
}

// Conforms: SWITCH-mss-clamp
#[test]
fn the_segment_size_is_lowered_on_its_way_out_and_in() {
    let mut lan = lan(1400, 1500);
    let syn = |addresses: [&str; 2], ports: (u16, u16), flags: u8| {
        let mut bytes = vec![0; 24];
        bytes[..2].copy_from_slice(&ports.0.to_be_bytes());
        bytes[2..4].copy_from_slice(&ports.1.to_be_bytes());
        bytes[12..14].copy_from_slice(&[0x60, flags]);
        bytes[20..].copy_from_slice(&[2, 4, 0x05, 0xb4]);
        let [source, destination] = addresses.map(ip);
        let mut segment = tcp::MutableTcpPacket::new(&mut bytes).unwrap();
        segment.set_checksum(tcp::ipv4_checksum(
            &segment.to_immutable(),
            &source,
            &destination,
        ));
        bytes
    };
    let out = syn(["10.0.0.2", FAR], (4242, 80), 2);
    let sent = packet([mac(2), GATEWAY], ["10.0.0.2", FAR], DF, 6, &out);
    let (port, left) = lan.send_and_hear(2, &sent).remove(0);
    assert_eq!((port, &left[IP + 40..]), (3, &[2, 4, 0x05, 0x50][..]));
    let external = u16::from_be_bytes([left[IP + 20], left[IP + 21]]);
    let segment = tcp::TcpPacket::new(&left[IP + 20..]).unwrap();
    let sum = tcp::ipv4_checksum(&segment, &ip(HOST), &ip(FAR));
    assert_eq!(segment.get_checksum(), sum);

    let back = syn([FAR, HOST], (80, external), 0x12);
    let answer = packet([ROUTER, UPLINK], [FAR, HOST], DF, 6, &back);
    let (port, left) = lan.send_and_hear(3, &answer).remove(0);
    assert_eq!((port, &left[IP + 40..]), (2, &[2, 4, 0x05, 0x50][..]));
}
