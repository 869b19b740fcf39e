//! The kernel's bridge with masquerading and DNAT, by nftables and by iptables.

use std::fmt::Write;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::{CONTAINER, FIRST_PORT, Form, Need, Topology, bridge, last_port};
use crate::SERVICE;
use crate::process::{run, run_with};

pub(crate) const ABOUT_NFT: &str =
    "the kernel's bridge, nftables masquerade and DNAT; ports are published by one `nft -f`";
pub(crate) const ABOUT_IPTABLES: &str = "the kernel's bridge, iptables masquerade and DNAT; single ports by one `iptables` each, as \
     Docker does";

pub(crate) const NEEDS_NFT: &[Need] = &[("nft", "nftables")];
pub(crate) const NEEDS_IPTABLES: &[Need] = &[("iptables", "iptables")];

/// A call of `iptables` a port takes minutes beyond.
const MOST_CALLS: u16 = 400;

/// Bridge, container, outside and forwarding; no rules yet.
pub(super) fn routed() -> Result<Topology> {
    let topology = Topology::with_outside()?;
    bridge::make_bridge(&topology.host)?;
    bridge::connect(&topology.host, &topology.container, "container", CONTAINER)?;
    topology.host.sh("echo 1 > /proc/sys/net/ipv4/ip_forward")?;
    Ok(topology)
}

/// Of the host's namespace.
pub(super) fn connections(topology: &Topology) -> Result<u64> {
    let mut count = topology.host.command("cat");
    let said = run(count.arg("/proc/sys/net/netfilter/nf_conntrack_count"))?.stdout;
    said.trim().parse().context("parse nf_conntrack_count")
}

fn with_leads(mut topology: Topology) -> Topology {
    topology.lead_across(super::OUTSIDE);
    topology.lead_published();
    topology
}

pub(crate) fn build_nft() -> Result<Topology> {
    let topology = routed()?;
    let last = SERVICE + 1;
    let rules = format!(
        "table ip nat {{
            chain services {{ }}
            chain prerouting {{
                type nat hook prerouting priority dstnat;
                iifname eth0 tcp dport {SERVICE}-{last} dnat to {CONTAINER}
                jump services
            }}
            chain postrouting {{
                type nat hook postrouting priority srcnat;
                oifname eth0 masquerade
            }}
        }}\n"
    );
    nft(&topology, &rules)?;
    Ok(with_leads(topology))
}

fn nft(topology: &Topology, rules: &str) -> Result<()> {
    let mut command = topology.host.command("nft");
    command.args(["-f", "-"]);
    run_with(&mut command, rules.as_bytes(), Duration::from_secs(60))?;
    Ok(())
}

pub(crate) fn publish_nft(topology: &Topology, count: u16, form: Form) -> Result<Duration> {
    let mut rules = String::new();
    let mut publish = |ports: String| {
        let _ = writeln!(
            rules,
            "add rule ip nat services iifname eth0 tcp dport {ports} dnat to {CONTAINER}"
        );
    };
    match form {
        Form::Range => publish(format!("{FIRST_PORT}-{}", last_port(count))),
        Form::Singles => {
            for port in FIRST_PORT..=last_port(count) {
                publish(port.to_string());
            }
        }
    }
    let start = Instant::now();
    nft(topology, &rules)?;
    let took = start.elapsed();
    nft(topology, "flush chain ip nat services\n")?;
    Ok(took)
}

pub(crate) fn build_iptables() -> Result<Topology> {
    let topology = routed()?;
    let last = SERVICE + 1;
    let dnat = format!("-j DNAT --to-destination {CONTAINER}");
    for rule in [
        "-N SERVICES".to_owned(),
        format!("-A PREROUTING -i eth0 -p tcp --dport {SERVICE}:{last} {dnat}"),
        "-A PREROUTING -j SERVICES".to_owned(),
        "-A POSTROUTING -o eth0 -j MASQUERADE".to_owned(),
    ] {
        iptables(&topology, &rule)?;
    }
    Ok(with_leads(topology))
}

fn iptables(topology: &Topology, rule: &str) -> Result<()> {
    let mut command = topology.host.command("iptables");
    command.args(["-w", "-t", "nat"]).args(rule.split(' '));
    run(&mut command)?;
    Ok(())
}

pub(crate) fn publish_iptables(topology: &Topology, count: u16, form: Form) -> Result<Duration> {
    let ports: Vec<String> = match form {
        Form::Range => vec![format!("{FIRST_PORT}:{}", last_port(count))],
        Form::Singles if count > MOST_CALLS => {
            bail!("not run: {count} calls of iptables take minutes; see {MOST_CALLS}")
        }
        Form::Singles => (FIRST_PORT..=last_port(count))
            .map(|port| port.to_string())
            .collect(),
    };
    let start = Instant::now();
    for ports in ports {
        let dnat = format!("-j DNAT --to-destination {CONTAINER}");
        iptables(
            topology,
            &format!("-A SERVICES -i eth0 -p tcp --dport {ports} {dnat}"),
        )?;
    }
    let took = start.elapsed();
    iptables(topology, "-F SERVICES")?;
    Ok(took)
}
