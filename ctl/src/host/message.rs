//! What the kernel's messages about addresses, routes and neighbours mean here.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use netlink_packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteNextHop, RouteNextHopFlags,
    RouteType, RouteVia,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use switch::frame::MacAddr;

use super::{HostAddress, HostRoute};

/// Routing tables that rule what leaves the host without policy routing: `RT_TABLE_MAIN`, and
/// `RT_TABLE_DEFAULT` behind it.
const TABLES: [u32; 2] = [254, 253];

/// What a message asks for.
pub(super) enum News {
    /// A neighbour has this MAC, or is gone.
    Neighbor(u32, IpAddr, Option<MacAddr>),
    /// Something else has changed, or messages were lost (ENOBUFS: the socket's buffer was full).
    Rest,
    Nothing,
}

pub(super) fn news(message: &NetlinkMessage<RouteNetlinkMessage>) -> News {
    match &message.payload {
        NetlinkPayload::InnerMessage(
            RouteNetlinkMessage::NewLink(_)
            | RouteNetlinkMessage::DelLink(_)
            | RouteNetlinkMessage::NewAddress(_)
            | RouteNetlinkMessage::DelAddress(_)
            | RouteNetlinkMessage::NewRoute(_)
            | RouteNetlinkMessage::DelRoute(_),
        )
        | NetlinkPayload::Overrun(_) => News::Rest,
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewNeighbour(message)) => {
            match neighbor(message) {
                Some((index, address, mac)) => News::Neighbor(index, address, mac),
                None => News::Nothing,
            }
        }
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelNeighbour(message)) => {
            match neighbor(message) {
                Some((index, address, _)) => News::Neighbor(index, address, None),
                None => News::Nothing,
            }
        }
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
    })
}

/// The usable next hops of a unicast route that is in a table that rules.
pub(super) fn host_routes(message: &RouteMessage) -> Vec<HostRoute> {
    let header = &message.header;
    let mut table = u32::from(header.table);
    let mut destination = match header.address_family {
        AddressFamily::Inet => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        AddressFamily::Inet6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        _ => return Vec::new(),
    };
    // RTM_F_CLONED marks an entry of the route cache, not a route.
    let skipped = RouteFlags::Cloned | RouteFlags::Dead;
    if header.kind != RouteType::Unicast || header.flags.intersects(skipped) {
        return Vec::new();
    }
    let (mut metric, mut source) = (0, None);
    let (mut via, mut ifindex) = (None, None);
    let mut hops: &[RouteNextHop] = &[];
    for attribute in &message.attributes {
        match attribute {
            // Tables above 255 don't fit the header.
            RouteAttribute::Table(number) => table = *number,
            RouteAttribute::Destination(address) => match ip(address) {
                Some(address) => destination = address,
                None => return Vec::new(),
            },
            RouteAttribute::Priority(priority) => metric = *priority,
            RouteAttribute::PrefSource(address) => source = ip(address),
            RouteAttribute::Oif(index) => ifindex = Some(*index),
            RouteAttribute::MultiPath(list) => hops = list,
            other => via = via.or(router(other)),
        }
    }
    if !TABLES.contains(&table) {
        return Vec::new();
    }
    let Ok(destination) = IpNet::new(destination, header.destination_prefix_length) else {
        return Vec::new();
    };
    let route = |via, ifindex| HostRoute {
        destination,
        metric,
        via,
        ifindex,
        source,
    };
    let several = hops
        .iter()
        .filter(|hop| !hop.flags.contains(RouteNextHopFlags::Dead));
    let several =
        several.map(|hop| route(hop.attributes.iter().find_map(router), hop.interface_index));
    // IPv6 names the first of several next hops a second time outside of the list.
    let single = ifindex
        .filter(|_| hops.is_empty())
        .map(|ifindex| route(via, ifindex));
    single.into_iter().chain(several).collect()
}

fn router(attribute: &RouteAttribute) -> Option<IpAddr> {
    match attribute {
        RouteAttribute::Gateway(address) => ip(address),
        RouteAttribute::Via(RouteVia::Inet(address)) => Some(IpAddr::V4(*address)),
        RouteAttribute::Via(RouteVia::Inet6(address)) => Some(IpAddr::V6(*address)),
        _ => None,
    }
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some(IpAddr::V4(*address)),
        RouteAddress::Inet6(address) => Some(IpAddr::V6(*address)),
        _ => None,
    }
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
