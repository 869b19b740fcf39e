//! `pontoon info`: the daemon itself.

use std::io::{self, Write};
use std::process::ExitCode;

use clap::{Args, ValueEnum};

use super::output::{Look, OutputArgs, joined};
use crate::api::Info;

#[derive(Args)]
pub(super) struct InfoArgs {
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    client: super::ClientArgs,
}

pub(super) fn run(args: InfoArgs) -> anyhow::Result<ExitCode> {
    let info: Info = args.client.client()?.get("/v1/info")?;
    args.output.show(&info, |out, _: Look| print(out, &info))
}

fn print(out: &mut dyn Write, info: &Info) -> io::Result<()> {
    let uplinks = match info.uplinks.len() {
        0 => "none".to_owned(),
        _ => joined(&info.uplinks),
    };
    let port_kind = info.port_kind.to_possible_value();
    let port_kind = port_kind.as_ref().map_or("", |value| value.get_name());
    let ipv6 = match (info.ipv6, info.kernel_ipv6) {
        (true, _) => "in new networks",
        (false, true) => "not in new networks, unless asked for",
        (false, false) => "this kernel has none",
    };
    writeln!(out, "Version:      {}", info.version)?;
    writeln!(out, "Process:      {}", info.pid)?;
    writeln!(out, "Workers:      {}", info.workers)?;
    writeln!(out, "Uplinks:      {uplinks}")?;
    writeln!(out, "Port kind:    {port_kind}")?;
    writeln!(out, "IPv6:         {ipv6}")?;
    writeln!(out, "State:        {}", info.state_dir.display())?;
    writeln!(out, "Run:          {}", info.run_dir.display())?;
    writeln!(out, "Networks:     {}", info.networks)?;
    writeln!(out, "Containers:   {}", info.containers)?;
    writeln!(out, "Connections:  {}", info.connections)
}
