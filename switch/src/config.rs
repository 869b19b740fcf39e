//! What the control plane tells the data path: plain data, swapped whole.
//!
//! The control plane describes the world as it should be and hands the description over; the data
//! path compiles it into a [`Topology`](crate::topology::Topology) and keeps the state that both
//! descriptions share (learned addresses, connections). There are no verbs here: a network that
//! is no longer named is gone.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU64;
use std::ops::RangeInclusive;
use std::time::Duration;

use ipnet::IpNet;

use crate::frame::MacAddr;
use crate::ipv6;

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
    /// At most one a port.
    pub treatments: Vec<Treatment>,
    pub uplinks: Vec<Uplink>,
    /// Every address of the host in the daemon's namespace, the gateways' included.
    pub host_addresses: Vec<IpAddr>,
    /// Subnets all of whose addresses are the host's (`ip route add local`).
    pub host_subnets: Vec<IpNet>,
    /// Which table decides about a packet; the main one about all when empty.
    pub rules: Vec<Rule>,
    /// Where traffic to the rest of the world leaves, and where it does not.
    pub routes: Vec<Route>,
    /// Neighbours the host's kernel already knows, so that the first frame needs no ARP of ours.
    pub neighbors: Vec<(PortId, IpAddr, MacAddr)>,
    /// Where containers' questions for names are answered. Without one those to a gateway's address
    /// go to the host, and those to 127.0.0.11 are dropped as packets for no host.
    pub names: Option<Names>,
    pub nat: nat::Rules,
}

#[derive(Clone, Debug)]
pub struct Network {
    pub id: NetworkId,
    /// The router's MAC, which is also the host interface's: a frame to it that concerns the host
    /// can be handed to the host as it is.
    pub gateway_mac: MacAddr,
    /// Of both families. With one of IPv6 the gateway has a link-local address too, which follows
    /// from its MAC.
    pub gateway_addresses: Vec<IpAddr>,
    pub subnets: Vec<IpNet>,
    /// The interface by which host processes reach this network.
    pub host_port: Option<PortId>,
    /// The largest IP packet that its endpoints take, in bytes.
    pub mtu: u32,
    /// Its endpoints reach each other and the gateway's own addresses, and nothing else: no uplink,
    /// no other address of the host.
    pub internal: bool,
    /// Whether its names are answered by [`Config::names`].
    pub names: bool,
    /// As [`Uplink::clamp_mss`], for what its endpoints say to the world and hear from it.
    pub clamp_mss: bool,
    pub bridge: Bridge,
}

/// What a network's bridge lets its ports make it carry and remember.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bridge {
    /// MACs that may be learned behind one port, besides the configured ones; at least one. A port
    /// that shows more loses its own oldest.
    pub macs_per_port: usize,
    /// MACs that may be learned in the whole network; at least one. When there are more, the port
    /// that holds most loses its oldest.
    pub macs: usize,
    pub storm: StormLimits,
    /// Whether IP multicast goes to those who asked for its group; `None` to send it to everyone.
    pub snooping: Option<Snooping>,
}

impl Default for Bridge {
    /// A container has one MAC, which is configured; those with virtual machines or containers of
    /// their own show some more.
    fn default() -> Bridge {
        Bridge {
            macs_per_port: 64,
            macs: 65_536,
            storm: StormLimits::default(),
            snooping: Some(Snooping::default()),
        }
    }
}

/// How the bridge finds out who listens to which group (IGMP, MLD).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snooping {
    /// Groups known in the network, of each address family. Others go to everyone.
    pub groups: usize,
    /// Groups that one port may listen to, of each address family. One that wants more gets all
    /// multicast there is.
    pub groups_per_port: usize,
    /// The gateway asks for listeners every 125 s. Without it, and without another querier, all
    /// multicast goes to everyone.
    pub querier: bool,
}

impl Default for Snooping {
    /// As many groups as a Linux bridge knows.
    fn default() -> Snooping {
        Snooping {
            groups: 4096,
            groups_per_port: 256,
            querier: true,
        }
    }
}

/// How many frames a second one port may have flooded to the others, with a second's worth at
/// once; `None` for as many as it likes. A super-frame counts as one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StormLimits {
    pub broadcast: Option<u32>,
    /// Multicast that goes to every port. What goes to the members of a known group does not count.
    pub multicast: Option<u32>,
    /// Unicast to a MAC that no port is known to have.
    pub unknown_unicast: Option<u32>,
}

impl Default for StormLimits {
    /// Each flooded frame is written once a port: at some 1 µs a write, 2,000 frames a second to
    /// 100 ports take a fifth of a CPU. No honest host comes near: an ARP sweep of 65,536 addresses
    /// takes half a minute at that rate. Multicast carries streams, so it may have more.
    fn default() -> StormLimits {
        StormLimits {
            broadcast: Some(2_000),
            multicast: Some(10_000),
            unknown_unicast: Some(2_000),
        }
    }
}

impl Network {
    /// Whether the gateway has `address`.
    pub fn is_gateway(&self, address: IpAddr) -> bool {
        self.gateway_addresses.contains(&address)
            || self.link_local().is_some_and(|own| address == own)
    }

    /// The gateway's link-local address; none in a network without IPv6.
    pub fn link_local(&self) -> Option<Ipv6Addr> {
        let has_ipv6 = self.gateway_addresses.iter().any(IpAddr::is_ipv6);
        has_ipv6.then(|| ipv6::link_local(self.gateway_mac))
    }
}

/// A network stack of its own that answers for every network's gateway at port 53, TCP and UDP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Names {
    pub port: PortId,
    /// Of its interface.
    pub mac: MacAddr,
    /// Where, at the gateway's address, the questions are answered that were sent to 127.0.0.11.
    pub redirected: u16,
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
    /// Keep its frames from the network's other isolated endpoints, and theirs from it, through the
    /// bridge and through the gateway. Each still talks with the gateway, the host, endpoints that
    /// are not isolated, the world, and whatever is published.
    pub isolated: bool,
}

/// What a port is held to besides what its network asks of all: limits, and faults on request. A
/// port that none names is held to nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Treatment {
    pub port: PortId,
    /// What comes in by the port: from the container.
    pub from: Conduct,
    /// What leaves by it: to the container.
    pub to: Conduct,
    /// Nothing passes, neither way.
    pub cut_off: bool,
    /// Ports that nothing goes to from this one. What parts two ports names each at the other.
    pub parted_from: Vec<PortId>,
}

/// What one direction of a port is held to; the default is nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Conduct {
    pub limit: Limit,
    pub fault: Fault,
}

/// What may pass in a second. A frame that comes too early waits for some 40 ms at the most (longer
/// at low rates), and is dropped as [`RateLimited`](crate::DropReason::RateLimited) if that would
/// not do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Limit {
    /// Of Ethernet frames, without preamble and checksum. A super-frame counts as the segments that
    /// it is cut into.
    pub bits_per_second: Option<NonZeroU64>,
    /// How much may pass at once after a pause; 10 ms' worth and at least some frames when absent.
    pub burst_bytes: Option<u64>,
    pub packets_per_second: Option<NonZeroU64>,
}

/// A million: what chances are parts of.
pub const MILLION: u32 = 1_000_000;

/// What happens to frames on purpose. A super-frame is one frame here, as it is for netem.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fault {
    /// How long each takes more.
    pub latency: Duration,
    /// By how much that varies, up and down, evenly. No frame overtakes another.
    pub jitter: Duration,
    /// How many of a million are lost.
    pub loss: u32,
    /// How many of a million arrive twice.
    pub duplicate: u32,
    /// What chance comes from: the same frames meet the same fate again.
    pub seed: u64,
}

/// An interface of the host towards the world, shared with the host's own stack.
#[derive(Clone, Debug)]
pub struct Uplink {
    pub port: PortId,
    /// The port by which packets come in that may open connections to published ports, if it is
    /// another: a flood of them then takes no room from what else comes in. Nothing leaves by it.
    pub newcomers: Option<PortId>,
    /// All zero for a link without Ethernet headers (WireGuard, PPP, tunnels), where nobody has a
    /// MAC and nobody is asked for one. So are both MACs of its frames.
    pub mac: MacAddr,
    /// The largest IP packet that it carries, in bytes.
    pub mtu: u32,
    /// Lower the TCP maximum segment size that is announced over this uplink, in both directions,
    /// to what fits `mtu`: for paths on which ICMP's Packet Too Big gets lost. A segment size is the
    /// business of the two ends, so only when asked.
    pub clamp_mss: bool,
}

impl Uplink {
    pub fn is_ethernet(&self) -> bool {
        self.mac != MacAddr::default()
    }
}

/// The number of the routing table that rules where no [`Rule`] says otherwise (`RT_TABLE_MAIN`).
pub const MAIN_TABLE: u32 = 254;

/// A route of the host, whatever its kind: one that the switch cannot use must still be found, for
/// the packet must not take a less specific one instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    pub table: u32,
    pub destination: IpNet,
    /// Only for packets from there (IPv6 subtrees).
    pub from: Option<IpNet>,
    /// Only for packets with this DSCP, in the upper six bits; 0 for all.
    pub tos: u8,
    /// Lower wins among routes to the same destination. Of equal ones the first in the list has it.
    pub metric: u32,
    pub leads: Leads,
}

/// Where a [`Route`] leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Leads {
    /// Over uplinks; at least one.
    Out(Vec<Hop>),
    /// To the host itself.
    Host,
    /// Over an interface that is no uplink.
    Elsewhere,
    Unreachable,
    Prohibited,
    Blackhole,
    /// Nowhere by this table: the next rule decides.
    Throw,
}

/// One next hop of a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hop {
    /// The router, possibly of the other IP version (RFC 5549); `None` on-link.
    pub via: Option<IpAddr>,
    pub uplink: PortId,
    /// The address masqueraded flows leave with. Without one only routed flows do.
    pub source: Option<IpAddr>,
    /// The address to ask for the next hop's MAC with, if that is another.
    pub asks_from: Option<IpAddr>,
    /// The largest IP packet that the way takes, in bytes, if that is less than the uplink's.
    pub mtu: Option<u32>,
    /// Its share among several.
    pub weight: u32,
}

impl Route {
    /// A route of the main table by one next hop.
    pub fn by(destination: IpNet, uplink: PortId, via: Option<IpAddr>, source: IpAddr) -> Route {
        Route {
            table: MAIN_TABLE,
            destination,
            from: None,
            tos: 0,
            metric: 0,
            leads: Leads::Out(vec![Hop {
                via,
                uplink,
                source: Some(source),
                asks_from: None,
                mtu: None,
                weight: 1,
            }]),
        }
    }
}

/// A routing rule of the host (`ip rule`), for packets without a mark. All conditions must hold,
/// or, of an inverted one, not all of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    pub ipv6: bool,
    /// Rules are looked at in this order.
    pub priority: u32,
    pub inverted: bool,
    pub from: Option<IpNet>,
    pub to: Option<IpNet>,
    pub incoming: Incoming,
    /// The DSCP, in the upper six bits; 0 for all.
    pub tos: u8,
    pub protocol: Option<u8>,
    pub source_ports: Option<RangeInclusive<u16>>,
    pub destination_ports: Option<RangeInclusive<u16>>,
    pub action: Action,
}

/// By which interface a packet must have come for a [`Rule`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Incoming {
    Any,
    /// It is the host's own.
    Host,
    /// By that of a network.
    Network(NetworkId),
    /// By another one, so none that the switch asks for.
    Other,
}

/// What a [`Rule`] does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Looks into a table. A route whose prefix is no longer than that does not count.
    Table {
        table: u32,
        suppress: Option<u8>,
    },
    /// Goes on at the rule of this priority.
    Goto(u32),
    Unreachable,
    Prohibited,
    Blackhole,
}

impl Rule {
    /// A rule for all packets.
    pub fn always(ipv6: bool, priority: u32, table: u32) -> Rule {
        Rule {
            ipv6,
            priority,
            inverted: false,
            from: None,
            to: None,
            incoming: Incoming::Any,
            tos: 0,
            protocol: None,
            source_ports: None,
            destination_ports: None,
            action: Action::Table {
                table,
                suppress: None,
            },
        }
    }
}
