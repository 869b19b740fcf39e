//! One daemon a state directory, one a socket, one a network namespace.

use std::fs::{self, File, Permissions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, bail};
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use nix::unistd::{Gid, Group, chown, geteuid};

/// Abstract socket names belong to a network namespace, and the kernel frees them with the process.
const NAMESPACE_NAME: &[u8] = b"pontoon";

/// Whose members may use the API's socket, where there is such a group.
const GROUP: &str = "pontoon";

/// Held while the daemon lives; dropping it lets another one start.
pub(super) struct Locks {
    _state: File,
    _namespace: Option<UnixListener>,
}

/// Makes the state directory if need be, and claims it and the network namespace.
pub(super) fn claim(state_dir: &Path) -> anyhow::Result<Locks> {
    fs::create_dir_all(state_dir)
        .with_context(|| format!("can't create the state directory {}", state_dir.display()))?;
    Ok(Locks {
        _state: claim_directory(state_dir)?,
        _namespace: claim_namespace()?,
    })
}

fn claim_directory(state_dir: &Path) -> anyhow::Result<File> {
    let path = state_dir.join("lock");
    let mut file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .with_context(|| format!("can't open {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => {
            // For the message of the next one only; a full disk is no reason not to start.
            let _ = file
                .set_len(0)
                .and_then(|()| file.rewind())
                .and_then(|()| writeln!(file, "{}", std::process::id()));
            Ok(file)
        }
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            let _ = file.read_to_string(&mut holder);
            let holder = match holder.trim() {
                "" => String::new(),
                pid => format!(" (process {pid})"),
            };
            bail!(
                "another pontoon daemon{holder} uses the state directory {}: stop it, or choose \
                 another --state-dir",
                state_dir.display()
            )
        }
        Err(TryLockError::Error(error)) => {
            Err(error).with_context(|| format!("can't lock {}", path.display()))
        }
    }
}

/// Two daemons in one namespace would fight for `pontoon0` and remove each other's interfaces.
fn claim_namespace() -> anyhow::Result<Option<UnixListener>> {
    let name = SocketAddr::from_abstract_name(NAMESPACE_NAME)?;
    match UnixListener::bind_addr(&name) {
        Ok(listener) => Ok(Some(listener)),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            let credentials = UnixStream::connect_addr(&name)
                .ok()
                .and_then(|stream| getsockopt(&stream, PeerCredentials).ok())
                .ok_or_else(|| {
                    anyhow!("another pontoon daemon is about to start or stop here: try again")
                })?;
            // Anyone may take an abstract name. One who could not run a daemon here must not keep
            // us from it.
            if credentials.uid() != 0 && credentials.uid() != geteuid().as_raw() {
                tracing::warn!(
                    "process {} of user {} holds the abstract socket @pontoon and is no daemon; \
                     going on without",
                    credentials.pid(),
                    credentials.uid()
                );
                return Ok(None);
            }
            bail!(
                "another pontoon daemon (process {}) serves this network namespace: stop it, or \
                 start this one in a namespace of its own (ip netns exec)",
                credentials.pid()
            )
        }
        Err(error) => Err(error).context("can't bind the abstract socket @pontoon"),
    }
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
        fs::create_dir_all(directory)
            .with_context(|| format!("can't create the run directory {}", directory.display()))?;
    }
    match UnixStream::connect(path) {
        Ok(_) => bail!(
            "another pontoon daemon answers on {}: stop it, or choose another --socket or --run-dir",
            path.display()
        ),
        // A socket that nobody listens on. Linux says the same of a file that is no socket; such a
        // one is not ours to remove, and bind says that it is in the way.
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused && is_socket(path) => {
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

    #[test]
    fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run/pontoon.sock");
        let (listener, socket) = bind_socket(&path, None).unwrap();
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o660
        );
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
