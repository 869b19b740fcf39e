//! pontoon: its daemon on the host, its command for everything else.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use super::{FIRST_PORT, Form, Group, OUTSIDE, Topology, last_port};
use crate::SERVICE;
use crate::lab::Namespace;
use crate::memory::kilobytes;
use crate::process::{Finished, run, run_with};

/// One way to run pontoon.
#[derive(Clone, Debug)]
pub(crate) struct Flavour {
    pub(crate) name: String,
    pub(crate) group: Group,
    /// `tap` or `veth`.
    pub(crate) port_kind: &'static str,
    /// More flags of `pontoon daemon`.
    pub(crate) flags: Vec<String>,
    /// The program.
    pub(crate) binary: PathBuf,
}

impl Flavour {
    pub(crate) fn about(&self) -> String {
        let what = match self.group {
            Group::Switched => "two containers on one network",
            Group::Translated => "masquerade, published ports and relay",
        };
        let mut about = format!("pontoon, {what}, port kind {}", self.port_kind);
        if !self.flags.is_empty() {
            about.push_str(", daemon flags ");
            about.push_str(&self.flags.join(" "));
        }
        about
    }

    /// `pontoon` on the host.
    fn run(&self, topology: &Topology, arguments: &[&str]) -> Result<Finished> {
        let mut command = topology.host.command(&self.binary);
        command.env("PONTOON_SOCKET", topology.lab.file("run/pontoon.sock"));
        run_with(command.args(arguments), b"", Duration::from_secs(120))
    }

    fn attach(&self, topology: &Topology, inside: &Namespace, name: &str) -> Result<Duration> {
        let path = inside.path();
        let path = path.to_string_lossy();
        let finished = self.run(topology, &["attach", "--netns", &path, "--name", name])?;
        Ok(finished.took)
    }

    fn address(&self, topology: &Topology, name: &str) -> Result<Ipv4Addr> {
        let said = self.run(topology, &["inspect", name])?.stdout;
        let container: Value = serde_json::from_str(&said).context("parse pontoon inspect")?;
        // Of one name it may tell alone or in a list of one, as `docker inspect` does.
        let container = container.get(0).unwrap_or(&container);
        let address = container["endpoints"][0]["addresses"][0]
            .as_str()
            .unwrap_or_default();
        let address = address.split('/').next().unwrap_or_default();
        address
            .parse()
            .with_context(|| format!("no IPv4 address of {name} in {said}"))
    }
}

pub(super) fn build(flavour: &Flavour) -> Result<Topology> {
    let (mut topology, uplink) = match flavour.group {
        Group::Switched => (Topology::new()?, "none"),
        Group::Translated => (Topology::with_outside()?, "auto"),
    };
    let host = topology.host.clone();
    let (state, runtime) = (topology.lab.file("state"), topology.lab.file("run"));
    let mut arguments = vec![
        "daemon",
        "--state-dir",
        &state,
        "--run-dir",
        &runtime,
        "--uplink",
        uplink,
        "--port-kind",
        flavour.port_kind,
    ];
    arguments.extend(flavour.flags.iter().map(String::as_str));
    let socket = topology.lab.file("run/pontoon.sock");
    let daemon = topology.lab.start(&host, &flavour.binary, &arguments)?;
    let mut info = host.command(&flavour.binary);
    info.env("PONTOON_SOCKET", &socket).arg("info");
    daemon.wait_until("answering", || run(&mut info).is_ok())?;
    topology.daemon = Some(daemon.pid());
    flavour.attach(&topology, &topology.container, "container")?;
    topology.container_address = flavour.address(&topology, "container")?;
    match flavour.group {
        Group::Switched => {
            flavour.attach(&topology, &topology.peer, "peer")?;
            let peer = flavour.address(&topology, "peer")?;
            topology.lead_across(peer);
        }
        Group::Translated => {
            let last = SERVICE + 1;
            let ports = format!("{SERVICE}-{last}:{SERVICE}-{last}");
            flavour.run(&topology, &["publish", "container", "-p", &ports])?;
            topology.lead_across(OUTSIDE);
            topology.lead_published();
            topology.lead_loopback();
        }
    }
    Ok(topology)
}

/// What the daemon's process holds.
pub(super) fn memory(topology: &Topology) -> Result<u64> {
    let pid = topology.daemon.context("no daemon was started")?;
    kilobytes(&format!("/proc/{pid}/status"), "VmRSS")
}

pub(super) fn connections(flavour: &Flavour, topology: &Topology) -> Result<u64> {
    let said = flavour.run(topology, &["info", "--json"])?.stdout;
    let info: Value = serde_json::from_str(&said).context("parse pontoon info")?;
    info["connections"]
        .as_u64()
        .with_context(|| format!("no connections in {said}"))
}

pub(super) fn attach(
    flavour: &Flavour,
    topology: &Topology,
    fresh: &Namespace,
) -> Result<Duration> {
    let took = flavour.attach(topology, fresh, "fresh")?;
    flavour.run(topology, &["detach", "fresh"])?;
    Ok(took)
}

pub(super) fn publish(
    flavour: &Flavour,
    topology: &Topology,
    count: u16,
    form: Form,
) -> Result<Duration> {
    let specs: Vec<String> = match form {
        Form::Range => {
            let range = format!("{FIRST_PORT}-{}", last_port(count));
            vec![format!("{range}:{range}")]
        }
        Form::Singles => (FIRST_PORT..=last_port(count))
            .map(|port| format!("{port}:{port}"))
            .collect(),
    };
    let mut arguments = vec!["publish", "container"];
    for spec in &specs {
        arguments.extend(["-p", spec]);
    }
    let took = flavour.run(topology, &arguments)?.took;
    if let Some(command) = arguments.first_mut() {
        *command = "unpublish";
    }
    flavour.run(topology, &arguments)?;
    Ok(took)
}
