//! Where the host would send a packet: its routing rules and tables, compiled.
//!
//! All of the host's routes are here, whatever their kind and interface, and the longest prefix is
//! found among all of them. A route that the switch cannot use refuses the packet by name; no
//! packet takes a less specific route instead, past a VPN or out of a blackhole.
//!
//! The walk is the kernel's (`fib_rules_lookup`): rules in order of priority, each with its
//! conditions; the first table that knows the destination decides. Conditions that no packet of the
//! switch can meet or miss (marks, outgoing interfaces, users) were settled by the control plane. A
//! packet that matches a table's route is refused if the route says so, and asks the next rule if
//! it says `throw` or if the rule suppresses so short a prefix.
//!
//! A table is one hash table a prefix length, longest first: a lookup costs at most as many probes
//! as there are different lengths, however many routes there are. A host without rules of its own
//! has one or two tables that are not empty.

use std::hash::BuildHasher;
use std::net::IpAddr;

use foldhash::fast::{FixedState, RandomState};
use hashbrown::HashMap;
use ipnet::IpNet;

use crate::config::{Action, Hop, Incoming, Leads, MAIN_TABLE, NetworkId, Route, Rule};
use crate::drop::DropReason;

/// What the host's routing goes by, of one packet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lookup {
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
    /// The network that the packet came from; none for one of the host's own.
    pub(crate) network: Option<NetworkId>,
    pub(crate) tos: u8,
    pub(crate) protocol: u8,
    /// Source and destination.
    pub(crate) ports: Option<(u16, u16)>,
}

/// Where a packet goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way<'a> {
    Out(&'a Hop),
    Host,
}

/// See the module's description.
#[derive(Debug, Default)]
pub(crate) struct Routing {
    /// Of IPv4 and of IPv6, by priority.
    rules: [Vec<Rule>; 2],
    tables: HashMap<u32, Table, RandomState>,
}

#[derive(Debug, Default)]
struct Table {
    by_length: [Vec<Length>; 2],
}

/// The routes of one prefix length.
#[derive(Debug)]
struct Length {
    bits: u8,
    /// Under each prefix the routes to it, the best first.
    routes: HashMap<IpNet, Vec<Route>, RandomState>,
}

impl Routing {
    pub(crate) fn new(mut rules: Vec<Rule>, mut routes: Vec<Route>) -> Routing {
        if rules.is_empty() {
            rules = [false, true]
                .map(|v6| Rule::always(v6, 0, MAIN_TABLE))
                .into();
        }
        // Stable sorts: of equals the first in the list comes first.
        routes.sort_by_key(|route| {
            let from = route.from.map_or(0, |from| from.prefix_len() + 1);
            let length = route.destination.prefix_len();
            (
                std::cmp::Reverse((length, from, route.tos > 0)),
                route.metric,
            )
        });
        let mut tables: HashMap<u32, Table, RandomState> = HashMap::default();
        for route in routes {
            let family = family(route.destination.addr());
            let table = tables.entry(route.table).or_default();
            let lengths = &mut table.by_length[family];
            let bits = route.destination.prefix_len();
            if lengths.last().is_none_or(|last| last.bits != bits) {
                lengths.push(Length {
                    bits,
                    routes: HashMap::default(),
                });
            }
            if let Some(length) = lengths.last_mut() {
                let same = length.routes.entry(route.destination.trunc());
                same.or_default().push(route);
            }
        }
        rules.sort_by_key(|rule| rule.priority);
        // A table without routes of the family says nothing.
        rules.retain(|rule| match rule.action {
            Action::Table { table, .. } => tables
                .get(&table)
                .is_some_and(|table| !table.by_length[usize::from(rule.ipv6)].is_empty()),
            _ => true,
        });
        let (ipv6, ipv4) = rules.into_iter().partition(|rule| rule.ipv6);
        Routing {
            rules: [ipv4, ipv6],
            tables,
        }
    }

    /// The way of a packet, or why there is none.
    pub(crate) fn decide(&self, lookup: &Lookup) -> Result<Way<'_>, DropReason> {
        let mut from_priority = 0;
        for rule in &self.rules[family(lookup.destination)] {
            if rule.priority < from_priority || !matches(rule, lookup) {
                continue;
            }
            let (table, suppress) = match rule.action {
                Action::Table { table, suppress } => (table, suppress),
                Action::Goto(priority) => {
                    from_priority = priority;
                    continue;
                }
                Action::Unreachable => return Err(DropReason::RouteUnreachable),
                Action::Prohibited => return Err(DropReason::RouteProhibited),
                Action::Blackhole => return Err(DropReason::RouteBlackhole),
            };
            let found = self.tables.get(&table);
            let Some(route) = found.and_then(|table| table.lookup(lookup)) else {
                continue;
            };
            // Only what would be carried is suppressed (fib4_rule_suppress), not a refusal.
            let suppressed = suppress.is_some_and(|most| route.destination.prefix_len() <= most);
            return match &route.leads {
                Leads::Throw => continue,
                Leads::Out(_) | Leads::Host | Leads::Elsewhere if suppressed => continue,
                Leads::Out(hops) => choose(hops, lookup)
                    .map(Way::Out)
                    .ok_or(DropReason::NoRoute),
                Leads::Host => Ok(Way::Host),
                Leads::Elsewhere => Err(DropReason::NotAnUplink),
                Leads::Unreachable => Err(DropReason::RouteUnreachable),
                Leads::Prohibited => Err(DropReason::RouteProhibited),
                Leads::Blackhole => Err(DropReason::RouteBlackhole),
            };
        }
        Err(DropReason::NoRoute)
    }
}

impl Table {
    fn lookup(&self, lookup: &Lookup) -> Option<&Route> {
        let fits = |route: &&Route| {
            route.from.is_none_or(|from| from.contains(&lookup.source))
                && (route.tos == 0 || route.tos == lookup.tos & DSCP)
        };
        let mut lengths = self.by_length[family(lookup.destination)].iter();
        lengths.find_map(|length| {
            let prefix = IpNet::new(lookup.destination, length.bits).ok()?.trunc();
            length.routes.get(&prefix)?.iter().find(fits)
        })
    }
}

/// The part of the type-of-service byte that is not ECN's (RFC 3168).
const DSCP: u8 = 0xfc;

fn family(address: IpAddr) -> usize {
    usize::from(address.is_ipv6())
}

fn matches(rule: &Rule, lookup: &Lookup) -> bool {
    let within = |net: Option<IpNet>, address| net.is_none_or(|net| net.contains(&address));
    let incoming = match rule.incoming {
        Incoming::Any => true,
        Incoming::Host => lookup.network.is_none(),
        Incoming::Network(network) => lookup.network == Some(network),
        Incoming::Other => false,
    };
    let (source, destination) = lookup.ports.unzip();
    let port = |range: &Option<std::ops::RangeInclusive<u16>>, port: Option<u16>| {
        let Some(range) = range else { return true };
        port.is_some_and(|port| range.contains(&port))
    };
    let holds = incoming
        && within(rule.from, lookup.source)
        && within(rule.to, lookup.destination)
        && (rule.tos == 0 || rule.tos == lookup.tos & DSCP)
        && rule.protocol.is_none_or(|it| it == lookup.protocol)
        && port(&rule.source_ports, source)
        && port(&rule.destination_ports, destination);
    holds != rule.inverted
}

/// One of several next hops, the same for all packets between two addresses (as with
/// `net.ipv4.fib_multipath_hash_policy` 0): each has its share of the pairs.
fn choose<'a>(hops: &'a [Hop], lookup: &Lookup) -> Option<&'a Hop> {
    if let [only] = hops {
        return Some(only);
    }
    let total: u64 = hops.iter().map(|hop| u64::from(hop.weight.max(1))).sum();
    let pair = (lookup.source, lookup.destination);
    let hash = FixedState::default().hash_one(pair) >> 32;
    let mut place = (hash * total) >> 32;
    hops.iter().find(|hop| {
        let share = u64::from(hop.weight.max(1));
        let found = place < share;
        place = place.saturating_sub(share);
        found
    })
}

#[cfg(test)]
mod tests;
