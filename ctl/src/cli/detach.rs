//! `pontoon detach`: a container's network goes, whatever still runs in it.

use std::process::ExitCode;

use clap::Args;
use clap::builder::NonEmptyStringValueParser;

use super::output::show_lines;
use crate::api::Container;
use crate::client::container_path;

#[derive(Args)]
pub(super) struct DetachArgs {
    /// Name, id or beginning of an id
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    name: String,
    #[command(flatten)]
    client: super::ClientArgs,
}

pub(super) fn run(args: DetachArgs) -> anyhow::Result<ExitCode> {
    let container: Container = args.client.client()?.delete(&container_path(&args.name))?;
    show_lines(&[container.name])
}
