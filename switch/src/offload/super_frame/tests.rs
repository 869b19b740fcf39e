use super::*;
use crate::frame::ethertype;

/// A super-frame of IPv4 or IPv6, with `payload` bytes behind its transport header.
fn frame(six: bool, protocol: Protocol, payload: usize, gso_type: u8, gso_size: u16) -> Frame {
    let transport = if protocol == Protocol::TCP { 20 } else { 8 };
    let length = (transport + payload) as u16;
    let mut bytes = vec![2; 12];
    if six {
        bytes.extend(ethertype::IPV6.to_be_bytes());
        bytes.extend([0x60, 0, 0, 0]);
        bytes.extend(length.to_be_bytes());
        bytes.extend([protocol.0, 64]);
        bytes.extend([0xfd; 32]);
    } else {
        bytes.extend(ethertype::IPV4.to_be_bytes());
        bytes.extend([0x45, 0]);
        bytes.extend((length + 20).to_be_bytes());
        bytes.extend([0, 0, 0, 0, 64, protocol.0, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    }
    let start = bytes.len();
    bytes.resize(start + transport + payload, 7);
    if protocol == Protocol::TCP {
        bytes[start + 12] = 0x50;
    }
    let mut frame = Frame::from_bytes(&bytes);
    frame.set_vnet(VnetHeader {
        flags: VnetHeader::NEEDS_CSUM,
        gso_type,
        gso_size,
        csum_start: start as u16,
        csum_offset: if protocol == Protocol::TCP { 16 } else { 6 },
        hdr_len: 1,
    });
    frame
}

fn settled(frame: &mut Frame) -> Result<Settled, DropReason> {
    let layers = Layers::of(frame.bytes())?;
    super::super::settle(frame, layers)
}

#[test]
fn the_segments_are_of_the_packet_s_protocol_and_version() {
    let kinds = [
        (VnetHeader::GSO_TCPV4, Some(false), Protocol::TCP),
        (VnetHeader::GSO_TCPV6, Some(true), Protocol::TCP),
        (VnetHeader::GSO_UDP_L4, None, Protocol::UDP),
        (VnetHeader::GSO_UDP, None, Protocol::UDP),
        (2, None, Protocol(255)),
        (6, None, Protocol(255)),
        (0x21, None, Protocol(255)),
    ];
    for six in [false, true] {
        for protocol in [Protocol::TCP, Protocol::UDP, Protocol(132)] {
            for (kind, version, of) in kinds {
                for ecn in [0, VnetHeader::GSO_ECN] {
                    let right = protocol == of
                        && version.is_none_or(|it| it == six)
                        && (ecn == 0 || of == Protocol::TCP);
                    let mut frame = frame(six, protocol, 3000, kind | ecn, 1000);
                    let settled = settled(&mut frame);
                    assert_eq!(settled.is_ok(), right, "{protocol:?} {kind} {six} {ecn}");
                    // A wrong hint is corrected.
                    let headers = frame.len() - 3000;
                    assert!(!right || usize::from(frame.vnet().hdr_len) == headers);
                }
            }
        }
    }
}

#[test]
fn segments_are_neither_tiny_nor_too_many() {
    let judge = |protocol, payload, kind, size| {
        settled(&mut frame(false, protocol, payload, kind, size)).map(drop)
    };
    let tiny = Err(DropReason::TinySegments);
    for (payload, size, expected) in [
        (60_000, 0, tiny),
        (60_000, 1, tiny),
        (100, 1, tiny),
        (100, 35, tiny),
        (100, 36, Ok(())),
        (60_000, 48, tiny),
        (60_000, 88, Ok(())),
        (60_000, 536, Ok(())),
        (60_000, 65_535, Ok(())),
    ] {
        let outcome = judge(Protocol::TCP, payload, VnetHeader::GSO_TCPV4, size);
        assert_eq!(outcome, expected, "{payload} bytes by {size}");
    }
    for (payload, size, expected) in [
        (128, 1, Ok(())),
        (129, 1, tiny),
        (1200 * 128, 0, tiny),
        (50_000, 400, Ok(())),
        (60_000, 400, tiny),
    ] {
        let payload = payload.min(60_000);
        let outcome = judge(Protocol::UDP, payload, VnetHeader::GSO_UDP_L4, size);
        assert_eq!(outcome, expected, "{payload} bytes by {size}");
    }
}

#[test]
fn sums_that_were_verified_are_left_to_who_cuts() {
    for six in [false, true] {
        for (protocol, kind) in [
            (
                Protocol::TCP,
                if six {
                    VnetHeader::GSO_TCPV6
                } else {
                    VnetHeader::GSO_TCPV4
                },
            ),
            (Protocol::UDP, VnetHeader::GSO_UDP_L4),
        ] {
            let mut listed = frame(six, protocol, 3001, kind, 1000);
            let whole = listed.vnet();
            listed.set_vnet(VnetHeader {
                gso_type: kind,
                gso_size: 1000,
                ..VnetHeader::default()
            });
            assert_eq!(settled(&mut listed), Ok(Settled::Whole));
            let headers = (listed.len() - 3001) as u16;
            assert_eq!(
                listed.vnet(),
                VnetHeader {
                    hdr_len: headers,
                    ..whole
                }
            );
            let layers = Layers::of(listed.bytes()).unwrap();
            let (layout, packet) = layers::packet(listed.bytes(), layers).unwrap().unwrap();
            let transport = &packet[layout.upper.at..];
            let field = usize::from(whole.csum_offset);
            let sum = u16::from_be_bytes([transport[field], transport[field + 1]]);
            assert_eq!(sum, segment::fold(segment::pseudo_header(packet, &layout)));
        }
    }
}

#[test]
fn any_cut_is_survived() {
    for protocol in [Protocol::TCP, Protocol::UDP] {
        for kind in 0..=255 {
            for len in (0..120).chain([1000]) {
                for flags in [0, 1] {
                    let mut cut = frame(true, protocol, 3000, kind, 100);
                    let mut vnet = cut.vnet();
                    vnet.flags = flags;
                    cut.set_vnet(vnet);
                    cut.set_len(len);
                    let _ = settled(&mut cut);
                }
            }
        }
    }
}
