//! ICMP errors of the gateway's own: what tells a container why its packet went no further.
//!
//! Written in place over the packet they are about (RFC 792, RFC 1812 4.3), and rate-limited
//! (RFC 1812 4.3.2.8), so that a flood of hopeless packets costs no more than the drops.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use nat::{Refused, Time};
use pnet_packet::icmp::{self, IcmpCode, IcmpPacket, IcmpType, IcmpTypes, MutableIcmpPacket};
use pnet_packet::ip::IpNextHeaderProtocols;
use pnet_packet::ipv4::{self, Ipv4Packet, MutableIpv4Packet};
use pnet_packet::{MutablePacket, Packet};

use crate::drop::DropReason;
use crate::frame::{self, ETHERNET_HEADER, Frame, MacAddr, VnetHeader, ethertype};

const IPV4_HEADER: usize = MutableIpv4Packet::minimum_packet_size();
/// Type, code, checksum and four bytes that the errors here leave unused.
const ICMP_HEADER: usize = 8;
/// RFC 1812 4.3.2.3: as much of the packet as fits into an error of 576 bytes.
const LARGEST: usize = 576;

/// The type and code that tell `reason`; none where silence is right.
fn kind(reason: DropReason) -> Option<(IcmpType, IcmpCode)> {
    /// RFC 792 and RFC 1812 5.2.7.1.
    const NET_UNREACHABLE: u8 = 0;
    const HOST_UNREACHABLE: u8 = 1;
    const ADMINISTRATIVELY_PROHIBITED: u8 = 13;
    let unreachable = |code| Some((IcmpTypes::DestinationUnreachable, IcmpCode(code)));
    match reason {
        DropReason::TtlExceeded => Some((IcmpTypes::TimeExceeded, IcmpCode(0))),
        DropReason::NoRoute => unreachable(NET_UNREACHABLE),
        DropReason::UnknownEndpoint => unreachable(HOST_UNREACHABLE),
        // RFC 5508 REQ-8, RFC 6888 REQ-11: a NAT without resources says so.
        DropReason::OtherNetwork
        | DropReason::Nat(Refused::PortsExhausted | Refused::TableFull | Refused::QuotaExceeded) => {
            unreachable(ADMINISTRATIVELY_PROHIBITED)
        }
        _ => None,
    }
}

/// Turns the dropped packet in `frame` into the ICMP error about it, from the gateway to its
/// sender. False, and the frame as it was, where none may be sent: RFC 1812 4.3.2.7 wants silence
/// about ICMP errors, later fragments, and anything to or from a group or nobody.
pub(crate) fn turn_into_error(
    frame: &mut Frame,
    reason: DropReason,
    gateway: (MacAddr, Ipv4Addr),
) -> bool {
    let Some((icmp_type, code)) = kind(reason) else {
        return false;
    };
    let bytes = frame.bytes();
    let Some(sender_mac) = frame::source(bytes) else {
        return false;
    };
    if frame::ethertype_of(bytes) != Some(ethertype::IPV4) {
        return false;
    }
    let Some(packet) = Ipv4Packet::new(&bytes[ETHERNET_HEADER..]) else {
        return false;
    };
    let sender = packet.get_source();
    if !deserves_an_error(&packet) {
        return false;
    }
    let whole = usize::from(packet.get_total_length()).min(bytes.len() - ETHERNET_HEADER);
    let quoted = whole.min(LARGEST - IPV4_HEADER - ICMP_HEADER);

    let shift = IPV4_HEADER + ICMP_HEADER;
    frame.set_len(ETHERNET_HEADER + shift + quoted);
    frame.set_vnet(VnetHeader::default());
    frame::set_destination(frame.bytes_mut(), sender_mac);
    frame::set_source(frame.bytes_mut(), gateway.0);
    let ip = &mut frame.bytes_mut()[ETHERNET_HEADER..];
    ip.copy_within(..quoted, shift);
    write(ip, (gateway.1, sender), (icmp_type, code));
    true
}

fn deserves_an_error(packet: &Ipv4Packet) -> bool {
    let first = packet.get_fragment_offset() == 0;
    let answerable = |address: Ipv4Addr| {
        !(address.is_multicast() || address.is_broadcast() || address.is_unspecified())
    };
    let is_error = packet.get_next_level_protocol() == IpNextHeaderProtocols::Icmp
        && IcmpPacket::new(packet.payload()).is_none_or(|message| {
            let kind = message.get_icmp_type();
            kind != IcmpTypes::EchoRequest && kind != IcmpTypes::EchoReply
        });
    first && !is_error && answerable(packet.get_source()) && answerable(packet.get_destination())
}

/// Writes the two headers in front of the quotation.
fn write(bytes: &mut [u8], addresses: (Ipv4Addr, Ipv4Addr), kind: (IcmpType, IcmpCode)) {
    let len = bytes.len();
    bytes[..IPV4_HEADER + ICMP_HEADER].fill(0);
    let mut packet = MutableIpv4Packet::new(bytes).expect("the frame was sized for it");
    packet.set_version(4);
    packet.set_header_length((IPV4_HEADER / 4) as u8);
    // RFC 1812 4.3.2.5: internetwork control.
    packet.set_dscp(0b110_000);
    packet.set_total_length(len as u16);
    packet.set_ttl(64);
    packet.set_next_level_protocol(IpNextHeaderProtocols::Icmp);
    packet.set_source(addresses.0);
    packet.set_destination(addresses.1);
    packet.set_checksum(ipv4::checksum(&packet.to_immutable()));
    let mut message =
        MutableIcmpPacket::new(packet.payload_mut()).expect("the frame was sized for it");
    message.set_icmp_type(kind.0);
    message.set_icmp_code(kind.1);
    message.set_checksum(icmp::checksum(&message.to_immutable()));
}

/// At most so many errors a second, with as many in one burst.
const ERRORS_PER_SECOND: u64 = 1000;

/// The limit of all errors together: a clock that each error puts forward by its share of a
/// second, and that may run ahead of the real one by a second's worth.
#[derive(Debug, Default)]
pub(crate) struct RateLimit {
    ahead: AtomicU64,
}

impl RateLimit {
    /// Whether one more may go now.
    pub(crate) fn admit(&self, now: Time) -> bool {
        const SHARE: u64 = 1_000_000_000 / ERRORS_PER_SECOND;
        let limit = (now + Duration::from_secs(1)).as_nanos();
        let took = self
            .ahead
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |ahead| {
                let next = ahead.max(now.as_nanos()) + SHARE;
                (next <= limit).then_some(next)
            });
        took.is_ok()
    }
}

/// The gateway's address of the family that can carry the error.
pub(crate) fn ipv4_of(addresses: &[IpAddr]) -> Option<Ipv4Addr> {
    addresses.iter().find_map(|address| match address {
        IpAddr::V4(address) => Some(*address),
        IpAddr::V6(_) => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONTAINER: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
    const GATEWAY: (MacAddr, Ipv4Addr) = (MacAddr([2, 0, 0, 0, 0, 2]), Ipv4Addr::new(10, 0, 0, 1));

    fn packet(protocol: u8, payload: &[u8]) -> Frame {
        let mut bytes = Vec::new();
        bytes.extend(GATEWAY.0.0);
        bytes.extend(CONTAINER.0);
        bytes.extend([0x08, 0x00, 0x45, 0]);
        bytes.extend((20 + payload.len() as u16).to_be_bytes());
        bytes.extend([0, 0, 0, 0, 1, protocol, 0, 0, 10, 0, 0, 2, 198, 51, 100, 7]);
        bytes.extend(payload);
        Frame::from_bytes(&bytes)
    }

    #[test]
    fn quotes_the_packet_and_sums_right() {
        let mut frame = packet(17, &[7; 2000]);
        let before = frame.bytes().to_vec();
        assert!(turn_into_error(
            &mut frame,
            DropReason::TtlExceeded,
            GATEWAY
        ));
        assert_eq!(frame.len(), ETHERNET_HEADER + LARGEST);
        assert_eq!(frame::destination(frame.bytes()), Some(CONTAINER));
        let ip = Ipv4Packet::new(&frame.bytes()[ETHERNET_HEADER..]).unwrap();
        assert_eq!(ip.get_source(), GATEWAY.1);
        assert_eq!(ip.get_destination(), Ipv4Addr::new(10, 0, 0, 2));
        assert_eq!(ip.get_checksum(), ipv4::checksum(&ip));
        let message = IcmpPacket::new(ip.payload()).unwrap();
        assert_eq!(message.get_icmp_type(), IcmpTypes::TimeExceeded);
        assert_eq!(message.get_checksum(), icmp::checksum(&message));
        let quotation = &ip.payload()[ICMP_HEADER..];
        assert_eq!(quotation, &before[ETHERNET_HEADER..][..quotation.len()]);
    }

    #[test]
    fn a_short_packet_is_quoted_whole_and_without_padding() {
        let mut frame = packet(17, &[7; 4]);
        frame.set_len(60);
        assert!(turn_into_error(&mut frame, DropReason::NoRoute, GATEWAY));
        assert_eq!(
            frame.len(),
            ETHERNET_HEADER + IPV4_HEADER + ICMP_HEADER + 24
        );
    }

    #[test]
    fn never_about_errors_fragments_or_groups() {
        let silent = |mut frame: Frame| {
            let before = frame.bytes().to_vec();
            let sent = turn_into_error(&mut frame, DropReason::TtlExceeded, GATEWAY);
            !sent && frame.bytes() == before
        };
        assert!(silent(packet(1, &[3, 1, 0, 0, 0, 0, 0, 0])));
        assert!(!silent(packet(1, &[8, 0, 0, 0, 0, 0, 0, 0])));
        let mut fragment = packet(17, &[0; 8]);
        fragment.bytes_mut()[ETHERNET_HEADER + 7] = 9;
        assert!(silent(fragment));
        let mut group = packet(17, &[0; 8]);
        group.bytes_mut()[ETHERNET_HEADER + 16] = 224;
        assert!(silent(group));
        let mut spoof = packet(17, &[0; 8]);
        assert!(!turn_into_error(
            &mut spoof,
            DropReason::SpoofedSource,
            GATEWAY
        ));
    }

    // Conforms: RFC5508-8 RFC6888-11
    #[test]
    fn the_rate_is_limited_and_recovers() {
        let limit = RateLimit::default();
        let start = Time::ZERO + Duration::from_secs(9);
        let burst = (0..5000).filter(|_| limit.admit(start)).count();
        assert_eq!(burst as u64, ERRORS_PER_SECOND);
        let later = start + Duration::from_millis(100);
        let more = (0..5000).filter(|_| limit.admit(later)).count();
        assert_eq!(more as u64, ERRORS_PER_SECOND / 10);
    }
}
