//! `pontoon inspect`: everything that the daemon knows of a container.

use std::process::ExitCode;

use clap::Args;
use clap::builder::NonEmptyStringValueParser;

use super::output::show_json;

#[derive(Args)]
pub(super) struct InspectArgs {
    /// Name, id or beginning of an id
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    name: String,
    /// Accepted for the sake of uniformity: the output is always JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    client: super::ClientArgs,
}

pub(super) fn run(args: InspectArgs) -> anyhow::Result<ExitCode> {
    show_json(&args.client.client()?.container(&args.name)?)
}
