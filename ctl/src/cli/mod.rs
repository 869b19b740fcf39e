//! The command line: one file a subcommand, its arguments and what it does side by side.
//!
//! `output` has what the printers share, `container` the options of `run` and `attach`,
//! `supervise` and `start` the life of a command in a container.
//!
//! The exit codes are told to users in [`EXIT_CODES`].

mod attach;
mod conntrack;
mod container;
mod daemon;
mod demo;
mod detach;
mod drops;
mod engine;
mod etc;
mod events;
mod exec;
mod fault;
mod fdb;
mod generate;
mod info;
mod inspect;
mod kill;
mod limit;
mod nat;
mod network;
mod output;
mod port;
mod ps;
mod publish;
mod rm;
mod run;
mod services;
mod start;
mod supervise;

#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use clap::{Args, Parser, Subcommand};
use nix::unistd::{getegid, geteuid, getgid, getuid};

use crate::api::PortKind;
use crate::client::Client;

const EXIT_CODES: &str = "\
Exit codes: 0; 1 for an error; 2 for a wrong command line. `run` and `exec` end as Docker's do: with
the command's own code, 128 + N when signal N ended it, 125 for an error of pontoon's own (a wrong
command line too), 126 for a command that cannot be executed, 127 for one that is not found.";

/// An error of pontoon's own, where every other code is the command's.
const OWN_ERROR: u8 = 125;

/// Container networking in userspace: a switch and a NAT engine in place of the kernel's bridge
/// and iptables.
#[derive(Parser)]
#[command(
    name = "pontoon",
    version,
    subcommand_required = true,
    arg_required_else_help = true,
    after_help = EXIT_CODES
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the switch, the NAT engine and the API that the other commands use
    Daemon(daemon::DaemonArgs),
    /// Run a command in a new container
    Run(run::RunArgs),
    /// Run a command in the network of a running container
    Exec(exec::ExecArgs),
    /// Give an existing namespace a network, as a container
    Attach(attach::AttachArgs),
    /// Detach a container from its networks, and remove it
    Detach(detach::DetachArgs),
    /// Stop containers: send TERM to their commands, and KILL after a timeout
    Stop(kill::StopArgs),
    /// Send a signal to the commands of containers
    Kill(kill::KillArgs),
    /// Wait until containers have ended, and print their exit codes
    Wait(kill::WaitArgs),
    /// Remove containers that have exited
    Rm(rm::RmArgs),
    /// List containers
    Ps(ps::PsArgs),
    /// Print everything about a container, as JSON
    Inspect(inspect::InspectArgs),
    /// List a container's published ports and where they are on the host
    Port(port::PortArgs),
    /// Publish ports of a running container
    Publish(publish::PublishArgs),
    /// Withdraw published ports; their connections are closed
    Unpublish(publish::UnpublishArgs),
    /// Limit the bandwidth and packet rate of a running container
    Limit(limit::LimitCommand),
    /// Impair a running container: latency, jitter, loss, duplicates, partitions
    Fault(fault::FaultCommand),
    /// Manage networks
    #[command(subcommand)]
    Network(network::NetworkCommand),
    /// List the MAC addresses that the switch has learned
    Fdb(fdb::FdbArgs),
    /// List the address translation rules (as iptables -t nat -L would)
    Nat(nat::NatArgs),
    /// List, count or delete the connections that the NAT engine tracks
    Conntrack(conntrack::ConntrackArgs),
    /// Count dropped frames, by reason
    Drops(drops::DropsArgs),
    /// Print events as they happen
    Events(events::EventsArgs),
    /// Print information about the daemon
    Info(info::InfoArgs),
    /// Demonstrate containers, NAT and published ports, in namespaces of its own
    Demo(demo::DemoArgs),
    /// Print a shell completion script
    Completions(generate::CompletionsArgs),
    /// Write manual pages
    Man(generate::ManArgs),
    /// The last step before a container's command; `run` is its only caller
    #[command(name = start::NAME, hide = true)]
    Start(start::StartArgs),
}

/// How a client command finds its daemon.
#[derive(Args)]
struct ClientArgs {
    /// The daemon's socket
    #[arg(
        long,
        value_name = "PATH",
        env = "PONTOON_SOCKET",
        hide_env_values = true,
        default_value = "/run/pontoon/pontoon.sock"
    )]
    socket: PathBuf,
}

impl ClientArgs {
    fn client(&self) -> anyhow::Result<Client> {
        Client::new(&self.socket).context("cannot prepare a connection")
    }
}

/// Whether the caller has other rights than the program: PONTOON_SOCKET, PATH and much else would
/// then be the word of somebody who may do less.
fn has_borrowed_rights() -> bool {
    getuid() != geteuid() || getgid() != getegid()
}

/// Parses the command line, runs the command and says what failed on standard error.
///
/// Starts no thread by itself: `run`, `exec` and `demo` change the namespaces of the process.
pub(crate) fn main() -> ExitCode {
    if has_borrowed_rights() {
        eprintln!("pontoon: set-user-ID and set-group-ID are refused: it trusts its environment");
        return ExitCode::FAILURE;
    }
    let arguments: Vec<OsString> = std::env::args_os().collect();
    let cli = match Cli::try_parse_from(&arguments) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version arrive as errors too. Nobody is left to tell of a closed pipe.
            let _ = error.print();
            let wraps_a_command = matches!(
                arguments.get(1).and_then(|name| name.to_str()),
                Some("run" | "exec")
            );
            return match error.exit_code() {
                0 => ExitCode::SUCCESS,
                _ if wraps_a_command => ExitCode::from(OWN_ERROR),
                _ => ExitCode::from(2),
            };
        }
    };
    let result = match cli.command {
        Command::Daemon(args) => daemon::run(args),
        Command::Run(args) => return run::run(args),
        Command::Exec(args) => return exec::run(args),
        Command::Start(args) => return start::run(args),
        Command::Attach(args) => attach::run(args),
        Command::Detach(args) => detach::run(args),
        Command::Stop(args) => kill::stop(args),
        Command::Kill(args) => kill::kill(args),
        Command::Wait(args) => kill::wait(args),
        Command::Rm(args) => rm::run(args),
        Command::Ps(args) => ps::run(args),
        Command::Inspect(args) => inspect::run(args),
        Command::Port(args) => port::run(args),
        Command::Publish(args) => publish::publish(args),
        Command::Unpublish(args) => publish::unpublish(args),
        Command::Limit(args) => limit::run(args),
        Command::Fault(args) => fault::run(args),
        Command::Network(command) => network::run(command),
        Command::Fdb(args) => fdb::run(args),
        Command::Nat(args) => nat::run(args),
        Command::Conntrack(args) => conntrack::run(args),
        Command::Drops(args) => drops::run(args),
        Command::Events(args) => events::run(args),
        Command::Info(args) => info::run(args),
        Command::Completions(args) => generate::completions(&args),
        Command::Man(args) => generate::man(&args),
        Command::Demo(args) => demo::run(args),
    };
    match result {
        Ok(code) => code,
        // `pontoon ps | head -1`: the reader has what it wanted.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&error);
            ExitCode::FAILURE
        }
    }
}

/// Tells of an error with its causes, in one line on standard error.
fn complain(error: &anyhow::Error) {
    // With standard error gone too there is nobody to tell.
    let _ = writeln!(io::stderr(), "pontoon: {error:#}");
}

/// Goes on after a name that `action` fails for, as Docker does, and fails in the end.
fn for_each(
    names: &[String],
    mut action: impl FnMut(&str) -> anyhow::Result<()>,
) -> anyhow::Result<ExitCode> {
    let mut code = ExitCode::SUCCESS;
    for name in names {
        match action(name) {
            Ok(()) => {}
            Err(error) if is_broken_pipe(&error) => return Err(error),
            Err(error) => {
                complain(&error);
                code = ExitCode::FAILURE;
            }
        }
    }
    Ok(code)
}

/// The kinds of an interface, by the names that the API has for them.
fn port_kinds() -> impl TypedValueParser<Value = PortKind> {
    let known = PortKind::ALL.map(|kind| {
        PossibleValue::new(kind.name()).help(match kind {
            PortKind::Tap => {
                "A TAP device that lives in the container's namespace; needs /dev/net/tun"
            }
            PortKind::Veth => "A veth pair whose host end the switch reads with AF_PACKET",
        })
    });
    PossibleValuesParser::new(known).try_map(|name| name.parse::<PortKind>())
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    // Only what printing fails with: a daemon that breaks off is a `ClientError`.
    error
        .downcast_ref::<io::Error>()
        .is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}
