use super::*;
use crate::testing::*;

fn parse(bytes: &mut [u8]) -> Packet<'_> {
    Packet::parse(bytes, Checksum::Complete).unwrap()
}

#[test]
fn kinds() {
    assert_eq!(kind(Protocol::ICMP, 8), IcmpKind::EchoRequest);
    assert_eq!(kind(Protocol::ICMPV6, 129), IcmpKind::EchoReply);
    assert_eq!(kind(Protocol::ICMP, 3), IcmpKind::Error);
    assert_eq!(kind(Protocol::ICMPV6, 2), IcmpKind::Error);
    for redirect_and_quench in [4, 5] {
        assert_eq!(kind(Protocol::ICMP, redirect_and_quench), IcmpKind::Other);
    }
    // Neighbour discovery is not for a NAT.
    assert_eq!(kind(Protocol::ICMPV6, 135), IcmpKind::Other);
}

#[test]
fn rewrites_both_headers_and_every_checksum() {
    // Quoted whole, and cut after eight bytes as RFC 792 wants it at least.
    for quote in [28, 1000] {
        let seen = tcp("198.51.100.1:61000", "192.0.2.9:80", ACK, b"some data");
        let sent = tcp("10.0.0.2:4242", "192.0.2.9:80", ACK, b"some data");
        let mut error = unreachable("203.0.113.1", "198.51.100.1", &seen, quote);
        let expected = unreachable("203.0.113.1", "10.0.0.2", &sent, quote);
        let quoted = parse(&mut sent.clone()).tuple().unwrap();
        let mut packet = parse(&mut error);
        let found = Quote::parse(&packet).unwrap();
        assert_eq!(found.tuple, parse(&mut seen.clone()).tuple().unwrap());
        assert!(has_valid_checksum(&packet) && found.has_valid_checksum(&packet));
        found.rewrite(&mut packet, &quoted, ip("203.0.113.1"), ip("10.0.0.2"));
        assert_eq!(error, expected);
        assert_valid(&error, Checksum::Complete);
    }
}

// Conforms: RFC5508-4 OVS-icmp-related-nat
#[test]
fn of_ipv6_too() {
    for (seen, sent) in [
        (
            udp("[2001:db8::1]:61000", "[2001:db8:9::9]:53", b"query"),
            udp("[fd00::2]:4242", "[2001:db8:9::9]:53", b"query"),
        ),
        (
            echo("2001:db8::1", "2001:db8:9::9", true, 61000),
            echo("fd00::2", "2001:db8:9::9", true, 4242),
        ),
    ] {
        let mut error = unreachable("2001:db8:7::7", "2001:db8::1", &seen, 1232);
        let expected = unreachable("2001:db8:7::7", "fd00::2", &sent, 1232);
        let quoted = parse(&mut sent.clone()).tuple().unwrap();
        let mut packet = parse(&mut error);
        let found = Quote::parse(&packet).unwrap();
        assert!(has_valid_checksum(&packet));
        found.rewrite(&mut packet, &quoted, ip("2001:db8:7::7"), ip("fd00::2"));
        assert_eq!(error, expected);
    }
}

#[test]
fn a_partial_checksum_becomes_the_new_pseudo_header() {
    let seen = udp("[2001:db8::1]:61000", "[2001:db8:9::9]:53", b"query");
    let mut error = unreachable("2001:db8:7::7", "2001:db8::1", &seen, 1232);
    make_partial(&mut error);
    let mut packet = Packet::parse(&mut error, Checksum::Partial).unwrap();
    let found = Quote::parse(&packet).unwrap();
    let quoted = Tuple {
        src: ip("fd00::2"),
        src_port: 4242,
        ..found.tuple
    };
    found.rewrite(&mut packet, &quoted, ip("2001:db8:7::7"), ip("fd00::2"));
    assert_valid(&error, Checksum::Partial);
}

#[test]
fn what_is_no_quote() {
    let seen = udp("198.51.100.1:61000", "192.0.2.9:53", b"query");
    let quote = |seen: &[u8], length| {
        let mut error = unreachable("203.0.113.1", "198.51.100.1", seen, length);
        Quote::parse(&parse(&mut error))
    };
    assert!(quote(&seen, 28).is_some());
    assert!(quote(&seen, 27).is_none(), "cut in the transport header");
    assert!(quote(&seen, 10).is_none(), "cut in the IP header");
    assert!(quote(&seen, 0).is_none());
    let with = |at: usize, value: u8| {
        let mut seen = seen.clone();
        seen[at] = value;
        quote(&seen, 1000)
    };
    assert!(with(0, 0x65).is_none(), "another version");
    assert!(with(0, 0x44).is_none(), "a header too short");
    assert!(with(0, 0x4f).is_none(), "a header beyond the quote");
    assert!(with(7, 1).is_none(), "a later fragment");
    assert!(with(6, 0x20).is_some(), "a first fragment has the ports");
    assert!(with(9, 136).is_none(), "not translated");
    assert!(
        with(12, 199).is_none(),
        "not a packet of the error's receiver"
    );
    let error = unreachable("198.51.100.1", "192.0.2.9", &seen, 1000);
    assert!(quote(&error, 1000).is_none(), "an error about an error");
}

#[test]
fn rfc_5508_req_3_damage_shows() {
    let seen = udp("198.51.100.1:61000", "192.0.2.9:53", b"query");
    let mut error = unreachable("203.0.113.1", "198.51.100.1", &seen, 1000);
    error[21] = 4;
    assert!(!has_valid_checksum(&parse(&mut error)));

    let mut damaged = seen.clone();
    damaged[8] = 7;
    let mut error = unreachable("203.0.113.1", "198.51.100.1", &damaged, 1000);
    let packet = parse(&mut error);
    assert!(has_valid_checksum(&packet));
    assert!(!Quote::parse(&packet).unwrap().has_valid_checksum(&packet));
}
