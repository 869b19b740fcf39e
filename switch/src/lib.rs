//! The data path of pontoon: a learning switch with a routing, translating gateway, in user space.
//!
//! Top down, as a frame meets them:
//!
//! - [`Switch`]: the threads. Adds and removes ports, takes configurations, tells what is counted.
//! - `crew`: how many threads work, which queues each serves, and when it sleeps.
//! - [`worker`]: the work: read a vector of frames, forward each, write them out.
//! - [`datapath`]: the page that strings the stages together. Start here.
//! - [`layers`], `offload` and `segment`, `guard`, `bridge`, `gateway`: the stages. What a frame is; what it may leave to be done to it; who
//!   may speak; which port a MAC is behind; what is routed, and how it is translated (by the `nat`
//!   crate).
//! - `announce`: tells neighbours of an address that has another MAC address than before.
//! - `treatment`: what a port is held to besides, on either side of them: limits (`limit`), and
//!   faults on request (`fault`). What has to wait for it is in `delay`.
//! - [`fdb`], [`multicast`], [`neighbor`], [`topology`], `routing`: what the stages look up. Learned MACs
//!   of a network, who listens to which group, next hops beyond an uplink, the compiled configuration,
//!   and the host's routing rules and tables.
//! - [`config`]: what the control plane says, as plain data. [`port`] and [`io`]: ports, and the
//!   kernel's side of them. [`frame`], [`arp`], [`nd`], [`ipv6`], `icmp`: bytes.
//!
//! Nothing here knows what a container is called. Time is a parameter everywhere but in the
//! threads, so the same data path runs in a simulation: see [`worker::Worker::poll`].

mod announce;
pub mod arp;
mod bridge;
pub mod config;
mod crew;
pub mod datapath;
mod delay;
mod drop;
mod fault;
pub mod fdb;
pub mod frame;
mod gateway;
mod guard;
mod icmp;
mod internal;
pub mod io;
pub mod ipv6;
pub mod layers;
mod limit;
mod mtu;
pub mod multicast;
pub mod nd;
pub mod neighbor;
mod offload;
mod patience;
pub mod port;
mod rate;
mod resolver;
mod routing;
mod segment;
mod switch;
#[cfg(test)]
mod testing;
pub mod topology;
mod treatment;
pub mod worker;

pub use config::{Config, NetworkId, PortId};
pub use datapath::{Counters, Datapath, Event, FdbRow};
pub use drop::DropReason;
pub use port::PortCounters;
pub use switch::{Settings, Switch};
