//! Fragments through the engine (RFC 4787 REQ-14, RFC 5722, RFC 8200 section 4.5).

use proptest::prelude::*;

use super::*;
use crate::testing::{cut, extended, piece, reassemble};

/// What comes out when a fragment is handed in, in its order: the fragment itself, and what was
/// held for it and is handed in again.
type Outcomes = Vec<Result<Option<Vec<u8>>, Refused>>;

impl World {
    fn feed(&self, path: Path, bytes: &[u8]) -> Outcomes {
        let mut released = Vec::new();
        let mut out = bytes.to_vec();
        let mut packet = Packet::parse(&mut out, Checksum::Complete).unwrap();
        let is_first = packet.piece().is_none_or(|piece| piece.offset == 0);
        let outcome = self
            .nat
            .translate_fragment(self.now, path, &mut packet, &mut released);
        let opened = matches!(outcome, Ok(Some(translated)) if translated.new);
        assert!(is_first || !opened, "a later fragment opened a connection");
        if !matches!(outcome, Ok(Some(_))) {
            assert_eq!(out, bytes, "a fragment that did not pass was changed");
        }
        let mut outcomes = vec![outcome.map(|translated| translated.map(|_| out))];
        for held in released {
            outcomes.extend(self.feed(path, &held));
        }
        outcomes
    }

    /// Hands in fragments and returns what leaves.
    fn leave(&self, path: Path, pieces: &[Vec<u8>]) -> Vec<Vec<u8>> {
        let outcomes = pieces.iter().flat_map(|bytes| self.feed(path, bytes));
        outcomes.filter_map(|outcome| outcome.ok()?).collect()
    }

    #[track_caller]
    fn refused(&self, path: Path, bytes: &[u8]) -> Refused {
        let mut outcomes = self.feed(path, bytes);
        assert_eq!(outcomes.len(), 1);
        outcomes.remove(0).unwrap_err()
    }

    #[track_caller]
    fn held(&self, path: Path, bytes: &[u8]) {
        assert_eq!(self.feed(path, bytes), [Ok(None)]);
    }

    #[track_caller]
    fn passes(&self, path: Path, bytes: &[u8]) -> Vec<u8> {
        let mut outcomes = self.feed(path, bytes);
        assert_eq!(outcomes.len(), 1);
        outcomes.remove(0).unwrap().expect("it was held")
    }
}

fn out6() -> Path {
    Path::Outbound {
        external: ip(HOST6),
    }
}

/// A UDP packet of 1000 bytes behind the IP header, and its length before a fragment header.
fn large(family: u8) -> (Vec<u8>, usize, Path) {
    let payload: Vec<u8> = (0..992).map(|at| (at % 251) as u8).collect();
    match family {
        4 => (
            udp("10.0.0.2:4242", "192.0.2.9:53", &payload),
            20,
            World::outbound(),
        ),
        _ => (
            udp("[fd00::2]:4242", "[2001:db8::9]:53", &payload),
            40,
            out6(),
        ),
    }
}

fn destination(bytes: &[u8]) -> IpAddr {
    Packet::parse(&mut bytes.to_vec(), Checksum::Complete)
        .unwrap()
        .dst()
}

fn source(bytes: &[u8]) -> IpAddr {
    Packet::parse(&mut bytes.to_vec(), Checksum::Complete)
        .unwrap()
        .src()
}

fn identification(bytes: &[u8]) -> u32 {
    let mut bytes = bytes.to_vec();
    let packet = Packet::parse(&mut bytes, Checksum::Complete).unwrap();
    packet.piece().unwrap().identification
}

// Conforms: RFC4787-14 OVS-frag-out-of-order OVS-frag-nat
#[test]
fn fragments_in_any_order_leave_as_the_whole_would_with_the_first_one_ahead() {
    for family in [4, 6] {
        let (whole, kept, path) = large(family);
        let pieces = cut(&whole, kept, 77, &[296, 592, 888]);
        let permutations = [[0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1], [1, 2, 3, 0]];
        for order in permutations {
            let world = World::new();
            let shuffled: Vec<Vec<u8>> = order.iter().map(|&at| pieces[at].clone()).collect();
            let left = world.leave(path, &shuffled);
            assert_eq!(left.len(), 4);
            let offset = if family == 4 { 6 } else { 42 };
            assert_eq!(left[0][offset..offset + 2], pieces[0][offset..offset + 2]);
            let mut together = reassemble(&left, kept).unwrap();
            assert_valid(&together, Checksum::Complete);
            let expected = World::new().translate(path, &whole).unwrap().2;
            if family == 4 {
                // The identification is a new one, and DF was not there to begin with.
                together[4..8].copy_from_slice(&expected[4..8]);
                together[10..12].copy_from_slice(&expected[10..12]);
            }
            assert_eq!(together, expected);
            assert_eq!(world.nat.lost_fragments(world.now), 0);
        }
    }
}

/// What a published port says has that port, even in pieces that do not tell their protocol.
// Conforms: OVS-frag-extension-headers
#[test]
fn an_extension_header_behind_the_fragment_header_hides_no_published_port() {
    let world = World::new();
    let rules = Rules {
        masquerade: vec![],
        ..World::rules(vec![rule(1, Protocol::UDP, 8080..=8080, "[fd00::2]:4242")])
    };
    world.nat.set_rules(world.now, rules);
    let (plain, kept, path) = large(6);
    let pieces = cut(&extended(&plain, &[60]), kept, 7, &[400, 800]);
    for order in [[0, 1, 2], [2, 1, 0]] {
        let shuffled: Vec<Vec<u8>> = order.iter().map(|&at| pieces[at].clone()).collect();
        let left = world.leave(path, &shuffled);
        assert_eq!(left.len(), 3);
        assert!(left.iter().all(|piece| source(piece) == ip(HOST6)));
    }
}

// Conforms: OVS-frag-extension-headers IPV6-extension-headers
#[test]
fn extension_headers_may_stand_before_and_behind_the_fragment_header() {
    for (before, behind) in [(&[0][..], &[][..]), (&[0, 60], &[60]), (&[], &[60, 60, 60])] {
        let (plain, _, path) = large(6);
        let whole = extended(&plain, &[before, behind].concat());
        let kept = 40 + 8 * before.len();
        let pieces = cut(&whole, kept, 0xdead_beef, &[400, 800]);
        for order in [[0, 1, 2], [2, 1, 0]] {
            let world = World::new();
            let shuffled: Vec<Vec<u8>> = order.iter().map(|&at| pieces[at].clone()).collect();
            let left = world.leave(path, &shuffled);
            let together = reassemble(&left, kept).unwrap();
            assert_eq!(together, World::new().translate(path, &whole).unwrap().2);
        }
    }
}

// Conforms: RFC4787-14 IPV6-frag-overlap OVS-frag-overlap
#[test]
fn an_overlap_by_one_unit_ends_the_datagram_in_both_orders() {
    for family in [4, 6] {
        let (whole, kept, path) = large(family);
        let first = piece(&whole, kept, 5, 0..496, true);
        let second = piece(&whole, kept, 5, 488..896, true);
        let last = piece(&whole, kept, 5, 896..1000, false);

        let world = World::new();
        world.passes(path, &first);
        assert_eq!(world.refused(path, &second), Refused::FragmentOverlap);
        assert_eq!(world.refused(path, &last), Refused::FragmentOverlap);
        assert_eq!(world.refused(path, &first), Refused::FragmentOverlap);

        let world = World::new();
        world.held(path, &last);
        world.held(path, &second);
        assert_eq!(world.refused(path, &first), Refused::FragmentOverlap);
        assert_eq!(world.nat.lost_fragments(world.now), 2);
        assert_eq!(world.refused(path, &last), Refused::FragmentOverlap);
        assert!(world.nat.is_empty(), "the first one was not translated");

        // Another datagram is not concerned, and after its time this one may begin anew.
        let mut world = world;
        world.passes(path, &piece(&whole, kept, 6, 0..496, true));
        world.wait(30);
        world.passes(path, &first);
    }
}

#[test]
fn a_second_end_or_data_beyond_the_end_is_an_overlap() {
    let (whole, kept, path) = large(4);
    for (one, other) in [
        ((896..1000, false), (896..1000, true)),
        ((896..1000, false), (896..904, false)),
        ((504..800, false), (800..896, true)),
        ((800..896, true), (504..800, false)),
    ] {
        let world = World::new();
        let [one, other] = [one, other].map(|(range, more)| piece(&whole, kept, 5, range, more));
        // A length that is no multiple of 8 with more to follow is named first.
        if Packet::parse(&mut other.clone(), Checksum::Complete)
            .unwrap()
            .piece()
            .unwrap()
            .is_valid()
        {
            world.held(path, &one);
            assert_eq!(world.refused(path, &other), Refused::FragmentOverlap);
        } else {
            assert_eq!(world.refused(path, &other), Refused::FragmentInvalid);
        }
    }
}

#[test]
fn an_exact_duplicate_is_dropped_alone() {
    for family in [4, 6] {
        let (whole, kept, path) = large(family);
        let pieces = cut(&whole, kept, 9, &[296, 592]);
        let world = World::new();
        world.held(path, &pieces[1]);
        assert_eq!(world.refused(path, &pieces[1]), Refused::FragmentDuplicate);
        let mut left = world.leave(path, &pieces[..1]);
        assert_eq!(world.refused(path, &pieces[0]), Refused::FragmentDuplicate);
        assert_eq!(world.refused(path, &pieces[1]), Refused::FragmentDuplicate);
        left.push(world.passes(path, &pieces[2]));
        assert!(reassemble(&left, kept).is_some());
    }
}

// Conforms: RFC4787-14 OVS-frag-expiry OVS-frag-incomplete
#[test]
fn what_waits_too_long_is_forgotten_and_counted() {
    for family in [4, 6] {
        let (whole, kept, path) = large(family);
        let pieces = cut(&whole, kept, 9, &[296, 592]);
        let mut world = World::new();
        world.held(path, &pieces[1]);
        world.wait(29);
        world.held(path, &pieces[2]);
        world.wait(1);
        assert_eq!(world.nat.lost_fragments(world.now), 2);
        // The first one is now alone, and what comes behind it passes for another 30 seconds.
        world.passes(path, &pieces[0]);
        world.wait(29);
        world.passes(path, &pieces[1]);
        world.wait(1);
        world.held(path, &pieces[2]);
        assert_eq!(world.nat.lost_fragments(world.now), 0);
    }
}

// Conforms: RFC4787-14
#[test]
fn two_hosts_with_one_identification_are_two_datagrams_outside() {
    let payload = [1; 992];
    let world = World::new();
    let mut seen = Vec::new();
    for host in ["10.0.0.2:4242", "10.0.0.3:4242"] {
        let whole = udp(host, "192.0.2.9:53", &payload);
        let left = world.leave(World::outbound(), &cut(&whole, 20, 77, &[496]));
        assert_eq!(left.len(), 2);
        assert!(left.iter().all(|bytes| source(bytes) == ip(HOST)));
        assert_eq!(identification(&left[0]), identification(&left[1]));
        seen.push(identification(&left[0]));
    }
    assert_ne!(seen[0], seen[1]);
}

// Conforms: RFC4787-14
#[test]
fn answers_and_published_ports_and_hairpins_work_in_fragments() {
    let world = World::new();
    world.publish(vec![rule(1, Protocol::UDP, 8080..=8080, "10.0.0.3:80")]);
    let payload = [1; 992];

    // Masqueraded, and its answer.
    let (whole, kept, path) = large(4);
    let left = world.leave(path, &cut(&whole, kept, 1, &[496]));
    let outside = reassemble(&left, 20).unwrap();
    let mut outside = outside;
    let tuple = Packet::parse(&mut outside, Checksum::Complete)
        .unwrap()
        .tuple()
        .unwrap();
    let peer = "192.0.2.9:53";
    let answer = udp(peer, &format!("{HOST}:{}", tuple.src_port), &payload);
    let mut pieces = cut(&answer, 20, 2, &[496]);
    pieces.reverse();
    let left = world.leave(Path::Inbound, &pieces);
    assert_eq!(left.len(), 2);
    assert!(
        left.iter()
            .all(|bytes| destination(bytes) == ip("10.0.0.2"))
    );
    assert_valid(&reassemble(&left, 20).unwrap(), Checksum::Complete);

    // Published.
    let dial = udp("192.0.2.9:999", &format!("{HOST}:8080"), &payload);
    let left = world.leave(Path::Inbound, &cut(&dial, 20, 3, &[496]));
    assert!(
        left.iter()
            .all(|bytes| destination(bytes) == ip("10.0.0.3"))
    );
    assert_valid(&reassemble(&left, 20).unwrap(), Checksum::Complete);

    // Hairpin, the last fragment first.
    let dial = udp("10.0.0.2:999", &format!("{HOST}:8080"), &payload);
    let mut pieces = cut(&dial, 20, 4, &[496]);
    pieces.reverse();
    let left = world.leave(Path::Hairpin, &pieces);
    assert_eq!(left.len(), 2);
    assert!(
        left.iter()
            .all(|bytes| (source(bytes), destination(bytes)) == (ip(HOST), ip("10.0.0.3")))
    );
    assert_valid(&reassemble(&left, 20).unwrap(), Checksum::Complete);

    // An echo.
    let ping = |src: &str, dst: &str, request, id| {
        let mut bytes = echo(src, dst, request, id)[20..].to_vec();
        bytes.extend_from_slice(&payload);
        wrap(ip(src), ip(dst), Protocol::ICMP, &bytes)
    };
    let request = ping("10.0.0.2", PEER, true, 7);
    let left = world.leave(World::outbound(), &cut(&request, 20, 5, &[496]));
    let mut outside = reassemble(&left, 20).unwrap();
    assert_valid(&outside, Checksum::Complete);
    let tuple = Packet::parse(&mut outside, Checksum::Complete)
        .unwrap()
        .tuple()
        .unwrap();
    let reply = ping(PEER, HOST, false, tuple.src_port);
    let left = world.leave(Path::Inbound, &cut(&reply, 20, 6, &[496]));
    assert!(
        left.iter()
            .all(|bytes| destination(bytes) == ip("10.0.0.2"))
    );
    assert_valid(&reassemble(&left, 20).unwrap(), Checksum::Complete);
}

#[test]
fn what_the_first_one_is_refused_for_all_are() {
    let world = World::new();
    world.publish(vec![rule(1, Protocol::UDP, 8080..=8080, "10.0.0.3:80")]);
    let payload = [1; 992];
    for (path, dial, why) in [
        (
            Path::Inbound,
            udp("192.0.2.9:999", &format!("{HOST}:5"), &payload),
            Refused::NoMapping,
        ),
        (
            Path::Hairpin,
            udp("10.0.0.2:9", &format!("{HOST}:5"), &payload),
            Refused::NotPublished,
        ),
        (
            World::outbound(),
            wrap(ip("10.0.0.2"), ip(PEER), Protocol(136), &payload),
            Refused::UnsupportedProtocol,
        ),
    ] {
        let pieces = cut(&dial, 20, 3, &[296, 592]);
        world.held(path, &pieces[1]);
        assert_eq!(
            world.feed(path, &pieces[0]),
            [Err(why), Err(why)],
            "{path:?}"
        );
        assert_eq!(world.refused(path, &pieces[2]), why);
    }
}

// Conforms: IPV6-frag-header-chain
#[test]
fn a_first_fragment_must_hold_the_transport_header() {
    for family in [4, 6] {
        let (src, dst) = if family == 4 {
            ("10.0.0.2:4242", "192.0.2.9:80")
        } else {
            ("[fd00::2]:4242", "[2001:db8::9]:80")
        };
        let (_, kept, path) = large(family);
        let whole = tcp(src, dst, SYN, &[0; 100]);
        let world = World::new();
        let pieces = cut(&whole, kept, 3, &[16]);
        assert_eq!(world.refused(path, &pieces[0]), Refused::FragmentTiny);
        assert_eq!(world.refused(path, &pieces[1]), Refused::FragmentTiny);
        let pieces = cut(&whole, kept, 4, &[24]);
        assert_eq!(world.leave(path, &pieces).len(), 2);
    }
    // Of IPv6 also the extension headers before it.
    let whole = extended(&udp("[fd00::2]:1", "[2001:db8::9]:2", &[0; 100]), &[60, 60]);
    let world = World::new();
    let first = piece(&whole, 40, 3, 0..16, true);
    assert_eq!(world.refused(out6(), &first), Refused::FragmentTiny);
}

#[test]
fn impossible_fragments_have_a_name() {
    let (whole, _, path) = large(4);
    let world = World::new();
    let mut beyond = piece(&whole, 20, 3, 496..1000, false);
    beyond[6..8].copy_from_slice(&0x1fffu16.to_be_bytes());
    for bytes in [
        piece(&whole, 20, 3, 0..499, true),
        piece(&whole, 20, 3, 496..496, true),
        piece(&whole, 20, 3, 496..496, false),
        beyond,
    ] {
        assert_eq!(world.refused(path, &bytes), Refused::FragmentInvalid);
    }
    let (whole, _, path) = large(6);
    let mut beyond = piece(&whole, 40, 3, 496..1000, false);
    beyond[42..44].copy_from_slice(&0xfff8u16.to_be_bytes());
    assert_eq!(world.refused(path, &beyond), Refused::FragmentInvalid);
}

#[test]
fn an_icmp_error_in_fragments_is_dropped_by_name() {
    let world = World::new();
    let sent = udp("10.0.0.2:4242", "192.0.2.9:53", &[0; 900]);
    let outside = world.translate(World::outbound(), &sent).unwrap().2;
    let error = unreachable(PEER, HOST, &outside, 800);
    let pieces = cut(&error, 20, 3, &[400]);
    assert_eq!(
        world.refused(Path::Inbound, &pieces[0]),
        Refused::FragmentedError
    );
    assert_eq!(
        world.refused(Path::Inbound, &pieces[1]),
        Refused::FragmentedError
    );
}

#[test]
fn where_nothing_is_translated_fragments_pass_untouched_and_untracked() {
    let world = World::new();
    for (src, dst, kept, path) in [
        ("172.16.0.2:1", "192.0.2.9:2", 20, World::outbound()),
        ("[fd01::2]:1", "[2001:db8::9]:2", 40, out6()),
    ] {
        let whole = udp(src, dst, &[0; 992]);
        for bytes in cut(&whole, kept, 3, &[496, 800]).iter().rev() {
            assert_eq!(world.passes(path, bytes), *bytes);
        }
    }
    assert!(world.nat.is_empty());
}

#[test]
fn fragments_can_be_switched_off() {
    let limits = Limits {
        max_fragmented: 0,
        ..Limits::default()
    };
    let world = World::with(limits, 61000..=61999);
    let (whole, kept, path) = large(4);
    for bytes in cut(&whole, kept, 3, &[496]) {
        assert_eq!(world.refused(path, &bytes), Refused::Fragment);
    }
}

#[test]
fn an_endpoint_that_goes_takes_its_fragments_along() {
    let world = World::new();
    let (whole, kept, path) = large(4);
    let pieces = cut(&whole, kept, 3, &[296, 592]);
    world.passes(path, &pieces[0]);
    world.nat.forget(world.now, ip("10.0.0.2"));
    world.held(path, &pieces[1]);
    world.nat.forget(world.now, ip("10.0.0.2"));
    assert_eq!(world.nat.lost_fragments(world.now), 1);
}

/// A datagram, where it is cut, and in which order its fragments come, some of them twice.
fn scattered() -> impl Strategy<Value = (bool, usize, Vec<usize>, Vec<prop::sample::Index>)> {
    let cuts = prop::collection::btree_set(3..1000usize, 1..24);
    let order = prop::collection::vec(any::<prop::sample::Index>(), 0..40);
    (any::<bool>(), 8010..9000usize, cuts, order).prop_map(|(v4, length, cuts, order)| {
        (
            v4,
            length,
            cuts.into_iter().map(|cut| cut * 8).collect(),
            order,
        )
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    // Conforms: RFC4787-14 OVS-frag-out-of-order
    #[test]
    fn any_pieces_in_any_order_are_the_translated_datagram((v4, length, cuts, order) in scattered()) {
        let payload: Vec<u8> = (0..length).map(|at| (at * 7 % 253) as u8).collect();
        let (whole, kept, path) = if v4 {
            (udp("10.0.0.2:4242", "192.0.2.9:53", &payload), 20, World::outbound())
        } else {
            (udp("[fd00::2]:4242", "[2001:db8::9]:53", &payload), 40, out6())
        };
        let pieces = cut(&whole, kept, 77, &cuts);
        let world = World::new();
        // Some at random, then all: whatever came before is a duplicate by then.
        let some = order.iter().map(|at| at.index(pieces.len()));
        let mut left = Vec::new();
        let mut done = vec![false; pieces.len()];
        for at in some.chain((0..pieces.len()).rev()) {
            if done.iter().all(|&done| done) {
                break;
            }
            for outcome in world.feed(path, &pieces[at]) {
                match outcome {
                    Ok(Some(bytes)) => left.push(bytes),
                    Ok(None) => {}
                    Err(refused) => prop_assert_eq!(refused, Refused::FragmentDuplicate),
                }
            }
            done[at] = true;
        }
        prop_assert_eq!(left.len(), pieces.len());
        let together = reassemble(&left, kept).unwrap();
        assert_valid(&together, Checksum::Complete);
        let mut expected = World::new().translate(path, &whole).unwrap().2;
        if v4 {
            // Of the header the identification and DF differ, and so the checksum.
            expected[4..12].copy_from_slice(&together[4..12]);
        }
        prop_assert_eq!(together, expected);
    }

    // Conforms: CVE-2020-1983
    #[test]
    fn fragments_of_any_bytes_neither_panic_nor_hold_more_than_they_may(
        noise in prop::collection::vec((any::<u16>(), 0..12u16, 0..40usize, any::<bool>(), any::<bool>()), 1..200)
    ) {
        let limits = Limits {
            max_fragmented: 4,
            max_fragment_bytes: 2000,
            max_fragment_bytes_per_source: 900,
            ..Limits::default()
        };
        let mut world = World::with(limits, 61000..=61999);
        let mut held = 0;
        for (seed, offset, length, more, v4) in noise {
            let whole = if v4 {
                udp("10.0.0.2:4242", "192.0.2.9:53", &[seed as u8; 600])
            } else {
                udp("[fd00::2]:4242", "[2001:db8::9]:53", &[seed as u8; 600])
            };
            let start = usize::from(offset) * 8;
            let (kept, path) = if v4 { (20, World::outbound()) } else { (40, out6()) };
            let bytes = piece(&whole, kept, u32::from(seed % 6), start..start + length, more);
            let mut copy = bytes.clone();
            let fragment = Packet::parse(&mut copy, Checksum::Complete)
                .is_ok_and(|packet| packet.is_fragment());
            if fragment {
                held += world.feed(path, &bytes).iter().filter(|outcome| **outcome == Ok(None)).count();
            }
            if seed % 50 == 0 {
                world.wait(20);
            }
        }
        let lost = world.nat.lost_fragments(world.now + Duration::from_secs(60));
        prop_assert!(lost <= held);
    }
}

/// What the caller routes by, so that a datagram does not go by two ways.
#[test]
fn every_fragment_is_of_the_flow_of_the_first() {
    for family in [4, 6] {
        let (whole, kept, path) = large(family);
        let world = World::new();
        let flow = |bytes: &[u8]| {
            let mut bytes = bytes.to_vec();
            let mut packet = Packet::parse(&mut bytes, Checksum::Complete).unwrap();
            world.nat.flow(&mut packet)
        };
        let expected = flow(&whole);
        assert!(expected.is_some());
        let pieces = cut(&whole, kept, 77, &[296, 592, 888]);
        assert_eq!(flow(&pieces[2]), None, "before the first one");
        world.held(path, &pieces[2]);
        assert_eq!(flow(&pieces[0]), expected);
        world.feed(path, &pieces[0]);
        for later in &pieces[1..] {
            assert_eq!(flow(later), expected);
        }
    }
}
