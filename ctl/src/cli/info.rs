//! `pontoon info`: the daemon itself.

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use super::output::{Look, OutputArgs, joined};
use crate::api::{HostSilenceKind, Info, Privileges};

#[derive(Args)]
pub(super) struct InfoArgs {
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    client: super::ClientArgs,
}

pub(super) fn run(args: InfoArgs) -> anyhow::Result<ExitCode> {
    let info = args.client.client()?.info()?;
    args.output.show(&info, |out, _: Look| print(out, &info))
}

fn print(out: &mut dyn Write, info: &Info) -> io::Result<()> {
    let uplinks = match info.uplinks.len() {
        0 => "none".to_owned(),
        _ => joined(&info.uplinks),
    };
    let ipv6 = match (info.ipv6, info.kernel_ipv6) {
        (true, _) => "in new networks",
        (false, true) => "not in new networks by default",
        (false, false) => "this kernel has none",
    };
    writeln!(out, "Version:      {}", info.version)?;
    writeln!(out, "Process:      {}", info.pid)?;
    writeln!(out, "Workers:      {}", info.workers)?;
    writeln!(out, "Uplinks:      {uplinks}")?;
    writeln!(out, "Port kind:    {}", info.port_kind)?;
    let host_silence = match info.host_silence {
        HostSilenceKind::Tc => "by tc ingress, before the host's firewall",
        HostSilenceKind::Sockets => "by sockets, behind the host's firewall",
    };
    writeln!(out, "Host silence: {host_silence}")?;
    writeln!(out, "IPv6:         {ipv6}")?;
    writeln!(out, "State:        {}", info.state_dir.display())?;
    writeln!(out, "Run:          {}", info.run_dir.display())?;
    writeln!(out, "Privileges:   {}", privileges(&info.privileges))?;
    writeln!(out, "Networks:     {}", info.networks)?;
    writeln!(out, "Containers:   {}", info.containers)?;
    let engine = &info.engine;
    writeln!(
        out,
        "Connections:  {} of {}, {} and {} ports of an address at most",
        info.connections,
        engine.max_connections,
        engine.max_connections_per_address,
        engine.max_ports_per_address
    )?;
    let timeouts = [
        ("TCP", engine.tcp_established_timeout),
        ("TCP opening or closing", engine.tcp_transitory_timeout),
        ("UDP", engine.udp_timeout),
        ("DNS", engine.udp_dns_timeout),
        ("ICMP", engine.icmp_timeout),
        ("others", engine.other_timeout),
    ];
    let timeouts = timeouts.map(|(what, seconds)| {
        let time = Duration::from_secs_f64(seconds);
        format!("{what} {}", humantime::format_duration(time))
    });
    writeln!(out, "Timeouts:     {}", joined(timeouts))?;
    let pick_up = match engine.pick_up_tcp {
        true => "picked up in the middle",
        false => "only from their beginning",
    };
    writeln!(out, "TCP flows:    {pick_up}")
}

fn privileges(kept: &Privileges) -> String {
    let filter = match kept.seccomp {
        true => "seccomp filter",
        false => "no seccomp filter",
    };
    let new = match kept.no_new_privs {
        true => "no new privileges",
        false => "new privileges possible",
    };
    let names = kept.capabilities.iter();
    let names = names.map(|name| name.trim_start_matches("CAP_").to_lowercase());
    let capabilities = match kept.capabilities.len() {
        0 => "none".to_owned(),
        _ => joined(names),
    };
    format!("{filter}, {new}; capabilities: {capabilities}")
}
