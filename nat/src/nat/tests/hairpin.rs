//! Two containers that meet at external ports which masquerading gave them.

use super::*;

/// The external endpoint of an inside one, as a rendezvous server beyond the uplink sees it.
fn mapping(world: &World, inside: &str, protocol: Protocol) -> String {
    let server = "192.0.2.9:3478";
    let outside = match protocol {
        Protocol::TCP => world.out(&tcp(inside, server, SYN, b"")),
        _ => world.out(&udp(inside, server, b"")),
    };
    let outside = outside.unwrap();
    std::net::SocketAddr::from((outside.src, outside.src_port)).to_string()
}

const A: &str = "10.0.0.2:4242";
const B: &str = "10.0.0.3:4343";

// Conforms: RFC4787-9 RFC4787-8 RFC4787-1
#[test]
fn rfc_4787_req_9_two_containers_meet_at_their_external_ports() {
    let world = World::new();
    let (a, b) = (
        mapping(&world, A, Protocol::UDP),
        mapping(&world, B, Protocol::UDP),
    );
    // B has not sent to A: it is filtered, as it would be from outside, but A may now be reached.
    assert_eq!(world.hairpin(&udp(A, &b, b"hello")), Err(Refused::Filtered));
    let to_a = world.hairpin(&udp(B, &a, b"hello")).unwrap();
    assert_eq!(to_a.to_string(), format!("{b} > {A}/udp"));
    let to_b = world.hairpin(&udp(A, &b, b"hello")).unwrap();
    assert_eq!(to_b.to_string(), format!("{a} > {B}/udp"));
    // A third one, and another port of A, have not been sent to.
    let stranger = udp("10.0.0.4:1", &a, b"");
    for _ in 0..3 {
        assert_eq!(world.hairpin(&stranger), Err(Refused::Filtered));
    }
    let other = udp("10.0.0.2:4243", &b, b"");
    assert_eq!(world.hairpin(&other), Err(Refused::Filtered));
    let kinds = world.nat.connections(world.now);
    let halves = kinds.iter().filter(|it| it.kind == Kind::HairpinMapped);
    assert_eq!(halves.count(), 4);
}

// Conforms: RFC5382-8 RFC5382-2
#[test]
fn rfc_5382_req_8_and_so_for_tcp_by_a_simultaneous_open() {
    let world = World::new();
    let (a, b) = (
        mapping(&world, A, Protocol::TCP),
        mapping(&world, B, Protocol::TCP),
    );
    let segment = |from: &str, to: &str, flags| world.hairpin(&tcp(from, to, flags, b""));
    assert_eq!(segment(A, &b, SYN), Err(Refused::Filtered));
    let to_a = segment(B, &a, SYN).unwrap();
    assert_eq!(to_a.to_string(), format!("{b} > {A}/tcp"));
    segment(A, &b, SYN | ACK).unwrap();
    segment(B, &a, SYN | ACK).unwrap();
    segment(A, &b, ACK).unwrap();
    let all = world.nat.connections(world.now);
    let states: Vec<_> = all
        .iter()
        .filter(|it| it.kind == Kind::HairpinMapped)
        .map(|it| (it.state, it.out_of_window, it.packets))
        .collect();
    assert_eq!(states.len(), 2);
    // The SYN that was filtered is known to its sender's half alone.
    for state in states {
        assert!(state == ("established", false, [3, 2]) || state == ("established", false, [2, 2]));
    }
    let stats = world.nat.stats();
    assert_eq!((stats.out_of_window, stats.implausible_resets), (0, 0));
    assert_eq!(segment("10.0.0.4:1", &a, ACK), Err(Refused::Filtered));
    assert_eq!(segment("10.0.0.4:2", &a, RST), Err(Refused::NotOpening));
}

#[test]
fn a_free_port_that_the_target_has_sent_to_is_not_given_towards_it() {
    let mut world = World::with(Limits::default(), 61000..=61002);
    // For containers only, so that what it sends itself to others is masqueraded.
    world.publish(vec![Publish {
        allow: Sources::new(&["10.0.0.0/24".parse().unwrap()]),
        ..rule(1, Protocol::UDP, 8080..=8080, "10.0.0.3:80")
    }]);
    let published = format!("{HOST}:8080");
    let a = mapping(&world, A, Protocol::UDP);
    let sent = world.hairpin(&udp("10.0.0.3:80", &a, b""));
    assert_eq!(sent, Err(Refused::Filtered));
    world.nat.forget(world.now, ip("10.0.0.2"));
    assert_eq!(world.nat.external_ports_free(Protocol::UDP), 2);
    world.wait(30);
    // What it would send to A's port, which is free again, and its answers would be one flow.
    let given = world.hairpin(&udp(A, &published, b"")).unwrap();
    assert_ne!(format!("{}:{}", given.src, given.src_port), a);
    let next = world.hairpin(&udp("10.0.0.4:1", &published, b"")).unwrap();
    assert_ne!(format!("{}:{}", next.src, next.src_port), a);
    assert_ne!(next, given, "it shares the target's own");
    // Towards others it is as good as any.
    world.out(&udp("10.0.0.4:1", "192.0.2.9:53", b"")).unwrap();
}

/// With a forged source, and as no gateway would ask; but a connection has two tuples.
#[test]
fn who_sends_to_himself_has_another_port_for_the_answers() {
    for (ports, given) in [
        (61000..=61001, Refused::Filtered),
        (61000..=61000, Refused::PortsExhausted),
    ] {
        let world = World::with(Limits::default(), ports);
        let to_itself = udp("10.0.0.1:61000", "10.0.0.1:61000", b"");
        for _ in 0..2 {
            assert_eq!(world.hairpin(&to_itself), Err(given));
        }
        for half in world.nat.connections(world.now) {
            assert_ne!(half.original, half.reply);
        }
    }
    // Untranslated there is no other.
    let world = World::new();
    world.nat.set_rules(world.now, Rules::default());
    let to_itself = udp("10.0.0.1:53", "10.0.0.1:53", b"");
    assert_eq!(world.out(&to_itself), Err(Refused::TupleInUse));
    assert!(world.nat.is_empty());
}

/// A server that answers whatever it gets would answer itself for ever.
#[test]
fn a_late_answer_does_not_come_back() {
    let mut world = World::with(Limits::default(), 61000..=61000);
    world.publish(vec![rule(1, Protocol::UDP, 8080..=8080, "10.0.0.3:80")]);
    let asked = world
        .hairpin(&udp(A, &format!("{HOST}:8080"), b""))
        .unwrap();
    world.publish(vec![]);
    let late = packet(&asked.reversed());
    world.wait(30);
    for _ in 0..2 {
        assert_eq!(world.hairpin(&late), Err(Refused::Filtered));
    }
}

// Conforms: RFC5508-7
#[test]
fn rfc_5508_req_7_errors_cross_too() {
    let world = World::new();
    let (a, b) = (
        mapping(&world, A, Protocol::UDP),
        mapping(&world, B, Protocol::UDP),
    );
    let sent = udp(A, &b, b"hello");
    assert_eq!(world.hairpin(&sent), Err(Refused::Filtered));
    world.hairpin(&udp(B, &a, b"hello")).unwrap();
    let (_, _, received) = world.translate(Path::Hairpin, &sent).unwrap();
    let bytes = unreachable("10.0.0.3", HOST, &received, 28);
    let (_, _, mut out) = world.translate(Path::Hairpin, &bytes).unwrap();
    let packet = Packet::parse(&mut out, Checksum::Complete).unwrap();
    let quote = Quote::parse(&packet).unwrap();
    assert!(quote.has_valid_checksum(&packet));
    assert_eq!((packet.src(), packet.dst()), (ip(HOST), ip("10.0.0.2")));
    assert_eq!(quote.tuple.to_string(), format!("{A} > {b}/udp"));
    // About what never crossed.
    world.nat.forget(world.now, ip("10.0.0.2"));
    assert_eq!(
        world.translate(Path::Hairpin, &bytes).unwrap_err(),
        Refused::NotPublished
    );
}

#[test]
fn what_is_no_external_port_is_the_host_s() {
    let world = World::new();
    world.publish(vec![rule(1, Protocol::UDP, 8080..=8080, "10.0.0.2:80")]);
    let dial = |src: &str, port: u16| world.hairpin(&udp(src, &format!("{HOST}:{port}"), b""));
    assert_eq!(dial(A, 60999), Err(Refused::NotPublished));
    assert_eq!(dial(A, 62000), Err(Refused::NotPublished));
    // It has no external address to be seen with, or one that is published.
    assert_eq!(dial("10.9.0.2:1", 61500), Err(Refused::NotPublished));
    assert_eq!(dial("10.0.0.2:80", 61500), Err(Refused::Filtered));
    assert_eq!(
        world.hairpin(&echo("10.0.0.2", HOST, true, 61500)),
        Err(Refused::NotPublished)
    );
    assert!(world.nat.is_empty());
}

#[test]
fn a_half_ends_with_its_own_endpoint_and_its_own_time() {
    let mut world = World::new();
    let (a, b) = (
        mapping(&world, A, Protocol::UDP),
        mapping(&world, B, Protocol::UDP),
    );
    let _ = world.hairpin(&udp(A, &b, b""));
    world.hairpin(&udp(B, &a, b"")).unwrap();
    // A keeps both its mapping and its half, B's runs out: what A receives does not refresh it.
    for _ in 0..3 {
        world.wait(200);
        _ = world.hairpin(&udp(A, &b, b""));
    }
    assert_eq!(world.hairpin(&udp(A, &b, b"")), Err(Refused::Filtered));
    assert_eq!(world.nat.forget(world.now, ip("10.0.0.2")), 2);
    world.nat.flush(world.now, |_| false);
    assert_eq!(world.nat.external_ports_free(Protocol::UDP), 1000);
}
