//! ICMP errors through the engine (RFC 5508 REQ-3 to REQ-7).

use super::*;

/// What an error quotes once it has been translated, and the error's own addresses.
#[track_caller]
fn error(world: &World, path: Path, bytes: &[u8]) -> Result<(IpAddr, IpAddr, Tuple), Refused> {
    let (translated, _, mut out) = world.translate(path, bytes)?;
    assert!(!translated.new);
    let packet = Packet::parse(&mut out, Checksum::Complete).unwrap();
    let quote = Quote::parse(&packet).unwrap();
    assert!(quote.has_valid_checksum(&packet));
    Ok((packet.src(), packet.dst(), quote.tuple))
}

fn tuple_of(bytes: &[u8]) -> Tuple {
    Packet::parse(&mut bytes.to_vec(), Checksum::Complete)
        .unwrap()
        .tuple()
        .unwrap()
}

// Conforms: RFC5508-4 RFC5382-9 OVS-icmp-related-nat OVS-icmp-related-other-source LINUX-conntrack-icmp-related
#[test]
fn rfc_5508_req_4_an_error_from_outside_reaches_the_sender() {
    let world = World::new();
    for sent in [
        udp("10.0.0.2:4242", "192.0.2.9:53", b"query"),
        tcp("10.0.0.2:4242", "192.0.2.9:80", SYN, b""),
        echo("10.0.0.2", PEER, true, 7),
    ] {
        let (_, _, outside) = world.translate(World::outbound(), &sent).unwrap();
        for router in ["203.0.113.1", PEER] {
            let bytes = unreachable(router, HOST, &outside, 28);
            let (src, dst, quoted) = error(&world, Path::Inbound, &bytes).unwrap();
            assert_eq!((src, dst), (ip(router), ip("10.0.0.2")));
            assert_eq!(quoted, tuple_of(&sent));
        }
    }
}

// Conforms: RFC5508-4 OVS-icmp-related-nat
#[test]
fn of_ipv6_too() {
    let world = World::new();
    let sent = udp("[fd00::2]:4242", "[2001:db8::9]:53", b"query");
    let path = Path::Outbound {
        external: ip(HOST6),
    };
    let (_, _, outside) = world.translate(path, &sent).unwrap();
    let bytes = unreachable("2001:db8:7::7", HOST6, &outside, 1232);
    let (src, dst, quoted) = error(&world, Path::Inbound, &bytes).unwrap();
    assert_eq!((src, dst), (ip("2001:db8:7::7"), ip("fd00::2")));
    assert_eq!(quoted, tuple_of(&sent));
}

// Conforms: RFC5508-5
#[test]
fn rfc_5508_req_5_an_error_from_inside_shows_nothing_of_the_inside() {
    let world = World::new();
    world.publish(vec![rule(1, Protocol::UDP, 8080..=8080, "10.0.0.2:80")]);
    // About a packet to a published port: by the container, and by a router of its own network.
    let sent = udp("192.0.2.9:5555", "198.51.100.1:8080", b"hello");
    let (_, _, inside) = world.translate(Path::Inbound, &sent).unwrap();
    for by in ["10.0.0.2", "10.0.0.77"] {
        let bytes = unreachable(by, PEER, &inside, 28);
        let (src, dst, quoted) = error(&world, World::outbound(), &bytes).unwrap();
        assert_eq!((src, dst), (ip(HOST), ip(PEER)));
        assert_eq!(quoted, tuple_of(&sent));
    }
    // About an answer to a masqueraded flow.
    let asked = world
        .out(&udp("10.0.0.3:4242", "192.0.2.9:53", b""))
        .unwrap();
    let answer = packet(&asked.reversed());
    let (_, _, inside) = world.translate(Path::Inbound, &answer).unwrap();
    let bytes = unreachable("10.0.0.3", PEER, &inside, 28);
    let (src, dst, quoted) = error(&world, World::outbound(), &bytes).unwrap();
    assert_eq!((src, dst, quoted), (ip(HOST), ip(PEER), asked.reversed()));
}

// Conforms: RFC5508-4 OVS-icmp-related-nat
#[test]
fn an_error_about_a_published_answer_reaches_the_container() {
    let world = World::new();
    world.publish(vec![rule(1, Protocol::UDP, 8080..=8080, "10.0.0.2:80")]);
    let inside = world
        .inside(&udp("192.0.2.9:5555", "198.51.100.1:8080", b"hello"))
        .unwrap();
    let answer = packet(&inside.reversed());
    let (_, _, outside) = world.translate(World::outbound(), &answer).unwrap();
    let bytes = unreachable(PEER, HOST, &outside, 28);
    let (src, dst, quoted) = error(&world, Path::Inbound, &bytes).unwrap();
    assert_eq!((src, dst), (ip(PEER), ip("10.0.0.2")));
    assert_eq!(quoted, inside.reversed());
}

// Conforms: RFC5508-7 LINUX-conntrack-icmp-related OVS-multiple-traverse
#[test]
fn rfc_5508_req_7_hairpinned_errors_pass_both_ways() {
    let world = World::new();
    world.publish(vec![rule(1, Protocol::UDP, 8080..=8080, "10.0.0.2:80")]);
    let sent = udp("10.0.0.3:4242", "198.51.100.1:8080", b"hello");
    let (_, inside, bytes) = world.translate(Path::Hairpin, &sent).unwrap();
    let bytes = unreachable("10.0.0.2", HOST, &bytes, 28);
    let (src, dst, quoted) = error(&world, Path::Hairpin, &bytes).unwrap();
    assert_eq!(
        (src, dst, quoted),
        (ip(HOST), ip("10.0.0.3"), tuple_of(&sent))
    );

    let answer = packet(&inside.unwrap().reversed());
    let (_, _, bytes) = world.translate(Path::Hairpin, &answer).unwrap();
    let bytes = unreachable("10.0.0.3", HOST, &bytes, 28);
    let (src, dst, quoted) = error(&world, Path::Hairpin, &bytes).unwrap();
    assert_eq!(
        (src, dst, quoted),
        (ip(HOST), ip("10.0.0.2"), tuple_of(&answer))
    );
}

// Conforms: RFC5508-4 RFC5508-5
#[test]
fn an_error_of_no_flow() {
    let world = World::new();
    let foreign = udp("198.51.100.1:1", "192.0.2.9:53", b"of the host");
    let bytes = unreachable(PEER, HOST, &foreign, 28);
    assert_eq!(
        error(&world, Path::Inbound, &bytes),
        Err(Refused::NoMapping)
    );
    // The host sent something to a container.
    let bytes = unreachable("10.0.0.2", HOST, &foreign, 28);
    assert_eq!(
        error(&world, Path::Hairpin, &bytes),
        Err(Refused::NotPublished)
    );
    let inward = udp("192.0.2.9:1", "10.0.0.2:53", b"");
    let bytes = unreachable("10.0.0.2", PEER, &inward, 28);
    assert_eq!(
        error(&world, World::outbound(), &bytes),
        Err(Refused::IcmpUnrelated)
    );
    // From a network that is only routed, it passes.
    let inward = udp("192.0.2.9:1", "10.9.0.2:53", b"");
    let bytes = unreachable("10.9.0.2", PEER, &inward, 28);
    assert!(error(&world, World::outbound(), &bytes).is_ok());
}

// Conforms: RFC5508-3
#[test]
fn rfc_5508_req_3_damaged_errors_are_dropped() {
    let world = World::new();
    let sent = udp("10.0.0.2:4242", "192.0.2.9:53", b"query");
    let (_, _, outside) = world.translate(World::outbound(), &sent).unwrap();
    let mut bytes = unreachable(PEER, HOST, &outside, 28);
    bytes[21] = 4;
    assert_eq!(
        error(&world, Path::Inbound, &bytes),
        Err(Refused::BadIcmpChecksum)
    );
    let mut damaged = outside.clone();
    damaged[8] = 3;
    let bytes = unreachable(PEER, HOST, &damaged, 28);
    assert_eq!(error(&world, Path::Inbound, &bytes), Err(Refused::BadQuote));
    let bytes = unreachable(PEER, HOST, &outside, 27);
    assert_eq!(error(&world, Path::Inbound, &bytes), Err(Refused::BadQuote));
    let bytes = unreachable(PEER, "198.51.100.2", &outside, 28);
    assert_eq!(error(&world, Path::Inbound, &bytes), Err(Refused::BadQuote));
    let bytes = unreachable("10.0.0.2", PEER, &outside, 27);
    assert_eq!(
        error(&world, World::outbound(), &bytes),
        Err(Refused::BadQuote)
    );
}

// Conforms: RFC5508-6 RFC4787-12 RFC5382-10
#[test]
fn rfc_5508_req_6_an_error_neither_refreshes_nor_ends() {
    let mut world = World::new();
    let sent = tcp("10.0.0.2:4242", "192.0.2.9:80", SYN, b"");
    let (_, _, outside) = world.translate(World::outbound(), &sent).unwrap();
    world.wait(100);
    let before = world.nat.connections(world.now);
    error(
        &world,
        Path::Inbound,
        &unreachable(PEER, HOST, &outside, 28),
    )
    .unwrap();
    assert_eq!(world.nat.connections(world.now), before);
}

#[test]
fn an_error_tells_of_the_flow_that_it_is_about() {
    let sent = udp("10.0.0.2:4242", "192.0.2.9:53", b"query");
    let mut bytes = unreachable("192.0.2.9", "10.0.0.2", &sent, 28);
    let packet = Packet::parse(&mut bytes, Checksum::Complete).unwrap();
    assert_eq!(packet.quoted_flow(), Some(tuple_of(&sent).reversed()));
    let mut bytes = sent.clone();
    let packet = Packet::parse(&mut bytes, Checksum::Complete).unwrap();
    assert_eq!(packet.quoted_flow(), None);
}
