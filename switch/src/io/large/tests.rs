use super::*;

const ETHERNET: usize = 14;
const SIZE: usize = 1448;

/// Payload by its place, so that every byte knows where it belongs.
fn payload(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at % 251) as u8).collect()
}

/// TCP with an option, FIN, PSH and CWR, and the sequence number 4294967000.
fn tcp() -> Vec<u8> {
    let mut header = vec![0x1f, 0x90, 0x20, 0x00, 0xff, 0xff, 0xfe, 0xd8];
    header.extend([
        0, 0, 0, 1, 0x60, 0x99, 0x10, 0, 0xaa, 0xaa, 0, 0, 1, 1, 1, 0,
    ]);
    header
}

fn ipv4(total: u16) -> Vec<u8> {
    let mut header = vec![0x45, 0];
    header.extend(total.to_be_bytes());
    header.extend([0xff, 0xff, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    header
}

fn ipv6(length: u16, next: u8) -> Vec<u8> {
    let mut header = vec![0x60, 0, 0, 0];
    header.extend(length.to_be_bytes());
    header.extend([next, 64]);
    header.extend([0xfd; 32]);
    header
}

/// With a jumbo payload option, for so many bytes behind it.
fn jumbo(behind: usize) -> Vec<u8> {
    let mut header = ipv6(0, 0);
    header.extend([6, 0, 0xc2, 4]);
    header.extend((behind as u32 + 8).to_be_bytes());
    header
}

/// A super-frame that was read, of these headers between Ethernet's and TCP's.
fn read(kind: u16, ip: &[u8], gso_type: u8, size: usize, payload: &[u8]) -> (Large, usize) {
    let mut large = Large::new();
    let vnet = VnetHeader {
        flags: VnetHeader::NEEDS_CSUM,
        gso_type,
        hdr_len: 0,
        gso_size: size as u16,
        csum_start: (ETHERNET + ip.len()) as u16,
        csum_offset: 16,
    };
    let raw = [
        &vnet.encode()[..],
        &[2; 12],
        &kind.to_be_bytes(),
        ip,
        &tcp(),
        payload,
    ]
    .concat();
    large.space_mut()[..raw.len()].copy_from_slice(&raw);
    (large, raw.len())
}

fn divide(large: &Large, bytes: usize) -> Vec<Frame> {
    let mut frames: Vec<Frame> = (0..MOST_PIECES).map(|_| Frame::new()).collect();
    let count = large.divide(bytes, &mut frames);
    frames.truncate(count);
    frames
}

#[test]
fn a_large_super_frame_becomes_some_that_are_whole() {
    use VnetHeader as V;
    for len in [65_536, 180_000, 520_000] {
        let payload = payload(len);
        let tcp_len = tcp().len() + len;
        for (kind, ip, gso_type) in [
            (ethertype::IPV4, ipv4(0), V::GSO_TCPV4 | V::GSO_ECN),
            (ethertype::IPV6, jumbo(tcp_len), V::GSO_TCPV6),
            (ethertype::IPV6, ipv6(0, 6), V::GSO_TCPV6),
        ] {
            for size in [536, SIZE, 32_768] {
                let (large, bytes) = read(kind, &ip, gso_type, size, &payload);
                let frames = divide(&large, bytes);
                let mut joined: Vec<u8> = Vec::new();
                for (index, frame) in frames.iter().enumerate() {
                    let (is_first, is_last) = (index == 0, index + 1 == frames.len());
                    let layers = Layers::of(frame.bytes()).unwrap();
                    let (layout, packet) = layers::packet(frame.bytes(), layers).unwrap().unwrap();
                    // Its length is said, and no option is left.
                    assert_eq!(
                        (layout.end, layout.upper.protocol),
                        (packet.len(), Protocol::TCP)
                    );
                    assert_eq!(
                        layout.upper.at,
                        if kind == ethertype::IPV4 { 20 } else { 40 }
                    );
                    let transport = &packet[layout.upper.at..];
                    let sequence = u32::from_be_bytes(*transport[4..].first_chunk().unwrap());
                    assert_eq!(sequence, 4_294_967_000u32.wrapping_add(joined.len() as u32));
                    let ends = (0x09 * u8::from(is_last)) | (0x80 * u8::from(is_first));
                    let flags = 0x10 | ends;
                    assert_eq!(transport[13], flags);
                    let sum = segment::fold(segment::pseudo_header(packet, &layout));
                    assert_eq!(transport[16..18], sum.to_be_bytes());
                    if kind == ethertype::IPV4 {
                        let identification = 0xffffu16.wrapping_add((joined.len() / size) as u16);
                        assert_eq!(packet[4..6], identification.to_be_bytes());
                    }
                    let vnet = frame.vnet();
                    let start = ETHERNET + layout.upper.at;
                    let checksum = (vnet.flags, vnet.csum_start, vnet.csum_offset);
                    assert_eq!(checksum, (V::NEEDS_CSUM, start as u16, 16));
                    let piece = &transport[24..];
                    assert!(is_last || piece.len().is_multiple_of(size));
                    let gso = match (piece.len() > size, is_first) {
                        (false, _) => V::GSO_NONE,
                        (true, true) => gso_type,
                        (true, false) => gso_type & !V::GSO_ECN,
                    };
                    assert_eq!(vnet.gso_type, gso);
                    joined.extend(piece);
                }
                assert!(joined == payload, "{kind:x}, {len} bytes by {size}");
            }
        }
    }
}

#[test]
fn what_is_no_larger_than_a_packet_stays_as_it_is() {
    let payload = payload(60_000);
    let total = (20 + tcp().len() + payload.len()) as u16;
    let (large, bytes) = read(
        ethertype::IPV4,
        &ipv4(total),
        VnetHeader::GSO_TCPV4,
        SIZE,
        &payload,
    );
    let frames = divide(&large, bytes);
    assert_eq!(frames.len(), 1);
    assert!(frames[0].raw() == &large.space[..bytes]);
}

#[test]
fn what_contradicts_itself_is_none() {
    let payload = payload(100_000);
    let empty = |large: &Large, bytes| {
        let frames = divide(large, bytes);
        frames.len() == 1 && frames[0].is_empty()
    };
    let good = || {
        read(
            ethertype::IPV4,
            &ipv4(0),
            VnetHeader::GSO_TCPV4,
            SIZE,
            &payload,
        )
    };
    let (large, bytes) = good();
    assert!(!empty(&large, bytes));
    // Not a whole vnet header; nothing read; more than there is room for.
    assert!(empty(&large, 3) && empty(&large, 0) && empty(&large, usize::MAX));
    // Another version's segments, no segments, a size of none and one that fits no packet.
    for (gso_type, size) in [
        (VnetHeader::GSO_TCPV6, SIZE),
        (VnetHeader::GSO_UDP_L4, SIZE),
        (VnetHeader::GSO_NONE, SIZE),
        (VnetHeader::GSO_TCPV4, 0),
        (VnetHeader::GSO_TCPV4, 65_535),
    ] {
        let (large, bytes) = read(ethertype::IPV4, &ipv4(0), gso_type, size, &payload);
        assert!(empty(&large, bytes), "{gso_type} {size}");
    }
    // More than there is.
    let behind = tcp().len() + payload.len() + 1;
    let (large, bytes) = read(
        ethertype::IPV6,
        &jumbo(behind),
        VnetHeader::GSO_TCPV6,
        SIZE,
        &payload,
    );
    assert!(empty(&large, bytes));
    // No byte of the headers makes it more than an error.
    for at in 0..VNET_HEADER + ETHERNET + 20 + 24 {
        for value in [0, 1, 0x0f, 0x7f, 0xff] {
            let (mut large, bytes) = good();
            large.space_mut()[at] = value;
            divide(&large, bytes);
        }
    }
}
