//! The host's routing, as the switch is to follow it.
//!
//! Everything is handed on: rules, tables, and routes of every kind and interface, so that a packet
//! finds the route that the host's kernel would find for it. What the switch can't do about a
//! route, because its interface is no uplink or its next hop is known to the kernel alone, it says
//! ([`Leads::Elsewhere`]). Only what cannot matter is left out: the host's own addresses, which the
//! switch knows, and routes for one link.
//!
//! `ip rule` conditions that a packet passing through never meets (marks, users, outgoing interfaces)
//! are settled here: `not fwmark 0xca6c` is always so.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::IpAddr;

use ipnet::IpNet;
use switch::config::{Action, Hop, Incoming, Leads, Route, Rule};
use switch::{NetworkId, PortId};

use super::network::Network;
use crate::host::{
    HostHop, HostRoute, HostRule, HostState, RouteKind, RuleAction, TABLE_DEFAULT, TABLE_LOCAL,
    TABLE_MAIN, is_link_local,
};

/// The host's routes. `ports` are the uplinks' interface indexes and ports.
pub(super) fn routes(host: &HostState, ports: &HashMap<u32, PortId>) -> Vec<Route> {
    let routes = || host.routes.iter().filter(|route| concerns(route, host));
    let mut all: Vec<Route> = routes().map(|it| self::route(host, it, ports)).collect();
    for (table, group, copy) in suppressing_tables(host) {
        let copied = routes().filter(|route| route.table == table);
        all.extend(copied.map(|it| {
            let mut route = self::route(host, it, ports);
            route.table = copy;
            if is_over_group(host, it, group) {
                route.leads = Leads::Throw;
            }
            route
        }));
    }
    all
}

fn route(host: &HostState, route: &HostRoute, ports: &HashMap<u32, PortId>) -> Route {
    Route {
        table: route.table,
        destination: route.destination,
        from: route.from,
        tos: route.tos,
        metric: route.metric,
        leads: leads(host, route, ports),
    }
}

/// A rule that suppresses a group of interfaces (`suppress_ifgroup`) passes over the routes that
/// lead by them and asks the next rule, as if they said `throw`. So it gets a copy of its table
/// where they do. Table, group, and the copy's number, which no table of the host has.
fn suppressing_tables(host: &HostState) -> Vec<(u32, u32, u32)> {
    let wanted = host.rules.iter().filter_map(|rule| match rule.action {
        RuleAction::Table { table, .. } => Some((table, rule.suppress_group?)),
        _ => None,
    });
    let wanted: BTreeSet<(u32, u32)> = wanted.collect();
    let taken: HashSet<u32> = host.routes.iter().map(|route| route.table).collect();
    let free = (0..=u32::MAX).rev().filter(|table| !taken.contains(table));
    let tables = wanted.into_iter().zip(free);
    tables
        .map(|((table, group), copy)| (table, group, copy))
        .collect()
}

/// By the first of several next hops, as none is chosen yet (`fib4_rule_suppress`).
fn is_over_group(host: &HostState, route: &HostRoute, group: u32) -> bool {
    let first = route.hops().first();
    let mut links = host.links.iter();
    first.is_some_and(|hop| links.any(|it| it.index == hop.ifindex && it.group == group))
}

/// Whether some packet may ask for the route.
fn concerns(route: &HostRoute, host: &HostState) -> bool {
    let destination = route.destination.addr();
    // Those of IPv6 never leave their link.
    if destination.is_ipv6() && is_link_local(destination) || destination.is_multicast() {
        return false;
    }
    match route.kind {
        RouteKind::Local | RouteKind::Broadcast if destination.is_loopback() => false,
        RouteKind::Local => !(route.table == TABLE_LOCAL || is_address(route.destination, host)),
        _ => true,
    }
}

fn leads(host: &HostState, route: &HostRoute, ports: &HashMap<u32, PortId>) -> Leads {
    match &route.kind {
        RouteKind::Unicast(hops) => {
            let hops: Vec<Hop> = hops
                .iter()
                .filter_map(|hop| self::hop(host, route, hop, ports))
                .collect();
            if hops.is_empty() {
                return Leads::Elsewhere;
            }
            Leads::Out(hops)
        }
        RouteKind::Obscure => Leads::Elsewhere,
        RouteKind::Local | RouteKind::Broadcast => Leads::Host,
        RouteKind::Unreachable => Leads::Unreachable,
        RouteKind::Prohibit => Leads::Prohibited,
        RouteKind::Blackhole => Leads::Blackhole,
        RouteKind::Throw => Leads::Throw,
    }
}

/// A next hop over an uplink.
fn hop(
    host: &HostState,
    route: &HostRoute,
    hop: &HostHop,
    ports: &HashMap<u32, PortId>,
) -> Option<Hop> {
    let uplink = *ports.get(&hop.ifindex)?;
    let target = hop.via.unwrap_or(route.destination.addr());
    let source = route
        .source
        .or_else(|| source_address(host, hop, route.destination));
    Some(Hop {
        via: hop.via,
        uplink,
        source,
        asks_from: asking_address(host, hop.ifindex, target),
        mtu: route.mtu,
        weight: hop.weight,
    })
}

/// Subnets that are the host's as a whole (`ip route add local`).
pub(super) fn host_subnets(host: &HostState) -> Vec<IpNet> {
    let local = host
        .routes
        .iter()
        .filter(|route| route.kind == RouteKind::Local && route.table == TABLE_LOCAL)
        .map(|route| route.destination)
        .filter(|destination| {
            let address = destination.addr();
            let narrow = address.is_loopback() || address.is_ipv6() && is_link_local(address);
            !narrow && !is_address(*destination, host)
        });
    local.collect()
}

fn is_address(destination: IpNet, host: &HostState) -> bool {
    let mut addresses = host.addresses.iter();
    destination.prefix_len() == destination.max_prefix_len()
        && addresses.any(|it| it.net.addr() == destination.addr())
}

/// The address the host would send from: in IPv4 one of the interface, that in the subnet of the
/// next hop if there is one (RFC 1122 clause 3.3.4.3), else the primary one; in IPv6 the one that
/// is most like the destination (RFC 6724 clause 5, rules 2, 3 and 8), which puts a global address
/// before a unique local one on a default route, whose destination is `::`. An interface without an
/// address borrows one of another (`inet_select_addr`), and a passing one is better than none.
fn source_address(host: &HostState, hop: &HostHop, destination: IpNet) -> Option<IpAddr> {
    let target = hop.via.unwrap_or(destination.addr());
    let is_ours =
        |index: u32| (host.links.iter()).any(|it| it.index == index && (it.ours || it.loopback));
    let choose = |on_it: bool, passing: bool| {
        let mut fitting = host
            .addresses
            .iter()
            .filter(|it| match on_it {
                true => it.ifindex == hop.ifindex,
                false => !is_ours(it.ifindex),
            })
            .filter(|it| it.passing == passing)
            // What is of the link alone is good for the link alone.
            .filter(|it| !it.narrow || (on_it && hop.via.is_none()))
            .map(|it| it.net)
            .filter(|net| net.addr().is_ipv4() == destination.addr().is_ipv4());
        let chosen = match destination {
            IpNet::V4(_) => {
                let first = fitting.clone().next();
                fitting.find(|net| net.contains(&target)).or(first)
            }
            IpNet::V6(_) => fitting
                .filter(|net| !is_link_local(net.addr()))
                .min_by_key(|net| bits_apart(net.addr(), destination.addr())),
        };
        chosen.map(|net| net.addr())
    };
    [(true, false), (true, true), (false, false)]
        .into_iter()
        .find_map(|(on_it, passing)| choose(on_it, passing))
}

/// The address of the host on the link to ask a neighbour with (RFC 4861 7.2.2): of the neighbour's
/// family, which need not be the packet's (RFC 5549).
fn asking_address(host: &HostState, ifindex: u32, target: IpAddr) -> Option<IpAddr> {
    let on_it = host
        .addresses
        .iter()
        .filter(|it| it.ifindex == ifindex)
        .map(|it| it.net)
        .filter(|net| net.addr().is_ipv4() == target.is_ipv4());
    let near = on_it.clone().find(|net| net.contains(&target));
    near.or(on_it.clone().next()).map(|net| net.addr())
}

/// How many bits of two IPv6 addresses come after what they have in common.
fn bits_apart(one: IpAddr, other: IpAddr) -> u32 {
    match (one, other) {
        (IpAddr::V6(one), IpAddr::V6(other)) => {
            u128::BITS - (one.to_bits() ^ other.to_bits()).leading_zeros()
        }
        _ => u128::BITS,
    }
}

/// The host's rules, for packets that pass through.
pub(super) fn rules(host: &HostState, networks: &[Network]) -> Vec<Rule> {
    let incoming: HashMap<&str, NetworkId> = networks
        .iter()
        .map(|network| (network.record.host_interface.as_str(), network.id))
        .collect();
    if host.rules.is_empty() {
        // The kernel's own, on one that knows no others.
        let tables = [(0, TABLE_LOCAL), (1, TABLE_MAIN), (2, TABLE_DEFAULT)];
        return [false, true]
            .into_iter()
            .flat_map(|ipv6| tables.map(|(priority, table)| Rule::always(ipv6, priority, table)))
            .collect();
    }
    let copies = suppressing_tables(host);
    let rules = host.rules.iter();
    rules
        .filter_map(|it| {
            let mut rule = rule(it, &incoming)?;
            if let Action::Table { table, .. } = &mut rule.action
                && let Some((.., copy)) = copies
                    .iter()
                    .find(|(of, group, _)| of == table && it.suppress_group == Some(*group))
            {
                *table = *copy;
            }
            Some(rule)
        })
        .collect()
}

/// A rule that some packet passing through may meet.
fn rule(rule: &HostRule, networks: &HashMap<&str, NetworkId>) -> Option<Rule> {
    let action = match rule.action {
        RuleAction::Table { table, suppress } => Action::Table { table, suppress },
        RuleAction::Goto(priority) => Action::Goto(priority),
        RuleAction::Unreachable => Action::Unreachable,
        RuleAction::Prohibit => Action::Prohibited,
        RuleAction::Blackhole => Action::Blackhole,
    };
    let always = Rule {
        action,
        ..Rule::always(rule.ipv6, rule.priority, 0)
    };
    if rule.never {
        return rule.inverted.then_some(always);
    }
    Some(Rule {
        inverted: rule.inverted,
        from: rule.from,
        to: rule.to,
        incoming: match rule.incoming.as_deref() {
            None => Incoming::Any,
            Some("lo") => Incoming::Host,
            Some(name) => networks
                .get(name)
                .map_or(Incoming::Other, |network| Incoming::Network(*network)),
        },
        tos: rule.tos,
        protocol: rule.protocol,
        source_ports: rule.source_ports.clone(),
        destination_ports: rule.destination_ports.clone(),
        ..always
    })
}

#[cfg(test)]
mod tests;
