//! Open vSwitch in userspace, with a database and a daemon of its own: the system's service is
//! neither asked nor touched.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::{CONTAINER, FRESH, NEIGHBOUR, Need, Topology, bridge};
use crate::lab::Namespace;
use crate::process::{find, run};

pub(crate) const ABOUT: &str =
    "Open vSwitch, datapath_type=netdev, userspace-tso-enable=true, veth pairs";
pub(crate) const NEEDS: &[Need] = &[
    ("ovs-vswitchd", "openvswitch-switch"),
    ("ovsdb-server", "openvswitch-common"),
    ("ovsdb-tool", "openvswitch-common"),
    ("ovs-vsctl", "openvswitch-switch"),
];

const SCHEMA: &str = "/usr/share/openvswitch/vswitch.ovsschema";

pub(crate) fn build() -> Result<Topology> {
    let mut topology = Topology::new()?;
    let host = topology.host.clone();
    let directory = topology.lab.directory().to_owned();
    let (database, socket) = (topology.lab.file("conf.db"), directory.join("db.sock"));
    run(Command::new("ovsdb-tool").args(["create", &database, SCHEMA]))?;
    let environment: [(&str, &Path); 4] = [
        ("OVS_RUNDIR", &directory),
        ("OVS_LOGDIR", &directory),
        ("OVS_DBDIR", &directory),
        ("OVS_SYSCONFDIR", &directory),
    ];
    let remote = format!("--remote=punix:{}", socket.display());
    let control = format!("--unixctl={}", topology.lab.file("ovsdb.ctl"));
    let program = find("ovsdb-server").context("ovsdb-server is not installed")?;
    let server = topology.lab.start_with(
        &host,
        program,
        &[&remote, &control, &database],
        &environment,
    )?;
    server.wait_until("ready", || socket.exists())?;
    vsctl(&topology, &["--no-wait", "init"])?;
    // Read when the daemon starts, and not later.
    let tso = "other_config:userspace-tso-enable=true";
    vsctl(&topology, &["--no-wait", "set", "Open_vSwitch", ".", tso])?;
    let remote = format!("unix:{}", socket.display());
    let control = topology.lab.file("vswitchd.ctl");
    let option = format!("--unixctl={control}");
    let program = find("ovs-vswitchd").context("ovs-vswitchd is not installed")?;
    let daemon = topology
        .lab
        .start_with(&host, program, &[&remote, &option], &environment)?;
    daemon.wait_until("ready", || Path::new(&control).exists())?;
    vsctl(
        &topology,
        &[
            "add-br",
            "br0",
            "--",
            "set",
            "bridge",
            "br0",
            "datapath_type=netdev",
        ],
    )?;
    connect(&topology, &topology.container, "container", CONTAINER)?;
    connect(&topology, &topology.peer, "peer", NEIGHBOUR)?;
    topology.lead_across(NEIGHBOUR);
    Ok(topology)
}

fn vsctl(topology: &Topology, arguments: &[&str]) -> Result<()> {
    let database = format!("--db=unix:{}", topology.lab.file("db.sock"));
    let mut command = topology.host.command("ovs-vsctl");
    run(command.args(["--timeout=20", &database]).args(arguments))?;
    Ok(())
}

fn connect(
    topology: &Topology,
    inside: &Namespace,
    label: &str,
    address: std::net::Ipv4Addr,
) -> Result<()> {
    topology.host.ip(&format!(
        "link add {label} type veth peer name eth0 netns {}\nlink set {label} up\n",
        inside.name()
    ))?;
    vsctl(topology, &["add-port", "br0", label])?;
    bridge::configure(inside, address)
}

pub(super) fn attach(topology: &Topology, fresh: &Namespace) -> Result<Duration> {
    let start = Instant::now();
    connect(topology, fresh, "fresh", FRESH)?;
    let took = start.elapsed();
    vsctl(topology, &["del-port", "br0", "fresh"])?;
    topology.host.ip("link del fresh\n")?;
    Ok(took)
}
