//! The life of a container's command: start it, forward signals to it, learn how it ended.
//!
//! One thread, which reads signals from a descriptor: no handler runs, nothing races.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};

use anyhow::Context;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::{Pid, pipe2};

use super::OWN_ERROR;
use super::etc::Etc;
use super::start::{NotStarted, StartArgs};
use crate::signals::FORWARDED;

/// What Docker's `--sig-proxy` forwards and a person sends, and the news of the child itself.
pub(super) fn forwarded_signals() -> SigSet {
    SigSet::from_iter(FORWARDED.into_iter().chain([Signal::SIGCHLD]))
}

pub(super) struct Supervised {
    child: Child,
    signals: SignalFd,
}

/// Starts the command in this process's network namespace, with mounts and a host name of its own
/// if it is given an `etc`, and returns once it runs. `stdio` is its input, output and error output.
///
/// From here on the calling thread has [`forwarded_signals`] blocked: they belong to the command.
///
/// A command that can't be started is a [`NotStarted`].
pub(super) fn spawn(
    command: &[OsString],
    etc: Option<&Etc>,
    stdio: [Stdio; 3],
) -> anyhow::Result<Supervised> {
    let signals = forwarded_signals();
    signals.thread_block().context("cannot block signals")?;
    let signals = SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC)
        .context("cannot open a descriptor for signals")?;
    let (status, theirs) = pipe2(OFlag::O_CLOEXEC).context("cannot open a pipe")?;
    // Nothing else is started while this one descriptor can be inherited: there is one thread.
    fcntl(&theirs, FcntlArg::F_SETFD(FdFlag::empty())).context("cannot pass on a pipe")?;

    let [input, output, errors] = stdio;
    let mut child = Command::new("/proc/self/exe")
        .arg0("pontoon")
        .args(StartArgs::words(theirs.as_raw_fd(), etc, command))
        .stdin(input)
        .stdout(output)
        .stderr(errors)
        .spawn()
        .context("cannot start a process for the command (/proc/self/exe)")?;
    drop(theirs);

    let mut failure = String::new();
    let heard = File::from(status).read_to_string(&mut failure);
    if let (Ok(0), true) = (&heard, failure.is_empty()) {
        return Ok(Supervised { child, signals });
    }
    let _ = child.wait();
    heard.context("cannot hear from the command's process")?;
    let (code, message) = failure.split_once(' ').unwrap_or(("", &failure));
    let code = code.parse().unwrap_or(OWN_ERROR);
    Err(NotStarted {
        code,
        message: message.to_owned(),
    }
    .into())
}

impl Supervised {
    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Forwards signals until the command ends; returns its exit code, or 128 + N for signal N.
    ///
    /// The daemon sends SIGCHLD, which no process takes amiss, when the container's networks have
    /// changed: then `changed` is called.
    pub(super) fn wait(mut self, mut changed: impl FnMut()) -> anyhow::Result<u8> {
        loop {
            if let Some(status) = self
                .child
                .try_wait()
                .context("cannot wait for the command")?
            {
                return Ok(exit_code(status));
            }
            match self.signals.read_signal() {
                Ok(Some(signal))
                    if signal.ssi_signo == Signal::SIGCHLD as u32
                        && signal.ssi_code == nix::libc::SI_USER =>
                {
                    changed();
                }
                Ok(Some(signal)) => self.forward(signal.ssi_signo, signal.ssi_code),
                Ok(None) | Err(Errno::EINTR) => {}
                Err(errno) => {
                    return Err(io::Error::from(errno)).context("cannot read signals");
                }
            }
        }
    }

    fn forward(&self, number: u32, code: i32) {
        let signal = i32::try_from(number)
            .ok()
            .and_then(|number| Signal::try_from(number).ok());
        match signal {
            None | Some(Signal::SIGCHLD) => {}
            // The kernel itself sends these for a terminal (Ctrl-C, hang-up), and to the whole
            // foreground process group: the command has its own, and a second one might mean more.
            Some(_) if code == nix::libc::SI_KERNEL => {}
            Some(signal) => {
                let Ok(pid) = i32::try_from(self.child.id()) else {
                    return;
                };
                // It may have just ended; not yet waited for, its id is no other process's.
                let _ = kill(Pid::from_raw(pid), signal);
            }
        }
    }
}

/// As a shell tells it.
fn exit_code(status: ExitStatus) -> u8 {
    let code = match (status.code(), status.signal()) {
        (Some(code), _) => code,
        (None, signal) => 128 + signal.unwrap_or(0),
    };
    u8::try_from(code).unwrap_or(OWN_ERROR)
}
