use super::*;

const ASKER: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
const GATEWAY: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);
const ASKING: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2);
const ASKED: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0x12, 0x3456);

/// Where the ICMPv6 message starts.
const MESSAGE: usize = ETHERNET_HEADER + ipv6::HEADER;

fn question() -> Frame {
    let mut frame = Frame::new();
    ask(&mut frame, (ASKER, ASKING), ASKED);
    frame
}

fn solicitation(frame: &Frame) -> Solicitation {
    match parse(frame) {
        Some(Message::Solicitation(solicitation)) => solicitation,
        other => panic!("{other:?}"),
    }
}

/// Makes the checksum right again after a change.
fn sum(frame: &mut Frame) {
    let packet = Ipv6Packet::new(&frame.bytes()[ETHERNET_HEADER..]).unwrap();
    let (source, destination) = (packet.get_source(), packet.get_destination());
    let length = usize::from(packet.get_payload_length());
    let message = &mut frame.bytes_mut()[MESSAGE..][..length];
    let mut message = MutableIcmpv6Packet::new(message).unwrap();
    let sum = icmpv6::checksum(&message.to_immutable(), &source, &destination);
    message.set_checksum(sum);
}

// Conforms: IPV6-nd-gateway
#[test]
fn a_question_becomes_its_answer() {
    let mut frame = question();
    let mac = |text: &str| Some(text.parse::<MacAddr>().unwrap());
    let asked = solicitation(&frame);
    assert_eq!(
        asked,
        Solicitation {
            source: ASKING,
            source_mac: Some(ASKER),
            target: ASKED
        }
    );
    assert_eq!(frame::destination(frame.bytes()), mac("33:33:ff:12:34:56"));

    answer(&mut frame, &asked, GATEWAY);
    let expected = Advertisement {
        target: ASKED,
        target_mac: Some(GATEWAY),
        solicited: true,
        overrides: true,
    };
    assert_eq!(parse(&frame), Some(Message::Advertisement(expected)));
    assert_eq!(frame::destination(frame.bytes()), Some(ASKER));
    assert_eq!(frame::source(frame.bytes()), Some(GATEWAY));
    assert_eq!(frame.bytes()[MESSAGE + 4] & ROUTER, ROUTER);
}

// Conforms: IPV6-nd-dad
#[test]
fn who_has_no_address_yet_is_answered_with_everyone() {
    let mut frame = question();
    let bytes = frame.bytes_mut();
    bytes[ETHERNET_HEADER + 8..][..16].fill(0);
    let (whole, length) = (FRAME_LEN - OPTION, ETHERNET_HEADER + 5);
    bytes[length] = HEADER as u8;
    frame.set_len(whole);
    sum(&mut frame);
    let asked = solicitation(&frame);
    assert!(asked.source.is_unspecified() && asked.source_mac.is_none());
    answer(&mut frame, &asked, GATEWAY);
    let Some(Message::Advertisement(answered)) = parse(&frame) else {
        panic!("no advertisement");
    };
    assert!(!answered.solicited && answered.overrides);
    assert_eq!(answered.target_mac, Some(GATEWAY));
    let destination = frame::destination(frame.bytes()).unwrap();
    assert_eq!(destination.to_string(), "33:33:00:00:00:01");
}

// Conforms: IPV6-nd-validation
#[test]
fn what_rfc_4861_says_to_discard_is_none() {
    let spoiled = |spoil: fn(&mut [u8])| {
        let mut frame = question();
        spoil(frame.bytes_mut());
        sum(&mut frame);
        parse(&frame)
    };
    assert!(spoiled(|_| {}).is_some());
    // From beyond the link.
    assert_eq!(spoiled(|bytes| bytes[ETHERNET_HEADER + 7] = 254), None);
    // The code.
    assert_eq!(spoiled(|bytes| bytes[MESSAGE + 1] = 1), None);
    // A group has no neighbour.
    assert_eq!(spoiled(|bytes| bytes[MESSAGE + 8] = 0xff), None);
    // An option without length, and one longer than the message.
    assert_eq!(spoiled(|bytes| bytes[MESSAGE + HEADER + 1] = 0), None);
    assert_eq!(spoiled(|bytes| bytes[MESSAGE + HEADER + 1] = 2), None);
    // The unspecified address has no MAC, and asks a solicited-node group.
    let no_source = |bytes: &mut [u8]| bytes[ETHERNET_HEADER + 8..][..16].fill(0);
    assert_eq!(spoiled(no_source), None);
    assert_eq!(
        spoiled(|bytes| {
            bytes[ETHERNET_HEADER + 8..][..16].fill(0);
            bytes[MESSAGE + HEADER] = 14;
            bytes[ETHERNET_HEADER + 24 + 15] ^= 1;
        }),
        None
    );
    // A message too short for its target.
    assert_eq!(
        spoiled(|bytes| bytes[ETHERNET_HEADER + 5] = HEADER as u8 - 1),
        None
    );
    // The checksum.
    let mut frame = question();
    frame.bytes_mut()[MESSAGE + 2] ^= 1;
    assert_eq!(parse(&frame), None);
    // An answer to everyone is no answer to anyone.
    let mut frame = question();
    answer(
        &mut frame,
        &Solicitation {
            source: ALL_NODES,
            source_mac: Some(ASKER),
            target: ASKED,
        },
        GATEWAY,
    );
    assert_eq!(parse(&frame), None);

    let whole = question();
    for len in 0..FRAME_LEN {
        let mut cut = whole.clone();
        cut.set_len(len);
        assert_eq!(parse(&cut), None, "{len}");
    }
}

#[test]
fn unknown_options_are_passed_over() {
    let mut frame = question();
    // A nonce (RFC 7527), then the link-layer address.
    frame.set_len(FRAME_LEN + OPTION);
    let bytes = frame.bytes_mut();
    bytes[ETHERNET_HEADER + 5] += OPTION as u8;
    bytes.copy_within(FRAME_LEN - OPTION..FRAME_LEN, FRAME_LEN);
    bytes[FRAME_LEN - OPTION..FRAME_LEN].copy_from_slice(&[14, 1, 1, 2, 3, 4, 5, 6]);
    sum(&mut frame);
    assert_eq!(solicitation(&frame).source_mac, Some(ASKER));
}
