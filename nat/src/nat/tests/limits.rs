//! Time, exhaustion, quotas and eviction.

use super::*;

fn small(max_connections: usize, max_per_address: usize) -> Limits {
    Limits {
        max_connections,
        max_per_address,
        ..Limits::default()
    }
}

// Conforms: RFC4787-5 RFC4787-6
#[test]
fn rfc_4787_req_5_a_udp_mapping_lives_and_ends() {
    let mut world = World::new();
    let outside = world
        .out(&udp("10.0.0.2:4242", "192.0.2.9:5000", b""))
        .unwrap();
    let answer = packet(&outside.reversed());
    world.wait(120);
    assert!(world.inside(&answer).is_ok());
    // Not refreshed by the outside (REQ-6), so its time is up.
    world.wait(180);
    assert_eq!(world.inside(&answer), Err(Refused::NoMapping));
    assert_eq!(world.nat.len(), 0);
}

#[test]
fn a_published_port_that_only_listens_keeps_its_flow() {
    let mut world = World::new();
    world.publish(vec![rule(1, Protocol::UDP, 514..=514, "10.0.0.2:514")]);
    for _ in 0..5 {
        world
            .inside(&udp("192.0.2.9:5555", "198.51.100.1:514", b"log line"))
            .unwrap();
        world.wait(299);
    }
    assert_eq!(world.nat.stats().opened, 1);
}

// Conforms: RFC5508-2 RFC4787-5
#[test]
fn timeouts_of_dns_and_echo() {
    let world = World::new();
    world
        .out(&udp("10.0.0.2:4242", "192.0.2.9:53", b""))
        .unwrap();
    world.out(&echo("10.0.0.2", PEER, true, 7)).unwrap();
    let mut left: Vec<u64> = world
        .nat
        .connections(world.now)
        .iter()
        .map(|info| info.expires_in.as_secs())
        .collect();
    left.sort_unstable();
    assert_eq!(left, [30, 60]);
}

#[test]
fn expiry_frees_connections_and_ports_in_bounded_steps() {
    let mut world = World::new();
    for port in 1..=500 {
        world
            .out(&udp(&format!("10.0.0.2:{port}"), "192.0.2.9:5000", b""))
            .unwrap();
    }
    assert_eq!(world.nat.external_ports_free(Protocol::UDP), 500);
    world.wait(299);
    assert_eq!(world.nat.expire(world.now), 0);
    world.wait(1);
    assert!(
        world.nat.connections(world.now).is_empty(),
        "dead before they are swept"
    );
    let mut ended = 0;
    for _ in 0..16 {
        ended += world.nat.expire(world.now);
    }
    assert_eq!((ended, world.nat.len()), (500, 0));
    assert_eq!(world.nat.external_ports_free(Protocol::UDP), 1000);
    assert_eq!(world.nat.stats().ended, 500);
}

// Conforms: OVS-snat-exhaustion VPP-711 RFC5508-8 RFC6888-11
#[test]
fn udp_out_of_ports_is_refused_and_nothing_changes() {
    let world = World::with(Limits::default(), 61000..=61009);
    for host in 1..=10 {
        world
            .out(&udp(&format!("10.0.0.{host}:4242"), "192.0.2.9:5000", b""))
            .unwrap();
    }
    let more = udp("10.0.0.11:4242", "192.0.2.9:5000", b"");
    for _ in 0..100 {
        assert_eq!(world.out(&more), Err(Refused::PortsExhausted));
    }
    assert_eq!(world.nat.len(), 10);
    // One that has a mapping still reaches new peers.
    assert!(
        world
            .out(&udp("10.0.0.1:4242", "192.0.2.10:5000", b""))
            .is_ok()
    );
    // And the caller may add a block.
    world.nat.add_external_ports(Protocol::UDP, 62000..=62000);
    assert_eq!(world.out(&more).unwrap().src_port, 62000);
}

// Conforms: OVS-snat-port-range RFC4787-11
#[test]
fn tcp_out_of_ports_shares_them_among_peers() {
    let world = World::with(Limits::default(), 61000..=61009);
    let mut seen = std::collections::BTreeSet::new();
    for peer in 1..=20 {
        for host in 1..=10 {
            let syn = tcp(
                &format!("10.0.0.{host}:4242"),
                &format!("192.0.2.{peer}:80"),
                SYN,
                b"",
            );
            assert!(seen.insert(world.out(&syn).unwrap()));
        }
    }
    // Ten more hosts, without a port of their own.
    for peer in 21..=40 {
        for host in 11..=20 {
            let syn = tcp(
                &format!("10.0.0.{host}:4242"),
                &format!("192.0.2.{peer}:80"),
                SYN,
                b"",
            );
            let outside = world.out(&syn).unwrap();
            assert!(seen.insert(outside), "two flows look the same from outside");
            let back = world
                .inside(&packet_with(&outside.reversed(), SYN | ACK))
                .unwrap();
            assert_eq!(
                (back.dst, back.dst_port),
                (ip(&format!("10.0.0.{host}")), 4242)
            );
        }
        // Ten ports towards one peer are ten flows.
        let syn = tcp("10.0.0.21:4242", &format!("192.0.2.{peer}:80"), SYN, b"");
        assert_eq!(world.out(&syn), Err(Refused::PortsExhausted));
        // The owner of a port may find it taken by a sharer towards this peer.
        let syn = tcp("10.0.0.1:4242", &format!("192.0.2.{peer}:80"), SYN, b"");
        assert_eq!(world.out(&syn), Err(Refused::PortsExhausted));
    }
    assert_eq!(world.nat.stats().shared, 200);
    assert_eq!(world.nat.flush(world.now, |_| false), 400);
    assert_eq!(world.nat.external_ports_free(Protocol::TCP), 10);
}

#[test]
fn a_connection_that_is_over_gives_up_its_port_under_pressure() {
    let mut world = World::with(Limits::default(), 61000..=61000);
    let outside = world
        .out(&tcp("10.0.0.1:4242", "192.0.2.9:80", SYN, b""))
        .unwrap();
    let syn = tcp("10.0.0.2:4242", "192.0.2.9:80", SYN, b"");
    assert_eq!(world.out(&syn), Err(Refused::PortsExhausted));
    world
        .inside(&packet_with(&outside.reversed(), RST | ACK))
        .unwrap();
    // What the peer sent just before may still come in; to the same container it does no harm.
    assert_eq!(world.out(&syn), Err(Refused::PortsExhausted));
    let again = tcp("10.0.0.1:4243", "192.0.2.9:80", SYN, b"");
    let outside = world.out(&again).unwrap();
    assert_eq!(outside.src_port, 61000);
    world
        .inside(&packet_with(&outside.reversed(), RST | ACK))
        .unwrap();
    world.wait(1);
    assert_eq!(world.out(&syn).unwrap().src_port, 61000);
    let stats = world.nat.stats();
    assert_eq!((stats.connections, stats.ended, stats.shared), (1, 2, 0));
}

#[test]
fn without_ports_nothing_is_masqueraded() {
    let world = World {
        nat: Nat::new(Limits::default(), 1),
        now: Time::ZERO,
    };
    world.publish(vec![]);
    let sent = udp("10.0.0.2:4242", "192.0.2.9:53", b"");
    assert_eq!(world.out(&sent), Err(Refused::PortsExhausted));
    assert_eq!(world.nat.external_ports_free(Protocol::UDP), 0);
}

// Conforms: RFC6888-5
// Feature: quotas
#[test]
fn rfc_6888_req_4_an_address_has_its_quota() {
    let world = World::with(small(1000, 5), 61000..=61999);
    // One peer, so that all is in one shard and eviction sees it.
    for port in 1..=5 {
        let outside = world
            .out(&udp(&format!("10.0.0.2:{port}"), "192.0.2.9:5000", b""))
            .unwrap();
        world.inside(&packet(&outside.reversed())).unwrap();
    }
    let more = udp("10.0.0.2:6", "192.0.2.9:5000", b"");
    assert_eq!(world.out(&more), Err(Refused::QuotaExceeded));
    assert!(
        world.out(&udp("10.0.0.3:6", "192.0.2.9:5000", b"")).is_ok(),
        "others are not hit"
    );
    assert_eq!(world.nat.external_ports_free(Protocol::UDP), 994);
}

// Conforms: RFC6888-5
#[test]
fn a_flood_of_half_open_connections_costs_its_own_quota() {
    let world = World::with(small(1000, 5), 61000..=61999);
    world.publish(vec![rule(1, Protocol::TCP, 80..=80, "10.0.0.2:80")]);
    let syn = |port: u16| tcp(&format!("192.0.2.9:{port}"), "198.51.100.1:80", SYN, b"");
    let mut refused = 0;
    for port in 1..=1000 {
        refused += usize::from(world.inside(&syn(port)).is_err());
    }
    assert!(world.nat.len() <= 5);
    let evicted = world.nat.stats().evicted;
    assert_eq!(
        evicted as usize + refused,
        995,
        "each new one took the place of one, or had none"
    );
}

// Conforms: RFC6888-11 RFC5508-8
// Feature: kubernetes-71261
#[test]
fn a_full_table_evicts_the_half_open_of_the_greediest() {
    let world = World::with(small(10, 1000), 61000..=61999);
    // 8 half-open of one, 1 established and 1 half-open of another.
    for port in 1..=8 {
        world
            .out(&udp(&format!("10.0.0.2:{port}"), "192.0.2.9:5000", b""))
            .unwrap();
    }
    let kept = world
        .out(&udp("10.0.0.3:1", "192.0.2.9:5000", b""))
        .unwrap();
    world.inside(&packet(&kept.reversed())).unwrap();
    world
        .out(&udp("10.0.0.3:2", "192.0.2.9:5000", b""))
        .unwrap();
    for host in 4..=8 {
        world
            .out(&udp(&format!("10.0.0.{host}:1"), "192.0.2.9:5000", b""))
            .unwrap();
    }
    let count = |host: &str| {
        let all = world.nat.connections(world.now);
        all.iter().filter(|info| info.inside == ip(host)).count()
    };
    assert_eq!(
        (count("10.0.0.2"), count("10.0.0.3"), world.nat.len()),
        (3, 2, 10)
    );
    assert_eq!(world.nat.stats().evicted, 5);
}

// Conforms: RFC6888-11 RFC5508-8
// Feature: kubernetes-71261
#[test]
fn a_table_full_of_established_flows_refuses() {
    let world = World::with(small(3, 1000), 61000..=61999);
    for port in 1..=3 {
        let outside = world
            .out(&udp(&format!("10.0.0.2:{port}"), "192.0.2.9:5000", b""))
            .unwrap();
        world.inside(&packet(&outside.reversed())).unwrap();
    }
    let more = udp("10.0.0.3:1", "192.0.2.9:5000", b"");
    assert_eq!(world.out(&more), Err(Refused::TableFull));
    assert_eq!(world.nat.external_ports_free(Protocol::UDP), 997);
}

// Feature: nat-state
#[test]
fn timeouts_can_be_set() {
    let timeouts = Timeouts {
        udp: Duration::from_secs(1),
        ..Timeouts::default()
    };
    let limits = Limits {
        timeouts,
        ..Limits::default()
    };
    let mut world = World::with(limits, 61000..=61999);
    world
        .out(&udp("10.0.0.2:1", "192.0.2.9:5000", b""))
        .unwrap();
    world.wait(1);
    assert!(world.nat.connections(world.now).is_empty());
    assert_eq!(world.nat.limits().timeouts.udp, Duration::from_secs(1));
}

#[test]
fn a_shared_port_whose_last_holder_gives_way_is_free_to_be_owned() {
    let mut world = World::with(Limits::default(), 61000..=61000);
    let syn = |src: &str, dst: &str| tcp(src, dst, SYN, b"");
    let owner = world.out(&syn("10.0.0.2:4242", "192.0.2.9:80")).unwrap();
    world.out(&syn("10.0.0.3:4242", "192.0.2.10:80")).unwrap();
    world.wait(240);
    // The owner's connection is swept by this packet, the sharer's gives way to the new one.
    let late = packet(&owner.reversed());
    assert_eq!(world.inside(&late), Err(Refused::NoMapping));
    world.out(&syn("10.0.0.2:4242", "192.0.2.10:80")).unwrap();
    assert_eq!(world.nat.len(), 1);
    assert_eq!(world.nat.external_ports_free(Protocol::TCP), 0);
    assert_eq!(world.nat.stats().shared, 1);
    world.nat.flush(world.now, |_| false);
    assert_eq!(world.nat.external_ports_free(Protocol::TCP), 1);
}

#[test]
fn a_port_that_becomes_free_for_nobody_is_not_shared() {
    let limits = Limits {
        max_ports_per_address: 1,
        ..Limits::default()
    };
    let mut world = World::with(limits, 61000..=61001);
    let dial = |world: &World, src| world.out(&tcp(src, "192.0.2.9:80", SYN, b""));
    dial(&world, "10.0.0.2:1").unwrap();
    dial(&world, "10.0.0.3:1").unwrap();
    world.wait(200);
    dial(&world, "10.0.0.2:1").unwrap();
    world.wait(100);
    dial(&world, "10.0.0.2:1").unwrap();
    // The other's expired connection gives way, and leaves a port that this address may not have.
    assert_eq!(dial(&world, "10.0.0.2:2"), Err(Refused::QuotaExceeded));
    assert_eq!(world.nat.external_ports_free(Protocol::TCP), 1);
    dial(&world, "10.0.0.3:2").unwrap();
    assert_eq!(world.nat.external_ports_free(Protocol::TCP), 0);
}

// Conforms: RFC6888-4
// Feature: quotas
#[test]
fn rfc_6888_req_4_an_address_has_a_quota_of_external_ports() {
    let limits = Limits {
        max_ports_per_address: 3,
        ..Limits::default()
    };
    let world = World::with(limits, 61000..=61999);
    for port in 1..=3 {
        let outside = world
            .out(&udp(&format!("10.0.0.2:{port}"), "192.0.2.9:5000", b""))
            .unwrap();
        world.inside(&packet(&outside.reversed())).unwrap();
    }
    let more = udp("10.0.0.2:4", "192.0.2.9:5000", b"");
    assert_eq!(world.out(&more), Err(Refused::QuotaExceeded));
    let ping = echo("10.0.0.2", PEER, true, 7);
    assert_eq!(world.out(&ping), Err(Refused::QuotaExceeded));
    // From a port that has a mapping it reaches everybody, and others are not hit.
    for peer in 10..20 {
        let known = udp("10.0.0.2:1", &format!("192.0.2.{peer}:5000"), b"");
        assert!(world.out(&known).is_ok());
    }
    assert!(world.out(&udp("10.0.0.3:4", "192.0.2.9:5000", b"")).is_ok());
    // TCP shares a port that is in use, if there is one.
    let syn = |src: &str, peer: &str| world.out(&tcp(src, peer, SYN, b""));
    assert_eq!(
        syn("10.0.0.2:4", "192.0.2.9:80"),
        Err(Refused::QuotaExceeded)
    );
    let owner = syn("10.0.0.3:4", "192.0.2.9:80").unwrap();
    assert_eq!(
        syn("10.0.0.2:4", "192.0.2.9:80"),
        Err(Refused::QuotaExceeded),
        "towards this peer it is taken"
    );
    let mut got = None;
    for _ in 0..50 {
        got = got.or(syn("10.0.0.2:4", "192.0.2.10:80").ok());
    }
    assert_eq!(got.unwrap().src_port, owner.src_port);
    assert_eq!(world.nat.external_ports_free(Protocol::TCP), 999);
    // With its flows it gives the ports back.
    world.nat.forget(world.now, ip("10.0.0.2"));
    assert!(world.out(&more).is_ok());
    world.nat.flush(world.now, |_| false);
    assert_eq!(world.nat.external_ports_free(Protocol::TCP), 1000);
    assert_eq!(world.nat.external_ports_free(Protocol::UDP), 1000);
    assert_eq!(world.nat.ledger.lock().holders(), 0);
}

// Conforms: RFC6888-5 RFC4787-11 OVS-limit-by-endpoint
// Feature: quotas
#[test]
fn one_greedy_endpoint_never_makes_another_s_new_flow_fail() {
    // All its flows in one shard, or in all of them.
    for peers in [1, 200] {
        let world = World::with(small(2000, 1500), 61000..=65535);
        // Quiet ones hold established flows, and one each that nobody has answered yet.
        for host in 100..150 {
            let inside = format!("10.0.0.{host}:1");
            let outside = world.out(&udp(&inside, "192.0.2.9:5000", b"")).unwrap();
            world.inside(&packet(&outside.reversed())).unwrap();
            world.out(&udp(&inside, "192.0.2.9:5001", b"")).unwrap();
        }
        let mut port = 0;
        let mut flood = |count: usize| {
            for _ in 0..count {
                port += 1;
                let peer = format!("203.0.113.{}:5000", port % peers);
                _ = world.out(&udp(&format!("10.0.0.2:{}", 1 + port % 4000), &peer, b""));
            }
        };
        flood(4000);
        for host in 3..60 {
            flood(20);
            for peer in 0..5 {
                let inside = format!("10.0.0.{host}:1");
                let peer = format!("192.0.2.{peer}:5000");
                let opened = world.out(&udp(&inside, &peer, b""));
                assert!(opened.is_ok(), "{inside} to {peer}: {opened:?}");
                flood(3);
                assert!(world.out(&udp(&inside, &peer, b"")).is_ok());
            }
            assert!(world.nat.len() <= 2000);
        }
        // The quiet ones have lost nothing.
        let all = world.nat.connections(world.now);
        for host in 100..150 {
            let inside = ip(&format!("10.0.0.{host}"));
            assert_eq!(all.iter().filter(|it| it.inside == inside).count(), 2);
        }
        assert!(world.nat.stats().evicted > 200);
    }
}

// Conforms: RFC6888-4 RFC4787-11 OVS-snat-exhaustion
#[test]
fn nor_by_taking_all_the_ports() {
    let world = World::with(small(100_000, 50_000), 61000..=61999);
    let flood = |from: u16| {
        for port in from..from + 1500 {
            _ = world.out(&udp(&format!("10.0.0.2:{port}"), "192.0.2.9:5000", b""));
        }
    };
    flood(1);
    // Eight ninths of all.
    assert_eq!(world.nat.external_ports_free(Protocol::UDP), 111);
    for host in 3..50 {
        let sent = udp(&format!("10.0.0.{host}:1"), "192.0.2.9:5000", b"");
        let outside = world.out(&sent).unwrap();
        flood(2000 + host * 200);
        assert_eq!(world.out(&sent), Ok(outside));
    }
    let stats = world.nat.stats();
    assert_eq!((stats.recycled, stats.evicted, stats.shared), (0, 0, 0));
}

#[test]
fn the_greedy_share_what_there_is_and_leave_some() {
    let world = World::with(small(100_000, 50_000), 61000..=61999);
    for port in 1..=1000 {
        for host in 2..6 {
            let sent = udp(&format!("10.0.0.{host}:{port}"), "192.0.2.9:5000", b"");
            _ = world.out(&sent);
        }
    }
    let all = world.nat.connections(world.now);
    for host in 2..6 {
        let inside = ip(&format!("10.0.0.{host}"));
        let held = all.iter().filter(|it| it.inside == inside).count();
        assert!((230..=250).contains(&held), "{inside} has {held}");
    }
    assert!(world.nat.external_ports_free(Protocol::UDP) >= 30);
}

#[test]
fn udp_shares_ports_among_peers_when_there_are_few() {
    let world = World::with(Limits::default(), 61000..=61003);
    let mut seen = std::collections::BTreeSet::new();
    for peer in 1..=10 {
        for host in 1..=4 {
            let sent = udp(
                &format!("10.0.0.{host}:4242"),
                &format!("192.0.2.{peer}:5000"),
                b"",
            );
            assert!(seen.insert(world.out(&sent).unwrap()));
        }
    }
    assert_eq!(world.nat.stats().shared, 0, "a mapping serves all peers");
    for peer in 11..=20 {
        for host in 5..=8 {
            let inside = format!("10.0.0.{host}:4242");
            let sent = udp(&inside, &format!("192.0.2.{peer}:5000"), b"");
            let outside = world.out(&sent).unwrap();
            assert!(seen.insert(outside), "two flows look the same from outside");
            let back = world.inside(&packet(&outside.reversed())).unwrap();
            assert_eq!((back.dst, back.dst_port), (ip(&inside[..8]), 4242));
        }
    }
    assert_eq!(world.nat.stats().shared, 40);
}

#[test]
fn no_port_changes_hands_while_an_answer_may_be_in_flight() {
    // Neither for want of ports, ...
    let mut world = World::with(Limits::default(), 61000..=61007);
    for port in 1..=8 {
        for host in 2..4 {
            _ = world.out(&udp(
                &format!("10.0.0.{host}:{port}"),
                "192.0.2.9:5000",
                b"",
            ));
        }
    }
    let more = udp("10.0.0.4:1", "192.0.2.9:5000", b"");
    let newcomer = world.out(&more);
    let answers = |world: &World| {
        for flow in world.nat.connections(world.now) {
            let back = world.inside(&packet(&flow.reply)).unwrap();
            let asked = (flow.original.src, flow.original.src_port);
            assert_eq!((back.dst, back.dst_port), asked);
        }
    };
    assert_eq!(world.nat.stats().recycled, 0);
    assert!(newcomer.is_ok() || newcomer == Err(Refused::PortsExhausted));
    answers(&world);
    // ... nor because the table is full, ...
    for (is_full, limits) in [(true, small(4, 1000)), (false, Limits::default())] {
        world = World::with(limits, 61000..=61003 + 2 * u16::from(is_full));
        let first: Vec<_> = (1..=4)
            .map(|port| {
                let sent = udp(&format!("10.0.0.2:{port}"), "192.0.2.9:5000", b"");
                world.out(&sent).unwrap()
            })
            .collect();
        // ... nor because the container is no more.
        if !is_full {
            world.nat.forget(world.now, ip("10.0.0.2"));
        }
        let next = |port: u64| udp(&format!("10.0.0.3:{port}"), "192.0.2.9:5000", b"");
        if is_full {
            for port in 0..2 {
                world.out(&next(port)).unwrap();
            }
            assert_eq!(world.nat.stats().evicted, 2);
        }
        for second in 0..30 {
            assert!(world.out(&next(100 + second)).is_err());
            let inside = world.nat.connections(world.now);
            for flow in inside.iter().filter(|flow| flow.inside == ip("10.0.0.3")) {
                assert!(first.iter().all(|late| late.reversed() != flow.reply));
            }
            world.wait(1);
        }
        assert!(
            world.out(&next(99)).is_ok(),
            "by now no answer comes any more"
        );
    }
}

#[test]
fn a_flow_that_nobody_has_answered_gives_up_its_port_in_time() {
    let mut world = World::with(Limits::default(), 61000..=61000);
    world
        .out(&udp("10.0.0.2:1", "192.0.2.9:5000", b""))
        .unwrap();
    let other = udp("10.0.0.3:1", "192.0.2.9:5000", b"");
    world.wait(29);
    assert_eq!(world.out(&other), Err(Refused::PortsExhausted));
    world.wait(1);
    // Not one of somebody who would then have less.
    assert_eq!(world.out(&other), Err(Refused::PortsExhausted));
    world
        .out(&udp("10.0.0.2:1", "192.0.2.10:5000", b""))
        .unwrap();
    let own = udp("10.0.0.2:2", "192.0.2.9:5000", b"");
    assert_eq!(world.out(&own), Err(Refused::QuotaExceeded));
}

#[test]
fn ports_that_the_host_takes_back_end_their_flows_and_are_given_no_more() {
    let mut world = World::with(Limits::default(), 61000..=61009);
    let send = |world: &World, host: u8| {
        world.out(&udp(&format!("10.0.0.{host}:1"), "192.0.2.9:5000", b""))
    };
    for host in 1..=10 {
        send(&world, host).unwrap();
    }
    let ended = world
        .nat
        .remove_external_ports(world.now, Protocol::UDP, &(61003..=61005));
    assert_eq!(ended, 3);
    assert_eq!(world.nat.external_ports_free(Protocol::UDP), 0);
    assert_eq!(world.nat.len(), 7);
    for host in 1..=20 {
        if let Ok(outside) = send(&world, host) {
            assert!(!(61003..=61005).contains(&outside.src_port));
        }
    }
    // Of another protocol they stay.
    assert_eq!(world.nat.external_ports_free(Protocol::TCP), 10);
    world.nat.add_external_ports(Protocol::UDP, 61004..=61004);
    world.wait(30);
    let outside = world.out(&udp("10.0.0.30:1", "192.0.2.9:5000", b""));
    assert_eq!(outside.unwrap().src_port, 61004);
    world.nat.flush(world.now, |_| false);
    assert_eq!(world.nat.external_ports_free(Protocol::UDP), 8);
}

#[test]
fn an_address_whose_searches_fail_is_refused_without_one() {
    let mut world = World::with(Limits::default(), 61000..=61000);
    world
        .out(&udp("10.0.0.2:1", "192.0.2.9:5000", b""))
        .unwrap();
    for port in 2..1000 {
        let sent = udp(&format!("10.0.0.2:{port}"), "192.0.2.9:5000", b"");
        assert!(world.out(&sent).is_err());
    }
    let ledger = || world.nat.ledger.lock();
    assert!(!ledger().may_search(world.now, ip("10.0.0.2")));
    assert!(ledger().may_search(world.now, ip("10.0.0.3")));
    world.wait(1);
    assert!(
        world
            .nat
            .ledger
            .lock()
            .may_search(world.now, ip("10.0.0.2"))
    );
}

#[test]
fn a_flood_from_outside_is_bounded_for_each_published_port() {
    let mut world = World::new();
    world.publish(vec![
        rule(1, Protocol::TCP, 80..=80, "10.0.0.2:80"),
        rule(2, Protocol::TCP, 81..=81, "10.0.0.2:81"),
    ]);
    let syn = |host: u16, port: u16| {
        let from = format!("203.0.{}.{}:{}", host / 200, 1 + host % 200, 1024 + host);
        tcp(&from, &format!("198.51.100.1:{port}"), SYN, b"")
    };
    let half_open = |world: &World| {
        let all = world.nat.connections(world.now);
        all.iter()
            .filter(|flow| flow.original.dst_port == 80)
            .count()
    };
    // What is completed does not count.
    for host in 0..5000 {
        let client = world.inside(&syn(host, 80)).unwrap();
        world
            .out(&packet_with(&client.reversed(), SYN | ACK))
            .unwrap();
        let from = format!("203.0.{}.{}:{}", host / 200, 1 + host % 200, 1024 + host);
        let ack = tcp(&from, "198.51.100.1:80", ACK, b"");
        world.inside(&ack).unwrap();
    }
    let before = half_open(&world);
    assert_eq!(before, 5000);
    let mut refused = 0;
    for host in 5000..20_000 {
        match world.inside(&syn(host, 80)) {
            Err(Refused::TooManyHalfOpen) => refused += 1,
            other => assert!(other.is_ok(), "{other:?}"),
        }
    }
    assert!(refused > 9000, "{refused}");
    assert!(half_open(&world) <= before + 4096);
    // Another port is not hit, and some get in here, too.
    assert!((0..1000).all(|host| world.inside(&syn(host, 81)).is_ok()));
    world.wait(1);
    assert!(world.inside(&syn(30_000, 80)).is_ok());
}
