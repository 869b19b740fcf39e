//! The processes of a container's command: which one it is, and their end.
//!
//! `pontoon run` ends its command and all that it started. When it can't, because it was killed
//! itself, this does: the parent-death signal that ties the command to its supervisor is cleared by
//! the kernel when the command changes its user or its capabilities (prctl(2), PR_SET_PDEATHSIG).

use std::fs;
use std::thread;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::failure::Failure;
use super::life::{boot_id, send_signal, start_time};
use crate::signals::SignalNumber;

/// Scans of /proc for processes that are to end. A process that forks faster than it is killed is
/// met by the next scan.
const SCANS: usize = 50;
const BETWEEN_SCANS: Duration = Duration::from_millis(2);

/// A process and its kin, to be known again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct CommandProcess {
    /// As the daemon counts them.
    pub pid: u32,
    /// In clock ticks since boot.
    pub started: u64,
    /// Inode of the mount namespace that it was given for itself; its descendants are in it too.
    pub mounts: Option<u64>,
    /// Inode of its network namespace.
    pub netns: Option<u64>,
}

impl CommandProcess {
    /// The child of a supervisor. `told` is its number in the PID namespace of the supervisor,
    /// whose number for the daemon is `supervisor`.
    ///
    /// # Errors
    /// There is no such child.
    pub(super) fn child_of(supervisor: u32, told: u32) -> Result<CommandProcess, Failure> {
        let pid = child(supervisor, told).ok_or_else(|| {
            Failure::Invalid(format!(
                "process {told} is not a child of process {supervisor}, its supervisor"
            ))
        })?;
        let started =
            start_time(pid).map_err(|_| Failure::NotFound(format!("there is no process {pid}")))?;
        let mounts = inode(pid, "mnt");
        let shared = [inode(std::process::id(), "mnt"), inode(supervisor, "mnt")];
        Ok(CommandProcess {
            pid,
            started,
            mounts: mounts.filter(|_| !shared.contains(&mounts)),
            netns: inode(pid, "net"),
        })
    }

    /// Whether it runs still.
    pub(super) fn is_alive(&self) -> bool {
        start_time(self.pid).is_ok_and(|started| started == self.started)
    }

    /// Whether a process, which must not be older, is in both namespaces of the command.
    fn is_kin(&self, pid: u32) -> bool {
        self.mounts.is_some() && inode(pid, "mnt") == self.mounts && inode(pid, "net") == self.netns
    }

    /// Sends the command a signal, and no later process that may have its number by now.
    pub(super) fn send(&self, signal: SignalNumber) -> Result<(), Failure> {
        send_signal(self.pid, self.started, signal)
    }
}

/// Ends the commands of containers and their descendants, of the boot `boot`. Returns when none is
/// found any more.
///
/// The commands must be alive or have ended just now: the inodes of their namespaces are given to
/// others some time after the last process has left them.
pub(super) fn end<'a>(boot: &str, commands: impl IntoIterator<Item = &'a CommandProcess>) {
    let commands: Vec<&CommandProcess> = commands.into_iter().collect();
    if commands.is_empty() || boot_id().is_ok_and(|now| now != boot) {
        return;
    }
    for command in &commands {
        // Mostly it has ended already.
        let _ = command.send(SignalNumber::KILL);
    }
    if commands.iter().all(|it| it.mounts.is_none()) {
        return;
    }
    for _ in 0..SCANS {
        let mut found = false;
        for pid in processes() {
            if !commands.iter().any(|it| it.is_kin(pid)) {
                continue;
            }
            let Ok(started) = start_time(pid) else {
                continue;
            };
            // Nor can kin be older.
            if commands
                .iter()
                .any(|it| it.is_kin(pid) && started >= it.started)
            {
                found = true;
                let _ = send_signal(pid, started, SignalNumber::KILL);
            }
        }
        if !found {
            return;
        }
        thread::sleep(BETWEEN_SCANS);
    }
    tracing::warn!("some processes of ended containers do not end (ps: state D)");
}

/// The child of `parent` that has this number in the PID namespace of `parent`.
fn child(parent: u32, told: u32) -> Option<u32> {
    let level = levels(parent)?.len();
    let is_it = |pid: u32| {
        Some(parent_of(pid)? == parent && *levels(pid)?.get(level - 1)? == told)
            .filter(|it| *it)
            .map(|_| pid)
    };
    is_it(told).or_else(|| processes().find_map(is_it))
}

/// The number of a process in each PID namespace that it is in, the daemon's first. Just its
/// number on a kernel without PID namespaces.
pub(super) fn levels(pid: u32) -> Option<Vec<u32>> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
    let numbers = numbers.map(|line| line.split_ascii_whitespace().flat_map(str::parse).collect());
    Some(
        numbers
            .filter(|it: &Vec<u32>| !it.is_empty())
            .unwrap_or(vec![pid]),
    )
}

fn parent_of(pid: u32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let parent = status.lines().find_map(|line| line.strip_prefix("PPid:"))?;
    parent.trim().parse().ok()
}

/// All there are.
pub(super) fn processes() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// Inode of a namespace of a process.
pub(super) fn inode(pid: u32, kind: &str) -> Option<u64> {
    use std::os::unix::fs::MetadataExt;
    let path = format!("/proc/{pid}/ns/{kind}");
    fs::metadata(path).ok().map(|metadata| metadata.ino())
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn a_command_is_the_supervisors_child() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let me = std::process::id();
        let command = CommandProcess::child_of(me, child.id()).unwrap();
        assert_eq!((command.pid, command.mounts), (child.id(), None));
        assert!(
            CommandProcess::child_of(me, me).is_err(),
            "not its own child"
        );
        assert!(CommandProcess::child_of(1, child.id()).is_err());

        let later = CommandProcess {
            started: command.started + 1,
            ..command.clone()
        };
        end(boot_id().unwrap(), [&later]);
        end("another boot", [&command]);
        assert_eq!(
            child.try_wait().unwrap(),
            None,
            "it is another one, and lives"
        );
        end(boot_id().unwrap(), [&command]);
        assert!(!child.wait().unwrap().success());
    }

    #[test]
    fn all_in_the_mount_namespace_of_a_command_end_with_it() {
        let mut child = match Command::new("unshare")
            .args(["-m", "sh", "-c", "sleep 61 & echo $!; exec sleep 62"])
            .stdout(Stdio::piped())
            .spawn()
        {
            Ok(child) => child,
            Err(error) => return println!("skipped, it needs unshare(1): {error}"),
        };
        let mut line = String::new();
        let stdout = child.stdout.take().unwrap();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(stdout), &mut line).unwrap();
        let Ok(descendant) = line.trim().parse::<u32>() else {
            child.wait().unwrap();
            return println!("skipped, it needs a mount namespace");
        };
        let command = CommandProcess::child_of(std::process::id(), child.id()).unwrap();
        assert!(command.mounts.is_some());
        end(boot_id().unwrap(), [&command]);
        child.wait().unwrap();
        assert!(
            start_time(descendant).is_err(),
            "its descendant has ended too"
        );
    }
}
