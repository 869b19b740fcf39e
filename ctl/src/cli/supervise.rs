//! The life of a container's command: start it, forward signals to it, learn how it ended, and end
//! what it leaves behind.
//!
//! One thread, which reads signals from a descriptor: no handler runs, nothing races.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::sys::prctl::set_child_subreaper;
use nix::sys::signal::Signal;
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::{Pid, getpgid, getpgrp, getsid, pipe2};
use rustix::process::{WaitOptions, wait};
use switch::io::signal_process;

use super::OWN_ERROR;
use super::etc::Etc;
use super::start::{NotStarted, READY, StartArgs};
use crate::signals;

/// How long what a command leaves behind may take to be gone; only the kernel can hold it up.
const AFTER_KILL: Duration = Duration::from_secs(2);

/// A process that is to become the command, in this process's network namespace. Dropping it ends
/// it.
pub(super) struct Prepared {
    child: Child,
    status: BufReader<File>,
    order: Option<File>,
}

pub(super) struct Supervised {
    child: Pid,
    signals: SignalFd,
    /// Whether what the command orphans becomes this process's child.
    adopts: bool,
}

/// Starts the process, with mounts and a host name of its own if it is to be isolated. `stdio` is
/// its input, output and error output.
pub(super) fn prepare(
    command: &[OsString],
    isolate: bool,
    stdio: [Stdio; 3],
) -> anyhow::Result<Prepared> {
    let (status, their_status) = pipe2(OFlag::O_CLOEXEC).context("cannot open a pipe")?;
    let (their_order, order) = pipe2(OFlag::O_CLOEXEC).context("cannot open a pipe")?;
    for theirs in [&their_status, &their_order] {
        // Nothing else is started while these can be inherited: there is one thread.
        fcntl(theirs, FcntlArg::F_SETFD(FdFlag::empty())).context("cannot pass on a pipe")?;
    }
    let (status_fd, order_fd) = (their_status.as_raw_fd(), their_order.as_raw_fd());
    let [input, output, errors] = stdio;
    let child = Command::new("/proc/self/exe")
        .arg0("pontoon")
        .args(StartArgs::words(status_fd, order_fd, isolate, command))
        .stdin(input)
        .stdout(output)
        .stderr(errors)
        .spawn()
        .context("cannot start a process for the command (/proc/self/exe)")?;
    let _: (OwnedFd, OwnedFd) = (their_status, their_order);
    let mut prepared = Prepared {
        child,
        status: BufReader::new(status.into()),
        order: Some(order.into()),
    };
    let mut line = String::new();
    let heard = prepared.status.read_line(&mut line);
    heard.context("cannot hear from the command's process")?;
    if line.trim_end() != READY {
        return Err(prepared.not_started(line));
    }
    Ok(prepared)
}

impl Prepared {
    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Starts the command, whose files `etc` are, and returns once it runs.
    ///
    /// From here on the calling thread has [`signals::forwarded`] blocked: they belong to the
    /// command.
    ///
    /// # Errors
    /// A command that can't be started is a [`NotStarted`].
    pub(super) fn start(mut self, etc: Option<&Etc>) -> anyhow::Result<Supervised> {
        let signals = signals::forwarded();
        signals.thread_block().context("cannot block signals")?;
        let signals = SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC)
            .context("cannot open a descriptor for signals")?;
        // What the command orphans becomes this process's child, to be ended with it. A kernel
        // without this (before 3.4) leaves it to init. A shell that became this process may have
        // children, whose orphans are not the command's.
        let child = self.child.id();
        let alone = children()
            .into_iter()
            .all(|it| u32::try_from(it) == Ok(child));
        let adopts = alone && set_child_subreaper(true).is_ok();
        if let Some(mut order) = self.order.take() {
            // If it has ended, it has said why.
            let _ = writeln!(order, "{}", serde_json::json!(etc));
        }
        let mut failure = String::new();
        let heard = self.status.read_to_string(&mut failure);
        heard.context("cannot hear from the command's process")?;
        if !failure.is_empty() {
            return Err(self.not_started(failure));
        }
        let pid = i32::try_from(self.child.id()).context("not a process id")?;
        Ok(Supervised {
            child: Pid::from_raw(pid),
            signals,
            adopts,
        })
    }

    fn not_started(&mut self, failure: String) -> anyhow::Error {
        self.order = None;
        let _ = self.child.wait();
        let (code, message) = failure.split_once(' ').unwrap_or(("", &failure));
        let code = code.parse().unwrap_or(OWN_ERROR);
        let message = match message.trim_end() {
            "" => "the command's process ended before the command was started".to_owned(),
            message => message.to_owned(),
        };
        NotStarted { code, message }.into()
    }
}

impl Drop for Prepared {
    fn drop(&mut self) {
        // It was told to start the command, and belongs to a `Supervised`.
        if self.order.take().is_some() {
            let _ = self.child.wait();
        }
    }
}

impl Supervised {
    /// Forwards signals until the command ends; returns its exit code, or 128 + N for signal N.
    /// All that the command has left behind is ended too.
    ///
    /// The daemon sends SIGCHLD, which no process takes amiss, when the container's networks have
    /// changed: then `changed` is called.
    pub(super) fn wait(self, mut changed: impl FnMut()) -> anyhow::Result<u8> {
        loop {
            if let Some(code) = self.reap()? {
                if self.adopts {
                    end_orphans();
                }
                return Ok(code);
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

    /// Takes up the ends of all children that have ended; the command's exit code if it is among
    /// them.
    fn reap(&self) -> anyhow::Result<Option<u8>> {
        let mut code = None;
        loop {
            let (pid, status) = match wait(WaitOptions::NOHANG) {
                Ok(Some(ended)) => ended,
                Ok(None) => return Ok(code),
                Err(rustix::io::Errno::CHILD) if code.is_some() => return Ok(code),
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => return Err(error).context("cannot wait for the command"),
            };
            if pid.as_raw_nonzero().get() != self.child.as_raw() {
                continue;
            }
            // As a shell tells it.
            let signal = status.terminating_signal().map(|signal| 128 + signal);
            let ended = status.exit_status().or(signal);
            code = ended
                .map(|code| u8::try_from(code).unwrap_or(OWN_ERROR))
                .or(code);
        }
    }

    fn forward(&self, number: u32, code: i32) {
        let Ok(number) = i32::try_from(number) else {
            return;
        };
        if number == Signal::SIGCHLD as i32 || self.has_it_already(number, code) {
            return;
        }
        // It may have just ended; not yet waited for, its id is no other process's.
        let _ = signal_process(self.child.as_raw(), number);
    }

    /// The kernel sends what happens at a terminal (Ctrl-C, a new size) to the whole foreground
    /// process group: a command in this process's group has its own, and a second one might mean
    /// more. Of a hang-up it tells the leader of the session alone, and wakes it up (setsid(2)).
    fn has_it_already(&self, number: i32, code: i32) -> bool {
        let hang_up = [Signal::SIGHUP as i32, Signal::SIGCONT as i32].contains(&number);
        let leads = getsid(None).is_ok_and(|session| session == Pid::this());
        code == nix::libc::SI_KERNEL
            && !(hang_up && leads)
            && getpgid(Some(self.child)).is_ok_and(|group| group == getpgrp())
    }
}

/// Ends all children, and their children, which become this process's then.
fn end_orphans() {
    let limit = Instant::now() + AFTER_KILL;
    loop {
        match wait(WaitOptions::NOHANG) {
            Ok(None) => {}
            Ok(Some(_)) | Err(rustix::io::Errno::INTR) => continue,
            Err(_) => return,
        }
        for child in children() {
            let _ = signal_process(child, Signal::SIGKILL as i32);
        }
        if Instant::now() > limit {
            return;
        }
        thread::sleep(Duration::from_millis(1));
    }
}

/// The children of this process. None where /proc counts processes of another PID namespace.
fn children() -> Vec<i32> {
    let own = Pid::this().as_raw();
    let seen = fs::read_link("/proc/self").ok();
    if seen.and_then(|it| it.to_str()?.parse().ok()) != Some(own) {
        return Vec::new();
    }
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid| parent_of(*pid) == Some(own)).collect()
}

/// Field 4 of /proc/PID/stat (proc(5)); the second may hold blanks and parentheses itself.
fn parent_of(pid: i32) -> Option<i32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    fields.nth(1)?.parse().ok()
}
