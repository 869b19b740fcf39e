use super::*;
use crate::testing::*;

/// Rewrites `bytes` to the addresses and ports of `to`, an example of the same protocol.
fn turn(bytes: &mut [u8], to: &mut [u8], checksum: Checksum) {
    let to = Packet::parse(to, checksum).unwrap().tuple().unwrap();
    let mut packet = Packet::parse(bytes, checksum).unwrap();
    let from = packet.tuple().unwrap();
    rewrite(&mut packet, &from, &to);
    assert_eq!(packet.tuple(), Some(to));
}

/// Pairs of packets of every protocol and family that is translated.
fn pairs(payload: &[u8]) -> Vec<(Vec<u8>, Vec<u8>)> {
    let (a4, b4, c4, d4) = ("10.0.0.2", "192.0.2.9", "198.51.100.1", "172.16.255.255");
    let (a6, b6, c6, d6) = (
        "fd00::2",
        "2001:db8::9",
        "2001:db8:1::1",
        "fdff:ffff:ffff::ffff",
    );
    let four = |ip: &str, port: u16| format!("{ip}:{port}");
    let six = |ip: &str, port: u16| format!("[{ip}]:{port}");
    let mut pairs = vec![
        (echo(a4, b4, true, 7), echo(c4, d4, true, 65535)),
        (echo(a4, b4, false, 0), echo(c4, d4, false, 9)),
        (echo(a6, b6, true, 7), echo(c6, d6, true, 65535)),
        (echo(a6, b6, false, 65535), echo(c6, d6, false, 0)),
    ];
    let ends = [
        (
            four(a4, 4242),
            four(b4, 80),
            four(c4, 61000),
            four(d4, 65535),
        ),
        (six(a6, 4242), six(b6, 80), six(c6, 61000), six(d6, 65535)),
    ];
    for (src, dst, new_src, new_dst) in &ends {
        pairs.push((
            tcp(src, dst, ACK, payload),
            tcp(new_src, new_dst, ACK, payload),
        ));
        pairs.push((udp(src, dst, payload), udp(new_src, new_dst, payload)));
    }
    pairs
}

#[test]
fn complete_checksums_stay_right() {
    let mut prng = Prng(3);
    for length in [0, 1, 2, 3, 1400, 1401, 65_000] {
        let mut payload = vec![0; length];
        prng.fill(&mut payload);
        for (mut from, mut to) in pairs(&payload) {
            let back = from.clone();
            turn(&mut from, &mut to, Checksum::Complete);
            assert_valid(&from, Checksum::Complete);
            assert_eq!(from, to, "nothing else changed");
            turn(&mut from, &mut back.clone(), Checksum::Complete);
            assert_eq!(from, back);
        }
    }
}

#[test]
fn partial_checksums_follow_the_addresses_alone() {
    // 65,000 bytes: a super-frame.
    for length in [1, 1400, 65_000] {
        for (mut from, mut to) in pairs(&vec![0x5a; length]) {
            if from[0] >> 4 == 4 && from[9] == Protocol::ICMP.0 {
                // No kernel leaves an ICMP checksum to be completed.
                continue;
            }
            make_partial(&mut from);
            make_partial(&mut to);
            turn(&mut from, &mut to, Checksum::Partial);
            assert_valid(&from, Checksum::Partial);
            assert_eq!(from, to);
        }
    }
}

#[test]
fn a_udp_packet_without_checksum_stays_so() {
    let mut bytes = udp("10.0.0.2:4242", "192.0.2.9:53", b"query");
    bytes[26..28].fill(0);
    let mut to = udp("198.51.100.1:61000", "192.0.2.9:53", b"query");
    turn(&mut bytes, &mut to, Checksum::Complete);
    assert_eq!(bytes[26..28], [0, 0]);
    assert_eq!(bytes[..26], to[..26]);
}

#[test]
fn a_computed_zero_is_sent_as_all_ones() {
    // Among 65,536 source ports, one makes the sum zero.
    let mut zeros = 0;
    for port in 1..=65535u16 {
        let mut bytes = udp("10.0.0.2:4242", "192.0.2.9:53", b"query");
        let mut packet = Packet::parse(&mut bytes, Checksum::Complete).unwrap();
        let from = packet.tuple().unwrap();
        rewrite(
            &mut packet,
            &from,
            &Tuple {
                src_port: port,
                ..from
            },
        );
        assert_ne!(bytes[26..28], [0, 0]);
        if bytes[26..28] == [0xff, 0xff] {
            zeros += 1;
            assert_valid(&bytes, Checksum::Complete);
        }
    }
    assert_eq!(zeros, 1);
}

#[test]
fn a_damaged_packet_stays_damaged() {
    let mut bytes = tcp("10.0.0.2:4242", "192.0.2.9:80", ACK, b"data");
    bytes[41] ^= 1;
    let mut to = tcp("198.51.100.1:61000", "192.0.2.9:80", ACK, b"data");
    turn(&mut bytes, &mut to, Checksum::Complete);
    let (at, right) = transport_checksum(&bytes).unwrap();
    assert_ne!(word(&bytes, at), right);
}
