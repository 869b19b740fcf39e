//! Rows of the RFCs, and cases of other systems' test suites, that no other page has.

use super::*;

// Conforms: RFC5382-4
#[test]
fn rfc_5382_req_4_an_unsolicited_syn_is_met_with_silence_for_ever() {
    let mut world = World::new();
    let outside = world
        .out(&tcp("10.0.0.2:4242", "192.0.2.9:80", SYN, b""))
        .unwrap();
    // To a port that is mapped, from another peer, and to one that is not. What is refused here is
    // let go of by the switch, and the host's own stack is kept from answering.
    for port in [outside.src_port, 61000, 62000] {
        let knock = tcp("192.0.2.77:5555", &format!("{HOST}:{port}"), SYN, b"");
        for _ in 0..10 {
            assert_eq!(world.inside(&knock), Err(Refused::NoMapping));
            world.wait(1);
        }
    }
    assert_eq!(world.nat.stats().opened, 1);
}

// Conforms: RFC4787-2 RFC6888-2
#[test]
fn rfc_4787_req_2_all_flows_of_a_host_leave_with_one_address() {
    let world = World::new();
    let mut seen = std::collections::BTreeSet::new();
    for port in 1..200 {
        let inside = format!("10.0.0.2:{port}");
        let peer = format!("192.0.2.{port}:{}", 1000 + port);
        seen.insert(world.out(&udp(&inside, &peer, b"")).unwrap().src);
        seen.insert(world.out(&tcp(&inside, &peer, SYN, b"")).unwrap().src);
        let ping = echo("10.0.0.2", &format!("192.0.2.{port}"), true, port);
        seen.insert(world.out(&ping).unwrap().src);
    }
    assert_eq!(Vec::from_iter(seen), [ip(HOST)]);
}

// Conforms: RFC4787-10 RFC5382-6
#[test]
fn rfc_4787_req_10_no_payload_is_touched() {
    let world = World::new();
    let payloads: [&[u8]; 3] = [
        b"PORT 10,0,0,2,16,146\r\n",
        b"INVITE sip:10.0.0.2:4242 SIP/2.0\r\nContact: <sip:10.0.0.2:4242>\r\n",
        b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x0210\x010\x010\x012\x00",
    ];
    world
        .out(&tcp("10.0.0.2:4242", "192.0.2.9:21", SYN, b""))
        .unwrap();
    for payload in payloads {
        for sent in [
            tcp("10.0.0.2:4242", "192.0.2.9:21", ACK, payload),
            udp("10.0.0.2:4242", "192.0.2.9:53", payload),
        ] {
            let (_, _, out) = world.translate(World::outbound(), &sent).unwrap();
            assert!(out.ends_with(payload));
        }
    }
    // And no expectation is made of it.
    assert_eq!(world.nat.len(), 2);
}

// Conforms: RFC4787-11 RFC4787-1 RFC4787-3
#[test]
fn rfc_4787_req_11_the_same_behaviour_under_conflict_and_load() {
    let world = World::with(Limits::default(), 61000..=61299);
    let mut external = std::collections::HashMap::new();
    for round in 0..3 {
        for host in 2..102 {
            for port in [4242, 4243, 4244] {
                let inside = format!("10.0.0.{host}:{port}");
                let peer = format!("192.0.2.{}:{}", 1 + round, 5000 + round);
                let outside = world.out(&udp(&inside, &peer, b"")).unwrap();
                let first = *external.entry(inside).or_insert(outside.src_port);
                assert_eq!(first, outside.src_port, "the mapping depends on the peer");
            }
        }
    }
    let mut ports: Vec<u16> = external.into_values().collect();
    ports.sort_unstable();
    ports.dedup();
    assert_eq!(ports.len(), 300, "every port, each for one endpoint");
}

// Conforms: RFC4787-12 RFC5382-10 RFC5382-9 RFC5508-4
#[test]
fn rfc_4787_req_12_no_icmp_error_ends_a_mapping() {
    let mut world = World::new();
    for sent in [
        udp("10.0.0.2:4242", "192.0.2.9:53", b"query"),
        tcp("10.0.0.2:4242", "192.0.2.9:80", SYN, b""),
        echo("10.0.0.2", PEER, true, 7),
    ] {
        let (_, outside, bytes) = world.translate(World::outbound(), &sent).unwrap();
        // Every code of destination unreachable, time exceeded, parameter problem.
        for (kind, codes) in [(3, 16), (11, 2), (12, 3)] {
            for code in 0..codes {
                let mut error = unreachable("203.0.113.1", HOST, &bytes, 28);
                (error[20], error[21]) = (kind, code);
                complete(&mut error);
                let (told, ..) = world.translate(Path::Inbound, &error).unwrap();
                assert!(!told.new);
            }
        }
        world.wait(29);
        let again = world.translate(World::outbound(), &sent).unwrap();
        assert_eq!((again.0.new, again.1), (false, outside));
    }
}

// Conforms: RFC5508-2
#[test]
fn rfc_5508_req_2_an_identifier_is_mapped_for_60_seconds() {
    let mut world = World::new();
    let request = world.out(&echo("10.0.0.2", PEER, true, 7)).unwrap();
    world.wait(59);
    let reply = packet(&request.reversed());
    assert!(world.inside(&reply).is_ok());
    world.wait(1);
    assert_eq!(world.inside(&reply), Err(Refused::NoMapping));
}

// Conforms: RFC4787-6 RFC4787-5
#[test]
fn rfc_4787_req_6_what_goes_out_refreshes_the_mapping() {
    let mut world = World::new();
    let sent = udp("10.0.0.2:4242", "192.0.2.9:5000", b"");
    let first = world.out(&sent).unwrap();
    for _ in 0..10 {
        world.wait(299);
        assert_eq!(world.out(&sent), Ok(first));
    }
    assert_eq!(world.nat.stats().opened, 1);
}

// Conforms: LINUX-conntrack-clash
#[test]
fn two_threads_with_the_first_packets_of_a_flow_open_it_once() {
    for round in 0..50 {
        let world = World::new();
        let sent = udp(&format!("10.0.0.2:{}", 100 + round), "192.0.2.9:53", b"");
        let results: Vec<_> = std::thread::scope(|scope| {
            let both = [(); 2].map(|()| scope.spawn(|| world.out(&sent)));
            both.map(|thread| thread.join().unwrap()).into()
        });
        assert!(results[0].is_ok());
        assert_eq!(results[0], results[1]);
        assert_eq!((world.nat.len(), world.nat.stats().opened), (1, 1));
    }
}

// Conforms: LINUX-conntrack-reverse-clash
#[test]
fn a_flow_from_inside_and_one_from_outside_between_the_same_ports_are_two() {
    let world = World::new();
    world.publish(vec![rule(1, Protocol::UDP, 61500..=61500, "10.0.0.2:80")]);
    // Somebody's masqueraded flow and a published one towards the same peer and port.
    let masqueraded = world
        .out(&udp("10.0.0.3:4242", "192.0.2.9:53", b""))
        .unwrap();
    let published = world
        .inside(&udp("192.0.2.9:53", &format!("{HOST}:61500"), b""))
        .unwrap();
    let answer = world.inside(&packet(&masqueraded.reversed())).unwrap();
    assert_eq!(answer.dst, ip("10.0.0.3"));
    assert_eq!(published.dst, ip("10.0.0.2"));
    // A peer whose answer to a container's question crosses the container's own answer.
    let question = world.out(&udp("10.0.0.2:80", "192.0.2.9:53", b"")).unwrap();
    assert_eq!((question.src, question.src_port), (ip(HOST), 61500));
    assert_eq!(world.nat.len(), 2);
}

// Conforms: LINUX-conntrack-tcp-unreplied
#[test]
fn a_syn_that_nobody_answers_holds_its_place_for_four_minutes_only() {
    let mut world = World::new();
    let syn = tcp("10.0.0.2:4242", "192.0.2.9:80", SYN, b"");
    for _ in 0..3 {
        world.out(&syn).unwrap();
        assert_eq!(world.state(), "syn-sent");
    }
    let left = world.nat.connections(world.now)[0].expires_in;
    assert_eq!(left, Duration::from_secs(240));
    // A published port that came in the meantime does not inherit it.
    world.publish(vec![rule(1, Protocol::TCP, 80..=80, "10.0.0.2:4242")]);
    assert!(world.nat.is_empty());
    world.publish(vec![]);
    world.out(&syn).unwrap();
    world.wait(240);
    for _ in 0..16 {
        world.nat.expire(world.now);
    }
    assert!(world.nat.is_empty());
    assert_eq!(world.nat.external_ports_free(Protocol::TCP), 1000);
}

// Conforms: RFC6888-8
#[test]
fn rfc_6888_req_8_a_freed_port_is_given_to_nobody_for_120_seconds() {
    let mut world = World::with(Limits::default(), 61000..=61003);
    let first = world
        .out(&udp("10.0.0.2:2", "192.0.2.9:5000", b""))
        .unwrap();
    world.nat.forget(world.now, ip("10.0.0.2"));
    for host in 3..6 {
        let inside = format!("10.0.0.{host}:2");
        let other = world.out(&udp(&inside, "192.0.2.9:5000", b"")).unwrap();
        assert_ne!(other.src_port, first.src_port);
    }
    world.wait(120);
    let next = world
        .out(&udp("10.0.0.7:2", "192.0.2.9:5000", b""))
        .unwrap();
    assert_eq!(next.src_port, first.src_port);
}

// Conforms: TCP-out-of-window TCP-challenge-ack
#[test]
fn out_of_window_is_marked_and_passed_on() {
    let world = World::new();
    let outside = world
        .out(&tcp("10.0.0.2:4242", "192.0.2.9:80", SYN, b""))
        .unwrap();
    let peer = format!("{HOST}:{}", outside.src_port);
    let from_peer = |flags, sequence, acknowledgement| {
        let bytes = tcp_numbered("192.0.2.9:80", &peer, flags, sequence, acknowledgement, b"");
        world.inside(&bytes)
    };
    // A challenge ACK, instead of the SYN-ACK; and then that.
    assert!(from_peer(ACK, 70_000_000, 90_000_000).is_ok());
    assert_eq!(world.state(), "syn-sent");
    assert!(from_peer(SYN | ACK, 1000, 1001).is_ok());
    world
        .out(&tcp("10.0.0.2:4242", "192.0.2.9:80", ACK, b""))
        .unwrap();
    let before = world.nat.connections(world.now)[0].expires_in;
    assert!(from_peer(FIN | ACK, 1001 + (1 << 24), 1001).is_ok());
    let info = &world.nat.connections(world.now)[0];
    assert_eq!((info.state, info.out_of_window), ("established", true));
    assert_eq!(info.expires_in, before);
    assert_eq!(world.nat.stats().out_of_window, 2);
}
