//! Drops the privileges that the daemon does not use, before it serves.
//!
//! The daemon parses frames, DNS messages and HTTP in the process that enters network namespaces.
//! Three things bound what a fault in a parser gives an attacker:
//!
//! - capabilities: those of [`KEPT`] and no others, in any set;
//! - `no_new_privs`: executing a program adds none;
//! - a seccomp filter ([`filter`]): system calls that the daemon never makes fail with EPERM. So
//!   CAP_SYS_ADMIN, which setns(2) demands, gives network namespaces and no mounts.
//!
//! Each is a property of a thread, inherited by the threads that it starts. So [`drop_unused`] is
//! called while the process has a single thread, and [`filter_calls`] when the switch has started
//! its own: any filter costs a system call 60 to 120 ns, and those that carry frames make two for
//! each, which took a tenth of the small packets (Linux 6.18, one 2-CPU VM). What parses DNS and
//! HTTP is behind the filter; what parses frames is bounded by the capabilities alone. The daemon
//! executes no program: the processes of `pontoon run` are children of the client, and have the
//! client's privileges.

use nix::sys::prctl::{get_no_new_privs, set_no_new_privs};
use rustix::io::Errno;
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set,
    remove_capability_from_bounding_set, set_capabilities,
};

use crate::api::Privileges;

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod filter;

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
mod filter {
    /// No list of system calls is written for this processor.
    pub(super) fn install() -> anyhow::Result<()> {
        anyhow::bail!("there is no filter for {}", std::env::consts::ARCH)
    }
}

/// The capabilities that the daemon uses while it serves, and what for. The systemd unit's
/// CapabilityBoundingSet= has the same ones.
const KEPT: CapabilitySet = CapabilitySet::empty()
    // Interfaces, addresses and routes, here and in containers; TAPs; tc; sysctls of a network
    // namespace; socket buffers beyond rmem_max.
    .union(CapabilitySet::NET_ADMIN)
    // AF_PACKET and ICMP sockets; SO_BINDTODEVICE before Linux 5.7.
    .union(CapabilitySet::NET_RAW)
    // Published ports below 1024.
    .union(CapabilitySet::NET_BIND_SERVICE)
    // setns(2) and unshare(2) of network namespaces; the relay's pipes beyond what a user may have.
    .union(CapabilitySet::SYS_ADMIN)
    // /proc/PID/ns of processes that have other users or capabilities.
    .union(CapabilitySet::SYS_PTRACE)
    // Containers' processes that have changed their user.
    .union(CapabilitySet::KILL)
    // Namespaces by paths in directories that are private to another user, such as those of
    // rootless engines; /proc/PID/fd, to name the process that has a port.
    .union(CapabilitySet::DAC_READ_SEARCH);

/// Drops the capabilities that the daemon does not use from the calling thread and from the threads
/// that it starts afterwards, and what a program could add. Returns what is in force. What the
/// kernel or a sandbox refuses is logged; the daemon serves without it.
pub(super) fn drop_unused() -> Privileges {
    if let Err(error) = set_no_new_privs() {
        tracing::warn!("can't give up new privileges: {error}");
    }
    if let Err(error) = drop_capabilities() {
        tracing::warn!("can't drop capabilities: {error}");
    }
    Privileges {
        capabilities: capabilities(None).map_or_else(|_| Vec::new(), |sets| names(sets.effective)),
        no_new_privs: get_no_new_privs().unwrap_or(false),
        seccomp: false,
    }
}

/// Filters the system calls of the calling thread and of the threads that it starts afterwards.
/// Returns what is in force then.
pub(super) fn filter_calls(before: Privileges) -> Privileges {
    let seccomp = filter::install();
    if let Err(error) = &seccomp {
        tracing::warn!("system calls are not filtered: {error:#}");
    }
    Privileges {
        seccomp: seccomp.is_ok(),
        ..before
    }
}

fn drop_capabilities() -> rustix::io::Result<()> {
    clear_bounding_set();
    // A kernel older than 4.3 has none.
    let _ = clear_ambient_capability_set();
    let has = capabilities(None)?;
    // Without CAP_SYS_PTRACE, /proc/PID/ns of a process can be read only with all capabilities of
    // that process (ptrace(2), "access mode checking"). With fewer than its clients have, the
    // daemon could attach none of their containers.
    let kept = match has.permitted.contains(CapabilitySet::SYS_PTRACE) {
        true => KEPT,
        false => CapabilitySet::from_bits_retain(u64::MAX),
    };
    if kept != KEPT {
        tracing::warn!(
            "no capability is dropped: without CAP_SYS_PTRACE, the daemon could attach no process \
             that has more than it"
        );
    }
    set_capabilities(
        None,
        CapabilitySets {
            effective: has.effective & kept,
            permitted: has.permitted & kept,
            inheritable: CapabilitySet::empty(),
        },
    )
}

/// Empties the set that bounds what an executed program gets. Without CAP_SETPCAP it stays as is.
fn clear_bounding_set() {
    for bit in 0..u64::BITS {
        let capability = CapabilitySet::from_bits_retain(1 << bit);
        // Past the last capability of this kernel.
        if remove_capability_from_bounding_set(capability) == Err(Errno::INVAL) {
            break;
        }
    }
}

/// The names that capabilities(7) gives them, in the order of their numbers.
fn names(set: CapabilitySet) -> Vec<String> {
    let named = set.iter_names();
    named.map(|(name, _)| format!("CAP_{name}")).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::thread;

    use rustix::thread::capability_is_in_bounding_set;

    use super::*;

    /// On a thread of its own, so that the other tests lose nothing.
    #[test]
    fn a_thread_keeps_what_the_daemon_uses() {
        let outcome = thread::spawn(|| {
            let before = capabilities(None).unwrap();
            let told = drop_unused();
            (before, told, capabilities(None).unwrap())
        });
        let (before, told, after) = outcome.join().unwrap();
        if !before.permitted.contains(CapabilitySet::SYS_PTRACE) {
            return println!("skipped, it needs CAP_SYS_PTRACE");
        }
        assert_eq!(after.permitted, before.permitted & KEPT);
        assert_eq!(after.effective, before.effective & KEPT);
        assert_eq!(after.inheritable, CapabilitySet::empty());
        assert_eq!(told.capabilities, names(after.effective));
        assert!(told.no_new_privs);
        let untouched = capabilities(None).unwrap();
        assert_eq!(untouched, before, "this thread is another");
    }

    #[test]
    fn without_ptrace_nothing_more_is_lost() {
        let outcome = thread::spawn(|| {
            let mut sets = capabilities(None).unwrap();
            sets.effective.remove(CapabilitySet::SYS_PTRACE);
            sets.permitted.remove(CapabilitySet::SYS_PTRACE);
            set_capabilities(None, sets).unwrap();
            drop_unused();
            (sets, capabilities(None).unwrap())
        });
        let (before, after) = outcome.join().unwrap();
        assert_eq!(after.permitted, before.permitted);
        assert_eq!(after.effective, before.effective);
    }

    #[test]
    fn with_nothing_to_drop_nothing_fails() {
        thread::spawn(|| {
            let none = CapabilitySet::empty();
            let sets = CapabilitySets {
                effective: none,
                permitted: none,
                inheritable: none,
            };
            set_capabilities(None, sets).unwrap();
            let told = drop_unused();
            assert_eq!(told.capabilities, Vec::<String>::new());
            drop_unused();
        })
        .join()
        .unwrap();
    }

    #[test]
    fn the_bounding_set_is_emptied() {
        let is_there = |capability| capability_is_in_bounding_set(capability) == Ok(true);
        let has = capabilities(None).unwrap();
        if !has.effective.contains(CapabilitySet::SETPCAP) {
            return println!("skipped, it needs CAP_SETPCAP");
        }
        thread::spawn(move || {
            drop_unused();
            assert!(!CapabilitySet::all().iter().any(is_there));
        })
        .join()
        .unwrap();
    }

    /// The words of a setting of the unit.
    fn unit(name: &str) -> BTreeSet<String> {
        let text = include_str!("../../../dist/systemd/pontoon.service");
        let lines = text.lines().filter_map(|line| line.strip_prefix(name));
        let values = lines.filter_map(|rest| rest.strip_prefix('='));
        let words = values.flat_map(str::split_ascii_whitespace);
        words.map(str::to_owned).collect()
    }

    #[test]
    fn the_unit_bounds_it_to_the_same() {
        let kept: BTreeSet<String> = names(KEPT).into_iter().collect();
        assert_eq!(unit("CapabilityBoundingSet"), kept);
        assert_eq!(unit("NoNewPrivileges"), BTreeSet::from(["yes".to_owned()]));
        assert_eq!(
            unit("RestrictNamespaces"),
            BTreeSet::from(["net".to_owned()])
        );
        #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
        let families = filter::FAMILIES.map(|(name, _)| name.to_owned());
        #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
        assert_eq!(unit("RestrictAddressFamilies"), BTreeSet::from(families));
    }
}
