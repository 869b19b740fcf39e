//! Neighbour discovery (RFC 4861) over Ethernet: reading solicitations and advertisements, and
//! writing them in place. What [`arp`](crate::arp) is to IPv4.

use std::net::Ipv6Addr;

use pnet_packet::MutablePacket;
use pnet_packet::icmpv6::{self, Icmpv6Code, Icmpv6Packet, Icmpv6Type, MutableIcmpv6Packet};
use pnet_packet::ip::IpNextHeaderProtocols;
use pnet_packet::ipv6::{Ipv6Packet, MutableIpv6Packet};

use crate::frame::{self, ETHERNET_HEADER, Frame, MacAddr, VnetHeader, ethertype};
use crate::ipv6;

/// ICMPv6 types of neighbour discovery, RFC 4861 section 4.
pub(crate) const ROUTER_SOLICITATION: u8 = 133;
pub(crate) const ROUTER_ADVERTISEMENT: u8 = 134;
pub(crate) const SOLICITATION: u8 = 135;
pub(crate) const ADVERTISEMENT: u8 = 136;
pub(crate) const REDIRECT: u8 = 137;

/// Options that carry a link-layer address, RFC 4861 section 4.6.1.
pub(crate) const SOURCE_LINK_LAYER: u8 = 1;
pub(crate) const TARGET_LINK_LAYER: u8 = 2;

/// Type, code, checksum, flags, and the target.
pub(crate) const HEADER: usize = 24;
const OPTION: usize = 8;
const FRAME_LEN: usize = ETHERNET_HEADER + ipv6::HEADER + HEADER + OPTION;
/// Which nobody off the link can send (RFC 4861 section 3.1).
const HOP_LIMIT: u8 = 255;

/// Flags of an advertisement, RFC 4861 section 4.4.
const ROUTER: u8 = 0x80;
const SOLICITED: u8 = 0x40;
const OVERRIDE: u8 = 0x20;

const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// A valid message of one neighbour to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message {
    Solicitation(Solicitation),
    Advertisement(Advertisement),
}

/// The question who has `target`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Solicitation {
    /// Unspecified while the asker makes sure that nobody has `target` yet (RFC 4862 section 5.4).
    pub source: Ipv6Addr,
    /// The source link-layer option.
    pub source_mac: Option<MacAddr>,
    pub target: Ipv6Addr,
}

/// The news that `target` is at `target_mac`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Advertisement {
    pub target: Ipv6Addr,
    /// The target link-layer option.
    pub target_mac: Option<MacAddr>,
    /// It answers a solicitation.
    pub solicited: bool,
    /// It replaces what is known.
    pub overrides: bool,
}

/// Reads the solicitation or advertisement of an untagged frame. `None` of anything else, and of
/// what RFC 4861 7.1.1 and 7.1.2 tell to discard: not sent from this link, a wrong checksum, code
/// or length, an impossible target, or options that contradict the rest. Those behind an extension
/// header, which nobody sends, are none either.
pub fn parse(frame: &Frame) -> Option<Message> {
    let bytes = frame.bytes();
    if frame::ethertype_of(bytes) != Some(ethertype::IPV6) {
        return None;
    }
    let packet = Ipv6Packet::new(bytes.get(ETHERNET_HEADER..)?)?;
    if packet.get_next_header() != IpNextHeaderProtocols::Icmpv6 {
        return None;
    }
    let length = usize::from(packet.get_payload_length());
    let message = bytes
        .get(ETHERNET_HEADER + ipv6::HEADER..)?
        .get(..length)
        .filter(|message| message.len() >= HEADER)?;
    let kind = message[0];
    if kind != SOLICITATION && kind != ADVERTISEMENT {
        return None;
    }
    let (source, destination) = (packet.get_source(), packet.get_destination());
    let target = target(message)?;
    let is_whole = frame.vnet().needs_csum() || has_valid_checksum(message, source, destination);
    if packet.get_hop_limit() != HOP_LIMIT || message[1] != 0 || !is_whole {
        return None;
    }
    if target.is_multicast() || source.is_multicast() {
        return None;
    }
    if kind == SOLICITATION {
        let source_mac = link_layer_option(message, SOURCE_LINK_LAYER)?;
        let group = ipv6::solicited_node(target);
        if source.is_unspecified() && (source_mac.is_some() || destination != group) {
            return None;
        }
        return Some(Message::Solicitation(Solicitation {
            source,
            source_mac,
            target,
        }));
    }
    let solicited = message[4] & SOLICITED != 0;
    if source.is_unspecified() || solicited && destination.is_multicast() {
        return None;
    }
    Some(Message::Advertisement(Advertisement {
        target,
        target_mac: link_layer_option(message, TARGET_LINK_LAYER)?,
        solicited,
        overrides: message[4] & OVERRIDE != 0,
    }))
}

/// The MAC in the first option of the type `wanted`, if there is one; none at all when any option
/// is malformed.
fn link_layer_option(message: &[u8], wanted: u8) -> Option<Option<MacAddr>> {
    let mut mac = None;
    for option in options(message) {
        let (kind, value) = option?;
        if kind == wanted && mac.is_none() {
            mac = Some(link_layer_address(value)?);
        }
    }
    Some(mac)
}

pub(crate) fn has_valid_checksum(message: &[u8], source: Ipv6Addr, destination: Ipv6Addr) -> bool {
    Icmpv6Packet::new(message).is_some_and(|message| {
        message.get_checksum() == icmpv6::checksum(&message, &source, &destination)
    })
}

/// The target of a solicitation, an advertisement or a redirect; none in one that is cut off.
pub(crate) fn target(message: &[u8]) -> Option<Ipv6Addr> {
    let octets: [u8; 16] = *message.get(8..HEADER)?.first_chunk()?;
    Some(octets.into())
}

/// The options of a solicitation or an advertisement: type and value each, and a last `None` when
/// one has no length, or more than there is (RFC 4861 section 4.6).
pub(crate) fn options(message: &[u8]) -> impl Iterator<Item = Option<(u8, &[u8])>> {
    options_from(message.get(HEADER..).unwrap_or_default())
}

/// The same for a message whose options begin elsewhere: `rest` are they.
pub(crate) fn options_from(mut rest: &[u8]) -> impl Iterator<Item = Option<(u8, &[u8])>> {
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let length = rest.get(1).map_or(0, |&units| usize::from(units) * 8);
        if length == 0 || length > rest.len() {
            rest = &[];
            return Some(None);
        }
        let (option, behind) = rest.split_at(length);
        rest = behind;
        Some(Some((option[0], &option[2..])))
    })
}

/// The MAC in a link-layer option; none when it is of another kind of link (RFC 2464 section 6), or
/// no station's.
pub(crate) fn link_layer_address(value: &[u8]) -> Option<MacAddr> {
    let mac = <[u8; 6]>::try_from(value).ok().map(MacAddr)?;
    mac.is_unicast().then_some(mac)
}

/// Turns the solicitation in `frame` into the answer that `asked.target`, a router, is at `mac`.
pub fn answer(frame: &mut Frame, asked: &Solicitation, mac: MacAddr) {
    let asker = asked.source_mac.or_else(|| frame::source(frame.bytes()));
    // RFC 4861 7.2.4: who has no address yet is answered with everyone else.
    let (to, flags) = match asker {
        Some(asker) if !asked.source.is_unspecified() => {
            ((asker, asked.source), ROUTER | SOLICITED | OVERRIDE)
        }
        _ => {
            let all = (ipv6::multicast_mac(ALL_NODES), ALL_NODES);
            (all, ROUTER | OVERRIDE)
        }
    };
    let from = (mac, asked.target);
    write(frame, (ADVERTISEMENT, flags), from, to, asked.target);
}

/// Writes the unsolicited advertisement of a station's own address, to all nodes, into `frame`,
/// whatever it held before.
pub(crate) fn announce(frame: &mut Frame, own: (MacAddr, Ipv6Addr)) {
    let all = (ipv6::multicast_mac(ALL_NODES), ALL_NODES);
    write(frame, (ADVERTISEMENT, OVERRIDE), own, all, own.1);
}

/// Writes the question who has `target` into `frame`, whatever it held before.
pub fn ask(frame: &mut Frame, sender: (MacAddr, Ipv6Addr), target: Ipv6Addr) {
    let group = ipv6::solicited_node(target);
    let to = (ipv6::multicast_mac(group), group);
    write(frame, (SOLICITATION, 0), sender, to, target);
}

fn write(
    frame: &mut Frame,
    (kind, flags): (u8, u8),
    from: (MacAddr, Ipv6Addr),
    to: (MacAddr, Ipv6Addr),
    target: Ipv6Addr,
) {
    frame.set_vnet(VnetHeader::default());
    frame.set_len(FRAME_LEN);
    let bytes = frame.bytes_mut();
    bytes.fill(0);
    frame::set_destination(bytes, to.0);
    frame::set_source(bytes, from.0);
    bytes[12..ETHERNET_HEADER].copy_from_slice(&ethertype::IPV6.to_be_bytes());
    let mut packet =
        MutableIpv6Packet::new(&mut bytes[ETHERNET_HEADER..]).expect("the frame was sized for it");
    packet.set_version(6);
    packet.set_payload_length((HEADER + OPTION) as u16);
    packet.set_next_header(IpNextHeaderProtocols::Icmpv6);
    packet.set_hop_limit(HOP_LIMIT);
    packet.set_source(from.1);
    packet.set_destination(to.1);
    let message = packet.payload_mut();
    message[4] = flags;
    message[8..HEADER].copy_from_slice(&target.octets());
    message[HEADER] = if kind == SOLICITATION {
        SOURCE_LINK_LAYER
    } else {
        TARGET_LINK_LAYER
    };
    // In units of eight bytes.
    message[HEADER + 1] = 1;
    message[HEADER + 2..].copy_from_slice(&from.0.0);
    let mut message = MutableIcmpv6Packet::new(message).expect("the frame was sized for it");
    message.set_icmpv6_type(Icmpv6Type(kind));
    message.set_icmpv6_code(Icmpv6Code(0));
    message.set_checksum(icmpv6::checksum(&message.to_immutable(), &from.1, &to.1));
}

#[cfg(test)]
mod tests;
