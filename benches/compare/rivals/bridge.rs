//! The kernel's bridge with two veth pairs.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::{CONTAINER, FRESH, GATEWAY, NEIGHBOUR, Topology};
use crate::lab::Namespace;

pub(crate) const ABOUT: &str = "the kernel's bridge, veth pairs";

pub(crate) fn build() -> Result<Topology> {
    let mut topology = Topology::new()?;
    make_bridge(&topology.host)?;
    let Topology {
        container, peer, ..
    } = &topology;
    connect(&topology.host, container, "container", CONTAINER)?;
    connect(&topology.host, peer, "peer", NEIGHBOUR)?;
    topology.lead_across(NEIGHBOUR);
    Ok(topology)
}

/// A bridge `br0` with the gateway's address.
pub(super) fn make_bridge(host: &Namespace) -> Result<()> {
    host.ip(&format!(
        "link add br0 type bridge\naddr add {GATEWAY}/24 dev br0\nlink set br0 up\n"
    ))
}

/// Connects a namespace to `br0`: `ip` on the host's side, and `ip` inside.
pub(super) fn connect(
    host: &Namespace,
    inside: &Namespace,
    label: &str,
    address: Ipv4Addr,
) -> Result<()> {
    host.ip(&format!(
        "link add {label} type veth peer name eth0 netns {}\nlink set {label} master br0 up\n",
        inside.name()
    ))?;
    configure(inside, address)
}

/// Address, link and default route of a container.
pub(super) fn configure(inside: &Namespace, address: Ipv4Addr) -> Result<()> {
    inside.ip(&format!(
        "addr add {address}/24 dev eth0\nlink set eth0 up\nroute add default via {GATEWAY}\n"
    ))
}

/// The least that a tool of the kernel's bridge does: two runs of `ip -batch`.
pub(super) fn attach(topology: &Topology, fresh: &Namespace) -> Result<Duration> {
    let start = Instant::now();
    connect(&topology.host, fresh, "fresh", FRESH)?;
    let took = start.elapsed();
    topology.host.ip("link del fresh\n")?;
    Ok(took)
}
