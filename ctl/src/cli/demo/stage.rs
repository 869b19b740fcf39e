//! Everything the demo sets up and takes away again: the host and the outside host in namespaces
//! of their own, the wire between them, the daemon, the containers, and the commands typed there.
//!
//! All that is done to pontoon is done by its own commands, as a user would type them.

use std::fs::{self, File};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use serde::de::DeserializeOwned;
use switch::io::has_ipv6;
use tempfile::TempDir;

use super::interrupt;
use super::peer;
use super::wire::{End, Wire, add_ipv6};
use crate::api::{Container, PortKind, Target};
use crate::netns::Netns;

/// The two ends of the wire (RFC 5737: TEST-NET-1, for documentation).
pub(super) const UPLINK: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
pub(super) const OUTSIDE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
/// The same by IPv6 (RFC 3849), where the kernel has it.
pub(super) const UPLINK_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
pub(super) const OUTSIDE_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2);

/// No step takes this long on any machine the demo runs on; it ends rather than hangs.
const PATIENCE: Duration = Duration::from_secs(10);
/// What a process gets to end in when it is asked to.
const GRACE: Duration = Duration::from_secs(2);
/// Between two looks at whether something has happened.
const LONGEST_PAUSE: Duration = Duration::from_millis(8);
/// How much of the daemon's log a failure shows.
const LOG_LINES: usize = 20;

/// Where a command is typed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Host,
    Outside,
}

impl Place {
    pub(super) fn name(self) -> &'static str {
        match self {
            Place::Host => "host",
            Place::Outside => "outside",
        }
    }
}

pub(super) struct Stage {
    directory: TempDir,
    host: Netns,
    outside: Netns,
    wire: Wire,
    ipv6: bool,
    daemon: Option<Child>,
    server: Option<Child>,
    /// The processes that hold the containers' namespaces.
    containers: Vec<Pid>,
    /// Output files so far.
    outputs: usize,
}

impl Stage {
    /// Two namespaces, the wire between them and a directory for the daemon; nothing runs yet.
    pub(super) fn build(wire: Option<PortKind>) -> Result<Stage> {
        // A container's process leaves its parent when it goes to the background. As their
        // subreaper the demo can wait for its end.
        prctl::set_child_subreaper(true).context("become the subreaper of the containers")?;
        let directory = directory()?;
        let host = Netns::create().context("make the host's network namespace")?;
        let outside = Netns::create().context("make the outside host's network namespace")?;
        let wire = Wire::lay(
            End {
                netns: &host,
                address: UPLINK,
            },
            End {
                netns: &outside,
                address: OUTSIDE,
            },
            wire,
        )?;
        // A sandbox may have IPv6 and forbid its use: then the demo does without.
        let ipv6 = has_ipv6() && add_ipv6((&host, UPLINK_V6), (&outside, OUTSIDE_V6)).is_ok();
        Ok(Stage {
            directory,
            host,
            outside,
            wire,
            ipv6,
            daemon: None,
            server: None,
            containers: Vec::new(),
            outputs: 0,
        })
    }

    pub(super) fn wire_kind(&self) -> PortKind {
        self.wire.kind()
    }

    /// Whether host and outside have IPv6.
    pub(super) fn has_ipv6(&self) -> bool {
        self.ipv6
    }

    /// Turns the kernel's own forwarding off in the host's namespace, so that nothing but pontoon
    /// can be what forwards, and reads back what is set.
    pub(super) fn forbid_kernel_forwarding(&self) -> Result<String> {
        // /proc/sys/net shows the namespace of the thread that looks.
        let path = "/proc/sys/net/ipv4/ip_forward";
        let read = self.host.run(|| {
            // Read-only in some sandboxes; what matters is what is read back.
            let _ = fs::write(path, "0");
            fs::read_to_string(path)
        });
        let value = read
            .and_then(|value| value)
            .with_context(|| format!("read {path}"))?;
        Ok(value.trim().to_owned())
    }

    /// Starts `pontoon daemon` in the host's namespace and waits until it answers.
    pub(super) fn start_daemon(&mut self, port_kind: Option<PortKind>) -> Result<String> {
        let socket = self.socket();
        let log = File::create(self.log_path()).context("create the daemon's log")?;
        let mut arguments = vec!["daemon"];
        if let Some(kind) = port_kind {
            arguments.extend(["--port-kind", kind.name()]);
        }
        // On the demo's own directories, of which a user's daemon has its own as well.
        let child = self
            .command(Place::Host, &["demo", "--tether"])?
            .args(&arguments)
            .arg("--state-dir")
            .arg(self.directory.path().join("state"))
            .arg("--run-dir")
            .arg(self.directory.path().join("run"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().context("share the daemon's log")?)
            .stderr(log)
            .spawn()
            .context("start the daemon")?;
        let daemon = self.daemon.insert(child);
        wait_for("the daemon answers on its socket", || {
            if let Some(status) = daemon.try_wait()? {
                bail!("the daemon ended at once ({status})");
            }
            Ok(UnixStream::connect(&socket).ok())
        })?;
        Ok(typed(&arguments))
    }

    /// Starts the small server in the outside host's namespace.
    pub(super) fn start_outside_server(&mut self, port: u16) -> Result<String> {
        let port = port.to_string();
        let arguments = ["demo", "--serve", &port];
        let log = File::create(self.directory.path().join("outside.log"))
            .context("create the outside server's log")?;
        let child = self
            .command(Place::Outside, &arguments)?
            .stdin(Stdio::null())
            .stdout(log.try_clone().context("share the outside server's log")?)
            .stderr(log)
            .spawn()
            .context("start the outside server")?;
        self.server = Some(child);
        Ok(typed(&arguments))
    }

    /// `pontoon run -d … --name NAME …`, then what the daemon tells of the new container.
    pub(super) fn start_container(&mut self, name: &str, arguments: &[&str]) -> Result<Container> {
        self.output(Place::Host, arguments)?;
        let containers: Vec<Container> = self.json(&["ps", "--json"])?;
        let container = containers
            .into_iter()
            .find(|container| container.name == name)
            .with_context(|| format!("pontoon ps does not list container {name}"))?;
        if let Target::Pid(pid) = container.target {
            self.containers.push(Pid::from_raw(
                pid.try_into().context("a process id too large")?,
            ));
        }
        Ok(container)
    }

    /// What a command of pontoon's lists, by its `--json`.
    pub(super) fn json<T: DeserializeOwned>(&mut self, arguments: &[&str]) -> Result<T> {
        let text = self.output(Place::Host, arguments)?;
        serde_json::from_str(&text).with_context(|| format!("read what {} says", typed(arguments)))
    }

    /// Runs a command of pontoon's to its end and returns what it printed.
    pub(super) fn output(&mut self, place: Place, arguments: &[&str]) -> Result<String> {
        let mut running = self.spawn(place, arguments)?;
        running.finish().with_context(|| typed(arguments))
    }

    /// Starts a command of pontoon's.
    pub(super) fn spawn(&mut self, place: Place, arguments: &[&str]) -> Result<Running> {
        self.outputs += 1;
        let output = |kind: &str| {
            let path = self
                .directory
                .path()
                .join(format!("{}.{kind}", self.outputs));
            File::create_new(&path)
                .with_context(|| format!("create {}", path.display()))
                .map(|file| (path, file))
        };
        // Files rather than pipes: nobody has to drain them, and a container in the background
        // that inherits them keeps nobody waiting.
        let ((stdout_path, stdout), (stderr_path, stderr)) = (output("out")?, output("err")?);
        let mut child = self
            .command(place, arguments)?
            .stdin(Stdio::piped())
            .stdout(stdout)
            .stderr(stderr)
            .spawn()
            .with_context(|| format!("start {}", typed(arguments)))?;
        let stdin = child.stdin.take();
        Ok(Running {
            what: typed(arguments),
            child,
            stdin,
            stdout_path,
            stderr_path,
        })
    }

    /// The demo's own program as the command `pontoon`, in the namespace of `place`.
    fn command(&self, place: Place, arguments: &[&str]) -> Result<Command> {
        let netns = match place {
            Place::Host => &self.host,
            Place::Outside => &self.outside,
        };
        // A child starts in the namespace of the thread that makes it. This one, the main thread,
        // does nothing else that depends on where it is; and a thread made for the purpose would
        // end, which is when the daemon's parent-death signal fires.
        netns
            .enter()
            .with_context(|| format!("enter the namespace of {}", place.name()))?;
        let mut command = Command::new(self.directory.path().join("pontoon"));
        command
            .arg0("pontoon")
            .args(arguments)
            .env("PATH", search_path(self.directory.path()))
            .env("PONTOON_SOCKET", self.socket())
            .env(peer::DEMO_PID, std::process::id().to_string())
            // Ctrl-C is for the demo, which ends them in good order.
            .process_group(0);
        Ok(command)
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("run/pontoon.sock")
    }

    fn log_path(&self) -> PathBuf {
        self.directory.path().join("daemon.log")
    }

    /// The end of the daemon's log.
    pub(super) fn log_tail(&self) -> String {
        let log = fs::read(self.log_path()).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
    }

    /// Ends every process and removes every file. Namespaces, interfaces and sockets go with
    /// their last user. Tells what did not end when asked to.
    pub(super) fn take_down(mut self) -> Result<()> {
        let stubborn = self.end_processes();
        let path = self.directory.path();
        fs::remove_dir_all(path).with_context(|| format!("remove {}", path.display()))?;
        if !stubborn.is_empty() {
            bail!("{} had to be killed", stubborn.join(" and "));
        }
        Ok(())
    }

    fn end_processes(&mut self) -> Vec<String> {
        let mut stubborn = Vec::new();
        let containers = std::mem::take(&mut self.containers);
        for &pid in &containers {
            let _ = kill(pid, Signal::SIGTERM);
        }
        let deadline = Instant::now() + GRACE;
        for pid in containers {
            if !ended_by(deadline, || has_gone(pid)) {
                let _ = kill(pid, Signal::SIGKILL);
                ended_by(Instant::now() + GRACE, || has_gone(pid));
                stubborn.push(format!("the container of process {pid}"));
            }
        }
        for (name, child) in [
            ("the server outside", &mut self.server),
            ("the daemon", &mut self.daemon),
        ] {
            let Some(mut child) = child.take() else {
                continue;
            };
            if let Ok(pid) = i32::try_from(child.id()) {
                let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
            }
            if !ended_by(Instant::now() + GRACE, || {
                !matches!(child.try_wait(), Ok(None))
            }) {
                let _ = child.kill();
                let _ = child.wait();
                stubborn.push(name.to_owned());
            }
        }
        stubborn
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.end_processes();
    }
}

/// A command of pontoon's that was started.
pub(super) struct Running {
    what: String,
    child: Child,
    stdin: Option<ChildStdin>,
    stdout_path: PathBuf,
    stderr_path: PathBuf,
}

impl Running {
    /// Waits until `lines` whole lines were printed, and leaves the command running.
    pub(super) fn first_lines(&mut self, lines: usize) -> Result<String> {
        loop_until(&self.what, || {
            let ended = self.child.try_wait()?;
            let text = read(&self.stdout_path)?;
            if text.matches('\n').count() >= lines {
                return Ok(Some(text));
            }
            match ended {
                Some(status) => bail!(failure(status, &self.stderr_path)),
                None => Ok(None),
            }
        })
    }

    /// Ends its standard input, waits for its end and returns what it printed.
    pub(super) fn finish(&mut self) -> Result<String> {
        self.stdin = None;
        let status = loop_until(&self.what, || Ok(self.child.try_wait()?))?;
        if !status.success() {
            bail!(failure(status, &self.stderr_path));
        }
        read(&self.stdout_path)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("read {}", path.display()))
}

/// What a command that failed said of it.
fn failure(status: ExitStatus, stderr: &Path) -> String {
    let said = fs::read(stderr).unwrap_or_default();
    let said = String::from_utf8_lossy(&said);
    match said.trim() {
        "" => status.to_string(),
        said => said.strip_prefix("pontoon: ").unwrap_or(said).to_owned(),
    }
}

/// A directory for the daemon's state, socket and log, where Unix sockets work: not every
/// temporary directory has that (hostfs, a path beyond 107 bytes).
fn directory() -> Result<TempDir> {
    let mut last = None;
    for parent in [std::env::temp_dir(), "/run".into(), "/dev/shm".into()] {
        let attempt = || -> Result<TempDir> {
            let directory = tempfile::Builder::new()
                .prefix("pontoon-demo-")
                .tempdir_in(&parent)
                .with_context(|| format!("make a directory in {}", parent.display()))?;
            let run = directory.path().join("run");
            fs::create_dir(&run).with_context(|| format!("make {}", run.display()))?;
            let socket = run.join("pontoon.sock");
            UnixListener::bind(&socket)
                .with_context(|| format!("make a socket at {}", socket.display()))?;
            fs::remove_file(&socket)
                .with_context(|| format!("remove the socket {}", socket.display()))?;
            // So that `pontoon` is this very program for everyone the demo starts. It resolves to
            // the program of the process that executes it, which is pontoon every time.
            std::os::unix::fs::symlink("/proc/self/exe", directory.path().join("pontoon"))
                .with_context(|| format!("make a link in {}", directory.path().display()))?;
            Ok(directory)
        };
        match attempt() {
            Ok(directory) => return Ok(directory),
            Err(error) => last = Some(error),
        }
    }
    let error = last.unwrap_or_else(|| anyhow::anyhow!("no directory to try"));
    Err(error.context("no place for the daemon's socket (set TMPDIR to a directory for it)"))
}

fn search_path(first: &Path) -> std::ffi::OsString {
    let mut path = first.as_os_str().to_owned();
    if let Some(rest) = std::env::var_os("PATH") {
        path.push(":");
        path.push(rest);
    }
    path
}

/// A command line of pontoon's as a user types it.
pub(super) fn typed(arguments: &[&str]) -> String {
    format!("pontoon {}", arguments.join(" "))
}

fn has_gone(pid: Pid) -> bool {
    match waitpid(pid, Some(WaitPidFlag::WNOHANG)) {
        Ok(WaitStatus::StillAlive) => false,
        // Not handed to the demo (yet): its parent still lives.
        Err(Errno::ECHILD) => kill(pid, None) == Err(Errno::ESRCH),
        _ => true,
    }
}

fn ended_by(deadline: Instant, mut gone: impl FnMut() -> bool) -> bool {
    loop {
        if gone() {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn wait_for<T>(what: &str, poll: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    loop_until(&format!("waited until {what}"), poll)
}

/// Polls until there is a value, an error, an interrupt, or no patience left.
fn loop_until<T>(what: &str, mut poll: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let deadline = Instant::now() + PATIENCE;
    let mut pause = Duration::from_millis(1);
    loop {
        interrupt::check()?;
        if let Some(value) = poll()? {
            return Ok(value);
        }
        if Instant::now() >= deadline {
            bail!("{what}: nothing happened for {} s", PATIENCE.as_secs());
        }
        std::thread::sleep(pause);
        // On one CPU, looking takes time from whom one waits for.
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}
