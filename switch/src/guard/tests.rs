use std::net::Ipv6Addr;

use super::*;
use crate::config::{NetworkId, PortId};
use crate::frame::{ETHERNET_HEADER, Frame, MacAddr};
use crate::ipv6::link_local;
use crate::nd;

fn check(endpoint: &Endpoint, frame: &[u8]) -> Result<(), DropReason> {
    super::check(endpoint, frame, Layers::of(frame)?)
}

const MINE: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);

fn endpoint() -> Endpoint {
    Endpoint {
        port: PortId(1),
        network: NetworkId(1),
        mac: MINE,
        addresses: vec![IpAddr::from([10, 0, 0, 2]), "fd00::2".parse().unwrap()],
        guard: true,
        isolated: false,
    }
}

fn ipv4(source_mac: MacAddr, source: [u8; 4]) -> Vec<u8> {
    let mut frame = vec![0xff; 6];
    frame.extend(source_mac.0);
    frame.extend([0x08, 0x00, 0x45, 0, 0, 20, 0, 0, 0, 0, 64, 17, 0, 0]);
    frame.extend(source);
    frame.extend([10, 0, 0, 3]);
    frame
}

fn ipv6(source: Ipv6Addr, next_header: u8, first: u8) -> Vec<u8> {
    let mut frame = vec![0xff; 6];
    frame.extend(MINE.0);
    frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 8, next_header, 255]);
    frame.extend(source.octets());
    frame.extend(Ipv6Addr::LOCALHOST.octets());
    frame.extend([first, 0, 0, 0, 0, 0, 0, 0]);
    frame
}

// Conforms: LINUX-bridge-locked-port SWITCH-guard
#[test]
fn only_its_own_mac_and_address() {
    let other = MacAddr([2, 0, 0, 0, 0, 9]);
    assert_eq!(check(&endpoint(), &ipv4(MINE, [10, 0, 0, 2])), Ok(()));
    let spoofed = Err(DropReason::SpoofedSource);
    assert_eq!(check(&endpoint(), &ipv4(MINE, [10, 0, 0, 9])), spoofed);
    assert_eq!(check(&endpoint(), &ipv4(other, [10, 0, 0, 2])), spoofed);
    let global: Ipv6Addr = "2001:db8::9".parse().unwrap();
    assert_eq!(check(&endpoint(), &ipv6(global, 17, 0)), spoofed);
    assert_eq!(
        check(&endpoint(), &ipv6("fd00::2".parse().unwrap(), 17, 0)),
        Ok(())
    );
    assert_eq!(
        check(&endpoint(), &ipv6("fe80::9".parse().unwrap(), 17, 0)),
        Ok(())
    );
}

// Conforms: SWITCH-guard
#[test]
fn arp_speaks_for_nobody_else() {
    let mut frame = Frame::new();
    let target = Ipv4Addr::new(10, 0, 0, 3);
    arp::ask(&mut frame, (MINE, Ipv4Addr::new(10, 0, 0, 2)), target);
    assert_eq!(check(&endpoint(), frame.bytes()), Ok(()));
    arp::ask(&mut frame, (MINE, Ipv4Addr::UNSPECIFIED), target);
    assert_eq!(check(&endpoint(), frame.bytes()), Ok(()));
    arp::ask(&mut frame, (MINE, Ipv4Addr::new(10, 0, 0, 1)), target);
    assert_eq!(
        check(&endpoint(), frame.bytes()),
        Err(DropReason::SpoofedSource)
    );
}

#[test]
fn a_tag_hides_nothing() {
    let mut tagged = ipv4(MINE, [10, 0, 0, 9]);
    tagged.splice(12..12, [0x81, 0x00, 0, 5]);
    assert_eq!(check(&endpoint(), &tagged), Err(DropReason::SpoofedSource));
}

// Conforms: CVE-2020-13401
#[test]
fn router_advertisements_are_stopped() {
    let advertisement = ipv6("fe80::9".parse().unwrap(), 58, 134);
    assert_eq!(
        check(&endpoint(), &advertisement),
        Err(DropReason::RogueRouter)
    );
}

#[test]
fn a_truncated_header_is_malformed() {
    let frame = ipv4(MINE, [10, 0, 0, 2]);
    for len in 0..frame.len() {
        assert_eq!(
            check(&endpoint(), &frame[..len]),
            Err(DropReason::Malformed),
            "{len}"
        );
    }
}

const SPOOFED: Result<(), DropReason> = Err(DropReason::SpoofedSource);

fn address(text: &str) -> Ipv6Addr {
    text.parse().unwrap()
}

/// A frame of MINE with this packet, whose headers before the message are `chain`.
fn discovery(from: &str, to: &str, chain: &[u8], first: u8, message: &[u8]) -> Vec<u8> {
    let mut frame = ipv6(address(from), first, 0);
    frame.truncate(ETHERNET_HEADER + 40);
    frame[ETHERNET_HEADER + 5] = (chain.len() + message.len()) as u8;
    frame[ETHERNET_HEADER + 24..][..16].copy_from_slice(&address(to).octets());
    frame.extend(chain);
    frame.extend(message);
    frame
}

fn message(kind: u8, target: &str, option: u8, mac: MacAddr) -> Vec<u8> {
    let mut message = vec![kind, 0, 0, 0, 0, 0, 0, 0];
    message.extend(address(target).octets());
    message.extend([option, 1]);
    message.extend(mac.0);
    message
}

fn judge(frame: &[u8]) -> Result<(), DropReason> {
    check(&endpoint(), frame)
}

// Conforms: SWITCH-guard-nd
#[test]
fn neighbor_discovery_speaks_for_nobody_else() {
    let other = MacAddr([2, 0, 0, 0, 0, 9]);
    let own = link_local(MINE).to_string();
    let advertise = |target: &str, mac| {
        let message = message(nd::ADVERTISEMENT, target, nd::TARGET_LINK_LAYER, mac);
        judge(&discovery("fd00::2", "ff02::1", &[], 58, &message))
    };
    assert_eq!(advertise("fd00::2", MINE), Ok(()));
    assert_eq!(advertise(&own, MINE), Ok(()));
    assert_eq!(advertise("fd00::2", other), SPOOFED);
    assert_eq!(advertise("fd00::1", MINE), SPOOFED);
    // The gateway's link-local address, and a neighbour's.
    assert_eq!(advertise(&link_local(other).to_string(), MINE), SPOOFED);
    // One that comes from no MAC is its own choice (RFC 7217).
    assert_eq!(advertise("fe80::a1b2:c3d4:e5f6:789", MINE), Ok(()));

    let ask = |from, target, mac| {
        let message = message(nd::SOLICITATION, target, nd::SOURCE_LINK_LAYER, mac);
        judge(&discovery(from, "ff02::1:ff00:1", &[], 58, &message))
    };
    assert_eq!(ask("fd00::2", "fd00::1", MINE), Ok(()));
    assert_eq!(ask("fd00::2", "fd00::1", other), SPOOFED);
    assert_eq!(ask("fd00::1", "fd00::3", MINE), SPOOFED);

    let solicit = |mac: MacAddr| {
        let message = [&[133, 0, 0, 0, 0, 0, 0, 0, 1, 1], &mac.0[..]].concat();
        judge(&discovery(&own, "ff02::2", &[], 58, &message))
    };
    assert_eq!(solicit(MINE), Ok(()));
    assert_eq!(solicit(other), SPOOFED);
    // Options that run over the end are somebody's trick.
    let mut long = message(nd::ADVERTISEMENT, "fd00::2", 9, MINE);
    long[25] = 2;
    let long = discovery("fd00::2", "ff02::1", &[], 58, &long);
    assert_eq!(judge(&long), Err(DropReason::Malformed));
}

// Conforms: SWITCH-guard-nd IPV6-nd-dad
#[test]
fn the_unspecified_address_only_makes_sure_of_its_own() {
    let dad = |target: &str| {
        let mut message = message(nd::SOLICITATION, target, 14, MINE);
        message.truncate(24);
        judge(&discovery("::", "ff02::1:ff00:2", &[], 58, &message))
    };
    assert_eq!(dad("fd00::2"), Ok(()));
    assert_eq!(dad(&link_local(MINE).to_string()), Ok(()));
    assert_eq!(dad("fd00::3"), SPOOFED);
    // RFC 3590: a listener report, behind a router alert.
    let alert = [58, 0, 5, 2, 0, 0, 1, 0];
    let report = discovery("::", "ff02::16", &alert, 0, &[143, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(judge(&report), Ok(()));
    assert_eq!(
        judge(&discovery("::", "fd00::3", &[], 58, &[128; 8])),
        SPOOFED
    );
    assert_eq!(
        judge(&discovery("::", "ff02::1", &[], 17, &[0; 8])),
        SPOOFED
    );
    assert_eq!(
        judge(&discovery("::", "ff02::1", &[], 6, &[0; 20])),
        SPOOFED
    );
}

// Conforms: CVE-2020-13401 IPV6-extension-headers
#[test]
fn extension_headers_and_fragments_hide_no_router() {
    let rogue = Err(DropReason::RogueRouter);
    let own = link_local(MINE).to_string();
    let hop_by_hop = [58, 0, 5, 2, 0, 0, 1, 0];
    let routing_then_destination = [60, 0, 4, 1, 0, 0, 0, 0, 58, 0, 1, 4, 0, 0, 0, 0];
    let atomic = [58, 0, 0, 0, 0, 0, 0, 7];
    let first_piece = [58, 0, 0, 1, 0, 0, 0, 7];
    for kind in [nd::ROUTER_ADVERTISEMENT, nd::REDIRECT] {
        for (first, chain) in [
            (58, &[][..]),
            (0, &hop_by_hop),
            (43, &routing_then_destination),
            (44, &atomic),
            (44, &first_piece),
        ] {
            let frame = discovery(&own, "ff02::1", chain, first, &[kind; 16]);
            assert_eq!(judge(&frame), rogue, "{kind} behind {first}");
        }
    }
    // RFC 6980: discovery is never fragmented.
    let advertisement = message(nd::ADVERTISEMENT, "fd00::2", 2, MINE);
    for chain in [atomic, first_piece] {
        let frame = discovery("fd00::2", "ff02::1", &chain, 44, &advertisement);
        assert_eq!(judge(&frame), Err(DropReason::Malformed));
    }
    // RFC 7112: the first piece has all headers. A later one, without it, is nothing.
    let cut = discovery(&own, "ff02::1", &[60, 0, 0, 1, 0, 0, 0, 7], 44, &[58]);
    assert_eq!(judge(&cut), Err(DropReason::Malformed));
    let empty = discovery(&own, "ff02::1", &first_piece, 44, &[]);
    assert_eq!(judge(&empty), Err(DropReason::Malformed));
    let later = [58, 0, 0, 8, 0, 0, 0, 7];
    let frame = discovery(&own, "ff02::1", &later, 44, &[134; 16]);
    assert_eq!(judge(&frame), Ok(()));
}

// Conforms: SWITCH-guard-dhcp
#[test]
fn only_the_control_plane_gives_addresses() {
    let udp6 = |ports: [u8; 4], chain: &[u8], first| {
        let datagram = [&ports[..], &[0; 4]].concat();
        judge(&discovery("fd00::2", "fd00::3", chain, first, &datagram))
    };
    assert_eq!(udp6([2, 35, 2, 34], &[], 17), Err(DropReason::RogueDhcp));
    let options = [17, 0, 1, 4, 0, 0, 0, 0];
    let hidden = udp6([2, 35, 2, 34], &options, 60);
    assert_eq!(hidden, Err(DropReason::RogueDhcp));
    assert_eq!(udp6([2, 34, 2, 35], &[], 17), Ok(()));
    // Clients look at their own port alone.
    assert_eq!(udp6([9, 9, 2, 34], &[], 17), Err(DropReason::RogueDhcp));

    let udp4 = |ports: [u8; 4]| {
        let mut frame = ipv4(MINE, [10, 0, 0, 2]);
        frame[ETHERNET_HEADER + 3] = 28;
        frame.extend([&ports[..], &[0; 4]].concat());
        judge(&frame)
    };
    assert_eq!(udp4([0, 67, 0, 68]), Err(DropReason::RogueDhcp));
    assert_eq!(udp4([0, 68, 0, 67]), Ok(()));
    assert_eq!(udp4([9, 9, 0, 68]), Err(DropReason::RogueDhcp));
    let mut reverse = ipv4(MINE, [10, 0, 0, 2]);
    reverse[12..14].copy_from_slice(&ethertype::RARP.to_be_bytes());
    assert_eq!(judge(&reverse), Err(DropReason::RogueDhcp));
}

/// A packet of MINE's, of this protocol, with these options and this message.
fn packet4(protocol: u8, options: &[u8], flags: u16, message: &[u8]) -> Vec<u8> {
    let mut frame = ipv4(MINE, [10, 0, 0, 2]);
    frame[14] += (options.len() / 4) as u8;
    frame[17] = (20 + options.len() + message.len()) as u8;
    frame[20..22].copy_from_slice(&flags.to_be_bytes());
    frame[23] = protocol;
    frame.extend(options);
    frame.extend(message);
    frame
}

// Conforms: SWITCH-guard CVE-2020-13401
#[test]
fn nobody_speaks_as_a_router_of_ipv4() {
    const MORE: u16 = 0x2000;
    let rogue = Err(DropReason::RogueRouter);
    for options in [&[][..], &[0x94, 4, 0, 0]] {
        for flags in [0, MORE] {
            for kind in [5, 9] {
                assert_eq!(judge(&packet4(1, options, flags, &[kind; 8])), rogue);
            }
            assert_eq!(judge(&packet4(1, options, flags, &[8; 8])), Ok(()));
        }
        assert_eq!(judge(&packet4(2, options, 0, &[0x11; 8])), rogue);
        assert_eq!(judge(&packet4(2, options, 0, &[0x16; 8])), Ok(()));
    }
    // Nobody could tell what they are when they are put together.
    for flags in [MORE, 1] {
        let piece = judge(&packet4(2, &[], flags, &[0x16; 8]));
        assert_eq!(piece, Err(DropReason::Malformed));
    }
    let alert = [58, 0, 5, 2, 0, 0, 1, 0];
    let query = discovery("fe80::9", "ff02::1", &alert, 0, &[130; 24]);
    assert_eq!(judge(&query), rogue);
    let pieces = [58, 0, 0, 1, 0, 0, 0, 7];
    let report = discovery("fe80::9", "ff02::16", &pieces, 44, &[143; 8]);
    assert_eq!(judge(&report), Err(DropReason::Malformed));
}

#[test]
fn a_packet_takes_no_way_of_its_own() {
    let routed = Err(DropReason::SourceRouted);
    for kind in [131, 137] {
        let options = [1, kind, 7, 4, 10, 0, 0, 9];
        assert_eq!(judge(&packet4(17, &options, 0, &[0; 8])), routed);
    }
    let broken = packet4(17, &[131, 0, 0, 0], 0, &[0; 8]);
    assert_eq!(judge(&broken), Err(DropReason::Malformed));
    let header = [17, 0, 0, 1, 0, 0, 0, 0];
    let frame = discovery("fd00::2", "fd00::3", &header, 43, &[0; 8]);
    assert_eq!(judge(&frame), routed);
}

#[test]
fn the_ethertype_and_the_version_agree() {
    // The addresses of one version are other bytes than those of the other.
    let mut six = ipv4(MINE, [10, 0, 0, 2]);
    six.extend([0; 20]);
    six[14..22].copy_from_slice(&[0x60, 0, 0, 0, 0, 0, 59, 64]);
    assert_eq!(judge(&six), Err(DropReason::Malformed));
    let mut four = ipv6(address("fd00::2"), 59, 0);
    four[14..24].copy_from_slice(&[0x45, 0, 0, 20, 0, 0, 0, 0, 64, 17]);
    assert_eq!(judge(&four), Err(DropReason::Malformed));
}

#[test]
fn arp_of_other_kinds_is_malformed() {
    let mut frame = Frame::new();
    let own = Ipv4Addr::new(10, 0, 0, 2);
    arp::ask(&mut frame, (MINE, own), own);
    assert_eq!(judge(frame.bytes()), Ok(()));
    // Hardware and protocol types and lengths; reverse and inverse ARP; a group as the sender.
    for (at, byte) in [
        (15, 6),
        (17, 1),
        (18, 8),
        (19, 16),
        (21, 3),
        (21, 8),
        (22, 0xff),
    ] {
        let mut other = frame.bytes().to_vec();
        other[at] = byte;
        assert_eq!(judge(&other), Err(DropReason::Malformed), "{at}");
    }
    // An answer from nobody is no probe.
    let mut answer = frame.bytes().to_vec();
    answer[21] = 2;
    answer[28..32].fill(0);
    assert_eq!(judge(&answer), SPOOFED);
}
