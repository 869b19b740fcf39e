//! Network namespaces, held open by file descriptor.
//!
//! A namespace lives as long as a process is in it or a descriptor refers to it, so a [`Netns`]
//! keeps one alive that no process is in yet. A namespace belongs to a *thread* in Linux: work in
//! another namespace is done on a scratch thread that enters it and ends ([`Netns::run`]), never
//! by moving a thread of the runtime there and back.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::panic::resume_unwind;
use std::path::Path;
use std::thread;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::statfs::{NSFS_MAGIC, fstatfs};

use crate::link;

/// The namespace of the calling thread, as the kernel shows it.
const THREAD_NETNS: &str = "/proc/thread-self/ns/net";

/// A network namespace held open. It shows itself as the kernel does: `net:[4026531840]`.
#[derive(Debug)]
pub(crate) struct Netns {
    file: File,
    inode: u64,
}

impl Netns {
    /// The namespace of the calling thread.
    pub(crate) fn current() -> io::Result<Netns> {
        Netns::open(Path::new(THREAD_NETNS))
    }

    /// The namespace that a file stands for: `/proc/PID/ns/net`, or a bind mount of one such as
    /// `/run/netns/NAME`.
    pub(crate) fn open(path: &Path) -> io::Result<Netns> {
        let failed = |error: io::Error| {
            let advice = match error.kind() {
                io::ErrorKind::PermissionDenied => {
                    ": another user's process can be entered only with CAP_SYS_PTRACE"
                }
                _ => "",
            };
            let path = path.display();
            io::Error::new(
                error.kind(),
                format!("can't open network namespace {path}: {error}{advice}"),
            )
        };
        // Anything may lie at a path that a user gave: O_NONBLOCK keeps a FIFO from hanging us.
        let file = OpenOptions::new()
            .read(true)
            .custom_flags((OFlag::O_NONBLOCK | OFlag::O_CLOEXEC).bits())
            .open(path)
            .map_err(failed)?;
        let kind = fstatfs(&file)
            .map_err(|errno| failed(errno.into()))?
            .filesystem_type();
        if kind != NSFS_MAGIC {
            return Err(failed(io::Error::new(
                io::ErrorKind::InvalidInput,
                "it is not a namespace file (expected something like /proc/PID/ns/net)",
            )));
        }
        let inode = file.metadata().map_err(failed)?.ino();
        Ok(Netns { file, inode })
    }

    /// The namespace that a process is in.
    pub(crate) fn of_pid(pid: u32) -> io::Result<Netns> {
        let path = format!("/proc/{pid}/ns/net");
        Netns::open(Path::new(&path)).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => {
                io::Error::new(error.kind(), format!("there is no process {pid}"))
            }
            _ => error,
        })
    }

    /// A fresh namespace, with nothing in it but `lo`, which is up. It ends with the last
    /// descriptor, process or interface pair that refers to it. Needs CAP_SYS_ADMIN in the user
    /// namespace of the caller.
    pub(crate) fn create() -> io::Result<Netns> {
        on_scratch_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET).map_err(|errno| {
                let advice = match errno {
                    Errno::EPERM => ": run as root, or inside a user namespace (unshare -Ur)",
                    Errno::ENOSPC => ": the limit /proc/sys/user/max_net_namespaces is reached",
                    Errno::EINVAL => ": this kernel has no network namespaces (CONFIG_NET_NS)",
                    _ => "",
                };
                io::Error::new(
                    io::Error::from(errno).kind(),
                    format!("can't create a network namespace: {}{advice}", errno.desc()),
                )
            })?;
            link::set_up("lo")?;
            Netns::current()
        })
    }

    /// The number by which the kernel tells namespaces apart; no two that live at the same time
    /// share one.
    pub(crate) fn inode(&self) -> u64 {
        self.inode
    }

    /// Runs `f` inside the namespace and hands back what it returns. `f` runs on a thread of its
    /// own while the caller waits, so sockets that it opens belong to the namespace for good, and
    /// the caller's thread stays where it is. There is no async runtime on that thread.
    pub(crate) fn run<T: Send>(&self, f: impl FnOnce() -> T + Send) -> io::Result<T> {
        on_scratch_thread(|| {
            self.enter()?;
            Ok(f())
        })
    }

    /// Moves the calling thread into the namespace for good. Threads and processes that it starts
    /// are born there. Needs CAP_SYS_ADMIN both here and over the namespace.
    pub(crate) fn enter(&self) -> io::Result<()> {
        setns(&self.file, CloneFlags::CLONE_NEWNET).map_err(|errno| {
            let advice = match errno {
                Errno::EPERM => {
                    ": it needs CAP_SYS_ADMIN over it (root, or the user namespace that owns it)"
                }
                Errno::EINVAL => ": it is a namespace of another kind, not a network namespace",
                _ => "",
            };
            io::Error::new(
                io::Error::from(errno).kind(),
                format!("can't enter {self}: {}{advice}", errno.desc()),
            )
        })
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl fmt::Display for Netns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "net:[{}]", self.inode)
    }
}

/// Runs `f` on a thread that ends with it. The thread is born in the caller's namespaces; what it
/// does to them is its own. A panic in `f` goes on in the caller.
pub(crate) fn on_scratch_thread<T: Send, E: Send + From<io::Error>>(
    f: impl FnOnce() -> Result<T, E> + Send,
) -> Result<T, E> {
    thread::scope(|scope| {
        let worker = thread::Builder::new()
            .name("netns".into())
            .spawn_scoped(scope, f)
            .map_err(E::from)?;
        worker.join().unwrap_or_else(|panic| resume_unwind(panic))
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    /// A fresh namespace for a test, or `None`, said aloud, where the user may not make one.
    pub(crate) fn scratch(test: &str) -> Option<Netns> {
        match Netns::create() {
            Ok(netns) => Some(netns),
            Err(error) => {
                println!("{test}: skipped, it needs a network namespace: {error}");
                None
            }
        }
    }

    #[test]
    fn a_fresh_namespace_is_apart_and_its_loopback_works() {
        let Some(netns) = scratch("a_fresh_namespace_is_apart_and_its_loopback_works") else {
            return;
        };
        let here = Netns::current().unwrap();
        assert_ne!(netns.inode(), here.inode());

        let inside = netns.run(|| Netns::current().unwrap().inode()).unwrap();
        assert_eq!(inside, netns.inode());
        assert_eq!(
            Netns::current().unwrap().inode(),
            here.inode(),
            "the caller has not moved"
        );

        // A socket stays in the namespace that it was opened in, whoever uses it later.
        let listener = netns
            .run(|| TcpListener::bind("127.0.0.1:0").unwrap())
            .unwrap();
        let address = listener.local_addr().unwrap();
        let _client = netns.run(|| TcpStream::connect(address).unwrap()).unwrap();
        assert!(listener.accept().is_ok());
    }

    #[test]
    fn a_scratch_thread_carries_a_panic_to_its_caller() {
        let Some(netns) = scratch("a_scratch_thread_carries_a_panic_to_its_caller") else {
            return;
        };
        let caught = std::panic::catch_unwind(|| netns.run(|| panic!("from inside")));
        assert!(caught.is_err());
    }

    #[test]
    fn what_is_no_namespace_is_refused_with_a_reason() {
        let not_one = Netns::open(Path::new("/proc/self/status")).unwrap_err();
        assert_eq!(not_one.kind(), io::ErrorKind::InvalidInput);
        assert!(
            not_one.to_string().contains("/proc/self/status"),
            "{not_one}"
        );

        // PIDs end at 4194304 (PID_MAX_LIMIT).
        let nobody = Netns::of_pid(4_200_000).unwrap_err();
        assert_eq!(nobody.to_string(), "there is no process 4200000");

        // A namespace file, but of another kind: found out on entering.
        let mount = Netns::open(Path::new("/proc/self/ns/uts")).unwrap();
        let refused = mount.run(|| ()).unwrap_err();
        assert!(
            refused.to_string().contains("another kind")
                || refused.kind() == io::ErrorKind::PermissionDenied,
            "{refused}"
        );
    }

    #[test]
    fn a_process_is_in_the_namespace_of_its_thread() {
        let me = Netns::of_pid(std::process::id()).unwrap();
        assert_eq!(me.inode(), Netns::current().unwrap().inode());
        assert_eq!(me.to_string(), format!("net:[{}]", me.inode()));
    }
}
