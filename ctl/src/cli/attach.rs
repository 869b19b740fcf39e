//! `pontoon attach`: an existing namespace becomes a container.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::Args;

use super::container::ContainerArgs;
use super::output::OutputArgs;
use crate::api::Target;

#[derive(Args)]
pub(super) struct AttachArgs {
    #[command(flatten)]
    namespace: NamespaceArgs,
    #[command(flatten)]
    container: ContainerArgs,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    client: super::ClientArgs,
}

#[derive(Args)]
#[group(required = true, multiple = false)]
struct NamespaceArgs {
    /// Attach the network namespace of this process; the container ends with the process
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pid: Option<u32>,
    /// Attach the network namespace bound to this path, such as /run/netns/NAME
    #[arg(long, value_name = "PATH")]
    netns: Option<PathBuf>,
}

pub(super) fn run(args: AttachArgs) -> anyhow::Result<ExitCode> {
    let target = match (args.namespace.pid, args.namespace.netns) {
        (Some(pid), _) => Target::Pid(pid),
        // The daemon's working directory is another one.
        (None, Some(path)) => Target::Netns(
            std::path::absolute(&path)
                .with_context(|| format!("cannot make {} absolute", path.display()))?,
        ),
        (None, None) => anyhow::bail!("one of --pid and --netns is needed"),
    };
    let request = args.container.attach(target, Vec::new(), true)?;
    let container = args.client.client()?.attach(&request)?;
    args.output.tell(&container, &[&container.id])
}
