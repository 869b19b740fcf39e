//! The gateway's IPv6, frame by frame. Ports: 0 the host, 1 and 2 containers, 3 the uplink.

mod sizes;
mod vectors;

use std::net::Ipv6Addr;

use nat::Protocol;
use pnet_packet::ip::IpNextHeaderProtocol;
use pnet_packet::ipv6::{Ipv6Packet, MutableIpv6Packet};
use pnet_packet::{MutablePacket, Packet as _, icmpv6, udp};

use super::*;
use crate::config::{PortId, Route};
use crate::frame::MacAddr;
use crate::ipv6;
use crate::testing::{GATEWAY, Lan, mac};

const UPLINK: MacAddr = MacAddr([2, 0, 0, 0, 1, 1]);
const ROUTER: MacAddr = MacAddr([2, 0, 0, 0, 1, 9]);

const GATEWAY_ADDRESS: &str = "fd00::fe";
/// The host's on its uplink.
const HOST: &str = "2001:db8::1";
const ROUTER_ADDRESS: &str = "fe80::9";
const FAR: &str = "2001:db8:9::9";

const ICMPV6: u8 = 58;
const UDP: u8 = 17;
/// Where the upper layer begins in a frame without extension headers.
const UPPER: usize = ETHERNET_HEADER + ipv6::HEADER;

fn ip(text: &str) -> Ipv6Addr {
    text.parse().unwrap()
}

/// Containers fd00::1 and fd00::2, masqueraded; [FAR] and all else is behind [ROUTER_ADDRESS]. UDP
/// port 8080 of the host is port 80 of the first.
fn lan() -> Lan {
    let lan = Lan::new(3).with(|config| {
        config.endpoints.pop();
        for (n, endpoint) in config.endpoints.iter_mut().enumerate() {
            let address = ip(&format!("fd00::{}", n + 1));
            endpoint.addresses.push(address.into());
        }
        let subnet = "fd00::/64".parse().unwrap();
        let network = &mut config.networks[0];
        network.gateway_addresses.push(ip(GATEWAY_ADDRESS).into());
        network.subnets.push(subnet);
        config.host_addresses.push(ip(GATEWAY_ADDRESS).into());
        config.host_addresses.push(ip(HOST).into());
        config.uplinks.push(Uplink {
            port: PortId(3),
            newcomers: None,
            mac: UPLINK,
            mtu: 1500,
            clamp_mss: false,
        });
        config.routes.push(Route::by(
            "2001:db8::/32".parse().unwrap(),
            PortId(3),
            Some(ip(ROUTER_ADDRESS).into()),
            ip(HOST).into(),
        ));
        config.nat = nat::Rules {
            masquerade: vec![nat::Masquerade {
                source: subnet,
                to: None,
            }],
            publish: vec![nat::Publish {
                id: 1,
                protocol: Protocol::UDP,
                host: None,
                ports: 8080..=8080,
                to: ip("fd00::1").into(),
                to_port: 80,
                allow: nat::Sources::default(),
            }],
            local: config.host_addresses.clone(),
            ..nat::Rules::default()
        };
    });
    let nat = lan.datapath.nat();
    nat.add_external_ports(Protocol::UDP, 61_000..=61_007);
    lan
}

/// A frame of IPv6 with right checksums.
fn packet(macs: [MacAddr; 2], addresses: [&str; 2], next: u8, hops: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = [macs[1].0, macs[0].0].concat();
    frame.extend(ethertype::IPV6.to_be_bytes());
    frame.resize(UPPER, 0);
    frame.extend(payload);
    let [source, destination] = addresses.map(ip);
    let mut packet = MutableIpv6Packet::new(&mut frame[ETHERNET_HEADER..]).unwrap();
    packet.set_version(6);
    packet.set_payload_length(payload.len() as u16);
    packet.set_next_header(IpNextHeaderProtocol(next));
    packet.set_hop_limit(hops);
    packet.set_source(source);
    packet.set_destination(destination);
    let payload = packet.payload_mut();
    if next == UDP {
        let mut datagram = udp::MutableUdpPacket::new(payload).unwrap();
        datagram.set_checksum(0);
        let sum = udp::ipv6_checksum(&datagram.to_immutable(), &source, &destination);
        datagram.set_checksum(sum);
    } else if next == ICMPV6 {
        let mut message = icmpv6::MutableIcmpv6Packet::new(payload).unwrap();
        message.set_checksum(0);
        let sum = icmpv6::checksum(&message.to_immutable(), &source, &destination);
        message.set_checksum(sum);
    }
    frame
}

fn datagram(from: u16, to: u16) -> Vec<u8> {
    let [a, b] = [from, to].map(u16::to_be_bytes);
    [&a[..], &b, &[0, 12, 0, 0], b"ping"].concat()
}

/// Of the container `n`, to the gateway's MAC.
fn routed(n: u8, to: &str, hops: u8, ports: (u16, u16)) -> Vec<u8> {
    let from = format!("fd00::{n}");
    let datagram = datagram(ports.0, ports.1);
    packet([mac(n), GATEWAY], [&from, to], UDP, hops, &datagram)
}

/// Source, destination, hop limit and ports of a datagram whose checksum is right.
fn read(frame: &[u8]) -> (Ipv6Addr, Ipv6Addr, u8, u16, u16) {
    let packet = Ipv6Packet::new(&frame[ETHERNET_HEADER..]).unwrap();
    let (source, destination) = (packet.get_source(), packet.get_destination());
    let datagram = udp::UdpPacket::new(packet.payload()).unwrap();
    let sum = udp::ipv6_checksum(&datagram, &source, &destination);
    assert_eq!(datagram.get_checksum(), sum);
    let hops = packet.get_hop_limit();
    let ports = (datagram.get_source(), datagram.get_destination());
    (source, destination, hops, ports.0, ports.1)
}

/// Type, code, source and destination of an ICMPv6 error.
fn error(frame: &[u8]) -> (u8, u8, Ipv6Addr, Ipv6Addr) {
    let packet = Ipv6Packet::new(&frame[ETHERNET_HEADER..]).unwrap();
    assert_eq!(packet.get_next_header().0, ICMPV6);
    let message = packet.payload();
    let addresses = (packet.get_source(), packet.get_destination());
    (message[0], message[1], addresses.0, addresses.1)
}

fn only(heard: Vec<(usize, Vec<u8>)>) -> (usize, Vec<u8>) {
    assert_eq!(heard.len(), 1, "{heard:02x?}");
    heard.into_iter().next().unwrap()
}

fn discovery(bytes: &[u8]) -> Option<nd::Message> {
    nd::parse(&Frame::from_bytes(bytes))
}

/// What the router beyond the uplink says when it is asked.
fn router_answers(question: &[u8]) -> Vec<u8> {
    let mut frame = Frame::from_bytes(question);
    let Some(nd::Message::Solicitation(asked)) = nd::parse(&frame) else {
        panic!("no question: {question:02x?}");
    };
    assert_eq!(asked.target, ip(ROUTER_ADDRESS));
    assert_eq!(asked.source, ip(HOST));
    assert_eq!(asked.source_mac, Some(UPLINK));
    nd::answer(&mut frame, &asked, ROUTER);
    frame.bytes().to_vec()
}

/// A container's question who has `target`.
fn question(target: Ipv6Addr) -> Vec<u8> {
    let mut frame = Frame::new();
    nd::ask(&mut frame, (mac(1), ip("fd00::1")), target);
    frame.bytes().to_vec()
}

// Conforms: IPV6-nd-gateway
#[test]
fn the_gateway_answers_for_itself_and_nobody_else() {
    let mut lan = lan();
    for target in [ip(GATEWAY_ADDRESS), ipv6::link_local(GATEWAY)] {
        let asked = question(target);
        // By multicast, and by unicast to make sure (RFC 4861 7.3.3).
        let mut again = asked.clone();
        frame::set_destination(&mut again, GATEWAY);
        for asked in [asked, again] {
            let (port, answer) = only(lan.send_and_hear(1, &asked));
            assert_eq!(port, 1);
            let Some(nd::Message::Advertisement(answer)) = discovery(&answer) else {
                panic!("no answer: {answer:02x?}");
            };
            assert_eq!((answer.target, answer.target_mac), (target, Some(GATEWAY)));
            assert!(answer.solicited);
        }
    }
    // A neighbour's address, a neighbour's link-local one, the host's on its uplink.
    for target in [ip("fd00::2"), ipv6::link_local(mac(2)), ip(HOST)] {
        assert_eq!(lan.send(1, &question(target)), [0, 2], "{target}");
    }
    // Nor are routers solicited here.
    let solicitation = [133, 0, 0, 0, 0, 0, 0, 0];
    let all_routers = ipv6::multicast_mac(ip("ff02::2"));
    let solicitation = packet(
        [mac(1), all_routers],
        ["fd00::1", "ff02::2"],
        ICMPV6,
        255,
        &solicitation,
    );
    assert_eq!(lan.send(1, &solicitation), [0, 2]);
}

// Conforms: CVE-2024-32473
#[test]
fn a_network_without_ipv6_has_not_even_a_link_local_gateway() {
    let mut lan = Lan::new(2).with(|config| config.endpoints[0].guard = false);
    let asked = question(ipv6::link_local(GATEWAY));
    assert_eq!(lan.send(1, &asked), [0, 2]);
}

// Conforms: IPV6-nd-dad
#[test]
fn the_gateway_defends_its_address() {
    let mut lan = lan().with(|config| config.endpoints[0].guard = false);
    let message = [
        &[135, 0, 0, 0, 0, 0, 0, 0][..],
        &ip(GATEWAY_ADDRESS).octets(),
    ]
    .concat();
    let group = ipv6::solicited_node(ip(GATEWAY_ADDRESS));
    let macs = [mac(1), ipv6::multicast_mac(group)];
    let asked = packet(macs, ["::", &group.to_string()], ICMPV6, 255, &message);
    let (port, answer) = only(lan.send_and_hear(1, &asked));
    assert_eq!(port, 1);
    assert!(frame::destination(&answer).unwrap().is_multicast());
    assert!(matches!(
        discovery(&answer),
        Some(nd::Message::Advertisement(answer)) if !answer.solicited && answer.overrides
    ));
}

// Conforms: IPV6-nat66 IPV6-nd-uplink
#[test]
fn a_masqueraded_packet_waits_for_its_link_local_router() {
    let mut lan = lan();
    let sent = routed(1, FAR, 64, (4242, 53));
    let (port, asked) = only(lan.send_and_hear(1, &sent));
    assert_eq!(port, 3);
    assert_eq!(lan.send(1, &sent), [0; 0], "the question is on its way");

    let released = lan.send_and_hear(3, &router_answers(&asked));
    assert_eq!(released.len(), 2);
    let (port, out) = &released[0];
    assert_eq!(*port, 3);
    assert_eq!(frame::destination(out), Some(ROUTER));
    assert_eq!(frame::source(out), Some(UPLINK));
    let (source, destination, hops, external, far) = read(out);
    assert_eq!((source, destination), (ip(HOST), ip(FAR)));
    assert_eq!((hops, far), (63, 53));
    assert!((61_000..=61_007).contains(&external));

    let answer = datagram(53, external);
    let answer = packet([ROUTER, UPLINK], [FAR, HOST], UDP, 60, &answer);
    let (port, inside) = only(lan.send_and_hear(3, &answer));
    assert_eq!(port, 1);
    assert_eq!(frame::destination(&inside), Some(mac(1)));
    assert_eq!(frame::source(&inside), Some(GATEWAY));
    assert_eq!(read(&inside), (ip(FAR), ip("fd00::1"), 59, 53, 4242));
    // The next one goes at once.
    assert_eq!(lan.send(1, &sent), [3]);
}

// Conforms: IPV6-nd-uplink
#[test]
fn a_silent_router_is_asked_again_and_its_news_are_believed() {
    let mut lan = lan();
    let sent = routed(1, FAR, 64, (4242, 53));
    let (_, asked) = only(lan.send_and_hear(1, &sent));
    lan.pass(1);
    let (port, again) = only(lan.heard());
    assert_eq!((port, &again), (3, &asked));
    // It asks for the host itself, and so tells where it is (RFC 4861 7.2.3).
    let mut frame = Frame::new();
    nd::ask(&mut frame, (ROUTER, ip(ROUTER_ADDRESS)), ip(HOST));
    let (_, out) = only(lan.send_and_hear(3, frame.bytes()));
    assert_eq!(frame::destination(&out), Some(ROUTER));
    // A packet from beyond the link that looks like discovery is not believed.
    let mut forged = Frame::new();
    nd::ask(&mut forged, (mac(9), ip(ROUTER_ADDRESS)), ip(HOST));
    forged.bytes_mut()[ETHERNET_HEADER + 7] = 64;
    lan.send(3, forged.bytes());
    let (_, out) = only(lan.send_and_hear(1, &sent));
    assert_eq!(frame::destination(&out), Some(ROUTER));
}

// Conforms: IPV6-publishing
#[test]
fn a_published_port_answers_the_wire_and_the_neighbours() {
    let mut lan = lan();
    let asked = datagram(777, 8080);
    let asked = packet([ROUTER, UPLINK], [FAR, HOST], UDP, 64, &asked);
    let (port, inside) = only(lan.send_and_hear(3, &asked));
    assert_eq!(port, 1);
    let seen = read(&inside);
    assert_eq!(seen, (ip(FAR), ip("fd00::1"), 63, 777, 80));

    // Hairpin: the source is the address that was dialled.
    for dialled in [HOST, GATEWAY_ADDRESS] {
        let sent = routed(2, dialled, 64, (999, 8080));
        let (port, inside) = only(lan.send_and_hear(2, &sent));
        assert_eq!(port, 1);
        let (source, destination, hops, _, to) = read(&inside);
        assert_eq!((source, destination), (ip(dialled), ip("fd00::1")));
        assert_eq!((hops, to), (63, 80));
    }
    // Nothing is published there: the host's own.
    assert_eq!(lan.send(2, &routed(2, HOST, 64, (999, 8081))), [0]);
}

// Conforms: IPV6-link-local-scope
#[test]
fn addresses_of_a_link_stay_on_it() {
    let mut lan = lan();
    let own = ipv6::link_local(mac(1)).to_string();
    let gateway = ipv6::link_local(GATEWAY).to_string();
    let send = |lan: &mut Lan, from: &str, to: &str| {
        let frame = packet([mac(1), GATEWAY], [from, to], UDP, 64, &datagram(5, 8080));
        lan.send_and_hear(1, &frame)
    };
    // Towards the host they are good, untouched: also where a port is published.
    for (from, to) in [
        (&own[..], &gateway[..]),
        ("fd00::1", &gateway),
        (&own, GATEWAY_ADDRESS),
        (&own, HOST),
    ] {
        let (port, heard) = only(send(&mut lan, from, to));
        assert_eq!(port, 0);
        assert_eq!(read(&heard), (ip(from), ip(to), 64, 5, 8080));
    }
    for to in [FAR, "fd00::2"] {
        let (port, heard) = only(send(&mut lan, &own, to));
        assert_eq!(port, 1);
        // RFC 4443 3.1: beyond the scope of the source address.
        assert_eq!(error(&heard), (1, 2, ip(&gateway), ip(&own)));
    }
    assert_eq!(lan.drops(DropReason::BeyondScope), 2);
    for group in ["ff02::1", "ff05::1", "ff0e::1", "::1", "::"] {
        assert_eq!(send(&mut lan, "fd00::1", group), []);
    }
    assert_eq!(lan.drops(DropReason::Martian), 5);

    // The host's neighbours are its own.
    let asked = datagram(777, 8080);
    let asked = packet([ROUTER, UPLINK], [ROUTER_ADDRESS, HOST], UDP, 64, &asked);
    assert_eq!(lan.send(3, &asked), [0; 0]);
    // That is no drop: its kernel has the frame too.
    assert_eq!(lan.hosts_own(3), 1);
    // And nobody on the wire has a container's address, or the host's.
    for forged in ["fd00::2", HOST, "::1", "ff02::1"] {
        let asked = datagram(777, 8080);
        let asked = packet([ROUTER, UPLINK], [forged, HOST], UDP, 64, &asked);
        assert_eq!(lan.send(3, &asked), [0; 0]);
    }
    assert_eq!(lan.drops(DropReason::Martian), 9);
}

// Conforms: IPV6-host-port
#[test]
fn what_is_for_the_host_goes_there_untouched() {
    let mut lan = lan();
    let echo = [128, 0, 0, 0, 1, 2, 3, 4];
    let mut advertisement = vec![136, 0, 0, 0, 0x60, 0, 0, 0];
    advertisement.extend(ip("fd00::1").octets());
    advertisement.extend([2, 1, 2, 0, 0, 0, 0, 1]);
    let gateway = ipv6::link_local(GATEWAY).to_string();
    for to in [GATEWAY_ADDRESS, HOST, &gateway] {
        for (hops, message) in [(64, &echo[..]), (1, &echo), (255, &advertisement)] {
            let macs = [mac(1), GATEWAY];
            let sent = packet(macs, ["fd00::1", to], ICMPV6, hops, message);
            assert_eq!(lan.send_and_hear(1, &sent), [(0, sent.clone())]);
        }
    }
}

// Conforms: IPV6-icmp-errors
#[test]
fn a_hopeless_packet_is_explained() {
    let mut lan = lan();
    let gateway = ip(GATEWAY_ADDRESS);
    for (to, hops, kind, code) in [
        (FAR, 1, 3, 0),
        ("2a00::1", 64, 1, 0),
        ("fd00::77", 64, 1, 3),
    ] {
        let (port, heard) = only(lan.send_and_hear(1, &routed(1, to, hops, (5, 6))));
        assert_eq!(port, 1);
        assert_eq!(error(&heard), (kind, code, gateway, ip("fd00::1")));
        assert_eq!(frame::destination(&heard), Some(mac(1)));
    }
}

// Conforms: IPV6-icmp-errors IPV6-nd-uplink
#[test]
fn a_next_hop_that_stays_silent_is_unreachable() {
    let mut lan = lan();
    let sent = routed(1, FAR, 64, (4242, 53));
    assert_eq!(lan.send(1, &sent), [3]);
    lan.pass(2);
    assert_eq!(lan.heard().len(), 2, "it is asked twice more");
    lan.pass(1);
    let (port, heard) = only(lan.heard());
    assert_eq!(port, 1);
    assert_eq!(frame::destination(&heard), Some(mac(1)));
    assert_eq!(frame::source(&heard), Some(GATEWAY));
    // It quotes the packet as the container sent it.
    assert_eq!(error(&heard), (1, 3, ip(HOST), ip("fd00::1")));
    let (source, destination, _, from, to) = read(&heard[UPPER + 8 - ETHERNET_HEADER..]);
    assert_eq!((source, destination), (ip("fd00::1"), ip(FAR)));
    assert_eq!((from, to), (4242, 53));
    assert_eq!(lan.drops(DropReason::NeighborUnresolved), 1);
}

// Conforms: IPV6-icmp-errors RFC5508-4
#[test]
fn an_error_from_outside_reaches_the_one_it_is_about() {
    let mut lan = lan();
    let sent = routed(1, FAR, 64, (4242, 53));
    let (_, asked) = only(lan.send_and_hear(1, &sent));
    let (_, out) = only(lan.send_and_hear(3, &router_answers(&asked)));
    let quoted = &out[ETHERNET_HEADER..];
    // Packet too big, MTU 1280.
    let too_big = [&[2, 0, 0, 0, 0, 0, 5, 0][..], quoted].concat();
    let macs = [ROUTER, UPLINK];
    let heard = lan.send_and_hear(
        3,
        &packet(macs, ["2001:db8::77", HOST], ICMPV6, 64, &too_big),
    );
    let (port, heard) = only(heard);
    assert_eq!(port, 1);
    let inside = ip("fd00::1");
    assert_eq!(error(&heard), (2, 0, ip("2001:db8::77"), inside));
    let (source, destination, _, from, to) = read(&heard[UPPER + 8 - ETHERNET_HEADER..]);
    assert_eq!((source, destination), (inside, ip(FAR)));
    assert_eq!((from, to), (4242, 53));
}
