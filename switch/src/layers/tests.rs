use super::*;
use crate::drop::DropReason;
use crate::frame::MacAddr;
use crate::testing::{GATEWAY, Lan, mac};

/// An IPv4 packet of endpoint 1 to endpoint 2, with these bytes between it and the MACs in place of
/// the EtherType.
fn frame(between: &[u8], source: [u8; 4]) -> Vec<u8> {
    let mut frame = [mac(2).0, mac(1).0].concat();
    frame.extend(between);
    frame.extend([0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0]);
    frame.extend(source);
    frame.extend([10, 0, 0, 2, 9, 9, 9, 9, 0, 8, 0, 0]);
    frame
}

const OWN: [u8; 4] = [10, 0, 0, 1];
const FORGED: [u8; 4] = [10, 0, 0, 254];
const IPV4: [u8; 2] = [0x08, 0x00];
const PRIORITY: [u8; 4] = [0x81, 0x00, 0xe0, 0x00];
const SERVICE_PRIORITY: [u8; 4] = [0x88, 0xa8, 0x00, 0x00];
const CUSTOMER: [u8; 4] = [0x81, 0x00, 0x00, 0x05];
const SERVICE: [u8; 4] = [0x88, 0xa8, 0x00, 0x07];

fn between(tags: &[[u8; 4]]) -> Vec<u8> {
    [&tags.concat(), &IPV4[..]].concat()
}

// Conforms: SWITCH-guard SWITCH-vlan-transparent
#[test]
fn priority_tags_are_taken_off_however_many_there_are() {
    let plain = frame(&IPV4, OWN);
    for count in [1, 2, 3, 8, 100] {
        for tag in [PRIORITY, SERVICE_PRIORITY] {
            let mut lan = Lan::new(2);
            let mut tags = vec![tag; count];
            assert_eq!(
                lan.send_and_hear(1, &frame(&between(&tags), OWN)),
                [(2, plain.clone())]
            );
            assert_eq!(lan.send(1, &frame(&between(&tags), FORGED)), []);
            assert_eq!(lan.drops(DropReason::SpoofedSource), 1);
            // In front of the tag of a VLAN they are nothing either.
            tags.push(CUSTOMER);
            let tagged = frame(&between(&[CUSTOMER]), OWN);
            let heard = lan.send_and_hear(1, &frame(&between(&tags), OWN));
            assert_eq!(heard, [(2, tagged)]);
            assert_eq!(lan.send(1, &frame(&between(&tags), FORGED)), []);
            assert_eq!(lan.drops(DropReason::SpoofedSource), 2);
        }
    }
    // To the gateway such a frame is as good as any.
    let mut lan = Lan::new(2);
    let mut routed = frame(&between(&[PRIORITY]), OWN);
    routed[..6].copy_from_slice(&GATEWAY.0);
    let heard = lan.send_and_hear(1, &routed);
    assert_eq!((heard[0].0, &heard[0].1[12..14]), (2, &IPV4[..]));
}

#[test]
fn what_is_behind_more_tags_than_two_is_dropped_by_name() {
    for guard in [true, false] {
        let mut lan = Lan::new(2).with(|config| config.endpoints[0].guard = guard);
        let mut dropped = 0;
        for tags in [
            [SERVICE, CUSTOMER, CUSTOMER],
            [CUSTOMER, PRIORITY, SERVICE_PRIORITY],
            [CUSTOMER, CUSTOMER, PRIORITY],
        ] {
            let two = frame(&between(&tags[..2]), OWN);
            assert_eq!(lan.send_and_hear(1, &two), [(2, two.clone())]);
            assert_eq!(lan.send(1, &frame(&between(&tags), OWN)), []);
            dropped += 1;
            assert_eq!(lan.drops(DropReason::TooManyTags), dropped);
        }
    }
}

#[test]
fn the_guard_looks_behind_every_mixture_of_tags() {
    let mut lan = Lan::new(2);
    let kinds = [PRIORITY, SERVICE_PRIORITY, CUSTOMER, SERVICE];
    let mut passed = 0;
    for choice in 0..5usize.pow(5) {
        let digits = (0..5).map(|place| choice / 5usize.pow(place) % 5);
        let tags: Vec<[u8; 4]> = digits.filter_map(|kind| kinds.get(kind).copied()).collect();
        assert_eq!(
            lan.send(1, &frame(&between(&tags), FORGED)),
            [],
            "{tags:x?}"
        );
        passed += lan.send(1, &frame(&between(&tags), OWN)).len();
    }
    assert!(passed > 100);
}

#[test]
fn llc_hides_no_packet() {
    for guard in [true, false] {
        let mut lan = Lan::new(2).with(|config| config.endpoints[0].guard = guard);
        let mut dropped = 0;
        // The length is right, zero, or a lie.
        for length in [[0, 36], [0, 0], [5, 0xff]] {
            for oui in [[0, 0, 0], [0, 0, 0xf8]] {
                for kind in [
                    [8, 0],
                    [8, 6],
                    [0x86, 0xdd],
                    [0x80, 0x35],
                    [0x81, 0],
                    [0x88, 0xa8],
                ] {
                    let snap = [&length[..], &[0xaa, 0xab, 3], &oui, &kind].concat();
                    for tags in [&[][..], &[PRIORITY; 3], &[CUSTOMER]] {
                        let wrapped = [&tags.concat(), &snap[..]].concat();
                        assert_eq!(lan.send(1, &frame(&wrapped, OWN)), [], "{wrapped:x?}");
                        dropped += 1;
                    }
                }
            }
            for point in [6, 7, 0x98] {
                let llc = [&length[..], &[point, point, 3]].concat();
                assert_eq!(lan.send(1, &frame(&llc, OWN)), []);
                dropped += 1;
            }
            assert_eq!(lan.drops(DropReason::Encapsulated), dropped);
            // CDP, IS-IS and IPX.
            for llc in [
                &[0xaa, 0xaa, 3, 0, 0, 0x0c, 0x20, 0][..],
                &[0xfe, 0xfe, 3],
                &[0xff, 0xff],
            ] {
                let other = [&length[..], llc].concat();
                assert_eq!(lan.send(1, &frame(&other, OWN)), [2]);
            }
        }
    }
}

#[test]
fn any_cut_of_a_frame_is_survived() {
    let frames = [
        frame(&between(&[CUSTOMER, SERVICE]), OWN),
        frame(&between(&[PRIORITY; 5]), OWN),
        frame(&[0, 9, 0xaa, 0xaa, 3, 0, 0, 0, 8, 0], OWN),
    ];
    for whole in frames {
        for len in 0..whole.len() {
            let mut cut = Frame::from_bytes(&whole[..len]);
            drop_priority_tags(&mut cut);
            let _ = Layers::of(cut.bytes()).map(|layers| packet(cut.bytes(), layers).is_ok());
        }
    }
    let runt = Frame::from_bytes(&MacAddr::BROADCAST.0);
    assert_eq!(Layers::of(runt.bytes()), Err(DropReason::Malformed));
}
