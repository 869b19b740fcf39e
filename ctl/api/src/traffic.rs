//! What the switch and its NAT know and count.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::PortMapping;

/// An entry of a network's forwarding database.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct FdbEntry {
    /// Name of the network.
    pub network: String,
    /// MAC address.
    pub mac: String,
    /// Switch port where the address is.
    pub port: u32,
    /// The container or `host`.
    pub owner: String,
    /// Since it was last seen; none of a configured one, which stays.
    pub age_seconds: Option<u64>,
}

/// The rules of the NAT engine.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct NatRules {
    /// Rules for flows to the world.
    pub masquerade: Vec<MasqueradeRule>,
    /// Rules for published ports.
    pub publish: Vec<PublishRule>,
}

/// Flows of a subnet leave with an address of the host's.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct MasqueradeRule {
    /// Name of the network.
    pub network: String,
    /// The subnet.
    pub source: IpNet,
    /// The address the flows leave with, by uplink.
    pub to: BTreeMap<String, IpAddr>,
}

/// Flows to a published port lead to the container's address.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct PublishRule {
    /// Name of the container.
    pub container: String,
    /// The port or range.
    pub mapping: PortMapping,
    /// The container's addresses that are reached by it, one a family.
    pub to: Vec<IpAddr>,
}

/// An entry of the connection table.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Connection {
    /// As in [`ConnectionFilter`].
    pub protocol: String,
    /// State of the connection.
    pub state: String,
    /// As its first packet was sent.
    pub original: Flow,
    /// As an answer to it arrives, before it is translated.
    pub reply: Flow,
    /// Until it expires if no packet follows.
    pub expires_seconds: u64,
    /// In the direction of `original` and of `reply`.
    pub packets: [u64; 2],
    /// Of IP, in the direction of `original` and of `reply`.
    pub bytes: [u64; 2],
}

/// Which connections are meant: those of which all holds that is said; all, if nothing is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct ConnectionFilter {
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
pub struct Flushed {
    /// How many connections.
    pub connections: usize,
}

/// One direction of a connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Flow {
    /// Source address.
    pub src: IpAddr,
    /// Destination address.
    pub dst: IpAddr,
    /// Source port, or the identifier of an ICMP query; 0 if there is neither.
    pub src_port: u16,
    /// Destination port, or the identifier of an ICMP answer; 0 if there is neither.
    pub dst_port: u16,
}

/// What the switch has counted since the daemon started.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Counters {
    /// By switch port.
    pub ports: Vec<PortCounters>,
    /// By reason of the drop.
    pub drops: Vec<DropCounter>,
}

/// What a switch port has received and sent.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct PortCounters {
    /// The switch port.
    pub port: u32,
    /// The container, `host`, `names`, or `uplink NAME`.
    pub owner: String,
    /// Frames that the switch received from it.
    pub rx_frames: u64,
    /// Bytes of these frames.
    pub rx_bytes: u64,
    /// Frames that the switch sent to it.
    pub tx_frames: u64,
    /// Bytes of these frames.
    pub tx_bytes: u64,
    /// Of the frames received on an uplink, those that are the host's own business: no drops, since
    /// its kernel has them too.
    #[serde(default)]
    pub hosts_own_frames: u64,
}

/// How many frames were dropped for one reason.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct DropCounter {
    /// Name of the reason.
    pub reason: String,
    /// A sentence about it.
    pub explanation: String,
    /// How many frames.
    pub frames: u64,
}
