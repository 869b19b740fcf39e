//! Docker's userland proxy, which serves loopback where Docker publishes: one process a port.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::{CONTAINER, FIRST_PORT, Form, Need, Topology, last_port, netfilter};
use crate::SERVICE;

pub(crate) const ABOUT: &str = "Docker's userland proxy before a kernel bridge, one process a port";
pub(crate) const NEEDS: &[Need] = &[("docker-proxy", "docker.io")];

/// More processes than this are not started.
const MOST_PROCESSES: u16 = 400;

pub(crate) fn build() -> Result<Topology> {
    let mut topology = netfilter::routed()?;
    for port in [SERVICE, SERVICE + 1] {
        start(&mut topology, port)?;
    }
    let host = topology.host.clone();
    wait(&mut topology, &host, SERVICE)?;
    wait(&mut topology, &host, SERVICE + 1)?;
    topology.lead_published();
    topology.lead_loopback();
    Ok(topology)
}

fn start(topology: &mut Topology, port: u16) -> Result<()> {
    let port = port.to_string();
    let container = CONTAINER.to_string();
    let host = topology.host.clone();
    // It tells the engine on file descriptor 3 that it is ready, whatever that is, and closes it.
    let arguments = [
        "-c",
        "exec docker-proxy \"$@\" 3>/dev/null",
        "docker-proxy",
        "-proto",
        "tcp",
        "-host-ip",
        "0.0.0.0",
        "-host-port",
        &port,
        "-container-ip",
        &container,
        "-container-port",
        &port,
    ];
    topology.lab.start(&host, "sh", &arguments)?;
    Ok(())
}

fn wait(topology: &mut Topology, host: &crate::lab::Namespace, port: u16) -> Result<()> {
    topology
        .lab
        .last_program()?
        .wait_until("listening", || host.listens(port))
}

/// All are started at once, and the time ends when all listen: kinder than Docker, which starts
/// one after another.
pub(crate) fn publish(topology: &mut Topology, count: u16, form: Form) -> Result<Option<Duration>> {
    if form == Form::Range {
        return Ok(None);
    }
    if count > MOST_PROCESSES {
        bail!("not run: {count} processes; see {MOST_PROCESSES}");
    }
    let before = topology.lab.program_count();
    let host = topology.host.clone();
    let start_time = Instant::now();
    let started = (FIRST_PORT..=last_port(count)).try_for_each(|port| start(topology, port));
    let listening = started.and_then(|()| {
        (FIRST_PORT..=last_port(count))
            .rev()
            .try_for_each(|port| wait(topology, &host, port))
    });
    let took = start_time.elapsed();
    topology.lab.stop_after(before);
    listening.map(|()| Some(took))
}
