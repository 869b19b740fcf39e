//! What the host's own network stack says: its links, addresses, routes and neighbours, followed
//! over rtnetlink as they change.
//!
//! Pontoon routes as the host does: the gateway looks up the host's routes, masquerades as the
//! host's addresses and starts from the host's neighbours. All of it is one [`HostState`],
//! replaced as a whole whenever something in it has really changed.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::str::FromStr;

use ipnet::IpNet;
use switch::frame::MacAddr;

use crate::ipam::Occupied;

mod follow;
mod message;
mod nexthop;
mod route;

pub(crate) use follow::{snapshot, watch};

/// A link of the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HostLink {
    pub(crate) index: u32,
    pub(crate) name: String,
    /// All zero for a link without an Ethernet address.
    pub(crate) mac: MacAddr,
    /// Bytes of a layer 3 packet.
    pub(crate) mtu: u32,
    /// Administratively up.
    pub(crate) up: bool,
    /// The driver's word: `veth`, `tun`, `bridge`, …; empty for hardware.
    pub(crate) kind: String,
    /// Carries Ethernet frames.
    pub(crate) ethernet: bool,
    /// Carries IP packets without a header in front. What is neither can't be an uplink.
    pub(crate) headerless: bool,
    pub(crate) loopback: bool,
    pub(crate) group: u32,
    /// One that pontoon made.
    pub(crate) ours: bool,
}

/// An address of one of the host's links, usable by now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HostAddress {
    pub(crate) ifindex: u32,
    pub(crate) net: IpNet,
    /// An IPv6 address that is not to begin flows from: deprecated (RFC 4862 clause 5.5.4), or a
    /// temporary one (RFC 8981), which is gone in a day.
    pub(crate) passing: bool,
    /// Of scope link or host: not to be seen beyond the link.
    pub(crate) narrow: bool,
}

/// A route of any table and kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HostRoute {
    pub(crate) table: u32,
    pub(crate) destination: IpNet,
    /// Only for packets from there (IPv6 alone).
    pub(crate) from: Option<IpNet>,
    /// Only for packets with this type of service; 0 for all.
    pub(crate) tos: u8,
    /// Lower wins among routes to the same destination.
    pub(crate) metric: u32,
    pub(crate) kind: RouteKind,
    /// The source address that the host prefers on this route.
    pub(crate) source: Option<IpAddr>,
    /// Bytes of a packet, if that is limited for this route.
    pub(crate) mtu: Option<u32>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum RouteKind {
    /// By one of these next hops.
    Unicast(Vec<HostHop>),
    /// To somewhere, in a way that only the kernel knows: encapsulated, or by a next hop that it
    /// does not tell.
    Obscure,
    /// To the host itself, and the same for broadcast and anycast addresses.
    Local,
    Broadcast,
    Unreachable,
    Prohibit,
    Blackhole,
    Throw,
}

/// A next hop that is alive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HostHop {
    /// The router, possibly of the other IP version (RFC 5549); `None` on-link.
    pub(crate) via: Option<IpAddr>,
    pub(crate) ifindex: u32,
    pub(crate) weight: u32,
}

impl HostRoute {
    pub(crate) fn hops(&self) -> &[HostHop] {
        match &self.kind {
            RouteKind::Unicast(hops) => hops,
            _ => &[],
        }
    }

    /// Whether it is in a table that rules without policy routing.
    pub(crate) fn is_main(&self) -> bool {
        [TABLE_MAIN, TABLE_DEFAULT].contains(&self.table)
    }
}

/// `RT_TABLE_LOCAL`: what is the host's own.
pub(crate) const TABLE_LOCAL: u32 = 255;
pub(crate) const TABLE_MAIN: u32 = 254;
pub(crate) const TABLE_DEFAULT: u32 = 253;

/// A routing rule (`ip rule`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HostRule {
    pub(crate) ipv6: bool,
    pub(crate) priority: u32,
    pub(crate) inverted: bool,
    pub(crate) from: Option<IpNet>,
    pub(crate) to: Option<IpNet>,
    /// By name: an interface that is not there (yet) has no index.
    pub(crate) incoming: Option<String>,
    /// A packet that passes through meets none of these: it has no mark, is root's, and has no
    /// outgoing interface or VRF before it is routed.
    pub(crate) never: bool,
    pub(crate) tos: u8,
    pub(crate) protocol: Option<u8>,
    pub(crate) source_ports: Option<RangeInclusive<u16>>,
    pub(crate) destination_ports: Option<RangeInclusive<u16>>,
    /// A route over an interface of this group does not count.
    pub(crate) suppress_group: Option<u32>,
    pub(crate) action: RuleAction,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum RuleAction {
    Table { table: u32, suppress: Option<u8> },
    Goto(u32),
    Unreachable,
    Prohibit,
    Blackhole,
}

/// What the host's stack says, at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct HostState {
    /// By index.
    pub(crate) links: Vec<HostLink>,
    /// By link, and then in the kernel's order: an interface's primary address, the one it sends
    /// from, comes before its secondary ones.
    pub(crate) addresses: Vec<HostAddress>,
    /// In the kernel's order: of equal ones it takes the first.
    pub(crate) routes: Vec<HostRoute>,
    /// By priority. Empty on a kernel without routing rules.
    pub(crate) rules: Vec<HostRule>,
    /// Interface index, address and MAC of those that the kernel has resolved, without those
    /// behind links of ours: IPAM knows them.
    pub(crate) neighbors: Vec<(u32, IpAddr, MacAddr)>,
}

/// Which links of the host shall be uplinks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum UplinkChoice {
    /// Those that the host routes over, or has an address on.
    Auto,
    /// None: the networks reach the host and each other, no further.
    None,
    /// Just these.
    Names(Vec<String>),
}

impl FromStr for UplinkChoice {
    type Err = std::convert::Infallible;

    /// `auto`, `none`, or names with commas between them.
    fn from_str(text: &str) -> Result<UplinkChoice, Self::Err> {
        Ok(match text {
            "auto" => UplinkChoice::Auto,
            "none" => UplinkChoice::None,
            names => UplinkChoice::Names(
                names
                    .split(',')
                    .filter(|name| !name.is_empty())
                    .map(str::to_owned)
                    .collect(),
            ),
        })
    }
}

/// Why a link can't be an uplink.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum UplinkError {
    #[error("there is no interface {name} to be an uplink; there are: {known}")]
    Missing { name: String, known: String },
    #[error("interface {0} is pontoon's own and can't be an uplink; name one of the host's")]
    Ours(String),
    #[error(
        "interface {0} carries neither Ethernet frames nor bare IP packets and can't be an uplink; \
         name one that does"
    )]
    OtherMedium(String),
}

impl HostState {
    /// The links that shall be uplinks, the one of the best default route first. May be empty
    /// under `Auto`: a host that isn't connected (yet).
    pub(crate) fn uplinks(&self, choice: &UplinkChoice) -> Result<Vec<HostLink>, UplinkError> {
        let names = match choice {
            UplinkChoice::Auto => return Ok(self.automatic_uplinks()),
            UplinkChoice::None => return Ok(Vec::new()),
            UplinkChoice::Names(names) => names,
        };
        let mut uplinks: Vec<HostLink> = Vec::new();
        for name in names {
            let Some(link) = self.links.iter().find(|link| link.name == *name) else {
                let known: Vec<&str> = self.links.iter().map(|link| link.name.as_str()).collect();
                let known = known.join(", ");
                return Err(UplinkError::Missing {
                    name: name.clone(),
                    known,
                });
            };
            if link.ours {
                return Err(UplinkError::Ours(name.clone()));
            }
            if !link.ethernet && !link.headerless {
                return Err(UplinkError::OtherMedium(name.clone()));
            }
            if !uplinks.contains(link) {
                uplinks.push(link.clone());
            }
        }
        Ok(uplinks)
    }

    fn automatic_uplinks(&self) -> Vec<HostLink> {
        let mut routes: Vec<&HostRoute> = self
            .routes
            .iter()
            .filter(|route| !is_link_local(route.destination.addr()))
            .collect();
        routes.sort_by_key(|route| {
            let is_default = route.is_main() && route.destination.prefix_len() == 0;
            let is_ipv6 = route.destination.addr().is_ipv6();
            (!is_default, is_ipv6, route.metric)
        });
        let routed = routes.into_iter().flat_map(HostRoute::hops);
        let addressed = self
            .addresses
            .iter()
            .filter(|address| !is_link_local(address.net.addr()));
        let indices = routed
            .map(|hop| hop.ifindex)
            .chain(addressed.map(|address| address.ifindex));
        let mut links = self.usable(indices);
        links.truncate(MOST_UPLINKS);
        links
    }

    /// Those of the links that can be an uplink and are up, each once, in this order.
    fn usable(&self, indices: impl Iterator<Item = u32>) -> Vec<HostLink> {
        let mut seen = BTreeSet::new();
        indices
            .filter(|index| seen.insert(*index))
            .filter_map(|index| self.links.iter().find(|link| link.index == index))
            .filter(|link| {
                let carries = link.ethernet || link.headerless;
                link.up && carries && !link.loopback && !link.ours && !link.is_virtual()
            })
            .cloned()
            .collect()
    }

    /// What the host has an address in or a route to, for choosing the subnets of networks.
    pub(crate) fn occupied(&self) -> Occupied {
        let addresses = self.addresses.iter();
        let routes = || {
            let routes = self.routes.iter();
            routes.filter(|route| route.is_main() && !route.hops().is_empty())
        };
        let routers = routes().flat_map(HostRoute::hops).filter_map(|hop| hop.via);
        Occupied {
            networks: Vec::new(),
            routes: routes().map(|it| it.destination).collect(),
            connected: addresses.clone().map(|it| it.net.trunc()).collect(),
            hosts: addresses.map(|it| it.net.addr()).chain(routers).collect(),
        }
    }
}

/// Uplinks that are chosen without being named. Every one costs each worker a socket, and each of
/// the host's published ports a comparison; a host with more has most of them for its own
/// containers.
const MOST_UPLINKS: usize = 64;

impl HostLink {
    /// No wire: a VRF stands for its members, which hear the same frames, and a dummy for
    /// addresses.
    fn is_virtual(&self) -> bool {
        ["vrf", "dummy"].contains(&self.kind.as_str())
    }
}

/// Whether the host uses IPv6: its kernel has it, and nobody has turned it off
/// (`net.ipv6.conf.all.disable_ipv6`).
pub(crate) fn uses_ipv6() -> bool {
    let off = std::fs::read_to_string("/proc/sys/net/ipv6/conf/all/disable_ipv6");
    switch::io::has_ipv6() && off.is_ok_and(|off| off.trim() == "0")
}

/// An address that means another host on every link.
pub(crate) fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests;
