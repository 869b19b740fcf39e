//! What the switch and its NAT know and count.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::PortMapping;

#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct FdbEntry {
    pub network: String,
    pub mac: String,
    pub port: u32,
    /// The container or `host`.
    pub owner: String,
    /// Since it was last seen; none of a configured one, which stays.
    pub age_seconds: Option<u64>,
}

#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct NatRules {
    pub masquerade: Vec<MasqueradeRule>,
    pub publish: Vec<PublishRule>,
}

#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct MasqueradeRule {
    pub network: String,
    pub source: IpNet,
    /// The address the flows leave with, by uplink.
    pub to: BTreeMap<String, IpAddr>,
}

#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct PublishRule {
    pub container: String,
    pub mapping: PortMapping,
    /// The container's addresses that are reached by it, one a family.
    pub to: Vec<IpAddr>,
}

#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct Connection {
    pub protocol: String,
    pub state: String,
    pub original: Flow,
    pub reply: Flow,
    pub expires_seconds: u64,
    pub packets: [u64; 2],
    pub bytes: [u64; 2],
}

/// Which connections are meant: those of which all holds that is said; all, if nothing is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(crate) struct ConnectionFilter {
    /// A container at one of its ends: name, id or an unambiguous beginning of the id.
    pub container: Option<String>,
    /// `tcp`, `udp`, `sctp`, `icmp`, `icmpv6`, or the number of another one.
    pub protocol: Option<String>,
    /// An address or a network; one of the connection's addresses, before or after translation, is
    /// in it.
    pub address: Option<String>,
    /// One of its ports, before or after translation.
    pub port: Option<u16>,
}

/// What was ended.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct Flushed {
    pub connections: usize,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct Flow {
    pub src: IpAddr,
    pub dst: IpAddr,
    pub src_port: u16,
    pub dst_port: u16,
}

#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct Counters {
    pub ports: Vec<PortCounters>,
    pub drops: Vec<DropCounter>,
}

#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct PortCounters {
    pub port: u32,
    pub owner: String,
    pub rx_frames: u64,
    pub rx_bytes: u64,
    pub tx_frames: u64,
    pub tx_bytes: u64,
    /// Of the frames received on an uplink, those that are the host's own business: no drops, since
    /// its kernel has them too.
    #[serde(default)]
    pub hosts_own_frames: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct DropCounter {
    pub reason: String,
    pub explanation: String,
    pub frames: u64,
}
