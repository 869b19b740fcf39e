use nat::Time;

use crate::config::{Bridge, Config, PortId, StormLimits};
use crate::drop::DropReason;
use crate::frame::MacAddr;
use crate::testing::{GATEWAY, Lan, NETWORK, frame, mac};

const BROADCAST: MacAddr = MacAddr::BROADCAST;
const NO_ONE: [usize; 0] = [];

fn unguarded(config: &mut Config) {
    for endpoint in &mut config.endpoints {
        endpoint.guard = false;
    }
}

fn isolated(config: &mut Config, endpoints: &[usize]) {
    for &n in endpoints {
        config.endpoints[n - 1].isolated = true;
    }
}

/// An IPv4 packet with nothing in it, in a frame.
fn packet(to: MacAddr, from: u8, address: [u8; 4]) -> Vec<u8> {
    let mut frame = [to.0, mac(from).0].concat();
    frame.extend([0x08, 0x00, 0x45, 0, 0, 20, 0, 0, 0, 0, 64, 253, 0, 0]);
    frame.extend([10, 0, 0, from]);
    frame.extend(address);
    let sum: u32 = frame[14..]
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1]))
        .sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    frame[24..26].copy_from_slice(&(!(folded as u16)).to_be_bytes());
    frame
}

#[test]
fn a_configured_station_need_not_speak_to_be_found() {
    let mut lan = Lan::new(3);
    assert_eq!(lan.send(1, &frame(mac(2), mac(1))), [2]);
    assert_eq!(lan.send(1, &frame(BROADCAST, mac(1))), [0, 2, 3]);
    assert_eq!(lan.send(0, &frame(mac(3), GATEWAY)), [3]);
    assert_eq!(lan.send(1, &frame(mac(1), mac(1))), NO_ONE);
    assert_eq!(lan.drops(DropReason::SamePort), 1);
}

// Conforms: LINUX-local-termination
#[test]
fn the_host_hears_what_is_for_it_and_for_all() {
    let mut lan = Lan::new(2).with(unguarded);
    assert_eq!(lan.send(1, &packet(GATEWAY, 1, [10, 0, 0, 254])), [0]);
    assert_eq!(lan.send(1, &frame(BROADCAST, mac(1))), [0, 2]);
    assert_eq!(
        lan.send(1, &frame(MacAddr([1, 0, 0x5e, 0, 0, 1]), mac(1))),
        [0, 2]
    );
    assert_eq!(
        lan.send(1, &frame(MacAddr([3, 0, 0, 0, 0, 9]), mac(1))),
        [0, 2]
    );
    // Not what is for a neighbour, nor what is for somebody unknown.
    assert_eq!(lan.send(1, &frame(mac(2), mac(1))), [2]);
    assert_eq!(lan.send(1, &frame(mac(77), mac(1))), [2]);
}

// Conforms: SWITCH-reserved-groups
#[test]
fn frames_to_reserved_addresses_stay_on_their_link() {
    let mut lan = Lan::new(2).with(unguarded);
    for last in 0..=0x0f {
        let reserved = MacAddr([1, 0x80, 0xc2, 0, 0, last]);
        assert_eq!(lan.send(1, &frame(reserved, mac(1))), NO_ONE, "{reserved}");
        assert_eq!(lan.send(0, &frame(reserved, GATEWAY)), NO_ONE, "{reserved}");
    }
    assert_eq!(lan.drops(DropReason::ReservedAddress), 32);
    // The next block (GARP) is ordinary multicast.
    let garp = MacAddr([1, 0x80, 0xc2, 0, 0, 0x20]);
    assert_eq!(lan.send(1, &frame(garp, mac(1))), [0, 2]);
}

// Conforms: LINUX-local-termination SWITCH-unknown-unicast
#[test]
fn unknown_unicast_goes_only_where_strangers_may_be() {
    let mut lan = Lan::new(3).with(|config| config.endpoints[2].guard = false);
    assert_eq!(lan.send(1, &frame(mac(77), mac(1))), [3]);
    assert_eq!(lan.send(3, &frame(mac(77), mac(3))), NO_ONE);
    assert_eq!(lan.drops(DropReason::UnknownMac), 1);
    // Once it has spoken it is known.
    lan.send(3, &frame(mac(1), mac(77)));
    assert_eq!(lan.send(1, &frame(mac(77), mac(1))), [3]);
}

// Conforms: LINUX-bridge-sticky-fdb OVS-static-mac-moves
#[test]
fn nobody_takes_over_a_configured_address() {
    let mut lan = Lan::new(3).with(unguarded);
    for stolen in [mac(2), GATEWAY] {
        assert_eq!(lan.send(1, &frame(BROADCAST, stolen)), NO_ONE);
        assert_eq!(lan.send(1, &frame(mac(3), stolen)), NO_ONE);
    }
    assert_eq!(lan.drops(DropReason::MacTaken), 4);
    assert_eq!(lan.send(3, &frame(mac(2), mac(3))), [2]);
    // Nor the host, nor time.
    assert_eq!(lan.send(0, &frame(BROADCAST, mac(2))), NO_ONE);
    lan.pass(1000);
    lan.heard();
    assert_eq!(lan.send(3, &frame(mac(2), mac(3))), [2]);
    let rows = lan.datapath.fdb(lan.now);
    assert_eq!(rows.len(), 4);
    assert!(rows.iter().all(|row| row.age.is_none()));
    // The configuration moves it, at once: a container that starts again on another port.
    let mut lan = lan.with(|config| {
        config.endpoints[0].mac = mac(2);
        config.endpoints.remove(1);
    });
    assert_eq!(lan.heard().len(), 2, "it is announced");
    assert_eq!(lan.send(3, &frame(mac(2), mac(3))), [1]);
    assert_eq!(lan.send(1, &frame(mac(3), mac(2))), [3]);
}

// Feature: switching
#[test]
fn a_learned_station_becomes_configured_and_leaves_with_its_port() {
    let mut lan = Lan::new(3).with(unguarded);
    lan.send(1, &frame(BROADCAST, mac(77)));
    lan.send(1, &frame(BROADCAST, mac(78)));
    assert_eq!(lan.send(2, &frame(mac(77), mac(2))), [1]);
    // What is configured wins over what was learned.
    let mut lan = lan.with(|config| config.endpoints[2].mac = mac(77));
    assert_eq!(lan.heard().len(), 3, "it is announced");
    assert_eq!(lan.send(2, &frame(mac(77), mac(2))), [3]);
    assert_eq!(lan.datapath.fdb(lan.now).len(), 5);
    // Port 1 leaves the network, and what was behind it is unknown again.
    let mut lan = lan.with(|config| drop(config.endpoints.remove(0)));
    assert_eq!(lan.send(2, &frame(mac(78), mac(2))), [3]);
    assert_eq!(lan.datapath.fdb_stats()[0].1.learned, 0);
}

// Conforms: LINUX-bridge-locked-port
#[test]
fn a_guarded_port_is_locked_to_its_own_address() {
    let mut lan = Lan::new(2);
    assert_eq!(lan.send(1, &frame(mac(2), mac(77))), NO_ONE);
    assert_eq!(lan.send(1, &frame(BROADCAST, mac(2))), NO_ONE);
    assert_eq!(lan.drops(DropReason::SpoofedSource), 2);
    assert_eq!(lan.datapath.fdb_stats()[0].1.learned, 0);
    assert_eq!(lan.send(1, &frame(mac(2), mac(1))), [2]);
}

#[test]
fn a_group_or_nobody_as_source_is_dropped() {
    let mut lan = Lan::new(2).with(unguarded);
    for source in [BROADCAST, MacAddr([1, 0, 0x5e, 0, 0, 1]), MacAddr([0; 6])] {
        assert_eq!(lan.send(1, &frame(mac(2), source)), NO_ONE);
    }
    assert_eq!(lan.drops(DropReason::SpoofedSource), 3);
}

// Conforms: LINUX-bridge-port-isolation
#[test]
fn isolated_endpoints_reach_everyone_but_each_other() {
    let mut lan = Lan::new(4).with(|config| isolated(config, &[1, 2]));
    // Unicast, both ways, and to all.
    assert_eq!(lan.send(1, &frame(mac(2), mac(1))), NO_ONE);
    assert_eq!(lan.send(2, &frame(mac(1), mac(2))), NO_ONE);
    assert_eq!(lan.drops(DropReason::Isolated), 2);
    assert_eq!(lan.send(1, &frame(BROADCAST, mac(1))), [0, 3, 4]);
    assert_eq!(
        lan.send(2, &frame(MacAddr([1, 0, 0x5e, 1, 1, 1]), mac(2))),
        [0, 3, 4]
    );
    // The others, and the host.
    assert_eq!(lan.send(1, &frame(mac(3), mac(1))), [3]);
    assert_eq!(lan.send(3, &frame(mac(1), mac(3))), [1]);
    assert_eq!(lan.send(3, &frame(BROADCAST, mac(3))), [0, 1, 2, 4]);
    assert_eq!(lan.send(0, &frame(mac(1), GATEWAY)), [1]);
    assert_eq!(lan.send(0, &frame(BROADCAST, GATEWAY)), [1, 2, 3, 4]);
    assert_eq!(lan.send(1, &packet(GATEWAY, 1, [10, 0, 0, 254])), [0]);
}

// Conforms: LINUX-bridge-port-isolation
#[test]
fn the_gateway_is_no_way_round_isolation() {
    let mut lan = Lan::new(3).with(|config| isolated(config, &[1, 2]));
    let answer = lan.send(1, &packet(GATEWAY, 1, [10, 0, 0, 2]));
    assert_eq!(answer, [1], "told that it is prohibited");
    assert_eq!(lan.drops(DropReason::Isolated), 1);
    assert_eq!(lan.send(1, &packet(GATEWAY, 1, [10, 0, 0, 3])), [3]);
    assert_eq!(lan.send(3, &packet(GATEWAY, 3, [10, 0, 0, 1])), [1]);
}

// Conforms: LINUX-bridge-port-isolation
#[test]
fn stations_learned_behind_isolated_endpoints_are_isolated_too() {
    let mut lan = Lan::new(3)
        .with(unguarded)
        .with(|config| isolated(config, &[1, 2]));
    lan.send(1, &frame(BROADCAST, mac(77)));
    assert_eq!(lan.send(2, &frame(mac(77), mac(2))), NO_ONE);
    assert_eq!(lan.drops(DropReason::Isolated), 1);
    assert_eq!(lan.send(3, &frame(mac(77), mac(3))), [1]);
    assert_eq!(
        lan.send(2, &frame(mac(99), mac(2))),
        [3],
        "looked for, but not there"
    );
}

// Conforms: SWITCH-storm-control
// Feature: switching
#[test]
fn a_storm_is_held_at_the_port_it_comes_from() {
    let storm = StormLimits {
        broadcast: Some(10),
        multicast: Some(20),
        unknown_unicast: Some(30),
    };
    let mut lan = Lan::new(3).with(unguarded).with(|config| {
        config.networks[0].bridge = Bridge {
            storm,
            ..Bridge::default()
        };
    });
    let rows = [
        (BROADCAST, 10, DropReason::BroadcastStorm),
        (MacAddr([3, 0, 0, 0, 0, 1]), 20, DropReason::MulticastStorm),
        (mac(77), 30, DropReason::UnknownUnicastStorm),
    ];
    let passed = |lan: &mut Lan, from: u8, to: MacAddr| {
        let storm = frame(to, mac(from));
        (0..100)
            .filter(|_| !lan.send(usize::from(from), &storm).is_empty())
            .count()
    };
    for (to, limit, reason) in rows {
        assert_eq!(passed(&mut lan, 1, to), limit);
        assert_eq!(lan.drops(reason), 100 - limit as u64);
    }
    // Neither other ports suffer, nor what is known.
    assert_eq!(passed(&mut lan, 2, BROADCAST), 10);
    assert_eq!(passed(&mut lan, 1, mac(2)), 100);
    // A second later as many may go.
    lan.pass(1);
    assert_eq!(passed(&mut lan, 1, BROADCAST), 10);
    // Without a limit, all.
    let mut lan = lan.with(|config| {
        config.networks[0].bridge.storm.broadcast = None;
    });
    assert_eq!(passed(&mut lan, 1, BROADCAST), 100);
}

// Conforms: LINUX-bridge-fdb-learning-limit OVS-mac-table-fairness
#[test]
fn a_flood_of_addresses_costs_only_its_sender() {
    let mut lan = Lan::new(3).with(unguarded);
    lan.send(2, &frame(BROADCAST, mac(77)));
    for n in 0..10_000u16 {
        let [high, low] = n.to_be_bytes();
        let invented = MacAddr([0x0a, 1, 1, 1, high, low]);
        lan.send(1, &frame(mac(2), invented));
    }
    assert_eq!(lan.send(3, &frame(mac(77), mac(3))), [2]);
    let (network, stats) = lan.datapath.fdb_stats()[0];
    assert_eq!((network, stats.learned), (NETWORK, 64 + 1));
    assert_eq!(stats.evicted, 10_000 - 64);
}

// Conforms: SWITCH-vlan-transparent
// Feature: snooping
#[test]
fn vlan_tags_pass_untouched_guarded_or_not() {
    let inner = |tags: &[u8], to: MacAddr, address: [u8; 4]| {
        let mut tagged = packet(to, 1, address);
        tagged.splice(12..12, tags.iter().copied());
        tagged
    };
    let customer: &[u8] = &[0x81, 0x00, 0xa0, 5];
    let service = &[0x88, 0xa8, 0x00, 7, 0x81, 0x00, 0x0f, 0xff];
    for guard in [true, false] {
        let mut lan = Lan::new(3).with(|config| {
            for endpoint in &mut config.endpoints {
                endpoint.guard = guard;
            }
        });
        for tags in [customer, service] {
            let tagged = inner(tags, mac(2), [10, 0, 0, 2]);
            assert_eq!(lan.send_and_hear(1, &tagged), [(2, tagged.clone())]);
            // To all, tag and all.
            let broadcast = inner(tags, BROADCAST, [255; 4]);
            let heard = lan.send_and_hear(1, &broadcast);
            assert_eq!(heard.len(), 3);
            assert!(heard.iter().all(|(_, frame)| *frame == broadcast));
            // The gateway routes no tagged packets.
            let mut routed = tagged;
            routed[..6].copy_from_slice(&GATEWAY.0);
            assert_eq!(lan.send(1, &routed), NO_ONE);
        }
        assert_eq!(lan.drops(DropReason::NotIp), 2);
    }
}

// Conforms: LINUX-no-forwarding
#[test]
fn a_port_without_a_network_is_silent() {
    let mut lan = Lan::new(2).with(|config| drop(config.endpoints.remove(1)));
    assert_eq!(lan.now, Time::ZERO);
    assert_eq!(lan.send(2, &frame(BROADCAST, mac(2))), NO_ONE);
    assert_eq!(lan.drops(DropReason::PortUnassigned), 1);
    assert_eq!(lan.send(1, &frame(BROADCAST, mac(1))), [0]);
    assert_eq!(
        lan.datapath
            .fdb(lan.now)
            .iter()
            .find(|row| row.port == PortId(2)),
        None
    );
}

#[test]
fn less_than_a_header_is_no_frame() {
    let mut lan = Lan::new(2).with(unguarded);
    for length in 1..14 {
        let short = &frame(mac(2), mac(1))[..length];
        assert_eq!(lan.send(1, short), NO_ONE, "{length} bytes");
        assert_eq!(lan.send(0, short), NO_ONE, "{length} bytes of the host");
    }
    assert_eq!(lan.drops(DropReason::Malformed), 26);
    assert_eq!(lan.send(1, &frame(mac(2), mac(1))[..14]), [2]);
}
