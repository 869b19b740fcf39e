//! Programs of the host that answer questions for names over Unix sockets, which belong to no
//! network namespace: they are hidden from containers.

use std::fs::{self, File};
use std::io;
use std::mem::MaybeUninit;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::thread;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use rustix::fs::inotify::{CreateFlags, Reader, WatchFlags, add_watch, init};

/// Where they listen: nscd, which libc asks first of all, systemd-resolved and Avahi.
const SERVICES: [&str; 4] = [
    "/var/run/nscd",
    "/run/nscd",
    "/run/systemd/resolve",
    "/run/avahi-daemon",
];

/// Where directories of services are made.
const PLACES: [&str; 2] = ["/run", "/run/systemd"];

/// Covers those that are there with `empty`, a directory, in the mount namespace of the calling
/// thread.
///
/// # Errors
/// `empty` is not there.
pub(super) fn cover(empty: &Path) -> io::Result<()> {
    let cover = identity(empty)?;
    for service in SERVICES {
        let is_dir = Path::new(service).is_dir();
        if is_dir && identity(Path::new(service)).is_ok_and(|it| it != cover) {
            let nothing: Option<&str> = None;
            let flags = MsFlags::MS_BIND | MsFlags::MS_REC;
            let _ = mount(Some(empty), service, nothing, flags, nothing);
        }
    }
    Ok(())
}

/// Makes a directory for nscd, which may be started later: libc asks there whatever nsswitch.conf
/// says.
pub(super) fn expect() {
    let _ = fs::create_dir_all(SERVICES[0]);
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = fs::metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}

/// The mounts of a process that is being started.
pub(super) struct Mounts(File);

impl Mounts {
    /// None of a process that has the caller's own.
    pub(super) fn of(pid: u32) -> Option<Mounts> {
        let file = File::open(format!("/proc/{pid}/ns/mnt")).ok()?;
        let own = fs::metadata("/proc/self/ns/mnt").ok()?;
        let is_own = file.metadata().ok()?.ino() == own.ino();
        (!is_own).then_some(Mounts(file))
    }

    /// Keeps the services covered with `empty` as long as the calling process lives.
    ///
    /// A service that ends takes its directory along and makes another one when it is started
    /// again (RuntimeDirectory= of systemd.exec(5)), and a mount over a directory goes with it
    /// (rmdir(2), since Linux 4.2). Between that and the cover over the next one pass less than the
    /// milliseconds that a service needs to make its socket.
    pub(super) fn keep_covered(self, empty: &'static Path) {
        let watch = move || -> io::Result<()> {
            // A thread may enter other mounts only if no other one shares its directories.
            unshare(CloneFlags::CLONE_FS)?;
            setns(&self.0, CloneFlags::CLONE_NEWNS)?;
            drop(self);
            let events = init(CreateFlags::CLOEXEC)?;
            let wanted = WatchFlags::CREATE | WatchFlags::MOVED_TO | WatchFlags::ONLYDIR;
            let mut buffer = [MaybeUninit::uninit(); 4096];
            let mut reader = Reader::new(&events, &mut buffer);
            loop {
                for place in PLACES {
                    // One that comes later is an event of the one that it comes in.
                    let _ = add_watch(&events, place, wanted);
                }
                cover(empty)?;
                match reader.next() {
                    Ok(_) | Err(rustix::io::Errno::INTR) => {}
                    Err(error) => return Err(error.into()),
                }
            }
        };
        let watcher = thread::Builder::new().name("services".to_owned());
        // Without it they are hidden as long as their directories stay.
        let _ = watcher.spawn(watch);
    }
}
