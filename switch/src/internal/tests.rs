use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use super::*;
use crate::frame::MacAddr;
use crate::ipv6;
use crate::testing::{GATEWAY, Lan, mac};

const GATEWAY_ADDRESS: [u8; 4] = [10, 0, 0, 254];
const ENDPOINT: [u8; 4] = [10, 0, 0, 1];
const HOST_ADDRESS: [u8; 4] = [192, 0, 2, 1];
const NO_ONE: [usize; 0] = [];

const UDP: u8 = 17;
const TCP: u8 = 6;
const ICMP: u8 = 1;

/// The host, and two endpoints of an internal network.
fn lan() -> Lan {
    Lan::new(2).with(|config| {
        config.networks[0].internal = true;
        config.host_addresses.push(HOST_ADDRESS.into());
    })
}

/// An IPv4 packet in a frame, with this in its flags and offset.
fn packet(
    macs: [MacAddr; 2],
    addresses: [[u8; 4]; 2],
    (protocol, fragment): (u8, u16),
    payload: &[u8],
) -> Vec<u8> {
    let mut frame = [macs[1].0, macs[0].0].concat();
    frame.extend([0x08, 0x00, 0x45, 0]);
    frame.extend((20 + payload.len() as u16).to_be_bytes());
    frame.extend([0, 7]);
    frame.extend(fragment.to_be_bytes());
    frame.extend([64, protocol, 0, 0]);
    frame.extend(addresses.concat());
    frame.extend(payload);
    frame
}

fn to_host(address: [u8; 4], protocol: u8, payload: &[u8]) -> Vec<u8> {
    packet(
        [mac(1), GATEWAY],
        [ENDPOINT, address],
        (protocol, 0),
        payload,
    )
}

fn datagram(from: u16, to: u16) -> Vec<u8> {
    [&from.to_be_bytes()[..], &to.to_be_bytes(), &[0, 8, 0, 0]].concat()
}

fn segment(to: u16, flags: u8) -> Vec<u8> {
    let mut segment = vec![0; 20];
    segment[..2].copy_from_slice(&4242u16.to_be_bytes());
    segment[2..4].copy_from_slice(&to.to_be_bytes());
    segment[12] = 0x50;
    segment[FLAGS] = flags;
    segment
}

#[test]
fn no_service_of_the_host_is_reached_but_names() {
    let mut lan = lan();
    for (protocol, payload, passes) in [
        (UDP, datagram(4242, 53), true),
        (UDP, datagram(4242, 8080), false),
        (UDP, datagram(53, 123), false),
        (TCP, segment(53, SYN), true),
        (TCP, segment(8080, SYN), false),
        (TCP, segment(8080, SYN | 0x40), false),
        // Answers to the host's own connections.
        (TCP, segment(8080, SYN | ACK), true),
        (TCP, segment(8080, ACK), true),
        (TCP, segment(8080, 0x04), true),
        (ICMP, vec![8, 0, 0, 0, 0, 1, 0, 1], true),
        (ICMP, vec![0, 0, 0, 0, 0, 1, 0, 1], true),
        // A redirect, a timestamp request.
        (ICMP, vec![5, 0, 0, 0, 10, 0, 0, 2], false),
        (ICMP, vec![13, 0, 0, 0, 0, 1, 0, 1], false),
        // SCTP, and what nobody knows.
        (132, vec![0; 12], false),
        (253, vec![0; 12], false),
    ] {
        let heard = lan.send(1, &to_host(GATEWAY_ADDRESS, protocol, &payload));
        // A refusal goes back as an ICMP error where the protocol allows.
        assert_eq!(heard.contains(&0), passes, "{protocol} {payload:?}");
        let elsewhere = lan.send(1, &to_host(HOST_ADDRESS, protocol, &payload));
        assert!(!elsewhere.contains(&0), "{protocol} {payload:?}");
    }
    assert!(lan.drops(DropReason::InternalNetwork) > 0);
}

#[test]
fn the_host_is_answered_for_a_while() {
    let mut lan = lan();
    let answer = to_host(GATEWAY_ADDRESS, UDP, &datagram(7, 4000));
    assert!(!lan.send(1, &answer).contains(&0), "not asked");
    let macs = [GATEWAY, mac(1)];
    let addresses = [GATEWAY_ADDRESS, ENDPOINT];
    let question = packet(macs, addresses, (UDP, 0), &datagram(4000, 7));
    assert_eq!(lan.send(0, &question), [1]);
    assert_eq!(lan.send(1, &answer), [0]);
    lan.pass(170);
    assert_eq!(lan.send(1, &answer), [0]);
    let another = to_host(GATEWAY_ADDRESS, UDP, &datagram(8, 4000));
    assert!(!lan.send(1, &another).contains(&0));
    lan.pass(181);
    assert!(!lan.send(1, &answer).contains(&0), "too late");
}

#[test]
fn flows_of_the_host_are_bounded() {
    let asked = Asked::default();
    let mut frame = Frame::new();
    let at = |n: u64| Time::ZERO + Duration::from_millis(n);
    for n in 0..2000u16 {
        let macs = [GATEWAY, mac(1)];
        let bytes = packet(macs, [GATEWAY_ADDRESS, ENDPOINT], (UDP, 0), &datagram(n, 7));
        frame.set_raw(Frame::from_bytes(&bytes).raw());
        asked.note(at(n.into()), &mut frame);
    }
    assert_eq!(asked.flows.lock().len(), FLOWS);
    let socket = |address: [u8; 4], port| SocketAddr::from((Ipv4Addr::from(address), port));
    let answers = |n| asked.is_answer(at(2000), socket(ENDPOINT, 7), socket(GATEWAY_ADDRESS, n));
    assert!(answers(1999) && !answers(3));
}

#[test]
fn fragments_hide_nothing() {
    let mut lan = lan();
    const MORE: u16 = 0x2000;
    let mut fragment = |protocol, field, payload: &[u8]| {
        let (macs, addresses) = ([mac(1), GATEWAY], [ENDPOINT, GATEWAY_ADDRESS]);
        let frame = packet(macs, addresses, (protocol, field), payload);
        lan.send(1, &frame).contains(&0)
    };
    // The flags of TCP in the second one (RFC 1858).
    assert!(!fragment(TCP, MORE, &segment(8080, SYN)[..8]));
    assert!(!fragment(TCP, 1, &segment(8080, SYN)[8..]));
    assert!(!fragment(UDP, MORE, &datagram(4242, 8080)));
    assert!(fragment(UDP, MORE, &datagram(4242, 53)));
    assert!(fragment(UDP, 1, &[0; 8]));
}

#[test]
fn what_is_for_many_stays_in_the_network() {
    let mut lan = lan();
    let groups = [
        (MacAddr::BROADCAST, [255; 4]),
        (MacAddr::BROADCAST, [10, 0, 0, 255]),
        (MacAddr([1, 0, 0x5e, 0, 0, 1]), [224, 0, 0, 1]),
        (MacAddr([1, 0, 0x5e, 0, 0, 251]), [224, 0, 0, 251]),
    ];
    for (to, address) in groups {
        for payload in [datagram(5353, 5353), datagram(68, 67), datagram(9, 53)] {
            let frame = packet([mac(1), to], [ENDPOINT, address], (UDP, 0), &payload);
            assert_eq!(lan.send(1, &frame), [2], "{address:?}");
        }
        let report = packet([mac(1), to], [ENDPOINT, address], (2, 0), &[0x16; 8]);
        let expected: &[usize] = if address[0] == 224 { &[0, 2] } else { &[2] };
        assert_eq!(lan.send(1, &report), expected);
    }
}

/// In any network: the gateway decides about unicast, and is not passed by.
#[test]
fn a_frame_for_many_carries_no_packet_for_one() {
    for internal in [false, true] {
        let mut lan = lan().with(|config| config.networks[0].internal = internal);
        for address in [GATEWAY_ADDRESS, HOST_ADDRESS, [10, 0, 0, 2], [127, 0, 0, 1]] {
            for to in [MacAddr::BROADCAST, MacAddr([1, 0, 0x5e, 0, 0, 1])] {
                let macs = [mac(1), to];
                let frame = packet(macs, [ENDPOINT, address], (UDP, 0), &datagram(9, 53));
                assert_eq!(lan.send(1, &frame), NO_ONE, "{address:?} {to}");
                let mut tagged = frame;
                tagged.splice(12..12, [0x81, 0, 0, 0]);
                assert_eq!(lan.send(1, &tagged), NO_ONE, "{address:?} {to}");
            }
        }
    }
}

#[test]
fn arp_answers_the_host_and_asks_it_for_nothing_else() {
    let mut lan = lan();
    let arp = |to: MacAddr, operation: u8, target: [u8; 4]| {
        let mut frame = [to.0, mac(1).0].concat();
        frame.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, operation]);
        frame.extend(mac(1).0);
        frame.extend(ENDPOINT);
        frame.extend([0; 6]);
        frame.extend(target);
        frame
    };
    assert_eq!(lan.send(1, &arp(GATEWAY, 2, GATEWAY_ADDRESS)), [0]);
    // It announces itself.
    assert_eq!(lan.send(1, &arp(MacAddr::BROADCAST, 1, ENDPOINT)), [0, 2]);
    // Linux would answer for any of its addresses.
    assert_eq!(lan.send(1, &arp(MacAddr::BROADCAST, 1, HOST_ADDRESS)), [2]);
    assert_eq!(lan.send(1, &arp(GATEWAY, 1, HOST_ADDRESS)), NO_ONE);
}

/// An IPv6 packet in a frame.
fn packet6(to: MacAddr, addresses: [Ipv6Addr; 2], next: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = [to.0, mac(1).0].concat();
    frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
    frame.extend((payload.len() as u16).to_be_bytes());
    frame.extend([next, 255]);
    frame.extend(addresses.map(|it| it.octets()).concat());
    frame.extend(payload);
    frame
}

#[test]
fn no_service_of_the_host_is_reached_by_ipv6_but_names() {
    let gateway: Ipv6Addr = "2001:db8::fe".parse().unwrap();
    let host: Ipv6Addr = "2001:db8:1::1".parse().unwrap();
    let own: Ipv6Addr = "2001:db8::1".parse().unwrap();
    let mut lan = Lan::new(2).with(|config| {
        config.networks[0].internal = true;
        config.networks[0]
            .subnets
            .push("2001:db8::/64".parse().unwrap());
        config.networks[0].gateway_addresses.push(gateway.into());
        config.endpoints[0].addresses.push(own.into());
        config.host_addresses.push(host.into());
    });
    let link_local = ipv6::link_local(GATEWAY);
    let all_nodes: Ipv6Addr = "ff02::1".parse().unwrap();
    let to_all = MacAddr([0x33, 0x33, 0, 0, 0, 1]);
    let echo = |kind| vec![kind, 0, 0, 0, 0, 1, 0, 1];
    // An empty extension header, by which a walker that knows none loses its way.
    let behind_options = |next, payload: &[u8]| [&[next, 0, 1, 4, 0, 0, 0, 0], payload].concat();
    const ICMPV6: u8 = 58;
    const OPTIONS: u8 = 60;
    for (next, payload, passes) in [
        (UDP, datagram(4242, 53), true),
        (UDP, datagram(4242, 8080), false),
        (TCP, segment(53, SYN), true),
        (TCP, segment(8080, SYN), false),
        (TCP, segment(8080, SYN | ACK), true),
        (ICMPV6, echo(128), true),
        (ICMPV6, echo(129), true),
        // A router's advertisement, a redirect, a question for a node's names.
        (ICMPV6, echo(134), false),
        (ICMPV6, echo(137), false),
        (ICMPV6, echo(139), false),
        (132, vec![0; 12], false),
        (OPTIONS, behind_options(TCP, &segment(8080, SYN)), false),
        (OPTIONS, behind_options(UDP, &datagram(9, 8080)), false),
    ] {
        for (address, to) in [(gateway, GATEWAY), (link_local, GATEWAY)] {
            let heard = lan.send(1, &packet6(to, [own, address], next, &payload));
            assert_eq!(heard.contains(&0), passes, "{address} {next} {payload:?}");
        }
        for (address, to) in [(host, GATEWAY), (all_nodes, to_all), (gateway, to_all)] {
            let heard = lan.send(1, &packet6(to, [own, address], next, &payload));
            assert!(!heard.contains(&0), "{address} {next} {payload:?}");
        }
    }
}
