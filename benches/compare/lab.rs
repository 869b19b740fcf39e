//! What one topology is made of: namespaces, programs in the background, a directory. Dropping the
//! lab removes all of it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use anyhow::{Context, Result, bail};
use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::process::{Background, run, run_with};

/// Of the name of every namespace and temporary directory; the pid of the runner follows.
const PREFIX: &str = "ptcmp-";

/// A network namespace in the care of `ip netns`, with `lo` up. A name only: the lab removes it.
#[derive(Clone, Debug)]
pub(crate) struct Namespace {
    name: String,
}

impl Namespace {
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The file that holds the namespace.
    pub(crate) fn path(&self) -> PathBuf {
        Path::new("/run/netns").join(&self.name)
    }

    /// A program in the namespace.
    pub(crate) fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]).arg(program);
        command
    }

    /// Lines for `ip -batch` in the namespace.
    pub(crate) fn ip(&self, lines: &str) -> Result<()> {
        let mut command = Command::new("ip");
        command.args(["-n", &self.name, "-batch", "-"]);
        let limit = std::time::Duration::from_secs(30);
        run_with(&mut command, lines.as_bytes(), limit).with_context(|| format!("ip: {lines}"))?;
        Ok(())
    }

    /// A line of shell in the namespace.
    pub(crate) fn sh(&self, line: &str) -> Result<()> {
        run(self.command("sh").args(["-ec", line]))?;
        Ok(())
    }

    /// Runs `action` on a thread in the namespace.
    ///
    /// # Errors
    ///
    /// The namespace is gone.
    pub(crate) fn within<T: Send>(&self, action: impl FnOnce() -> T + Send) -> Result<T> {
        let path = self.path();
        let inside = || -> Result<T> {
            enter(&path)?;
            Ok(action())
        };
        match thread::scope(|scope| scope.spawn(inside).join()) {
            Ok(result) => result,
            Err(_) => bail!("a thread in {} panicked", self.name),
        }
    }

    /// Does a TCP socket listen on a port here?
    pub(crate) fn listens(&self, port: u16) -> bool {
        // `sl local_address rem_address st`: the port in hexadecimal after the colon, 0A is LISTEN.
        let local = format!(":{port:04X}");
        self.within(move || {
            ["tcp", "tcp6"].iter().any(|table| {
                let table = fs::read_to_string(format!("/proc/thread-self/net/{table}"));
                table.unwrap_or_default().lines().any(|line| {
                    let mut fields = line.split_whitespace().skip(1);
                    let ends = fields.next().is_some_and(|field| field.ends_with(&local));
                    ends && fields.nth(1) == Some("0A")
                })
            })
        })
        .unwrap_or(false)
    }

    /// Is there an interface of this name here?
    pub(crate) fn has_link(&self, name: &str) -> bool {
        self.within(|| {
            let links = fs::read_to_string("/proc/thread-self/net/dev").unwrap_or_default();
            let mut links = links.lines().filter_map(|line| line.split(':').next());
            links.any(|link| link.trim() == name)
        })
        .unwrap_or(false)
    }

    /// Is there a default IPv4 route here?
    pub(crate) fn has_default_route(&self) -> bool {
        self.within(|| {
            let routes = fs::read_to_string("/proc/thread-self/net/route").unwrap_or_default();
            let mut routes = routes.lines().skip(1);
            routes.any(|route| route.split_whitespace().nth(1) == Some("00000000"))
        })
        .unwrap_or(false)
    }
}

/// Moves the calling thread into the namespace that a file holds.
///
/// # Errors
///
/// There is no such file, or it holds no network namespace.
pub(crate) fn enter(path: &Path) -> Result<()> {
    let file = File::open(path).with_context(|| format!("open {}", path.display()))?;
    setns(file, CloneFlags::CLONE_NEWNET).with_context(|| format!("enter {}", path.display()))
}

/// A temporary directory whose name tells whose it is, for [`sweep`].
///
/// # Errors
///
/// There is no room for it.
pub(crate) fn directory() -> Result<tempfile::TempDir> {
    tempfile::Builder::new()
        .prefix(&format!("{PREFIX}{}-", std::process::id()))
        .tempdir()
        .context("make a temporary directory")
}

/// See the module's description.
#[derive(Debug)]
pub(crate) struct Lab {
    programs: Vec<Background>,
    namespaces: Vec<Namespace>,
    directory: tempfile::TempDir,
}

impl Lab {
    pub(crate) fn new() -> Result<Lab> {
        let directory = directory()?;
        Ok(Lab {
            programs: Vec::new(),
            namespaces: Vec::new(),
            directory,
        })
    }

    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// A file of the lab, as text for a command line.
    pub(crate) fn file(&self, name: &str) -> String {
        self.directory().join(name).to_string_lossy().into_owned()
    }

    /// Makes a namespace that goes with the lab.
    pub(crate) fn namespace(&mut self, label: &str) -> Result<Namespace> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("{PREFIX}{}-{count}-{label}", std::process::id());
        run(Command::new("ip").args(["netns", "add", &name]))?;
        let namespace = Namespace { name };
        self.namespaces.push(namespace.clone());
        namespace.ip("link set lo up\n")?;
        Ok(namespace)
    }

    /// Removes a namespace before the lab goes.
    pub(crate) fn remove(&mut self, namespace: &Namespace) {
        self.namespaces.retain(|kept| kept.name != namespace.name);
        remove(&namespace.name);
    }

    /// Starts a program in a namespace; it ends with the lab.
    pub(crate) fn start(
        &mut self,
        namespace: &Namespace,
        program: impl AsRef<std::ffi::OsStr>,
        arguments: &[&str],
    ) -> Result<&mut Background> {
        self.start_with(namespace, program, arguments, &[])
    }

    /// The same, with variables of its environment.
    pub(crate) fn start_with(
        &mut self,
        namespace: &Namespace,
        program: impl AsRef<std::ffi::OsStr>,
        arguments: &[&str],
        environment: &[(&str, &Path)],
    ) -> Result<&mut Background> {
        let log = self.directory().join("programs.log");
        let name = Some(namespace.name());
        let program = Background::start(name, program, arguments, environment, &log)?;
        self.programs.push(program);
        self.last_program()
    }

    /// Takes a program that was started elsewhere; it ends with the lab.
    pub(crate) fn keep(&mut self, program: Background) {
        self.programs.push(program);
    }

    /// The program that was started last.
    pub(crate) fn last_program(&mut self) -> Result<&mut Background> {
        self.programs.last_mut().context("no program was started")
    }

    /// How many programs run; for [`Lab::stop_after`].
    pub(crate) fn program_count(&self) -> usize {
        self.programs.len()
    }

    /// Ends the programs that were started after the first `count`.
    pub(crate) fn stop_after(&mut self, count: usize) {
        self.programs.truncate(count);
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        // The last started depends on those before it.
        while let Some(program) = self.programs.pop() {
            drop(program);
        }
        for namespace in &self.namespaces {
            remove(&namespace.name);
        }
    }
}

/// Kills what runs in a namespace and removes it. Works after an interruption too, when
/// [`run`] refuses.
fn remove(name: &str) {
    let pids = Command::new("ip").args(["netns", "pids", name]).output();
    let pids = pids.map(|output| output.stdout).unwrap_or_default();
    for pid in String::from_utf8_lossy(&pids).lines() {
        if let Ok(pid) = pid.trim().parse() {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
    let _ = Command::new("ip").args(["netns", "delete", name]).output();
}

/// Removes the namespaces and directories of runners that were killed before they could.
pub(crate) fn sweep() {
    for name in left_behind(Path::new("/run/netns")) {
        remove(&name);
    }
    let directory = std::env::temp_dir();
    for name in left_behind(&directory) {
        let _ = fs::remove_dir_all(directory.join(name));
    }
}

/// The entries of a directory that carry our prefix and the pid of a process that is gone.
fn left_behind(directory: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(directory) else {
        return Vec::new();
    };
    let names = entries
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned());
    let gone = |name: &String| {
        let pid = name
            .strip_prefix(PREFIX)
            .and_then(|rest| rest.split('-').next());
        let pid = pid.and_then(|pid| pid.parse::<u32>().ok());
        pid.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists())
    };
    names.filter(gone).collect()
}

/// Joins two namespaces by a veth pair whose ends have these names, both up.
pub(crate) fn join(a: (&Namespace, &str), b: (&Namespace, &str)) -> Result<()> {
    a.0.ip(&format!(
        "link add {} type veth peer name {} netns {}\nlink set {} up\n",
        a.1,
        b.1,
        b.0.name(),
        a.1
    ))?;
    b.0.ip(&format!("link set {} up\n", b.1))
}
