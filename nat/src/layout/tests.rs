use super::*;

/// An IPv6 packet of these headers, each with its own number, and eight bytes of `last`.
fn ipv6(headers: &[(u8, &[u8])], last: u8) -> Vec<u8> {
    let mut packet = vec![0; IPV6_HEADER];
    packet[0] = 0x60;
    let nexts = headers.iter().skip(1).map(|header| header.0).chain([last]);
    packet[6] = headers.first().map_or(last, |header| header.0);
    for ((_, bytes), next) in headers.iter().zip(nexts) {
        let start = packet.len();
        packet.extend(*bytes);
        packet[start] = next;
    }
    packet.extend([0xaa; 8]);
    let length = packet.len() - IPV6_HEADER;
    packet[4..6].copy_from_slice(&(length as u16).to_be_bytes());
    packet
}

fn ipv4(options: &[u8]) -> Vec<u8> {
    let mut packet = vec![0; IPV4_HEADER];
    packet[0] = 0x45 + (options.len() / 4) as u8;
    packet[3] = (IPV4_HEADER + options.len() + 8) as u8;
    packet[9] = 17;
    packet.extend(options);
    packet.extend([0; 8]);
    packet
}

const ICMPV6: u8 = 58;

// Conforms: IPV6-extension-headers
#[test]
fn every_header_that_may_hide_another_is_walked() {
    for kind in [0, 43, 51, 60, 135, 139, 140] {
        let packet = ipv6(&[(kind, &[0, 0, 2, 1, 0, 0, 0, 0])], ICMPV6);
        let layout = Layout::of(&packet).unwrap();
        let at = packet.len() - 8;
        let protocol = Protocol(ICMPV6);
        assert_eq!(layout.upper, Header { protocol, at }, "{kind}");
        // But what is signed, or on its way elsewhere, is not to be translated.
        let binds = layout.binding.map(|header| header.protocol.0);
        assert_eq!(binds, (kind != 0 && kind != 60).then_some(kind));
    }
}

#[test]
fn a_first_fragment_is_read_on_and_a_fragment_of_it_is_not() {
    let first: (u8, &[u8]) = (44, &[0, 0, 0, 1, 0, 0, 0, 7]);
    let option: (u8, &[u8]) = (60, &[0; 8]);
    let packet = ipv6(&[first, option], ICMPV6);
    let layout = Layout::of(&packet).unwrap();
    assert_eq!(layout.fragment, Fragment::First);
    assert_eq!(layout.upper.protocol, Protocol(60));
    let head = layout.head(&packet).unwrap();
    assert_eq!(head.upper.protocol, Protocol(ICMPV6));
    assert_eq!(head.fragment, Fragment::First);
    let nested = ipv6(&[first, first], ICMPV6);
    assert!(Layout::of(&nested).unwrap().head(&nested).is_err());
    let later = ipv6(&[(44, &[0, 0, 0, 8, 0, 0, 0, 7])], ICMPV6);
    assert_eq!(Layout::of(&later).unwrap().fragment, Fragment::Later);
    let atomic = ipv6(&[(44, &[0, 0, 0, 6, 0, 0, 0, 7])], ICMPV6);
    assert_eq!(Layout::of(&atomic).unwrap().fragment, Fragment::Atomic);
}

#[test]
fn a_route_that_the_sender_chose_is_seen() {
    let seen = |packet: &[u8]| Layout::of(packet).map(|layout| layout.source_routed);
    assert_eq!(seen(&ipv4(&[])), Ok(false));
    assert_eq!(seen(&ipv4(&[148, 4, 0, 0])), Ok(false));
    for kind in [131, 137] {
        assert_eq!(seen(&ipv4(&[1, kind, 7, 4, 10, 0, 0, 9])), Ok(true));
        // Behind the end of the options there is none.
        assert_eq!(seen(&ipv4(&[0, kind, 7, 4, 10, 0, 0, 9])), Ok(false));
    }
    for bad in [[131, 0, 0, 0], [131, 1, 0, 0], [7, 5, 0, 0], [1, 1, 1, 7]] {
        assert_eq!(seen(&ipv4(&bad)), Err(Malformed::Options));
    }
    let routed = |kind, left| ipv6(&[(43, &[0, 0, kind, left, 0, 0, 0, 0])], 17);
    assert_eq!(seen(&routed(0, 1)), Ok(true));
    assert_eq!(seen(&routed(0, 0)), Ok(false));
    assert_eq!(seen(&routed(4, 1)), Ok(false));
}

#[test]
fn what_is_cut_off_is_malformed() {
    let headers: [(u8, &[u8]); 3] = [(0, &[0; 8]), (51, &[0; 8]), (60, &[0; 8])];
    for whole in [ipv6(&headers, 17), ipv4(&[1, 1, 1, 0])] {
        assert!(Layout::of(&whole).is_ok());
        for len in 0..whole.len() {
            assert!(Layout::of(&whole[..len]).is_err(), "{len}");
        }
    }
    // A jumbogram's length of zero is none, with or without its option (RFC 2675).
    let mut jumbo = ipv6(&[(0, &[0, 0, 0xc2, 4, 0, 1, 0, 0])], ICMPV6);
    jumbo[4..6].fill(0);
    assert_eq!(Layout::of(&jumbo), Err(Malformed::ExtensionHeaders));
}
