//! Published ports.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Protocol of a published port.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// To the container's port of the same number, as its checksum covers the ports; from the wire
    /// and from containers, not from the host itself.
    Sctp,
}

/// `[[hostip:][hostport[-end]]:]port[-end][/tcp|udp|sctp][,allow=NETWORK]…`, one rule however many ports.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PortMapping {
    /// Protocol of the ports.
    pub protocol: Protocol,
    /// Every address of the host when absent; every one of its family when unspecified (`0.0.0.0`,
    /// `::`).
    #[serde(default)]
    pub host_ip: Option<IpAddr>,
    /// 0 in a request: free ones, in a row, are chosen and kept from then on; the answer names them.
    pub host_port: u16,
    /// First of the container's ports.
    pub container_port: u16,
    /// How many consecutive ports, one to one.
    pub count: u16,
    /// Who may use it, by the source address that a packet arrives with: everybody when empty. Of
    /// everybody else what comes from the wire or from a container is dropped in silence. On the host
    /// itself the source is 127.0.0.1, `::1` or the address dialled; who is not on the list there is
    /// cut off at once.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allow: Vec<IpNet>,
}

/// A published port or range, and what it is used for.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct PublishedPort {
    /// The port or range.
    pub mapping: PortMapping,
    /// The container's addresses that are reached by it, one a family.
    pub to: Vec<IpAddr>,
    /// What it is used for.
    pub traffic: PortTraffic,
}

/// What came and went by a published port since it was published, or since the daemon started:
/// counts that only grow, but for the active ones.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct PortTraffic {
    /// From the wire and from containers; of UDP, as many as there were sources.
    pub connections: u64,
    /// Those of `connections` that are still open.
    pub active: u64,
    /// To the container and from it. A super-frame counts as one.
    pub packets: [u64; 2],
    /// Of IP, to the container and from it.
    pub bytes: [u64; 2],
    /// From the host itself, through the relay.
    pub relayed: RelayedTraffic,
}

/// As [`PortTraffic`], of what has no packets of its own.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct RelayedTraffic {
    /// Connections; of UDP, as many as there were sources.
    pub connections: u64,
    /// Those of `connections` that are still open.
    pub active: u64,
    /// Of payload, to the container and from it.
    pub bytes: [u64; 2],
    /// Connections and datagrams of those who are not on the port's list.
    pub refused: u64,
}
