//! `pontoon publish` and `pontoon unpublish`: ports of a running container.

use std::process::ExitCode;

use clap::Args;
use clap::builder::NonEmptyStringValueParser;

use super::output::{OutputArgs, published};
use crate::api::PortMapping;

#[derive(Args)]
pub(super) struct PublishArgs {
    /// Name, id or id prefix
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    name: String,
    /// Port or range: [[hostip:][hostport[-end]]:]port[-end][/tcp|udp|sctp][,allow=NETWORK]…;
    /// publishing it again replaces its allow list; a free host port is chosen if none is given;
    /// may be repeated
    #[arg(short, long, value_name = "SPEC", required = true)]
    publish: Vec<PortMapping>,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    client: super::ClientArgs,
}

#[derive(Args)]
pub(super) struct UnpublishArgs {
    /// Name, id or id prefix
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    name: String,
    /// Port to withdraw, as it was published, with or without its allow list; may be repeated
    #[arg(short, long, value_name = "SPEC", required = true)]
    publish: Vec<PortMapping>,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    client: super::ClientArgs,
}

/// Prints what the container publishes then.
pub(super) fn publish(args: PublishArgs) -> anyhow::Result<ExitCode> {
    let client = args.client.client()?;
    let container = client.publish(&args.name, &args.publish)?;
    let lines: Vec<String> = container.published.iter().map(published).collect();
    args.output.tell(&container, &lines)
}

/// Prints what the container publishes then.
pub(super) fn unpublish(args: UnpublishArgs) -> anyhow::Result<ExitCode> {
    let client = args.client.client()?;
    let container = client.unpublish(&args.name, &args.publish)?;
    let lines: Vec<String> = container.published.iter().map(published).collect();
    args.output.tell(&container, &lines)
}
