//! pasta, with its default MTU of 65520: its best case. Ports are given when it starts.

use std::time::{Duration, Instant};

use anyhow::Result;

use super::{FIRST_PORT, Form, Need, OUTSIDE, Topology, last_port};
use crate::SERVICE;
use crate::lab::Namespace;

pub(crate) const ABOUT: &str =
    "pasta (passt), MTU 65520; publishing is starting it with the ports, as it can't add any";
pub(crate) const NEEDS: &[Need] = &[("pasta", "passt")];

pub(crate) fn build() -> Result<Topology> {
    let mut topology = Topology::with_outside()?;
    let container = topology.container.clone();
    let ports = format!("{SERVICE}-{}", SERVICE + 1);
    start(&mut topology, &container, &ports)?;
    let host = topology.host.clone();
    let program = topology.lab.last_program()?;
    program.wait_until("listening", || host.listens(SERVICE + 1))?;
    topology.lead_across(OUTSIDE);
    topology.lead_published();
    topology.lead_loopback();
    Ok(topology)
}

fn start(topology: &mut Topology, inside: &Namespace, ports: &str) -> Result<()> {
    let host = topology.host.clone();
    let path = inside.path();
    let path = path.to_string_lossy();
    // As root it would become "nobody", who may not enter a namespace of root's.
    let arguments = [
        "--foreground",
        "--stderr",
        "--quiet",
        "--runas",
        "0",
        "--config-net",
        "--ipv4-only",
        "--netns-only",
        // Else the peer, as the host's gateway, would stand for the host itself.
        "--no-map-gw",
        "-t",
        ports,
        "-u",
        "none",
        "-T",
        "none",
        "-U",
        "none",
        "--netns",
        &path,
    ];
    let program = topology.lab.start(&host, "pasta", &arguments)?;
    program.wait_until("ready", || inside.has_default_route())
}

pub(super) fn attach(topology: &mut Topology, fresh: &Namespace) -> Result<Duration> {
    timed_start(topology, fresh, "none", None)
}

fn timed_start(
    topology: &mut Topology,
    inside: &Namespace,
    ports: &str,
    last: Option<u16>,
) -> Result<Duration> {
    let before = topology.lab.program_count();
    let host = topology.host.clone();
    let start_time = Instant::now();
    let mut started = start(topology, inside, ports);
    if let (Ok(()), Some(last)) = (&started, last) {
        let program = topology.lab.last_program()?;
        started = program.wait_until("listening", || host.listens(last));
    }
    let took = start_time.elapsed();
    topology.lab.stop_after(before);
    started.map(|()| took)
}

pub(super) fn publish(topology: &mut Topology, count: u16, form: Form) -> Result<Option<Duration>> {
    if form == Form::Singles && count > 1 {
        return Ok(None);
    }
    let last = last_port(count);
    let fresh = topology.lab.namespace("fresh")?;
    let took = timed_start(
        topology,
        &fresh,
        &format!("{FIRST_PORT}-{last}"),
        Some(last),
    );
    topology.lab.remove(&fresh);
    took.map(Some)
}
