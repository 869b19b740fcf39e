use super::*;
use crate::testing::*;

fn parse(bytes: &mut [u8]) -> Result<Packet<'_>, Malformed> {
    Packet::parse(bytes, Checksum::Complete)
}

#[test]
fn reads_what_is_there() {
    let mut bytes = tcp("10.0.0.2:4242", "192.0.2.9:80", SYN, b"");
    // Link padding of a short Ethernet frame.
    bytes.extend_from_slice(&[0; 6]);
    let packet = parse(&mut bytes).unwrap();
    assert_eq!(packet.len(), 40);
    assert_eq!(packet.header_len(), 20);
    assert_eq!(packet.as_bytes().len(), 40);
    assert_eq!(
        (packet.src(), packet.dst()),
        (ip("10.0.0.2"), ip("192.0.2.9"))
    );
    assert_eq!(packet.ttl(), 64);
    assert!(packet.is_ipv4() && packet.dont_fragment() && !packet.is_fragment());
    assert_eq!(
        packet.tuple().unwrap().to_string(),
        "10.0.0.2:4242 > 192.0.2.9:80/tcp"
    );

    let mut bytes = udp("[fd00::2]:4242", "[2001:db8::9]:53", b"x");
    let packet = parse(&mut bytes).unwrap();
    assert_eq!(
        packet.tuple().unwrap().to_string(),
        "[fd00::2]:4242 > [2001:db8::9]:53/udp"
    );
    assert_eq!(packet.protocol(), Protocol::UDP);
    assert!(!packet.is_ipv4() && packet.dont_fragment());
}

#[test]
fn echo_request_reversed_is_its_reply() {
    for (inside, outside) in [("10.0.0.2", "192.0.2.9"), ("fd00::2", "2001:db8::9")] {
        let mut request = echo(inside, outside, true, 77);
        let mut reply = echo(outside, inside, false, 77);
        let request = parse(&mut request).unwrap().tuple().unwrap();
        let reply = parse(&mut reply).unwrap().tuple().unwrap();
        assert_eq!(request.reversed(), reply);
        assert_eq!((request.src_port, request.dst_port), (77, 0));
    }
}

#[test]
fn each_wrong_length_has_a_name() {
    let good = tcp("10.0.0.2:4242", "192.0.2.9:80", SYN, b"abc");
    let with = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = good.clone();
        change(&mut bytes);
        parse(&mut bytes).err()
    };
    assert_eq!(with(&|_| ()), None);
    assert_eq!(with(&|bytes| bytes.clear()), Some(Malformed::Empty));
    assert_eq!(with(&|bytes| bytes[0] = 0x55), Some(Malformed::Version));
    assert_eq!(
        with(&|bytes| bytes.truncate(19)),
        Some(Malformed::HeaderTruncated)
    );
    assert_eq!(
        with(&|bytes| bytes[0] = 0x44),
        Some(Malformed::HeaderLength)
    );
    assert_eq!(with(&|bytes| bytes.truncate(42)), Some(Malformed::Length));
    assert_eq!(with(&|bytes| bytes[3] = 19), Some(Malformed::Length));
    assert_eq!(
        with(&|bytes| (bytes[0], bytes[3]) = (0x4f, 43)),
        Some(Malformed::HeaderLength)
    );
    assert_eq!(
        with(&|bytes| bytes[3] = 39),
        Some(Malformed::TransportTruncated)
    );
    assert_eq!(
        with(&|bytes| bytes[32] = 0x40),
        Some(Malformed::TcpHeaderLength)
    );
    assert_eq!(
        with(&|bytes| bytes[32] = 0x60),
        Some(Malformed::TcpHeaderLength)
    );
    for (at, malformed) in Malformed::ALL.into_iter().enumerate() {
        assert_eq!(malformed as usize, at);
        assert!(!malformed.to_string().is_empty());
    }
}

#[test]
fn fragments_have_no_tuple() {
    let mut first = udp("10.0.0.2:4242", "192.0.2.9:53", b"abcdefgh");
    first[6] = 0x20;
    let packet = parse(&mut first).unwrap();
    assert!(packet.is_fragment() && packet.tuple().is_none());
    let mut last = udp("10.0.0.2:4242", "192.0.2.9:53", b"abcdefgh");
    last[7] = 1;
    // Its data is no header, so nothing about it is malformed.
    last.truncate(24);
    last[3] = 24;
    let packet = parse(&mut last).unwrap();
    assert!(packet.is_fragment() && packet.tuple().is_none());
}

/// An IPv6 UDP packet with these extension headers, each of 8 bytes and given as its type.
fn extended(extensions: &[u8], fragment: u16) -> Vec<u8> {
    let plain = udp("[fd00::2]:4242", "[2001:db8::9]:53", b"abcd");
    let mut bytes = plain[..40].to_vec();
    bytes[6] = extensions.first().copied().unwrap_or(17);
    for (at, &extension) in extensions.iter().enumerate() {
        let next = extensions.get(at + 1).copied().unwrap_or(17);
        let mut header = [next, 0, 0, 0, 0, 0, 0, 0];
        if extension == 44 {
            header[2..4].copy_from_slice(&fragment.to_be_bytes());
        }
        bytes.extend_from_slice(&header);
    }
    bytes.extend_from_slice(&plain[40..]);
    bytes[5] = (bytes.len() - 40) as u8;
    bytes
}

#[test]
fn walks_extension_headers_and_no_further_than_eight() {
    let mut bytes = extended(&[0, 60, 43, 60], 0);
    let packet = parse(&mut bytes).unwrap();
    assert_eq!(
        (packet.header_len(), packet.protocol()),
        (72, Protocol::UDP)
    );
    assert_eq!(packet.tuple().unwrap().dst_port, 53);

    assert!(parse(&mut extended(&[60; 8], 0)).is_ok());
    assert_eq!(
        parse(&mut extended(&[60; 9], 0)).err(),
        Some(Malformed::ExtensionHeaders)
    );
    let mut cut = extended(&[60, 60], 0);
    cut.truncate(50);
    cut[5] = 10;
    assert_eq!(parse(&mut cut).err(), Some(Malformed::ExtensionHeaders));
    let mut long = extended(&[60], 0);
    long[41] = 255;
    assert_eq!(parse(&mut long).err(), Some(Malformed::ExtensionHeaders));

    // A routing header that is not used up.
    let mut routed = extended(&[43], 0);
    routed[43] = 1;
    let packet = parse(&mut routed).unwrap();
    assert_eq!((packet.protocol(), packet.tuple()), (Protocol(43), None));
}

#[test]
fn an_atomic_fragment_is_a_whole_packet() {
    let mut atomic = extended(&[44], 0);
    assert!(parse(&mut atomic).unwrap().tuple().is_some());
    let mut first = extended(&[44], 1);
    assert!(parse(&mut first).unwrap().is_fragment());
    let mut last = extended(&[44], 8);
    assert!(parse(&mut last).unwrap().is_fragment());
}

#[test]
fn ttl_falls_and_the_header_checksum_follows() {
    let mut bytes = udp("10.0.0.2:4242", "192.0.2.9:53", b"");
    for left in (0..64).rev() {
        assert_eq!(parse(&mut bytes).unwrap().decrement_ttl(), left);
        assert_valid(&bytes, Checksum::Complete);
    }
    assert_eq!(parse(&mut bytes).unwrap().decrement_ttl(), 0);
    assert_valid(&bytes, Checksum::Complete);
    let mut bytes = udp("[fd00::2]:4242", "[2001:db8::9]:53", b"");
    assert_eq!(parse(&mut bytes).unwrap().decrement_ttl(), 63);
    assert_eq!(bytes[7], 63);
}

#[test]
fn icmp_of_the_other_version_is_no_flow() {
    let mut bytes = echo("10.0.0.2", "192.0.2.9", true, 1);
    bytes[9] = Protocol::ICMPV6.0;
    bytes[20] = 128;
    assert_eq!(parse(&mut bytes).unwrap().tuple(), None);
}

// Conforms: CVE-2020-1983
#[test]
fn no_bytes_make_it_panic() {
    let mut prng = Prng(1);
    let seeds = [
        tcp("10.0.0.2:4242", "192.0.2.9:80", SYN, b"abc"),
        udp("[fd00::2]:4242", "[2001:db8::9]:53", b"abc"),
        extended(&[0, 44, 60], 0),
        echo("10.0.0.2", "192.0.2.9", true, 1),
    ];
    for round in 0..200_000 {
        let mut bytes = if round % 4 == 0 {
            let mut bytes = vec![0; prng.below(80)];
            prng.fill(&mut bytes);
            bytes
        } else {
            let mut bytes = seeds[prng.below(seeds.len())].clone();
            for _ in 0..prng.below(4) {
                let at = prng.below(bytes.len());
                bytes[at] = prng.next() as u8;
            }
            let length = prng.below(bytes.len() + 1);
            if round % 2 == 0 {
                bytes.truncate(length);
            }
            bytes
        };
        if let Ok(mut packet) = parse(&mut bytes) {
            let _ = (packet.tuple(), packet.segment(), packet.dont_fragment());
            packet.decrement_ttl();
        }
    }
}
