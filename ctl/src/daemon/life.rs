//! Whether what was attached still lives.
//!
//! A pid is reused and so are the inode numbers of namespaces; a container is therefore known by
//! the boot, the namespace's inode and the process's start time together.
//!
//! Nothing here keeps a namespace open. The descriptors of a container's TAP do (`switch::io`), so a
//! namespace outlives its last process, or the path it was given by, until that end is noticed here
//! and the TAP is taken away: at once for a process, within [`SWEEP`](super::SWEEP) for a path.

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::OnceLock;

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde::{Deserialize, Serialize};
use switch::io::{signal_descriptor, signal_process};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use super::failure::Failure;
use crate::api::Target;
use crate::netns::Netns;
use crate::signals::SignalNumber;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Identity {
    /// The kernel's boot id: inodes and start times mean nothing in another boot.
    pub boot: String,
    /// Inode of the network namespace.
    pub netns: u64,
    /// Start time of the process in clock ticks since boot; none for a namespace given by path.
    pub started: Option<u64>,
}

/// Opens the namespace of `target` and tells what to know it by.
pub(super) fn identify(target: &Target) -> Result<(Netns, Identity), Failure> {
    let boot = boot_id()?.to_owned();
    match target {
        Target::Pid(pid) => {
            let started = start_time(*pid).map_err(|_| no_process(*pid))?;
            let netns = Netns::of_pid(*pid).map_err(refused)?;
            // The same start time after the opening: the namespace is that process's, not that
            // of a later one with its pid.
            if start_time(*pid).ok() != Some(started) {
                return Err(no_process(*pid));
            }
            let identity = Identity {
                boot,
                netns: netns.inode(),
                started: Some(started),
            };
            Ok((netns, identity))
        }
        Target::Netns(path) => {
            if !path.is_absolute() {
                return Err(Failure::Invalid(format!(
                    "the namespace {} must be an absolute path: the daemon has a directory of its \
                     own",
                    path.display()
                )));
            }
            let netns = Netns::open(path).map_err(refused)?;
            let identity = Identity {
                boot,
                netns: netns.inode(),
                started: None,
            };
            Ok((netns, identity))
        }
    }
}

/// Why what was attached as `identity` is no more, or nothing when it lives.
pub(super) fn why_gone(target: &Target, identity: &Identity) -> Option<String> {
    if boot_id().is_ok_and(|boot| boot != identity.boot) {
        return Some("the machine was started anew".to_owned());
    }
    match target {
        Target::Pid(pid) => match start_time(*pid) {
            Ok(started) if Some(started) == identity.started => None,
            _ => Some(format!("process {pid} has ended")),
        },
        Target::Netns(path) => match inode_at(path) {
            Some(inode) if inode == identity.netns => None,
            Some(_) => Some(format!("{} leads to another namespace now", path.display())),
            None => Some(format!("the namespace {} is gone", path.display())),
        },
    }
}

/// The namespace that something was attached in, if a process is in it still or it is bound where
/// `ip netns` binds them. Looks at every process.
pub(super) fn find_namespace(identity: &Identity) -> Option<Netns> {
    if boot_id().is_ok_and(|boot| boot != identity.boot) {
        return None;
    }
    let entries = |directory| fs::read_dir(directory).into_iter().flatten().flatten();
    let processes = entries("/proc").map(|entry| entry.path().join("ns/net"));
    let bound = entries("/run/netns").map(|entry| entry.path());
    let mut all = processes.chain(bound);
    let path = all.find(|path| inode_at(path) == Some(identity.netns))?;
    let netns = Netns::open(&path).ok()?;
    (netns.inode() == identity.netns).then_some(netns)
}

/// Sends a signal to the process that began at `started`, and to no other that may have its number
/// by now.
pub(super) fn send_signal(pid: u32, started: u64, signal: SignalNumber) -> Result<(), Failure> {
    let raw = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let raw = raw.ok_or_else(|| Failure::Invalid(format!("{pid} is not a process id")))?;
    let descriptor = pidfd_open(raw, PidfdFlags::empty());
    // Looked at after the opening: the descriptor stays that process's.
    if start_time(pid).ok() != Some(started) {
        return Err(Failure::NotFound(format!("process {pid} has ended")));
    }
    let sent = match descriptor {
        Ok(descriptor) => signal_descriptor(descriptor.as_fd(), signal.raw()),
        // A kernel before 5.3 leaves an instant in which the number may change hands.
        Err(Errno::NOSYS) => signal_process(raw.as_raw_nonzero().get(), signal.raw()),
        Err(error) => Err(error.into()),
    };
    sent.map_err(|error| {
        Failure::Internal(format!("can't send {signal} to process {pid}: {error}"))
    })
}

/// Watches one process; dropping it ends the watch.
pub(super) struct Watch(AbortHandle);

impl Drop for Watch {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Sends `id` over `ends` when the process `pid` ends. Must be called in a runtime.
///
/// A kernel without pidfd_open (before 5.3) is not an error: [`why_gone`], which the daemon asks
/// every other second, finds the end there.
pub(super) fn watch_process(
    pid: u32,
    id: String,
    ends: mpsc::Sender<String>,
) -> io::Result<Option<Watch>> {
    let raw = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let Some(raw) = raw else {
        return Err(io::Error::other(format!("{pid} is not a process id")));
    };
    let descriptor = match pidfd_open(raw, PidfdFlags::empty()) {
        Ok(descriptor) => descriptor,
        Err(Errno::NOSYS) => return Ok(None),
        Err(error) => {
            return Err(io::Error::other(format!(
                "can't watch process {pid}: {error}"
            )));
        }
    };
    // A pidfd turns readable when the process ends, zombie or reaped (pidfd_open(2)).
    // Tokio deprecates this because it is unsound for a descriptor that somebody else may close,
    // and its successor is `unsafe` for all. An OwnedFd that is moved in here is nobody else's.
    #[expect(deprecated, reason = "sound for an OwnedFd")]
    let descriptor = AsyncFd::with_interest(descriptor, Interest::READABLE)?;
    let task = tokio::spawn(async move {
        if descriptor.readable().await.is_ok() {
            let _ = ends.send(id).await;
        }
    });
    Ok(Some(Watch(task.abort_handle())))
}

/// Mostly the client has named something wrong.
fn refused(error: io::Error) -> Failure {
    match error.kind() {
        io::ErrorKind::NotFound => Failure::NotFound(error.to_string()),
        io::ErrorKind::InvalidInput => Failure::Invalid(error.to_string()),
        _ => Failure::Internal(error.to_string()),
    }
}

fn no_process(pid: u32) -> Failure {
    Failure::NotFound(format!("there is no process {pid} (it may have ended)"))
}

/// Read once: it is another one only after this process.
pub(super) fn boot_id() -> io::Result<&'static str> {
    static ID: OnceLock<String> = OnceLock::new();
    if let Some(id) = ID.get() {
        return Ok(id);
    }
    let path = "/proc/sys/kernel/random/boot_id";
    let text = fs::read_to_string(path)
        .map_err(|error| io::Error::new(error.kind(), format!("can't read {path}: {error}")))?;
    Ok(ID.get_or_init(|| text.trim().to_owned()))
}

fn inode_at(path: &Path) -> Option<u64> {
    use std::os::linux::fs::MetadataExt;
    fs::metadata(path).ok().map(|metadata| metadata.st_ino())
}

/// Start time of a living process; a zombie counts as ended.
pub(super) fn start_time(pid: u32) -> io::Result<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    parse_start_time(&stat).ok_or_else(|| io::Error::other(format!("process {pid} has ended")))
}

/// Field 22 of /proc/PID/stat (proc(5)). The second field is the command in parentheses and may
/// itself hold blanks and parentheses, so fields are counted from the last one.
fn parse_start_time(stat: &str) -> Option<u64> {
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    if matches!(fields.next()?, "Z" | "X" | "x") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn start_time_is_read_behind_a_hostile_command_name() {
        let stat = "7 (a) S (b) S 1 7 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4242 9 9";
        assert_eq!(parse_start_time(stat), Some(4242));
        assert_eq!(parse_start_time(&stat.replace(") S 1", ") Z 1")), None);
        assert_eq!(parse_start_time("7 (a) S 1"), None);
        assert_eq!(parse_start_time(""), None);
    }

    #[test]
    fn an_ended_process_and_a_reused_pid_are_gone() {
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .unwrap();
        let target = Target::Pid(child.id());
        let (_, identity) = identify(&target).unwrap();
        assert_eq!(why_gone(&target, &identity), None);

        let later = Identity {
            started: identity.started.map(|time| time + 1),
            ..identity.clone()
        };
        assert!(why_gone(&target, &later).is_some());
        let other_boot = Identity {
            boot: "another".to_owned(),
            ..identity.clone()
        };
        assert!(why_gone(&target, &other_boot).is_some());

        child.kill().unwrap();
        child.wait().unwrap();
        assert!(why_gone(&target, &identity).is_some());
        assert!(matches!(identify(&target), Err(Failure::NotFound(_))));
    }

    // Feature: operations
    #[test]
    fn a_signal_reaches_no_later_process_of_that_number() {
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .unwrap();
        let (_, identity) = identify(&Target::Pid(child.id())).unwrap();
        let started = identity.started.unwrap();
        let refused = send_signal(child.id(), started - 1, SignalNumber::KILL);
        assert!(matches!(refused, Err(Failure::NotFound(_))));
        assert_eq!(child.try_wait().unwrap(), None, "it lives");
        send_signal(child.id(), started, SignalNumber::KILL).unwrap();
        assert!(!child.wait().unwrap().success());
    }

    #[test]
    fn a_path_is_gone_with_its_namespace() {
        let target = Target::Netns("/proc/self/ns/net".into());
        let (_, identity) = identify(&target).unwrap();
        assert_eq!(why_gone(&target, &identity), None);
        let other = Identity {
            netns: identity.netns + 1,
            ..identity
        };
        assert!(why_gone(&target, &other).is_some());
        assert!(identify(&Target::Netns("relative".into())).is_err());
    }

    #[tokio::test]
    async fn the_end_of_a_process_is_told() {
        let (ends, mut ended) = mpsc::channel(1);
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .unwrap();
        let _watch = watch_process(child.id(), "the-id".to_owned(), ends).unwrap();
        child.kill().unwrap();
        assert_eq!(ended.recv().await.as_deref(), Some("the-id"));
        child.wait().unwrap();
    }
}
