use super::shard::SWEEP;
use super::*;
use crate::testing::{Prng, ip};
use crate::tuple::TupleHash;

fn tuple(n: u32) -> Tuple {
    Tuple {
        src: IpAddr::from([10, 0, (n >> 8) as u8, n as u8]),
        dst: ip("192.0.2.9"),
        src_port: 4242,
        dst_port: 80,
        protocol: Protocol::UDP,
    }
}

fn connection(n: u32, expires: u64) -> Connection {
    let original = tuple(n);
    let reply = Tuple {
        dst: ip("198.51.100.1"),
        dst_port: n as u16,
        ..original.reversed()
    };
    let mut connection = Connection::new(original, reply, Kind::Masquerade, false);
    connection.expires = Time::from_nanos(expires);
    connection
}

#[test]
fn both_tuples_lead_to_the_connection() {
    let hash = TupleHash::new(5);
    let mut shard = Shard::default();
    let slots: Vec<u32> = (0..1000)
        .map(|n| shard.insert(connection(n, 1), &hash).unwrap())
        .collect();
    for (n, &slot) in (0..).zip(&slots) {
        let (original, reply) = (connection(n, 1).original(), connection(n, 1).reply());
        let find = |tuple: &Tuple| shard.find(hash.tuple(tuple), tuple);
        assert_eq!(find(&original), Some((slot, Direction::Original)));
        assert_eq!(find(&reply), Some((slot, Direction::Reply)));
        let found = shard.get(slot).unwrap();
        assert_eq!(found.translated(Direction::Original), reply.reversed());
        assert_eq!(found.translated(Direction::Reply), original.reversed());
    }
    assert_eq!(shard.iter().count(), 1000);
}

// Conforms: LINUX-conntrack-resize
#[test]
fn the_index_follows_any_sequence_of_insertions_and_removals() {
    let hash = TupleHash::new(5);
    let mut prng = Prng(4);
    let mut shard = Shard::default();
    let mut model = std::collections::BTreeMap::new();
    for _ in 0..20_000 {
        let n = prng.below(500) as u32;
        match model.remove(&n) {
            Some(slot) => {
                assert_eq!(shard.remove(slot, &hash).unwrap().original(), tuple(n));
                assert!(shard.remove(slot, &hash).is_none());
            }
            None => {
                model.insert(n, shard.insert(connection(n, 1), &hash).unwrap());
            }
        }
    }
    for n in 0..500 {
        let (original, reply) = (connection(n, 1).original(), connection(n, 1).reply());
        for tuple in [original, reply] {
            let found = shard.find(hash.tuple(&tuple), &tuple).map(|(slot, _)| slot);
            assert_eq!(found, model.get(&n).copied());
        }
    }
    assert_eq!(shard.iter().count(), model.len());
    assert!(shard.capacity() <= 500, "slots are used again");
}

#[test]
fn a_sweep_looks_at_a_part_and_comes_round() {
    let hash = TupleHash::new(5);
    let mut shard = Shard::default();
    for n in 0..2000 {
        shard
            .insert(connection(n, u64::from(n % 2) * 100), &hash)
            .unwrap();
    }
    let mut expired = 0;
    for _ in 0..8 {
        let part = shard.sweep(Time::from_nanos(50));
        assert!(part.len() <= SWEEP);
        expired += part.len();
        for slot in part {
            shard.remove(slot, &hash).unwrap();
        }
    }
    assert_eq!(expired, 1000);
    assert!(Shard::default().sweep(Time::ZERO).is_empty());
}

#[test]
fn the_worst_has_the_highest_score() {
    let hash = TupleHash::new(5);
    let mut shard = Shard::default();
    assert_eq!(shard.worst(256, |_| Some(0)), None);
    for n in 0..100 {
        shard
            .insert(connection(n, u64::from(n * 7 % 100)), &hash)
            .unwrap();
    }
    let (_, worst) = shard
        .worst(256, |connection| Some(connection.expires))
        .unwrap();
    assert_eq!(shard.get(worst).unwrap().expires, Time::from_nanos(99));
    assert_eq!(shard.worst(256, |_| None::<u8>), None);
}

// Conforms: RFC4787-6
#[test]
fn rfc_4787_req_6_only_the_inside_refreshes_a_masqueraded_flow() {
    let timeouts = Timeouts::default();
    let mut connection = connection(1, 0);
    let at = |seconds| Time::ZERO + Duration::from_secs(seconds);
    connection.handle(at(0), Direction::Original, None, 100, &timeouts);
    assert!(connection.is_half_open());
    connection.handle(at(200), Direction::Reply, None, 100, &timeouts);
    assert!(!connection.is_half_open());
    assert_eq!(connection.expires, at(300));
    connection.handle(at(200), Direction::Original, None, 60, &timeouts);
    assert_eq!(connection.expires, at(500));
    let info = connection.info(at(200));
    assert_eq!((info.packets, info.bytes), ([2, 1], [160, 100]));
    assert_eq!(
        (info.state, info.expires_in),
        ("replied", Duration::from_secs(300))
    );
}

#[test]
fn packets_are_counted_in_48_bits() {
    for from in [0, 0xffff, 0xffff_ffff, 0x1234_5678_9abc] {
        let mut count = Count([from as u16, (from >> 16) as u16, (from >> 32) as u16]);
        assert_eq!(count.get(), from);
        count.increment();
        assert_eq!(count.get(), from + 1);
    }
}
