//! Containers and their endpoints.

use std::net::IpAddr;
use std::path::PathBuf;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Faults, Limits, NameServer, Partition, PortKind, PortMapping};

/// What the new container shares or gets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// An interface on the named network (`bridge` is one).
    Network(String),
    /// The host's own namespace: no endpoint, no published ports.
    Host,
    /// A namespace of its own with loopback only.
    None,
    /// The namespace of another container.
    Container(String),
}

/// The namespace to attach. A process is named by its number in the PID namespace of the client
/// in a request, and by that in the daemon's in an answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Target {
    /// The namespace of a process; the container ends when the process does.
    Pid(u32),
    /// A namespace bound to a path, as `ip netns` and the engines make them.
    Netns(PathBuf),
}

/// The body of `POST /v1/containers`: a namespace, and the network that it is to have.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Attach {
    /// Made up when absent.
    #[serde(default)]
    pub name: Option<String>,
    /// What it shares or gets.
    pub mode: Mode,
    /// The namespace.
    pub target: Target,
    /// Kind of its interface; the daemon's default when absent.
    #[serde(default)]
    pub port_kind: Option<PortKind>,
    /// Addresses to have, in subnets of the network; one is chosen for each family of the network
    /// that none is named of.
    #[serde(default)]
    pub ips: Vec<IpAddr>,
    /// MAC address; generated when absent.
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
    /// Ports to publish.
    #[serde(default)]
    pub publish: Vec<PortMapping>,
    /// Hostname, name servers and hosts.
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
    /// The command's process: a child of the target, by its number in the PID namespace of the
    /// client.
    #[serde(default)]
    pub process: Option<u32>,
}

/// A network that a container is to have an endpoint on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Connect {
    /// Name, id or an unambiguous beginning of the id.
    pub network: String,
    /// Kind of the interface; the daemon's default when absent.
    #[serde(default)]
    pub port_kind: Option<PortKind>,
    /// As in [`Attach`].
    #[serde(default)]
    pub ips: Vec<IpAddr>,
    /// MAC address; generated when absent.
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
    /// Limits of the endpoint.
    #[serde(default)]
    pub limits: Limits,
}

/// What a container is called by itself, and whom it asks for names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
// The store of an earlier version may have fields that are no more.
#[serde(default)]
pub struct NameSettings {
    /// Its name when absent.
    pub hostname: Option<String>,
    /// Asked for names that are no container's, instead of the host's servers.
    pub servers: Vec<NameServer>,
    /// Domains in which short names are tried; the host's when absent.
    pub search: Option<Vec<String>>,
    /// Further lines of its /etc/hosts.
    pub hosts: Vec<HostEntry>,
}

/// A line of /etc/hosts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct HostEntry {
    /// The name that the address gets.
    pub name: String,
    /// The gateway when absent, where the host is reached.
    #[serde(default)]
    pub address: Option<IpAddr>,
}

/// A container's interface on a network.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Endpoint {
    /// Name of the network.
    pub network: String,
    /// Name of the interface in the container's namespace.
    pub interface: String,
    /// MAC address, as `02:42:ac:11:00:02`.
    pub mac: String,
    /// Those of IPv4 first.
    pub addresses: Vec<IpNet>,
    /// The network's gateways, one for each of the families of `addresses`.
    pub gateways: Vec<IpAddr>,
    /// As in [`Connect`].
    pub gateway_priority: i32,
    /// Those of `gateways` that the container's default routes lead to.
    pub default_routes: Vec<IpAddr>,
    /// Further names of the container on the network.
    pub aliases: Vec<String>,
    /// Kind of the interface.
    pub port_kind: PortKind,
    /// The switch port, as `fdb` names it.
    pub port: u32,
    /// Index of `interface` in the container's namespace; the host's end has it as its `iflink`.
    pub ifindex: u32,
    /// The host's end of the veth pair; a TAP has none.
    pub host_interface: Option<String>,
    /// Its index on the host; the container's end has it as its `iflink`.
    pub host_ifindex: Option<u32>,
    /// Limits of what passes.
    #[serde(default)]
    pub limits: Limits,
    /// Until the daemon ends.
    #[serde(default, skip_serializing_if = "Faults::is_none")]
    pub faults: Faults,
}

/// Whether a container runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Its target lives.
    Running,
    /// Its process has ended; it is kept until it is removed.
    Exited,
}

/// A namespace whose network is by pontoon.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Container {
    /// 64 hex digits.
    pub id: String,
    /// Unique among containers.
    pub name: String,
    /// What it shares or has got.
    pub mode: Mode,
    /// Its namespace.
    pub target: Target,
    /// Inode of its network namespace: what the target leads to must have it, or is another one.
    #[serde(default)]
    pub netns: u64,
    /// The command that runs in it; empty for one that was attached.
    pub command: Vec<String>,
    /// Seconds since 1970.
    pub created: u64,
    /// Whether it runs.
    pub status: Status,
    /// As a shell tells it: 128 + N for signal N. Absent while it runs, and where nobody could tell.
    #[serde(default)]
    pub exit_code: Option<u8>,
    /// Its interfaces, in the order in which they were connected.
    pub endpoints: Vec<Endpoint>,
    /// Its published ports.
    pub published: Vec<PortMapping>,
    /// What it publishes as soon as it can be had: the address is not there, or another process has
    /// the port.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pending: Vec<PortMapping>,
    /// Hostname, name servers and hosts.
    pub names: NameSettings,
    /// Where it asks for names: 127.0.0.11, or its gateways if port 53 of that is taken; nowhere
    /// without a network.
    pub resolvers: Vec<IpAddr>,
    /// Until the daemon ends.
    #[serde(default, skip_serializing_if = "Partition::is_none")]
    pub partition: Partition,
    /// As in [`Attach`].
    pub remove_on_exit: bool,
    /// Running containers that share its namespace (`--net container:NAME`). The namespace lives on
    /// with the last process in it, but the network goes with the container whose it is.
    #[serde(default)]
    pub joined: Vec<String>,
}

/// The body of `POST /v1/containers/{name}/kill`.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Kill {
    /// `TERM`, `SIGTERM` or 15.
    pub signal: String,
}

/// What the supervisor of a container's command says in the end.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Exited {
    /// As [`Container::exit_code`].
    pub exit_code: u8,
}

/// How a container ended.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Exit {
    /// Id of the container.
    pub id: String,
    /// Name of the container.
    pub name: String,
    /// As [`Container::exit_code`].
    pub exit_code: Option<u8>,
}
