//! `pontoon nat`: the rules of address translation, chain by chain as iptables tells them.

use std::io::{self, Write};
use std::process::ExitCode;

use clap::Args;

use super::output::{Look, OutputArgs, at, from, joined, write_table};
use crate::api::NatRules;
use crate::spec::port_range;

#[derive(Args)]
pub(super) struct NatArgs {
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    client: super::ClientArgs,
}

pub(super) fn run(args: NatArgs) -> anyhow::Result<ExitCode> {
    let rules: NatRules = args.client.client()?.get("/v1/nat")?;
    args.output
        .show(&rules, |out, look| print(out, look, &rules))
}

pub(crate) fn print(out: &mut dyn Write, look: Look, rules: &NatRules) -> io::Result<()> {
    writeln!(out, "Published ports (DNAT)")?;
    let published = rules.publish.iter().map(|rule| {
        let mapping = &rule.mapping;
        [
            mapping.protocol.to_string(),
            at(
                mapping.host_ip,
                &port_range(mapping.host_port, mapping.count),
            ) + &from(mapping),
            joined(rule.to.iter().map(|to| {
                at(
                    Some(*to),
                    &port_range(mapping.container_port, mapping.count),
                )
            })),
            rule.container.clone(),
        ]
    });
    write_table(
        out,
        look,
        ["PROTOCOL", "DESTINATION", "TO", "CONTAINER"],
        published,
    )?;

    writeln!(out, "\nMasquerade (SNAT)")?;
    // A network that no uplink carries leaves through none, and is told of all the same.
    let masqueraded = rules.masquerade.iter().flat_map(|rule| {
        let row = |uplink: &str, to: String| {
            [
                rule.network.clone(),
                rule.source.to_string(),
                uplink.to_owned(),
                to,
            ]
        };
        if rule.to.is_empty() {
            vec![row("", String::new())]
        } else {
            rule.to
                .iter()
                .map(|(uplink, to)| row(uplink, to.to_string()))
                .collect()
        }
    });
    write_table(
        out,
        look,
        ["NETWORK", "SOURCE", "UPLINK", "TO"],
        masqueraded,
    )
}
