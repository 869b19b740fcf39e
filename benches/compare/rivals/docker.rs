//! Docker Engine's control plane, with the bridge, iptables rules and userland proxies it makes.
//!
//! It can neither attach a container nor publish a port of one that runs, so what it takes is told
//! as a difference: `docker run` on its bridge less `docker run --network none`, and `docker run`
//! with published ports less `docker run` without.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::{FIRST_PORT, Form, Need, Topology, last_port};
use crate::process::{Background, run, run_with};

pub(crate) const ABOUT: &str = "Docker Engine: `docker run` on its bridge less `docker run --network none`; with published \
     ports (one iptables rule and one userland proxy each) less without";
pub(crate) const NEEDS: &[Need] = &[
    ("dockerd", "docker.io"),
    ("docker", "docker.io"),
    ("iptables", "iptables"),
    ("nsenter", "util-linux"),
    ("busybox", "busybox-static"),
];

/// More take minutes.
const MOST_PORTS: u16 = 400;
/// Runs of each kind behind a difference of some ten milliseconds.
const TURNS: usize = 5;
/// Of one `docker run`.
const LIMIT: Duration = Duration::from_secs(180);
const IMAGE: &str = "compare";

pub(crate) fn build() -> Result<Topology> {
    let mut topology = Topology::with_outside()?;
    let host = topology.host.path();
    let netns = format!("--net={}", host.to_string_lossy());
    let file = |name: &str| topology.lab.file(name);
    let socket = format!("unix://{}", file("docker.sock"));
    let (data, exec, pid) = (file("docker"), file("exec"), file("docker.pid"));
    let arguments = [
        &netns,
        "dockerd",
        "--data-root",
        &data,
        "--exec-root",
        &exec,
        "--pidfile",
        &pid,
        "-H",
        &socket,
        "--bip",
        "10.92.0.1/16",
    ];
    let log = topology.lab.directory().join("programs.log");
    // Not `ip netns exec`, which mounts a /sys without cgroups.
    let mut dockerd = Background::start(None, "nsenter", &arguments, &[], &log)?;
    dockerd.wait_until("answering", || {
        run(docker(&topology).args(["version"])).is_ok()
    })?;
    topology.lab.keep(dockerd);
    import(&topology)?;
    // What the first container pays for once: pulling nothing, but caches.
    contained(&topology, &["--network", "none"])?;
    Ok(topology)
}

fn docker(topology: &Topology) -> Command {
    let mut command = Command::new("docker");
    let socket = topology.lab.file("docker.sock");
    command.args(["-H", &format!("unix://{socket}")]);
    command
}

/// An image of one static busybox.
fn import(topology: &Topology) -> Result<()> {
    let busybox = crate::process::find("busybox").context("find busybox")?;
    let root = topology.lab.file("rootfs");
    let script = format!(
        "mkdir -p {root}/bin && cp {} {root}/bin/busybox && ln -sf busybox {root}/bin/sleep && \
         tar -C {root} -c . | docker -H unix://{} import - {IMAGE}",
        busybox.display(),
        topology.lab.file("docker.sock")
    );
    run(Command::new("sh").args(["-ec", &script]))?;
    Ok(())
}

/// How long `docker run` takes with these arguments; the container is gone afterwards.
fn contained(topology: &Topology, arguments: &[&str]) -> Result<Duration> {
    let mut start = docker(topology);
    start.args(["run", "-d", "--name", "fresh"]);
    start.args(arguments).args([IMAGE, "sleep", "600"]);
    let started = run_with(&mut start, b"", LIMIT);
    let mut remove = docker(topology);
    run_with(remove.args(["rm", "-f", "fresh"]), b"", LIMIT)?;
    Ok(started?.took)
}

/// How much longer `docker run` takes with the one's arguments than with the other's. One run varies
/// by about as much as a small difference, so small ones are the median of several, in turns.
fn extra(topology: &Topology, with: &[&str], without: &[&str], turns: usize) -> Result<Duration> {
    let mut differences = Vec::with_capacity(turns);
    for _ in 0..turns {
        let less = contained(topology, without)?.as_secs_f64();
        differences.push(contained(topology, with)?.as_secs_f64() - less);
    }
    differences.sort_by(f64::total_cmp);
    let median = differences[turns / 2];
    if median <= 0.0 {
        bail!("lost in the spread of docker run: {differences:.3?} s");
    }
    Ok(Duration::from_secs_f64(median))
}

pub(super) fn attach(topology: &Topology) -> Result<Duration> {
    extra(topology, &[], &["--network", "none"], TURNS)
}

pub(super) fn publish(topology: &Topology, count: u16, form: Form) -> Result<Option<Duration>> {
    // To Docker a range is so many single ports.
    if count > MOST_PORTS {
        bail!("not run: {count} ports take minutes; see {MOST_PORTS}");
    }
    if form == Form::Range && count > 100 {
        return Ok(None);
    }
    let ports = format!("{FIRST_PORT}-{}", last_port(count));
    let mapping = format!("{ports}:{ports}");
    let turns = if count == 1 { TURNS } else { 1 };
    extra(topology, &["-p", &mapping], &[], turns).map(Some)
}
