//! The data path under a simulated clock, with smoltcp's TCP/IP at every port; no right needed.

use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::time::Duration;

use nat::Protocol;
use pontoon_tests::simulation::{A, B, Faults, GATEWAY, HOST, Network, OUTSIDE, Who};
use pontoon_tests::wire::{Noise, ethernet, ipv4, udp};
use switch::DropReason;

const WEB: u16 = 80;
const PUBLISHED: u16 = 8080;

#[test]
fn pings() {
    let mut network = Network::new();
    network.ping(Who::A, B).unwrap();
    network.ping(Who::B, A).unwrap();
    network.ping(Who::A, GATEWAY).unwrap();
    network.ping(Who::Host, A).unwrap();
    network.ping(Who::A, OUTSIDE).unwrap();
    // Nobody has this address: the question is asked, and time passes.
    let start = network.now();
    network
        .ping(Who::A, [10, 88, 0, 99])
        .expect_err("nobody is there");
    assert!(network.now() - start >= Duration::from_secs(5));
}

// Conforms: RFC5508-1
#[test]
fn both_containers_ping_the_same_host_with_the_same_id() {
    let mut network = Network::new();
    // The ids collide behind one address, and the second one's must be translated.
    network.ping(Who::A, OUTSIDE).unwrap();
    network.ping(Who::B, OUTSIDE).unwrap();
    network.ping(Who::A, OUTSIDE).unwrap();
    assert_eq!(
        network.connections().len(),
        2,
        "{:?}",
        network.connections()
    );
}

// Feature: simulation
#[test]
fn tcp_through_the_bridge() {
    let mut network = Network::new();
    let flow = network.connect(Who::A, (B, WEB), Who::B, WEB).unwrap();
    assert_eq!(network.seen_by_server(&flow).ip(), A);
    network.transfer(&flow, 2 << 20).unwrap();
    network.close(flow);
    // Frames within a network are nobody's connection.
    assert_eq!(network.connections(), Vec::<String>::new());
}

#[test]
fn tcp_through_the_bridge_with_loss() {
    let mut network = Network::new();
    network.set_faults(Faults {
        loss: 40,
        ..Faults::default()
    });
    let flow = network.connect(Who::A, (B, WEB), Who::B, WEB).unwrap();
    network.transfer(&flow, 256 << 10).unwrap();
}

#[test]
fn host_and_container() {
    let mut network = Network::new();
    let flow = network.connect(Who::Host, (A, WEB), Who::A, WEB).unwrap();
    assert_eq!(network.seen_by_server(&flow).ip(), GATEWAY);
    network.transfer(&flow, 100_000).unwrap();
    let flow = network
        .connect(Who::A, (GATEWAY, 22), Who::Host, 22)
        .unwrap();
    assert_eq!(network.seen_by_server(&flow).ip(), A);
    network.transfer(&flow, 100_000).unwrap();
}

// Conforms: LINUX-nft-nat RFC4787-2 RFC6888-2 OVS-snat-port-range
// Feature: simulation
#[test]
fn snat() {
    let mut network = Network::new();
    for who in [Who::A, Who::B] {
        let flow = network
            .connect(who, (OUTSIDE, WEB), Who::Outside, WEB)
            .unwrap();
        let seen = network.seen_by_server(&flow);
        assert_eq!(seen.ip(), HOST, "masqueraded");
        assert!((61_000..=61_127).contains(&seen.port()), "{seen}");
        network.transfer(&flow, 1 << 20).unwrap();
        network.close(flow);
        let seen = network.ask(who, (OUTSIDE, 53), Who::Outside, 53).unwrap();
        assert_eq!(seen.ip(), HOST);
        assert!((61_000..=61_127).contains(&seen.port()), "{seen}");
    }
}

// Conforms: LINUX-ack-loss-stall
#[test]
fn snat_with_loss() {
    let mut network = Network::new();
    network.set_faults(Faults {
        loss: 40,
        ..Faults::default()
    });
    let flow = network
        .connect(Who::A, (OUTSIDE, WEB), Who::Outside, WEB)
        .unwrap();
    network.transfer(&flow, 256 << 10).unwrap();
}

// Conforms: LINUX-nft-nat
#[test]
fn dnat_keeps_the_clients_own_address() {
    let mut network = Network::new();
    let refused = network.connect(Who::Outside, (HOST, PUBLISHED), Who::A, WEB);
    assert!(refused.is_err(), "nothing is published yet");

    network.publish(1, Protocol::TCP, PUBLISHED, Who::A, WEB);
    network.publish(2, Protocol::UDP, 5353, Who::B, 53);
    let flow = network
        .connect(Who::Outside, (HOST, PUBLISHED), Who::A, WEB)
        .unwrap();
    assert_eq!(network.seen_by_server(&flow).ip(), OUTSIDE);
    network.transfer(&flow, 1 << 20).unwrap();
    let seen = network.ask(Who::Outside, (HOST, 5353), Who::B, 53).unwrap();
    assert_eq!(seen.ip(), OUTSIDE);
}

// Conforms: RFC4787-9 RFC5382-8 MOBY-port-mapped-hairpin OVS-dnat-with-snat OVS-multiple-traverse
#[test]
fn hairpin() {
    let mut network = Network::new();
    network.publish(1, Protocol::TCP, PUBLISHED, Who::A, WEB);
    network.publish(2, Protocol::UDP, 5353, Who::A, 53);
    // From a neighbour, and from the container itself; by the uplink's address and the gateway's.
    for from in [Who::B, Who::A] {
        for dialled in [HOST, GATEWAY] {
            let flow = network
                .connect(from, (dialled, PUBLISHED), Who::A, WEB)
                .unwrap();
            assert_eq!(
                network.seen_by_server(&flow).ip(),
                dialled,
                "RFC 4787 REQ-9"
            );
            network.transfer(&flow, 100_000).unwrap();
            network.close(flow);
            let seen = network.ask(from, (dialled, 5353), Who::A, 53).unwrap();
            assert_eq!(seen.ip(), dialled);
        }
    }
}

#[test]
fn a_hairpin_to_nobody_is_told_nothing_untrue() {
    let mut network = Network::new();
    network.publish_to(1, Protocol::UDP, 5353, ([10, 88, 0, 99].into(), 53));
    network.ping(Who::A, GATEWAY).unwrap();
    let datagram = udp(4000, 5353, b"anybody?");
    let frame = ethernet(GATEWAY_MAC, A_MAC, 0x0800, &ipv4(A, HOST, 17, &datagram));
    // The packet is translated by the time that nobody is found: an error would quote to A, and
    // address to the host, what A never sent.
    let seen = network.watch(Who::A, |network| network.inject(Who::A, &frame));
    assert!(seen.iter().all(|seen| !seen.sent), "{seen:?}");
    assert_eq!(network.drops(DropReason::EgressGone), 1);
}

const A_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0xa];
const GATEWAY_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const OUTSIDE_MAC: [u8; 6] = [2, 0, 0, 0, 1, 2];
const UPLINK_MAC: [u8; 6] = [2, 0, 0, 0, 1, 1];
const SYN: u8 = 0x02;
const PUSH_ACK: u8 = 0x18;

/// A TCP segment without a checksum, which the data path carries on as wrong as it is.
fn segment(from: u16, to: u16, flags: u8, payload: &[u8]) -> Vec<u8> {
    let mut segment = [from.to_be_bytes(), to.to_be_bytes()].concat();
    segment.extend(0x0102_0304_u32.to_be_bytes());
    segment.extend([0, 0, 0, 0, 0x50, flags, 0x20, 0, 0, 0, 0, 0]);
    segment.extend(payload);
    segment
}

// Conforms: RFC4787-10 RFC5382-6
#[test]
fn nobody_looks_into_a_payload() {
    let mut network = Network::new();
    network.ping(Who::A, OUTSIDE).unwrap();
    // What gateways for FTP and SIP rewrite: the inside address, in words.
    let ftp = b"PORT 10,88,0,2,156,65\r\n";
    let sip = b"INVITE sip:b@192.0.2.2\r\nContact: <sip:a@10.88.0.2:5060>\r\n\r\n";
    let ftp_control = segment(40_021, 21, PUSH_ACK, ftp);
    for (protocol, transport, payload) in [
        (6, ftp_control, ftp.as_slice()),
        (17, udp(5060, 5060, sip), sip.as_slice()),
    ] {
        let frame = ethernet(
            GATEWAY_MAC,
            A_MAC,
            0x0800,
            &ipv4(A, OUTSIDE, protocol, &transport),
        );
        let seen = network.watch(Who::Outside, |network| network.inject(Who::A, &frame));
        let left: Vec<_> = seen.iter().filter(|seen| seen.sent).collect();
        let [packet] = &left[..] else {
            panic!("{left:?}")
        };
        assert_eq!(packet.bytes[26..30], HOST.octets(), "masqueraded");
        assert!(packet.bytes.ends_with(payload), "{packet:?}");
    }
}

// Conforms: RFC5382-4
#[test]
fn an_unsolicited_syn_gets_no_answer() {
    let mut network = Network::new();
    network.ping(Who::A, OUTSIDE).unwrap();
    for port in [61_050, PUBLISHED] {
        let packet = ipv4(OUTSIDE, HOST, 6, &segment(40_000, port, SYN, b""));
        let frame = ethernet(UPLINK_MAC, OUTSIDE_MAC, 0x0800, &packet);
        let seen = network.watch(Who::Outside, |network| {
            network.inject(Who::Outside, &frame);
            network.pass(Duration::from_secs(10));
        });
        let answered = |bytes: &[u8]| bytes[12..14] == [8, 0];
        assert!(
            !seen.iter().any(|seen| seen.sent && answered(&seen.bytes)),
            "{seen:?}"
        );
    }
}

// Conforms: RFC5382-3
#[test]
fn a_connection_is_for_its_peer_alone() {
    let mut network = Network::new();
    let flow = network
        .connect(Who::A, (OUTSIDE, WEB), Who::Outside, WEB)
        .unwrap();
    let external = network.seen_by_server(&flow).port();
    let other = [192, 0, 2, 9].into();
    let mut arrives = |from, port, flags| {
        let packet = ipv4(from, HOST, 6, &segment(port, external, flags, b"hello"));
        let frame = ethernet(UPLINK_MAC, OUTSIDE_MAC, 0x0800, &packet);
        let seen = network.watch(Who::A, |network| network.inject(Who::Outside, &frame));
        seen.iter().any(|seen| seen.sent)
    };
    assert!(arrives(OUTSIDE, WEB, PUSH_ACK));
    for flags in [SYN, PUSH_ACK] {
        assert!(
            !arrives(OUTSIDE, WEB + 1, flags),
            "another port of the peer"
        );
        assert!(!arrives(other, WEB, flags), "another peer");
    }
}

// Conforms: OVS-tcp-port-reuse TCP-time-wait-reuse
#[test]
fn a_client_uses_its_port_again() {
    let mut network = Network::new();
    network.publish(1, Protocol::TCP, PUBLISHED, Who::B, WEB);
    for (client, to, server) in [
        (Who::A, (OUTSIDE, WEB), Who::Outside),
        (Who::Outside, (HOST, PUBLISHED), Who::B),
        (Who::A, (HOST, PUBLISHED), Who::B),
    ] {
        for _ in 0..5 {
            let flow = network.connect(client, to, server, WEB).unwrap();
            network.transfer(&flow, 5000).unwrap();
            network.close(flow);
            network.reuse_port(client);
        }
        network.connect(client, to, server, WEB).unwrap();
    }
}

// Conforms: LINUX-conntrack-tcp-unreplied
#[test]
fn a_syn_that_nobody_answered_does_not_block_its_port() {
    let mut network = Network::new();
    network.ping(Who::A, OUTSIDE).unwrap();
    let all = Faults {
        loss: 1,
        ..Faults::default()
    };
    network.set_faults(all);
    // Of the port that A's next connection has.
    let syn = ipv4(A, OUTSIDE, 6, &segment(40_001, WEB, SYN, b""));
    network.inject(Who::A, &ethernet(GATEWAY_MAC, A_MAC, 0x0800, &syn));
    let open = network.connections();
    assert!(
        open.iter().any(|tuple| tuple.contains(":40001 ")),
        "{open:?}"
    );
    network.set_faults(Faults::default());
    let flow = network
        .connect(Who::A, (OUTSIDE, WEB), Who::Outside, WEB)
        .unwrap();
    network.transfer(&flow, 5000).unwrap();
}

// Conforms: NETAVARK-udp-flush CNI-portmap-udp-second-container
// Feature: moby-8795 plugins-123
#[test]
fn datagrams_follow_the_published_port() {
    let mut network = Network::new();
    let client = (HOST, 5353);
    // One client that never changes its port: what it sends comes to whom the port leads.
    for (id, server) in [(1, Who::A), (2, Who::B), (3, Who::A)] {
        let nobody = network.ask(Who::Outside, client, server, 53);
        nobody.expect_err("nothing is published now");
        network.reuse_port(Who::Outside);
        network.publish(id, Protocol::UDP, 5353, server, 53);
        let seen = network.ask(Who::Outside, client, server, 53).unwrap();
        assert_eq!(seen.ip(), OUTSIDE);
        network.reuse_port(Who::Outside);
        network.unpublish(id);
    }
}

// Conforms: LINUX-local-termination
#[test]
fn a_port_gets_what_is_for_it_or_for_all() {
    let mut network = Network::new();
    network.ping(Who::A, B).unwrap();
    network.ping(Who::Host, B).unwrap();
    let (b_mac, datagram) = ([2, 0, 0, 0, 0, 0xb], udp(1, 2, b"x"));
    let mut got = |who: Who, to: [u8; 6]| {
        // A frame for all carries no packet for one (RFC 1122 section 3.3.6).
        let address = if to == [0xff; 6] {
            Ipv4Addr::BROADCAST
        } else {
            B
        };
        let frame = ethernet(to, A_MAC, 0x0800, &ipv4(A, address, 17, &datagram));
        let seen = network.watch(who, |network| network.inject(Who::A, &frame));
        seen.iter().any(|seen| seen.sent && seen.bytes == frame)
    };
    let all = [0xff; 6];
    assert!(got(Who::B, b_mac) && !got(Who::Host, b_mac) && !got(Who::Outside, b_mac));
    assert!(got(Who::B, all) && got(Who::Host, all) && !got(Who::Outside, all));
    assert!(!got(Who::A, all), "what it said itself");
}

#[test]
fn unpublishing_ends_the_flow() {
    let mut network = Network::new();
    network.publish(1, Protocol::TCP, PUBLISHED, Who::A, WEB);
    let flow = network
        .connect(Who::Outside, (HOST, PUBLISHED), Who::A, WEB)
        .unwrap();
    network.transfer(&flow, 1000).unwrap();
    network.unpublish(1);
    network
        .transfer(&flow, 1000)
        .expect_err("the flow has ended");
    // The container, which does not know, may go on; but not as the published flow.
    let published = network.connections().join("\n").contains(":8080");
    assert!(!published, "{:?}", network.connections());
}

// Conforms: RFC4787-5 RFC5382-5
// Feature: simulation nat-state
#[test]
fn connections_expire_with_the_simulated_hours() {
    let mut network = Network::new();
    network
        .ask(Who::A, (OUTSIDE, 5000), Who::Outside, 5000)
        .unwrap();
    let flow = network
        .connect(Who::A, (OUTSIDE, WEB), Who::Outside, WEB)
        .unwrap();
    network.transfer(&flow, 1000).unwrap();
    // RFC 4787 REQ-5: UDP no sooner than two minutes.
    network.pass(Duration::from_secs(119));
    assert_eq!(
        network.connections().len(),
        2,
        "{:?}",
        network.connections()
    );
    network.pass(Duration::from_secs(60 * 60));
    assert_eq!(
        network.connections().len(),
        1,
        "{:?}",
        network.connections()
    );
    // RFC 5382 REQ-5: established TCP no sooner than 2 hours 4 minutes.
    network.transfer(&flow, 1000).unwrap();
    network.pass(Duration::from_secs(2 * 60 * 60 + 3 * 60));
    assert_eq!(
        network.connections().len(),
        1,
        "{:?}",
        network.connections()
    );
    network.pass(Duration::from_secs(60 * 60));
    assert_eq!(network.connections(), Vec::<String>::new());
}

// Conforms: SWITCH-guard
#[test]
fn spoofed_sources_go_nowhere() {
    let mut network = Network::new();
    network.ping(Who::A, B).unwrap();
    let before = network.drops(DropReason::SpoofedSource);
    let (mine, gateway) = ([2, 0, 0, 0, 0, 0xa], [2, 0, 0, 0, 0, 1]);
    let datagram = udp(1, 2, b"x");
    network.inject(
        Who::A,
        &ethernet(gateway, mine, 0x0800, &ipv4(B, OUTSIDE, 17, &datagram)),
    );
    network.inject(
        Who::A,
        &ethernet(gateway, gateway, 0x0800, &ipv4(A, OUTSIDE, 17, &datagram)),
    );
    assert_eq!(network.drops(DropReason::SpoofedSource), before + 2);
    assert_eq!(network.connections().len(), 0);
}

#[test]
fn any_bytes_at_any_port_are_dropped_by_name() {
    let mut network = Network::new();
    network.publish(1, Protocol::TCP, PUBLISHED, Who::A, WEB);
    network.ping(Who::A, OUTSIDE).unwrap();
    let mut noise = Noise::new(3);
    let macs = [
        [0xff; 6],
        [2, 0, 0, 0, 0, 1],
        [2, 0, 0, 0, 0, 0xa],
        [2, 0, 0, 0, 0, 0xb],
        [2, 0, 0, 0, 1, 1],
        [1, 0x80, 0xc2, 0, 0, 0],
    ];
    let addresses = [A, B, GATEWAY, HOST, OUTSIDE, [255; 4].into(), [0; 4].into()];
    for round in 0..20_000 {
        let length = noise.below(120);
        let mut payload = noise.bytes(length);
        if noise.below(3) > 0 {
            let protocol = [1, 6, 17, 58, 132, 0][noise.below(6)];
            let (from, to) = (addresses[noise.below(7)], addresses[noise.below(7)]);
            payload = ipv4(from, to, protocol, &payload);
            // A header that lies.
            if noise.below(2) == 0 {
                let at = noise.below(payload.len());
                payload[at] ^= noise.word() as u8;
            }
        }
        let ethertype = [0x0800, 0x0806, 0x86dd, 0x8100, 0x88a8, 0x1234][noise.below(6)];
        let mut frame = ethernet(
            macs[noise.below(6)],
            macs[noise.below(6)],
            ethertype,
            &payload,
        );
        frame.truncate(
            noise
                .below(frame.len() + 1)
                .max(noise.below(frame.len() + 1)),
        );
        let who = [Who::A, Who::B, Who::Host, Who::Outside][round % 4];
        network.inject(who, &frame);
    }
    // It still works, and for those it worked for before.
    network.ping(Who::A, OUTSIDE).unwrap();
    network.ping(Who::A, B).unwrap();
    let flow = network
        .connect(Who::Outside, (HOST, PUBLISHED), Who::A, WEB)
        .unwrap();
    assert_eq!(network.seen_by_server(&flow).ip(), IpAddr::from(OUTSIDE));
    network.transfer(&flow, 10_000).unwrap();
    for reason in [
        DropReason::Malformed,
        DropReason::SpoofedSource,
        DropReason::ReservedAddress,
    ] {
        assert!(network.drops(reason) > 0, "{reason:?}");
    }
}
