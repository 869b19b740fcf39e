//! The last step before a container's command: the process that `run` starts, and that becomes the
//! command.
//!
//! It exists because the standard library sets a child up safely only before it forks: tying the
//! child's life to its parent's, its mounts, its host name and its signal mask need code that runs
//! in the child, and a second `execve` is the way to run it without `unsafe`.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use clap::Args;
use nix::fcntl::{OFlag, open};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use nix::sys::statvfs::{FsFlags, statvfs};
use nix::unistd::{Pid, close, getppid};

use super::OWN_ERROR;
use super::etc::Etc;
use crate::signals;

/// What it says when the command can be started.
pub(super) const READY: &str = "ready";

/// The hidden subcommand.
pub(super) const NAME: &str = "start-container-command";

/// Why a command was not started, with the exit code that Docker gives for it: 126 for what cannot
/// be executed, 127 for what is not found, 125 for anything else.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(super) struct NotStarted {
    pub(super) code: u8,
    pub(super) message: String,
}

#[derive(Args)]
pub(super) struct StartArgs {
    /// A descriptor that is told of the progress: the line `READY`, and then, if the command was
    /// not started, why, as `CODE MESSAGE`. It closes without that when the command runs.
    #[arg(long)]
    status_fd: RawFd,
    /// A descriptor that says when to start: one line, the container's name and files (JSON), or
    /// `null`. If it closes without one, the command is not started.
    #[arg(long)]
    order_fd: RawFd,
    /// Isolate mounts and host name
    #[arg(long)]
    isolate: bool,
    /// The supervisor's process id
    #[arg(long)]
    supervisor: i32,
    #[arg(required = true, trailing_var_arg = true)]
    pub(super) command: Vec<OsString>,
}

impl StartArgs {
    /// The command line that `run` reads back into arguments, without the program.
    pub(super) fn words(
        status_fd: RawFd,
        order_fd: RawFd,
        isolate: bool,
        command: &[OsString],
    ) -> Vec<OsString> {
        let mut words: Vec<OsString> = vec![
            NAME.into(),
            format!("--status-fd={status_fd}").into(),
            format!("--order-fd={order_fd}").into(),
            format!("--supervisor={}", Pid::this()).into(),
        ];
        words.extend(isolate.then(|| "--isolate".into()));
        words.push("--".into());
        words.extend(command.iter().cloned());
        words
    }
}

/// Returns only when the command was not started.
pub(super) fn run(args: StartArgs) -> ExitCode {
    let adopted = (
        adopt(args.status_fd, File::options().write(true)),
        adopt(args.order_fd, File::options().read(true)),
    );
    let (mut status, order) = match adopted {
        (Ok(status), Ok(order)) => (status, order),
        (Err(error), _) | (_, Err(error)) => {
            super::complain(&anyhow::Error::from(error).context("cannot reach the supervisor"));
            return ExitCode::from(OWN_ERROR);
        }
    };
    let NotStarted { code, message } = become_command(&args, &mut status, order);
    // The supervisor reads until the pipe closes; if it is gone, nobody is left to tell.
    let _ = write!(status, "{code} {message}");
    ExitCode::from(code)
}

fn become_command(args: &StartArgs, status: &mut File, order: File) -> NotStarted {
    let own_error = |message: String| NotStarted {
        code: OWN_ERROR,
        message,
    };
    // A supervisor that is killed outright can't end its command, so the kernel does, unless the
    // command changes its user; then the daemon does.
    if let Err(errno) = set_pdeathsig(Signal::SIGKILL) {
        return own_error(format!("cannot tie the command to its supervisor: {errno}"));
    }
    // The parent may have died before that call; prctl(2) tells only of later deaths.
    if getppid() != Pid::from_raw(args.supervisor) {
        return own_error("the supervisor is gone".to_owned());
    }
    let isolation = args.isolate.then(Isolation::new);
    let mut line = String::new();
    let ordered =
        writeln!(status, "{READY}").and_then(|()| BufReader::new(order).read_line(&mut line));
    let etc: Option<Etc> = match (ordered, serde_json::from_str(&line)) {
        (Ok(_), Ok(etc)) => etc,
        _ => return own_error("the supervisor has changed its mind".to_owned()),
    };
    if let (Some(isolation), Some(etc)) = (isolation, &etc) {
        isolation.furnish(etc);
    }
    // Blocked in the supervisor, which reads them from a descriptor, and inherited from it.
    if let Err(errno) = signals::forwarded().thread_unblock() {
        return own_error(format!("cannot unblock signals: {errno}"));
    }
    replace_process(&args.command)
}

/// Takes over an inherited descriptor so that it closes when the command starts.
fn adopt(descriptor: RawFd, options: &OpenOptions) -> io::Result<File> {
    // A number can't become an owned descriptor safely; opening it anew through /proc can, and
    // sets close-on-exec.
    let file = options.open(format!("/proc/self/fd/{descriptor}"))?;
    close(descriptor)?;
    Ok(file)
}

/// Becomes the command; returns why it could not.
pub(super) fn replace_process(command: &[OsString]) -> NotStarted {
    let Some((program, arguments)) = command.split_first() else {
        return NotStarted {
            code: OWN_ERROR,
            message: "no command was given".to_owned(),
        };
    };
    // What printing put into a buffer would be lost.
    let _ = io::stdout().flush();
    let error = Command::new(program).args(arguments).exec();
    let code = if error.kind() == io::ErrorKind::NotFound {
        127
    } else {
        126
    };
    let program = program.display();
    let message = match error.kind() {
        io::ErrorKind::NotFound => format!("cannot run `{program}`: it is not found"),
        _ => format!("cannot run `{program}`: {error}"),
    };
    NotStarted { code, message }
}

/// Mounts and a host name of a process's own, in so far as it is permitted to have them: a command
/// runs without them too.
pub(super) struct Isolation {
    host_name: bool,
    mounts: bool,
}

impl Isolation {
    /// Separates the calling process's from those of all others.
    pub(super) fn new() -> Isolation {
        Isolation {
            host_name: unshare(CloneFlags::CLONE_NEWUTS).is_ok(),
            mounts: unshare_mounts().is_ok(),
        }
    }

    /// Gives the process what a container finds.
    pub(super) fn furnish(self, etc: &Etc) {
        if self.host_name {
            // Fails on a name longer than the kernel's 64 bytes: the host's name stays.
            let _ = nix::unistd::sethostname(&etc.hostname);
        }
        if self.mounts {
            let _ = etc.cover();
            let _ = mount_own_sysfs();
        }
    }
}

/// Nothing that is mounted from here on shows up on the host, while the host's mounts still arrive.
fn unshare_mounts() -> nix::Result<()> {
    const NOTHING: Option<&str> = None;
    unshare(CloneFlags::CLONE_NEWNS)?;
    let flags = MsFlags::MS_SLAVE | MsFlags::MS_REC;
    mount(NOTHING, "/", NOTHING, flags, NOTHING)
}

/// A sysfs that was mounted elsewhere goes on showing the interfaces of its mounter's network
/// namespace, so the container gets a fresh one, as from `ip netns exec`. It covers the host's,
/// whose control groups are carried over.
fn mount_own_sysfs() -> nix::Result<()> {
    const NOTHING: Option<&str> = None;
    let cgroups = open(
        "/sys/fs/cgroup",
        OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC,
        Mode::empty(),
    );
    let mut flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    // What was read-only stays so; the kernel insists on it in a user namespace.
    if statvfs("/sys")?.flags().contains(FsFlags::ST_RDONLY) {
        flags |= MsFlags::MS_RDONLY;
    }
    mount(Some("pontoon"), "/sys", Some("sysfs"), flags, NOTHING)?;
    if let Ok(cgroups) = cgroups {
        let covered = PathBuf::from(format!("/proc/self/fd/{}", cgroups.as_raw_fd()));
        let bind = MsFlags::MS_BIND | MsFlags::MS_REC;
        // Without CONFIG_CGROUPS there is no such directory.
        let _ = mount(Some(&covered), "/sys/fs/cgroup", NOTHING, bind, NOTHING);
    }
    Ok(())
}
