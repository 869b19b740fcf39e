//! `pontoon run`: a command in a new container.
//!
//! No engine makes the namespace: this process enters a fresh one (or another container's), asks
//! the daemon to attach it, and only then starts the command, so that the network is there before
//! the command's first instruction. It stays as the command's supervisor, and the container lives
//! as long as it does: when it is killed, the command dies with it and the daemon notices.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::Context;
use clap::Args;
use serde::{Deserialize, Serialize};
use switch::io::close_on_exec_from;

use super::container::ContainerArgs;
use super::etc::{Covered, EMPTY_PATH, Etc, NameArgs};
use super::exec::namespace;
use super::output::{show_json, show_lines};
use super::services::Mounts;
use super::start::NotStarted;
use super::supervise::{Supervised, prepare};
use super::{OWN_ERROR, complain};
use crate::api::{Attach, Container, Exit, Exited, Mode, Status, Target};
use crate::client::{Client, container_path};
use crate::netns::Netns;

#[derive(Args)]
#[command(override_usage = "pontoon run [OPTIONS] [--] COMMAND [ARG]...")]
pub(super) struct RunArgs {
    #[command(flatten)]
    container: ContainerArgs,
    /// Remove the container when its command ends
    #[arg(long)]
    rm: bool,
    /// Run in the background and print the container's id
    #[arg(short, long)]
    detach: bool,
    /// Append the output of a background command to this file [default: it is discarded]
    #[arg(long, value_name = "FILE", requires = "detach")]
    log: Option<PathBuf>,
    /// Print a background container as JSON, instead of its id
    #[arg(long, requires = "detach")]
    json: bool,
    /// This process is the supervisor that `--detach` started
    #[arg(long = BACKGROUND, hide = true, requires = "detach")]
    background: bool,
    /// Pass on this many file descriptors from 3 on, besides standard input, output and error
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    preserve_fds: u32,
    #[command(flatten)]
    names: NameArgs,
    #[command(flatten)]
    client: super::ClientArgs,
    /// The command and its arguments
    #[arg(required = true, trailing_var_arg = true, value_name = "COMMAND")]
    pub(super) command: Vec<OsString>,
}

const BACKGROUND: &str = "background-supervisor";

pub(super) fn run(args: RunArgs) -> ExitCode {
    if let Err(error) = let_go_of_descriptors(args.preserve_fds) {
        complain(&error);
        return ExitCode::from(OWN_ERROR);
    }
    if args.background {
        return supervise_in_background(args);
    }
    let result = if args.detach {
        start_in_background(&args)
    } else {
        supervise(args)
    };
    result.unwrap_or_else(|error| {
        complain(&error);
        ExitCode::from(failure_code(&error))
    })
}

/// A lock, a pipe or a directory that whoever started this has open is not the container's.
pub(super) fn let_go_of_descriptors(preserved: u32) -> anyhow::Result<()> {
    close_on_exec_from(preserved.saturating_add(3)).context("cannot let go of descriptors")
}

/// Docker's codes for a container that did not come up.
fn failure_code(error: &anyhow::Error) -> u8 {
    error
        .downcast_ref::<NotStarted>()
        .map_or(OWN_ERROR, |error| error.code)
}

fn supervise(args: RunArgs) -> anyhow::Result<ExitCode> {
    finish(start(args, Output::Inherited)?)
}

/// Where the command's output goes; its input is this process's or nothing.
enum Output {
    Inherited,
    Nowhere,
    Log(File),
}

struct Running {
    client: Client,
    container: Container,
    process: Supervised,
    /// None where the command sees the host's own files.
    covered: Option<Covered>,
}

/// From nothing to a running command in an attached namespace, or to nothing again.
fn start(args: RunArgs, output: Output) -> anyhow::Result<Running> {
    let client = args.client.client()?;
    enter_namespace(&client, &args.container.mode()?)?;

    let command = args
        .command
        .iter()
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    let (input, output, errors) = match output {
        Output::Inherited => (Stdio::inherit(), Stdio::inherit(), Stdio::inherit()),
        Output::Nowhere => (Stdio::null(), Stdio::null(), Stdio::null()),
        Output::Log(file) => {
            let again = file
                .try_clone()
                .context("cannot duplicate the log's descriptor")?;
            (Stdio::null(), file.into(), again.into())
        }
    };
    let mode = args.container.mode()?;
    let isolate = mode != Mode::Host;
    // Before the daemon is asked, which has to know it to be able to end it.
    let process = prepare(&args.command, isolate, [input, output, errors])?;
    let target = Target::Pid(std::process::id());
    let mut request = Attach {
        supervised: true,
        process: Some(process.pid()),
        ..args.container.attach(target, command, args.rm)?
    };
    args.names.complete(&mut request.names);
    let container = client.attach(&request)?;

    let etc = Etc::of(&client, &container);
    let pid = process.pid();
    let mounts = Mounts::of(pid);
    match process.start(etc.as_ref()) {
        Ok(process) => {
            if let (Some(mounts), Some(_)) = (mounts, &etc) {
                mounts.keep_covered(Path::new(EMPTY_PATH));
            }
            Ok(Running {
                covered: etc.and_then(|etc| Covered::of(pid, &etc)),
                client,
                container,
                process,
            })
        }
        Err(error) => {
            forget(&client, &container);
            Err(error)
        }
    }
}

/// Moves this process to where the mode says; its child is born there.
fn enter_namespace(client: &Client, mode: &Mode) -> anyhow::Result<()> {
    match mode {
        Mode::Host => Ok(()),
        Mode::Network(_) | Mode::None => Ok(Netns::create()?.enter()?),
        Mode::Container(name) => {
            let container = client.container(name)?;
            if container.status == Status::Exited {
                anyhow::bail!(
                    "container {} has exited: it has no network to share",
                    container.name
                );
            }
            Ok(namespace(&container)?.enter()?)
        }
    }
}

/// Waits for the command and passes its code on, to the daemon too.
fn finish(running: Running) -> anyhow::Result<ExitCode> {
    let mut covered = running.covered;
    let code = running.process.wait(|| {
        // Without an answer they stay as they are: the next change tries again.
        if let Some(covered) = &mut covered
            && let Ok(container) = running.client.container(&running.container.id)
            && let Some(etc) = Etc::of(&running.client, &container)
            && let Err(error) = covered.write(&etc)
        {
            complain(&anyhow::Error::from(error).context("cannot write the container's hosts"));
        }
    })?;
    let path = format!("{}/exit", container_path(&running.container.id));
    match running
        .client
        .post::<Exit>(&path, &Exited { exit_code: code })
    {
        Ok(_) => {}
        // Somebody detached it meanwhile.
        Err(error) if error.is_not_found() => {}
        // What the command ended with counts for more.
        Err(error) => complain(&anyhow::Error::from(error).context(format!(
            "cannot tell the daemon how {} ended",
            running.container.name
        ))),
    }
    Ok(ExitCode::from(code))
}

/// A container whose command was not started is none. What kept it from starting counts for more
/// than a failure here.
fn forget(client: &Client, container: &Container) {
    match client.detach(&container.id, true) {
        Ok(_) => {}
        // Somebody detached it meanwhile.
        Err(error) if error.is_not_found() => {}
        Err(error) => complain(
            &anyhow::Error::from(error).context(format!("cannot remove {}", container.name)),
        ),
    }
}

/// What a background supervisor tells the process that started it, as one line of JSON on its
/// standard output.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Report {
    /// The command runs in the container of this id.
    Started(String),
    Failed {
        code: u8,
        error: String,
    },
}

/// Starts this same command line again as a process that outlives this one, and waits until its
/// container is up or has failed.
fn start_in_background(args: &RunArgs) -> anyhow::Result<ExitCode> {
    let mut arguments = std::env::args_os();
    let program = arguments.next().unwrap_or_else(|| "pontoon".into());
    // The subcommand stands first: the global options there are, help and version, run nothing.
    let subcommand = arguments.next().unwrap_or_else(|| "run".into());
    let mut supervisor = Command::new("/proc/self/exe")
        .arg0(program)
        .arg(subcommand)
        .arg(format!("--{BACKGROUND}"))
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .context("cannot start a supervisor in the background (/proc/self/exe)")?;
    let stdout = supervisor
        .stdout
        .take()
        .context("the supervisor has no output")?;
    let mut line = String::new();
    BufReader::new(stdout)
        .read_line(&mut line)
        .context("cannot hear from the supervisor")?;
    match serde_json::from_str(&line) {
        Ok(Report::Started(id)) if args.json => show_json(&args.client.client()?.container(&id)?),
        Ok(Report::Started(id)) => show_lines(&[id]),
        Ok(Report::Failed { code, error }) => Err(NotStarted {
            code,
            message: error,
        }
        .into()),
        // It died without a word; a signal is the likeliest reason.
        Err(_) => match supervisor.wait() {
            Ok(status) => {
                anyhow::bail!("the supervisor ended before the container was up: {status}")
            }
            Err(error) => Err(error).context("the supervisor ended before the container was up"),
        },
    }
}

fn supervise_in_background(args: RunArgs) -> ExitCode {
    let running = leave_session()
        .and_then(|()| log_output(args.log.as_ref()))
        .and_then(|output| start(args, output));
    match running {
        Ok(running) => {
            report(&Report::Started(running.container.id.clone()));
            finish(running).unwrap_or_else(|_| ExitCode::from(OWN_ERROR))
        }
        Err(error) => {
            let code = failure_code(&error);
            report(&Report::Failed {
                code,
                error: format!("{error:#}"),
            });
            ExitCode::from(code)
        }
    }
}

/// A session of its own: no terminal's hang-up or Ctrl-C reaches it.
fn leave_session() -> anyhow::Result<()> {
    nix::unistd::setsid().context("cannot leave the session")?;
    Ok(())
}

fn log_output(path: Option<&PathBuf>) -> anyhow::Result<Output> {
    let Some(path) = path else {
        return Ok(Output::Nowhere);
    };
    let file = File::options()
        .create(true)
        .append(true)
        .open(path)
        .with_context(|| format!("cannot open the log {}", path.display()))?;
    Ok(Output::Log(file))
}

/// If the process that asked is gone, there is nobody to tell, and the container runs all the same.
fn report(report: &Report) {
    if let Ok(line) = serde_json::to_string(report) {
        let mut out = io::stdout().lock();
        let _ = writeln!(out, "{line}").and_then(|()| out.flush());
    }
}
