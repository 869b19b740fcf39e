//! Invariants under any sequence of packets, time steps and rule changes, any bytes, and several
//! threads.

use std::collections::HashMap;

use super::*;

/// Publish rules picked by the bits of `which`, with ids that are never used again.
fn some_rules(which: u64, generation: u32) -> Vec<Publish> {
    let protocol = |at: u64| {
        if at.is_multiple_of(2) {
            Protocol::TCP
        } else {
            Protocol::UDP
        }
    };
    (0..8u64)
        .filter(|at| which >> at & 1 == 1)
        .map(|at| {
            let first = 8000 + at as u16 * 10;
            let to = format!("10.0.0.{}:{}", at % 4 + 1, 80 + at * 100);
            rule(
                generation * 8 + at as u32,
                protocol(at),
                first..=first + 9,
                &to,
            )
        })
        .collect()
}

#[test]
fn invariants_hold_under_any_sequence() {
    for seed in 0..8 {
        walk(seed);
    }
}

/// A random walk, with after each step: whatever goes out can be answered, the answer comes to its
/// sender, and external endpoints belong to one inside endpoint towards one peer.
fn walk(seed: u64) {
    let mut prng = Prng(seed);
    let limits = Limits {
        max_connections: 60,
        max_per_address: 25,
        ..Limits::default()
    };
    let mut world = World::with(limits, 61000..=61039);
    for generation in 1..=4000 {
        let inside = format!("10.0.0.{}:{}", prng.below(6) + 1, 80 + prng.below(12) * 100);
        let peer = format!("192.0.2.{}:{}", prng.below(4) + 1, 5000 + prng.below(4));
        let host = format!("{HOST}:{}", 8000 + prng.below(90));
        let flags = [SYN, ACK, SYN | ACK, FIN | ACK, RST, RST | ACK][prng.below(6)];
        let is_tcp = prng.below(2) == 0;
        let make = |src: &str, dst: &str| {
            if is_tcp {
                tcp(src, dst, flags, b"x")
            } else {
                udp(src, dst, b"x")
            }
        };
        match prng.below(40) {
            0 => world.publish(some_rules(prng.next(), generation)),
            1 => _ = world.nat.forget(world.now, socket(&inside).ip()),
            2 => _ = world.nat.expire(world.now),
            3 => world.wait(prng.below(400) as u64),
            4..=25 => {
                let sent = make(&inside, &peer);
                let tuple = Packet::parse(&mut sent.clone(), Checksum::Complete)
                    .unwrap()
                    .tuple();
                if let Ok(outside) = world.out(&sent) {
                    let back = world.inside(&packet(&outside.reversed())).unwrap();
                    assert_eq!(Some(back.reversed()), tuple);
                }
            }
            26..=32 => {
                let sent = make(&peer, &host);
                let tuple = Packet::parse(&mut sent.clone(), Checksum::Complete)
                    .unwrap()
                    .tuple();
                if let Ok(inside) = world.inside(&sent) {
                    let back = world.out(&packet(&inside.reversed())).unwrap();
                    assert_eq!(Some(back.reversed()), tuple);
                }
            }
            _ => {
                let sent = make(&inside, &host);
                let tuple = Packet::parse(&mut sent.clone(), Checksum::Complete)
                    .unwrap()
                    .tuple();
                if let Ok(inside) = world.hairpin(&sent) {
                    let back = world.hairpin(&packet(&inside.reversed())).unwrap();
                    assert_eq!(Some(back.reversed()), tuple);
                }
            }
        }
        if generation % 50 == 0 {
            check(&world);
        }
    }
    let stats = world.nat.stats();
    assert_eq!(stats.connections, world.nat.len());
    assert!(
        stats.opened > 100 && stats.evicted > 0,
        "the walk went somewhere: {stats:?}"
    );
    world.nat.flush(world.now, |_| false);
    for protocol in [Protocol::TCP, Protocol::UDP] {
        assert_eq!(world.nat.external_ports_free(protocol), 40, "a port leaked");
    }
    assert!(world.nat.is_empty());
    assert_eq!(world.nat.ledger.lock().holders(), 0);
}

fn check(world: &World) {
    let connections = world.nat.connections(world.now);
    assert!(world.nat.len() <= 60);
    let mut tuples = HashMap::new();
    let rules = world.nat.rules();
    for info in &connections {
        for tuple in [info.original, info.reply] {
            assert!(
                tuples.insert(tuple, ()).is_none(),
                "{tuple} is in the table twice"
            );
        }
        match info.kind {
            Kind::Publish(id) | Kind::Hairpin(id) => {
                assert!(rules.publish.iter().any(|rule| rule.id == id));
            }
            Kind::Masquerade | Kind::Routed | Kind::HairpinMapped => (),
        }
    }
}

// Conforms: CVE-2020-1983
#[test]
fn no_bytes_make_it_panic() {
    let world = World::new();
    world.publish(some_rules(u64::MAX, 1));
    let mut prng = Prng(11);
    let sent = udp("10.0.0.2:80", "192.0.2.9:5000", b"query");
    let (_, _, outside) = world.translate(World::outbound(), &sent).unwrap();
    let seeds = [
        tcp("10.0.0.2:4242", "192.0.2.9:80", SYN, b"abc"),
        tcp("192.0.2.9:80", "198.51.100.1:8000", ACK, b"abc"),
        udp("[fd00::2]:4242", "[2001:db8::9]:53", b"abc"),
        echo("10.0.0.2", PEER, true, 1),
        unreachable(PEER, HOST, &outside, 1000),
        unreachable(
            "2001:db8::9",
            HOST6,
            &udp("[fd00::2]:1", "[2001:db8::9]:5", b"abc"),
            1000,
        ),
        outside,
    ];
    for round in 0..200_000 {
        let mut bytes = seeds[prng.below(seeds.len())].clone();
        for _ in 0..prng.below(6) {
            let at = prng.below(bytes.len());
            bytes[at] = prng.next() as u8;
        }
        if round % 3 == 0 {
            let length = prng.below(bytes.len() + 1);
            bytes.truncate(length);
            if length > 4 {
                bytes[3] = length as u8;
            }
        }
        let checksum = if round % 2 == 0 {
            Checksum::Complete
        } else {
            Checksum::Partial
        };
        let before = bytes.clone();
        let Ok(mut packet) = Packet::parse(&mut bytes, checksum) else {
            continue;
        };
        let path = match prng.below(4) {
            0 => World::outbound(),
            1 => Path::Outbound {
                external: ip(HOST6),
            },
            2 => Path::Inbound,
            _ => Path::Hairpin,
        };
        if world.nat.translate(world.now, path, &mut packet).is_err() {
            assert_eq!(bytes, before);
        }
    }
}

// Conforms: LINUX-conntrack-clash
#[test]
fn several_threads_lose_nothing() {
    let world = World::new();
    std::thread::scope(|scope| {
        for thread in 0..4u64 {
            let world = &world;
            scope.spawn(move || {
                let mut prng = Prng(thread);
                for step in 0..3000 {
                    let host = prng.below(8) + 1;
                    let inside = format!("10.0.0.{host}:{}", prng.below(200) + 1);
                    let peer = format!("192.0.2.{}:{}", prng.below(8) + 1, 5000);
                    match step % 500 {
                        499 if thread == 0 => world.publish(some_rules(prng.next(), step)),
                        498 => _ = world.nat.forget(world.now, socket(&inside).ip()),
                        497 => _ = world.nat.expire(world.now),
                        496 => _ = world.nat.connections(world.now),
                        _ if step % 3 == 0 => {
                            _ = world.hairpin(&udp(&inside, "198.51.100.1:8015", b""));
                        }
                        _ => _ = world.out(&udp(&inside, &peer, b"")),
                    }
                }
            });
        }
    });
    let live = world.nat.connections(world.now).len();
    assert_eq!(live, world.nat.len());
    assert_eq!(world.nat.flush(world.now, |_| false), live);
    assert_eq!(world.nat.external_ports_free(Protocol::UDP), 1000);
    assert_eq!(world.nat.ledger.lock().holders(), 0);
}
