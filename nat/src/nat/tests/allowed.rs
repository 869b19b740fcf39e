//! Published ports that are for some sources alone.

use super::*;

fn listed(protocol: Protocol, allow: &[&str]) -> Publish {
    let networks: Vec<ipnet::IpNet> = allow.iter().map(|it| it.parse().unwrap()).collect();
    Publish {
        allow: Sources::new(&networks),
        ..rule(1, protocol, 8080..=8080, "10.0.0.2:80")
    }
}

const LISTED: &str = "192.0.2.9:5555";
const STRANGER: &str = "192.0.2.10:5555";
const PUBLISHED: &str = "198.51.100.1:8080";

#[test]
fn a_stranger_is_refused_by_name_and_leaves_nothing_behind() {
    for protocol in [Protocol::TCP, Protocol::UDP] {
        let world = World::new();
        world.publish(vec![listed(protocol, &["192.0.2.9/32", "10.0.0.4/32"])]);
        let knock = |from: &str| match protocol {
            Protocol::TCP => tcp(from, PUBLISHED, SYN, b""),
            _ => udp(from, PUBLISHED, b""),
        };
        assert_eq!(world.inside(&knock(STRANGER)), Err(Refused::NotAllowed));
        assert_eq!(
            world.hairpin(&knock("10.0.0.3:5555")),
            Err(Refused::NotAllowed)
        );
        assert_eq!(world.nat.len(), 0);
        assert_eq!(world.inside(&knock(LISTED)).unwrap().dst, ip("10.0.0.2"));
        assert!(world.hairpin(&knock("10.0.0.4:5555")).is_ok());
        // Nor may it go on with what another daemon let in.
        if protocol == Protocol::TCP {
            let later = tcp(STRANGER, PUBLISHED, ACK, b"data");
            assert_eq!(world.inside(&later), Err(Refused::NotAllowed));
        }
    }
}

#[test]
fn a_list_of_one_family_lets_nobody_of_the_other_in() {
    let world = World::new();
    let ipv6 = Publish {
        to: ip("fd00::2"),
        ..listed(Protocol::UDP, &["0.0.0.0/0"])
    };
    world.publish(vec![ipv6]);
    let knock = udp("[2001:db8::9]:5555", &format!("[{HOST6}]:8080"), b"");
    assert_eq!(world.inside(&knock), Err(Refused::NotAllowed));
}

#[test]
fn a_new_list_cuts_the_flows_of_those_who_left_it_and_no_other() {
    let world = World::new();
    world.publish(vec![listed(Protocol::UDP, &[])]);
    for from in [LISTED, STRANGER] {
        world.inside(&udp(from, PUBLISHED, b"")).unwrap();
    }
    for from in ["10.0.0.3:5555", "10.0.0.4:5555"] {
        world.hairpin(&udp(from, PUBLISHED, b"")).unwrap();
    }
    assert_eq!(world.nat.len(), 4);
    world.publish(vec![listed(
        Protocol::UDP,
        &["192.0.2.9/32", "10.0.0.4/32"],
    )]);
    assert_eq!(world.nat.len(), 2);
    let again = udp(STRANGER, PUBLISHED, b"");
    assert_eq!(world.inside(&again), Err(Refused::NotAllowed));
    assert!(
        !world
            .translate(Path::Inbound, &udp(LISTED, PUBLISHED, b""))
            .unwrap()
            .0
            .new
    );
}

#[test]
fn to_a_stranger_the_container_speaks_as_from_any_other_port() {
    let world = World::new();
    world.publish(vec![listed(Protocol::UDP, &["192.0.2.9/32"])]);
    let to_listed = world.out(&udp("10.0.0.2:80", LISTED, b"")).unwrap();
    assert_eq!(to_listed.src_port, 8080);
    let to_stranger = world.out(&udp("10.0.0.2:80", STRANGER, b"")).unwrap();
    assert!(to_stranger.src_port >= 61000);
    // Its answer comes back, and opens nothing on the published port.
    let answer = world.inside(&packet(&to_stranger.reversed())).unwrap();
    assert_eq!(answer.to_string(), "192.0.2.10:5555 > 10.0.0.2:80/udp");
    let knock = udp(STRANGER, PUBLISHED, b"");
    assert_eq!(world.inside(&knock), Err(Refused::NotAllowed));
    // Rules that change nothing cut neither.
    world.publish(vec![listed(Protocol::UDP, &["192.0.2.9/32"])]);
    assert_eq!(world.nat.len(), 2);
    // Once the stranger is on the list, the published port is the container's towards it too.
    world.publish(vec![listed(Protocol::UDP, &["192.0.2.0/24"])]);
    assert_eq!(world.nat.len(), 1);
    let to_stranger = world.out(&udp("10.0.0.2:80", STRANGER, b"")).unwrap();
    assert_eq!(to_stranger.src_port, 8080);
}

#[test]
fn fragments_of_a_stranger_are_refused_with_their_first() {
    let world = World::new();
    world.publish(vec![listed(Protocol::UDP, &["192.0.2.9/32"])]);
    let whole = udp(STRANGER, PUBLISHED, &[7; 64]);
    let pieces = [(0, 40, true), (40, 32, false)].map(|(at, length, more)| {
        let mut piece = whole[..20].to_vec();
        piece.extend_from_slice(&whole[20 + at..20 + at + length]);
        piece[2..4].copy_from_slice(&(20 + length as u16).to_be_bytes());
        let field = (at / 8) as u16 | if more { 0x2000 } else { 0 };
        piece[6..8].copy_from_slice(&field.to_be_bytes());
        piece[10..12].fill(0);
        let sum = pnet_packet::ipv4::checksum(&pnet_packet::ipv4::Ipv4Packet::new(&piece).unwrap());
        piece[10..12].copy_from_slice(&sum.to_be_bytes());
        piece
    });
    for mut piece in pieces {
        let mut packet = Packet::parse(&mut piece, Checksum::Complete).unwrap();
        let outcome =
            world
                .nat
                .translate_fragment(world.now, Path::Inbound, &mut packet, &mut Vec::new());
        assert_eq!(outcome, Err(Refused::NotAllowed));
    }
}
