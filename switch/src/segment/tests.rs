use super::*;
use crate::frame::MacAddr;
use crate::layers::packet;

const TCP: u8 = 6;
const UDP: u8 = 17;
const MSS: usize = 1000;

/// An IP packet around `payload`: of IPv4 with two options, or of IPv6 with one extension header.
fn ip(six: bool, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet;
    if six {
        packet = vec![0x60, 0, 0, 0, 0, 0, 60, 64];
        put(&mut packet, 4, (payload.len() + 8) as u16);
        packet.extend([0xfd; 32]);
        packet.extend([protocol, 0, 1, 4, 0, 0, 0, 0]);
    } else {
        packet = vec![0x46, 0, 0, 0, 0xff, 0xfe, 0x40, 0, 64, protocol, 0, 0];
        put(&mut packet, 2, (payload.len() + 24) as u16);
        packet.extend([10, 0, 0, 1, 10, 0, 0, 2, 1, 1, 1, 0]);
        let checksum = !fold(sum(&packet));
        put(&mut packet, 10, checksum);
    }
    packet.extend(payload);
    packet
}

fn tcp(payload: &[u8]) -> Vec<u8> {
    // Sequence close to its end; CWR, ACK, PSH and FIN; 12 bytes of options.
    let mut segment = vec![
        1, 2, 3, 4, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 9, 0x80, 0x99, 1, 1, 0, 0, 0, 0,
    ];
    segment.extend([1; 12]);
    segment.extend(payload);
    segment
}

fn udp(check: u16, payload: &[u8]) -> Vec<u8> {
    let mut datagram = vec![0x12, 0xb5, 0x12, 0xb5, 0, 0, 0, 0];
    put(&mut datagram, 4, (payload.len() + 8) as u16);
    put(&mut datagram, 6, check);
    datagram.extend(payload);
    datagram
}

fn ethernet(six: bool, packet: &[u8]) -> Vec<u8> {
    let kind: [u8; 2] = if six { [0x86, 0xdd] } else { [8, 0] };
    [&MacAddr::BROADCAST.0[..], &[2; 6], &kind, packet].concat()
}

/// The tunnels between an outer IP header and the inner packet, which ends the bytes.
fn tunnels(six: bool, inner: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let frame = ethernet(six, inner);
    let number = if six { 41 } else { 4 };
    let kind: [u8; 2] = if six { [0x86, 0xdd] } else { [8, 0] };
    let nested = ip(false, 47, &[&[0, 0], &kind, inner].concat());
    vec![
        (
            UDP,
            udp(0, &[&[8, 0, 0, 0, 0, 0, 42, 0], &frame[..]].concat()),
        ),
        (
            UDP,
            udp(0x1234, &[&[8, 0, 0, 0, 0, 0, 42, 0], &frame[..]].concat()),
        ),
        // Geneve with an option.
        (
            UDP,
            udp(
                0,
                &[&[1, 0, 0x65, 0x58, 0, 0, 42, 0, 1, 1, 1, 0], &frame[..]].concat(),
            ),
        ),
        (47, [&[0, 0], &kind, inner].concat()),
        // With a checksum and a key.
        (
            47,
            [&[0xa0, 0, 0x65, 0x58, 0, 0, 0, 0, 0, 0, 0, 7], &frame[..]].concat(),
        ),
        (number, inner.to_vec()),
        // One in another.
        (
            UDP,
            udp(
                0,
                &[&[8, 0, 0, 0, 0, 0, 42, 0], &ethernet(false, &nested)[..]].concat(),
            ),
        ),
    ]
}

/// Checks every length and checksum from the IP header at `at` on, to the transport at `start`.
fn check(bytes: &[u8], at: usize, start: usize, protocol: Protocol) {
    for level in levels(bytes, at, start, protocol).expect("every header is right") {
        let packet = &bytes[level.at..level.at + level.layout.end];
        let payload = &bytes[level.payload()..];
        let sum_of = |pseudo| fold(sum(payload) + pseudo);
        let pseudo = pseudo_header(packet, &level.layout);
        match level.protocol() {
            Protocol::TCP => assert_eq!(sum_of(pseudo), 0xffff),
            Protocol::UDP => {
                assert_eq!(
                    usize::from(payload[4]) << 8 | usize::from(payload[5]),
                    payload.len()
                );
                let is_outer_without = payload[6..8] == [0, 0] && level.payload() < start;
                assert!(is_outer_without || sum_of(pseudo) == 0xffff);
            }
            GRE if payload[0] & 0x80 != 0 => assert_eq!(sum_of(0), 0xffff),
            _ => {}
        }
    }
}

#[test]
fn every_tunnel_is_cut_into_what_it_stands_for() {
    let payload: Vec<u8> = (0..MSS * 3 + 77).map(|at| (at * 7 % 251) as u8).collect();
    for outer_six in [false, true] {
        for inner_six in [false, true] {
            for (protocol, transport) in [(TCP, tcp(&payload)), (UDP, udp(0, &payload))] {
                let inner = ip(inner_six, protocol, &transport);
                for (number, tunnel) in tunnels(inner_six, &inner) {
                    let bytes = ethernet(outer_six, &ip(outer_six, number, &tunnel));
                    let start = bytes.len() - transport.len();
                    let mut frame = Frame::from_bytes(&bytes);
                    frame.set_vnet(VnetHeader {
                        flags: VnetHeader::NEEDS_CSUM,
                        gso_type: match (protocol, inner_six) {
                            (UDP, _) => VnetHeader::GSO_UDP_L4,
                            (_, false) => VnetHeader::GSO_TCPV4,
                            (_, true) => VnetHeader::GSO_TCPV6,
                        },
                        gso_size: MSS as u16,
                        csum_start: start as u16,
                        ..VnetHeader::default()
                    });
                    let layers = Layers::of(&bytes).unwrap();
                    let segments: Vec<Frame> = cut(&frame, layers).expect("a tunnel").collect();
                    assert_eq!(segments.len(), 4);
                    let header = transport.len() - payload.len();
                    let mut got: Vec<u8> = Vec::new();
                    for (index, segment) in segments.iter().enumerate() {
                        assert_eq!(segment.vnet(), VnetHeader::default());
                        let bytes = segment.bytes();
                        assert!(
                            packet(bytes, layers).unwrap().unwrap().0.end + layers.at
                                == bytes.len()
                        );
                        check(bytes, layers.at, start, Protocol(protocol));
                        got.extend(&bytes[start + header..]);
                        if protocol == TCP {
                            let flags = bytes[start + 13];
                            assert_eq!(flags & CONGESTION_WINDOW_REDUCED != 0, index == 0);
                            assert_eq!(flags & (FIN | PUSH) != 0, index == 3);
                            let sequence = u32::MAX.wrapping_add((index * MSS) as u32);
                            assert_eq!(bytes[start + 4..start + 8], sequence.to_be_bytes());
                        }
                    }
                    assert_eq!(got, payload);
                    for end in 0..bytes.len().min(400) {
                        frame.set_len(end);
                        if let Ok(layers) = Layers::of(frame.bytes()) {
                            assert!(layers.at > end || cut(&frame, layers).is_none());
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn what_is_no_tunnel_is_not_cut() {
    let inner = ip(false, TCP, &tcp(&[7; 3000]));
    let whole = ethernet(
        false,
        &ip(
            false,
            UDP,
            &udp(0, &[&[0; 8], &ethernet(false, &inner)[..]].concat()),
        ),
    );
    let start = whole.len() - 3032;
    let header = VnetHeader {
        flags: VnetHeader::NEEDS_CSUM,
        gso_type: VnetHeader::GSO_TCPV4,
        gso_size: 1000,
        csum_start: start as u16,
        ..VnetHeader::default()
    };
    let layers = Layers::of(&whole).unwrap();
    let is_cut = |bytes: &[u8], header| {
        let mut frame = Frame::from_bytes(bytes);
        frame.set_vnet(header);
        cut(&frame, layers).is_some()
    };
    assert!(is_cut(&whole, header));
    for csum_start in (0..whole.len() as u16).filter(|&at| usize::from(at) != start) {
        assert!(!is_cut(
            &whole,
            VnetHeader {
                csum_start,
                ..header
            }
        ));
    }
    let datagrams = VnetHeader {
        gso_type: VnetHeader::GSO_UDP_L4,
        ..header
    };
    assert!(!is_cut(&whole, datagrams));
    // Anything wrong with the inner header.
    for at in [0, 2, 3, 9, 10] {
        let mut wrong = whole.clone();
        wrong[start - 24 + at] ^= 1;
        assert!(!is_cut(&wrong, header), "{at}");
    }
}
