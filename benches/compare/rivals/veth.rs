//! A veth pair from endpoint to endpoint: the limit.

use anyhow::Result;

use super::{CONTAINER, NEIGHBOUR, Topology};
use crate::lab::join;

pub(crate) const ABOUT: &str = "a veth pair and nothing else: the limit";

pub(crate) fn build() -> Result<Topology> {
    let mut topology = Topology::new()?;
    join((&topology.container, "eth0"), (&topology.peer, "eth0"))?;
    topology
        .container
        .ip(&format!("addr add {CONTAINER}/24 dev eth0\n"))?;
    topology
        .peer
        .ip(&format!("addr add {NEIGHBOUR}/24 dev eth0\n"))?;
    topology.lead_across(NEIGHBOUR);
    Ok(topology)
}
