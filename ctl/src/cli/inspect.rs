//! `pontoon inspect`: everything that the daemon knows of a container.

use std::process::ExitCode;

use clap::Args;
use clap::builder::NonEmptyStringValueParser;

use super::output::show_json;

#[derive(Args)]
pub(super) struct InspectArgs {
    /// Name, id or id prefix
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    name: String,
    /// Accepted for consistency: the output is always JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    client: super::ClientArgs,
}

pub(super) fn run(args: InspectArgs) -> anyhow::Result<ExitCode> {
    show_json(&args.client.client()?.container(&args.name)?)
}
