//! What a change of rules, or the going of an endpoint, does to the flows.

use super::*;

// Conforms: OVS-flush-one
#[test]
fn unpublishing_cuts_the_flow_and_no_other() {
    let world = World::new();
    let first = rule(1, Protocol::UDP, 8080..=8080, "10.0.0.2:80");
    let second = rule(2, Protocol::UDP, 8081..=8081, "10.0.0.2:81");
    world.publish(vec![first, second.clone()]);
    let one = world
        .inside(&udp("192.0.2.9:5555", "198.51.100.1:8080", b""))
        .unwrap();
    let two = world
        .inside(&udp("192.0.2.9:5555", "198.51.100.1:8081", b""))
        .unwrap();
    world
        .hairpin(&udp("10.0.0.3:5555", "198.51.100.1:8080", b""))
        .unwrap();
    world.publish(vec![second]);
    assert_eq!(world.nat.len(), 1);
    let knock = udp("192.0.2.9:5555", "198.51.100.1:8080", b"");
    assert_eq!(world.inside(&knock), Err(Refused::NoMapping));
    assert!(world.out(&packet(&two.reversed())).is_ok());
    // The container's late answer is now a flow of its own.
    assert_ne!(world.out(&packet(&one.reversed())).unwrap().src_port, 8080);
    assert_eq!(world.nat.rules().publish.len(), 1);
}

// Conforms: CNI-portmap-udp-second-container
#[test]
fn a_flow_of_udp_does_not_stick_to_the_old_container() {
    let world = World::new();
    world.publish(vec![rule(1, Protocol::UDP, 53..=53, "10.0.0.2:53")]);
    let query = udp("192.0.2.9:5555", "198.51.100.1:53", b"");
    assert_eq!(world.inside(&query).unwrap().dst, ip("10.0.0.2"));
    world.publish(vec![rule(2, Protocol::UDP, 53..=53, "10.0.0.3:53")]);
    assert_eq!(world.inside(&query).unwrap().dst, ip("10.0.0.3"));
}

#[test]
fn publishing_claims_the_container_s_port() {
    let world = World::new();
    let sent = udp("10.0.0.2:5000", "192.0.2.9:6000", b"");
    let other = udp("10.0.0.2:5001", "192.0.2.9:6000", b"");
    assert!(world.out(&sent).unwrap().src_port >= 61000);
    assert!(world.out(&other).unwrap().src_port >= 61000);
    world.publish(vec![rule(1, Protocol::UDP, 7000..=7000, "10.0.0.2:5000")]);
    assert_eq!(
        world.nat.len(),
        1,
        "the flow from the port is gone, the other is not"
    );
    // What it sends from the port has the published one, and is answered there.
    let outside = world.out(&sent).unwrap();
    assert_eq!(
        outside.to_string(),
        "198.51.100.1:7000 > 192.0.2.9:6000/udp"
    );
    let back = world.inside(&packet(&outside.reversed())).unwrap();
    assert_eq!(back.to_string(), "192.0.2.9:6000 > 10.0.0.2:5000/udp");
}

#[test]
fn a_rule_for_one_address_answers_as_that_address() {
    let world = World::new();
    let mut publish = rule(1, Protocol::UDP, 7000..=7000, "10.0.0.2:5000");
    publish.host = Some(ip("198.51.100.2"));
    world.publish(vec![publish]);
    let outside = world
        .out(&udp("10.0.0.2:5000", "192.0.2.9:6000", b""))
        .unwrap();
    assert_eq!(outside.src, ip("198.51.100.2"));
    let knock = udp("192.0.2.9:6001", "198.51.100.1:7000", b"");
    assert_eq!(world.inside(&knock), Err(Refused::NoMapping));
}

#[test]
fn flows_follow_their_masquerade_rule() {
    let world = World::new();
    world
        .out(&udp("10.0.0.2:1", "192.0.2.9:5000", b""))
        .unwrap();
    world
        .out(&udp("10.9.0.2:1", "192.0.2.9:5000", b""))
        .unwrap();
    let mut rules = World::rules(vec![]);
    rules.masquerade[0].source = "10.9.0.0/24".parse().unwrap();
    world.nat.set_rules(world.now, rules);
    assert!(
        world.nat.is_empty(),
        "one is routed no longer, the other masqueraded no longer"
    );
    assert_eq!(
        world
            .out(&udp("10.9.0.2:1", "192.0.2.9:5000", b""))
            .unwrap()
            .src,
        ip(HOST)
    );
    assert_eq!(world.nat.external_ports_free(Protocol::UDP), 999);
}

#[test]
fn forgetting_an_endpoint_ends_all_its_flows() {
    let world = World::new();
    world.publish(vec![rule(1, Protocol::TCP, 8080..=8080, "10.0.0.2:80")]);
    world.out(&udp("10.0.0.2:1", "192.0.2.9:53", b"")).unwrap();
    world.out(&echo("10.0.0.2", PEER, true, 1)).unwrap();
    world
        .inside(&tcp("192.0.2.9:5555", "198.51.100.1:8080", SYN, b""))
        .unwrap();
    world
        .hairpin(&tcp("10.0.0.3:5555", "198.51.100.1:8080", SYN, b""))
        .unwrap();
    world.out(&udp("10.0.0.3:1", "192.0.2.9:53", b"")).unwrap();
    assert_eq!(world.nat.forget(world.now, ip("10.0.0.4")), 0);
    assert_eq!(world.nat.forget(world.now, ip("10.0.0.2")), 4);
    assert_eq!(world.nat.len(), 1);
    assert_eq!(world.nat.external_ports_free(Protocol::UDP), 999);
    assert_eq!(world.nat.external_ports_free(Protocol::TCP), 1000);
    assert_eq!(world.nat.external_ports_free(Protocol::ICMP), 65535);
    assert_eq!(world.nat.forget(world.now, ip("10.0.0.2")), 0);
}

// Conforms: OVS-flush-one
#[test]
fn flushing_one_among_many() {
    let world = World::new();
    for port in 1..=10 {
        world
            .out(&udp(&format!("10.0.0.2:{port}"), "192.0.2.9:53", b""))
            .unwrap();
    }
    assert_eq!(
        world
            .nat
            .flush(world.now, |info| info.original.src_port != 7),
        1
    );
    assert_eq!(world.nat.connections(world.now).len(), 9);
    assert_eq!(world.nat.flush(world.now, |_| false), 9);
}

// Conforms: CNI-portmap-udp-second-container
#[test]
fn flows_that_the_rules_would_not_let_begin_are_ended() {
    // Of a network that is only routed, from a port that is published later.
    let world = World::new();
    let sent = udp("10.9.0.2:5000", "192.0.2.9:6000", b"");
    let other = udp("10.9.0.2:5001", "192.0.2.9:6000", b"");
    assert_eq!(world.out(&sent).unwrap().src, ip("10.9.0.2"));
    assert_eq!(world.out(&other).unwrap().src, ip("10.9.0.2"));
    let first = rule(1, Protocol::UDP, 7000..=7000, "10.9.0.2:5000");
    world.publish(vec![first.clone()]);
    assert_eq!(world.nat.len(), 1, "the other one stays");
    let query = udp("192.0.2.9:6000", "198.51.100.1:7000", b"");
    assert_eq!(world.inside(&query).unwrap().dst, ip("10.9.0.2"));
    let answer = world.out(&sent).unwrap();
    assert_eq!((answer.src, answer.src_port), (ip(HOST), 7000));

    // A second container takes the port over, the first one's rule being there still.
    let second = rule(2, Protocol::UDP, 7000..=7000, "10.0.0.3:5000");
    world.publish(vec![second, first.clone()]);
    assert_eq!(world.inside(&query).unwrap().dst, ip("10.0.0.3"));
    // The first is then reached by no port, and speaks from none.
    assert_eq!(world.out(&sent).unwrap().src, ip("10.9.0.2"));
    // And has it back.
    world.publish(vec![first]);
    assert_eq!(world.inside(&query).unwrap().dst, ip("10.9.0.2"));

    // Halves of a hairpin follow the masquerade rules.
    let world = World::new();
    let dial = udp("10.0.0.2:5000", "198.51.100.1:61000", b"");
    assert_eq!(world.hairpin(&dial), Err(Refused::Filtered));
    assert_eq!(world.nat.len(), 1);
    world.publish(vec![rule(1, Protocol::UDP, 7000..=7000, "10.0.0.2:5000")]);
    assert!(world.nat.is_empty());
}

// Conforms: CVE-2021-3773
#[test]
fn what_a_container_sends_takes_no_port_of_the_host_s_or_of_another_s() {
    let world = World::new();
    world.publish(vec![
        rule(1, Protocol::UDP, 53..=53, "10.0.0.2:53"),
        rule(2, Protocol::UDP, 53..=53, "10.0.0.3:53"),
    ]);
    // From the same port, to a peer that will ask the published one: it gets a reserved port.
    let shadow = udp("10.0.0.3:53", "192.0.2.9:5555", b"");
    let outside = world.out(&shadow).unwrap();
    assert!((61000..=61999).contains(&outside.src_port));
    let query = udp("192.0.2.9:5555", "198.51.100.1:53", b"");
    assert_eq!(world.inside(&query).unwrap().dst, ip("10.0.0.2"));
    // And on a port of the host that nobody published, nothing of a container's ever answers.
    let world = World::new();
    for port in [53, 22, 8080] {
        let sent = udp(&format!("10.0.0.3:{port}"), "192.0.2.9:5555", b"");
        assert!(world.out(&sent).unwrap().src_port >= 61000);
        let knock = udp("192.0.2.9:5555", &format!("{HOST}:{port}"), b"");
        assert_eq!(world.inside(&knock), Err(Refused::NoMapping));
    }
}

/// After a restart, and the container speaks first.
#[test]
fn a_port_published_twice_is_the_one_that_its_peer_dials() {
    let limits = Limits {
        pick_up_tcp: true,
        ..Limits::default()
    };
    let world = World::with(limits, 61000..=61999);
    for protocol in [Protocol::UDP, Protocol::TCP] {
        world.publish(vec![
            rule(1, protocol, 8080..=8080, "10.0.0.2:80"),
            rule(2, protocol, 8081..=8081, "10.0.0.2:80"),
        ]);
        let send = |src: &str, dst: &str| match protocol {
            Protocol::TCP => tcp(src, dst, ACK, b"more"),
            _ => udp(src, dst, b"more"),
        };
        let (client, dialled) = ("192.0.2.9:5000", format!("{HOST}:8081"));
        let answer = send("10.0.0.2:80", client);
        let port = |world: &World| world.out(&answer).unwrap().src_port;
        assert_eq!(port(&world), 8080, "presumed");
        world.inside(&send(client, &dialled)).unwrap();
        assert_eq!(port(&world), 8081);
        // Who has spoken is not presumed.
        let other = send(client, &format!("{HOST}:8080"));
        assert_eq!(world.inside(&other), Err(Refused::TupleInUse));
        assert_eq!(world.nat.len(), 1);
        world.nat.flush(world.now, |_| false);
    }
}
