use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use pnet_packet::icmpv6::{self, Icmpv6Packet};
use pnet_packet::util::checksum;

use super::groups::Row;
use super::wire::{self, Change, Heard, Query};
use crate::config::{Config, PortId, Snooping};
use crate::drop::DropReason;
use crate::frame::{self, Frame, MacAddr};
use crate::ipv6;
use crate::testing::{GATEWAY, Lan, mac};

const GROUP: [u8; 4] = [239, 1, 2, 3];
const OTHER: [u8; 4] = [239, 9, 9, 9];
const ROUTERS: [u8; 4] = [224, 0, 0, 2];
const NO_ONE: [usize; 0] = [];

/// A network that has just begun.
fn new(endpoints: u8) -> Lan {
    Lan::new(endpoints).with(|config| {
        config.networks[0].bridge.snooping = Some(Snooping::default());
    })
}

/// A network in which everyone has been asked, and has had the time to answer.
fn lan(endpoints: u8) -> Lan {
    let mut lan = new(endpoints);
    lan.pass(140);
    lan.heard();
    lan
}

fn unguarded(config: &mut Config) {
    for endpoint in &mut config.endpoints {
        endpoint.guard = false;
    }
}

fn group_mac(group: [u8; 4]) -> MacAddr {
    MacAddr([1, 0, 0x5e, group[1] & 0x7f, group[2], group[3]])
}

fn ipv4(from: u8, to: [u8; 4], protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = [group_mac(to).0, mac(from).0].concat();
    frame.extend([0x08, 0x00, 0x45, 0]);
    frame.extend((20 + payload.len() as u16).to_be_bytes());
    frame.extend([0, 0, 0, 0, 1, protocol, 0, 0, 10, 0, 0, from]);
    frame.extend(to);
    frame.extend(payload);
    // As short frames come from a wire.
    frame.resize(frame.len().max(60), 0);
    frame
}

/// A packet of a stream to a group.
fn stream(from: u8, to: [u8; 4]) -> Vec<u8> {
    ipv4(from, to, 17, &[0; 16])
}

fn igmp(from: u8, to: [u8; 4], mut message: Vec<u8>) -> Vec<u8> {
    let sum = checksum(&message, 1);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    ipv4(from, to, 2, &message)
}

/// A message of version 1 or 2.
fn short(kind: u8, time: u8, group: [u8; 4]) -> Vec<u8> {
    let mut message = vec![kind, time, 0, 0];
    message.extend(group);
    message
}

fn join(from: u8, group: [u8; 4]) -> Vec<u8> {
    igmp(from, group, short(0x16, 0, group))
}

fn leave(from: u8, group: [u8; 4]) -> Vec<u8> {
    igmp(from, ROUTERS, short(0x17, 0, group))
}

fn general_query(from: u8) -> Vec<u8> {
    igmp(from, [224, 0, 0, 1], short(0x11, 100, [0; 4]))
}

/// A report of version 3: kind, sources, group.
fn report_v3(from: u8, records: &[(u8, u16, [u8; 4])]) -> Vec<u8> {
    let mut message = vec![0x22, 0, 0, 0, 0, 0];
    message.extend((records.len() as u16).to_be_bytes());
    for &(kind, sources, group) in records {
        message.extend([kind, 1]);
        message.extend(sources.to_be_bytes());
        message.extend(group);
        // Sources, and a word of auxiliary data that nobody defined.
        message.resize(message.len() + usize::from(sources) * 4 + 4, 7);
    }
    igmp(from, [224, 0, 0, 22], message)
}

fn group6(n: u16) -> Ipv6Addr {
    Ipv6Addr::new(0xff05, 0, 0, 0, 0, 0, 0, n)
}

fn ipv6_packet(from: u8, to: Ipv6Addr, next: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = [ipv6::multicast_mac(to).0, mac(from).0].concat();
    frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
    frame.extend((payload.len() as u16).to_be_bytes());
    frame.extend([next, 1]);
    frame.extend(ipv6::link_local(mac(from)).octets());
    frame.extend(to.octets());
    frame.extend(payload);
    frame
}

fn stream6(from: u8, to: Ipv6Addr) -> Vec<u8> {
    ipv6_packet(from, to, 17, &[0; 16])
}

fn mld(from: u8, to: Ipv6Addr, mut message: Vec<u8>) -> Vec<u8> {
    let source = ipv6::link_local(mac(from));
    let sum = icmpv6::checksum(&Icmpv6Packet::new(&message).unwrap(), &source, &to);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    let mut payload = vec![58, 0, 5, 2, 0, 0, 1, 0];
    payload.extend(message);
    ipv6_packet(from, to, 0, &payload)
}

/// A message of version 1.
fn mld_v1(from: u8, kind: u8, group: Ipv6Addr) -> Vec<u8> {
    let mut message = vec![kind, 0, 0, 0, 0, 0, 0, 0];
    message.extend(group.octets());
    mld(from, group, message)
}

fn mld_v2(from: u8, records: &[(u8, u16, Ipv6Addr)]) -> Vec<u8> {
    let mut message = vec![143, 0, 0, 0, 0, 0];
    message.extend((records.len() as u16).to_be_bytes());
    for &(kind, sources, group) in records {
        message.extend([kind, 0]);
        message.extend(sources.to_be_bytes());
        message.extend(group.octets());
        message.resize(message.len() + usize::from(sources) * 16, 7);
    }
    mld(from, "ff02::16".parse().unwrap(), message)
}

// Conforms: LINUX-bridge-igmp
// Feature: snooping
#[test]
fn a_group_goes_to_its_listeners_and_the_host() {
    let mut lan = lan(4);
    assert_eq!(lan.send(1, &stream(1, GROUP)), [0, 2, 3, 4], "unknown");
    assert_eq!(lan.send(2, &join(2, GROUP)), [0], "the report");
    assert_eq!(lan.send(1, &stream(1, GROUP)), [0, 2]);
    assert_eq!(lan.send(2, &stream(2, GROUP)), [0], "not back");
    assert_eq!(lan.send(0, &stream(254, GROUP)), [2]);
    // Version 1 too.
    lan.send(3, &igmp(3, GROUP, short(0x12, 0, GROUP)));
    assert_eq!(lan.send(1, &stream(1, GROUP)), [0, 2, 3]);
    assert_eq!(lan.send(1, &stream(1, OTHER)), [0, 2, 3, 4]);
    assert_eq!(lan.send(2, &leave(2, GROUP)), [0]);
    assert_eq!(lan.send(1, &stream(1, GROUP)), [0, 3]);
    lan.send(3, &leave(3, GROUP));
    assert_eq!(
        lan.send(1, &stream(1, GROUP)),
        [0, 2, 3, 4],
        "unknown again"
    );
}

// Conforms: LINUX-bridge-igmp
#[test]
fn reports_of_version_3_tell_of_many_groups() {
    let mut lan = lan(4);
    const INCLUDE: u8 = 1;
    const EXCLUDE: u8 = 2;
    const TO_INCLUDE: u8 = 3;
    const TO_EXCLUDE: u8 = 4;
    const ALLOW: u8 = 5;
    const BLOCK: u8 = 6;
    let groups = [EXCLUDE, TO_EXCLUDE, ALLOW, INCLUDE, TO_INCLUDE].map(|kind| {
        let group = [239, 0, 0, kind];
        (kind, u16::from(kind != EXCLUDE), group)
    });
    lan.send(2, &report_v3(2, &groups));
    for (_, _, group) in groups {
        assert_eq!(lan.send(1, &stream(1, group)), [0, 2], "{group:?}");
    }
    let blocked = [239, 0, 0, BLOCK];
    lan.send(
        2,
        &report_v3(2, &[(BLOCK, 3, blocked), (BLOCK, 1, groups[0].2)]),
    );
    assert_eq!(lan.send(1, &stream(1, blocked)), [0, 2, 3, 4]);
    assert_eq!(lan.send(1, &stream(1, groups[0].2)), [0, 2]);
    lan.send(
        2,
        &report_v3(2, &groups.map(|(_, _, group)| (TO_INCLUDE, 0, group))),
    );
    assert_eq!(lan.datapath.groups(lan.now), []);
}

// Conforms: LINUX-bridge-mld
// Feature: snooping
#[test]
fn ipv6_groups_go_to_their_listeners() {
    let mut lan = lan(4).with(|config| {
        let gateway = "fd00::1".parse().unwrap();
        config.networks[0].gateway_addresses.push(gateway);
    });
    assert_eq!(
        lan.send(1, &stream6(1, group6(1))),
        [0, 2, 3, 4],
        "nobody asks yet"
    );
    lan.pass(15);
    lan.heard();
    assert_eq!(lan.send(2, &mld_v1(2, 131, group6(1))), [0]);
    lan.send(3, &mld_v2(3, &[(4, 0, group6(1)), (2, 2, group6(2))]));
    assert_eq!(lan.send(1, &stream6(1, group6(1))), [0, 2, 3]);
    assert_eq!(lan.send(1, &stream6(1, group6(2))), [0, 3]);
    assert_eq!(lan.send(1, &stream6(1, group6(3))), [0, 2, 3, 4]);
    lan.send(2, &mld_v1(2, 132, group6(1)));
    lan.send(3, &mld_v2(3, &[(3, 0, group6(2))]));
    assert_eq!(lan.send(1, &stream6(1, group6(1))), [0, 3]);
    assert_eq!(lan.send(1, &stream6(1, group6(2))), [0, 2, 3, 4]);
}

// Conforms: LINUX-bridge-igmp LINUX-bridge-mld
#[test]
fn groups_of_the_link_go_to_everyone_whoever_listens() {
    let mut lan = lan(3);
    let mdns = [224, 0, 0, 251];
    lan.send(2, &join(2, mdns));
    assert_eq!(lan.send(1, &stream(1, mdns)), [0, 2, 3]);
    for group in ["ff02::1", "ff02::fb", "ff02::1:ff00:7", "ff01::1"] {
        let group = group.parse().unwrap();
        lan.send(2, &mld_v1(2, 131, group));
        assert_eq!(lan.send(1, &stream6(1, group)), [0, 2, 3], "{group}");
    }
    assert_eq!(lan.datapath.groups(lan.now), []);
}

// Conforms: LINUX-bridge-mdb
#[test]
fn listeners_are_shown_and_age() {
    let mut lan = lan(3);
    let start = lan.now;
    lan.send(2, &join(2, GROUP));
    lan.send(3, &join(3, GROUP));
    lan.send(3, &mld_v2(3, &[(4, 0, group6(1))]));
    let row = |group: IpAddr, port| Row {
        group,
        port: PortId(port),
        left: Duration::from_secs(260),
    };
    let rows: Vec<Row> = lan
        .datapath
        .groups(start)
        .into_iter()
        .map(|(_, row)| row)
        .collect();
    let expected = [
        row(GROUP.into(), 2),
        row(GROUP.into(), 3),
        row(group6(1).into(), 3),
    ];
    assert_eq!(rows, expected);
    lan.pass(200);
    lan.heard();
    lan.send(3, &join(3, GROUP));
    lan.pass(61);
    lan.heard();
    assert_eq!(lan.send(1, &stream(1, GROUP)), [0, 3]);
    assert_eq!(lan.datapath.groups(lan.now).len(), 1);
    lan.pass(260);
    lan.heard();
    assert_eq!(lan.datapath.groups(lan.now), []);
}

// Conforms: LINUX-bridge-mdb
#[test]
fn the_gateway_asks_and_a_listener_that_answers_stays() {
    let mut lan = new(2);
    let mut asked = Vec::new();
    for second in 1..=600 {
        lan.pass(1);
        for (port, bytes) in lan.heard() {
            assert_ne!(port, 0, "the host gets everything unasked");
            let frame = Frame::from_bytes(&bytes);
            let Some(Heard::Query(query)) = wire::read(&frame) else {
                panic!("{frame:?}");
            };
            let expected = Query {
                source: [10, 0, 0, 254].into(),
                group: None,
                within: Duration::from_secs(10),
            };
            assert_eq!(query, expected);
            assert_eq!(frame::source(&bytes), Some(GATEWAY));
            if port == 2 {
                asked.push(second);
                lan.send(2, &report_v3(2, &[(2, 0, GROUP)]));
            }
        }
    }
    assert_eq!(asked, [1, 32, 157, 282, 407, 532]);
    assert_eq!(lan.send(1, &stream(1, GROUP)), [0, 2]);
}

// Conforms: LINUX-bridge-igmp
#[test]
fn without_a_querier_everyone_gets_everything() {
    let mut lan = new(3).with(|config| {
        let snooping = config.networks[0].bridge.snooping.as_mut();
        snooping.unwrap().querier = false;
        config.endpoints[2].guard = false;
    });
    lan.pass(300);
    assert!(lan.heard().is_empty(), "nobody asks");
    lan.send(2, &join(2, GROUP));
    assert_eq!(lan.send(1, &stream(1, GROUP)), [0, 2, 3]);
    // Another querier will do, once everyone has had the time to answer it.
    assert_eq!(lan.send(3, &general_query(3)), [0, 1, 2]);
    assert_eq!(lan.send(1, &stream(1, GROUP)), [0, 2, 3]);
    lan.pass(12);
    assert_eq!(
        lan.send(1, &stream(1, GROUP)),
        [0, 2, 3],
        "a router gets everything"
    );
    assert_eq!(lan.send(3, &stream(3, GROUP)), [0, 2]);
    assert_eq!(lan.send(2, &join(2, OTHER)), [0, 3], "and the reports");
    // When it is gone, so is what it knew.
    lan.pass(250);
    assert_eq!(lan.send(3, &stream(3, GROUP)), [0, 1, 2]);
}

// Conforms: LINUX-bridge-igmp
#[test]
fn the_querier_with_the_lowest_address_asks() {
    // Port 3 has 10.0.0.3, which is lower than the gateway's.
    let mut lan = lan(3).with(unguarded);
    let asks = |lan: &mut Lan, from: u8, seconds| {
        lan.send(usize::from(from), &general_query(from));
        lan.pass(seconds);
        lan.heard().len() / 3
    };
    assert_eq!(asks(&mut lan, 3, 254), 0);
    assert_eq!(asks(&mut lan, 3, 254), 0);
    lan.pass(2);
    assert_eq!(
        lan.heard().len(),
        3,
        "it is gone, and the gateway asks at once"
    );
    // Whoever has no address does not stand for election.
    let mut nobody = general_query(3);
    nobody[14 + 12..14 + 16].fill(0);
    lan.send(3, &nobody);
    lan.pass(125);
    assert_eq!(lan.heard().len(), 3);
}

// Conforms: SWITCH-multicast-router-guard
#[test]
fn a_guarded_container_is_no_multicast_router() {
    let mut lan = lan(3);
    assert_eq!(lan.send(1, &general_query(1)), NO_ONE);
    assert_eq!(lan.drops(DropReason::RogueRouter), 1);
    lan.send(2, &join(2, GROUP));
    assert_eq!(lan.send(3, &stream(3, GROUP)), [0, 2]);
    // The host may be one.
    assert_eq!(lan.send(0, &general_query(254)), [1, 2, 3]);
}

#[test]
fn behind_a_port_with_several_stations_others_may_still_listen() {
    let mut lan = lan(3).with(unguarded);
    lan.send(2, &join(2, GROUP));
    lan.send(3, &join(3, GROUP));
    // Another station behind port 2 leaves, and the first still listens: it answers.
    lan.send(2, &leave(77, GROUP));
    assert_eq!(lan.send(1, &stream(1, GROUP)), [0, 2, 3]);
    lan.pass(1);
    let asked = lan.heard();
    let [(2, frame)] = &asked[..] else {
        panic!("{asked:?}");
    };
    let frame = Frame::from_bytes(frame);
    let Some(Heard::Query(query)) = wire::read(&frame) else {
        panic!("{frame:?}");
    };
    assert_eq!(query.group, Some(GROUP.into()));
    lan.send(2, &join(2, GROUP));
    lan.pass(5);
    assert_eq!(lan.send(1, &stream(1, GROUP)), [0, 2, 3]);
    // Now the last one leaves, and nobody answers.
    lan.send(2, &leave(2, GROUP));
    lan.pass(5);
    lan.heard();
    assert_eq!(lan.send(1, &stream(1, GROUP)), [0, 3]);
}

#[test]
fn a_new_port_gets_everything_until_it_was_asked() {
    let mut lan = lan(3);
    lan.send(2, &join(2, GROUP));
    assert_eq!(lan.send(1, &stream(1, GROUP)), [0, 2]);
    let three = lan.config.endpoints[2].clone();
    let mut lan = lan.with(|config| drop(config.endpoints.remove(2)));
    assert_eq!(lan.send(1, &stream(1, GROUP)), [0, 2]);
    let mut lan = lan.with(|config| config.endpoints.push(three));
    assert_eq!(lan.send(1, &stream(1, GROUP)), [0, 2, 3]);
    lan.pass(130);
    lan.heard();
    lan.send(2, &join(2, GROUP));
    lan.pass(10);
    lan.heard();
    assert_eq!(lan.send(1, &stream(1, GROUP)), [0, 2]);
}

// Conforms: LINUX-bridge-mdb
#[test]
fn the_table_is_bounded_and_who_exceeds_it_gets_everything() {
    let mut lan = lan(4).with(|config| {
        config.networks[0].bridge.snooping = Some(Snooping {
            groups: 20,
            groups_per_port: 8,
            querier: true,
        });
    });
    lan.send(2, &join(2, GROUP));
    for n in 0..100 {
        lan.send(3, &join(3, [239, 3, 0, n]));
    }
    assert_eq!(lan.datapath.groups(lan.now).len(), 9);
    // Group 50 of port 3 is not known, so it gets the groups of others too, lest it miss its own.
    assert_eq!(lan.send(1, &stream(1, GROUP)), [0, 2, 3]);
    assert_eq!(lan.send(1, &stream(1, [239, 3, 0, 1])), [0, 3]);
    for n in 0..8 {
        lan.send(2, &join(2, [239, 2, 0, n]));
        lan.send(4, &join(4, [239, 4, 0, n]));
    }
    let rows = lan.datapath.groups(lan.now);
    assert_eq!(rows.len(), 20, "the whole");
    // A known group takes one more listener, even so.
    lan.send(4, &leave(4, [239, 4, 0, 0]));
    lan.send(4, &join(4, GROUP));
    assert!(lan.send(1, &stream(1, GROUP)).contains(&4));
    // All of it is given back.
    let mut lan = lan.with(|config| config.endpoints.truncate(1));
    assert_eq!(lan.datapath.groups(lan.now), []);
    assert_eq!(lan.send(1, &stream(1, GROUP)), [0]);
}

#[test]
fn isolated_listeners_hear_nothing_of_each_other() {
    let mut lan = lan(4).with(|config| {
        config.endpoints[0].isolated = true;
        config.endpoints[1].isolated = true;
    });
    for n in 2..=3 {
        lan.send(usize::from(n), &join(n, GROUP));
    }
    assert_eq!(lan.send(1, &stream(1, GROUP)), [0, 3]);
    assert_eq!(lan.send(4, &stream(4, GROUP)), [0, 2, 3]);
}

// Conforms: SWITCH-storm-control
#[test]
fn streams_to_known_groups_are_no_storm_but_reports_may_be() {
    let mut lan = lan(3).with(|config| config.networks[0].bridge.storm.multicast = Some(10));
    lan.send(2, &join(2, GROUP));
    let heard = (0..100).filter(|_| !lan.send(1, &stream(1, GROUP)).is_empty());
    assert_eq!(heard.count(), 100);
    let heard = (0..100).filter(|_| !lan.send(1, &stream(1, OTHER)).is_empty());
    assert_eq!(heard.count(), 10);
    for n in 0..100 {
        lan.send(3, &join(3, [239, 3, 0, n]));
    }
    assert_eq!(lan.drops(DropReason::MulticastStorm), 90 + 90);
}

#[test]
fn switched_off_it_looks_at_nothing() {
    let mut lan = lan(3).with(|config| config.networks[0].bridge.snooping = None);
    assert_eq!(lan.send(2, &join(2, GROUP)), [0, 1, 3]);
    assert_eq!(lan.send(1, &stream(1, GROUP)), [0, 2, 3]);
    lan.pass(300);
    assert!(lan.heard().is_empty());
}

// Conforms: LINUX-bridge-igmp LINUX-bridge-mld
#[test]
fn broken_messages_change_nothing_and_are_dropped() {
    let mut lan = lan(3);
    let mut messages = vec![
        join(2, GROUP),
        leave(2, GROUP),
        report_v3(2, &[(2, 0, GROUP), (4, 2, OTHER)]),
        mld_v1(2, 131, group6(1)),
        mld_v2(2, &[(4, 1, group6(1))]),
    ];
    // The checksum is wrong: the last byte of each message is changed.
    for message in &mut messages {
        let ipv4 = message[12] == 8;
        let end = if ipv4 {
            14 + usize::from(message[17])
        } else {
            message.len()
        };
        message[end - 1] ^= 1;
        assert_eq!(lan.send(2, message), NO_ONE);
    }
    assert_eq!(lan.drops(DropReason::Malformed), 5);
    // A record that is not all there, under a checksum that is right.
    let mut cut = vec![0x22, 0, 0, 0, 0, 0, 0, 2, 4, 0, 0, 0];
    cut.extend(GROUP);
    assert_eq!(lan.send(2, &igmp(2, [224, 0, 0, 22], cut)), NO_ONE);
    assert_eq!(lan.drops(DropReason::Malformed), 6);
    assert_eq!(lan.datapath.groups(lan.now), []);
    // Unknown kinds pass (RFC 4541 section 2.1.1, rule 5), and so do tagged ones.
    let unknown = igmp(2, [224, 0, 0, 13], short(0x14, 0, GROUP));
    assert_eq!(lan.send(2, &unknown), [0, 1, 3]);
    let mut fragment = join(2, [224, 0, 0, 13]);
    fragment[20] = 0x20;
    // Put together by its receivers it might be a query.
    assert_eq!(lan.send(2, &fragment), NO_ONE);
    let mut tagged = join(2, GROUP);
    tagged.splice(12..12, [0x81, 0, 0, 5]);
    assert_eq!(lan.send(2, &tagged), [0, 1, 3]);
    assert_eq!(lan.datapath.groups(lan.now), []);
}

#[test]
fn any_cut_of_any_message_is_survived() {
    let messages = [
        report_v3(2, &[(2, 3, GROUP), (4, 2, OTHER)]),
        general_query(2),
        mld_v1(2, 131, group6(1)),
        mld_v2(2, &[(4, 1, group6(1)), (2, 0, group6(2))]),
    ];
    for message in &messages {
        for len in 14..=message.len() {
            let mut cut = message[..len].to_vec();
            if let Some(Heard::Report(records)) = wire::read(&Frame::from_bytes(&cut)) {
                records.for_each(drop);
            }
            // The same with lengths that agree with what is left.
            if cut.len() > 34 && cut[12] == 8 {
                cut[16..18].copy_from_slice(&(len as u16 - 14).to_be_bytes());
            } else if cut.len() > 54 {
                cut[18..20].copy_from_slice(&(len as u16 - 54).to_be_bytes());
            }
            let mut frame = Frame::from_bytes(&cut);
            // No checksum to save it.
            frame.set_vnet(crate::frame::VnetHeader {
                flags: crate::frame::VnetHeader::NEEDS_CSUM,
                ..Default::default()
            });
            if let Some(Heard::Report(records)) = wire::read(&frame) {
                assert!(records.count() <= 2);
            }
        }
    }
}

#[test]
fn queries_are_read_as_they_are_written() {
    let from = (GATEWAY, ipv6::link_local(GATEWAY));
    for group in [None, Some(group6(7))] {
        let mut frame = Frame::from_bytes(&[0xaa; 200]);
        wire::ask_v6(&mut frame, from, group);
        let Some(Heard::Query(query)) = wire::read(&frame) else {
            panic!("{frame:?}");
        };
        let expected = Query {
            source: from.1.into(),
            group: group.map(IpAddr::from),
            within: Duration::from_secs(if group.is_some() { 1 } else { 10 }),
        };
        assert_eq!(query, expected);
        let to = group.unwrap_or("ff02::1".parse().unwrap());
        assert_eq!(
            frame::destination(frame.bytes()),
            Some(ipv6::multicast_mac(to))
        );
        let mut frame = Frame::from_bytes(&[0xaa; 200]);
        wire::ask_v4(
            &mut frame,
            (GATEWAY, [10, 0, 0, 254].into()),
            Some(GROUP.into()),
        );
        let ip = pnet_packet::ipv4::Ipv4Packet::new(&frame.bytes()[14..]).unwrap();
        assert_eq!(pnet_packet::ipv4::checksum(&ip), ip.get_checksum());
        assert_eq!(frame::destination(frame.bytes()), Some(group_mac(GROUP)));
    }
}

#[test]
fn times_may_be_floating_point() {
    // RFC 3376 section 4.1.1: 0x8c is (12 | 16) << 3 tenths of a second.
    let mut message = short(0x11, 0x8c, GROUP);
    message.extend([2, 125, 0, 0]);
    let frame = Frame::from_bytes(&igmp(2, GROUP, message));
    let Some(Heard::Query(query)) = wire::read(&frame) else {
        panic!("{frame:?}");
    };
    assert_eq!(query.within, Duration::from_millis(100 * (28 << 3)));
    // A question for sources is none for the rest.
    let mut message = short(0x11, 10, GROUP);
    message.extend([2, 125, 0, 1, 10, 0, 0, 9]);
    let frame = Frame::from_bytes(&igmp(2, GROUP, message));
    assert!(matches!(wire::read(&frame), Some(Heard::Nothing)));
}

#[test]
fn records_leave_out_what_is_no_group() {
    let report = report_v3(
        2,
        &[(2, 0, [10, 0, 0, 9]), (2, 0, [224, 0, 0, 5]), (2, 0, GROUP)],
    );
    let frame = Frame::from_bytes(&report);
    let Some(Heard::Report(records)) = wire::read(&frame) else {
        panic!("{frame:?}");
    };
    let records: Vec<_> = records.collect();
    assert_eq!(records, [(Change::Join, IpAddr::from(GROUP))]);
}
