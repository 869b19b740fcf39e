//! `pontoon stop`, `kill` and `wait`: the end of a container that `run` started.

use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use clap::builder::NonEmptyStringValueParser;

use super::output::OutputArgs;
use crate::api::{Container, Exit, Kill, Status};
use crate::client::{Client, ClientError, container_path};
use crate::signals::{self, SignalNumber};

#[derive(Args)]
pub(super) struct StopArgs {
    /// Names, ids or id prefixes
    #[arg(required = true, value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    names: Vec<String>,
    /// How long to wait before the command is killed
    #[arg(short, long, value_name = "SECONDS", default_value_t = 10)]
    time: u32,
    /// Signal that asks the command to end
    #[arg(short, long, value_name = "SIGNAL", default_value = "TERM", value_parser = signals::signal)]
    signal: SignalNumber,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    client: super::ClientArgs,
}

#[derive(Args)]
pub(super) struct KillArgs {
    /// Names, ids or id prefixes
    #[arg(required = true, value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    names: Vec<String>,
    /// Signal, by name or number: TERM, 15, RTMIN+3
    #[arg(short, long, value_name = "SIGNAL", default_value = "KILL", value_parser = signals::signal)]
    signal: SignalNumber,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    client: super::ClientArgs,
}

#[derive(Args)]
pub(super) struct WaitArgs {
    /// Names, ids or id prefixes
    #[arg(required = true, value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    names: Vec<String>,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    client: super::ClientArgs,
}

/// How long a killed command may take to be gone; only the kernel can hold it up.
const AFTER_KILL: Duration = Duration::from_secs(10);

pub(super) fn stop(args: StopArgs) -> anyhow::Result<ExitCode> {
    let client = args.client.client()?;
    super::for_each(&args.names, |name| {
        let container = stop_one(&client, name, args.signal, args.time)?;
        args.output.tell(&container, &[&container.name]).map(drop)
    })
}

pub(super) fn stop_one(
    client: &Client,
    name: &str,
    signal: SignalNumber,
    seconds: u32,
) -> anyhow::Result<Container> {
    let container = client.container(name)?;
    if send(client, &container.id, signal)? {
        let limit = Duration::from_secs(seconds.into());
        if !ends(client, &container.id, limit)? && send(client, &container.id, SignalNumber::KILL)?
        {
            anyhow::ensure!(
                ends(client, &container.id, AFTER_KILL)?,
                "container {} is killed and still not gone: it waits in the kernel (ps: state D)",
                container.name
            );
        }
    }
    Ok(container)
}

/// Whether a signal was sent; not, if the container has ended by itself.
fn send(client: &Client, id: &str, signal: SignalNumber) -> Result<bool, ClientError> {
    match signal_container(client, id, signal) {
        Ok(_) => Ok(true),
        Err(error) if error.is_not_found() => Ok(false),
        Err(error) => match client.container(id) {
            Ok(container) if container.status == Status::Exited => Ok(false),
            _ => Err(error),
        },
    }
}

/// Whether a container ends within a time. One that is not there has ended.
fn ends(client: &Client, id: &str, limit: Duration) -> Result<bool, ClientError> {
    let path = format!("{}/wait", container_path(id));
    match client.get_within::<Exit>(&path, limit) {
        Ok(exit) => Ok(exit.is_some()),
        Err(error) if error.is_not_found() => Ok(true),
        Err(error) => Err(error),
    }
}

pub(super) fn kill(args: KillArgs) -> anyhow::Result<ExitCode> {
    let client = args.client.client()?;
    super::for_each(&args.names, |name| {
        let container = signal_container(&client, name, args.signal)?;
        args.output.tell(&container, &[&container.name]).map(drop)
    })
}

fn signal_container(
    client: &Client,
    name: &str,
    signal: SignalNumber,
) -> Result<Container, ClientError> {
    let request = Kill {
        signal: signal.to_string(),
    };
    client.post(&format!("{}/kill", container_path(name)), &request)
}

/// Prints the exit code of each, in the order of the command line.
pub(super) fn wait(args: WaitArgs) -> anyhow::Result<ExitCode> {
    let client = args.client.client()?;
    super::for_each(&args.names, |name| {
        let exit: Exit = client.get(&format!("{}/wait", container_path(name)))?;
        let code = match exit.exit_code {
            Some(code) => code.to_string(),
            None => "unknown".to_owned(),
        };
        args.output
            .show(&exit, |out: &mut dyn Write, _| writeln!(out, "{code}"))
            .map(drop)
    })
}
