//! Masquerade, publish, hairpin, and the mapping behaviour of RFC 4787 and RFC 5382.

use super::*;

// Conforms: RFC4787-2 RFC6888-2
#[test]
fn masquerade_there_and_back() {
    let world = World::new();
    for sent in [
        tcp("10.0.0.2:4242", "192.0.2.9:80", SYN, b""),
        udp("10.0.0.2:4242", "192.0.2.9:53", b"query"),
        tcp("[fd00::2]:4242", "[2001:db8::9]:80", SYN, b""),
        udp("[fd00::2]:4242", "[2001:db8::9]:53", b"query"),
    ] {
        let original = Packet::parse(&mut sent.clone(), Checksum::Complete)
            .unwrap()
            .tuple();
        let outside = world.out(&sent).unwrap();
        assert!((61000..=61999).contains(&outside.src_port));
        assert_eq!(
            outside.src,
            if outside.src.is_ipv4() {
                ip(HOST)
            } else {
                ip(HOST6)
            }
        );
        let reply = world.inside(&packet(&outside.reversed())).unwrap();
        assert_eq!(reply.reversed(), original.unwrap());
        assert_eq!(world.out(&sent).unwrap(), outside);
    }
    assert_eq!(world.nat.len(), 4);
}

#[test]
fn what_is_told_about_a_packet() {
    let world = World::new();
    let sent = udp("10.0.0.2:4242", "192.0.2.9:53", b"query");
    let (first, outside, _) = world.translate(World::outbound(), &sent).unwrap();
    assert_eq!(
        first.connection.to_string(),
        "10.0.0.2:4242 > 192.0.2.9:53/udp"
    );
    assert_eq!(
        (first.kind, first.direction),
        (Kind::Masquerade, Direction::Original)
    );
    assert!(first.new);
    let answer = packet(&outside.unwrap().reversed());
    let (second, ..) = world.translate(Path::Inbound, &answer).unwrap();
    assert_eq!(
        (second.connection, second.direction),
        (first.connection, Direction::Reply)
    );
    assert!(!second.new);
    let all = world.nat.connections(world.now);
    assert_eq!(all[0].packets, [1, 1]);
    assert_eq!(all[0].bytes, [33, 32]);
    assert_eq!(all[0].inside, ip("10.0.0.2"));
}

// Conforms: RFC5508-1
#[test]
fn rfc_5508_req_1_echo_there_and_back() {
    let world = World::new();
    for (inside, outside) in [("10.0.0.2", PEER), ("fd00::2", "2001:db8::9")] {
        let request = world.out(&echo(inside, outside, true, 7)).unwrap();
        assert_eq!(request.dst_port, 0);
        let reply = packet(&request.reversed());
        let reply = world.inside(&reply).unwrap();
        assert_eq!((reply.dst, reply.dst_port), (ip(inside), 7));
    }
    // A reply that nobody asked for, and an answer to nothing.
    assert_eq!(
        world.inside(&echo(PEER, HOST, false, 9)),
        Err(Refused::NoMapping)
    );
    assert_eq!(
        world.out(&echo("10.0.0.2", PEER, false, 9)),
        Err(Refused::NotOpening)
    );
    // Somebody pings the host.
    assert_eq!(
        world.inside(&echo(PEER, HOST, true, 9)),
        Err(Refused::NoMapping)
    );
    assert_eq!(
        world.hairpin(&echo("10.0.0.2", HOST, true, 9)),
        Err(Refused::NotPublished)
    );
}

// Conforms: RFC5508-1 RFC4787-3
#[test]
fn two_hosts_with_one_echo_identifier() {
    let world = World::new();
    let first = world.out(&echo("10.0.0.2", PEER, true, 7)).unwrap();
    let second = world.out(&echo("10.0.0.3", PEER, true, 7)).unwrap();
    assert_ne!(first, second);
    let reply = world.inside(&packet(&second.reversed())).unwrap();
    assert_eq!((reply.dst, reply.dst_port), (ip("10.0.0.3"), 7));
}

// Conforms: RFC4787-1 RFC5382-1
#[test]
fn rfc_4787_req_1_one_inside_port_to_two_peers_has_one_external_port() {
    let world = World::new();
    let first = world
        .out(&udp("10.0.0.2:4242", "192.0.2.9:53", b""))
        .unwrap();
    let second = world
        .out(&udp("10.0.0.2:4242", "203.0.113.5:9999", b""))
        .unwrap();
    assert_eq!((first.src, first.src_port), (second.src, second.src_port));
    let syn = |peer| world.out(&tcp("10.0.0.2:4242", peer, SYN, b"")).unwrap();
    assert_eq!(
        syn("192.0.2.9:80").src_port,
        syn("203.0.113.5:443").src_port
    );
}

// Conforms: RFC4787-3 RFC5382-7
#[test]
fn rfc_4787_req_3_two_hosts_with_one_source_port_have_two() {
    let world = World::new();
    let first = world
        .out(&udp("10.0.0.2:4242", "192.0.2.9:53", b""))
        .unwrap();
    let second = world
        .out(&udp("10.0.0.3:4242", "192.0.2.9:53", b""))
        .unwrap();
    assert_ne!(first.src_port, second.src_port);
}

// Conforms: RFC4787-8 RFC5382-3
#[test]
fn rfc_4787_req_8_filtering_is_by_address_and_port() {
    let world = World::new();
    let outside = world
        .out(&udp("10.0.0.2:4242", "192.0.2.9:53", b""))
        .unwrap();
    let knock = |from: &str| {
        world.inside(&udp(
            from,
            &format!("{HOST}:{}", outside.src_port),
            b"knock",
        ))
    };
    assert_eq!(knock("192.0.2.9:54"), Err(Refused::NoMapping));
    assert_eq!(knock("192.0.2.10:53"), Err(Refused::NoMapping));
    assert!(knock("192.0.2.9:53").is_ok());
    assert_eq!(world.nat.len(), 1);
}

#[test]
fn a_masquerade_rule_may_choose_the_address() {
    let world = World::new();
    let mut rules = World::rules(vec![]);
    rules.masquerade[0].to = Some(ip("198.51.100.2"));
    let before = udp("10.0.0.2:1", "192.0.2.9:53", b"");
    assert_eq!(world.out(&before).unwrap().src, ip(HOST));
    world.nat.set_rules(world.now, rules);
    assert_eq!(world.nat.len(), 0, "the flow with the old address is gone");
    assert_eq!(world.out(&before).unwrap().src, ip("198.51.100.2"));
}

#[test]
fn a_source_that_no_rule_masquerades_is_routed() {
    let world = World::new();
    let sent = udp("10.9.0.2:4242", "192.0.2.9:53", b"");
    let (translated, tuple, _) = world.translate(World::outbound(), &sent).unwrap();
    assert_eq!(
        (translated.kind, tuple),
        (Kind::Routed, Some(translated.connection))
    );
    let reply = world
        .inside(&packet(&translated.connection.reversed()))
        .unwrap();
    assert_eq!(reply, translated.connection.reversed());
    // What cannot be tracked passes too.
    let reset = tcp("10.9.0.2:4242", "192.0.2.9:80", RST, b"");
    assert!(world.out(&reset).is_ok());
    let mut fragment = sent.clone();
    fragment[6] = 0x20;
    crate::testing::complete(&mut fragment);
    let mut packet = Packet::parse(&mut fragment, Checksum::Complete).unwrap();
    assert!(
        world
            .nat
            .translate(world.now, World::outbound(), &mut packet)
            .is_ok()
    );
    assert_eq!(world.nat.len(), 1);
}

#[test]
fn a_route_without_an_address_of_the_family() {
    let world = World::new();
    let sent = udp("[fd00::2]:4242", "[2001:db8::9]:53", b"");
    let refused = world.translate(World::outbound(), &sent).unwrap_err();
    assert_eq!(refused, Refused::NoExternalAddress);
}

#[test]
fn publish_keeps_the_client_s_address() {
    let world = World::new();
    world.publish(vec![rule(1, Protocol::TCP, 8080..=8080, "10.0.0.2:80")]);
    assert!(world.nat.is_published(Protocol::TCP, ip(HOST), 8080));
    assert!(!world.nat.is_published(Protocol::UDP, ip(HOST), 8080));
    let syn = tcp("192.0.2.9:5555", "198.51.100.1:8080", SYN, b"");
    let inside = world.inside(&syn).unwrap();
    assert_eq!(inside.to_string(), "192.0.2.9:5555 > 10.0.0.2:80/tcp");
    let answer = world
        .out(&packet_with(&inside.reversed(), SYN | ACK))
        .unwrap();
    assert_eq!(answer.to_string(), "198.51.100.1:8080 > 192.0.2.9:5555/tcp");
    // The other address of the host answers as well, as itself.
    let inside = world.inside(&tcp("192.0.2.9:5555", "198.51.100.2:8080", SYN, b""));
    assert_eq!(
        inside,
        Err(Refused::TupleInUse),
        "the container could not tell them apart"
    );
    let inside = world
        .inside(&tcp("192.0.2.9:5556", "198.51.100.2:8080", SYN, b""))
        .unwrap();
    let answer = world
        .out(&packet_with(&inside.reversed(), SYN | ACK))
        .unwrap();
    assert_eq!(answer.src, ip("198.51.100.2"));
    // Not the host's, or not published.
    let elsewhere = tcp("192.0.2.9:5555", "198.51.100.3:8080", SYN, b"");
    assert_eq!(world.inside(&elsewhere), Err(Refused::NoMapping));
    let unpublished = tcp("192.0.2.9:5555", "198.51.100.1:8081", SYN, b"");
    assert_eq!(world.inside(&unpublished), Err(Refused::NoMapping));
}

#[test]
fn a_published_range_maps_port_for_port() {
    let world = World::new();
    world.publish(vec![rule(1, Protocol::UDP, 1000..=60999, "[fd00::2]:2000")]);
    for port in [1000, 1001, 33333, 60999] {
        let inside = world
            .inside(&udp(
                "[2001:db8::9]:5555",
                &format!("[{HOST6}]:{port}"),
                b"x",
            ))
            .unwrap();
        assert_eq!((inside.dst, inside.dst_port), (ip("fd00::2"), port + 1000));
        let answer = world.out(&packet(&inside.reversed())).unwrap();
        assert_eq!((answer.src, answer.src_port), (ip(HOST6), port));
    }
}

// Conforms: LINUX-conntrack-reverse-clash
#[test]
fn two_published_ports_of_one_container_port_are_told_apart() {
    for protocol in [Protocol::TCP, Protocol::UDP] {
        let world = World::new();
        world.publish(vec![
            rule(1, protocol, 8001..=8001, "10.0.0.2:80"),
            rule(2, protocol, 8002..=8002, "10.0.0.2:80"),
        ]);
        let mut asking = std::collections::BTreeSet::new();
        for port in [8001, 8002] {
            let host = format!("{HOST}:{port}");
            let inside = match protocol {
                Protocol::TCP => world.hairpin(&tcp("10.0.0.3:4242", &host, SYN, b"")),
                _ => world.hairpin(&udp("10.0.0.3:4242", &host, b"")),
            };
            let inside = inside.unwrap();
            assert!(asking.insert(inside.src_port), "the container sees one");
            let answer = world
                .hairpin(&packet_with(&inside.reversed(), SYN | ACK))
                .unwrap();
            assert_eq!(
                answer.to_string(),
                format!("{host} > 10.0.0.3:4242/{protocol}")
            );
        }
        // A port for each, neither of which is another endpoint's.
        assert_eq!(world.nat.external_ports_free(protocol), 998);
        assert_eq!(world.nat.stats().shared, 0);
        assert_eq!(world.nat.forget(world.now, ip("10.0.0.3")), 2);
        assert_eq!(world.nat.external_ports_free(protocol), 1000);
    }
}

// Conforms: RFC4787-9 RFC5382-8 MOBY-port-mapped-hairpin OVS-dnat-with-snat
#[test]
fn rfc_4787_req_9_hairpin_shows_the_external_address() {
    let world = World::new();
    world.publish(vec![rule(1, Protocol::TCP, 8080..=8080, "10.0.0.2:80")]);
    for client in ["10.0.0.3:4242", "10.0.0.2:4242"] {
        // The second is the published container itself.
        let syn = tcp(client, "198.51.100.1:8080", SYN, b"");
        let inside = world.hairpin(&syn).unwrap();
        assert_eq!((inside.dst, inside.dst_port), (ip("10.0.0.2"), 80));
        assert_eq!(inside.src, ip(HOST));
        assert!((61000..=61999).contains(&inside.src_port));
        let answer = world
            .hairpin(&packet_with(&inside.reversed(), SYN | ACK))
            .unwrap();
        assert_eq!(
            answer.to_string(),
            format!("198.51.100.1:8080 > {client}/tcp")
        );
        // The same port as towards the world: the mapping does not depend on the peer.
        let outside = world.out(&tcp(client, "192.0.2.9:80", SYN, b"")).unwrap();
        assert_eq!(outside.src_port, inside.src_port);
    }
    let other = tcp("10.0.0.3:4242", "198.51.100.1:22", SYN, b"");
    assert_eq!(world.hairpin(&other), Err(Refused::NotPublished));
}

#[test]
fn what_is_for_the_host_is_told_so() {
    let world = World::new();
    world.publish(vec![rule(1, Protocol::UDP, 8080..=8080, "10.0.0.2:80")]);
    // Christmas-tree segments, fragments of pings and unknown protocols too.
    let tree = tcp("10.0.0.3:4242", "198.51.100.1:22", SYN | FIN, b"");
    assert_eq!(world.hairpin(&tree), Err(Refused::NotPublished));
    let mut ping = echo("10.0.0.3", HOST, true, 1);
    ping[6] = 0x20;
    assert_eq!(world.hairpin(&ping), Err(Refused::NotPublished));
    let gre = wrap(ip("10.0.0.3"), ip(HOST), Protocol(47), b"payload");
    assert_eq!(world.hairpin(&gre), Err(Refused::NotPublished));
    // But a fragment of UDP may be for the published port.
    let mut piece = udp("10.0.0.3:4242", "198.51.100.1:8080", b"");
    piece[6] = 0x20;
    assert_eq!(world.hairpin(&piece), Err(Refused::Fragment));
}

#[test]
fn what_cannot_be_translated_is_named() {
    let world = World::new();
    let mut piece = udp("10.0.0.3:4242", "192.0.2.9:53", b"");
    piece[6] = 0x20;
    assert_eq!(world.out(&piece), Err(Refused::Fragment));
    assert_eq!(world.inside(&piece), Err(Refused::Fragment));
    // UDP-Lite and DCCP sum the addresses, AH signs them.
    for protocol in [136, 33, 51] {
        let bytes = wrap(ip("10.0.0.3"), ip(PEER), Protocol(protocol), b"payload");
        assert_eq!(world.out(&bytes), Err(Refused::UnsupportedProtocol));
        assert_eq!(world.inside(&bytes), Err(Refused::NoMapping));
    }
    assert!(world.nat.is_empty());
}

#[test]
fn a_partial_checksum_stays_partial() {
    let world = World::new();
    world.publish(vec![rule(1, Protocol::TCP, 8080..=8080, "10.0.0.2:80")]);
    for (path, mut bytes) in [
        // A super-frame of 60 KB.
        (
            World::outbound(),
            tcp("10.0.0.2:4242", "192.0.2.9:80", ACK, &[7; 60_000]),
        ),
        (
            World::outbound(),
            udp("10.0.0.2:4242", "192.0.2.9:53", &[7; 999]),
        ),
        (
            Path::Inbound,
            tcp("192.0.2.9:5555", "198.51.100.1:8080", SYN, b""),
        ),
        (
            Path::Hairpin,
            tcp("10.0.0.3:5555", "198.51.100.1:8080", SYN, b""),
        ),
    ] {
        make_partial(&mut bytes);
        let before = bytes.clone();
        let mut packet = Packet::parse(&mut bytes, Checksum::Partial).unwrap();
        world.nat.translate(world.now, path, &mut packet).unwrap();
        assert_ne!(bytes, before);
        assert_valid(&bytes, Checksum::Partial);
    }
}

// Conforms: MOBY-41872
#[test]
fn a_forged_packet_on_the_wrong_path_matches_nothing() {
    let world = World::new();
    let sent = udp("10.0.0.2:4242", "192.0.2.9:53", b"");
    let outside = world.out(&sent).unwrap();
    // The inside packet on the wire, and the outside reply from inside.
    assert_eq!(world.inside(&sent), Err(Refused::NoMapping));
    assert_eq!(
        world.hairpin(&packet(&outside.reversed())),
        Err(Refused::NotPublished)
    );
    assert_eq!(world.nat.len(), 1);
}

// Conforms: RFC5508-1
#[test]
fn an_identifier_of_0_is_one_like_any() {
    let world = World::new();
    let request = echo("10.0.0.2", PEER, true, 0);
    let reply = echo("10.0.0.2", PEER, false, 0);
    assert_eq!(world.out(&reply), Err(Refused::NotOpening));
    let outside = world.out(&request).unwrap();
    assert_ne!(outside.src_port, 0, "outside it would look like a reply's");
    let back = world.inside(&echo(PEER, HOST, false, outside.src_port));
    assert_eq!(
        back.unwrap().to_string(),
        format!("{PEER} > 10.0.0.2 id 0/icmp")
    );
    // Its flow is one of requests.
    assert_eq!(world.out(&reply), Err(Refused::NotOpening));
    assert_eq!(
        world.inside(&echo(PEER, HOST, true, outside.src_port)),
        Err(Refused::NoMapping)
    );
}

/// As Linux's masquerade does (`nf_nat_oif_changed`, and the notifiers of lost addresses): a
/// mapping to an address that is no good any more ends, and the next packet gets another.
#[test]
fn a_masqueraded_flow_moves_with_its_way_out() {
    let world = World::new();
    let other = ip("198.51.100.2");
    let sent = udp("10.0.0.2:4242", "192.0.2.9:53", b"?");
    let leaves_by = |external: IpAddr| {
        let path = Path::Outbound { external };
        let out = world.translate(path, &sent).unwrap();
        (out.1.unwrap().src, out.0.new)
    };
    let on = |links: &[(IpAddr, u32)]| Rules {
        links: links.to_vec(),
        ..World::rules(vec![])
    };
    assert_eq!(leaves_by(ip(HOST)), (ip(HOST), true));
    // Another address of the same interface, or of one unknown, is for new flows.
    world
        .nat
        .set_rules(world.now, on(&[(ip(HOST), 2), (other, 2)]));
    assert_eq!(leaves_by(other), (ip(HOST), false));
    world.nat.set_rules(world.now, on(&[(ip(HOST), 2)]));
    assert_eq!(leaves_by(other), (ip(HOST), false));
    // One of another interface is another way out.
    world
        .nat
        .set_rules(world.now, on(&[(ip(HOST), 2), (other, 3)]));
    assert_eq!(leaves_by(other), (other, true));
    assert_eq!(leaves_by(other), (other, false));
    assert_eq!(world.nat.len(), 1, "the old one is gone");
    // The host loses the address.
    let mut rules = on(&[(ip(HOST), 2)]);
    rules.local.retain(|address| *address != other);
    world.nat.set_rules(world.now, rules);
    assert_eq!(world.nat.len(), 0);
    assert_eq!(leaves_by(ip(HOST)), (ip(HOST), true));
}

#[test]
fn a_published_flow_keeps_its_origin_until_it_ends() {
    let world = World::new();
    world.publish(vec![rule(1, Protocol::UDP, 8080..=8080, "10.0.0.2:80")]);
    let sent = udp("192.0.2.9:5555", "198.51.100.1:8080", b"?");
    let dialled = world.translate(Path::Inbound, &sent).unwrap().0.connection;
    let answer = Tuple {
        protocol: Protocol::UDP,
        src: ip("10.0.0.2"),
        src_port: 80,
        dst: ip("192.0.2.9"),
        dst_port: 5555,
    };
    let answered = |origin| Answered {
        host: ip(HOST),
        port: 8080,
        origin,
    };
    assert_eq!(world.nat.answered(&answer), Some(answered(None)));
    let origin = Some(Origin(7));
    world.nat.set_origin(&dialled, origin);
    assert_eq!(world.nat.answered(&answer), Some(answered(origin)));
    let other = Tuple {
        dst_port: 5556,
        ..answer
    };
    assert_eq!(world.nat.answered(&other), None, "of no flow");
    // The next connection in its place has none.
    world.nat.forget(world.now, ip("10.0.0.2"));
    assert_eq!(world.nat.answered(&answer), None);
    world.translate(Path::Inbound, &sent).unwrap();
    assert_eq!(world.nat.answered(&answer), Some(answered(None)));
    world.nat.set_origin(&dialled, origin);
    world.nat.set_origin(&dialled, None);
    assert_eq!(world.nat.answered(&answer), Some(answered(None)));
}
