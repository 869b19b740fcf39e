//! The seccomp filter: system calls that fail with EPERM, by their number and, for a few, by an
//! argument that is passed by value. All others are allowed. A list of what is allowed would have
//! to name each call that the libraries and the C library make, in every version of them.

use std::collections::BTreeMap;

use anyhow::Context;
use nix::libc::{self, c_long};
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition,
    SeccompFilter, SeccompRule, TargetArch,
};
use switch::io::sock_filter;

/// The families of sockets that the daemon opens, as the systemd unit names them.
pub(super) const FAMILIES: [(&str, i32); 5] = [
    ("AF_UNIX", libc::AF_UNIX),
    ("AF_NETLINK", libc::AF_NETLINK),
    ("AF_PACKET", libc::AF_PACKET),
    ("AF_INET", libc::AF_INET),
    ("AF_INET6", libc::AF_INET6),
];

#[cfg(target_arch = "x86_64")]
const ARCH: TargetArch = TargetArch::x86_64;
#[cfg(target_arch = "aarch64")]
const ARCH: TargetArch = TargetArch::aarch64;

/// Refused with any arguments.
const REFUSED: &[c_long] = &[
    // Programs and other processes.
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_kcmp,
    libc::SYS_pidfd_getfd,
    libc::SYS_migrate_pages,
    libc::SYS_move_pages,
    // Code for the kernel, and interfaces that exploits of the kernel have used most.
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    libc::SYS_personality,
    // Mounts, files by handle, quotas.
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_name_to_handle_at,
    libc::SYS_open_by_handle_at,
    libc::SYS_fanotify_init,
    libc::SYS_fanotify_mark,
    libc::SYS_mknodat,
    libc::SYS_quotactl,
    libc::SYS_quotactl_fd,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_acct,
    // The machine.
    libc::SYS_reboot,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_adjtimex,
    libc::SYS_clock_adjtime,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_syslog,
    libc::SYS_vhangup,
    // Other users.
    libc::SYS_setuid,
    libc::SYS_setgid,
    libc::SYS_setreuid,
    libc::SYS_setregid,
    libc::SYS_setresuid,
    libc::SYS_setresgid,
    libc::SYS_setfsuid,
    libc::SYS_setfsgid,
    libc::SYS_setgroups,
];

/// The same, of this processor alone.
#[cfg(target_arch = "x86_64")]
const REFUSED_HERE: &[c_long] = &[
    libc::SYS_fork,
    libc::SYS_vfork,
    libc::SYS_kexec_file_load,
    libc::SYS_mknod,
    libc::SYS_iopl,
    libc::SYS_ioperm,
    libc::SYS_modify_ldt,
    libc::SYS_uselib,
];
#[cfg(target_arch = "aarch64")]
const REFUSED_HERE: &[c_long] = &[libc::SYS_kexec_file_load];

/// Installs the filter for the calling thread and those that it starts from now on.
///
/// # Errors
/// The kernel has no seccomp filters, or the thread lacks `no_new_privs`.
pub(super) fn install() -> anyhow::Result<()> {
    for program in programs()? {
        switch::io::filter_system_calls(&program)
            .context("the kernel takes no seccomp filter (CONFIG_SECCOMP_FILTER)")?;
    }
    Ok(())
}

/// The programs to be installed: one for each error.
fn programs() -> Result<[Vec<sock_filter>; 2], BackendError> {
    let mut refused: BTreeMap<c_long, Vec<SeccompRule>> = REFUSED
        .iter()
        .chain(REFUSED_HERE)
        .map(|&call| (call, Vec::new()))
        .collect();
    let network = libc::CLONE_NEWNET as u64;
    let thread = libc::CLONE_THREAD as u64;
    // No process is started: what clone(2) makes is a thread.
    let is_process = condition(0, SeccompCmpOp::MaskedEq(thread), 0)?;
    refused.insert(libc::SYS_clone, vec![SeccompRule::new(vec![is_process])?]);
    // No namespace but network namespaces is made or entered.
    let is_other = condition(0, SeccompCmpOp::Ne, network)?;
    refused.insert(libc::SYS_unshare, vec![SeccompRule::new(vec![is_other])?]);
    let is_other = condition(1, SeccompCmpOp::Ne, network)?;
    refused.insert(libc::SYS_setns, vec![SeccompRule::new(vec![is_other])?]);
    let is_other = FAMILIES
        .iter()
        .map(|&(_, family)| condition(0, SeccompCmpOp::Ne, family as u64))
        .collect::<Result<_, _>>()?;
    refused.insert(libc::SYS_socket, vec![SeccompRule::new(is_other)?]);
    // Its arguments lie in memory, which no filter can read. Where clone3 is unknown (ENOSYS), the
    // C library calls clone(2) instead.
    let unknown = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
    Ok([
        program(refused, libc::EPERM)?,
        program(unknown, libc::ENOSYS)?,
    ])
}

/// Compares the low 32 bits: flags, families and kinds of namespaces have no more.
fn condition(
    argument: u8,
    operator: SeccompCmpOp,
    value: u64,
) -> Result<SeccompCondition, BackendError> {
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, value)
}

fn program(
    rules: BTreeMap<c_long, Vec<SeccompRule>>,
    errno: i32,
) -> Result<Vec<sock_filter>, BackendError> {
    let refusal = SeccompAction::Errno(errno as u32);
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, refusal.clone(), ARCH)?;
    let compiled: BpfProgram = filter.try_into()?;
    let compiled = compiled.into_iter().map(|it| sock_filter {
        code: it.code,
        jt: it.jt,
        jf: it.jf,
        k: it.k,
    });
    Ok(no_x32(refusal).into_iter().chain(compiled).collect())
}

/// Refuses the x32 calls: same architecture as x86-64, and numbers of their own
/// (`__X32_SYSCALL_BIT`), which the list does not have.
#[cfg(target_arch = "x86_64")]
fn no_x32(refusal: SeccompAction) -> Vec<sock_filter> {
    const FIRST: u32 = 0x4000_0000;
    let instruction = |code: u32, jt, jf, k| sock_filter {
        code: code as u16,
        jt,
        jf,
        k,
    };
    vec![
        // The number is the first field of struct seccomp_data.
        instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        instruction(libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K, 0, 1, FIRST),
        instruction(libc::BPF_RET | libc::BPF_K, 0, 0, refusal.into()),
    ]
}

#[cfg(target_arch = "aarch64")]
fn no_x32(_refusal: SeccompAction) -> Vec<sock_filter> {
    Vec::new()
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::process::Command;
    use std::thread;

    use nix::errno::Errno;
    use nix::mount::{MsFlags, mount};
    use nix::sched::{CloneFlags, setns, unshare};
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
    use nix::unistd::{chroot, execv, sethostname};

    use super::*;

    /// Runs `f` on a thread with the filter, or prints why there is none.
    fn filtered(f: impl FnOnce() + Send + 'static) {
        let ended = thread::spawn(|| {
            nix::sys::prctl::set_no_new_privs().unwrap();
            match install() {
                Ok(()) => f(),
                Err(error) => println!("skipped: {error:#}"),
            }
        });
        ended.join().unwrap();
    }

    #[test]
    fn what_the_daemon_has_no_use_for_is_refused() {
        filtered(|| {
            let none = None::<&str>;
            // Where there is no filter, none of these does anything: they fail with other errors,
            // or change what is so already.
            let outcomes = [
                (
                    "mount",
                    mount(none, "/no/such", none, MsFlags::MS_REMOUNT, none),
                ),
                ("chroot", chroot("/no/such")),
                ("execve", execv(c"/no/such", &[c""]).map(drop)),
                ("unshare", unshare(CloneFlags::CLONE_FS)),
            ];
            for (call, outcome) in outcomes {
                assert_eq!(outcome, Err(Errno::EPERM), "{call}");
            }
            let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
            assert_eq!(sethostname(name.trim()), Err(Errno::EPERM));
            let mounts = std::fs::File::open("/proc/thread-self/ns/mnt").unwrap();
            for kind in [CloneFlags::CLONE_NEWNS, CloneFlags::empty()] {
                assert_eq!(setns(&mounts, kind), Err(Errno::EPERM), "{kind:?}");
            }
            let flags = SockFlag::SOCK_CLOEXEC;
            let other = socket(AddressFamily::Vsock, SockType::Stream, flags, None);
            assert_eq!(other.map(drop), Err(Errno::EPERM));
            // A process is refused before there is one that could execute anything.
            let started = Command::new("/no/such").spawn().unwrap_err();
            assert_eq!(started.raw_os_error(), Some(libc::EPERM));
        });
    }

    #[test]
    fn what_the_daemon_does_is_not() {
        filtered(|| {
            let started = thread::Builder::new().spawn(|| 7).unwrap();
            assert_eq!(
                started.join().unwrap(),
                7,
                "a thread, for which there is no clone3"
            );
            for family in [
                AddressFamily::Unix,
                AddressFamily::Netlink,
                AddressFamily::Inet,
            ] {
                let flags = SockFlag::SOCK_CLOEXEC;
                let opened = socket(family, SockType::Datagram, flags, None);
                assert!(opened.is_ok(), "{family:?}: {opened:?}");
            }
            let network = std::fs::File::open(Path::new("/proc/thread-self/ns/net")).unwrap();
            // Without CAP_SYS_ADMIN the kernel refuses them itself.
            if unshare(CloneFlags::CLONE_NEWNET).is_ok() {
                assert_eq!(setns(&network, CloneFlags::CLONE_NEWNET), Ok(()));
            }
        });
    }

    /// Threads inherit it.
    #[test]
    fn a_thread_of_a_filtered_one_is_filtered() {
        filtered(|| {
            let refused = thread::spawn(|| chroot("/no/such"));
            assert_eq!(refused.join().unwrap(), Err(Errno::EPERM));
        });
    }
}
