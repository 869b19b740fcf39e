//! `pontoon ps`: the containers.

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::Args;

use super::output::{
    Look, OutputArgs, ago, joined, published, short_id, shorten, show_lines, write_table,
};
use crate::api::{Container, Status, Target};

/// Characters of a command that are shown.
const COMMAND_LENGTH: usize = 28;

#[derive(Args)]
pub(super) struct PsArgs {
    /// Include exited containers
    #[arg(short, long)]
    all: bool,
    /// Print ids only
    #[arg(short, long, conflicts_with = "json")]
    quiet: bool,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    client: super::ClientArgs,
}

pub(super) fn run(args: PsArgs) -> anyhow::Result<ExitCode> {
    let mut containers = args.client.client()?.containers()?;
    containers.retain(|container| args.all || container.status == Status::Running);
    if args.quiet {
        let ids: Vec<_> = containers
            .iter()
            .map(|container| short_id(&container.id))
            .collect();
        return show_lines(&ids);
    }
    // Seconds since the epoch, as the daemon counts them.
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    args.output
        .show(&containers, |out, look| print(out, look, &containers, now))
}

/// `now` is in seconds since the Unix epoch.
pub(crate) fn print(
    out: &mut dyn Write,
    look: Look,
    containers: &[Container],
    now: u64,
) -> io::Result<()> {
    let header = [
        "CONTAINER ID",
        "COMMAND",
        "CREATED",
        "STATUS",
        "NETWORK",
        "ADDRESS",
        "PORTS",
        "NAME",
    ];
    let rows = containers.iter().map(|container| {
        let status = match (container.status, container.exit_code) {
            (Status::Running, _) => "running".to_owned(),
            (Status::Exited, Some(code)) => format!("exited ({code})"),
            (Status::Exited, None) => "exited".to_owned(),
        };
        let addresses = container
            .endpoints
            .iter()
            .flat_map(|endpoint| &endpoint.addresses);
        [
            short_id(&container.id).to_owned(),
            shorten(&what_runs(container), COMMAND_LENGTH),
            ago(now.saturating_sub(container.created)),
            status,
            networks(container),
            joined(addresses.map(|address| address.addr())),
            joined(ports(container)),
            container.name.clone(),
        ]
    });
    write_table(out, look, header, rows)
}

fn ports(container: &Container) -> impl Iterator<Item = String> {
    let pending = container.pending.iter();
    let pending = pending.map(|mapping| format!("{} (pending)", published(mapping)));
    container.published.iter().map(published).chain(pending)
}

/// What it is on now, which may be more than it began with, and who shares that.
fn networks(container: &Container) -> String {
    let mut told = if container.endpoints.is_empty() {
        container.mode.to_string()
    } else {
        joined(container.endpoints.iter().map(|it| &it.network))
    };
    if !container.joined.is_empty() {
        told.push_str(&format!(" (shared by {})", joined(&container.joined)));
    }
    told
}

/// The command of `run`; of an attached namespace, what it was named by.
fn what_runs(container: &Container) -> String {
    if !container.command.is_empty() {
        return container.command.join(" ");
    }
    match &container.target {
        Target::Pid(pid) => format!("(pid {pid})"),
        Target::Netns(path) => format!("({})", path.display()),
    }
}
