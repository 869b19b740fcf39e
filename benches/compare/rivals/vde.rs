//! VDE 2's switch, with a TAP in each endpoint.

use anyhow::Result;

use super::{CONTAINER, NEIGHBOUR, Need, Topology, bridge};

pub(crate) const ABOUT: &str = "VDE 2: vde_switch with two TAPs";
pub(crate) const NEEDS: &[Need] = &[("vde_switch", "vde2")];

pub(crate) fn build() -> Result<Topology> {
    let mut topology = Topology::new()?;
    let host = topology.host.clone();
    let socket = topology.lab.file("vde.sock");
    let arguments = ["-s", &socket, "-t", "tap0", "-t", "tap1"];
    let switch = topology.lab.start(&host, "vde_switch", &arguments)?;
    switch.wait_until("ready", || host.has_link("tap0") && host.has_link("tap1"))?;
    hand_over_taps(&mut topology)?;
    Ok(topology)
}

/// Gives each end one of the host's TAPs, `tap0` and `tap1`. The program that made them keeps their
/// descriptors.
pub(super) fn hand_over_taps(topology: &mut Topology) -> Result<()> {
    let ends = [
        ("tap0", &topology.container, CONTAINER),
        ("tap1", &topology.peer, NEIGHBOUR),
    ];
    for (tap, namespace, address) in ends {
        let name = namespace.name();
        let host = &topology.host;
        host.ip(&format!("link set {tap} netns {name} name eth0\n"))?;
        bridge::configure(namespace, address)?;
    }
    topology.lead_across(NEIGHBOUR);
    Ok(())
}
