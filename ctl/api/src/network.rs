//! Networks.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{BridgeOptions, NameServer};

/// The body of `POST /v1/networks`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateNetwork {
    /// Unique among networks.
    pub name: String,
    /// Of either family; for a family without one, a subnet is chosen from the default pools.
    #[serde(default)]
    pub subnets: Vec<IpNet>,
    /// At most one a subnet; its first address for a subnet without one.
    #[serde(default)]
    pub gateways: Vec<IpAddr>,
    /// Whether containers get IPv4 addresses; they do when absent.
    #[serde(default)]
    pub ipv4: Option<bool>,
    /// Whether containers get IPv6 addresses. When absent, as `ipv6` of the daemon's `Info` says,
    /// or because `subnets` names one.
    #[serde(default)]
    pub ipv6: Option<bool>,
    /// The uplink's when absent.
    #[serde(default)]
    pub mtu: Option<u32>,
    /// What sets it apart from the ordinary.
    #[serde(default)]
    pub options: NetworkOptions,
}

/// What sets a network apart from the ordinary; nothing does when all is default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct NetworkOptions {
    /// Its containers reach each other and the gateway's address, and nothing else: they have no
    /// default route, and can publish nothing.
    pub internal: bool,
    /// Its containers reach the gateway and the world, but not each other.
    pub isolated: bool,
    /// What leaves keeps its container's address: the routers around have to know the way back. From
    /// outside containers are reached by answers and by published ports, as in any network.
    pub routed: bool,
    /// The host's address that flows leave with, at most one a family; the route's when absent.
    pub masquerade_to: Vec<IpAddr>,
    /// Parts of the subnets, at most one each, from which addresses are chosen for those who name
    /// none.
    pub ip_ranges: Vec<IpNet>,
    /// Addresses that no container gets.
    pub reserved: Vec<IpAddr>,
    /// Of the user's own; pontoon only filters by them.
    pub labels: BTreeMap<String, String>,
    /// Lower the segment size that TCP announces to and from the world to what fits the uplink.
    pub mss_clamp: bool,
    /// What its switch does with frames for many.
    pub bridge: BridgeOptions,
    /// Asked for names that are no container's, instead of the daemon's servers; what a container
    /// names itself comes first.
    pub dns: Vec<NameServer>,
    /// Domains in which short names are tried by containers that name none; the host's when absent.
    pub dns_search: Option<Vec<String>>,
}

impl NetworkOptions {
    /// Whether what leaves gets an address of the host.
    pub fn masquerades(&self) -> bool {
        !self.internal && !self.routed
    }

    /// The address chosen for what leaves from `source`.
    pub fn masquerade_to(&self, source: IpNet) -> Option<IpAddr> {
        let mut chosen = self.masquerade_to.iter().copied();
        chosen.find(|to| to.is_ipv4() == source.addr().is_ipv4())
    }
}

/// A network.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Network {
    /// 64 hex digits.
    pub id: String,
    /// Unique among networks.
    pub name: String,
    /// Those of IPv4 first.
    pub subnets: Vec<IpNet>,
    /// One for each subnet, in the same order.
    pub gateways: Vec<IpAddr>,
    /// MAC address of the gateway.
    pub gateway_mac: String,
    /// The host's interface on this network.
    pub host_interface: String,
    /// Largest packet, in bytes.
    pub mtu: u32,
    /// Seconds since 1970.
    pub created: u64,
    /// What sets it apart from the ordinary.
    pub options: NetworkOptions,
    /// Names of the containers that have an endpoint on it.
    pub containers: Vec<String>,
}
