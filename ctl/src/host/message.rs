//! What the kernel's messages about addresses and neighbours mean here.

use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::{
    AddressAttribute, AddressHeaderFlags, AddressMessage, AddressScope,
};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use switch::frame::MacAddr;

use super::HostAddress;
use super::nexthop::Message;

/// What a message asks for.
pub(super) enum News {
    /// A neighbour has this MAC, or is gone.
    Neighbor(u32, IpAddr, Option<MacAddr>),
    /// Something else has changed, or messages were lost (ENOBUFS: the socket's buffer was full).
    Rest,
    Nothing,
}

pub(super) fn news(message: &NetlinkMessage<Message>) -> News {
    let message = match &message.payload {
        NetlinkPayload::InnerMessage(Message::Other(message)) => message,
        NetlinkPayload::InnerMessage(Message::Nexthop(_)) | NetlinkPayload::Overrun(_) => {
            return News::Rest;
        }
        _ => return News::Nothing,
    };
    match message {
        RouteNetlinkMessage::NewLink(_)
        | RouteNetlinkMessage::DelLink(_)
        | RouteNetlinkMessage::NewAddress(_)
        | RouteNetlinkMessage::DelAddress(_)
        | RouteNetlinkMessage::NewRoute(_)
        | RouteNetlinkMessage::DelRoute(_)
        | RouteNetlinkMessage::NewRule(_)
        | RouteNetlinkMessage::DelRule(_) => News::Rest,
        RouteNetlinkMessage::NewNeighbour(message) => match neighbor(message) {
            Some((index, address, mac)) => News::Neighbor(index, address, mac),
            None => News::Nothing,
        },
        RouteNetlinkMessage::DelNeighbour(message) => match neighbor(message) {
            Some((index, address, _)) => News::Neighbor(index, address, None),
            None => News::Nothing,
        },
        _ => News::Nothing,
    }
}

/// `None` for one that may not be used yet or any more: IPv6 addresses under duplicate address
/// detection (RFC 4862 clause 5.4) or found to be duplicates.
pub(super) fn address(message: &AddressMessage) -> Option<HostAddress> {
    let header = &message.header;
    let unusable = AddressHeaderFlags::Tentative | AddressHeaderFlags::Dadfailed;
    if header.flags.intersects(unusable) && !header.flags.contains(AddressHeaderFlags::Optimistic) {
        return None;
    }
    // On a point-to-point link IFA_ADDRESS is the peer's, and IFA_LOCAL our own; IPv6 mostly has
    // IFA_ADDRESS alone.
    let (mut local, mut other) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(address) => local = Some(*address),
            AddressAttribute::Address(address) => other = Some(*address),
            _ => {}
        }
    }
    let net = IpNet::new(local.or(other)?, header.prefix_len).ok()?;
    // IFA_F_TEMPORARY is IFA_F_SECONDARY, which means something else in IPv4 (linux/if_addr.h).
    let passing = AddressHeaderFlags::Secondary | AddressHeaderFlags::Deprecated;
    Some(HostAddress {
        ifindex: header.index,
        net,
        passing: net.addr().is_ipv6() && header.flags.intersects(passing),
        narrow: matches!(header.scope, AddressScope::Link | AddressScope::Host),
    })
}

/// A neighbour, with its MAC if the kernel would send to it. Others (FDB entries of a bridge come
/// as neighbours too) are `None`.
pub(super) fn neighbor(message: &NeighbourMessage) -> Option<(u32, IpAddr, Option<MacAddr>)> {
    let (mut address, mut mac) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(ip)) => {
                address = Some(IpAddr::V4(*ip));
            }
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(ip)) => {
                address = Some(IpAddr::V6(*ip));
            }
            NeighbourAttribute::LinkLayerAddress(bytes) => {
                mac = <[u8; 6]>::try_from(bytes.as_slice()).ok().map(MacAddr);
            }
            _ => {}
        }
    }
    // NUD_VALID but NUD_NOARP, whose entries stand for broadcast and multicast.
    let resolved = matches!(
        message.header.state,
        NeighbourState::Reachable
            | NeighbourState::Stale
            | NeighbourState::Delay
            | NeighbourState::Probe
            | NeighbourState::Permanent
    );
    Some((message.header.ifindex, address?, mac.filter(|_| resolved)))
}
