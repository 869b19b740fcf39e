//! `pontoon rm`: containers that have exited are forgotten.

use std::process::ExitCode;

use clap::Args;
use clap::builder::NonEmptyStringValueParser;

use super::output::show_lines;
use crate::api::{Container, Status};
use crate::client::{Client, container_path};

#[derive(Args)]
pub(super) struct RmArgs {
    /// Names, ids or beginnings of ids
    #[arg(required = true, value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    names: Vec<String>,
    #[command(flatten)]
    client: super::ClientArgs,
}

pub(super) fn run(args: RmArgs) -> anyhow::Result<ExitCode> {
    let client = args.client.client()?;
    super::for_each(&args.names, |name| {
        let container = remove(&client, name)?;
        show_lines(&[container.name]).map(drop)
    })
}

fn remove(client: &Client, name: &str) -> anyhow::Result<Container> {
    let container = client.container(name)?;
    if container.status == Status::Running {
        anyhow::bail!(
            "container {} is running: end its process first (pontoon stop), or take only its network \
             away with: pontoon detach {}",
            container.name,
            container.name
        );
    }
    // By id: the name may belong to another container by now.
    Ok(client.delete(&container_path(&container.id))?)
}
