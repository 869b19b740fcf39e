//! The right to make network namespaces: root has it, an ordinary user gets it in a user
//! namespace of his own.

use std::fs;

use anyhow::{Context, Result, anyhow};
use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{getegid, geteuid};

/// The capabilities the demo and its daemon use, by their bit in `CapEff`
/// (include/uapi/linux/capability.h).
const CAP_NET_ADMIN: u64 = 1 << 12;
const CAP_NET_RAW: u64 = 1 << 13;
const CAP_SYS_ADMIN: u64 = 1 << 21;

/// Makes the process root of a user namespace of its own unless it has the privileges already;
/// tells whether it did. The process must have no other thread yet: unshare(2) refuses a user
/// namespace to a process with several.
pub(super) fn acquire() -> Result<bool> {
    let needed = CAP_NET_ADMIN | CAP_NET_RAW | CAP_SYS_ADMIN;
    let status = fs::read_to_string("/proc/self/status")
        .context("read /proc/self/status (the demo needs /proc mounted)")?;
    if effective_capabilities(&status) & needed == needed {
        return Ok(false);
    }

    // Asked for before unshare: afterwards both are the overflow id until a map is written.
    let (user, group) = (geteuid(), getegid());
    unshare(CloneFlags::CLONE_NEWUSER).map_err(|error| refused("unshare(CLONE_NEWUSER)", error))?;
    // An unprivileged process may map its group only once setgroups is off (user_namespaces(7));
    // kernels before 3.19 have neither the file nor the rule.
    let _ = fs::write("/proc/self/setgroups", "deny");
    for (map, id) in [("uid_map", user.as_raw()), ("gid_map", group.as_raw())] {
        let path = format!("/proc/self/{map}");
        fs::write(&path, format!("0 {id} 1\n")).map_err(|error| {
            let errno = error
                .raw_os_error()
                .map_or(Errno::UnknownErrno, Errno::from_raw);
            refused(&format!("writing {path}"), errno)
        })?;
    }
    // Some systems (AppArmor on Ubuntu) grant the namespace and keep its privileges back, which
    // shows only when they are used.
    unshare(CloneFlags::CLONE_NEWNET).map_err(|error| refused("unshare(CLONE_NEWNET)", error))?;
    Ok(true)
}

/// The `CapEff` line of `/proc/self/status`, or nothing where there is none.
fn effective_capabilities(status: &str) -> u64 {
    status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok())
        .unwrap_or(0)
}

fn refused(step: &str, error: Errno) -> anyhow::Error {
    let setting = |path: &str, closed: &str| {
        fs::read_to_string(path).is_ok_and(|value| value.trim() == closed)
    };
    let why = if setting("/proc/sys/user/max_user_namespaces", "0") {
        "sysctl user.max_user_namespaces is 0".to_owned()
    } else if setting("/proc/sys/kernel/unprivileged_userns_clone", "0") {
        "sysctl kernel.unprivileged_userns_clone is 0".to_owned()
    } else if setting(
        "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
        "1",
    ) {
        "sysctl kernel.apparmor_restrict_unprivileged_userns is 1".to_owned()
    } else {
        match error {
            Errno::EINVAL | Errno::ENOSYS => {
                "the kernel was probably built without CONFIG_USER_NS".to_owned()
            }
            Errno::EPERM => {
                "a sandbox around this process (seccomp, chroot) probably forbids it".to_owned()
            }
            Errno::ENOSPC => "there are too many user namespaces already".to_owned(),
            other => other.desc().to_owned(),
        }
    };
    anyhow!(
        "this user may not make network namespaces, and a user namespace is refused too: {step} \
         failed with {error:?}; {why}. Run the demo as root, or allow user namespaces"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_are_read_from_the_status_file() {
        let status = "Name:\tx\nCapPrm:\t0000000000000000\nCapEff:\t000001ffffffffff\n";
        assert_eq!(effective_capabilities(status), 0x1ff_ffff_ffff);
        assert_eq!(effective_capabilities("CapEff:\tjunk\n"), 0);
        assert_eq!(effective_capabilities(""), 0);
    }

    #[test]
    fn a_refusal_names_the_step_and_the_way_out() {
        let text = refused("unshare(CLONE_NEWUSER)", Errno::EPERM).to_string();
        assert!(
            text.contains("unshare(CLONE_NEWUSER) failed with EPERM"),
            "{text}"
        );
        assert!(
            text.ends_with("Run the demo as root, or allow user namespaces"),
            "{text}"
        );
    }
}
