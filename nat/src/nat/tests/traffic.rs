//! What is counted of published ports.

use super::*;

const PUBLISHED: &str = "198.51.100.1:8080";

fn traffic(world: &World, id: u32) -> Traffic {
    let mut all = world.nat.traffic(world.now);
    all.remove(&id).unwrap_or_default()
}

#[test]
fn a_rule_s_counts_outlive_its_connections_and_end_with_it() {
    let mut world = World::new();
    let rules = [
        rule(1, Protocol::UDP, 8080..=8080, "10.0.0.2:80"),
        rule(2, Protocol::UDP, 8081..=8081, "10.0.0.2:81"),
    ];
    world.publish(rules.to_vec());
    assert_eq!(traffic(&world, 1), Traffic::default());
    let query = udp("192.0.2.9:5555", PUBLISHED, b"four");
    let inside = world.inside(&query).unwrap();
    world.inside(&query).unwrap();
    world.out(&packet(&inside.reversed())).unwrap();
    world
        .hairpin(&udp("10.0.0.3:5555", PUBLISHED, b"four"))
        .unwrap();
    let busy = Traffic {
        connections: 2,
        active: 2,
        packets: [3, 1],
        bytes: [3 * 32, 32],
    };
    assert_eq!(traffic(&world, 1), busy);
    assert_eq!(traffic(&world, 2), Traffic::default());

    // Expired, and then swept.
    world.wait(3600);
    let idle = Traffic { active: 0, ..busy };
    assert_eq!(traffic(&world, 1), idle);
    world.nat.expire(world.now);
    assert!(world.nat.is_empty());
    assert_eq!(traffic(&world, 1), idle);
    world.inside(&query).unwrap();
    let again = Traffic {
        connections: 3,
        active: 1,
        packets: [4, 1],
        bytes: [4 * 32, 32],
    };
    assert_eq!(traffic(&world, 1), again);

    world.publish(rules[1..].to_vec());
    assert_eq!(traffic(&world, 1), Traffic::default());
    world.publish(rules.to_vec());
    assert_eq!(traffic(&world, 1), Traffic::default());
}

#[test]
fn a_connection_in_the_place_of_one_that_is_over_is_one_more() {
    let world = World::new();
    world.publish(vec![rule(1, Protocol::TCP, 8080..=8080, "10.0.0.2:80")]);
    for round in 1..=3 {
        world
            .inside(&tcp("192.0.2.9:5555", PUBLISHED, SYN, b""))
            .unwrap();
        world
            .out(&tcp("10.0.0.2:80", "192.0.2.9:5555", RST | ACK, b""))
            .unwrap();
        let counted = traffic(&world, 1);
        assert_eq!((counted.connections, counted.active), (round, 1));
        assert_eq!(counted.packets, [round, round]);
    }
}
