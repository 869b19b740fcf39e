//! IGMP (RFC 1112, 2236, 3376) and MLD (RFC 2710, 3810) in frames: reading them all, and writing
//! queries of the last version of each.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use pnet_packet::icmpv6::{self, Icmpv6Packet};
use pnet_packet::ip::IpNextHeaderProtocols;
use pnet_packet::ipv4::{self, Ipv4Packet, MutableIpv4Packet};
use pnet_packet::ipv6::Ipv6Packet;
use pnet_packet::util::checksum;

use super::groups::{LAST_LISTENER_INTERVAL, QUERY_INTERVAL, RESPONSE_INTERVAL};
use crate::frame::{self, ETHERNET_HEADER, Frame, MacAddr, VnetHeader, ethertype};
use crate::ipv6::{self, Payload};
use crate::nd;

/// What a frame to a group says.
#[derive(Clone, Copy, Debug)]
pub(super) enum Heard<'a> {
    /// An ordinary packet to this group.
    Packet(IpAddr),
    Query(Query),
    Report(Records<'a>),
    /// For everyone on the link, or nothing we know: not IP, tagged, another kind of message.
    Nothing,
}

/// A question who listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Query {
    pub(super) source: IpAddr,
    /// None: to any group at all.
    pub(super) group: Option<IpAddr>,
    /// How long an answer may take.
    pub(super) within: Duration,
}

/// What became of one group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    Join,
    Leave,
}

/// The changes that a report tells, one a group. Groups of the link itself are left out.
#[derive(Clone, Copy, Debug)]
pub(super) struct Records<'a> {
    is_v4: bool,
    /// All that a report of an older version has.
    only: Option<(Change, IpAddr)>,
    /// The records of a newer one.
    rest: &'a [u8],
    left: u16,
}

const IGMP_QUERY: u8 = 0x11;
const IGMP_REPORT_V1: u8 = 0x12;
const IGMP_REPORT_V2: u8 = 0x16;
const IGMP_LEAVE: u8 = 0x17;
const IGMP_REPORT_V3: u8 = 0x22;
const MLD_QUERY: u8 = 130;
const MLD_REPORT_V1: u8 = 131;
const MLD_DONE: u8 = 132;
const MLD_REPORT_V2: u8 = 143;

/// An IGMPv3 query without sources (RFC 3376 section 4.1), and an MLDv2 one (RFC 3810 section 5.1).
const IGMP_QUERY_LEN: usize = 12;
const MLD_QUERY_LEN: usize = 28;
/// With the router alert option (RFC 2113).
const IPV4_HEADER: usize = 24;
const ROUTER_ALERT_V4: [u8; 4] = [0x94, 4, 0, 0];
/// A hop-by-hop header of the router alert option (RFC 2711), 0 for MLD, and two bytes of padding.
const ROUTER_ALERT_V6: [u8; 8] = [ipv6::ICMPV6, 0, 5, 2, 0, 0, 1, 0];
/// Robustness variable (RFC 3376 section 8.1, RFC 3810 section 9.1).
const ROBUSTNESS: u8 = 2;

/// Reads a frame whose destination is a group. None when it is IGMP or MLD whose checksum or length
/// is wrong (RFC 4541 section 2.1.1, rule 2).
pub(super) fn read(frame: &Frame) -> Option<Heard<'_>> {
    match frame::ethertype_of(frame.bytes()) {
        Some(ethertype::IPV4) => read_ipv4(frame),
        Some(ethertype::IPV6) => read_ipv6(frame),
        _ => Some(Heard::Nothing),
    }
}

/// Is this a group whose packets go to everyone on the link? RFC 4541 section 2.1.2, rule 2, and for
/// IPv6 all of the link's scope and below, on which neighbour discovery depends.
fn is_for_the_link(group: IpAddr) -> bool {
    match group {
        IpAddr::V4(group) => group.octets()[..3] == [224, 0, 0],
        IpAddr::V6(group) => group.octets()[1] & 0x0f <= 2,
    }
}

/// A packet to `group`, which is nothing else.
fn packet<'a>(group: IpAddr) -> Heard<'a> {
    if group.is_multicast() && !is_for_the_link(group) {
        Heard::Packet(group)
    } else {
        Heard::Nothing
    }
}

fn read_ipv4(frame: &Frame) -> Option<Heard<'_>> {
    let bytes = &frame.bytes()[ETHERNET_HEADER..];
    let ip = Ipv4Packet::new(bytes)?;
    let ordinary = packet(ip.get_destination().into());
    // Bit 0 is "more fragments".
    let fragmented = ip.get_fragment_offset() != 0 || ip.get_flags() & 1 != 0;
    if ip.get_next_level_protocol() != IpNextHeaderProtocols::Igmp {
        return Some(ordinary);
    }
    // Its receivers would put it together, and take it for what was not seen here.
    if fragmented {
        return None;
    }
    let header = usize::from(ip.get_header_length()) * 4;
    let message = bytes.get(header..usize::from(ip.get_total_length()))?;
    let partial = frame.vnet().needs_csum();
    // The sum of a message with its checksum is zero.
    if message.len() < 8 || (!partial && checksum(message, usize::MAX) != 0) {
        return None;
    }
    let group: [u8; 4] = *message[4..].first_chunk()?;
    let group = IpAddr::from(group);
    match message[0] {
        IGMP_QUERY => {
            let tenths = match (message[1], message.get(10..12)) {
                (code, Some(_)) => floating(u16::from(code), 7),
                // Version 1 has no such field: 10 s (RFC 2236 section 4).
                (0, None) => 100,
                (code, None) => u32::from(code),
            };
            let within = Duration::from_millis(100) * tenths;
            let sources = message.get(10..12).map_or(0, word);
            query(ip.get_source().into(), group, within, sources)
        }
        IGMP_REPORT_V1 | IGMP_REPORT_V2 => Some(only(Change::Join, group)),
        IGMP_LEAVE => Some(only(Change::Leave, group)),
        IGMP_REPORT_V3 => Records::new(true, &message[6..]).map(Heard::Report),
        _ => Some(ordinary),
    }
}

fn read_ipv6(frame: &Frame) -> Option<Heard<'_>> {
    const HOP_BY_HOP: u8 = 0;
    let bytes = &frame.bytes()[ETHERNET_HEADER..];
    let ip = Ipv6Packet::new(bytes)?;
    let ordinary = packet(ip.get_destination().into());
    // All MLD has a router alert and one hop to live (RFC 2710 section 3, RFC 3810 section 5).
    if ip.get_next_header().0 != HOP_BY_HOP || ip.get_hop_limit() != 1 {
        return Some(ordinary);
    }
    let Some(Payload::Upper {
        protocol: ipv6::ICMPV6,
        bytes: message,
        fragmented: false,
        ..
    }) = ipv6::payload(bytes)
    else {
        return Some(ordinary);
    };
    if !matches!(
        message.first(),
        Some(&(MLD_QUERY | MLD_REPORT_V1 | MLD_DONE | MLD_REPORT_V2))
    ) {
        return Some(ordinary);
    }
    let (source, destination) = (ip.get_source(), ip.get_destination());
    let partial = frame.vnet().needs_csum();
    if message.len() < 8 || (!partial && !nd::has_valid_checksum(message, source, destination)) {
        return None;
    }
    if message[0] == MLD_REPORT_V2 {
        return Records::new(false, &message[6..]).map(Heard::Report);
    }
    let group: [u8; 16] = *message[8..].first_chunk()?;
    let group = IpAddr::from(group);
    match message[0] {
        MLD_QUERY => {
            let code = word(&message[4..6]);
            let (millis, sources) = match message.get(26..28) {
                Some(count) => (floating(code, 15), word(count)),
                None => (u32::from(code), 0),
            };
            let within = Duration::from_millis(u64::from(millis));
            query(source.into(), group, within, sources)
        }
        MLD_REPORT_V1 => Some(only(Change::Join, group)),
        _ => Some(only(Change::Leave, group)),
    }
}

fn query<'a>(source: IpAddr, group: IpAddr, within: Duration, sources: u16) -> Option<Heard<'a>> {
    let group = (!group.is_unspecified()).then_some(group);
    // A question for some sources of a group is none for the others.
    if sources > 0 {
        return Some(Heard::Nothing);
    }
    Some(Heard::Query(Query {
        source,
        group,
        within,
    }))
}

fn only<'a>(change: Change, group: IpAddr) -> Heard<'a> {
    Heard::Report(Records {
        is_v4: group.is_ipv4(),
        only: Some((change, group)),
        rest: &[],
        left: 0,
    })
}

/// The big-endian word in two bytes.
fn word(bytes: &[u8]) -> u16 {
    u16::from_be_bytes([bytes[0], bytes[1]])
}

/// A time code whose bit number `top`, when set, makes it a floating-point number: a 1 in front of a
/// mantissa of `top - 3` bits, shifted by an exponent of 3 bits and three more (RFC 3376 section
/// 4.1.1, RFC 3810 section 5.1.3).
fn floating(code: u16, top: u32) -> u32 {
    let mantissa_bits = top - 3;
    let code = u32::from(code);
    if code < 1 << top {
        return code;
    }
    let mantissa = code & ((1 << mantissa_bits) - 1);
    let exponent = (code >> mantissa_bits) & 7;
    (mantissa | 1 << mantissa_bits) << (exponent + 3)
}

impl<'a> Records<'a> {
    /// The records whose number is in the first two bytes; none when they are not all there.
    fn new(is_v4: bool, bytes: &'a [u8]) -> Option<Records<'a>> {
        let (count, rest) = bytes.split_first_chunk::<2>()?;
        let left = u16::from_be_bytes(*count);
        let records = Records {
            is_v4,
            only: None,
            rest,
            left,
        };
        let mut walk = records;
        for _ in 0..left {
            walk.take_record()?;
        }
        Some(records)
    }

    pub(super) fn is_v4(&self) -> bool {
        self.is_v4
    }

    /// The next record's kind, how many sources it names, and its group.
    fn take_record(&mut self) -> Option<(u8, u16, IpAddr)> {
        let address = if self.is_v4 { 4 } else { 16 };
        let header = self.rest.get(..4 + address)?;
        let sources = word(&header[2..4]);
        let group = match self.is_v4 {
            true => IpAddr::from(*header[4..].first_chunk::<4>()?),
            false => IpAddr::from(*header[4..].first_chunk::<16>()?),
        };
        // Auxiliary data is counted in words of 4 bytes.
        let len = header.len() + usize::from(sources) * address + usize::from(header[1]) * 4;
        let kind = header[0];
        self.rest = self.rest.get(len..)?;
        Some((kind, sources, group))
    }
}

impl Iterator for Records<'_> {
    type Item = (Change, IpAddr);

    fn next(&mut self) -> Option<(Change, IpAddr)> {
        /// RFC 3376 section 4.2.12, RFC 3810 section 5.2.12.
        const IS_INCLUDE: u8 = 1;
        const TO_INCLUDE: u8 = 3;
        const BLOCK_OLD_SOURCES: u8 = 6;
        let counts = |group: IpAddr| group.is_multicast() && !is_for_the_link(group);
        if let Some((change, group)) = self.only.take() {
            return counts(group).then_some((change, group));
        }
        while self.left > 0 {
            self.left -= 1;
            let (kind, sources, group) = self.take_record()?;
            let change = match kind {
                // Only from nobody: no longer at all.
                IS_INCLUDE | TO_INCLUDE if sources == 0 => Change::Leave,
                // Fewer sources than before, but how many are left is not ours to know.
                BLOCK_OLD_SOURCES => continue,
                _ => Change::Join,
            };
            if counts(group) {
                return Some((change, group));
            }
        }
        None
    }
}

/// Writes the question who listens to `group`, or to any, into `frame`, whatever it held before.
pub(super) fn ask_v4(frame: &mut Frame, from: (MacAddr, Ipv4Addr), group: Option<Ipv4Addr>) {
    const ALL_SYSTEMS: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 1);
    let to = group.unwrap_or(ALL_SYSTEMS);
    let [_, b, c, d] = to.octets();
    // RFC 1112 section 6.4: the lower 23 bits.
    let mac = MacAddr([0x01, 0x00, 0x5e, b & 0x7f, c, d]);
    let len = IPV4_HEADER + IGMP_QUERY_LEN;
    let bytes = start(frame, (mac, from.0, ethertype::IPV4), len);
    let (header, message) = bytes.split_at_mut(IPV4_HEADER);
    message[0] = IGMP_QUERY;
    message[1] = (answer_time(group.is_some()).as_millis() / 100) as u8;
    message[4..8].copy_from_slice(&group.unwrap_or(Ipv4Addr::UNSPECIFIED).octets());
    message[8] = ROBUSTNESS;
    message[9] = QUERY_INTERVAL.as_secs() as u8;
    let sum = checksum(message, usize::MAX);
    message[2..4].copy_from_slice(&sum.to_be_bytes());

    header[IPV4_HEADER - ROUTER_ALERT_V4.len()..].copy_from_slice(&ROUTER_ALERT_V4);
    let mut ip = MutableIpv4Packet::new(header).expect("the frame was sized for it");
    ip.set_version(4);
    ip.set_header_length((IPV4_HEADER / 4) as u8);
    // RFC 3376 section 4: internetwork control.
    ip.set_dscp(0b110_000);
    ip.set_total_length(len as u16);
    ip.set_ttl(1);
    ip.set_next_level_protocol(IpNextHeaderProtocols::Igmp);
    ip.set_source(from.1);
    ip.set_destination(to);
    ip.set_checksum(ipv4::checksum(&ip.to_immutable()));
}

/// The same for IPv6; `from` is a link-local address, as RFC 3810 section 5.1.14 wants it.
pub(super) fn ask_v6(frame: &mut Frame, from: (MacAddr, Ipv6Addr), group: Option<Ipv6Addr>) {
    const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    let to = group.unwrap_or(ALL_NODES);
    let macs = (ipv6::multicast_mac(to), from.0, ethertype::IPV6);
    let payload = ROUTER_ALERT_V6.len() + MLD_QUERY_LEN;
    let bytes = start(frame, macs, ipv6::HEADER + payload);
    bytes[0] = 0x60;
    bytes[4..6].copy_from_slice(&(payload as u16).to_be_bytes());
    // Next header 0: hop-by-hop options; one hop to live.
    bytes[7] = 1;
    bytes[8..24].copy_from_slice(&from.1.octets());
    bytes[24..40].copy_from_slice(&to.octets());
    bytes[ipv6::HEADER..][..ROUTER_ALERT_V6.len()].copy_from_slice(&ROUTER_ALERT_V6);
    let message = &mut bytes[ipv6::HEADER + ROUTER_ALERT_V6.len()..];
    message[0] = MLD_QUERY;
    let millis = answer_time(group.is_some()).as_millis() as u16;
    message[4..6].copy_from_slice(&millis.to_be_bytes());
    message[8..24].copy_from_slice(&group.unwrap_or(Ipv6Addr::UNSPECIFIED).octets());
    message[24] = ROBUSTNESS;
    message[25] = QUERY_INTERVAL.as_secs() as u8;
    let whole = Icmpv6Packet::new(message).expect("the frame was sized for it");
    let sum = icmpv6::checksum(&whole, &from.1, &to);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
}

fn answer_time(is_specific: bool) -> Duration {
    if is_specific {
        LAST_LISTENER_INTERVAL
    } else {
        RESPONSE_INTERVAL
    }
}

/// An Ethernet header for a packet of `len` bytes, all zero, which are returned.
fn start(frame: &mut Frame, (to, from, kind): (MacAddr, MacAddr, u16), len: usize) -> &mut [u8] {
    frame.set_vnet(VnetHeader::default());
    frame.set_len(ETHERNET_HEADER + len);
    let (header, packet) = frame.bytes_mut().split_at_mut(ETHERNET_HEADER);
    header[..6].copy_from_slice(&to.0);
    header[6..12].copy_from_slice(&from.0);
    header[12..].copy_from_slice(&kind.to_be_bytes());
    packet.fill(0);
    packet
}
