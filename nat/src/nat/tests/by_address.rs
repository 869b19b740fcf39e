//! Protocols whose ports cannot be exchanged, or that have none: translated by address alone, one
//! inside host to a peer.

use super::*;

const ESP: Protocol = Protocol(50);
const GRE: Protocol = Protocol(47);

// Conforms: LINUX-sctp-by-address
#[test]
fn sctp_keeps_its_ports_and_its_checksum() {
    let world = World::new();
    for (inside, peer, host) in [
        ("10.0.0.2:4242", "192.0.2.9:3868", HOST),
        ("[fd00::2]:4242", "[2001:db8::9]:3868", HOST6),
    ] {
        let sent = sctp(inside, peer);
        let path = Path::Outbound { external: ip(host) };
        let (_, tuple, out) = world.translate(path, &sent).unwrap();
        let outside = tuple.unwrap();
        assert_eq!((outside.src, outside.src_port), (ip(host), 4242));
        let transport = if outside.src.is_ipv4() { 20 } else { 40 };
        assert_eq!(out[transport..], sent[transport..]);
        let back = world.inside(&packet(&outside.reversed())).unwrap();
        assert_eq!(back.to_string(), format!("{peer} > {inside}/sctp"));
    }
    assert_eq!(world.nat.connections(world.now)[0].state, "replied");
}

#[test]
fn of_two_hosts_with_one_port_the_first_has_the_peer() {
    let world = World::new();
    let dial = |inside: &str, peer: &str| world.out(&sctp(inside, peer));
    dial("10.0.0.2:4242", "192.0.2.9:3868").unwrap();
    assert_eq!(
        dial("10.0.0.3:4242", "192.0.2.9:3868"),
        Err(Refused::TupleInUse)
    );
    assert!(dial("10.0.0.3:4243", "192.0.2.9:3868").is_ok());
    assert!(dial("10.0.0.3:4242", "192.0.2.10:3868").is_ok());
    // When its time is up, the next one may.
    let mut world = world;
    world.wait(600);
    assert!(world.out(&sctp("10.0.0.3:4242", "192.0.2.9:3868")).is_ok());
}

// Conforms: LINUX-sctp-collision
#[test]
fn both_sides_of_an_association_may_begin_at_once() {
    let world = World::new();
    let ours = sctp("10.0.0.2:3868", "192.0.2.9:3868");
    world.out(&ours).unwrap();
    let theirs = sctp("192.0.2.9:3868", "198.51.100.1:3868");
    let inside = world.inside(&theirs).unwrap();
    assert_eq!(inside.to_string(), "192.0.2.9:3868 > 10.0.0.2:3868/sctp");
    assert_eq!(world.out(&ours).unwrap().src_port, 3868);
    assert_eq!(world.nat.len(), 1);
}

#[test]
fn sctp_is_published_port_to_same_port() {
    let world = World::new();
    let published = rule(1, Protocol::SCTP, 3868..=3869, "10.0.0.2:3868");
    assert_eq!(published.check(), Ok(()));
    let moved = rule(2, Protocol::SCTP, 3870..=3870, "10.0.0.2:3868");
    let why = moved.check().unwrap_err().to_string();
    assert!(why.contains("publish 3870 to 3870"), "{why}");
    world.publish(vec![published, moved]);
    for (dial, path) in [
        (sctp("192.0.2.9:5555", "198.51.100.1:3869"), Path::Inbound),
        (sctp("10.0.0.3:5555", "198.51.100.1:3869"), Path::Hairpin),
    ] {
        let (_, tuple, _) = world.translate(path, &dial).unwrap();
        let inside = tuple.unwrap();
        assert_eq!((inside.dst, inside.dst_port), (ip("10.0.0.2"), 3869));
        let (_, tuple, _) = match path {
            Path::Hairpin => world.translate(path, &packet(&inside.reversed())),
            _ => world.translate(World::outbound(), &packet(&inside.reversed())),
        }
        .unwrap();
        assert_eq!(
            (tuple.unwrap().src, tuple.unwrap().src_port),
            (ip(HOST), 3869)
        );
    }
    let moved = sctp("192.0.2.9:5555", "198.51.100.1:3870");
    assert_eq!(world.inside(&moved), Err(Refused::NoMapping));
}

#[test]
fn tunnels_go_by_address_one_inside_host_to_a_peer() {
    let world = World::new();
    for protocol in [GRE, ESP, Protocol(4), Protocol(115)] {
        let sent = wrap(ip("10.0.0.2"), ip(PEER), protocol, b"payload");
        let outside = world.out(&sent).unwrap();
        assert_eq!(
            outside.to_string(),
            format!("{HOST} > {PEER}/{}", protocol.0)
        );
        let answer = wrap(ip(PEER), ip(HOST), protocol, b"payload");
        assert_eq!(world.inside(&answer).unwrap().dst, ip("10.0.0.2"));
        let other = wrap(ip("10.0.0.3"), ip(PEER), protocol, b"payload");
        assert_eq!(world.out(&other), Err(Refused::TupleInUse));
        let elsewhere = wrap(ip("10.0.0.3"), ip("192.0.2.10"), protocol, b"payload");
        assert!(world.out(&elsewhere).is_ok());
        // Unasked, and between container and host.
        let unasked = wrap(ip("192.0.2.11"), ip(HOST), protocol, b"payload");
        assert_eq!(world.inside(&unasked), Err(Refused::NoMapping));
        let host = wrap(ip("10.0.0.2"), ip(HOST), protocol, b"payload");
        assert_eq!(world.hairpin(&host), Err(Refused::NotPublished));
    }
    assert_eq!(world.nat.external_ports_free(Protocol::UDP), 1000);
    assert_eq!(world.nat.forget(world.now, ip("10.0.0.2")), 4);
}

// Conforms: RFC5508-4
#[test]
fn errors_about_them_are_translated() {
    let world = World::new();
    for sent in [
        sctp("10.0.0.2:4242", "192.0.2.9:3868"),
        wrap(ip("10.0.0.2"), ip(PEER), GRE, b"payload!"),
    ] {
        let (_, _, outside) = world.translate(World::outbound(), &sent).unwrap();
        let bytes = unreachable("203.0.113.1", HOST, &outside, 28);
        let (_, _, mut out) = world.translate(Path::Inbound, &bytes).unwrap();
        let packet = Packet::parse(&mut out, Checksum::Complete).unwrap();
        assert_eq!(packet.dst(), ip("10.0.0.2"));
        let quote = Quote::parse(&packet).unwrap();
        assert!(quote.has_valid_checksum(&packet));
        assert_eq!(quote.tuple.src, ip("10.0.0.2"));
        assert_eq!(out[20 + 8 + 20..], sent[20..28]);
    }
}
