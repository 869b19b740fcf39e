use nat::Checksum;
use pnet_packet::Packet as _;
use pnet_packet::ipv4::MutableIpv4Packet;

use super::*;

/// An IPv4 packet behind an Ethernet header, with these options and so much payload.
fn frame(options: &[u8], flags: u16, payload: usize) -> Frame {
    let header = IPV4_HEADER + options.len();
    let mut bytes = vec![2; ETHERNET_HEADER - 2];
    bytes.extend([8, 0, 0x40 | (header / 4) as u8, 0]);
    bytes.extend(((header + payload) as u16).to_be_bytes());
    bytes.extend([0x12, 0x34]);
    bytes.extend(flags.to_be_bytes());
    bytes.extend([64, 17, 0, 0, 192, 0, 2, 9, 10, 0, 0, 2]);
    bytes.extend(options);
    bytes.extend((0..payload).map(|at| (at % 251) as u8));
    let mut packet = MutableIpv4Packet::new(&mut bytes[ETHERNET_HEADER..]).unwrap();
    packet.set_checksum(ipv4::checksum(&packet.to_immutable()));
    Frame::from_bytes(&bytes)
}

/// Checks each fragment's header and puts their payloads together.
fn together(pieces: &[Frame], mtu: usize, identification: u16) -> Vec<u8> {
    let mut data = Vec::new();
    for (at, piece) in pieces.iter().enumerate() {
        let packet = Ipv4Packet::new(&piece.bytes()[ETHERNET_HEADER..]).unwrap();
        let header = usize::from(packet.get_header_length()) * 4;
        assert_eq!(packet.get_checksum(), ipv4::checksum(&packet));
        assert_eq!(packet.get_identification(), identification);
        assert_eq!(
            usize::from(packet.get_total_length()),
            packet.packet().len()
        );
        assert!(packet.packet().len() <= mtu);
        assert_eq!(usize::from(packet.get_fragment_offset()) * 8, data.len());
        assert_eq!(packet.get_flags(), u8::from(at + 1 < pieces.len()));
        assert_eq!(
            piece.bytes()[..ETHERNET_HEADER],
            pieces[0].bytes()[..ETHERNET_HEADER]
        );
        data.extend(&packet.packet()[header..]);
    }
    data
}

fn cut(mut whole: Frame, mtu: u32) -> Vec<Frame> {
    let rest = divide(&mut whole, mtu, || 0xabcd);
    std::iter::once(whole).chain(rest).collect()
}

// Conforms: RFC4787-13 SWITCH-mtu-fragments
#[test]
fn fragments_add_up_to_the_packet() {
    for (payload, mtu) in [
        (1480, 1400),
        (1480, 576),
        (1000, 68),
        (1377, 1396),
        (60_000, 1500),
    ] {
        let whole = frame(&[], 0, payload);
        let pieces = cut(whole.clone(), mtu);
        assert!(pieces.len() > 1);
        let data = together(&pieces, mtu as usize, 0xabcd);
        assert_eq!(data, whole.bytes()[ETHERNET_HEADER + IPV4_HEADER..]);
    }
}

#[test]
fn link_padding_is_no_payload() {
    let mut whole = frame(&[], 0, 100);
    let padded = [whole.bytes(), &[9; 20]].concat();
    whole.set_bytes(&padded);
    let data = together(&cut(whole, 68), 68, 0xabcd);
    assert_eq!(data.len(), 100);
}

#[test]
fn a_fragment_keeps_its_identification_and_its_place() {
    let pieces = cut(frame(&[], MORE_FRAGMENTS | 100, 800), 500);
    let word = |frame: &Frame, at: usize| {
        let bytes = &frame.bytes()[ETHERNET_HEADER + at..];
        u16::from_be_bytes([bytes[0], bytes[1]])
    };
    let fields: Vec<(u16, u16)> = pieces.iter().map(|it| (word(it, 4), word(it, 6))).collect();
    assert_eq!(
        fields,
        [
            (0x1234, MORE_FRAGMENTS | 100),
            (0x1234, MORE_FRAGMENTS | 160)
        ]
    );
}

#[test]
fn only_options_with_the_copied_flag_are_in_every_fragment() {
    // No operation, record route (7), and router alert (148), which is copied.
    let options = [1, 7, 7, 4, 0, 0, 0, 0, 148, 4, 0, 0];
    let pieces = cut(frame(&options, 0, 150), 100);
    let headers: Vec<&[u8]> = pieces
        .iter()
        .map(|piece| {
            let bytes = &piece.bytes()[ETHERNET_HEADER..];
            &bytes[IPV4_HEADER..usize::from(bytes[0] & 15) * 4]
        })
        .collect();
    assert_eq!(headers, [&options[..], &[148, 4, 0, 0], &[148, 4, 0, 0]]);
    // Cut off or endless ones are no reason to stumble.
    for options in [[148, 9, 0, 0], [148, 0, 0, 0], [7, 1, 1, 1], [1, 1, 1, 148]] {
        assert!(cut(frame(&options, 0, 200), 100).len() > 1);
    }
}

#[test]
fn a_partial_checksum_is_completed_before_the_cut() {
    for payload in [1000, 1001] {
        let mut whole = frame(&[], 0, payload);
        let udp = ETHERNET_HEADER + IPV4_HEADER;
        let bytes = whole.bytes_mut();
        bytes[udp + 4..udp + 6].copy_from_slice(&(payload as u16).to_be_bytes());
        let addresses = [192u8, 0, 2, 9, 10, 0, 0, 2];
        let pseudo: u32 = addresses
            .chunks(2)
            .map(|word| u32::from(word[0]) << 8 | u32::from(word[1]))
            .sum::<u32>()
            + 17
            + payload as u32;
        let pseudo = (pseudo >> 16) + (pseudo & 0xffff);
        bytes[udp + 6..udp + 8].copy_from_slice(&(pseudo as u16).to_be_bytes());
        whole.set_vnet(VnetHeader {
            flags: VnetHeader::NEEDS_CSUM,
            csum_start: udp as u16,
            csum_offset: 6,
            ..VnetHeader::default()
        });
        let pieces = cut(whole, 576);
        assert!(
            pieces
                .iter()
                .all(|piece| piece.vnet() == VnetHeader::default())
        );
        let data = together(&pieces, 576, 0xabcd);
        let datagram = pnet_packet::udp::UdpPacket::new(&data).unwrap();
        let sum = pnet_packet::udp::ipv4_checksum(
            &datagram,
            &[192, 0, 2, 9].into(),
            &[10, 0, 0, 2].into(),
        );
        assert_eq!(datagram.get_checksum(), sum);
    }
}

/// A TCP super-frame with 20 bytes of TCP header.
fn super_frame(flags: u16, gso_type: u8, protocol: u8, gso_size: u16) -> Frame {
    let mut whole = frame(&[], flags, 10_020);
    let bytes = whole.bytes_mut();
    bytes[ETHERNET_HEADER + 9] = protocol;
    bytes[ETHERNET_HEADER + IPV4_HEADER + 12] = 0x50;
    whole.set_vnet(VnetHeader {
        gso_type,
        gso_size,
        ..VnetHeader::default()
    });
    whole
}

fn fits(frame: &mut Frame, mtu: u32) -> Fit {
    let vnet = frame.vnet();
    let bytes = &mut frame.bytes_mut()[ETHERNET_HEADER..];
    fit(
        &Packet::parse(bytes, Checksum::Complete).unwrap(),
        vnet,
        mtu,
    )
}

// Conforms: RFC4787-13 SWITCH-mtu-super-frames
#[test]
fn a_super_frame_counts_by_its_segments() {
    const DF: u16 = 0x4000;
    let mut tcp = super_frame(DF, VnetHeader::GSO_TCPV4, 6, 1360);
    assert_eq!(fits(&mut tcp, 1400), Fit::AsItIs);
    assert_eq!(fits(&mut tcp, 1399), Fit::Never);
    let mut udp = super_frame(0, VnetHeader::GSO_UDP_L4, 17, 1372);
    assert_eq!(fits(&mut udp, 1400), Fit::AsItIs);
    assert_eq!(fits(&mut udp, 1399), Fit::Never);

    let mut tcp = super_frame(0, VnetHeader::GSO_TCPV4, 6, 1460);
    assert_eq!(fits(&mut tcp, 1400), Fit::Divided);
    assert!(divide(&mut tcp, 1400, || 1).is_empty());
    assert_eq!(tcp.vnet().gso_size, 1360);
    assert_eq!(fits(&mut tcp, 1400), Fit::AsItIs);
    // What says it is one of TCP, and is not, counts by its length.
    let mut odd = super_frame(DF, VnetHeader::GSO_TCPV4, 17, 1360);
    assert_eq!(fits(&mut odd, 1400), Fit::Never);
}

#[test]
fn whole_packets_are_judged_by_their_flag() {
    assert_eq!(fits(&mut frame(&[], 0, 1380), 1400), Fit::AsItIs);
    assert_eq!(fits(&mut frame(&[], 0, 1381), 1400), Fit::Divided);
    assert_eq!(fits(&mut frame(&[], 0x4000, 1381), 1400), Fit::Never);
}
