//! Programs: run to their end within a limit, or in the background, tied to the life of this one.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::prctl;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::{Pid, getppid};

use crate::interrupt;

/// Long enough for any command of a set-up, on a machine that is busy.
const LIMIT: Duration = Duration::from_secs(60);

/// The file descriptors that a program in the background may have: what a service would be given.
const FILES: u64 = 131_072;

/// What a finished program wrote to its standard output, and how long it took.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) stdout: String,
    pub(crate) took: Duration,
}

/// Runs a program to its end, at most a minute.
///
/// # Errors
///
/// It can't be started, fails (the error tells what it wrote), takes too long, or the run is
/// interrupted.
pub(crate) fn run(command: &mut Command) -> Result<Finished> {
    run_with(command, b"", LIMIT)
}

/// The same, with standard input and a limit.
///
/// # Errors
///
/// As [`run`].
pub(crate) fn run_with(command: &mut Command, input: &[u8], limit: Duration) -> Result<Finished> {
    interrupt::check()?;
    let text = describe(command);
    let mut stdin = tempfile::tempfile().context("make a temporary file")?;
    stdin.write_all(input).context("write a temporary file")?;
    stdin.rewind().context("rewind a temporary file")?;
    // Files, not pipes: a daemon left behind by the program can't hold the run up.
    let mut stdout = tempfile::tempfile().context("make a temporary file")?;
    let mut stderr = tempfile::tempfile().context("make a temporary file")?;
    command.stdin(stdin);
    command
        .stdout(stdout.try_clone()?)
        .stderr(stderr.try_clone()?);
    let start = Instant::now();
    let mut child = command.spawn().with_context(|| format!("start {text}"))?;
    let status = loop {
        if let Some(status) = child.try_wait().context("wait for a child")? {
            break status;
        }
        let elapsed = start.elapsed();
        let stop = interrupt::check().err();
        if elapsed > limit || stop.is_some() {
            let _ = child.kill();
            let _ = child.wait();
            match stop {
                Some(error) => return Err(error),
                None => bail!("{text} did not end within {limit:?}"),
            }
        }
        // The pause is what a time can be wrong by: 1 %.
        let pause = elapsed / 100;
        thread::sleep(pause.clamp(Duration::from_micros(50), Duration::from_millis(20)));
    };
    let took = start.elapsed();
    let stdout = read_back(&mut stdout)?;
    if !status.success() {
        let stderr = read_back(&mut stderr)?;
        let said = format!("{} {}", stderr.trim(), stdout.trim());
        bail!("{text}: {status}: {}", said.trim());
    }
    Ok(Finished { stdout, took })
}

fn read_back(file: &mut File) -> Result<String> {
    let mut bytes = Vec::new();
    file.rewind().context("rewind a temporary file")?;
    file.read_to_end(&mut bytes)
        .context("read a temporary file")?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Program and arguments as one line: without the way into a namespace, whose name differs from run
/// to run, and cut short, as 10,000 published ports are one command.
fn describe(command: &Command) -> String {
    let program = command.get_program().to_string_lossy();
    let mut words = vec![program];
    words.extend(command.get_args().map(OsStr::to_string_lossy));
    let words = match &words[..] {
        [ip, netns, exec, _, rest @ ..] if ip == "ip" && netns == "netns" && exec == "exec" => rest,
        all => all,
    };
    let mut text = String::new();
    for word in words {
        if text.len() > 100 {
            text.push_str(" …");
            break;
        }
        let name = word.rsplit('/').next().unwrap_or_default();
        match text.is_empty() {
            true if name == "exe" => text.push_str("compare"),
            true => text.push_str(name),
            false => {
                text.push(' ');
                text.push_str(word);
            }
        }
    }
    text
}

/// A program in the background, in a process group of its own; dropping it kills the group.
#[derive(Debug)]
pub(crate) struct Background {
    child: Child,
    text: String,
    log: PathBuf,
}

impl Background {
    /// Starts a program through `compare tether`, which the kernel ends when this process dies.
    /// Its output goes to the file `log`; its standard input stays open and silent.
    ///
    /// # Errors
    ///
    /// It can't be started.
    pub(crate) fn start(
        namespace: Option<&str>,
        program: impl AsRef<OsStr>,
        arguments: &[&str],
        environment: &[(&str, &Path)],
        log: &Path,
    ) -> Result<Background> {
        let program = program.as_ref();
        let text = format!("{} {}", program.to_string_lossy(), arguments.join(" "));
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(log)
            .with_context(|| format!("write {}", log.display()))?;
        let mut command = Command::new("/proc/self/exe");
        command.arg("tether").arg("--");
        if let Some(namespace) = namespace {
            command.args(["ip", "netns", "exec", namespace]);
        }
        command.arg(program).args(arguments);
        command.envs(environment.iter().copied());
        command.process_group(0).stdin(Stdio::piped());
        command.stdout(file.try_clone()?).stderr(file);
        let child = command.spawn().with_context(|| format!("start {text}"))?;
        Ok(Background {
            child,
            text,
            log: log.to_owned(),
        })
    }

    /// Of the program, which takes the place of all that leads to it.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until `ready` says so.
    ///
    /// # Errors
    ///
    /// The program ends before, or it takes more than 15 seconds; the error tells the end of its
    /// log.
    pub(crate) fn wait_until(&mut self, what: &str, ready: impl FnMut() -> bool) -> Result<()> {
        let mut ready = ready;
        let start = Instant::now();
        let mut pause = Duration::from_micros(200);
        while !ready() {
            interrupt::check()?;
            let ended = self.child.try_wait().context("wait for a child")?;
            let how = match ended {
                Some(status) => format!("it ended: {status}"),
                None if start.elapsed() > Duration::from_secs(15) => "15 s have passed".to_owned(),
                None => {
                    thread::sleep(pause);
                    pause = (pause * 5 / 4).min(Duration::from_millis(5));
                    continue;
                }
            };
            let log = fs::read_to_string(&self.log).unwrap_or_default();
            let skipped = log.lines().count().saturating_sub(5);
            let tail: Vec<&str> = log.lines().skip(skipped).collect();
            bail!("{}: not {what}, {how}: {}", self.text, tail.join(" / "));
        }
        Ok(())
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        if let Ok(pid) = i32::try_from(self.child.id()) {
            // Not reaped yet, so the number is still ours.
            let _ = killpg(Pid::from_raw(pid), Signal::SIGKILL);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `compare tether -- PROGRAM`: becomes the program, to be killed by the kernel when the parent
/// dies, however suddenly (PR_SET_PDEATHSIG survives exec, prctl(2)); with [`FILES`] file
/// descriptors, as some publishers take one or two a port.
///
/// # Errors
///
/// The program can't be executed.
pub(crate) fn tether(command: &[OsString]) -> Result<()> {
    die_with_parent()?;
    interrupt::unblock()?;
    // Root may raise the hard limit, up to fs.nr_open; where it may not, the old one must do.
    if setrlimit(Resource::RLIMIT_NOFILE, FILES, FILES).is_err()
        && let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
    {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard).context("raise the limit of files")?;
    }
    let Some((program, arguments)) = command.split_first() else {
        bail!("tether: no program is given");
    };
    let error = Command::new(program).args(arguments).exec();
    Err(error).with_context(|| format!("execute {}", program.to_string_lossy()))
}

/// Asks the kernel to kill this process when its parent dies.
pub(crate) fn die_with_parent() -> Result<()> {
    prctl::set_pdeathsig(Signal::SIGKILL).context("tie this process to its parent")?;
    if getppid() == Pid::from_raw(1) {
        bail!("the parent is gone already");
    }
    Ok(())
}

/// The file of a program, by name or whole path, looked for where root's programs are too.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let more = ["/usr/sbin", "/sbin", "/usr/libexec/docker"];
    std::env::split_paths(&path)
        .chain(more.map(PathBuf::from))
        .map(|directory| directory.join(program))
        .find(|file| file.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptions_leave_the_namespace_out() {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", "ptcmp-1-2-host", "/tmp/x/pontoon", "info"]);
        assert_eq!(describe(&command), "pontoon info");
        command = Command::new("/proc/self/exe");
        assert_eq!(describe(command.arg("call")), "compare call");
    }
}
