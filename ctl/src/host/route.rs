//! What the kernel's messages about routes and routing rules mean here.
//!
//! Every route counts, whatever its table and kind: one that is left out would give its traffic to
//! a less specific one.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteMetric, RouteNextHop,
    RouteNextHopFlags, RoutePreference, RouteType, RouteVia,
};
use netlink_packet_route::rule::{
    RuleAction as Action, RuleAttribute, RuleFlags, RuleMessage, RulePortRange,
};

use super::nexthop::Nexthops;
use super::{HostHop, HostRoute, HostRule, RouteKind, RuleAction};

/// The routes of a dump, in its order but for what IPv6 routers say of themselves (RFC 4191): of
/// two default routes of one metric the preferred one comes first.
pub(super) fn host_routes(messages: &[RouteMessage], nexthops: &Nexthops) -> Vec<HostRoute> {
    let routes = messages.iter();
    let mut routes: Vec<(u8, HostRoute)> = routes
        .filter_map(|message| host_route(message, nexthops))
        .collect();
    routes.sort_by_key(|(preference, _)| *preference);
    routes.into_iter().map(|(_, route)| route).collect()
}

/// Whether a route tells the number of a nexthop object and nothing else of its next hops.
pub(super) fn leads_by_number(message: &RouteMessage) -> bool {
    let has = |wanted: fn(&RouteAttribute) -> bool| message.attributes.iter().any(wanted);
    has(|it| matches!(it, RouteAttribute::NhId(_)))
        && !has(|it| matches!(it, RouteAttribute::Oif(_) | RouteAttribute::MultiPath(_)))
}

/// A route and its rank among others of the same metric. `None` for what is no route for packets to
/// one host, or for a dead one, which the kernel passes over too.
fn host_route(message: &RouteMessage, nexthops: &Nexthops) -> Option<(u8, HostRoute)> {
    let header = &message.header;
    let unspecified = match header.address_family {
        AddressFamily::Inet => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        AddressFamily::Inet6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        _ => return None,
    };
    // RTM_F_CLONED marks an entry of the route cache, not a route.
    let skipped = RouteFlags::Cloned | RouteFlags::Dead;
    if header.flags.intersects(skipped) {
        return None;
    }
    let mut route = HostRoute {
        table: u32::from(header.table),
        destination: IpNet::new(unspecified, 0).ok()?,
        from: None,
        tos: header.tos,
        metric: 0,
        kind: RouteKind::Obscure,
        source: None,
        mtu: None,
    };
    let (mut destination, mut from) = (unspecified, None);
    let (mut via, mut ifindex, mut encapsulated) = (None, None, false);
    let mut several: &[RouteNextHop] = &[];
    let mut object = None;
    let mut preference = 1;
    for attribute in &message.attributes {
        match attribute {
            // Tables above 255 don't fit the header.
            RouteAttribute::Table(number) => route.table = *number,
            RouteAttribute::Destination(address) => destination = ip(address)?,
            RouteAttribute::Source(address) => from = ip(address),
            RouteAttribute::Priority(priority) => route.metric = *priority,
            RouteAttribute::PrefSource(address) => route.source = ip(address),
            RouteAttribute::Oif(index) => ifindex = Some(*index),
            RouteAttribute::MultiPath(list) => several = list,
            RouteAttribute::NhId(id) => object = Some(*id),
            RouteAttribute::EncapType(_) | RouteAttribute::Encap(_) => encapsulated = true,
            RouteAttribute::Preference(RoutePreference::High) => preference = 0,
            RouteAttribute::Preference(RoutePreference::Low) => preference = 2,
            RouteAttribute::Metrics(metrics) => {
                route.mtu = metrics.iter().find_map(|metric| match metric {
                    RouteMetric::Mtu(mtu) if *mtu > 0 => Some(*mtu),
                    _ => None,
                });
            }
            other => via = via.or(router(other)),
        }
    }
    route.destination = IpNet::new(destination, header.destination_prefix_length).ok()?;
    route.from = from.and_then(|from| IpNet::new(from, header.source_prefix_length).ok());
    route.kind = match header.kind {
        RouteType::Unicast => {
            match unicast(via, ifindex, several).or_else(|| nexthops.hops(object?)) {
                // All are dead.
                Some(hops) if hops.is_empty() => return None,
                Some(hops) if !encapsulated => RouteKind::Unicast(hops),
                _ => RouteKind::Obscure,
            }
        }
        RouteType::Local => RouteKind::Local,
        RouteType::Broadcast | RouteType::Anycast => RouteKind::Broadcast,
        RouteType::BlackHole => RouteKind::Blackhole,
        RouteType::Unreachable => RouteKind::Unreachable,
        RouteType::Prohibit => RouteKind::Prohibit,
        RouteType::Throw => RouteKind::Throw,
        _ => return None,
    };
    Some((preference, route))
}

/// The next hops that are alive. `None` if the route tells of none.
fn unicast(
    via: Option<IpAddr>,
    ifindex: Option<u32>,
    several: &[RouteNextHop],
) -> Option<Vec<HostHop>> {
    // IPv6 names the first of several next hops a second time outside of the list.
    if several.is_empty() {
        return Some(vec![HostHop {
            via,
            ifindex: ifindex?,
            weight: 1,
        }]);
    }
    let alive = several
        .iter()
        .filter(|hop| !hop.flags.contains(RouteNextHopFlags::Dead));
    let hops = alive.map(|hop| HostHop {
        via: hop.attributes.iter().find_map(router),
        ifindex: hop.interface_index,
        weight: u32::from(hop.hops) + 1,
    });
    Some(hops.collect())
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

/// A rule; `None` for one that does nothing.
pub(super) fn host_rule(message: &RuleMessage) -> Option<HostRule> {
    let header = &message.header;
    let mut table = u32::from(header.table);
    let (mut mark, mut mask) = (0, None);
    let (mut suppress, mut goto) = (None, None);
    let mut rule = HostRule {
        ipv6: header.family == AddressFamily::Inet6,
        priority: 0,
        inverted: header.flags.contains(RuleFlags::Invert),
        from: None,
        to: None,
        incoming: None,
        never: false,
        tos: header.tos,
        protocol: None,
        source_ports: None,
        destination_ports: None,
        suppress_group: None,
        action: RuleAction::Blackhole,
    };
    let net = |address: &IpAddr, length| IpNet::new(*address, length).ok();
    let ports = |range: &RulePortRange| Some(range.start..=range.end);
    for attribute in &message.attributes {
        match attribute {
            RuleAttribute::Priority(priority) => rule.priority = *priority,
            RuleAttribute::Source(address) => rule.from = net(address, header.src_len),
            RuleAttribute::Destination(address) => rule.to = net(address, header.dst_len),
            RuleAttribute::Iifname(name) => rule.incoming = Some(name.clone()),
            RuleAttribute::Oifname(_) => rule.never = true,
            RuleAttribute::L3MDev(true) => rule.never = true,
            RuleAttribute::TunId(id) => rule.never |= *id != 0,
            RuleAttribute::UidRange(range) => rule.never |= range.start > 0,
            RuleAttribute::FwMark(value) => mark = *value,
            RuleAttribute::FwMask(value) => mask = Some(*value),
            RuleAttribute::IpProtocol(protocol) => rule.protocol = Some(u8::from(*protocol)),
            RuleAttribute::SourcePortRange(range) => rule.source_ports = ports(range),
            RuleAttribute::DestinationPortRange(range) => rule.destination_ports = ports(range),
            RuleAttribute::Table(number) => table = *number,
            // It is -1 where nothing is suppressed.
            RuleAttribute::SuppressPrefixLen(length) => suppress = u8::try_from(*length).ok(),
            RuleAttribute::SuppressIfGroup(group) => {
                rule.suppress_group = Some(*group).filter(|group| *group != u32::MAX);
            }
            RuleAttribute::Goto(priority) => goto = Some(*priority),
            _ => {}
        }
    }
    // Nothing that pontoon carries has a mark: (0 ^ mark) & mask (fib_rule_match).
    rule.never |= mark & mask.unwrap_or(u32::MAX) != 0;
    rule.action = match header.action {
        Action::ToTable => RuleAction::Table { table, suppress },
        Action::Goto if !header.flags.contains(RuleFlags::Unresolved) => RuleAction::Goto(goto?),
        Action::Unreachable => RuleAction::Unreachable,
        Action::Prohibit => RuleAction::Prohibit,
        Action::Blackhole => RuleAction::Blackhole,
        _ => return None,
    };
    Some(rule)
}
