//! Connections from one engine to the next.

use super::*;
use crate::conntrack::{RECORD, Record};

/// What the clock showed when the first engine began, and the second one.
const BEGAN: u64 = 5_000_000_000;
const BEGAN_AGAIN: u64 = 35_000_000_000;

/// Everybody inside is who they were.
fn same(address: IpAddr) -> Option<u64> {
    let inside = match address {
        IpAddr::V4(address) => address.octets()[0] == 10,
        IpAddr::V6(address) => address.octets()[0] == 0xfd,
    };
    inside.then_some(7)
}

/// A store in memory.
#[derive(Default)]
struct Store(std::collections::BTreeMap<u64, Record>);

impl Store {
    /// What the engine would tell of at a look at everything.
    fn whole(world: &World) -> Store {
        let mut store = Store::default();
        store.take(world, 1);
        store
    }

    fn take(&mut self, world: &World, part: usize) -> usize {
        let mut changes = Vec::new();
        world.nat.store(world.now, BEGAN, part, same, &mut changes);
        let count = changes.len();
        for change in changes {
            self.0.insert(change.place, change.record);
        }
        count
    }

    fn live(&self) -> usize {
        self.0
            .values()
            .filter(|record| **record != [0; RECORD])
            .count()
    }

    fn restore_to(&self, world: &World) -> Restored {
        world
            .nat
            .restore(world.now, BEGAN_AGAIN, self.0.values(), same)
    }
}

fn publish() -> Vec<Publish> {
    vec![rule(3, Protocol::TCP, 8080..=8080, "10.0.0.2:80")]
}

/// An engine with a connection of every kind, each established, and the packets that go on with
/// them: the path and the packet, and what becomes of it.
fn world_with_all() -> (World, Vec<(Path, Vec<u8>, Tuple)>) {
    let world = World::new();
    world.publish(publish());
    let mut going = Vec::new();
    let mut open = |path: Path, back: Path, src: &str, dst: &str| {
        let there = |flags, payload: &[u8]| tcp(src, dst, flags, payload);
        let (_, sent, _) = world.translate(path, &there(SYN, b"")).unwrap();
        let sent = sent.unwrap();
        let answer = packet_with(&sent.reversed(), SYN | ACK);
        world.translate(back, &answer).unwrap();
        world.translate(path, &there(ACK, b"")).unwrap();
        going.push((path, there(ACK, b"more"), sent));
        let answer = packet(&sent.reversed());
        let (_, received, _) = world.translate(back, &answer).unwrap();
        going.push((back, answer, received.unwrap()));
    };
    let out = World::outbound();
    open(out, Path::Inbound, "10.0.0.2:4242", "192.0.2.9:80");
    let out6 = Path::Outbound {
        external: ip(HOST6),
    };
    open(out6, Path::Inbound, "[fd00::2]:4242", "[2001:db8:9::9]:80");
    open(Path::Inbound, out, "192.0.2.9:5555", "198.51.100.1:8080");
    open(
        Path::Hairpin,
        Path::Hairpin,
        "10.0.0.3:999",
        "198.51.100.1:8080",
    );
    open(out, Path::Inbound, "10.9.9.9:1", "192.0.2.77:80");
    let question = udp("10.0.0.5:53000", "192.0.2.9:4500", b"data");
    let sent = world.out(&question).unwrap();
    let answer = packet(&sent.reversed());
    let received = world.inside(&answer).unwrap();
    going.push((out, question, sent));
    going.push((Path::Inbound, answer, received));
    let question = echo("10.0.0.5", PEER, true, 77);
    let sent = world.out(&question).unwrap();
    let answer = packet(&sent.reversed());
    let received = world.inside(&answer).unwrap();
    going.push((Path::Inbound, answer, received));
    (world, going)
}

/// A world after a restart, in which rules have other numbers and the clock began again.
fn next_world() -> World {
    let world = World::new();
    world.publish(vec![rule(1, Protocol::TCP, 8080..=8080, "10.0.0.2:80")]);
    world
}

#[test]
fn connections_of_every_kind_go_on_with_the_same_tuples() {
    let (world, going) = world_with_all();
    let store = Store::whole(&world);
    assert_eq!(store.live(), 7, "{:#?}", world.nat.connections(world.now));
    let next = next_world();
    let restored = store.restore_to(&next);
    assert_eq!((restored.kept, restored.dropped()), (7, 0), "{restored:?}");
    for (path, bytes, expected) in &going {
        let (translated, tuple, _) = next.translate(*path, bytes).unwrap();
        assert_eq!(tuple.unwrap(), *expected, "{path:?}");
        assert!(!translated.new, "{path:?} {expected}");
    }
    assert_eq!(next.nat.stats().out_of_window, 0);
    let mut connections = next.nat.connections(next.now);
    connections.retain(|it| it.original.protocol == Protocol::TCP);
    assert!(connections.iter().all(|it| it.state == "established"));
    // The publish rule's number is the one of today.
    assert!(connections.iter().any(|it| it.kind == Kind::Publish(1)));
    assert!(connections.iter().any(|it| it.kind == Kind::Hairpin(1)));
    // Ports are held by whom they were: all end, and all are free.
    assert!(next.nat.external_ports_free(Protocol::TCP) < 1000);
    next.nat.flush(next.now, |_| false);
    assert_eq!(next.nat.external_ports_free(Protocol::TCP), 1000);
    assert_eq!(next.nat.len(), 0);
}

#[test]
fn an_endpoint_keeps_its_one_port_for_all_its_connections() {
    let world = World::new();
    let mut outside = Vec::new();
    for peer in ["192.0.2.9:4500", "192.0.2.10:4500", "192.0.2.11:4500"] {
        let sent = world.out(&udp("10.0.0.5:53000", peer, b"data")).unwrap();
        world.inside(&packet(&sent.reversed())).unwrap();
        outside.push(sent.src_port);
    }
    let next = next_world();
    assert_eq!(Store::whole(&world).restore_to(&next).kept, 3);
    let sent = next
        .out(&udp("10.0.0.5:53000", "192.0.2.12:9", b""))
        .unwrap();
    assert_eq!(outside, [sent.src_port; 3]);
    assert_eq!(next.nat.external_ports_free(Protocol::UDP), 999);
}

#[test]
fn a_shared_port_is_shared_again_in_either_order() {
    let world = World::with(Limits::default(), 61000..=61000);
    for (src, dst) in [
        ("10.0.0.2:1", "192.0.2.1:80"),
        ("10.0.0.3:1", "192.0.2.2:80"),
    ] {
        let sent = world.out(&tcp(src, dst, SYN, b"")).unwrap();
        world
            .inside(&packet_with(&sent.reversed(), SYN | ACK))
            .unwrap();
        world.out(&tcp(src, dst, ACK, b"")).unwrap();
    }
    let store = Store::whole(&world);
    let records: Vec<&Record> = store.0.values().filter(|it| **it != [0; RECORD]).collect();
    for order in [[0, 1], [1, 0]] {
        let next = World::with(Limits::default(), 61000..=61000);
        let records = order.map(|at| records[at]);
        let restored = next.nat.restore(next.now, BEGAN_AGAIN, records, same);
        assert_eq!(restored.kept, 2, "{restored:?}");
        next.nat.flush(next.now, |_| false);
        assert_eq!(next.nat.external_ports_free(Protocol::TCP), 1);
    }
}

/// A connection that moves gigabytes while its record is old must not be marked after it.
#[test]
fn windows_of_long_ago_are_no_measure() {
    let (world, _) = world_with_all();
    let store = Store::whole(&world);
    let next = next_world();
    store.restore_to(&next);
    let late = |sequence, acknowledgement| {
        let (src, dst) = ("10.0.0.2:4242", "192.0.2.9:80");
        testing_tcp(src, dst, sequence, acknowledgement)
    };
    let sent = next.out(&late(3_000_000_000, 1_500_000_000)).unwrap();
    let [from, to] = [(sent.dst, sent.dst_port), (sent.src, sent.src_port)]
        .map(|it| std::net::SocketAddr::from(it).to_string());
    let answer = testing_tcp(&from, &to, 1_500_000_000, 3_000_000_004);
    next.inside(&answer).unwrap();
    next.out(&late(3_000_000_004, 1_500_000_004)).unwrap();
    assert_eq!(next.nat.stats().out_of_window, 0);
    // From then on there is a measure.
    next.out(&late(7, 7)).unwrap();
    assert_eq!(next.nat.stats().out_of_window, 1);
}

fn testing_tcp(src: &str, dst: &str, sequence: u32, acknowledgement: u32) -> Vec<u8> {
    tcp_numbered(src, dst, ACK, sequence, acknowledgement, b"data")
}

#[test]
fn a_half_closed_connection_ends_as_it_would_have() {
    let world = World::new();
    let (src, dst) = ("10.0.0.2:4242", "192.0.2.9:80");
    let sent = world.out(&tcp(src, dst, SYN, b"")).unwrap();
    let back = |flags, sequence, acknowledgement| {
        let (from, to) = ((sent.dst, sent.dst_port), (sent.src, sent.src_port));
        let [from, to] = [from, to].map(|it| std::net::SocketAddr::from(it).to_string());
        tcp_numbered(&from, &to, flags, sequence, acknowledgement, b"")
    };
    world.inside(&back(SYN | ACK, 1000, 1001)).unwrap();
    world.out(&tcp(src, dst, ACK, b"")).unwrap();
    world.out(&tcp(src, dst, FIN | ACK, b"")).unwrap();
    world.inside(&back(ACK, 1001, 1002)).unwrap();
    assert_eq!(world.state(), "fin-wait");
    let next = next_world();
    assert_eq!(Store::whole(&world).restore_to(&next).kept, 1);
    assert_eq!(next.state(), "fin-wait");
    next.inside(&back(FIN | ACK, 1001, 1002)).unwrap();
    next.out(&tcp_numbered(src, dst, ACK, 1002, 1002, b""))
        .unwrap();
    assert_eq!(next.state(), "time-wait");
}

#[test]
fn what_is_opening_or_over_is_not_stored() {
    let (world, _) = world_with_all();
    world
        .out(&tcp("10.0.0.6:1", "192.0.2.9:80", SYN, b""))
        .unwrap();
    world.out(&udp("10.0.0.6:1", "192.0.2.9:80", b"")).unwrap();
    assert_eq!(Store::whole(&world).live(), 7);
    assert_eq!(world.nat.flush(world.now, |_| false), 9);
    assert_eq!(Store::whole(&world).live(), 0);
}

/// Between two looks at everything the changes are told of, and they alone.
#[test]
fn openings_and_ends_are_told_of_at_the_next_call() {
    let world = World::new();
    let mut store = Store::default();
    let part = 1_000_000;
    store.take(&world, part);
    let open = |port: u16| {
        let src = format!("10.0.0.2:{port}");
        let sent = world.out(&udp(&src, "192.0.2.9:4500", b"data")).unwrap();
        (src, sent)
    };
    for port in 1..=200 {
        let (_, sent) = open(port);
        world.inside(&packet(&sent.reversed())).unwrap();
    }
    store.take(&world, part);
    assert_eq!(store.live(), 200);
    assert!(store.take(&world, part) <= SHARDS, "nothing has changed");
    // One that is answered later is looked at a second time.
    let (_, sent) = open(999);
    store.take(&world, part);
    assert_eq!(store.live(), 200);
    world.inside(&packet(&sent.reversed())).unwrap();
    store.take(&world, part);
    assert_eq!(store.live(), 201);
    world.nat.forget(world.now, ip("10.0.0.2"));
    store.take(&world, part);
    assert_eq!(store.live(), 0);
}

/// What a flood makes too many to note is found by the round.
#[test]
fn a_round_of_calls_finds_what_was_not_noted() {
    let mut world = World::new();
    let mut store = Store::default();
    store.take(&world, 16);
    world.publish(vec![rule(1, Protocol::UDP, 9..=9, "10.0.0.2:9")]);
    for port in 1..=40_000u16 {
        let src = format!("192.0.2.9:{port}");
        let inside = world.inside(&udp(&src, "198.51.100.1:9", b"data")).unwrap();
        world.out(&packet(&inside.reversed())).unwrap();
    }
    for _ in 0..17 {
        store.take(&world, 16);
    }
    assert_eq!(store.live(), 40_000);
    world.wait(301);
    for _ in 0..17 {
        world.nat.expire(world.now);
        store.take(&world, 16);
    }
    assert_eq!(store.live(), 0);
}

#[test]
fn time_goes_on_by_the_callers_clock() {
    let world = World::new();
    let sent = world
        .out(&udp("10.0.0.5:1", "192.0.2.9:4500", b"data"))
        .unwrap();
    world.inside(&packet(&sent.reversed())).unwrap();
    let store = Store::whole(&world);
    let mut next = next_world();
    store.restore_to(&next);
    // 30 seconds went by between the two.
    let left = next.nat.connections(next.now)[0].expires_in;
    assert_eq!(left, Duration::from_secs(270));
    next = next_world();
    next.wait(270);
    assert_eq!(store.restore_to(&next).expired, 1);
    // A clock that went back makes nothing immortal.
    let next = next_world();
    let restored = next.nat.restore(next.now, 0, store.0.values(), same);
    assert_eq!(restored.kept, 1);
    let left = next.nat.connections(next.now)[0].expires_in;
    assert!(left <= Duration::from_secs(300), "{left:?}");
}

#[test]
fn what_does_not_fit_todays_world_is_dropped_by_reason() {
    let (world, _) = world_with_all();
    let store = Store::whole(&world);
    let restore = |world: &World, owner: fn(IpAddr) -> Option<u64>| {
        world
            .nat
            .restore(world.now, BEGAN_AGAIN, store.0.values(), owner)
    };
    // Other endpoints have the addresses, or none.
    let restored = restore(&next_world(), |_| Some(8));
    assert_eq!((restored.strangers, restored.kept), (7, 0));
    let restored = restore(&next_world(), |_| None);
    assert_eq!((restored.strangers, restored.kept), (7, 0));
    // Half of the hairpin is not enough.
    let restored = restore(&next_world(), |it| {
        same(it).map(|owner| owner + u64::from(it == ip("10.0.0.2")))
    });
    assert_eq!(restored.strangers, 3, "masqueraded, published, hairpin");
    // Nothing is published any more.
    let restored = restore(&World::new(), same);
    assert_eq!((restored.forbidden, restored.kept), (2, 5));
    // It leads elsewhere.
    let elsewhere = World::new();
    elsewhere.publish(vec![rule(1, Protocol::TCP, 8080..=8080, "10.0.0.9:80")]);
    assert_eq!(restore(&elsewhere, same).forbidden, 2);
    // The host has other addresses.
    let moved = next_world();
    let mut rules = World::rules(publish());
    rules.local = vec![ip("203.0.113.1")];
    moved.nat.set_rules(moved.now, rules);
    let restored = restore(&moved, same);
    assert_eq!(
        (restored.forbidden, restored.kept),
        (6, 1),
        "the routed one"
    );
    // Its external ports are not to be had.
    let other_ports = World::with(Limits::default(), 62000..=62000);
    other_ports.publish(publish());
    let restored = restore(&other_ports, same);
    assert_eq!((restored.taken, restored.kept), (4, 3));
    // They are another's by now, or are there already.
    let again = next_world();
    assert_eq!(restore(&again, same).kept, 7);
    assert_eq!(restore(&again, same).taken, 7);
    // There is no room.
    let limits = Limits {
        max_connections: 4,
        ..Limits::default()
    };
    let small = World::with(limits, 61000..=61999);
    small.publish(publish());
    let restored = restore(&small, same);
    assert_eq!((restored.crowded, restored.kept), (3, 4));
    let limits = Limits {
        max_ports_per_address: 1,
        ..Limits::default()
    };
    let frugal = World::with(limits, 61000..=61999);
    frugal.publish(publish());
    let restored = restore(&frugal, same);
    assert_eq!(
        (restored.crowded, restored.kept),
        (1, 6),
        "10.0.0.5 has two"
    );
}

/// Bytes that were not written whole, or by nobody: no panic, and no connection that translates to
/// what could not be.
#[test]
fn damaged_records_are_dropped() {
    let (world, _) = world_with_all();
    let store = Store::whole(&world);
    let records: Vec<Record> = store.0.values().copied().collect();
    let mut prng = Prng(11);
    for round in 0..20_000 {
        let mut record = records[prng.below(records.len())];
        match round % 3 {
            0 => record[prng.below(RECORD)] ^= 1 << prng.below(8),
            1 => prng.fill(&mut record),
            _ => {
                let from = prng.below(RECORD);
                record[from..].fill(0);
            }
        }
        if records.contains(&record) || record == [0; RECORD] {
            continue;
        }
        let restored = next_world()
            .nat
            .restore(Time::ZERO, BEGAN_AGAIN, [&record], same);
        assert_eq!((restored.damaged, restored.kept), (1, 0), "{record:?}");
    }
}

/// The same with checksums that are right, as of another version or of a program gone mad: what is
/// restored at all can be used and ended.
#[test]
fn forged_records_never_panic() {
    let (world, going) = world_with_all();
    let records: Vec<Record> = Store::whole(&world).0.values().copied().collect();
    let mut prng = Prng(12);
    let mut next = next_world();
    for round in 0..30_000 {
        let mut record = records[prng.below(records.len())];
        for _ in 0..=prng.below(4) {
            let at = prng.below(RECORD - 8) + 8;
            record[at] = prng.next() as u8;
        }
        let sum = crate::conntrack::record_checksum(&record);
        record[..8].copy_from_slice(&sum.to_le_bytes());
        next.nat
            .restore(next.now, BEGAN_AGAIN, [&record], |_| Some(7));
        if round % 200 == 0 {
            for (path, bytes, _) in &going {
                let _ = next.translate(*path, bytes);
            }
            next.wait(prng.next() % 400);
            next.nat.expire(next.now);
            next.nat.connections(next.now);
            if round % 1000 == 0 {
                next.nat.flush(next.now, |_| false);
                assert_eq!(next.nat.len(), 0);
                assert_eq!(next.nat.external_ports_free(Protocol::TCP), 1000);
                next = next_world();
            }
        }
    }
}
