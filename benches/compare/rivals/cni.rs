//! The control plane of CNI's reference plugins: `bridge` attaches, `portmap` publishes.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::{FIRST_PORT, Form, Need, Topology};
use crate::lab::Namespace;
use crate::process::run_with;

pub(crate) const ABOUT: &str =
    "CNI's plugins bridge (to attach) and portmap (to publish, iptables)";
const BRIDGE: &str = "/usr/lib/cni/bridge";
const PORTMAP: &str = "/usr/lib/cni/portmap";

pub(crate) const NEEDS: &[Need] = &[
    // Whole paths: iproute2 has a program `bridge` too.
    (BRIDGE, "containernetworking-plugins"),
    (PORTMAP, "containernetworking-plugins"),
    ("iptables", "iptables"),
];

pub(crate) fn build() -> Result<Topology> {
    // Frames take the kernel's path, which `iptables` measures: there is nothing to serve here.
    Topology::with_outside()
}

fn plugin(
    topology: &Topology,
    inside: &Namespace,
    command: &str,
    file: &str,
    configuration: &Value,
) -> Result<String> {
    let mut plugin = topology.host.command(file);
    plugin.env("CNI_COMMAND", command);
    plugin.env("CNI_CONTAINERID", "fresh");
    plugin.env("CNI_IFNAME", "eth0");
    plugin.env("CNI_NETNS", inside.path());
    plugin.env("CNI_PATH", "/usr/lib/cni");
    let input = configuration.to_string();
    let limit = Duration::from_secs(120);
    Ok(run_with(&mut plugin, input.as_bytes(), limit)?.stdout)
}

fn bridge_configuration(topology: &Topology) -> Value {
    json!({
        "cniVersion": "0.4.0", "name": "compare", "type": "bridge", "bridge": "cni0",
        "isGateway": true, "ipMasq": true,
        "ipam": {
            "type": "host-local", "subnet": "10.91.0.0/24", "routes": [{"dst": "0.0.0.0/0"}],
            "dataDir": topology.lab.file("ipam"),
        },
    })
}

pub(super) fn attach(topology: &Topology, fresh: &Namespace) -> Result<Duration> {
    let configuration = bridge_configuration(topology);
    let start = Instant::now();
    plugin(topology, fresh, "ADD", BRIDGE, &configuration)?;
    let took = start.elapsed();
    plugin(topology, fresh, "DEL", BRIDGE, &configuration)?;
    Ok(took)
}

pub(super) fn publish(topology: &mut Topology, count: u16, form: Form) -> Result<Option<Duration>> {
    if form == Form::Range {
        return Ok(None);
    }
    if count > 400 {
        bail!("not run: {count} ports through portmap take minutes; see 400");
    }
    let fresh = topology.lab.namespace("fresh")?;
    let took = publish_on(topology, &fresh, count);
    topology.lab.remove(&fresh);
    took.map(Some)
}

fn publish_on(topology: &Topology, fresh: &Namespace, count: u16) -> Result<Duration> {
    let bridge = bridge_configuration(topology);
    let attached = plugin(topology, fresh, "ADD", BRIDGE, &bridge)?;
    let result: Value = serde_json::from_str(&attached).context("parse the plugin's result")?;
    let mappings: Vec<Value> = (FIRST_PORT..)
        .take(count.into())
        .map(|port| json!({"hostPort": port, "containerPort": port, "protocol": "tcp"}))
        .collect();
    let portmap = json!({
        "cniVersion": "0.4.0", "name": "compare", "type": "portmap",
        "capabilities": {"portMappings": true},
        "runtimeConfig": {"portMappings": mappings}, "prevResult": result,
    });
    let start = Instant::now();
    let published = plugin(topology, fresh, "ADD", PORTMAP, &portmap);
    let took = start.elapsed();
    plugin(topology, fresh, "DEL", PORTMAP, &portmap)?;
    plugin(topology, fresh, "DEL", BRIDGE, &bridge)?;
    published.map(|_| took)
}
