//! `pontoon exec`: a command in the network of a running container.

use std::ffi::OsString;
use std::process::ExitCode;

use anyhow::Context;
use clap::Args;
use clap::builder::NonEmptyStringValueParser;

use super::etc::Etc;
use super::run::let_go_of_descriptors;
use super::start::{Isolation, NotStarted, replace_process};
use super::{OWN_ERROR, complain};
use crate::api::{Container, Status, Target};
use crate::netns::Netns;

#[derive(Args)]
#[command(override_usage = "pontoon exec [OPTIONS] NAME [--] COMMAND [ARG]...")]
pub(super) struct ExecArgs {
    #[command(flatten)]
    client: super::ClientArgs,
    /// Name, id or id prefix
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    name: String,
    /// Pass on this many file descriptors from 3 on, besides standard input, output and error
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    preserve_fds: u32,
    /// The command and its arguments
    #[arg(required = true, trailing_var_arg = true, value_name = "COMMAND")]
    pub(super) command: Vec<OsString>,
}

/// Returns only when the command was not started; otherwise the command is this process.
pub(super) fn run(args: ExecArgs) -> ExitCode {
    if let Err(error) = enter(&args) {
        complain(&error);
        return ExitCode::from(OWN_ERROR);
    }
    let NotStarted { code, message } = replace_process(&args.command);
    complain(&anyhow::Error::msg(message));
    ExitCode::from(code)
}

fn enter(args: &ExecArgs) -> anyhow::Result<()> {
    let_go_of_descriptors(args.preserve_fds)?;
    let client = args.client.client()?;
    let container = client.container(&args.name)?;
    if container.status == Status::Exited {
        anyhow::bail!(
            "container {} has exited: it has no network any more",
            container.name
        );
    }
    let etc = Etc::of(&client, &container);
    namespace(&container)?.enter()?;
    if let Some(etc) = etc {
        Isolation::new().furnish(&etc);
    }
    Ok(())
}

/// The network namespace of a running container.
pub(super) fn namespace(container: &Container) -> anyhow::Result<Netns> {
    let opened = match &container.target {
        Target::Pid(pid) => Netns::of_pid(*pid),
        Target::Netns(path) => Netns::open(path),
    };
    let failed = || format!("cannot open the namespace of container {}", container.name);
    let netns = opened.with_context(failed)?;
    // Numbers of processes are the daemon's, and paths lead elsewhere in other mounts.
    anyhow::ensure!(
        netns.inode() == container.netns,
        "{}: what is seen of it from here is another one's: do it in the daemon's own PID and \
         mount namespaces",
        failed()
    );
    Ok(netns)
}
