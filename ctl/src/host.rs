//! What the host's own network stack says: its links, addresses, routes and neighbours, followed
//! over rtnetlink as they change.
//!
//! Pontoon routes as the host does: the gateway looks up the host's routes, masquerades as the
//! host's addresses and starts from the host's neighbours. All of it is one [`HostState`],
//! replaced as a whole whenever something in it has really changed.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;
use switch::frame::MacAddr;

use crate::ipam::Occupied;

mod follow;
mod message;

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
    /// Carries Ethernet frames; others can't be an uplink.
    pub(crate) ethernet: bool,
    pub(crate) loopback: bool,
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
}

/// A unicast route. One with several next hops is several of these.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct HostRoute {
    pub(crate) destination: IpNet,
    /// Lower wins among routes to the same destination.
    pub(crate) metric: u32,
    /// The router, possibly of the other IP version (RFC 5549); `None` on-link.
    pub(crate) via: Option<IpAddr>,
    pub(crate) ifindex: u32,
    /// The source address that the host prefers on this route.
    pub(crate) source: Option<IpAddr>,
}

/// What the host's stack says, at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct HostState {
    /// By index.
    pub(crate) links: Vec<HostLink>,
    /// By link, and then in the kernel's order: an interface's primary address, the one it sends
    /// from, comes before its secondary ones.
    pub(crate) addresses: Vec<HostAddress>,
    /// Of the tables main and default, by destination and metric.
    pub(crate) routes: Vec<HostRoute>,
    /// Interface index, address and MAC of those that the kernel has resolved, without those
    /// behind links of ours: IPAM knows them.
    pub(crate) neighbors: Vec<(u32, IpAddr, MacAddr)>,
}

/// Which links of the host shall be uplinks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum UplinkChoice {
    /// Those that carry a default route; failing that, those that are up and have an address.
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
    #[error("interface {0} carries no Ethernet frames and can't be an uplink; name one that does")]
    NotEthernet(String),
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
            if !link.ethernet {
                return Err(UplinkError::NotEthernet(name.clone()));
            }
            if !uplinks.contains(link) {
                uplinks.push(link.clone());
            }
        }
        Ok(uplinks)
    }

    fn automatic_uplinks(&self) -> Vec<HostLink> {
        let mut defaults: Vec<&HostRoute> = self
            .routes
            .iter()
            .filter(|route| route.destination.prefix_len() == 0)
            .collect();
        defaults.sort_by_key(|route| (route.destination.addr().is_ipv6(), route.metric));
        let routed = self.usable(defaults.into_iter().map(|route| route.ifindex));
        if !routed.is_empty() {
            return routed;
        }
        let addressed = self
            .addresses
            .iter()
            .filter(|address| !is_link_local(address.net.addr()));
        self.usable(addressed.map(|address| address.ifindex))
    }

    /// Those of the links that can be an uplink and are up, each once, in this order.
    fn usable(&self, indices: impl Iterator<Item = u32>) -> Vec<HostLink> {
        let mut seen = BTreeSet::new();
        indices
            .filter(|index| seen.insert(*index))
            .filter_map(|index| self.links.iter().find(|link| link.index == index))
            .filter(|link| link.up && link.ethernet && !link.loopback && !link.ours)
            .cloned()
            .collect()
    }

    /// What the host has an address in or a route to, for choosing the subnets of networks.
    pub(crate) fn occupied(&self) -> Occupied {
        let addresses = self.addresses.iter();
        let routers = self.routes.iter().filter_map(|route| route.via);
        Occupied {
            networks: Vec::new(),
            routes: self.routes.iter().map(|it| it.destination).collect(),
            connected: addresses.clone().map(|it| it.net.trunc()).collect(),
            hosts: addresses.map(|it| it.net.addr()).chain(routers).collect(),
        }
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
