//! `pontoon rm`: containers that have exited are forgotten.

use std::process::ExitCode;

use clap::Args;
use clap::builder::NonEmptyStringValueParser;

use super::kill::stop_one;
use super::output::OutputArgs;
use crate::api::{Container, Status};
use crate::client::Client;
use crate::signals::SignalNumber;

#[derive(Args)]
pub(super) struct RmArgs {
    /// Names, ids or id prefixes
    #[arg(required = true, value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    names: Vec<String>,
    /// Remove running containers too: their commands are killed, attached ones lose their network,
    /// and so do containers that share their namespace
    #[arg(short, long)]
    force: bool,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    client: super::ClientArgs,
}

pub(super) fn run(args: RmArgs) -> anyhow::Result<ExitCode> {
    let client = args.client.client()?;
    super::for_each(&args.names, |name| {
        let container = remove(&client, name, args.force)?;
        args.output.tell(&container, &[&container.name]).map(drop)
    })
}

fn remove(client: &Client, name: &str, force: bool) -> anyhow::Result<Container> {
    let container = client.container(name)?;
    if container.status == Status::Running {
        anyhow::ensure!(
            force,
            "container {} is running: end its process first (pontoon stop), take only its network \
             away with: pontoon detach {}, or do both by: pontoon rm --force {}",
            container.name,
            container.name,
            container.name
        );
        // Of an attached one, what runs in it is not ours to end.
        if !container.command.is_empty() {
            stop_one(client, &container.id, SignalNumber::KILL, 0)?;
        }
    }
    // By id: the name may belong to another container by now.
    match client.detach(&container.id, force) {
        // It was run with --rm.
        Err(error) if error.is_not_found() && force => Ok(container),
        removed => Ok(removed?),
    }
}
