//! What the control plane tells the data path: plain data, swapped whole.
//!
//! The control plane describes the world as it should be and hands the description over; the data
//! path compiles it into a [`Topology`](crate::topology::Topology) and keeps the state that both
//! descriptions share (learned addresses, connections). There are no verbs here: a network that
//! is no longer named is gone.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::frame::MacAddr;

/// A port of the switch. Given out by [`Switch::add_port`](crate::Switch::add_port).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PortId(pub u32);

impl fmt::Display for PortId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// A network: one broadcast domain with one gateway. Chosen by the control plane, never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NetworkId(pub u32);

/// The whole of what the data path forwards by. A port that nothing here names drops every frame
/// as [`PortUnassigned`](crate::DropReason::PortUnassigned).
#[derive(Clone, Debug, Default)]
pub struct Config {
    pub networks: Vec<Network>,
    pub endpoints: Vec<Endpoint>,
    pub uplinks: Vec<Uplink>,
    /// Every address of the host in the daemon's namespace, the gateways' included.
    pub host_addresses: Vec<IpAddr>,
    /// Where traffic to the rest of the world leaves. Only routes over an uplink belong here.
    pub routes: Vec<Route>,
    /// Neighbours the host's kernel already knows, so that the first frame needs no ARP of ours.
    pub neighbors: Vec<(PortId, IpAddr, MacAddr)>,
    pub nat: nat::Rules,
}

#[derive(Clone, Debug)]
pub struct Network {
    pub id: NetworkId,
    /// The router's MAC, which is also the host interface's: a frame to it that concerns the host
    /// can be handed to the host as it is.
    pub gateway_mac: MacAddr,
    pub gateway_addresses: Vec<IpAddr>,
    pub subnets: Vec<IpNet>,
    /// The interface by which host processes reach this network.
    pub host_port: Option<PortId>,
    /// How many addresses the network's FDB may learn on one port.
    pub fdb_per_port: usize,
}

/// One container's attachment to one network.
#[derive(Clone, Debug)]
pub struct Endpoint {
    pub port: PortId,
    pub network: NetworkId,
    pub mac: MacAddr,
    pub addresses: Vec<IpAddr>,
    /// Drop frames whose source is not `mac` and `addresses`.
    pub guard: bool,
}

/// An interface of the host towards the world, shared with the host's own stack.
#[derive(Clone, Debug)]
pub struct Uplink {
    pub port: PortId,
    pub mac: MacAddr,
}

/// A route over an uplink. `source` is the address masqueraded flows leave with.
#[derive(Clone, Debug)]
pub struct Route {
    pub destination: IpNet,
    pub via: Option<IpAddr>,
    pub uplink: PortId,
    pub source: IpAddr,
    pub metric: u32,
}
