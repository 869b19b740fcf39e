//! One daemon a state directory, one a socket, one a network namespace.

use std::fs::{self, File, Permissions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::fd::AsRawFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use anyhow::{Context, bail};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::signal::kill;
use nix::sys::socket::sockopt::PeerCredentials;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrLike, UnixAddr, UnixCredentials, connect,
    getsockopt, socket,
};
use nix::unistd::{Gid, Group, Pid, chown, geteuid};

/// Abstract socket names belong to a network namespace, and the kernel frees them with the process.
const NAMESPACE_NAME: &[u8] = b"pontoon";

/// Whose members may use the API's socket, where there is such a group.
const GROUP: &str = "pontoon";

/// The state directory's, and that of everything in it: no other user may even read, for a lock is
/// held as well by a descriptor that only reads.
const PRIVATE_DIRECTORY: u32 = 0o700;
const PRIVATE_FILE: u32 = 0o600;

/// How often the holder of the namespace's name is looked at before the daemon goes on without it.
const LOOKS: usize = 10;
const BETWEEN_LOOKS: Duration = Duration::from_millis(50);

/// Held while the daemon lives; dropping it lets another one start.
pub(super) struct Locks {
    _state: File,
    namespace: Option<UnixListener>,
}

impl Locks {
    /// Hangs up on all who connect to the namespace's name, so that nobody can fill its queue and
    /// keep another daemon from seeing whose it is. Must be called in a runtime.
    pub(super) fn hang_up(&mut self) {
        let listener = self.namespace.take().and_then(|listener| {
            listener.set_nonblocking(true).ok()?;
            tokio::net::UnixListener::from_std(listener).ok()
        });
        if let Some(listener) = listener {
            tokio::spawn(async move {
                loop {
                    if listener.accept().await.is_err() {
                        tokio::time::sleep(BETWEEN_LOOKS).await;
                    }
                }
            });
        }
    }
}

/// Makes the state directory if need be, and claims it and the network namespace.
pub(super) fn claim(state_dir: &Path) -> anyhow::Result<Locks> {
    make_private(state_dir)?;
    Ok(Locks {
        _state: claim_directory(state_dir)?,
        namespace: claim_namespace(NAMESPACE_NAME)?,
    })
}

/// Makes the directory if need be, and takes it and what is in it from other users.
fn make_private(directory: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(directory)
        .with_context(|| format!("can't create the state directory {}", directory.display()))?;
    let metadata = fs::metadata(directory)?;
    let owner = metadata.uid();
    if owner != geteuid().as_raw() && owner != 0 {
        bail!(
            "the state directory {} is user {owner}'s: give it to the daemon's user (chown), or \
             choose another --state-dir",
            directory.display()
        );
    }
    set_mode(directory, PRIVATE_DIRECTORY)?;
    let store = directory.join("pontoon.redb");
    if fs::symlink_metadata(&store).is_ok_and(|it| it.is_file()) {
        set_mode(&store, PRIVATE_FILE)?;
    }
    Ok(())
}

fn set_mode(path: &Path, mode: u32) -> anyhow::Result<()> {
    // Without a change there is nothing that a read-only file system or another owner could refuse.
    if fs::metadata(path).is_ok_and(|it| it.permissions().mode() & 0o777 == mode) {
        return Ok(());
    }
    fs::set_permissions(path, Permissions::from_mode(mode))
        .with_context(|| format!("can't set the mode of {} to {mode:o}", path.display()))
}

fn claim_directory(state_dir: &Path) -> anyhow::Result<File> {
    let path = state_dir.join("lock");
    let mut file = open_lock(&path)?;
    let mode = file.metadata()?.permissions().mode();
    let (mut locked, mut holder) = try_lock(&mut file, &path)?;
    if !locked && mode & 0o077 != 0 && !holder.is_some_and(is_alive) {
        // An earlier pontoon let everyone read it, and so hold it. Nobody but a daemon can hold a
        // new one.
        tracing::warn!("{} is held by no daemon, and made anew", path.display());
        fs::remove_file(&path).with_context(|| format!("can't remove {}", path.display()))?;
        file = open_lock(&path)?;
        (locked, holder) = try_lock(&mut file, &path)?;
    }
    if !locked {
        let holder = holder.map_or_else(String::new, |pid| format!(" (process {pid})"));
        bail!(
            "another pontoon daemon{holder} uses the state directory {}: stop it, or choose \
             another --state-dir",
            state_dir.display()
        );
    }
    file.set_permissions(Permissions::from_mode(PRIVATE_FILE))?;
    // For the message of the next one only; a full disk is no reason not to start.
    let _ = file
        .set_len(0)
        .and_then(|()| file.rewind())
        .and_then(|()| writeln!(file, "{}", std::process::id()));
    Ok(file)
}

fn open_lock(path: &Path) -> anyhow::Result<File> {
    File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(PRIVATE_FILE)
        .custom_flags(OFlag::O_NOFOLLOW.bits())
        .open(path)
        .with_context(|| format!("can't open {}", path.display()))
}

/// Whether it could be locked, and whose it is otherwise, as far as it says.
fn try_lock(file: &mut File, path: &Path) -> anyhow::Result<(bool, Option<i32>)> {
    match file.try_lock() {
        Ok(()) => Ok((true, None)),
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            let _ = file.read_to_string(&mut holder);
            Ok((false, holder.trim().parse().ok()))
        }
        Err(TryLockError::Error(error)) => {
            Err(error).with_context(|| format!("can't lock {}", path.display()))
        }
    }
}

fn is_alive(pid: i32) -> bool {
    pid > 0 && kill(Pid::from_raw(pid), None) != Err(Errno::ESRCH)
}

/// Two daemons in one namespace would fight for `pontoon0` and remove each other's interfaces.
///
/// Anyone may take an abstract name, listen there or not, and leave a connection waiting. One who
/// could not run a daemon here must not keep us from it.
fn claim_namespace(name: &[u8]) -> anyhow::Result<Option<UnixListener>> {
    let address = SocketAddr::from_abstract_name(name)?;
    let shown = String::from_utf8_lossy(name);
    for _ in 0..LOOKS {
        match UnixListener::bind_addr(&address) {
            Ok(listener) => return Ok(Some(listener)),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
            Err(error) => {
                return Err(error)
                    .with_context(|| format!("can't bind the abstract socket @{shown}"));
            }
        }
        let Some(holder) = holder_of(name) else {
            // Not listening yet, or any more, or too many wait there.
            thread::sleep(BETWEEN_LOOKS);
            continue;
        };
        if holder.uid() == 0 || holder.uid() == geteuid().as_raw() {
            bail!(
                "another pontoon daemon (process {}) serves this network namespace: stop it, or \
                 start this one in a namespace of its own (ip netns exec)",
                holder.pid()
            )
        }
        tracing::warn!(
            "process {} of user {} holds the abstract socket @{shown} and is no daemon; going on \
             without",
            holder.pid(),
            holder.uid()
        );
        return Ok(None);
    }
    tracing::warn!(
        "somebody holds the abstract socket @{shown} and does not answer there, as a daemon would; \
         going on without"
    );
    Ok(None)
}

/// Who listens at an abstract name; none if that can't be told without waiting.
fn holder_of(name: &[u8]) -> Option<UnixCredentials> {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let stream = socket(AddressFamily::Unix, SockType::Stream, flags, None).ok()?;
    connect(stream.as_raw_fd(), &UnixAddr::new_abstract(name).ok()?).ok()?;
    getsockopt(&stream, PeerCredentials).ok()
}

/// The group of the API's socket: `wanted`, which must exist, or [`GROUP`] if it does.
pub(super) fn socket_group(wanted: Option<&str>) -> anyhow::Result<Option<Gid>> {
    let group = Group::from_name(wanted.unwrap_or(GROUP));
    match (group, wanted) {
        (Ok(Some(group)), _) => Ok(Some(group.gid)),
        (_, None) => Ok(None),
        (Ok(None), Some(name)) => {
            bail!("there is no group {name}: make it (groupadd {name}), or choose another --group")
        }
        (Err(error), Some(name)) => {
            Err(error).with_context(|| format!("can't look up the group {name}"))
        }
    }
}

/// The API's socket, for root and its group alone. It is removed when this is dropped.
pub(super) struct ApiSocket {
    path: PathBuf,
}

impl Drop for ApiSocket {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// Binds `path`, in place of the socket that a dead daemon left there.
pub(super) fn bind_socket(
    path: &Path,
    group: Option<Gid>,
) -> anyhow::Result<(UnixListener, ApiSocket)> {
    if let Some(directory) = path.parent() {
        make_public(directory)?;
    }
    match try_connect(&UnixAddr::new(path)?) {
        // Too many wait there, for somebody.
        Ok(()) | Err(Errno::EAGAIN) => bail!(
            "another pontoon daemon answers on {}: stop it, or choose another --socket or --run-dir",
            path.display()
        ),
        // A socket that nobody listens on. Linux says the same of a file that is no socket; such a
        // one is not ours to remove, and bind says that it is in the way.
        Err(Errno::ECONNREFUSED) if is_socket(path) => {
            fs::remove_file(path)
                .with_context(|| format!("can't remove the stale socket {}", path.display()))?;
        }
        Err(_) => {}
    }
    let listener = UnixListener::bind(path)
        .with_context(|| format!("can't bind the API socket {}", path.display()))?;
    let socket = ApiSocket {
        path: path.to_owned(),
    };
    if let Some(group) = group {
        chown(path, None, Some(group))
            .with_context(|| format!("can't give {} to group {group}", path.display()))?;
    }
    fs::set_permissions(path, Permissions::from_mode(0o660))
        .with_context(|| format!("can't set the mode of {}", path.display()))?;
    listener.set_nonblocking(true)?;
    Ok((listener, socket))
}

/// Makes the run directory if need be: others reach the socket in it, and nobody else may replace
/// it.
fn make_public(directory: &Path) -> anyhow::Result<()> {
    let ancestors = directory
        .ancestors()
        .filter(|it| !it.as_os_str().is_empty());
    let missing: Vec<&Path> = ancestors.take_while(|it| !it.exists()).collect();
    fs::create_dir_all(directory)
        .with_context(|| format!("can't create the run directory {}", directory.display()))?;
    // The umask is for what is private.
    for made in missing {
        set_mode(made, 0o755)?;
    }
    let metadata = fs::metadata(directory)?;
    let mode = metadata.permissions().mode();
    if mode & 0o1002 == 0o002 {
        bail!(
            "everybody may replace the socket in {}: take the right to write from others (chmod \
             o-w), or choose another --socket or --run-dir",
            directory.display()
        );
    }
    Ok(())
}

/// A connection that is not waited for.
fn try_connect(address: &dyn SockaddrLike) -> nix::Result<()> {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let stream = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    connect(stream.as_raw_fd(), address)
}

fn is_socket(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_directory_has_one_daemon() {
        let dir = tempfile::tempdir().unwrap();
        let first = claim_directory(dir.path()).unwrap();
        let refusal = claim_directory(dir.path()).unwrap_err().to_string();
        let me = format!("(process {})", std::process::id());
        assert!(
            refusal.contains(&me) && refusal.contains("--state-dir"),
            "{refusal}"
        );
        drop(first);
        claim_directory(dir.path()).unwrap();
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn other_users_see_nothing_of_the_state() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("state");
        fs::create_dir(&state).unwrap();
        for name in ["lock", "pontoon.redb"] {
            fs::write(state.join(name), "").unwrap();
            fs::set_permissions(state.join(name), Permissions::from_mode(0o644)).unwrap();
        }
        fs::set_permissions(&state, Permissions::from_mode(0o777)).unwrap();
        make_private(&state).unwrap();
        let _lock = claim_directory(&state).unwrap();
        assert_eq!(mode(&state), 0o700);
        assert_eq!(mode(&state.join("lock")), 0o600);
        assert_eq!(mode(&state.join("pontoon.redb")), 0o600);
    }

    #[test]
    fn a_lock_that_all_could_read_is_no_ones_for_good() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        // A process that has ended.
        fs::write(&path, "4194305\n").unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        let stranger = File::open(&path).unwrap();
        stranger.try_lock().unwrap();
        let _lock = claim_directory(dir.path()).unwrap();
        assert_eq!(mode(&path), 0o600);
        assert!(
            claim_directory(dir.path()).is_err(),
            "this one is a daemon's"
        );
    }

    #[test]
    fn a_lock_that_leads_elsewhere_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("target");
        std::os::unix::fs::symlink(&target, dir.path().join("lock")).unwrap();
        assert!(claim_directory(dir.path()).is_err());
        assert!(!target.exists());
    }

    #[test]
    fn a_socket_is_not_put_where_everybody_may_replace_it() {
        let dir = tempfile::tempdir().unwrap();
        let run = dir.path().join("run");
        fs::create_dir(&run).unwrap();
        fs::set_permissions(&run, Permissions::from_mode(0o777)).unwrap();
        assert!(bind_socket(&run.join("pontoon.sock"), None).is_err());
        fs::set_permissions(&run, Permissions::from_mode(0o1777)).unwrap();
        bind_socket(&run.join("pontoon.sock"), None).unwrap();
    }

    /// Whoever binds it and does not listen, or lets its queue fill.
    #[test]
    fn an_abstract_name_neither_hangs_nor_stops_a_daemon() {
        let name = format!("pontoon-test-{}", std::process::id());
        let address = UnixAddr::new_abstract(name.as_bytes()).unwrap();
        let flags = SockFlag::SOCK_CLOEXEC;
        let taken = socket(AddressFamily::Unix, SockType::Stream, flags, None).unwrap();
        nix::sys::socket::bind(taken.as_raw_fd(), &address).unwrap();
        assert!(claim_namespace(name.as_bytes()).unwrap().is_none());
        let backlog = nix::sys::socket::Backlog::new(0).unwrap();
        nix::sys::socket::listen(&taken, backlog).unwrap();
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let waiting: Vec<_> = std::iter::from_fn(|| {
            let one = socket(AddressFamily::Unix, SockType::Stream, flags, None).unwrap();
            connect(one.as_raw_fd(), &address).ok().map(|()| one)
        })
        .collect();
        assert!(!waiting.is_empty());
        assert!(claim_namespace(name.as_bytes()).unwrap().is_none());
        drop((taken, waiting));
        assert!(claim_namespace(name.as_bytes()).unwrap().is_some());
    }

    #[test]
    fn a_daemon_of_the_same_user_is_found() {
        let name = format!("pontoon-test-{}-daemon", std::process::id());
        let _first = claim_namespace(name.as_bytes()).unwrap();
        assert!(claim_namespace(name.as_bytes()).is_err());
    }

    #[test]
    fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run/pontoon.sock");
        let (listener, socket) = bind_socket(&path, None).unwrap();
        assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o660, 0o755));
        assert!(bind_socket(&path, None).is_err());
        drop(listener);
        // As after kill -9: the file is there and nobody listens.
        std::mem::forget(socket);
        let (_listener, socket) = bind_socket(&path, None).unwrap();
        drop(socket);
        assert!(!path.exists());
    }

    #[test]
    fn a_file_in_the_way_of_the_socket_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("precious");
        fs::write(&path, "data").unwrap();
        assert!(bind_socket(&path, None).is_err());
        assert_eq!(fs::read(&path).unwrap(), b"data");
    }
}
