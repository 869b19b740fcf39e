//! pontoon's HTTP API as a library: its types, what people type for them, and a client.
//!
//! The daemon answers with these types and the command line asks with them; a plugin or any other
//! program can too. Nothing of the switch, the NAT engine or the daemon comes along.
//!
//! | module | content |
//! |---|---|
//! | the root | the JSON bodies, and [`ErrorCode`], the kinds of failure |
//! | [`client`] | one request to the daemon over its Unix socket, events |
//! | [`spec`] | what people type: `-p 8080:80`, `--net container:web`, MAC addresses |
//! | [`rate`] | how they write rates, sizes and chances: `100mbit`, `64kb`, `0.1%` |
//!
//! ```no_run
//! use std::path::Path;
//!
//! use pontoon_api::PortMapping;
//! use pontoon_api::client::Client;
//!
//! let client = Client::new(Path::new("/run/pontoon/pontoon.sock"))?;
//! for container in client.containers()? {
//!     for endpoint in &container.endpoints {
//!         println!("{} {} {:?}", container.name, endpoint.network, endpoint.addresses);
//!     }
//! }
//! let port: PortMapping = "127.0.0.1:8080:80/tcp".parse()?;
//! let container = client.publish("web", &[port])?;
//! assert!(container.published.iter().any(|port| port.host_port == 8080));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! `examples/addresses.rs` is a program that keeps up with which container has which address, as a
//! plugin for a DNS server or a proxy does.
//!
//! # The API
//!
//! HTTP/1.1 with JSON bodies over a Unix socket, everything under `/v1`. The daemon
//! itself serves all of what follows as an OpenAPI document, made from these types and their
//! comments:
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
//! something. A failure answers with a 4xx or 5xx status, which is an [`ErrorCode`], and an
//! [`ErrorBody`]. Containers and networks are named by name, by id or by an unambiguous beginning
//! of the id.
//!
//! Within `/v1` things are only added. What an answer has that a client does not know is for the client
//! to leave aside. What a request has that the daemon does not know is refused, for it may be what
//! the caller relies on; so a client leaves out what has its default, and a newer one works with an
//! older daemon as long as nothing new is asked for.

#![forbid(unsafe_code)]
#![warn(missing_docs)]

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub mod client;
pub mod rate;
pub mod spec;

mod bridge;
mod container;
mod engine;
mod error;
mod event;
mod limits;
mod name_server;
mod network;
mod ports;
mod traffic;

pub use bridge::{BridgeOptions, StormOptions};
pub use container::{
    Attach, Connect, Container, Endpoint, Exit, Exited, HostEntry, Kill, Mode, NameSettings,
    Status, Target,
};
pub use engine::{Engine, Privileges};
pub use error::{ErrorBody, ErrorCode};
pub use event::{Event, EventAction, EventKind};
pub use limits::{Fault, Faults, Limit, Limits, Partition, SetFaults, SetLimits, SetPartition};
pub use name_server::NameServer;
pub use network::{CreateNetwork, Network, NetworkOptions};
pub use ports::{PortMapping, PortTraffic, Protocol, PublishedPort, RelayedTraffic};
pub use traffic::{
    Connection, ConnectionFilter, Counters, DropCounter, FdbEntry, Flow, Flushed, MasqueradeRule,
    NatRules, PortCounters, PublishRule,
};

/// The daemon: what it was started with, and how much it holds.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Info {
    /// Version of the daemon.
    pub version: String,
    /// The daemon's process, by its number in its own PID namespace.
    pub pid: u32,
    /// Threads that forward frames.
    pub workers: usize,
    /// Interfaces towards the world that the daemon forwards over.
    pub uplinks: Vec<String>,
    /// Directory of the store.
    pub state_dir: PathBuf,
    /// Directory of the socket and of the record of connections.
    pub run_dir: PathBuf,
    /// Kind of interface of new containers that ask for none.
    pub port_kind: PortKind,
    /// What keeps the host's kernel from answering packets that are for containers.
    pub host_silence: HostSilenceKind,
    /// Whether new networks have IPv6 unless told otherwise.
    pub ipv6: bool,
    /// Whether this kernel has IPv6 at all.
    pub kernel_ipv6: bool,
    /// How many networks there are.
    pub networks: usize,
    /// How many containers there are, those that have ended included.
    pub containers: usize,
    /// How many entries the connection table has.
    pub connections: usize,
    /// Settings of the NAT engine.
    pub engine: Engine,
    /// What the daemon may still do.
    pub privileges: Privileges,
}

/// What keeps the host's kernel from answering packets that are for containers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum HostSilenceKind {
    /// A classifier at the tc ingress of every uplink, which the host's firewall is behind.
    Tc,
    /// A socket for each port, behind the host's firewall.
    #[default]
    Sockets,
}

/// What carries a container's frames to the switch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum PortKind {
    /// A TAP device that lives in the container's namespace; needs /dev/net/tun.
    Tap,
    /// A veth pair whose host end the switch reads with AF_PACKET.
    Veth,
}

impl PortKind {
    /// Every kind there is.
    pub const ALL: [PortKind; 2] = [PortKind::Tap, PortKind::Veth];

    /// The name that JSON and the command line have for it.
    pub fn name(self) -> &'static str {
        match self {
            PortKind::Tap => "tap",
            PortKind::Veth => "veth",
        }
    }
}
