//! `pontoon detach`: a container's network goes, whatever still runs in it.

use std::process::ExitCode;

use clap::Args;
use clap::builder::NonEmptyStringValueParser;

use super::output::OutputArgs;

#[derive(Args)]
pub(super) struct DetachArgs {
    /// Name, id or id prefix
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    name: String,
    /// Detach even if other containers share its namespace; they lose their network
    #[arg(short, long)]
    force: bool,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    client: super::ClientArgs,
}

pub(super) fn run(args: DetachArgs) -> anyhow::Result<ExitCode> {
    let container = args.client.client()?.detach(&args.name, args.force)?;
    args.output.tell(&container, &[&container.name])
}
