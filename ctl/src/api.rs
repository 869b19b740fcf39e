//! The shapes of the HTTP API, shared by the daemon that answers and the client that asks.
//!
//! HTTP/1.1 with JSON bodies over a Unix socket, everything under `/v1`. What follows is told whole by
//! the daemon itself, as an OpenAPI document made from these types and their comments:
//!
//! | method and path | body → answer |
//! |---|---|
//! | `GET /v1/openapi.json` | → the document |
//! | `GET /v1/info` | → [`Info`] |
//! | `GET /v1/networks`, `GET /v1/networks/{name}` | → [`Network`]s, one [`Network`] |
//! | `POST /v1/networks` | [`CreateNetwork`] → [`Network`] |
//! | `DELETE /v1/networks` | → the [`Network`]s that nobody used, as they were |
//! | `DELETE /v1/networks/{name}` | → [`Network`] as it was |
//! | `GET /v1/containers`, `GET /v1/containers/{name}` | → [`Container`]s, one [`Container`] |
//! | `POST /v1/containers` | [`Attach`] → [`Container`] |
//! | `DELETE /v1/containers/{name}`, `DELETE /v1/containers/{name}?force=true` | → [`Container`] as it was |
//! | `POST /v1/containers/{name}/endpoints` | [`Connect`] → [`Container`] |
//! | `DELETE /v1/containers/{name}/endpoints/{network}` | → [`Container`] |
//! | `GET /v1/containers/{name}/ports` | → [`PublishedPort`]s |
//! | `POST /v1/containers/{name}/ports` | [`PortMapping`]s, new or with another `allow` → [`Container`] |
//! | `DELETE /v1/containers/{name}/ports` | [`PortMapping`]s, whatever they `allow` → [`Container`] |
//! | `POST /v1/containers/{name}/limits` | [`SetLimits`] → [`Container`] |
//! | `POST /v1/containers/{name}/faults` | [`SetFaults`] → [`Container`] |
//! | `DELETE /v1/containers/{name}/faults` | → [`Container`], partitions ended too |
//! | `POST /v1/containers/{name}/partition` | [`SetPartition`] → [`Container`] |
//! | `DELETE /v1/faults` | → the [`Container`]s that suffered any, as they were |
//! | `POST /v1/containers/{name}/kill` | [`Kill`] → [`Container`] |
//! | `POST /v1/containers/{name}/exit` | [`Exited`], from its supervisor → [`Exit`] |
//! | `GET /v1/containers/{name}/wait` | → [`Exit`], once it has ended |
//! | `GET /v1/events`, `GET /v1/events?since={seq}` | → [`Event`]s without end, one a line |
//! | `GET /v1/fdb` | → [`FdbEntry`]s |
//! | `GET /v1/nat` | → [`NatRules`] |
//! | `GET /v1/connections` | → [`Connection`]s |
//! | `GET /v1/counters` | → [`Counters`] |
//! | `GET /v1/metrics` | → the counters and the traffic of published ports, as Prometheus reads them |
//!
//! Who can connect to the socket may ask with GET; only root and the daemon's own user may change
//! something. A failure answers with a 4xx or 5xx status and an [`ErrorBody`]. Containers and networks are
//! named by name, by id or by an unambiguous beginning of the id.
//!
//! Within `/v1` things are only added. What an answer has that a client does not know is for the client
//! to leave aside. What a request has that the daemon does not know is refused, for it may be what
//! the caller relies on; so a client leaves out what has its default, and a newer one works with an
//! older daemon as long as nothing new is asked for.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

mod bridge;
mod engine;
mod limits;

pub(crate) use bridge::{BridgeOptions, StormOptions};
pub(crate) use engine::Engine;
pub(crate) use limits::{
    Fault, Faults, Limit, Limits, Partition, SetFaults, SetLimits, SetPartition,
};

#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct ErrorBody {
    pub error: String,
}

#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct Info {
    pub version: String,
    pub pid: u32,
    pub workers: usize,
    /// Interfaces towards the world that the daemon forwards over.
    pub uplinks: Vec<String>,
    pub state_dir: PathBuf,
    pub run_dir: PathBuf,
    pub port_kind: PortKind,
    /// Whether new networks have IPv6 unless told otherwise.
    pub ipv6: bool,
    /// Whether this kernel has IPv6 at all.
    pub kernel_ipv6: bool,
    pub networks: usize,
    pub containers: usize,
    pub connections: usize,
    pub engine: Engine,
}

/// What carries a container's frames to the switch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum PortKind {
    /// A TAP device that lives in the container's namespace; needs /dev/net/tun.
    Tap,
    /// A veth pair whose host end the switch reads with AF_PACKET.
    Veth,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct CreateNetwork {
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
    /// Whether containers get IPv6 addresses. When absent, as [`Info::ipv6`] says, or because
    /// `subnets` names one.
    #[serde(default)]
    pub ipv6: Option<bool>,
    /// The uplink's when absent.
    #[serde(default)]
    pub mtu: Option<u32>,
    #[serde(default)]
    pub options: NetworkOptions,
}

/// What sets a network apart from the ordinary; nothing does when all is default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct NetworkOptions {
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
    pub labels: BTreeMap<String, String>,
    /// Lower the segment size that TCP announces to and from the world to what fits the uplink.
    pub mss_clamp: bool,
    pub bridge: BridgeOptions,
    /// Asked for names that are no container's, instead of the daemon's servers; what a container
    /// names itself comes first.
    pub dns: Vec<IpAddr>,
    /// Domains in which short names are tried by containers that name none; the host's when absent.
    pub dns_search: Option<Vec<String>>,
}

impl NetworkOptions {
    /// Whether what leaves gets an address of the host.
    pub(crate) fn masquerades(&self) -> bool {
        !self.internal && !self.routed
    }

    /// The address chosen for what leaves from `source`.
    pub(crate) fn masquerade_to(&self, source: IpNet) -> Option<IpAddr> {
        let mut chosen = self.masquerade_to.iter().copied();
        chosen.find(|to| to.is_ipv4() == source.addr().is_ipv4())
    }
}

#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct Network {
    pub id: String,
    pub name: String,
    /// Those of IPv4 first.
    pub subnets: Vec<IpNet>,
    /// One for each subnet, in the same order.
    pub gateways: Vec<IpAddr>,
    pub gateway_mac: String,
    /// The host's interface on this network.
    pub host_interface: String,
    pub mtu: u32,
    pub created: u64,
    pub options: NetworkOptions,
    pub containers: Vec<String>,
}

/// What the new container shares or gets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Mode {
    /// An interface on the named network (`bridge` is one).
    Network(String),
    /// The host's own namespace: no endpoint, no published ports.
    Host,
    /// A namespace of its own with loopback only.
    None,
    /// The namespace of another container.
    Container(String),
}

/// The namespace to attach, as the client sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Target {
    /// The namespace of a process; the container ends when the process does.
    Pid(u32),
    /// A namespace bound to a path, as `ip netns` and the engines make them.
    Netns(PathBuf),
}

#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Attach {
    /// Made up when absent.
    #[serde(default)]
    pub name: Option<String>,
    pub mode: Mode,
    pub target: Target,
    #[serde(default)]
    pub port_kind: Option<PortKind>,
    /// Addresses to have, in subnets of the network; one is chosen for each family of the network
    /// that none is named of.
    #[serde(default)]
    pub ips: Vec<IpAddr>,
    #[serde(default)]
    pub mac: Option<String>,
    /// `eth0` when absent.
    #[serde(default)]
    pub interface: Option<String>,
    /// Further names of the container on the network.
    #[serde(default)]
    pub aliases: Vec<String>,
    /// As in [`Connect`].
    #[serde(default)]
    pub gateway_priority: i32,
    /// On the first network.
    #[serde(default)]
    pub limits: Limits,
    /// Further networks, with [`Mode::Network`] alone.
    #[serde(default)]
    pub also: Vec<Connect>,
    #[serde(default)]
    pub publish: Vec<PortMapping>,
    #[serde(default)]
    pub names: NameSettings,
    /// Told by `ps`; the command that runs in the container.
    #[serde(default)]
    pub command: Vec<String>,
    /// Forget the container when its process ends (`run --rm` and every `attach`). Otherwise `ps
    /// --all` keeps telling of it until it is removed.
    #[serde(default)]
    pub remove_on_exit: bool,
    /// The target is a `pontoon run`, which passes signals on to the command and tells how it
    /// ended.
    #[serde(default)]
    pub supervised: bool,
}

/// A network that a container is to have an endpoint on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Connect {
    pub network: String,
    #[serde(default)]
    pub port_kind: Option<PortKind>,
    /// As in [`Attach`].
    #[serde(default)]
    pub ips: Vec<IpAddr>,
    #[serde(default)]
    pub mac: Option<String>,
    /// The first of `eth0`, `eth1`, … that is free when absent.
    #[serde(default)]
    pub interface: Option<String>,
    /// Further names of the container on this network.
    #[serde(default)]
    pub aliases: Vec<String>,
    /// Of a container's networks, the one with the highest priority that has a way out gives it its
    /// default route, and its published ports lead there; of equal ones, the first connected. Each
    /// address family is decided by itself.
    #[serde(default)]
    pub gateway_priority: i32,
    #[serde(default)]
    pub limits: Limits,
}

/// What a container is called by itself, and whom it asks for names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
// The store of an earlier version may have fields that are no more.
#[serde(default)]
pub(crate) struct NameSettings {
    /// Its name when absent.
    pub hostname: Option<String>,
    /// Asked for names that are no container's, instead of the host's servers.
    pub servers: Vec<IpAddr>,
    /// Domains in which short names are tried; the host's when absent.
    pub search: Option<Vec<String>>,
    /// Further lines of its /etc/hosts.
    pub hosts: Vec<HostEntry>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct HostEntry {
    pub name: String,
    /// The gateway when absent, where the host is reached.
    #[serde(default)]
    pub address: Option<IpAddr>,
}

#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema,
)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Protocol {
    Tcp,
    Udp,
    /// To the container's port of the same number, as its checksum covers the ports; from the wire
    /// and from containers, not from the host itself.
    Sctp,
}

/// `[[hostip:][hostport[-end]]:]port[-end][/tcp|udp|sctp][,allow=NETWORK]…`, one rule however many ports.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct PortMapping {
    pub protocol: Protocol,
    /// Every address of the host when absent; every one of its family when unspecified (`0.0.0.0`,
    /// `::`).
    #[serde(default)]
    pub host_ip: Option<IpAddr>,
    /// 0 in a request: free ones, in a row, are chosen and kept from then on; the answer names them.
    pub host_port: u16,
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
pub(crate) struct PublishedPort {
    pub mapping: PortMapping,
    /// The container's addresses that are reached by it, one a family.
    pub to: Vec<IpAddr>,
    pub traffic: PortTraffic,
}

/// What came and went by a published port since it was published, or since the daemon started:
/// counts that only grow, but for the active ones.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, ToSchema)]
pub(crate) struct PortTraffic {
    /// From the wire and from containers; of UDP, as many as there were sources.
    pub connections: u64,
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
pub(crate) struct RelayedTraffic {
    pub connections: u64,
    pub active: u64,
    /// Of payload, to the container and from it.
    pub bytes: [u64; 2],
    /// Connections and datagrams of those who are not on the port's list.
    pub refused: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct Endpoint {
    pub network: String,
    pub interface: String,
    pub mac: String,
    /// Those of IPv4 first.
    pub addresses: Vec<IpNet>,
    pub gateways: Vec<IpAddr>,
    pub gateway_priority: i32,
    /// Those of `gateways` that the container's default routes lead to.
    pub default_routes: Vec<IpAddr>,
    pub aliases: Vec<String>,
    pub port_kind: PortKind,
    /// The switch port, as `fdb` names it.
    pub port: u32,
    /// Index of `interface` in the container's namespace; the host's end has it as its `iflink`.
    pub ifindex: u32,
    /// The host's end of the veth pair; a TAP has none.
    pub host_interface: Option<String>,
    /// Its index on the host; the container's end has it as its `iflink`.
    pub host_ifindex: Option<u32>,
    #[serde(default)]
    pub limits: Limits,
    /// Until the daemon ends.
    #[serde(default, skip_serializing_if = "Faults::is_none")]
    pub faults: Faults,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Status {
    Running,
    Exited,
}

#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct Container {
    pub id: String,
    pub name: String,
    pub mode: Mode,
    pub target: Target,
    pub command: Vec<String>,
    pub created: u64,
    pub status: Status,
    /// As a shell tells it: 128 + N for signal N. Absent while it runs, and where nobody could tell.
    #[serde(default)]
    pub exit_code: Option<u8>,
    pub endpoints: Vec<Endpoint>,
    pub published: Vec<PortMapping>,
    pub names: NameSettings,
    /// Where it asks for names: 127.0.0.11, or its gateways if port 53 of that is taken; nowhere
    /// without a network.
    pub resolvers: Vec<IpAddr>,
    /// Until the daemon ends.
    #[serde(default, skip_serializing_if = "Partition::is_none")]
    pub partition: Partition,
    pub remove_on_exit: bool,
    /// Running containers that share its namespace (`--net container:NAME`). The namespace lives on
    /// with the last process in it, but the network goes with the container whose it is.
    #[serde(default)]
    pub joined: Vec<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Kill {
    /// `TERM`, `SIGTERM` or 15.
    pub signal: String,
}

/// What the supervisor of a container's command says in the end.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Exited {
    /// As [`Container::exit_code`].
    pub exit_code: u8,
}

/// How a container ended.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct Exit {
    pub id: String,
    pub name: String,
    /// As [`Container::exit_code`].
    pub exit_code: Option<u8>,
}

/// Something that happened. Which of the optional fields are there depends on what it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct Event {
    /// Counts from 0 in each life of the daemon.
    pub seq: u64,
    /// Milliseconds since 1970.
    pub time: u64,
    pub kind: EventKind,
    pub action: EventAction,
    /// Of the container, network or host interface.
    #[serde(default)]
    pub name: String,
    /// Of the container or network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// That an endpoint is on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<String>,
    /// Of an endpoint; the gateways of a network.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<IpAddr>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<PortMapping>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<u8>,
    /// For people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// How many events this reader was too slow for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum EventKind {
    Network,
    Container,
    /// A container on a network.
    Endpoint,
    /// A published port.
    Port,
    /// An interface of the host that pontoon uses.
    Interface,
    /// The stream of events itself.
    Stream,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum EventAction {
    Created,
    /// A daemon has taken it over from the one before.
    Adopted,
    Removed,
    Ended,
    Connected,
    Disconnected,
    Published,
    Withdrawn,
    Changed,
    /// Somebody had removed it; it is made anew.
    Restored,
    /// A daemon could not take it over; of the stream, events that a reader was too slow for.
    Lost,
}

impl std::fmt::Display for EventKind {
    /// As in JSON.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.serialize(f)
    }
}

impl std::fmt::Display for EventAction {
    /// As in JSON.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.serialize(f)
    }
}

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
}

#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct DropCounter {
    pub reason: String,
    pub explanation: String,
    pub frames: u64,
}
