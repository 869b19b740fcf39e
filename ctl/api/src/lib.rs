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
//! | `GET /v1/connections`, with a [`ConnectionFilter`] behind a `?` | → [`Connection`]s |
//! | `DELETE /v1/connections`, likewise | → how many were ended, [`Flushed`] |
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

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

mod bridge;
mod container;
mod engine;
mod event;
mod limits;
mod name_server;
mod network;
mod ports;
mod traffic;

pub(crate) use bridge::{BridgeOptions, StormOptions};
pub(crate) use container::{
    Attach, Connect, Container, Endpoint, Exit, Exited, HostEntry, Kill, Mode, NameSettings,
    Status, Target,
};
pub(crate) use engine::{Engine, Privileges};
pub(crate) use event::{Event, EventAction, EventKind};
pub(crate) use limits::{
    Fault, Faults, Limit, Limits, Partition, SetFaults, SetLimits, SetPartition,
};
pub(crate) use name_server::NameServer;
pub(crate) use network::{CreateNetwork, Network, NetworkOptions};
pub(crate) use ports::{PortMapping, PortTraffic, Protocol, PublishedPort, RelayedTraffic};
pub(crate) use traffic::{
    Connection, ConnectionFilter, Counters, DropCounter, FdbEntry, Flow, Flushed, MasqueradeRule,
    NatRules, PortCounters, PublishRule,
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
    pub host_silence: HostSilenceKind,
    /// Whether new networks have IPv6 unless told otherwise.
    pub ipv6: bool,
    /// Whether this kernel has IPv6 at all.
    pub kernel_ipv6: bool,
    pub networks: usize,
    pub containers: usize,
    pub connections: usize,
    pub engine: Engine,
    pub privileges: Privileges,
}

/// What keeps the host's kernel from answering packets that are for containers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum HostSilenceKind {
    /// A classifier at the tc ingress of every uplink, which the host's firewall is behind.
    Tc,
    /// A socket for each port, behind the host's firewall.
    #[default]
    Sockets,
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
