//! TCP through the engine: opening, closing, resets, restarts (RFC 5382, RFC 7857).

use super::*;

/// A masqueraded connection with its handshake done; the tuple seen outside.
fn established(world: &World) -> Tuple {
    let outside = world
        .out(&tcp("10.0.0.2:4242", "192.0.2.9:80", SYN, b""))
        .unwrap();
    world
        .inside(&packet_with(&outside.reversed(), SYN | ACK))
        .unwrap();
    world
        .out(&tcp("10.0.0.2:4242", "192.0.2.9:80", ACK, b""))
        .unwrap();
    assert_eq!(world.state(), "established");
    outside
}

// Conforms: RFC5382-5
#[test]
fn rfc_5382_req_5_established_lives_2_h_4_min_and_transitory_4_min() {
    let mut world = World::new();
    let outside = established(&world);
    world.wait(2 * 3600 + 4 * 60 - 1);
    world.inside(&packet(&outside.reversed())).unwrap();
    world.wait(2 * 3600 + 4 * 60);
    assert_eq!(
        world.inside(&packet(&outside.reversed())),
        Err(Refused::NoMapping)
    );

    let mut world = World::new();
    let outside = world
        .out(&tcp("10.0.0.2:4242", "192.0.2.9:80", SYN, b""))
        .unwrap();
    world.wait(239);
    assert_eq!(world.state(), "syn-sent");
    world.wait(1);
    let late = packet_with(&outside.reversed(), SYN | ACK);
    assert_eq!(world.inside(&late), Err(Refused::NoMapping));
}

// Conforms: RFC5382-2
#[test]
fn rfc_5382_req_2_simultaneous_open() {
    let world = World::new();
    let outside = world
        .out(&tcp("10.0.0.2:4242", "192.0.2.9:80", SYN, b""))
        .unwrap();
    world
        .inside(&packet_with(&outside.reversed(), SYN))
        .unwrap();
    world
        .out(&tcp("10.0.0.2:4242", "192.0.2.9:80", SYN | ACK, b""))
        .unwrap();
    world
        .inside(&packet_with(&outside.reversed(), SYN | ACK))
        .unwrap();
    assert_eq!(world.state(), "established");
}

// Conforms: RFC7857
#[test]
fn rfc_7857_a_reset_shortens_the_timeout_and_deletes_nothing() {
    let mut world = World::new();
    let outside = established(&world);
    world
        .inside(&packet_with(&outside.reversed(), RST))
        .unwrap();
    assert_eq!(world.state(), "reset");
    let left = world.nat.connections(world.now)[0].expires_in;
    assert_eq!(left, Duration::from_secs(240));
    world.wait(239);
    // The inside did not believe it.
    assert_eq!(
        world
            .out(&tcp("10.0.0.2:4242", "192.0.2.9:80", ACK, b""))
            .unwrap(),
        outside
    );
    assert_eq!(world.state(), "established");
    world
        .inside(&packet_with(&outside.reversed(), RST))
        .unwrap();
    world.wait(240);
    assert!(world.nat.connections(world.now).is_empty());
}

// Conforms: TCP-rst-exact LINUX-rst-invalid
#[test]
fn a_blind_reset_passes_and_is_not_believed() {
    let world = World::new();
    let outside = established(&world);
    let (from, to) = ("192.0.2.9:80", format!("{HOST}:{}", outside.src_port));
    let forged = tcp_numbered(from, &to, RST, 0x4000_0000, 0, b"");
    assert!(world.inside(&forged).is_ok());
    assert_eq!(world.state(), "established");
    assert_eq!(world.nat.stats().implausible_resets, 1);
}

// Conforms: TCP-time-wait-reuse OVS-tcp-port-reuse
#[test]
fn time_wait_and_its_reuse_by_a_new_syn() {
    let mut world = World::new();
    let outside = established(&world);
    let peer = format!("{HOST}:{}", outside.src_port);
    let fin = tcp_numbered("10.0.0.2:4242", "192.0.2.9:80", FIN | ACK, 1001, 1001, b"");
    world.out(&fin).unwrap();
    assert_eq!(world.state(), "fin-wait");
    let fin = tcp_numbered("192.0.2.9:80", &peer, FIN | ACK, 1005, 1002, b"");
    world.inside(&fin).unwrap();
    assert_eq!(world.state(), "closing");
    let ack = tcp_numbered("10.0.0.2:4242", "192.0.2.9:80", ACK, 1002, 1006, b"");
    world.out(&ack).unwrap();
    assert_eq!(world.state(), "time-wait");
    world.wait(30);
    let syn = tcp("10.0.0.2:4242", "192.0.2.9:80", SYN, b"");
    let (translated, tuple, _) = world.translate(World::outbound(), &syn).unwrap();
    assert!(translated.new);
    assert_eq!(tuple, Some(outside));
    assert_eq!(world.state(), "syn-sent");
}

// Conforms: TCP-time-wait-reuse OVS-tcp-port-reuse
#[test]
fn what_is_over_is_opened_again_by_those_who_may() {
    let world = World::new();
    let outside = established(&world);
    world
        .inside(&packet_with(&outside.reversed(), RST))
        .unwrap();
    // Not by the peer of a masqueraded flow.
    world
        .inside(&packet_with(&outside.reversed(), SYN))
        .unwrap();
    assert_eq!(world.state(), "reset");

    let world = World::new();
    world.publish(vec![rule(1, Protocol::TCP, 80..=80, "10.0.0.2:80")]);
    let inside = world
        .inside(&tcp("192.0.2.9:5555", "198.51.100.1:80", SYN, b""))
        .unwrap();
    for (flags, state) in [
        (RST | ACK, "reset"),
        (SYN, "syn-sent"),
        (RST | ACK, "reset"),
    ] {
        world.out(&packet_with(&inside.reversed(), flags)).unwrap();
        assert_eq!(world.state(), state);
    }
    let again = world
        .inside(&tcp("192.0.2.9:5555", "198.51.100.1:80", SYN, b""))
        .unwrap();
    assert_eq!((again, world.state()), (inside, "syn-sent"));
}

#[test]
fn a_half_closed_connection_lives_on() {
    let mut world = World::new();
    let outside = established(&world);
    world
        .out(&tcp("10.0.0.2:4242", "192.0.2.9:80", FIN | ACK, b""))
        .unwrap();
    world.wait(3600);
    assert!(world.inside(&packet(&outside.reversed())).is_ok());
}

#[test]
fn flags_that_contradict_each_other() {
    let world = World::new();
    for flags in [0, SYN | FIN, SYN | RST, FIN, FIN | RST | ACK] {
        let sent = tcp("10.0.0.2:4242", "192.0.2.9:80", flags, b"");
        assert_eq!(world.out(&sent), Err(Refused::InvalidTcpFlags));
        assert_eq!(world.inside(&sent), Err(Refused::InvalidTcpFlags));
    }
}

// Conforms: OVS-tcp-pick-up TCP-mid-stream-pickup
#[test]
fn a_published_flow_survives_a_restart_from_either_side() {
    let publish = || vec![rule(1, Protocol::TCP, 8080..=8080, "10.0.0.2:80")];
    // The client speaks first.
    let world = World::new();
    world.publish(publish());
    let data = tcp("192.0.2.9:5555", "198.51.100.1:8080", ACK, b"request");
    let inside = world.inside(&data).unwrap();
    assert_eq!(inside.to_string(), "192.0.2.9:5555 > 10.0.0.2:80/tcp");
    assert_eq!(world.state(), "picked-up");
    world.out(&packet(&inside.reversed())).unwrap();
    assert_eq!(world.state(), "established");

    // The container does.
    let world = World::new();
    world.publish(publish());
    let data = tcp("10.0.0.2:80", "192.0.2.9:5555", ACK, b"news");
    let (translated, tuple, _) = world.translate(World::outbound(), &data).unwrap();
    assert_eq!(
        tuple.unwrap().to_string(),
        "198.51.100.1:8080 > 192.0.2.9:5555/tcp"
    );
    assert_eq!(
        (translated.kind, translated.direction),
        (Kind::Publish(1), Direction::Reply)
    );
    world
        .inside(&tcp("192.0.2.9:5555", "198.51.100.1:8080", ACK, b""))
        .unwrap();
    assert_eq!(world.state(), "established");

    // Between SYN and SYN-ACK.
    let world = World::new();
    world.publish(publish());
    world
        .out(&tcp("10.0.0.2:80", "192.0.2.9:5555", SYN | ACK, b""))
        .unwrap();
    world
        .inside(&tcp("192.0.2.9:5555", "198.51.100.1:8080", ACK, b""))
        .unwrap();
    assert_eq!(world.state(), "established");
}

// Conforms: TCP-mid-stream-pickup OVS-tcp-pick-up
#[test]
fn what_opens_no_connection() {
    let world = World::new();
    world.publish(vec![rule(1, Protocol::TCP, 8080..=8080, "10.0.0.2:80")]);
    let from_inside = |flags| world.out(&tcp("10.0.0.2:4242", "192.0.2.9:80", flags, b""));
    let from_outside =
        |flags| world.inside(&tcp("192.0.2.9:5555", "198.51.100.1:8080", flags, b""));
    for flags in [RST, RST | ACK, SYN | ACK] {
        assert_eq!(from_inside(flags), Err(Refused::NotOpening));
        assert_eq!(from_outside(flags), Err(Refused::NotOpening));
    }
    assert!(world.nat.is_empty());
    assert!(from_inside(ACK).is_ok() && from_outside(FIN | ACK).is_ok());

    let strict = Limits {
        pick_up_tcp: false,
        ..Limits::default()
    };
    let world = World::with(strict, 61000..=61999);
    world.publish(vec![rule(1, Protocol::TCP, 8080..=8080, "10.0.0.2:80")]);
    for data in [
        world.out(&tcp("10.0.0.2:4242", "192.0.2.9:80", ACK, b"")),
        world.out(&tcp("10.0.0.2:80", "192.0.2.9:80", ACK, b"")),
        world.inside(&tcp("192.0.2.9:5555", "198.51.100.1:8080", ACK, b"")),
        world.hairpin(&tcp("10.0.0.3:5555", "198.51.100.1:8080", ACK, b"")),
    ] {
        assert_eq!(data, Err(Refused::NotOpening));
    }
}
